package leak

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Kind is what kind of memory is taken: in which cell of memrecon's sheet it shows up.
type Kind string

// The kinds.
const (
	// Anon is anonymous memory in pages of the smallest size, the heap of most programs: the cell anon.
	Anon Kind = "anon"
	// THP is anonymous memory in transparent huge pages, as far as the kernel finds some: anon.
	THP Kind = "thp"
	// Mlock is anonymous memory that can't be swapped out: anon.
	Mlock Kind = "mlock"
	// Tmpfs is files in a tmpfs, which are shared memory to the kernel: shmem.
	Tmpfs Kind = "tmpfs"
	// File is page cache that was read once: file_inactive, which the kernel drops first and working set leaves out.
	File Kind = "file"
	// FileActive is page cache that was read again: file_active, which working set counts.
	FileActive Kind = "file-active"
	// Slab is kernel objects, those of many files without a name: slab_unreclaimable for the inodes (tmpfs keeps its apart) and
	// open files, slab_reclaimable for the dentries, although these are in use. v1: kernel_unsplit.
	Slab Kind = "slab"
	// Pipe is what waits in pipes: kernel_other; v1: kernel_unsplit.
	Pipe Kind = "pipe"
	// Socket is what waits in TCP connections: sock. v1 charges it to a cgroup only where kmem.tcp has a limit.
	Socket Kind = "socket"
)

// kinds are all kinds, in the order in which they are listed, with their words.
var kinds = []struct {
	kind  Kind
	words string
}{
	{Anon, "anonymous memory"},
	{THP, "anonymous memory in huge pages"},
	{Mlock, "locked anonymous memory"},
	{Tmpfs, "shared memory (tmpfs)"},
	{File, "inactive page cache"},
	{FileActive, "active page cache"},
	{Slab, "kernel objects (slab)"},
	{Pipe, "pipe buffers"},
	{Socket, "socket buffers"},
}

// ParseKind finds a kind by its name.
func ParseKind(name string) (Kind, error) {
	for _, k := range kinds {
		if string(k.kind) == name {
			return k.kind, nil
		}
	}
	return "", fmt.Errorf("%q is no kind of memory: one of %s", name, KindNames())
}

// KindNames are the names of all kinds, for a person.
func KindNames() string {
	var names []string
	for _, k := range kinds {
		names = append(names, string(k.kind))
	}
	return strings.Join(names, ", ")
}

// UnmarshalText is ParseKind.
func (k *Kind) UnmarshalText(b []byte) (err error) {
	*k, err = ParseKind(string(b))
	return err
}

// words is the kind as a person says it.
func (k Kind) words() string {
	i := slices.IndexFunc(kinds, func(e struct {
		kind  Kind
		words string
	}) bool {
		return e.kind == k
	})
	return kinds[i].words
}

// open prepares to take memory of a kind, and finds out whether that can be done. The granule is what it is taken in
// multiples of. Nothing is taken yet.
func open(c *Config, w *Watcher) (m memory, granule uint64, err error) {
	if !slices.Contains([]Kind{Anon, THP, Mlock}, c.Kind) && c.Touch < 1 {
		return nil, 0, fmt.Errorf("--touch below 1 is for anon and thp: %s has no untouched part", c.Kind)
	}
	page := pageSize()
	switch c.Kind {
	case Anon:
		return newMapped(c, page, smallPages), page, nil
	case THP:
		size, err := w.hugePage()
		if err != nil {
			return nil, 0, err
		}
		return newMapped(c, size, hugePages), size, nil
	case Mlock:
		if c.Touch < 1 {
			return nil, 0, errors.New("--touch below 1 is for anon and thp: locked memory is all resident")
		}
		m := newMapped(c, page, smallPages)
		m.populated = lock
		return m, page, mayLock(c.Max)
	case Tmpfs:
		m, err = newTmpfs(c)
		return m, page, err
	case File, FileActive:
		m, err = newPageCache(c)
		return m, page, err
	case Slab:
		m, err = newObjects(c.Max)
		return m, objectBytes, err
	case Pipe:
		m, err = newPipes(w, c.Max)
		return m, page, err
	case Socket:
		m, err = newSockets(c.Max)
		return m, socketPart, err
	}
	return nil, 0, fmt.Errorf("%q is no kind of memory: one of %s", c.Kind, KindNames())
}

func newMapped(c *Config, granule uint64, prepare func([]byte) error) *mapped {
	return &mapped{
		blockBytes: roundUp(c.Block, granule), limit: roundUp(c.Max, granule), pattern: pattern{c.Touch, c.Spread}, workers: c.Workers,
		prepare: prepare, granule: granule,
	}
}

func roundUp(n, granule uint64) uint64 { return (n + granule - 1) / granule * granule }

// smallPages keeps a block out of huge pages, so that what is taken is what was asked for. A kernel without
// CONFIG_TRANSPARENT_HUGEPAGE does not know the advice, nor need it.
func smallPages(b []byte) error {
	if err := unix.Madvise(b, unix.MADV_NOHUGEPAGE); err != nil && err != unix.EINVAL {
		return &os.SyscallError{Syscall: "madvise(MADV_NOHUGEPAGE)", Err: err}
	}
	return nil
}

func hugePages(b []byte) error {
	if err := unix.Madvise(b, unix.MADV_HUGEPAGE); err != nil {
		return &os.SyscallError{Syscall: "madvise(MADV_HUGEPAGE)", Err: err}
	}
	return nil
}

// hugePage is the size of a transparent huge page, an error where there are none.
func (w *Watcher) hugePage() (uint64, error) {
	dir := filepath.Join(w.sysfs, "kernel", "mm", "transparent_hugepage")
	enabled, err := os.ReadFile(filepath.Join(dir, "enabled"))
	if err != nil {
		return 0, fmt.Errorf("this kernel has no transparent huge pages: %w", err)
	}
	if strings.Contains(string(enabled), "[never]") {
		return 0, fmt.Errorf("transparent huge pages are off: write madvise to %s", filepath.Join(dir, "enabled"))
	}
	return readNumber(filepath.Join(dir, "hpage_pmd_size"))
}

// lock is mlock, which a process may do within RLIMIT_MEMLOCK.
func lock(b []byte) error {
	if err := unix.Mlock(b); err != nil {
		return &os.SyscallError{Syscall: "mlock", Err: err}
	}
	return nil
}

// mayLock tells before anything is taken that so much may not be locked.
func mayLock(most uint64) error {
	var r unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &r); err != nil {
		return err
	}
	if r.Cur == unix.RLIM_INFINITY || most > 0 && most <= r.Cur || hasCapability(unix.CAP_IPC_LOCK) {
		return nil
	}
	return fmt.Errorf("this process may lock %s (RLIMIT_MEMLOCK, ulimit -l): raise that, or give it CAP_IPC_LOCK", sizeText(r.Cur))
}

// hasCapability tells whether the process has an effective capability.
func hasCapability(capability uint) bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return false
	}
	return data[capability/32].Effective&(1<<(capability%32)) != 0
}
