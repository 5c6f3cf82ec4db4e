package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/memrecon/memrecon/collector"
	"github.com/memrecon/memrecon/reconcile"
	"github.com/memrecon/memrecon/snapshot"
)

// hostFlags say which node's files are read.
type hostFlags struct {
	Procfs string `name:"path.procfs" default:"/proc" placeholder:"DIR" help:"Where procfs is mounted, or a copy of it (${default})."`
	Sysfs  string `name:"path.sysfs" default:"/sys" placeholder:"DIR" help:"Where sysfs is mounted, or a copy of it (${default})."`
	Node   string `name:"node" env:"NODE_NAME" placeholder:"NAME" help:"The node's name, where it is not the host's."`
}

// sourceFlags say what a one-shot command looks at.
type sourceFlags struct {
	hostFlags
	From string `name:"from" placeholder:"FILE" help:"A capture, or a folder with a saved node's proc and sys, in place of this node."`
}

// sheet reads the node once, or takes it from the capture.
func (f *sourceFlags) sheet() (*reconcile.Sheet, error) {
	if f.From == "" {
		return f.collect()
	}
	info, err := os.Stat(f.From)
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		saved := hostFlags{Procfs: filepath.Join(f.From, "proc"), Sysfs: filepath.Join(f.From, "sys"), Node: f.Node}
		for _, dir := range []string{saved.Procfs, saved.Sysfs} {
			if _, err := os.Stat(dir); err != nil {
				return nil, fmt.Errorf("%s is no saved node: %w", f.From, err)
			}
		}
		return saved.collect()
	}
	file, err := os.Open(f.From)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	snap, err := snapshot.Decode(file)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.From, err)
	}
	return reconcile.New(snap), nil
}

func (f *hostFlags) config() collector.Config {
	return collector.Config{Procfs: f.Procfs, Sysfs: f.Sysfs, Node: f.Node}
}

func (f *hostFlags) collect() (*reconcile.Sheet, error) {
	c, err := collector.Open(f.config())
	if err != nil {
		return nil, err
	}
	defer func() { _ = c.Close() }()
	c.Collect() // finds and opens everything, so that the next round reads it all within milliseconds
	return c.Collect().Sheet, nil
}
