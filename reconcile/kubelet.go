package reconcile

import (
	"strconv"
	"strings"
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
	k := s.snap.Kubernetes
	switch {
	case k == nil || k.Summary.IsZero():
		return nil
	case row == 0:
		return &k.Summary.Node
	case s.isKubepods(row):
		for i := range k.Summary.System {
			if k.Summary.System[i].Name == "pods" { // pkg/kubelet/apis/stats/v1alpha1 SystemContainerPods
				return &k.Summary.System[i].Memory
			}
		}
		return nil
	}
	stats := s.pods[s.identity(row).PodUID].stats
	if stats == nil {
		return nil
	}
	if s.Class(row) == snapshot.ClassPod {
		return &stats.Memory
	}
	container := s.Container(row)
	for i := range stats.Containers {
		if container != nil && s.Class(row) == snapshot.ClassContainer && stats.Containers[i].Name == container.Name {
			return &stats.Containers[i].Memory
		}
	}
	return nil
}

// isKubepods tells that a row is the kubelet's cgroup of all pods of this node, and not that of a node inside a container.
func (s *Sheet) isKubepods(row int) bool {
	id := s.identity(row)
	return id.Class == snapshot.ClassKubepods && id.Node == ""
}

// kubepods is the row of the cgroup of all pods, false where there is none.
func (s *Sheet) kubepods() (row int, ok bool) {
	for i := range s.snap.Cgroups {
		if s.isKubepods(i) {
			return i, true
		}
	}
	return 0, false
}

// field is one of the numbers that the kubelet publishes of a cgroup.
type field int

// The fields. A History keeps those before numSeries; what is available follows from the working set.
const (
	usageField field = iota
	workingSetField
	rssField
	numSeries
	availableField = numSeries
)

// of is the field in what the kubelet says.
func (f field) of(m *snapshot.MemoryStats) snapshot.Value {
	switch f {
	case usageField:
		return m.Usage
	case workingSetField:
		return m.WorkingSet
	case rssField:
		return m.RSS
	default:
		return m.Available
	}
}

// said is a number that the kubelet publishes, the time it is of, and what the figure was then.
type said struct {
	value snapshot.Value
	time  time.Time
	then  Span
}

// summarized takes a field of the row in the kubelet's summary.
func summarized(f field) func(*Sheet, int) said {
	return func(s *Sheet, row int) said {
		m := s.kubeletStats(row)
		if m == nil {
			return said{}
		}
		return said{value: f.of(m), time: m.Time, then: s.before(row, f)}
	}
}

// before is what a figure of a row was when the kubelet read it.
func (s *Sheet) before(row int, f field) Span {
	switch {
	case row >= len(s.then): // there is no History, or not even a root
		return Span{}
	case f != availableField:
		return s.then[row][f]
	}
	// The working set and what is available are the two parts of a whole that has not changed meanwhile.
	available, workingSet := available(s, row), tree(row, everything.without(FileInactive)).floor(s)
	if row == 0 {
		available, workingSet = nodeAvailable(s, row), nodeWorkingSet(s, row)
	}
	whole, then := available.value(s)+workingSet.value(s), s.then[row][workingSetField]
	return Span{whole - then.High, whole - then.Low, then.Known}
}

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
	needsPods := func(s *Sheet) string {
		if s.snap.Kubernetes == nil || s.snap.Kubernetes.Pods == nil {
			return "the kubelet's pods were not read: --kubelet.url, with the right to get nodes/pods"
		}
		return ""
	}
	return []Figure{
		{
			ID: "top-node", Scope: ScopeNode, Publisher: "kubectl top node, by metrics-server and the kubelet's /metrics/resource",
			Formula: "node-working-set; its percentage is of allocatable, with --show-capacity of capacity",
			Source:  "pkg/kubelet/metrics/collectors/resource_metrics.go, kubectl pkg/metricsutil/metrics_printer.go", Versions: "as node-usage",
			account: nodeWorkingSet,
			kubelet: func(s *Sheet, _ int) said { return s.sampled(workingSetOf{}, s.before(0, workingSetField)) },
		},
		{
			ID: "kubelet-available", Scope: ScopeNode, Publisher: "kubelet /stats/summary node availableBytes, eviction's signal memory.available",
			Formula: "MemTotal - node-working-set, from 1.37 on also without huge pages", Source: "pkg/kubelet/stats/helper.go",
			Versions: "all; the feature gate HugepageAwareEviction is on since Kubernetes 1.37",
			account:  nodeAvailable,
			kubelet:  summarized(availableField),
		},
		{
			ID: "allocatable-available", Scope: ScopeNode, Publisher: "eviction's signal allocatableMemory.available, kubelet /stats/summary systemContainers pods availableBytes",
			Formula: "limit of kubepods - working-set of kubepods", Source: "pkg/kubelet/eviction/helpers.go makeSignalObservations",
			Versions: "where enforceNodeAllocatable has pods",
			unmet: func(s *Sheet) string {
				if row, ok := s.kubepods(); !ok || s.Rows[row].Known != KnownUsage|KnownStat {
					return "there is no cgroup kubepods, or it could not be read"
				} else if _, limited := s.Limit(row).Get(); !limited {
					return "the cgroup kubepods has no limit: enforceNodeAllocatable without pods"
				}
				return ""
			},
			account: func(s *Sheet, _ int) account { row, _ := s.kubepods(); return available(s, row) },
			kubelet: func(s *Sheet, _ int) said { row, _ := s.kubepods(); return summarized(availableField)(s, row) },
		},
		{
			ID: "eviction-hard", Scope: ScopeNode, Publisher: "the kubelet's evictionHard memory.available, the threshold of both signals",
			Formula: "as configured; a percentage is of capacity", Source: "pkg/kubelet/eviction/helpers.go", Versions: "all; 100Mi where nothing is configured, k3s: none",
			unmet: func(s *Sheet) string {
				if why := needsConfig(s); why != "" {
					return why
				}
				if s.evictionHard() == 0 {
					return "the kubelet has no hard threshold for memory.available"
				}
				return ""
			},
			account: func(s *Sheet, _ int) account {
				return constant("hard eviction threshold of memory.available", s.evictionHard())
			},
		},
		{
			ID: "capacity", Scope: ScopeNode, Publisher: "the Node's status.capacity memory, kubectl describe node",
			Formula: "MemTotal", Source: "cAdvisor machine/machine.go GetMachineMemoryCapacity", Versions: "all",
			account:   func(*Sheet, int) account { return node(everything) },
			published: nodeSays(func(n *snapshot.Node) snapshot.Value { return n.Capacity }),
		},
		{
			ID: "reserved", Scope: ScopeNode, Publisher: "the kubelet's configuration",
			Formula: "kube-reserved + system-reserved", Source: "pkg/kubelet/cm/node_container_manager_linux.go GetNodeAllocatableReservation", Versions: "all",
			unmet: needsConfig,
			account: func(s *Sheet, _ int) account {
				a := account{}
				for _, r := range s.reserves() {
					a.extras = append(a.extras, extra{r.label, -r.bytes})
				}
				return a
			},
		},
		{
			ID: "kubepods-limit", Scope: ScopeNode, Publisher: "the kernel's limit of all pods: kubepods memory.max (v1: memory.limit_in_bytes)",
			Formula: "capacity - kube-reserved - system-reserved", Source: "pkg/kubelet/cm/node_container_manager_linux.go", Versions: "where enforceNodeAllocatable has pods",
			unmet:   needsConfig,
			account: func(s *Sheet, _ int) account { return node(everything, s.reserves()...) },
			published: func(s *Sheet, _ int) snapshot.Value {
				if row, ok := s.kubepods(); ok {
					return s.Limit(row)
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
			published: nodeSays(func(n *snapshot.Node) snapshot.Value { return n.Allocatable }),
		},
		{
			ID: "requests", Scope: ScopeNode, Publisher: "kubectl describe node, Allocated resources: memory requests",
			Formula: "the sum of the memory requests of the node's pods that are neither Succeeded nor Failed", Source: "k8s.io/component-helpers resource.PodRequests", Versions: "all",
			unmet: needsPods,
			account: func(s *Sheet, _ int) account {
				n, _ := Requested(s.snap.Kubernetes.Pods)
				return constant("what pods request", n)
			},
		},
		{
			ID: "limits", Scope: ScopeNode, Publisher: "kubectl describe node, Allocated resources: memory limits",
			Formula: "the sum of the memory limits of the same pods, as far as their containers have limits", Source: "k8s.io/component-helpers resource.PodLimits", Versions: "all",
			unmet: needsPods,
			account: func(s *Sheet, _ int) account {
				_, n := Requested(s.snap.Kubernetes.Pods)
				return constant("what pods are limited to", n)
			},
		},
		{
			ID: "pods-working-set", Scope: ScopeNode, Publisher: "whoever sums the pods: sum(container_memory_working_set_bytes) over their cgroups",
			Formula: "the sum of working-set over all pods' cgroups", Source: "", Versions: "all",
			unmet: func(s *Sheet) string {
				if _, ok := s.kubepods(); !ok {
					return "there is no cgroup kubepods"
				}
				return ""
			},
			account: func(s *Sheet, _ int) account {
				a := account{rows: rows{of: inPods}, weights: everything.without(FileInactive)}
				for i := range s.snap.Cgroups {
					if s.Class(i) == snapshot.ClassPod {
						a = a.raise(max(0, -a.weights.of(&s.Rows[i].All)))
					}
				}
				return a
			},
		},
		{
			ID: "available", Scope: ScopeCgroup, needs: KnownUsage | KnownStat, Publisher: "kubelet /stats/summary availableBytes of pods and containers with a limit",
			Formula: "its limit - working-set", Source: "pkg/kubelet/stats/helper.go", Versions: "all; the kubelet does not stop at zero, but wraps to nearly 2^64",
			only: func(s *Sheet, row int) string {
				if _, ok := s.Limit(row).Get(); !ok {
					return "it has no limit of its own"
				}
				return ""
			},
			account: available,
			kubelet: summarized(availableField),
		},
		{
			ID: "top-pod", Scope: ScopeCgroup, needs: KnownUsage | KnownStat, Publisher: "kubectl top pod, by metrics-server and the kubelet's /metrics/resource",
			Formula: "the sum of working-set over the pod's containers, without its sandbox and what the pod's own cgroup is charged", Source: "kubectl pkg/metricsutil/metrics_printer.go",
			Versions: "all",
			only: func(s *Sheet, row int) string {
				if s.Class(row) != snapshot.ClassPod || s.Pod(row) == nil {
					return "it is no pod that the kubelet knows: kubectl top pod sums up a pod's containers"
				}
				return ""
			},
			account: topPod,
			kubelet: func(s *Sheet, row int) said {
				pod := s.Pod(row)
				var sum said
				for i := range pod.Containers {
					one := s.sampled(workingSetOf{pod.Namespace, pod.Name, pod.Containers[i].Name}, Span{})
					n, ok := one.value.Get()
					if !ok {
						continue
					}
					total, _ := sum.value.Get()
					sum.value = snapshot.Of(total + n)
					if sum.time.IsZero() || one.time.Before(sum.time) {
						sum.time = one.time
					}
				}
				return sum
			},
		},
	}
}

// nodeSays takes a number from the API server's Node.
func nodeSays(of func(*snapshot.Node) snapshot.Value) func(*Sheet, int) snapshot.Value {
	return func(s *Sheet, _ int) snapshot.Value {
		if s.snap.Kubernetes == nil {
			return snapshot.Value{}
		}
		return of(&s.snap.Kubernetes.Node)
	}
}

// nodeAvailable is what the kubelet takes for available on the node.
func nodeAvailable(s *Sheet, row int) account {
	a := complement(nodeWorkingSet(s, row))
	huge, _ := s.snap.Host.Meminfo.Hugetlb.Get()
	if s.snap.Kubernetes == nil || huge == 0 || !hugePageAware(s.snap.Kubernetes.Node.KubeletVersion) {
		return a
	}
	a.extras = append(a.extras, extra{"huge page pools, which this kubelet does not take for available", -int64(huge)})
	return a
}

// hugePageAware tells that a kubelet of this version, such as v1.37.2, has the feature HugepageAwareEviction on by default.
func hugePageAware(version string) bool {
	rest, ok := strings.CutPrefix(version, "v1.")
	minor, _, _ := strings.Cut(rest, ".")
	n, err := strconv.Atoi(minor)
	return ok && err == nil && n >= 37
}

// available is what a cgroup's limit leaves beyond its working set.
func available(s *Sheet, row int) account {
	a := tree(row, everything.without(FileInactive)).floor(s)
	for k := range a.weights {
		a.weights[k] = -a.weights[k]
	}
	for i := range a.extras {
		a.extras[i].bytes = -a.extras[i].bytes
	}
	limit, _ := s.Limit(row).Get()
	a.extras = append(a.extras, extra{"its limit", int64(limit)})
	return a
}

// topPod is the working sets of a pod's containers, those below their cgroups included.
func topPod(s *Sheet, row int) account {
	a := account{rows: rows{of: containers, owner: row}, weights: everything.without(FileInactive)}
	in := s.members(a.rows)
	for i := row + 1; i < len(s.snap.Cgroups); i++ {
		if in(i) && s.Class(i) == snapshot.ClassContainer {
			a = a.raise(max(0, -a.weights.of(&s.Rows[i].All)))
		}
	}
	return a
}

// workingSetOf names a sample of the kubelet's /metrics/resource: of a container, or of the node where it has no names.
type workingSetOf struct{ namespace, pod, container string }

// sampled is the sample of that name.
func (s *Sheet) sampled(name workingSetOf, then Span) said {
	if s.snap.Kubernetes == nil {
		return said{}
	}
	for i := range s.snap.Kubernetes.WorkingSets {
		w := &s.snap.Kubernetes.WorkingSets[i]
		if name == (workingSetOf{w.Namespace, w.Pod, w.Container}) {
			return said{value: snapshot.Of(w.Bytes), time: w.Time, then: then}
		}
	}
	return said{}
}

// KubeletAgrees is how many figures could be compared with the kubelet's at the time of which those are, and by how many bytes the
// furthest differs beyond what was read around it.
func (s *Sheet) KubeletAgrees() (compared int, furthest int64) {
	for row := range s.then {
		m := s.kubeletStats(row)
		for f := range numSeries {
			if m == nil || !s.then[row][f].Known {
				continue
			}
			if n, said := f.of(m).Get(); said {
				compared++
				furthest = max(furthest, magnitude(s.then[row][f].Off(int64(n))))
			}
		}
	}
	return compared, furthest
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
