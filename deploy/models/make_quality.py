#!/usr/bin/python3
"""Makes quality.onnx: is an image usable, blurred, dark or overexposed? Usage: make_quality.py OUT

No training: every number is written here with its reason. The network has fixed convolution kernels.

Input  x        float32 [N, 3, H, W], RGB, 0..1; H and W at least 16
Output scores   float32 [N, 4], softmax over the classes
       scores_slide float32 [N, 4], the same for pictures whose ground is white by design (slides in bright field)
       measures float32 [N, 6], in the order of metadata `measures`

sharpness   After Crete, Dolmiere, Ladret, Nicolas, "The blur effect: perception and estimation with a
            new no-reference perceptual blur metric" (SPIE 6492, 2007): blurring a sharp picture takes
            away most of its gradients, blurring a blurred one hardly any. Per direction: gradient D of the luminance and
            gradient B of the luminance after a box of 9 pixels; sharpness = sum max(|D| - |B| - t, 0) /
            sum max(|D| - t, 0), in 0..1, independent of contrast and brightness. t = 0.006 (1.5 / 255) keeps the
            rounding of 8-bit pixels out.
luminance   mean over pixels that are not black (fundus, capsule and CT pictures have black surrounds)
dark        fraction of black pixels
saturated   fraction of pixels at the white end
rest_luminance  mean luminance of the pixels that are neither black nor saturated; 1 where there is none
content     how much gradient there is, 0..1: weighs tiles of a slide, so that blank glass hardly counts

Slides, three as they are and brightened (gain 1.6 plus 0.3, 2.2, 2 plus 0.16): rest_luminance 0.64-0.79 and 0.71-0.90: 0.82,
which misses the faintest of these.

Thresholds, from 27 real pictures (endoscopy, capsule endoscopy, fundus, OCT, histology) as they are, after a Gaussian blur
of 3 px, at a fifth of their brightness, and at 1.6 times plus 0.3: sharpness 0.42-0.81 as they are,
0.01-0.14 blurred: 0.25. Luminance 0.20-0.64 as they are, 0.04-0.13 darkened: 0.15. Saturated 0-0.07 as they are: 0.30.
"""
import sys

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CLASSES = "usable,blurred,dark,overexposed"
MEASURES = "sharpness,luminance,dark_fraction,saturated_fraction,rest_luminance,content"
LIMITS = (
    "Technical quality only: sharpness and exposure of a picture. Not a medical device; says nothing about "
    "the presence or absence of disease; not for accepting or rejecting a patient's examination without a person. "
    "Noise counts as sharpness; pictures that are smooth by nature (scintigrams, small interpolated images) come out as "
    "blurred; motion blur in one direction, focus on the wrong layer, artefacts, wrong staining and wrong organs are not seen. "
    "Overexposed means white clipping of 30 % of the picture: not seen where the clipped colour is not white or the clipped "
    "area is smaller. Of a slide, white glass does not count and only strong overexposure of the tissue is seen; a crop of a "
    "slide that is stored as an ordinary picture and holds much glass comes out as overexposed. Fluorescence is dark by "
    "nature and comes out as dark. Of several frames only the middle one is scored, of a large slide a sample of tiles. "
    "Thresholds were set on 27 pictures, none from your scanner.")
PREPROCESSING = "RGB, float32 = 8-bit value / 255, native scale, tiles of at most 512 x 512 pixels, at least 32"


def f32(*v):
    return np.array(v, dtype=np.float32)


def build():
    nodes, inits = [], []

    def const(name, value):
        inits.append(numpy_helper.from_array(np.asarray(value, dtype=np.float32), name))
        return name

    def node(op, inputs, out, **attrs):
        nodes.append(helper.make_node(op, inputs, [out], name=out, **attrs))
        return out

    def mean(x, out, axes=(1, 2, 3)):
        return node("ReduceMean", [x], out, axes=list(axes), keepdims=1)

    # Luminance, Rec. 601.
    y = node("Conv", ["x", const("w_luma", f32(0.299, 0.587, 0.114).reshape(1, 3, 1, 1))], "luma")

    # Ramps instead of comparisons: the measures change smoothly. A ramp is clip(a * y + b, 0, 1).
    zero, one = const("zero", np.float32(0)), const("one", np.float32(1))
    ramps = node("Conv", [y, const("w_ramp", f32(40, 60).reshape(2, 1, 1, 1)),
                          const("b_ramp", f32(-0.05 * 40, -0.97 * 60))], "ramps_raw")
    ramps = node("Clip", [ramps, zero, one], "ramps")  # channel 0: not black; 1: saturated
    fractions = mean(ramps, "fractions", (2, 3))
    lit_luma = node("Mul", [ramps, y], "lit_luma")
    lit = mean(lit_luma, "lit", (2, 3))
    eps = const("eps_lit", np.float32(1e-3))
    both = node("Div", [lit, node("Add", [fractions, eps], "fractions_eps")], "lit_ratio")
    # pick = 1 x 1 kernels that take one channel
    luminance = node("Conv", [both, const("w_first", f32(1, 0).reshape(1, 2, 1, 1))], "luminance")
    exposure = node("Conv", [fractions, const("w_exposure", f32(-1, 0, 0, 1).reshape(2, 2, 1, 1)),
                             const("b_exposure", f32(1, 0))], "exposure")  # dark, saturated

    # The rest: weight w = not black * (1 - saturated) = ramp 0 - ramp 1 (the ramps do not overlap).
    weight = node("Conv", [ramps, const("w_rest", f32(1, -1).reshape(1, 2, 1, 1))], "rest_weight")
    rest_sum = mean(node("Mul", [weight, y], "rest_luma"), "rest_mean", (2, 3))
    eps_rest = const("eps_rest", np.float32(1e-3))  # 0.1 % of the pixels: with fewer it tends to 1
    rest = node("Div", [node("Add", [rest_sum, eps_rest], "rest_sum_eps"),
                        node("Add", [mean(weight, "rest_weight_mean", (2, 3)), eps_rest], "rest_weight_eps")], "rest")

    # Gradients along one direction, before and after a box of 9: taps of a kernel of 10.
    d, b = np.zeros(10, np.float32), np.zeros(10, np.float32)
    d[4], d[5] = -1, 1
    b[0], b[9] = -1 / 9, 1 / 9
    t = const("t", np.float32(0.006))
    sums = {"plain": [], "lost": []}
    for name, shape in (("h", (1, 10)), ("v", (10, 1))):
        for kind, taps in (("d", d), ("b", b)):
            g = node("Conv", [y, const(f"w_{kind}{name}", taps.reshape(1, 1, *shape))], f"{kind}{name}_raw")
            node("Abs", [g], f"{kind}{name}")
        over = node("Sub", [f"d{name}", t], f"over_{name}")
        sums["plain"].append(mean(node("Relu", [over], f"plain_{name}"), f"plain_mean_{name}"))
        lost = node("Sub", [over, f"b{name}"], f"lost_raw_{name}")
        sums["lost"].append(mean(node("Relu", [lost], f"lost_{name}"), f"lost_mean_{name}"))
    plain = node("Add", sums["plain"], "plain")
    lost = node("Add", sums["lost"], "lost")
    sharp = node("Div", [lost, node("Add", [plain, const("eps_sharp", np.float32(1e-5))], "plain_eps")], "sharpness")
    # 0.025 = a gradient of 6 / 255 on average: a tile with plenty in it
    content = node("Clip", [node("Mul", [plain, const("content_gain", np.float32(40))], "content_raw"), zero, one],
                   "content")

    node("Flatten", [node("Concat", [sharp, luminance, exposure, rest, content], "measures4", axis=1)], "measures")
    # logits = W m + b: usable 0; blurred 30 (0.25 - sharpness); dark 60 (0.15 - luminance); overexposed
    # 30 (saturated - 0.30). Dark weighs double: a dark picture is often unsharp as well, and dark is why.
    # On a slide glass beside tissue is as white as clipping, but leaves the tissue as it was: overexposed =
    # min(that, 60 (rest_luminance - 0.82)).
    w = np.zeros((4, 6), np.float32)
    w[1, 0], w[2, 1], w[3, 3] = -30, -60, 30
    b = f32(0, 30 * 0.25, 60 * 0.15, -30 * 0.30)
    rest_w, rest_b = w.copy(), b.copy()
    rest_w[3], rest_b[3] = 0, -60 * 0.82
    rest_w[3, 4] = 60
    node("Gemm", ["measures", const("w_class", w), const("b_class", b)], "logits", transB=1)
    node("Gemm", ["measures", const("w_rest_class", rest_w), const("b_rest_class", rest_b)], "logits_rest", transB=1)
    node("Softmax", ["logits"], "scores", axis=1)
    node("Softmax", [node("Min", ["logits", "logits_rest"], "logits_slide")], "scores_slide", axis=1)

    def info(name, shape):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    graph = helper.make_graph(nodes, "quality", [info("x", ["N", 3, "H", "W"])],
                              [info("scores", ["N", 4]), info("measures", ["N", 6]), info("scores_slide", ["N", 4])], inits)
    model = helper.make_model(graph, producer_name="mikura", producer_version="1",
                              opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    helper.set_model_props(model, {"classes": CLASSES, "measures": MEASURES, "limits": LIMITS,
                                   "preprocessing": PREPROCESSING})
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString(deterministic=True)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    with open(sys.argv[1], "wb") as f:
        f.write(build())
