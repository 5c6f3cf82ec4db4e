// Package qemu is what the project's two kinds of guests have in common: guest, which runs one test binary, and e2e/lab, whose
// guest is a Kubernetes node. It knows how a machine is booted and nothing of what runs in it.
package qemu

import (
	"bytes"
	"context"
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

// Machine is a guest to boot.
type Machine struct {
	// Kernel is the image's file.
	Kernel string
	// Initramfs is handed to QEMU as its file descriptor 3.
	Initramfs *os.File
	// MemoryMiB is what the machine has.
	MemoryMiB int
	// Append goes behind the kernel's command line.
	Append string
	// Args are QEMU's further arguments, the machine's devices: it has none but processors and memory.
	Args []string
}

// Command is the QEMU that is the machine. It ends with the thread that starts it and when the guest reboots.
func (m Machine) Command(ctx context.Context) *exec.Cmd {
	args := []string{
		"-machine", "q35,hpet=off", "-accel", accelerator(), "-cpu", "max", "-smp", "2", "-m", strconv.Itoa(m.MemoryMiB),
		"-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
		"-kernel", m.Kernel, "-initrd", "/dev/fd/3",
		// A panic reboots at once, which ends QEMU. psi=1 because Debian leaves it off. The rest saves boot time.
		"-append", "console=ttyS0 quiet panic=-1 psi=1 mitigations=off nowatchdog no_timer_check tsc=reliable random.trust_cpu=on " + m.Append,
	}
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", append(args, m.Args...)...)
	cmd.ExtraFiles = []*os.File{m.Initramfs}
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

// DropCR leaves out the carriage returns that a serial console sends before its line feeds.
type DropCR struct{ W io.Writer }

func (d DropCR) Write(b []byte) (int, error) {
	if _, err := d.W.Write(bytes.ReplaceAll(b, []byte("\r"), nil)); err != nil {
		return 0, err
	}
	return len(b), nil
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
