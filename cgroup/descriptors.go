package cgroup

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// descriptors counts the file descriptors that are kept open between sweeps. Where there is no room for more, a file is
// opened for each read.
type descriptors struct {
	limit, kept int
	// short tells that the limit was met.
	short bool
}

// reserved file descriptors are left to the rest of the process.
const reserved = 256

// newDescriptors takes the limit from RLIMIT_NOFILE where none is given.
func newDescriptors(limit int) descriptors {
	if limit > 0 {
		return descriptors{limit: limit}
	}
	var r unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &r); err != nil {
		return descriptors{limit: reserved}
	}
	open := int(min(r.Cur, 1<<30))
	return descriptors{limit: max(open-reserved, open/2)}
}

// keep tells that one more may be kept open, and counts it.
func (d *descriptors) keep() bool {
	if d.kept >= d.limit {
		d.short = true
		return false
	}
	d.kept++
	return true
}

// close closes a kept descriptor and forgets it.
func (d *descriptors) close(fd *int) {
	if *fd >= 0 {
		_ = unix.Close(*fd) // nothing was written
		*fd = none
		d.kept--
	}
}

// has tells that a folder has a file.
func has(dir int, name string) bool {
	return unix.Faccessat(dir, name, unix.F_OK, 0) == nil
}

// openat and pread are the system calls without what allocates: a path is bytes with their NUL, an error is a number.

func openat(dir int, path []byte, flags int) (int, unix.Errno) {
	for {
		fd, _, errno := unix.Syscall6(unix.SYS_OPENAT, uintptr(dir), uintptr(unsafe.Pointer(&path[0])),
			uintptr(flags|unix.O_CLOEXEC), 0, 0, 0)
		if errno == 0 {
			return int(fd), 0
		}
		if errno != unix.EINTR {
			return none, errno
		}
	}
}

func pread(fd int, buf []byte) (int, unix.Errno) {
	for {
		n, _, errno := unix.Syscall6(unix.SYS_PREAD64, uintptr(fd), uintptr(unsafe.Pointer(&buf[0])),
			uintptr(len(buf)), 0, 0, 0)
		if errno == 0 {
			return int(n), 0
		}
		if errno != unix.EINTR {
			return 0, errno
		}
	}
}
