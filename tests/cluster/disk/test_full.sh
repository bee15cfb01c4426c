#!/usr/bin/env bash
# shellcheck disable=SC2154 # $work: lib.sh
# A node whose disk somebody else filled is started again and again: it joins, is told full, nothing is lost, and it takes writes when
# there is room, without another start (full.py). A small ext4 on a loop device, in a mount namespace of this test's own: nothing stays if it is killed.
if [ "${1-}" != inside ]; then
    [ "$(id -u)" = 0 ] || { echo "skipped: mounting needs root" && exit 77; }
    [ -e /dev/loop-control ] || { echo "skipped: no loop devices here" && exit 77; }
    exec unshare -m "$0" inside
fi
. "$(dirname "$0")/../lib/lib.sh"
need_daemons
mkdir -p "$work/c/storaged-2" "$work/fs"
truncate -s 192M "$work/img"
mkfs.ext4 -q -m 0 "$work/img"
mount -o loop "$work/img" "$work/fs" || skip "mount -o loop is refused here"
rm "$work/img"
at_end() { umount "$work/fs" || true; }
mkdir "$work/fs/disk"
ln -s "$work/fs/disk" "$work/c/storaged-2/disk-1"
printf '%s\n' 'segment_bytes = 4MiB' 'index_bytes = 8MiB' >"$work/c/storaged.extra"
printf '%s\n' 'prefix_bits = 1' 'disk_patience = 1h' >"$work/c/gateway.extra"
cluster up --storage 3 --workers 0 >/dev/null
python "$(dirname "$0")/full.py" "$work/fs"
