package reconcile

import "github.com/memrecon/memrecon/snapshot"

// podsByUID indexes what Kubernetes says of the node's pods by the UID that their cgroups carry; nil where it says nothing.
func podsByUID(k *snapshot.Kubernetes) map[string]*snapshot.Pod {
	if k == nil {
		return nil
	}
	pods := make(map[string]*snapshot.Pod, len(k.Pods))
	for i := range k.Pods {
		pods[k.Pods[i].UID] = &k.Pods[i]
	}
	return pods
}

// Pod is the pod that a row's cgroup is of or in, nil where it is in none or Kubernetes does not know it: the kubelet's word
// is some seconds old, so a new pod's cgroups come before it and a removed one's may outlast it.
func (s *Sheet) Pod(row int) *snapshot.Pod {
	id := s.identity(row)
	if id.PodUID == "" {
		return nil
	}
	return s.pods[id.PodUID]
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
