/* common/model/shape_window.c - shapes of Conv, ConvTranspose and pooling.
 *
 * Output size: floor((in + pad_begin + pad_end - (dilation * (kernel - 1) + 1))
 * / stride) + 1; with ceil_mode the ceiling, less a window that would start
 * past the input and its begin padding (as PyTorch and ONNX Runtime have it).
 * Source: ONNX Conv-11, MaxPool-12, AveragePool-11. */
#include "common/model/model_priv.h"
#include <string.h>

/* A list attribute of exactly n values within lo..DIM_MAX, or the default for
 * all. */
static enum rc list_get(const struct model_node *n, const char *name, uint32_t count, int64_t lo,
                        int64_t dflt, int64_t *ret, struct err *reterr)
{
    const struct model_attr *a = model_attr_get(n, name);

    for (uint32_t i = 0; i < count; i++)
        ret[i] = dflt;
    if (a == NULL) return RC_OK;
    if (a->n != count)
        return err_set(reterr, RC_INVAL, "'%s' has %u values, not %u", name, a->n, count);
    for (uint32_t i = 0; i < count; i++) {
        if (a->is[i] < lo || a->is[i] > MODEL_DIM_MAX)
            return err_set(reterr, RC_INVAL, "'%s' holds %lld", name, (long long)a->is[i]);
        ret[i] = a->is[i];
    }
    return RC_OK;
}

/* One spatial dimension whose padding is known. */
static enum rc out_size(struct model_window *w, uint8_t i, int64_t in, bool ceil_mode,
                        struct err *reterr)
{
    int64_t reach = w->dilation[i] * (w->kernel[i] - 1) + 1, room, out;

    w->out[i] = MODEL_DIM_ANY;
    if (in < 0) return RC_OK;
    room = in + w->pad_begin[i] + w->pad_end[i] - reach;
    if (room < 0)
        return err_set(reterr, RC_INVAL, "an input of %lld is smaller than the window of %lld",
                       (long long)in, (long long)reach);
    out = room / w->stride[i] + 1;
    if (ceil_mode && room % w->stride[i] != 0 && out * w->stride[i] < in + w->pad_begin[i]) {
        w->pad_end[i] += out * w->stride[i] - room; /* the last window's part past the padding */
        out++;
    }
    w->out[i] = out;
    return RC_OK;
}

static void same_pads(struct model_window *w, uint8_t i, int64_t in, bool upper)
{
    int64_t reach = w->dilation[i] * (w->kernel[i] - 1) + 1, need;

    w->pad_begin[i] = w->pad_end[i] = 0;
    if (in < 0) return;
    need = ((in + w->stride[i] - 1) / w->stride[i] - 1) * w->stride[i] + reach - in;
    if (need < 0) need = 0;
    w->pad_begin[i] = upper ? need / 2 : need - need / 2;
    w->pad_end[i] = need - w->pad_begin[i];
}

enum rc model_window(const struct model_node *n, const struct model_shape *x,
                     const struct model_shape *weights, struct model_window *ret_w,
                     struct err *reterr)
{
    const struct model_attr *pad = model_attr_get(n, "auto_pad");
    bool ceil_mode = model_attr_i(n, "ceil_mode", 0) != 0;
    struct model_window w = {0};
    bool upper = false, lower = false;
    int64_t pads[6];
    enum rc rc;

    if (x->rank < 3 || x->rank > 5)
        return err_set(reterr, RC_INVAL, "rank %u; 3 to 5 are served", x->rank);
    w.dims = (uint8_t)(x->rank - 2);
    rc = list_get(n, "kernel_shape", w.dims, 1, /* dflt= */ 0, w.kernel, reterr);
    if (rc != RC_OK) return rc;
    for (uint8_t i = 0; i < w.dims; i++) {
        if (weights == NULL && w.kernel[i] == 0)
            return err_set(reterr, RC_INVAL, "no 'kernel_shape'");
        if (weights == NULL) continue;
        if (w.kernel[i] != 0 && w.kernel[i] != weights->dim[2 + i])
            return err_set(reterr, RC_INVAL, "'kernel_shape' is not the weights' shape");
        w.kernel[i] = weights->dim[2 + i];
        if (w.kernel[i] < 1) return err_set(reterr, RC_INVAL, "an empty kernel");
    }
    rc = list_get(n, "strides", w.dims, 1, 1, w.stride, reterr);
    if (rc == RC_OK) rc = list_get(n, "dilations", w.dims, 1, 1, w.dilation, reterr);
    if (rc == RC_OK) rc = list_get(n, "pads", 2u * w.dims, 0, 0, pads, reterr);
    if (rc != RC_OK) return rc;
    if (pad != NULL) {
        upper = strcmp(pad->s, "SAME_UPPER") == 0;
        lower = strcmp(pad->s, "SAME_LOWER") == 0;
        if (!upper && !lower && strcmp(pad->s, "NOTSET") != 0 && strcmp(pad->s, "VALID") != 0)
            return err_set(reterr, RC_INVAL, "'auto_pad' is '%.40s'", pad->s);
        if (strcmp(pad->s, "NOTSET") != 0) {
            if (model_attr_get(n, "pads") != NULL)
                return err_set(reterr, RC_INVAL, "both 'pads' and 'auto_pad'");
            ceil_mode = false;
        }
    }
    for (uint8_t i = 0; i < w.dims; i++) {
        w.pad_begin[i] = pads[i];
        w.pad_end[i] = pads[w.dims + i];
        if (upper || lower) same_pads(&w, i, x->dim[2 + i], upper);
        rc = out_size(&w, i, x->dim[2 + i], ceil_mode, reterr);
        if (rc != RC_OK) return rc;
    }
    *ret_w = w;
    return RC_OK;
}

enum rc model_window_transposed(const struct model_node *n, const struct model_shape *x,
                                const struct model_shape *weights, struct model_window *ret_w,
                                struct err *reterr)
{
    const struct model_attr *pad = model_attr_get(n, "auto_pad");
    struct model_window w = {0};
    int64_t pads[6], more[3];
    enum rc rc;

    if (x->rank < 3 || x->rank > 5)
        return err_set(reterr, RC_INVAL, "rank %u; 3 to 5 are served", x->rank);
    if (pad != NULL && strcmp(pad->s, "NOTSET") != 0 && strcmp(pad->s, "VALID") != 0)
        return err_set(reterr, RC_INVAL, "'auto_pad' is '%.40s'; NOTSET and VALID are served",
                       pad->s);
    w.dims = (uint8_t)(x->rank - 2);
    rc = list_get(n, "kernel_shape", w.dims, 1, /* dflt= */ 0, w.kernel, reterr);
    if (rc == RC_OK) rc = list_get(n, "strides", w.dims, 1, 1, w.stride, reterr);
    if (rc == RC_OK) rc = list_get(n, "dilations", w.dims, 1, 1, w.dilation, reterr);
    if (rc == RC_OK) rc = list_get(n, "pads", 2u * w.dims, 0, 0, pads, reterr);
    if (rc == RC_OK) rc = list_get(n, "output_padding", w.dims, 0, 0, more, reterr);
    if (rc != RC_OK) return rc;
    for (uint8_t i = 0; i < w.dims; i++) {
        int64_t reach;

        if (w.kernel[i] != 0 && w.kernel[i] != weights->dim[2 + i])
            return err_set(reterr, RC_INVAL, "'kernel_shape' is not the weights' shape");
        w.kernel[i] = weights->dim[2 + i];
        if (w.kernel[i] < 1) return err_set(reterr, RC_INVAL, "an empty kernel");
        if (more[i] >= MAX(w.stride[i], w.dilation[i]))
            return err_set(reterr, RC_INVAL, "'output_padding' as large as the stride");
        w.pad_begin[i] = pads[i];
        w.pad_end[i] = pads[w.dims + i];
        w.out[i] = MODEL_DIM_ANY;
        if (x->dim[2 + i] < 0) continue;
        reach = w.dilation[i] * (w.kernel[i] - 1) + 1; /* all below 2^62: no overflow */
        w.out[i] = w.stride[i] * (x->dim[2 + i] - 1) + more[i] + reach - pads[i] - w.pad_end[i];
        if (w.out[i] < 1 || w.out[i] > MODEL_DIM_MAX)
            return err_set(reterr, RC_INVAL, "an output of %lld", (long long)w.out[i]);
    }
    *ret_w = w;
    return RC_OK;
}

static void window_out(struct model_shape *y, const struct model_window *w)
{
    for (uint8_t i = 0; i < w->dims; i++)
        y->dim[2 + i] = w->out[i];
}

/* What Conv and ConvTranspose share: types, ranks, groups, and that x and the bias fit the weights.
 *   transposed  weights are [C, M / groups, kernel...], not [M, C / groups, kernel...]
 *   ret_out     M */
static enum rc conv_check(const struct model_shapes *c, const struct model_node *n, bool transposed,
                          int64_t *ret_out, struct err *reterr)
{
    const struct model_shape *x = &c->shape[n->in[0]], *wt = &c->shape[n->in[1]];
    int64_t groups = model_attr_i(n, "group", 1), in, out;

    if (c->dtype[n->in[0]] != MODEL_F32 || c->dtype[n->in[1]] != MODEL_F32)
        return err_set(reterr, RC_INVAL, "only float32 is served");
    if (wt->rank != x->rank) return err_set(reterr, RC_INVAL, "weights of rank %u", wt->rank);
    if (groups < 1 || groups > MODEL_DIM_MAX || wt->dim[0] < 1 || wt->dim[1] < 1 ||
        wt->dim[0] % groups != 0 || wt->dim[1] > MODEL_DIM_MAX / groups)
        return err_set(reterr, RC_INVAL, "%lld groups of %lld %s", (long long)groups,
                       (long long)wt->dim[0], transposed ? "inputs" : "outputs");
    in = transposed ? wt->dim[0] : wt->dim[1] * groups;
    out = transposed ? wt->dim[1] * groups : wt->dim[0];
    if (x->dim[1] >= 0 && x->dim[1] != in)
        return err_set(reterr, RC_INVAL, "%lld channels; the weights want %lld",
                       (long long)x->dim[1], (long long)in);
    if (n->in_n == 3 && n->in[2] != MODEL_NONE) {
        const struct model_shape *b = &c->shape[n->in[2]];

        if (b->rank != 1 || b->dim[0] != out || c->dtype[n->in[2]] != MODEL_F32)
            return err_set(reterr, RC_INVAL, "the bias does not fit the weights");
    }
    *ret_out = out;
    return RC_OK;
}

static enum rc conv_shape(struct model_shapes *c, const struct model_node *n, bool transposed,
                          struct err *reterr)
{
    const struct model_shape *x = &c->shape[n->in[0]], *wt = &c->shape[n->in[1]];
    struct model_shape y = *x;
    struct model_window w;
    enum rc rc = conv_check(c, n, transposed, &y.dim[1], reterr);

    if (rc == RC_OK)
        rc = transposed ? model_window_transposed(n, x, wt, &w, reterr)
                        : model_window(n, x, wt, &w, reterr);
    if (rc != RC_OK) return rc;
    window_out(&y, &w);
    return model_shape_give(c, n, &y, MODEL_F32);
}

enum rc shape_conv(struct model_shapes *c, const struct model_node *n, struct err *reterr)
{
    return conv_shape(c, n, /* transposed= */ false, reterr);
}

/* Source: ONNX ConvTranspose-11. */
enum rc shape_conv_transpose(struct model_shapes *c, const struct model_node *n, struct err *reterr)
{
    return conv_shape(c, n, /* transposed= */ true, reterr);
}

enum rc shape_pool(struct model_shapes *c, const struct model_node *n, struct err *reterr)
{
    struct model_shape y = c->shape[n->in[0]];
    struct model_window w;
    enum rc rc;

    if (c->dtype[n->in[0]] != MODEL_F32) return err_set(reterr, RC_INVAL, "only float32 is served");
    rc = model_window(n, &y, NULL, &w, reterr);
    if (rc != RC_OK) return rc;
    for (uint8_t i = 0; i < w.dims; i++) {
        /* a window of nothing but padding has no maximum and no mean */
        if (w.pad_begin[i] > w.dilation[i] * (w.kernel[i] - 1) ||
            w.pad_end[i] > w.dilation[i] * (w.kernel[i] - 1))
            return err_set(reterr, RC_INVAL, "padding as wide as the window");
        if (model_attr_i(n, "ceil_mode", 0) != 0 && model_attr_i(n, "count_include_pad", 0) != 0)
            return err_set(reterr, RC_INVAL, "'ceil_mode' with 'count_include_pad' is not served");
    }
    window_out(&y, &w);
    return model_shape_give(c, n, &y, MODEL_F32);
}

enum rc shape_global_pool(struct model_shapes *c, const struct model_node *n, struct err *reterr)
{
    struct model_shape y = c->shape[n->in[0]];

    if (c->dtype[n->in[0]] != MODEL_F32) return err_set(reterr, RC_INVAL, "only float32 is served");
    if (y.rank < 3) return err_set(reterr, RC_INVAL, "rank %u; at least 3 is needed", y.rank);
    for (uint8_t i = 2; i < y.rank; i++)
        y.dim[i] = 1;
    return model_shape_give(c, n, &y, MODEL_F32);
}
