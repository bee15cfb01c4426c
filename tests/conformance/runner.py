"""Drives model_run (its head says how) for tests that know the right answers."""
import os
import struct
import subprocess

import numpy as np

TYPES = {1: np.float32, 2: np.uint8, 6: np.int32, 7: np.int64, 9: np.bool_}


class Refused(Exception):
    """The engine's own words."""


class Runner:
    def __init__(self, build, backend, precision="fp32"):
        self.p = subprocess.Popen([os.path.join(build, "tests/conformance/model_run"), backend,
                                   os.path.join(build, "bin"), precision],
                                  stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._rc()
        self.text = self._get(self._u32()).decode()

    def close(self):
        self.p.stdin.close()
        return self.p.wait()

    def _get(self, n):
        b = self.p.stdout.read(n)
        if len(b) != n:
            raise RuntimeError(f"model_run ended: exit code {self.p.wait()}")
        return b

    def _u32(self):
        return struct.unpack("<I", self._get(4))[0]

    def _shape(self):
        rank = self._u32()
        return struct.unpack(f"<{rank}q", self._get(8 * rank))

    def _rc(self):
        rc = self._u32()
        if rc:
            raise Refused(self._get(self._u32()).decode())

    def load(self, model):
        """Shapes of the inputs (-1: any)."""
        self.p.stdin.write(b"L" + struct.pack("<Q", len(model)) + model)
        self.p.stdin.flush()
        self._rc()
        shapes = [self._shape() for _ in range(self._u32())]
        self.nodes = self._u32()
        return shapes

    def run(self, inputs):
        self.p.stdin.write(b"R" + struct.pack("<I", len(inputs)))
        for a in inputs:
            a = np.asarray(a, order="C")
            self.p.stdin.write(struct.pack(f"<I{a.ndim}qQ", a.ndim, *a.shape, a.nbytes) + a.tobytes())
        self.p.stdin.flush()
        self._rc()
        outs = []
        for _ in range(self._u32()):
            t = TYPES[self._u32()]
            shape = self._shape()
            n = struct.unpack("<Q", self._get(8))[0]
            outs.append(np.frombuffer(self._get(n), t).reshape(shape))
        return outs

    def on_device(self, n):
        """Seconds of n runs with the last inputs, transfers apart."""
        self.p.stdin.write(b"D" + struct.pack("<I", n))
        self.p.stdin.flush()
        self._rc()
        return struct.unpack("<d", self._get(8))[0]

    def plan(self, shapes):
        """The plan for inputs of these shapes, in words."""
        self.p.stdin.write(b"P" + struct.pack("<I", len(shapes)))
        for d in shapes:
            self.p.stdin.write(struct.pack(f"<I{len(d)}q", len(d), *d))
        self.p.stdin.flush()
        self._rc()
        return self._get(self._u32()).decode()

    def times(self, n):
        """Seconds of n runs with the last inputs, each, and CPU seconds of one."""
        self.p.stdin.write(b"T" + struct.pack("<I", n))
        self.p.stdin.flush()
        self._rc()
        t = struct.unpack(f"<{n + 1}d", self._get(8 * n + 8))
        return t[:n], t[n] / n


def error(got, want):
    """The largest difference, relative to the largest expected value (at least to that of 1e-6)."""
    if got.shape != want.shape:
        return float("inf")
    if want.size == 0:
        return 0.0
    g, w = got.astype(np.float64), want.astype(np.float64)
    nan = np.isnan(w)
    if not np.array_equal(np.isnan(g), nan):
        return float("inf")
    inf = np.isinf(w)
    if not np.array_equal(g[inf], w[inf]):
        return float("inf")
    ok = ~(nan | inf)
    if not ok.any():
        return 0.0
    return float(np.abs(g - w)[ok].max() / max(np.abs(w[ok]).max(), 1e-6))
