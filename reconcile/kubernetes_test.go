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

func TestPodRequestAndLimit(t *testing.T) {
	of, none := func(n uint64) snapshot.Value { return snapshot.Of(n * mi) }, snapshot.Value{}
	container := func(kind snapshot.ContainerKind, request, limit snapshot.Value) snapshot.Container {
		return snapshot.Container{Kind: kind, Request: request, Limit: limit}
	}
	app, small := container("", of(100), of(200)), container("", of(20), none)
	first, mesh := container(snapshot.InitContainer, of(150), of(150)), container(snapshot.SidecarContainer, of(60), of(70))
	for name, c := range map[string]struct {
		pod            snapshot.Pod
		request, limit snapshot.Value
	}{
		"nothing":                 {snapshot.Pod{Containers: []snapshot.Container{container("", none, none)}}, none, none},
		"two containers":          {snapshot.Pod{Containers: []snapshot.Container{app, small}}, of(120), of(200)},
		"a large init container":  {snapshot.Pod{Containers: []snapshot.Container{first, app}}, of(150), of(200)},
		"a sidecar":               {snapshot.Pod{Containers: []snapshot.Container{mesh, app}}, of(160), of(270)},
		"a sidecar, then an init": {snapshot.Pod{Containers: []snapshot.Container{mesh, first, app}}, of(210), of(270)},
		"an init, then a sidecar": {snapshot.Pod{Containers: []snapshot.Container{first, mesh, app}}, of(160), of(270)},
		"overhead":                {snapshot.Pod{Overhead: of(5), Containers: []snapshot.Container{small}}, of(25), none},
		"only overhead":           {snapshot.Pod{Overhead: of(5)}, of(5), none},
		"overhead of a limit":     {snapshot.Pod{Overhead: of(5), Containers: []snapshot.Container{app}}, of(105), of(205)},
		"for the whole pod":       {snapshot.Pod{Request: of(64), Limit: of(512), Containers: []snapshot.Container{app, small}}, of(64), of(512)},
		"a limit of the pod":      {snapshot.Pod{Limit: of(512), Containers: []snapshot.Container{app, small}}, of(120), of(512)},
	} {
		if request, limit := reconcile.PodRequest(&c.pod), reconcile.PodLimit(&c.pod); request != c.request || limit != c.limit {
			t.Errorf("%s: request %v, limit %v; want %v, %v", name, request, limit, c.request, c.limit)
		}
	}
}
