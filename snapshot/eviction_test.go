package snapshot_test

import (
	"reflect"
	"strings"
	"testing"

	"github.com/memrecon/memrecon/snapshot"
)

type evictionCase struct {
	name, message string
	want          snapshot.Eviction
}

func evictions() []evictionCase {
	const (
		ki = 1 << 10
		mi = 1 << 20
	)
	over := func(name string, usage, request uint64) snapshot.OverRequest {
		return snapshot.OverRequest{Name: name, Usage: snapshot.Of(usage), Request: snapshot.Of(request)}
	}
	return []evictionCase{
		{
			"1.34, captured in testdata/nodes/v2-evicted-shown-completed",
			"The node was low on resource: memory. Threshold quantity: 200Mi, available: 92616Ki. " +
				"Container hog was using 1381092Ki, request is 0, has larger consumption of memory. ",
			snapshot.Eviction{
				Resource: "memory", Threshold: snapshot.Of(200 * mi), Available: snapshot.Of(92616 * ki),
				Containers: []snapshot.OverRequest{over("hog", 1381092*ki, 0)},
			},
		}, {
			"two containers, captured in testdata/nodes/v2-oom-kubepods",
			"The node was low on resource: memory. Threshold quantity: 200Mi, available: 104512Ki. Container writer was using 66432Ki, " +
				"request is 64Mi, has larger consumption of memory. Container side was using 23296Ki, request is 16Mi, has larger consumption of memory. ",
			snapshot.Eviction{
				Resource: "memory", Threshold: snapshot.Of(200 * mi), Available: snapshot.Of(104512 * ki),
				Containers: []snapshot.OverRequest{over("writer", 66432*ki, 64*mi), over("side", 23296*ki, 16*mi)},
			},
		}, {
			"1.20 to 1.25",
			"The node was low on resource: memory. Container web-1 was using 300Mi, which exceeds its request of 100Mi. ",
			snapshot.Eviction{Resource: "memory", Containers: []snapshot.OverRequest{over("web-1", 300*mi, 100*mi)}},
		},
		{"no figures", "The node was low on resource: memory. ", snapshot.Eviction{Resource: "memory"}},
		{
			"innocent: within its requests",
			"The node was low on resource: memory. Threshold quantity: 750Mi, available: 0. ",
			snapshot.Eviction{Resource: "memory", Threshold: snapshot.Of(750 * mi), Available: snapshot.Of(0)},
		}, {
			"below zero, which the kubelet does not keep from",
			"The node was low on resource: memory. Threshold quantity: 104857600, available: -1052Ki. ",
			snapshot.Eviction{Resource: "memory", Threshold: snapshot.Of(100 * mi), Available: snapshot.Of(0)},
		}, {
			"a pod's own request",
			"The node was low on resource: memory. Threshold quantity: 200Mi, available: 92616Ki. Pod web.example was using 310Mi, request is 200Mi, " +
				"has larger consumption of memory. Container app was using 300Mi, request is 0, has larger consumption of memory. ",
			snapshot.Eviction{
				Resource: "memory", Threshold: snapshot.Of(200 * mi), Available: snapshot.Of(92616 * ki),
				Pod: over("web.example", 310*mi, 200*mi), Containers: []snapshot.OverRequest{over("app", 300*mi, 0)},
			},
		}, {
			"another resource",
			"The node was low on resource: inodes. Threshold quantity: 100k, available: 95000. ",
			snapshot.Eviction{Resource: "inodes", Threshold: snapshot.Of(100e3), Available: snapshot.Of(95000)},
		},
		{"refused", "Pod was rejected: The node had condition: [MemoryPressure]. ", snapshot.Eviction{Conditions: []string{"MemoryPressure"}}},
		{
			"refused, before 1.26", "Pod The node had condition: [MemoryPressure DiskPressure]. ",
			snapshot.Eviction{Conditions: []string{"MemoryPressure", "DiskPressure"}},
		}, {
			"cut off",
			"The node was low on resource: memory. Threshold quantity: 200Mi, avail",
			snapshot.Eviction{Resource: "memory"},
		}, {
			"malformed in part",
			"The node was low on resource: memory. Threshold quantity: lots, available: 92616Ki. Container was using. Container a was using 5 pages, request is 1Mi. ",
			snapshot.Eviction{
				Resource: "memory", Available: snapshot.Of(92616 * ki), Containers: []snapshot.OverRequest{{Name: "a", Request: snapshot.Of(mi)}},
			},
		},
	}
}

func TestParseEviction(t *testing.T) {
	for _, c := range evictions() {
		if got, ok := snapshot.ParseEviction(c.message); !ok || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s:\n got %+v, %t\nwant %+v", c.name, got, ok, c.want)
		}
	}
	for _, none := range []string{
		"", "memory", "The node was low on resource: ", "Usage of EmptyDir volume \"cache\" exceeds the limit \"64Mi\". ",
		"Container web exceeded its local ephemeral storage limit \"1Gi\". ", "Preempted in order to admit critical pod",
		"Pod was rejected: Node didn't have enough resource: memory, requested: 1, used: 2, capacity: 3",
		"The container could not be located when the pod was terminated", "He said: The node was low on resource: memory. ",
	} {
		if got, ok := snapshot.ParseEviction(none); ok || !reflect.DeepEqual(got, snapshot.Eviction{}) {
			t.Errorf("%q is an eviction: %+v", none, got)
		}
	}
}

// What ParseEviction says comes from the message, and nothing breaks it.
func FuzzParseEviction(f *testing.F) {
	for _, c := range evictions() {
		f.Add(c.message)
	}
	f.Fuzz(func(t *testing.T, message string) {
		e, ok := snapshot.ParseEviction(message)
		if ok != (e.Resource != "" || e.Conditions != nil) {
			t.Fatalf("%q: %+v, %t", message, e, ok)
		}
		for _, name := range append([]string{e.Resource, e.Pod.Name}, e.Conditions...) {
			if !strings.Contains(message, name) {
				t.Fatalf("%q: %q is not in it", message, name)
			}
		}
		for _, c := range e.Containers {
			if c.Name == "" || !strings.Contains(message, "Container "+c.Name+" was using ") {
				t.Fatalf("%q: %+v", message, c)
			}
		}
	})
}
