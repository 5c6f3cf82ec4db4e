package cgroup

import (
	"bytes"
	"encoding/binary"
	"sync"

	"golang.org/x/sys/unix"
)

// notifier is an inotify instance. It reads what has changed once, hands it over, and reads again when it is told to: what changes
// meanwhile the kernel keeps. It waits in a thread of its own and not in Go's poller, which would wake up for every change.
type notifier struct {
	fd      int
	closing int // an eventfd that ends the waiting
	changes chan []change
	again   chan struct{}
	closed  chan struct{}
	reading sync.WaitGroup
}

// change is a file that was modified, or a folder that something was made in.
type change struct {
	// wd is the watch descriptor, none where the kernel's queue was full (fs.inotify.max_queued_events) and changes were lost.
	// The kernel uses none twice.
	wd int32
	// name is what was made.
	name string
}

// newNotifier makes an instance. EMFILE means that there is none left for this user, or no file descriptor for this process.
func newNotifier() (*notifier, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, err
	}
	closing, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		_ = unix.Close(fd) // nothing was written
		return nil, err
	}
	n := &notifier{
		fd: fd, closing: closing,
		changes: make(chan []change), again: make(chan struct{}, 1), closed: make(chan struct{}),
	}
	n.reading.Go(n.read)
	return n, nil
}

func (n *notifier) close() {
	close(n.closed)
	_, _ = unix.Write(n.closing, []byte{1, 0, 0, 0, 0, 0, 0, 0}) // it takes any number but zero
	n.reading.Wait()
	_ = unix.Close(n.fd)
	_ = unix.Close(n.closing)
}

// more asks for the changes after those that were handed over.
func (n *notifier) more() { n.again <- struct{}{} }

// add watches a file or folder. A file that is watched already keeps its descriptor.
func (n *notifier) add(path string, mask uint32) (int32, error) {
	wd, err := unix.InotifyAddWatch(n.fd, path, mask)
	return int32(wd), err
}

// remove ends a watch.
func (n *notifier) remove(wd int32) {
	_, _ = unix.InotifyRmWatch(n.fd, uint32(wd)) // with its folder gone, it may have ended already
}

func (n *notifier) read() {
	buf := make([]byte, 32<<10)
	for n.wait() {
		length, err := unix.Read(n.fd, buf)
		if err != nil { // EAGAIN or EINTR
			continue
		}
		select {
		case n.changes <- parseChanges(buf[:length]):
		case <-n.closed:
			return
		}
		select {
		case <-n.again:
		case <-n.closed:
			return
		}
	}
}

// wait waits for a change, and is false where there is nothing more to wait for.
func (n *notifier) wait() bool {
	fds := []unix.PollFd{{Fd: int32(n.fd), Events: unix.POLLIN}, {Fd: int32(n.closing), Events: unix.POLLIN}}
	for {
		_, err := unix.Poll(fds, -1)
		if err != unix.EINTR {
			return err == nil && fds[1].Revents == 0
		}
	}
}

// The layout of struct inotify_event: wd, mask, cookie, the length of the name, and the name, with NULs at its end.
const eventHeader = 16

// parseChanges reads what inotify wrote, the same change once.
func parseChanges(b []byte) (changes []change) {
	seen := map[change]bool{}
	for len(b) >= eventHeader {
		mask, length := binary.NativeEndian.Uint32(b[4:]), binary.NativeEndian.Uint32(b[12:])
		end := eventHeader + int(length)
		if end > len(b) {
			break
		}
		name, _, _ := bytes.Cut(b[eventHeader:end], []byte{0})
		c := change{wd: int32(binary.NativeEndian.Uint32(b)), name: string(name)}
		b = b[end:]
		if mask&unix.IN_IGNORED == 0 && !seen[c] {
			seen[c] = true
			changes = append(changes, c)
		}
	}
	return changes
}
