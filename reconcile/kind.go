// Package reconcile puts every byte of a snapshot into one cell of a sheet, computes every published figure as a formula
// over it, and every difference between two figures as a bridge. It is pure: no files, no clock, no log; the same snapshot
// always gives the same sheet.
package reconcile

import "fmt"

// Kind is a column of the sheet: what a byte of memory is used as.
type Kind uint8

// The kinds, in the order of the sheet's columns. Each comment says what the cell of a cgroup is (cgroup v2's memory.stat
// first, then v1's) and what the node's column closes against in /proc/meminfo.
const (
	// Anon is anonymous memory that some process maps: anon; total_rss. AnonPages.
	Anon Kind = iota
	// AnonUnmapped is memory on the anonymous LRU lists that nobody maps: huge pages of which a part was given back and
	// that wait to be split, and swap cache without a mapping. It counts in usage and working set and in no RSS. All LRU
	// lists less anon less file. It cannot be negative: where the lists hold less, pages wait in per-CPU batches to get
	// onto them, and are already counted as what they are.
	AnonUnmapped
	// Shmem is tmpfs, POSIX and System V shared memory, memfd: shmem; total_shmem. Shmem.
	Shmem
	// FileActive is page cache on the active list: active_file; total_active_file. Active(file).
	FileActive
	// FileInactive is page cache on the inactive list, which working set leaves out: inactive_file; total_inactive_file.
	// Inactive(file).
	FileInactive
	// FileOther is page cache on neither list: mlocked, or on its way to a list; file less shmem and both lists (the swap
	// cache is in no cgroup's file: mm/swap_state.c counts it for the node alone). Negative where anonymous memory freed
	// with MADV_FREE waits on the inactive file list. Cached + Buffers less Shmem and both lists.
	FileOther
	// SlabReclaimable is kernel objects that shrink under pressure, mostly dentries and inodes: slab_reclaimable (v2).
	// SReclaimable.
	SlabReclaimable
	// SlabUnreclaimable is kernel objects that do not: slab_unreclaimable (v2). SUnreclaim.
	SlabUnreclaimable
	// KernelStack is the stacks of threads in the kernel: kernel_stack (v2). KernelStack.
	KernelStack
	// PageTables is page tables, of guests and IOMMUs as well: pagetables + sec_pagetables (v2). PageTables +
	// SecPageTables.
	PageTables
	// Percpu is the kernel's per-CPU data, cgroups' own counters among it: percpu (v2). Percpu, which also counts the first
	// chunk, made at boot and not in MemTotal: the unnamed rest is too small by some 100 KiB for each CPU.
	Percpu
	// Vmalloc is the kernel's virtually mapped memory without the thread stacks: vmalloc (v2). VmallocUsed less KernelStack.
	Vmalloc
	// KernelOther is other kernel memory: v2's kernel less all of the above (pipe buffers, zswap's pool, pages that
	// drivers take with an account). Zswap, Bounce, HardwareCorrupted and the kernel's misc reclaimable pages.
	KernelOther
	// KernelUnsplit is kernel memory that cgroup v1 charges without saying what it is: memory.kmem.usage_in_bytes. The
	// kernel's own row takes the same amount back, since meminfo counts these bytes as slab, stacks, page tables: the
	// column's sum is zero.
	KernelUnsplit
	// Sock is what sockets are charged for their buffers: sock (v2). meminfo has no such column.
	Sock
	// Hugetlb is the pools of huge pages, used or not: hugetlb (v2, only with the memory_hugetlb_accounting mount
	// option). Hugetlb.
	Hugetlb
	// Free is memory that holds nothing. MemFree.
	Free
	// FreePerCPU is free pages on the per-CPU lists, which MemFree leaves out. The pagesets' counts in /proc/zoneinfo.
	FreePerCPU
	// Residual is what no counter names. A cgroup's own is usage less all cells, as a rule the pages it is charged ahead
	// for, up to 64 on each CPU; the node's is MemTotal less everything.
	Residual
	// NumKinds is how many kinds there are.
	NumKinds
)

// kinds holds a kind's id, as it stands in JSON and in metrics, and its words.
var kinds = [NumKinds]struct{ id, words string }{
	Anon:              {"anon", "anonymous memory"},
	AnonUnmapped:      {"anon_unmapped", "anonymous memory that nobody maps"},
	Shmem:             {"shmem", "tmpfs and shared memory"},
	FileActive:        {"file_active", "active page cache"},
	FileInactive:      {"file_inactive", "inactive page cache"},
	FileOther:         {"file_other", "page cache on neither list"},
	SlabReclaimable:   {"slab_reclaimable", "reclaimable slab"},
	SlabUnreclaimable: {"slab_unreclaimable", "unreclaimable slab"},
	KernelStack:       {"kernel_stack", "kernel stacks"},
	PageTables:        {"page_tables", "page tables"},
	Percpu:            {"percpu", "per-CPU kernel data"},
	Vmalloc:           {"vmalloc", "vmalloc"},
	KernelOther:       {"kernel_other", "other kernel memory"},
	KernelUnsplit:     {"kernel_unsplit", "kernel memory, not split on cgroup v1"},
	Sock:              {"sock", "socket buffers"},
	Hugetlb:           {"hugetlb", "huge page pools"},
	Free:              {"free", "free memory"},
	FreePerCPU:        {"free_per_cpu", "free pages on per-CPU lists"},
	Residual:          {"residual", "residual"},
}

// String is the kind's id, such as "file_inactive".
func (k Kind) String() string {
	if k >= NumKinds {
		return fmt.Sprintf("Kind(%d)", uint8(k))
	}
	return kinds[k].id
}

// Words is the kind as a person says it, such as "inactive page cache".
func (k Kind) Words() string { return kinds[k].words }

// KindSet is a set of kinds.
type KindSet uint32

// Has tells whether a kind is in the set.
func (s KindSet) Has(k Kind) bool { return s&(1<<k) != 0 }

// add puts a kind into the set if that is so.
func (s *KindSet) add(k Kind, is bool) {
	if is {
		*s |= 1 << k
	}
}

// Cells is one row's bytes by kind. A cell can be negative: counters are read one after another while memory moves, and a
// child can for a moment exceed its parent.
type Cells [NumKinds]int64

// Sum is the sum of all cells.
func (c *Cells) Sum() int64 {
	var n int64
	for _, v := range c {
		n += v
	}
	return n
}

func (c *Cells) add(o *Cells) {
	for k := range c {
		c[k] += o[k]
	}
}

func (c *Cells) sub(o *Cells) {
	for k := range c {
		c[k] -= o[k]
	}
}

// KernelMemory is the sum of the kernel's kinds, whichever way the kernel splits them.
func (c *Cells) KernelMemory() int64 {
	var n int64
	for k := SlabReclaimable; k <= KernelUnsplit; k++ {
		n += c[k]
	}
	return n
}
