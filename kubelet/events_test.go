package kubelet

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"path"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"golang.org/x/time/rate"

	"github.com/memrecon/memrecon/snapshot"
)

// ledger is the API server's Events, and an Events that writes to it.
type ledger struct {
	*fake
	events *Events

	mu      sync.Mutex
	objects map[string]map[string]any // by path
	// refuse answers in place of the API server where it is not nil and returns true.
	refuse   func(w http.ResponseWriter, r *http.Request) bool
	requests []string
	failed   []snapshot.SourceError
}

func newLedger(t *testing.T) *ledger {
	l := &ledger{fake: newFake(t), objects: map[string]map[string]any{}}
	l.writes = l.write
	events, err := OpenEvents(l.config)
	if err != nil {
		t.Fatal(err)
	}
	l.events = events
	return l
}

// run begins to write.
func (l *ledger) run() {
	ctx, cancel := context.WithCancel(l.t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		l.events.Run(ctx, func(e snapshot.SourceError) {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.failed = append(l.failed, e)
		})
	})
	l.t.Cleanup(func() {
		cancel()
		running.Wait()
	})
}

func (l *ledger) write(w http.ResponseWriter, r *http.Request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.requests = append(l.requests, r.Method+" "+r.URL.Path)
	if l.refuse != nil && l.refuse(w, r) {
		return
	}
	var object map[string]any
	if err := json.NewDecoder(r.Body).Decode(&object); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	switch r.Method + " " + r.Header.Get("Content-Type") {
	case "POST application/json":
		metadata := object["metadata"].(map[string]any)
		at := r.URL.Path + "/" + metadata["name"].(string)
		if l.objects[at] != nil {
			http.Error(w, `{"kind":"Status","message":"it already exists"}`, http.StatusConflict)
			return
		}
		l.objects[at] = object
		w.WriteHeader(http.StatusCreated)
	case "PATCH application/merge-patch+json":
		if l.objects[r.URL.Path] == nil {
			http.Error(w, `{"kind":"Status","message":"events \"x\" not found"}`, http.StatusNotFound)
			return
		}
		maps.Copy(l.objects[r.URL.Path], object)
	default:
		http.Error(w, "", http.StatusUnsupportedMediaType)
		return
	}
	_ = json.NewEncoder(w).Encode(object)
}

// kept are the objects, each without its name, by folder, reason and count.
func (l *ledger) kept() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var all []string
	for at, o := range l.objects {
		all = append(all, fmt.Sprintf("%s %v x%v: %v", path.Dir(at), o["reason"], o["count"], o["message"]))
	}
	slices.Sort(all)
	return all
}

func (l *ledger) settles(want ...string) {
	l.t.Helper()
	slices.Sort(want)
	settles(l.t, fmt.Sprint(want), func() bool { return slices.Equal(l.kept(), want) })
}

func killed(seconds int, message string) Event {
	return Event{
		Namespace: "shop", Pod: "cart-0", UID: "u-1", Container: "app", Reason: "OOMKillExplained", Message: message,
		Time: time.Date(2026, 11, 24, 10, 0, 0, 0, time.UTC).Add(time.Duration(seconds) * time.Second),
	}
}

const inShop = "/api/v1/namespaces/shop/events OOMKillExplained "

func TestEventForms(t *testing.T) {
	l := newLedger(t)
	l.run()
	l.events.Post(killed(0, "killed at its limit"))
	l.events.Post(Event{Reason: "NodeOOM", Message: "the node was out of memory", Time: killed(1, "").Time})
	l.settles(inShop+"x1: killed at its limit", "/api/v1/namespaces/default/events NodeOOM x1: the node was out of memory")
	for at, o := range l.objects {
		if name := path.Base(at); !strings.HasPrefix(name, "cart-0.") && !strings.HasPrefix(name, "lab-node.") {
			t.Errorf("name %s", name)
		}
		delete(o, "metadata")
		want := `{"count":1,"firstTimestamp":"2026-11-24T10:00:00Z","involvedObject":{"apiVersion":"v1","fieldPath":"spec.containers{app}",
			"kind":"Pod","name":"cart-0","namespace":"shop","uid":"u-1"},"lastTimestamp":"2026-11-24T10:00:00Z","message":"killed at its limit",
			"reason":"OOMKillExplained","reportingComponent":"memrecon","reportingInstance":"lab-node",
			"source":{"component":"memrecon","host":"lab-node"},"type":"Warning"}`
		if o["reason"] == "NodeOOM" {
			want = `{"count":1,"firstTimestamp":"2026-11-24T10:00:01Z","involvedObject":{"apiVersion":"v1","kind":"Node","name":"lab-node",
			"uid":"lab-node"},"lastTimestamp":"2026-11-24T10:00:01Z","message":"the node was out of memory",
			"reason":"NodeOOM","reportingComponent":"memrecon","reportingInstance":"lab-node",
			"source":{"component":"memrecon","host":"lab-node"},"type":"Warning"}`
		}
		var object map[string]any
		if err := json.Unmarshal([]byte(want), &object); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(o, object) {
			t.Errorf("%+v\nwant %+v", o, object)
		}
	}
}

// What happens again within the hour raises a count; what is another thing is another Event.
func TestEventsAreSeries(t *testing.T) {
	l := newLedger(t)
	l.run()
	l.events.Post(killed(0, "first"))
	l.settles(inShop + "x1: first")
	l.events.Post(killed(20, "second"))
	l.settles(inShop + "x2: second")
	other := killed(20, "of another container")
	other.Container = "sidecar"
	l.events.Post(other)
	l.settles(inShop+"x2: second", inShop+"x1: of another container")
	l.events.Post(killed(3000, "third"))
	l.events.Post(killed(6000, "fourth, 50 minutes after the third"))
	l.settles(inShop+"x4: fourth, 50 minutes after the third", inShop+"x1: of another container")
	l.events.Post(killed(10000, "more than an hour later"))
	l.settles(inShop+"x4: fourth, 50 minutes after the third", inShop+"x1: of another container", inShop+"x1: more than an hour later")
	if n := len(l.events.known); n != 1 {
		t.Errorf("%d are remembered, want that of the last hour", n)
	}
	for at, o := range l.objects {
		if o["count"] == 4.0 && (o["firstTimestamp"] != "2026-11-24T10:00:00Z" || o["lastTimestamp"] != "2026-11-24T11:40:00Z") {
			t.Errorf("%s: %v", at, o)
		}
	}
}

// The API server forgets Events earlier where it is told to.
func TestEventIsForgotten(t *testing.T) {
	l := newLedger(t)
	l.run()
	l.events.Post(killed(0, "first"))
	l.settles(inShop + "x1: first")
	l.mu.Lock()
	clear(l.objects)
	l.mu.Unlock()
	l.events.Post(killed(20, "second"))
	l.settles(inShop + "x2: second")
}

// Beyond the burst, Events wait, and what happens again meanwhile waits with them.
func TestEventsRate(t *testing.T) {
	l := newLedger(t)
	l.events.limit = rate.NewLimiter(rate.Every(100*time.Millisecond), 2)
	for i := range 5 {
		e := killed(0, "killed")
		e.Pod = fmt.Sprintf("cart-%d", i)
		for range 100 {
			l.events.Post(e)
		}
	}
	began := time.Now()
	l.run()
	settles(t, "five objects", func() bool { return len(l.kept()) == 5 })
	if took := time.Since(began); took < 250*time.Millisecond {
		t.Errorf("5 took %v, and 3 of them have 100 ms each to wait", took)
	}
	if kept := l.kept(); kept[0] != inShop+"x100: killed" || len(l.requests) != 5 {
		t.Errorf("%v by %v", kept, l.requests)
	}
}

// An API server that is away for a while loses nothing, and is told of once.
func TestEventsWaitForTheAPIServer(t *testing.T) {
	l := newLedger(t)
	l.events.limit = rate.NewLimiter(rate.Inf, 1)
	tries := 0
	l.refuse = func(w http.ResponseWriter, _ *http.Request) bool {
		if tries++; tries <= 2 {
			http.Error(w, "etcd is away", http.StatusServiceUnavailable)
		}
		return tries <= 2
	}
	l.run()
	l.events.Post(killed(0, "first"))
	l.events.Post(killed(1, "second"))
	l.settles(inShop + "x2: second")
	if len(l.failed) != 1 || !strings.HasPrefix(l.failed[0].Error, "it answers 503 Service Unavailable: etcd is away") ||
		!strings.HasSuffix(l.failed[0].Source, "/api/v1/events") || !strings.Contains(l.failed[0].Hint, "kubectl describe does not tell") {
		t.Errorf("%+v", l.failed)
	}
	// An answer that was lost: the object is there at the second try.
	l.mu.Lock()
	l.refuse = func(w http.ResponseWriter, r *http.Request) bool {
		l.refuse = nil
		l.objects[r.URL.Path+"/"+l.events.objectName(l.events.known[key(killed(9000, ""))])] = map[string]any{"reason": "Lost", "count": 1, "message": ""}
		http.Error(w, "", http.StatusGatewayTimeout)
		return true
	}
	l.mu.Unlock()
	l.events.Post(killed(9000, "third"))
	settles(t, "the second try", func() bool { l.mu.Lock(); defer l.mu.Unlock(); return l.refuse == nil && l.events.waiting() == 0 })
	l.settles(inShop+"x2: second", "/api/v1/namespaces/shop/events Lost x1: ")
	l.events.Post(killed(9001, "fourth"))
	l.settles(inShop+"x2: second", "/api/v1/namespaces/shop/events Lost x2: fourth")
	if len(l.failed) != 2 || !strings.Contains(l.failed[1].Error, "504") {
		t.Errorf("%+v", l.failed)
	}
}

func key(e Event) Event {
	e.Message, e.Time = "", time.Time{}
	return e
}

func TestEventsFaults(t *testing.T) {
	status := func(code int, message string) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, _ *http.Request) bool {
			http.Error(w, fmt.Sprintf(`{"kind":"Status","message":%q}`, message), code)
			return true
		}
	}
	for name, c := range map[string]struct {
		refuse      func(http.ResponseWriter, *http.Request) bool
		error, hint string // empty where it is no failure
	}{
		"no right": {
			func(w http.ResponseWriter, r *http.Request) bool {
				namespace := strings.Split(r.URL.Path, "/")[4]
				return status(http.StatusForbidden, `events is forbidden: User "memrecon" cannot create resource "events" in the namespace `+namespace)(w, r)
			},
			"it answers 403 Forbidden: events is forbidden", "grant create and patch on events to memrecon's ServiceAccount, as manifests/overlays/events does",
		},
		"the namespace is being deleted": {
			status(http.StatusForbidden, `events "x" is forbidden: unable to create new content in namespace shop because it is being terminated`), "", "",
		},
		"the namespace is gone": {status(http.StatusNotFound, `namespaces "shop" not found`), "", ""},
		"refused":               {status(http.StatusUnprocessableEntity, "name: Invalid value"), "422 Unprocessable Entity: name: Invalid value", "check --kubernetes.url"},
		"no token":              {status(http.StatusUnauthorized, ""), "401", "does not know memrecon's token"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLedger(t)
			l.refuse = c.refuse
			l.run()
			for i := range 3 {
				e := killed(i, "killed")
				if i == 1 && c.error != "" {
					e.Namespace = "another"
				}
				l.events.Post(e)
				settles(t, "the try", func() bool { l.mu.Lock(); defer l.mu.Unlock(); return len(l.requests) > i })
			}
			time.Sleep(50 * time.Millisecond)
			l.mu.Lock()
			failed := slices.Clone(l.failed)
			l.refuse = nil
			l.mu.Unlock()
			switch {
			case c.error == "" && len(failed) > 0:
				t.Errorf("%+v", failed)
			case c.error != "" && (len(failed) != 1 || !strings.Contains(failed[0].Error, c.error) || !strings.Contains(failed[0].Hint, c.hint)):
				t.Errorf("%+v, want once %q and %q", failed, c.error, c.hint)
			}
			l.events.Post(killed(3, "killed again"))
			count := 4
			if c.error != "" {
				count = 3
			}
			l.settles(fmt.Sprintf("%sx%d: killed again", inShop, count))
		})
	}
}

// While nobody takes them, no more wait than there is room for, and posting does not wait.
func TestEventsAreBounded(t *testing.T) {
	l := newLedger(t)
	l.events.limit = rate.NewLimiter(rate.Inf, 1)
	for i := range maxDue + 7 {
		e := killed(0, "killed")
		e.Pod = fmt.Sprintf("cart-%d", i)
		l.events.Post(e)
	}
	if n := len(l.events.known); n != maxDue {
		t.Errorf("%d wait, want %d", n, maxDue)
	}
	l.run()
	settles(t, "all are written", func() bool { return len(l.kept()) == maxDue })
	settles(t, "the loss is told", func() bool { l.mu.Lock(); defer l.mu.Unlock(); return len(l.failed) == 1 })
	if got := l.failed[0].Error; got != "7 were lost: more than 1000 waited" {
		t.Error(got)
	}
}

func TestEventLengths(t *testing.T) {
	l := newLedger(t)
	l.run()
	e := killed(0, strings.Repeat("é", 600))
	e.Pod = strings.Repeat("a", 235) + "." + strings.Repeat("b", 17)
	l.events.Post(e)
	settles(t, "it is written", func() bool { return len(l.kept()) == 1 })
	for at, o := range l.objects {
		message := o["message"].(string)
		if len(message) > 1024 || len(message) < 1000 || !utf8.ValidString(message) || !strings.HasSuffix(message, "é…") {
			t.Errorf("a message of %d bytes: %q", len(message), message)
		}
		if name := path.Base(at); len(name) > 253 || strings.Contains(name, "..") {
			t.Errorf("a name of %d bytes: %s", len(name), name)
		}
	}
}

func TestOpenEventsNeeds(t *testing.T) {
	f := newFake(t)
	for name, spoil := range map[string]func(*Config){
		"--kubernetes.url": func(c *Config) { c.APIServer = "" }, "--node": func(c *Config) { c.Node = "" },
		"--kubernetes.serviceaccount": func(c *Config) { c.ServiceAccount = t.TempDir() },
	} {
		config := f.config
		spoil(&config)
		if _, err := OpenEvents(config); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("without %s: %v", name, err)
		}
	}
}
