#!/usr/bin/env bash
# Who may call what: every RPC, every role, every kind of certificate (rights.py).
. "$(dirname "$0")/../lib/lib.sh"
need_daemons
cluster up --storage 3 --workers 1
python "$(dirname "$0")/rights.py"
