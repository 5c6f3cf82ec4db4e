package main

import (
	"errors"
	"io/fs"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/containerd/cgroups/v3/cgroup1"
	"github.com/containerd/cgroups/v3/cgroup2"
	"github.com/opencontainers/cgroups"
	ocfs "github.com/opencontainers/cgroups/fs"
	ocfs2 "github.com/opencontainers/cgroups/fs2"
	"golang.org/x/sys/unix"

	"github.com/memrecon/memrecon/cgroup"
	"github.com/memrecon/memrecon/snapshot"
)

func isV2(h cgroup.Hierarchy) bool { return h.Mode.Files() == snapshot.V2 }

// sweptFiles are the files that memrecon reads of each cgroup in each sweep.
func sweptFiles(h cgroup.Hierarchy) []string {
	if isV2(h) {
		return []string{"memory.stat", "memory.current", "memory.events"}
	}
	return []string{"memory.stat", "memory.usage_in_bytes", "memory.kmem.usage_in_bytes", "memory.oom_control"}
}

// floor is the least that reading can cost: one pread for each file, on descriptors that stay open.
type floor struct {
	fds    []int
	buffer [64 << 10]byte
}

func openFloor(t *tree) (*floor, error) {
	f := &floor{}
	for _, dir := range t.dirs {
		for _, name := range sweptFiles(t.hierarchy) {
			fd, err := unix.Open(filepath.Join(dir, name), unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if errors.Is(err, unix.EMFILE) {
				return nil, errors.New("too few file descriptors for the floor: ulimit -n 100000")
			}
			if err != nil {
				return nil, &fs.PathError{Op: "open", Path: filepath.Join(dir, name), Err: err}
			}
			f.fds = append(f.fds, fd)
		}
	}
	return f, nil
}

func (f *floor) read() error {
	for _, fd := range f.fds {
		if _, err := unix.Pread(fd, f.buffer[:], 0); err != nil {
			return err
		}
	}
	return nil
}

func (f *floor) close() {
	for _, fd := range f.fds {
		_ = unix.Close(fd)
	}
}

// opencontainers reads the memory controller as the kubelet and cAdvisor do.
func opencontainers(t *tree) func() error {
	return func() error {
		for _, dir := range t.dirs {
			if isV2(t.hierarchy) {
				m, err := ocfs2.NewManager(&cgroups.Cgroup{Resources: &cgroups.Resources{}}, dir)
				if err != nil {
					return err
				}
				if _, err := m.Stats(&cgroups.StatsOptions{Controllers: cgroups.Memory}); err != nil {
					return err
				}
				continue
			}
			var m ocfs.MemoryGroup
			if err := m.GetStats(dir, cgroups.NewStats()); err != nil {
				return err
			}
		}
		return nil
	}
}

// newContainerd reads with containerd's library, on cgroups that it has loaded before.
func newContainerd(t *tree) (func() error, error) {
	if isV2(t.hierarchy) {
		var managers []*cgroup2.Manager
		for _, dir := range t.dirs {
			m, err := cgroup2.Load(strings.TrimPrefix(dir, t.hierarchy.Dir))
			if err != nil {
				return nil, err
			}
			managers = append(managers, m)
		}
		return func() error {
			for _, m := range managers {
				if _, err := m.Stat(); err != nil {
					return err
				}
			}
			return nil
		}, nil
	}
	memory := func() ([]cgroup1.Subsystem, error) {
		return []cgroup1.Subsystem{cgroup1.NewMemory(filepath.Dir(t.hierarchy.Dir))}, nil
	}
	var loaded []cgroup1.Cgroup
	for _, dir := range t.dirs {
		c, err := cgroup1.Load(cgroup1.StaticPath(strings.TrimPrefix(dir, t.hierarchy.Dir)), cgroup1.WithHierarchy(memory))
		if err != nil {
			return nil, err
		}
		loaded = append(loaded, c)
	}
	return func() error {
		for _, c := range loaded {
			if _, err := c.Stat(cgroup1.IgnoreNotExist); err != nil {
				return err
			}
		}
		return nil
	}, nil
}

func mallocs() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.Mallocs
}
