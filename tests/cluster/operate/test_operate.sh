#!/usr/bin/env bash
# shellcheck disable=SC2154 # $work: lib.sh
# Storage nodes are let in, drained, replaced and removed under load, while the manager's gateway, the node itself
# and learners are killed; what must be refused is (operate.py). Arguments: rows, or `all`.
. "$(dirname "$0")/../lib/lib.sh"
need_daemons
mkdir -p "$work/c"
printf 'prefix_bits = 3\ndisk_patience = 5s\nadmit = 500ms\n' >"$work/c/gateway.extra"
printf 'retire_after = 500ms\nlimit_bytes = 2GiB\nsegment_bytes = 16MiB\n' >"$work/c/storaged.extra"
cluster up --storage 3 --gateways 2 --workers 0 >/dev/null
python "$(dirname "$0")/operate.py" "$@"
