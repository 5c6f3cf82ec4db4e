package leak

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/memrecon/memrecon/report"
	"github.com/memrecon/memrecon/snapshot"
)

// View shows a plan and then what happens.
type View interface {
	Plan(*Plan)
	Event(*Event)
}

func sizeText(n uint64) string { return report.Size(int64(min(n, 1<<63-1))) }

// Lines shows a line for each block, and the figures now and then.
type Lines struct {
	W io.Writer
	// Config is the leak's.
	Config *Config
}

// Plan writes the sentences.
func (v Lines) Plan(p *Plan) {
	for _, text := range p.Text {
		fmt.Fprintln(v.W, text)
	}
}

// Event writes a line, and another with the figures where they were read.
func (v Lines) Event(e *Event) {
	at := fmt.Sprintf("%7.1fs ", e.ElapsedSeconds)
	switch e.Event {
	case Block:
		fmt.Fprintf(v.W, "%s block %d: +%s, so far %s taken, %s touched\n", at, e.Blocks, sizeText(min(v.Config.Block, e.HeldBytes)),
			sizeText(e.HeldBytes), sizeText(e.TouchedBytes))
	case Started:
		fmt.Fprintf(v.W, "%s starts\n", at)
	case Progress:
		if v.inBlocks(e) {
			return // the blocks tell it
		}
		fmt.Fprintf(v.W, "%s %s taken, %s touched\n", at, sizeText(e.HeldBytes), sizeText(e.TouchedBytes))
	case Holding:
		if c, ok := v.Config.Shape.(Curve); ok && c.Repeat {
			fmt.Fprintf(v.W, "%s is at its top, %s\n", at, sizeText(e.HeldBytes))
			break
		}
		fmt.Fprintf(v.W, "%s holds %s, %s touched\n", at, sizeText(e.HeldBytes), sizeText(e.TouchedBytes))
	case Releasing:
		fmt.Fprintf(v.W, "%s gives it back, %s every %s\n", at, sizeText(v.Config.Block), v.Config.ReleaseEvery)
	case Released:
		fmt.Fprintf(v.W, "%s %s left\n", at, sizeText(e.HeldBytes))
	case Ended:
		fmt.Fprintf(v.W, "%s ends: %s; held %s, %s touched\n", at, e.Reason, sizeText(e.HeldBytes), sizeText(e.TouchedBytes))
	}
	if !e.Inside.IsZero() {
		fmt.Fprintf(v.W, "%s   %s\n", strings.Repeat(" ", len(at)), figures(&e.Inside))
	}
}

// inBlocks tells that the size is still growing in blocks, each of which is shown.
func (v Lines) inBlocks(e *Event) bool {
	_, ok := v.Config.Shape.(Blocks)
	return ok && (v.Config.Max == 0 || e.HeldBytes < v.Config.Max)
}

func figures(i *Inside) string {
	var parts []string
	for _, f := range []struct {
		words string
		bytes snapshot.Value
	}{
		{"process RSS", i.RSSBytes}, {"cgroup usage", i.CgroupUsageBytes}, {"working set", i.CgroupWorkingSetBytes}, {"node available", i.AvailableBytes},
	} {
		if n, ok := f.bytes.Get(); ok {
			parts = append(parts, f.words+" "+sizeText(n))
		}
	}
	return strings.Join(parts, ", ")
}

// Bar shows one line that changes, for a terminal.
type Bar struct {
	Lines
	// Width is how many characters a line has.
	Width int
}

// Event rewrites the bar; what ends it is a line of its own.
func (v Bar) Event(e *Event) {
	switch e.Event {
	case Block:
		return
	case Ended, Releasing:
		fmt.Fprint(v.W, "\r\x1b[K")
		v.Lines.Event(e)
		return
	}
	text := fmt.Sprintf(" %s", sizeText(e.HeldBytes))
	if v.Config.Max > 0 {
		text += " of " + sizeText(v.Config.Max)
	}
	if left := v.Config.Max - e.HeldBytes; e.Event == Progress && e.HeldBytes > 0 && (v.Config.Max == 0 || e.HeldBytes < v.Config.Max) {
		speed := float64(e.HeldBytes) / e.ElapsedSeconds
		text += fmt.Sprintf(", %s/s", sizeText(uint64(speed)))
		if v.Config.Max > 0 {
			text += ", " + time.Duration(float64(left)/speed*float64(time.Second)).Round(time.Second).String() + " left"
		}
	}
	if !e.Inside.IsZero() {
		text += "; " + figures(&e.Inside)
	}
	bar := ""
	if room := min(30, v.Width-len(text)-3); v.Config.Max > 0 && room >= 10 {
		full := min(room, int(float64(room)*float64(e.HeldBytes)/float64(v.Config.Max)))
		bar = "[" + strings.Repeat("#", full) + strings.Repeat(".", room-full) + "]"
	}
	line := bar + text
	if len(line) >= v.Width && v.Width > 0 {
		line = line[:v.Width-1]
	}
	fmt.Fprint(v.W, "\r\x1b[K"+line)
}

// JSON writes one object a line: the plan first, then the events.
type JSON struct{ W io.Writer }

// Plan writes the plan as an event of its own.
func (v JSON) Plan(p *Plan) {
	v.write(struct {
		Event string `json:"event"`
		*Plan
	}{"plan", p})
}

// Event writes the event.
func (v JSON) Event(e *Event) { v.write(e) }

func (v JSON) write(doc any) {
	b, err := json.Marshal(doc)
	if err != nil {
		b = fmt.Appendf(nil, `{"event":"error","reason":%q}`, err)
	}
	fmt.Fprintf(v.W, "%s\n", b)
}
