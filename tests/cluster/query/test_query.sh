#!/usr/bin/env bash
# shellcheck disable=SC2154 # $work: lib.sh
# Attributes read in the sandbox are found by queries; a killed or misled child costs nothing that is stored.
. "$(dirname "$0")/../lib/lib.sh"
cluster up >/dev/null
"$MIKURA_SOURCE/deploy/samples/make" "$work/s" >/dev/null
eval "$(cluster env)"
mikura="$MIKURA_BUILD/bin/mikura"
cluster env --as society/jrs/a1 >/dev/null
cluster env --as researcher/rin >/dev/null
"$mikura" collection create radiology --kind radiology --society jrs --unchecked >/dev/null
"$mikura" collection grant radiology mikura://researcher/rin >/dev/null
"$mikura" put "$work/s/radiology" --collection radiology --as society/jrs/a1 >/dev/null
files=$(find "$work/s/radiology" -type f | wc -l)
found() { "$mikura" query "$1" --as researcher/rin --json | grep -c '"path"' || true; }
[ "$(found 'collection = radiology and dicom.Modality = "CT"')" -gt 0 ] || fail "no CT found"
[ "$(found 'collection = radiology and image.width >= 1')" = "$files" ] || fail "not every slice has a width"
[ "$(found 'collection = radiology and dicom.Modality = "CT" and image.width < 0')" = 0 ] || fail "found what is not there"

# a child that dies while idle is replaced
pid=$(cut -d' ' -f1 "$work/c/run/gateway-1.pid")
pkill -9 -P "$pid" mikura-inspect || fail "no mikura-inspect runs"
cp "$(find "$work/s/endoscopy" -name '*.jpg' -print -quit)" "$work/a.jpg"
"$mikura" put "$work/a.jpg" --collection radiology --case again --as society/jrs/a1 >/dev/null
expect 0 'image.width' "$mikura" stat radiology/again/a.jpg --as researcher/rin
# what claims to be an image and is none is stored all the same
{ head -c 2000 "$work/a.jpg"; head -c 100000 /dev/urandom; } >"$work/bad.jpg"
{ head -c 132 /dev/zero | tr '\0' 'x' | head -c 128; printf 'DICM'; head -c 90000 /dev/urandom; } >"$work/bad.dcm"
"$mikura" put "$work/bad.jpg" "$work/bad.dcm" --collection radiology --case bad --as society/jrs/a1 >/dev/null
for f in bad.jpg bad.dcm; do
    "$mikura" get radiology/bad/$f -o - --as researcher/rin | cmp - "$work/$f" || fail "$f came back otherwise"
done
expect 2 'column' "$mikura" query 'collection = radiology and' --as researcher/rin
echo "query: all as it should be"
