package report_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/memrecon/memrecon/reconcile"
	"github.com/memrecon/memrecon/report"
	"github.com/memrecon/memrecon/snapshot"
)

// aks is the published 7 GiB AKS node (cgroup v1, capacity 7120616Ki, kube-reserved 1638Mi, hard threshold 750Mi), with a working set
// in KiB of which the pods have some.
func aks(workingSet, pods uint64) *snapshot.Snapshot {
	kib := func(n uint64) snapshot.Value { return snapshot.Of(n << 10) }
	keys := snapshot.NewKeys([]string{"total_rss", "total_cache", "total_inactive_file"})
	at := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	return &snapshot.Snapshot{
		Mode: snapshot.V1, Node: "aks-node", Time: at,
		Host: snapshot.Host{Meminfo: snapshot.Meminfo{
			MemTotal: kib(7120616), MemFree: kib(7120616 - workingSet), MemAvailable: kib(7120616 - workingSet), AnonPages: kib(workingSet),
		}},
		Cgroups: []snapshot.Cgroup{
			{Path: "/", Parent: -1, Identity: snapshot.Identity{Class: snapshot.ClassRoot}, Usage: kib(workingSet), Stat: snapshot.Stat{Keys: keys, Values: []uint64{workingSet << 10, 0, 0}}},
			{
				Path: "/kubepods", Identity: snapshot.Identity{Class: snapshot.ClassKubepods}, Usage: kib(pods), Max: snapshot.Of(5573943296),
				Stat: snapshot.Stat{Keys: keys, Values: []uint64{pods << 10, 0, 0}},
			},
			{
				Path: "/kubepods/pod1", Parent: 1, Identity: snapshot.Identity{Class: snapshot.ClassPod, PodUID: "1"}, Usage: kib(pods),
				Stat: snapshot.Stat{Keys: keys, Values: []uint64{pods << 10, 0, 0}},
			},
		},
		Kubernetes: &snapshot.Kubernetes{
			Time:        at,
			WorkingSets: []snapshot.WorkingSet{{Time: at, Bytes: workingSet << 10}},
			Config: snapshot.KubeletConfig{
				CgroupDriver: "systemd", KubeReserved: kib(1638 << 10), EvictionHard: snapshot.Threshold{Bytes: kib(750 << 10)},
				EnforceNodeAllocatable: []string{"pods"},
			},
			Node: snapshot.Node{
				Name: "aks-node", Time: at, Capacity: kib(7120616), Allocatable: kib(4675304), KubeletVersion: "v1.27.9",
				Conditions: []snapshot.Condition{{Type: "MemoryPressure", Status: "False"}, {Type: "Ready", Status: "True"}},
			},
		},
	}
}

// What kubectl top node shows of the node when it idles, when it is above 100% and well, and when it is about to evict.
func TestTopNodeOfAnAKSNode(t *testing.T) {
	for name, c := range map[string]struct {
		workingSet, pods uint64
		want             []string
		not              string
	}{
		"idle": {794801, 200 << 10, []string{
			"kubectl top node: 776Mi, 17% of allocatable 4.46Gi and 11% of capacity 6.79Gi;",
			"Limit of all pods together: capacity 6.79Gi - kube-reserved 1.6Gi = 5.19Gi, as the kernel has it.",
			"- hard eviction threshold 750Mi = 4.46Gi, as the API server has it.",
		}, "above 100%"},
		"above": {5937636, 4 << 20, []string{
			"kubectl top node: 5.66Gi, 127% of allocatable 4.46Gi and 83% of capacity 6.79Gi;",
			"It is above 100% because", "4Gi of it is the pods', 1.66Gi is not. That is not dangerous by itself: 405Mi to go until the kubelet evicts pods.",
			"The kubelet evicts pods when memory.available, 1.13Gi now, is below 750Mi: 405Mi to go.",
			"The kubelet evicts pods when allocatableMemory.available, 1.19Gi now, is below 750Mi: 470Mi to go.",
		}, "dangerous now"},
		"close":  {6200000, 4 << 20, []string{"133% of allocatable", "That is dangerous now: 149Mi to go until the kubelet evicts pods."}, "by itself"},
		"beyond": {6400000, 4 << 20, []string{"That is dangerous now: the kubelet evicts pods.", "is below 750Mi: 46.3Mi beyond it."}, "by itself"},
	} {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			if err := report.Text(&b, reconcile.New(aks(c.workingSet, c.pods)), report.Options{}); err != nil {
				t.Fatal(err)
			}
			text := strings.Join(strings.Fields(b.String()), " ")
			for _, want := range c.want {
				if !strings.Contains(text, want) {
					t.Errorf("it does not say %q:\n%s", want, b.String())
				}
			}
			if strings.Contains(text, c.not) {
				t.Errorf("it says %q:\n%s", c.not, b.String())
			}
		})
	}
}

// What the API server says of the Node's state, and how old that is.
func TestNodeConditions(t *testing.T) {
	snap := aks(1<<20, 1<<18)
	n := &snap.Kubernetes.Node
	since := time.Date(2026, 11, 24, 11, 0, 0, 0, time.UTC)
	n.Time = snap.Time.Add(-90 * time.Second)
	n.Conditions = []snapshot.Condition{
		{Type: "MemoryPressure", Status: "True", Reason: "KubeletHasInsufficientMemory", Since: since},
		{Type: "DiskPressure", Status: "False", Since: since},
		{Type: "Ready", Status: "False", Reason: "KubeletNotReady", Since: since},
	}
	n.Taints = []snapshot.Taint{{Key: "node.kubernetes.io/memory-pressure", Effect: "NoSchedule"}, {Key: "team", Value: "a", Effect: "NoExecute"}}
	var b bytes.Buffer
	if err := report.Text(&b, reconcile.New(snap), report.Options{}); err != nil {
		t.Fatal(err)
	}
	text := strings.Join(strings.Fields(b.String()), " ")
	for _, want := range []string{
		"the kubelet is under MemoryPressure",
		"Node aks-node, kubelet v1.27.9: MemoryPressure since 2026-11-24 11:00:00 (KubeletHasInsufficientMemory), Ready is False since 2026-11-24 11:00:00 (KubeletNotReady); " +
			"tainted node.kubernetes.io/memory-pressure:NoSchedule, team=a:NoExecute; as the API server said 1m30s ago.",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("it does not say %q:\n%s", want, b.String())
		}
	}
}
