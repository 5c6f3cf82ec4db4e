package snapshot

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
)

// Keys is the layout of a keyed file: its keys in the file's order. A kernel writes the same keys in the same order for
// thousands of cgroups, so one Keys is shared by all of them and is immutable.
type Keys struct {
	names []string
	index map[string]int
}

// NewKeys is the layout with these names, in this order. Where a name comes twice, the first counts.
func NewKeys(names []string) *Keys {
	k := &Keys{names: names, index: make(map[string]int, len(names))}
	for i, n := range names {
		if _, dup := k.index[n]; !dup {
			k.index[n] = i
		}
	}
	return k
}

// Names are the keys in the file's order; the caller must not change them.
func (k *Keys) Names() []string {
	if k == nil {
		return nil
	}
	return k.names
}

// Index is where a key's value stands in Stat.Values, -1 where the file has no such key.
func (k *Keys) Index(name string) int {
	if k == nil {
		return -1
	}
	if i, ok := k.index[name]; ok {
		return i
	}
	return -1
}

// Stat is a keyed file ("key value" lines: memory.stat, memory.events, memory.oom_control, /proc/vmstat) with every key
// kept, also those that memrecon does not know. The zero Stat is an absent file.
type Stat struct {
	Keys   *Keys
	Values []uint64
}

// IsZero tells that the file is absent.
func (s Stat) IsZero() bool { return s.Keys == nil }

// Get is the value of a key, and whether the file has it.
func (s Stat) Get(name string) (uint64, bool) {
	i := s.Keys.Index(name)
	if i < 0 || i >= len(s.Values) {
		return 0, false
	}
	return s.Values[i], true
}

// MarshalJSON writes an object with the keys in the file's order, null for an absent file.
func (s Stat) MarshalJSON() ([]byte, error) {
	if s.Keys == nil {
		return []byte("null"), nil
	}
	b := make([]byte, 0, 24*len(s.Values)+2)
	b = append(b, '{')
	for i, name := range s.Keys.names {
		if i >= len(s.Values) {
			break
		}
		if i > 0 {
			b = append(b, ',')
		}
		quoted, err := json.Marshal(name) // a file that is no kernel's may have any bytes for a key
		if err != nil {
			return nil, err
		}
		b = append(b, quoted...)
		b = append(b, ':')
		b = strconv.AppendUint(b, s.Values[i], 10)
	}
	return append(b, '}'), nil
}

// UnmarshalJSON reads what MarshalJSON writes. Each Stat read so has a layout of its own; Decode makes equal ones one.
func (s *Stat) UnmarshalJSON(b []byte) error {
	*s = Stat{}
	if bytes.Equal(b, []byte("null")) {
		return nil
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return fmt.Errorf("a keyed file is an object of numbers, not %.40s", b)
	}
	names, values := []string{}, []uint64{}
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return err
		}
		val, err := dec.Token()
		if err != nil {
			return err
		}
		name, isName := key.(string)
		num, isNum := val.(json.Number)
		if !isName || !isNum {
			return fmt.Errorf("key %v: a keyed file is an object of numbers, not of %v", key, val)
		}
		n, err := strconv.ParseUint(num.String(), 10, 64)
		if err != nil {
			return fmt.Errorf("key %s: %w", name, err)
		}
		names, values = append(names, name), append(values, n)
	}
	*s = Stat{Keys: NewKeys(names), Values: values}
	return nil
}
