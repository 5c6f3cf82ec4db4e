package incident_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/memrecon/memrecon/cgroup"
	"github.com/memrecon/memrecon/collector"
	"github.com/memrecon/memrecon/incident"
	"github.com/memrecon/memrecon/reconcile"
	"github.com/memrecon/memrecon/snapshot"
)

// The container of the captured node in which the tests have somebody killed.
const diedPath = "/kubepods/besteffort/pod97074e61-dc88-479a-a96a-0cdde87b3b1f/091033f0d43ff9c8a236975d22633e57475efc001c5313deb88d625f1b39e868"

// nodes are the captured ones.
const nodes = "../testdata/nodes"

// replay is a captured node in a folder, where a test changes it, and a watch over it without the kernel's log.
type replay struct {
	t     *testing.T
	dir   string
	watch *incident.Watch
	node  *collector.Collector
	// kubernetes is what each round has of it.
	kubernetes *snapshot.Kubernetes

	mu   sync.Mutex
	told []incident.Incident
	log  bytes.Buffer
}

// newReplay has the clock of the rounds stand still, so that no time passes by which a verdict changes.
func newReplay(t *testing.T, node string) *replay {
	t.Helper()
	r := &replay{t: t, dir: t.TempDir()}
	r.mount(node)
	proc, sys := filepath.Join(r.dir, "proc"), filepath.Join(r.dir, "sys")
	if err := os.CopyFS(proc, os.DirFS(filepath.Join(nodes, node, "proc"))); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	var err error
	if r.node, err = collector.Open(collector.Config{Procfs: proc, Sysfs: sys, Clock: func() time.Time { return start }}); err != nil {
		t.Fatal(err)
	}
	r.watch = incident.Open(incident.Config{
		Procfs: proc, Sysfs: sys, Logger: slog.New(slog.NewTextHandler(r, nil)), Clock: func() time.Time { return start },
		Tell: func(in incident.Incident) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.told = append(r.told, in)
		},
	})
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { r.watch.Run(ctx) })
	t.Cleanup(func() {
		stop()
		running.Wait()
		if err := r.node.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// Write takes a line of the log.
func (r *replay) Write(line []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.log.Write(line)
}

// mount puts a captured node's cgroups where there are none.
func (r *replay) mount(node string) {
	r.t.Helper()
	if err := os.CopyFS(filepath.Join(r.dir, "sys"), os.DirFS(filepath.Join(nodes, node, "sys"))); err != nil {
		r.t.Fatal(err)
	}
}

// unmount takes the cgroups away.
func (r *replay) unmount() {
	r.t.Helper()
	if err := os.RemoveAll(filepath.Join(r.dir, "sys")); err != nil {
		r.t.Fatal(err)
	}
}

func (r *replay) round() {
	snap := *r.node.Collect().Sheet.Snapshot()
	snap.Kubernetes = r.kubernetes
	r.watch.Round(&collector.Result{Sheet: reconcile.New(&snap)})
}

// until has rounds until something is so.
func (r *replay) until(what string, is func() bool) {
	r.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		r.round()
		r.mu.Lock()
		done := is()
		r.mu.Unlock()
		if done {
			return
		}
	}
	r.t.Fatalf("never: %s; told: %+v", what, r.incidents())
}

// more has rounds enough for what would be told once too often.
func (r *replay) more() {
	for range 10 {
		r.round()
		time.Sleep(10 * time.Millisecond)
	}
}

// incidents are those that were told.
func (r *replay) incidents() []incident.Incident {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.told)
}

// kill counts so many kills at the limit of the container that dies. The watch is to know by then what was counted before.
func (r *replay) kill(n int) {
	r.t.Helper()
	for _, file := range []string{"memory.events.local", "memory.events"} {
		path := filepath.Join(r.dir, "sys/fs/cgroup", diedPath, file)
		text := fmt.Sprintf("low 0\nhigh 0\nmax 9\noom %d\noom_kill %[1]d\noom_group_kill 0\n", n)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			r.t.Fatal(err)
		}
	}
}

// Where another hierarchy takes the place of the one that was watched, its kills are told.
func TestWatchFollowsTheHierarchy(t *testing.T) {
	r := newReplay(t, "v1-quiet")
	r.more()
	r.unmount()
	r.round()
	r.mount("v2-quiet")
	r.more()
	r.kill(1)
	r.until("a kill in the new hierarchy", func() bool { return len(r.told) > 0 })
	if got := r.incidents()[0].Victim.Path; got != diedPath {
		t.Errorf("the victim is %s, want %s", got, diedPath)
	}
}

// What stands in the way of the watch is logged with what to do about it, once.
func TestWatchTellsWhatStandsInItsWay(t *testing.T) {
	r := newReplay(t, "v1-quiet")
	vmstat := filepath.Join(r.dir, "proc", "vmstat")
	text, err := os.ReadFile(vmstat)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(vmstat, bytes.Replace(text, []byte("\noom_kill "), []byte("\nother "), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	r.until("a word on vmstat", func() bool { return r.log.Len() > 0 })
	r.more()
	r.mu.Lock()
	defer r.mu.Unlock()
	log := r.log.String()
	if strings.Count(log, "\n") != 1 || !strings.Contains(log, "level=WARN") || !strings.Contains(log, "source="+vmstat) ||
		!strings.Contains(log, "no oom_kill") || !strings.Contains(log, "Linux 4.13") {
		t.Errorf("the log is\n%s", log)
	}
}

// The kernel's log is read when the node counts another kill, whosever it is, and not for each round.
func TestWatchReadsTheLogForTheNodesKills(t *testing.T) {
	r := newReplay(t, "v2-quiet")
	r.more()
	if r.watch.Woken() {
		t.Error("nobody was killed, and the log is to be read")
	}
	vmstat := filepath.Join(r.dir, "proc", "vmstat")
	text, err := os.ReadFile(vmstat)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(vmstat, bytes.Replace(text, []byte("\noom_kill 0\n"), []byte("\noom_kill 1\n"), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	r.round()
	if !r.watch.Woken() {
		t.Error("a kill was counted, and the log is not read")
	}
	r.round()
	if r.watch.Woken() {
		t.Error("the log is read again for the same kill")
	}
}

// An incident is told at once, and again with its pod's name when that is known at last, but only once.
func TestNameComesLater(t *testing.T) {
	r := newReplay(t, "v2-quiet")
	r.more()
	r.kill(1)
	r.until("a kill", func() bool { return len(r.told) > 0 })
	r.more()
	if told := r.incidents(); len(told) != 1 || told[0].Victim.Pod != "" {
		t.Fatalf("without names, told: %+v", told)
	}
	r.kubernetes = &snapshot.Kubernetes{Pods: []snapshot.Pod{{Namespace: "shop", Name: "web", UID: cgroup.Identify(diedPath).PodUID}}}
	r.until("the name", func() bool { return len(r.told) > 1 })
	r.kill(2) // more is known of it, but no news
	r.until("another kill", func() bool { return r.watch.Incidents()[0].Kills == 2 })
	told := r.incidents()
	if len(told) != 2 || told[1].ID != told[0].ID || told[1].Victim.Namespace != "shop" || told[1].Victim.Pod != "web" {
		t.Errorf("with names, told: %+v", told)
	}
}
