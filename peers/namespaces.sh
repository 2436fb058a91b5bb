#!/bin/sh
# Peers with addresses of their own on one machine: each runs in a network namespace, all joined by a bridge.
#
#     peers/namespaces.sh N COMMAND...        # as 10.77.0.1 to 10.77.0.N
#
# In COMMAND every {i} becomes the number of the peer, 0 to N-1. Everything lives in namespaces of this script's own, so
# nothing of the machine's network changes, and all is gone when it ends. Needs iproute2, and root or user namespaces. The
# code is 0 if all ended with 0, 2 where this machine does not permit it or lacks a tool, else 1.
set -eu

if [ "${1:-}" != --inside ]; then
    [ $# -ge 2 ] || { sed -n 's/^# \{0,1\}//; 2,9p' "$0" >&2; exit 2; }
    for tool in unshare ip; do
        command -v $tool >/dev/null || { echo "there is no $tool here: install util-linux and iproute2" >&2; exit 2; }
    done
    for how in "--net --mount" "--user --map-root-user --net --mount"; do
        if unshare $how true 2>/dev/null; then
            exec unshare $how sh "$0" --inside "$@"
        fi
    done
    echo "this machine does not permit network namespaces: run it as root, or allow user namespaces" >&2
    exit 2
fi
shift
count=$1
shift

mount -t tmpfs tmpfs /run
mkdir /run/netns
ip link set lo up
ip link add bridge type bridge
ip link set bridge up
i=0
while [ "$i" -lt "$count" ]; do
    ip netns add "peer$i"
    ip link add "way$i" type veth peer name eth0 netns "peer$i"
    ip link set "way$i" master bridge up
    ip -n "peer$i" link set lo up
    ip -n "peer$i" address add "10.77.0.$((i + 1))/24" dev eth0
    ip -n "peer$i" link set eth0 up
    i=$((i + 1))
done

started=
i=0
while [ "$i" -lt "$count" ]; do
    (
        for word in "$@"; do
            shift
            set -- "$@" "$(printf %s "$word" | sed "s/{i}/$i/g")"
        done
        exec ip netns exec "peer$i" "$@"
    ) &
    started="$started $!"
    i=$((i + 1))
done
trap 'kill $started 2>/dev/null || true' INT TERM
code=0
for one in $started; do
    wait "$one" || code=1
done
exit $code
