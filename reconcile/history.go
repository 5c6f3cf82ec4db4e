package reconcile

import (
	"time"

	"github.com/memrecon/memrecon/snapshot"
)

// History keeps what a node's cgroups had in the last half minute, to compare what the kubelet says with what was computed at the
// time that it says it of: its figures are up to 15 s old when it gives them out. It is fed by Next alone.
//
// The zero History is ready for use.
type History struct {
	// rounds counts the rounds, times is when they were: that of round n at the place n % historyDepth.
	rounds int
	times  [historyDepth]time.Time
	owners map[uint64]*past // by the inode of the cgroup
}

// How many rounds are kept, and how far apart they are at least: the kubelet renews its figures within 15 s and is asked each
// 10 s, so that they are up to 25 s old.
const (
	historyDepth = 40
	historyGap   = 800 * time.Millisecond
)

// past is what one cgroup had, at the places of History.times.
type past struct {
	at [historyDepth][numSeries]int64
	// since and seen are the first and the last round that it was in.
	since, seen int
}

// Span is the least and the most that a figure was around a time, in bytes; not Known where nothing was read around it.
type Span struct {
	Low, High int64
	Known     bool
}

// Off is how far n is outside of the span: positive where it is above.
func (sp Span) Off(n int64) int64 {
	return n - min(max(n, sp.Low), sp.High)
}

func (sp *Span) add(n int64) {
	if !sp.Known {
		*sp = Span{n, n, true}
		return
	}
	sp.Low, sp.High = min(sp.Low, n), max(sp.High, n)
}

// Next is the sheet of the next round, as New makes it, which also knows what the rounds before it had.
func (h *History) Next(snap *snapshot.Snapshot) *Sheet {
	s := compute(snap)
	h.compare(s)
	s.find()
	h.add(s)
	return s
}

// compared tells whether the kubelet may have something to say of a row.
func (s *Sheet) compared(row int) bool {
	c := &s.snap.Cgroups[row]
	if c.Inode == 0 || row > 0 && s.Rows[row].Known != KnownUsage|KnownStat || !s.TotalKnown {
		return false
	}
	switch c.Identity.Class {
	case snapshot.ClassRoot, snapshot.ClassKubepods, snapshot.ClassPod, snapshot.ClassContainer:
		return true
	}
	return false
}

// series are the figures of a row that the history keeps.
func (s *Sheet) series(row int) [numSeries]int64 {
	value := func(a account) int64 { return a.value(s) }
	if row == 0 {
		return [numSeries]int64{
			usageField: value(nodeUsage(s, 0)), workingSetField: value(nodeWorkingSet(s, 0)), rssField: value(nodeRSS(s, 0)),
		}
	}
	all := &s.Rows[row].All
	return [numSeries]int64{
		usageField: all.Sum(), workingSetField: max(0, all.Sum()-all[FileInactive]), rssField: all[Anon],
	}
}

// add takes a sheet into the history.
func (h *History) add(s *Sheet) {
	gap := s.snap.Time.Sub(h.times[h.rounds%historyDepth])
	switch {
	case gap < 0: // the clock was set back: what is kept has times that mean nothing
		*h = History{}
	case gap < historyGap:
		return
	}
	if h.owners == nil {
		h.owners = map[uint64]*past{}
	}
	h.rounds++
	place := h.rounds % historyDepth
	h.times[place] = s.snap.Time
	for row := range s.snap.Cgroups {
		if !s.compared(row) {
			continue
		}
		inode := s.snap.Cgroups[row].Inode
		p := h.owners[inode]
		if p == nil || p.seen != h.rounds-1 {
			p = &past{since: h.rounds}
			h.owners[inode] = p
		}
		p.at[place], p.seen = s.series(row), h.rounds
	}
	for inode, p := range h.owners {
		if p.seen != h.rounds {
			delete(h.owners, inode)
		}
	}
}

// compare finds what the figures of a sheet were at the times of which the kubelet's are.
func (h *History) compare(s *Sheet) {
	if s.snap.Kubernetes == nil || s.snap.Kubernetes.Summary.IsZero() || h.rounds == 0 {
		return
	}
	s.then = make([][numSeries]Span, len(s.snap.Cgroups))
	for row := range s.snap.Cgroups {
		m := s.kubeletStats(row)
		if m == nil || m.Time.IsZero() || m.Time.After(s.snap.Time) || !s.compared(row) {
			continue
		}
		if p := h.owners[s.snap.Cgroups[row].Inode]; p != nil && p.seen == h.rounds {
			current := s.series(row)
			s.then[row] = h.around(p, m.Time, &current)
		}
	}
}

// around is what a cgroup had at a time of whole seconds: in the last round before it, the first one after that second, and those
// between. Current is what it has now, after all that are kept.
func (h *History) around(p *past, at time.Time, current *[numSeries]int64) (spans [numSeries]Span) {
	add := func(values *[numSeries]int64) {
		for i := range spans {
			spans[i].add(values[i])
		}
	}
	end, after := at.Add(time.Second), current
	for round := h.rounds; round >= max(p.since, h.rounds-historyDepth+1); round-- {
		place := round % historyDepth
		if !h.times[place].Before(end) {
			after = &p.at[place]
			continue
		}
		add(&p.at[place])
		if !h.times[place].After(at) {
			add(after)
			return spans
		}
	}
	return [numSeries]Span{} // of a time before the history, or before the cgroup
}
