package verdict

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/memrecon/memrecon/snapshot"
)

// memoryPressure is the Node's condition, memory the resource, in the kubelet's messages.
const (
	memoryPressure = "MemoryPressure"
	memory         = "memory"
)

// eviction is what the kubelet says of a pod that it ended, or refused, for the node's memory; false for any other pod. A pod whose
// containers ended as if by themselves shows Completed or Error, and is known by its condition alone.
func eviction(p *snapshot.Pod) (snapshot.Eviction, bool) {
	for _, message := range []string{p.Message, p.Disruption.Message} {
		e, ok := snapshot.ParseEviction(message)
		if ok && (e.Resource == memory || slices.Contains(e.Conditions, memoryPressure)) {
			return e, true
		}
	}
	return snapshot.Eviction{}, false
}

// evictedAt is when a pod's eviction was over; zero where nobody says.
func evictedAt(p *snapshot.Pod) time.Time {
	at := p.Disruption.Time
	for _, c := range p.Containers {
		if at.IsZero() || c.Terminated.Finished.After(at) {
			at = c.Terminated.Finished
		}
	}
	return at
}

// byEviction decides by the kubelet's own words. A pod that is innocent had less beyond its requests than what was missing, so that the
// node was short without it, or than what others used that are no pods and beyond what is reserved for them: the kubelet takes who
// exceeds requests first, and never what is no pod.
func byEviction(d *dead, in *Incident) {
	e, _ := eviction(d.pod)
	in.Eviction = &e
	in.Verdict, in.Confidence = Evicted, Certain
	in.Limited = Owner{Path: "/", Identity: snapshot.Identity{Class: snapshot.ClassRoot}}
	if len(e.Conditions) > 0 {
		in.Verdict = Refused
		return
	}
	available, isKnown := e.Available.Get()
	if !isKnown {
		return // before Kubernetes 1.26; where it had no figures of the pod, either, nothing could be compared
	}
	var excess uint64
	for _, over := range append([]snapshot.OverRequest{e.Pod}, e.Containers...) {
		usage, _ := over.Usage.Get()
		request, _ := over.Request.Get()
		excess += usage - min(usage, request)
	}
	threshold, _ := e.Threshold.Get()
	in.BeyondReserved = beyondReserved(&d.before)
	beyond, _ := in.BeyondReserved.Get()
	if excess < max(beyond, threshold-min(threshold, available)) {
		in.Verdict, in.Confidence = EvictedInnocent, Likely
	}
}

// beyondReserved is how much more than what is reserved for it what is no pod used: the kubelet gives all pods what the node has less
// what is reserved, so what they do not use of that is available, or others have it. Absent where they had no more.
func beyondReserved(s *lastSeen) snapshot.Value {
	i := slices.IndexFunc(s.parents, func(c snapshot.Cgroup) bool { return c.Identity.Class == snapshot.ClassKubepods })
	if i < 0 {
		return snapshot.Value{}
	}
	limit, isLimited := s.parents[i].Max.Get()
	pods, isRead := workingSet(&s.parents[i])
	available, isKnown := s.available.Get()
	if !isLimited || !isRead || !isKnown || limit <= pods+available {
		return snapshot.Value{}
	}
	return snapshot.Of(limit - pods - available)
}

// shown is the status that kubectl get pods shows of a pod that has ended (printPod in pkg/printers/internalversion/printers.go of
// Kubernetes): the end of its first container that says one, else the pod's reason, else its phase. So an eviction looks like whatever
// the containers ended by.
func shown(p *snapshot.Pod) string {
	for _, c := range p.Containers {
		end := &c.Terminated
		isEnded := end.Reason != "" || end.ContainerID != "" || !end.Finished.IsZero()
		switch {
		case c.Kind != "" || !isEnded:
		case end.Reason != "":
			return end.Reason
		case end.Signal != 0:
			return fmt.Sprintf("Signal:%d", end.Signal)
		default:
			return fmt.Sprintf("ExitCode:%d", end.ExitCode)
		}
	}
	return cmp.Or(p.Reason, p.Phase)
}

func evictionText(p *snapshot.Pod) string {
	if _, ok := snapshot.ParseEviction(p.Message); ok {
		return p.Message
	}
	return p.Disruption.Message
}
