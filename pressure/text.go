package pressure

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/memrecon/memrecon/report"
)

// ListText writes what scenarios there are.
func ListText(w io.Writer, all []*Scenario) {
	for _, s := range all {
		fmt.Fprintf(w, "%-18s %s\n", s.Name, s.Summary)
	}
}

// PlanText writes what will be done and what is expected.
func PlanText(w io.Writer, p *Plan) {
	s := p.Scenario
	fmt.Fprintf(w, "%s: %s\n\n", s.Name, s.Summary)
	for line := range strings.Lines(s.Description) {
		fmt.Fprintf(w, "  %s\n", strings.TrimRight(line, "\n"))
	}
	fmt.Fprintf(w, "\nWill run, each in a cgroup of its own below %s...\n", prefix)
	for i := range p.Cgroups {
		c := &p.Cgroups[i]
		if c.Level == NodeLevel && c.Limit.IsAbsent() {
			continue
		}
		words := p.name(c.Path)
		if n, ok := c.Limit.Get(); ok {
			words += ", limit " + report.Size(int64(n))
		}
		if c.Level != ContainerLevel {
			fmt.Fprintf(w, "  %s\n", words)
			continue
		}
		one := p.container(c.Path[1:])
		fmt.Fprintf(w, "  %s, %s, oom_score_adj %d\n      %s\n", words, one.QoS, one.ScoreAdj, one.command())
		if one.Reaches > 0 {
			fmt.Fprintf(w, "      reaches its limit after some %s\n", one.Reaches.Round(100*time.Millisecond))
		}
	}
	fmt.Fprintf(w, "Guards: at most %s of the %s that are available; ends if less than %s is, or after %s.\n",
		report.Size(p.MostBytes), report.Size(p.AvailableBytes), report.Size(s.Guards.NodeAvailable.Bytes()), s.Guards.Timeout)
	fmt.Fprintf(w, "Expects:\n")
	for _, c := range compare(s, &Outcome{Containers: p.outcomes()}) {
		fmt.Fprintf(w, "  %s %s\n", c.Container, c.Expected)
	}
	fmt.Fprintf(w, "\n")
}

// outcomes are the containers before anything became of them.
func (p *Plan) outcomes() []ContainerOutcome {
	var all []ContainerOutcome
	for i := range p.Containers {
		all = append(all, ContainerOutcome{Container: p.Containers[i].Ref})
	}
	return all
}

// EventText writes an event as a line.
func EventText(w io.Writer, e Event) {
	fmt.Fprintf(w, "%7.2f s  %s\n", e.At.Seconds(), e.Text)
}

// ResultText writes what happened and whether it was what was expected.
func ResultText(w io.Writer, r *Result) {
	fmt.Fprintf(w, "\nWhat happened, on cgroup %s:\n", r.Mode)
	for i := range r.Outcome.Containers {
		c := &r.Outcome.Containers[i]
		fmt.Fprintf(w, "  %s %s\n", c.Container, c.sentence())
		for k := range c.Incidents {
			in := &c.Incidents[k]
			fmt.Fprintf(w, "      %s\n      Verdict: %s, %s. %s\n", in.Sentence, in.Verdict, in.Confidence, in.Page)
		}
		for _, e := range c.Evidence {
			fmt.Fprintf(w, "      %s: %s\n", e.Source, e.Value)
		}
		if c.Said != "" && c.Reason != Completed {
			fmt.Fprintf(w, "      it said: %s\n", c.Said)
		}
	}
	if r.Outcome.Stopped != "" {
		fmt.Fprintf(w, "Stopped: %s.\n", r.Outcome.Stopped)
	}
	fmt.Fprintf(w, "Expected, and observed:\n")
	for _, c := range r.Checks {
		mark := "met"
		if !c.Met {
			mark = "NOT MET"
		}
		fmt.Fprintf(w, "  %-8s %s %s: %s\n", mark, c.Container, c.Expected, c.Observed)
	}
}

// sentence says what became of a container.
func (c *ContainerOutcome) sentence() string {
	if c.ExitCode == nil {
		return "was not started"
	}
	var words string
	switch {
	case c.Reason == OOMKilled:
		words = "was killed by the kernel (137, OOMKilled)"
	case c.Reason == "":
		words = "was ended with the run"
	case c.Reason == Completed:
		words = "ended by itself (0, Completed)"
	case c.Signal != "":
		words = fmt.Sprintf("died of %s (%d, Error)", c.Signal, *c.ExitCode)
	default:
		words = fmt.Sprintf("failed (%d, Error)", *c.ExitCode)
	}
	words += fmt.Sprintf(" after %.1f s", c.Lasted.Seconds())
	if n, ok := c.Peak.Get(); ok {
		words += "; peak " + report.Size(int64(n))
	}
	if n, ok := c.Reclaimed.Get(); ok && n > 0 {
		words += ", " + report.Size(int64(n)) + " reclaimed"
	}
	if n, ok := c.LeftShmem.Get(); ok && n > 0 {
		words += ", " + report.Size(int64(n)) + " of tmpfs left"
	}
	return words + "."
}
