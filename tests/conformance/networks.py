#!/usr/bin/python3
"""Whole networks, exported by PyTorch with random weights, against PyTorch's own outputs.

networks.py BUILD BACKEND [--full] [--seed N] [--precision fp32,tf32,fp16,bf16] [--only NAME,...] [--save DIR]

Small variants by default (seconds); --full: the published sizes. Batch and, where the network allows it, height and width
are dynamic; the run uses others than the export did. Prints the largest difference relative to the largest expected
value, which must be at most 1e-4 in fp32 and 3e-2 in bf16 (eight bits of mantissa through fifty layers).
"""
import argparse
import inspect
import io
import sys
import time
import warnings

try:
    import numpy as np
    import torch
    import torchvision.models as tv
    from torch import nn
except ImportError as e:
    print(f"skipped: {e}")
    sys.exit(77)
from runner import Refused, Runner, error


class UNet(nn.Module):
    """Conv, norm, ReLU twice per level; max pooling down, transposed convolution (or resizing) up, skips by concatenation."""

    def __init__(self, dims, width, levels, norm, up="transposed", act=nn.ReLU, channels=1, classes=3):
        super().__init__()
        conv, back = (nn.Conv2d, nn.ConvTranspose2d) if dims == 2 else (nn.Conv3d, nn.ConvTranspose3d)
        self.pool = nn.MaxPool2d(2) if dims == 2 else nn.MaxPool3d(2)
        self.resize = up == "resize"

        def block(i, o):
            return nn.Sequential(conv(i, o, 3, padding=1), norm(o), act(), conv(o, o, 3, padding=1), norm(o), act())

        w = [width << i for i in range(levels)]
        self.down = nn.ModuleList(block(channels if i == 0 else w[i - 1], w[i]) for i in range(levels))
        self.up = nn.ModuleList(conv(w[i + 1], w[i], 1) if self.resize else back(w[i + 1], w[i], 2, 2) for i in range(levels - 1))
        self.join = nn.ModuleList(block(2 * w[i], w[i]) for i in range(levels - 1))
        self.last = conv(w[0], classes, 1)

    def forward(self, x):
        skips = []
        for i, d in enumerate(self.down):
            x = d(x if i == 0 else self.pool(x))
            skips.append(x)
        for i in reversed(range(len(self.up))):
            x = self.up[i](x)
            if self.resize:
                x = nn.functional.interpolate(x, size=skips[i].shape[2:], mode="bilinear", align_corners=False)
            x = self.join[i](torch.cat([skips[i], x], 1))
        return self.last(x)


class AttentionMil(nn.Module):
    """Gated attention over a bag of tile features (Ilse et al. 2018)."""

    def __init__(self, width=64):
        super().__init__()
        self.v, self.u, self.w, self.c = nn.Linear(width, 32), nn.Linear(width, 32), nn.Linear(32, 1), nn.Linear(width, 3)

    def forward(self, x):
        a = torch.softmax(self.w(torch.tanh(self.v(x)) * torch.sigmoid(self.u(x))), 1)
        return self.c((a * x).sum(1)), a


class ConvNeXtBlock(nn.Module):
    def __init__(self, c=24):
        super().__init__()
        self.stem, self.dw, self.norm = nn.Conv2d(3, c, 4, 4), nn.Conv2d(c, c, 7, padding=3, groups=c), nn.LayerNorm(c)
        self.a, self.b, self.scale = nn.Linear(c, 4 * c), nn.Linear(4 * c, c), nn.Parameter(torch.full((c, 1, 1), .3))

    def forward(self, x):
        x = self.stem(x)
        y = self.b(nn.functional.gelu(self.a(self.norm(self.dw(x).permute(0, 2, 3, 1)))))
        return (x + self.scale * y.permute(0, 3, 1, 2)).mean((2, 3))


def small():
    d = {0: "n", 2: "h", 3: "w"}
    v = dict(d) | {4: "d"}
    yield "ResNet-18", tv.resnet18(num_classes=10), (2, 3, 64, 64), (3, 3, 72, 56), d, 13
    yield "ResNet-50 (one block a stage)", tv.resnet.ResNet(tv.resnet.Bottleneck, [1, 1, 1, 1], num_classes=10), (1, 3, 64, 64), (2, 3, 64, 64), d, 11
    yield "DenseNet (2, 2)", tv.DenseNet(8, (2, 2), 16, num_classes=10), (1, 3, 64, 64), (1, 3, 64, 64), d, 12
    yield "EfficientNet-B0", tv.efficientnet_b0(num_classes=10), (1, 3, 64, 64), (2, 3, 64, 64), d, 14
    yield "MobileNetV3", tv.mobilenet_v3_small(num_classes=10), (1, 3, 64, 64), (2, 3, 64, 64), d, 11
    yield "MobileNetV3 opset 15", tv.mobilenet_v3_small(num_classes=10), (1, 3, 64, 64), (1, 3, 64, 64), {0: "n"}, 15
    yield "U-Net 2D", UNet(2, 16, 3, nn.BatchNorm2d), (1, 1, 32, 32), (2, 1, 48, 32), d, 13
    yield "U-Net 2D resized, instance norm", UNet(2, 12, 3, lambda c: nn.InstanceNorm2d(c, affine=True), "resize", nn.LeakyReLU), (1, 1, 32, 32), (1, 1, 44, 36), d, 16
    yield "U-Net 3D", UNet(3, 8, 3, lambda c: nn.InstanceNorm3d(c, affine=True)), (1, 1, 16, 16, 16), (1, 1, 16, 24, 8), v, 13
    yield "ViT (2 layers)", tv.VisionTransformer(32, 8, 2, 4, 64, 128, num_classes=10), (1, 3, 32, 32), (3, 3, 32, 32), {0: "n"}, 14
    yield "ConvNeXt block", ConvNeXtBlock(), (1, 3, 32, 32), (2, 3, 32, 48), d, 16
    yield "attention MIL", AttentionMil(), (1, 20, 64), (2, 31, 64), {0: "n", 1: "t"}, 13


def full():
    d = {0: "n", 2: "h", 3: "w"}
    for name, make, size in (("ResNet-18", tv.resnet18, 224), ("ResNet-50", tv.resnet50, 224), ("DenseNet-121", tv.densenet121, 224),
                             ("EfficientNet-B0", tv.efficientnet_b0, 224), ("MobileNetV3", tv.mobilenet_v3_large, 224)):
        yield name, make(), (1, 3, 64, 64), (1, 3, size, size), d, 13
    yield "U-Net 2D", UNet(2, 32, 5, nn.BatchNorm2d), (1, 1, 64, 64), (1, 1, 256, 256), d, 13
    yield "U-Net 3D", UNet(3, 16, 4, lambda c: nn.InstanceNorm3d(c, affine=True)), (1, 1, 16, 16, 16), (1, 1, 64, 64, 64), d | {4: "d"}, 13
    yield "ViT-B/16", tv.vit_b_16(), (1, 3, 224, 224), (1, 3, 224, 224), {0: "n"}, 14


def prepare(net, seed):
    """Random statistics for the normalisations too: the defaults, 0 and 1, would hide a mix-up."""
    g = torch.Generator().manual_seed(seed)
    for m in net.modules():
        if isinstance(m, nn.modules.batchnorm._BatchNorm):
            m.running_mean.copy_(torch.rand(m.running_mean.shape, generator=g) * .4 - .2)
            m.running_var.copy_(torch.rand(m.running_var.shape, generator=g) + .5)
        if isinstance(m, (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm, nn.LayerNorm)) and m.weight is not None:
            m.weight.data.copy_(torch.rand(m.weight.shape, generator=g) * .4 + .8)
            m.bias.data.copy_(torch.rand(m.bias.shape, generator=g) * .4 - .2)
    for p in net.parameters():
        if not p.any():  # torchvision starts ViT's head at 0: every input would give 0
            p.data.copy_(torch.randn(p.shape, generator=g) * .05)
    return net.eval()


def export(net, shape, axes, opset):
    f = io.BytesIO()
    outs = net(torch.zeros(shape))
    names = [f"y{i}" for i in range(len(outs) if isinstance(outs, tuple) else 1)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # traced shapes: dynamic ones are checked by running at another size
        older = {"dynamo": False} if "dynamo" in inspect.signature(torch.onnx.export).parameters else {}  # as in 1.13
        torch.onnx.export(net, torch.zeros(shape), f, opset_version=opset, input_names=["x"], output_names=names,
                          dynamic_axes={"x": axes} | {n: {0: "n"} for n in names}, **older)
    return f.getvalue()


def wanted(name, only):
    return name.startswith(tuple(only.split(",")))  # "": all


def right(r, what, data, x, want, limit):
    started = time.monotonic()
    try:
        r.load(data)
        got = r.run([x])
    except Refused as e:
        print(f"{what}: refused: {e}")
        return False
    err = max(error(g, w) for g, w in zip(got, want)) if len(got) == len(want) else float("inf")
    print(f"{what} on {r.text}: error {err:.1e}{'' if err <= limit else '  WRONG'} ({time.monotonic() - started:.2f} s)", flush=True)
    return err <= limit


def main():
    a = argparse.ArgumentParser()
    a.add_argument("build")
    a.add_argument("backend")
    a.add_argument("--full", action="store_true")
    a.add_argument("--seed", type=int, default=1)
    a.add_argument("--precision", default="fp32", help="with commas: several")
    a.add_argument("--only", default="", help="names' beginnings, with commas")
    a.add_argument("--save", default="", help="keep the exported models in this folder")
    a = a.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    runners = {p: Runner(a.build, a.backend, p) for p in a.precision.split(",")}
    bad = 0
    for name, net, at, shape, axes, opset in full() if a.full else small():
        if not wanted(name, a.only):
            continue
        prepare(net, a.seed)
        data = export(net, at, axes, opset)
        if a.save:
            with open(f"{a.save}/{name.replace('/', '-').replace(' ', '-')}.onnx", "wb") as f:
                f.write(data)
        x = torch.randn(shape, generator=torch.Generator().manual_seed(a.seed))
        with torch.no_grad():
            want = net(x)
        want = [w.numpy() for w in (want if isinstance(want, tuple) else (want,))]
        for precision, r in runners.items():
            bad += not right(r, f"{name}, opset {opset}, {'x'.join(map(str, shape))}, {precision}", data, x.numpy(), want,
                             1e-4 if precision == "fp32" else 3e-2)
    bad += sum(r.close() != 0 for r in runners.values())
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
