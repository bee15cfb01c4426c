#!/usr/bin/python3
"""DICOM series of one file a slice as volumes of a 3D model, against PyTorch.

series_job.py WORK

Series are written from volumes whose voxels are known: files' names and InstanceNumbers say nothing of the order, planes are
oblique, values are 16 bits with slope and intercept and no window. Each must give what PyTorch gives for the volume, and name
its slices as stacked, each with its version. Series that are no volume are set aside, each with its reason. Real series
(../shared/data, where they are) are read by pydicom for comparison.
"""
import json
import os
import subprocess
import sys
import time

import networks_job as j
import nibabel
import numpy as np
import pydicom
import torch
from PIL import Image

import networks

SIZE = (16, 32, 32)
ROW, COLUMN = np.array([0.8, 0.6, 0.0]), np.array([0.0, 0.0, -1.0])
work, run = j.work, j.run


def slice_write(path, px, uids, number=None, position=None, orientation=(*ROW, *COLUMN), spacing=(0.7, 0.7), window=None):
    """One slice of 8-bit values px, kept as (16 px - 3000) with slope 1/16 and an intercept."""
    d = pydicom.dataset.FileDataset(path, {}, preamble=bytes(128))
    d.file_meta = pydicom.dataset.FileMetaDataset()
    d.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    d.SOPClassUID = d.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    d.SOPInstanceUID = d.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    d.is_little_endian, d.is_implicit_VR = True, False
    d.StudyInstanceUID, d.SeriesInstanceUID = uids
    d.Modality, d.PhotometricInterpretation, d.SamplesPerPixel = "CT", "MONOCHROME2", 1
    d.Rows, d.Columns = px.shape
    d.BitsAllocated, d.BitsStored, d.HighBit, d.PixelRepresentation = 16, 16, 15, 1
    d.RescaleSlope, d.RescaleIntercept = "0.0625", "-300"
    if window:
        d.WindowCenter, d.WindowWidth = window
    if number is not None:
        d.InstanceNumber = number
    if position is not None:
        d.ImagePositionPatient = [f"{v:.5f}" for v in position]
        d.ImageOrientationPatient = [f"{v:.6g}" for v in orientation]
    if spacing:
        d.PixelSpacing = list(spacing)
    d.PixelData = (px.astype(np.int16) * 16 - 3000).astype("<i2").tobytes()
    d.save_as(path, write_like_original=False)


def volume(rng, d, h, w):
    """Its least value is in one slice, its greatest in another: slices stretched one by one would differ."""
    a = np.clip(np.stack([j.scene(rng, h, w, 1) for _ in range(d)])[..., 0], 20, 220)
    a[1, 0, 0], a[d - 2, 0, 0] = 0, 255
    return a


class Writer:
    """Files of a collection, a folder a case; what each must give, by SeriesInstanceUID or by path."""

    def __init__(self, rng):
        self.rng, self.want, self.reason, self.order, self.by = rng, {}, {}, {}, {}
        self.folder = f"{work}/series"

    def series(self, case, a, reason=None, by="position", skip=(), change=None):
        """change(k, arguments): what is wrong with slice k."""
        uids = case, pydicom.uid.generate_uid()
        n, names = len(a), []
        normal = np.cross(ROW, COLUMN)
        os.makedirs(f"{self.folder}/{case}", exist_ok=True)
        shuffled = self.rng.permutation(n)
        for k in range(n):
            name = f"{uids[1][-6:]}-{shuffled[k]:03}.dcm"
            more = {"number": n - k if by == "position" else k + 5,
                    "position": np.array([-10.0, 20.0, 5.0]) + 2.5 * k * normal if by == "position" else None}
            if change:
                change(k, more)
            if k not in skip:
                slice_write(f"{self.folder}/{case}/{name}", more.pop("px", a[k]), uids, **more)
                names.append(f"{case}/{name}")  # as `mikura put` names it
        self.order[uids[1]], self.by[uids[1]] = names, by
        if reason:
            self.reason[uids[1]] = reason
        else:
            self.want[uids[1]] = a[..., None]
        return uids[1]


def make(w):
    rng = w.rng
    uid = pydicom.uid.generate_uid
    study = uid()
    w.series(study, volume(rng, 16, 40, 48))
    w.series(study, volume(rng, 11, 50, 30), by="instance number")  # two series of one study
    w.series(uid(), volume(rng, 9, 192, 192))  # slices of 72 KiB: not inline
    w.series(uid(), volume(rng, 40, 24, 24))  # more than one message of 24
    a = volume(rng, 12, 40, 40)
    w.series(uid(), a, "an incomplete series: slice with InstanceNumber 7 and slice with InstanceNumber 5 are 5 mm apart, the others 2.5 mm", skip=(6,))
    w.series(uid(), a, "an incomplete series: no slice has InstanceNumber 11", by="instance number", skip=(6,))
    w.series(uid(), a, "a mixed series: slice with InstanceNumber", change=lambda k, m: m.update(px=a[k][:32]) if k == 4 else None)
    w.series(uid(), a, "has another ImageOrientationPatient", change=lambda k, m: m.update(orientation=(1, 0, 0, 0, 1, 0)) if k == 4 else None)
    w.series(uid(), a, "has another PixelSpacing", change=lambda k, m: m.update(spacing=(1, 1)) if k == 4 else None)
    w.series(uid(), a, "1 of 12 slices have no ImagePositionPatient", change=lambda k, m: m.update(position=None) if k == 4 else None)
    w.series(uid(), np.concatenate([a, a]), "several volumes in one series",
             change=lambda k, m: m.update(position=np.array([0, 0, 0]) + 2.5 * (k % 12) * np.cross(ROW, COLUMN)))
    w.series(uid(), a[:1], "a series of one slice")
    # as one file: no series, an image of many frames
    os.makedirs(f"{w.folder}/whole")
    j.dicom_write(f"{w.folder}/whole/whole.dcm", a)
    w.want["whole.dcm"] = a[..., None]


def submit(*more, model="unet", size=SIZE):
    out = run("researcher/rin", "job", "submit", "--model", model, "--kind", "segment", "--json", *more,
              "--param", f"size={'x'.join(map(str, size))}", "--param", "mean=0.5", "--param", "std=0.25")
    return j.lines(out)[0]["id"]


def results(job):
    run("researcher/rin", "job", "watch", job, "--json")
    return [x for x in j.lines(run("researcher/rin", "job", "results", job, "--json")) if "object" in x and x.get("type") == "item"]


def expected(net, a):
    with torch.no_grad():
        return net(torch.from_numpy(j.prepare(a, 1, SIZE, None))).numpy()


def check(w, net, items):
    seen = set()
    for i in items:
        s = i.get("series")
        name = s["uid"] if s else os.path.basename(i["object"]["path"])
        seen.add(name)
        if s:
            assert not i["object"].get("path") and int(i["object"].get("version", 0)) == 0, i["object"]
            assert all(int(x["version"]) >= 1 for x in s["slices"]), s
            paths = [x["path"] for x in s["slices"]]
            assert sorted(paths) == sorted(w.order[name]), (paths, w.order[name])
        if name in w.reason:
            assert w.reason[name] in i.get("set_aside_reason", ""), (w.reason[name], i)
            assert paths == sorted(paths), "set aside: by path"
            continue
        assert not i.get("set_aside_reason"), i
        if s:
            assert paths == w.order[name], (paths, w.order[name])
            assert s["ordered_by"] == w.by[name], s["ordered_by"]
        off = j.compare("U-Net 3D", "segment", i, expected(net, w.want[name]), 1e-4)
        assert off <= 1e-3, (name, off)
        print(f"{name[-16:]}: {len(s['slices']) if s else 1} slices by {s['ordered_by'] if s else 'frame'}: off by {off:.1e}", flush=True)
    assert seen == set(w.want) | set(w.reason), seen ^ (set(w.want) | set(w.reason))


# ---- masks ----
def same_labels(name, got, want):
    """Label by label but where two classes are within 1e-4 of each other, relative to the largest value."""
    v = want[0]
    top = np.sort(v, 0)
    even = top[-1] - top[-2] <= 1e-4 * np.abs(v).max()
    off = (got != v.argmax(0)) & ~even
    assert got.shape == v.shape[1:] and not off.any(), (name, got.shape, int(off.sum()), int(even.sum()))
    assert len(np.unique(got)) > 1, f"{name}: one label everywhere: this shows nothing"


def place(k, n, h, w, size):
    """Millimetres (NIfTI's axes) of the corner voxel and of the opposite one, as slice_write placed the pixels."""
    d, oh, ow = size
    out = []
    for i, row, s in ((0, 0, 0), (ow - 1, oh - 1, d - 1)):
        x, y, z = (i + 0.5) * w / ow - 0.5, (row + 0.5) * h / oh - 0.5, (s + 0.5) * n / d - 0.5
        p = np.array([-10.0, 20.0, 5.0]) + 0.7 * x * ROW + 0.7 * y * COLUMN + 2.5 * z * np.cross(ROW, COLUMN)
        out.append(p * [-1, -1, 1])
    return out


def masks(w, net, job, items):
    folder = f"{work}/masks"
    run("researcher/rin", "job", "results", job, "--masks", folder)
    files = 0
    for i in items:
        s = i.get("series")
        name = s["uid"] if s else os.path.basename(i["object"]["path"])
        where = f"{folder}/series/{i['object']['case_id']}/{'series-' + name if s else i['object']['path']}.nii.gz"
        if name in w.reason:
            assert "mask" not in i and not os.path.exists(where), i
            continue
        assert i["mask"]["media_type"] == "application/x-nifti" and tuple(i["mask"]["shape"]) == SIZE, i["mask"]
        assert os.path.getsize(where) == int(i["mask"]["size_bytes"])
        m = nibabel.load(where)
        files += 1
        same_labels(name, np.asarray(m.dataobj).transpose(2, 1, 0), expected(net, w.want[name]))
        known = s is not None and w.by[name] == "position"
        assert int(m.header["sform_code"]) == (1 if known else 0), m.header
        if known:
            n, h, width = w.want[name].shape[:3]
            first, last = place(0, n, h, width, SIZE)
            assert np.allclose(nibabel.affines.apply_affine(m.affine, [0, 0, 0]), first, atol=1e-3), (m.affine, first)
            assert np.allclose(nibabel.affines.apply_affine(m.affine, np.array(m.shape) - 1), last, atol=1e-3), (m.affine, last)
    print(f"{files} masks are PyTorch's, voxel by voxel, and lie where the slices lie")


def large(net):
    """A mask that is more than a row holds: of noise."""
    rng, size, case = np.random.default_rng(5), (48, 128, 128), pydicom.uid.generate_uid()
    a = rng.integers(0, 256, (48, 128, 128)).astype(np.uint8)
    a[0, 0, 0], a[0, 0, 1] = 0, 255
    os.makedirs(f"{work}/noise/{case}")
    uids = case, pydicom.uid.generate_uid()
    for k in range(len(a)):
        slice_write(f"{work}/noise/{case}/{k:03}.dcm", a[k], uids, number=k)
    run("society/s/a1", "put", f"{work}/noise", "--collection", "noise")
    job = submit("collection = noise", size=size)
    item = results(job)[0]
    assert int(item["mask"]["size_bytes"]) > 65536, item
    run("researcher/rin", "job", "results", job, "--masks", f"{work}/masks")
    m = nibabel.load(f"{work}/masks/noise/{case}/series-{uids[1]}.nii.gz")
    with torch.no_grad():
        want = net(torch.from_numpy(j.prepare(a[..., None], 1, size, None))).numpy()
    same_labels("noise", np.asarray(m.dataobj).transpose(2, 1, 0), want)
    print(f"a mask of {item['mask']['size_bytes']} bytes, in chunks: PyTorch's")
    return job


def pictures(rng):
    """PNG: of a picture, on the model's places."""
    px = {n: a if a.shape[3] == 1 else np.asarray(Image.fromarray(a[0]).convert("L"))[None, ..., None] for n, a in j.pictures_make(rng, 4).items()}
    run("society/s/a1", "put", f"{work}/pictures", "--collection", "pictures")
    name, net, at, shape, axes, opset = next(x for x in networks.small() if x[0] == "U-Net 2D")
    networks.prepare(net, 1)
    size = (48, 64)
    want = lambda a: net(torch.from_numpy(j.prepare(a, 1, size, None)))
    with torch.no_grad():
        net.last.bias -= want(next(iter(px.values()))).mean([0, 2, 3])
    with open(f"{work}/unet2d.onnx", "wb") as f:
        f.write(networks.export(net, at, axes, opset))
    run("operator/admin", "model", "add", f"{work}/unet2d.onnx", "--name", "unet2d")
    job = submit("collection = pictures", model="unet2d", size=size)
    for i in results(job):
        assert i["mask"]["media_type"] == "image/png" and tuple(i["mask"]["shape"]) == size, i
    run("researcher/rin", "job", "results", job, "--masks", f"{work}/masks")
    for path, a in px.items():
        found = [f"{d}/{n}" for d, _, files in os.walk(f"{work}/masks/pictures") for n in files if n == f"{path}.png"]
        m = Image.open(found[0])
        assert m.mode == "P" and "labels" in m.text["Comment"], (m.mode, m.text)
        with torch.no_grad():
            same_labels(path, np.asarray(m), want(a).numpy())
    none = results(submit("collection = pictures", "--param", "masks=no", model="unet2d", size=size))
    assert len(none) == 4 and not any("mask" in i for i in none), none[0]
    print("4 masks of pictures are PyTorch's; with masks=no there is none")


def gone(job):
    """Deleted with the job; and not to be read by others, nor without the grant."""
    run("researcher/eve", "job", "results", job, "--masks", f"{work}/eve", code=3)
    run("operator/admin", "collection", "grant", "noise", "rin", "--remove")
    for _ in range(100):
        p = subprocess.run([j.mikura, "job", "results", job, "--masks", f"{work}/more"], env=dict(os.environ, **j.cluster_env("researcher/rin")), capture_output=True, text=True)
        if p.returncode == 4:
            break
        time.sleep(0.2)  # a gateway sees a changed grant within 5 s
    assert p.returncode == 4, (p.returncode, p.stderr)
    j.cluster("stop", "computed-1")
    waits = submit('collection = series')
    assert "has not ended" in run("researcher/rin", "job", "rm", waits, code=7)
    run("researcher/eve", "job", "rm", job, code=3)
    run("researcher/rin", "job", "rm", job)
    run("researcher/rin", "job", "results", job, code=3)
    run("researcher/rin", "job", "rm", job, code=3)
    assert job not in run("researcher/rin", "job", "ls")
    run("researcher/rin", "job", "cancel", waits)
    run("researcher/rin", "job", "rm", waits)
    j.cluster("start", "computed-1")
    # one whose tasks are out, with a worker that is no more: the scheduler forgets it too
    out = submit("collection = series")
    while j.lines(run("researcher/rin", "job", "show", out, "--json"))[0]["state"] == "JOB_QUEUED":
        time.sleep(0.05)
    j.cluster("kill", "computed-1")
    run("researcher/rin", "job", "cancel", out)
    run("researcher/rin", "job", "rm", out)
    j.cluster("start", "computed-1")
    assert len(results(submit("collection = pictures", model="unet2d", size=(48, 64)))) == 4
    time.sleep(1)
    with open(f"{work}/c/logs/gateway-1.log") as f:
        waits = [line for line in f if "job_row_waits" in line and "no job" in line]
    assert not waits, waits[-3:]
    print("masks: not for others, not without the grant, gone with the job")


def csv_check(w, job, n):
    items = run("researcher/rin", "job", "results", job, "--format", "csv").splitlines()
    assert items[0].endswith(",series,slices,ordered_by"), items[0]
    assert len(items) == 1 + n, len(items)
    slices = run("researcher/rin", "job", "results", job, "--format", "csv", "--by", "slice").splitlines()
    assert len(slices) == 1 + 1 + sum(len(v) for v in w.order.values()), len(slices)
    assert "ordered by InstanceNumber" in run("researcher/rin", "job", "results", job)


def later(w, net):
    """The cohort is what it was when it was submitted: a slice that is replaced later keeps its old version in the volume; one
    that is deleted before it was read sets its series aside, and says which."""
    kept, gone = [u for u in w.want if u in w.order][:2]
    case = os.path.dirname(w.order[kept][0])  # of both
    j.cluster("stop", "computed-1")
    job = submit(f'collection = series and case = "{case}"')
    os.makedirs(f"{work}/fresh/{case}")
    slice_write(f"{work}/fresh/{w.order[kept][3]}", np.full((40, 48), 200, np.uint8), (case, kept), number=13, position=(0, 0, 0))
    run("society/s/a1", "put", f"{work}/fresh", "--collection", "series")
    run("operator/admin", "rm", f"series/{case}/{w.order[gone][2]}", "--yes")
    j.cluster("start", "computed-1")
    items = {i["series"]["uid"]: i for i in results(job)}
    assert {kept, gone} == set(items), items.keys()
    assert [int(x["version"]) for x in items[kept]["series"]["slices"]] == [1] * len(w.order[kept]), items[kept]["series"]
    assert j.compare("U-Net 3D", "segment", items[kept], expected(net, w.want[kept]), 1e-4) <= 1e-3
    reason = items[gone]["set_aside_reason"]
    assert w.order[gone][2] in reason and "not readable" in reason, reason
    print("a slice replaced later: not seen; one deleted: set aside:", reason)


def real(net):
    """Real series, in whatever order their files come: pydicom sorts them by its own means here."""
    data = os.environ.get("MIKURA_DATA", os.path.join(os.environ["MIKURA_SOURCE"], "../shared/data"))
    folders = [f for f in ("mr_series_brain", "mr_series_ge", "ct_series_3slice") if os.path.isdir(f"{data}/radiology/{f}")]
    if not folders:
        print("real series: skipped, there is no shared data")
        return
    want = {}
    for f in folders:
        ds = [pydicom.dcmread(f"{data}/radiology/{f}/{n}") for n in os.listdir(f"{data}/radiology/{f}")]
        o = [float(v) for v in ds[0].ImageOrientationPatient]
        ds.sort(key=lambda d: np.dot(np.cross(o[:3], o[3:]), [float(v) for v in d.ImagePositionPatient]))
        v = np.stack([d.pixel_array for d in ds]) * float(getattr(ds[0], "RescaleSlope", 1)) + float(getattr(ds[0], "RescaleIntercept", 0))
        lo, hi = v.min(), v.max()
        if float(getattr(ds[0], "WindowWidth", 0) or 0) >= 1:
            c, ww = float(ds[0].WindowCenter), float(ds[0].WindowWidth)
            lo, hi = c - 0.5 - (ww - 1) / 2, c - 0.5 + (ww - 1) / 2
        want[str(ds[0].SeriesInstanceUID)] = np.floor(np.clip((v - lo) * 255 / (hi - lo), 0, 255) + 0.5).astype(np.uint8)[..., None]
        run("society/s/a1", "put", f"{data}/radiology/{f}", "--collection", "real")
    items = results(submit("collection = real"))
    assert len(items) == len(want), items
    for i in items:
        assert not i.get("set_aside_reason"), i
        off = j.compare("U-Net 3D", "segment", i, expected(net, want[i["series"]["uid"]]), 1e-4)
        assert off <= 1e-3, off
        print(f"real series of {len(i['series']['slices'])} slices: off by {off:.1e}")


def window(w, net):
    """window=CENTER,WIDTH holds for every slice."""
    uid = next(u for u in w.want if u in w.order)
    case = os.path.dirname(w.order[uid][0])
    # values are px - 487.5 after slope and intercept; lo and hi as px: 60 and 187
    item = [i for i in results(submit(f'collection = series and case = "{case}"', "--param", "window=-363.5,128"))
            if i["series"]["uid"] == uid][0]
    v = w.want[uid].astype(float)
    a = np.floor(np.clip((v - 60) * 255 / 127, 0, 255) + 0.5).astype(np.uint8)
    assert j.compare("U-Net 3D", "segment", item, expected(net, a), 1e-4) <= 1e-3


def main():
    torch.set_num_threads(1)
    torch.manual_seed(1)
    w = Writer(np.random.default_rng(3))
    make(w)
    name, net, at, shape, axes, opset = next(x for x in networks.small() if x[0] == "U-Net 3D")
    networks.prepare(net, 1)
    with torch.no_grad():  # random weights give one class everywhere: its places are made to differ
        y = net(torch.from_numpy(j.prepare(next(iter(w.want.values())), 1, SIZE, None)))
        net.last.bias -= y.mean([0, 2, 3, 4])
    with open(f"{work}/unet.onnx", "wb") as f:
        f.write(networks.export(net, at, axes, opset))
    for c in ("series", "real", "noise", "pictures"):
        run("operator/admin", "collection", "create", c, "--kind", "radiology", "--society", "s", "--unchecked")
        run("operator/admin", "collection", "grant", c, "rin")
    run("society/s/a1", "put", w.folder, "--collection", "series")
    run("operator/admin", "model", "add", f"{work}/unet.onnx", "--name", "unet")
    job = submit("collection = series")
    items = results(job)
    check(w, net, items)
    csv_check(w, job, len(items))
    masks(w, net, job, items)
    few = results(submit("collection = series", "--limit", "2"))
    assert len(few) == 2, few
    window(w, net)
    later(w, net)
    real(net)
    pictures(w.rng)
    gone(large(net))


main()
