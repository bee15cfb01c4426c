#!/usr/bin/env bash
# shellcheck disable=SC2154 # $work: lib.sh
# What a user types: every command of `mikura` against a cluster of two gateways, three etcd members, three
# zones and two disks a node; its JSON, help, profile, completion, progress bars and exit codes.
. "$(dirname "$0")/../lib/lib.sh"
need_daemons
command -v jq >/dev/null || skip "jq is not installed (deploy/packages test)"
mikura=$MIKURA_BUILD/bin/mikura
cluster up --storage 3 --gateways 2 --etcd 3 --workers 1 --domains z1/r1,z2/r1,z3/r2 --disks 2
expect 0 '' cluster status
base=$(sed -n 's/^port-base=//p' "$work/c/cluster.conf")
expect 1 "port $base for gateway-1 is taken by $MIKURA_BUILD/bin/gateway" \
    "$MIKURA_SOURCE/deploy/cluster" up --dir "$work/d" --only gateway --build "$MIKURA_BUILD" --port-base "$base"
expect 2 "--domains 'z1'" "$MIKURA_SOURCE/deploy/cluster" up --dir "$work/e" --domains z1
for who in society/soc/a1 researcher/sato researcher/other; do cluster env --as $who >/dev/null; done

# ---- the profile: files beside it; the environment wins; options win over both ----
export HOME=$work/home
mkdir -p "$HOME/.config/mikura"
cp "$work"/c/pki/*.crt "$work"/c/pki/*.key "$HOME/.config/mikura/"
printf '# mine\naddress = 127.0.0.1:%d,127.0.0.1:%d\nca = ca.crt\ncert = operator-admin.crt\nkey = operator-admin.key\n' \
    "$base" $((base + 1)) >"$HOME/.config/mikura/profile"
expect 0 'health    ok' "$mikura" status
expect 0 'serves' "$mikura" health
[ "$("$mikura" health | grep -c serves)" = 2 ] || fail "health does not ask both gateways"
expect 10 '127.0.0.1:1' env MIKURA_ADDRESS=127.0.0.1:1 "$mikura" status --patience 1s
expect 0 'health' env MIKURA_ADDRESS=127.0.0.1:1 "$mikura" status --address "127.0.0.1:$base"
echo 'adress = x' >"$work/profile"
expect 2 'line 1' "$mikura" status --profile "$work/profile"
expect 2 'line 1' env MIKURA_PROFILE="$work/profile" "$mikura" status
expect 3 '/none' "$mikura" status --profile "$work/none"

# ---- every command ----
"$mikura" --help >"$work/help"
mapfile -t commands < <(sed -n '/^  [a-z]/{s/^  \([a-z]\+\( [a-z]\+\)\?\)  .*/\1/p}' "$work/help" | sed '/^mikura/d')
[ ${#commands[@]} -ge 28 ] || fail "only ${#commands[@]} commands in the help"
for c in "${commands[@]}"; do
    # shellcheck disable=SC2086
    expect 0 'example' "$mikura" $c --help
done
json() { # COMMAND...: exit 0, and each line of stdout is a JSON object
    "$mikura" "$@" --json >"$work/json" 2>"$work/err" || fail "exit $?: mikura $* --json: $(cat "$work/err")"
    jq -es 'all(type == "object")' "$work/json" >/dev/null || fail "no JSON objects: mikura $*: $(head -c 300 "$work/json")"
    used+=("$1 ${2:-}")
}
has() { jq -es "$1" "$work/json" >/dev/null || fail "not so: $1: $(head -c 600 "$work/json")"; }
used=()
agent=(--as society/soc/a1) sato=(--as researcher/sato)
json collection create eye --kind ophthalmology --society soc --unchecked
json collection grant eye sato
json collection ls; has 'map(.name) == ["eye"]'
json collection show eye; has '.[0].grants[0].subject == "mikura://researcher/sato"'
"$MIKURA_SOURCE/deploy/samples/make" "$work/samples" >/dev/null
json put "$work/samples/ophthalmology" --collection eye "${agent[@]}"
has '.[-1] | .type == "summary" and .stored == .files and .refused == 0'
head -c 200000 /dev/urandom >"$work/big"
json put - --collection eye --case piped --path big.bin "${agent[@]}" <"$work/big"; has '.[-1].size_bytes == 200000'
cat "$work/big" | "$mikura" put - --collection eye --case piped2 --path big.bin "${agent[@]}" >/dev/null || fail "put from a pipe"
json ls eye "${sato[@]}"
json ls -r eye "${sato[@]}"; has 'map(select(.object.path == "big.bin")) | length == 2'
json stat eye/piped/big.bin "${sato[@]}"; has '.[0].size_bytes == 200000'
"$mikura" get eye/piped2/big.bin -o - --offset 1000 --length 3000 "${sato[@]}" | cmp - <(tail -c +1001 "$work/big" | head -c 3000) || fail "a range"
json get eye -o "$work/got" "${sato[@]}"
cmp "$work/big" "$work/got/piped/big.bin" || fail "get of a collection: $(find "$work/got" -type f)"
json query 'collection = eye and image.width > 0' "${sato[@]}"; has 'length > 0'
json model add "$MIKURA_SOURCE/deploy/models/quality.onnx" --name quality
json model ls; has '.[0].name == "quality"'
json job submit 'collection = eye' --model quality --watch "${sato[@]}"
json job ls "${sato[@]}"; job=$(jq -r .id "$work/json" | head -n 1)
json job show "$job" "${sato[@]}"; has '.[0].items_done > 0'
json job watch "$job" "${sato[@]}"
json job results "$job" "${sato[@]}"
"$mikura" job results "$job" --format csv --quiet "${sato[@]}" >"$work/csv" || fail "results as CSV"
/usr/bin/python3 -c 'import csv, sys; r = list(csv.reader(open(sys.argv[1]))); assert len(r) > 2 and len({len(x) for x in r}) == 1, r' "$work/csv" || fail "the CSV"
json job rm "$job" "${sato[@]}"; has 'length == 1'
json job submit 'collection = eye' --model quality "${sato[@]}"; job=$(jq -r .id "$work/json")
json job cancel "$job" "${sato[@]}"
json node ls; has 'map(select(.kind == "storaged")) | length == 3 and (map(.zone) | sort) == ["z1", "z2", "z3"] and all(.disks | length == 2)'
jq -s '[.[] | select(.kind == "storaged") | .name as $n | .disks[] | {key: .id, value: $n}] | from_entries' "$work/json" >"$work/disks"
json group ls
jq -es --slurpfile of "$work/disks" 'length > 0 and all(.in_sync_disks | map($of[0][.]) | unique | length == 3)' "$work/json" >/dev/null ||
    fail "a group with two copies in one zone: $(jq -c .in_sync_disks "$work/json" | head -n 3)"
expect 7 '--narrower' "$mikura" node drain storaged-2 # the last one of its zone
json node drain storaged-2 --dry-run --narrower; has '.[0] | .copies > 0 and (.applied | not) and (.nodes | length) == 3'
json admin recover-config --dry-run; has '.[0].groups_there == .[0].groups and .[0].groups_refused == 0'
json node add storaged-1; has '.[0].applied and .[0].copies == 0'
json key create "$work/new.key"
json key export "$work/new.key" "$work/copy.key"
[ "$(stat -c %a "$work/copy.key")" = 400 ] || fail "the copy's mode"
json key status
json status; has '.[0].health == "HEALTH_OK" and .[0].unchecked_collections == ["eye"]'
json health; has 'length == 2 and all(.serving)'
json receipt keys "${agent[@]}"
"$mikura" put "$work/big" --collection eye --receipts "$work/receipts" "${agent[@]}" >/dev/null
json receipt verify "$work/receipts" "${agent[@]}"; has 'length == 1 and .[0].valid'
json quarantine ls eye "${agent[@]}"; has 'length == 0'
json rm eye/piped/big.bin --yes
"$mikura" completion bash >"$work/completion" || fail "completion"
used+=("completion ")
for c in "${commands[@]}"; do
    case $c in deid* | agent* | quarantine\ release) continue ;; esac # tests/deid, tests/cluster/deid_gate
    case $c in node\ undrain | node\ remove | node\ replace) continue ;; esac # tests/cluster/operate
    printf '%s\n' "${used[@]}" >"$work/used"
    grep -qE "^$c( |\$)" "$work/used" || fail "no test of mikura $c"
done
expect 0 "mikura 0." "$mikura" --version

# ---- completion, as bash calls it ----
complete_() { # WORD...: what is offered for the last one
    bash -c '. "$1"; shift; COMP_WORDS=(mikura "$@"); COMP_CWORD=$#; _mikura 2>/dev/null; echo "${COMPREPLY[*]}"' _ "$work/completion" "$@"
}
[ "$(complete_ job s)" = 'submit show' ] || fail "completion of 'job s': $(complete_ job s)"
[ "$(complete_ put --rec)" = --receipts ] || fail "completion of an option: $(complete_ put --rec)"

# ---- progress bars on a terminal, and only there ----
script -qec "$mikura put $work/samples/endoscopy --collection eye --case bars --as society/soc/a1" /dev/null </dev/null >"$work/terminal" || fail "put on a terminal: $(cat "$work/terminal")"
grep -q '%' "$work/terminal" || fail "no progress bar on a terminal: $(cat -v "$work/terminal")"
"$mikura" put "$work/samples/endoscopy" --collection eye --case nobars "${agent[@]}" >"$work/out" 2>&1
! grep -q $'\r' "$work/out" || fail "a progress bar in a file"

# ---- exit codes that tests/cluster/bad_input does not meet ----
expect 6 'mikura collection show' "$mikura" collection create eye --society else --unchecked
expect 7 'unchecked' "$mikura" collection create other --society soc
expect 14 'cancelled' "$mikura" job watch "$job" "${sato[@]}"
sed -i 's/"size_bytes":200000/"size_bytes":200001/' "$work/receipts"
expect 13 'BAD' "$mikura" receipt verify "$work/receipts" "${agent[@]}"
expect 5 'CA' "$mikura" ls --ca "$work/c/pki/operator-admin.crt"
"$mikura" ls nope --json 2>"$work/err" >/dev/null && fail "ls of nothing"
jq -e '.error | .code == "RC_NOTFOUND" and .grpc_status == 5 and (.message | length > 5)' "$work/err" >/dev/null || fail "an error as JSON: $(cat "$work/err")"

# ---- one of three etcd members and one of two gateways away: all goes on ----
cluster kill etcd-1
cluster kill gateway-1
"$mikura" put "$work/big" --collection eye --case lone "${agent[@]}" >/dev/null || fail "a put without etcd-1 and gateway-1"
"$mikura" get eye/lone/big -o - "${sato[@]}" | cmp - "$work/big" || fail "a get without etcd-1 and gateway-1"
expect 15 'DOES NOT SERVE' "$mikura" health
cluster start gateway-1
cluster start etcd-1
expect 0 '' "$mikura" health
cluster kill storaged-2
degraded() { local rc=0; "$mikura" status >"$work/out" 2>&1 || rc=$?; [ $rc = 15 ] && grep -q degraded "$work/out"; }
for ((i = 0; i < 150; i++)); do ! degraded || break; sleep 0.1; done
[ $i -lt 150 ] || fail "status with a storage node dead: $(cat "$work/out")"
echo "cli: ${#commands[@]} commands"
