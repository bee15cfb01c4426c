#!/usr/bin/env python3
"""A card whose memory is taken by another: a plan that does not fit is refused in words, and the same process goes on.

full_card.py BUILD: PyTorch takes all but 1 GiB; ResNet-50 with a batch of 256 is refused ("out of device memory"), with a
batch of 4 it runs; once PyTorch has given its memory back, 256 run too. 77: no PyTorch with CUDA here.
"""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../conformance"))
try:
    import torch
    import networks
except (ImportError, SystemExit) as e:
    print(f"skipped: {e}")
    sys.exit(77)
from runner import Refused, Runner, error

if not torch.cuda.is_available():
    print(f"skipped: PyTorch {torch.__version__} sees no CUDA device")
    sys.exit(77)
name, net, at, _, axes, opset = next(n for n in networks.full() if n[0] == "ResNet-50")
networks.prepare(net, 1)
data = networks.export(net, at, axes, opset)
x = torch.randn((256, 3, 224, 224), generator=torch.Generator().manual_seed(1))
with torch.no_grad():
    want = net(x[:4]).numpy()
r = Runner(sys.argv[1], "cuda", "fp32")
r.load(data)
small = error(r.run([x[:4].numpy()])[0], want)  # the context, the libraries
free = torch.cuda.mem_get_info()[0]
taken = torch.empty(free - (1 << 30), dtype=torch.uint8, device="cuda")
try:
    r.run([x.numpy()])
    sys.exit("FAILED: a batch of 256 ran in 1 GiB")
except Refused as e:
    print(f"refused with {free - (1 << 30)} of {free} bytes taken: {e}")
    if "memory" not in str(e):
        sys.exit("FAILED: refused for another reason")
full = error(r.run([x[:4].numpy()])[0], want)
del taken
torch.cuda.empty_cache()
big = error(r.run([x.numpy()])[0][:4], want)
print(f"a batch of 4: error {small:.1e}, with the card full {full:.1e}, of 256 after it {big:.1e}")
sys.exit(r.close() or not max(small, full, big) <= 1e-3)
