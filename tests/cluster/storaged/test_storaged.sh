#!/usr/bin/env bash
# shellcheck disable=SC2154 # $work: lib.sh
# Three storage nodes and an etcd, real processes: nothing that was acknowledged is lost when nodes
# are killed under load and come back, one by one and all at once.
. "$(dirname "$0")/../lib/lib.sh"
[ -n "$(command -v etcd)" ] || skip "etcd is not installed (deploy/packages build)"
cluster up --only etcd --only storaged >/dev/null
base=$(sed -n 's/^port-base=//p' "$work/c/cluster.conf")
pki node "$work/c/pki" gateway g1 --address 127.0.0.1 >/dev/null
client() {
    timeout 120 "$MIKURA_BUILD/bin/store_load" "127.0.0.1:$((base + 80))" "$work/c/pki/ca.crt" \
        "$work/c/pki/gateway-g1.crt" "$work/c/pki/gateway-g1.key" "$@"
}
n=${1:-300} at=0 acked=$work/acked
load_during() { # COMMAND...: items are written while it runs
    client load $at "$n" 12 "$acked" &
    local pid=$!
    at=$((at + n))
    until [ "$(wc -l <"$acked")" -gt $((at - n + n / 10)) ]; do
        kill -0 $pid 2>/dev/null || break
        sleep 0.05
    done
    "$@"
    wait $pid || fail "load while: $*"
}
client setup 3 2
client wait 3
: >"$acked"
load_during true
client check "$acked"

for victim in storaged-1 storaged-2 storaged-3; do # of four groups each leads some
    load_during cluster kill $victim
    client check "$acked" # with one node away
    cluster start $victim >/dev/null
    client wait 3
    client check "$acked" # every replica has every chunk again
    echo "survived: kill $victim"
done

for v in 1 2 3; do cluster kill storaged-$v; done
for v in 1 2 3; do cluster start storaged-$v >/dev/null; done
client wait 3
client check "$acked"
load_during true

for v in 1 2 3; do cluster stop storaged-$v; done # an orderly end
for v in 1 2 3; do grep -q ' stopped ' "$work/c/logs/storaged-$v.log" || fail "storaged-$v did not end in order"; done
for v in 1 2 3; do cluster start storaged-$v >/dev/null; done
client wait 3
client check "$acked"

# a primary that stands still must not answer old things when it goes on; etcd away stops nobody
pid=$(cut -d' ' -f1 "$work/c/run/storaged-2.pid")
load_during kill -STOP "$pid"
client check "$acked"
kill -CONT "$pid"
client wait 3
load_during cluster kill etcd-1
cluster start etcd-1 >/dev/null
client check "$acked"

# a disk that is lost whole, and logs too short to catch up from: its successor takes the groups'
# states and every chunk from the others
for v in 1 2 3; do cluster stop storaged-$v; done
rm -rf "$work/c/storaged-3/disk-1"
mkdir "$work/c/storaged-3/disk-1"
pids=()
begin() { # N: not by deploy/cluster, which writes its own settings
    "$MIKURA_BUILD/bin/storaged" --config="$work/c/storaged-$1/storaged.conf" --log_keep=8 --session_tick=1s \
        --scrub_period=2s --stray_grace=1s --segment_bytes=16MiB --reserve_bytes=64MiB \
        >>"$work/c/logs/storaged-$1.log" 2>&1 &
    pids+=($!)
}
begin 1
begin 2
client wait 2
load_during true
until grep -q trimmed "$work/c/logs/storaged-1.log"; do sleep 0.1; done
begin 3
client wish 3
client wait 3
client check "$acked"
grep -q 'snapshot_taken .*rc=RC_OK' "$work/c/logs/storaged-3.log" || fail "no snapshot was taken"
# bytes whose ChunkAdd never came are dropped from every disk; when it comes after all they are sent once more
strays=$(client strays $at 90)
dropped() { cat "$work"/c/logs/storaged-$1.log | grep -c ' stray_dropped '; }
for v in 1 2 3; do until [ "$(dropped $v)" -ge "$strays" ]; do sleep 0.2; done; done
n=90 load_during true
client check "$acked"
kill "${pids[@]}"
wait "${pids[@]}"
for v in 1 2 3; do cluster start storaged-$v >/dev/null; done
client wait 3
client check "$acked"

# one process a disk, one port a process, its own certificate: each refusal says what to do
conf=$work/c/storaged-1/storaged.conf
expect 1 'is taken by' "$MIKURA_BUILD/bin/storaged" --config="$conf"
expect 1 'storaged-1/disk-1' "$MIKURA_BUILD/bin/storaged" --config="$conf" --listen=127.0.0.1:$((base + 40))
expect 1 'deploy/pki node DIR storaged' "$MIKURA_BUILD/bin/storaged" --config="$conf" --name=other
expect 2 '--nonsense' "$MIKURA_BUILD/bin/storaged" --config="$conf" --nonsense=1
echo "ok: $(wc -l <"$acked") items acknowledged, none lost"
