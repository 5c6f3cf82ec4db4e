package reconcile

import (
	"time"

	"github.com/memrecon/memrecon/snapshot"
)

// podName is what Kubernetes calls a row of a pod, "" where it is not known.
func (s *Sheet) podName(row int, id *snapshot.Identity) string {
	pod, container := s.Pod(row), s.Container(row)
	if pod == nil {
		return ""
	}
	name := pod.Namespace + "/" + pod.Name
	switch {
	case id.ContainerID != "" && id.Class != snapshot.ClassContainer:
		return "" // below a container
	case container != nil:
		name += "/" + container.Name
	case id.ContainerID != "":
		name += " (sandbox)"
	}
	return name
}

// kubeletStats is what the kubelet's summary has of a row's cgroup, nil where it has nothing.
func (s *Sheet) kubeletStats(row int) *snapshot.MemoryStats {
	pod, container := s.Pod(row), s.Container(row)
	if pod == nil {
		return nil
	}
	for i := range s.snap.Kubernetes.Summary.Pods {
		p := &s.snap.Kubernetes.Summary.Pods[i]
		if p.UID != pod.UID && (p.Namespace != pod.Namespace || p.Name != pod.Name) {
			continue
		}
		if s.Class(row) == snapshot.ClassPod {
			return &p.Memory
		}
		for j := range p.Containers {
			if container != nil && p.Containers[j].Name == container.Name {
				return &p.Containers[j].Memory
			}
		}
	}
	return nil
}

// said is a number that the kubelet publishes, with the time it is of.
type said struct {
	value snapshot.Value
	time  time.Time
}

// nodeSaid takes a field of the node in the kubelet's summary.
func nodeSaid(field func(*snapshot.MemoryStats) snapshot.Value) func(*Sheet, int) said {
	return func(s *Sheet, _ int) said {
		if s.snap.Kubernetes == nil {
			return said{}
		}
		m := &s.snap.Kubernetes.Summary.Node
		return said{field(m), m.Time}
	}
}

// cgroupSaid takes a field of the cgroup in the kubelet's summary.
func cgroupSaid(field func(*snapshot.MemoryStats) snapshot.Value) func(*Sheet, int) said {
	return func(s *Sheet, row int) said {
		m := s.kubeletStats(row)
		if m == nil {
			return said{}
		}
		return said{field(m), m.Time}
	}
}

func usageField(m *snapshot.MemoryStats) snapshot.Value      { return m.Usage }
func workingSetField(m *snapshot.MemoryStats) snapshot.Value { return m.WorkingSet }
func rssField(m *snapshot.MemoryStats) snapshot.Value        { return m.RSS }
func availableField(m *snapshot.MemoryStats) snapshot.Value  { return m.Available }

// kubeletConfig is the kubelet's configuration, and whether it was read.
func (s *Sheet) kubeletConfig() (*snapshot.KubeletConfig, bool) {
	if k := s.snap.Kubernetes; k != nil && !k.Config.IsZero() {
		return &k.Config, true
	}
	return nil, false
}

// reserves are what the kubelet keeps from pods, as parts of figures.
func (s *Sheet) reserves() []extra {
	config, ok := s.kubeletConfig()
	if !ok {
		return nil
	}
	var out []extra
	for _, r := range []struct {
		label string
		value snapshot.Value
	}{{"kube-reserved", config.KubeReserved}, {"system-reserved", config.SystemReserved}} {
		if n, ok := r.value.Get(); ok && n > 0 {
			out = append(out, extra{r.label, -int64(n)})
		}
	}
	return out
}

// evictionHard is the hard threshold of memory.available in bytes, 0 where there is none.
func (s *Sheet) evictionHard() int64 {
	config, ok := s.kubeletConfig()
	if !ok {
		return 0
	}
	n, _ := config.EvictionHard.Of(uint64(s.Total)).Get()
	return int64(n)
}

// kubernetesFigures are those that need Kubernetes to say something.
func kubernetesFigures() []Figure {
	needsConfig := func(s *Sheet) string {
		if _, ok := s.kubeletConfig(); !ok {
			return "the kubelet's configuration was not read: --kubelet.url, with the right to get nodes/configz"
		}
		return ""
	}
	return []Figure{
		{
			ID: "kubelet-available", Scope: ScopeNode, Publisher: "kubelet /stats/summary node availableBytes, eviction's signal memory.available",
			Formula: "MemTotal - node-working-set", Source: "pkg/kubelet/stats/helper.go", Versions: "Kubernetes <= 1.36; 1.37 also subtracts huge pages",
			account: func(s *Sheet, row int) account { return complement(nodeWorkingSet(s, row)) },
			kubelet: nodeSaid(availableField),
		},
		{
			ID: "kubepods-limit", Scope: ScopeNode, Publisher: "the kernel's limit of all pods: kubepods memory.max",
			Formula: "capacity - kube-reserved - system-reserved", Source: "pkg/kubelet/cm/node_container_manager_linux.go", Versions: "where enforceNodeAllocatable has pods",
			unmet:   needsConfig,
			account: func(s *Sheet, _ int) account { return node(everything, s.reserves()...) },
			published: func(s *Sheet, _ int) snapshot.Value {
				for i := range s.snap.Cgroups {
					if id := &s.snap.Cgroups[i].Identity; id.Class == snapshot.ClassKubepods && id.Node == "" {
						return s.snap.Cgroups[i].Max
					}
				}
				return snapshot.Value{}
			},
		},
		{
			ID: "allocatable", Scope: ScopeNode, Publisher: "the Node's status.allocatable memory, what the scheduler hands out, kubectl top node's 100%",
			Formula: "capacity - kube-reserved - system-reserved - hard eviction threshold", Source: "pkg/kubelet/cm/node_container_manager_linux.go",
			Versions: "all; huge pages, where there are, are subtracted as well",
			unmet:    needsConfig,
			account: func(s *Sheet, _ int) account {
				a := node(everything, s.reserves()...)
				if n := s.evictionHard(); n > 0 {
					a.extras = append(a.extras, extra{"hard eviction threshold of memory.available", -n})
				}
				if huge, _ := s.snap.Host.Meminfo.Hugetlb.Get(); huge > 0 {
					a.extras = append(a.extras, extra{"huge page pools, which are handed out apart", -int64(huge)})
				}
				return a
			},
			published: func(s *Sheet, _ int) snapshot.Value {
				if s.snap.Kubernetes == nil {
					return snapshot.Value{}
				}
				return s.snap.Kubernetes.Node.Allocatable
			},
		},
	}
}

// RootFormula tells which of the two formulas for the node's working set on cgroup v2 this kubelet uses: the id of the figure
// that is nearer to what the kubelet says, and how far each is off. It is "" where the kubelet said nothing, or where the
// two are too near to each other to tell them apart.
func (s *Sheet) RootFormula() (id string, off, otherOff int64) {
	if s.snap.Kubernetes == nil || s.snap.Mode.Files() != snapshot.V2 {
		return "", 0, 0
	}
	said, ok := s.snap.Kubernetes.Summary.Node.WorkingSet.Get()
	if !ok {
		return "", 0, 0
	}
	const newer, older = "node-working-set", "node-working-set-total-less-free"
	a, err1 := s.Value(newer, OwnerNode)
	b, err2 := s.Value(older, OwnerNode)
	if err1 != nil || err2 != nil {
		return "", 0, 0
	}
	offA, offB := magnitude(a-int64(said)), magnitude(b-int64(said))
	switch {
	case 2*offA < offB:
		return newer, offA, offB
	case 2*offB < offA:
		return older, offB, offA
	}
	return "", 0, 0
}
