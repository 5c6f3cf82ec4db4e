package need

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// recorder is a testing.TB that notes how a test ends, and ends it there.
type recorder struct {
	testing.TB
	ended string
}

func (*recorder) Helper()                 {}
func (r *recorder) Skip(...any)           { r.ended = "skipped"; runtime.Goexit() }
func (r *recorder) Fatalf(string, ...any) { r.ended = "failed"; runtime.Goexit() }

func TestMissing(t *testing.T) {
	for _, tt := range []struct{ requireAll, want string }{
		{"", "skipped"},
		{"1", "failed"},
	} {
		t.Setenv(RequireAll, tt.requireAll)
		r := &recorder{TB: t}
		done := make(chan struct{})
		go func() {
			defer close(done)
			Program(r, "no-such-program")
		}()
		<-done
		if r.ended != tt.want {
			t.Errorf("%s=%q: a test without its program is %s, want %s", RequireAll, tt.requireAll, r.ended, tt.want)
		}
	}
}

func TestMemoryHierarchy(t *testing.T) {
	tests := []struct {
		name  string
		files map[string]string
		want  string
	}{
		{"v1", map[string]string{"memory/memory.usage_in_bytes": "1\n"}, "memory"},
		{"hybrid: v2 beside it carries no memory", map[string]string{
			"memory/memory.usage_in_bytes": "1\n", "unified/cgroup.subtree_control": "\n"}, "memory"},
		{"v2", map[string]string{"cgroup.subtree_control": "cpuset cpu io memory pids\n"}, "."},
		{"v2, memory alone", map[string]string{"cgroup.subtree_control": "memory\n"}, "."},
		{"v2, memory not handed down", map[string]string{"cgroup.controllers": "cpu memory\n", "cgroup.subtree_control": "cpu\n"}, ""},
		{"no cgroups", nil, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			root := t.TempDir()
			for name, content := range tt.files {
				path := filepath.Join(root, name)
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want := ""
			if tt.want != "" {
				want = filepath.Join(root, tt.want)
			}
			if got := memoryHierarchy(root); got != want {
				t.Errorf("memoryHierarchy() = %q, want %q", strings.TrimPrefix(got, root), tt.want)
			}
		})
	}
}
