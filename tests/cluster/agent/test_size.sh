#!/usr/bin/env bash
# shellcheck disable=SC2154 # $work: lib.sh
# A large slide and very many small DICOM files, each one case, checked by the agent and by the gateway, and the memory
# that it takes: test_size.sh SIDE_TILES FILES COPIES. A long run: test_size.sh 139 0 1 (20.3 GB, its disk too), test_size.sh 2 100000 3
. "$(dirname "$0")/../lib/lib.sh"
here=$(cd "$(dirname "$0")" && pwd) side=$1 files=$2 copies=$3
need_daemons
mkdir -p "$work/c" "$work/make"
printf 'copies = %s\nmin_in_sync = %s\n' "$copies" "$(((copies + 1) / 2))" >"$work/c/gateway.extra"
cluster up --storage "$copies" --gateways 1 --workers 0 >/dev/null
eval "$(cluster env)"
mikura="$MIKURA_BUILD/bin/mikura"
for who in society/jx/a1 researcher/rin; do cluster env --as $who >/dev/null; done
"$mikura" collection create slides --society jx --kind pathology --deid-profile pathology --chunk 8MiB >/dev/null
"$mikura" collection create ct --society jx --kind radiology --deid-profile radiology >/dev/null
for c in slides ct; do "$mikura" collection grant $c rin >/dev/null; done

# peaks: process's greatest resident memory in MiB; of the agent (process $1) with its parsers as they come and go
peak() { awk '$1 == "VmHWM:" { print int($2 / 1024) }' "/proc/$1/status" 2>/dev/null || true; }
watch() {
    local most=0 parsers=0 p m
    while kill -0 "$1" 2>/dev/null; do
        m=$(peak "$1")
        [ "${m:-0}" -le "$most" ] || most=$m
        for p in $(pgrep -f "^$MIKURA_BUILD/bin/mikura-inspect" || true); do
            m=$(peak "$p")
            [ "${m:-0}" -le "$parsers" ] || parsers=$m
        done
        sleep 0.5
    done
    echo "agent $most MiB, a parser $parsers MiB" >"$work/peak"
}
# send COLLECTION FOLDER CASE: through the agent, its receipt, then all of it again (no byte)
send() {
    local began=$SECONDS rc=0 w
    "$mikura" agent run "$2" --collection "$1" --state "$work/st-$1" --once --json --as society/jx/a1 >"$work/events" 2>&1 &
    w=$!
    watch $w
    wait $w || rc=$?
    [ $rc = 0 ] || fail "$1: exit $rc: $(tail -n 3 "$work/events")"
    grep -q "\"case_id\":\"$3\",\"event\":\"committed\",.*\"generation\":1" "$work/events" || fail "$1: $(tail -n 3 "$work/events")"
    echo "  $1: $(du -sb "$2" | cut -f1) bytes, $(find "$2" -type f | wc -l) files, $copies copies: $((SECONDS - began)) s; $(cat "$work/peak"), gateway $(
        peak "$(cut -d' ' -f1 "$work/c/run/gateway-1.pid")") MiB, storaged $(peak "$(cut -d' ' -f1 "$work/c/run/storaged-1.pid")") MiB"
    expect 0 '"bytes_sent":0' "$mikura" agent run "$2" --collection "$1" --state "$work/st-$1" --once --json --as society/jx/a1
    expect 0 '1 cases are stored as our receipts say, 0 are not' "$mikura" agent verify --state "$work/st-$1" --collection "$1" --as society/jx/a1
    read -r most _ < <(sed 's/agent //' "$work/peak")
    [ "$most" -le 256 ] || fail "the agent took $most MiB"
}
mkdir -p "$work/slides/s"
/usr/bin/python3 "$here/size.py" slide "$side" "$work/slides/s/slide.svs"
send slides "$work/slides" s
"$mikura" get slides/s/slide.svs -o - --as researcher/rin --quiet | cmp - "$work/slides/s/slide.svs" || fail "the slide comes back as something else"
rm -r "$work/slides"
if [ "$files" -gt 0 ]; then
    "$here/../deid_gate/make" "$work/make"
    "$mikura" deid key "$work/key" >/dev/null
    "$mikura" deid clean "$work/make/slice.dcm" -o "$work/make/clean" --profile radiology --pseudonym-key "$work/key" >/dev/null
    mkdir -p "$work/ct/s"
    /usr/bin/python3 "$here/size.py" slices "$files" "$work/make/clean/slice.dcm" "$work/ct/s"
    send ct "$work/ct" s
    [ "$("$mikura" ls ct/s --json --as researcher/rin | grep -c '"path"')" = "$files" ] || fail "not all are there"
fi
echo "size: all as it should be"
