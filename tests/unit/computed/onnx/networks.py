#!/usr/bin/python3
"""Whole networks against numbers made here with numpy, by other code than the engine's.

networks.py BUILD BACKEND...
"""
import os
import sys

try:
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper
except ImportError as e:
    print(f"skipped: {e}")
    sys.exit(77)

sys.path.insert(0, os.path.join(os.environ["MIKURA_SOURCE"], "tests/conformance"))
from runner import Refused, Runner

BUILD, BACKENDS = sys.argv[1], sys.argv[2:]
rng = np.random.default_rng(1)
F = np.float32


def conv(x, w, b, stride=1, pad=0, group=1, dil=1):
    """By patches and one matrix product per group, in float64."""
    x = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    n, c, h, wd = x.shape
    m, cg, kh, kw = w.shape
    oh = (h - dil * (kh - 1) - 1) // stride + 1
    ow = (wd - dil * (kw - 1) - 1) // stride + 1
    out = np.zeros((n, m, oh, ow))
    for i in range(kh):
        for j in range(kw):
            p = x[:, :, i * dil:i * dil + stride * oh:stride, j * dil:j * dil + stride * ow:stride][:, :, :oh, :ow]
            for g in range(group):
                ms = slice(g * m // group, (g + 1) * m // group)
                out[:, ms] += np.einsum("nchw,mc->nmhw", p[:, g * cg:(g + 1) * cg], w[ms, :, i, j].astype(np.float64))
    return out + (0 if b is None else b.reshape(1, -1, 1, 1))


def softmax(x, axis=-1):
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def make(nodes, outs, inits, opset):
    def info(n, r):
        return helper.make_tensor_value_info(n, TensorProto.FLOAT, [f"d{i}" for i in range(r)])

    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, "H", "W"])
    g = helper.make_graph(nodes, "g", [x], [info(n, r) for n, r in outs],
                          [numpy_helper.from_array(v, k) for k, v in inits.items()])
    m = helper.make_model(g, opset_imports=[helper.make_opsetid("", opset)])
    m.ir_version = 8
    return m.SerializeToString()


def classifier(opset):
    """Conv BN Relu MaxPool, depthwise + pointwise with Clip, residual Add, GlobalAveragePool, Gemm, Softmax."""
    r = lambda *s: rng.normal(size=s).astype(F)
    w1, g1, b1, m1, v1 = r(8, 3, 3, 3), r(8), r(8), r(8), np.abs(r(8)) + F(.5)
    w2, w3, c3, wf, bf = r(8, 1, 3, 3), r(8, 8, 1, 1), r(8), r(4, 8), r(4)
    n = helper.make_node
    nodes = [n("Identity", ["w1"], ["w1i"]),
             n("Conv", ["x", "w1i"], ["a"], strides=[2, 2], pads=[1, 1, 1, 1]),
             n("BatchNormalization", ["a", "g1", "b1", "m1", "v1"], ["b"], epsilon=1e-3),
             n("Relu", ["b"], ["c"]),
             n("MaxPool", ["c"], ["d"], kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
             n("Conv", ["d", "w2"], ["e"], group=8, pads=[1, 1, 1, 1]),
             n("Clip", ["e", "lo", "hi"], ["f"]),
             n("Conv", ["f", "w3", "c3"], ["g"]),
             n("Add", ["g", "d"], ["h"]),
             n("Dropout", ["h"], ["h2"]),
             n("GlobalAveragePool", ["h2"], ["i"]),
             n("Reshape", ["i", "shape"], ["j"]),
             n("Gemm", ["j", "wf", "bf"], ["k"], transB=1, alpha=.5),
             n("Softmax", ["k"], ["y"], axis=1)]
    inits = dict(w1=w1, g1=g1, b1=b1, m1=m1, v1=v1, w2=w2, w3=w3, c3=c3, wf=wf, bf=bf, lo=F(0).reshape(()),
                 hi=F(6).reshape(()), shape=np.array([0, -1], np.int64))

    def want(x):
        a = conv(x, w1, None, stride=2, pad=1)
        s = lambda v: v.reshape(1, -1, 1, 1).astype(np.float64)
        c = np.maximum((a - s(m1)) / np.sqrt(s(v1) + 1e-3) * s(g1) + s(b1), 0)
        hh, ww = -(-c.shape[2] // 2), -(-c.shape[3] // 2)
        p = np.full((*c.shape[:2], 2 * hh, 2 * ww), -np.inf)
        p[:, :, :c.shape[2], :c.shape[3]] = c
        d = p.reshape(*c.shape[:2], hh, 2, ww, 2).max((3, 5))
        h = conv(np.clip(conv(d, w2, None, pad=1, group=8), 0, 6), w3, c3) + d
        k = .5 * h.mean((2, 3)) @ wf.T.astype(np.float64) + bf
        return [softmax(k, 1), h]

    return make(nodes, [("y", 2), ("h", 4)], inits, opset), want


def arithmetic():
    """Broadcasts, reductions, concatenation, powers, batched MatMul, casts."""
    n = helper.make_node
    k = rng.normal(size=(9, 5)).astype(F)
    inits = dict(k=k, two=np.array(2, F), eps=np.array([[.5]], F), s=np.array([0, 3, -1, 9], np.int64))
    nodes = [n("Abs", ["x"], ["a"]), n("Add", ["a", "eps"], ["b"]), n("Sqrt", ["b"], ["c"]),
             n("Pow", ["x", "two"], ["p"]), n("Div", ["p", "c"], ["d"]),
             n("ReduceMean", ["d"], ["m"], axes=[-1, 2], keepdims=1), n("Sub", ["d", "m"], ["e"]),
             n("ReduceMax", ["e"], ["mx"], axes=[1], keepdims=1), n("Mul", ["e", "mx"], ["f"]),
             n("Concat", ["f", "mx", "x"], ["g"], axis=1),
             n("Reshape", ["x", "s"], ["r"]), n("MatMul", ["r", "k"], ["h"]), n("Tanh", ["h"], ["t"]),
             n("AveragePool", ["x"], ["v"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
             n("Max", ["x", "m", "two"], ["w"]), n("Cast", ["x"], ["ci"], to=6), n("Cast", ["ci"], ["cf"], to=1)]

    def want(x):
        x = x.astype(np.float64)
        d = x ** 2 / np.sqrt(np.abs(x) + .5)
        m = d.mean((2, 3), keepdims=True)
        e = d - m
        mx = e.max(1, keepdims=True)
        g = np.concatenate([e * mx, mx, x], 1)
        t = np.tanh(x.reshape(x.shape[0], 3, -1, 9) @ k)
        ones = conv(np.ones((1, 1, *x.shape[2:])), np.ones((1, 1, 3, 3)), None, pad=1)
        v = conv(x, np.ones((3, 1, 3, 3)), None, pad=1, group=3) / ones
        return [g, t, v, np.maximum(np.maximum(x, m), 2), np.trunc(x)]

    return make(nodes, [("g", 4), ("t", 4), ("v", 4), ("w", 4), ("cf", 4)], inits, 13), want


def quality():
    """The shipped model's measures, from their description in make_quality.py."""
    with open(os.path.join(os.environ["MIKURA_SOURCE"], "deploy/models/quality.onnx"), "rb") as f:
        data = f.read()

    def want(x):
        y = np.einsum("nchw,c->nhw", x.astype(np.float64), [.299, .587, .114])
        m = np.clip((y - .05) * 40, 0, 1)
        lum = (y * m).mean((1, 2)) / (m.mean((1, 2)) + 1e-3)
        clipped = np.clip((y - .97) * 60, 0, 1)
        sat = clipped.mean((1, 2))
        rest = (((m - clipped) * y).mean((1, 2)) + 1e-3) / ((m - clipped).mean((1, 2)) + 1e-3)
        plain = lost = 0
        for z in (y, y.transpose(0, 2, 1)):
            d = np.abs(z[:, :, 5:-4] - z[:, :, 4:-5])
            b = np.abs(z[:, :, 9:] - z[:, :, :-9]) / 9
            plain = plain + np.maximum(d - .006, 0).mean((1, 2))
            lost = lost + np.maximum(d - .006 - b, 0).mean((1, 2))
        ms = np.stack([lost / (plain + 1e-5), lum, 1 - m.mean((1, 2)), sat, rest, np.clip(plain * 40, 0, 1)], 1)
        z = np.stack([0 * lum, 30 * (.25 - ms[:, 0]), 60 * (.15 - ms[:, 1]), 30 * (ms[:, 3] - .3)], 1)
        slide = z.copy()
        slide[:, 3] = np.minimum(z[:, 3], 60 * (rest - .82))
        return [softmax(z, 1), ms, softmax(slide, 1)]

    return data, want


bad = 0
runners = {b: Runner(BUILD, b) for b in BACKENDS}
for name, (data, want), shape, scale in (
        ("classifier opset 11", classifier(11), (2, 3, 33, 20), 1), ("classifier opset 17", classifier(17), (1, 3, 31, 31), 1),
        ("arithmetic", arithmetic(), (2, 3, 9, 12), 2), ("quality", quality(), (2, 3, 70, 45), 0)):
    x = rng.normal(size=shape).astype(F) * F(scale) if scale else rng.random(shape, dtype=F)
    w = np.concatenate([v.ravel() for v in want(x)])
    for backend, r in runners.items():
        try:
            r.load(data)
            got = np.concatenate([v.ravel() for v in r.run([x])])
        except Refused as e:
            print(f"{name} on {backend}: {e}")
            bad += 1
            continue
        err = np.abs(got - w) / np.maximum(np.abs(w), 1) if got.size == w.size else np.array([np.inf])
        worst = int(np.nanargmax(err)) if not np.isnan(err).any() else -1
        ok = worst >= 0 and err[worst] <= 1e-4
        bad += not ok
        print(f"{name} on {backend}: {got.size} values of {w.size}, worst error {err[worst]:.2g} at {worst}"
              + ("" if ok else "  WRONG"))
bad += sum(r.close() != 0 for r in runners.values())
sys.exit(1 if bad else 0)
