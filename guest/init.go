package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// job is what the guest is to do.
type job struct {
	// Cgroup is the version to mount with all controllers: v1 or v2.
	Cgroup string
	// Disk tells that there is one.
	Disk bool
	// Args are the program's arguments, its name first.
	Args []string
	// Env is its environment.
	Env []string
}

// The guest's serial ports: the console, which shows what kernel and program print, and the one that only carries the
// program's exit status, so that no output can be taken for it.
const (
	console    = "/dev/console"
	statusPort = "/dev/ttyS1"
)

// initMain is the guest's process 1. It returns only where it fails; the kernel then ends the guest with a panic, and the
// host sees one that ended without a status.
func initMain() error {
	if err := mountAll(); err != nil {
		return err
	}
	text, err := os.ReadFile("/job")
	if err != nil {
		return err
	}
	var j job
	if err := json.Unmarshal(text, &j); err != nil {
		return fmt.Errorf("/job: %w", err)
	}
	if err := mountCgroups(j.Cgroup, "/sys/fs/cgroup"); err != nil {
		return err
	}
	if j.Disk {
		if err := mountDisk(); err != nil {
			return err
		}
	}
	if err := loopbackUp(); err != nil {
		return fmt.Errorf("loopback device: %w", err)
	}
	status, err := runProgram(j)
	if err != nil {
		return err
	}
	if err := drain(console); err != nil {
		return err
	}
	if err := os.WriteFile(statusPort, fmt.Appendf(nil, "%d\n", status), 0); err != nil {
		return err
	}
	if err := drain(statusPort); err != nil {
		return err
	}
	return unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART) // QEMU runs with -no-reboot: this ends it
}

func mountAll() error {
	return errors.Join(
		mount("proc", "proc", "/proc", ""),
		mount("sys", "sysfs", "/sys", ""),
		mount("dev", "devtmpfs", "/dev", ""),
		mount("tmp", "tmpfs", "/tmp", ""),
	)
}

// loopbackUp brings the loopback device up.
func loopbackUp() error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(s) }()
	request, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	request.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, request)
}

// mountDisk waits for the disk, which the kernel looks for while it goes on.
func mountDisk() error {
	const patience, pause = 20 * time.Second, 10 * time.Millisecond
	for began := time.Now(); time.Since(began) < patience; time.Sleep(pause) {
		if _, err := os.Stat(diskDevice); err == nil {
			break
		}
	}
	return mount(diskDevice, "ext4", "/var/tmp", "")
}

func mount(source, fstype, target, options string) error {
	if err := unix.Mount(source, target, fstype, 0, options); err != nil {
		return fmt.Errorf("mount %s: %w", target, err)
	}
	return nil
}

// mountCgroups mounts all controllers as systemd does: v2 as one hierarchy that hands them down, v1 as one each.
func mountCgroups(version, root string) error {
	if version == "v2" {
		if err := mount("cgroup2", "cgroup2", root, "nsdelegate,memory_recursiveprot"); err != nil {
			return err
		}
		controllers, err := os.ReadFile(filepath.Join(root, "cgroup.controllers"))
		if err != nil {
			return err
		}
		enable := "+" + strings.Join(strings.Fields(string(controllers)), " +")
		return os.WriteFile(filepath.Join(root, "cgroup.subtree_control"), []byte(enable), 0)
	}
	if err := mount("cgroup", "tmpfs", root, "mode=755"); err != nil {
		return err
	}
	known, err := os.ReadFile("/proc/cgroups") // "#subsys_name hierarchy num_cgroups enabled", then a line a controller
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(known)) {
		fields := strings.Fields(line)
		if len(fields) != 4 || fields[3] != "1" {
			continue
		}
		dir := filepath.Join(root, fields[0])
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
		if err := mount("cgroup", "cgroup", dir, fields[0]); err != nil {
			return err
		}
	}
	return nil
}

// runProgram runs the program and returns its exit status, 128 and the signal where one ended it, as shells do. It also
// reaps the orphans that are process 1's to reap.
func runProgram(j job) (int, error) {
	p, err := os.StartProcess("/program", j.Args, &os.ProcAttr{
		Dir:   "/tmp",
		Env:   j.Env,
		Files: []*os.File{os.Stdin, os.Stdout, os.Stderr},
	})
	if err != nil {
		return 0, err
	}
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return 0, fmt.Errorf("wait4: %w", err)
		case pid == p.Pid && status.Signaled():
			fmt.Printf("guest: the program was ended by signal %d, %s\n", status.Signal(), status.Signal())
			return 128 + int(status.Signal()), nil
		case pid == p.Pid && status.Exited():
			return status.ExitStatus(), nil
		}
	}
}

// drain waits until a serial port has sent everything: a reset drops what it still holds.
func drain(port string) error {
	f, err := os.OpenFile(port, os.O_WRONLY|unix.O_NOCTTY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	const afterOutput = 1 // TCSBRK with an argument other than 0 is tcdrain(3)
	if err := unix.IoctlSetInt(int(f.Fd()), unix.TCSBRK, afterOutput); err != nil {
		return fmt.Errorf("%s: TCSBRK: %w", port, err)
	}
	return nil
}
