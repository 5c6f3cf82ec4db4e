package exporter

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"

	"github.com/memrecon/memrecon/collector"
	"github.com/memrecon/memrecon/internal/need"
	"github.com/memrecon/memrecon/reconcile"
	"github.com/memrecon/memrecon/snapshot"
)

var update = flag.Bool("update", false, "write the golden files anew")

func TestTable(t *testing.T) {
	var node, cgroup int
	seen := map[string]bool{}
	for _, m := range table() {
		if seen[m.name] {
			t.Errorf("%s stands twice in the table", m.name)
		}
		seen[m.name] = true
		if !strings.HasPrefix(m.name, "memrecon_") {
			t.Errorf("%s lacks the prefix", m.name)
		}
		name := m.name
		if m.kind == counter {
			name = strings.TrimSuffix(m.name, "_total")
		}
		if (m.kind == counter) != (name != m.name) {
			t.Errorf("%s: _total is for counters, and all of them", m.name)
		}
		if m.unit != "" && !strings.HasSuffix(name, "_"+m.unit) {
			t.Errorf("%s lacks its unit %s", m.name, m.unit)
		}
		if !strings.HasSuffix(m.help, ".") || m.from == "" {
			t.Errorf("%s: help %q, from %q", m.name, m.help, m.from)
		}
		if !slices.IsSorted(m.labels) {
			t.Errorf("%s: labels %v are not sorted", m.name, m.labels)
		}
		if (m.node == nil) == (m.cgroup == nil) {
			t.Errorf("%s is got from the node or from a cgroup", m.name)
		}
		if m.node != nil {
			node += m.most
		} else {
			cgroup += m.most
		}
	}
	if node != MaxNodeSeries || cgroup != MaxCgroupSeries {
		t.Errorf("the table allows %d series of the node and %d of a cgroup; stated are %d and %d", node, cgroup, MaxNodeSeries, MaxCgroupSeries)
	}
}

func TestDocsAreCurrent(t *testing.T) {
	var b bytes.Buffer
	if err := Markdown(&b); err != nil {
		t.Fatal(err)
	}
	have, err := os.ReadFile("../docs/metrics.md")
	if err != nil || !bytes.Equal(have, b.Bytes()) {
		t.Errorf("docs/metrics.md is not current; run `make docs` (%v)", err)
	}
}

// captured are the results of the captured nodes, and of made-up ones for what those lack.
func captured(t *testing.T) map[string]*collector.Result {
	t.Helper()
	results := map[string]*collector.Result{
		"made v1": result(madeNode(snapshot.Hybrid, 3)), "made v2": result(madeNode(snapshot.V2, 3)), "empty": result(&snapshot.Snapshot{}),
	}
	dirs, err := filepath.Glob("../testdata/nodes/*/proc")
	if err != nil || len(dirs) < 7 {
		t.Fatalf("captured nodes: %v %v", dirs, err)
	}
	for _, dir := range dirs {
		node := filepath.Dir(dir)
		c, err := collector.Open(collector.Config{Procfs: dir, Sysfs: filepath.Join(node, "sys")})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		results[filepath.Base(node)] = c.Collect()
	}
	return results
}

func gather(t *testing.T, c Config) []*dto.MetricFamily {
	t.Helper()
	g, err := newGatherer(c)
	if err != nil {
		t.Fatal(err)
	}
	g.now = func() time.Time { return noon }
	families, _, err := g.Gather()
	if err != nil {
		t.Fatal(err)
	}
	return families
}

// everyClass exports all cgroups.
func everyClass(r *collector.Result) Config {
	c := config(r)
	c.Classes = append(slices.Clone(defaultClasses), snapshot.ClassService, snapshot.ClassScope, snapshot.ClassRoot, snapshot.ClassOther)
	return c
}

// What a Registry would check at each scrape: sorted, no two alike, valid; and the stated bounds.
func TestFamiliesAreConsistent(t *testing.T) {
	for name, r := range captured(t) {
		t.Run(name, func(t *testing.T) {
			families := gather(t, everyClass(r))
			perCgroup := map[string]int{}
			node := 0
			for i, f := range families {
				if i > 0 && families[i-1].GetName() >= f.GetName() {
					t.Errorf("%s stands behind %s", f.GetName(), families[i-1].GetName())
				}
				if len(f.Metric) == 0 {
					t.Errorf("%s has no series", f.GetName())
				}
				if !strings.HasPrefix(f.GetName(), "memrecon_") {
					continue
				}
				last := ""
				for i, m := range f.Metric {
					key, cgroup := "", ""
					for j, l := range m.Label {
						if !utf8.ValidString(l.GetValue()) || l.GetValue() == "" {
							t.Errorf("%s has %s=%q", f.GetName(), l.GetName(), l.GetValue())
						}
						if j > 0 && m.Label[j-1].GetName() >= l.GetName() {
							t.Errorf("%s: label %s stands behind %s", f.GetName(), l.GetName(), m.Label[j-1].GetName())
						}
						if l.GetName() == "cgroup" {
							cgroup = l.GetValue()
						}
						key += l.GetName() + "\x00" + l.GetValue() + "\x00"
					}
					if i > 0 && key <= last {
						t.Errorf("%s: %q stands behind %q", f.GetName(), key, last)
					}
					last = key
					if (m.Counter != nil) != (f.GetType() == counter) || (m.Gauge != nil) != (f.GetType() == gauge) {
						t.Errorf("%s: a series is not a %s", f.GetName(), f.GetType())
					}
					if cgroup == "" {
						node++
					} else {
						perCgroup[cgroup]++
					}
				}
			}
			if node > MaxNodeSeries {
				t.Errorf("%d series of the node, stated are at most %d", node, MaxNodeSeries)
			}
			for path, n := range perCgroup {
				if n > MaxCgroupSeries {
					t.Errorf("%s has %d series, stated are at most %d", path, n, MaxCgroupSeries)
				}
			}
			if len(perCgroup) != len(r.Sheet.Snapshot().Cgroups) {
				t.Errorf("%d cgroups have metrics of %d", len(perCgroup), len(r.Sheet.Snapshot().Cgroups))
			}
		})
	}
}

// values are the series of one family, by their label values joined with a space.
func values(families []*dto.MetricFamily, name string) map[string]float64 {
	out := map[string]float64{}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.Metric {
			var labels []string
			for _, l := range m.Label {
				labels = append(labels, l.GetValue())
			}
			out[strings.Join(labels, " ")] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	return out
}

func sum(series map[string]float64) (n float64) {
	for _, v := range series {
		n += v
	}
	return n
}

func TestMetricsAddUp(t *testing.T) {
	for name, r := range captured(t) {
		if name == "empty" {
			continue
		}
		t.Run(name, func(t *testing.T) {
			families := gather(t, everyClass(r))
			total := values(families, "memrecon_node_memory_total_bytes")[""]
			if total == 0 || sum(values(families, "memrecon_node_memory_bytes")) != total || sum(values(families, "memrecon_node_owner_bytes")) != total {
				t.Errorf("total %v, kinds %v, owners %v", total, sum(values(families, "memrecon_node_memory_bytes")), sum(values(families, "memrecon_node_owner_bytes")))
			}
			kinds := map[string]float64{}
			for key, v := range values(families, "memrecon_cgroup_memory_bytes") {
				path, _, _ := strings.Cut(key, " ")
				kinds[path] += v
			}
			usage := values(families, "memrecon_cgroup_usage_bytes")
			if len(usage) < 5 {
				t.Errorf("%d cgroups have a usage", len(usage))
			}
			for path, want := range usage {
				if path != "/" && kinds[path] != want {
					t.Errorf("%s uses %v, its kinds sum to %v", path, want, kinds[path])
				}
			}
		})
	}
}

// What is not known, or does not limit, is no series; and no zero.
func TestAbsent(t *testing.T) {
	snap := madeNode(snapshot.V2, 1)
	const pod = "/kubepods/pod00000000-0000-4000-8000-000000000000"
	snap.Cgroups[2].Peak = snapshot.Value{}
	snap.Cgroups[2].High = of(50)
	snap.Cgroups[2].Low = snapshot.Unlimited
	snap.Host.Pressure = snapshot.Pressure{}
	r := result(snap)
	r.Sources[1] = collector.SourceStatus{Name: "cgroup", Err: fmt.Errorf("gone")}
	families := gather(t, config(r))
	for _, tt := range []struct {
		metric, labels string
		want           float64 // NaN for no series
	}{
		{"memrecon_cgroup_limit_bytes", "/kubepods", math.NaN()},
		{"memrecon_cgroup_limit_bytes", pod, 256 * mi},
		{"memrecon_cgroup_peak_bytes", pod, math.NaN()},
		{"memrecon_cgroup_peak_bytes", "/kubepods", 240 * mi},
		{"memrecon_cgroup_high_bytes", pod, 50 * mi},
		{"memrecon_cgroup_high_bytes", "/kubepods", math.NaN()},
		{"memrecon_cgroup_low_bytes", pod, math.Inf(1)},
		{"memrecon_cgroup_low_bytes", "/kubepods", math.NaN()},
		{"memrecon_cgroup_swap_bytes", pod, 0},
		{"memrecon_cgroup_memory_bytes", pod + " kernel_unsplit", math.NaN()},
		{"memrecon_cgroup_memory_bytes", pod + " hugetlb", math.NaN()},
		{"memrecon_cgroup_memory_bytes", pod + " vmalloc", 0},
		{"memrecon_cgroup_events_total", pod + " oom_kill", 2},
		{"memrecon_cgroup_local_events_total", pod + " oom_kill", 2},
		{"memrecon_cgroup_usage_bytes", "/kubepods-log.service", math.NaN()}, // its class is not exported
		{"memrecon_node_pressure_seconds_total", "some", math.NaN()},
		{"memrecon_cgroup_pressure_seconds_total", pod + " some", 2.5},
		{"memrecon_cgroup_pressure_seconds_total", pod + " full", 1.25},
		{"memrecon_node_skew_bytes", "", mi},
		{"memrecon_source_up", "cgroup", 0},
		{"memrecon_source_up", "host", 1},
		{"memrecon_source_age_seconds", "cgroup", math.NaN()},
		{"memrecon_source_age_seconds", "host", 0},
		{"memrecon_omitted_cgroups", "class", 2},
	} {
		got, ok := values(families, tt.metric)[tt.labels]
		if ok == math.IsNaN(tt.want) || ok && got != tt.want {
			t.Errorf("%s %s: %v (there: %t), want %v", tt.metric, tt.labels, got, ok, tt.want)
		}
	}
}

func TestWithoutMeminfo(t *testing.T) {
	snap := madeNode(snapshot.V2, 1)
	snap.Host = snapshot.Host{MeminfoBefore: snap.Host.MeminfoBefore}
	families := gather(t, config(result(snap)))
	for _, name := range []string{
		"memrecon_node_memory_total_bytes", "memrecon_node_memory_bytes", "memrecon_node_owner_bytes", "memrecon_node_figure_bytes", "memrecon_node_skew_bytes",
	} {
		if got := values(families, name); len(got) > 0 {
			t.Errorf("%s is %v where nothing is known", name, got)
		}
	}
	if len(values(families, "memrecon_cgroup_usage_bytes")) == 0 {
		t.Error("the cgroups are still known")
	}
}

func TestFewerCgroups(t *testing.T) {
	snap := madeNode(snapshot.V2, 4)
	snap.Cgroups[4].Usage = of(500) // the second container of the first pod
	c := config(result(snap))
	c.Classes, c.MaxCgroups = []snapshot.Class{snapshot.ClassContainer}, 3
	families := gather(t, c)
	usage := values(families, "memrecon_cgroup_usage_bytes")
	if len(usage) != 3 || usage[snap.Cgroups[4].Path] != 500*mi {
		t.Errorf("of 8 containers, those with metrics are %v", usage)
	}
	if got := values(families, "memrecon_omitted_cgroups"); got["class"] != 7 || got["max"] != 5 {
		t.Errorf("left out: %v", got)
	}
}

func TestLabelValue(t *testing.T) {
	for _, tt := range []struct{ name, want string }{
		{"/kubepods/pod1", "/kubepods/pod1"},
		{"/ümlaut\n\"", "/ümlaut\n\""},
		{"/a\xff", "/a\uFFFDff"},
		{"/a\xfe\xff", "/a\uFFFDfe\uFFFDff"},
		{"/a\uFFFDff", "/a\uFFFDef\uFFFDbf\uFFFDbdff"},
		{"/cut \xe2\x82", "/cut \uFFFDe2\uFFFD82"},
	} {
		if got := labelValue(tt.name); got != tt.want || !utf8.ValidString(got) {
			t.Errorf("%q becomes %q, want %q", tt.name, got, tt.want)
		}
	}
}

// FuzzLabelValue: any two names that differ have labels that differ, and every label is UTF-8.
func FuzzLabelValue(f *testing.F) {
	f.Add("/a\xff", "/a\uFFFDff")
	f.Add("\xef\xbf", "\uFFFDef\uFFFDbf")
	f.Fuzz(func(t *testing.T, a, b string) {
		x, y := labelValue(a), labelValue(b)
		if !utf8.ValidString(x) || (a == b) != (x == y) {
			t.Errorf("%q and %q become %q and %q", a, b, x, y)
		}
	})
}

// exposition is what a scrape gets, without the metrics of the process.
func exposition(t *testing.T, c Config) []byte {
	t.Helper()
	g, err := newGatherer(c)
	if err != nil {
		t.Fatal(err)
	}
	g.now = func() time.Time { return noon }
	g.process = prometheus.NewRegistry()
	w := httptest.NewRecorder()
	scrapes(g, c.Logger).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if w.Code != http.StatusOK {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	return w.Body.Bytes()
}

func TestExposition(t *testing.T) {
	for _, mode := range []snapshot.Mode{snapshot.V1, snapshot.V2} {
		t.Run(string(mode), func(t *testing.T) {
			got := exposition(t, config(result(madeNode(mode, 1))))
			path := filepath.Join("testdata", string(mode)+".prom")
			if *update {
				if err := os.WriteFile(path, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("%s is not what it was; look at the change, then `go test ./exporter -update`:\n%s", path, got)
			}
		})
	}
}

func TestPromtool(t *testing.T) {
	promtool := need.Program(t, "promtool")
	for name, r := range captured(t) {
		cmd := exec.Command(promtool, "check", "metrics")
		cmd.Stdin = bytes.NewReader(exposition(t, everyClass(r)))
		if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
}

func TestLint(t *testing.T) {
	families := gather(t, everyClass(result(madeNode(snapshot.V2, 1))))
	problems, err := testutil.GatherAndLint(prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) { return families, nil }))
	if err != nil || len(problems) > 0 {
		t.Errorf("%v %v", err, problems)
	}
}

// The node's published figures are those of the report.
func TestFigures(t *testing.T) {
	r := result(madeNode(snapshot.V2, 2))
	got := values(gather(t, config(r)), "memrecon_node_figure_bytes")
	n := 0
	for _, f := range reconcile.Figures() {
		if f.Scope != reconcile.ScopeNode {
			continue
		}
		want, err := r.Sheet.Value(f.ID, reconcile.OwnerNode)
		if errors.As(err, new(*reconcile.NotApplicableError)) { // without Kubernetes
			continue
		}
		n++
		if err != nil || got[f.ID] != float64(want) {
			t.Errorf("%s is %v, want %d (%v)", f.ID, got[f.ID], want, err)
		}
	}
	if len(got) != n {
		t.Errorf("%d figures, want %d", len(got), n)
	}
}
