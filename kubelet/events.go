package kubelet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/memrecon/memrecon/snapshot"
)

// Event is what kubectl describe is to show of a pod or of the Node.
type Event struct {
	// Namespace, Pod and UID are as in snapshot.Pod; without a Pod the Event is the Node's.
	Namespace, Pod, UID string
	// Container is which of the pod's it is about, empty for none, and Kind its kind. kubectl shows it before the message.
	Container string
	Kind      snapshot.ContainerKind
	// Reason is one word for machines, such as OOMKillExplained.
	Reason string
	// Message is a sentence for people. Beyond 1,024 bytes it is cut off: that is how much the newer of Kubernetes' two APIs takes.
	Message string
	// Time is when it happened.
	Time time.Time
}

// Events writes Events of type Warning to the API server, beside whatever else the agent does: who posts one never waits.
//
// It takes the older of the two APIs, core/v1, as the kubelet does: every kubectl describe shows its count and times. What has
// happened before within the hour is one Event whose count rises; the API server keeps an Event for an hour from its last change.
// Not more than one request in 10 s is made, but for a few at once, so that a node full of dying pods is no load.
type Events struct {
	endpoint
	node    string
	timeout time.Duration
	limit   *rate.Limiter
	posted  chan struct{}

	mu    sync.Mutex
	known map[Event]*series // by the Event without its message and time
	due   []*series         // to be written, the longest waiting first
	lost  int               // for which there was no room
}

// series is one Event of the API server's.
type series struct {
	event Event // the last
	first time.Time
	count int
	isDue bool
	// name is the object's, empty before it is written.
	name string
}

const (
	// sameEvent is within which time another one is the same again: as long as the API server keeps it, by default.
	sameEvent = time.Hour
	// maxDue bounds those that wait, while the API server is away.
	maxDue     = 1000
	maxMessage = 1024
	// The rate that a crash loop or a storm of kills is held to.
	eventInterval = 10 * time.Second
	eventBurst    = 10
)

// OpenEvents prepares the writing. Config needs an API server and the name of the Node.
func OpenEvents(config Config) (*Events, error) {
	if config.APIServer == "" || config.Node == "" {
		return nil, errors.New("events need the API server (--kubernetes.url) and the name of the node (--node)")
	}
	if config.Timeout == 0 {
		config.Timeout = 5 * time.Second
	}
	api, err := newAPIServer(&config)
	if err != nil {
		return nil, err
	}
	return &Events{
		endpoint: endpoint{api, source{
			path: "/api/v1/events", right: "create and patch on events", coarse: ", as manifests/overlays/events does",
			lost: "kubectl describe does not tell what happened",
		}},
		node: config.Node, timeout: config.Timeout, limit: rate.NewLimiter(rate.Every(eventInterval), eventBurst),
		posted: make(chan struct{}, 1), known: map[Event]*series{},
	}, nil
}

// Post has an Event written, sooner or later.
func (e *Events) Post(event Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for key, s := range e.known {
		if !s.isDue && event.Time.Sub(s.event.Time) > sameEvent {
			delete(e.known, key)
		}
	}
	key := event
	key.Message, key.Time = "", time.Time{}
	s := e.known[key]
	if s == nil {
		s = &series{first: event.Time}
	}
	if !s.isDue && len(e.due) >= maxDue {
		e.lost++
		return
	}
	e.known[key] = s
	s.event = event
	s.count++
	if !s.isDue {
		s.isDue = true
		e.due = append(e.due, s)
	}
	select {
	case e.posted <- struct{}{}:
	default:
	}
}

// Run writes what is posted until ctx ends, and hands over what stands in the way, once as long as the same is to be done about it.
func (e *Events) Run(ctx context.Context, failed func(snapshot.SourceError)) {
	defer e.client.CloseIdleConnections()
	told := "" // the last hint: an error has a namespace in it
	wait := firstWait
	for {
		if e.waiting() == 0 {
			select {
			case <-ctx.Done():
				return
			case <-e.posted:
				continue
			}
		}
		if err := e.limit.Wait(ctx); err != nil {
			return
		}
		again, err := e.writeNext(ctx)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			told, wait = "", firstWait
			continue
		}
		if now := e.failed(err); now.Hint != told {
			failed(now)
			told = now.Hint
		}
		if !again {
			continue
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait/2 + rand.N(wait)):
		}
		wait = min(2*wait, longestWait)
	}
}

func (e *Events) waiting() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.due)
}

// writeNext writes the one that has waited longest. After an error that may pass by itself it waits again.
func (e *Events) writeNext(ctx context.Context) (again bool, err error) {
	e.mu.Lock()
	s := e.due[0]
	e.due = e.due[1:]
	s.isDue = false
	now := *s
	lost := e.lost
	e.lost = 0
	e.mu.Unlock()

	ctx, cancel := context.WithTimeout(ctx, e.timeout)
	defer cancel()
	name, err := e.write(ctx, &now)

	e.mu.Lock()
	defer e.mu.Unlock()
	s.name = name
	if again = mayPass(err); again {
		e.lost += lost
		if !s.isDue {
			s.isDue = true
			e.due = append([]*series{s}, e.due...)
		}
	} else if err == nil && lost > 0 {
		err = fmt.Errorf("%d were lost: more than %d waited", lost, maxDue)
	}
	return again, err
}

// mayPass tells the errors after which it is worth to try again: no answer, none in time, too many requests, a failure of the server's own.
func mayPass(err error) bool {
	if status, ok := errors.AsType[*statusError](err); ok {
		return status.code == http.StatusTooManyRequests || status.code >= 500
	}
	return err != nil
}

// write writes an Event's first occurrence, or changes what is there. It returns the object's name.
func (e *Events) write(ctx context.Context, s *series) (name string, err error) {
	if s.name != "" {
		err := e.change(ctx, s)
		if !isStatus(err, http.StatusNotFound) {
			return s.name, err
		}
		// The API server has forgotten it.
	}
	name = e.objectName(s)
	err = e.create(ctx, s, name)
	switch {
	case isStatus(err, http.StatusConflict): // an answer before was lost
		return name, nil
	case isStatus(err, http.StatusNotFound) && s.event.Pod != "", isTerminating(err): // with the namespace goes who would look
		return "", nil
	case err != nil:
		return "", err
	}
	return name, nil
}

func isStatus(err error, code int) bool {
	status, ok := errors.AsType[*statusError](err)
	return ok && status.code == code
}

// isTerminating tells a 403 that is no matter of rights: the namespace is being deleted.
func isTerminating(err error) bool {
	status, ok := errors.AsType[*statusError](err)
	return ok && status.code == http.StatusForbidden && strings.Contains(status.text, "because it is being terminated")
}

func (e *Events) create(ctx context.Context, s *series, name string) error {
	return e.send(ctx, http.MethodPost, namespaceOf(&s.event), "", "application/json", e.object(s, name))
}

func (e *Events) change(ctx context.Context, s *series) error {
	return e.send(ctx, http.MethodPatch, namespaceOf(&s.event), "/"+url.PathEscape(s.name), "application/merge-patch+json", eventPatchJSON{
		Count: s.count, LastTimestamp: s.event.Time.UTC().Format(time.RFC3339), Message: cutMessage(s.event.Message),
	})
}

func (e *Events) send(ctx context.Context, method, namespace, name, contentType string, object any) error {
	content, err := json.Marshal(object)
	if err != nil {
		return err
	}
	body, err := e.ask(ctx, method, "/api/v1/namespaces/"+url.PathEscape(namespace)+"/events"+name, contentType, content)
	if err != nil {
		return err
	}
	defer body.Close()
	_, err = io.Copy(io.Discard, &bounded{r: body, left: maxAnswer})
	return err
}

// namespaceOf is where an Event is kept: the Node's, which has no namespace, in default.
func namespaceOf(event *Event) string {
	if event.Pod == "" {
		return "default"
	}
	return event.Namespace
}

// eventJSON is the part of k8s.io/api/core/v1's Event that memrecon writes.
type eventJSON struct {
	Metadata struct {
		Name      string `json:"name"`
		Namespace string `json:"namespace"`
	} `json:"metadata"`
	InvolvedObject objectJSON `json:"involvedObject"`
	Reason         string     `json:"reason"`
	Type           string     `json:"type"`
	Source         struct {
		Component string `json:"component"`
		Host      string `json:"host"`
	} `json:"source"`
	ReportingComponent string `json:"reportingComponent"`
	ReportingInstance  string `json:"reportingInstance"`
	FirstTimestamp     string `json:"firstTimestamp"`
	eventPatchJSON
}

// eventPatchJSON is what changes when it happens again.
type eventPatchJSON struct {
	Count         int    `json:"count"`
	LastTimestamp string `json:"lastTimestamp"`
	Message       string `json:"message"`
}

type objectJSON struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Namespace  string `json:"namespace,omitempty"`
	Name       string `json:"name"`
	UID        string `json:"uid"`
	FieldPath  string `json:"fieldPath,omitempty"`
}

// object is the API's form of an Event. That of the Node has its name for a UID, as the kubelet's have: kubectl describe looks for
// both, and the true one takes a right to read.
func (e *Events) object(s *series, name string) eventJSON {
	o := eventJSON{
		InvolvedObject: objectJSON{APIVersion: "v1", Kind: "Node", Name: e.node, UID: e.node},
		Reason:         s.event.Reason, Type: "Warning", ReportingComponent: "memrecon", ReportingInstance: e.node,
		FirstTimestamp: s.first.UTC().Format(time.RFC3339),
	}
	if s.event.Pod != "" {
		o.InvolvedObject = objectJSON{
			APIVersion: "v1", Kind: "Pod", Namespace: s.event.Namespace, Name: s.event.Pod, UID: s.event.UID, FieldPath: fieldPath(&s.event),
		}
	}
	o.Metadata.Name, o.Metadata.Namespace = name, namespaceOf(&s.event)
	o.Source.Component, o.Source.Host = "memrecon", e.node
	o.eventPatchJSON = eventPatchJSON{s.count, s.event.Time.UTC().Format(time.RFC3339), cutMessage(s.event.Message)}
	return o
}

// fieldPath is how the kubelet names a container of a pod.
func fieldPath(event *Event) string {
	if event.Container == "" {
		return ""
	}
	field := "containers"
	switch event.Kind {
	case snapshot.InitContainer, snapshot.SidecarContainer:
		field = "initContainers"
	case snapshot.EphemeralContainer:
		field = "ephemeralContainers"
	}
	return "spec." + field + "{" + event.Container + "}"
}

// objectName is a name of the kubelet's form, within the 253 bytes of a name. The same Event always has the same one, so that a
// second try does not make a second object.
func (e *Events) objectName(s *series) string {
	object := s.event.Pod
	if object == "" {
		object = e.node
	}
	hash := fnv.New64a()
	fmt.Fprintln(hash, s.first.UnixNano(), s.event.Namespace, s.event.UID, s.event.Container, s.event.Reason)
	suffix := fmt.Sprintf(".%016x", hash.Sum64())
	return strings.TrimRight(object[:min(len(object), 253-len(suffix))], ".-") + suffix
}

func cutMessage(message string) string {
	const cut = "…"
	if len(message) <= maxMessage {
		return message
	}
	return strings.ToValidUTF8(message[:maxMessage-len(cut)], "") + cut
}
