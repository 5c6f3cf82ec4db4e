package cgroup

import (
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/memrecon/memrecon/snapshot"
)

// counters reads a cgroup's OOM counters, with its descendants' and without.
func (w *Watcher) counters(dir int) (events, local snapshot.OOMEvents) {
	if w.isV1() {
		local.OOMKill, _ = parseKey(w.content(dir, "memory.oom_control"), "oom_kill")
		local.Max, _ = parseValue(w.content(dir, "memory.failcnt"))
		return events, local
	}
	events = parseEvents(w.content(dir, "memory.events"))
	local = parseEvents(w.content(dir, "memory.events.local"))
	w.hasLocal = w.hasLocal || !local.IsZero()
	if !w.hasLocal { // before Linux 5.2 memory.events is the cgroup's own
		return local, events
	}
	return events, local // absent where the cgroup was removed between the two
}

// nodeKills is how many processes the kernel's OOM killer has killed since boot.
func (w *Watcher) nodeKills() snapshot.Value {
	kills, _ := parseKey(w.content(unix.AT_FDCWD, filepath.Join(w.procfs, "vmstat")), "oom_kill")
	return kills
}

// content is what a file holds, until the next call; nothing where it can't be read.
func (w *Watcher) content(dir int, name string) []byte {
	fd, errno := openat(dir, append([]byte(name), 0), unix.O_RDONLY)
	if errno != 0 {
		return nil
	}
	defer func() { _ = unix.Close(fd) }() // nothing was written
	n, errno := pread(fd, w.buf)
	if errno != 0 {
		return nil
	}
	return w.buf[:n]
}

// parseEvents reads memory.events or memory.events.local:
//
//	low 0
//	high 0
//	max 31
//	oom 1
//	oom_kill 1
//	oom_group_kill 0
func parseEvents(data []byte) (e snapshot.OOMEvents) {
	e.Max, _ = parseKey(data, "max")
	e.OOM, _ = parseKey(data, "oom")
	e.OOMKill, _ = parseKey(data, "oom_kill")
	e.OOMGroupKill, _ = parseKey(data, "oom_group_kill")
	return e
}

// eventsOf are the counters in a keyed file of a snapshot.
func eventsOf(s snapshot.Stat) (e snapshot.OOMEvents) {
	for _, key := range []struct {
		name string
		to   *snapshot.Value
	}{{"max", &e.Max}, {"oom", &e.OOM}, {"oom_kill", &e.OOMKill}, {"oom_group_kill", &e.OOMGroupKill}} {
		if n, ok := s.Get(key.name); ok {
			*key.to = snapshot.Of(n)
		}
	}
	return e
}

// zero is where counters that the kernel has began.
func zero(e snapshot.OOMEvents) snapshot.OOMEvents {
	for _, v := range []*snapshot.Value{&e.Max, &e.OOM, &e.OOMKill, &e.OOMGroupKill} {
		if !v.IsAbsent() {
			*v = snapshot.Of(0)
		}
	}
	return e
}
