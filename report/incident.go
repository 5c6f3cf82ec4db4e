package report

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/memrecon/memrecon/flight"
	"github.com/memrecon/memrecon/snapshot"
	"github.com/memrecon/memrecon/verdict"
)

// IncidentsSchema names the form of an IncidentsDocument; docs/incidents.schema.json describes it.
const IncidentsSchema = "memrecon.incidents/v1"

// IncidentsDocument is what an agent knows of what died for memory, the oldest first, as JSON and YAML have it.
type IncidentsDocument struct {
	Schema    string     `json:"schema"`
	Node      string     `json:"node"`
	Incidents []Incident `json:"incidents"`
}

// Incident is a verdict.Incident with the words for it.
type Incident struct {
	verdict.Incident
	// Sentence says it in one, Why why that victim (empty where that is no question), Advice what to do.
	Sentence string   `json:"sentence"`
	Why      string   `json:"why,omitempty"`
	Advice   []string `json:"advice"`
	// Page explains the verdict.
	Page string `json:"page"`
	// Flight is the memory of the victim's cgroup before and after, nil where it was not recorded.
	Flight *flight.Record `json:"flight,omitempty"`
}

// pages is where the verdicts are explained.
const pages = "https://github.com/memrecon/memrecon/blob/main/docs/verdicts/"

// NewIncident puts an incident in words.
func NewIncident(in *verdict.Incident, flight *flight.Record) Incident {
	return Incident{
		Incident: *in, Sentence: Sentence(in), Why: why(in), Advice: advice(in), Page: pages + string(in.Verdict) + ".md", Flight: flight,
	}
}

// Reason is the verdict as Kubernetes writes reasons: ContainerLimit, NodeOOM.
func (in *Incident) Reason() string {
	var b strings.Builder
	for word := range strings.SplitSeq(string(in.Verdict), "-") {
		switch word {
		case "oom", "numa":
			b.WriteString(strings.ToUpper(word))
		default:
			b.WriteString(strings.ToUpper(word[:1]) + word[1:])
		}
	}
	return b.String()
}

// IncidentsText writes incidents for a person: a sentence each, why that victim, what to do, and the evidence.
func IncidentsText(w io.Writer, list []Incident, o Options) error {
	t := &text{o: o}
	if len(list) == 0 {
		t.printf("Nothing is known that died for memory.\n")
	}
	for i := range list {
		t.incident(&list[i])
	}
	_, err := io.WriteString(w, t.b.String())
	return err
}

func (t *text) incident(in *Incident) {
	first := in.Sentence
	if !in.Time.IsZero() {
		first = in.Time.UTC().Format("2006-01-02 15:04:05 UTC") + ": " + first
	}
	t.printf("%s\n", t.paint(red, wrap("", "  ", first)))
	for _, sentence := range []string{figures(&in.Incident), in.Why, eviction(&in.Incident), users(&in.Incident)} {
		if sentence != "" {
			t.wrapped("  ", "    ", sentence)
		}
	}
	for _, advice := range in.Advice {
		t.wrapped("  - ", "    ", advice)
	}
	t.wrapped("  ", "    ", fmt.Sprintf("Verdict: %s, %s. %s", in.Verdict, in.Confidence, in.Page))
	for _, e := range in.Evidence {
		when := ""
		if !e.Time.IsZero() {
			when = e.Time.UTC().Format("15:04:05.000 ")
		}
		t.wrapped("  * ", "    ", when+e.Source+": "+e.Text)
	}
	for _, m := range in.Missing {
		t.wrapped("  ? ", "    ", missing[m])
	}
	if in.Flight != nil {
		t.printf("\n")
		_ = FlightText(&t.b, in.Flight, ownerName(&in.Victim), in.Time, t.o) // a strings.Builder takes everything
	}
	t.printf("\n")
}

var missing = map[verdict.Missing]string{
	verdict.MissingKernelLog: "Only the kernel's log has the process, its size, and who else could have been killed. memrecon may not read it here, which the " +
		"overlay forensics changes, or it has lost these lines.",
	verdict.MissingCounters: "No counter says whose limit was reached: cgroup v1 has none, and that of cgroup v2 was not read. So it is told by who was at a limit.",
	verdict.MissingReading:  "A reading of the pod before it was evicted: without that its place among the others is not known, nor how much of its memory was page cache.",
	verdict.MissingPods:     "The kubelet's list of pods: without it there are no names.",
}

// Sentence is an incident in one sentence.
func Sentence(in *verdict.Incident) string {
	var s string
	switch in.Verdict {
	case verdict.Evicted:
		s = "the kubelet evicted the pod, as the node was low on memory" + low(in)
	case verdict.EvictedInnocent:
		s = "the kubelet evicted the pod, though the node would have been low on memory without it as well" + low(in)
		if beyond := amount(in.BeyondReserved); beyond != "" {
			s = fmt.Sprintf("the kubelet evicted the pod, as what is no pod used %s more than is reserved for it, and so the node was low on memory%s", beyond, low(in))
		}
	case verdict.Refused:
		s = "the kubelet refused to run the pod, as the node was under " + conditions(in)
	case verdict.RuntimeCap:
		s = fmt.Sprintf("the container ended itself%s%s: at a limit of the program's own, or by a crash; no kill by the kernel is known", exitWords(in), whenUsing(in))
	case verdict.Killed:
		s = fmt.Sprintf("something killed the container with SIGKILL%s, and nothing points to the kernel's OOM killer", exitWords(in))
		if in.Confidence == verdict.Possible {
			s = fmt.Sprintf("something killed the container with SIGKILL%s; whether it was the kernel's OOM killer is not known", exitWords(in))
		}
	case verdict.Stopped:
		s = fmt.Sprintf("the container was told to stop (SIGTERM), and ended%s", exitWords(in))
	case verdict.NotOOMKilled:
		s = fmt.Sprintf("Kubernetes shows the container as OOMKilled%s, but the kernel's OOM killer killed nothing in it then", exitWords(in))
	case verdict.Unexplained:
		return fmt.Sprintf("The kernel's OOM killer killed %s that nothing else accounts for: as a rule the cgroup was gone before it could be read.", processes(in.Kills))
	default:
		s = fmt.Sprintf("the kernel killed %s%s", victimWords(in), cause(in))
		if in.Effect == verdict.ProcessOnly {
			s += fmt.Sprintf("; the %s goes on without it", kindOf(&in.Victim))
		}
	}
	who := ownerName(&in.Victim)
	if who == "" {
		who = "unknown cgroup"
	}
	return who + ": " + s + "."
}

// cause says which limit was reached, and how sure that is.
func cause(in *verdict.Incident) string {
	as := map[verdict.Confidence]string{verdict.Certain: ", as ", verdict.Likely: ", most likely as ", verdict.Possible: ", possibly as "}[in.Confidence]
	limit := of(amount(in.Limit))
	switch in.Verdict {
	case verdict.ContainerLimit:
		return as + "the container reached its memory limit" + limit
	case verdict.PodLimit:
		words := as + "its pod reached the pod's memory limit" + limit
		if isOne := in.Limit == in.VictimLimit; isOne && limit != "" {
			words += ", which is the container's own as well"
		}
		return words
	case verdict.QoSLimit:
		return as + fmt.Sprintf("all %s pods of the node together reached the limit of their class%s", in.Limited.Identity.QoS, limit)
	case verdict.KubepodsLimit:
		return as + fmt.Sprintf("all pods of the node together reached the kubelet's limit for them%s before it evicted one", limit)
	case verdict.CgroupLimit:
		if in.Limited.Path == in.Victim.Path {
			return as + "it reached its memory limit" + limit
		}
		return as + ownerName(&in.Limited) + ", which it is part of, reached its memory limit" + limit
	case verdict.NodeOOM:
		if limit != "" {
			limit = ": all" + limit + " were used"
		}
		return as + "the node was out of memory" + limit
	case verdict.NUMAOOM:
		return as + "the NUMA nodes that it is bound to were out of memory; others may have had some"
	}
	return " for want of memory; whose limit was reached is not known"
}

// kindOf is the word for what a cgroup holds.
func kindOf(o *verdict.Owner) string {
	switch o.Identity.Class {
	case snapshot.ClassContainer, snapshot.ClassPod, snapshot.ClassService:
		return string(o.Identity.Class)
	}
	return "cgroup"
}

// low says how low the node's memory was, and what the pod used, as the kubelet saw it.
func low(in *verdict.Incident) string {
	e := in.Eviction
	if e == nil {
		return ""
	}
	var parts []string
	if available, threshold := amount(e.Available), amount(e.Threshold); available != "" && threshold != "" {
		parts = append(parts, fmt.Sprintf("%s was available, below the eviction threshold of %s", available, threshold))
	}
	over := func(who string, o snapshot.OverRequest) {
		if usage := amount(o.Usage); usage != "" {
			parts = append(parts, fmt.Sprintf("%s used %s and requests %s", who, usage, requested(o.Request)))
		}
	}
	over("the pod", e.Pod)
	for _, c := range e.Containers {
		over("container "+c.Name, c)
	}
	if n, ok := in.VictimCache.Get(); ok && n >= 1<<20 {
		parts = append(parts, fmt.Sprintf("%s of the pod's memory was page cache in use", Size(int64(n))))
	}
	if len(parts) == 0 {
		return ""
	}
	return ": " + strings.Join(parts, "; ")
}

// requested is a request as a word; a kubelet's message has 0 for none.
func requested(v snapshot.Value) string {
	if n, ok := v.Get(); ok && n > 0 {
		return Size(int64(n))
	}
	return "nothing"
}

func conditions(in *verdict.Incident) string {
	if in.Eviction == nil || len(in.Eviction.Conditions) == 0 {
		return "MemoryPressure"
	}
	return strings.Join(in.Eviction.Conditions, ", ")
}

// victimWords says what was killed. How many a group had is not said: the kernel counts some of them twice.
func victimWords(in *verdict.Incident) string {
	words := processes(in.Kills)
	if in.Comm != "" {
		words = fmt.Sprintf("%s (process %d)", in.Comm, in.PID)
	}
	switch {
	case in.Effect == verdict.GroupEnded && in.Comm != "":
		return fmt.Sprintf("%s and with it the whole %s (memory.oom.group)", words, kindOf(&in.Victim))
	case in.Effect == verdict.GroupEnded:
		return fmt.Sprintf("the whole %s (memory.oom.group)", kindOf(&in.Victim))
	case in.Comm != "" && in.Kills > 1:
		return fmt.Sprintf("%s and %d more", words, in.Kills-1)
	}
	return words
}

func processes(n uint64) string {
	if n <= 1 {
		return "a process"
	}
	return fmt.Sprintf("%d processes", n)
}

// signals are the names of those by which a container ends, by its exit code.
var signals = map[int32]string{134: "SIGABRT", 137: "SIGKILL", 139: "SIGSEGV", 143: "SIGTERM"}

func exitWords(in *verdict.Incident) string {
	if in.Termination == nil {
		return ""
	}
	code := in.Termination.ExitCode
	if name := signals[code]; name != "" && in.Verdict != verdict.Killed && in.Verdict != verdict.Stopped { // these name it themselves
		return fmt.Sprintf(" (exit code %d, %s)", code, name)
	}
	return fmt.Sprintf(" (exit code %d)", code)
}

func of(limit string) string {
	if limit == "" {
		return ""
	}
	return " of " + limit
}

func whenUsing(in *verdict.Incident) string {
	usage, limit := amount(in.VictimUsage), amount(in.VictimLimit)
	switch {
	case usage == "":
		return ""
	case limit == "":
		return fmt.Sprintf(" when it used %s", usage)
	}
	return fmt.Sprintf(" when it used %s of its limit of %s", usage, limit)
}

// amount is a size, "" for what is no number.
func amount(v snapshot.Value) string {
	if n, ok := v.Get(); ok {
		return Size(int64(n))
	}
	return ""
}

// ownerName is what a person calls a cgroup.
func ownerName(o *verdict.Owner) string {
	pod := o.Identity.PodUID
	if o.Pod != "" {
		pod = o.Namespace + "/" + o.Pod
	}
	id := &o.Identity
	switch {
	case o.Container != "":
		return pod + "/" + o.Container
	case id.ContainerID != "" && pod != "":
		return "container " + short(id.ContainerID) + " of pod " + pod
	case id.ContainerID != "":
		return "container " + short(id.ContainerID)
	case pod != "":
		return "pod " + pod
	case id.Class == snapshot.ClassRoot:
		return "the node"
	case id.Unit != "":
		return id.Unit
	}
	return o.Path
}

// figures are the limit that was reached, and what the victim used, which may be little where the limit is not its own.
func figures(in *verdict.Incident) string {
	var parts []string
	usage, limit := amount(in.Usage), amount(in.Limit)
	if usage != "" && limit != "" {
		parts = append(parts, fmt.Sprintf("used when the limit was reached: %s of %s", usage, limit))
	}
	if used := amount(in.VictimUsage); used != "" && in.Victim.Path != in.Limited.Path {
		words := fmt.Sprintf("the victim's %s used %s when it was last read", kindOf(&in.Victim), used)
		switch own := amount(in.VictimLimit); {
		case own != "":
			words += ", and may use " + own
		case in.VictimLimit.IsUnlimited():
			words += ", and has no limit of its own"
		}
		parts = append(parts, words)
	}
	if len(parts) == 0 {
		return ""
	}
	line := strings.Join(parts, "; ") + "."
	return strings.ToUpper(line[:1]) + line[1:]
}

// why says how large the process was that was killed, and why the kernel took that one.
func why(in *verdict.Incident) string {
	if in.Kill == nil {
		return ""
	}
	words := anatomy(in.Kill) + "."
	total, ok := in.Limit.Get()
	page := pageKB(in.Kill) << 10
	i := slices.IndexFunc(in.Candidates, func(c verdict.Candidate) bool { return c.Chosen })
	if len(in.Candidates) < 2 || i < 0 || page == 0 || !ok {
		return words
	}
	chosen := &in.Candidates[i]
	score := func(c *verdict.Candidate) string { return Size(c.Badness * int64(page)) }
	var others []string
	isHighest := true
	for i := range in.Candidates {
		c := &in.Candidates[i]
		isHighest = isHighest && c.Badness <= chosen.Badness
		if !c.Chosen && c.Badness > 0 && len(others) < 3 {
			used := Size(int64((c.RSSPages + c.SwapPages) * page))
			others = append(others, fmt.Sprintf("%s (process %d) %s, using %s at oom_score_adj %d", c.Comm, c.PID, score(c), used, c.OOMScoreAdj))
		}
	}
	switch {
	case len(others) == 0:
		return words + " No other process there had a score above zero."
	case !isHighest:
		words += " It had not the highest score, so the kernel took who asked for the memory (vm.oom_kill_allocating_task), or a child in place of its parent."
	}
	return fmt.Sprintf("%s The kernel takes the process with the highest score, its memory and for each point of oom_score_adj a thousandth of %s: "+
		"here %s; next %s.", words, Size(int64(total)), score(chosen), strings.Join(others, "; "))
}

// eviction is why the kubelet took this pod, what of its memory was page cache, and how the pod shows.
func eviction(in *verdict.Incident) string {
	var parts []string
	if in.Ranking != nil {
		parts = append(parts, place(in.Ranking))
	}
	if active, inactive := amount(in.VictimCache), amount(in.VictimIdleCache); in.Eviction != nil && active != "" && inactive != "" {
		parts = append(parts, fmt.Sprintf("Of the pod's %s then, %s were page cache in use, which its working set has, and %s page cache out of use, which it has not.",
			amount(in.VictimUsage), active, inactive))
	}
	if beyond := amount(in.BeyondReserved); beyond != "" && in.Verdict == verdict.Evicted {
		parts = append(parts, fmt.Sprintf("What is no pod used %s more than is reserved for it, and this pod as much or more beyond its requests.", beyond))
	}
	if in.Shown != "" {
		parts = append(parts, "kubectl get pods shows the pod as "+in.Shown+".")
	}
	return strings.Join(parts, " ")
}

// place says where a pod stood among those that the kubelet may evict.
func place(r *verdict.Ranking) string {
	words := fmt.Sprintf("When memrecon last read it, at %s, it was ", r.Time.UTC().Format("15:04:05"))
	var why map[verdict.RankKey]string
	switch {
	case r.Pods == 1:
		words += "the only pod that the kubelet may evict"
	case r.Place == 1:
		words += fmt.Sprintf("first of the %d pods that the kubelet may evict", r.Pods)
		why = map[verdict.RankKey]string{
			verdict.RankUnread: "as it alone had no figures", verdict.RankExceeds: "as it alone used more than it requests",
			verdict.RankPriority: "ahead of the next by its lower priority", verdict.RankExcess: "ahead of the next by its usage less its request",
		}
	default:
		var names []string
		for i := range r.Before {
			names = append(names, ownerName(&r.Before[i]))
		}
		if more := r.Place - 1 - len(names); more > 0 {
			names = append(names, fmt.Sprintf("%d more", more))
		}
		words += fmt.Sprintf("number %d of the %d pods that the kubelet may evict, behind %s", r.Place, r.Pods, strings.Join(names, ", "))
		why = map[verdict.RankKey]string{ // of the last of these
			verdict.RankUnread: "which had no figures", verdict.RankExceeds: "which used more than requested, as it did not",
			verdict.RankPriority: "of lower priority", verdict.RankExcess: "by usage less request",
		}
	}
	if reason := why[r.Key]; reason != "" {
		words += ", " + reason
	}
	if !r.KubeletTime.IsZero() {
		age := max(0, r.Time.Sub(r.KubeletTime)) // the kubelet's has whole seconds
		words += fmt.Sprintf("; the kubelet's own figures of it, as far as memrecon knew, were %.0f s old", age.Seconds())
	}
	return words + "."
}

// users are who used most, of those whose memory counts in the limit that was reached.
func users(in *verdict.Incident) string {
	var parts []string
	for i := range in.Users {
		u := &in.Users[i]
		isPod := u.Identity.PodUID != ""
		switch {
		case in.Verdict == verdict.KubepodsLimit && !isPod, in.Verdict == verdict.QoSLimit && (!isPod || u.Identity.QoS != in.Limited.Identity.QoS):
			continue
		}
		part := ownerName(&u.Owner) + " " + Size(int64(u.WorkingSet))
		if isPod && u.Pod != "" {
			part += " (requests " + requested(u.Request) + ")"
		}
		parts = append(parts, part)
	}
	if len(parts) == 0 {
		return ""
	}
	return "Who used most when the node was last read, by working set: " + strings.Join(parts, "; ") + "."
}

// advice is what to do about it.
func advice(in *verdict.Incident) []string {
	const (
		leaks = "If its anonymous memory grows under a constant load, it leaks: memrecon report shows what it consists of."
		cache = "Page cache of files is not the reason, the kernel drops that first. Files in tmpfs and in emptyDir volumes with medium Memory count, and stay."
		log   = "Let memrecon read the kernel's log (overlay forensics), or ask on the node: dmesg | memrecon explain --kernel-log -"
	)
	switch in.Verdict {
	case verdict.ContainerLimit:
		return []string{"If the container needs this much, raise its resources.limits.memory, and resources.requests.memory with it.", leaks, cache}
	case verdict.PodLimit:
		return []string{
			"If the pod needs this much, raise the limits of its containers: the pod's is their sum, unless it has one of its own in spec.resources.",
			leaks, cache,
		}
	case verdict.QoSLimit:
		return []string{
			"A class of pods has a limit only where qosReserved of the kubelet, or somebody by hand, sets one: raise it, or do without.",
			"Give each pod a limit, so that one that grows is killed at its own.",
		}
	case verdict.KubepodsLimit:
		return []string{
			"Set requests near the real use, so that the scheduler puts fewer pods here, and limits, so that one that grows is killed at its own.",
			"The kubelet looks every 10 s and evicts one pod at a time: a higher evictionHard memory.available leaves it more time.",
		}
	case verdict.NodeOOM:
		return []string{
			"Look for who used the memory, which need not be who was killed: pods without limits, and what is no pod.",
			"Reserve what the system uses (systemReserved, kubeReserved of the kubelet) and raise evictionHard memory.available, so that the kubelet evicts before the kernel kills.",
		}
	case verdict.CgroupLimit:
		return []string{"If it needs this much, raise the limit: MemoryMax= of a systemd unit, --memory of a container.", leaks, cache}
	case verdict.NUMAOOM:
		return []string{"Allow it more NUMA nodes (cpuset.mems, numactl, the kubelet's Memory Manager), or move others away from these: numastat -m shows who has what."}
	case verdict.OOMKilled:
		return []string{log}
	case verdict.Evicted:
		return []string{
			"Request what it really uses: pods above their requests are evicted first, then those of lower priority.",
			"If it grows without need, give it a limit: it is then killed alone, before the node is low.",
		}
	case verdict.EvictedInnocent:
		return []string{
			"Look at who filled the node: what is no pod is never evicted, and has to be covered by systemReserved and kubeReserved.",
			"Requests at the real use and a higher priorityClass keep this pod from being among the first.",
		}
	case verdict.Refused:
		return []string{
			"The kubelet keeps the condition for 5 minutes after the node had enough again (evictionPressureTransitionPeriod). A controller's pod is made anew elsewhere.",
			"Look at who uses the node's memory: memrecon report.",
		}
	case verdict.RuntimeCap:
		return []string{
			"Look for the program's own last words: kubectl logs --previous (heap out of memory, OutOfMemoryError, cannot allocate memory).",
			"Look at its own limit: -Xmx, --max-old-space-size, DOTNET_GCHeapHardLimit, ulimit -v.",
		}
	case verdict.Killed:
		return []string{
			"kubectl describe pod: a failed liveness probe, a deletion whose grace period ran out, a node that shuts down.",
			"On the node: systemd-oomd and earlyoom kill without the kernel's OOM killer (journalctl -u systemd-oomd -u earlyoom).",
		}
	case verdict.Stopped:
		return []string{"As a rule nothing about memory: a deletion, a rollout, a drain or a failed liveness probe (kubectl describe pod)."}
	case verdict.NotOOMKilled:
		return []string{
			"Look for another reason of its end by the exit code, and in kubectl logs --previous.",
			"Runtimes give this reason to any end of a container in which a process has been killed before.",
		}
	case verdict.Unexplained:
		return []string{log}
	}
	return nil
}

// Matches tells that an incident is not from before a time, and of a pod or a container by its name or ID; "" is any.
func (in *Incident) Matches(from time.Time, of string) bool {
	return !in.Time.Before(from) && (of == "" || isOf(&in.Victim, of))
}

// isOf tells that an owner is meant by a name: a pod's, with its namespace before it or a container's behind it, a pod's UID, a
// container's name or the beginning of its ID, a unit, or a path.
func isOf(o *verdict.Owner, name string) bool {
	return slices.Contains([]string{
		o.Pod, o.Namespace + "/" + o.Pod, o.Namespace + "/" + o.Pod + "/" + o.Container, o.Pod + "/" + o.Container, o.Container,
		o.Identity.PodUID, o.Identity.Unit, o.Path,
	}, name) || len(name) >= 12 && strings.HasPrefix(o.Identity.ContainerID, name)
}
