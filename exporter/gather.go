package exporter

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	dto "github.com/prometheus/client_model/go"

	"github.com/memrecon/memrecon/collector"
	"github.com/memrecon/memrecon/incident"
	"github.com/memrecon/memrecon/snapshot"
)

// gatherer makes metric families of the latest result. It stands beside a Registry, not in it: a Registry builds every series
// anew for each scrape and checks each against all others, which takes most of the time of a scrape with thousands of them.
// What it checks, this package's tests do.
type gatherer struct {
	latest func() *collector.Result
	// incidents may be nil.
	incidents *incident.Watch
	now       func() time.Time
	version   string
	classes   []snapshot.Class
	max       int
	table     []metric
	// process holds the metrics of the Go runtime and of the process.
	process *prometheus.Registry
	// spare keeps the batch of one scrape for the next; a second one at the same time makes its own.
	spare chan *batch
}

func newGatherer(c Config) (*gatherer, error) {
	g := &gatherer{
		latest: c.Latest, incidents: c.Incidents, now: time.Now, version: c.Version, classes: c.Classes, max: c.MaxCgroups,
		table: table(), process: prometheus.NewRegistry(), spare: make(chan *batch, 1),
	}
	slices.SortFunc(g.table, func(a, b metric) int { return strings.Compare(a.name, b.name) })
	for _, c := range []prometheus.Collector{
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		collectors.NewGoCollector(collectors.WithGoCollectorMemStatsMetricsDisabled()),
	} {
		if err := g.process.Register(c); err != nil {
			return nil, fmt.Errorf("metrics of the process: %w", err)
		}
	}
	return g, nil
}

// Gather implements prometheus.TransactionalGatherer.
func (g *gatherer) Gather() ([]*dto.MetricFamily, func(), error) {
	families, err := g.process.Gather()
	result := g.latest()
	if result == nil {
		return families, func() {}, err
	}
	var b *batch
	select {
	case b = <-g.spare:
	default:
		b = newBatch(g.table)
	}
	families = append(families, b.fill(g, result)...)
	slices.SortFunc(families, func(a, b *dto.MetricFamily) int { return strings.Compare(a.GetName(), b.GetName()) })
	return families, func() {
		clear(b.cgroups) // or they keep the whole result
		select {
		case g.spare <- b:
		default:
		}
	}, err
}

// batch is the memory of one scrape. It is used again for later ones, so that a steady scrape allocates next to nothing.
type batch struct {
	table    []metric
	families []dto.MetricFamily
	samples  slab[sample]
	values   slab[labelPair]
	// pairs are the labels of all series, one after the other.
	pairs []*dto.LabelPair
	// known are the pairs made in this scrape, but for the cgroups' own.
	known map[labelKey]*dto.LabelPair
	// cgroups are the exported ones and paths their labels.
	cgroups     []cgroup
	paths       []*dto.LabelPair
	cgroupLabel string
	out         []*dto.MetricFamily
}

type sample struct {
	metric  dto.Metric
	gauge   dto.Gauge
	counter dto.Counter
	value   float64
}

type labelPair struct {
	pair  dto.LabelPair
	value string
}

type labelKey struct{ name, value string }

func newBatch(table []metric) *batch {
	b := &batch{
		table: table, families: make([]dto.MetricFamily, len(table)), known: map[labelKey]*dto.LabelPair{}, cgroupLabel: "cgroup",
	}
	for i := range table {
		m := &table[i]
		b.families[i] = dto.MetricFamily{Name: &m.name, Help: &m.help, Type: &m.kind}
		if m.unit != "" {
			b.families[i].Unit = &m.unit
		}
	}
	return b
}

// fill makes the families of a result, without those that have no series. They are valid until the next fill.
func (b *batch) fill(g *gatherer, result *collector.Result) []*dto.MetricFamily {
	b.samples.reset()
	b.values.reset()
	clear(b.known)
	b.pairs, b.paths, b.out = b.pairs[:0], b.paths[:0], b.out[:0]
	n := &node{Result: result, snap: result.Sheet.Snapshot(), now: g.now(), version: g.version}
	if g.incidents != nil {
		n.incidents = g.incidents.Counts()
	}
	b.choose(g, n)
	for i := range b.cgroups {
		b.paths = append(b.paths, b.newPair(&b.cgroupLabel, b.cgroups[i].Path))
	}
	for i := range b.table {
		m, f := &b.table[i], &b.families[i]
		f.Metric = f.Metric[:0]
		out := series{b: b, metric: m, family: f}
		if m.node != nil {
			m.node(n, &out)
		} else {
			for j := range b.cgroups {
				out.cgroup = b.paths[j]
				m.cgroup(&b.cgroups[j], &out)
			}
		}
		if len(f.Metric) > 0 {
			b.out = append(b.out, f)
		}
	}
	return b.out
}

// choose picks the cgroups to export, in the order of their paths.
func (b *batch) choose(g *gatherer, n *node) {
	b.cgroups = b.cgroups[:0]
	for i := range n.snap.Cgroups {
		if !slices.Contains(g.classes, n.Sheet.Class(i)) {
			n.classLeftOut++
			continue
		}
		b.cgroups = append(b.cgroups, cgroup{Cgroup: &n.snap.Cgroups[i], sheet: n.Sheet, index: i, row: &n.Sheet.Rows[i]})
	}
	if more := len(b.cgroups) - g.max; more > 0 {
		n.maxLeftOut = more
		slices.SortFunc(b.cgroups, func(x, y cgroup) int { return cmp.Compare(y.row.UsageBytes(), x.row.UsageBytes()) })
		b.cgroups = b.cgroups[:g.max]
	}
	slices.SortFunc(b.cgroups, func(x, y cgroup) int { return strings.Compare(x.Path, y.Path) })
}

// series takes the series of one metric.
type series struct {
	b      *batch
	metric *metric
	family *dto.MetricFamily
	cgroup *dto.LabelPair
}

// add makes a series with these values of the metric's labels. A label whose value is empty is left out: to Prometheus that
// is the same.
func (s *series) add(value float64, labels ...string) {
	b := s.b
	first := len(b.pairs)
	if s.cgroup != nil {
		b.pairs = append(b.pairs, s.cgroup)
	}
	for i, l := range labels {
		if l != "" {
			b.pairs = append(b.pairs, b.pair(&s.metric.labels[i], l))
		}
	}
	x := b.samples.next()
	x.value = value
	x.metric.Label = b.pairs[first:len(b.pairs):len(b.pairs)]
	x.metric.Gauge, x.metric.Counter = nil, nil
	if s.metric.kind == counter {
		x.counter.Value, x.metric.Counter = &x.value, &x.counter
	} else {
		x.gauge.Value, x.metric.Gauge = &x.value, &x.gauge
	}
	s.family.Metric = append(s.family.Metric, &x.metric)
}

func (b *batch) pair(name *string, value string) *dto.LabelPair {
	key := labelKey{*name, value}
	p, ok := b.known[key]
	if !ok {
		p = b.newPair(name, value)
		b.known[key] = p
	}
	return p
}

func (b *batch) newPair(name *string, value string) *dto.LabelPair {
	p := b.values.next()
	p.value = labelValue(value)
	p.pair.Name, p.pair.Value = name, &p.value
	return &p.pair
}

// labelValue makes a name valid UTF-8, as Prometheus asks for; the names of cgroups are any bytes. Each byte that is not
// UTF-8 becomes U+FFFD and two hexadecimal digits, and so does a U+FFFD itself: different names stay different.
func labelValue(name string) string {
	if utf8.ValidString(name) && !strings.ContainsRune(name, utf8.RuneError) {
		return name
	}
	var b strings.Builder
	for len(name) > 0 {
		r, n := utf8.DecodeRuneInString(name)
		if r != utf8.RuneError {
			b.WriteString(name[:n])
		} else {
			for _, c := range []byte(name[:n]) {
				fmt.Fprintf(&b, "%c%02x", utf8.RuneError, c)
			}
		}
		name = name[n:]
	}
	return b.String()
}

// slab hands out elements that stay where they are, and the same ones again after a reset.
type slab[T any] struct {
	chunks [][]T
	used   int
}

const chunk = 512

func (s *slab[T]) next() *T {
	if s.used == len(s.chunks)*chunk {
		s.chunks = append(s.chunks, make([]T, chunk))
	}
	x := &s.chunks[s.used/chunk][s.used%chunk]
	s.used++
	return x
}

// reset takes all elements back. Chunks that were not in use since the last time are given up.
func (s *slab[T]) reset() {
	keep := (s.used + chunk - 1) / chunk
	clear(s.chunks[keep:])
	s.chunks = s.chunks[:keep]
	s.used = 0
}
