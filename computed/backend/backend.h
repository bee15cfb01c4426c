/* computed/backend/backend.h - what a device must offer to run a lowered graph: a table of
 * functions behind one symbol of a plugin (a shared object), so that one computed binary runs
 * everywhere.
 *
 * The engine (computed/onnx) parses, checks, infers shapes, folds and fuses; a backend gets a short
 * list of nodes over tensors of known shape, turns it into a plan (packs weights, chooses kernels,
 * sizes workspace), and runs it. No device type is named here; a device's memory is a be_buf.
 *
 * Threads: one device handle and all that came from it belong to one thread at a time. run() may
 * only enqueue; sync() waits. Constants are borrowed until plan() returns: a backend copies what it
 * needs. */
#pragma once
#include "common/base/rc.h"

#define BE_ABI      4u /* raised with any change below; a plugin of another number is refused */
#define BE_SYMBOL   "mikura_backend"
#define BE_RANK_MAX 8
#define BE_NONE     UINT32_MAX
/* A device number of backends that can plan without a device: for tests. plan() works, run() is
 * RC_UNAVAIL. */
#define BE_PLAN_ONLY UINT32_MAX

enum be_dtype { BE_F32, BE_F16, BE_BF16, BE_U8, BE_I32, BE_I64, BE_BOOL };

struct be_tensor { /* row-major, contiguous, as seen from outside; inside a plan a backend may
                      differ */
    enum be_dtype dtype;
    uint8_t rank;
    int64_t dim[BE_RANK_MAX];
    const void *konst; /* host bytes of a constant; NULL: computed or an input */
    const char *name;  /* for messages */
};

/* y = act(v). lo, hi are its parameters: CLIP min(max(v, lo), hi); LEAKY_RELU v < 0 ? lo * v : v;
 * HARD_SIGMOID min(max(lo * v + hi, 0), 1); HARD_SWISH v * that with 1/6 and 1/2; SWISH v *
 * sigmoid(v); GELU v * (1 + erf(v / sqrt 2)) / 2. */
enum be_act {
    BE_ACT_NONE,
    BE_ACT_RELU,
    BE_ACT_CLIP,
    BE_ACT_SIGMOID,
    BE_ACT_TANH,
    BE_ACT_LEAKY_RELU,
    BE_ACT_HARD_SIGMOID,
    BE_ACT_HARD_SWISH,
    BE_ACT_SWISH,
    BE_ACT_GELU,
    BE_ACT_N
};

/* Those marked A end with y = act(y), those marked R with y = act(y + residual) where there is one;
 * a residual has y's shape. */
enum be_op {
    BE_CONV,    /* AR x, w [M, C / groups, kernel], [bias] */
    BE_CONV_T,  /* A  x, w [C, M / groups, kernel], [bias]: the transposed convolution */
    BE_POOL,    /*    x */
    BE_MATMUL,  /* AR a, b, [c]: y = alpha * op(a) op(b) + beta * c; batch dims and c broadcast */
    BE_UNARY,   /* A  x */
    BE_BINARY,  /* A  a, b: numpy broadcasting */
    BE_AFFINE,  /* A  x [N, C, ...], scale [C], shift [C]: y = x * scale + shift */
    BE_INORM,   /* A  x [N, C, ...], scale [C], shift [C]: each [n, c] to mean 0 and variance 1 */
    BE_LNORM,   /* A  x, scale, [shift]: over dims `axis` to the last, likewise */
    BE_REDUCE,  /*    x */
    BE_SOFTMAX, /*    x over `axis` .. `axis_end` - 1 taken as one */
    BE_CONCAT,  /*    any number of inputs, along `axis` */
    BE_CAST,    /*    to the type of the output */
    BE_VIEW,    /*    the same elements under another shape; may alias */
    BE_COPY,    /*    x: y[i] = x[off + sum of i * stride], in elements: Transpose, Slice, Expand */
    BE_PAD,     /*    x */
    BE_GATHER,  /*    x, indices (int64, a constant, all >= 0 and in range) along an axis */
    BE_RESIZE,  /*    x, then for each spatial dim: places int64 [2, out], weights f32 [out],
                   constants:  y = the sum over corners of x at places[0] * (1 - weight), [1] *
                   weight
                 */
    BE_OP_N
};
enum be_pool { BE_POOL_MAX, BE_POOL_AVG, BE_POOL_AVG_PADDED /* padding counts */ };
enum be_unary {
    BE_ACT /* nothing but the activation */,
    BE_SQRT,
    BE_ABS,
    BE_EXP,
    BE_LOG,
    BE_NEG,
    BE_ERF
};
enum be_binary { BE_ADD, BE_SUB, BE_MUL, BE_DIV, BE_POW, BE_MIN, BE_MAX };
enum be_reduce { BE_REDUCE_MEAN, BE_REDUCE_SUM, BE_REDUCE_MAX, BE_REDUCE_MIN };
enum be_pad { BE_PAD_CONSTANT, BE_PAD_REFLECT, BE_PAD_EDGE };

struct be_window {
    uint8_t dims; /* 1 to 3 spatial dimensions */
    int64_t kernel[3], stride[3], dilation[3], pad_begin[3], pad_end[3];
};

struct be_node {
    enum be_op op;
    const char *name;   /* of the ONNX node, for messages */
    const uint32_t *in; /* tensor indices */
    uint32_t in_n, out;
    uint32_t residual; /* R: tensor index or BE_NONE */
    enum be_act act;   /* A, R */
    float lo, hi;      /* of the activation */
    union {
        struct {
            struct be_window window;
            int64_t groups;
        } conv; /* and CONV_T: the padding is cut off from the output */
        struct {
            struct be_window window;
            enum be_pool kind;
        } pool;
        struct {
            bool trans_a, trans_b; /* of the last two dims */
            float alpha, beta;
        } matmul;
        enum be_unary unary;
        enum be_binary binary;
        struct {
            enum be_reduce kind;
            uint32_t axes; /* bit i: dim i is reduced (the output may lack it or keep it as 1) */
        } reduce;
        struct {
            uint8_t axis, axis_end;
        } softmax;
        uint8_t concat_axis;
        struct {
            float eps;
            uint8_t axis; /* LNORM */
        } norm;
        struct {
            int64_t off, stride[BE_RANK_MAX]; /* per dim of y; 0: repeated, negative: backwards */
        } copy;
        struct {
            enum be_pad kind;
            int64_t begin[BE_RANK_MAX]; /* negative: that many elements are cut off */
            float value;                /* BE_PAD_CONSTANT */
        } pad;
        uint8_t gather_axis;
        bool resize_linear; /* else the weights are all 0 */
    } u;
};

struct be_graph { /* nodes in an order that can be carried out as it stands */
    const struct be_tensor *tensor;
    const struct be_node *node;
    const uint32_t *input, *output; /* tensor indices */
    uint32_t tensor_n, node_n, input_n, output_n;
};

enum be_precision { BE_FP32, BE_TF32, BE_PREC_F16, BE_PREC_BF16 };
struct be_plan_conf {
    enum be_precision precision;
    size_t bytes_max; /* of device memory for weights, activations and workspace together */
    uint32_t threads; /* CPU backends; 0 = 1 */
};

struct be_dev;
struct be_buf;
struct be_plan;

struct be_ops {
    uint32_t abi;     /* BE_ABI */
    const char *name; /* "cpu", "cuda", "ref" */
    uint32_t batch;   /* pictures of 512 pixels a run that keep it busy; 0: one */
    bool overlaps;    /* transfers of other buffers go on during a run: worth two sets of them */

    /* Is there a device? RC_UNAVAIL with the reason where not. Must not change the process's state.
     */
    enum rc (*probe)(struct err *reterr);
    enum rc (*open)(uint32_t device_idx, struct be_dev **ret_dev, struct err *reterr);
    void (*close)(struct be_dev *d); /* after every plan and buffer of it is gone */
    const char *(*text)(
        const struct be_dev *d); /* "cpu (oneDNN 2.6.3)": recorded with each result */

    enum rc (*buf_alloc)(struct be_dev *d, size_t bytes, struct be_buf **ret_buf,
                         struct err *reterr);
    void (*buf_free)(struct be_dev *d, struct be_buf *b);
    enum rc (*upload)(struct be_dev *d, struct be_buf *b, size_t off, const void *src, size_t n,
                      struct err *reterr);
    enum rc (*download)(struct be_dev *d, const struct be_buf *b, size_t off, void *dst, size_t n,
                        struct err *reterr); /* waits for the runs before it over b */

    /* RC_UNIMPL names the node and what is not served; RC_NOMEM says how much is needed: try a
     * smaller batch. */
    enum rc (*plan)(struct be_dev *d, const struct be_graph *g, const struct be_plan_conf *conf,
                    struct be_plan **ret_plan, struct err *reterr);
    void (*plan_free)(struct be_plan *p);
    size_t (*plan_bytes)(const struct be_plan *p);
    /* What it decided, a line a step, for people and tests; cut at cap. May be NULL. */
    void (*plan_text)(const struct be_plan *p, char *buf, size_t cap);
    /* in, out: one buffer per graph input and output, large enough; they must not overlap. Comes
     * after the uploads into them and before later ones, as if at once. RC_IO: the device is lost,
     * leave the process. */
    enum rc (*run)(struct be_plan *p, struct be_buf *const *in, struct be_buf *const *out,
                   struct err *reterr);
    enum rc (*sync)(struct be_dev *d, struct err *reterr);
};

/* The one symbol of a plugin, found by BE_SYMBOL. */
typedef const struct be_ops *(*be_entry)(void);

/* "ref" is linked in; any other name is `computed_NAME.so`, looked for in dir (NULL:
 * $MIKURA_BACKENDS, else beside the running program). The plugin stays loaded. RC_NOTFOUND,
 * RC_INVAL (another ABI). */
MUST_CHECK enum rc be_load(const char *name, const char *dir, const struct be_ops **ret_ops,
                           struct err *reterr);

static inline size_t be_dtype_bytes(enum be_dtype t)
{
    static const uint8_t bytes[] = {4, 2, 2, 1, 4, 8, 1};

    return bytes[t];
}

static inline uint64_t be_tensor_count(const struct be_tensor *t)
{
    uint64_t n = 1;

    for (uint8_t i = 0; i < t->rank; i++)
        n *= (uint64_t)t->dim[i];
    return n;
}
