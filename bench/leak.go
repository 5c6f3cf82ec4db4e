package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/memrecon/memrecon/cgroup"
)

// fillBytes is how much the contenders fill. A machine without that much to spare is not for this.
const fillBytes = 2 << 30

// filler is who fills memory: what is run for how many workers.
type filler struct {
	name string
	args func(workers int) []string
}

// fillers are the contenders; the first is the floor. All use pages of the smallest size.
func fillers(binary string) ([]filler, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	if path, _ := exec.LookPath("stress-ng"); path == "" {
		return nil, errors.New("stress-ng is not here: make deps installs it on Debian")
	}
	bytes := strconv.Itoa(fillBytes)
	return []filler{
		{"bare MADV_POPULATE_WRITE", func(n int) []string { return []string{self, "-fill", strconv.Itoa(n)} }},
		{"memrecon leak", func(n int) []string {
			return []string{binary, "leak", "--max=" + bytes, "--block=512Mi", "--workers=" + strconv.Itoa(n), "--stats-every=0"}
		}},
		{"stress-ng --vm --vm-populate", func(n int) []string {
			return []string{
				"stress-ng", "--quiet", "--vm", strconv.Itoa(n), "--vm-bytes", bytes, "--vm-populate", "--vm-keep",
				"--vm-madvise", "nohugepage", "--vm-method", "zero-one", "--vm-hang", "0",
			}
		}},
	}, nil
}

// fill is the floor: threads that have the kernel populate one mapping, 32 MiB at a time, and nothing else. It holds until it is
// killed.
func fill(workers int) error {
	const part = 32 << 20
	b, err := unix.Mmap(-1, 0, fillBytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return err
	}
	if err := unix.Madvise(b, unix.MADV_NOHUGEPAGE); err != nil {
		return err
	}
	errs := make(chan error)
	for i := range workers {
		go func() {
			share := b[i*len(b)/workers : (i+1)*len(b)/workers]
			var err error
			for ; err == nil && len(share) > 0; share = share[min(part, len(share)):] {
				err = unix.Madvise(share[:min(part, len(share))], unix.MADV_POPULATE_WRITE)
			}
			errs <- err
		}()
	}
	for range workers {
		err = errors.Join(err, <-errs)
	}
	if err != nil {
		return err
	}
	select {}
}

// measureLeak measures the allocator: how fast it fills, what it needs beside, how exact its rates are. What else the machine does
// can only make a round slower, so the fastest counts.
func measureLeak(h cgroup.Hierarchy, binary string, rounds int) error {
	fmt.Printf("\nfilling %d MiB of anonymous memory: fastest of %d rounds, and least work for it\n", fillBytes>>20, rounds)
	all, err := fillers(binary)
	if err != nil {
		return err
	}
	// A virtual machine is given its memory when it first uses it. That is not to be measured.
	largest := strconv.Itoa(rateSeconds * rateMiB[len(rateMiB)-1] << 20)
	if out, err := exec.Command(binary, "leak", "--max="+largest, "--block=64Mi", "--hold=1ms").CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	fmt.Printf("  %-34s %8s %10s %8s %14s %8s\n", "", "workers", "MiB/s", "x bare", "MiB a CPU s", "x bare")
	for _, workers := range []int{1, 2} {
		fastest, perCPU := make([]float64, len(all)), make([]float64, len(all))
		for round := range rounds {
			for turn := range all {
				i := (round + turn) % len(all) // whoever comes first gets other pages
				took, err := fillOnce(h, all[i].args(workers))
				if err != nil {
					return fmt.Errorf("%s: %w", all[i].name, err)
				}
				fastest[i] = max(fastest[i], took.mib/took.seconds)
				perCPU[i] = max(perCPU[i], took.mib/took.cpuSeconds)
			}
		}
		for i := range all {
			fmt.Printf("  %-34s %8d %10.0f %8.2f %14.0f %8.2f\n", all[i].name, workers, fastest[i], fastest[i]/fastest[0],
				perCPU[i], perCPU[i]/perCPU[0])
		}
	}
	if err := beside(h, binary); err != nil {
		return err
	}
	return rates(binary)
}

// charged is a cgroup of its own that a program is run in.
type charged struct {
	dir         string
	usage       string // the file
	interrupted chan os.Signal
}

func newCharged(h cgroup.Hierarchy) (*charged, error) {
	c := &charged{dir: filepath.Join(h.Dir, fmt.Sprintf("memrecon-bench-fill-%d", os.Getpid())), interrupted: make(chan os.Signal, 1)}
	if err := os.Mkdir(c.dir, 0o755); err != nil {
		return nil, fmt.Errorf("making a cgroup needs root and a writable hierarchy: %w", err)
	}
	c.usage = filepath.Join(c.dir, "memory.usage_in_bytes")
	if isV2(h) {
		c.usage = filepath.Join(c.dir, "memory.current")
	}
	signal.Notify(c.interrupted, os.Interrupt, syscall.SIGTERM)
	go func() {
		if _, ok := <-c.interrupted; ok {
			c.remove()
			os.Exit(1)
		}
	}()
	return c, nil
}

func (c *charged) bytes() (float64, error) {
	text, err := os.ReadFile(c.usage)
	if err != nil {
		return 0, err
	}
	return strconv.ParseFloat(strings.TrimSpace(string(text)), 64)
}

// command is a program that moves into the cgroup before it is what it is.
func (c *charged) command(args []string) *exec.Cmd {
	shell := append([]string{"-c", `echo $$ > "$0" && exec "$@"`, filepath.Join(c.dir, "cgroup.procs")}, args...)
	cmd := exec.Command("sh", shell...)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// end ends the program and removes the cgroup.
func (c *charged) end(cmd *exec.Cmd) {
	signal.Stop(c.interrupted)
	close(c.interrupted)
	c.remove()
	if cmd.Process != nil {
		_ = cmd.Wait()
	}
}

// remove kills what runs in the cgroup, and removes it once the memory is given back.
func (c *charged) remove() {
	for range 500 {
		pids, _ := os.ReadFile(filepath.Join(c.dir, "cgroup.procs")) // gone with the cgroup
		for pid := range strings.FieldsSeq(string(pids)) {
			if n, err := strconv.Atoi(pid); err == nil && n > 0 {
				_ = syscall.Kill(n, syscall.SIGKILL)
			}
		}
		if err := syscall.Rmdir(c.dir); err == nil {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	fmt.Fprintf(os.Stderr, "bench: %s stays behind\n", c.dir)
}

// cpuSeconds is what all threads of the cgroup's processes have run, by /proc/PID/task/TID/schedstat, whose first number are
// nanoseconds.
func (c *charged) cpuSeconds() (float64, error) {
	pids, err := os.ReadFile(filepath.Join(c.dir, "cgroup.procs"))
	if err != nil {
		return 0, err
	}
	var sum float64
	for pid := range strings.FieldsSeq(string(pids)) {
		threads, err := filepath.Glob("/proc/" + pid + "/task/*/schedstat")
		if err != nil {
			return 0, err
		}
		for _, file := range threads {
			text, err := os.ReadFile(file)
			if err != nil {
				continue // it has just ended
			}
			ran, _, _ := strings.Cut(string(text), " ")
			ns, err := strconv.ParseFloat(ran, 64)
			if err != nil {
				return 0, fmt.Errorf("%s: %w", file, err)
			}
			sum += ns / 1e9
		}
	}
	return sum, nil
}

// filled is what a filler took for how much.
type filled struct{ mib, seconds, cpuSeconds float64 }

// fillOnce runs a filler in a cgroup and measures from where the cgroup is charged for a sixteenth, when programs have started, to
// the last hundredth.
func fillOnce(h cgroup.Hierarchy, args []string) (took filled, err error) {
	const from, to = fillBytes / 16, fillBytes / 100 * 99
	c, err := newCharged(h)
	if err != nil {
		return took, err
	}
	cmd := c.command(args)
	defer c.end(cmd)
	if err := cmd.Start(); err != nil {
		return took, err
	}
	var began time.Time
	var first, firstCPU float64
	for start := time.Now(); time.Since(start) < 2*time.Minute; time.Sleep(500 * time.Microsecond) {
		n, err := c.bytes()
		if err != nil {
			return took, err
		}
		if n < from || !began.IsZero() && n < to {
			continue
		}
		now := time.Now()
		cpu, err := c.cpuSeconds()
		if err != nil {
			return took, err
		}
		if began.IsZero() {
			began, first, firstCPU = now, n, cpu
			continue
		}
		return filled{(n - first) / (1 << 20), now.Sub(began).Seconds(), cpu - firstCPU}, nil
	}
	return took, errors.New("it has not filled that in two minutes")
}

// leakEvent is the part of leak's events that is measured.
type leakEvent struct {
	Event          string  `json:"event"`
	ElapsedSeconds float64 `json:"elapsed_seconds"`
	TouchedBytes   float64 `json:"touched_bytes"`
}

// beside tells what leak is itself, next to what it has taken.
func beside(h cgroup.Hierarchy, binary string) error {
	c, err := newCharged(h)
	if err != nil {
		return err
	}
	cmd := c.command([]string{binary, "leak", "--max=" + strconv.Itoa(fillBytes), "--block=64Mi"})
	defer c.end(cmd)
	if err := cmd.Start(); err != nil {
		return err
	}
	var n float64
	for n < fillBytes {
		time.Sleep(100 * time.Millisecond)
		if n, err = c.bytes(); err != nil {
			return err
		}
	}
	time.Sleep(2 * time.Second)
	if n, err = c.bytes(); err != nil {
		return err
	}
	rss, _, err := resident(cmd.Process.Pid)
	if err != nil {
		return err
	}
	fmt.Printf("  memrecon leak holding %d MiB: %.1f MiB resident beside; its cgroup's usage is %+.2f%% of that\n", fillBytes>>20,
		rss*1e6/(1<<20)-fillBytes>>20, 100*(n-fillBytes)/fillBytes)
	return nil
}

// rateSeconds is how long a rate is held, and a little more so that it does not come to its end.
const rateSeconds = 11

// rateMiB are the rates, in MiB a second.
var rateMiB = []int{1, 50, 500}

// rates tells how far rates are off over ten seconds, in small and in large blocks, and how fast leak is where it has no rate: what a
// machine gives more slowly than a rate wants it is not held. A virtual machine is given memory on first use, and may have given back
// what it does not use.
func rates(binary string) error {
	blocks := []string{"1Mi", "256Mi"}
	fmt.Printf("  %-50s", "memrecon leak --rate over 10 s, error")
	for _, block := range blocks {
		fmt.Printf(" %8s", block)
	}
	fmt.Println()
	for _, mib := range rateMiB {
		fmt.Printf("  %-50s", fmt.Sprintf("%d MiB/s", mib))
		for _, block := range blocks {
			off, err := rateError(binary, mib<<20, block)
			if err != nil {
				return err
			}
			fmt.Printf(" %+7.3f%%", 100*off)
		}
		fmt.Println()
	}
	slowest, err := slowestBlock(binary, rateSeconds*rateMiB[len(rateMiB)-1]/blockMiB)
	if err != nil {
		return err
	}
	fmt.Printf("  %-50s %17.0f\n", fmt.Sprintf("without a rate, slowest %d MiB, MiB/s", blockMiB), slowest)
	return nil
}

// rateError is how far off what was touched is from the rate, by the last report before ten seconds are over.
func rateError(binary string, rate int, block string) (off float64, err error) {
	err = watch(func(e *leakEvent) bool {
		off = e.TouchedBytes/e.ElapsedSeconds/float64(rate) - 1
		return e.Event == "progress" && e.ElapsedSeconds >= 9.9
	}, binary, "--max="+strconv.Itoa(rateSeconds*rate), "--rate="+strconv.Itoa(rate)+"/s", "--block="+block)
	return off, err
}

// blockMiB is the block whose pace is measured.
const blockMiB = 256

// slowestBlock is in how many MiB a second the slowest of some blocks was taken.
func slowestBlock(binary string, count int) (slowest float64, err error) {
	time.Sleep(rateSeconds * time.Second) // memory just given back is not what a rate gets at its end
	var before float64
	err = watch(func(e *leakEvent) bool {
		if e.Event == "block" {
			pace := blockMiB / (e.ElapsedSeconds - before)
			if before == 0 || pace < slowest {
				slowest = pace
			}
			before = e.ElapsedSeconds
		}
		return e.Event == "holding"
	}, binary, "--max="+strconv.Itoa(count*blockMiB<<20), "--block="+strconv.Itoa(blockMiB<<20), "--stats-every=0")
	return slowest, err
}

// watch has leak run until an event that is the last.
func watch(last func(*leakEvent) bool, binary string, args ...string) error {
	cmd := exec.Command(binary, append([]string{"leak", "--output=json"}, args...)...)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	for lines := bufio.NewScanner(out); lines.Scan(); {
		var e leakEvent
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return err
		}
		if last(&e) {
			return nil
		}
	}
	return errors.New("leak ended too early")
}
