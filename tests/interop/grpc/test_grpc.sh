#!/usr/bin/env bash
# shellcheck disable=SC2154 # $work: tests/cluster/lib/lib.sh
# One echo server over mutual TLS; test_grpc.sh python|js|curl says who tries it.
. "$(dirname "$0")/../../cluster/lib/lib.sh"
. "$(dirname "$0")/../lib.sh"
here=$(cd "$(dirname "$0")" && pwd)
client=$1
pki ca "$work/pki" >/dev/null
pki ca "$work/foreign" >/dev/null
pki node "$work/pki" gateway g1 --address 127.0.0.1 >/dev/null
pki researcher "$work/pki" alice >/dev/null
pki researcher "$work/pki" old --expired >/dev/null
pki researcher "$work/foreign" alice >/dev/null
mkfifo "$work/out"
"$MIKURA_BUILD/bin/echo_server" "$MIKURA_BUILD/gen/proto/mikura.fds" "$work/pki/ca.crt" \
    "$work/pki/gateway-g1.crt" "$work/pki/gateway-g1.key" >"$work/out" &
server=$!
server_end() { # a failed check must not leave the server: CTest waits for whoever holds its pipe
    kill "$server" 2>/dev/null || true
    lib_end
}
trap server_end EXIT
read -r _ port <"$work/out"
[ -n "$port" ] || fail "echo_server did not start"

case $client in
python)
    python_gen "$work/gen"
    /usr/bin/python3 "$here/client.py" "$work/gen" "$work" "$port"
    ;;
js)
    js_modules
    NODE_PATH=$js/node_modules node "$here/client.js" "$MIKURA_SOURCE/proto" "$work" "$port"
    ;;
curl)
    ask=(curl -sS --fail-with-body --cacert "$work/pki/ca.crt" --cert "$work/pki/researcher-alice.crt" --key "$work/pki/researcher-alice.key")
    at="https://127.0.0.1:$port"
    head -c 3000000 /dev/urandom >"$work/body"
    for v in 1.1 2; do
        [ "$("${ask[@]}" --http$v -w ' %{http_version} %{http_code}' "$at/page?a=b")" = "a=b $v 200" ] || fail "GET over HTTP/$v"
        "${ask[@]}" --http$v --data-binary "@$work/body" "$at/page" | cmp - "$work/body" || fail "POST over HTTP/$v"
        [ "$(curl -sS --http$v "${ask[@]:3}" -o /dev/null -w '%{http_code}' "$at/none")" = 404 ] || fail "404 over HTTP/$v"
        [ "$(curl -sS --http$v "${ask[@]:3}" -o /dev/null -w '%{http_code}' -X PUT "$at/page")" = 405 ] || fail "405 over HTTP/$v"
        [ "$(curl -sS --http$v "${ask[@]:3}" -I -o /dev/null -w '%{http_code} %{http_version}' "$at/page?a=b")" = "200 $v" ] || fail "HEAD over HTTP/$v"
        head -c 9000000 /dev/zero >"$work/large"
        # curl 7.88 forgets an HTTP/2 answer when RST_STREAM(NO_ERROR) comes with it, which RFC 9113 section 8.1 allows:
        # often when it sends as fast as it can, and on a busy machine always
        code='' tries=0
        until [ "$code" = 413 ] || [ $tries = 80 ]; do
            slow=()
            [ $((tries % 2)) = 0 ] || slow=(--limit-rate "$((tries * 2))M")
            code=$(curl -sS --http$v "${slow[@]}" "${ask[@]:3}" -o /dev/null -w '%{http_code}' --data-binary "@$work/large" "$at/page" 2>"$work/err" || true)
            tries=$((tries + 1))
        done
        [ "$code" = 413 ] || fail "413 over HTTP/$v: $code, $(cat "$work/err")"
        # eight requests over one connection
        [ "$("${ask[@]}" --http$v "$at/page?[1-8]")" = 12345678 ] || fail "several over one HTTP/$v connection"
        rc=0
        curl -sS --http$v --cacert "$work/pki/ca.crt" "$at/page" >/dev/null 2>&1 || rc=$?
        [ $rc != 0 ] || fail "HTTP/$v without a certificate was served"
    done
    echo "ok curl"
    ;;
*) fail "who?" ;;
esac
kill -TERM "$server"
wait "$server" || fail "echo_server did not end cleanly"
