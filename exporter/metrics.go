package exporter

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	dto "github.com/prometheus/client_model/go"

	"github.com/memrecon/memrecon/collector"
	"github.com/memrecon/memrecon/incident"
	"github.com/memrecon/memrecon/reconcile"
	"github.com/memrecon/memrecon/snapshot"
	"github.com/memrecon/memrecon/verdict"
)

// The bounds of what one scrape holds: so many series for the node and memrecon itself, and so many for each exported cgroup,
// whatever the node is like. The Go runtime's and the process' own metrics come on top.
const (
	MaxNodeSeries   = 178 + incident.MostKeys + numVerdicts
	MaxCgroupSeries = 42
)

// numVerdicts is how many verdicts there are.
const numVerdicts = 16

// metric is one line of the table of metrics: what it is called and means, and how it is got from a result. Every series of
// /metrics but the Go runtime's and the process' comes from such a line.
type metric struct {
	// name has the unit as its suffix, and _total behind it where it only grows.
	name string
	// help says what it is.
	help string
	// from says where it comes from: cgroup v2's file, then v1's, or /proc's.
	from string
	// unit is bytes, seconds, or empty for what is counted.
	unit string
	kind dto.MetricType
	// labels besides cgroup, in alphabetical order.
	labels []string
	// most is how many series there can be, for the node or for each cgroup.
	most int

	// One of the two adds the series, in the order of their labels' values. What is not known is not added.
	node   func(n *node, out *series)
	cgroup func(c *cgroup, out *series)
}

// node is what the metrics of the node and of memrecon itself are got from.
type node struct {
	*collector.Result
	snap *snapshot.Snapshot
	now  time.Time
	// version is memrecon's.
	version string
	// classLeftOut and maxLeftOut are how many cgroups are not exported.
	classLeftOut, maxLeftOut int
	// incidents counts what died; nil where nobody watches.
	incidents map[incident.Key]uint64
}

// cgroup is what the metrics of a cgroup are got from.
type cgroup struct {
	*snapshot.Cgroup
	sheet *reconcile.Sheet
	index int
	row   *reconcile.Row
}

const (
	gauge   = dto.MetricType_GAUGE
	counter = dto.MetricType_COUNTER
)

// nodeFiguresMost bounds how many figures of the node there are.
const nodeFiguresMost = 24

// table holds the metrics in the order of docs/metrics.md.
func table() []metric {
	kinds := make([]reconcile.Kind, reconcile.NumKinds)
	for k := range kinds {
		kinds[k] = reconcile.Kind(k)
	}
	slices.SortFunc(kinds, func(a, b reconcile.Kind) int { return strings.Compare(a.String(), b.String()) })
	cells := func(of *reconcile.Cells, known reconcile.KindSet, out *series) {
		for _, k := range kinds {
			if known.Has(k) {
				out.add(float64(of[k]), k.String())
			}
		}
	}
	figures := reconcile.Figures()
	slices.SortFunc(figures, func(a, b reconcile.Figure) int { return strings.Compare(a.ID, b.ID) })

	return []metric{
		{
			name: "memrecon_node_info", kind: gauge, most: 1, labels: []string{"cgroup_mode", "kernel", "node"},
			help: "1, with the node's name, its kernel's release and the cgroup version that the memory controller is on.",
			from: "uname, the mounts",
			node: func(n *node, out *series) { out.add(1, string(n.snap.Mode), n.snap.Kernel, n.snap.Node) },
		},
		{
			name: "memrecon_node_memory_total_bytes", unit: "bytes", kind: gauge, most: 1,
			help: "All memory that the kernel manages, which the sheet splits.",
			from: "/proc/meminfo MemTotal",
			node: func(n *node, out *series) {
				if n.Sheet.TotalKnown {
					out.add(float64(n.Sheet.Total))
				}
			},
		},
		{
			name: "memrecon_node_memory_bytes", unit: "bytes", kind: gauge, most: int(reconcile.NumKinds), labels: []string{"kind"},
			help: "The node's memory by what it is used as. The kinds sum to memrecon_node_memory_total_bytes; residual is what no counter names.",
			from: "the sheet's columns",
			node: func(n *node, out *series) {
				columns := n.Sheet.Columns()
				cells(&columns, n.Sheet.Kinds, out)
			},
		},
		{
			name: "memrecon_node_owner_bytes", unit: "bytes", kind: gauge, most: 7, labels: []string{"owner"},
			help: "The node's memory by owner: cgroups is all of them, the others are no cgroups, and / is user memory that no cgroup is charged for. " +
				"The owners sum to memrecon_node_memory_total_bytes.",
			from: "the sheet's rows",
			node: func(n *node, out *series) {
				if !n.Sheet.TotalKnown {
					return
				}
				root := &n.Sheet.Rows[0]
				out.add(float64(root.Own.Sum()), root.ID)
				out.add(float64(root.All.Sum()-root.Own.Sum()), "cgroups")
				for _, id := range []string{
					reconcile.OwnerFree, reconcile.OwnerFreePerCPU, reconcile.OwnerHugePages, reconcile.OwnerKernel, reconcile.OwnerUnnamed,
				} {
					if row, ok := n.Sheet.Row(id); ok {
						out.add(float64(n.Sheet.Rows[row].Own.Sum()), id)
					}
				}
			},
		},
		{
			name: "memrecon_node_figure_bytes", unit: "bytes", kind: gauge, most: nodeFiguresMost, labels: []string{"figure"},
			help: "A published figure of the node, computed over the sheet.",
			from: "[figures.md](figures.md)",
			node: nodeFigures(figures, func(a reconcile.Amount, out *series) { out.add(float64(a.Bytes), a.Figure.ID) }),
		},
		{
			name: "memrecon_node_figure_published_bytes", unit: "bytes", kind: gauge, most: nodeFiguresMost, labels: []string{"figure"},
			help: "The publisher's own number for a figure of the node, where memrecon can read it.",
			from: "[figures.md](figures.md)",
			node: nodeFigures(figures, func(a reconcile.Amount, out *series) { out.value(a.Published, a.Figure.ID) }),
		},
		{
			name: "memrecon_node_figure_kubelet_bytes", unit: "bytes", kind: gauge, most: nodeFiguresMost, labels: []string{"figure"},
			help: "What the kubelet says a figure of the node is, of its own time.",
			from: "the kubelet's /stats/summary and /metrics/resource",
			node: nodeFigures(figures, func(a reconcile.Amount, out *series) { out.value(a.Kubelet, a.Figure.ID) }),
		},
		{
			name: "memrecon_node_figure_kubelet_remainder_bytes", unit: "bytes", kind: gauge, most: nodeFiguresMost, labels: []string{"figure"},
			help: "How far the kubelet's number is from what memrecon computed at the time that it is of: what change does not explain. Absent where there are no readings of that time.",
			from: "the kubelet, and the readings of the last half minute",
			node: nodeFigures(figures, func(a reconcile.Amount, out *series) {
				if n, ok := a.Remainder(); ok {
					out.add(float64(n), a.Figure.ID)
				}
			}),
		},
		{
			name: "memrecon_node_skew_bytes", unit: "bytes", kind: gauge, most: 1,
			help: "Memory that changed its kind between the reading's first and last look at /proc/meminfo: how far cells of one sheet may be apart.",
			from: "/proc/meminfo, twice",
			node: func(n *node, out *series) {
				if n.Sheet.TotalKnown && !n.snap.Host.MeminfoBefore.IsZero() {
					out.add(float64(n.Sheet.Skew))
				}
			},
		},
		{
			name: "memrecon_node_findings", kind: gauge, most: 16, labels: []string{"finding"},
			help: "How many owners a finding is about: something that does not add up, or will surprise. The report says which.",
			from: "the sheet",
			node: func(n *node, out *series) {
				count := map[string]int{}
				for _, f := range n.Sheet.Findings {
					count[f.ID]++
				}
				ids := make([]string, 0, len(count))
				for id := range count {
					ids = append(ids, id)
				}
				slices.Sort(ids)
				for _, id := range ids {
					out.add(float64(count[id]), id)
				}
			},
		},
		{
			name: "memrecon_node_pressure_seconds_total", unit: "seconds", kind: counter, most: 2, labels: []string{"tasks"},
			help: "Time in which some, or all (full), tasks of the node waited for memory.",
			from: "/proc/pressure/memory total",
			node: func(n *node, out *series) { out.pressure(&n.snap.Host.Pressure) },
		},
		{
			name: "memrecon_cgroup_info", kind: gauge, most: 1,
			labels: []string{"class", "container", "container_id", "namespace", "pod", "pod_uid", "qos", "runtime", "unit"},
			help:   "1, with what the cgroup's path and Kubernetes say about whose it is, to join the other metrics with.",
			from:   "the path; the kubelet's /pods",
			cgroup: func(c *cgroup, out *series) {
				id := &c.Identity
				var namespace, name, container string
				if p := c.sheet.Pod(c.index); p != nil {
					namespace, name = p.Namespace, p.Name
				}
				if k := c.sheet.Container(c.index); k != nil {
					container = k.Name
				}
				out.add(1, string(id.Class), container, id.ContainerID, namespace, name, id.PodUID, string(id.QoS), id.Runtime, id.Unit)
			},
		},
		{
			name: "memrecon_cgroup_memory_bytes", unit: "bytes", kind: gauge, most: 16, labels: []string{"kind"},
			help: "Memory of the cgroup and its descendants by what it is used as; only the kinds that the kernel tells apart. " +
				"The kinds sum to memrecon_cgroup_usage_bytes; residual is what no counter names.",
			from: "memory.stat; total_ of memory.stat, memory.kmem.usage_in_bytes",
			cgroup: func(c *cgroup, out *series) {
				cells(&c.row.All, c.row.Kinds, out)
			},
		},
		{
			name: "memrecon_cgroup_own_bytes", unit: "bytes", kind: gauge, most: 1,
			help: "The cgroup's own charge: its usage less its children's.",
			from: "the sheet's row",
			cgroup: func(c *cgroup, out *series) {
				if c.row.Known&reconcile.KnownUsage != 0 {
					out.add(float64(c.row.Own.Sum()))
				}
			},
		},
		{
			name: "memrecon_cgroup_usage_bytes", unit: "bytes", kind: gauge, most: 1,
			help:   "What the cgroup and its descendants are charged for.",
			from:   "memory.current; memory.usage_in_bytes",
			cgroup: func(c *cgroup, out *series) { out.value(c.Usage) },
		},
		{
			name: "memrecon_cgroup_working_set_bytes", unit: "bytes", kind: gauge, most: 1,
			help:   "Usage less inactive page cache, as the kubelet computes it.",
			from:   "the figure working-set",
			cgroup: figureOf(figures, "working-set"),
		},
		{
			name: "memrecon_cgroup_rss_bytes", unit: "bytes", kind: gauge, most: 1,
			help:   "Anonymous memory that is mapped, as cAdvisor's container_memory_rss.",
			from:   "the figure rss",
			cgroup: figureOf(figures, "rss"),
		},
		{
			name: "memrecon_cgroup_limit_bytes", unit: "bytes", kind: gauge, most: 1,
			help:   "The hard limit; absent where there is none.",
			from:   "memory.max; memory.limit_in_bytes",
			cgroup: func(c *cgroup, out *series) { out.value(c.Max) },
		},
		{
			name: "memrecon_cgroup_high_bytes", unit: "bytes", kind: gauge, most: 1,
			help:   "The limit above which the cgroup is throttled; absent where there is none.",
			from:   "memory.high; not on v1",
			cgroup: func(c *cgroup, out *series) { out.value(c.High) },
		},
		{
			name: "memrecon_cgroup_low_bytes", unit: "bytes", kind: gauge, most: 1,
			help:   "Best-effort protection from reclaim; absent where none is set, +Inf where all is protected.",
			from:   "memory.low; not on v1",
			cgroup: func(c *cgroup, out *series) { out.protection(c.Low) },
		},
		{
			name: "memrecon_cgroup_min_bytes", unit: "bytes", kind: gauge, most: 1,
			help:   "Hard protection from reclaim; absent where none is set, +Inf where all is protected.",
			from:   "memory.min; not on v1",
			cgroup: func(c *cgroup, out *series) { out.protection(c.Min) },
		},
		{
			name: "memrecon_cgroup_peak_bytes", unit: "bytes", kind: gauge, most: 1,
			help:   "The highest usage since the cgroup was made, or since the peak was reset.",
			from:   "memory.peak (Linux 5.19); memory.max_usage_in_bytes",
			cgroup: func(c *cgroup, out *series) { out.value(c.Peak) },
		},
		{
			name: "memrecon_cgroup_swap_bytes", unit: "bytes", kind: gauge, most: 1,
			help: "Swap of the cgroup and its descendants.",
			from: "memory.swap.current; total_swap of memory.stat",
			cgroup: func(c *cgroup, out *series) {
				if n, ok := c.Stat.Get("total_swap"); ok {
					out.add(float64(n))
				} else {
					out.value(c.Swap)
				}
			},
		},
		{
			name: "memrecon_cgroup_events_total", kind: counter, most: 6, labels: []string{"event"},
			help: "How often the cgroup or a descendant was pushed below its protection (low), throttled (high), at its limit (max), could not get below it (oom), " +
				"or had a process or the whole cgroup killed for it (oom_kill, oom_group_kill).",
			from: "memory.events; not on v1",
			cgroup: func(c *cgroup, out *series) {
				out.events(c.Events, "high", "low", "max", "oom", "oom_group_kill", "oom_kill")
			},
		},
		{
			name: "memrecon_cgroup_local_events_total", kind: counter, most: 6, labels: []string{"event"},
			help: "The same events of the cgroup alone. On v2 only for a cgroup with children, without them memrecon_cgroup_events_total says it.",
			from: "memory.events.local; max: memory.failcnt, oom_kill: memory.oom_control",
			cgroup: func(c *cgroup, out *series) {
				if c.row.Children > 0 {
					out.events(c.EventsLocal, "high", "low", "max", "oom", "oom_group_kill", "oom_kill")
				}
				out.value(c.Failcnt, "max")
				out.events(c.OOMControl, "oom_kill")
			},
		},
		{
			name: "memrecon_cgroup_pressure_seconds_total", unit: "seconds", kind: counter, most: 2, labels: []string{"tasks"},
			help:   "Time in which some, or all (full), tasks of the cgroup waited for memory.",
			from:   "memory.pressure total; not on v1",
			cgroup: func(c *cgroup, out *series) { out.pressure(&c.Pressure) },
		},
		{
			name: "memrecon_cgroup_dying_descendants", kind: gauge, most: 1,
			help:   "Removed cgroups below this one that still hold memory.",
			from:   "cgroup.stat nr_dying_descendants; not on v1",
			cgroup: func(c *cgroup, out *series) { out.value(c.DyingDescendants) },
		},
		{
			name: "memrecon_build_info", kind: gauge, most: 1, labels: []string{"version"},
			help: "1, with the version of memrecon.",
			from: "memrecon",
			node: func(n *node, out *series) { out.add(1, n.version) },
		},
		{
			name: "memrecon_rounds_total", kind: counter, most: 1,
			help: "How often the node was read.",
			from: "memrecon",
			node: func(n *node, out *series) { out.add(float64(n.Round)) },
		},
		{
			name: "memrecon_sweep_duration_seconds", unit: "seconds", kind: gauge, most: 1,
			help: "How long the latest reading took, from its first read to its last.",
			from: "memrecon",
			node: func(n *node, out *series) { out.add(n.snap.Sweep.Duration.Seconds()) },
		},
		{
			name: "memrecon_sweep_cgroups", kind: gauge, most: 1,
			help: "How many cgroups the latest reading holds.",
			from: "memrecon",
			node: func(n *node, out *series) { out.add(float64(n.snap.Sweep.Cgroups)) },
		},
		{
			name: "memrecon_node_incidents_total", kind: counter, most: numVerdicts, labels: []string{"verdict"},
			help: "What died for memory, or may have, by the verdict; docs/verdicts explains each. Those from before the agent's start are not counted.",
			from: "memrecon",
			node: func(n *node, out *series) {
				if n.incidents == nil {
					return
				}
				sums := map[verdict.Verdict]uint64{}
				for key, count := range n.incidents {
					sums[key.Verdict] += count
				}
				for _, v := range slices.Sorted(slices.Values(verdict.Verdicts())) {
					out.add(float64(sums[v]), string(v))
				}
			},
		},
		{
			name: "memrecon_incidents_total", kind: counter, most: incident.MostKeys + numVerdicts, labels: []string{"container", "namespace", "pod", "verdict"},
			help: "The same by whom it happened to. A series begins with its first incident, so rate() does not see that one; memrecon_node_incidents_total begins at 0.",
			from: "memrecon",
			node: func(n *node, out *series) {
				keys := slices.SortedFunc(maps.Keys(n.incidents), func(a, b incident.Key) int {
					return cmp.Or(strings.Compare(a.Container, b.Container), strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Pod, b.Pod),
						strings.Compare(string(a.Verdict), string(b.Verdict)))
				})
				for _, k := range keys {
					out.add(float64(n.incidents[k]), k.Container, k.Namespace, k.Pod, string(k.Verdict))
				}
			},
		},
		{
			name: "memrecon_omitted_cgroups", kind: gauge, most: 2, labels: []string{"reason"},
			help: "Cgroups that were read and are not among the metrics: for their class (--metrics.classes), or for being the smaller ones of too many (--metrics.max-cgroups).",
			from: "memrecon",
			node: func(n *node, out *series) {
				out.add(float64(n.classLeftOut), "class")
				out.add(float64(n.maxLeftOut), "max")
			},
		},
		{
			name: "memrecon_read_errors", kind: gauge, most: 1,
			help: "Files that the latest reading could not read; the report says which, and what to do.",
			from: "memrecon",
			node: func(n *node, out *series) { out.add(float64(len(n.snap.Errors))) },
		},
		{
			name: "memrecon_source_up", kind: gauge, most: 4, labels: []string{"source"},
			help: "1 where the latest reading of the source brought something, else 0.",
			from: "memrecon",
			node: func(n *node, out *series) {
				for _, s := range n.sources() {
					up := 1.0
					if s.Err != nil {
						up = 0
					}
					out.add(up, s.Name)
				}
			},
		},
		{
			name: "memrecon_source_duration_seconds", unit: "seconds", kind: gauge, most: 4, labels: []string{"source"},
			help: "How long the latest reading of the source took.",
			from: "memrecon",
			node: func(n *node, out *series) {
				for _, s := range n.sources() {
					out.add(s.Duration.Seconds(), s.Name)
				}
			},
		},
		{
			name: "memrecon_source_age_seconds", unit: "seconds", kind: gauge, most: 4, labels: []string{"source"},
			help: "How long ago the source was last read with success; absent where it never was.",
			from: "memrecon",
			node: func(n *node, out *series) {
				for _, s := range n.sources() {
					if !s.Time.IsZero() {
						out.add(n.now.Sub(s.Time).Seconds(), s.Name)
					}
				}
			},
		},
	}
}

// sources are the result's, by name.
func (n *node) sources() []collector.SourceStatus {
	return slices.SortedFunc(slices.Values(n.Sources), func(a, b collector.SourceStatus) int { return strings.Compare(a.Name, b.Name) })
}

// nodeFigures adds a series for each figure that the node has.
func nodeFigures(figures []reconcile.Figure, add func(reconcile.Amount, *series)) func(*node, *series) {
	return func(n *node, out *series) {
		for i := range figures {
			if figures[i].Scope != reconcile.ScopeNode {
				continue
			}
			if a, ok := n.Sheet.Amount(&figures[i], 0); ok {
				add(a, out)
			}
		}
	}
}

// figureOf is a figure of a cgroup of which enough could be read.
func figureOf(figures []reconcile.Figure, id string) func(c *cgroup, out *series) {
	figure := &figures[slices.IndexFunc(figures, func(f reconcile.Figure) bool { return f.ID == id })]
	return func(c *cgroup, out *series) {
		if a, ok := c.sheet.Amount(figure, c.index); ok {
			out.add(float64(a.Bytes))
		}
	}
}

// value adds a value that is a number; absent and unlimited are no series.
func (s *series) value(v snapshot.Value, labels ...string) {
	if n, ok := v.Get(); ok {
		s.add(float64(n), labels...)
	}
}

// protection adds memory.low or memory.min, of which 0 is the state of not being set.
func (s *series) protection(v snapshot.Value) {
	n, ok := v.Get()
	switch {
	case v.IsUnlimited():
		s.add(math.Inf(1))
	case ok && n > 0:
		s.add(float64(n))
	}
}

// events adds the counts of a keyed file, in the order of the names.
func (s *series) events(file snapshot.Stat, names ...string) {
	for _, name := range names {
		if n, ok := file.Get(name); ok {
			s.add(float64(n), name)
		}
	}
}

func (s *series) pressure(p *snapshot.Pressure) {
	if p.Full.Known {
		s.add(float64(p.Full.TotalMicros)/1e6, "full")
	}
	if p.Some.Known {
		s.add(float64(p.Some.TotalMicros)/1e6, "some")
	}
}
