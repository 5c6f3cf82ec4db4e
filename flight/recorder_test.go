package flight_test

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/memrecon/memrecon/cgroup"
	"github.com/memrecon/memrecon/collector"
	"github.com/memrecon/memrecon/flight"
	"github.com/memrecon/memrecon/reconcile"
	"github.com/memrecon/memrecon/snapshot"
)

const nodes = "../testdata/nodes"

// captured is a captured node's snapshot.
func captured(t testing.TB, node string) *snapshot.Snapshot {
	t.Helper()
	dir := filepath.Join(nodes, node)
	c, err := collector.Open(collector.Config{Procfs: filepath.Join(dir, "proc"), Sysfs: filepath.Join(dir, "sys"), Saved: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c.Collect().Sheet.Snapshot()
}

// at is a round's sheet: the snapshot at a second, its cgroups changed by change.
func at(base *snapshot.Snapshot, seconds float64, change func([]snapshot.Cgroup) []snapshot.Cgroup) *reconcile.Sheet {
	snap := *base
	snap.Time = second(seconds)
	if change != nil {
		snap.Cgroups = change(slices.Clone(base.Cgroups))
	}
	return reconcile.New(&snap)
}

// On every captured node what is recorded is what the files say and what the sheet's figures make of it.
func TestRecordsWhatFiguresSay(t *testing.T) {
	entries, err := os.ReadDir(nodes)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		t.Run(e.Name(), func(t *testing.T) {
			s := at(captured(t, e.Name()), 0, nil)
			r := flight.NewRecorder(flight.Options{})
			r.Record(s)
			snap := s.Snapshot()
			for i := range snap.Cgroups {
				c := &snap.Cgroups[i]
				record, ok := r.Around(flight.Key{Path: c.Path, Inode: c.Inode}, time.Time{}, time.Time{})
				if !ok || len(record.Samples) != 1 {
					t.Fatalf("%s: no record", c.Path)
				}
				got := record.Samples[0]
				if c.Path == "/" {
					want := c.Usage
					if want.IsAbsent() { // cgroup v2
						want = figure(t, s, "node-usage", reconcile.OwnerNode)
					}
					compare(t, c.Path+" usage", got.Usage, want)
					continue
				}
				compare(t, c.Path+" usage", got.Usage, c.Usage)
				compare(t, c.Path+" working set", got.WorkingSet, figure(t, s, "working-set", c.Path))
				compare(t, c.Path+" anon", got.Anon, key(c, "anon", "total_rss"))
				compare(t, c.Path+" file", got.File, key(c, "file", "total_cache"))
				kernel := c.KernelUsage
				if kernel.IsAbsent() {
					kernel = key(c, "kernel", "")
				}
				compare(t, c.Path+" kernel", got.Kernel, kernel)
				compare(t, c.Path+" node", got.MemAvailable, snap.Host.Meminfo.MemAvailable)
				compare(t, c.Path+" limit", record.Limit, c.Max)
				compare(t, c.Path+" peak", record.Peak, c.Peak)
				if record.Identity != c.Identity {
					t.Errorf("%s: identity is %+v, want %+v", c.Path, record.Identity, c.Identity)
				}
			}
		})
	}
}

func compare(t *testing.T, what string, got, want snapshot.Value) {
	t.Helper()
	if got != want || got.IsAbsent() {
		t.Errorf("%s: %s, want %s", what, got, want)
	}
}

func figure(t *testing.T, s *reconcile.Sheet, id, owner string) snapshot.Value {
	t.Helper()
	n, err := s.Value(id, owner)
	if err != nil {
		t.Fatal(err)
	}
	return snapshot.Of(uint64(n))
}

func key(c *snapshot.Cgroup, names ...string) snapshot.Value {
	for _, name := range names {
		if n, ok := c.Stat.Get(name); ok {
			return snapshot.Of(n)
		}
	}
	return snapshot.Value{}
}

// made is a node with so many containers, each in a pod of its own, without a root.
func made(containers int) *snapshot.Snapshot {
	keys := snapshot.NewKeys([]string{"anon", "file", "kernel", "shmem", "active_anon", "inactive_anon", "active_file", "inactive_file"})
	snap := &snapshot.Snapshot{Time: noon, Mode: snapshot.V2}
	add := func(path string, parent int) int {
		snap.Cgroups = append(snap.Cgroups, snapshot.Cgroup{
			Path: path, Parent: int32(parent), Inode: uint64(100 + len(snap.Cgroups)), Identity: cgroup.Identify(path), Usage: snapshot.Of(50 * mib), Max: snapshot.Of(100 * mib),
			Stat: snapshot.Stat{Keys: keys, Values: []uint64{40 * mib, 8 * mib, 2 * mib, 0, 40 * mib, 0, 4 * mib, 4 * mib}},
		})
		return len(snap.Cgroups) - 1
	}
	root := add("/", -1)
	kubepods := add("/kubepods.slice", root)
	for i := range containers {
		uid := fmt.Sprintf("00000000_0000_4000_8000_%012x", i)
		pod := add("/kubepods.slice/kubepods-pod"+uid+".slice", kubepods)
		add(fmt.Sprintf("/kubepods.slice/kubepods-pod%s.slice/cri-containerd-%064x.scope", uid, i), pod)
	}
	return snap
}

// container is where made puts its nth container.
func container(n int) int { return 3 + 2*n }

func keyOf(c *snapshot.Cgroup) flight.Key { return flight.Key{Path: c.Path, Inode: c.Inode} }

func setUsage(c *snapshot.Cgroup, n uint64) { c.Usage = snapshot.Of(n * mib) }

// A cgroup's last two minutes are kept, and no more.
func TestTwoMinutes(t *testing.T) {
	base := made(1)
	c := keyOf(&base.Cgroups[container(0)])
	r := flight.NewRecorder(flight.Options{})
	for i := range 1000 {
		r.Record(at(base, float64(i), func(c []snapshot.Cgroup) []snapshot.Cgroup { setUsage(&c[container(0)], uint64(i)); return c }))
		if record, _ := r.Around(c, time.Time{}, time.Time{}); len(record.Samples) != min(i+1, 128) {
			t.Fatalf("after %d rounds there are %d samples", i+1, len(record.Samples))
		}
	}
	record, _ := r.Around(c, second(990), second(995))
	if len(record.Samples) != 6 {
		t.Fatalf("from 990 to 995 there are %d samples", len(record.Samples))
	}
	for i, s := range record.Samples {
		if n := 990 + i; !s.Time.Equal(second(float64(n))) || s.Usage != snapshot.Of(uint64(n)*mib) {
			t.Errorf("sample %d is of %s and %s", n, s.Time, s.Usage)
		}
	}
	if record, ok := r.Around(c, second(-500), second(-400)); !ok || record.Samples == nil || len(record.Samples) != 0 {
		t.Errorf("of a time before there is %+v, %v", record, ok)
	}
}

// What could not be read is absent, what is zero is zero, and unlimited is no number.
func TestMissingIsNotZero(t *testing.T) {
	base := made(1)
	c := keyOf(&base.Cgroups[container(0)])
	r := flight.NewRecorder(flight.Options{})
	changes := []func(*snapshot.Cgroup){
		func(c *snapshot.Cgroup) { c.Usage, c.Max = snapshot.Value{}, snapshot.Unlimited },
		func(c *snapshot.Cgroup) { c.Stat, c.Max = snapshot.Stat{}, snapshot.Value{} },
		func(c *snapshot.Cgroup) { c.Usage, c.Swap = snapshot.Of(0), snapshot.Of(0) },
		func(c *snapshot.Cgroup) {
			c.Stat, c.Max = snapshot.Stat{Keys: snapshot.NewKeys([]string{"anon", "file"}), Values: []uint64{0, mib}}, snapshot.Value{}
		},
	}
	for i, change := range changes {
		r.Record(at(base, float64(i), func(c []snapshot.Cgroup) []snapshot.Cgroup { change(&c[container(0)]); return c }))
	}
	record, _ := r.Around(c, time.Time{}, time.Time{})
	of := func(n uint64) snapshot.Value { return snapshot.Of(n * mib) }
	absent := snapshot.Value{}
	want := []flight.Sample{
		{Time: second(0), Anon: of(40), File: of(8), Kernel: of(2)},
		{Time: second(1), Usage: of(50)},
		{Time: second(2), Usage: of(0), WorkingSet: of(0), Anon: of(40), File: of(8), Kernel: of(2), Swap: of(0)},
		{Time: second(3), Usage: of(50), WorkingSet: absent, Anon: of(0), File: of(1), Kernel: absent},
	}
	if !slices.Equal(record.Samples, want) {
		t.Errorf("samples are\n%+v, want\n%+v", record.Samples, want)
	}
	if record.Limit != of(100) { // of the last round that told one; in the first it was unlimited
		t.Errorf("the limit is %s", record.Limit)
	}
}

// The kernel tells kernel memory before 5.18 in bytes: what does not fill a page counts as one.
func TestPartsOfPages(t *testing.T) {
	base := made(1)
	r := flight.NewRecorder(flight.Options{})
	r.Record(at(base, 0, func(c []snapshot.Cgroup) []snapshot.Cgroup {
		c[container(0)].Usage = snapshot.Of(1)
		c[1].Usage = snapshot.Of(1 << 60)
		return c
	}))
	if record, _ := r.Around(keyOf(&base.Cgroups[container(0)]), time.Time{}, time.Time{}); record.Samples[0].Usage != snapshot.Of(4096) {
		t.Errorf("a byte is %s", record.Samples[0].Usage)
	}
	record, _ := r.Around(keyOf(&base.Cgroups[1]), time.Time{}, time.Time{})
	if n, ok := record.Samples[0].Usage.Get(); !ok || n < 15<<40 {
		t.Errorf("what is too much is %s", record.Samples[0].Usage)
	}
}

// without leaves a cgroup out, which nothing stands below.
func without(i int) func([]snapshot.Cgroup) []snapshot.Cgroup {
	return func(c []snapshot.Cgroup) []snapshot.Cgroup {
		c = slices.Delete(c, i, i+1)
		for k := range c {
			if int(c[k].Parent) > i {
				c[k].Parent--
			}
		}
		return c
	}
}

// A container that is gone is kept until its last sample is two minutes old.
func TestGone(t *testing.T) {
	base := made(2)
	c := &base.Cgroups[container(0)]
	r := flight.NewRecorder(flight.Options{})
	for i := range 10 {
		r.Record(at(base, float64(i), nil))
	}
	for i := 10; ; i++ {
		r.Record(at(base, float64(i), without(container(0))))
		record, ok := r.Around(keyOf(c), time.Time{}, time.Time{})
		if !ok {
			if i != 9+128 {
				t.Errorf("forgotten in second %d", i)
			}
			break
		}
		if n := min(10, 128+9-i); len(record.Samples) != n || !record.Gone.Equal(second(10)) || !record.Samples[n-1].Time.Equal(second(9)) {
			t.Fatalf("second %d: %d samples, gone %s", i, len(record.Samples), record.Gone)
		}
	}
	if keys := r.ByContainer(c.Identity.ContainerID); len(keys) != 0 {
		t.Errorf("it is still found: %v", keys)
	}
	if record, ok := r.Around(keyOf(&base.Cgroups[container(1)]), time.Time{}, time.Time{}); !ok || len(record.Samples) != 128 || !record.Gone.IsZero() {
		t.Errorf("the other is gone as well: %+v", record)
	}
}

// A round in which no cgroup could be read is a sample without a value, and nobody is gone.
func TestNothingRead(t *testing.T) {
	base := made(1)
	c := keyOf(&base.Cgroups[container(0)])
	nothing := func([]snapshot.Cgroup) []snapshot.Cgroup { return nil }
	r := flight.NewRecorder(flight.Options{Samples: 3})
	for i := range 4 { // once around
		r.Record(at(base, float64(i), nil))
	}
	r.Record(at(base, 4, nothing))
	if record, ok := r.Around(c, second(4), time.Time{}); !ok || !slices.Equal(record.Samples, []flight.Sample{{Time: second(4)}}) || !record.Gone.IsZero() {
		t.Errorf("record is %+v", record)
	}
	r.Record(at(base, 5, nil))
	r.Record(at(base, 6, without(container(0)))) // it is gone, and then it is not
	if record, ok := r.Around(c, time.Time{}, time.Time{}); !ok || len(record.Samples) != 2 || !record.Gone.Equal(second(6)) {
		t.Errorf("record is %+v", record)
	}
	r.Record(at(base, 7, nil))
	record, _ := r.Around(c, time.Time{}, time.Time{})
	if len(record.Samples) != 3 || record.Samples[1] != (flight.Sample{Time: second(6)}) || record.Samples[2].Usage.IsAbsent() || !record.Gone.IsZero() {
		t.Errorf("record is %+v", record)
	}
}

// A path that comes back with another inode is another cgroup, and the same container's if its path says so.
func TestMadeAgain(t *testing.T) {
	base := made(1)
	old := keyOf(&base.Cgroups[container(0)])
	again := flight.Key{Path: old.Path, Inode: 4711}
	r := flight.NewRecorder(flight.Options{})
	r.Record(at(base, 0, nil))
	r.Record(at(base, 1, func(c []snapshot.Cgroup) []snapshot.Cgroup { c[container(0)].Inode = again.Inode; return c }))
	identity := base.Cgroups[container(0)].Identity
	for what, keys := range map[string][]flight.Key{
		"path": r.ByPath(old.Path), "container": r.ByContainer(identity.ContainerID), "pod": r.ByPod(identity.PodUID),
	} {
		if !slices.Equal(keys, []flight.Key{again, old}) {
			t.Errorf("by %s there are %v", what, keys)
		}
	}
	for key, want := range map[flight.Key]time.Time{old: second(0), again: second(1)} {
		if record, ok := r.Around(key, time.Time{}, time.Time{}); !ok || len(record.Samples) != 1 || !record.Samples[0].Time.Equal(want) {
			t.Errorf("%v: %+v", key, record)
		}
	}
	if keys := append(r.ByPath("/none"), r.ByPod("")...); keys != nil {
		t.Errorf("of none there are %v", keys)
	}
}

// A clock that was set back leaves nothing of before.
func TestClockSetBack(t *testing.T) {
	base := made(1)
	r := flight.NewRecorder(flight.Options{})
	for _, n := range []float64{10, 11, 5, 6} {
		r.Record(at(base, n, nil))
	}
	record, _ := r.Around(keyOf(&base.Cgroups[container(0)]), time.Time{}, time.Time{})
	if len(record.Samples) != 2 || !record.Samples[0].Time.Equal(second(5)) {
		t.Errorf("samples are %+v", record.Samples)
	}
}

// Where there are more cgroups than rings, pods and containers have theirs before anything else, and one that died goes before one
// that lives.
func TestBound(t *testing.T) {
	base := made(4) // 2 + 4 * 2 cgroups of Kubernetes
	units := len(base.Cgroups)
	for _, path := range []string{"/a.service", "/b.service", "/c"} {
		base.Cgroups = append(base.Cgroups, snapshot.Cgroup{Path: path, Inode: uint64(len(base.Cgroups) + 1), Identity: cgroup.Identify(path)})
	}
	recorded := func(r *flight.Recorder, i int) bool {
		_, ok := r.Around(keyOf(&base.Cgroups[i]), time.Time{}, time.Time{})
		return ok
	}
	r := flight.NewRecorder(flight.Options{Cgroups: 11})
	withoutLast := without(container(3))
	r.Record(at(base, 0, withoutLast)) // 9 of Kubernetes, two units
	if !recorded(r, units) || !recorded(r, units+1) || recorded(r, units+2) || r.Unrecorded() != 1 {
		t.Errorf("the units come before others: %d unrecorded", r.Unrecorded())
	}
	r.Record(at(base, 1, nil))
	if !recorded(r, container(3)) || !recorded(r, units) || recorded(r, units+1) || r.Unrecorded() != 2 {
		t.Errorf("a new container takes the ring of a unit: %d unrecorded", r.Unrecorded())
	}

	// All rings for pods: a new one takes that of one that is gone, else none.
	r = flight.NewRecorder(flight.Options{Cgroups: 9})
	r.Record(at(base, 0, withoutLast))
	r.Record(at(base, 1, nil))
	if recorded(r, container(3)) || r.Unrecorded() != 4 {
		t.Errorf("a new container takes the ring of one that is there: %d unrecorded", r.Unrecorded())
	}
	for i := range 2 { // the first tells that it is gone
		r.Record(at(base, float64(2+i), without(container(0))))
	}
	if recorded(r, container(0)) || !recorded(r, container(3)) || r.Unrecorded() != 3 {
		t.Errorf("a new container does not take the ring of one that is gone: %d unrecorded", r.Unrecorded())
	}
}

// The steady state allocates nothing.
func TestRecordAllocatesNothing(t *testing.T) {
	s := at(made(100), 0, nil)
	r := flight.NewRecorder(flight.Options{})
	if n := testing.AllocsPerRun(200, func() { r.Record(s) }); n != 0 {
		t.Errorf("a round allocates %.0f times", n)
	}
}

// What the Recorder's comment promises of its size, all that it holds of the snapshots included. 300 containers with their pods.
func TestSize(t *testing.T) {
	size := func(containers int) (bytes int64, cgroups int) {
		r := flight.NewRecorder(flight.Options{})
		before := heap()
		func() {
			base := made(containers)
			cgroups = len(base.Cgroups)
			for i := range 200 {
				r.Record(at(base, float64(i), nil))
			}
		}()
		bytes = heap() - before
		runtime.KeepAlive(r)
		return bytes, cgroups
	}
	bytes, cgroups := size(300)
	t.Logf("%d cgroups (300 containers): %d bytes, %d each", cgroups, bytes, bytes/int64(cgroups))
	if bytes/int64(cgroups) > 3700 || bytes > 4e6 {
		t.Errorf("%d cgroups take %d bytes, %d each", cgroups, bytes, bytes/int64(cgroups))
	}
	bytes, cgroups = size(2500)
	t.Logf("%d cgroups: %d bytes", cgroups, bytes)
	if bytes > 4e6 {
		t.Errorf("%d cgroups take %d bytes", cgroups, bytes)
	}
}

func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// Rounds and questions at the same time: for the race detector.
func TestQuestionsDuringRounds(t *testing.T) {
	base := made(3)
	r := flight.NewRecorder(flight.Options{Samples: 4})
	var asking sync.WaitGroup
	for range 2 {
		asking.Go(func() {
			for range 200 {
				for _, key := range r.ByPod(base.Cgroups[container(0)].Identity.PodUID) {
					if record, ok := r.Around(key, time.Time{}, time.Time{}); ok && !strings.HasPrefix(record.Path, "/kubepods") {
						t.Errorf("asked for %v, got %v", key, record.Key)
					}
				}
				r.Unrecorded()
			}
		})
	}
	for i := range 100 {
		r.Record(at(base, float64(i), nil))
	}
	asking.Wait()
}

// A round of 300 and of 5,000 cgroups. What a sweep takes beside it, see bench.
func BenchmarkRecord(b *testing.B) {
	for _, cgroups := range []int{300, 5000} {
		b.Run(fmt.Sprint(cgroups), func(b *testing.B) {
			s := at(made((cgroups-2)/2), 0, nil)
			r := flight.NewRecorder(flight.Options{})
			b.ReportAllocs()
			for b.Loop() {
				r.Record(s)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(s.Snapshot().Cgroups)), "ns/cgroup")
		})
	}
}
