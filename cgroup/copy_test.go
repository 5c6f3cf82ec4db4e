package cgroup

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/memrecon/memrecon/internal/need"
	"github.com/memrecon/memrecon/snapshot"
)

// TestSavedNodes compares all of the captured nodes with their files.
func TestSavedNodes(t *testing.T) {
	nodes, err := filepath.Glob("../testdata/nodes/*/sys")
	if err != nil || len(nodes) == 0 {
		t.Fatalf("no captured nodes: %v", err)
	}
	for _, sysfs := range nodes {
		t.Run(filepath.Base(filepath.Dir(sysfs)), func(t *testing.T) {
			h, err := Find(sysfs)
			if err != nil {
				t.Fatal(err)
			}
			cgroups, errs := sweep(t, open(t, h, Options{}))
			if len(errs) > 0 {
				t.Errorf("errors: %v", errs)
			}
			folders := 0
			err = filepath.WalkDir(h.Dir, func(dir string, e os.DirEntry, err error) error {
				if err != nil || !e.IsDir() {
					return err
				}
				folders++
				path := filepath.Join("/", strings.TrimPrefix(dir, h.Dir))
				if cgroups[path] == nil {
					t.Errorf("%s is missing", path)
					return nil
				}
				for _, d := range differences(t, dir, h.Mode, cgroups[path]) {
					t.Errorf("%s: %s", path, d)
				}
				return nil
			})
			if err != nil || folders != len(cgroups) {
				t.Errorf("%d folders, %d cgroups; %v", folders, len(cgroups), err)
			}
		})
	}
}

// savedNode is a pod with two containers, and a folder without the memory controller.
func savedNode() map[string]string {
	return map[string]string{
		"cgroup.controllers": "memory\n", "memory.stat": "anon 30\n",
		"pod/memory.current": "20\n", "pod/memory.stat": "anon 18\nfile 0\n", "pod/memory.max": "max\n", "pod/memory.events": "oom 1\n",
		"pod/a/memory.current": "10\n", "pod/a/memory.stat": "anon 9\nfile 0\n", "pod/a/memory.max": "4096\n",
		"pod/b/memory.current": "10\n", "pod/b/memory.stat": "anon 9\nfile 0\n", "pod/b/memory.max": "0\n",
		"threads/cgroup.procs": "", "threads/below/cgroup.procs": "",
	}
}

func TestFaultsOfFiles(t *testing.T) {
	type check func(c *snapshot.Cgroup) bool
	noStat := func(c *snapshot.Cgroup) bool { return c.Stat.IsZero() && c.Usage == snapshot.Of(10) }
	noUsage := func(c *snapshot.Cgroup) bool { return c.Usage.IsAbsent() && len(c.Stat.Values) == 2 }
	for _, tt := range []struct {
		name, file, content string // without content the file is removed
		ok                  check  // of /pod/a
		err                 string // empty for none
	}{
		{"stat missing", "memory.stat", "", noStat, "no such file or directory"},
		{"stat empty", "memory.stat", " ", noStat, "the file is empty"},
		{"stat cut off", "memory.stat", "anon 7\nfile 12", func(c *snapshot.Cgroup) bool {
			v, ok := c.Stat.Get("anon")
			_, cut := c.Stat.Get("file")
			return v == 7 && ok && !cut
		}, "the file ends within a line; that line is left out"},
		{"stat binary", "memory.stat", "\x7fELF\x00\x01\n\xff\n", noStat, "some lines are malformed; they are left out"},
		{"stat huge", "memory.stat", strings.Repeat("anon 1\n", 200_000), noStat, "file too large"},
		{"usage missing", "memory.current", "", noUsage, ""},
		{"usage empty", "memory.current", " ", noUsage, "the file is empty"},
		{"usage negative", "memory.current", "-1\n", noUsage, "some lines are malformed; they are left out"},
		{"limit missing", "memory.max", "", func(c *snapshot.Cgroup) bool { return c.Max.IsAbsent() }, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			tree := savedNode()
			materialise(t, dir, tree)
			r := open(t, Hierarchy{Mode: snapshot.V2, Dir: dir, Copy: true}, Options{SlowEvery: 1})
			_, errs := sweep(t, r)
			if len(errs) > 0 {
				t.Fatalf("errors before: %v", errs)
			}
			path := "pod/a/" + tt.file
			if tt.content == "" {
				if err := os.Remove(filepath.Join(dir, path)); err != nil {
					t.Fatal(err)
				}
			} else {
				materialise(t, dir, map[string]string{path: strings.TrimPrefix(tt.content, " ")})
			}
			for range 2 {
				cgroups, errs := sweep(t, r)
				if got, want := paths(cgroups), "/ /pod /pod/a /pod/b"; got != want {
					t.Fatalf("cgroups %s, want %s", got, want)
				}
				if !tt.ok(cgroups["/pod/a"]) {
					t.Errorf("got %+v", cgroups["/pod/a"])
				}
				if d := differences(t, filepath.Join(dir, "pod/b"), snapshot.V2, cgroups["/pod/b"]); len(d) > 0 {
					t.Errorf("its neighbour: %v", d)
				}
				switch {
				case tt.err == "" && len(errs) > 0:
					t.Errorf("errors %v, want none", errs)
				case tt.err != "" && (len(errs) != 1 || errs[0].Source != filepath.Join(dir, path) || errs[0].Error != tt.err || errs[0].Hint == ""):
					t.Errorf("errors %v, want one of %s: %s", errs, path, tt.err)
				}
			}
			materialise(t, dir, map[string]string{path: tree[path]})
			cgroups, errs := sweep(t, r)
			if d := differences(t, filepath.Join(dir, "pod/a"), snapshot.V2, cgroups["/pod/a"]); len(d) > 0 || len(errs) > 0 {
				t.Errorf("mended: %v %v", d, errs)
			}
		})
	}
}

func TestCopyChanges(t *testing.T) {
	dir := t.TempDir()
	materialise(t, dir, savedNode())
	r := open(t, Hierarchy{Mode: snapshot.V2, Dir: dir, Copy: true}, Options{})
	want := func(want string, appeared, vanished, without int) map[string]*snapshot.Cgroup {
		t.Helper()
		cgroups, errs := sweep(t, r)
		s := r.Stats()
		if got := paths(cgroups); got != want || s.Appeared != appeared || s.Vanished != vanished || s.WithoutMemory != without {
			t.Fatalf("%s, %+v; want %s, %d appeared, %d vanished, %d without", got, s, want, appeared, vanished, without)
		}
		if len(errs) > 0 || s.OpenFiles != 1 {
			t.Errorf("errors %v, %d open files", errs, s.OpenFiles)
		}
		return cgroups
	}
	want("/ /pod /pod/a /pod/b", 0, 0, 1)
	materialise(t, dir, map[string]string{"pod/c/memory.stat": "anon 1\n", "pod/c/memory.current": "1\n"})
	want("/ /pod /pod/a /pod/b /pod/c", 1, 0, 1)
	if err := os.RemoveAll(filepath.Join(dir, "pod/a")); err != nil {
		t.Fatal(err)
	}
	want("/ /pod /pod/b /pod/c", 1, 1, 1)
	// The same name again, as another folder.
	if err := os.Rename(filepath.Join(dir, "pod/b"), filepath.Join(dir, "pod/a")); err != nil {
		t.Fatal(err)
	}
	materialise(t, dir, map[string]string{"pod/b/memory.stat": "anon 1\n", "pod/b/memory.current": "77\n"})
	if c := want("/ /pod /pod/a /pod/b /pod/c", 3, 2, 1)["/pod/b"]; c.Usage != snapshot.Of(77) {
		t.Errorf("usage of the new one: %v", c.Usage)
	}
	if err := os.RemoveAll(filepath.Join(dir, "pod")); err != nil {
		t.Fatal(err)
	}
	want("/", 3, 6, 1)
	materialise(t, dir, map[string]string{"threads/memory.stat": "anon 1\n"})
	want("/ /threads", 4, 6, 1)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	wantError(t, r.Sweep(), ErrNotMounted, dir)
}

func TestFolderWithoutRights(t *testing.T) {
	need.Root(t)
	dir := t.TempDir()
	for d := dir; d != os.TempDir(); d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	materialise(t, dir, savedNode())
	r := open(t, Hierarchy{Mode: snapshot.V2, Dir: dir, Copy: true}, Options{SlowEvery: 1 << 30})
	readable := func() {
		cgroups, errs := sweep(t, r)
		if d := differences(t, filepath.Join(dir, "pod/a"), snapshot.V2, cgroups["/pod/a"]); len(d) > 0 || len(errs) > 0 {
			t.Errorf("differs: %v, errors %v", d, errs)
		}
	}
	readable()
	if err := os.Chmod(filepath.Join(dir, "pod/a"), 0); err != nil {
		t.Fatal(err)
	}
	asNobody(t, func() {
		for range 5 { // until the one turn of the slow files is over
			cgroups, errs := sweep(t, r)
			a := cgroups["/pod/a"]
			if a == nil || !a.Usage.IsAbsent() || !a.Stat.IsZero() || !a.Max.IsAbsent() || cgroups["/pod/b"].Usage != snapshot.Of(10) {
				t.Errorf("a: %+v, b: %+v", a, cgroups["/pod/b"])
			}
			if len(errs) != 1 || errs[0].Source != filepath.Join(dir, "pod/a") || errs[0].Hint != rightsHint {
				t.Errorf("errors: %v", errs)
			}
		}
	})
	readable()
}

// TestRootWithoutFiles has what Linux had before 5.8: nothing of the memory controller at the root.
func TestRootWithoutFiles(t *testing.T) {
	dir := t.TempDir()
	tree := savedNode()
	delete(tree, "memory.stat")
	materialise(t, dir, tree)
	cgroups, errs := sweep(t, open(t, Hierarchy{Mode: snapshot.V2, Dir: dir, Copy: true}, Options{}))
	if got, want := paths(cgroups), "/ /pod /pod/a /pod/b"; got != want || !cgroups["/"].Stat.IsZero() || len(errs) > 0 {
		t.Errorf("cgroups %s, root %+v, errors %v", got, cgroups["/"], errs)
	}
}

// TestFaultGoes has a file's fault go with the file.
func TestFaultGoes(t *testing.T) {
	dir := t.TempDir()
	materialise(t, dir, savedNode())
	materialise(t, dir, map[string]string{"pod/a/memory.max": "many\n"})
	r := open(t, Hierarchy{Mode: snapshot.V2, Dir: dir, Copy: true}, Options{SlowEvery: 1})
	if _, errs := sweep(t, r); len(errs) != 1 {
		t.Errorf("errors: %v, want one", errs)
	}
	if err := os.Remove(filepath.Join(dir, "pod/a/memory.max")); err != nil {
		t.Fatal(err)
	}
	if _, errs := sweep(t, r); len(errs) > 0 {
		t.Errorf("errors: %v", errs)
	}
}

func TestSnapshotStays(t *testing.T) {
	dir := t.TempDir()
	materialise(t, dir, savedNode())
	r := open(t, Hierarchy{Mode: snapshot.V2, Dir: dir, Copy: true}, Options{})
	before, _ := sweep(t, r)
	materialise(t, dir, map[string]string{"pod/a/memory.stat": "anon 7\nfile 7\n"})
	after, _ := sweep(t, r)
	was, _ := before["/pod/a"].Stat.Get("anon")
	is, _ := after["/pod/a"].Stat.Get("anon")
	if was != 9 || is != 7 {
		t.Errorf("anon was %d and is %d, want 9 and 7", was, is)
	}
	if keys := before["/pod/a"].Stat.Keys; keys != after["/pod/b"].Stat.Keys {
		t.Error("two cgroups with the same keys have layouts of their own")
	}
}
