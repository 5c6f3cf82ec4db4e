package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
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
	"github.com/memrecon/memrecon/report"
)

// What the three commands of an installation lead to: a report in the log, in which each pod and each container has its name. While
// all pods start at once, a kubelet may answer too late for the first report, which then says so; a later one has it.
func TestReportInTheLog(t *testing.T) {
	var log string
	eventually(t, 2*reportInterval, "a whole report in the log", func() string {
		log = lastReport(kubectl(t, "--namespace="+namespace, "logs", "daemonset/memrecon"))
		if !strings.Contains(log, "What Kubernetes says") || strings.Contains(log, "could not be read") {
			return log
		}
		return ""
	})
	for _, p := range get[struct{ Items []pod }](t, "pods", "--all-namespaces").Items {
		for _, c := range p.Spec.Containers {
			if name := p.Metadata.Namespace + "/" + p.Metadata.Name + "/" + c.Name; !strings.Contains(log, name) {
				t.Errorf("%s is not in the report:\n%s", name, log)
			}
		}
	}
	if strings.Contains(log, "does not add up") {
		t.Errorf("something is missing:\n%s", log)
	}
	t.Logf("the report:\n%s", log)
}

// reportInterval is how often the agent of the base reports.
const reportInterval = 5 * time.Minute

// lastReport is the newest report in a log, with what was logged since.
func lastReport(log string) string {
	return log[max(0, strings.LastIndex(log, "Every byte of ")):]
}

// The agent's heap gets 46% of its limit of 96Mi, as its own cgroup has it.
func TestHeapLimit(t *testing.T) {
	if log := kubectl(t, "--namespace="+namespace, "logs", "daemonset/memrecon"); !strings.Contains(log, "heap_limit_bytes=46305072") {
		t.Errorf("the agent did not find its own limit:\n%s", log)
	}
}

// The sheet closes, and what the kubelet configured is what the kernel and the API server have, to the byte.
func TestSheetOfTheNode(t *testing.T) {
	needCluster(t)
	d := whole(t)
	var sum int64
	for _, r := range d.Sheet.Rows {
		sum += r.OwnBytes
	}
	if sum != d.Sheet.TotalBytes {
		t.Errorf("the rows sum to %d, MemTotal is %d", sum, d.Sheet.TotalBytes)
	}
	share := float64(d.Sheet.ResidualBytes) / float64(d.Sheet.TotalBytes)
	t.Logf("residual: %d bytes, %.2f%%; skew %d bytes", d.Sheet.ResidualBytes, 100*share, d.Sweep.SkewBytes)
	if share > 0.01 || share < -0.01 {
		t.Errorf("the residual is %.2f%% of MemTotal", 100*share)
	}
	checked := 0
	for _, f := range d.Figures {
		switch f.ID {
		case "kubepods-limit", "allocatable", "capacity":
			checked++
			if f.PublishedBytes == nil || int64(*f.PublishedBytes) != f.Bytes {
				t.Errorf("%s is %d, published %v", f.ID, f.Bytes, f.PublishedBytes)
			}
		}
	}
	if checked != 3 {
		t.Errorf("%d of the node's limits", checked)
	}
}

// The pods' memory stands in the cells that it is of, in the rows that have their names, with what the API says of them.
func TestRowsOfThePods(t *testing.T) {
	needCluster(t)
	d := whole(t)
	const mib = 1 << 20
	for name, want := range map[string]struct {
		kind string
		low  int64
		qos  string
	}{
		"default/guaranteed/app":          {"anon", 60 * mib, "guaranteed"},
		"default/burstable-tmpfs/writer":  {"shmem", 40 * mib, "burstable"},
		"default/burstable-tmpfs/side":    {"anon", 10 * mib, "burstable"},
		"default/besteffort-cache/reader": {"file", 80 * mib, "besteffort"},
	} {
		i := slices.IndexFunc(d.Sheet.Rows, func(r report.Row) bool { return r.Name == name })
		if i < 0 {
			t.Errorf("no row %s", name)
			continue
		}
		r := d.Sheet.Rows[i]
		n := r.Cells[want.kind]
		if want.kind == "file" {
			n = r.Cells["file_active"] + r.Cells["file_inactive"] + r.Cells["file_other"]
		}
		if n < want.low || n > want.low+8*mib {
			t.Errorf("%s has %d bytes of %s, holds %d", name, n, want.kind, want.low)
		}
		if r.Kubernetes == nil || string(r.Kubernetes.QoS) != want.qos {
			t.Errorf("%s: %+v", name, r.Kubernetes)
		}
	}
}

// On a quiet node what the kubelet publishes is what memrecon computed at the time that it is of: of every row, in ten reports, each of
// which has newer figures of the node than the one before.
func TestPublishedIsComputed(t *testing.T) {
	needCluster(t)
	const reports = 10
	var before time.Time
	newer := func() (*report.Document, string) {
		d := latest(t)
		for _, f := range d.Figures {
			if f.ID == "node-working-set" && f.Kubelet != nil && f.Kubelet.Then != nil && f.Kubelet.Time.After(before) {
				before = f.Kubelet.Time
				return d, ""
			}
		}
		return d, "the node's working set is as old as before, or memrecon has no reading of then"
	}
	// The kubelet has not yet looked at a container that is new, or takes apart a pod that was there before.
	eventually(t, 2*time.Minute, "a quiet node", func() string {
		d, wrong := newer()
		if wrong != "" {
			return wrong
		}
		if all := append(incomparable(d), texts(d.Findings)...); len(all) > 0 {
			t.Logf("not quiet yet: %s", all)
			return strings.Join(all, "; ")
		}
		return ""
	})
	for n := range reports {
		var d *report.Document
		eventually(t, 2*time.Minute, "newer figures of the kubelet", func() (wrong string) {
			d, wrong = newer()
			return wrong
		})
		for _, wrong := range append(incomparable(d), texts(d.Findings)...) {
			t.Errorf("report %d: %s", n, wrong)
		}
		owners, furthest, whose := map[string]bool{}, int64(0), ""
		for _, f := range d.Figures {
			if f.Kubelet == nil || f.Kubelet.Then == nil {
				continue
			}
			owners[f.Owner] = true
			if off := max(f.Kubelet.Then.RemainderBytes, -f.Kubelet.Then.RemainderBytes); off > furthest {
				furthest, whose = off, f.ID+" of "+f.Owner
			}
		}
		t.Logf("report %d: the kubelet's figures of %d owners, the furthest %d bytes off: %s", n, len(owners), furthest, whose)
	}
}

// incomparable says of which pods and containers the kubelet's figures could not be compared.
func incomparable(d *report.Document) (all []string) {
	compared := map[string]int{}
	for _, f := range d.Figures {
		if f.Kubelet != nil && f.Kubelet.Then != nil {
			compared[f.Owner]++
		}
	}
	for _, r := range d.Sheet.Rows {
		named := r.Kubernetes != nil && (r.Class == "pod" || r.Kubernetes.Container != "")
		if (named || r.Class == "kubepods") && compared[r.ID] < 3 {
			all = append(all, fmt.Sprintf("%d figures of %s could be compared, want usage, working-set and rss", compared[r.ID], r.Name))
		}
	}
	return all
}

func texts(findings []report.Finding) (all []string) {
	for _, f := range findings {
		all = append(all, f.Text)
	}
	return all
}

// The agent's rights are those that docs/deploy.md lists, besides what any service account may.
func TestRights(t *testing.T) {
	docs, err := os.ReadFile("../docs/deploy.md")
	if err != nil {
		t.Fatal(err)
	}
	anybodys := rights(t, "default:default")
	var own []string
	for _, right := range rights(t, namespace+":"+namespace) {
		if !slices.Contains(anybodys, right) {
			own = append(own, right)
		}
	}
	want := []string{"get `nodes/configz`", "get `nodes/metrics`", "get `nodes/pods`", "get `nodes/stats`", "get, list, watch `nodes`"}
	if slices.Sort(own); !slices.Equal(own, want) {
		t.Errorf("the rights are %q, want %q", own, want)
	}
	for _, right := range own {
		if !strings.Contains(string(docs), right) {
			t.Errorf("docs/deploy.md does not list %s", right)
		}
	}
}

// rights are what kubectl auth can-i lists for a service account, as docs/deploy.md writes them.
func rights(t *testing.T, account string) []string {
	t.Helper()
	var all []string
	list := kubectl(t, "auth", "can-i", "--list", "--as=system:serviceaccount:"+account, "--namespace="+namespace)
	for line := range strings.Lines(list) {
		// RESOURCE [URLS] [NAMES] [VERBS], without a resource where the right is one to URLs.
		open, end := strings.LastIndexByte(line, '['), strings.LastIndexByte(line, ']')
		if open < 0 || end < open {
			continue // the heading
		}
		what := strings.Join(strings.Fields(line[:open]), " ")
		if resource, ok := strings.CutSuffix(what, " [] []"); ok {
			what = resource
		}
		all = append(all, strings.ReplaceAll(line[open+1:end], " ", ", ")+" `"+what+"`")
	}
	return all
}

// Prometheus scrapes the agent, and has an answer to each of the README's queries.
func TestPrometheus(t *testing.T) {
	needCluster(t)
	program := need.Program(t, "prometheus")
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile("(?s)```promql\n(.*?)```").FindSubmatch(readme)
	if block == nil {
		t.Fatal("the README has no queries")
	}
	target := forward(t)
	address := freeAddress(t)
	dir := t.TempDir()
	config := fmt.Sprintf("scrape_configs: [{job_name: memrecon, scrape_interval: 2s, static_configs: [{targets: [%q]}]}]\n", target)
	if err := os.WriteFile(filepath.Join(dir, "prometheus.yml"), []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	start(t, exec.Command(program, "--config.file="+filepath.Join(dir, "prometheus.yml"), "--storage.tsdb.path="+filepath.Join(dir, "data"),
		"--web.listen-address="+address, "--log.level=warn"))
	queries := 0
	for query := range strings.Lines(string(block[1])) {
		query = strings.TrimSpace(query)
		if query == "" || strings.HasPrefix(query, "#") {
			continue
		}
		queries++
		eventually(t, time.Minute, query, func() string {
			answer, err := http.Get("http://" + address + "/api/v1/query?query=" + url.QueryEscape(query))
			if err != nil {
				return err.Error()
			}
			defer func() { _ = answer.Body.Close() }()
			var result struct {
				Status, Error string
				Data          struct {
					Result []struct{ Metric map[string]string }
				}
			}
			if err := json.NewDecoder(answer.Body).Decode(&result); err != nil {
				return err.Error()
			}
			if result.Status != "success" || len(result.Data.Result) == 0 {
				return fmt.Sprintf("%s %s, %d results", result.Status, result.Error, len(result.Data.Result))
			}
			t.Logf("%d results of %s, the first %v", len(result.Data.Result), query, result.Data.Result[0].Metric)
			return ""
		})
	}
	if queries < 4 {
		t.Errorf("%d queries in the README", queries)
	}
}

// forward is an address here that leads to the agent's port.
func forward(t *testing.T) string {
	t.Helper()
	address := freeAddress(t)
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	start(t, exec.Command("kubectl", "--namespace="+namespace, "port-forward", "pod/"+agentPod(t).Metadata.Name, port+":19110"))
	eventually(t, time.Minute, "the port", func() string {
		answer, err := http.Get("http://" + address + "/readyz")
		if err != nil {
			return err.Error()
		}
		_ = answer.Body.Close()
		return ""
	})
	return address
}

// start starts a program that ends with the test.
func start(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
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
