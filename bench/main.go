// Command bench measures what reading and reconciling a node costs, against the floor and against the libraries that others
// read cgroups with, and how fast and how exact memrecon leak is, against a bare loop and stress-ng, in one run on real cgroups that it makes and removes itself. It needs root. Machines are shared and
// noisy: the ratios of one run say something, the times alone do not.
//
// Each contender is a process of its own, so that none shares its file descriptors or its garbage with another, and they run
// in turn, a round each, so that what else the machine does falls on all of them alike.
package main

import (
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/memrecon/memrecon/cgroup"
)

func main() {
	small := flag.Int("small", 300, "how many cgroups the small tree has")
	large := flag.Int("large", 5000, "how many cgroups the large tree has, 0 to leave it out")
	rounds := flag.Int("rounds", 40, "how often each contender runs on the small tree; on the large tree a quarter of it")
	only := flag.String("only", "", "read or leak, to measure that alone")
	fillers := flag.Int("fill", 0, "how many threads are to fill memory; for bench itself")
	memrecon := flag.String("memrecon", "", "the agent's binary, to measure its resident memory and its scrapes")
	child := flag.String("contender", "", "what this process is to run; for bench itself")
	top := flag.String("top", "", "the top of the tree that the contender reads; for bench itself")
	flag.Parse()
	var err error
	switch {
	case *child != "":
		err = serve(*child, *top)
	case *fillers > 0:
		err = fill(*fillers)
	default:
		err = run(*only, *small, *large, *rounds, *memrecon)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(only string, small, large, rounds int, binary string) error {
	h, err := cgroup.Find("/sys")
	if err != nil {
		return err
	}
	fmt.Printf("memory controller: cgroup %s at %s\n", h.Mode, h.Dir)
	if binary != "" && only != "read" {
		if err := measureLeak(h, binary, max(3, rounds/4)); err != nil {
			return err
		}
	}
	if only == "leak" {
		return nil
	}
	return measureReading(h, small, large, rounds, binary)
}

// measureReading measures what reading a node costs, on a small tree and on a large one.
func measureReading(h cgroup.Hierarchy, small, large, rounds int, binary string) error {
	few, err := measure(h, small, rounds, binary)
	if err != nil {
		return err
	}
	if binary != "" {
		for _, pods := range []int{110, 500} {
			if err := agentOnNode(h, binary, pods); err != nil {
				return err
			}
		}
	}
	if large == 0 {
		return nil
	}
	many, err := measure(h, large, max(3, rounds/4), "")
	if err != nil {
		return err
	}
	fmt.Printf("\na cgroup's cost at %d cgroups over that at %d\n", large, small)
	for i := range contenders {
		fmt.Printf("  %-50s %8.2f\n", contenders[i].name, many[i]/few[i])
	}
	return nil
}

// measure makes a tree of n cgroups, runs the contenders over it and prints what they took. It returns the median time of a
// cgroup's share for each, in nanoseconds.
func measure(h cgroup.Hierarchy, n, rounds int, binary string) ([]float64, error) {
	t, err := makeTree(h, n)
	if err != nil {
		return nil, err
	}
	defer t.removeAtEnd()()

	var processes []*process
	defer func() {
		for _, p := range processes {
			p.stop()
		}
	}()
	for i := range contenders {
		p, err := start(contenders[i].id, t.top)
		if err != nil {
			return nil, err
		}
		processes = append(processes, p)
	}
	for round := range rounds + 1 {
		for i, p := range processes {
			if contenders[i].slow && round > max(3, rounds/4) {
				continue
			}
			if err := p.round(round > 0); err != nil { // the first round only warms up
				return nil, fmt.Errorf("%s: %w", contenders[i].name, err)
			}
		}
	}
	each := make([]float64, len(contenders))
	for i, p := range processes {
		each[i] = median(p.times) / float64(n)
	}
	fmt.Printf("\n%d cgroups, median of %d rounds\n", n, rounds)
	fmt.Printf("  %-50s %10s %8s %10s %8s\n", "", "us/cgroup", "x floor", "x kubelet", "allocs")
	for i, p := range processes {
		fmt.Printf("  %-50s %10.2f %8.2f %10.3f %8.2f\n", contenders[i].name, each[i]/1000, each[i]/each[theFloor], each[i]/each[theKubelet],
			median(p.mallocs)/float64(n))
	}
	fmt.Printf("  the kubelet's library takes %.1f times what a whole round of memrecon takes\n", each[theKubelet]/each[theRound])
	if binary != "" {
		return each, agent(binary, n)
	}
	return each, nil
}

func median(of []float64) float64 {
	slices.Sort(of)
	return of[len(of)/2]
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
	err := t.add(t.top)
	for group := 0; err == nil && len(t.dirs) < n; group++ {
		dir := filepath.Join(t.top, fmt.Sprintf("pod%d", group))
		if err = t.add(dir); err != nil {
			break
		}
		for i := 0; err == nil && i < perGroup && len(t.dirs) < n; i++ {
			err = t.add(filepath.Join(dir, fmt.Sprintf("container%d", i)))
		}
	}
	if err != nil {
		t.remove()
		return nil, err
	}
	return t, nil
}

// add makes a cgroup of the tree.
func (t *tree) add(dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return fmt.Errorf("making a cgroup needs root and a writable hierarchy: %w", err)
	}
	t.dirs = append(t.dirs, dir)
	if isV2(t.hierarchy) && filepath.Base(dir) != "agent" { // which has processes
		return os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+memory"), 0)
	}
	return nil
}

// removeAtEnd returns what removes the tree, and removes it also when the bench is told to end before that.
func (t *tree) removeAtEnd() func() {
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt, syscall.SIGTERM)
	go func() {
		if _, ok := <-interrupted; ok {
			t.remove()
			os.Exit(1)
		}
	}()
	return func() { signal.Stop(interrupted); close(interrupted); t.remove() }
}

func (t *tree) remove() {
	for _, dir := range slices.Backward(t.dirs) {
		if err := syscall.Rmdir(dir); err != nil && err != syscall.ENOENT {
			fmt.Fprintf(os.Stderr, "bench: %s stays behind: %v\n", dir, err)
		}
	}
}
