// Command bench measures what reading and reconciling a node costs, against the floor and against the libraries that others
// read cgroups with, in one run on real cgroups that it makes and removes itself. It needs root. Machines are shared and
// noisy: the ratios of one run say something, the times alone do not.
package main

import (
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/memrecon/memrecon/cgroup"
	"github.com/memrecon/memrecon/collector"
)

func main() {
	small := flag.Int("small", 300, "how many cgroups the small tree has")
	large := flag.Int("large", 5000, "how many cgroups the large tree has, 0 to leave it out")
	rounds := flag.Int("rounds", 30, "how often each contender runs on the small tree; on the large tree a third of it")
	memrecon := flag.String("memrecon", "", "the agent's binary, to measure its resident memory and its scrapes")
	flag.Parse()
	if err := run(*small, *large, *rounds, *memrecon); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(small, large, rounds int, binary string) error {
	h, err := cgroup.Find("/sys")
	if err != nil {
		return err
	}
	fmt.Printf("memory controller: cgroup %s at %s\n", h.Mode, h.Dir)
	at300, err := measure(h, small, rounds, binary)
	if err != nil || large == 0 {
		return err
	}
	at5000, err := measure(h, large, max(3, rounds/3), "")
	if err != nil {
		return err
	}
	fmt.Printf("\na cgroup's share of a sweep at %d cgroups is %.2f of that at %d\n", large, at5000.sweep/at300.sweep, small)
	fmt.Printf("a cgroup's share of a whole round at %d cgroups is %.2f of that at %d\n", large, at5000.round/at300.round, small)
	return nil
}

// result is the median time of a cgroup's share, in nanoseconds.
type result struct{ sweep, round float64 }

// measure makes a tree of n cgroups and runs the contenders over it in turn, so that what else the machine does falls on all
// of them alike.
func measure(h cgroup.Hierarchy, n, rounds int, binary string) (result, error) {
	t, err := makeTree(h, n)
	if err != nil {
		return result{}, err
	}
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt, syscall.SIGTERM)
	go func() {
		if _, ok := <-interrupted; ok {
			t.remove()
			os.Exit(1)
		}
	}()
	defer func() { signal.Stop(interrupted); close(interrupted); t.remove() }()

	floor, err := openFloor(t)
	if err != nil {
		return result{}, err
	}
	defer floor.close()
	reader, err := cgroup.Open(h, cgroup.Options{})
	if err != nil {
		return result{}, err
	}
	defer func() { _ = reader.Close() }()
	c, err := collector.Open(collector.Config{Procfs: "/proc", Sysfs: "/sys"})
	if err != nil {
		return result{}, err
	}
	defer func() { _ = c.Close() }()
	containerd, err := newContainerd(t)
	if err != nil {
		return result{}, err
	}
	contenders := []contender{
		{name: "floor: pread of the same files, nothing parsed", run: floor.read},
		{name: "memrecon sweep", run: reader.Sweep},
		{name: "containerd/cgroups Stat", run: containerd, seldom: true},
		{name: "opencontainers/cgroups (kubelet, cAdvisor)", run: opencontainers(t), seldom: true},
		{name: "memrecon: sweep, host, snapshot, sheet, publish", run: func() error { c.Collect(); return nil }},
	}
	for round := range rounds + 1 {
		for i := range contenders {
			if contenders[i].seldom && round > max(3, rounds/5) {
				continue
			}
			if err := contenders[i].once(round > 0); err != nil { // the first round only warms up
				return result{}, fmt.Errorf("%s: %w", contenders[i].name, err)
			}
		}
	}
	each := func(i int) float64 { return contenders[i].median() / float64(n) }
	fmt.Printf("\n%d cgroups, median of %d rounds\n", n, rounds)
	fmt.Printf("  %-50s %10s %8s %8s %8s\n", "", "us/cgroup", "x floor", "/ oc", "allocs")
	for i := range contenders {
		fmt.Printf("  %-50s %10.2f %8.2f %8.3f %8.2f\n", contenders[i].name, each(i)/1000, each(i)/each(0), each(i)/each(3), contenders[i].allocs()/float64(n))
	}
	fmt.Printf("  opencontainers over a whole round of memrecon: %.1f\n", each(3)/each(4))
	if binary != "" {
		if err := agent(binary, n); err != nil {
			return result{}, err
		}
	}
	return result{sweep: each(1), round: each(4)}, nil
}

// tree is a tree of cgroups made for the measurement: groups of ten under one top, as containers stand under pods.
type tree struct {
	hierarchy cgroup.Hierarchy
	top       string
	dirs      []string // absolute, parents first
}

const perGroup = 10

func makeTree(h cgroup.Hierarchy, n int) (*tree, error) {
	t := &tree{hierarchy: h, top: filepath.Join(h.Dir, fmt.Sprintf("memrecon-bench-%d", os.Getpid()))}
	add := func(dir string) error {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return fmt.Errorf("making a cgroup needs root and a writable hierarchy: %w", err)
		}
		t.dirs = append(t.dirs, dir)
		if isV2(h) {
			return os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+memory"), 0)
		}
		return nil
	}
	err := add(t.top)
	for group := 0; err == nil && len(t.dirs) < n; group++ {
		dir := filepath.Join(t.top, fmt.Sprintf("pod%d", group))
		if err = add(dir); err != nil {
			break
		}
		for i := 0; err == nil && i < perGroup && len(t.dirs) < n; i++ {
			err = add(filepath.Join(dir, fmt.Sprintf("container%d", i)))
		}
	}
	if err != nil {
		t.remove()
		return nil, err
	}
	return t, nil
}

func (t *tree) remove() {
	for _, dir := range slices.Backward(t.dirs) {
		if err := syscall.Rmdir(dir); err != nil && err != syscall.ENOENT {
			fmt.Fprintf(os.Stderr, "bench: %s stays behind: %v\n", dir, err)
		}
	}
}

// contender is one way to read the tree.
type contender struct {
	name    string
	run     func() error
	seldom  bool // so slow that fewer rounds must do
	times   []float64
	mallocs []uint64
}

func (c *contender) once(count bool) error {
	before := mallocs()
	start := time.Now()
	err := c.run()
	took := time.Since(start)
	if count {
		c.times = append(c.times, float64(took.Nanoseconds()))
		c.mallocs = append(c.mallocs, mallocs()-before)
	}
	return err
}

func (c *contender) median() float64 {
	slices.Sort(c.times)
	return c.times[len(c.times)/2]
}

func (c *contender) allocs() float64 {
	slices.Sort(c.mallocs)
	return float64(c.mallocs[len(c.mallocs)/2])
}
