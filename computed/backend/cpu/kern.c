/* computed/backend/cpu/kern.c - see kern.h; compiled with KERN_TABLE naming the table and with
 * that instruction set's flags. Written so that compilers turn the inner loops into vectors. Sums
 * over many values are kept in double, or in floats over at most SUM_RUN values. */
#include "computed/backend/cpu/kern.h"
#include <math.h>
#include <string.h>

#define SUM_RUN  256
#define LANE_MAX 16

extern const struct kern_ops KERN_TABLE;

static void act_apply(float *y, int64_t n, enum be_act act, float lo, float hi)
{
    switch (act) {
    case BE_ACT_RELU:
        for (int64_t i = 0; i < n; i++)
            y[i] = y[i] < 0 ? 0 : y[i];
        break;
    case BE_ACT_CLIP:
        for (int64_t i = 0; i < n; i++) {
            float v = y[i] < lo ? lo : y[i];

            y[i] = v > hi ? hi : v;
        }
        break;
    case BE_ACT_LEAKY_RELU:
        for (int64_t i = 0; i < n; i++)
            y[i] = y[i] < 0 ? lo * y[i] : y[i];
        break;
    case BE_ACT_HARD_SIGMOID:
        for (int64_t i = 0; i < n; i++) {
            float v = lo * y[i] + hi;

            v = v < 0 ? 0 : v;
            y[i] = v > 1 ? 1 : v;
        }
        break;
    case BE_ACT_HARD_SWISH:
        for (int64_t i = 0; i < n; i++) {
            float v = y[i] * (1.0f / 6) + 0.5f;

            v = v < 0 ? 0 : v;
            y[i] *= v > 1 ? 1 : v;
        }
        break;
    default: /* NONE: kern_has() lets no other pass */
        break;
    }
}

/* One [s][l] plane with its l scales and shifts. */
static void plane_affine(const float *restrict x, float *restrict y, const float *restrict scale,
                         const float *restrict shift, int64_t s, int64_t l, enum be_act act,
                         float lo, float hi)
{
    if (l == 1) {
        float k = scale[0], b = shift[0];

        if (act == BE_ACT_RELU) {
            for (int64_t i = 0; i < s; i++) {
                float v = x[i] * k + b;

                y[i] = v < 0 ? 0 : v;
            }
            return;
        }
        for (int64_t i = 0; i < s; i++)
            y[i] = x[i] * k + b;
    } else if (l == LANE_MAX) {
        float k[LANE_MAX], b[LANE_MAX];

        memcpy(k, scale, sizeof(k));
        memcpy(b, shift, sizeof(b));
        if (act == BE_ACT_RELU) {
            for (int64_t i = 0; i < s; i++) {
                for (int j = 0; j < LANE_MAX; j++) {
                    float v = x[i * LANE_MAX + j] * k[j] + b[j];

                    y[i * LANE_MAX + j] = v < 0 ? 0 : v;
                }
            }
            return;
        }
        for (int64_t i = 0; i < s; i++)
            for (int j = 0; j < LANE_MAX; j++)
                y[i * LANE_MAX + j] = x[i * LANE_MAX + j] * k[j] + b[j];
    } else {
        for (int64_t i = 0; i < s; i++)
            for (int64_t j = 0; j < l; j++)
                y[i * l + j] = x[i * l + j] * scale[j] + shift[j];
    }
    act_apply(y, s * l, act, lo, hi);
}

static void affine(const float *x, float *y, const float *scale, const float *shift,
                   const struct kern_lay *lay, enum be_act act, float lo, float hi)
{
    for (int64_t p = 0; p < lay->n * lay->cb; p++) {
        int64_t c = p % lay->cb * lay->l, at = p * lay->s * lay->l;

        plane_affine(x + at, y + at, scale + c, shift + c, lay->s, lay->l, act, lo, hi);
    }
}

/* Sums of x - about, or of its squares, over s, for up to LANE_MAX lanes from one place on. */
static void lanes_sum(const float *x, int64_t s, int64_t l, int64_t lanes, const float *about,
                      bool square, double *ret)
{
    for (int64_t j = 0; j < lanes; j++)
        ret[j] = 0;
    for (int64_t from = 0; from < s; from += SUM_RUN) {
        int64_t to = MIN(s, from + SUM_RUN);
        float run[LANE_MAX] = {0};

        if (lanes == LANE_MAX) {
            for (int64_t i = from; i < to; i++) {
                for (int j = 0; j < LANE_MAX; j++) {
                    float v = x[i * l + j] - about[j];

                    run[j] += square ? v * v : v;
                }
            }
        } else {
            for (int64_t i = from; i < to; i++) {
                for (int64_t j = 0; j < lanes; j++) {
                    float v = x[i * l + j] - about[j];

                    run[j] += square ? v * v : v;
                }
            }
        }
        for (int64_t j = 0; j < lanes; j++)
            ret[j] += (double)run[j];
    }
}

/* The same for one row of contiguous values: LANE_MAX partial sums. */
static double row_sum(const float *x, int64_t n, float about, bool square)
{
    double sum = 0;

    for (int64_t from = 0; from < n; from += SUM_RUN * LANE_MAX) {
        int64_t to = MIN(n, from + SUM_RUN * LANE_MAX), i = from;
        float run[LANE_MAX] = {0};

        for (; i + LANE_MAX <= to; i += LANE_MAX) {
            for (int j = 0; j < LANE_MAX; j++) {
                float v = x[i + j] - about;

                run[j] += square ? v * v : v;
            }
        }
        for (; i < to; i++) {
            float v = x[i] - about;

            run[0] += square ? v * v : v;
        }
        for (int j = 0; j < LANE_MAX; j++)
            sum += (double)run[j];
    }
    return sum;
}

static void inorm(const float *x, float *y, const float *scale, const float *shift,
                  const struct kern_lay *lay, float eps, enum be_act act, float lo, float hi)
{
    for (int64_t p = 0; p < lay->n * lay->cb; p++) {
        const float *xp = x + p * lay->s * lay->l;
        float *yp = y + p * lay->s * lay->l;

        for (int64_t at = 0; at < lay->l; at += LANE_MAX) {
            int64_t lanes = MIN(lay->l - at, (int64_t)LANE_MAX), c = p % lay->cb * lay->l + at;
            float mean[LANE_MAX] = {0}, k[LANE_MAX], b[LANE_MAX];
            double sum[LANE_MAX] = {0};

            if (lay->l == 1)
                sum[0] = row_sum(xp, lay->s, 0, false);
            else
                lanes_sum(xp + at, lay->s, lay->l, lanes, mean, false, sum);
            for (int64_t j = 0; j < lanes; j++)
                mean[j] = (float)(sum[j] / (double)lay->s);
            if (lay->l == 1)
                sum[0] = row_sum(xp, lay->s, mean[0], true);
            else
                lanes_sum(xp + at, lay->s, lay->l, lanes, mean, true, sum);
            for (int64_t j = 0; j < lanes; j++) {
                k[j] = scale[c + j] / sqrtf((float)(sum[j] / (double)lay->s) + eps);
                b[j] = shift[c + j] - mean[j] * k[j];
            }
            if (lay->l == 1 || lay->l == LANE_MAX) {
                plane_affine(xp, yp, k, b, lay->s, lay->l, act, lo, hi);
                continue;
            }
            for (int64_t i = 0; i < lay->s; i++)
                for (int64_t j = 0; j < lanes; j++)
                    yp[i * lay->l + at + j] = xp[i * lay->l + at + j] * k[j] + b[j];
            if (at + LANE_MAX >= lay->l) act_apply(yp, lay->s * lay->l, act, lo, hi);
        }
    }
}

static void lnorm(const float *x, float *y, const float *scale, const float *shift, int64_t rows,
                  int64_t len, float eps, enum be_act act, float lo, float hi)
{
    for (int64_t r = 0; r < rows; r++, x += len, y += len) {
        float mean = (float)(row_sum(x, len, 0, false) / (double)len);
        float k = 1 / sqrtf((float)(row_sum(x, len, mean, true) / (double)len) + eps);

        if (shift == NULL) {
            for (int64_t i = 0; i < len; i++)
                y[i] = (x[i] - mean) * k * scale[i];
        } else {
            for (int64_t i = 0; i < len; i++)
                y[i] = (x[i] - mean) * k * scale[i] + shift[i];
        }
        act_apply(y, len, act, lo, hi);
    }
}

/* NaN stays NaN, as in the reference. */
static float keep_min(float a, float b)
{
    return a < b || isnan(a) ? a : b;
}

static float keep_max(float a, float b)
{
    return a > b || isnan(a) ? a : b;
}

static void reduce(const float *x, float *y, const struct kern_lay *lay, int64_t c,
                   enum be_reduce kind)
{
    static const float zero[LANE_MAX];
    bool adds = kind == BE_REDUCE_MEAN || kind == BE_REDUCE_SUM;

    for (int64_t n = 0; n < lay->n; n++) {
        for (int64_t at = 0; at < c; at += MIN(lay->l, (int64_t)LANE_MAX)) {
            const float *xp = x + (n * lay->cb + at / lay->l) * lay->s * lay->l + at % lay->l;
            int64_t lanes = MIN(MIN(lay->l - at % lay->l, c - at), (int64_t)LANE_MAX);
            double sum[LANE_MAX] = {0};

            if (adds && lay->l == 1)
                sum[0] = row_sum(xp, lay->s, 0, false);
            else if (adds)
                lanes_sum(xp, lay->s, lay->l, lanes, zero, false, sum);
            for (int64_t j = 0; j < lanes; j++) {
                float v = xp[j];

                for (int64_t i = 1; !adds && i < lay->s; i++)
                    v = kind == BE_REDUCE_MIN ? keep_min(xp[i * lay->l + j], v)
                                              : keep_max(xp[i * lay->l + j], v);
                if (adds) v = (float)(kind == BE_REDUCE_MEAN ? sum[j] / (double)lay->s : sum[j]);
                y[n * c + at + j] = v;
            }
        }
    }
}

#define EACH(expr)                                                                                 \
    do {                                                                                           \
        if (sa == 1 && sb == 1) {                                                                  \
            for (int64_t i = 0; i < n; i++) {                                                      \
                float p = a[i], q = b[i];                                                          \
                                                                                                   \
                y[i] = (expr);                                                                     \
            }                                                                                      \
        } else if (sa == 1 && sb == 0) {                                                           \
            float q = b[0];                                                                        \
                                                                                                   \
            for (int64_t i = 0; i < n; i++) {                                                      \
                float p = a[i];                                                                    \
                                                                                                   \
                y[i] = (expr);                                                                     \
            }                                                                                      \
        } else {                                                                                   \
            for (int64_t i = 0; i < n; i++) {                                                      \
                float p = a[i * sa], q = b[i * sb];                                                \
                                                                                                   \
                y[i] = (expr);                                                                     \
            }                                                                                      \
        }                                                                                          \
    } while (0)

static void binary_row(const float *restrict a, const float *restrict b, float *restrict y,
                       enum be_binary op, int64_t n, int64_t sa, int64_t sb)
{
    switch (op) {
    case BE_ADD:
        EACH(p + q);
        break;
    case BE_SUB:
        EACH(p - q);
        break;
    case BE_MUL:
        EACH(p * q);
        break;
    case BE_DIV:
        EACH(p / q);
        break;
    case BE_POW:
        EACH(powf(p, q));
        break;
    case BE_MIN:
        EACH(keep_min(p, q));
        break;
    case BE_MAX:
        EACH(keep_max(p, q));
        break;
    }
}

/* [rows][LANE_MAX] op one [LANE_MAX]: channels of a blocked layout, one value each. */
static bool binary_lanes(const float *restrict a, const float *restrict b, float *restrict y,
                         enum be_binary op, int64_t rows)
{
    float q[LANE_MAX];

    memcpy(q, b, sizeof(q));
    if (op == BE_MUL) {
        for (int64_t i = 0; i < rows; i++)
            for (int j = 0; j < LANE_MAX; j++)
                y[i * LANE_MAX + j] = a[i * LANE_MAX + j] * q[j];
    } else if (op == BE_ADD) {
        for (int64_t i = 0; i < rows; i++)
            for (int j = 0; j < LANE_MAX; j++)
                y[i * LANE_MAX + j] = a[i * LANE_MAX + j] + q[j];
    }
    return op == BE_MUL || op == BE_ADD;
}

/* Merges dims that both operands walk as one. */
static uint8_t collapse(uint8_t rank, const int64_t *dim, const int64_t *sa, const int64_t *sb,
                        int64_t *d, int64_t *a, int64_t *b)
{
    uint8_t k = 0;

    for (uint8_t i = 0; i < rank; i++) {
        if (dim[i] == 1) continue;
        if (k > 0 && a[k - 1] == sa[i] * dim[i] && b[k - 1] == sb[i] * dim[i]) {
            d[k - 1] *= dim[i];
            a[k - 1] = sa[i];
            b[k - 1] = sb[i];
        } else {
            d[k] = dim[i];
            a[k] = sa[i];
            b[k++] = sb[i];
        }
    }
    if (k == 0) {
        d[0] = 1;
        a[0] = b[0] = 0;
        k = 1;
    }
    return k;
}

#define DIMS_MAX (BE_RANK_MAX + 1)

static void binary(const float *a, const float *b, float *y, enum be_binary op, uint8_t rank,
                   const int64_t *dim, const int64_t *sa, const int64_t *sb, enum be_act act,
                   float lo, float hi)
{
    int64_t d[DIMS_MAX], ta[DIMS_MAX], tb[DIMS_MAX], idx[DIMS_MAX] = {0}, outer = 1, run;
    uint8_t k = collapse(rank, dim, sa, sb, d, ta, tb);
    bool lanes = k >= 2 && d[k - 1] == LANE_MAX && ta[k - 1] == 1 && tb[k - 1] == 1 &&
                 ta[k - 2] == LANE_MAX && tb[k - 2] == 0 && (op == BE_MUL || op == BE_ADD);
    uint8_t inner = lanes ? 2 : 1;

    run = lanes ? d[k - 1] * d[k - 2] : d[k - 1];
    for (int i = 0; i + inner < k; i++)
        outer *= d[i];
    for (int64_t o = 0; o < outer; o++, y += run) {
        int64_t oa = 0, ob = 0;

        for (int i = 0; i + inner < k; i++) {
            oa += idx[i] * ta[i];
            ob += idx[i] * tb[i];
        }
        if (!lanes || !binary_lanes(a + oa, b + ob, y, op, d[k - 2]))
            binary_row(a + oa, b + ob, y, op, run, ta[k - 1], tb[k - 1]);
        act_apply(y, run, act, lo, hi);
        for (int i = k - inner - 1; i >= 0; i--) {
            if (++idx[i] < d[i]) break;
            idx[i] = 0;
        }
    }
}

#define COPY_ROW(type)                                                                             \
    do {                                                                                           \
        const type *from = (const type *)(const void *)x;                                          \
        type *to = (type *)(void *)y;                                                              \
                                                                                                   \
        for (int64_t i = 0; i < n; i++)                                                            \
            to[i] = from[i * stride];                                                              \
    } while (0)

static void copy_row(const uint8_t *restrict x, uint8_t *restrict y, size_t bytes, int64_t n,
                     int64_t stride)
{
    if (stride == 1) {
        memcpy(y, x, (size_t)n * bytes);
        return;
    }
    switch (bytes) {
    case 1:
        COPY_ROW(uint8_t);
        break;
    case 2:
        COPY_ROW(uint16_t);
        break;
    case 4:
        COPY_ROW(uint32_t);
        break;
    default:
        COPY_ROW(uint64_t);
    }
}

static void copy(const uint8_t *x, uint8_t *y, size_t bytes, uint8_t rank, const int64_t *dim,
                 const int64_t *stride)
{
    int64_t d[DIMS_MAX], s[DIMS_MAX], t[DIMS_MAX], idx[DIMS_MAX] = {0}, outer = 1;
    uint8_t k = collapse(rank, dim, stride, stride, d, s, t);
    size_t run = (size_t)d[k - 1] * bytes;

    for (int i = 0; i + 1 < k; i++)
        outer *= d[i];
    for (int64_t o = 0; o < outer; o++, y += run) {
        int64_t at = 0;

        for (int i = 0; i + 1 < k; i++)
            at += idx[i] * s[i];
        copy_row(x + at * (int64_t)bytes, y, bytes, d[k - 1], s[k - 1]);
        for (int i = k - 2; i >= 0; i--) {
            if (++idx[i] < d[i]) break;
            idx[i] = 0;
        }
    }
}

static void lerp(const float *restrict p, const float *restrict q, float w, float *restrict y,
                 int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        y[i] = p[i] * (1 - w) + q[i] * w;
}

/* Along the last dim, from two rows of x that differ in the dims before (with their weight v). */
static void resize_row(const float *const row[4], const float v[2], float *y, int64_t l,
                       int64_t out, const int64_t *place, const float *weight)
{
    float a[LANE_MAX], b[LANE_MAX], c[LANE_MAX], d[LANE_MAX];

    for (int64_t o = 0; o < out; o++) {
        for (int64_t at = 0; at < l; at += LANE_MAX) {
            int64_t n = MIN(l - at, (int64_t)LANE_MAX), p = place[o] * l + at,
                    q = place[out + o] * l + at;

            lerp(row[0] + p, row[0] + q, weight[o], a, n);
            lerp(row[1] + p, row[1] + q, weight[o], b, n);
            lerp(a, b, v[0], c, n);
            if (v[1] > 0) {
                lerp(row[2] + p, row[2] + q, weight[o], a, n);
                lerp(row[3] + p, row[3] + q, weight[o], b, n);
                lerp(a, b, v[0], d, n);
                lerp(c, d, v[1], a, n);
                memcpy(y + o * l + at, a, (size_t)n * sizeof(float));
            } else {
                memcpy(y + o * l + at, c, (size_t)n * sizeof(float));
            }
        }
    }
}

static void resize(const float *x, float *y, int64_t planes, int64_t l, const int64_t in[3],
                   const int64_t out[3], const int64_t *const place[3],
                   const float *const weight[3], bool linear)
{
    int64_t plane = in[0] * in[1] * in[2] * l, line = in[2] * l;

    for (int64_t p = 0; p < planes; p++, x += plane) {
        for (int64_t z = 0; z < out[0]; z++) {
            for (int64_t v = 0; v < out[1]; v++, y += out[2] * l) {
                int64_t z0 = place[0][z] * in[1], z1 = place[0][out[0] + z] * in[1];
                int64_t v0 = place[1][v], v1 = place[1][out[1] + v];
                const float *const row[4] = {x + (z0 + v0) * line, x + (z0 + v1) * line,
                                             x + (z1 + v0) * line, x + (z1 + v1) * line};
                const float w[2] = {weight[1][v], weight[0][z]};

                if (linear) {
                    resize_row(row, w, y, l, out[2], place[2], weight[2]);
                    continue;
                }
                for (int64_t o = 0; o < out[2]; o++)
                    for (int64_t j = 0; j < l; j++)
                        y[o * l + j] = row[0][place[2][o] * l + j];
            }
        }
    }
}

const struct kern_ops KERN_TABLE = {
    .name = KERN_NAME,
    .affine = affine,
    .inorm = inorm,
    .lnorm = lnorm,
    .reduce = reduce,
    .binary = binary,
    .copy = copy,
    .resize = resize,
};
