package snapshot_test

import (
	"strings"
	"testing"

	"github.com/memrecon/memrecon/snapshot"
)

// The values are what k8s.io/apimachinery v0.37.2 gives: resource.ParseQuantity and Quantity.Value.
func TestParseQuantity(t *testing.T) {
	for in, want := range map[string]uint64{
		"0": 0, "128974848": 128974848, "129e6": 129000000, "129E6": 129000000, "129M": 129000000, "128974848000m": 128974848,
		"123Mi": 123 << 20, "7120616Ki": 7120616 << 10, "1.5Gi": 3 << 29, "0.5": 1, "1m": 1, "1500m": 2, "1n": 1, "1u": 1,
		"1k": 1000, "1G": 1e9, "2T": 2e12, "1P": 1e15, "7E": 7e18, "7Ei": 7 << 60, "1Ti": 1 << 40, "1Pi": 1 << 50, "+5": 5, "5.": 5,
		".5Ki": 512, "1e-3": 1, "100e-1": 10, "1E3": 1000, "9223372036854775807": 1<<63 - 1, "9223372036854775808": 1<<63 - 1, "8Ei": 1<<63 - 1, "1e19": 1<<63 - 1, "0.1Ki": 103,
	} {
		if got, err := snapshot.ParseQuantity(in); err != nil || got != snapshot.Of(want) {
			t.Errorf("%s is %v, %v; want %d", in, got, err, want)
		}
	}
	for _, in := range []string{
		"", "Mi", "x", "1 Mi", "1Mi ", "1mi", "1Ki1", "1.2.3", "-1", "-1Mi", "1e", "1e100", "1e1000000000", "1KiB", "1ei", "0x10", "1_0",
		"1p3", "1/2", "NaN", "inf", "1 ", "½", strings.Repeat("9", 70),
	} {
		if got, err := snapshot.ParseQuantity(in); err == nil || !got.IsAbsent() {
			t.Errorf("%q is %v", in, got)
		}
	}
}

func FuzzParseQuantity(f *testing.F) {
	for _, s := range []string{"200Mi", "1.5Gi", "128974848000m", "129e6", "7E", "-1", "1e99"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if v, err := snapshot.ParseQuantity(s); (err == nil) == v.IsAbsent() {
			t.Fatalf("%v, %v", v, err)
		}
	})
}
