package kubelet

import (
	"context"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/memrecon/memrecon/snapshot"
)

// end ends the watches that are open; those to come last.
func (f *fake) end() {
	f.mu.Lock()
	defer f.mu.Unlock()
	close(f.events)
	f.events = make(chan string, 9)
}

// readNode is what the Client has of the Node, and the one error that it may have.
func readNode(t *testing.T, c *Client) (snapshot.Node, *snapshot.SourceError) {
	t.Helper()
	k, errs := c.Read(t.Context())
	if len(errs) > 1 || k.Pods == nil {
		t.Fatalf("errors %+v", errs)
	}
	if len(errs) == 0 {
		return k.Node, nil
	}
	return k.Node, &errs[0]
}

func TestWatchFollows(t *testing.T) {
	f := newFake(t)
	c := f.open()
	if n, err := readNode(t, c); err != nil || n.Taints != nil || n.Capacity != snapshot.Of(2026012<<10) {
		t.Fatalf("%+v, %v", n, err)
	}
	f.events <- event("MODIFIED", strings.Replace(f.node(), `"spec": {`, `"spec": {"taints": [
		{"key": "node.kubernetes.io/memory-pressure", "effect": "NoSchedule"}]`, 1))
	settles(t, "the taint", func() bool { n, _ := readNode(t, c); return len(n.Taints) == 1 })
	n, _ := readNode(t, c)
	if want := (snapshot.Taint{Key: "node.kubernetes.io/memory-pressure", Effect: "NoSchedule"}); n.Taints[0] != want {
		t.Errorf("taint %+v, want %+v", n.Taints[0], want)
	}
	f.events <- event("BOOKMARK", `{"kind":"Node","metadata":{"resourceVersion":"900"}}`)
	f.events <- event("DELETED", f.node())
	settles(t, "the end of the Node", func() bool { n, err := readNode(t, c); return n.IsZero() && err != nil })
	if _, err := readNode(t, c); err.Error != "there is no Node of this name" {
		t.Errorf("deleted: %+v", err)
	}
	f.events <- event("ADDED", f.node())
	settles(t, "the Node's return", func() bool { n, err := readNode(t, c); return !n.IsZero() && err == nil })
}

// The API server ends each watch now and then: that is no error, and the next one goes on.
func TestWatchBeginsAgain(t *testing.T) {
	f := newFake(t)
	c := f.open()
	if _, err := readNode(t, c); err != nil {
		t.Fatal(err)
	}
	f.end()
	ended := time.Now()
	settles(t, "the next watch", func() bool {
		n, err := readNode(t, c)
		if err != nil || n.IsZero() {
			t.Fatalf("between two watches: %+v, %v", n, err)
		}
		return n.Time.After(ended.Add(400 * time.Millisecond)) // it waits that long at least
	})
}

// While the API server is away the Node is what it was, and its Time stands still.
func TestWatchLosesTheAPIServer(t *testing.T) {
	f := newFake(t)
	c := f.open()
	if _, err := readNode(t, c); err != nil {
		t.Fatal(err)
	}
	f.answer("/api/v1/nodes", func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "etcd is away", http.StatusServiceUnavailable)
	})
	ended := time.Now()
	f.end()
	time.Sleep(300 * time.Millisecond) // no reading sees the end
	settles(t, "the loss", func() bool { _, err := readNode(t, c); return err != nil })
	n, err := readNode(t, c)
	if !strings.HasPrefix(err.Error, "it answers 503 Service Unavailable: etcd is away") || n.Name != "lab-node" ||
		n.Time.Before(ended) || time.Since(n.Time) < 400*time.Millisecond {
		t.Errorf("%+v, %+v", n, err)
	}
	if again, _ := readNode(t, c); again.Time != n.Time {
		t.Errorf("nothing was heard, and the time went from %v to %v", n.Time, again.Time)
	}
	f.answer("/api/v1/nodes", nil)
	settles(t, "the return", func() bool { n, err := readNode(t, c); return err == nil && time.Since(n.Time) < time.Second })
}

// A connection that died without a word, as when the API server's machine lost its power, is found dead.
func TestWatchOfADeadConnection(t *testing.T) {
	f := newFake(t)
	f.config.Timeout = 500 * time.Millisecond
	through, cut := wire(t, f.server.Listener.Addr().String())
	f.config.APIServer = "https://" + through
	c := f.open()
	if n, err := readNode(t, c); err != nil || n.IsZero() {
		t.Fatalf("%+v, %+v", n, err)
	}
	cut()
	settles(t, "the loss", func() bool { _, err := readNode(t, c); return err != nil })
	if n, err := readNode(t, c); err.Error != "no answer in time" || n.IsZero() || time.Since(n.Time) < 500*time.Millisecond {
		t.Errorf("%+v, %+v", n, err)
	}
}

// wire is an address that leads to another until it is cut; then what is sent is lost, and connections stay open.
func wire(t *testing.T, to string) (address string, cut func()) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var lost atomic.Bool
	var ends sync.WaitGroup
	carry := func(to, from net.Conn) {
		buffer := make([]byte, 64<<10)
		for {
			n, err := from.Read(buffer)
			if err != nil {
				_ = to.Close()
				return
			}
			if !lost.Load() {
				_, _ = to.Write(buffer[:n])
			}
		}
	}
	ends.Go(func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", to)
			if err != nil {
				_ = near.Close()
				continue
			}
			ends.Go(func() { carry(far, near) })
			ends.Go(func() { carry(near, far) })
		}
	})
	t.Cleanup(func() { // runs after the Client's Close, which ends the connections
		_ = l.Close()
		ends.Wait()
	})
	return l.Addr().String(), func() { lost.Store(true) }
}

func TestWatchFaults(t *testing.T) {
	answers := func(text string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(text)) }
	}
	for name, c := range map[string]struct {
		answer      http.HandlerFunc
		error, hint string
	}{
		"403": {
			func(w http.ResponseWriter, _ *http.Request) {
				http.Error(w, `{"kind":"Status","message":"nodes is forbidden: cannot watch"}`, http.StatusForbidden)
			},
			"it answers 403 Forbidden: nodes is forbidden: cannot watch", "grant watch on nodes to memrecon's ServiceAccount",
		},
		"401": {
			func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "", http.StatusUnauthorized) }, "401", "the API server does not know memrecon's token",
		},
		"no answer": {func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, "no answer in time", "the API server is busy"},
		"an error": {
			answers(event("ERROR", `{"kind":"Status","code":410,"message":"too old"}`)), "it answers 410 Gone: too old", "check --kubernetes.url",
		},
		"ends at once":  {answers(""), "the answer breaks off", "the API server stops"},
		"garbage":       {answers("<html>"), "invalid character", "check --kubernetes.url"},
		"half an event": {answers(`{"type":"ADDED","object":{"metadata":`), "the answer breaks off", "the API server stops"},
		"no Node":       {answers(event("ADDED", `{"kind":"Pod"}`)), "it is no Node", "check --kubernetes.url"},
		"huge":          {answers(`{"type":"ADDED","object":{` + strings.Repeat(" ", maxAnswer)), "larger than 32 MiB", "check --kubernetes.url"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFake(t)
			f.config.Timeout = time.Second
			if name == "huge" {
				f.config.Timeout = time.Minute
			}
			f.answer("/api/v1/nodes", c.answer)
			n, err := readNode(t, f.open())
			if !n.IsZero() || err == nil || !strings.Contains(err.Error, c.error) || !strings.Contains(err.Hint, c.hint) {
				t.Errorf("%+v, %+v; want %q and %q", n, err, c.error, c.hint)
			}
		})
	}
}

func TestWatchOfAnotherName(t *testing.T) {
	f := newFake(t)
	f.config.Node, f.config.Timeout = "lab-nod", 500*time.Millisecond
	_, err := readNode(t, f.open())
	if err == nil || err.Error != "there is no Node of this name" || !strings.Contains(err.Hint, "--node") {
		t.Errorf("%+v", err)
	}
}

func TestCloseEndsTheWatch(t *testing.T) {
	f := newFake(t)
	for name, answer := range map[string]http.HandlerFunc{
		"while it listens": nil,
		"while it asks":    func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
		"while it waits":   func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "", http.StatusInternalServerError) },
	} {
		f.answer("/api/v1/nodes", answer)
		c, err := Open(f.config)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		_, _ = c.Read(ctx)
		cancel()
		began := time.Now()
		c.Close()
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("%s: %v", name, took)
		}
	}
}
