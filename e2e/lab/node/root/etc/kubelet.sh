. /etc/service.sh
until ctr version >/dev/null 2>&1; do sleep 0.2; done
for archive in /images/*.tar; do
	[ ! -e $archive ] || ctr -n k8s.io images import $archive >>/var/log/containerd.log 2>&1 && rm -f $archive
done
enter kubelet kubelet
exec kubelet --config=/etc/kubernetes/kubelet.yaml --config-dir=/etc/kubernetes/kubelet.conf.d \
	--kubeconfig=/etc/kubernetes/kubeconfig --hostname-override=lab-node --node-ip=10.0.0.2 --runtime-cgroups=/runtime --v=2 \
	>>/var/log/kubelet.log 2>&1
