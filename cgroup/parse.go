package cgroup

import (
	"bytes"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/memrecon/memrecon/snapshot"
)

// flaw is what is wrong with a file: an errno, or one of the flaws of its content. Zero is a file without one.
type flaw uint16

// The flaws of a content lie above all errnos.
const (
	empty     flaw = 1<<12 + iota
	truncated      // its last line does not end
	malformed      // a line is not what it should be
)

func (f flaw) String() string {
	switch f {
	case empty:
		return "the file is empty"
	case truncated:
		return "the file ends within a line; that line is left out"
	case malformed:
		return "some lines are malformed; they are left out"
	}
	return unix.Errno(f).Error()
}

func (f flaw) hint() string {
	switch unix.Errno(f) {
	case unix.EACCES, unix.EPERM:
		return rightsHint
	case unix.EMFILE, unix.ENFILE:
		return "Raise the limit of open files: LimitNOFILE= in the unit, ulimit -n in a shell."
	}
	return "On a saved node, copy the file again; on a live one, please report it with the file and the kernel's version."
}

// layouts are the distinct layouts of the keyed files seen so far; one kernel has a handful.
type layouts []*snapshot.Keys

// parseStat reads a keyed file ("key value" lines) into s, whose Values it uses again. Lines that are malformed are left
// out; a file without any good line leaves s absent.
func (l *layouts) parseStat(s *snapshot.Stat, data []byte) flaw {
	if s.Keys != nil && fill(s.Values, s.Keys.Names(), data) {
		return 0
	}
	for _, keys := range *l {
		n := len(keys.Names())
		s.Values = slices.Grow(s.Values[:0], n)[:n]
		if fill(s.Values, keys.Names(), data) {
			s.Keys = keys
			return 0
		}
	}
	return l.learn(s, data)
}

// fill parses a file whose keys are names, in this order. It is false, and values undefined, where the file differs.
func fill(values []uint64, names []string, data []byte) bool {
	if len(values) != len(names) {
		return false
	}
	for i, name := range names {
		if len(data) <= len(name) || data[len(name)] != ' ' || string(data[:len(name)]) != name {
			return false
		}
		data = data[len(name)+1:]
		n, length := number(data)
		if length == 0 || length == len(data) || data[length] != '\n' {
			return false
		}
		values[i], data = n, data[length+1:]
	}
	return len(data) == 0
}

// learn parses a file of a layout that is new, or broken.
func (l *layouts) learn(s *snapshot.Stat, data []byte) (found flaw) {
	var names []string
	s.Keys, s.Values = nil, s.Values[:0]
	if len(data) == 0 {
		return empty
	}
	for len(data) > 0 {
		line, rest, ended := bytes.Cut(data, []byte("\n"))
		if !ended {
			found = truncated // half a number looks like a number
			break
		}
		data = rest
		key, digits, _ := bytes.Cut(line, []byte(" "))
		n, length := number(digits)
		if length == 0 || length != len(digits) || !isKey(key) {
			found = malformed
			continue
		}
		names, s.Values = append(names, string(key)), append(s.Values, n)
	}
	if len(names) == 0 {
		return found
	}
	for _, keys := range *l {
		if slices.Equal(keys.Names(), names) {
			s.Keys = keys
			return found
		}
	}
	s.Keys = snapshot.NewKeys(names)
	*l = append(*l, s.Keys)
	return found
}

// isKey tells that a key is one or more printable ASCII characters, as all of the kernel's are.
func isKey(key []byte) bool {
	return len(key) > 0 && !slices.ContainsFunc(key, func(c byte) bool { return c <= ' ' || c > '~' })
}

// number is the decimal number that b begins with, and how many digits it has: 0 where there is none, or none of 64 bits.
func number(b []byte) (n uint64, length int) {
	for ; length < len(b) && b[length]-'0' <= 9; length++ {
		d := uint64(b[length] - '0')
		if length >= 19 && n > (1<<64-1-d)/10 {
			return 0, 0
		}
		n = 10*n + d
	}
	return n, length
}

// parseValue reads a file of one number, or "max".
func parseValue(data []byte) (snapshot.Value, flaw) {
	line, rest, ended := bytes.Cut(data, []byte("\n"))
	switch n, length := number(line); {
	case len(data) == 0:
		return snapshot.Value{}, empty
	case !ended:
		return snapshot.Value{}, truncated
	case string(line) == "max" && len(rest) == 0:
		return snapshot.Unlimited, 0
	case length == 0 || length != len(line) || len(rest) > 0:
		return snapshot.Value{}, malformed
	default:
		return snapshot.Of(n), 0
	}
}

// parseLimit is parseValue for a limit of v1, where the largest number of pages that a page counter takes means no limit:
// the number depends on the page size and on the kernel's word, and no machine has 1<<62 bytes.
func parseLimit(data []byte) (snapshot.Value, flaw) {
	v, found := parseValue(data)
	if n, ok := v.Get(); ok && n >= 1<<62 {
		return snapshot.Unlimited, 0
	}
	return v, found
}

// parseKey reads one key of a keyed file, absent where the file does not have it.
func parseKey(data []byte, name string) (snapshot.Value, flaw) {
	if len(data) == 0 {
		return snapshot.Value{}, empty
	}
	for len(data) > 0 {
		line, rest, ended := bytes.Cut(data, []byte("\n"))
		data = rest
		key, digits, _ := bytes.Cut(line, []byte(" "))
		if string(key) != name {
			continue
		}
		n, length := number(digits)
		switch {
		case !ended:
			return snapshot.Value{}, truncated
		case length == 0 || length != len(digits):
			return snapshot.Value{}, malformed
		}
		return snapshot.Of(n), 0
	}
	return snapshot.Value{}, 0
}

// parsePressure reads a PSI file:
//
//	some avg10=0.12 avg60=0.00 avg300=0.00 total=4711
//	full avg10=0.00 avg60=0.00 avg300=0.00 total=42
func parsePressure(data []byte) (p snapshot.Pressure, found flaw) {
	if len(data) == 0 {
		return p, empty
	}
	for len(data) > 0 {
		line, rest, ended := bytes.Cut(data, []byte("\n"))
		if !ended {
			return p, truncated
		}
		data = rest
		name, fields, _ := bytes.Cut(line, []byte(" "))
		var to *snapshot.PressureLine
		switch string(name) {
		case "some":
			to = &p.Some
		case "full":
			to = &p.Full
		default:
			found = malformed
			continue
		}
		var ok bool
		if *to, ok = parsePressureLine(fields); !ok {
			found = malformed
		}
	}
	return p, found
}

// parsePressureLine reads the fields of a line. Fields that it does not know are passed over: a kernel may add some.
func parsePressureLine(fields []byte) (snapshot.PressureLine, bool) {
	p := snapshot.PressureLine{Known: true}
	known := 0
	for len(fields) > 0 {
		var field []byte
		field, fields, _ = bytes.Cut(fields, []byte(" "))
		name, value, _ := bytes.Cut(field, []byte("="))
		var ok bool
		switch string(name) {
		case "avg10":
			p.Avg10, ok = percentage(value)
		case "avg60":
			p.Avg60, ok = percentage(value)
		case "avg300":
			p.Avg300, ok = percentage(value)
		case "total":
			var length int
			p.TotalMicros, length = number(value)
			ok = length > 0 && length == len(value)
		default:
			continue
		}
		if !ok {
			return snapshot.PressureLine{}, false
		}
		known++
	}
	if known != 4 {
		return snapshot.PressureLine{}, false
	}
	return p, true
}

// percentage reads a share as PSI writes it, with two decimals.
func percentage(b []byte) (float64, bool) {
	whole, fraction, _ := bytes.Cut(b, []byte("."))
	w, wholeLength := number(whole)
	f, length := number(fraction)
	if wholeLength == 0 || wholeLength != len(whole) || wholeLength > 3 || length != 2 || len(fraction) != 2 {
		return 0, false
	}
	return float64(100*w+f) / 100, true
}
