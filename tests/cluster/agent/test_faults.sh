#!/usr/bin/env bash
# An ingest with cuts and kill -9 (agent.py): test_faults.sh FILES CASES CUTS AGENT_KILLS GATEWAY_KILLS [SEED]
# A long run: test_faults.sh 5000 50 1000 100 100
. "$(dirname "$0")/../lib/lib.sh"
need_daemons
cluster up --storage 3 --gateways 2 --workers 0
python "$(dirname "$0")/agent.py" "$@"
