/* computed/backend/cuda/kern.h - the arithmetic of our own CUDA kernels, as functions of one output
 * place (or one row) that compile for the device (nvcc) and for the host (gcc, clang): so every
 * index and every number is tested without a GPU, by the plugin `cudahost` (dev_host.c).
 *
 * A kernel gets one of the structs below by value. h.p[0] is the output, the others are inputs; the
 * plan fills them before each run. Indices are 32 bits: no tensor has 2^31 elements (plan.c refuses
 * it). Values are float32 inside, whatever they are stored as; sums over many are compensated
 * (Kahan) or joined pairwise (Chan et al. 1979). Layouts are nothing but strides: dims stand in the
 * order in which the output lies in memory. */
#pragma once
#include <math.h>
#include <stdint.h>
#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#define K_FN static __device__ __forceinline__
#else
#include <stdbool.h>
#include <string.h>
#define K_FN static inline
#endif

#define K_RANK 8
#define K_PTRS 5

/* The same numbers as enum be_dtype, be_act, be_unary, ... (nodes.c checks that). */
enum k_type { K_F32, K_F16, K_BF16, K_U8, K_I32, K_I64, K_BOOL };
enum k_op { /* of k_map: the unary ones of backend.h, then the binary ones, then ours */
            K_ID,
            K_SQRT,
            K_ABS,
            K_EXP,
            K_LOG,
            K_NEG,
            K_ERF,
            K_ADD,
            K_SUB,
            K_MUL,
            K_DIV,
            K_POW,
            K_MIN,
            K_MAX,
            K_MULADD, /* x0 * x1 + x2 */
            K_SUM     /* x0 + beta * x1 + x2; x1, x2 may be absent */
};

struct k_head {
    void *p[K_PTRS];
    uint32_t n; /* places, or rows */
};
struct k_shape { /* of one loop over places: dims and the strides of up to three operands */
    uint32_t rank;
    uint32_t dim[K_RANK];
    int32_t s[3][K_RANK];
};
struct k_actor {
    int act; /* enum be_act */
    float lo, hi;
};

/* y[i] = act(op(x0, x1, x2)); y contiguous. p: y, x0, x1, x2. */
struct k_map {
    struct k_head h;
    struct k_shape at;
    struct k_actor act;
    int op, type[4]; /* of y, x0, x1, x2 */
    int operands;
    int32_t first3; /* where x2 begins in p[3], in elements */
    float beta;
};
/* y[y_off + i * s[0]] = x[x_off + i * s[1]], `bytes` each; with a table (int32) the place along dim
 * `table_dim` is looked up. p: y, x, table. */
struct k_copy {
    struct k_head h;
    struct k_shape at;
    int32_t y_off, x_off;
    int bytes, table_dim; /* -1: none */
};
/* Between any types; contiguous. p: y, x. */
struct k_cast {
    struct k_head h;
    int from, to;
};
/* p: y, x. Per dim of y: begin and x's size; s[0]: x's strides. */
struct k_pad {
    struct k_head h;
    struct k_shape at;
    int32_t begin[K_RANK], size[K_RANK];
    int kind, type; /* enum be_pad */
    float value;
};
/* [N, D, H, W, C] with windows; missing dims have size 1. */
struct k_space {
    int32_t in[3], out[3], kernel[3], stride[3], dil[3], pad[3];
};
/* y[n, o, c] over x[n, i, c]. p: y, x. */
struct k_pool {
    struct k_head h;
    struct k_space s;
    int32_t channels;
    int kind, type; /* enum be_pool */
};
/* Places int32 [2, out] and weights f32 [out] per dim, one behind the other: all places in p[2],
 * all weights in p[3]. p: y, x, places, weights. */
struct k_resize {
    struct k_head h;
    int32_t in[3], out[3], place[3], weight[3]; /* offsets into p[2], p[3] */
    int32_t channels;
    int linear, dims, type;
};
/* Direct convolution, for what cuDNN does not serve: x [n, i, c], w [m, k, c / groups], y [n, o,
 * m]; transposed: w [c, k, m / groups]. p: y, x, w, bias, residual (the last two may be absent). */
struct k_conv {
    struct k_head h;
    struct k_space s;
    struct k_actor act;
    int32_t in_c, out_c, groups;
    int transposed, type;
};
/* y[b, i, j] = alpha * sum a[b, i, k] b[b, k, j] + bias[j] + residual, for what cuBLASLt does not
 * serve. at: batch dims, s[0] of a, s[1] of b. p: y, a, b, bias, residual. */
struct k_mm {
    struct k_head h;
    struct k_shape at;
    struct k_actor act;
    int32_t rows, cols, inner;
    int32_t a_row, a_k, b_k, b_col; /* strides */
    float alpha;
    int type;
};
/* Rows: outer dims (s[0]: x's strides, s[1]: y's), inner dims the reduced ones. */
struct k_reduce {
    struct k_head h;
    struct k_shape outer, inner;
    uint32_t in_n;
    int kind, type, type_y; /* enum be_reduce */
};
/* One row a place of the outer dims; x and y lie alike. p: y, x. */
struct k_softmax {
    struct k_head h;
    struct k_shape outer, inner;
    uint32_t in_n;
    int type;
};
/* Rows of in_n contiguous values. p: y, x, scale, shift (f32 [in_n]; shift may be absent). */
struct k_lnorm {
    struct k_head h;
    struct k_actor act;
    uint32_t in_n;
    float eps;
    int type;
};
/* Of x [n, s, c], in chunks of s: mean and sum of squares about it, f32 [n, chunk, c, 2]. p: y, x.
 */
struct k_moments {
    struct k_head h;
    uint32_t channels, places, chunks, chunk; /* chunk: places of one; the last may have fewer */
    int type;
};
/* The chunks joined; what y = x * a + b needs: f32 a [n, c], b [n, c] one behind the other. p: y,
 * moments, scale [c], shift [c]. h.n: n * c */
struct k_join {
    struct k_head h;
    uint32_t channels, places, chunks, chunk;
    float eps;
};

enum k_id {
    K_MAP,
    K_COPY,
    K_CAST,
    K_PAD,
    K_RESIZE,
    K_POOL,
    K_CONV,
    K_MM,
    K_REDUCE,
    K_SOFTMAX,
    K_LNORM,
    K_MOMENTS,
    K_JOIN,
    K_N
};
union k_any { /* every one begins with its head */
    struct k_head h;
    struct k_map map;
    struct k_copy copy;
    struct k_cast cast;
    struct k_pad pad;
    struct k_resize resize;
    struct k_pool pool;
    struct k_conv conv;
    struct k_mm mm;
    struct k_reduce reduce;
    struct k_softmax softmax;
    struct k_lnorm lnorm;
    struct k_moments moments;
    struct k_join join;
};

/* Who works on a row together: a block of threads, or one. */
struct k_lane {
    uint32_t id, n;
};

#if defined(__CUDACC__) || defined(K_HOST)

/* ---- values ---- */
#ifndef __CUDACC__
static inline float k_half_to_float(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, e = h >> 10 & 31u, m = h & 1023u, bits;
    float f;

    if (e == 0) { /* zero or subnormal: m * 2^-24 */
        f = (float)m * 0x1p-24f;
        memcpy(&bits, &f, 4);
        bits |= sign;
    } else if (e == 31) {
        bits = sign | 0x7f800000u | m << 13;
    } else {
        bits = sign | (e + 112) << 23 | m << 13;
    }
    memcpy(&f, &bits, 4);
    return f;
}

static inline uint16_t k_float_to_half(float f) /* to the nearest, ties to even */
{
    uint32_t bits, sign, m;

    memcpy(&bits, &f, 4);
    sign = bits >> 16 & 0x8000u;
    bits &= 0x7fffffffu;
    if (bits > 0x7f800000u) return (uint16_t)(sign | 0x7e00u);  /* NaN */
    if (bits >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u); /* 65520 and above */
    if (bits < 0x38800000u) {                                   /* below 2^-14: subnormal */
        float a;

        memcpy(&a, &bits, 4);
        return (uint16_t)(sign | (uint32_t)nearbyintf(a * 0x1p24f));
    }
    m = bits + 0xfffu + (bits >> 13 & 1u);
    return (uint16_t)(sign | ((m >> 13) - (112u << 10)));
}

static inline float k_bf16_to_float(uint16_t h)
{
    uint32_t bits = (uint32_t)h << 16;
    float f;

    memcpy(&f, &bits, 4);
    return f;
}

static inline uint16_t k_float_to_bf16(float f)
{
    uint32_t bits;

    memcpy(&bits, &f, 4);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (uint16_t)(bits >> 16 | 0x40u);
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}
#endif

K_FN float k_get(int type, const void *p, int64_t i)
{
#ifdef __CUDACC__
    if (type == K_F16) return __half2float(((const __half *)p)[i]);
    if (type == K_BF16) return __bfloat162float(((const __nv_bfloat16 *)p)[i]);
#else
    if (type == K_F16) return k_half_to_float(((const uint16_t *)p)[i]);
    if (type == K_BF16) return k_bf16_to_float(((const uint16_t *)p)[i]);
#endif
    return ((const float *)p)[i];
}

K_FN void k_put(int type, void *p, int64_t i, float v)
{
#ifdef __CUDACC__
    if (type == K_F16)
        ((__half *)p)[i] = __float2half_rn(v);
    else if (type == K_BF16)
        ((__nv_bfloat16 *)p)[i] = __float2bfloat16_rn(v);
#else
    if (type == K_F16)
        ((uint16_t *)p)[i] = k_float_to_half(v);
    else if (type == K_BF16)
        ((uint16_t *)p)[i] = k_float_to_bf16(v);
#endif
    else
        ((float *)p)[i] = v;
}

/* backend.h: enum be_act */
K_FN float k_act(struct k_actor a, float v)
{
    float h;

    switch (a.act) {
    case 1: /* RELU */
        return v < 0 ? 0 : v;
    case 2: /* CLIP */
        v = v < a.lo ? a.lo : v;
        return v > a.hi ? a.hi : v;
    case 3: /* SIGMOID */
        return 1.0f / (1.0f + expf(-v));
    case 4: /* TANH */
        return tanhf(v);
    case 5: /* LEAKY_RELU */
        return v < 0 ? a.lo * v : v;
    case 6: /* HARD_SIGMOID */
        h = a.lo * v + a.hi;
        return h < 0 ? 0 : h > 1 ? 1 : h;
    case 7: /* HARD_SWISH */
        h = v / 6 + 0.5f;
        return v * (h < 0 ? 0 : h > 1 ? 1 : h);
    case 8: /* SWISH */
        return v / (1.0f + expf(-v));
    case 9: /* GELU */
        return v * 0.5f * (1.0f + erff(v * 0.70710678f));
    default:
        return v;
    }
}

/* Place i as offsets of the first `n` operands. */
K_FN void k_walk(const struct k_shape *t, uint32_t i, int n, int32_t off[3])
{
    off[0] = off[1] = off[2] = 0;
    for (uint32_t d = t->rank; d-- > 0;) {
        uint32_t q = i / t->dim[d];
        int32_t k = (int32_t)(i - q * t->dim[d]);

        i = q;
        for (int o = 0; o < n; o++)
            off[o] += k * t->s[o][d];
    }
}

/* ---- places ---- */
K_FN float k_apply(const struct k_map *p, float a, float b, float c)
{
    switch (p->op) {
    case K_SQRT:
        return sqrtf(a);
    case K_ABS:
        return fabsf(a);
    case K_EXP:
        return expf(a);
    case K_LOG:
        return logf(a);
    case K_NEG:
        return -a;
    case K_ERF:
        return erff(a);
    case K_ADD:
        return a + b;
    case K_SUB:
        return a - b;
    case K_MUL:
        return a * b;
    case K_DIV:
        return a / b;
    case K_POW:
        return powf(a, b);
    case K_MIN:
        return a < b || a != a ? a : b;
    case K_MAX:
        return a > b || a != a ? a : b;
    case K_MULADD:
        return a * b + c;
    case K_SUM:
        return a + p->beta * b + c;
    default:
        return a;
    }
}

K_FN void k_map_at(const struct k_map *p, uint32_t i)
{
    float v[3] = {0, 0, 0};
    int32_t off[3];

    k_walk(&p->at, i, p->operands, off);
    off[2] += p->first3;
    for (int o = 0; o < p->operands; o++)
        if (p->h.p[1 + o] != NULL) v[o] = k_get(p->type[1 + o], p->h.p[1 + o], off[o]);
    k_put(p->type[0], p->h.p[0], i, k_act(p->act, k_apply(p, v[0], v[1], v[2])));
}

K_FN void k_copy_at(const struct k_copy *p, uint32_t i)
{
    int32_t y = p->y_off, x = p->x_off;

    for (uint32_t d = p->at.rank; d-- > 0;) {
        uint32_t q = i / p->at.dim[d];
        int32_t k = (int32_t)(i - q * p->at.dim[d]);

        i = q;
        y += k * p->at.s[0][d];
        if ((int)d == p->table_dim) k = ((const int32_t *)p->h.p[2])[k];
        x += k * p->at.s[1][d];
    }
    switch (p->bytes) {
    case 1:
        ((uint8_t *)p->h.p[0])[y] = ((const uint8_t *)p->h.p[1])[x];
        break;
    case 2:
        ((uint16_t *)p->h.p[0])[y] = ((const uint16_t *)p->h.p[1])[x];
        break;
    case 4:
        ((uint32_t *)p->h.p[0])[y] = ((const uint32_t *)p->h.p[1])[x];
        break;
    default:
        ((uint64_t *)p->h.p[0])[y] = ((const uint64_t *)p->h.p[1])[x];
    }
}

/* As ref.c's cast_one(): floats saturate, NaN gives 0. */
K_FN void k_cast_at(const struct k_cast *p, uint32_t i)
{
    double f = 0;
    int64_t v = 0;
    bool is_float = p->from <= K_BF16;

    switch (p->from) {
    case K_I32:
        v = ((const int32_t *)p->h.p[1])[i];
        f = (double)v;
        break;
    case K_I64:
        v = ((const int64_t *)p->h.p[1])[i];
        f = (double)v;
        break;
    case K_U8:
    case K_BOOL:
        v = ((const uint8_t *)p->h.p[1])[i];
        f = (double)v;
        break;
    default:
        f = (double)k_get(p->from, p->h.p[1], i);
        v = f != f                       ? 0
            : f >= 9223372036854775808.0 ? INT64_MAX
            : f < -9223372036854775808.0 ? INT64_MIN
                                         : (int64_t)f;
    }
    switch (p->to) {
    case K_I32:
        ((int32_t *)p->h.p[0])[i] = (int32_t)(v < INT32_MIN   ? INT32_MIN
                                              : v > INT32_MAX ? INT32_MAX
                                                              : v);
        break;
    case K_I64:
        ((int64_t *)p->h.p[0])[i] = v;
        break;
    case K_BOOL:
        ((uint8_t *)p->h.p[0])[i] = is_float ? f < 0 || f > 0 || f != f : v != 0;
        break;
    case K_U8:
        ((uint8_t *)p->h.p[0])[i] = (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v);
        break;
    default:
        k_put(p->to, p->h.p[0], i, (float)f);
    }
}

K_FN void k_pad_at(const struct k_pad *p, uint32_t i)
{
    uint32_t at = i;
    int32_t off = 0;
    bool in = true;

    for (uint32_t d = p->at.rank; d-- > 0;) {
        uint32_t q = at / p->at.dim[d];
        int32_t k = (int32_t)(at - q * p->at.dim[d]) - p->begin[d], n = p->size[d];

        at = q;
        if (p->kind == 2) /* EDGE */
            k = k < 0 ? 0 : k >= n ? n - 1 : k;
        else if (p->kind == 1) /* REFLECT */
            k = k < 0 ? -k : k >= n ? 2 * (n - 1) - k : k;
        else
            in = in && k >= 0 && k < n;
        off += k * p->at.s[0][d];
    }
    k_put(p->type, p->h.p[0], i, in ? k_get(p->type, p->h.p[1], off) : p->value);
}

/* Place i of [n, d, h, w, c] taken apart: *ret_n, o, *ret_c. */
K_FN void k_unpack(uint32_t i, const int32_t size[3], uint32_t channels, uint32_t *ret_n,
                   int32_t o[3], uint32_t *ret_c)
{
    uint32_t q = i / channels;

    *ret_c = i - q * channels;
    for (int d = 3; d-- > 0;) {
        uint32_t r = q / (uint32_t)size[d];

        o[d] = (int32_t)(q - r * (uint32_t)size[d]);
        q = r;
    }
    *ret_n = q;
}

K_FN void k_pool_at(const struct k_pool *p, uint32_t i)
{
    const struct k_space *s = &p->s;
    uint32_t n, c;
    int32_t o[3], k[3], in, count = 0;
    float top = -INFINITY, sum = 0;

    k_unpack(i, s->out, (uint32_t)p->channels, &n, o, &c);
    for (k[0] = 0; k[0] < s->kernel[0]; k[0]++) {
        int32_t d = o[0] * s->stride[0] - s->pad[0] + k[0] * s->dil[0];

        if (d < 0 || d >= s->in[0]) continue;
        for (k[1] = 0; k[1] < s->kernel[1]; k[1]++) {
            int32_t h = o[1] * s->stride[1] - s->pad[1] + k[1] * s->dil[1];

            if (h < 0 || h >= s->in[1]) continue;
            for (k[2] = 0; k[2] < s->kernel[2]; k[2]++) {
                int32_t w = o[2] * s->stride[2] - s->pad[2] + k[2] * s->dil[2];
                float v;

                if (w < 0 || w >= s->in[2]) continue;
                in = ((((int32_t)n * s->in[0] + d) * s->in[1] + h) * s->in[2] + w) * p->channels +
                     (int32_t)c;
                v = k_get(p->type, p->h.p[1], in);
                sum += v;
                if (!(v <= top)) top = v; /* keeps a NaN */
                count++;
            }
        }
    }
    if (p->kind == 2) count = s->kernel[0] * s->kernel[1] * s->kernel[2]; /* AVG_PADDED */
    k_put(p->type, p->h.p[0], i, p->kind == 0 ? top : sum / (float)count);
}

K_FN void k_resize_at(const struct k_resize *p, uint32_t i)
{
    const int32_t *place = (const int32_t *)p->h.p[2];
    const float *weight = (const float *)p->h.p[3];
    int32_t o[3];
    uint32_t n, c;
    float sum = 0;

    k_unpack(i, p->out, (uint32_t)p->channels, &n, o, &c);
    for (int corner = 0; corner < (p->linear ? 1 << p->dims : 1); corner++) {
        int32_t at = (int32_t)n;
        float w = 1;

        for (int d = 0; d < 3; d++) {
            int bit = d - (3 - p->dims);
            int32_t k = 0;

            if (bit >= 0) {
                bool second = (corner >> bit & 1) != 0;
                float f = p->linear ? weight[p->weight[d] + o[d]] : 0;

                k = place[p->place[d] + o[d] + (second ? p->out[d] : 0)];
                if (p->linear) w *= second ? f : 1 - f;
            }
            at = at * p->in[d] + k;
        }
        sum += w * k_get(p->type, p->h.p[1], (int64_t)at * p->channels + (int32_t)c);
    }
    k_put(p->type, p->h.p[0], i, sum);
}

K_FN void k_sum_add(float v, float *sum, float *lost) /* Kahan */
{
    float y = v - *lost, t = *sum + y;

    *lost = (t - *sum) - y;
    *sum = t;
}

/* Where kernel place k of output place o lies along one dim of the input; -1: nowhere. */
K_FN int32_t k_reach(const struct k_space *s, int d, int32_t o, int32_t k, int transposed)
{
    int32_t at;

    if (transposed) { /* the input place that reaches o by k, if there is one */
        at = o + s->pad[d] - k * s->dil[d];
        if (at < 0 || at % s->stride[d] != 0) return -1;
        at /= s->stride[d];
    } else {
        at = o * s->stride[d] - s->pad[d] + k * s->dil[d];
    }
    return at >= 0 && at < s->in[d] ? at : -1;
}

K_FN void k_conv_at(const struct k_conv *p, int type, uint32_t i)
{
    const struct k_space *s = &p->s;
    int32_t cg = p->in_c / p->groups, mg = p->out_c / p->groups, o[3], k[3];
    int32_t k_n = s->kernel[0] * s->kernel[1] * s->kernel[2];
    uint32_t n, m;
    float sum = 0, lost = 0;

    k_unpack(i, s->out, (uint32_t)p->out_c, &n, o, &m);
    for (k[0] = 0; k[0] < s->kernel[0]; k[0]++) {
        int32_t d = k_reach(s, 0, o[0], k[0], p->transposed);

        if (d < 0) continue;
        for (k[1] = 0; k[1] < s->kernel[1]; k[1]++) {
            int32_t h = k_reach(s, 1, o[1], k[1], p->transposed);

            if (h < 0) continue;
            for (k[2] = 0; k[2] < s->kernel[2]; k[2]++) {
                int32_t w = k_reach(s, 2, o[2], k[2], p->transposed), group = (int32_t)m / mg;
                int32_t tap = (k[0] * s->kernel[1] + k[1]) * s->kernel[2] + k[2];
                int64_t x, f, step;
                float part = 0;

                if (w < 0) continue;
                x = (int64_t)((((int32_t)n * s->in[0] + d) * s->in[1] + h) * s->in[2] + w) *
                        p->in_c +
                    group * cg;
                if (p->transposed) {
                    f = ((int64_t)group * cg * k_n + tap) * mg + (int32_t)m % mg;
                    step = (int64_t)k_n * mg;
                } else {
                    f = ((int64_t)m * k_n + tap) * cg;
                    step = 1;
                }
                for (int32_t c = 0; c < cg; c++)
                    part += k_get(type, p->h.p[1], x + c) * k_get(type, p->h.p[2], f + c * step);
                k_sum_add(part, &sum, &lost);
            }
        }
    }
    if (p->h.p[3] != NULL) sum += k_get(type, p->h.p[3], m);
    if (p->h.p[4] != NULL) sum += k_get(type, p->h.p[4], i);
    k_put(type, p->h.p[0], i, k_act(p->act, sum));
}

K_FN void k_mm_at(const struct k_mm *p, int type, uint32_t i)
{
    uint32_t area = (uint32_t)p->rows * (uint32_t)p->cols, batch = i / area, in = i - batch * area;
    uint32_t row = in / (uint32_t)p->cols, col = in - row * (uint32_t)p->cols;
    float sum = 0, lost = 0;
    int32_t off[3];
    int64_t a, b;

    k_walk(&p->at, batch, 2, off);
    a = off[0] + (int64_t)row * p->a_row;
    b = off[1] + (int64_t)col * p->b_col;
    for (int32_t k = 0; k < p->inner; k++)
        k_sum_add(k_get(type, p->h.p[1], a + (int64_t)k * p->a_k) *
                      k_get(type, p->h.p[2], b + (int64_t)k * p->b_k),
                  &sum, &lost);
    sum *= p->alpha;
    if (p->h.p[3] != NULL) sum += k_get(type, p->h.p[3], col);
    if (p->h.p[4] != NULL) sum += k_get(type, p->h.p[4], i);
    k_put(type, p->h.p[0], i, k_act(p->act, sum));
}

K_FN void k_moments_at(const struct k_moments *p, uint32_t i)
{
    uint32_t q = i / p->channels, c = i - q * p->channels, n = q / p->chunks;
    uint32_t from = (q - n * p->chunks) * p->chunk, to = from + p->chunk;
    float mean = 0, m2 = 0, k = 0;

    if (to > p->places) to = p->places;
    for (uint32_t s = from; s < to; s++) { /* Welford */
        float v = k_get(p->type, p->h.p[1], ((int64_t)n * p->places + s) * p->channels + c);
        float d = v - mean;

        k += 1;
        mean += d / k;
        m2 += d * (v - mean);
    }
    ((float *)p->h.p[0])[(int64_t)i * 2] = mean;
    ((float *)p->h.p[0])[(int64_t)i * 2 + 1] = m2;
}

K_FN void k_join_at(const struct k_join *p, uint32_t i)
{
    uint32_t n = i / p->channels, c = i - n * p->channels;
    const float *m = (const float *)p->h.p[1];
    float count = 0, mean = 0, m2 = 0, a;

    for (uint32_t k = 0; k < p->chunks; k++) {
        const float *q = m + (((int64_t)n * p->chunks + k) * p->channels + c) * 2;
        uint32_t left = p->places - k * p->chunk;
        float w = (float)(left < p->chunk ? left : p->chunk), d = q[0] - mean, all = count + w;

        mean += d * (w / all);
        m2 += q[1] + d * d * (count * w / all);
        count = all;
    }
    a = ((const float *)p->h.p[2])[c] / sqrtf(m2 / count + p->eps);
    ((float *)p->h.p[0])[i] = a;
    ((float *)p->h.p[0])[p->h.n + i] = ((const float *)p->h.p[3])[c] - mean * a;
}

/* ---- rows ---- */
#ifdef __CUDACC__
/* Over a block; every lane gets the result. kind 0: sum, 1: max, 2: min. */
K_FN float k_together(struct k_lane l, float v, int kind)
{
    __shared__ float part[33];
    uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;

    if (l.n == 1) return v;
    for (int s = 16; s > 0; s /= 2) {
        float o = __shfl_xor_sync(0xffffffffu, v, s);

        v = kind == 0 ? v + o : kind == 1 ? (o > v || o != o ? o : v) : (o < v || o != o ? o : v);
    }
    if (warps == 1) return v;
    if (lane == 0) part[warp] = v;
    __syncthreads();
    v = part[lane < warps ? lane : 0];
    if (kind == 0 && lane >= warps) v = 0;
    for (int s = 16; s > 0; s /= 2) {
        float o = __shfl_xor_sync(0xffffffffu, v, s);

        v = kind == 0 ? v + o : kind == 1 ? (o > v || o != o ? o : v) : (o < v || o != o ? o : v);
    }
    __syncthreads(); /* before the next one writes part[] */
    return v;
}
#else
static inline float k_together(struct k_lane l, float v, int kind)
{
    (void)l;
    (void)kind;
    return v;
}
#endif

K_FN void k_reduce_row(const struct k_reduce *p, uint32_t row, struct k_lane l)
{
    float sum = 0, lost = 0, hi = -INFINITY, lo = INFINITY;
    int32_t at[3], in[3];

    k_walk(&p->outer, row, 2, at);
    for (uint32_t i = l.id; i < p->in_n; i += l.n) {
        float v;

        k_walk(&p->inner, i, 1, in);
        v = k_get(p->type, p->h.p[1], at[0] + in[0]);
        k_sum_add(v, &sum, &lost);
        hi = v > hi || v != v ? v : hi;
        lo = v < lo || v != v ? v : lo;
    }
    if (p->kind <= 1)
        sum = k_together(l, sum, 0);
    else
        sum = p->kind == 2 ? k_together(l, hi, 1) : k_together(l, lo, 2);
    if (p->kind == 0) sum /= (float)p->in_n;
    if (l.id == 0) k_put(p->type_y, p->h.p[0], at[1], sum);
}

K_FN void k_softmax_row(const struct k_softmax *p, uint32_t row, struct k_lane l)
{
    float top = -INFINITY, sum = 0, lost = 0;
    int32_t at[3], in[3];

    k_walk(&p->outer, row, 1, at);
    for (uint32_t i = l.id; i < p->in_n; i += l.n) {
        k_walk(&p->inner, i, 1, in);
        top = fmaxf(top, k_get(p->type, p->h.p[1], at[0] + in[0]));
    }
    top = k_together(l, top, 1);
    for (uint32_t i = l.id; i < p->in_n; i += l.n) {
        k_walk(&p->inner, i, 1, in);
        k_sum_add(expf(k_get(p->type, p->h.p[1], at[0] + in[0]) - top), &sum, &lost);
    }
    sum = k_together(l, sum, 0);
    for (uint32_t i = l.id; i < p->in_n; i += l.n) {
        k_walk(&p->inner, i, 1, in);
        k_put(p->type, p->h.p[0], at[0] + in[0],
              expf(k_get(p->type, p->h.p[1], at[0] + in[0]) - top) / sum);
    }
}

K_FN void k_lnorm_row(const struct k_lnorm *p, uint32_t row, struct k_lane l)
{
    const float *scale = (const float *)p->h.p[2], *shift = (const float *)p->h.p[3];
    int64_t base = (int64_t)row * p->in_n;
    float sum = 0, lost = 0, mean, var;

    for (uint32_t i = l.id; i < p->in_n; i += l.n)
        k_sum_add(k_get(p->type, p->h.p[1], base + i), &sum, &lost);
    mean = k_together(l, sum, 0) / (float)p->in_n;
    sum = lost = 0;
    for (uint32_t i = l.id; i < p->in_n; i += l.n) {
        float d = k_get(p->type, p->h.p[1], base + i) - mean;

        k_sum_add(d * d, &sum, &lost);
    }
    var = k_together(l, sum, 0) / (float)p->in_n;
    for (uint32_t i = l.id; i < p->in_n; i += l.n) {
        float v = (k_get(p->type, p->h.p[1], base + i) - mean) / sqrtf(var + p->eps) * scale[i];

        k_put(p->type, p->h.p[0], base + i, k_act(p->act, shift == NULL ? v : v + shift[i]));
    }
}

#endif
