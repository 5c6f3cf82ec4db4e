package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/memrecon/memrecon/internal/need"
)

// buffer is what a process has written so far.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// agent is a running memrecon agent.
type agent struct {
	*exec.Cmd
	stdout, stderr buffer
	url            string
	ended          chan struct{}
}

var listening = regexp.MustCompile(`"?Listening on"?.*address"?[=:]"?(127\.0\.0\.1:\d+)`)

// startAgent starts the program on a free port and waits until it is ready.
func startAgent(t *testing.T, program string, args ...string) *agent {
	t.Helper()
	a := newAgent(program, args...)
	a.run(t)
	return a
}

func newAgent(program string, args ...string) *agent {
	a := &agent{Cmd: exec.Command(program, append([]string{"agent", "--web.listen-address=127.0.0.1:0"}, args...)...), ended: make(chan struct{})}
	a.Stdout, a.Stderr = &a.stdout, &a.stderr
	return a
}

func (a *agent) run(t *testing.T) {
	t.Helper()
	a.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := a.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = a.Wait() // its ProcessState says how
		close(a.ended)
	}()
	t.Cleanup(func() {
		_ = a.Process.Kill()
		<-a.ended
	})
	within(t, 10*time.Second, "the agent to be ready", func() bool {
		if m := listening.FindStringSubmatch(a.stderr.String() + a.stdout.String()); m != nil {
			a.url = "http://" + m[1]
			status, _ := fetch(a.url + "/readyz")
			return status == http.StatusOK
		}
		return false
	})
}

// stop sends SIGTERM and checks that it ends well, and soon.
func (a *agent) stop(t *testing.T, soon time.Duration) {
	t.Helper()
	began := time.Now()
	if err := a.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case <-a.ended:
	case <-time.After(10 * time.Second):
		t.Fatal("SIGTERM does not end it")
	}
	if took := time.Since(began); took > soon || a.ProcessState.ExitCode() != 0 {
		t.Errorf("on SIGTERM it ended after %s with %s\n%s", took, a.ProcessState, a.stderr.String())
	}
}

// within waits until something is so.
func within(t *testing.T, limit time.Duration, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited %s in vain for %s", limit, what)
		}
	}
}

func fetch(url string) (status int, body string) {
	client := http.Client{Timeout: 2 * time.Second}
	resp, err := client.Get(url)
	if err != nil {
		return 0, err.Error()
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err.Error()
	}
	return resp.StatusCode, string(b)
}

// The agent as a process.
func TestAgent(t *testing.T) {
	program := need.Build(t, ".")
	t.Run("watches this machine", func(t *testing.T) { agentWatches(t, program) })
	t.Run("writes JSON lines", func(t *testing.T) { agentWritesJSON(t, program) })
	t.Run("shows a hanging read", func(t *testing.T) { agentHangs(t, program) })
	t.Run("survives a stuck standard output", func(t *testing.T) { agentIsNotRead(t, program) })
	t.Run("is scraped by Prometheus", func(t *testing.T) { agentIsScraped(t, program) })
}

func agentWatches(t *testing.T, program string) {
	a := startAgent(t, program, "--metrics.classes=all")
	if status, body := fetch(a.url + "/livez"); status != http.StatusOK {
		t.Errorf("/livez: %d %s", status, body)
	}
	_, body := fetch(a.url + "/metrics")
	for _, want := range []string{`memrecon_node_memory_bytes{kind="free"} `, `memrecon_source_up{source="host"} 1`, "\nprocess_cpu_seconds_total "} {
		if !strings.Contains(body, want) {
			t.Errorf("/metrics lacks %s", want)
		}
	}
	within(t, 5*time.Second, "the first report", func() bool { return strings.Contains(a.stdout.String(), "Where the memory is") })
	rounds := regexp.MustCompile(`(?m)^memrecon_rounds_total (\d+)$`)
	first := rounds.FindString(body)
	within(t, 5*time.Second, "another round", func() bool {
		_, body := fetch(a.url + "/metrics")
		return rounds.FindString(body) != first
	})
	taken := strings.TrimPrefix(a.url, "http://")
	out, err := exec.Command(program, "agent", "--web.listen-address="+taken).CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != exitFailed || !strings.Contains(string(out), taken+" is in use") {
		t.Errorf("a second agent on the same port: %v\n%s", err, out)
	}
	a.stop(t, 2*time.Second)
}

func agentWritesJSON(t *testing.T, program string) {
	a := startAgent(t, program, "--log.format=json", "--report-interval=1s", "--path.procfs=../../testdata/nodes/v2-quiet/proc", "--path.sysfs=../../testdata/nodes/v2-quiet/sys")
	within(t, 10*time.Second, "two reports", func() bool { return strings.Count(a.stdout.String(), `"schema":`) >= 2 })
	a.stop(t, 2*time.Second)
	messages := 0
	lines := bufio.NewScanner(strings.NewReader(a.stdout.String()))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var object map[string]any
		if err := json.Unmarshal(lines.Bytes(), &object); err != nil {
			t.Errorf("not an object: %.200s", lines.Text())
		}
		if object["msg"] != nil {
			messages++
		}
	}
	if messages < 2 || a.stderr.String() != "" {
		t.Errorf("%d messages on standard output; standard error: %s", messages, a.stderr.String())
	}
}

// A FIFO in place of a file is a read that never ends. The agent says so, still answers, and still stops.
func agentHangs(t *testing.T, program string) {
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("../../testdata/nodes/v2-quiet")); err != nil {
		t.Fatal(err)
	}
	a := startAgent(t, program, "--path.procfs="+filepath.Join(dir, "proc"), "--path.sysfs="+filepath.Join(dir, "sys"), "--interval=200ms")
	vmstat := filepath.Join(dir, "proc", "vmstat")
	if err := syscall.Mkfifo(vmstat+".fifo", 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(vmstat+".fifo", vmstat); err != nil {
		t.Fatal(err)
	}
	var body string
	within(t, 5*time.Second, "/livez to say that the loop hangs", func() (hangs bool) {
		var status int
		status, body = fetch(a.url + "/livez")
		return status == http.StatusServiceUnavailable
	})
	if !strings.Contains(body, "the last round ended") {
		t.Errorf("/livez: %s", body)
	}
	for _, path := range []string{"/metrics", "/readyz", "/api/v1/report"} {
		if status, body := fetch(a.url + path); status != http.StatusOK {
			t.Errorf("%s: %d %s", path, status, body)
		}
	}
	a.stop(t, 3*time.Second)
}

// Reports that nobody reads fill the pipe; the node is still watched.
func agentIsNotRead(t *testing.T, program string) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	a := newAgent(program, "--interval=100ms", "--report-interval=1ms", "--path.procfs=../../testdata/nodes/v2-quiet/proc", "--path.sysfs=../../testdata/nodes/v2-quiet/sys")
	a.Stdout = w
	a.run(t)
	_ = w.Close()
	rounds := regexp.MustCompile(`(?m)^memrecon_rounds_total (\d+)$`)
	within(t, 20*time.Second, "rounds beyond what the pipe holds the reports of", func() bool {
		_, body := fetch(a.url + "/metrics")
		m := rounds.FindStringSubmatch(body)
		if m == nil {
			return false
		}
		n, err := strconv.Atoi(m[1])
		return err == nil && n > 50
	})
	a.stop(t, 3*time.Second)
	if !strings.Contains(a.stderr.String(), "leaving it behind") {
		t.Errorf("the pipe was not full; the log is\n%s", a.stderr.String())
	}
}

func agentIsScraped(t *testing.T, program string) {
	prometheus := need.Program(t, "prometheus")
	a := startAgent(t, program, "--metrics.classes=all")
	dir := t.TempDir()
	config := filepath.Join(dir, "prometheus.yml")
	yaml := fmt.Sprintf("scrape_configs:\n- job_name: memrecon\n  scrape_interval: 1s\n  static_configs:\n  - targets: [%q]\n", strings.TrimPrefix(a.url, "http://"))
	if err := os.WriteFile(config, []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	_ = l.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cmd := exec.CommandContext(ctx, prometheus, "--config.file="+config, "--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address="+address)
	var log buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		cancel()
		_ = cmd.Wait()
		if t.Failed() {
			t.Log(log.String())
		}
	}()
	query := func(q string) string {
		_, body := fetch("http://" + address + "/api/v1/query?query=" + url.QueryEscape(q))
		var answer struct {
			Data struct {
				Result []struct{ Value [2]any }
			}
		}
		if json.Unmarshal([]byte(body), &answer) != nil || len(answer.Data.Result) != 1 {
			return ""
		}
		return fmt.Sprint(answer.Data.Result[0].Value[1])
	}
	var total string
	within(t, 30*time.Second, "Prometheus to answer", func() bool {
		total = query("memrecon_node_memory_total_bytes")
		return total != ""
	})
	if got := query("sum(memrecon_node_memory_bytes) - scalar(memrecon_node_memory_total_bytes)"); got != "0" {
		t.Errorf("the kinds differ from the total %s by %q", total, got)
	}
	if got := query("up"); got != "1" {
		t.Errorf("up is %q", got)
	}
}

func TestAgentFlags(t *testing.T) {
	for _, tt := range []struct {
		args []string
		want []string
	}{
		{
			[]string{"--interval=99ms", "--report-interval=-1s", "--log.format=xml", "--metrics.classes=pod,nonsense", "--metrics.max-cgroups=-1", "--web.listen-address=localhost"},
			[]string{"--interval 99ms", "--report-interval -1s", "--log.format xml", "--metrics.classes nonsense", "--metrics.max-cgroups -1", "--web.listen-address localhost"},
		},
		{[]string{"--interval=soon"}, []string{"--interval"}},
		{[]string{"--log.level=loud"}, []string{"--log.level"}},
	} {
		var stdout, stderr bytes.Buffer
		status := run(append([]string{"agent"}, tt.args...), &stdout, &stderr)
		if status != exitUsage {
			t.Errorf("%v: exit status %d", tt.args, status)
		}
		for _, want := range tt.want {
			if !strings.Contains(stderr.String(), want) {
				t.Errorf("%v: %q is not in\n%s", tt.args, want, &stderr)
			}
		}
	}
}

func TestMetricsReference(t *testing.T) {
	var stdout, stderr bytes.Buffer
	status := run([]string{"metrics"}, &stdout, &stderr)
	want, err := os.ReadFile("../../docs/metrics.md")
	if err != nil || status != 0 || stdout.String() != string(want) {
		t.Errorf("memrecon metrics does not print docs/metrics.md: %d %v %s", status, err, &stderr)
	}
}
