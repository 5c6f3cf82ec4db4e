package exporter

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/memrecon/memrecon/collector"
	"github.com/memrecon/memrecon/snapshot"
)

// defaultClasses are the agent's.
var defaultClasses = []snapshot.Class{
	snapshot.ClassContainer, snapshot.ClassPod, snapshot.ClassQoS, snapshot.ClassKubepods, snapshot.ClassSlice,
}

func config(r *collector.Result) Config {
	return Config{
		Latest: func() *collector.Result { return r }, Interval: time.Second, Classes: defaultClasses, MaxCgroups: 2000, Version: "test",
		Logger: slog.New(slog.DiscardHandler),
	}
}

// BenchmarkScrape is one scrape over HTTP on the loopback, of 300 containers in 150 pods.
func BenchmarkScrape(b *testing.B) {
	for _, mode := range []snapshot.Mode{snapshot.V1, snapshot.V2} {
		for _, encoding := range []string{"identity", "gzip"} {
			b.Run(string(mode)+"/"+encoding, func(b *testing.B) {
				h, err := NewHandler(config(result(madeNode(mode, 150))))
				if err != nil {
					b.Fatal(err)
				}
				server := httptest.NewServer(h)
				defer server.Close()
				b.ReportAllocs()
				var n int64
				for b.Loop() {
					req, _ := http.NewRequest(http.MethodGet, server.URL+"/metrics", nil)
					req.Header.Set("Accept-Encoding", encoding)
					resp, err := http.DefaultClient.Do(req)
					if err != nil {
						b.Fatal(err)
					}
					n, err = io.Copy(io.Discard, resp.Body)
					if err != nil || resp.StatusCode != http.StatusOK {
						b.Fatal(err, resp.Status)
					}
					_ = resp.Body.Close()
				}
				b.ReportMetric(float64(n), "B/scrape")
			})
		}
	}
}

// BenchmarkGather is a scrape without HTTP and encoding.
func BenchmarkGather(b *testing.B) {
	g, err := newGatherer(config(result(madeNode(snapshot.V2, 150))))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		_, done, err := g.Gather()
		if err != nil {
			b.Fatal(err)
		}
		done()
	}
}
