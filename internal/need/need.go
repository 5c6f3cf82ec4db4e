// Package need says what a test needs of the machine it runs on. Where that is missing the test is skipped, and the reason
// says what to install or do; where MEMRECON_REQUIRE_ALL is set, as in CI, it fails instead, so that no test goes missing
// without anyone noticing.
package need

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// RequireAll is the environment variable that, when not empty, makes every missing need a failure.
const RequireAll = "MEMRECON_REQUIRE_ALL"

// Missing ends a test that lacks something: why says what, and what to do about it.
func Missing(tb testing.TB, why string) {
	tb.Helper()
	if os.Getenv(RequireAll) != "" {
		tb.Fatalf("%s (%s is set, so this is a failure)", why, RequireAll)
	}
	tb.Skip(why)
}

// Root is the need of a test that only root can run.
func Root(tb testing.TB) {
	tb.Helper()
	if os.Geteuid() != 0 {
		Missing(tb, "needs root: run make test as root")
	}
}

// Program is the need of an installed program; it returns its path.
func Program(tb testing.TB, name string) string {
	tb.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		Missing(tb, "needs the program "+name+": make deps installs it on Debian")
	}
	return path
}

// Kernel is the need of a test that boots a guest: QEMU, and a kernel in the .cache of the project's root, whose path it returns.
func Kernel(tb testing.TB, root string) string {
	tb.Helper()
	Program(tb, "qemu-system-x86_64")
	path := filepath.Join(root, ".cache", "vmlinuz")
	if _, err := os.Stat(path); err != nil {
		Missing(tb, "needs a kernel to boot: make deps downloads one")
	}
	return path
}

// Build builds a program of this module, static as a guest needs it, and returns its path. A test that starts a program wants the one of
// now.
func Build(tb testing.TB, dir string) string {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "program")
	cmd := exec.Command("go", "build", "-buildvcs=false", "-o", path, dir)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		tb.Fatalf("go build %s: %v\n%s", dir, err, out)
	}
	return path
}

// MemoryCgroup is the need of the right to make cgroups with the memory controller. It returns the folder they go into, the
// root of the hierarchy: /sys/fs/cgroup/memory where the controller is on cgroup v1 (hybrid hosts too), /sys/fs/cgroup where
// it is on v2. A test names its cgroups memrecon-..., directly in that folder, and removes them on every end.
func MemoryCgroup(tb testing.TB) string {
	tb.Helper()
	Root(tb)
	dir := memoryHierarchy("/sys/fs/cgroup")
	if dir == "" {
		Missing(tb, "needs the memory controller at /sys/fs/cgroup: mount cgroup v2 or v1 there, and boot without cgroup_disable=memory")
	}
	const writable = 2 // W_OK of access(2); unlike the folder's mode it knows read-only mounts, as containers have them
	if err := syscall.Access(dir, writable); err != nil {
		Missing(tb, "needs to make cgroups in "+dir+": "+err.Error()+"; in a container, run it privileged")
	}
	return dir
}

// Cgroup makes a cgroup of the test's own, named memrecon-NAME-PID, and removes it at the test's end. It returns its path from the
// root of the hierarchy and its folder.
func Cgroup(tb testing.TB, name string) (path, dir string) {
	tb.Helper()
	path = "/memrecon-" + name + "-" + strconv.Itoa(os.Getpid())
	dir = filepath.Join(MemoryCgroup(tb), path)
	if err := os.Mkdir(dir, 0o755); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		for range 100 { // a process may still be on its way out of it
			if err := os.Remove(dir); err == nil || errors.Is(err, os.ErrNotExist) {
				return
			}
			time.Sleep(50 * time.Millisecond)
		}
		tb.Errorf("%s stays behind", dir)
	})
	return path, dir
}

// memoryHierarchy is the root of the hierarchy that carries the memory controller and hands it down to new cgroups, "" where
// there is none.
func memoryHierarchy(root string) string {
	v1 := filepath.Join(root, "memory")
	if _, err := os.Stat(filepath.Join(v1, "memory.usage_in_bytes")); err == nil {
		return v1
	}
	enabled, err := os.ReadFile(filepath.Join(root, "cgroup.subtree_control"))
	if err == nil && strings.Contains(" "+string(enabled), " memory") {
		return root
	}
	return ""
}
