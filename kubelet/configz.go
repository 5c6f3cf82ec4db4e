package kubelet

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/memrecon/memrecon/snapshot"
)

// configJSON is the part of k8s.io/kubelet/config/v1beta1's KubeletConfiguration that memrecon needs.
type configJSON struct {
	EvictionHard               map[string]string `json:"evictionHard"`
	EvictionSoft               map[string]string `json:"evictionSoft"`
	EvictionSoftGrace          map[string]string `json:"evictionSoftGracePeriod"`
	EvictionPressureTransition string            `json:"evictionPressureTransitionPeriod"`
	SystemReserved             map[string]string `json:"systemReserved"`
	KubeReserved               map[string]string `json:"kubeReserved"`
	EnforceNodeAllocatable     []string          `json:"enforceNodeAllocatable"`
	CgroupDriver               string            `json:"cgroupDriver"`
	MemorySwap                 struct {
		SwapBehavior string `json:"swapBehavior"`
	} `json:"memorySwap"`
	ThrottlingFactor  *float64 `json:"memoryThrottlingFactor"`
	ReservationPolicy string   `json:"memoryReservationPolicy"`
}

// parseConfigz reads /configz: {"kubeletconfig": {...}}.
func parseConfigz(r io.Reader) (snapshot.KubeletConfig, error) {
	var c configJSON
	err := document(r, func(dec *json.Decoder, key string) error {
		if key != "kubeletconfig" {
			return skip(dec)
		}
		return dec.Decode(&c)
	})
	if err == nil && c.CgroupDriver == "" {
		err = errors.New("it has no kubeletconfig with a cgroupDriver")
	}
	if err != nil {
		return snapshot.KubeletConfig{}, err
	}
	return c.config()
}

func (c *configJSON) config() (snapshot.KubeletConfig, error) {
	const signal = "memory.available"
	out := snapshot.KubeletConfig{
		EnforceNodeAllocatable: c.EnforceNodeAllocatable, CgroupDriver: c.CgroupDriver, SwapBehavior: c.MemorySwap.SwapBehavior,
		ThrottlingFactor: c.ThrottlingFactor, ReservationPolicy: c.ReservationPolicy,
	}
	var errs [6]error
	out.EvictionHard, errs[0] = threshold(c.EvictionHard[signal])
	out.EvictionSoft, errs[1] = threshold(c.EvictionSoft[signal])
	out.EvictionSoftGrace, errs[2] = duration(c.EvictionSoftGrace[signal])
	out.EvictionPressureTransition, errs[3] = duration(c.EvictionPressureTransition)
	out.SystemReserved, errs[4] = memory(c.SystemReserved)
	out.KubeReserved, errs[5] = memory(c.KubeReserved)
	if err := errors.Join(errs[:]...); err != nil {
		return snapshot.KubeletConfig{}, err
	}
	return out, nil
}

// threshold reads an eviction threshold as pkg/kubelet/eviction does: a quantity, or a percentage, of which 0% and 100% are
// none. No text is none as well.
func threshold(s string) (snapshot.Threshold, error) {
	number, isShare := strings.CutSuffix(s, "%")
	switch {
	case s == "" || s == "0%" || s == "100%":
		return snapshot.Threshold{}, nil
	case !isShare:
		n, err := snapshot.ParseQuantity(s)
		return snapshot.Threshold{Bytes: n}, err
	}
	percent, err := strconv.ParseFloat(number, 64)
	if err != nil || !(percent >= 0 && percent <= 100) {
		return snapshot.Threshold{}, fmt.Errorf("%.40q is not a percentage", s)
	}
	return snapshot.Threshold{Percent: percent}, nil
}

// duration is zero where there is none.
func duration(s string) (time.Duration, error) {
	if s == "" {
		return 0, nil
	}
	return time.ParseDuration(s)
}
