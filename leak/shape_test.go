package leak

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

const mib = 1 << 20

// What each shape wants at some times.
func TestShapes(t *testing.T) {
	profile, err := ParseProfile("# base\n1s 10Mi\n 2s\t10Mi # still\n2s 30Mi\n4 10Mi\n", false)
	if err != nil {
		t.Fatal(err)
	}
	again := profile
	again.Repeat = true
	const s = time.Second
	for _, tc := range []struct {
		name  string
		shape Shape
		want  map[time.Duration]uint64 // MiB
	}{
		{"blocks at once", Blocks{Block: 4 * mib, Max: 10 * mib}, map[time.Duration]uint64{0: 10, s: 10}},
		{"blocks", Blocks{Block: 4 * mib, Max: 10 * mib, Every: s}, map[time.Duration]uint64{0: 4, s - 1: 4, s: 8, 2 * s: 10, 9 * s: 10}},
		{"rate", Rate{BytesPerSecond: 8 * mib, Max: 20 * mib}, map[time.Duration]uint64{0: 0, s / 2: 4, 2 * s: 16, 3 * s: 20}},
		{"ramp", Ramp(10*mib, 10*s), map[time.Duration]uint64{0: 0, 5 * s: 5, 10 * s: 10, 99 * s: 10}},
		{"saw", Saw(10*mib, 109*mib, 100*s), map[time.Duration]uint64{0: 10, s: 11, 99 * s: 109, 100*s - 1: 109, 100 * s: 10, 101 * s: 11}},
		{"spike", Spike(2*mib, 20*mib, 10*s), map[time.Duration]uint64{0: 2, 9*s - 1: 2, 9 * s: 20, 10*s - 1: 20, 10 * s: 2, 19 * s: 20}},
		{"profile", profile, map[time.Duration]uint64{0: 0, s - 1: 0, s: 10, 2*s - 1: 10, 2 * s: 30, 3 * s: 20, 4 * s: 10, 99 * s: 10}},
		{"profile that repeats", again, map[time.Duration]uint64{0: 0, 2 * s: 30, 4 * s: 0, 6 * s: 30}},
	} {
		for at, want := range tc.want {
			if got := tc.shape.At(at); got != want*mib {
				t.Errorf("%s at %s is %d, want %d MiB", tc.name, at, got, want)
			}
		}
	}
}

// Whoever looks only when Next says so sees what At says, the size reached at Reach, and the largest at Full.
func TestShapesAgreeWithThemselves(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 4))
	for range 300 {
		most, period := 1+r.Uint64N(64*mib), time.Millisecond*time.Duration(1+r.IntN(100))
		curve := Curve{Points: []Point{{}}, Repeat: r.IntN(2) == 0}
		for range 1 + r.IntN(4) {
			last := curve.Points[len(curve.Points)-1]
			curve.Points = append(curve.Points, Point{last.At + period, r.Uint64N(most + 1)})
			if r.IntN(2) == 0 {
				curve.Points = append(curve.Points, Point{last.At + period, r.Uint64N(most + 1)})
			}
		}
		curve.Points = append(curve.Points, Point{curve.Points[len(curve.Points)-1].At + period, 0})
		for _, shape := range []Shape{
			Blocks{Block: 1 + r.Uint64N(most), Max: most, Every: period}, Rate{BytesPerSecond: 1 + r.Uint64N(1<<30), Max: most},
			Ramp(most, period), Saw(most/2, most, period), Spike(most/2, most, period), curve,
		} {
			at, steps := time.Duration(0), 0
			for next, ok := shape.Next(at); ok && steps < 200; next, ok = shape.Next(at) {
				if next <= at {
					t.Fatalf("%#v: after %s comes %s", shape, at, next)
				}
				if middle := at + (next-at)/2; next-at > tick && shape.At(middle) != shape.At(at) {
					t.Fatalf("%#v: at %s it is %d, at %s %d, and nothing was to happen until %s", shape, at, shape.At(at), middle, shape.At(middle), next)
				}
				at, steps = next, steps+1
			}
			wanted := 1 + r.Uint64N(most)
			reach, ok := shape.Reach(wanted)
			if ok && shape.At(reach)+1 < wanted { // a line is a fraction of a byte off
				t.Errorf("%#v reaches %d at %s, where it is %d", shape, wanted, reach, shape.At(reach))
			}
			if ok && reach > time.Microsecond && shape.At(reach-time.Microsecond) >= wanted+1100 { // what a microsecond brings
				t.Errorf("%#v reaches %d at %s, and is %d before", shape, wanted, reach, shape.At(reach-time.Microsecond))
			}
		}
	}
}

// A profile that can't be followed is refused with the line and what is wrong with it.
func TestProfileRefused(t *testing.T) {
	for text, want := range map[string]string{
		"":                           "no point",
		"# nothing\n\n":              "no point",
		"10s 0\n":                    "nothing is ever taken",
		"10s 1Mi\n\n5s 2Mi\n":        "line 3: 5s is before",
		"10s\n":                      "line 1: a time and a size",
		"0 1Mi 2Mi\n":                "3 words",
		"soon 1Mi\n":                 `"soon" is no time`,
		"-1s 1Mi\n":                  "is no time",
		"1e300 1Mi\n":                "is no time",
		"NaN 1Mi\n":                  "is no time",
		"0 much\n":                   `"much" is not a quantity`,
		"0 -1Mi\n":                   "negative",
		"0 16Ei\n":                   "more than any machine has",
		"0 1Mi\n0 2Mi\n\x00\xff\n\n": "line 3",
		"5s 1Mi\n5s 2Mi\n":           "line 2: a third point at 5s",
	} {
		if _, err := ParseProfile(text, false); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: %v, want %q in one line", text, err, want)
		}
	}
	for _, text := range []string{"0 1Mi\n", "0 1Mi\n5s 1Mi\n5s 2Mi\n"} {
		if _, err := ParseProfile(text, true); err == nil || !strings.Contains(err.Error(), "begins again") {
			t.Errorf("%q repeats: %v", text, err)
		}
	}
}

func FuzzParseProfile(f *testing.F) {
	f.Add("0 1Mi\n10s 2Mi\n", true)
	f.Add("1m30s 100Mi # comment\n1.5m 3e6\n", false)
	f.Fuzz(func(t *testing.T, text string, repeat bool) {
		c, err := ParseProfile(text, repeat)
		if err != nil {
			return
		}
		var at time.Duration
		for range 100 {
			if c.At(at) > c.Top() {
				t.Fatalf("%d at %s, and the top is %d", c.At(at), at, c.Top())
			}
			next, ok := c.Next(at)
			if !ok {
				return
			}
			if next <= at {
				t.Fatalf("after %s comes %s", at, next)
			}
			at = next
		}
	})
}

// The ratio of a block is touched, to the page, at its front or spread over it.
func TestPattern(t *testing.T) {
	for _, pages := range []uint64{1, 7, 256, 25600} {
		for _, ratio := range []float64{0, 0.1, 0.5, 0.75, 1} {
			for _, spread := range []bool{false, true} {
				p := pattern{ratio, spread}
				var touched, last uint64
				for i := range pages {
					if p.touches(i, pages) {
						touched, last = touched+1, i+1
					}
				}
				want := float64(pages) * ratio
				if float64(touched) < want-1 || float64(touched) > want+1 {
					t.Errorf("%d of %d pages at ratio %g, spread %t", touched, pages, ratio, spread)
				}
				if !spread && last != touched {
					t.Errorf("page %d is touched and %d are: not at the front", last, touched)
				}
				if spread && ratio >= 0.1 && ratio < 1 && pages > 100 && last < pages*8/10 {
					t.Errorf("the last touched page of %d is %d: not spread", pages, last)
				}
			}
		}
	}
}

// Only what is in the file as it is in memory may be dropped.
func TestCleanMappings(t *testing.T) {
	const smaps = `00400000-00a71000 r-xp 00000000 fe:00 9995268                            /bin/memrecon
Size:               6596 kB
Anonymous:             0 kB
VmFlags: rd ex mr mw me sd
00a71000-0116f000 r--p 00671000 fe:00 9995268                            /bin/memrecon
Size:               7160 kB
Anonymous:             4 kB
0116f000-011e5000 rw-p 00d6f000 fe:00 9995268                            /bin/memrecon
Anonymous:             0 kB
7f0000000000-7f0000001000 r--p 00000000 00:00 0
Anonymous:             0 kB
7f0000002000-7f0000003000 r--p 00000000 fe:00 12                         /lib/other
Anonymous:             0 kB
`
	got := cleanMappings(smaps, "/bin/memrecon")
	if len(got) != 1 || got[0] != (mapping{0x400000, 0xa71000}) {
		t.Errorf("%x", got)
	}
}
