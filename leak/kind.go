package leak

import (
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

// traits are what a kind is called and which options have a meaning for it.
type traits struct {
	kind  Kind
	words string
	// mapped tells that the process maps it: parts of it can be left untouched, and several threads can touch it.
	mapped bool
	// listed tells that it is on the kernel's lists of pages that are reclaimed by age, so that touching keeps it there.
	listed bool
	// placed tells that it is in a file, which has a folder.
	placed bool
	// reclaimed tells that a limit does not end it: the kernel drops some of it there.
	reclaimed bool
}

// kinds are all kinds, in the order in which they are listed.
var kinds = []traits{
	{kind: Anon, words: "anonymous memory", mapped: true, listed: true},
	{kind: THP, words: "anonymous memory in huge pages", mapped: true, listed: true},
	{kind: Mlock, words: "locked anonymous memory", mapped: true},
	{kind: Tmpfs, words: "shared memory (tmpfs)", listed: true, placed: true},
	{kind: File, words: "inactive page cache", listed: true, placed: true, reclaimed: true},
	{kind: FileActive, words: "active page cache", listed: true, placed: true, reclaimed: true},
	{kind: Slab, words: "kernel objects (slab)"},
	{kind: Pipe, words: "pipe buffers"},
	{kind: Socket, words: "socket buffers"},
}

func (k Kind) traits() traits {
	i := slices.IndexFunc(kinds, func(t traits) bool { return t.kind == k })
	if i < 0 {
		return traits{}
	}
	return kinds[i]
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

// Check tells of options that have no meaning for the kind, rather than leave them without effect.
func (c *Config) Check() error {
	k, t := c.Kind, c.Kind.traits()
	switch {
	case t.kind == "":
		return fmt.Errorf("%q is no kind of memory: one of %s", k, KindNames())
	case c.Touch < 1 && (!t.mapped || k == Mlock):
		return fmt.Errorf("--touch below 1 is for anon and thp: %s has no untouched part", k)
	case c.Workers > 1 && !t.mapped:
		return fmt.Errorf("--workers is for anon, thp and mlock: %s is taken by one thread", k)
	case c.KeepHot && !t.listed:
		return fmt.Errorf("--keep-hot is for what the kernel may reclaim: %s can't be", k)
	case c.Dir != "" && !t.placed:
		return fmt.Errorf("--dir is for tmpfs, file and file-active: %s is in no file", k)
	}
	return nil
}

// open prepares to take memory of a kind, and finds out whether that can be done. The granule is what it is taken in
// multiples of. Nothing is taken yet.
func open(c *Config, w *Watcher) (m memory, granule uint64, err error) {
	if err := c.Check(); err != nil {
		return nil, 0, err
	}
	page := pageSize()
	switch c.Kind {
	case THP:
		size, err := w.hugePage()
		if err != nil {
			return nil, 0, err
		}
		return newMapped(c, size, hugePages), size, nil
	case Mlock:
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
	default:
		return newMapped(c, page, smallPages), page, nil
	}
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
