package cgroup

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/memrecon/memrecon/snapshot"
)

// differences reads a cgroup's files plainly, and names those that say something else than c does.
func differences(t *testing.T, dir string, mode snapshot.Mode, c *snapshot.Cgroup) []string {
	t.Helper()
	var diffs []string
	values := map[string]snapshot.Value{
		"memory.current": c.Usage, "memory.max": c.Max, "memory.high": c.High, "memory.low": c.Low, "memory.min": c.Min,
		"memory.peak": c.Peak, "memory.swap.current": c.Swap, "memory.swap.max": c.SwapMax, "memory.oom.group": c.OOMGroup,
	}
	stats := map[string]snapshot.Stat{
		"memory.stat": c.Stat, "memory.events": c.Events, "memory.events.local": c.EventsLocal,
	}
	if mode.Files() == snapshot.V1 {
		values = map[string]snapshot.Value{
			"memory.usage_in_bytes": c.Usage, "memory.kmem.usage_in_bytes": c.KernelUsage, "memory.limit_in_bytes": c.Max,
			"memory.soft_limit_in_bytes": c.SoftLimit, "memory.max_usage_in_bytes": c.Peak, "memory.failcnt": c.Failcnt,
			"memory.memsw.usage_in_bytes": c.MemswUsage, "memory.memsw.limit_in_bytes": c.MemswMax,
			"memory.kmem.limit_in_bytes": c.KernelMax, "memory.kmem.tcp.usage_in_bytes": c.TCPUsage,
			"memory.use_hierarchy": c.UseHierarchy,
		}
		stats = map[string]snapshot.Stat{"memory.stat": c.Stat, "memory.oom_control": c.OOMControl}
	}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		want := snapshot.Value{}
		if content := read(t, dir, name); content == "max\n" {
			want = snapshot.Unlimited
		} else if content != "" {
			want = snapshot.Of(toNumber(t, strings.TrimSuffix(content, "\n")))
		}
		if n, _ := want.Get(); strings.HasSuffix(name, "limit_in_bytes") && n > 1<<62 {
			want = snapshot.Unlimited
		}
		if values[name] != want {
			diffs = append(diffs, fmt.Sprintf("%s: %v, want %v", name, values[name], want))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(stats)) {
		var keys []string
		var numbers []uint64
		for line := range strings.Lines(read(t, dir, name)) {
			f := strings.Fields(line)
			keys, numbers = append(keys, f[0]), append(numbers, toNumber(t, f[1]))
		}
		if s := stats[name]; !slices.Equal(s.Keys.Names(), keys) || !slices.Equal(s.Values, numbers) {
			diffs = append(diffs, fmt.Sprintf("%s: %v %v, want %v %v", name, s.Keys.Names(), s.Values, keys, numbers))
		}
	}
	if mode == snapshot.V2 {
		diffs = append(diffs, pressureDifferences(t, dir, c)...)
	}
	return diffs
}

func pressureDifferences(t *testing.T, dir string, c *snapshot.Cgroup) (diffs []string) {
	t.Helper()
	var got string
	for _, l := range []struct {
		name string
		snapshot.PressureLine
	}{{"some", c.Pressure.Some}, {"full", c.Pressure.Full}} {
		if l.Known {
			got += fmt.Sprintf("%s avg10=%.2f avg60=%.2f avg300=%.2f total=%d\n", l.name, l.Avg10, l.Avg60, l.Avg300, l.TotalMicros)
		}
	}
	if want := read(t, dir, "memory.pressure"); got != want {
		diffs = append(diffs, fmt.Sprintf("memory.pressure: %q, want %q", got, want))
	}
	dying := snapshot.Value{}
	for line := range strings.Lines(read(t, dir, "cgroup.stat")) {
		if f := strings.Fields(line); f[0] == "nr_dying_descendants" {
			dying = snapshot.Of(toNumber(t, f[1]))
		}
	}
	if c.DyingDescendants != dying {
		diffs = append(diffs, fmt.Sprintf("cgroup.stat: %v dying, want %v", c.DyingDescendants, dying))
	}
	return diffs
}

// read is a file's content, empty where it is absent.
func read(t *testing.T, dir, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.EOPNOTSUPP) {
		t.Fatal(err)
	}
	return string(b)
}

func toNumber(t *testing.T, s string) uint64 {
	t.Helper()
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// open opens a hierarchy until the test ends.
func open(t *testing.T, h Hierarchy, o Options) *Reader {
	t.Helper()
	r, err := Open(h, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		if kept := r.Stats().OpenFiles; kept != 0 {
			t.Errorf("%d files are open after Close", kept)
		}
	})
	return r
}

// sweep sweeps once and returns the snapshot, by path, with its errors. It holds what holds of every snapshot.
func sweep(t *testing.T, r *Reader) (map[string]*snapshot.Cgroup, []snapshot.SourceError) {
	t.Helper()
	if err := r.Sweep(); err != nil {
		t.Fatal(err)
	}
	cgroups, errs := r.Snapshot()
	byPath := map[string]*snapshot.Cgroup{}
	for i := range cgroups {
		c := &cgroups[i]
		if byPath[c.Path] != nil {
			t.Fatalf("%s is there twice", c.Path)
		}
		byPath[c.Path] = c
		if i == 0 {
			if c.Path != "/" || c.Parent != -1 {
				t.Fatalf("the first cgroup is %s of %d, want the root", c.Path, c.Parent)
			}
			continue
		}
		if c.Parent < 0 || int(c.Parent) >= i || cgroups[c.Parent].Path != filepath.Dir(c.Path) {
			t.Fatalf("%s stands at %d, its parent at %d", c.Path, i, c.Parent)
		}
		if before := &cgroups[i-1]; before.Parent == c.Parent && before.Path >= c.Path {
			t.Fatalf("%s comes before %s", before.Path, c.Path)
		}
	}
	if len(cgroups) != r.Stats().Cgroups {
		t.Fatalf("%d cgroups, Stats says %d", len(cgroups), r.Stats().Cgroups)
	}
	return byPath, errs
}

// paths are the paths of a snapshot, sorted.
func paths(byPath map[string]*snapshot.Cgroup) string {
	return strings.Join(slices.Sorted(maps.Keys(byPath)), " ")
}

// asNobody runs f with a user's rights on files that has none of its own. The thread that did it ends with it.
func asNobody(t *testing.T, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		const nobody = 65534
		if _, err := unix.SetfsuidRetUid(nobody); err != nil {
			t.Error(err)
			return
		}
		f()
	}()
	<-done
}
