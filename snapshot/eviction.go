package snapshot

import "strings"

// Eviction is what the kubelet says of a pod that it evicted, or refused, because the node was short of something. It stands in
// Pod.Message, or in Pod.Disruption where the pod shows another end, and in the pod's Event Evicted. The form is that of
// evictionMessage in the kubelet's pkg/kubelet/eviction/helpers.go, from Kubernetes 1.20 to 1.37.
type Eviction struct {
	// Resource is what the node was short of: memory, ephemeral-storage, inodes, pids. memory stands for two signals,
	// memory.available of the node and allocatableMemory.available of its pods, and the message does not say which.
	Resource string `json:"resource,omitempty"`
	// Threshold and Available are that of the signal and what was left, in bytes for memory: a sample of up to 10 s before.
	// Absent before Kubernetes 1.26.
	Threshold Value `json:"threshold,omitzero"`
	Available Value `json:"available,omitzero"`
	// Pod is the pod where it has a request of its own (spec.resources); without a name where the message has none.
	Pod OverRequest `json:"pod,omitzero"`
	// Containers are those that used more than they request, ephemeral ones left out; none where there were no figures of them.
	Containers []OverRequest `json:"containers,omitempty"`
	// Conditions are those of the Node, such as MemoryPressure, for which the pod was refused: it never ran.
	Conditions []string `json:"conditions,omitempty"`
}

// OverRequest is who used more than it requests, in bytes for memory; the usage is the working set.
type OverRequest struct {
	Name    string `json:"name"`
	Usage   Value  `json:"usage,omitzero"`
	Request Value  `json:"request,omitzero"`
}

// ParseEviction reads a message such as
//
//	The node was low on resource: memory. Threshold quantity: 200Mi, available: 92616Ki. Container hog was using 1381092Ki, request is 0, has larger consumption of memory.
//	The node was low on resource: memory. Container hog was using 1381092Ki, which exceeds its request of 0.
//	Pod was rejected: The node had condition: [MemoryPressure].
//
// It is false for any other text, also for evictions by a limit on local storage, which have nothing to do with the node. What
// does not read as it should is left out.
func ParseEviction(message string) (Eviction, bool) {
	var e Eviction
	opening, rest, _ := strings.Cut(strings.TrimRight(message, ". "), ". ")
	if conditions, ok := cutRefusal(opening); ok {
		return Eviction{Conditions: conditions}, true
	}
	var isLow bool
	if e.Resource, isLow = strings.CutPrefix(opening, "The node was low on resource: "); !isLow || e.Resource == "" {
		return Eviction{}, false
	}
	for sentence := range strings.SplitSeq(rest, ". ") {
		subject, rest, _ := strings.Cut(sentence, " ")
		switch subject {
		case "Threshold":
			threshold, available, _ := strings.Cut(strings.TrimPrefix(rest, "quantity: "), ", available: ")
			e.Threshold, e.Available = evictionQuantity(threshold), evictionQuantity(available)
		case "Container":
			if over, ok := parseOverRequest(rest); ok {
				e.Containers = append(e.Containers, over)
			}
		case "Pod":
			e.Pod, _ = parseOverRequest(rest)
		}
	}
	return e, true
}

// cutRefusal reads what the kubelet says of a pod that it did not start.
func cutRefusal(sentence string) ([]string, bool) {
	for _, beginning := range []string{"Pod was rejected: ", "Pod "} { // before Kubernetes 1.26 it was the shorter one
		sentence = strings.TrimPrefix(sentence, beginning)
	}
	list, ok := strings.CutPrefix(sentence, "The node had condition: [")
	list, closed := strings.CutSuffix(list, "]")
	return strings.Fields(list), ok && closed
}

// parseOverRequest reads what follows on "Container" or "Pod", in the form since Kubernetes 1.26 or in the one before.
func parseOverRequest(s string) (OverRequest, bool) {
	name, s, isUsing := strings.Cut(s, " was using ")
	usage, s, _ := strings.Cut(s, ", ")
	request, isOld := strings.CutPrefix(s, "which exceeds its request of ")
	if !isOld {
		request, _, _ = strings.Cut(strings.TrimPrefix(s, "request is "), ", ")
	}
	if !isUsing || name == "" {
		return OverRequest{}, false
	}
	return OverRequest{Name: name, Usage: evictionQuantity(usage), Request: evictionQuantity(request)}, true
}

// evictionQuantity is a quantity of the message, absent where it is none. What is available may be negative: the kubelet subtracts
// without a floor.
func evictionQuantity(s string) Value {
	if magnitude, isNegative := strings.CutPrefix(s, "-"); isNegative {
		if v, err := ParseQuantity(magnitude); err != nil || v.IsAbsent() {
			return Value{}
		}
		return Of(0)
	}
	v, _ := ParseQuantity(s)
	return v
}
