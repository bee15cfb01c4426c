# tests/cluster/lib/lib.sh - helpers for tests on real processes: . "$MIKURA_SOURCE/tests/cluster/lib/lib.sh"
# Gives: $work (a temporary folder, deleted at the end with the cluster in it), fail, expect,
# cluster (deploy/cluster on $work/c with free ports), pki.
# shellcheck shell=bash
set -euo pipefail
: "${MIKURA_SOURCE:=$(cd "$(dirname "${BASH_SOURCE[0]}")/../../.." && pwd)}" "${MIKURA_BUILD:=$MIKURA_SOURCE/.build/release}"
work=$(mktemp -d "${TMPDIR:-/tmp}/mikura-test.XXXXXX")
export MIKURA_SOURCE MIKURA_BUILD MIKURA_WORK=$work
at_end() { :; } # a test's own, when its daemons are gone
lib_end() {
    local rc=$? log
    if [ -e "$work/c/cluster.conf" ]; then
        if [ $rc != 0 ] && [ $rc != 77 ]; then
            for log in "$work"/c/logs/*.log; do
                echo "-- ${log##*/}" >&2
                grep -vE "^[^ ]+ (INFO|DEBUG) " "$log" | tail -n 15 | cut -c1-300 >&2 || true
            done
        fi
        "$MIKURA_SOURCE/deploy/cluster" down --purge --dir "$work/c" >/dev/null || true
    fi
    at_end
    rm -rf "$work"
}
trap lib_end EXIT
# What earlier tests left that were killed (ctest does that at a time limit): their daemons and folders.
echo "$$ $(awk '{ print $22 }' /proc/$$/stat)" >"$work/owner"
lib_sweep() {
    local d pid since
    for d in "${TMPDIR:-/tmp}"/mikura-test.*; do
        read -r pid since 2>/dev/null <"$d/owner" || continue
        [ "$(awk '{ print $22 }' "/proc/$pid/stat" 2>/dev/null)" != "$since" ] || continue
        mv "$d/owner" "$d/owner.$$" 2>/dev/null || continue # another one sweeps
        [ ! -e "$d/c/cluster.conf" ] || "$MIKURA_SOURCE/deploy/cluster" down --purge --dir "$d/c" >/dev/null 2>&1 || true
        rm -rf --one-file-system "$d"
    done
}
lib_sweep

fail() {
    echo "FAILED: $*" >&2
    exit 1
}
skip() {
    echo "skipped: $*"
    exit 77
}
# expect RC PATTERN COMMAND...: its exit status is RC and its output has the fixed text PATTERN
expect() {
    local want=$1 pattern=$2 out rc=0
    shift 2
    out=$("$@" 2>&1) || rc=$?
    [ "$rc" = "$want" ] || fail "exit $rc, not $want: $* : $out"
    grep -qF -- "$pattern" <<<"$out" || fail "no '$pattern' in the output of: $* : $out"
}
# A block of 100 ports in which nobody listens. Below the kernel's ephemeral range, and begun at a
# place that depends on our pid, so that two tests rarely meet; deploy/cluster names it if they do.
port_base_free() {
    local i b p busy
    for ((i = 0; i < 40; i++)); do
        b=$((12000 + ($$ + i) % 180 * 100)) busy=
        while read -r p; do
            if [ "$((16#$p))" -ge $b ] && [ "$((16#$p))" -lt $((b + 100)) ]; then busy=1; fi
        done < <(awk 'FNR > 1 && $4 == "0A" { print substr($2, length($2) - 3) }' /proc/net/tcp /proc/net/tcp6)
        [ -n "$busy" ] || { echo $b; return; }
    done
    fail "no 100 free ports"
}
cluster() {
    local command=$1
    shift
    if [ "$command" = up ] && [ ! -e "$work/c/cluster.conf" ]; then
        set -- --port-base "$(port_base_free)" --build "$MIKURA_BUILD" "$@"
    fi
    "$MIKURA_SOURCE/deploy/cluster" "$command" --dir "$work/c" "$@"
}
pki() { "$MIKURA_SOURCE/deploy/pki" "$@"; }
# python SCRIPT ARGS...: with tests/cluster/lib/mk.py and Debian's grpcio
python() { GRPC_VERBOSITY=NONE PYTHONPATH="$MIKURA_SOURCE/tests/cluster/lib" PYTHONDONTWRITEBYTECODE=1 /usr/bin/python3 "$@"; }
need_daemons() {
    local p
    for p in gateway storaged computed mikura; do
        [ -x "$MIKURA_BUILD/bin/$p" ] || fail "no program $MIKURA_BUILD/bin/$p"
    done
    /usr/bin/python3 -c 'import grpc, google.protobuf' 2>/dev/null || skip "python3-grpcio is not installed (deploy/packages test)"
}
