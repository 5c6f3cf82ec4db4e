package leak

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// nameless is a new file without a name in a folder: it goes with the process, however that ends.
func nameless(dir string) (*os.File, error) {
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("making a file without a name: %w; --dir says where, a folder that may be written to",
			&os.PathError{Op: "open", Path: dir, Err: err})
	}
	return os.NewFile(uintptr(fd), dir), nil
}

// statfs asks about the file system at dir.
func statfs(dir string) (st unix.Statfs_t, err error) {
	if err := unix.Statfs(dir, &st); err != nil {
		return st, fmt.Errorf("%w; --dir says where", &os.PathError{Op: "statfs", Path: dir, Err: err})
	}
	return st, nil
}

// tmpfs is a file in a tmpfs. Its pages are nobody's mapping: they count in the cgroup's shmem, but in no process's RSS.
type tmpfs struct {
	file *os.File
	used uint64
	hot  reread
}

// newTmpfs uses the kernel's own tmpfs, which has no size, or the one at the folder.
func newTmpfs(c *Config) (*tmpfs, error) {
	if c.Dir == "" {
		fd, err := unix.MemfdCreate("memrecon-leak", unix.MFD_CLOEXEC)
		if err != nil {
			return nil, &os.SyscallError{Syscall: "memfd_create", Err: err}
		}
		return &tmpfs{file: os.NewFile(uintptr(fd), "memfd")}, nil
	}
	st, err := statfs(c.Dir)
	if err != nil {
		return nil, err
	}
	if st.Type != unix.TMPFS_MAGIC {
		return nil, fmt.Errorf("%s is not in a tmpfs: mount one, or leave --dir out", c.Dir)
	}
	// One without a size has 0 blocks, whatever is in it.
	if free := st.Bavail * uint64(st.Bsize); st.Blocks > 0 && c.Max > free {
		return nil, fmt.Errorf("the tmpfs at %s has room for %s: take less, or mount it with a larger size=", c.Dir, sizeText(free))
	}
	file, err := nameless(c.Dir)
	if err != nil {
		return nil, err
	}
	return &tmpfs{file: file}, nil
}

func (t *tmpfs) grow(n uint64) error {
	// A signal interrupts it, and what it had taken is given back.
	err := again(func() error { return unix.Fallocate(int(t.file.Fd()), 0, int64(t.used), int64(n)) })
	switch {
	case errors.Is(err, unix.ENOSPC):
		return fmt.Errorf("%w: the tmpfs at %s is full: mount it with a larger size=", ErrNoMemory, t.file.Name())
	case err != nil:
		return &os.PathError{Op: "fallocate", Path: t.file.Name(), Err: err}
	}
	t.used += n
	return nil
}

func (t *tmpfs) shrink(n uint64) error {
	t.used -= min(t.used, n)
	return t.file.Truncate(int64(t.used))
}

func (t *tmpfs) touched() uint64 { return t.used }
func (t *tmpfs) touch() error    { return t.hot.all(t.file, t.used) }
func (t *tmpfs) close() error    { return t.file.Close() }

// pageCache is the cache of a file of holes: to read a hole the kernel fills a page of the cache with zeros and needs no
// disk. Who reads is charged.
type pageCache struct {
	file *os.File
	used uint64
	// reads is how often each page is read: once for the inactive list, where the kernel puts new pages; by the second read
	// it takes note, by the third the page is active for sure.
	reads int
	hot   reread
}

func newPageCache(c *Config) (*pageCache, error) {
	dir := c.Dir
	if dir == "" {
		dir = diskDir()
	}
	st, err := statfs(dir)
	if err != nil {
		return nil, err
	}
	if st.Type == unix.TMPFS_MAGIC || st.Type == unix.RAMFS_MAGIC {
		return nil, fmt.Errorf("%s is in a tmpfs, whose pages are shared memory and no page cache: --dir takes a folder on a disk", dir)
	}
	file, err := nameless(dir)
	if err != nil {
		return nil, err
	}
	// Without this the kernel would read ahead of what was asked for.
	if err := unix.Fadvise(int(file.Fd()), 0, 0, unix.FADV_RANDOM); err != nil {
		_ = file.Close()
		return nil, &os.SyscallError{Syscall: "posix_fadvise", Err: err}
	}
	p := &pageCache{file: file, reads: 1}
	if c.Kind == FileActive {
		p.reads = 3
	}
	return p, nil
}

// diskDir is a folder that anybody may write to and that stands on a disk as a rule: TMPDIR, else /var/tmp, which unlike /tmp
// is to outlive a boot.
func diskDir() string {
	if dir := os.Getenv("TMPDIR"); dir != "" {
		return dir
	}
	return "/var/tmp"
}

func (p *pageCache) grow(n uint64) error {
	if err := p.file.Truncate(int64(p.used + n)); err != nil {
		return err
	}
	for range p.reads {
		if err := p.hot.part(p.file, p.used, p.used+n); err != nil {
			return err
		}
	}
	p.used += n
	return nil
}

func (p *pageCache) shrink(n uint64) error {
	p.used -= min(p.used, n)
	return p.file.Truncate(int64(p.used))
}

func (p *pageCache) touched() uint64 { return p.used }
func (p *pageCache) touch() error    { return p.hot.all(p.file, p.used) }
func (p *pageCache) close() error    { return p.file.Close() }

// reread reads files into a buffer that nobody looks at.
type reread struct{ buffer []byte }

func (r *reread) all(f *os.File, size uint64) error { return r.part(f, 0, size) }

func (r *reread) part(f *os.File, from, to uint64) error {
	if r.buffer == nil {
		r.buffer = make([]byte, 128<<10)
	}
	for from < to {
		n, err := f.ReadAt(r.buffer[:min(uint64(len(r.buffer)), to-from)], int64(from))
		if err != nil {
			return err
		}
		from += uint64(n)
	}
	return nil
}

// objects are files without a name and without content: for each the kernel has an inode, a dentry with a long name, and an
// open file.
type objects struct{ fds []int }

// objectBytes is about what one of them takes: an inode of tmpfs some 700 bytes, a dentry 192, its long name 256 and an open
// file 256, and what slabs lose between objects.
const objectBytes = 1536

// newObjects makes sure that so many files may be open.
func newObjects(most uint64) (*objects, error) { return &objects{}, mayOpen(most / objectBytes) }

func (o *objects) grow(n uint64) error {
	const longName = 233 // with "memfd:" before it and what the kernel puts around it, 256 bytes
	name := strings.Repeat("n", longName)
	for range n / objectBytes {
		fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
		if err != nil {
			return filesError("memfd_create", err)
		}
		o.fds = append(o.fds, fd)
	}
	return nil
}

func (o *objects) shrink(n uint64) error {
	for range min(n/objectBytes, uint64(len(o.fds))) {
		last := len(o.fds) - 1
		_ = unix.Close(o.fds[last]) // nothing was written
		o.fds = o.fds[:last]
	}
	return nil
}

func (o *objects) touched() uint64 { return uint64(len(o.fds)) * objectBytes }
func (o *objects) touch() error    { return nil }
func (o *objects) close() error    { return o.shrink(o.touched()) }

// reservedFiles are left to the rest of the process.
const reservedFiles = 64

// mayOpen raises the limit of open files as far as it goes, and tells before anything is taken that it is too low for so
// many. Their number is unknown, 0, where there is no end.
func mayOpen(files uint64) error {
	var r unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &r); err != nil {
		return err
	}
	wanted := files + reservedFiles
	if wanted > r.Max && unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: wanted, Max: wanted}) == nil {
		return nil // CAP_SYS_RESOURCE, and within fs.nr_open
	}
	r.Cur = r.Max
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &r); err != nil {
		return err
	}
	if wanted > r.Max {
		return fmt.Errorf("that takes %d open files, and this process may open %d (RLIMIT_NOFILE, ulimit -Hn): take less, or raise that",
			files, r.Max)
	}
	return nil
}

// filesError makes the limit of open files a refusal like others.
func filesError(call string, err error) error {
	if errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) {
		return fmt.Errorf("%w: %w (RLIMIT_NOFILE, ulimit -Hn)", ErrNoMemory, &os.SyscallError{Syscall: call, Err: err})
	}
	return &os.SyscallError{Syscall: call, Err: err}
}

// again makes a system call until no signal interrupts it.
func again(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

func readNumber(file string) (uint64, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", file, err)
	}
	return n, nil
}
