// Package host reads what /proc says of the node as a whole: meminfo, vmstat, zoneinfo, pressure and swaps. It knows
// nothing of cgroups and derives nothing; a file that cannot be read leaves its part of the snapshot absent, with an error
// that says what the report will lack.
package host

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"

	"github.com/memrecon/memrecon/snapshot"
)

// Reader reads one node's /proc, or a copy of it in plain files. It is for one goroutine at a time.
type Reader struct {
	root string
	proc procfs.FS
	// pageSize of the running kernel; 0 where root is a copy, whose kernel may have another.
	pageSize uint64
	buf      bytes.Buffer
	vmstat   *snapshot.Keys
}

// Open makes a Reader of the /proc mounted, or copied, at root.
func Open(root string) (*Reader, error) {
	proc, err := procfs.NewFS(root)
	if err != nil {
		return nil, fmt.Errorf("%w; --path.procfs must be where the node's /proc is", err)
	}
	r := &Reader{root: root, proc: proc}
	var st unix.Statfs_t
	if err := unix.Statfs(root, &st); err == nil && st.Type == unix.PROC_SUPER_MAGIC {
		r.pageSize = uint64(os.Getpagesize())
	}
	return r, nil
}

// Node is the node's name from /proc/sys/kernel/hostname, "" where that cannot be read. The kernel answers with the name of
// the reader's UTS namespace, whichever /proc it reads: in a pod without the host's network that is the pod's name.
func (r *Reader) Node() string {
	b, err := r.read("sys/kernel/hostname")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// Release is the kernel's release, such as 6.1.0-56-cloud-amd64, from /proc/sys/kernel/osrelease, or from /proc/version
// where a saved node has only that; "" where neither says it.
func (r *Reader) Release() string {
	if b, err := r.read("sys/kernel/osrelease"); err == nil {
		return strings.TrimSpace(string(b))
	}
	b, err := r.read("version")
	if err != nil {
		return ""
	}
	words := strings.Fields(string(b)) // Linux version 6.1.0-56-cloud-amd64 (...
	if len(words) < 3 || words[0] != "Linux" || words[1] != "version" {
		return ""
	}
	return words[2]
}

// Read reads everything of a Host but MeminfoBefore. What could not be read is absent and has an error; pressure and swaps
// are absent without one where the kernel is built or booted without them.
func (r *Reader) Read() (snapshot.Host, []snapshot.SourceError) {
	var h snapshot.Host
	var errs []snapshot.SourceError
	failed := func(file string, err error, lost string) {
		errs = append(errs, snapshot.SourceError{
			Source: r.path(file), Error: err.Error(), Hint: lost + "; " + remedy(err),
		})
	}

	var err error
	if h.Meminfo, err = r.Meminfo(); err != nil {
		failed("meminfo", err, "without it nothing can be reconciled")
	}
	// Right after meminfo: pages move between MemFree and the per-CPU lists all the time.
	if h.Zones, err = r.readZoneinfo(); err != nil {
		failed("zoneinfo", err, "watermarks are missing, and pages on per-CPU free lists stand in the residual")
	}
	if h.Vmstat, err = r.readVmstat(); err != nil {
		failed("vmstat", err, "the node's counts of OOM kills and reclaim are missing")
	}
	if h.Pressure, err = r.Pressure(); err != nil {
		failed("pressure/memory", err, "the node's memory pressure is missing")
	}
	if h.Swaps, err = r.readSwaps(); err != nil {
		failed("swaps", err, "swap areas are not listed; meminfo still has their sum")
	}
	for _, z := range h.Zones {
		h.CPUs = max(h.CPUs, z.CPUs)
	}
	if h.PageSize = r.pageSize; h.PageSize == 0 {
		h.PageSize = pageSize(h.Meminfo, h.Zones)
	}
	return h, errs
}

// pageSize is the size of a page on a saved node, told by MemTotal being the sum of the zones' managed pages; 0 where it is
// not. The two are read one after the other and a balloon may move pages between, hence about.
func pageSize(m snapshot.Meminfo, zones []snapshot.Zone) uint64 {
	var managed uint64
	for _, z := range zones {
		n, _ := z.Managed.Get()
		managed += n
	}
	total, _ := m.MemTotal.Get()
	for size := uint64(4 << 10); size <= 64<<10 && total > 0; size *= 2 {
		if about := managed * size; max(about, total)-min(about, total) <= total/100 {
			return size
		}
	}
	return 0
}

// Meminfo reads /proc/meminfo alone.
func (r *Reader) Meminfo() (snapshot.Meminfo, error) {
	m, err := r.proc.Meminfo()
	if err != nil {
		return snapshot.Meminfo{}, r.named("meminfo", err)
	}
	out := snapshot.Meminfo{
		MemTotal:          size(m.MemTotal, m.MemTotalBytes),
		MemFree:           size(m.MemFree, m.MemFreeBytes),
		MemAvailable:      size(m.MemAvailable, m.MemAvailableBytes),
		Buffers:           size(m.Buffers, m.BuffersBytes),
		Cached:            size(m.Cached, m.CachedBytes),
		SwapCached:        size(m.SwapCached, m.SwapCachedBytes),
		ActiveAnon:        size(m.ActiveAnon, m.ActiveAnonBytes),
		InactiveAnon:      size(m.InactiveAnon, m.InactiveAnonBytes),
		ActiveFile:        size(m.ActiveFile, m.ActiveFileBytes),
		InactiveFile:      size(m.InactiveFile, m.InactiveFileBytes),
		Unevictable:       size(m.Unevictable, m.UnevictableBytes),
		Mlocked:           size(m.Mlocked, m.MlockedBytes),
		SwapTotal:         size(m.SwapTotal, m.SwapTotalBytes),
		SwapFree:          size(m.SwapFree, m.SwapFreeBytes),
		Zswap:             size(m.Zswap, m.ZswapBytes),
		Zswapped:          size(m.Zswapped, m.ZswappedBytes),
		Dirty:             size(m.Dirty, m.DirtyBytes),
		Writeback:         size(m.Writeback, m.WritebackBytes),
		AnonPages:         size(m.AnonPages, m.AnonPagesBytes),
		Mapped:            size(m.Mapped, m.MappedBytes),
		Shmem:             size(m.Shmem, m.ShmemBytes),
		Slab:              size(m.Slab, m.SlabBytes),
		SReclaimable:      size(m.SReclaimable, m.SReclaimableBytes),
		SUnreclaim:        size(m.SUnreclaim, m.SUnreclaimBytes),
		KernelStack:       size(m.KernelStack, m.KernelStackBytes),
		PageTables:        size(m.PageTables, m.PageTablesBytes),
		SecPageTables:     size(m.SecPageTables, m.SecPageTablesBytes),
		Bounce:            size(m.Bounce, m.BounceBytes),
		VmallocUsed:       size(m.VmallocUsed, m.VmallocUsedBytes),
		Percpu:            size(m.Percpu, m.PercpuBytes),
		HardwareCorrupted: size(m.HardwareCorrupted, m.HardwareCorruptedBytes),
		AnonHugePages:     size(m.AnonHugePages, m.AnonHugePagesBytes),
		CommitLimit:       size(m.CommitLimit, m.CommitLimitBytes),
		CommittedAS:       size(m.CommittedAS, m.CommittedASBytes),
		HugePagesTotal:    count(m.HugePagesTotal),
		HugePagesFree:     count(m.HugePagesFree),
		Hugepagesize:      size(m.Hugepagesize, m.HugepagesizeBytes),
		Hugetlb:           size(m.Hugetlb, m.HugetlbBytes),
	}
	// procfs answers a file that is empty, or one endless line, with an empty Meminfo.
	if out.MemTotal.IsAbsent() || out.MemFree.IsAbsent() {
		return snapshot.Meminfo{}, r.named("meminfo", errors.New("there is no MemTotal or no MemFree in it"))
	}
	return out, nil
}

// size is absent where the kernel has no such key, and where the file broke off within the number: without its "kB" procfs
// takes that for bytes.
func size(kib, bytes *uint64) snapshot.Value {
	if kib == nil || *bytes>>10 != *kib {
		return snapshot.Value{}
	}
	return snapshot.Of(*bytes)
}

// count is absent where the kernel has no such key.
func count(n *uint64) snapshot.Value {
	if n == nil {
		return snapshot.Value{}
	}
	return snapshot.Of(*n)
}

func (r *Reader) readVmstat() (snapshot.Stat, error) {
	b, err := r.read("vmstat")
	if err != nil {
		return snapshot.Stat{}, err
	}
	st, err := parseVmstat(b, r.vmstat)
	if err != nil {
		return snapshot.Stat{}, r.named("vmstat", err)
	}
	r.vmstat = st.Keys
	return st, nil
}

func (r *Reader) readZoneinfo() ([]snapshot.Zone, error) {
	b, err := r.read("zoneinfo")
	if err != nil {
		return nil, err
	}
	zones, err := parseZoneinfo(b)
	if err != nil {
		return nil, r.named("zoneinfo", err)
	}
	return zones, nil
}

// Pressure reads /proc/pressure/memory alone (Linux 4.20). With CONFIG_PSI_DEFAULT_DISABLED, or psi=0 on the kernel's command
// line, the file is not there or answers EOPNOTSUPP: nothing is wrong then, and it is absent.
func (r *Reader) Pressure() (snapshot.Pressure, error) {
	psi, err := r.proc.PSIStatsForResource("memory")
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.EOPNOTSUPP) {
		return snapshot.Pressure{}, nil
	}
	if err != nil {
		return snapshot.Pressure{}, r.named("pressure/memory", err)
	}
	if psi.Some == nil {
		return snapshot.Pressure{}, r.named("pressure/memory", errors.New("there is no line \"some\" in it"))
	}
	var p snapshot.Pressure
	if p.Some, err = pressureLine(psi.Some); err == nil && psi.Full != nil {
		p.Full, err = pressureLine(psi.Full)
	}
	if err != nil {
		return snapshot.Pressure{}, r.named("pressure/memory", err)
	}
	return p, nil
}

// pressureLine refuses what is no percentage: procfs reads NaN and Inf as numbers, which JSON does not have.
func pressureLine(l *procfs.PSILine) (snapshot.PressureLine, error) {
	for _, share := range []float64{l.Avg10, l.Avg60, l.Avg300} {
		if !(share >= 0 && share <= 100) {
			return snapshot.PressureLine{}, fmt.Errorf("%g is not a percentage", share)
		}
	}
	return snapshot.PressureLine{Known: true, Avg10: l.Avg10, Avg60: l.Avg60, Avg300: l.Avg300, TotalMicros: l.Total}, nil
}

// readSwaps reads /proc/swaps, whose sizes are in KiB. A kernel without CONFIG_SWAP has no such file.
func (r *Reader) readSwaps() ([]snapshot.Swap, error) {
	areas, err := r.proc.Swaps()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, r.named("swaps", err)
	}
	var swaps []snapshot.Swap
	for _, a := range areas {
		if a.Size < 0 || a.Used < 0 {
			return nil, r.named("swaps", fmt.Errorf("%s has a negative size", a.Filename))
		}
		swaps = append(swaps, snapshot.Swap{
			Name: a.Filename, SizeBytes: uint64(a.Size) << 10, UsedBytes: uint64(a.Used) << 10, Priority: a.Priority,
		})
	}
	return swaps, nil
}

// maxFile bounds what is read of one file. The largest, zoneinfo, has some 150 bytes for each zone and CPU.
const maxFile = 32 << 20

// read is the whole file, in a buffer that the next read uses again.
func (r *Reader) read(file string) ([]byte, error) {
	f, err := os.Open(r.path(file))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	r.buf.Reset()
	if _, err := r.buf.ReadFrom(io.LimitReader(f, maxFile+1)); err != nil {
		return nil, err
	}
	if r.buf.Len() > maxFile {
		return nil, r.named(file, fmt.Errorf("it is larger than %d MiB", maxFile>>20))
	}
	return r.buf.Bytes(), nil
}

func (r *Reader) path(file string) string { return filepath.Join(r.root, file) }

// named puts the file's name into an error that lacks it.
func (r *Reader) named(file string, err error) error {
	if _, ok := errors.AsType[*fs.PathError](err); ok {
		return err
	}
	return fmt.Errorf("%s: %w", r.path(file), err)
}

// remedy is what the user can do about a file that cannot be read.
func remedy(err error) string {
	switch {
	case errors.Is(err, fs.ErrPermission):
		return "run memrecon as a user who may read the file, such as root"
	case errors.Is(err, fs.ErrNotExist):
		return "check that --path.procfs is where the node's /proc is"
	}
	return "the file is not as Linux writes it: if it is the kernel's own, please report it to memrecon with its text"
}
