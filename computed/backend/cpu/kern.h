/* computed/backend/cpu/kern.h - loops that oneDNN lacks or does slowly, compiled once per
 * instruction set (kern.c) and chosen when the plugin is opened.
 *
 * A tensor [N, C, spatial] lies in memory as [n][cb][s][l]: plain has l = 1 and cb = C, channels
 * last has l = C and cb = 1, oneDNN's blocked layout has l = 16 or 8 and cb = C / l rounded up; the
 * channels beyond C hold anything finite. Activations are those that are a few instructions; the
 * others are oneDNN's. */
#pragma once
#include "computed/backend/backend.h"

struct kern_lay {
    int64_t n, cb, s, l;
};

#define KERN_COPY_BYTES_MAX 8 /* of an element */

struct kern_ops {
    const char *name;
    /* y = act(x * scale[channel] + shift[channel]); scale and shift have cb * l values */
    void (*affine)(const float *x, float *y, const float *scale, const float *shift,
                   const struct kern_lay *lay, enum be_act act, float lo, float hi);
    /* likewise of x with mean 0 and variance 1 over s, for each n and channel */
    void (*inorm)(const float *x, float *y, const float *scale, const float *shift,
                  const struct kern_lay *lay, float eps, enum be_act act, float lo, float hi);
    /* over rows of len; shift may be NULL */
    void (*lnorm)(const float *x, float *y, const float *scale, const float *shift, int64_t rows,
                  int64_t len, float eps, enum be_act act, float lo, float hi);
    /* y [n][c], plain: the mean, sum, maximum or minimum over s */
    void (*reduce)(const float *x, float *y, const struct kern_lay *lay, int64_t c,
                   enum be_reduce kind);
    /* y[i] = act(a[i * sa] op b[i * sb]) over rank dims, y dense */
    void (*binary)(const float *a, const float *b, float *y, enum be_binary op, uint8_t rank,
                   const int64_t *dim, const int64_t *sa, const int64_t *sb, enum be_act act,
                   float lo, float hi);
    /* y[i] = x[i * stride], y dense; bytes of an element: 1, 2, 4, 8 */
    void (*copy)(const uint8_t *x, uint8_t *y, size_t bytes, uint8_t rank, const int64_t *dim,
                 const int64_t *stride);
    /* three spatial dims, the missing ones in front with size 1; place [2][out], weight [out] */
    void (*resize)(const float *x, float *y, int64_t planes, int64_t l, const int64_t in[3],
                   const int64_t out[3], const int64_t *const place[3],
                   const float *const weight[3], bool linear);
};

/* The best for this machine. */
const struct kern_ops *kern_pick(void);
/* Has it instructions for products of bf16? (oneDNN would emulate them, slower than fp32.) */
bool kern_has_bf16(void);
/* Activations that affine and its like carry out. */
static inline bool kern_has(enum be_act act, float lo, float hi)
{
    return act == BE_ACT_NONE || act == BE_ACT_RELU || (act == BE_ACT_CLIP && lo <= hi) ||
           act == BE_ACT_LEAKY_RELU || act == BE_ACT_HARD_SIGMOID || act == BE_ACT_HARD_SWISH;
}
