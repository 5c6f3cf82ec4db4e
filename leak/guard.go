package leak

import (
	"fmt"
	"math"
	"time"

	"github.com/memrecon/memrecon/snapshot"
)

// Guards say when to stop for the node's sake. The zero Guards are none.
type Guards struct {
	// FloorBytes is what both MemAvailable and the kubelet's available stay above.
	FloorBytes uint64
	// MaxFullPercent bounds PSI's full avg10 for memory: the share of the last ten seconds in which nothing could run for
	// want of memory.
	MaxFullPercent float64
	// Timeout ends it, whatever it is doing.
	Timeout time.Duration
}

// guards look at the node now and then.
type guards struct {
	Guards
	watcher *Watcher
	started time.Time
	next    time.Time
	// since is how much was taken since the node was looked at, lookAfter how much may be.
	since, lookAfter uint64
}

// lookEvery is how much time passes at most between two looks at the node. By itself the leak takes no more until the next than a
// quarter of what is left to the floor.
const lookEvery = 100 * time.Millisecond

func newGuards(g Guards, w *Watcher) *guards { return &guards{Guards: g, watcher: w} }

func (g *guards) took(n uint64) { g.since += n }

// mayTake is how much may be taken until the next check.
func (g *guards) mayTake() uint64 {
	if g.watcher == nil {
		return math.MaxUint64
	}
	return g.lookAfter - min(g.lookAfter, g.since)
}

// check is an error that wraps ErrGuard where one of them says to stop.
func (g *guards) check(now time.Time) error {
	if g.started.IsZero() {
		g.started = now
	}
	if g.Timeout > 0 && now.Sub(g.started) >= g.Timeout {
		return fmt.Errorf("%w: --timeout %s is over", ErrGuard, g.Timeout)
	}
	if g.watcher == nil || now.Before(g.next) && g.since < g.lookAfter {
		return nil
	}
	g.next, g.since, g.lookAfter = now.Add(lookEvery), 0, math.MaxUint64
	if g.FloorBytes > 0 {
		m, err := g.watcher.host.Meminfo()
		if err != nil {
			return fmt.Errorf("%w: the node's memory can't be watched: %w; --floor 0 goes without", ErrGuard, err)
		}
		for _, a := range []struct {
			what  string
			bytes snapshot.Value
		}{
			{"MemAvailable", m.MemAvailable}, {"what the kubelet calls available", m.KubeletAvailable()},
		} {
			n, ok := a.bytes.Get()
			if !ok {
				continue
			}
			g.lookAfter = min(g.lookAfter, (n-min(n, g.FloorBytes))/4)
			if n < g.FloorBytes {
				return fmt.Errorf("%w: %s is %s, below --floor %s", ErrGuard, a.what, sizeText(n), sizeText(g.FloorBytes))
			}
		}
	}
	if g.MaxFullPercent > 0 {
		p, err := g.watcher.host.Pressure()
		if err == nil && p.Full.Known && p.Full.Avg10 > g.MaxFullPercent {
			return fmt.Errorf("%w: for %.1f%% of the last 10 s nothing could run for want of memory, more than --max-pressure %g", ErrGuard,
				p.Full.Avg10, g.MaxFullPercent)
		}
	}
	return nil
}
