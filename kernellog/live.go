package kernellog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// Live is the running kernel's log. It is for one goroutine at a time.
type Live struct {
	// Name is the interface that it is read by, /dev/kmsg or syslog(2).
	Name   string
	source source
}

// source is one of the kernel's two interfaces to its log.
type source interface {
	// read hands over the lines that have come since the last read, and says what was lost before it could be read, "" for nothing.
	read(line func([]byte)) (lost string, err error)
	// wait returns when there may be more to read, after a time, or when somebody wakes it, which it tells.
	wait(most time.Duration, wake <-chan struct{}) (woken bool, err error)
	close() error
}

// Open opens the kernel's log: /dev/kmsg, whose path is given, where it may be opened, else syslog(2). The first needs the device,
// which a container only has where it is privileged, and CAP_SYSLOG where kernel.dmesg_restrict is 1; the second CAP_SYSLOG alone
// (or dmesg_restrict 0). /proc/kmsg is never read: whoever reads it takes the lines away from others.
func Open(kmsgPath string) (*Live, error) {
	k, kmsgErr := openKmsg(kmsgPath)
	if kmsgErr == nil {
		return &Live{Name: kmsgPath, source: k}, nil
	}
	r, ringErr := openRing()
	if ringErr == nil {
		return &Live{Name: "syslog(2)", source: r}, nil
	}
	return nil, fmt.Errorf("the kernel's log may not be read: %w; %w: run memrecon as root with the capability SYSLOG (in a pod: "+
		"runAsUser 0 and securityContext.capabilities.add: [SYSLOG]), or give it a copy with --kernel-log", kmsgErr, ringErr)
}

// Close closes it.
func (l *Live) Close() error { return l.source.close() }

// Read hands the Parser what the log holds now, from its oldest line at the first time, and then what has come since. It says what
// was lost before it could be read, "" for nothing.
func (l *Live) Read(p *Parser) (lost string, err error) {
	if err := p.setBoot(); err != nil {
		return "", err
	}
	lost, err = l.source.read(p.Line)
	if err != nil {
		return lost, fmt.Errorf("%s: %w", l.Name, err)
	}
	return lost, nil
}

// quiet is how long after the last line a kill is handed out: the lines about it come within milliseconds.
const quiet = 50 * time.Millisecond

// late is how long after a kill was counted its lines are waited for: the kernel writes them a moment later, on a slow console too.
const late = 200 * time.Millisecond

// Follow hands the Parser what the log holds and what comes until the context ends, and has it hand out its kills when the log
// is quiet. syslog(2) cannot tell that there is something new: it is asked every so often, and when wake says that a kill was
// counted. What was lost is told to lost.
func (l *Live) Follow(ctx context.Context, p *Parser, every time.Duration, wake <-chan struct{}, lost func(what string)) error {
	seen := p.Lines()
	var expected time.Time // until then
	for ctx.Err() == nil {
		what, err := l.Read(p)
		if what != "" {
			lost(what)
		}
		if err != nil {
			return err
		}
		isNew := p.Lines() != seen
		if isNew {
			seen, expected = p.Lines(), time.Time{} // these are they
		} else {
			p.Flush()
		}
		most := every
		if isNew || time.Now().Before(expected) {
			most = min(quiet, every)
		}
		woken, err := l.source.wait(most, wake)
		if err != nil {
			return fmt.Errorf("%s: %w", l.Name, err)
		}
		if woken {
			expected = time.Now().Add(late)
		}
	}
	p.Flush()
	return nil
}

// setBoot tells the Parser the wall clock at the kernel's time zero. Its stamps are of a clock that, as CLOCK_MONOTONIC, does not
// run while the machine sleeps, and stays within some 20 ms of it; the wall clock may be set meanwhile.
func (p *Parser) setBoot() error {
	var monotonic, wall unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &monotonic); err != nil {
		return fmt.Errorf("clock_gettime: %w", err)
	}
	if err := unix.ClockGettime(unix.CLOCK_REALTIME, &wall); err != nil {
		return fmt.Errorf("clock_gettime: %w", err)
	}
	p.boot = time.Unix(0, wall.Nano()-monotonic.Nano())
	return nil
}

// kmsg is /dev/kmsg (Documentation/ABI/testing/dev-kmsg).
type kmsg struct {
	fd  int
	buf []byte
	// next is the sequence number that the next record has if none is lost; valid with started.
	next    uint64
	started bool
}

// maxRecord is what the kernel needs at most for a record with its dictionary (PRINTKRB_RECORD_MAX, CONSOLE_EXT_LOG_MAX before);
// to less it answers EINVAL.
const maxRecord = 8 << 10

func openKmsg(path string) (*kmsg, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	k := &kmsg{fd: fd, buf: make([]byte, maxRecord)}
	// Some sandboxes have a /dev/kmsg that opens and cannot be read.
	if _, err := unix.Seek(fd, 0, unix.SEEK_SET); err != nil {
		_ = k.close()
		return nil, fmt.Errorf("seek %s: %w", path, err)
	}
	return k, nil
}

// read reads record by record. Where the kernel has overwritten the next one it answers EPIPE once and goes on with the oldest
// that it has; the sequence numbers tell how many are missing.
func (k *kmsg) read(line func([]byte)) (lost string, err error) {
	var missing uint64
	for {
		n, err := unix.Read(k.fd, k.buf)
		switch {
		case errors.Is(err, unix.EAGAIN) || err == nil && n == 0:
			if missing > 0 {
				lost = fmt.Sprintf("%d records of the kernel's log were overwritten before they were read", missing)
			}
			return lost, nil
		case errors.Is(err, unix.EINTR) || errors.Is(err, unix.EPIPE):
			continue
		case err != nil:
			return lost, err
		}
		record, _, _ := bytes.Cut(k.buf[:n], []byte{'\n'}) // the dictionary stands in the lines behind
		if sequence, ok := sequenceOf(record); ok {
			if k.started && sequence > k.next {
				missing += sequence - k.next
			}
			k.next, k.started = sequence+1, true
		}
		line(record)
	}
}

// sequenceOf is the second number of a record.
func sequenceOf(record []byte) (uint64, bool) {
	_, rest, ok := number(record)
	if !ok || !hasByte(rest, ',') {
		return 0, false
	}
	sequence, _, ok := number(rest[1:])
	return sequence, ok
}

// wait needs nobody to wake it.
func (k *kmsg) wait(most time.Duration, _ <-chan struct{}) (woken bool, err error) {
	_, err = unix.Poll([]unix.PollFd{{Fd: int32(k.fd), Events: unix.POLLIN}}, int(most.Milliseconds()))
	if errors.Is(err, unix.EINTR) {
		return false, nil
	}
	return false, err
}

func (k *kmsg) close() error { return unix.Close(k.fd) }

// ring is syslog(2), which gives the whole of the kernel's buffer, or as much of its end as is asked for.
type ring struct {
	buf []byte
	// last is the last line that was read. Lines have the time in microseconds, so there is hardly another of the same.
	last []byte
}

func openRing() (*ring, error) {
	size, err := unix.Klogctl(unix.SYSLOG_ACTION_SIZE_BUFFER, nil)
	if err == nil {
		_, err = unix.Klogctl(unix.SYSLOG_ACTION_READ_ALL, make([]byte, 1)) // the size is not secret, the lines are
	}
	if err != nil {
		return nil, fmt.Errorf("syslog(2): %w", err)
	}
	return &ring{buf: make([]byte, 2*size)}, nil // lines have their times in front here, which the buffer holds as numbers
}

// usualTail is as much of the log's end as is asked for first: the kernel puts what it gives into words anew each time.
const usualTail = 16 << 10

// read hands over what stands behind the last line of the time before. It asks for more and more of the log's end until that is in it.
func (r *ring) read(line func([]byte)) (lost string, err error) {
	size := len(r.buf)
	if r.last != nil {
		size = min(size, usualTail)
	}
	var fresh []byte
	for {
		n, err := unix.Klogctl(unix.SYSLOG_ACTION_READ_ALL, r.buf[:size])
		if err != nil {
			return "", err
		}
		fresh = r.buf[:n]
		if r.last == nil {
			break
		}
		if i := bytes.LastIndex(fresh, r.last); i >= 0 {
			fresh = fresh[i+len(r.last):]
			break
		}
		if size == len(r.buf) {
			lost = "the kernel has overwritten its log since it was last read: records are lost"
			break
		}
		size = min(4*size, len(r.buf))
	}
	for l := range bytes.Lines(fresh) {
		line(l)
		r.last = append(r.last[:0], l...)
	}
	return lost, nil
}

func (r *ring) wait(most time.Duration, wake <-chan struct{}) (woken bool, err error) {
	timer := time.NewTimer(most)
	defer timer.Stop()
	select {
	case <-wake:
		return true, nil
	case <-timer.C:
		return false, nil
	}
}

func (r *ring) close() error { return nil }
