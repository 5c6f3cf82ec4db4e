package cgroup

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/memrecon/memrecon/snapshot"
)

// Lineage reads one cgroup and all above it, and no other: those whose limits hold for a process.
type Lineage struct {
	reader *Reader
	nodes  []*node // the root first
}

// OpenLineage prepares to read the cgroup at a path and those above it. An error is an *Error.
func OpenLineage(h Hierarchy, own string) (*Lineage, error) {
	r, err := Open(h, Options{SlowEvery: 1})
	if err != nil {
		return nil, err
	}
	l := &Lineage{reader: r, nodes: []*node{r.root}}
	n := r.root
	for name := range strings.SplitSeq(own, "/") {
		if name != "" {
			child := r.newNode(n, name, 0)
			n.children = append(n.children, child)
			l.nodes = append(l.nodes, child)
			n = child
		}
	}
	return l, nil
}

// Close gives the file descriptors back.
func (l *Lineage) Close() error { return l.reader.Close() }

// Read reads the cgroups, the root first. A file that can't be read is absent; an error, an *Error, is a cgroup that is gone.
// What is returned holds until the next Read.
func (l *Lineage) Read() ([]snapshot.Cgroup, error) {
	cgroups := make([]snapshot.Cgroup, len(l.nodes))
	for i, n := range l.nodes {
		dir, errno := l.reader.openDir(n)
		if errno != 0 {
			return nil, &Error{filepath.Join(l.reader.hierarchy.Dir, n.cgroup.Path), errno, flaw(errno).hint()}
		}
		there := l.reader.readFiles(n, dir)
		n.leaveDir(dir)
		if !there {
			return nil, &Error{filepath.Join(l.reader.hierarchy.Dir, n.cgroup.Path), unix.ENOENT, "The cgroup was removed."}
		}
		cgroups[i] = n.cgroup
		cgroups[i].Parent = int32(i) - 1
	}
	return cgroups, nil
}

// OwnPath is where in a hierarchy this process is, as far as it can see: in a container, the path from what is mounted there.
func OwnPath(procfs string, h Hierarchy) (string, error) {
	file := filepath.Join(procfs, "self", "cgroup")
	b, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	own, ok := ownPath(b, h.Mode)
	if !ok {
		return "", fmt.Errorf("%s: there is no line of the memory controller in it", file)
	}
	mounts, err := os.ReadFile(filepath.Join(procfs, "self", "mountinfo"))
	if err != nil {
		return "", err
	}
	root, ok := mountRoot(mounts, h.Dir)
	if !ok {
		return "", &Error{h.Dir, errors.New("it is not mounted there"), mountHint}
	}
	return below(root, own), nil
}

// ownPath finds the process's cgroup in /proc/self/cgroup:
//
//	4:memory:/kubepods/burstable/pod1/c1
//	0::/user.slice
func ownPath(b []byte, mode snapshot.Mode) (string, bool) {
	for line := range bytes.Lines(b) {
		parts := strings.SplitN(strings.TrimSuffix(string(line), "\n"), ":", 3)
		if len(parts) != 3 {
			continue
		}
		isV2 := parts[0] == "0" && parts[1] == ""
		isMemory := !isV2 && strings.Contains(","+parts[1]+",", ",memory,")
		if isV2 && mode == snapshot.V2 || isMemory && mode.Files() == snapshot.V1 {
			return parts[2], true
		}
	}
	return "", false
}

// mountRoot finds in /proc/self/mountinfo which folder of its file system is mounted at dir; the last such line counts, it
// covers the others:
//
//	36 35 98:0 /kubepods/pod1/c1 /sys/fs/cgroup/memory ro,nosuid master:1 - cgroup none rw,memory
func mountRoot(b []byte, dir string) (root string, ok bool) {
	lines := bufio.NewScanner(bytes.NewReader(b))
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) > 4 && fields[4] == dir {
			root, ok = fields[3], true
		}
	}
	return root, ok
}

// below is a cgroup's path from root on. One that does not stand below it is seen from another cgroup namespace: then what is
// mounted is taken for the process's own, as it is in a container.
func below(root, own string) string {
	root, own = path.Clean("/"+root), path.Clean("/"+own)
	if root == "/" {
		return own
	}
	if rest, ok := strings.CutPrefix(own, root); ok && (rest == "" || rest[0] == '/') {
		return path.Clean("/" + rest)
	}
	return "/"
}
