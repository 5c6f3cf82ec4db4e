package kernellog

import (
	"cmp"
	"slices"

	"github.com/memrecon/memrecon/snapshot"
)

// maxTasks is how many rows of a table are held while it is read; of more, the candidates are.
const maxTasks = 1024

// keptTasks is how many rows of each kind a report keeps.
const keptTasks = 32

// candidates are the rows that tell who used the memory and who could have been killed: the largest, and those that
// oom_score_adj puts first; in the order of the table.
func candidates(tasks []snapshot.Task) []snapshot.Task {
	if len(tasks) <= 2*keptTasks {
		return slices.Clone(tasks)
	}
	pages := func(t *snapshot.Task) uint64 { return t.RSSPages + t.SwapPages }
	order := make([]int, len(tasks))
	for i := range order {
		order[i] = i
	}
	keep := make([]bool, len(tasks))
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(pages(&tasks[b]), pages(&tasks[a])) })
	for _, i := range order[:keptTasks] {
		keep[i] = true
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(tasks[b].OOMScoreAdj, tasks[a].OOMScoreAdj) })
	for _, i := range order[:keptTasks] {
		keep[i] = true
	}
	var kept []snapshot.Task
	for i := range tasks {
		if keep[i] {
			kept = append(kept, tasks[i])
		}
	}
	return kept
}
