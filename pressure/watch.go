package pressure

import (
	"fmt"
	"time"

	"github.com/memrecon/memrecon/snapshot"
)

// Event is something that was seen while a scenario ran.
type Event struct {
	// At is the time since the scenario's start.
	At   time.Duration `json:"at_ns"`
	Kind EventKind     `json:"kind"`
	// Cgroup is the path, from the top of the scenario's cgroups.
	Cgroup string `json:"cgroup"`
	// Text says it in words.
	Text string `json:"text"`
}

// EventKind is what an Event tells.
type EventKind string

// The kinds of events.
const (
	Started  EventKind = "started"
	Grown    EventKind = "grown"     // to the usage that a step waits for
	LimitHit EventKind = "limit-hit" // for the first time
	OOM      EventKind = "oom"       // at the limit nothing more could be reclaimed
	Kill     EventKind = "oom-kill"  // the kernel's OOM killer took a process
	Ended    EventKind = "ended"
)

// watcher sees from one reading to the next what happened in the scenario's cgroups. It is pure: the readings come to it.
type watcher struct {
	plan *Plan
	last map[string]snapshot.Cgroup // by path, in the newest reading
	peak map[string]uint64          // the highest usage seen
}

func newWatcher(p *Plan) *watcher {
	return &watcher{plan: p, last: map[string]snapshot.Cgroup{}, peak: map[string]uint64{}}
}

// look takes a reading and tells what is new.
func (w *watcher) look(at time.Duration, cgroups []snapshot.Cgroup) []Event {
	before := w.last
	w.last = map[string]snapshot.Cgroup{}
	for _, c := range cgroups {
		w.last[c.Path] = c
		if n, ok := c.Usage.Get(); ok {
			w.peak[c.Path] = max(w.peak[c.Path], n)
		}
	}
	var hits, kills []Event
	for _, planned := range w.plan.Cgroups {
		was, is := before[planned.Path], w.last[planned.Path]
		if limitHits(&is) > 0 && limitHits(&was) == 0 {
			hits = append(hits, Event{At: at, Kind: LimitHit, Cgroup: planned.Path,
				Text: fmt.Sprintf("the limit of %s is hit: the kernel reclaims", w.plan.name(planned.Path))})
		}
		if n := local(&is, "oom"); n > local(&was, "oom") {
			hits = append(hits, Event{At: at, Kind: OOM, Cgroup: planned.Path,
				Text: fmt.Sprintf("out of memory at the limit of %s: nothing is left to reclaim", w.plan.name(planned.Path))})
		}
		if oomKills(&is) > oomKills(&was) {
			kills = append(kills, Event{At: at, Kind: Kill, Cgroup: planned.Path,
				Text: fmt.Sprintf("the kernel's OOM killer takes a process of %s", w.plan.name(planned.Path))})
		}
	}
	return append(hits, kills...)
}

// limitHits is how often usage was about to exceed the cgroup's own limit: v2 memory.events.local max, v1 memory.failcnt.
func limitHits(c *snapshot.Cgroup) uint64 {
	if n, ok := c.Failcnt.Get(); ok {
		return n
	}
	return local(c, "max")
}

// oomKills is how many processes in the cgroup itself the OOM killer took: v2 memory.events.local, v1 memory.oom_control, both
// key oom_kill.
func oomKills(c *snapshot.Cgroup) uint64 {
	if n, ok := c.OOMControl.Get("oom_kill"); ok {
		return n
	}
	return local(c, "oom_kill")
}

func local(c *snapshot.Cgroup, key string) uint64 {
	n, _ := c.EventsLocal.Get(key)
	return n
}

// cgroup is the planned cgroup at a path.
func (p *Plan) cgroup(path string) *PlannedCgroup {
	for i := range p.Cgroups {
		if p.Cgroups[i].Path == path {
			return &p.Cgroups[i]
		}
	}
	return new(PlannedCgroup)
}

// name is what a cgroup is called in a sentence.
func (p *Plan) name(path string) string {
	switch p.cgroup(path).Level {
	case NodeLevel:
		return "all pods together"
	case PodLevel:
		return "pod " + path[1:]
	}
	return path[1:]
}
