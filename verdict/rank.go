package verdict

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/memrecon/memrecon/reconcile"
	"github.com/memrecon/memrecon/snapshot"
)

// Ranking is where an evicted pod stood among those that the kubelet may evict, in the kubelet's order but by memrecon's last reading
// before the pod's containers went: the kubelet goes by its own figures of pods, which it reads each 10 to 15 s.
type Ranking struct {
	// Time is when memrecon read them.
	Time time.Time `json:"time"`
	// Place is the pod's, 1 for who goes first, of so many Pods.
	Place int `json:"place"`
	Pods  int `json:"pods"`
	// Key is what put it behind the one before it or, where it is the first, before the next; empty where there is nobody else.
	Key RankKey `json:"key,omitempty"`
	// Before are who came before it, the first three of them.
	Before []Owner `json:"before,omitempty"`
	// KubeletTime is when the kubelet had last read the pod, as far as memrecon had heard by then; in whole seconds. It is zero where
	// nothing was heard.
	KubeletTime time.Time `json:"kubelet_time,omitzero"`
}

// RankKey is what the kubelet orders pods by.
type RankKey string

// The keys, in the order in which they decide.
const (
	// RankUnread: who has no figures goes first.
	RankUnread RankKey = "unread"
	// RankExceeds: then who uses more than it requests.
	RankExceeds RankKey = "exceeds-request"
	// RankPriority: then who has a lower priority.
	RankPriority RankKey = "priority"
	// RankExcess: then whose usage is more beyond its request, or less below it.
	RankExcess RankKey = "excess"
)

// ranked is a pod that the kubelet may evict.
type ranked struct {
	pod *snapshot.Pod
	// memory is its working set less its request, absent tells that the working set is not known.
	memory int64
	absent bool
	// exceeds tells that it uses more than it requests.
	exceeds     bool
	kubeletTime time.Time
}

// rank orders a round's pods as the kubelet does for memory (rankMemoryPressure in pkg/kubelet/eviction/helpers.go, Kubernetes 1.37).
// Those that it passes over (IsCriticalPod in pkg/kubelet/types/pod_update.go) and those that have ended are left out; so are those
// without a cgroup, in which nothing runs.
func rank(s *snapshot.Snapshot) []ranked {
	if s == nil || s.Kubernetes == nil {
		return nil
	}
	cgroups := map[string]*snapshot.Cgroup{}
	for i := range s.Cgroups {
		if c := &s.Cgroups[i]; c.Identity.Class == snapshot.ClassPod {
			cgroups[c.Identity.PodUID] = c
		}
	}
	times := map[string]time.Time{}
	for i := range s.Kubernetes.Summary.Pods {
		times[s.Kubernetes.Summary.Pods[i].UID] = s.Kubernetes.Summary.Pods[i].Memory.Time
	}
	var list []ranked
	for i := range s.Kubernetes.Pods {
		p := &s.Kubernetes.Pods[i]
		c := cgroups[p.UID]
		if c == nil || isCritical(p) || p.Phase == "Succeeded" || p.Phase == "Failed" {
			continue
		}
		n, ok := workingSet(c)
		request, _ := reconcile.PodRequest(p).Get()
		r := ranked{pod: p, absent: !ok, kubeletTime: times[p.UID]}
		if ok {
			r.memory, r.exceeds = int64(n)-int64(request), n > request
		}
		list = append(list, r)
	}
	slices.SortStableFunc(list, func(a, b ranked) int {
		order, _ := a.compare(&b)
		return order
	})
	return list
}

// isCritical tells the pods that the kubelet does not evict: static ones, whose UID here is a hash without dashes, and those of the
// priority of the system's own.
func isCritical(p *snapshot.Pod) bool {
	const system = 2_000_000_000
	return !strings.Contains(p.UID, "-") || p.Priority >= system
}

// compare is below zero where a is evicted before b, with what decides it; none where nothing does.
func (a *ranked) compare(b *ranked) (int, RankKey) {
	for _, by := range []struct {
		key   RankKey
		order int
	}{
		{RankUnread, first(a.absent, b.absent)},
		{RankExceeds, first(a.exceeds, b.exceeds)},
		{RankPriority, cmp.Compare(a.pod.Priority, b.pod.Priority)},
		{RankExcess, cmp.Compare(b.memory, a.memory)},
	} {
		if by.order != 0 {
			return by.order, by.key
		}
	}
	return 0, ""
}

// first orders what is so before what is not.
func first(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}

// ranking is the place of a pod in a round's order, nil where it is not in it.
func ranking(list []ranked, uid string, at time.Time) *Ranking {
	i := slices.IndexFunc(list, func(r ranked) bool { return r.pod.UID == uid })
	if i < 0 {
		return nil
	}
	out := &Ranking{Time: at, Place: i + 1, Pods: len(list), KubeletTime: list[i].kubeletTime}
	switch {
	case i > 0:
		_, out.Key = list[i-1].compare(&list[i])
	case len(list) > 1:
		_, out.Key = list[0].compare(&list[1])
	}
	const most = 3
	for _, r := range list[:min(i, most)] {
		identity := snapshot.Identity{Class: snapshot.ClassPod, PodUID: r.pod.UID, QoS: r.pod.QoS}
		out.Before = append(out.Before, Owner{Identity: identity, Namespace: r.pod.Namespace, Pod: r.pod.Name})
	}
	return out
}
