package kubelet

import (
	"encoding/json"
	"errors"
	"io"
	"time"

	"github.com/memrecon/memrecon/snapshot"
)

// usageJSON is what NodeStats, PodStats and ContainerStats of k8s.io/kubelet/pkg/apis/stats/v1alpha1 have in common:
//
//	"memory": {"time": "2026-11-23T18:20:21Z", "availableBytes": 1757347840, "usageBytes": 487784448,
//	           "workingSetBytes": 317288448, "rssBytes": 246378496, "pageFaults": 123, "majorPageFaults": 4},
//	"swap": {"time": "2026-11-23T18:20:21Z", "swapAvailableBytes": 0, "swapUsageBytes": 0}
type usageJSON struct {
	Memory struct {
		Time            time.Time      `json:"time"`
		Available       snapshot.Value `json:"availableBytes"`
		Usage           snapshot.Value `json:"usageBytes"`
		WorkingSet      snapshot.Value `json:"workingSetBytes"`
		RSS             snapshot.Value `json:"rssBytes"`
		PageFaults      snapshot.Value `json:"pageFaults"`
		MajorPageFaults snapshot.Value `json:"majorPageFaults"`
	} `json:"memory"`
	Swap struct {
		Time      time.Time      `json:"time"`
		Available snapshot.Value `json:"swapAvailableBytes"`
		Usage     snapshot.Value `json:"swapUsageBytes"`
	} `json:"swap"`
}

type containerStatsJSON struct {
	Name string `json:"name"`
	usageJSON
}

type nodeStatsJSON struct {
	usageJSON
	System []containerStatsJSON `json:"systemContainers"`
}

type podStatsJSON struct {
	Ref struct {
		Name      string `json:"name"`
		Namespace string `json:"namespace"`
		UID       string `json:"uid"`
	} `json:"podRef"`
	usageJSON
	Containers []containerStatsJSON `json:"containers"`
}

// parseSummary reads /stats/summary, {"node": {...}, "pods": [...]}.
func parseSummary(r io.Reader) (snapshot.Summary, error) {
	var s snapshot.Summary
	err := document(r, func(dec *json.Decoder, key string) error {
		switch key {
		case "node":
			var node nodeStatsJSON
			if err := dec.Decode(&node); err != nil {
				return err
			}
			s.Node, s.System = node.stats(), containerStats(node.System)
			return nil
		case "pods":
			return list(dec, func(p *podStatsJSON) error {
				s.Pods = append(s.Pods, snapshot.PodStats{
					Namespace: p.Ref.Namespace, Name: p.Ref.Name, UID: p.Ref.UID,
					Memory: p.stats(), Containers: containerStats(p.Containers),
				})
				return nil
			})
		}
		return skip(dec)
	})
	if err == nil && s.Node.WorkingSet.IsAbsent() {
		err = errors.New("it has no working set of the node")
	}
	if err != nil {
		return snapshot.Summary{}, err
	}
	return s, nil
}

func containerStats(list []containerStatsJSON) []snapshot.ContainerStats {
	var out []snapshot.ContainerStats
	for i := range list {
		out = append(out, snapshot.ContainerStats{Name: list[i].Name, Memory: list[i].stats()})
	}
	return out
}

func (u *usageJSON) stats() snapshot.MemoryStats {
	m, swap := &u.Memory, &u.Swap
	return snapshot.MemoryStats{
		Time: m.Time, Available: floored(m.Available), Usage: m.Usage, WorkingSet: m.WorkingSet, RSS: m.RSS,
		PageFaults: m.PageFaults, MajorPageFaults: m.MajorPageFaults,
		SwapTime: swap.Time, SwapAvailable: floored(swap.Available), SwapUsage: swap.Usage,
	}
}

// floored is zero for a difference that went below it: the kubelet subtracts in uint64 (pkg/kubelet/stats/helper.go).
func floored(v snapshot.Value) snapshot.Value {
	if n, ok := v.Get(); v.IsUnlimited() || ok && int64(n) < 0 {
		return snapshot.Of(0)
	}
	return v
}
