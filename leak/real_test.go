//go:build !race

// Not with the race detector, whose own memory would stand in the cells: make test runs these apart.

package leak_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/memrecon/memrecon/collector"
	"github.com/memrecon/memrecon/internal/need"
	"github.com/memrecon/memrecon/leak"
	"github.com/memrecon/memrecon/reconcile"
	"github.com/memrecon/memrecon/snapshot"
)

// The tests of this file, TestReal..., have a process in a cgroup of its own leak. They run in guests with cgroup v1 and v2
// as well, where touching memory takes long: they use little.

// order is what TestMain's process is to do; it is that process's configuration as far as the tests differ.
type order struct {
	Kind       leak.Kind
	Max, Block uint64
	Touch      float64
	Spread     bool
	KeepHot    bool
	Workers    int
	Rate       uint64 // bytes a second, 0 for blocks as fast as they come
	Hold       time.Duration
	Release    time.Duration
	Address    uint64 // RLIMIT_AS beyond what is mapped, 0 for none
	Dir        string
}

func (o order) config() leak.Config {
	c := leak.Config{
		Kind: o.Kind, Block: o.Block, Max: o.Max, Touch: o.Touch, Spread: o.Spread, KeepHot: o.KeepHot, Workers: max(1, o.Workers),
		Hold: o.Hold, ReleaseEvery: o.Release, Interval: 250 * time.Millisecond, Dir: o.Dir,
		Shape: leak.Blocks{Block: o.Block, Max: o.Max},
	}
	if o.Rate > 0 {
		c.Shape = leak.Rate{BytesPerSecond: o.Rate, Max: o.Max}
	}
	return c
}

const orderVariable = "MEMRECON_TEST_LEAK"

// TestMain also is the process that leaks: told that it is in its cgroup it does what it is to do, tells what happens in JSON,
// and holds until its input ends.
func TestMain(m *testing.M) {
	text := os.Getenv(orderVariable)
	if text == "" {
		os.Exit(m.Run())
	}
	if err := obey(text); err != nil {
		fmt.Fprintln(os.Stderr, err)
		if errors.Is(err, leak.ErrNoMemory) {
			os.Exit(4)
		}
		os.Exit(1)
	}
}

func obey(text string) error {
	var o order
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		return err
	}
	in := bufio.NewReader(os.Stdin)
	if _, err := in.ReadString('\n'); err != nil {
		return err
	}
	if o.Address > 0 {
		if err := limitAddressSpace(o.Address); err != nil {
			return err
		}
	}
	watcher, err := leak.NewWatcher("/proc", "/sys")
	if err != nil {
		return err
	}
	l, err := leak.New(o.config(), watcher, leak.JSON{W: os.Stdout}.Event)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		_, _ = in.ReadString('\n')
		cancel()
	}()
	return l.Run(ctx)
}

// tenant is a process that leaks in a cgroup of its own.
type tenant struct {
	*testing.T
	mode   snapshot.Mode
	path   string // of the cgroup, in the hierarchy
	dir    string // its folder
	cmd    *exec.Cmd
	in     io.WriteCloser
	lines  *bufio.Scanner
	stderr strings.Builder
}

// newTenant starts the process and puts it into its cgroup. It has not begun.
func newTenant(t *testing.T, o order) *tenant {
	t.Helper()
	p := &tenant{T: t, mode: snapshot.V2}
	p.path, p.dir = need.Cgroup(t, "leak-"+strings.ToLower(strings.ReplaceAll(t.Name(), "/", "-")))
	if _, err := os.Stat(filepath.Join(p.dir, "memory.usage_in_bytes")); err == nil {
		p.mode = snapshot.V1
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	p.cmd = exec.Command(self)
	p.cmd.Env = append(os.Environ(), orderVariable+"="+string(text))
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	p.cmd.Stderr = &p.stderr
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.lines = bufio.NewScanner(out)
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.in.Close(); _ = p.cmd.Wait() })
	p.write("cgroup.procs", fmt.Sprint(p.cmd.Process.Pid))
	return p
}

func (p *tenant) write(file, content string) {
	p.Helper()
	if err := os.WriteFile(filepath.Join(p.dir, file), []byte(content), 0); err != nil {
		p.Fatal(err)
	}
}

func (p *tenant) begin() {
	p.Helper()
	if _, err := io.WriteString(p.in, "\n"); err != nil {
		p.Fatal(err)
	}
}

// await is the next event of a kind.
func (p *tenant) await(kind leak.EventKind) leak.Event {
	p.Helper()
	for p.lines.Scan() {
		var e leak.Event
		if err := json.Unmarshal(p.lines.Bytes(), &e); err != nil {
			p.Fatalf("%s: %v", p.lines.Text(), err)
		}
		if e.Event == kind {
			return e
		}
	}
	_ = p.cmd.Wait()
	p.Fatalf("no event %s any more: %s", kind, &p.stderr)
	return leak.Event{}
}

// number is a key of one of the cgroup's keyed files, or the content of one that is a number.
func (p *tenant) number(file, key string) uint64 {
	p.Helper()
	text, err := os.ReadFile(filepath.Join(p.dir, file))
	if err != nil {
		p.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if n, err := strconv.ParseUint(fields[len(fields)-1], 10, 64); err == nil && (key == "" || fields[0] == key) {
			return n
		}
	}
	p.Fatalf("%s has no %s", file, key)
	return 0
}

// usage is memory.current or usage_in_bytes.
func (p *tenant) usage() uint64 {
	if p.mode == snapshot.V1 {
		return p.number("memory.usage_in_bytes", "")
	}
	return p.number("memory.current", "")
}

// cells are the cgroup's own in memrecon's sheet, with what else was read of it.
func cells(t *testing.T, path string) (reconcile.Cells, snapshot.Cgroup) {
	t.Helper()
	c, err := collector.Open(collector.Config{Procfs: "/proc", Sysfs: "/sys"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	time.Sleep(2500 * time.Millisecond) // the kernel brings memory.stat up to date every 2 s at the latest
	s := c.Collect().Sheet
	row, ok := s.Row(path)
	if !ok {
		t.Fatalf("no row %s", path)
	}
	return s.Rows[row].Own, s.Snapshot().Cgroups[s.Rows[row].Cgroup]
}

// Each kind of memory shows up in the cell where it belongs, in about the size that was asked for, and in no other.
func TestRealKinds(t *testing.T) {
	const size = 24 << 20
	for _, tc := range []struct {
		kind leak.Kind
		// v2 and v1 are the cells that sum to it; v1 has none of sockets.
		v2, v1 []reconcile.Kind
		// least and most are shares of the size that the cell may have.
		least, most float64
	}{
		// A process brings some MiB of its own.
		{leak.Anon, []reconcile.Kind{reconcile.Anon}, []reconcile.Kind{reconcile.Anon}, 1, 1.25},
		{leak.THP, []reconcile.Kind{reconcile.Anon}, []reconcile.Kind{reconcile.Anon}, 1, 1.25},
		{leak.Mlock, []reconcile.Kind{reconcile.Anon}, []reconcile.Kind{reconcile.Anon}, 1, 1.25},
		{leak.Tmpfs, []reconcile.Kind{reconcile.Shmem}, []reconcile.Kind{reconcile.Shmem}, 1, 1},
		{leak.File, []reconcile.Kind{reconcile.FileInactive}, []reconcile.Kind{reconcile.FileInactive}, 0.99, 1.25},
		{leak.FileActive, []reconcile.Kind{reconcile.FileActive}, []reconcile.Kind{reconcile.FileActive}, 0.99, 1.25},
		{leak.Slab, []reconcile.Kind{reconcile.SlabUnreclaimable, reconcile.SlabReclaimable}, []reconcile.Kind{reconcile.KernelUnsplit}, 0.8, 1.2},
		{leak.Pipe, []reconcile.Kind{reconcile.KernelOther}, []reconcile.Kind{reconcile.KernelUnsplit}, 1, 1.1},
		{leak.Socket, []reconcile.Kind{reconcile.Sock}, nil, 1, 1.25},
	} {
		t.Run(string(tc.kind), func(t *testing.T) {
			if tc.kind == leak.THP {
				hugePagesOn(t)
			}
			p := newTenant(t, order{Kind: tc.kind, Max: size, Block: 4 << 20, Touch: 1})
			want := tc.v2
			if p.mode == snapshot.V1 {
				want = tc.v1
				if tc.kind == leak.Socket {
					p.write("memory.kmem.tcp.limit_in_bytes", "1073741824") // without one TCP is not charged for
				}
			}
			p.begin()
			p.await(leak.Holding)
			own, cgroup := cells(t, p.path)
			var n float64
			if want == nil {
				usage, _ := cgroup.TCPUsage.Get()
				n = float64(usage)
			}
			for kind := range reconcile.NumKinds {
				if slices.Contains(want, kind) {
					n += float64(own[kind])
				} else if own[kind] > size/3 {
					t.Errorf("%s is %d; all: %s", kind, own[kind], describe(&own))
				}
			}
			if n < tc.least*size || n > tc.most*size {
				t.Errorf("%v are %.0f, %d was taken; all: %s", want, n, size, describe(&own))
			}
			t.Logf("taken %d: %s", size, describe(&own))
		})
	}
}

func describe(c *reconcile.Cells) string {
	var parts []string
	for kind := range reconcile.NumKinds {
		if c[kind] != 0 {
			parts = append(parts, fmt.Sprintf("%s %d", kind, c[kind]))
		}
	}
	return strings.Join(parts, ", ")
}

// A rate is held to within 1% over ten seconds, in small blocks and in one large one, and what is taken is what is there.
func TestRealRate(t *testing.T) {
	const rate, seconds = 4 << 20, 10
	for _, block := range []uint64{64 << 10, 1 << 30} {
		t.Run(fmt.Sprint(block), func(t *testing.T) {
			t.Parallel()
			p := newTenant(t, order{Kind: leak.Anon, Rate: rate, Max: rate * seconds, Block: block, Touch: 1})
			p.begin()
			before := p.await(leak.Started)
			var off []float64
			for e := p.await(leak.Progress); e.HeldBytes < rate*seconds; e = p.await(leak.Progress) {
				if e.ElapsedSeconds > seconds/2 {
					off = append(off, float64(e.HeldBytes)/e.ElapsedSeconds/rate-1)
				}
			}
			slices.Sort(off)
			// A machine that stands still for a moment is behind in one report, and catches up.
			if middle := off[len(off)/2]; middle < -0.01 || middle > 0.01 {
				t.Errorf("it is %+.2f%% off; all from the fifth second: %.4f", 100*middle, off)
			}
			rss0, _ := before.Inside.RSSBytes.Get()
			after := p.await(leak.Progress)
			rss1, _ := after.Inside.RSSBytes.Get()
			if grown := rss1 - rss0; grown < rate*seconds || grown > rate*seconds+8<<20 {
				t.Errorf("RSS has grown by %d, %d was taken", grown, rate*seconds)
			}
		})
	}
}

// What is not touched is not there, wherever in the blocks that is.
func TestRealTouch(t *testing.T) {
	const size, block = 32 << 20, 4 << 20
	for name, o := range map[string]order{
		"none":           {Touch: 0},
		"front":          {Touch: 0.25},
		"spread":         {Touch: 0.25, Spread: true},
		"all, 2 workers": {Touch: 1, Workers: 2},
	} {
		t.Run(strings.ReplaceAll(name, ", ", "-"), func(t *testing.T) {
			o.Kind, o.Max, o.Block = leak.Anon, size, block
			p := newTenant(t, o)
			p.begin()
			p.await(leak.Started)
			e := p.await(leak.Holding)
			want := uint64(o.Touch * size)
			if e.HeldBytes != size || e.TouchedBytes != want {
				t.Errorf("%d taken and %d touched, want %d and %d", e.HeldBytes, e.TouchedBytes, size, want)
			}
			own, _ := cells(t, p.path)
			if n := uint64(own[reconcile.Anon]); n < want || n > want+8<<20 {
				t.Errorf("anon is %d, %d was touched", n, want)
			}
		})
	}
}

// What is kept hot is active: page cache on the list of active pages, anonymous pages with their bits of use set again after
// they were cleared.
func TestRealKeepHot(t *testing.T) {
	const size = 16 << 20
	t.Run("page-cache", func(t *testing.T) {
		p := newTenant(t, order{Kind: leak.File, Max: size, Block: size, Touch: 1, KeepHot: true})
		p.begin()
		p.await(leak.Holding)
		var own reconcile.Cells
		for range 4 { // it is read once a second
			if own, _ = cells(t, p.path); own[reconcile.FileActive] > size*98/100 {
				return
			}
		}
		t.Errorf("what is kept hot stands as %s", describe(&own))
	})
	for _, hot := range []bool{true, false} {
		t.Run(fmt.Sprintf("anon-%t", hot), func(t *testing.T) {
			p := newTenant(t, order{Kind: leak.Anon, Max: size, Block: size, Touch: 1, KeepHot: hot})
			p.begin()
			p.await(leak.Holding)
			proc := fmt.Sprintf("/proc/%d/", p.cmd.Process.Pid)
			const everyPage = "1"
			if err := os.WriteFile(proc+"clear_refs", []byte(everyPage), 0); err != nil {
				t.Fatal(err)
			}
			time.Sleep(2500 * time.Millisecond)
			rollup, err := os.ReadFile(proc + "smaps_rollup")
			if err != nil {
				t.Fatal(err)
			}
			_, rest, _ := strings.Cut(string(rollup), "Referenced:")
			kib, err := strconv.ParseUint(strings.Fields(rest)[0], 10, 64)
			if err != nil || (kib<<10 >= size) != hot {
				t.Errorf("%d KiB were used in two seconds, with --keep-hot %t: %v", kib, hot, err)
			}
		})
	}
}

// It is given back block by block, the newest first, and at the end nothing is left.
func TestRealRelease(t *testing.T) {
	const block = 8 << 20
	for _, kind := range []leak.Kind{leak.Anon, leak.Mlock, leak.Tmpfs, leak.File, leak.Slab, leak.Pipe, leak.Socket} {
		t.Run(string(kind), func(t *testing.T) {
			p := newTenant(t, order{Kind: kind, Max: 2*block + block/2, Block: block, Touch: 1, Hold: 10 * time.Millisecond, Release: time.Second})
			p.begin()
			p.await(leak.Started)
			if charged := kind != leak.Socket || p.mode == snapshot.V2; charged {
				e := p.await(leak.Releasing)
				full, _ := e.Inside.CgroupUsageBytes.Get()
				for _, left := range []uint64{2 * block, block} {
					e := p.await(leak.Released)
					const granules = 1 << 20 // what kinds round to
					if e.HeldBytes > left+granules || e.HeldBytes < left-granules {
						t.Errorf("%d are held, want %d", e.HeldBytes, left)
					}
					most := full - (2*block + block/2 - left) + 4<<20
					for range 40 { // kernel objects are freed a moment later
						if p.usage() <= most {
							break
						}
						time.Sleep(20 * time.Millisecond)
					}
					if n := p.usage(); n > most {
						t.Errorf("usage was %d, and is %d with %d left", full, n, left)
					}
				}
			}
			if e := p.await(leak.Ended); e.HeldBytes != 0 {
				t.Errorf("%d are held at the end", e.HeldBytes)
			}
		})
	}
}

// A refusal is an error that says which limit it was, and everything is given back before.
func TestRealRefused(t *testing.T) {
	t.Run("address-space", func(t *testing.T) {
		p := newTenant(t, order{Kind: leak.Anon, Max: 1 << 30, Block: 8 << 20, Touch: 0.1, Address: 96 << 20})
		p.begin()
		e := p.await(leak.Ended)
		if e.HeldBytes == 0 || e.HeldBytes >= 1<<30 || !strings.Contains(e.Reason, "RLIMIT_AS") || !strings.Contains(e.Reason, leak.ErrNoMemory.Error()) {
			t.Errorf("with %d: %s", e.HeldBytes, e.Reason)
		}
		if _ = p.cmd.Wait(); p.cmd.ProcessState.ExitCode() != 4 {
			t.Errorf("%s: %s", p.cmd.ProcessState, &p.stderr)
		}
	})
	t.Run("tmpfs-too-small", func(t *testing.T) {
		dir := smallTmpfs(t, 8<<20)
		p := newTenant(t, order{Kind: leak.Tmpfs, Max: 9 << 20, Block: 1 << 20, Touch: 1, Dir: dir})
		p.begin()
		if _ = p.cmd.Wait(); !strings.Contains(p.stderr.String(), "has room for 8Mi") {
			t.Errorf("9 MiB in a tmpfs of 8: %s", &p.stderr)
		}
	})
	t.Run("tmpfs-full", func(t *testing.T) {
		p := newTenant(t, order{Kind: leak.Tmpfs, Block: 1 << 20, Touch: 1, Dir: smallTmpfs(t, 8<<20)}) // without end
		p.begin()
		if e := p.await(leak.Ended); e.HeldBytes != 8<<20 || !strings.Contains(e.Reason, "is full") {
			t.Errorf("with %d: %s", e.HeldBytes, e.Reason)
		}
	})
}

// What a process is charged for beyond what it took is its own heap, in RSS, and kernel memory, most of it page tables, in usage alone;
// its VmRSS has the pages of its file as well, which are charged elsewhere. (docs/leak.md, the metric test)
func TestRealMetric(t *testing.T) {
	const blocks, block = 20, 4 << 20
	p := newTenant(t, order{Kind: leak.Anon, Max: blocks * block, Block: block, Touch: 1})
	p.begin()
	p.await(leak.Holding)
	own, cgroup := cells(t, p.path)
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	of := func(key string) int64 {
		_, rest, ok := strings.Cut(string(status), "\n"+key+":")
		kib, err := strconv.ParseInt(strings.Fields(rest + " -")[0], 10, 64)
		if !ok || err != nil {
			t.Fatalf("no %s in\n%s", key, status)
		}
		return kib << 10
	}
	// Counters of RSS are kept a thread and brought together in batches of up to 64 pages.
	const batches = 2 << 20
	anon := own[reconcile.Anon]
	file := of("RssFile") + of("RssShmem") // a guest has its programs in a tmpfs
	if off := of("VmRSS") - file - anon; off > batches || off < -batches {
		t.Errorf("VmRSS %d less %d of files is %d off the cgroup's anon, %d", of("VmRSS"), file, off, anon)
	}
	kernel := own[reconcile.KernelUnsplit]
	if p.mode == snapshot.V2 {
		kernel = own[reconcile.PageTables]
	}
	// 8 bytes for each page of 4096; the program's own tables are older than its place in the cgroup.
	if tables := of("VmPTE"); tables < blocks*block/512 || kernel < blocks*block/512 {
		t.Errorf("VmPTE is %d, and kernel memory %d", tables, kernel)
	}
	usage, _ := cgroup.Usage.Get()
	var sum int64
	for _, n := range own {
		sum += n
	}
	if uint64(sum) != usage || own[reconcile.Residual] > 4<<20 {
		t.Errorf("usage is %d, the cells sum to %d: %s", usage, sum, describe(&own))
	}
}
