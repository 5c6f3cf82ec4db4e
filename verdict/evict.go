package verdict

import (
	"time"

	"github.com/memrecon/memrecon/snapshot"
)

func isEvicted(p *snapshot.Pod) bool      { return p.Reason == "Evicted" }
func evictedAt(p *snapshot.Pod) time.Time { return time.Time{} }
func evictionText(p *snapshot.Pod) string { return p.Reason }
func (j *Judge) byEviction(d *dead, in *Incident) {
	in.Verdict, in.Confidence = Evicted, Certain
}
