package host

import (
	"bytes"
	"fmt"
	"strconv"

	"github.com/memrecon/memrecon/snapshot"
)

// parseZoneinfo reads /proc/zoneinfo, all counts in pages:
//
//	Node 0, zone    DMA32
//	  per-node stats
//	      nr_inactive_anon 83699
//	  pages free     312373
//	        boost    0
//	        min      11178
//	        low      13972
//	        high     16766
//	        spanned  520157
//	        present  520157
//	        managed  502663
//	        protection: (0, 0, 0, 0, 0)
//	      nr_free_pages 312373
//	  pagesets
//	    cpu: 0
//	              count: 2041
//	              high:  6986
//	              batch: 63
//	  vm stats threshold: 20
//	  node_unreclaimable:  0
//	  start_pfn:           4096
//
// The per-node stats stand in the first zone of a node that has pages, one pageset is printed for each online CPU, and a
// zone without pages ends with its protection. Kernels keep adding lines (promo, the pagesets' high_min and high_max),
// so what is not known is skipped. A watermark's key has no colon: a pageset's "high:" is another thing.
func parseZoneinfo(b []byte) ([]snapshot.Zone, error) {
	if err := whole(b); err != nil {
		return nil, err
	}
	zones := make([]snapshot.Zone, 0, bytes.Count(b, []byte(", zone ")))
	number := 0
	for line := range bytes.Lines(b) {
		number++
		line = bytes.TrimSpace(line)
		key, rest, _ := bytes.Cut(line, []byte{' '})
		rest = bytes.TrimSpace(rest)

		if string(key) == "Node" {
			node, name, _ := bytes.Cut(rest, []byte(", zone "))
			n, err := strconv.Atoi(string(node))
			if name = bytes.TrimSpace(name); err != nil || len(name) == 0 {
				return nil, fmt.Errorf("line %d does not name a node and a zone: %.40q", number, line)
			}
			if err := complete(zones); err != nil {
				return nil, err
			}
			zones = append(zones, snapshot.Zone{Node: n, Name: string(name)})
			continue
		}
		if len(zones) == 0 {
			return nil, fmt.Errorf("line %d stands before the first zone: %.40q", number, line)
		}

		z := &zones[len(zones)-1]
		var err error
		switch string(key) {
		case "pages":
			word, free, _ := bytes.Cut(rest, []byte{' '})
			if string(word) == "free" {
				z.Free, err = pages(bytes.TrimSpace(free))
			}
		case "boost":
			z.Boost, err = pages(rest)
		case "min":
			z.Min, err = pages(rest)
		case "low":
			z.Low, err = pages(rest)
		case "high":
			z.High, err = pages(rest)
		case "managed":
			z.Managed, err = pages(rest)
		case "protection:":
			z.Protection, err = protection(rest)
		case "count:":
			var n uint64
			n, err = strconv.ParseUint(string(rest), 10, 64)
			sum, _ := z.PerCPUFree.Get()
			z.PerCPUFree = snapshot.Of(sum + n)
			z.CPUs++
		}
		if err != nil {
			return nil, fmt.Errorf("line %d: %.40q: %w", number, line, err)
		}
	}
	if err := complete(zones); err != nil {
		return nil, err
	}
	return zones, nil
}

// complete tells whether the last zone was written to its end, as far as memrecon needs it.
func complete(zones []snapshot.Zone) error {
	if len(zones) == 0 {
		return nil
	}
	z := zones[len(zones)-1]
	managed, known := z.Managed.Get()
	if !known || z.Free.IsAbsent() || managed > 0 && z.CPUs == 0 {
		return fmt.Errorf("node %d, zone %s is not complete", z.Node, z.Name)
	}
	return nil
}

func pages(b []byte) (snapshot.Value, error) {
	n, err := strconv.ParseUint(string(b), 10, 64)
	return snapshot.Of(n), err
}

// protection reads "(0, 1952, 1952, 1952, 1952)": one number for each kind of zone that an allocation may be meant for.
func protection(b []byte) ([]uint64, error) {
	list := make([]uint64, 0, bytes.Count(b, []byte{','})+1)
	for number := range bytes.SplitSeq(bytes.Trim(b, "()"), []byte(", ")) {
		n, err := strconv.ParseUint(string(number), 10, 64)
		if err != nil {
			return nil, err
		}
		list = append(list, n)
	}
	return list, nil
}
