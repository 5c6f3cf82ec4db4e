package main

import (
	"fmt"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// process is a part of the cluster that runs here. An end that nobody asked for is the end of the lab.
type process struct {
	name    string
	command func() *exec.Cmd
	log     string // the file that its output is appended to
	fail    func(error)

	mu    sync.Mutex
	cmd   *exec.Cmd     // nil where it is stopped
	ended chan struct{} // closed when cmd has
}

func (p *process) start() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd != nil {
		return nil
	}
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := p.command()
	cmd.Stdout, cmd.Stderr = log, log
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is not for it
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("%s: %w", p.name, err)
	}
	ended := make(chan struct{})
	p.cmd, p.ended = cmd, ended
	go func() {
		err := cmd.Wait()
		close(ended)
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.cmd == cmd { // and not stopped
			p.fail(fmt.Errorf("%s has ended: %w", p.name, endedWith(err)))
		}
	}()
	return nil
}

func endedWith(err error) error {
	if err == nil {
		return fmt.Errorf("exit status 0")
	}
	return err
}

// stop returns when the process has ended. One that does not end when asked is killed.
func (p *process) stop() {
	p.mu.Lock()
	cmd, ended := p.cmd, p.ended
	p.cmd = nil
	p.mu.Unlock()
	if cmd == nil {
		return
	}
	for _, s := range []os.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		_ = cmd.Process.Signal(s) // it may have ended just now
		select {
		case <-ended:
			return
		case <-time.After(10 * time.Second):
		}
	}
}
