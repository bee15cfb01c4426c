#!/usr/bin/python3
"""Networks made by PyTorch as jobs of a cluster, against PyTorch on the same pictures.

networks_job.py WORK [--full] [--images N] [--only NAME]

Pictures (PNG, colour and grey, of many sizes) and volumes (TIFF of many pages, DICOM of many frames) are made here, so
their pixels are known; the pre-processing that the job states (size, crop, mean, standard deviation) is done a second time
with numpy. Then, for each network: registered, submitted with --device cpu and any (gpu is refused: there is none), results
compared item by item. With --full the published sizes of all families.

Without --full a worker joins whose plugin `cuda` is the CUDA backend's plans run on the host (it says so in each result):
jobs for a GPU go to it alone, those for a CPU never, those for any to both; with --full it would take hours.
"""
import argparse
import json
import os
import re
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.environ["MIKURA_SOURCE"], "tests/conformance"))
import numpy as np
import pydicom
import torch
from PIL import Image

import networks

SMALL = ("MobileNetV3 opset 15", "U-Net 2D", "U-Net 3D")  # on every kind of device
ONCE = ("ResNet-18", "DenseNet (2, 2)", "EfficientNet-B0", "ViT (2 layers)")  # a job each
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
work = sys.argv[1]
mikura = os.path.join(os.environ["MIKURA_BUILD"], "bin/mikura")


def cluster_env(who):
    out = subprocess.run([os.path.join(os.environ["MIKURA_SOURCE"], "deploy/cluster"), "env", "--dir", f"{work}/c", "--as", who],
                         check=True, stdout=subprocess.PIPE, text=True).stdout
    lines = dict(line.removeprefix("export ").split("=", 1) for line in out.split("\n") if "=" in line and not line.startswith("#"))
    return {k: v.strip("'\"") for k, v in lines.items()}


def run(who, *args, code=0):
    p = subprocess.run([mikura, *args], env=dict(os.environ, **cluster_env(who)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if p.returncode != code:
        sys.exit(f"FAILED: exit {p.returncode}, not {code}: mikura {' '.join(args)}: {p.stdout[-500:]} {p.stderr[-500:]}")
    return p.stdout + (p.stderr if code else "")


def lines(text):
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


# ---- pictures ----
def scene(rng, h, w, channels):
    """Smooth ground, a few bright discs, some noise."""
    y, x = np.mgrid[0:h, 0:w]
    v = np.full((h, w, channels), 60.0) + 60 * (x / w)[..., None] * rng.random(channels)
    for _ in range(5):
        cy, cx, r = rng.random() * h, rng.random() * w, (0.05 + 0.2 * rng.random()) * min(h, w)
        v += 90 * rng.random(channels) * (((x - cx) ** 2 + (y - cy) ** 2) < r * r)[..., None]
    return np.clip(v + rng.normal(0, 4, v.shape), 0, 255).astype(np.uint8)


def pictures_make(rng, n):
    os.makedirs(f"{work}/pictures")
    out = {}
    for i in range(n):
        a = scene(rng, int(rng.integers(150, 420)), int(rng.integers(150, 420)), 1 if i % 3 == 2 else 3)
        name = f"p{i:03}.png"
        Image.fromarray(a[..., 0] if a.shape[2] == 1 else a).save(f"{work}/pictures/{name}")
        out[name] = a[None]
    return out


def volumes_make(rng, n):
    os.makedirs(f"{work}/volumes")
    out = {}
    for i in range(n):
        d, h, w = (int(rng.integers(a, b)) for a, b in ((5, 40), (30, 70), (30, 70)))
        a = np.stack([scene(rng, h, w, 1) for _ in range(d)])
        name = f"v{i:03}.{'dcm' if i % 2 else 'tif'}"
        if i % 2:
            dicom_write(f"{work}/volumes/{name}", a[..., 0])
        else:
            pages = [Image.fromarray(p[..., 0]) for p in a]
            pages[0].save(f"{work}/volumes/{name}", save_all=True, append_images=pages[1:])
        out[name] = a
    return out


def dicom_write(path, a):
    """A multi-frame secondary capture of 8 bits."""
    d = pydicom.dataset.FileDataset(path, {}, preamble=bytes(128))
    d.file_meta = pydicom.dataset.FileMetaDataset()
    d.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    d.SOPClassUID = d.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7.2"
    d.SOPInstanceUID = d.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    d.is_little_endian, d.is_implicit_VR = True, False
    d.Modality, d.PhotometricInterpretation, d.SamplesPerPixel = "OT", "MONOCHROME2", 1
    d.NumberOfFrames, d.Rows, d.Columns = a.shape
    d.BitsAllocated, d.BitsStored, d.HighBit, d.PixelRepresentation = 8, 8, 7, 0
    d.PixelData = a.tobytes() + bytes(a.size % 2)
    d.save_as(path, write_like_original=False)


# ---- pre-processing, once more ----
def taps(lo, hi, n, out):
    step = (hi - lo) / out
    half = max(step, 1.0)
    at = lo + (np.arange(out) + 0.5) * step
    w = np.maximum(1 - np.abs(np.arange(n)[None] + 0.5 - at[:, None]) / half, 0)
    return w / w.sum(1, keepdims=True)


def prepare(a, channels, size, crop):
    """[frames, h, w, c] uint8 to [1, channels, (d), h, w], as common/model/job_params.h says."""
    if len(size) == 3:
        d = size[0]
        a = a[[((2 * i + 1) * len(a)) // (2 * d) for i in range(d)]]
    else:
        a = a[len(a) // 2][None]
    v = a.astype(np.float64)
    if channels == 1 and v.shape[3] == 3:
        v = v @ np.array([[0.299], [0.587], [0.114]])
    if channels == 3 and v.shape[3] == 1:
        v = np.repeat(v, 3, 3)
    h, w = v.shape[1:3]
    oh, ow = size[-2:]
    wy, wx = (0, h), (0, w)
    if crop:
        k = min(w / ow, h / oh) * crop
        wy, wx = ((h - k * oh) / 2, (h + k * oh) / 2), ((w - k * ow) / 2, (w + k * ow) / 2)
    v = np.einsum("oh,dhwc->dowc", taps(*wy, h, oh), v)
    v = np.einsum("ow,dhwc->dhoc", taps(*wx, w, ow), v) / 255
    v = (v - np.array(MEAN if channels == 3 else (0.5,))) / np.array(STD if channels == 3 else (0.25,))
    v = v.transpose(3, 0, 1, 2)[None].astype(np.float32)
    return v if len(size) == 3 else v[:, :, 0]


# ---- a job ----
def submit(kind, model, collection, params, device, precision="fp32"):
    args = ["job", "submit", f"collection = {collection}", "--model", model, "--kind", kind, "--device", device, "--json"]
    for p in params + [f"precision={precision}"]:
        args += ["--param", p]
    job = lines(run("researcher/rin", *args))[0]["id"]
    run("researcher/rin", "job", "watch", job, "--json")
    shown = lines(run("researcher/rin", "job", "show", job, "--json"))[0]
    assert shown["device"] == f"DEVICE_{device.upper()}", shown
    return [x for x in lines(run("researcher/rin", "job", "results", job, "--json")) if "label" in x and "object" in x]


def refused(model, collection, kind, device, reason):
    said = run("researcher/rin", "job", "submit", f"collection = {collection}", "--model", model, "--kind", kind, "--device", device, code=7)
    assert reason in said, said


def one(job, device, precision, on, more=1):
    """A job: every image has its result, from a device in `on`, within `more` times the job's limit of PyTorch's."""
    name, kind, model, collection, params, want, limit = job
    started = time.monotonic()
    items = submit(kind, model, collection, params, device, precision)
    took = time.monotonic() - started
    assert len(items) == len(want), f"{len(items)} results of {len(want)} images: {items[0]} {items[-1]}"
    for i in items:
        assert not i.get("set_aside_reason"), i
        assert i["device"].startswith(on) and i["device"].endswith(", fp16") == (precision == "fp16"), i["device"]
    worst = max(compare(name, kind, i, want[i["object"]["path"]], 1e-4 * more) for i in items)
    if kind == "segment" and not any(0.02 < s["value"] < 0.98 for i in items for s in i["scores"]):
        sys.exit(f"FAILED: {name}: one class everywhere: this shows nothing")
    where = " and ".join(sorted({i["device"] for i in items}))
    print(f"{name}: {kind} of {len(items)} {collection} with --device {device}, all on {where}: off by {worst:.1e} at most ({took:.1f} s)", flush=True)
    if not worst <= more * limit:
        sys.exit(f"FAILED: {name}: off by {worst}")


def cluster(*args):
    subprocess.run([os.path.join(os.environ["MIKURA_SOURCE"], "deploy/cluster"), *args, "--dir", f"{work}/c"], check=True, stdout=subprocess.DEVNULL)


def mixed(jobs):
    """A worker of each kind, then that for a GPU alone."""
    with open(f"{work}/c/computed-2.extra", "w") as f:
        f.write(f"backend = cuda\nbackends = {os.environ['MIKURA_BUILD']}/tests/stand_in\n")
    cluster("up", "--workers", "2")
    for job in jobs:
        one(job, "gpu", "fp32", "stand-in")
        one(job, "gpu", "fp16", "stand-in", more=100)
        one(job, "cpu", "fp32", "cpu (")
        one(job, "any", "fp32", ("stand-in", "cpu ("))
    cluster("stop", "computed-1")
    _, kind, model, collection, *_ = jobs[0]
    for _ in range(100):  # until the gateway has heard that it left
        p = subprocess.run([mikura, "job", "submit", f"collection = {collection}", "--model", model, "--kind", kind, "--device", "cpu"],
                           env=dict(os.environ, **cluster_env("researcher/rin")), capture_output=True, text=True)
        if p.returncode == 7:
            break
        time.sleep(0.2)
    refused(model, collection, kind, "cpu", "all workers of this cluster have GPUs")
    one(jobs[0], "any", "fp32", "stand-in")


def compare(name, kind, item, want, even_max):
    """How far the item is from the right answer, relative to the largest value (classify) or in parts of the picture; of
    the latter no more than where two classes are within even_max of each other, relative to the largest value."""
    got = {s["name"]: s["value"] for s in item["scores"]}
    if kind == "classify":
        v = want[0]
        best = int(v.argmax())
        if item["label"] != f"class_{best}" and v[best] - v[int(item["label"][6:])] > 1e-3 * np.abs(v).max():
            sys.exit(f"FAILED: {name}: {item['object']['path']} is {item['label']}, not class_{best}")
        return max(abs(got[k] - v[int(k[6:])]) for k in got) / np.abs(v).max()
    v = want[0].reshape(want.shape[1], -1)
    mask, top = v.argmax(0), np.sort(v, 0)
    off = max(abs(got.get(f"class_{c}", 0) - (mask == c).mean()) for c in range(v.shape[0]))
    even = (top[-1] - top[-2] <= even_max * np.abs(v).max()).mean()  # there either class is right
    if off > even + 1e-9:
        sys.exit(f"FAILED: {name}: {item['object']['path']}: classes' parts are off by {off:.1e}; nearly even are {even:.1e}")
    return off


def main():
    a = argparse.ArgumentParser()
    a.add_argument("work")
    a.add_argument("--full", action="store_true")
    a.add_argument("--images", type=int, default=8)
    a.add_argument("--only", default="")
    a = a.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(1)
    rng = np.random.default_rng(1)
    jobs = []
    data = {"pictures": pictures_make(rng, a.images), "volumes": volumes_make(rng, a.images if a.full else 3)}
    for c in data:
        run("operator/admin", "collection", "create", c, "--kind", "other", "--society", "s", "--unchecked")
        run("operator/admin", "collection", "grant", c, "rin")
        run("society/s/a1", "put", f"{work}/{c}", "--collection", c)
    for name, net, at, shape, axes, opset in networks.full() if a.full else networks.small():
        if a.only and not name.startswith(a.only) or not a.full and name not in SMALL + ONCE:
            continue
        networks.prepare(net, 1)
        size, channels = shape[2:], shape[1]
        collection = "volumes" if len(size) == 3 else "pictures"
        if name.startswith("U-Net"):  # random weights give one class everywhere: its places are made to differ
            with torch.no_grad():
                y = net(torch.from_numpy(prepare(next(iter(data[collection].values())), channels, size, None)))
                net.last.bias -= y.mean([0] + list(range(2, y.dim())))
        model = re.sub("[^a-z0-9]+", "-", name.lower()).strip("-")
        with open(f"{work}/{model}.onnx", "wb") as f:
            f.write(networks.export(net, at, axes, opset))
        run("operator/admin", "model", "add", f"{work}/{model}.onnx", "--name", model)
        kind = "segment" if name.startswith("U-Net") else "classify"
        crop = 0.875 if kind == "classify" else None
        params = [f"size={'x'.join(map(str, size))}"]
        params += [f"mean={','.join(map(str, MEAN))}", f"std={','.join(map(str, STD))}"] if channels == 3 else ["mean=0.5", "std=0.25"]
        params += ["resize=crop:0.875", "apply=none", "top=10"] if kind == "classify" else []
        refused(model, collection, kind, "gpu", "no worker of this cluster has one")
        want = {}
        with torch.no_grad():
            for path, px in data[collection].items():
                want[path] = net(torch.from_numpy(prepare(px, channels, size, crop))).numpy()
        job = name, kind, model, collection, params, want, 1e-4 if kind == "classify" else 1e-3
        if name in SMALL:
            jobs.append(job)
        for device in ("any",) if name in ONCE else ("cpu", "any"):
            one(job, device, "fp32", "cpu (oneDNN")
    if not a.full and not a.only:  # what this CPU does not do is said, not done otherwise
        items = submit("classify", "mobilenetv3-opset-15", "pictures", ["size=64x64"], "any", "fp16")
        assert all("fp32 and bf16" in i["set_aside_reason"] for i in items), items[0]
        said = run("researcher/rin", "job", "submit", "collection = pictures", "--model", "u-net-2d", "--kind", "segment", "--param", "size=7", code=2)
        assert "rows x columns" in said, said
        mixed(jobs)


if __name__ == "__main__":
    main()
