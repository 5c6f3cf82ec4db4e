package reconcile_test

import (
	"errors"
	"testing"

	"github.com/memrecon/memrecon/reconcile"
	"github.com/memrecon/memrecon/snapshot"
)

// What the kubelet configured, the kernel and the API server have, to the byte; and the kubelet's own figures of a container that
// is at rest are memrecon's.
func TestKubernetesFiguresOfCapturedNodes(t *testing.T) {
	for node, atRest := range map[string]bool{
		"v1-quiet": true, "v1-oom-container": true, "v2-quiet": true, "v2-oom-container": true,
		"v2-oom-kubepods": false, "v2-evicted-shown-completed": false, "v2-1.37-quiet": false, // pods were starting or ending
	} {
		t.Run(node, func(t *testing.T) {
			s := captured(t, node)
			said, apart := 0, int64(0)
			checked := map[string]bool{}
			for _, a := range s.Amounts() {
				switch a.Figure.ID {
				case "kubepods-limit", "allocatable":
					checked[a.Figure.ID] = true
					if n, ok := a.Published.Get(); !ok || int64(n) != a.Bytes {
						t.Errorf("%s is %d, published %s", a.Figure.ID, a.Bytes, a.Published)
					}
				case "usage", "working-set", "rss":
					if n, ok := a.Kubelet.Get(); ok {
						said++
						if a.KubeletTime.IsZero() {
							t.Errorf("%s of %s has no time", a.Figure.ID, a.Owner)
						}
						if row, _ := s.Row(a.Owner); s.Pod(row) != nil { // kubepods has the pods that just ended as well
							apart = max(apart, int64(n)-a.Bytes, a.Bytes-int64(n))
						}
					}
				}
			}
			if len(checked) != 2 {
				t.Errorf("only %v of the node's limits", checked)
			}
			if said < 9 {
				t.Errorf("the kubelet says %d figures of cgroups", said)
			}
			if atRest && apart > 1<<20 {
				t.Errorf("a figure of a cgroup is %d bytes from what the kubelet says", apart)
			}
		})
	}
}

func TestOwnersHaveTheirNames(t *testing.T) {
	s := captured(t, "v2-quiet")
	const pod = "/kubepods/burstable/pod1ff91f94-0685-4bc6-9362-1b989c2fb9c9"
	for owner, want := range map[string]string{
		pod: "default/burstable-tmpfs",
		pod + "/cb75b7d90f710275951079af570e21d2531a79cba0daf67a02258e1901dadc9b": "default/burstable-tmpfs/writer",
		"/kubepods/burstable": "/kubepods/burstable",
		"kernel":              "kernel, charged to no cgroup",
	} {
		row, ok := s.Row(owner)
		if got := s.Name(row); !ok || got != want {
			t.Errorf("%s is called %q, want %q", owner, got, want)
		}
	}
	sandboxes := 0
	for i := range s.Rows {
		if pod, container := s.Pod(i), s.Container(i); pod != nil && container == nil && s.Class(i) == snapshot.ClassContainer {
			sandboxes++
			if want := pod.Namespace + "/" + pod.Name + " (sandbox)"; s.Name(i) != want {
				t.Errorf("a sandbox is called %q, want %q", s.Name(i), want)
			}
		}
	}
	if sandboxes != 4 {
		t.Errorf("%d sandboxes, the node has 4 pods", sandboxes)
	}
}

// On the captured v2 nodes, whose kubelets are newer than 1.29, it is anon + file; a kubelet that says the other is told as well.
func TestRootFormula(t *testing.T) {
	s := captured(t, "v2-quiet")
	if id, off, other := s.RootFormula(); id != "node-working-set" || off >= other {
		t.Errorf("%q, %d and %d off", id, off, other)
	}
	older, err := s.Value("node-working-set-total-less-free", reconcile.OwnerNode)
	if err != nil {
		t.Fatal(err)
	}
	snap := *s.Snapshot()
	k := *snap.Kubernetes
	snap.Kubernetes = &k
	k.Summary.Node.WorkingSet = snapshot.Of(uint64(older) + 4096)
	if id, off, _ := reconcile.New(&snap).RootFormula(); id != "node-working-set-total-less-free" || off != 4096 {
		t.Errorf("%q, %d off", id, off)
	}
	newer, _ := s.Value("node-working-set", reconcile.OwnerNode)
	k.Summary.Node.WorkingSet = snapshot.Of(uint64(newer+older) / 2)
	if id, _, _ := reconcile.New(&snap).RootFormula(); id != "" {
		t.Errorf("told %q of what lies between both", id)
	}
	if id, _, _ := captured(t, "v1-quiet").RootFormula(); id != "" {
		t.Errorf("told %q on cgroup v1, where there is one formula", id)
	}
}

// The published figures of a 7 GiB AKS node: capacity 7120616Ki, kube-reserved 1638Mi, and two hard eviction thresholds.
func TestAllocatableOfAnAKSNode(t *testing.T) {
	for threshold, allocatable := range map[uint64]int64{750: 4675304, 1000: 4419304} {
		s := reconcile.New(&snapshot.Snapshot{
			Mode: snapshot.V1,
			Host: snapshot.Host{Meminfo: snapshot.Meminfo{MemTotal: snapshot.Of(7120616 << 10), MemFree: snapshot.Of(1 << 30)}},
			Kubernetes: &snapshot.Kubernetes{Config: snapshot.KubeletConfig{
				CgroupDriver: "cgroupfs", KubeReserved: snapshot.Of(1638 << 20), EvictionHard: snapshot.Threshold{Bytes: snapshot.Of(threshold << 20)},
			}},
		})
		if got, err := s.Value("allocatable", reconcile.OwnerNode); err != nil || got != allocatable<<10 {
			t.Errorf("with %d MiB allocatable is %d KiB (%v), want %d", threshold, got>>10, err, allocatable)
		}
		if got, err := s.Value("kubepods-limit", reconcile.OwnerNode); err != nil || got != 5573943296 {
			t.Errorf("the limit of kubepods is %d (%v)", got, err)
		}
	}
}

func TestKubernetesFiguresNeedKubernetes(t *testing.T) {
	s := reconcile.New(quiet())
	if _, err := s.Value("allocatable", reconcile.OwnerNode); !errors.As(err, new(*reconcile.NotApplicableError)) {
		t.Errorf("allocatable without a kubelet: %v", err)
	}
	for _, q := range s.Questions() {
		if q.Bridge.To.Figure == "kubelet-available" {
			t.Error("there is a question about a kubelet where there is none")
		}
	}
}
