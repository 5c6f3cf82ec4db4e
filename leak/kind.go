package leak

import (
	"fmt"
	"slices"
	"strings"
)

// Kind is what kind of memory is taken: in which cell of memrecon's sheet it shows up.
type Kind string

// The kinds.
const (
	// Anon is anonymous memory in pages of the smallest size: the heap of most programs.
	Anon Kind = "anon"
)

// ParseKind finds a kind by its name.
func ParseKind(name string) (Kind, error) {
	if k := Kind(name); slices.Contains(Kinds(), k) {
		return k, nil
	}
	return "", fmt.Errorf("%q is no kind of memory: one of %s", name, KindNames())
}

// KindNames are the names of all kinds, for a person.
func KindNames() string {
	var names []string
	for _, k := range Kinds() {
		names = append(names, string(k))
	}
	return strings.Join(names, ", ")
}

// Kinds are all kinds.
func Kinds() []Kind { return []Kind{Anon} }

// open prepares to take memory of a kind. The granule is what it is taken in multiples of. Nothing is taken yet.
func open(c *Config) (m memory, granule uint64, err error) {
	page := pageSize()
	return &mapped{
		blockBytes: roundUp(c.Block, page), limit: roundUp(c.Max, page), pattern: pattern{c.Touch, c.Spread}, workers: c.Workers,
		prepare: smallPages, align: page,
	}, page, nil
}

func roundUp(n, granule uint64) uint64 { return (n + granule - 1) / granule * granule }

// words is the kind as a person says it.
func (k Kind) words() string { return "anonymous memory" }

// UnmarshalText is ParseKind.
func (k *Kind) UnmarshalText(b []byte) (err error) {
	*k, err = ParseKind(string(b))
	return err
}
