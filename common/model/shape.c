/* common/model/shape.c - shape rules of the operators that compute (shape_window.c: windows;
 * shape_move.c: those that only move elements).
 *
 * A rule sees dims that may be MODEL_DIM_ANY (while loading) or are all known
 * (model_bind). It refuses what cannot fit under any binding and leaves the
 * rest to the binding, which runs the same rules. */
#include "common/model/model_priv.h"
#include <stdio.h>
#include <string.h>

#define COUNT_MAX (UINT64_C(1) << 40)

bool model_shape_count(const struct model_shape *s, uint64_t *ret_n)
{
    uint64_t n = 1;

    for (uint8_t i = 0; i < s->rank; i++) {
        if (s->dim[i] < 0 || s->dim[i] > MODEL_DIM_MAX) return false;
        n *= (uint64_t)s->dim[i]; /* at most 2^40 * 2^31: no overflow */
        if (n > COUNT_MAX) return false;
    }
    *ret_n = n;
    return true;
}

const char *model_shape_text(const struct model_shape *s, char text[128])
{
    size_t n = 1;

    text[0] = '[';
    text[1] = '\0';
    for (uint8_t i = 0; i < s->rank; i++) {
        int k = s->dim[i] < 0 ? snprintf(text + n, 128 - n, "%s?", i == 0 ? "" : ", ")
                              : snprintf(text + n, 128 - n, "%s%lld", i == 0 ? "" : ", ",
                                         (long long)s->dim[i]);

        n += (size_t)k; /* 8 dims of at most 12 characters: fits */
    }
    (void)snprintf(text + n, 128 - n, "]");
    return text;
}

static enum rc need_f32(const struct model_shapes *c, const struct model_node *n,
                        struct err *reterr)
{
    for (uint32_t i = 0; i < n->in_n; i++)
        if (n->in[i] != MODEL_NONE && c->dtype[n->in[i]] != MODEL_F32)
            return err_set(reterr, RC_INVAL, "input %u is %s; only float32 is served", i,
                           model_dtype_name(c->dtype[n->in[i]]));
    return RC_OK;
}

enum rc model_shape_give(struct model_shapes *c, const struct model_node *n,
                         const struct model_shape *y, enum model_dtype t)
{
    c->shape[n->out[0]] = *y;
    if (!c->bound) c->dtype[n->out[0]] = t; /* a loaded model is constant */
    return RC_OK;
}

enum rc model_axis(int64_t axis, uint8_t rank, bool end, uint8_t *ret, struct err *reterr)
{
    if (axis < -(int64_t)rank || axis > (int64_t)rank - (end ? 0 : 1))
        return err_set(reterr, RC_INVAL, "axis %lld of rank %u", (long long)axis, rank);
    *ret = (uint8_t)(axis < 0 ? axis + rank : axis);
    return RC_OK;
}

enum rc shape_any_type(struct model_shapes *c, const struct model_node *n, struct err *reterr)
{
    if (n->op == MODEL_OP_Dropout && n->in_n == 3 && n->in[2] != MODEL_NONE) {
        const struct model_tensor *t = c->m->value[n->in[2]].konst;

        if (t->dtype != MODEL_BOOL || t->bytes != 1 || *(const uint8_t *)t->data != 0)
            return err_set(reterr, RC_INVAL, "training mode is not served");
    }
    return model_shape_give(c, n, &c->shape[n->in[0]], c->dtype[n->in[0]]);
}

enum rc shape_same(struct model_shapes *c, const struct model_node *n, struct err *reterr)
{
    enum rc rc = need_f32(c, n, reterr);

    return rc != RC_OK ? rc : model_shape_give(c, n, &c->shape[n->in[0]], MODEL_F32);
}

enum rc shape_clip(struct model_shapes *c, const struct model_node *n, struct err *reterr)
{
    for (uint32_t i = 1; i < n->in_n; i++) {
        const struct model_tensor *t;

        if (n->in[i] == MODEL_NONE) continue;
        t = c->m->value[n->in[i]].konst;
        if (t->dtype != MODEL_F32 || t->bytes != 4)
            return err_set(reterr, RC_INVAL, "min and max must be float32 scalars");
    }
    return shape_same(c, n, reterr);
}

enum rc shape_cast(struct model_shapes *c, const struct model_node *n, struct err *reterr)
{
    int64_t to = model_attr_i(n, "to", 0);
    enum model_dtype from = c->dtype[n->in[0]];

    if (to != MODEL_F32 && to != MODEL_U8 && to != MODEL_I32 && to != MODEL_I64 && to != MODEL_BOOL)
        return err_set(reterr, RC_INVAL, "a cast to type %lld is not served", (long long)to);
    if (from == MODEL_F64) return err_set(reterr, RC_INVAL, "a cast from float64 is not served");
    return model_shape_give(c, n, &c->shape[n->in[0]], (enum model_dtype)to);
}

enum rc model_broadcast(struct model_shape *y, const struct model_shape *b, struct err *reterr)
{
    struct model_shape r = {.rank = MAX(y->rank, b->rank)};

    for (uint8_t i = 0; i < r.rank; i++) { /* from the last dim */
        int64_t p = i < y->rank ? y->dim[y->rank - 1 - i] : 1;
        int64_t q = i < b->rank ? b->dim[b->rank - 1 - i] : 1;
        int64_t *d = &r.dim[r.rank - 1 - i];

        if (p == q) {
            *d = p;
        } else if (p == 1 || q == 1) {
            *d = p == 1 ? q : p;
        } else if (p < 0 || q < 0) {
            *d = p < 0 ? q : p; /* the unknown one must turn out to be that, or 1 */
        } else {
            char s[128], t[128];

            return err_set(reterr, RC_INVAL, "shapes %s and %s do not broadcast",
                           model_shape_text(y, s), model_shape_text(b, t));
        }
    }
    *y = r;
    return RC_OK;
}

/* float32; or integers that follow from shapes, which host.c then works out. */
enum rc shape_broadcast(struct model_shapes *c, const struct model_node *n, struct err *reterr)
{
    struct model_shape y = c->shape[n->in[0]];
    enum model_dtype t = c->dtype[n->in[0]];
    bool ints = t == MODEL_I64 || t == MODEL_I32;
    enum rc rc = RC_OK;

    for (uint32_t i = 0; ints && i < n->in_n; i++)
        ints = c->dtype[n->in[i]] == t && c->host[n->in[i]] != NULL;
    if (!ints || n->op == MODEL_OP_Pow) {
        t = MODEL_F32;
        rc = need_f32(c, n, reterr);
    }
    for (uint32_t i = 1; rc == RC_OK && i < n->in_n; i++)
        rc = model_broadcast(&y, &c->shape[n->in[i]], reterr);
    return rc != RC_OK ? rc : model_shape_give(c, n, &y, t);
}

/* Scale and shift of n values each, at inputs 1 and, when present, 2. */
static enum rc need_params(const struct model_shapes *c, const struct model_node *n, int64_t width,
                           struct err *reterr)
{
    for (uint32_t i = 1; i < n->in_n; i++) {
        const struct model_shape *s = n->in[i] == MODEL_NONE ? NULL : &c->shape[n->in[i]];

        if (s != NULL && (s->rank != 1 || (width >= 0 && s->dim[0] != width)))
            return err_set(reterr, RC_INVAL, "input %u does not fit the channels", i);
    }
    return RC_OK;
}

enum rc shape_instancenorm(struct model_shapes *c, const struct model_node *n, struct err *reterr)
{
    const struct model_shape *x = &c->shape[n->in[0]];
    enum rc rc = need_f32(c, n, reterr);

    if (rc != RC_OK) return rc;
    if (x->rank < 3) return err_set(reterr, RC_INVAL, "rank %u; at least 3 is needed", x->rank);
    if (c->shape[n->in[1]].rank == 1 && c->shape[n->in[2]].rank == 1 &&
        c->shape[n->in[1]].dim[0] != c->shape[n->in[2]].dim[0])
        return err_set(reterr, RC_INVAL, "scale and shift differ in length");
    rc = need_params(c, n, x->dim[1], reterr);
    return rc != RC_OK ? rc : model_shape_give(c, n, x, MODEL_F32);
}

/* Over the last dims from `axis` on; scale and shift have the shape of those dims (exporters write
 * one dim). */
enum rc shape_layernorm(struct model_shapes *c, const struct model_node *n, struct err *reterr)
{
    const struct model_shape *x = &c->shape[n->in[0]];
    uint8_t axis = 0;
    enum rc rc = need_f32(c, n, reterr);

    if (rc == RC_OK)
        rc = model_axis(model_attr_i(n, "axis", -1), x->rank, /* end= */ false, &axis, reterr);
    if (rc != RC_OK) return rc;
    if (model_attr_i(n, "stash_type", 1) != 1)
        return err_set(reterr, RC_INVAL, "'stash_type' is not float32");
    for (uint32_t i = 1; i < n->in_n; i++) {
        const struct model_shape *s = n->in[i] == MODEL_NONE ? NULL : &c->shape[n->in[i]];

        if (s == NULL) continue;
        for (uint8_t k = axis; k < x->rank; k++)
            if (s->rank != x->rank - axis || (x->dim[k] >= 0 && x->dim[k] != s->dim[k - axis]))
                return err_set(reterr, RC_INVAL, "input %u is not of the shape that is normalised",
                               i);
    }
    return model_shape_give(c, n, x, MODEL_F32);
}

enum rc shape_batchnorm(struct model_shapes *c, const struct model_node *n, struct err *reterr)
{
    const struct model_shape *x = &c->shape[n->in[0]];
    enum rc rc = need_f32(c, n, reterr);

    if (rc != RC_OK) return rc;
    if (model_attr_i(n, "training_mode", 0) != 0)
        return err_set(reterr, RC_INVAL, "training mode is not served");
    if (x->rank < 2) return err_set(reterr, RC_INVAL, "rank %u", x->rank);
    for (uint32_t i = 1; i < 5; i++) {
        const struct model_shape *s = &c->shape[n->in[i]];

        if (s->rank != 1 || s->dim[0] != c->shape[n->in[1]].dim[0] ||
            (x->dim[1] >= 0 && s->dim[0] != x->dim[1]))
            return err_set(reterr, RC_INVAL, "input %u does not fit the channels", i);
    }
    return model_shape_give(c, n, x, MODEL_F32);
}

enum rc shape_concat(struct model_shapes *c, const struct model_node *n, struct err *reterr)
{
    struct model_shape y = c->shape[n->in[0]];
    enum model_dtype t = c->dtype[n->in[0]];
    uint8_t axis = 0;
    enum rc rc;

    if (model_attr_get(n, "axis") == NULL) return err_set(reterr, RC_INVAL, "no 'axis'");
    rc = model_axis(model_attr_i(n, "axis", 0), y.rank, /* end= */ false, &axis, reterr);
    if (rc != RC_OK) return rc;
    if (t == MODEL_F64) return err_set(reterr, RC_INVAL, "float64 is not served");
    for (uint32_t k = 1; k < n->in_n; k++) {
        const struct model_shape *s = &c->shape[n->in[k]];

        if (s->rank != y.rank || c->dtype[n->in[k]] != t)
            return err_set(reterr, RC_INVAL, "input %u has another rank or type", k);
        for (uint8_t i = 0; i < y.rank; i++) {
            if (i == axis) {
                y.dim[i] = y.dim[i] < 0 || s->dim[i] < 0 ? MODEL_DIM_ANY : y.dim[i] + s->dim[i];
                if (y.dim[i] > MODEL_DIM_MAX) return err_set(reterr, RC_INVAL, "too large");
            } else if (y.dim[i] < 0) {
                y.dim[i] = s->dim[i];
            } else if (s->dim[i] >= 0 && s->dim[i] != y.dim[i]) {
                return err_set(reterr, RC_INVAL, "input %u has %lld at axis %u, not %lld", k,
                               (long long)s->dim[i], i, (long long)y.dim[i]);
            }
        }
    }
    return model_shape_give(c, n, &y, t);
}

enum rc shape_constant(struct model_shapes *c, const struct model_node *n, struct err *reterr)
{
    const struct model_tensor *t = c->m->value[n->out[0]].konst;

    if (t == NULL) return err_set(reterr, RC_INVAL, "no value");
    return model_shape_give(c, n, &t->shape, t->dtype);
}

/* Product of dims a..b-1; MODEL_DIM_ANY when one is unknown, false when it is
 * too large. */
static bool dims_product(const struct model_shape *s, uint8_t a, uint8_t b, int64_t *ret)
{
    int64_t n = 1;

    for (uint8_t i = a; i < b; i++) {
        if (s->dim[i] < 0) {
            *ret = MODEL_DIM_ANY;
            return true;
        }
        n *= s->dim[i];
        if (n > MODEL_DIM_MAX) return false;
    }
    *ret = n;
    return true;
}

enum rc shape_flatten(struct model_shapes *c, const struct model_node *n, struct err *reterr)
{
    const struct model_shape *x = &c->shape[n->in[0]];
    struct model_shape y = {.rank = 2};
    uint8_t axis = 0;
    enum rc rc = model_axis(model_attr_i(n, "axis", 1), x->rank, /* end= */ true, &axis, reterr);

    if (rc != RC_OK) return rc;
    if (!dims_product(x, 0, axis, &y.dim[0]) || !dims_product(x, axis, x->rank, &y.dim[1]))
        return err_set(reterr, RC_INVAL, "too large");
    return model_shape_give(c, n, &y, c->dtype[n->in[0]]);
}

enum rc shape_gemm(struct model_shapes *c, const struct model_node *n, struct err *reterr)
{
    const struct model_shape *a = &c->shape[n->in[0]], *b = &c->shape[n->in[1]];
    int ta = model_attr_i(n, "transA", 0) != 0, tb = model_attr_i(n, "transB", 0) != 0;
    struct model_shape y = {.rank = 2}, z;
    enum rc rc = need_f32(c, n, reterr);

    if (rc != RC_OK) return rc;
    if (a->rank != 2 || b->rank != 2)
        return err_set(reterr, RC_INVAL, "ranks %u and %u, not 2", a->rank, b->rank);
    if (a->dim[1 - ta] >= 0 && b->dim[tb] >= 0 && a->dim[1 - ta] != b->dim[tb])
        return err_set(reterr, RC_INVAL, "inner dimensions %lld and %lld",
                       (long long)a->dim[1 - ta], (long long)b->dim[tb]);
    y.dim[0] = a->dim[ta];
    y.dim[1] = b->dim[1 - tb];
    if (n->in_n == 3 && n->in[2] != MODEL_NONE) {
        z = y;
        rc = model_broadcast(&z, &c->shape[n->in[2]], reterr);
        if (rc != RC_OK) return rc;
        for (uint8_t i = 0; i < 2; i++) /* C goes to Y's shape, never the other way */
            if (z.rank != 2 || (y.dim[i] >= 0 && z.dim[i] != y.dim[i]))
                return err_set(reterr, RC_INVAL, "C does not broadcast to the product");
    }
    return model_shape_give(c, n, &y, MODEL_F32);
}

enum rc shape_matmul(struct model_shapes *c, const struct model_node *n, struct err *reterr)
{
    struct model_shape a = c->shape[n->in[0]], b = c->shape[n->in[1]], p, q;
    bool a1 = a.rank == 1, b1 = b.rank == 1;
    enum rc rc = need_f32(c, n, reterr);

    if (rc != RC_OK) return rc;
    if (a.rank == 0 || b.rank == 0) return err_set(reterr, RC_INVAL, "a scalar input");
    if (a1) a = (struct model_shape){.rank = 2, .dim = {1, a.dim[0]}};
    if (b1) b = (struct model_shape){.rank = 2, .dim = {b.dim[0], 1}};
    if (a.dim[a.rank - 1] >= 0 && b.dim[b.rank - 2] >= 0 && a.dim[a.rank - 1] != b.dim[b.rank - 2])
        return err_set(reterr, RC_INVAL, "inner dimensions %lld and %lld",
                       (long long)a.dim[a.rank - 1], (long long)b.dim[b.rank - 2]);
    p = a;
    q = b;
    p.rank = (uint8_t)(p.rank - 2);
    q.rank = (uint8_t)(q.rank - 2);
    rc = model_broadcast(&p, &q, reterr);
    if (rc != RC_OK) return rc;
    if (!a1) p.dim[p.rank++] = a.dim[a.rank - 2];
    if (!b1) p.dim[p.rank++] = b.dim[b.rank - 1];
    return model_shape_give(c, n, &p, MODEL_F32);
}

enum rc model_axes(const struct model_shapes *c, const struct model_node *n, uint8_t rank,
                   uint8_t ret_axis[MODEL_RANK_MAX], uint8_t *ret_n, struct err *reterr)
{
    const struct model_attr *a = model_attr_get(n, "axes");
    const int64_t *axes = a == NULL ? NULL : a->is;
    uint32_t seen = 0, count = a == NULL ? 0 : a->n;
    uint8_t k = 0;
    bool as_input =
        c->m->opset >= 13 &&
        (n->op == MODEL_OP_Squeeze || n->op == MODEL_OP_Unsqueeze || n->op == MODEL_OP_ReduceSum);

    if (as_input && a != NULL)
        return err_set(reterr, RC_INVAL, "since opset 13 'axes' is an input");
    if (!as_input && n->in_n > 1)
        return err_set(reterr, RC_INVAL, "before opset 13 'axes' is an attribute");
    if (as_input && n->in_n == 2 && n->in[1] != MODEL_NONE) {
        const struct model_host *h = NULL;
        enum rc rc = model_ints(c, n, 1, &h, &count, reterr);

        if (rc != RC_OK) return rc;
        if (h->unknown != 0)
            return err_set(reterr, RC_INVAL, "the axes depend on the input's size");
        axes = h->v;
    }
    if (count > rank) return err_set(reterr, RC_INVAL, "%u axes", count);
    for (uint32_t i = 0; i < count; i++) {
        uint8_t x = 0;
        enum rc rc = model_axis(axes[i], rank, /* end= */ false, &x, reterr);

        if (rc != RC_OK) return rc;
        if ((seen >> x & 1) != 0) return err_set(reterr, RC_INVAL, "axis %u twice", x);
        seen |= 1u << x;
    }
    for (uint8_t i = 0; i < rank; i++)
        if ((seen >> i & 1) != 0) ret_axis[k++] = i;
    *ret_n = k;
    return RC_OK;
}

enum rc shape_reduce(struct model_shapes *c, const struct model_node *n, struct err *reterr)
{
    const struct model_shape *x = &c->shape[n->in[0]];
    bool keep = model_attr_i(n, "keepdims", 1) != 0;
    uint8_t axis[MODEL_RANK_MAX], axis_n, k = 0;
    struct model_shape y = {0};
    enum rc rc;

    if (c->dtype[n->in[0]] != MODEL_F32) return err_set(reterr, RC_INVAL, "only float32 is served");
    rc = model_axes(c, n, x->rank, axis, &axis_n, reterr);
    if (rc != RC_OK) return rc;
    if (model_attr_i(n, "noop_with_empty_axes", 0) != 0)
        return err_set(reterr, RC_INVAL, "'noop_with_empty_axes' is not served");
    for (uint8_t i = 0; i < x->rank; i++) {
        bool reduced = axis_n == 0;

        while (k < axis_n && axis[k] < i)
            k++;
        if (k < axis_n && axis[k] == i) reduced = true;
        if (reduced && x->dim[i] == 0) return err_set(reterr, RC_INVAL, "nothing to reduce");
        if (reduced && !keep) continue;
        y.dim[y.rank++] = reduced ? 1 : x->dim[i];
    }
    return model_shape_give(c, n, &y, MODEL_F32);
}

enum rc shape_reshape(struct model_shapes *c, const struct model_node *n, struct err *reterr)
{
    const struct model_shape *x = &c->shape[n->in[0]];
    bool zero = model_attr_i(n, "allowzero", 0) != 0, known = true;
    uint64_t from = 1, to = 1; /* without the dims that are copied in place */
    const struct model_host *h = NULL;
    struct model_shape y = {0};
    int hole = -1;
    uint32_t rank;
    enum rc rc = model_ints(c, n, 1, &h, &rank, reterr);

    if (rc != RC_OK) return rc;
    if (rank > MODEL_RANK_MAX)
        return err_set(reterr, RC_INVAL, "the new shape must be a list of at most %d int64",
                       MODEL_RANK_MAX);
    y.rank = (uint8_t)rank;
    for (uint8_t i = 0; i < MAX(x->rank, y.rank); i++) {
        bool later = i < y.rank && (h->unknown >> i & 1) != 0;
        int64_t d = i < y.rank && !later ? h->v[i] : 1;
        bool copied = i < y.rank && d == 0 && !zero;

        if (later) known = false;

        if (d < -1 || d > MODEL_DIM_MAX || (copied && i >= x->rank) || (d == -1 && hole >= 0))
            return err_set(reterr, RC_INVAL, "%lld at %u of the new shape", (long long)d, i);
        if (i < y.rank) y.dim[i] = copied ? x->dim[i] : later ? MODEL_DIM_ANY : d;
        if (d == -1) hole = i;
        if (i < x->rank && !copied) {
            if (x->dim[i] < 0)
                known = false;
            else
                from *= (uint64_t)x->dim[i];
        }
        if (i < y.rank && !copied && d != -1) to *= (uint64_t)d;
        if (from > COUNT_MAX || to > COUNT_MAX) return err_set(reterr, RC_INVAL, "too large");
    }
    if (hole >= 0) y.dim[hole] = MODEL_DIM_ANY;
    if (known && hole >= 0) {
        if (to == 0 || from % to != 0 || from / to > MODEL_DIM_MAX)
            return err_set(reterr, RC_INVAL, "%llu elements do not divide by %llu",
                           (unsigned long long)from, (unsigned long long)to);
        y.dim[hole] = (int64_t)(from / to);
    } else if (known && from != to) {
        return err_set(reterr, RC_INVAL, "%llu elements into %llu", (unsigned long long)from,
                       (unsigned long long)to);
    }
    return model_shape_give(c, n, &y, c->dtype[n->in[0]]);
}

enum rc shape_softmax(struct model_shapes *c, const struct model_node *n, struct err *reterr)
{
    const struct model_shape *x = &c->shape[n->in[0]];
    uint8_t axis;
    enum rc rc = model_axis(model_attr_i(n, "axis", c->m->opset >= 13 ? -1 : 1), x->rank,
                            /* end= */ false, &axis, reterr);

    return rc != RC_OK ? rc : shape_same(c, n, reterr);
}

enum rc shape_squeeze(struct model_shapes *c, const struct model_node *n, struct err *reterr)
{
    const struct model_shape *x = &c->shape[n->in[0]];
    uint8_t axis[MODEL_RANK_MAX], axis_n, k = 0;
    struct model_shape y = {0};
    enum rc rc = model_axes(c, n, x->rank, axis, &axis_n, reterr);

    if (rc != RC_OK) return rc;
    for (uint8_t i = 0; i < x->rank; i++) {
        bool drop = axis_n == 0 ? x->dim[i] == 1 : k < axis_n && axis[k] == i;

        if (axis_n == 0 && x->dim[i] < 0)
            return err_set(reterr, RC_INVAL, "without axes its rank is not known before it runs");
        if (!drop) {
            y.dim[y.rank++] = x->dim[i];
            continue;
        }
        k++;
        if (x->dim[i] >= 0 && x->dim[i] != 1)
            return err_set(reterr, RC_INVAL, "axis %u is %lld, not 1", i, (long long)x->dim[i]);
    }
    return model_shape_give(c, n, &y, c->dtype[n->in[0]]);
}

enum rc shape_unsqueeze(struct model_shapes *c, const struct model_node *n, struct err *reterr)
{
    const struct model_shape *x = &c->shape[n->in[0]];
    const struct model_attr *a = model_attr_get(n, "axes");
    const struct model_host *h = NULL;
    uint32_t count = a != NULL ? a->n : 0;
    uint8_t axis[MODEL_RANK_MAX], axis_n, k = 0, from = 0;
    struct model_shape y = {0};
    enum rc rc = RC_OK;

    if (a == NULL && n->in_n == 2 && n->in[1] != MODEL_NONE)
        rc = model_ints(c, n, 1, &h, &count, reterr);
    if (rc != RC_OK) return rc;
    if (count == 0 || count + x->rank > MODEL_RANK_MAX)
        return err_set(reterr, RC_INVAL, "%u axes on rank %u", count, x->rank);
    y.rank = (uint8_t)(x->rank + count);
    rc = model_axes(c, n, y.rank, axis, &axis_n, reterr);
    if (rc != RC_OK) return rc;
    if (axis_n != count) return err_set(reterr, RC_INVAL, "axes must be int64");
    for (uint8_t i = 0; i < y.rank; i++) {
        if (k < axis_n && axis[k] == i) {
            y.dim[i] = 1;
            k++;
        } else {
            y.dim[i] = x->dim[from++];
        }
    }
    return model_shape_give(c, n, &y, c->dtype[n->in[0]]);
}
