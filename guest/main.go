// Command guest boots a Linux kernel under QEMU, runs one program in it as root, shows what it prints and ends with its exit
// status: a test binary sees a kernel of its own, with cgroup v1 or v2 as asked, and can do to it what must not be done to
// the machine that runs the tests. It knows nothing of what it runs.
//
//	go build -o bin/guest ./guest
//	CGO_ENABLED=0 go test -c -o bin/cgroup.test ./cgroup
//	bin/guest -cgroup v1 -- bin/cgroup.test -test.run TestReal -test.v
//
// The guest is the kernel, this program as its init, and the program to run, which must be static: there is no shell, no
// library and no network. It works in /tmp, a tmpfs, has a disk at /var/tmp where one was asked for (-disk), and gets the
// environment variables named MEMRECON_*. A boot takes some two seconds without KVM. Everything is passed to QEMU in memory and
// QEMU ends with this command, however that ends, so nothing is left behind.
//
// The exit status is the program's (128 and the signal where one ended it), or as with timeout(1): 124 where the time limit
// ended the guest, 125 where the guest died or could not be started. On Ctrl-C and SIGTERM it is 130.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// Exit statuses that are not the program's.
const (
	exitTimeLimit   = 124
	exitDied        = 125
	exitInterrupted = 130
)

func main() {
	if os.Getpid() == 1 {
		fmt.Fprintln(os.Stderr, "guest: init:", initMain())
		os.Exit(1)
	}
	// The kernel ends QEMU when the thread that started it ends (see qemu), so this goroutine keeps its thread.
	runtime.LockOSThread()
	os.Exit(hostMain())
}

func hostMain() int {
	var g guest
	flag.StringVar(&g.kernel, "kernel", ".cache/vmlinuz", "the kernel `image` to boot")
	flag.StringVar(&g.cgroup, "cgroup", "v2", "the cgroup `version` that has the controllers, v1 or v2")
	flag.IntVar(&g.memoryMiB, "memory", 512, "the guest's memory in `MiB`")
	flag.IntVar(&g.diskMiB, "disk", 0, "the size of an empty disk at /var/tmp in `MiB`, 0 for none; takes mke2fs")
	flag.StringVar(&g.append, "append", "", "`parameters` of the kernel, such as sysctl.vm.overcommit_memory=2")
	limit := flag.Duration("limit", 5*time.Minute, "`how long` the guest may take")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: guest [flags] -- PROGRAM [ARGUMENT...]")
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.NArg() == 0 || g.cgroup != "v1" && g.cgroup != "v2" {
		flag.Usage()
		return exitDied
	}
	self, err := os.Executable()
	if err != nil {
		fmt.Fprintln(os.Stderr, "guest:", err)
		return exitDied
	}
	g.init, g.program, g.args = self, flag.Arg(0), flag.Args()
	for _, v := range os.Environ() {
		if strings.HasPrefix(v, "MEMRECON_") {
			g.env = append(g.env, v)
		}
	}

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, *limit)
	defer cancel()
	start := time.Now()
	status, err := g.run(ctx, os.Stdout)
	took := time.Since(start).Seconds()
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		fmt.Fprintf(os.Stderr, "guest: ended at the time limit of %s, see -limit\n", *limit)
		return exitTimeLimit
	case errors.Is(err, context.Canceled):
		fmt.Fprintln(os.Stderr, "guest: interrupted")
		return exitInterrupted
	case err != nil:
		fmt.Fprintf(os.Stderr, "guest: %s\n", err)
		return exitDied
	}
	fmt.Fprintf(os.Stderr, "guest: cgroup %s: %s ended with status %d after %.1f s\n", g.cgroup, g.program, status, took)
	return status
}
