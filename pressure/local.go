package pressure

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/memrecon/memrecon/cgroup"
	"github.com/memrecon/memrecon/host"
	"github.com/memrecon/memrecon/report"
	"github.com/memrecon/memrecon/snapshot"
)

// Config says where scenarios run.
type Config struct {
	// Procfs and Sysfs are the roots of the two file systems, as a rule /proc and /sys.
	Procfs, Sysfs string
	// Kmsg is the device of the kernel's log, as a rule /dev/kmsg. Where it can't be opened, syslog(2) is tried. Empty to do without
	// the log.
	Kmsg string
	// Executable is memrecon itself, which the programs are.
	Executable string
}

// Local runs scenarios on this host.
type Local struct {
	config    Config
	host      *host.Reader
	hierarchy cgroup.Hierarchy
}

// Open finds out where this host's cgroups are.
func Open(config Config) (*Local, error) {
	h, err := host.Open(config.Procfs)
	if err != nil {
		return nil, fmt.Errorf("reading the host: %w", err)
	}
	hierarchy, err := cgroup.Find(config.Sysfs)
	if found, ok := errors.AsType[*cgroup.Error](err); ok {
		return nil, fmt.Errorf("%w. %s", found, found.Hint)
	}
	if err != nil {
		return nil, err
	}
	return &Local{config: config, host: h, hierarchy: hierarchy}, nil
}

// Plan lays a scenario out on this host. An error says that the guards do not let it begin.
func (l *Local) Plan(s *Scenario) (*Plan, error) {
	m, err := l.host.Meminfo()
	if err != nil {
		return nil, err
	}
	total, _ := m.MemTotal.Get()
	p := NewPlan(s, int64(total))
	available, ok := m.MemAvailable.Get() // Linux 3.14
	if !ok {
		return nil, errors.New("/proc/meminfo has no MemAvailable, which the guard guards.nodeAvailable needs")
	}
	p.AvailableBytes = int64(available)
	if floor := s.Guards.NodeAvailable.Bytes(); p.AvailableBytes-p.MostBytes < floor {
		return nil, fmt.Errorf("scenario %s may take %s of the %s that are available, and guards.nodeAvailable keeps %s free: free some memory first",
			s.Name, report.Size(p.MostBytes), report.Size(p.AvailableBytes), report.Size(floor))
	}
	return p, nil
}

// Result is one run of a scenario.
type Result struct {
	Schema   string        `json:"schema"`
	Scenario string        `json:"scenario"`
	Kernel   string        `json:"kernel,omitempty"`
	Mode     snapshot.Mode `json:"cgroup_mode"`
	// Cgroup is the path of the run's top, from the hierarchy's root. All paths are from there.
	Cgroup  string  `json:"cgroup"`
	Plan    *Plan   `json:"plan"`
	Events  []Event `json:"events"`
	Outcome Outcome `json:"outcome"`
	Checks  []Check `json:"checks"`
	// Met tells that all checks are met.
	Met bool `json:"met"`
}

// Schema is the version of Result's JSON.
const Schema = "memrecon.pressure/v1"

const (
	// interval is between two looks at the cgroups.
	interval = 20 * time.Millisecond
	// statAge is how old memory.stat may be at most: the kernel brings it up to date every 2 s.
	statAge = 2200 * time.Millisecond
)

// run is a scenario that runs.
type run struct {
	config  Config
	host    *host.Reader
	plan    *Plan
	tree    *tree
	cgroups *cgroup.Reader
	watcher *watcher
	witness *witness
	began   time.Time
	emit    func(Event)
	events  []Event

	step    int             // the step to be done, or waited for
	pods    map[string]*pod // that were started
	running map[string]*program
	ended   chan ended
	endings map[string]ending
	stopped string
}

// pod is a pod that was started.
type pod struct {
	*Pod
	volumes *volumes
	started int // of Pod.all
}

type ended struct {
	program *program
	ending  ending
	err     error
}

// Run runs a plan: it makes the cgroups, runs the programs, and removes everything again. emit gets each event as it is seen.
// An error says that the scenario could not be run; one that was stopped, by a guard or ctx, has a result that says so.
func (l *Local) Run(ctx context.Context, p *Plan, emit func(Event)) (result *Result, err error) {
	runtime.LockOSThread() // see start
	defer runtime.UnlockOSThread()
	t, err := newTree(l.hierarchy, p)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, t.remove()) }()
	reader, err := cgroup.Open(t.Hierarchy, cgroup.Options{SlowEvery: 1})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, reader.Close()) }()
	w, leave, err := testify(l.config, p, t.name)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, leave()) }()
	r := &run{
		config: l.config, host: l.host, plan: p, tree: t, cgroups: reader, watcher: newWatcher(p), witness: w, began: time.Now(), emit: emit,
		pods: map[string]*pod{}, running: map[string]*program{}, endings: map[string]ending{},
		ended: make(chan ended, len(p.Containers)),
	}
	defer r.close()
	if err := r.loop(ctx); err != nil {
		return nil, err
	}
	if err := r.settle(); err != nil {
		return nil, err
	}
	h, _ := l.host.Read() // for the page size alone
	result = &Result{
		Schema: Schema, Scenario: p.Scenario.Name, Kernel: l.host.Release(), Mode: t.Mode, Cgroup: "/" + t.name, Plan: p, Events: r.events,
		Outcome: tell(&observation{
			plan: p, mode: t.Mode, pageSize: h.PageSize, endings: r.endings, last: r.watcher.last, peak: r.watcher.peak,
			incidents: w.incidents, stopped: r.stopped,
		}),
	}
	result.Checks = compare(p.Scenario, &result.Outcome)
	result.Met = !slices.ContainsFunc(result.Checks, func(c Check) bool { return !c.Met })
	return result, nil
}

// loop runs until all programs have ended.
func (r *run) loop(ctx context.Context) error {
	timeout := time.NewTimer(r.plan.Scenario.Guards.Timeout.Time())
	defer timeout.Stop()
	tick := time.NewTicker(interval)
	defer tick.Stop()
	done := ctx.Done()
	for {
		if err := r.advance(); err != nil {
			return err
		}
		if r.finished() {
			return nil
		}
		select {
		case <-tick.C:
			if err := r.look(); err != nil {
				return err
			}
			r.guard()
		case e := <-r.ended:
			if err := r.end(e); err != nil {
				return err
			}
		case <-timeout.C:
			r.stop("the scenario took longer than guards.timeout, " + string(r.plan.Scenario.Guards.Timeout))
		case <-done:
			done = nil
			r.stop("interrupted")
		}
	}
}

// advance starts what is due: further containers of pods, and pods.
func (r *run) advance() error {
	if r.stopped != "" {
		return nil
	}
	for _, p := range r.pods {
		if err := r.startContainers(p); err != nil {
			return err
		}
	}
	for steps := r.plan.Scenario.Steps; r.step < len(steps); r.step++ {
		s := &steps[r.step]
		if r.pods[s.Start] == nil {
			if err := r.startPod(r.plan.Scenario.pod(s.Start)); err != nil {
				return err
			}
		}
		if s.Until != nil && !r.come(s.Until) {
			return nil
		}
	}
	return nil
}

func (r *run) startPod(p *Pod) error {
	v, err := newVolumes(p.Volumes)
	if err != nil {
		return fmt.Errorf("pod %s: %w", p.Name, err)
	}
	r.pods[p.Name] = &pod{Pod: p, volumes: v}
	return r.startContainers(r.pods[p.Name])
}

// startContainers starts the next init container when the one before has ended well, and the others after the last.
func (r *run) startContainers(p *pod) error {
	all := p.all()
	for p.started < len(all) {
		if before := p.started - 1; before >= 0 && before < len(p.InitContainers) {
			if end, ok := r.endings[p.Name+"/"+all[before].Name]; !ok || end.status != 0 {
				return nil
			}
		}
		ref := p.Name + "/" + all[p.started].Name
		program, err := r.start(r.plan.container(ref), p.volumes)
		if err != nil {
			return err
		}
		p.started++
		r.running[ref] = program
		r.event(Event{Kind: Started, Cgroup: "/" + ref, Text: fmt.Sprintf("%s starts as process %d", ref, program.cmd.Process.Pid)})
		go func(started time.Duration) {
			status, err := program.wait()
			r.ended <- ended{program, ending{status: status, started: started, ended: time.Since(r.began), said: program.said.String()}, err}
		}(time.Since(r.began))
	}
	return nil
}

// come tells that a condition has come.
func (r *run) come(c *Condition) bool {
	if _, ok := r.endings[c.Container]; ok {
		return true
	}
	used := r.watcher.last["/"+c.Container].Usage
	n, ok := used.Get()
	if c.Ended || !ok || int64(n) < c.Usage.Bytes() {
		return false
	}
	r.event(Event{Kind: Grown, Cgroup: "/" + c.Container, Text: fmt.Sprintf("%s uses %s", c.Container, report.Size(int64(n)))})
	return true
}

// finished tells that nothing runs. Since advance has started what was due, nothing will: whatever a step may still wait for
// would have come from a program.
func (r *run) finished() bool { return len(r.running) == 0 }

// look reads the cgroups.
func (r *run) look() error {
	if err := r.cgroups.Sweep(); err != nil {
		return err
	}
	cgroups, _ := r.cgroups.Snapshot() // what can't be read is absent, and then not known
	for _, e := range r.watcher.look(time.Since(r.began), cgroups) {
		r.event(e)
	}
	return nil
}

// end notes that a program ended. What the kernel counted has come before.
func (r *run) end(e ended) error {
	if e.err != nil {
		return fmt.Errorf("waiting for %s: %w", e.program.ref, e.err)
	}
	if err := r.look(); err != nil {
		return err
	}
	ref := e.program.ref
	if r.stopped == "" {
		cgroup := r.watcher.last["/"+ref]
		e.ending.reason = reason(e.ending.status, &cgroup)
		r.witness.ended(ref, e.ending)
	}
	r.endings[ref] = e.ending
	delete(r.running, ref)
	how := fmt.Sprintf("exit status %d", e.ending.status.ExitStatus())
	if s := e.ending.status; s.Signaled() {
		how = "signal " + signalName(s.Signal())
	}
	r.event(Event{Kind: Ended, Cgroup: "/" + ref, Text: ref + " ends with " + how})
	return nil
}

func (r *run) event(e Event) {
	if e.At == 0 {
		e.At = time.Since(r.began)
	}
	r.events = append(r.events, e)
	r.emit(e)
}

// guard stops the run when the node has too little memory left. Its programs give their memory back as they end.
func (r *run) guard() {
	m, err := r.host.Meminfo()
	if err != nil {
		r.stop("the node's memory cannot be watched any more: " + err.Error())
		return
	}
	n, _ := m.MemAvailable.Get()
	if floor := r.plan.Scenario.Guards.NodeAvailable.Bytes(); int64(n) < floor {
		r.stop(fmt.Sprintf("the node's MemAvailable fell to %s, below guards.nodeAvailable, %s", report.Size(int64(n)), report.Size(floor)))
	}
}

// stop ends all programs; the loop goes on until they have.
func (r *run) stop(why string) {
	if r.stopped == "" {
		r.stopped = why
	}
	for _, p := range r.running {
		_ = p.cmd.Process.Kill() // it may have ended by now
	}
}

// settle waits for the verdicts and takes a last look, with what memory.stat says of what is left by then.
func (r *run) settle() error {
	var failed []string
	for ref, end := range r.endings {
		if end.reason == OOMKilled || end.reason == Error {
			failed = append(failed, ref)
		}
	}
	r.witness.await(failed)
	if slices.ContainsFunc(r.plan.Containers, func(c PlannedContainer) bool { return c.volume != "" }) {
		time.Sleep(statAge)
	}
	return r.look()
}

// close ends what still runs after an error, and gives the volumes back.
func (r *run) close() {
	r.stop("an error")
	for range r.running {
		<-r.ended
	}
	for _, p := range r.pods {
		p.volumes.close()
	}
}

// container is the planned container of a reference.
func (p *Plan) container(ref string) *PlannedContainer {
	i := slices.IndexFunc(p.Containers, func(c PlannedContainer) bool { return c.Ref == ref })
	return &p.Containers[i]
}

// command is how a container's program would be started by hand.
func (c *PlannedContainer) command() string { return "memrecon " + strings.Join(c.Args, " ") }
