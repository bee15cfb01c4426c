#!/usr/bin/env bash
# shellcheck disable=SC2154 # $work: lib.sh
# deploy/cluster with etcd alone: up, status, kill, start, taken ports, who may talk to etcd, down.
. "$(dirname "$0")/../lib/lib.sh"
[ -n "$(command -v etcd)" ] || skip "etcd is not installed (deploy/packages build)"
expect 1 'no cluster in' cluster status
expect 0 'up: 3 started' cluster up --etcd 3 --only etcd
expect 1 'etcd-3       running' cluster status
grep -q '^etcd=3' "$work/c/cluster.conf" || fail "cluster.conf does not hold the members"
base=$(sed -n 's/^port-base=//p' "$work/c/cluster.conf")

# who may: a node's certificate; not a researcher's or an operator's of the same CA, not none
pki node "$work/c/pki" gateway g1 --address 127.0.0.1 >/dev/null
may() { curl -s -m 5 --cacert "$work/c/pki/ca.crt" "${@:2}" "https://127.0.0.1:$((base + 80))/version" | grep -c etcdserver; }
as() { echo --cert "$work/c/pki/$1.crt" --key "$work/c/pki/$1.key"; }
# shellcheck disable=SC2046
[ "$(may 1 $(as gateway-g1))" = 1 ] || fail "a gateway is refused by etcd"
for who in operator-admin researcher-alice; do
    # shellcheck disable=SC2046
    [ "$(may 0 $(as $who) || true)" = 0 ] || fail "$who may talk to etcd"
done
[ "$(may 0 || true)" = 0 ] || fail "without a certificate one may talk to etcd"

# a second cluster on the same ports names the owner and leaves the first alone
expect 1 "port $((base + 80)) for etcd-1 is taken by" "$MIKURA_SOURCE/deploy/cluster" up --dir "$work/d" --only etcd --port-base "$base"
expect 1 "another only after" cluster up --etcd 5 --only etcd

pid=$(cut -d' ' -f1 "$work/c/run/etcd-2.pid")
cluster kill etcd-2
[ ! -d "/proc/$pid" ] || grep -q '^State:.Z' "/proc/$pid/status" || fail "etcd-2 lives"
expect 1 'does not run' cluster kill etcd-2
expect 1 "no daemon 'etcd-9'" cluster kill etcd-9
cluster start etcd-2
expect 0 'runs already' cluster start etcd-2
# a recycled pid: the file names a process with another start time; it must survive
cluster stop etcd-2
tail -f /dev/null &
other=$!
echo "$other 1 $(cat /proc/sys/kernel/random/boot_id)" >"$work/c/run/etcd-2.pid"
expect 1 'does not run' cluster kill etcd-2
kill -0 $other || fail "a stranger was killed"
kill $other
expect 0 'up: 1 started' cluster up --only etcd
expect 0 "MIKURA_CERT=$work/c/pki/society-jsp-a1.crt" cluster env --as society/jsp/a1
cluster down
expect 1 'etcd-1       stopped' cluster status
[ -d "$work/c/etcd-1/data" ] || fail "down deleted data"
cluster down --purge >/dev/null
[ ! -e "$work/c" ] || fail "purge left $work/c"
echo "cluster: all as it should be"
