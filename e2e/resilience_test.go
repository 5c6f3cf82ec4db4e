package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/memrecon/memrecon/report"
)

// The files of this package are run in the order of their names: the reports of a quiet node first, then what disturbs it.

// onNode is the agent's newest report, asked for from the node: without the API server.
func onNode(t *testing.T, address string) *report.Document {
	t.Helper()
	return decode(t, lab(t, "node", "wget -q -O - http://"+address+":19110/api/v1/report"))
}

// missing is the error of a source, by a part of its URL.
func missing(d *report.Document, source string) *report.Error {
	for i := range d.Errors {
		if strings.Contains(d.Errors[i].Source, source) {
			return &d.Errors[i]
		}
	}
	return nil
}

// complete says what a report lacks, "" where nothing.
func complete(d *report.Document) string {
	if len(d.Errors) > 0 {
		return fmt.Sprintf("errors: %+v", d.Errors)
	}
	for _, f := range d.Figures {
		if f.ID == "node-working-set" && f.Kubelet != nil {
			return ""
		}
	}
	return "the kubelet's figures are missing"
}

// unharmed fails where the agent did not live through the test: it was started again, or has another pod.
func unharmed(t *testing.T) {
	t.Helper()
	before := agentPod(t)
	t.Cleanup(func() {
		after := agentPod(t)
		if after.Metadata.UID != before.Metadata.UID || after.Status.ContainerStatuses[0].RestartCount != before.Status.ContainerStatuses[0].RestartCount {
			t.Errorf("the agent's pod was %+v and is %+v", before, after)
		}
	})
}

// stop stops a part of the node or of the control plane, until it is started, or the test is over.
func stop(t *testing.T, part string) {
	t.Helper()
	t.Cleanup(func() { lab(t, "start", part) })
	lab(t, "stop", part)
}

// A kubelet that is stopped: the report says so and what is missing for it, keeps the pods' names, and is whole again after.
func TestKubeletStops(t *testing.T) {
	needCluster(t)
	unharmed(t)
	address := agentPod(t).Status.PodIP
	stop(t, "kubelet")
	var d *report.Document
	eventually(t, time.Minute, "the report misses the kubelet", func() string {
		d = onNode(t, address)
		// At first an answer may have broken off.
		if e := missing(d, "/stats/summary"); e == nil || !strings.Contains(e.Hint, "figures are missing") || !strings.Contains(e.Hint, "check that the kubelet runs") {
			return fmt.Sprintf("errors: %+v", d.Errors)
		}
		return ""
	})
	t.Logf("the report says: %+v", *missing(d, "/stats/summary"))
	named := false
	for _, r := range d.Sheet.Rows {
		named = named || r.Name == "default/guaranteed/app"
	}
	if !named {
		t.Error("the pods have lost their names")
	}
	lab(t, "start", "kubelet")
	eventually(t, 3*time.Minute, "the report is whole again", func() string { return complete(onNode(t, address)) })
}

// An API server that is away for a minute: the kubelet's and the kernel's figures go on, the report says how old the API server's
// word is, and is whole again after.
func TestAPIServerStops(t *testing.T) {
	needCluster(t)
	unharmed(t)
	address := agentPod(t).Status.PodIP
	stop(t, "apiserver")
	stopped := time.Now()
	eventually(t, time.Minute, "the report misses the API server", func() string {
		if d := onNode(t, address); missing(d, "/api/v1/nodes") == nil {
			return fmt.Sprintf("errors: %+v", d.Errors)
		}
		return ""
	})
	time.Sleep(time.Until(stopped.Add(time.Minute)))
	d := onNode(t, address)
	e := missing(d, "/api/v1/nodes")
	if e == nil || !strings.Contains(e.Hint, "missing, or old") {
		t.Fatalf("after a minute the error is %+v", e)
	}
	t.Logf("the report says: %+v", d.Errors)
	text := lab(t, "node", "wget -q -O - 'http://"+address+":19110/api/v1/report?format=text'")
	if !strings.Contains(strings.Join(strings.Fields(text), " "), "as the API server said") {
		t.Errorf("the report does not say how old the API server's word is:\n%s", text)
	}
	if d.Time.Before(stopped.Add(30 * time.Second)) {
		t.Errorf("the API server was stopped at %s, and the report a minute later is of %s", stopped, d.Time)
	}
	lab(t, "start", "apiserver")
	eventually(t, 3*time.Minute, "the report is whole again", func() string { return complete(onNode(t, address)) })
}

// The rights taken away: the report names each that is missing, and is whole again once they are given back.
func TestRightsAreTakenAway(t *testing.T) {
	needCluster(t)
	unharmed(t)
	give := func() { kubectl(t, "apply", "--kustomize", "../manifests/base") }
	t.Cleanup(give)
	kubectl(t, "delete", "clusterrolebinding/memrecon")
	eventually(t, 2*time.Minute, "the report misses each right", func() string {
		d := latest(t)
		for source, right := range map[string]string{
			"/stats/summary": "nodes/stats", "/metrics/resource": "nodes/metrics", "/pods": "nodes/pods", "/configz": "nodes/configz",
		} {
			if e := missing(d, source); e == nil || !strings.Contains(e.Hint, "grant get on "+right) {
				return fmt.Sprintf("%s: %+v", source, d.Errors)
			}
		}
		return ""
	})
	give()
	eventually(t, 2*time.Minute, "the report is whole again", func() string { return complete(latest(t)) })
}

// Pods that come and go each second for a minute: no report says that anything is wrong, and the agent stays as large as it was.
func TestPodsComeAndGo(t *testing.T) {
	needCluster(t)
	unharmed(t)
	t.Cleanup(func() { kubectl(t, "delete", "pods", "--selector=e2e=short", "--grace-period=0", "--force") }) // also where it ends early
	before := charged(t)
	// Longer than it is meant to take where kubectl and the node are slow.
	begin := time.Now()
	count := 0
	for ; time.Since(begin) < time.Minute; count++ {
		name := fmt.Sprintf("short-%d", count)
		kubectl(t, "run", name, "--image=localhost/workload", "--image-pull-policy=Never", "--restart=Never", "--labels=e2e=short")
		kubectl(t, "delete", "pod/"+name, "--wait=false", "--grace-period=1")
		time.Sleep(max(0, time.Until(begin.Add(time.Duration(count+1)*time.Second))))
	}
	eventually(t, 3*time.Minute, "the report is whole again", func() string {
		d := latest(t)
		for _, r := range d.Sheet.Rows {
			if strings.Contains(r.Name, "default/short-") {
				return r.Name + " is still there"
			}
		}
		return complete(d)
	})
	after := charged(t)
	t.Logf("%d pods; the agent's cgroup was charged %d bytes before and %d after", count, before, after)
	if after > before+16<<20 {
		t.Errorf("the agent grew from %d to %d bytes", before, after)
	}
}

// charged is what the agent's own cgroup is charged with.
func charged(t *testing.T) int64 {
	t.Helper()
	for _, r := range latest(t).Sheet.Rows {
		if r.Kubernetes != nil && r.Kubernetes.Namespace == namespace && r.Kubernetes.Container == "memrecon" {
			return r.UsageBytes
		}
	}
	t.Fatal("the agent has no row")
	return 0
}
