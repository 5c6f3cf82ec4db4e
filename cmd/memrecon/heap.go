package main

import (
	"os"
	"runtime/debug"

	"github.com/memrecon/memrecon/cgroup"
)

// heapShare is which part of the agent's own limit Go may take before it collects garbage all the time, in percent. The rest is for
// what Go does not count: the kernel's buffers behind the files that stay open, some 25 KiB a cgroup, and the program itself.
const heapShare = 46

// limitHeap makes Go keep within the limit of the cgroup that the agent runs in, or of one above it, unless GOMEMLIMIT says what to
// keep within. It returns the limit of the heap in bytes, 0 where there is none.
func limitHeap() (int64, error) {
	if os.Getenv("GOMEMLIMIT") != "" {
		return debug.SetMemoryLimit(-1), nil
	}
	// Its own files, not those of the node that it reads.
	h, err := cgroup.Find("/sys")
	if err != nil {
		return 0, err
	}
	own, err := cgroup.OwnPath("/proc", h)
	if err != nil {
		return 0, err
	}
	lineage, err := cgroup.OpenLineage(h, own)
	if err != nil {
		return 0, err
	}
	defer func() { _ = lineage.Close() }()
	cgroups, err := lineage.Read()
	if err != nil {
		return 0, err
	}
	var limit uint64
	for i := range cgroups {
		if n, ok := cgroups[i].Max.Get(); ok && (limit == 0 || n < limit) {
			limit = n
		}
	}
	if limit == 0 {
		return 0, nil
	}
	heap := int64(limit / 100 * heapShare)
	debug.SetMemoryLimit(heap)
	return heap, nil
}
