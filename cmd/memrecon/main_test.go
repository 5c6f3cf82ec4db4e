package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/memrecon/memrecon/internal/need"
	"github.com/memrecon/memrecon/report"
)

const saved = "../../testdata/nodes/v2-quiet"

// memrecon runs a command line and returns its exit status and output.
func memrecon(args ...string) (status int, stdout, stderr string) {
	var out, errs bytes.Buffer
	status = run(args, &out, &errs)
	return status, out.String(), errs.String()
}

func document(t *testing.T, args ...string) report.Document {
	t.Helper()
	status, stdout, stderr := memrecon(append([]string{"report", "-o", "json"}, args...)...)
	if status != 0 {
		t.Fatalf("exit status %d: %s", status, stderr)
	}
	var d report.Document
	if err := json.Unmarshal([]byte(stdout), &d); err != nil {
		t.Fatal(err)
	}
	return d
}

// copyNode is a saved node that a test may spoil.
func copyNode(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(saved)); err != nil {
		t.Fatal(err)
	}
	return dir
}

// This machine's report closes exactly, and names all but half a percent.
func TestReportOfThisMachine(t *testing.T) {
	d := document(t)
	var total int64
	for _, r := range d.Sheet.Rows {
		for _, n := range r.Cells {
			total += n
		}
	}
	if total != d.Sheet.TotalBytes || d.Sheet.TotalBytes == 0 {
		t.Errorf("cells sum to %d, total is %d", total, d.Sheet.TotalBytes)
	}
	if r := d.Sheet.ResidualBytes; r < 0 || r > d.Sheet.TotalBytes/200 {
		t.Errorf("the residual is %d of %d bytes", r, d.Sheet.TotalBytes)
	}
	if d.Node == "" || d.Kernel == "" {
		t.Errorf("node %q, kernel %q", d.Node, d.Kernel)
	}
}

// free, from procps, says the same as its figure.
func TestFreeSaysTheSame(t *testing.T) {
	free := need.Program(t, "free")
	version, err := exec.Command(free, "--version").Output()
	if err != nil || !strings.Contains(string(version), "procps-ng 4") {
		need.Missing(t, "needs free of procps 4: "+string(version))
	}
	const tries = 5
	var off int64
	for range tries {
		d := document(t)
		out, err := exec.Command(free, "-b").Output()
		if err != nil {
			t.Fatal(err)
		}
		fields := strings.Fields(strings.SplitAfterN(string(out), "\n", 3)[1]) // Mem: total used free ...
		used, err := strconv.ParseInt(fields[2], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range d.Figures {
			if f.ID == "free-used" {
				off = f.Bytes - used
			}
		}
		if off > -8<<20 && off < 8<<20 { // what moves between the two
			return
		}
	}
	t.Errorf("free-used is %d bytes off what free says, %d times in a row", off, tries)
}

func TestCommandsOnASavedNode(t *testing.T) {
	for _, tc := range []struct {
		name string
		args []string
		want string
	}{
		{"report", []string{"report", "--from", saved}, "Where the memory is"},
		{"report by paths", []string{"report", "--path.procfs", saved + "/proc", "--path.sysfs", saved + "/sys"}, "cgroup v2; 19 cgroups"},
		{"yaml", []string{"report", "--from", saved, "-o", "yaml"}, "schema: memrecon.report/v1"},
		{"figures", []string{"figures", "--from", saved}, "node-working-set"},
		{"figures of a cgroup", []string{"figures", "--from", saved, "--owner", "/kubelet"}, "Figures of /kubelet"},
		{"figures as json", []string{"figures", "--from", saved, "-o", "json"}, `"publisher"`},
		{"bridge", []string{"bridge", "--from", saved, "usage", "rss", "--owner", "/kubelet"}, "usage of /kubelet 137Mi to rss of /kubelet 32.3Mi"},
		{"bridge between owners", []string{"bridge", "--from", saved, "usage@/kubelet", "rss@/runtime"}, "rss of /runtime"},
		{"bridge as json", []string{"bridge", "--from", saved, "mem-free", "mem-available", "-o", "json"}, `"difference_bytes": 248336384`},
		{"version", []string{"version"}, "memrecon "},
		{"completion", []string{"completion", "-c", "bash"}, "complete "},
		{"help", []string{"--help"}, "Commands:"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			status, stdout, stderr := memrecon(tc.args...)
			if status != 0 || !strings.Contains(stdout, tc.want) {
				t.Errorf("exit status %d, want %q in:\n%s%s", status, tc.want, stdout, stderr)
			}
		})
	}
}

// A capture is the node: every command says of it what it says of the node.
func TestCaptureAndBack(t *testing.T) {
	file := filepath.Join(t.TempDir(), "node.capture")
	if status, _, stderr := memrecon("capture", file, "--from", saved, "--node", "worker-7"); status != 0 {
		t.Fatal(stderr)
	}
	for _, args := range [][]string{
		{"figures", "-o", "json"}, {"bridge", "free-used", "node-working-set", "-o", "json"}, {"figures", "--owner", "/kubelet"},
	} {
		_, fromNode, _ := memrecon(append(args, "--from", saved)...)
		status, fromFile, stderr := memrecon(append(args, "--from", file)...)
		if status != 0 || fromFile != fromNode {
			t.Errorf("%v: exit status %d %s; the capture says\n%.300s\nthe node\n%.300s", args, status, stderr, fromFile, fromNode)
		}
	}
	if d := document(t, "--from", file); d.Node != "worker-7" {
		t.Errorf("the node is %q", d.Node)
	}

	redacted := filepath.Join(t.TempDir(), "redacted.capture")
	if status, _, stderr := memrecon("capture", redacted, "--redact", "--from", file); status != 0 {
		t.Fatal(stderr)
	}
	_, text, _ := memrecon("report", "--from", redacted, "-o", "json")
	for _, name := range []string{"worker-7", "97074e61-dc88-479a-a96a-0cdde87b3b1f", "d9ad7b59abe89465670e062862922523c3e7547b1e34fe5e5d036c8cc758a489",
		"burstable-tmpfs", "besteffort-cache", "kube-system", "writer", "lab-node"} {
		if strings.Contains(text, name) {
			t.Errorf("%s is in the redacted report", name)
		}
	}
	if !strings.Contains(text, `"kubernetes": {`) {
		t.Error("the redacted report has no pods any more")
	}
	plain, hidden := document(t, "--from", file), document(t, "--from", redacted)
	if plain.Sheet.TotalBytes != hidden.Sheet.TotalBytes || plain.Sheet.ResidualBytes != hidden.Sheet.ResidualBytes ||
		len(plain.Sheet.Rows) != len(hidden.Sheet.Rows) {
		t.Error("redaction changed more than names")
	}
	for i := range plain.Sheet.Rows {
		if plain.Sheet.Rows[i].Class != hidden.Sheet.Rows[i].Class && plain.Sheet.Rows[i].Class != "cgroup" {
			t.Errorf("%s is a %s, redacted a %s", plain.Sheet.Rows[i].ID, plain.Sheet.Rows[i].Class, hidden.Sheet.Rows[i].Class)
		}
	}
}

// Each command that can't do its work says in a line which file it is about and what to do, and does not exit with 0.
func TestRefusals(t *testing.T) {
	noCapture := filepath.Join(t.TempDir(), "notes.txt")
	if err := os.WriteFile(noCapture, []byte("hello"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name   string
		status int
		want   []string
		args   []string
	}{
		{"unknown figure", 1, []string{`"gold"`, "memrecon figures"}, []string{"bridge", "gold", "rss", "--from", saved}},
		{"unknown owner", 1, []string{`"/nowhere"`, "path"}, []string{"bridge", "usage", "rss", "--owner", "/nowhere", "--from", saved}},
		{"figures of an unknown owner", 1, []string{`"/nowhere"`}, []string{"figures", "--owner", "/nowhere", "--from", saved}},
		{"figure that the owner lacks", 1, []string{"node-working-set"}, []string{"bridge", "usage", "rss", "--from", saved}},
		{"missing capture", 1, []string{"no such file", "gone.capture"}, []string{"report", "--from", "gone.capture"}},
		{"no capture", 1, []string{noCapture, "capture"}, []string{"report", "--from", noCapture}},
		{"folder without a node", 1, []string{"saved node", "proc"}, []string{"report", "--from", "."}},
		{"procfs that is not there", 1, []string{"--path.procfs"}, []string{"report", "--path.procfs", "/nonexistent"}},
		{"capture to nowhere", 1, []string{"/nonexistent"}, []string{"capture", "/nonexistent/x", "--from", saved}},
		{"unknown command", 2, []string{"gold", "--help"}, []string{"gold"}},
		{"unknown output", 2, []string{"text", "json"}, []string{"report", "-o", "xml"}},
		{"nothing", 2, []string{"report"}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			status, _, stderr := memrecon(tc.args...)
			if status != tc.status {
				t.Errorf("exit status %d, want %d", status, tc.status)
			}
			for _, want := range tc.want {
				if !strings.Contains(stderr, want) {
					t.Errorf("no %q in: %s", want, stderr)
				}
			}
		})
	}
}

// Whatever is wrong with one file, the rest of the report comes out, and the report names the file.
func TestSpoiltFiles(t *testing.T) {
	const cgroup = "/sys/fs/cgroup/kubelet/"
	junk := bytes.Repeat([]byte{0xff, 0x00, 'x', '\n'}, 64)
	for _, tc := range []struct {
		name, file string
		content    []byte
		named      string
	}{
		{"meminfo missing", "/proc/meminfo", nil, "meminfo"},
		{"meminfo empty", "/proc/meminfo", []byte{}, "meminfo"},
		{"meminfo binary", "/proc/meminfo", junk, "meminfo"},
		{"zoneinfo missing", "/proc/zoneinfo", nil, "zoneinfo"},
		{"vmstat truncated", "/proc/vmstat", []byte("nr_free_pages 3161"), "vmstat"},
		{"memory.stat empty", cgroup + "memory.stat", []byte{}, "memory.stat"},
		{"memory.stat binary", cgroup + "memory.stat", junk, "memory.stat"},
		{"memory.stat huge", cgroup + "memory.stat", bytes.Repeat([]byte("anon 1\n"), 400_000), "memory.stat"},
		{"memory.stat truncated", cgroup + "memory.stat", []byte("anon 4096\nfile 40"), "memory.stat"},
		{"memory.current binary", cgroup + "memory.current", junk, "memory.current"},
		{"memory.current missing", cgroup + "memory.current", nil, "/kubelet"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := copyNode(t)
			path := dir + tc.file
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			if tc.content != nil {
				if err := os.WriteFile(path, tc.content, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			d := document(t, "--from", dir)
			said, err := json.Marshal(map[string]any{"errors": d.Errors, "findings": d.Findings})
			if err != nil || !strings.Contains(string(said), tc.named) {
				t.Errorf("neither errors nor findings name %s: %s", tc.named, said)
			}
			usage := map[string]int64{}
			for _, f := range d.Figures {
				if f.ID == "usage" {
					usage[f.Owner] = f.Bytes
				}
			}
			if usage["/runtime"] != 141979648 {
				t.Errorf("usage of /runtime is %d in the rest of the report", usage["/runtime"])
			}
		})
	}
}

func TestNoCgroups(t *testing.T) {
	dir := copyNode(t)
	if err := os.RemoveAll(filepath.Join(dir, "sys/fs/cgroup")); err != nil {
		t.Fatal(err)
	}
	d := document(t, "--from", dir)
	if len(d.Errors) != 1 || !strings.Contains(d.Errors[0].Source, "fs/cgroup") || d.Errors[0].Hint == "" {
		t.Errorf("errors are %+v", d.Errors)
	}
	if d.Sheet.TotalBytes == 0 || len(d.Bridges) == 0 {
		t.Error("the node's own part is missing")
	}
	if err := os.Remove(filepath.Join(dir, "proc/meminfo")); err != nil {
		t.Fatal(err)
	}
	if status, stdout, stderr := memrecon("report", "--from", dir); status != 1 || !strings.Contains(stdout+stderr, "meminfo") {
		t.Errorf("exit status %d of a node of which nothing can be read:\n%s%s", status, stdout, stderr)
	}
}
