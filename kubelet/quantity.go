package kubelet

import (
	"strings"

	"github.com/memrecon/memrecon/snapshot"
)

// quantity is a resource quantity of the API in bytes, absent where it is not given.
type quantity snapshot.Value

// UnmarshalJSON takes what the API takes: a string, or a plain number.
func (q *quantity) UnmarshalJSON(b []byte) error {
	if string(b) == "null" {
		return nil
	}
	n, err := snapshot.ParseQuantity(strings.Trim(string(b), `"`))
	*q = quantity(n)
	return err
}

// memory is the entry memory in a list of resources, absent where there is none.
func memory(resources map[string]string) (snapshot.Value, error) {
	s, ok := resources["memory"]
	if !ok {
		return snapshot.Value{}, nil
	}
	return snapshot.ParseQuantity(s)
}
