package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/alecthomas/kong"

	"github.com/memrecon/memrecon/collector"
	"github.com/memrecon/memrecon/exporter"
	"github.com/memrecon/memrecon/incident"
	"github.com/memrecon/memrecon/kubelet"
	"github.com/memrecon/memrecon/report"
	"github.com/memrecon/memrecon/snapshot"
	"github.com/memrecon/memrecon/verdict"
)

// The default port is beyond 9100 to 9999, which are all given to other exporters on Prometheus' list.
type agentCommand struct {
	hostFlags
	Interval         time.Duration    `default:"1s" help:"How often the node is read, 100ms or more (${default})."`
	ReportInterval   time.Duration    `default:"5m" help:"How often a report goes to standard output, 0 for never (${default})."`
	Kmsg             string           `name:"path.kmsg" default:"/dev/kmsg" placeholder:"FILE" help:"The device of the kernel's log; where it cannot be opened, syslog(2) is tried; empty to do without (${default})."`
	IncidentsDir     string           `name:"incidents.dir" placeholder:"DIR" help:"A folder in which incidents outlast a restart; without one they do not."`
	KubernetesEvents bool             `name:"kubernetes.events" help:"Tell incidents as Events on the pods, and on the Node: kubectl describe shows them. Needs the right to create and patch events."`
	LogFormat        string           `name:"log.format" default:"text" placeholder:"FORMAT" help:"text: reports on standard output, the log on standard error; json: both on standard output, one object a line (${default})."`
	LogLevel         slog.Level       `name:"log.level" default:"info" placeholder:"LEVEL" help:"debug, info, warn or error (${default})."`
	ListenAddresses  []string         `name:"web.listen-address" default:":19110" placeholder:"[HOST]:PORT" help:"Where to serve HTTP; may be given more than once (${default})."`
	WebConfig        string           `name:"web.config.file" placeholder:"FILE" help:"TLS and passwords, in the form of Prometheus' exporter-toolkit."`
	MetricsClasses   []snapshot.Class `name:"metrics.classes" default:"container,pod,qos,kubepods,slice" placeholder:"CLASS" help:"The classes of cgroups with metrics of their own: also service, scope, root, cgroup (any other), or all (${default})."`
	MetricsMaxGroups int              `name:"metrics.max-cgroups" default:"2000" placeholder:"N" help:"How many cgroups have metrics at most, those with the highest usage (${default})."`
}

// minInterval keeps memrecon from being the load that it measures.
const minInterval = 100 * time.Millisecond

// allClasses stands for every class in --metrics.classes.
const allClasses = "all"

func classes() []snapshot.Class {
	return []snapshot.Class{
		snapshot.ClassContainer, snapshot.ClassPod, snapshot.ClassQoS, snapshot.ClassKubepods, snapshot.ClassSlice,
		snapshot.ClassService, snapshot.ClassScope, snapshot.ClassRoot, snapshot.ClassOther,
	}
}

// gcPercent is how far the heap may grow before garbage is collected, unless GOGC says otherwise: a snapshot a second makes
// little garbage that is quickly collected, and what the agent keeps resident matters more.
const gcPercent = 25

// Validate finds everything that is wrong with the flags.
func (c *agentCommand) Validate() error {
	var errs []error
	if c.Interval < minInterval {
		errs = append(errs, fmt.Errorf("--interval %s: at least %s", c.Interval, minInterval))
	}
	if c.ReportInterval < 0 {
		errs = append(errs, fmt.Errorf("--report-interval %s: 0 or more", c.ReportInterval))
	}
	if c.LogFormat != "text" && c.LogFormat != "json" {
		errs = append(errs, fmt.Errorf("--log.format %s: text or json", c.LogFormat))
	}
	for _, address := range c.ListenAddresses {
		if _, _, err := net.SplitHostPort(address); err != nil {
			errs = append(errs, fmt.Errorf("--web.listen-address %s: [HOST]:PORT, such as :19110 or 127.0.0.1:19110", address))
		}
	}
	for _, class := range c.MetricsClasses {
		if class != allClasses && !slices.Contains(classes(), class) {
			errs = append(errs, fmt.Errorf("--metrics.classes %s: one of %v or %s", class, classes(), allClasses))
		}
	}
	if c.MetricsMaxGroups < 0 {
		errs = append(errs, fmt.Errorf("--metrics.max-cgroups %d: 0 or more", c.MetricsMaxGroups))
	}
	return errors.Join(errs...)
}

// Run watches the node until it is told to stop.
func (c *agentCommand) Run(stdout io.Writer, k *kong.Context) error {
	logger := slog.New(slog.NewTextHandler(k.Stderr, &slog.HandlerOptions{Level: c.LogLevel}))
	if c.LogFormat == "json" {
		logger = slog.New(slog.NewJSONHandler(stdout, &slog.HandlerOptions{Level: c.LogLevel}))
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends it at once

	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	exported := c.MetricsClasses
	if slices.Contains(exported, allClasses) {
		exported = classes()
	}
	server, err := exporter.Listen(c.ListenAddresses, c.WebConfig, logger)
	if err != nil {
		return err
	}
	config := c.config()
	config.Logger = logger
	node, err := collector.Open(config)
	if err != nil {
		return err
	}
	told := []func(*report.Incident){}
	if c.KubernetesEvents {
		if config.Kubelet == nil {
			return errors.New("--kubernetes.events needs --kubelet.url, for the names of pods")
		}
		events, err := kubelet.OpenEvents(*config.Kubelet)
		if err != nil {
			return err
		}
		told = append(told, func(in *report.Incident) { post(events, in) })
		go events.Run(ctx, func(e snapshot.SourceError) {
			logger.Warn("cannot write Events", "source", e.Source, "error", e.Error, "hint", e.Hint)
		})
	}
	var disk *incident.Disk
	if c.IncidentsDir != "" {
		if disk, err = incident.OpenDisk(c.IncidentsDir); err != nil {
			return err
		}
	}
	out := &console{w: stdout, json: c.LogFormat == "json"}
	watch := incident.Open(incident.Config{
		Procfs: c.Procfs, Sysfs: c.Sysfs, Kmsg: c.Kmsg, Disk: disk, Logger: logger,
		Tell: func(in incident.Incident) {
			words := report.NewIncident(&in.Incident, in.Flight)
			c.tell(out, logger, &words)
			for _, tell := range told {
				tell(&words)
			}
		},
	})
	handler, err := exporter.NewHandler(exporter.Config{
		Latest: node.Latest, Incidents: watch, Interval: c.Interval, Classes: exported, MaxCgroups: c.MetricsMaxGroups, Version: buildVersion(), Logger: logger,
	})
	if err != nil {
		return err
	}
	heap, err := limitHeap()
	if err != nil {
		logger.Warn("cannot find the limit of the agent's own memory: Go's heap is not limited, unless GOMEMLIMIT does", "error", err)
	}
	logger.Info("memrecon agent starts", "version", buildVersion(), "interval", c.Interval.String(), "report_interval", c.ReportInterval.String(),
		"heap_limit_bytes", heap)

	due, done := make(chan *collector.Result, 1), make(chan struct{})
	go watch.Run(ctx)
	go func() {
		defer close(due)
		reports := c.schedule(due)
		node.Run(ctx, c.Interval, func(r *collector.Result) {
			watch.Round(r)
			reports(r)
		})
	}()
	go func() {
		defer close(done)
		for result := range due {
			if err := out.report(result); err != nil {
				logger.Error("cannot write the report", "error", err)
			}
		}
	}()
	err = server.Serve(ctx, handler)
	stop()
	select {
	case <-done:
		err = errors.Join(err, node.Close())
	case <-time.After(time.Second):
		logger.Warn("a read of the node, or the report to standard output, hangs; leaving it behind")
	}
	logger.Info("memrecon agent stops")
	return err
}

// awaitKubelet is how long the first report waits for the kubelet's answer, which gives the names.
const awaitKubelet = time.Minute

// schedule takes every result and passes on those that are to be reported. It drops one that is due while the one before it
// is still being written, so that a stuck standard output does not stop the reading.
func (c *agentCommand) schedule(due chan<- *collector.Result) func(*collector.Result) {
	var first, next time.Time
	return func(r *collector.Result) {
		if first.IsZero() {
			first = r.Finished
		}
		if c.ReportInterval == 0 || r.Finished.Before(next) {
			return
		}
		said := r.Sheet.Snapshot().Kubernetes
		answered := said != nil && said.Pods != nil && !said.Summary.IsZero()
		if c.KubeletURL != "" && next.IsZero() && !answered && r.Finished.Sub(first) < awaitKubelet {
			return
		}
		select {
		case due <- r:
			next = r.Finished.Add(c.ReportInterval)
		default:
		}
	}
}

// tell says what died, in a line of the log at once, and what is known of it as a block. What only was told to stop has nothing to do
// with memory as a rule.
func (c *agentCommand) tell(out *console, logger *slog.Logger, in *report.Incident) {
	level := slog.LevelWarn
	if in.Verdict == verdict.Stopped {
		level = slog.LevelDebug
	}
	logger.Log(context.Background(), level, in.Sentence, "verdict", in.Verdict, "confidence", in.Confidence, "time", in.Time,
		"namespace", in.Victim.Namespace, "pod", in.Victim.Pod, "container", in.Victim.Container, "cgroup", in.Victim.Path, "page", in.Page)
	if level < slog.LevelWarn {
		return
	}
	if err := out.incident(in); err != nil {
		logger.Error("cannot write the incident", "error", err)
	}
}

// post writes an incident as an Event on its pod, and on the Node where the node's own memory was at its end.
func post(events *kubelet.Events, in *report.Incident) {
	unnamed := in.Victim.Identity.PodUID != "" && in.Victim.Pod == "" // it is told again with its name
	if in.Verdict == verdict.Stopped || unnamed {
		return
	}
	event := kubelet.Event{
		Namespace: in.Victim.Namespace, Pod: in.Victim.Pod, UID: in.Victim.Identity.PodUID, Container: in.Victim.Container,
		Reason: in.Reason(), Message: in.Sentence + " " + in.Page, Time: in.Time,
	}
	if event.Pod != "" {
		events.Post(event)
	}
	switch in.Verdict {
	case verdict.NodeOOM, verdict.KubepodsLimit, verdict.Evicted, verdict.EvictedInnocent:
		events.Post(kubelet.Event{Reason: event.Reason, Message: event.Message, Time: event.Time})
	}
}

// console is where reports go: text, or JSON, one object a line.
type console struct {
	mu   sync.Mutex
	w    io.Writer
	json bool
}

func (c *console) report(r *collector.Result) error {
	return c.write(func() any { return report.NewDocument(r.Sheet) }, func(w io.Writer) error {
		return report.Text(w, r.Sheet, report.Options{Rows: 12})
	})
}

func (c *console) incident(in *report.Incident) error {
	return c.write(func() any { return in }, func(w io.Writer) error {
		return report.IncidentsText(w, []report.Incident{*in}, report.Options{})
	})
}

// write writes one thing at once, so that it and the lines of the log do not mix.
func (c *console) write(document func() any, text func(io.Writer) error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var b bytes.Buffer
	var err error
	if c.json {
		err = json.NewEncoder(&b).Encode(document())
	} else {
		err = text(&b)
	}
	if err != nil {
		return err
	}
	_, err = c.w.Write(b.Bytes())
	return err
}
