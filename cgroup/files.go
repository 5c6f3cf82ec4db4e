package cgroup

import (
	"github.com/memrecon/memrecon/snapshot"
)

// file is one file of a cgroup: its name, and where its content goes. Exactly one of value, keyed, key and pressure is set.
type file struct {
	name []byte // ends with a zero byte, as openat wants it
	// value is where the file's one number goes.
	value func(*snapshot.Cgroup) *snapshot.Value
	// isLimit tells that on v1 a huge number means no limit.
	isLimit bool
	// keyed is where a keyed file goes.
	keyed func(*snapshot.Cgroup) *snapshot.Stat
	// key is the one key of a keyed file that is kept, in value.
	key string
	// pressure is where a PSI file goes.
	pressure bool
}

// Name is the file's name without the zero byte.
func (f *file) Name() string { return string(f.name[:len(f.name)-1]) }

func number(name string, to func(*snapshot.Cgroup) *snapshot.Value) file {
	return file{name: append([]byte(name), 0), value: to}
}

func limit(name string, to func(*snapshot.Cgroup) *snapshot.Value) file {
	return file{name: append([]byte(name), 0), value: to, isLimit: true}
}

func keyed(name string, to func(*snapshot.Cgroup) *snapshot.Stat) file {
	return file{name: append([]byte(name), 0), keyed: to}
}

// maxFast is the most files that any layout reads in each sweep.
const maxFast = 4

// fileSet are the files of a layout: those read in each sweep, and those that are read now and then.
type fileSet struct{ fast, slow []file }

func (s *fileSet) all() []file { return append(append([]file{}, s.fast...), s.slow...) }

// filesOf are the files of the memory controller on v1 or v2.
func filesOf(mode snapshot.Mode) fileSet {
	stat := keyed("memory.stat", func(c *snapshot.Cgroup) *snapshot.Stat { return &c.Stat })
	if mode.Files() == snapshot.V1 {
		return fileSet{
			fast: []file{
				stat,
				number("memory.usage_in_bytes", func(c *snapshot.Cgroup) *snapshot.Value { return &c.Usage }),
				number("memory.kmem.usage_in_bytes", func(c *snapshot.Cgroup) *snapshot.Value { return &c.KernelUsage }),
				keyed("memory.oom_control", func(c *snapshot.Cgroup) *snapshot.Stat { return &c.OOMControl }),
			},
			slow: []file{
				limit("memory.limit_in_bytes", func(c *snapshot.Cgroup) *snapshot.Value { return &c.Max }),
				limit("memory.soft_limit_in_bytes", func(c *snapshot.Cgroup) *snapshot.Value { return &c.SoftLimit }),
				number("memory.max_usage_in_bytes", func(c *snapshot.Cgroup) *snapshot.Value { return &c.Peak }),
				number("memory.memsw.usage_in_bytes", func(c *snapshot.Cgroup) *snapshot.Value { return &c.MemswUsage }),
				limit("memory.memsw.limit_in_bytes", func(c *snapshot.Cgroup) *snapshot.Value { return &c.MemswMax }),
				limit("memory.kmem.limit_in_bytes", func(c *snapshot.Cgroup) *snapshot.Value { return &c.KernelMax }),
				number("memory.kmem.tcp.usage_in_bytes", func(c *snapshot.Cgroup) *snapshot.Value { return &c.TCPUsage }),
				number("memory.failcnt", func(c *snapshot.Cgroup) *snapshot.Value { return &c.Failcnt }),
				number("memory.use_hierarchy", func(c *snapshot.Cgroup) *snapshot.Value { return &c.UseHierarchy }),
			},
		}
	}
	return fileSet{
		fast: []file{
			stat,
			number("memory.current", func(c *snapshot.Cgroup) *snapshot.Value { return &c.Usage }),
			keyed("memory.events", func(c *snapshot.Cgroup) *snapshot.Stat { return &c.Events }),
		},
		slow: []file{
			keyed("memory.events.local", func(c *snapshot.Cgroup) *snapshot.Stat { return &c.EventsLocal }),
			number("memory.max", func(c *snapshot.Cgroup) *snapshot.Value { return &c.Max }),
			number("memory.high", func(c *snapshot.Cgroup) *snapshot.Value { return &c.High }),
			number("memory.low", func(c *snapshot.Cgroup) *snapshot.Value { return &c.Low }),
			number("memory.min", func(c *snapshot.Cgroup) *snapshot.Value { return &c.Min }),
			number("memory.peak", func(c *snapshot.Cgroup) *snapshot.Value { return &c.Peak }),
			number("memory.swap.current", func(c *snapshot.Cgroup) *snapshot.Value { return &c.Swap }),
			number("memory.swap.max", func(c *snapshot.Cgroup) *snapshot.Value { return &c.SwapMax }),
			number("memory.oom.group", func(c *snapshot.Cgroup) *snapshot.Value { return &c.OOMGroup }),
			{name: []byte("memory.pressure\x00"), pressure: true},
			{name: []byte("cgroup.stat\x00"), key: "nr_dying_descendants", value: func(c *snapshot.Cgroup) *snapshot.Value { return &c.DyingDescendants }},
		},
	}
}

// take parses a file's content into the cgroup, and tells whether it was well-formed. What is not leaves its part absent.
func (f *file) take(c *snapshot.Cgroup, b []byte, l *layouts) bool {
	switch {
	case f.keyed != nil:
		return l.parse(b, f.keyed(c))
	case f.key != "":
		v, ok := findKey(b, f.key)
		*f.value(c) = v
		return ok
	case f.pressure:
		p, ok := parsePressure(b)
		c.Pressure = p
		return ok
	default:
		v, ok := parseValue(b, f.isLimit)
		*f.value(c) = v
		return ok
	}
}

// clear makes the file's part of the cgroup absent.
func (f *file) clear(c *snapshot.Cgroup) {
	switch {
	case f.keyed != nil:
		*f.keyed(c) = snapshot.Stat{}
	case f.pressure:
		c.Pressure = snapshot.Pressure{}
	default:
		*f.value(c) = snapshot.Value{}
	}
}
