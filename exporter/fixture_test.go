package exporter

import (
	"fmt"
	"strings"
	"time"

	"github.com/memrecon/memrecon/collector"
	"github.com/memrecon/memrecon/reconcile"
	"github.com/memrecon/memrecon/snapshot"
)

const mi = 1 << 20

// noon is when the made-up nodes were read.
var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// keyed is a keyed file from name, value, name, value.
func keyed(pairs ...any) snapshot.Stat {
	var names []string
	var values []uint64
	for i := 0; i < len(pairs); i += 2 {
		names, values = append(names, pairs[i].(string)), append(values, uint64(pairs[i+1].(int)))
	}
	return snapshot.Stat{Keys: snapshot.NewKeys(names), Values: values}
}

func of(mib int) snapshot.Value { return snapshot.Of(uint64(mib * mi)) }

// madeNode is a node on cgroup v2 or v1 with pods of two containers each, for what every line of the table needs.
func madeNode(mode snapshot.Mode, pods int) *snapshot.Snapshot {
	stat := keyed("anon", 60*mi, "file", 30*mi, "kernel", 5*mi, "kernel_stack", mi, "pagetables", mi, "sec_pagetables", 0, "percpu", mi,
		"sock", mi, "vmalloc", 0, "shmem", 4*mi, "inactive_anon", 64*mi, "active_anon", 0, "inactive_file", 16*mi, "active_file", 10*mi,
		"unevictable", 0, "slab_reclaimable", mi, "slab_unreclaimable", mi, "swapcached", 0)
	if mode.Files() == snapshot.V1 {
		stat = keyed("cache", 30*mi, "rss", 60*mi, "total_cache", 30*mi, "total_rss", 60*mi, "total_shmem", 4*mi, "total_swap", 3*mi,
			"total_inactive_anon", 64*mi, "total_active_anon", 0, "total_inactive_file", 16*mi, "total_active_file", 10*mi, "total_unevictable", 0)
	}
	s := &snapshot.Snapshot{
		Version: snapshot.Version, Time: noon, Node: "worker-1", Kernel: "6.1.0-40-amd64", Mode: mode,
		Host: snapshot.Host{
			PageSize: 4096, CPUs: 2,
			Meminfo: snapshot.Meminfo{
				MemTotal: of(1000 + 200*pods), MemFree: of(300), MemAvailable: of(500), Buffers: of(10), Cached: of(190 + 60*pods), Shmem: of(20 + 8*pods),
				AnonPages: of(200 + 120*pods), ActiveAnon: of(0), InactiveAnon: of(220 + 128*pods), ActiveFile: of(100 + 20*pods), InactiveFile: of(80 + 32*pods),
				SReclaimable: of(40 + 2*pods), SUnreclaim: of(30 + 2*pods), KernelStack: of(5 + 2*pods), PageTables: of(6 + 2*pods), Percpu: of(4 + 2*pods),
				VmallocUsed: of(12 + 2*pods), Bounce: of(0), HugePagesTotal: of(0), Hugetlb: of(0),
			},
			Zones: []snapshot.Zone{{PerCPUFree: snapshot.Of(512), Low: snapshot.Of(256), High: snapshot.Of(512), Managed: snapshot.Of(1 << 18)}},
		},
		Sweep: snapshot.Sweep{Duration: 1500 * time.Microsecond},
	}
	s.Host.MeminfoBefore = s.Host.Meminfo
	s.Host.MeminfoBefore.MemFree = of(299)
	scale := func(n int) snapshot.Stat {
		scaled := snapshot.Stat{Keys: stat.Keys, Values: make([]uint64, len(stat.Values))}
		for i, v := range stat.Values {
			scaled.Values[i] = v * uint64(n)
		}
		return scaled
	}
	add := func(parent int32, path string, containers int, id snapshot.Identity) int32 {
		c := snapshot.Cgroup{
			Path: path, Parent: parent, Inode: uint64(len(s.Cgroups) + 1), Identity: id, Usage: of(100 * containers), Stat: scale(containers),
			Max: of(128 * containers), Peak: of(120 * containers),
		}
		if mode.Files() == snapshot.V1 {
			c.KernelUsage, c.Failcnt = of(5*containers), snapshot.Of(7)
			c.OOMControl = keyed("oom_kill_disable", 0, "under_oom", 0, "oom_kill", 2)
		} else {
			c.High, c.Low, c.Min, c.Swap = snapshot.Unlimited, snapshot.Of(0), snapshot.Of(0), of(0)
			c.Events = keyed("low", 0, "high", 0, "max", 7, "oom", 2, "oom_kill", 2, "oom_group_kill", 1)
			c.EventsLocal = c.Events
			c.Pressure = snapshot.Pressure{
				Some: snapshot.PressureLine{Known: true, TotalMicros: 2500000}, Full: snapshot.PressureLine{Known: true, TotalMicros: 1250000},
			}
			c.DyingDescendants = snapshot.Of(0)
		}
		s.Cgroups = append(s.Cgroups, c)
		return int32(len(s.Cgroups) - 1)
	}
	root := add(-1, "/", 2*pods, snapshot.Identity{Class: snapshot.ClassRoot})
	if mode == snapshot.V2 {
		s.Cgroups[root] = snapshot.Cgroup{Path: "/", Parent: -1, Identity: snapshot.Identity{Class: snapshot.ClassRoot}}
		s.Host.Pressure = snapshot.Pressure{Some: snapshot.PressureLine{Known: true, TotalMicros: 5000000}, Full: snapshot.PressureLine{Known: true}}
	}
	s.Cgroups[root].Max, s.Cgroups[root].Usage = snapshot.Value{}, snapshot.Value{}
	kubepods := add(root, "/kubepods", 2*pods, snapshot.Identity{Class: snapshot.ClassKubepods})
	s.Cgroups[kubepods].Max = snapshot.Unlimited
	for p := range pods {
		uid := fmt.Sprintf("00000000-0000-4000-8000-%012d", p)
		path := "/kubepods/pod" + uid
		pod := add(kubepods, path, 2, snapshot.Identity{Class: snapshot.ClassPod, QoS: snapshot.Guaranteed, PodUID: uid})
		for c := range 2 {
			id := strings.Repeat(fmt.Sprintf("%08x", 2*p+c), 8)
			add(pod, path+"/"+id, 1, snapshot.Identity{Class: snapshot.ClassContainer, QoS: snapshot.Guaranteed, PodUID: uid, ContainerID: id})
		}
	}
	// Behind its siblings' children in the snapshot, before them by path.
	service := add(root, "/kubepods-log.service", 0, snapshot.Identity{Class: snapshot.ClassService, Unit: "kubepods-log.service"})
	s.Cgroups[service].Usage = of(0)
	s.Sweep.Cgroups = len(s.Cgroups)
	return s
}

// result is a collector's of a snapshot.
func result(snap *snapshot.Snapshot) *collector.Result {
	return &collector.Result{
		Sheet: reconcile.New(snap), Round: 42, Finished: noon,
		Sources: []collector.SourceStatus{{Name: "host", Time: noon, Duration: 300 * time.Microsecond}, {Name: "cgroup", Time: noon, Duration: time.Millisecond}},
	}
}
