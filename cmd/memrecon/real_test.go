//go:build !race

// Not with the race detector, whose own memory would be more than the limits of scenarios: make test runs these apart.

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/memrecon/memrecon/internal/need"
	"github.com/memrecon/memrecon/pressure"
	"github.com/memrecon/memrecon/snapshot"
	"github.com/memrecon/memrecon/verdict"
)

// The tests of this file, TestReal..., run memrecon in cgroups of this host, and of guests with cgroup v1 and v2.

// asProgram makes the test binary memrecon itself: a guest has no other, nor a compiler.
const asProgram = "MEMRECON_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

// program is memrecon as a process, with a command line.
func program(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, args...)
	cmd.Env = append(os.Environ(), asProgram+"=1")
	return cmd
}

// Every scenario that memrecon brings along ends on this machine as it says it does, is told so, and leaves no cgroup. Without the
// kernel's log its counters tell the same.
func TestRealScenarios(t *testing.T) {
	hierarchy := need.MemoryCgroup(t)
	list, err := program(t, "pressure", "list").Output()
	if err != nil {
		t.Fatal(err)
	}
	ends := func(t *testing.T, name, kmsg string) {
		out, err := program(t, "pressure", "run", name, "--local", "--path.kmsg="+kmsg).CombinedOutput()
		if err != nil || !verdictMet.Match(out) || bytes.Contains(out, []byte("NOT MET")) {
			t.Errorf("%v\n%s", err, out)
		}
	}
	scenarios := 0
	for line := range strings.Lines(string(list)) {
		name, _, _ := strings.Cut(line, " ")
		scenarios++
		t.Run(name, func(t *testing.T) { ends(t, name, "/dev/kmsg") })
	}
	if scenarios < 6 {
		t.Errorf("there are %d scenarios", scenarios)
	}
	for _, name := range []string{"over-limit", "innocent", "tmpfs"} { // a kill at each level
		t.Run(name+" without the log", func(t *testing.T) { ends(t, name, "") })
	}
	noLeftovers(t, hierarchy)
}

// verdictMet is a line of a scenario's run: its containers are told of as expected.
var verdictMet = regexp.MustCompile(`(?m)^  met      \S+ (no )?verdict.*: `)

// Who runs a scenario for programs gets what died as the agent would tell it; and a verdict that is another than expected is not met.
func TestRealVerdict(t *testing.T) {
	need.MemoryCgroup(t)
	list, err := program(t, "pressure", "list", "-o", "json").Output()
	if err != nil {
		t.Fatal(err)
	}
	var scenarios []*pressure.Scenario
	if err := json.Unmarshal(list, &scenarios); err != nil {
		t.Fatal(err)
	}
	s := scenarios[slices.IndexFunc(scenarios, func(s *pressure.Scenario) bool { return s.Name == "innocent" })]
	quiet := s.Expect["quiet/app"]
	quiet.Verdicts = []verdict.Verdict{verdict.ContainerLimit}
	s.Expect["quiet/app"] = quiet
	spoiled, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "spoiled.yaml")
	if err := os.WriteFile(file, spoiled, 0o600); err != nil {
		t.Fatal(err)
	}
	run := program(t, "pressure", "run", file, "--local", "-o", "json")
	var errs bytes.Buffer
	run.Stderr = &errs
	out, _ := run.Output() // it fails: see its status
	if run.ProcessState.ExitCode() != exitFailed {
		t.Errorf("%s: %s", run.ProcessState, &errs)
	}
	var result pressure.Result
	if err := json.Unmarshal(out, &result); err != nil {
		t.Fatal(err)
	}
	var unmet []string
	for _, c := range result.Checks {
		if !c.Met {
			unmet = append(unmet, c.Container+" "+c.Expected+": "+c.Observed)
		}
	}
	if len(unmet) != 1 || !strings.HasPrefix(unmet[0], "quiet/app verdict container-limit: kubepods-limit, ") {
		t.Errorf("not met is %q", unmet)
	}
	told := result.Outcome.Containers[0].Incidents
	if len(told) != 1 {
		t.Fatalf("%d incidents of quiet/app", len(told))
	}
	in := &told[0]
	if in.Victim.Pod != "quiet" || in.Limited.Path != result.Cgroup || in.Limit != snapshot.Of(96<<20) || len(in.Evidence) == 0 ||
		!strings.HasPrefix(in.Sentence, "innocent/quiet/app: the kernel killed ") || !strings.HasSuffix(in.Page, "/kubepods-limit.md") {
		t.Errorf("quiet/app is told as %+v", in)
	}
}

func noLeftovers(t *testing.T, hierarchy string) {
	t.Helper()
	if left, err := filepath.Glob(filepath.Join(hierarchy, "memrecon-pressure-*")); err != nil || left != nil {
		t.Errorf("%v stays behind (%v)", left, err)
	}
}

// A runner that is killed takes the programs with it, and the next one removes its cgroups.
func TestRealRunnerKilled(t *testing.T) {
	hierarchy := need.MemoryCgroup(t)
	runner := program(t, "pressure", "run", "slow-leak", "--local")
	out, err := runner.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := runner.Start(); err != nil {
		t.Fatal(err)
	}
	child := 0
	started := regexp.MustCompile(`starts as process (\d+)`)
	for lines := bufio.NewScanner(out); child == 0 && lines.Scan(); {
		if found := started.FindStringSubmatch(lines.Text()); found != nil {
			child, _ = strconv.Atoi(found[1])
		}
	}
	time.Sleep(time.Second) // it leaks by now
	if err := runner.Process.Kill(); err != nil || child == 0 {
		t.Fatalf("killing the runner of process %d: %v", child, err)
	}
	_ = runner.Wait()
	for began := time.Now(); unix.Kill(child, 0) == nil; time.Sleep(10 * time.Millisecond) {
		if time.Since(began) > 5*time.Second {
			status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", child))
			t.Fatalf("process %d lives on:\n%s", child, status)
		}
	}
	if left, err := filepath.Glob(filepath.Join(hierarchy, "memrecon-pressure-*")); err != nil || len(left) != 1 {
		t.Errorf("a killed runner leaves %v (%v): this test shows nothing without a leftover", left, err)
	}
	if out, err := program(t, "pressure", "run", "over-limit", "--local").CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	noLeftovers(t, hierarchy)
}

// Interrupted, a runner says so, with a status of its own, and removes everything.
func TestRealRunnerInterrupted(t *testing.T) {
	hierarchy := need.MemoryCgroup(t)
	runner := program(t, "pressure", "run", "slow-leak", "--local")
	var errs bytes.Buffer
	runner.Stderr = &errs
	runner.Cancel = func() error { return runner.Process.Signal(syscall.SIGTERM) }
	if err := runner.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(2 * time.Second)
	if err := runner.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if _ = runner.Wait(); runner.ProcessState.ExitCode() != exitGuard || !strings.Contains(errs.String(), "interrupted") {
		t.Errorf("%s: %s", runner.ProcessState, &errs)
	}
	noLeftovers(t, hierarchy)
}

// leakIn is memrecon leak in a cgroup.
func leakIn(t *testing.T, dir string, args ...string) *exec.Cmd {
	t.Helper()
	return program(t, append([]string{"pressure", "enter", "--path.procfs=/proc", "--cgroup=" + dir, "--oom-score-adj=1000", "--", "leak"}, args...)...)
}

// usage is what a cgroup is charged for.
func usage(t *testing.T, dir string) uint64 {
	t.Helper()
	for _, file := range []string{"memory.current", "memory.usage_in_bytes"} {
		if text, err := os.ReadFile(filepath.Join(dir, file)); err == nil {
			n, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("%s has no usage", dir)
	return 0
}

// Killed with SIGKILL at any moment, leak leaves nothing: no memory in its cgroup, no file, no mount.
func TestRealKilledLeavesNothing(t *testing.T) {
	const times, most = 50, 32 << 20
	kinds := []string{"anon", "thp", "mlock", "tmpfs", "tmpfs in a folder", "file", "file-active", "slab", "pipe", "socket"}
	_, dir := need.Cgroup(t, "killed")
	disk, shm := leftEmpty(t, "/var/tmp"), "/dev/shm"
	if _, err := os.Stat(shm); err != nil {
		shm = "/tmp" // a tmpfs in a guest
	}
	shared := leftEmpty(t, shm)
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	lively := 0
	for i := range times {
		kind, _, inFolder := strings.Cut(kinds[i%len(kinds)], " ")
		args := []string{"--kind=" + kind, "--max=" + strconv.Itoa(most), "--rate=200Mi/s", "--floor=0", "--oom-score-adj=keep"}
		switch {
		case inFolder:
			args = append(args, "--dir="+shared)
		case strings.HasPrefix(kind, "file"):
			args = append(args, "--dir="+disk)
		case kind == "thp" && !hugePages(t):
			args[0] = "--kind=anon" // a kernel turns them off on a machine as small as a guest
		}
		cmd := leakIn(t, dir, args...)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if i%5 > 0 { // four in five once it takes memory, the fifth while it starts
			for lines := bufio.NewScanner(out); lines.Scan() && !strings.Contains(lines.Text(), "starts"); {
			}
		}
		time.Sleep(time.Duration(rand.IntN(400)) * time.Millisecond)
		if usage(t, dir) > 8<<20 { // twice what it is itself
			lively++
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		// Kernel objects are freed a moment later, and each CPU keeps up to 64 pages charged ahead.
		const atMost = 2 << 20
		for began := time.Now(); usage(t, dir) > atMost; time.Sleep(20 * time.Millisecond) {
			if time.Since(began) > 10*time.Second {
				t.Fatalf("%s: %d bytes stay charged", kinds[i%len(kinds)], usage(t, dir))
			}
		}
	}
	if lively < times/2 {
		t.Errorf("only %d of %d had taken much when they were killed: this test shows too little", lively, times)
	}
	if after, err := os.ReadFile("/proc/self/mountinfo"); err != nil || !bytes.Equal(after, mounts) {
		t.Errorf("mounts were\n%s\nand are\n%s (%v)", mounts, after, err)
	}
}

// leftEmpty is a new folder in another, which has to be empty again at the test's end.
func leftEmpty(t *testing.T, in string) string {
	t.Helper()
	dir, err := os.MkdirTemp(in, "memrecon-test-") //nolint:usetesting // where the folder is matters, and what is left in it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.Remove(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// hugePages tells whether the kernel gives transparent huge pages to who asks.
func hugePages(t *testing.T) bool {
	t.Helper()
	enabled, err := os.ReadFile("/sys/kernel/mm/transparent_hugepage/enabled")
	if err != nil {
		t.Fatal(err)
	}
	return !strings.Contains(string(enabled), "[never]")
}

// How leak ends is in its exit status, and what it held in its last lines.
func TestRealEnds(t *testing.T) {
	for _, tc := range []struct {
		args    string
		signal  os.Signal // sent once it holds
		address uint64    // RLIMIT_AS beyond what is mapped
		status  int
		want    string
	}{
		{"--max=8Mi --hold=10ms", nil, 0, 0, "ends: the hold is over; held 8Mi, 8Mi touched"},
		{"--max=8Mi", os.Interrupt, 0, 0, "signal received; held 8Mi, 8Mi touched"},
		{"--max=8Mi", syscall.SIGTERM, 0, 0, "signal received; held 8Mi, 8Mi touched"},
		{"--max=8Mi --timeout=300ms", nil, 0, exitGuard, "--timeout 300ms is over"},
		{"--max=8Mi --hold=1ms --release-every=1m --timeout=300ms", nil, 0, exitGuard, "--timeout 300ms is over"},
		{"--max=8Mi --floor=1Ei", nil, 0, exitGuard, "below --floor 1Ei"},
		{"--max=1Gi --touch=0.01 --block=8Mi", nil, 64 << 20, exitNoMemory, "RLIMIT_AS"},
		{"--max=16Mi --die-at=8Mi --die-with=SIGSEGV", nil, 0, 139, "dies at 8Mi with SIGSEGV, as asked; held 8Mi"},
		{"--max=16Mi --die-at=8Mi --die-with=SIGABRT", nil, 0, 134, "dies at 8Mi with SIGABRT"},
		{"--max=16Mi --rate=100Mi/s --die-at=8Mi --die-with=exit:3", nil, 0, 3, "dies at 8Mi with exit status 3"},
	} {
		t.Run(tc.args, func(t *testing.T) {
			if !strings.Contains(tc.args, "floor") {
				tc.args += " --floor=0"
			}
			cmd := program(t, append([]string{"leak", "--wait"}, strings.Fields(tc.args)...)...)
			cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
			in, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			output := new(buffer)
			cmd.Stdout, cmd.Stderr = output, output
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			await(t, output, "Waits for Enter.")
			if tc.address > 0 {
				limitAddressSpace(t, cmd.Process.Pid, tc.address)
			}
			if _, err := io.WriteString(in, "\n"); err != nil {
				t.Fatal(err)
			}
			if tc.signal != nil {
				await(t, output, "holds 8Mi")
				if err := cmd.Process.Signal(tc.signal); err != nil {
					t.Fatal(err)
				}
			}
			_ = cmd.Wait()
			ended := cmd.ProcessState.Sys().(syscall.WaitStatus)
			status := ended.ExitStatus()
			if ended.Signaled() {
				status = 128 + int(ended.Signal())
			}
			if status != tc.status || !strings.Contains(output.String(), tc.want) {
				t.Errorf("status %d, want %d and %q in\n%s", status, tc.status, tc.want, output)
			}
		})
	}
}

// await waits until a process has written something.
func await(t *testing.T, output *buffer, text string) {
	t.Helper()
	for began := time.Now(); !strings.Contains(output.String(), text); time.Sleep(5 * time.Millisecond) {
		if time.Since(began) > 30*time.Second {
			t.Fatalf("no %q in\n%s", text, output)
		}
	}
}

// limitAddressSpace sets a process's RLIMIT_AS so many bytes above what it has mapped.
func limitAddressSpace(t *testing.T, pid int, more uint64) {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		t.Fatal(err)
	}
	pages, err := strconv.ParseUint(strings.Fields(string(text))[0], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	limit := pages*uint64(os.Getpagesize()) + more
	if err := unix.Prlimit(pid, unix.RLIMIT_AS, &unix.Rlimit{Cur: limit, Max: limit}, nil); err != nil {
		t.Fatal(err)
	}
}

// Before it starts it says which limit it will meet first, up the tree, and when; and there it is killed.
func TestRealMeetsTheLimitItNamed(t *testing.T) {
	const limit = 48 << 20
	path, dir := need.Cgroup(t, "limit")
	file := filepath.Join(dir, "memory.max")
	if _, err := os.Stat(file); err != nil {
		file = filepath.Join(dir, "memory.limit_in_bytes")
	}
	if err := os.WriteFile(file, []byte(strconv.Itoa(limit)), 0); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := leakIn(t, dir, "--max=0", "--rate=16Mi/s", "--floor=0")
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
	defer stop()
	out, _ := cmd.CombinedOutput()
	said := regexp.MustCompile(`First it will meet the limit 48Mi of cgroup ` + regexp.QuoteMeta(path) + `, after ([\d.]+)Mi and ([\d.]+)s: the kernel kills there\.`).
		FindStringSubmatch(string(out))
	if said == nil || ctx.Err() != nil || !cmd.ProcessState.Sys().(syscall.WaitStatus).Signaled() {
		t.Fatalf("%s\n%s", cmd.ProcessState, out)
	}
	taken := regexp.MustCompile(`(?m)^ +([\d.]+)s  ([\d.]+)Mi taken`).FindAllStringSubmatch(string(out), -1)
	if len(taken) == 0 {
		t.Fatalf("no progress\n%s", out)
	}
	will, _ := strconv.ParseFloat(said[1], 64)
	last, _ := strconv.ParseFloat(taken[len(taken)-1][2], 64)
	if last > will || last < will-32 { // progress is told once a second
		t.Errorf("it was to end after %g MiB, and told of %g as the last\n%s", will, last, out)
	}
}
