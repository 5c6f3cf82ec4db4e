package main

import (
	"bytes"
	"debug/elf"
	"fmt"
	"io"
	"os"
)

// The modes of the initramfs' entries, as in stat(2).
const (
	modeDir     = 0o040755
	modeProgram = 0o100755
	modeFile    = 0o100644
)

// cpioWriter writes an initramfs: a cpio archive in the newc form (Documentation/driver-api/early-userspace/
// buffer-format.rst of the kernel). The form is a header of 13 hexadecimal fields an entry, so it is written here; the
// libraries that do it bring a boot loader along.
type cpioWriter struct {
	buf   bytes.Buffer
	inode uint32
}

// add appends an entry. Its folder must have been added before.
func (w *cpioWriter) add(name string, mode uint32, content []byte) {
	w.inode++
	fmt.Fprintf(&w.buf, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x", w.inode, mode,
		0, 0, 1, 0, // uid, gid, links, mtime
		len(content),
		0, 0, 0, 0, // device, device of a device node
		len(name)+1, 0) // the check sum is for another form
	w.buf.WriteString(name)
	w.buf.WriteByte(0)
	w.pad()
	w.buf.Write(content)
	w.pad()
}

// pad fills up to the next multiple of four, where headers and contents begin.
func (w *cpioWriter) pad() {
	for w.buf.Len()%4 != 0 {
		w.buf.WriteByte(0)
	}
}

// archive ends the archive and returns it.
func (w *cpioWriter) archive() []byte {
	w.add("TRAILER!!!", 0, nil)
	return w.buf.Bytes()
}

// initramfs is the guest's whole file system: init, the program under test and what init is to do with it.
func initramfs(init, program string, job []byte) ([]byte, error) {
	var w cpioWriter
	for _, dir := range []string{"dev", "proc", "sys", "tmp"} {
		w.add(dir, modeDir, nil)
	}
	for _, p := range []struct{ name, path string }{{"init", init}, {"program", program}} {
		content, err := readStatic(p.path)
		if err != nil {
			return nil, err
		}
		w.add(p.name, modeProgram, content)
	}
	w.add("job", modeFile, job)
	return w.archive(), nil
}

// readStatic reads a program that needs no shared libraries, for the guest has none.
func readStatic(path string) ([]byte, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	program, err := elf.NewFile(bytes.NewReader(content))
	if err != nil {
		return nil, fmt.Errorf("%s: no program: %w", path, err)
	}
	for _, p := range program.Progs {
		if p.Type == elf.PT_INTERP {
			interp, _ := io.ReadAll(p.Open())
			return nil, fmt.Errorf("%s needs %s, which the guest has not: build it with CGO_ENABLED=0", path, bytes.TrimRight(interp, "\x00"))
		}
	}
	return content, nil
}
