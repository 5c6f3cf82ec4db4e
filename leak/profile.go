package leak

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/memrecon/memrecon/snapshot"
)

// ParseProfile reads a curve from text: a point a line, a time since the start (such as 90 in seconds, or 1m30s) and a size.
//
//	# two steps up and a slope down
//	0s    100Mi
//	10s   100Mi
//	10s   300Mi
//	1m    0
//
// What stands behind # is for readers. Before the first point nothing is taken.
func ParseProfile(text string, repeat bool) (Curve, error) {
	c := Curve{Repeat: repeat, words: "along a profile"}
	if repeat {
		c.words += " that repeats"
	}
	number := 0
	for line := range strings.Lines(text) {
		number++
		line, _, _ = strings.Cut(line, "#")
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		p, err := parsePoint(fields)
		if err != nil {
			return Curve{}, fmt.Errorf("line %d: %w", number, err)
		}
		last := len(c.Points) - 1
		switch {
		case last < 0 && p.At > 0:
			c.Points = append(c.Points, Point{}, Point{At: p.At})
		case last >= 0 && p.At < c.Points[last].At:
			return Curve{}, fmt.Errorf("line %d: %s is before the %s of the point above: times go forward", number, p.At, c.Points[last].At)
		case last >= 1 && p.At == c.Points[last-1].At:
			return Curve{}, fmt.Errorf("line %d: a third point at %s: two are a jump, and one between would not be seen", number, p.At)
		}
		c.Points = append(c.Points, p)
	}
	switch {
	case len(c.Points) == 0:
		return Curve{}, errors.New("there is no point: a time and a size a line, such as 10s 100Mi")
	case c.Top() == 0:
		return Curve{}, errors.New("nothing is ever taken: all sizes are 0")
	}
	if last := len(c.Points) - 1; repeat && (last == 0 || c.Points[last].At == c.Points[last-1].At) {
		return Curve{}, errors.New("a profile that repeats begins again at its last point: a jump there would not be seen, so put it a little before")
	}
	return c, nil
}

func parsePoint(fields []string) (Point, error) {
	if len(fields) != 2 {
		return Point{}, fmt.Errorf("a time and a size, such as 10s 100Mi; there are %d words", len(fields))
	}
	at, err := time.ParseDuration(fields[0])
	if seconds, isNumber := strconv.ParseFloat(fields[0], 64); isNumber == nil && seconds >= 0 && seconds < maxSeconds {
		at, err = time.Duration(seconds*float64(time.Second)), nil
	}
	if err != nil || at < 0 {
		return Point{}, fmt.Errorf("%.40q is no time: seconds, or such as 1m30s", fields[0])
	}
	bytes, err := snapshot.ParseQuantity(fields[1])
	if err != nil {
		return Point{}, err
	}
	n, _ := bytes.Get()
	if n >= 1<<62 {
		return Point{}, fmt.Errorf("%.40q is more than any machine has", fields[1])
	}
	return Point{at, n}, nil
}

// maxSeconds is a hundred years, which a time.Duration can tell.
const maxSeconds = 100 * 365 * 24 * 3600
