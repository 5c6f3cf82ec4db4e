package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// network is the namespace's, as commands of ip. Packets to and from pods go through the node, which forwards them.
const network = `
link set lo up
address add ` + serviceAddress + `/32 dev lo
tuntap add ` + wire + ` mode tap
address add ` + hostAddress + `/24 dev ` + wire + `
link set ` + wire + ` up
route add ` + podNetwork + ` via ` + nodeAddress + `
`

const (
	wire           = "node0"
	hostAddress    = "10.0.0.1"
	nodeAddress    = "10.0.0.2"
	podNetwork     = "10.244.0.0/24"
	serviceNetwork = "10.96.0.0/24"
	serviceAddress = "10.96.0.1" // the first of serviceNetwork, which Kubernetes gives to the service kubernetes
	nodeName       = "lab-node"
)

// startLimit is how long a cluster may take. Without KVM and with one core of two to itself it is Ready in less than a minute.
const startLimit = 5 * time.Minute

// inside is process 1 of the namespaces: it prepares them, starts the cluster and runs the command.
func inside(o options, command []string) (status int, err error) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	if err := os.Setenv("PATH", os.Getenv("PATH")+":/usr/sbin:/sbin"); err != nil { // for ip and mke2fs
		return 0, err
	}
	c := &cluster{options: o, dir: filepath.Join(o.cache, "lab", "run")}
	if err := c.checkPrograms(); err != nil {
		return 0, err
	}
	if err := c.namespaces(); err != nil {
		return 0, err
	}
	defer func() {
		if status != 0 || err != nil {
			c.keepLogs()
		}
	}()

	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	c.fail = fail
	begin := time.Now()
	if err := c.start(ctx); err != nil {
		return 0, err
	}
	fmt.Fprintf(os.Stderr, "lab: Kubernetes %s, kubelet %s, cgroup %s: Ready after %.0f s\n", kubernetesVersion, o.kubelet, o.cgroup, time.Since(begin).Seconds())

	listener, err := c.listen()
	if err != nil {
		return 0, err
	}
	go c.serve(listener)
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	if err := os.Setenv("PATH", c.kubernetesDir()+":"+filepath.Dir(self)+":"+os.Getenv("PATH")); err != nil {
		return 0, err
	}
	cmd.Env = append(os.Environ(), "KUBECONFIG="+c.adminConfig(), socketVariable+"="+c.socket())
	status, err = exitStatus(cmd.Run())
	if ctx.Err() != nil { // then it was we who ended it
		return 0, context.Cause(ctx)
	}
	return status, err
}

// namespaces makes what is to differ from the machine's: the processes that /proc shows, the network, and a folder in memory
// that ends with the mount namespace.
func (c *cluster) namespaces() error {
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("mount --make-rprivate /: %w", err)
	}
	if err := syscall.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	if err := os.MkdirAll(c.dir, 0o755); err != nil {
		return err
	}
	if err := syscall.Mount("lab", c.dir, "tmpfs", 0, "mode=755"); err != nil {
		return fmt.Errorf("mount %s: %w", c.dir, err)
	}
	if err := os.Mkdir(c.logDir(), 0o755); err != nil {
		return err
	}
	ip := exec.Command("ip", "-batch", "-")
	ip.Stdin = strings.NewReader(network)
	if out, err := ip.CombinedOutput(); err != nil {
		return fmt.Errorf("ip: %w: %s\nThe wire to the node needs /dev/net/tun: modprobe tun; in a container, hand in the device", err, bytes.TrimSpace(out))
	}
	return nil
}

// cluster is what runs in the namespaces.
type cluster struct {
	options
	dir   string      // the lab's own files, in memory
	fail  func(error) // ends the lab: the cluster is not what was asked for any more
	parts []*process  // of the control plane
}

func (c *cluster) socket() string      { return filepath.Join(c.dir, "socket") }
func (c *cluster) logDir() string      { return filepath.Join(c.dir, "logs") }
func (c *cluster) adminConfig() string { return filepath.Join(c.dir, "pki", "admin.kubeconfig") }
func (c *cluster) kubernetesDir() string {
	return filepath.Join(c.cache, "lab", "kubernetes-"+kubernetesVersion)
}

// kubeletProgram is the node's kubelet.
func (c *cluster) kubeletProgram() string {
	return filepath.Join(c.cache, "lab", "kubernetes-"+c.kubelet, "kubelet")
}

// checkPrograms looks for what the lab is put together from.
func (c *cluster) checkPrograms() error {
	for _, file := range []string{
		filepath.Join(c.kubernetesDir(), "kube-apiserver"),
		c.kubeletProgram(),
		filepath.Join(c.cache, "lab", "images", "workload.tar"),
		filepath.Join(c.cache, "debian", "usr", "bin", "etcd"),
		filepath.Join(c.cache, "node", "usr", "bin", "containerd"),
		filepath.Join(c.cache, "vmlinuz"),
	} {
		if _, err := os.Stat(file); err != nil {
			return fmt.Errorf("%w: make lab KUBELET=%s builds and downloads what the lab needs", err, c.kubelet)
		}
	}
	return nil
}

// start returns when pods can be created and run. SIGINT ends it, but not the command after it.
func (c *cluster) start(ctx context.Context) (err error) {
	ctx, stop := context.WithTimeout(ctx, startLimit)
	defer stop()
	ctx, _ = signal.NotifyContext(ctx, os.Interrupt)
	defer func() {
		if ctx.Err() != nil {
			err = errors.Join(context.Cause(ctx), err)
		}
	}()
	keys, err := c.writeKeys()
	if err != nil {
		return err
	}
	if err := c.startStore(); err != nil {
		return err
	}
	if err := c.startNode(keys); err != nil {
		return err
	}
	if err := c.apiReady(ctx); err != nil {
		return err
	}
	if err := c.startControllers(); err != nil {
		return err
	}
	return errors.Join(
		c.until(ctx, "get", "--namespace=default", "serviceaccount/default"), // without which no pod is admitted
		c.until(ctx, "get", "node/"+nodeName),
		c.until(ctx, "wait", "--for=condition=Ready", "node/"+nodeName),
	)
}

// apiReady waits for the API server.
func (c *cluster) apiReady(ctx context.Context) error { return c.until(ctx, "get", "--raw=/readyz") }

// until repeats a command of kubectl until it succeeds.
func (c *cluster) until(ctx context.Context, args ...string) error {
	for {
		cmd := exec.CommandContext(ctx, filepath.Join(c.kubernetesDir(), "kubectl"), args...)
		cmd.Env = append(os.Environ(), "KUBECONFIG="+c.adminConfig(), "HOME="+c.dir)
		out, err := cmd.CombinedOutput()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(out))
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// keepLogs saves what the cluster's parts have written, the node's too where it still answers.
func (c *cluster) keepLogs() {
	ctx, stop := context.WithTimeout(context.Background(), 20*time.Second)
	defer stop()
	for name, line := range map[string]string{
		"node-kernel.log":     "dmesg",
		"node-kubelet.log":    "cat /var/log/kubelet.log",
		"node-containerd.log": "cat /var/log/containerd.log",
	} {
		if out, _, err := shell(ctx, line); err == nil {
			_ = os.WriteFile(filepath.Join(c.logDir(), name), out, 0o644) // seen below
		}
	}
	target := filepath.Join(c.logs, time.Now().Format("20060102-150405.000-")+c.kubelet+"-"+c.cgroup)
	if err := os.CopyFS(target, os.DirFS(c.logDir())); err != nil {
		fmt.Fprintln(os.Stderr, "lab: logs:", err)
		return
	}
	fmt.Fprintln(os.Stderr, "lab: logs are in", target)
}
