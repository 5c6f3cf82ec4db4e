package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/memrecon/memrecon/snapshot"
)

// Hierarchy is where the memory controller's cgroups are.
type Hierarchy struct {
	Mode snapshot.Mode
	// Dir is the folder of the hierarchy's root cgroup.
	Dir string
	// Copy tells that these are the plain files of a saved node and no cgroup file system.
	Copy bool
}

// Error is a hierarchy that can't be read.
type Error struct {
	Path string
	// Err is ErrNotMounted, ErrNoController or the operating system's error.
	Err error
	// Hint is what to do about it.
	Hint string
}

func (e *Error) Error() string { return e.Path + ": " + e.Err.Error() }

// Unwrap returns Err.
func (e *Error) Unwrap() error { return e.Err }

// What an Error wraps where it is not the operating system's error.
var (
	ErrNotMounted   = errors.New("no cgroup file system is mounted here")
	ErrNoController = errors.New("the kernel's memory controller is not enabled here")
)

const (
	mountHint      = "Mount cgroup2 there, or say with --path.sysfs where the host's /sys is."
	controllerHint = "Take cgroup_disable=memory off the kernel's command line, or add cgroup_enable=memory, and reboot."
	rightsHint     = "Run memrecon as root, or as a user who may read it."
)

// Find tells where the memory controller is, given where sysfs is, as a rule /sys. The types of the file systems tell it; in
// a copy in plain files what is there does. An error is an *Error.
func Find(sysfs string) (Hierarchy, error) {
	top := filepath.Join(sysfs, "fs", "cgroup")
	memory, unified := filepath.Join(top, "memory"), filepath.Join(top, "unified")
	for _, dir := range []string{top, memory, unified} {
		_, err := os.ReadDir(dir)
		switch {
		case errors.Is(err, fs.ErrPermission):
			return Hierarchy{}, &Error{dir, err, rightsHint}
		case errors.Is(err, fs.ErrNotExist) && dir == top:
			return Hierarchy{}, &Error{dir, fmt.Errorf("%w: %w", ErrNotMounted, err), mountHint}
		}
	}
	// v1 mounts one hierarchy for each controller on a tmpfs, hybrid hosts v2 beside them. A controller is on one version only.
	switch v1, v2 := mounted(memory), mounted(unified); {
	case mounted(top) == snapshot.V2:
		return unifiedAt(top, false)
	case v1 == snapshot.V1 && v2 == snapshot.V2:
		return Hierarchy{Mode: snapshot.Hybrid, Dir: memory}, nil
	case v1 == snapshot.V1:
		return Hierarchy{Mode: snapshot.V1, Dir: memory}, nil
	case v2 == snapshot.V2:
		return unifiedAt(unified, false)
	case exists(top, "cgroup.controllers") || exists(top, "memory.stat"):
		return unifiedAt(top, true)
	case exists(memory, "memory.stat") && exists(unified, ""):
		return Hierarchy{Mode: snapshot.Hybrid, Dir: memory, Copy: true}, nil
	case exists(memory, "memory.stat"):
		return Hierarchy{Mode: snapshot.V1, Dir: memory, Copy: true}, nil
	case exists(unified, "cgroup.controllers"):
		return unifiedAt(unified, true)
	}
	entries, err := os.ReadDir(top)
	if err != nil {
		return Hierarchy{}, &Error{top, err, rightsHint}
	}
	for _, e := range entries {
		if mounted(filepath.Join(top, e.Name())) == snapshot.V1 {
			return Hierarchy{}, &Error{top, ErrNoController, controllerHint}
		}
	}
	return Hierarchy{}, &Error{top, ErrNotMounted, mountHint}
}

// unifiedAt is the v2 hierarchy at dir, where it has the memory controller.
func unifiedAt(dir string, isCopy bool) (Hierarchy, error) {
	file := filepath.Join(dir, "cgroup.controllers")
	controllers, err := os.ReadFile(file)
	switch {
	case err == nil && !slices.Contains(strings.Fields(string(controllers)), "memory"):
		return Hierarchy{}, &Error{file, ErrNoController, controllerHint}
	case err != nil && !(isCopy && errors.Is(err, fs.ErrNotExist)):
		return Hierarchy{}, &Error{file, err, rightsHint}
	}
	return Hierarchy{Mode: snapshot.V2, Dir: dir, Copy: isCopy}, nil
}

// mounted is the version of the cgroup file system at dir, empty where it is another file system.
func mounted(dir string) snapshot.Mode {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return ""
	}
	switch st.Type {
	case unix.CGROUP_SUPER_MAGIC:
		return snapshot.V1
	case unix.CGROUP2_SUPER_MAGIC:
		return snapshot.V2
	}
	return ""
}

func exists(dir, name string) bool {
	_, err := os.Lstat(filepath.Join(dir, name))
	return err == nil
}
