package report

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/memrecon/memrecon/flight"
	"github.com/memrecon/memrecon/snapshot"
)

// FlightText writes what a cgroup used around an incident, at most 80 columns wide: a chart of its usage against its limit, the
// incident marked, and the figures, with the most that scrapes may have seen of it. Name is what a person calls the cgroup, "" for its
// path; the zero at is no incident.
func FlightText(w io.Writer, r *flight.Record, name string, at time.Time, o Options) error {
	t := &text{o: o}
	if name == "" {
		name = r.Path
	}
	t.printf("%s\n", t.paint(bold, "Memory of "+cut(name, flightWidth-len("Memory of "))))
	last, ok := r.Last(at)
	switch {
	case ok:
		chart := newChart(r, at)
		t.printf("  %s\n", chart.words(r))
		t.chart(chart)
		t.flightFigures(r, last, at)
	case len(r.Samples) == 0:
		t.printf("  nothing was recorded of it\n")
	default:
		t.printf("  its usage is not known\n")
	}
	_, err := io.WriteString(w, t.b.String())
	return err
}

// The sizes of the block, in characters.
const (
	flightWidth  = 80
	chartColumns = 60
	chartRows    = 8
)

// bars fill a character from below by eighths.
var bars = [...]rune{' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'}

// chart is a record's usage in columns of equal time.
type chart struct {
	start, end time.Time
	// mark is the column of the incident, -1 for none.
	mark int
	at   time.Time
	// columns are the largest usage in each, absent where none is known.
	columns [chartColumns]snapshot.Value
	// top is what the chart goes up to, in bytes; limit is the limit if that is not above it, absent otherwise.
	top   uint64
	limit snapshot.Value
}

// newChart draws from the first sample to the last, or the incident if that is later. So that growth can be seen the limit is left above
// the chart where less than a quarter of it was used.
func newChart(r *flight.Record, at time.Time) *chart {
	c := &chart{start: r.Samples[0].Time, end: r.Samples[len(r.Samples)-1].Time, mark: -1, at: at}
	if at.After(c.end) {
		c.end = at
	}
	if !at.IsZero() && !at.Before(c.start) {
		c.mark = c.column(at)
	}
	highest, _ := r.Highest()
	c.top, _ = highest.Usage.Get()
	if limit, ok := r.Limit.Get(); ok && c.top >= limit/4 {
		c.top, c.limit = max(c.top, limit), r.Limit
	}
	c.fill(r)
	return c
}

func (c *chart) column(at time.Time) int {
	span := c.end.Sub(c.start)
	if span <= 0 {
		return 0
	}
	return int(float64(chartColumns-1) * float64(at.Sub(c.start)) / float64(span))
}

// fill has each sample hold until the next one. One that came late, because the node had no time for the agent, leaves a gap.
func (c *chart) fill(r *flight.Record) {
	gaps := make([]time.Duration, 0, len(r.Samples))
	for i := 1; i < len(r.Samples); i++ {
		gaps = append(gaps, r.Samples[i].Time.Sub(r.Samples[i-1].Time))
	}
	slices.Sort(gaps)
	late := time.Duration(math.MaxInt64)
	if len(gaps) > 0 {
		late = 3 * gaps[len(gaps)/2]
	}
	for i, s := range r.Samples {
		n, ok := s.Usage.Get()
		if !ok {
			continue
		}
		next := c.end
		if i+1 < len(r.Samples) {
			next = r.Samples[i+1].Time
		}
		from := c.column(s.Time)
		to := from
		if next.Sub(s.Time) <= late {
			to = max(from, c.column(next)-1)
		}
		for k := from; k <= to; k++ {
			if m, known := c.columns[k].Get(); !known || n > m {
				c.columns[k] = s.Usage
			}
		}
	}
}

// words say of when the chart is and what limits the cgroup.
func (c *chart) words(r *flight.Record) string {
	limit := "limit not known"
	switch n, ok := r.Limit.Get(); {
	case r.Limit.IsUnlimited():
		limit = "no limit of its own"
	case ok && c.limit.IsAbsent():
		limit = "limit " + Size(int64(n)) + ", above the chart"
	case ok:
		limit = "limit " + Size(int64(n))
	}
	return fmt.Sprintf("%s to %s UTC, %s", c.start.UTC().Format("2006-01-02 15:04:05"), c.end.UTC().Format(clock), limit)
}

const clock = "15:04:05"

// chart draws the rows from above, then the axis, which is there where the usage is known, and the times. A moment is no chart.
func (t *text) chart(c *chart) {
	if !c.end.After(c.start) {
		return
	}
	level := func(n uint64) int { return int(math.Ceil(chartRows * 8 * float64(n) / float64(max(1, c.top)))) }
	limitRow := -1
	if n, ok := c.limit.Get(); ok {
		limitRow = (level(n) - 1) / 8
	}
	for row := chartRows - 1; row >= 0; row-- {
		label, axis := "", "│"
		switch row {
		case chartRows - 1:
			label, axis = Size(int64(c.top)), "┤"
		case chartRows/2 - 1:
			label, axis = Size(int64(c.top/2)), "┤"
		}
		var line strings.Builder
		for _, v := range c.columns {
			n, _ := v.Get()
			bar := bars[min(max(0, level(n)-8*row), 8)]
			if bar == ' ' && row == limitRow {
				bar = '┄'
			}
			line.WriteRune(bar)
		}
		if row == limitRow {
			line.WriteString(" limit")
		}
		t.printf("  %6s %s%s\n", label, axis, strings.TrimRight(line.String(), " "))
	}
	axis := []rune(strings.Repeat(" ", chartColumns))
	for i, v := range c.columns {
		if !v.IsAbsent() {
			axis[i] = '─'
		}
	}
	t.printf("  %6s ┼%s\n", "0", strings.TrimRight(string(axis), " "))
	t.printf("%10s%s\n", "", c.times())
}

// times is the line below the axis: the incident and, as far as there is room, where the chart starts and ends.
func (c *chart) times() string {
	line := []rune(strings.Repeat(" ", chartColumns))
	put := func(from int, s string) {
		label := []rune(s)
		from = min(max(0, from), chartColumns-len(label))
		for i := max(0, from-1); i < min(chartColumns, from+len(label)+1); i++ {
			if line[i] != ' ' {
				return
			}
		}
		copy(line[from:], label)
	}
	if c.mark >= 0 {
		stamp := c.at.UTC().Format(clock + ".000")
		if c.mark+2+len(stamp) <= chartColumns {
			put(c.mark, "▲ "+stamp)
		} else {
			put(c.mark-1-len(stamp), stamp+" ▲")
		}
	}
	put(0, c.start.UTC().Format(clock))
	put(chartColumns, c.end.UTC().Format(clock))
	return strings.TrimRight(string(line), " ")
}

// flightFigures are what there is to say in numbers, of the time until the incident; last is the last sample of that.
func (t *text) flightFigures(r *flight.Record, last flight.Sample, at time.Time) {
	line := func(title, format string, args ...any) {
		t.printf("%s\n", wrapAt(flightWidth, "  "+pad(title, flightTitle), strings.Repeat(" ", 2+flightTitle), fmt.Sprintf(format, args...)))
	}
	highest, _ := r.Highest()
	words := sizeOf(highest.Usage) + " at " + moment(highest.Time, at)
	most, _ := highest.Usage.Get()
	if n, ok := r.Peak.Get(); ok && n > most { // it is older than the samples, and not only of their time
		words += "; " + Size(int64(n)) + " at some time since it was made"
	}
	line("peak", "%s", words)
	line("last", "%s at %s%s", sizeOf(last.Usage), moment(last.Time, at), parts(&last))
	for _, f := range []struct {
		title string
		value snapshot.Value
	}{{"working set", last.WorkingSet}, {"swap", last.Swap}} {
		if n, ok := f.value.Get(); ok && (n > 0 || f.title != "swap") {
			line(f.title, "%s", Size(int64(n)))
		}
	}
	var rates []string
	for _, window := range []time.Duration{10 * time.Second, time.Minute} {
		if g, ok := r.Growth(at, window); ok {
			rate := fmt.Sprintf("%s/s in the last %s", signed(int64(g.BytesPerSecond)), seconds(g.Over))
			if !slices.Contains(rates, rate) { // the record may be shorter than both
				rates = append(rates, rate)
			}
		}
	}
	if len(rates) > 0 {
		line("growth", "%s", strings.Join(rates, ", "))
	}
	often, seldom := r.SeenByScrape(oftenScraped), r.SeenByScrape(seldomScraped)
	if often == seldom {
		line("a scrape", "every %s or %s may have seen %s", seconds(oftenScraped), seconds(seldomScraped), seen(often))
	} else {
		line("a scrape", "every %s may have seen %s, every %s %s", seconds(oftenScraped), seen(often), seconds(seldomScraped), seen(seldom))
	}
	if from, ok := r.Samples[0].MemAvailable.Get(); ok {
		line("node", "%s available at the start, %s at the last sample", Size(int64(from)), sizeOf(last.MemAvailable))
	}
	if !r.Gone.IsZero() {
		line("cgroup", "gone by %s", moment(r.Gone, at))
	}
}

// How often Prometheus scrapes as a rule.
const (
	oftenScraped  = 15 * time.Second
	seldomScraped = 30 * time.Second
)

// seen is what scrapes may have seen at most.
func seen(v snapshot.Value) string {
	if v.IsAbsent() {
		return "nothing of this"
	}
	return "no more than " + sizeOf(v)
}

// flightTitle is the width of the first column of the figures.
const flightTitle = 12

// parts are what a sample's usage consists of, as far as that is known.
func parts(s *flight.Sample) string {
	var words []string
	rest, _ := s.Usage.Get()
	other, complete := int64(rest), true
	for _, p := range []struct {
		name  string
		value snapshot.Value
	}{{"anon", s.Anon}, {"file", s.File}, {"kernel", s.Kernel}} {
		n, ok := p.value.Get()
		if !ok {
			complete = false
			continue
		}
		words = append(words, p.name+" "+Size(int64(n)))
		other -= int64(n)
	}
	if complete && other != 0 {
		words = append(words, "other "+Size(other))
	}
	if len(words) == 0 {
		return ""
	}
	return ": " + strings.Join(words, ", ")
}

// sizeOf is Size of what may not be known.
func sizeOf(v snapshot.Value) string {
	n, ok := v.Get()
	if !ok {
		return "-"
	}
	return Size(int64(n))
}

// moment is a time of day and how far it is from the incident.
func moment(when, at time.Time) string {
	s := when.UTC().Format(clock + ".0")
	switch off := when.Sub(at); {
	case at.IsZero():
	case off > 0:
		s += " (" + seconds(off) + " after)"
	default:
		s += " (" + seconds(-off) + " before)"
	}
	return s
}

// seconds is a time as "0.3 s", "15 s", "90 s".
func seconds(d time.Duration) string {
	d = d.Round(100 * time.Millisecond)
	decimals := 1
	if d >= 10*time.Second || d%time.Second == 0 {
		decimals = 0
	}
	return strconv.FormatFloat(d.Seconds(), 'f', decimals, 64) + " s"
}
