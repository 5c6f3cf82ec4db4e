package cgroup

import (
	"bytes"
	"encoding/binary"
	"path"
	"slices"
	"sort"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/memrecon/memrecon/snapshot"
)

// node is one cgroup and what is kept of it between sweeps.
type node struct {
	cgroup   snapshot.Cgroup
	parent   *node
	children []*node // by name
	name     string
	path     []byte // from the root's folder, with a NUL
	// turn tells apart the cgroups whose slow files, and whose folders, are due in different sweeps.
	turn int
	// links is the folder's link count when it was last listed, or unlisted.
	links uint64
	// listing is the number of the parent's listing that this cgroup was last seen in.
	listing int
	// without counts child cgroups without the memory controller.
	without int
	index   int32 // in the snapshot
	fresh   bool  // not read yet
	gone    bool
	// dir and fds are the file descriptors of the folder and of the fast files, or none or lacking.
	dir   int
	fds   [maxFast]int
	flaws [maxFiles + 1]flaw // of each file, and of the folder itself
}

const (
	none    = -1 // not kept
	lacking = -2 // the cgroup does not have this file, for good
)

// unlisted is no folder's link count.
const unlisted = 0

// folder is the place of the folder's own flaw in node.flaws.
const folder = maxFiles

// entry is a child cgroup as its parent's folder lists it.
type entry struct {
	name  string
	inode uint64
}

func (r *Reader) newNode(parent *node, name string, inode uint64) *node {
	n := &node{parent: parent, name: name, fresh: true, turn: r.made, dir: none, fds: [...]int{none, none, none}}
	n.cgroup.Path, n.cgroup.Inode = "/", inode
	if parent != nil {
		n.cgroup.Path = path.Join(parent.cgroup.Path, name)
	}
	n.path = append([]byte("."+n.cgroup.Path), 0)
	n.cgroup.Identity = Identify(n.cgroup.Path)
	r.made++
	return n
}

// openDir opens a cgroup's folder, where it is not kept open.
func (r *Reader) openDir(n *node) (int, unix.Errno) {
	if n.dir != none {
		return n.dir, 0
	}
	fd, errno := r.openat(r.root.dir, n.path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW)
	if errno == 0 && r.descriptors.keep() {
		n.dir = fd
	}
	return fd, errno
}

// leaveDir closes what openDir opened, unless it is kept.
func (n *node) leaveDir(dir int) {
	if dir != n.dir {
		_ = unix.Close(dir) // nothing was written
	}
}

// links is the link count of a cgroup's folder. It is false where the folder is another cgroup's.
func (r *Reader) links(n *node, dir int) (uint64, bool) {
	if err := unix.Fstat(dir, &r.st); err != nil {
		return 0, false
	}
	if n.cgroup.Inode == 0 {
		n.cgroup.Inode = r.st.Ino
	}
	return uint64(r.st.Nlink), n.cgroup.Inode == r.st.Ino //nolint:unconvert // uint32 on some platforms
}

// visit reads a cgroup, and lists its folder where that is due. It is false where the cgroup is gone.
func (r *Reader) visit(n *node) bool {
	dir, errno := r.openDir(n)
	if errno != 0 {
		return r.unreadable(n, errno)
	}
	defer n.leaveDir(dir)
	links, same := r.links(n, dir)
	if !same {
		return false
	}
	if !r.readFiles(n, dir) {
		return false
	}
	leaf := n.fresh && links == 2 && !r.hierarchy.Copy
	n.fresh = false
	switch {
	case leaf:
		n.links = links
	case links != n.links || r.hierarchy.Copy:
		return r.list(n, dir, links)
	case r.stats.Sweeps%r.checkEvery == n.turn%r.checkEvery:
		return r.check(n, dir, links)
	}
	return true
}

// readFiles brings what a cgroup's files say up to date. It is false where the cgroup is gone.
func (r *Reader) readFiles(n *node, dir int) bool {
	n.flaws[folder] = 0
	// The fast files come last: memory.stat, the last of them, shows that the cgroup was there for all the others.
	if n.fresh || r.stats.Sweeps%r.slowEvery == n.turn%r.slowEvery {
		for i := r.files.fast; i < len(r.files.all); i++ {
			r.read(n, dir, i)
		}
	}
	for i := range r.files.fast {
		if !r.read(n, dir, i) {
			return false
		}
	}
	return true
}

// unreadable makes all of a cgroup absent, as its folder can't be opened. It is false where the cgroup is gone.
func (r *Reader) unreadable(n *node, errno unix.Errno) bool {
	if isGone(errno) || errno == unix.ENOTDIR {
		return false
	}
	for i := range r.files.all {
		r.files.all[i].parse(&r.layouts, &n.cgroup, nil)
		n.flaws[i] = 0
	}
	r.note(n, folder, flaw(errno))
	n.fresh = true
	return true
}

func isGone(errno unix.Errno) bool { return errno == unix.ENOENT || errno == unix.ENODEV }

// read brings one file of a cgroup up to date. It is false where that shows that the cgroup is gone, or that its memory
// controller is.
func (r *Reader) read(n *node, dir, i int) bool {
	f := &r.files.all[i]
	fast, proof := i < r.files.fast, i == r.files.fast-1
	if fast && n.fds[i] == lacking {
		return true
	}
	data, errno := r.content(n, dir, i)
	if errno == 0 {
		r.note(n, i, f.parse(&r.layouts, &n.cgroup, data))
		return true
	}
	f.parse(&r.layouts, &n.cgroup, nil)
	n.flaws[i] = 0
	switch {
	case errno == unix.ENODEV && fast:
		return false
	case errno == unix.ENOENT && proof && n != r.root:
		if !r.hierarchy.Copy || n.cgroup.Usage.IsAbsent() && n.flaws[0] == 0 {
			return false
		}
		r.note(n, i, flaw(errno)) // the copy is not complete
	case errno == unix.ENOENT && fast && !r.hierarchy.Copy:
		n.fds[i] = lacking
	case isGone(errno), errno == unix.EOPNOTSUPP: // this kernel does not have it, or has PSI off
	default:
		r.note(n, i, flaw(errno))
	}
	return true
}

func (r *Reader) note(n *node, i int, found flaw) {
	n.flaws[i] = found
	if found != 0 {
		r.stats.Failed++
	}
}

// content is what a cgroup's file holds, until the next call.
func (r *Reader) content(n *node, dir, i int) ([]byte, unix.Errno) {
	fd, kept := none, false
	if i < r.files.fast {
		fd, kept = n.fds[i], n.fds[i] != none
	}
	if !kept {
		var errno unix.Errno
		if fd, errno = r.openat(dir, r.files.all[i].path, unix.O_RDONLY); errno != 0 {
			return nil, errno
		}
		if kept = i < r.files.fast && r.descriptors.keep(); kept {
			n.fds[i] = fd
		} else {
			defer func() { _ = unix.Close(fd) }() // nothing was written
		}
	}
	for {
		length, errno := pread(fd, r.buf)
		switch {
		case errno != 0:
			return nil, errno
		case length < len(r.buf): // a cgroup file gives all it has in one read
			return r.buf[:length], 0
		case length >= maxContent:
			return nil, unix.EFBIG
		}
		r.buf = make([]byte, 2*len(r.buf))
	}
}

// openat opens a file. Where the process, or the node, has no file descriptor left, some that are kept make room.
func (r *Reader) openat(dir int, path []byte, flags int) (int, unix.Errno) {
	fd, errno := openat(dir, path, flags)
	if errno != unix.EMFILE && errno != unix.ENFILE {
		return fd, errno
	}
	d := &r.descriptors
	d.limit, d.short = d.kept*3/4, true
	r.root.release(d)
	return openat(dir, path, flags)
}

// release closes files of a cgroup and of all below it until no more are kept than may be. Folders stay open: one of them is
// being read.
func (n *node) release(d *descriptors) {
	for i := range n.fds {
		if d.kept > d.limit {
			d.close(&n.fds[i])
		}
	}
	for _, c := range n.children {
		c.release(d)
	}
}

// relist lists the folder of a cgroup of which a child was gone.
func (r *Reader) relist(n *node) bool {
	dir, errno := r.openDir(n)
	if errno != 0 {
		return r.unreadable(n, errno)
	}
	defer n.leaveDir(dir)
	links, same := r.links(n, dir)
	return same && r.list(n, dir, links)
}

// check lists a folder without a sign of a change, and counts what the signs had missed. That is not a cgroup made while the
// folder was listed, nor one in the place of another that is gone: the read of that one would have led to it.
func (r *Reader) check(n *node, dir int, links uint64) bool {
	appeared, vanished := r.stats.Appeared, r.stats.Vanished
	if !r.list(n, dir, links) {
		return false
	}
	if after, _ := r.links(n, dir); after == links && r.stats.Vanished == vanished {
		r.stats.Missed += r.stats.Appeared - appeared
	}
	return true
}

// list finds the children of a cgroup. links is its folder's link count from before. It is false where the cgroup is gone.
func (r *Reader) list(n *node, dir int, links uint64) bool {
	r.stats.Listed++
	listing := r.stats.Listed
	from := len(r.found)
	if !r.readDir(n, dir, listing) {
		r.found = r.found[:from]
		return false
	}
	n.links = links
	for i := len(n.children) - 1; i >= 0; i-- {
		if n.children[i].listing != listing {
			r.vanish(n.children[i])
		}
	}
	r.stats.WithoutMemory -= n.without
	n.without = 0
	for i, end := from, len(r.found); i < end; i++ {
		r.appear(n, r.found[i])
	}
	clear(r.found[from:])
	r.found = r.found[:from]
	return true
}

// readDir marks the children that a folder still has, and puts the new ones on r.found.
func (r *Reader) readDir(n *node, dir, listing int) bool {
	if _, err := unix.Seek(dir, 0, unix.SEEK_SET); err != nil {
		return false
	}
	for {
		length, err := unix.Getdents(dir, r.dirents)
		if err != nil || length == 0 {
			return err == nil
		}
		for b := r.dirents[:length]; len(b) > 0; {
			var e unix.Dirent // for its layout
			end := binary.NativeEndian.Uint16(b[unsafe.Offsetof(e.Reclen):])
			inode := binary.NativeEndian.Uint64(b[unsafe.Offsetof(e.Ino):])
			name, _, _ := bytes.Cut(b[unsafe.Offsetof(e.Name):end], []byte{0})
			isFolder := r.isFolder(dir, b[unsafe.Offsetof(e.Type)], name)
			b = b[end:]
			if !isFolder {
				continue
			}
			i, found := n.search(name)
			if found && (n.children[i].cgroup.Inode == inode || r.hierarchy.Copy) {
				n.children[i].listing = listing
				continue
			}
			r.found = append(r.found, entry{string(name), inode})
		}
	}
}

// isFolder tells that a folder's entry is a folder, and not itself or its parent.
func (r *Reader) isFolder(dir int, kind byte, name []byte) bool {
	if string(name) == "." || string(name) == ".." {
		return false
	}
	if kind == unix.DT_UNKNOWN { // some file systems of copies don't say
		err := unix.Fstatat(dir, string(name), &r.st, unix.AT_SYMLINK_NOFOLLOW)
		return err == nil && r.st.Mode&unix.S_IFMT == unix.S_IFDIR
	}
	return kind == unix.DT_DIR
}

// search is where a child is, or would be.
func (n *node) search(name []byte) (int, bool) {
	i := sort.Search(len(n.children), func(i int) bool { return n.children[i].name >= string(name) })
	return i, i < len(n.children) && n.children[i].name == string(name)
}

// appear reads a new cgroup and all below it. One that is gone again by now leaves no trace.
func (r *Reader) appear(parent *node, e entry) {
	inode := e.inode
	if r.hierarchy.Copy {
		inode = 0 // an overlay lists other numbers than it gives for the folder itself
	}
	n := r.newNode(parent, e.name, inode)
	i, _ := parent.search([]byte(n.name))
	parent.children = slices.Insert(parent.children, i, n)
	if r.visit(n) {
		r.stats.Appeared++
		r.stale = true
		return
	}
	r.remove(n)
	if r.hierarchy.Copy || r.lacksController(n) {
		parent.without++
		r.stats.WithoutMemory++
		return
	}
	parent.links = unlisted // another may have its name by now
}

// lacksController tells that a cgroup is there, but the memory controller is not enabled for it.
func (r *Reader) lacksController(n *node) bool {
	if r.hierarchy.Mode != snapshot.V2 {
		return false
	}
	dir, errno := r.openat(r.root.dir, n.path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW)
	if errno != 0 {
		return false
	}
	defer func() { _ = unix.Close(dir) }() // nothing was written
	// In this order: a folder that has the second file was there when it did not have the first.
	return !has(dir, "memory.stat") && has(dir, "cgroup.controllers")
}

// vanish takes a cgroup that is gone, and all below it, out of the tree.
func (r *Reader) vanish(n *node) {
	r.stats.Vanished += r.remove(n)
	r.stale = true
}

// remove takes a cgroup and all below it out of the tree, and tells how many that were.
func (r *Reader) remove(n *node) int {
	siblings := n.parent.children
	i := slices.Index(siblings, n)
	n.parent.children = slices.Delete(siblings, i, i+1)
	return r.forget(n)
}

// forget closes the file descriptors of a cgroup and of all below it, and tells how many cgroups that were.
func (r *Reader) forget(n *node) int {
	count := 1
	for _, c := range n.children {
		count += r.forget(c)
	}
	for i := range n.fds {
		r.descriptors.close(&n.fds[i])
	}
	r.descriptors.close(&n.dir)
	r.stats.WithoutMemory -= n.without
	n.gone = true
	return count
}

// appendTo appends a cgroup and all below it, depth first.
func (n *node) appendTo(order []*node) []*node {
	order = append(order, n)
	for _, c := range n.children {
		order = c.appendTo(order)
	}
	return order
}
