package snapshot

import "time"

// Kill is one process that the kernel's OOM killer ended, as the kernel's log says it. What the log does not say is absent:
// the report before the kill is rate-limited, an older kernel prints less, and a log loses lines.
type Kill struct {
	// Time is the wall clock of the kill, zero where the log does not pin it down; Stamp is then what it has, such as
	// "Mar  4 10:11:12", of an unknown year or zone.
	Time  time.Time `json:"time,omitzero"`
	Stamp string    `json:"stamp,omitempty"`
	// BootMicros is the kernel's own clock, in microseconds since boot.
	BootMicros Value `json:"boot_us,omitzero"`
	// Host is the machine that the log names.
	Host string `json:"host,omitempty"`

	// Constraint is whose memory was short; empty where the log does not say.
	Constraint Constraint `json:"constraint,omitempty"`
	// OOMMemcg is the cgroup whose limit was hit, TaskMemcg the victim's: paths from the root of the hierarchy.
	OOMMemcg  string `json:"oom_memcg,omitempty"`
	TaskMemcg string `json:"task_memcg,omitempty"`
	// Limited and Victim are what these two paths say about whose the cgroups are.
	Limited Identity `json:"limited,omitzero"`
	Victim  Identity `json:"victim,omitzero"`
	// GroupMemcg is the cgroup all of whose processes were killed, because its memory.oom.group is 1 (Linux 4.19).
	GroupMemcg string `json:"group_memcg,omitempty"`

	VictimPID  int    `json:"victim_pid"`
	VictimComm string `json:"victim_comm,omitempty"`
	// InvokerComm is the process whose allocation found no memory; often not the victim.
	InvokerComm string `json:"invoker_comm,omitempty"`
	UID         Value  `json:"uid,omitzero"`

	// The victim's sizes in KiB, from its own line alone. PgtablesKB is in bytes on Linux 5.4 to 5.4.7, which printed it so
	// under the same name.
	TotalVMKB   Value `json:"total_vm_kb,omitzero"`
	AnonRSSKB   Value `json:"anon_rss_kb,omitzero"`
	FileRSSKB   Value `json:"file_rss_kb,omitzero"`
	ShmemRSSKB  Value `json:"shmem_rss_kb,omitzero"` // Linux 4.5
	PgtablesKB  Value `json:"pgtables_kb,omitzero"`  // Linux 5.4
	OOMScoreAdj *int  `json:"oom_score_adj,omitempty"`

	// Usage and limit of OOMMemcg in KiB when its limit was hit; the limits of memory and swap together and of kernel memory
	// are those of cgroup v1, and one of them may be the one that was hit.
	UsageKB       Value `json:"usage_kb,omitzero"`
	LimitKB       Value `json:"limit_kb,omitzero"`
	MemswUsageKB  Value `json:"memsw_usage_kb,omitzero"`
	MemswLimitKB  Value `json:"memsw_limit_kb,omitzero"`
	KernelUsageKB Value `json:"kernel_usage_kb,omitzero"`
	KernelLimitKB Value `json:"kernel_limit_kb,omitzero"`
	SwapUsageKB   Value `json:"swap_usage_kb,omitzero"` // v2
	SwapLimitKB   Value `json:"swap_limit_kb,omitzero"` // v2

	// Reaped tells that the kernel took the victim's memory without waiting for it to end (oom_reaper, Linux 4.6).
	Reaped bool `json:"reaped,omitempty"`
	// Tasks are candidates from the report's table: the largest, and those that oom_score_adj puts first. TaskCount is how
	// many the table had.
	Tasks     []Task `json:"tasks,omitempty"`
	TaskCount int    `json:"task_count,omitempty"`
}

// Constraint is what kept the kernel from finding memory elsewhere.
type Constraint string

// The constraints (enum oom_constraint in include/linux/oom.h).
const (
	ConstraintMemcg     Constraint = "memcg"     // a cgroup's limit
	ConstraintGlobal    Constraint = "global"    // none: the machine is out of memory
	ConstraintCpuset    Constraint = "cpuset"    // the NUMA nodes that a cpuset allows
	ConstraintMempolicy Constraint = "mempolicy" // the NUMA nodes that mbind or set_mempolicy bind to
)

// Task is a row of the table of candidates that the kernel prints before a kill. Sizes are in pages, page tables in bytes.
type Task struct {
	PID           int    `json:"pid"`
	TGID          int    `json:"tgid"`
	UID           uint32 `json:"uid"`
	Comm          string `json:"comm"`
	TotalVMPages  uint64 `json:"total_vm_pages"`
	RSSPages      uint64 `json:"rss_pages"`
	SwapPages     uint64 `json:"swap_pages"`
	PgtablesBytes Value  `json:"pgtables_bytes,omitzero"` // Linux 4.16; before, the table counts page table pages
	OOMScoreAdj   int    `json:"oom_score_adj"`
}

// KernelLog is what a reading of a kernel's log found.
type KernelLog struct {
	// Source is the file, or the kernel's interface.
	Source string `json:"source"`
	// Lines is how many lines were read, so that an empty Kills can be believed.
	Lines uint64 `json:"lines"`
	Kills []Kill `json:"kills"`
	// Unexplained is what the log has about OOM kills but could not be made a kill of.
	Unexplained Unexplained `json:"unexplained,omitzero"`
}

// Unexplained counts what a kernel's log has about OOM kills that is no kill of its own.
type Unexplained struct {
	// Reports are the kernel's reports of an OOM after which no kill stands in the log.
	Reports uint64 `json:"reports,omitempty"`
	// Damaged are lines that begin as those of a kill and cannot be read.
	Damaged uint64 `json:"damaged,omitempty"`
	// Quoted are lines in which another program repeats a line of the kernel's.
	Quoted uint64 `json:"quoted,omitempty"`
	// Cut are lines so long that their rest was not looked at.
	Cut uint64 `json:"cut,omitempty"`
}
