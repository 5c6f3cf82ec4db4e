package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/memrecon/memrecon/pressure"
)

// pressureCommand are the commands of pressure tests. The hidden two are what the programs of a scenario begin with.
type pressureCommand struct {
	List  pressureListCommand  `cmd:"" help:"List the scenarios."`
	Run   pressureRunCommand   `cmd:"" help:"Run a scenario, and compare what happens with what it expects."`
	Enter pressureEnterCommand `cmd:"" hidden:"" help:"Move into a cgroup, and become memrecon with other arguments."`
	Write pressureWriteCommand `cmd:"" hidden:"" help:"Write a file into a volume."`
}

type pressureListCommand struct {
	Output output `short:"o" enum:"text,json,yaml" default:"text" help:"text, json or yaml (${default})."`
}

// Run lists the scenarios, whole where the output is for programs.
func (c *pressureListCommand) Run(stdout io.Writer) error {
	all, err := pressure.Scenarios()
	if err != nil {
		return err
	}
	if c.Output != outputText {
		return encode(stdout, c.Output, all)
	}
	pressure.ListText(stdout, all)
	return nil
}

type pressureRunCommand struct {
	Scenario string `arg:"" placeholder:"NAME" help:"A scenario of the list, or a scenario's file, whose name ends in .yaml."`
	Local    bool   `required:"" help:"Run it on this host, in cgroups of its own."`
	Output   output `short:"o" enum:"text,json" default:"text" help:"text, or json: one document at the end (${default})."`
	Procfs   string `name:"path.procfs" default:"/proc" placeholder:"DIR" help:"Where procfs is mounted (${default})."`
	Sysfs    string `name:"path.sysfs" default:"/sys" placeholder:"DIR" help:"Where sysfs is mounted (${default})."`
	Kmsg     string `name:"path.kmsg" default:"/dev/kmsg" placeholder:"FILE" help:"The device of the kernel's log; where it cannot be opened, syslog(2) is tried; empty to do without (${default})."`
}

// Help says what the exit statuses mean.
func (c *pressureRunCommand) Help() string {
	return "Exit status: 0 what happened is what the scenario expects, 1 it is not, 2 the command line or the scenario's file is wrong, " +
		"3 a guard or Ctrl-C ended it, 4 it could not be run here."
}

// Exit statuses of pressure run beyond the common ones; exitFailed is an expectation that was not met, exitGuard as for leak.
const exitNotRun = 4

// Run runs the scenario.
func (c *pressureRunCommand) Run(stdout io.Writer) error {
	s, err := pressure.Load(c.Scenario)
	if err != nil {
		return &statusError{err, exitUsage}
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends it at once
	result, err := c.run(ctx, s, stdout)
	switch {
	case err != nil:
		return &statusError{err, exitNotRun}
	case result.Outcome.Stopped != "":
		return &statusError{fmt.Errorf("scenario %s was stopped: %s", s.Name, result.Outcome.Stopped), exitGuard}
	case !result.Met:
		return fmt.Errorf("scenario %s: not everything happened as expected", s.Name)
	}
	return nil
}

func (c *pressureRunCommand) run(ctx context.Context, s *pressure.Scenario, stdout io.Writer) (*pressure.Result, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	local, err := pressure.Open(pressure.Config{Procfs: c.Procfs, Sysfs: c.Sysfs, Kmsg: c.Kmsg, Executable: self})
	if err != nil {
		return nil, err
	}
	plan, err := local.Plan(s)
	if err != nil {
		return nil, err
	}
	if c.Output == outputJSON {
		result, err := local.Run(ctx, plan, func(pressure.Event) {})
		if result == nil {
			return nil, err
		}
		return result, errors.Join(err, encode(stdout, c.Output, result))
	}
	pressure.PlanText(stdout, plan)
	result, err := local.Run(ctx, plan, func(e pressure.Event) { pressure.EventText(stdout, e) })
	if result != nil {
		pressure.ResultText(stdout, result)
	}
	return result, err
}

type pressureEnterCommand struct {
	Procfs      string   `name:"path.procfs" required:""`
	Cgroup      string   `required:""`
	OOMScoreAdj int      `name:"oom-score-adj" required:""`
	Args        []string `arg:""`
}

// Run becomes the program.
func (c *pressureEnterCommand) Run() error {
	return pressure.Enter(c.Procfs, c.Cgroup, c.OOMScoreAdj, c.Args)
}

type pressureWriteCommand struct {
	Size   size   `required:"" help:"How large the file is."`
	Volume string `arg:"" help:"The folder that it goes into."`
}

// Run writes the file.
func (c *pressureWriteCommand) Run() error { return pressure.WriteFile(c.Volume, int64(c.Size)) }
