//go:build !race

// Not with the race detector, which makes a machine too slow for what is gone in a second: make test runs these apart.

package incident_test

import (
	"context"
	"flag"
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

	"github.com/memrecon/memrecon/collector"
	"github.com/memrecon/memrecon/incident"
	"github.com/memrecon/memrecon/internal/need"
	"github.com/memrecon/memrecon/reconcile"
	"github.com/memrecon/memrecon/snapshot"
	"github.com/memrecon/memrecon/verdict"
)

var times = flag.Int("times", 5, "how often each death happens in a row")

// Deaths in real cgroups that look like a node's pods, each told right every time, with the kernel's log and without.
func TestRealVerdicts(t *testing.T) {
	n := newNode(t)
	t.Run("deaths", func(t *testing.T) {
		for name, die := range map[string]func(*testing.T, *pod){
			"container limit": func(t *testing.T, p *pod) {
				c := p.container(t, 0)
				n.limit(t, c, 24)
				n.expect(c, verdict.ContainerLimit, verdict.Ended)
				n.run(t, c, grow).dies(t)
			},
			"pod limit, and the innocent dies": func(t *testing.T, p *pod) {
				innocent, guilty := p.container(t, 0), p.container(t, 1)
				n.limit(t, p.path, 24)
				n.expect(innocent, verdict.PodLimit, verdict.Ended) // it has two thirds of the pod's memory
				n.expect(guilty, verdict.PodLimit, verdict.Ended)   // a moment later, as it goes on
				victim := n.run(t, innocent, hold)
				victim.ready(t)
				other := n.run(t, guilty, grow)
				victim.dies(t)
				other.dies(t)
			},
			"a child is killed, the container lives": func(t *testing.T, p *pod) {
				c := p.container(t, 0)
				n.limit(t, c, 24)
				n.expect(c, verdict.ContainerLimit, verdict.ProcessOnly)
				n.run(t, c, child).ready(t)
			},
			"kill -9": func(t *testing.T, p *pod) {
				c := p.container(t, 0)
				n.limit(t, c, 64)
				n.expect(c, verdict.Killed, verdict.Ended)
				process := n.run(t, c, hold)
				process.ready(t)
				process.kill(t)
				p.ended(c, 137)
			},
			"own cap": func(t *testing.T, p *pod) {
				c := p.container(t, 0)
				n.limit(t, c, 24)
				n.expect(c, verdict.RuntimeCap, verdict.Ended)
				process := n.run(t, c, abort)
				process.ready(t)
				process.wait(t)
				p.ended(c, 134)
			},
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				for range *times {
					die(t, n.pod())
				}
			})
		}
		if !n.isV1 {
			t.Run("a group", func(t *testing.T) {
				t.Parallel()
				for range *times {
					c := n.pod().container(t, 0)
					n.limit(t, c, 24)
					if err := os.WriteFile(filepath.Join(n.dir, c, "memory.oom.group"), []byte("1"), 0); err != nil {
						t.Fatal(err)
					}
					n.expect(c, verdict.ContainerLimit, verdict.GroupEnded)
					other := n.run(t, c, hold)
					n.run(t, c, grow).dies(t)
					other.dies(t)
				}
			})
		}
	})
	n.check(t)
}

// node is a tree of cgroups as a kubelet makes it, and a watch over it.
type node struct {
	path, dir string // of its kubepods' parent
	isV1      bool
	id        uint32 // of this test, so that no name comes twice: the kernel's log has those before, too
	began     time.Time
	// watches are one with the kernel's log and one without.
	watches map[string]*incident.Watch

	mu       sync.Mutex
	expected map[string]expectation // by path
	made     int
	pods     []snapshot.Pod
	told     []incident.Incident // by the one without
}

// pod is one of its pods.
type pod struct {
	*node
	path string
	uid  string
}

type expectation struct {
	verdict verdict.Verdict
	effect  verdict.Effect
}

func newNode(t *testing.T) *node {
	t.Helper()
	need.Root(t)
	n := &node{expected: map[string]expectation{}, id: rand.Uint32(), began: time.Now(), watches: map[string]*incident.Watch{}}
	n.path, n.dir = need.Cgroup(t, "incident")
	_, err := os.Stat(filepath.Join(n.dir, "memory.limit_in_bytes"))
	n.isV1 = err == nil
	t.Cleanup(func() { remove(n.dir) })
	n.make(t, "/kubepods")
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	for name, kmsg := range map[string]string{"with the log": "/dev/kmsg", "without the log": ""} {
		tell := func(incident.Incident) {}
		if kmsg == "" {
			tell = func(in incident.Incident) {
				n.mu.Lock()
				defer n.mu.Unlock()
				n.told = append(n.told, in)
			}
		}
		watch := incident.Open(incident.Config{Procfs: "/proc", Sysfs: "/sys", Kmsg: kmsg, Logger: slog.New(slog.DiscardHandler), Tell: tell})
		n.watches[name] = watch
		running.Go(func() { watch.Run(ctx) })
	}
	running.Go(func() { n.collect(ctx, t) })
	t.Cleanup(func() {
		stop()
		running.Wait()
	})
	return n
}

// collect reads the node some times a second, with what the kubelet would say of the pods.
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
		for _, watch := range n.watches {
			watch.Round(&collector.Result{Sheet: reconcile.New(&snap)})
		}
		time.Sleep(300 * time.Millisecond)
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

func (n *node) pod() *pod {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.made++
	uid := fmt.Sprintf("%08x-2222-3333-4444-%012d", n.id, n.made)
	return &pod{node: n, uid: uid, path: "/kubepods/burstable/pod" + uid}
}

// container makes a container of the pod.
func (p *pod) container(t *testing.T, number int) string {
	t.Helper()
	path := fmt.Sprintf("%s/%s%028d", p.path, strings.ReplaceAll(p.uid, "-", "")+"00000000"[:4], number)
	n := p.node
	n.make(t, path)
	time.Sleep(time.Second) // a container is some rounds old when it dies
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

func (n *node) expect(path string, v verdict.Verdict, e verdict.Effect) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.expected[n.path+path] = expectation{v, e}
}

// ended is the kubelet's word on the end of a container, whose cgroup is gone by then.
func (p *pod) ended(path string, code int32) {
	_ = os.Remove(filepath.Join(p.dir, path))
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pods = append(p.pods, snapshot.Pod{
		Namespace: "default", Name: "pod-" + p.uid, UID: p.uid,
		Containers: []snapshot.Container{{Name: "app", Terminated: snapshot.Termination{
			ExitCode: code, Reason: "Error", Finished: time.Now(), ContainerID: filepath.Base(path),
		}}},
	})
}

// process is what runs in a container.
type process struct {
	cmd *exec.Cmd
	out io.Reader
	dir string
	// removal is how long after a death a runtime removes the cgroup: long for a runtime, but not for a machine that is emulated. On v1 only a look at /proc/vmstat, ten times a second, tells
	// that somebody was killed, which may take its time on a busy machine: what goes sooner is unexplained without the kernel's log.
	removal time.Duration
}

func (n *node) run(t *testing.T, path, job string) *process {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // longer than any lives
	t.Cleanup(cancel)
	p := &process{cmd: exec.CommandContext(ctx, self), dir: filepath.Join(n.dir, path), removal: 500 * time.Millisecond}
	if n.isV1 {
		p.removal = time.Second
	}
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
	time.Sleep(500 * time.Millisecond) // a round sees it
}

// dies waits for its death by SIGKILL, and removes its cgroup as a runtime does.
func (p *process) dies(t *testing.T) {
	t.Helper()
	if err := p.cmd.Wait(); err == nil || err.Error() != "signal: killed" {
		t.Fatalf("it ended with %v", err)
	}
	time.Sleep(p.removal)
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
	for name, watch := range n.watches {
		for _, w := range n.compareTo(watch) {
			wrong = append(wrong, name+": "+w)
		}
	}
	return wrong
}

func (n *node) compareTo(watch *incident.Watch) (wrong []string) {
	found := map[string]int{}
	for _, in := range watch.Incidents() {
		want, ok := n.expected[in.Victim.Path]
		if !ok {
			if in.Time.After(n.began) && strings.HasPrefix(in.Victim.Path, n.path) {
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
			wrong = append(wrong, fmt.Sprintf("%s: %d incidents, want one of %s", path, found[path], n.expected[path].verdict))
		}
	}
	return wrong
}
