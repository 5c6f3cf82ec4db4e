package snapshot

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// anySnapshot draws a snapshot with something in every part, and anything absent.
func anySnapshot(t *rapid.T) *Snapshot {
	value := func(name string) Value {
		switch rapid.IntRange(0, 3).Draw(t, name+" state") {
		case 0:
			return Value{}
		case 1:
			return Unlimited
		}
		return Of(rapid.Uint64().Draw(t, name))
	}
	layouts := []*Keys{
		nil, NewKeys([]string{}), NewKeys([]string{"anon", "file"}), NewKeys([]string{"file", "anon"}),
		NewKeys([]string{"an\"odd\tkey\x7f", "<>"}),
	}
	stat := func(name string) Stat {
		k := rapid.SampledFrom(layouts).Draw(t, name)
		if k == nil {
			return Stat{}
		}
		n := len(k.Names())
		return Stat{Keys: k, Values: rapid.SliceOfN(rapid.Uint64(), n, n).Draw(t, name+" values")}
	}
	line := func(name string) PressureLine {
		if !rapid.Bool().Draw(t, name) {
			return PressureLine{}
		}
		return PressureLine{Known: true, Avg10: rapid.Float64Range(0, 100).Draw(t, name+" avg")}
	}
	s := &Snapshot{
		Version: Version,
		Time:    time.Unix(rapid.Int64Range(0, 1<<33).Draw(t, "time"), 5).UTC(),
		Node:    rapid.String().Draw(t, "node"),
		Mode:    rapid.SampledFrom([]Mode{"", V1, V2, Hybrid}).Draw(t, "mode"),
		Host: Host{
			Meminfo:  Meminfo{MemTotal: value("total"), Hugetlb: value("hugetlb")},
			Vmstat:   stat("vmstat"),
			Zones:    []Zone{{Name: "DMA", Free: value("free"), Protection: []uint64{0, 7}}},
			Pressure: Pressure{Some: line("some"), Full: line("full")},
			Swaps:    []Swap{{Name: "/dev/sda2", SizeBytes: 1 << 30, Priority: -2}},
			PageSize: 4096, CPUs: 2,
		},
		Kubernetes: rapid.SampledFrom([]*Kubernetes{nil, {}, {
			Time:        time.Unix(7, 0).UTC(),
			Summary:     Summary{Node: MemoryStats{Time: time.Unix(6, 0).UTC(), Available: value("available")}, Pods: []PodStats{{Name: "a", Containers: []ContainerStats{{Name: "b"}}}}},
			WorkingSets: []WorkingSet{{Pod: "a", Time: time.UnixMilli(6001).UTC(), Bytes: 5}}, Pods: []Pod{},
			Config: KubeletConfig{CgroupDriver: "systemd", EvictionHard: Threshold{Percent: 2.5}, EvictionSoftGrace: time.Minute, ThrottlingFactor: new(float64)},
			Node:   Node{Name: "a", Capacity: value("capacity"), Conditions: []Condition{{Type: "Ready"}}, Taints: []Taint{{Key: "k"}}},
		}, {Pods: []Pod{{UID: "u", Limit: value("limit"), Containers: []Container{{Kind: SidecarContainer, Terminated: Termination{ExitCode: 1}}}}}}}).Draw(t, "kubernetes"),
		Sweep:  Sweep{Cgroups: 3, Duration: time.Millisecond},
		Errors: []SourceError{{Source: rapid.String().Draw(t, "source"), Error: "gone", Hint: "look"}},
	}
	for i := range rapid.IntRange(1, 5).Draw(t, "cgroups") {
		s.Cgroups = append(s.Cgroups, Cgroup{
			Path: "/" + rapid.String().Draw(t, "path"), Parent: int32(rapid.IntRange(min(0, i-1), max(-1, i-1)).Draw(t, "parent")),
			Inode: rapid.Uint64().Draw(t, "inode"), Identity: Identity{Class: ClassPod, PodUID: "x"},
			Usage: value("usage"), Max: value("max"), Stat: stat("stat"), Events: stat("events"),
			EventsLocal: stat("local"), OOMControl: stat("oom control"), Pressure: Pressure{Some: line("cgroup")},
		})
	}
	return s
}

func encoded(t rapid.TB, s *Snapshot) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := Encode(&b, s); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestCaptureRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := anySnapshot(t)
		got, err := Decode(bytes.NewReader(encoded(t, want)))
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("\n got %+v\nwant %+v", got, want)
		}
	})
}

func TestDecodeSharesLayouts(t *testing.T) {
	stat := func(names ...string) Stat { return Stat{Keys: NewKeys(names), Values: make([]uint64, len(names))} }
	s, err := Decode(bytes.NewReader(encoded(t, &Snapshot{Cgroups: []Cgroup{
		{Parent: -1, Stat: stat("anon", "file"), Events: stat("oom")},
		{Stat: stat("anon", "file"), EventsLocal: stat("oom")},
		{Stat: stat("file", "anon"), OOMControl: stat("anonfile")},
	}})))
	if err != nil {
		t.Fatal(err)
	}
	c := s.Cgroups
	if c[0].Stat.Keys != c[1].Stat.Keys || c[0].Events.Keys != c[1].EventsLocal.Keys {
		t.Error("equal layouts are not one")
	}
	if c[0].Stat.Keys == c[2].Stat.Keys || c[0].Stat.Keys == c[2].OOMControl.Keys {
		t.Error("other layouts are one")
	}
}

func gzipped(text string) []byte {
	var b bytes.Buffer
	zip := gzip.NewWriter(&b)
	_, _ = io.WriteString(zip, text)
	_ = zip.Close()
	return b.Bytes()
}

func TestDecodeRefuses(t *testing.T) {
	good := encoded(t, &Snapshot{Node: strings.Repeat("a long name ", 1000), Cgroups: []Cgroup{{Path: "/", Parent: -1}}})
	flipped := bytes.Clone(good)
	flipped[len(flipped)-6] ^= 1 // in the checksum
	const head = `{"format":"memrecon capture","version":1,`
	for _, c := range []struct {
		name string
		in   []byte
		want string
	}{
		{"empty file", nil, "no memrecon capture, which is in gzip"},
		{"text", []byte("MemTotal: 5 kB\n"), "no memrecon capture, which is in gzip"},
		{"gzip of nothing", gzipped(""), "gzip of something else"},
		{"gzip of text", gzipped("MemTotal: 5 kB\n"), "gzip of something else"},
		{"gzip of other JSON", gzipped(`{"kind":"Pod"}`), "gzip of something else"},
		{"another format", gzipped(`{"format":"a capture","version":1}`), "gzip of something else"},
		{"no version", gzipped(`{"format":"memrecon capture","node":"a"}`), "gzip of something else"},
		{"version 0", gzipped(`{"format":"memrecon capture","version":0}`), "gzip of something else"},
		{"newer", gzipped(`{"format":"memrecon capture","version":2,"cgroups":"another form"}`), "use the memrecon that made it"},
		{"cut in the head", good[:20], "breaks off"},
		{"cut in the middle", good[:len(good)/2], "breaks off"},
		{"cut in the checksum", good[:len(good)-3], "breaks off"},
		{"cut before it was zipped", gzipped(head), "breaks off"},
		{"flipped bit", flipped, "damaged"},
		{"wrong type", gzipped(head + `"node":5}`), "damaged"},
		{"wrong value", gzipped(head + `"cgroups":[{"path":"/","parent":-1,"usage_bytes":"much"}]}`), "damaged"},
		{"parent behind", gzipped(head + `"cgroups":[{"path":"/","parent":-1},{"path":"/a","parent":1}]}`), `"/a" has no parent`},
		{"second root", gzipped(head + `"cgroups":[{"path":"/","parent":-1},{"path":"/a","parent":-1}]}`), `"/a" has no parent`},
		{"parent before all", gzipped(head + `"cgroups":[{"path":"/","parent":-2}]}`), `"/" has no parent`},
		{"bomb", gzipped(head + `"node":"` + strings.Repeat("a", 2<<20) + `"}`), "larger than 1 MiB"},
		{"bomb behind the end", gzipped(head + `"node":"a"}` + strings.Repeat(" ", 2<<20)), "larger than 1 MiB"},
	} {
		s, err := decode(bytes.NewReader(c.in), 1<<20)
		if err == nil || !strings.Contains(err.Error(), c.want) || s != nil {
			t.Errorf("%s: %v; want an error with %q", c.name, err, c.want)
		}
	}
	if _, err := decode(bytes.NewReader(good), 1<<20); err != nil {
		t.Error(err)
	}
}

// A file that cannot be read is not a file that breaks off.
func TestDecodeReadError(t *testing.T) {
	good := encoded(t, &Snapshot{Node: "a"})
	broken := errors.New("input/output error")
	_, err := Decode(io.MultiReader(bytes.NewReader(good[:len(good)-4]), errorReader{broken}))
	if !errors.Is(err, broken) {
		t.Errorf("%v, want %v in it", err, broken)
	}
}

type errorReader struct{ err error }

func (r errorReader) Read([]byte) (int, error) { return 0, r.err }

func FuzzDecode(f *testing.F) {
	f.Add(encoded(f, &Snapshot{Node: "a", Cgroups: []Cgroup{{Path: "/", Parent: -1, Usage: Of(5)}}}))
	f.Add(gzipped(`{"format":"memrecon capture","version":1,"host":{"vmstat":{"a":1}},"cgroups":[{"parent":-1,"stat":{}}]}`))
	f.Add(gzipped("{}"))
	f.Add([]byte("text"))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := decode(bytes.NewReader(b), 1<<20)
		if err != nil {
			return
		}
		again, err := Decode(bytes.NewReader(encoded(t, s)))
		if err != nil {
			t.Fatal(err)
		}
		if len(again.Cgroups) != len(s.Cgroups) || again.Node != s.Node {
			t.Fatalf("%+v became %+v", s, again)
		}
	})
}
