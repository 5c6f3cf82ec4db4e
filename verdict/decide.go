package verdict

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/memrecon/memrecon/reconcile"
	"github.com/memrecon/memrecon/snapshot"
)

// judge says what a case is by now, where that differs from what was said.
func (j *Judge) judge(d *dead, now time.Time) {
	in, ok := j.decide(d, now)
	if !ok {
		return
	}
	if d.said != nil {
		in.Updated = d.said.Updated
		if reflect.DeepEqual(in, *d.said) {
			return
		}
	}
	in.Updated = now
	d.said = &in
	j.changed = append(j.changed, in)
}

// decide puts an Incident together, and says no while what is missing may come at once: the kernel's record of a kill that has been
// counted, or the count of the limit.
func (j *Judge) decide(d *dead, now time.Time) (Incident, bool) {
	in := Incident{ID: d.id, Time: d.first, Victim: j.owner(d.victim), Kills: d.killed(), Termination: d.end}
	if d.before.cgroup.Path != "" {
		in.VictimUsage, in.VictimLimit = d.before.cgroup.Usage, d.before.cgroup.Max
		in.VictimCache, in.VictimIdleCache = pageCache(&d.before.cgroup, "active_file"), pageCache(&d.before.cgroup, "inactive_file")
	}
	switch {
	case d.pod != nil:
		byEviction(d, &in)
		in.Ranking, in.Shown = d.rank, shown(d.pod)
		if in.Ranking == nil && in.Verdict != Refused {
			in.Missing = append(in.Missing, MissingReading)
		}
	case d.quiet > 0:
		in.Verdict, in.Confidence = Unexplained, Certain
	case len(d.kills) > 0:
		if !d.isReported() && now.Sub(d.first) < settled {
			return in, false
		}
		j.byRecord(d, &in)
	case d.counted > 0:
		h := j.hitOf(d)
		if (j.hasLog || h == nil || h.weak) && now.Sub(d.first) < settled {
			return in, false
		}
		j.byCounters(d, &in)
	default:
		if isKill(d.end) && now.Sub(d.last) < claiming {
			return in, false
		}
		in.Verdict, in.Confidence = j.byEnd(d)
	}
	in.Limited = j.owner(in.Limited)
	in.Effect = j.effect(d, now)
	switch in.Verdict {
	case NodeOOM, KubepodsLimit, QoSLimit, EvictedInnocent, Evicted, Refused:
		in.Users = d.users
	}
	in.Evidence = j.evidence(d, &in)
	if in.Kills > 0 && len(d.kills) == 0 {
		in.Missing = append(in.Missing, MissingKernelLog)
	}
	if in.Victim.Identity.PodUID != "" && in.Victim.Pod == "" {
		in.Missing = append(in.Missing, MissingPods)
	}
	return in, true
}

// byRecord decides by what the kernel printed. It names the limit itself, but in a report that was lost or suppressed.
func (j *Judge) byRecord(d *dead, in *Incident) {
	k := slices.MaxFunc(d.kills, func(a, b snapshot.Kill) int { return cmp.Compare(resident(&a), resident(&b)) })
	for i := range d.kills { // the report stands before the first kill of several
		if !hasReport(k) && hasReport(d.kills[i]) {
			told := d.kills[i]
			k.Constraint, k.OOMMemcg, k.Limited, k.UsageKB, k.LimitKB = told.Constraint, told.OOMMemcg, told.Limited, told.UsageKB, told.LimitKB
			k.InvokerComm, k.Tasks, k.TaskCount = told.InvokerComm, told.Tasks, told.TaskCount
		}
	}
	in.Kill, in.PID, in.Comm = &k, k.VictimPID, k.VictimComm
	in.Confidence = Certain
	switch {
	case !hasReport(k):
		in.Verdict, in.Confidence = OOMKilled, Likely
		if len(d.moves) > 0 {
			j.byCounters(d, in)
		}
		if k.Constraint == snapshot.ConstraintMemcg && in.Verdict == NodeOOM {
			in.Verdict, in.Confidence, in.Limited, in.Limit = OOMKilled, Likely, Owner{}, snapshot.Value{}
		}
	case k.Constraint == snapshot.ConstraintMemcg:
		in.Verdict = ofClass(k.Limited.Class)
		in.Limited = Owner{Path: k.OOMMemcg, Identity: k.Limited}
		in.Limit, in.Usage = kib(k.LimitKB), kib(k.UsageKB)
		if in.Limit.IsAbsent() {
			if c := d.before.at(k.OOMMemcg); c != nil {
				in.Limit, in.Usage = c.Max, c.Usage
			}
		}
	case k.Constraint == snapshot.ConstraintGlobal:
		j.node(in)
	default:
		in.Verdict = NUMAOOM
	}
	in.Candidates = j.candidates(&k, in.Limit)
}

// isReported tells that the kernel said for whose want of memory it killed. The victim's line alone says at most that it was a cgroup's.
func (d *dead) isReported() bool { return slices.ContainsFunc(d.kills, hasReport) }

func hasReport(k snapshot.Kill) bool {
	return k.Constraint != "" && (k.Constraint != snapshot.ConstraintMemcg || k.OOMMemcg != "")
}

// node is the verdict that the node itself was out of memory.
func (j *Judge) node(in *Incident) {
	in.Verdict = NodeOOM
	in.Limited = Owner{Path: "/", Identity: snapshot.Identity{Class: snapshot.ClassRoot}}
	if j.now != nil {
		in.Limit = j.now.Host.Meminfo.MemTotal
	}
}

func (j *Judge) limit(h *hit, in *Incident) {
	in.Verdict = ofClass(h.Identity.Class)
	in.Limited = Owner{Path: h.Path, Identity: h.Identity}
	in.Limit, in.Usage = h.Max, h.Max // the counter moves as no page fits any more; a moment later the usage is that without the victim
}

// ofClass is the verdict on a limit by whose it is.
func ofClass(class snapshot.Class) Verdict {
	switch class {
	case snapshot.ClassContainer:
		return ContainerLimit
	case snapshot.ClassPod:
		return PodLimit
	case snapshot.ClassQoS:
		return QoSLimit
	case snapshot.ClassKubepods:
		return KubepodsLimit
	default:
		return CgroupLimit
	}
}

// byCounters decides by which counters moved. On v2 the cgroup whose limit was hit counts an OOM of its own, so a kill without one
// above it was for the node's. v1 counts the victim's alone, so there a limit that was full is taken for it.
func (j *Judge) byCounters(d *dead, in *Incident) {
	h := j.hitOf(d)
	if h != nil && !h.weak {
		j.limit(h, in)
		in.Confidence = Certain
		return
	}
	countsOOMs := slices.ContainsFunc(d.moves, func(m snapshot.OOMCounters) bool { return !m.LocalAfter.OOM.IsAbsent() })
	if countsOOMs {
		j.node(in)
		in.Confidence = Likely
		return
	}
	in.Missing = append(in.Missing, MissingCounters)
	if h != nil {
		j.limit(h, in)
		in.Confidence = Likely
		return
	}
	for _, c := range d.before.upwards() {
		if isFull(c) {
			in.Verdict, in.Confidence = ofClass(c.Identity.Class), Likely
			in.Limited, in.Limit, in.Usage = Owner{Path: c.Path, Identity: c.Identity}, c.Max, c.Usage
			return
		}
	}
	in.Verdict, in.Confidence = OOMKilled, Certain
	if len(d.moves) == 0 {
		in.Confidence = Likely // the kubelet's word, or an exit by SIGKILL, and a count of the node's
	}
	if j.isShort() {
		j.node(in)
		in.Confidence = Possible
	}
}

// hitOf is the limit that was hit for a case: the nearest above the victim whose counter of OOMs moved then.
func (j *Judge) hitOf(d *dead) *hit {
	var best *hit
	for i := range j.hits {
		h := &j.hits[i]
		if h.Time.Sub(d.first).Abs() > 3*time.Second || !within(d.victim.Path, h.Path) {
			continue
		}
		if best == nil || len(h.Path) > len(best.Path) {
			best = h
		}
	}
	return best
}

// isFull tells that a cgroup's last reading was so close to its limit that the next second could fill it.
func isFull(c snapshot.Cgroup) bool {
	limit, ok := c.Max.Get()
	usage, isKnown := c.Usage.Get()
	peak, _ := c.Peak.Get()
	return ok && isKnown && limit > 0 && float64(max(usage, peak)) >= 0.95*float64(limit)
}

// isShort tells that the node had little left in one of the last two rounds: the last may have been after the kill.
func (j *Judge) isShort() bool {
	return slices.ContainsFunc([]*snapshot.Snapshot{j.earlier, j.now}, func(s *snapshot.Snapshot) bool {
		if s == nil {
			return false
		}
		available, ok := s.Host.Meminfo.MemAvailable.Get()
		total, isKnown := s.Host.Meminfo.MemTotal.Get()
		return ok && isKnown && available < total/20
	})
}

const oomKilled = "OOMKilled" // the reason, as containerd and CRI-O give it

// Exit codes of 128 and a signal.
const (
	exitAbort   = 134
	exitKilled  = 137
	exitSegv    = 139
	exitStopped = 143
)

func isKill(end *snapshot.Termination) bool {
	return end.Reason == oomKilled || end.ExitCode == exitKilled
}

// byEnd decides by how the container ended alone; no verdict where that has nothing to do with memory.
func (j *Judge) byEnd(d *dead) (Verdict, Confidence) {
	counts := false
	if j.now != nil {
		_, counts = vmstatKills(j.now)
	}
	watched := counts && !j.started.IsZero() && d.first.After(j.started)
	switch {
	case d.end.Reason == oomKilled && watched:
		return NotOOMKilled, Likely
	case d.end.Reason == oomKilled:
		return OOMKilled, Likely
	case d.end.ExitCode == exitKilled && watched:
		return Killed, Likely
	case d.end.ExitCode == exitKilled:
		return Killed, Possible
	case d.end.ExitCode == exitStopped:
		return Stopped, Likely
	}
	share := d.before.share()
	aborts := d.end.ExitCode == exitAbort || d.end.ExitCode == exitSegv
	switch {
	case aborts && share >= 0.5:
		return RuntimeCap, Likely
	case aborts || d.end.ExitCode != 0 && share >= 0.5:
		return RuntimeCap, Possible
	}
	return "", ""
}

// upwards is the cgroup and what is above it, the nearest first.
func (s *lastSeen) upwards() []snapshot.Cgroup {
	return append([]snapshot.Cgroup{s.cgroup}, s.parents...)
}

// share is how much of the nearest limit was used; 0 where there is none, or no reading.
func (s *lastSeen) share() float64 {
	for _, c := range s.upwards() {
		limit, ok := c.Max.Get()
		usage, isKnown := s.cgroup.Usage.Get()
		if ok && isKnown && limit > 0 {
			return float64(usage) / float64(limit)
		}
	}
	return 0
}

// at is the reading of a cgroup, the victim's or one above it.
func (s *lastSeen) at(path string) *snapshot.Cgroup {
	if s.cgroup.Path == path && path != "" {
		return &s.cgroup
	}
	for i := range s.parents {
		if s.parents[i].Path == path {
			return &s.parents[i]
		}
	}
	return nil
}

// effect is what ended.
func (j *Judge) effect(d *dead, now time.Time) Effect {
	isGroup := slices.ContainsFunc(d.kills, func(k snapshot.Kill) bool { return k.GroupMemcg != "" }) ||
		slices.ContainsFunc(d.moves, func(m snapshot.OOMCounters) bool {
			return moved(m.LocalBefore.OOMGroupKill, m.LocalAfter.OOMGroupKill) > 0
		})
	soon := func(t time.Time) bool { return !t.IsZero() && t.Sub(d.first) < 10*time.Second }
	switch {
	case d.pod != nil:
		return PodEnded
	case isGroup:
		return GroupEnded
	case d.killed() == 0, d.end != nil && (d.end.Finished.IsZero() || soon(d.end.Finished)), soon(d.vanish):
		return Ended
	case d.quiet > 0 || d.victim.Path == "" || now.Sub(d.first) < living:
		return ""
	}
	if j.now != nil && slices.ContainsFunc(j.now.Cgroups, func(c snapshot.Cgroup) bool { return c.Path == d.victim.Path }) {
		return ProcessOnly
	}
	return Ended
}

// evidence lists what a verdict rests on.
func (j *Judge) evidence(d *dead, in *Incident) []Evidence {
	list := []Evidence{}
	for i := range d.kills {
		list = append(list, Evidence{Source: "kernel log", Time: d.kills[i].Time, Text: record(&d.kills[i])})
	}
	counters := func(m *snapshot.OOMCounters) Evidence {
		file, reached := "memory.events.local", "max"
		if m.LocalAfter.OOM.IsAbsent() {
			file, reached = "memory.oom_control, memory.failcnt", "failcnt"
		}
		e := Evidence{Source: file + " of " + m.Path, Time: m.Time}
		for _, c := range []struct {
			name          string
			before, after snapshot.Value
		}{
			{"oom", m.LocalBefore.OOM, m.LocalAfter.OOM}, {reached, m.LocalBefore.Max, m.LocalAfter.Max}, {"oom_kill", m.LocalBefore.OOMKill, m.LocalAfter.OOMKill},
			{"oom_group_kill", m.LocalBefore.OOMGroupKill, m.LocalAfter.OOMGroupKill},
		} {
			if moved(c.before, c.after) == 0 {
				continue
			}
			if e.Text != "" {
				e.Text += ", "
			}
			e.Text += fmt.Sprintf("%s went from %s to %s", c.name, c.before, c.after)
		}
		return e
	}
	if h := j.hitOf(d); h != nil && in.Kills > 0 && !slices.ContainsFunc(d.moves, func(m snapshot.OOMCounters) bool { return m.Path == h.Path && m.Time.Equal(h.Time) }) {
		list = append(list, counters(&h.OOMCounters))
	}
	for i := range d.moves {
		list = append(list, counters(&d.moves[i]))
	}
	if d.quiet > 0 || d.counted > uint64(len(d.moves)) && len(d.moves) == 0 {
		list = append(list, Evidence{Source: "/proc/vmstat", Time: d.first, Text: fmt.Sprintf("oom_kill went up by %d more than anything else tells of", d.killed())})
	}
	if d.end != nil {
		list = append(list, Evidence{Source: "kubelet /pods", Time: d.end.Finished, Text: fmt.Sprintf("the container ended with exit code %d, reason %s", d.end.ExitCode, d.end.Reason)})
	}
	if d.pod != nil {
		list = append(list, Evidence{Source: "kubelet /pods", Time: evictedAt(d.pod), Text: evictionText(d.pod)})
	}
	slices.SortStableFunc(list, func(a, b Evidence) int { return a.Time.Compare(b.Time) })
	return list
}

// record is a kernel's record in the words of its line.
func record(k *snapshot.Kill) string {
	text := fmt.Sprintf("Killed process %d (%s)", k.VictimPID, k.VictimComm)
	for _, field := range []struct {
		name  string
		value snapshot.Value
	}{{"total-vm", k.TotalVMKB}, {"anon-rss", k.AnonRSSKB}, {"file-rss", k.FileRSSKB}, {"shmem-rss", k.ShmemRSSKB}} {
		if n, ok := field.value.Get(); ok {
			text += fmt.Sprintf(", %s:%dkB", field.name, n)
		}
	}
	if k.OOMScoreAdj != nil {
		text += fmt.Sprintf(", oom_score_adj:%d", *k.OOMScoreAdj)
	}
	if k.Constraint != "" {
		text += ", constraint " + string(k.Constraint)
	}
	if k.OOMMemcg != "" {
		text += ", oom_memcg=" + k.OOMMemcg
	}
	if k.TaskMemcg != "" {
		text += ", task_memcg=" + k.TaskMemcg
	}
	return text
}

// resident is what a killed process had in memory, in KiB.
func resident(k *snapshot.Kill) (n uint64) {
	for _, v := range []snapshot.Value{k.AnonRSSKB, k.FileRSSKB, k.ShmemRSSKB} {
		kb, _ := v.Get()
		n += kb
	}
	return n
}

func kib(v snapshot.Value) snapshot.Value {
	if n, ok := v.Get(); ok {
		return snapshot.Of(n << 10)
	}
	return v
}

// candidates are those that the kernel listed, the worst first. All memory is the limit that was hit, or the node's.
func (j *Judge) candidates(k *snapshot.Kill, limit snapshot.Value) []Candidate {
	total, ok := limit.Get()
	if !ok || j.now == nil || j.now.Host.PageSize == 0 {
		return nil
	}
	page := j.now.Host.PageSize
	if k.Constraint == snapshot.ConstraintGlobal {
		swap, _ := j.now.Host.Meminfo.SwapTotal.Get()
		total += swap
	}
	var list []Candidate
	for _, t := range k.Tasks {
		if t.OOMScoreAdj == -1000 {
			continue // is never chosen
		}
		tables, _ := t.PgtablesBytes.Get()
		badness := int64(t.RSSPages+t.SwapPages+tables/page) + int64(t.OOMScoreAdj)*int64(total/page)/1000
		list = append(list, Candidate{Task: t, Badness: badness, Chosen: t.PID == k.VictimPID || t.TGID == k.VictimPID})
	}
	slices.SortStableFunc(list, func(a, b Candidate) int { return cmp.Compare(b.Badness, a.Badness) })
	const most = 5
	for i := range list {
		if list[i].Chosen && i >= most {
			list[most-1] = list[i]
		}
	}
	return list[:min(len(list), most)]
}

// users are who uses most of the node's memory: pods, and cgroups that hold none.
func (j *Judge) users() []User {
	if j.now == nil {
		return nil
	}
	var list []User
	for i := range j.now.Cgroups {
		c := &j.now.Cgroups[i]
		isPod := c.Identity.Class == snapshot.ClassPod
		outside := c.Parent == 0 && c.Identity.Class != snapshot.ClassKubepods
		if n, ok := workingSet(c); ok && (isPod || outside) {
			u := User{Owner: j.owner(Owner{Path: c.Path, Identity: c.Identity}), WorkingSet: n}
			if named, ok := j.names[c.Identity.PodUID]; ok && isPod {
				u.Request = reconcile.PodRequest(&named.pod)
			}
			list = append(list, u)
		}
	}
	slices.SortStableFunc(list, func(a, b User) int { return cmp.Compare(b.WorkingSet, a.WorkingSet) })
	return list[:min(len(list), 5)]
}

// workingSet is a cgroup's usage less inactive page cache, as the kubelet computes it (cAdvisor).
func workingSet(c *snapshot.Cgroup) (uint64, bool) {
	usage, ok := c.Usage.Get()
	inactive, _ := pageCache(c, "inactive_file").Get()
	return usage - min(usage, inactive), ok
}

// pageCache is a part of a cgroup's page cache with what is below it: active_file, files that were read twice, is in the working set
// though it could be dropped; inactive_file is not.
func pageCache(c *snapshot.Cgroup, part string) snapshot.Value {
	return firstOf(c, "total_"+part, part) // v1 has both
}

// anonymous is a cgroup's anonymous memory with what is below it. v1's rss is that alone.
func anonymous(c *snapshot.Cgroup) snapshot.Value { return firstOf(c, "total_rss", "anon") }

// firstOf is the first of some keys of memory.stat that there is.
func firstOf(c *snapshot.Cgroup, keys ...string) snapshot.Value {
	for _, key := range keys {
		if n, ok := c.Stat.Get(key); ok {
			return snapshot.Of(n)
		}
	}
	return snapshot.Value{}
}
