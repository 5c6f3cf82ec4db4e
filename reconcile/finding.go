package reconcile

import (
	"fmt"
	"time"

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
	s.findKubelet(bound, report)
}

// findKubelet compares what the kubelet, the kernel and the API server say with what was computed.
func (s *Sheet) findKubelet(bound int64, report func(id, owner string, bytes int64, format string, args ...any)) {
	k := s.snap.Kubernetes
	if k == nil {
		return
	}
	for row := range s.then {
		m := s.kubeletStats(row)
		if m == nil {
			continue
		}
		owner, names := s.Rows[row].ID, [numSeries]string{"usage", "working-set", "rss"}
		likely := "the kubelet has its figures from the container runtime (PodAndContainerStatsFromCRI), or of an earlier container of that name"
		if row == 0 {
			if id, _, _ := s.RootFormula(); id != "" && id != "node-working-set" {
				continue // an older kubelet: it has another formula, which is told elsewhere
			}
			owner, names = OwnerNode, [numSeries]string{"node-usage", "node-working-set", "node-rss"}
			likely = "the kubelet computes the node's figures in another way, or reads another root than memrecon"
		}
		for f := range numSeries {
			n, said := f.of(m).Get()
			then := s.then[row][f]
			if !said || !then.Known {
				continue
			}
			// Between two readings it may have been as far outside of them as they are apart.
			if off := then.Off(int64(n)); beyond(off, bound+then.High-then.Low, then.High) {
				report("kubelet-differs", owner, off, "%s: the kubelet says that %s was %s at %s, when it was %s to %s by memrecon's readings: change does not explain %s; likely %s",
					owner, names[f], mib(int64(n)), m.Time.UTC().Format(time.TimeOnly), mib(then.Low), mib(then.High), mib(off), likely)
			}
		}
	}
	if age := k.Time.Sub(k.Summary.Node.Time); !k.Summary.Node.Time.IsZero() && age > staleFigures {
		report("kubelet-stale", OwnerNode, 0, "the kubelet gives out figures that are %s old, where it renews them within 15 s: its housekeeping is stuck or starved, and so is eviction", age.Round(time.Second))
	}
	for _, f := range []struct{ id, who, why string }{
		{"kubepods-limit", "the kernel", "the kubelet sets it when it starts: it has not been restarted since its configuration changed, or somebody else set it"},
		{"allocatable", "the API server", "the kubelet has not reported its Node since, or its configuration changed without a restart"},
		{"capacity", "the API server", "the kubelet has not reported its Node since memory was added or taken away"},
	} {
		computed, err1 := s.Value(f.id, OwnerNode)
		published, err2 := s.Published(f.id, OwnerNode)
		// The kernel keeps limits in whole pages.
		if n, ok := published.Get(); ok && err1 == nil && err2 == nil && magnitude(int64(n)-computed) >= int64(max(1, s.snap.Host.PageSize)) {
			report("setting-differs", OwnerNode, int64(n)-computed, "%s is %s by the kubelet's configuration, but %s has %s: %s", f.id, mib(computed), f.who, mib(int64(n)), f.why)
		}
	}
}

// staleFigures is the age from which the kubelet's figures are stale: cAdvisor's housekeeping is each 10 to 15 s.
const staleFigures = time.Minute

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
