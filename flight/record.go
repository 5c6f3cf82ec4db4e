package flight

import (
	"time"

	"github.com/memrecon/memrecon/snapshot"
)

// Record is what one cgroup used over some time.
type Record struct {
	Key

	Identity snapshot.Identity `json:"identity,omitzero"`
	// Limit in bytes is the cgroup's own hard limit, as it was last read, which may be 30 rounds before the last sample.
	Limit snapshot.Value `json:"limit_bytes,omitzero"`
	// Peak in bytes is what the kernel says was the most that it used since it was made, as old as Limit: the samples may have more.
	Peak snapshot.Value `json:"peak_bytes,omitzero"`
	// Gone is the first round in which it was not there any more; zero while it is.
	Gone time.Time `json:"gone,omitzero"`
	// Samples are in the order of time, one a round.
	Samples []Sample `json:"samples"`
}

// Sample is what a cgroup used in one round. What could not be read is absent.
type Sample struct {
	Time time.Time `json:"time"`
	// Usage in bytes, with the descendants'; the root's on cgroup v2 is Anon and File.
	Usage snapshot.Value `json:"usage_bytes,omitzero"`
	// WorkingSet in bytes is Usage less inactive page cache and not below zero, as the kubelet computes it.
	WorkingSet snapshot.Value `json:"working_set_bytes,omitzero"`
	// Anon, File (which includes tmpfs) and Kernel are what Usage consists of, in bytes, but for some pages charged ahead.
	Anon   snapshot.Value `json:"anon_bytes,omitzero"`
	File   snapshot.Value `json:"file_bytes,omitzero"`
	Kernel snapshot.Value `json:"kernel_bytes,omitzero"`
	// Swap in bytes: v1 total_swap of memory.stat, v2 memory.swap.current, which is read less often than the rest.
	Swap snapshot.Value `json:"swap_bytes,omitzero"`
	// MemAvailable in bytes is the node's.
	MemAvailable snapshot.Value `json:"node_mem_available_bytes,omitzero"`
}

// Last is the last sample with a usage that is not after a time; the zero time is the end. It is false where there is none.
func (r *Record) Last(until time.Time) (Sample, bool) {
	for i := len(r.Samples) - 1; i >= 0; i-- {
		s := r.Samples[i]
		if _, ok := s.Usage.Get(); ok && (until.IsZero() || !s.Time.After(until)) {
			return s, true
		}
	}
	return Sample{}, false
}

// Highest is the sample with the largest usage, the first of several. It is false where none has one.
func (r *Record) Highest() (highest Sample, ok bool) {
	for _, s := range r.Samples {
		n, known := s.Usage.Get()
		if most, _ := highest.Usage.Get(); known && (!ok || n > most) {
			highest, ok = s, true
		}
	}
	return highest, ok
}

// Growth is a rate of change of the usage.
type Growth struct {
	BytesPerSecond float64
	// Over is how far the two samples are apart that it was computed from: about what was asked for, less where the record does not go
	// back so far.
	Over time.Duration
}

// Growth is how fast the usage grew in about so long a time before the last sample that is not after until (the zero time is the end). It is
// false where there are no two samples with a usage in it.
func (r *Record) Growth(until time.Time, window time.Duration) (Growth, bool) {
	last, ok := r.Last(until)
	if !ok {
		return Growth{}, false
	}
	off := func(s *Sample) time.Duration { return (last.Time.Sub(s.Time) - window).Abs() }
	var from Sample // the closest to the window, which rounds do not meet to the millisecond
	for _, s := range r.Samples {
		over := last.Time.Sub(s.Time)
		if _, known := s.Usage.Get(); !known || over <= 0 || over > window+window/20 {
			continue
		}
		if from.Time.IsZero() || off(&s) < off(&from) {
			from = s
		}
	}
	if from.Time.IsZero() {
		return Growth{}, false
	}
	old, _ := from.Usage.Get()
	now, _ := last.Usage.Get()
	over := last.Time.Sub(from.Time)
	return Growth{(float64(now) - float64(old)) / over.Seconds(), over}, true
}

// SeenByScrape is the least that somebody who reads the usage every so often may have seen at most: the largest sample that a scrape
// has found, when the scrapes fall as badly as they can. A scrape finds the sample before it, until the last. It is absent where
// scrapes can miss the record altogether.
func (r *Record) SeenByScrape(every time.Duration) (least snapshot.Value) {
	if len(r.Samples) == 0 || every <= 0 {
		return snapshot.Value{}
	}
	// What scrapes find changes with their phase only where one of them passes a sample or the end, so these phases are all.
	start, last := r.Samples[0].Time, len(r.Samples)-1
	phases := make([]time.Duration, 0, len(r.Samples)+1)
	for i := range r.Samples {
		phases = append(phases, r.Samples[i].Time.Sub(start)%every)
	}
	phases = append(phases, (r.Samples[last].Time.Sub(start)+1)%every)
	for _, phase := range phases {
		most, ok := r.mostSeen(start.Add(phase), every).Get()
		if !ok {
			return snapshot.Value{}
		}
		if n, known := least.Get(); !known || most < n {
			least = snapshot.Of(most)
		}
	}
	return least
}

// mostSeen is the largest usage that is found by scrapes of which the first is at a time.
func (r *Record) mostSeen(scrape time.Time, every time.Duration) (most snapshot.Value) {
	end := r.Samples[len(r.Samples)-1].Time
	at := 0
	for ; !scrape.After(end); scrape = scrape.Add(every) {
		for at+1 < len(r.Samples) && !r.Samples[at+1].Time.After(scrape) {
			at++
		}
		n, ok := r.Samples[at].Usage.Get()
		if m, known := most.Get(); ok && (!known || n > m) {
			most = snapshot.Of(n)
		}
	}
	return most
}
