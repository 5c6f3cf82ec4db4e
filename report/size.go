package report

import (
	"strconv"
	"strings"
)

// Size is a number of bytes as Kubernetes writes quantities, with the three digits that matter: "512Ki", "95.9Mi", "1.52Gi",
// "-3Gi", "0".
func Size(n int64) string {
	sign := ""
	u := uint64(n)
	if n < 0 {
		sign, u = "-", -u
	}
	if u < 1024 {
		return sign + strconv.FormatUint(u, 10)
	}
	f, unit := float64(u)/1024, 0
	const units = "KMGTPE"
	for f >= 1023.5 && unit < len(units)-1 { // what would be written as 1024
		f, unit = f/1024, unit+1
	}
	decimals := 2
	switch {
	case f >= 99.95:
		decimals = 0
	case f >= 9.995:
		decimals = 1
	}
	s := strconv.FormatFloat(f, 'f', decimals, 64)
	if decimals > 0 {
		s = strings.TrimRight(strings.TrimRight(s, "0"), ".")
	}
	return sign + s + units[unit:unit+1] + "i"
}

// signed is Size with a plus for what is added.
func signed(n int64) string {
	if n > 0 {
		return "+" + Size(n)
	}
	return Size(n)
}

// percent is a share with as many digits as matter: "99%", "0.24%", "<0.01%".
func percent(part, whole int64) string {
	if whole == 0 {
		return "0%"
	}
	p := 100 * float64(part) / float64(whole)
	switch a := max(p, -p); {
	case a == 0:
		return "0%"
	case a < 0.01:
		return "<0.01%"
	case a < 10:
		return strconv.FormatFloat(p, 'f', 2, 64) + "%"
	default:
		return strconv.FormatFloat(p, 'f', 0, 64) + "%"
	}
}
