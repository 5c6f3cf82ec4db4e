package report_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/memrecon/memrecon/cgroup"
	"github.com/memrecon/memrecon/collector"
	"github.com/memrecon/memrecon/kernellog"
	"github.com/memrecon/memrecon/report"
	"github.com/memrecon/memrecon/snapshot"
	"github.com/memrecon/memrecon/verdict"
)

// story is what happened on a captured guest between two captures.
type story struct {
	before, after string
	// log is the kernel's, empty where it may not be read; boot is the wall clock at its time zero, which it does not have: told by the
	// second in which the kubelet has the ends of the same containers.
	log  string
	boot time.Time
	// moves are the counters of OOMs that moved in between, as the later capture has them summed up.
	moves []move
}

// move is what was counted in a cgroup itself up to so many seconds after boot: an OOM more than before, or a kill.
type move struct {
	seconds          float64
	path             string
	oom, kill, group uint64
	limit            snapshot.Value
}

func stories() map[string]story {
	v1, v2 := time.Date(2026, 11, 23, 18, 1, 56, 0, time.UTC), time.Date(2026, 11, 23, 17, 45, 8, 400e6, time.UTC)
	const (
		pod     = "/kubepods/burstable/pod30ff400e-235a-424e-8973-9686225be574"
		hog     = pod + "/4bce183269c3257efa2fe0418e4e5fec1e724253880ab6684a8f9ca5c0807a93"
		leak    = "/kubepods/besteffort/podd514f249-6aa2-4320-aba1-6356e91e1839"
		hogA    = leak + "/0f25e9d95905d7458336407ad845401adff5ee3d0f8a60ad77e8ca4c3e9a65f1"
		hogB    = leak + "/21da3aed0661a06624bffd20e4944296256eb30fcca1fa98fedcdb88e0acbe0d"
		v1Hog   = "/kubepods/burstable/pod810de39c-53bc-4365-b3ca-97a6108bbf0d/fc3c3c9b7ebd856df60b2e838b9f4c2cf6729c376218fbe85ec8372a7a9968f3"
		v1Log   = "v1-6.1-pod-limit.log"
		v2Log   = "v2-6.1-kubepods-limit.log"
		evicted = "v2-evicted-shown-completed"
	)
	none := snapshot.Value{}
	one := []move{{95.5, pod, 1, 0, 0, snapshot.Of(100 * mib)}, {95.52, hog, 0, 2, 1, none}}
	all := snapshot.Of(1718812 << 10)
	two := []move{{207.67, "/kubepods", 1, 0, 0, all}, {207.69, hogA, 0, 2, 1, none}, {207.764, "/kubepods", 2, 0, 0, all}, {207.78, hogB, 0, 2, 1, none}}
	onV1 := []move{{237.33, v1Hog, 0, 1, 0, none}}
	return map[string]story{
		"v2-oom-container":        {"v2-quiet", "v2-oom-container", v2Log, v2, one},
		"v2-oom-container-no-log": {"v2-quiet", "v2-oom-container", "", v2, one},
		evicted:                   {"v2-oom-container", evicted, v2Log, v2, nil},
		"v2-oom-kubepods":         {evicted, "v2-oom-kubepods", v2Log, v2, two},
		"v2-oom-kubepods-no-log":  {evicted, "v2-oom-kubepods", "", v2, two},
		"v1-oom-container":        {"v1-quiet", "v1-oom-container", v1Log, v1, onV1},
		"v1-oom-container-no-log": {"v1-quiet", "v1-oom-container", "", v1, onV1},
	}
}

// capture is a captured node at the time when its kubelet was asked.
func capture(t *testing.T, node string) *snapshot.Snapshot {
	t.Helper()
	dir := filepath.Join(nodes, node)
	c, err := collector.Open(collector.Config{Procfs: filepath.Join(dir, "proc"), Sysfs: filepath.Join(dir, "sys"), Node: node, Saved: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	snap := *c.Collect().Sheet.Snapshot()
	snap.Time = snap.Kubernetes.Time
	return &snap
}

// incidents are what a Judge says of a story, in the end.
func (s *story) incidents(t *testing.T) []report.Incident {
	t.Helper()
	before, after := capture(t, s.before), capture(t, s.after)
	judge := verdict.NewJudge(s.log != "")
	judge.Round(before)
	for _, k := range s.kills(t) {
		if k.Time.After(before.Time) && k.Time.Before(after.Time) {
			judge.Kill(&k, k.Time.Add(5*time.Millisecond))
		}
	}
	for i, m := range s.moves {
		judge.Counters(s.counters(m, uint64(i+1), after.Mode))
	}
	// The node stays as it was found: what waits for more evidence is told in the end.
	for second := range 60 {
		later := *after
		later.Time = after.Time.Add(time.Duration(second) * time.Second)
		judge.Round(&later)
	}
	last := map[string]verdict.Incident{}
	for _, in := range judge.Changed() {
		if in.Time.After(before.Time) {
			last[in.ID] = in
		}
	}
	list := []report.Incident{}
	for _, in := range last {
		list = append(list, report.NewIncident(&in, nil))
	}
	slices.SortFunc(list, func(a, b report.Incident) int { return a.Time.Compare(b.Time) })
	return list
}

// kills are those in the kernel's log.
func (s *story) kills(t *testing.T) []snapshot.Kill {
	t.Helper()
	if s.log == "" {
		return nil
	}
	text, err := os.ReadFile(filepath.Join("../testdata/kernel", s.log))
	if err != nil {
		t.Fatal(err)
	}
	var kills []snapshot.Kill
	parser := kernellog.NewParser(cgroup.Identify, func(k *snapshot.Kill) {
		micros, _ := k.BootMicros.Get()
		k.Time = s.boot.Add(time.Duration(micros) * time.Microsecond)
		kills = append(kills, *k)
	})
	if err := parser.Read(bytes.NewReader(text)); err != nil {
		t.Fatal(err)
	}
	return kills
}

// counters are those of a cgroup that moved; v1 counts kills alone.
func (s *story) counters(m move, inode uint64, mode snapshot.Mode) *snapshot.OOMCounters {
	c := &snapshot.OOMCounters{
		Time: s.boot.Add(time.Duration(m.seconds * float64(time.Second))), Path: m.path, Inode: inode, Identity: cgroup.Identify(m.path), Max: m.limit,
		LocalBefore: snapshot.OOMEvents{OOMKill: snapshot.Of(0)}, LocalAfter: snapshot.OOMEvents{OOMKill: snapshot.Of(m.kill)},
	}
	if mode == snapshot.V2 {
		c.LocalBefore.OOM, c.LocalAfter.OOM = snapshot.Of(m.oom-min(m.oom, 1)), snapshot.Of(m.oom)
		c.LocalBefore.OOMGroupKill, c.LocalAfter.OOMGroupKill = snapshot.Of(0), snapshot.Of(m.group)
	}
	return c
}

// What a person reads of the captured nodes.
func TestIncidentsText(t *testing.T) {
	for name, s := range stories() {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			if err := report.IncidentsText(&b, s.incidents(t), report.Options{}); err != nil {
				t.Fatal(err)
			}
			golden(t, "incident-"+name+".txt", b.Bytes())
		})
	}
}

// made are incidents of each verdict, made by hand, and the sentence for each; of some verdicts more than one.
func made() []struct {
	incident verdict.Incident
	want     string
} {
	mi := func(n uint64) snapshot.Value { return snapshot.Of(n * mib) }
	app := verdict.Owner{
		Path: "/kubepods/burstable/pod1/aaa", Identity: snapshot.Identity{Class: snapshot.ClassContainer, PodUID: "1", ContainerID: "aaa"},
		Namespace: "shop", Pod: "web", Container: "app",
	}
	pod := verdict.Owner{Identity: snapshot.Identity{Class: snapshot.ClassPod, PodUID: "1"}, Namespace: "shop", Pod: "web"}
	service := verdict.Owner{Path: "/system.slice/batch.service", Identity: snapshot.Identity{Class: snapshot.ClassService, Unit: "batch.service"}}
	slice := verdict.Owner{Path: "/system.slice", Identity: snapshot.Identity{Class: snapshot.ClassSlice, Unit: "system.slice"}}
	class := verdict.Owner{Path: "/kubepods/burstable", Identity: snapshot.Identity{Class: snapshot.ClassQoS, QoS: snapshot.Burstable}}
	all := verdict.Owner{Path: "/kubepods", Identity: snapshot.Identity{Class: snapshot.ClassKubepods}}
	node := verdict.Owner{Path: "/", Identity: snapshot.Identity{Class: snapshot.ClassRoot}}
	ended := func(code int32, reason string) *snapshot.Termination {
		return &snapshot.Termination{ExitCode: code, Reason: reason}
	}
	low := snapshot.Eviction{
		Resource: "memory", Threshold: mi(200), Available: mi(90), Containers: []snapshot.OverRequest{{Name: "app", Usage: mi(1381), Request: snapshot.Of(0)}},
	}
	second := verdict.Ranking{Time: limitHit, Place: 2, Pods: 12, Key: verdict.RankPriority, Before: []verdict.Owner{pod}, KubeletTime: limitHit.Add(-9 * time.Second)}
	const certain, likely, possible = verdict.Certain, verdict.Likely, verdict.Possible
	return []struct {
		incident verdict.Incident
		want     string
	}{
		{
			verdict.Incident{Verdict: verdict.ContainerLimit, Confidence: certain, Victim: app, Limited: app, Limit: mi(128), Comm: "java", PID: 42, Kills: 1, Effect: verdict.Ended},
			"shop/web/app: the kernel killed java (process 42), as the container reached its memory limit of 128Mi.",
		},
		{
			verdict.Incident{Verdict: verdict.ContainerLimit, Confidence: likely, Victim: app, Limited: app, Limit: mi(128), Kills: 1, Effect: verdict.ProcessOnly},
			"shop/web/app: the kernel killed a process, most likely as the container reached its memory limit of 128Mi; the container goes on without it.",
		},
		{
			verdict.Incident{Verdict: verdict.ContainerLimit, Confidence: certain, Victim: app, Limited: app, Limit: mi(128), Comm: "java", PID: 42, Kills: 3},
			"shop/web/app: the kernel killed java (process 42) and 2 more, as the container reached its memory limit of 128Mi.",
		},
		{ // memory.oom.group counts a lone victim twice
			verdict.Incident{Verdict: verdict.ContainerLimit, Confidence: certain, Victim: app, Limited: app, Limit: mi(128), Comm: "java", PID: 42, Kills: 2, Effect: verdict.GroupEnded},
			"shop/web/app: the kernel killed java (process 42) and with it the whole container (memory.oom.group), as the container reached its memory limit of 128Mi.",
		},
		{
			verdict.Incident{Verdict: verdict.PodLimit, Confidence: certain, Victim: app, VictimLimit: mi(256), Limited: pod, Limit: mi(256), Comm: "java", PID: 42, Kills: 1},
			"shop/web/app: the kernel killed java (process 42), as its pod reached the pod's memory limit of 256Mi, which is the container's own as well.",
		},
		{
			verdict.Incident{Verdict: verdict.QoSLimit, Confidence: certain, Victim: app, Limited: class, Limit: mi(1024), Comm: "java", PID: 42, Kills: 1},
			"shop/web/app: the kernel killed java (process 42), as all burstable pods of the node together reached the limit of their class of 1Gi.",
		},
		{
			verdict.Incident{Verdict: verdict.KubepodsLimit, Confidence: certain, Victim: app, Limited: all, Limit: mi(1700), Kills: 2},
			"shop/web/app: the kernel killed 2 processes, as all pods of the node together reached the kubelet's limit for them of 1.66Gi before it evicted one.",
		},
		{
			verdict.Incident{Verdict: verdict.CgroupLimit, Confidence: certain, Victim: service, Limited: service, Limit: mi(64), Comm: "python3", PID: 7, Kills: 1, Effect: verdict.ProcessOnly},
			"batch.service: the kernel killed python3 (process 7), as it reached its memory limit of 64Mi; the service goes on without it.",
		},
		{ // as it was on Linux 6.18
			verdict.Incident{
				Verdict: verdict.CgroupLimit, Confidence: certain, Comm: "memrecon", PID: 646, Kills: 1, Limit: mi(64),
				Victim: verdict.Owner{Path: "/memrecon-pressure-693908359/hungry/app"}, Limited: verdict.Owner{Path: "/memrecon-pressure-693908359/hungry"},
			},
			"/memrecon-pressure-693908359/hungry/app: the kernel killed memrecon (process 646), " +
				"as /memrecon-pressure-693908359/hungry, which it is part of, reached its memory limit of 64Mi.",
		},
		{
			verdict.Incident{Verdict: verdict.CgroupLimit, Confidence: certain, Victim: service, Limited: slice, Limit: mi(512), Comm: "python3", PID: 7, Kills: 1},
			"batch.service: the kernel killed python3 (process 7), as system.slice, which it is part of, reached its memory limit of 512Mi.",
		},
		{
			verdict.Incident{Verdict: verdict.NodeOOM, Confidence: certain, Victim: app, Limited: node, Limit: mi(2048), Comm: "java", PID: 42, Kills: 1},
			"shop/web/app: the kernel killed java (process 42), as the node was out of memory: all of 2Gi were used.",
		},
		{
			verdict.Incident{Verdict: verdict.NodeOOM, Confidence: possible, Victim: app, Limited: node, Kills: 1},
			"shop/web/app: the kernel killed a process, possibly as the node was out of memory.",
		},
		{
			verdict.Incident{Verdict: verdict.NUMAOOM, Confidence: certain, Victim: app, Comm: "java", PID: 42, Kills: 1},
			"shop/web/app: the kernel killed java (process 42), as the NUMA nodes that it is bound to were out of memory; others may have had some.",
		},
		{
			verdict.Incident{Verdict: verdict.OOMKilled, Confidence: likely, Victim: app, Termination: ended(137, "OOMKilled")},
			"shop/web/app: the kernel killed a process for want of memory; whose limit was reached is not known.",
		},
		{
			verdict.Incident{Verdict: verdict.OOMKilled, Confidence: likely, Comm: "java", PID: 42, Kills: 1},
			"unknown cgroup: the kernel killed java (process 42) for want of memory; whose limit was reached is not known.",
		},
		{
			verdict.Incident{Verdict: verdict.Evicted, Confidence: certain, Victim: pod, Limited: node, Eviction: &low, VictimCache: mi(300), Effect: verdict.PodEnded, Ranking: &second, Shown: "Error"},
			"pod shop/web: the kubelet evicted the pod, as the node was low on memory: 90Mi was available, below the eviction threshold of 200Mi; " +
				"container app used 1.35Gi and requests nothing; 300Mi of the pod's memory was page cache in use.",
		},
		{
			verdict.Incident{Verdict: verdict.EvictedInnocent, Confidence: likely, Victim: pod, Limited: node, Eviction: &low, BeyondReserved: mi(1500), Effect: verdict.PodEnded},
			"pod shop/web: the kubelet evicted the pod, as what is no pod used 1.46Gi more than is reserved for it, and so the node was low on memory: " +
				"90Mi was available, below the eviction threshold of 200Mi; container app used 1.35Gi and requests nothing.",
		},
		{ // a kubelet before 1.26 gives no figures
			verdict.Incident{Verdict: verdict.EvictedInnocent, Confidence: likely, Victim: pod, Limited: node, Eviction: &snapshot.Eviction{Resource: "memory"}, Effect: verdict.PodEnded},
			"pod shop/web: the kubelet evicted the pod, though the node would have been low on memory without it as well.",
		},
		{
			verdict.Incident{Verdict: verdict.Refused, Confidence: certain, Victim: pod, Limited: node, Eviction: &snapshot.Eviction{Conditions: []string{"MemoryPressure"}}},
			"pod shop/web: the kubelet refused to run the pod, as the node was under MemoryPressure.",
		},
		{
			verdict.Incident{Verdict: verdict.RuntimeCap, Confidence: likely, Victim: app, VictimUsage: mi(100), VictimLimit: mi(128), Termination: ended(134, "Error")},
			"shop/web/app: the container ended itself (exit code 134, SIGABRT) when it used 100Mi of its limit of 128Mi: " +
				"at a limit of the program's own, or by a crash; no kill by the kernel is known.",
		},
		{
			verdict.Incident{Verdict: verdict.RuntimeCap, Confidence: possible, Victim: app, VictimUsage: mi(100), VictimLimit: snapshot.Unlimited, Termination: ended(3, "Error")},
			"shop/web/app: the container ended itself (exit code 3) when it used 100Mi: at a limit of the program's own, or by a crash; no kill by the kernel is known.",
		},
		{
			verdict.Incident{Verdict: verdict.Killed, Confidence: likely, Victim: app, Termination: ended(137, "Error")},
			"shop/web/app: something killed the container with SIGKILL (exit code 137), and nothing points to the kernel's OOM killer.",
		},
		{
			verdict.Incident{Verdict: verdict.Killed, Confidence: possible, Victim: app, Termination: ended(137, "Error")},
			"shop/web/app: something killed the container with SIGKILL (exit code 137); whether it was the kernel's OOM killer is not known.",
		},
		{
			verdict.Incident{Verdict: verdict.Stopped, Confidence: likely, Victim: app, Termination: ended(143, "Error")},
			"shop/web/app: the container was told to stop (SIGTERM), and ended (exit code 143).",
		},
		{
			verdict.Incident{Verdict: verdict.NotOOMKilled, Confidence: likely, Victim: app, Termination: ended(143, "OOMKilled")},
			"shop/web/app: Kubernetes shows the container as OOMKilled (exit code 143, SIGTERM), but the kernel's OOM killer killed nothing in it then.",
		},
		{
			verdict.Incident{Verdict: verdict.Unexplained, Confidence: certain, Kills: 1},
			"The kernel's OOM killer killed a process that nothing else accounts for: as a rule the cgroup was gone before it could be read.",
		},
	}
}

// Each verdict has a sentence, what to do, and a page.
func TestSentences(t *testing.T) {
	told := map[verdict.Verdict]bool{}
	for _, m := range made() {
		in := report.NewIncident(&m.incident, nil)
		if in.Sentence != m.want {
			t.Errorf("%s, %s:\n\t%s\nwant:\n\t%s", in.Verdict, in.Confidence, in.Sentence, m.want)
		}
		if len(in.Advice) == 0 {
			t.Errorf("%s: nothing to do", in.Verdict)
		}
		told[in.Verdict] = true
	}
	for _, v := range verdict.Verdicts() {
		if !told[v] {
			t.Errorf("%s has no sentence", v)
		}
	}
}

// Where an evicted pod stood is said with what put it there.
func TestEvictionText(t *testing.T) {
	pod := func(name string) verdict.Owner { return verdict.Owner{Namespace: "shop", Pod: name} }
	noon := time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)
	for want, in := range map[string]verdict.Incident{
		"at 12:00:00, it was first of the 12 pods that the kubelet may evict, as it alone used more than it requests.": {
			Ranking: &verdict.Ranking{Time: noon, Place: 1, Pods: 12, Key: verdict.RankExceeds},
		},
		"it was the only pod that the kubelet may evict; the kubelet's own figures of it, as far as memrecon knew, were 9 s old.": {
			Ranking: &verdict.Ranking{Time: noon, Place: 1, Pods: 1, KubeletTime: noon.Add(-9 * time.Second)},
		},
		"it was number 2 of the 12 pods that the kubelet may evict, behind pod shop/a, of lower priority.": {
			Ranking: &verdict.Ranking{Time: noon, Place: 2, Pods: 12, Key: verdict.RankPriority, Before: []verdict.Owner{pod("a")}},
		},
		"number 6 of the 12 pods that the kubelet may evict, behind pod shop/a, pod shop/b, pod shop/c, 2 more, which used more than requested, as it did not.": {
			Ranking: &verdict.Ranking{Time: noon, Place: 6, Pods: 12, Key: verdict.RankExceeds, Before: []verdict.Owner{pod("a"), pod("b"), pod("c")}},
		},
		"Of the pod's 300Mi then, 100Mi were page cache in use, which its working set has, and 50Mi page cache out of use, which it has not.": {
			Eviction: &snapshot.Eviction{Resource: "memory"}, VictimUsage: snapshot.Of(300 * mib), VictimCache: snapshot.Of(100 * mib), VictimIdleCache: snapshot.Of(50 * mib),
		},
		"What is no pod used 200Mi more than is reserved for it, and this pod as much or more beyond its requests.": {BeyondReserved: snapshot.Of(200 * mib)},
		"kubectl get pods shows the pod as Error.": {Shown: "Error"},
	} {
		in.Verdict, in.Victim = verdict.Evicted, pod("web")
		var b bytes.Buffer
		if err := report.IncidentsText(&b, []report.Incident{report.NewIncident(&in, nil)}, report.Options{}); err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(strings.Fields(b.String()), " "); !strings.Contains(got, want) {
			t.Errorf("%s\nhas not: %s", got, want)
		}
	}
}

// Each verdict has its page, with an example that is what memrecon says today; and no page is of a verdict that there is no more.
func TestPages(t *testing.T) {
	const dir = "../docs/verdicts/"
	sentences := map[verdict.Verdict][]string{}
	for _, m := range made() {
		sentences[m.incident.Verdict] = append(sentences[m.incident.Verdict], m.want)
	}
	for _, s := range stories() {
		for _, in := range s.incidents(t) {
			sentences[in.Verdict] = append(sentences[in.Verdict], in.Sentence)
		}
	}
	words := func(file string) string {
		t.Helper()
		text, err := os.ReadFile(dir + file)
		if err != nil {
			t.Fatal(err)
		}
		return strings.Join(strings.Fields(string(text)), " ")
	}
	list, want := words("README.md"), []string{"README.md"}
	for _, v := range verdict.Verdicts() {
		file := string(v) + ".md"
		want = append(want, file)
		page := words(file)
		if !slices.ContainsFunc(sentences[v], func(sentence string) bool { return strings.Contains(page, sentence) }) {
			t.Errorf("%s has none of these as its example:\n\t%s", file, strings.Join(sentences[v], "\n\t"))
		}
		if in := report.NewIncident(&verdict.Incident{Verdict: v}, nil); !strings.HasSuffix(in.Page, "/docs/verdicts/"+file) {
			t.Errorf("%s is told to be at %s", file, in.Page)
		}
		if !strings.Contains(list, "("+file+")") {
			t.Errorf("README.md does not name %s", file)
		}
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if !slices.Contains(want, f.Name()) {
			t.Errorf("%s is of no verdict", f.Name())
		}
	}
}

// All JSON is as docs/incidents.schema.json has it, which is closed: a field that is added has to be described.
func TestIncidentsSchema(t *testing.T) {
	schema, err := jsonschema.NewCompiler().Compile("../docs/incidents.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	var list []report.Incident
	for _, s := range stories() {
		list = append(list, s.incidents(t)...)
	}
	for _, m := range made() {
		in := m.incident
		in.ID, in.Time, in.Updated = "made", limitHit, limitHit
		in.Evidence = []verdict.Evidence{{Source: "kernel log", Text: "none"}}
		list = append(list, report.NewIncident(&in, limitRecord(t)))
	}
	encode := func() any {
		b, err := json.Marshal(report.IncidentsDocument{Schema: report.IncidentsSchema, Incidents: list})
		if err != nil {
			t.Fatal(err)
		}
		document, err := jsonschema.UnmarshalJSON(bytes.NewReader(b))
		if err != nil {
			t.Fatal(err)
		}
		return document
	}
	if err := schema.Validate(encode()); err != nil {
		t.Error(err)
	}
	for what, spoil := range map[string]func(map[string]any){
		"without a verdict":    func(in map[string]any) { delete(in, "verdict") },
		"of another verdict":   func(in map[string]any) { in["verdict"] = "bad-luck" },
		"with an unknown key":  func(in map[string]any) { in["mood"] = "bad" },
		"of an unknown victim": func(in map[string]any) { in["victim"] = map[string]any{"tenant": "x"} },
	} {
		document := encode()
		spoil(document.(map[string]any)["incidents"].([]any)[0].(map[string]any))
		if schema.Validate(document) == nil {
			t.Errorf("the schema takes an incident %s", what)
		}
	}
}
