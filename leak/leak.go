// Package leak takes memory in a controlled manner: of a kind, in a shape over time, within guards, and gives it back on
// every end. What it takes is mapped or held by file descriptors without a name, never the Go heap and never a file that
// outlives the process, so that the kernel takes it back however the process ends. It does not know who watches.
package leak

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Config is what to take and how. New says what is wrong with one.
type Config struct {
	Kind  Kind
	Shape Shape
	// Block is the size of one mapping in bytes, what is reported as a block, and what is given back in one step.
	Block uint64
	// Max is the most that is wanted in bytes, 0 for no end.
	Max uint64
	// Touch is the share of each block that is touched, 0 to 1; Spread touches pages all over the block in place of the first.
	Touch  float64
	Spread bool
	// Dir is the folder for page cache, a temporary one where it is empty, and the tmpfs for shared memory, the kernel's own
	// where it is empty.
	Dir string
	// Workers is how many threads touch side by side.
	Workers int
	// KeepHot touches everything again each second.
	KeepHot bool
	// Hold is how long it is held once the shape is full, 0 for until the context ends.
	Hold time.Duration
	// ReleaseEvery gives back a block each such time after the hold; 0 gives all back at once.
	ReleaseEvery time.Duration
	// StatsEvery is after how many blocks the figures of process, cgroup and node are read; 0 for never.
	StatsEvery int
	// Interval is how often progress is reported while the size moves; a tenth as often while it does not.
	Interval time.Duration
	Guards   Guards
	// DieAt ends the process with Die once so much was touched, 0 for never.
	DieAt uint64
	Death Death
}

// Event is one thing that happened, and an object of a line in JSON.
type Event struct {
	Event          EventKind `json:"event"`
	Time           time.Time `json:"time"`
	ElapsedSeconds float64   `json:"elapsed_seconds"`
	// Blocks is how many were taken by now.
	Blocks uint64 `json:"blocks"`
	// HeldBytes is what is taken, TouchedBytes how much of it was touched.
	HeldBytes    uint64 `json:"held_bytes"`
	TouchedBytes uint64 `json:"touched_bytes"`
	// Inside is what the figures are as seen from inside, where they were read.
	Inside Inside `json:"inside,omitzero"`
	// Reason is why it ended, or stopped growing.
	Reason string `json:"reason,omitempty"`
}

// EventKind is what happened.
type EventKind string

// The events.
const (
	Started   EventKind = "started"   // nothing is taken yet
	Block     EventKind = "block"     // a block was taken, of a shape of blocks
	Progress  EventKind = "progress"  // some time has gone by
	Holding   EventKind = "holding"   // the shape is full
	Releasing EventKind = "releasing" // the hold is over
	Released  EventKind = "released"  // a block was given back
	Ended     EventKind = "ended"     // all was given back; the sizes are what was held before
)

// Errors that Run wraps.
var (
	// ErrGuard is a guard that stopped it.
	ErrGuard = errors.New("stopped by a guard")
	// ErrNoMemory is an allocation that the kernel refused.
	ErrNoMemory = errors.New("the kernel refused more memory")
)

// A step is what is taken before guards and signals are looked at again. It grows and shrinks so that it takes about stepTime,
// whatever the machine can do.
const (
	stepTime         = 40 * time.Millisecond
	firstStep        = 32 << 20
	minStep, maxStep = 1 << 20, 512 << 20
	shrinkStep       = 32 << 20 // to give back is fast anywhere
)

// Leak takes memory once.
type Leak struct {
	config  Config
	memory  memory
	granule uint64
	guards  *guards
	inside  *insider
	report  func(*Event)

	start  time.Time
	step   uint64
	held   uint64
	blocks uint64
}

// New prepares a leak; report gets what happens, one after the other. Nothing is taken before Run.
func New(c Config, w *Watcher, report func(*Event)) (*Leak, error) {
	m, granule, err := open(&c, w)
	if err != nil {
		return nil, err
	}
	return &Leak{config: c, memory: m, granule: granule, guards: newGuards(c.Guards, w), inside: &insider{w}, report: report, step: firstStep}, nil
}

// Run takes, holds and gives back, until that is done, the context ends, a guard stops it (ErrGuard) or the kernel refuses
// (ErrNoMemory). In any case everything is given back by then.
func (l *Leak) Run(ctx context.Context) error {
	l.start = time.Now()
	l.emit(Started, "", true)
	reason, err := l.run(ctx)
	if err != nil {
		reason = err.Error()
	}
	last := l.event(Ended, reason, true)
	if closeErr := l.memory.close(); err == nil {
		err = closeErr
	}
	l.report(last)
	return err
}

func (l *Leak) run(ctx context.Context) (reason string, err error) {
	var holding time.Time // since when, zero while it grows
	nextReport, nextTouch := l.start.Add(l.config.Interval), l.start
	for {
		now := time.Now()
		elapsed := now.Sub(l.start)
		select {
		case <-ctx.Done():
			return context.Cause(ctx).Error(), nil
		default:
		}
		if err := l.guards.check(now); err != nil {
			return "", err
		}
		if !holding.IsZero() && l.config.Hold > 0 && now.Sub(holding) >= l.config.Hold {
			return l.release(ctx)
		}
		if l.config.KeepHot && !now.Before(nextTouch) {
			if err := l.memory.touch(); err != nil {
				return "", err
			}
			nextTouch = now.Add(time.Second)
		}
		if !now.Before(nextReport) {
			l.emit(Progress, "", true)
			nextReport = now.Add(l.config.Interval)
			if _, moves := l.config.Shape.Next(elapsed); !holding.IsZero() && !moves {
				nextReport = now.Add(10 * l.config.Interval)
			}
		}
		wanted := l.wanted(elapsed)
		if err := l.follow(wanted); err != nil {
			return "", err
		}
		if l.held != wanted {
			continue
		}
		if full, ok := l.config.Shape.Full(); ok && elapsed >= full && holding.IsZero() {
			holding = time.Now()
			l.emit(Holding, "", true)
		}
		wait(ctx, time.Until(l.wake(now, holding, nextReport, nextTouch)))
	}
}

// wake is when there is something to do again.
func (l *Leak) wake(now, holding, nextReport, nextTouch time.Time) time.Time {
	times := []time.Time{now.Add(lookEvery), nextReport}
	if !holding.IsZero() && l.config.Hold > 0 {
		times = append(times, holding.Add(l.config.Hold))
	}
	if next, ok := l.config.Shape.Next(now.Sub(l.start)); ok {
		times = append(times, l.start.Add(next))
	}
	if l.config.KeepHot {
		times = append(times, nextTouch)
	}
	return slices.MinFunc(times, time.Time.Compare)
}

// wanted is what the shape wants, in whole granules.
func (l *Leak) wanted(t time.Duration) uint64 {
	n := l.config.Shape.At(t)
	if l.config.Max > 0 && n >= l.config.Max {
		n = roundUp(l.config.Max, l.granule)
	}
	return n / l.granule * l.granule
}

// follow takes or gives back some of what is missing.
func (l *Leak) follow(wanted uint64) error {
	switch {
	case wanted > l.held:
		n := l.untilBlockEnd(min(wanted-l.held, l.step, l.guards.mayTake()))
		began := time.Now()
		if err := l.memory.grow(n); err != nil {
			if errors.Is(err, unix.ENOMEM) {
				return fmt.Errorf("%w after %s: %w; %s", ErrNoMemory, sizeText(l.held), err, l.guards.watcher.whyNoMemory())
			}
			return err
		}
		l.held += n
		l.guards.took(n)
		l.pace(n, time.Since(began))
		l.countBlocks()
		if l.config.DieAt > 0 && l.memory.touched() >= l.config.DieAt {
			l.emit(Ended, "dies at "+sizeText(l.config.DieAt)+" with "+l.config.Death.String()+", as asked", true)
			l.config.Death.die()
		}
	case wanted < l.held:
		n := min(l.held-wanted, roundUp(shrinkStep, l.granule))
		if err := l.memory.shrink(n); err != nil {
			return err
		}
		l.held -= n
		l.blocks = (l.held + l.blockBytes() - 1) / l.blockBytes()
	}
	return nil
}

// blockBytes is a block in whole granules.
func (l *Leak) blockBytes() uint64 { return roundUp(max(1, l.config.Block), l.granule) }

// pace sets the next step after one of n bytes that took so long.
func (l *Leak) pace(n uint64, took time.Duration) {
	switch {
	case took > 2*stepTime:
		l.step = max(minStep, n/2)
	case took < stepTime/2 && n >= l.step: // a smaller one was bounded by something else
		l.step = min(maxStep, 2*l.step)
	}
}

// untilBlockEnd is n, or less where a block ends before.
func (l *Leak) untilBlockEnd(n uint64) uint64 {
	n = min(n, l.blockBytes()-l.held%l.blockBytes())
	if l.config.DieAt > 0 && l.config.Touch >= 1 && l.held < l.config.DieAt {
		n = min(n, roundUp(l.config.DieAt-l.held, l.granule))
	}
	return max(l.granule, n/l.granule*l.granule)
}

// countBlocks reports a block that has just become whole.
func (l *Leak) countBlocks() {
	n := (l.held + l.blockBytes() - 1) / l.blockBytes()
	whole := l.held%l.blockBytes() == 0 || l.config.Max > 0 && l.held >= l.config.Max
	if n <= l.blocks || !whole {
		return
	}
	l.blocks = n
	if _, inBlocks := l.config.Shape.(Blocks); !inBlocks {
		return // progress tells of a growth without steps
	}
	l.emit(Block, "", l.config.StatsEvery > 0 && n%uint64(l.config.StatsEvery) == 0)
}

// release gives everything back, a block each time where that was asked for.
func (l *Leak) release(ctx context.Context) (reason string, err error) {
	const done = "the hold is over"
	if l.config.ReleaseEvery <= 0 {
		return done, nil
	}
	l.emit(Releasing, "", true)
	next := time.Now()
	for l.held > 0 {
		now := time.Now()
		if err := l.guards.check(now); err != nil {
			return "", err
		}
		if now.Before(next) {
			if !wait(ctx, min(next.Sub(now), lookEvery)) {
				return context.Cause(ctx).Error(), nil
			}
			continue
		}
		to := (l.held - 1) / l.blockBytes() * l.blockBytes() // the last block may be smaller
		for l.held > to {
			if err := l.follow(to); err != nil {
				return "", err
			}
		}
		l.emit(Released, "", true)
		next = next.Add(l.config.ReleaseEvery)
	}
	return done, nil
}

func (l *Leak) emit(kind EventKind, reason string, read bool) { l.report(l.event(kind, reason, read)) }

func (l *Leak) event(kind EventKind, reason string, read bool) *Event {
	now := time.Now()
	e := &Event{
		Event: kind, Time: now, ElapsedSeconds: now.Sub(l.start).Round(time.Microsecond).Seconds(), Blocks: l.blocks, HeldBytes: l.held,
		TouchedBytes: l.memory.touched(), Reason: reason,
	}
	if read {
		e.Inside = l.inside.read()
	}
	return e
}

// wait waits; false where the context has ended first.
func wait(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
