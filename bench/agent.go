package main

import (
	"bufio"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"
)

// agent runs the real agent over the tree for a while, scrapes it, and tells what it took.
func agent(binary string, n int) error {
	address, err := freeAddress()
	if err != nil {
		return err
	}
	cmd := exec.Command(binary, "agent", "--web.listen-address="+address, "--report-interval=0", "--metrics.classes=all")
	stop, err := begin(cmd, address)
	if err != nil {
		return err
	}
	defer stop()
	start := time.Now()
	cpuBefore, err := cpu(cmd.Process.Pid)
	if err != nil {
		return err
	}
	time.Sleep(20 * time.Second)
	cpuAfter, err := cpu(cmd.Process.Pid)
	if err != nil {
		return err
	}
	share := (cpuAfter - cpuBefore).Seconds() / time.Since(start).Seconds()
	plain, series, err := scrape(address, "identity")
	if err != nil {
		return err
	}
	zipped, _, err := scrape(address, "gzip")
	if err != nil {
		return err
	}
	rss, peak, err := resident(cmd.Process.Pid)
	if err != nil {
		return err
	}
	fmt.Printf("  agent with %d cgroups at 1 s: %.1f%% of a CPU, %.1f MB resident (peak %.1f MB)\n", n, 100*share, rss, peak)
	fmt.Printf("  scrape of %d series: %.1f ms plain, %.1f ms gzip (median of 20)\n", series, plain, zipped)
	return nil
}

// begin starts the agent, and waits until it is ready.
func begin(cmd *exec.Cmd, address string) (stop func(), err error) {
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	stop = func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }
	if err := ready("http://" + address + "/readyz"); err != nil {
		stop()
		return nil, err
	}
	return stop, nil
}

func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String(), nil
}

func ready(url string) error {
	for range 100 {
		if resp, err := http.Get(url); err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		time.Sleep(100 * time.Millisecond)
	}
	return errors.New("the agent did not get ready within 10 s")
}

// scrape is the median time in milliseconds of 20 scrapes, and how many series one has.
func scrape(address, encoding string) (float64, int, error) {
	var times []float64
	series := 0
	for range 20 {
		req, err := http.NewRequest(http.MethodGet, "http://"+address+"/metrics", nil)
		if err != nil {
			return 0, 0, err
		}
		req.Header.Set("Accept-Encoding", encoding)
		start := time.Now()
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return 0, 0, err
		}
		body, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil {
			return 0, 0, err
		}
		times = append(times, float64(time.Since(start).Microseconds())/1000)
		if series, err = count(string(body), encoding); err != nil {
			return 0, 0, err
		}
	}
	slices.Sort(times)
	return times[len(times)/2], series, nil
}

func count(body, encoding string) (int, error) {
	var r io.Reader = strings.NewReader(body)
	if encoding == "gzip" {
		z, err := gzip.NewReader(r)
		if err != nil {
			return 0, err
		}
		r = z
	}
	n := 0
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		if line := lines.Text(); line != "" && line[0] != '#' {
			n++
		}
	}
	return n, lines.Err()
}

// resident is VmRSS and VmHWM in MB.
func resident(pid int) (rss, peak float64, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(b)) {
		var kb float64
		if _, err := fmt.Sscanf(line, "VmRSS: %f kB", &kb); err == nil {
			rss = kb * 1024 / 1e6
		}
		if _, err := fmt.Sscanf(line, "VmHWM: %f kB", &kb); err == nil {
			peak = kb * 1024 / 1e6
		}
	}
	return rss, peak, nil
}

// cpu is the processor time that a process has taken.
func cpu(pid int) (time.Duration, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	if len(fields) < 13 {
		return 0, fmt.Errorf("/proc/%d/stat has %d fields", pid, len(fields))
	}
	var user, system int64
	if _, err := fmt.Sscan(fields[11]+" "+fields[12], &user, &system); err != nil {
		return 0, err
	}
	return time.Duration(user+system) * 10 * time.Millisecond, nil // USER_HZ is 100
}
