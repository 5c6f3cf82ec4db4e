package kernellog

import (
	"encoding/json"
	"strconv"
	"time"
)

// object is a JSON object whose members are looked at one by one.
type object map[string]json.RawMessage

// json is a line that is a JSON object with the kernel's words in one of its members, as journalctl -o json, container runtimes
// and log shippers write them. Many programs log JSON, so an object is the kernel's only where a member or the words' own prefix
// says so, or where it has nothing but what a carrier of other people's lines adds.
func (r *record) json() bool {
	if !hasByte(r.text, '{') {
		return false
	}
	var outer object
	if json.Unmarshal(r.text, &outer) != nil {
		return false
	}
	inner := outer
	var payload object // of Google Cloud's logging agent
	if json.Unmarshal(outer["jsonPayload"], &payload) == nil {
		inner = payload
	}
	text, ok := inner.message()
	if !ok {
		text, ok = outer.message()
	}
	r.members(outer)
	r.members(inner)
	r.text = trim([]byte(text))
	if !ok || inner.isProgram() && !r.kernel && begins(r.text) {
		r.foreign = true
	}
	return true
}

// message is the member with the words. journalctl writes what is not UTF-8 as an array of bytes.
func (o object) message() (string, bool) {
	for _, key := range []string{"MESSAGE", "message", "msg", "log", "line", "textPayload"} {
		if text := o.text(key); text != "" {
			return text, true
		}
		var numbers []byte
		if hasByte(o[key], '[') && json.Unmarshal(o[key], &numbers) == nil {
			return string(numbers), true
		}
	}
	return "", false
}

// text is a member that is a string, "" where it is none.
func (o object) text(key string) string {
	var text string
	if json.Unmarshal(o[key], &text) != nil {
		return ""
	}
	return text
}

// members takes what stands beside the words: who wrote them, where and when.
func (r *record) members(o object) {
	for _, key := range []string{"_TRANSPORT", "SYSLOG_IDENTIFIER", "appname", "app_name", "program", "programname", "ident", "facility"} {
		r.program([]byte(o.text(key)))
	}
	for _, key := range []string{"host", "hostname", "_HOSTNAME"} {
		if host := o.text(key); host != "" {
			r.host = host
		}
	}
	for _, key := range []string{"ts", "@timestamp", "timestamp", "time"} {
		if stamp := []byte(o.text(key)); isoLength(stamp) > 0 {
			r.setWall(stamp)
		}
	}
	if micros, err := strconv.ParseInt(o.text("__REALTIME_TIMESTAMP"), 10, 64); err == nil {
		r.setWall([]byte(time.UnixMicro(micros).UTC().Format(time.RFC3339Nano)))
	}
	if micros, err := strconv.ParseUint(o.text("_SOURCE_MONOTONIC_TIMESTAMP"), 10, 64); err == nil {
		r.setBoot(micros)
	}
}

// isProgram tells the objects that programs and Kubernetes write of themselves: log lines with a level, and events.
func (o object) isProgram() bool {
	for _, key := range []string{"level", "logger", "caller", "component", "reason", "involvedObject"} {
		if o.text(key) != "" || hasByte(o[key], '{') {
			return true
		}
	}
	return hasByte(o["source"], '{') // an event's; a shipper's is a word
}
