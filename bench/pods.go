package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/memrecon/memrecon/cgroup"
)

// The base's limit of the agent, in bytes.
const agentLimit = 96 << 20

// saved is the node whose kubelet's answers are those of the bench's, with one of its pods many times.
const saved = "../testdata/nodes/v2-quiet/kubelet/"

// agentOnNode runs the agent as the base does, in a cgroup with the base's limit, on a node with so many pods of one container, and
// with their kubelet; and tells what it is charged.
func agentOnNode(h cgroup.Hierarchy, binary string, pods int) error {
	kubelet, err := newKubelet(pods)
	if err != nil {
		return err
	}
	defer kubelet.Close()
	t := &tree{hierarchy: h, top: filepath.Join(h.Dir, fmt.Sprintf("memrecon-bench-%d", os.Getpid()))}
	defer t.removeAtEnd()()
	kubepods := filepath.Join(t.top, "kubepods")
	own := filepath.Join(t.top, "agent")
	dirs := []string{t.top, own, kubepods}
	for i := range pods {
		pod := filepath.Join(kubepods, "pod"+podUID(i))
		dirs = append(dirs, pod, filepath.Join(pod, containerID(i)), filepath.Join(pod, containerID(pods+i))) // the last: its sandbox
	}
	for _, dir := range dirs {
		if err := t.add(dir); err != nil {
			return err
		}
	}
	limit, peak, usage := "memory.limit_in_bytes", "memory.max_usage_in_bytes", "memory.usage_in_bytes"
	if isV2(h) {
		limit, peak, usage = "memory.max", "memory.peak", "memory.current"
	}
	if err := os.WriteFile(filepath.Join(own, limit), []byte(strconv.Itoa(agentLimit)), 0); err != nil {
		return err
	}
	account, err := os.MkdirTemp("", "memrecon-bench")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(account) }()
	if err := os.WriteFile(filepath.Join(account, "token"), []byte("bench"), 0o600); err != nil {
		return err
	}
	address, err := freeAddress()
	if err != nil {
		return err
	}
	// The shell enters the cgroup, so that all of the agent is charged to it.
	cmd := exec.Command("sh", "-c", `echo $$ > "$0/cgroup.procs" && exec "$@"`, own, binary, "agent", "--web.listen-address="+address, "--report-interval=0",
		"--node=bench", "--kubelet.url="+kubelet.URL, "--kubelet.insecure-skip-verify", "--kubernetes.url=none", "--kubernetes.serviceaccount="+account)
	stop, err := begin(cmd, address)
	if err != nil {
		return err
	}
	defer stop()
	start := time.Now()
	before, err := cpu(cmd.Process.Pid)
	if err != nil {
		return err
	}
	series := 0
	for range 4 { // as Prometheus does, and as the kubelet is asked: each ten seconds
		time.Sleep(10 * time.Second)
		if _, series, err = scrape(address, "gzip"); err != nil {
			return err
		}
	}
	after, err := cpu(cmd.Process.Pid)
	if err != nil {
		return err
	}
	rss, _, err := resident(cmd.Process.Pid)
	if err != nil {
		return err
	}
	var charged [2]float64
	for i, file := range []string{usage, peak} {
		b, err := os.ReadFile(filepath.Join(own, file))
		if err != nil {
			return err
		}
		n, err := strconv.ParseFloat(strings.TrimSpace(string(b)), 64)
		if err != nil {
			return err
		}
		charged[i] = n / (1 << 20)
	}
	fmt.Printf("  agent with %d pods (%d cgroups) and their kubelet: charged %.1f MiB, at most %.1f of its limit of %d MiB; %.1f MB resident, %.1f%% of a CPU, %d series\n",
		pods, len(dirs), charged[0], charged[1], agentLimit>>20, rss, 100*(after-before).Seconds()/time.Since(start).Seconds(), series)
	return nil
}

func podUID(i int) string      { return fmt.Sprintf("00000000-0000-4000-8000-%012x", i) }
func containerID(i int) string { return fmt.Sprintf("%064x", i+1) }

// newKubelet answers as a kubelet with so many pods does: each is the saved node's pod guaranteed under another name.
func newKubelet(pods int) (*httptest.Server, error) {
	answers := map[string][]byte{}
	for path, file := range map[string]string{"/pods": "pods.json", "/stats/summary": "stats-summary.json"} {
		b, err := os.ReadFile(saved + file)
		if err != nil {
			return nil, err
		}
		var answer map[string]json.RawMessage
		if err := json.Unmarshal(b, &answer); err != nil {
			return nil, err
		}
		key := "items"
		if path != "/pods" {
			key = "pods"
		}
		var all []json.RawMessage
		if err := json.Unmarshal(answer[key], &all); err != nil {
			return nil, err
		}
		var template []byte
		for _, p := range all {
			if bytes.Contains(p, []byte(`"guaranteed"`)) {
				template = p
			}
		}
		many := make([]json.RawMessage, pods)
		for i := range many {
			many[i] = renamed(template, i)
		}
		if answer[key], err = json.Marshal(many); err != nil {
			return nil, err
		}
		if answers[path], err = json.Marshal(answer); err != nil {
			return nil, err
		}
	}
	metrics, err := os.ReadFile(saved + "metrics-resource")
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	for line := range bytes.Lines(metrics) {
		if !bytes.Contains(line, []byte(`pod="`)) {
			out.Write(line)
		} else if bytes.Contains(line, []byte(`pod="guaranteed"`)) {
			for i := range pods {
				out.Write(bytes.Replace(line, []byte(`pod="guaranteed"`), fmt.Appendf(nil, `pod="guaranteed-%d"`, i), 1))
			}
		}
	}
	answers["/metrics/resource"] = out.Bytes()
	if answers["/configz"], err = os.ReadFile(saved + "configz.json"); err != nil {
		return nil, err
	}
	return httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write(answers[r.URL.Path]) // the agent may have ended
	})), nil
}

// renamed is a pod with the name, the UID and the container's ID of the ith.
func renamed(pod []byte, i int) []byte {
	const uid, container = "9c493692-a78a-49a6-9a00-102eb1925e34", "b61e23ae34f7cf07c51091accbe22be2b834b8c610ec3550c614dd9e8bb0fa1a"
	return []byte(strings.NewReplacer(`"guaranteed"`, fmt.Sprintf(`"guaranteed-%d"`, i), uid, podUID(i), container, containerID(i)).Replace(string(pod)))
}
