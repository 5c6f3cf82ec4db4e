package main

import (
	"io"

	"github.com/memrecon/memrecon/report"
)

type figuresCommand struct {
	sourceFlags
	Owner  string `default:"" placeholder:"PATH" help:"Show the figures of this cgroup as well as the node's."`
	Output string `short:"o" enum:"text,json,yaml,markdown" default:"text" help:"text, json or yaml with values; markdown is the reference without (${default})."`
}

// Run lists the figures.
func (c *figuresCommand) Run(stdout io.Writer) error {
	if c.Output == "markdown" {
		return report.FiguresMarkdown(stdout)
	}
	sheet, err := c.sheet()
	if err != nil {
		return err
	}
	if c.Output == outputText {
		return report.FiguresText(stdout, sheet, c.Owner, report.Options{Color: colored(stdout)})
	}
	if err := encode(stdout, output(c.Output), report.NewDocument(sheet).Figures); err != nil {
		return err
	}
	return readable(sheet)
}
