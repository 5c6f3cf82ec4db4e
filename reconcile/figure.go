package reconcile

import (
	"fmt"
	"slices"
	"time"

	"github.com/memrecon/memrecon/snapshot"
)

// Figure is a number that somebody publishes about memory, held as data: who says it, where it comes from, and which cells
// of the sheet it counts.
type Figure struct {
	// ID is its stable name, such as "working-set".
	ID string
	// Scope says whose figure it is.
	Scope Scope
	// Publisher is where people meet it.
	Publisher string
	// Formula says in words how it is computed.
	Formula string
	// Source is the code or kernel file that defines it.
	Source string
	// Versions it holds for.
	Versions string

	// needs is what must have been read of a cgroup.
	needs Known
	// unmet says why this sheet cannot have the figure; nil, or "", where it can.
	unmet func(s *Sheet) string
	// only says why this cgroup cannot have it; nil, or "", where it can.
	only      func(s *Sheet, row int) string
	account   func(s *Sheet, row int) account
	published func(s *Sheet, row int) snapshot.Value
	// kubelet is what the kubelet says the figure is.
	kubelet func(s *Sheet, row int) said
}

// Scope is whether a figure is of the node or of one cgroup.
type Scope string

// The scopes.
const (
	ScopeNode   Scope = "node"
	ScopeCgroup Scope = "cgroup"
)

// account is a figure taken apart: how often it counts each kind, over which rows, and what it adds that is no cell.
type account struct {
	rows    rows
	weights weights
	extras  []extra
}

// rows selects rows of the sheet.
type rows struct {
	of    rowSet
	owner int
}

type rowSet uint8

const (
	allRows    rowSet = iota // the whole node
	withTree                 // the owner and its descendants
	below                    // its descendants alone
	inPods                   // all pods, and what is in them
	containers               // the containers of the owner, a pod, that Kubernetes knows, and what is in them
)

type weights [NumKinds]int64

// extra is a part of a figure that is no cell of the sheet.
type extra struct {
	label string
	bytes int64
}

var (
	everything = func() (w weights) {
		for k := range w {
			w[k] = 1
		}
		return w
	}()
	fileKinds = counting(Shmem, FileActive, FileInactive, FileOther)
)

func counting(kinds ...Kind) (w weights) {
	for _, k := range kinds {
		w[k] = 1
	}
	return w
}

func (w weights) without(kinds ...Kind) weights {
	for _, k := range kinds {
		w[k] = 0
	}
	return w
}

func (w weights) and(kinds ...Kind) weights {
	for _, k := range kinds {
		w[k] = 1
	}
	return w
}

func (w *weights) of(c *Cells) int64 {
	var n int64
	for k, times := range w {
		n += times * c[k]
	}
	return n
}

// value is the account's sum.
func (a *account) value(s *Sheet) int64 {
	var n int64
	switch a.rows.of {
	case allRows:
		c := s.Columns()
		n = a.weights.of(&c)
	case withTree:
		n = a.weights.of(&s.Rows[a.rows.owner].All)
	case below:
		n = a.weights.of(&s.Rows[a.rows.owner].All) - a.weights.of(&s.Rows[a.rows.owner].Own)
	default:
		in := s.members(a.rows)
		for i := range s.snap.Cgroups {
			if in(i) {
				n += a.weights.of(&s.Rows[i].Own)
			}
		}
	}
	for _, e := range a.extras {
		n += e.bytes
	}
	return n
}

const floorLabel = "the publisher does not go below zero"

// floor adds what lifts the account to zero: publishers that subtract do not go below.
func (a account) floor(s *Sheet) account {
	return a.raise(max(0, -a.value(s)))
}

// raise adds what lifted parts of the account to zero.
func (a account) raise(bytes int64) account {
	if bytes > 0 {
		a.extras = append(a.extras, extra{floorLabel, bytes})
	}
	return a
}

// constant is a figure that counts no memory: a setting, or a sum of settings.
func constant(label string, bytes int64) account {
	return account{extras: []extra{{label, bytes}}}
}

func node(w weights, extras ...extra) account {
	return account{rows: rows{of: allRows}, weights: w, extras: extras}
}

func tree(row int, w weights) account {
	return account{rows: rows{of: withTree, owner: row}, weights: w}
}

// Figures are all figures that memrecon knows, those of the node first.
func Figures() []Figure {
	return append(kernelFigures(), kubernetesFigures()...)
}

// kernelFigures are those that follow from the kernel's files alone.
func kernelFigures() []Figure {
	return []Figure{
		{
			ID: "mem-total", Scope: ScopeNode, Publisher: "/proc/meminfo, free, node_exporter, the node's capacity in Kubernetes",
			Formula: "MemTotal: all pages that the kernel manages; firmware's and the kernel image's own are not among them",
			Source:  "/proc/meminfo MemTotal", Versions: "all",
			account:   func(*Sheet, int) account { return node(everything) },
			published: func(s *Sheet, _ int) snapshot.Value { return s.snap.Host.Meminfo.MemTotal },
		},
		{
			ID: "mem-free", Scope: ScopeNode, Publisher: "/proc/meminfo, free, top, vmstat, node_exporter",
			Formula: "MemFree: free pages on the zones' lists; those on per-CPU lists are not among them",
			Source:  "/proc/meminfo MemFree", Versions: "all",
			account:   func(*Sheet, int) account { return node(counting(Free)) },
			published: func(s *Sheet, _ int) snapshot.Value { return s.snap.Host.Meminfo.MemFree },
		},
		{
			ID: "mem-available", Scope: ScopeNode, Publisher: "/proc/meminfo, free, top, node_exporter",
			Formula: "MemFree + page cache on both lists + reclaimable slab and other reclaimable kernel memory, less the reserve of every zone, " +
				"and of cache and of slab each less the smaller of its half and the low watermarks",
			Source:   "mm/show_mem.c si_mem_available, mm/page_alloc.c calculate_totalreserve_pages",
			Versions: "Linux >= 4.5; 3.14 to 4.4 leave the low watermarks free in place of the reserves",
			unmet:    needsZones,
			account:  memAvailable,
			published: func(s *Sheet, _ int) snapshot.Value {
				return s.snap.Host.Meminfo.MemAvailable
			},
		},
		{
			ID: "free-used", Scope: ScopeNode, Publisher: "free and top (procps >= 4); Grafana panels on node_exporter: 1 - MemAvailable / MemTotal",
			Formula: "MemTotal - MemAvailable", Source: "procps library/meminfo.c", Versions: "procps >= 4.0.1",
			unmet:   needsZones,
			account: func(s *Sheet, row int) account { return complement(memAvailable(s, row)) },
			published: func(s *Sheet, _ int) snapshot.Value {
				return difference(s.snap.Host.Meminfo.MemTotal, s.snap.Host.Meminfo.MemAvailable)
			},
		},
		{
			ID: "free-used-procps3", Scope: ScopeNode, Publisher: "free and top (procps 3); Grafana's Node Exporter Full, RAM used",
			Formula: "MemTotal - MemFree - Buffers - Cached - SReclaimable", Source: "procps proc/sysinfo.c", Versions: "procps 3.3.12 to 3.3.17; 3.3.10 and 3.3.11 subtract all of Slab",
			account: func(*Sheet, int) account {
				return node(everything.without(Free, SlabReclaimable, Shmem, FileActive, FileInactive, FileOther))
			},
		},
		{
			ID: "grafana-used", Scope: ScopeNode, Publisher: "Grafana's Nodes dashboard (node-mixin, kube-prometheus), memory used",
			Formula: "MemTotal - MemFree - Buffers - Cached", Source: "node_exporter docs/node-mixin/lib/prom-mixin.libsonnet", Versions: "node-mixin",
			account: func(*Sheet, int) account {
				return node(everything.without(Free, Shmem, FileActive, FileInactive, FileOther))
			},
		},
		{
			ID: "node-usage", Scope: ScopeNode, Publisher: "kubelet /stats/summary node usageBytes, cAdvisor container_memory_usage_bytes{id=\"/\"}",
			Formula: "anon + file of the root cgroup (v2), its usage_in_bytes (v1): no kernel memory, no huge pages",
			Source:  "opencontainers/cgroups fs2 rootStatsFromMeminfo; mm/memcontrol-v1.c mem_cgroup_usage", Versions: "v1: Linux >= 6.4, before it without the swap cache; v2: runc >= 1.1.9's library, kubelet >= 1.29",
			account:   nodeUsage,
			published: rootUsage,
			kubelet:   summarized(usageField),
		},
		{
			ID: "node-working-set", Scope: ScopeNode, Publisher: "kubelet /stats/summary node workingSetBytes, cAdvisor container_memory_working_set_bytes{id=\"/\"}",
			Formula: "node-usage - inactive_file of the root cgroup (v1: total_inactive_file)",
			Source:  "cAdvisor container/libcontainer/handler.go setMemoryStats", Versions: "as node-usage",
			account: nodeWorkingSet,
			kubelet: summarized(workingSetField),
		},
		{
			ID: "node-rss", Scope: ScopeNode, Publisher: "kubelet /stats/summary node rssBytes, cAdvisor container_memory_rss{id=\"/\"}",
			Formula: "anonymous memory that is mapped: anon of the root cgroup (v2), total_rss (v1)",
			Source:  "cAdvisor container/libcontainer/handler.go setMemoryStats", Versions: "all",
			account:   nodeRSS,
			published: func(s *Sheet, _ int) snapshot.Value { return s.rootStat("anon", "total_rss") },
			kubelet:   summarized(rssField),
		},
		{
			ID: "node-usage-total-less-free", Scope: ScopeNode, Publisher: "kubelet /stats/summary node usageBytes on cgroup v2, older kubelets",
			Formula: "MemTotal - MemFree", Source: "opencontainers/cgroups fs2 rootStatsFromMeminfo before runc pull request 3933",
			Versions: "v2: before runc 1.1.9's library, kubelet <= 1.28",
			account:  func(*Sheet, int) account { return node(everything.without(Free)) },
			published: func(s *Sheet, _ int) snapshot.Value {
				return difference(s.snap.Host.Meminfo.MemTotal, s.snap.Host.Meminfo.MemFree)
			},
		},
		{
			ID: "node-working-set-total-less-free", Scope: ScopeNode, Publisher: "kubectl top node on cgroup v2, older kubelets",
			Formula: "MemTotal - MemFree - inactive_file of the root cgroup", Source: "cAdvisor setMemoryStats over the older root formula",
			Versions: "v2: before runc 1.1.9's library, kubelet <= 1.28",
			account:  func(s *Sheet, _ int) account { return node(everything.without(Free, FileInactive)).floor(s) },
		},
		{
			ID: "usage", Scope: ScopeCgroup, needs: KnownUsage, Publisher: "kubelet usageBytes, cAdvisor container_memory_usage_bytes, systemctl status",
			Formula: "what the cgroup and its descendants are charged for: memory.current (v2), memory.usage_in_bytes (v1)",
			Source:  "mm/memcontrol.c", Versions: "all",
			account:   func(_ *Sheet, row int) account { return tree(row, everything) },
			published: func(s *Sheet, row int) snapshot.Value { return s.snap.Cgroups[row].Usage },
			kubelet:   summarized(usageField),
		},
		{
			ID: "working-set", Scope: ScopeCgroup, needs: KnownUsage | KnownStat, Publisher: "kubelet workingSetBytes, kubectl top pod, cAdvisor container_memory_working_set_bytes",
			Formula: "usage - inactive_file (v1: total_inactive_file), not below 0",
			Source:  "cAdvisor container/libcontainer/handler.go setMemoryStats", Versions: "all",
			account: func(s *Sheet, row int) account { return tree(row, everything.without(FileInactive)).floor(s) },
			kubelet: summarized(workingSetField),
		},
		{
			ID: "rss", Scope: ScopeCgroup, needs: KnownStat, Publisher: "kubelet rssBytes, cAdvisor container_memory_rss",
			Formula: "anonymous memory that is mapped: anon (v2), total_rss (v1); shared memory is not in it, so it is not the sum of the processes' VmRSS",
			Source:  "cAdvisor container/libcontainer/handler.go setMemoryStats", Versions: "all",
			account:   func(_ *Sheet, row int) account { return tree(row, counting(Anon)) },
			published: func(s *Sheet, row int) snapshot.Value { return s.statValue(row, "anon", "total_rss") },
			kubelet:   summarized(rssField),
		},
		{
			ID: "cache", Scope: ScopeCgroup, needs: KnownStat, Publisher: "cAdvisor container_memory_cache",
			Formula: "file (v2), total_cache (v1): page cache, and tmpfs as well",
			Source:  "cAdvisor container/libcontainer/handler.go setMemoryStats", Versions: "all",
			account:   func(_ *Sheet, row int) account { return tree(row, fileKinds) },
			published: func(s *Sheet, row int) snapshot.Value { return s.statValue(row, "file", "total_cache") },
		},
		{
			ID: "docker-stats", Scope: ScopeCgroup, needs: KnownUsage | KnownStat, Publisher: "docker stats, MEM USAGE",
			Formula: "usage - inactive_file (v1: total_inactive_file); usage itself where inactive_file is not smaller",
			Source:  "docker/cli cli/command/container/stats_helpers.go calculateMemUsageUnixNoCache", Versions: "Docker >= 20.10",
			account: func(s *Sheet, row int) account {
				less := tree(row, everything.without(FileInactive))
				if all := &s.Rows[row].All; all[FileInactive] >= all.Sum() {
					return tree(row, everything)
				}
				return less
			},
		},
		{
			ID: "kernel-memory", Scope: ScopeCgroup, needs: KnownStat, Publisher: "memory.stat kernel (v2), memory.kmem.usage_in_bytes (v1)",
			Formula: "slab, thread stacks, page tables, per-CPU data, vmalloc and other kernel memory that the cgroup is charged for",
			Source:  "mm/memcontrol.c MEMCG_KMEM", Versions: "v2: one key since Linux 5.18, else the sum of its parts",
			account: func(_ *Sheet, row int) account {
				return tree(row, counting(SlabReclaimable, SlabUnreclaimable, KernelStack, PageTables, Percpu, Vmalloc, KernelOther, KernelUnsplit))
			},
		},
		{
			ID: "children-usage", Scope: ScopeCgroup, Publisher: "whoever sums the parts: sum(container_memory_usage_bytes)",
			Formula: "the sum of usage over the cgroup's children", Source: "", Versions: "all",
			account: func(_ *Sheet, row int) account {
				return account{rows: rows{of: below, owner: row}, weights: everything}
			},
		},
		{
			ID: "children-working-set", Scope: ScopeCgroup, Publisher: "whoever sums the parts: sum(container_memory_working_set_bytes), kubectl top pod --sum",
			Formula: "the sum of working-set over the cgroup's children", Source: "", Versions: "all",
			account: func(s *Sheet, row int) account {
				a := account{rows: rows{of: below, owner: row}, weights: everything.without(FileInactive)}
				var floors int64
				for i := range s.snap.Cgroups {
					if s.Rows[i].Parent == row {
						floors += max(0, -a.weights.of(&s.Rows[i].All))
					}
				}
				return a.raise(floors)
			},
		},
	}
}

// nodeUsage is the root cgroup's usage as the kubelet gets it: no kernel memory, no huge pages.
func nodeUsage(s *Sheet, _ int) account {
	return node(fileKinds.and(Anon), s.rootSwapCache()...)
}

// nodeRSS is the anonymous memory of all processes.
func nodeRSS(*Sheet, int) account { return node(counting(Anon)) }

// nodeWorkingSet is the root cgroup's usage less its inactive page cache.
func nodeWorkingSet(s *Sheet, _ int) account {
	return node(fileKinds.and(Anon).without(FileInactive), s.rootSwapCache()...).floor(s)
}

// needsZones says why there are no figures that take the watermarks into account.
func needsZones(s *Sheet) string {
	if s.snap.Host.PageSize == 0 || len(s.snap.Host.Zones) == 0 {
		return "/proc/zoneinfo, which has the watermarks, could not be read"
	}
	return ""
}

// complement is MemTotal less the account.
func complement(a account) account {
	c := node(everything)
	for k, w := range a.weights {
		c.weights[k] -= w
	}
	for _, e := range a.extras {
		c.extras = append(c.extras, extra{e.label, -e.bytes})
	}
	return c
}

// memAvailable follows si_mem_available, in pages as the kernel does, since it halves and compares.
func memAvailable(s *Sheet, _ int) account {
	h := &s.snap.Host
	page := int64(h.PageSize)
	cols := s.Columns()
	a := node(counting(Free, FileActive, FileInactive, SlabReclaimable))
	var reserve, low int64
	for i := range h.Zones {
		z := &h.Zones[i]
		zoneLow, _ := z.Low.Get()
		high, _ := z.High.Get()
		boost, _ := z.Boost.Get()
		managed, _ := z.Managed.Get()
		keep := high - min(boost, high) // the reserves are reckoned when nothing is boosted
		if len(z.Protection) > 0 {
			keep += slices.Max(z.Protection)
		}
		low += int64(zoneLow)
		reserve += int64(min(keep, managed))
	}
	misc, _ := h.Vmstat.Get("nr_kernel_misc_reclaimable")
	cache := (cols[FileActive] + cols[FileInactive]) / page
	reclaimable := cols[SlabReclaimable]/page + int64(misc)
	a.extras = append(a.extras,
		extra{"the zones' reserves, which the kernel keeps free", -reserve * page},
		extra{"page cache taken as not reclaimable: half, at most the low watermarks", -min(cache/2, low) * page},
		extra{"slab taken as not reclaimable: half, at most the low watermarks", -min(reclaimable/2, low) * page},
	)
	if misc > 0 {
		a.extras = append(a.extras, extra{"other reclaimable kernel memory", int64(misc) * page})
	}
	return a.floor(s)
}

// rootSwapCache is what the root's usage counts besides anonymous memory, page cache and shared memory: on cgroup v1 the
// kernel takes NR_FILE_PAGES of the whole node, with the swap cache, whose pages the sheet has as anonymous. A cgroup's own
// counters, which is what cgroup v2 has, leave the swap cache out.
func (s *Sheet) rootSwapCache() []extra {
	n, _ := s.snap.Host.Meminfo.SwapCached.Get()
	if n == 0 || s.snap.Mode.Files() != snapshot.V1 {
		return nil
	}
	return []extra{{"swap cache, which stands in the sheet as anonymous memory", int64(n)}}
}

// rootUsage is the usage of the root cgroup as the kubelet gets it.
func rootUsage(s *Sheet, _ int) snapshot.Value {
	if len(s.snap.Cgroups) == 0 {
		return snapshot.Value{}
	}
	root := &s.snap.Cgroups[0]
	if s.snap.Mode.Files() == snapshot.V1 {
		return root.Usage
	}
	anon, ok1 := root.Stat.Get("anon")
	file, ok2 := root.Stat.Get("file")
	if !ok1 || !ok2 {
		return snapshot.Value{}
	}
	return snapshot.Of(anon + file)
}

// rootStat is a key of the root's memory.stat, absent where the root could not be read.
func (s *Sheet) rootStat(v2, v1 string) snapshot.Value {
	if len(s.snap.Cgroups) == 0 {
		return snapshot.Value{}
	}
	return s.statValue(0, v2, v1)
}

// statValue is a key of the row's memory.stat, by its name on v2 or v1.
func (s *Sheet) statValue(row int, v2, v1 string) snapshot.Value {
	key := v2
	if s.snap.Mode.Files() == snapshot.V1 {
		key = v1
	}
	if n, ok := s.snap.Cgroups[row].Stat.Get(key); ok {
		return snapshot.Of(n)
	}
	return snapshot.Value{}
}

func difference(a, b snapshot.Value) snapshot.Value {
	x, ok1 := a.Get()
	y, ok2 := b.Get()
	if !ok1 || !ok2 || y > x {
		return snapshot.Value{}
	}
	return snapshot.Of(x - y)
}

// UnknownFigureError is a figure that memrecon does not know.
type UnknownFigureError struct{ ID string }

func (e *UnknownFigureError) Error() string {
	return fmt.Sprintf("no figure %q; `memrecon figures` lists them", e.ID)
}

// UnknownOwnerError is an owner that the sheet does not have.
type UnknownOwnerError struct{ ID string }

func (e *UnknownOwnerError) Error() string {
	return fmt.Sprintf("no owner %q: a cgroup's path from the root of the memory hierarchy, such as /system.slice; `memrecon report -o json` lists them", e.ID)
}

// NotApplicableError is a figure asked of an owner that does not have it.
type NotApplicableError struct{ ID, Owner, Why string }

func (e *NotApplicableError) Error() string {
	return fmt.Sprintf("%s has no %s: %s", e.Owner, e.ID, e.Why)
}

// Value is a figure of an owner in bytes, computed over the sheet. A figure of the node has the same value whatever owner is
// named. Errors: *UnknownFigureError, *UnknownOwnerError, *NotApplicableError.
func (s *Sheet) Value(id, owner string) (int64, error) {
	_, a, err := s.lookup(id, owner)
	if err != nil {
		return 0, err
	}
	return a.value(s), nil
}

// Published is what the publisher itself says, where the snapshot has it, else absent. Errors are those of Value.
func (s *Sheet) Published(id, owner string) (snapshot.Value, error) {
	f, a, err := s.lookup(id, owner)
	if err != nil || f.published == nil {
		return snapshot.Value{}, err
	}
	return f.published(s, a.rows.owner), nil
}

// Amount is a figure's value for one owner.
type Amount struct {
	Figure *Figure
	Owner  string
	// Bytes is computed over the sheet.
	Bytes int64
	// Published is the publisher's own number, absent where the snapshot does not have it.
	Published snapshot.Value
	// Kubelet is what the kubelet says, at KubeletTime; absent where it was not asked or says nothing of it.
	Kubelet     snapshot.Value
	KubeletTime time.Time
	// Then is what the figure was around KubeletTime by memrecon's own readings; not Known where there are none.
	Then Span
}

// Remainder is how far the kubelet's number is from what the figure was at the time that it is of: what change cannot explain;
// false where that is not known.
func (a *Amount) Remainder() (bytes int64, ok bool) {
	n, said := a.Kubelet.Get()
	if !said || !a.Then.Known {
		return 0, false
	}
	return a.Then.Off(int64(n)), true
}

// Amounts are all figures of all owners, the node's first.
func (s *Sheet) Amounts() []Amount {
	figures := Figures()
	var out []Amount
	add := func(scope Scope, row int) {
		for i := range figures {
			if figures[i].Scope != scope {
				continue
			}
			if a, ok := s.Amount(&figures[i], row); ok {
				out = append(out, a)
			}
		}
	}
	add(ScopeNode, 0)
	for row := range s.snap.Cgroups {
		add(ScopeCgroup, row)
	}
	return out
}

// Amount is a figure's for the owner of a row, whichever row for a figure of the node; false where that owner does not have it.
func (s *Sheet) Amount(f *Figure, row int) (Amount, bool) {
	if s.applies(f, row) != nil {
		return Amount{}, false
	}
	account := f.account(s, row)
	a := Amount{Figure: f, Owner: OwnerNode, Bytes: account.value(s)}
	if f.Scope == ScopeCgroup {
		a.Owner = s.Rows[row].ID
	}
	if f.published != nil {
		a.Published = f.published(s, row)
	}
	if f.kubelet != nil {
		said := f.kubelet(s, row)
		a.Kubelet, a.KubeletTime, a.Then = said.value, said.time, said.then
	}
	return a, true
}

// applies tells whether a row has a figure.
func (s *Sheet) applies(f *Figure, row int) error {
	na := func(why string) error { return &NotApplicableError{ID: f.ID, Owner: s.Rows[row].ID, Why: why} }
	sums := f.ID == "children-usage" || f.ID == "children-working-set"
	switch {
	case f.Scope == ScopeNode && !s.TotalKnown:
		return &NotApplicableError{ID: f.ID, Owner: OwnerNode, Why: "/proc/meminfo could not be read"}
	case f.unmet != nil && f.unmet(s) != "":
		return &NotApplicableError{ID: f.ID, Owner: OwnerNode, Why: f.unmet(s)}
	case f.Scope == ScopeNode:
		return nil
	case s.Rows[row].Cgroup < 0:
		return na("it is no cgroup")
	case row == 0 && !sums:
		return na("the root cgroup's figures are the node's: node-usage, node-working-set")
	case sums && s.Rows[row].Children == 0:
		return na("it has no children")
	case s.Rows[row].Known&f.needs != f.needs:
		return na(s.Rows[row].Known.missing())
	case f.only != nil && f.only(s, row) != "":
		return na(f.only(s, row))
	}
	return nil
}

// lookup finds a figure and takes it apart for an owner.
func (s *Sheet) lookup(id, owner string) (*Figure, account, error) {
	figures := Figures()
	i := slices.IndexFunc(figures, func(f Figure) bool { return f.ID == id })
	if i < 0 {
		return nil, account{}, &UnknownFigureError{id}
	}
	f, row := &figures[i], 0
	if f.Scope == ScopeCgroup {
		var ok bool
		if row, ok = s.Row(owner); !ok {
			return nil, account{}, &UnknownOwnerError{owner}
		}
	}
	if err := s.applies(f, row); err != nil {
		return nil, account{}, err
	}
	return f, f.account(s, row), nil
}
