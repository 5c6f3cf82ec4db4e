package verdict_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/memrecon/memrecon/snapshot"
	"github.com/memrecon/memrecon/verdict"
)

// Pods in the order of their eviction, by the rules of rankMemoryPressure in Kubernetes 1.37 (pkg/kubelet/eviction/helpers.go): each is
// put behind the one before it by a key, the first before the second.
func TestRank(t *testing.T) {
	type pod struct {
		name           string
		usage, request uint64 // in MiB; usage 0 is not known
		priority       int32
		key            verdict.RankKey
	}
	const beyond, first, excess = verdict.RankExceeds, verdict.RankPriority, verdict.RankExcess
	for name, order := range map[string][]pod{
		"the larger excess":               {{"a", 300, 100, 0, excess}, {"b", 500, 400, 0, excess}, {"c", 60, 0, 0, excess}},
		"priority before excess":          {{"small", 30, 20, -5, first}, {"large", 800, 20, 0, first}, {"important", 900, 0, 7, first}},
		"excess before priority":          {{"over", 101, 100, 1000, beyond}, {"within", 900, 1000, -10, beyond}},
		"at its request is not beyond it": {{"over", 51, 50, 0, beyond}, {"at", 500, 500, 0, beyond}, {"below", 10, 50, 0, excess}},
		"no figures first":                {{"unread", 0, 100, 1000, verdict.RankUnread}, {"over", 900, 0, -1, verdict.RankUnread}},
		"alone":                           {{"alone", 10, 0, 0, ""}},
		"equals":                          {{"a", 10, 0, 0, ""}, {"b", 10, 0, 0, ""}},
		"those with figures are compared": {{"unread", 0, 0, 0, verdict.RankUnread}, {"over", 20, 10, 5, verdict.RankUnread}, {"within", 20, 30, 0, beyond}},
	} {
		t.Run(name, func(t *testing.T) {
			for place, evicted := range order {
				n := newNode(t, false)
				n.snap.Kubernetes.Pods[0].Priority = 2_000_001_000 // the kubelet passes over it, whatever it uses
				var before []string
				for i, p := range order {
					uid := fmt.Sprintf("22222222-0000-0000-0000-%012d", i)
					n.pod(uid, p.usage, snapshot.Pod{
						Namespace: "shop", Name: p.name, UID: uid, Priority: p.priority, Phase: "Running",
						Containers: []snapshot.Container{{Name: "app", Request: snapshot.Of(p.request * mib)}},
					})
					if i < min(place, 3) {
						before = append(before, p.name)
					}
				}
				n.pod("33333333333333333333333333333333", 900, snapshot.Pod{Name: "static", UID: "33333333333333333333333333333333", Phase: "Running"})
				n.pod("44444444-0000-0000-0000-000000000000", 900, snapshot.Pod{Name: "ended", UID: "44444444-0000-0000-0000-000000000000", Phase: "Succeeded"})
				n.snap.Kubernetes.Pods = append(n.snap.Kubernetes.Pods, snapshot.Pod{Name: "nowhere", UID: "55555555-0000-0000-0000-000000000000", Phase: "Running"})
				n.round(1)
				uid := fmt.Sprintf("22222222-0000-0000-0000-%012d", place)
				n.evict(uid, 1.5)
				r := n.only().Ranking
				if r == nil {
					t.Fatalf("%s has no place", evicted.name)
				}
				var names []string
				for _, o := range r.Before {
					names = append(names, o.Pod)
				}
				if r.Place != place+1 || r.Pods != len(order) || r.Key != evicted.key || !slices.Equal(names, before) || !r.Time.Equal(at(1)) {
					t.Errorf("%s: place %d of %d by %q behind %v at %s, want place %d of %d by %q behind %v",
						evicted.name, r.Place, r.Pods, r.Key, names, r.Time, place+1, len(order), evicted.key, before)
				}
			}
		})
	}
}

// pod adds a pod with a cgroup of so many MiB, 0 for one that was not read, and a container's in it.
func (n *node) pod(uid string, usage uint64, p snapshot.Pod) {
	size := snapshot.Value{}
	if usage > 0 {
		size = snapshot.Of(usage * mib)
	}
	path, id := kubepods+"/pod"+uid, fmt.Sprintf("%064x", len(n.snap.Cgroups))
	n.add(path, 1, size)
	n.add(path+"/"+id, int32(len(n.snap.Cgroups)-1), size)
	n.snap.Kubernetes.Pods = append(n.snap.Kubernetes.Pods, p)
}

// evict ends a pod's containers, leaves its cgroup empty for some rounds, and has the kubelet say so in the end.
func (n *node) evict(uid string, seconds float64) {
	path := kubepods + "/pod" + uid
	n.snap.Cgroups = slices.DeleteFunc(n.snap.Cgroups, func(c snapshot.Cgroup) bool { return c.Parent > 0 && c.Identity.PodUID == uid && c.Path != path })
	n.snap.Sweep.Vanished = 1
	n.cgroup(path).Usage = snapshot.Of(4096)
	n.round(2)
	n.remove(path)
	n.round(3)
	for i := range n.snap.Kubernetes.Pods {
		if p := &n.snap.Kubernetes.Pods[i]; p.UID == uid {
			p.Phase, p.Reason, p.Message = "Failed", "Evicted", "The node was low on resource: memory. Threshold quantity: 200Mi, available: 90Mi. "
			p.Disruption.Time = at(seconds)
		}
	}
	n.round(4)
}

// Of an evicted pod, its cgroup's last reading with all containers is told: its page cache in use and out of it, the kubelet's last
// reading of it, and how kubectl shows it.
func TestEvictedAsItWas(t *testing.T) {
	n := newNode(t, false)
	n.cgroup(podPath).Stat = snapshot.Stat{Keys: snapshot.NewKeys([]string{"active_file", "inactive_file"}), Values: []uint64{7 * mib, 5 * mib}}
	n.snap.Kubernetes.Summary.Pods = []snapshot.PodStats{{UID: podUID, Memory: snapshot.MemoryStats{Time: at(-8)}}}
	n.round(1)
	n.remove(appPath)
	n.cgroup(podPath).Usage, n.cgroup(podPath).Stat = snapshot.Of(9*mib), snapshot.Stat{}
	n.round(2)
	n.remove(sidePath)
	n.round(3)
	p := &n.snap.Kubernetes.Pods[0]
	p.Phase, p.Message = "Failed", "The node was low on resource: memory. "
	p.Containers[0].Terminated = snapshot.Termination{Reason: "Completed", ContainerID: appID, Finished: at(1.5)}
	p.Containers[1].Terminated = snapshot.Termination{Reason: "Error", ExitCode: 137, ContainerID: sideID, Finished: at(2.5)}
	n.round(4)
	in := n.only()
	if in.VictimUsage != snapshot.Of(110*mib) || in.VictimCache != snapshot.Of(7*mib) || in.VictimIdleCache != snapshot.Of(5*mib) {
		t.Errorf("it used %s, of that %s and %s of page cache", in.VictimUsage, in.VictimCache, in.VictimIdleCache)
	}
	if r := in.Ranking; r == nil || !r.Time.Equal(at(1)) || !r.KubeletTime.Equal(at(-8)) || r.Place != 1 || r.Pods != 1 {
		t.Errorf("its place is %+v", r)
	}
	if in.Shown != "Completed" || len(in.Missing) > 0 {
		t.Errorf("it is shown as %q, and lacks %v", in.Shown, in.Missing)
	}
}

// A pod whose containers outlast their processes by a round has its place of before, among the others as they were then.
func TestRankedAsItWas(t *testing.T) {
	n := newNode(t, false)
	const other = "22222222-2222-3333-4444-555555555555"
	n.pod(other, 20, snapshot.Pod{Name: "other", UID: other})
	processes := func(anon uint64) {
		for _, path := range []string{appPath, sidePath} {
			n.cgroup(path).Stat = snapshot.Stat{Keys: snapshot.NewKeys([]string{"anon"}), Values: []uint64{anon}}
		}
	}
	processes(8 * mib)
	n.round(1)
	processes(0)
	n.cgroup(podPath).Usage = snapshot.Of(4096)
	n.round(2)
	n.remove(appPath)
	n.remove(sidePath)
	n.round(3)
	n.snap.Kubernetes.Pods[0].Phase, n.snap.Kubernetes.Pods[0].Message = "Failed", "The node was low on resource: memory. "
	n.round(4)
	in := n.only()
	if r := in.Ranking; r == nil || r.Place != 1 || r.Pods != 2 || !r.Time.Equal(at(1)) || in.VictimUsage != snapshot.Of(110*mib) {
		t.Errorf("it used %s, and its place is %+v", in.VictimUsage, r)
	}
}

// kubectl shows the end of the first container, and the pod's reason where no container has one.
func TestShown(t *testing.T) {
	ended := func(reason string, code int32) snapshot.Container {
		return snapshot.Container{Terminated: snapshot.Termination{Reason: reason, ExitCode: code, ContainerID: "x"}}
	}
	setup := ended("Completed", 0)
	setup.Kind = snapshot.InitContainer
	for want, containers := range map[string][]snapshot.Container{
		"Evicted":                {setup, {}},
		"Completed":              {ended("Completed", 0), ended("Error", 137)},
		"Error":                  {setup, ended("Error", 137), ended("Completed", 0)},
		"ContainerStatusUnknown": {{Terminated: snapshot.Termination{Reason: "ContainerStatusUnknown", ExitCode: 137}}},
		"ExitCode:3":             {ended("", 3)},
	} {
		n := newNode(t, false)
		p := &n.snap.Kubernetes.Pods[0]
		p.Phase, p.Reason, p.Message, p.Containers = "Failed", "Evicted", "The node was low on resource: memory. ", containers
		n.round(1)
		if got := n.last["evicted-"+podUID].Shown; got != want {
			t.Errorf("shown as %q, want %q", got, want)
		}
	}
}
