package reconcile_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/memrecon/memrecon/reconcile"
	"github.com/memrecon/memrecon/snapshot"
)

const mi = 1 << 20

// keyed is a keyed file from name, value, name, value.
func keyed(pairs ...any) snapshot.Stat {
	var names []string
	var values []uint64
	for i := 0; i < len(pairs); i += 2 {
		names, values = append(names, pairs[i].(string)), append(values, uint64(pairs[i+1].(int)))
	}
	return snapshot.Stat{Keys: snapshot.NewKeys(names), Values: values}
}

// v2Node is a small node on cgroup v2: 1000 MiB, one service with a child, four CPUs.
func v2Node() *snapshot.Snapshot {
	of := func(n int) snapshot.Value { return snapshot.Of(uint64(n * mi)) }
	return &snapshot.Snapshot{
		Mode: snapshot.V2,
		Host: snapshot.Host{
			PageSize: 4096, CPUs: 4,
			Meminfo: snapshot.Meminfo{
				MemTotal: of(1000), MemFree: of(300), MemAvailable: of(500), Buffers: of(10), Cached: of(290), Shmem: of(50),
				AnonPages: of(200), ActiveAnon: of(60), InactiveAnon: of(198), ActiveFile: of(100), InactiveFile: of(150),
				SReclaimable: of(40), SUnreclaim: of(30), KernelStack: of(5), PageTables: of(6), Percpu: of(4), VmallocUsed: of(12), Hugetlb: of(64),
			},
			Zones: []snapshot.Zone{{PerCPUFree: snapshot.Of(512), Low: snapshot.Of(256), High: snapshot.Of(512), Managed: snapshot.Of(1000 * 256), Protection: []uint64{0, 0}}},
		},
		Cgroups: []snapshot.Cgroup{
			{Path: "/", Parent: -1, Stat: keyed("anon", 200*mi, "file", 300*mi)},
			{Path: "/svc", Parent: 0, Usage: of(180), Stat: keyed("anon", 100*mi, "file", 60*mi, "kernel", 11*mi, "slab_reclaimable", 4*mi, "slab_unreclaimable", 3*mi,
				"kernel_stack", 1*mi, "pagetables", 1*mi, "sec_pagetables", 0, "percpu", 1*mi, "vmalloc", 0, "sock", 2*mi, "shmem", 20*mi, "swapcached", 0,
				"inactive_anon", 126*mi, "active_anon", 0, "inactive_file", 30*mi, "active_file", 10*mi, "unevictable", 0)},
			{Path: "/svc/worker", Parent: 1, Usage: of(90), Max: of(100), Stat: keyed("anon", 70*mi, "file", 20*mi, "kernel", 0, "shmem", 0,
				"inactive_anon", 70*mi, "active_anon", 0, "inactive_file", 20*mi, "active_file", 0, "unevictable", 0)},
		},
	}
}

func cell(t *testing.T, s *reconcile.Sheet, owner string, kind reconcile.Kind) int64 {
	t.Helper()
	i, ok := s.Row(owner)
	if !ok {
		t.Fatalf("no row %s", owner)
	}
	return s.Rows[i].Own[kind]
}

func TestCellsOnV2(t *testing.T) {
	s := reconcile.New(v2Node())
	for _, want := range []struct {
		owner string
		kind  reconcile.Kind
		mib   int64
	}{
		{"/svc", reconcile.Anon, 30},
		{"/svc", reconcile.AnonUnmapped, 6}, // lists 166, anon and file 160
		{"/svc", reconcile.Shmem, 20},
		{"/svc", reconcile.FileActive, 10},
		{"/svc", reconcile.FileInactive, 10},
		{"/svc", reconcile.SlabReclaimable, 4},
		{"/svc", reconcile.KernelOther, 1}, // 11 less slab 7, stacks, page tables, percpu
		{"/svc", reconcile.Sock, 2},
		{"/svc", reconcile.Residual, 1},      // 90 of its own: 30 + 6 + 20 + 20 + 11 + 2 are named
		{"/", reconcile.Anon, 100},           // AnonPages 200, /svc has 100
		{"/", reconcile.AnonUnmapped, 2},     // lists 508, AnonPages and cache 500; /svc has 6
		{"/", reconcile.FileInactive, 120},   // 150 less 30
		{"kernel", reconcile.Vmalloc, 7},     // VmallocUsed 12 less the stacks 5
		{"kernel", reconcile.KernelStack, 4}, // 5 less 1
		{"kernel", reconcile.KernelOther, 0}, // no zswap
		{"free", reconcile.Free, 300},        //
		{"free-per-cpu", reconcile.FreePerCPU, 2},
		{"huge-pages", reconcile.Hugetlb, 64},
	} {
		if got := cell(t, s, want.owner, want.kind); got != want.mib*mi {
			t.Errorf("%s %s is %.2f MiB, want %d", want.owner, want.kind, float64(got)/mi, want.mib)
		}
	}
	columns := s.Columns()
	if columns.Sum() != 1000*mi || s.Total != 1000*mi {
		t.Errorf("cells sum to %d, total %d", columns.Sum(), s.Total)
	}
}

func TestV1ChargesKernelMemoryUnsplit(t *testing.T) {
	snap := v2Node()
	snap.Mode = snapshot.Hybrid
	snap.Cgroups[1].KernelUsage = snapshot.Of(11 * mi)
	snap.Cgroups[1].Stat = keyed("rss", 1, "cache", 1, "total_rss", 100*mi, "total_cache", 60*mi, "total_shmem", 20*mi, "total_inactive_anon", 120*mi,
		"total_active_anon", 0, "total_inactive_file", 30*mi, "total_active_file", 10*mi, "total_unevictable", 5*mi)
	snap.Cgroups = snap.Cgroups[:2]
	s := reconcile.New(snap)
	if got := cell(t, s, "/svc", reconcile.AnonUnmapped); got != 5*mi {
		t.Errorf("unmapped anonymous memory of /svc is %d, want the 5 MiB that the lists have beyond anon and cache", got)
	}
	if got := cell(t, s, "/svc", reconcile.KernelUnsplit); got != 11*mi {
		t.Errorf("kernel memory of /svc is %d", got)
	}
	if got := cell(t, s, "/svc", reconcile.Anon); got != 100*mi {
		t.Errorf("anon of /svc is %d, want the hierarchical total_rss", got)
	}
	// The same bytes are in meminfo's slab, stacks and page tables: the kernel's row gives them back.
	i, _ := s.Row("kernel")
	if got := s.Rows[i].Own.KernelMemory(); got != (40+30+5+6+4+7-11)*mi {
		t.Errorf("the kernel's own memory is %d MiB, want what meminfo says less what cgroups are charged for", got/mi)
	}
}

// What the kernel counts for the node and for cgroups is in one cell only.
func TestKernelCells(t *testing.T) {
	snap := v2Node()
	m := &snap.Host.Meminfo
	m.Zswap, m.SecPageTables, m.VmallocUsed = snapshot.Of(9*mi), snapshot.Of(2*mi), snapshot.Of(3*mi)
	m.ActiveAnon, m.InactiveAnon = snapshot.Of(0), snapshot.Of(190*mi)
	snap.Host.Vmstat = keyed("nr_kernel_misc_reclaimable", 256)
	snap.Cgroups[1].Stat = keyed("anon", 100*mi, "file", 60*mi, "shmem", 60*mi, "kernel", 6*mi, "pagetables", 1*mi, "sec_pagetables", 1*mi,
		"zswap", 4*mi, "hugetlb", 10*mi)
	snap.Cgroups[2].Stat = keyed("anon", 70*mi, "file", 20*mi, "shmem", 20*mi, "kernel", 3*mi, "pagetables", 0, "sec_pagetables", 0, "zswap", 3*mi, "hugetlb", 0)
	s := reconcile.New(snap)
	for _, want := range []struct {
		owner string
		kind  reconcile.Kind
		mib   int64
	}{
		{"/svc", reconcile.PageTables, 2},
		{"/svc", reconcile.KernelOther, 1}, // 6 less page tables 2 and the child's zswap 3
		{"/svc", reconcile.Hugetlb, 10},
		{"kernel", reconcile.PageTables, 6},  // 6 and 2 less 2
		{"kernel", reconcile.KernelOther, 6}, // zswap 9 less 4 that /svc has, and 1 of misc
		{"kernel", reconcile.Vmalloc, 0},     // not even the stacks are in VmallocUsed
		{"huge-pages", reconcile.Hugetlb, 54},
		{"/", reconcile.AnonUnmapped, 0}, // pages wait to get onto a list
	} {
		if got := cell(t, s, want.owner, want.kind); got != want.mib*mi {
			t.Errorf("%s %s is %.2f MiB, want %d", want.owner, want.kind, float64(got)/mi, want.mib)
		}
	}
	m.Hugetlb, m.HugePagesTotal, m.Hugepagesize = snapshot.Value{}, snapshot.Of(8), snapshot.Of(2*mi)
	if columns := reconcile.New(snap).Columns(); columns[reconcile.Hugetlb] != 16*mi {
		t.Errorf("huge pages before Linux 4.16 are %d, want 8 of 2 MiB", columns[reconcile.Hugetlb])
	}
}

func TestOwnChargeMayBeNegative(t *testing.T) {
	snap := v2Node()
	snap.Cgroups[2].Stat = keyed("anon", 130*mi, "file", 20*mi, "inactive_file", 20*mi, "active_file", 0, "shmem", 0)
	s := reconcile.New(snap)
	if got := cell(t, s, "/svc", reconcile.Anon); got != -30*mi {
		t.Errorf("the parent's own anon is %d, want -30 MiB: the child was read later and had grown", got)
	}
	i, _ := s.Row("/svc")
	if got := s.Rows[i].UsageBytes(); got != 180*mi {
		t.Errorf("usage of /svc is %d, want memory.current", got)
	}
}

func TestWhatCouldNotBeRead(t *testing.T) {
	t.Run("memory.stat of a parent", func(t *testing.T) {
		snap := v2Node()
		snap.Cgroups[1].Stat = snapshot.Stat{}
		s := reconcile.New(snap)
		if got := cell(t, s, "/svc", reconcile.Residual); got != 90*mi {
			t.Errorf("what /svc uses beyond its child is %d, want 90 MiB in the residual", got)
		}
		wantFinding(t, s, "cgroup-unread", "/svc")
		snap = v2Node()
		snap.Cgroups[2].Stat = snapshot.Stat{}
		for _, f := range reconcile.New(snap).Findings {
			if f.ID == "cgroup-residual" {
				t.Errorf("what could not be read of a child is not its parent's residual: %s", f.Text)
			}
		}
		if got, err := s.Value("usage", "/svc"); err != nil || got != 180*mi {
			t.Errorf("usage of /svc is %d (%v), want what its own file says", got, err)
		}
		for _, id := range []string{"rss", "working-set", "docker-stats", "cache", "kernel-memory"} {
			if got, err := s.Value(id, "/svc"); !errors.As(err, new(*reconcile.NotApplicableError)) || !strings.Contains(err.Error(), "memory.stat") {
				t.Errorf("%s of /svc without its memory.stat is %d (%v)", id, got, err)
			}
		}
	})
	t.Run("usage", func(t *testing.T) {
		snap := v2Node()
		snap.Cgroups[2].Usage = snapshot.Value{}
		s := reconcile.New(snap)
		if got, err := s.Value("rss", "/svc/worker"); err != nil || got != 70*mi {
			t.Errorf("rss of /svc/worker is %d (%v), want 70 MiB", got, err)
		}
		for _, id := range []string{"usage", "working-set", "docker-stats"} {
			if got, err := s.Value(id, "/svc/worker"); !errors.As(err, new(*reconcile.NotApplicableError)) {
				t.Errorf("%s of /svc/worker without its usage is %d (%v)", id, got, err)
			}
		}
	})
	t.Run("zoneinfo", func(t *testing.T) {
		snap := quiet()
		snap.Host.Zones = nil
		s := reconcile.New(snap)
		for _, id := range []string{"mem-available", "free-used"} {
			if got, err := s.Value(id, reconcile.OwnerNode); !errors.As(err, new(*reconcile.NotApplicableError)) {
				t.Errorf("%s without watermarks is %d (%v)", id, got, err)
			}
		}
		if len(s.Findings) > 0 {
			t.Errorf("findings: %+v", s.Findings)
		}
	})
	t.Run("a cgroup without any file", func(t *testing.T) {
		snap := v2Node()
		snap.Cgroups[2].Stat, snap.Cgroups[2].Usage = snapshot.Stat{}, snapshot.Value{}
		s := reconcile.New(snap)
		if got := cell(t, s, "/svc", reconcile.Anon); got != 100*mi {
			t.Errorf("anon of /svc is %d, want the child's with it", got)
		}
		if _, err := s.Value("usage", "/svc/worker"); !errors.As(err, new(*reconcile.NotApplicableError)) {
			t.Errorf("usage of an unread cgroup: %v", err)
		}
	})
	t.Run("meminfo", func(t *testing.T) {
		snap := v2Node()
		snap.Host = snapshot.Host{}
		s := reconcile.New(snap)
		if s.TotalKnown {
			t.Error("the total is known without meminfo")
		}
		if got, err := s.Value("usage", "/svc"); err != nil || got != 180*mi {
			t.Errorf("usage of /svc is %d, %v", got, err)
		}
		if _, err := s.Value("mem-free", reconcile.OwnerNode); !errors.As(err, new(*reconcile.NotApplicableError)) {
			t.Errorf("MemFree without meminfo: %v", err)
		}
	})
	t.Run("all cgroups", func(t *testing.T) {
		snap := v2Node()
		snap.Cgroups, snap.Mode = nil, ""
		s := reconcile.New(snap)
		if got := cell(t, s, "/", reconcile.Anon); got != 200*mi {
			t.Errorf("anon of the node is %d", got)
		}
	})
}

func wantFinding(t *testing.T, s *reconcile.Sheet, id, owner string) {
	t.Helper()
	for _, f := range s.Findings {
		if f.ID == id && f.Owner == owner {
			return
		}
	}
	t.Errorf("no finding %s of %s; there are %+v", id, owner, s.Findings)
}

func TestFindings(t *testing.T) {
	if s := reconcile.New(quiet()); len(s.Findings) != 0 {
		t.Errorf("a node that adds up has findings: %+v", s.Findings)
	}
	for _, tc := range []struct {
		id, owner string
		spoil     func(*snapshot.Snapshot)
	}{
		{"cgroup-residual", "/svc/worker", func(s *snapshot.Snapshot) { s.Cgroups[2].Usage = snapshot.Of(95 * mi) }},
		{"namespaced-root", "/", func(s *snapshot.Snapshot) { s.Cgroups[0].Usage = snapshot.Of(500 * mi) }},
		{"root-against-meminfo", "node", func(s *snapshot.Snapshot) { s.Cgroups[0].Stat = keyed("anon", 250*mi, "file", 300*mi) }},
		{"mem-available", "node", func(s *snapshot.Snapshot) { s.Host.Meminfo.MemAvailable = snapshot.Of(400 * mi) }},
		{"negative-residual", "node", func(s *snapshot.Snapshot) { s.Host.Meminfo.Percpu = snapshot.Of(400 * mi) }},
		{"no-hierarchy", "/svc", func(s *snapshot.Snapshot) { s.Cgroups[1].UseHierarchy = snapshot.Of(0) }},
	} {
		t.Run(tc.id, func(t *testing.T) {
			snap := quiet()
			tc.spoil(snap)
			wantFinding(t, reconcile.New(snap), tc.id, tc.owner)
		})
	}
}

// What a kernel at work leaves between two counters is no finding.
func TestNoFindings(t *testing.T) {
	for _, tc := range []struct {
		name  string
		leave func(*snapshot.Snapshot)
	}{
		// Four CPUs have stocks of 1 MiB and counters late by two.
		{"stocks and late counters", func(s *snapshot.Snapshot) { s.Cgroups[2].Usage = snapshot.Of(93 * mi) }},
		{"moved while it was read", func(s *snapshot.Snapshot) {
			s.Cgroups[2].Usage = snapshot.Of(95 * mi)
			s.Host.MeminfoBefore = s.Host.Meminfo
			s.Host.MeminfoBefore.MemFree, s.Host.MeminfoBefore.Percpu = snapshot.Of(302*mi), snapshot.Of(2*mi)
		}},
		{"a hundredth of a large cgroup", func(s *snapshot.Snapshot) {
			*s = *quiet()
			s.Cgroups[2].Usage, s.Cgroups[1].Usage = snapshot.Of(604*mi), snapshot.Of(694*mi)
			s.Cgroups[2].Stat = keyed("anon", 600*mi, "file", 0, "kernel", 0)
			s.Cgroups[1].Stat = keyed("anon", 630*mi, "file", 60*mi, "kernel", 0, "shmem", 60*mi)
		}},
		{"page tables before Linux 5.18", func(s *snapshot.Snapshot) {
			s.Cgroups[2].Usage, s.Cgroups[1].Usage = snapshot.Of(98*mi), snapshot.Of(188*mi)
			s.Cgroups[2].Stat = keyed("anon", 70*mi, "file", 20*mi, "shmem", 0)
		}},
		{"MemAvailable counted a moment later", func(s *snapshot.Snapshot) { s.Host.Meminfo.MemAvailable = snapshot.Of(588 * mi) }},
		{"root a moment earlier", func(s *snapshot.Snapshot) { s.Cgroups[0].Stat = keyed("anon", 204*mi, "file", 300*mi) }},
		{"pages on their way to a free list", func(s *snapshot.Snapshot) {
			s.Host.Meminfo.MemTotal = snapshot.Of((1000 - 300) * mi)
			s.Host.Meminfo.MemFree = snapshot.Of(15 * mi)
			s.Host.Meminfo.MemAvailable = snapshot.Of((586 - 285) * mi)
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			snap := quiet()
			tc.leave(snap)
			if s := reconcile.New(snap); len(s.Findings) > 0 {
				t.Errorf("findings: %+v; residual %d", s.Findings, s.ResidualBytes())
			}
		})
	}
}

// quiet is v2Node with figures that agree.
func quiet() *snapshot.Snapshot {
	s := v2Node()
	// MemFree 300 + cache 250 + slab 40, less the reserve (512 pages) and the low watermark (256 pages) twice.
	s.Host.Meminfo.MemAvailable = snapshot.Of(586 * mi)
	return s
}

func TestFigures(t *testing.T) {
	s := reconcile.New(quiet())
	for _, want := range []struct {
		id, owner string
		mib       int64
	}{
		{"mem-total", "node", 1000},
		{"mem-free", "node", 300},
		{"mem-available", "node", 586},
		{"free-used", "node", 414},
		{"free-used-procps3", "node", 1000 - 300 - 10 - 290 - 40},
		{"grafana-used", "node", 1000 - 300 - 10 - 290},
		{"node-usage", "node", 500},
		{"node-working-set", "node", 350},
		{"node-usage-total-less-free", "node", 700},
		{"node-working-set-total-less-free", "node", 550},
		{"usage", "/svc", 180},
		{"working-set", "/svc", 150},
		{"rss", "/svc", 100},
		{"cache", "/svc", 60},
		{"docker-stats", "/svc", 150},
		{"kernel-memory", "/svc", 11},
		{"children-usage", "/svc", 90},
		{"children-working-set", "/svc", 70},
		{"children-working-set", "/", 150},
	} {
		if got, err := s.Value(want.id, want.owner); err != nil || got != want.mib*mi {
			t.Errorf("%s of %s is %.3f MiB (%v), want %d", want.id, want.owner, float64(got)/mi, err, want.mib)
		}
	}
}

// A boost raises the watermarks that page cache and slab are measured by, but not the reserves, which the kernel reckons once.
func TestMemAvailableWithBoostedWatermarks(t *testing.T) {
	snap := quiet()
	z := &snap.Host.Zones[0]
	z.Low, z.High, z.Boost = snapshot.Of(256+1024), snapshot.Of(512+1024), snapshot.Of(1024)
	snap.Host.Meminfo.MemAvailable = snapshot.Of((586 - 2*4) * mi)
	s := reconcile.New(snap)
	if got, err := s.Value("mem-available", reconcile.OwnerNode); err != nil || got != (586-2*4)*mi {
		t.Errorf("MemAvailable is %d (%v), want 578 MiB", got, err)
	}
}

// Reclaimable kernel memory that is no slab counts with the slab, also in what half of it is.
func TestMemAvailableWithMiscReclaimable(t *testing.T) {
	snap := quiet()
	snap.Host.Meminfo.SReclaimable = snapshot.Of(1 * mi)
	snap.Host.Vmstat = keyed("nr_kernel_misc_reclaimable", 256)
	s := reconcile.New(snap)
	// 300 + 250 + 1 + 1, less the reserve of 2, the low watermark of 1 and half of 2.
	if got, err := s.Value("mem-available", reconcile.OwnerNode); err != nil || got != 548*mi {
		t.Errorf("MemAvailable is %d (%v), want 548 MiB", got, err)
	}
	snap.Host.Meminfo.MemAvailable = snapshot.Of(1001 * mi) // as lxcfs may have it
	if v, err := reconcile.New(snap).Published("free-used", reconcile.OwnerNode); err != nil || !v.IsAbsent() {
		t.Errorf("more available than there is: used is published as %v (%v)", v, err)
	}
}

func TestStepsSayWhoCountsThem(t *testing.T) {
	s := reconcile.New(quiet())
	rss, usage := reconcile.Ref{Figure: "rss", Owner: "/svc/worker"}, reconcile.Ref{Figure: "usage", Owner: "/svc/worker"}
	for _, way := range [][2]reconcile.Ref{{rss, usage}, {usage, rss}} {
		b, err := s.Bridge(way[0], way[1])
		if err != nil || len(b.Steps) != 1 || b.Steps[0].Label != "inactive page cache, counted by usage only" {
			t.Errorf("%v to %v: %+v (%v)", way[0], way[1], b.Steps, err)
		}
	}
}

// More inactive page cache than usage happens while a cgroup is torn down: cAdvisor stops at zero, docker shows usage.
func TestFloors(t *testing.T) {
	snap := v2Node()
	snap.Cgroups[2].Usage = snapshot.Of(15 * mi)
	s := reconcile.New(snap)
	if got, _ := s.Value("working-set", "/svc/worker"); got != 0 {
		t.Errorf("working set is %d, want 0", got)
	}
	if got, _ := s.Value("docker-stats", "/svc/worker"); got != 15*mi {
		t.Errorf("docker stats is %d, want usage", got)
	}
	if got, _ := s.Value("children-working-set", "/svc"); got != 0 {
		t.Errorf("working sets of the children sum to %d, want 0", got)
	}
	snap.Cgroups[2].Usage = snapshot.Of(20 * mi)
	if got, _ := reconcile.New(snap).Value("docker-stats", "/svc/worker"); got != 20*mi {
		t.Errorf("docker stats of inactive page cache alone is %d, want usage", got)
	}
}

// The swap cache is anonymous memory that is in no cgroup's file: mapped it is in anon, unmapped on the lists alone. Only the
// usage of cgroup v1's root, which is the node's counters, has it in its file pages.
func TestSwapCache(t *testing.T) {
	snap := quiet()
	snap.Host.Meminfo.SwapCached = snapshot.Of(7 * mi)
	snap.Cgroups[1].Stat = keyed("anon", 100*mi, "file", 60*mi, "shmem", 20*mi, "swapcached", 7*mi,
		"inactive_anon", 125*mi, "active_anon", 0, "inactive_file", 30*mi, "active_file", 10*mi, "unevictable", 0)
	s := reconcile.New(snap)
	if got := cell(t, s, "/svc", reconcile.FileOther); got != 0 {
		t.Errorf("page cache of /svc on neither list is %d, want none", got)
	}
	if got := cell(t, s, "/svc", reconcile.AnonUnmapped); got != 5*mi {
		t.Errorf("unmapped anonymous memory of /svc is %d, want 5 MiB", got)
	}
	if got, err := s.Value("node-usage", reconcile.OwnerNode); err != nil || got != 500*mi {
		t.Errorf("usage of the root is %d (%v), want 500 MiB without swap cache", got, err)
	}

	snap.Mode = snapshot.V1
	snap.Cgroups = []snapshot.Cgroup{{Path: "/", Parent: -1, Usage: snapshot.Of(507 * mi), Stat: keyed("total_rss", 200*mi, "total_cache", 300*mi)}}
	s = reconcile.New(snap)
	b, err := s.Bridge(reconcile.Ref{Figure: "grafana-used"}, reconcile.Ref{Figure: "node-usage"})
	if err != nil {
		t.Fatal(err)
	}
	if last := b.Steps[len(b.Steps)-1]; !last.IsAdjustment() || last.Bytes != 7*mi || !strings.Contains(last.Label, "swap cache") {
		t.Errorf("the last step is %+v, want the swap cache", last)
	}
}

func TestSkewIsWhatMoved(t *testing.T) {
	snap := quiet()
	snap.Host.MeminfoBefore = snap.Host.Meminfo
	if s := reconcile.New(snap); s.Skew != 0 {
		t.Errorf("nothing moved, yet skew is %d", s.Skew)
	}
	snap.Host.MeminfoBefore.MemFree = snapshot.Of(303 * mi)
	snap.Host.MeminfoBefore.AnonPages = snapshot.Of(197 * mi)
	snap.Host.MeminfoBefore.InactiveAnon = snapshot.Of(195 * mi)
	if s := reconcile.New(snap); s.Skew != 3*mi {
		t.Errorf("3 MiB went from free to anon, yet skew is %d", s.Skew)
	}
}

func TestErrorsSayWhatToDo(t *testing.T) {
	s := reconcile.New(quiet())
	for _, tc := range []struct {
		from, to reconcile.Ref
		want     any
		words    string
	}{
		{reconcile.Ref{Figure: "nonsense"}, reconcile.Ref{Figure: "mem-free"}, new(*reconcile.UnknownFigureError), "memrecon figures"},
		{reconcile.Ref{Figure: "mem-free"}, reconcile.Ref{Figure: "rss", Owner: "/gone"}, new(*reconcile.UnknownOwnerError), "/gone"},
		{reconcile.Ref{Figure: "mem-free"}, reconcile.Ref{Figure: "rss", Owner: "/"}, new(*reconcile.NotApplicableError), "node-working-set"},
		{reconcile.Ref{Figure: "mem-free"}, reconcile.Ref{Figure: "rss", Owner: "kernel"}, new(*reconcile.NotApplicableError), "no cgroup"},
	} {
		_, err := s.Bridge(tc.from, tc.to)
		if !errors.As(err, tc.want) || !strings.Contains(err.Error(), tc.words) {
			t.Errorf("%v to %v: %v", tc.from, tc.to, err)
		}
	}
}

// A kind that the kernel's files do not tell apart is not known to be zero.
func TestKinds(t *testing.T) {
	v1 := v2Node()
	v1.Mode = snapshot.V1
	v1.Cgroups[1].KernelUsage = snapshot.Of(11 * mi)
	v1.Cgroups[1].Stat = keyed("total_rss", 100*mi, "total_cache", 60*mi, "total_inactive_file", 30*mi, "total_active_file", 10*mi)
	noStat := v2Node()
	noStat.Cgroups[1].Stat = snapshot.Stat{}
	for _, tt := range []struct {
		name        string
		set         reconcile.KindSet
		has, hasNot []reconcile.Kind
	}{
		{
			"v2", reconcile.New(v2Node()).Rows[1].Kinds,
			[]reconcile.Kind{reconcile.Anon, reconcile.AnonUnmapped, reconcile.FileOther, reconcile.Vmalloc, reconcile.KernelOther, reconcile.Sock, reconcile.Residual},
			[]reconcile.Kind{reconcile.KernelUnsplit, reconcile.Hugetlb, reconcile.Free, reconcile.FreePerCPU},
		},
		{
			"v2 with few keys", reconcile.New(v2Node()).Rows[2].Kinds,
			[]reconcile.Kind{reconcile.Anon, reconcile.Shmem, reconcile.KernelOther, reconcile.Residual},
			[]reconcile.Kind{reconcile.Sock, reconcile.SlabReclaimable, reconcile.PageTables},
		},
		{
			"v1", reconcile.New(v1).Rows[1].Kinds,
			[]reconcile.Kind{reconcile.Anon, reconcile.FileActive, reconcile.FileInactive, reconcile.KernelUnsplit, reconcile.Residual},
			[]reconcile.Kind{reconcile.AnonUnmapped, reconcile.Shmem, reconcile.KernelOther, reconcile.Sock},
		},
		{"no memory.stat", reconcile.New(noStat).Rows[1].Kinds, nil, []reconcile.Kind{reconcile.Anon, reconcile.Residual}},
		{
			"node", reconcile.New(v2Node()).Kinds,
			[]reconcile.Kind{reconcile.Anon, reconcile.Free, reconcile.FreePerCPU, reconcile.Vmalloc, reconcile.Sock, reconcile.Residual},
			[]reconcile.Kind{reconcile.KernelUnsplit, reconcile.KernelOther}, // of the latter's keys meminfo has none
		},
	} {
		for _, k := range tt.has {
			if !tt.set.Has(k) {
				t.Errorf("%s: %s is not known", tt.name, k)
			}
		}
		for _, k := range tt.hasNot {
			if tt.set.Has(k) {
				t.Errorf("%s: %s is known", tt.name, k)
			}
		}
	}
}
