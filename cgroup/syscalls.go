package cgroup

import (
	"errors"
	"os"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// openat opens for reading. unix.Openat copies the name for each call; this takes one that ends with a zero byte already.
func openat(dir int, name []byte, flags int) (int, unix.Errno) {
	for {
		fd, _, errno := unix.Syscall6(unix.SYS_OPENAT, uintptr(dir), uintptr(unsafe.Pointer(unsafe.SliceData(name))), //nolint:gosec // ends with a zero byte
			uintptr(unix.O_RDONLY|unix.O_CLOEXEC|flags), 0, 0, 0)
		if errno != unix.EINTR {
			return int(fd), errno
		}
	}
}

// has tells whether a folder has an entry of this name, which ends with a zero byte.
func has(dir int, name string) bool {
	_, _, errno := unix.Syscall(unix.SYS_FACCESSAT, uintptr(dir), uintptr(unsafe.Pointer(unsafe.StringData(name))), unix.F_OK)
	return errno == 0
}

// subfolders are the names of the folders in an open folder, sorted.
func subfolders(fd int) ([]string, error) {
	own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	dir := os.NewFile(uintptr(own), "")
	defer func() { _ = dir.Close() }()
	entries, err := dir.ReadDir(-1)
	if err != nil && len(entries) == 0 {
		return nil, err
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	slices.Sort(names)
	return names, nil
}

func ignoringEINTR(f func() error) error {
	for {
		if err := f(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
