package reconcile_test

import (
	"testing"

	"github.com/memrecon/memrecon/reconcile"
	"github.com/memrecon/memrecon/snapshot"
)

// /svc/worker has 70 MiB of 100 that dropping inactive page cache would not free, /svc 150 of its limit.
func TestClosestToLimit(t *testing.T) {
	for _, tc := range []struct {
		name  string
		limit snapshot.Value // of /svc
		owner string
		share float64
	}{
		{"the parent is far", snapshot.Of(1500 * mi), "/svc/worker", 0.7},
		{"the parent is closer", snapshot.Of(160 * mi), "/svc", 150.0 / 160},
		{"the parent has none", snapshot.Unlimited, "/svc/worker", 0.7},
		{"a limit of nothing", snapshot.Of(0), "/svc/worker", 0.7},
	} {
		snap := quiet()
		snap.Cgroups[1].Max = tc.limit
		s := reconcile.New(snap)
		row, share, ok := s.ClosestToLimit()
		if !ok || s.Rows[row].ID != tc.owner || share != tc.share {
			t.Errorf("%s: %s at %.3f (%v), want %s at %.3f", tc.name, s.Rows[row].ID, share, ok, tc.owner, tc.share)
		}
	}
	snap := quiet()
	snap.Cgroups[2].Max = snapshot.Unlimited
	if row, _, ok := reconcile.New(snap).ClosestToLimit(); ok {
		t.Errorf("row %d is close to a limit where there is none", row)
	}
}

func TestRequestedLeavesOutPodsThatAreOver(t *testing.T) {
	pod := func(phase string, request uint64, limit snapshot.Value) snapshot.Pod {
		return snapshot.Pod{Phase: phase, Containers: []snapshot.Container{{Name: "app", Request: snapshot.Of(request * mi), Limit: limit}}}
	}
	requests, limits := reconcile.Requested([]snapshot.Pod{
		pod("Running", 1, snapshot.Of(2*mi)), pod("Pending", 10, snapshot.Value{}),
		pod("Succeeded", 100, snapshot.Of(100*mi)), pod("Failed", 1000, snapshot.Of(1000*mi)),
	})
	if requests != 11*mi || limits != 2*mi {
		t.Errorf("requests %d MiB, limits %d MiB, want 11 and 2", requests/mi, limits/mi)
	}
}
