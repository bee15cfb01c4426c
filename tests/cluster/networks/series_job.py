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
import numpy as np
import pydicom
import torch

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


def submit(*more):
    out = run("researcher/rin", "job", "submit", "--model", "unet", "--kind", "segment", "--json", *more,
              "--param", f"size={'x'.join(map(str, SIZE))}", "--param", "mean=0.5", "--param", "std=0.25")
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
    for c in ("series", "real"):
        run("operator/admin", "collection", "create", c, "--kind", "radiology", "--society", "s", "--unchecked")
        run("operator/admin", "collection", "grant", c, "rin")
    run("society/s/a1", "put", w.folder, "--collection", "series")
    run("operator/admin", "model", "add", f"{work}/unet.onnx", "--name", "unet")
    job = submit("collection = series")
    items = results(job)
    check(w, net, items)
    csv_check(w, job, len(items))
    few = results(submit("collection = series", "--limit", "2"))
    assert len(few) == 2, few
    window(w, net)
    later(w, net)
    real(net)


main()
