package kernellog

import (
	"bytes"
	"time"
)

// record is a line of a log, taken apart into the kernel's words and what others have put before them.
type record struct {
	text []byte
	// host is the machine that the line names, "" for none.
	host string
	when moment
	// kernel tells that the line itself says it is the kernel's, by the kernel's time stamp or the tag kernel.
	kernel bool
	// foreign tells that the line says it is another program's.
	foreign bool
}

// moment is when a line was written, as far as it says so.
type moment struct {
	boot  time.Duration // since boot; valid with hasBoot
	wall  time.Time     // zero where the line has none, or none of a known year and zone
	stamp string        // the line's own wall clock, as it has it
	local time.Time     // the stamp in year 0, to compare with others of the same log where wall is zero
	// hasBoot tells that there is a boot: the first lines of a boot are at zero.
	hasBoot bool
}

// maxPrefixes bounds how many prefixes a line can have, one in another: a log shipper's, a container runtime's, syslog's, the
// kernel's own.
const maxPrefixes = 12

// parseRecord takes off every prefix that it knows, whichever comes first, and ends where the kernel's words begin.
//
//	[   95.479751] text                                                dmesg
//	[   95.479751][ T1117] text                                        with CONFIG_PRINTK_CALLER
//	[Mon Mar  4 10:11:12 2024] text                                    dmesg -T, in any language
//	kern  :warn  : [   95.479751] text                                 dmesg -x
//	<4>[   95.479751] text                                             syslog(2), dmesg -r, a serial console
//	4,1234,95479751,-,caller=T1117;text                                /dev/kmsg
//	Mar  4 10:11:12 host kernel: [   95.479751] text                   syslog (RFC 3164), journalctl
//	<4>Mar  4 10:11:12 host kernel: text                               the same on the wire
//	<4>1 2024-03-04T10:11:12.123456+00:00 host kernel - - - text       RFC 5424
//	2024-03-04T10:11:12+0000 host kernel: text                         journalctl -o short-iso
//	[   95.479751] host kernel: text                                   journalctl -o short-monotonic
//	2024-03-04T10:11:12.123456789Z stdout F text                       a container's log (CRI)
//	{"_TRANSPORT":"kernel","MESSAGE":"text",...}                       journalctl -o json and other JSON, see json.go
//	10.5.0.2: kern: warning: [2024-03-04T10:11:12.123456789Z]: text    talosctl dmesg
func parseRecord(line []byte) record {
	r := record{text: trim(line)}
	if bytes.IndexByte(r.text, '\x1b') >= 0 {
		r.text = uncolored(r.text)
	}
	for range maxPrefixes {
		r.text = bytes.TrimLeft(r.text, " \t\x00")
		if r.foreign || begins(r.text) ||
			!r.kmsg() && !r.priority() && !r.bracket() && !r.date() && !r.facility() && !r.json() && !r.field() && !r.tag() {
			break
		}
	}
	return r
}

// trim takes off line ends, what a crash leaves in a log file, and a byte order mark.
func trim(line []byte) []byte {
	return bytes.TrimPrefix(bytes.Trim(line, "\r\n\x00"), []byte("\xef\xbb\xbf"))
}

// uncolored is a text without the colours that dmesg and journalctl give it for a terminal.
func uncolored(text []byte) []byte {
	out := make([]byte, 0, len(text))
	for i := 0; i < len(text); i++ {
		if text[i] != '\x1b' {
			out = append(out, text[i])
			continue
		}
		if i++; i < len(text) && text[i] == '[' {
			for i++; i < len(text) && (text[i] == ';' || isDigit(text[i])); i++ {
			}
		}
	}
	return out
}

// kmsg is a record of /dev/kmsg: priority, sequence number, microseconds since boot, flags, and perhaps more behind them. The
// kernel writes unprintable bytes and the backslash as \xNN.
func (r *record) kmsg() bool {
	priority, rest, ok := number(r.text)
	if !ok || !hasByte(rest, ',') {
		return false
	}
	if _, rest, ok = number(rest[1:]); !ok || !hasByte(rest, ',') {
		return false
	}
	micros, rest, ok := number(rest[1:])
	if !ok || !hasByte(rest, ',') {
		return false
	}
	end := bytes.IndexByte(rest[:min(len(rest), 64)], ';')
	if end < 0 {
		return false
	}
	r.setBoot(micros)
	r.of(priority)
	r.text = unescaped(rest[end+1:])
	return true
}

func unescaped(text []byte) []byte {
	if !bytes.Contains(text, []byte(`\x`)) {
		return text
	}
	out := make([]byte, 0, len(text))
	for i := 0; i < len(text); i++ {
		if text[i] == '\\' && i+3 < len(text) && text[i+1] == 'x' {
			high, low := hexDigit(text[i+2]), hexDigit(text[i+3])
			if high >= 0 && low >= 0 {
				out = append(out, byte(high<<4|low))
				i += 3
				continue
			}
		}
		out = append(out, text[i])
	}
	return out
}

// of takes the word of a priority that only the kernel's own interfaces write: facility 0 is the kernel's, what programs write
// into /dev/kmsg has another.
func (r *record) of(priority uint64) {
	if priority>>3 == 0 {
		r.kernel = true
	} else {
		r.foreign = true
	}
}

// priority is <N>: before the kernel's time stamp it is the kernel's, else syslog's, where a forwarder may have put its own
// facility and the tag decides.
func (r *record) priority() bool {
	if !hasByte(r.text, '<') {
		return false
	}
	n, rest, ok := number(r.text[1:])
	if !ok || n > 1023 || !hasByte(rest, '>') {
		return false
	}
	r.text = rest[1:]
	if r.rfc5424() {
		return true
	}
	if hasByte(r.text, '[') {
		r.of(n)
	}
	return true
}

// rfc5424 is what stands behind the priority: version, time, host, program, process, message's ID, structured data.
func (r *record) rfc5424() bool {
	rest, ok := bytes.CutPrefix(r.text, []byte("1 "))
	if !ok {
		return false
	}
	var fields [5][]byte
	for i := range fields {
		var found bool
		if fields[i], rest, found = bytes.Cut(rest, []byte{' '}); !found {
			return false
		}
	}
	if hasByte(rest, '[') {
		end := bytes.Index(rest, []byte("] "))
		if end < 0 {
			return false
		}
		rest = rest[end+2:]
	} else if rest, ok = bytes.CutPrefix(rest, []byte("- ")); !ok {
		return false
	}
	r.setWall(fields[0])
	if host := string(fields[1]); host != "-" {
		r.host = host
	}
	r.program(fields[2])
	r.text = bytes.TrimPrefix(rest, []byte("\xef\xbb\xbf"))
	return true
}

// program is who wrote the line, by a name that a log gives its programs.
func (r *record) program(name []byte) {
	switch string(name) {
	case "kernel", "kern":
		r.kernel = true
	case "", "-":
	default:
		r.foreign = true
	}
}

// bracket is a time stamp in brackets, or who printed the line. A row of the table of tasks has neither.
func (r *record) bracket() bool {
	if !hasByte(r.text, '[') {
		return false
	}
	end := bytes.IndexByte(r.text[:min(len(r.text), 64)], ']')
	if end < 0 {
		return false
	}
	inside := bytes.TrimSpace(r.text[1:end])
	if len(inside) == 0 {
		return false
	}
	rest := r.text[end+1:]
	if boot, ok := bootStamp(inside); ok {
		r.setBoot(boot)
		r.kernel = true
		r.text = rest
		return true
	}
	switch {
	case inside[0] == '+' && bytes.IndexByte(inside, '.') > 0: // dmesg -e: since the line before
	case (inside[0] == 'T' || inside[0] == 'C') && allDigits(inside[1:]): // the thread, or the CPU in an interrupt
	case hasClock(inside):
		r.setWall(inside)
		rest = bytes.TrimPrefix(rest, []byte{':'})
	default:
		return false
	}
	r.text = rest
	return true
}

// bootStamp is the microseconds in "95.479751", behind which dmesg -d puts what went by since the line before.
func bootStamp(inside []byte) (micros uint64, ok bool) {
	seconds, rest, ok := number(inside)
	if !ok || !hasByte(rest, '.') || seconds > 1<<40 {
		return 0, false
	}
	fraction, after, ok := number(rest[1:])
	digits := len(rest) - 1 - len(after)
	if !ok || digits > 9 || len(after) > 0 && !bytes.HasPrefix(bytes.TrimLeft(after, " "), []byte{'<'}) {
		return 0, false
	}
	for ; digits < 6; digits++ {
		fraction *= 10
	}
	for ; digits > 6; digits-- {
		fraction /= 10
	}
	return seconds*1e6 + fraction, true
}

// hasClock tells a text with a time of day in it, such as 10:11.
func hasClock(text []byte) bool {
	i := bytes.IndexByte(text, ':')
	return i >= 1 && i+1 < len(text) && isDigit(text[i-1]) && isDigit(text[i+1])
}

// date is a wall clock at the beginning of a line, as syslog (Mar  4 10:11:12), ISO 8601 and RFC 3339 (2024-03-04T10:11:12Z) and
// journalctl's short-full (Mon 2024-03-04 10:11:12 UTC) and short-unix (1709547072.123456) have it, and what a container runtime
// puts behind it.
func (r *record) date() bool {
	text := r.text
	if len(text) > 14 && text[3] == ' ' && isLetter(text[0]) && isDigit(text[4]) && isDigit(text[7]) && text[8] == '-' {
		text = text[4:] // the day of the week
	}
	n := isoLength(text)
	if n == 0 {
		n = syslogLength(text)
	}
	if n == 0 {
		return r.unixTime()
	}
	rest := text[n:]
	if zone, after, ok := bytes.Cut(rest, []byte{' '}); ok && len(zone) == 0 { // " UTC host kernel: "
		if zone, after, ok = bytes.Cut(after, []byte{' '}); ok && len(zone) >= 2 && len(zone) <= 5 && allUpper(zone) {
			rest = after
			n += 1 + len(zone)
		}
	}
	r.setWall(text[:n])
	rest = bytes.TrimLeft(rest, " :")
	for _, stream := range []string{"stdout F ", "stderr F ", "stdout P ", "stderr P "} {
		rest = bytes.TrimPrefix(rest, []byte(stream))
	}
	r.text = rest
	return true
}

func (r *record) unixTime() bool {
	seconds, rest, ok := number(r.text)
	if !ok || seconds < 1e9 || seconds >= 1e10 || !hasByte(rest, '.') {
		return false
	}
	digits, rest, ok := bytes.Cut(rest[1:], []byte{' '})
	micros, ok2 := bootStamp([]byte("0." + string(digits)))
	if !ok || !ok2 {
		return false
	}
	r.when.wall = time.UnixMicro(int64(seconds)*1e6 + int64(micros))
	r.text = rest
	return true
}

// isoLength is how long the ISO 8601 time is that text begins with, 0 where it begins with none. The fraction may follow a
// comma (dmesg --time-format=iso), the zone may lack its colon (journalctl before systemd 239), and either may be missing.
func isoLength(text []byte) int {
	const form = "dddd-dd-ddTdd:dd:dd"
	if !matches(text, form) {
		return 0
	}
	n := len(form)
	if n < len(text) && (text[n] == '.' || text[n] == ',') {
		for n++; n < len(text) && isDigit(text[n]); n++ {
		}
	}
	switch rest := text[n:]; {
	case hasByte(rest, 'Z'):
		n++
	case hasByte(rest, '+') || hasByte(rest, '-'):
		for _, zone := range []string{"dd:dd", "dddd", "dd"} {
			if matches(rest[1:], zone) {
				return n + 1 + len(zone)
			}
		}
	}
	return n
}

// syslogLength is the same of syslog's "Mar  4 10:11:12", which some write with a year or a fraction.
func syslogLength(text []byte) int {
	if len(text) < 15 || !isLetter(text[0]) || !isLetter(text[1]) || !isLetter(text[2]) || text[3] != ' ' {
		return 0
	}
	for _, form := range []string{" d dd:dd:dd", "dd dd:dd:dd", "d dd:dd:dd", " d dddd dd:dd:dd", "dd dddd dd:dd:dd"} {
		if matches(text[4:], form) {
			n := 4 + len(form)
			if n+1 < len(text) && text[n] == '.' && isDigit(text[n+1]) {
				for n++; n < len(text) && isDigit(text[n]); n++ {
				}
			}
			return n
		}
	}
	return 0
}

// matches tells whether text begins with a form: d is a digit, T what divides date and time, all else itself.
func matches(text []byte, form string) bool {
	if len(text) < len(form) {
		return false
	}
	for i := range len(form) {
		switch c := text[i]; form[i] {
		case 'd':
			if !isDigit(c) {
				return false
			}
		case 'T':
			if c != 'T' && c != 't' && c != ' ' {
				return false
			}
		default:
			if c != form[i] {
				return false
			}
		}
	}
	return true
}

// facility is dmesg -x's "kern  :warn  : ", talosctl's "10.5.0.2: kern: warning: " or BusyBox's "kern.warn kernel: ".
func (r *record) facility() bool {
	name, rest, ok := word(r.text)
	if !ok {
		return false
	}
	if level, rest, ok := bytes.Cut(rest, []byte{' '}); ok && isFacility(name) && hasByte(level, '.') && isLevel(level[1:]) {
		r.text = rest // the tag follows
		return true
	}
	if !isFacility(name) {
		_, rest, ok = bytes.Cut(r.text, []byte(": "))
		if name, rest, ok2 := word(rest); ok && ok2 && isFacility(name) {
			return r.level(name, rest)
		}
		return false
	}
	return r.level(name, rest)
}

func (r *record) level(facility, rest []byte) bool {
	rest, ok := bytes.CutPrefix(bytes.TrimLeft(rest, " "), []byte{':'})
	if !ok {
		return false
	}
	level, rest, ok := word(bytes.TrimLeft(rest, " "))
	if !ok || !isLevel(level) {
		return false
	}
	if rest, ok = bytes.CutPrefix(bytes.TrimLeft(rest, " "), []byte{':'}); !ok {
		return false
	}
	r.program(facility)
	r.text = rest
	return true
}

func isFacility(name []byte) bool {
	switch string(name) {
	case "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp",
		"local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7":
		return true
	}
	return false
}

func isLevel(name []byte) bool {
	switch string(name) {
	case "emerg", "alert", "crit", "err", "error", "warn", "warning", "notice", "info", "debug":
		return true
	}
	return false
}

// field is a line of journalctl -o verbose or -o export.
func (r *record) field() bool {
	message, ok := bytes.CutPrefix(r.text, []byte("MESSAGE="))
	if ok {
		r.text = message
	}
	return ok
}

// tag is "host kernel: ", "kernel: ", or the same of another program. The process ID in "kubelet[123]: " makes a tag of a word
// wherever it stands; a word with a colon alone is one only behind a wall clock, for the kernel's own lines also begin so. What
// is known to be a line of the kernel's about an OOM was told before.
func (r *record) tag() bool {
	if r.header() {
		return true
	}
	first, rest, ok := bytes.Cut(r.text, []byte{' '})
	if !ok {
		return false
	}
	switch asTag(first) {
	case tagKernel:
		r.kernel, r.text = true, rest
		return true
	case tagProcess:
		r.foreign = true
		return true
	case tagWord:
		r.foreign = !r.kernel && r.when.stamp != ""
		return r.foreign
	}
	second, rest, ok := bytes.Cut(rest, []byte{' '})
	if !ok {
		return false
	}
	switch asTag(second) {
	case tagKernel:
		r.kernel, r.text = true, rest
	case tagProcess:
		r.foreign = true
	case tagWord:
		if r.kernel || r.when.stamp == "" {
			return false
		}
		r.foreign = true
	default:
		if !bytes.HasPrefix(second, []byte("kern.")) {
			return false
		}
		r.text = r.text[len(first)+1:]
	}
	r.host = string(first)
	return true
}

// header is that of klog, with which Kubernetes' components begin their lines: "E0304 10:11:12.123456    1234 file.go:1] ".
func (r *record) header() bool {
	if len(r.text) > 1 && bytes.IndexByte([]byte("IWEF"), r.text[0]) >= 0 && matches(r.text[1:], "dddd dd:dd:dd.") {
		r.foreign = true
	}
	return r.foreign
}

type tagKind int

const (
	noTag      tagKind = iota
	tagKernel          // kernel:
	tagProcess         // kubelet[123]:
	tagWord            // kubelet:
)

func asTag(word []byte) tagKind {
	name, ok := bytes.CutSuffix(word, []byte{':'})
	switch {
	case !ok || len(name) == 0:
		return noTag
	case string(name) == "kernel":
		return tagKernel
	}
	if open := bytes.IndexByte(name, '['); open > 0 && name[len(name)-1] == ']' && allDigits(name[open+1:len(name)-1]) {
		if string(name[:open]) == "kernel" {
			return tagKernel
		}
		return tagProcess
	}
	return tagWord
}

// embedded is where in a text another line begins, behind one that was not ended or a prefix that nobody knows: at the kernel's
// time stamp as the console has it, with six decimals, padded to twelve columns; -1 where none does.
func embedded(text []byte) int {
	for from := 0; ; {
		i := bytes.IndexByte(text[from:], '[')
		if i < 0 {
			return -1
		}
		i += from
		from = i + 1
		end := bytes.IndexByte(text[i:min(len(text), i+24)], ']')
		if end < 13 || text[i+end-7] != '.' || i+end+1 >= len(text) || text[i+end+1] != ' ' && text[i+end+1] != '[' {
			continue
		}
		if _, ok := bootStamp(bytes.TrimLeft(text[i+1:i+end], " ")); ok {
			if i >= 3 && text[i-1] == '>' && text[i-3] == '<' {
				return i - 3
			}
			return i
		}
	}
}

func (r *record) setBoot(micros uint64) {
	if !r.when.hasBoot && micros < 1<<53 {
		r.when.boot, r.when.hasBoot = time.Duration(micros)*time.Microsecond, true
	}
}

// setWall keeps the innermost wall clock: it is nearer to the kernel than a shipper's.
func (r *record) setWall(stamp []byte) {
	r.when.stamp, r.when.wall, r.when.local = string(stamp), time.Time{}, time.Time{}
	text := r.when.stamp
	if matches(stamp, "dddd-dd-ddTdd:dd:dd") {
		text = text[:10] + "T" + text[11:]
		for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05Z0700", "2006-01-02T15:04:05Z07", "2006-01-02T15:04:05 UTC"} {
			if t, err := time.Parse(layout, text); err == nil {
				r.when.wall = t.UTC()
				return
			}
		}
		text = text[:len("dddd-dd-ddTdd:dd:dd")]
	}
	for _, layout := range []string{"2006-01-02T15:04:05", time.Stamp, time.ANSIC, "Jan 02 15:04:05"} {
		if t, err := time.Parse(layout, text); err == nil {
			r.when.local = time.Date(0, t.Month(), t.Day(), t.Hour(), t.Minute(), t.Second(), t.Nanosecond(), time.UTC)
			return
		}
	}
}

// since is how long after another moment this one is, and whether the two can be compared.
func (m moment) since(other moment) (time.Duration, bool) {
	switch {
	case m.hasBoot && other.hasBoot:
		return m.boot - other.boot, true
	case !m.wall.IsZero() && !other.wall.IsZero():
		return m.wall.Sub(other.wall), true
	case !m.local.IsZero() && !other.local.IsZero():
		return m.local.Sub(other.local), true
	}
	return 0, false
}

// word is the letters and digits that text begins with.
func word(text []byte) (name, rest []byte, ok bool) {
	n := 0
	for n < len(text) && (isLetter(text[n]) || isDigit(text[n])) {
		n++
	}
	return text[:n], text[n:], n > 0
}

// number is the decimal number that text begins with.
func number(text []byte) (n uint64, rest []byte, ok bool) {
	i := 0
	for ; i < len(text) && isDigit(text[i]); i++ {
		if i == 19 { // nothing in a log is as large, and it would not fit
			return 0, text, false
		}
		n = n*10 + uint64(text[i]-'0')
	}
	return n, text[i:], i > 0
}

func hasByte(text []byte, c byte) bool { return len(text) > 0 && text[0] == c }

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

func isLetter(c byte) bool { return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' }

func allDigits(text []byte) bool {
	for _, c := range text {
		if !isDigit(c) {
			return false
		}
	}
	return len(text) > 0
}

func allUpper(text []byte) bool {
	for _, c := range text {
		if c < 'A' || c > 'Z' {
			return false
		}
	}
	return true
}

func hexDigit(c byte) int {
	switch {
	case isDigit(c):
		return int(c - '0')
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10
	}
	return -1
}
