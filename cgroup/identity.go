package cgroup

import (
	"strings"

	"github.com/memrecon/memrecon/snapshot"
)

// Identify tells from a cgroup's path whose it is. The names are those of the kubelet (cgroupfs and systemd driver, below any
// --cgroup-root), containerd, CRI-O, Docker, Podman, LXC and systemd:
//
//	/kubepods/burstable/pod<uid>/<id>
//	/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod<uid>.slice/cri-containerd-<id>.scope
//	/docker/<id>/kubelet/kubepods/besteffort/pod<uid>/<id>
//	/system.slice/sshd.service
//
// What looks alike but has no pod UID or container ID of the right shape is not taken for a pod or a container. Whatever
// stands inside a container is the container's, of ClassOther, whatever its names say, with two exceptions where the
// container is not a pod's: a container in it (Docker in Docker), and the kubepods of a node that runs in it (kind, k3d, LXC)
// with all below; the outer container is their Node. A path that a cgroup namespace shows, such as /../../pod<uid>/<id>, is
// understood as far as it goes.
func Identify(path string) snapshot.Identity {
	id := snapshot.Identity{Class: snapshot.ClassRoot}
	parent := ""
	for name := range strings.SplitSeq(path, "/") {
		if name != "" {
			id = child(id, parent, name)
			parent = name
		}
	}
	return id
}

// child is what a cgroup called name is, in one that is id and called parent.
func child(id snapshot.Identity, parent, name string) snapshot.Identity {
	inContainer := id.ContainerID != ""
	if inContainer && id.PodUID != "" {
		id.Class = snapshot.ClassOther
		return id
	}
	if kube, ok := kubelet(id.Class, parent, name); ok {
		if kube.Node = id.Node; inContainer {
			kube.Node = id.ContainerID
		}
		if kube.QoS == "" && kube.Class == snapshot.ClassPod {
			kube.QoS = id.QoS
		}
		return kube
	}
	// containerd for the systemd driver names slice:prefix:id, and runc makes a single folder of it where it has the other
	// driver.
	if slice, rest, ok := strings.Cut(name, ":"); ok {
		prefix, cid, _ := strings.Cut(rest, ":")
		if runtime := runtimeOf(prefix); runtime != "" && isContainerID(cid) {
			return container(child(id, parent, slice), cid, runtime)
		}
	}
	if cid, runtime := containerName(parent, name); cid != "" {
		return container(id, cid, runtime)
	}
	if !inContainer {
		if parent == "lxc" || parent == "lxc.payload" {
			return container(id, name, "lxc")
		}
		if class := unitClass(name); class != "" {
			id.Class = class
			// systemd puts an underscore before a unit's name that the kernel could mistake for a file of its own.
			id.Unit = strings.TrimPrefix(name, "_")
			return id
		}
		if id.Class == snapshot.ClassSlice {
			id.Unit = "" // a slice holds units, and this is none; what a service or scope holds is still its own
		}
	}
	id.Class = snapshot.ClassOther
	return id
}

// container is the container cid in the cgroup that is id.
func container(id snapshot.Identity, cid, runtime string) snapshot.Identity {
	node := id.Node
	if id.ContainerID != "" {
		node = id.ContainerID
	}
	return snapshot.Identity{
		Class: snapshot.ClassContainer, QoS: id.QoS, PodUID: id.PodUID, ContainerID: cid, Runtime: runtime, Node: node,
	}
}

// kubelet tells whether the kubelet made the cgroup. Its systemd driver turns a name's elements into slices, each with the
// names of those above (pkg/kubelet/cm, ToSystemd), so a slice says everything; its cgroupfs driver writes each element
// alone, which is to be believed only in kubepods, or where a cgroup namespace hides what is above.
func kubelet(above snapshot.Class, parent, name string) (snapshot.Identity, bool) {
	if stem, ok := strings.CutSuffix(name, ".slice"); ok {
		root, below, ok := strings.Cut(stem, "kubepods")
		if !ok || root != "" && !strings.HasSuffix(root, "-") {
			return snapshot.Identity{}, false
		}
		if below == "" {
			return snapshot.Identity{Class: snapshot.ClassKubepods}, true
		}
		below, ok = strings.CutPrefix(below, "-")
		qos, pod, inQoS := strings.Cut(below, "-")
		id := snapshot.Identity{Class: snapshot.ClassPod, QoS: qosOf(qos)}
		switch {
		case !ok:
			return snapshot.Identity{}, false
		case id.QoS == "":
			id.QoS, pod = snapshot.Guaranteed, below
		case !inQoS:
			id.Class = snapshot.ClassQoS
			return id, true
		}
		id.PodUID = podUID(pod)
		return id, id.PodUID != ""
	}

	switch {
	case name == "kubepods":
		return snapshot.Identity{Class: snapshot.ClassKubepods}, true
	case above != snapshot.ClassKubepods && above != snapshot.ClassQoS && parent != "..":
		return snapshot.Identity{}, false
	case qosOf(name) != "" && above != snapshot.ClassQoS:
		return snapshot.Identity{Class: snapshot.ClassQoS, QoS: qosOf(name)}, true
	}
	id := snapshot.Identity{Class: snapshot.ClassPod, PodUID: podUID(name)}
	if above == snapshot.ClassKubepods {
		id.QoS = snapshot.Guaranteed
	}
	return id, id.PodUID != ""
}

// qosOf is the class that a name of a QoS cgroup says, "" for any other name.
func qosOf(name string) snapshot.QoS {
	switch name {
	case "burstable":
		return snapshot.Burstable
	case "besteffort":
		return snapshot.BestEffort
	}
	return ""
}

// podUID is the UID in pod<uid>: a UUID, whose dashes the systemd driver writes as underscores, or a static pod's 32 hex
// digits; "" for any other name.
func podUID(name string) string {
	uid, ok := strings.CutPrefix(name, "pod")
	if ok && len(uid) == 32 && isHex(uid) {
		return uid
	}
	if !ok || len(uid) != 36 {
		return ""
	}
	for i := range len(uid) {
		switch i {
		case 8, 13, 18, 23:
			if uid[i] != '-' && uid[i] != '_' {
				return ""
			}
		default:
			if !isHex(uid[i : i+1]) {
				return ""
			}
		}
	}
	return strings.ReplaceAll(uid, "_", "-")
}

// containerName is the container that a name says, and its runtime as far as that is known; "" for any other name.
// The runtimes' helpers, such as crio-conmon-<id>.scope, are no containers.
func containerName(parent, name string) (cid, runtime string) {
	if isContainerID(name) {
		switch parent {
		case "docker":
			return name, "docker"
		case "default", "k8s.io", "moby": // containerd's namespaces
			return name, "containerd"
		}
		return name, ""
	}
	stem := strings.TrimSuffix(name, ".scope")
	if i := strings.LastIndexByte(stem, '-'); i > 0 && isContainerID(stem[i+1:]) {
		if runtime := runtimeOf(stem[:i]); runtime != "" {
			return stem[i+1:], runtime
		}
		return "", ""
	}
	if payload, ok := strings.CutPrefix(name, "lxc.payload."); ok {
		return payload, "lxc"
	}
	return "", ""
}

// runtimeOf is the runtime that puts this prefix before a container's ID; "" where none does.
func runtimeOf(prefix string) string {
	switch prefix {
	case "cri-containerd", "nerdctl":
		return "containerd"
	case "crio":
		return "cri-o"
	case "docker":
		return "docker"
	case "libpod", "libpod-payload":
		return "podman"
	}
	return ""
}

// unitClass is the class of a systemd unit that has a cgroup; "" for a name that is no unit's.
func unitClass(name string) snapshot.Class {
	dot := strings.LastIndexByte(name, '.')
	if dot <= 0 {
		return ""
	}
	switch name[dot:] {
	case ".slice":
		return snapshot.ClassSlice
	case ".scope":
		return snapshot.ClassScope
	case ".service", ".socket", ".mount", ".swap":
		return snapshot.ClassService
	}
	return ""
}

// isContainerID tells the ID of every runtime but LXC, whose containers have names.
func isContainerID(s string) bool { return len(s) == 64 && isHex(s) }

func isHex(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}
