package main

import (
	"os/exec"
	"path/filepath"
)

const (
	storeURL     = "http://127.0.0.1:2379"
	storePeerURL = "http://127.0.0.1:2380"
)

// startStore starts etcd and the API server, which waits for it.
func (c *cluster) startStore() error {
	if err := c.startPart("etcd", filepath.Join(c.cache, "debian", "usr", "bin", "etcd"),
		"--data-dir="+filepath.Join(c.dir, "etcd"), "--unsafe-no-fsync",
		"--listen-client-urls="+storeURL, "--advertise-client-urls="+storeURL,
		"--listen-peer-urls="+storePeerURL, "--initial-advertise-peer-urls="+storePeerURL, "--initial-cluster=default="+storePeerURL,
	); err != nil {
		return err
	}
	return c.startPart("apiserver", filepath.Join(c.kubernetesDir(), "kube-apiserver"),
		"--etcd-servers="+storeURL,
		// The port is the service's, which is reached without anything in between.
		"--bind-address=0.0.0.0", "--secure-port=443", "--advertise-address="+serviceAddress, "--endpoint-reconciler-type=none",
		"--service-cluster-ip-range="+serviceNetwork,
		"--tls-cert-file="+c.key("apiserver.crt"), "--tls-private-key-file="+c.key("apiserver.key"),
		"--client-ca-file="+c.key("ca.crt"), "--authorization-mode=Node,RBAC", "--allow-privileged=true",
		"--kubelet-certificate-authority="+c.key("ca.crt"),
		"--kubelet-client-certificate="+c.key("admin.crt"), "--kubelet-client-key="+c.key("admin.key"),
		"--kubelet-preferred-address-types=InternalIP",
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file="+c.key("serviceaccount.pub"), "--service-account-signing-key-file="+c.key("serviceaccount.key"),
		// Debian 12's etcd does not know what this asks for.
		"--feature-gates=SizeBasedListCostEstimate=false",
	)
}

// startControllers starts what makes the API server's objects come true.
func (c *cluster) startControllers() error {
	if err := c.startPart("controller-manager", filepath.Join(c.kubernetesDir(), "kube-controller-manager"),
		"--kubeconfig="+c.adminConfig(), "--bind-address=127.0.0.1", "--leader-elect=false", "--use-service-account-credentials=true",
		"--service-account-private-key-file="+c.key("serviceaccount.key"), "--root-ca-file="+c.key("ca.crt"),
	); err != nil {
		return err
	}
	return c.startPart("scheduler", filepath.Join(c.kubernetesDir(), "kube-scheduler"),
		"--kubeconfig="+c.adminConfig(), "--bind-address=127.0.0.1", "--leader-elect=false")
}

func (c *cluster) startPart(name, program string, args ...string) error {
	p := &process{
		name:    name,
		command: func() *exec.Cmd { return exec.Command(program, args...) },
		log:     filepath.Join(c.logDir(), name+".log"),
		fail:    c.fail,
	}
	c.parts = append(c.parts, p)
	return p.start()
}
