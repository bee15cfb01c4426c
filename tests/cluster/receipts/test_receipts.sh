#!/usr/bin/env bash
# Receipts, kept and checked without the cluster; a sender's SHA-256, verified or claimed (receipts.py).
. "$(dirname "$0")/../lib/lib.sh"
need_daemons
/usr/bin/python3 -c 'import cryptography' 2>/dev/null || skip "python3-cryptography is not installed (deploy/packages test)"
cluster up --storage 3 --workers 0
python "$(dirname "$0")/receipts.py"
