#!/usr/bin/env bash
# What a newcomer sees: deploy/quickstart over the samples and over folders with bad names, a second
# start on the same state, and that `mikura get` gives every byte back after kill -9 of one storage
# node and of all daemons. With MIKURA_DATA set: over that folder too (../shared/data).
set -euo pipefail
cd "${MIKURA_SOURCE:-$(dirname "${BASH_SOURCE[0]}")/../../..}"
tmp=$(mktemp -d "$PWD/.build/test-quickstart.XXXXXX") # not /tmp: may be without O_DIRECT
base=${MIKURA_TEST_PORTS:-26100}
cleanup() {
    [ ! -e "$tmp/s/cluster/cluster.conf" ] || deploy/cluster down --dir "$tmp/s/cluster" >/dev/null || true
    rm -rf "$tmp"
}
trap cleanup EXIT
fail() {
    echo "FAILED: $*" >&2
    tail -40 "$tmp/out" >&2 || true
    exit 1
}
has() { grep -qF -- "$1" "$tmp/out" || fail "no line with: $1"; }
sums() { (cd "$1" && find . -type f -exec sha256sum {} + | cut -d' ' -f1 | sort); }
quick() { deploy/quickstart --once --dir "$tmp/s" --port-base $base "$@" >"$tmp/out" 2>&1; }

# ---- the command line ----
: >"$tmp/out"
rc=0; deploy/quickstart --frob >"$tmp/out" 2>&1 || rc=$?
[ $rc = 2 ] || fail "an unknown option: exit $rc, not 2"
rc=0; deploy/quickstart --once --data "$tmp" --dir "$tmp/none" >"$tmp/out" 2>&1 || rc=$?
[ $rc = 1 ] || fail "a folder without societies: exit $rc, not 1"

# ---- folders with all that may be in them ----
build=$PWD/.build/release
cmake -G Ninja -B "$build" -DCMAKE_BUILD_TYPE=Release >/dev/null
ninja -C "$build" mk_samples mikura >/dev/null
MIKURA_BUILD=$build deploy/samples/make "$tmp/data"
mkdir "$tmp/data/phi"
echo x >"$tmp/data/phi/x.dcm"
echo x >"$tmp/data/NOTES.txt"
echo x >"$tmp/data/endoscopy/$(printf 'nfd-e\xcc\x81.jpg')"
head -c 300 "$tmp/data/ophthalmology/"*.jpg 2>/dev/null | head -c 300 >"$tmp/data/ophthalmology/truncated.jpg"
head -c 70000001 /dev/urandom >"$tmp/data/pathology/large.bin" # more than one call carries
files=$(find "$tmp/data/"{endoscopy,pathology,radiology,ophthalmology} -type f | wc -l)
quick --data "$tmp/data" || fail "quickstart: exit $?"
has "ignored: phi/ (1 files)"
has "ignored: NOTES.txt"
has "refused $tmp/data/endoscopy/nfd-"
has "all: $files files, $((files - 1)) stored, 1 refused"
has "$((files - 1)) results for $((files - 1)) stored files"
has "not analysed"
has "limits of model quality@1"
has "$tmp/s/cluster/master.key"
[ "$(stat -c %a "$tmp/s/cluster/master.key")" = 400 ] || fail "the master key's mode"
state=$(deploy/cluster status --dir "$tmp/s/cluster") || true # exit 1: not all run
! grep -qw running <<<"$state" || fail "--once left daemons"

# ---- a second start finds everything ----
quick --data "$tmp/data" || fail "second start: exit $?"
has "endoscopy: stored by an earlier start"
has "$((files - 1)) results for $((files - 1)) stored files"

# ---- every byte comes back ----
deploy/cluster up --dir "$tmp/s/cluster" >/dev/null
eval "$(deploy/cluster env --dir "$tmp/s/cluster" --as researcher/alice)"
bytes_back() { # WHEN [DATA]
    local s data=${2:-$tmp/data}
    for s in endoscopy pathology radiology ophthalmology; do
        rm -rf "$tmp/back"
        mikura get "$s" -o "$tmp/back" --quiet >"$tmp/out" 2>&1 || fail "get $s $1: exit $?"
        rm -f "$tmp/want"
        find "$data/$s" -type f ! -name 'nfd-*' -exec sha256sum {} + | cut -d' ' -f1 | sort >"$tmp/want"
        sums "$tmp/back" | cmp - "$tmp/want" || fail "$s $1: other bytes"
    done
}
bytes_back "when all is well"
mikura get pathology/large/large.bin -o - --offset 8388600 --length 1MiB |
    cmp - <(tail -c +8388601 "$tmp/data/pathology/large.bin" | head -c 1048576) || fail "a range over two chunks"
mikura get pathology -o "$tmp/back2" >"$tmp/out" 2>&1
mikura get pathology -o "$tmp/back2" >"$tmp/out" 2>&1
has "0 written"
deploy/cluster kill storaged-2 --dir "$tmp/s/cluster"
bytes_back "with storaged-2 killed"
deploy/cluster start storaged-2 --dir "$tmp/s/cluster" >/dev/null
for d in etcd-1 storaged-1 storaged-2 storaged-3 gateway-1 computed-1; do deploy/cluster kill $d --dir "$tmp/s/cluster"; done
deploy/cluster up --dir "$tmp/s/cluster" >/dev/null
bytes_back "after kill -9 of all"

# ---- what an agent sends again is a new version; stdin; exit codes ----
agent=(--as society/endoscopy/agent-1)
deploy/cluster env --dir "$tmp/s/cluster" --as society/endoscopy/agent-1 >/dev/null
seq 100000 | mikura put - --collection endoscopy --case t-1 --path a/n.txt "${agent[@]}" >"$tmp/out" 2>&1 || fail "put from stdin: exit $?"
seq 100001 | mikura put - --collection endoscopy --case t-1 --path a/n.txt "${agent[@]}" >"$tmp/out" 2>&1 || fail "put again: exit $?"
mikura get endoscopy/t-1/a/n.txt -o - | cmp - <(seq 100001) || fail "the newest version"
mikura get endoscopy/t-1/a/n.txt -o - --object-version 1 | cmp - <(seq 100000) || fail "the first version"
expect() { # EXIT COMMAND...
    local want=$1 rc=0
    shift
    "$@" >"$tmp/out" 2>&1 </dev/null || rc=$?
    [ "$rc" = "$want" ] || fail "$*: exit $rc, not $want"
}
expect 3 mikura ls nosuch --as operator/admin
expect 3 mikura get endoscopy/t-1/nosuch -o -
expect 2 mikura get endoscopy/t-1/a/n.txt -o - --offset 1GiB
expect 4 mikura put "$tmp/data/NOTES.txt" --collection endoscopy
expect 4 mikura put "$tmp/data/NOTES.txt" --collection radiology "${agent[@]}"
expect 4 mikura get endoscopy/t-1/a/n.txt -o - --as operator/admin
expect 2 mikura query 'collection = '
expect 6 mikura collection create endoscopy --kind other --society endoscopy --unchecked --as operator/admin
expect 10 mikura ls --address 127.0.0.1:1 --patience 1s
job=$(mikura job ls --json | sed -n '1s/.*"id":"\([0-9a-f]*\)".*/\1/p')
mikura job results "$job" --format csv --quiet >"$tmp/out"
[ "$(wc -l <"$tmp/out")" = "$files" ] || fail "the CSV has $(wc -l <"$tmp/out") lines, not $files (with its head)"
bash -n <(mikura completion bash) || fail "the completion is no bash"
deploy/cluster down --dir "$tmp/s/cluster" --purge >/dev/null

if [ -n "${MIKURA_DATA:-}" ]; then
    rm -rf "$tmp/s"
    quick --data "$MIKURA_DATA" || fail "quickstart over $MIKURA_DATA: exit $?"
    files=$(find "$MIKURA_DATA/"{endoscopy,pathology,radiology,ophthalmology} -type f | wc -l)
    has "all: $files files, $files stored, 0 refused"
    has "$files results for $files stored files"
    grep -F 'ignored: ' "$tmp/out" | sort -u
    deploy/cluster up --dir "$tmp/s/cluster" >/dev/null
    eval "$(deploy/cluster env --dir "$tmp/s/cluster" --as researcher/alice)"
    bytes_back "when all is well" "$MIKURA_DATA"
    for i in 1 2 3; do
        deploy/cluster kill storaged-$i --dir "$tmp/s/cluster"
        bytes_back "with storaged-$i killed" "$MIKURA_DATA"
        deploy/cluster start storaged-$i --dir "$tmp/s/cluster" >/dev/null
        until mikura status --as operator/admin >"$tmp/out" 2>&1; do sleep 0.2; done # all copies whole again; CTest ends a hang
    done
    for d in etcd-1 storaged-1 storaged-2 storaged-3 gateway-1 computed-1; do deploy/cluster kill $d --dir "$tmp/s/cluster"; done
    deploy/cluster up --dir "$tmp/s/cluster" >/dev/null
    bytes_back "after kill -9 of all" "$MIKURA_DATA"
    deploy/cluster down --dir "$tmp/s/cluster" --purge >/dev/null
    echo "$files files of $MIKURA_DATA: stored, analysed or named, and back byte for byte"
fi
echo "quickstart passed"
