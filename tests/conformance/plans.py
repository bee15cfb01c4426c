#!/usr/bin/python3
"""Plans of the CUDA backend for every network family in every precision, made without a GPU.

plans.py BUILD [--full] [--batch N] [--only NAME,...] [--precisions P,...] [--show]

Lowering, fusion, memory and, by cuDNN's own heuristics for an H100 in words, the engines. What must hold: each convolution
is cuDNN's, with its bias, residual and ReLU in the same call; the products are cuBLASLt's; of the others, kernels of ours.
Prints, per network and precision, how many of each, and the memory. 77: the plugin was not built, or this cuDNN takes no
device in words.
"""
import argparse
import collections
import os
import sys

import networks
from runner import Refused, Runner

a = argparse.ArgumentParser()
a.add_argument("build")
a.add_argument("--full", action="store_true")
a.add_argument("--batch", type=int, default=0)
a.add_argument("--only", default="")
a.add_argument("--precisions", default="fp32,tf32,fp16,bf16")
a.add_argument("--show", action="store_true", help="every step")
a = a.parse_args()
if not os.path.exists(f"{a.build}/bin/computed_cuda.so"):
    print("skipped: computed_cuda.so was not built (no nvcc or cuDNN here)")
    sys.exit(77)
os.environ["ASAN_OPTIONS"] = "detect_leaks=0"  # cuDNN loses 70 KB for each handle that cuBLASLt refuses where there is no GPU
networks.torch.manual_seed(1)
bad = 0
models = []
for name, net, at, shape, axes, opset in networks.full() if a.full else networks.small():
    if networks.wanted(name, a.only):
        networks.prepare(net, 1)
        models.append((name, networks.export(net, at, axes, opset), (a.batch or shape[0], *shape[1:])))
for precision in a.precisions.split(","):
    try:
        r = Runner(a.build, "cuda:plan", precision)
    except Refused as e:
        print(f"skipped: {e}")
        sys.exit(77)
    for name, data, shape in models:
        r.load(data)
        try:
            text = r.plan([shape])
        except Refused as e:
            print(f"{name}, {precision}: REFUSED: {e}")
            bad += 1
            continue
        head, *steps = text.strip().split("\n")
        kinds = collections.Counter()
        for s in steps:
            node, how = s.split(": ", 1)
            if node in ("Conv", "ConvT") and not how.startswith("cudnn") or node == "MatMul" and not how.startswith("cublasLt"):
                kinds[f"{node} by our own kernel"] += 1
            elif how.startswith(("cudnn", "cublasLt")):
                kinds[f"{node} {how.split(' ')[0]}{' compiled' if 'compiled' in how else ''}"] += 1
            else:
                kinds[node if node.split(" ")[0] not in ("Conv", "ConvT", "MatMul") else f"{node} (activation or sum)"] += 1
        print(f"{name}, {precision}, {'x'.join(map(str, shape))}: {head}; " + ", ".join(f"{n} {k}" for k, n in sorted(kinds.items())), flush=True)
        if a.show:
            print("  " + "\n  ".join(steps))
        if any("our own" in k for k in kinds):
            bad += 1
    r.close()
sys.exit(1 if bad else 0)
