#!/usr/bin/env bash
# shellcheck disable=SC2154 # $work: lib.sh
# deploy/pki: names, key modes, nothing overwritten, refusals that say what to do.
. "$(dirname "$0")/../lib/lib.sh"
p=$work/pki
expect 1 'no such directory' pki node "$p" gateway g1 --address 127.0.0.1
expect 0 'made' pki ca "$p"
before=$(sha256sum "$p/ca.key" "$p/ca.crt")
expect 0 'kept' pki ca "$p"
[ "$before" = "$(sha256sum "$p/ca.key" "$p/ca.crt")" ] || fail "the CA was made anew"
expect 2 'neither an IP' pki node "$p" gateway g1 --address 'a b'
expect 2 '--address is needed' pki node "$p" gateway g1
expect 2 "name 'G1'" pki node "$p" gateway G1 --address 127.0.0.1
expect 2 "name '../x'" pki operator "$p" ../x
expect 2 'takes no --address' pki operator "$p" op --address 127.0.0.1
expect 2 "node kind 'etcd'" pki node "$p" etcd e1 --address 127.0.0.1
expect 0 'made' pki node "$p" gateway g1 --address 127.0.0.1 --address ::1 --address gw.example
before=$(sha256sum "$p/gateway-g1.key")
expect 1 'with other names' pki node "$p" gateway g1 --address 127.0.0.2
[ "$before" = "$(sha256sum "$p/gateway-g1.key")" ] || fail "a key was overwritten"
expect 0 'made' pki node "$p" gateway g1 --address 127.0.0.2 --force
[ "$before" != "$(sha256sum "$p/gateway-g1.key")" ] || fail "--force kept the key"
expect 0 'made' pki society "$p" jsp agent1
expect 0 'made' pki researcher "$p" alice
expect 0 'made' pki operator "$p" late --expired
expect 1 'is expired' pki operator "$p" late
expect 0 'made' pki etcd "$p" e1 --address 127.0.0.1
while read -r f; do
    [ "$(stat -c %a "$f")" = 600 ] || fail "$f has mode $(stat -c %a "$f")"
done < <(find "$p" -name '*.key')
uri() { openssl x509 -in "$p/$1.crt" -noout -ext subjectAltName | grep -o 'URI:[^,]*' || true; }
[ "$(uri society-jsp-agent1)" = URI:mikura://society/jsp/agent/agent1 ] || fail "society: $(uri society-jsp-agent1)"
[ "$(uri researcher-alice)" = URI:mikura://researcher/alice ] || fail "researcher"
[ "$(uri gateway-g1)" = URI:mikura://node/gateway/g1 ] || fail "node"
[ -z "$(uri etcd-e1)" ] || fail "an etcd member passes as $(uri etcd-e1)"
for f in researcher-alice gateway-g1; do
    openssl verify -CAfile "$p/ca.crt" -purpose sslclient "$p/$f.crt" >/dev/null || fail "$f does not verify"
done
openssl verify -CAfile "$p/ca.crt" -purpose sslserver "$p/gateway-g1.crt" >/dev/null || fail "gateway as server"
! openssl verify -CAfile "$p/ca.crt" -purpose sslserver "$p/researcher-alice.crt" >/dev/null 2>&1 || fail "a researcher passes as a server"
expect 0 'expired' pki show "$p"
pki ca "$work/other" >/dev/null
cp "$work/other/ca.crt" "$p/ca.crt"
expect 1 'is not of the CA' pki researcher "$p" alice
expect 0 'foreign' pki show "$p"
echo "pki: all as it should be"
