#!/usr/bin/env bash
# kill -9 of daemons (kill.py): test_kill.sh one | all | rounds N
. "$(dirname "$0")/../lib/lib.sh"
need_daemons
cluster up --storage 3 --workers "$([ "$1" = all ] && echo 1 || echo 0)"
python "$(dirname "$0")/kill.py" "$@"
