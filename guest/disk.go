package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strconv"

	"golang.org/x/sys/unix"
)

// diskDevice is the guest's disk. NVMe and ext4 are the two of their kind that Debian's kernel has without modules.
const diskDevice = "/dev/nvme0n1"

// newDisk makes an empty ext4 in a file that is nowhere on a disk itself.
func newDisk(sizeMiB int) (*os.File, error) {
	fd, err := unix.MemfdCreate("disk", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("memfd_create: %w", err)
	}
	disk := os.NewFile(uintptr(fd), "disk")
	if err := disk.Truncate(int64(sizeMiB) << 20); err != nil {
		disk.Close()
		return nil, err
	}
	mke2fs, err := exec.LookPath("mke2fs")
	if err != nil {
		mke2fs = "/sbin/mke2fs" // where it is installed, and not in every PATH
	}
	mkfs := exec.Command(mke2fs, "-q", "-F", "-t", "ext4", "-O", "^has_journal", "-E", "assume_storage_prezeroed=1,nodiscard", "/dev/fd/3")
	mkfs.ExtraFiles = []*os.File{disk}
	if out, err := mkfs.CombinedOutput(); err != nil {
		disk.Close()
		return nil, fmt.Errorf("mke2fs: %w: %s", err, bytes.TrimSpace(out))
	}
	return disk, nil
}

// addDisk hands a disk to QEMU.
func addDisk(qemu *exec.Cmd, disk *os.File) {
	const firstFD = 3 // os/exec's
	file := "/dev/fd/" + strconv.Itoa(firstFD+len(qemu.ExtraFiles))
	qemu.ExtraFiles = append(qemu.ExtraFiles, disk)
	qemu.Args = append(qemu.Args, "-drive", "if=none,id=disk,format=raw,cache=unsafe,file="+file, "-device", "nvme,serial=disk,drive=disk")
}
