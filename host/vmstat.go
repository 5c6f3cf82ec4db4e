package host

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"

	"github.com/memrecon/memrecon/snapshot"
)

// parseVmstat reads /proc/vmstat: page counts that go up and down (nr_...) and event counters since boot, one a line.
//
//	nr_free_pages 316149
//	pgfault 1284511
//	oom_kill 2
//
// A kernel writes the same keys at every reading, so the layout of the reading before is used again where it fits; nil is
// none.
func parseVmstat(b []byte, layout *snapshot.Keys) (snapshot.Stat, error) {
	if err := whole(b); err != nil {
		return snapshot.Stat{}, err
	}
	known, same := layout.Names(), true
	values := make([]uint64, 0, bytes.Count(b, []byte{'\n'}))
	for line := range bytes.Lines(b) {
		name, number, _ := bytes.Cut(line[:len(line)-1], []byte{' '})
		n, err := strconv.ParseUint(string(number), 10, 64)
		if err != nil || len(name) == 0 {
			return snapshot.Stat{}, fmt.Errorf("line %d is not a key and a number: %.40q", len(values)+1, line)
		}
		same = same && len(values) < len(known) && known[len(values)] == string(name)
		values = append(values, n)
	}
	if same && len(values) == len(known) {
		return snapshot.Stat{Keys: layout, Values: values}, nil
	}
	names := make([]string, 0, len(values))
	for line := range bytes.Lines(b) {
		name, _, _ := bytes.Cut(line, []byte{' '})
		names = append(names, string(name))
	}
	return snapshot.Stat{Keys: snapshot.NewKeys(names), Values: values}, nil
}

// whole tells whether a file was read to its end. The kernel ends every line, so a number without a newline behind it may
// be the first half of a larger one.
func whole(b []byte) error {
	if len(b) == 0 {
		return errors.New("the file is empty")
	}
	if b[len(b)-1] != '\n' {
		return errors.New("the file breaks off in the middle of a line")
	}
	return nil
}
