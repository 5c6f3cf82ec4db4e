package cgroup

import (
	"cmp"
	"context"
	"errors"
	"os"
	"path"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/memrecon/memrecon/snapshot"
)

// Watcher tells at once when the OOM counters of a cgroup move: a container's cgroup is often removed within 100 ms of its death,
// and its counters with it.
//
// On cgroup v2 inotify says when a memory.events is modified, to everybody who may read it (cgroup_file_notify in
// kernel/cgroup/cgroup.c: at most 100 times a second for each file, what comes sooner is told 10 ms late). An event of a cgroup
// modifies the file of each above it too, so the pod's watch tells of a container that is not watched yet.
//
// cgroup v1 notifies only those who may write, by cgroup.event_control. There the node's count of kills, in /proc/vmstat, is read
// ten times a second, and when it has moved the counters of every cgroup are.
//
// New cgroups of pods and containers are known from their first moment, by inotify on the folders that they are made in, and all
// others from the next sweep on.
//
// What a notification did not tell, each sweep does: where there are no more watches to be had, or the queue of inotify was full.
type Watcher struct {
	hierarchy Hierarchy
	files     files
	procfs    string
	sweeps    chan []snapshot.Cgroup
	faults    atomic.Pointer[[]snapshot.SourceError]

	// The rest is Run's.

	moved  func(snapshot.OOMCounters)
	notify *notifier // nil while there can be none
	known  map[string]*watched
	byWD   map[int32]*watched
	// order has those that are known, containers and pods first: they are the first to get a watch, and the first to vanish.
	order []*watched
	// round counts the sweeps.
	round int
	// hasLocal tells that the kernel has memory.events.local.
	hasLocal bool
	kills    snapshot.Value // of the node, on v1
	buf      []byte
}

// watched is a cgroup that is watched.
type watched struct {
	path     string
	inode    uint64
	identity snapshot.Identity
	// round is the last of the sweeps that had it, and limit what its limit was then.
	round int
	limit snapshot.Value
	// wd and folder are the watches of memory.events and of the folder: none for no watch yet, lacking for none ever.
	wd, folder int32
	// isNew tells that it was made after the first sweep, seen that its counters were read: as they were last told, or at first.
	isNew, seen   bool
	events, local snapshot.OOMEvents
}

// How often is looked at most. A cgroup at its limit modifies memory.events a hundred times a second: it is looked at again only
// after a pause, which makes the looking cost 2% of a CPU at most, but is not so long that a container's cgroup may be gone.
const (
	shortestPause = 20 * time.Millisecond
	longestPause  = 50 * time.Millisecond
	pausePerWork  = 50
	// pausePerKill is v1's: all cgroups are looked at, but only where somebody was killed, and the next victim's may be gone soon.
	pausePerKill = 4
	// vmstatInterval is how often v1's Watcher reads /proc/vmstat.
	vmstatInterval = 100 * time.Millisecond
)

// Watch prepares to watch a hierarchy. procfs is where the host's /proc is.
func Watch(h Hierarchy, procfs string) *Watcher {
	return &Watcher{
		hierarchy: h,
		files:     filesOf(h.Mode),
		procfs:    procfs,
		sweeps:    make(chan []snapshot.Cgroup, 1),
		known:     map[string]*watched{},
		byWD:      map[int32]*watched{},
		buf:       make([]byte, usualContent),
	}
}

// Sync says which cgroups there are, as each sweep found them; it does not wait. It returns what stands in the way of the watch.
func (w *Watcher) Sync(cgroups []snapshot.Cgroup) []snapshot.SourceError {
	select {
	case <-w.sweeps: // nobody took it, and this one is newer
	default:
	}
	w.sweeps <- cgroups
	if faults := w.faults.Load(); faults != nil {
		return *faults
	}
	return nil
}

// Run watches until ctx ends, and hands over each cgroup whose counters have moved, one at a time. It must be called once, beside
// Sync; moved must not keep it waiting.
func (w *Watcher) Run(ctx context.Context, moved func(snapshot.OOMCounters)) {
	w.moved = moved
	defer func() {
		if w.notify != nil {
			w.notify.close()
		}
	}()
	var resume, poll <-chan time.Time
	if w.isV1() {
		w.kills = w.nodeKills()
		poll = time.After(vmstatInterval)
	}
	for {
		var modified <-chan []change
		if w.notify != nil {
			modified = w.notify.changes
		}
		select {
		case <-ctx.Done():
			return
		case cgroups := <-w.sweeps:
			w.sync(cgroups)
		case changes := <-modified:
			began := time.Now()
			w.follow(changes)
			resume = time.After(min(max(shortestPause, pausePerWork*time.Since(began)), longestPause))
		case <-resume:
			w.notify.more()
		case <-poll:
			began := time.Now()
			w.poll()
			poll = time.After(max(vmstatInterval, pausePerKill*time.Since(began)))
		}
	}
}

func (w *Watcher) isV1() bool { return w.hierarchy.Mode.Files() == snapshot.V1 }

// sync takes the cgroups of a sweep.
func (w *Watcher) sync(cgroups []snapshot.Cgroup) {
	w.round++
	changed := false
	for i := range cgroups {
		c := &cgroups[i]
		n := w.known[c.Path]
		if n == nil || n.inode != c.Inode && n.round < w.round { // one that appeared meanwhile is newer than the sweep
			w.forget(n)
			n = w.learn(c.Path, c.Inode, c.Identity)
			changed = true
		}
		n.round, n.limit = max(n.round, w.round), c.Max
	}
	if len(w.known) > len(cgroups) {
		for _, n := range w.known {
			if n.round < w.round {
				w.forget(n)
				changed = true
			}
		}
	}
	if changed || len(w.order) != len(w.known) {
		w.order = w.order[:0]
		for _, n := range w.known {
			w.order = append(w.order, n)
		}
		slices.SortFunc(w.order, func(a, b *watched) int {
			return cmp.Or(cmp.Compare(precedence(a), precedence(b)), cmp.Compare(a.path, b.path))
		})
	}
	w.arm()
	for _, n := range w.order {
		if !n.seen {
			w.find(n)
		}
	}
	for i := range cgroups {
		if c := &cgroups[i]; w.missed(c, w.known[c.Path]) {
			w.find(w.known[c.Path])
		}
	}
}

func precedence(n *watched) int {
	switch n.identity.Class {
	case snapshot.ClassContainer:
		return 0
	case snapshot.ClassPod:
		return 1
	}
	return 2
}

// holdsPods tells the cgroups in which pods and containers are made.
func (n *watched) holdsPods() bool {
	switch n.identity.Class {
	case snapshot.ClassKubepods, snapshot.ClassQoS, snapshot.ClassPod:
		return true
	}
	return false
}

func (w *Watcher) learn(cgroup string, inode uint64, identity snapshot.Identity) *watched {
	n := &watched{path: cgroup, inode: inode, identity: identity, round: w.round, wd: none, folder: none, isNew: w.round > 1}
	if !n.holdsPods() {
		n.folder = lacking
	}
	if w.isV1() {
		n.wd = lacking
	}
	w.known[cgroup] = n
	return n
}

// forget ends the watches of a cgroup that is gone: of a file of the cgroup file system the kernel does not do it.
func (w *Watcher) forget(n *watched) {
	if n == nil {
		return
	}
	for _, wd := range []int32{n.wd, n.folder} {
		if wd >= 0 {
			w.notify.remove(wd)
			delete(w.byWD, wd)
		}
	}
	delete(w.known, n.path)
}

// arm watches the cgroups that are not watched yet.
func (w *Watcher) arm() {
	var faults []snapshot.SourceError
	var err error
	if w.notify == nil {
		w.notify, err = newNotifier()
	}
	for _, n := range w.order {
		if err == nil && (n.wd == none || n.folder == none) {
			err = w.watch(n)
		}
	}
	if err != nil {
		faults = append(faults, w.fault(err))
	}
	if w.isV1() && w.kills.IsAbsent() {
		faults = append(faults, snapshot.SourceError{
			Source: filepath.Join(w.procfs, "vmstat"), Error: "there is no oom_kill in it",
			Hint: "This kernel does not count OOM kills; Linux 4.13 and later do. Its log has them: memrecon explain.",
		})
	}
	w.faults.Store(&faults)
}

// watch adds the watches that a cgroup lacks. An error means that there are no more to be had.
func (w *Watcher) watch(n *watched) error {
	dir := filepath.Join(w.hierarchy.Dir, n.path)
	for _, to := range []struct {
		wd   *int32
		path string
		mask uint32
	}{
		{&n.wd, filepath.Join(dir, "memory.events"), unix.IN_MODIFY},
		{&n.folder, dir, unix.IN_CREATE | unix.IN_ONLYDIR},
	} {
		if *to.wd != none {
			continue
		}
		wd, err := w.notify.add(to.path, to.mask)
		switch {
		case err == nil:
			*to.wd = wd
			w.byWD[wd] = n
		case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.ENOMEM):
			return err
		default: // the root has no such file, and a cgroup that is gone has none
			*to.wd = lacking
		}
	}
	return nil
}

func (w *Watcher) fault(err error) snapshot.SourceError {
	const kept = ". Until then the counters are read with each sweep, and those of a container that is gone by then are lost."
	limits := filepath.Join(w.procfs, "sys", "fs", "inotify")
	switch {
	case errors.Is(err, unix.ENOSPC):
		return snapshot.SourceError{
			Source: filepath.Join(limits, "max_user_watches"), Error: "too few to watch the OOM counters of every cgroup",
			Hint: "Raise it on the node: sysctl fs.inotify.max_user_watches=65536" + kept,
		}
	case errors.Is(err, unix.EMFILE):
		return snapshot.SourceError{
			Source: filepath.Join(limits, "max_user_instances"), Error: "none is left to watch OOM counters with",
			Hint: "Raise it on the node: sysctl fs.inotify.max_user_instances=1024" + kept,
		}
	}
	return snapshot.SourceError{Source: "inotify", Error: err.Error(), Hint: "Please report it with the kernel's version" + kept}
}

// follow looks at what has changed.
func (w *Watcher) follow(changes []change) {
	for _, c := range changes {
		if c.wd == none {
			for _, n := range w.order {
				w.look(n)
			}
			continue
		}
		switch n := w.byWD[c.wd]; {
		case n == nil: // it is gone
		case c.name != "":
			w.appear(path.Join(n.path, c.name))
		default:
			w.look(n)
		}
	}
}

// appear watches a new cgroup, and those that were made in it before it was watched.
func (w *Watcher) appear(cgroup string) {
	dir := filepath.Join(w.hierarchy.Dir, cgroup)
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil || !exists(dir, w.files.all[0].name) { // without the memory controller
		return
	}
	if n := w.known[cgroup]; n != nil {
		if n.inode == st.Ino {
			return
		}
		w.forget(n)
	}
	n := w.learn(cgroup, st.Ino, Identify(cgroup))
	n.round++ // the next sweep may have begun before
	w.order = append(w.order, n)
	if err := w.watch(n); err != nil {
		return // the next sweep tells
	}
	w.find(n)
	if n.holdsPods() {
		entries, _ := os.ReadDir(dir) // which may be gone
		for _, e := range entries {
			if e.IsDir() {
				w.appear(path.Join(cgroup, e.Name()))
			}
		}
	}
}

// missed tells that a sweep saw counters that no notification has told of.
func (w *Watcher) missed(c *snapshot.Cgroup, n *watched) bool {
	if w.isV1() {
		last, _ := n.local.Max.Get()
		if swept, ok := c.Failcnt.Get(); ok && swept > last {
			n.local.Max = c.Failcnt
		}
		return eventsOf(c.OOMControl).Moved(n.local)
	}
	swept := eventsOf(c.Events)
	return swept.Moved(n.events) || n.events.IsZero() && swept.Moved(n.local)
}

// poll looks at every cgroup when a process was killed anywhere on a node with cgroup v1.
func (w *Watcher) poll() {
	kills := w.nodeKills()
	before, _ := w.kills.Get()
	if now, ok := kills.Get(); !ok || now <= before {
		return
	}
	w.kills = kills
	for _, n := range w.order {
		w.find(n)
	}
}

// find looks at a cgroup. On v1 the counters of those above a victim do not move, so they are told with it: one of them may be
// the one whose limit was hit.
func (w *Watcher) find(n *watched) {
	if !w.look(n) || !w.isV1() {
		return
	}
	for above := n.path; above != "/"; {
		above = path.Dir(above)
		if a := w.known[above]; a != nil {
			w.read(a, true)
		}
	}
}

// look reads the counters of a cgroup, and tells if they have moved.
func (w *Watcher) look(n *watched) bool { return w.read(n, false) }

// read reads a cgroup's counters, and hands them over if they have moved, or anyway.
func (w *Watcher) read(n *watched, anyway bool) (told bool) {
	dir, err := unix.Open(filepath.Join(w.hierarchy.Dir, n.path), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer func() { _ = unix.Close(dir) }() // nothing was written
	var st unix.Stat_t
	if err := unix.Fstat(dir, &st); err != nil || st.Ino != n.inode {
		return false // the next sweep tells which one it is
	}
	c := snapshot.OOMCounters{Time: time.Now(), Path: n.path, Inode: n.inode, Identity: n.identity}
	c.After, c.LocalAfter = w.counters(dir)
	if c.After.IsZero() && c.LocalAfter.IsZero() { // it was removed since, or it is the root
		return false
	}
	if !n.seen {
		n.seen = true
		n.events, n.local = c.After, c.LocalAfter
		if n.isNew {
			n.events, n.local = zero(c.After), zero(c.LocalAfter)
		}
	}
	if !anyway && !c.After.Moved(n.events) && !c.LocalAfter.Moved(n.local) {
		return false
	}
	usage, peak, limit := "memory.current", "memory.peak", "memory.max"
	if w.isV1() {
		usage, peak, limit = "memory.usage_in_bytes", "memory.max_usage_in_bytes", "memory.limit_in_bytes"
	}
	c.Usage, _ = parseValue(w.content(dir, usage))
	c.Peak, _ = parseValue(w.content(dir, peak))
	if c.Max, _ = parseLimit(w.content(dir, limit)); c.Max.IsAbsent() { // it was removed since
		c.Max = n.limit
	}
	c.Before, c.LocalBefore = n.events, n.local
	n.events, n.local = c.After, c.LocalAfter
	w.moved(c)
	return true
}
