package collector

import (
	"context"
	"time"

	"github.com/memrecon/memrecon/snapshot"
)

// Run collects at once and then each interval until ctx ends, and hands every result to each, which must not keep it waiting.
// A round that takes longer than the interval is followed by the next at once; ticks that it missed are lost. A round that
// hangs in a read can't be ended: Run then hangs with it, and Latest's Finished grows old.
func (c *Collector) Run(ctx context.Context, interval time.Duration, each func(*Result)) {
	c.Collect() // finds and opens everything, so that the next round reads it all within milliseconds
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	var known []snapshot.SourceError
	for ctx.Err() == nil {
		result := c.Collect()
		errs := result.Sheet.Snapshot().Errors
		c.logChanges(known, errs)
		known = errs
		each(result)
		select {
		case <-ctx.Done():
		case <-ticker.C:
		}
	}
}

// logChanges says which errors are new and which are over.
func (c *Collector) logChanges(before, now []snapshot.SourceError) {
	for _, e := range without(now, before) {
		c.config.Logger.Warn("cannot read", "source", e.Source, "error", e.Error, "hint", e.Hint)
	}
	for _, e := range without(before, now) {
		c.config.Logger.Info("no longer in the way", "source", e.Source, "error", e.Error)
	}
}

// without are the errors that are not among the others, each once.
func without(errs, others []snapshot.SourceError) []snapshot.SourceError {
	if len(errs) == 0 {
		return nil
	}
	seen := make(map[snapshot.SourceError]bool, len(others)+len(errs))
	for _, e := range others {
		seen[e] = true
	}
	var out []snapshot.SourceError
	for _, e := range errs {
		if !seen[e] {
			seen[e] = true
			out = append(out, e)
		}
	}
	return out
}
