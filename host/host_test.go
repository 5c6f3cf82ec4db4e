package host

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"

	"github.com/memrecon/memrecon/snapshot"
)

const nodes = "../testdata/nodes"

func open(t *testing.T, root string) *Reader {
	t.Helper()
	r, err := Open(root)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// The figures are copied by eye from the files.
func TestReadSavedNode(t *testing.T) {
	r := open(t, nodes+"/v2-quiet/proc")
	h, errs := r.Read()
	if len(errs) != 0 {
		t.Fatal(errs)
	}
	kib := func(n uint64) snapshot.Value { return snapshot.Of(n * 1024) }
	for _, c := range []struct {
		key       string
		got, want snapshot.Value
	}{
		{"MemTotal", h.Meminfo.MemTotal, kib(2026012)},
		{"MemFree", h.Meminfo.MemFree, kib(1264596)},
		{"MemAvailable", h.Meminfo.MemAvailable, kib(1507112)},
		{"Buffers", h.Meminfo.Buffers, kib(1184)},
		{"Cached", h.Meminfo.Cached, kib(427600)},
		{"SwapCached", h.Meminfo.SwapCached, kib(0)},
		{"Active(anon)", h.Meminfo.ActiveAnon, kib(428)},
		{"Inactive(anon)", h.Meminfo.InactiveAnon, kib(334712)},
		{"Active(file)", h.Meminfo.ActiveFile, kib(38312)},
		{"Inactive(file)", h.Meminfo.InactiveFile, kib(327088)},
		{"Unevictable", h.Meminfo.Unevictable, kib(0)},
		{"Mlocked", h.Meminfo.Mlocked, kib(0)},
		{"SwapTotal", h.Meminfo.SwapTotal, kib(0)},
		{"SwapFree", h.Meminfo.SwapFree, kib(0)},
		{"Zswap", h.Meminfo.Zswap, snapshot.Value{}},
		{"Zswapped", h.Meminfo.Zswapped, snapshot.Value{}},
		{"Dirty", h.Meminfo.Dirty, kib(16)},
		{"Writeback", h.Meminfo.Writeback, kib(0)},
		{"AnonPages", h.Meminfo.AnonPages, kib(264192)},
		{"Mapped", h.Meminfo.Mapped, kib(139068)},
		{"Shmem", h.Meminfo.Shmem, kib(63384)},
		{"Slab", h.Meminfo.Slab, kib(30440)},
		{"SReclaimable", h.Meminfo.SReclaimable, kib(17616)},
		{"SUnreclaim", h.Meminfo.SUnreclaim, kib(12824)},
		{"KernelStack", h.Meminfo.KernelStack, kib(3152)},
		{"PageTables", h.Meminfo.PageTables, kib(2616)},
		{"SecPageTables", h.Meminfo.SecPageTables, kib(0)},
		{"Bounce", h.Meminfo.Bounce, kib(0)},
		{"VmallocUsed", h.Meminfo.VmallocUsed, kib(8284)},
		{"Percpu", h.Meminfo.Percpu, kib(608)},
		{"HardwareCorrupted", h.Meminfo.HardwareCorrupted, snapshot.Value{}},
		{"AnonHugePages", h.Meminfo.AnonHugePages, kib(196608)},
		{"CommitLimit", h.Meminfo.CommitLimit, kib(1013004)},
		{"Committed_AS", h.Meminfo.CommittedAS, kib(1735628)},
		{"HugePages_Total", h.Meminfo.HugePagesTotal, snapshot.Of(0)},
		{"HugePages_Free", h.Meminfo.HugePagesFree, snapshot.Of(0)},
		{"Hugepagesize", h.Meminfo.Hugepagesize, kib(2048)},
		{"Hugetlb", h.Meminfo.Hugetlb, kib(0)},
	} {
		if c.got != c.want {
			t.Errorf("%s = %v, want %v", c.key, c.got, c.want)
		}
	}
	if n, ok := h.Vmstat.Get("nr_free_pages"); n != 316149 || !ok || len(h.Vmstat.Values) != 171 {
		t.Errorf("vmstat: nr_free_pages %d among %d keys, want 316149 among 171", n, len(h.Vmstat.Values))
	}
	if len(h.Zones) != 5 {
		t.Errorf("%d zones, want DMA, DMA32, Normal, Movable, Device", len(h.Zones))
	}
	if want := (snapshot.PressureLine{Known: true}); h.Pressure.Some != want || h.Pressure.Full != want {
		t.Errorf("pressure %+v, want zeros that are known", h.Pressure)
	}
	if h.Swaps != nil || h.CPUs != 2 || h.PageSize != 4096 {
		t.Errorf("swaps %v, %d CPUs, pages of %d bytes; want none, 2, 4096", h.Swaps, h.CPUs, h.PageSize)
	}
	if r.Node() != "" || r.Release() != "6.1.0-56-cloud-amd64" {
		t.Errorf("node %q, release %q", r.Node(), r.Release())
	}
}

func TestReadAllSavedNodes(t *testing.T) {
	roots, err := filepath.Glob(nodes + "/*/proc")
	if err != nil || len(roots) != 7 {
		t.Fatalf("%d saved nodes (%v), want 7", len(roots), err)
	}
	kills := map[string]uint64{"v2-oom-kubepods": 6, "v2-oom-container": 2, "v2-evicted-shown-completed": 2, "v1-oom-container": 1}
	for _, root := range roots {
		h, errs := open(t, root).Read()
		if len(errs) != 0 || h.PageSize != 4096 || h.CPUs != 2 || h.Meminfo.MemTotal != snapshot.Of(2026012<<10) {
			t.Errorf("%s: page %d, CPUs %d, MemTotal %v, errors %v", root, h.PageSize, h.CPUs, h.Meminfo.MemTotal, errs)
		}
		name := filepath.Base(filepath.Dir(root))
		if n, ok := h.Vmstat.Get("oom_kill"); n != kills[name] || !ok {
			t.Errorf("%s: oom_kill %d, want %d", name, n, kills[name])
		}
		var free uint64
		for _, z := range h.Zones {
			n, _ := z.Free.Get()
			free += n * 4096
		}
		// The files were read within seconds of each other.
		if mem, _ := h.Meminfo.MemFree.Get(); max(mem, free)-min(mem, free) > 16<<20 {
			t.Errorf("%s: the zones have %d bytes free, meminfo %d", name, free, mem)
		}
	}
}

func TestReadLiveKernel(t *testing.T) {
	var info syscall.Sysinfo_t
	if err := syscall.Sysinfo(&info); err != nil {
		t.Fatal(err)
	}
	r := open(t, "/proc")
	h, errs := r.Read()
	if len(errs) != 0 {
		t.Fatal(errs)
	}
	if want := info.Totalram * uint64(info.Unit); h.Meminfo.MemTotal != snapshot.Of(want) {
		t.Errorf("MemTotal %v, sysinfo says %d", h.Meminfo.MemTotal, want)
	}
	if total, _ := h.Meminfo.SwapTotal.Get(); total != info.Totalswap*uint64(info.Unit) {
		t.Errorf("SwapTotal %d, sysinfo says %d", total, info.Totalswap*uint64(info.Unit))
	}
	var listed uint64
	for _, s := range h.Swaps {
		listed += s.SizeBytes
	}
	if total, _ := h.Meminfo.SwapTotal.Get(); listed != total {
		t.Errorf("swap areas of %d bytes, SwapTotal %d", listed, total)
	}
	if h.PageSize != uint64(os.Getpagesize()) {
		t.Errorf("page size %d, want %d", h.PageSize, os.Getpagesize())
	}
	online, err := os.ReadFile("/sys/devices/system/cpu/online")
	if err == nil && strings.TrimSpace(string(online)) == "0" && h.CPUs != 1 || h.CPUs < 1 {
		t.Errorf("%d CPUs, online are %s", h.CPUs, online)
	}
	if faults, ok := h.Vmstat.Get("pgfault"); !ok || faults == 0 {
		t.Error("vmstat knows no page fault")
	}
	var uts syscall.Utsname
	if err := syscall.Uname(&uts); err != nil {
		t.Fatal(err)
	}
	text := func(field [65]int8) string {
		var b strings.Builder
		for _, c := range field {
			if c == 0 {
				break
			}
			b.WriteByte(byte(c))
		}
		return b.String()
	}
	if r.Node() != text(uts.Nodename) || r.Release() != text(uts.Release) {
		t.Errorf("node %q, release %q; uname says %q, %q", r.Node(), r.Release(), text(uts.Nodename), text(uts.Release))
	}
}

// Sources that fail in every way: each is one error that names the file and what to do, the others are read all the same.
func TestReadBrokenFiles(t *testing.T) {
	binary := strings.Repeat("\x7fELF\x02\x01\x00\xff", 20_000)
	for _, c := range []struct {
		file, content, want string // want is in the error; "" where it is no fault
	}{
		{"meminfo", "", "no MemTotal"},
		{"meminfo", "MemTotal: 100 kB\nMemFree: 12", "no MemTotal or no MemFree"},
		{"meminfo", "MemTotal: 100 kB\nMemFree: many kB\n", "many"},
		{"meminfo", "MemTotal: 36028797018963968 kB\nMemFree: 1 kB\n", "no MemTotal"}, // overflows 64 bits as bytes
		{"meminfo", binary, "meminfo"},
		{"vmstat", "", "empty"},
		{"vmstat", "nr_free_pages 31", "breaks off"},
		{"vmstat", binary, "breaks off"},
		{"zoneinfo", "", "empty"},
		{"zoneinfo", "Node 0, zone DMA\n  pages free 1\n", "not complete"},
		{"zoneinfo", binary + "\n", "before the first zone"},
		{"pressure/memory", "", `no line "some"`},
		{"pressure/memory", "some avg10=NaN avg60=0.00 avg300=0.00 total=0\n", "not a percentage"},
		{"pressure/memory", "some avg10=0.00 avg60=101.00 avg300=0.00 total=0\n", "not a percentage"},
		{"pressure/memory", "some avg10=0.00\n", "EOF"},
		{"swaps", "Filename\tType\n/dev/sda2 partition\n", "too few fields"},
		{"swaps", "Filename\tType\n/dev/sda2 partition -1 0 -2\n", "negative"},
		{"swaps", "\n" + binary, "swaps"},
	} {
		root := t.TempDir()
		if err := os.CopyFS(root, os.DirFS(nodes+"/v2-quiet/proc")); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(root, c.file)
		if err := os.WriteFile(path, []byte(c.content), 0o644); err != nil {
			t.Fatal(err)
		}
		r := open(t, root)
		h, errs := r.Read()
		if len(errs) != 1 {
			t.Errorf("%s %.40q: errors %v, want one", c.file, c.content, errs)
			continue
		}
		e := errs[0]
		if e.Source != path || !strings.Contains(e.Error, c.want) || !strings.Contains(e.Error, path) || e.Hint == "" {
			t.Errorf("%s %.40q: %+v, want %q and the path in it", c.file, c.content, e, c.want)
		}
		absent := map[string]bool{
			"meminfo": h.Meminfo.IsZero(), "vmstat": h.Vmstat.IsZero(), "zoneinfo": h.Zones == nil,
			"pressure/memory": h.Pressure.IsZero(), "swaps": true,
		}
		for file, is := range absent {
			if should := file == c.file || file == "swaps"; is != should {
				t.Errorf("with %s broken, %s absent is %t", c.file, file, is)
			}
		}
	}
}

func TestReadMissingFiles(t *testing.T) {
	root := t.TempDir()
	r := open(t, root)
	h, errs := r.Read()
	if !reflect.DeepEqual(h, snapshot.Host{}) {
		t.Errorf("%+v from an empty folder", h)
	}
	var got []string
	for _, e := range errs {
		got = append(got, strings.TrimPrefix(e.Source, root+"/"))
		if !strings.Contains(e.Hint, "--path.procfs") {
			t.Errorf("%s: the hint is %q", e.Source, e.Hint)
		}
	}
	// Kernels without swap or PSI have neither file.
	if want := []string{"meminfo", "zoneinfo", "vmstat"}; !reflect.DeepEqual(got, want) {
		t.Errorf("errors for %v, want %v", got, want)
	}
	if r.Node() != "" || r.Release() != "" {
		t.Errorf("node %q, release %q", r.Node(), r.Release())
	}
	if _, err := Open(root + "/none"); err == nil || !strings.Contains(err.Error(), root+"/none") {
		t.Errorf("Open of a missing folder: %v", err)
	}
}

func TestReadUnreadableFile(t *testing.T) {
	root := t.TempDir()
	if err := os.CopyFS(root, os.DirFS(nodes+"/v2-quiet/proc")); err != nil {
		t.Fatal(err)
	}
	// A folder in a file's place cannot be read by root either.
	for _, file := range []string{"zoneinfo", "swaps"} {
		if err := os.Remove(filepath.Join(root, file)); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(filepath.Join(root, file), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Truncate(filepath.Join(root, "vmstat"), maxFile+1); err != nil {
		t.Fatal(err)
	}
	h, errs := open(t, root).Read()
	if len(errs) != 3 || !h.Vmstat.IsZero() || h.Zones != nil || h.Meminfo.IsZero() {
		t.Errorf("errors %v", errs)
	} else if !strings.Contains(errs[1].Error, "larger than 32 MiB") {
		t.Errorf("a huge vmstat: %s", errs[1].Error)
	}
	if h.PageSize != 0 || h.CPUs != 0 {
		t.Errorf("page size %d and %d CPUs without zoneinfo, want 0 for not known", h.PageSize, h.CPUs)
	}
	if got := remedy(&os.PathError{Err: syscall.EACCES}); !strings.Contains(got, "root") {
		t.Errorf("the remedy for EACCES is %q", got)
	}
}

func TestReadSwapsAndPressure(t *testing.T) {
	root := t.TempDir()
	if err := os.Mkdir(root+"/pressure", 0o755); err != nil {
		t.Fatal(err)
	}
	for file, content := range map[string]string{
		"swaps": "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n" +
			"/dev/nvme0n1p3                          partition\t8388604\t\t1024\t\t-2\n" +
			"/swap\\040file                           file\t\t2097148\t\t0\t\t5\n",
		"pressure/memory": "some avg10=3.62 avg60=1.47 avg300=0.41 total=1453294\n" +
			"full avg10=1.21 avg60=0.53 avg300=0.16 total=687528\n",
	} {
		if err := os.WriteFile(filepath.Join(root, file), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	h, _ := open(t, root).Read()
	if want := []snapshot.Swap{
		{Name: "/dev/nvme0n1p3", SizeBytes: 8388604 << 10, UsedBytes: 1 << 20, Priority: -2},
		{Name: `/swap\040file`, SizeBytes: 2097148 << 10, Priority: 5},
	}; !reflect.DeepEqual(h.Swaps, want) {
		t.Errorf("swaps %+v, want %+v", h.Swaps, want)
	}
	if want := (snapshot.Pressure{
		Some: snapshot.PressureLine{Known: true, Avg10: 3.62, Avg60: 1.47, Avg300: 0.41, TotalMicros: 1453294},
		Full: snapshot.PressureLine{Known: true, Avg10: 1.21, Avg60: 0.53, Avg300: 0.16, TotalMicros: 687528},
	}); h.Pressure != want {
		t.Errorf("pressure %+v, want %+v", h.Pressure, want)
	}
}

func TestPageSize(t *testing.T) {
	for _, c := range []struct {
		total, managed, want uint64
	}{
		{2026012 << 10, 506503, 4096},
		{2026012<<10 + 1<<20, 506503, 4096}, // a balloon moved in between
		{32 << 30, 2 << 20, 16384},
		{64 << 30, 1 << 20, 65536},
		{24684092 << 10, 940597, 0}, // a kernel whose MemTotal counts memory that is not plugged in yet
		{0, 0, 0},
		{4096, 0, 0},
	} {
		m := snapshot.Meminfo{MemTotal: snapshot.Of(c.total)}
		zones := []snapshot.Zone{{Managed: snapshot.Of(c.managed)}, {}}
		if got := pageSize(m, zones); got != c.want {
			t.Errorf("MemTotal %d, managed %d: page size %d, want %d", c.total, c.managed, got, c.want)
		}
	}
}

// A reading shares what it can with the one before: the agent reads every second.
func TestReadAllocations(t *testing.T) {
	r := open(t, nodes+"/v2-quiet/proc")
	first, _ := r.Read()
	second, _ := r.Read()
	if first.Vmstat.Keys != second.Vmstat.Keys {
		t.Error("two readings of the same vmstat have a layout each")
	}
	if &first.Vmstat.Values[0] == &second.Vmstat.Values[0] {
		t.Error("two readings share their values")
	}
	if n := testing.AllocsPerRun(100, func() { _, _ = r.readVmstat() }); n > 8 {
		t.Errorf("%v allocations to read vmstat again", n)
	}
	if n := testing.AllocsPerRun(100, func() { _, _ = r.readZoneinfo() }); n > 20 {
		t.Errorf("%v allocations to read zoneinfo again", n)
	}
}

func BenchmarkRead(b *testing.B) {
	r, err := Open("/proc")
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		r.Read()
	}
}
