// Package report shows a result: as a document with a schema (JSON, YAML) and as text for a person. It computes nothing
// about memory and reads nothing of the node.
package report

import (
	"time"

	"github.com/memrecon/memrecon/reconcile"
	"github.com/memrecon/memrecon/snapshot"
)

// Schema names the form of a Document; docs/report.schema.json describes it.
const Schema = "memrecon.report/v1"

// Document is a report as JSON and YAML have it. All bytes are bytes, all times are RFC 3339.
type Document struct {
	Schema     string        `json:"schema"`
	Time       time.Time     `json:"time"`
	Node       string        `json:"node"`
	Kernel     string        `json:"kernel"`
	CgroupMode snapshot.Mode `json:"cgroup_mode"`
	Sweep      Sweep         `json:"sweep"`
	Sheet      Sheet         `json:"sheet"`
	Figures    []Figure      `json:"figures"`
	Bridges    []Bridge      `json:"bridges"`
	Findings   []Finding     `json:"findings"`
	Errors     []Error       `json:"errors"`
}

// Sweep is how the reading went.
type Sweep struct {
	Cgroups         int     `json:"cgroups"`
	DurationSeconds float64 `json:"duration_seconds"`
	// SkewBytes is how much memory changed its kind between the first and the last read.
	SkewBytes int64 `json:"skew_bytes"`
}

// Sheet is the balance sheet: the cells of all rows sum to TotalBytes.
type Sheet struct {
	TotalBytes int64 `json:"total_bytes"`
	// Kinds are all kinds in the order of the columns.
	Kinds []string `json:"kinds"`
	Rows  []Row    `json:"rows"`
	// ResidualBytes is the sum of the residual column.
	ResidualBytes int64 `json:"residual_bytes"`
}

// Row is one owner.
type Row struct {
	ID string `json:"id"`
	// Parent is the parent's id, null at the top.
	Parent *string        `json:"parent"`
	Class  snapshot.Class `json:"class"`
	Name   string         `json:"name"`
	// Cells are the owner's own charge by kind, without the kinds it has nothing of.
	Cells map[string]int64 `json:"cells"`
	// OwnBytes is the sum of the cells.
	OwnBytes int64 `json:"own_bytes"`
	// UsageBytes is what the owner and its descendants use.
	UsageBytes int64 `json:"usage_bytes"`
	// LimitBytes is the owner's own hard limit, null where it has none or it is not known.
	LimitBytes *uint64 `json:"limit_bytes"`
	// Kubernetes is null where it is not known.
	Kubernetes *Kubernetes `json:"kubernetes"`
}

// Figure is a published figure of one owner.
type Figure struct {
	ID        string `json:"id"`
	Owner     string `json:"owner"`
	Publisher string `json:"publisher"`
	// Bytes is computed over the sheet.
	Bytes int64 `json:"bytes"`
	// PublishedBytes is the publisher's own number, null where it could not be read.
	PublishedBytes *uint64 `json:"published_bytes"`
	// Kubelet is what the kubelet says, null where it was not asked or says nothing of it.
	Kubelet *Said  `json:"kubelet"`
	Formula string `json:"formula"`
}

// Said is a number of the kubelet's, which is of its own time.
type Said struct {
	Bytes uint64    `json:"bytes"`
	Time  time.Time `json:"time"`
	// Then is what the figure was at that time, null where memrecon has no readings of it.
	Then *Then `json:"then"`
}

// Then is the least and the most that a figure was by memrecon's readings around a time.
type Then struct {
	LowBytes  int64 `json:"low_bytes"`
	HighBytes int64 `json:"high_bytes"`
	// RemainderBytes is how far the kubelet's number is outside of the two: what change does not explain.
	RemainderBytes int64 `json:"remainder_bytes"`
}

// Kubernetes is a cgroup's pod and container as Kubernetes knows them.
type Kubernetes struct {
	Namespace string `json:"namespace"`
	Pod       string `json:"pod"`
	// Container is empty for the pod's own cgroup and its sandbox.
	Container    string       `json:"container"`
	QoS          snapshot.QoS `json:"qos"`
	Priority     int32        `json:"priority"`
	RequestBytes *uint64      `json:"request_bytes"`
	LimitBytes   *uint64      `json:"limit_bytes"`
}

// Bridge is the difference between two figures: its steps sum to DifferenceBytes.
type Bridge struct {
	From            string `json:"from"`
	FromOwner       string `json:"from_owner"`
	FromBytes       int64  `json:"from_bytes"`
	To              string `json:"to"`
	ToOwner         string `json:"to_owner"`
	ToBytes         int64  `json:"to_bytes"`
	DifferenceBytes int64  `json:"difference_bytes"`
	Steps           []Step `json:"steps"`
}

// Step is a cell, or, with the kind "adjustment", a part of a figure that is no cell.
type Step struct {
	Owner string `json:"owner"`
	Kind  string `json:"kind"`
	Bytes int64  `json:"bytes"`
	Label string `json:"label"`
}

// Finding is what does not add up, or will surprise.
type Finding struct {
	ID    string `json:"id"`
	Owner string `json:"owner"`
	Bytes int64  `json:"bytes"`
	Text  string `json:"text"`
}

// Error is a source that could not be read, or only in part.
type Error struct {
	Source string `json:"source"`
	Error  string `json:"error"`
	Hint   string `json:"hint"`
}

// NewDocument is the document of a sheet.
func NewDocument(s *reconcile.Sheet) *Document {
	snap := s.Snapshot()
	d := &Document{
		Schema: Schema, Time: snap.Time.UTC(), Node: snap.Node, Kernel: snap.Kernel, CgroupMode: snap.Mode,
		Sweep:    Sweep{Cgroups: snap.Sweep.Cgroups, DurationSeconds: snap.Sweep.Duration.Seconds(), SkewBytes: s.Skew},
		Sheet:    newSheet(s),
		Figures:  []Figure{},
		Bridges:  []Bridge{},
		Findings: []Finding{},
		Errors:   []Error{},
	}
	for _, a := range s.Amounts() {
		f := Figure{
			ID: a.Figure.ID, Owner: a.Owner, Publisher: a.Figure.Publisher, Bytes: a.Bytes, PublishedBytes: number(a.Published), Formula: a.Figure.Formula,
		}
		if n, ok := a.Kubelet.Get(); ok {
			f.Kubelet = &Said{Bytes: n, Time: a.KubeletTime.UTC()}
			if remainder, ok := a.Remainder(); ok {
				f.Kubelet.Then = &Then{a.Then.Low, a.Then.High, remainder}
			}
		}
		d.Figures = append(d.Figures, f)
	}
	for _, q := range s.Questions() {
		d.Bridges = append(d.Bridges, NewBridge(&q.Bridge, mostOwners))
	}
	for _, f := range s.Findings {
		d.Findings = append(d.Findings, Finding(f))
	}
	for _, e := range snap.Errors {
		d.Errors = append(d.Errors, Error(e))
	}
	return d
}

func newSheet(s *reconcile.Sheet) Sheet {
	sheet := Sheet{TotalBytes: s.Total, ResidualBytes: s.ResidualBytes(), Rows: make([]Row, 0, len(s.Rows))}
	for k := range reconcile.NumKinds {
		sheet.Kinds = append(sheet.Kinds, k.String())
	}
	for i := range s.Rows {
		r := &s.Rows[i]
		row := Row{
			ID: r.ID, Class: s.Class(i), Name: s.Name(i), Cells: map[string]int64{}, OwnBytes: r.Own.Sum(), UsageBytes: r.UsageBytes(),
			LimitBytes: number(s.Limit(i)), Kubernetes: newKubernetes(s, i),
		}
		if r.Parent >= 0 {
			row.Parent = &s.Rows[r.Parent].ID
		}
		for k, n := range r.Own {
			if n != 0 {
				row.Cells[reconcile.Kind(k).String()] = n
			}
		}
		sheet.Rows = append(sheet.Rows, row)
	}
	return sheet
}

func newKubernetes(s *reconcile.Sheet, row int) *Kubernetes {
	pod, container := s.Pod(row), s.Container(row)
	if pod == nil {
		return nil
	}
	k := &Kubernetes{
		Namespace: pod.Namespace, Pod: pod.Name, QoS: pod.QoS, Priority: pod.Priority, RequestBytes: number(reconcile.PodRequest(pod)), LimitBytes: number(reconcile.PodLimit(pod)),
	}
	if container != nil {
		k.Container, k.RequestBytes, k.LimitBytes = container.Name, number(container.Request), number(container.Limit)
	}
	return k
}

// mostOwners is how many owners the bridges of a document name for each kind: with thousands of cgroups each of a bridge's
// kinds has as many steps.
const mostOwners = 20

// others is the owner of a step that sums up the smaller ones of its kind.
const others = "others"

// NewBridge is a bridge as documents have it. With most above 0, the steps of a kind beyond so many, the smallest, are one step
// of the owner "others".
func NewBridge(b *reconcile.Bridge, most int) Bridge {
	out := Bridge{
		From: b.From.Figure, FromOwner: b.From.Owner, FromBytes: b.FromBytes,
		To: b.To.Figure, ToOwner: b.To.Owner, ToBytes: b.ToBytes,
		DifferenceBytes: b.ToBytes - b.FromBytes, Steps: []Step{},
	}
	for _, sum := range b.ByKind() {
		steps := sum.Owners
		var rest int64
		if most > 0 && len(steps) > most {
			for _, st := range steps[most:] {
				rest += st.Bytes
			}
			steps = steps[:most]
		}
		kind := "adjustment"
		if sum.Kind != reconcile.NumKinds {
			kind = sum.Kind.String()
		}
		for _, st := range steps {
			out.Steps = append(out.Steps, Step{Owner: st.Owner, Kind: kind, Bytes: st.Bytes, Label: st.Label})
		}
		if rest != 0 {
			out.Steps = append(out.Steps, Step{Owner: others, Kind: kind, Bytes: rest, Label: sum.Label})
		}
	}
	return out
}

func number(v snapshot.Value) *uint64 {
	if n, ok := v.Get(); ok {
		return &n
	}
	return nil
}
