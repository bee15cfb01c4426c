#!/usr/bin/env bash
# The benchmark does not rot: its options, one JSON object a row with all the fields.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
out=$(mktemp)
trap 'rm -f "$out"' EXIT
fail() {
    echo "FAILED: $*" >&2
    cat "$out" >&2
    exit 1
}
rc=0
"$here/run" --frob >"$out" 2>&1 || rc=$?
[ $rc = 2 ] || fail "an unknown option: exit $rc, not 2"
peers='[]'
! { command -v Orthanc && command -v storescu; } >/dev/null || peers='["orthanc_cstore", "orthanc_cstore_tls"]'
"$here/run" --quick --json >"$out" 2>"$out.err" || fail "exit $?: $(cat "$out.err")"
[ "$peers" != '[]' ] || grep -q 'skipped: Orthanc' "$out.err" || fail "Orthanc is not there, and nothing said so"
rm -f "$out.err"
has() { jq -es --argjson peers "$peers" "$1" "$out" >/dev/null || fail "not so: $1"; }
has '(["agent", "agent_checked"] + $peers) as $rows | map(.op) == ["floor"] + $rows + ($rows | map(. + "_of_floor")) +
    [$peers[] | sub("_cstore"; "") as $p | ("floor", "agent", "agent_checked") + "_of_" + $p]'
has '.[0] | (.tls + .sha256 + .seal + .tcp + .crc32c + .disk - .cpu_s_per_gb | fabs) < 0.01 and .instances_per_cpu_s > 0 and
    ([.tls, .sha256, .seal, .tcp, .crc32c, .disk] | all(. > 0))'
has 'map(select(.op | endswith("_of_floor")) | .of_floor > 0 and .of_floor < 5) | all'
has 'map(select(.goal == 5) | .of_orthanc > 0) | all'
has '(["agent", "agent_checked"] + $peers) as $rows | map(select(.op | IN($rows[])) | .instances == 60 and .bytes > 60 * 524288 and
    .instances_s > 0 and .cpu_s_per_gb > 0 and .client_cpu_s_per_gb > 0 and .instances_per_cpu_s > 0 and .rss_mb > 10) | all'
has 'map(select(.op | IN("agent", "agent_checked")) | .agent_rss_mb > 5) | all'
echo "ok"
