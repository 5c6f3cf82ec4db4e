package snapshot

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// captureFormat is the first field of a capture; Version is the second.
const captureFormat = "memrecon capture"

// capture is the form of a capture: the snapshot's JSON with the format before it, in gzip.
type capture struct {
	Format string `json:"format"`
	*Snapshot
}

// Encode writes s as a capture. Bytes of a name that are no UTF-8 become U+FFFD.
func Encode(w io.Writer, s *Snapshot) error {
	current := *s
	current.Version = Version
	zip := gzip.NewWriter(w)
	if err := json.NewEncoder(zip).Encode(capture{captureFormat, &current}); err != nil {
		return err
	}
	return zip.Close()
}

// maxCapture bounds a capture's JSON, in bytes, and with it what a bomb does. The kernel has 65535 memory cgroups at most,
// of some 3 kB each.
const maxCapture = 256 << 20

// Decode reads what Encode writes. Its errors say what is wrong with the input, but not which file it is.
func Decode(r io.Reader) (*Snapshot, error) { return decode(r, maxCapture) }

func decode(r io.Reader, limit int64) (*Snapshot, error) {
	zip, err := gzip.NewReader(r)
	if err != nil {
		return nil, fmt.Errorf("this is no memrecon capture, which is in gzip: %w; memrecon capture FILE makes one", err)
	}
	bounded := &io.LimitedReader{R: zip, N: limit + 1}
	text := bufio.NewReader(bounded)
	if err := checkHead(text); err != nil {
		return nil, err
	}
	var c capture
	dec := json.NewDecoder(text)
	err = dec.Decode(&c)
	if err == nil {
		// gzip tells only at its end whether all of it was right.
		_, err = io.Copy(io.Discard, text)
	}
	switch {
	case bounded.N <= 0:
		return nil, fmt.Errorf("the capture is larger than %d MiB once unpacked, which no node's is", limit>>20)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return nil, fmt.Errorf("the capture breaks off; copy or make it again: %w", err)
	case err != nil:
		return nil, fmt.Errorf("the capture is damaged; copy or make it again: %w", err)
	}
	for i, cg := range c.Cgroups {
		if parent := int(cg.Parent); parent >= i || parent < min(0, i-1) {
			return nil, fmt.Errorf("the capture is damaged: cgroup %q has no parent before it", cg.Path)
		}
	}
	c.shareKeys()
	return c.Snapshot, nil
}

// checkHead looks at the format and the version before anything else is read: another version may have other fields.
func checkHead(text *bufio.Reader) error {
	head, err := text.Peek(512)
	if err != nil && err != io.EOF {
		return fmt.Errorf("the capture breaks off or is damaged; copy or make it again: %w", err)
	}
	var first [5]json.Token // { format "memrecon capture" version 1
	dec := json.NewDecoder(bytes.NewReader(head))
	for i := range first {
		first[i], _ = dec.Token()
	}
	version, isNumber := first[4].(float64)
	if first[1] != "format" || first[2] != captureFormat || first[3] != "version" || !isNumber || version < 1 {
		return errors.New("this is no memrecon capture, but gzip of something else; memrecon capture FILE makes one")
	}
	if version > Version {
		return fmt.Errorf("the capture is of version %g and this memrecon reads up to %d: "+
			"use the memrecon that made it, or a newer one", version, Version)
	}
	return nil
}

// shareKeys makes equal layouts one, as they are in a snapshot that was read from a kernel.
func (s *Snapshot) shareKeys() {
	layouts := map[string]*Keys{}
	share := func(st *Stat) {
		if st.Keys == nil {
			return
		}
		names := strings.Join(st.Keys.names, "\n")
		if shared, ok := layouts[names]; ok {
			st.Keys = shared
		} else {
			layouts[names] = st.Keys
		}
	}
	share(&s.Host.Vmstat)
	for i := range s.Cgroups {
		c := &s.Cgroups[i]
		for _, st := range []*Stat{&c.Stat, &c.Events, &c.EventsLocal, &c.OOMControl} {
			share(st)
		}
	}
}
