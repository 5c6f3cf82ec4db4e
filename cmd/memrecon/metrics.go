package main

import (
	"io"

	"github.com/memrecon/memrecon/exporter"
)

type metricsCommand struct{}

// Run prints docs/metrics.md.
func (metricsCommand) Run(stdout io.Writer) error { return exporter.Markdown(stdout) }
