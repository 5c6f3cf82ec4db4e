package leak

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// pipes are pipes that nobody reads from. What waits in them stands in pages of the kernel.
type pipes struct {
	each uint64 // how much a pipe holds
	// open are the pipes' two ends, in the order in which they were made; all but the last are full.
	open [][2]int
	used uint64
	data []byte
}

// newPipes finds out how much a pipe may hold, and whether enough of them may be had.
func newPipes(w *Watcher, most uint64) (*pipes, error) {
	fs := filepath.Join(w.procfs, "sys", "fs")
	each, err := readNumber(filepath.Join(fs, "pipe-max-size"))
	if err != nil {
		return nil, err
	}
	each = max(pageSize(), each/pageSize()*pageSize())
	// Beyond this a user's pipes hold two pages each, unless the user has one of two capabilities (fs/pipe.c,
	// too_many_pipe_buffers_soft).
	soft := filepath.Join(fs, "pipe-user-pages-soft")
	pages, err := readNumber(soft)
	if err == nil && pages > 0 && most > pages*pageSize() && !hasCapability(unix.CAP_SYS_RESOURCE) && !hasCapability(unix.CAP_SYS_ADMIN) {
		return nil, fmt.Errorf("a user's pipes hold %s (%s): take less, raise that, or run it as root", sizeText(pages*pageSize()), soft)
	}
	return &pipes{each: each}, mayOpen(2 * (most/each + 1))
}

func (p *pipes) grow(n uint64) error {
	if p.data == nil {
		p.data = make([]byte, 64<<10)
	}
	for n > 0 {
		if p.used == uint64(len(p.open))*p.each {
			var ends [2]int
			if err := unix.Pipe2(ends[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
				return filesError("pipe2", err)
			}
			if _, err := unix.FcntlInt(uintptr(ends[1]), unix.F_SETPIPE_SZ, int(p.each)); err != nil {
				_, _ = unix.Close(ends[0]), unix.Close(ends[1])
				return &os.SyscallError{Syscall: "fcntl(F_SETPIPE_SZ)", Err: err}
			}
			p.open = append(p.open, ends)
		}
		room := uint64(len(p.open))*p.each - p.used
		written, err := unix.Write(p.open[len(p.open)-1][1], p.data[:min(n, room, uint64(len(p.data)))])
		if err != nil {
			return &os.SyscallError{Syscall: "write to a pipe", Err: err}
		}
		p.used += uint64(written)
		n -= uint64(written)
	}
	return nil
}

func (p *pipes) shrink(n uint64) error {
	for n > 0 && len(p.open) > 0 {
		last := len(p.open) - 1
		held := p.used - uint64(last)*p.each
		part := min(n, held)
		if part == held {
			_, _ = unix.Close(p.open[last][0]), unix.Close(p.open[last][1]) // what was written goes with them
			p.open = p.open[:last]
		} else if err := p.drain(p.open[last][0], part); err != nil {
			return err
		}
		p.used -= part
		n -= part
	}
	return nil
}

func (p *pipes) drain(end int, n uint64) error {
	for n > 0 {
		got, err := unix.Read(end, p.data[:min(n, uint64(len(p.data)))])
		if err != nil {
			return &os.SyscallError{Syscall: "read from a pipe", Err: err}
		}
		n -= uint64(got)
	}
	return nil
}

func (p *pipes) touched() uint64 { return p.used }
func (p *pipes) touch() error    { return nil }
func (p *pipes) close() error    { return p.shrink(p.used) }

// sockets are TCP connections of the process with itself, over the loopback device, that nobody reads from. What waits in
// them stands in socket buffers, which TCP charges to the cgroup.
type sockets struct {
	listener int
	// open are the two ends of each connection; the first writes.
	open []connection
	data []byte
}

type connection struct {
	from, to int
	bytes    uint64
}

// socketPart is what is sent at once: as much as one socket buffer holds.
const socketPart = 64 << 10

// perConnection is what a connection surely holds: a part of net.ipv4.tcp_rmem's and tcp_wmem's largest sizes, 6 and 4 MiB by
// default. How much it does hold is up to the kernel; a full one is left for another.
const perConnection = 2 << 20

// newSockets listens on the loopback device.
func newSockets(most uint64) (*sockets, error) {
	if err := mayOpen(2 * (most/perConnection + 1)); err != nil {
		return nil, err
	}
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, &os.SyscallError{Syscall: "socket", Err: err}
	}
	loopback := &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}
	if err := errors.Join(unix.Bind(s, loopback), unix.Listen(s, 1)); err != nil {
		_ = unix.Close(s)
		return nil, fmt.Errorf("listening on 127.0.0.1: %w", err)
	}
	out := &sockets{listener: s}
	if err := out.connect(); err != nil { // a loopback device that is down shows here
		_ = out.close()
		return nil, err
	}
	return out, nil
}

func (s *sockets) connect() error {
	address, err := unix.Getsockname(s.listener)
	if err != nil {
		return &os.SyscallError{Syscall: "getsockname", Err: err}
	}
	from, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return filesError("socket", err)
	}
	if err := unix.Connect(from, address); err != nil {
		_ = unix.Close(from)
		return fmt.Errorf("connecting to 127.0.0.1: %w; the loopback device has to be up", err)
	}
	to, _, err := unix.Accept4(s.listener, unix.SOCK_CLOEXEC)
	if err != nil {
		_ = unix.Close(from)
		return filesError("accept", err)
	}
	s.open = append(s.open, connection{from: from, to: to})
	return nil
}

func (s *sockets) grow(n uint64) error {
	if s.data == nil {
		s.data = make([]byte, socketPart)
	}
	for n > 0 {
		if len(s.open) == 0 {
			if err := s.connect(); err != nil {
				return err
			}
		}
		last := &s.open[len(s.open)-1]
		sent, err := unix.SendmsgN(last.from, s.data[:min(n, socketPart)], nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		switch {
		case err == nil:
			last.bytes += uint64(sent)
			n -= uint64(sent)
		case errors.Is(err, unix.EAGAIN) && last.bytes > 0:
			if err := s.connect(); err != nil {
				return err
			}
		default:
			return &os.SyscallError{Syscall: "sendmsg", Err: err}
		}
	}
	return nil
}

func (s *sockets) shrink(n uint64) error {
	for n > 0 && len(s.open) > 0 {
		last := &s.open[len(s.open)-1]
		if n >= last.bytes {
			n -= last.bytes
			s.hangUp()
			continue
		}
		got, _, err := unix.Recvfrom(last.to, s.data[:min(n, socketPart)], 0)
		if err != nil {
			return &os.SyscallError{Syscall: "recvfrom", Err: err}
		}
		last.bytes -= uint64(got)
		n -= uint64(got)
	}
	return nil
}

// hangUp ends the last connection. Its end that was written to is closed first: with data unread it resets the connection,
// so that neither end waits for the other.
func (s *sockets) hangUp() {
	last := s.open[len(s.open)-1]
	_, _ = unix.Close(last.to), unix.Close(last.from)
	s.open = s.open[:len(s.open)-1]
}

func (s *sockets) touched() (n uint64) {
	for _, c := range s.open {
		n += c.bytes
	}
	return n
}

func (s *sockets) touch() error { return nil }

func (s *sockets) close() error {
	for len(s.open) > 0 {
		s.hangUp()
	}
	return unix.Close(s.listener)
}
