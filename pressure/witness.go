package pressure

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/memrecon/memrecon/cgroup"
	"github.com/memrecon/memrecon/collector"
	"github.com/memrecon/memrecon/incident"
	"github.com/memrecon/memrecon/reconcile"
	"github.com/memrecon/memrecon/report"
	"github.com/memrecon/memrecon/snapshot"
)

// witness watches the node as the agent does, and tells what died in a run's cgroups. What the agent knows from the kubelet it has
// from the run: which pods there are, which cgroups are theirs, and how containers ended.
type witness struct {
	plan  *Plan
	top   string // the name of the run's top
	node  *collector.Collector
	watch *incident.Watch

	mu   sync.Mutex
	pods []snapshot.Pod
}

const (
	// roundEvery is the agent's shortest interval: what is known of a container at its end is no older.
	roundEvery = 100 * time.Millisecond
	// pausePerWork keeps a node of thousands of cgroups from being read all the time.
	pausePerWork = 4
	// verdictAge is how long after the end of a container its verdict may come: a SIGKILL that is no OOM kill is known as such when
	// nobody has told of an OOM kill for 2 s.
	verdictAge = 5 * time.Second
)

// testify has a witness watch the node until the function that it returns is called. The run's programs must not have started.
func testify(config Config, plan *Plan, top string) (*witness, func() error, error) {
	node, err := collector.Open(collector.Config{Procfs: config.Procfs, Sysfs: config.Sysfs})
	if err != nil {
		return nil, nil, err
	}
	w := &witness{plan: plan, top: top, node: node, pods: plan.pods()}
	w.watch = incident.Open(incident.Config{
		Procfs: config.Procfs, Sysfs: config.Sysfs, Kmsg: config.Kmsg, Identify: w.identify,
		Tell:   func(incident.Incident) {},    // they are asked for at the end
		Logger: slog.New(slog.DiscardHandler), // each incident says what was missing
	})
	w.round()
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { w.watch.Run(ctx) })
	running.Go(func() {
		var took time.Duration
		for {
			select {
			case <-ctx.Done():
				return
			case <-time.After(max(roundEvery, pausePerWork*took)):
				began := time.Now()
				w.round()
				took = time.Since(began)
			}
		}
	})
	return w, func() error {
		stop()
		running.Wait()
		return node.Close()
	}, nil
}

// round reads the node, and adds what a kubelet would.
func (w *witness) round() {
	snap := *w.node.Collect().Sheet.Snapshot()
	w.mu.Lock()
	snap.Kubernetes = &snapshot.Kubernetes{Time: snap.Time, Pods: slices.Clone(w.pods)}
	w.mu.Unlock()
	snap.Cgroups = w.cgroups(snap.Cgroups, snap.Kubernetes.Pods)
	w.watch.Round(&collector.Result{Sheet: reconcile.New(&snap)})
}

// cgroups are the node's with the run's as those of pods and containers. A container that ended by itself has none any more, as a runtime
// removes it: what it used is what was read before its end, not the little that is left. Of one that was killed the counters are yet to be
// read.
func (w *witness) cgroups(node []snapshot.Cgroup, pods []snapshot.Pod) []snapshot.Cgroup {
	ended := map[string]bool{}
	for i := range pods {
		for _, c := range pods[i].Containers {
			ended[c.ID] = c.Terminated.Reason == string(Error) || c.Terminated.Reason == string(Completed)
		}
	}
	var kept []snapshot.Cgroup
	place := make([]int32, len(node)) // of each in kept; a container's is no parent
	for i, c := range node {
		c.Identity = w.identify(c.Path)
		if ended[c.Identity.ContainerID] {
			continue
		}
		place[i] = int32(len(kept))
		if c.Parent >= 0 {
			c.Parent = place[c.Parent]
		}
		kept = append(kept, c)
	}
	return kept
}

// identify tells from a cgroup's path whose it is. The kernel's log has paths from the host's root, of which a cgroup namespace may
// show an end alone; no other cgroup has the top's name.
func (w *witness) identify(path string) snapshot.Identity {
	_, below, ok := strings.Cut(path+"/", "/"+w.top+"/")
	if !ok {
		return cgroup.Identify(path)
	}
	return w.plan.identity("/" + strings.TrimSuffix(below, "/"))
}

// identity is whose a planned cgroup is: the top is kubepods, a pod's UID is its name, a container's ID its reference.
func (p *Plan) identity(path string) snapshot.Identity {
	switch p.cgroup(path).Level {
	case NodeLevel:
		return snapshot.Identity{Class: snapshot.ClassKubepods}
	case PodLevel:
		return snapshot.Identity{Class: snapshot.ClassPod, PodUID: path[1:], QoS: qos(p.Scenario.pod(path[1:]))}
	case ContainerLevel:
		pod, _, _ := strings.Cut(path[1:], "/")
		return snapshot.Identity{Class: snapshot.ClassContainer, PodUID: pod, ContainerID: path[1:], QoS: qos(p.Scenario.pod(pod))}
	}
	return snapshot.Identity{Class: snapshot.ClassOther}
}

// pods are the scenario's pods as the kubelet lists them, in a namespace of the scenario's name.
func (p *Plan) pods() []snapshot.Pod {
	var pods []snapshot.Pod
	for i := range p.Scenario.Pods {
		one := &p.Scenario.Pods[i]
		pod := snapshot.Pod{Namespace: p.Scenario.Name, Name: one.Name, UID: one.Name, QoS: qos(one)}
		for _, c := range one.all() {
			pod.Containers = append(pod.Containers, snapshot.Container{
				Name: c.Name, ID: one.Name + "/" + c.Name, Request: limit(c.request()), Limit: limit(c.Resources.Limits.Memory.Bytes()),
			})
		}
		pods = append(pods, pod)
	}
	return pods
}

// ended tells the end of a container.
func (w *witness) ended(ref string, e ending) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range w.pods {
		pod := &w.pods[i]
		pod.Containers = slices.Clone(pod.Containers) // the last round has it
		for k := range pod.Containers {
			if c := &pod.Containers[k]; c.ID == ref {
				c.Terminated = snapshot.Termination{Reason: string(e.reason), ExitCode: int32(e.code()), Finished: time.Now(), ContainerID: ref}
			}
		}
	}
}

// await waits until a container's end is judged, or will be no more.
func (w *witness) await(refs []string) {
	isPending := func(ref string) bool {
		return !slices.ContainsFunc(w.incidents(ref), func(in report.Incident) bool { return in.Termination != nil })
	}
	for deadline := time.Now().Add(verdictAge); slices.ContainsFunc(refs, isPending) && time.Now().Before(deadline); {
		time.Sleep(interval)
	}
}

// incidents are the deaths in a container for memory.
func (w *witness) incidents(ref string) []report.Incident {
	list := []report.Incident{}
	for _, in := range w.watch.Incidents() {
		if in.Victim.Identity.ContainerID == ref {
			list = append(list, report.NewIncident(&in.Incident, nil))
		}
	}
	return list
}
