package reconcile

import (
	"strings"

	"github.com/memrecon/memrecon/snapshot"
)

// owners are the classes and the names of the owners that are no cgroups.
var owners = map[string]struct {
	class snapshot.Class
	name  string
}{
	OwnerKernel:     {"kernel", "kernel, charged to no cgroup"},
	OwnerFree:       {"free", "free"},
	OwnerFreePerCPU: {"free", "free, on per-CPU lists"},
	OwnerHugePages:  {"huge-pages", "huge page pools"},
	OwnerUnnamed:    {"unnamed", "in no counter"},
}

// Class is what a row's owner is.
func (s *Sheet) Class(row int) snapshot.Class {
	r := &s.Rows[row]
	if r.Cgroup >= 0 {
		if c := s.snap.Cgroups[r.Cgroup].Identity.Class; c != "" {
			return c
		}
		return snapshot.ClassOther
	}
	if r.ID == OwnerRoot {
		return snapshot.ClassRoot
	}
	return owners[r.ID].class
}

// Name is what a person calls a row's owner.
func (s *Sheet) Name(row int) string {
	r := &s.Rows[row]
	if r.ID == OwnerRoot {
		return "/ charged to no other cgroup"
	}
	if r.Cgroup < 0 {
		return owners[r.ID].name
	}
	id := &s.snap.Cgroups[r.Cgroup].Identity
	if name := s.podName(row, id); name != "" {
		return name
	}
	switch id.Class {
	case snapshot.ClassPod:
		return "pod " + short(id.PodUID)
	case snapshot.ClassContainer:
		if id.PodUID != "" {
			return "pod " + short(id.PodUID) + " / " + short(id.ContainerID)
		}
		return "container " + short(id.ContainerID)
	}
	if id.ContainerID != "" { // below a container
		_, below, ok := strings.Cut(r.ID, id.ContainerID)
		if _, below, isPath := strings.Cut(below, "/"); ok && isPath {
			return "container " + short(id.ContainerID) + " /" + below
		}
	}
	return r.ID
}

// short is the first 12 characters of an identifier, as docker ps and crictl show it, and the first group of a UID.
func short(id string) string {
	if i := strings.IndexByte(id, '-'); i >= 0 {
		return id[:i]
	}
	return id[:min(12, len(id))]
}
