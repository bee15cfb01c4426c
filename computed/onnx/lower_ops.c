/* computed/onnx/lower_ops.c - lowering of the operators that move elements
 * about, and of normalisations. Coordinates of Resize become tables here, so
 * that a backend only gathers.
 *
 * Source: ONNX Resize-11/13 (coordinate_transformation_mode, nearest_mode), as
 * PyTorch's exporter uses it; places outside of the input are clamped to its
 * edge. */
#include "computed/onnx/lower_priv.h"
#include <math.h>
#include <string.h>

enum rc lower_copy(struct lower *l, const struct model_node *n)
{
    const struct model_shape *x = &l->shape[n->in[0]];
    int64_t step[MODEL_RANK_MAX] = {0}, s = 1;
    uint32_t in, out;
    enum rc rc = lower_tensor_of(l, n->in[0], &in);

    for (uint8_t i = x->rank; i-- > 0;) {
        step[i] = s;
        s *= x->dim[i];
    }
    for (uint32_t k = 0; rc == RC_OK && k < n->out_n; k++) {
        struct be_node b = {.op = BE_COPY, .name = n->name};
        struct model_copy c;

        rc = model_copy(l->s, n, k, &c, l->reterr);
        if (rc == RC_OK) rc = lower_tensor_of(l, n->out[k], &out);
        if (rc != RC_OK) return rc;
        for (uint8_t i = 0; i < c.y.rank; i++) {
            if (c.src[i] < 0) continue;
            b.u.copy.off += c.start[i] * step[c.src[i]];
            b.u.copy.stride[i] = c.step[i] * step[c.src[i]];
        }
        rc = lower_node(l, &b, &in, 1, out, NULL);
    }
    return rc;
}

enum rc lower_pad(struct lower *l, const struct model_node *n)
{
    struct be_node b = {.op = BE_PAD}, view = {.op = BE_VIEW};
    struct model_pad p;
    bool none = true;
    enum rc rc = model_pad(l->s, n, &p, l->reterr);

    if (rc != RC_OK) return rc;
    for (uint8_t i = 0; i < l->shape[n->in[0]].rank; i++)
        none = none && p.begin[i] == 0 && p.end[i] == 0;
    if (none) return lower_emit(l, n, &view, 1); /* exporters write one before each AveragePool */
    b.u.pad.kind = p.mode == MODEL_PAD_REFLECT ? BE_PAD_REFLECT
                   : p.mode == MODEL_PAD_EDGE  ? BE_PAD_EDGE
                                               : BE_PAD_CONSTANT;
    memcpy(b.u.pad.begin, p.begin, sizeof(p.begin));
    if (n->in_n > 2 && n->in[2] != MODEL_NONE)
        memcpy(&b.u.pad.value, l->m->value[n->in[2]].konst->data, sizeof(float));
    return lower_emit(l, n, &b, 1);
}

/* Indices counted from the end become plain ones; model_bind() has checked
 * their range. */
enum rc lower_gather(struct lower *l, const struct model_node *n)
{
    const struct model_shape *x = &l->shape[n->in[0]], *k = &l->shape[n->in[1]];
    const struct model_tensor *t = l->m->value[n->in[1]].konst;
    int64_t axis = model_attr_i(n, "axis", 0), *index;
    struct be_node b = {.op = BE_GATHER, .name = n->name};
    uint8_t known[MODEL_HOST_MAX * 8];
    const void *from = t != NULL ? t->data : known;
    bool wide = l->s->dtype[n->in[1]] == MODEL_I64;
    uint64_t count = 0;
    uint32_t in[2], out;
    enum rc rc = lower_tensor_of(l, n->in[0], &in[0]);

    if (rc == RC_OK) rc = lower_konst(l, BE_I64, k->rank, k->dim, &index, &in[1]);
    if (rc == RC_OK) rc = lower_tensor_of(l, n->out[0], &out);
    if (rc != RC_OK) return rc;
    if ((t == NULL && !model_shapes_known(l->s, n->in[1], known)) || !model_shape_count(k, &count))
        return err_set(l->reterr, RC_INTERNAL, "node '%.100s': indices", n->name);
    if (axis < 0) axis += x->rank;
    for (uint64_t i = 0; i < count; i++) {
        index[i] = wide ? ((const int64_t *)from)[i] : ((const int32_t *)from)[i];
        if (index[i] < 0) index[i] += x->dim[axis];
    }
    b.u.gather_axis = (uint8_t)axis;
    return lower_node(l, &b, in, 2, out, NULL);
}

/* Where y's place o lies in x, in units of x's places. */
static double resize_at(const struct model_resize *r, uint8_t dim, int64_t in, int64_t o)
{
    double scale = (double)r->scale[dim], at = (double)o;
    int64_t out = r->y.dim[dim];

    switch (r->coord) {
    case MODEL_PYTORCH_HALF_PIXEL:
        return out > 1 ? (at + 0.5) / scale - 0.5 : 0;
    case MODEL_ALIGN_CORNERS:
        return out == 1 ? 0 : at * (double)(in - 1) / (double)(out - 1);
    case MODEL_ASYMMETRIC:
        return at / scale;
    case MODEL_HALF_PIXEL:
        break;
    }
    return (at + 0.5) / scale - 0.5;
}

static double resize_round(const struct model_resize *r, double at)
{
    switch (r->nearest) {
    case MODEL_ROUND_PREFER_CEIL:
        return floor(at + 0.5);
    case MODEL_FLOOR:
        return floor(at);
    case MODEL_CEIL:
        return ceil(at);
    case MODEL_ROUND_PREFER_FLOOR:
        break;
    }
    return ceil(at - 0.5);
}

static int64_t clamp(double v, int64_t d)
{
    return (int64_t)fmin(fmax(v, 0), (double)(d - 1));
}

enum rc lower_resize(struct lower *l, const struct model_node *n)
{
    const struct model_shape *x = &l->shape[n->in[0]];
    struct be_node b = {.op = BE_RESIZE, .name = n->name};
    struct model_resize r;
    uint32_t in[7], in_n = 1, out;
    enum rc rc = model_resize(l->s, n, &r, l->reterr);

    if (rc == RC_OK) rc = lower_tensor_of(l, n->in[0], &in[0]);
    if (rc == RC_OK) rc = lower_tensor_of(l, n->out[0], &out);
    for (uint8_t i = 2; rc == RC_OK && i < x->rank; i++) {
        int64_t size = r.y.dim[i], *place, dim[2] = {2, size};
        float *weight;

        rc = lower_konst(l, BE_I64, 2, dim, &place, &in[in_n++]);
        if (rc == RC_OK) rc = lower_konst(l, BE_F32, 1, &size, &weight, &in[in_n++]);
        for (int64_t o = 0; rc == RC_OK && o < size; o++) {
            double at = resize_at(&r, i, x->dim[i], o);

            weight[o] = r.linear ? (float)(at - floor(at)) : 0;
            place[o] = clamp(r.linear ? floor(at) : resize_round(&r, at), x->dim[i]);
            place[size + o] = r.linear ? clamp(floor(at) + 1, x->dim[i]) : place[o];
        }
    }
    if (rc != RC_OK) return rc;
    b.u.resize_linear = r.linear;
    return lower_node(l, &b, in, in_n, out, NULL);
}

/* One element, repeated. */
enum rc lower_fill(struct lower *l, const struct model_node *n)
{
    const struct model_attr *a = model_attr_get(n, "value");
    struct be_node b = {.op = BE_COPY, .name = n->name};
    uint32_t in, out;
    void *data;
    enum rc rc = lower_tensor_of(l, n->out[0], &out);

    if (rc == RC_OK) rc = lower_konst(l, l->p->tensor[out].dtype, 0, NULL, &data, &in);
    if (rc != RC_OK) return rc;
    if (a == NULL)
        memset(data, 0, sizeof(float));
    else
        memcpy(data, a->t->data, a->t->bytes);
    return lower_node(l, &b, &in, 1, out, NULL);
}

enum rc lower_norm(struct lower *l, const struct model_node *n)
{
    bool layer = n->op == MODEL_OP_LayerNormalization;
    struct be_node b = {.op = layer ? BE_LNORM : BE_INORM};
    int64_t axis = model_attr_i(n, "axis", -1);

    b.u.norm.eps = model_attr_f(n, "epsilon", 1e-5f);
    if (layer) b.u.norm.axis = (uint8_t)(axis < 0 ? axis + l->shape[n->in[0]].rank : axis);
    return lower_emit(l, n, &b, n->in_n);
}
