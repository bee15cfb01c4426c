#!/usr/bin/env bash
# shellcheck disable=SC2154 # $work: lib.sh
# DICOM series, a file a slice, as volumes; masks as results (series_job.py).
. "$(dirname "$0")/../lib/lib.sh"
need_daemons
/usr/bin/python3 -c 'import torch, torchvision, PIL, pydicom, nibabel' 2>/dev/null || skip "python3-torch, -torchvision, -pil, -pydicom or -nibabel is not installed (deploy/packages compare)"
cluster up --storage 3 --workers 1 >/dev/null
python "$(dirname "$0")/series_job.py" "$work"
