package collector_test

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/memrecon/memrecon/collector"
	"github.com/memrecon/memrecon/kubelet"
)

const node = "../testdata/nodes/v2-quiet"

// kubeletOf serves a saved kubelet's answers once gate is closed, and refuses everything where refuse is set.
func kubeletOf(t *testing.T, gate <-chan struct{}, refuse *atomic.Bool) *kubelet.Config {
	t.Helper()
	files := map[string]string{
		"/stats/summary": "stats-summary.json", "/metrics/resource": "metrics-resource", "/pods": "pods.json", "/configz": "configz.json",
	}
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-gate:
		case <-r.Context().Done():
			return
		}
		if refuse.Load() {
			http.Error(w, "Forbidden", http.StatusForbidden)
			return
		}
		http.ServeFile(w, r, filepath.Join(node, "kubelet", files[r.URL.Path]))
	}))
	t.Cleanup(server.Close)
	account := t.TempDir()
	if err := os.WriteFile(filepath.Join(account, "token"), []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	return &kubelet.Config{Kubelet: server.URL, KubeletInsecure: true, ServiceAccount: account, Node: "lab-node", Timeout: time.Minute}
}

func openWith(t *testing.T, config *kubelet.Config) *collector.Collector {
	t.Helper()
	c, err := collector.Open(collector.Config{Procfs: filepath.Join(node, "proc"), Sysfs: filepath.Join(node, "sys"), Kubelet: config})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// A kubelet that does not answer keeps no round waiting; once it has, rounds have what it said.
func TestRoundsDoNotWaitForTheKubelet(t *testing.T) {
	gate := make(chan struct{})
	c := openWith(t, kubeletOf(t, gate, new(atomic.Bool)))
	for range 3 {
		r := c.Collect()
		if r.Sheet.Snapshot().Kubernetes != nil || len(r.Sources) != 2 || len(r.Sheet.Snapshot().Errors) != 0 {
			t.Fatalf("a round before the kubelet has answered: %+v, errors %v", r.Sources, r.Sheet.Snapshot().Errors)
		}
	}
	close(gate)
	c.AwaitKubernetes()
	r := c.Collect()
	k := r.Sheet.Snapshot().Kubernetes
	if k == nil || len(k.Pods) != 4 || k.Summary.IsZero() || k.Config.IsZero() {
		t.Fatalf("Kubernetes is %+v", k)
	}
	if len(r.Sources) != 3 || r.Sources[2].Name != "kubernetes" || r.Sources[2].Err != nil || r.Sources[2].Time.IsZero() {
		t.Errorf("sources are %+v", r.Sources)
	}
}

// A kubelet that refuses everything leaves the rest of the report as it is, and its absence said.
func TestKubeletThatRefuses(t *testing.T) {
	gate := make(chan struct{})
	close(gate)
	refuse := new(atomic.Bool)
	refuse.Store(true)
	c := openWith(t, kubeletOf(t, gate, refuse))
	c.AwaitKubernetes()
	r := c.Collect()
	snap := r.Sheet.Snapshot()
	if snap.Kubernetes != nil || len(snap.Errors) != 4 || r.Sources[2].Err == nil || !r.Sources[2].Time.IsZero() {
		t.Errorf("Kubernetes %v, errors %+v, sources %+v", snap.Kubernetes, snap.Errors, r.Sources)
	}
	for _, e := range snap.Errors {
		if e.Hint == "" {
			t.Errorf("no hint for %s", e.Source)
		}
	}
	if len(snap.Cgroups) != 19 || !r.Sheet.TotalKnown {
		t.Error("the rest of the report is missing")
	}
}

// A kubelet that went away leaves the names and the settings that it gave, and their time; figures it does not leave.
func TestKubeletThatGoesAway(t *testing.T) {
	gate := make(chan struct{})
	close(gate)
	refuse := new(atomic.Bool)
	c := openWith(t, kubeletOf(t, gate, refuse))
	c.AwaitKubernetes()
	before := c.Collect().Sheet.Snapshot().Kubernetes
	refuse.Store(true)
	c.AskKubernetes()
	r := c.Collect()
	k := r.Sheet.Snapshot().Kubernetes
	if k == nil || len(k.Pods) != 4 || k.Config.IsZero() || !k.PodsTime.Equal(before.Time) || !k.ConfigTime.Equal(before.Time) || !k.Time.After(before.Time) {
		t.Fatalf("Kubernetes is %+v", k)
	}
	if !k.Summary.IsZero() || k.WorkingSets != nil {
		t.Error("the figures of before are still there")
	}
	if r.Sources[2].Err == nil || len(r.Sheet.Snapshot().Errors) != 4 {
		t.Errorf("sources are %+v, errors %v", r.Sources, r.Sheet.Snapshot().Errors)
	}
	refuse.Store(false)
	c.AskKubernetes()
	k = c.Collect().Sheet.Snapshot().Kubernetes
	if k.Summary.IsZero() || !k.PodsTime.Equal(k.Time) {
		t.Errorf("after it came back Kubernetes is %+v", k)
	}
}

func TestSavedNodeHasKubernetes(t *testing.T) {
	for saved, want := range map[string]bool{node: true, t.TempDir(): false} {
		c, err := collector.Open(collector.Config{Procfs: filepath.Join(node, "proc"), Sysfs: filepath.Join(node, "sys"), Saved: saved})
		if err != nil {
			t.Fatal(err)
		}
		c.AwaitKubernetes()
		r := c.Collect()
		if has := r.Sheet.Snapshot().Kubernetes != nil; has != want || len(r.Sheet.Snapshot().Errors) != 0 {
			t.Errorf("%s: Kubernetes is there: %v, errors %v", saved, has, r.Sheet.Snapshot().Errors)
		}
		_ = c.Close()
	}
}
