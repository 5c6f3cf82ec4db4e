package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"time"
)

// socketVariable is the environment variable that tells the command's processes where the lab listens.
const socketVariable = "MEMRECON_LAB"

// controlLimit is how long what the lab is asked for may take.
const controlLimit = 5 * time.Minute

// answer is the lab's to the arguments that it was sent: what to print, and the exit status, or why there is none.
type answer struct {
	Output []byte
	Status int
	Error  string
}

// ask has the lab do something, and does as it answers.
func ask(args []string) int {
	a, err := exchange(os.Getenv(socketVariable), args)
	if err != nil {
		fmt.Fprintln(os.Stderr, "lab:", err)
		return exitFailed
	}
	_, _ = os.Stdout.Write(a.Output) // whoever reads it may have gone
	return a.Status
}

func exchange(socket string, args []string) (answer, error) {
	if socket == "" {
		return answer{}, fmt.Errorf("%s is not set: lab %s works in a command that lab runs", socketVariable, args[0])
	}
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = conn.Close() }()
	if err := json.NewEncoder(conn).Encode(args); err != nil {
		return answer{}, err
	}
	var a answer
	if err := json.NewDecoder(conn).Decode(&a); err != nil {
		return answer{}, err
	}
	if a.Error != "" {
		return answer{}, errors.New(a.Error)
	}
	return a, nil
}

func (c *cluster) listen() (net.Listener, error) { return net.Listen("unix", c.socket()) }

// serve answers until the lab ends.
func (c *cluster) serve(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			c.fail(err)
			return
		}
		go func() {
			defer func() { _ = conn.Close() }()
			var args []string
			if err := json.NewDecoder(conn).Decode(&args); err != nil {
				return // whoever asked has gone
			}
			ctx, stop := context.WithTimeout(context.Background(), controlLimit)
			defer stop()
			a, err := c.do(ctx, args)
			if err != nil {
				a.Error = err.Error()
			}
			_ = json.NewEncoder(conn).Encode(a) // as above
		}()
	}
}

func (c *cluster) do(ctx context.Context, args []string) (answer, error) {
	if len(args) != 2 {
		return answer{}, errors.New("usage: lab node LINE | start PART | stop PART")
	}
	what, part := args[0], args[1]
	switch what {
	case "node":
		out, status, err := shell(ctx, part)
		return answer{Output: out, Status: status}, err
	case "start", "stop":
		if part == "kubelet" || part == "containerd" {
			return answer{}, onNode(ctx, what, part)
		}
		i := slices.IndexFunc(c.parts, func(p *process) bool { return p.name == part })
		if i < 0 {
			return answer{}, fmt.Errorf("no part %q: there are etcd, apiserver, scheduler, controller-manager, containerd and kubelet", part)
		}
		if what == "stop" {
			c.parts[i].stop()
			return answer{}, nil
		}
		if err := c.parts[i].start(); err != nil || part != "apiserver" {
			return answer{}, err
		}
		return answer{}, c.apiReady(ctx)
	default:
		return answer{}, fmt.Errorf("no %q: there are node, start and stop", what)
	}
}

// onNode starts or stops one of the node's services, which see the file in /run before they begin (service.sh).
func onNode(ctx context.Context, what, service string) error {
	line := "rm -f /run/SERVICE.stopped"
	if what == "stop" {
		line = "touch /run/SERVICE.stopped; while pidof SERVICE; do kill $(pidof SERVICE); sleep 0.2; done >/dev/null"
	}
	out, status, err := shell(ctx, strings.ReplaceAll(line, "SERVICE", service))
	if err == nil && status != 0 {
		err = fmt.Errorf("status %d: %s", status, out)
	}
	return err
}
