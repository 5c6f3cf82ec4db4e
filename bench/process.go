package main

import (
	"bufio"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"github.com/memrecon/memrecon/cgroup"
)

// process runs one contender. It reads a line for each round, and answers with the round's nanoseconds and allocations.
type process struct {
	cmd            *exec.Cmd
	in             io.WriteCloser
	out            *bufio.Reader
	times, mallocs []float64
}

func start(contender, top string) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p := &process{cmd: exec.Command(self, "-contender", contender, "-top", top)}
	p.cmd.Stderr = os.Stderr
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.out = bufio.NewReader(out)
	return p, p.cmd.Start()
}

func (p *process) round(count bool) error {
	if _, err := fmt.Fprintln(p.in); err != nil {
		return err
	}
	var ns, mallocs float64
	if _, err := fmt.Fscanln(p.out, &ns, &mallocs); err != nil {
		return err
	}
	if count {
		p.times, p.mallocs = append(p.times, ns), append(p.mallocs, mallocs)
	}
	return nil
}

// stop ends the process by ending its input.
func (p *process) stop() {
	_ = p.in.Close()
	_ = p.cmd.Wait()
}

// serve is the process: it runs the contender once for each line of its input.
func serve(id, top string) error {
	h, err := cgroup.Find("/sys")
	if err != nil {
		return err
	}
	t := &tree{hierarchy: h, top: top}
	err = filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			t.dirs = append(t.dirs, path)
		}
		return err
	})
	if err != nil {
		return err
	}
	for i := range contenders {
		if contenders[i].id != id {
			continue
		}
		once, err := contenders[i].open(t)
		if err != nil {
			return err
		}
		for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
			before := mallocs()
			start := time.Now()
			err := once()
			took := time.Since(start)
			if err != nil {
				return err
			}
			fmt.Println(took.Nanoseconds(), mallocs()-before)
		}
	}
	return nil
}

func mallocs() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.Mallocs
}
