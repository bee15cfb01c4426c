#!/usr/bin/env bash
# shellcheck disable=SC2154 # $work: lib.sh
# A slow disk slows, a disk whose write fails, or that does not open, is out and its node goes on with the other (disk_out.py).
. "$(dirname "$0")/../lib/lib.sh"
need_daemons
mkdir -p "$work/c"
echo "faults = $work/c/faults-2" >"$work/c/storaged-2.extra"
cluster up --storage 3 --disks 2 --workers 0 >/dev/null
python "$(dirname "$0")/disk_out.py"
