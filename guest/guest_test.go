package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/memrecon/memrecon/internal/need"
)

// The whole command with a real kernel.
func TestGuest(t *testing.T) {
	kernel := need.Kernel(t, "..")
	command, program := need.Build(t, "."), need.Build(t, "./testdata/program")
	t.Setenv("MEMRECON_TEST", "handed in")
	tests := []struct {
		name   string
		args   []string
		status int
		want   string // in the output
	}{
		{"cgroup v2", []string{"-cgroup", "v2", "--", program, "charge"}, 7, "charged memory.current"},
		{"cgroup v1", []string{"-cgroup", "v1", "--", program, "charge"}, 7, "charged memory.usage_in_bytes"},
		{"environment", []string{"--", program, "environment"}, 7, "MEMRECON_TEST=handed in"},
		{"signal", []string{"--", program, "signal"}, 128 + 9, "signal 9"},
		{"kernel panic", []string{"--", program, "panic"}, exitDied, "the guest died"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cmd := exec.Command(command, append([]string{"-kernel", kernel, "-memory", "256"}, tt.args...)...)
			out, _ := cmd.CombinedOutput()
			if status := cmd.ProcessState.ExitCode(); status != tt.status || !strings.Contains(string(out), tt.want) {
				t.Errorf("status %d, want %d and %q in:\n%s", status, tt.status, tt.want, out)
			}
			if bytes.ContainsRune(out, '\r') {
				t.Errorf("carriage returns in the output: %q", out)
			}
		})
	}
}

// fakeQEMU puts a shell script in QEMU's place. Its file descriptor 4 is the status port.
func fakeQEMU(t *testing.T, script string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "qemu-system-x86_64"), []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

func TestRun(t *testing.T) {
	program := need.Build(t, "./testdata/program")
	tests := []struct {
		name   string
		qemu   string
		status int
		err    string
		output string
	}{
		{name: "status", qemu: "echo 3 >/dev/fd/4", status: 3},
		{name: "status, and QEMU fails after it", qemu: "echo 0 >/dev/fd/4; exit 1"},
		{name: "no status", qemu: `printf 'Kernel panic\r\n'`, err: "the guest died before its program ended", output: "Kernel panic\n"},
		{name: "QEMU fails", qemu: "echo no such machine >&2; exit 1", err: "qemu: exit status 1", output: "no such machine\n"},
		{name: "a status that is none", qemu: "echo x >/dev/fd/4", err: "the guest died"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			fakeQEMU(t, tt.qemu)
			var out bytes.Buffer
			g := guest{kernel: "/dev/null", program: program, init: program}
			status, err := g.run(t.Context(), &out)
			if message := errorText(err); status != tt.status || !strings.Contains(message, tt.err) || (tt.err == "") != (err == nil) {
				t.Errorf("run() = %d, %v; want %d, %q", status, err, tt.status, tt.err)
			}
			if out.String() != tt.output {
				t.Errorf("output %q, want %q", out.String(), tt.output)
			}
		})
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestRunTimeLimit(t *testing.T) {
	fakeQEMU(t, "exec sleep 60")
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	program := need.Build(t, "./testdata/program")
	g := guest{kernel: "/dev/null", program: program, init: program}
	if _, err := g.run(ctx, &bytes.Buffer{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("run() = %v, want %v", err, context.DeadlineExceeded)
	}
}

// However the command ends, QEMU ends with it.
func TestNothingIsLeftBehind(t *testing.T) {
	command, program := need.Build(t, "."), need.Build(t, "./testdata/program")
	for _, tt := range []struct {
		signal syscall.Signal
		status int
	}{
		{syscall.SIGINT, exitInterrupted},
		{syscall.SIGTERM, exitInterrupted},
		{syscall.SIGKILL, -1},
	} {
		t.Run(tt.signal.String(), func(t *testing.T) {
			fakeQEMU(t, "echo $$; exec sleep 60")
			cmd := exec.Command(command, "-kernel", "/dev/null", "--", program)
			stdout, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			line := make([]byte, 20)
			n, err := stdout.Read(line)
			if err != nil {
				t.Fatal(err)
			}
			qemu, err := strconv.Atoi(strings.TrimSpace(string(line[:n])))
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Process.Signal(tt.signal); err != nil {
				t.Fatal(err)
			}
			_ = cmd.Wait() // its status is looked at
			if status := cmd.ProcessState.ExitCode(); status != tt.status {
				t.Errorf("status %d, want %d", status, tt.status)
			}
			for deadline := time.Now().Add(5 * time.Second); running(qemu); time.Sleep(10 * time.Millisecond) {
				if time.Now().After(deadline) {
					_ = syscall.Kill(qemu, syscall.SIGKILL)
					t.Fatal("QEMU is still there")
				}
			}
		})
	}
}

// running tells whether a process is there and no zombie: an orphan's is its new parent's to reap.
func running(pid int) bool {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return err == nil && !strings.Contains(string(stat), ") Z ")
}

func TestReadStatic(t *testing.T) {
	shell, err := exec.LookPath("sh")
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct{ path, err string }{
		{need.Build(t, "./testdata/program"), ""},
		{shell, "build it with CGO_ENABLED=0"},
		{"guest_test.go", "guest_test.go: no program"},
		{"no-such-file", "no-such-file"},
	}
	for _, tt := range tests {
		if _, err := readStatic(tt.path); !strings.Contains(errorText(err), tt.err) || (tt.err == "") != (err == nil) {
			t.Errorf("readStatic(%s) = %v, want %q", tt.path, err, tt.err)
		}
	}
}
