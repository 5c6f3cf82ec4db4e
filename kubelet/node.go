package kubelet

import (
	"encoding/json"
	"errors"
	"io"
	"strings"
	"time"

	"github.com/memrecon/memrecon/snapshot"
)

// nodeJSON is the part of k8s.io/api/core/v1's Node that memrecon needs.
type nodeJSON struct {
	Metadata struct {
		Name string `json:"name"`
	} `json:"metadata"`
	Spec struct {
		Taints []struct {
			Key    string `json:"key"`
			Value  string `json:"value"`
			Effect string `json:"effect"`
		} `json:"taints"`
	} `json:"spec"`
	Status struct {
		Capacity    map[string]string `json:"capacity"`
		Allocatable map[string]string `json:"allocatable"`
		Conditions  []struct {
			Type      string    `json:"type"`
			Status    string    `json:"status"`
			Reason    string    `json:"reason"`
			Since     time.Time `json:"lastTransitionTime"`
			Heartbeat time.Time `json:"lastHeartbeatTime"`
		} `json:"conditions"`
		Info struct {
			KubeletVersion string `json:"kubeletVersion"`
		} `json:"nodeInfo"`
	} `json:"status"`
}

// parseNode reads a Node. Its Time is left to whoever knows it.
func parseNode(r io.Reader) (snapshot.Node, error) {
	dec := json.NewDecoder(r)
	var n nodeJSON
	if err := dec.Decode(&n); err != nil {
		return snapshot.Node{}, unexpected(err)
	}
	if n.Metadata.Name == "" {
		return snapshot.Node{}, errors.New("it is no Node")
	}
	out := snapshot.Node{Name: n.Metadata.Name, KubeletVersion: n.Status.Info.KubeletVersion}
	var err error
	if out.Capacity, err = memory(n.Status.Capacity); err != nil {
		return snapshot.Node{}, err
	}
	if out.Allocatable, err = memory(n.Status.Allocatable); err != nil {
		return snapshot.Node{}, err
	}
	for name, amount := range n.Status.Capacity {
		if strings.HasPrefix(name, "hugepages-") {
			pages, err := snapshot.ParseQuantity(amount)
			if err != nil {
				return snapshot.Node{}, err
			}
			size, _ := pages.Get()
			sum, _ := out.HugePages.Get()
			out.HugePages = snapshot.Of(sum + size)
		}
	}
	for _, c := range n.Status.Conditions {
		out.Conditions = append(out.Conditions, snapshot.Condition(c))
	}
	for _, t := range n.Spec.Taints {
		out.Taints = append(out.Taints, snapshot.Taint(t))
	}
	return out, nil
}
