package report

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/memrecon/memrecon/snapshot"
)

// KillsSchema names the form of a KillsDocument; docs/kills.schema.json describes it.
const KillsSchema = "memrecon.kills/v1"

// KillsDocument is what a kernel's log says about OOM kills, as JSON and YAML have it. What the log does not say is null.
type KillsDocument struct {
	Schema string `json:"schema"`
	Source string `json:"source"`
	// Lines is how many lines of it were read.
	Lines       uint64      `json:"lines"`
	Kills       []Kill      `json:"kills"`
	Unexplained Unexplained `json:"unexplained"`
	Errors      []Error     `json:"errors"`
}

// Unexplained counts what the log has about OOM kills that is no kill of its own, see snapshot.Unexplained.
type Unexplained struct {
	Reports uint64 `json:"reports"`
	Damaged uint64 `json:"damaged_lines"`
	Quoted  uint64 `json:"quoted_lines"`
	Cut     uint64 `json:"cut_lines"`
}

// Kill is a snapshot.Kill as documents have it. All sizes are in KiB, as in the log; a limit that does not limit is null.
type Kill struct {
	Time          *time.Time           `json:"time"`
	Stamp         *string              `json:"stamp"`
	BootSeconds   *float64             `json:"boot_seconds"`
	Host          *string              `json:"host"`
	Constraint    *snapshot.Constraint `json:"constraint"`
	VictimPID     int                  `json:"victim_pid"`
	VictimComm    *string              `json:"victim_comm"`
	InvokerComm   *string              `json:"invoker_comm"`
	UID           *uint64              `json:"uid"`
	TotalVMKB     *uint64              `json:"total_vm_kb"`
	AnonRSSKB     *uint64              `json:"anon_rss_kb"`
	FileRSSKB     *uint64              `json:"file_rss_kb"`
	ShmemRSSKB    *uint64              `json:"shmem_rss_kb"`
	PgtablesKB    *uint64              `json:"pgtables_kb"`
	OOMScoreAdj   *int                 `json:"oom_score_adj"`
	OOMMemcg      *string              `json:"oom_memcg"`
	TaskMemcg     *string              `json:"task_memcg"`
	GroupMemcg    *string              `json:"group_memcg"`
	PodUID        *string              `json:"pod_uid"`
	ContainerID   *string              `json:"container_id"`
	Namespace     *string              `json:"namespace"`
	Pod           *string              `json:"pod"`
	Container     *string              `json:"container"`
	UsageKB       *uint64              `json:"usage_kb"`
	LimitKB       *uint64              `json:"limit_kb"`
	MemswUsageKB  *uint64              `json:"memsw_usage_kb"`
	MemswLimitKB  *uint64              `json:"memsw_limit_kb"`
	KernelUsageKB *uint64              `json:"kernel_usage_kb"`
	KernelLimitKB *uint64              `json:"kernel_limit_kb"`
	SwapUsageKB   *uint64              `json:"swap_usage_kb"`
	SwapLimitKB   *uint64              `json:"swap_limit_kb"`
	Reaped        bool                 `json:"reaped"`
	// Tasks are the largest of the TaskCount processes in the kernel's table.
	Tasks     []snapshot.Task `json:"tasks"`
	TaskCount int             `json:"task_count"`
}

// NewKills is the document of a reading. Pods give the victims their names; they may be nil.
func NewKills(log *snapshot.KernelLog, pods []snapshot.Pod, errs []snapshot.SourceError) *KillsDocument {
	d := &KillsDocument{
		Schema: KillsSchema, Source: log.Source, Lines: log.Lines, Unexplained: Unexplained(log.Unexplained), Kills: []Kill{}, Errors: []Error{},
	}
	known := namesOf(pods)
	for i := range log.Kills {
		d.Kills = append(d.Kills, newKill(&log.Kills[i], known))
	}
	for _, e := range errs {
		d.Errors = append(d.Errors, Error(e))
	}
	return d
}

func newKill(k *snapshot.Kill, known names) Kill {
	out := Kill{
		Stamp: word(k.Stamp), Host: word(k.Host), Constraint: word(k.Constraint),
		VictimPID: k.VictimPID, VictimComm: word(k.VictimComm), InvokerComm: word(k.InvokerComm), UID: number(k.UID),
		TotalVMKB: number(k.TotalVMKB), AnonRSSKB: number(k.AnonRSSKB), FileRSSKB: number(k.FileRSSKB), ShmemRSSKB: number(k.ShmemRSSKB),
		PgtablesKB: number(k.PgtablesKB), OOMScoreAdj: k.OOMScoreAdj,
		OOMMemcg: word(k.OOMMemcg), TaskMemcg: word(k.TaskMemcg), GroupMemcg: word(k.GroupMemcg),
		PodUID: word(k.Victim.PodUID), ContainerID: word(k.Victim.ContainerID),
		UsageKB: number(k.UsageKB), LimitKB: number(k.LimitKB), MemswUsageKB: number(k.MemswUsageKB), MemswLimitKB: number(k.MemswLimitKB),
		KernelUsageKB: number(k.KernelUsageKB), KernelLimitKB: number(k.KernelLimitKB),
		SwapUsageKB: number(k.SwapUsageKB), SwapLimitKB: number(k.SwapLimitKB),
		Reaped: k.Reaped, Tasks: largestTasks(k.Tasks), TaskCount: k.TaskCount,
	}
	if !k.Time.IsZero() {
		out.Time = &k.Time
	}
	if micros, ok := k.BootMicros.Get(); ok {
		seconds := float64(micros) / 1e6
		out.BootSeconds = &seconds
	}
	if pod, container := known.find(k.Victim); pod != nil {
		out.Namespace, out.Pod = word(pod.Namespace), word(pod.Name)
		if container != nil {
			out.Container = word(container.Name)
		}
	}
	return out
}

// word is null for an empty string.
func word[S ~string](s S) *S {
	if s == "" {
		return nil
	}
	return &s
}

// mostTasks is how many processes of the kernel's table are shown.
const mostTasks = 10

func largestTasks(tasks []snapshot.Task) []snapshot.Task {
	largest := slices.Clone(tasks)
	slices.SortStableFunc(largest, func(a, b snapshot.Task) int { return cmp.Compare(b.RSSPages+b.SwapPages, a.RSSPages+a.SwapPages) })
	return append([]snapshot.Task{}, largest[:min(len(largest), mostTasks)]...)
}

// names are the pods by the UID in the paths of their cgroups.
type names map[string]*snapshot.Pod

func namesOf(pods []snapshot.Pod) names {
	known := make(names, len(pods))
	for i := range pods {
		known[pods[i].UID] = &pods[i]
	}
	return known
}

// find is the pod and the container that a cgroup is of, nil for what is not known. A container that was killed has been started
// again as a rule, under a new ID, by the time the pods are asked for.
func (n names) find(id snapshot.Identity) (*snapshot.Pod, *snapshot.Container) {
	pod := n[id.PodUID]
	if pod == nil || id.ContainerID == "" {
		return pod, nil
	}
	for i := range pod.Containers {
		if c := &pod.Containers[i]; c.ID == id.ContainerID || c.Terminated.ContainerID == id.ContainerID {
			return pod, c
		}
	}
	return pod, nil
}

// KillsText writes the kills for a person, each as a paragraph: what was killed, which limit was hit, how large the victim was,
// what that means; then what was read and what of it was not understood.
func KillsText(w io.Writer, log *snapshot.KernelLog, pods []snapshot.Pod, errs []snapshot.SourceError, o Options) error {
	t := &text{o: o}
	known := namesOf(pods)
	for i := range log.Kills {
		t.kill(&log.Kills[i], known)
	}
	t.read(log)
	t.errors(errs)
	_, err := io.WriteString(w, t.b.String())
	return err
}

func (t *text) kill(k *snapshot.Kill, known names) {
	first := fmt.Sprintf("%s was killed", victim(k))
	if owner := known.name(k.Victim, k.TaskMemcg); owner != "" {
		first += ", in " + owner
	}
	if k.Host != "" {
		first += ", on " + k.Host
	}
	if when := when(k); when != "" {
		first = when + ": " + first
	}
	t.printf("%s\n", t.paint(red, wrap("", "  ", first+".")))
	for _, sentence := range []string{limitHit(k, known), size(k), candidates(k), meaning(k)} {
		if sentence != "" {
			t.wrapped("  ", "    ", sentence)
		}
	}
	t.printf("\n")
}

func victim(k *snapshot.Kill) string {
	if k.VictimComm == "" {
		return fmt.Sprintf("Process %d", k.VictimPID)
	}
	return fmt.Sprintf("%s (process %d)", k.VictimComm, k.VictimPID)
}

func when(k *snapshot.Kill) string {
	boot := ""
	if micros, ok := k.BootMicros.Get(); ok {
		boot = fmt.Sprintf("%.3f s after boot", float64(micros)/1e6)
	}
	switch {
	case !k.Time.IsZero():
		return k.Time.UTC().Format("2006-01-02 15:04:05 UTC")
	case k.Stamp != "":
		return k.Stamp
	}
	return boot
}

// name says whose a cgroup is: by the names of its pod and container where they are known, else by their IDs.
func (n names) name(id snapshot.Identity, path string) string {
	pod, container := n.find(id)
	podName := "pod " + id.PodUID
	if pod != nil {
		podName = "pod " + pod.Namespace + "/" + pod.Name
	}
	switch {
	case id.ContainerID != "" && id.PodUID != "" && container != nil:
		return "container " + container.Name + " of " + podName
	case id.ContainerID != "" && id.PodUID != "":
		return "container " + short(id.ContainerID) + " of " + podName
	case id.ContainerID != "":
		return "container " + short(id.ContainerID)
	case id.PodUID != "":
		return podName
	case id.Unit != "":
		return id.Unit
	case path != "":
		return "cgroup " + path
	}
	return ""
}

// short is as much of a container's ID as runtimes print.
func short(id string) string { return id[:min(len(id), 12)] }

// limitHit says which limit was hit, and how much of it was used.
func limitHit(k *snapshot.Kill, known names) string {
	switch k.Constraint {
	case snapshot.ConstraintGlobal:
		return "The node itself was out of memory, no cgroup's limit was hit."
	case snapshot.ConstraintCpuset:
		return "The NUMA nodes that its cpuset allows were out of memory; others may have had some."
	case snapshot.ConstraintMempolicy:
		return "The NUMA nodes that its memory policy binds it to were out of memory; others may have had some."
	case "":
		return "The log does not say whether a cgroup's limit was hit or the node was out of memory: the lines before the kill are missing."
	}
	var who string
	switch owner := known.name(k.Limited, k.OOMMemcg); {
	case k.OOMMemcg == "":
		return "A cgroup's memory limit was hit; the log does not say whose: the kernel leaves out its report where kills follow each other fast."
	case k.Limited.Class == snapshot.ClassKubepods:
		who = "All pods together hit the limit that the kubelet gives them"
	case k.Limited.Class == snapshot.ClassQoS:
		who = fmt.Sprintf("All %s pods together hit their limit", k.Limited.QoS)
	case k.OOMMemcg == k.TaskMemcg:
		who = "It hit the limit of its own cgroup"
	default:
		who = strings.ToUpper(owner[:1]) + owner[1:] + " hit its limit"
	}
	return who + used(k) + "."
}

// used is how much of the limit was used, of the one that was hit where there are several.
func used(k *snapshot.Kill) string {
	for _, l := range []struct {
		usage, limit snapshot.Value
		words        string
	}{
		{k.UsageKB, k.LimitKB, ""},
		{k.MemswUsageKB, k.MemswLimitKB, " of memory and swap together"},
		{k.KernelUsageKB, k.KernelLimitKB, " of kernel memory"},
	} {
		usage, ok := l.usage.Get()
		limit, limited := l.limit.Get()
		// The kernel prints both some time after the charge failed, so a little may be free again.
		if ok && limited && usage >= limit-limit/100 {
			return fmt.Sprintf("%s: %s of %s were used", l.words, kib(usage), kib(limit))
		}
	}
	if limit, ok := k.LimitKB.Get(); ok {
		return ": " + kib(limit)
	}
	return ""
}

// size says how large the victim was, and what was killed with it.
func size(k *snapshot.Kill) string {
	words := anatomy(k)
	if k.GroupMemcg != "" {
		words += "; with it all processes of its container or cgroup were killed (memory.oom.group)"
	}
	return words + "."
}

// anatomy says how large the victim was.
func anatomy(k *snapshot.Kill) string {
	var parts []string
	for _, part := range []struct {
		value snapshot.Value
		words string
	}{
		{k.AnonRSSKB, "anonymous memory"}, {k.FileRSSKB, "of files"}, {k.ShmemRSSKB, "shared memory"}, {k.PgtablesKB, "page tables"},
	} {
		if n, ok := part.value.Get(); ok && n > 0 {
			parts = append(parts, kib(n)+" "+part.words)
		}
	}
	words := "The log does not say how large it was"
	if len(parts) > 0 {
		words = "It had " + strings.Join(parts, ", ")
	}
	if k.OOMScoreAdj != nil {
		words += fmt.Sprintf("; its oom_score_adj was %d", *k.OOMScoreAdj)
	}
	if k.InvokerComm != "" && k.InvokerComm != k.VictimComm {
		words += fmt.Sprintf("; the memory was asked for by %s", k.InvokerComm)
	}
	return words
}

// candidates names the largest processes that could have been killed.
func candidates(k *snapshot.Kill) string {
	page := pageKB(k)
	if len(k.Tasks) < 2 || page == 0 {
		return ""
	}
	var parts []string
	for _, task := range largestTasks(k.Tasks)[:min(len(k.Tasks), 4)] {
		parts = append(parts, fmt.Sprintf("%s (%d) %s, adj %d", task.Comm, task.PID, kib((task.RSSPages+task.SwapPages)*page), task.OOMScoreAdj))
	}
	return fmt.Sprintf("Largest of the %d candidates: %s.", k.TaskCount, strings.Join(parts, "; "))
}

// pageKB is the size of a page in KiB, told by the victim's virtual size, which the table has in pages; 0 where it is not.
func pageKB(k *snapshot.Kill) uint64 {
	total, _ := k.TotalVMKB.Get()
	for _, task := range k.Tasks {
		if task.PID != k.VictimPID || task.TotalVMPages == 0 {
			continue
		}
		if page := (total + task.TotalVMPages/2) / task.TotalVMPages; page == 4 || page == 16 || page == 64 {
			return page
		}
	}
	return 0
}

// meaning says what the kill means and what to look at.
func meaning(k *snapshot.Kill) string {
	switch k.Constraint {
	case snapshot.ConstraintGlobal:
		return "Look for who used the node's memory, which need not be the victim: the kernel takes the largest after adding oom_score_adj, " +
			"and pods without requests have 1000. Requests near the real use, and larger system-reserved and eviction-hard, keep a node from it."
	case snapshot.ConstraintCpuset, snapshot.ConstraintMempolicy:
		return "Give it more NUMA nodes, or memory from them to fewer processes."
	case "":
		return ""
	}
	switch {
	case k.OOMMemcg == "":
		return ""
	case k.Limited.Class == snapshot.ClassKubepods || k.Limited.Class == snapshot.ClassQoS:
		return "The pods used memory faster than the kubelet evicts, which looks every 10 s; the victim need not be who did it. " +
			"Set requests and limits near the real use."
	case k.Limited.Class == snapshot.ClassPod && k.Victim.ContainerID != "":
		return "A pod's limit is that of its containers together, with one container the container's own; tmpfs volumes count too. " +
			"If it needs this much, raise the container's limit; if not, look for what grows."
	case k.OOMMemcg == k.TaskMemcg || k.Victim.ContainerID != "":
		return "If it needs this much, raise the limit; if not, look for what grows. Page cache is no reason: the kernel drops it first."
	}
	return "If they need this much, raise the limit; if not, look for what grows."
}

// read says what was read, so that it can be believed that there were no kills, and what was not understood.
func (t *text) read(log *snapshot.KernelLog) {
	kills := fmt.Sprintf("%d OOM kills", len(log.Kills))
	switch len(log.Kills) {
	case 0:
		kills = "no OOM kill"
	case 1:
		kills = "1 OOM kill"
	}
	t.wrapped("", "", fmt.Sprintf("%d lines of %s read: %s.", log.Lines, log.Source, kills))
	u := &log.Unexplained
	for _, left := range []struct {
		count uint64
		words string
	}{
		{u.Reports, "Reports of the OOM killer without a kill behind them (it found nothing to kill, or the log has lost the line)"},
		{u.Damaged, "Lines that begin as a kill's and do not say of what"},
		{u.Quoted, "Lines in which another program repeats one of the kernel's, which are no kills"},
		{u.Cut, "Lines so long that their ends were not looked at"},
	} {
		if left.count > 0 {
			t.wrapped("  ", "    ", fmt.Sprintf("%s: %d.", left.words, left.count))
		}
	}
}

func kib(n uint64) string {
	if n >= 1<<53 {
		return fmt.Sprintf("%d KiB", n)
	}
	return Size(int64(n) << 10)
}
