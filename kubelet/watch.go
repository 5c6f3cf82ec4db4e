package kubelet

import (
	"bytes"
	"context"
	"encoding/json"
	"math/rand/v2"
	"net/url"
	"sync"
	"time"

	"github.com/memrecon/memrecon/snapshot"
)

// nodeSource is the Node of this name, by a watch: the API server first sends the Node as it is (resourceVersion 0: from its
// cache), then each change.
func nodeSource(name string) source {
	query := url.Values{"watch": {"1"}, "resourceVersion": {"0"}, "fieldSelector": {"metadata.name=" + name}}
	return source{
		path: "/api/v1/nodes?" + query.Encode(), file: "api/node.json", right: "watch on nodes",
		lost: "capacity, allocatable, conditions and taints are missing, or old",
		read: into(parseNode, func(k *snapshot.Kubernetes) *snapshot.Node { return &k.Node }),
	}
}

// watch keeps the Node as the API server last said it.
type watch struct {
	endpoint
	cancel context.CancelFunc
	ended  chan struct{}
	// settled is closed at the first word, or the first failure.
	settled chan struct{}

	mu sync.Mutex
	// node is the last word; its Time is when the connection broke, where listening is false.
	node snapshot.Node
	// answering tells that the API server lets us watch, listening that it has sent the Node.
	answering, listening bool
	// err is why the last attempt failed, nil once one succeeds.
	err error
}

func startWatch(e endpoint) *watch {
	ctx, cancel := context.WithCancel(context.Background())
	w := &watch{endpoint: e, cancel: cancel, ended: make(chan struct{}), settled: make(chan struct{})}
	go w.run(ctx)
	return w
}

func (w *watch) stop() {
	w.cancel()
	<-w.ended
}

// latest is the Node as it was last said, and why nothing is heard now. It waits for the first word.
func (w *watch) latest(ctx context.Context) (snapshot.Node, error) {
	select {
	case <-w.settled:
	case <-ctx.Done():
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.listening {
		w.node.Time = time.Now()
	}
	switch {
	case w.err != nil || !w.node.IsZero():
		return w.node, w.err
	case w.answering:
		return w.node, errNoNode
	}
	return w.node, ctx.Err()
}

// The waits between two attempts. The API server ends every watch within the hour, and all at once when it restarts.
const (
	firstWait   = time.Second
	longestWait = 30 * time.Second
)

// run watches again and again. That a watch ends is nothing to tell of, unless the next one fails.
func (w *watch) run(ctx context.Context) {
	defer close(w.ended)
	wait := firstWait
	for {
		heard, err := w.follow(ctx)
		if ctx.Err() != nil {
			return
		}
		if heard {
			wait = firstWait
		} else {
			w.settle(err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait/2 + rand.N(wait)): // not all nodes at the same moment
		}
		wait = min(2*wait, longestWait)
	}
}

// follow is one watch until it ends, and whether it said anything of the Node.
func (w *watch) follow(ctx context.Context) (heard bool, err error) {
	body, err := w.open(ctx)
	if err != nil {
		return false, err
	}
	defer body.Close()
	w.mu.Lock()
	w.answering = true
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		if w.listening {
			w.node.Time = time.Now()
		}
		w.answering, w.listening = false, false
		w.mu.Unlock()
	}()

	limited := &bounded{r: body}
	dec := json.NewDecoder(limited)
	for {
		limited.left = maxAnswer
		var event struct {
			Type   string          `json:"type"`
			Object json.RawMessage `json:"object"`
		}
		if err := dec.Decode(&event); err != nil {
			return heard, err
		}
		if err := w.hear(event.Type, event.Object); err != nil {
			return heard, err
		}
		heard = true
	}
}

// hear takes one event of the watch.
func (w *watch) hear(kind string, object []byte) error {
	switch kind {
	case "ADDED", "MODIFIED":
		node, err := parseNode(bytes.NewReader(object))
		if err != nil {
			return err
		}
		w.mu.Lock()
		w.node, w.listening = node, true
		w.mu.Unlock()
		w.settle(nil)
	case "DELETED":
		w.mu.Lock()
		w.node, w.listening = snapshot.Node{}, false
		w.mu.Unlock()
		w.settle(errNoNode)
	case "ERROR":
		var status struct {
			Code    int    `json:"code"`
			Message string `json:"message"`
		}
		if err := json.Unmarshal(object, &status); err != nil {
			return err
		}
		return &statusError{status.Code, status.Message}
	}
	return nil
}

// settle notes how the last attempt went.
func (w *watch) settle(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.err = err
	select {
	case <-w.settled:
	default:
		close(w.settled)
	}
}
