package report

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/memrecon/memrecon/reconcile"
	"github.com/memrecon/memrecon/snapshot"
)

// rssColumns lead from a container's usage to its working set and on to its RSS: what is left out at each step.
var rssColumns = []column{
	{"INACT", func(c *reconcile.Cells) int64 { return -c[reconcile.FileInactive] }},
	{"WORKSET", func(c *reconcile.Cells) int64 { return c.Sum() - c[reconcile.FileInactive] }},
	{"ACTIVE", func(c *reconcile.Cells) int64 { return -c[reconcile.FileActive] - c[reconcile.FileOther] }},
	{"SHMEM", func(c *reconcile.Cells) int64 { return -c[reconcile.Shmem] }},
	{"KERNEL", func(c *reconcile.Cells) int64 { return -c.KernelMemory() }},
	{"OTHER", func(c *reconcile.Cells) int64 {
		return -c[reconcile.AnonUnmapped] - c[reconcile.Sock] - c[reconcile.Hugetlb] - c[reconcile.Residual]
	}},
	{"RSS", func(c *reconcile.Cells) int64 { return c[reconcile.Anon] }},
}

// fromUsageToRSS shows for the largest containers what lies between the three figures that people compare.
func (t *text) fromUsageToRSS(s *reconcile.Sheet) {
	var order []int
	for i := range s.Rows {
		if s.Class(i) == snapshot.ClassContainer && s.Rows[i].Known == reconcile.KnownUsage|reconcile.KnownStat {
			order = append(order, i)
		}
	}
	if len(order) == 0 {
		return
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(s.Rows[b].UsageBytes(), s.Rows[a].UsageBytes()) })
	if t.o.Rows > 0 && len(order) > t.o.Rows {
		order = order[:t.o.Rows]
	}
	const nameWidth = 33
	t.printf("\n%s\n", t.paint(bold, "From usage to working set to RSS")+" of the largest containers: what each leaves out")
	head := pad("CONTAINER", nameWidth) + fmt.Sprintf(" %7s", "USAGE")
	for _, c := range rssColumns {
		head += fmt.Sprintf(" %7s", c.title)
	}
	t.printf("%s\n", t.paint(dim, head))
	for _, i := range order {
		all := &s.Rows[i].All
		t.printf("%s %7s", pad(s.Name(i), nameWidth), Size(all.Sum()))
		for _, c := range rssColumns {
			t.printf(" %7s", dash(c.bytes(all)))
		}
		t.b.WriteByte('\n')
	}
}

// kubernetes shows what the kubelet and the API server say of the node, beside what the kernel says.
func (t *text) kubernetes(s *reconcile.Sheet) {
	k := s.Snapshot().Kubernetes
	if k == nil {
		return
	}
	figures := map[string]reconcile.Amount{}
	for _, f := range reconcile.Figures() {
		if a, ok := s.Amount(&f, 0); ok && f.Scope == reconcile.ScopeNode {
			figures[f.ID] = a
		}
	}
	t.printf("\n%s\n", t.paint(bold, "What Kubernetes says"))
	say := func(format string, args ...any) { t.wrapped("  ", "    ", fmt.Sprintf(format, args...)) }
	if !k.Node.IsZero() {
		say("%s", node(&k.Node, k.Time))
	}
	t.topNode(s, figures)
	if limit, ok := figures["kubepods-limit"]; ok {
		say("Limit of all pods together: %s%s.", reserved(s.Total, &k.Config, snapshot.Value{}, limit.Bytes), agreed(limit, "the kernel has"))
	}
	threshold := k.Config.EvictionHard.Of(uint64(max(0, s.Total)))
	if allocatable, ok := figures["allocatable"]; ok {
		say("Allocatable to pods: %s%s.", reserved(s.Total, &k.Config, threshold, allocatable.Bytes), agreed(allocatable, "the API server has"))
	}
	for _, signal := range []struct{ name, id string }{
		{"memory.available", "kubelet-available"}, {"allocatableMemory.available", "allocatable-available"},
	} {
		a, known := figures[signal.id]
		hard, ok := threshold.Get()
		if !known || !ok || signal.id == "allocatable-available" && !slices.Contains(k.Config.EnforceNodeAllocatable, "pods") {
			continue
		}
		say("The kubelet evicts pods when %s, %s now, is below %s: %s.", signal.name, Size(a.Bytes), Size(int64(hard)), toGo(a.Bytes-int64(hard)))
		soft, ok := k.Config.EvictionSoft.Of(uint64(max(0, s.Total))).Get()
		if ok && signal.id == "kubelet-available" {
			say("It also does when it has been below %s for %s: %s.", Size(int64(soft)), k.Config.EvictionSoftGrace, toGo(a.Bytes-int64(soft)))
		}
	}
	if requests, ok := figures["requests"]; ok {
		share := ""
		if allocatable, ok := figures["allocatable"]; ok {
			share = ", " + percent(requests.Bytes, allocatable.Bytes) + " of allocatable,"
		}
		say("Pods request %s%s and are limited to %s as far as they have limits.", Size(requests.Bytes), share, Size(figures["limits"].Bytes))
	}
	if id, off, other := s.RootFormula(); id != "" {
		say("This kubelet computes the node's working set as %s: %s off, where the other formula would be %s off.", id, Size(off), Size(other))
	}
	if age := k.Time.Sub(k.PodsTime); k.Pods != nil && age > oldWord {
		say("Which pods there are is as the kubelet said %s ago; those that came since have no names.", age.Round(time.Second))
	}
	if compared, furthest := s.KubeletAgrees(); compared > 0 {
		say("Of %d figures that the kubelet publishes of the node, pods and containers, the furthest is %s from what memrecon read at the same time.",
			compared, Size(furthest))
	}
}

// node says how the Node is doing, by its conditions and taints.
func node(n *snapshot.Node, asked time.Time) string {
	words := "Node " + n.Name
	if n.KubeletVersion != "" {
		words += ", kubelet " + n.KubeletVersion
	}
	var states []string
	for _, c := range n.Conditions {
		since := ""
		if !c.Since.IsZero() {
			since = " since " + c.Since.UTC().Format("2006-01-02 15:04:05")
		}
		switch {
		case c.Type == "Ready" && c.Status == "True":
			states = append(states, "Ready"+since)
		case c.Type == "Ready", c.Status == "Unknown":
			states = append(states, fmt.Sprintf("%s is %s%s (%s)", c.Type, c.Status, since, c.Reason))
		case c.Status == "True":
			states = append(states, fmt.Sprintf("%s%s (%s)", c.Type, since, c.Reason))
		}
	}
	if len(states) > 0 {
		words += ": " + strings.Join(states, ", ")
	}
	if !slices.ContainsFunc(n.Conditions, func(c snapshot.Condition) bool { return c.Type == "MemoryPressure" && c.Status != "False" }) {
		words += ", no MemoryPressure"
	}
	var taints []string
	for _, taint := range n.Taints {
		name := taint.Key
		if taint.Value != "" {
			name += "=" + taint.Value
		}
		taints = append(taints, name+":"+taint.Effect)
	}
	if len(taints) > 0 {
		words += "; tainted " + strings.Join(taints, ", ")
	}
	if age := asked.Sub(n.Time); !n.Time.IsZero() && age > oldWord {
		words += fmt.Sprintf("; as the API server said %s ago", age.Round(time.Second))
	}
	return words + "."
}

// oldWord is the age from which it is worth saying how old the API server's or the kubelet's word is.
const oldWord = 30 * time.Second

// topNode says what kubectl top node shows, and where that is above 100%, why and whether it is dangerous.
func (t *text) topNode(s *reconcile.Sheet, figures map[string]reconcile.Amount) {
	shown, ok := figures["top-node"]
	said, known := shown.Kubelet.Get()
	if !known {
		if shown, ok = figures["node-working-set"]; ok {
			said, known = shown.Kubelet.Get()
		}
	}
	if !ok || !known {
		return
	}
	words := "kubectl top node: " + Size(int64(said))
	var share float64
	if allocatable, ok := figures["allocatable"]; ok {
		base := allocatable.Bytes
		if n, ok := allocatable.Published.Get(); ok {
			base = int64(n)
		}
		share = float64(said) / float64(max(1, base))
		words += fmt.Sprintf(", %s of allocatable %s and %s of capacity %s", percent(int64(said), base), Size(base), percent(int64(said), s.Total), Size(s.Total))
	}
	words += "; as of " + shown.KubeletTime.UTC().Format(time.TimeOnly)
	if shown.Then.Known {
		words += fmt.Sprintf(", when by memrecon it was %s", between(shown.Then))
	}
	words += fmt.Sprintf(", now it is %s.", Size(shown.Bytes))
	if share > 1 {
		words += " " + aboveAllocatable(s, figures)
	}
	t.wrapped("  ", "    ", words)
}

// aboveAllocatable says why kubectl top node can be above 100%, and whether that is dangerous now.
func aboveAllocatable(s *reconcile.Sheet, figures map[string]reconcile.Amount) string {
	words := "It is above 100% because the whole node's working set is compared with what pods alone may have"
	if pods, ok := figures["pods-working-set"]; ok {
		words += fmt.Sprintf(": %s of it is the pods', %s is not", Size(pods.Bytes), Size(figures["node-working-set"].Bytes-pods.Bytes))
	}
	available, ok1 := figures["kubelet-available"]
	hard, ok2 := figures["eviction-hard"]
	if !ok1 || !ok2 {
		return words + "."
	}
	switch left := available.Bytes - hard.Bytes; {
	case left <= 0:
		return words + ". That is dangerous now: the kubelet evicts pods."
	case left < s.Total/20:
		return words + ". That is dangerous now: " + toGo(left) + " until the kubelet evicts pods."
	default:
		return words + ". That is not dangerous by itself: " + toGo(left) + " until the kubelet evicts pods."
	}
}

// toGo says how far it is to a threshold.
func toGo(left int64) string {
	if left < 0 {
		return Size(-left) + " beyond it"
	}
	return Size(left) + " to go"
}

// between is a span in words.
func between(sp reconcile.Span) string {
	low, high := Size(sp.Low), Size(sp.High)
	if low == high {
		return low
	}
	return low + " to " + high
}

// reserved is the sum from capacity down to what pods may have.
func reserved(capacity int64, config *snapshot.KubeletConfig, threshold snapshot.Value, result int64) string {
	words := "capacity " + Size(capacity)
	for _, part := range []struct {
		name  string
		value snapshot.Value
	}{{"kube-reserved", config.KubeReserved}, {"system-reserved", config.SystemReserved}, {"hard eviction threshold", threshold}} {
		if n, ok := part.value.Get(); ok && n > 0 {
			words += " - " + part.name + " " + Size(int64(n))
		}
	}
	return words + " = " + Size(result)
}

// agreed says whether a figure is what its publisher has.
func agreed(a reconcile.Amount, who string) string {
	n, ok := a.Published.Get()
	switch {
	case a.Published.IsUnlimited():
		return ", but " + who + " no limit"
	case !ok:
		return ""
	case int64(n) == a.Bytes:
		return ", as " + who + " it"
	default:
		return fmt.Sprintf(", but %s %s", who, Size(int64(n)))
	}
}
