#!/usr/bin/python3
"""Every operator as ONNX defines it: the node tests that come with python3-onnx, at each served opset.

operators.py [--save FILE | --from FILE] BUILD BACKEND...

The cases and their expected outputs are ONNX's own (onnx.backend.test.case.node, made with numpy), written for the newest
opset; a case is also run at every older opset from 11 on where the operator's schema is the same. A case that the engine
refuses must be on the list EXPECTED below, by words of the refusal: so nothing is refused unnoticed. Shapes that the
engine infers are those of the outputs, compared with what ONNX expects. Newer versions of python3-onnx have other cases:
--save keeps these in a file (runs nothing), --from takes them from there.
"""
import collections
import pickle
import re
import sys

try:
    import numpy as np
    if "--from" not in sys.argv:
        for old in ("float", "int", "bool", "object"):  # onnx 1.12's cases use names that numpy 1.24 has dropped
            if old not in np.__dict__:
                setattr(np, old, getattr(__builtins__, old))
        import onnx
        import onnx.backend.test.case.node as node_cases
        from onnx import numpy_helper
except ImportError as e:
    print(f"skipped: {e}")
    sys.exit(77)
from runner import Refused, Runner, error

SAVE, FROM = (sys.argv[2] if sys.argv[1] == o else None for o in ("--save", "--from"))
BUILD, *BACKENDS = sys.argv[3 if SAVE or FROM else 1:]
OPS = """Abs Add AveragePool BatchNormalization Cast Clip Concat Constant ConstantOfShape Conv ConvTranspose Div Dropout
Equal Erf Exp Expand Flatten Gather Gemm GlobalAveragePool GlobalMaxPool HardSigmoid HardSwish Identity
InstanceNormalization LayerNormalization LeakyRelu Log MatMul Max MaxPool Min Mul Neg Pad Pow ReduceMax ReduceMean
ReduceMin ReduceSum Relu Reshape Resize Shape Sigmoid Slice Softmax Split Sqrt Squeeze Sub Tanh Transpose Unsqueeze
Where""".split()
# What is refused on purpose: the case's name, and words of the refusal.
EXPECTED = [
    (r".*", r"has element type \d+, which is not served|: type \d+ is not served|a cast to type \d+ is not served"),
    (r"identity_(opt|sequence)", r"is no tensor"),
    (r"(add|div|mul|sub)_uint8|(max|min)_u?int\d+|pow_types_.*|(edge|reflect)_pad|maxpool_2d_uint8", r"only float32 is served"),
    (r"where_example", r"neither float32 nor known"),
    (r"training_dropout.*|batchnorm_.*_training_mode", r"training mode is not served|3 outputs are not served"),
    (r"convtranspose_.*", r"'output_shape' is not served|'auto_pad' is 'SAME_UPPER'"),
    (r"reduce_sum_.*", r"'noop_with_empty_axes' is not served"),
    (r"resize_.*cubic.*", r"nearest and linear are served"),
    (r"resize_tf_crop_and_resize", r"half_pixel, pytorch_half_pixel, align_corners and asymmetric are served"),
    (r"reshape_allowzero_reordered|slice_start_out_of_bounds|split_zero_size_splits|constantofshape_int_shape_zero",
     r"dimension \d is 0|nothing is left|empty"),
]
# align_corners with a scale that does not divide: ONNX's formula uses the size before rounding down, PyTorch and ONNX
# Runtime the one after; we compute what PyTorch computes.
OTHERWISE = ["resize_downsample_scales_linear_align_corners"]


def constants(model, inputs):
    """Inputs that the engine wants as constants become initialisers: ONNX's cases hand everything in as inputs."""
    n = model.graph.node[0]
    first = {"Conv": 1, "ConvTranspose": 1, "BatchNormalization": 1, "InstanceNormalization": 1, "LayerNormalization": 1,
             "Clip": 1, "Reshape": 1, "Slice": 1, "Squeeze": 1, "Unsqueeze": 1, "Expand": 1, "Gather": 1, "Pad": 1,
             "Resize": 1, "Split": 1, "ConstantOfShape": 0, "ReduceSum": 1, "Dropout": 1, "Where": 0, "Equal": 0}.get(n.op_type)
    if first is None:
        return inputs
    m_in = list(model.graph.input)
    keep, made = [], []
    for vi, a in zip(m_in, inputs):
        (keep if n.input and vi.name in n.input[:first] else made).append((vi, a))
    del model.graph.input[:]
    model.graph.input.extend(vi for vi, _ in keep)
    for vi, a in made:
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(a), vi.name))
    if not keep:  # a model needs an input
        model.graph.input.append(onnx.helper.make_tensor_value_info("unused", 1, [1]))
        return [np.zeros(1, np.float32)]
    return [a for _, a in keep]


def variants(model):
    """The model at each served opset at which its operator is what it is in the case's own."""
    op = model.graph.node[0].op_type
    own = max(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    for opset in range(11, 18):
        try:
            same = (onnx.defs.get_schema(op, opset, "").since_version == onnx.defs.get_schema(op, own, "").since_version)
        except onnx.defs.SchemaError:
            continue
        if same:
            m = onnx.ModelProto()
            m.CopyFrom(model)
            for o in m.opset_import:
                o.version = opset
            m.ir_version = 8
            if op in ("LayerNormalization", "MaxPool", "Dropout"):  # further outputs are optional, and not served
                del m.graph.node[0].output[1:], m.graph.output[1:]
            yield opset, m


def allowed(name, words):
    return any(re.fullmatch(n, name) and re.search(w, words) for n, w in EXPECTED)


F = np.float32
I = np.int64


def own_cases():
    """What exporters write around shapes, and casts: (name, nodes, initialisers, input, expected outputs, opset)."""
    n, x = onnx.helper.make_node, (np.arange(2 * 6 * 5, dtype=F).reshape(2, 6, 5) - 20) / 3
    c = {"i0": np.array(0, I), "i1": np.array([1], I), "m1": np.array([-1], I), "n3": np.array([-1, 1, 5], I),
         "three": np.array([3], I), "half": np.array([2], I)}
    head = [n("Shape", ["x"], ["s"]), n("Gather", ["s", "i0"], ["b"], axis=0), n("Unsqueeze", ["b", "u"], ["b1"])]
    c["u"] = np.array([0], I)
    yield ("reshape by its own batch", head + [n("Concat", ["b1", "m1", "half"], ["t"], axis=0), n("Reshape", ["x", "t"], ["y"])],
           c, x, [x.reshape(2, -1, 2)], 13)
    ones = onnx.helper.make_tensor("v", onnx.TensorProto.INT64, [1], [1])
    yield ("expand as torch writes it", [
        n("Constant", [], ["w"], value=onnx.helper.make_tensor("w", 1, [1, 1, 5], [1, 2, 3, 4, 5]))] + head + [
        n("Concat", ["b1", "m1", "m1"], ["t"], axis=0), n("Shape", ["t"], ["ts"]), n("ConstantOfShape", ["ts"], ["o"], value=ones),
        n("Mul", ["o", "m1"], ["neg"]), n("Equal", ["t", "neg"], ["q"]), n("Where", ["q", "o", "t"], ["r"]),
        n("Expand", ["w", "r"], ["y"]), n("ConstantOfShape", ["s"], ["zero"])],
        c, x, [np.broadcast_to(np.arange(1, 6, dtype=F), (2, 1, 5))], 14)
    yield ("half of the channels", head + [
        n("Slice", ["s", "i1", "half"], ["ch"]), n("Div", ["ch", "half"], ["h"]), n("Add", ["h", "u"], ["h2"]),
        n("Slice", ["x", "u", "h2", "i1"], ["y"]), n("Sub", ["h2", "i1"], ["k"]), n("Gather", ["x", "k"], ["z"], axis=1),
        n("Split", ["x"], ["p", "q", "w"], axis=1)],
        c, x, [x[:, :3], x[:, 2:3], x[:, 2:4]], 13)
    for to, t in ((6, np.int32), (7, np.int64), (9, np.bool_), (1, F)):
        yield f"cast to {t.__name__}", [n("Cast", ["x"], ["y"], to=to)], {}, x, [x.astype(t)], 13
    yield ("pads from shapes", head + [
        n("ConstantOfShape", ["three2"], ["zeros"], value=onnx.helper.make_tensor("v", 7, [1], [0])),
        n("Concat", ["b1", "zeros"], ["pp"], axis=0), n("Reshape", ["pp", "m12"], ["p2"]), n("Slice", ["p2", "m1", "big", "u", "m1"], ["p3"]),
        n("Transpose", ["p3"], ["p4"], perm=[1, 0]), n("Reshape", ["p4", "m1"], ["p5"]), n("Pad", ["x", "p5", "c"], ["y"])],
        c | {"three2": np.array([5], I), "m12": np.array([-1, 2], I), "big": np.array([-(2**63) + 1], I), "c": F(7).reshape(())},
        x, [np.pad(x, ((0, 0), (0, 0), (2, 0)), constant_values=7)], 11)


def own_model(nodes, inits, x, outs, opset):
    made = {o for k in nodes for o in k.output}
    names = ["y", "z", "q"][:len(outs)]
    if opset < 13:  # axes were an attribute
        for k in nodes:
            if k.op_type == "Unsqueeze":
                k.attribute.append(onnx.helper.make_attribute("axes", [0]))
                del k.input[1:]
    g = onnx.helper.make_graph(nodes, "g", [onnx.helper.make_tensor_value_info("x", 1, ["N", "C", "W"])], [
        onnx.helper.make_tensor_value_info(o, onnx.helper.np_dtype_to_tensor_dtype(w.dtype) if hasattr(
            onnx.helper, "np_dtype_to_tensor_dtype") else onnx.mapping.NP_TYPE_TO_TENSOR_TYPE[w.dtype], None)
        for o, w in zip(names, outs)], [numpy_helper.from_array(v, k) for k, v in inits.items()])
    assert all(o in made for o in names)
    m = onnx.helper.make_model(g, opset_imports=[onnx.helper.make_opsetid("", opset)])
    m.ir_version = 8
    return m.SerializeToString()


def all_cases():
    """Name, operators, opset, model, inputs, expected outputs, the largest error that is right."""
    for c in node_cases.collect_testcases(None):
        if len(c.model.graph.node) != 1 or c.model.graph.node[0].op_type not in OPS or c.model.graph.node[0].op_type == "Constant":
            continue
        name = c.name.removeprefix("test_").removeprefix("castlike_").removesuffix("_expanded")
        for ins, outs in c.data_sets:
            for opset, m in variants(c.model):
                given = constants(m, list(ins))
                yield (name, [m.graph.node[0].op_type], opset, m.SerializeToString(), [np.asarray(i) for i in given],
                       [np.asarray(w) for w in outs[:len(m.graph.output)]], 1e-5)
    for name, nodes, inits, x, outs, opset in own_cases():
        yield name, [k.op_type for k in nodes], opset, own_model(nodes, inits, x, outs, opset), [x], outs, 1e-6


if FROM:
    with open(FROM, "rb") as f:
        cases = pickle.load(f)
else:
    cases = list(all_cases())
if SAVE:
    with open(SAVE, "wb") as f:
        pickle.dump(cases, f)
    sys.exit(0)
bad = 0
for backend in BACKENDS:
    r = Runner(BUILD, backend)
    ran, refused, seen = 0, 0, collections.Counter()
    for name, ops, opset, model, given, outs, most in cases:
        try:
            r.load(model)
            got = r.run(given)
        except Refused as e:
            refused += 1
            if not allowed(name, str(e)):
                bad += 1
                print(f"{name} opset {opset} on {backend}: refused: {e}")
            continue
        ran += 1
        seen.update(ops)
        err = max([error(g, w) if g.dtype == w.dtype else 9 for g, w in zip(got, outs)] + [0 if len(got) == len(outs) else 9])
        if not err <= most and name not in OTHERWISE:
            bad += 1
            print(f"{name} opset {opset} on {backend}: error {err:.2g} WRONG {[g.shape for g in got]} for {[w.shape for w in outs]}")
    missing = [o for o in OPS if not seen[o]]
    print(f"{r.text}: {ran} cases of {len(seen)} operators ran, {refused} refused as expected"
          + (f"; never ran: {' '.join(missing)}" if missing else ""))
    bad += len(missing)
    bad += r.close() != 0
sys.exit(1 if bad else 0)
