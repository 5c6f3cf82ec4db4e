// Command lab starts a Kubernetes cluster of one node from nothing, runs a command against it and ends with its status.
//
//	bin/lab -kubelet 1.34 -cgroup v1 -- kubectl get pods -A
//	bin/lab -- bash
//
// The control plane is processes; the node is a QEMU guest with a kernel, containerd and a kubelet of its own, its memory, cgroup
// version and kubelet as asked. make lab builds what is needed and begins a shell. It must be root.
//
// The command has kubectl in its PATH, and in its environment KUBECONFIG (an administrator's) and MEMRECON_LAB, by which this
// same program, in its PATH too, does what kubectl cannot:
//
//	lab node 'dmesg | tail'   runs a line in a shell of the node, as root
//	lab stop apiserver        stops a part, and waits for its end
//	lab start apiserver       starts it again, and waits until the API server answers
//
// Parts are etcd, apiserver, scheduler, controller-manager, and on the node containerd and kubelet. Images cannot be pulled: the
// node has localhost/memrecon and localhost/workload (see workload), and what else is in .cache/lab/images.
//
// The lab and all that it starts, the command too, live in network, process and mount namespaces of their own: labs know
// nothing of each other and nothing is left, however they end. The network is
//
//	10.0.0.1       this side of the wire to the node: where the control plane and the command are
//	10.0.0.2       the node
//	10.244.0.0/24  its pods, reached from here and from the node
//	10.96.0.1      the service kubernetes, the only one that works: the API server, without a kube-proxy
//
// The exit status is the command's (128 and the signal where one ended it), 125 where the cluster could not be started or
// broke, and 130 on SIGTERM, and on Ctrl-C before the command runs; after that, Ctrl-C is the command's. Where it is not 0,
// the logs are kept below .cache/lab/logs.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
)

// Exit statuses that are not the command's.
const (
	exitFailed      = 125
	exitInterrupted = 130
)

// insideName is the name by which this program knows that it is the one in the namespaces.
const insideName = "lab-inside"

func main() {
	if len(os.Args) > 1 && (os.Args[1] == "node" || os.Args[1] == "start" || os.Args[1] == "stop") {
		os.Exit(ask(os.Args[1:]))
	}
	options, command := parseFlags()
	// The kernel ends the child, and QEMU, when the thread that started it ends, so this goroutine keeps its thread.
	runtime.LockOSThread()
	start := outside
	if os.Args[0] == insideName {
		start = func() (int, error) { return inside(options, command) }
	}
	status, err := start()
	if err != nil {
		fmt.Fprintln(os.Stderr, "lab:", err)
		status = exitFailed
	}
	if errors.Is(err, context.Canceled) {
		status = exitInterrupted
	}
	os.Exit(status)
}

// kubernetesVersion is the control plane's, as e2e/lab/kubernetes pins it.
const kubernetesVersion = "1.37"

// options are what a cluster may differ in, and where the lab finds and leaves files.
type options struct {
	kubelet       string // its version, as major.minor
	cgroup        string // v1 or v2
	memoryMiB     int
	kubeletConfig string // a file, or ""
	cache         string
	logs          string
}

func parseFlags() (options, []string) {
	var o options
	flag.StringVar(&o.kubelet, "kubelet", kubernetesVersion, "the `version` of the node's kubelet, one that make lab has built")
	flag.StringVar(&o.cgroup, "cgroup", "v2", "the node's cgroup `version`, v1 or v2")
	flag.IntVar(&o.memoryMiB, "memory", 2048, "the node's memory in `MiB`")
	flag.StringVar(&o.kubeletConfig, "kubelet-config", "", "a `file` with a KubeletConfiguration that overrides the lab's")
	flag.StringVar(&o.cache, "cache", ".cache", "the `folder` that make lab has filled")
	flag.StringVar(&o.logs, "logs", ".cache/lab/logs", "the `folder` below which logs are kept after a failure")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: lab [flags] -- COMMAND [ARGUMENT...]\n"+
			"       lab node LINE | start PART | stop PART, in such a COMMAND")
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.NArg() == 0 || o.cgroup != "v1" && o.cgroup != "v2" {
		flag.Usage()
		os.Exit(exitFailed)
	}
	for _, path := range []*string{&o.cache, &o.logs} {
		absolute, err := filepath.Abs(*path)
		if err != nil {
			fmt.Fprintln(os.Stderr, "lab:", err)
			os.Exit(exitFailed)
		}
		*path = absolute
	}
	return o, flag.Args()
}

// outside starts this program again, as process 1 of new namespaces. When that ends, the kernel ends all processes in them and
// takes their mounts and network apart; and it ends that process when this one ends, killed or not.
func outside() (int, error) {
	if os.Geteuid() != 0 {
		return 0, errors.New("needs root, for namespaces and a network of its own")
	}
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	cmd := exec.Command(self, os.Args[1:]...)
	cmd.Args[0] = insideName
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWPID | syscall.CLONE_NEWNS,
		Pdeathsig:  syscall.SIGKILL,
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("new namespaces: %w", err)
	}
	go func() {
		for s := range signals {
			_ = cmd.Process.Signal(s) // it may have ended just now
		}
	}()
	return exitStatus(cmd.Wait())
}

// exitStatus is that of a command that Wait returned err for, as shells give it.
func exitStatus(err error) (int, error) {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return 0, err
	}
	if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return 128 + int(status.Signal()), nil
	}
	return exit.ExitCode(), nil
}
