package e2e

import (
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/memrecon/memrecon/report"
	"github.com/memrecon/memrecon/verdict"
)

// Pods that die for memory, each in another way, and what the agent says of them. It has the base's rights: not the kernel's log.
func TestVerdicts(t *testing.T) {
	needCluster(t)
	unharmed(t)
	for _, test := range []struct {
		name string
		// leak are the arguments of memrecon leak.
		leak, limit string
		verdicts    []verdict.Verdict
		effects     []verdict.Effect
	}{
		// On v1 the kernel does not count whose limit was hit, and a container that grows so fast may be gone before it is seen to be
		// full: then it is oom-killed. On v2 runtimes have a container killed as a whole (memory.oom.group; Kubernetes 1.28). The kubelet
		// gives a pod its container's limit, and the sandbox counts too: so the pod's is hit first, or the container's.
		{"over-limit", "--rate=50Mi/s --max=0", "100Mi", []verdict.Verdict{verdict.PodLimit, verdict.ContainerLimit, verdict.OOMKilled}, []verdict.Effect{verdict.Ended, verdict.GroupEnded}},
		{"own-cap", "--rate=50Mi/s --max=90Mi --die-at=80Mi --die-with=SIGABRT", "100Mi", []verdict.Verdict{verdict.RuntimeCap}, []verdict.Effect{verdict.Ended}},
		// Whoever is faster: the kernel at the limit of all pods, or the kubelet, which looks every 10 s.
		{"leak", "--rate=100Mi/s --max=0 --floor=0 --max-pressure=0 --i-mean-it", "",
			[]verdict.Verdict{verdict.KubepodsLimit, verdict.QoSLimit, verdict.NodeOOM, verdict.OOMKilled, verdict.Evicted}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			leakPod(t, test.name, test.limit, strings.Fields(test.leak)...)
			var in report.Incident
			eventually(t, 4*time.Minute, "an incident", func() string {
				found := incidents(t, "default/"+test.name)
				if len(found) == 0 {
					return "there is none: " + kubectl(t, "get", "pod", test.name, "--namespace=default", "--output=jsonpath={.status}")
				}
				in = found[0]
				if test.effects != nil && !slices.Contains(test.effects, in.Effect) {
					return fmt.Sprintf("its effect is %q, want one of %q", in.Effect, test.effects)
				}
				return ""
			})
			t.Logf("%s (%s, %s): %s\n%+v", in.Verdict, in.Confidence, in.Effect, in.Sentence, in.Evidence)
			if !slices.Contains(test.verdicts, in.Verdict) {
				t.Errorf("the verdict is %s, want one of %v", in.Verdict, test.verdicts)
			}
			// The API's own word on the pod agrees, where it has one.
			status := kubectl(t, "get", "pod", test.name, "--namespace=default", "--output=jsonpath={.status.reason} {.status.message} {.status.conditions}")
			if evicted := strings.Contains(status, "low on resource: memory"); evicted != (in.Verdict == verdict.Evicted) && in.Kills == 0 {
				t.Errorf("the verdict is %s, Kubernetes says %s", in.Verdict, status)
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

// leakPod runs memrecon leak in a pod, under a limit if it is not empty. The pod is gone when the test is over.
func leakPod(t *testing.T, name, limit string, leak ...string) {
	t.Helper()
	limits := ""
	if limit != "" {
		limits = fmt.Sprintf(`"resources": {"limits": {"memory": %q}},`, limit)
	}
	args, err := json.Marshal(append([]string{"leak"}, leak...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { kubectl(t, "delete", "pod", name, "--namespace=default", "--wait=true", "--ignore-not-found") })
	apply(t, fmt.Sprintf(`{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": %q, "namespace": "default"}, "spec": {
		"restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "containers": [{"name": "leak", "image": "localhost/memrecon", "imagePullPolicy": "Never", %s
		"args": %s}]}}`, name, limits, args))
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
