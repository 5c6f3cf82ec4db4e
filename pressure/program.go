package pressure

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Enter makes this process a container's program: it moves into the cgroup, takes the oom_score_adj that the kubelet would
// give it, and becomes memrecon with args. A process is charged where it stands, so this comes before anything is allocated;
// what Go's runtime needed until here goes with the old program. Enter returns only where it fails.
func Enter(procfs, dir string, scoreAdj int, args []string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if err := write(dir, "cgroup.procs", "0"); err != nil { // 0 is who writes, in any PID namespace
		return err
	}
	if err := write(filepath.Join(procfs, "self"), "oom_score_adj", strconv.Itoa(scoreAdj)); err != nil {
		return fmt.Errorf("%w: a value below its own takes CAP_SYS_RESOURCE", err)
	}
	// A program that is to die of SIGSEGV would leave all of its memory in a file.
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return err
	}
	// The signal that ends it with its runner (see start) is kept by the thread that it was set for, and exec leaves the calling
	// thread alone: it may be another by now.
	runtime.LockOSThread()
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		return &os.SyscallError{Syscall: "prctl(PR_SET_PDEATHSIG)", Err: err}
	}
	return unix.Exec(self, append([]string{os.Args[0]}, args...), os.Environ())
}

// WriteFile writes a file of size bytes in a volume, without keeping any of it in the process.
func WriteFile(volume string, size int64) error {
	f, err := os.Create(filepath.Join(volume, "data"))
	if err != nil {
		return err
	}
	defer f.Close()
	block := bytes.Repeat([]byte{1}, 64<<10)
	for size > 0 {
		n, err := f.Write(block[:min(size, int64(len(block)))])
		if err != nil {
			return err
		}
		size -= int64(n)
	}
	return nil
}

// volumes are the tmpfs of a pod. They are mounted nowhere: a mount that nobody attached lives as long as its file
// descriptor, so nothing is left of it however the run ends.
type volumes struct {
	names []string
	files []*os.File
}

// firstFD is the number that a program finds the first of its extra files at (os/exec).
const firstFD = 3

func newVolumes(wanted []Volume) (*volumes, error) {
	v := new(volumes)
	for _, w := range wanted {
		f, err := newTmpfs(w.SizeLimit.Bytes())
		if err != nil {
			v.close()
			return nil, fmt.Errorf("volume %s: %w: mounting a tmpfs takes CAP_SYS_ADMIN and Linux 5.2", w.Name, err)
		}
		v.names, v.files = append(v.names, w.Name), append(v.files, f)
	}
	return v, nil
}

func newTmpfs(size int64) (*os.File, error) {
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("fsopen: %w", err)
	}
	defer func() { _ = unix.Close(fs) }() // the mount has its own
	if err := unix.FsconfigSetString(fs, "size", strconv.FormatInt(size, 10)); err != nil {
		return nil, fmt.Errorf("tmpfs of %d bytes: %w", size, err)
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return nil, fmt.Errorf("fsconfig: %w", err)
	}
	mount, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("fsmount: %w", err)
	}
	return os.NewFile(uintptr(mount), "tmpfs"), nil
}

// path is where a program finds a volume.
func (v *volumes) path(procfs, name string) string {
	for i, n := range v.names {
		if n == name {
			return filepath.Join(procfs, "self", "fd", strconv.Itoa(firstFD+i))
		}
	}
	return ""
}

func (v *volumes) close() {
	for _, f := range v.files {
		_ = f.Close()
	}
}

// program is a container's process.
type program struct {
	ref  string
	cmd  *exec.Cmd
	said *tail
}

// start starts a container's program. The calling goroutine must keep its thread: the kernel ends the program when the thread
// that started it ends, as it does when this process is killed.
func (r *run) start(c *PlannedContainer, v *volumes) (*program, error) {
	args := c.Args
	if c.volume != "" {
		args = append(args[:len(args)-1:len(args)-1], v.path(r.config.Procfs, c.volume))
	}
	enter := append([]string{
		"pressure", "enter", "--path.procfs=" + r.config.Procfs, "--cgroup=" + r.tree.dir("/"+c.Ref),
		"--oom-score-adj=" + strconv.Itoa(c.ScoreAdj), "--",
	}, args...)
	p := &program{ref: c.Ref, cmd: exec.Command(r.config.Executable, enter...), said: new(tail)}
	p.cmd.Stderr = p.said
	p.cmd.ExtraFiles = v.files
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("%s: %w", c.Ref, err)
	}
	return p, nil
}

// wait is how the program ended.
func (p *program) wait() (syscall.WaitStatus, error) {
	err := p.cmd.Wait()
	if _, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
		return 0, err
	}
	status, _ := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	return status, nil
}

// signalName is a signal as kill -l writes it, such as SIGSEGV.
func signalName(s syscall.Signal) string { return unix.SignalName(s) }

// tail keeps the last line that was written to it.
type tail struct{ line []byte }

const maxTail = 1 << 10

var _ io.Writer = (*tail)(nil)

func (t *tail) Write(b []byte) (int, error) {
	t.line = append(t.line, b...)
	if i := bytes.LastIndexByte(bytes.TrimRight(t.line, "\n"), '\n'); i >= 0 {
		t.line = append([]byte(nil), t.line[i+1:]...)
	}
	t.line = t.line[max(0, len(t.line)-maxTail):]
	return len(b), nil
}

func (t *tail) String() string { return strings.TrimSpace(string(t.line)) }
