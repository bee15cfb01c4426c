#!/usr/bin/env bash
# shellcheck disable=SC2154 # $work: lib.sh
# What `mikura agent` does and refuses, against real daemons; test_agent.sh steps [EVERY]:
# kill -9 at every step (or each EVERYth) of its journal.
. "$(dirname "$0")/../lib/lib.sh"
here=$(cd "$(dirname "$0")" && pwd)
need_daemons
cluster up --storage 3 --gateways 2 --workers 0 >/dev/null
eval "$(cluster env)"
mikura="$MIKURA_BUILD/bin/mikura"
for who in society/jx/a1 society/other/a1 researcher/rin; do cluster env --as $who >/dev/null; done
op() { "$mikura" "$@"; }
rin() { "$mikura" "$@" --as researcher/rin; }
agent() { local c=$1; shift; "$mikura" agent "$c" "$@" --as society/jx/a1; }
# once COLLECTION STATE FOLDER...: everything that is there, then the end; events in $work/events
once() {
    local col=$1 st=$2 rc=0
    shift 2
    agent run --collection "$col" --state "$work/$st" --once --json "$@" >"$work/events" 2>"$work/errors" || rc=$?
    cat "$work/events" "$work/errors"
    return $rc
}
daemon() { # in the background, as process $daemon; its events are in $work/daemon
    "$mikura" agent run "$@" --json --as society/jx/a1 >"$work/daemon" 2>&1 &
    daemon=$!
}
end() { # a failure leaves no agent behind: it would hold what its starters held
    local rc=$?
    [ -z "${daemon:-}" ] || kill "$daemon" 2>/dev/null || true
    if [ $rc = 0 ]; then lib_end; else (exit $rc) || lib_end; fi
}
trap end EXIT
events() { jq -r "select(.event == \"$1\") | $2" "$work/events"; }
waits_for() { # SECONDS WHAT COMMAND...
    local i n=$1 what=$2
    shift 2
    for ((i = 0; i < n * 10; i++)); do "$@" && return; sleep 0.1; done
    fail "not within $n s: $what"
}
op collection create plain --society jx --unchecked >/dev/null
op collection create ct --society jx --kind radiology --deid-profile radiology >/dev/null
for c in plain ct; do op collection grant $c rin >/dev/null; done

# ---- kill -9 at every step of the journal: each time another case, then a run to the end ----
if [ "${1:-}" = steps ]; then
    every=${2:-1} at=1 past=0
    while [ $past = 0 ]; do
        for sign in '' -; do # before the step, after it
            c="k$at$sign"
            mkdir -p "$work/$c/$c"
            for i in 1 2 3; do head -c $((i * 40000)) /dev/urandom >"$work/$c/$c/f$i"; done
            rc=0
            LD_PRELOAD="$MIKURA_BUILD/lib/killer.so" MIKURA_KILL_AT="$sign$at" "$mikura" agent run "$work/$c" --collection plain \
                --profile none --state "$work/st-$c" --once --json --as society/jx/a1 >>"$work/killed" 2>&1 || rc=$?
            [ $rc = 137 ] || past=1
            expect 0 '"event":"stopped"' once plain "st-$c" "$work/$c" --profile none
            expect 0 '1 cases are stored as our receipts say, 0 are not' agent verify --state "$work/st-$c" --collection plain
            [ "$(rin stat "plain/$c" --json | jq .generation)" = 1 ] || fail "killed at $sign$at: not exactly once: $(rin stat "plain/$c" --json)"
            rin get plain -o "$work/back" --quiet >/dev/null
            diff -r "$work/$c/$c" "$work/back/$c" || fail "killed at $sign$at: other bytes"
        done
        at=$((at + every))
    done
    [ $at -gt 6 ] || fail "the agent was killed at $at steps only"
    echo "agent steps: killed before and after of $((at - every)) steps, each ${every}."
    exit
fi

# ---- what is refused ----
mkdir -p "$work/in/a" "$work/in/b"
for i in 1 2 3; do head -c $((i * 1000000)) /dev/urandom >"$work/in/a/$i.bin"; done
echo text >"$work/in/b/t.txt"
expect 2 'collection' agent run "$work/in" --state "$work/st"
expect 2 'bandwidth rule' agent run "$work/in" --state "$work/st" --collection plain --bandwidth fast
expect 2 'pseudonym_key' agent run "$work/in" --state "$work/st" --collection plain --deidentify
expect 3 'no collection' agent run "$work/in" --state "$work/st-n" --collection none --once
expect 7 'checked before they leave' agent run "$work/in" --state "$work/st-none" --collection ct --once --profile none
expect 4 'another society' "$mikura" agent run "$work/in" --state "$work/st" --collection plain --once --as society/other/a1
# a researcher sees the collection and sends nothing: at once, also as a daemon, before a file is looked at
for once in --once ''; do
    expect 4 "sending to 'plain' needs its society's certificate" \
        timeout 20 "$mikura" agent run "$work/in" --state "$work/st" --collection plain $once --as researcher/rin
done
expect 10 'no gateway answers' env MIKURA_ADDRESS=127.0.0.1:9 "$mikura" agent run "$work/in" --state "$work/st" --collection plain --once --patience 1s --as society/jx/a1
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=x -addext 'subjectAltName=URI:mikura://society/jx/agent/a1' \
    -keyout "$work/foreign.key" -out "$work/foreign.crt" 2>/dev/null
expect 5 '' "$mikura" agent run "$work/in" --state "$work/st" --collection plain --once --patience 2s --cert "$work/foreign.crt" --key "$work/foreign.key"
rm -rf "$work/st"

# ---- a daemon: quiet period, new settings while it runs, a second agent ----
cat >"$work/agent.conf" <<C
collection = plain
state = $work/st
watch = $work/in
deid_profile = none
quiet_for = 1s
rescan = 2s
bandwidth = 20KiB/s
C
daemon --config "$work/agent.conf"
waits_for 60 "its start" grep -q '"started"' "$work/daemon"
expect 8 "process" agent run --config "$work/agent.conf" --once
waits_for 60 "an upload" grep -q '"try"' "$work/daemon"
sending() { agent status --state "$work/st" | grep -q "sending    $1: "; }
waits_for 60 "work on case a" sending a # case b may have been first
sleep 1 # 6 MB at 20 KiB/s: it cannot be done yet
if grep -q '"case_id":"a","event":"committed"' "$work/daemon"; then fail "the bandwidth limit does not hold"; fi
expect 0 'sending    a: ' agent status --state "$work/st"
sed -i 's/20KiB.s/unlimited/' "$work/agent.conf"
waits_for 60 "the new settings" grep -q '"event":"settings"' "$work/daemon"
waits_for 60 "both cases" sh -c "[ \$(grep -c '\"committed\"' '$work/daemon') = 2 ]"
mkdir "$work/in/.c" && echo c >"$work/in/.c/c" && mv "$work/in/.c" "$work/in/c"
waits_for 60 "a new case" grep -q '"case_id":"c","event":"committed"' "$work/daemon"
# a file that changes, again and again, while it is looked at and sent: what was true for a second may be published
# (this shell may be held up for so long), the end of it is
as_stored() {
    rm -rf "$work/back"
    rin get plain -o "$work/back" --quiet >/dev/null
    diff -rq "$work/in" "$work/back" >/dev/null
}
for i in $(seq 1 40); do head -c 30000 /dev/urandom >>"$work/in/a/1.bin"; sleep 0.05; done
waits_for 60 "the changed case" as_stored
kill -TERM $daemon
wait $daemon || fail "SIGTERM: exit $?"
as_stored || fail "other bytes than were put"
expect 0 '3 cases committed' agent status --state "$work/st"
expect 0 '3 cases are stored as our receipts say, 0 are not' agent verify --state "$work/st" --collection plain
expect 0 '"bytes_sent":0' once plain st "$work/in" --profile none

# ---- verify finds what is not as it was; a journal that is lost costs no upload ----
rin ls plain/a >/dev/null
op rm plain/a/2.bin --yes >/dev/null
expect 13 "'2.bin' version 1 is gone" agent verify --state "$work/st" --collection plain
r=$(grep -l '"case_id":"b"' "$work"/st/receipts/*.json)
sed -i 's/"size_bytes":5/"size_bytes":6/' "$r"
expect 13 'BAD  b' agent verify --state "$work/st" --collection plain
sed -i 's/"size_bytes":6/"size_bytes":5/' "$r"
cp "$work/st/journal" "$work/journal"
printf X | dd of="$work/st/journal" bs=1 seek=200 conv=notrunc status=none
expect 13 'is damaged at byte' once plain st "$work/in" --profile none
cmp -s <(head -c 200 "$work/journal") <(head -c 200 "$work/st/journal") || fail "a damaged journal was changed"
rm "$work/st/journal"
expect 0 '"bytes_sent":0' once plain st "$work/in" --profile none
touch "$work/in/b/t.txt"
expect 0 '"bytes_sent":0' once plain st "$work/in" --profile none

# ---- a case list with facility, history and labels; a marker ----
mkdir -p "$work/raw/x1" "$work/raw/x2"
echo 1 >"$work/raw/x1/i.txt"
echo 2 >"$work/raw/x2/i.txt"
printf 'case_id,folder,facility,history,labels\nl1,raw/x1,H07,"a, b",polyp;adenoma\n' >"$work/list.csv"
expect 0 '"case_id":"l1","event":"committed"' once plain st-list --list "$work/list.csv" --profile none
rin stat plain/l1 --json >"$work/l1"
[ "$(jq -r .facility "$work/l1")" = H07 ] || fail "$(cat "$work/l1")"
[ "$(jq -r '.document_json | fromjson | .labels[1]' "$work/l1")" = adenoma ] || fail "$(cat "$work/l1")"
expect 0 '"cases_done":0' once plain st-mark "$work/raw" --case-by marker --profile none
: >"$work/raw/x2/_COMPLETE"
daemon "$work/raw" --collection plain --state "$work/st-mark" --case-by marker --profile none --rescan 1s
waits_for 60 "the marked case" grep -q '"case_id":"x2","event":"committed"' "$work/daemon"
kill $daemon
wait $daemon || true
[ "$(rin ls plain/x2 --json | grep -c path)" = 1 ] || fail "the marker was sent"

# ---- de-identification: refuse, tell why, clean, look ----
"$here/../deid_gate/make" "$work/dicom"
mkdir -p "$work/ct/s1" "$work/ct/s2" "$work/ct/s3"
cp "$work/dicom/slice.dcm" "$work/ct/s1"
cp "$work/dicom/slice.dcm" "$work/dicom/shot.dcm" "$work/ct/s2"
head -c 5000 "$work/dicom/slice.dcm" >"$work/ct/s3/cut.dcm"
expect 9 '"event":"aside"' once ct st-ct "$work/ct"
[ "$(events aside .case_id | sort | tr '\n' ' ')" = 's1 s2 s3 ' ] || fail "$(cat "$work/events")"
[ -z "$(rin ls ct)$(agent quarantine ls ct 2>/dev/null)" ] || true
[ "$(events stopped .bytes_sent)" = 0 ] || fail "bytes left the site"
[ "$(cat "$work"/st-ct/quarantine/*/*.json | jq -r 'select(.file == "slice.dcm") | .reasons' | grep -c 'PatientName')" = 2 ] || fail "reasons"
expect 9 'PatientName' agent status --state "$work/st-ct"
expect 9 's2: 0 files staged, 2 held: 2 of 2 files are held, with their reasons in quarantine/; 2 refused (clean them' agent status --state "$work/st-ct"
expect 0 '' op deid key "$work/key"
agent retry --state "$work/st-ct" --quiet
expect 9 '"case_id":"s1","event":"committed"' once ct st-ct "$work/ct" --deidentify --pseudonym-key "$work/key"
[ "$(events aside .case_id | sort | tr '\n' ' ')" = 's2 s3 ' ] || fail "$(cat "$work/events")"
jq -r '.changes[] | .rule + " " + .field + " " + .change' "$work/st-ct/deid-record.json" | grep -q 'identity (0010,0010) PatientName' || fail "no record"
expect 2 '--all' agent retry --looked --state "$work/st-ct"
expect 3 "knows no case 's9'" agent retry s9 --state "$work/st-ct"
expect 7 'looking frees none of them' agent retry s3 --looked --state "$work/st-ct"
[ -z "$(find "$work/st-ct" -type f -perm /077)" ] || fail "others may read: $(find "$work/st-ct" -type f -perm /077)"
# kill -9 between the release and the commit, before and after a step of the journal, again and again: the word is not
# forgotten, and the case is stored once
agent retry s2 --looked --state "$work/st-ct" --quiet
kills=0
for at in 1 -1 1 -1 1 -1 2 -2 2 -2 3 -3; do
    rc=0
    LD_PRELOAD="$MIKURA_BUILD/lib/killer.so" MIKURA_KILL_AT=$at "$mikura" agent run "$work/ct" --collection ct --state "$work/st-ct" \
        --once --json --deidentify --pseudonym-key "$work/key" --as society/jx/a1 >>"$work/released" 2>&1 || rc=$?
    case $rc in 137) kills=$((kills + 1)) ;; 9) break ;; *) fail "killed at $at: exit $rc: $(tail -n 3 "$work/released")" ;; esac
done
[ $kills -ge 4 ] || fail "killed $kills times only: $(tail -n 3 "$work/released")"
expect 9 '"event":"stopped"' once ct st-ct "$work/ct" --deidentify --pseudonym-key "$work/key"
[ "$(rin ls ct/s2 --json | grep -c path)" = 2 ] || fail "s2: $(rin ls ct/s2)"
[ "$(rin stat ct/s2 --json | jq .generation)" = 1 ] || fail "s2 was not published exactly once: $(rin stat ct/s2 --json)"
[ "$(find "$work/st-ct/quarantine" -name '*.json' | wc -l)" = 1 ] || fail "quarantine: $(ls -R "$work/st-ct/quarantine")"
expect 0 '2 cases are stored' agent verify --state "$work/st-ct" --collection ct
if grep -rqE 'YAMADA|P-10017|19610203' "$work/st-ct" "$work/events" "$work/c/logs"; then fail "a value was told, logged or kept"; fi

# ---- a message of a pack that is full to the byte, and only an empty file behind it ----
mkdir -p "$work/full-pack/p"
for i in 1 2; do head -c 524288 /dev/urandom >"$work/full-pack/p/$i"; done
: >"$work/full-pack/p/3"
expect 0 '"case_id":"p","event":"committed"' once plain st-pack "$work/full-pack" --profile none
rin get plain/p -o "$work/back-p" --quiet >/dev/null
diff -r "$work/full-pack/p" "$work/back-p" || fail "a full pack"

# ---- a file that vanishes after it was staged: what is staged is forgotten and sent anew ----
mkdir -p "$work/gone/g"
for i in 1 2 3 4; do head -c 3000000 /dev/urandom >"$work/gone/g/$i"; done
cat >"$work/gone.conf" <<C
collection = plain
state = $work/st-gone
watch = $work/gone
deid_profile = none
quiet_for = 1s
rescan = 1s
parallel = 1
bandwidth = 1MiB/s
C
daemon --config "$work/gone.conf"
waits_for 60 "a pack that is staged" grep -q '"sent"' "$work/daemon"
rm "$work/gone/g/1" # six seconds before the other pack is
sed -i 's/1MiB.s/unlimited/' "$work/gone.conf"
waits_for 60 "its commit" grep -q '"committed"' "$work/daemon"
kill $daemon
wait $daemon || true
expect 0 '1 cases are stored' agent verify --state "$work/st-gone" --collection plain
rin get plain/g -o "$work/back-g" --quiet >/dev/null
[ "$(find "$work/back-g" -type f | wc -l)" = 3 ] || fail "$(find "$work/back-g")"

# ---- SIGTERM while no gateway is there, and while they are silent: the end comes at once, the next run goes on ----
for how in stop silent; do
    mkdir -p "$work/term-$how/t-$how"
    head -c 3000000 /dev/urandom >"$work/term-$how/t-$how/1"
    daemon "$work/term-$how" --collection plain --state "$work/st-$how" --profile none --quiet-for 1s --rescan 1s --patience 20m --bandwidth 100KiB/s
    waits_for 60 "an upload" grep -q '"try"' "$work/daemon"
    for g in gateway-1 gateway-2; do
        if [ $how = stop ]; then cluster kill $g; else kill -STOP "$(cut -d" " -f1 "$work/c/run/$g.pid")"; fi
    done
    sleep 1 # the agent is in the middle of it
    kill -TERM $daemon
    waits_for 100 "the agent's end ($how)" sh -c "! kill -0 $daemon 2>/dev/null"
    wait $daemon || fail "SIGTERM ($how): exit $?"
    for g in gateway-1 gateway-2; do
        if [ $how = stop ]; then cluster start $g; else kill -CONT "$(cut -d" " -f1 "$work/c/run/$g.pid")"; fi
    done
    expect 0 '"event":"stopped"' once plain "st-$how" "$work/term-$how" --profile none
    expect 0 '1 cases are stored' agent verify --state "$work/st-$how" --collection plain
    [ "$(rin stat "plain/t-$how" --json | jq .generation)" = 1 ] || fail "not exactly once ($how)"
done

# ---- the journal's disk is full ----
if unshare -m true 2>/dev/null; then
    mkdir -p "$work/small" "$work/full/f1"
    echo f >"$work/full/f1/f"
    unshare -m bash -c "
        mount -t tmpfs -o size=1m none '$work/small'
        '$mikura' agent run '$work/full' --collection plain --state '$work/small/st' --once --json --profile none --as society/jx/a1 >/dev/null
        mkdir '$work/full/f2'; echo g >'$work/full/f2/f'
        dd if=/dev/zero of='$work/small/fill' bs=4k status=none 2>/dev/null
        # every 4 KiB of the journal that are there already may still be filled
        for i in \$(seq 1 60); do mkdir -p '$work/full/g'\$i; echo \$i >'$work/full/g'\$i/f; done
        '$mikura' agent run '$work/full' --collection plain --state '$work/small/st' --once --json --profile none --as society/jx/a1 >'$work/fullrun' 2>&1 &
        for i in \$(seq 1 600); do grep -q state_full '$work/fullrun' && break; sleep 0.1; done
        rm '$work/small/fill'
        wait \$!" || fail "a full journal: $(tail -n 3 "$work/fullrun")"
    grep -q state_full "$work/fullrun" || fail "a full journal was not told: $(tail -n 3 "$work/fullrun")"
    [ "$(rin ls plain/g60 --json | grep -c path)" = 1 ] || fail "after a full journal"
fi
# ---- the disk of the cleaned copies is full: nothing is sent or lost, the next run goes on ----
if unshare -m true 2>/dev/null; then
    mkdir -p "$work/tiny" "$work/spool/p1"
    cp "$work/dicom/slice.dcm" "$work/spool/p1/1"
    unshare -m bash -c "
        mount -t tmpfs -o size=64k none '$work/tiny'
        run() { '$mikura' agent run '$work/spool' --collection ct --state '$work/tiny/st' --once --json --deidentify --pseudonym-key '$work/key' --as society/jx/a1; }
        dd if=/dev/zero of='$work/tiny/fill' bs=4k count=13 status=none
        run >'$work/tinyrun' 2>&1 && exit 1
        grep -q 'make room' '$work/tinyrun' || exit 1
        rm '$work/tiny/fill'
        run >>'$work/tinyrun' 2>&1" || fail "a full spool: $(tail -n 4 "$work/tinyrun")"
    [ "$(rin stat ct/p1 --json | jq .generation)" = 1 ] || fail "after a full spool"
fi
echo "agent: all as it should be"
