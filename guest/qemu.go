package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// guest is a machine that is booted once, for one program.
type guest struct {
	kernel    string   // the image's file
	cgroup    string   // v1 or v2
	memoryMiB int      // what the machine has
	init      string   // this command's file, as process 1
	program   string   // the program's file
	args      []string // its arguments, its name first
	env       []string // its environment
}

// run boots the guest, copies its console to output until it ends, and returns the program's exit status. The error is the
// context's where that ended the guest, and another one where the guest ended without a status: the kernel panicked, or QEMU
// could not run it.
func (g guest) run(ctx context.Context, output io.Writer) (int, error) {
	if _, err := os.Stat(g.kernel); err != nil {
		return 0, fmt.Errorf("no kernel: %w; make deps downloads Debian's", err)
	}
	todo, err := json.Marshal(job{Cgroup: g.cgroup, Args: g.args, Env: g.env})
	if err != nil {
		return 0, err
	}
	archive, err := initramfs(g.init, g.program, todo)
	if err != nil {
		return 0, err
	}
	initrd, err := memoryFile(archive)
	if err != nil {
		return 0, err
	}
	defer initrd.Close()
	statusReader, statusWriter, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer statusReader.Close()
	defer statusWriter.Close()

	cmd := g.qemu(ctx, initrd, statusWriter)
	console := dropCR{output}
	cmd.Stdout, cmd.Stderr = console, console // as one and the same writer, which is not written to twice at once
	runErr := cmd.Run()
	if ctx.Err() != nil {
		return 0, ctx.Err()
	}
	statusWriter.Close() // QEMU was the other writer
	text, err := io.ReadAll(statusReader)
	if err != nil {
		return 0, err
	}
	status, err := strconv.Atoi(string(bytes.TrimSpace(text)))
	switch {
	case err == nil:
		return status, nil
	case runErr != nil:
		return 0, fmt.Errorf("the guest died before its program ended: qemu: %w", runErr)
	default:
		return 0, fmt.Errorf("the guest died before its program ended, see the kernel's words above")
	}
}

// qemu is the command that boots the guest. It reads the initramfs as its file descriptor 3 and writes what comes from the
// status port to 4.
func (g guest) qemu(ctx context.Context, initrd, status *os.File) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64",
		"-machine", "q35,hpet=off", "-accel", accelerator(), "-cpu", "max", "-smp", "2", "-m", strconv.Itoa(g.memoryMiB),
		"-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
		"-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console",
		"-chardev", "file,id=status,path=/dev/fd/4", "-serial", "chardev:status",
		"-kernel", g.kernel, "-initrd", "/dev/fd/3",
		// A panic reboots at once, which ends QEMU. psi=1 because Debian leaves it off. The rest saves boot time.
		"-append", "console=ttyS0 quiet panic=-1 psi=1 mitigations=off nowatchdog no_timer_check tsc=reliable random.trust_cpu=on")
	cmd.ExtraFiles = []*os.File{initrd, status}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Pdeathsig: syscall.SIGKILL, // also where we are killed
		Setpgid:   true,            // Ctrl-C is for us alone: we end QEMU and say so
	}
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// accelerator is KVM where that works, else QEMU's own emulation. The device alone says little: a virtual machine can have it
// without the processor's help, and a guest then hangs.
func accelerator() string {
	const emulation = "tcg,thread=multi"
	cpuinfo, err := os.ReadFile("/proc/cpuinfo")
	if err != nil || !strings.Contains(string(cpuinfo), " vmx ") && !strings.Contains(string(cpuinfo), " svm ") {
		return emulation
	}
	device, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return emulation
	}
	device.Close()
	return "kvm"
}

// memoryFile is a file that is nowhere on disk and ends with its last descriptor.
func memoryFile(content []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate("initramfs", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("memfd_create: %w", err)
	}
	f := os.NewFile(uintptr(fd), "initramfs")
	if _, err := f.Write(content); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// dropCR leaves out the carriage returns that a serial console sends before its line feeds.
type dropCR struct{ w io.Writer }

func (d dropCR) Write(b []byte) (int, error) {
	if _, err := d.w.Write(bytes.ReplaceAll(b, []byte("\r"), nil)); err != nil {
		return 0, err
	}
	return len(b), nil
}
