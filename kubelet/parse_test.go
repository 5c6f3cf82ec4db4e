package kubelet

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/memrecon/memrecon/snapshot"
)

func TestQuantityInJSON(t *testing.T) {
	for in, want := range map[string]snapshot.Value{
		`{"memory":"1Ki"}`: snapshot.Of(1024), `{"memory":1024}`: snapshot.Of(1024), `{"memory":null}`: {}, `{"cpu":"x"}`: {},
	} {
		var got memoryJSON
		if err := json.Unmarshal([]byte(in), &got); err != nil || snapshot.Value(got.Memory) != want {
			t.Errorf("%s is %v, %v; want %v", in, got, err, want)
		}
	}
	var got memoryJSON
	if err := json.Unmarshal([]byte(`{"memory":{}}`), &got); err == nil {
		t.Errorf("an object is %v", got)
	}
}

func TestThreshold(t *testing.T) {
	const capacity = 7120616 << 10
	for in, want := range map[string]snapshot.Value{
		"750Mi": snapshot.Of(750 << 20), "": {}, "0%": {}, "100%": {},
		// As GetThresholdQuantity computes it: 0.05 and 0.105 in float32.
		"5%": snapshot.Of(364575544), "10.5%": snapshot.Of(765608608),
	} {
		got, err := threshold(in)
		if err != nil || got.Of(capacity) != want {
			t.Errorf("%q of %d is %v, %v; want %v", in, capacity, got.Of(capacity), err, want)
		}
	}
	for _, in := range []string{"5 %", "-5%", "101%", "NaN%", "%", "5%%", "much"} {
		if got, err := threshold(in); err == nil {
			t.Errorf("%q is %+v", in, got)
		}
	}
}

// A working set above the limit: the kubelet's uint64 went below zero.
func TestParseSummaryBelowZero(t *testing.T) {
	s, err := parseSummary(strings.NewReader(`{"pods":[{"podRef":{"name":"p"},"memory":{"availableBytes":18446744073708503040,
		"workingSetBytes":105906176},"swap":{"swapAvailableBytes":18446744073709551615}}],"node":{"memory":{"workingSetBytes":1}}}`))
	if err != nil {
		t.Fatal(err)
	}
	if m := s.Pods[0].Memory; m.Available != snapshot.Of(0) || m.SwapAvailable != snapshot.Of(0) || m.WorkingSet != snapshot.Of(105906176) {
		t.Errorf("%+v", m)
	}
}

func TestParsePods(t *testing.T) {
	const end = `{"reason":"Error","exitCode":139,"signal":11,"message":"out of heap","startedAt":"2026-11-23T17:00:00Z",
		"finishedAt":"2026-11-23T18:00:00Z","containerID":"cri-o://dd"}`
	pods, err := parsePods(strings.NewReader(`{"kind":"PodList","metadata":{},"items":[
		{"metadata":{"name":"etcd-a","namespace":"kube-system","uid":"11111111-1111-1111-1111-111111111111",
			"annotations":{"kubernetes.io/config.hash":"0123456789abcdef0123456789abcdef","kubernetes.io/config.mirror":"x"}},
		 "spec":{"priority":2000001000,"containers":[{"name":"etcd","resources":{"requests":{"memory":"100Mi","cpu":"100m"}}}]},
		 "status":{"phase":"Running","qosClass":"Burstable","conditions":[{"type":"DisruptionTarget","status":"False","reason":"once"}]}},
		{"metadata":{"name":"b","uid":"u"},
		 "spec":{"priority":-7,"overhead":{"memory":"120Mi"},"resources":{"requests":{"memory":"1Gi"},"limits":{"memory":"2Gi"}},
			"initContainers":[{"name":"first"},{"name":"mesh","restartPolicy":"Always","resources":{"limits":{"memory":"64Mi"}}}],
			"containers":[{"name":"app"}],"ephemeralContainers":[{"name":"debug"}]},
		 "status":{"phase":"Failed","reason":"Evicted","message":"The node was low on resource: memory. ","qosClass":"BestEffort",
			"conditions":[{"type":"Ready","status":"False","reason":"PodFailed"},
				{"type":"DisruptionTarget","status":"True","reason":"TerminationByKubelet","message":"why","lastTransitionTime":"2026-11-23T18:00:05Z"}],
			"containerStatuses":[{"name":"app","containerID":"cri-o://aa","restartCount":3,"state":{"running":{}},"lastState":{"terminated":` + end + `}}],
			"ephemeralContainerStatuses":[{"name":"debug","state":{"waiting":{}}}],
			"initContainerStatuses":[{"name":"mesh","containerID":"cri-o://bb","state":{"running":{}}},
				{"name":"first","containerID":"cri-o://cc","state":{"terminated":{"reason":"Completed"}},"lastState":{"terminated":` + end + `}}]}}]}`))
	if err != nil {
		t.Fatal(err)
	}
	ended := snapshot.Termination{
		Reason: "Error", ExitCode: 139, Signal: 11, Message: "out of heap", Started: at("2026-11-23T17:00:00Z"),
		Finished: at("2026-11-23T18:00:00Z"), ContainerID: "dd",
	}
	if want := []snapshot.Pod{
		{
			Namespace: "kube-system", Name: "etcd-a", UID: "0123456789abcdef0123456789abcdef", QoS: snapshot.Burstable, Priority: 2000001000,
			Phase: "Running", Containers: []snapshot.Container{{Name: "etcd", Request: snapshot.Of(100 << 20)}},
		}, {
			Name: "b", UID: "u", QoS: snapshot.BestEffort, Priority: -7, Phase: "Failed", Reason: "Evicted",
			Message:    "The node was low on resource: memory. ",
			Disruption: snapshot.Disruption{Reason: "TerminationByKubelet", Message: "why", Time: at("2026-11-23T18:00:05Z")},
			Request:    snapshot.Of(1 << 30), Limit: snapshot.Of(2 << 30), Overhead: snapshot.Of(120 << 20),
			Containers: []snapshot.Container{
				{
					Name: "first", Kind: snapshot.InitContainer, ID: "cc", Runtime: "cri-o",
					Terminated: snapshot.Termination{Reason: "Completed"}, Previous: ended,
				},
				{Name: "mesh", Kind: snapshot.SidecarContainer, ID: "bb", Runtime: "cri-o", Limit: snapshot.Of(64 << 20)},
				{Name: "app", ID: "aa", Runtime: "cri-o", Restarts: 3, Terminated: ended},
				{Name: "debug", Kind: snapshot.EphemeralContainer},
			},
		},
	}; !reflect.DeepEqual(pods, want) {
		t.Errorf("\n%+v, want\n%+v", pods, want)
	}
	for _, none := range []string{`{"items":[]}`, `{"items":null}`} {
		if pods, err := parsePods(strings.NewReader(none)); err != nil || pods == nil || len(pods) != 0 {
			t.Errorf("%s: %v, %v; want no pods, which is known", none, pods, err)
		}
	}
}

func TestParseConfigz(t *testing.T) {
	factor := 0.9
	got, err := parseConfigz(strings.NewReader(`{"kubeletconfig":{"cgroupDriver":"systemd","evictionHard":{"memory.available":"5%"},
		"evictionSoft":{"memory.available":"1Gi"},"evictionSoftGracePeriod":{"memory.available":"1m30s"},
		"evictionPressureTransitionPeriod":"5m0s","memorySwap":{"swapBehavior":"LimitedSwap"},"memoryThrottlingFactor":0.9,
		"memoryReservationPolicy":"TieredReservation","kubeReserved":{"cpu":"100m"},"enforceNodeAllocatable":["pods","kube-reserved"]}}`))
	if want := (snapshot.KubeletConfig{
		EvictionHard: snapshot.Threshold{Percent: 5}, EvictionSoft: snapshot.Threshold{Bytes: snapshot.Of(1 << 30)},
		EvictionSoftGrace: 90 * time.Second, EvictionPressureTransition: 5 * time.Minute, CgroupDriver: "systemd", SwapBehavior: "LimitedSwap",
		ThrottlingFactor: &factor, ReservationPolicy: "TieredReservation", EnforceNodeAllocatable: []string{"pods", "kube-reserved"},
	}); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v; want %+v", got, err, want)
	}
}

func TestParseNode(t *testing.T) {
	got, err := parseNode(strings.NewReader(`{"metadata":{"name":"a"},"spec":{"taints":[{"key":"k","value":"v","effect":"NoExecute"}]},
		"status":{"capacity":{"memory":"8Gi","hugepages-2Mi":"64Mi","hugepages-1Gi":"1Gi","cpu":"x"},"allocatable":{"memory":"6Gi"}}}`))
	if want := (snapshot.Node{
		Name: "a", Capacity: snapshot.Of(8 << 30), Allocatable: snapshot.Of(6 << 30), HugePages: snapshot.Of(64<<20 + 1<<30),
		Taints: []snapshot.Taint{{Key: "k", Value: "v", Effect: "NoExecute"}},
	}); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v; want %+v", got, err, want)
	}
}

// The parsers without their types.
var parsers = map[string]func(io.Reader) (any, error){
	"summary": func(r io.Reader) (any, error) { return parseSummary(r) },
	"pods":    func(r io.Reader) (any, error) { return parsePods(r) },
	"configz": func(r io.Reader) (any, error) { return parseConfigz(r) },
	"metrics": func(r io.Reader) (any, error) { return parseWorkingSets(r) },
	"node":    func(r io.Reader) (any, error) { return parseNode(r) },
}

type mistake struct{ parser, in, want string }

// malformed is what the parsers must refuse, and a word of why.
func malformed() []mistake {
	return []mistake{
		{"summary", ``, "unexpected EOF"},
		{"summary", `{}`, "no working set of the node"},
		{"summary", `[]`, "there is [ where { is expected"},
		{"summary", `null`, "where { is expected"},
		{"summary", `{"node":`, "unexpected EOF"},
		{"summary", `{"node":{"memory":{"workingSetBytes":1}}`, "unexpected EOF"},
		{"summary", `{"node":{"memory":{"workingSetBytes":1}}} {}`, "more behind the end"},
		{"summary", `{"node":{"memory":{"workingSetBytes":1}}} x`, "invalid character"},
		{"summary", `{"node":{"memory":{"workingSetBytes":-1}}}`, "a value is a number"},
		{"summary", `{"node":{"memory":{"workingSetBytes":1.5}}}`, "a value is a number"},
		{"summary", `{"node":{"memory":{"workingSetBytes":1,"time":"today"}}}`, "today"},
		{"summary", `{"pods":{}}`, "there is { where a list is expected"},
		{"summary", `{"pods":[{}`, "unexpected EOF"},
		{"summary", `{"pods":[{},7]}`, "element 1 of the list"},
		{"summary", `{"other":[1,2`, "unexpected EOF"},
		{"summary", `{"other":x}`, "invalid character"},
		{"summary", `{"node":5}`, "cannot unmarshal number"},
		{"pods", `{}`, "it is no list of pods"},
		{"pods", `{"items":[{"metadata":{"name":"a"}}]}`, `pod "a" has no UID`},
		{"pods", `{"items":[{"metadata":{"uid":"a"},"spec":{"containers":[{"resources":{"limits":{"memory":"lots"}}}]}}]}`, `"lots" is not a quantity`},
		{"pods", `{"items":[{"metadata":{"uid":"a"}}`, "unexpected EOF"},
		{"pods", `{"items":[{"metadata":{"uid":5}}]}`, "cannot unmarshal number"},
		{"configz", `{}`, "no kubeletconfig"},
		{"configz", `{"kubeletconfig":{}}`, "no kubeletconfig"},
		{"configz", `{"kubeletconfig":{"cgroupDriver":"systemd","evictionHard":{"memory.available":"5 apples"}}}`, "5 apples"},
		{"configz", `{"kubeletconfig":{"cgroupDriver":"systemd","evictionSoft":{"memory.available":"200%"}}}`, "200%"},
		{"configz", `{"kubeletconfig":{"cgroupDriver":"systemd","kubeReserved":{"memory":"-1"}}}`, "negative"},
		{"configz", `{"kubeletconfig":{"cgroupDriver":"systemd","systemReserved":{"memory":"1e"}}}`, "suffix"},
		{"configz", `{"kubeletconfig":{"cgroupDriver":"systemd","evictionPressureTransitionPeriod":"5"}}`, "missing unit"},
		{"configz", `{"kubeletconfig":{"cgroupDriver":"systemd","evictionSoftGracePeriod":{"memory.available":"x"}}}`, "invalid duration"},
		{"metrics", ``, "no node_memory_working_set_bytes"},
		{"metrics", "node_memory_working_set_bytes 1 5 " + strings.Repeat("x", 5000), "a line of more than 4096 bytes"},
		{"metrics", "node_memory_working_set_bytes{ 1 5\n", "parsing error"},
		{"metrics", "up 1\n", "no node_memory_working_set_bytes"},
		{"metrics", "# TYPE node_memory_working_set_bytes gauge\nnode_memory_working_set_bytes 1 5", "unexpected EOF"},
		{"metrics", "# TYPE node_memory_working_set_bytes gauge\nnode_memory_working_set_bytes 1\n", "is no gauge with a size and a time"},
		{"metrics", "# TYPE node_memory_working_set_bytes gauge\nnode_memory_working_set_bytes -1 5\n", "is no gauge with a size and a time"},
		{"metrics", "# TYPE node_memory_working_set_bytes gauge\nnode_memory_working_set_bytes NaN 5\n", "is no gauge with a size and a time"},
		{"metrics", "node_memory_working_set_bytes 1 5\n", "is no gauge with a size and a time"},
		{"node", ``, "unexpected EOF"},
		{"node", `{"kind":"Pod"}`, "it is no Node"},
		{"node", `{"metadata":{"name":"a"},"status":{"capacity":{"memory":"x"}}}`, `"x" is not a quantity`},
		{"node", `{"metadata":{"name":"a"},"status":{"allocatable":{"memory":"x"}}}`, `"x" is not a quantity`},
		{"node", `{"metadata":{"name":"a"},"status":{"capacity":{"hugepages-2Mi":"x"}}}`, `"x" is not a quantity`},
	}
}

func TestParseMalformed(t *testing.T) {
	for _, c := range malformed() {
		got, err := parsers[c.parser](strings.NewReader(c.in))
		if err == nil || !strings.Contains(err.Error(), c.want) || !reflect.ValueOf(got).IsZero() {
			t.Errorf("%s %s: %+v, %v; want an error with %q and nothing else", c.parser, c.in, got, err, c.want)
		}
	}
}

// Wherever the text breaks off, there is an error and nothing else.
func TestParseCutAnywhere(t *testing.T) {
	for parser, file := range map[string]string{
		"summary": "kubelet/stats-summary.json", "pods": "kubelet/pods.json", "configz": "kubelet/configz.json", "node": "api/node.json",
	} {
		b, err := os.ReadFile(filepath.Join(nodes, "v2-quiet", file))
		if err != nil {
			t.Fatal(err)
		}
		b = bytes.TrimSpace(b)
		for n := 0; n < len(b); n += 101 {
			if got, err := parsers[parser](bytes.NewReader(b[:n])); err == nil || !isBroken(err) || !reflect.ValueOf(got).IsZero() {
				t.Errorf("%s cut at %d: %v, %v", parser, n, got, err)
			}
		}
	}
}

// fuzz hands a parser everything, beginning with what a real server said, and what is wrong.
func fuzz(f *testing.F, parser, file string, check func(*testing.T, any)) {
	b, err := os.ReadFile(filepath.Join(nodes, "v2-oom-kubepods", file))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	for _, c := range malformed() {
		if c.parser == parser {
			f.Add([]byte(c.in))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := parsers[parser](bytes.NewReader(b))
		if err != nil {
			if !reflect.ValueOf(got).IsZero() {
				t.Fatalf("%+v with %v", got, err)
			}
			return
		}
		check(t, got)
		if _, err := json.Marshal(got); err != nil { // it must fit into a capture
			t.Fatal(err)
		}
	})
}

func FuzzParseSummary(f *testing.F) {
	fuzz(f, "summary", "kubelet/stats-summary.json", func(t *testing.T, got any) {
		s := got.(snapshot.Summary)
		if n, ok := s.Node.Available.Get(); ok && n >= 1<<63 || s.Node.WorkingSet.IsAbsent() {
			t.Fatalf("%+v", s.Node)
		}
	})
}

func FuzzParsePods(f *testing.F) {
	fuzz(f, "pods", "kubelet/pods.json", func(t *testing.T, got any) {
		for _, p := range got.([]snapshot.Pod) {
			if p.UID == "" {
				t.Fatalf("%+v", p)
			}
		}
	})
}

func FuzzParseConfigz(f *testing.F) {
	fuzz(f, "configz", "kubelet/configz.json", func(t *testing.T, got any) {
		c := got.(snapshot.KubeletConfig)
		if p := c.EvictionHard.Percent; c.IsZero() || !(p >= 0 && p <= 100) || p > 0 && !c.EvictionHard.Bytes.IsAbsent() {
			t.Fatalf("%+v", c)
		}
	})
}

func FuzzParseWorkingSets(f *testing.F) {
	fuzz(f, "metrics", "kubelet/metrics-resource", func(t *testing.T, got any) {
		if len(got.([]snapshot.WorkingSet)) == 0 {
			t.Fatal("no samples and no error")
		}
	})
}

func FuzzParseNode(f *testing.F) {
	fuzz(f, "node", "api/node.json", func(t *testing.T, got any) {
		if got.(snapshot.Node).IsZero() {
			t.Fatal("no Node and no error")
		}
	})
}
