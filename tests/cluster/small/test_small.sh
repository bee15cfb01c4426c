#!/usr/bin/env bash
# shellcheck disable=SC2154 # $work: lib.sh
# One machine with three disks, two nodes, three nodes: what each can lose (small.py). Arguments: rows.
set -euo pipefail
if [ $# = 0 ]; then # all at once, each a cluster of its own: they mostly wait
    rc=0 pids=()
    for row in machine two two_safe three; do
        "$0" $row &
        pids+=($!)
    done
    for p in "${pids[@]}"; do wait "$p" || rc=1; done
    exit $rc
fi
. "$(dirname "$0")/../lib/lib.sh"
need_daemons
for row; do
    mkdir -p "$work/c"
    settings='copies = 3' nodes=3 disks=1
    case $row in
    machine) nodes=1 disks=3 ;;
    two) settings=$'copies = 2\nmin_in_sync = 1' nodes=2 ;;
    two_safe) settings=$'copies = 2\nmin_in_sync = 2' nodes=2 ;;
    esac
    printf 'prefix_bits = 1\ndisk_patience = 1h\n%s\n' "$settings" >"$work/c/gateway.extra"
    echo "faults = $work/c/faults" >"$work/c/storaged-1.extra"
    cluster up --storage $nodes --disks $disks --workers 0 >/dev/null
    python "$(dirname "$0")/small.py" "$row"
    cluster down --purge >/dev/null
done
