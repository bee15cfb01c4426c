#!/usr/bin/env python3
"""ResNet-50 and U-Net 3D on a GPU beside PyTorch eager on the same card, in the same run.

throughput.py BUILD [--seconds S]

Both compute the same exported weights on inputs that lie on the device already; PyTorch in channels-last, after a warm-up,
by its own clock (torch.cuda.synchronize). Prints images a second, the ratio, and the goal; then those with the way to the
card and back, one batch at a time. 77: no PyTorch with CUDA here.
"""
import argparse
import copy
import os
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../conformance"))
try:
    import torch
    import networks
except (ImportError, SystemExit) as e:
    print(f"skipped: {e}")
    sys.exit(77)
from runner import Runner, error

a = argparse.ArgumentParser()
a.add_argument("build")
a.add_argument("--seconds", type=float, default=5)
a = a.parse_args()
if not torch.cuda.is_available():
    print(f"skipped: PyTorch {torch.__version__} sees no CUDA device")
    sys.exit(77)
bad = 0
nets = {name: (net, at, axes, opset) for name, net, at, _, axes, opset in networks.full()}
for name, shape, goal in (("ResNet-50", (256, 3, 224, 224), 1.3), ("U-Net 3D", (8, 1, 64, 64, 64), 1.0)):
    net, at, axes, opset = nets[name]
    networks.prepare(net, 1)
    data = networks.export(net, at, axes, opset)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    for precision, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16)):
        r = Runner(a.build, "cuda", precision)
        r.load(data)
        got = r.run([x.numpy()])[0]
        one = r.on_device(3) / 3
        n = max(3, int(a.seconds / one))
        ours = shape[0] * n / r.on_device(n)
        moved = shape[0] / min(r.times(3)[0])
        r.close()
        form = torch.channels_last_3d if len(shape) == 5 else torch.channels_last
        with torch.inference_mode():
            dev, xd = copy.deepcopy(net).to("cuda", dtype).to(memory_format=form), x.to("cuda", dtype).contiguous(memory_format=form)
            torch.backends.cudnn.benchmark = True
            for _ in range(5):
                want = dev(xd)
            torch.cuda.synchronize()
            started = time.monotonic()
            for _ in range(n):
                dev(xd)
            torch.cuda.synchronize()
            theirs = shape[0] * n / (time.monotonic() - started)
            want = want.float().cpu().numpy()
        del dev, xd
        off = error(got, want)
        bad += off > 5e-2
        print(f"{name}, {'x'.join(map(str, shape))}, {precision}: {ours:.1f} a second, PyTorch {torch.__version__} {theirs:.1f}: {ours / theirs:.2f} times "
              f"(goal {goal}), {moved:.1f} a second with transfers; differs from PyTorch by {off:.1e}{'  WRONG' if off > 5e-2 else ''}", flush=True)
sys.exit(1 if bad else 0)
