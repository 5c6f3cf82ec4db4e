package leak

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/memrecon/memrecon/cgroup"
	"github.com/memrecon/memrecon/host"
	"github.com/memrecon/memrecon/snapshot"
)

// Watcher reads what a process can see of itself, its cgroups and its node. What it can't read is absent.
type Watcher struct {
	procfs, sysfs string
	host          *host.Reader
	// lineage is nil where there is no memory controller, or it can't be seen.
	lineage *cgroup.Lineage
}

// NewWatcher opens what there is to read.
func NewWatcher(procfs, sysfs string) (*Watcher, error) {
	h, err := host.Open(procfs)
	if err != nil {
		return nil, err
	}
	w := &Watcher{procfs: procfs, sysfs: sysfs, host: h}
	if hierarchy, err := cgroup.Find(sysfs); err == nil {
		if own, err := cgroup.OwnPath(procfs, hierarchy); err == nil {
			w.lineage, _ = cgroup.OpenLineage(hierarchy, own) // without it the figures of the cgroup are absent
		}
	}
	return w, nil
}

// Close gives the file descriptors back.
func (w *Watcher) Close() error {
	if w.lineage == nil {
		return nil
	}
	return w.lineage.Close()
}

// Inside is what a process sees of itself, of its cgroup, and of its node.
type Inside struct {
	// RSSBytes is the process's own VmRSS, which counts shared pages and those of its binary (/proc/self/statm).
	RSSBytes snapshot.Value `json:"rss_bytes,omitzero"`
	// CgroupUsageBytes and CgroupWorkingSetBytes are of the cgroup it runs in; the working set is usage less inactive_file.
	CgroupUsageBytes      snapshot.Value `json:"cgroup_usage_bytes,omitzero"`
	CgroupWorkingSetBytes snapshot.Value `json:"cgroup_working_set_bytes,omitzero"`
	// AvailableBytes is the node's MemAvailable.
	AvailableBytes snapshot.Value `json:"available_bytes,omitzero"`
}

// IsZero tells that nothing was read.
func (i Inside) IsZero() bool { return i == Inside{} }

// insider reads an Inside.
type insider struct{ watcher *Watcher }

func (i *insider) read() Inside {
	if i.watcher == nil {
		return Inside{}
	}
	in := Inside{RSSBytes: i.watcher.rss()}
	if m, err := i.watcher.host.Meminfo(); err == nil {
		in.AvailableBytes = m.MemAvailable
	}
	if levels := i.watcher.levels(); len(levels) > 0 {
		own := &levels[len(levels)-1]
		in.CgroupUsageBytes = own.Usage
		in.CgroupWorkingSetBytes = workingSet(own)
	}
	return in
}

// rss is the resident pages in /proc/self/statm, its second number.
func (w *Watcher) rss() snapshot.Value {
	b, err := os.ReadFile(filepath.Join(w.procfs, "self", "statm"))
	if err != nil {
		return snapshot.Value{}
	}
	fields := strings.Fields(string(b))
	if len(fields) < 2 {
		return snapshot.Value{}
	}
	pages, err := strconv.ParseUint(fields[1], 10, 64)
	if err != nil {
		return snapshot.Value{}
	}
	return snapshot.Of(pages * pageSize())
}

// levels are the cgroups from the root of what can be seen down to the process's own.
func (w *Watcher) levels() []snapshot.Cgroup {
	if w == nil || w.lineage == nil {
		return nil
	}
	levels, err := w.lineage.Read()
	if err != nil {
		return nil
	}
	return levels
}

// workingSet is usage less inactive_file (v1: total_inactive_file), not below 0.
func workingSet(c *snapshot.Cgroup) snapshot.Value {
	usage, ok := c.Usage.Get()
	if !ok {
		return snapshot.Value{}
	}
	return snapshot.Of(usage - min(usage, stat(c, "inactive_file")))
}

// stat is a hierarchical counter of memory.stat, 0 where there is none.
func stat(c *snapshot.Cgroup, key string) uint64 {
	if n, ok := c.Stat.Get("total_" + key); ok { // v1
		return n
	}
	n, _ := c.Stat.Get(key)
	return n
}
