package cgroup

import (
	"maps"
	"path/filepath"
	"testing"

	"github.com/containerd/cgroups/v3/cgroup1"
	stats1 "github.com/containerd/cgroups/v3/cgroup1/stats"
	"github.com/containerd/cgroups/v3/cgroup2"
	stats2 "github.com/containerd/cgroups/v3/cgroup2/stats"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/memrecon/memrecon/snapshot"
)

// TestRealOracle has containerd's library make a cgroup with limits, and compares what both read of it. The library gives 0
// for a file that is not there, and the largest number for max.
func TestRealOracle(t *testing.T) {
	b := newBranch(t)
	group := filepath.Join("/", filepath.Base(b.Dir), "limited")
	const limit, softLimit = int64(256 << 20), int64(128 << 20)
	var oracle func() map[string]uint64
	if b.Mode == snapshot.V2 {
		low, swap, oomGroup := int64(1<<20), int64(0), true
		manager, err := cgroup2.NewManager("/sys/fs/cgroup", group, &cgroup2.Resources{Memory: &cgroup2.Memory{
			Max: new(limit), High: new(softLimit), Low: &low, Swap: &swap, OOMGroup: &oomGroup,
		}})
		if err != nil {
			t.Fatal(err)
		}
		oracle = func() map[string]uint64 {
			m, err := manager.Stat()
			if err != nil {
				t.Fatal(err)
			}
			return byNameV2(m)
		}
	} else {
		memory := cgroup1.SingleSubsystem(cgroup1.Default, cgroup1.Memory)
		manager, err := cgroup1.New(cgroup1.StaticPath(group), &specs.LinuxResources{Memory: &specs.LinuxMemory{
			Limit: new(limit), Reservation: new(softLimit),
		}}, cgroup1.WithHierarchy(memory))
		if err != nil {
			t.Fatal(err)
		}
		oracle = func() map[string]uint64 {
			m, err := manager.Stat()
			if err != nil {
				t.Fatal(err)
			}
			return byNameV1(m)
		}
	}
	b.tenant("limited")

	r := open(t, b.Hierarchy, Options{SlowEvery: 1})
	var ours, theirs map[string]uint64
	for range 20 { // what moves meanwhile is compared again
		cgroups, _ := sweep(t, r)
		c := cgroups["/limited"]
		theirs, ours = oracle(), map[string]uint64{}
		for name := range theirs {
			ours[name] = named(c, name)
		}
		if maps.Equal(ours, theirs) {
			break
		}
	}
	for name := range theirs {
		if ours[name] != theirs[name] {
			t.Errorf("%s: %d, containerd says %d", name, ours[name], theirs[name])
		}
	}
	cgroups, _ := sweep(t, r)
	c := cgroups["/limited"]
	if c.Max != snapshot.Of(uint64(limit)) || c.SoftLimit != snapshot.Of(uint64(softLimit)) && c.High != snapshot.Of(uint64(softLimit)) {
		t.Errorf("max %v, soft limit %v, high %v", c.Max, c.SoftLimit, c.High)
	}
	if b.Mode == snapshot.V2 && (c.Low != snapshot.Of(1<<20) || c.SwapMax != snapshot.Of(0) && !c.SwapMax.IsAbsent() || c.OOMGroup != snapshot.Of(1)) {
		t.Errorf("low %v, swap %v, OOM group %v", c.Low, c.SwapMax, c.OOMGroup)
	}
}

// named is a value by a field's name or a key of the keyed files, as containerd's library gives it.
func named(c *snapshot.Cgroup, name string) uint64 {
	fields := map[string]snapshot.Value{
		"Usage": c.Usage, "Max": c.Max, "Peak": c.Peak, "Swap": c.Swap, "SwapMax": c.SwapMax, "KernelUsage": c.KernelUsage,
		"TCPUsage": c.TCPUsage, "Failcnt": c.Failcnt, "MemswUsage": c.MemswUsage, "MemswMax": c.MemswMax,
	}
	if v, ok := fields[name]; ok {
		n, _ := v.Get()
		if v.IsUnlimited() {
			return 1<<64 - 1
		}
		return n
	}
	var sum uint64
	for _, s := range []snapshot.Stat{c.Stat, c.Events, c.OOMControl} {
		n, _ := s.Get(name)
		sum += n
	}
	return sum
}

func byNameV1(m *stats1.Metrics) map[string]uint64 {
	s := m.Memory
	unlimited := func(n uint64) uint64 {
		if n >= 1<<62 {
			return 1<<64 - 1
		}
		return n
	}
	return map[string]uint64{
		"Usage": s.Usage.Usage, "Max": s.Usage.Limit, "Peak": s.Usage.Max, "Failcnt": s.Usage.Failcnt,
		"MemswUsage": s.Swap.Usage, "MemswMax": unlimited(s.Swap.Limit),
		"KernelUsage": s.Kernel.Usage, "TCPUsage": s.KernelTCP.Usage,
		"cache": s.Cache, "rss": s.RSS, "rss_huge": s.RSSHuge, "mapped_file": s.MappedFile, "dirty": s.Dirty,
		"writeback": s.Writeback, "pgpgin": s.PgPgIn, "pgpgout": s.PgPgOut, "pgfault": s.PgFault, "pgmajfault": s.PgMajFault,
		"inactive_anon": s.InactiveAnon, "active_anon": s.ActiveAnon, "inactive_file": s.InactiveFile,
		"active_file": s.ActiveFile, "unevictable": s.Unevictable, "hierarchical_memory_limit": s.HierarchicalMemoryLimit,
		"total_cache": s.TotalCache, "total_rss": s.TotalRSS, "total_mapped_file": s.TotalMappedFile,
		"total_inactive_anon": s.TotalInactiveAnon, "total_active_anon": s.TotalActiveAnon,
		"total_inactive_file": s.TotalInactiveFile, "total_active_file": s.TotalActiveFile,
		"total_unevictable": s.TotalUnevictable,
		"oom_kill_disable":  m.MemoryOomControl.OomKillDisable, "under_oom": m.MemoryOomControl.UnderOom,
		"oom_kill": m.MemoryOomControl.OomKill,
	}
}

func byNameV2(m *stats2.Metrics) map[string]uint64 {
	s, e := m.Memory, m.MemoryEvents
	return map[string]uint64{
		"Usage": s.Usage, "Max": s.UsageLimit, "Swap": s.SwapUsage, "SwapMax": s.SwapLimit, "Peak": s.MaxUsage,
		"anon": s.Anon, "file": s.File, "kernel_stack": s.KernelStack, "slab": s.Slab, "sock": s.Sock, "shmem": s.Shmem,
		"file_mapped": s.FileMapped, "file_dirty": s.FileDirty, "file_writeback": s.FileWriteback, "anon_thp": s.AnonThp,
		"inactive_anon": s.InactiveAnon, "active_anon": s.ActiveAnon, "inactive_file": s.InactiveFile,
		"active_file": s.ActiveFile, "unevictable": s.Unevictable, "slab_reclaimable": s.SlabReclaimable,
		"slab_unreclaimable": s.SlabUnreclaimable, "pgfault": s.Pgfault, "pgmajfault": s.Pgmajfault,
		"pgscan": s.Pgscan, "pgsteal": s.Pgsteal, "pgactivate": s.Pgactivate, "thp_fault_alloc": s.ThpFaultAlloc,
		"low": e.Low, "high": e.High, "max": e.Max, "oom": e.Oom, "oom_kill": e.OomKill, "oom_group_kill": e.OomGroupKill,
	}
}
