. /etc/service.sh
enter containerd runtime
exec containerd --config /etc/containerd/lab.toml >>/var/log/containerd.log 2>&1
