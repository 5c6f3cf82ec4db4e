package collector_test

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/memrecon/memrecon/collector"
	"github.com/memrecon/memrecon/internal/need"
	"github.com/memrecon/memrecon/reconcile"
)

// What the process of TestRealSheet uses.
const (
	tenantAnon  = 32 << 20
	tenantShmem = 8 << 20
)

// TestMain also is that process: it waits until it is in its cgroup, uses the memory, and holds it until its input ends.
func TestMain(m *testing.M) {
	if os.Getenv("MEMRECON_TEST_TENANT") == "" {
		os.Exit(m.Run())
	}
	line := make([]byte, 1)
	_, _ = os.Stdin.Read(line)
	anon, err := unix.Mmap(-1, 0, tenantAnon, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		os.Exit(1)
	}
	for i := 0; i < len(anon); i += os.Getpagesize() {
		anon[i] = 1
	}
	fd, err := unix.MemfdCreate("memrecon-test", unix.MFD_CLOEXEC)
	if err != nil {
		os.Exit(1)
	}
	shmem := os.NewFile(uintptr(fd), "memrecon-test")
	if err := unix.Fallocate(fd, 0, 0, tenantShmem); err != nil { // a buffer to write from would be anonymous memory as well
		os.Exit(1)
	}
	_, _ = os.Stdout.WriteString("ready\n")
	_, _ = os.Stdin.Read(line)
	runtime.KeepAlive(anon)
	runtime.KeepAlive(shmem)
}

// tenant is a process that uses memory in a cgroup of its own, whose path it gives.
func tenant(t *testing.T) string {
	t.Helper()
	path, dir := need.Cgroup(t, "sheet")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), "MEMRECON_TEST_TENANT=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = in.Close(); _ = cmd.Wait() })
	if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(cmd.Process.Pid)), 0); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(in, "\n"); err != nil {
		t.Fatal(err)
	}
	ready := make([]byte, len("ready\n"))
	if _, err := io.ReadFull(out, ready); err != nil {
		t.Fatalf("the process said %q, %v", ready, err)
	}
	return path
}

// On a running kernel the sheet closes, and what a process uses stands in the cells where it belongs.
func TestRealSheet(t *testing.T) {
	owner := tenant(t)
	c, err := collector.Open(collector.Config{Procfs: "/proc", Sysfs: "/sys"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	c.Collect()
	time.Sleep(2500 * time.Millisecond) // the kernel brings memory.stat up to date every 2 s at the latest
	s := c.Collect().Sheet

	columns := s.Columns()
	if columns.Sum() != s.Total || !s.TotalKnown {
		t.Errorf("cells sum to %d, MemTotal is %d", columns.Sum(), s.Total)
	}
	if r := s.ResidualBytes(); r < -s.Skew || r > s.Total/200 {
		t.Errorf("the residual is %d bytes of %d", r, s.Total)
	}
	row, ok := s.Row(owner)
	if !ok {
		t.Fatalf("no row %s", owner)
	}
	own := &s.Rows[row].Own
	if anon := own[reconcile.Anon]; anon < tenantAnon || anon > tenantAnon+24<<20 { // and the Go runtime's own
		t.Errorf("anon is %d, the process uses %d and a little", anon, tenantAnon)
	}
	if shmem := own[reconcile.Shmem]; shmem != tenantShmem {
		t.Errorf("shmem is %d, the process uses %d", shmem, tenantShmem)
	}
	if kernel := own.KernelMemory(); kernel <= 0 {
		t.Errorf("kernel memory is %d, the process has page tables at least", kernel)
	}
	if r := own[reconcile.Residual]; r < 0 || r > s.StockBytes() {
		t.Errorf("the residual is %d, charge stocks hold at most %d", r, s.StockBytes())
	}
	for _, f := range s.Findings {
		if f.Owner == owner || f.ID == "mem-available" {
			t.Errorf("finding: %s", f.Text)
		}
	}
}
