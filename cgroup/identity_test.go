package cgroup

import (
	"io/fs"
	"os"
	"strings"
	"testing"

	"github.com/memrecon/memrecon/snapshot"
)

const (
	uid     = "97074e61-dc88-479a-a96a-0cdde87b3b1f"
	uidUnit = "97074e61_dc88_479a_a96a_0cdde87b3b1f"
	static  = "b77b0858989397dfa3a0d3ee76ec7ea1"
	cid     = "091033f0d43ff9c8a236975d22633e57475efc001c5313deb88d625f1b39e868"
	cid2    = "d9ad7b59abe89465670e062862922523c3e7547b1e34fe5e5d036c8cc758a489"

	burstableSlices = "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + uidUnit + ".slice"
	kindSlices      = "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice" +
		"/kubelet-kubepods-besteffort-pod" + uidUnit + ".slice"
	userService = "/user.slice/user-1000.slice/user@1000.service"
)

// identities is one path of each kind that is found on real nodes, and what it must tell.
func identities() []struct {
	path string
	want snapshot.Identity
} {
	type identity = snapshot.Identity
	const (
		root, kubepods, qos = snapshot.ClassRoot, snapshot.ClassKubepods, snapshot.ClassQoS
		pod, ctr, other     = snapshot.ClassPod, snapshot.ClassContainer, snapshot.ClassOther
		slice, scope, svc   = snapshot.ClassSlice, snapshot.ClassScope, snapshot.ClassService

		guaranteed, burstable, besteffort = snapshot.Guaranteed, snapshot.Burstable, snapshot.BestEffort
	)
	return []struct {
		path string
		want identity
	}{
		{"/", identity{Class: root}},
		{"", identity{Class: root}},

		// The kubelet's cgroupfs driver.
		{"/kubepods", identity{Class: kubepods}},
		{"/kubepods/burstable", identity{Class: qos, QoS: burstable}},
		{"/kubepods/besteffort", identity{Class: qos, QoS: besteffort}},
		{"/kubepods/pod" + uid, identity{Class: pod, QoS: guaranteed, PodUID: uid}},
		{"/kubepods/burstable/pod" + uid, identity{Class: pod, QoS: burstable, PodUID: uid}},
		{"/kubepods/burstable/pod" + static, identity{Class: pod, QoS: burstable, PodUID: static}},
		{"/kubepods/pod" + uid + "/" + cid, identity{Class: ctr, QoS: guaranteed, PodUID: uid, ContainerID: cid}},
		{"/kubepods/besteffort/pod" + uid + "/" + cid, identity{Class: ctr, QoS: besteffort, PodUID: uid, ContainerID: cid}},
		{"/kubepods/burstable/pod" + uid + "/crio-" + cid,
			identity{Class: ctr, QoS: burstable, PodUID: uid, ContainerID: cid, Runtime: "cri-o"}},
		{"/kubepods/burstable/pod" + uid + "/crio-conmon-" + cid, identity{Class: other, QoS: burstable, PodUID: uid}},
		{"/kubepods/burstable/pod" + uid + "/kata_overhead", identity{Class: other, QoS: burstable, PodUID: uid}},

		// Its systemd driver.
		{"/kubepods.slice", identity{Class: kubepods}},
		{"/kubepods.slice/kubepods-besteffort.slice", identity{Class: qos, QoS: besteffort}},
		{"/kubepods.slice/kubepods-pod" + uidUnit + ".slice", identity{Class: pod, QoS: guaranteed, PodUID: uid}},
		{"/kubepods.slice/kubepods-pod" + uidUnit + ".slice/cri-containerd-" + cid + ".scope",
			identity{Class: ctr, QoS: guaranteed, PodUID: uid, ContainerID: cid, Runtime: "containerd"}},
		{burstableSlices, identity{Class: pod, QoS: burstable, PodUID: uid}},
		{"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + static + ".slice",
			identity{Class: pod, QoS: burstable, PodUID: static}},
		{burstableSlices + "/cri-containerd-" + cid + ".scope",
			identity{Class: ctr, QoS: burstable, PodUID: uid, ContainerID: cid, Runtime: "containerd"}},
		{burstableSlices + "/crio-" + cid + ".scope",
			identity{Class: ctr, QoS: burstable, PodUID: uid, ContainerID: cid, Runtime: "cri-o"}},
		{burstableSlices + "/docker-" + cid + ".scope",
			identity{Class: ctr, QoS: burstable, PodUID: uid, ContainerID: cid, Runtime: "docker"}},
		{burstableSlices + "/libpod-" + cid + ".scope",
			identity{Class: ctr, QoS: burstable, PodUID: uid, ContainerID: cid, Runtime: "podman"}},
		{burstableSlices + "/crio-conmon-" + cid + ".scope",
			identity{Class: scope, QoS: burstable, PodUID: uid, Unit: "crio-conmon-" + cid + ".scope"}},
		{"/system.slice/crio-conmon-" + cid + ".scope", identity{Class: scope, Unit: "crio-conmon-" + cid + ".scope"}},
		// A kubelet older than the escaping of dashes.
		{"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + uid + ".slice/docker-" + cid + ".scope",
			identity{Class: ctr, QoS: burstable, PodUID: uid, ContainerID: cid, Runtime: "docker"}},

		// --cgroup-root.
		{"/my/own/kubepods/burstable/pod" + uid, identity{Class: pod, QoS: burstable, PodUID: uid}},
		{"/my.slice/my-own_root.slice/my-own_root-kubepods.slice", identity{Class: kubepods}},
		{"/my.slice/my-kubepods.slice/my-kubepods-pod" + uidUnit + ".slice",
			identity{Class: pod, QoS: guaranteed, PodUID: uid}},

		// containerd for systemd, the kubelet for cgroupfs, or the other way round.
		{"/kubepods-burstable-pod" + uidUnit + ".slice:cri-containerd:" + cid,
			identity{Class: ctr, QoS: burstable, PodUID: uid, ContainerID: cid, Runtime: "containerd"}},
		{"/system.slice/containerd.service/kubepods-besteffort-pod" + uidUnit + ".slice:cri-containerd:" + cid,
			identity{Class: ctr, QoS: besteffort, PodUID: uid, ContainerID: cid, Runtime: "containerd"}},
		{"/kubepods-pod" + uidUnit + ".slice:crio:" + cid,
			identity{Class: ctr, QoS: guaranteed, PodUID: uid, ContainerID: cid, Runtime: "cri-o"}},
		{"/system.slice:docker:" + cid, identity{Class: ctr, ContainerID: cid, Runtime: "docker"}},
		{"/kubepods-burstable-pod" + uidUnit + ".slice:cri-containerd:test", identity{Class: other}},
		{burstableSlices + "/" + cid, identity{Class: ctr, QoS: burstable, PodUID: uid, ContainerID: cid}},

		// Seen through a cgroup namespace.
		{"/..", identity{Class: other}},
		{"/../..", identity{Class: other}},
		{"/../" + cid, identity{Class: ctr, ContainerID: cid}},
		{"/../cri-containerd-" + cid + ".scope", identity{Class: ctr, ContainerID: cid, Runtime: "containerd"}},
		{"/../../pod" + uid + "/" + cid, identity{Class: ctr, PodUID: uid, ContainerID: cid}},
		{"/../../../burstable/pod" + uid, identity{Class: pod, QoS: burstable, PodUID: uid}},
		{"/../../kubepods-besteffort-pod" + uidUnit + ".slice/crio-" + cid + ".scope",
			identity{Class: ctr, QoS: besteffort, PodUID: uid, ContainerID: cid, Runtime: "cri-o"}},

		// A node in a container.
		{"/docker/" + cid + "/kubelet", identity{Class: other, ContainerID: cid, Runtime: "docker"}},
		{"/docker/" + cid + "/kubelet/kubepods", identity{Class: kubepods, Node: cid}},
		{"/docker/" + cid + "/kubelet/kubepods/besteffort", identity{Class: qos, QoS: besteffort, Node: cid}},
		{"/docker/" + cid + "/kubelet/kubepods/besteffort/pod" + uid + "/" + cid2,
			identity{Class: ctr, QoS: besteffort, PodUID: uid, ContainerID: cid2, Node: cid}},
		{"/docker/" + cid + "/kubepods/pod" + uid, identity{Class: pod, QoS: guaranteed, PodUID: uid, Node: cid}},
		{"/docker/" + cid + kindSlices + "/cri-containerd-" + cid2 + ".scope", identity{Class: ctr, QoS: besteffort,
			PodUID: uid, ContainerID: cid2, Runtime: "containerd", Node: cid}},
		{"/system.slice/docker-" + cid + ".scope" + kindSlices + "/cri-containerd-" + cid2 + ".scope",
			identity{Class: ctr, QoS: besteffort, PodUID: uid, ContainerID: cid2, Runtime: "containerd", Node: cid}},
		{"/system.slice/docker-" + cid + ".scope/kubelet.slice/kubelet-kubepods.slice", identity{Class: kubepods, Node: cid}},
		{"/system.slice/docker-" + cid + ".scope/kubelet.slice/kubelet.service",
			identity{Class: other, ContainerID: cid, Runtime: "docker"}},
		{"/machine.slice/libpod-" + cid + ".scope/container" + kindSlices,
			identity{Class: pod, QoS: besteffort, PodUID: uid, Node: cid}},
		{"/lxc/k8s-1/kubepods/burstable/pod" + uid + "/" + cid,
			identity{Class: ctr, QoS: burstable, PodUID: uid, ContainerID: cid, Node: "k8s-1"}},
		{"/lxc.payload.k8s-1/kubepods.slice", identity{Class: kubepods, Node: "k8s-1"}},
		// kind in a pod is the pod's.
		{"/kubepods/pod" + uid + "/" + cid + "/docker/" + cid2 + "/kubelet/kubepods",
			identity{Class: other, QoS: guaranteed, PodUID: uid, ContainerID: cid}},

		// Below a container.
		{"/kubepods/burstable/pod" + uid + "/" + cid + "/system.slice/ssh.service",
			identity{Class: other, QoS: burstable, PodUID: uid, ContainerID: cid}},
		{burstableSlices + "/crio-" + cid + ".scope/container",
			identity{Class: other, QoS: burstable, PodUID: uid, ContainerID: cid, Runtime: "cri-o"}},
		{"/docker/" + cid + "/init.scope", identity{Class: other, ContainerID: cid, Runtime: "docker"}},
		{"/docker/" + cid + "/docker/" + cid2, identity{Class: ctr, ContainerID: cid2, Runtime: "docker", Node: cid}},

		// Runtimes without Kubernetes.
		{"/docker", identity{Class: other}},
		{"/docker/" + cid, identity{Class: ctr, ContainerID: cid, Runtime: "docker"}},
		{"/docker/buildkit", identity{Class: other}},
		{"/docker/buildkit/k5q8vpnq8ehj8qnyq4ahtyrvl", identity{Class: other}},
		{"/docker/" + cid[:12], identity{Class: other}}, // no runtime makes a short ID
		{"/system.slice/docker-" + cid + ".scope", identity{Class: ctr, ContainerID: cid, Runtime: "docker"}},
		{"/default/" + cid, identity{Class: ctr, ContainerID: cid, Runtime: "containerd"}},
		{"/k8s.io/" + cid, identity{Class: ctr, ContainerID: cid, Runtime: "containerd"}},
		{"/default/redis", identity{Class: other}},
		{userService + "/user.slice/nerdctl-" + cid + ".scope",
			identity{Class: ctr, ContainerID: cid, Runtime: "containerd"}},
		{"/machine.slice/libpod-" + cid + ".scope", identity{Class: ctr, ContainerID: cid, Runtime: "podman"}},
		{"/machine.slice/libpod-" + cid + ".scope/container", identity{Class: other, ContainerID: cid, Runtime: "podman"}},
		{"/machine.slice/libpod-conmon-" + cid + ".scope", identity{Class: scope, Unit: "libpod-conmon-" + cid + ".scope"}},
		{"/machine.slice/machine-libpod_pod_" + cid + ".slice",
			identity{Class: slice, Unit: "machine-libpod_pod_" + cid + ".slice"}},
		{"/libpod_parent/libpod-" + cid, identity{Class: ctr, ContainerID: cid, Runtime: "podman"}},
		{"/libpod_parent/conmon", identity{Class: other}},
		{"/system.slice/web.service/libpod-payload-" + cid, identity{Class: ctr, ContainerID: cid, Runtime: "podman"}},
		{userService + "/user.slice/libpod-" + cid + ".scope", identity{Class: ctr, ContainerID: cid, Runtime: "podman"}},
		{"/ecs/" + static + "/" + cid, identity{Class: ctr, ContainerID: cid}},
		{"/lxc", identity{Class: other}},
		{"/lxc/web", identity{Class: ctr, ContainerID: "web", Runtime: "lxc"}},
		{"/lxc/101/ns/system.slice/ssh.service", identity{Class: other, ContainerID: "101", Runtime: "lxc"}},
		{"/lxc.payload/web", identity{Class: ctr, ContainerID: "web", Runtime: "lxc"}},
		{"/lxc.payload.project_web", identity{Class: ctr, ContainerID: "project_web", Runtime: "lxc"}},
		{"/lxc.payload.web/lxc.payload.inner", identity{Class: ctr, ContainerID: "inner", Runtime: "lxc", Node: "web"}},
		{"/lxc.payload.web/init.scope", identity{Class: other, ContainerID: "web", Runtime: "lxc"}},
		{"/lxc.monitor.web", identity{Class: other}},
		{"/lxc.payload.", identity{Class: other}},

		// systemd units.
		{"/init.scope", identity{Class: scope, Unit: "init.scope"}},
		{"/system.slice", identity{Class: slice, Unit: "system.slice"}},
		{"/system.slice/sshd.service", identity{Class: svc, Unit: "sshd.service"}},
		{"/system.slice/system-getty.slice/getty@tty1.service", identity{Class: svc, Unit: "getty@tty1.service"}},
		{`/system.slice/system-serial\x2dgetty.slice`, identity{Class: slice, Unit: `system-serial\x2dgetty.slice`}},
		{`/system.slice/dev-disk-by\x2duuid-1.swap`, identity{Class: svc, Unit: `dev-disk-by\x2duuid-1.swap`}},
		{"/system.slice/dbus.socket", identity{Class: svc, Unit: "dbus.socket"}},
		{"/dev-hugepages.mount", identity{Class: svc, Unit: "dev-hugepages.mount"}},
		{"/system.slice/_memory.service", identity{Class: svc, Unit: "memory.service"}},
		{"/user.slice/user-1000.slice", identity{Class: slice, Unit: "user-1000.slice"}},
		{"/user.slice/user-1000.slice/session-3.scope", identity{Class: scope, Unit: "session-3.scope"}},
		{userService, identity{Class: svc, Unit: "user@1000.service"}},
		{userService + "/init.scope", identity{Class: scope, Unit: "init.scope"}},
		{userService + "/app.slice", identity{Class: slice, Unit: "app.slice"}},
		{userService + "/app.slice/app-gnome-firefox-2211.scope", identity{Class: scope, Unit: "app-gnome-firefox-2211.scope"}},
		{"/system.slice/containerd.service/worker", identity{Class: other, Unit: "containerd.service"}},
		{"/system.slice/worker", identity{Class: other}},
		{`/machine.slice/machine-qemu\x2d1\x2dvm.scope/libvirt/emulator`,
			identity{Class: other, Unit: `machine-qemu\x2d1\x2dvm.scope`}},
		{"/system.slice/docker-proxy.scope", identity{Class: scope, Unit: "docker-proxy.scope"}},
		{"/system.slice/other-" + cid + ".scope", identity{Class: scope, Unit: "other-" + cid + ".scope"}},

		// What only looks like it.
		{"/kubelet", identity{Class: other}},
		{"/runtime", identity{Class: other}},
		{"/podruntime/runtime", identity{Class: other}},
		{"/podman/pod" + uid, identity{Class: other}},
		{"/burstable", identity{Class: other}},
		{"/burstable/pod" + uid, identity{Class: other}},
		{"/kubepods/podinfo", identity{Class: other}},
		{"/kubepods/burstable/pod" + uid[:35] + "x", identity{Class: other, QoS: burstable}},
		{"/kubepods/burstable/pod" + strings.Replace(uid, "-", "0", 1), identity{Class: other, QoS: burstable}},
		{"/kubepods/burstable/pod" + strings.ToUpper(uid), identity{Class: other, QoS: burstable}},
		{"/kubepods/burstable/besteffort", identity{Class: other, QoS: burstable}},
		{"/notkubepods.slice", identity{Class: slice, Unit: "notkubepods.slice"}},
		{"/kubepodsburstable.slice", identity{Class: slice, Unit: "kubepodsburstable.slice"}},
		{"/kubepods2.slice", identity{Class: slice, Unit: "kubepods2.slice"}},
		{"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podinfo.slice",
			identity{Class: slice, QoS: burstable, Unit: "kubepods-burstable-podinfo.slice"}},
		{"/system.slice/pod" + uid + ".service", identity{Class: svc, Unit: "pod" + uid + ".service"}},
		{"/.slice", identity{Class: other}},
	}
}

func TestIdentify(t *testing.T) {
	for _, c := range identities() {
		if got := Identify(c.path); got != c.want {
			t.Errorf("%s\n got %+v\nwant %+v", c.path, got, c.want)
		}
	}
}

// Every cgroup of the saved nodes is what a look at the tree says: a kubelet and a runtime, kubepods, two QoS classes, and
// below them nothing but pods and their containers.
func TestIdentifySavedNodes(t *testing.T) {
	for _, node := range []string{"v2-quiet", "v1-quiet/sys/fs/cgroup/memory", "v2-oom-kubepods"} {
		name, sub, _ := strings.Cut(node, "/")
		if sub == "" {
			sub = "sys/fs/cgroup"
		}
		count := map[snapshot.Class]int{}
		tree := os.DirFS("../testdata/nodes/" + name + "/" + sub)
		err := fs.WalkDir(tree, ".", func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.IsDir() {
				return err
			}
			id := Identify("/" + strings.TrimPrefix(path, "."))
			count[id.Class]++
			if id.Class == snapshot.ClassContainer && (id.PodUID == "" || id.QoS == "" || !strings.HasSuffix(path, id.ContainerID)) {
				t.Errorf("%s: %+v", path, id)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		pods, ctrs := count[snapshot.ClassPod], count[snapshot.ClassContainer]
		if count[snapshot.ClassRoot] != 1 || count[snapshot.ClassKubepods] != 1 || count[snapshot.ClassQoS] != 2 ||
			count[snapshot.ClassOther] != 2 || pods == 0 || ctrs < 2*pods {
			t.Errorf("%s: %v", node, count)
		}
	}
}

// A redacted path says the same of a cgroup as the path itself, but for the names.
func TestRedactKeepsIdentity(t *testing.T) {
	for _, c := range identities() {
		s := snapshot.Redact(&snapshot.Snapshot{Cgroups: []snapshot.Cgroup{{Path: c.path}}}, []byte("salt"), Identify)
		got, path := s.Cgroups[0].Identity, s.Cgroups[0].Path
		for _, name := range []struct{ before, after string }{
			{c.want.PodUID, got.PodUID}, {c.want.ContainerID, got.ContainerID}, {c.want.Node, got.Node}, {c.want.Unit, got.Unit},
		} {
			if (name.before == "") != (name.after == "") {
				t.Errorf("%s became %s: %q became %q", c.path, path, name.before, name.after)
			}
		}
		if len(got.PodUID) != len(c.want.PodUID) || got.Class != c.want.Class || got.QoS != c.want.QoS || got.Runtime != c.want.Runtime {
			t.Errorf("%s became %s:\n got %+v\nwant %+v", c.path, path, got, c.want)
		}
		for _, secret := range []string{uid, uidUnit, static, cid, cid2, cid[:12], "sshd", "1000", "k8s-1", "web"} {
			if strings.Contains(path, secret) {
				t.Errorf("%s became %s, which has %s in it", c.path, path, secret)
			}
		}
	}
}

// What Identify says comes from the path and from nowhere else.
func FuzzIdentify(f *testing.F) {
	for _, c := range identities() {
		f.Add(c.path)
	}
	f.Fuzz(func(t *testing.T, path string) {
		id := Identify(path)
		dashed := strings.ReplaceAll(path, "_", "-")
		if !strings.Contains(dashed, id.PodUID) || !strings.Contains(path, id.ContainerID) ||
			!strings.Contains(path, id.Node) || !strings.Contains(path, id.Unit) {
			t.Fatalf("%q: %+v has what the path has not", path, id)
		}
		if (id.Class == snapshot.ClassPod) && id.PodUID == "" || (id.Class == snapshot.ClassContainer) && id.ContainerID == "" {
			t.Fatalf("%q: %+v without an ID", path, id)
		}
		if id.Class == "" || (id.Class == snapshot.ClassRoot) != (strings.Trim(path, "/") == "") {
			t.Fatalf("%q: class %q", path, id.Class)
		}
	})
}

func BenchmarkIdentify(b *testing.B) {
	path := burstableSlices + "/cri-containerd-" + cid + ".scope"
	b.ReportAllocs()
	for b.Loop() {
		Identify(path)
	}
}
