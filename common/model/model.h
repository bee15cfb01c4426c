/* common/model/model.h - an ONNX file as a checked graph: loading, operator rules, shapes. No
 * backend.
 *
 * What model_load() accepts is served: every operator, attribute, type and opset is one that the
 * engine (computed/onnx) carries out; anything else is refused by node and operator. The gateway
 * calls it when a model is added, the worker before it runs one. The bytes are untrusted: memory
 * and work are bounded by struct model_limits, whatever the file says, and nothing recurses.
 *
 * Invariants of a loaded model: nodes stand in an order in which every input is made before it is
 * used; each value is made once; the type and the rank of every value are known; dimensions are
 * known or MODEL_DIM_ANY. A model is constant after loading: any thread may read it. */
#pragma once
#include "common/base/rc.h"

#define MODEL_RANK_MAX  8
#define MODEL_DIM_ANY   (-1)
#define MODEL_DIM_MAX   INT32_MAX
#define MODEL_NONE      UINT32_MAX /* an optional input that was left out */
#define MODEL_OPSET_MIN 11
#define MODEL_OPSET_MAX 17

/* Numbers as in ONNX's TensorProto.DataType. */
enum model_dtype {
    MODEL_DTYPE_NONE = 0,
    MODEL_F32 = 1,
    MODEL_U8 = 2,
    MODEL_I32 = 6,
    MODEL_I64 = 7,
    MODEL_BOOL = 9,
    MODEL_F64 = 11, /* constants only */
};

struct model_shape {
    uint8_t rank;
    int64_t dim[MODEL_RANK_MAX]; /* MODEL_DIM_ANY: not known before inputs are bound */
};

struct model_tensor { /* contiguous, row-major, native byte order, 64-byte aligned */
    enum model_dtype dtype;
    struct model_shape shape;
    const void *data;
    size_t bytes;
};

struct model_value {
    const char *name;
    enum model_dtype dtype;
    struct model_shape shape;
    const struct model_tensor *konst; /* NULL: computed, or an input */
};

enum model_attr_type {
    MODEL_ATTR_F = 1,
    MODEL_ATTR_I = 2,
    MODEL_ATTR_S = 3,
    MODEL_ATTR_T = 4,
    MODEL_ATTR_FS = 6,
    MODEL_ATTR_IS = 7
};
struct model_attr {
    const char *name;
    enum model_attr_type type;
    float f;
    int64_t i;
    const char *s;
    const struct model_tensor *t;
    const float *fs;
    const int64_t *is;
    uint32_t n; /* of fs or is */
};

/* The operators that are served. A new one: its row in ops.c, its shape rule in shape*.c, its
 * lowering in computed/onnx/lower*.c, its reference in computed/backend/ref. */
/* clang-format off */
#define MODEL_OP_MAP(X)                                                                            \
    X(Abs) X(Add) X(AveragePool) X(BatchNormalization) X(Cast) X(Clip) X(Concat) X(Constant)       \
    X(ConstantOfShape) X(Conv) X(ConvTranspose) X(Div) X(Dropout) X(Equal) X(Erf) X(Exp) X(Expand) \
    X(Flatten) X(Gather) X(Gemm) X(GlobalAveragePool) X(GlobalMaxPool) X(HardSigmoid) X(HardSwish) \
    X(Identity) X(InstanceNormalization) X(LayerNormalization) X(LeakyRelu) X(Log) X(MatMul)       \
    X(Max) X(MaxPool) X(Min) X(Mul) X(Neg) X(Pad) X(Pow) X(ReduceMax) X(ReduceMean) X(ReduceMin)   \
    X(ReduceSum) X(Relu) X(Reshape) X(Resize) X(Shape) X(Sigmoid) X(Slice) X(Softmax) X(Split)     \
    X(Sqrt) X(Squeeze) X(Sub) X(Tanh) X(Transpose) X(Unsqueeze) X(Where)
/* clang-format on */
#define MODEL_OP_ENUM(name) MODEL_OP_##name,
enum model_op { MODEL_OP_MAP(MODEL_OP_ENUM) MODEL_OP_N };

struct model_node {
    enum model_op op;
    const char *name; /* never NULL; made from the first output's name when the file has none */
    const uint32_t *in, *out; /* value indices; in may hold MODEL_NONE */
    uint32_t in_n, out_n;     /* out_n: 1, except for Split */
    const struct model_attr *attr;
    uint32_t attr_n;
};

struct model_prop {
    const char *key, *value;
};

struct model {
    uint32_t opset;
    const struct model_value *value;
    const struct model_node *node;
    const uint32_t *input, *output; /* value indices; inputs without those that have a constant */
    const struct model_prop *prop;  /* metadata_props */
    uint32_t value_n, node_n, input_n, output_n, prop_n;
    struct model_priv *priv;
};

struct model_limits {
    size_t file_bytes_max;
    size_t live_bytes_max; /* memory held at one time while loading, the file itself apart */
    size_t work_bytes_max; /* memory asked for in sum: bounds the time of parsing, by count not
                              clock */
    uint32_t nodes_max, values_max;
};
/* For a file of file_bytes: live 3 times that plus 64 MiB, work 6 times that plus 256 MiB. */
struct model_limits model_limits_default(size_t file_bytes);

/* bytes: borrowed until return. Returns RC_OK, RC_INVAL (not served or malformed: the message names
 * node, operator and reason), RC_RANGE (a limit), RC_NOMEM. model_free gives all memory back. */
MUST_CHECK enum rc model_load(const void *bytes, size_t n, const struct model_limits *limits,
                              struct model **ret_model, struct err *reterr);
void model_free(struct model *m); /* NULL: nothing */

/* The shape of every value, and the numbers that follow from shapes: small integer tensors such as
 * Shape's output and what is computed from it (Gather, Concat, Mul, ...). They are worked out here,
 * so that a backend never sees them. */
#define MODEL_HOST_MAX 64 /* elements of such a tensor */
struct model_host;
struct model_shapes {
    const struct model *m;
    struct model_shape *shape; /* per value */
    struct model_host **host;  /* per value; NULL: not known before the model runs */
    enum model_dtype *dtype;   /* per value; written while loading only */
    bool bound;                /* every input dim is known */
    struct model_host *block;  /* of host, after model_bind() */
};
/* For given input shapes (in the order of m->input; every dim known), checked against what the
 * model declares. RC_INVAL names the node; RC_NOMEM. model_shapes_free gives it back. */
MUST_CHECK enum rc model_bind(const struct model *m, const struct model_shape *in,
                              struct model_shapes *ret, struct err *reterr);
void model_shapes_free(struct model_shapes *s); /* zeroed: nothing */
/* The elements of value v in its own type, when they follow from shapes; at most MODEL_HOST_MAX * 8
 * bytes. False: they don't. */
bool model_shapes_known(const struct model_shapes *s, uint32_t v,
                        uint8_t ret_bytes[MODEL_HOST_MAX * 8]);

const char *model_prop_get(const struct model *m, const char *key); /* NULL: none */
const struct model_attr *model_attr_get(const struct model_node *n, const char *name);
int64_t model_attr_i(const struct model_node *n, const char *name, int64_t dflt);
float model_attr_f(const struct model_node *n, const char *name, float dflt);
const char *model_op_name(enum model_op op);
const char *model_dtype_name(enum model_dtype t); /* "float32" */
size_t model_dtype_bytes(enum model_dtype t);     /* 0 for a type that is not served */
/* "[N, 3, ?, ?]"-like text for messages: "[?, 3, 16, 16]" */
const char *model_shape_text(const struct model_shape *s, char text[128]);
/* Element count; false when a dim is unknown or the product passes 2^40. */
bool model_shape_count(const struct model_shape *s, uint64_t *ret_n);

/* Geometry of Conv and pooling, spatial dims resolved (auto_pad, ceil_mode); used by lowering too.
 */
struct model_window {
    uint8_t dims; /* 1 to 3 */
    int64_t kernel[3], stride[3], dilation[3], pad_begin[3], pad_end[3], out[3];
};
/* x: bound or partly unknown; unknown spatial dims give out = MODEL_DIM_ANY. w: the weights; NULL:
 * 'kernel_shape' tells. */
MUST_CHECK enum rc model_window(const struct model_node *n, const struct model_shape *x,
                                const struct model_shape *w, struct model_window *ret_w,
                                struct err *reterr);
/* Of ConvTranspose: out = stride * (in - 1) + output_padding + reach - pad_begin - pad_end. */
MUST_CHECK enum rc model_window_transposed(const struct model_node *n, const struct model_shape *x,
                                           const struct model_shape *w, struct model_window *ret_w,
                                           struct err *reterr);
/* The axis list of a reduction, Squeeze or Unsqueeze: attribute or input, made positive for `rank`,
 * sorted. *ret_n = 0: none given. */
MUST_CHECK enum rc model_axes(const struct model_shapes *c, const struct model_node *n,
                              uint8_t rank, uint8_t ret_axis[MODEL_RANK_MAX], uint8_t *ret_n,
                              struct err *reterr);

/* Transpose, Slice, Split, Expand: y's dim i walks x's dim src[i] from start[i] by step[i]; src[i]
 * = -1: it repeats one element of x. */
struct model_copy {
    struct model_shape y;
    int8_t src[MODEL_RANK_MAX];
    int64_t start[MODEL_RANK_MAX], step[MODEL_RANK_MAX];
};
MUST_CHECK enum rc model_copy(const struct model_shapes *c, const struct model_node *n,
                              uint32_t out_idx, struct model_copy *ret, struct err *reterr);

struct model_pad {
    enum { MODEL_PAD_CONSTANT, MODEL_PAD_REFLECT, MODEL_PAD_EDGE } mode;
    int64_t begin[MODEL_RANK_MAX], end[MODEL_RANK_MAX]; /* MODEL_PAD_UNKNOWN before binding */
};
#define MODEL_PAD_UNKNOWN INT64_MIN
MUST_CHECK enum rc model_pad(const struct model_shapes *c, const struct model_node *n,
                             struct model_pad *ret, struct err *reterr);

/* Resize: where y's place lies in x, per dim: nearest or linear. */
struct model_resize {
    bool linear;
    enum {
        MODEL_HALF_PIXEL,
        MODEL_PYTORCH_HALF_PIXEL,
        MODEL_ALIGN_CORNERS,
        MODEL_ASYMMETRIC
    } coord;
    enum { MODEL_ROUND_PREFER_FLOOR, MODEL_ROUND_PREFER_CEIL, MODEL_FLOOR, MODEL_CEIL } nearest;
    struct model_shape y;
    float scale[MODEL_RANK_MAX]; /* y / x as the model states it; 0 before binding */
};
MUST_CHECK enum rc model_resize(const struct model_shapes *c, const struct model_node *n,
                                struct model_resize *ret, struct err *reterr);
