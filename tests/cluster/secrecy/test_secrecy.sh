#!/usr/bin/env bash
# shellcheck disable=SC2154 # $work: lib.sh
# Stored pixels are nowhere in clear, between daemons or on disks (secrecy.py).
. "$(dirname "$0")/../lib/lib.sh"
need_daemons
/usr/bin/python3 -c 'import pydicom' 2>/dev/null || skip "python3-pydicom is not installed (deploy/packages test)"
"$MIKURA_SOURCE/deploy/samples/make" "$work/samples" >/dev/null
cluster up --storage 3 --workers 1
python "$(dirname "$0")/secrecy.py" "$MIKURA_BUILD/bin/window_scan" "$work/samples"
