/* computed/backend/ref/ref_conv.c - Conv, ConvTranspose, pooling, MatMul.
 *
 * Source: ONNX Conv-11, ConvTranspose-11, MaxPool-12, AveragePool-11, GlobalAveragePool-1,
 * MatMul-13, Gemm-13. All spatial operators run on three dimensions; missing
 * ones have size and kernel 1. */
#include "computed/backend/ref/ref_priv.h"
#include <math.h>

struct space { /* sizes and window, filled up to three dimensions, the missing
                  ones in front */
    int64_t in[3], out[3], kernel[3], stride[3], dil[3], pad[3], pad_end[3];
};

static void space_init(struct space *s, const struct be_window *w, const struct be_tensor *x,
                       const struct be_tensor *y)
{
    for (int i = 0; i < 3; i++) {
        int k = i - (3 - w->dims);

        s->in[i] = k < 0 ? 1 : x->dim[2 + k];
        s->out[i] = k < 0 ? 1 : y->dim[2 + k];
        s->kernel[i] = k < 0 ? 1 : w->kernel[k];
        s->stride[i] = k < 0 ? 1 : w->stride[k];
        s->dil[i] = k < 0 ? 1 : w->dilation[k];
        s->pad[i] = k < 0 ? 0 : w->pad_begin[k];
        s->pad_end[i] = k < 0 ? 0 : w->pad_end[k];
    }
}

/* Index into one input channel for output place o and kernel place k; false: in
 * the padding. */
static bool space_at(const struct space *s, const int64_t o[3], const int64_t k[3], int64_t *ret)
{
    int64_t at = 0;

    for (int i = 0; i < 3; i++) {
        int64_t p = o[i] * s->stride[i] - s->pad[i] + k[i] * s->dil[i];

        if (p < 0 || p >= s->in[i]) return false;
        at = at * s->in[i] + p;
    }
    *ret = at;
    return true;
}

#define FOR3(v, n)                                                                                 \
    for (int64_t v[3] = {0}; v[0] < (n)[0]; v[0]++)                                                \
        for (v[1] = 0; v[1] < (n)[1]; v[1]++)                                                      \
            for (v[2] = 0; v[2] < (n)[2]; v[2]++)

static int64_t volume(const int64_t n[3])
{
    return n[0] * n[1] * n[2];
}

/* y[n,m,o] = act(bias[m] + sum over c in the group of m, k:
 * x[n,c,o*stride-pad+k*dil] * w[m,c,k]
 *            + residual[n,m,o]) */
void ref_conv(const struct be_graph *g, const struct be_node *n, void *const *data)
{
    const struct be_tensor *tx = &g->tensor[n->in[0]], *ty = &g->tensor[n->out];
    const float *x = data[n->in[0]], *w = data[n->in[1]];
    const float *bias = n->in_n > 2 ? data[n->in[2]] : NULL;
    const float *res = n->residual == BE_NONE ? NULL : data[n->residual];
    int64_t batch = tx->dim[0], c_n = tx->dim[1], m_n = ty->dim[1], groups = n->u.conv.groups;
    int64_t cg = c_n / groups, mg = m_n / groups, at;
    float *y = data[n->out];
    struct space s;
    int64_t in_n, k_n;

    space_init(&s, &n->u.conv.window, tx, ty);
    in_n = volume(s.in);
    k_n = volume(s.kernel);
    for (int64_t b = 0; b < batch; b++) {
        for (int64_t m = 0; m < m_n; m++) {
            const float *xg = x + (b * c_n + m / mg * cg) * in_n;
            const float *wm = w + m * cg * k_n;

            FOR3(o, s.out)
            {
                double sum = bias == NULL ? 0 : (double)bias[m];
                int64_t k_at = 0;

                FOR3(k, s.kernel)
                {
                    if (space_at(&s, o, k, &at)) {
                        for (int64_t c = 0; c < cg; c++)
                            sum += (double)xg[c * in_n + at] * (double)wm[c * k_n + k_at];
                    }
                    k_at++;
                }
                if (res != NULL) sum += (double)*res++;
                *y++ = ref_act(n->act, n->lo, n->hi, (float)sum);
            }
        }
    }
}

/* y[n,m,p] = act(bias[m] + sum over c in the group of m, o, k with o*stride-pad+k*dil = p:
 * x[n,c,o] * w[c,m in its group,k]): Conv's rule with the parts of x and y exchanged. */
void ref_conv_t(const struct be_graph *g, const struct be_node *n, void *const *data)
{
    const struct be_tensor *tx = &g->tensor[n->in[0]], *ty = &g->tensor[n->out];
    const float *x = data[n->in[0]], *w = data[n->in[1]];
    const float *bias = n->in_n > 2 ? data[n->in[2]] : NULL;
    int64_t c_n = tx->dim[1], m_n = ty->dim[1], groups = n->u.conv.groups;
    int64_t cg = c_n / groups, mg = m_n / groups;
    float *y = data[n->out];
    int64_t x_n, k_n;
    struct space s;

    space_init(&s, &n->u.conv.window, tx, ty);
    x_n = volume(s.in);
    k_n = volume(s.kernel);
    for (int64_t b = 0; b < tx->dim[0]; b++) {
        for (int64_t m = 0; m < m_n; m++) {
            FOR3(p, s.out)
            {
                double sum = bias == NULL ? 0 : (double)bias[m];
                int64_t k_at = 0;

                FOR3(k, s.kernel)
                {
                    int64_t at = 0;
                    bool hit = true;

                    for (int i = 0; i < 3; i++) { /* the o that reaches p by k, if there is one */
                        int64_t o = p[i] + s.pad[i] - k[i] * s.dil[i];

                        hit = hit && o >= 0 && o % s.stride[i] == 0 && o / s.stride[i] < s.in[i];
                        at = at * s.in[i] + o / s.stride[i];
                    }
                    for (int64_t c = 0; hit && c < cg; c++) {
                        int64_t ch = m / mg * cg + c;

                        sum += (double)x[(b * c_n + ch) * x_n + at] *
                               (double)w[(ch * mg + m % mg) * k_n + k_at];
                    }
                    k_at++;
                }
                *y++ = ref_act(n->act, n->lo, n->hi, (float)sum);
            }
        }
    }
}

/* The maximum over a window's places in the input; the mean over them, or, with
 * BE_POOL_AVG_PADDED, the sum over them divided by the kernel's size. */
void ref_pool(const struct be_graph *g, const struct be_node *n, void *const *data)
{
    const struct be_tensor *tx = &g->tensor[n->in[0]], *ty = &g->tensor[n->out];
    const float *x = data[n->in[0]];
    float *y = data[n->out];
    int64_t planes = tx->dim[0] * tx->dim[1], at;
    struct space s;

    space_init(&s, &n->u.pool.window, tx, ty);
    for (int64_t p = 0; p < planes; p++, x += volume(s.in)) {
        FOR3(o, s.out)
        {
            double sum = 0;
            float top = -INFINITY;
            int64_t count = 0;

            FOR3(k, s.kernel)
            {
                if (!space_at(&s, o, k, &at)) continue;
                sum += (double)x[at];
                if (!(x[at] <= top)) top = x[at]; /* keeps a NaN */
                count++;
            }
            if (n->u.pool.kind == BE_POOL_AVG_PADDED) count = volume(s.kernel);
            *y++ = n->u.pool.kind == BE_POOL_MAX ? top : (float)(sum / (double)count);
        }
    }
}

/* y[..., i, j] = act(alpha * sum over k of a[..., i, k] * b[..., k, j] + beta *
 * c[..., i, j] + residual[..., i, j]) */
void ref_matmul(const struct be_graph *g, const struct be_node *n, void *const *data)
{
    const struct be_tensor *ta = &g->tensor[n->in[0]], *tb = &g->tensor[n->in[1]];
    const struct be_tensor *ty = &g->tensor[n->out];
    const float *a = data[n->in[0]], *b = data[n->in[1]];
    const float *c = n->in_n > 2 ? data[n->in[2]] : NULL;
    const float *res = n->residual == BE_NONE ? NULL : data[n->residual];
    bool xa = n->u.matmul.trans_a, xb = n->u.matmul.trans_b;
    int64_t rows = ty->dim[ty->rank - 2], cols = ty->dim[ty->rank - 1];
    int64_t inner = ta->dim[ta->rank - (xa ? 2 : 1)];
    uint64_t total = be_tensor_count(ty);
    float *y = data[n->out];
    int64_t sa[BE_RANK_MAX], sb[BE_RANK_MAX], sc[BE_RANK_MAX] = {0}, idx[BE_RANK_MAX] = {0};

    ref_strides(ta, ty->rank, sa);
    ref_strides(tb, ty->rank, sb);
    if (c != NULL) ref_strides(&g->tensor[n->in[2]], ty->rank, sc);
    for (uint64_t e = 0; e < total; e++) {
        int64_t i = idx[ty->rank - 2], j = idx[ty->rank - 1], oa = 0, ob = 0, oc = 0;
        double sum = 0;

        for (uint8_t d = 0; d < ty->rank; d++) {
            if (d + 2 < ty->rank) {
                oa += idx[d] * sa[d];
                ob += idx[d] * sb[d];
            }
            oc += idx[d] * sc[d];
        }
        for (int64_t k = 0; k < inner; k++)
            sum += (double)a[oa + (xa ? k * rows + i : i * inner + k)] *
                   (double)b[ob + (xb ? j * inner + k : k * cols + j)];
        sum *= (double)n->u.matmul.alpha;
        if (c != NULL) sum += (double)n->u.matmul.beta * (double)c[oc];
        if (res != NULL) sum += (double)res[e];
        y[e] = ref_act(n->act, n->lo, n->hi, (float)sum);
        ref_next(ty, idx);
    }
}
