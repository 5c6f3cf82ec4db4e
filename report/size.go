package report

import "strconv"

// Size is a number of bytes as Kubernetes writes quantities, with one decimal: "512Ki", "95.9Mi", "-1.5Gi", "0".
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
	for f >= 1023.95 && unit < len(units)-1 { // what would be written as 1024.0
		f, unit = f/1024, unit+1
	}
	s := strconv.FormatFloat(f, 'f', 1, 64)
	if len(s) > 2 && s[len(s)-2:] == ".0" {
		s = s[:len(s)-2]
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
