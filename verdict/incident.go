// Package verdict says what happened when something died for memory: whose limit did it, why that victim, whether it was the kernel
// or the kubelet. A Judge is told what is known as it becomes known (the kernel's records, counters of cgroups, the kubelet's word),
// and tells an Incident for each death, better as evidence comes in. It is pure: it knows the time only from what it is told, and
// holds facts; how they are said is for report.
package verdict

import (
	"time"

	"github.com/memrecon/memrecon/snapshot"
)

// Incident is one death, or one eviction: what is known of it so far. It is immutable; a later one with the same ID replaces it.
type Incident struct {
	// ID is the same for the same incident, also after a restart where the kernel's log tells it again.
	ID string `json:"id"`
	// Time is when it happened, as exactly as the evidence says.
	Time    time.Time `json:"time"`
	Verdict Verdict   `json:"verdict"`
	// Effect is what ended; empty while that is not known.
	Effect     Effect     `json:"effect,omitempty"`
	Confidence Confidence `json:"confidence"`

	// Victim is whose process was killed, or which pod was evicted.
	Victim Owner `json:"victim"`
	// PID and Comm are the largest process that was killed, 0 and empty where only the kernel's log would say.
	PID  int    `json:"pid,omitempty"`
	Comm string `json:"comm,omitempty"`
	// Kills is how many processes the kernel killed.
	Kills uint64 `json:"kills"`

	// Limited is the cgroup whose limit was hit; its path is "/" where that is the node.
	Limited Owner `json:"limited,omitzero"`
	// Limit and Usage are that cgroup's in bytes at that moment. Usage is the last that was read before, where the kernel did not
	// tell it.
	Limit snapshot.Value `json:"limit_bytes,omitzero"`
	Usage snapshot.Value `json:"usage_bytes,omitzero"`
	// VictimUsage is the usage in bytes of the victim's cgroup at its last reading before, VictimLimit its own limit.
	VictimUsage snapshot.Value `json:"victim_usage_bytes,omitzero"`
	VictimLimit snapshot.Value `json:"victim_limit_bytes,omitzero"`
	// VictimCache is the active page cache then: in the victim's working set, though the kernel could have dropped it.
	VictimCache snapshot.Value `json:"victim_active_file_bytes,omitzero"`
	// VictimIdleCache is the inactive page cache then: in its usage, but not in its working set.
	VictimIdleCache snapshot.Value `json:"victim_inactive_file_bytes,omitzero"`

	// Kill is the kernel's record of the largest process, nil where its log has not been read.
	Kill *snapshot.Kill `json:"kill,omitempty"`
	// Candidates are the processes that the kernel would have chosen first, the victim among them, where it listed them.
	Candidates []Candidate `json:"candidates,omitempty"`
	// Users are who used most of the node's memory then, where that matters: the node was short, or a limit of many.
	Users []User `json:"users,omitempty"`
	// Termination is the end of the victim's container as the kubelet has it.
	Termination *snapshot.Termination `json:"termination,omitempty"`
	// Eviction is what the kubelet said of an eviction.
	Eviction *snapshot.Eviction `json:"eviction,omitempty"`
	// BeyondReserved is how many bytes more than what is reserved for it what is no pod used, at the last reading before an eviction: the
	// limit of all pods (capacity less what is reserved) less their working set, less what the kubelet calls available. Absent where that
	// is not known, or where it used no more.
	BeyondReserved snapshot.Value `json:"beyond_reserved_bytes,omitzero"`
	// Ranking is why the kubelet took this pod, nil where memrecon had not read it before.
	Ranking *Ranking `json:"ranking,omitempty"`
	// Shown is what kubectl get pods shows of a pod that was evicted: Evicted, Completed, Error, ContainerStatusUnknown.
	Shown string `json:"shown,omitempty"`

	// Evidence is what the verdict rests on, in the order of its times.
	Evidence []Evidence `json:"evidence"`
	// Missing is what was not to be had, and would have said more.
	Missing []Missing `json:"missing,omitempty"`
	// Updated is when this was last judged.
	Updated time.Time `json:"updated"`
}

// Owner is a cgroup, and whose it is.
type Owner struct {
	// Path is from the root of the hierarchy; empty where only the pod is known.
	Path     string            `json:"path,omitempty"`
	Identity snapshot.Identity `json:"identity,omitzero"`
	// The names are Kubernetes'; empty where they are not known.
	Namespace string `json:"namespace,omitempty"`
	Pod       string `json:"pod,omitempty"`
	Container string `json:"container,omitempty"`
}

// Verdict is what did it.
type Verdict string

// The verdicts. docs/verdicts has a page for each.
const (
	// The kernel killed, as a limit was hit: the container's own, its pod's, that of all pods of a QoS class, that of all pods
	// (allocatable and the eviction threshold), or that of any other cgroup.
	ContainerLimit Verdict = "container-limit"
	PodLimit       Verdict = "pod-limit"
	QoSLimit       Verdict = "qos-limit"
	KubepodsLimit  Verdict = "kubepods-limit"
	CgroupLimit    Verdict = "cgroup-limit"
	// NodeOOM: the kernel killed, as the node had no memory left.
	NodeOOM Verdict = "node-oom"
	// NUMAOOM: the kernel killed, as the NUMA nodes that a cpuset or a policy allows had no memory left.
	NUMAOOM Verdict = "numa-oom"
	// OOMKilled: the kernel's OOM killer did it; for whose limit is not known.
	OOMKilled Verdict = "oom-killed"

	// Evicted: the kubelet ended the pod to get memory back. EvictedInnocent: likewise, though the node would have been short without
	// what the pod used beyond its requests.
	Evicted         Verdict = "evicted"
	EvictedInnocent Verdict = "evicted-innocent"
	// Refused: the kubelet did not start the pod, as the node was short.
	Refused Verdict = "refused"

	// RuntimeCap: the program ended itself near its limit, as runtimes do that have a cap of their own; the kernel killed nobody.
	RuntimeCap Verdict = "runtime-cap"
	// Killed: something sent SIGKILL, and it was not the kernel's OOM killer.
	Killed Verdict = "killed"
	// Stopped: the container was told to stop, and did.
	Stopped Verdict = "stopped"
	// NotOOMKilled: the kubelet shows OOMKilled, and the kernel killed nobody then.
	NotOOMKilled Verdict = "not-oom-killed"
	// Unexplained: the kernel counted kills that nothing else tells of.
	Unexplained Verdict = "unexplained"
)

// Verdicts are all of them.
func Verdicts() []Verdict {
	return []Verdict{
		ContainerLimit, PodLimit, QoSLimit, KubepodsLimit, CgroupLimit, NodeOOM, NUMAOOM, OOMKilled, Evicted, EvictedInnocent,
		Refused, RuntimeCap, Killed, Stopped, NotOOMKilled, Unexplained,
	}
}

// Effect is what ended.
type Effect string

// The effects.
const (
	Ended       Effect = "ended"   // the container, or the cgroup, ended
	ProcessOnly Effect = "process" // a process of it; the others go on
	GroupEnded  Effect = "group"   // all processes of the cgroup, at once (memory.oom.group)
	PodEnded    Effect = "pod"     // the pod
)

// Confidence is how sure a verdict is.
type Confidence string

// The confidences.
const (
	// Certain: the kernel or the kubelet says so itself.
	Certain Confidence = "certain"
	// Likely: the only thing that all that is known allows.
	Likely Confidence = "likely"
	// Possible: what is known fits it, and other things too.
	Possible Confidence = "possible"
)

// Evidence is one thing that was seen.
type Evidence struct {
	// Source is where: a file, an endpoint, the kernel's log.
	Source string    `json:"source"`
	Time   time.Time `json:"time,omitzero"`
	Text   string    `json:"text"`
}

// Missing is a source that was not to be had.
type Missing string

// What may be missing.
const (
	// MissingKernelLog: which process, how large, and the candidates stand only in the kernel's log.
	MissingKernelLog Missing = "kernel-log"
	// MissingCounters: the kernel counts no OOMs of a cgroup (cgroup v1), or counted them before anybody watched.
	MissingCounters Missing = "counters"
	// MissingPods: the kubelet did not say what pods there are.
	MissingPods Missing = "pods"
	// MissingReading: the pod was not read before it was evicted, so its place among the others is not known.
	MissingReading Missing = "reading"
)

// Candidate is a process that the kernel could have killed.
type Candidate struct {
	snapshot.Task
	// Badness is the kernel's measure in pages (oom_badness in mm/oom_kill.c): resident, swapped and page table pages, and for each
	// thousandth of oom_score_adj a thousandth of all memory that was to be had. Who has most is killed.
	Badness int64 `json:"badness_pages"`
	Chosen  bool  `json:"chosen,omitempty"`
}

// User is somebody who used memory.
type User struct {
	Owner
	// WorkingSet is usage less inactive page cache, in bytes; Request what was requested, absent for what is no pod.
	WorkingSet uint64         `json:"working_set_bytes"`
	Request    snapshot.Value `json:"request_bytes,omitzero"`
}
