/* common/model/host.c - works out the small integer tensors that follow from shapes (Shape and what
 * exporters compute from it: Gather, Slice, Concat, Mul, Equal, Where, ...), and model_bind().
 *
 * Which values these are is settled while loading and does not change with the binding: the output
 * of such an operator whose inputs are such values, at most MODEL_HOST_MAX elements. Elements that
 * hang on an unknown dim are marked so until shapes are bound. Arithmetic that overflows or divides
 * by zero is refused.
 *
 * Source: ONNX Shape-15, ConstantOfShape-9, Cast-13, Concat-13, Gather-13, Where-9, Equal-13,
 * Add/Sub/Mul/Div-14 (integer division truncates), Max/Min-13, Neg/Abs-13. */
#include "common/model/model_priv.h"
#include <stdlib.h>
#include <string.h>

static uint64_t bit(uint64_t i)
{
    return UINT64_C(1) << i;
}

static bool host_type(enum model_dtype t)
{
    return t == MODEL_I64 || t == MODEL_I32 || t == MODEL_BOOL || t == MODEL_U8;
}

/* v as the type holds it; false: out of its range. */
static bool fit(enum model_dtype t, int64_t v)
{
    return t == MODEL_I64 || (t == MODEL_I32 && v >= INT32_MIN && v <= INT32_MAX) ||
           (t == MODEL_U8 && v >= 0 && v <= UINT8_MAX) || (t == MODEL_BOOL && (v == 0 || v == 1));
}

enum rc model_host_const(struct model_shapes *c, uint32_t v, const struct model_tensor *t,
                         struct err *reterr)
{
    struct model_host *h;
    uint64_t count;

    if (!host_type(t->dtype) || !model_shape_count(&t->shape, &count) || count > MODEL_HOST_MAX)
        return RC_OK;
    h = model_alloc(c->m->priv, sizeof(*h));
    if (h == NULL) return err_set(reterr, RC_RANGE, "the model's constants need too much memory");
    for (uint64_t i = 0; i < count; i++) {
        if (t->dtype == MODEL_I64)
            h->v[i] = ((const int64_t *)t->data)[i];
        else if (t->dtype == MODEL_I32)
            h->v[i] = ((const int32_t *)t->data)[i];
        else
            h->v[i] = ((const uint8_t *)t->data)[i];
    }
    c->host[v] = h;
    c->m->priv->host_n++;
    return RC_OK;
}

/* Element index of a broadcast operand for each element of y, in order. */
static void operand(const struct model_shape *y, const struct model_shape *x, uint64_t count,
                    uint8_t at[MODEL_HOST_MAX])
{
    for (uint64_t e = 0; e < count; e++) {
        uint64_t rest = e, step = 1, off = 0;

        for (uint8_t i = 0; i < y->rank; i++) { /* from the last dim */
            uint64_t d = (uint64_t)y->dim[y->rank - 1 - i], k = rest % d;

            rest /= d;
            if (i >= x->rank) continue;
            if (x->dim[x->rank - 1 - i] != 1) off += k * step;
            step *= (uint64_t)x->dim[x->rank - 1 - i];
        }
        at[e] = (uint8_t)off;
    }
}

static enum rc arith(enum model_op op, int64_t a, int64_t b, int64_t *ret, struct err *reterr)
{
    bool bad = false;

    switch (op) {
    case MODEL_OP_Add:
        bad = __builtin_add_overflow(a, b, ret);
        break;
    case MODEL_OP_Sub:
        bad = __builtin_sub_overflow(a, b, ret);
        break;
    case MODEL_OP_Mul:
        bad = __builtin_mul_overflow(a, b, ret);
        break;
    case MODEL_OP_Div:
        bad = b == 0 || (a == INT64_MIN && b == -1);
        *ret = bad ? 0 : a / b;
        break;
    case MODEL_OP_Min:
        *ret = MIN(a, b);
        break;
    case MODEL_OP_Max:
        *ret = MAX(a, b);
        break;
    default: /* Equal */
        *ret = a == b;
    }
    return bad ? err_set(reterr, RC_INVAL, "%lld and %lld: overflow, or a division by zero",
                         (long long)a, (long long)b)
               : RC_OK;
}

/* Add and its like, over any number of inputs; Equal over two. */
static enum rc host_binary(struct model_shapes *c, const struct model_node *n, uint64_t count,
                           struct model_host *h, struct err *reterr)
{
    const struct model_shape *y = &c->shape[n->out[0]];
    uint8_t at[MODEL_HOST_MAX];

    for (uint32_t k = 0; k < n->in_n; k++) {
        const struct model_host *x = c->host[n->in[k]];

        operand(y, &c->shape[n->in[k]], count, at);
        for (uint64_t i = 0; i < count; i++) {
            enum rc rc;

            if ((x->unknown & bit(at[i])) != 0) h->unknown |= bit(i);
            if ((h->unknown & bit(i)) != 0) {
                h->v[i] = 0;
                continue;
            }
            if (k == 0) {
                h->v[i] = x->v[at[i]];
                continue;
            }
            rc = arith(n->op, h->v[i], x->v[at[i]], &h->v[i], reterr);
            if (rc != RC_OK) return rc;
        }
    }
    return RC_OK;
}

static void host_where(struct model_shapes *c, const struct model_node *n, uint64_t count,
                       struct model_host *h)
{
    const struct model_shape *y = &c->shape[n->out[0]];
    uint8_t at[3][MODEL_HOST_MAX];
    const struct model_host *x[3];

    for (int k = 0; k < 3; k++) {
        operand(y, &c->shape[n->in[k]], count, at[k]);
        x[k] = c->host[n->in[k]];
    }
    for (uint64_t i = 0; i < count; i++) {
        int from = x[0]->v[at[0][i]] != 0 ? 1 : 2;

        if ((x[0]->unknown & bit(at[0][i])) != 0 || (x[from]->unknown & bit(at[from][i])) != 0)
            h->unknown |= bit(i);
        else
            h->v[i] = x[from]->v[at[from][i]];
    }
}

static void host_take(struct model_host *h, uint64_t i, const struct model_host *x, uint64_t k)
{
    if ((x->unknown & bit(k)) != 0)
        h->unknown |= bit(i);
    else
        h->v[i] = x->v[k];
}

/* Transpose, Slice, Split, Expand. */
static enum rc host_copy(struct model_shapes *c, const struct model_node *n, uint32_t out_idx,
                         uint64_t count, struct model_host *h, struct err *reterr)
{
    const struct model_shape *x = &c->shape[n->in[0]];
    int64_t step[MODEL_RANK_MAX] = {0}, s = 1;
    struct model_copy r;
    enum rc rc = model_copy(c, n, out_idx, &r, reterr);

    if (rc != RC_OK) return rc;
    for (uint8_t i = x->rank; i-- > 0;) {
        step[i] = s;
        s *= x->dim[i];
    }
    for (uint64_t e = 0; e < count; e++) {
        uint64_t rest = e;
        int64_t off = 0;

        for (uint8_t i = r.y.rank; i-- > 0;) {
            int64_t k = (int64_t)(rest % (uint64_t)r.y.dim[i]);

            rest /= (uint64_t)r.y.dim[i];
            if (r.src[i] >= 0) off += (r.start[i] + k * r.step[i]) * step[r.src[i]];
        }
        host_take(h, e, c->host[n->in[0]], (uint64_t)off);
    }
    return RC_OK;
}

/* y[outer, k, inner] = x[outer, idx[k], inner] */
static void host_gather(struct model_shapes *c, const struct model_node *n, uint64_t count,
                        struct model_host *h)
{
    const struct model_shape *x = &c->shape[n->in[0]], *k = &c->shape[n->in[1]];
    const struct model_host *idx = c->host[n->in[1]];
    int64_t axis = model_attr_i(n, "axis", 0);
    uint64_t inner = 1, picks = 1, d;

    if (axis < 0) axis += x->rank;
    for (uint8_t i = (uint8_t)(axis + 1); i < x->rank; i++)
        inner *= (uint64_t)x->dim[i];
    for (uint8_t i = 0; i < k->rank; i++)
        picks *= (uint64_t)k->dim[i];
    d = (uint64_t)x->dim[axis];
    for (uint64_t e = 0; e < count; e++) {
        uint64_t pick = e / inner % picks, outer = e / inner / picks;
        int64_t v = idx->v[pick];

        if ((idx->unknown & bit(pick)) != 0) {
            h->unknown |= bit(e);
            continue;
        }
        host_take(h, e, c->host[n->in[0]],
                  (outer * d + (uint64_t)(v < 0 ? v + x->dim[axis] : v)) * inner + e % inner);
    }
}

static void host_concat(struct model_shapes *c, const struct model_node *n, uint64_t count,
                        struct model_host *h)
{
    const struct model_shape *y = &c->shape[n->out[0]];
    int64_t axis = model_attr_i(n, "axis", 0);
    uint64_t inner = 1, at = 0;

    if (axis < 0) axis += y->rank;
    for (uint8_t i = (uint8_t)(axis + 1); i < y->rank; i++)
        inner *= (uint64_t)y->dim[i];
    for (uint64_t outer = 0; at < count; outer++) {
        for (uint32_t k = 0; k < n->in_n; k++) {
            uint64_t len = (uint64_t)c->shape[n->in[k]].dim[axis] * inner;

            for (uint64_t i = 0; i < len; i++)
                host_take(h, at++, c->host[n->in[k]], outer * len + i);
        }
    }
}

static void host_shape(struct model_shapes *c, const struct model_node *n, uint64_t count,
                       struct model_host *h)
{
    const struct model_shape *x = &c->shape[n->in[0]];
    int64_t from = model_attr_i(n, "start", 0);

    if (from < 0) from = from < -(int64_t)x->rank ? 0 : from + x->rank;
    for (uint64_t i = 0; i < count; i++) {
        int64_t d = x->dim[from + (int64_t)i];

        if (d < 0)
            h->unknown |= bit(i);
        else
            h->v[i] = d;
    }
}

/* The one element of ConstantOfShape's value; 0 when it has none. */
static int64_t fill_value(const struct model_node *n)
{
    const struct model_attr *a = model_attr_get(n, "value");

    if (a == NULL) return 0;
    if (a->t->dtype == MODEL_I64) return *(const int64_t *)a->t->data;
    if (a->t->dtype == MODEL_I32) return *(const int32_t *)a->t->data;
    return *(const uint8_t *)a->t->data;
}

/* Elements one by one, in place and order. */
static enum rc host_each(struct model_shapes *c, const struct model_node *n, uint64_t count,
                         enum model_dtype to, struct model_host *h, struct err *reterr)
{
    const struct model_host *x = c->host[n->in[0]];

    for (uint64_t i = 0; i < count; i++) {
        int64_t v = x->v[i];

        host_take(h, i, x, i);
        if ((x->unknown & bit(i)) != 0) continue;
        if ((n->op == MODEL_OP_Neg || n->op == MODEL_OP_Abs) && v == INT64_MIN)
            return err_set(reterr, RC_INVAL, "overflow");
        if (n->op == MODEL_OP_Neg || (n->op == MODEL_OP_Abs && v < 0)) h->v[i] = -v;
        if (n->op == MODEL_OP_Cast && to == MODEL_BOOL) h->v[i] = v != 0;
    }
    return RC_OK;
}

static bool evaluable(const struct model_node *n)
{
    switch (n->op) {
    case MODEL_OP_Abs:
    case MODEL_OP_Add:
    case MODEL_OP_Cast:
    case MODEL_OP_Concat:
    case MODEL_OP_ConstantOfShape:
    case MODEL_OP_Div:
    case MODEL_OP_Equal:
    case MODEL_OP_Expand:
    case MODEL_OP_Flatten:
    case MODEL_OP_Gather:
    case MODEL_OP_Identity:
    case MODEL_OP_Max:
    case MODEL_OP_Min:
    case MODEL_OP_Mul:
    case MODEL_OP_Neg:
    case MODEL_OP_Reshape:
    case MODEL_OP_Shape:
    case MODEL_OP_Slice:
    case MODEL_OP_Split:
    case MODEL_OP_Squeeze:
    case MODEL_OP_Sub:
    case MODEL_OP_Transpose:
    case MODEL_OP_Unsqueeze:
    case MODEL_OP_Where:
        return true;
    default:
        return false;
    }
}

static enum rc host_eval(struct model_shapes *c, const struct model_node *n, uint32_t k,
                         uint64_t count, struct model_host *h, struct err *reterr)
{
    enum model_dtype t = c->dtype[n->out[k]];
    enum rc rc = RC_OK;

    *h = (struct model_host){0};
    switch (n->op) {
    case MODEL_OP_Shape:
        host_shape(c, n, count, h);
        break;
    case MODEL_OP_ConstantOfShape:
        for (uint64_t i = 0; i < count; i++)
            h->v[i] = fill_value(n);
        break;
    case MODEL_OP_Concat:
        host_concat(c, n, count, h);
        break;
    case MODEL_OP_Gather:
        host_gather(c, n, count, h);
        break;
    case MODEL_OP_Transpose:
    case MODEL_OP_Slice:
    case MODEL_OP_Split:
    case MODEL_OP_Expand:
        rc = host_copy(c, n, k, count, h, reterr);
        break;
    case MODEL_OP_Where:
        host_where(c, n, count, h);
        break;
    case MODEL_OP_Add:
    case MODEL_OP_Sub:
    case MODEL_OP_Mul:
    case MODEL_OP_Div:
    case MODEL_OP_Max:
    case MODEL_OP_Min:
    case MODEL_OP_Equal:
        rc = host_binary(c, n, count, h, reterr);
        break;
    default:
        rc = host_each(c, n, count, t, h, reterr);
    }
    for (uint64_t i = 0; rc == RC_OK && i < count; i++)
        if ((h->unknown & bit(i)) == 0 && !fit(t, h->v[i]))
            rc = err_set(reterr, RC_INVAL, "%lld does not fit %s", (long long)h->v[i],
                         model_dtype_name(t));
    return rc;
}

enum rc model_host_node(struct model_shapes *c, const struct model_node *n, struct err *reterr)
{
    bool in_known = evaluable(n);

    /* of Reshape, Slice and their like the other inputs are such values anyway */
    for (uint32_t i = 0; in_known && i < n->in_n && n->op != MODEL_OP_Shape; i++)
        in_known = n->in[i] == MODEL_NONE || c->host[n->in[i]] != NULL;
    for (uint32_t k = 0; k < n->out_n; k++) {
        uint32_t v = n->out[k];
        struct model_host *h = c->host[v];
        uint64_t count;
        enum rc rc;

        if (c->m->value[v].konst != NULL) continue; /* Constant and its aliases */
        if (c->bound ? h == NULL
                     : !in_known || !host_type(c->dtype[v]) ||
                           !model_shape_count(&c->shape[v], &count) || count > MODEL_HOST_MAX)
            continue;
        if (!model_shape_count(&c->shape[v], &count) || count > MODEL_HOST_MAX)
            return err_set(reterr, RC_INVAL, "more than %d numbers", MODEL_HOST_MAX);
        if (h == NULL) {
            h = model_alloc(c->m->priv, sizeof(*h));
            if (h == NULL)
                return err_set(reterr, RC_RANGE, "the model's shapes need too much memory");
            c->host[v] = h;
            c->m->priv->host_n++;
        }
        rc = host_eval(c, n, k, count, h, reterr);
        if (rc != RC_OK) return rc;
        CHECK(!c->bound || h->unknown == 0);
    }
    return RC_OK;
}

static enum rc bind_inputs(const struct model *m, const struct model_shape *in,
                           struct model_shape *shape, struct err *reterr)
{
    uint64_t count;

    for (uint32_t i = 0; i < m->input_n; i++) {
        const struct model_value *v = &m->value[m->input[i]];
        bool fits = in[i].rank == v->shape.rank && model_shape_count(&in[i], &count);
        char s[128], t[128];

        for (uint8_t k = 0; fits && k < in[i].rank; k++)
            fits = in[i].dim[k] >= 1 && (v->shape.dim[k] < 0 || v->shape.dim[k] == in[i].dim[k]);
        if (!fits)
            return err_set(reterr, RC_INVAL, "input '%.100s' is %s; the model wants %s", v->name,
                           model_shape_text(&in[i], s), model_shape_text(&v->shape, t));
        shape[m->input[i]] = in[i];
    }
    return RC_OK;
}

enum rc model_bind(const struct model *m, const struct model_shape *in, struct model_shapes *ret,
                   struct err *reterr)
{
    struct model_shapes c = {.m = m, .dtype = m->priv->dtype, .bound = true};
    uint32_t k = 0;
    enum rc rc;

    c.shape = calloc(MAX(m->value_n, 1), sizeof(*c.shape));
    c.host = calloc(MAX(m->value_n, 1), sizeof(struct model_host *));
    c.block = calloc(MAX(m->priv->host_n, 1), sizeof(*c.block));
    if (c.shape == NULL || c.host == NULL || c.block == NULL) {
        rc = err_set(reterr, RC_NOMEM, "shapes of a model");
        goto out;
    }
    for (uint32_t i = 0; i < m->value_n; i++) {
        c.shape[i] = m->value[i].shape;
        if (m->priv->host[i] == NULL) continue;
        CHECK(k < m->priv->host_n);
        c.block[k] = *m->priv->host[i];
        c.host[i] = &c.block[k++];
    }
    rc = bind_inputs(m, in, c.shape, reterr);
    for (uint32_t i = 0; rc == RC_OK && i < m->node_n; i++)
        rc = model_node_shape(&c, &m->node[i], reterr);
    if (rc != RC_OK) goto out;
    *ret = c;
    return RC_OK;
out:
    model_shapes_free(&c);
    return rc;
}

void model_shapes_free(struct model_shapes *s)
{
    free(s->shape);
    free(s->host);
    free(s->block);
    *s = (struct model_shapes){0};
}

bool model_shapes_known(const struct model_shapes *s, uint32_t v,
                        uint8_t ret_bytes[MODEL_HOST_MAX * 8])
{
    const struct model_host *h = s->host[v];
    size_t w = model_dtype_bytes(s->dtype[v]);
    uint64_t count;

    if (h == NULL || h->unknown != 0 || !model_shape_count(&s->shape[v], &count)) return false;
    for (uint64_t i = 0; i < count; i++)
        memcpy(ret_bytes + i * w, &h->v[i], w); /* little-endian, and in range */
    return true;
}
