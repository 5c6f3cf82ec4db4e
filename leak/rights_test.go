package leak_test

import (
	"os"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// limitAddressSpace sets RLIMIT_AS so many bytes above what is mapped now.
func limitAddressSpace(more uint64) error {
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return err
	}
	pages, err := strconv.ParseUint(strings.Fields(string(b))[0], 10, 64)
	if err != nil {
		return err
	}
	n := pages*uint64(os.Getpagesize()) + more
	return unix.Setrlimit(unix.RLIMIT_AS, &unix.Rlimit{Cur: n, Max: n})
}

// smallTmpfs mounts a tmpfs for the time of a test.
func smallTmpfs(t *testing.T, bytes int) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+strconv.Itoa(bytes)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil { // busy where a file in it is still open
			t.Error(err)
		}
	})
	return dir
}

// hugePagesOn lets programs ask for transparent huge pages for the time of a test. A kernel turns them off by itself on a machine
// with less than 512 MiB (mm/huge_memory.c), as a guest is.
func hugePagesOn(t *testing.T) {
	t.Helper()
	const file = "/sys/kernel/mm/transparent_hugepage/enabled"
	was, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(was), "[never]") {
		return
	}
	set := func(value string) {
		if err := os.WriteFile(file, []byte(value), 0); err != nil {
			t.Error(err)
		}
	}
	set("madvise")
	t.Cleanup(func() { set("never") })
}
