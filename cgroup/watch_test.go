package cgroup

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/memrecon/memrecon/snapshot"
)

// guard is a branch that is watched, and what the Watcher has told.
type guard struct {
	*branch
	reader  *Reader
	watcher *Watcher
	end     func()

	mu   sync.Mutex
	told []snapshot.OOMCounters
}

// watchBranch begins to watch a branch's cgroups, with nobody's rights on files, and has taken one sweep.
func watchBranch(b *branch) *guard {
	b.Helper()
	g := &guard{branch: b, reader: open(b.T, b.Hierarchy, Options{SlowEvery: 1}), watcher: Watch(b.Hierarchy, "/proc")}
	ctx, cancel := context.WithCancel(b.Context())
	run := func() {
		g.watcher.Run(ctx, func(c snapshot.OOMCounters) {
			g.mu.Lock()
			defer g.mu.Unlock()
			g.told = append(g.told, c)
		})
	}
	var running sync.WaitGroup
	running.Go(func() {
		if b.Copy { // whose folders are the test's own
			run()
		} else {
			asNobody(b.T, run)
		}
	})
	g.end = func() {
		cancel()
		running.Wait()
	}
	b.Cleanup(g.end)
	g.sync()
	return g
}

// sync hands over a sweep, and waits until it is taken.
func (g *guard) sync() []snapshot.SourceError {
	g.Helper()
	sweep(g.T, g.reader)
	cgroups, _ := g.reader.Snapshot()
	before := g.watcher.faults.Load()
	g.watcher.Sync(cgroups)
	g.settles("the sweep is taken", func() bool { return g.watcher.faults.Load() != before })
	time.Sleep(20 * time.Millisecond) // until what follows from it is told
	return *g.watcher.faults.Load()
}

// settles waits for something, for 10 s at most.
func (g *guard) settles(what string, is func() bool) {
	g.Helper()
	for end := time.Now().Add(10 * time.Second); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			g.Fatalf("not so: %s; told: %+v", what, g.all())
		}
	}
}

func (g *guard) all() []snapshot.OOMCounters {
	g.mu.Lock()
	defer g.mu.Unlock()
	return append([]snapshot.OOMCounters(nil), g.told...)
}

// last is what was told of a cgroup in all: its first before, its last after; nil for nothing.
func (g *guard) last(path string) *snapshot.OOMCounters {
	var sum *snapshot.OOMCounters
	for _, c := range g.all() {
		if c.Path != path {
			continue
		}
		if sum != nil {
			c.Before, c.LocalBefore = sum.Before, sum.LocalBefore
		}
		sum = &c
	}
	return sum
}

// limit sets a cgroup's limit, swap included.
func (b *branch) limit(name string, mib int) {
	b.Helper()
	b.write(filepath.Join(name, b.file("memory.limit_in_bytes", "memory.max")), fmt.Sprint(mib<<20))
	if swap := filepath.Join(name, "memory.swap.max"); exists(b.Dir, swap) {
		b.write(swap, "0")
	}
}

// killed has a process in a cgroup use more memory than there is, and waits for its death.
func (b *branch) killed(name string) {
	b.Helper()
	cmd, stdin, _ := b.start(name, "96")
	_, _ = stdin.Write([]byte("\n"))
	_, _ = cmd.Process.Wait() // and not cmd.Wait, which is for the test's end
}

// rise is by how much a counter rose, and -1 where it is absent.
func rise(before, after snapshot.Value) int {
	b, known := before.Get()
	a, isKnown := after.Get()
	if !known || !isKnown {
		return -1
	}
	return int(a) - int(b)
}

// A container is killed at its own limit, and its cgroup is removed 100 ms after its death.
func TestRealWatchContainer(t *testing.T) {
	b := newBranch(t)
	b.leaf("a")
	b.leaf("bystander")
	b.limit("a", 16)
	g := watchBranch(b)
	g.killed("a")
	died := time.Now()
	time.Sleep(100 * time.Millisecond)
	g.remove("a")
	g.settles("the kill is told", func() bool {
		c := g.last("/a")
		return c != nil && rise(c.LocalBefore.OOMKill, c.LocalAfter.OOMKill) > 0
	})
	c := g.last("/a")
	t.Logf("told %v after its death", c.Time.Sub(died).Round(time.Millisecond))
	peak, _ := c.Peak.Get()
	if rise(c.LocalBefore.OOMKill, c.LocalAfter.OOMKill) != 1 || c.Max != snapshot.Of(16<<20) ||
		!c.Peak.IsAbsent() && peak < 15<<20 || rise(c.LocalBefore.Max, c.LocalAfter.Max) < 1 {
		t.Errorf("%+v", c)
	}
	if g.Mode == snapshot.V2 && (rise(c.LocalBefore.OOM, c.LocalAfter.OOM) < 1 || rise(c.Before.OOMKill, c.After.OOMKill) != 1) {
		t.Errorf("%+v", c)
	}
	g.settles("the kill below is told", func() bool { return g.last("/") != nil })
	if up := g.last("/"); rise(up.LocalBefore.OOMKill, up.LocalAfter.OOMKill) > 0 || g.Mode == snapshot.V2 && rise(up.Before.OOMKill, up.After.OOMKill) != 1 {
		t.Errorf("of the one above: %+v", up)
	}
	if by := g.last("/bystander"); by != nil {
		t.Errorf("of one that nothing happened to: %+v", by)
	}
}

// The limit is that of the cgroup above the victim's.
func TestRealWatchParentLimit(t *testing.T) {
	b := newBranch(t, "p")
	b.leaf("p/victim")
	b.limit("p", 16)
	g := watchBranch(b)
	g.killed("p/victim")
	g.settles("the kill is told", func() bool {
		v, p := g.last("/p/victim"), g.last("/p")
		return v != nil && rise(v.LocalBefore.OOMKill, v.LocalAfter.OOMKill) > 0 &&
			p != nil && (g.Mode != snapshot.V2 || rise(p.Before.OOMKill, p.After.OOMKill) > 0)
	})
	victim, parent := g.last("/p/victim"), g.last("/p")
	if rise(victim.LocalBefore.OOMKill, victim.LocalAfter.OOMKill) != 1 || rise(victim.LocalBefore.OOM, victim.LocalAfter.OOM) > 0 ||
		rise(victim.LocalBefore.Max, victim.LocalAfter.Max) != 0 || !victim.Max.IsUnlimited() {
		t.Errorf("the victim: %+v", victim)
	}
	if rise(parent.LocalBefore.OOMKill, parent.LocalAfter.OOMKill) != 0 || parent.Max != snapshot.Of(16<<20) ||
		rise(parent.LocalBefore.Max, parent.LocalAfter.Max) < 1 || g.Mode == snapshot.V2 && rise(parent.LocalBefore.OOM, parent.LocalAfter.OOM) < 1 {
		t.Errorf("the one above: %+v", parent)
	}
}

// All processes of a cgroup are killed as one. The first victim counts at least twice: for itself, and as a member of the group.
func TestRealWatchGroupKill(t *testing.T) {
	b := newBranch(t)
	b.leaf("a")
	if !exists(b.dir("a"), "memory.oom.group") { // v1, where the kernel kills no groups
		return
	}
	b.limit("a", 32)
	b.write("a/memory.oom.group", "1")
	g := watchBranch(b)
	g.tenant("a")
	g.killed("a")
	g.settles("the kills are told", func() bool {
		c := g.last("/a")
		return c != nil && rise(c.LocalBefore.OOMKill, c.LocalAfter.OOMKill) > 2
	})
	c := g.last("/a")
	if groups := rise(c.LocalBefore.OOMGroupKill, c.LocalAfter.OOMGroupKill); groups != 1 && groups != -1 { // Linux 5.17
		t.Errorf("%d group kills, want 1: %+v", groups, c)
	}
}

// What was before the watch is no news, and what happened to a cgroup that was made since is all of it.
func TestRealWatchBase(t *testing.T) {
	b := newBranch(t)
	b.leaf("a")
	b.limit("a", 16)
	b.killed("a")
	g := watchBranch(b)
	for range 3 {
		g.sync()
	}
	if told := g.all(); len(told) > 0 {
		t.Fatalf("told of what was before: %+v", told)
	}
	b.leaf("new")
	b.limit("new", 16)
	g.killed("new")
	g.sync()
	g.settles("the kill in the new one is told", func() bool {
		c := g.last("/new")
		return c != nil && c.LocalAfter.OOMKill == snapshot.Of(1)
	})
	if c := g.last("/new"); c.LocalBefore.OOMKill != snapshot.Of(0) {
		t.Errorf("%+v", c)
	}
	g.killed("a")
	g.sync()
	g.settles("the second kill is told", func() bool {
		c := g.last("/a")
		return c != nil && c.LocalAfter.OOMKill == snapshot.Of(2)
	})
	if c := g.last("/a"); c.LocalBefore.OOMKill != snapshot.Of(1) {
		t.Errorf("%+v", c)
	}
	for range 3 {
		g.sync()
	}
	kills := 0
	for _, c := range g.all() {
		kills += max(0, rise(c.LocalBefore.OOMKill, c.LocalAfter.OOMKill))
	}
	if kills != 2 {
		t.Errorf("%d kills are told, want 2: %+v", kills, g.all())
	}
}

// Before Linux 5.2 there was no memory.events.local, and memory.events counted the cgroup alone. A copy in plain files shows it, which
// inotify watches too.
func TestWatchBeforeEventsLocal(t *testing.T) {
	dir := t.TempDir()
	events := func(oom, kills int) map[string]string {
		return map[string]string{"pod/memory.events": fmt.Sprintf("low 0\nhigh 0\nmax 3\noom %d\noom_kill %d\n", oom, kills)}
	}
	materialise(t, dir, events(5, 4))
	materialise(t, dir, map[string]string{
		"memory.stat": "anon 1\n", "pod/memory.stat": "anon 1\n", "pod/memory.current": "4096\n", "pod/memory.max": "max\n",
	})
	g := watchBranch(&branch{t, Hierarchy{Mode: snapshot.V2, Dir: dir, Copy: true}})
	materialise(t, dir, events(6, 5))
	g.settles("the kill is told", func() bool { return g.last("/pod") != nil && g.last("/pod").LocalAfter.OOMKill == snapshot.Of(5) })
	c := g.last("/pod")
	if !c.Before.IsZero() || !c.After.IsZero() || c.LocalBefore.OOMKill != snapshot.Of(4) || !c.LocalAfter.OOMGroupKill.IsAbsent() ||
		c.Usage != snapshot.Of(4096) || !c.Max.IsUnlimited() || !c.Peak.IsAbsent() {
		t.Errorf("%+v", c)
	}
}

// Of a cgroup that is removed while it is read, what could not be read is not known. That of its descendants is not taken for its own.
func TestWatchRemovedMeanwhile(t *testing.T) {
	dir := t.TempDir()
	const before, after = "max 0\noom 0\noom_kill 0\n", "max 0\noom 0\noom_kill 1\n"
	materialise(t, dir, map[string]string{
		"memory.stat": "anon 1\n", "pod/memory.stat": "anon 1\n", "pod/memory.max": "8192\n", "pod/memory.current": "4096\n",
		"pod/memory.events": before, "pod/memory.events.local": before,
	})
	g := watchBranch(&branch{t, Hierarchy{Mode: snapshot.V2, Dir: dir, Copy: true}})
	for _, gone := range []string{"memory.events.local", "memory.max"} {
		if err := os.Remove(filepath.Join(dir, "pod", gone)); err != nil {
			t.Fatal(err)
		}
	}
	materialise(t, dir, map[string]string{"pod/memory.events": after})
	g.settles("the kill is told", func() bool { return g.last("/pod") != nil && g.last("/pod").After.OOMKill == snapshot.Of(1) })
	if c := g.last("/pod"); c.Before.OOMKill != snapshot.Of(0) || c.LocalBefore.OOMKill != snapshot.Of(0) || !c.LocalAfter.IsZero() ||
		c.Max != snapshot.Of(8192) {
		t.Errorf("%+v", c)
	}
}

func TestParseChanges(t *testing.T) {
	event := func(wd int32, mask uint32, name string) []byte {
		b := binary.NativeEndian.AppendUint32(nil, uint32(wd))
		b = binary.NativeEndian.AppendUint32(b, mask)
		b = binary.NativeEndian.AppendUint32(b, 0)
		b = binary.NativeEndian.AppendUint32(b, uint32(len(name)))
		return append(b, name...)
	}
	whole := slices.Concat(
		event(1, unix.IN_MODIFY, ""), event(2, unix.IN_CREATE|unix.IN_ISDIR, "pod1\x00\x00\x00\x00"), event(1, unix.IN_MODIFY, ""),
		event(3, unix.IN_IGNORED, ""), event(-1, unix.IN_Q_OVERFLOW, ""), event(2, unix.IN_CREATE|unix.IN_ISDIR, "pod2\x00\x00\x00\x00"),
	)
	want := []change{{wd: 1}, {wd: 2, name: "pod1"}, {wd: none}, {wd: 2, name: "pod2"}}
	if got := parseChanges(whole); !slices.Equal(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	for cut := range whole {
		if got := parseChanges(whole[:cut]); len(got) >= len(want) || !slices.Equal(got, want[:len(got)]) {
			t.Errorf("of %d bytes: %+v", cut, got)
		}
	}
}

const (
	podPath       = "kubepods/burstable/pod0a1b2c3d-0000-4000-8000-00000000beef"
	containerPath = podPath + "/0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
)

// A container that lives for less than the time between two sweeps.
func TestRealWatchShortLived(t *testing.T) {
	b := newBranch(t, "kubepods", "kubepods/burstable")
	g := watchBranch(b)
	b.make(podPath)
	b.leaf(containerPath)
	b.limit(containerPath, 16)
	g.killed(containerPath)
	g.settles("the kill is told", func() bool {
		c := g.last("/" + containerPath)
		return c != nil && c.LocalAfter.OOMKill == snapshot.Of(1) && g.last("/"+podPath) != nil
	})
	c, pod := g.last("/"+containerPath), g.last("/"+podPath)
	if c.Identity.Class != snapshot.ClassContainer || c.Identity.PodUID != pod.Identity.PodUID ||
		pod.LocalAfter.OOMKill != snapshot.Of(0) || rise(pod.LocalBefore.OOM, pod.LocalAfter.OOM) > 0 {
		t.Errorf("%+v\n%+v", c, pod)
	}
	g.remove(podPath)
	g.sync()
	g.sync()
	g.settles("the watches end", func() bool { return g.watches() == g.wanted(3, 2) })
}

// watches is how many watches the process has.
func (g *guard) watches() int {
	fds, err := filepath.Glob("/proc/self/fdinfo/*")
	if err != nil {
		g.Fatal(err)
	}
	count := 0
	for _, fd := range fds {
		text, _ := os.ReadFile(fd) // one of them is that of the listing itself
		count += strings.Count(string(text), "inotify wd:")
	}
	return count
}

// wanted is how many there should be for so many cgroups, of which some hold pods.
func (g *guard) wanted(cgroups, holders int) int {
	if g.Mode != snapshot.V2 {
		return holders
	}
	return cgroups + holders
}

// Cgroups come and go, and nothing is left of the watches on those that are gone.
func TestRealWatchChurn(t *testing.T) {
	b := newBranch(t, "kubepods")
	fds, goroutines := openFiles(t), runtime.NumGoroutine()
	g := watchBranch(b)
	stop := b.churn()
	for range 100 {
		g.sync()
	}
	stop()
	g.remove("kubepods")
	g.make("kubepods")
	g.sync()
	g.sync()
	cgroups, _ := sweep(t, g.reader)
	g.settles("the watches are those of the cgroups", func() bool { return g.watches() == g.wanted(len(cgroups), 1) })
	if told := g.all(); len(told) > 0 {
		t.Errorf("told, though nothing was killed: %+v", told)
	}
	g.end()
	g.settles("no goroutine is left", func() bool { return runtime.NumGoroutine() <= goroutines })
	if now := openFiles(t) - g.reader.Stats().OpenFiles; now > fds {
		t.Errorf("%d files are open, %d before", now, fds)
	}
}

// A cgroup at its limit modifies its files all the time; that is nothing to tell of.
func TestRealWatchThrash(t *testing.T) {
	b := newBranch(t)
	b.leaf("a")
	b.limit("a", 16)
	g := watchBranch(b)
	if g.Mode != snapshot.V2 { // there no file is watched
		return
	}
	cmd, stdin, _ := g.start("a", "14"+strains)
	var before, after unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &before)
	began := time.Now()
	_, _ = stdin.Write([]byte("\n"))
	state, err := cmd.Process.Wait()
	if err != nil || !state.Success() {
		t.Fatalf("the process in it: %v, %v", state, err)
	}
	took := time.Since(began)
	_ = unix.Getrusage(unix.RUSAGE_SELF, &after)
	cgroups, _ := sweep(t, g.reader)
	hits, _ := cgroups["/a"].Events.Get("max")
	cpu := time.Duration(after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano())
	t.Logf("%d times at the limit in %v, the watch took %v of CPU", hits, took.Round(time.Millisecond), cpu)
	if told := g.all(); len(told) > 0 || hits < 100 {
		t.Errorf("%d times at the limit, told %+v", hits, told)
	}
}

// Without watches to be had, the sweeps tell. The limits are those of a user namespace of the test's own, in a process of its own.
func TestRealWatchTooFewWatches(t *testing.T) {
	for name, limit := range map[string]string{
		"max_inotify_watches": "max_user_watches", "max_inotify_instances": "max_user_instances",
	} {
		t.Run(name, func(t *testing.T) {
			if os.Getenv("MEMRECON_TEST_NAMESPACE") == "" {
				self, err := os.Executable()
				if err != nil {
					t.Fatal(err)
				}
				cmd := exec.Command(self, "-test.run=^"+strings.ReplaceAll(t.Name(), "/", "$/^")+"$")
				cmd.Env = append(os.Environ(), "MEMRECON_TEST_NAMESPACE=1")
				whole := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1 << 16}}
				cmd.SysProcAttr = &syscall.SysProcAttr{
					Cloneflags: unix.CLONE_NEWUSER, UidMappings: whole, GidMappings: whole, GidMappingsEnableSetgroups: true,
					Pdeathsig: syscall.SIGKILL,
				}
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Errorf("%v\n%s", err, out)
				}
				return
			}
			b := newBranch(t, "kubepods", "kubepods/burstable", podPath)
			if b.Mode != snapshot.V2 { // inotify tells of no kill there
				return
			}
			b.leaf("a")
			b.leaf(containerPath)
			if err := os.WriteFile("/proc/sys/user/"+name, []byte("2"), 0); err != nil {
				t.Fatal(err)
			}
			if name == "max_inotify_instances" {
				for range 2 {
					if _, err := unix.InotifyInit(); err != nil {
						t.Fatal(err)
					}
				}
			}
			b.limit("a", 16)
			b.limit(containerPath, 16)
			g := watchBranch(b)
			faults := g.sync()
			if len(faults) != 1 || !strings.HasSuffix(faults[0].Source, limit) || !strings.Contains(faults[0].Hint, "fs.inotify."+limit) {
				t.Errorf("%+v", faults)
			}
			if name == "max_inotify_watches" {
				g.killed(containerPath)
				g.settles("the container is the first to be watched", func() bool { return g.last("/"+containerPath) != nil })
			}
			g.killed("a")
			if told := g.last("/a"); told != nil {
				t.Errorf("there are watches: %+v", told)
			}
			g.sync()
			g.settles("the kill is told", func() bool { return g.last("/a") != nil })
		})
	}
}

func FuzzParseChanges(f *testing.F) {
	f.Add(make([]byte, 2*eventHeader))
	f.Add([]byte("\x01\x00\x00\x00\x00\x01\x00\x40\x00\x00\x00\x00\x08\x00\x00\x00pod1\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		changes := parseChanges(b)
		if len(changes) > len(b)/eventHeader {
			t.Fatalf("%d changes in %d bytes", len(changes), len(b))
		}
	})
}
