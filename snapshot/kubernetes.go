package snapshot

import "time"

// Kubernetes is what the kubelet and the API server say of the node. Each part comes from an endpoint of its own; one that
// could not be read is absent, and Snapshot.Errors says why.
type Kubernetes struct {
	// Time is the wall clock when the kubelet was asked. Its figures are older, by up to 15 s as a rule, and have their own
	// times.
	Time time.Time `json:"time,omitzero"`
	// Summary is the kubelet's /stats/summary.
	Summary Summary `json:"summary,omitzero"`
	// WorkingSets is the kubelet's /metrics/resource, which metrics-server reads for kubectl top.
	WorkingSets []WorkingSet `json:"working_sets,omitempty"`
	// Pods is the kubelet's /pods: those that it runs or is still to clean up, static ones included; nil where it was not read.
	Pods []Pod `json:"pods,omitzero"`
	// PodsTime and ConfigTime are when Pods and Config were read: before Time where the kubelet did not answer since. Names and
	// settings are kept then, figures are not.
	PodsTime   time.Time `json:"pods_time,omitzero"`
	ConfigTime time.Time `json:"kubelet_config_time,omitzero"`
	// Config is the kubelet's /configz.
	Config KubeletConfig `json:"kubelet_config,omitzero"`
	// Node is the API server's Node of this name.
	Node Node `json:"node,omitzero"`
}

// Summary is the memory in the kubelet's /stats/summary (k8s.io/kubelet, pkg/apis/stats/v1alpha1).
type Summary struct {
	Node MemoryStats `json:"node,omitzero"`
	// System are the kubelet's system containers: kubelet, runtime and misc where their cgroups are configured, and pods,
	// which is the kubepods cgroup.
	System []ContainerStats `json:"system,omitempty"`
	Pods   []PodStats       `json:"pods,omitempty"`
}

// IsZero tells that the summary is absent.
func (s Summary) IsZero() bool { return s.Node == MemoryStats{} && s.System == nil && s.Pods == nil }

// PodStats is a pod's memory as the kubelet publishes it.
type PodStats struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	// UID is as in Pod.
	UID string `json:"uid"`
	// Memory is that of the pod's cgroup.
	Memory     MemoryStats      `json:"memory,omitzero"`
	Containers []ContainerStats `json:"containers,omitempty"`
}

// ContainerStats is a container's memory as the kubelet publishes it.
type ContainerStats struct {
	Name   string      `json:"name"`
	Memory MemoryStats `json:"memory,omitzero"`
}

// MemoryStats is the kubelet's MemoryStats and SwapStats of one cgroup: sizes in bytes, faults since the cgroup was made.
type MemoryStats struct {
	// Time is when the kubelet's cAdvisor, or the runtime, read the cgroup, in whole seconds.
	Time time.Time `json:"time,omitzero"`
	// Available is the limit less the working set, absent where there is no limit (the node's limit is MemTotal). The
	// kubelet subtracts without a floor, so that a working set above the limit wraps to nearly 2^64: that is zero here.
	Available       Value `json:"available_bytes,omitzero"`
	Usage           Value `json:"usage_bytes,omitzero"`
	WorkingSet      Value `json:"working_set_bytes,omitzero"`
	RSS             Value `json:"rss_bytes,omitzero"`
	PageFaults      Value `json:"page_faults,omitzero"`
	MajorPageFaults Value `json:"major_page_faults,omitzero"`
	// SwapTime is when swap was read; it and the others are absent before Kubernetes 1.29.
	SwapTime      time.Time `json:"swap_time,omitzero"`
	SwapAvailable Value     `json:"swap_available_bytes,omitzero"`
	SwapUsage     Value     `json:"swap_usage_bytes,omitzero"`
}

// WorkingSet is one sample of node_, pod_ or container_memory_working_set_bytes of /metrics/resource. The node's has no
// names, a pod's no container.
type WorkingSet struct {
	Namespace string    `json:"namespace,omitempty"`
	Pod       string    `json:"pod,omitempty"`
	Container string    `json:"container,omitempty"`
	Time      time.Time `json:"time"` // when the cgroup was read, in milliseconds
	Bytes     uint64    `json:"bytes"`
}

// Pod is a pod as the kubelet knows it.
type Pod struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	// UID is the one in the paths of its cgroups: that of the API, for a static pod its kubernetes.io/config.hash.
	UID string `json:"uid"`
	QoS QoS    `json:"qos,omitempty"`
	// Priority decides, after the excess over the requests, who is evicted first. 0 where none is given, as for the kubelet.
	Priority int32 `json:"priority,omitempty"`
	// Phase is Pending, Running, Succeeded, Failed or Unknown.
	Phase string `json:"phase,omitempty"`
	// Reason is why it is in that phase, such as Evicted, and Message says more: see ParseEviction. An evicted pod may lack both,
	// where its containers ended as if by themselves.
	Reason  string `json:"reason,omitempty"`
	Message string `json:"message,omitempty"`
	// Disruption is why somebody ended the pod, zero where nobody did.
	Disruption Disruption `json:"disruption,omitzero"`
	// Request and Limit are memory in bytes for the pod as a whole (spec.resources; Kubernetes 1.32), absent where only its
	// containers have them.
	Request Value `json:"request_bytes,omitzero"`
	Limit   Value `json:"limit_bytes,omitzero"`
	// Overhead is memory in bytes that the RuntimeClass adds to the requests and limits.
	Overhead   Value       `json:"overhead_bytes,omitzero"`
	Containers []Container `json:"containers,omitempty"`
}

// Container is a container of a pod.
type Container struct {
	Name string        `json:"name"`
	Kind ContainerKind `json:"kind,omitempty"`
	// ID is the runtime's, as in the path of its cgroup; empty before there is one.
	ID string `json:"id,omitempty"`
	// Runtime is the scheme before the ID in the API: containerd, cri-o, docker.
	Runtime string `json:"runtime,omitempty"`
	// Request and Limit are memory in bytes as the spec has them; absent where it has none.
	Request Value `json:"request_bytes,omitzero"`
	Limit   Value `json:"limit_bytes,omitzero"`
	// Restarts is how often it was started again.
	Restarts int `json:"restarts,omitempty"`
	// Terminated is its end where it is not running, else the one before this run; zero where there was none.
	Terminated Termination `json:"terminated,omitzero"`
	// Previous is the end before Terminated, of a container that is not running.
	Previous Termination `json:"previous,omitzero"`
}

// Disruption is a pod's condition DisruptionTarget where it is True (Kubernetes 1.26).
type Disruption struct {
	// Reason is TerminationByKubelet, which evicts and shuts down, PreemptionByScheduler, EvictionByEvictionAPI,
	// DeletionByTaintManager or DeletionByPodGC.
	Reason  string `json:"reason,omitempty"`
	Message string `json:"message,omitempty"`
	// Time is when it became so: for the kubelet when it wrote the pod's end, after the grace period.
	Time time.Time `json:"time,omitzero"`
}

// ContainerKind tells the containers of a pod that do not simply run as long as it does.
type ContainerKind string

// The kinds of containers; a regular one has none.
const (
	InitContainer      ContainerKind = "init"      // runs before the others
	SidecarContainer   ContainerKind = "sidecar"   // an init container with restartPolicy Always, runs beside the others
	EphemeralContainer ContainerKind = "ephemeral" // of kubectl debug
)

// Termination is how a container ended.
type Termination struct {
	// Reason is the runtime's or the kubelet's word: OOMKilled, Error, Completed, StartError, ContainerStatusUnknown.
	Reason   string `json:"reason,omitempty"`
	ExitCode int32  `json:"exit_code"`
	// Signal ended it, 0 where the runtime does not say. Most say it by an exit code of 128 and the signal alone.
	Signal int32 `json:"signal,omitempty"`
	// Message is the application's last words (terminationMessagePath, or the end of its log), up to 4 KiB; where it could not be
	// started or was lost, those of the runtime or the kubelet.
	Message string `json:"message,omitempty"`
	// Started and Finished are zero where the kubelet does not know.
	Started  time.Time `json:"started,omitzero"`
	Finished time.Time `json:"finished,omitzero"`
	// ContainerID is the ended container's, which is Container.ID until it is started again.
	ContainerID string `json:"container_id,omitempty"`
}

// KubeletConfig is what the kubelet's configuration says of memory. Defaults are filled in by the kubelet.
type KubeletConfig struct {
	// EvictionHard and EvictionSoft are the thresholds of the signal memory.available. Where EnforceNodeAllocatable has
	// pods, the hard one is that of allocatableMemory.available too.
	EvictionHard Threshold `json:"eviction_hard,omitzero"`
	EvictionSoft Threshold `json:"eviction_soft,omitzero"`
	// EvictionSoftGrace is how long the soft threshold must be crossed.
	EvictionSoftGrace time.Duration `json:"eviction_soft_grace_ns,omitempty"`
	// EvictionPressureTransition is how long MemoryPressure is held after the signal went back.
	EvictionPressureTransition time.Duration `json:"eviction_pressure_transition_ns,omitempty"`
	// SystemReserved and KubeReserved are memory in bytes; absent where none is.
	SystemReserved Value `json:"system_reserved_bytes,omitzero"`
	KubeReserved   Value `json:"kube_reserved_bytes,omitzero"`
	// EnforceNodeAllocatable has pods, kube-reserved, system-reserved, or none.
	EnforceNodeAllocatable []string `json:"enforce_node_allocatable,omitempty"`
	// CgroupDriver is cgroupfs or systemd.
	CgroupDriver string `json:"cgroup_driver,omitempty"`
	// SwapBehavior is NoSwap or LimitedSwap; empty stands for NoSwap.
	SwapBehavior string `json:"swap_behavior,omitempty"`
	// ThrottlingFactor of MemoryQoS places memory.high between the request and the limit; nil where it is not set, and
	// memory.high with it.
	ThrottlingFactor *float64 `json:"memory_throttling_factor,omitempty"`
	// ReservationPolicy of MemoryQoS is None or TieredReservation, which sets memory.min and memory.low (Kubernetes 1.36).
	ReservationPolicy string `json:"memory_reservation_policy,omitempty"`
}

// IsZero tells that the configuration is absent: every kubelet has a driver for its cgroups.
func (c KubeletConfig) IsZero() bool { return c.CgroupDriver == "" }

// Threshold is an eviction threshold, either a quantity or a share. The zero Threshold is none.
type Threshold struct {
	Bytes Value `json:"bytes,omitzero"`
	// Percent of the signal's capacity, 0 to 100.
	Percent float64 `json:"percent,omitempty"`
}

// Of is the threshold in bytes where the signal's capacity is this, absent where there is none. Allocatable counts with the
// node's capacity; memory.available with available and working set together, allocatableMemory.available likewise in
// kubepods.
func (t Threshold) Of(capacity uint64) Value {
	if t.Percent == 0 {
		return t.Bytes
	}
	// pkg/kubelet/eviction: parsePercentage and GetThresholdQuantity, with their float32.
	return Of(uint64(float64(capacity) * float64(float32(t.Percent)/100)))
}

// Node is the API server's Node.
type Node struct {
	Name string `json:"name"`
	// Time is until when the API server is known to have said this: the time of reading while it answers, and when it was
	// last heard after that.
	Time time.Time `json:"time,omitzero"`
	// Capacity and Allocatable are memory in bytes.
	Capacity    Value `json:"capacity_bytes,omitzero"`
	Allocatable Value `json:"allocatable_bytes,omitzero"`
	// HugePages is the capacity in huge pages of all sizes in bytes, which allocatable memory is lessened by.
	HugePages  Value       `json:"huge_pages_bytes,omitzero"`
	Conditions []Condition `json:"conditions,omitempty"`
	Taints     []Taint     `json:"taints,omitempty"`
	// KubeletVersion is such as v1.37.2.
	KubeletVersion string `json:"kubelet_version,omitempty"`
}

// IsZero tells that the Node is absent.
func (n Node) IsZero() bool { return n.Name == "" }

// Condition is a condition of the Node, such as Ready or MemoryPressure.
type Condition struct {
	Type string `json:"type"`
	// Status is True, False or Unknown.
	Status string `json:"status"`
	Reason string `json:"reason,omitempty"`
	// Since is when the status became what it is.
	Since time.Time `json:"since,omitzero"`
	// Heartbeat is when the kubelet last said it; it does so each 5 min where nothing changes.
	Heartbeat time.Time `json:"heartbeat,omitzero"`
}

// Taint keeps pods away that do not tolerate it, such as node.kubernetes.io/memory-pressure.
type Taint struct {
	Key    string `json:"key"`
	Value  string `json:"value,omitempty"`
	Effect string `json:"effect"` // NoSchedule, PreferNoSchedule or NoExecute
}
