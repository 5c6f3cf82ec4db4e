package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/memrecon/memrecon/internal/need"
	"github.com/memrecon/memrecon/report"
)

const (
	kernelLogs = "../../testdata/kernel/"
	killedPods = "../../testdata/nodes/v2-oom-kubepods/kubelet/pods.json"
)

// explained is what explain prints for a log.
func explained(t *testing.T, args ...string) string {
	t.Helper()
	status, stdout, stderr := memrecon(append([]string{"explain"}, args...)...)
	if status != 0 || stderr != "" {
		t.Fatalf("explain %v: exit status %d: %s", args, status, stderr)
	}
	return stdout
}

// wrote is a file with a text.
func wrote(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// The text says of each kill who, whose limit, how large, and what that means; and how much was read.
func TestExplainText(t *testing.T) {
	for _, tc := range []struct {
		log  string
		want []string
	}{
		{"v2-6.1-kubepods-limit.log", []string{
			"95.501 s after boot: labtool (process 1117) was killed, in container 4bce183269c3 of pod 30ff400e-235a-424e-8973-9686225be574.",
			"Pod 30ff400e-235a-424e-8973-9686225be574 hit its limit: 100Mi of 100Mi were used.",
			"It had 96.6Mi anonymous memory, 4.11Mi of files, 284Ki page tables; its oom_score_adj was 975",
			"labtool (process 2377) was killed, in container hog-a of pod default/fast-leak.",
			"labtool (process 2414) was killed, in container hog-b of pod default/fast-leak.",
			"All pods together hit the limit that the kubelet gives them: 1.64Gi of 1.64Gi were used.",
			"Largest of the 10 candidates: labtool (2377) 824Mi, adj 1000; labtool (2414) 647Mi, adj 1000;",
			"215 lines of ", " read: 3 OOM kills.",
		}},
		{"v1-3.10-uid-syslog.log", []string{
			"Nov 30 10:16:57: node (process 799153) was killed, in container 7489263afb02, on worker-3.",
			"It hit the limit of its own cgroup: 200Mi of 200Mi were used.",
			"A cgroup's memory limit was hit; the log does not say whose",
		}},
		{"v2-5.15-global-kmsg.log", []string{"The node itself was out of memory", "another program repeats one of the kernel's, which are no kills: 1."}},
		{"numa.log", []string{"The NUMA nodes that its cpuset allows", "The NUMA nodes that its memory policy binds it to"}},
		{"quotes.log", []string{"31 lines of", "read: no OOM kill.", "without a kill behind them (it found nothing to kill, or the log has lost the line): 1.", "which are no kills: 12."}},
	} {
		text := strings.Join(strings.Fields(explained(t, "--kernel-log", kernelLogs+tc.log, "--pods", killedPods)), " ")
		for _, want := range tc.want {
			if !strings.Contains(text, want) {
				t.Errorf("%s: there is no %q in\n%s", tc.log, want, text)
			}
		}
	}
}

// Where a cgroup's memory was not short but memory and swap together, it is that limit that is told.
func TestExplainMemsw(t *testing.T) {
	log := "Task in /a killed as a result of limit of /a\nmemory: usage 10240kB, limit 20480kB, failcnt 0\n" +
		"memory+swap: usage 30720kB, limit 30720kB, failcnt 9\nMemory cgroup out of memory: Kill process 7 (x) score 1 or sacrifice child\n"
	if text := explained(t, "--kernel-log", wrote(t, log)); !strings.Contains(text, "of memory and swap together: 30Mi of 30Mi were used") {
		t.Error(text)
	}
}

// All JSON is as docs/kills.schema.json has it, with names where the pods are known and null where the log says nothing.
func TestExplainJSON(t *testing.T) {
	schema, err := jsonschema.NewCompiler().Compile("../../docs/kills.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	logs, err := filepath.Glob(kernelLogs + "*.log")
	if err != nil || len(logs) == 0 {
		t.Fatal(err)
	}
	for _, log := range logs {
		text := explained(t, "--kernel-log", log, "-o", "json")
		doc, err := jsonschema.UnmarshalJSON(strings.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		if err := schema.Validate(doc); err != nil {
			t.Errorf("%s: %v", log, err)
		}
		doc.(map[string]any)["kills"] = []any{map[string]any{"victim_pid": 1}}
		if schema.Validate(doc) == nil {
			t.Fatal("the schema takes a kill that lacks nearly all")
		}
	}

	var d report.KillsDocument
	text := explained(t, "--kernel-log", kernelLogs+"v2-6.1-kubepods-limit.log", "--pods", killedPods, "-o", "json")
	if err := json.Unmarshal([]byte(text), &d); err != nil || len(d.Kills) != 3 {
		t.Fatalf("%v: %s", err, text)
	}
	if k := d.Kills[1]; *k.Namespace != "default" || *k.Pod != "fast-leak" || *k.Container != "hog-a" || *k.PodUID != "d514f249-6aa2-4320-aba1-6356e91e1839" ||
		*k.LimitKB != 1718812 || k.SwapLimitKB != nil || k.Time != nil || len(k.Tasks) != 10 {
		t.Errorf("%s", text)
	}
	if k := d.Kills[0]; k.Pod != nil || k.Container != nil || k.ContainerID == nil {
		t.Errorf("%s", text)
	}
}

// A container that was started again has another ID by the time the pods are asked for.
func TestExplainNamesRestarted(t *testing.T) {
	const killed = "0f25e9d95905d7458336407ad845401adff5ee3d0f8a60ad77e8ca4c3e9a65f1"
	pods := `{"kind":"List","items":[{"metadata":{"name":"web","namespace":"shop","uid":"d514f249-6aa2-4320-aba1-6356e91e1839"},
		"spec":{"containers":[{"name":"side"},{"name":"app"}]},
		"status":{"containerStatuses":[{"name":"app","containerID":"containerd://` + strings.Repeat("a", 64) + `",
			"state":{"running":{}},"lastState":{"terminated":{"exitCode":137,"containerID":"containerd://` + killed + `"}}}]}}`
	for name, list := range map[string]string{"whole": pods + "]}", "broken off": pods + `,{"metadata":{"na`} {
		text := strings.Join(strings.Fields(explained(t, "--kernel-log", kernelLogs+"v2-6.1-kubepods-limit.log", "--pods", wrote(t, list))), " ")
		if !strings.Contains(text, "in container app of pod shop/web.") {
			t.Errorf("%s: %s", name, text)
		}
		if told := strings.Contains(text, "Names may be missing"); told != (name == "broken off") {
			t.Errorf("%s: %s", name, text)
		}
	}
}

func TestExplainStandardInput(t *testing.T) {
	stdin := os.Stdin
	t.Cleanup(func() { os.Stdin = stdin })
	f, err := os.Open(kernelLogs + "v1-4.15-global-journal.log")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	os.Stdin = f
	if text := explained(t, "--kernel-log", "-", "-o", "yaml"); !strings.Contains(text, "victim_comm: mysqld") || !strings.Contains(text, "limit_kb: null") {
		t.Error(text)
	}
}

func TestExplainFaults(t *testing.T) {
	for _, tc := range []struct {
		args   []string
		status int
		want   string
	}{
		{[]string{"--kernel-log", "/no/such.log"}, exitFailed, "/no/such.log: no such file"},
		{[]string{"--kernel-log", wrote(t, ""), "--pods", "/no/pods"}, exitFailed, "/no/pods: no such file"},
		{[]string{"--kernel-log", wrote(t, "\x1f\x8b\x08\x00zipped")}, exitFailed, "zcat FILE | memrecon explain"},
		{[]string{"--kernel-log", wrote(t, "LPKSHHRH\x00")}, exitFailed, "journalctl --file FILE -o json"},
		{[]string{"--kernel-log", t.TempDir()}, 0, "is a directory"},
		{[]string{"--kernel-log", wrote(t, "")}, 0, "0 lines of"},
		{[]string{"--kernel-log", wrote(t, "x"), "--pods", wrote(t, "no JSON")}, 0, "save the pods again"},
	} {
		status, stdout, stderr := memrecon(append([]string{"explain"}, tc.args...)...)
		if text := strings.Join(strings.Fields(stdout+stderr), " "); status != tc.status || !strings.Contains(text, tc.want) {
			t.Errorf("%v: exit status %d, want %d and %q:\n%s", tc.args, status, tc.status, tc.want, text)
		}
	}
}

// Without a file it is this machine's log.
func TestExplainThisMachine(t *testing.T) {
	status, stdout, stderr := memrecon("explain")
	if status == exitFailed && strings.Contains(stderr, "capability SYSLOG") {
		need.Missing(t, stderr)
	}
	if status != 0 || !strings.Contains(stdout, "lines of /dev/kmsg read") && !strings.Contains(stdout, "lines of syslog(2) read") || strings.HasPrefix(stdout, "0 lines") {
		t.Errorf("exit status %d: %s%s", status, stdout, stderr)
	}
}
