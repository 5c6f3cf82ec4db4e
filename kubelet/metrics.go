package kubelet

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/memrecon/memrecon/snapshot"
)

// parseWorkingSets reads /metrics/resource, of which it takes
//
//	container_memory_working_set_bytes{container="app",namespace="default",pod="guaranteed"} 7.2638464e+07 1795458025916
//	node_memory_working_set_bytes 3.17288448e+08 1795458021944
//	pod_memory_working_set_bytes{namespace="default",pod="guaranteed"} 5.0253824e+07 1795458020744
func parseWorkingSets(r io.Reader) ([]snapshot.WorkingSet, error) {
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(r)
	if err != nil {
		return nil, err
	}
	if families["node_memory_working_set_bytes"] == nil {
		return nil, errors.New("it has no node_memory_working_set_bytes")
	}
	var out []snapshot.WorkingSet
	for _, name := range []string{
		"node_memory_working_set_bytes", "pod_memory_working_set_bytes", "container_memory_working_set_bytes",
	} {
		for _, m := range families[name].GetMetric() {
			bytes := m.GetGauge().GetValue()
			if m.GetGauge() == nil || !(bytes >= 0 && bytes < 1<<63) || m.TimestampMs == nil {
				return nil, fmt.Errorf("%s %g is no gauge with a size and a time", name, bytes)
			}
			sample := snapshot.WorkingSet{Time: time.UnixMilli(m.GetTimestampMs()).UTC(), Bytes: uint64(bytes)}
			for _, l := range m.GetLabel() {
				switch l.GetName() {
				case "namespace":
					sample.Namespace = l.GetValue()
				case "pod":
					sample.Pod = l.GetValue()
				case "container":
					sample.Container = l.GetValue()
				}
			}
			out = append(out, sample)
		}
	}
	return out, nil
}
