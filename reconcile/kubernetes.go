package reconcile

import (
	"strings"

	"github.com/memrecon/memrecon/snapshot"
)

// podWords are what Kubernetes says of one pod.
type podWords struct {
	pod   *snapshot.Pod
	stats *snapshot.PodStats // nil where the kubelet's summary does not have it
}

// podsByUID indexes what Kubernetes says of the node's pods by the UID that their cgroups carry; nil where it says nothing.
func podsByUID(k *snapshot.Kubernetes) map[string]podWords {
	if k == nil || len(k.Pods) == 0 {
		return nil
	}
	type name struct{ namespace, name string }
	byUID, byName := make(map[string]*snapshot.PodStats, len(k.Summary.Pods)), make(map[name]*snapshot.PodStats, len(k.Summary.Pods))
	for i := range k.Summary.Pods {
		stats := &k.Summary.Pods[i]
		byUID[stats.UID], byName[name{stats.Namespace, stats.Name}] = stats, stats
	}
	pods := make(map[string]podWords, len(k.Pods))
	for i := range k.Pods {
		pod := &k.Pods[i]
		stats := byUID[pod.UID]
		if stats == nil && !strings.Contains(pod.UID, "-") { // a static pod: the summary may have the API's UID
			stats = byName[name{pod.Namespace, pod.Name}]
		}
		pods[pod.UID] = podWords{pod, stats}
	}
	return pods
}

// Pod is the pod that a row's cgroup is of or in, nil where it is in none or Kubernetes does not know it: the kubelet's word
// is some seconds old, so a new pod's cgroups come before it and a removed one's may outlast it.
func (s *Sheet) Pod(row int) *snapshot.Pod {
	if uid := s.identity(row).PodUID; uid != "" {
		return s.pods[uid].pod
	}
	return nil
}

// Container is the container of Pod that a row's cgroup is of or in, nil where there is none of its ID: the pod's sandbox,
// which Kubernetes does not list, and a container that was started since.
func (s *Sheet) Container(row int) *snapshot.Container {
	pod, id := s.Pod(row), s.identity(row)
	if pod == nil || id.ContainerID == "" {
		return nil
	}
	for i := range pod.Containers {
		if pod.Containers[i].ID == id.ContainerID {
			return &pod.Containers[i]
		}
	}
	return nil
}

// identity is whose a row's cgroup is, the zero Identity for an owner that is none.
func (s *Sheet) identity(row int) snapshot.Identity {
	if r := &s.Rows[row]; r.Cgroup >= 0 {
		return s.snap.Cgroups[r.Cgroup].Identity
	}
	return snapshot.Identity{}
}

// PodRequest is the memory in bytes that the scheduler sets aside for a pod, absent where it asks for none. A node's sum, as
// kubectl describe node has it, is over the pods whose phase is neither Succeeded nor Failed.
func PodRequest(p *snapshot.Pod) snapshot.Value {
	request := podMemory(p, p.Request, func(c *snapshot.Container) snapshot.Value { return c.Request })
	overhead, ok := p.Overhead.Get()
	if !ok {
		return request
	}
	n, _ := request.Get()
	return snapshot.Of(n + overhead)
}

// PodLimit is the same of the limits, as kubectl describe node sums them up. The kernel holds a pod to it only where each of
// its containers has a limit.
func PodLimit(p *snapshot.Pod) snapshot.Value {
	limit := podMemory(p, p.Limit, func(c *snapshot.Container) snapshot.Value { return c.Limit })
	overhead, _ := p.Overhead.Get()
	if n, ok := limit.Get(); ok && n > 0 {
		return snapshot.Of(n + overhead)
	}
	return limit
}

// Requested is what the pods that are not over request together, and are limited to, in bytes, as kubectl describe node sums it
// up.
func Requested(pods []snapshot.Pod) (requests, limits int64) {
	for i := range pods {
		p := &pods[i]
		if p.Phase == "Succeeded" || p.Phase == "Failed" {
			continue
		}
		request, _ := PodRequest(p).Get()
		limit, _ := PodLimit(p).Get()
		requests, limits = requests+int64(request), limits+int64(limit)
	}
	return requests, limits
}

// podMemory is the whole pod's, where it has that, else what its containers need at most at one time: all that run together,
// or an init container with the sidecars that were started before it (k8s.io/component-helpers, resource.PodRequests).
func podMemory(p *snapshot.Pod, whole snapshot.Value, of func(*snapshot.Container) snapshot.Value) snapshot.Value {
	if !whole.IsAbsent() {
		return whole
	}
	var together, sidecars, start uint64
	known := false
	for i := range p.Containers {
		n, ok := of(&p.Containers[i]).Get()
		known = known || ok
		switch p.Containers[i].Kind {
		case snapshot.InitContainer:
			start = max(start, sidecars+n)
		case snapshot.SidecarContainer:
			sidecars += n
			together += n
		default:
			together += n
		}
	}
	if !known {
		return snapshot.Value{}
	}
	return snapshot.Of(max(together, start))
}
