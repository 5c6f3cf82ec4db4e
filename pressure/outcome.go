package pressure

import (
	"fmt"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/memrecon/memrecon/report"
	"github.com/memrecon/memrecon/snapshot"
	"github.com/memrecon/memrecon/verdict"
)

// Outcome is what became of each container, told from what was observed alone.
type Outcome struct {
	Containers []ContainerOutcome `json:"containers"`
	// Stopped is why the run was ended before its programs had, empty where it was not.
	Stopped string `json:"stopped,omitempty"`
}

// ContainerOutcome is what became of one container.
type ContainerOutcome struct {
	Container string `json:"container"`
	// Reason is empty where the container was not started, or was ended by a guard or the user. It is what a runtime goes by: the exit
	// status, and whether the kernel has counted an OOM kill in the cgroup.
	Reason Reason `json:"reason,omitempty"`
	// ExitCode is the exit status, or 128 and the signal; absent where it was not started.
	ExitCode *int   `json:"exit_code,omitempty"`
	Signal   string `json:"signal,omitempty"`
	// Incidents are its deaths for memory, as the agent would tell them.
	Incidents []report.Incident `json:"incidents"`
	// Lasted is from its start to its end.
	Lasted time.Duration `json:"lasted_ns"`
	// Peak is its cgroup's highest usage: the kernel's account of it, or the highest that was seen.
	Peak snapshot.Value `json:"peak_bytes,omitzero"`
	// LimitHits is how often its own limit was about to be exceeded.
	LimitHits snapshot.Value `json:"limit_hits,omitzero"`
	// Reclaimed is what the kernel took back from it, in bytes; absent on cgroup v1, which does not count that.
	Reclaimed snapshot.Value `json:"reclaimed_bytes,omitzero"`
	// Left and LeftShmem are what its cgroup was still charged for at the very end, and the tmpfs in that.
	Left      snapshot.Value `json:"left_bytes,omitzero"`
	LeftShmem snapshot.Value `json:"left_shmem_bytes,omitzero"`
	Evidence  []Evidence     `json:"evidence"`
	// Said is the last that the program wrote on standard error.
	Said string `json:"said,omitempty"`
}

// Evidence is a value that the kernel gave, and where.
type Evidence struct {
	Source string `json:"source"`
	Value  string `json:"value"`
}

// ending is how a process ended.
type ending struct {
	status         syscall.WaitStatus
	reason         Reason // empty where the runner ended it
	started, ended time.Duration
	said           string
}

// code is the exit code as Kubernetes has it: the exit status, or 128 and the signal.
func (e *ending) code() int {
	if e.status.Signaled() {
		return 128 + int(e.status.Signal())
	}
	return e.status.ExitStatus()
}

// reason is how a container ended whose cgroup is given.
func reason(status syscall.WaitStatus, cgroup *snapshot.Cgroup) Reason {
	switch {
	case status.Signaled() && status.Signal() == syscall.SIGKILL && oomKills(cgroup) > 0:
		return OOMKilled
	case status == 0:
		return Completed
	}
	return Error
}

// observation is all that is known of a run.
type observation struct {
	plan      *Plan
	mode      snapshot.Mode
	pageSize  uint64
	endings   map[string]ending          // by container
	last      map[string]snapshot.Cgroup // after all had ended
	peak      map[string]uint64
	incidents func(ref string) []report.Incident
	stopped   string
}

// tell is the outcome of an observation.
func tell(o *observation) Outcome {
	out := Outcome{Stopped: o.stopped}
	for _, c := range o.plan.Containers {
		out.Containers = append(out.Containers, o.container(c.Ref))
	}
	return out
}

func (o *observation) container(ref string) ContainerOutcome {
	at := "/" + ref
	cgroup := o.last[at]
	c := ContainerOutcome{Container: ref, Left: cgroup.Usage, Peak: cgroup.Peak, Incidents: o.incidents(ref), Evidence: []Evidence{}}
	if c.Peak.IsAbsent() && o.peak[at] > 0 {
		c.Peak = snapshot.Of(o.peak[at])
	}
	o.counters(&c, &cgroup)
	// A pod of one container has the container's limit, and either may be the one that is hit.
	if pod := o.last[path.Dir(at)]; pod.Max == cgroup.Max {
		hits := limitHits(&pod)
		if n, ok := c.LimitHits.Get(); ok {
			c.LimitHits = snapshot.Of(n + hits)
		}
	}
	end, ok := o.endings[ref]
	if !ok {
		return c
	}
	c.Reason, c.Lasted, c.Said = end.reason, end.ended-end.started, end.said
	code := end.code()
	if end.status.Signaled() {
		c.Signal = signalName(end.status.Signal())
		c.Evidence = append(c.Evidence, Evidence{"wait status", "signal " + c.Signal})
	} else {
		c.Evidence = append(c.Evidence, Evidence{"wait status", fmt.Sprintf("exit status %d", code)})
	}
	c.ExitCode = &code
	return c
}

// counters puts the cgroup's counters into the outcome, and what speaks into the evidence.
func (o *observation) counters(c *ContainerOutcome, cgroup *snapshot.Cgroup) {
	at := "/" + c.Container
	shmem, reclaim := "shmem", "pgsteal"
	if o.mode.Files() == snapshot.V1 {
		shmem, reclaim = "total_shmem", ""
		c.LimitHits = cgroup.Failcnt
		c.evidence(at+"/memory.failcnt", "", cgroup.Failcnt)
		c.evidence(at+"/memory.oom_control", "oom_kill ", key(cgroup.OOMControl, "oom_kill"))
	} else {
		c.LimitHits = key(cgroup.EventsLocal, "max")
		for _, name := range []string{"max", "oom", "oom_kill"} {
			c.evidence(at+"/memory.events.local", name+" ", key(cgroup.EventsLocal, name))
		}
	}
	c.LeftShmem = key(cgroup.Stat, shmem)
	if pages, ok := cgroup.Stat.Get(reclaim); ok { // Linux 5.9 for cgroups
		c.Reclaimed = snapshot.Of(pages * o.pageSize)
		c.evidence(at+"/memory.stat", reclaim+" ", snapshot.Of(pages))
	}
}

func (c *ContainerOutcome) evidence(source, words string, v snapshot.Value) {
	if n, ok := v.Get(); ok && n > 0 {
		c.Evidence = append(c.Evidence, Evidence{source, words + v.String()})
	}
}

func key(s snapshot.Stat, name string) snapshot.Value {
	if n, ok := s.Get(name); ok {
		return snapshot.Of(n)
	}
	return snapshot.Value{}
}

// Check is one thing that was expected, and what came of it.
type Check struct {
	Container string `json:"container"`
	Expected  string `json:"expected"`
	Observed  string `json:"observed"`
	Met       bool   `json:"met"`
}

// compare is the scenario's expectation held against an outcome. What is not known is not met.
func compare(s *Scenario, out *Outcome) []Check {
	var checks []Check
	for _, c := range out.Containers {
		e, ok := s.Expect[c.Container]
		if !ok {
			continue
		}
		check := func(met bool, expected, observed string) {
			checks = append(checks, Check{Container: c.Container, Expected: expected, Observed: observed, Met: met})
		}
		check(c.Reason == e.Reason, "ends as "+string(e.Reason), orUnknown(string(c.Reason), "no end of its own"))
		if e.ExitCode != nil {
			check(c.ExitCode != nil && *c.ExitCode == *e.ExitCode, fmt.Sprintf("exit code %d", *e.ExitCode), exitCode(c.ExitCode))
		}
		if e.Verdicts != nil {
			expected := "verdict " + anyOf(e.Verdicts)
			if len(e.Verdicts) == 0 {
				expected = "no verdict"
			}
			check(e.isTold(c.Incidents), expected, orUnknown(told(c.Incidents), "none"))
		}
		if e.Reclaimed != nil {
			hits, known := c.LimitHits.Get()
			expected := "memory is reclaimed at its own limit"
			if !*e.Reclaimed {
				expected = "its own limit is never hit"
			}
			check(known && (hits > 0) == *e.Reclaimed, expected, "limit hit "+c.LimitHits.String()+" times")
		}
		if want := e.Left.Bytes(); want > 0 {
			n, known := c.LeftShmem.Get()
			observed := "not known"
			if known {
				observed = report.Size(int64(n))
			}
			check(known && int64(n) >= want, "leaves "+report.Size(want)+" of tmpfs", observed)
		}
		if after := e.NotBefore.Time(); after > 0 {
			check(c.Lasted >= after, fmt.Sprintf("not before %s", after), c.Lasted.Round(100*time.Millisecond).String())
		}
	}
	return checks
}

// isTold tells that incidents are what is expected: one or more, each with one of the verdicts; none where there is no verdict.
func (e *Expectation) isTold(incidents []report.Incident) bool {
	isOther := func(in report.Incident) bool { return !slices.Contains(e.Verdicts, in.Verdict) }
	return (len(incidents) > 0) == (len(e.Verdicts) > 0) && !slices.ContainsFunc(incidents, isOther)
}

// anyOf is a list of verdicts in words.
func anyOf(verdicts []verdict.Verdict) string {
	var words []string
	for _, v := range verdicts {
		words = append(words, string(v))
	}
	return strings.Join(words, " or ")
}

// told is what incidents say, empty where there are none.
func told(incidents []report.Incident) string {
	var words []string
	for i := range incidents {
		words = append(words, fmt.Sprintf("%s, %s", incidents[i].Verdict, incidents[i].Confidence))
	}
	return strings.Join(words, "; ")
}

func exitCode(code *int) string {
	if code == nil {
		return "not started"
	}
	return fmt.Sprintf("%d", *code)
}

func orUnknown(s, unknown string) string {
	if s == "" {
		return unknown
	}
	return s
}
