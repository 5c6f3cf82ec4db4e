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

// IncidentsSchema names the form of an IncidentsDocument.
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
	if in.Why != "" {
		t.wrapped("  ", "    ", in.Why)
	}
	if len(in.Users) > 0 {
		t.wrapped("  ", "    ", users(in.Users))
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
	verdict.MissingKernelLog: "Which process it was, how large, and who else could have been chosen stand in the kernel's log, which memrecon may not read " +
		"here, or which had lost the lines: the overlay forensics gives the right.",
	verdict.MissingCounters: "The kernel does not count on cgroup v1 whose limit was hit: it is told by who was at its limit.",
	verdict.MissingPods:     "The kubelet has not said whose pod that is.",
}

// Sentence is an incident in one sentence.
func Sentence(in *verdict.Incident) string {
	who := ownerName(&in.Victim)
	if who == "" {
		who = "an unknown cgroup"
	}
	limit, usage := amount(in.Limit), amount(in.VictimUsage)
	var s string
	switch in.Verdict {
	case verdict.ContainerLimit:
		s = fmt.Sprintf("the kernel killed %s: the container reached its own memory limit%s", victimWords(in), of(limit))
	case verdict.PodLimit:
		s = fmt.Sprintf("the kernel killed %s: %s reached its memory limit%s, the sum of its containers' limits", victimWords(in), ownerName(&in.Limited), of(limit))
	case verdict.QoSLimit:
		s = fmt.Sprintf("the kernel killed %s: all %s pods together reached their memory limit%s", victimWords(in), in.Limited.Identity.QoS, of(limit))
	case verdict.KubepodsLimit:
		s = fmt.Sprintf("the kernel killed %s: all pods of the node together reached the limit that the kubelet gives them%s, faster than it evicts",
			victimWords(in), of(limit))
	case verdict.CgroupLimit:
		s = fmt.Sprintf("the kernel killed %s: %s reached its memory limit%s", victimWords(in), ownerName(&in.Limited), of(limit))
	case verdict.NodeOOM:
		s = fmt.Sprintf("the kernel killed %s: the node itself was out of memory%s", victimWords(in), of(limit))
	case verdict.NUMAOOM:
		s = fmt.Sprintf("the kernel killed %s: the NUMA nodes that it may use were out of memory", victimWords(in))
	case verdict.OOMKilled:
		s = fmt.Sprintf("the kernel's OOM killer killed %s; whose limit was hit is not known", victimWords(in))
	case verdict.Evicted:
		s = "the kubelet evicted the pod: " + low(in)
	case verdict.EvictedInnocent:
		s = "the kubelet evicted the pod, though the node would have been short without it: " + low(in)
	case verdict.Refused:
		s = "the kubelet refused to start the pod, as the node was under MemoryPressure"
	case verdict.RuntimeCap:
		s = fmt.Sprintf("the container ended itself%s%s; the kernel killed nobody: its runtime's own cap, or a crash", exitWords(in), whenUsing(usage, amount(in.VictimLimit)))
	case verdict.Killed:
		s = fmt.Sprintf("the container was ended by SIGKILL%s, and not by the kernel's OOM killer, which counted no kill then", exitWords(in))
		if in.Confidence == verdict.Possible {
			s = fmt.Sprintf("the container was ended by SIGKILL%s; by whom is not known", exitWords(in))
		}
	case verdict.Stopped:
		s = fmt.Sprintf("the container was told to stop (SIGTERM) and did%s", exitWords(in))
	case verdict.NotOOMKilled:
		s = "Kubernetes shows the container as OOMKilled, but the kernel counted no kill then: the word is stale or wrong"
	case verdict.Unexplained:
		return fmt.Sprintf("the kernel counted %s that nothing else tells of: a cgroup that was gone before it could be read, as a rule.", processes(in.Kills))
	}
	switch {
	case in.Effect == verdict.ProcessOnly:
		s += "; the others of its cgroup go on"
	case in.Effect == verdict.GroupEnded:
		s += "; all processes of the cgroup were killed with it"
	}
	return who + ": " + s + "."
}

// low says how low the node's memory was, and what the pod used, as the kubelet saw it.
func low(in *verdict.Incident) string {
	words := "the node was low on memory"
	e := in.Eviction
	if e == nil {
		return words
	}
	if available, threshold := amount(e.Available), amount(e.Threshold); available != "" && threshold != "" {
		words += fmt.Sprintf(", %s available of the %s that are to be left", available, threshold)
	}
	for _, over := range append([]snapshot.OverRequest{e.Pod}, e.Containers...) {
		if usage := amount(over.Usage); usage != "" {
			words += fmt.Sprintf("; %s used %s and requests %s", over.Name, usage, amount(over.Request))
		}
	}
	if n, ok := in.VictimCache.Get(); ok && n >= 1<<20 {
		words += fmt.Sprintf("; of what it used, %s were page cache", Size(int64(n)))
	}
	return words
}

func victimWords(in *verdict.Incident) string {
	switch {
	case in.Comm != "" && in.Kills > 1:
		return fmt.Sprintf("%s (process %d) and %d more", in.Comm, in.PID, in.Kills-1)
	case in.Comm != "":
		return fmt.Sprintf("%s (process %d)", in.Comm, in.PID)
	}
	return processes(in.Kills)
}

func processes(n uint64) string {
	if n == 1 {
		return "a process"
	}
	return fmt.Sprintf("%d processes", n)
}

func exitWords(in *verdict.Incident) string {
	if in.Termination == nil {
		return ""
	}
	return fmt.Sprintf(" (exit code %d)", in.Termination.ExitCode)
}

func of(limit string) string {
	if limit == "" {
		return ""
	}
	return " of " + limit
}

func whenUsing(usage, limit string) string {
	if usage == "" || limit == "" {
		return ""
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

// why says why the kernel took that process, where others could have been.
func why(in *verdict.Incident) string {
	if in.Kill == nil {
		return ""
	}
	words := size(in.Kill)
	if len(in.Candidates) < 2 {
		return words
	}
	var others []string
	var chosen *verdict.Candidate
	for i := range in.Candidates {
		c := &in.Candidates[i]
		if c.Chosen {
			chosen = c
			continue
		}
		others = append(others, fmt.Sprintf("%s (%d) %d", c.Comm, c.PID, c.Badness))
	}
	if chosen == nil {
		return words
	}
	return fmt.Sprintf("%s The kernel takes whom its badness is highest of, in pages, oom_score_adj counted in: here %d; %s.", words, chosen.Badness, strings.Join(others, ", "))
}

func users(list []verdict.User) string {
	var parts []string
	for i := range list {
		u := &list[i]
		part := ownerName(&u.Owner) + " " + Size(int64(u.WorkingSet))
		if n, ok := u.Request.Get(); ok {
			part += " (requests " + Size(int64(n)) + ")"
		} else if u.Identity.PodUID != "" {
			part += " (requests nothing)"
		}
		parts = append(parts, part)
	}
	return "Who used most then, as working sets: " + strings.Join(parts, "; ") + "."
}

// advice is what to do about it.
func advice(in *verdict.Incident) []string {
	const grows = "If it keeps growing at a constant load, it leaks: look at what it consists of (memrecon report; anonymous memory is the program's own)."
	switch in.Verdict {
	case verdict.ContainerLimit:
		return []string{
			"If it needs this much, raise the container's resources.limits.memory, and its request with it. Page cache is no reason for a kill: the kernel drops it first.",
			grows,
		}
	case verdict.PodLimit:
		return []string{
			"Raise the limits of the containers, whose sum the pod's is; tmpfs volumes (emptyDir with medium Memory) and the sandbox count in it too.",
			grows,
		}
	case verdict.QoSLimit, verdict.KubepodsLimit:
		return []string{
			"Give what grew a limit, and requests near its real use, so that fewer pods are put on the node and the kubelet evicts the right one.",
			"The kubelet looks every 10 s: a larger eviction-hard memory.available gives it more room before the kernel has to act.",
		}
	case verdict.NodeOOM:
		return []string{
			"Look for who used the memory, which need not be the victim: pods without limits, or what stands outside pods.",
			"Reserve what the system really uses (system-reserved, kube-reserved), and leave room with eviction-hard, so that the kubelet acts before the kernel.",
		}
	case verdict.CgroupLimit:
		return []string{"If it needs this much, raise its limit (systemd: MemoryMax=); else look for what grows."}
	case verdict.NUMAOOM:
		return []string{"Allow it more NUMA nodes, or move others away from these: numastat -m shows who has what."}
	case verdict.OOMKilled:
		return []string{"Let memrecon read the kernel's log (overlay forensics), which names the limit; or dmesg | memrecon explain --kernel-log - on the node."}
	case verdict.Evicted:
		return []string{
			"Request what it really uses: pods that use more than they request are evicted first.",
			"If the node is low again and again, look at who uses it: memrecon report.",
		}
	case verdict.EvictedInnocent:
		return []string{
			"Look at who used the node's memory: what stands outside pods is never evicted, and system-reserved should cover it.",
			"A higher priority and requests at the real use keep it from being among the first.",
		}
	case verdict.Refused:
		return []string{"The pod is made anew elsewhere if it has a controller. The kubelet holds MemoryPressure for 5 minutes: look at who uses the node's memory (memrecon report)."}
	case verdict.RuntimeCap:
		return []string{
			"Look into the container's log for the runtime's own words (heap out of memory, OutOfMemoryError, cannot allocate), and at its cap: -Xmx, --max-old-space-size, GOMEMLIMIT, ulimit.",
		}
	case verdict.Killed:
		return []string{
			"Look at kubectl describe pod for a failed liveness probe, a deletion whose grace period ran out, or a node shutting down; and on the node for systemd-oomd and earlyoom, which kill without the kernel's OOM killer.",
		}
	case verdict.Stopped:
		return []string{"Nothing about memory: a deletion, an update, an eviction, or a failed liveness probe asked it to end (kubectl describe pod)."}
	case verdict.NotOOMKilled:
		return []string{"Look for another end: the runtime gives this word to any exit of a cgroup that has seen a kill before, as of a child of the container."}
	case verdict.Unexplained:
		return []string{"Let memrecon read the kernel's log (overlay forensics): it names each victim."}
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
