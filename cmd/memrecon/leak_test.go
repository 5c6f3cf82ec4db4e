package main

import (
	"bufio"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/alecthomas/kong"

	"github.com/memrecon/memrecon/internal/need"
	"github.com/memrecon/memrecon/leak"
)

// What a command line that makes no sense is answered with, in one line and before anything is allocated.
func TestLeakRefuses(t *testing.T) {
	backwards := filepath.Join(t.TempDir(), "profile")
	if err := os.WriteFile(backwards, []byte("10s 1Mi\n5s 2Mi\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for line, want := range map[string]string{
		"--hold=1s":                                   "--max (or -x) is missing",
		"--max=1Gb":                                   `"1Gb" is not a quantity`,
		"--max=-1Mi":                                  "negative",
		"--max=9223372036854775808":                   "2^63 bytes or more",
		"-x 9223372036854775807":                      "2^63 bytes or more",
		"-m -1 -x 10":                                 "-m",
		"-x 10 --max=10Mi":                            "-x and --max are the same",
		"-m 1 --block=1Mi --max=1Mi":                  "-m and --block are the same",
		"-e 5 --every=1s --max=1Mi":                   "-e and --every are the same",
		"--max=1Mi --block=0":                         "a block is more than 0 bytes",
		"--max=1Mi --touch=1.5":                       "--touch 1.5",
		"--max=1Mi --touch=-0.1":                      "--touch -0.1",
		"--max=1Mi --touch=NaN":                       "--touch NaN",
		"--max=1Mi --touch=0.5 --kind=slab":           "slab has no untouched part",
		"--max=1Mi --touch=0.5 --kind=mlock":          "mlock has no untouched part",
		"--max=1Mi --kind=swap":                       "one of anon, thp,",
		"--max=1Mi --kind=pipe --keep-hot":            "--keep-hot",
		"--max=1Mi --kind=file --workers=2":           "--workers",
		"--max=1Mi --workers=0":                       "--workers 0",
		"--max=1Mi --dir=/tmp":                        "anon is in no file",
		"--max=1Mi --kind=file --dir=/gone":           "/gone",
		"--max=1Mi --die-at=1Mi":                      "go together",
		"--max=1Mi --die-at=2Mi --die-with=exit:1":    "it would never come",
		"--max=1Mi --die-at=1Mi --die-with=SIGHUP":    "no way to die",
		"--max=1Mi --rate=50Mi":                       "50Mi/s",
		"--max=1Mi --rate=0/s":                        "more than 0",
		"--max=1Mi --rate=1Mi/s --every=1s":           "one of them",
		"--max=1Mi --shape=saw":                       "takes --period",
		"--max=1Mi --shape=wave":                      "step",
		"--max=1Mi --shape=saw --period=1s --low=2Mi": "--low has to be less",
		"--max=0 --shape=ramp --period=1s":            "--max, which has to be more than 0",
		"--max=1Mi --period=1s":                       "--period is for",
		"--max=1Mi --release-every=1s":                "--release-every comes after --hold",
		"--max=1Mi --hold=-1s":                        "--hold -1s",
		"--max=1Mi --max-pressure=101":                "--max-pressure 101",
		"--max=1Mi --oom-score-adj=1001":              "--oom-score-adj 1001",
		"--max=1Mi --timeout=soon":                    "soon",
		"--profile=/gone":                             "/gone",
		"--repeat --max=1Mi":                          "--repeat is for --profile",
		"--profile=" + backwards:                      backwards + ": line 2: 5s is before",
		"--profile=" + backwards + " --rate=1Mi/s":    "--profile says all of when",
	} {
		status, stdout, stderr := memrecon(append([]string{"leak"}, strings.Fields(line)...)...)
		said := strings.TrimSuffix(stderr, "memrecon --help shows the commands, memrecon COMMAND --help their flags.\n")
		if status == 0 || !strings.Contains(said, want) || strings.Count(said, "\n") != 1 || stdout != "" {
			t.Errorf("leak %s: status %d, %q and %q, want a line with %q", line, status, stdout, said, want)
		}
	}
}

// AllocMem's letters: three blocks of 2 MiB, half of each touched, figures for each block.
func TestLeakAsAllocMem(t *testing.T) {
	out, err := exec.Command(need.Build(t, "."), "leak", "-m", "2", "-f", "0.5", "-x", "5", "-e", "10", "-p", "1", "--hold=1ms").CombinedOutput()
	text := string(out)
	if err != nil || !strings.Contains(text, "block 3: +2Mi, so far 6Mi taken, 3Mi touched") || strings.Contains(text, "block 4") ||
		strings.Count(text, "process RSS") < 4 || !strings.Contains(text, "cgroup usage") || !strings.Contains(text, "working set") {
		t.Errorf("%v\n%s", err, text)
	}
}

// With -o json each line is an object, the plan first, also where it waits for Enter.
func TestLeakJSON(t *testing.T) {
	cmd := exec.Command(need.Build(t, "."), "leak", "--wait", "--max=4Mi", "--hold=50ms", "--release-every=10ms", "-o", "json")
	cmd.Stdin = strings.NewReader("\n")
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var kinds []string
	for line := range strings.Lines(string(out)) {
		var e struct {
			Event       string `json:"event"`
			HeldBytes   uint64 `json:"held_bytes"`
			TouchedByte uint64 `json:"touched_bytes"`
			Inside      leak.Inside
		}
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		if rss, ok := e.Inside.RSSBytes.Get(); e.Event == "holding" && (e.HeldBytes != 4<<20 || !ok || rss < e.TouchedByte) {
			t.Errorf("holding: %s", line)
		}
		if len(kinds) == 0 || kinds[len(kinds)-1] != e.Event {
			kinds = append(kinds, e.Event)
		}
	}
	if want := []string{"plan", "started", "block", "holding", "releasing", "released", "ended"}; !slices.Equal(kinds, want) {
		t.Errorf("%v, want %v", kinds, want)
	}
}

// When its parent is killed, leak ends by itself and says so.
func TestLeakEndsWithItsParent(t *testing.T) {
	shell := need.Program(t, "sh")
	parent := exec.Command(shell, "-c", `"$0" leak --max=4Mi & echo $!; wait`, need.Build(t, "."))
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	lines.Scan()
	child, err := strconv.Atoi(lines.Text())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = syscall.Kill(child, syscall.SIGKILL) }()
	for lines.Scan() && !strings.Contains(lines.Text(), "  holds 4Mi,") {
	}
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(20*time.Second, func() { _ = syscall.Kill(child, syscall.SIGKILL) })
	defer timer.Stop()
	last := ""
	for lines.Scan() { // until it has ended, since it has the pipe
		last += lines.Text() + "\n"
	}
	if !strings.Contains(last, "its parent has ended; held 4Mi") {
		t.Errorf("its last lines are\n%s", last)
	}
}

// The documents of leak and pressure have every flag of theirs.
func TestDocsHaveEveryFlag(t *testing.T) {
	parser, err := kong.New(&cli{}, kong.Vars{"leak_kinds": leak.KindNames()}, kong.Exit(func(int) {}))
	if err != nil {
		t.Fatal(err)
	}
	for document, path := range map[string][]string{"leak.md": {"leak"}, "pressure.md": {"pressure", "run"}} {
		text, err := os.ReadFile("../../docs/" + document)
		if err != nil {
			t.Fatal(err)
		}
		command := parser.Model.Node
		for _, name := range path {
			i := slices.IndexFunc(command.Children, func(c *kong.Node) bool { return c.Name == name })
			if i < 0 {
				t.Fatalf("there is no command %s", path)
			}
			command = command.Children[i]
		}
		for _, flag := range command.Flags {
			if name := "--" + flag.Name; !strings.Contains(string(text), name) {
				t.Errorf("docs/%s has no %s", document, name)
			}
			if flag.Short != 0 && !strings.Contains(string(text), "-"+string(flag.Short)) {
				t.Errorf("docs/%s has no -%c", document, flag.Short)
			}
		}
	}
}

// The command lines in docs/leak.md are ones that memrecon takes.
func TestLeakDocs(t *testing.T) {
	text, err := os.ReadFile("../../docs/leak.md")
	if err != nil {
		t.Fatal(err)
	}
	profile := filepath.Join(t.TempDir(), "profile")
	if err := os.WriteFile(profile, []byte("0 1Mi\n10s 2Mi\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	examples := regexp.MustCompile(`(?m)memrecon (leak -[^#|\n`+"`"+`]*)`).FindAllStringSubmatch(string(text), -1)
	if len(examples) < 15 {
		t.Errorf("docs/leak.md has %d examples", len(examples))
	}
	for _, example := range examples {
		var c cli
		parser, err := kong.New(&c, kong.Vars{"leak_kinds": leak.KindNames()}, kong.Exit(func(int) {}))
		if err != nil {
			t.Fatal(err)
		}
		args := strings.Fields(strings.ReplaceAll(example[1], "profile.txt", profile))
		if _, err := parser.Parse(args); err != nil {
			t.Errorf("memrecon %s: %v", example[1], err)
			continue
		}
		if _, err := c.Leak.config(); err != nil {
			t.Errorf("memrecon %s: %v", example[1], err)
		}
	}
}

// Where the kernel promises no more memory than it has (vm.overcommit_memory=2), what is refused says so, and is given back. That is a
// setting of the whole node, so the node is a guest.
func TestLeakWithoutOvercommit(t *testing.T) {
	kernel := need.Kernel(t, "../..")
	cmd := exec.Command(need.Build(t, "../../guest"), "-kernel", kernel, "-memory", "512",
		"-append", "sysctl.vm.overcommit_memory=2 sysctl.vm.overcommit_ratio=80", "--",
		need.Build(t, "."), "leak", "--max=2Gi", "--block=50Mi", "--touch=0.01", "--floor=0", "--stats-every=0")
	out, _ := cmd.CombinedOutput()
	if status := cmd.ProcessState.ExitCode(); status != exitNoMemory {
		t.Errorf("exit status %d, want %d", status, exitNoMemory)
	}
	for _, want := range []string{
		"First it will meet the node's CommitLimit", "the kernel refuses more there",
		"vm.overcommit_memory is 2: the node's CommitLimit is met", "; held ",
	} {
		if !strings.Contains(string(out), want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
}
