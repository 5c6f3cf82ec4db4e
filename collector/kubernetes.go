package collector

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/memrecon/memrecon/kubelet"
	"github.com/memrecon/memrecon/snapshot"
)

// kubeletInterval is how often Kubernetes is asked: the kubelet renews its figures every 10 to 15 s.
const kubeletInterval = 10 * time.Second

// kubernetes keeps the newest of what Kubernetes says. It asks beside the rounds, which never wait for a network.
type kubernetes struct {
	latest atomic.Pointer[answer]
	first  chan struct{} // closed when there is a first answer
	ask    func()        // asks, and publishes the answer
	stop   func()
}

// answer is what Kubernetes said at one time.
type answer struct {
	kubernetes *snapshot.Kubernetes
	errs       []snapshot.SourceError
	status     SourceStatus
}

// savedKubernetes is what a saved node has of it, nil where it has nothing.
func savedKubernetes(dir string) *kubernetes {
	began := time.Now()
	k, errs := kubelet.FromFiles(dir)
	if k == nil {
		return nil
	}
	said := &kubernetes{first: make(chan struct{}), stop: func() {}}
	said.publish(k, errs, began)
	return said
}

// askKubernetes begins to ask.
func askKubernetes(config kubelet.Config) (*kubernetes, error) {
	client, err := kubelet.Open(config)
	if err != nil {
		return nil, err
	}
	said := &kubernetes{first: make(chan struct{})}
	ctx, cancel := context.WithCancel(context.Background())
	var asking sync.WaitGroup
	said.ask = func() {
		began := time.Now()
		k, errs := client.Read(ctx)
		said.publish(&k, errs, began)
	}
	asking.Go(func() {
		ticker := time.NewTicker(kubeletInterval)
		defer ticker.Stop()
		for ctx.Err() == nil {
			said.ask()
			select {
			case <-ctx.Done():
			case <-ticker.C:
			}
		}
	})
	said.stop = func() {
		cancel()
		asking.Wait()
		client.Close()
	}
	return said, nil
}

// publish makes an answer the newest. Pods and the configuration, which a kubelet that is away does not change, are kept from the
// answer before where this one lacks them; figures are not: an error says that they are missing.
func (said *kubernetes) publish(k *snapshot.Kubernetes, errs []snapshot.SourceError, began time.Time) {
	before := said.latest.Load()
	a := &answer{kubernetes: k, errs: errs, status: SourceStatus{Name: "kubernetes", Time: began, Duration: time.Since(began)}}
	empty := func() bool {
		return k.Summary.IsZero() && k.Pods == nil && k.WorkingSets == nil && k.Config.IsZero() && k.Node.IsZero()
	}
	if empty() && len(errs) > 0 {
		a.status.Err = fmt.Errorf("%s: %s", errs[0].Source, errs[0].Error)
		a.status.Time = time.Time{}
		if before != nil {
			a.status.Time = before.status.Time
		}
	}
	if before != nil && before.kubernetes != nil {
		if k.Pods == nil {
			k.Pods, k.PodsTime = before.kubernetes.Pods, before.kubernetes.PodsTime
		}
		if k.Config.IsZero() {
			k.Config, k.ConfigTime = before.kubernetes.Config, before.kubernetes.ConfigTime
		}
	}
	if empty() {
		a.kubernetes = nil
	}
	said.latest.Store(a)
	if before == nil {
		close(said.first)
	}
}

// AwaitKubernetes waits until Kubernetes has answered once, or could not; at once where nobody asks. The kubelet package bounds
// how long that takes.
func (c *Collector) AwaitKubernetes() {
	if c.kubernetes != nil {
		<-c.kubernetes.first
	}
}
