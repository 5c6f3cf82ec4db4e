package collector_test

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/memrecon/memrecon/collector"
)

// open is a collector over a copy of a captured node, the copy's folder, and what it logs.
func open(t *testing.T) (*collector.Collector, string, *bytes.Buffer) {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("../testdata/nodes/v2-quiet")); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	c, err := collector.Open(collector.Config{
		Procfs: filepath.Join(dir, "proc"), Sysfs: filepath.Join(dir, "sys"), Logger: slog.New(slog.NewTextHandler(&log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c, dir, &log
}

// Rounds come each interval; those missed while one took long are not made up for.
func TestRunSkipsMissedTicks(t *testing.T) {
	c, _, _ := open(t)
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		start := time.Now()
		var at []time.Duration
		var rounds []uint64
		c.Run(ctx, time.Second, func(r *collector.Result) {
			at, rounds = append(at, time.Since(start)), append(rounds, r.Round)
			if c.Latest() != r || !r.Finished.Equal(time.Now()) {
				t.Errorf("round %d: finished %s, now %s", r.Round, r.Finished, time.Now())
			}
			switch len(at) {
			case 2:
				time.Sleep(3500 * time.Millisecond)
			case 5:
				stop()
			}
		})
		s := time.Second
		if want := []time.Duration{0, s, 4*s + s/2, 5 * s, 6 * s}; !slices.Equal(at, want) {
			t.Errorf("rounds at %v, want %v", at, want)
		}
		if want := []uint64{2, 3, 4, 5, 6}; !slices.Equal(rounds, want) { // the first one only prepares
			t.Errorf("rounds %v, want %v", rounds, want)
		}
	})
}

// An error is logged when it appears and when it goes, not each round.
func TestRunLogsChanges(t *testing.T) {
	c, dir, log := open(t)
	vmstat := filepath.Join(dir, "proc", "vmstat")
	away := vmstat + ".away"
	rename := func(from, to string) {
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		c.Run(ctx, time.Second, func(r *collector.Result) {
			switch r.Round {
			case 3:
				rename(vmstat, away)
			case 6:
				if len(r.Sheet.Snapshot().Errors) != 1 {
					t.Errorf("errors: %v", r.Sheet.Snapshot().Errors)
				}
				rename(away, vmstat)
			case 9:
				stop()
			}
		})
	})
	lines := strings.Split(strings.TrimSpace(log.String()), "\n")
	if len(lines) != 2 || !strings.Contains(lines[0], "WARN") || !strings.Contains(lines[0], vmstat) || !strings.Contains(lines[1], "INFO") || !strings.Contains(lines[1], vmstat) {
		t.Errorf("the log is\n%s", log)
	}
}

// What went away is said, with the time it was last there, and found again when it is back.
func TestSourcesGoAndComeBack(t *testing.T) {
	c, dir, _ := open(t)
	sys := filepath.Join(dir, "sys")
	first := c.Collect()
	if h := first.Sheet.Snapshot().Host; h.MeminfoBefore.IsZero() || h.MeminfoBefore != h.Meminfo {
		t.Errorf("meminfo before the cgroups is %+v", h.MeminfoBefore)
	}
	if err := os.RemoveAll(sys); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, "proc", "zoneinfo")); err != nil {
		t.Fatal(err)
	}
	gone := c.Collect()
	if st := gone.Sources[1]; st.Err == nil || !st.Time.Equal(first.Sources[1].Time) || len(gone.Sheet.Snapshot().Cgroups) != 0 {
		t.Errorf("without cgroups: %+v, %d cgroups; they were read at %s", st, len(gone.Sheet.Snapshot().Cgroups), first.Sources[1].Time)
	}
	if st := gone.Sources[0]; st.Err != nil || !st.Time.After(first.Sources[0].Time) {
		t.Errorf("the host without zoneinfo, but with meminfo: %+v", st)
	}
	if err := os.CopyFS(sys, os.DirFS("../testdata/nodes/v2-quiet/sys")); err != nil {
		t.Fatal(err)
	}
	back := c.Collect()
	if st := back.Sources[1]; st.Err != nil || len(back.Sheet.Snapshot().Cgroups) != len(first.Sheet.Snapshot().Cgroups) {
		t.Errorf("they are back: %+v, %d cgroups", st, len(back.Sheet.Snapshot().Cgroups))
	}
}

func TestAppearedIsOfTheRound(t *testing.T) {
	c, dir, _ := open(t)
	c.Collect()
	root := filepath.Join(dir, "sys", "fs", "cgroup")
	if err := os.CopyFS(filepath.Join(root, "new"), os.DirFS(filepath.Join(root, "kubelet"))); err != nil {
		t.Fatal(err)
	}
	for round, want := range []uint64{1, 0} {
		if sweep := c.Collect().Sheet.Snapshot().Sweep; uint64(sweep.Appeared) != want {
			t.Errorf("round %d after a cgroup was made: %d appeared, want %d", round+1, sweep.Appeared, want)
		}
	}
}
