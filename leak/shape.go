package leak

import (
	"math"
	"slices"
	"time"
)

// Shape is how much is wanted over time. All of it is pure: the same time gives the same size.
type Shape interface {
	// At is how many bytes are wanted at a time after the start.
	At(t time.Duration) uint64
	// Next is a time after t at which something else may be wanted; false where nothing else ever is.
	Next(t time.Duration) (time.Duration, bool)
	// Full is when the growth is over and the hold begins; false for a growth without an end.
	Full() (time.Duration, bool)
	// Reach is when so many bytes are first wanted; false for never.
	Reach(bytes uint64) (time.Duration, bool)
}

// tick is how finely a growth without steps is followed: some small fraction of the ten seconds within which a rate is held.
const tick = 5 * time.Millisecond

// Blocks is one block at the start and one more each time after Every, until Max; all at once where Every is 0. A Max of 0 is
// no end.
type Blocks struct {
	Block, Max uint64
	Every      time.Duration
}

// At is whole blocks, but for the last one.
func (b Blocks) At(t time.Duration) uint64 {
	top := b.Max
	if top == 0 {
		top = math.MaxInt64
	}
	if b.Every <= 0 || t < 0 {
		return top
	}
	n := uint64(t/b.Every) + 1
	if n > top/max(1, b.Block) {
		return top
	}
	return min(top, n*b.Block)
}

// Next is when the next block is due.
func (b Blocks) Next(t time.Duration) (time.Duration, bool) {
	if full, ok := b.Full(); b.Every <= 0 || ok && t >= full {
		return 0, false
	}
	return t - t%b.Every + b.Every, true
}

// Full is when the last block is due.
func (b Blocks) Full() (time.Duration, bool) {
	if b.Max == 0 {
		return 0, false
	}
	return b.Reach(b.Max)
}

// Reach is when the block is due that makes it so many bytes.
func (b Blocks) Reach(bytes uint64) (time.Duration, bool) {
	switch {
	case b.Max > 0 && bytes > b.Max:
		return 0, false
	case bytes == 0 || b.Every <= 0:
		return 0, true
	}
	n := (bytes - 1) / max(1, b.Block)
	if n > uint64(math.MaxInt64/b.Every) {
		return 0, false
	}
	return time.Duration(n) * b.Every, true
}

// Rate is a steady growth until Max; a Max of 0 is no end.
type Rate struct {
	BytesPerSecond, Max uint64
}

// At is proportional to the time.
func (r Rate) At(t time.Duration) uint64 {
	top := r.Max
	if top == 0 {
		top = math.MaxInt64
	}
	if n := t.Seconds() * float64(r.BytesPerSecond); n < float64(top) {
		return uint64(n)
	}
	return top
}

// Next is a tick later, until it is full.
func (r Rate) Next(t time.Duration) (time.Duration, bool) {
	full, ok := r.Full()
	if ok && t >= full {
		return 0, false
	}
	if ok {
		return min(t+tick, full), true
	}
	return t + tick, true
}

// Full is when Max is reached.
func (r Rate) Full() (time.Duration, bool) {
	if r.Max == 0 {
		return 0, false
	}
	return r.Reach(r.Max)
}

// Reach is the size over the rate.
func (r Rate) Reach(bytes uint64) (time.Duration, bool) {
	if r.BytesPerSecond == 0 || r.Max > 0 && bytes > r.Max {
		return 0, false
	}
	nanoseconds := math.Ceil(float64(bytes) / float64(r.BytesPerSecond) * float64(time.Second))
	if nanoseconds >= math.MaxInt64/2 {
		return 0, false
	}
	return time.Duration(nanoseconds), true
}

// Point is a size at a time.
type Point struct {
	At    time.Duration
	Bytes uint64
}

// Ramp is a straight line from nothing to a size.
func Ramp(most uint64, period time.Duration) Curve {
	return Curve{Points: []Point{{0, 0}, {period, most}}, words: "in a straight line within " + period.String()}
}

// Saw goes from low to most in a straight line, stays there for the last hundredth of the period so that it is surely reached,
// and begins again at low.
func Saw(low, most uint64, period time.Duration) Curve {
	return Curve{
		Points: []Point{{0, low}, {period - period/100, most}, {period, most}}, Repeat: true,
		words: "as a saw from " + sizeText(low) + ", a tooth every " + period.String(),
	}
}

// Spike stays at low and is at most for the last tenth of each period.
func Spike(low, most uint64, period time.Duration) Curve {
	rise := period - period/10
	return Curve{
		Points: []Point{{0, low}, {rise, low}, {rise, most}, {period, most}}, Repeat: true,
		words: "in spikes from " + sizeText(low) + ", one every " + period.String() + " that lasts " + (period - rise).String(),
	}
}

// Curve goes through points, in straight lines; two points at the same time are a jump, to the second of them. Before the
// first it has the first's size, after the last the last's.
type Curve struct {
	// Points has one or more, in the order of time, and no more than two of the same time.
	Points []Point
	// Repeat starts the curve again at its end, for ever. Then there is no jump at the end.
	Repeat bool
	// words say what it looks like.
	words string
}

// At is between the two points around the time.
func (c Curve) At(t time.Duration) uint64 {
	last := c.Points[len(c.Points)-1]
	if c.Repeat && last.At > 0 {
		t %= last.At
	}
	i, _ := slices.BinarySearchFunc(c.Points, t, func(p Point, t time.Duration) int {
		if p.At <= t {
			return -1
		}
		return 1
	})
	switch i {
	case 0:
		return c.Points[0].Bytes
	case len(c.Points):
		return last.Bytes
	}
	a, b := c.Points[i-1], c.Points[i]
	share := float64(t-a.At) / float64(b.At-a.At)
	return uint64(float64(a.Bytes) + share*(float64(b.Bytes)-float64(a.Bytes)))
}

// Next is a tick later on a slope, else the next point.
func (c Curve) Next(t time.Duration) (time.Duration, bool) {
	end := c.Points[len(c.Points)-1].At
	var begun time.Duration // the whole repetitions
	if c.Repeat && end > 0 {
		begun = t - t%end
	}
	for i, p := range c.Points {
		if begun+p.At <= t {
			continue
		}
		if i > 0 && c.Points[i-1].Bytes != p.Bytes {
			return min(t+tick, begun+p.At), true
		}
		return begun + p.At, true
	}
	return 0, false
}

// Full is the time of the last point; of one that repeats, when its largest size is first wanted.
func (c Curve) Full() (time.Duration, bool) {
	if !c.Repeat {
		return c.Points[len(c.Points)-1].At, true
	}
	return c.Reach(c.Top())
}

// Top is the largest size.
func (c Curve) Top() (bytes uint64) {
	for _, p := range c.Points {
		bytes = max(bytes, p.Bytes)
	}
	return bytes
}

// Reach is on the first slope, or at the first jump, that gets there.
func (c Curve) Reach(bytes uint64) (time.Duration, bool) {
	for i, p := range c.Points {
		if p.Bytes < bytes {
			continue
		}
		if i == 0 {
			return 0, true
		}
		a := c.Points[i-1]
		share := float64(bytes-a.Bytes) / float64(p.Bytes-a.Bytes)
		return a.At + time.Duration(math.Ceil(share*float64(p.At-a.At))), true
	}
	return 0, false
}
