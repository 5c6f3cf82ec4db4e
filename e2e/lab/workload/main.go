// Command workload is what the lab's pods run: it holds memory of the kinds that a node's memory is accounted in, as much as it
// is told, until SIGTERM. With nothing to hold it is the lab's pause container.
//
//	workload -anon 100 -file 50 -file-path /data/file -tmpfs 30 -tmpfs-path /scratch/file
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

const mib = 1 << 20

func main() {
	anon := flag.Int("anon", 0, "`MiB` of anonymous memory")
	file := flag.Int("file", 0, "`MiB` of page cache, of a file that is written, synced and read")
	filePath := flag.String("file-path", "/data/file", "that `file`, on a disk")
	tmpfs := flag.Int("tmpfs", 0, "`MiB` of a file in memory")
	tmpfsPath := flag.String("tmpfs-path", "/scratch/file", "that `file`, on a tmpfs")
	flag.Parse()
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGTERM, os.Interrupt)

	memory, err := touch(*anon)
	if err == nil && *file > 0 {
		err = write(*filePath, *file)
	}
	if err == nil && *tmpfs > 0 {
		err = write(*tmpfsPath, *tmpfs)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "workload:", err)
		os.Exit(1)
	}
	if *anon+*file+*tmpfs > 0 {
		_, _ = fmt.Fprintf(os.Stdout, "holding %d MiB of anonymous memory, %d MiB of page cache, %d MiB of tmpfs\n", len(memory)/mib, *file, *tmpfs)
	}
	<-end
}

// touch maps anonymous memory and writes to each page, without which there would be none.
func touch(size int) ([]byte, error) {
	if size == 0 {
		return nil, nil
	}
	memory, err := syscall.Mmap(-1, 0, size*mib, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_PRIVATE|syscall.MAP_ANON)
	if err != nil {
		return nil, fmt.Errorf("mmap of %d MiB: %w", size, err)
	}
	for i := 0; i < len(memory); i += os.Getpagesize() {
		memory[i] = 1
	}
	return memory, nil
}

// write makes a file and reads it, so that its pages have been used twice and are clean.
func write(path string, size int) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	block := make([]byte, 64*1024) // small: the blocks of a large one are touched page by page, which takes long without KVM
	for range size * mib / len(block) {
		if _, err := f.Write(block); err != nil {
			return err
		}
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	_, err = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{f}, block)
	return err
}
