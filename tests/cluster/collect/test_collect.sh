#!/usr/bin/env bash
# shellcheck disable=SC2154 # $work: lib.sh
# What uploads leave behind is given back: expired sessions, puts whose gateway died or slept (collect.py). A tick
# is a second here.
. "$(dirname "$0")/../lib/lib.sh"
need_daemons
mkdir -p "$work/c"
printf 'prefix_bits = 2\nupload_ttl = 4\ncollect_grace = 3\ncollect_period = 500ms\n' >"$work/c/gateway.extra"
printf 'session_tick = 1s\nlimit_bytes = 2GiB\nsegment_bytes = 16MiB\n' >"$work/c/storaged.extra"
cluster up --storage 3 --gateways 3 --workers 0 >/dev/null
python "$(dirname "$0")/collect.py"
