package kubelet

import (
	"bufio"
	"bytes"
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
//
// These are a quarter of the lines, so the others are taken out before the parser makes objects of them.
func parseWorkingSets(r io.Reader) ([]snapshot.WorkingSet, error) {
	text, err := linesWith(r, "_memory_working_set_bytes")
	if err != nil {
		return nil, err
	}
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(text)
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
			size := m.GetGauge().GetValue()
			if m.GetGauge() == nil || !(size >= 0 && size < 1<<63) || m.TimestampMs == nil {
				return nil, fmt.Errorf("%s %g is no gauge with a size and a time", name, size)
			}
			sample := snapshot.WorkingSet{Time: time.UnixMilli(m.GetTimestampMs()).UTC(), Bytes: uint64(size)}
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

// linesWith are the lines that have a word in them.
func linesWith(r io.Reader, word string) (*bytes.Buffer, error) {
	var out bytes.Buffer
	in := bufio.NewReader(r)
	for {
		line, err := in.ReadSlice('\n')
		if bytes.Contains(line, []byte(word)) {
			out.Write(line)
		}
		switch {
		case err == nil:
		case errors.Is(err, bufio.ErrBufferFull):
			return nil, fmt.Errorf("it has a line of more than %d bytes", len(line))
		case !errors.Is(err, io.EOF):
			return nil, err
		case len(line) > 0:
			return nil, io.ErrUnexpectedEOF
		default:
			return &out, nil
		}
	}
}
