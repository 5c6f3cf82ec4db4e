package flight_test

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/memrecon/memrecon/collector"
	"github.com/memrecon/memrecon/flight"
	"github.com/memrecon/memrecon/internal/need"
	"github.com/memrecon/memrecon/snapshot"
)

// The process of TestRealOOMKill grows by a step at a time, until it is killed at its limit.
const (
	growStep  = 2 << 20
	growEvery = 50 * time.Millisecond
	growLimit = 48 << 20
)

// TestMain also is that process: it waits until it is in its cgroup.
func TestMain(m *testing.M) {
	if os.Getenv("MEMRECON_TEST_GROW") == "" {
		os.Exit(m.Run())
	}
	line := make([]byte, 1)
	_, _ = os.Stdin.Read(line)
	_ = os.WriteFile("/proc/self/oom_score_adj", []byte("1000"), 0) // nobody else
	var kept [][]byte
	for len(kept) < 10*growLimit/growStep {
		step := make([]byte, growStep)
		for i := 0; i < len(step); i += os.Getpagesize() {
			step[i] = 1
		}
		kept = append(kept, step)
		time.Sleep(growEvery)
	}
}

// A container that runs into its limit, on a running kernel: what is left of it is how it grew there, also once its cgroup is gone.
func TestRealOOMKill(t *testing.T) {
	path, dir := need.Cgroup(t, "flight")
	limit := "memory.max"
	if _, err := os.Stat(filepath.Join(dir, limit)); err != nil {
		limit = "memory.limit_in_bytes"
	} else if err := os.WriteFile(filepath.Join(dir, "memory.swap.max"), []byte("0"), 0); err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, limit), []byte(strconv.Itoa(growLimit)), 0); err != nil {
		t.Fatal(err)
	}
	killed := grow(t, dir)

	c, err := collector.Open(collector.Config{Procfs: "/proc", Sysfs: "/sys"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	r := flight.NewRecorder(flight.Options{Samples: 1000})
	for alive := true; alive; {
		r.Record(c.Collect().Sheet)
		select {
		case err := <-killed:
			if err == nil || err.Error() != "signal: killed" {
				t.Fatalf("the process ended with %v", err)
			}
			alive = false
		case <-time.After(growEvery):
		}
	}
	for range 100 { // a thread of it may still be on its way out
		if err = os.Remove(dir); err == nil {
			break
		}
		time.Sleep(growEvery)
	}
	if err != nil {
		t.Fatal(err)
	}
	r.Record(c.Collect().Sheet)

	keys := r.ByPath(path)
	if len(keys) != 1 {
		t.Fatalf("of %s there are %v", path, keys)
	}
	record, ok := r.Around(keys[0], time.Time{}, time.Time{})
	if !ok || record.Gone.IsZero() || record.Limit != snapshot.Of(growLimit) {
		t.Fatalf("of the process that was killed there is %+v", record)
	}
	highest, ok := record.Highest()
	usage, _ := highest.Usage.Get()
	// The kernel charges before it looks at the limit, so a reader may see a batch of pages more than that.
	if !ok || usage > growLimit+1<<20 || usage < growLimit/2 {
		t.Errorf("the most that was seen of it is %s, its limit was %d", highest.Usage, growLimit)
	}
	anon, ok := highest.Anon.Get()
	if workingSet, known := highest.WorkingSet.Get(); !ok || !known || workingSet > usage || anon < growLimit/4 {
		t.Errorf("then it had %+v", highest)
	}
	if highest.Kernel.IsAbsent() || highest.File.IsAbsent() || highest.MemAvailable.IsAbsent() {
		t.Errorf("of the highest sample something is not known: %+v", highest)
	}
	if g, ok := record.Growth(highest.Time, time.Minute); !ok || g.BytesPerSecond <= 0 {
		t.Errorf("it grew by %+v, %v", g, ok)
	}
}

// grow starts the process in its cgroup. Its end comes from the channel.
func grow(t *testing.T, dir string) <-chan error {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), "MEMRECON_TEST_GROW=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() { _ = cmd.Process.Kill() }) // as a rule it is dead
	if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(cmd.Process.Pid)), 0); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(in, "\n"); err != nil {
		t.Fatal(err)
	}
	return ended
}
