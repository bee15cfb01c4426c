#!/usr/bin/env bash
# shellcheck disable=SC2154 # $work: lib.sh
# One replica's metadata and chunks are damaged on its disk: found by the regular comparison and mended (compare.py).
. "$(dirname "$0")/../lib/lib.sh"
need_daemons
mkdir -p "$work/c"
printf 'prefix_bits = 2\ndisk_patience = 1h\n' >"$work/c/gateway.extra"
printf 'compare_period = 2s\n' >"$work/c/storaged.extra"
cluster up --storage 3 --workers 0 >/dev/null
python "$(dirname "$0")/compare.py"
