package flight_test

import (
	"encoding/json"
	"reflect"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/memrecon/memrecon/flight"
	"github.com/memrecon/memrecon/snapshot"
)

const mib = 1 << 20

var noon = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

// record has a sample a second with so many MiB; -1 for one without a value.
func record(usage ...int) *flight.Record {
	r := &flight.Record{}
	for i, n := range usage {
		s := flight.Sample{Time: noon.Add(time.Duration(i) * time.Second)}
		if n >= 0 {
			s.Usage = snapshot.Of(uint64(n) * mib)
		}
		r.Samples = append(r.Samples, s)
	}
	return r
}

// stretched has 24 ms more between its samples.
func stretched(r *flight.Record) *flight.Record {
	for i := range r.Samples {
		r.Samples[i].Time = r.Samples[i].Time.Add(time.Duration(i) * 24 * time.Millisecond)
	}
	return r
}

func second(n float64) time.Time { return noon.Add(time.Duration(n * float64(time.Second))) }

func TestLastAndHighest(t *testing.T) {
	r := record(10, 40, 40, 30, -1)
	for _, tt := range []struct {
		until time.Time
		want  time.Time
	}{
		{time.Time{}, second(3)}, // the last one has no value
		{second(2.9), second(2)},
		{second(2), second(2)},
		{second(-1), time.Time{}},
	} {
		if s, ok := r.Last(tt.until); ok == tt.want.IsZero() || !s.Time.Equal(tt.want) {
			t.Errorf("the last until %s is of %s, want %s", tt.until, s.Time, tt.want)
		}
	}
	if s, ok := r.Highest(); !ok || !s.Time.Equal(second(1)) {
		t.Errorf("the highest is %+v, want the first of 40 MiB", s)
	}
	if s, ok := record(-1, -1).Highest(); ok {
		t.Errorf("the highest of none is %+v", s)
	}
	if s, ok := record(0).Highest(); !ok || s.Usage != snapshot.Of(0) {
		t.Errorf("the highest of a zero is %+v, %v: a zero is known", s, ok)
	}
}

func TestGrowth(t *testing.T) {
	for _, tt := range []struct {
		name   string
		record *flight.Record
		until  time.Time
		window time.Duration
		want   float64 // MiB a second
		over   time.Duration
		known  bool
	}{
		{"the whole", record(0, 10, 20, 30), time.Time{}, 3 * time.Second, 10, 3 * time.Second, true},
		{"a part", record(0, 0, 0, 30), time.Time{}, time.Second, 30, time.Second, true},
		{"until the incident", record(0, 10, 0), second(1.5), 10 * time.Second, 10, time.Second, true},
		{"shorter than asked", record(0, 4), time.Time{}, time.Minute, 4, time.Second, true},
		{"shrinks", record(8, 4), time.Time{}, time.Minute, -4, time.Second, true},
		{"over what is not known", record(1, -1, 5, -1), time.Time{}, time.Minute, 2, 2 * time.Second, true},
		{"rounds of a little more than a second", stretched(record(0, 10, 20, 30)), time.Time{}, 2 * time.Second, 9.765625, 2048 * time.Millisecond, true},
		{"one sample", record(1), time.Time{}, time.Minute, 0, 0, false},
		{"none in the window", record(1, 2), time.Time{}, time.Second / 2, 0, 0, false},
		{"none", record(), time.Time{}, time.Minute, 0, 0, false},
	} {
		got, ok := tt.record.Growth(tt.until, tt.window)
		if ok != tt.known || got.BytesPerSecond != tt.want*mib || got.Over != tt.over {
			t.Errorf("%s: %.1f MiB a second over %s, %v; want %.1f over %s, %v", tt.name, got.BytesPerSecond/mib, got.Over, ok, tt.want, tt.over, tt.known)
		}
	}
}

func TestSeenByScrape(t *testing.T) {
	mebibytes := func(n uint64) snapshot.Value { return snapshot.Of(n * mib) }
	for _, tt := range []struct {
		name   string
		record *flight.Record
		every  time.Duration
		want   snapshot.Value
	}{
		{"a peak of a second", record(1, 1, 9, 1, 1, 1), 2 * time.Second, mebibytes(1)},
		{"one that lasts as long as a scrape", record(1, 1, 9, 9, 1, 1), 2 * time.Second, mebibytes(9)},
		{"growth until the end", record(0, 1, 2, 3, 4, 5, 6), 3 * time.Second, mebibytes(3)},
		{"often enough", record(0, 1, 2, 3), time.Second, mebibytes(2)}, // the last can end before it is read
		{"shorter than the interval", record(5, 5, 5), 15 * time.Second, snapshot.Value{}},
		{"nothing known where it falls", record(-1, 4, -1, 4), 2 * time.Second, snapshot.Value{}},
		{"zero is seen", record(0, 0, 0, 0), 2 * time.Second, mebibytes(0)},
		{"no samples", record(), time.Second, snapshot.Value{}},
		{"no interval", record(1), 0, snapshot.Value{}},
	} {
		if got := tt.record.SeenByScrape(tt.every); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
}

// Whatever the phase, scrapes find at least what SeenByScrape says, and some phase finds no more.
func TestSeenByScrapeIsTheWorstPhase(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := &flight.Record{}
		at := noon
		for range rapid.IntRange(1, 30).Draw(t, "samples") {
			s := flight.Sample{Time: at}
			if rapid.IntRange(0, 9).Draw(t, "known") > 0 {
				s.Usage = snapshot.Of(rapid.Uint64Range(0, 50).Draw(t, "usage"))
			}
			r.Samples = append(r.Samples, s)
			at = at.Add(time.Duration(rapid.IntRange(0, 7).Draw(t, "gap"))) // in ns, so that all phases can be tried
		}
		every := time.Duration(rapid.IntRange(1, 20).Draw(t, "every"))
		end := r.Samples[len(r.Samples)-1].Time
		var worst snapshot.Value
		missed := false
		for phase := range every {
			var most snapshot.Value
			for scrape := noon.Add(phase); !scrape.After(end); scrape = scrape.Add(every) {
				var found snapshot.Value
				for _, s := range r.Samples {
					if !s.Time.After(scrape) {
						found = s.Usage
					}
				}
				most = larger(most, found)
			}
			n, ok := most.Get()
			if m, known := worst.Get(); ok && (!known || n < m) {
				worst = most
			}
			missed = missed || !ok
		}
		if missed {
			worst = snapshot.Value{}
		}
		if got := r.SeenByScrape(every); got != worst {
			t.Fatalf("seen at most %s in the worst phase, by trying all of them %s", got, worst)
		}
	})
}

func larger(a, b snapshot.Value) snapshot.Value {
	n, known := a.Get()
	if m, ok := b.Get(); ok && (!known || m > n) {
		return b
	}
	return a
}

func TestRecordInJSON(t *testing.T) {
	r := record(1, -1, 0)
	r.Key = flight.Key{Path: "/kubepods/pod1/c", Inode: 7}
	r.Limit, r.Gone = snapshot.Unlimited, second(3)
	b, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"path":"/kubepods/pod1/c","inode":7,"limit_bytes":"max","gone":"2026-11-24T12:00:03Z","samples":[` +
		`{"time":"2026-11-24T12:00:00Z","usage_bytes":1048576},{"time":"2026-11-24T12:00:01Z"},{"time":"2026-11-24T12:00:02Z","usage_bytes":0}]}`
	if string(b) != want {
		t.Errorf("%s\nwant\n%s", b, want)
	}
	var back flight.Record
	if err := json.Unmarshal(b, &back); err != nil || !reflect.DeepEqual(&back, r) {
		t.Errorf("%+v came back, %v", back, err)
	}
}
