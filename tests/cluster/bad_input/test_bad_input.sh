#!/usr/bin/env bash
# shellcheck disable=SC2154 # $work: lib.sh
# What users, certificates, files and machines do wrong (bad_input.py [ROW...]).
. "$(dirname "$0")/../lib/lib.sh"
need_daemons
# small disks, so that they fill in seconds
mkdir -p "$work/c"
printf 'limit_bytes = 384MiB\nsegment_bytes = 16MiB\n' >"$work/c/storaged.extra"
cluster up --storage 3 --workers 1
python "$(dirname "$0")/bad_input.py" "$@"
