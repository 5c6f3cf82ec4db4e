package main

import (
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/memrecon/memrecon/cgroup"
	"github.com/memrecon/memrecon/snapshot"
)

type captureCommand struct {
	sourceFlags
	File   string `arg:"" placeholder:"FILE" help:"Where to write it; - for standard output."`
	Redact bool   `help:"Replace every name and identifier: nodes, units, pods, containers. Sizes and structure stay."`
}

// Run writes the capture. A file comes into being whole or not at all.
func (c *captureCommand) Run(stdout io.Writer) error {
	sheet, err := c.sheet()
	if err != nil {
		return err
	}
	if err := readable(sheet); err != nil {
		return err
	}
	snap := sheet.Snapshot()
	if c.Redact {
		salt := make([]byte, 32)
		_, _ = rand.Read(salt) // never fails
		snap = snapshot.Redact(snap, salt, cgroup.Identify)
	}
	if c.File == "-" {
		return snapshot.Encode(stdout, snap)
	}
	file, err := os.CreateTemp(filepath.Dir(c.File), ".memrecon-capture-*")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(file.Name()) }() // nothing is left to remove once it is renamed
	if err := snapshot.Encode(file, snap); err != nil {
		return fmt.Errorf("%s: %w", c.File, err)
	}
	if err := file.Chmod(0o644); err != nil {
		return err
	}
	if err := file.Close(); err != nil {
		return fmt.Errorf("%s: %w", c.File, err)
	}
	return os.Rename(file.Name(), c.File)
}
