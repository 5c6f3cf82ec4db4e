package report_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"sigs.k8s.io/yaml"

	"github.com/memrecon/memrecon/collector"
	"github.com/memrecon/memrecon/reconcile"
	"github.com/memrecon/memrecon/report"
	"github.com/memrecon/memrecon/snapshot"
)

var update = flag.Bool("update", false, "write the golden files anew")

const nodes = "../testdata/nodes"

// sheet is a captured node's, read at a fixed time and within a fixed one.
func sheet(t *testing.T, node string) *reconcile.Sheet {
	t.Helper()
	c, err := collector.Open(collector.Config{
		Procfs: filepath.Join(nodes, node, "proc"), Sysfs: filepath.Join(nodes, node, "sys"), Node: node, Saved: filepath.Join(nodes, node),
		Clock: func() time.Time { return time.Date(2026, 11, 23, 3, 0, 0, 0, time.UTC) },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	snap := *c.Collect().Sheet.Snapshot()
	snap.Sweep.Duration = 2500 * time.Microsecond
	return reconcile.New(&snap)
}

func captured(t *testing.T) []string {
	t.Helper()
	entries, err := os.ReadDir(nodes)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	if len(names) < 7 {
		t.Fatalf("only %d captured nodes in %s", len(names), nodes)
	}
	return names
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
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
		t.Errorf("%s is not what it was; look at the change, then `go test ./report -update`:\n%s", path, got)
	}
}

func TestTextOfCapturedNodes(t *testing.T) {
	for _, node := range captured(t) {
		t.Run(node, func(t *testing.T) {
			var b bytes.Buffer
			if err := report.Text(&b, sheet(t, node), report.Options{Rows: 12}); err != nil {
				t.Fatal(err)
			}
			for line := range strings.Lines(b.String()) {
				if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > 100 {
					t.Errorf("%d columns: %s", n, line)
				}
			}
			if strings.ContainsRune(b.String(), '\x1b') {
				t.Error("there are colours in a text that is for no terminal")
			}
			golden(t, node+".txt", b.Bytes())
		})
	}
}

func TestColorAddsNothingButColor(t *testing.T) {
	var plain, colored bytes.Buffer
	s := sheet(t, "v2-quiet")
	for w, o := range map[*bytes.Buffer]report.Options{&plain: {}, &colored: {Color: true}} {
		if err := report.Text(w, s, o); err != nil {
			t.Fatal(err)
		}
	}
	stripped := colored.String()
	for _, code := range []string{"\x1b[0m", "\x1b[1m", "\x1b[2m", "\x1b[1;31m", "\x1b[1;32m", "\x1b[1;33m"} {
		stripped = strings.ReplaceAll(stripped, code, "")
	}
	if stripped != plain.String() || colored.Len() == plain.Len() {
		t.Error("the coloured text is not the plain one with colours")
	}
}

// documents are the JSON documents of all captured nodes and of nodes of which parts are missing.
func documents(t *testing.T) map[string]*reconcile.Sheet {
	t.Helper()
	sheets := map[string]*reconcile.Sheet{
		"nothing": reconcile.New(&snapshot.Snapshot{Errors: []snapshot.SourceError{{Source: "/proc/meminfo", Error: "gone"}}}),
		"no cgroups": reconcile.New(&snapshot.Snapshot{Host: snapshot.Host{PageSize: 4096, Zones: []snapshot.Zone{{}}, Meminfo: snapshot.Meminfo{
			MemTotal: snapshot.Of(1 << 30), MemFree: snapshot.Of(1 << 29)}}}),
	}
	for _, node := range captured(t) {
		sheets[node] = sheet(t, node)
	}
	return sheets
}

func TestDocumentsAreAsTheSchemaSays(t *testing.T) {
	schema, err := jsonschema.NewCompiler().Compile("../docs/report.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	for name, s := range documents(t) {
		b, err := json.Marshal(report.NewDocument(s))
		if err != nil {
			t.Fatal(err)
		}
		doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(b))
		if err != nil {
			t.Fatal(err)
		}
		if err := schema.Validate(doc); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if name == "v2-quiet" { // the schema can refuse
			doc.(map[string]any)["sheet"].(map[string]any)["kinds"] = []any{"gold"}
			if schema.Validate(doc) == nil {
				t.Error("the schema takes an unknown kind")
			}
		}
	}
}

// What a reader of the JSON may rely on, computed from the JSON alone.
func TestDocumentsClose(t *testing.T) {
	for name, s := range documents(t) {
		b, err := json.Marshal(report.NewDocument(s))
		if err != nil {
			t.Fatal(err)
		}
		var d report.Document
		if err := json.Unmarshal(b, &d); err != nil {
			t.Fatal(err)
		}
		var total, residual int64
		own := map[string]int64{}
		for _, r := range d.Sheet.Rows {
			var sum int64
			for _, n := range r.Cells {
				sum += n
			}
			if sum != r.OwnBytes {
				t.Errorf("%s %s: the cells sum to %d, own_bytes is %d", name, r.ID, sum, r.OwnBytes)
			}
			total, residual = total+sum, residual+r.Cells["residual"]
			own[r.ID] = sum
		}
		if total != d.Sheet.TotalBytes || residual != d.Sheet.ResidualBytes {
			t.Errorf("%s: cells sum to %d, total %d; residual %d, said %d", name, total, d.Sheet.TotalBytes, residual, d.Sheet.ResidualBytes)
		}
		figures := map[[2]string]int64{}
		for _, f := range d.Figures {
			figures[[2]string{f.ID, f.Owner}] = f.Bytes
		}
		for _, br := range d.Bridges {
			var sum int64
			for _, st := range br.Steps {
				sum += st.Bytes
			}
			difference := figures[[2]string{br.To, br.ToOwner}] - figures[[2]string{br.From, br.FromOwner}]
			if sum != difference || sum != br.DifferenceBytes {
				t.Errorf("%s %s to %s: steps sum to %d, the figures differ by %d", name, br.From, br.To, sum, difference)
			}
		}
		if len(d.Bridges) == 0 && s.TotalKnown {
			t.Errorf("%s has no bridges", name)
		}
	}
}

func TestYAMLSaysTheSame(t *testing.T) {
	b, err := json.Marshal(report.NewDocument(sheet(t, "v1-quiet")))
	if err != nil {
		t.Fatal(err)
	}
	y, err := yaml.JSONToYAML(b)
	if err != nil {
		t.Fatal(err)
	}
	back, err := yaml.YAMLToJSON(y)
	if err != nil {
		t.Fatal(err)
	}
	var fromJSON, fromYAML report.Document
	if json.Unmarshal(b, &fromJSON) != nil || json.Unmarshal(back, &fromYAML) != nil {
		t.Fatal("can't be read back")
	}
	if fromJSON.Sheet.TotalBytes != fromYAML.Sheet.TotalBytes || len(fromJSON.Figures) != len(fromYAML.Figures) {
		t.Error("YAML and JSON differ")
	}
}

func TestSize(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0", 1: "1", 1023: "1023", 1024: "1Ki", -1536: "-1.5Ki", 1047552: "1023Ki", 1048064: "1Mi", 104857600: "100Mi",
		100 * 1024 * 1023: "99.9Mi", 1<<30 + 1<<29: "1.5Gi", 25276510208: "23.5Gi", 1 << 62: "4Ei", -1 << 63: "-8Ei",
	} {
		if got := report.Size(n); got != want {
			t.Errorf("%d is %q, want %q", n, got, want)
		}
	}
}

func TestFiguresReferenceIsCurrent(t *testing.T) {
	var b bytes.Buffer
	if err := report.FiguresMarkdown(&b); err != nil {
		t.Fatal(err)
	}
	have, err := os.ReadFile("../docs/figures.md")
	if err != nil || !bytes.Equal(have, b.Bytes()) {
		t.Errorf("docs/figures.md is not current; run `make docs` (%v)", err)
	}
}

// Whoever may make a cgroup gives it its name; none may reach the terminal as more than a name. What could not be read is not
// shown as nothing.
func TestTextOfOddCgroups(t *testing.T) {
	of := snapshot.Of
	stat := snapshot.Stat{Keys: snapshot.NewKeys([]string{"anon", "file", "kernel"}), Values: []uint64{900 << 20, 0, 0}}
	s := reconcile.New(&snapshot.Snapshot{
		Host: snapshot.Host{CPUs: 1, PageSize: 4096, Meminfo: snapshot.Meminfo{MemTotal: of(4 << 30), MemFree: of(3 << 30), AnonPages: of(900 << 20)}},
		Mode: snapshot.V2,
		Cgroups: []snapshot.Cgroup{
			{Path: "/", Parent: -1},
			{Path: "/\x1b[2J/\x9b1m", Parent: 0, Usage: of(920 << 20), Max: of(921 << 20), Stat: stat},
			{Path: "/blind", Parent: 0, Usage: of(200 << 20), Max: of(200 << 20)},
		},
	})
	var b bytes.Buffer
	if err := report.Text(&b, s, report.Options{}); err != nil {
		t.Fatal(err)
	}
	text := b.String()
	if strings.ContainsFunc(text, func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }) {
		t.Errorf("not fit for a terminal: %q", text)
	}
	for _, want := range []string{
		"/?[2J/�1m stands at 100% of its limit of 921Mi.\n",
		"What does not add up\n  /?[2J/�1m: 20.00 MiB of its usage is in no kind",
		"/blind                                         200Mi            -        -     200Mi            -\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("there is no %q in\n%s", want, text)
		}
	}
}

func TestVerdict(t *testing.T) {
	of := snapshot.Of
	node := func() *snapshot.Snapshot {
		return &snapshot.Snapshot{
			Mode: snapshot.V2,
			Host: snapshot.Host{Meminfo: snapshot.Meminfo{MemTotal: of(1000 << 20), MemFree: of(300 << 20), MemAvailable: of(500 << 20)}},
			Cgroups: []snapshot.Cgroup{{Path: "/", Parent: -1}, {
				Path: "/svc", Usage: of(100 << 20), Max: of(100 << 20),
				Stat: snapshot.Stat{Keys: snapshot.NewKeys([]string{"anon", "file", "inactive_file"}), Values: []uint64{80 << 20, 20 << 20, 20 << 20}},
			}},
		}
	}
	for _, tc := range []struct {
		want string
		set  func(*snapshot.Snapshot)
	}{
		{"500Mi of 1000Mi is available (50%); no cgroup is close to its limit.", func(*snapshot.Snapshot) {}},
		{"500Mi of 1000Mi is available (50%); /svc stands at 95% of its limit of 100Mi.", func(s *snapshot.Snapshot) { s.Cgroups[1].Stat.Values[2] = 5 << 20 }},
		{"Memory is getting short: 149Mi of", func(s *snapshot.Snapshot) { s.Host.Meminfo.MemAvailable = of(149 << 20) }},
		{"Memory is short: only 49Mi of", func(s *snapshot.Snapshot) { s.Host.Meminfo.MemAvailable = of(49 << 20) }},
		{"300Mi of 1000Mi is available", func(s *snapshot.Snapshot) { s.Host.Meminfo.MemAvailable = snapshot.Value{} }},
		{"every process waited for memory 1.0% of the last 10 s.", func(s *snapshot.Snapshot) {
			s.Host.Pressure.Full = snapshot.PressureLine{Known: true, Avg10: 1}
		}},
	} {
		snap := node()
		tc.set(snap)
		var b bytes.Buffer
		if err := report.Text(&b, reconcile.New(snap), report.Options{}); err != nil {
			t.Fatal(err)
		}
		if first, _, _ := strings.Cut(b.String(), "\n"); !strings.Contains(first, tc.want) {
			t.Errorf("%q, want %q", first, tc.want)
		}
	}
}

func TestNoRowSumsUpOne(t *testing.T) {
	s := sheet(t, "v2-quiet")
	for rows := 1; rows < len(s.Rows); rows++ {
		var b bytes.Buffer
		if err := report.Text(&b, s, report.Options{Rows: rows}); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(b.String(), "\n1 smaller ones") {
			t.Errorf("%d rows, then one sums up one", rows)
		}
	}
}

func TestDocumentHasWhatTheSnapshotSays(t *testing.T) {
	s := sheet(t, "v2-quiet")
	snap := *s.Snapshot()
	free, _ := snap.Host.Meminfo.MemFree.Get()
	snap.Host.MeminfoBefore = snap.Host.Meminfo
	snap.Host.MeminfoBefore.MemFree = snapshot.Of(free + 4096)
	d := report.NewDocument(reconcile.New(&snap))
	if d.Sweep.SkewBytes != 4096 {
		t.Errorf("skew is %d, want 4096", d.Sweep.SkewBytes)
	}
	limits := 0
	for _, r := range d.Sheet.Rows {
		if r.LimitBytes != nil && *r.LimitBytes == 200<<20 && r.Class == snapshot.ClassContainer {
			limits++
		}
	}
	if limits == 0 {
		t.Error("no container has its limit of 200 MiB")
	}
	for _, f := range d.Figures {
		if f.ID == "mem-free" && (f.PublishedBytes == nil || *f.PublishedBytes != free) {
			t.Errorf("MemFree is published as %v, want %d", f.PublishedBytes, free)
		}
	}
	var b bytes.Buffer
	if err := report.FiguresText(&b, s, "", report.Options{}); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(b.String(), ", published "); n != 2 { // node-usage and node-rss: this capture's files were read over seconds
		t.Errorf("%d figures are published with another value, want 2:\n%s", n, b.String())
	}
}

// A report of thousands of cgroups does not have a step for each, and still sums up.
func TestSmallStepsAreSummedUp(t *testing.T) {
	snap := &snapshot.Snapshot{Mode: snapshot.V2, Host: snapshot.Host{Meminfo: snapshot.Meminfo{
		MemTotal: snapshot.Of(1 << 40), MemFree: snapshot.Of(1 << 39), AnonPages: snapshot.Of(1 << 38), SUnreclaim: snapshot.Of(1 << 30),
	}}}
	keys := snapshot.NewKeys([]string{"anon", "file", "slab_unreclaimable"})
	snap.Cgroups = append(snap.Cgroups, snapshot.Cgroup{Path: "/", Parent: -1})
	for i := range 500 {
		snap.Cgroups = append(snap.Cgroups, snapshot.Cgroup{
			Path: fmt.Sprintf("/c%d", i), Usage: snapshot.Of(uint64(2<<20 + i)),
			Stat: snapshot.Stat{Keys: keys, Values: []uint64{1 << 20, 0, uint64(1<<20 + i)}},
		})
	}
	s := reconcile.New(snap)
	b, err := s.Bridge(reconcile.Ref{Figure: "node-working-set"}, reconcile.Ref{Figure: "children-working-set", Owner: "/"})
	if err != nil {
		t.Fatal(err)
	}
	for most, want := range map[int]struct {
		steps  int
		others bool
	}{0: {501, false}, 20: {22, true}} {
		d := report.NewBridge(&b, most)
		var sum int64
		others := false
		for _, st := range d.Steps {
			sum += st.Bytes
			others = others || st.Owner == "others"
		}
		if sum != d.DifferenceBytes || len(d.Steps) != want.steps || others != want.others {
			t.Errorf("with at most %d: %d steps, others %v, that sum to %d of %d", most, len(d.Steps), others, sum, d.DifferenceBytes)
		}
	}
}

func TestVerdictCountsKills(t *testing.T) {
	kills := func(n uint64) snapshot.Stat {
		return snapshot.Stat{Keys: snapshot.NewKeys([]string{"oom_kill"}), Values: []uint64{n}}
	}
	host := snapshot.Host{Vmstat: kills(5), Meminfo: snapshot.Meminfo{MemTotal: snapshot.Of(1 << 30), MemFree: snapshot.Of(1 << 29)}}
	for name, tc := range map[string]struct {
		snap snapshot.Snapshot
		want string
	}{
		"v2 counts the descendants'": {snapshot.Snapshot{Mode: snapshot.V2, Host: host, Cgroups: []snapshot.Cgroup{
			{Path: "/", Parent: -1}, {Path: "/a", Events: kills(3)}, {Path: "/a/b", Parent: 1, Events: kills(3)}, {Path: "/c", Events: kills(1)},
		}}, "counted 5 OOM kills since boot (/a/b 3, /c 1)."},
		"v1 counts its own": {snapshot.Snapshot{Mode: snapshot.V1, Host: host, Cgroups: []snapshot.Cgroup{
			{Path: "/", Parent: -1}, {Path: "/a", OOMControl: kills(1)}, {Path: "/a/b", Parent: 1, OOMControl: kills(2)},
		}}, "counted 5 OOM kills since boot (/a 1, /a/b 2)."},
	} {
		var b bytes.Buffer
		if err := report.Text(&b, reconcile.New(&tc.snap), report.Options{}); err != nil {
			t.Fatal(err)
		}
		if first, _, _ := strings.Cut(b.String(), "\n"); !strings.HasSuffix(first, tc.want) {
			t.Errorf("%s: %s", name, first)
		}
	}
}
