package reconcile

import (
	"cmp"
	"slices"

	"github.com/memrecon/memrecon/snapshot"
)

// Ref names a figure of an owner.
type Ref struct {
	Figure string
	Owner  string
}

// Bridge is the difference between two figures, step by step. The steps sum exactly to To's value less From's.
type Bridge struct {
	From, To           Ref
	FromBytes, ToBytes int64
	Steps              []Step
}

// Step is one cell, or one adjustment that is no cell, that one of the two figures counts and the other does not.
type Step struct {
	// Owner is the row's id; OwnerNode for an adjustment of a node's figure.
	Owner string
	// Kind is the cell's, NumKinds for an adjustment.
	Kind Kind
	// Bytes is what the step adds on the way from From to To.
	Bytes int64
	// Label says it in words.
	Label string
}

// IsAdjustment tells that the step is no cell of the sheet.
func (st *Step) IsAdjustment() bool { return st.Kind == NumKinds }

// Bridge computes the difference between two figures. Bridges compose: the cells of Bridge(a, c) are those of Bridge(a, b)
// and Bridge(b, c) together. Errors are those of Value.
func (s *Sheet) Bridge(from, to Ref) (Bridge, error) {
	ff, fa, err := s.lookup(from.Figure, from.Owner)
	if err != nil {
		return Bridge{}, err
	}
	tf, ta, err := s.lookup(to.Figure, to.Owner)
	if err != nil {
		return Bridge{}, err
	}
	from.Owner, to.Owner = s.ownerOf(ff, &fa), s.ownerOf(tf, &ta)
	b := Bridge{From: from, To: to, FromBytes: fa.value(s), ToBytes: ta.value(s)}
	inFrom, inTo := s.members(fa.rows), s.members(ta.rows)
	for i := range s.Rows {
		for k := range NumKinds {
			var wf, wt int64
			if inFrom(i) {
				wf = fa.weights[k]
			}
			if inTo(i) {
				wt = ta.weights[k]
			}
			if n := (wt - wf) * s.Rows[i].Own[k]; n != 0 {
				counter := from.Figure
				if wt != 0 {
					counter = to.Figure
				}
				b.Steps = append(b.Steps, Step{Owner: s.Rows[i].ID, Kind: k, Bytes: n, Label: k.Words() + ", counted by " + counter + " only"})
			}
		}
	}
	slices.SortStableFunc(b.Steps, func(x, y Step) int { return cmp.Compare(magnitude(y.Bytes), magnitude(x.Bytes)) })
	b.Steps = append(b.Steps, adjustments(from, to, fa.extras, ta.extras)...)
	return b, nil
}

func magnitude(n int64) int64 { return max(n, -n) }

// ownerOf is the id of the owner that an account is of.
func (s *Sheet) ownerOf(f *Figure, a *account) string {
	if f.Scope == ScopeNode {
		return OwnerNode
	}
	return s.Rows[a.rows.owner].ID
}

// members tells which rows a selection holds. A child stands behind its parent, so one pass finds a subtree.
func (s *Sheet) members(r rows) func(row int) bool {
	switch r.of {
	case allRows:
		return func(int) bool { return true }
	case inPods:
		return func(row int) bool { return s.identity(row).PodUID != "" }
	case containers:
		uid := s.identity(r.owner).PodUID
		return func(row int) bool { return s.identity(row).PodUID == uid && s.Container(row) != nil }
	}
	in := make([]bool, len(s.Rows))
	in[r.owner] = true
	for i := r.owner + 1; i < len(s.snap.Cgroups); i++ {
		in[i] = in[s.Rows[i].Parent]
	}
	if r.of == below {
		in[r.owner] = false
	}
	return func(row int) bool { return in[row] }
}

// adjustments are the parts of the two figures that are no cells; what both have alike is no step.
func adjustments(from, to Ref, fromExtras, toExtras []extra) []Step {
	type key struct{ owner, label string }
	sum := map[key]int64{}
	var order []key
	add := func(owner string, e extra, sign int64) {
		k := key{owner, e.label}
		if _, seen := sum[k]; !seen {
			order = append(order, k)
		}
		sum[k] += sign * e.bytes
	}
	for _, e := range fromExtras {
		add(from.Owner, e, -1)
	}
	for _, e := range toExtras {
		add(to.Owner, e, 1)
	}
	var steps []Step
	for _, k := range order {
		if n := sum[k]; n != 0 {
			steps = append(steps, Step{Owner: k.owner, Kind: NumKinds, Bytes: n, Label: k.label})
		}
	}
	return steps
}

// KindSum is a bridge's steps of one kind, over all owners.
type KindSum struct {
	// Kind is NumKinds for an adjustment, which stands alone.
	Kind  Kind
	Bytes int64
	Label string
	// Owners are the steps, the largest first.
	Owners []Step
}

// ByKind sums a bridge's steps over the owners, the largest sums first: the bridge as a person reads it.
func (b *Bridge) ByKind() []KindSum {
	var sums []KindSum
	for _, st := range b.Steps {
		i := slices.IndexFunc(sums, func(x KindSum) bool { return !st.IsAdjustment() && x.Kind == st.Kind && x.Label == st.Label })
		if i < 0 {
			i = len(sums)
			sums = append(sums, KindSum{Kind: st.Kind, Label: st.Label})
		}
		sums[i].Bytes += st.Bytes
		sums[i].Owners = append(sums[i].Owners, st)
	}
	slices.SortStableFunc(sums, func(x, y KindSum) int { return cmp.Compare(magnitude(y.Bytes), magnitude(x.Bytes)) })
	return sums
}

// Question is what people ask of every node, and the bridge that answers it.
type Question struct {
	Text   string
	Bridge Bridge
}

// Questions are the standard ones; one whose figures this sheet lacks is left out.
func (s *Sheet) Questions() []Question {
	var out []Question
	for _, q := range []struct {
		text     string
		from, to Ref
	}{
		{"Why do MemFree and MemAvailable differ?", Ref{"mem-free", OwnerNode}, Ref{"mem-available", OwnerNode}},
		{"Why do free and kubectl top node disagree?", Ref{"free-used", OwnerNode}, Ref{"node-working-set", OwnerNode}},
		{"Why did an older kubelet on cgroup v2 say more?", Ref{"node-working-set", OwnerNode}, Ref{"node-working-set-total-less-free", OwnerNode}},
		{"Why does the kubelet see more available than the kernel?", Ref{"mem-available", OwnerNode}, Ref{"kubelet-available", OwnerNode}},
		{"Why do the parts not add up to the node?", Ref{"node-working-set", OwnerNode}, Ref{"children-working-set", OwnerRoot}},
		{"Why do the pods not add up to the node?", Ref{"node-working-set", OwnerNode}, Ref{"pods-working-set", OwnerNode}},
		{"Where does capacity go, before pods may have it?", Ref{"capacity", OwnerNode}, Ref{"allocatable", OwnerNode}},
		{"Why may pods use more than is allocatable?", Ref{"allocatable", OwnerNode}, Ref{"kubepods-limit", OwnerNode}},
	} {
		switch {
		case q.to.Figure == "node-working-set-total-less-free" && s.snap.Mode.Files() != snapshot.V2:
			continue
		case q.to.Figure == "kubelet-available" && s.snap.Kubernetes == nil:
			continue
		}
		if b, err := s.Bridge(q.from, q.to); err == nil {
			out = append(out, Question{q.text, b})
		}
	}
	return out
}
