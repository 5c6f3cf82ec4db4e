package pressure

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/memrecon/memrecon/cgroup"
	"github.com/memrecon/memrecon/snapshot"
)

// prefix begins the names of all cgroups that stand for a run, right under the hierarchy's root.
const prefix = "memrecon-pressure-"

// tree is the cgroups of one run. Its top is locked (flock) as long as the run lives: the kernel gives the lock back however
// the run ends, so a top without a lock is a leftover, whichever PID namespace its run was in.
type tree struct {
	cgroup.Hierarchy // of the run alone
	// name is that of the top.
	name string
	lock *os.File
}

// newTree makes the cgroups of a plan with their limits, after it has removed what earlier runs left behind.
func newTree(h cgroup.Hierarchy, p *Plan) (*tree, error) {
	if h.Copy {
		return nil, fmt.Errorf("%s: these are plain files of a saved node; cgroups can only be made on a live one", h.Dir)
	}
	if err := removeLeftovers(h.Dir); err != nil {
		return nil, err
	}
	t, err := newTop(h)
	if err != nil {
		return nil, err
	}
	for i := range p.Cgroups {
		if err := t.make(&p.Cgroups[i]); err != nil {
			return nil, errors.Join(err, t.remove())
		}
	}
	return t, nil
}

// newTop makes the top and locks it. Between the two another start may take it for a leftover: then it makes one anew.
func newTop(h cgroup.Hierarchy) (*tree, error) {
	for {
		dir, err := os.MkdirTemp(h.Dir, prefix)
		if err != nil {
			return nil, denied(err)
		}
		lock, err := os.Open(dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err == nil {
			if _, err := os.Stat(dir); err == nil {
				h.Dir = dir
				return &tree{Hierarchy: h, name: filepath.Base(dir), lock: lock}, nil
			}
		}
		_ = lock.Close()
	}
}

// denied says what is missing to make cgroups.
func denied(err error) error {
	switch {
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: making cgroups takes root, or a user whom this folder was given to", err)
	case errors.Is(err, unix.EROFS):
		return fmt.Errorf("%w: the cgroups of this container are read-only: run it privileged, or on the host", err)
	}
	return err
}

// make makes a cgroup, the top excepted, and sets its limit. As the kubelet does, none may swap, and an OOM kill takes all
// processes of a container.
func (t *tree) make(c *PlannedCgroup) error {
	dir := t.dir(c.Path)
	if c.Level != NodeLevel {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
	}
	if t.Mode == snapshot.V2 {
		return t.setV2(dir, c)
	}
	if n, ok := c.Limit.Get(); ok {
		if err := write(dir, "memory.limit_in_bytes", strconv.FormatUint(n, 10)); err != nil {
			return err
		}
	}
	// Not a limit of memsw, which would be hit in place of memory's own and counted elsewhere. With 0 reclaim at a limit never
	// swaps on v1.
	return optional(write(dir, "memory.swappiness", "0"))
}

func (t *tree) setV2(dir string, c *PlannedCgroup) error {
	if _, err := os.Stat(filepath.Join(dir, "memory.max")); err != nil {
		return fmt.Errorf("the memory controller is not enabled for new cgroups: echo +memory > %s/cgroup.subtree_control as root",
			filepath.Dir(dir))
	}
	if n, ok := c.Limit.Get(); ok {
		if err := write(dir, "memory.max", strconv.FormatUint(n, 10)); err != nil {
			return err
		}
	}
	if err := optional(write(dir, "memory.swap.max", "0")); err != nil {
		return err
	}
	if c.Level == ContainerLevel {
		return optional(write(dir, "memory.oom.group", "1")) // Linux 4.19
	}
	return write(dir, "cgroup.subtree_control", "+memory")
}

// optional is an error unless it is that the kernel has no such file: swap and its account can be left out of it.
func optional(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// write writes a cgroup's file, which is there if the kernel has it: none is made.
func write(dir, file, value string) error {
	f, err := os.OpenFile(filepath.Join(dir, file), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteString(value)
	return err
}

func (t *tree) dir(path string) string { return filepath.Join(t.Dir, path) }

// remove ends what runs in the tree and removes it.
func (t *tree) remove() error {
	defer t.lock.Close()
	return removeAll(t.Dir)
}

// removeLeftovers removes the trees of runs that were killed.
func removeLeftovers(root string) error {
	tops, err := filepath.Glob(filepath.Join(root, prefix+"*"))
	if err != nil {
		return err
	}
	var errs []error
	for _, dir := range tops {
		lock, err := os.Open(dir)
		if err != nil {
			continue // its run has just removed it, or it is another user's
		}
		if unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			errs = append(errs, removeAll(dir))
		}
		_ = lock.Close()
	}
	return errors.Join(errs...)
}

// removeAll kills what runs in a cgroup and in those below it, and removes them. The processes of a run end with it, but not
// within the same instant, and a cgroup is busy until its last process is gone.
func removeAll(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeAll(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	const patience, pause = 10 * time.Second, 10 * time.Millisecond
	for began := time.Now(); ; time.Sleep(pause) {
		killAll(dir)
		err := os.Remove(dir)
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) || time.Since(began) > patience {
			return fmt.Errorf("a cgroup stays behind: %w; remove it with rmdir", err)
		}
	}
}

// killAll kills the processes of a cgroup itself. Those of another PID namespace are listed as 0 and left alone.
func killAll(dir string) {
	pids, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return
	}
	for pid := range strings.FieldsSeq(string(pids)) {
		if n, err := strconv.Atoi(pid); err == nil && n > 0 {
			_ = unix.Kill(n, unix.SIGKILL) // it may have ended by now
		}
	}
}
