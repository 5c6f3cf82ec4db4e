// Package cgroup reads the memory hierarchy of a node: which layout it has (v1, v2, hybrid), every cgroup in it with every
// memory file that the snapshot keeps, again and again without allocating, and whose a cgroup is by its path. It knows files;
// what the figures mean is not its business.
package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/memrecon/memrecon/snapshot"
)

// Hierarchy is where the memory controller is.
type Hierarchy struct {
	Mode snapshot.Mode
	// Dir is the folder of the hierarchy's root.
	Dir string
	// Copy tells that these are plain files of a saved node and no cgroup file system.
	Copy bool
}

// Error is a hierarchy that can't be read.
type Error struct {
	Path string
	Err  error
	// Hint is what to do about it.
	Hint string
}

func (e *Error) Error() string { return fmt.Sprintf("%s: %v", e.Path, e.Err) }

// Unwrap returns Err.
func (e *Error) Unwrap() error { return e.Err }

// What Find's errors wrap where it is not the operating system's.
var (
	ErrNotMounted   = errors.New("no cgroup hierarchy is mounted here")
	ErrNoController = errors.New("the memory controller is not enabled")
)

// Find tells where the memory controller is, under sysfs (as a rule /sys). It is told by the file systems' types; in a copy
// in plain files by what is there. Errors are *Error.
func Find(sysfs string) (Hierarchy, error) {
	top := filepath.Join(sysfs, "fs", "cgroup")
	kind, err := fsType(top)
	if err != nil {
		hint := "Mount cgroup2 there, or say with --path.sysfs where the host's /sys is."
		if errors.Is(err, fs.ErrPermission) {
			hint = "Run memrecon as a user who may list it."
		}
		return Hierarchy{}, &Error{top, err, hint}
	}
	if kind == unix.CGROUP2_SUPER_MAGIC {
		return onV2(top, false)
	}
	// A tmpfs with one mount for each v1 controller; on hybrid hosts v2 is mounted beside them.
	memory, unified := filepath.Join(top, "memory"), filepath.Join(top, "unified")
	v1, _ := fsType(memory)
	v2, _ := fsType(unified)
	switch {
	case v1 == unix.CGROUP_SUPER_MAGIC && v2 == unix.CGROUP2_SUPER_MAGIC:
		return Hierarchy{Mode: snapshot.Hybrid, Dir: memory}, nil
	case v1 == unix.CGROUP_SUPER_MAGIC:
		return Hierarchy{Mode: snapshot.V1, Dir: memory}, nil
	case v2 == unix.CGROUP2_SUPER_MAGIC:
		return onV2(unified, false)
	}
	return saved(top)
}

// saved finds the hierarchy in a copy.
func saved(top string) (Hierarchy, error) {
	memory := filepath.Join(top, "memory")
	switch {
	case exists(filepath.Join(top, "cgroup.controllers")), exists(filepath.Join(top, "memory.stat")):
		return onV2(top, true)
	case exists(filepath.Join(memory, "memory.stat")), exists(filepath.Join(memory, "memory.usage_in_bytes")):
		if exists(filepath.Join(top, "unified", "cgroup.controllers")) {
			return Hierarchy{Mode: snapshot.Hybrid, Dir: memory, Copy: true}, nil
		}
		return Hierarchy{Mode: snapshot.V1, Dir: memory, Copy: true}, nil
	case exists(filepath.Join(top, "unified", "cgroup.controllers")):
		return onV2(filepath.Join(top, "unified"), true)
	}
	entries, err := os.ReadDir(top)
	if err != nil {
		return Hierarchy{}, &Error{top, err, "Run memrecon as a user who may list it."}
	}
	if len(entries) > 0 && exists(filepath.Join(top, "cpu")) {
		return Hierarchy{}, &Error{top, ErrNoController, noControllerHint}
	}
	return Hierarchy{}, &Error{top, ErrNotMounted, "Mount cgroup2 there, or say with --path.sysfs where the host's /sys is."}
}

const noControllerHint = "Take cgroup_disable=memory off the kernel's command line (on Raspberry Pi OS add cgroup_enable=memory) and reboot."

// onV2 checks that a cgroup v2 hierarchy has the memory controller.
func onV2(dir string, isCopy bool) (Hierarchy, error) {
	path := filepath.Join(dir, "cgroup.controllers")
	b, err := os.ReadFile(path)
	if err != nil && !(isCopy && errors.Is(err, fs.ErrNotExist)) {
		return Hierarchy{}, &Error{path, err, "Run memrecon as a user who may read it."}
	}
	if err == nil {
		found := false
		for _, controller := range strings.Fields(string(b)) {
			found = found || controller == "memory"
		}
		if !found {
			return Hierarchy{}, &Error{path, ErrNoController, noControllerHint}
		}
	}
	return Hierarchy{Mode: snapshot.V2, Dir: dir, Copy: isCopy}, nil
}

func fsType(path string) (int64, error) {
	var st unix.Statfs_t
	for {
		err := unix.Statfs(path, &st)
		if err == nil {
			return int64(st.Type), nil //nolint:unconvert // int32 on some platforms
		}
		if !errors.Is(err, unix.EINTR) {
			return 0, err
		}
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
