package kernellog_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/memrecon/memrecon/cgroup"
	"github.com/memrecon/memrecon/kernellog"
	"github.com/memrecon/memrecon/snapshot"
)

var update = flag.Bool("update", false, "write the .json beside each log; look at the difference before you commit it")

// parse is what a whole log has.
func parse(tb testing.TB, r io.Reader) snapshot.KernelLog {
	tb.Helper()
	log := snapshot.KernelLog{Kills: []snapshot.Kill{}}
	p := kernellog.NewParser(cgroup.Identify, func(k *snapshot.Kill) { log.Kills = append(log.Kills, *k) })
	if err := p.Read(r); err != nil {
		tb.Fatal(err)
	}
	log.Lines, log.Unexplained = p.Lines(), p.Unexplained()
	return log
}

func logs(tb testing.TB) map[string][]byte {
	tb.Helper()
	files, err := filepath.Glob("../testdata/kernel/*.log")
	if err != nil || len(files) == 0 {
		tb.Fatalf("no logs: %v", err)
	}
	all := map[string][]byte{}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			tb.Fatal(err)
		}
		all[filepath.Base(f)] = b
	}
	return all
}

// Each log has the kills that stand beside it.
func TestLogs(t *testing.T) {
	for name, text := range logs(t) {
		t.Run(name, func(t *testing.T) {
			got, err := json.MarshalIndent(parse(t, bytes.NewReader(text)), "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, '\n')
			golden := filepath.Join("../testdata/kernel", strings.TrimSuffix(name, ".log")+".json")
			if *update {
				if err := os.WriteFile(golden, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

// bare takes off the kernel's own time stamps.
func bare(text []byte) []string {
	stamps := regexp.MustCompile(`(?m)^\[ *\d+\.\d{6}\](\[ *T\d+\])? `)
	return strings.Split(strings.TrimRight(string(stamps.ReplaceAll(text, nil)), "\n"), "\n")
}

// prefixes are all that may stand before the kernel's words, for the line printed so long after boot.
func prefixes() map[string]func(text string, after time.Duration) string {
	wall := func(after time.Duration) time.Time { return time.Date(2024, 3, 4, 10, 11, 12, 0, time.UTC).Add(after) }
	boot := func(after time.Duration) string { return fmt.Sprintf("[%12.6f] ", after.Seconds()) }
	quote := func(s string) string {
		b, _ := json.Marshal(s)
		return string(b)
	}
	syslog := func(text string, after time.Duration) string {
		return wall(after).Format(time.Stamp) + " node-1 kernel: " + text
	}
	return map[string]func(string, time.Duration) string{
		"none":             func(text string, _ time.Duration) string { return text },
		"line ends of DOS": func(text string, _ time.Duration) string { return text + "\r" },
		"dmesg":            func(text string, after time.Duration) string { return boot(after) + text },
		"dmesg in colour": func(text string, after time.Duration) string {
			return "\x1b[32m" + boot(after) + "\x1b[0m\x1b[33m" + text + "\x1b[0m"
		},
		"dmesg -T": func(text string, after time.Duration) string {
			return "[" + wall(after).Format(time.ANSIC) + "] " + text
		},
		"dmesg -x": func(text string, after time.Duration) string { return "kern  :warn  : " + boot(after) + text },
		"dmesg -r": func(text string, after time.Duration) string { return "<4>" + boot(after) + text },
		"dmesg -d": func(text string, after time.Duration) string {
			return fmt.Sprintf("[%12.6f <    0.000012>] ", after.Seconds()) + text
		},
		"dmesg -H": func(text string, _ time.Duration) string { return "[  +0.000012] " + text },
		"dmesg, ISO": func(text string, after time.Duration) string {
			return wall(after).Format("2006-01-02T15:04:05,000000-07:00 ") + text
		},
		"CONFIG_PRINTK_CALLER": func(text string, after time.Duration) string {
			return strings.TrimRight(boot(after), " ") + "[ T1117] " + text
		},
		"/dev/kmsg": func(text string, after time.Duration) string {
			return fmt.Sprintf("4,%d,%d,-,caller=T1117;%s", after.Milliseconds(), after.Microseconds(), strings.ReplaceAll(text, `\`, `\x5c`))
		},
		"a container's dmesg": func(text string, after time.Duration) string {
			return wall(after).Format(time.RFC3339Nano) + " stderr F " + boot(after) + text
		},
		"syslog":                   syslog,
		"syslog with the kernel's": func(text string, after time.Duration) string { return syslog(boot(after)+text, after) },
		"syslog, RFC 3164":         func(text string, after time.Duration) string { return "<12>" + syslog(text, after) },
		"syslog, a year": func(text string, after time.Duration) string {
			return wall(after).Format("Jan _2 2006 15:04:05") + " 10.0.0.7 kernel: " + text
		},
		"syslog, RFC 5424": func(text string, after time.Duration) string {
			return "<4>1 " + wall(after).Format(time.RFC3339Nano) + " node-1 kernel - - - " + text
		},
		"syslog, RFC 5424, more data": func(text string, after time.Duration) string {
			return "<4>1 " + wall(after).Format(time.RFC3339Nano) + ` node-1 kernel 0 ID7 [x@1 a="b c"][y@2] ` + text
		},
		"BusyBox": func(text string, after time.Duration) string {
			return wall(after).Format(time.Stamp) + " node-1 kern.warn kernel: " + boot(after) + text
		},
		"journalctl, no host": func(text string, after time.Duration) string {
			return wall(after).Format("Jan 02 15:04:05") + " kernel: " + text
		},
		"journalctl -o short-iso": func(text string, after time.Duration) string {
			return wall(after).Format("2006-01-02T15:04:05-0700") + " node-1 kernel: " + text
		},
		"journalctl -o short-full": func(text string, after time.Duration) string {
			return wall(after).Format("Mon 2006-01-02 15:04:05 UTC") + " node-1 kernel: " + text
		},
		"journalctl -o short-unix": func(text string, after time.Duration) string {
			return fmt.Sprintf("%.6f node-1 kernel: ", float64(wall(after).UnixMicro())/1e6) + text
		},
		"journalctl -o short-monotonic": func(text string, after time.Duration) string { return boot(after) + "node-1 kernel: " + text },
		"journalctl -o verbose":         func(text string, _ time.Duration) string { return "    MESSAGE=" + text },
		"journalctl -o json": func(text string, after time.Duration) string {
			return fmt.Sprintf(`{"_HOSTNAME":"node-1","__REALTIME_TIMESTAMP":"%d","SYSLOG_IDENTIFIER":"kernel","_TRANSPORT":"kernel","MESSAGE":%s}`,
				wall(after).UnixMicro(), quote(text))
		},
		"journalctl -o json, bytes": func(text string, after time.Duration) string {
			var numbers []string
			for _, b := range []byte(text) {
				numbers = append(numbers, strconv.Itoa(int(b)))
			}
			return fmt.Sprintf(`{"_TRANSPORT":"kernel","__REALTIME_TIMESTAMP":"%d","MESSAGE":[%s]}`, wall(after).UnixMicro(), strings.Join(numbers, ","))
		},
		"docker": func(text string, after time.Duration) string {
			return fmt.Sprintf(`{"log":%s,"stream":"stdout","time":%q}`, quote(boot(after)+text+"\n"), wall(after).Format(time.RFC3339Nano))
		},
		"docker around journalctl -o json": func(text string, _ time.Duration) string {
			return fmt.Sprintf(`{"log":%s,"stream":"stdout"}`, quote(fmt.Sprintf(`{"_TRANSPORT":"kernel","MESSAGE":%s}`+"\n", quote(text))))
		},
		"vector": func(text string, after time.Duration) string {
			return fmt.Sprintf(`{"appname":"kernel","host":"node-1","severity":"warning","message":%s,"timestamp":%q}`, quote(text), wall(after).Format(time.RFC3339Nano))
		},
		"filebeat": func(text string, after time.Duration) string {
			return fmt.Sprintf(`{"@timestamp":%q,"log":{"offset":1,"file":{"path":"/var/log/kern.log"}},"message":%s,"host":{"name":"node-1"}}`,
				wall(after).Format(time.RFC3339Nano), quote(syslog(text, after)))
		},
		"Google Cloud": func(text string, after time.Duration) string {
			return fmt.Sprintf(`{"jsonPayload":{"MESSAGE":%s,"SYSLOG_IDENTIFIER":"kernel"},"severity":"WARNING","timestamp":%q}`, quote(text), wall(after).Format(time.RFC3339Nano))
		},
		"fluent-bit": func(text string, after time.Duration) string {
			return fmt.Sprintf(`{"date":%.6f,"priority":4,"sequence":7,"sec":1,"usec":2,"msg":%s}`, after.Seconds(), quote(text))
		},
		"talosctl dmesg": func(text string, after time.Duration) string {
			return "10.5.0.2: kern: warning: [" + wall(after).Format(time.RFC3339Nano) + "]: " + text
		},
		"a VM's host": func(text string, after time.Duration) string {
			return "2023-12-04T10:49:30.127Z In(05) vcpu-5 - Guest: <6>" + boot(after) + text
		},
		"bytes of zero":     func(text string, after time.Duration) string { return "\x00\x00" + syslog(text, after) },
		"no room behind it": func(text string, after time.Duration) string { return boot(after) + "  " + text },
	}
}

// told is a kill without what a prefix may add to it.
func told(kills []snapshot.Kill) []snapshot.Kill {
	for i := range kills {
		k := &kills[i]
		k.Time, k.Stamp, k.Host, k.BootMicros = time.Time{}, "", "", snapshot.Value{}
	}
	return kills
}

// Whatever stands before the kernel's words, they say the same.
func TestPrefixes(t *testing.T) {
	all := logs(t)
	for _, log := range []string{"v1-6.1-pod-limit.log", "v2-6.1-kubepods-limit.log", "v2-4.19-group-caller.log", "rate-limited.log"} {
		lines := bare(all[log])
		want := told(parse(t, bytes.NewReader(all[log])).Kills)
		if len(want) == 0 {
			t.Fatalf("%s has no kills", log)
		}
		for name, prefix := range prefixes() {
			var text strings.Builder
			after := 3 * time.Second
			for _, l := range lines {
				if strings.Contains(l, "nginx: worker") { // half a minute later
					after += 30 * time.Second
				}
				text.WriteString(prefix(l, after) + "\n")
				after += time.Millisecond
			}
			if got := told(parse(t, strings.NewReader(text.String())).Kills); !reflect.DeepEqual(got, want) {
				t.Errorf("%s, %s: got\n%s\nwant\n%s", log, name, indent(got), indent(want))
			}
		}
	}
}

func indent(v any) string {
	b, _ := json.MarshalIndent(v, "", "  ")
	return string(b)
}

// However the input is cut into reads, and with other lines between all of its own, the kills are the same.
func TestPieces(t *testing.T) {
	for name, text := range logs(t) {
		want := parse(t, bytes.NewReader(text))
		if got := parse(t, iotest.OneByteReader(bytes.NewReader(text))); !reflect.DeepEqual(got, want) {
			t.Errorf("%s byte by byte: got\n%s\nwant\n%s", name, indent(got), indent(want))
		}
		const noise = "\n[   12.345678] eth0: the limit of Killed links and an oom\nMar  4 10:11:12 x app[1]: [ok]"
		mixed := regexp.MustCompile(`(?m)$`).ReplaceAll(bytes.TrimRight(text, "\n"), []byte(noise))
		if got := parse(t, bytes.NewReader(mixed)); !reflect.DeepEqual(got.Kills, want.Kills) {
			t.Errorf("%s with noise: got\n%s\nwant\n%s", name, indent(got.Kills), indent(want.Kills))
		}
		twice := parse(t, io.MultiReader(bytes.NewReader(text), strings.NewReader("\n"), bytes.NewReader(text)))
		if !reflect.DeepEqual(told(twice.Kills), told(want.Kills)) {
			t.Errorf("%s twice: got\n%s\nwant\n%s", name, indent(twice.Kills), indent(want.Kills))
		}
	}
}

// A log that is as hostile as can be keeps the Parser small: endless machines, tables, processes, lines.
func TestBounded(t *testing.T) {
	kills := 0
	p := kernellog.NewParser(cgroup.Identify, func(*snapshot.Kill) { kills++ })
	long := strings.Repeat("a", 3000)
	for i := range 20_000 {
		host := fmt.Sprintf("Mar  4 10:11:12 host-%d kernel: ", i)
		p.Line([]byte(host + long[:60] + " invoked oom-killer: "))
		p.Line([]byte(host + "oom-kill:constraint=CONSTRAINT_MEMCG,oom_memcg=/" + long + ",task_memcg=/" + long + fmt.Sprintf(",pid=%d,uid=0", i+1)))
		p.Line([]byte(host + "Memory cgroup out of memory: Killed process " + fmt.Sprint(i+1) + " (" + long + ") total-vm:1kB"))
		p.Line([]byte(host + "Memory cgroup out of memory: Kill process " + fmt.Sprint(i+1000000) + " (" + long + ") score 1 or sacrifice child"))
	}
	host := "Mar  4 10:11:12 host kernel: "
	p.Line([]byte(host + "x invoked oom-killer: "))
	p.Line([]byte(host + "[  pid  ]   uid  tgid total_vm      rss pgtables_bytes swapents oom_score_adj name"))
	for i := range 200_000 {
		p.Line([]byte(host + fmt.Sprintf("[%7d]     0 %5d   341643    25754   290816        0           975 %s", i+1, i+1, long[:40])))
	}
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	if m.HeapAlloc > 64<<20 {
		t.Errorf("the Parser keeps %d MiB", m.HeapAlloc>>20)
	}
	p.End()
	if kills != 40_000 {
		t.Errorf("%d kills", kills)
	}
}

// A line that never ends costs what is looked at of it.
func TestLongLine(t *testing.T) {
	end := "\n[    1.000000] Out of memory: Killed process 7 (x) total-vm:4kB, anon-rss:4kB, file-rss:0kB\n"
	log := parse(t, io.MultiReader(strings.NewReader("Killed process 6 (y) total-vm:4kB "), io.LimitReader(endless{}, 1<<24), strings.NewReader(end)))
	if len(log.Kills) != 2 || log.Kills[1].VictimPID != 7 || log.Unexplained.Cut != 1 || log.Lines != 2 {
		t.Errorf("%+v", log)
	}
}

type endless struct{}

func (endless) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = 'x'
	}
	return len(b), nil
}

// FuzzParser: no input makes it panic, all of it is counted, the result depends on the input alone, and where no line has the words
// of a kill there is none.
func FuzzParser(f *testing.F) {
	for _, text := range logs(f) {
		f.Add(text)
		for i, line := range bytes.Split(text, []byte("\n")) {
			if i%7 == 0 {
				f.Add(line)
			}
		}
	}
	for _, prefix := range prefixes() {
		f.Add([]byte(prefix("Memory cgroup out of memory: Killed process 1117 (a) b) total-vm:1kB, anon-rss:2kB, file-rss:0kB", time.Minute)))
	}
	hidden := regexp.MustCompile(`Kill|\\[xu]|\x1b|"MESSAGE":\[`) // or where they may be written otherwise
	f.Fuzz(func(t *testing.T, text []byte) {
		log := parse(t, bytes.NewReader(text))
		if len(log.Kills) > 0 && !hidden.Match(text) {
			t.Fatalf("kills out of nothing: %s", indent(log.Kills))
		}
		if want := uint64(bytes.Count(bytes.TrimSuffix(text, []byte("\n")), []byte("\n"))); len(text) > 0 && log.Lines != want+1 {
			t.Fatalf("%d lines, counted %d", want+1, log.Lines)
		}
		for _, k := range log.Kills {
			if k.VictimPID <= 0 || len(k.Tasks) > 64 || len(k.Victim.ContainerID) > 0 && !strings.Contains(k.TaskMemcg, k.Victim.ContainerID) {
				t.Fatalf("%s", indent(k))
			}
		}
		if again := parse(t, bytes.NewReader(text)); !reflect.DeepEqual(again, log) {
			t.Fatalf("once\n%s\nthen\n%s", indent(log), indent(again))
		}
	})
}

// What a log costs where a kill comes once in ten thousand lines.
func BenchmarkParser(b *testing.B) {
	line := "Mar  4 10:11:12 node-1 kernel: [   12.345678] audit: type=1400 audit(1709547072.123:45): apparmor=\"ALLOWED\" operation=\"open\"\n"
	text := []byte(strings.Repeat(line, 10_000) + string(logs(b)["v2-6.1-kubepods-limit.log"]))
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		parse(b, bytes.NewReader(text))
	}
}

// A log with the newest line first, as journalctl -r gives it, has the same kills in the same cgroups.
func TestBackwards(t *testing.T) {
	for _, name := range []string{"v2-6.1-kubepods-limit.log", "v1-6.1-pod-limit.log", "v2-6.8-limit-rfc5424.log"} {
		text := logs(t)[name]
		lines := bytes.Split(bytes.TrimSpace(text), []byte("\n"))
		slices.Reverse(lines)
		want, got := parse(t, bytes.NewReader(text)).Kills, parse(t, bytes.NewReader(bytes.Join(lines, []byte("\n")))).Kills
		slices.Reverse(got)
		if len(got) != len(want) {
			t.Fatalf("%s: %d kills, not %d", name, len(got), len(want))
		}
		for i := range want {
			g, w := got[i], want[i]
			if g.VictimPID != w.VictimPID || g.AnonRSSKB != w.AnonRSSKB || g.Constraint != w.Constraint || g.Victim.PodUID != w.Victim.PodUID && g.TaskMemcg != "" ||
				!g.LimitKB.IsAbsent() && g.LimitKB != w.LimitKB {
				t.Errorf("%s: got\n%s\nwant\n%s", name, indent(g), indent(w))
			}
		}
	}
}
