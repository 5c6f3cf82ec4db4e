package cgroup

import (
	"bytes"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/memrecon/memrecon/snapshot"
)

func TestParseStat(t *testing.T) {
	for _, tt := range []struct {
		name, data string
		keys       []string
		values     []uint64
		flaw       flaw
	}{
		{"good", "anon 4096\nfile 0\n", []string{"anon", "file"}, []uint64{4096, 0}, 0},
		{"largest number", "anon 18446744073709551615\n", []string{"anon"}, []uint64{1<<64 - 1}, 0},
		{"unknown keys are kept", "anon 1\nnew_in_7.1 2\n", []string{"anon", "new_in_7.1"}, []uint64{1, 2}, 0},
		{"empty", "", nil, nil, empty},
		{"cut within a number", "anon 1\nfile 12", []string{"anon"}, []uint64{1}, truncated},
		{"cut within a key", "anon 1\nfi", []string{"anon"}, []uint64{1}, truncated},
		{"only a cut line", "anon 1", nil, nil, truncated},
		{"number too large", "anon 18446744073709551616\nfile 2\n", []string{"file"}, []uint64{2}, malformed},
		{"twenty-one digits", "anon 100000000000000000000\nfile 2\n", []string{"file"}, []uint64{2}, malformed},
		{"negative", "anon -1\nfile 2\n", []string{"file"}, []uint64{2}, malformed},
		{"no number", "anon\nfile 2\n", []string{"file"}, []uint64{2}, malformed},
		{"two numbers", "anon 1 1\nfile 2\n", []string{"file"}, []uint64{2}, malformed},
		{"two spaces", "anon  1\nfile 2\n", []string{"file"}, []uint64{2}, malformed},
		{"no key", " 1\nfile 2\n", []string{"file"}, []uint64{2}, malformed},
		{"empty line", "\nfile 2\n", []string{"file"}, []uint64{2}, malformed},
		{"binary", "\x00\x7fELF\x01\n\xff\xfe 3\n", nil, nil, malformed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			// Also where another layout is known already, and where the cgroup had it.
			known := layouts{snapshot.NewKeys([]string{"anon", "file"})}
			had := snapshot.Stat{Keys: known[0], Values: []uint64{7, 7}}
			for _, tt2 := range []struct {
				layouts layouts
				stat    snapshot.Stat
			}{{}, {layouts: known}, {layouts: known, stat: had}} {
				l, s := tt2.layouts, tt2.stat
				if found := l.parseStat(&s, []byte(tt.data)); found != tt.flaw {
					t.Errorf("flaw %v, want %v", found, tt.flaw)
				}
				if !slices.Equal(s.Keys.Names(), tt.keys) || !slices.Equal(s.Values, tt.values) {
					t.Errorf("got %v %v, want %v %v", s.Keys.Names(), s.Values, tt.keys, tt.values)
				}
				if s.IsZero() != (tt.keys == nil) {
					t.Errorf("absent: %v", s.IsZero())
				}
			}
		})
	}
}

func TestParseStatSharesLayouts(t *testing.T) {
	var l layouts
	var a, b, c snapshot.Stat
	l.parseStat(&a, []byte("anon 1\nfile 2\n"))
	l.parseStat(&c, []byte("anon 1\nkernel 2\n"))
	l.parseStat(&b, []byte("anon 3\nfile 4\n"))
	if a.Keys != b.Keys || a.Keys == c.Keys || len(l) != 2 {
		t.Errorf("layouts %p %p %p of %d: want the first two the same, of two", a.Keys, b.Keys, c.Keys, len(l))
	}
	values := &a.Values[0]
	l.parseStat(&a, []byte("anon 5\nfile 6\n"))
	if values != &a.Values[0] || *values != 5 {
		t.Error("the memory of the values is not used again")
	}
	if n := testing.AllocsPerRun(10, func() {
		l.parseStat(&snapshot.Stat{}, []byte("anon 1\nkernel 2\n"))
	}); n > 1 {
		t.Errorf("%v allocations for a new cgroup of a known layout, want that of its values", n)
	}
}

func TestParseValue(t *testing.T) {
	for _, tt := range []struct {
		data         string
		value, limit snapshot.Value
		flaw         flaw
	}{
		{"0\n", snapshot.Of(0), snapshot.Of(0), 0},
		{"4096\n", snapshot.Of(4096), snapshot.Of(4096), 0},
		{"max\n", snapshot.Unlimited, snapshot.Unlimited, 0},
		{"9223372036854771712\n", snapshot.Of(9223372036854771712), snapshot.Unlimited, 0}, // no limit, pages of 4 KiB
		{"9223372036854710272\n", snapshot.Of(9223372036854710272), snapshot.Unlimited, 0}, // and of 64 KiB
		{"", snapshot.Value{}, snapshot.Value{}, empty},
		{"40", snapshot.Value{}, snapshot.Value{}, truncated},
		{"max", snapshot.Value{}, snapshot.Value{}, truncated},
		{"\n", snapshot.Value{}, snapshot.Value{}, malformed},
		{"-1\n", snapshot.Value{}, snapshot.Value{}, malformed},
		{"1 2\n", snapshot.Value{}, snapshot.Value{}, malformed},
		{"1\n2\n", snapshot.Value{}, snapshot.Value{}, malformed},
		{"max\n2\n", snapshot.Value{}, snapshot.Value{}, malformed},
		{"18446744073709551616\n", snapshot.Value{}, snapshot.Value{}, malformed},
		{"\x00\xff\n", snapshot.Value{}, snapshot.Value{}, malformed},
	} {
		value, found := parseValue([]byte(tt.data))
		limit, foundInLimit := parseLimit([]byte(tt.data))
		if value != tt.value || limit != tt.limit || found != tt.flaw || foundInLimit != tt.flaw {
			t.Errorf("%q: value %v (%v), limit %v (%v), want %v, %v (%v)",
				tt.data, value, found, limit, foundInLimit, tt.value, tt.limit, tt.flaw)
		}
	}
}

func TestParseKey(t *testing.T) {
	for _, tt := range []struct {
		data  string
		value snapshot.Value
		flaw  flaw
	}{
		{"nr_descendants 3\nnr_dying_descendants 42\n", snapshot.Of(42), 0},
		{"nr_descendants 3\n", snapshot.Value{}, 0}, // Linux 4.13 and older
		{"nr_descendants 3\nnr_dying_descendants 4", snapshot.Value{}, truncated},
		{"nr_dying_descendants many\n", snapshot.Value{}, malformed},
		{"", snapshot.Value{}, empty},
	} {
		if value, found := parseKey([]byte(tt.data), "nr_dying_descendants"); value != tt.value || found != tt.flaw {
			t.Errorf("%q: %v (%v), want %v (%v)", tt.data, value, found, tt.value, tt.flaw)
		}
	}
}

func TestParsePressure(t *testing.T) {
	some := snapshot.PressureLine{Known: true, Avg10: 12.34, Avg60: 0.05, Avg300: 100, TotalMicros: 4711}
	full := snapshot.PressureLine{Known: true, TotalMicros: 1}
	const someLine, fullLine = "some avg10=12.34 avg60=0.05 avg300=100.00 total=4711\n", "full avg10=0.00 avg60=0.00 avg300=0.00 total=1\n"
	for _, tt := range []struct {
		name, data string
		want       snapshot.Pressure
		flaw       flaw
	}{
		{"good", someLine + fullLine, snapshot.Pressure{Some: some, Full: full}, 0},
		{"one line", someLine, snapshot.Pressure{Some: some}, 0},
		{"another field", "full avg10=0.00 avg60=0.00 avg300=0.00 avg900=x total=1\n", snapshot.Pressure{Full: full}, 0},
		{"empty", "", snapshot.Pressure{}, empty},
		{"cut", someLine + strings.TrimSpace(fullLine), snapshot.Pressure{Some: some}, truncated},
		{"another line", someLine + "most avg10=0.00\n", snapshot.Pressure{Some: some}, malformed},
		{"a field less", someLine + "full avg10=0.00 avg60=0.00 total=1\n", snapshot.Pressure{Some: some}, malformed},
		{"no number", someLine + strings.Replace(fullLine, "0.00", "nan", 1), snapshot.Pressure{Some: some}, malformed},
		{"no decimals", someLine + strings.Replace(fullLine, "0.00", "0", 1), snapshot.Pressure{Some: some}, malformed},
		{"no total", someLine + strings.Replace(fullLine, "total=1", "total=", 1), snapshot.Pressure{Some: some}, malformed},
		{"binary", "\x00\xff\x7f\n", snapshot.Pressure{}, malformed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got, found := parsePressure([]byte(tt.data)); got != tt.want || found != tt.flaw {
				t.Errorf("%+v (%v), want %+v (%v)", got, found, tt.want, tt.flaw)
			}
		})
	}
}

// FuzzParseStat compares with a plain parser of the same form.
func FuzzParseStat(f *testing.F) {
	for _, s := range []string{
		"anon 4096\nfile 0\nkernel 18446744073709551615\n", "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n",
		"anon 1\nfile 12", "anon\n", "anon 1 2\n", "anon 18446744073709551616\n", " 1\n", "\x00 1\n", "a 1\na 2\n", "",
	} {
		f.Add([]byte(s))
	}
	var known layouts
	var had snapshot.Stat
	known.parseStat(&had, []byte("anon 4096\nfile 0\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		var names []string
		var values []uint64
		lines := bytes.SplitAfter(data, []byte("\n"))
		for _, line := range lines {
			key, digits, _ := strings.Cut(strings.TrimSuffix(string(line), "\n"), " ")
			n, err := strconv.ParseUint(digits, 10, 64)
			odd := strings.ContainsFunc(key, func(r rune) bool { return r <= ' ' || r > '~' })
			if bytes.HasSuffix(line, []byte("\n")) && err == nil && key != "" && !odd {
				names, values = append(names, key), append(values, n)
			}
		}
		good := len(data) > 0 && len(names) == len(lines)-1 && len(lines[len(lines)-1]) == 0
		l, s := slices.Clone(known), snapshot.Stat{Keys: had.Keys, Values: slices.Clone(had.Values)}
		for range 2 { // the second time the layout is known
			found := l.parseStat(&s, data)
			if !slices.Equal(s.Keys.Names(), names) || !slices.Equal(s.Values, values) || (found == 0) != good {
				t.Fatalf("%q: %v %v (%v), want %v %v", data, s.Keys.Names(), s.Values, found, names, values)
			}
		}
	})
}

func FuzzParseValue(f *testing.F) {
	for _, s := range []string{"0\n", "max\n", "9223372036854771712\n", "18446744073709551616\n", "1", "-1\n", "\n", ""} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		line, ended := strings.CutSuffix(string(data), "\n")
		n, err := strconv.ParseUint(line, 10, 64)
		want := snapshot.Value{}
		switch {
		case ended && line == "max":
			want = snapshot.Unlimited
		case ended && err == nil:
			want = snapshot.Of(n)
		}
		if got, found := parseValue(data); got != want || (found == 0) == want.IsAbsent() {
			t.Fatalf("%q: %v (%v), want %v", data, got, found, want)
		}
	})
}

// FuzzParsePressure writes what was parsed again, and expects to parse the same.
func FuzzParsePressure(f *testing.F) {
	for _, s := range []string{
		"some avg10=0.12 avg60=0.00 avg300=99.99 total=4711\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=42\n",
		"some avg10=0.12 avg60=0.00 avg300=0.00 total=4711\n", "full avg10=nan avg60=0.00 avg300=0.00 total=1\n",
		"some avg10=0.1", "some\n", "some avg10==. total=\n", "",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		p, _ := parsePressure(data)
		var again []byte
		for _, l := range []struct {
			name string
			line snapshot.PressureLine
		}{{"some", p.Some}, {"full", p.Full}} {
			if !l.line.Known {
				continue
			}
			again = append(again, l.name...)
			for i, avg := range []float64{l.line.Avg10, l.line.Avg60, l.line.Avg300} {
				again = append(again, []string{" avg10=", " avg60=", " avg300="}[i]...)
				again = strconv.AppendFloat(again, avg, 'f', 2, 64)
			}
			again = append(again, " total="...)
			again = append(strconv.AppendUint(again, l.line.TotalMicros, 10), '\n')
		}
		if len(again) == 0 {
			return
		}
		if p2, found := parsePressure(again); p2 != p || found != 0 {
			t.Fatalf("%q: %+v, written as %q: %+v (%v)", data, p, again, p2, found)
		}
	})
}
