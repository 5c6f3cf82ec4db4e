# enter NAME CGROUP: what each service does first. It waits while the lab has stopped it, goes into its cgroup, and is among the
# last that the kernel kills.
enter() {
	while [ -e /run/$1.stopped ]; do sleep 0.2; done
	for procs in /sys/fs/cgroup/$2/cgroup.procs /sys/fs/cgroup/*/$2/cgroup.procs; do
		[ ! -e $procs ] || echo $$ >$procs
	done
	echo -999 >/proc/self/oom_score_adj
}
