package kernellog_test

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/memrecon/memrecon/cgroup"
	"github.com/memrecon/memrecon/internal/need"
	"github.com/memrecon/memrecon/kernellog"
	"github.com/memrecon/memrecon/snapshot"
)

// The limit of a test's cgroup, and what the process in it tries to use.
const (
	limitBytes = 32 << 20
	wantBytes  = 96 << 20
)

// TestMain also is that process: it waits until it is in its cgroup and then uses memory until it is killed.
func TestMain(m *testing.M) {
	if os.Getenv("MEMRECON_TEST_TENANT") == "" {
		os.Exit(m.Run())
	}
	line := make([]byte, 1)
	_, _ = os.Stdin.Read(line)
	memory := make([]byte, wantBytes)
	for i := 0; i < len(memory); i += os.Getpagesize() {
		memory[i] = 1
	}
	runtime.KeepAlive(memory)
}

// overuse has a process killed by the limit of a cgroup of its own, and returns the cgroup's path and the process.
func overuse(t *testing.T) (path string, pid int) {
	t.Helper()
	path, dir := need.Cgroup(t, "kernellog")
	limits := map[string]string{"memory.max": strconv.Itoa(limitBytes), "memory.swap.max": "0"}
	if filepath.Base(filepath.Dir(dir)) == "memory" {
		limits = map[string]string{"memory.limit_in_bytes": strconv.Itoa(limitBytes)}
	}
	for file, value := range limits {
		err := os.WriteFile(filepath.Join(dir, file), []byte(value), 0)
		if err != nil && !(file == "memory.swap.max" && errors.Is(err, os.ErrNotExist)) { // a kernel without swap
			t.Fatal(err)
		}
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), "MEMRECON_TEST_TENANT=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(cmd.Process.Pid)), 0); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(in, "\n"); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGKILL {
		t.Fatalf("the process was not killed: %s", cmd.ProcessState)
	}
	return path, cmd.Process.Pid
}

// check tells whether a kill is that of overuse, up to a minute old. What the process used before it was put into the cgroup is
// charged to another.
func check(t *testing.T, k *snapshot.Kill, path string, pid int) {
	t.Helper()
	limit, _ := k.LimitKB.Get()
	anon, _ := k.AnonRSSKB.Get()
	uid, isKnown := k.UID.Get()
	age := time.Since(k.Time)
	if k.Constraint != snapshot.ConstraintMemcg || k.OOMMemcg != path || k.TaskMemcg != path || k.VictimPID != pid ||
		k.VictimComm == "" || k.InvokerComm == "" || limit != limitBytes>>10 || anon < limitBytes>>11 || anon > wantBytes>>10 ||
		!isKnown || uid != 0 || k.OOMScoreAdj == nil || age < -time.Second || age > time.Minute || len(k.Tasks) == 0 {
		t.Errorf("%s was killed at its limit %s ago, the log has\n%s", path, age, indent(k))
	}
}

// interfaces are the ways to the kernel's log: syslog(2) where there is no device.
func interfaces() map[string]string {
	return map[string]string{"/dev/kmsg": "/dev/kmsg", "syslog(2)": "/dev/memrecon-has-no-kmsg"}
}

func open(t *testing.T, device string) *kernellog.Live {
	t.Helper()
	live, err := kernellog.Open(device)
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		need.Missing(t, err.Error())
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = live.Close() })
	return live
}

// A kill is in the kernel's log by either interface, with what the kernel prints of it, once.
func TestRealKill(t *testing.T) {
	path, pid := overuse(t)
	for name, device := range interfaces() {
		live := open(t, device)
		if live.Name != name {
			t.Errorf("read by %s, not %s", live.Name, name)
		}
		var found []*snapshot.Kill
		p := kernellog.NewParser(cgroup.Identify, func(k *snapshot.Kill) {
			if k.VictimPID == pid {
				found = append(found, k)
			}
		})
		for range 2 { // the second reading has nothing new
			if lost, err := live.Read(p); err != nil || lost != "" {
				t.Fatalf("%s: lost %q, %v", name, lost, err)
			}
			p.Flush()
		}
		if len(found) != 1 {
			t.Errorf("%s: the kill is there %d times", name, len(found))
			continue
		}
		check(t, found[0], path, pid)
	}
}

// Whoever follows the log has the kill while it goes on; by syslog(2) when woken, long before it would be asked again.
func TestRealFollow(t *testing.T) {
	for name, device := range interfaces() {
		live := open(t, device)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		kills := make(chan *snapshot.Kill, 1000)
		ended := make(chan error, 1)
		p := kernellog.NewParser(cgroup.Identify, func(k *snapshot.Kill) { kills <- k })
		every, wake := 20*time.Millisecond, make(chan struct{}, 2) // which the device does not need
		if name == "syslog(2)" {
			every = time.Hour
		}
		go func() {
			ended <- live.Follow(ctx, p, every, wake, func(what string) { t.Errorf("%s: %s", name, what) })
		}()
		path, pid := overuse(t)
		wake <- struct{}{}
		for found := false; !found; {
			select {
			case k := <-kills:
				if found = k.VictimPID == pid; found {
					check(t, k, path, pid)
				}
			case <-ctx.Done():
				t.Fatalf("%s: the kill of %d did not come", name, pid)
			}
		}
		cancel()
		wake <- struct{}{}
		if err := <-ended; err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := os.Remove(filepath.Join(need.MemoryCgroup(t), path)); err != nil { // the next is of the same name
			t.Error(err)
		}
	}
}
