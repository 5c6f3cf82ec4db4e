// Command memrecon shows where a node's memory is and why the usual figures differ.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/alecthomas/kong"
	kongcompletion "github.com/jotaen/kong-completion"

	"github.com/memrecon/memrecon/leak"
)

// cli is the command line.
type cli struct {
	Report     reportCommand             `cmd:"" help:"Print where the memory of this node is and why the usual figures differ."`
	Figures    figuresCommand            `cmd:"" help:"List the figures that memrecon knows, with their values on this node."`
	Bridge     bridgeCommand             `cmd:"" help:"Explain the difference between two figures, to the byte."`
	Capture    captureCommand            `cmd:"" help:"Save a snapshot of this node to a file, for a bug report or a later look."`
	Explain    explainCommand            `cmd:"" help:"Say what died for memory, which limit did it and whose: asks the agent, or reads a kernel's log."`
	Agent      agentCommand              `cmd:"" help:"Keep watching: metrics and an API over HTTP, a report on standard output now and then."`
	Leak       leakCommand               `cmd:"" help:"Take memory in a controlled manner, and give it back."`
	Pressure   pressureCommand           `cmd:"" help:"Make pressure by a scenario, and compare what happens with what was expected."`
	Metrics    metricsCommand            `cmd:"" hidden:"" help:"Print the reference of the agent's metrics."`
	Version    versionCommand            `cmd:"" help:"Print the version."`
	Completion kongcompletion.Completion `cmd:"" help:"Print what a shell needs to complete memrecon's commands."`
}

// Exit statuses: 0 all was done, 1 the command could not do its work, 2 the command line is wrong; a command may have others.
const (
	exitFailed = 1
	exitUsage  = 2
)

// statusError is an error with an exit status of its own.
type statusError struct {
	error
	status int
}

func main() {
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// run is main with its surroundings handed in.
func run(args []string, stdout, stderr io.Writer) int {
	exited := -1
	parser, err := kong.New(&cli{},
		kong.Name("memrecon"),
		kong.Description("Every byte of a Linux node's memory in one sheet, every published figure a formula over it, every difference a bridge."),
		kong.UsageOnError(),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
		kong.Vars{"leak_kinds": leak.KindNames()},
		kong.Writers(stdout, stderr),
		kong.Exit(func(code int) { exited = code }),
	)
	if err != nil {
		panic(err) // the tags above are wrong
	}
	kongcompletion.Register(parser)
	ctx, err := parser.Parse(args)
	if exited >= 0 { // --help
		return exited
	}
	if err != nil {
		fmt.Fprintf(stderr, "memrecon: %s\n", err)
		if parse, ok := errors.AsType[*kong.ParseError](err); ok && len(args) == 0 {
			_ = parse.Context.PrintUsage(true)
		} else {
			fmt.Fprintln(stderr, "memrecon --help shows the commands, memrecon COMMAND --help their flags.")
		}
		return exitUsage
	}
	ctx.BindTo(stdout, (*io.Writer)(nil))
	if err := ctx.Run(); err != nil {
		fmt.Fprintf(stderr, "memrecon: %s\n", err)
		if own, ok := errors.AsType[*statusError](err); ok {
			return own.status
		}
		return exitFailed
	}
	return max(0, exited)
}
