#!/usr/bin/env bash
# shellcheck disable=SC2154 # $work: lib.sh
# The etcd client (common/control) against a real etcd that dies and comes back.
. "$(dirname "$0")/../lib/lib.sh"
[ -n "$(command -v etcd)" ] || skip "etcd is not installed (deploy/packages build)"
cluster up --only etcd >/dev/null
base=$(sed -n 's/^port-base=//p' "$work/c/cluster.conf")
pki node "$work/c/pki" gateway g1 --address 127.0.0.1 >/dev/null
c="$MIKURA_SOURCE/deploy/cluster"
"$MIKURA_BUILD/bin/etcd_client" "127.0.0.1:$((base + 80))" "$work/c/pki/ca.crt" "$work/c/pki/gateway-g1.crt" \
    "$work/c/pki/gateway-g1.key" "$c kill etcd-1 --dir $work/c" "$c start etcd-1 --dir $work/c"
