#!/usr/bin/env bash
# shellcheck disable=SC2154 # $work: lib.sh
# tests/cluster/disk/test_kill9.sh [KILLS]: one storage node with one copy of everything, killed -9
# under load again and again: nothing that was acknowledged is lost or wrong, and its disk is as it
# was written. There is no other copy to help out.
. "$(dirname "$0")/../lib/lib.sh"
[ -n "$(command -v etcd)" ] || skip "etcd is not installed (deploy/packages build)"
kills=${1:-3}
cluster up --only etcd --only storaged --storage 1 >/dev/null
base=$(sed -n 's/^port-base=//p' "$work/c/cluster.conf")
disk=$work/c/storaged-1/disk-1
pki node "$work/c/pki" gateway g1 --address 127.0.0.1 >/dev/null
client() {
    timeout 200 "$MIKURA_BUILD/bin/store_load" "127.0.0.1:$((base + 80))" "$work/c/pki/ca.crt" \
        "$work/c/pki/gateway-g1.crt" "$work/c/pki/gateway-g1.key" "$@"
}
kill_and_wait() { # the kernel takes a moment to close what a killed process had open
    cluster kill storaged-1
    until flock -n "$disk/LOCK" true; do sleep 0.05; done
}
client setup 1 2 1 1 >/dev/null
client wait 1 >/dev/null
: >"$work/acked"
at=0
for ((k = 1; k <= kills; k++)); do
    : >"$work/round"
    client load $at 300 16 "$work/round" >/dev/null &
    load=$!
    at=$((at + 300))
    until [ -s "$work/round" ]; do
        kill -0 $load 2>/dev/null || break
        sleep 0.01
    done
    sleep "0.$(printf %03d $((RANDOM % 200)))"
    cluster kill storaged-1
    before=$(wc -l <"$work/round")
    cluster start storaged-1 >/dev/null
    wait $load || fail "load around kill $k"
    cat "$work/round" >>"$work/acked"
    client check "$work/round" >/dev/null # what was written before and after this kill
    if [ $((k % 20)) = 0 ]; then # files are closed in no order either: check the disk as it lies there
        client check "$work/acked"
        kill_and_wait
        "$MIKURA_BUILD/bin/storaged" check --dir "$disk" || fail "the disk after kill $k"
        cluster start storaged-1 >/dev/null
        client wait 1 >/dev/null
    fi
    [ "$before" -lt 300 ] || echo "kill $k came after the load"
done
client check "$work/acked"
[ ! -e "$disk/damaged" ] || fail "damage was noted: $(cat "$disk/damaged")"
kill_and_wait
"$MIKURA_BUILD/bin/storaged" check --dir "$disk" || fail "the disk"

# the index is deleted and made again from the segments alone: one copy, so no other replica's help
rm -r "$disk/index"
expect 1 'there is none' "$MIKURA_BUILD/bin/storaged" check --dir "$disk"
expect 0 'rebuilt from' "$MIKURA_BUILD/bin/storaged" rebuild-index --dir "$disk"
"$MIKURA_BUILD/bin/storaged" dump --dir "$disk" --json | jq -r 'select(.record == "chunk") | .body' | sort -u | wc -l >"$work/bodies"
wanted=$(awk '$1 % 3 == 0' "$work/acked" | wc -l)
[ "$(cat "$work/bodies")" -ge "$wanted" ] || fail "$(cat "$work/bodies") chunks in the segments, $wanted were acknowledged"
echo "ok: $kills kills, $(wc -l <"$work/acked") items acknowledged, none lost, none wrong"
