package reconcile_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/memrecon/memrecon/reconcile"
	"github.com/memrecon/memrecon/snapshot"
)

// film plays a captured node: a round each second, in which the pod guaranteed (a container of 125 MiB) grows, and with it the
// node's anonymous memory, by as many MiB as grow says.
type film struct {
	base    *snapshot.Snapshot
	history reconcile.History
	grow    func(second int) uint64
	// kubelet is what it says from some second on, nil for nothing.
	kubelet *snapshot.Kubernetes
}

// filmedFigures is how many figures of each owner the kubelet of the film publishes.
const filmedFigures = 3

var noon = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

func newFilm(t *testing.T, grow func(int) uint64) *film {
	t.Helper()
	return &film{base: captured(t, "v2-quiet").Snapshot(), grow: grow}
}

// pod is the path of the pod's cgroup and of its only container that the API knows.
func (f *film) pod(t *testing.T) (pod, container string) {
	t.Helper()
	s := reconcile.New(f.base)
	for i := range s.Rows {
		if p := s.Pod(i); p != nil && p.Name == "guaranteed" {
			switch {
			case s.Class(i) == snapshot.ClassPod:
				pod = s.Rows[i].ID
			case s.Container(i) != nil:
				container = s.Rows[i].ID
			}
		}
	}
	if pod == "" || container == "" {
		t.Fatal("the captured node has no pod guaranteed")
	}
	return pod, container
}

// at is the node at a second of the film, without what Kubernetes says of it.
func (f *film) at(second int) *snapshot.Snapshot {
	snap := *f.base
	snap.Time, snap.Kubernetes = noon.Add(time.Duration(second)*time.Second+300*time.Millisecond), f.kubelet
	more := f.grow(second) << 20
	add := func(v snapshot.Value) snapshot.Value { n, _ := v.Get(); return snapshot.Of(n + more) }
	snap.Host.Meminfo.AnonPages, snap.Host.Meminfo.InactiveAnon = add(snap.Host.Meminfo.AnonPages), add(snap.Host.Meminfo.InactiveAnon)
	free, _ := snap.Host.Meminfo.MemFree.Get()
	snap.Host.Meminfo.MemFree = snapshot.Of(free - more)
	available, _ := snap.Host.Meminfo.MemAvailable.Get()
	snap.Host.Meminfo.MemAvailable = snapshot.Of(available - more)
	snap.Host.MeminfoBefore = snap.Host.Meminfo
	snap.Cgroups = slices.Clone(snap.Cgroups)
	s := reconcile.New(f.base)
	for i := range snap.Cgroups {
		c := &snap.Cgroups[i]
		p := s.Pod(i)
		if i > 0 && c.Identity.Class != snapshot.ClassKubepods && (p == nil || p.Name != "guaranteed" || s.Class(i) == snapshot.ClassContainer && s.Container(i) == nil) {
			continue
		}
		c.Usage = add(c.Usage)
		if i == 0 {
			c.Usage = snapshot.Value{}
		}
		c.Stat.Values = slices.Clone(c.Stat.Values)
		for _, key := range []string{"anon", "inactive_anon"} {
			c.Stat.Values[c.Stat.Keys.Index(key)] += more
		}
	}
	return &snap
}

// says has the kubelet say what the figures were in a second, from now on: of the node, of all pods and of the pod.
func (f *film) says(t *testing.T, second int) {
	t.Helper()
	k := *f.base.Kubernetes
	s := reconcile.New(f.at(second))
	pod, container := f.pod(t)
	stats := func(owner string, node bool) snapshot.MemoryStats {
		m := snapshot.MemoryStats{Time: noon.Add(time.Duration(second) * time.Second)}
		ids := []string{"usage", "working-set", "rss"}
		if node {
			ids = []string{"node-usage", "node-working-set", "node-rss"}
		}
		for i, v := range []*snapshot.Value{&m.Usage, &m.WorkingSet, &m.RSS} {
			n, err := s.Value(ids[i], owner)
			if err != nil {
				t.Fatal(err)
			}
			*v = snapshot.Of(uint64(n))
		}
		return m
	}
	k.Time = noon.Add(time.Duration(second+1) * time.Second)
	k.Summary = snapshot.Summary{
		Node:   stats(reconcile.OwnerNode, true),
		System: []snapshot.ContainerStats{{Name: "pods", Memory: stats("/kubepods", false)}},
	}
	for _, p := range k.Pods {
		if p.Name == "guaranteed" {
			k.Summary.Pods = []snapshot.PodStats{{
				Namespace: p.Namespace, Name: p.Name, UID: p.UID, Memory: stats(pod, false),
				Containers: []snapshot.ContainerStats{{Name: "app", Memory: stats(container, false)}},
			}}
		}
	}
	f.kubelet = &k
}

// play plays the seconds from 0 up to one, in which it is the last sheet.
func (f *film) play(from, to int) (s *reconcile.Sheet) {
	for second := from; second <= to; second++ {
		s = f.history.Next(f.at(second))
	}
	return s
}

func differing(s *reconcile.Sheet) (owners []string) {
	for _, f := range s.Findings {
		if f.ID == "kubelet-differs" {
			owners = append(owners, f.Owner)
		}
	}
	return owners
}

// A pod that grows by 20 MiB a second is far from what the kubelet said ten seconds ago, and that is no finding: it was that then.
func TestDriftIsNoDifference(t *testing.T) {
	f := newFilm(t, func(second int) uint64 { return uint64(20 * second) })
	f.play(0, 9)
	f.says(t, 8)
	s := f.play(10, 18)
	pod, container := f.pod(t)
	for owner, ids := range map[string][]string{
		reconcile.OwnerNode: {"node-usage", "node-working-set", "node-rss"},
		"/kubepods":         {"usage", "working-set", "rss"}, pod: {"usage", "working-set", "rss"}, container: {"usage", "working-set", "rss"},
	} {
		for _, a := range s.Amounts() {
			if a.Owner != owner || !slices.Contains(ids, a.Figure.ID) {
				continue
			}
			n, ok := a.Kubelet.Get()
			if !ok || a.Bytes-int64(n) != 200*mi {
				t.Errorf("%s of %s: the kubelet's is %d off, want the 200 MiB of ten seconds", a.Figure.ID, owner, a.Bytes-int64(n))
			}
			if remainder, known := a.Remainder(); !known || remainder != 0 {
				t.Errorf("%s of %s: remainder %d (%t) of %+v", a.Figure.ID, owner, remainder, known, a.Then)
			}
			if width := a.Then.High - a.Then.Low; width > 40*mi {
				t.Errorf("%s of %s: then was a span of %d MiB, where two seconds make 40", a.Figure.ID, owner, width/mi)
			}
		}
	}
	if owners := differing(s); owners != nil {
		t.Errorf("findings about %v", owners)
	}
	if compared, furthest := s.KubeletAgrees(); compared != 4*filmedFigures || furthest != 0 {
		t.Errorf("%d figures compared, the furthest %d off", compared, furthest)
	}
}

// What change cannot explain is a finding, of the row that it is about and of no other.
func TestWhatDriftCannotExplain(t *testing.T) {
	f := newFilm(t, func(int) uint64 { return 0 })
	f.play(0, 9)
	f.says(t, 8)
	pod, container := f.pod(t)
	m := &f.kubelet.Summary.Pods[0].Memory
	n, _ := m.WorkingSet.Get()
	m.WorkingSet = snapshot.Of(n + 30*mi)
	s := f.play(10, 12)
	if owners := differing(s); !slices.Equal(owners, []string{pod}) {
		t.Errorf("findings about %v, want %s", owners, pod)
	}
	for _, finding := range s.Findings {
		if finding.Bytes != 30*mi || !strings.Contains(finding.Text, "working-set") || !strings.Contains(finding.Text, "12:00:08") {
			t.Errorf("the finding is %+v", finding)
		}
	}
	if _, furthest := s.KubeletAgrees(); furthest != 30*mi {
		t.Errorf("the furthest is %d off", furthest)
	}
	// The node's, too, with what it leads to.
	n, _ = f.kubelet.Summary.Node.WorkingSet.Get()
	f.kubelet.Summary.Node.WorkingSet = snapshot.Of(n - 40*mi)
	f.kubelet.Summary.Pods[0].Memory = f.kubelet.Summary.Pods[0].Containers[0].Memory // the container's: 2.6 MiB off
	s = f.play(13, 13)
	if owners := differing(s); !slices.Contains(owners, reconcile.OwnerNode) || slices.Contains(owners, container) {
		t.Errorf("findings about %v", owners)
	}
}

// Of a time that memrecon has no readings of nothing is said: before it started, before the cgroup was, and too long ago.
func TestNoReadingsNoDifference(t *testing.T) {
	wrong := func(f *film) {
		f.says(t, 3)
		m := &f.kubelet.Summary.Pods[0].Memory
		n, _ := m.WorkingSet.Get()
		m.WorkingSet = snapshot.Of(n + 300*mi)
	}
	unknown := func(s *reconcile.Sheet, f *film) {
		t.Helper()
		pod, _ := f.pod(t)
		row, _ := s.Row(pod)
		for _, figure := range reconcile.Figures() {
			if figure.ID == "working-set" {
				if a, _ := s.Amount(&figure, row); a.Then.Known {
					t.Errorf("then is %+v", a.Then)
				}
			}
		}
		if owners := differing(s); slices.Contains(owners, pod) {
			t.Errorf("findings about %v", owners)
		}
	}
	late := newFilm(t, func(int) uint64 { return 0 })
	wrong(late)
	unknown(late.play(5, 9), late)

	long := newFilm(t, func(int) uint64 { return 0 })
	long.play(0, 5)
	wrong(long)
	unknown(long.play(6, 60), long)

	again := newFilm(t, func(int) uint64 { return 0 })
	again.play(0, 5)
	wrong(again)
	pod, _ := again.pod(t)
	again.base.Cgroups = slices.Clone(again.base.Cgroups)
	for i := range again.base.Cgroups {
		if again.base.Cgroups[i].Path == pod {
			again.base.Cgroups[i].Inode += 1 << 20
		}
	}
	unknown(again.play(6, 8), again)

	back := newFilm(t, func(int) uint64 { return 0 })
	back.play(0, 5)
	wrong(back)
	unknown(back.play(-3600, -3598), back)
}

// A node whose cgroups cannot be read any more has nothing to compare, and its sheet comes out.
func TestHistoryWithoutCgroups(t *testing.T) {
	f := newFilm(t, func(int) uint64 { return 0 })
	f.play(0, 5)
	f.says(t, 4)
	snap := f.at(6)
	snap.Cgroups = nil
	s := f.history.Next(snap)
	if compared, _ := s.KubeletAgrees(); compared != 0 || len(s.Amounts()) == 0 {
		t.Errorf("%d figures compared, %d figures", compared, len(s.Amounts()))
	}
}

// The kubelet may be read in the same second as the node.
func TestKubeletOfThisSecond(t *testing.T) {
	f := newFilm(t, func(second int) uint64 { return uint64(second) })
	f.play(0, 4)
	f.says(t, 5)
	if compared, furthest := f.play(5, 5).KubeletAgrees(); compared != 4*filmedFigures || furthest != 0 {
		t.Errorf("%d figures compared, the furthest %d off", compared, furthest)
	}
}

func TestFindingsAboutTheKubelet(t *testing.T) {
	f := newFilm(t, func(int) uint64 { return 0 })
	f.play(0, 9)
	f.says(t, 8)
	if s := f.play(10, 10); len(s.Findings) != 0 {
		t.Errorf("a node that adds up has findings: %+v", s.Findings)
	}
	f.kubelet.Time = noon.Add(2 * time.Minute)
	f.kubelet.Config.KubeReserved = snapshot.Of(300 << 20)
	s := f.play(11, 11)
	wantFinding(t, s, "kubelet-stale", reconcile.OwnerNode)
	differ := 0
	for _, finding := range s.Findings {
		if finding.ID == "setting-differs" {
			differ++
			if finding.Bytes != 100<<20 {
				t.Errorf("the finding is %+v", finding)
			}
		}
	}
	if differ != 2 {
		t.Errorf("%d findings of kubepods-limit and allocatable, want 2: %+v", differ, s.Findings)
	}
}
