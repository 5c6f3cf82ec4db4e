package pressure

import (
	"fmt"
	"time"

	"github.com/memrecon/memrecon/snapshot"
)

// Plan is a scenario as cgroups and programs of one host: what will be made and run. The cgroup of all pods stands at the top
// as kubepods does on a node, a pod's in it, a container's in the pod's.
type Plan struct {
	Scenario   *Scenario          `json:"-"`
	Cgroups    []PlannedCgroup    `json:"cgroups"`
	Containers []PlannedContainer `json:"containers"`
	// MostBytes is what all programs together can take.
	MostBytes int64 `json:"most_bytes"`
	// AvailableBytes is the node's MemAvailable before.
	AvailableBytes int64 `json:"available_bytes"`
}

// PlannedCgroup is a cgroup to be made, parents before their children.
type PlannedCgroup struct {
	// Path is from the top, "/" for the top itself.
	Path  string `json:"path"`
	Level Level  `json:"level"`
	// Limit is absent where it has none.
	Limit snapshot.Value `json:"limit_bytes,omitzero"`
}

// PlannedContainer is a program to be run in a container's cgroup.
type PlannedContainer struct {
	// Ref is pod/container; with a slash before it is the cgroup's path.
	Ref string       `json:"container"`
	QoS snapshot.QoS `json:"qos"`
	// ScoreAdj is the oom_score_adj that the kubelet would give it.
	ScoreAdj int `json:"oom_score_adj"`
	// Args are the arguments of memrecon. A volume's writer has the volume's name last, where its path is yet to come.
	Args   []string `json:"args"`
	volume string
	// Reaches is how long after its start the program reaches the container's own limit, 0 where it never does or as fast as
	// the machine can.
	Reaches time.Duration `json:"reaches_ns,omitempty"`
}

// NewPlan lays a scenario out on a host. capacityBytes is the host's memory, which stands for the node's capacity where the
// pods together have no limit.
func NewPlan(s *Scenario, capacityBytes int64) *Plan {
	p := &Plan{Scenario: s, Cgroups: []PlannedCgroup{{Path: "/", Level: NodeLevel, Limit: limit(s.Node.PodsLimit.Bytes())}}}
	if n := s.Node.PodsLimit.Bytes(); n > 0 {
		capacityBytes = n
	}
	for i := range s.Pods {
		pod := &s.Pods[i]
		p.Cgroups = append(p.Cgroups, PlannedCgroup{Path: "/" + pod.Name, Level: PodLevel, Limit: limit(podLimit(pod))})
		var podMost int64
		for _, c := range pod.all() {
			ref := pod.Name + "/" + c.Name
			own := c.Resources.Limits.Memory.Bytes()
			p.Cgroups = append(p.Cgroups, PlannedCgroup{Path: "/" + ref, Level: ContainerLevel, Limit: limit(own)})
			planned := PlannedContainer{Ref: ref, QoS: qos(pod), ScoreAdj: scoreAdj(pod, c, capacityBytes), Reaches: reaches(c)}
			if c.Write != nil {
				planned.volume = c.Write.Volume
			}
			planned.Args = c.args(s.Guards.NodeAvailable)
			p.Containers = append(p.Containers, planned)
			podMost += atMost(c.most(), own)
		}
		p.MostBytes += atMost(podMost, podLimit(pod))
	}
	p.MostBytes = atMost(p.MostBytes, s.Node.PodsLimit.Bytes())
	return p
}

func limit(bytes int64) snapshot.Value {
	if bytes == 0 {
		return snapshot.Value{}
	}
	return snapshot.Of(uint64(bytes))
}

// atMost is n, or the limit where that is less and not 0.
func atMost(n, limit int64) int64 {
	if limit == 0 {
		return n
	}
	return min(n, limit)
}

// podLimit is what the kubelet sets for a pod (pkg/kubelet/cm, ResourceConfigForPod): where all containers have a limit their
// sum, or the largest of an init container where that is more; else 0, none.
func podLimit(p *Pod) int64 {
	var sum, largest int64
	for i := range p.Containers {
		own := p.Containers[i].Resources.Limits.Memory.Bytes()
		if own == 0 {
			return 0
		}
		sum += own
	}
	for i := range p.InitContainers {
		own := p.InitContainers[i].Resources.Limits.Memory.Bytes()
		if own == 0 {
			return 0
		}
		largest = max(largest, own)
	}
	return max(sum, largest)
}

// request is what the API server takes for the request: the limit where there is no request.
func (c *Container) request() int64 {
	if n := c.Resources.Requests.Memory.Bytes(); n > 0 {
		return n
	}
	return c.Resources.Limits.Memory.Bytes()
}

// qos is the pod's class. None is Guaranteed: that also takes limits of CPU, which a scenario does not have.
func qos(p *Pod) snapshot.QoS {
	for _, c := range p.all() {
		if c.request() > 0 {
			return snapshot.Burstable
		}
	}
	return snapshot.BestEffort
}

// scoreAdj is the oom_score_adj that the kubelet gives a container (pkg/kubelet/qos, GetContainerOOMScoreAdjust).
func scoreAdj(p *Pod, c *Container, capacityBytes int64) int {
	const bestEffort, leastBurstable = 1000, 3
	if qos(p) == snapshot.BestEffort || capacityBytes <= 0 {
		return bestEffort
	}
	adj := bestEffort - int(float64(c.request())/float64(capacityBytes)*bestEffort)
	return min(max(adj, leastBurstable), bestEffort-1)
}

// programBytes is more than what a program needs beside what it allocates.
const programBytes = 16 << 20

// most is what the container's program can take.
func (c *Container) most() int64 {
	if c.Write != nil {
		return c.Write.Size.Bytes() + programBytes
	}
	return c.Leak.Max.Bytes() + c.Leak.Block.Bytes() + programBytes
}

// reaches is when a leak at a steady rate, or with a pause after each block, comes to its container's limit.
func reaches(c *Container) time.Duration {
	own := c.Resources.Limits.Memory.Bytes()
	if c.Leak == nil || own == 0 || c.Leak.Max.Bytes() < own {
		return 0
	}
	switch rate, block := c.Leak.Rate.Bytes(), c.Leak.Block.Bytes(); {
	case rate > 0:
		return time.Duration(float64(own) / float64(rate) * float64(time.Second))
	case block > 0:
		return time.Duration(own/block) * c.Leak.Every.Time()
	}
	return 0
}

// args are the arguments of memrecon that run the container's program.
func (c *Container) args(floor Quantity) []string {
	if c.Write != nil {
		return []string{"pressure", "write", "--size=" + string(c.Write.Size), c.Write.Volume}
	}
	args := []string{"leak"}
	for _, flag := range []struct{ name, value string }{
		{"kind", c.Leak.Kind},
		{"block", string(c.Leak.Block)},
		{"max", string(c.Leak.Max)},
		{"rate", perSecond(c.Leak.Rate)},
		{"every", string(c.Leak.Every)},
		{"hold", string(c.Leak.Hold)},
		{"die-at", string(c.Leak.DieAt)},
		{"die-with", c.Leak.DieWith},
		{"floor", string(floor)},
		{"oom-score-adj", "keep"}, // as Enter has set it
	} {
		if flag.value != "" {
			args = append(args, fmt.Sprintf("--%s=%s", flag.name, flag.value))
		}
	}
	return args
}

func perSecond(rate Quantity) string {
	if rate == "" {
		return ""
	}
	return string(rate) + "/s"
}
