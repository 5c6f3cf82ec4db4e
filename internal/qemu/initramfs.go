package qemu

import (
	"bytes"
	"fmt"
	"os"
)

// Initramfs is a guest's first file system, in the order its entries are added: a folder comes before what is in it.
//
// It is a cpio archive in the newc form (Documentation/driver-api/early-userspace/buffer-format.rst of the kernel). The form is
// a header of 13 hexadecimal fields an entry, so it is written here; the libraries that do it bring a boot loader along.
type Initramfs struct {
	buf   bytes.Buffer
	inode uint32
}

// Dir adds a folder.
func (w *Initramfs) Dir(name string) { w.add(name, 0o040755, nil) } // the modes are those of stat(2)

// Program adds an executable file.
func (w *Initramfs) Program(name string, content []byte) { w.add(name, 0o100755, content) }

// File adds a file that is only read.
func (w *Initramfs) File(name string, content []byte) { w.add(name, 0o100644, content) }

// Seal ends the archive and returns it as a file that is nowhere on disk, to be closed once QEMU has started.
func (w *Initramfs) Seal() (*os.File, error) {
	w.add("TRAILER!!!", 0, nil)
	return memoryFile(w.buf.Bytes())
}

func (w *Initramfs) add(name string, mode uint32, content []byte) {
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
func (w *Initramfs) pad() {
	for w.buf.Len()%4 != 0 {
		w.buf.WriteByte(0)
	}
}
