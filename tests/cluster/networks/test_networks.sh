#!/usr/bin/env bash
# shellcheck disable=SC2154 # $work: lib.sh
# Any registered network as a job: test_networks.sh [--full] [--images N] [--only NAME] (networks_job.py).
. "$(dirname "$0")/../lib/lib.sh"
need_daemons
/usr/bin/python3 -c 'import torch, torchvision, PIL, pydicom' 2>/dev/null || skip "python3-torch, -torchvision, -pil or -pydicom is not installed (deploy/packages compare)"

# a device that is not here: the worker says so and does not start
if [ ! -e /dev/nvidiactl ]; then
    reason='no CUDA device: '
    [ -e "$MIKURA_BUILD/bin/computed_cuda.so" ] || reason='computed_cuda.so: cannot open'
    expect 1 "$reason" "$MIKURA_BUILD/bin/computed" --probe cuda
fi
expect 0 'cpu (oneDNN' "$MIKURA_BUILD/bin/computed" --probe cpu
expect 1 'cannot open' "$MIKURA_BUILD/bin/computed" --probe none

cluster up --storage 3 --workers 1 >/dev/null
python "$(dirname "$0")/networks_job.py" "$work" "$@"
