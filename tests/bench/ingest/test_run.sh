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
"$here/run" --quick --json --no-orthanc >"$out" 2>"$out.err" || fail "exit $?: $(cat "$out.err")"
rm -f "$out.err"
has() { jq -es "$1" "$out" >/dev/null || fail "not so: $1"; }
has 'map(.op) == ["agent", "agent_checked"]'
has 'map(.instances == 60 and .bytes > 60 * 524288 and .instances_s > 0 and .cpu_s_per_gb > 0 and .client_cpu_s_per_gb > 0 and
    .instances_per_cpu_s > 0 and .rss_mb > 10 and .agent_rss_mb > 5) | all'
echo "ok"
