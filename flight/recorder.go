// Package flight is the flight recorder: what every cgroup of a node used in the last two minutes, a sample a round, so that there is
// something to look at when one of them dies; and the arithmetic over one cgroup's record, such as what a scrape would have seen
// of it. It does not know why anything died, or how a record is shown. It is pure: all times are those of the snapshots.
package flight

import (
	"cmp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/memrecon/memrecon/reconcile"
	"github.com/memrecon/memrecon/snapshot"
)

// Options bound what a Recorder keeps. The zero Options are the defaults.
type Options struct {
	// Samples is how many rounds are kept; 0 for 128, which are two minutes at a round a second.
	Samples int
	// Cgroups is of how many cgroups, those that are gone included; 0 for 1,000.
	Cgroups int
}

const (
	usualSamples = 128
	usualCgroups = 1000
)

// Recorder keeps the last rounds of every cgroup, each in a ring of its own. It is fed by Record, after each round.
//
// With the default options a cgroup takes 3.7 KB: 128 samples of 24 bytes, its path and who it is, some of which it shares with the
// snapshots while it is there. 300 cgroups take 1.1 MB, and all together never more than 4 MB. The times and what the node
// had left stand once for all.
//
// The ring of a cgroup that is gone is kept until its last sample is as old as the recorder reaches. Where there are more cgroups than
// rings, those of containers, of pods and of what is above them come first, then those of systemd's units, then those of anything
// else, such as cgroups that a container made in itself. One that comes first takes the ring of one that comes later; among equals
// whoever has a ring keeps it while it is there. Unrecorded counts those that have none.
//
// Its methods may be called at the same time.
type Recorder struct {
	mu sync.Mutex
	// rounds counts what was recorded. That of round n stands at the place n % len(moments), here and in each ring.
	rounds  int
	moments []moment
	rings   map[Key]*ring
	most    int
	// there and gone count the rings of each rank by whether their cgroup is still there.
	there, gone [ranks]int
	unrecorded  int
}

// moment is what a round has once for all cgroups.
type moment struct {
	time         time.Time
	memAvailable snapshot.Value
}

// Key says which cgroup: a path that comes back with another inode is another one.
type Key struct {
	Path  string `json:"path"`
	Inode uint64 `json:"inode,omitempty"`
}

// ring is what is kept of one cgroup.
type ring struct {
	key      Key
	identity snapshot.Identity
	// limit and peak as they were last read.
	limit, peak snapshot.Value
	// since and seen are the first and the last round that it was in, gone is the first without it, 0 while it is there.
	since, seen, gone int
	samples           []sample
}

// sample is what a cgroup had in one round.
type sample struct {
	usage, inactiveFile, anon, file, kernel, swap pages
}

// pages is an amount of memory in pages of 4 KiB plus one, so that the zero pages is absent: half of what a snapshot.Value takes.
// Cgroups are charged in pages, at least that large, so nothing is lost but of kernel memory before Linux 5.18, whose parts v2
// tells in bytes. 16 TiB and more are as much as goes in.
type pages uint32

const pageSize = 4096

func pagesOf(bytes int64) pages {
	n := (max(0, bytes) + pageSize - 1) / pageSize
	return pages(min(n, int64(^pages(0))-1) + 1)
}

func pagesOfValue(v snapshot.Value) pages {
	n, ok := v.Get()
	if !ok {
		return 0
	}
	return pagesOf(int64(min(n, 1<<62)))
}

func (p pages) value() snapshot.Value {
	if p == 0 {
		return snapshot.Value{}
	}
	return snapshot.Of(uint64(p-1) * pageSize)
}

// NewRecorder is a Recorder that has recorded nothing.
func NewRecorder(o Options) *Recorder {
	r := &Recorder{most: o.Cgroups, rings: map[Key]*ring{}}
	if o.Cgroups <= 0 {
		r.most = usualCgroups
	}
	if o.Samples <= 0 {
		o.Samples = usualSamples
	}
	r.moments = make([]moment, o.Samples)
	return r
}

// Record takes a round's sheet in. It allocates for a cgroup that it has not seen before alone.
//
// Where the clock was set back, to before the last round, it starts anew: two orders of time in one record would say nothing.
func (r *Recorder) Record(s *reconcile.Sheet) {
	r.mu.Lock()
	defer r.mu.Unlock()
	snap := s.Snapshot()
	now := snap.Time.Round(0) // compared with times of logs, so the wall clock alone
	if now.Before(r.moments[r.place(r.rounds)].time) {
		clear(r.moments)
		clear(r.rings)
		r.there, r.gone = [ranks]int{}, [ranks]int{}
	}
	r.rounds++
	place := r.place(r.rounds)
	r.moments[place] = moment{now, snap.Host.Meminfo.MemAvailable}
	r.unrecorded = 0
	for i := range snap.Cgroups {
		c := &snap.Cgroups[i]
		g := r.ringOf(c)
		if g == nil {
			r.unrecorded++
			continue
		}
		g.samples[place] = sampleOf(s, i)
		g.seen = r.rounds
		if !c.Max.IsAbsent() {
			g.limit = c.Max
		}
		if !c.Peak.IsAbsent() {
			g.peak = c.Peak
		}
	}
	r.age(place, len(snap.Cgroups) > 0)
}

func (r *Recorder) place(round int) int { return round % len(r.moments) }

// sampleOf is what a row of the sheet has. Usage is the kernel's; the root of cgroup v2, which has none, gets what the kubelet takes
// for it: anonymous memory and the page cache.
func sampleOf(s *reconcile.Sheet, i int) sample {
	c, row := &s.Snapshot().Cgroups[i], &s.Rows[i]
	out := sample{usage: pagesOfValue(c.Usage), swap: pagesOfValue(c.Swap)}
	if n, ok := c.Stat.Get("total_swap"); ok { // cgroup v1
		out.swap = pagesOf(int64(n))
	}
	if row.Known&reconcile.KnownStat == 0 {
		return out
	}
	all := &row.All
	anon := all[reconcile.Anon]
	file := all[reconcile.Shmem] + all[reconcile.FileActive] + all[reconcile.FileInactive] + all[reconcile.FileOther]
	out.anon, out.file = pagesOf(anon), pagesOf(file)
	if row.Kinds.Has(reconcile.FileInactive) {
		out.inactiveFile = pagesOf(all[reconcile.FileInactive])
	}
	if row.Kinds.Has(reconcile.KernelOther) || row.Kinds.Has(reconcile.KernelUnsplit) || row.Kinds.Has(reconcile.SlabUnreclaimable) {
		out.kernel = pagesOf(all.KernelMemory())
	}
	if c.Identity.Class == snapshot.ClassRoot && c.Usage.IsAbsent() {
		out.usage = pagesOf(anon + file)
	}
	return out
}

// age notes which cgroups are gone, and gives up the rings that have aged out. A round that could read no cgroups at all says nothing of
// who is gone.
func (r *Recorder) age(place int, swept bool) {
	for _, g := range r.rings {
		if g.seen == r.rounds {
			continue
		}
		g.samples[place] = sample{}
		if swept && g.gone == 0 {
			g.gone = r.rounds
			r.there[g.rank()]--
			r.gone[g.rank()]++
		}
		if r.rounds-g.seen >= len(g.samples) {
			r.forget(g)
		}
	}
}

func (r *Recorder) forget(g *ring) {
	delete(r.rings, g.key)
	if g.gone == 0 {
		r.there[g.rank()]--
	} else {
		r.gone[g.rank()]--
	}
}

// The ranks of cgroups where there are more of them than rings, in the order in which they get one.
const (
	rankKubernetes = iota
	rankUnit
	rankOther
	ranks
)

func rankOf(class snapshot.Class) int {
	switch class {
	case snapshot.ClassRoot, snapshot.ClassKubepods, snapshot.ClassQoS, snapshot.ClassPod, snapshot.ClassContainer:
		return rankKubernetes
	case snapshot.ClassSlice, snapshot.ClassService, snapshot.ClassScope:
		return rankUnit
	}
	return rankOther
}

func (g *ring) rank() int { return rankOf(g.identity.Class) }

// ringOf is a cgroup's ring, nil where there is none for it.
func (r *Recorder) ringOf(c *snapshot.Cgroup) *ring {
	key := Key{c.Path, c.Inode}
	rank := rankOf(c.Identity.Class)
	if g := r.rings[key]; g != nil {
		if g.gone != 0 {
			g.gone = 0
			r.gone[rank]--
			r.there[rank]++
		}
		return g
	}
	if len(r.rings) >= r.most && !r.makeRoom(rank) {
		return nil
	}
	g := &ring{key: key, identity: c.Identity, since: r.rounds, samples: make([]sample, len(r.moments))}
	r.rings[key] = g
	r.there[rank]++
	return g
}

// makeRoom gives up the ring that matters least, for a cgroup of a rank that is there. It is false where none matters less.
func (r *Recorder) makeRoom(rank int) bool {
	less := r.gone[rank]
	for after := rank + 1; after < ranks; after++ {
		less += r.gone[after] + r.there[after]
	}
	if less == 0 {
		return false
	}
	var least *ring
	for _, g := range r.rings {
		if least == nil || g.compare(least) > 0 {
			least = g
		}
	}
	r.forget(least)
	return true
}

// compare orders by what matters most: by rank, those that are there before those that are gone, and those that went last and
// those that came first.
func (g *ring) compare(o *ring) int {
	byGone := cmp.Compare(o.gone, g.gone)
	if g.gone == 0 || o.gone == 0 {
		byGone = -byGone
	}
	return cmp.Or(cmp.Compare(g.rank(), o.rank()), byGone, cmp.Compare(g.since, o.since), strings.Compare(g.key.Path, o.key.Path))
}

// Unrecorded is how many cgroups of the last round have no ring, see Recorder.
func (r *Recorder) Unrecorded() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.unrecorded
}

// ByPath are the cgroups that have, or had, this path, the newest first.
func (r *Recorder) ByPath(path string) []Key {
	return r.keys(func(g *ring) bool { return g.key.Path == path })
}

// ByContainer are the cgroups of the container with this ID, as a rule one; cgroups inside of it are not among them.
func (r *Recorder) ByContainer(id string) []Key {
	return r.keys(func(g *ring) bool {
		return g.identity.Class == snapshot.ClassContainer && g.identity.ContainerID == id
	})
}

// ByPod are the cgroups of the containers of the pod with this UID by their paths, its sandbox and those that are gone included.
func (r *Recorder) ByPod(uid string) []Key {
	return r.keys(func(g *ring) bool {
		return g.identity.Class == snapshot.ClassContainer && g.identity.PodUID == uid
	})
}

// keys are those of the rings that are so, by path, and of one path the newest first.
func (r *Recorder) keys(is func(*ring) bool) []Key {
	r.mu.Lock()
	defer r.mu.Unlock()
	var found []*ring
	for _, g := range r.rings {
		if is(g) {
			found = append(found, g)
		}
	}
	slices.SortFunc(found, func(a, b *ring) int {
		return cmp.Or(strings.Compare(a.key.Path, b.key.Path), cmp.Compare(b.since, a.since), cmp.Compare(b.key.Inode, a.key.Inode))
	})
	var keys []Key
	for _, g := range found {
		keys = append(keys, g.key)
	}
	return keys
}

// Around is what a cgroup used from one time to another, both included; a zero time is no bound. It is false for a cgroup of which
// nothing is kept. The record is a copy.
func (r *Recorder) Around(key Key, from, to time.Time) (*Record, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	g := r.rings[key]
	if g == nil {
		return nil, false
	}
	record := &Record{Key: g.key, Identity: g.identity, Limit: g.limit, Peak: g.peak, Samples: []Sample{}}
	end := r.rounds
	if g.gone != 0 {
		end = g.gone - 1
		record.Gone = r.moments[r.place(g.gone)].time
	}
	for round := max(g.since, r.rounds-len(r.moments)+1); round <= end; round++ {
		at := &r.moments[r.place(round)]
		if at.time.Before(from) || !to.IsZero() && at.time.After(to) {
			continue
		}
		record.Samples = append(record.Samples, g.samples[r.place(round)].at(at))
	}
	return record, true
}

func (s *sample) at(m *moment) Sample {
	out := Sample{
		Time: m.time, Usage: s.usage.value(), Anon: s.anon.value(), File: s.file.value(), Kernel: s.kernel.value(), Swap: s.swap.value(),
		MemAvailable: m.memAvailable,
	}
	if s.usage != 0 && s.inactiveFile != 0 { // both are one too large
		out.WorkingSet = snapshot.Of(uint64(s.usage-min(s.usage, s.inactiveFile)) * pageSize)
	}
	return out
}
