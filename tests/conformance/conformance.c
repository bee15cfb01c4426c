/* tests/conformance/conformance.c - every operator of computed/backend/backend.h, over random
 * shapes, on one backend against the plain C of computed/backend/ref. conformance BACKEND DIR SEED
 * ROUNDS PRECISION [OP] A failure prints the seed of its case, the worst index and both numbers;
 * `SEED 1` repeats it. */
#include "computed/backend/ref/ref.h"
#include "common/base/strutil.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Normalised mean square error; float sums of a few hundred terms stay below 1e-12, a wrong tap or
 * pad lies far above. */
#define NMSE_MAX 1e-10
/* Rounding each value to 11 or 8 bits gives (2^-11)^2 / 3 = 8e-8 and 5e-6; sums that cancel, and
 * steep functions, raise it. TF32 rounds the operands of products as float16 does. */
static const struct {
    const char *name;
    enum be_precision p;
    double nmse_max;
} PRECISIONS[] = {{"fp32", BE_FP32, NMSE_MAX},
                  {"tf32", BE_TF32, 1e-5},
                  {"fp16", BE_PREC_F16, 1e-5},
                  {"bf16", BE_PREC_BF16, 5e-4}};
#define TENSORS 10

struct prng {
    uint64_t s;
};
static uint64_t next(struct prng *r) /* splitmix64 */
{
    uint64_t z = (r->s += 0x9e3779b97f4a7c15u);

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}
static int64_t pick(struct prng *r, int64_t lo, int64_t hi)
{
    return lo + (int64_t)(next(r) % (uint64_t)(hi - lo + 1));
}
static float real(struct prng *r, float lo, float hi)
{
    return lo + (hi - lo) * (float)((double)(next(r) >> 11) / 9007199254740992.0);
}

struct scene {
    struct be_tensor t[TENSORS];
    void *bytes[TENSORS];
    uint32_t t_n;
    struct be_node n;
    uint32_t in[8], input[8], output[1];
    struct be_graph g;
    float lo, hi; /* of the values */
};

static uint32_t tensor(struct scene *s, enum be_dtype type, uint8_t rank, const int64_t *dim)
{
    struct be_tensor *t = &s->t[s->t_n];

    CHECK(s->t_n < TENSORS);
    *t = (struct be_tensor){.dtype = type, .rank = rank, .name = "t"};
    for (uint8_t i = 0; i < rank; i++)
        t->dim[i] = dim[i];
    return s->t_n++;
}

static void add_in(struct scene *s, uint32_t t)
{
    s->in[s->n.in_n++] = t;
}

static void fill(struct prng *r, struct scene *s, uint32_t idx)
{
    struct be_tensor *t = &s->t[idx];
    uint64_t n = be_tensor_count(t);
    size_t w = be_dtype_bytes(t->dtype);

    s->bytes[idx] = malloc(MAX((size_t)n * w, 1));
    CHECK(s->bytes[idx] != NULL);
    for (uint64_t i = 0; i < n; i++) {
        uint8_t *p = (uint8_t *)s->bytes[idx] + i * w;
        float f = real(r, s->lo, s->hi);
        int64_t v = pick(r, -300, 300);
        int32_t v32 = (int32_t)v;

        if (t->dtype == BE_F32) memcpy(p, &f, 4);
        if (t->dtype == BE_I32) memcpy(p, &v32, 4);
        if (t->dtype == BE_I64) memcpy(p, &v, 8);
        if (t->dtype == BE_U8) *p = (uint8_t)v;
        if (t->dtype == BE_BOOL) *p = v > 0;
    }
}

static void act(struct prng *r, struct scene *s)
{
    s->n.act = pick(r, 0, 2) == 0 ? BE_ACT_NONE : (enum be_act)pick(r, BE_ACT_RELU, BE_ACT_N - 1);
    s->n.lo = real(r, -1, 0.2f);
    s->n.hi = pick(r, 0, 7) == 0 ? s->n.lo - 0.1f : s->n.lo + real(r, 0, 2);
}

/* Kernel, stride, padding of a window over spatial dims in; the output's dims. */
static void window(struct prng *r, struct be_window *w, uint8_t dims, const int64_t *in,
                   int64_t *ret_out, bool pool)
{
    w->dims = dims;
    for (uint8_t i = 0; i < dims; i++) {
        int64_t span;

        do {
            w->kernel[i] = pick(r, 1, dims == 3 ? 3 : 5);
            w->dilation[i] = pick(r, 0, 3) == 0 ? 2 : 1;
            w->stride[i] = pick(r, 1, 3);
            w->pad_begin[i] = pick(r, 0, w->kernel[i] - 1);
            w->pad_end[i] = pick(r, 0, w->kernel[i] - 1);
            if (pool && w->dilation[i] > 1) w->pad_begin[i] = w->pad_end[i] = 0;
            span = (w->kernel[i] - 1) * w->dilation[i] + 1;
        } while (in[i] + w->pad_begin[i] + w->pad_end[i] < span);
        ret_out[i] = (in[i] + w->pad_begin[i] + w->pad_end[i] - span) / w->stride[i] + 1;
    }
}

static void make_conv(struct prng *r, struct scene *s)
{
    uint8_t dims = (uint8_t)pick(r, 1, 3), rank = (uint8_t)(dims + 2);
    int64_t groups = pick(r, 0, 2) == 0 ? pick(r, 2, 4) : 1;
    int64_t cg = pick(r, 1, 5), mg = pick(r, 1, 9), x[5], w[5], y[5];
    uint32_t tx, tw, tb = BE_NONE;

    x[0] = y[0] = pick(r, 1, 2);
    x[1] = groups * cg;
    w[0] = y[1] = groups * mg;
    w[1] = cg;
    for (uint8_t i = 0; i < dims; i++)
        x[2 + i] = pick(r, 1, dims == 3 ? 7 : 19);
    window(r, &s->n.u.conv.window, dims, x + 2, y + 2, false);
    for (uint8_t i = 0; i < dims; i++)
        w[2 + i] = s->n.u.conv.window.kernel[i];
    s->n.u.conv.groups = groups;
    tx = tensor(s, BE_F32, rank, x);
    tw = tensor(s, BE_F32, rank, w);
    if (pick(r, 0, 1) == 1) tb = tensor(s, BE_F32, 1, w);
    add_in(s, tx);
    add_in(s, tw);
    if (tb != BE_NONE) add_in(s, tb);
    if (pick(r, 0, 2) == 0) s->n.residual = tensor(s, BE_F32, rank, y);
    s->n.out = tensor(s, BE_F32, rank, y);
    act(r, s);
}

static void make_pool(struct prng *r, struct scene *s)
{
    uint8_t dims = (uint8_t)pick(r, 1, 3), rank = (uint8_t)(dims + 2);
    int64_t x[5], y[5];

    x[0] = y[0] = pick(r, 1, 2);
    x[1] = y[1] = pick(r, 1, 20);
    for (uint8_t i = 0; i < dims; i++)
        x[2 + i] = pick(r, 1, dims == 3 ? 7 : 19);
    window(r, &s->n.u.pool.window, dims, x + 2, y + 2, true);
    s->n.u.pool.kind = (enum be_pool)pick(r, BE_POOL_MAX, BE_POOL_AVG_PADDED);
    add_in(s, tensor(s, BE_F32, rank, x));
    s->n.out = tensor(s, BE_F32, rank, y);
}

static void make_matmul(struct prng *r, struct scene *s)
{
    bool batch = pick(r, 0, 1) == 1, xa = pick(r, 0, 1) == 1, xb = pick(r, 0, 1) == 1;
    uint8_t rank = batch ? 3 : 2, o = batch ? 1 : 0;
    int64_t b = pick(r, 1, 3), m = pick(r, 1, 33), n = pick(r, 1, 33), k = pick(r, 1, 65);
    int64_t da[3] = {b}, db[3] = {pick(r, 0, 1) == 1 ? 1 : b}, dy[3] = {b}, dc[3];

    da[o] = xa ? k : m;
    da[o + 1] = xa ? m : k;
    db[o] = xb ? n : k;
    db[o + 1] = xb ? k : n;
    dy[o] = m;
    dy[o + 1] = n;
    s->n.u.matmul.trans_a = xa;
    s->n.u.matmul.trans_b = xb;
    s->n.u.matmul.alpha = pick(r, 0, 1) == 1 ? 1 : real(r, -2, 2);
    s->n.u.matmul.beta = pick(r, 0, 1) == 1 ? 1 : real(r, -2, 2);
    add_in(s, tensor(s, BE_F32, rank, da));
    add_in(s, tensor(s, BE_F32, rank, db));
    switch (pick(r, 0, 4)) {
    case 0:
        add_in(s, tensor(s, BE_F32, 1, &n));
        break;
    case 1:
        add_in(s, tensor(s, BE_F32, rank, dy));
        break;
    case 2:
        dc[0] = m;
        dc[1] = 1;
        add_in(s, tensor(s, BE_F32, 2, dc));
        break;
    default:
        break;
    }
    if (pick(r, 0, 3) == 0) s->n.residual = tensor(s, BE_F32, rank, dy);
    s->n.out = tensor(s, BE_F32, rank, dy);
    act(r, s);
}

static uint8_t any_shape(struct prng *r, int64_t *d)
{
    uint8_t rank = (uint8_t)pick(r, 1, 5);

    for (uint8_t i = 0; i < rank; i++)
        d[i] = pick(r, 1, rank > 3 ? 5 : 12);
    return rank;
}

static void make_unary(struct prng *r, struct scene *s)
{
    int64_t d[BE_RANK_MAX];
    uint8_t rank = any_shape(r, d);

    s->n.u.unary = pick(r, 0, 1) == 0 ? BE_ACT : (enum be_unary)pick(r, BE_SQRT, BE_ERF);
    if (s->n.u.unary == BE_SQRT || s->n.u.unary == BE_LOG) s->lo = 0.01f;
    if (s->n.u.unary == BE_ACT || s->n.u.unary == BE_ERF) {
        s->lo = -5;
        s->hi = 5;
    }
    act(r, s);
    add_in(s, tensor(s, BE_F32, rank, d));
    s->n.out = tensor(s, BE_F32, rank, d);
}

static void make_binary(struct prng *r, struct scene *s)
{
    int64_t d[BE_RANK_MAX], a[BE_RANK_MAX], b[BE_RANK_MAX];
    uint8_t rank = any_shape(r, d), skip = 0;
    bool swap = pick(r, 0, 1) == 1;

    for (uint8_t i = 0; i < rank; i++) {
        a[i] = d[i];
        b[i] = pick(r, 0, 2) == 0 ? 1 : d[i];
        if (pick(r, 0, 5) == 0) a[i] = 1;
        d[i] = MAX(a[i], b[i]);
    }
    while (skip + 1 < rank && b[skip] == 1)
        skip++; /* a shorter rank means the same */
    s->n.u.binary = (enum be_binary)pick(r, BE_ADD, BE_MAX);
    if (s->n.u.binary == BE_POW || s->n.u.binary == BE_DIV) s->lo = 0.1f;
    if (swap) add_in(s, tensor(s, BE_F32, (uint8_t)(rank - skip), b + skip));
    add_in(s, tensor(s, BE_F32, rank, a));
    if (!swap) add_in(s, tensor(s, BE_F32, (uint8_t)(rank - skip), b + skip));
    s->n.out = tensor(s, BE_F32, rank, d);
    act(r, s);
}

static void make_affine(struct prng *r, struct scene *s)
{
    int64_t d[BE_RANK_MAX];
    uint8_t rank = any_shape(r, d);

    if (rank < 2) d[rank++] = pick(r, 1, 9);
    add_in(s, tensor(s, BE_F32, rank, d));
    add_in(s, tensor(s, BE_F32, 1, d + 1));
    add_in(s, tensor(s, BE_F32, 1, d + 1));
    s->n.out = tensor(s, BE_F32, rank, d);
    act(r, s);
}

static void make_reduce(struct prng *r, struct scene *s)
{
    int64_t d[BE_RANK_MAX], y[BE_RANK_MAX];
    uint8_t rank = any_shape(r, d), yr = 0;
    bool keep = pick(r, 0, 1) == 1;

    s->n.u.reduce.kind = (enum be_reduce)pick(r, BE_REDUCE_MEAN, BE_REDUCE_MIN);
    s->n.u.reduce.axes = (uint32_t)pick(r, 1, (1 << rank) - 1);
    for (uint8_t i = 0; i < rank; i++) {
        bool gone = (s->n.u.reduce.axes >> i & 1) != 0;

        if (!gone || keep) y[yr++] = gone ? 1 : d[i];
    }
    add_in(s, tensor(s, BE_F32, rank, d));
    s->n.out = tensor(s, BE_F32, yr, y);
}

static void make_softmax(struct prng *r, struct scene *s)
{
    int64_t d[BE_RANK_MAX];
    uint8_t rank = any_shape(r, d);

    s->n.u.softmax.axis = (uint8_t)pick(r, 0, rank - 1);
    s->n.u.softmax.axis_end = (uint8_t)pick(r, s->n.u.softmax.axis + 1, rank);
    add_in(s, tensor(s, BE_F32, rank, d));
    s->n.out = tensor(s, BE_F32, rank, d);
}

static void make_concat(struct prng *r, struct scene *s)
{
    int64_t d[BE_RANK_MAX], sum = 0;
    uint8_t rank = any_shape(r, d), axis = (uint8_t)pick(r, 0, rank - 1);
    uint32_t parts = (uint32_t)pick(r, 1, 4);
    enum be_dtype type = pick(r, 0, 3) == 0 ? BE_I64 : BE_F32;

    s->n.u.concat_axis = axis;
    for (uint32_t i = 0; i < parts; i++) {
        d[axis] = pick(r, 1, 6);
        sum += d[axis];
        add_in(s, tensor(s, type, rank, d));
    }
    d[axis] = sum;
    s->n.out = tensor(s, type, rank, d);
}

static void make_cast(struct prng *r, struct scene *s)
{
    static const enum be_dtype types[] = {BE_F32, BE_U8, BE_I32, BE_I64, BE_BOOL};
    int64_t d[BE_RANK_MAX];
    uint8_t rank = any_shape(r, d);

    s->lo = -400;
    s->hi = 400;
    add_in(s, tensor(s, types[pick(r, 0, 4)], rank, d));
    s->n.out = tensor(s, types[pick(r, 0, 4)], rank, d);
}

static void make_view(struct prng *r, struct scene *s)
{
    int64_t d[BE_RANK_MAX], n = 1;
    uint8_t rank = any_shape(r, d);

    for (uint8_t i = 0; i < rank; i++)
        n *= d[i];
    add_in(s, tensor(s, BE_F32, rank, d));
    s->n.out = tensor(s, BE_F32, 1, &n);
}

/* The output's dims from the kernel's: stride * (in - 1) + span + more - padding. */
static void make_conv_t(struct prng *r, struct scene *s)
{
    uint8_t dims = (uint8_t)pick(r, 1, 3), rank = (uint8_t)(dims + 2);
    int64_t groups = pick(r, 0, 2) == 0 ? pick(r, 2, 3) : 1;
    int64_t cg = pick(r, 1, 5), mg = pick(r, 1, 20), x[5], w[5], y[5];
    struct be_window *v = &s->n.u.conv.window;
    uint32_t tx, tw;

    x[0] = y[0] = pick(r, 1, 2);
    x[1] = w[0] = groups * cg;
    y[1] = groups * mg;
    w[1] = mg;
    v->dims = dims;
    for (uint8_t i = 0; i < dims; i++) {
        do {
            v->kernel[i] = pick(r, 1, 4);
            v->dilation[i] = pick(r, 0, 3) == 0 ? 2 : 1;
            v->stride[i] = pick(r, 1, 3);
            v->pad_begin[i] = pick(r, 0, 2);
            v->pad_end[i] = pick(r, 0, 2);
            x[2 + i] = pick(r, 1, dims == 3 ? 5 : 9);
            y[2 + i] = v->stride[i] * (x[2 + i] - 1) + (v->kernel[i] - 1) * v->dilation[i] + 1 -
                       v->pad_begin[i] - v->pad_end[i] +
                       pick(r, 0, MAX(v->stride[i], v->dilation[i]) - 1);
        } while (y[2 + i] < 1);
        w[2 + i] = v->kernel[i];
    }
    s->n.u.conv.groups = groups;
    tx = tensor(s, BE_F32, rank, x);
    tw = tensor(s, BE_F32, rank, w);
    add_in(s, tx);
    add_in(s, tw);
    if (pick(r, 0, 1) == 1) add_in(s, tensor(s, BE_F32, 1, y + 1));
    s->n.out = tensor(s, BE_F32, rank, y);
    act(r, s);
}

static void make_inorm(struct prng *r, struct scene *s)
{
    int64_t d[5];
    uint8_t rank = (uint8_t)pick(r, 3, 5);

    d[0] = pick(r, 1, 3);
    d[1] = pick(r, 1, 40);
    for (uint8_t i = 2; i < rank; i++)
        d[i] = pick(r, 2, rank == 5 ? 6 : 15);
    s->n.u.norm.eps = 1e-5f;
    s->lo = -3;
    s->hi = 5;
    add_in(s, tensor(s, BE_F32, rank, d));
    add_in(s, tensor(s, BE_F32, 1, d + 1));
    add_in(s, tensor(s, BE_F32, 1, d + 1));
    s->n.out = tensor(s, BE_F32, rank, d);
    act(r, s);
}

static void make_lnorm(struct prng *r, struct scene *s)
{
    int64_t d[BE_RANK_MAX];
    uint8_t rank = any_shape(r, d), axis = (uint8_t)pick(r, 0, rank - 1);

    d[rank - 1] = pick(r, 4, 70);
    s->n.u.norm.eps = 1e-5f;
    s->n.u.norm.axis = axis;
    s->lo = -3;
    s->hi = 5;
    add_in(s, tensor(s, BE_F32, rank, d));
    add_in(s, tensor(s, BE_F32, (uint8_t)(rank - axis), d + axis));
    if (pick(r, 0, 1) == 1) add_in(s, tensor(s, BE_F32, (uint8_t)(rank - axis), d + axis));
    s->n.out = tensor(s, BE_F32, rank, d);
    act(r, s);
}

/* A permutation of dims, some of them cut, walked backwards, in steps or repeated. */
static void make_copy(struct prng *r, struct scene *s)
{
    static const enum be_dtype types[] = {BE_F32, BE_F32, BE_I64, BE_U8};
    enum be_dtype type = types[pick(r, 0, 3)];
    int64_t d[BE_RANK_MAX], y[BE_RANK_MAX], stride[BE_RANK_MAX], step = 1;
    uint8_t rank = any_shape(r, d), at[BE_RANK_MAX];

    for (uint8_t i = rank; i-- > 0;) {
        at[i] = i;
        stride[i] = step;
        step *= d[i];
    }
    for (uint8_t i = rank; pick(r, 0, 2) > 0 && i-- > 1;) { /* Fisher-Yates */
        uint8_t k = (uint8_t)pick(r, 0, i), t = at[i];

        at[i] = at[k];
        at[k] = t;
    }
    for (uint8_t i = 0; i < rank; i++) {
        int64_t n = d[at[i]], from = 0, walk = 1, len = n;

        switch (pick(r, 0, 5)) {
        case 0: /* Slice */
            walk = pick(r, 1, 3);
            from = pick(r, 0, n - 1);
            len = (n - from + walk - 1) / walk;
            break;
        case 1: /* backwards */
            walk = -1;
            from = n - 1;
            break;
        case 2: /* Expand */
            walk = 0;
            len = pick(r, 1, 4);
            break;
        default:
            break;
        }
        s->n.u.copy.off += from * stride[at[i]];
        s->n.u.copy.stride[i] = walk * stride[at[i]];
        y[i] = len;
    }
    add_in(s, tensor(s, type, rank, d));
    s->n.out = tensor(s, type, rank, y);
}

static void make_pad(struct prng *r, struct scene *s)
{
    int64_t d[BE_RANK_MAX], y[BE_RANK_MAX];
    uint8_t rank = any_shape(r, d);

    s->n.u.pad.kind = (enum be_pad)pick(r, BE_PAD_CONSTANT, BE_PAD_EDGE);
    s->n.u.pad.value = real(r, -1, 1);
    for (uint8_t i = 0; i < rank; i++) {
        bool constant = s->n.u.pad.kind == BE_PAD_CONSTANT;
        int64_t top = s->n.u.pad.kind == BE_PAD_REFLECT ? MIN(d[i] - 1, 3) : 3;
        int64_t low = constant ? -(d[i] - 1) / 2 : 0;

        s->n.u.pad.begin[i] = pick(r, low, top);
        y[i] = d[i] + s->n.u.pad.begin[i] + pick(r, low, top);
    }
    add_in(s, tensor(s, BE_F32, rank, d));
    s->n.out = tensor(s, BE_F32, rank, y);
}

/* The bytes of a constant that must hold something sensible. */
static void given(struct scene *s, uint32_t t, const void *p, size_t n)
{
    s->bytes[t] = malloc(MAX(n, 1));
    CHECK(s->bytes[t] != NULL);
    memcpy(s->bytes[t], p, n);
    s->t[t].konst = s->bytes[t];
}

static void make_gather(struct prng *r, struct scene *s)
{
    int64_t d[BE_RANK_MAX], index[12], n = pick(r, 1, 12);
    uint8_t rank = any_shape(r, d), axis = (uint8_t)pick(r, 0, rank - 1);
    enum be_dtype type = pick(r, 0, 3) == 0 ? BE_I64 : BE_F32;
    uint32_t k;

    add_in(s, tensor(s, type, rank, d));
    k = tensor(s, BE_I64, 1, &n);
    add_in(s, k);
    for (int64_t i = 0; i < n; i++)
        index[i] = pick(r, 0, d[axis] - 1);
    given(s, k, index, (size_t)n * 8);
    d[axis] = n;
    s->n.u.gather_axis = axis;
    s->n.out = tensor(s, type, rank, d);
}

static void make_resize(struct prng *r, struct scene *s)
{
    int64_t d[5], y[5], place[2 * 24], two[2] = {2};
    uint8_t rank = (uint8_t)pick(r, 3, 5);
    float weight[24];

    s->n.u.resize_linear = pick(r, 0, 1) == 1;
    d[0] = y[0] = pick(r, 1, 2);
    d[1] = y[1] = pick(r, 1, 20);
    for (uint8_t i = 2; i < rank; i++) {
        d[i] = pick(r, 1, rank == 5 ? 5 : 12);
        y[i] = pick(r, 1, rank == 5 ? 8 : 24);
    }
    add_in(s, tensor(s, BE_F32, rank, d));
    for (uint8_t i = 2; i < rank; i++) {
        uint32_t tp, tw;

        two[1] = y[i];
        tp = tensor(s, BE_I64, 2, two);
        tw = tensor(s, BE_F32, 1, &y[i]);
        for (int64_t o = 0; o < y[i]; o++) {
            place[o] = pick(r, 0, d[i] - 1);
            place[y[i] + o] = pick(r, 0, d[i] - 1);
            weight[o] = s->n.u.resize_linear ? real(r, 0, 1) : 0;
        }
        given(s, tp, place, (size_t)y[i] * 16);
        given(s, tw, weight, (size_t)y[i] * 4);
        add_in(s, tp);
        add_in(s, tw);
    }
    s->n.out = tensor(s, BE_F32, rank, y);
}

static const struct {
    const char *name;
    void (*make)(struct prng *r, struct scene *s);
} OPS[BE_OP_N] = {
    [BE_CONV] = {"conv", make_conv},          [BE_CONV_T] = {"conv_t", make_conv_t},
    [BE_POOL] = {"pool", make_pool},          [BE_MATMUL] = {"matmul", make_matmul},
    [BE_UNARY] = {"unary", make_unary},       [BE_BINARY] = {"binary", make_binary},
    [BE_AFFINE] = {"affine", make_affine},    [BE_INORM] = {"inorm", make_inorm},
    [BE_LNORM] = {"lnorm", make_lnorm},       [BE_REDUCE] = {"reduce", make_reduce},
    [BE_SOFTMAX] = {"softmax", make_softmax}, [BE_CONCAT] = {"concat", make_concat},
    [BE_CAST] = {"cast", make_cast},          [BE_VIEW] = {"view", make_view},
    [BE_COPY] = {"copy", make_copy},          [BE_PAD] = {"pad", make_pad},
    [BE_GATHER] = {"gather", make_gather},    [BE_RESIZE] = {"resize", make_resize},
};

static bool same(const struct be_tensor *t, const void *got, const void *want, double nmse_max,
                 uint64_t seed, const char *op)
{
    uint64_t n = be_tensor_count(t), worst = 0;
    const float *g = got, *w = want;
    double err = 0, norm = 0, top = -1;

    if (t->dtype != BE_F32) {
        if (memcmp(got, want, (size_t)n * be_dtype_bytes(t->dtype)) == 0) return true;
        (void)printf("FAILED %s seed %llu: other bytes\n", op, (unsigned long long)seed);
        return false;
    }
    for (uint64_t i = 0; i < n; i++) {
        double d = fabs((double)g[i] - (double)w[i]);

        if (isnan(d) && isnan(w[i]) && isnan(g[i])) d = 0;
        if (isnan(d)) d = INFINITY;
        err += d * d;
        norm += isfinite(w[i]) ? (double)w[i] * (double)w[i] : 0;
        if (d > top) {
            top = d;
            worst = i;
        }
    }
    if (err <= nmse_max * (norm + 1e-5 * (double)n)) return true;
    (void)printf("FAILED %s seed %llu: nmse %.3g, worst at %llu of %llu: %.9g, not %.9g\n", op,
                 (unsigned long long)seed, err / norm, (unsigned long long)worst,
                 (unsigned long long)n, (double)g[worst], (double)w[worst]);
    return false;
}

struct device {
    const struct be_ops *be;
    struct be_dev *d;
    struct be_plan *p;
    struct be_buf *in[8], *out[2];
    uint32_t input_n;
};

/* Its inputs filled with the scene's bytes, or with zeros, and run. */
static void fill_and_run(const struct device *x, const struct scene *s, bool zeros,
                         struct be_buf *out)
{
    struct err e;

    for (uint32_t i = 0; i < x->input_n; i++) {
        const struct be_tensor *t = &s->t[s->input[i]];
        size_t k = (size_t)be_tensor_count(t) * be_dtype_bytes(t->dtype);
        void *none = zeros ? calloc(1, MAX(k, 1)) : NULL;

        CHECK(!zeros || none != NULL);
        CHECK(x->be->upload(x->d, x->in[i], 0, zeros ? none : s->bytes[s->input[i]], k, &e) ==
              RC_OK);
        free(none);
    }
    CHECK(x->be->run(x->p, x->in, &out, &e) == RC_OK);
}

/* Constants are taken away again before the run: a plan must have copied them. Each run is followed
 * by one of other inputs in the same buffers before its result is looked at, three times over (the
 * second meets what the first left behind; a device may replay later ones). */
static bool run_case(const struct be_ops *be, struct be_dev *d, enum be_op op, size_t precision,
                     uint64_t seed)
{
    struct prng r = {.s = seed};
    struct scene s = {.lo = -1, .hi = 1};
    struct be_plan_conf conf = {
        .precision = PRECISIONS[precision].p, .bytes_max = (size_t)1 << 30, .threads = 1};
    struct device x = {.be = be, .d = d};
    void *want, *got;
    uint32_t weights = BE_NONE;
    struct err e;
    size_t n;
    bool ok = true;

    s.n = (struct be_node){.op = op, .name = OPS[op].name, .in = s.in, .residual = BE_NONE};
    OPS[op].make(&r, &s);
    for (uint32_t i = 0; i < s.t_n; i++)
        if (s.bytes[i] == NULL) fill(&r, &s, i);
    if (s.n.in_n > 1 && s.t[s.in[1]].konst == NULL && pick(&r, 0, 1) == 1) weights = s.in[1];
    for (uint32_t i = 0; i < s.t_n; i++) {
        if (i == weights)
            s.t[i].konst = s.bytes[i];
        else if (i != s.n.out && s.t[i].konst == NULL)
            s.input[x.input_n++] = i;
    }
    s.output[0] = s.n.out;
    s.g = (struct be_graph){.tensor = s.t,
                            .node = &s.n,
                            .input = s.input,
                            .output = s.output,
                            .tensor_n = s.t_n,
                            .node_n = 1,
                            .input_n = x.input_n,
                            .output_n = 1};
    n = (size_t)be_tensor_count(&s.t[s.n.out]) * be_dtype_bytes(s.t[s.n.out].dtype);
    CHECK(ref_check(&s.g, &s.n, &e) == RC_OK);
    ref_run(&s.g, &s.n, s.bytes);
    want = s.bytes[s.n.out];
    got = calloc(1, MAX(n, 1));
    CHECK(got != NULL);
    if (be->plan(d, &s.g, &conf, &x.p, &e) != RC_OK) {
        (void)printf("FAILED %s seed %llu: %s\n", OPS[op].name, (unsigned long long)seed, e.msg);
        return false;
    }
    for (uint32_t i = 0; i < x.input_n; i++) {
        const struct be_tensor *t = &s.t[s.input[i]];

        CHECK(be->buf_alloc(d, (size_t)be_tensor_count(t) * be_dtype_bytes(t->dtype), &x.in[i],
                            &e) == RC_OK);
    }
    if (weights != BE_NONE)
        memset(s.bytes[weights], 0x55, (size_t)be_tensor_count(&s.t[weights]) * 4);
    for (int k = 0; k < 2; k++)
        CHECK(be->buf_alloc(d, n, &x.out[k], &e) == RC_OK);
    for (int k = 0; ok && k < 3; k++) {
        fill_and_run(&x, &s, /* zeros= */ false, x.out[0]);
        fill_and_run(&x, &s, /* zeros= */ true, x.out[1]);
        CHECK(be->download(d, x.out[0], 0, got, n, &e) == RC_OK);
        ok = same(&s.t[s.n.out], got, want, PRECISIONS[precision].nmse_max, seed, OPS[op].name);
    }
    CHECK(be->sync(d, &e) == RC_OK);
    for (int k = 0; k < 2; k++)
        be->buf_free(d, x.out[k]);
    for (uint32_t i = 0; i < x.input_n; i++)
        be->buf_free(d, x.in[i]);
    be->plan_free(x.p);
    free(got);
    for (uint32_t i = 0; i < s.t_n; i++)
        free(s.bytes[i]);
    return ok;
}

int main(int argc, char **argv)
{
    const struct be_ops *be;
    uint64_t seed, rounds, bad = 0, cases = 0;
    size_t precision = 0;
    struct be_dev *d;
    struct err e;

    while (argc > 5 && precision < ARRAY_N(PRECISIONS) &&
           strcmp(PRECISIONS[precision].name, argv[5]) != 0)
        precision++;
    if (argc < 6 || !str_to_u64(argv[3], UINT64_MAX, &seed) ||
        !str_to_u64(argv[4], 1000000, &rounds) || precision == ARRAY_N(PRECISIONS)) {
        (void)fprintf(stderr, "usage: conformance BACKEND DIR SEED ROUNDS fp32|tf32|fp16|bf16 "
                              "[OP]\n");
        return 2;
    }
    if (be_load(argv[1], argv[2], &be, &e) != RC_OK || be->probe(&e) != RC_OK ||
        be->open(0, &d, &e) != RC_OK) {
        (void)printf("%s: %s\n", argv[1], e.msg);
        return e.rc == RC_UNAVAIL ? 77 : 1; /* no such device here: skipped, aloud */
    }
    for (uint64_t i = 0; i < rounds; i++) {
        for (int op = 0; op < BE_OP_N; op++) {
            if (argc > 6 && strcmp(argv[6], OPS[op].name) != 0) continue;
            cases++;
            bad += !run_case(be, d, (enum be_op)op, precision, seed + i);
        }
    }
    (void)printf("%s, %s: %llu cases, %llu failed (seeds %llu to %llu)\n", be->text(d),
                 PRECISIONS[precision].name, (unsigned long long)cases, (unsigned long long)bad,
                 (unsigned long long)seed, (unsigned long long)(seed + rounds - 1));
    be->close(d);
    return bad != 0;
}
