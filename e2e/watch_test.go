package e2e

import (
	"flag"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/memrecon/memrecon/report"
	"github.com/memrecon/memrecon/verdict"
)

var (
	kills    = flag.Int("kills", 5, "how many `kills` the time until they are told is measured over")
	nodeOOMs = flag.Int("node-ooms", 2, "how many `times` the node runs out of memory")
)

// The tests of this file leave an overlay installed: they are the last.

// Every kill in a cgroup of the node is told with the base's rights.
func TestKillsAreTold(t *testing.T) {
	needCluster(t)
	unharmed(t)
	killsAreTold(t, false)
}

// killsAreTold has processes killed, and waits until all are told. How long that takes is measured, from the kernel's own time of the
// kill to that of the line in the container's log.
func killsAreTold(t *testing.T, byLog bool) {
	t.Helper()
	began := latest(t).Time
	killed := killEach(t, *kills)
	var told map[string]time.Time
	eventually(t, time.Minute, "all kills in the log", func() string {
		if told = linesOf(t, killed); len(told) < len(killed) {
			return fmt.Sprintf("of %v, only %v are told", killed, told)
		}
		return ""
	})
	var took []time.Duration
	for path, at := range killed {
		took = append(took, told[path].Sub(at))
	}
	slices.Sort(took)
	t.Logf("from kill to line, of %d: half within %s, 99%% within %s, all within %s", len(took),
		took[len(took)/2].Round(time.Millisecond), took[(len(took)*99-1)/100].Round(time.Millisecond), took[len(took)-1].Round(time.Millisecond))
	found := map[string]bool{}
	for _, in := range incidents(t, "") {
		if _, ok := killed[in.Victim.Path]; !ok || in.Time.Before(began) {
			continue
		}
		found[in.Victim.Path] = true
		if in.Verdict != verdict.CgroupLimit || in.Kills != 1 {
			t.Errorf("%s: %s, %d kills, want %s, 1", in.Victim.Path, in.Verdict, in.Kills, verdict.CgroupLimit)
		}
		if known := in.Kill != nil && in.Kill.VictimComm == "dd"; known != byLog {
			t.Errorf("%s: the kernel's record is known: %t, want %t", in.Victim.Path, known, byLog)
		}
	}
	if len(found) != len(killed) {
		t.Errorf("there are incidents of %v, not of all that were killed in %v", found, killed)
	}
}

// A node that runs out of memory again and again, by a process outside of pods: the agent lives on, tells each time, and misses no
// process that the kernel counted as killed.
func TestNodeOOM(t *testing.T) {
	needCluster(t)
	unharmed(t)
	before, began := nodeKills(t), latest(t).Time
	// They stay until the kills are told: the agent stands still for seconds while the kernel reads its program anew.
	t.Cleanup(func() { lab(t, "node", onHierarchy+"rmdir memrecon-oom-*") })
	for n := range *nodeOOMs {
		// The kernel takes it first, as it has the highest oom_score_adj. A cgroup that is new tells apart who was told.
		lab(t, "node", onHierarchy+fmt.Sprintf(`mkdir memrecon-oom-%[1]d; sleep 2
			sh -c "echo 1000 > /proc/self/oom_score_adj; echo \$\$ > memrecon-oom-%[1]d/cgroup.procs; exec dd if=/dev/zero of=/dev/null bs=4000M count=1"
			sleep 2`, n))
	}
	counted := nodeKills(t) - before
	if counted < *nodeOOMs {
		t.Fatalf("the kernel counted %d kills, want %d at least", counted, *nodeOOMs)
	}
	var found []report.Incident
	eventually(t, time.Minute, "all kills are told", func() string {
		found = slices.DeleteFunc(incidents(t, ""), func(in report.Incident) bool { return in.Time.Before(began) })
		told := 0
		for _, in := range found {
			told += int(in.Kills)
		}
		if told != counted {
			return fmt.Sprintf("%d kills of the %d that the kernel counted", told, counted)
		}
		return ""
	})
	for n := range *nodeOOMs {
		path := fmt.Sprintf("/memrecon-oom-%d", n)
		i := slices.IndexFunc(found, func(in report.Incident) bool { return in.Victim.Path == path })
		if i < 0 {
			t.Errorf("no incident of %s, but of %+v", path, found)
			continue
		}
		t.Logf("%s (%s): %s", found[i].Verdict, found[i].Confidence, found[i].Sentence)
		// On v1 no counter says that it was nobody's limit, and the agent may not have read the node while it was full.
		unsure := found[i].Verdict == verdict.OOMKilled && slices.Contains(found[i].Missing, verdict.MissingCounters)
		if found[i].Verdict != verdict.NodeOOM && !unsure {
			t.Errorf("%s: the verdict is %s, want %s", path, found[i].Verdict, verdict.NodeOOM)
		}
	}
}

// The agent is small after all that has happened to its node.
func TestAgentIsSmall(t *testing.T) {
	needCluster(t)
	metrics, err := agentPath(t, "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^process_resident_memory_bytes (\S+)$`).FindStringSubmatch(metrics)
	if m == nil {
		t.Fatal("no process_resident_memory_bytes")
	}
	resident, err := strconv.ParseFloat(m[1], 64)
	if err != nil {
		t.Fatal(err)
	}
	charge := charged(t)
	t.Logf("%.1f MiB are resident, its cgroup is charged with %.1f MiB", resident/(1<<20), float64(charge)/(1<<20))
	if most := max(resident, float64(charge)); most > 32e6 {
		t.Errorf("%.0f bytes, want 32 MB at most", most)
	}
}

// With the right to read the kernel's log, every kill is told with its record.
func TestKillsAreToldByTheLog(t *testing.T) {
	needCluster(t)
	install(t, "overlays/forensics")
	// A lab's CPU is emulated, and a round that takes 2 ms elsewhere uses up what a tenth of a second is allowed: then nothing is told
	// until the next.
	kubectl(t, "--namespace="+namespace, "set", "resources", "daemonset/memrecon", "--limits=cpu=1", "--requests=cpu=500m")
	rollOut(t)
	killsAreTold(t, true)
}

// With the right to write Events, kubectl describe tells of a pod's end.
func TestEvents(t *testing.T) {
	needCluster(t)
	install(t, "overlays/events")
	startPod(t, "told", "memrecon", limits("100Mi"), "leak", "--rate=50Mi/s", "--max=0")
	eventually(t, time.Minute, "kubectl describe", func() string {
		if described := kubectl(t, "describe", "pod/told", "--namespace=default"); !strings.Contains(described, "limit of 100Mi") {
			return described
		}
		return ""
	})
	t.Log(kubectl(t, "get", "events", "--namespace=default", "--field-selector=involvedObject.name=told,source=memrecon"))
}

// What is no pod takes the node's memory, and the kubelet evicts a pod that is not the reason. It evicts one after another for as long as
// the node is short, so pods of other tests too: this is the last.
func TestInnocentIsEvicted(t *testing.T) {
	needCluster(t)
	startPod(t, "innocent", "workload", "{}", "-anon=10") // which exceeds what it requests, as none of the others does
	kubectl(t, "wait", "--for=condition=Ready", "--namespace=default", "pod/innocent", "--timeout=3m")
	hog := figure(t, "kubelet-available") - 160<<20 // 40 MiB less than is to be available; with less still, the node thrashes
	t.Cleanup(func() { lab(t, "node", onHierarchy+"umount /run/hog; rmdir memrecon-hog") })
	lab(t, "node", onHierarchy+fmt.Sprintf(`mkdir -p memrecon-hog /run/hog
		mount -t tmpfs -o size=100%% hog /run/hog
		sh -c "echo \$\$ > memrecon-hog/cgroup.procs; exec dd if=/dev/zero of=/run/hog/memory bs=1M count=%d"`, hog>>20))
	var in report.Incident
	eventually(t, 2*time.Minute, "an eviction", func() string {
		found := incidents(t, "default/innocent")
		if len(found) == 0 {
			return kubectl(t, "get", "pods", "--namespace=default")
		}
		in = found[0]
		return ""
	})
	t.Logf("%s (%s): %s\n%+v", in.Verdict, in.Confidence, in.Sentence, in.Evidence)
	if in.Verdict != verdict.EvictedInnocent {
		t.Errorf("the verdict is %s, want %s", in.Verdict, verdict.EvictedInnocent)
	}
	if len(in.Users) == 0 || in.Users[0].Path != "/memrecon-hog" {
		t.Errorf("it does not say who drove the node there: %+v", in.Users)
	}
}

// install applies a folder of manifests.
func install(t *testing.T, folder string) {
	t.Helper()
	kubectl(t, "apply", "--kustomize", "../manifests/"+folder)
	rollOut(t)
}

// rollOut waits until the agent that the DaemonSet describes by now has looked at the node.
func rollOut(t *testing.T) {
	t.Helper()
	kubectl(t, "--namespace="+namespace, "rollout", "status", "daemonset/memrecon", "--timeout=5m")
	eventually(t, time.Minute, "one agent", func() string {
		if pods := get[struct{ Items []pod }](t, "pods", "--namespace="+namespace); len(pods.Items) != 1 {
			return fmt.Sprint(len(pods.Items))
		}
		return ""
	})
	whole(t)
}

// onHierarchy begins a line of the node's shell in the root of the memory controller's cgroups.
const onHierarchy = `cd /sys/fs/cgroup; [ ! -d memory ] || cd memory
	`

// killEach has a process killed in each of some cgroups of the node, and returns when, by the kernel's log, or somewhat earlier.
func killEach(t *testing.T, count int) map[string]time.Time {
	t.Helper()
	// Two clocks: that of the log is told beside the other, which is read before.
	out := lab(t, "node", onHierarchy+fmt.Sprintf(`limit=memory.limit_in_bytes; [ -e $limit ] || limit=memory.max
		mkdir memrecon-e2e; [ ! -e memrecon-e2e/cgroup.subtree_control ] || echo +memory > memrecon-e2e/cgroup.subtree_control
		cd memrecon-e2e
		for i in $(seq %[1]d); do mkdir $i; echo 20M > $i/$limit; done
		sleep 3
		for i in $(seq %[1]d); do
			sh -c "echo \$\$ > $i/cgroup.procs; exec dd if=/dev/zero of=/dev/null bs=64M count=1" 2>/dev/null
			stat -c %%y /proc/self/stat
			echo memrecon: this is now > /dev/kmsg
			dmesg -s 100000 | grep -e "Killed process" -e "this is now" | tail -n 2 | cut -c -50
			sleep 0.5
		done
		sleep 2
		rmdir *; cd ..; rmdir memrecon-e2e 2>/dev/null; true`, count))
	found := regexp.MustCompile(`(\d{4}-\d\d-\d\d [\d:.]+) \+0000\n\[ *([\d.]+)\] .*Killed.*\n\[ *([\d.]+)\] .*now`).FindAllStringSubmatch(out, -1)
	if len(found) != count {
		t.Fatalf("%d kills, want %d:\n%s", len(found), count, out)
	}
	killed := map[string]time.Time{}
	for i, m := range found {
		now, err := time.Parse("2006-01-02 15:04:05", m[1])
		if err != nil {
			t.Fatal(err)
		}
		killed[fmt.Sprintf("/memrecon-e2e/%d", i+1)] = now.Add(-seconds(t, m[3]) + seconds(t, m[2]))
	}
	return killed
}

func seconds(t *testing.T, text string) time.Duration {
	t.Helper()
	d, err := time.ParseDuration(text + "s")
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// linesOf are the times of the first lines of the agent's log that tell an incident of each cgroup, as the container runtime has them.
func linesOf(t *testing.T, killed map[string]time.Time) map[string]time.Time {
	t.Helper()
	told := map[string]time.Time{}
	for line := range strings.Lines(kubectl(t, "--namespace="+namespace, "logs", "daemonset/memrecon", "--timestamps", "--tail=-1")) {
		m := regexp.MustCompile(`^(\S+) .*verdict=.* cgroup=(\S+)`).FindStringSubmatch(line)
		if m == nil {
			continue
		}
		at, err := time.Parse(time.RFC3339Nano, m[1])
		if err != nil {
			t.Fatalf("%v in %q", err, line)
		}
		if _, ok := told[m[2]]; !ok && !killed[m[2]].IsZero() && !at.Before(killed[m[2]]) {
			told[m[2]] = at
		}
	}
	return told
}

// nodeKills is the kernel's own count of the processes that it killed for memory.
func nodeKills(t *testing.T) int {
	t.Helper()
	out := lab(t, "node", "grep oom_kill /proc/vmstat")
	n, err := strconv.Atoi(strings.TrimSpace(strings.TrimPrefix(out, "oom_kill")))
	if err != nil {
		t.Fatal(err)
	}
	return n
}
