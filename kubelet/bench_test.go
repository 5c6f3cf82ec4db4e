package kubelet

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// BenchmarkParse500Pods is what one reading of a full node takes: the saved node's pods, 125 times.
func BenchmarkParse500Pods(b *testing.B) {
	for parser, file := range map[string]string{"summary": "stats-summary.json", "pods": "pods.json", "metrics": "metrics-resource"} {
		text, err := os.ReadFile(filepath.Join(nodes, "v2-quiet/kubelet", file))
		if err != nil {
			b.Fatal(err)
		}
		text = times(b, text, 125)
		b.Run(parser, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				if _, err := parsers[parser](bytes.NewReader(text)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// times repeats the pods of an answer of the kubelet's.
func times(b *testing.B, text []byte, n int) []byte {
	b.Helper()
	if text[0] != '{' { // metrics, each in a family of its own
		var out bytes.Buffer
		for line := range bytes.Lines(text) {
			if !bytes.Contains(line, []byte("pod=")) {
				out.Write(line)
				continue
			}
			for i := range n {
				out.Write(bytes.Replace(line, []byte(`pod="`), fmt.Appendf(nil, `pod="p%d-`, i), 1))
			}
		}
		return out.Bytes()
	}
	var answer map[string]any
	if err := json.Unmarshal(text, &answer); err != nil {
		b.Fatal(err)
	}
	for _, key := range []string{"items", "pods"} {
		if pods, ok := answer[key].([]any); ok {
			var all []any
			for range n {
				all = append(all, pods...)
			}
			answer[key] = all
		}
	}
	out, err := json.Marshal(answer)
	if err != nil {
		b.Fatal(err)
	}
	return out
}
