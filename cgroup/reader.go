package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"math/bits"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/memrecon/memrecon/snapshot"
)

// Options of a Reader.
type Options struct {
	// MaxOpenFiles is how many file descriptors may be kept; 0 for what RLIMIT_NOFILE leaves.
	MaxOpenFiles int
}

// How often things are done, in sweeps.
const (
	slowEvery = 30 // each cgroup's slow files, a part of the cgroups in each sweep
	fullEvery = 60 // a walk of all folders, as the check of the incremental discovery
)

// Sizes of the one buffer that all files are read into.
const (
	firstBuffer = 16 << 10
	maxBuffer   = 1 << 20
)

// reservedFiles is how many descriptors are left to the rest of the process.
const reservedFiles = 256

// Reader keeps a hierarchy read. It keeps each cgroup's folder and files open and reads them anew in each sweep; in a sweep
// in which no cgroup came, went or changed its set of keys, it allocates nothing. It is for one goroutine at a time.
//
// New cgroups are found without a walk: cgroupfs keeps a folder's link count at two and its child folders (kernfs sets it
// whenever the folder is looked at), and a removed cgroup's files answer ENODEV. Both make the reader list that one folder
// again.
type Reader struct {
	hierarchy Hierarchy
	files     fileSet
	layouts   layouts
	root      *node
	order     []*node // parents before children, siblings by name
	changed   bool    // order is behind the tree
	round     int
	buffer    []byte
	stat      unix.Stat_t

	open, budget int
	starved      bool // the budget was not enough for all
	// lacks are the slow files that this kernel does not have, for the root and for all others; looked for again in each
	// full walk.
	lacks [2]uint32
	// lastError is the newest error of each file, with the cgroup it came from.
	lastError [32]fileError
	stats     Stats
}

type fileError struct {
	err  error
	path string
}

// Stats counts what the reader did.
type Stats struct {
	// Cgroups is how many there are now.
	Cgroups int
	// Appeared and Vanished count over the reader's life, without the first sweep.
	Appeared, Vanished int
	// WithoutMemory is how many v2 cgroups the newest look found without a memory controller; their memory is their parent's.
	WithoutMemory int
	// Missed is how many changes only the full walk found.
	Missed int
	// OpenFiles is how many descriptors are kept.
	OpenFiles int
}

// node is one cgroup.
type node struct {
	data     snapshot.Cgroup
	name     string
	parent   *node
	children []*node // by name
	dir      int     // the folder's descriptor, -1 where it is opened by its path
	fds      [maxFast]int
	links    uint64
	dead     bool
	// failed and malformed have a bit for each file whose newest reading went wrong.
	failed, malformed uint32
	// unlisted tells that its folder could not be listed.
	unlisted bool
	without  int // children without memory controller
}

// Open prepares a reader; the first Sweep reads everything.
func Open(h Hierarchy, o Options) (*Reader, error) {
	r := &Reader{hierarchy: h, files: filesOf(h.Mode), buffer: make([]byte, firstBuffer), budget: o.MaxOpenFiles}
	if r.budget == 0 {
		var limit unix.Rlimit
		if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
			return nil, fmt.Errorf("RLIMIT_NOFILE: %w", err)
		}
		r.budget = int(min(limit.Cur, 1<<24)) - reservedFiles
	}
	return r, nil
}

// Close gives all descriptors back.
func (r *Reader) Close() error {
	if r.root != nil {
		r.forget(r.root)
		r.root = nil
	}
	return nil
}

// Stats counts what the reader did so far.
func (r *Reader) Stats() Stats {
	s := r.stats
	s.Cgroups, s.OpenFiles = len(r.order), r.open
	for _, n := range r.order {
		s.WithoutMemory += n.without
	}
	return s
}

// Sweep reads the hierarchy anew. Cgroups that come and go meanwhile are no error. Errors are *Error: the root itself can't
// be read.
func (r *Reader) Sweep() error {
	first := r.root == nil
	before := r.stats
	if first {
		root, err := r.enter(nil, "/")
		if err != nil {
			return &Error{r.hierarchy.Dir, err, "Say with --path.sysfs where the host's /sys is."}
		}
		if root == nil {
			return &Error{r.hierarchy.Dir, ErrNoController, noControllerHint}
		}
		r.root, r.changed = root, true
		r.arrange()
		r.stats.Appeared = before.Appeared
		r.round++
		return nil
	}
	full := r.hierarchy.Copy || r.round%fullEvery == 0
	if full {
		r.lacks = [2]uint32{}
	}
	r.discover(full)
	r.arrange()
	for i, n := range r.order {
		if n.dead {
			continue
		}
		if !r.read(n, r.files.fast, 0) {
			r.lose(n)
			continue
		}
		if (r.round+i)%slowEvery == 0 && !r.read(n, r.files.slow, len(r.files.fast)) {
			r.lose(n)
		}
	}
	r.round++
	r.arrange()
	if r.root == nil {
		return &Error{r.hierarchy.Dir, errors.New("the hierarchy is gone"), "It was unmounted, or memrecon was moved to another mount namespace."}
	}
	return nil
}

// discover finds cgroups that came or went; full looks into every folder.
func (r *Reader) discover(full bool) {
	for _, n := range r.order {
		if n.dead {
			continue
		}
		inode, links, ok := r.look(n)
		if !ok || inode != n.data.Inode {
			r.lose(n)
			continue
		}
		moved := links != n.links
		if !moved && !full {
			continue
		}
		n.links = links
		if r.list(n) && !moved && !r.hierarchy.Copy {
			r.stats.Missed++
		}
	}
}

// look is a folder's inode and link count now.
func (r *Reader) look(n *node) (inode, links uint64, ok bool) {
	var err error
	if n.dir >= 0 {
		err = ignoringEINTR(func() error { return unix.Fstat(n.dir, &r.stat) })
	} else {
		err = ignoringEINTR(func() error { return unix.Stat(r.pathOf(n), &r.stat) })
	}
	return r.stat.Ino, uint64(r.stat.Nlink), err == nil //nolint:unconvert // uint32 on some platforms
}

// lose drops a cgroup that vanished with its descendants, and looks at what is there in its place.
func (r *Reader) lose(n *node) {
	parent := n.parent
	r.stats.Vanished += r.forget(n)
	r.changed = true
	if parent == nil {
		r.root = nil
		return
	}
	parent.children = slices.DeleteFunc(parent.children, func(c *node) bool { return c == n })
	if !parent.dead {
		r.list(parent)
	}
}

// forget closes a cgroup and its descendants, and tells how many they were.
func (r *Reader) forget(n *node) int {
	count := 1
	for _, c := range n.children {
		count += r.forget(c)
	}
	n.dead = true
	for i, fd := range n.fds {
		r.release(fd)
		n.fds[i] = -1
	}
	r.release(n.dir)
	n.dir = -1
	return count
}

func (r *Reader) release(fd int) {
	if fd >= 0 {
		_ = unix.Close(fd)
		r.open--
	}
}

// list reads a folder's entries and brings the children up to date. It tells whether anything had changed.
func (r *Reader) list(n *node) bool {
	names, err := r.childNames(n)
	if err != nil {
		n.unlisted = !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENODEV)
		return false
	}
	n.unlisted = false
	changed := false
	n.children = slices.DeleteFunc(n.children, func(c *node) bool {
		if _, found := slices.BinarySearch(names, c.name); found {
			return false
		}
		r.stats.Vanished += r.forget(c)
		changed = true
		return true
	})
	n.without = 0
	for _, name := range names {
		i, known := slices.BinarySearchFunc(n.children, name, func(c *node, name string) int { return strings.Compare(c.name, name) })
		if known {
			continue
		}
		child, err := r.enter(n, name)
		switch {
		case err != nil: // gone again, or not to be opened
			if errors.Is(err, fs.ErrPermission) {
				n.unlisted = true
			}
		case child == nil:
			n.without++
		default:
			n.children = slices.Insert(n.children, i, child)
			changed = true
		}
	}
	r.changed = r.changed || changed
	return changed
}

// childNames are the names of a folder's subfolders, sorted.
func (r *Reader) childNames(n *node) ([]string, error) {
	fd, err := r.openDir(n, ".")
	if err != nil {
		return nil, err
	}
	defer func() { _ = unix.Close(fd) }()
	return subfolders(fd)
}

// enter opens and reads a new cgroup with all below it. It is nil for a v2 cgroup without a memory controller.
func (r *Reader) enter(parent *node, name string) (*node, error) {
	n := &node{name: name, parent: parent, dir: -1}
	n.fds = [maxFast]int{-1, -1, -1, -1}
	if parent == nil {
		n.data.Path, n.data.Parent = "/", -1
	} else {
		n.data.Path = path.Join(parent.data.Path, name)
	}
	n.data.Identity = Identify(n.data.Path)
	fd, err := r.openDir(n, "")
	if err != nil {
		return nil, err
	}
	if r.open < r.budget {
		n.dir = fd
		r.open++
	} else {
		r.starved = true
		defer func() { _ = unix.Close(fd) }()
	}
	if err := ignoringEINTR(func() error { return unix.Fstat(fd, &r.stat) }); err != nil {
		r.forget(n)
		return nil, err
	}
	n.data.Inode, n.links = r.stat.Ino, uint64(r.stat.Nlink) //nolint:unconvert // uint32 on some platforms
	if parent != nil && r.hierarchy.Mode.Files() == snapshot.V2 && !has(fd, "memory.current\x00") && !has(fd, "memory.stat\x00") {
		r.forget(n)
		if !has(fd, "cgroup.procs\x00") && !r.hierarchy.Copy {
			return nil, fs.ErrNotExist // gone again
		}
		return nil, nil
	}
	r.keep(n)
	if !r.read(n, r.files.fast, 0) || !r.read(n, r.files.slow, len(r.files.fast)) {
		r.forget(n)
		return nil, fs.ErrNotExist
	}
	r.stats.Appeared++
	r.list(n)
	return n, nil
}

// keep opens the files that every sweep reads, as far as the budget goes: a quarter of it is for folders alone.
func (r *Reader) keep(n *node) {
	if n.dir < 0 {
		return
	}
	if r.open+len(r.files.fast) > r.budget-r.budget/4 {
		r.starved = true
		return
	}
	for i := range r.files.fast {
		if fd, errno := openat(n.dir, r.files.fast[i].name, 0); errno == 0 {
			n.fds[i] = fd
			r.open++
		}
	}
}

// read reads some of a cgroup's files; at is the number of the first. It is false where the cgroup is gone.
func (r *Reader) read(n *node, files []file, at int) bool {
	for i := range files {
		f, bit := &files[i], uint32(1)<<(at+i)
		lacks := &r.lacks[0]
		if n.parent == nil {
			lacks = &r.lacks[1]
		}
		if *lacks&bit != 0 {
			continue
		}
		fd := -1
		if at == 0 {
			fd = n.fds[i]
		}
		size, err := r.content(n, f, fd)
		switch {
		case err == nil:
			n.failed &^= bit
			if f.take(&n.data, r.buffer[:size], &r.layouts) {
				n.malformed &^= bit
			} else {
				n.malformed |= bit
				r.lastError[at+i] = fileError{errors.New("malformed"), n.data.Path}
			}
			continue
		case err == unix.ENODEV:
			return false
		case err == unix.ENOENT:
			// The kernel does not have the file, or the cgroup is gone.
			if !r.alive(n) {
				return false
			}
			*lacks |= bit
			if r.hierarchy.Copy { // each cgroup of a copy may lack what it likes
				*lacks &^= bit
			}
		case err == unix.EOPNOTSUPP: // memory.pressure where PSI is off
			*lacks |= bit
		default:
			n.failed |= bit
			r.lastError[at+i] = fileError{err, n.data.Path}
		}
		f.clear(&n.data)
	}
	return true
}

// content reads a file into the buffer. An error is an unix.Errno, or errTooLarge.
func (r *Reader) content(n *node, f *file, fd int) (int, error) {
	if fd < 0 {
		var errno unix.Errno
		if fd, errno = r.openFile(n, f); errno != 0 {
			return 0, errno
		}
		defer func() { _ = unix.Close(fd) }()
	}
	for {
		size, err := unix.Pread(fd, r.buffer, 0)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return 0, err
		case size < len(r.buffer):
			return size, nil
		case len(r.buffer) >= maxBuffer:
			return 0, errTooLarge
		default:
			r.buffer = make([]byte, 2*len(r.buffer))
		}
	}
}

var errTooLarge = errors.New("larger than any memory file of a kernel")

func (r *Reader) openFile(n *node, f *file) (int, unix.Errno) {
	if n.dir >= 0 {
		return openat(n.dir, f.name, 0)
	}
	return openat(unix.AT_FDCWD, append([]byte(filepath.Join(r.pathOf(n), f.Name())), 0), 0)
}

// openDir opens a folder: the cgroup's own for ".", from its parent for "".
func (r *Reader) openDir(n *node, name string) (int, error) {
	at, p := unix.AT_FDCWD, r.pathOf(n)
	switch {
	case name == "." && n.dir >= 0:
		at, p = n.dir, "."
	case name == "" && n.parent != nil && n.parent.dir >= 0:
		at, p = n.parent.dir, n.name
	}
	fd, errno := openat(at, append([]byte(p), 0), unix.O_DIRECTORY)
	if errno != 0 {
		return -1, errno
	}
	return fd, nil
}

// pathOf is where a cgroup's folder is.
func (r *Reader) pathOf(n *node) string { return filepath.Join(r.hierarchy.Dir, n.data.Path) }

// alive tells whether a cgroup still is there: a removed one's folder has no files any more.
func (r *Reader) alive(n *node) bool {
	if r.hierarchy.Copy {
		_, _, ok := r.look(n)
		return ok
	}
	if n.dir >= 0 {
		return has(n.dir, "cgroup.procs\x00")
	}
	return exists(filepath.Join(r.pathOf(n), "cgroup.procs"))
}

// arrange brings the order up to the tree.
func (r *Reader) arrange() {
	if !r.changed {
		return
	}
	r.changed = false
	r.order = r.order[:0]
	if r.root != nil {
		r.arrangeFrom(r.root, -1)
	}
}

func (r *Reader) arrangeFrom(n *node, parent int32) {
	index := int32(len(r.order))
	n.data.Parent = parent
	r.order = append(r.order, n)
	for _, c := range n.children {
		r.arrangeFrom(c, index)
	}
}

// Snapshot is an independent copy of what the newest sweep read, and what it could not read.
func (r *Reader) Snapshot() ([]snapshot.Cgroup, []snapshot.SourceError) {
	size := 0
	for _, n := range r.order {
		size += len(n.data.Stat.Values) + len(n.data.Events.Values) + len(n.data.EventsLocal.Values) + len(n.data.OOMControl.Values)
	}
	arena := make([]uint64, 0, size)
	own := func(s *snapshot.Stat) {
		at := len(arena)
		arena = append(arena, s.Values...)
		s.Values = arena[at:len(arena):len(arena)]
	}
	out := make([]snapshot.Cgroup, len(r.order))
	for i, n := range r.order {
		c := &out[i]
		*c = n.data
		own(&c.Stat)
		own(&c.Events)
		own(&c.EventsLocal)
		own(&c.OOMControl)
	}
	return out, r.errors()
}

// errors sums up what went wrong, a line for each file.
func (r *Reader) errors() []snapshot.SourceError {
	var failed, malformed [32]int
	unlisted, example := 0, ""
	for _, n := range r.order {
		for left := n.failed | n.malformed; left != 0; left &= left - 1 {
			bit := left & -left
			i := bits.TrailingZeros32(bit)
			if n.failed&bit != 0 {
				failed[i]++
			} else {
				malformed[i]++
			}
		}
		if n.unlisted {
			unlisted, example = unlisted+1, n.data.Path
		}
	}
	var out []snapshot.SourceError
	for i, f := range r.files.all() {
		where := filepath.Join(r.hierarchy.Dir, r.lastError[i].path, f.Name())
		if failed[i] > 0 {
			e := snapshot.SourceError{Source: where, Error: r.lastError[i].err.Error(), Hint: "Its part of the report is absent."}
			if errors.Is(r.lastError[i].err, fs.ErrPermission) {
				e.Hint = "Run memrecon as a user who may read it."
			}
			if failed[i] > 1 {
				e.Error += fmt.Sprintf(", as in %d cgroups in all", failed[i])
			}
			out = append(out, e)
		}
		if malformed[i] > 0 {
			e := snapshot.SourceError{Source: where, Error: "empty, cut off, or with lines that memrecon can't read", Hint: "What could be read of it is in the report."}
			if malformed[i] > 1 {
				e.Error += fmt.Sprintf(", as in %d cgroups in all", malformed[i])
			}
			out = append(out, e)
		}
	}
	if unlisted > 0 {
		out = append(out, snapshot.SourceError{Source: filepath.Join(r.hierarchy.Dir, example), Error: fmt.Sprintf("the children of %d cgroups could not all be opened", unlisted),
			Hint: "Run memrecon as a user who may list them; their memory counts as their parent's."})
	}
	if r.starved {
		out = append(out, snapshot.SourceError{Source: "RLIMIT_NOFILE", Error: fmt.Sprintf("%d descriptors are too few to keep the files of %d cgroups open; they are opened for each read", r.budget, len(r.order)),
			Hint: "Nothing is missing, reading takes longer; raise the limit (LimitNOFILE, ulimit -n) to some 5 for each cgroup."})
	}
	return out
}
