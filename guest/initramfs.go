package main

import (
	"bytes"
	"debug/elf"
	"fmt"
	"io"
	"os"

	"github.com/memrecon/memrecon/internal/qemu"
)

// initramfs is the guest's whole file system: init, the program under test and what init is to do with it.
func initramfs(init, program string, job []byte) (*os.File, error) {
	var w qemu.Initramfs
	for _, dir := range []string{"dev", "proc", "sys", "tmp", "var", "var/tmp"} {
		w.Dir(dir)
	}
	for _, p := range []struct{ name, path string }{{"init", init}, {"program", program}} {
		content, err := readStatic(p.path)
		if err != nil {
			return nil, err
		}
		w.Program(p.name, content)
	}
	w.File("job", job)
	return w.Seal()
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
