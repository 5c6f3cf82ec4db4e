package main

import (
	"io"
	"strings"

	"github.com/memrecon/memrecon/reconcile"
	"github.com/memrecon/memrecon/report"
)

type bridgeCommand struct {
	sourceFlags
	First  string `arg:"" name:"from" help:"A figure's id (memrecon figures lists them), with @PATH behind it for another owner than --owner."`
	Second string `arg:"" name:"to" help:"The figure to get to, likewise."`
	Owner  string `default:"/" placeholder:"PATH" help:"The cgroup whose figures these are; a figure of the node needs none (${default})."`
	Output output `short:"o" enum:"text,json,yaml" default:"text" help:"text, json or yaml (${default})."`
}

// Run prints the bridge.
func (c *bridgeCommand) Run(stdout io.Writer) error {
	sheet, err := c.sheet()
	if err != nil {
		return err
	}
	b, err := sheet.Bridge(c.ref(c.First), c.ref(c.Second))
	if err != nil {
		return err
	}
	if c.Output == outputText {
		return report.BridgeText(stdout, sheet, &b, report.Options{Color: colored(stdout)})
	}
	return encode(stdout, c.Output, report.NewBridge(&b, 0))
}

// ref takes "figure" or "figure@owner".
func (c *bridgeCommand) ref(s string) reconcile.Ref {
	if figure, owner, ok := strings.Cut(s, "@"); ok {
		return reconcile.Ref{Figure: figure, Owner: owner}
	}
	return reconcile.Ref{Figure: s, Owner: c.Owner}
}
