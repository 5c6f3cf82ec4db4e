package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/term"
	"sigs.k8s.io/yaml"

	"github.com/memrecon/memrecon/reconcile"
	"github.com/memrecon/memrecon/report"
)

// output is the form in which a command prints.
type output string

const (
	outputText = "text"
	outputJSON = "json"
	outputYAML = "yaml"
)

type reportCommand struct {
	sourceFlags
	Output output `short:"o" enum:"text,json,yaml" default:"text" help:"text, json or yaml (${default})."`
	Rows   int    `default:"12" help:"How many owners a table shows, 0 for all (${default})."`
}

// Run prints the report. What could not be read is said in it; only a node of which nothing could be read is a failure.
func (c *reportCommand) Run(stdout io.Writer) error {
	sheet, err := c.sheet()
	if err != nil {
		return err
	}
	if c.Output == outputText {
		err = report.Text(stdout, sheet, report.Options{Color: colored(stdout), Rows: c.Rows})
	} else {
		err = encode(stdout, c.Output, report.NewDocument(sheet))
	}
	if err != nil {
		return err
	}
	return readable(sheet)
}

// readable is an error where neither meminfo nor any cgroup could be read: the command could not do its work.
func readable(sheet *reconcile.Sheet) error {
	if sheet.TotalKnown || len(sheet.Snapshot().Cgroups) > 0 {
		return nil
	}
	return errors.New("nothing of the node could be read; see the errors above")
}

// encode writes a document as JSON or YAML.
func encode(w io.Writer, form output, doc any) error {
	b, err := json.MarshalIndent(doc, "", "  ")
	if err != nil {
		return err
	}
	if form == outputYAML {
		if b, err = yaml.JSONToYAML(b); err != nil {
			return err
		}
		_, err = w.Write(b)
		return err
	}
	_, err = fmt.Fprintf(w, "%s\n", b)
	return err
}

// colored tells whether w is a terminal whose user has not asked for plain text (https://no-color.org).
func colored(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd())) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
}
