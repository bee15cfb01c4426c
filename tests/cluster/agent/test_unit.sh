#!/usr/bin/env bash
# shellcheck disable=SC2154 # $work: lib.sh
# deploy/systemd: the agent's unit is one to systemd, and its ExecStart runs a whole case under the unit's own restrictions.
. "$(dirname "$0")/../lib/lib.sh"
here=$(cd "$(dirname "$0")" && pwd) unit=$MIKURA_SOURCE/deploy/systemd/mikura-agent@.service
need_daemons
unshare -m true 2>/dev/null || skip "no mount namespaces here: needs root"

# ---- systemd reads it without a word ----
command -v systemd-analyze >/dev/null || fail "systemd-analyze is missing (deploy/packages test)"
mkdir "$work/units"
sed "s|^ExecStart=/usr/bin/|ExecStart=$MIKURA_BUILD/bin/|" "$unit" >"$work/units/mikura-agent@endoscopy.service"
said=$(systemd-analyze verify "$work/units/mikura-agent@endoscopy.service" 2>&1) || fail "systemd-analyze: $said"
if grep -q mikura-agent <<<"$said"; then fail "systemd-analyze: $said"; fi

# ---- what the unit's first lines tell an administrator to make ----
cluster up --storage 3 --gateways 1 --workers 0 >/dev/null
eval "$(cluster env)"
mikura="$MIKURA_BUILD/bin/mikura"
for who in society/jx/a1 researcher/rin; do cluster env --as $who >/dev/null; done
"$mikura" collection create ct --society jx --kind radiology --deid-profile radiology >/dev/null
"$mikura" collection grant ct rin >/dev/null
mkdir "$work/etc" "$work/state" "$work/out" "$work/make"
cp "$work/c/pki/ca.crt" "$work/c/pki/society-jx-a1.crt" "$work/c/pki/society-jx-a1.key" "$work/etc/"
printf '%s\n' "address = $MIKURA_ADDRESS" 'ca = ca.crt' 'cert = society-jx-a1.crt' 'key = society-jx-a1.key' >"$work/etc/profile"
"$mikura" deid key "$work/etc/pseudonym.key" >/dev/null
sed -e 's|^collection = .*|collection = ct|; s|^state = .*|state = /var/lib/mikura-agent/ct|; s|^watch = .*|watch = /srv|' \
    -e 's|^quiet_for = .*|quiet_for = 1s\nrescan = 1s|; s|^# *deidentify|deidentify|; s|^# *pseudonym_key|pseudonym_key|' \
    -e 's|^bandwidth = .*|bandwidth = mon-sun 00:00-24:00 50MiB/s|' "$MIKURA_SOURCE/deploy/systemd/agent.conf" >"$work/etc/agent-ct.conf"
chmod -R go+rX "$work/etc" "$work/out" "$work"
chown -R 64999:64999 "$work/etc" # its user alone reads the key

# ---- the unit's ExecStart, under its restrictions ----
start() {
    unshare -m /usr/bin/python3 "$here/unit.py" "$unit" ct "$MIKURA_BUILD/bin/mikura" "$work/etc" "$work/state" "$work/out" \
        >>"$work/daemon" 2>&1 &
    daemon=$!
}
end() {
    local rc=$?
    [ -z "${daemon:-}" ] || kill "$daemon" 2>/dev/null || true
    if [ $rc = 0 ]; then lib_end; else (exit $rc) || lib_end; fi
}
trap end EXIT
waits_for() { # SECONDS WHAT COMMAND...
    local i n=$1 what=$2
    shift 2
    for ((i = 0; i < n * 10; i++)); do "$@" && return; sleep 0.1; done
    fail "not within $n s: $what: $(tail -n 5 "$work/daemon")"
}
"$here/../deid_gate/make" "$work/make"
start
waits_for 30 "its start" grep -q '"started"' "$work/daemon"
mkdir "$work/out/.s1" && cp "$work/make/slice.dcm" "$work/out/.s1/" && mv "$work/out/.s1" "$work/out/s1"
waits_for 30 "a case, checked and cleaned by its locked-in child" grep -q '"case_id":"s1","event":"committed"' "$work/daemon"
grep -E '^(NoNewPrivs|Seccomp|CapBnd|Uid):' "/proc/$daemon/status" | tr -s '\t ' ' ' >"$work/status"
printf '%s\n' 'Uid: 64999 64999 64999 64999' 'CapBnd: 0000000000000000' 'NoNewPrivs: 1' 'Seccomp: 2' | cmp -s - "$work/status" ||
    fail "it does not run as its unit says: $(cat "$work/status")"
[ "$(stat -c '%a %u' "$work/state" "$work/state/ct/journal" | tr '\n' ' ')" = '700 64999 600 64999 ' ] ||
    fail "the state folder: $(ls -la "$work/state" "$work/state/ct")"
# a reload, and systemd's stop; the next start goes on
sed -i 's|50MiB/s|60MiB/s|' "$work/etc/agent-ct.conf"
kill -HUP "$daemon"
waits_for 20 "the new settings" grep -q '"bandwidth":"mon-sun 00:00-24:00 60MiB/s"' "$work/daemon"
kill -TERM "$daemon"
wait "$daemon" || fail "SIGTERM: exit $?"
mkdir "$work/out/.s2" && cp "$work/make/slice.dcm" "$work/out/.s2/" && mv "$work/out/.s2" "$work/out/s2"
start
waits_for 30 "a case after a restart" grep -q '"case_id":"s2","event":"committed"' "$work/daemon"
[ "$(grep -c '"committed"' "$work/daemon")" = 2 ] || fail "committed twice"
kill -TERM "$daemon"
wait "$daemon" || fail "SIGTERM: exit $?"
daemon=
echo "unit: all as it should be"
