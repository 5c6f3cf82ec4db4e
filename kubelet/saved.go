package kubelet

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/memrecon/memrecon/snapshot"
)

// FromFiles reads what Kubernetes said of a saved node: kubelet/stats-summary.json, kubelet/metrics-resource,
// kubelet/pods.json, kubelet/configz.json and api/node.json in dir, each as the server answers it (the Node as kubectl get
// node -o json does). It is nil where dir has none of them. Its Time, and the Node's, is that of the newest figure.
func FromFiles(dir string) (*snapshot.Kubernetes, []snapshot.SourceError) {
	var k snapshot.Kubernetes
	var failed []snapshot.SourceError
	found := false
	for _, s := range append(kubeletSources(), nodeSource("")) {
		path := filepath.Join(dir, s.file)
		err := s.readFile(path, &k)
		found = found || !errors.Is(err, fs.ErrNotExist)
		if err != nil {
			failed = append(failed, snapshot.SourceError{Source: path, Error: err.Error(), Hint: s.lost + "; save the node again"})
		}
	}
	if !found {
		return nil, nil
	}
	k.Time = newest(&k)
	k.PodsTime, k.ConfigTime = k.Time, k.Time
	if !k.Node.IsZero() {
		k.Node.Time = k.Time
	}
	return &k, failed
}

func (s *source) readFile(path string, k *snapshot.Kubernetes) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return s.read(&bounded{r: f, left: maxAnswer}, k)
}

// newest is the time of the newest figure: the kubelet cannot have been asked before it.
func newest(k *snapshot.Kubernetes) time.Time {
	last := k.Summary.Node.Time
	for _, w := range k.WorkingSets {
		if w.Time.After(last) {
			last = w.Time
		}
	}
	return last
}
