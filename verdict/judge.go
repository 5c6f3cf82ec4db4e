package verdict

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/memrecon/memrecon/snapshot"
)

// Judge puts together what belongs together. Its methods must not run at the same time.
type Judge struct {
	// started is the time of the first round: what happened before it, nobody watched.
	started time.Time
	// hasLog tells that the kernel's log is read, so that a kill which is not in it yet soon will be.
	hasLog bool
	// now is the last round's, earlier the one's before.
	now, earlier *snapshot.Snapshot
	cases        []*dead
	hits         []hit
	// orphans are records that do not say whose the victim was.
	orphans []orphan
	gone    map[snapshot.Identity]lastSeen // containers and pods
	names   map[string]named               // by pod UID
	// ended are the containers whose end is known, and when it became so.
	ended   map[string]time.Time
	evicted map[string]time.Time // by pod UID
	changed []Incident

	// counted and told are how many processes the kernel's OOM killer has killed since the first round, by /proc/vmstat and by the
	// cases. owed is since when the first is ahead.
	countedBase uint64
	counted     uint64
	owed        time.Time
}

// dead is a death, and the evidence for it.
type dead struct {
	id     string
	victim Owner
	first  time.Time // when it happened
	last   time.Time // when evidence last came in
	kills  []snapshot.Kill
	moves  []snapshot.OOMCounters // of the victim's own cgroup
	// counted is how many kills the moves and the pod's count tell of.
	counted uint64
	before  lastSeen
	end     *snapshot.Termination
	pod     *snapshot.Pod // for an eviction
	vanish  time.Time     // when the victim's cgroup was found gone
	quiet   uint64        // processes that only /proc/vmstat tells of
	users   []User        // of the node, when the case was opened
	rank    *Ranking      // of a pod that was evicted
	said    *Incident
}

// hit is a cgroup whose limit was hit: its own counter of OOMs moved. v1 has no such counter: a limit that was reached since it was
// last read, beside a kill below it, is weak.
type hit struct {
	snapshot.OOMCounters
	weak bool
}

// orphan is a record without its report, which the kernel leaves out where kills follow each other fast (10 in 5 s; mm/oom_kill.c): it
// has the process and its size, and the counter that moved in the same moment has the cgroup.
type orphan struct {
	kill snapshot.Kill
	at   time.Time // when it was
	came time.Time
}

// lastSeen is a cgroup as it was last read, with those above it; absent where it never was.
type lastSeen struct {
	time    time.Time
	cgroup  snapshot.Cgroup
	parents []snapshot.Cgroup // from the nearest on
	// available is what the kubelet calls so.
	available snapshot.Value
	// ranked are the round's pods in the order of their eviction; only of containers that are gone.
	ranked []ranked
}

type named struct {
	pod  snapshot.Pod
	seen time.Time
}

// How evidence is put together.
const (
	// together is how far apart evidence of the same death may be: the kubelet tells a container's end within some seconds.
	together = 30 * time.Second
	// settled is how long a kill that only counters tell of waits for the counter of the limit that was hit.
	settled = 500 * time.Millisecond
	// moment is how far the counter of a kill may be from its record.
	moment = 300 * time.Millisecond
	// claiming is how long the end of a container by SIGKILL waits for the kernel's record, or the count, of a kill.
	claiming = 2 * time.Second
	// living is after how long a cgroup that is still there has survived a kill in it.
	living = 4 * time.Second
	// watched is how long a case takes new evidence, and how long what is gone is remembered.
	watched = 2 * time.Minute
	// grace is how long kills that /proc/vmstat counts may wait for somebody to tell whose they were.
	grace = 30 * time.Second
	// history is how far back before the first round a container's end is judged.
	history = time.Hour
)

// NewJudge is a Judge that has been told nothing. hasLog says whether it will be told the kernel's records.
func NewJudge(hasLog bool) *Judge {
	return &Judge{
		hasLog: hasLog, gone: map[snapshot.Identity]lastSeen{}, names: map[string]named{}, ended: map[string]time.Time{}, evicted: map[string]time.Time{},
	}
}

// Kill tells a record of the kernel's log.
func (j *Judge) Kill(k *snapshot.Kill, now time.Time) {
	at := k.Time
	if at.IsZero() {
		at = now
	}
	if k.TaskMemcg == "" {
		j.adoptOrOrphan(k, at, now)
		return
	}
	d := j.find(k.Victim, k.TaskMemcg, at, func(d *dead) bool {
		if known(d.kills, k) {
			return true
		}
		// Others that are killed within the same second are the same death: a container's processes, or a group's.
		return len(d.kills) == 0 || at.Sub(d.first).Abs() < 2*time.Second
	})
	id := fmt.Sprintf("kill-%d-%d", k.VictimPID, seconds(k, at))
	if d == nil {
		d = j.open(Owner{Path: k.TaskMemcg, Identity: k.Victim}, at, id)
	}
	if known(d.kills, k) {
		return
	}
	if d.said == nil && len(d.kills) == 0 {
		d.id = id
	}
	d.kills = append(d.kills, *k)
	d.last = now
	j.judge(d, now)
}

// seconds is what a record's time adds to an ID: the kernel's own clock stays the same where its log is read again.
func seconds(k *snapshot.Kill, at time.Time) int64 {
	if micros, ok := k.BootMicros.Get(); ok {
		return int64(micros / 1e6)
	}
	return at.Unix()
}

func known(kills []snapshot.Kill, k *snapshot.Kill) bool {
	return slices.ContainsFunc(kills, func(o snapshot.Kill) bool {
		return o.VictimPID == k.VictimPID && o.BootMicros == k.BootMicros && o.Time.Sub(k.Time).Abs() < time.Second
	})
}

// Counters tells that a cgroup's counters have moved.
func (j *Judge) Counters(c *snapshot.OOMCounters) {
	if isHit, weak := limitHit(c); isHit {
		j.hits = append(j.hits, hit{*c, weak})
		for _, d := range j.cases {
			if d.isOpen(c.Time) && within(d.victim.Path, c.Path) {
				j.judge(d, c.Time)
			}
		}
	}
	n := moved(c.LocalBefore.OOMKill, c.LocalAfter.OOMKill)
	if n == 0 {
		return
	}
	d := j.find(c.Identity, c.Path, c.Time, func(d *dead) bool { return len(d.moves) == 0 || c.Time.Sub(d.last) < 2*time.Second })
	if d == nil {
		d = j.open(Owner{Path: c.Path, Identity: c.Identity}, c.Time, fmt.Sprintf("count-%d-%d", c.Inode, c.Time.Unix()))
	}
	d.moves = append(d.moves, *c)
	d.counted += n
	d.last = c.Time
	j.orphans = slices.DeleteFunc(j.orphans, func(o orphan) bool {
		if !d.misses(o.at) {
			return false
		}
		d.kills = append(d.kills, o.kill)
		return true
	})
	j.judge(d, c.Time)
}

// limitHit tells that a cgroup's limit was hit.
func limitHit(c *snapshot.OOMCounters) (isHit, weak bool) {
	if !c.LocalAfter.OOM.IsAbsent() {
		return moved(c.LocalBefore.OOM, c.LocalAfter.OOM) > 0, false
	}
	limit, isLimited := c.Max.Get()
	peak, isKnown := c.Peak.Get()
	return moved(c.LocalBefore.Max, c.LocalAfter.Max) > 0 && isLimited && (!isKnown || peak >= limit-limit/100), true
}

// adoptOrOrphan gives a record without a cgroup to the case that has counted a kill in that moment and has no record of it.
func (j *Judge) adoptOrOrphan(k *snapshot.Kill, at, now time.Time) {
	for _, d := range slices.Backward(j.cases) {
		if known(d.kills, k) {
			return
		}
		if d.misses(at) {
			d.kills = append(d.kills, *k)
			d.last = now
			j.judge(d, now)
			return
		}
	}
	if !slices.ContainsFunc(j.orphans, func(o orphan) bool { return known([]snapshot.Kill{o.kill}, k) }) {
		j.orphans = append(j.orphans, orphan{*k, at, now})
	}
}

// misses tells that a case has counted a kill at about a time whose record has not come.
func (d *dead) misses(at time.Time) bool {
	return uint64(len(d.kills)) < d.counted && slices.ContainsFunc(d.moves, func(m snapshot.OOMCounters) bool { return m.Time.Sub(at).Abs() < moment })
}

// openOrphans makes cases of the records that no counter took.
func (j *Judge) openOrphans(now time.Time) {
	j.orphans = slices.DeleteFunc(j.orphans, func(o orphan) bool {
		if now.Sub(o.came) < claiming {
			return false
		}
		d := j.open(Owner{}, o.at, fmt.Sprintf("kill-%d-%d", o.kill.VictimPID, seconds(&o.kill, o.at)))
		d.kills, d.last = []snapshot.Kill{o.kill}, now
		j.judge(d, now)
		return true
	})
}

// Round tells a reading of the node: what the cgroups are, what the kubelet said last, and that time goes on.
func (j *Judge) Round(s *snapshot.Snapshot) {
	kills, isKnown := vmstatKills(s)
	if j.started.IsZero() {
		j.started, j.countedBase = s.Time, kills
	}
	j.noticeGone(s)
	j.earlier, j.now = j.now, s
	if isKnown {
		j.counted = kills - min(kills, j.countedBase)
	}
	j.readPods(s)
	j.openOrphans(s.Time)
	for _, d := range j.cases {
		j.claim(d, s.Time)
	}
	j.countUnexplained(s.Time)
	for _, d := range j.cases {
		if d.isOpen(s.Time) {
			j.judge(d, s.Time) // time alone tells, as whether the container goes on
		}
	}
	j.forget(s.Time)
}

// Changed are the incidents that are new or changed since the last call.
func (j *Judge) Changed() []Incident {
	changed := j.changed
	j.changed = nil
	return changed
}

// find is the case that evidence about a victim belongs to.
func (j *Judge) find(id snapshot.Identity, path string, at time.Time, fits func(*dead) bool) *dead {
	for _, d := range slices.Backward(j.cases) {
		if at.Sub(d.first).Abs() > together || d.pod != nil || d.quiet > 0 {
			continue
		}
		same := path != "" && d.victim.Path == path || id.ContainerID != "" && d.victim.Identity.ContainerID == id.ContainerID
		if same && fits(d) {
			return d
		}
	}
	return nil
}

func (j *Judge) open(victim Owner, at time.Time, id string) *dead {
	d := &dead{id: id, victim: victim, first: at, last: at, before: j.seen(&victim, at), users: j.users()}
	j.cases = append(j.cases, d)
	if d.victim.Path == "" {
		d.victim.Path = d.before.cgroup.Path
	}
	return d
}

func (d *dead) isOpen(now time.Time) bool { return now.Sub(d.last) < watched }

// seen is a cgroup as the last round before a time, or the one before it went away, had it: what a later one read is what the dead left.
func (j *Judge) seen(o *Owner, at time.Time) lastSeen {
	if g, ok := j.gone[who(o.Identity)]; ok && o.Identity != (snapshot.Identity{}) {
		return g
	}
	if j.now == nil || o.Path == "" && !isPodOrContainer(o.Identity.Class) {
		return lastSeen{}
	}
	rounds := []*snapshot.Snapshot{j.now}
	if j.now.Time.After(at) && j.earlier != nil {
		rounds = []*snapshot.Snapshot{j.earlier, j.now}
	}
	for _, s := range rounds {
		for i := range s.Cgroups {
			c := &s.Cgroups[i]
			if c.Path == o.Path || isPodOrContainer(c.Identity.Class) && who(c.Identity) == who(o.Identity) {
				return look(s, i)
			}
		}
	}
	return lastSeen{}
}

// who is an identity without what only the path tells: the kubelet's word has no QoS class and no unit.
func who(id snapshot.Identity) snapshot.Identity {
	return snapshot.Identity{Class: id.Class, PodUID: id.PodUID, ContainerID: id.ContainerID}
}

func isPodOrContainer(class snapshot.Class) bool {
	return class == snapshot.ClassPod || class == snapshot.ClassContainer
}

func look(s *snapshot.Snapshot, i int) lastSeen {
	seen := lastSeen{time: s.Time, cgroup: s.Cgroups[i], available: s.Host.Meminfo.KubeletAvailable()}
	for p := s.Cgroups[i].Parent; p >= 0; p = s.Cgroups[p].Parent {
		seen.parents = append(seen.parents, s.Cgroups[p])
	}
	return seen
}

// noticeGone keeps the containers that are gone since the last round as they were.
func (j *Judge) noticeGone(s *snapshot.Snapshot) {
	if j.now == nil || s.Sweep.Vanished == 0 && len(s.Cgroups) >= len(j.now.Cgroups) {
		return
	}
	there := make(map[uint64]bool, len(s.Cgroups))
	for i := range s.Cgroups {
		there[s.Cgroups[i].Inode] = true
	}
	orders := map[*snapshot.Snapshot][]ranked{}
	for i := range j.now.Cgroups {
		c := &j.now.Cgroups[i]
		if there[c.Inode] {
			continue
		}
		if isPodOrContainer(c.Identity.Class) {
			round, at := j.alive(i)
			seen := look(round, at)
			if c.Identity.Class == snapshot.ClassContainer && c.Identity.PodUID != "" {
				if _, ok := orders[round]; !ok {
					orders[round] = rank(round)
				}
				seen.ranked = orders[round]
			}
			j.gone[who(c.Identity)] = seen
		}
		for _, d := range j.cases {
			if d.victim.Path == c.Path && d.vanish.IsZero() {
				d.vanish = s.Time
			}
		}
	}
}

// alive is the last round that read a cgroup of j.now's with its processes, and its place there: it outlasts them by up to a second, with
// little more than page cache.
func (j *Judge) alive(i int) (*snapshot.Snapshot, int) {
	c := &j.now.Cgroups[i]
	left, isKnown := anonymous(c).Get()
	if j.earlier == nil || !isKnown {
		return j.now, i
	}
	for k := range j.earlier.Cgroups {
		if before := &j.earlier.Cgroups[k]; before.Inode == c.Inode {
			if had, wasKnown := anonymous(before).Get(); wasKnown && left < had/10 {
				return j.earlier, k
			}
		}
	}
	return j.now, i
}

// readPods looks for what the kubelet newly says: containers that ended, pods that were evicted.
func (j *Judge) readPods(s *snapshot.Snapshot) {
	if s.Kubernetes == nil {
		return
	}
	for i := range s.Kubernetes.Pods {
		j.names[s.Kubernetes.Pods[i].UID] = named{s.Kubernetes.Pods[i], s.Time}
	}
	for i := range s.Kubernetes.Pods {
		pod := &s.Kubernetes.Pods[i]
		if _, ok := eviction(pod); ok && !has(j.evicted, pod.UID) {
			j.evicted[pod.UID] = s.Time
			if at := evictedAt(pod); at.IsZero() || j.started.Sub(at) < history {
				j.evict(pod, s.Time)
			}
		}
		for _, c := range pod.Containers {
			for _, end := range []snapshot.Termination{c.Previous, c.Terminated} {
				if end.ContainerID == "" || has(j.ended, end.ContainerID) {
					continue
				}
				j.ended[end.ContainerID] = s.Time
				if end.Finished.IsZero() || j.started.Sub(end.Finished) < history {
					j.end(pod, c.Name, &end, s.Time)
				}
			}
		}
	}
}

func has(m map[string]time.Time, key string) bool { _, ok := m[key]; return ok }

// end is told the end of a container. It is a death of its own where it has to do with memory, or may have: the kernel's kill of it is
// known, or it ended by a signal, or with a failure close to its limit.
func (j *Judge) end(pod *snapshot.Pod, container string, end *snapshot.Termination, now time.Time) {
	at := end.Finished
	if at.IsZero() {
		at = now
	}
	victim := Owner{
		Identity:  snapshot.Identity{Class: snapshot.ClassContainer, PodUID: pod.UID, ContainerID: end.ContainerID},
		Namespace: pod.Namespace, Pod: pod.Name, Container: container,
	}
	for _, d := range j.cases {
		if d.victim.Identity.ContainerID == end.ContainerID {
			d.end, d.last = end, now
			j.judge(d, now)
			return
		}
	}
	if has(j.evicted, pod.UID) || end.Reason != oomKilled && end.ExitCode == 0 {
		return
	}
	d := &dead{id: "end-" + end.ContainerID, victim: victim, first: at, last: now, end: end, before: j.seen(&victim, now), users: j.users()}
	d.victim.Path = d.before.cgroup.Path
	if d.before.cgroup.Path != "" {
		d.victim.Identity = d.before.cgroup.Identity
	}
	if v, _ := j.byEnd(d); v == "" {
		return
	}
	j.cases = append(j.cases, d)
	j.judge(d, now)
}

// claim gives a container that ended by SIGKILL a kill that the node has counted and nobody has told of since. Another may have sent
// SIGKILL while the kernel killed somebody else, so the container, what is above it or the node must have been full, or the runtime
// must say that it was the OOM killer.
func (j *Judge) claim(d *dead, now time.Time) {
	if d.end == nil || !isKill(d.end) || d.killed() > 0 || d.first.Before(j.started) || now.Sub(d.last) < claiming || j.counted <= j.told() {
		return
	}
	if d.end.Reason == oomKilled || j.isShort() || slices.ContainsFunc(d.before.upwards(), isFull) {
		d.counted = 1
	}
}

func (j *Judge) evict(pod *snapshot.Pod, now time.Time) {
	at := evictedAt(pod)
	if at.IsZero() {
		at = now
	}
	d := &dead{
		id: "evicted-" + pod.UID, first: at, last: now, pod: pod, users: j.users(),
		victim: Owner{Identity: snapshot.Identity{Class: snapshot.ClassPod, PodUID: pod.UID, QoS: pod.QoS}, Namespace: pod.Namespace, Pod: pod.Name},
	}
	d.victim.Path = j.seen(&d.victim, now).cgroup.Path
	d.before = j.beforeEviction(pod)
	d.rank = ranking(d.before.ranked, pod.UID, d.before.time)
	j.cases = append(j.cases, d)
	j.judge(d, now)
}

// beforeEviction is a pod's cgroup in the last round that had all its containers, with the order of that round's pods; absent where
// there was none. The pod's cgroup outlasts its containers by seconds, and is as good as empty then.
func (j *Judge) beforeEviction(pod *snapshot.Pod) lastSeen {
	earlier := map[string]bool{} // the ends of these have nothing to do with it
	for _, c := range pod.Containers {
		earlier[c.Previous.ContainerID] = true
		earlier[c.ID] = earlier[c.ID] || c.Kind == snapshot.InitContainer
	}
	var ends []lastSeen // whose ID the kubelet may have lost, so by the pod's
	for id, g := range j.gone {
		if id.Class == snapshot.ClassContainer && id.PodUID == pod.UID && !earlier[id.ContainerID] {
			ends = append(ends, g)
		}
	}
	slices.SortFunc(ends, func(a, b lastSeen) int { return b.time.Compare(a.time) })
	var last lastSeen
	for _, g := range ends {
		if ends[0].time.Sub(g.time) < together {
			last = g
		}
	}
	if last.time.IsZero() { // they may be there still
		i := slices.IndexFunc(j.now.Cgroups, func(c snapshot.Cgroup) bool {
			return c.Identity.Class == snapshot.ClassContainer && c.Identity.PodUID == pod.UID
		})
		if i < 0 {
			return lastSeen{}
		}
		last = look(j.now, i)
		last.ranked = rank(j.now)
	}
	for i := range last.parents {
		if last.parents[i].Identity.Class == snapshot.ClassPod {
			return lastSeen{time: last.time, cgroup: last.parents[i], parents: last.parents[i+1:], available: last.available, ranked: last.ranked}
		}
	}
	return lastSeen{}
}

// told is how many kills since the first round the cases tell of.
func (j *Judge) told() (n uint64) {
	for _, d := range j.cases {
		if !d.first.Before(j.started) {
			n += d.accounted()
		}
	}
	return n
}

// accounted is how many kills the kernel counted for a case: the first victim of a group twice (mm/oom_kill.c, oom_kill_process).
func (d *dead) accounted() uint64 {
	n := uint64(len(d.kills))
	if slices.ContainsFunc(d.kills, func(k snapshot.Kill) bool { return k.GroupMemcg != "" }) {
		n++
	}
	return max(n, d.counted, d.quiet)
}

// killed is how many processes were killed: the log may have lost some, and the counters may have gone with the cgroup.
// A group's first victim is counted twice.
func (d *dead) killed() uint64 {
	counted := d.counted
	if counted > 1 && slices.ContainsFunc(d.moves, isGroupKill) {
		counted--
	}
	return max(uint64(len(d.kills)), counted, d.quiet)
}

func isGroupKill(m snapshot.OOMCounters) bool {
	return moved(m.LocalBefore.OOMGroupKill, m.LocalAfter.OOMGroupKill) > 0
}

// countUnexplained makes a case of kills that only /proc/vmstat tells of.
func (j *Judge) countUnexplained(now time.Time) {
	told := j.told()
	if j.counted <= told {
		j.owed = time.Time{}
		return
	}
	if j.owed.IsZero() {
		j.owed = now
	}
	if now.Sub(j.owed) < grace {
		return
	}
	n := j.counted - told
	d := &dead{id: fmt.Sprintf("count-%d", j.owed.Unix()), first: j.owed, last: now, quiet: n, victim: Owner{}}
	j.cases = append(j.cases, d)
	j.owed = time.Time{}
	j.judge(d, now)
}

// forget drops what is too old to matter. The kills of a case that is dropped stay accounted for.
func (j *Judge) forget(now time.Time) {
	j.cases = slices.DeleteFunc(j.cases, func(d *dead) bool {
		if d.isOpen(now) {
			return false
		}
		if !d.first.Before(j.started) {
			j.countedBase += d.accounted()
			j.counted -= min(j.counted, d.accounted())
		}
		return true
	})
	j.hits = slices.DeleteFunc(j.hits, func(h hit) bool { return now.Sub(h.Time) > watched })
	old := func(t time.Time) bool { return now.Sub(t) > history }
	for id, g := range j.gone {
		if now.Sub(g.time) > watched {
			delete(j.gone, id)
		}
	}
	for uid, n := range j.names {
		if old(n.seen) {
			delete(j.names, uid)
		}
	}
	// What the kubelet still lists would be new again.
	listed := map[string]bool{}
	if k := j.now.Kubernetes; k != nil {
		for i := range k.Pods {
			listed[k.Pods[i].UID] = true
			for _, c := range k.Pods[i].Containers {
				listed[c.Terminated.ContainerID], listed[c.Previous.ContainerID] = true, true
			}
		}
	}
	for _, m := range []map[string]time.Time{j.ended, j.evicted} {
		for id, t := range m {
			if old(t) && !listed[id] {
				delete(m, id)
			}
		}
	}
}

// owner adds the names that Kubernetes has for a cgroup.
func (j *Judge) owner(o Owner) Owner {
	n, ok := j.names[o.Identity.PodUID]
	if !ok || o.Identity.PodUID == "" {
		return o
	}
	o.Namespace, o.Pod = n.pod.Namespace, n.pod.Name
	for _, c := range n.pod.Containers {
		if id := o.Identity.ContainerID; id != "" && (c.ID == id || c.Terminated.ContainerID == id || c.Previous.ContainerID == id) {
			o.Container = c.Name
		}
	}
	return o
}

// vmstatKills is the node's count of processes that the OOM killer has killed since boot (/proc/vmstat oom_kill, Linux 4.13).
func vmstatKills(s *snapshot.Snapshot) (uint64, bool) { return s.Host.Vmstat.Get("oom_kill") }

// moved is by how much a counter rose; 0 where that is not known.
func moved(before, after snapshot.Value) uint64 {
	b, isKnown := before.Get()
	a, isKnownToo := after.Get()
	if !isKnown || !isKnownToo || a < b {
		return 0
	}
	return a - b
}

// within tells that a cgroup is another, or stands below it.
func within(path, above string) bool {
	return path != "" && (path == above || above == "/" || strings.HasPrefix(path, above+"/"))
}
