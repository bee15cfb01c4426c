#!/usr/bin/env bash
# shellcheck disable=SC2154 # $work: lib.sh
# etcd is wiped, under a stopped and under a running cluster, and made again from what the disks keep (recover.py).
. "$(dirname "$0")/../lib/lib.sh"
need_daemons
mkdir -p "$work/c"
printf 'prefix_bits = 2\n' >"$work/c/gateway.extra"
printf 'limit_bytes = 2GiB\nsegment_bytes = 16MiB\n' >"$work/c/storaged.extra"
cluster up --storage 3 --workers 0 >/dev/null
python "$(dirname "$0")/recover.py"
