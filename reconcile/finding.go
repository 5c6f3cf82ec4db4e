package reconcile

import (
	"fmt"

	"github.com/memrecon/memrecon/snapshot"
)

// Finding is something that does not add up, or that will surprise whoever reads the figures.
type Finding struct {
	// ID is a stable name, such as "cgroup-residual".
	ID string
	// Owner is whose row it is about.
	Owner string
	// Bytes is how much.
	Bytes int64
	// Text says it in a sentence.
	Text string
}

// chargeBatch is how many pages the kernel charges a cgroup ahead on each CPU (mm/memcontrol.c, MEMCG_CHARGE_BATCH; 32 before
// Linux 5.13).
const chargeBatch = 64

// StockBytes is the most that the charge stocks of all CPUs can hold for one cgroup, in bytes: charged to it, so in its usage,
// and in no kind of memory. 0 where the number of CPUs is not known.
func (s *Sheet) StockBytes() int64 {
	h := &s.snap.Host
	return chargeBatch * int64(h.CPUs) * int64(h.PageSize)
}

// find fills Findings.
func (s *Sheet) find() {
	report := func(id, owner string, bytes int64, format string, args ...any) {
		s.Findings = append(s.Findings, Finding{ID: id, Owner: owner, Bytes: bytes, Text: fmt.Sprintf(format, args...)})
	}
	// memory.stat may lag behind the charges by as much again, twice: the kernel flushes its per-CPU counters only once more
	// than a batch for each CPU is pending, to which a CPU adds its own once they are a batch (Linux 5.16). And
	// files are read one after another: what moved meanwhile may be missing here and too much there.
	bound := 3*s.StockBytes() + 2*s.Skew
	for i := range s.snap.Cgroups {
		row, c := &s.Rows[i], &s.snap.Cgroups[i]
		if i > 0 && row.Known != KnownUsage|KnownStat {
			report("cgroup-unread", row.ID, 0, "%s: %s; its memory stands in the residual or with its parent", row.ID, row.Known.missing())
			continue
		}
		// Before Linux 5.18 cgroup v2 does not say what all kernel memory is: page tables and more stand in the residual.
		kernelKnown := row.Kinds.Has(KernelOther) || row.Kinds.Has(KernelUnsplit)
		if r := row.Own[Residual]; i > 0 && s.StockBytes() > 0 && kernelKnown && beyond(r, bound, row.UsageBytes()) && s.readInFull(i) {
			report("cgroup-residual", row.ID, r, "%s: %s of its usage is in no kind of memory; charge stocks, late counters and what moved meanwhile explain at most %s",
				row.ID, mib(r), mib(bound))
		}
		if h, ok := c.UseHierarchy.Get(); ok && h == 0 && i > 0 {
			report("no-hierarchy", row.ID, 0, "%s: memory.use_hierarchy is 0, so its figures leave its children out; set it to 1 before making children", row.ID)
		}
	}
	if len(s.snap.Cgroups) > 0 && s.snap.Mode == snapshot.V2 && !s.snap.Cgroups[0].Usage.IsAbsent() {
		report("namespaced-root", OwnerRoot, 0, "the root of the cgroups is not the host's (it has memory.current): what stands outside it counts as the root's own; "+
			"give memrecon the host's /sys/fs/cgroup")
	}
	if published, err := s.Published("node-usage", OwnerNode); err == nil && s.TotalKnown {
		computed, _ := s.Value("node-usage", OwnerNode)
		if n, ok := published.Get(); ok {
			if d := int64(n) - computed; beyond(d, bound, computed) {
				report("root-against-meminfo", OwnerNode, d, "the root cgroup's memory.stat and /proc/meminfo differ by %s, and %s moved while they were read: they are of different times, or the kernel counts in another way", mib(d), mib(s.Skew))
			}
		}
	}
	if published, err := s.Published("mem-available", OwnerNode); err == nil {
		computed, err := s.Value("mem-available", OwnerNode)
		// The kernel counts anew for MemAvailable, a moment after it counted for the lines above.
		if n, ok := published.Get(); ok && err == nil && beyond(int64(n)-computed, bound, 0) {
			report("mem-available", OwnerNode, int64(n)-computed, "MemAvailable is %s off its formula: the kernel computes it in another way", mib(int64(n)-computed))
		}
	}
	for k, v := range s.Columns() {
		if Kind(k) == Residual && v < 0 && beyond(v, bound, s.Total/2) {
			report("negative-residual", OwnerNode, v, "the kinds sum to %s more than MemTotal: the kernel counts something twice", mib(-v))
		}
	}
}

// What does not add up is worth a word from this share of a whole on, or from this many bytes: a counter that lags behind is
// no news.
const (
	worthShare = 0.01
	worthBytes = 64 << 20
)

// beyond tells that n, of either sign, is more than a bound explains and worth a word beside a whole.
func beyond(n, bound, whole int64) bool {
	n = magnitude(n)
	return n > bound && (n >= worthBytes || float64(n) >= worthShare*float64(whole))
}

// mib is a number of bytes for a sentence.
func mib(n int64) string { return fmt.Sprintf("%.2f MiB", float64(n)/(1<<20)) }

// readInFull tells that the row's children could all be read, so that its own residual is its own.
func (s *Sheet) readInFull(row int) bool {
	for i := row + 1; i < len(s.snap.Cgroups); i++ {
		if s.Rows[i].Parent == row && s.Rows[i].Known != KnownUsage|KnownStat {
			return false
		}
	}
	return true
}

// missing says which of a cgroup's files could not be read.
func (k Known) missing() string {
	switch {
	case k == 0:
		return "neither its usage nor its memory.stat could be read"
	case k&KnownUsage == 0:
		return "its usage could not be read"
	default:
		return "its memory.stat could not be read"
	}
}
