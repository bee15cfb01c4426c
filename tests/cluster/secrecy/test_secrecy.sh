#!/usr/bin/env bash
# shellcheck disable=SC2154 # $work: lib.sh
# tests/cluster/secrecy/test_secrecy.sh [--data DIR]: stored pixels are nowhere in clear, between daemons or
# on disks (secrecy.py): of the samples, or of DIR's four society folders; then that a gateway which leaves
# one block unsealed is found out.
. "$(dirname "$0")/../lib/lib.sh"
data=''
case ${1:-} in
'') ;;
--data) [ $# -eq 2 ] && [ -d "$2" ] || { echo "usage: $0 [--data DIR]" >&2; exit 2; }; data=$2 ;;
*) echo "usage: $0 [--data DIR]" >&2; exit 2 ;;
esac
need_daemons
/usr/bin/python3 -c 'import pydicom' 2>/dev/null || skip "python3-pydicom is not installed (deploy/packages test)"
"$MIKURA_SOURCE/deploy/samples/make" "$work/samples" >/dev/null
cluster up --storage 3 --workers 1
python "$(dirname "$0")/secrecy.py" sealed "$MIKURA_BUILD/bin/window_scan" "${data:-$work/samples}"

# the same check, of a gateway with a hole
cluster down --purge >/dev/null
unsealed=$MIKURA_BUILD/tests/cluster/secrecy/gateway_unsealed
[ -x "$unsealed" ] || fail "no program $unsealed"
mkdir -p "$work/build/bin" "$work/c"
ln -s "$MIKURA_BUILD/bin/"* "$work/build/bin/"
ln -sf "$unsealed" "$work/build/bin/gateway"
echo "inspect = $MIKURA_BUILD/bin/mikura-inspect" >"$work/c/gateway.extra"
cluster up --storage 3 --workers 0 --build "$work/build"
python "$(dirname "$0")/secrecy.py" unsealed "$MIKURA_BUILD/bin/window_scan" "$work/samples"
