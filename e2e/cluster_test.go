// Package e2e tests memrecon on a real cluster, the one that KUBECONFIG names: with its manifests applied as a user applies them, and
// looked at as a user does. Faults of the node and of the control plane take a cluster of the lab's (see lab); without one those
// tests are skipped.
//
// The cluster must have one node that is Ready, with the images localhost/memrecon and localhost/workload.
package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/memrecon/memrecon/internal/need"
	"github.com/memrecon/memrecon/report"
)

const namespace = "memrecon"

// TestMain applies the base and the pods that all tests look at, and takes both away in the end.
func TestMain(m *testing.M) {
	if os.Getenv("KUBECONFIG") == "" {
		os.Exit(m.Run()) // and skip everything
	}
	status := 1
	if err := setUp(); err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
	} else {
		status = m.Run()
	}
	for _, what := range [][]string{{"--filename", "testdata/pods.yaml"}, {"--kustomize", "../manifests/base"}} {
		if out, err := run("kubectl", append([]string{"delete", "--ignore-not-found", "--wait=false"}, what...)...); err != nil {
			fmt.Fprintf(os.Stderr, "e2e: %v\n%s", err, out)
		}
	}
	os.Exit(status)
}

func setUp() error {
	for _, args := range [][]string{
		{"apply", "--filename", "testdata/pods.yaml"},
		{"wait", "--for=condition=Ready", "--filename", "testdata/pods.yaml", "--timeout=5m"},
		{"apply", "--kustomize", "../manifests/base"}, // so that its first report has the pods
		{"--namespace=" + namespace, "rollout", "status", "daemonset/memrecon", "--timeout=5m"},
	} {
		if out, err := run("kubectl", args...); err != nil {
			return fmt.Errorf("kubectl %s: %w\n%s", strings.Join(args, " "), err, out)
		}
	}
	return nil
}

// run runs a program and returns what it printed, with what it said of an error in that.
func run(program string, args ...string) (string, error) { return runWith(nil, program, args...) }

// runWith runs a program with something on its standard input.
func runWith(in io.Reader, program string, args ...string) (string, error) {
	ctx, stop := context.WithTimeout(context.Background(), 6*time.Minute)
	defer stop()
	var stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Stdin, cmd.Stderr = in, &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%s %s: %w: %s", program, strings.Join(args, " "), err, bytes.TrimSpace(stderr.Bytes()))
	}
	return string(out), err
}

// kubectl is what a command of kubectl prints.
func kubectl(t *testing.T, args ...string) string {
	t.Helper()
	needCluster(t)
	out, err := run("kubectl", args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func needCluster(t *testing.T) {
	t.Helper()
	if os.Getenv("KUBECONFIG") == "" {
		need.Missing(t, "needs a cluster: name it with KUBECONFIG, or let make e2e start one")
	}
}

// lab has the lab do what kubectl cannot.
func lab(t *testing.T, args ...string) string {
	t.Helper()
	needCluster(t)
	if os.Getenv("MEMRECON_LAB") == "" {
		need.Missing(t, "needs a cluster of the lab's, in which parts can be stopped: make e2e starts one")
	}
	out, err := run("lab", args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// get decodes what kubectl get prints of an object as JSON.
func get[T any](t *testing.T, args ...string) T {
	t.Helper()
	var object T
	if err := json.Unmarshal([]byte(kubectl(t, append([]string{"get", "--output=json"}, args...)...)), &object); err != nil {
		t.Fatal(err)
	}
	return object
}

// pod is what the tests need of a pod.
type pod struct {
	Metadata struct{ Name, Namespace, UID string }
	Spec     struct {
		NodeName   string
		Containers []struct{ Name string }
	}
	Status struct {
		PodIP             string
		QOSClass          string
		ContainerStatuses []struct {
			Name         string
			RestartCount int
		}
	}
}

// agentPod is the agent's pod.
func agentPod(t *testing.T) pod {
	t.Helper()
	pods := get[struct{ Items []pod }](t, "pods", "--namespace="+namespace)
	if len(pods.Items) != 1 {
		t.Fatalf("%d pods in the namespace %s, want the agent's on the one node", len(pods.Items), namespace)
	}
	return pods.Items[0]
}

// agentPath asks the agent for a path, by way of the API server.
func agentPath(t *testing.T, path string) (string, error) {
	t.Helper()
	return run("kubectl", "get", "--raw=/api/v1/namespaces/"+namespace+"/pods/http:"+agentPod(t).Metadata.Name+":19110/proxy"+path)
}

// latest is the agent's newest report.
func latest(t *testing.T) *report.Document {
	t.Helper()
	text, err := agentPath(t, "/api/v1/report")
	if err != nil {
		t.Fatal(err)
	}
	return decode(t, text)
}

// whole is a report for which all sources answered. A kubelet with no CPU to spare may once be too late.
func whole(t *testing.T) *report.Document {
	t.Helper()
	var d *report.Document
	eventually(t, time.Minute, "a whole report", func() string {
		d = latest(t)
		return complete(d)
	})
	return d
}

func decode(t *testing.T, text string) *report.Document {
	t.Helper()
	var d report.Document
	if err := json.Unmarshal([]byte(text), &d); err != nil {
		t.Fatalf("%v in %.200q", err, text)
	}
	return &d
}

// eventually repeats a check until it finds nothing wrong, for as long as limit.
func eventually(t *testing.T, limit time.Duration, what string, wrong func() string) {
	t.Helper()
	var last string
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); time.Sleep(time.Second) {
		if last = wrong(); last == "" {
			return
		}
	}
	t.Fatalf("%s: not within %s: %s", what, limit, last)
}
