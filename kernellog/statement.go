package kernellog

import (
	"bytes"
	"strconv"
	"strings"

	"github.com/memrecon/memrecon/snapshot"
)

// The kernel's words about an OOM kill, from mm/oom_kill.c and mm/memcontrol.c. One kill, on Linux 6:
//
//	labtool invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=975
//	memory: usage 102404kB, limit 102400kB, failcnt 51
//	swap: usage 0kB, limit 9007199254740988kB, failcnt 0
//	[  pid  ]   uid  tgid total_vm      rss pgtables_bytes swapents oom_score_adj name
//	[   1117]     0  1117   341643    25754   290816        0           975 labtool
//	oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=4bce,mems_allowed=0,oom_memcg=/kubepods/burstable/pod30ff,
//	  task_memcg=/kubepods/burstable/pod30ff/4bce,task=labtool,pid=1117,uid=0                                         (one line)
//	Memory cgroup out of memory: Killed process 1117 (labtool) total-vm:1366572kB, anon-rss:98880kB, file-rss:4208kB,
//	  shmem-rss:0kB, UID:0 pgtables:284kB oom_score_adj:975                                                            (one line)
//	Tasks in /kubepods/burstable/pod30ff/4bce are going to be killed due to memory.oom.group set
//	oom_reaper: reaped process 1117 (labtool), now anon-rss:0kB, file-rss:0kB, shmem-rss:0kB
//
// All but the lines "Killed process" and "Tasks in" are rate-limited: ten kills in five seconds. The summary that begins with
// oom-kill came with Linux 5.0. Before it, up to 5.0:
//
//	Task in /docker/81a5 killed as a result of limit of /docker/81a5
//	memory+swap: usage 102400kB, limit 9007199254740988kB, failcnt 0
//	kmem: usage 0kB, limit 9007199254740988kB, failcnt 0
//	Memory cgroup out of memory: Kill process 24572 (java) score 998 or sacrifice child
//	Killed process 28438 (java) total-vm:20255636kB, anon-rss:466160kB, file-rss:13684kB
//
// There the second process may be a child of the first. Red Hat's 3.10 and 4.18 put ", UID 0," behind the name.

// What the kernel says before "Kill process" and "Killed process".
const (
	memcgMessage      = "Memory cgroup out of memory"
	globalMessage     = "Out of memory"
	allocatingMessage = "Out of memory (oom_kill_allocating_task)" // with vm.oom_kill_allocating_task
	cpusetMessage     = "No available memory in cpuset"            // before 2.6.36
	mempolicyMessage  = "No available memory (MPOL_BIND)"          // before 2.6.36
)

// What tells the kernel's lines.
const (
	killed    = "Killed process "
	killing   = "Kill process "
	exiting   = "OOM victim " // "... 12 (java) is already exiting. Skip killing the task": no kill
	invoked   = " invoked oom-killer: "
	summary   = "oom-kill:"
	groupEnd  = " are going to be killed due to memory.oom.group set"
	limitedBy = " killed as a result of limit of "
)

// begins tells whether a text begins as the kernel's lines about OOM kills do, that of invoked apart, which begins with a name.
func begins(text []byte) bool {
	if len(text) == 0 {
		return false
	}
	switch text[0] {
	case 'M', 'O', 'N', 'K':
		_, rest := cutMessage(text)
		return bytes.HasPrefix(rest, []byte(killed)) || bytes.HasPrefix(rest, []byte(killing)) || bytes.HasPrefix(rest, []byte(exiting))
	case 'o':
		return bytes.HasPrefix(text, []byte(summary)) || bytes.HasPrefix(text, []byte("oom_reaper: "))
	case 'T':
		return bytes.HasPrefix(text, []byte("Task in /")) || bytes.HasPrefix(text, []byte("Tasks in /"))
	case 'm', 's', 'k':
		_, _, ok := cutUsage(text)
		return ok
	}
	return false
}

// cutMessage cuts off what the kernel says before "Killed process", and which constraint that tells.
func cutMessage(text []byte) (snapshot.Constraint, []byte) {
	for _, m := range []struct {
		message    string
		constraint snapshot.Constraint
	}{
		{memcgMessage, snapshot.ConstraintMemcg},
		{globalMessage, snapshot.ConstraintGlobal},
		{allocatingMessage, snapshot.ConstraintGlobal},
		{cpusetMessage, snapshot.ConstraintCpuset},
		{mempolicyMessage, snapshot.ConstraintMempolicy},
	} {
		if rest, ok := bytes.CutPrefix(text, []byte(m.message)); ok && bytes.HasPrefix(rest, []byte(": ")) {
			return m.constraint, rest[2:]
		}
	}
	return "", text
}

// victim is a line "Kill process" or "Killed process".
type victim struct {
	constraint snapshot.Constraint
	pid        int
	comm       string
	uid        snapshot.Value
	sizes      sizes
	adj        *int
}

// sizes are a process's in KiB.
type sizes struct {
	total, anon, file, shmem, pgtables snapshot.Value
}

// parseVictim reads one of these lines; which is killing or killed. The line may break off, or another may
// have got into it: what then has no unit behind it is absent. A name may have anything in it, so its end is looked for from
// the end of the line.
func parseVictim(text []byte, which string) (v victim, ok bool) {
	constraint, rest := cutMessage(text)
	rest, ok = bytes.CutPrefix(rest, []byte(which))
	if !ok {
		return victim{}, false
	}
	pid, rest, ok := number(rest)
	if !ok || pid == 0 || pid > 1<<31-1 {
		return victim{}, false
	}
	v.constraint, v.pid = constraint, int(pid)
	if red, isRed := bytes.CutPrefix(rest, []byte(", UID ")); isRed { // Linux 2.6.32: "Killed process 12, UID 0, (java) "
		v.uid, rest = value(red, "")
		rest = bytes.TrimPrefix(rest, []byte{','})
	}
	if rest, ok = bytes.CutPrefix(rest, []byte(" (")); !ok {
		return victim{}, false // the ID may be the beginning of a longer one
	}
	end := bytes.LastIndexByte(rest, ')')
	if which == killing {
		end = max(bytes.LastIndex(rest, []byte(") score ")), bytes.LastIndex(rest, []byte(") sharing same memory")))
	} else if i := max(bytes.LastIndex(rest, []byte(") total-vm:")), bytes.LastIndex(rest, []byte("), UID "))); i >= 0 {
		end = i
	}
	if end < 0 {
		return v, true
	}
	v.comm = name(rest[:end])
	rest = rest[end+1:]
	if v.uid.IsAbsent() {
		v.uid = find(rest, "UID ", "")
	}
	if v.uid.IsAbsent() {
		v.uid = find(rest, "UID:", "")
	}
	v.sizes = sizes{
		total: find(rest, "total-vm:", "kB"), anon: find(rest, "anon-rss:", "kB"), file: find(rest, "file-rss:", "kB"),
		shmem: find(rest, "shmem-rss:", "kB"), pgtables: find(rest, "pgtables:", "kB"),
	}
	if i := bytes.Index(rest, []byte("oom_score_adj:")); i >= 0 {
		if adj, ok := signed(rest[i+len("oom_score_adj:"):]); ok {
			v.adj = &adj
		}
	}
	return v, true
}

// isSharing tells "Kill process 12 (java) sharing same memory": not a kill of its own, vmstat's oom_kill does not count it.
func isSharing(text []byte) bool { return bytes.HasSuffix(text, []byte(") sharing same memory")) }

// find is the number behind a key, absent where there is none with this unit behind it.
func find(text []byte, key, unit string) snapshot.Value {
	i := bytes.Index(text, []byte(key))
	if i < 0 {
		return snapshot.Value{}
	}
	v, _ := value(text[i+len(key):], unit)
	return v
}

// value is the number, with its unit, that text begins with, and the rest.
func value(text []byte, unit string) (snapshot.Value, []byte) {
	n, rest, ok := number(text)
	after, hasUnit := bytes.CutPrefix(rest, []byte(unit))
	if !ok || !hasUnit {
		return snapshot.Value{}, text
	}
	return snapshot.Of(n), after
}

// signed is an oom_score_adj.
func signed(text []byte) (int, bool) {
	digits, negative := bytes.CutPrefix(text, []byte{'-'})
	n, _, ok := number(digits)
	if !ok || n > 1000 {
		return 0, false
	}
	if negative {
		return -int(n), true
	}
	return int(n), true
}

// maxComm bounds a process's name. The kernel's has 15 bytes, kernel threads' have more.
const maxComm = 64

func name(text []byte) string {
	return strings.ToValidUTF8(string(text[:min(len(text), maxComm)]), "\uFFFD")
}

// maxPath bounds a cgroup's path. The kernel itself prints at most a record of some 1000 bytes.
const maxPath = 4096

// path is a cgroup's, "" for what is none.
func path(text []byte) string {
	if !hasByte(text, '/') || len(text) > maxPath {
		return ""
	}
	return strings.ToValidUTF8(string(text), "\uFFFD")
}

// parseSummary reads "oom-kill:" and its keys in any order; a key that is missing leaves its field empty. Where the line breaks
// off, only the beginning of its last path or name may be left, so that one is believed only behind the victim's ID, which the
// kernel prints later.
func parseSummary(text []byte) (s summaryLine, ok bool) {
	rest, ok := bytes.CutPrefix(text, []byte(summary))
	for last := !ok; !last; {
		var item []byte
		item, rest, last = nextItem(rest)
		key, val, _ := bytes.Cut(item, []byte{'='})
		whole := !last || s.pid != 0
		switch string(key) {
		case "constraint":
			s.constraint = constraint(val)
		case "global_oom": // no cgroup's limit, whatever the constraint
			if s.constraint == "" {
				s.constraint = snapshot.ConstraintGlobal
			}
		case "oom_memcg":
			if whole {
				s.oomMemcg = path(val)
			}
		case "task_memcg":
			if whole {
				s.taskMemcg = path(val)
			}
		case "pid":
			if pid, after, ok := number(val); ok && len(after) == 0 && pid > 0 && pid <= 1<<31-1 {
				s.pid = int(pid)
			}
		case "uid":
			s.uid, _ = value(val, "")
		}
	}
	return s, ok
}

// summaryLine is the line that begins with oom-kill.
type summaryLine struct {
	constraint          snapshot.Constraint
	oomMemcg, taskMemcg string
	pid                 int
	uid                 snapshot.Value
}

// nextItem cuts off the item that text begins with, at a comma with a key behind it: names of cgroups and processes may have commas.
func nextItem(text []byte) (item, rest []byte, last bool) {
	text = bytes.TrimLeft(text, " ")
	for i, c := range text {
		if c == ',' && beginsWithKey(bytes.TrimLeft(text[i+1:], " ")) {
			return text[:i], text[i+1:], false
		}
	}
	return text, nil, true
}

func beginsWithKey(text []byte) bool {
	if bytes.HasPrefix(text, []byte("global_oom,")) {
		return true
	}
	key, _, found := bytes.Cut(text[:min(len(text), len("mems_allowed="))], []byte{'='})
	if !found {
		return false
	}
	switch string(key) {
	case "constraint", "nodemask", "cpuset", "mems_allowed", "oom_memcg", "task_memcg", "task", "pid", "uid":
		return true
	}
	return false
}

func constraint(text []byte) snapshot.Constraint {
	switch string(text) {
	case "CONSTRAINT_MEMCG":
		return snapshot.ConstraintMemcg
	case "CONSTRAINT_NONE":
		return snapshot.ConstraintGlobal
	case "CONSTRAINT_CPUSET":
		return snapshot.ConstraintCpuset
	case "CONSTRAINT_MEMORY_POLICY":
		return snapshot.ConstraintMempolicy
	}
	return ""
}

// limit is what a cgroup uses of a limit, in KiB.
type limit struct{ usage, max snapshot.Value }

// The limits that a report has of the cgroup whose limit was hit.
const (
	limitMemory = iota
	limitMemsw  // v1
	limitKernel // v1
	limitSwap   // v2
	numLimits
)

// cutUsage tells the lines of these limits.
func cutUsage(text []byte) (kind int, rest []byte, ok bool) {
	for kind, name := range [numLimits]string{"memory: usage ", "memory+swap: usage ", "kmem: usage ", "swap: usage "} {
		if rest, ok := bytes.CutPrefix(text, []byte(name)); ok {
			return kind, rest, true
		}
	}
	return 0, text, false
}

// parseUsage reads "102404kB, limit 102400kB, failcnt 51". No limit is a number that depends on the page size and the kernel,
// always some 2^53 KiB or more.
func parseUsage(rest []byte) (l limit) {
	l.usage, rest = value(rest, "kB")
	l.max = find(rest, "limit ", "kB")
	if n, ok := l.max.Get(); ok && n >= 1<<53-1024 {
		l.max = snapshot.Unlimited
	}
	return l
}

// column is what a column of the table of tasks holds.
type column int

const (
	columnOther column = iota
	columnUID
	columnTGID
	columnTotalVM
	columnRSS
	columnPgtables
	columnSwap
	columnAdj
)

// parseHeader reads the table's first line into its columns: they have changed over the years (nr_ptes, nr_pmds,
// pgtables_bytes; rss_anon, rss_file and rss_shmem came with Linux 6.8).
func parseHeader(text []byte) []column {
	_, names, ok := bytes.Cut(text, []byte{']'})
	if !ok || !bytes.HasPrefix(bytes.TrimLeft(text, "[ "), []byte("pid")) || !bytes.Contains(names, []byte("total_vm")) {
		return nil
	}
	var columns []column
	for _, name := range strings.Fields(string(names)) {
		switch name {
		case "uid":
			columns = append(columns, columnUID)
		case "tgid":
			columns = append(columns, columnTGID)
		case "total_vm":
			columns = append(columns, columnTotalVM)
		case "rss":
			columns = append(columns, columnRSS)
		case "pgtables_bytes":
			columns = append(columns, columnPgtables)
		case "swapents":
			columns = append(columns, columnSwap)
		case "oom_score_adj":
			columns = append(columns, columnAdj)
		case "name":
			return columns
		default:
			columns = append(columns, columnOther)
		}
	}
	return nil // it breaks off
}

// parseTask reads a row of the table; what does not fit the columns is none.
func parseTask(text []byte, columns []column) (t snapshot.Task, ok bool) {
	if !hasByte(text, '[') {
		return t, false
	}
	pid, rest, ok := number(bytes.TrimLeft(text[1:], " "))
	if rest, isRow := bytes.CutPrefix(rest, []byte{']'}); ok && isRow && pid > 0 && pid <= 1<<31-1 {
		t.PID = int(pid)
		for _, c := range columns {
			rest = bytes.TrimLeft(rest, " ")
			if c == columnAdj {
				if t.OOMScoreAdj, ok = signed(rest); !ok {
					return t, false
				}
				rest = bytes.TrimLeft(rest, "-0123456789")
				continue
			}
			var n uint64
			if n, rest, ok = number(bytes.TrimPrefix(rest, []byte{'-'})); !ok { // counters may be a little below zero
				return t, false
			}
			switch c {
			case columnUID:
				t.UID = uint32(n)
			case columnTGID:
				t.TGID = int(n)
			case columnTotalVM:
				t.TotalVMPages = n
			case columnRSS:
				t.RSSPages = n
			case columnPgtables:
				t.PgtablesBytes = snapshot.Of(n)
			case columnSwap:
				t.SwapPages = n
			}
		}
		if !hasByte(rest, ' ') {
			return t, false
		}
		t.Comm = name(rest[1:])
		return t, true
	}
	return t, false
}

// parseReaped is the victim of "oom_reaper: reaped process 12 (java), now anon-rss:0kB, ...".
func parseReaped(text []byte) (pid int, ok bool) {
	rest, ok := bytes.CutPrefix(text, []byte("oom_reaper: reaped process "))
	if !ok {
		return 0, false
	}
	digits, _, ok := bytes.Cut(rest, []byte{' '})
	pid, err := strconv.Atoi(string(digits))
	return pid, ok && err == nil && pid > 0
}
