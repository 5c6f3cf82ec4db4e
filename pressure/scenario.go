package pressure

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/memrecon/memrecon/leak"
	"github.com/memrecon/memrecon/snapshot"
	"github.com/memrecon/memrecon/verdict"
)

// Scenario is one pressure test as its file says it: pods as Kubernetes writes them, the order in which they start, what is
// expected of each container, and the guards. Nothing in it says where it runs.
type Scenario struct {
	Name string `json:"name"`
	// Summary is one line, Description what a reader has to know to understand the outcome.
	Summary     string `json:"summary"`
	Description string `json:"description,omitempty"`
	// Node is what stands above all pods.
	Node Node  `json:"node,omitzero"`
	Pods []Pod `json:"pods"`
	// Steps start the pods. Each pod is started once.
	Steps []Step `json:"steps"`
	// Expect is what is expected of each container, by pod/container.
	Expect map[string]Expectation `json:"expect"`
	Guards Guards                 `json:"guards"`
}

// Node is the part of a node that a scenario needs.
type Node struct {
	// PodsLimit is the limit of all pods together: the kubelet's kubepods cgroup. Empty for none.
	PodsLimit Quantity `json:"podsLimit,omitempty"`
}

// Pod is a pod; its fields are those of the API that matter here.
type Pod struct {
	Name string `json:"name"`
	// Volumes are in memory (emptyDir with medium Memory); each is a tmpfs of the pod.
	Volumes []Volume `json:"volumes,omitempty"`
	// InitContainers run one after the other, each to its end, before Containers start together.
	InitContainers []Container `json:"initContainers,omitempty"`
	Containers     []Container `json:"containers"`
}

// Volume is an emptyDir in memory.
type Volume struct {
	Name      string   `json:"name"`
	SizeLimit Quantity `json:"sizeLimit"`
}

// Container is a container and the one program that runs in it.
type Container struct {
	Name      string    `json:"name"`
	Resources Resources `json:"resources,omitzero"`
	// Either of the two.
	Leak  *Leak  `json:"leak,omitempty"`
	Write *Write `json:"write,omitempty"`
}

// Resources are a container's request and limit of memory; empty for none.
type Resources struct {
	Requests Memory `json:"requests,omitzero"`
	Limits   Memory `json:"limits,omitzero"`
}

// Memory is the entry of a resource list that matters here.
type Memory struct {
	Memory Quantity `json:"memory,omitempty"`
}

// Leak runs memrecon leak; a field is the flag of that name and stays away where it is empty.
type Leak struct {
	Kind    string   `json:"kind,omitempty"`
	Block   Quantity `json:"block,omitempty"`
	Max     Quantity `json:"max"`
	Rate    Quantity `json:"rate,omitempty"` // in a second
	Every   Duration `json:"every,omitempty"`
	Hold    Duration `json:"hold"`
	DieAt   Quantity `json:"dieAt,omitempty"`
	DieWith string   `json:"dieWith,omitempty"`
}

// Write writes a file into a volume of the pod and ends.
type Write struct {
	Volume string   `json:"volume"`
	Size   Quantity `json:"size"`
}

// Step starts a pod and goes on when Until has come, at once where it is nil.
type Step struct {
	Start string     `json:"start"`
	Until *Condition `json:"until,omitempty"`
}

// Condition is a state of a container: that its usage has reached a size, or that its program has ended. One that has ended
// meets both.
type Condition struct {
	Container string   `json:"container"`
	Usage     Quantity `json:"usage,omitempty"`
	Ended     bool     `json:"ended,omitempty"`
}

// Expectation is what is expected of a container. What is left out is not looked at.
type Expectation struct {
	// Reason is how Kubernetes would call its end.
	Reason Reason `json:"reason"`
	// ExitCode is the program's exit status, or 128 and the signal that ended it.
	ExitCode *int `json:"exitCode,omitempty"`
	// Verdicts are what memrecon may tell its death for memory as: one of them, where the kernel decides between limits that are the
	// same. An empty list is for a container that is not to be told of.
	Verdicts []verdict.Verdict `json:"verdicts,omitzero"`
	// Reclaimed tells whether the kernel had to reclaim memory at the container's own limit.
	Reclaimed *bool `json:"reclaimed,omitempty"`
	// Left is the least of tmpfs that is still charged to the container after its end.
	Left Quantity `json:"left,omitempty"`
	// NotBefore is how long after its start the container ends at the earliest.
	NotBefore Duration `json:"notBefore,omitempty"`
}

// Reason is the end of a container as the API writes it.
type Reason string

// The reasons that a container on a host can end for.
const (
	OOMKilled Reason = "OOMKilled"
	Error     Reason = "Error"
	Completed Reason = "Completed"
)

// Level is a place in the tree of cgroups that may have a limit.
type Level string

// The levels.
const (
	NodeLevel      Level = "node" // all pods together
	PodLevel       Level = "pod"
	ContainerLevel Level = "container"
)

// Guards end a scenario before it harms the machine.
type Guards struct {
	// NodeAvailable is the floor of the node's MemAvailable.
	NodeAvailable Quantity `json:"nodeAvailable"`
	// Timeout is how long the scenario may take.
	Timeout Duration `json:"timeout"`
}

// Quantity is a quantity of memory as Kubernetes writes it, such as 100Mi, or a number of bytes.
type Quantity string

// UnmarshalJSON takes a string or a number.
func (q *Quantity) UnmarshalJSON(b []byte) error { return scalar((*string)(q), b) }

// Bytes is the quantity of a scenario that has been checked, 0 where it is empty.
func (q Quantity) Bytes() int64 {
	v, _ := snapshot.ParseQuantity(string(q))
	n, _ := v.Get()
	return int64(n)
}

// Duration is a length of time as Go writes it, such as 1m30s.
type Duration string

// UnmarshalJSON takes a string or a number; a number other than 0 lacks its unit, which the check says better.
func (d *Duration) UnmarshalJSON(b []byte) error { return scalar((*string)(d), b) }

// Time is the duration of a scenario that has been checked, 0 where it is empty.
func (d Duration) Time() time.Duration {
	t, _ := time.ParseDuration(string(d))
	return t
}

// scalar takes a string or a number, as it is written, so that what is wrong with it can be said with its place.
func scalar(s *string, b []byte) error {
	if len(b) > 0 && b[0] == '"' {
		return json.Unmarshal(b, s)
	}
	*s = string(b)
	return nil
}

// Parse reads a scenario's file. Each error is one line that names the field.
func Parse(file []byte) (*Scenario, error) {
	s := new(Scenario)
	if err := yaml.UnmarshalStrict(file, s); err != nil {
		return nil, errors.New(plain(err))
	}
	if err := s.check(); err != nil {
		return nil, err
	}
	return s, nil
}

// plain is a YAML or JSON error without the packages' and types' names and in one line.
func plain(err error) string {
	if e, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return fmt.Sprintf("%s: a %s is not what goes there", e.Field, e.Value)
	}
	words := err.Error()
	for _, noise := range []string{"error converting YAML to JSON: ", "error unmarshaling JSON: ", "while decoding JSON: ", "json: ", "yaml: ", "unmarshal errors:"} {
		words = strings.ReplaceAll(words, noise, "")
	}
	return strings.Join(strings.Fields(words), " ")
}

// checker collects what is wrong with a scenario, each with its place.
type checker struct{ errs []error }

func (c *checker) bad(place, format string, args ...any) {
	c.errs = append(c.errs, fmt.Errorf("%s: %s", place, fmt.Sprintf(format, args...)))
}

// name is a DNS label, as Kubernetes wants it.
var name = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)

func (c *checker) name(place, s string) {
	if !name.MatchString(s) {
		c.bad(place, "%q is no name: lower-case letters, digits and - (as in Kubernetes)", s)
	}
}

func (c *checker) quantity(place string, q Quantity, required bool) {
	v, err := snapshot.ParseQuantity(string(q))
	n, _ := v.Get()
	switch {
	case q == "" && required:
		c.bad(place, "is missing")
	case q == "":
	case err != nil:
		c.bad(place, "%s", err)
	case n == 0 && required:
		c.bad(place, "has to be more than 0")
	case n >= 1<<62:
		c.bad(place, "%.40q is more than any machine has", string(q))
	}
}

func (c *checker) duration(place string, d Duration, required bool) {
	t, err := time.ParseDuration(string(d))
	switch {
	case d == "" && required:
		c.bad(place, "is missing")
	case d == "":
	case err != nil:
		c.bad(place, "%.40q is not a time: a number with a unit, such as 500ms or 1m30s", string(d))
	case t < 0:
		c.bad(place, "%q is negative", string(d))
	}
}

// check finds everything that is wrong.
func (s *Scenario) check() error {
	c := new(checker)
	c.name("name", s.Name)
	if s.Summary == "" || strings.Contains(s.Summary, "\n") {
		c.bad("summary", "has to be one line")
	}
	c.quantity("node.podsLimit", s.Node.PodsLimit, false)
	if len(s.Pods) == 0 {
		c.bad("pods", "there is none")
	}
	pods := map[string]bool{}
	for i := range s.Pods {
		p := &s.Pods[i]
		place := fmt.Sprintf("pods[%d]", i)
		c.name(place+".name", p.Name)
		if pods[p.Name] {
			c.bad(place+".name", "another pod is called %s", p.Name)
		}
		pods[p.Name] = true
		c.pod(place, p)
	}
	refs := s.refs()
	c.steps(s, refs)
	if len(s.Expect) == 0 {
		c.bad("expect", "there is nothing: say of at least one container how it ends")
	}
	for _, ref := range slices.Sorted(maps.Keys(s.Expect)) {
		if !slices.Contains(refs, ref) {
			c.bad("expect."+ref, "there is no such container; there are %s", strings.Join(refs, ", "))
		}
		c.expectation("expect."+ref, s.Expect[ref])
	}
	c.quantity("guards.nodeAvailable", s.Guards.NodeAvailable, true)
	c.duration("guards.timeout", s.Guards.Timeout, true)
	return errors.Join(c.errs...)
}

// pod checks a pod. That all names of containers differ is the API's rule as well.
func (c *checker) pod(place string, p *Pod) {
	var volumes []string
	for i, v := range p.Volumes {
		at := fmt.Sprintf("%s.volumes[%d]", place, i)
		c.name(at+".name", v.Name)
		c.quantity(at+".sizeLimit", v.SizeLimit, true)
		volumes = append(volumes, v.Name)
	}
	if len(p.Containers) == 0 {
		c.bad(place+".containers", "there is none")
	}
	var names []string
	for i, one := range p.all() {
		at := fmt.Sprintf("%s.containers[%d]", place, i-len(p.InitContainers))
		if i < len(p.InitContainers) {
			at = fmt.Sprintf("%s.initContainers[%d]", place, i)
		}
		c.name(at+".name", one.Name)
		if slices.Contains(names, one.Name) {
			c.bad(at+".name", "another container of the pod is called %s", one.Name)
		}
		names = append(names, one.Name)
		c.container(at, one, volumes)
	}
}

func (c *checker) container(place string, one *Container, volumes []string) {
	request, limit := one.Resources.Requests.Memory, one.Resources.Limits.Memory
	c.quantity(place+".resources.requests.memory", request, false)
	c.quantity(place+".resources.limits.memory", limit, false)
	if limit != "" && request.Bytes() > limit.Bytes() {
		c.bad(place+".resources.requests.memory", "%s is more than the limit of %s", request, limit)
	}
	switch {
	case (one.Leak == nil) == (one.Write == nil):
		c.bad(place, "needs either leak or write")
	case one.Leak != nil:
		c.leak(place+".leak", one.Leak)
	default:
		c.quantity(place+".write.size", one.Write.Size, true)
		if !slices.Contains(volumes, one.Write.Volume) {
			c.bad(place+".write.volume", "the pod has no volume %q", one.Write.Volume)
		}
	}
}

func (c *checker) leak(place string, l *Leak) {
	if _, err := leak.ParseKind(l.Kind); l.Kind != "" && err != nil {
		c.bad(place+".kind", "%s", err)
	}
	c.quantity(place+".block", l.Block, false)
	c.quantity(place+".max", l.Max, true)
	c.quantity(place+".rate", l.Rate, false)
	c.duration(place+".every", l.Every, false)
	c.duration(place+".hold", l.Hold, true)
	c.quantity(place+".dieAt", l.DieAt, false)
	if (l.DieAt == "") != (l.DieWith == "") {
		c.bad(place+".dieWith", "dieAt and dieWith go together")
	}
	if _, err := leak.ParseDeath(l.DieWith); l.DieWith != "" && err != nil {
		c.bad(place+".dieWith", "%s", err)
	}
	if l.Rate != "" && l.Every != "" {
		c.bad(place+".every", "rate grows steadily and every in blocks: one of them")
	}
}

func (c *checker) steps(s *Scenario, refs []string) {
	var started []string
	for i, step := range s.Steps {
		place := fmt.Sprintf("steps[%d]", i)
		switch {
		case s.pod(step.Start) == nil:
			c.bad(place+".start", "there is no pod %q", step.Start)
		case slices.Contains(started, step.Start):
			c.bad(place+".start", "pod %s is started before", step.Start)
		}
		started = append(started, step.Start)
		if step.Until == nil {
			continue
		}
		place += ".until"
		pod, _, _ := strings.Cut(step.Until.Container, "/")
		switch {
		case !slices.Contains(refs, step.Until.Container):
			c.bad(place+".container", "there is no container %q; there are %s", step.Until.Container, strings.Join(refs, ", "))
		case !slices.Contains(started, pod):
			c.bad(place+".container", "pod %s is not started yet, so this would never come", pod)
		}
		if (step.Until.Usage == "") == !step.Until.Ended {
			c.bad(place, "needs either usage or ended: true")
		}
		c.quantity(place+".usage", step.Until.Usage, false)
	}
	for i := range s.Pods {
		if !slices.Contains(started, s.Pods[i].Name) {
			c.bad("steps", "pod %s is never started", s.Pods[i].Name)
		}
	}
}

func (c *checker) expectation(place string, e Expectation) {
	if !slices.Contains([]Reason{OOMKilled, Error, Completed}, e.Reason) {
		c.bad(place+".reason", "%q is none of %s, %s and %s", e.Reason, OOMKilled, Error, Completed)
	}
	for i, v := range e.Verdicts {
		if !slices.Contains(verdict.Verdicts(), v) {
			c.bad(fmt.Sprintf("%s.verdicts[%d]", place, i), "%q is none of %s", v, anyOf(verdict.Verdicts()))
		}
	}
	if e.ExitCode != nil && (*e.ExitCode < 0 || *e.ExitCode > 255) {
		c.bad(place+".exitCode", "%d is not between 0 and 255", *e.ExitCode)
	}
	c.quantity(place+".left", e.Left, false)
	c.duration(place+".notBefore", e.NotBefore, false)
}

// refs are all containers, as pod/container, in the file's order.
func (s *Scenario) refs() []string {
	var refs []string
	for i := range s.Pods {
		for _, c := range s.Pods[i].all() {
			refs = append(refs, s.Pods[i].Name+"/"+c.Name)
		}
	}
	return refs
}

// pod is the pod of a name, nil where there is none.
func (s *Scenario) pod(name string) *Pod {
	i := slices.IndexFunc(s.Pods, func(p Pod) bool { return p.Name == name })
	if i < 0 {
		return nil
	}
	return &s.Pods[i]
}

// all are the pod's containers, those that run first before the others.
func (p *Pod) all() []*Container {
	var all []*Container
	for i := range p.InitContainers {
		all = append(all, &p.InitContainers[i])
	}
	for i := range p.Containers {
		all = append(all, &p.Containers[i])
	}
	return all
}
