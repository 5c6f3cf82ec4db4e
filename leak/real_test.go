//go:build !race

// Not with the race detector: its own memory would stand in the cells.

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
	Rate       uint64 // bytes a second, 0 for blocks as fast as they come
	Address    uint64 // RLIMIT_AS beyond what is mapped, 0 for none
	DieAt      uint64
	Death      string
	Floor      uint64
	MaxFull    float64
	Dir        string
}

func (o order) config() leak.Config {
	c := leak.Config{
		Kind: o.Kind, Block: o.Block, Max: o.Max, Touch: o.Touch, Workers: 1, Interval: time.Second, DieAt: o.DieAt, Dir: o.Dir,
		Shape:  leak.Blocks{Block: o.Block, Max: o.Max},
		Guards: leak.Guards{FloorBytes: o.Floor, MaxFullPercent: o.MaxFull},
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
	c := o.config()
	if o.Death != "" {
		var err error
		if c.Death, err = leak.ParseDeath(o.Death); err != nil {
			return err
		}
	}
	watcher, err := leak.NewWatcher("/proc", "/sys")
	if err != nil {
		return err
	}
	l, err := leak.New(c, watcher, leak.JSON{W: os.Stdout}.Event)
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
	h := need.MemoryCgroup(t)
	name := fmt.Sprintf("memrecon-leak-%s-%d", strings.ToLower(strings.ReplaceAll(t.Name(), "/", "-")), os.Getpid())
	p := &tenant{T: t, path: "/" + name, dir: filepath.Join(h, name), mode: snapshot.V2}
	if _, err := os.Stat(filepath.Join(h, "memory.usage_in_bytes")); err == nil {
		p.mode = snapshot.V1
	}
	if err := os.Mkdir(p.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.remove)
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

func (p *tenant) remove() {
	var err error
	for range 100 { // the process may still be on its way out
		if err = os.Remove(p.dir); err == nil || errors.Is(err, os.ErrNotExist) {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	p.Errorf("a cgroup stays behind: %v", err)
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
			if tc.kind == leak.Socket {
				loopbackUp(t)
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
