package snapshot

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"
)

// Redact is a copy of s for other people's eyes. The names of the node, of cgroups and their units, of pods, containers and
// swap areas, and the paths, names and addresses in errors are replaced by a keyed hash, the same name by the same everywhere; without
// the salt nobody can try names out. What the form of a name says stays: that a cgroup is kubepods or a slice, that a pod's
// UID or a container's ID stands in it and whose runtime made it, so that identify (cgroup.Identify) tells the same of both.
// Numbers, the time and the kernel's release stay as they are.
func Redact(s *Snapshot, salt []byte, identify func(path string) Identity) *Snapshot {
	r := redactor{salt: salt, names: map[string]string{}}
	out := *s
	if s.Node != "" {
		out.Node = r.word(s.Node)
		r.names[s.Node] = out.Node
	}
	out.Host.Swaps = slices.Clone(s.Host.Swaps)
	for i := range out.Host.Swaps {
		swap := &out.Host.Swaps[i]
		swap.Name = r.name(swap.Name)
	}
	out.Cgroups = slices.Clone(s.Cgroups)
	for i := range out.Cgroups {
		c := &out.Cgroups[i]
		for element := range strings.SplitSeq(c.Path, "/") {
			r.names[element] = r.name(element)
		}
		c.Path = r.name(c.Path)
		c.Identity = identify(c.Path)
	}
	out.Kubernetes = r.kubernetes(s.Kubernetes)
	out.Errors = slices.Clone(s.Errors)
	for i, e := range out.Errors {
		out.Errors[i] = SourceError{Source: r.sentence(e.Source), Error: r.sentence(e.Error), Hint: r.sentence(e.Hint)}
	}
	return &out
}

// kubernetes replaces the names of pods, containers and the node, and of conditions and taints that are not Kubernetes' own.
func (r *redactor) kubernetes(k *Kubernetes) *Kubernetes {
	if k == nil {
		return nil
	}
	out := *k
	out.Summary.Pods = slices.Clone(k.Summary.Pods)
	for i := range out.Summary.Pods {
		p := &out.Summary.Pods[i]
		p.Namespace, p.Name, p.UID = r.name(p.Namespace), r.name(p.Name), r.name(p.UID)
		p.Containers = slices.Clone(p.Containers)
		for j := range p.Containers {
			p.Containers[j].Name = r.name(p.Containers[j].Name)
		}
	}
	out.WorkingSets = slices.Clone(k.WorkingSets)
	for i := range out.WorkingSets {
		w := &out.WorkingSets[i]
		w.Namespace, w.Pod, w.Container = r.name(w.Namespace), r.name(w.Pod), r.name(w.Container)
	}
	out.Pods = slices.Clone(k.Pods)
	for i := range out.Pods {
		p := &out.Pods[i]
		r.know(p.Namespace, p.Name)
		for j := range p.Containers {
			r.know(p.Containers[j].Name)
		}
	}
	for i := range out.Pods {
		p := &out.Pods[i]
		p.Namespace, p.Name, p.UID = r.name(p.Namespace), r.name(p.Name), r.name(p.UID)
		p.Message, p.Disruption.Message = r.message(p.Message), r.message(p.Disruption.Message)
		p.Containers = slices.Clone(p.Containers)
		for j := range p.Containers {
			c := &p.Containers[j]
			c.Name, c.ID = r.name(c.Name), r.name(c.ID)
			r.termination(&c.Terminated)
			r.termination(&c.Previous)
		}
	}
	if k.Node.Name != "" {
		out.Node.Name = r.word(k.Node.Name) // as in Snapshot.Node
		r.names[k.Node.Name] = out.Node.Name
	}
	out.Node.Conditions = slices.Clone(k.Node.Conditions)
	for i := range out.Node.Conditions {
		switch c := &out.Node.Conditions[i]; c.Type {
		case "Ready", "MemoryPressure", "DiskPressure", "PIDPressure", "NetworkUnavailable":
		default:
			c.Type, c.Reason = r.name(c.Type), r.name(c.Reason)
		}
	}
	out.Node.Taints = slices.Clone(k.Node.Taints)
	for i := range out.Node.Taints {
		t := &out.Node.Taints[i]
		if !strings.HasPrefix(t.Key, "node.kubernetes.io/") {
			t.Key = r.name(t.Key)
		}
		t.Value = r.name(t.Value)
	}
	return &out
}

type redactor struct {
	salt []byte
	// names has the replacements of the node's name and of every element of a cgroup's path.
	names map[string]string
}

// know has names replaced in sentences too.
func (r *redactor) know(names ...string) {
	for _, name := range names {
		if _, known := r.names[name]; !known {
			r.names[name] = r.name(name)
		}
	}
}

// termination keeps of a message what the runtime or the kubelet says; an application's last words are its own, and may be anything.
func (r *redactor) termination(t *Termination) {
	t.ContainerID = r.name(t.ContainerID)
	switch t.Reason {
	case "StartError", "ContainerCannotRun", "ContainerStatusUnknown":
		t.Message = r.message(t.Message)
	default:
		if t.Message != "" {
			t.Message = r.word(t.Message)
		}
	}
}

// message is sentence for what Kubernetes says of a pod. In an eviction a name stands behind the word that says whose it is, and
// nowhere else: a container may be named like one of the other words.
func (r *redactor) message(text string) string {
	if _, ok := ParseEviction(text); !ok {
		return r.sentence(text)
	}
	words := strings.Split(text, " ")
	for i := range words[1:] {
		if words[i] == "Container" || words[i] == "Pod" {
			words[i+1] = r.name(words[i+1])
		}
	}
	return strings.Join(words, " ")
}

// sentence replaces the paths, IDs and names in a text that is otherwise memrecon's or the system's own.
func (r *redactor) sentence(text string) string {
	var b strings.Builder
	for len(text) > 0 {
		end := strings.IndexAny(text, " \t\n\"'()")
		if end < 0 {
			end = len(text)
		}
		name := strings.TrimRight(text[:end], ":;,.")
		replacement, known := r.names[name]
		switch {
		case known:
			b.WriteString(replacement)
		case strings.Contains(name, "/") || len(name) >= staticUID || strings.Count(name, ".")+strings.Count(name, ":") > 1: // an address
			b.WriteString(r.name(name))
		default:
			b.WriteString(name)
		}
		next := min(end+1, len(text))
		b.WriteString(text[len(name):next])
		text = text[next:]
	}
	return b.String()
}

// name replaces the words and IDs in a path or an element of one, and keeps what stands between them. The systemd units in a
// slice repeat its name word by word, and so do their replacements.
func (r *redactor) name(s string) string {
	var b strings.Builder
	for s != "" {
		n := separatorLength(s)
		if n > 0 {
			b.WriteString(s[:n])
			s = s[n:]
			continue
		}
		if uid, ok := strings.CutPrefix(s, "pod"); ok && idLength(uid) > 0 {
			b.WriteString("pod")
			s = uid
		}
		if n = idLength(s); n > 0 {
			b.WriteString(r.id(s[:n]))
		} else if n = wordLength(s); isStructure(s[:n]) {
			b.WriteString(s[:n])
		} else {
			b.WriteString(r.word(s[:n]))
		}
		s = s[n:]
	}
	return b.String()
}

// word has a letter that is no hexadecimal digit, so that it is never taken for an ID.
func (r *redactor) word(s string) string { return "n" + r.hash(s)[:12] }

// id has the form of the ID it replaces. A UID is the same with dashes and with the systemd driver's underscores.
func (r *redactor) id(s string) string {
	if len(s) != uuid {
		return r.hash(s)[:len(s)]
	}
	b := []byte(r.hash(strings.ReplaceAll(s, "_", "-"))[:uuid])
	for i := range b {
		if !isWord(s[i]) {
			b[i] = s[i]
		}
	}
	return string(b)
}

func (r *redactor) hash(s string) string {
	h := hmac.New(sha256.New, r.salt)
	h.Write([]byte(s))
	return hex.EncodeToString(h.Sum(nil))
}

// The lengths of the IDs: a container's, a pod's, and a static pod's.
const (
	containerID = 64
	uuid        = 36
	staticUID   = 32
)

// idLength is how much of s is an ID that it begins with; 0 where it begins with none.
func idLength(s string) int {
	for _, n := range []int{containerID, uuid, staticUID} {
		if len(s) < n {
			continue
		}
		matches := true
		for i := range n {
			if n == uuid && (i == 8 || i == 13 || i == 18 || i == 23) {
				matches = matches && (s[i] == '-' || s[i] == '_')
			} else {
				matches = matches && (s[i] >= '0' && s[i] <= '9' || s[i] >= 'a' && s[i] <= 'f')
			}
		}
		if matches {
			return n
		}
	}
	return 0
}

// separatorLength is how much of s stands before the next word: a byte of ASCII punctuation, or a byte that is escaped, as
// systemd (\x2d) and /proc/swaps (\040) do it; 0 where a word begins.
func separatorLength(s string) int {
	if isWord(s[0]) {
		return 0
	}
	if s[0] == '\\' && len(s) >= 4 && strings.Trim(s[1:4], "x0123456789abcdef") == "" {
		return 4
	}
	return 1
}

func wordLength(s string) int {
	for i := range len(s) {
		if !isWord(s[i]) {
			return i
		}
	}
	return len(s)
}

func isWord(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= 0x80
}

// isStructure tells the words that every machine has, which say how a tree is built and not whose it is.
func isStructure(word string) bool {
	switch word {
	case "kubepods", "burstable", "besteffort", "kubelet", "pod", "podruntime", "runtime", // the kubelet
		"cri", "containerd", "crio", "conmon", "docker", "libpod", "nerdctl", "lxc", // runtimes
		"payload", "monitor", "container", "parent", "default", "k8s", "io", "moby", "ns",
		"slice", "scope", "service", "socket", "mount", "swap", // systemd
		"system", "user", "machine", "init", "session", "app",
		"proc", "sys", "fs", "cgroup", "unified", "dev", "kernel", // files
		"meminfo", "vmstat", "zoneinfo", "pressure", "swaps", "version", "osrelease", "hostname",
		"memory", "stat", "current", "max", "min", "low", "high", "peak", "events", "local", "oom", "group", "control",
		"usage", "limit", "soft", "in", "bytes", "failcnt", "kmem", "tcp", "memsw", "use", "hierarchy", "controllers":
		return true
	}
	return false
}
