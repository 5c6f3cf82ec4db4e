// Package exporter shows the collector's latest result over HTTP: Prometheus metrics, probes, and the report as an API. It
// reads nothing of the node and does no arithmetic on memory.
package exporter

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/exporter-toolkit/web"

	"github.com/memrecon/memrecon/collector"
	"github.com/memrecon/memrecon/incident"
	"github.com/memrecon/memrecon/report"
	"github.com/memrecon/memrecon/snapshot"
)

// Config says what is shown.
type Config struct {
	// Latest is the newest result, nil before the first.
	Latest func() *collector.Result
	// Incidents is what watches for what dies; nil for nothing.
	Incidents *incident.Watch
	// Interval is how often there is to be a new one.
	Interval time.Duration
	// Classes are the classes of cgroups that have metrics.
	Classes []snapshot.Class
	// MaxCgroups is how many cgroups have metrics at most, those with the highest usage.
	MaxCgroups int
	// Version is memrecon's.
	Version string
	// Logger takes what goes wrong while answering.
	Logger *slog.Logger
}

// maxScrapes is how many scrapes are answered at a time; each takes memory in proportion to the cgroups.
const maxScrapes = 4

// NewHandler answers /metrics, /livez, /readyz, /api/v1/report, /api/v1/incidents and, for a browser, /.
func NewHandler(c Config) (http.Handler, error) {
	g, err := newGatherer(c)
	if err != nil {
		return nil, err
	}
	landing, err := web.NewLandingPage(web.LandingConfig{
		Name: "memrecon", Description: "Where the memory of this node is and why the figures differ.", Version: c.Version, Profiling: "false",
		Links: []web.LandingLinks{
			{Address: "api/v1/report?format=text", Text: "Report"},
			{Address: "api/v1/report", Text: "Report as JSON"},
			{Address: "api/v1/incidents?format=text", Text: "Incidents"},
			{Address: "metrics", Text: "Metrics"},
			{Address: "livez", Text: "Liveness"},
			{Address: "readyz", Text: "Readiness"},
		},
	})
	if err != nil {
		return nil, fmt.Errorf("the landing page: %w", err)
	}
	p := probes{latest: c.Latest, interval: c.Interval, now: time.Now, started: time.Now()}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", buffered(scrapes(g, c.Logger)))
	mux.HandleFunc("GET /livez", p.live)
	mux.HandleFunc("GET /readyz", p.ready)
	mux.Handle("GET /api/v1/report", buffered(reports{c.Latest}))
	if c.Incidents != nil {
		mux.Handle("GET /api/v1/incidents", buffered(incidents{c.Incidents, c.Latest}))
	}
	mux.Handle("GET /{$}", landing)
	return mux, nil
}

// scrapes answers with the metrics, in the format that the client asks for.
func scrapes(g *gatherer, logger *slog.Logger) http.Handler {
	return promhttp.HandlerForTransactional(g, promhttp.HandlerOpts{
		ErrorLog: slog.NewLogLogger(logger.Handler(), slog.LevelWarn), ErrorHandling: promhttp.ContinueOnError,
		Registry: g.process, MaxRequestsInFlight: maxScrapes, DisableCompression: true,
	})
}

// probes answer whether memrecon lives and is of use.
type probes struct {
	latest   func() *collector.Result
	interval time.Duration
	now      func() time.Time
	started  time.Time
}

// live is 200 if a round ended within the last 1.5 intervals, an interval below a second counting as one, so that a busy
// node is no dead agent.
func (p probes) live(w http.ResponseWriter, _ *http.Request) {
	last, what := p.started, "no round has ended since memrecon started"
	if r := p.latest(); r != nil {
		last, what = r.Finished, "the last round ended"
	}
	age := p.now().Sub(last).Round(time.Millisecond)
	if due := max(p.interval, time.Second) * 3 / 2; age > due {
		http.Error(w, fmt.Sprintf("%s %s ago, one is due every %s: a read of /proc or /sys hangs, or the node has no CPU time for memrecon",
			what, age, p.interval), http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintf(w, "ok: %s %s ago\n", what, age)
}

// ready is 200 once there is a result.
func (p probes) ready(w http.ResponseWriter, _ *http.Request) {
	if p.latest() == nil {
		http.Error(w, "no result yet: the first round is not done", http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "ok")
}

// reports answers with the latest report.
type reports struct{ latest func() *collector.Result }

func (h reports) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	result := h.latest()
	if result == nil {
		http.Error(w, "no result yet: the first round is not done", http.StatusServiceUnavailable)
		return
	}
	// What can fail is the client's connection, and then there is nobody to tell.
	switch format := r.URL.Query().Get("format"); format {
	case "", "json":
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(report.NewDocument(result.Sheet))
	case "text":
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_ = report.Text(w, result.Sheet, report.Options{})
	default:
		http.Error(w, fmt.Sprintf("no format %q: json or text", format), http.StatusBadRequest)
	}
}

// incidents answers with what died: of=NAME keeps those of a pod or a container, since=1h those of the last hour.
type incidents struct {
	watch  *incident.Watch
	latest func() *collector.Result
}

func (h incidents) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var from time.Time
	if since := r.URL.Query().Get("since"); since != "" {
		d, err := time.ParseDuration(since)
		if err != nil {
			http.Error(w, fmt.Sprintf("since %q is no duration, such as 1h30m", since), http.StatusBadRequest)
			return
		}
		from = time.Now().Add(-d)
	}
	d := report.IncidentsDocument{Schema: report.IncidentsSchema, Incidents: []report.Incident{}}
	if result := h.latest(); result != nil {
		d.Node = result.Sheet.Snapshot().Node
	}
	for _, in := range h.watch.Incidents() {
		if named := report.NewIncident(&in.Incident, in.Flight); named.Matches(from, r.URL.Query().Get("of")) {
			d.Incidents = append(d.Incidents, named)
		}
	}
	// What can fail is the client's connection, and then there is nobody to tell.
	switch format := r.URL.Query().Get("format"); format {
	case "", "json":
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(d)
	case "text":
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_ = report.IncidentsText(w, d.Incidents, report.Options{})
	default:
		http.Error(w, fmt.Sprintf("no format %q: json or text", format), http.StatusBadRequest)
	}
}
