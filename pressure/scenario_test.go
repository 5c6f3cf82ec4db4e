package pressure

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/memrecon/memrecon/snapshot"
)

// good is a scenario to spoil.
const good = `name: leaky
summary: a container leaks
pods:
  - name: pod
    volumes:
      - {name: scratch, sizeLimit: 48Mi}
    initContainers:
      - name: writer
        write: {volume: scratch, size: 32Mi}
    containers:
      - name: app
        resources:
          requests: {memory: 32Mi}
          limits: {memory: 64Mi}
        leak: {kind: anon, block: 1Mi, max: 128Mi, hold: 10s}
steps:
  - start: pod
    until: {container: pod/writer, ended: true}
expect:
  pod/app: {reason: OOMKilled, exitCode: 137, limit: container}
guards:
  nodeAvailable: 128Mi
  timeout: 60s
`

// Whatever is wrong with a scenario's file is said in a line of its own, with the file and the field.
func TestMalformed(t *testing.T) {
	if _, err := Parse([]byte(good)); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ old, new, want string }{
		{"name: leaky", "name: Leaky!", "name: "},
		{"summary: a container leaks", "summary: ''", "summary: has to be one line"},
		{"sizeLimit: 48Mi", "sizeLimit: 0", "pods[0].volumes[0].sizeLimit: has to be more than 0"},
		{"volume: scratch", "volume: other", `pods[0].initContainers[0].write.volume: the pod has no volume "other"`},
		{"size: 32Mi", "size: [1]", "pods[0].initContainers[0].write.size: "},
		{"max: 128Mi", "max: 128Mb", "pods[0].containers[0].leak.max: "},
		{"max: 128Mi", "max: -1", "pods[0].containers[0].leak.max: "},
		{"max: 128Mi", "max: 8Ei", "pods[0].containers[0].leak.max: "},
		{"max: 128Mi, ", "", "pods[0].containers[0].leak.max: is missing"},
		{"hold: 10s", "hold: 10", `pods[0].containers[0].leak.hold: "10" is not a time`},
		{"hold: 10s", "hold: 10s, dieAt: 1Mi", "pods[0].containers[0].leak.dieWith: "},
		{"hold: 10s", "hold: 10s, dieAt: 1Mi, dieWith: SIGKILL", "pods[0].containers[0].leak.dieWith: "},
		{"hold: 10s", "hold: 10s, rate: 1Mi, every: 1s", "pods[0].containers[0].leak.every: "},
		{"kind: anon", "kind: swap", "pods[0].containers[0].leak.kind: "},
		{"kind: anon", "colour: red", `"colour"`},
		{"requests: {memory: 32Mi}", "requests: {memory: 65Mi}", "pods[0].containers[0].resources.requests.memory: "},
		{"- start: pod", "- start: other", `steps[0].start: there is no pod "other"`},
		{"container: pod/writer", "container: pod/other", "steps[0].until.container: "},
		{"ended: true", "ended: true, usage: 1Mi", "steps[0].until: needs either"},
		{"pod/app: {reason: OOMKilled", "pod/gone: {reason: OOMKilled", "expect.pod/gone: "},
		{"reason: OOMKilled", "reason: Evicted", "expect.pod/app.reason: "},
		{"exitCode: 137", "exitCode: 300", "expect.pod/app.exitCode: "},
		{"limit: container", "limit: sky", "expect.pod/app.limit: "},
		{"  timeout: 60s\n", "", "guards.timeout: is missing"},
		{"nodeAvailable: 128Mi", "nodeAvailable: much", "guards.nodeAvailable: "},
		{"pods:\n", "pods: 5\n#", ""},
		{"name: leaky\n", "name: leaky\n\tsummary: tab", ""},
	} {
		text := strings.Replace(good, tc.old, tc.new, 1)
		if text == good {
			t.Fatalf("%q is not in the scenario", tc.old)
		}
		file := filepath.Join(t.TempDir(), "bad.yaml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := Load(file)
		if err == nil {
			t.Errorf("%s in place of %s is taken", tc.new, tc.old)
			continue
		}
		found := false
		for line := range strings.SplitSeq(err.Error(), "\n") {
			if !strings.HasPrefix(line, file+": ") {
				t.Errorf("%s: the line %q does not name the file", tc.new, line)
			}
			found = found || strings.Contains(line, tc.want)
		}
		if !found {
			t.Errorf("%s: no %q in\n%v", tc.new, tc.want, err)
		}
	}
	for name, want := range map[string]string{"gold": "pressure list", "./gone.yaml": "gone.yaml", "gold.yaml": "gold.yaml"} {
		if _, err := Load(name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(good))
	f.Fuzz(func(t *testing.T, text []byte) {
		s, err := Parse(text)
		if err != nil {
			return
		}
		p := NewPlan(s, 1<<31)
		if len(p.Containers) != len(s.refs()) || p.MostBytes < 0 {
			t.Errorf("%d containers of %d, at most %d bytes", len(p.Containers), len(s.refs()), p.MostBytes)
		}
	})
}

// The cgroups of a plan have the limits that the kubelet would give them, and its programs the same oom_score_adj.
func TestPlan(t *testing.T) {
	s, err := Parse([]byte(good))
	if err != nil {
		t.Fatal(err)
	}
	p := NewPlan(s, 320<<20)
	if app := p.container("pod/app"); app.ScoreAdj != 900 || app.QoS != snapshot.Burstable { // a tenth of the capacity is requested
		t.Errorf("%s, oom_score_adj %d", app.QoS, app.ScoreAdj)
	}
	// The pod has none: its init container has none.
	for path, want := range map[string]snapshot.Value{"/": {}, "/pod": {}, "/pod/app": snapshot.Of(64 << 20), "/pod/writer": {}} {
		if got := p.cgroup(path).Limit; got != want {
			t.Errorf("the limit of %s is %s, want %s", path, got, want)
		}
	}
	if want := int64(64+48) << 20; p.MostBytes != want { // the app up to its limit, the writer its file and itself
		t.Errorf("at most %d, want %d", p.MostBytes, want)
	}
	s.Pods[0].InitContainers[0].Resources.Limits.Memory = "96Mi"
	p = NewPlan(s, 320<<20)
	if got := p.cgroup("/pod").Limit; got != snapshot.Of(96<<20) {
		t.Errorf("the limit of the pod is %s, and an init container's is 96Mi", got)
	}
}

// A kill is for the limit that was pressed last among those above the victim; of two at once for the lower.
func TestCauseOfAKill(t *testing.T) {
	s, err := Parse([]byte(good))
	if err != nil {
		t.Fatal(err)
	}
	plan := NewPlan(s, 1<<30)
	keys := snapshot.NewKeys([]string{"max", "oom", "oom_kill"})
	reading := func(path string, counters ...uint64) snapshot.Cgroup {
		return snapshot.Cgroup{Path: path, EventsLocal: snapshot.Stat{Keys: keys, Values: counters}}
	}
	for name, tc := range map[string]struct {
		top, pod, app []uint64
		want          Level
	}{
		"container":      {[]uint64{0, 0, 0}, []uint64{0, 0, 0}, []uint64{9, 1, 1}, ContainerLevel},
		"all pods":       {[]uint64{9, 1, 0}, []uint64{0, 0, 0}, []uint64{0, 0, 1}, NodeLevel},
		"pod, reclaimed": {[]uint64{0, 0, 0}, []uint64{5, 1, 0}, []uint64{9, 0, 1}, PodLevel},
		"both":           {[]uint64{1, 1, 0}, []uint64{0, 0, 0}, []uint64{1, 1, 1}, ContainerLevel},
		"not known":      {[]uint64{0, 0, 0}, []uint64{0, 0, 0}, []uint64{0, 0, 1}, ""},
	} {
		w := newWatcher(plan)
		zero := []uint64{0, 0, 0}
		w.look(0, []snapshot.Cgroup{reading("/", zero...), reading("/pod", zero...), reading("/pod/app", zero...)})
		next := []snapshot.Cgroup{reading("/", tc.top...), reading("/pod", tc.pod...), reading("/pod/app", tc.app...)}
		if !w.killed(next) {
			t.Errorf("%s: no kill is seen", name)
		}
		var kills []Event
		for _, e := range w.look(time.Second, next) {
			if e.Kind == Kill {
				kills = append(kills, e)
			}
		}
		if len(kills) != 1 || kills[0].Level != tc.want {
			t.Errorf("%s: %+v, want %s", name, kills, tc.want)
		}
	}
}

// The limit of a pod's only container is the pod's as well; that of one of two is not.
func TestContainerOrItsPod(t *testing.T) {
	s, err := Parse([]byte(good))
	if err != nil {
		t.Fatal(err)
	}
	atPod := &Outcome{Containers: []ContainerOutcome{{Container: "pod/app", Reason: OOMKilled, Limit: PodLevel}}}
	for writerLimit, want := range map[Quantity]bool{"64Mi": true, "96Mi": false} {
		s.Pods[0].InitContainers[0].Resources.Limits.Memory = writerLimit
		for _, c := range compare(s, atPod) {
			if strings.HasPrefix(c.Expected, "at the limit") && c.Met != want {
				t.Errorf("with a pod's limit of %s: %+v", writerLimit, c)
			}
		}
	}
}
