package exporter

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"google.golang.org/protobuf/proto"

	"github.com/memrecon/memrecon/collector"
	"github.com/memrecon/memrecon/report"
	"github.com/memrecon/memrecon/snapshot"
)

func handler(t *testing.T, c Config) http.Handler {
	t.Helper()
	h, err := NewHandler(c)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func get(h http.Handler, target string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodGet, target, nil)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestBeforeTheFirstResult(t *testing.T) {
	h := handler(t, config(nil))
	for _, tt := range []struct {
		target string
		status int
		body   string
	}{
		{"/livez", 200, "ok"},
		{"/readyz", 503, "no result yet"},
		{"/api/v1/report", 503, "no result yet"},
		{"/metrics", 200, "process_resident_memory_bytes"},
		{"/", 200, "memrecon"},
		{"/no/such/page", 404, "not found"},
	} {
		w := get(h, tt.target)
		if w.Code != tt.status || !strings.Contains(w.Body.String(), tt.body) {
			t.Errorf("%s: %d %.200s, want %d and %q", tt.target, w.Code, w.Body, tt.status, tt.body)
		}
	}
	if body := get(h, "/metrics").Body.String(); strings.Contains(body, "memrecon_") {
		t.Errorf("metrics without a result:\n%s", body)
	}
}

func TestLive(t *testing.T) {
	for _, tt := range []struct {
		name     string
		interval time.Duration
		finished time.Duration // after the start; 0 for never
		now      time.Duration
		status   int
	}{
		{"first round under way", time.Second, 0, 1500 * time.Millisecond, 200},
		{"first round hangs", time.Second, 0, 1501 * time.Millisecond, 503},
		{"steady", time.Minute, time.Hour, time.Hour + 90*time.Second, 200},
		{"late", time.Minute, time.Hour, time.Hour + 91*time.Second, 503},
		{"short intervals have the time of a second", 100 * time.Millisecond, time.Hour, time.Hour + 1500*time.Millisecond, 200},
		{"but no more", 100 * time.Millisecond, time.Hour, time.Hour + 1501*time.Millisecond, 503},
	} {
		p := probes{
			latest:   func() *collector.Result { return nil },
			interval: tt.interval, started: noon, now: func() time.Time { return noon.Add(tt.now) },
		}
		if tt.finished > 0 {
			r := &collector.Result{Finished: noon.Add(tt.finished)}
			p.latest = func() *collector.Result { return r }
		}
		w := httptest.NewRecorder()
		p.live(w, nil)
		if w.Code != tt.status {
			t.Errorf("%s: %d %s", tt.name, w.Code, w.Body)
		}
	}
}

func TestReport(t *testing.T) {
	h := handler(t, config(result(madeNode(snapshot.V2, 1))))
	w := get(h, "/api/v1/report")
	var d report.Document
	if err := json.Unmarshal(w.Body.Bytes(), &d); err != nil || d.Schema != report.Schema || d.Node != "worker-1" || len(d.Sheet.Rows) == 0 {
		t.Errorf("%v: %.300s", err, w.Body)
	}
	if got := w.Header().Get("Content-Type"); got != "application/json" {
		t.Errorf("JSON is sent as %s", got)
	}
	if w := get(h, "/api/v1/report?format=text"); w.Code != 200 || !strings.Contains(w.Body.String(), "worker-1, 2026-03-01 12:00:00 UTC") {
		t.Errorf("text: %d %.300s", w.Code, w.Body)
	}
	if w := get(h, "/api/v1/report?format=xml"); w.Code != 400 || !strings.Contains(w.Body.String(), `"xml"`) {
		t.Errorf("xml: %d %.300s", w.Code, w.Body)
	}
}

func TestOnlyGet(t *testing.T) {
	h := handler(t, config(result(madeNode(snapshot.V2, 1))))
	for _, path := range []string{"/metrics", "/livez", "/readyz", "/api/v1/report", "/"} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodPost, path, nil))
		if w.Code != http.StatusMethodNotAllowed {
			t.Errorf("POST %s: %d", path, w.Code)
		}
	}
}

func TestCompression(t *testing.T) {
	h := handler(t, config(result(madeNode(snapshot.V2, 1))))
	for _, tt := range []struct {
		accept string
		gzip   bool
	}{
		{"", false}, {"identity", false}, {"gzip", true}, {"deflate, GZIP;q=0.5", true}, {"gzip;q=1.0", true},
		{"gzip;q=0", false}, {"gzip; q=0.000", false}, {"zstd, br", false}, {"x-gzip2", false},
	} {
		w := get(h, "/api/v1/report?format=text", "Accept-Encoding", tt.accept)
		body := w.Body.Bytes()
		if got := w.Header().Get("Content-Encoding") == "gzip"; got != tt.gzip {
			t.Errorf("%q is answered with gzip: %t", tt.accept, got)
		} else if got {
			z, err := gzip.NewReader(w.Body)
			if err != nil {
				t.Fatal(err)
			}
			if body, err = io.ReadAll(z); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Contains(body, []byte("worker-1")) || w.Header().Get("Vary") == "" {
			t.Errorf("%q: %v %.100s", tt.accept, w.Header(), body)
		}
	}
}

// Prometheus asks for protocol buffers where native histograms are on. The same objects must serve that as well.
func TestProtobuf(t *testing.T) {
	h := handler(t, config(result(madeNode(snapshot.V2, 2))))
	for range 2 {
		w := get(h, "/metrics", "Accept", "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited")
		dec := expfmt.NewDecoder(w.Body, expfmt.ResponseFormat(w.Header()))
		seen := 0
		for {
			var f dto.MetricFamily
			if err := dec.Decode(&f); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatal(err)
			}
			if f.GetName() == "memrecon_cgroup_usage_bytes" {
				seen = len(f.Metric)
				if got := proto.Size(f.Metric[0]); got == 0 || f.Metric[0].GetGauge().GetValue() != 400*mi {
					t.Errorf("%v", f.Metric[0])
				}
			}
		}
		if seen != 7 { // kubepods, 2 pods, 4 containers
			t.Errorf("%d cgroups have a usage", seen)
		}
	}
}

// Scrapes at the same time, while results change, each see one result as a whole.
func TestConcurrentScrapes(t *testing.T) {
	var results []*collector.Result
	for pods := 1; pods <= 4; pods++ {
		results = append(results, result(madeNode(snapshot.V2, pods)))
	}
	var at atomic.Int64
	c := config(nil)
	c.Latest = func() *collector.Result { return results[int(at.Add(1))%len(results)] }
	g, err := newGatherer(c)
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 50 {
				families, done, err := g.Gather()
				if err != nil {
					t.Error(err)
				}
				total := values(families, "memrecon_node_memory_total_bytes")[""]
				pods := int(total/mi-1000) / 200
				if got := len(values(families, "memrecon_cgroup_usage_bytes")); got != 1+3*pods || sum(values(families, "memrecon_node_memory_bytes")) != total {
					t.Errorf("%d cgroups beside the total of %d pods", got, pods)
				}
				done()
			}
		})
	}
	all.Wait()
}

// A scrape shows nothing of the ones before it.
func TestScrapesAreIndependent(t *testing.T) {
	results := []*collector.Result{result(madeNode(snapshot.V2, 3)), result(madeNode(snapshot.V1, 1)), result(madeNode(snapshot.V2, 2))}
	var latest *collector.Result
	c := config(nil)
	c.Latest = func() *collector.Result { return latest }
	used, err := newGatherer(c)
	if err != nil {
		t.Fatal(err)
	}
	scrape := func(g *gatherer) string {
		g.now = func() time.Time { return noon }
		g.process = prometheus.NewRegistry()
		return get(scrapes(g, c.Logger), "/metrics").Body.String()
	}
	for i := range 6 {
		latest = results[i%len(results)]
		fresh, err := newGatherer(c)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := scrape(used), scrape(fresh); got != want {
			t.Fatalf("scrape %d is\n%s\nwant\n%s", i, got, want)
		}
	}
}

// A long-lived agent's scrapes leave nothing behind.
func TestScrapesLeaveNothing(t *testing.T) {
	small, large := result(madeNode(snapshot.V2, 2)), result(madeNode(snapshot.V2, 50))
	latest := small
	c := config(nil)
	c.Latest = func() *collector.Result { return latest }
	server := httptest.NewServer(handler(t, c))
	defer server.Close()
	scrape := func(times int) {
		for range times {
			resp, err := server.Client().Get(server.URL + "/metrics")
			if err != nil {
				t.Fatal(err)
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
		}
	}
	scrape(20)
	before := runtime.NumGoroutine()
	scrape(300)
	if after := runtime.NumGoroutine(); after > before+2 {
		t.Errorf("%d goroutines after 300 scrapes, %d before", after, before)
	}

	g, err := newGatherer(c)
	if err != nil {
		t.Fatal(err)
	}
	fill := func() *batch {
		_, done, _ := g.Gather()
		done()
		b := <-g.spare
		g.spare <- b
		return b
	}
	few := len(fill().samples.chunks)
	latest = large
	if many := len(fill().samples.chunks); many <= few {
		t.Errorf("%d chunks for 50 pods, %d for 2", many, few)
	}
	latest = small
	fill()
	if b := fill(); len(b.samples.chunks) != few || b.cgroups[:1][0].Cgroup != nil {
		t.Errorf("%d chunks are kept where %d are enough; a cgroup of the last result: %v", len(b.samples.chunks), few, b.cgroups[:1][0].Cgroup)
	}
}
