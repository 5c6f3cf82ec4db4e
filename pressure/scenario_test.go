package pressure

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/memrecon/memrecon/report"
	"github.com/memrecon/memrecon/snapshot"
	"github.com/memrecon/memrecon/verdict"
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
  pod/app: {reason: OOMKilled, exitCode: 137, verdicts: [container-limit]}
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
		{"[container-limit]", "[pod-limit, sky]", "expect.pod/app.verdicts[1]: "},
		{"verdicts: [container-limit]", "limit: container", `"limit"`},
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

// A container's incidents meet what is expected where each has one of the verdicts. An empty list is for no incident at all, and one
// that is left out for any.
func TestExpectedVerdict(t *testing.T) {
	const expected = "{reason: OOMKilled, exitCode: 137, verdicts: [container-limit]}"
	for _, tc := range []struct {
		verdicts string
		told     []verdict.Verdict
		line     string // of the check; "" for none
		met      bool
	}{
		{"verdicts: [container-limit]", []verdict.Verdict{verdict.ContainerLimit}, "verdict container-limit: container-limit, likely", true},
		{"verdicts: [container-limit]", []verdict.Verdict{verdict.PodLimit}, "verdict container-limit: pod-limit, likely", false},
		{"verdicts: [container-limit]", nil, "verdict container-limit: none", false},
		{"verdicts: [container-limit, pod-limit]", []verdict.Verdict{verdict.PodLimit}, "verdict container-limit or pod-limit: pod-limit, likely", true},
		{"verdicts: [pod-limit]", []verdict.Verdict{verdict.PodLimit, verdict.NodeOOM}, "verdict pod-limit: pod-limit, likely; node-oom, likely", false},
		{"verdicts: []", nil, "no verdict: none", true},
		{"verdicts: []", []verdict.Verdict{verdict.RuntimeCap}, "no verdict: runtime-cap, likely", false},
		{"exitCode: 137", []verdict.Verdict{verdict.NodeOOM}, "", true},
	} {
		s, err := Parse([]byte(strings.Replace(good, expected, "{reason: OOMKilled, "+tc.verdicts+"}", 1)))
		if err != nil {
			t.Fatal(err)
		}
		c := ContainerOutcome{Container: "pod/app", Reason: OOMKilled}
		for _, v := range tc.told {
			c.Incidents = append(c.Incidents, report.NewIncident(&verdict.Incident{Verdict: v, Confidence: verdict.Likely}, nil))
		}
		var lines []string
		for _, check := range compare(s, &Outcome{Containers: []ContainerOutcome{c}}) {
			if strings.Contains(check.Expected, "verdict") {
				lines = append(lines, check.Expected+": "+check.Observed)
				if check.Met != tc.met {
					t.Errorf("%s, told %v: %+v", tc.verdicts, tc.told, check)
				}
			}
		}
		if got := strings.Join(lines, "\n"); got != tc.line {
			t.Errorf("%s, told %v: %q, want %q", tc.verdicts, tc.told, got, tc.line)
		}
	}
}

// Whose a cgroup is follows from its place in the plan, also in a kernel's log that has its path from further up.
func TestIdentity(t *testing.T) {
	s, err := Parse([]byte(good))
	if err != nil {
		t.Fatal(err)
	}
	w := &witness{plan: NewPlan(s, 1<<30), top: "memrecon-pressure-1"}
	app := snapshot.Identity{Class: snapshot.ClassContainer, QoS: snapshot.Burstable, PodUID: "pod", ContainerID: "pod/app"}
	for path, want := range map[string]snapshot.Identity{
		"/memrecon-pressure-1":                    {Class: snapshot.ClassKubepods},
		"/memrecon-pressure-1/pod":                {Class: snapshot.ClassPod, QoS: snapshot.Burstable, PodUID: "pod"},
		"/memrecon-pressure-1/pod/app":            app,
		"/docker/a/memrecon-pressure-1/pod/app":   app,
		"/memrecon-pressure-1/pod/other":          {Class: snapshot.ClassOther},
		"/memrecon-pressure-12/pod/app":           {Class: snapshot.ClassOther},
		"/system.slice/memrecon-pressure-1.scope": {Class: snapshot.ClassScope, Unit: "memrecon-pressure-1.scope"},
		"/": {Class: snapshot.ClassRoot},
	} {
		if got := w.identify(path); got != want {
			t.Errorf("%s is %+v, want %+v", path, got, want)
		}
	}
}
