package verdict_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/memrecon/memrecon/cgroup"
	"github.com/memrecon/memrecon/snapshot"
	"github.com/memrecon/memrecon/verdict"
)

const (
	mib       = 1 << 20
	kubepods  = "/kubepods"
	burstable = kubepods + "/burstable"
	podUID    = "11111111-2222-3333-4444-555555555555"
	podPath   = burstable + "/pod" + podUID
	appID     = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	sideID    = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
	appPath   = podPath + "/" + appID
	sidePath  = podPath + "/" + sideID
	service   = "/system.slice/batch.service"
)

// node is one whose evidence a test makes, second by second.
type node struct {
	t     *testing.T
	judge *verdict.Judge
	snap  snapshot.Snapshot
	kills uint64
	last  map[string]verdict.Incident
	order []string
	// limits are the cgroups', also of those that are gone.
	limits map[string]snapshot.Value
}

var noon = time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)

func at(seconds float64) time.Time { return noon.Add(time.Duration(seconds * float64(time.Second))) }

// newNode has a pod of two containers, app with 100 MiB of a limit of 128 and side, and a service beside it.
func newNode(t *testing.T, hasLog bool) *node {
	n := &node{t: t, judge: verdict.NewJudge(hasLog), last: map[string]verdict.Incident{}, limits: map[string]snapshot.Value{}}
	n.snap.Host.Meminfo.MemTotal, n.snap.Host.Meminfo.MemAvailable = snapshot.Of(2048*mib), snapshot.Of(1024*mib)
	n.snap.Host.PageSize = 4096
	for _, c := range []struct {
		path       string
		parent     int32
		usage, max uint64
	}{
		{"/", -1, 0, 0}, {kubepods, 0, 300, 1700}, {burstable, 1, 300, 0}, {podPath, 2, 110, 256}, {appPath, 3, 100, 128}, {sidePath, 3, 8, 0},
		{"/system.slice", 0, 60, 0}, {service, 6, 50, 64},
	} {
		limit := snapshot.Unlimited
		if c.max > 0 {
			limit = snapshot.Of(c.max * mib)
		}
		n.limits[c.path] = limit
		n.add(c.path, c.parent, snapshot.Of(c.usage*mib))
		n.cgroup(c.path).Max = limit
	}
	n.snap.Kubernetes = &snapshot.Kubernetes{Pods: []snapshot.Pod{{
		Namespace: "shop", Name: "web", UID: podUID, QoS: snapshot.Burstable,
		Containers: []snapshot.Container{{Name: "app", ID: appID, Request: snapshot.Of(64 * mib)}, {Name: "side", ID: sideID}},
	}}}
	n.round(0)
	return n
}

// add adds a cgroup without a limit.
func (n *node) add(path string, parent int32, usage snapshot.Value) {
	n.snap.Cgroups = append(n.snap.Cgroups, snapshot.Cgroup{
		Path: path, Parent: parent, Inode: uint64(len(n.snap.Cgroups) + 1), Identity: cgroup.Identify(path), Usage: usage, Max: snapshot.Unlimited,
	})
}

// round is a reading of the node.
func (n *node) round(seconds float64) {
	s := n.snap
	s.Time = at(seconds)
	s.Cgroups = slices.Clone(n.snap.Cgroups)
	k := *n.snap.Kubernetes
	k.Pods = slices.Clone(k.Pods)
	for i := range k.Pods {
		k.Pods[i].Containers = slices.Clone(k.Pods[i].Containers)
	}
	s.Kubernetes = &k
	s.Host.Vmstat = snapshot.Stat{Keys: snapshot.NewKeys([]string{"oom_kill"}), Values: []uint64{n.kills}}
	n.judge.Round(&s)
	n.listen()
}

func (n *node) listen() {
	for _, in := range n.judge.Changed() {
		if _, ok := n.last[in.ID]; !ok {
			n.order = append(n.order, in.ID)
		}
		n.last[in.ID] = in
	}
}

// evicted is the kubelet's eviction of the pod, whose container exceeds its request by so many MiB, as the node had 190 MiB left. At the
// last reading before, so many were available; all pods use 300 MiB of the 1700 that they may.
func (n *node) evicted(available, excess uint64) {
	m := &n.snap.Host.Meminfo
	m.AnonPages, m.Cached, m.Buffers, m.InactiveFile = snapshot.Of((2048-available)*mib), snapshot.Of(50*mib), snapshot.Of(0), snapshot.Of(50*mib)
	n.round(1)
	p := &n.snap.Kubernetes.Pods[0]
	p.Phase, p.Reason = "Failed", "Evicted"
	p.Message = fmt.Sprintf("The node was low on resource: memory. Threshold quantity: 200Mi, available: 190Mi. "+
		"Container app was using %dMi, request is 64Mi, has larger consumption of memory. ", 64+excess)
	n.round(2)
}

// moves are those of a cgroup's own counters, by how much.
func (n *node) moves(seconds float64, path string, oom, kill, group uint64) {
	c := snapshot.OOMCounters{
		Time: at(seconds), Path: path, Inode: 9, Identity: cgroup.Identify(path),
		LocalBefore: snapshot.OOMEvents{Max: snapshot.Of(3), OOM: snapshot.Of(0), OOMKill: snapshot.Of(0), OOMGroupKill: snapshot.Of(0)},
		LocalAfter:  snapshot.OOMEvents{Max: snapshot.Of(5), OOM: snapshot.Of(oom), OOMKill: snapshot.Of(kill), OOMGroupKill: snapshot.Of(group)},
		Max:         n.limits[path],
	}
	n.kills += kill
	n.judge.Counters(&c)
	n.listen()
}

// v1 is a kill of app's as cgroup v1 counts it: the victim's alone.
func (n *node) v1(seconds float64) {
	n.kills++
	n.judge.Counters(&snapshot.OOMCounters{
		Time: at(seconds), Path: appPath, Inode: 9, Identity: cgroup.Identify(appPath),
		LocalBefore: snapshot.OOMEvents{OOMKill: snapshot.Of(0)}, LocalAfter: snapshot.OOMEvents{OOMKill: snapshot.Of(1)},
	})
	n.listen()
}

// record is a kernel's, of a process in path for want of memory in limited, "" for the node's.
func (n *node) record(seconds float64, pid int, path, limited string, change ...func(*snapshot.Kill)) {
	k := snapshot.Kill{
		Time: at(seconds), BootMicros: snapshot.Of(uint64(1e9 + seconds*1e6)), VictimPID: pid, VictimComm: "java", TaskMemcg: path, Victim: cgroup.Identify(path),
		Constraint: snapshot.ConstraintGlobal, AnonRSSKB: snapshot.Of(98 << 10),
	}
	if limited != "" {
		k.Constraint, k.OOMMemcg, k.Limited = snapshot.ConstraintMemcg, limited, cgroup.Identify(limited)
		if limit, ok := n.limits[limited].Get(); ok {
			k.LimitKB, k.UsageKB = snapshot.Of(limit>>10), snapshot.Of(limit>>10)
		}
	}
	for _, c := range change {
		c(&k)
	}
	n.judge.Kill(&k, at(seconds+0.05))
	n.listen()
}

func (n *node) cgroup(path string) *snapshot.Cgroup {
	i := slices.IndexFunc(n.snap.Cgroups, func(c snapshot.Cgroup) bool { return c.Path == path })
	if i < 0 {
		n.t.Fatalf("no cgroup %s", path)
	}
	return &n.snap.Cgroups[i]
}

// remove takes a cgroup away that has none below.
func (n *node) remove(path string) {
	n.snap.Cgroups = slices.DeleteFunc(n.snap.Cgroups, func(c snapshot.Cgroup) bool { return c.Path == path })
	n.snap.Sweep.Vanished = 1
}

// end is the kubelet's word on app's container.
func (n *node) end(seconds float64, code int32, reason string) {
	n.snap.Kubernetes.Pods[0].Containers[0].Terminated = snapshot.Termination{Reason: reason, ExitCode: code, Finished: at(seconds), ContainerID: appID}
}

// only is the one incident that there should be.
func (n *node) only() verdict.Incident {
	n.t.Helper()
	if len(n.order) != 1 {
		n.t.Fatalf("%d incidents: %+v", len(n.order), n.last)
	}
	return n.last[n.order[0]]
}

func TestVerdicts(t *testing.T) {
	everywhere := func(c verdict.Confidence, v verdict.Verdict, e verdict.Effect) [3]string {
		return [3]string{string(v), string(c), string(e)}
	}
	for name, test := range map[string]struct {
		hasLog bool
		happen func(*node)
		want   [3]string
	}{
		"the kernel names the container": {true, func(n *node) {
			n.record(1, 42, appPath, appPath)
			n.remove(appPath)
			n.round(2)
		}, everywhere(verdict.Certain, verdict.ContainerLimit, verdict.Ended)},
		"the kernel names the pod": {true, func(n *node) {
			n.record(1, 42, sidePath, podPath)
			n.remove(sidePath)
			n.round(2)
		}, everywhere(verdict.Certain, verdict.PodLimit, verdict.Ended)},
		"the kernel names all pods": {true, func(n *node) {
			n.record(1, 42, sidePath, kubepods)
			n.round(2)
			n.round(9)
		}, everywhere(verdict.Certain, verdict.KubepodsLimit, verdict.ProcessOnly)},
		"the kernel names the QoS class": {true, func(n *node) { n.record(1, 42, sidePath, burstable) }, everywhere(verdict.Certain, verdict.QoSLimit, "")},
		"the kernel names a service":     {true, func(n *node) { n.record(1, 42, service, service) }, everywhere(verdict.Certain, verdict.CgroupLimit, "")},
		"the kernel names the node":      {true, func(n *node) { n.record(1, 42, sidePath, "") }, everywhere(verdict.Certain, verdict.NodeOOM, "")},
		"the kernel names a cpuset": {true, func(n *node) {
			n.record(1, 42, sidePath, "", func(k *snapshot.Kill) { k.Constraint = snapshot.ConstraintCpuset })
		}, everywhere(verdict.Certain, verdict.NUMAOOM, "")},
		"the record lost its report, the counters did not": {true, func(n *node) {
			n.record(1, 42, appPath, "", func(k *snapshot.Kill) { k.Constraint = "" })
			n.moves(1.01, appPath, 1, 1, 0)
			n.round(2)
		}, everywhere(verdict.Certain, verdict.ContainerLimit, "")},
		"the record lost its report": {true, func(n *node) {
			n.record(1, 42, appPath, "", func(k *snapshot.Kill) { k.Constraint = "" })
			n.round(2)
		}, everywhere(verdict.Likely, verdict.OOMKilled, "")},
		"a group": {true, func(n *node) {
			for pid := 42; pid < 45; pid++ {
				n.record(1, pid, appPath, appPath, func(k *snapshot.Kill) { k.GroupMemcg = appPath })
			}
			n.moves(1.01, appPath, 1, 4, 1)
		}, everywhere(verdict.Certain, verdict.ContainerLimit, verdict.GroupEnded)},

		"counters of the container": {false, func(n *node) {
			n.moves(1, appPath, 1, 1, 0)
			n.remove(appPath)
			n.round(2)
		}, everywhere(verdict.Certain, verdict.ContainerLimit, verdict.Ended)},
		"counters of the pod, and of the victim": {false, func(n *node) {
			n.moves(1, sidePath, 0, 1, 0)
			n.moves(1.01, podPath, 1, 0, 0)
			n.round(2)
			n.round(9)
		}, everywhere(verdict.Certain, verdict.PodLimit, verdict.ProcessOnly)},
		"a kill that no limit counts": {false, func(n *node) {
			n.moves(1, sidePath, 0, 1, 0)
			n.round(2)
		}, everywhere(verdict.Likely, verdict.NodeOOM, "")},
		"counters come, the record does not": {true, func(n *node) {
			n.moves(1, appPath, 1, 1, 0)
			if len(n.order) > 0 {
				n.t.Error("told before the record could come")
			}
			n.round(2)
		}, everywhere(verdict.Certain, verdict.ContainerLimit, "")},
		"v1: the container was at its limit": {false, func(n *node) {
			n.cgroup(appPath).Usage = snapshot.Of(127 * mib)
			n.round(0.5)
			n.v1(1)
			n.round(2)
		}, everywhere(verdict.Likely, verdict.ContainerLimit, "")},
		"v1: the pod was at its limit": {false, func(n *node) {
			n.cgroup(podPath).Usage = snapshot.Of(255 * mib)
			n.round(0.5)
			n.v1(1)
			n.round(2)
		}, everywhere(verdict.Likely, verdict.PodLimit, "")},
		"v1: the pod reached its limit since": {false, func(n *node) {
			n.v1(1)
			n.judge.Counters(&snapshot.OOMCounters{
				Time: at(1.01), Path: podPath, Identity: cgroup.Identify(podPath), Max: n.limits[podPath], Peak: n.limits[podPath],
				LocalBefore: snapshot.OOMEvents{OOMKill: snapshot.Of(0), Max: snapshot.Of(3)}, LocalAfter: snapshot.OOMEvents{OOMKill: snapshot.Of(0), Max: snapshot.Of(9)},
			})
			n.round(2)
		}, everywhere(verdict.Likely, verdict.PodLimit, "")},
		"a record without a report, whose cgroup a counter has": {true, func(n *node) {
			n.moves(1, appPath, 1, 1, 0)
			n.record(1.01, 42, "", "", func(k *snapshot.Kill) { k.Constraint = "" })
			n.round(2)
		}, everywhere(verdict.Certain, verdict.ContainerLimit, "")},
		"the same, in the other order": {true, func(n *node) {
			n.record(1, 42, "", "", func(k *snapshot.Kill) { k.Constraint = "" })
			n.moves(1.1, appPath, 1, 1, 0)
			n.round(2)
		}, everywhere(verdict.Certain, verdict.ContainerLimit, "")},
		"the victim's line says that it was a cgroup's limit, and no more": {true, func(n *node) {
			n.record(1, 42, "", "", func(k *snapshot.Kill) { k.Constraint = snapshot.ConstraintMemcg })
			n.v1(1.1)
			n.round(2)
		}, everywhere(verdict.Certain, verdict.OOMKilled, "")},
		"a record without a report, and nothing else": {true, func(n *node) {
			n.record(1, 42, "", "", func(k *snapshot.Kill) { k.Constraint = "" })
			n.kills++
			n.round(2)
			n.round(4)
			n.round(60)
		}, everywhere(verdict.Likely, verdict.OOMKilled, "")},
		"v1: nobody was at a limit": {false, func(n *node) {
			n.v1(1)
			n.round(2)
		}, everywhere(verdict.Certain, verdict.OOMKilled, "")},
		"v1: nobody was at a limit, and the node was full": {false, func(n *node) {
			n.snap.Host.Meminfo.MemAvailable = snapshot.Of(20 * mib)
			n.round(0.5)
			n.v1(1)
			n.round(2)
		}, everywhere(verdict.Possible, verdict.NodeOOM, "")},

		"counted by the node, told by the kubelet": {false, func(n *node) {
			n.cgroup(appPath).Usage = snapshot.Of(127 * mib)
			n.round(0.5)
			n.kills++
			n.remove(appPath)
			n.round(1)
			n.end(1, 137, "OOMKilled")
			n.round(5)
			n.round(60)
		}, everywhere(verdict.Likely, verdict.ContainerLimit, verdict.Ended)},
		"counted by the node alone": {false, func(n *node) {
			n.kills += 2
			n.round(1)
			n.round(20)
			n.round(40)
		}, everywhere(verdict.Certain, verdict.Unexplained, "")},
		"OOMKilled that the kernel has not counted": {false, func(n *node) {
			n.end(1, 143, "OOMKilled")
			n.round(2)
			n.round(4)
		}, everywhere(verdict.Likely, verdict.NotOOMKilled, verdict.Ended)},
		"SIGKILL that the kernel has not counted": {false, func(n *node) {
			n.end(1, 137, "Error")
			n.round(2)
			n.round(4)
		}, everywhere(verdict.Likely, verdict.Killed, verdict.Ended)},
		"SIGKILL far from a limit, while the kernel kills somebody else": {false, func(n *node) {
			n.kills++
			n.end(1, 137, "Error")
			n.round(2)
			n.round(6)
		}, everywhere(verdict.Likely, verdict.Killed, verdict.Ended)},
		"SIGTERM": {false, func(n *node) {
			n.end(1, 143, "Error")
			n.round(2)
		}, everywhere(verdict.Likely, verdict.Stopped, verdict.Ended)},
		"abort close to the limit": {false, func(n *node) {
			n.end(1, 134, "Error")
			n.round(2)
		}, everywhere(verdict.Likely, verdict.RuntimeCap, verdict.Ended)},
		"failure close to the limit": {false, func(n *node) {
			n.end(1, 3, "Error")
			n.round(2)
		}, everywhere(verdict.Possible, verdict.RuntimeCap, verdict.Ended)},

		"evicted": {false, func(n *node) {
			p := &n.snap.Kubernetes.Pods[0]
			p.Phase, p.Reason = "Failed", "Evicted"
			p.Message = "The node was low on resource: memory. Threshold quantity: 200Mi, available: 92616Ki. Container app was using 1381092Ki, request is 64Mi, has larger consumption of memory. "
			n.end(1, 137, "Error")
			n.round(2)
		}, everywhere(verdict.Certain, verdict.Evicted, verdict.PodEnded)},
		"evicted, and shown as completed": {false, func(n *node) {
			p := &n.snap.Kubernetes.Pods[0]
			p.Phase = "Succeeded"
			p.Disruption = snapshot.Disruption{Reason: "TerminationByKubelet", Time: at(1),
				Message: "The node was low on resource: memory. Threshold quantity: 200Mi, available: 92616Ki. Container app was using 1381092Ki, request is 64Mi, has larger consumption of memory. "}
			n.end(1, 0, "Completed")
			n.round(2)
		}, everywhere(verdict.Certain, verdict.Evicted, verdict.PodEnded)},
		"evicted for others": {false, func(n *node) {
			p := &n.snap.Kubernetes.Pods[0]
			p.Reason = "Evicted"
			p.Message = "The node was low on resource: memory. Threshold quantity: 200Mi, available: 92616Ki. Container app was using 5120Ki, request is 0, has larger consumption of memory. "
			n.round(2)
		}, everywhere(verdict.Likely, verdict.EvictedInnocent, verdict.PodEnded)},
		// The node is short by less than the pod has beyond its request, and a service has what is reserved.
		"evicted for a service": {false, func(n *node) { n.evicted(190, 14) },
			everywhere(verdict.Likely, verdict.EvictedInnocent, verdict.PodEnded)},
		"evicted for its own use, beside a service": {false, func(n *node) { n.evicted(190, 1211) },
			everywhere(verdict.Certain, verdict.Evicted, verdict.PodEnded)},
		"evicted where nobody else had too much": {false, func(n *node) { n.evicted(1500, 14) },
			everywhere(verdict.Certain, verdict.Evicted, verdict.PodEnded)},
		"refused": {false, func(n *node) {
			p := &n.snap.Kubernetes.Pods[0]
			p.Phase, p.Reason, p.Message = "Failed", "Evicted", "Pod was rejected: The node had condition: [MemoryPressure]. "
			n.round(2)
		}, everywhere(verdict.Certain, verdict.Refused, verdict.PodEnded)},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, test.hasLog)
			test.happen(n)
			in := n.only()
			if got := everywhere(in.Confidence, in.Verdict, in.Effect); got != test.want {
				t.Errorf("it is %v, want %v: %+v", got, test.want, in)
			}
			if in.Victim.Identity.PodUID != "" && (in.Victim.Namespace != "shop" || in.Victim.Pod != "web") {
				t.Errorf("the victim is %+v", in.Victim)
			}
			if len(in.Evidence) == 0 {
				t.Error("there is no evidence")
			}
		})
	}
}

// What is no matter of memory is no incident.
func TestNothing(t *testing.T) {
	for name, happen := range map[string]func(*node){
		"quiet":                     func(*node) {},
		"a container completes":     func(n *node) { n.end(1, 0, "Completed") },
		"a crash far from a limit":  func(n *node) { n.cgroup(appPath).Usage = snapshot.Of(10 * mib); n.round(0.5); n.end(1, 1, "Error") },
		"an eviction for disk":      func(n *node) { n.snap.Kubernetes.Pods[0].Message = "The node was low on resource: ephemeral-storage. " },
		"an end of hours ago":       func(n *node) { n.end(-9000, 137, "OOMKilled") },
		"the counters of long ago":  func(n *node) { n.kills = 0 },
		"a limit hit, nobody dies":  func(n *node) { n.moves(1, appPath, 1, 0, 0) },
		"reclaim at the limit only": func(n *node) { n.moves(1, appPath, 0, 0, 0) },
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, false)
			happen(n)
			for s := 2.0; s < 100; s++ {
				n.round(s)
			}
			if len(n.order) > 0 {
				t.Errorf("it is %+v", n.last)
			}
		})
	}
}

// However often a kill is told, by however many sources, and in which order, it is one.
func TestOneKillIsOne(t *testing.T) {
	sources := []func(*node){
		func(n *node) { n.record(1, 42, appPath, appPath) },
		func(n *node) { n.record(1, 42, appPath, appPath) },
		func(n *node) { n.moves(1.01, appPath, 1, 1, 0) },
		func(n *node) { n.remove(appPath); n.round(1.5) },
		func(n *node) { n.end(1, 137, "OOMKilled"); n.round(1.6) },
	}
	permute(len(sources), func(order []int) {
		n := newNode(t, true)
		for _, i := range order {
			if i == 3 && n.cgroupIsGone(appPath) {
				continue
			}
			sources[i](n)
		}
		for s := 2.0; s < 60; s++ {
			n.round(s)
		}
		if len(n.order) != 1 {
			t.Fatalf("in the order %v there are %d: %+v", order, len(n.order), n.last)
		}
		if in := n.only(); in.Kills != 1 || in.Verdict != verdict.ContainerLimit || in.Effect != verdict.Ended || in.Victim.Container != "app" {
			t.Fatalf("in the order %v it is %+v", order, in)
		}
	})
}

func (n *node) cgroupIsGone(path string) bool {
	return !slices.ContainsFunc(n.snap.Cgroups, func(c snapshot.Cgroup) bool { return c.Path == path })
}

// permute calls with each order of n things.
func permute(n int, f func([]int)) {
	order := make([]int, n)
	for i := range order {
		order[i] = i
	}
	var swap func(int)
	swap = func(k int) {
		if k == n {
			f(slices.Clone(order))
			return
		}
		for i := k; i < n; i++ {
			order[k], order[i] = order[i], order[k]
			swap(k + 1)
			order[k], order[i] = order[i], order[k]
		}
	}
	swap(0)
}

// A lone process that is killed as a group is one, though the kernel counts it twice; with the log alone too nothing is left unexplained.
func TestGroupOfOne(t *testing.T) {
	asGroup := func(k *snapshot.Kill) { k.GroupMemcg = appPath }
	for name, happen := range map[string]func(*node){
		"the log":      func(n *node) { n.record(1, 42, appPath, appPath, asGroup); n.kills += 2 },
		"the counters": func(n *node) { n.moves(1, appPath, 1, 2, 1) },
		"both":         func(n *node) { n.record(1, 42, appPath, appPath, asGroup); n.moves(1.01, appPath, 1, 2, 1) },
	} {
		n := newNode(t, true)
		happen(n)
		for s := 2.0; s < 60; s++ {
			n.round(s)
		}
		if in := n.only(); in.Kills != 1 || in.Effect != verdict.GroupEnded {
			t.Errorf("%s: it is %+v", name, in)
		}
	}
}

// Who is told of after the round that follows its death is told of as it was before.
func TestUsageIsFromBefore(t *testing.T) {
	for name, happen := range map[string]func(*node){
		"the log":      func(n *node) { n.record(1.9, 42, appPath, appPath) },
		"the counters": func(n *node) { n.moves(1.9, appPath, 1, 1, 0) },
	} {
		n := newNode(t, true)
		n.cgroup(appPath).Usage = snapshot.Of(99 * mib)
		n.round(1)
		n.cgroup(appPath).Usage = snapshot.Of(460 << 10)
		n.round(2)
		happen(n)
		n.round(3)
		if in := n.only(); in.VictimUsage != snapshot.Of(99*mib) {
			t.Errorf("%s: it used %s", name, in.VictimUsage)
		}
	}
}

// A cgroup outlasts its processes by a round: the container is told of as it was with them.
func TestUsageIsThatOfTheLiving(t *testing.T) {
	anon := func(n *node, bytes uint64) {
		n.cgroup(appPath).Stat = snapshot.Stat{Keys: snapshot.NewKeys([]string{"anon"}), Values: []uint64{bytes}}
	}
	n := newNode(t, false)
	anon(n, 80*mib)
	n.round(1)
	anon(n, 0)
	n.cgroup(appPath).Usage = snapshot.Of(48 << 10)
	n.round(2)
	n.remove(appPath)
	n.round(3)
	n.end(1, 134, "Error")
	n.round(4)
	if in := n.only(); in.VictimUsage != snapshot.Of(100*mib) || in.Confidence != verdict.Likely {
		t.Errorf("it used %s: %s, %s", in.VictimUsage, in.Verdict, in.Confidence)
	}
}

// Two containers that die within a second are two, and a container that dies again a minute later is another time.
func TestTwoKillsAreTwo(t *testing.T) {
	n := newNode(t, true)
	n.record(1, 42, appPath, podPath)
	n.record(1.1, 43, sidePath, podPath)
	n.round(2)
	n.record(61, 44, sidePath, podPath)
	n.round(62)
	if len(n.order) != 3 {
		t.Errorf("there are %d: %+v", len(n.order), n.last)
	}
}
