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

	"github.com/memrecon/memrecon/internal/qemu"
)

// guest is a machine that is booted once, for one program.
type guest struct {
	kernel    string   // the image's file
	cgroup    string   // v1 or v2
	memoryMiB int      // what the machine has
	diskMiB   int      // the size of its disk, 0 for none
	append    string   // what the kernel's command line has besides
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
	todo, err := json.Marshal(job{Cgroup: g.cgroup, Disk: g.diskMiB > 0, Args: g.args, Env: g.env})
	if err != nil {
		return 0, err
	}
	initrd, err := initramfs(g.init, g.program, todo)
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
	if g.diskMiB > 0 {
		disk, err := newDisk(g.diskMiB)
		if err != nil {
			return 0, err
		}
		defer disk.Close()
		addDisk(cmd, disk)
	}
	console := qemu.DropCR{W: output}
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

// qemu is the command that boots the guest. It writes what comes from the status port to its file descriptor 4.
func (g guest) qemu(ctx context.Context, initrd, status *os.File) *exec.Cmd {
	cmd := qemu.Machine{
		Kernel:    g.kernel,
		Initramfs: initrd,
		MemoryMiB: g.memoryMiB,
		Append:    g.append,
		Args: []string{
			"-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console",
			"-chardev", "file,id=status,path=/dev/fd/4", "-serial", "chardev:status",
		},
	}.Command(ctx)
	cmd.ExtraFiles = append(cmd.ExtraFiles, status)
	return cmd
}
