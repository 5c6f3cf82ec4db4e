// Package kernellog finds the OOM killer's kills in a kernel's log: in text of any of the forms in which such a log is kept, and
// in the running kernel's own, by /dev/kmsg or syslog(2). It knows what the kernel prints and nothing of what the kills mean. The
// parser is a pure function of the lines it is given, and bounded in memory however long they are; whose a cgroup is it is told
// by whoever makes it.
package kernellog

import (
	"bytes"
	"slices"
	"strings"
	"time"

	"github.com/memrecon/memrecon/snapshot"
)

// Bounds of what a Parser keeps.
const (
	maxHosts  = 32   // machines whose lines are mixed in one log
	maxRecent = 1024 // kills that a later line may be about
	maxNotRow = 64   // lines within a table of tasks that are no rows of it
)

// How far apart two lines about one kill may be. The kernel prints a group's kills within milliseconds, more only where each
// line waits for a slow console; the clocks by which two copies of a line were stamped may differ by minutes (dmesg -T computes
// its from the time since boot).
const (
	atOnce       = 10 * time.Second
	clocksDiffer = 5 * time.Minute
	reportTakes  = 5 * time.Minute // from a report's first line to the kill, with thousands of tasks on a serial console
)

// Parser turns the lines of a kernel's log into kills. It is for one goroutine at a time.
type Parser struct {
	identify func(path string) snapshot.Identity
	emit     func(*snapshot.Kill)
	// boot is the wall clock at the kernel's time zero, zero where it is not known.
	boot time.Time

	lines       uint64
	unexplained snapshot.Unexplained
	streams     map[string]*stream
	current     *stream
	tables      int // streams that are within a table of tasks
	recent      []*kill
	byPID       map[int][]*kill // the recent ones, the newest last
}

// stream is the log of one machine.
type stream struct {
	used uint64 // the last line of it
	// report is the newest report.
	report *report
	// chosen are lines "Kill process" whose "Killed process" has not come.
	chosen []*kill
	// last is the newest kill, and group the cgroup all of which is killed with it.
	last  *kill
	group string
}

// report is what the kernel prints before a kill.
type report struct {
	when    moment
	invoker string
	summaryLine
	limits  [numLimits]limit // of oomMemcg
	columns []column
	tasks   []snapshot.Task
	count   int // rows of the table
	notRow  int // lines since the last row
	// killed tells that there is a kill of it, or that the kernel says there will be none.
	killed bool
}

// kill is a kill that later lines may add to.
type kill struct {
	victim
	when   moment
	host   string
	line   uint64
	report *report
	// own tells that the report is of this very process, not of another that was chosen or of the group's.
	own bool
	// group is the cgroup that it was killed with, "" for none.
	group string
	// out is nil once it was handed out.
	out *snapshot.Kill
}

// NewParser makes a Parser that tells by identify whose a cgroup is (cgroup.Identify) and hands each kill to emit, in the order
// of the log: when 1,024 younger ones have come, and all at Flush. Until then later lines may add to it.
func NewParser(identify func(path string) snapshot.Identity, emit func(*snapshot.Kill)) *Parser {
	return &Parser{identify: identify, emit: emit, streams: map[string]*stream{}, byPID: map[int][]*kill{}}
}

// Lines is how many lines were read.
func (p *Parser) Lines() uint64 { return p.lines }

// Unexplained is what of them could not be made a kill of, as of the last Flush.
func (p *Parser) Unexplained() snapshot.Unexplained { return p.unexplained }

// Line takes one line, with or without its end.
func (p *Parser) Line(line []byte) {
	p.lines++
	if !p.mayMatter(line) {
		return
	}
	for len(line) > 0 {
		r := parseRecord(line)
		line = nil
		if i := embedded(r.text); i > 0 && !r.foreign {
			before := r.text[:i]
			if r.foreign = !r.kernel && !begins(before) && bytes.ContainsAny(before, `"={`); !r.foreign { // else a program repeats it
				line, r.text = r.text[i:], bytes.TrimRight(before, " ")
			}
		}
		p.record(&r)
	}
}

// mayMatter rejects nearly all lines of a log, and none that is about an OOM kill.
func (p *Parser) mayMatter(line []byte) bool {
	if hasByte(line, '{') && bytes.Contains(line, []byte(`"MESSAGE":[`)) { // as numbers, see json.go
		return true
	}
	return bytes.Contains(line, []byte("oom")) || bytes.Contains(line, []byte("Kill")) || bytes.Contains(line, []byte("limit")) ||
		bytes.Contains(line, []byte("OOM victim")) || p.tables > 0 && bytes.IndexByte(line, ']') >= 0
}

// Flush hands out what the Parser holds: at the end of the log, or when a live one is quiet.
func (p *Parser) Flush() {
	for _, s := range p.streams {
		p.settle(s)
	}
	for _, k := range p.recent {
		p.handOut(k)
	}
}

// End is Flush at the end of a log: reports that have no kill by now will get none.
func (p *Parser) End() {
	p.Flush()
	for _, s := range p.streams {
		p.close(s)
	}
}

// stream is that of a host. A line that names none is of the machine that wrote last: a line may have lost its prefix.
func (p *Parser) stream(host string) *stream {
	if host == "" && p.current != nil {
		p.current.used = p.lines
		return p.current
	}
	key := host
	if short, _, ok := strings.Cut(host, "."); ok && short != "" && !isDigit(host[0]) {
		key = short // some forms have the domain, some not
	}
	s := p.streams[key]
	if s == nil {
		if len(p.streams) >= maxHosts {
			p.forget()
		}
		s = &stream{}
		p.streams[strings.Clone(key)] = s
	}
	p.current, s.used = s, p.lines
	return s
}

// forget drops the machine that has been silent the longest.
func (p *Parser) forget() {
	var oldest string
	for key, s := range p.streams {
		if o := p.streams[oldest]; o == nil || s.used < o.used {
			oldest = key
		}
	}
	s := p.streams[oldest]
	p.settle(s)
	p.close(s)
	delete(p.streams, oldest)
}

// record takes the kernel's words of one line.
func (p *Parser) record(r *record) {
	comm, isInvoked := cutInvoked(r)
	switch {
	case !r.foreign && begins(r.text):
		p.statement(p.stream(r.host), r)
	case !r.foreign && isInvoked:
		p.invoked(p.stream(r.host), r, comm)
	case repeats(r.text):
		p.unexplained.Quoted++
	case !r.foreign:
		p.row(p.stream(r.host), r.text)
	}
}

// cutInvoked is the process in "java invoked oom-killer: ...". Of a line that does not say it is the kernel's, what stands before
// has to be as short as a process's name is.
func cutInvoked(r *record) (comm string, ok bool) {
	i := bytes.Index(r.text, []byte(invoked))
	if i <= 0 || i > 15 && !r.kernel || i > maxComm {
		return "", false
	}
	return name(r.text[:i]), true
}

// repeats tells a text that has a line of the kernel's about a kill within.
func repeats(text []byte) bool {
	for _, words := range []string{killed, killing} {
		if i := bytes.Index(text, []byte(words)); i >= 0 {
			if _, rest, ok := number(text[i+len(words):]); ok && hasByte(rest, ' ') {
				return true
			}
		}
	}
	return bytes.Contains(text, []byte(invoked)) || bytes.Contains(text, []byte(summary+"constraint="))
}

// invoked begins a report.
func (p *Parser) invoked(s *stream, r *record, comm string) {
	if old := s.report; old != nil && !old.killed && old.invoker == comm && old.isBare() && near(old.when, r.when, clocksDiffer) {
		return // a second copy of the line
	}
	p.settle(s)
	p.close(s)
	s.report, s.group = &report{when: r.when, invoker: comm}, ""
}

// isBare tells that nothing but its first line was seen.
func (rep *report) isBare() bool {
	return rep.summaryLine == (summaryLine{}) && rep.limits == [numLimits]limit{} && rep.columns == nil
}

// open is the report that is being printed; its first lines may be missing.
func (p *Parser) open(s *stream, when moment) *report {
	if s.report == nil || s.report.killed {
		p.close(s)
		s.report = &report{when: when}
	}
	return s.report
}

// close ends the report of a stream.
func (p *Parser) close(s *stream) {
	if s.report == nil {
		return
	}
	p.endTable(s.report)
	if !s.report.killed {
		p.unexplained.Reports++
	}
	s.report = nil
}

// statement takes a line that begins as the kernel's lines about OOM kills do.
func (p *Parser) statement(s *stream, r *record) {
	text := r.text
	if kind, rest, ok := cutUsage(text); ok {
		p.open(s, r.when).limits[kind] = parseUsage(rest)
		return
	}
	if sum, ok := parseSummary(text); ok {
		p.summary(s, sum, r)
		return
	}
	if pid, ok := parseReaped(text); ok {
		k := p.newest(pid, func(k *kill) bool {
			return k.out != nil && sameHost(k.host, r.host) && near(k.when, r.when, clocksDiffer)
		})
		if k != nil {
			k.out.Reaped = true
		}
		return
	}
	if group, ok := between(text, "Tasks in ", groupEnd); ok {
		p.groupKill(s, path(group), r.when)
		return
	}
	if task, ok := between(text, "Task in ", limitedBy); ok {
		rep := p.open(s, r.when)
		rep.constraint = snapshot.ConstraintMemcg
		rep.taskMemcg = path(task)
		rep.oomMemcg = path(text[len("Task in ")+len(task)+len(limitedBy):])
		return
	}
	_, words := cutMessage(text)
	if bytes.HasPrefix(words, []byte(exiting)) {
		if s.report != nil {
			s.report.killed = true
		}
		return
	}
	if v, ok := parseVictim(text, killed); ok {
		p.killed(s, &kill{victim: v, when: r.when, host: r.host, line: p.lines})
	} else if v, ok := parseVictim(text, killing); ok {
		if !isSharing(text) {
			p.chosen(s, &kill{victim: v, when: r.when, host: r.host, line: p.lines})
		}
	} else if bytes.HasPrefix(words, []byte(killed)) || bytes.HasPrefix(words, []byte(killing)) {
		p.unexplained.Damaged++
	}
}

// between is what stands in a text between its beginning and what comes first of an end.
func between(text []byte, beginning, end string) ([]byte, bool) {
	rest, ok := bytes.CutPrefix(text, []byte(beginning))
	if !ok {
		return nil, false
	}
	inside, _, ok := bytes.Cut(rest, []byte(end))
	return inside, ok
}

// summary takes the line "oom-kill:". Where lines come out of order the kill may have come before.
func (p *Parser) summary(s *stream, sum summaryLine, r *record) {
	early := p.newest(sum.pid, func(k *kill) bool {
		return k.out != nil && k.report == nil && sameHost(k.host, r.host) && near(k.when, r.when, atOnce)
	})
	if early != nil {
		early.report, early.own = &report{when: r.when, summaryLine: sum, killed: true}, true
		p.describe(early)
		return
	}
	rep := p.open(s, r.when)
	if rep.pid != 0 && rep.pid != sum.pid { // the kill of the one before is lost, and the beginning of this one
		p.close(s)
		rep = p.open(s, r.when)
	}
	p.endTable(rep)
	if sum.constraint == "" {
		sum.constraint = rep.constraint
	}
	rep.summaryLine = sum
}

// row takes a line that may be one of the table of tasks, or its header.
func (p *Parser) row(s *stream, text []byte) {
	if columns := parseHeader(text); columns != nil {
		rep := p.open(s, moment{})
		if rep.columns == nil {
			p.tables++
		}
		rep.columns, rep.tasks, rep.count, rep.notRow = columns, nil, 0, 0
		return
	}
	rep := s.report
	if rep == nil || rep.columns == nil {
		return
	}
	t, ok := parseTask(text, rep.columns)
	if !ok {
		if rep.notRow++; rep.notRow > maxNotRow {
			p.endTable(rep)
		}
		return
	}
	rep.notRow = 0
	if n := len(rep.tasks); n > 0 && rep.tasks[n-1].PID == t.PID {
		return // a second copy of the line
	}
	rep.count++
	if rep.tasks = append(rep.tasks, t); len(rep.tasks) > maxTasks {
		rep.tasks = candidates(rep.tasks)
	}
}

func (p *Parser) endTable(rep *report) {
	if rep.columns == nil {
		return
	}
	p.tables--
	rep.columns = nil
	rep.tasks = candidates(rep.tasks)
}

// chosen takes a line "Kill process", which says who was chosen; who is killed, the same or a child of it, "Killed process" says.
func (p *Parser) chosen(s *stream, k *kill) {
	for _, before := range s.chosen {
		if before.pid == k.pid {
			return // a second copy of the line
		}
	}
	if len(s.chosen) > 8 {
		p.settle(s)
	}
	if rep := s.report; rep != nil && !rep.killed && rep.fits(k) {
		k.report, k.own, rep.killed = rep, true, true
		p.endTable(rep)
	}
	s.group = ""
	s.chosen = append(s.chosen, k)
}

// settle makes kills of the chosen, whose lines "Killed process" are lost.
func (p *Parser) settle(s *stream) {
	chosen := s.chosen
	s.chosen = nil
	for _, k := range chosen {
		p.add(s, k)
	}
}

// killed takes a line "Killed process".
func (p *Parser) killed(s *stream, k *kill) {
	rep := s.report
	switch {
	case k.constraint == "" && len(s.chosen) > 0:
		i := len(s.chosen) - 1
		for j, c := range s.chosen {
			if c.pid == k.pid {
				i = j
			}
		}
		chosen := s.chosen[i]
		k.constraint, k.report, k.own = chosen.constraint, chosen.report, chosen.own && (chosen.report.pid == 0 || chosen.pid == k.pid)
		s.chosen = append(s.chosen[:i], s.chosen[i+1:]...)
	case rep != nil && !rep.killed && rep.fits(k):
		k.report, k.own, rep.killed = rep, true, true
		p.endTable(rep)
	case s.group != "" && near(s.last.when, k.when, atOnce) && (k.constraint == "" || k.constraint == s.last.constraint):
		k.report, k.constraint, k.group = s.last.report, s.last.constraint, s.group
	}
	s.group = k.group
	p.add(s, k)
}

// fits tells whether a report may be that of a kill: that nothing in it says otherwise.
func (rep *report) fits(k *kill) bool {
	if rep.pid != 0 && rep.pid != k.pid {
		return false
	}
	if rep.constraint != "" && k.constraint != "" && (rep.constraint == snapshot.ConstraintMemcg) != (k.constraint == snapshot.ConstraintMemcg) {
		return false
	}
	took, ok := k.when.since(rep.when)
	return !ok || took >= -2*time.Second && took <= reportTakes // syslog's clocks have whole seconds, and lines are stamped late
}

// near tells whether two lines may be of one event, as far as their times say.
func near(a, b moment, within time.Duration) bool {
	apart, ok := a.since(b)
	return !ok || apart.Abs() <= within
}

// groupKill takes "Tasks in ... are going to be killed": the last kill's cgroup is killed whole, and its processes follow, most
// often the last one first, once more.
func (p *Parser) groupKill(s *stream, group string, when moment) {
	k := s.last
	if group == "" || k == nil || !near(k.when, when, atOnce) || k.report != nil && !within(k.report.taskMemcg, group) {
		s.group = ""
		return
	}
	s.group, k.group = group, group
	if k.out != nil {
		p.describe(k)
	}
}

// within tells whether a cgroup is another or below it, as far as is known.
func within(path, other string) bool {
	return path == "" || path == other || strings.HasPrefix(path, strings.TrimSuffix(other, "/")+"/")
}

// add makes a kill of a line, unless there is one already.
func (p *Parser) add(s *stream, k *kill) {
	if old := p.newest(k.pid, k.same); old != nil {
		p.merge(old, k)
		s.last = old
		return
	}
	k.out = &snapshot.Kill{VictimPID: k.pid}
	p.describe(k)
	s.last = k
	if len(p.recent) == maxRecent {
		oldest := p.recent[0]
		p.handOut(oldest)
		p.recent = slices.Delete(p.recent, 0, 1)
		if p.byPID[oldest.pid] = slices.DeleteFunc(p.byPID[oldest.pid], func(k *kill) bool { return k == oldest }); len(p.byPID[oldest.pid]) == 0 {
			delete(p.byPID, oldest.pid)
		}
	}
	at := len(p.recent)
	for at > 0 && p.recent[at-1].line > k.line { // it was only chosen, and the line that says it was killed is lost
		at--
	}
	p.recent = slices.Insert(p.recent, at, k)
	p.byPID[k.pid] = append(p.byPID[k.pid], k)
}

// newest is the newest of the recent kills of a process ID that is the one looked for, nil for none.
func (p *Parser) newest(pid int, is func(*kill) bool) *kill {
	for _, k := range slices.Backward(p.byPID[pid]) {
		if is(k) {
			return k
		}
	}
	return nil
}

// same tells whether two lines are about one kill. Process IDs are used again, but not within seconds, and not by a process of
// the same size.
func (k *kill) same(other *kill) bool {
	if k.comm != other.comm && k.comm != "" && other.comm != "" || !sameHost(k.host, other.host) {
		return false
	}
	sizes := k.sizes == other.sizes || k.sizes == sizes{} || other.sizes == sizes{}
	switch apart, ok := k.when.since(other.when); {
	case !ok:
		return sizes || k.report != nil && k.report == other.report || k.group != "" && k.group == other.group
	case k.when.hasBoot && other.when.hasBoot || !sizes:
		return apart.Abs() <= atOnce
	default:
		return apart.Abs() <= clocksDiffer
	}
}

// sameHost tells whether two names may be those of one machine.
func sameHost(a, b string) bool {
	return a == "" || b == "" || a == b || strings.HasPrefix(a, b+".") || strings.HasPrefix(b, a+".")
}

// merge adds to a kill what a second line about it says.
func (p *Parser) merge(old, k *kill) {
	if old.comm == "" {
		old.comm = k.comm
	}
	if old.constraint == "" {
		old.constraint = k.constraint
	}
	if old.sizes == (sizes{}) {
		old.sizes, old.adj = k.sizes, k.adj
	}
	if old.uid.IsAbsent() {
		old.uid = k.uid
	}
	if old.report == nil {
		old.report, old.own = k.report, k.own
	}
	if old.group == "" {
		old.group = k.group
	}
	if old.host == "" {
		old.host = k.host
	}
	if !old.when.hasBoot {
		old.when.boot, old.when.hasBoot = k.when.boot, k.when.hasBoot
	}
	if old.when.wall.IsZero() && (!k.when.wall.IsZero() || old.when.stamp == "") {
		old.when.wall, old.when.stamp, old.when.local = k.when.wall, k.when.stamp, k.when.local
	}
	if old.out != nil {
		p.describe(old)
	}
}

// describe writes what is known of a kill into what is handed out. A process that was killed with its group is in the group's
// cgroup, or in one below: the log does not say more.
func (p *Parser) describe(k *kill) {
	out := k.out
	out.VictimComm, out.Host, out.Constraint, out.UID, out.OOMScoreAdj = k.comm, k.host, k.constraint, k.uid, k.adj
	out.TotalVMKB, out.AnonRSSKB, out.FileRSSKB = k.sizes.total, k.sizes.anon, k.sizes.file
	out.ShmemRSSKB, out.PgtablesKB = k.sizes.shmem, k.sizes.pgtables
	out.Time, out.Stamp = k.when.wall, k.when.stamp
	if k.when.hasBoot {
		out.BootMicros = snapshot.Of(uint64(k.when.boot.Microseconds()))
		if out.Time.IsZero() && !p.boot.IsZero() {
			out.Time = p.boot.Add(k.when.boot).UTC()
		}
	}
	out.GroupMemcg = k.group
	rep := k.report
	if rep == nil {
		p.place(out, k.group)
		return
	}
	if rep.constraint != "" {
		out.Constraint = rep.constraint
	}
	out.InvokerComm, out.OOMMemcg = rep.invoker, rep.oomMemcg
	if out.OOMMemcg != "" {
		out.Limited = p.identify(out.OOMMemcg)
	}
	if k.own && rep.taskMemcg != "" {
		p.place(out, rep.taskMemcg)
	} else {
		p.place(out, k.group)
	}
	if out.UID.IsAbsent() && k.own {
		out.UID = rep.uid
	}
	out.UsageKB, out.LimitKB = rep.limits[limitMemory].usage, rep.limits[limitMemory].max
	out.MemswUsageKB, out.MemswLimitKB = rep.limits[limitMemsw].usage, rep.limits[limitMemsw].max
	out.KernelUsageKB, out.KernelLimitKB = rep.limits[limitKernel].usage, rep.limits[limitKernel].max
	out.SwapUsageKB, out.SwapLimitKB = rep.limits[limitSwap].usage, rep.limits[limitSwap].max
	out.Tasks, out.TaskCount = rep.tasks, rep.count
}

// place says in which cgroup the victim was, "" for not known.
func (p *Parser) place(out *snapshot.Kill, memcg string) {
	out.TaskMemcg = memcg
	if memcg != "" {
		out.Victim = p.identify(memcg)
	}
}

func (p *Parser) handOut(k *kill) {
	if k.out != nil {
		p.emit(k.out)
		k.out = nil
	}
}
