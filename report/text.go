package report

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/memrecon/memrecon/reconcile"
	"github.com/memrecon/memrecon/snapshot"
)

// Options of the text.
type Options struct {
	// Color marks what matters with ANSI colours; only for a terminal.
	Color bool
	// Rows is how many owners a table shows; the rest is summed up. 0 for all.
	Rows int
}

// Text writes a sheet for a person, at most 100 columns wide: the verdict, where the memory is, what the usual figures say
// of the largest owners, why the node's figures differ, and what was missing.
func Text(w io.Writer, s *reconcile.Sheet, o Options) error {
	t := &text{o: o}
	t.headline(s)
	t.owners(s)
	t.cgroups(s)
	t.fromUsageToRSS(s)
	t.kubernetes(s)
	t.questions(s)
	t.findings(s)
	_, err := io.WriteString(w, t.b.String())
	return err
}

// BridgeText writes one bridge of a sheet for a person.
func BridgeText(w io.Writer, s *reconcile.Sheet, b *reconcile.Bridge, o Options) error {
	t := &text{o: o}
	t.bridge(s, b, 0)
	_, err := io.WriteString(w, t.b.String())
	return err
}

const width = 100

type text struct {
	b strings.Builder
	o Options
}

// The ANSI colours in use.
const (
	bold   = "1"
	dim    = "2"
	red    = "1;31"
	yellow = "1;33"
	green  = "1;32"
)

func (t *text) paint(color, s string) string {
	if !t.o.Color {
		return s
	}
	return "\x1b[" + color + "m" + s + "\x1b[0m"
}

func (t *text) printf(format string, args ...any) { fmt.Fprintf(&t.b, format, args...) }

// wrapped writes a paragraph, its second and later lines indented.
func (t *text) wrapped(first, indent, s string) { t.b.WriteString(wrap(first, indent, s) + "\n") }

// wrap breaks a paragraph into lines, the second and later ones indented.
func wrap(first, indent, s string) string { return wrapAt(width, first, indent, s) }

func wrapAt(columns int, first, indent, s string) string {
	var b strings.Builder
	b.WriteString(first)
	length := utf8.RuneCountInString(first)
	start := true
	for _, word := range strings.Fields(s) {
		word = printable(word)
		n := utf8.RuneCountInString(word)
		switch {
		case start:
		case length+1+n > columns:
			b.WriteString("\n" + indent)
			length = utf8.RuneCountInString(indent)
		default:
			b.WriteByte(' ')
			length++
		}
		b.WriteString(word)
		length, start = length+n, false
	}
	return b.String()
}

// headline is what a person should know first: is memory short, and does the sheet close.
func (t *text) headline(s *reconcile.Sheet) {
	color, words := state(s)
	t.printf("%s\n", t.paint(color, wrap("", "", words)))
	snap := s.Snapshot()
	mode := string(snap.Mode)
	if mode == "" {
		mode = "unknown"
	}
	where := snap.Node
	if where == "" {
		where = "a node without a name"
	}
	kernel := "an unknown kernel"
	if snap.Kernel != "" {
		kernel = "Linux " + snap.Kernel
	}
	t.wrapped("", "", fmt.Sprintf("%s, %s, %s, cgroup %s; %d cgroups read in %s.", where, snap.Time.UTC().Format("2006-01-02 15:04:05 UTC"), kernel, mode,
		snap.Sweep.Cgroups, snap.Sweep.Duration.Round(10*time.Microsecond)))
	if !s.TotalKnown {
		return
	}
	residual := s.ResidualBytes()
	t.wrapped("", "", fmt.Sprintf("Every byte of %s has its place; %s (%s) is in no counter of the kernel. %s moved while it was read.",
		Size(s.Total), Size(residual), percent(residual, s.Total), Size(s.Skew)))
}

// Where memory begins to be short: the share of MemTotal still available, the share of time in which all tasks wait for
// memory, the share of a cgroup's limit that can't be reclaimed by dropping inactive page cache.
const (
	shortShare  = 0.05
	scarceShare = 0.15
	stallShare  = 1.0 // percent of the last 10 seconds
	closeShare  = 0.9
)

func state(s *reconcile.Sheet) (color, words string) {
	snap := s.Snapshot()
	if !s.TotalKnown {
		return yellow, "/proc/meminfo could not be read: what follows are the cgroups alone."
	}
	available, ok := snap.Host.Meminfo.MemAvailable.Get()
	if !ok {
		available, _ = snap.Host.Meminfo.MemFree.Get()
	}
	color = green
	words = fmt.Sprintf("%s of %s is available (%s)", Size(int64(available)), Size(s.Total), percent(int64(available), s.Total))
	share := float64(available) / float64(max(1, s.Total))
	var concerns []string
	if full := snap.Host.Pressure.Full; full.Known && full.Avg10 >= stallShare {
		concerns = append(concerns, fmt.Sprintf("every process waited for memory %.1f%% of the last 10 s", full.Avg10))
		color = red
	}
	if k := snap.Kubernetes; k != nil {
		for _, c := range k.Node.Conditions {
			if c.Type == "MemoryPressure" && c.Status == "True" {
				concerns = append(concerns, "the kubelet is under MemoryPressure")
				color = red
			}
		}
	}
	if row, share, ok := s.ClosestToLimit(); ok && share >= closeShare {
		limit, _ := s.Limit(row).Get()
		concerns = append(concerns, fmt.Sprintf("%s stands at %.0f%% of its limit of %s", s.Name(row), 100*share, Size(int64(limit))))
		color = red
	}
	if kills := kills(s); kills != "" {
		concerns = append(concerns, kills)
		if color == green {
			color = yellow
		}
	}
	switch {
	case share < shortShare:
		return red, "Memory is short: only " + strings.Join(append([]string{words}, concerns...), "; ") + "."
	case share < scarceShare:
		if color == green {
			color = yellow
		}
		return color, "Memory is getting short: " + strings.Join(append([]string{words}, concerns...), "; ") + "."
	case len(concerns) > 0:
		return color, strings.Join(append([]string{words}, concerns...), "; ") + "."
	}
	return color, words + "; no cgroup is close to its limit."
}

// kills says how many OOM kills the kernel has counted since it booted, and in which cgroups; "" where none.
func kills(s *reconcile.Sheet) string {
	total, cgroups := s.OOMKills()
	if total == 0 {
		return ""
	}
	words := fmt.Sprintf("the kernel has counted %d OOM kills since boot", total)
	var where []string
	for _, k := range cgroups {
		where = append(where, fmt.Sprintf("%s %d", cut(s.Name(k.Row), nameWidth), k.Count))
	}
	if len(where) > 3 {
		where = append(where[:2], fmt.Sprintf("%d more", len(where)-2))
	}
	if len(where) > 0 {
		words += " (" + strings.Join(where, ", ") + ")"
	}
	return words
}

// nameWidth is the width of the tables' first column, an owner's name.
const nameWidth = 42

// column is one of the others of the owners' table.
type column struct {
	title string
	bytes func(*reconcile.Cells) int64
}

var ownColumns = []column{
	{"OWN", (*reconcile.Cells).Sum},
	{"ANON", func(c *reconcile.Cells) int64 { return c[reconcile.Anon] + c[reconcile.AnonUnmapped] }},
	{"CACHE", func(c *reconcile.Cells) int64 {
		return c[reconcile.FileActive] + c[reconcile.FileInactive] + c[reconcile.FileOther]
	}},
	{"SHMEM", func(c *reconcile.Cells) int64 { return c[reconcile.Shmem] }},
	{"KERNEL", (*reconcile.Cells).KernelMemory},
	{"OTHER", func(c *reconcile.Cells) int64 {
		return c[reconcile.Sock] + c[reconcile.Hugetlb] + c[reconcile.Free] + c[reconcile.FreePerCPU] + c[reconcile.Residual]
	}},
}

func (t *text) owners(s *reconcile.Sheet) {
	t.printf("\n%s\n", t.paint(bold, "Where the memory is")+": each owner's own charge, without its children's; together MemTotal")
	head := pad("OWNER", nameWidth)
	for _, c := range ownColumns {
		head += fmt.Sprintf(" %8s", c.title)
	}
	t.printf("%s\n", t.paint(dim, head))
	order := make([]int, 0, len(s.Rows))
	for i := range s.Rows {
		if s.Rows[i].Own != (reconcile.Cells{}) {
			order = append(order, i)
		}
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(s.Rows[b].Own.Sum(), s.Rows[a].Own.Sum()) })
	shown := order
	if t.o.Rows > 0 && len(order) > t.o.Rows+1 { // a single row needs no summing up
		shown = order[:t.o.Rows]
	}
	for _, i := range shown {
		t.ownRow(s.Name(i), &s.Rows[i].Own)
	}
	if rest := order[len(shown):]; len(rest) > 0 {
		var sum reconcile.Cells
		for _, i := range rest {
			for k, n := range s.Rows[i].Own {
				sum[k] += n
			}
		}
		t.ownRow(fmt.Sprintf("%d smaller ones", len(rest)), &sum)
	}
	columns := s.Columns()
	t.ownRow("all", &columns)
	if slices.ContainsFunc(shown, func(i int) bool { return s.Class(i) == snapshot.ClassPod }) {
		t.wrapped("", "", "A pod's own row is what its cgroup is charged beyond its containers and its sandbox: tmpfs volumes whose writer is gone, "+
			"containers that have ended, kernel memory of its own.")
	}
}

func (t *text) ownRow(name string, cells *reconcile.Cells) {
	t.b.WriteString(pad(name, nameWidth))
	for _, c := range ownColumns {
		t.printf(" %8s", dash(c.bytes(cells)))
	}
	t.b.WriteByte('\n')
}

// cgroups shows what the usual tools say of the largest cgroups.
func (t *text) cgroups(s *reconcile.Sheet) {
	var order []int
	for i := range s.Rows {
		if s.Rows[i].Cgroup > 0 && s.Rows[i].Known != 0 {
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
	t.printf("\n%s\n", t.paint(bold, "What the tools say")+" of the largest cgroups, their children's included")
	t.printf("%s\n", t.paint(dim, pad("CGROUP", nameWidth)+fmt.Sprintf(" %9s %12s %8s %9s %12s", "USAGE", "WORKING SET", "RSS", "LIMIT", "WS OF LIMIT")))
	for _, i := range order {
		figure := func(id string) string {
			n, err := s.Value(id, s.Rows[i].ID)
			if err != nil { // a file could not be read
				return "-"
			}
			return Size(n)
		}
		limit, of := "-", "-"
		if n, ok := s.Limit(i).Get(); ok {
			limit = Size(int64(n))
			if workingSet, err := s.Value("working-set", s.Rows[i].ID); err == nil {
				of = percent(workingSet, int64(n))
			}
		}
		t.printf("%s %9s %12s %8s %9s %12s\n", pad(s.Name(i), nameWidth), figure("usage"), figure("working-set"), figure("rss"), limit, of)
	}
}

// questions answers the standard questions, each with the steps that matter.
func (t *text) questions(s *reconcile.Sheet) {
	questions := s.Questions()
	if len(questions) == 0 {
		return
	}
	t.printf("\n%s: + is counted by the second figure alone, - by the first\n", t.paint(bold, "Why the figures differ"))
	for i := range questions {
		t.printf("%s\n", questions[i].Text)
		t.bridge(s, &questions[i].Bridge, 5)
	}
}

// bridge writes the steps by kind with their largest owners; of more than most kinds the smallest are summed up.
func (t *text) bridge(s *reconcile.Sheet, b *reconcile.Bridge, most int) {
	name := func(r reconcile.Ref) string {
		if r.Owner == reconcile.OwnerNode {
			return r.Figure
		}
		return r.Figure + " of " + r.Owner
	}
	t.wrapped("  ", "    ", fmt.Sprintf("%s %s to %s %s: %s", name(b.From), Size(b.FromBytes), name(b.To), Size(b.ToBytes), signed(b.ToBytes-b.FromBytes)))
	steps := b.ByKind()
	var rest int64
	n := 0
	if most > 0 && len(steps) > most+1 {
		for _, k := range steps[most:] {
			rest, n = rest+k.Bytes, n+1
		}
		steps = steps[:most]
	}
	for _, k := range steps {
		words := k.Label
		if k.Kind != reconcile.NumKinds {
			words = k.Kind.Words() + largest(s, k.Owners)
		}
		t.wrapped(fmt.Sprintf("  %9s  ", signed(k.Bytes)), "               ", words)
	}
	if n > 0 {
		t.printf("  %9s  %d smaller steps\n", signed(rest), n)
	}
	if len(steps) == 0 {
		t.printf("  %9s  they count the same bytes\n", "0")
	}
}

// largest names the owners that make up most of a sum, as far as a line goes.
func largest(s *reconcile.Sheet, steps []reconcile.Step) string {
	var parts []string
	for i, st := range steps {
		if i == 2 {
			parts = append(parts, fmt.Sprintf("%d more", len(steps)-i))
			break
		}
		row, _ := s.Row(st.Owner)
		name := cut(s.Name(row), 28)
		if len(steps) > 1 {
			name += " " + signed(st.Bytes)
		}
		parts = append(parts, name)
	}
	return ": " + strings.Join(parts, ", ")
}

func (t *text) findings(s *reconcile.Sheet) {
	if len(s.Findings) > 0 {
		t.printf("\n%s\n", t.paint(yellow, "What does not add up"))
		for _, f := range s.Findings {
			t.wrapped("  ", "    ", f.Text)
		}
	}
	t.errors(s.Snapshot().Errors)
}

func (t *text) errors(errs []snapshot.SourceError) {
	if len(errs) == 0 {
		return
	}
	t.printf("\n%s\n", t.paint(yellow, "What could not be read"))
	for _, e := range errs {
		words := e.Source + ": " + strings.TrimSuffix(e.Error, ".") + "."
		if e.Hint != "" {
			words += " " + strings.ToUpper(e.Hint[:1]) + strings.TrimSuffix(e.Hint[1:], ".") + "."
		}
		t.wrapped("  ", "    ", words)
	}
}

// printable shows what would move the cursor or colour the terminal as a question mark: whoever may make a cgroup names it.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, s)
}

// cut fits a name into a width by leaving out its middle: a path's beginning says where it is, its end who.
func cut(name string, n int) string {
	name = printable(name)
	runes := []rune(name)
	if len(runes) <= n {
		return name
	}
	keep := (n - 1) / 3
	return string(slices.Concat(runes[:keep], []rune("…"), runes[len(runes)-(n-1-keep):]))
}

// pad is cut to exactly n columns.
func pad(name string, n int) string {
	name = cut(name, n)
	return name + strings.Repeat(" ", n-utf8.RuneCountInString(name))
}

func dash(n int64) string {
	if n == 0 {
		return "-"
	}
	return Size(n)
}
