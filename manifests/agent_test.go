package manifests

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/memrecon/memrecon/internal/need"
)

// The agent runs as the base starts it: with its arguments and limits, as its uid, which has no capability, and with its probes.
// It reads all that root reads.
func TestAgentRunsAsInThePod(t *testing.T) {
	need.Root(t)
	dir := t.TempDir()
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil { // for the agent's uid
		t.Fatal(err)
	}
	binary := filepath.Join(dir, "memrecon")
	build := exec.Command("go", "build", "-C", "..", "-o", binary, "./cmd/memrecon")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	pod := render(t, "base").daemonSet.Spec.Template.Spec
	c := pod.Containers[0]

	// Where this machine has what the pod has mounted from its node. A kubelet it has not.
	args := slices.DeleteFunc(slices.Clone(c.Args), func(arg string) bool { return strings.HasPrefix(arg, "--kubelet.") })
	address := freeAddress(t)
	for i := range args {
		args[i] = strings.NewReplacer("=/host/", "=/", "=:19110", "="+address).Replace(args[i])
	}
	agent := exec.Command(binary, args...)
	agent.Env = []string{"NODE_NAME=node-1"}
	agent.Dir = "/"
	agent.SysProcAttr = &syscall.SysProcAttr{
		Pdeathsig: syscall.SIGKILL,
		Credential: &syscall.Credential{
			Uid: uint32(*pod.SecurityContext.RunAsUser), Gid: uint32(*pod.SecurityContext.RunAsGroup),
		},
	}
	var stderr bytes.Buffer
	agent.Stderr = &stderr
	stdout, err := agent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = agent.Process.Kill()
		_ = agent.Wait()
		if t.Failed() {
			t.Logf("the agent's log:\n%s", stderr.Bytes())
		}
	})

	// What kubectl logs shows begins with the report.
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil || !strings.Contains(line, "available") {
		t.Fatalf("the report begins with %q, %v", line, err)
	}
	for _, path := range []string{c.LivenessProbe.HTTPGet.Path, c.ReadinessProbe.HTTPGet.Path, "/metrics"} {
		get(t, "http://"+address+path)
	}
	type report struct {
		Node   string
		Sweep  struct{ Cgroups int }
		Errors []struct{ Source, Error string }
	}
	var nobody, root report
	if err := json.Unmarshal(get(t, "http://"+address+"/api/v1/report"), &nobody); err != nil {
		t.Fatal(err)
	}
	if nobody.Node != "node-1" {
		t.Errorf("the node is %q, not NODE_NAME", nobody.Node)
	}
	out, err := exec.Command(binary, "report", "-o", "json").Output()
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(out, &root); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(nobody.Errors, root.Errors) || (nobody.Sweep.Cgroups == 0) != (root.Sweep.Cgroups == 0) {
		t.Errorf("uid %d reads %d cgroups, errors %v; root %d, %v", *pod.SecurityContext.RunAsUser,
			nobody.Sweep.Cgroups, nobody.Errors, root.Sweep.Cgroups, root.Errors)
	}
}

// The scrape configuration in docs/deploy.md is one that Prometheus takes. Debian's is built without discovery in Kubernetes, so
// that part is taken out.
func TestScrapeConfig(t *testing.T) {
	promtool := need.Program(t, "promtool")
	text, err := os.ReadFile("../docs/deploy.md")
	if err != nil {
		t.Fatal(err)
	}
	_, after, found := strings.Cut(string(text), "```yaml\nscrape_configs:")
	block, _, closed := strings.Cut(after, "```")
	if !found || !closed {
		t.Fatal("docs/deploy.md has no scrape_configs")
	}
	discovery := regexp.MustCompile(`(?s)    kubernetes_sd_configs:.*?\n    relabel`)
	block = discovery.ReplaceAllString(block, "    relabel")
	file := filepath.Join(t.TempDir(), "prometheus.yml")
	if err := os.WriteFile(file, []byte("scrape_configs:"+block), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(promtool, "check", "config", "--syntax-only", file).CombinedOutput(); err != nil {
		t.Errorf("promtool: %v\n%s", err, out)
	}
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

// get waits for an answer that is a success.
func get(t *testing.T, url string) []byte {
	t.Helper()
	var status string
	for range 50 {
		resp, err := http.Get(url)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err == nil && resp.StatusCode == http.StatusOK {
			return body
		}
		status = resp.Status
		time.Sleep(100 * time.Millisecond)
	}
	t.Fatalf("%s: %s", url, status)
	return nil
}
