#!/usr/bin/env bash
# shellcheck disable=SC2154 # $work: lib.sh
# test_hostile_child.sh HOSTILE_CHILD: the gateway's parser of content says, asks and does whatever it likes. Each time the
# object is stored and comes back as it was, without attributes, the gateway says why, and the next object is served. And:
# the model parser that never answers costs that model alone.
. "$(dirname "$0")/../lib/lib.sh"
mkdir "$work/h" "$work/c"
cp "$1" "$work/h/hostile"
echo die >"$work/h/mode"
printf 'inspect = %s\nmodel_check = /bin/true\n' "$work/h/hostile" >"$work/c/gateway.extra"
cluster up >/dev/null
eval "$(cluster env)"
mikura="$MIKURA_BUILD/bin/mikura"
for who in society/jrs/a1 researcher/rin; do cluster env --as "$who" >/dev/null; done
"$mikura" collection create radiology --kind radiology --society jrs --unchecked >/dev/null
"$mikura" collection grant radiology mikura://researcher/rin >/dev/null
printf '\xff\xd8\xff\xe0\x00\x10JFIF\x00' >"$work/a.jpg"
head -c 200000 /dev/zero >>"$work/a.jpg"
log="$work/c/logs/gateway-1.log"
pid=$(cut -d' ' -f1 "$work/c/run/gateway-1.pid")
for mode in die crash nonsense outside wide length reason many bytes text hang; do
    echo $mode >"$work/h/mode"
    before=$(grep -c inspect_failed "$log" || true)
    SECONDS=0
    "$mikura" put "$work/a.jpg" --collection radiology --case $mode --as society/jrs/a1 >/dev/null || fail "$mode: the put failed"
    [ $SECONDS -lt 25 ] || fail "$mode: it took $SECONDS s"
    "$mikura" get radiology/$mode/a.jpg -o - --as researcher/rin | cmp - "$work/a.jpg" || fail "$mode: other bytes came back"
    "$mikura" stat radiology/$mode/a.jpg --as researcher/rin >"$work/stat"
    ! grep -qE 'image\.|1e9999' "$work/stat" || fail "$mode: attributes of a child that lies: $(cat "$work/stat")"
    after=$(grep -c inspect_failed "$log" || true)
    # what it says in `text` is well-formed; it is only left out
    [ $mode = text ] || [ "$after" -gt "$before" ] || fail "$mode: the gateway did not say that a child failed"
    [ "$(cut -d' ' -f1 "$work/c/run/gateway-1.pid")" = "$pid" ] && kill -0 "$pid" || fail "$mode: the gateway ended"
done
! grep -qaP '\x1b|\xff' "$log" || fail "a child's bytes are in the log"
expect 1 'said nothing' "$mikura" model add "$MIKURA_SOURCE/deploy/models/quality.onnx" --name quality
expect 3 '' "$mikura" get radiology/none/a.jpg -o - --as researcher/rin
echo "hostile children: each cost its object's attributes, and nothing else"
