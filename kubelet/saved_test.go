package kubelet

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/memrecon/memrecon/snapshot"
)

const nodes = "../testdata/nodes"

func saved(t *testing.T, node string) *snapshot.Kubernetes {
	t.Helper()
	k, errs := FromFiles(filepath.Join(nodes, node))
	if k == nil || len(errs) != 0 {
		t.Fatalf("%s: %v, %v", node, k, errs)
	}
	return k
}

func at(s string) time.Time {
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		panic(err)
	}
	return t
}

// The figures are copied by eye from the files.
func TestFromFiles(t *testing.T) {
	of := snapshot.Of
	k := saved(t, "v2-1.37-quiet")
	if want := at("2026-11-23T18:20:25.916Z"); !k.Time.Equal(want) || !k.Node.Time.Equal(want) {
		t.Errorf("time %v, the Node's %v; want that of the newest working set, %v", k.Time, k.Node.Time, want)
	}

	if got, want := k.Summary.Node, (snapshot.MemoryStats{
		Time: at("2026-11-23T18:20:21Z"), Available: of(1757347840), Usage: of(668422144), WorkingSet: of(317288448),
		RSS: of(209186816), PageFaults: of(103866), MajorPageFaults: of(1730),
		SwapTime: at("2026-11-23T18:20:21Z"), SwapAvailable: of(0), SwapUsage: of(0),
	}); got != want {
		t.Errorf("node\n%+v, want\n%+v", got, want)
	}
	system := map[string]snapshot.Value{}
	for _, c := range k.Summary.System {
		system[c.Name] = c.Memory.WorkingSet
	}
	if want := map[string]snapshot.Value{
		"kubelet": of(42041344), "runtime": of(96841728), "pods": of(173776896),
	}; !reflect.DeepEqual(system, want) {
		t.Errorf("working sets of the system %v, want %v", system, want)
	}
	pod := k.Summary.Pods[0]
	if pod.Namespace != "kube-system" || pod.Name != "besteffort-cache" || pod.UID != "c64d96f2-e68f-45bd-8ad0-d1cf4877a324" ||
		pod.Memory.WorkingSet != of(12496896) || !pod.Memory.Available.IsAbsent() ||
		len(pod.Containers) != 1 || pod.Containers[0].Name != "reader" || pod.Containers[0].Memory.RSS != of(4521984) {
		t.Errorf("stats of the first pod: %+v", pod)
	}

	if got, want := k.WorkingSets[0], (snapshot.WorkingSet{Time: at("2026-11-23T18:20:21.944Z"), Bytes: 317288448}); got != want {
		t.Errorf("node's sample %+v, want %+v", got, want)
	}
	if got, want := k.WorkingSets[len(k.WorkingSets)-1], (snapshot.WorkingSet{
		Namespace: "default", Pod: "burstable-tmpfs", Container: "writer", Time: at("2026-11-23T18:20:24.868Z"), Bytes: 65921024,
	}); got != want || len(k.WorkingSets) != 1+4+5 {
		t.Errorf("the last of %d samples is %+v, want the tenth to be %+v", len(k.WorkingSets), got, want)
	}

	if got, want := k.Pods[0], (snapshot.Pod{
		Namespace: "default", Name: "burstable-tmpfs", UID: "a50cd7b0-ba33-4f65-bf28-b8090134d5ed",
		QoS: snapshot.Burstable, Phase: "Running",
		Containers: []snapshot.Container{
			{
				Name: "writer", ID: "69bde4cdbf6e59d06ccb7f9f3821487c0613ec4af6929c416fcd3f6282868033", Runtime: "containerd",
				Request: of(64 << 20), Limit: of(256 << 20),
			}, {
				Name: "side", ID: "32067d8f38fc8c98c9240eebb6c1b6af2f64e39a728015a01e95b3ff1bda51c6", Runtime: "containerd",
				Request: of(16 << 20),
			},
		},
	}); !reflect.DeepEqual(got, want) {
		t.Errorf("first pod\n%+v, want\n%+v", got, want)
	}

	if want := (snapshot.KubeletConfig{
		EvictionHard: snapshot.Threshold{Bytes: of(200 << 20)}, EvictionPressureTransition: 30 * time.Second,
		SystemReserved: of(100 << 20), KubeReserved: of(200 << 20), EnforceNodeAllocatable: []string{"pods"},
		CgroupDriver: "cgroupfs", ReservationPolicy: "None",
	}); !reflect.DeepEqual(k.Config, want) {
		t.Errorf("configuration\n%+v, want\n%+v", k.Config, want)
	}

	n := k.Node
	if n.Name != "lab-node" || n.Capacity != of(2026012<<10) || n.Allocatable != of(1514012<<10) || n.HugePages != of(0) ||
		n.KubeletVersion != "v1.37.2" || n.Taints != nil || len(n.Conditions) != 4 {
		t.Errorf("Node %+v", n)
	}
	if got, want := n.Conditions[3], (snapshot.Condition{
		Type: "Ready", Status: "True", Reason: "KubeletReady", Since: at("2026-11-23T18:17:59Z"), Heartbeat: at("2026-11-23T18:17:59Z"),
	}); got != want {
		t.Errorf("condition %+v, want %+v", got, want)
	}
}

// What holds on every node: the kubelet's own arithmetic, to the byte.
func TestFromAllSavedNodes(t *testing.T) {
	dirs, err := filepath.Glob(nodes + "/*/kubelet")
	if err != nil || len(dirs) != 7 {
		t.Fatalf("%d saved nodes (%v), want 7", len(dirs), err)
	}
	for _, dir := range dirs {
		name := filepath.Base(filepath.Dir(dir))
		k := saved(t, name)
		get := func(v snapshot.Value) uint64 {
			n, ok := v.Get()
			if !ok {
				t.Errorf("%s: a figure is %v", name, v)
			}
			return n
		}
		capacity := get(k.Node.Capacity)
		if sum := get(k.Summary.Node.Available) + get(k.Summary.Node.WorkingSet); sum != capacity {
			t.Errorf("%s: available and working set are %d, capacity %d", name, sum, capacity)
		}
		reserved := get(k.Config.SystemReserved) + get(k.Config.KubeReserved) + get(k.Config.EvictionHard.Of(capacity))
		if got := get(k.Node.Allocatable); got != capacity-reserved {
			t.Errorf("%s: allocatable %d, capacity less reserved %d", name, got, capacity-reserved)
		}
		if top := k.WorkingSets[0]; top.Bytes != get(k.Summary.Node.WorkingSet) || top.Time.Sub(k.Summary.Node.Time) >= time.Second {
			t.Errorf("%s: /metrics/resource has %+v for the node, the summary %+v", name, top, k.Summary.Node)
		}
		pods := map[string]snapshot.Pod{}
		for _, p := range k.Pods {
			pods[p.UID] = p
		}
		for _, p := range k.Summary.Pods {
			if known := pods[p.UID]; known.Name != p.Name || known.Namespace != p.Namespace {
				t.Errorf("%s: pod %s of the summary is %+v", name, p.UID, known)
			}
		}
	}
}

func TestTerminations(t *testing.T) {
	ends := func(node string) map[string]snapshot.Termination {
		all := map[string]snapshot.Termination{}
		for _, p := range saved(t, node).Pods {
			for _, c := range p.Containers {
				end := c.Terminated
				if end == (snapshot.Termination{}) {
					continue
				}
				if end.ContainerID != c.ID && end.ContainerID != "" { // none of them was started again
					t.Errorf("%s/%s: it is %s, and %s ended", p.Name, c.Name, c.ID, end.ContainerID)
				}
				end.ContainerID = ""
				all[p.Phase+" "+p.Reason+" "+p.Name+"/"+c.Name] = end
			}
		}
		return all
	}
	killed := func(from, to string) snapshot.Termination {
		return snapshot.Termination{Reason: "OOMKilled", ExitCode: 137, Started: at("2026-11-23T" + from + "Z"), Finished: at("2026-11-23T" + to + "Z")}
	}
	unknown := snapshot.Termination{
		Reason: "ContainerStatusUnknown", ExitCode: 137, Message: "The container could not be located when the pod was terminated",
	}
	for node, want := range map[string]map[string]snapshot.Termination{
		"v2-quiet":         {},
		"v2-oom-container": {"Failed  oom/hog": killed("17:46:41", "17:46:43")},
		"v2-evicted-shown-completed": {
			"Failed  oom/hog":          killed("17:46:41", "17:46:43"),
			"Succeeded  fast-leak/hog": {Reason: "Completed", Started: at("2026-11-23T17:46:57Z"), Finished: at("2026-11-23T17:47:13Z")},
		},
		"v2-oom-kubepods": {
			"Failed  fast-leak/hog-a": killed("17:48:22", "17:48:36"), "Failed  fast-leak/hog-b": killed("17:48:23", "17:48:36"),
			"Failed Evicted burstable-tmpfs/side": unknown, "Failed Evicted burstable-tmpfs/writer": unknown,
		},
	} {
		if got := ends(node); !reflect.DeepEqual(got, want) {
			t.Errorf("%s:\n%v, want\n%v", node, got, want)
		}
	}
}

// Evicted pods say why, also the one whose containers look as if they had ended by themselves.
func TestSavedEvictions(t *testing.T) {
	for node, name := range map[string]string{"v2-evicted-shown-completed": "fast-leak", "v2-oom-kubepods": "burstable-tmpfs"} {
		k, _ := FromFiles(filepath.Join(nodes, node))
		for i := range k.Pods {
			p := &k.Pods[i]
			e, isEviction := snapshot.ParseEviction(p.Disruption.Message)
			if isEviction != (p.Name == name) || isEviction != (p.Disruption.Reason == "TerminationByKubelet") {
				t.Errorf("%s: %s: %+v", node, p.Name, p.Disruption)
			}
			if !isEviction {
				continue
			}
			if e.Threshold != snapshot.Of(200<<20) || len(e.Containers) != len(p.Containers) || p.Disruption.Time.IsZero() ||
				(p.Message == p.Disruption.Message) != (p.Reason == "Evicted") {
				t.Errorf("%s: %+v of %+v", node, e, p)
			}
			if c := &p.Containers[0]; (p.Reason == "Evicted") != (c.Previous.Reason == "ContainerStatusUnknown") || c.Previous == c.Terminated {
				t.Errorf("%s: %+v", node, c)
			}
		}
	}
}

func TestFromFilesFaults(t *testing.T) {
	if k, errs := FromFiles(t.TempDir()); k != nil || errs != nil {
		t.Errorf("of nothing: %v, %v", k, errs)
	}
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(filepath.Join(nodes, "v2-quiet"))); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, "kubelet/configz.json")); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(dir, "kubelet/pods.json"), 9000); err != nil {
		t.Fatal(err)
	}
	k, errs := FromFiles(dir)
	if k == nil || k.Summary.IsZero() || k.WorkingSets == nil || k.Pods != nil || !k.Config.IsZero() || k.Node.IsZero() {
		t.Errorf("without configz and half the pods: %+v", k)
	}
	if len(errs) != 2 || !strings.HasSuffix(errs[0].Source, "pods.json") || !strings.Contains(errs[0].Error, "unexpected EOF") ||
		!strings.HasSuffix(errs[1].Source, "configz.json") || !strings.HasPrefix(errs[1].Hint, "reserved memory") {
		t.Errorf("errors %+v", errs)
	}
}
