package leak

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/memrecon/memrecon/host"
	"github.com/memrecon/memrecon/snapshot"
)

func stats(pairs map[string]uint64) snapshot.Stat {
	var s snapshot.Stat
	var names []string
	for name, n := range pairs {
		names, s.Values = append(names, name), append(s.Values, n)
	}
	s.Keys = snapshot.NewKeys(names)
	return s
}

// The limits of a cgroup, as far away as they are once page cache is dropped.
func TestCgroupBounds(t *testing.T) {
	const gib = 1 << 30
	for name, tc := range map[string]struct {
		cgroup  snapshot.Cgroup
		bytes   []uint64
		limited bool
		words   string
	}{
		"v2": {
			snapshot.Cgroup{
				Path: "/pod", Usage: snapshot.Of(3 * gib), Max: snapshot.Of(4 * gib), High: snapshot.Of(3 * gib),
				Stat: stats(map[string]uint64{"active_file": gib, "inactive_file": gib}),
			},
			[]uint64{2 * gib, 3 * gib}, true, "memory.high 3Gi of cgroup /pod; the limit 4Gi of cgroup /pod",
		},
		"v1, a limit above that can't be seen": {
			snapshot.Cgroup{
				Path: "/", Usage: snapshot.Of(gib), Max: snapshot.Unlimited,
				Stat: stats(map[string]uint64{"hierarchical_memory_limit": 2 * gib, "total_inactive_file": gib / 2, "inactive_file": 1}),
			},
			[]uint64{3 * gib / 2}, true, "the limit 2Gi of its own cgroup, or one above it",
		},
		"no limit":         {snapshot.Cgroup{Path: "/a", Usage: snapshot.Of(gib), Max: snapshot.Unlimited}, nil, false, ""},
		"usage not known":  {snapshot.Cgroup{Path: "/a", Max: snapshot.Of(gib)}, nil, false, ""},
		"over it by cache": {snapshot.Cgroup{Path: "/a", Usage: snapshot.Of(gib), Max: snapshot.Of(gib / 2)}, []uint64{0}, true, "the limit 512Mi of cgroup /a"},
	} {
		bounds, limited := cgroupBounds(&tc.cgroup)
		var words []string
		for i, b := range bounds {
			words = append(words, b.What)
			if i >= len(tc.bytes) || b.Bytes != tc.bytes[i] {
				t.Errorf("%s: %+v, want %d", name, b, tc.bytes)
			}
		}
		if limited != tc.limited || len(bounds) != len(tc.bytes) || strings.Join(words, "; ") != tc.words {
			t.Errorf("%s: limited %t, %+v", name, limited, bounds)
		}
	}
}

// node is a Watcher of a machine of plain files.
func node(t *testing.T, files map[string]string) *Watcher {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	h, err := host.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return &Watcher{procfs: dir, sysfs: dir, host: h}
}

const meminfo = `MemTotal:        4194304 kB
MemFree:          524288 kB
MemAvailable:    2097152 kB
Buffers:               0 kB
Cached:          1048576 kB
Inactive(file):   524288 kB
AnonPages:       3145728 kB
SwapFree:              0 kB
`

// The guard holds both what the kernel and what the kubelet call available; PSI where there is one; and it stops where it is blind.
func TestGuards(t *testing.T) {
	// The kubelet's: 4 GiB less 3 of anon, 1 of cache, and the half of that which is inactive: 0.5 GiB.
	psi := func(full string) map[string]string {
		return map[string]string{
			"meminfo": meminfo, "pressure/memory": "some avg10=90.00 avg60=0.00 avg300=0.00 total=1\nfull avg10=" + full + " avg60=0.00 avg300=0.00 total=1\n",
		}
	}
	for name, tc := range map[string]struct {
		guards Guards
		files  map[string]string
		want   string
	}{
		"none":         {Guards{}, nil, ""},
		"enough":       {Guards{FloorBytes: 400 << 20, MaxFullPercent: 50}, psi("10.00"), ""},
		"the kubelet":  {Guards{FloorBytes: 600 << 20}, psi("0.00"), "what the kubelet calls available is 512Mi, below --floor 600Mi"},
		"the kernel":   {Guards{FloorBytes: 3 << 30}, psi("0.00"), "MemAvailable is 2Gi"},
		"pressure":     {Guards{MaxFullPercent: 20}, psi("20.50"), "20.5% of the last 10 s"},
		"no PSI":       {Guards{MaxFullPercent: 20}, map[string]string{"meminfo": meminfo}, ""},
		"it is blind":  {Guards{FloorBytes: 1}, map[string]string{"version": ""}, "can't be watched"},
		"time is over": {Guards{Timeout: time.Nanosecond}, nil, "--timeout 1ns"},
	} {
		g := newGuards(tc.guards, node(t, tc.files))
		now := time.Now()
		err := g.check(now)
		if err == nil && tc.guards.Timeout > 0 {
			err = g.check(now.Add(time.Second))
		}
		if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
	}
	g := newGuards(Guards{FloorBytes: 256 << 20}, node(t, psi("0.00")))
	if err := g.check(time.Now()); err != nil || g.mayTake() != 64<<20 { // a quarter of the 256 MiB above the floor
		t.Errorf("%d may be taken until the next look (%v)", g.mayTake(), err)
	}
}

// A refusal names what can be told to have refused.
func TestWhyNoMemory(t *testing.T) {
	if why := node(t, map[string]string{"sys/vm/overcommit_memory": "2\n"}).whyNoMemory(); !strings.Contains(why, "CommitLimit") {
		t.Error(why)
	}
	if why := node(t, map[string]string{"sys/vm/overcommit_memory": "0\n"}).whyNoMemory(); !strings.Contains(why, "vm.max_map_count") {
		t.Error(why)
	}
}

// A limit on what is touched is met later by what touches less, and never by what touches nothing; one on what is taken does not wait.
func TestTaken(t *testing.T) {
	for _, tc := range []struct {
		touch float64
		bound Bound
		want  uint64
	}{
		{1, Bound{Bytes: 100}, 100},
		{0.5, Bound{Bytes: 100}, 200},
		{0.5, Bound{Bytes: 100, untouched: true}, 100},
		{0, Bound{Bytes: 100}, never},
		{0, Bound{Bytes: 0}, never},
		{0, Bound{Bytes: 100, untouched: true}, 100},
		{1e-9, Bound{Bytes: 1 << 63}, never},
	} {
		l := &Leak{config: Config{Touch: tc.touch}}
		if got := l.taken(&tc.bound); got != tc.want {
			t.Errorf("touching %g, %+v is met at %d, want %d", tc.touch, tc.bound, got, tc.want)
		}
	}
}
