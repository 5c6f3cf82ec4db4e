package reconcile_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/memrecon/memrecon/collector"
	"github.com/memrecon/memrecon/reconcile"
	"github.com/memrecon/memrecon/snapshot"
)

const nodes = "../testdata/nodes"

func captured(t *testing.T, node string) *reconcile.Sheet {
	t.Helper()
	dir := filepath.Join(nodes, node)
	c, err := collector.Open(collector.Config{Procfs: filepath.Join(dir, "proc"), Sysfs: filepath.Join(dir, "sys"), Saved: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c.Collect().Sheet
}

// On every captured node the sheet names all but half a percent, the kernel's own MemAvailable is the formula's to the byte,
// and a cgroup's own residual is what per-CPU stocks can hold.
func TestCapturedNodesClose(t *testing.T) {
	entries, err := os.ReadDir(nodes)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		t.Run(e.Name(), func(t *testing.T) {
			s := captured(t, e.Name())
			columns := s.Columns()
			if columns.Sum() != s.Total {
				t.Errorf("cells sum to %d, MemTotal is %d", columns.Sum(), s.Total)
			}
			if r := s.ResidualBytes(); r < 0 || r > s.Total/200 {
				t.Errorf("the residual is %d bytes, %.2f%% of MemTotal", r, 100*float64(r)/float64(s.Total))
			}
			computed, err := s.Value("mem-available", reconcile.OwnerNode)
			if published, _ := s.Snapshot().Host.Meminfo.MemAvailable.Get(); err != nil || computed != int64(published) {
				t.Errorf("MemAvailable is %d by the formula (%v), %d by the kernel", computed, err, published)
			}
			if len(s.Snapshot().Errors) > 0 {
				t.Errorf("errors: %+v", s.Snapshot().Errors)
			}
			for _, f := range s.Findings {
				if f.ID != "root-against-meminfo" { // the files of most captures were read over seconds
					t.Errorf("finding: %s", f.Text)
				}
			}
			for i := range s.Rows {
				if r := &s.Rows[i]; r.Cgroup > 0 && r.Own[reconcile.Residual] > 2*s.StockBytes() {
					t.Errorf("%s: own residual %d, stocks and late counters hold at most %d", r.ID, r.Own[reconcile.Residual], 2*s.StockBytes())
				}
			}
		})
	}
}

// Cells of a node that were worked out by hand from its files.
func TestCellsOfACapturedNode(t *testing.T) {
	s := captured(t, "v2-quiet")
	const pod = "/kubepods/burstable/pod1ff91f94-0685-4bc6-9362-1b989c2fb9c9"
	for _, want := range []struct {
		owner string
		kind  reconcile.Kind
		bytes int64
	}{
		{"/runtime", reconcile.AnonUnmapped, 7757824}, // the lists hold that much more than anon and file
		{"/runtime", reconcile.Residual, 266240},      // 65 pages: a charge stock of one CPU and a page of the other's
		{"/kubelet", reconcile.Residual, 0},
		{pod + "/cb75b7d90f710275951079af570e21d2531a79cba0daf67a02258e1901dadc9b", reconcile.Shmem, 60 << 20}, // its tmpfs
		{pod, reconcile.Shmem, 0},
		{"free", reconcile.Free, 1264596 << 10},
		{"kernel", reconcile.Vmalloc, (8284 - 3152) << 10}, // less /runtime's and others' below
	} {
		got := cell(t, s, want.owner, want.kind)
		if want.owner == "kernel" {
			root, _ := s.Row("/")
			got += s.Rows[root].All[want.kind]
		}
		if got != want.bytes {
			t.Errorf("%s %s is %d, want %d", want.owner, want.kind, got, want.bytes)
		}
	}
}

// usage of a pod's container on v1 and v2 is all named: what differs between usage, working set and RSS is cells.
func TestContainerBridgesHaveNoResidual(t *testing.T) {
	for node, mode := range map[string]snapshot.Mode{"v1-quiet": snapshot.V1, "v2-quiet": snapshot.V2} {
		s := captured(t, node)
		if s.Snapshot().Mode != mode {
			t.Errorf("%s is %s", node, s.Snapshot().Mode)
		}
		bridges := 0
		for i := range s.Rows {
			if s.Rows[i].Cgroup <= 0 || s.Rows[i].Children > 0 || s.Class(i) != snapshot.ClassContainer {
				continue
			}
			b, err := s.Bridge(reconcile.Ref{Figure: "usage", Owner: s.Rows[i].ID}, reconcile.Ref{Figure: "rss", Owner: s.Rows[i].ID})
			if err != nil {
				t.Fatal(err)
			}
			bridges++
			for _, st := range b.Steps {
				if st.Kind == reconcile.Residual {
					t.Errorf("%s %s: %d bytes without a name", node, st.Owner, st.Bytes)
				}
			}
		}
		if bridges < 8 {
			t.Errorf("%s: only %d containers found", node, bridges)
		}
	}
}
