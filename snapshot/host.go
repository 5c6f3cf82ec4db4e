package snapshot

// Host is what /proc says of the node as a whole.
type Host struct {
	// Meminfo is /proc/meminfo, read right after the cgroups.
	Meminfo Meminfo `json:"meminfo,omitzero"`
	// MeminfoBefore is the same, read right before them: what differs has moved while the cgroups were read.
	MeminfoBefore Meminfo `json:"meminfo_before,omitzero"`
	// Vmstat is /proc/vmstat, in the kernel's own units (pages, events).
	Vmstat Stat `json:"vmstat,omitzero"`
	// Zones is /proc/zoneinfo.
	Zones []Zone `json:"zones,omitempty"`
	// Pressure is /proc/pressure/memory, absent where PSI is off.
	Pressure Pressure `json:"pressure,omitzero"`
	// Swaps is /proc/swaps; empty where there is no swap.
	Swaps []Swap `json:"swaps,omitempty"`
	// PageSize in bytes. A saved node says it too: MemTotal is the sum of the zones' managed pages.
	PageSize uint64 `json:"page_size_bytes,omitempty"`
	// CPUs is how many per-CPU lists each zone has, the online CPUs; 0 where it is not known.
	CPUs int `json:"cpus,omitempty"`
}

// Meminfo is /proc/meminfo, in bytes. The comment of a field is its key where that differs from the field's name.
type Meminfo struct {
	MemTotal          Value `json:"mem_total,omitzero"`
	MemFree           Value `json:"mem_free,omitzero"`
	MemAvailable      Value `json:"mem_available,omitzero"` // Linux 3.14
	Buffers           Value `json:"buffers,omitzero"`
	Cached            Value `json:"cached,omitzero"`
	SwapCached        Value `json:"swap_cached,omitzero"`
	ActiveAnon        Value `json:"active_anon,omitzero"`   // Active(anon)
	InactiveAnon      Value `json:"inactive_anon,omitzero"` // Inactive(anon)
	ActiveFile        Value `json:"active_file,omitzero"`   // Active(file)
	InactiveFile      Value `json:"inactive_file,omitzero"` // Inactive(file)
	Unevictable       Value `json:"unevictable,omitzero"`
	Mlocked           Value `json:"mlocked,omitzero"`
	SwapTotal         Value `json:"swap_total,omitzero"`
	SwapFree          Value `json:"swap_free,omitzero"`
	Zswap             Value `json:"zswap,omitzero"`    // the compressed pool; Linux 5.19
	Zswapped          Value `json:"zswapped,omitzero"` // what the pool holds, uncompressed
	Dirty             Value `json:"dirty,omitzero"`
	Writeback         Value `json:"writeback,omitzero"`
	AnonPages         Value `json:"anon_pages,omitzero"` // anonymous and mapped
	Mapped            Value `json:"mapped,omitzero"`
	Shmem             Value `json:"shmem,omitzero"` // part of Cached
	Slab              Value `json:"slab,omitzero"`
	SReclaimable      Value `json:"s_reclaimable,omitzero"`
	SUnreclaim        Value `json:"s_unreclaim,omitzero"`
	KernelStack       Value `json:"kernel_stack,omitzero"`
	PageTables        Value `json:"page_tables,omitzero"`
	SecPageTables     Value `json:"sec_page_tables,omitzero"` // Linux 6.1
	Bounce            Value `json:"bounce,omitzero"`
	VmallocUsed       Value `json:"vmalloc_used,omitzero"` // 0 before Linux 5.3; includes kernel stacks
	Percpu            Value `json:"percpu,omitzero"`
	HardwareCorrupted Value `json:"hardware_corrupted,omitzero"`
	AnonHugePages     Value `json:"anon_huge_pages,omitzero"`
	CommitLimit       Value `json:"commit_limit,omitzero"`
	CommittedAS       Value `json:"committed_as,omitzero"`
	HugePagesTotal    Value `json:"huge_pages_total,omitzero"` // pages of Hugepagesize
	HugePagesFree     Value `json:"huge_pages_free,omitzero"`  // pages of Hugepagesize
	Hugepagesize      Value `json:"hugepagesize,omitzero"`     // the default size
	Hugetlb           Value `json:"hugetlb,omitzero"`          // pools of all sizes; Linux 4.16
}

// KubeletAvailable is what the kubelet calls available, in bytes: MemTotal less the node's working set, which it computes from the root
// cgroup as anonymous memory and page cache less inactive page cache. Here it is taken from /proc/meminfo, also where a container does
// not see the root cgroup; the two agree within some 0.2 MB (cgroup v1 and v2). Absent where a part of it is.
func (m *Meminfo) KubeletAvailable() Value {
	var sum int64
	for _, part := range []struct {
		bytes Value
		sign  int64
	}{
		{m.MemTotal, 1}, {m.AnonPages, -1}, {m.Cached, -1}, {m.Buffers, -1}, {m.InactiveFile, 1},
	} {
		n, ok := part.bytes.Get()
		if !ok {
			return Value{}
		}
		sum += part.sign * int64(n)
	}
	return Of(uint64(max(0, sum)))
}

// IsZero tells that the file is absent.
func (m Meminfo) IsZero() bool { return m == Meminfo{} }

// Zone is one zone of /proc/zoneinfo. All counts are in pages.
type Zone struct {
	Node int    `json:"node"`
	Name string `json:"name"`
	Free Value  `json:"free,omitzero"` // "pages free"
	// Min, Low, High are the watermarks: kswapd wakes below Low and rests at High; below Min only the kernel itself and
	// dying tasks get pages.
	Min  Value `json:"min,omitzero"`
	Low  Value `json:"low,omitzero"`
	High Value `json:"high,omitzero"`
	// Boost is how much all three watermarks are raised after memory was found fragmented (Linux 5.0, printed since 5.14).
	Boost   Value `json:"boost,omitzero"`
	Managed Value `json:"managed,omitzero"` // what MemTotal counts
	// Protection is lowmem_reserve: how much of this zone is kept from allocations that could use a higher one.
	Protection []uint64 `json:"protection,omitempty"`
	// PerCPUFree are pages on the per-CPU free lists ("count:" of each pageset): free, but not in MemFree.
	PerCPUFree Value `json:"per_cpu_free,omitzero"`
	// CPUs is the number of pagesets.
	CPUs int `json:"cpus,omitempty"`
}

// Swap is one line of /proc/swaps.
type Swap struct {
	Name      string `json:"name"`
	SizeBytes uint64 `json:"size_bytes"`
	UsedBytes uint64 `json:"used_bytes"`
	Priority  int    `json:"priority"`
}
