package main

import (
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/containerd/cgroups/v3/cgroup1"
	"github.com/containerd/cgroups/v3/cgroup2"
	"github.com/opencontainers/cgroups"
	ocfs "github.com/opencontainers/cgroups/fs"
	ocfs2 "github.com/opencontainers/cgroups/fs2"
	"golang.org/x/sys/unix"

	"github.com/memrecon/memrecon/cgroup"
	"github.com/memrecon/memrecon/collector"
	"github.com/memrecon/memrecon/flight"
	"github.com/memrecon/memrecon/snapshot"
)

// contenders are the ways to read a tree; open prepares one, and gives what reads the tree once.
var contenders = []struct {
	id, name string
	slow     bool // fewer rounds must do
	open     func(*tree) (func() error, error)
}{
	theFloor:   {id: "floor", name: "floor: pread of the same files, nothing parsed", open: openFloor},
	theSweep:   {id: "sweep", name: "memrecon: sweep", open: openSweep},
	theRound:   {id: "round", name: "memrecon: sweep, host, snapshot, sheet, publish", open: openRound},
	theRecord:  {id: "record", name: "memrecon: flight recorder, what a round adds", open: openRecord},
	theDaemon:  {id: "containerd", name: "containerd/cgroups Stat", slow: true, open: openContainerd},
	theKubelet: {id: "opencontainers", name: "opencontainers/cgroups (kubelet, cAdvisor)", slow: true, open: openOpencontainers},
}

// Their places.
const (
	theFloor = iota
	theSweep
	theRound
	theRecord
	theDaemon
	theKubelet
)

func isV2(h cgroup.Hierarchy) bool { return h.Mode.Files() == snapshot.V2 }

// openFloor is the least that reading can cost: one pread for each file that memrecon reads in each sweep, on descriptors
// that stay open.
func openFloor(t *tree) (func() error, error) {
	names := []string{"memory.stat", "memory.usage_in_bytes", "memory.kmem.usage_in_bytes"}
	if isV2(t.hierarchy) {
		names = []string{"memory.stat", "memory.current", "memory.events"}
	}
	var paths []string
	for _, dir := range t.dirs {
		for _, name := range names {
			paths = append(paths, filepath.Join(dir, name))
		}
	}
	var fds []int
	for _, path := range paths {
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, &fs.PathError{Op: "open", Path: path, Err: err}
		}
		fds = append(fds, fd)
	}
	buffer := make([]byte, 16<<10)
	return func() error {
		for _, fd := range fds {
			if _, err := unix.Pread(fd, buffer, 0); err != nil {
				return err
			}
		}
		return nil
	}, nil
}

func openSweep(t *tree) (func() error, error) {
	r, err := cgroup.Open(t.hierarchy, cgroup.Options{})
	if err != nil {
		return nil, err
	}
	return r.Sweep, nil
}

// openRound is all that the agent does each second.
func openRound(*tree) (func() error, error) {
	c, err := collector.Open(collector.Config{Procfs: "/proc", Sysfs: "/sys"})
	if err != nil {
		return nil, err
	}
	return func() error { c.Collect(); return nil }, nil
}

// openRecord is what the flight recorder takes of a round: the sheet is that of one.
func openRecord(*tree) (func() error, error) {
	c, err := collector.Open(collector.Config{Procfs: "/proc", Sysfs: "/sys"})
	if err != nil {
		return nil, err
	}
	defer func() { _ = c.Close() }()
	sheet := c.Collect().Sheet
	r := flight.NewRecorder(flight.Options{Cgroups: len(sheet.Rows)})
	return func() error { r.Record(sheet); return nil }, nil
}

// openOpencontainers reads the memory controller as the kubelet and cAdvisor do: a manager for each cgroup, which is kept.
func openOpencontainers(t *tree) (func() error, error) {
	managers := make([]cgroups.Manager, len(t.dirs))
	for i, dir := range t.dirs {
		var err error
		config := &cgroups.Cgroup{Resources: &cgroups.Resources{}}
		if isV2(t.hierarchy) {
			managers[i], err = ocfs2.NewManager(config, dir)
		} else {
			managers[i], err = ocfs.NewManager(config, map[string]string{"memory": dir})
		}
		if err != nil {
			return nil, err
		}
	}
	return func() error {
		for _, m := range managers {
			if _, err := m.Stats(&cgroups.StatsOptions{Controllers: cgroups.Memory}); err != nil {
				return err
			}
		}
		return nil
	}, nil
}

// openContainerd reads with containerd's library, on cgroups that it has loaded before.
func openContainerd(t *tree) (func() error, error) {
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
