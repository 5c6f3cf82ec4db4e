package incident_test

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestMain also is the processes that tests start.
func TestMain(m *testing.M) {
	switch job, dir := os.Getenv(work), os.Getenv(writeVariable); {
	case dir != "":
		write(dir)
	case job != "":
		contain(job)
	default:
		os.Exit(m.Run())
	}
}

// What a container of the tests does.
const (
	work = "MEMRECON_TEST_WORK"

	grow  = "grow"  // takes 64 MiB, or dies on the way
	child = "child" // has a child of it grow, and lives
	hold  = "hold"  // holds 16 MiB
	abort = "abort" // takes 12 MiB, and ends itself by SIGABRT
)

// contain is such a container: it waits until it is in its cgroup.
func contain(job string) {
	_, _ = os.Stdin.Read(make([]byte, 1))
	_ = os.WriteFile("/proc/self/oom_score_adj", []byte("500"), 0)
	switch job {
	case grow:
		take(64)
	case child:
		again := exec.Command("/proc/self/exe")
		again.Env = append(os.Environ(), work+"="+grow)
		again.Stdin = strings.NewReader("\n")
		_ = again.Run() // is killed
	case hold:
		take(16)
	case abort:
		take(12)
		signalReady()
		_ = unix.Kill(os.Getpid(), unix.SIGABRT)
	}
	signalReady()
	time.Sleep(time.Hour)
}

func signalReady() { fmt.Println("ready") }

// take maps memory and has the kernel fill it, in steps, beside Go's heap, whose size under the race detector is another.
func take(mib int) {
	for range mib {
		_, err := unix.Mmap(-1, 0, 1<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_POPULATE)
		if err != nil {
			fmt.Println(err)
		}
		time.Sleep(time.Millisecond)
	}
}
