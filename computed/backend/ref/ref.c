/* computed/backend/ref/ref.c - elementwise operators, reductions, Softmax,
 * Concat, Cast, and which nodes are served.
 *
 * Source: ONNX Relu-14, Clip-13, Sigmoid-13, LeakyRelu-6, HardSigmoid-6, HardSwish-14, Erf-13,
 * Pow-15, ReduceMean-13, Softmax-13 (and 11), Concat-13, Cast-13, BatchNormalization-15 as y = x *
 * scale + shift.
 */
#include "computed/backend/ref/ref.h"
#include "computed/backend/ref/ref_priv.h"
#include <math.h>
#include <string.h>

float ref_act(enum be_act act, float lo, float hi, float v)
{
    double d = (double)v;

    switch (act) {
    case BE_ACT_NONE:
        return v;
    case BE_ACT_RELU:
        return v < 0 ? 0 : v;
    case BE_ACT_CLIP: /* min(max(v, lo), hi): with lo > hi it gives hi */
        v = v < lo ? lo : v;
        return v > hi ? hi : v;
    case BE_ACT_SIGMOID:
        return (float)(1.0 / (1.0 + exp(-d)));
    case BE_ACT_TANH:
        return tanhf(v);
    case BE_ACT_LEAKY_RELU:
        return v < 0 ? lo * v : v;
    case BE_ACT_HARD_SIGMOID:
        d = (double)lo * d + (double)hi;
        return (float)(d < 0 ? 0 : d > 1 ? 1 : d);
    case BE_ACT_HARD_SWISH: {
        double h = d / 6 + 0.5;

        return (float)(d * (h < 0 ? 0 : h > 1 ? 1 : h));
    }
    case BE_ACT_SWISH:
        return (float)(d / (1.0 + exp(-d)));
    case BE_ACT_GELU:
        return (float)(d * 0.5 * (1.0 + erf(d * 0.70710678118654752440)));
    case BE_ACT_N:
        break;
    }
    CHECK(false); /* no such activation */
    return v;
}

void ref_strides(const struct be_tensor *t, uint8_t rank, int64_t ret[BE_RANK_MAX])
{
    int64_t step = 1;

    for (uint8_t i = 0; i < rank; i++) { /* from the last dim */
        int64_t d = i < t->rank ? t->dim[t->rank - 1 - i] : 1;

        ret[rank - 1 - i] = d == 1 ? 0 : step;
        step *= d;
    }
}

void ref_next(const struct be_tensor *t, int64_t idx[BE_RANK_MAX])
{
    for (uint8_t i = t->rank; i-- > 0;) {
        if (++idx[i] < t->dim[i]) return;
        idx[i] = 0;
    }
}

static float unary(const struct be_node *n, float v)
{
    switch (n->u.unary) {
    case BE_ACT:
        return v;
    case BE_SQRT:
        return sqrtf(v);
    case BE_ABS:
        return fabsf(v);
    case BE_EXP:
        return expf(v);
    case BE_LOG:
        return logf(v);
    case BE_NEG:
        return -v;
    case BE_ERF:
        return erff(v);
    }
    CHECK(false); /* no such operator */
    return v;
}

static float binary(enum be_binary op, float a, float b)
{
    switch (op) {
    case BE_ADD:
        return a + b;
    case BE_SUB:
        return a - b;
    case BE_MUL:
        return a * b;
    case BE_DIV:
        return a / b;
    case BE_POW:
        return powf(a, b);
    case BE_MIN:
        return a < b || isnan(a) ? a : b;
    case BE_MAX:
        return a > b || isnan(a) ? a : b;
    }
    CHECK(false); /* no such operator */
    return a;
}

static void run_binary(const struct be_graph *g, const struct be_node *n, void *const *data)
{
    const struct be_tensor *ty = &g->tensor[n->out];
    const float *a = data[n->in[0]], *b = data[n->in[1]];
    int64_t sa[BE_RANK_MAX], sb[BE_RANK_MAX], idx[BE_RANK_MAX] = {0};
    uint64_t total = be_tensor_count(ty);
    float *y = data[n->out];

    ref_strides(&g->tensor[n->in[0]], ty->rank, sa);
    ref_strides(&g->tensor[n->in[1]], ty->rank, sb);
    for (uint64_t e = 0; e < total; e++) {
        int64_t oa = 0, ob = 0;

        for (uint8_t d = 0; d < ty->rank; d++) {
            oa += idx[d] * sa[d];
            ob += idx[d] * sb[d];
        }
        y[e] = ref_act(n->act, n->lo, n->hi, binary(n->u.binary, a[oa], b[ob]));
        ref_next(ty, idx);
    }
}

static void run_affine(const struct be_graph *g, const struct be_node *n, void *const *data)
{
    const struct be_tensor *t = &g->tensor[n->in[0]];
    const float *x = data[n->in[0]], *scale = data[n->in[1]], *shift = data[n->in[2]];
    uint64_t total = be_tensor_count(t), inner = 1, channels = (uint64_t)t->dim[1];
    float *y = data[n->out];

    for (uint8_t i = 2; i < t->rank; i++)
        inner *= (uint64_t)t->dim[i];
    for (uint64_t e = 0; e < total; e++) {
        uint64_t c = e / inner % channels;

        y[e] = ref_act(n->act, n->lo, n->hi, x[e] * scale[c] + shift[c]);
    }
}

/* For each place of the output walks the reduced dims of x. */
static void run_reduce(const struct be_graph *g, const struct be_node *n, void *const *data)
{
    const struct be_tensor *t = &g->tensor[n->in[0]];
    struct be_tensor kept = *t, gone = *t;
    int64_t step[BE_RANK_MAX], o[BE_RANK_MAX] = {0}, s = 1;
    const float *x = data[n->in[0]];
    float *y = data[n->out];
    uint64_t out_n, in_n;

    for (uint8_t i = t->rank; i-- > 0;) {
        step[i] = s;
        s *= t->dim[i];
        if ((n->u.reduce.axes >> i & 1) != 0)
            kept.dim[i] = 1;
        else
            gone.dim[i] = 1;
    }
    out_n = be_tensor_count(&kept);
    in_n = be_tensor_count(&gone);
    for (uint64_t e = 0; e < out_n; e++) {
        int64_t k[BE_RANK_MAX] = {0};
        double sum = 0;
        float lo = INFINITY, hi = -INFINITY;

        for (uint64_t r = 0; r < in_n; r++) {
            int64_t at = 0;

            for (uint8_t i = 0; i < t->rank; i++)
                at += (o[i] + k[i]) * step[i];
            sum += (double)x[at];
            lo = binary(BE_MIN, x[at], lo);
            hi = binary(BE_MAX, x[at], hi);
            ref_next(&gone, k);
        }
        switch (n->u.reduce.kind) {
        case BE_REDUCE_MEAN:
            y[e] = (float)(sum / (double)in_n);
            break;
        case BE_REDUCE_SUM:
            y[e] = (float)sum;
            break;
        case BE_REDUCE_MAX:
            y[e] = hi;
            break;
        case BE_REDUCE_MIN:
            y[e] = lo;
            break;
        }
        ref_next(&kept, o);
    }
}

static void run_softmax(const struct be_graph *g, const struct be_node *n, void *const *data)
{
    const struct be_tensor *t = &g->tensor[n->in[0]];
    uint64_t outer = 1, inner = 1, len = 1;
    const float *x = data[n->in[0]];
    float *y = data[n->out];

    for (uint8_t i = 0; i < t->rank; i++) {
        uint64_t *p = i < n->u.softmax.axis ? &outer : i < n->u.softmax.axis_end ? &len : &inner;

        *p *= (uint64_t)t->dim[i];
    }
    for (uint64_t o = 0; o < outer; o++) {
        for (uint64_t i = 0; i < inner; i++) {
            uint64_t base = o * len * inner + i;
            float top = -INFINITY;
            double sum = 0;

            for (uint64_t k = 0; k < len; k++)
                top = fmaxf(top, x[base + k * inner]);
            for (uint64_t k = 0; k < len; k++)
                sum += exp((double)x[base + k * inner] - (double)top);
            for (uint64_t k = 0; k < len; k++)
                y[base + k * inner] = (float)(exp((double)x[base + k * inner] - (double)top) / sum);
        }
    }
}

static void run_concat(const struct be_graph *g, const struct be_node *n, void *const *data)
{
    const struct be_tensor *ty = &g->tensor[n->out];
    uint64_t outer = 1, inner = be_dtype_bytes(ty->dtype);
    uint8_t *y = data[n->out];

    for (uint8_t i = 0; i < ty->rank; i++) {
        if (i < n->u.concat_axis) outer *= (uint64_t)ty->dim[i];
        if (i > n->u.concat_axis) inner *= (uint64_t)ty->dim[i];
    }
    for (uint64_t o = 0; o < outer; o++) {
        for (uint32_t k = 0; k < n->in_n; k++) {
            size_t len = (size_t)(inner * (uint64_t)g->tensor[n->in[k]].dim[n->u.concat_axis]);

            if (len > 0) memcpy(y, (const uint8_t *)data[n->in[k]] + o * len, len);
            y += len;
        }
    }
}

/* Integers pass through int64, floats through double: both hold every source
 * value. Float to integer truncates; out of range (undefined in ONNX) it
 * saturates, NaN gives 0. */
static void cast_one(enum be_dtype from, const uint8_t *s, enum be_dtype to, uint8_t *d)
{
    double f = 0;
    int64_t i = 0;
    int32_t i32;
    float f32;

    switch (from) {
    case BE_F32:
        memcpy(&f32, s, 4);
        f = (double)f32;
        i = isnan(f) ? 0 : f >= 0x1p63 ? INT64_MAX : f < -0x1p63 ? INT64_MIN : (int64_t)f;
        break;
    case BE_I32:
        memcpy(&i32, s, 4);
        i = i32;
        f = i32;
        break;
    case BE_I64:
        memcpy(&i, s, 8);
        f = (double)i;
        break;
    default: /* BE_U8, BE_BOOL: ref_check */
        i = *s;
        f = *s;
    }
    switch (to) {
    case BE_F32:
        f32 = (float)f;
        memcpy(d, &f32, 4);
        break;
    case BE_I32:
        i32 = (int32_t)MIN(MAX(i, INT32_MIN), INT32_MAX);
        memcpy(d, &i32, 4);
        break;
    case BE_I64:
        memcpy(d, &i, 8);
        break;
    case BE_BOOL:
        *d = from == BE_F32 ? f < 0 || f > 0 || isnan(f) : i != 0;
        break;
    default:
        *d = (uint8_t)MIN(MAX(i, 0), UINT8_MAX);
    }
}

static void run_cast(const struct be_graph *g, const struct be_node *n, void *const *data)
{
    const struct be_tensor *tx = &g->tensor[n->in[0]], *ty = &g->tensor[n->out];
    size_t sx = be_dtype_bytes(tx->dtype), sy = be_dtype_bytes(ty->dtype);
    uint64_t total = be_tensor_count(ty);

    for (uint64_t e = 0; e < total; e++)
        cast_one(tx->dtype, (const uint8_t *)data[n->in[0]] + e * sx, ty->dtype,
                 (uint8_t *)data[n->out] + e * sy);
}

enum rc ref_check(const struct be_graph *g, const struct be_node *n, struct err *reterr)
{
    bool any_type = n->op == BE_CAST || n->op == BE_VIEW || n->op == BE_CONCAT ||
                    n->op == BE_COPY || n->op == BE_GATHER || n->op == BE_RESIZE;

    for (uint32_t i = 0; i <= n->in_n; i++) {
        enum be_dtype t = g->tensor[i < n->in_n ? n->in[i] : n->out].dtype;

        if (n->op == BE_RESIZE && (i == 0 || i == n->in_n)) { /* its tables are checked by nobody */
            if (t != BE_F32)
                return err_set(reterr, RC_UNIMPL, "node '%.100s': only float32 is resized",
                               n->name);
            continue;
        }
        if (any_type ? t == BE_F16 || t == BE_BF16 : t != BE_F32)
            return err_set(reterr, RC_UNIMPL, "node '%.100s': element type %d is not served by ref",
                           n->name, (int)t);
    }
    return RC_OK;
}

void ref_run(const struct be_graph *g, const struct be_node *n, void *const *data)
{
    const struct be_tensor *ty = &g->tensor[n->out];
    uint64_t total = be_tensor_count(ty);

    switch (n->op) {
    case BE_CONV:
        ref_conv(g, n, data);
        return;
    case BE_CONV_T:
        ref_conv_t(g, n, data);
        return;
    case BE_POOL:
        ref_pool(g, n, data);
        return;
    case BE_MATMUL:
        ref_matmul(g, n, data);
        return;
    case BE_UNARY:
        for (uint64_t e = 0; e < total; e++)
            ((float *)data[n->out])[e] =
                ref_act(n->act, n->lo, n->hi, unary(n, ((const float *)data[n->in[0]])[e]));
        return;
    case BE_BINARY:
        run_binary(g, n, data);
        return;
    case BE_AFFINE:
        run_affine(g, n, data);
        return;
    case BE_INORM:
    case BE_LNORM:
        ref_norm(g, n, data);
        return;
    case BE_COPY:
        ref_copy(g, n, data);
        return;
    case BE_PAD:
        ref_pad(g, n, data);
        return;
    case BE_GATHER:
        ref_gather(g, n, data);
        return;
    case BE_RESIZE:
        ref_resize(g, n, data);
        return;
    case BE_REDUCE:
        run_reduce(g, n, data);
        return;
    case BE_SOFTMAX:
        run_softmax(g, n, data);
        return;
    case BE_CONCAT:
        run_concat(g, n, data);
        return;
    case BE_CAST:
        run_cast(g, n, data);
        return;
    case BE_VIEW:
        if (data[n->out] != data[n->in[0]] && total > 0)
            memcpy(data[n->out], data[n->in[0]], (size_t)total * be_dtype_bytes(ty->dtype));
        return;
    case BE_OP_N:
        break;
    }
    CHECK(false); /* ref_check() lets no other pass */
}
