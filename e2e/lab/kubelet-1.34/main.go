// Command kubelet-1.34 is a kubelet that is older than its control plane by the three versions that Kubernetes allows, and the
// newest that takes cgroup v1 without being told to. It is built alone, since the control plane takes as long again.
package main

import (
	"context"
	"os"

	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	"k8s.io/kubernetes/cmd/kubelet/app"
)

func main() { os.Exit(cli.Run(app.NewKubeletCommand(context.Background()))) }
