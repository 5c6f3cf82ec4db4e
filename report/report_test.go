package report_test

import (
	"bytes"
	"encoding/json"
	"flag"
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
		Procfs: filepath.Join(nodes, node, "proc"), Sysfs: filepath.Join(nodes, node, "sys"), Node: node,
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
		"What does not add up\n  /?[2J/�1m: 20971520 bytes of its usage are in no kind",
		"/blind                                         200Mi            -        -     200Mi            -\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("there is no %q in\n%s", want, text)
		}
	}
}
