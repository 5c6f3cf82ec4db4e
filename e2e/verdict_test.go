package e2e

import (
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/memrecon/memrecon/report"
	"github.com/memrecon/memrecon/verdict"
)

// Pods that die of their own limits, and what the agent says of them. It has the base's rights: not the kernel's log.
func TestVerdicts(t *testing.T) {
	needCluster(t)
	unharmed(t)
	for _, test := range []struct {
		name     string
		start    func(t *testing.T)
		verdicts []verdict.Verdict
		effects  []verdict.Effect
	}{
		// On v1 the kernel does not count whose limit was hit, and a container that grows so fast may be gone before it is seen to be
		// full: then it is oom-killed. On v2 runtimes have a container killed as a whole (memory.oom.group; Kubernetes 1.28). The kubelet
		// gives a pod its container's limit, and the sandbox counts too: so the pod's is hit first, or the container's.
		{"leak", leakOfTheDocs, []verdict.Verdict{verdict.PodLimit, verdict.ContainerLimit, verdict.OOMKilled}, []verdict.Effect{verdict.Ended, verdict.GroupEnded}},
		{"own-cap", func(t *testing.T) {
			startPod(t, "own-cap", "memrecon", limits("100Mi"), "leak", "--rate=50Mi/s", "--max=90Mi", "--die-at=80Mi", "--die-with=SIGABRT")
		}, []verdict.Verdict{verdict.RuntimeCap}, []verdict.Effect{verdict.Ended}},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.start(t)
			var in report.Incident
			eventually(t, 4*time.Minute, "an incident", func() string {
				found := incidents(t, "default/"+test.name)
				if len(found) == 0 {
					return "there is none: " + kubectl(t, "get", "pod", test.name, "--namespace=default", "--output=jsonpath={.status}")
				}
				in = found[0]
				if !slices.Contains(test.effects, in.Effect) {
					return fmt.Sprintf("its effect is %q, want one of %q", in.Effect, test.effects)
				}
				return ""
			})
			t.Logf("%s (%s, %s): %s\n%+v", in.Verdict, in.Confidence, in.Effect, in.Sentence, in.Evidence)
			if !slices.Contains(test.verdicts, in.Verdict) {
				t.Errorf("the verdict is %s, want one of %v", in.Verdict, test.verdicts)
			}
			eventually(t, time.Minute, "the agent's log", func() string { // a pod's name may be known some seconds later
				log := kubectl(t, "--namespace="+namespace, "logs", "daemonset/memrecon")
				for line := range strings.Lines(log) {
					if strings.Contains(line, "default/"+test.name) && strings.Contains(line, "verdict="+string(in.Verdict)) {
						return ""
					}
				}
				return "it does not tell: " + log
			})
		})
	}
}

// leakOfTheDocs has memrecon leak run in a pod named leak by the command of docs/leak.md.
func leakOfTheDocs(t *testing.T) {
	t.Helper()
	docs, err := os.ReadFile("../docs/leak.md")
	if err != nil {
		t.Fatal(err)
	}
	command := regexp.MustCompile(`(?m)^    kubectl run leak .*\n(?:    .*\n)*`).Find(docs)
	if command == nil {
		t.Fatal("docs/leak.md has no kubectl run")
	}
	deleteAfter(t, "leak")
	if out, err := run("sh", "-c", string(command)); err != nil {
		t.Fatal(err, out)
	}
}

// Pods that together exceed what is allocatable: slowly, and the kubelet evicts one; faster than the kubelet looks, and the kernel kills at
// the limit of all pods.
func TestPodsExceedAllocatable(t *testing.T) {
	needCluster(t)
	unharmed(t)
	t.Run("slowly", func(t *testing.T) {
		in := exceedAllocatable(t, "slow", 300, func() {}, "--rate=8Mi/s", "--max=600Mi")
		if in.Verdict != verdict.Evicted {
			t.Errorf("the verdict is %s, want %s", in.Verdict, verdict.Evicted)
		}
	})
	t.Run("faster than the kubelet", func(t *testing.T) {
		// It looks every 10 s, which an emulated machine can't outrun for certain: so it does not look at all.
		// It runs again before the pods are deleted, since cleanups go backwards.
		in := exceedAllocatable(t, "fast", 620, func() { stop(t, "kubelet") }, "--block=350Mi", "--every=20s", "--max=1050Mi")
		// On v1 no counter says whose limit it was.
		if in.Verdict != verdict.KubepodsLimit && !(in.Verdict == verdict.OOMKilled && slices.Contains(in.Missing, verdict.MissingCounters)) {
			t.Errorf("the verdict is %s, want %s", in.Verdict, verdict.KubepodsLimit)
		}
	})
}

// exceedAllocatable runs a pod that leaves all pods some MiB, and then one that leaks; once that has begun, before it has taken more than
// the kubelet lets it, it does something else. It returns the incident of the one that dies.
func exceedAllocatable(t *testing.T, name string, leftMiB int64, meanwhile func(), leak ...string) report.Incident {
	t.Helper()
	left := leftMiB << 20
	pods := []string{name + "-1", name + "-2"}
	startPod(t, pods[0], "workload", requests("10Mi"), fmt.Sprintf("-anon=%d", (figure(t, "allocatable-available")-left)>>20))
	eventually(t, time.Minute, "the first pod's memory", func() string {
		if available := figure(t, "allocatable-available"); available > left+20<<20 {
			return fmt.Sprintf("%d bytes are available, want %d", available, left)
		}
		return ""
	})
	startPod(t, pods[1], "memrecon", requests("10Mi"), append([]string{"leak", "--floor=0", "--max-pressure=0"}, leak...)...)
	kubectl(t, "wait", "--for=condition=Ready", "--namespace=default", "pod/"+pods[1], "--timeout=2m")
	meanwhile()
	var in report.Incident
	eventually(t, 4*time.Minute, "an incident", func() string {
		for _, pod := range pods {
			if found := incidents(t, "default/"+pod); len(found) > 0 {
				in = found[0]
				return ""
			}
		}
		return "there is none: " + kubectl(t, append([]string{"get", "pods", "--namespace=default", "--output=wide"}, pods...)...)
	})
	t.Logf("%s (%s): %s\n%+v", in.Verdict, in.Confidence, in.Sentence, in.Evidence)
	return in
}

// figure is a figure of the node in the agent's newest report.
func figure(t *testing.T, id string) int64 {
	t.Helper()
	d := latest(t)
	i := slices.IndexFunc(d.Figures, func(f report.Figure) bool { return f.ID == id })
	if i < 0 {
		t.Fatalf("the report has no %s", id)
	}
	return d.Figures[i].Bytes
}

// limits and requests are a container's resources.
func limits(memory string) string   { return fmt.Sprintf(`{"limits": {"memory": %q}}`, memory) }
func requests(memory string) string { return fmt.Sprintf(`{"requests": {"memory": %q}}`, memory) }

// startPod runs an image of the lab's in a pod, with the resources given as JSON. The pod is gone when the test is over.
func startPod(t *testing.T, name, image, resources string, args ...string) {
	t.Helper()
	list, err := json.Marshal(args)
	if err != nil {
		t.Fatal(err)
	}
	deleteAfter(t, name)
	apply(t, fmt.Sprintf(`{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": %q, "namespace": "default"}, "spec": {
		"restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "containers": [{"name": "main", "image": "localhost/%s", "imagePullPolicy": "Never",
		"resources": %s, "args": %s}]}}`, name, image, resources, list))
}

func deleteAfter(t *testing.T, pod string) {
	t.Helper()
	t.Cleanup(func() { kubectl(t, "delete", "pod", pod, "--namespace=default", "--ignore-not-found") })
}

// apply has the API server make what a document says.
func apply(t *testing.T, document string) {
	t.Helper()
	if _, err := runWith(strings.NewReader(document), "kubectl", "apply", "--filename=-"); err != nil {
		t.Fatal(err)
	}
}

// incidents are those of a pod that the agent knows, or all where it is empty.
func incidents(t *testing.T, pod string) []report.Incident {
	t.Helper()
	text, err := agentPath(t, "/api/v1/incidents?since=10m&of="+url.QueryEscape(pod))
	if err != nil {
		t.Fatal(err)
	}
	var d report.IncidentsDocument
	if err := json.Unmarshal([]byte(text), &d); err != nil {
		t.Fatalf("%v in %.200q", err, text)
	}
	return d.Incidents
}
