package reconcile_test

import (
	"path/filepath"
	"testing"

	"github.com/memrecon/memrecon/kubelet"
	"github.com/memrecon/memrecon/reconcile"
	"github.com/memrecon/memrecon/snapshot"
)

// On every captured node each pod's and container's cgroup finds its own, and each container that runs its cgroup.
func TestCapturedNodesHaveNames(t *testing.T) {
	dirs, err := filepath.Glob(nodes + "/*/kubelet")
	if err != nil || len(dirs) == 0 {
		t.Fatalf("no saved nodes (%v)", err)
	}
	for _, dir := range dirs {
		name := filepath.Base(filepath.Dir(dir))
		snap := *captured(t, name).Snapshot()
		k, errs := kubelet.FromFiles(filepath.Dir(dir))
		if len(errs) != 0 {
			t.Fatal(errs)
		}
		snap.Kubernetes = k
		s := reconcile.New(&snap)
		found := map[*snapshot.Container]bool{}
		for i := range s.Rows {
			pod, container := s.Pod(i), s.Container(i)
			switch s.Class(i) {
			case snapshot.ClassPod:
				if pod == nil || container != nil {
					t.Errorf("%s: %s: pod %v, container %v", name, s.Rows[i].ID, pod, container)
				}
			case snapshot.ClassContainer:
				if pod == nil {
					t.Errorf("%s: %s: no pod", name, s.Rows[i].ID)
				}
				found[container] = true
			default:
				if pod != nil || container != nil {
					t.Errorf("%s: %s: pod %v, container %v", name, s.Rows[i].ID, pod, container)
				}
			}
			if pod != nil && pod.QoS != snap.Cgroups[s.Rows[i].Cgroup].Identity.QoS {
				t.Errorf("%s: %s: the pod is %s", name, s.Rows[i].ID, pod.QoS)
			}
		}
		for i := range k.Pods {
			for j := range k.Pods[i].Containers {
				c := &k.Pods[i].Containers[j]
				if runs := c.Terminated == (snapshot.Termination{}); runs != found[c] {
					t.Errorf("%s: container %s/%s runs: %t, has a cgroup: %t", name, k.Pods[i].Name, c.Name, runs, found[c])
				}
			}
		}
	}
}

func TestPodAndContainer(t *testing.T) {
	snap := &snapshot.Snapshot{
		Cgroups: []snapshot.Cgroup{
			{Path: "/", Parent: -1, Identity: snapshot.Identity{Class: snapshot.ClassRoot}},
			{Path: "/pod", Identity: snapshot.Identity{Class: snapshot.ClassPod, PodUID: "u"}},
			{Path: "/pod/app", Parent: 1, Identity: snapshot.Identity{Class: snapshot.ClassContainer, PodUID: "u", ContainerID: "1"}},
			{Path: "/pod/app/own", Parent: 2, Identity: snapshot.Identity{Class: snapshot.ClassOther, PodUID: "u", ContainerID: "1"}},
			{Path: "/pod/sandbox", Parent: 1, Identity: snapshot.Identity{Class: snapshot.ClassContainer, PodUID: "u", ContainerID: "2"}},
			{Path: "/gone", Identity: snapshot.Identity{Class: snapshot.ClassPod, PodUID: "v"}},
			{Path: "/docker", Identity: snapshot.Identity{Class: snapshot.ClassContainer, ContainerID: "1"}},
		},
		Kubernetes: &snapshot.Kubernetes{Pods: []snapshot.Pod{
			{Name: "waits", UID: "w", Containers: []snapshot.Container{{Name: "app"}}},
			{Name: "web", UID: "u", Containers: []snapshot.Container{{Name: "new"}, {Name: "app", ID: "1"}}},
		}},
	}
	s := reconcile.New(snap)
	for owner, want := range map[string][2]string{
		"/": {}, "/pod": {"web"}, "/pod/app": {"web", "app"}, "/pod/app/own": {"web", "app"}, "/pod/sandbox": {"web"}, "/gone": {}, "/docker": {},
	} {
		row, ok := s.Row(owner)
		if !ok {
			t.Fatal(owner)
		}
		var got [2]string
		if p := s.Pod(row); p != nil {
			got[0] = p.Name
		}
		if c := s.Container(row); c != nil {
			got[1] = c.Name
		}
		if got != want {
			t.Errorf("%s is of %q, want %q", owner, got, want)
		}
	}

	snap.Kubernetes = nil
	if s := reconcile.New(snap); s.Pod(1) != nil || s.Container(2) != nil {
		t.Error("there are pods without Kubernetes")
	}
	snap.Host.Meminfo.MemTotal = snapshot.Of(1 << 30)
	s = reconcile.New(snap)
	if kernel, ok := s.Row(reconcile.OwnerKernel); !ok || s.Pod(kernel) != nil || s.Container(kernel) != nil {
		t.Error("the kernel is a pod's")
	}
}
