package reconcile

import "github.com/memrecon/memrecon/snapshot"

// Limit is a row's own hard limit in bytes: unlimited, or absent where it is not known or the owner is no cgroup.
func (s *Sheet) Limit(row int) snapshot.Value {
	if r := &s.Rows[row]; r.Cgroup >= 0 {
		return s.snap.Cgroups[r.Cgroup].Max
	}
	return snapshot.Value{}
}

// ClosestToLimit is the row that stands closest to its own hard limit, and the share of the limit that dropping inactive page
// cache would not free; false where no row that could be read has a limit.
func (s *Sheet) ClosestToLimit() (row int, share float64, ok bool) {
	for i := range s.Rows {
		r := &s.Rows[i]
		limit, limited := s.Limit(i).Get()
		if !limited || limit == 0 || r.Known&KnownStat == 0 {
			continue
		}
		if n := float64(r.UsageBytes()-r.All[FileInactive]) / float64(limit); !ok || n > share {
			row, share, ok = i, n, true
		}
	}
	return row, share, ok
}

// Kills is how many OOM kills a cgroup's own counter has.
type Kills struct {
	Row   int
	Count int64
}

// OOMKills is how many OOM kills the kernel has counted since it booted (/proc/vmstat oom_kill, Linux 4.13), and in which
// cgroups, as far as those still are. One process can count twice, where it dies with its whole cgroup (memory.oom.group).
func (s *Sheet) OOMKills() (total uint64, cgroups []Kills) {
	total, _ = s.snap.Host.Vmstat.Get("oom_kill")
	if total == 0 {
		return 0, nil
	}
	own := make([]int64, len(s.snap.Cgroups))
	for i := range s.snap.Cgroups {
		c := &s.snap.Cgroups[i]
		if n, ok := c.Events.Get("oom_kill"); ok { // v2 counts the descendants' as well
			own[i] += int64(n)
			if c.Parent >= 0 {
				own[c.Parent] -= int64(n)
			}
		} else if n, ok := c.OOMControl.Get("oom_kill"); ok {
			own[i] = int64(n)
		}
	}
	for i, n := range own {
		if n > 0 && i > 0 {
			cgroups = append(cgroups, Kills{Row: i, Count: n})
		}
	}
	return total, cgroups
}
