// Package incident watches a node for what dies there for memory: it feeds a verdict.Judge from the kernel's log, from cgroups' counters
// and from each round, and keeps what the Judge says together with the flight record of the victim. It does not know how a verdict
// comes about, or how it is shown.
package incident

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/memrecon/memrecon/cgroup"
	"github.com/memrecon/memrecon/collector"
	"github.com/memrecon/memrecon/flight"
	"github.com/memrecon/memrecon/kernellog"
	"github.com/memrecon/memrecon/snapshot"
	"github.com/memrecon/memrecon/verdict"
)

// Config says what is watched, and who is told.
type Config struct {
	// Procfs and Sysfs are the roots of the two file systems, as for the collector.
	Procfs, Sysfs string
	// Kmsg is the device of the kernel's log, as a rule /dev/kmsg. Where it can't be opened, syslog(2) is tried. Empty to do without
	// the log.
	Kmsg string
	// Identify tells from a path in the log whose a cgroup is; nil for cgroup.Identify. It has to say what the rounds say.
	Identify func(path string) snapshot.Identity
	// Tell is told an Incident when it is new, when its verdict or its effect has become another, and when its pod's name is known at
	// last. It must not keep the caller waiting.
	Tell func(Incident)
	// Disk keeps incidents over a restart; nil for nothing does.
	Disk *Disk
	// Logger takes what stands in the way.
	Logger *slog.Logger
	// Clock tells the time; nil for time.Now.
	Clock func() time.Time
}

// Incident is what happened, and the memory of whom it happened to.
type Incident struct {
	verdict.Incident
	// Flight is the record of the victim's cgroup, nil where there is none, and for all but the latest incidents.
	Flight *flight.Record `json:"flight,omitempty"`
}

// Key is what incidents are counted by. The names are empty where they are not known, or were too many.
type Key struct {
	Verdict                   verdict.Verdict
	Namespace, Pod, Container string
}

// Bounds of what is kept.
const (
	mostIncidents = 512
	mostFlights   = 32
	// MostKeys is how many Keys with names there are at most; what comes after them is counted without.
	MostKeys = 200
	// settled is how old an incident is when it is counted, and its flight record is whole: until then its verdict may change.
	settled = 5 * time.Second
)

// Watch watches. Its methods may be called at the same time.
type Watch struct {
	config Config
	log    *kernellog.Live // nil where it may not be read
	flight *flight.Recorder
	swept  chan sweep
	// wake tells the log's reader that a kill was counted.
	wake chan struct{}

	mu      sync.Mutex
	kills   uint64 // that the node has counted, as of the last round
	judge   *verdict.Judge
	started time.Time
	kept    []*entry // by time of arrival
	counts  map[Key]uint64
	unsaved bool
}

// sweep is what a round found in the hierarchy.
type sweep struct {
	cgroups []snapshot.Cgroup
	// lost tells that this round, or one before it that nobody took, found no hierarchy: what there is now may be another.
	lost bool
}

type entry struct {
	Incident
	counted bool
	// restored tells that it was told by a watch before this one.
	restored bool
	told     struct {
		verdict verdict.Verdict
		effect  verdict.Effect
		pod     string
	}
}

// Open prepares to watch. That the kernel's log may not be read is no error: the Logger is told what that means.
func Open(c Config) *Watch {
	if c.Clock == nil {
		c.Clock = time.Now
	}
	if c.Identify == nil {
		c.Identify = cgroup.Identify
	}
	var log *kernellog.Live
	if c.Kmsg != "" {
		var err error
		if log, err = kernellog.Open(c.Kmsg); err != nil {
			c.Logger.Info("verdicts rest on counters and on the kubelet's word, not on the kernel's records", "error", err)
		}
	}
	w := &Watch{
		config: c, log: log, flight: flight.NewRecorder(flight.Options{}), swept: make(chan sweep, 1), wake: make(chan struct{}, 1),
		judge: verdict.NewJudge(log != nil), started: c.Clock(), counts: map[Key]uint64{},
	}
	w.restore()
	return w
}

// restore takes in what was kept on disk.
func (w *Watch) restore() {
	if w.config.Disk == nil {
		return
	}
	incidents, err := w.config.Disk.Load()
	if err != nil {
		w.complain("not all incidents from before are known", err)
	}
	for _, in := range incidents {
		w.kept = append(w.kept, &entry{Incident: in, counted: true, restored: true})
	}
}

func (w *Watch) complain(what string, err error) {
	hint := ""
	if found, ok := errors.AsType[*Error](err); ok {
		hint = found.Hint
	}
	w.config.Logger.Warn(what, "error", err, "hint", hint)
}

// save has the disk hold what is known now. An error is told once, until it is another.
func (w *Watch) save(told string) string {
	w.mu.Lock()
	due := w.unsaved
	w.unsaved = false
	w.mu.Unlock()
	if !due {
		return told
	}
	err := w.config.Disk.Save(w.Incidents())
	if err == nil {
		return ""
	}
	w.mu.Lock()
	w.unsaved = true
	w.mu.Unlock()
	if err.Error() != told {
		w.complain("incidents are not kept on disk", err)
	}
	return err.Error()
}

// saveEvery is how often the disk is written to at most.
const saveEvery = 5 * time.Second

// keepOnDisk saves now and then, and in the end.
func (w *Watch) keepOnDisk(ctx context.Context) {
	ticker := time.NewTicker(saveEvery)
	defer ticker.Stop()
	told := ""
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-ticker.C:
		}
		told = w.save(told)
	}
}

// Run follows the kernel's log and the counters until ctx ends.
func (w *Watch) Run(ctx context.Context) {
	var running sync.WaitGroup
	if w.log != nil {
		running.Go(func() { w.followLog(ctx) })
	}
	running.Go(func() { w.followCounters(ctx) })
	if w.config.Disk != nil {
		running.Go(func() { w.keepOnDisk(ctx) })
	}
	running.Wait()
}

// pollLog is how often syslog(2) is asked, which cannot tell that there is something new, and for each answer goes through all that the
// log has. It is also asked when a kill was counted.
const pollLog = 5 * time.Second

func (w *Watch) followLog(ctx context.Context) {
	defer func() { _ = w.log.Close() }()
	parser := kernellog.NewParser(w.config.Identify, func(k *snapshot.Kill) {
		w.judged(func(now time.Time) { w.judge.Kill(k, now) })
	})
	err := w.log.Follow(ctx, parser, pollLog, w.wake, func(what string) {
		w.config.Logger.Warn("a part of the kernel's log is lost, and kills in it are known by their counters alone", "what", what)
	})
	if err != nil {
		w.config.Logger.Error("the kernel's log can be followed no longer", "error", err)
	}
}

// followCounters watches the hierarchy that the rounds find. Once a round finds none, it is looked for again, as the collector does.
func (w *Watch) followCounters(ctx context.Context) {
	var watcher *cgroup.Watcher
	var told []snapshot.SourceError
	end := func() {}
	defer func() { end() }()
	for {
		select {
		case <-ctx.Done():
			return
		case s := <-w.swept:
			if s.lost {
				end()
				watcher, end = nil, func() {}
			}
			if len(s.cgroups) == 0 {
				continue
			}
			if watcher == nil {
				h, err := cgroup.Find(w.config.Sysfs)
				if err != nil {
					continue // the collector says so
				}
				watcher = cgroup.Watch(h, w.config.Procfs)
				end = w.run(ctx, watcher)
			}
			told = w.tellFaults(watcher.Sync(s.cgroups), told)
		}
	}
}

// run runs a Watcher until ctx ends or end is called, which waits for its end.
func (w *Watch) run(ctx context.Context, watcher *cgroup.Watcher) (end func()) {
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() {
		watcher.Run(ctx, func(c snapshot.OOMCounters) {
			w.wakeLog()
			w.judged(func(time.Time) { w.judge.Counters(&c) })
		})
	})
	return func() {
		cancel()
		running.Wait()
	}
}

// wakeLog has the kernel's log read soon.
func (w *Watch) wakeLog() {
	select {
	case w.wake <- struct{}{}:
	default: // it has not looked since the last time
	}
}

// tellFaults tells what stands in the way of the Watcher and was not told the last time.
func (w *Watch) tellFaults(faults, told []snapshot.SourceError) []snapshot.SourceError {
	for _, f := range faults {
		if !slices.Contains(told, f) {
			w.config.Logger.Warn("OOM counters are not watched as they should be", "source", f.Source, "error", f.Error, "hint", f.Hint)
		}
	}
	return faults
}

// Round is told each round of the collector's.
func (w *Watch) Round(r *collector.Result) {
	s := r.Sheet.Snapshot()
	w.flight.Record(r.Sheet)
	found := sweep{s.Cgroups, len(s.Cgroups) == 0}
	select {
	case missed := <-w.swept: // nobody took it, and this one is newer
		found.lost = found.lost || missed.lost
	default:
	}
	w.swept <- found
	w.judged(func(time.Time) {
		// What stands in the root of the hierarchy has no counters of its own, and old kernels have none at all.
		if kills, isCounted := s.Host.Vmstat.Get("oom_kill"); kills != w.kills || !isCounted {
			w.kills = kills
			w.wakeLog()
		}
		w.judge.Round(s)
	})
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range w.kept {
		if e.counted {
			continue
		}
		w.record(e)
		if s.Time.Sub(e.Time) >= settled {
			e.counted, w.unsaved = true, true
			if !e.Time.Before(w.started) {
				w.count(e)
			}
		}
	}
}

// judged has the Judge look at something, and keeps what it says then.
func (w *Watch) judged(look func(now time.Time)) {
	w.mu.Lock()
	var told []Incident
	look(w.config.Clock())
	for _, in := range w.judge.Changed() {
		if e := w.keep(in); w.isNews(e) {
			told = append(told, e.Incident)
		}
	}
	w.mu.Unlock()
	for _, in := range told {
		w.config.Tell(in)
	}
}

// keep takes an incident in, in place of what was said of it before.
func (w *Watch) keep(in verdict.Incident) *entry {
	i := slices.IndexFunc(w.kept, func(e *entry) bool { return e.ID == in.ID })
	if i < 0 {
		w.kept = append(w.kept, &entry{})
		i = len(w.kept) - 1
	}
	e := w.kept[i]
	if e.restored && in.Time.Before(w.started) {
		return e // the kernel's log has it still, but then it was known better whose it was
	}
	w.unsaved = true
	e.Incident.Incident = in
	w.record(e)
	if over := len(w.kept) - mostIncidents; over > 0 {
		w.kept = slices.Delete(w.kept, 0, over)
	}
	if over := len(w.kept) - mostFlights; over > 0 {
		w.kept[over-1].Flight = nil
	}
	return e
}

// isNews tells that somebody should hear of it now: not of what happened before the watch began, and not twice the same.
func (w *Watch) isNews(e *entry) bool {
	before := e.told
	e.told.verdict, e.told.effect, e.told.pod = e.Verdict, e.Effect, e.Victim.Pod
	if e.restored || e.Time.Before(w.started) {
		return false
	}
	return before.verdict != e.Verdict || before.pod == "" && e.Victim.Pod != "" || before.effect != e.Effect && e.Effect == verdict.ProcessOnly
}

// record adds the flight record of the victim's cgroup as far as it goes by now.
func (w *Watch) record(e *entry) {
	if e.restored {
		return
	}
	keys := w.flight.ByPath(e.Victim.Path)
	if id := e.Victim.Identity.ContainerID; id != "" && len(keys) == 0 {
		keys = w.flight.ByContainer(id)
	}
	if e.Victim.Path == "" && len(keys) == 0 {
		return
	}
	for _, key := range keys {
		r, ok := w.flight.Around(key, e.Time.Add(-2*time.Minute), e.Time.Add(settled))
		if ok && len(r.Samples) > 0 && r.Samples[0].Time.Before(e.Time) { // else it is another of this path, made since
			e.Flight = r
			return
		}
	}
}

func (w *Watch) count(e *entry) {
	key := Key{e.Verdict, e.Victim.Namespace, e.Victim.Pod, e.Victim.Container}
	if _, ok := w.counts[key]; !ok && len(w.counts) >= MostKeys {
		key = Key{Verdict: e.Verdict}
	}
	w.counts[key]++
}

// Incidents are those that are known, by their time.
func (w *Watch) Incidents() []Incident {
	w.mu.Lock()
	defer w.mu.Unlock()
	list := make([]Incident, 0, len(w.kept))
	for _, e := range w.kept {
		list = append(list, e.Incident)
	}
	slices.SortStableFunc(list, func(a, b Incident) int { return a.Time.Compare(b.Time) })
	return list
}

// Counts are how many incidents there were since the start; each is counted some seconds after it came, when its verdict stands.
func (w *Watch) Counts() map[Key]uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return maps.Clone(w.counts)
}
