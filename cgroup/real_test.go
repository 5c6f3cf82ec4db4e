package cgroup

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/memrecon/memrecon/internal/need"
	"github.com/memrecon/memrecon/snapshot"
)

// The tests of this file, TestReal..., make cgroups and read them. They need nothing but the test binary, a kernel and the
// right to make cgroups, and run in guests with cgroup v1 and v2 as well.

// TestMain also is the process that a test puts into a cgroup: told to, it touches so many MiB of memory, says so, and waits for
// its end.
func TestMain(m *testing.M) {
	use := os.Getenv("MEMRECON_TEST_TENANT")
	if use == "" {
		os.Exit(m.Run())
	}
	line := make([]byte, 1)
	_, _ = os.Stdin.Read(line)
	mib, err := strconv.Atoi(strings.TrimSuffix(use, strains))
	if err != nil {
		panic(err)
	}
	memory := make([]byte, mib<<20)
	for i := 0; i < len(memory); i += os.Getpagesize() {
		memory[i] = 1
	}
	if strings.HasSuffix(use, strains) {
		strain()
		os.Exit(0)
	}
	_, _ = os.Stdout.WriteString("ready\n")
	_, _ = os.Stdin.Read(line)
	runtime.KeepAlive(memory)
}

// strains behind the MiB is a process that then asks, for two seconds, for more memory than its limit leaves, but in pieces so large
// that the kernel refuses them and kills nobody for them.
const strains = " MiB and strains"

func strain() {
	var ends [2]int
	if err := unix.Pipe(ends[:]); err != nil {
		panic(err)
	}
	for began := time.Now(); time.Since(began) < 2*time.Second; {
		if _, err := unix.FcntlInt(uintptr(ends[0]), unix.F_SETPIPE_SZ, 128<<20); err == nil { // 1.3 MB for its ring
			panic("there was room for it")
		}
	}
}

// branch is a folder of cgroups that a test made, as a hierarchy of its own.
type branch struct {
	*testing.T
	Hierarchy
}

// newBranch makes a cgroup, and others in it, which are all removed at the test's end.
func newBranch(t *testing.T, names ...string) *branch {
	t.Helper()
	need.MemoryCgroup(t)
	h, err := Find("/sys")
	if err != nil {
		t.Fatal(err)
	}
	name := strings.ToLower(strings.NewReplacer("/", "-", "#", "-").Replace(t.Name()))
	h.Dir = filepath.Join(h.Dir, fmt.Sprintf("memrecon-%s-%d", name, os.Getpid()))
	b := &branch{t, h}
	t.Cleanup(func() { b.remove("") })
	b.make("")
	for _, name := range names {
		b.make(name)
	}
	return b
}

// make makes a cgroup whose children have the memory controller too.
func (b *branch) make(name string) {
	b.Helper()
	if err := os.Mkdir(b.dir(name), 0o755); err != nil {
		b.Fatal(err)
	}
	if b.Mode == snapshot.V2 {
		b.write(filepath.Join(name, "cgroup.subtree_control"), "+memory")
	}
}

// leaf makes a cgroup that processes can be in: on v2 its children may not have the controller.
func (b *branch) leaf(name string) {
	b.Helper()
	if err := os.Mkdir(b.dir(name), 0o755); err != nil {
		b.Fatal(err)
	}
}

// remove removes a cgroup and all below it. It may be called from any goroutine.
func (b *branch) remove(name string) {
	entries, err := os.ReadDir(b.dir(name))
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	for _, e := range entries {
		if e.IsDir() {
			b.remove(filepath.Join(name, e.Name()))
		}
	}
	// A process that has just ended may still be in it.
	for range 100 {
		if err = os.Remove(b.dir(name)); !errors.Is(err, unix.EBUSY) {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err != nil {
		b.Errorf("a cgroup stays behind: %v", err)
	}
}

func (b *branch) dir(name string) string { return filepath.Join(b.Dir, name) }

func (b *branch) write(file, content string) {
	b.Helper()
	if err := os.WriteFile(b.dir(file), []byte(content), 0o644); err != nil {
		b.Error(err)
	}
}

// file is v1's or v2's name.
func (b *branch) file(v1, v2 string) string {
	if b.Mode == snapshot.V2 {
		return v2
	}
	return v1
}

// tenant runs a process in a cgroup until the test ends.
func (b *branch) tenant(name string) {
	b.Helper()
	_, stdin, stdout := b.start(name, "8")
	if _, err := stdin.Write([]byte("\n")); err != nil {
		b.Fatal(err)
	}
	if line, err := bufio.NewReader(stdout).ReadString('\n'); line != "ready\n" {
		b.Fatalf("the tenant says %q: %v", line, err)
	}
}

// start starts a process in a cgroup, which waits for a line before it uses memory. It ends with the test at the latest.
func (b *branch) start(name, use string) (cmd *exec.Cmd, stdin io.Writer, stdout io.Reader) {
	b.Helper()
	self, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	cmd = exec.Command(self)
	cmd.Env = append(os.Environ(), "MEMRECON_TEST_TENANT="+use)
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	if stdout, err = cmd.StdoutPipe(); err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait()
	})
	b.write(filepath.Join(name, "cgroup.procs"), fmt.Sprint(cmd.Process.Pid))
	return cmd, in, stdout
}

// sameAsFiles sweeps and compares every value of every cgroup with its file. What moves meanwhile is compared again.
func (b *branch) sameAsFiles(r *Reader) {
	b.Helper()
	var diffs []string
	for range 20 {
		cgroups, errs := sweep(b.T, r)
		b.noFaults(errs)
		diffs = nil
		for path, c := range cgroups {
			for _, d := range differences(b.T, b.dir(path), b.Mode, c) {
				diffs = append(diffs, path+": "+d)
			}
			var st unix.Stat_t
			if err := unix.Stat(b.dir(path), &st); err != nil {
				b.Fatal(err)
			}
			if c.Inode != st.Ino {
				diffs = append(diffs, fmt.Sprintf("%s: inode %d, want %d", path, c.Inode, st.Ino))
			}
		}
		if len(diffs) == 0 {
			return
		}
		time.Sleep(20 * time.Millisecond) // the kernel gives charges back from per-CPU stocks and dying cgroups when it likes
	}
	b.Errorf("20 sweeps, and none is the same as the files: %s", strings.Join(diffs, "\n"))
}

// noFaults holds that nothing failed; that too few files may be open is no fault.
func (b *branch) noFaults(errs []snapshot.SourceError) {
	b.Helper()
	for _, e := range errs {
		if e.Source != b.Dir {
			b.Fatalf("error: %+v", e)
		}
	}
}

func TestRealValues(t *testing.T) {
	b := newBranch(t, "a", "a/b", "c")
	if err := os.Mkdir(b.dir("a/b/tenant"), 0o755); err != nil {
		t.Fatal(err)
	}
	b.tenant("a/b/tenant")
	r := open(t, b.Hierarchy, Options{SlowEvery: 1})
	b.sameAsFiles(r)
	cgroups, _ := sweep(t, r)
	if got, want := paths(cgroups), "/ /a /a/b /a/b/tenant /c"; got != want {
		t.Fatalf("cgroups %s, want %s", got, want)
	}
	usage, _ := cgroups["/a/b/tenant"].Usage.Get()
	anon, _ := cgroups["/a/b/tenant"].Stat.Get(b.file("rss", "anon"))
	if usage < 8<<20 || anon < 8<<20 {
		t.Errorf("the tenant touched 8 MiB: usage %d, anon %d", usage, anon)
	}
}

// TestRealRoot reads the host's own hierarchy, root included, where others come and go.
func TestRealRoot(t *testing.T) {
	need.MemoryCgroup(t)
	h, err := Find("/sys")
	if err != nil {
		t.Fatal(err)
	}
	r := open(t, h, Options{})
	cgroups, errs := sweep(t, r)
	root := cgroups["/"]
	if root.Stat.IsZero() || root.Usage.IsAbsent() != (h.Mode == snapshot.V2) || len(errs) > 0 {
		t.Errorf("root %+v, errors %v", root, errs)
	}
}

func TestRealLimits(t *testing.T) {
	b := newBranch(t, "a")
	const every = 4
	r := open(t, b.Hierarchy, Options{SlowEvery: every})
	limit := b.file("memory.limit_in_bytes", "memory.max")
	cgroups, _ := sweep(t, r)
	if c := cgroups["/a"]; !c.Max.IsUnlimited() {
		t.Errorf("limit of a new cgroup: %v", c.Max)
	}
	b.write("a/"+limit, "67108864")
	if b.Mode == snapshot.V2 {
		b.write("a/memory.high", "33554432")
		b.write("a/memory.low", "0")
		b.write("a/memory.min", "1048576")
	}
	for range every {
		cgroups, _ = sweep(t, r)
	}
	c := cgroups["/a"]
	if c.Max != snapshot.Of(64<<20) {
		t.Errorf("limit %v after %d sweeps, want 64 MiB", c.Max, every)
	}
	if b.Mode == snapshot.V2 && (c.High != snapshot.Of(32<<20) || c.Low != snapshot.Of(0) || c.Min != snapshot.Of(1<<20)) {
		t.Errorf("high %v, low %v, min %v", c.High, c.Low, c.Min)
	}
}

// budgets are limits of open files: none to be met, room for the root and a part, and for the root alone.
func budgets() map[string]int { return map[string]int{"all kept": 0, "some kept": 9, "none kept": 1} }

func TestRealDiscovery(t *testing.T) {
	for name, budget := range budgets() {
		t.Run(name, func(t *testing.T) {
			b := newBranch(t, "a", "b")
			r := open(t, b.Hierarchy, Options{MaxOpenFiles: budget, SlowEvery: 1, CheckEvery: 1 << 30})
			want := func(want string, appeared, vanished int) map[string]*snapshot.Cgroup {
				t.Helper()
				cgroups, _ := sweep(t, r)
				s := r.Stats()
				if got := paths(cgroups); got != want || s.Appeared != appeared || s.Vanished != vanished || s.Missed != 0 {
					t.Fatalf("%s, %+v; want %s, %d appeared, %d vanished", got, s, want, appeared, vanished)
				}
				return cgroups
			}
			first := want("/ /a /b", 0, 0)
			for range 20 { // each cgroup's one check is due in one of the first
				sweep(t, r)
			}
			b.make("c")
			b.make("c/d")
			b.make("a/e")
			want("/ /a /a/e /b /c /c/d", 3, 0)
			listed := r.Stats().Listed
			want("/ /a /a/e /b /c /c/d", 3, 0)
			if s := r.Stats(); s.Listed != listed {
				t.Errorf("%d folders listed in a sweep without a change", s.Listed-listed)
			}
			b.remove("c")
			want("/ /a /a/e /b", 3, 2)
			// Made again: the link count is as before, and so is the name.
			b.remove("a")
			b.make("a")
			second := want("/ /a /b", 4, 4)
			if first["/a"].Inode == second["/a"].Inode || first["/b"].Inode != second["/b"].Inode {
				t.Errorf("inodes of a %d, %d and of b %d, %d", first["/a"].Inode, second["/a"].Inode, first["/b"].Inode, second["/b"].Inode)
			}
			// Another name, the same link count.
			b.remove("b")
			b.make("z")
			want("/ /a /z", 5, 5)
			b.sameAsFiles(r)
		})
	}
}

// TestRealCheck has what only a look into the folders can find: the memory controller enabled for a cgroup that is there.
func TestRealCheck(t *testing.T) {
	b := newBranch(t, "a")
	if b.Mode != snapshot.V2 { // on v1 every cgroup of the hierarchy has the controller: there is nothing for a check to find
		r := open(t, b.Hierarchy, Options{CheckEvery: 2})
		for range 6 {
			sweep(t, r)
		}
		if s := r.Stats(); s.Cgroups != 2 || s.WithoutMemory != 0 || s.Missed != 0 {
			t.Errorf("%+v", s)
		}
		return
	}
	b.write("a/cgroup.subtree_control", "-memory")
	for _, name := range []string{"a/b", "a/b/c"} {
		if err := os.Mkdir(b.dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	const every = 5
	r := open(t, b.Hierarchy, Options{CheckEvery: every})
	want := func(sweeps int, want string, without, missed, vanished int) {
		t.Helper()
		var cgroups map[string]*snapshot.Cgroup
		for range sweeps {
			cgroups, _ = sweep(t, r)
		}
		s := r.Stats()
		if got := paths(cgroups); got != want || s.WithoutMemory != without || s.Missed != missed || s.Vanished != vanished {
			t.Fatalf("%s, %+v; want %s, %d without, %d missed, %d vanished", got, s, want, without, missed, vanished)
		}
	}
	want(2*every, "/ /a", 1, 0, 0)
	b.write("a/cgroup.subtree_control", "+memory")
	want(every, "/ /a /a/b", 1, 1, 0)
	b.write("a/b/cgroup.subtree_control", "+memory")
	want(every, "/ /a /a/b /a/b/c", 0, 2, 0)
	b.write("a/b/cgroup.subtree_control", "-memory")
	want(1, "/ /a /a/b", 1, 2, 1)
	b.write("a/cgroup.subtree_control", "-memory")
	want(1, "/ /a", 1, 2, 2)
}

func TestRealSteadySweepAllocatesNothing(t *testing.T) {
	for name, budget := range budgets() {
		t.Run(name, func(t *testing.T) {
			b := newBranch(t, "a", "a/a-name-of-more-than-thirty-two-characters", "b")
			r := open(t, b.Hierarchy, Options{MaxOpenFiles: budget, SlowEvery: 3, CheckEvery: 5})
			sweep(t, r)
			if n := testing.AllocsPerRun(30, func() {
				if err := r.Sweep(); err != nil {
					t.Error(err)
				}
			}); n != 0 {
				t.Errorf("%v allocations a sweep", n)
			}
		})
	}
}

// TestRealChurn sweeps while cgroups come and go, and holds that nothing leaks and nothing is lost.
func TestRealChurn(t *testing.T) {
	for name, budget := range budgets() {
		t.Run(name, func(t *testing.T) {
			b := newBranch(t, "stays", "stays/too")
			fds, goroutines := openFiles(t), runtime.NumGoroutine()
			r := open(t, b.Hierarchy, Options{MaxOpenFiles: budget, SlowEvery: 3, CheckEvery: 7})
			stop := b.churn()
			defer stop()
			sweeps := 1000
			if budget > 0 {
				sweeps = 300
			}
			for range sweeps {
				cgroups, errs := sweep(t, r)
				b.noFaults(errs)
				for path, c := range cgroups {
					if c.Usage.IsAbsent() || c.Stat.IsZero() || c.Max.IsAbsent() {
						t.Fatalf("%s is read in part: %+v", path, c)
					}
				}
				if cgroups["/stays/too"] == nil {
					t.Fatal("a cgroup that stayed is lost")
				}
				if kept := r.Stats().OpenFiles; budget > 0 && kept > budget {
					t.Fatalf("%d open files, %d may be", kept, budget)
				}
			}
			stop()
			sweep(t, r)
			cgroups, _ := sweep(t, r) // finds what the one before met half made
			var want []string
			_ = filepath.WalkDir(b.Dir, func(dir string, e os.DirEntry, _ error) error {
				if e.IsDir() {
					want = append(want, filepath.Join("/", strings.TrimPrefix(dir, b.Dir)))
				}
				return nil
			})
			slices.Sort(want)
			if got := paths(cgroups); got != strings.Join(want, " ") {
				t.Errorf("cgroups %s, want %s", got, want)
			}
			s := r.Stats()
			if s.Appeared < sweeps/10 || s.Vanished < sweeps/10 {
				t.Errorf("the churn was none: %+v", s)
			}
			if n := openFiles(t) - fds; n != s.OpenFiles {
				t.Errorf("%d files more are open than before, the reader knows of %d", n, s.OpenFiles)
			}
			for range 100 { // the one of the churn may not be gone yet
				if runtime.NumGoroutine() <= goroutines {
					break
				}
				time.Sleep(time.Millisecond)
			}
			if n := runtime.NumGoroutine(); n > goroutines {
				t.Errorf("%d goroutines, %d before", n, goroutines)
			}
			t.Logf("%+v", s)
		})
	}
}

// churn makes, removes and makes again cgroups, until the function that it returns is called.
func (b *branch) churn() (stop func()) {
	stopped, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		random := rand.New(rand.NewPCG(1, 2))
		for {
			select {
			case <-stopped:
				return
			default:
				b.turn(random)
			}
		}
	}()
	return sync.OnceFunc(func() {
		close(stopped)
		<-done
	})
}

// turn makes a cgroup with another in it, or removes it and perhaps makes it again at once.
func (b *branch) turn(random *rand.Rand) {
	name := fmt.Sprintf("c%d", random.IntN(6))
	if err := os.Mkdir(b.dir(name), 0o755); err != nil {
		b.remove(name)
		if random.IntN(2) == 0 {
			_ = os.Mkdir(b.dir(name), 0o755)
		}
		return
	}
	if b.Mode == snapshot.V2 {
		b.write(filepath.Join(name, "cgroup.subtree_control"), "+memory")
	}
	_ = os.Mkdir(b.dir(name+"/d"), 0o755)
	if random.IntN(4) == 0 {
		time.Sleep(time.Duration(random.IntN(500)) * time.Microsecond)
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func TestRealTooFewOpenFiles(t *testing.T) {
	b := newBranch(t, "a", "b", "c", "d")
	r := open(t, b.Hierarchy, Options{MaxOpenFiles: 9, SlowEvery: 1})
	_, errs := sweep(t, r)
	if len(errs) != 1 || errs[0].Source != b.Dir || !strings.Contains(errs[0].Hint, "LimitNOFILE") {
		t.Errorf("errors %v, want one that says what to do", errs)
	}
	if kept := r.Stats().OpenFiles; kept != 9 {
		t.Errorf("%d open files, want 9", kept)
	}
	// When the others go there is room for all.
	for _, name := range []string{"b", "c", "d"} {
		b.remove(name)
	}
	sweep(t, r)
	if kept, want := r.Stats().OpenFiles, 1+len(r.files.all[:r.files.fast])*2+1; kept != min(9, want) {
		t.Errorf("%d open files for two cgroups, want %d", kept, min(9, want))
	}
}

// TestRealNoFileDescriptorLeft has the process meet its limit below what the Reader takes for it.
func TestRealNoFileDescriptorLeft(t *testing.T) {
	b := newBranch(t, "a", "b", "c", "d", "e", "f")
	r := open(t, b.Hierarchy, Options{MaxOpenFiles: 1 << 20, SlowEvery: 1})
	var before unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	// The limit is on the numbers of file descriptors: one that leaves 16 free.
	limit := unix.Rlimit{Max: before.Max}
	for free := 0; free < 16; limit.Cur++ {
		if _, err := unix.FcntlInt(uintptr(limit.Cur), unix.F_GETFD, 0); err != nil {
			free++
		}
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	restore := func() {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(restore)
	for range 3 {
		cgroups, errs := sweep(t, r)
		if len(cgroups) != 7 || len(errs) != 1 || errs[0].Source != b.Dir {
			t.Fatalf("%d cgroups, errors %v", len(cgroups), errs)
		}
		for path, c := range cgroups {
			if c.Usage.IsAbsent() || c.Stat.IsZero() || c.Max.IsAbsent() {
				t.Errorf("%s is read in part: %+v", path, c)
			}
		}
	}
	restore()
	b.sameAsFiles(r)
}

func TestRealPermission(t *testing.T) {
	b := newBranch(t, "a", "b", "c")
	usage := b.file("memory.usage_in_bytes", "memory.current")
	for _, name := range []string{"a", "b"} {
		if err := os.Chmod(b.dir(name+"/"+usage), 0); err != nil {
			t.Fatal(err)
		}
	}
	asNobody(t, func() {
		r := open(t, b.Hierarchy, Options{})
		for range 2 {
			cgroups, errs := sweep(t, r)
			want := []snapshot.SourceError{{
				Source: b.dir("a/" + usage), Error: "permission denied (and in 1 more cgroups)", Hint: rightsHint,
			}}
			if !slices.Equal(errs, want) {
				t.Errorf("errors %v, want %v", errs, want)
			}
			for _, name := range []string{"/a", "/b", "/c"} {
				if c := cgroups[name]; c.Usage.IsAbsent() != (name != "/c") || c.Stat.IsZero() {
					t.Errorf("%s: %+v", name, c)
				}
			}
		}
		if failed := r.Stats().Failed; failed != 4 {
			t.Errorf("%d reads failed, want 4", failed)
		}
	})
}

func TestRealHierarchyGone(t *testing.T) {
	b := newBranch(t, "a")
	r := open(t, b.Hierarchy, Options{})
	sweep(t, r)
	b.remove("")
	for range 2 {
		wantError(t, r.Sweep(), ErrNotMounted, b.Dir)
	}
	_, err := Open(b.Hierarchy, Options{})
	wantError(t, err, unix.ENOENT, b.Dir)
}
