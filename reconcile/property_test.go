package reconcile_test

import (
	"fmt"
	"maps"
	"testing"

	"pgregory.net/rapid"

	"github.com/memrecon/memrecon/reconcile"
	"github.com/memrecon/memrecon/snapshot"
)

// amount draws a byte count as the kernel gives them, from nothing to some GiB.
func amount() *rapid.Generator[uint64] {
	return rapid.OneOf(rapid.Just(uint64(0)), rapid.Uint64Range(0, 1<<20), rapid.Uint64Range(0, 1<<33))
}

func value(t *rapid.T, label string) snapshot.Value {
	if rapid.IntRange(0, 9).Draw(t, label+" absent") == 0 {
		return snapshot.Value{}
	}
	return snapshot.Of(amount().Draw(t, label))
}

// stat draws a keyed file in which any key may be missing; whether it is there at all is drawn too.
func stat(t *rapid.T, keys []string, label string) snapshot.Stat {
	if rapid.IntRange(0, 9).Draw(t, label+" absent") == 0 {
		return snapshot.Stat{}
	}
	var names []string
	var values []uint64
	for _, k := range keys {
		if rapid.IntRange(0, 19).Draw(t, k+" absent") == 0 {
			continue
		}
		names, values = append(names, k), append(values, amount().Draw(t, k))
	}
	return snapshot.Stat{Keys: snapshot.NewKeys(names), Values: values}
}

var (
	v2Keys = []string{"anon", "file", "kernel", "kernel_stack", "pagetables", "sec_pagetables", "percpu", "sock", "vmalloc", "shmem",
		"zswap", "swapcached", "inactive_anon", "active_anon", "inactive_file", "active_file", "unevictable", "slab_reclaimable", "slab_unreclaimable"}
	v1Keys = []string{"cache", "rss", "total_cache", "total_rss", "total_shmem", "total_swapcached", "total_inactive_anon",
		"total_active_anon", "total_inactive_file", "total_active_file", "total_unevictable"}
)

// node draws a snapshot whose numbers belong together in no way at all: the sheet must close over anything.
func node(t *rapid.T) *snapshot.Snapshot {
	s := &snapshot.Snapshot{Mode: rapid.SampledFrom([]snapshot.Mode{snapshot.V1, snapshot.V2, snapshot.Hybrid}).Draw(t, "mode")}
	if rapid.IntRange(0, 9).Draw(t, "meminfo") > 0 {
		for _, m := range []*snapshot.Meminfo{&s.Host.MeminfoBefore, &s.Host.Meminfo} {
			m.MemTotal = snapshot.Of(amount().Draw(t, "MemTotal"))
			for _, f := range []*snapshot.Value{&m.MemFree, &m.MemAvailable, &m.Buffers, &m.Cached, &m.SwapCached, &m.ActiveAnon, &m.InactiveAnon,
				&m.ActiveFile, &m.InactiveFile, &m.Unevictable, &m.AnonPages, &m.Shmem, &m.SReclaimable, &m.SUnreclaim, &m.KernelStack, &m.PageTables,
				&m.SecPageTables, &m.VmallocUsed, &m.Percpu, &m.Hugetlb, &m.Zswap} {
				*f = value(t, "meminfo")
			}
		}
		s.Host.PageSize, s.Host.CPUs = 4096, rapid.IntRange(0, 8).Draw(t, "cpus")
		s.Host.Vmstat = stat(t, []string{"nr_kernel_misc_reclaimable"}, "vmstat")
		for range rapid.IntRange(0, 3).Draw(t, "zones") {
			s.Host.Zones = append(s.Host.Zones, snapshot.Zone{
				Low: value(t, "low"), High: value(t, "high"), Managed: value(t, "managed"), PerCPUFree: value(t, "per-CPU"),
				Protection: []uint64{0, amount().Draw(t, "protection")},
			})
		}
	}
	keys := v2Keys
	if s.Mode.Files() == snapshot.V1 {
		keys = v1Keys
	}
	for i := range rapid.IntRange(0, 12).Draw(t, "cgroups") {
		c := snapshot.Cgroup{Path: "/", Parent: -1, Usage: value(t, "usage"), Stat: stat(t, keys, "stat")}
		if i > 0 {
			c.Parent = int32(rapid.IntRange(0, i-1).Draw(t, "parent"))
			c.Path = fmt.Sprintf("/c%d", i)
		}
		if s.Mode.Files() == snapshot.V1 {
			c.KernelUsage = value(t, "kmem")
		}
		s.Cgroups = append(s.Cgroups, c)
	}
	return s
}

// The sheet closes, whatever the kernel says: all cells sum to the total; a row's cells and its children's to its usage; each
// column to meminfo's.
func TestSheetCloses(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		snap := node(t)
		sheet := reconcile.New(snap)
		columns := sheet.Columns()
		if got := columns.Sum(); got != sheet.Total {
			t.Fatalf("cells sum to %d, total is %d", got, sheet.Total)
		}
		if m := snap.Host.Meminfo; sheet.TotalKnown {
			if total, _ := m.MemTotal.Get(); int64(total) != sheet.Total {
				t.Fatalf("total is %d, MemTotal %d", sheet.Total, total)
			}
			for kind, want := range map[reconcile.Kind]snapshot.Value{
				reconcile.Anon: m.AnonPages, reconcile.Shmem: m.Shmem, reconcile.FileActive: m.ActiveFile, reconcile.FileInactive: m.InactiveFile,
				reconcile.SlabReclaimable: m.SReclaimable, reconcile.SlabUnreclaimable: m.SUnreclaim, reconcile.KernelStack: m.KernelStack,
				reconcile.Percpu: m.Percpu, reconcile.Hugetlb: m.Hugetlb, reconcile.Free: m.MemFree, reconcile.KernelUnsplit: snapshot.Of(0),
			} {
				if n, _ := want.Get(); columns[kind] != int64(n) {
					t.Fatalf("column %s is %d, meminfo says %d", kind, columns[kind], n)
				}
			}
		}
		children := make([]int64, len(sheet.Rows))
		for i := len(sheet.Rows) - 1; i >= 0; i-- {
			row := &sheet.Rows[i]
			if row.All.Sum() != row.Own.Sum()+children[i] {
				t.Fatalf("%s: own %d and children %d are not all %d", row.ID, row.Own.Sum(), children[i], row.All.Sum())
			}
			if row.Parent >= 0 {
				children[row.Parent] += row.All.Sum()
			}
			if row.Cgroup > 0 {
				if usage, ok := snap.Cgroups[row.Cgroup].Usage.Get(); ok && row.UsageBytes() != int64(usage) {
					t.Fatalf("%s: cells sum to %d, usage is %d", row.ID, row.UsageBytes(), usage)
				}
			}
		}
	})
}

// refs draws a figure of an owner that the sheet has.
func ref(t *rapid.T, sheet *reconcile.Sheet, label string) reconcile.Ref {
	amounts := sheet.Amounts()
	if len(amounts) == 0 {
		t.Skip("a sheet without figures")
	}
	a := rapid.SampledFrom(amounts).Draw(t, label)
	return reconcile.Ref{Figure: a.Figure.ID, Owner: a.Owner}
}

func bridge(t *rapid.T, sheet *reconcile.Sheet, from, to reconcile.Ref) reconcile.Bridge {
	b, err := sheet.Bridge(from, to)
	if err != nil {
		t.Fatalf("%v to %v: %v", from, to, err)
	}
	return b
}

// Steps sum to the difference, to the byte, and the value is the one that the figure has elsewhere.
func TestBridgeSums(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		sheet := reconcile.New(node(t))
		from, to := ref(t, sheet, "from"), ref(t, sheet, "to")
		b := bridge(t, sheet, from, to)
		var sum, byKind int64
		for _, st := range b.Steps {
			sum += st.Bytes
			if st.Bytes == 0 {
				t.Fatalf("a step of nothing: %+v", st)
			}
		}
		for _, k := range b.ByKind() {
			byKind += k.Bytes
		}
		if sum != b.ToBytes-b.FromBytes || byKind != sum {
			t.Fatalf("%v to %v: steps sum to %d, by kind to %d, the difference is %d", from, to, sum, byKind, b.ToBytes-b.FromBytes)
		}
		for _, end := range []struct {
			ref   reconcile.Ref
			bytes int64
		}{{from, b.FromBytes}, {to, b.ToBytes}} {
			if v, err := sheet.Value(end.ref.Figure, end.ref.Owner); err != nil || v != end.bytes {
				t.Fatalf("%v is %d in the bridge, %d (%v) as a figure", end.ref, end.bytes, v, err)
			}
		}
	})
}

// parts are a bridge's steps as a vector: what is added where.
func parts(bridges ...reconcile.Bridge) map[string]int64 {
	v := map[string]int64{}
	for _, b := range bridges {
		for _, st := range b.Steps {
			key := st.Owner + " " + fmt.Sprint(st.Kind)
			if st.IsAdjustment() {
				key = st.Owner + " " + st.Label
			}
			v[key] += st.Bytes
		}
	}
	maps.DeleteFunc(v, func(_ string, n int64) bool { return n == 0 })
	return v
}

// bridge(a, c) is bridge(a, b) and bridge(b, c), cell by cell; and the way back is the way with its signs turned.
func TestBridgesCompose(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		sheet := reconcile.New(node(t))
		a, b, c := ref(t, sheet, "a"), ref(t, sheet, "b"), ref(t, sheet, "c")
		direct, detour := parts(bridge(t, sheet, a, c)), parts(bridge(t, sheet, a, b), bridge(t, sheet, b, c))
		if !maps.Equal(direct, detour) {
			t.Fatalf("%v to %v: %v\nby way of %v: %v", a, c, direct, b, detour)
		}
		if loop := parts(bridge(t, sheet, a, b), bridge(t, sheet, b, a)); len(loop) != 0 {
			t.Fatalf("there and back: %v", loop)
		}
	})
}
