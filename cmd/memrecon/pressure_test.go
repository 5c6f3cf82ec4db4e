package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// build makes the program, for what it starts itself again.
func build(t *testing.T) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "memrecon")
	cmd := exec.Command("go", "build", "-buildvcs=false", "-o", program, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return program
}

// What a command line that makes no sense is answered with, before anything is allocated.
func TestLeakRefuses(t *testing.T) {
	for line, want := range map[string]string{
		"--max=1Gb":                          "--max",
		"--max=-1Mi":                         "--max",
		"--max=20E":                          "--max",
		"-x 10 --max=10Mi":                   "--max",
		"--max=1Mi --touch=1.5":              "touch",
		"--max=1Mi --kind=swap":              "--kind",
		"--max=1Mi --die-at=1Mi --die-with=": "die-with",
	} {
		status, stdout, stderr := memrecon(append([]string{"leak"}, strings.Fields(line)...)...)
		if status == 0 || !strings.Contains(stderr, want) || strings.Contains(stdout, "block 1") {
			t.Errorf("leak %s: status %d, %q, want an error about %s", line, status, stderr, want)
		}
	}
}

// AllocMem's letters: three blocks of 2 MiB, half of each touched, figures for each block.
func TestLeakAsAllocMem(t *testing.T) {
	out, err := exec.Command(build(t), "leak", "-m", "2", "-f", "0.5", "-x", "6", "-e", "10", "-p", "1", "--hold=1ms", "--oom-score-adj=keep").CombinedOutput()
	text := string(out)
	if err != nil || !strings.Contains(text, "block 3: +2Mi, so far 6Mi taken, 3Mi touched") || strings.Contains(text, "block 4") || strings.Count(text, "process RSS") < 4 {
		t.Errorf("%v\n%s", err, text)
	}
}
