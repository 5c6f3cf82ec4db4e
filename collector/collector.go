// Package collector reads a node and publishes what follows from the reading: one round is host, cgroups, host again, what
// Kubernetes said last, then the sheet over it. It owns when and in which order things are read, and the latest result; it does not know what a result
// is used for.
package collector

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"github.com/memrecon/memrecon/cgroup"
	"github.com/memrecon/memrecon/host"
	"github.com/memrecon/memrecon/kubelet"
	"github.com/memrecon/memrecon/reconcile"
	"github.com/memrecon/memrecon/snapshot"
)

// Config says what to read.
type Config struct {
	// Procfs and Sysfs are the roots of the two file systems, as a rule /proc and /sys.
	Procfs, Sysfs string
	// Node is the node's name; empty for the host's own.
	Node string
	// Kubelet says whom to ask what Kubernetes knows of the node; nil for nobody.
	Kubelet *kubelet.Config
	// Saved is the folder of a saved node that may hold what Kubernetes said; empty for none.
	Saved string
	// Clock tells the time; nil for time.Now.
	Clock func() time.Time
	// Logger takes what the agent has to say; nil for nobody.
	Logger *slog.Logger
}

// Result is one round: a snapshot and what follows from it. It is immutable.
type Result struct {
	Sheet *reconcile.Sheet
	// Sources says how the reading of each source went.
	Sources []SourceStatus
	// Round counts the rounds of this collector, from 1.
	Round uint64
	// Finished is when the round ended.
	Finished time.Time
}

// SourceStatus is how one source's last reading went.
type SourceStatus struct {
	// Name is host, cgroup or kubernetes.
	Name string
	// Err is why there is nothing of it, nil where there is.
	Err error
	// Time is when the source was last read with success, zero if never.
	Time time.Time
	// Duration is how long this reading took.
	Duration time.Duration
}

// Collector reads a node, again and again. Collect and Close must not run at the same time; Latest may be called at any.
type Collector struct {
	config  Config
	host    *host.Reader
	cgroups *cgroup.Reader // nil while there is no hierarchy
	mode    snapshot.Mode
	swept   cgroup.Stats    // as of the sweep before
	kernel  string          // its release
	status  [2]SourceStatus // of hostSource and cgroupSource
	// kubernetes is nil where nobody asks.
	kubernetes *kubernetes
	history    reconcile.History
	rounds     uint64
	latest     atomic.Pointer[Result]
}

// The places of the sources that every round reads, in Collector.status.
const (
	hostSource = iota
	cgroupSource
)

// Open prepares the readers. A host without a memory controller is no error: Collect says what is missing, and looks again.
func Open(config Config) (*Collector, error) {
	if config.Clock == nil {
		config.Clock = time.Now
	}
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	h, err := host.Open(config.Procfs)
	if err != nil {
		return nil, fmt.Errorf("reading the host: %w", err)
	}
	c := &Collector{config: config, host: h, kernel: h.Release()}
	c.status[hostSource].Name, c.status[cgroupSource].Name = "host", "cgroup"
	switch {
	case config.Kubelet != nil:
		if c.kubernetes, err = askKubernetes(*config.Kubelet); err != nil {
			return nil, err
		}
	case config.Saved != "":
		c.kubernetes = savedKubernetes(config.Saved)
	}
	return c, nil
}

// Close ends the readers and gives their file descriptors back.
func (c *Collector) Close() error {
	if c.kubernetes != nil {
		c.kubernetes.stop()
	}
	if c.cgroups == nil {
		return nil
	}
	return c.cgroups.Close()
}

// Latest is the newest result, nil before the first.
func (c *Collector) Latest() *Result { return c.latest.Load() }

// Collect reads the node once and publishes the result. What can't be read is absent in the snapshot, which says why.
func (c *Collector) Collect() *Result {
	start := c.config.Clock()
	began := time.Now()
	snap := &snapshot.Snapshot{Version: snapshot.Version, Time: start, Node: c.config.Node, Kernel: c.kernel}
	before, _ := c.host.Meminfo() // an error shows again below
	c.readCgroups(snap)
	c.readHost(snap)
	snap.Host.MeminfoBefore = before
	snap.Sweep.Duration = time.Since(began)
	if snap.Node == "" {
		snap.Node = c.host.Node()
	}
	c.rounds++
	sources := slices.Clone(c.status[:])
	if c.kubernetes != nil {
		if said := c.kubernetes.latest.Load(); said != nil {
			snap.Kubernetes = said.kubernetes
			snap.Errors = append(snap.Errors, said.errs...)
			sources = append(sources, said.status)
		}
	}
	result := &Result{Sheet: c.history.Next(snap), Sources: sources, Round: c.rounds}
	result.Finished = time.Now()
	c.latest.Store(result)
	return result
}

func (c *Collector) readHost(snap *snapshot.Snapshot) {
	began := time.Now()
	h, errs := c.host.Read()
	snap.Host = h
	snap.Errors = append(snap.Errors, errs...)
	var err error
	if h.Meminfo.IsZero() && len(errs) > 0 {
		err = fmt.Errorf("%s: %s", errs[0].Source, errs[0].Error)
	}
	c.done(hostSource, began, err)
}

func (c *Collector) readCgroups(snap *snapshot.Snapshot) {
	began := time.Now()
	err := c.sweep(snap)
	if err != nil {
		e := snapshot.SourceError{Source: c.config.Sysfs + "/fs/cgroup", Error: err.Error()}
		if found, ok := errors.AsType[*cgroup.Error](err); ok {
			e = snapshot.SourceError{Source: found.Path, Error: found.Err.Error(), Hint: found.Hint}
		}
		snap.Errors = append(snap.Errors, e)
	}
	c.done(cgroupSource, began, err)
}

// sweep reads the cgroups into the snapshot. A hierarchy that is not there, or that went away, is looked for again.
func (c *Collector) sweep(snap *snapshot.Snapshot) error {
	if c.cgroups == nil {
		h, err := cgroup.Find(c.config.Sysfs)
		if err != nil {
			return err
		}
		reader, err := cgroup.Open(h, cgroup.Options{})
		if err != nil {
			return err
		}
		c.cgroups, c.mode, c.swept = reader, h.Mode, cgroup.Stats{}
	}
	if err := c.cgroups.Sweep(); err != nil {
		_ = c.cgroups.Close()
		c.cgroups = nil
		return err
	}
	var errs []snapshot.SourceError
	snap.Cgroups, errs = c.cgroups.Snapshot()
	snap.Errors = append(snap.Errors, errs...)
	snap.Mode = c.mode
	stats := c.cgroups.Stats()
	snap.Sweep.Cgroups = stats.Cgroups
	snap.Sweep.Appeared, snap.Sweep.Vanished = stats.Appeared-c.swept.Appeared, stats.Vanished-c.swept.Vanished
	c.swept = stats
	return nil
}

// done notes how the reading of a source went.
func (c *Collector) done(source int, began time.Time, err error) {
	st := &c.status[source]
	st.Err, st.Duration = err, time.Since(began)
	if err == nil {
		st.Time = c.config.Clock()
	}
}
