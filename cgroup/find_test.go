package cgroup

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/memrecon/memrecon/internal/need"
	"github.com/memrecon/memrecon/snapshot"
)

// materialise writes a tree of files: names that end with a slash are folders, the others files with their content.
func materialise(t *testing.T, dir string, tree map[string]string) {
	t.Helper()
	for name, content := range tree {
		file := filepath.Join(dir, name)
		if name[len(name)-1] == '/' {
			if err := os.MkdirAll(file, 0o755); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func TestFindInCopies(t *testing.T) {
	for _, tt := range []struct {
		name string
		tree map[string]string
		want Hierarchy // Dir from the folder of the copy
		err  error
		at   string
	}{
		{"v2", map[string]string{"cgroup.controllers": "cpu memory pids\n", "memory.stat": "anon 1\n"},
			Hierarchy{Mode: snapshot.V2, Dir: "."}, nil, ""},
		{"v2 without its controllers", map[string]string{"memory.stat": "anon 1\n"},
			Hierarchy{Mode: snapshot.V2, Dir: "."}, nil, ""},
		{"v1", map[string]string{"memory/memory.stat": "cache 1\n", "cpu/cpu.shares": "1024\n"},
			Hierarchy{Mode: snapshot.V1, Dir: "memory"}, nil, ""},
		{"hybrid", map[string]string{"memory/memory.stat": "cache 1\n", "unified/cgroup.controllers": "\n"},
			Hierarchy{Mode: snapshot.Hybrid, Dir: "memory"}, nil, ""},
		{"v2 beside v1", map[string]string{"cpu/cpu.shares": "1024\n", "unified/cgroup.controllers": "memory\n"},
			Hierarchy{Mode: snapshot.V2, Dir: "unified"}, nil, ""},
		{"v2 without memory", map[string]string{"cgroup.controllers": "cpu memory_not\n"},
			Hierarchy{}, ErrNoController, "cgroup.controllers"},
		{"neither has memory", map[string]string{"cpu/cpu.shares": "1024\n", "unified/cgroup.controllers": "\n"},
			Hierarchy{}, ErrNoController, "unified/cgroup.controllers"},
		{"an empty folder", map[string]string{"./": ""}, Hierarchy{}, ErrNotMounted, "."},
		{"nothing", nil, Hierarchy{}, ErrNotMounted, "."},
	} {
		t.Run(tt.name, func(t *testing.T) {
			sysfs := t.TempDir()
			top := filepath.Join(sysfs, "fs", "cgroup")
			materialise(t, top, tt.tree)
			got, err := Find(sysfs)
			if tt.err != nil {
				wantError(t, err, tt.err, filepath.Join(top, tt.at))
				return
			}
			tt.want.Dir, tt.want.Copy = filepath.Join(top, tt.want.Dir), true
			if got != tt.want || err != nil {
				t.Errorf("%+v, %v, want %+v", got, err, tt.want)
			}
		})
	}
}

func TestFindWithoutRights(t *testing.T) {
	need.Root(t)
	sysfs := t.TempDir()
	memory := filepath.Join(sysfs, "fs", "cgroup", "memory")
	materialise(t, memory, map[string]string{"memory.stat": "cache 1\n"})
	open := func(dir string, mode os.FileMode) {
		if err := os.Chmod(dir, mode); err != nil {
			t.Fatal(err)
		}
	}
	for dir := memory; dir != filepath.Dir(filepath.Dir(sysfs)); dir = filepath.Dir(dir) {
		open(dir, 0o755)
	}
	open(memory, 0)
	asNobody(t, func() {
		_, err := Find(sysfs)
		wantError(t, err, fs.ErrPermission, memory)
		_, err = Open(Hierarchy{Mode: snapshot.V1, Dir: memory, Copy: true}, Options{})
		wantError(t, err, fs.ErrPermission, memory)
	})
}

// wantError holds an *Error that names the place and says what to do.
func wantError(t *testing.T, err, want error, path string) {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) || !errors.Is(err, want) || e.Path != path || e.Hint == "" {
		t.Errorf("error %#v, want %v at %s with a hint", err, want, path)
	}
}

func TestRealFind(t *testing.T) {
	dir := need.MemoryCgroup(t)
	h, err := Find("/sys")
	if err != nil {
		t.Fatal(err)
	}
	_, err = os.Stat(filepath.Join(dir, "memory.usage_in_bytes"))
	if v1 := err == nil; h.Dir != dir || h.Copy || (h.Mode.Files() == snapshot.V1) != v1 {
		t.Errorf("%+v, want the hierarchy at %s", h, dir)
	}
	_, err = os.Stat("/sys/fs/cgroup/unified/cgroup.controllers")
	if unified := err == nil; h.Mode.Files() == snapshot.V1 && unified != (h.Mode == snapshot.Hybrid) {
		t.Errorf("%+v, and v2 beside it: %v", h, unified)
	}
}
