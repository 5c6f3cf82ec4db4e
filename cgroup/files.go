package cgroup

import (
	"github.com/memrecon/memrecon/snapshot"
)

// file is one of the files that a cgroup has, and where its content goes.
type file struct {
	name string
	path []byte // name for the kernel, with its NUL
	// parse puts the content into the cgroup; without any it makes the cgroup's part absent.
	parse func(*layouts, *snapshot.Cgroup, []byte) flaw
}

// files are the files of one kind of hierarchy.
type files struct {
	// The first fast ones are read in every sweep. The first of all is the usage, and the last of the fast ones memory.stat:
	// every cgroup that has the memory controller has it, so that reading it proves that the cgroup was there for the others.
	all  []file
	fast int
}

// The largest number of files, and of fast ones, that a hierarchy has.
const (
	maxFiles = 14
	maxFast  = 3
)

func filesOf(mode snapshot.Mode) files {
	if mode.Files() == snapshot.V1 {
		return files{fast: 3, all: []file{
			value("memory.usage_in_bytes", func(c *snapshot.Cgroup) *snapshot.Value { return &c.Usage }),
			value("memory.kmem.usage_in_bytes", func(c *snapshot.Cgroup) *snapshot.Value { return &c.KernelUsage }),
			stat("memory.stat", func(c *snapshot.Cgroup) *snapshot.Stat { return &c.Stat }),

			stat("memory.oom_control", func(c *snapshot.Cgroup) *snapshot.Stat { return &c.OOMControl }),
			limit("memory.limit_in_bytes", func(c *snapshot.Cgroup) *snapshot.Value { return &c.Max }),
			limit("memory.soft_limit_in_bytes", func(c *snapshot.Cgroup) *snapshot.Value { return &c.SoftLimit }),
			value("memory.max_usage_in_bytes", func(c *snapshot.Cgroup) *snapshot.Value { return &c.Peak }),
			value("memory.memsw.usage_in_bytes", func(c *snapshot.Cgroup) *snapshot.Value { return &c.MemswUsage }),
			limit("memory.memsw.limit_in_bytes", func(c *snapshot.Cgroup) *snapshot.Value { return &c.MemswMax }),
			limit("memory.kmem.limit_in_bytes", func(c *snapshot.Cgroup) *snapshot.Value { return &c.KernelMax }),
			value("memory.kmem.tcp.usage_in_bytes", func(c *snapshot.Cgroup) *snapshot.Value { return &c.TCPUsage }),
			value("memory.failcnt", func(c *snapshot.Cgroup) *snapshot.Value { return &c.Failcnt }),
			value("memory.use_hierarchy", func(c *snapshot.Cgroup) *snapshot.Value { return &c.UseHierarchy }),
		}}
	}
	return files{fast: 3, all: []file{
		value("memory.current", func(c *snapshot.Cgroup) *snapshot.Value { return &c.Usage }),
		stat("memory.events", func(c *snapshot.Cgroup) *snapshot.Stat { return &c.Events }),
		stat("memory.stat", func(c *snapshot.Cgroup) *snapshot.Stat { return &c.Stat }),

		value("memory.max", func(c *snapshot.Cgroup) *snapshot.Value { return &c.Max }),
		value("memory.high", func(c *snapshot.Cgroup) *snapshot.Value { return &c.High }),
		value("memory.low", func(c *snapshot.Cgroup) *snapshot.Value { return &c.Low }),
		value("memory.min", func(c *snapshot.Cgroup) *snapshot.Value { return &c.Min }),
		value("memory.peak", func(c *snapshot.Cgroup) *snapshot.Value { return &c.Peak }),
		value("memory.swap.current", func(c *snapshot.Cgroup) *snapshot.Value { return &c.Swap }),
		value("memory.swap.max", func(c *snapshot.Cgroup) *snapshot.Value { return &c.SwapMax }),
		stat("memory.events.local", func(c *snapshot.Cgroup) *snapshot.Stat { return &c.EventsLocal }),
		value("memory.oom.group", func(c *snapshot.Cgroup) *snapshot.Value { return &c.OOMGroup }),
		newFile("memory.pressure", func(_ *layouts, c *snapshot.Cgroup, data []byte) (found flaw) {
			c.Pressure, found = parsePressure(data)
			return found
		}),
		newFile("cgroup.stat", func(_ *layouts, c *snapshot.Cgroup, data []byte) (found flaw) {
			c.DyingDescendants, found = parseKey(data, "nr_dying_descendants")
			return found
		}),
	}}
}

func newFile(name string, parse func(*layouts, *snapshot.Cgroup, []byte) flaw) file {
	return file{name: name, path: append([]byte(name), 0), parse: parse}
}

func value(name string, field func(*snapshot.Cgroup) *snapshot.Value) file {
	return newFile(name, func(_ *layouts, c *snapshot.Cgroup, data []byte) (found flaw) {
		*field(c), found = parseValue(data)
		return found
	})
}

func limit(name string, field func(*snapshot.Cgroup) *snapshot.Value) file {
	return newFile(name, func(_ *layouts, c *snapshot.Cgroup, data []byte) (found flaw) {
		*field(c), found = parseLimit(data)
		return found
	})
}

func stat(name string, field func(*snapshot.Cgroup) *snapshot.Stat) file {
	return newFile(name, func(l *layouts, c *snapshot.Cgroup, data []byte) flaw {
		return l.parseStat(field(c), data)
	})
}
