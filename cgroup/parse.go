package cgroup

import (
	"bytes"
	"slices"

	"github.com/memrecon/memrecon/snapshot"
)

// layouts knows the layouts of keyed files that were seen, so that files with the same keys share one.
type layouts struct{ known []*snapshot.Keys }

// parse reads a keyed file ("key value" lines) into s, reusing its values. A line that is no key and number is left out, so
// is a last line that was cut off, and reported by false; the rest is kept. An empty file leaves s absent.
func (l *layouts) parse(b []byte, s *snapshot.Stat) bool {
	if s.Keys != nil {
		if values, ok := parseAs(b, s.Keys.Names(), s.Values[:0]); ok {
			s.Values = values
			return true
		}
	}
	names, values, ok := parseKeyed(b)
	if len(names) == 0 {
		*s = snapshot.Stat{}
		return false
	}
	s.Keys, s.Values = l.of(names), values
	return ok
}

// of is the layout with these names.
func (l *layouts) of(names []string) *snapshot.Keys {
	for _, k := range l.known {
		if slices.Equal(k.Names(), names) {
			return k
		}
	}
	k := snapshot.NewKeys(names)
	l.known = append(l.known, k)
	return k
}

// parseAs parses a file that is expected to have these keys in this order, as all cgroups of one kernel have. Anything else
// ends it with false.
func parseAs(b []byte, names []string, values []uint64) ([]uint64, bool) {
	for _, name := range names {
		n := len(name)
		if len(b) < n+3 || b[n] != ' ' || string(b[:n]) != name {
			return values, false
		}
		b = b[n+1:]
		var v uint64
		i := 0
		for ; i < len(b) && b[i]-'0' < 10; i++ {
			v = v*10 + uint64(b[i]-'0')
		}
		if i == 0 || i > 19 || i == len(b) || b[i] != '\n' { // 19 digits can't overflow
			return values, false
		}
		b = b[i+1:]
		values = append(values, v)
	}
	return values, len(b) == 0
}

// parseKeyed parses a file of any layout, and tells whether every line was well-formed.
func parseKeyed(b []byte) (names []string, values []uint64, ok bool) {
	ok = true
	for len(b) > 0 {
		line, rest, whole := bytes.Cut(b, []byte{'\n'})
		b = rest
		key, number, _ := bytes.Cut(line, []byte{' '})
		v, isNumber := parseUint(number)
		if !whole || len(key) == 0 || !isNumber || !printable(key) {
			ok = false
			continue
		}
		names, values = append(names, string(key)), append(values, v)
	}
	return names, values, ok && len(names) > 0
}

func printable(key []byte) bool {
	for _, c := range key {
		if c <= ' ' || c > '~' {
			return false
		}
	}
	return true
}

// parseUint parses decimal digits alone.
func parseUint(b []byte) (uint64, bool) {
	if len(b) == 0 || len(b) > 20 {
		return 0, false
	}
	var v uint64
	for _, c := range b {
		d := uint64(c - '0')
		if d > 9 || v > (^uint64(0)-d)/10 {
			return 0, false
		}
		v = v*10 + d
	}
	return v, true
}

// unlimitedFrom is where a cgroup v1 limit means none: the kernel gives PAGE_COUNTER_MAX pages, which depends on the page
// size. The kubelet draws the line here as well.
const unlimitedFrom = 1 << 62

// parseValue parses a file of one number or "max". On v1, isLimit turns the number that means no limit into that.
func parseValue(b []byte, isLimit bool) (snapshot.Value, bool) {
	b = bytes.TrimSuffix(b, []byte{'\n'})
	if string(b) == "max" {
		return snapshot.Unlimited, true
	}
	v, ok := parseUint(b)
	if !ok {
		return snapshot.Value{}, false
	}
	if isLimit && v >= unlimitedFrom {
		return snapshot.Unlimited, true
	}
	return snapshot.Of(v), true
}

// parsePressure parses a PSI file:
//
//	some avg10=0.00 avg60=0.00 avg300=0.00 total=0
//	full avg10=0.00 avg60=0.00 avg300=0.00 total=0
func parsePressure(b []byte) (p snapshot.Pressure, ok bool) {
	ok = len(b) > 0
	for len(b) > 0 {
		line, rest, whole := bytes.Cut(b, []byte{'\n'})
		b = rest
		parsed, good := parsePressureLine(line)
		switch {
		case !whole || !good:
			ok = false
		case bytes.HasPrefix(line, []byte("some ")):
			p.Some = parsed
		case bytes.HasPrefix(line, []byte("full ")):
			p.Full = parsed
		default:
			ok = false
		}
	}
	return p, ok
}

func parsePressureLine(line []byte) (snapshot.PressureLine, bool) {
	_, line, _ = bytes.Cut(line, []byte{' '})
	p := snapshot.PressureLine{Known: true}
	var avg [3]uint64 // in hundredths
	for i, name := range [...]string{"avg10=", "avg60=", "avg300="} {
		var field []byte
		field, line, _ = bytes.Cut(line, []byte{' '})
		field, named := bytes.CutPrefix(field, []byte(name))
		whole, fraction, _ := bytes.Cut(field, []byte{'.'})
		w, ok1 := parseUint(whole)
		f, ok2 := parseUint(fraction)
		if !named || !ok1 || !ok2 || len(fraction) != 2 || w > 100 {
			return snapshot.PressureLine{}, false
		}
		avg[i] = 100*w + f
	}
	total, named := bytes.CutPrefix(line, []byte("total="))
	micros, isNumber := parseUint(total)
	p.Avg10, p.Avg60, p.Avg300, p.TotalMicros = float64(avg[0])/100, float64(avg[1])/100, float64(avg[2])/100, micros
	return p, named && isNumber
}

// findKey is one key's value in a keyed file.
func findKey(b []byte, key string) (snapshot.Value, bool) {
	for len(b) > 0 {
		line, rest, whole := bytes.Cut(b, []byte{'\n'})
		b = rest
		if name, value, _ := bytes.Cut(line, []byte{' '}); whole && string(name) == key {
			v, ok := parseUint(value)
			if !ok {
				return snapshot.Value{}, false
			}
			return snapshot.Of(v), true
		}
	}
	return snapshot.Value{}, false
}
