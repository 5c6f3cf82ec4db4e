package incident_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/memrecon/memrecon/collector"
	"github.com/memrecon/memrecon/incident"
	"github.com/memrecon/memrecon/internal/need"
	"github.com/memrecon/memrecon/reconcile"
	"github.com/memrecon/memrecon/snapshot"
	"github.com/memrecon/memrecon/verdict"
)

// What a container of the tests does.
const (
	work = "MEMRECON_TEST_WORK"

	grow  = "grow"  // takes 64 MiB, or dies on the way
	child = "child" // has a child of it grow, and lives
	hold  = "hold"  // holds 12 MiB
	abort = "abort" // takes 12 MiB, and ends itself by SIGABRT
)

// TestMain also is such a container: it waits until it is in its cgroup.
func TestMain(m *testing.M) {
	job := os.Getenv(work)
	if job == "" {
		os.Exit(m.Run())
	}
	_, _ = os.Stdin.Read(make([]byte, 1))
	_ = os.WriteFile("/proc/self/oom_score_adj", []byte("500"), 0)
	switch job {
	case grow:
		take(64)
	case child:
		again := exec.Command("/proc/self/exe")
		again.Env = append(os.Environ(), work+"="+grow)
		again.Stdin = strings.NewReader("\n")
		_ = again.Run() // is killed
	case hold:
		take(12)
	case abort:
		take(12)
		signalReady()
		_ = unix.Kill(os.Getpid(), unix.SIGABRT)
	}
	signalReady()
	time.Sleep(time.Hour)
}

func signalReady() { fmt.Println("ready") }

// take maps memory and has the kernel fill it, in steps, beside Go's heap, whose size under the race detector is another.
func take(mib int) {
	for range mib {
		_, err := unix.Mmap(-1, 0, 1<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_POPULATE)
		if err != nil {
			fmt.Println(err)
		}
		time.Sleep(time.Millisecond)
	}
}

// times is how often each death happens in a row.
const times = 20

// Deaths in real cgroups that look like a node's pods, each told right every time, with the kernel's log and without.
func TestRealVerdicts(t *testing.T) {
	for _, log := range []struct{ name, kmsg string }{{"log", "/dev/kmsg"}, {"counters", ""}} {
		for name, happen := range map[string]func(*testing.T, *node){
			"container limit": func(t *testing.T, n *node) {
				for i := range times {
					c := n.container(t, i, 0)
					n.limit(t, c, 24)
					n.expect(c, verdict.ContainerLimit, verdict.Ended)
					n.run(t, c, grow).dies(t)
				}
			},
			"pod limit, and the innocent dies": func(t *testing.T, n *node) {
				for i := range times {
					innocent, guilty := n.container(t, i, 0), n.container(t, i, 1)
					n.limit(t, filepath.Dir(innocent), 24)
					n.expect(innocent, verdict.PodLimit, verdict.Ended)
					n.expect(guilty, verdict.PodLimit, verdict.Ended) // a moment later, as it goes on
					victim := n.run(t, innocent, hold)
					victim.ready(t)
					other := n.run(t, guilty, grow)
					victim.dies(t)
					other.dies(t)
				}
			},
			"a child is killed, the container lives": func(t *testing.T, n *node) {
				for i := range times {
					c := n.container(t, i, 0)
					n.limit(t, c, 24)
					n.expect(c, verdict.ContainerLimit, verdict.ProcessOnly)
					n.run(t, c, child).ready(t)
				}
			},
			"kill -9": func(t *testing.T, n *node) {
				for i := range times {
					c := n.container(t, i, 0)
					n.limit(t, c, 64)
					n.expect(c, verdict.Killed, verdict.Ended)
					p := n.run(t, c, hold)
					p.ready(t)
					p.kill(t)
					n.ended(i, c, 137, "Error")
				}
			},
			"own cap": func(t *testing.T, n *node) {
				for i := range times {
					c := n.container(t, i, 0)
					n.limit(t, c, 24)
					n.expect(c, verdict.RuntimeCap, verdict.Ended)
					p := n.run(t, c, abort)
					p.ready(t)
					p.wait(t)
					n.ended(i, c, 134, "Error")
				}
			},
		} {
			t.Run(log.name+"/"+name, func(t *testing.T) {
				n := newNode(t, log.kmsg)
				happen(t, n)
				n.check(t)
			})
		}
	}
}

// node is a tree of cgroups as a kubelet makes it, and a watch over it.
type node struct {
	path, dir string // of its kubepods' parent
	isV1      bool
	id        uint32 // of this test, so that no name comes twice: the kernel's log has those before, too
	watch     *incident.Watch
	expected  map[string]expectation

	mu   sync.Mutex
	pods []snapshot.Pod
	told []incident.Incident
}

type expectation struct {
	verdict verdict.Verdict
	effect  verdict.Effect
}

func newNode(t *testing.T, kmsg string) *node {
	t.Helper()
	need.Root(t)
	n := &node{expected: map[string]expectation{}, id: rand.Uint32()}
	n.path, n.dir = need.Cgroup(t, "incident")
	_, err := os.Stat(filepath.Join(n.dir, "memory.limit_in_bytes"))
	n.isV1 = err == nil
	t.Cleanup(func() { remove(n.dir) })
	n.make(t, "/kubepods")
	n.watch = incident.Open(incident.Config{
		Procfs: "/proc", Sysfs: "/sys", Kmsg: kmsg, Logger: slog.New(slog.DiscardHandler),
		Tell: func(in incident.Incident) {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.told = append(n.told, in)
		},
	})
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { n.watch.Run(ctx) })
	running.Go(func() { n.collect(ctx, t) })
	t.Cleanup(func() {
		stop()
		running.Wait()
	})
	return n
}

// collect reads the node ten times a second, with what the kubelet would say of the pods.
func (n *node) collect(ctx context.Context, t *testing.T) {
	c, err := collector.Open(collector.Config{Procfs: "/proc", Sysfs: "/sys"})
	if err != nil {
		t.Error(err)
		return
	}
	defer func() { _ = c.Close() }()
	for ctx.Err() == nil {
		snap := *c.Collect().Sheet.Snapshot()
		n.mu.Lock()
		snap.Kubernetes = &snapshot.Kubernetes{Pods: slices.Clone(n.pods)}
		n.mu.Unlock()
		n.watch.Round(&collector.Result{Sheet: reconcile.New(&snap)})
		time.Sleep(100 * time.Millisecond)
	}
}

// remove removes what is below a cgroup and is left.
func remove(dir string) {
	entries, _ := os.ReadDir(dir) // what is left is seen by who removes dir
	for _, e := range entries {
		if e.IsDir() {
			remove(filepath.Join(dir, e.Name()))
			_ = os.Remove(filepath.Join(dir, e.Name()))
		}
	}
}

// make makes a cgroup below the node's, with those above it.
func (n *node) make(t *testing.T, path string) {
	t.Helper()
	at := n.dir
	for name := range strings.SplitSeq(strings.TrimPrefix(path, "/"), "/") {
		if !n.isV1 {
			if err := os.WriteFile(filepath.Join(at, "cgroup.subtree_control"), []byte("+memory"), 0); err != nil {
				t.Fatal(err)
			}
		}
		at = filepath.Join(at, name)
		if err := os.Mkdir(at, 0o755); err != nil && !os.IsExist(err) {
			t.Fatal(err)
		}
	}
}

// container makes a container of a pod.
func (n *node) container(t *testing.T, pod, container int) string {
	t.Helper()
	path := fmt.Sprintf("/kubepods/burstable/pod%08x-2222-3333-4444-%012d/%08x%054d%02d", n.id, pod, n.id, pod, container)
	n.make(t, path)
	time.Sleep(300 * time.Millisecond) // a container is some rounds old when it dies
	return path
}

func (n *node) limit(t *testing.T, path string, mib int) {
	t.Helper()
	file := "memory.max"
	if n.isV1 {
		file = "memory.limit_in_bytes"
	}
	if err := os.WriteFile(filepath.Join(n.dir, path, file), []byte(strconv.Itoa(mib<<20)), 0); err != nil {
		t.Fatal(err)
	}
	if n.isV1 {
		return
	}
	if err := os.WriteFile(filepath.Join(n.dir, path, "memory.swap.max"), []byte("0"), 0); err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
}

func (n *node) expect(path string, v verdict.Verdict, e verdict.Effect) { n.expected[n.path+path] = expectation{v, e} }

// ended is the kubelet's word on the end of a container, whose cgroup is gone by then.
func (n *node) ended(pod int, path string, code int32, reason string) {
	_ = os.Remove(filepath.Join(n.dir, path))
	n.mu.Lock()
	defer n.mu.Unlock()
	n.pods = append(n.pods, snapshot.Pod{
		Namespace: "default", Name: fmt.Sprint("pod-", pod), UID: strings.TrimPrefix(filepath.Base(filepath.Dir(path)), "pod"),
		Containers: []snapshot.Container{{Name: "app", Terminated: snapshot.Termination{
			ExitCode: code, Reason: reason, Finished: time.Now(), ContainerID: filepath.Base(path),
		}}},
	})
}

// process is what runs in a container.
type process struct {
	cmd *exec.Cmd
	out io.Reader
	dir string
}

func (n *node) run(t *testing.T, path, job string) *process {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &process{cmd: exec.Command(self), dir: filepath.Join(n.dir, path)}
	p.cmd.Env = append(os.Environ(), work+"="+job)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, err := p.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if p.out, err = p.cmd.StdoutPipe(); err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // as a rule it is dead
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait()
	})
	if err := os.WriteFile(filepath.Join(p.dir, "cgroup.procs"), []byte(strconv.Itoa(p.cmd.Process.Pid)), 0); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(in, "\n"); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *process) ready(t *testing.T) {
	t.Helper()
	if _, err := io.ReadFull(p.out, make([]byte, len("ready\n"))); err != nil {
		t.Fatal(err)
	}
	time.Sleep(200 * time.Millisecond) // a round sees it
}

// dies waits for its death by SIGKILL, and removes its cgroup as a runtime does.
func (p *process) dies(t *testing.T) {
	t.Helper()
	if err := p.cmd.Wait(); err == nil || err.Error() != "signal: killed" {
		t.Fatalf("it ended with %v", err)
	}
	time.Sleep(50 * time.Millisecond)
	_ = os.Remove(p.dir) // fails where another process is in it
}

func (p *process) wait(t *testing.T) {
	t.Helper()
	_ = p.cmd.Wait() // by a signal
}

func (p *process) kill(t *testing.T) {
	t.Helper()
	_ = p.cmd.Process.Kill()
	p.wait(t)
}

// check compares what the watch says by now, and waits for it to know what it can't know at once.
func (n *node) check(t *testing.T) {
	t.Helper()
	var wrong []string
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		wrong = n.compare()
		if len(wrong) == 0 {
			break
		}
	}
	for _, w := range wrong {
		t.Error(w)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	first := map[string]incident.Incident{}
	for _, in := range n.told {
		if before, ok := first[in.ID]; ok && before.Verdict != in.Verdict {
			t.Errorf("%s was told as %s and then as %s", in.Victim.Path, before.Verdict, in.Verdict)
		}
		first[in.ID] = in
	}
}

func (n *node) compare() (wrong []string) {
	found := map[string]int{}
	for _, in := range n.watch.Incidents() {
		want, ok := n.expected[in.Victim.Path]
		if !ok {
			if strings.HasPrefix(in.Victim.Path, n.path) {
				wrong = append(wrong, fmt.Sprintf("not expected: %s: %s, %d kills: %+v", in.Victim.Path, in.Verdict, in.Kills, in.Evidence))
			}
			continue
		}
		found[in.Victim.Path]++
		if in.Verdict != want.verdict || in.Effect != want.effect {
			wrong = append(wrong, fmt.Sprintf("%s: %s (%s), %q; want %s, %q: %+v", in.Victim.Path, in.Verdict, in.Confidence, in.Effect, want.verdict, want.effect, in.Evidence))
		}
	}
	for path := range n.expected {
		if found[path] != 1 {
			wrong = append(wrong, fmt.Sprintf("%s: %d incidents, want one", path, found[path]))
		}
	}
	return wrong
}
