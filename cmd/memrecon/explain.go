package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/memrecon/memrecon/cgroup"
	"github.com/memrecon/memrecon/kernellog"
	"github.com/memrecon/memrecon/kubelet"
	"github.com/memrecon/memrecon/report"
	"github.com/memrecon/memrecon/snapshot"
)

type explainCommand struct {
	Of        string        `arg:"" optional:"" name:"POD|CONTAINER" help:"A pod, NAMESPACE/POD, POD/CONTAINER, a container's name or ID, or a unit; without it, everything."`
	Since     time.Duration `default:"1h" help:"How far to look back (${default})."`
	Agent     string        `default:"http://127.0.0.1:19110" placeholder:"URL" help:"The agent to ask (${default}). Where none is, this machine's kernel log is read."`
	KernelLog string        `name:"kernel-log" placeholder:"FILE" help:"A kernel's log as text, from any machine: dmesg, journalctl, syslog, JSON lines; - for standard input. Without it, this machine's."`
	Pods      string        `placeholder:"FILE" help:"The pods, for their names: kubectl get pods -A -o json, or the kubelet's /pods."`
	Kmsg      string        `name:"path.kmsg" default:"/dev/kmsg" placeholder:"FILE" help:"The device of the kernel's log (${default})."`
	Output    output        `short:"o" enum:"text,json,yaml" default:"text" help:"text, json or yaml (${default})."`
}

// Validate finds what does not go together.
func (c *explainCommand) Validate() error {
	if c.KernelLog != "" && c.Of != "" {
		return errors.New("--kernel-log tells all kills of the log; only an agent knows one pod's or container's")
	}
	return nil
}

// Run prints what the agent knows of what died; and without an agent the OOM kills in a kernel's log.
func (c *explainCommand) Run(stdout io.Writer) error {
	if c.KernelLog == "" {
		incidents, err := c.ask()
		switch {
		case err == nil && c.Output == outputText:
			return report.IncidentsText(stdout, incidents.Incidents, report.Options{Color: colored(stdout)})
		case err == nil:
			return encode(stdout, c.Output, incidents)
		case c.Of != "" || !errors.Is(err, syscall.ECONNREFUSED):
			return fmt.Errorf("asking the agent: %w; start memrecon agent, name another with --agent, or in a cluster: "+
				"kubectl -n memrecon exec ds/memrecon -- /memrecon explain", err)
		}
	}
	return c.kills(stdout)
}

// ask asks the agent.
func (c *explainCommand) ask() (*report.IncidentsDocument, error) {
	client := http.Client{Timeout: 10 * time.Second}
	query := url.Values{"of": {c.Of}, "since": {c.Since.String()}}
	response, err := client.Get(strings.TrimSuffix(c.Agent, "/") + "/api/v1/incidents?" + query.Encode())
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(response.Body, 1000))
		return nil, fmt.Errorf("%s answers %s: %s", c.Agent, response.Status, bytes.TrimSpace(text))
	}
	var d report.IncidentsDocument
	if err := json.NewDecoder(response.Body).Decode(&d); err != nil {
		return nil, fmt.Errorf("%s: %w", c.Agent, err)
	}
	return &d, nil
}

// kills prints the OOM kills in a kernel's log. A log that cannot be read to its end, or pods that cannot, leave what there is, and
// the output says so.
func (c *explainCommand) kills(stdout io.Writer) error {
	log := snapshot.KernelLog{}
	parser := kernellog.NewParser(cgroup.Identify, func(k *snapshot.Kill) { log.Kills = append(log.Kills, *k) })
	var errs []snapshot.SourceError
	read := c.file
	if c.KernelLog == "" {
		read = c.machine
	}
	source, failed, err := read(parser)
	if err != nil {
		return err
	}
	errs = append(errs, failed...)
	log.Source, log.Lines, log.Unexplained = source, parser.Lines(), parser.Unexplained()
	pods, failed, err := c.pods()
	if err != nil {
		return err
	}
	errs = append(errs, failed...)
	if c.Output == outputText {
		return report.KillsText(stdout, &log, pods, errs, report.Options{Color: colored(stdout)})
	}
	return encode(stdout, c.Output, report.NewKills(&log, pods, errs))
}

// file reads a log that was saved.
func (c *explainCommand) file(parser *kernellog.Parser) (source string, errs []snapshot.SourceError, err error) {
	source = c.KernelLog
	var in io.Reader = os.Stdin
	if source == "-" {
		source = "standard input"
	} else {
		f, err := os.Open(source)
		if err != nil {
			return "", nil, err
		}
		defer f.Close()
		in = f
	}
	b := bufio.NewReader(in)
	if hint := notText(b); hint != "" {
		return "", nil, fmt.Errorf("%s is no text: %s", source, hint)
	}
	if err := parser.Read(b); err != nil {
		errs = append(errs, snapshot.SourceError{Source: source, Error: err.Error(), Hint: "the kills up to there are above"})
	}
	return source, errs, nil
}

// notText says how to make text of a log that is none, "" for text: without it such a log would seem to have no kills.
func notText(b *bufio.Reader) string {
	head, _ := b.Peek(8) // a short file, and one that cannot be read, is told later
	switch {
	case bytes.HasPrefix(head, []byte("LPKSHHRH")):
		return "journalctl --file FILE -o json | memrecon explain --kernel-log -"
	case bytes.HasPrefix(head, []byte("\x1f\x8b")):
		return "zcat FILE | memrecon explain --kernel-log -"
	case bytes.HasPrefix(head, []byte("\x28\xb5\x2f\xfd")):
		return "zstdcat FILE | memrecon explain --kernel-log -"
	case bytes.HasPrefix(head, []byte("\xfd7zXZ\x00")):
		return "xzcat FILE | memrecon explain --kernel-log -"
	}
	return ""
}

// machine reads what this machine's kernel has in its log.
func (c *explainCommand) machine(parser *kernellog.Parser) (source string, errs []snapshot.SourceError, err error) {
	live, err := kernellog.Open(c.Kmsg)
	if err != nil {
		return "", nil, err
	}
	defer func() { _ = live.Close() }()
	lost, err := live.Read(parser)
	if err != nil {
		return "", nil, err
	}
	if lost != "" {
		errs = append(errs, snapshot.SourceError{Source: live.Name, Error: lost})
	}
	parser.End()
	return live.Name, errs, nil
}

// pods are those of --pods. A list that breaks off names the pods up to there.
func (c *explainCommand) pods() ([]snapshot.Pod, []snapshot.SourceError, error) {
	if c.Pods == "" {
		return nil, nil, nil
	}
	f, err := os.Open(c.Pods)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	pods, err := kubelet.ReadPods(f)
	if err != nil {
		return pods, []snapshot.SourceError{{
			Source: c.Pods, Error: err.Error(), Hint: "names may be missing; save the pods again with kubectl get pods -A -o json",
		}}, nil
	}
	return pods, nil, nil
}
