package leak

import (
	"cmp"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/memrecon/memrecon/snapshot"
)

// Plan is what a leak will do, told before it does anything.
type Plan struct {
	// Text says it in sentences.
	Text []string `json:"text"`
	// Bounds are what it could meet, the nearest first.
	Bounds []Bound `json:"bounds"`
	// Limited tells that a cgroup's limit stands between it and the node.
	Limited bool `json:"limited"`
}

// Bound is something that growing memory meets.
type Bound struct {
	// What it is, in words.
	What string `json:"what"`
	// Bytes until it is met: what can be reclaimed before is not in the way.
	Bytes uint64 `json:"bytes"`
	// After is when that is, as the shape goes; absent where it never is, or as fast as the kernel gives memory.
	After snapshot.Value `json:"after_seconds,omitzero"`
	// Then is what happens there, in words.
	Then string `json:"then"`
	// untouched tells that what is not touched counts too.
	untouched bool
}

// Plan looks at limits, node and shape.
func (l *Leak) Plan() Plan {
	w := l.guards.watcher
	p := Plan{Text: []string{l.intention()}}
	for _, level := range w.levels() {
		bounds, limited := cgroupBounds(&level)
		p.Limited = p.Limited || limited
		p.Bounds = append(p.Bounds, bounds...)
	}
	if w != nil {
		if m, err := w.host.Meminfo(); err == nil {
			p.Bounds = append(p.Bounds, nodeBounds(&m, l.config.Guards.FloorBytes)...)
			if l.config.Kind.traits().mapped && w.strictOvercommit() {
				p.Bounds = append(p.Bounds, commitBounds(&m)...)
			}
		}
	}
	slices.SortStableFunc(p.Bounds, func(a, b Bound) int { return cmp.Compare(l.taken(&a), l.taken(&b)) })
	reached := false
	for i := range p.Bounds {
		b := &p.Bounds[i]
		if b.Then == thenKills && l.config.Kind.traits().reclaimed {
			b.Then = "page cache is dropped there, and it goes on"
		}
		if after, ok := l.reach(b); ok {
			b.After = snapshot.Of(uint64(after.Round(time.Second) / time.Second))
			if !reached {
				p.Text = append(p.Text, fmt.Sprintf("First it will meet %s, after %s%s: %s.", b.What, sizeText(b.Bytes), inTime(l.config.Shape, after), b.Then))
			}
			reached = true
		}
	}
	if !reached && len(p.Bounds) > 0 {
		p.Text = append(p.Text, fmt.Sprintf("Nothing is in its way: the nearest is %s, %s away.", p.Bounds[0].What, sizeText(p.Bounds[0].Bytes)))
	}
	p.Text = append(p.Text, l.guards.describe())
	return p
}

// never is how much is taken when a bound is met that is never met.
const never = math.MaxUint64

// reach is when a bound is met, false for never.
func (l *Leak) reach(b *Bound) (time.Duration, bool) {
	taken := l.taken(b)
	if taken == never {
		return 0, false
	}
	return l.config.Shape.Reach(taken)
}

// taken is how much is taken when a bound is met, touched or not.
func (l *Leak) taken(b *Bound) uint64 {
	if b.untouched {
		return b.Bytes
	}
	if touch := min(1, l.config.Touch); touch > 0 {
		if taken := float64(b.Bytes) / touch; taken < never {
			return uint64(taken)
		}
	}
	return never
}

func inTime(s Shape, after time.Duration) string {
	if after > 0 {
		return " and " + after.Round(100*time.Millisecond).String()
	}
	if b, ok := s.(Blocks); ok && b.Every == 0 {
		return ", as fast as the kernel gives memory"
	}
	return ", at once"
}

// intention is what is going to be taken.
func (l *Leak) intention() string {
	c := &l.config
	var b strings.Builder
	if c.Max > 0 {
		fmt.Fprintf(&b, "Takes %s of %s", sizeText(c.Max), c.Kind.traits().words)
	} else {
		fmt.Fprintf(&b, "Takes %s without end", c.Kind.traits().words)
	}
	switch s := c.Shape.(type) {
	case Blocks:
		fmt.Fprintf(&b, " in blocks of %s", sizeText(c.Block))
		if s.Every > 0 {
			fmt.Fprintf(&b, ", one every %s", s.Every)
		}
	case Rate:
		fmt.Fprintf(&b, " at %s a second", sizeText(s.BytesPerSecond))
	case Curve:
		b.WriteString(" " + s.words)
	}
	if c.Touch < 1 {
		fmt.Fprintf(&b, ", touching %g%% of it", 100*c.Touch)
	}
	if c.DieAt > 0 {
		fmt.Fprintf(&b, ", and dies at %s with %s", sizeText(c.DieAt), c.Death)
	}
	if s, ok := c.Shape.(Curve); ok && s.Repeat {
		b.WriteString("; goes on ")
	} else {
		b.WriteString("; then holds it ")
	}
	switch {
	case c.Hold > 0 && c.ReleaseEvery > 0:
		fmt.Fprintf(&b, "for %s and gives back %s every %s.", c.Hold, sizeText(c.Block), c.ReleaseEvery)
	case c.Hold > 0:
		fmt.Fprintf(&b, "for %s.", c.Hold)
	default:
		b.WriteString("until Ctrl-C or SIGTERM.")
	}
	return b.String()
}

// thenKills is what happens at a limit.
const thenKills = "the kernel kills there"

// cgroupBounds are what is left to a cgroup's limits once its page cache is dropped, and whether it has a hard one.
func cgroupBounds(c *snapshot.Cgroup) (bounds []Bound, limited bool) {
	usage, known := c.Usage.Get()
	if !known {
		return nil, false
	}
	used := usage - min(usage, stat(c, "active_file")+stat(c, "inactive_file"))
	name := "cgroup " + c.Path
	if c.Path == "/" {
		name = "its own cgroup, or one above it"
	}
	if high, ok := c.High.Get(); ok {
		bounds = append(bounds, Bound{
			What: "memory.high " + sizeText(high) + " of " + name, Bytes: high - min(high, used), Then: "from there the kernel slows it down",
		})
	}
	limit, limited := c.Max.Get()
	if hidden, ok := c.Stat.Get("hierarchical_memory_limit"); ok && (!limited || hidden < limit) && hidden < 1<<62 {
		limit, limited = hidden, true // v1: a cgroup above that can't be seen from here
	}
	if limited {
		bounds = append(bounds, Bound{What: "the limit " + sizeText(limit) + " of " + name, Bytes: limit - min(limit, used), Then: thenKills})
	}
	return bounds, limited
}

// nodeBounds are the node's memory and the guard before it.
func nodeBounds(m *snapshot.Meminfo, floor uint64) []Bound {
	available, ok := m.MemAvailable.Get()
	if !ok {
		return nil
	}
	swap, _ := m.SwapFree.Get()
	bounds := []Bound{{What: "the end of the node's memory", Bytes: available + swap, Then: thenKills}}
	if floor > 0 {
		if kubelet, ok := m.KubeletAvailable().Get(); ok {
			available = min(available, kubelet)
		}
		bounds = append(bounds, Bound{
			What: "the guard that keeps " + sizeText(floor) + " of the node available", Bytes: available - min(available, floor),
			Then: "it stops there",
		})
	}
	return bounds
}

// commitBounds are what the kernel refuses where it promises no more than it has: it counts whole mappings, touched or not.
func commitBounds(m *snapshot.Meminfo) []Bound {
	limit, ok := m.CommitLimit.Get()
	committed, isKnown := m.CommittedAS.Get()
	if !ok || !isKnown {
		return nil
	}
	return []Bound{{
		What: "the node's CommitLimit " + sizeText(limit) + " (vm.overcommit_memory=2)", Bytes: limit - min(limit, committed),
		Then: "the kernel refuses more there", untouched: true,
	}}
}

// strictOvercommit tells that the kernel promises no more memory than it has (Documentation/mm/overcommit-accounting.rst).
func (w *Watcher) strictOvercommit() bool {
	mode, err := os.ReadFile(filepath.Join(w.procfs, "sys", "vm", "overcommit_memory"))
	return err == nil && strings.TrimSpace(string(mode)) == "2"
}

// describe says what the guards are.
func (g *guards) describe() string {
	var on []string
	if g.FloorBytes > 0 {
		on = append(on, "the node has less than "+sizeText(g.FloorBytes)+" available")
	}
	psi := ""
	if g.MaxFullPercent > 0 && g.watcher != nil {
		if p, err := g.watcher.host.Pressure(); err == nil && !p.Full.Known {
			psi = " This kernel has no PSI: --max-pressure has no effect."
		} else {
			on = append(on, fmt.Sprintf("nothing could run for want of memory in %g%% of the last 10 s", g.MaxFullPercent))
		}
	}
	if g.Timeout > 0 {
		on = append(on, g.Timeout.String()+" are over")
	}
	if len(on) == 0 {
		return "No guard is on." + psi
	}
	return "It stops when " + strings.Join(on, ", or ") + "." + psi
}

// whyNoMemory says which limit makes mmap fail.
func (w *Watcher) whyNoMemory() string {
	var r unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_AS, &r); err == nil && r.Cur != unix.RLIM_INFINITY {
		return "the process's address space is limited to " + sizeText(r.Cur) + " (RLIMIT_AS, ulimit -v)"
	}
	if w != nil && w.strictOvercommit() {
		return "vm.overcommit_memory is 2: the node's CommitLimit is met (meminfo)"
	}
	return "neither RLIMIT_AS nor vm.overcommit_memory=2 says why: see vm.max_map_count and the kernel's log"
}
