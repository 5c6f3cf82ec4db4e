package host

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/memrecon/memrecon/snapshot"
)

func TestParseVmstat(t *testing.T) {
	old := snapshot.NewKeys([]string{"a", "b"})
	for _, c := range []struct {
		name, in string
		keys     []string
		values   []uint64
		err      string
	}{
		{"as before", "a 1\nb 2\n", []string{"a", "b"}, []uint64{1, 2}, ""},
		{"one more", "a 1\nb 2\nc 3\n", []string{"a", "b", "c"}, []uint64{1, 2, 3}, ""},
		{"one less", "a 1\n", []string{"a"}, []uint64{1}, ""},
		{"another order", "b 1\na 2\n", []string{"b", "a"}, []uint64{1, 2}, ""},
		{"largest", "a 18446744073709551615\n", []string{"a"}, []uint64{1<<64 - 1}, ""},
		{"empty", "", nil, nil, "empty"},
		{"cut in a number", "a 1\nb 2", nil, nil, "breaks off"},
		{"cut in a key", "a 1\nb", nil, nil, "breaks off"},
		{"no number", "a 1\nb\n", nil, nil, `line 2 is not a key and a number: "b\n"`},
		{"no key", " 1\n", nil, nil, "line 1"},
		{"blank line", "a 1\n\n", nil, nil, "line 2"},
		{"negative", "a -1\n", nil, nil, "line 1"},
		{"too large", "a 18446744073709551616\n", nil, nil, "line 1"},
		{"three words", "a 1 2\n", nil, nil, "line 1"},
		{"binary", "\x00\xff\n", nil, nil, "line 1"},
	} {
		st, err := parseVmstat([]byte(c.in), old)
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) || !st.IsZero() {
				t.Errorf("%s: %v, %v; want an error with %q and nothing else", c.name, st, err, c.err)
			}
			continue
		}
		if err != nil || !reflect.DeepEqual(st.Keys.Names(), c.keys) || !reflect.DeepEqual(st.Values, c.values) {
			t.Errorf("%s: %v %v, %v; want %v %v", c.name, st.Keys.Names(), st.Values, err, c.keys, c.values)
		}
		if shared := st.Keys == old; shared != (c.name == "as before") {
			t.Errorf("%s: shares the layout: %t", c.name, shared)
		}
	}
}

func readZones(t *testing.T, path string) []snapshot.Zone {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	zones, err := parseZoneinfo(b)
	if err != nil {
		t.Fatal(err)
	}
	return zones
}

func TestParseZoneinfo(t *testing.T) {
	of := snapshot.Of
	none := []uint64{0, 0, 0, 0, 0}
	for _, c := range []struct {
		path string
		want []snapshot.Zone
	}{
		{nodes + "/v2-quiet/proc/zoneinfo", []snapshot.Zone{
			{Name: "DMA", Free: of(3776), Min: of(85), Low: of(106), High: of(127), Boost: of(0), Managed: of(3840),
				Protection: []uint64{0, 1952, 1952, 1952, 1952}, PerCPUFree: of(0), CPUs: 2},
			{Name: "DMA32", Free: of(312373), Min: of(11178), Low: of(13972), High: of(16766), Boost: of(0), Managed: of(502663),
				Protection: none, PerCPUFree: of(2041 + 1033), CPUs: 2},
			{Name: "Normal", Free: of(0), Min: of(0), Low: of(0), High: of(0), Boost: of(0), Managed: of(0), Protection: none},
			{Name: "Movable", Free: of(0), Min: of(0), Low: of(0), High: of(0), Boost: of(0), Managed: of(0), Protection: none},
			{Name: "Device", Free: of(0), Min: of(0), Low: of(0), High: of(0), Boost: of(0), Managed: of(0), Protection: none},
		}},
		// Linux 6.18, with promo, high_min and high_max; the second node is a zone of the first, renamed and boosted.
		{"testdata/zoneinfo-6.18", []snapshot.Zone{
			{Name: "DMA", Free: of(3840), Min: of(68), Low: of(85), High: of(102), Boost: of(0), Managed: of(3840),
				Protection: []uint64{0, 3019, 3659, 3659, 3659}, PerCPUFree: of(0), CPUs: 2},
			{Name: "Normal", Free: of(122297), Min: of(2943), Low: of(3678), High: of(4413), Boost: of(0), Managed: of(163840),
				Protection: none, PerCPUFree: of(713 + 1733), CPUs: 2},
			{Node: 1, Name: "Normal", Free: of(772917), Min: of(13883), Low: of(17353), High: of(20823), Boost: of(512),
				Managed: of(772917), Protection: []uint64{0, 0, 640, 640, 640}, PerCPUFree: of(0), CPUs: 2},
			{Node: 1, Name: "Movable", Free: of(0), Min: of(32), Low: of(32), High: of(32), Boost: of(0), Managed: of(0), Protection: none},
		}},
		// As Linux 4.18 prints it: no boost, no cma.
		{"testdata/zoneinfo-4.18", []snapshot.Zone{
			{Name: "Normal", Free: of(52119), Min: of(1131), Low: of(5222), High: of(9313), Managed: of(1002496),
				Protection: []uint64{0, 0, 0, 0}, PerCPUFree: of(331), CPUs: 1},
		}},
	} {
		if got := readZones(t, c.path); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s:\n%+v, want\n%+v", c.path, got, c.want)
		}
	}
}

func TestParseZoneinfoMalformed(t *testing.T) {
	const zone = "Node 0, zone   Normal\n  pages free     5\n        min      1\n        low      2\n" +
		"        high     3\n        managed  9\n        protection: (0, 7)\n"
	const pagesets = "  pagesets\n    cpu: 0\n              count: 4\n              high:  9\n"
	if zones, err := parseZoneinfo([]byte(zone + pagesets)); err != nil || len(zones) != 1 {
		t.Fatalf("the good one: %v, %v", zones, err)
	}
	for _, c := range []struct{ name, in, want string }{
		{"empty", "", "empty"},
		{"cut in a number", zone + "  pagesets\n    cpu: 0\n              count: 4", "breaks off"},
		{"cut before the pagesets", zone, "Normal is not complete"},
		{"cut before managed", zone[:strings.Index(zone, "        managed")], "Normal is not complete"},
		{"cut at the start of a zone", "Node 0, zone   DMA\n" + zone + pagesets, "DMA is not complete"},
		{"no zone", "  pages free 5\n", "before the first zone"},
		{"no node", strings.Replace(zone, "Node 0", "Node x", 1), "line 1"},
		{"no zone name", "Node 0, zone \n", "line 1"},
		{"free is no number", strings.Replace(zone, "free     5", "free     five", 1), "line 2"},
		{"free is negative", strings.Replace(zone, "free     5", "free     -5", 1), "line 2"},
		{"watermark is no number", strings.Replace(zone, "low      2", "low      0x2", 1), "line 4"},
		{"protection is no list", strings.Replace(zone, "(0, 7)", "(0; 7)", 1), "line 7"},
		{"count is no number", zone + strings.Replace(pagesets, "count: 4", "count: ", 1), "line 10"},
		{"binary", "\x7fELF\x00\n", "before the first zone"},
	} {
		zones, err := parseZoneinfo([]byte(c.in))
		if err == nil || !strings.Contains(err.Error(), c.want) || zones != nil {
			t.Errorf("%s: %v, %v; want an error with %q and nothing else", c.name, zones, err, c.want)
		}
	}
}

// seed adds every captured copy of a file to a fuzz corpus, whole and cut in half.
func seed(f *testing.F, patterns ...string) {
	for _, pattern := range patterns {
		paths, err := filepath.Glob(pattern)
		if err != nil || len(paths) == 0 {
			f.Fatalf("%s: no seeds (%v)", pattern, err)
		}
		for _, path := range paths {
			b, err := os.ReadFile(path)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(b)
			f.Add(b[:len(b)/2])
		}
	}
}

func FuzzParseVmstat(f *testing.F) {
	seed(f, nodes+"/*/proc/vmstat")
	f.Add([]byte("a 1\na 2\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		st, err := parseVmstat(b, nil)
		if err != nil {
			return
		}
		lines := strings.Count(string(b), "\n")
		if len(st.Values) != lines || len(st.Keys.Names()) != lines {
			t.Fatalf("%d keys and %d values of %d lines", len(st.Keys.Names()), len(st.Values), lines)
		}
		again, err := parseVmstat(b, st.Keys)
		if err != nil || again.Keys != st.Keys || !reflect.DeepEqual(again.Values, st.Values) {
			t.Fatalf("the second reading differs: %v, %v", again, err)
		}
	})
}

func FuzzParseZoneinfo(f *testing.F) {
	seed(f, nodes+"/*/proc/zoneinfo", "testdata/zoneinfo-*")
	f.Fuzz(func(t *testing.T, b []byte) {
		zones, err := parseZoneinfo(b)
		if err != nil {
			return
		}
		if len(zones) == 0 {
			t.Fatal("no zones and no error")
		}
		for _, z := range zones {
			if z.Name == "" || z.Free.IsAbsent() || z.Managed.IsAbsent() || (z.CPUs > 0) == z.PerCPUFree.IsAbsent() {
				t.Fatalf("half a zone: %+v", z)
			}
		}
	})
}
