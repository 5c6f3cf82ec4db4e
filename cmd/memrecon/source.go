package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"

	"github.com/memrecon/memrecon/collector"
	"github.com/memrecon/memrecon/kubelet"
	"github.com/memrecon/memrecon/reconcile"
	"github.com/memrecon/memrecon/snapshot"
)

// hostFlags say which node's files are read.
type hostFlags struct {
	Procfs string `name:"path.procfs" default:"/proc" placeholder:"DIR" help:"Where procfs is mounted, or a copy of it (${default})."`
	Sysfs  string `name:"path.sysfs" default:"/sys" placeholder:"DIR" help:"Where sysfs is mounted, or a copy of it (${default})."`
	Node   string `name:"node" env:"NODE_NAME" placeholder:"NAME" help:"The node's name, where it is not the host's."`

	KubeletURL            string `name:"kubelet.url" env:"KUBELET_URL" placeholder:"URL" help:"The kubelet's secure port, such as https://10.0.0.5:10250: gives owners their names, and the kubelet's own figures."`
	KubeletCA             string `name:"kubelet.ca-file" placeholder:"FILE" help:"The CA of the kubelet's certificate, where it is not the cluster's."`
	KubeletInsecure       bool   `name:"kubelet.insecure-skip-verify" help:"Do not verify the kubelet's certificate: who takes its place on the network gets the service account's token."`
	KubernetesAPI         string `name:"kubernetes.url" env:"KUBERNETES_URL" placeholder:"URL" help:"The API server, for this Node's capacity, allocatable and conditions; in a pod the cluster's, none to do without."`
	KubernetesServiceHost string `name:"kubernetes.service-host" env:"KUBERNETES_SERVICE_HOST" hidden:""`
	KubernetesServicePort string `name:"kubernetes.service-port" env:"KUBERNETES_SERVICE_PORT" hidden:""`
	ServiceAccount        string `name:"kubernetes.serviceaccount" default:"/var/run/secrets/kubernetes.io/serviceaccount" placeholder:"DIR" help:"The folder with token and ca.crt (${default})."`

	// saved is the folder of a saved node.
	saved string
}

// sourceFlags say what a one-shot command looks at.
type sourceFlags struct {
	hostFlags
	From string `name:"from" placeholder:"FILE" help:"A capture, or a folder with a saved node's proc and sys, in place of this node."`
}

// sheet reads the node once, or takes it from the capture.
func (f *sourceFlags) sheet() (*reconcile.Sheet, error) {
	if f.From == "" {
		return f.collect()
	}
	info, err := os.Stat(f.From)
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		saved := hostFlags{Procfs: filepath.Join(f.From, "proc"), Sysfs: filepath.Join(f.From, "sys"), Node: f.Node, saved: f.From}
		for _, dir := range []string{saved.Procfs, saved.Sysfs} {
			if _, err := os.Stat(dir); err != nil {
				return nil, fmt.Errorf("%s is no saved node: %w", f.From, err)
			}
		}
		return saved.collect()
	}
	file, err := os.Open(f.From)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	snap, err := snapshot.Decode(file)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.From, err)
	}
	return reconcile.New(snap), nil
}

func (f *hostFlags) config() collector.Config {
	config := collector.Config{Procfs: f.Procfs, Sysfs: f.Sysfs, Node: f.Node, Saved: f.saved}
	if f.KubeletURL == "" || f.saved != "" {
		return config
	}
	config.Kubelet = &kubelet.Config{
		Kubelet: f.KubeletURL, Node: f.Node, ServiceAccount: f.ServiceAccount, KubeletCA: f.KubeletCA, KubeletInsecure: f.KubeletInsecure,
		APIServer: f.KubernetesAPI,
	}
	switch {
	case f.KubernetesAPI == "none":
		config.Kubelet.APIServer = ""
	case f.KubernetesAPI == "" && f.KubernetesServiceHost != "":
		config.Kubelet.APIServer = "https://" + net.JoinHostPort(f.KubernetesServiceHost, f.KubernetesServicePort)
	}
	return config
}

func (f *hostFlags) collect() (*reconcile.Sheet, error) {
	c, err := collector.Open(f.config())
	if err != nil {
		return nil, err
	}
	defer func() { _ = c.Close() }()
	c.AwaitKubernetes()
	c.Collect() // finds and opens everything, so that the next round reads it all within milliseconds
	return c.Collect().Sheet, nil
}
