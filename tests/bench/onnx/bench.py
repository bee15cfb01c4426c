#!/usr/bin/python3
"""See run. Models are those of tests/conformance/networks.py --full, exported once into .build/ort/models."""
import argparse
import json
import os
import statistics
import subprocess
import sys

TOP, MODULES = sys.argv[1], sys.argv[2]
sys.path.insert(0, os.path.join(TOP, "tests/conformance"))
import numpy as np  # noqa: E402
from runner import Runner  # noqa: E402

a = argparse.ArgumentParser()
a.add_argument("--only", default="")
a.add_argument("--seconds", type=float, default=4, help="per network and engine")
a.add_argument("--build", default=os.path.join(TOP, ".build/release"))
a.add_argument("--precision", default="fp32")
a = a.parse_args(sys.argv[3:])
models = os.path.join(TOP, ".build/ort/models")
os.makedirs(models, exist_ok=True)
SHAPES = {"ResNet-18": (1, 3, 224, 224), "ResNet-50": (1, 3, 224, 224), "DenseNet-121": (1, 3, 224, 224),
          "EfficientNet-B0": (1, 3, 224, 224), "MobileNetV3": (1, 3, 224, 224), "U-Net-2D": (1, 1, 256, 256),
          "U-Net-3D": (1, 1, 64, 64, 64), "ViT-B-16": (1, 3, 224, 224)}
missing = [n for n in SHAPES if n.startswith(a.only) and not os.path.exists(os.path.join(models, n + ".onnx"))]
if missing:
    import torch
    import networks
    torch.manual_seed(1)
    for name, net, at, shape, axes, opset in networks.full():
        file = name.replace("/", "-").replace(" ", "-")
        if file in missing:
            with open(os.path.join(models, file + ".onnx"), "wb") as f:
                f.write(networks.export(networks.prepare(net, 1), at, axes, opset))

env = dict(os.environ, OMP_NUM_THREADS="1")
ort = subprocess.Popen(["node", os.path.join(os.path.dirname(os.path.abspath(__file__)), "ort.js"), MODULES], stdin=subprocess.PIPE,
                       stdout=subprocess.PIPE, text=True, env=env)


def ort_times(name, times):
    ort.stdin.write(json.dumps(dict(model=os.path.join(models, name + ".onnx"), shape=SHAPES[name], times=times)) + "\n")
    ort.stdin.flush()
    a = json.loads(ort.stdout.readline())
    return a["seconds"], a["cpu"]


os.environ["OMP_NUM_THREADS"] = "1"
r = Runner(a.build, "cpu", a.precision)
print(f"{r.text}, {a.precision}, one thread, beside ONNX Runtime; milliseconds a run: median of wall time (CPU time, best of four)")
for name, shape in SHAPES.items():
    if not name.startswith(a.only):
        continue
    with open(os.path.join(models, name + ".onnx"), "rb") as f:
        r.load(f.read())
    r.run([np.full(shape, .5, np.float32)])
    ours, theirs, us, them = [], [], [], []
    once = max(min(r.times(2)[0]), min(ort_times(name, 2)[0]))
    n = max(2, int(a.seconds / 4 / once))
    for _ in range(4):  # alternating, so that a slow minute hits both
        for times, wall, cpu in ((r.times, ours, us), (lambda k: ort_times(name, k), theirs, them)):
            t, c = times(n)
            wall += t
            cpu.append(c)
    w = statistics.median(theirs) / statistics.median(ours)
    c = min(them) / min(us)
    print(f"{name:16} ours {statistics.median(ours) * 1e3:8.2f} ({min(us) * 1e3:8.2f})   theirs {statistics.median(theirs) * 1e3:8.2f} "
          f"({min(them) * 1e3:8.2f})   ratio {w:.2f} ({c:.2f}){'' if c >= 1 else '  below 1'}", flush=True)
r.close()
ort.stdin.close()
ort.wait()
