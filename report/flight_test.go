package report_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/memrecon/memrecon/flight"
	"github.com/memrecon/memrecon/report"
	"github.com/memrecon/memrecon/snapshot"
)

const mib = 1 << 20

// limitRecord is a process that grew slowly for 100 s, then by 20 MiB a second, and was killed at its limit at limitHit: recorded on
// Linux 6.18 with cgroup v1, its cgroup removed 0.3 s later.
func limitRecord(t *testing.T) *flight.Record {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", "flight-limit.json"))
	if err != nil {
		t.Fatal(err)
	}
	var r flight.Record
	if err := json.Unmarshal(b, &r); err != nil {
		t.Fatal(err)
	}
	return &r
}

var limitHit = time.Date(2026, 11, 24, 14, 23, 1, 65223228, time.UTC)

// recordOf has a sample a second with so many MiB of anonymous memory, -1 for one without a value.
func recordOf(usage ...int) *flight.Record {
	r := &flight.Record{Key: flight.Key{Path: "/system.slice/app.service"}}
	for i, n := range usage {
		s := flight.Sample{Time: limitHit.Add(time.Duration(i) * time.Second)}
		if n >= 0 {
			s.Usage, s.Anon = snapshot.Of(uint64(n)*mib), snapshot.Of(uint64(n)*mib)
		}
		r.Samples = append(r.Samples, s)
	}
	return r
}

func TestFlightText(t *testing.T) {
	alive := limitRecord(t)
	alive.Samples, alive.Gone, alive.Peak = alive.Samples[40:60], time.Time{}, snapshot.Of(250*mib)
	unlimited := recordOf(10, 20, 30, 40, 35, 30, 30)
	unlimited.Limit = snapshot.Unlimited
	holes := recordOf(5, 5, -1, -1, 5, 60, 60, 60, 60, 60, 90, 90, 90)
	for i := 9; i < len(holes.Samples); i++ { // the agent had no time
		holes.Samples[i].Time = holes.Samples[i].Time.Add(10 * time.Second)
	}
	holes.Limit = snapshot.Of(100 * mib)
	for name, tt := range map[string]struct {
		record *flight.Record
		name   string
		at     time.Time
	}{
		"limit":     {limitRecord(t), "pod shop/checkout-7d9f / app", limitHit},
		"alive":     {alive, "pod shop/checkout-7d9f / app", alive.Samples[8].Time.Add(300 * time.Millisecond)},
		"unlimited": {unlimited, "", time.Time{}},
		"holes":     {holes, "", time.Time{}},
		"zero":      {recordOf(0, 0, 0), "", time.Time{}},
		"one":       {recordOf(7), "", limitHit},
		"unknown":   {recordOf(-1, -1), "", limitHit},
		"nothing":   {recordOf(), "a\x1b[31mb", limitHit},
	} {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			if err := report.FlightText(&b, tt.record, tt.name, tt.at, report.Options{}); err != nil {
				t.Fatal(err)
			}
			golden(t, "flight-"+name+".txt", b.Bytes())
		})
	}
}

func TestFlightTextInColor(t *testing.T) {
	var plain, colored bytes.Buffer
	for w, o := range map[*bytes.Buffer]report.Options{&plain: {}, &colored: {Color: true}} {
		if err := report.FlightText(w, limitRecord(t), "", limitHit, o); err != nil {
			t.Fatal(err)
		}
	}
	stripped := strings.NewReplacer("\x1b[1m", "", "\x1b[1;31m", "", "\x1b[0m", "").Replace(colored.String())
	if stripped != plain.String() || colored.Len() == plain.Len() {
		t.Error("the coloured text is not the plain one with colours")
	}
}

// Whatever was recorded, the text fits and its chart shows the peak at full height.
func TestFlightTextFits(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		value := rapid.Custom(func(t *rapid.T) snapshot.Value {
			switch rapid.IntRange(0, 9).Draw(t, "state") {
			case 0:
				return snapshot.Value{}
			case 1:
				return snapshot.Unlimited
			}
			return snapshot.Of(rapid.Uint64Range(0, 1<<rapid.IntRange(0, 44).Draw(t, "bits")).Draw(t, "bytes"))
		})
		r := &flight.Record{Key: flight.Key{Path: "/" + rapid.String().Draw(t, "path")}, Limit: value.Draw(t, "limit"), Peak: value.Draw(t, "peak")}
		when := limitHit
		for range rapid.IntRange(0, 150).Draw(t, "samples") {
			r.Samples = append(r.Samples, flight.Sample{
				Time: when, Usage: value.Draw(t, "usage"), WorkingSet: value.Draw(t, "working set"), Anon: value.Draw(t, "anon"), File: value.Draw(t, "file"),
				Kernel: value.Draw(t, "kernel"), Swap: value.Draw(t, "swap"), MemAvailable: value.Draw(t, "available"),
			})
			when = when.Add(time.Duration(rapid.Int64Range(0, int64(rapid.SampledFrom([]time.Duration{time.Second, time.Hour}).Draw(t, "gaps"))).Draw(t, "gap")))
		}
		at := rapid.SampledFrom([]time.Time{{}, limitHit, when, when.Add(-time.Second), when.Add(time.Hour)}).Draw(t, "at")
		var b bytes.Buffer
		if err := report.FlightText(&b, r, "", at, report.Options{}); err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(b.String()) {
			line = strings.TrimSuffix(line, "\n")
			if n := utf8.RuneCountInString(line); n > 80 {
				t.Fatalf("%d columns: %s", n, line)
			}
			if strings.ContainsFunc(line, func(r rune) bool { return !unicode.IsPrint(r) }) || strings.HasSuffix(line, " ") && !strings.HasPrefix(line, "Memory") {
				t.Fatalf("not for a terminal: %q", line)
			}
		}
		highest, ok := r.Highest()
		most, _ := highest.Usage.Get()
		if _, seen := r.Last(at); !seen || !ok || most == 0 || !strings.Contains(b.String(), "┼") {
			return
		}
		if limit, limited := r.Limit.Get(); limited && most < limit && limit/4 <= most {
			return // the limit is the highest
		}
		if top := strings.Split(b.String(), "\n")[2]; !strings.Contains(top, "█") {
			t.Fatalf("the highest usage does not fill the chart:\n%s", b.String())
		}
	})
}
