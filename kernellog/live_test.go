package kernellog

import (
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/memrecon/memrecon/snapshot"
)

// A gap in the records' sequence numbers is what was lost; the kills on either side are there, and so is the time.
func TestGap(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_NONBLOCK, 0) // a record a read, as the device gives them
	if err != nil {
		t.Fatal(err)
	}
	k := &kmsg{fd: pair[0], buf: make([]byte, maxRecord)}
	live := &Live{Name: "test", source: k}
	t.Cleanup(func() { _ = live.Close(); _ = unix.Close(pair[1]) })
	var kills []*snapshot.Kill
	p := NewParser(func(string) snapshot.Identity { return snapshot.Identity{} }, func(k *snapshot.Kill) { kills = append(kills, k) })
	send := func(record string) {
		if _, err := unix.Write(pair[1], []byte(record)); err != nil {
			t.Fatal(err)
		}
	}
	read := func() string {
		lost, err := live.Read(p)
		if err != nil {
			t.Fatal(err)
		}
		return lost
	}

	send("3,7,1000000,-;Out of memory: Killed process 12 (a) total-vm:4kB, anon-rss:4kB, file-rss:0kB\n SUBSYSTEM=x\n")
	if lost := read(); lost != "" {
		t.Errorf("lost %q", lost)
	}
	send("3,8,2000000,-;Out of memory: Killed process 13 (b) total-vm:4kB, anon-rss:4kB, file-rss:0kB\n")
	send("6,31,3000000,-;Out of memory: Killed process 14 (c) total-vm:4kB, anon-rss:4kB, file-rss:0kB\n")
	if lost := read(); !strings.Contains(lost, "22 records") {
		t.Errorf("lost %q", lost)
	}
	p.End()
	if len(kills) != 3 || p.Lines() != 3 {
		t.Fatalf("%d kills of %d lines", len(kills), p.Lines())
	}
	if d := kills[2].Time.Sub(kills[0].Time); d < 1900*time.Millisecond || d > 2100*time.Millisecond {
		t.Errorf("they are %s apart", d)
	}
}

func TestOpenSaysWhatToDo(t *testing.T) {
	_, err := openKmsg(t.TempDir() + "/kmsg")
	if err == nil || !strings.Contains(err.Error(), "/kmsg: no such file") {
		t.Errorf("%v", err)
	}
}
