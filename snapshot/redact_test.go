package snapshot_test

import (
	"encoding/json"
	"io/fs"
	"os"
	"path"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/memrecon/memrecon/cgroup"
	"github.com/memrecon/memrecon/snapshot"
)

// named is a snapshot with the cgroups of a captured node, those of a machine with systemd, and a name wherever there can be
// one; and the names.
func named(t *testing.T) (s *snapshot.Snapshot, secrets []string) {
	t.Helper()
	s = &snapshot.Snapshot{
		Version: snapshot.Version, Node: "ip-10-20-30-40.acme.internal", Kernel: "6.1.0-56-cloud-amd64",
		Host: snapshot.Host{Swaps: []snapshot.Swap{
			{Name: "/dev/mapper/acmevg-swaplv", SizeBytes: 1 << 30}, {Name: `/srv/paging\040file`, Priority: 3},
		}},
	}
	add := func(p string) {
		id := cgroup.Identify(p)
		s.Cgroups = append(s.Cgroups, snapshot.Cgroup{Path: p, Parent: -1, Identity: id, Usage: snapshot.Of(5)})
		for _, name := range []string{id.PodUID, id.ContainerID} {
			if name != "" {
				secrets = append(secrets, name)
			}
		}
	}
	tree := os.DirFS("../testdata/nodes/v2-quiet/sys/fs/cgroup")
	err := fs.WalkDir(tree, ".", func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			add(path.Join("/", p))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(secrets) < 10 {
		t.Fatalf("only %d pods and containers in the captured node", len(secrets))
	}
	const podUID, podUnit = "0a1b2c3d-0000-4000-8000-00000000beef", "0a1b2c3d_0000_4000_8000_00000000beef"
	for _, p := range []string{
		"/system.slice", "/system.slice/acme-billing.service", `/system.slice/acme\x2dledger@bank.service`, "/init.scope",
		"/user.slice/user-54321.slice/user@54321.service/app.slice", "/lxc.payload.paradise", "/acmé", "/名前",
		"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + podUnit + ".slice", "/kubepods/pod" + podUID,
	} {
		add(p)
	}
	const eviction = "The node was low on resource: memory. Threshold quantity: 200Mi, available: 92616Ki. Pod billing-7d9f was using 3Gi, " +
		"request is 2Gi, has larger consumption of memory. Container ledgerd was using 2Gi, request is 0, has larger consumption of memory. "
	stats := snapshot.ContainerStats{Name: "ledgerd"}
	s.Kubernetes = &snapshot.Kubernetes{
		Summary: snapshot.Summary{
			System: []snapshot.ContainerStats{{Name: "kubelet"}},
			Pods:   []snapshot.PodStats{{Namespace: "acme-prod", Name: "billing-7d9f", UID: podUID, Containers: []snapshot.ContainerStats{stats}}},
		},
		WorkingSets: []snapshot.WorkingSet{{Namespace: "acme-prod", Pod: "billing-7d9f", Container: "ledgerd", Bytes: 7}},
		Pods: []snapshot.Pod{{Namespace: "acme-prod", Name: "billing-7d9f", UID: podUID, Phase: "Failed", Reason: "Evicted",
			Message: eviction,
			Disruption: snapshot.Disruption{Reason: "TerminationByKubelet", Message: "the team of acme-prod took billing-7d9f off " +
				"ip-10-20-30-40.acme.internal, said ledgerd."},
			Containers: []snapshot.Container{{
				Name: "ledgerd", ID: secrets[0], Runtime: "containerd",
				Terminated: snapshot.Termination{ContainerID: secrets[0], Reason: "StartError", Message: "failed to create /acme/billing: OOM-killed"},
				Previous:   snapshot.Termination{ContainerID: secrets[0], Reason: "Error", Message: "password hunter2 is wrong"},
			}}}},
		Node: snapshot.Node{
			Name: s.Node, KubeletVersion: "v1.37.2",
			Conditions: []snapshot.Condition{{Type: "Ready", Status: "True", Reason: "KubeletReady"}, {Type: "AcmeReady", Reason: "MalloryTookIt"}},
			Taints:     []snapshot.Taint{{Key: "node.kubernetes.io/memory-pressure", Effect: "NoSchedule"}, {Key: "acme/team", Value: "ledgerteam"}},
		},
	}
	container := s.Cgroups[len(secrets)/2].Path
	s.Errors = []snapshot.SourceError{
		{Source: "/sys/fs/cgroup" + container + "/memory.stat", Error: "open /sys/fs/cgroup" + container +
			"/memory.stat: permission denied", Hint: "run memrecon as root"},
		{Source: "/home/mallory/node/proc/swaps", Error: `/srv/paging\040file has a negative size`,
			Hint: "ask ip-10-20-30-40.acme.internal, or look at acme-billing.service: it is \"/acmé\" (pod " + podUnit + ")."},
		{Source: "https://10.20.30.40:10250/pods", Error: "dial tcp 10.20.30.40:10250: the certificate is for kubelet.acme.internal",
			Hint: "grant get on nodes/pods to memrecon's ServiceAccount, not to system:serviceaccount:acmens:memreconsa"},
	}
	secrets = append(secrets, podUnit, "ip-10-20-30-40", "acme", "acmevg", "swaplv", "paging", "billing", "ledger", "bank",
		"54321", "paradise", "prod", "7d9f", "ledgerd", "AcmeReady", "MalloryTookIt", "ledgerteam", "10.20.30.40", "acmens", "memreconsa",
		"acmé", "名前", "mallory", "hunter2")
	return s, secrets
}

func redact(s *snapshot.Snapshot, salt string) *snapshot.Snapshot {
	return snapshot.Redact(s, []byte(salt), cgroup.Identify)
}

func TestRedactLeavesNoName(t *testing.T) {
	s, secrets := named(t)
	before, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	after, err := json.Marshal(redact(s, "salt"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range secrets {
		if !strings.Contains(string(before), name) {
			t.Errorf("%s is not in the snapshot, so the test says nothing of it", name)
		}
		if i := strings.Index(string(after), name); i >= 0 {
			t.Errorf("%s is still there: %.80s", name, after[max(0, i-20):])
		}
	}
	if again, _ := json.Marshal(s); string(again) != string(before) {
		t.Error("the original was changed")
	}
}

func TestRedactKeepsStructure(t *testing.T) {
	s, _ := named(t)
	r := redact(s, "salt")
	seen := map[string]string{}
	for i, c := range r.Cgroups {
		was := s.Cgroups[i]
		if c.Identity.Class != was.Identity.Class || strings.Count(c.Path, `\x2d`) != strings.Count(was.Path, `\x2d`) ||
			c.Usage != was.Usage {
			t.Errorf("%s became %s: %+v", was.Path, c.Path, c)
		}
		if other, twice := seen[c.Path]; twice {
			t.Errorf("%s and %s became one", was.Path, other)
		}
		seen[c.Path] = was.Path
		if parent := path.Dir(c.Path); parent != "/" && strings.HasPrefix(was.Path, "/kubepods/") && seen[parent] != path.Dir(was.Path) {
			t.Errorf("%s became %s, whose parent is %q", was.Path, c.Path, seen[parent])
		}
	}
	for _, kept := range []string{"/", "/kubepods", "/kubepods/burstable", "/system.slice", "/init.scope", "/kubelet"} {
		if seen[kept] != kept {
			t.Errorf("%s was replaced", kept)
		}
	}
	n := len(r.Cgroups)
	if a, b := r.Cgroups[n-1].Identity.PodUID, r.Cgroups[n-2].Identity.PodUID; a != b || a == "" {
		t.Errorf("one pod's UID became %s under the one driver and %s under the other", a, b)
	}
	if got := r.Errors[0].Hint; got != s.Errors[0].Hint {
		t.Errorf("a hint without a name became %q", got)
	}
	if e := r.Errors[0]; !strings.HasPrefix(e.Error, "open /sys/fs/cgroup/kubepods/") ||
		!strings.HasSuffix(e.Error, "/memory.stat: permission denied") || !strings.Contains(e.Error, e.Source) {
		t.Errorf("an error became %+v", e)
	}
	k := r.Kubernetes
	stats, pod, sample := k.Summary.Pods[0], k.Pods[0], k.WorkingSets[0]
	if stats.Name != pod.Name || sample.Pod != pod.Name || stats.UID != pod.UID || pod.UID != r.Cgroups[n-1].Identity.PodUID ||
		pod.Containers[0].Name != stats.Containers[0].Name || sample.Container != stats.Containers[0].Name || sample.Bytes != 7 ||
		pod.Namespace != stats.Namespace || pod.Namespace != sample.Namespace || pod.Reason != "Evicted" {
		t.Errorf("one pod became %+v, %+v and %+v", stats, pod, sample)
	}
	evicted, ok := snapshot.ParseEviction(pod.Message)
	was, _ := snapshot.ParseEviction(s.Kubernetes.Pods[0].Message)
	if !ok || evicted.Pod.Name != pod.Name || evicted.Containers[0].Name != pod.Containers[0].Name || evicted.Available != was.Available ||
		evicted.Containers[0].Usage != was.Containers[0].Usage || !strings.HasPrefix(pod.Disruption.Message, "the team of n") ||
		!strings.HasSuffix(pod.Containers[0].Terminated.Message, ": OOM-killed") {
		t.Errorf("messages became %q, %q, %q", pod.Message, pod.Disruption.Message, pod.Containers[0].Terminated.Message)
	}
	if id := seen[r.Cgroups[containerOf(r, pod.Containers[0].ID)].Path]; !strings.Contains(id, s.Kubernetes.Pods[0].Containers[0].ID) {
		t.Errorf("the container %s is now in %s", pod.Containers[0].ID, id)
	}
	if k.Node.Name != r.Node || k.Node.Conditions[0] != s.Kubernetes.Node.Conditions[0] || k.Node.Taints[0] != s.Kubernetes.Node.Taints[0] ||
		k.Summary.System[0].Name != "kubelet" {
		t.Errorf("the Node became %+v", k.Node)
	}
	if r.Kernel != s.Kernel || r.Host.Swaps[0].SizeBytes != 1<<30 || r.Host.Swaps[1].Priority != 3 {
		t.Error("what is no name was changed")
	}
}

// containerOf is the index of a container's cgroup.
func containerOf(s *snapshot.Snapshot, id string) int {
	return slices.IndexFunc(s.Cgroups, func(c snapshot.Cgroup) bool { return c.Identity.ContainerID == id || c.Identity.PodUID == id })
}

func TestRedactHangsOnTheSalt(t *testing.T) {
	s, _ := named(t)
	if !reflect.DeepEqual(redact(s, "one"), redact(s, "one")) {
		t.Error("the same salt gives two replacements")
	}
	one, two := redact(s, "one"), redact(s, "two")
	if one.Node == two.Node || one.Cgroups[8].Path == two.Cgroups[8].Path {
		t.Errorf("two salts give one replacement: %s, %s", one.Node, one.Cgroups[8].Path)
	}
	if got := redact(&snapshot.Snapshot{}, "one"); !reflect.DeepEqual(got, &snapshot.Snapshot{}) {
		t.Errorf("an empty snapshot became %+v", got)
	}
}
