#!/usr/bin/env bash
# shellcheck disable=SC2154 # $work: tests/cluster/lib/lib.sh; $js: ../lib.sh
# Both stock clients put, get ranges, query, submit a job and watch it on one running cluster.
. "$(dirname "$0")/../../cluster/lib/lib.sh"
. "$(dirname "$0")/../lib.sh"
here=$(cd "$(dirname "$0")" && pwd)
python_gen "$work/gen"
js_modules
# noise, so that an image is larger than a chunk
/usr/bin/python3 -c 'import os, sys; from PIL import Image
Image.frombytes("RGB", (700, 700), os.urandom(1470000)).save(sys.argv[1])' "$work/image.png"
cluster up --storage 3 --workers 1 >/dev/null
for who in operator/admin researcher/alice society/interoppython/agent-1 society/interopjs/agent-1; do
    env=$(cluster env --as "$who")
done
eval "$env"
what=("$work/c/pki" "$MIKURA_ADDRESS" "$MIKURA_SOURCE/deploy/models/quality.onnx" "$work/image.png")
/usr/bin/python3 "$here/client.py" "$work/gen" "${what[@]}"
NODE_PATH=$js/node_modules node "$here/client.js" "$MIKURA_SOURCE/proto" "${what[@]}"
