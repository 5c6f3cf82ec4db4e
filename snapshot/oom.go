package snapshot

import "time"

// OOMCounters is a cgroup whose OOM counters have moved: as they were, and as they are. What they were at the start of the
// watch is history and no move; a cgroup that was made later began at zero.
type OOMCounters struct {
	// Time is the wall clock when the counters were read.
	Time     time.Time `json:"time"`
	Path     string    `json:"path"`
	Inode    uint64    `json:"inode"`
	Identity Identity  `json:"identity,omitzero"`
	// Before and After count the cgroup with its descendants, also those that are gone: v2 memory.events. Absent on v1 and
	// before Linux 5.2, which have no such count. With cgroup2's mount option memory_localevents it counts the cgroup alone.
	Before OOMEvents `json:"before,omitzero"`
	After  OOMEvents `json:"after,omitzero"`
	// LocalBefore and LocalAfter count the cgroup alone: v2 memory.events.local, before Linux 5.2 memory.events; v1
	// memory.oom_control and memory.failcnt. On v1 LocalBefore.Max is as old as the last reading of the slow files. LocalAfter is
	// absent where the cgroup was removed while it was read.
	LocalBefore OOMEvents `json:"local_before,omitzero"`
	LocalAfter  OOMEvents `json:"local_after,omitzero"`
	// Usage, Peak and Max in bytes, as in Cgroup, were read after the counters: of a cgroup in which a process was killed the
	// usage is already falling. Where the cgroup was gone by then, they are absent, and Max is that of the last sweep.
	Usage Value `json:"usage_bytes,omitzero"`
	Peak  Value `json:"peak_bytes,omitzero"`
	Max   Value `json:"max_bytes,omitzero"`
}

// OOMEvents is how often things happened to a cgroup for want of memory since it was made. The kernel counts each in the cgroup
// named here, and on v2 in memory.events of all above it as well (memcg_memory_event in include/linux/memcontrol.h).
type OOMEvents struct {
	// Max: the cgroup's usage would have gone over its limit, so memory was reclaimed; it may happen a hundred times a second,
	// and kill nobody. v2 max, v1 memory.failcnt (the limit of memory alone, not those of swap and of kernel memory).
	Max Value `json:"max,omitzero"`
	// OOM: reclaim found too little below the cgroup's limit, so the OOM killer was called, though it may have found nobody to
	// kill. This is the cgroup whose limit did it. v2 oom, not counted for the node's own want of memory. Until Linux 4.19 also
	// where only a large allocation failed (order above 3), which kills nobody. v1 does not count it.
	OOM Value `json:"oom,omitzero"`
	// OOMKill: a process of the cgroup was killed by any OOM killer, whosever limit it was and the node's own too. This is the
	// victim's cgroup. v2 oom_kill, v1 oom_kill in memory.oom_control; Linux 4.13. In a group kill it is more than the number of
	// processes: the first victim is killed again as one of the group, and whichever has lost its first thread but not yet all of
	// them is met again among the dying (css_task_iter_advance in kernel/cgroup/cgroup.c; the log then has a thread's ID).
	OOMKill Value `json:"oom_kill,omitzero"`
	// OOMGroupKill: all processes of the cgroup and below were killed as one, as its memory.oom.group says: v2 oom_group_kill,
	// Linux 5.17. It is counted once, after the first victim and before the others.
	OOMGroupKill Value `json:"oom_group_kill,omitzero"`
}

// IsZero tells that nothing is known.
func (e OOMEvents) IsZero() bool { return e == OOMEvents{} }

// Moved tells that one of the counters of OOMs and kills is higher than in before. Max alone is not a move.
func (e OOMEvents) Moved(before OOMEvents) bool {
	return risen(before.OOM, e.OOM) || risen(before.OOMKill, e.OOMKill) || risen(before.OOMGroupKill, e.OOMGroupKill)
}

// risen tells that a counter has gone up. One that was not known before has not: how much of it is new, nobody can tell.
func risen(before, after Value) bool {
	b, known := before.Get()
	a, isKnown := after.Get()
	return known && isKnown && a > b
}
