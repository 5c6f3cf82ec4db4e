package reconcile

import (
	"github.com/memrecon/memrecon/snapshot"
)

// The owners that are no cgroups. Their ids have no leading slash, a cgroup's id is its path.
const (
	// OwnerNode is the whole node: no row, but the owner of figures over all rows.
	OwnerNode = "node"
	// OwnerRoot is the root cgroup; its own charge is user memory that no other cgroup is charged for.
	OwnerRoot = "/"
	// OwnerKernel holds kernel memory that no cgroup is charged for.
	OwnerKernel = "kernel"
	// OwnerFree is MemFree.
	OwnerFree = "free"
	// OwnerFreePerCPU is free pages on the per-CPU lists, which MemFree leaves out.
	OwnerFreePerCPU = "free-per-cpu"
	// OwnerHugePages is the pools of huge pages, as far as no cgroup is charged for them.
	OwnerHugePages = "huge-pages"
	// OwnerUnnamed is what remains of MemTotal.
	OwnerUnnamed = "unnamed"
)

// Sheet is the balance sheet of a node: every byte in one cell. It closes by construction: the cells of all rows sum to
// Total; a cgroup's cells with its descendants' sum to its usage; a column sums to what /proc/meminfo says of it.
type Sheet struct {
	// Total is MemTotal in bytes; where /proc/meminfo could not be read, the sum of what the cgroups say.
	Total int64
	// TotalKnown tells that Total is MemTotal.
	TotalKnown bool
	// Kinds are the kinds that /proc tells apart on this node, see Row.Kinds; none where /proc/meminfo could not be read.
	Kinds KindSet
	// Rows holds the cgroups in the order of the snapshot (row i is cgroup i), then the owners that are no cgroups.
	Rows []Row
	// Skew is how many bytes changed their column between the reading's first and last look at /proc/meminfo: how far
	// cells of one sheet may be apart in time.
	Skew int64
	// Findings are what does not add up, or will surprise.
	Findings []Finding

	snap *snapshot.Snapshot
	pods map[string]podWords // by UID
	// then is what the cgroups had when the kubelet read them; nil without a History.
	then [][numSeries]Span
}

// Row is one owner's line in the sheet.
type Row struct {
	// ID is the cgroup's path, or one of the Owner constants.
	ID string
	// Parent is the index of the parent's row, -1 at the top.
	Parent int
	// Cgroup is the index in Snapshot.Cgroups, -1 where the owner is no cgroup, and for a root that could not be read.
	Cgroup int
	// Own is the owner's own charge: its figures less its children's.
	Own Cells
	// All is Own with all descendants'.
	All Cells
	// Children is how many direct children a cgroup has.
	Children int
	// Known tells which parts of a cgroup could be read.
	Known Known
	// Kinds are the kinds that a cgroup's files tell apart on this kernel. Any other cell of All is zero because nothing
	// says more, and its bytes stand in another kind or in the residual.
	Kinds KindSet
}

// Known tells what a row rests on.
type Known uint8

// What of a cgroup was read.
const (
	KnownUsage Known = 1 << iota
	KnownStat
)

// UsageBytes is what the owner and its descendants use: the sum of their cells. For a cgroup whose usage could be read it
// is that figure, to the byte.
func (r *Row) UsageBytes() int64 { return r.All.Sum() }

// New makes the sheet of a snapshot.
func New(snap *snapshot.Snapshot) *Sheet {
	s := compute(snap)
	s.find()
	return s
}

// compute makes the sheet without its findings.
func compute(snap *snapshot.Snapshot) *Sheet {
	s := &Sheet{snap: snap, pods: podsByUID(snap.Kubernetes), Rows: make([]Row, 0, len(snap.Cgroups)+6)}
	s.addCgroups()
	s.closeNode()
	s.Skew = skew(&snap.Host)
	return s
}

// Snapshot is what the sheet was made of.
func (s *Sheet) Snapshot() *snapshot.Snapshot { return s.snap }

// Row is the index of an owner's row, and whether there is one.
func (s *Sheet) Row(id string) (int, bool) {
	for i := range s.Rows {
		if s.Rows[i].ID == id {
			return i, true
		}
	}
	return -1, false
}

// Columns are the node's bytes by kind: the sum of all rows.
func (s *Sheet) Columns() Cells {
	var c Cells
	for i := range s.Rows {
		c.add(&s.Rows[i].Own)
	}
	return c
}

// ResidualBytes is what no counter names, over all rows.
func (s *Sheet) ResidualBytes() int64 {
	var n int64
	for i := range s.Rows {
		n += s.Rows[i].Own[Residual]
	}
	return n
}

// addCgroups makes a row of each cgroup, the root's being complete but for the columns of /proc/meminfo.
func (s *Sheet) addCgroups() {
	layouts := layouts{v1: s.snap.Mode.Files() == snapshot.V1}
	for i := range s.snap.Cgroups {
		c := &s.snap.Cgroups[i]
		row := Row{ID: c.Path, Parent: int(c.Parent), Cgroup: i}
		if cells, ok := layouts.cells(c); ok {
			row.All, row.Known, row.Kinds = cells, KnownStat, layouts.kinds
			row.Kinds.add(KernelUnsplit, !c.KernelUsage.IsAbsent())
		}
		if usage, ok := c.Usage.Get(); ok {
			row.Known |= KnownUsage
			row.Kinds.add(Residual, row.Known&KnownStat != 0)
			row.All[Residual] = int64(usage) - row.All.Sum()
		}
		s.Rows = append(s.Rows, row)
	}
	if len(s.Rows) == 0 {
		s.Rows = append(s.Rows, Row{ID: OwnerRoot, Parent: -1, Cgroup: -1})
	}
	// Own gathers the children first: a child stands behind its parent.
	for i := len(s.Rows) - 1; i > 0; i-- {
		row := &s.Rows[i]
		children := row.Own
		switch {
		case row.Known == 0:
			row.All = children
		case row.Known&KnownStat == 0:
			// Only the usage is known: what the children do not explain is the row's own residual.
			usage := row.All[Residual]
			row.All = children
			row.All[Residual] += usage - children.Sum()
		}
		row.Own = row.All
		row.Own.sub(&children)
		s.Rows[row.Parent].Own.add(&row.All)
		s.Rows[row.Parent].Children++
	}
}

// closeNode gives the root and the owners that are no cgroups what the columns of /proc/meminfo leave for them.
func (s *Sheet) closeNode() {
	root := &s.Rows[0]
	charged := root.Own // of all top-level cgroups
	cols, ok := columns(&s.snap.Host, &s.snap.Host.Meminfo)
	if !ok {
		// Without meminfo the sheet is the cgroups' alone; the root's row is what it says of itself.
		if root.Known == 0 {
			root.All = charged
		}
		root.Own = root.All
		root.Own.sub(&charged)
		s.Total = root.All.Sum()
		return
	}
	s.Total, s.TotalKnown = cols.total, true
	s.Kinds = nodeKinds(&s.snap.Host)
	for i := range s.snap.Cgroups {
		s.Kinds.add(Sock, s.Rows[i].Kinds.Has(Sock))
	}
	root.Own = Cells{}
	for k := Anon; k <= FileOther; k++ {
		root.Own[k] = cols.cells[k] - charged[k]
	}
	root.All = root.Own
	root.All.add(&charged)

	kernel := Row{ID: OwnerKernel, Parent: -1, Cgroup: -1}
	for k := SlabReclaimable; k <= Vmalloc; k++ {
		kernel.Own[k] = cols.cells[k] - charged[k]
	}
	kernel.Own[KernelOther] = cols.cells[KernelOther] - s.chargedZswap()
	kernel.Own[KernelUnsplit] = -charged[KernelUnsplit]
	huge := Row{ID: OwnerHugePages, Parent: -1, Cgroup: -1}
	huge.Own[Hugetlb] = cols.cells[Hugetlb] - charged[Hugetlb]
	free := Row{ID: OwnerFree, Parent: -1, Cgroup: -1}
	free.Own[Free] = cols.cells[Free]
	lists := Row{ID: OwnerFreePerCPU, Parent: -1, Cgroup: -1}
	lists.Own[FreePerCPU] = cols.cells[FreePerCPU]
	unnamed := Row{ID: OwnerUnnamed, Parent: -1, Cgroup: -1}
	unnamed.Own[Residual] = s.Total - root.All.Sum() - kernel.Own.Sum() - huge.Own.Sum() - free.Own.Sum() - lists.Own.Sum()
	for _, row := range []Row{kernel, huge, free, lists, unnamed} {
		row.All = row.Own
		s.Rows = append(s.Rows, row)
	}
}

// chargedZswap is zswap's pool as far as the top-level cgroups are charged for it: part of their other kernel memory.
func (s *Sheet) chargedZswap() int64 {
	var n uint64
	for i := range s.snap.Cgroups {
		if c := &s.snap.Cgroups[i]; c.Parent == 0 {
			v, _ := c.Stat.Get("zswap")
			n += v
		}
	}
	return int64(n)
}

// layouts turns memory.stat into cells. Few different layouts exist on a node, so where each key stands is looked up once
// for each.
type layouts struct {
	v1    bool
	keys  *snapshot.Keys
	at    positions
	kinds KindSet
}

// positions are the indexes of the keys that the cells need, -1 for an absent one.
type positions struct {
	anon, file, shmem                                               int
	activeAnon, inactiveAnon, activeFile, inactiveFile, unevictable int
	kernel, slabReclaimable, slabUnreclaimable, kernelStack         int
	pageTables, secPageTables, percpu, vmalloc, sock, hugetlb       int
}

func (l *layouts) positions(keys *snapshot.Keys) *positions {
	if keys == l.keys {
		return &l.at
	}
	l.keys = keys
	at := keys.Index
	if l.v1 {
		l.at = positions{
			anon: at("total_rss"), file: at("total_cache"), shmem: at("total_shmem"),
			activeAnon: at("total_active_anon"), inactiveAnon: at("total_inactive_anon"),
			activeFile: at("total_active_file"), inactiveFile: at("total_inactive_file"), unevictable: at("total_unevictable"),
			kernel: -1, slabReclaimable: -1, slabUnreclaimable: -1, kernelStack: -1,
			pageTables: -1, secPageTables: -1, percpu: -1, vmalloc: -1, sock: -1, hugetlb: -1,
		}
	} else {
		l.at = positions{
			anon: at("anon"), file: at("file"), shmem: at("shmem"),
			activeAnon: at("active_anon"), inactiveAnon: at("inactive_anon"),
			activeFile: at("active_file"), inactiveFile: at("inactive_file"), unevictable: at("unevictable"),
			kernel: at("kernel"), slabReclaimable: at("slab_reclaimable"), slabUnreclaimable: at("slab_unreclaimable"),
			kernelStack: at("kernel_stack"), pageTables: at("pagetables"), secPageTables: at("sec_pagetables"),
			percpu: at("percpu"), vmalloc: at("vmalloc"), sock: at("sock"), hugetlb: at("hugetlb"),
		}
	}
	l.kinds = l.at.kinds()
	return &l.at
}

// kinds are those that have a key.
func (at *positions) kinds() KindSet {
	var s KindSet
	for k, i := range [NumKinds]int{
		Anon: at.anon, AnonUnmapped: at.activeAnon, Shmem: at.shmem, FileActive: at.activeFile, FileInactive: at.inactiveFile,
		FileOther: at.activeFile, SlabReclaimable: at.slabReclaimable, SlabUnreclaimable: at.slabUnreclaimable,
		KernelStack: at.kernelStack, PageTables: at.pageTables, Percpu: at.percpu, Vmalloc: at.vmalloc, KernelOther: at.kernel,
		KernelUnsplit: -1, Sock: at.sock, Hugetlb: at.hugetlb, Free: -1, FreePerCPU: -1, Residual: -1,
	} {
		s.add(Kind(k), i >= 0)
	}
	return s
}

// cells are a cgroup's hierarchical cells without the residual, and whether its memory.stat could be read at all. A key
// that the kernel does not have leaves its cell at zero, and its bytes in the residual.
func (l *layouts) cells(c *snapshot.Cgroup) (Cells, bool) {
	var cells Cells
	if c.Stat.IsZero() {
		return cells, false
	}
	at := l.positions(c.Stat.Keys)
	get := func(i int) int64 {
		if i < 0 || i >= len(c.Stat.Values) {
			return 0
		}
		return int64(c.Stat.Values[i])
	}
	if at.anon < 0 || at.file < 0 {
		return cells, false
	}
	anon, file := get(at.anon), get(at.file)
	cells[Anon] = anon
	cells[Shmem] = get(at.shmem)
	cells[FileActive] = get(at.activeFile)
	cells[FileInactive] = get(at.inactiveFile)
	cells[FileOther] = file - cells[Shmem] - cells[FileActive] - cells[FileInactive]
	if at.activeAnon >= 0 {
		lru := get(at.activeAnon) + get(at.inactiveAnon) + get(at.activeFile) + get(at.inactiveFile) + get(at.unevictable)
		cells[AnonUnmapped] = max(0, lru-anon-file)
	}
	cells[SlabReclaimable] = get(at.slabReclaimable)
	cells[SlabUnreclaimable] = get(at.slabUnreclaimable)
	cells[KernelStack] = get(at.kernelStack)
	cells[PageTables] = get(at.pageTables) + get(at.secPageTables)
	cells[Percpu] = get(at.percpu)
	cells[Vmalloc] = get(at.vmalloc)
	if at.kernel >= 0 { // Linux 5.18
		named := Cells{}
		copy(named[SlabReclaimable:], cells[SlabReclaimable:KernelOther])
		cells[KernelOther] = get(at.kernel) - named.Sum()
	}
	if kmem, ok := c.KernelUsage.Get(); ok { // cgroup v1
		cells[KernelUnsplit] = int64(kmem)
	}
	cells[Sock] = get(at.sock)
	cells[Hugetlb] = get(at.hugetlb)
	return cells, true
}

// nodeColumns are what /proc/meminfo and zoneinfo say of the node as a whole.
type nodeColumns struct {
	total int64
	cells Cells
}

// columns are the node's columns, and whether meminfo could be read. A key that is absent leaves its cell at zero, and its
// bytes with the unnamed.
func columns(h *snapshot.Host, m *snapshot.Meminfo) (nodeColumns, bool) {
	total, ok := m.MemTotal.Get()
	if !ok {
		return nodeColumns{}, false
	}
	get := func(v snapshot.Value) int64 {
		n, _ := v.Get()
		return int64(n)
	}
	c := nodeColumns{total: int64(total)}
	file := get(m.Cached) + get(m.Buffers)
	lru := get(m.ActiveAnon) + get(m.InactiveAnon) + get(m.ActiveFile) + get(m.InactiveFile) + get(m.Unevictable)
	c.cells[Anon] = get(m.AnonPages)
	if !m.ActiveAnon.IsAbsent() {
		c.cells[AnonUnmapped] = max(0, lru-get(m.AnonPages)-file)
	}
	c.cells[Shmem] = get(m.Shmem)
	c.cells[FileActive] = get(m.ActiveFile)
	c.cells[FileInactive] = get(m.InactiveFile)
	c.cells[FileOther] = file - c.cells[Shmem] - c.cells[FileActive] - c.cells[FileInactive]
	c.cells[SlabReclaimable] = get(m.SReclaimable)
	c.cells[SlabUnreclaimable] = get(m.SUnreclaim)
	c.cells[KernelStack] = get(m.KernelStack)
	c.cells[PageTables] = get(m.PageTables) + get(m.SecPageTables)
	c.cells[Percpu] = get(m.Percpu)
	// VmallocUsed holds the thread stacks as well (VMAP_STACK); before Linux 5.3 it is always zero.
	c.cells[Vmalloc] = max(0, get(m.VmallocUsed)-get(m.KernelStack))
	misc, _ := h.Vmstat.Get("nr_kernel_misc_reclaimable")
	c.cells[KernelOther] = get(m.Zswap) + get(m.Bounce) + get(m.HardwareCorrupted) + int64(misc*h.PageSize)
	if m.Hugetlb.IsAbsent() { // before Linux 4.16 only the pool of the default size is known
		c.cells[Hugetlb] = get(m.HugePagesTotal) * get(m.Hugepagesize)
	} else {
		c.cells[Hugetlb] = get(m.Hugetlb)
	}
	c.cells[Free] = get(m.MemFree)
	for i := range h.Zones {
		c.cells[FreePerCPU] += get(h.Zones[i].PerCPUFree) * int64(h.PageSize)
	}
	return c, true
}

// nodeKinds are the kinds that meminfo and zoneinfo have something to say of.
func nodeKinds(h *snapshot.Host) KindSet {
	m := &h.Meminfo
	vmalloc, _ := m.VmallocUsed.Get()
	lists := false
	for i := range h.Zones {
		lists = lists || !h.Zones[i].PerCPUFree.IsAbsent()
	}
	var s KindSet
	for k, v := range [NumKinds]snapshot.Value{
		Anon: m.AnonPages, AnonUnmapped: m.ActiveAnon, Shmem: m.Shmem, FileActive: m.ActiveFile, FileInactive: m.InactiveFile,
		FileOther: m.Cached, SlabReclaimable: m.SReclaimable, SlabUnreclaimable: m.SUnreclaim, KernelStack: m.KernelStack,
		PageTables: m.PageTables, Percpu: m.Percpu, Hugetlb: m.HugePagesTotal, Free: m.MemFree, Residual: m.MemTotal,
	} {
		s.add(Kind(k), !v.IsAbsent())
	}
	s.add(Vmalloc, vmalloc > 0)
	s.add(KernelOther, !m.Zswap.IsAbsent() || !m.Bounce.IsAbsent() || !m.HardwareCorrupted.IsAbsent())
	s.add(FreePerCPU, lists)
	return s
}

// skew is half the sum of what each column gained or lost between the two readings of meminfo: a byte that moves leaves one
// column and enters another.
func skew(h *snapshot.Host) int64 {
	before, ok1 := columns(h, &h.MeminfoBefore)
	after, ok2 := columns(h, &h.Meminfo)
	if !ok1 || !ok2 {
		return 0
	}
	before.cells[Residual] = before.total - before.cells.Sum()
	after.cells[Residual] = after.total - after.cells.Sum()
	var moved int64
	for k := range after.cells {
		d := after.cells[k] - before.cells[k]
		moved += max(d, -d)
	}
	return moved / 2
}
