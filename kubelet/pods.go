package kubelet

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/memrecon/memrecon/snapshot"
)

// podJSON is the part of k8s.io/api/core/v1's Pod that memrecon needs.
type podJSON struct {
	Metadata struct {
		Name        string `json:"name"`
		Namespace   string `json:"namespace"`
		UID         string `json:"uid"`
		Annotations struct {
			ConfigHash string `json:"kubernetes.io/config.hash"`
		} `json:"annotations"`
	} `json:"metadata"`
	Spec struct {
		Priority  int32           `json:"priority"`
		Overhead  memoryJSON      `json:"overhead"`
		Resources resourcesJSON   `json:"resources"`
		Init      []containerJSON `json:"initContainers"`
		Regular   []containerJSON `json:"containers"`
		Ephemeral []containerJSON `json:"ephemeralContainers"`
	} `json:"spec"`
	Status struct {
		Phase      string             `json:"phase"`
		Reason     string             `json:"reason"`
		Message    string             `json:"message"`
		Conditions []podConditionJSON `json:"conditions"`
		QoS        string             `json:"qosClass"`
		Init       []statusJSON       `json:"initContainerStatuses"`
		Regular    []statusJSON       `json:"containerStatuses"`
		Ephemeral  []statusJSON       `json:"ephemeralContainerStatuses"`
	} `json:"status"`
}

type podConditionJSON struct {
	Type    string    `json:"type"`
	Status  string    `json:"status"`
	Reason  string    `json:"reason"`
	Message string    `json:"message"`
	Since   time.Time `json:"lastTransitionTime"`
}

type memoryJSON struct {
	Memory quantity `json:"memory"`
}

type resourcesJSON struct {
	Requests memoryJSON `json:"requests"`
	Limits   memoryJSON `json:"limits"`
}

type containerJSON struct {
	Name          string        `json:"name"`
	Resources     resourcesJSON `json:"resources"`
	RestartPolicy string        `json:"restartPolicy"`
}

type statusJSON struct {
	Name      string    `json:"name"`
	ID        string    `json:"containerID"`
	Restarts  int       `json:"restartCount"`
	State     stateJSON `json:"state"`
	LastState stateJSON `json:"lastState"`
}

type stateJSON struct {
	Terminated *terminatedJSON `json:"terminated"`
}

type terminatedJSON struct {
	Reason   string    `json:"reason"`
	ExitCode int32     `json:"exitCode"`
	Signal   int32     `json:"signal"`
	Message  string    `json:"message"`
	Started  time.Time `json:"startedAt"`
	Finished time.Time `json:"finishedAt"`
	ID       string    `json:"containerID"`
}

// parsePods reads /pods, a PodList: {"kind": "PodList", ..., "items": [...]}.
func parsePods(r io.Reader) ([]snapshot.Pod, error) {
	pods, err := ReadPods(r)
	if err != nil {
		return nil, err
	}
	return pods, nil
}

// ReadPods reads a list of pods as the kubelet's /pods or kubectl get pods -o json gives it. With an error it returns those
// before it.
func ReadPods(r io.Reader) ([]snapshot.Pod, error) {
	pods := []snapshot.Pod{}
	isList := false
	err := document(r, func(dec *json.Decoder, key string) error {
		if key != "items" {
			return skip(dec)
		}
		isList = true
		return list(dec, func(p *podJSON) error {
			if p.Metadata.UID == "" {
				return fmt.Errorf("pod %q has no UID", p.Metadata.Name)
			}
			pods = append(pods, p.pod())
			return nil
		})
	})
	if err == nil && !isList {
		err = errors.New("it is no list of pods")
	}
	return pods, err
}

func (p *podJSON) pod() snapshot.Pod {
	pod := snapshot.Pod{
		Namespace: p.Metadata.Namespace, Name: p.Metadata.Name, UID: p.Metadata.UID,
		QoS: snapshot.QoS(strings.ToLower(p.Status.QoS)), Priority: p.Spec.Priority,
		Phase: p.Status.Phase, Reason: p.Status.Reason, Message: p.Status.Message,
		Request: snapshot.Value(p.Spec.Resources.Requests.Memory), Limit: snapshot.Value(p.Spec.Resources.Limits.Memory),
		Overhead: snapshot.Value(p.Spec.Overhead.Memory),
	}
	for _, c := range p.Status.Conditions {
		if c.Type == "DisruptionTarget" && c.Status == "True" {
			pod.Disruption = snapshot.Disruption{Reason: c.Reason, Message: c.Message, Time: c.Since}
		}
	}
	if hash := p.Metadata.Annotations.ConfigHash; hash != "" {
		pod.UID = hash
	}
	pod.Containers = containers(pod.Containers, snapshot.InitContainer, p.Spec.Init, p.Status.Init)
	pod.Containers = containers(pod.Containers, "", p.Spec.Regular, p.Status.Regular)
	pod.Containers = containers(pod.Containers, snapshot.EphemeralContainer, p.Spec.Ephemeral, p.Status.Ephemeral)
	return pod
}

// containers appends those of one kind. The statuses are in an order of their own, and come later than the pod.
func containers(out []snapshot.Container, kind snapshot.ContainerKind, specs []containerJSON, all []statusJSON) []snapshot.Container {
	for _, spec := range specs {
		c := snapshot.Container{
			Name: spec.Name, Kind: kind,
			Request: snapshot.Value(spec.Resources.Requests.Memory), Limit: snapshot.Value(spec.Resources.Limits.Memory),
		}
		if kind == snapshot.InitContainer && spec.RestartPolicy == "Always" {
			c.Kind = snapshot.SidecarContainer
		}
		for i := range all {
			status := &all[i]
			if status.Name != spec.Name {
				continue
			}
			c.Runtime, c.ID, _ = strings.Cut(status.ID, "://")
			c.Restarts = status.Restarts
			c.Terminated, c.Previous = status.State.Terminated.termination(), status.LastState.Terminated.termination()
			if status.State.Terminated == nil {
				c.Terminated, c.Previous = c.Previous, snapshot.Termination{}
			}
		}
		out = append(out, c)
	}
	return out
}

// termination is zero for nil.
func (t *terminatedJSON) termination() snapshot.Termination {
	if t == nil {
		return snapshot.Termination{}
	}
	_, id, _ := strings.Cut(t.ID, "://")
	return snapshot.Termination{
		Reason: t.Reason, ExitCode: t.ExitCode, Signal: t.Signal, Message: t.Message, Started: t.Started, Finished: t.Finished, ContainerID: id,
	}
}
