#!/usr/bin/env bash
# shellcheck disable=SC2154 # $work: lib.sh
# What a collection's de-identification profile holds back is invisible to researchers, listed to its society with
# reasons and without values, released only for its pixels; everything else of its case is published.
. "$(dirname "$0")/../lib/lib.sh"
here=$(cd "$(dirname "$0")" && pwd)
cluster up >/dev/null
eval "$(cluster env)"
mikura="$MIKURA_BUILD/bin/mikura"
for who in society/jrs/a1 society/other/a1 researcher/rin; do cluster env --as $who >/dev/null; done
agent() { "$mikura" "$@" --as society/jrs/a1; }
rin() { "$mikura" "$@" --as researcher/rin; }
held() { agent quarantine ls radiology --json | jq -r "select(.object.path == \"$1\") | .reasons | join(\"; \")"; }

"$here/make" "$work/raw"
expect 7 'mikura deid profile' "$mikura" collection create bad --kind radiology --society jrs --deid-profile nonsense
expect 2 'exclude' "$mikura" collection create bad --kind radiology --society jrs --deid-profile radiology --unchecked
"$mikura" collection create radiology --kind radiology --society jrs --deid-profile radiology >/dev/null
"$mikura" collection grant radiology rin >/dev/null

# a named patient's slice, alone in its case: one call that would store and publish
expect 9 '1 quarantined' agent put "$work/raw/slice.dcm" --collection radiology --case raw
expect 3 '' rin get radiology/raw/slice.dcm -o "$work/never"
[ ! -e "$work/never" ] || fail "a researcher read what is held back"
[ -z "$(rin ls -r radiology --json)" ] || fail "a researcher lists it"
[ -z "$(rin query "collection = radiology" --json)" ] || fail "a query finds it"
[[ $(held slice.dcm) == *"identity (0010,0010) PatientName"* ]] || fail "reasons: $(held slice.dcm)"
agent quarantine ls radiology >"$work/list"
"$mikura" quarantine ls radiology >>"$work/list"
grep -q 'to be cleaned at the site' "$work/list" || fail "$(cat "$work/list")"
if grep -rqE 'YAMADA|P-10017|19610203' "$work/list" "$work/c/logs"; then fail "a value was told or logged"; fi
expect 4 '' rin quarantine ls radiology
expect 4 'another society' "$mikura" quarantine ls radiology --as society/other/a1
expect 7 'clean it at the site' agent quarantine release radiology/raw/slice.dcm --object-version 1

# checked before anything is sent: by the same rules, here
expect 2 'PatientName' agent put "$work/raw/slice.dcm" --collection radiology --case local --deid-profile radiology
[ -z "$(agent quarantine ls radiology/local --json 2>/dev/null)" ] || fail "it was sent"

# the same after cleaning, with a screenshot and a file in chunks: the case is published without the screenshot
agent deid key "$work/key"
expect 9 '2 files: 1 accepted (1 after cleaning), 1 quarantined' \
    agent deid clean --profile radiology --pseudonym-key "$work/key" "$work/raw" -o "$work/clean"
[ -s "$work/clean/slice.dcm" ] && [ -s "$work/clean/shot.dcm" ] || fail "nothing was written"
cp "$work/clean/slice.dcm" "$work/clean/again.dcm"
expect 9 '2 stored in 1 cases, 1 refused, 0 failed, 0 quarantined' \
    agent put "$work/clean" --collection radiology --case c0 --deid-profile radiology
expect 9 '2 stored in 1 cases, 0 refused, 0 failed, 1 quarantined' \
    agent put "$work/clean" --collection radiology --case c1 --deid-profile radiology --looked
[ "$(rin ls radiology/c1 --json | grep -c '"path"')" = 2 ] || fail "not two objects: $(rin ls -r radiology)"
rin get radiology/c1/slice.dcm -o - | cmp - "$work/clean/slice.dcm" || fail "came back otherwise"
[[ $(held shot.dcm) == "pixels-unverified (0008,0016) SOPClassUID" ]] || fail "reasons: $(held shot.dcm)"

# a person looked: it is published as the case's next generation
expect 3 'quarantine' agent quarantine release radiology/c1/shot.dcm --object-version 7
expect 0 'generation 2' agent quarantine release radiology/c1/shot.dcm --object-version 1
rin get radiology/c1/shot.dcm -o - | cmp - "$work/clean/shot.dcm" || fail "came back otherwise"
[ -z "$(held shot.dcm)" ] || fail "still held: $(held shot.dcm)"

# an operator removes what is held back
"$mikura" rm radiology/raw/slice.dcm --yes >/dev/null
[ -z "$(held slice.dcm)" ] || fail "still there"

# a name that tells a day; what is no image of a format
cp "$work/clean/slice.dcm" "$work/20260102.dcm"
echo "report of a patient" >"$work/report.txt"
expect 9 '2 quarantined' agent put "$work/20260102.dcm" "$work/report.txt" --collection radiology --case names
[[ $(held 20260102.dcm) == file-name ]] || fail "reasons: $(held 20260102.dcm)"
[[ $(held report.txt) == format ]] || fail "reasons: $(held report.txt)"

# what nobody looked at is deleted when its time is over; what was released or published is not
agent quarantine ls radiology >"$work/list"
[ "$(grep -c 'deleted: 20' "$work/list")" = "$(agent quarantine ls radiology --json | grep -c '"version"')" ] || fail "no expiry: $(cat "$work/list")"
head -c 300000 /dev/urandom | base64 >"$work/large.txt" # has chunks
expect 9 '2 quarantined' agent put "$work/raw/shot.dcm" "$work/large.txt" --collection radiology --case c1
before=$(rin ls -r radiology --json | sort)
printf 'quarantine_ttl = 1s\ncollect_period = 300ms\n' >"$work/c/gateway.extra"
for g in gateway-1 gateway-2; do
    cluster stop $g 2>/dev/null || continue
    cluster start $g
done
for ((i = 0; i < 300; i++)); do
    [ -n "$(agent quarantine ls radiology --json)" ] || break
    sleep 0.1
done
[ -z "$(agent quarantine ls radiology --json)" ] || fail "it does not expire: $(agent quarantine ls radiology)"
[ "$(rin ls -r radiology --json | sort)" = "$before" ] || fail "expiry took what is published: $(rin ls -r radiology)"
rin get radiology/c1/shot.dcm -o - | cmp - "$work/clean/shot.dcm" || fail "the released one is not as it was"
grep -h quarantine_expired "$work"/c/logs/* | grep -q 'collection=radiology versions=' || fail "no word of it in the log"
expect 3 '' agent quarantine release radiology/names/report.txt --object-version 1
# its bytes go too, as after any deletion
for ((i = 0; i < 100; i++)); do
    ! grep -q ' swept bodies=' "$work"/c/logs/gateway* || break
    sleep 0.1
done
grep -hq ' swept bodies=' "$work"/c/logs/gateway* || fail "nothing was swept"
echo "deid_gate: all as it should be"
