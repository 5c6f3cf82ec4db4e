package snapshot

import (
	"fmt"
	"math"
	"math/big"
	"strconv"
	"strings"
)

// ParseQuantity reads a quantity of memory (k8s.io/apimachinery, pkg/api/resource): a decimal number with a binary suffix
// (Ki), a decimal one (k, or m for thousandths) or an exponent (e3). A part of a byte counts as one.
func ParseQuantity(s string) (Value, error) {
	bad := func(why string) (Value, error) {
		return Value{}, fmt.Errorf("%.40q is not a quantity of memory: %s", s, why)
	}
	suffix := strings.TrimLeft(s, "+-.0123456789")
	scale, ok := exponent(suffix)
	if !ok {
		return bad("its suffix is unknown")
	}
	number, ok := new(big.Rat).SetString(strings.TrimSuffix(s, suffix) + scale)
	if !ok || len(s) > 64 {
		return bad("it is no number")
	}
	if number.Sign() < 0 {
		return bad("it is negative")
	}
	bytes, part := new(big.Int).QuoRem(number.Num(), number.Denom(), new(big.Int))
	if part.Sign() > 0 {
		bytes.Add(bytes, big.NewInt(1))
	}
	if !bytes.IsInt64() {
		bytes.SetInt64(math.MaxInt64) // as Quantity.Value does
	}
	return Of(bytes.Uint64()), nil
}

// exponent is what a suffix multiplies with, as an exponent of ten (e) or two (p) that package big understands.
func exponent(suffix string) (string, bool) {
	const decimal, binary = "num kMGTPE", "KMGTPE"
	switch {
	case suffix == "":
		return "", true
	case len(suffix) == 1 && suffix != " ":
		i := strings.Index(decimal, suffix)
		return "e" + strconv.Itoa(3*(i-3)), i >= 0
	case len(suffix) == 2 && suffix[1] == 'i':
		i := strings.IndexByte(binary, suffix[0])
		return "p" + strconv.Itoa(10*(i+1)), i >= 0
	case suffix[0] == 'e' || suffix[0] == 'E':
		n, err := strconv.Atoi(suffix[1:])
		return "e" + strconv.Itoa(n), err == nil && n > -100 && n < 100
	}
	return "", false
}
