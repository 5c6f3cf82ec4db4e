// Command program is what the tests of guest run in guests: it does what its first argument says.
package main

import (
	"fmt"
	"os"
	"syscall"
	"time"
)

func main() {
	if err := do(os.Args[1]); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	os.Exit(7)
}

func do(what string) error {
	switch what {
	case "charge": // memory to a cgroup of its own, in whichever version there is
		return charge()
	case "panic": // the kernel, and wait for the end of the world
		if err := os.WriteFile("/proc/sysrq-trigger", []byte("c"), 0); err != nil {
			return err
		}
		time.Sleep(time.Hour)
	case "signal":
		if err := syscall.Kill(os.Getpid(), syscall.SIGKILL); err != nil {
			return err
		}
		time.Sleep(time.Hour)
	case "environment":
		for _, v := range os.Environ() {
			fmt.Println(v)
		}
	}
	return nil
}

func charge() error {
	for _, f := range []struct{ root, procs, usage string }{
		{"/sys/fs/cgroup", "cgroup.procs", "memory.current"},
		{"/sys/fs/cgroup/memory", "cgroup.procs", "memory.usage_in_bytes"},
	} {
		if _, err := os.Stat(f.root + "/" + f.procs); err != nil {
			continue // no hierarchy: with v1 the first is a folder in memory, in which all of this would work
		}
		dir := f.root + "/memrecon-guest"
		if err := os.Mkdir(dir, 0o755); err != nil {
			continue
		}
		if err := os.WriteFile(dir+"/"+f.procs, []byte("0"), 0); err != nil {
			continue
		}
		touched := make([]byte, 8<<20)
		for i := 0; i < len(touched); i += 4096 {
			touched[i] = 1
		}
		text, err := os.ReadFile(dir + "/" + f.usage)
		if err != nil {
			continue
		}
		var bytes int
		if _, err := fmt.Sscan(string(text), &bytes); err != nil {
			return err
		}
		if bytes < len(touched) {
			return fmt.Errorf("%s/%s is %d, but 8 MiB were touched", dir, f.usage, bytes)
		}
		fmt.Println("charged", f.usage)
		return nil
	}
	return fmt.Errorf("no memory controller")
}
