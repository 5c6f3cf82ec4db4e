// Package kubelet reads what Kubernetes says of a node's memory: the kubelet's own figures, pods and configuration, and the
// API server's Node. It knows nothing of cgroups and derives nothing. Each source has its own deadline and fails alone: its
// part of the snapshot is then absent, with an error that says which right or flag is missing. All that it writes are Events.
//
// Answers are decoded into the few fields that memrecon needs, without k8s.io/api and client-go: with them the binary had
// 9 MB more (of 13) and the idle agent 5 MB more resident memory (of 14).
package kubelet

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/memrecon/memrecon/snapshot"
)

// Config says whom to ask, and as whom.
type Config struct {
	// Kubelet is the URL of the kubelet's secure port, such as https://10.0.0.5:10250.
	Kubelet string
	// APIServer is the URL of the API server, such as https://10.96.0.1:443; empty to do without the Node.
	APIServer string
	// Node is the name of the Node.
	Node string
	// ServiceAccount is the folder with the files token and ca.crt, as Kubernetes mounts it into a pod.
	ServiceAccount string
	// KubeletCA is the file of the kubelet's CA, where that is not the cluster's.
	KubeletCA string
	// KubeletInsecure is not to verify the kubelet's certificate. Whoever can take the kubelet's place on the network then
	// gets the ServiceAccount's token.
	KubeletInsecure bool
	// Timeout is how long each source has to answer; 0 for 5 s.
	Timeout time.Duration
}

// Client asks one kubelet, and watches its Node. Read and Close must not run at the same time.
type Client struct {
	kubelet []endpoint
	node    *watch // nil without an API server
	timeout time.Duration
}

// Open prepares the asking, and begins to watch the Node.
func Open(config Config) (*Client, error) {
	if config.Timeout == 0 {
		config.Timeout = 5 * time.Second
	}
	c := &Client{timeout: config.Timeout}
	kubelet, err := newKubelet(&config)
	if err != nil {
		return nil, err
	}
	for _, s := range kubeletSources() {
		c.kubelet = append(c.kubelet, endpoint{kubelet, s})
	}
	if config.APIServer == "" {
		return c, nil
	}
	if config.Node == "" {
		return nil, errors.New("the name of the Node is not known: give it with --node")
	}
	api, err := newAPIServer(&config)
	if err != nil {
		return nil, err
	}
	c.node = startWatch(endpoint{api, nodeSource(config.Node)})
	return c, nil
}

// Close ends the watch, and the connections.
func (c *Client) Close() {
	c.kubelet[0].client.CloseIdleConnections()
	if c.node != nil {
		c.node.stop()
		c.node.client.CloseIdleConnections()
	}
}

// Read asks everybody at once, and takes as long as the slowest, but not longer than the timeout. The kubelet renews its
// figures each 10 to 15 s, so asking more often than that is of no use.
func (c *Client) Read(ctx context.Context) (snapshot.Kubernetes, []snapshot.SourceError) {
	k := snapshot.Kubernetes{Time: time.Now()}
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()

	errs := make([]error, len(c.kubelet))
	var asking sync.WaitGroup
	for i := range c.kubelet {
		asking.Go(func() { errs[i] = c.kubelet[i].get(ctx, &k) }) // each fills a part of its own
	}
	var nodeErr error
	if c.node != nil {
		k.Node, nodeErr = c.node.latest(ctx)
	}
	asking.Wait()
	k.PodsTime, k.ConfigTime = k.Time, k.Time

	var failed []snapshot.SourceError
	for i, err := range errs {
		if err != nil {
			failed = append(failed, c.kubelet[i].failed(err))
		}
	}
	if nodeErr != nil {
		failed = append(failed, c.node.failed(nodeErr))
	}
	return k, failed
}

// source is what one part of a snapshot.Kubernetes is read from.
type source struct {
	// path is the server's, file a saved node's.
	path, file string
	// lost is what the report lacks without it.
	lost string
	// right is the RBAC rule that it takes; coarse and absent are what else may be behind a 403 and a 404.
	right, coarse, absent string
	read                  func(io.Reader, *snapshot.Kubernetes) error
}

// fine is where kubelets without KubeletFineGrainedAuthz (a beta since Kubernetes 1.33) know only nodes/proxy, which also
// allows to run commands in pods.
const fine = "; a kubelet before 1.33 asks for nodes/proxy in its place, which memrecon should not have: it does without this then"

func kubeletSources() []source {
	return []source{
		{
			path: "/stats/summary?only_cpu_and_memory=true", file: "kubelet/stats-summary.json",
			lost: "the kubelet's figures are missing", right: "get on nodes/stats",
			read: into(parseSummary, func(k *snapshot.Kubernetes) *snapshot.Summary { return &k.Summary }),
		}, {
			path: "/metrics/resource", file: "kubelet/metrics-resource",
			lost: "what kubectl top shows is missing", right: "get on nodes/metrics",
			read: into(parseWorkingSets, func(k *snapshot.Kubernetes) *[]snapshot.WorkingSet { return &k.WorkingSets }),
		}, {
			path: "/pods", file: "kubelet/pods.json",
			lost: "names, requests and limits of pods are missing, or old", right: "get on nodes/pods", coarse: fine,
			read: into(parsePods, func(k *snapshot.Kubernetes) *[]snapshot.Pod { return &k.Pods }),
		}, {
			path: "/configz", file: "kubelet/configz.json",
			lost: "reserved memory and eviction thresholds are missing, or old", right: "get on nodes/configz", coarse: fine,
			absent: "; the kubelet must run with enableDebuggingHandlers",
			read:   into(parseConfigz, func(k *snapshot.Kubernetes) *snapshot.KubeletConfig { return &k.Config }),
		},
	}
}

// into is a reader of the part that parse makes.
func into[T any](parse func(io.Reader) (T, error), part func(*snapshot.Kubernetes) *T) func(io.Reader, *snapshot.Kubernetes) error {
	return func(r io.Reader, k *snapshot.Kubernetes) error {
		v, err := parse(r)
		if err == nil {
			*part(k) = v
		}
		return err
	}
}
