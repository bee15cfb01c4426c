#!/usr/bin/env bash
# shellcheck disable=SC2154 # $work: lib.sh
# Space of deleted objects comes back; what rots on one disk is found, never served, and repaired (space.py).
. "$(dirname "$0")/../lib/lib.sh"
need_daemons
mkdir -p "$work/c"
cat >"$work/c/storaged.extra" <<'X'
segment_bytes = 16MiB
limit_bytes = 2GiB
reclaim_rate = 0
scrub_rate = 0
scrub_period = 3s
X
cluster up --storage 3 --workers 0 >/dev/null
python "$(dirname "$0")/space.py"
