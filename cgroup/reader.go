// Package cgroup reads the memory controller's cgroups: which layout a node has (v1, v2, hybrid), every cgroup of the
// hierarchy with every file that a snapshot holds, each second and without allocating, whose a cgroup is by its path, and at once
// when its OOM counters move. It does not know what the figures mean.
package cgroup

import (
	"fmt"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/memrecon/memrecon/snapshot"
)

// Options are how a Reader reads. The zero Options are the defaults.
type Options struct {
	// MaxOpenFiles bounds the file descriptors kept between sweeps, 0 for RLIMIT_NOFILE less a reserve. Of cgroups beyond it
	// the files are opened for each read, which takes about twice the time. Each file kept costs some 4 KiB of kernel memory
	// (the kernel keeps what it last read), charged to memrecon's own cgroup.
	MaxOpenFiles int
	// SlowEvery is in how many sweeps each cgroup's slow files (limits, peak, pressure) are read once; 0 for 30.
	SlowEvery int
	// CheckEvery is in how many sweeps each folder is listed once without a sign of a change; 0 for 60.
	CheckEvery int
}

// Stats is how the reading goes.
type Stats struct {
	// Cgroups is how many there are now.
	Cgroups int
	// WithoutMemory is how many v2 cgroups were passed over, each with all below it, as the memory controller is not enabled
	// for them: their memory is their parent's.
	WithoutMemory int
	// OpenFiles is the number of file descriptors kept.
	OpenFiles int

	// What follows counts from Open on.

	// Sweeps without the failed ones.
	Sweeps int
	// Appeared and Vanished count the cgroups that came and went after the first sweep.
	Appeared, Vanished int
	// Listed counts the folders listed, and Missed the cgroups that only a check has found.
	Listed, Missed int
	// Failed counts the reads of a file or folder that failed, other than for its absence, or gave what could not be parsed
	// in full.
	Failed int
}

// Reader reads one hierarchy, again and again. Its methods must not run at the same time.
//
// It keeps every cgroup's state, and brings it up to date in each sweep. A cgroup's files that move are read through file
// descriptors that stay open, into one buffer, and parsed into memory that stays as well. A file descriptor belongs to one
// cgroup for good: when that is removed, a read gives ENODEV, also where another has been made with the same name.
//
// New cgroups show in the link count of their parent's folder, which the kernel sets to the number of child cgroups plus two
// (kernfs, all versions); only a folder where that has changed, or where a child is gone, is listed again. As a check each
// folder is also listed now and then, in turn, so that no sweep does it for all. Other file systems count links in other
// ways: in a copy each sweep opens and lists everything.
type Reader struct {
	hierarchy  Hierarchy
	files      files
	slowEvery  int
	checkEvery int

	root *node
	// order is the tree, depth first; a change makes it stale until the sweep's end.
	order []*node
	stale bool
	// revisit are the folders to be listed again at the sweep's end, as a child was gone.
	revisit []*node
	// found are new children that wait to be read, a stack.
	found []entry

	layouts     layouts
	descriptors descriptors
	buf         []byte // a file's content
	dirents     []byte // a piece of a folder's
	made        int    // nodes made, which gives each its turn
	st          unix.Stat_t
	stats       Stats
}

// A file's content is read into a buffer that grows up to maxContent bytes; the kernel's largest are some KiB.
const (
	usualContent = 16 << 10
	maxContent   = 1 << 20
)

// Open prepares to read a hierarchy. An error is an *Error.
func Open(h Hierarchy, o Options) (*Reader, error) {
	r := &Reader{
		hierarchy:   h,
		files:       filesOf(h.Mode),
		slowEvery:   30,
		checkEvery:  60,
		buf:         make([]byte, usualContent),
		dirents:     make([]byte, 32<<10),
		descriptors: newDescriptors(o.MaxOpenFiles),
	}
	if o.SlowEvery > 0 {
		r.slowEvery = o.SlowEvery
	}
	if o.CheckEvery > 0 {
		r.checkEvery = o.CheckEvery
	}
	if h.Copy {
		r.descriptors.limit = 1 // for the root's folder
	}
	fd, errno := openat(unix.AT_FDCWD, append([]byte(h.Dir), 0), unix.O_RDONLY|unix.O_DIRECTORY)
	if errno != 0 {
		return nil, &Error{h.Dir, errno, flaw(errno).hint()}
	}
	r.descriptors.kept++
	r.root = r.newNode(nil, "", 0)
	r.root.dir = fd
	r.order = []*node{r.root}
	return r, nil
}

// Close gives the file descriptors back. The Reader can't be used afterwards.
func (r *Reader) Close() error {
	r.forget(r.root)
	r.order = nil
	return nil
}

// Sweep brings the state of every cgroup up to date. That cgroups come and go meanwhile is no error, nor is a file that can't
// be read: Snapshot tells it. An error, an *Error, means that there is no hierarchy any more.
func (r *Reader) Sweep() error {
	if !r.visit(r.root) {
		return &Error{r.hierarchy.Dir, ErrNotMounted, mountHint}
	}
	for _, n := range r.order {
		if n.gone || n == r.root || r.visit(n) {
			continue
		}
		r.vanish(n)
		if p := n.parent; p.links != unlisted {
			p.links = unlisted
			r.revisit = append(r.revisit, p)
		}
	}
	// A cgroup that is gone may have been made again, with a link count as before.
	for _, n := range r.revisit {
		if !n.gone && !r.relist(n) {
			n.links = unlisted // the next sweep sees
		}
	}
	clear(r.revisit)
	r.revisit = r.revisit[:0]
	if r.stale {
		clear(r.order)
		r.order = r.root.appendTo(r.order[:0])
		r.stale = false
	}
	if r.stats.Sweeps == 0 {
		r.stats.Appeared, r.stats.Vanished = 0, 0 // nothing to compare with
	}
	r.stats.Sweeps++
	return nil
}

// Stats tells how the reading goes.
func (r *Reader) Stats() Stats {
	s := r.stats
	s.Cgroups, s.OpenFiles = len(r.order), r.descriptors.kept
	return s
}

// Snapshot is a copy of the state after the last sweep, parents before their children and siblings by name, with what could
// not be read.
func (r *Reader) Snapshot() ([]snapshot.Cgroup, []snapshot.SourceError) {
	size := 0
	for _, n := range r.order {
		for _, s := range statsOf(&n.cgroup) {
			size += len(s.Values)
		}
	}
	values := make([]uint64, 0, size) // of all cgroups
	cgroups := make([]snapshot.Cgroup, len(r.order))
	for i, n := range r.order {
		n.index = int32(i)
		cgroups[i] = n.cgroup
		cgroups[i].Parent = -1
		if n.parent != nil {
			cgroups[i].Parent = n.parent.index
		}
		for _, s := range statsOf(&cgroups[i]) {
			if s.Keys == nil {
				s.Values = nil
				continue
			}
			from := len(values)
			values = append(values, s.Values...)
			s.Values = values[from:len(values):len(values)]
		}
	}
	return cgroups, r.errors()
}

func statsOf(c *snapshot.Cgroup) [4]*snapshot.Stat {
	return [...]*snapshot.Stat{&c.Stat, &c.Events, &c.EventsLocal, &c.OOMControl}
}

// errors names each flaw of each kind of file once, however many cgroups have it.
func (r *Reader) errors() []snapshot.SourceError {
	type kind struct {
		file int
		flaw flaw
		more int
	}
	var kinds []kind
	var errs []snapshot.SourceError
	for _, n := range r.order {
		for file, found := range n.flaws {
			if found == 0 {
				continue
			}
			i := slices.IndexFunc(kinds, func(k kind) bool { return k.file == file && k.flaw == found })
			if i >= 0 {
				kinds[i].more++
				continue
			}
			source := filepath.Join(r.hierarchy.Dir, n.cgroup.Path)
			if file != folder {
				source = filepath.Join(source, r.files.all[file].name)
			}
			kinds = append(kinds, kind{file: file, flaw: found})
			errs = append(errs, snapshot.SourceError{Source: source, Error: found.String(), Hint: found.hint()})
		}
	}
	for i, k := range kinds {
		if k.more > 0 {
			errs[i].Error += fmt.Sprintf(" (and in %d more cgroups)", k.more)
		}
	}
	if r.descriptors.short && !r.hierarchy.Copy {
		errs = append(errs, snapshot.SourceError{
			Source: r.hierarchy.Dir,
			Error: fmt.Sprintf("%d open files are too few to keep those of %d cgroups open; they are opened for each read, "+
				"which costs more", r.descriptors.limit, len(r.order)),
			Hint: fmt.Sprintf("Nothing is missing. To read for less, raise the limit of open files (LimitNOFILE=, ulimit -n) to %d.",
				len(r.order)*(r.files.fast+1)+reserved),
		})
	}
	return errs
}
