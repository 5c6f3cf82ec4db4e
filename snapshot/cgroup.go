package snapshot

// Cgroup is one cgroup as its files said, with the kernel's own meanings: all counters are hierarchical (they include the
// descendants) unless a comment says otherwise.
type Cgroup struct {
	// Path is from the root of the hierarchy: "/" for the root, else with a leading slash and none at the end.
	Path string `json:"path"`
	// Parent is the index of the parent in Snapshot.Cgroups, -1 for the root.
	Parent int32 `json:"parent"`
	// Inode is the directory's inode number, on cgroup v2 the cgroup's id: who a cgroup is. A path that comes back with
	// another inode is another cgroup.
	Inode    uint64   `json:"inode,omitempty"`
	Identity Identity `json:"identity,omitzero"`

	// Usage in bytes: v2 memory.current (absent at the root), v1 memory.usage_in_bytes.
	Usage Value `json:"usage_bytes,omitzero"`
	// Stat is memory.stat. On v1 it has both the cgroup's own counters and the hierarchical total_ ones.
	Stat Stat `json:"stat,omitzero"`
	// KernelUsage in bytes: v1 memory.kmem.usage_in_bytes, which is part of Usage. Absent on v2, where Stat has "kernel".
	KernelUsage Value `json:"kernel_usage_bytes,omitzero"`
	// Events is v2's memory.events: how often, in the cgroup and its descendants.
	Events Stat `json:"events,omitzero"`

	// What follows moves slowly or matters less from one second to the next, and is read less often.

	// EventsLocal is v2's memory.events.local (Linux 5.2): the cgroup's own limit only.
	EventsLocal Stat `json:"events_local,omitzero"`
	// OOMControl is v1's memory.oom_control. Its oom_kill counts the cgroup's own kills, not its descendants'.
	OOMControl Stat `json:"oom_control,omitzero"`
	// Max, the hard limit in bytes: v2 memory.max, v1 memory.limit_in_bytes.
	Max Value `json:"max_bytes,omitzero"`
	// High, the throttling limit in bytes: v2 memory.high.
	High Value `json:"high_bytes,omitzero"`
	// Low, best-effort protection in bytes: v2 memory.low.
	Low Value `json:"low_bytes,omitzero"`
	// Min, hard protection in bytes: v2 memory.min.
	Min Value `json:"min_bytes,omitzero"`
	// SoftLimit in bytes: v1 memory.soft_limit_in_bytes.
	SoftLimit Value `json:"soft_limit_bytes,omitzero"`
	// Peak usage in bytes since the cgroup was made or reset: v2 memory.peak (Linux 5.19), v1 memory.max_usage_in_bytes.
	Peak Value `json:"peak_bytes,omitzero"`
	// Swap usage in bytes: v2 memory.swap.current.
	Swap Value `json:"swap_bytes,omitzero"`
	// SwapMax, the swap limit in bytes: v2 memory.swap.max.
	SwapMax Value `json:"swap_max_bytes,omitzero"`
	// MemswUsage and MemswMax, memory plus swap in bytes: v1 memory.memsw.usage_in_bytes and .limit_in_bytes.
	MemswUsage Value `json:"memsw_usage_bytes,omitzero"`
	MemswMax   Value `json:"memsw_max_bytes,omitzero"`
	// KernelMax in bytes: v1 memory.kmem.limit_in_bytes (no effect since Linux 5.16).
	KernelMax Value `json:"kernel_max_bytes,omitzero"`
	// TCPUsage in bytes: v1 memory.kmem.tcp.usage_in_bytes, which is not part of Usage.
	TCPUsage Value `json:"tcp_usage_bytes,omitzero"`
	// Failcnt is how often v1's limit was hit: memory.failcnt.
	Failcnt Value `json:"failcnt,omitzero"`
	// OOMGroup: v2 memory.oom.group, 1 where an OOM kill takes all processes of the cgroup.
	OOMGroup Value `json:"oom_group,omitzero"`
	// UseHierarchy: v1 memory.use_hierarchy, 0 where the counters do not include the descendants (Linux < 5.11 only).
	UseHierarchy Value `json:"use_hierarchy,omitzero"`
	// Pressure is v2's memory.pressure, absent where the kernel has PSI off.
	Pressure Pressure `json:"pressure,omitzero"`
	// DyingDescendants counts cgroups that were removed but still hold memory: v2 cgroup.stat nr_dying_descendants.
	DyingDescendants Value `json:"dying_descendants,omitzero"`
}

// Pressure is a PSI file: shares of time in which some, or all, tasks waited for memory.
type Pressure struct {
	Some PressureLine `json:"some,omitzero"`
	Full PressureLine `json:"full,omitzero"`
}

// IsZero tells that the file is absent. A file of zeros is not absent, see PressureLine.
func (p Pressure) IsZero() bool { return !p.Some.Known && !p.Full.Known }

// PressureLine is one line of a PSI file.
type PressureLine struct {
	// Known tells that the line was there; the zero PressureLine is an absent one.
	Known bool `json:"known"`
	// Avg10, Avg60, Avg300 are percentages (0 to 100) over the last 10, 60 and 300 seconds.
	Avg10  float64 `json:"avg10"`
	Avg60  float64 `json:"avg60"`
	Avg300 float64 `json:"avg300"`
	// TotalMicros is the time waited since boot, in microseconds.
	TotalMicros uint64 `json:"total_us"`
}

// Identity is what a cgroup's path says about whose it is. A field that the path does not tell is empty.
type Identity struct {
	Class Class `json:"class,omitempty"`
	// QoS class of the pod or of the QoS cgroup.
	QoS QoS `json:"qos,omitempty"`
	// PodUID is as the API writes it, with dashes; a static pod's is 32 hex digits without.
	PodUID string `json:"pod_uid,omitempty"`
	// ContainerID is the runtime's, 64 hex digits as a rule.
	ContainerID string `json:"container_id,omitempty"`
	// Runtime is who made the container: containerd, cri-o, docker, podman, lxc; empty where the path does not say (the
	// cgroupfs driver writes only the ID).
	Runtime string `json:"runtime,omitempty"`
	// Node is the container that holds a nested node (kind, k3d, lxc): its ID or its name.
	Node string `json:"node,omitempty"`
	// Unit is the systemd unit, such as sshd.service.
	Unit string `json:"unit,omitempty"`
}

// Class is what a cgroup is.
type Class string

// The classes of cgroups.
const (
	ClassRoot      Class = "root"      // the root of the hierarchy
	ClassKubepods  Class = "kubepods"  // the kubelet's cgroup of all pods
	ClassQoS       Class = "qos"       // burstable or besteffort under kubepods
	ClassPod       Class = "pod"       // one pod
	ClassContainer Class = "container" // one container
	ClassSlice     Class = "slice"     // a systemd slice
	ClassService   Class = "service"   // a systemd service, and other units that hold processes
	ClassScope     Class = "scope"     // a systemd scope
	ClassOther     Class = "cgroup"    // any other cgroup
)

// QoS is Kubernetes' quality-of-service class.
type QoS string

// The QoS classes. Guaranteed pods stand directly under kubepods.
const (
	Guaranteed QoS = "guaranteed"
	Burstable  QoS = "burstable"
	BestEffort QoS = "besteffort"
)
