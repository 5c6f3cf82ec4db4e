package leak

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Death is how a program ends that fails at a cap of its own.
type Death struct {
	// Signal that ends it; 0 for an exit.
	Signal unix.Signal
	// Status of the exit.
	Status int
}

// ParseDeath reads SIGSEGV, SIGABRT or exit:N.
func ParseDeath(s string) (Death, error) {
	if number, ok := strings.CutPrefix(s, "exit:"); ok {
		n, err := strconv.Atoi(number)
		if err != nil || n < 0 || n > 255 {
			return Death{}, fmt.Errorf("%q: an exit status is a number from 0 to 255", s)
		}
		return Death{Status: n}, nil
	}
	for _, signal := range []unix.Signal{unix.SIGSEGV, unix.SIGABRT} {
		if s == unix.SignalName(signal) {
			return Death{Signal: signal}, nil
		}
	}
	return Death{}, fmt.Errorf("%q is no way to die: SIGSEGV, SIGABRT or exit:N", s)
}

func (d Death) String() string {
	if d.Signal == 0 {
		return "exit status " + strconv.Itoa(d.Status)
	}
	return unix.SignalName(d.Signal)
}

// die ends the process so, without a core dump. The first process of a container gets no signal from itself: there it is an
// exit with the status that stands for the signal, 128 and its number, as runtimes report it.
func (d Death) die() {
	if d.Signal != 0 {
		_ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
		var byDefault [64]byte // a struct sigaction of zeros, SIG_DFL; package os/signal can't restore that for these two
		_, _, _ = unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(d.Signal), uintptr(unsafe.Pointer(&byDefault)), 0, 8, 0, 0)
		runtime.KeepAlive(&byDefault)
		_ = unix.Kill(os.Getpid(), d.Signal)
		if os.Getpid() != 1 {
			select {} // the signal is on its way to some thread
		}
		os.Exit(128 + int(d.Signal))
	}
	os.Exit(d.Status)
}

// UnmarshalText is ParseDeath.
func (d *Death) UnmarshalText(b []byte) (err error) {
	*d, err = ParseDeath(string(b))
	return err
}
