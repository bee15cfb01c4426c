#!/usr/bin/env bash
# The benchmark does not rot: its options, one JSON object a row with all the fields, the limits and the
# ratios; and the shares of Ceph's cost, from a stand-in that prints what ../shared/peers/ceph.sh prints.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
fail() {
    echo "FAILED: $*" >&2
    cat "$tmp/out" "$tmp/err" >&2
    exit 1
}
touch "$tmp/out" "$tmp/err"
usage() { # WORDS ARGS...
    local words=$1 rc=0
    shift
    "$here/run" "$@" >"$tmp/out" 2>"$tmp/err" || rc=$?
    [ $rc = 2 ] || fail "$*: exit $rc, not 2"
    grep -qF -- "$words" "$tmp/err" || fail "$*: no '$words'"
}
usage "unknown option '--frob'" --frob
usage "--only 'x'" --only 4K,x
usage "--ops 'del'" --ops del
usage "--only needs a value" --only

mkdir "$tmp/peers"
cat >"$tmp/peers/ceph.sh" <<'C'
#!/bin/sh
cat <<'T'
### radosgw S3
| test | MB/s | ops/s | p50 ms | p99 ms | **daemon CPU-s/GB** | client CPU-s/GB | machine CPU-s/GB | other busy cores | disk rd GB/GB | disk wr GB/GB | errs |
|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|
| http PUT 512 KiB (run 1) | 1.0 | 1.0 | 1.0 | 1.0 | **1.00** | 0.50 | 10.00 | 0.10 | 0.00 | 3.03 | 0 |
| https PUT 512 KiB (run 1) | 101.0 | 192.0 | 79.0 | 141.0 | **1000000.00** | 0.50 | 10.00 | 0.10 | 0.00 | 3.03 | 0 |
| https GET 512 KiB random (run 1) | 462.0 | 881.0 | 15.0 | 64.0 | **3.30** | 0.50 | 10.00 | 0.10 | 0.00 | 0.00 | 0 |
| https multipart PUT 64 MiB (run 1) | no data moved: ops=0 errs=8 |
| https multipart PUT 64 MiB (run 2) | 187.0 | 2.8 | 2652.0 | 2777.0 | **8.90** | 0.50 | 10.00 | 0.10 | 0.00 | 3.03 | 0 |

- peak RSS, sum over daemons: 2829 MiB (mon 100, mgr 200, )
T
C
chmod +x "$tmp/peers/ceph.sh"
MIKURA_PEERS=$tmp/peers "$here/run" --quick --json --only 512K,64K --ceph >"$tmp/out" 2>"$tmp/err" || fail "exit $?"
has() { jq -es "$1" "$tmp/out" >/dev/null || fail "not so: $1"; }
has 'map(select(.op | endswith("_of_ceph") | not)) | map(. as $r | ["size", "op", "mb_s", "ops_s", "p50_ms", "p99_ms", "cpu_s_per_gb", "rss_mb"] | all(. as $k | $r | has($k))) | all'
has 'map(.op) == ["limit_disk_write", "limit_disk_read", "limit_tcp", "limit_tls", "put", "get", "put", "get",
    "ceph_put", "ceph_get", "ceph_put", "put_of_ceph", "get_of_ceph"]'
has 'map(select(.op == "put" or .op == "get") | .mb_s > 0 and .cpu_s_per_gb > 0 and .rss_mb > 10 and .of_tcp > 0 and .of_tls > .of_tcp and .of_disk > 0) | all'
grep -q 'Ceph: no row: | https multipart' "$tmp/err" || fail "a row that Ceph did not give is not named"
has 'map(select(.op == "ceph_get"))[0] | .size == 524288 and .mb_s == 462 and .cpu_s_per_gb == 3.3 and .rss_mb == 2829'
has 'map(select(.op == "put_of_ceph"))[0] | .size == 524288 and .cpu_of_ceph < 0.01 and .cpu_of_ceph_goal == 0.4'
has 'map(select(.op == "get_of_ceph"))[0] | .cpu_of_ceph > 0 and .cpu_of_ceph_goal == 0.75'

# a table; puts unreported; no Ceph here
MIKURA_PEERS=$tmp/none "$here/run" --quick --only 64K --ops get --ceph >"$tmp/out" 2>"$tmp/err" || fail "exit $?"
grep -q '^| 65536 | get |' "$tmp/out" || fail "no row of gets"
! grep -q '^| 65536 | put |' "$tmp/out" || fail "puts were not asked for"
grep -qF "skipped: Ceph: no $tmp/none/ceph.sh" "$tmp/err" || fail "Ceph is absent, and nothing said so"
echo "ok"
