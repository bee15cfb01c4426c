/* computed/backend/ref/ref_move.c - operators that move elements about, and normalisations.
 *
 * Source: ONNX Transpose-13, Slice-13, Split-13, Expand-13 (one strided copy), Pad-13, Gather-13,
 * Resize-13 (whose coordinates are tables made by the lowering), InstanceNormalization-6,
 * LayerNormalization-17. */
#include "computed/backend/ref/ref_priv.h"
#include <math.h>
#include <string.h>

void ref_copy(const struct be_graph *g, const struct be_node *n, void *const *data)
{
    const struct be_tensor *ty = &g->tensor[n->out];
    size_t w = be_dtype_bytes(ty->dtype);
    uint64_t total = be_tensor_count(ty);
    const uint8_t *x = data[n->in[0]];
    int64_t idx[BE_RANK_MAX] = {0};
    uint8_t *y = data[n->out];

    for (uint64_t e = 0; e < total; e++) {
        int64_t at = n->u.copy.off;

        for (uint8_t i = 0; i < ty->rank; i++)
            at += idx[i] * n->u.copy.stride[i];
        memcpy(y + e * w, x + (size_t)at * w, w);
        ref_next(ty, idx);
    }
}

/* Place i of the padded dim as a place of x; -1: outside. REFLECT mirrors at the outermost element
 * without repeating it. */
static int64_t pad_at(enum be_pad kind, int64_t i, int64_t d)
{
    if (kind == BE_PAD_EDGE) return MIN(MAX(i, 0), d - 1);
    if (kind == BE_PAD_REFLECT) return i < 0 ? -i : i >= d ? 2 * (d - 1) - i : i;
    return i < 0 || i >= d ? -1 : i;
}

void ref_pad(const struct be_graph *g, const struct be_node *n, void *const *data)
{
    const struct be_tensor *tx = &g->tensor[n->in[0]], *ty = &g->tensor[n->out];
    uint64_t total = be_tensor_count(ty);
    int64_t idx[BE_RANK_MAX] = {0};
    const float *x = data[n->in[0]];
    float *y = data[n->out];

    for (uint64_t e = 0; e < total; e++) {
        int64_t at = 0;
        bool in = true;

        for (uint8_t i = 0; i < ty->rank; i++) {
            int64_t k = pad_at(n->u.pad.kind, idx[i] - n->u.pad.begin[i], tx->dim[i]);

            in = in && k >= 0;
            at = at * tx->dim[i] + k;
        }
        y[e] = in ? x[at] : n->u.pad.value;
        ref_next(ty, idx);
    }
}

/* y[outer, k, inner] = x[outer, index[k], inner] */
void ref_gather(const struct be_graph *g, const struct be_node *n, void *const *data)
{
    const struct be_tensor *tx = &g->tensor[n->in[0]];
    uint64_t picks = be_tensor_count(&g->tensor[n->in[1]]), outer = 1;
    size_t inner = be_dtype_bytes(tx->dtype), d = (size_t)tx->dim[n->u.gather_axis];
    const int64_t *index = data[n->in[1]];
    const uint8_t *x = data[n->in[0]];
    uint8_t *y = data[n->out];

    for (uint8_t i = 0; i < tx->rank; i++) {
        if (i < n->u.gather_axis) outer *= (uint64_t)tx->dim[i];
        if (i > n->u.gather_axis) inner *= (size_t)tx->dim[i];
    }
    for (uint64_t o = 0; o < outer; o++) {
        for (uint64_t k = 0; k < picks; k++) {
            memcpy(y, x + (o * d + (size_t)index[k]) * inner, inner);
            y += inner;
        }
    }
}

void ref_resize(const struct be_graph *g, const struct be_node *n, void *const *data)
{
    const struct be_tensor *tx = &g->tensor[n->in[0]], *ty = &g->tensor[n->out];
    uint64_t total = be_tensor_count(ty);
    int64_t idx[BE_RANK_MAX] = {0};
    const float *x = data[n->in[0]];
    uint8_t dims = (uint8_t)(ty->rank - 2);
    float *y = data[n->out];

    for (uint64_t e = 0; e < total; e++) {
        double sum = 0;

        for (uint32_t corner = 0; corner < (n->u.resize_linear ? 1u << dims : 1u); corner++) {
            int64_t at = idx[0] * tx->dim[1] + idx[1];
            double weight = 1;

            for (uint8_t i = 0; i < dims; i++) {
                const int64_t *place = data[n->in[1 + 2 * i]];
                const float *w = data[n->in[2 + 2 * i]];
                bool second = (corner >> i & 1) != 0;
                int64_t o = idx[2 + i];

                at = at * tx->dim[2 + i] + place[o + (second ? ty->dim[2 + i] : 0)];
                if (n->u.resize_linear) weight *= second ? (double)w[o] : 1 - (double)w[o];
            }
            sum += weight * (double)x[at];
        }
        y[e] = (float)sum;
        ref_next(ty, idx);
    }
}

/* y = (x - mean) / sqrt(variance + eps) * scale + shift over rows of `len` values. INORM: one row
 * per [n, c], scale and shift per c; LNORM: scale and shift per place within the row. */
void ref_norm(const struct be_graph *g, const struct be_node *n, void *const *data)
{
    const struct be_tensor *t = &g->tensor[n->in[0]];
    const float *x = data[n->in[0]], *scale = data[n->in[1]];
    const float *shift = n->in_n > 2 ? data[n->in[2]] : NULL;
    bool layer = n->op == BE_LNORM;
    uint64_t len = 1, rows;
    float *y = data[n->out];

    for (uint8_t i = layer ? n->u.norm.axis : 2; i < t->rank; i++)
        len *= (uint64_t)t->dim[i];
    rows = be_tensor_count(t) / len;
    for (uint64_t r = 0; r < rows; r++, x += len, y += len) {
        uint64_t c = layer ? 0 : r % (uint64_t)t->dim[1];
        double mean = 0, var = 0;

        for (uint64_t i = 0; i < len; i++)
            mean += (double)x[i];
        mean /= (double)len;
        for (uint64_t i = 0; i < len; i++)
            var += ((double)x[i] - mean) * ((double)x[i] - mean);
        var /= (double)len;
        for (uint64_t i = 0; i < len; i++) {
            uint64_t k = layer ? i : c;
            double v = ((double)x[i] - mean) / sqrt(var + (double)n->u.norm.eps);

            v = v * (double)scale[k] + (shift == NULL ? 0 : (double)shift[k]);
            y[i] = ref_act(n->act, n->lo, n->hi, (float)v);
        }
    }
}
