# tests/interop/lib.sh - what the stock clients need: . it after tests/cluster/lib/lib.sh
# shellcheck shell=bash
# python_gen DIR: the python modules of proto/mikura/v1 and of grpc's health and reflection. Those
# are moved out of the package grpc, which is python3-grpcio's own.
python_gen() {
    /usr/bin/python3 -c 'import grpc, grpc_tools' 2>/dev/null || skip "python3-grpcio or python3-grpc-tools is not installed (deploy/packages test)"
    mkdir -p "$1/src"
    cp -r "$MIKURA_SOURCE/proto/mikura" "$1/src/"
    cp -r "$MIKURA_SOURCE/proto/grpc" "$1/src/grpc_gen"
    (cd "$1/src" && find mikura/v1 grpc_gen/health grpc_gen/reflection/v1 -name '*.proto' -print0 |
        xargs -0 /usr/bin/python3 -m grpc_tools.protoc -I . --python_out="$1" --grpc_python_out="$1")
}
# js_modules: $js is a folder with node_modules as package-lock.json says; installed once a build folder.
js_modules() {
    command -v npm >/dev/null && command -v node >/dev/null || skip "npm or node is not on the PATH (deploy/packages test)"
    local from="$MIKURA_SOURCE/tests/interop/grpc" have
    have=$(sha256sum <"$from/package-lock.json")
    js=$MIKURA_BUILD/interop-js
    exec 8>"$MIKURA_BUILD/interop-js.lock"
    flock 8
    if [ "$(cat "$js/installed" 2>/dev/null)" != "$have" ]; then
        rm -rf "$js"
        mkdir -p "$js"
        cp "$from/package.json" "$from/package-lock.json" "$js/"
        (cd "$js" && npm ci --ignore-scripts --no-audit --no-fund >"$js/npm.log" 2>&1) || {
            cat "$js/npm.log" >&2
            fail "npm ci"
        }
        echo "$have" >"$js/installed"
    fi
    flock -u 8
}
