#!/usr/bin/env bash
# shellcheck disable=SC2154 # $work: lib.sh
# Connections and processes that end in the middle of something (breaks.py [ROW...]).
. "$(dirname "$0")/../lib/lib.sh"
need_daemons
/usr/bin/python3 -c 'import PIL' 2>/dev/null || skip "python3-pil is not installed (deploy/packages test)"

# a gateway without storage is up, and says that it cannot store
cluster up --storage 0 --workers 0 >/dev/null
eval "$(cluster env)"
rc=0
got=$(curl -s --cacert "$MIKURA_CA" --cert "$MIKURA_CERT" --key "$MIKURA_KEY" -w ' %{http_code}' "https://$MIKURA_ADDRESS/healthz") || rc=$?
grep -q 'waits for storage.* 503$' <<<"${got//$'\n'/}" || fail "/healthz without storage: $got (curl $rc)"
expect 10 storage mikura --patience 2s collection create c --kind other --society s --unchecked
expect 15 storage mikura status
cluster down --purge >/dev/null

mkdir -p "$work/c"
printf 'keepalive = 1s\ntask_lease = 6s\n' >"$work/c/gateway.extra"
export GRPC_CLIENT_CHANNEL_BACKUP_POLL_INTERVAL_MS=100 # grpcio answers pings on an idle connection this often, else each 5 s
cluster up --storage 3 --workers 2 --gateways 2
python "$(dirname "$0")/breaks.py" "$@"
