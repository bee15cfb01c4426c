/* common/model/shape_move.c - shape rules of the operators that move elements about, and of those
 * whose output follows from shapes.
 *
 * Source: ONNX Transpose-13, Slice-13, Split-11/13, Expand-13, Gather-13, Pad-13, Resize-11/13,
 * Shape-15, ConstantOfShape-9, Equal-13, Where-9. Where a list of integers is wanted, some of its
 * elements may be unknown until shapes are bound: a dim that hangs on one is MODEL_DIM_ANY. */
#include "common/model/model_priv.h"
#include <math.h>
#include <string.h>

enum rc model_ints(const struct model_shapes *c, const struct model_node *n, uint32_t in_idx,
                   const struct model_host **ret, uint32_t *ret_n, struct err *reterr)
{
    const struct model_shape *s = &c->shape[n->in[in_idx]];
    enum model_dtype t = c->dtype[n->in[in_idx]];
    uint64_t count;

    if ((t != MODEL_I64 && t != MODEL_I32) || s->rank > 1)
        return err_set(reterr, RC_INVAL, "input %u must be a list of int64", in_idx);
    *ret = c->host[n->in[in_idx]];
    if (*ret == NULL || !model_shape_count(s, &count))
        return err_set(reterr, RC_INVAL, "input %u ('%.60s'): a list of at most %d numbers", in_idx,
                       c->m->value[n->in[in_idx]].name, MODEL_HOST_MAX);
    *ret_n = (uint32_t)count;
    return RC_OK;
}

/* An input that may be left out: *ret NULL. */
static enum rc ints_opt(const struct model_shapes *c, const struct model_node *n, uint32_t in_idx,
                        const struct model_host **ret, uint32_t *ret_n, struct err *reterr)
{
    *ret = NULL;
    *ret_n = 0;
    if (in_idx >= n->in_n || n->in[in_idx] == MODEL_NONE) return RC_OK;
    return model_ints(c, n, in_idx, ret, ret_n, reterr);
}

static void copy_same(struct model_copy *r, const struct model_shape *x)
{
    *r = (struct model_copy){.y = *x};
    for (uint8_t i = 0; i < x->rank; i++) {
        r->src[i] = (int8_t)i;
        r->step[i] = 1;
    }
}

static enum rc copy_transpose(const struct model_shapes *c, const struct model_node *n,
                              struct model_copy *r, struct err *reterr)
{
    const struct model_shape *x = &c->shape[n->in[0]];
    const struct model_attr *perm = model_attr_get(n, "perm");
    uint32_t seen = 0;

    copy_same(r, x);
    if (perm != NULL && perm->n != x->rank)
        return err_set(reterr, RC_INVAL, "'perm' has %u values for rank %u", perm->n, x->rank);
    for (uint8_t i = 0; i < x->rank; i++) {
        int64_t p = perm == NULL ? x->rank - 1 - i : perm->is[i];

        if (p < 0 || p >= x->rank || (seen >> p & 1) != 0)
            return err_set(reterr, RC_INVAL, "'perm' holds %lld", (long long)p);
        seen |= 1u << p;
        r->src[i] = (int8_t)p;
        r->y.dim[i] = x->dim[p];
    }
    return RC_OK;
}

/* v as an index into d elements: from the end when negative, then within lo..hi. */
static int64_t slice_clamp(int64_t v, int64_t d, int64_t lo, int64_t hi)
{
    if (v < 0) v = v < -d ? lo : v + d;
    return MIN(MAX(v, lo), hi);
}

static enum rc copy_slice(const struct model_shapes *c, const struct model_node *n,
                          struct model_copy *r, struct err *reterr)
{
    const struct model_shape *x = &c->shape[n->in[0]];
    const struct model_host *from, *to, *axes, *steps;
    uint32_t from_n, to_n, axes_n, steps_n, seen = 0;
    enum rc rc = model_ints(c, n, 1, &from, &from_n, reterr);

    copy_same(r, x);
    if (rc == RC_OK) rc = model_ints(c, n, 2, &to, &to_n, reterr);
    if (rc == RC_OK) rc = ints_opt(c, n, 3, &axes, &axes_n, reterr);
    if (rc == RC_OK) rc = ints_opt(c, n, 4, &steps, &steps_n, reterr);
    if (rc != RC_OK) return rc;
    if (from_n != to_n || (axes != NULL && axes_n != from_n) ||
        (steps != NULL && steps_n != from_n) || from_n > x->rank)
        return err_set(reterr, RC_INVAL, "starts, ends, axes and steps differ in length");
    if ((axes != NULL && axes->unknown != 0) || (steps != NULL && steps->unknown != 0))
        return err_set(reterr, RC_INVAL, "axes and steps must be constants");
    for (uint32_t i = 0; i < from_n; i++) {
        int64_t step = steps == NULL ? 1 : steps->v[i], d, a, b;
        uint8_t k = 0;

        rc = model_axis(axes == NULL ? i : axes->v[i], x->rank, /* end= */ false, &k, reterr);
        if (rc != RC_OK) return rc;
        if (step == 0 || (seen >> k & 1) != 0)
            return err_set(reterr, RC_INVAL, "a step of 0, or an axis twice");
        seen |= 1u << k;
        step =
            MIN(MAX(step, -MODEL_DIM_MAX), MODEL_DIM_MAX); /* longer ones reach one element too */
        d = x->dim[k];
        r->y.dim[k] = MODEL_DIM_ANY;
        r->step[k] = step;
        if (d < 0 || (from->unknown >> i & 1) != 0 || (to->unknown >> i & 1) != 0) continue;
        a = slice_clamp(from->v[i], d, 0, step > 0 ? d : MAX(d - 1, 0));
        b = slice_clamp(to->v[i], d, step > 0 ? 0 : -1, step > 0 ? d : d - 1);
        r->start[k] = a;
        r->y.dim[k] = step > 0 ? (b - a + step - 1) / step : (a - b - step - 1) / -step;
        if (d == 0 || (step > 0 ? b <= a : b >= a)) r->y.dim[k] = 0;
    }
    return RC_OK;
}

static enum rc copy_split(const struct model_shapes *c, const struct model_node *n,
                          uint32_t out_idx, struct model_copy *r, struct err *reterr)
{
    const struct model_shape *x = &c->shape[n->in[0]];
    const struct model_attr *a = model_attr_get(n, "split");
    const struct model_host *h = NULL;
    const int64_t *size = a == NULL ? NULL : a->is;
    uint32_t size_n = a == NULL ? 0 : a->n;
    int64_t d, at = 0, sum = 0;
    uint8_t axis = 0;
    enum rc rc = model_axis(model_attr_i(n, "axis", 0), x->rank, /* end= */ false, &axis, reterr);

    copy_same(r, x);
    if (rc == RC_OK) rc = ints_opt(c, n, 1, &h, &size_n, reterr);
    if (rc != RC_OK) return rc;
    if ((h != NULL) != (c->m->opset >= 13 && n->in_n == 2) || (a != NULL && c->m->opset >= 13))
        return err_set(reterr, RC_INVAL, "'split' is an attribute before opset 13, an input since");
    if (a != NULL) size_n = a->n;
    if (h != NULL) {
        if (h->unknown != 0)
            return err_set(reterr, RC_INVAL, "'split' depends on the input's size");
        size = h->v;
    }
    d = x->dim[axis];
    if (size == NULL) {
        if (d >= 0 && d % n->out_n != 0)
            return err_set(reterr, RC_INVAL, "%lld does not divide by %u", (long long)d, n->out_n);
        r->y.dim[axis] = d < 0 ? MODEL_DIM_ANY : d / n->out_n;
        r->start[axis] = d < 0 ? 0 : d / n->out_n * out_idx;
        return RC_OK;
    }
    if (size_n != n->out_n)
        return err_set(reterr, RC_INVAL, "%u sizes for %u outputs", size_n, n->out_n);
    for (uint32_t i = 0; i < size_n; i++) {
        if (size[i] < 0 || size[i] > MODEL_DIM_MAX - sum)
            return err_set(reterr, RC_INVAL, "a size of %lld", (long long)size[i]);
        if (i == out_idx) at = sum;
        sum += size[i];
    }
    if (d >= 0 && sum != d)
        return err_set(reterr, RC_INVAL, "the sizes add up to %lld, not %lld", (long long)sum,
                       (long long)d);
    r->y.dim[axis] = size[out_idx];
    r->start[axis] = at;
    return RC_OK;
}

static enum rc copy_expand(const struct model_shapes *c, const struct model_node *n,
                           struct model_copy *r, struct err *reterr)
{
    const struct model_shape *x = &c->shape[n->in[0]];
    const struct model_host *h = NULL;
    struct model_shape want = {0};
    uint32_t rank;
    enum rc rc = model_ints(c, n, 1, &h, &rank, reterr);

    if (rc != RC_OK) return rc;
    if (rank > MODEL_RANK_MAX) return err_set(reterr, RC_INVAL, "rank %u", rank);
    want.rank = (uint8_t)rank;
    for (uint32_t i = 0; i < rank; i++) {
        bool later = (h->unknown >> i & 1) != 0;

        if (!later && (h->v[i] < 0 || h->v[i] > MODEL_DIM_MAX))
            return err_set(reterr, RC_INVAL, "%lld in the new shape", (long long)h->v[i]);
        want.dim[i] = later ? MODEL_DIM_ANY : h->v[i];
    }
    *r = (struct model_copy){.y = *x};
    rc = model_broadcast(&r->y, &want, reterr);
    if (rc != RC_OK) return rc;
    for (uint8_t i = 0; i < r->y.rank; i++) {
        int k = (int)i - (r->y.rank - x->rank);

        r->step[i] = 1;
        r->src[i] = (int8_t)(k < 0 || x->dim[k] == 1 ? -1 : k);
    }
    return RC_OK;
}

enum rc model_copy(const struct model_shapes *c, const struct model_node *n, uint32_t out_idx,
                   struct model_copy *ret, struct err *reterr)
{
    switch (n->op) {
    case MODEL_OP_Transpose:
        return copy_transpose(c, n, ret, reterr);
    case MODEL_OP_Slice:
        return copy_slice(c, n, ret, reterr);
    case MODEL_OP_Split:
        return copy_split(c, n, out_idx, ret, reterr);
    case MODEL_OP_Expand:
        return copy_expand(c, n, ret, reterr);
    default:
        return err_set(reterr, RC_INTERNAL, "no operator that copies");
    }
}

/* Any type that a backend can move; float64 lives in constants only. */
static enum rc need_movable(const struct model_shapes *c, const struct model_node *n,
                            struct err *reterr)
{
    if (c->dtype[n->in[0]] == MODEL_F64) return err_set(reterr, RC_INVAL, "float64 is not served");
    return RC_OK;
}

enum rc shape_copy(struct model_shapes *c, const struct model_node *n, struct err *reterr)
{
    struct model_copy r;
    enum rc rc = need_movable(c, n, reterr);

    if (rc == RC_OK) rc = model_copy(c, n, 0, &r, reterr);
    return rc != RC_OK ? rc : model_shape_give(c, n, &r.y, c->dtype[n->in[0]]);
}

enum rc shape_split(struct model_shapes *c, const struct model_node *n, struct err *reterr)
{
    enum rc rc = need_movable(c, n, reterr);

    for (uint32_t i = 0; rc == RC_OK && i < n->out_n; i++) {
        struct model_copy r;

        rc = copy_split(c, n, i, &r, reterr);
        if (rc != RC_OK) return rc;
        c->shape[n->out[i]] = r.y;
        if (!c->bound) c->dtype[n->out[i]] = c->dtype[n->in[0]];
    }
    return rc;
}

/* Indices are constants or follow from shapes, so that no run can read outside of x. */
enum rc shape_gather(struct model_shapes *c, const struct model_node *n, struct err *reterr)
{
    const struct model_shape *x = &c->shape[n->in[0]], *k = &c->shape[n->in[1]];
    const struct model_tensor *t = c->m->value[n->in[1]].konst;
    const struct model_host *h = c->host[n->in[1]];
    enum model_dtype type = c->dtype[n->in[1]];
    struct model_shape y = {0};
    uint8_t axis = 0;
    uint64_t count;
    int64_t d;
    enum rc rc = need_movable(c, n, reterr);

    if (rc == RC_OK)
        rc = model_axis(model_attr_i(n, "axis", 0), x->rank, /* end= */ false, &axis, reterr);
    if (rc != RC_OK) return rc;
    if ((type != MODEL_I64 && type != MODEL_I32) || x->rank - 1 + k->rank > MODEL_RANK_MAX)
        return err_set(reterr, RC_INVAL, "indices of type %s and rank %u", model_dtype_name(type),
                       k->rank);
    if (!model_shape_count(k, &count)) return err_set(reterr, RC_INVAL, "too many indices");
    d = x->dim[axis];
    for (uint64_t i = 0; d >= 0 && i < count; i++) {
        int64_t v;

        if (h != NULL && (h->unknown >> i & 1) != 0) continue;
        v = h != NULL           ? h->v[i]
            : type == MODEL_I64 ? ((const int64_t *)t->data)[i]
                                : ((const int32_t *)t->data)[i];
        if (v < -d || v >= d)
            return err_set(reterr, RC_INVAL, "index %lld into %lld elements", (long long)v,
                           (long long)d);
    }
    for (uint8_t i = 0; i < axis; i++)
        y.dim[y.rank++] = x->dim[i];
    for (uint8_t i = 0; i < k->rank; i++)
        y.dim[y.rank++] = k->dim[i];
    for (uint8_t i = (uint8_t)(axis + 1); i < x->rank; i++)
        y.dim[y.rank++] = x->dim[i];
    return model_shape_give(c, n, &y, c->dtype[n->in[0]]);
}

enum rc model_pad(const struct model_shapes *c, const struct model_node *n, struct model_pad *ret,
                  struct err *reterr)
{
    const struct model_shape *x = &c->shape[n->in[0]];
    const struct model_attr *mode = model_attr_get(n, "mode");
    const struct model_host *h = NULL;
    struct model_pad r = {.mode = MODEL_PAD_CONSTANT};
    uint32_t count;
    enum rc rc = model_ints(c, n, 1, &h, &count, reterr);

    if (rc != RC_OK) return rc;
    if (mode != NULL && strcmp(mode->s, "reflect") == 0) r.mode = MODEL_PAD_REFLECT;
    if (mode != NULL && strcmp(mode->s, "edge") == 0) r.mode = MODEL_PAD_EDGE;
    if (mode != NULL && r.mode == MODEL_PAD_CONSTANT && strcmp(mode->s, "constant") != 0)
        return err_set(reterr, RC_INVAL, "'mode' is '%.40s'", mode->s);
    if (count != 2u * x->rank)
        return err_set(reterr, RC_INVAL, "%u pads for rank %u", count, x->rank);
    for (uint8_t i = 0; i < x->rank; i++) {
        for (int e = 0; e < 2; e++) {
            uint32_t k = i + (e == 1 ? x->rank : 0u);
            int64_t p = (h->unknown >> k & 1) != 0 ? MODEL_PAD_UNKNOWN : h->v[k];

            if (p != MODEL_PAD_UNKNOWN && (p < -MODEL_DIM_MAX || p > MODEL_DIM_MAX))
                return err_set(reterr, RC_INVAL, "a pad of %lld", (long long)p);
            /* what lies within the input mirrors; edge repeats: neither makes sense below zero */
            if (p != MODEL_PAD_UNKNOWN && r.mode != MODEL_PAD_CONSTANT &&
                (p < 0 || (r.mode == MODEL_PAD_REFLECT && x->dim[i] >= 0 && p >= x->dim[i])))
                return err_set(reterr, RC_INVAL, "a pad of %lld on %lld elements in mode '%.40s'",
                               (long long)p, (long long)x->dim[i], mode->s);
            *(e == 0 ? &r.begin[i] : &r.end[i]) = p;
        }
    }
    *ret = r;
    return RC_OK;
}

enum rc shape_pad(struct model_shapes *c, const struct model_node *n, struct err *reterr)
{
    struct model_shape y = c->shape[n->in[0]];
    struct model_pad p;
    enum rc rc;

    if (c->dtype[n->in[0]] != MODEL_F32) return err_set(reterr, RC_INVAL, "only float32 is served");
    if (n->in_n > 2 && n->in[2] != MODEL_NONE) {
        const struct model_tensor *t = c->m->value[n->in[2]].konst;

        if (t->dtype != MODEL_F32 || t->bytes != 4)
            return err_set(reterr, RC_INVAL, "the value to pad with must be one float32");
    }
    rc = model_pad(c, n, &p, reterr);
    if (rc != RC_OK) return rc;
    for (uint8_t i = 0; i < y.rank; i++) {
        if (y.dim[i] < 0 || p.begin[i] == MODEL_PAD_UNKNOWN || p.end[i] == MODEL_PAD_UNKNOWN) {
            y.dim[i] = MODEL_DIM_ANY;
            continue;
        }
        y.dim[i] += p.begin[i] + p.end[i];
        if (y.dim[i] < 0 || y.dim[i] > MODEL_DIM_MAX)
            return err_set(reterr, RC_INVAL, "dim %u becomes %lld", i, (long long)y.dim[i]);
    }
    return model_shape_give(c, n, &y, MODEL_F32);
}

/* The index of an attribute's text in a list that ends with NULL; -1: none of them. */
static int word_get(const struct model_node *n, const char *name, const char *const *words,
                    int dflt)
{
    const struct model_attr *a = model_attr_get(n, name);

    if (a == NULL) return dflt;
    for (int i = 0; words[i] != NULL; i++)
        if (strcmp(words[i], a->s) == 0) return i;
    return -1;
}

static enum rc resize_words(const struct model_node *n, struct model_resize *r, struct err *reterr)
{
    static const char *const modes[] = {"nearest", "linear", NULL};
    static const char *const coords[] = {"half_pixel", "pytorch_half_pixel", "align_corners",
                                         "asymmetric", NULL};
    static const char *const rounds[] = {"round_prefer_floor", "round_prefer_ceil", "floor", "ceil",
                                         NULL};
    int mode = word_get(n, "mode", modes, 0);
    int coord = word_get(n, "coordinate_transformation_mode", coords, 0);
    int round = word_get(n, "nearest_mode", rounds, 0);

    if (mode < 0) return err_set(reterr, RC_INVAL, "'mode': nearest and linear are served");
    if (coord < 0)
        return err_set(reterr, RC_INVAL,
                       "'coordinate_transformation_mode': half_pixel, pytorch_half_pixel, "
                       "align_corners and asymmetric are served");
    if (round < 0) return err_set(reterr, RC_INVAL, "'nearest_mode' is no mode");
    if (model_attr_i(n, "exclude_outside", 0) != 0)
        return err_set(reterr, RC_INVAL, "'exclude_outside' is not served");
    r->linear = mode == 1;
    r->coord = coord == 0   ? MODEL_HALF_PIXEL
               : coord == 1 ? MODEL_PYTORCH_HALF_PIXEL
               : coord == 2 ? MODEL_ALIGN_CORNERS
                            : MODEL_ASYMMETRIC;
    r->nearest = round == 0   ? MODEL_ROUND_PREFER_FLOOR
                 : round == 1 ? MODEL_ROUND_PREFER_CEIL
                 : round == 2 ? MODEL_FLOOR
                              : MODEL_CEIL;
    return RC_OK;
}

/* From scales: floor(x * scale); from sizes: themselves, and scale = size / x. */
static enum rc resize_sizes(const struct model_shapes *c, const struct model_node *n,
                            struct model_resize *r, struct err *reterr)
{
    const struct model_shape *x = &c->shape[n->in[0]];
    const struct model_tensor *t =
        n->in_n > 2 && n->in[2] != MODEL_NONE ? c->m->value[n->in[2]].konst : NULL;
    const struct model_host *h = NULL;
    uint32_t size_n;
    enum rc rc = ints_opt(c, n, 3, &h, &size_n, reterr);

    if (rc != RC_OK) return rc;
    if (t != NULL && t->bytes == 0) t = NULL; /* exporters write an empty list for none */
    if ((t == NULL) == (h == NULL))
        return err_set(reterr, RC_INVAL, "needs either scales or sizes");
    if (t != NULL && (t->dtype != MODEL_F32 || t->bytes != 4u * x->rank))
        return err_set(reterr, RC_INVAL, "scales: one float32 per dim");
    if (h != NULL && size_n != x->rank)
        return err_set(reterr, RC_INVAL, "%u sizes for rank %u", size_n, x->rank);
    for (uint8_t i = 0; i < x->rank; i++) {
        int64_t d = x->dim[i], size = MODEL_DIM_ANY;
        float s = 0;

        if (t != NULL) {
            s = ((const float *)t->data)[i];
            if (!(s > 0) || !(s <= 65536))
                return err_set(reterr, RC_INVAL, "a scale of %g", (double)s);
            if (d >= 0) size = (int64_t)floor((double)d * (double)s);
        } else if ((h->unknown >> i & 1) == 0) {
            size = h->v[i];
            if (size < 1 || size > MODEL_DIM_MAX)
                return err_set(reterr, RC_INVAL, "a size of %lld", (long long)size);
            if (d > 0) s = (float)((double)size / (double)d);
        }
        if (i < 2 && d >= 0 && size >= 0 && size != d)
            return err_set(reterr, RC_INVAL, "only spatial dims can be resized");
        if (size == 0 || size > MODEL_DIM_MAX)
            return err_set(reterr, RC_INVAL, "dim %u becomes %lld", i, (long long)size);
        r->y.dim[i] = i < 2 && size < 0 ? d : size;
        r->scale[i] = s;
    }
    return RC_OK;
}

enum rc model_resize(const struct model_shapes *c, const struct model_node *n,
                     struct model_resize *ret, struct err *reterr)
{
    struct model_resize r = {.y.rank = c->shape[n->in[0]].rank};
    enum rc rc = resize_words(n, &r, reterr);

    if (r.y.rank < 3 || r.y.rank > 5)
        return err_set(reterr, RC_INVAL, "rank %u; 3 to 5 are served", r.y.rank);
    if (rc == RC_OK) rc = resize_sizes(c, n, &r, reterr);
    if (rc == RC_OK) *ret = r;
    return rc;
}

enum rc shape_resize(struct model_shapes *c, const struct model_node *n, struct err *reterr)
{
    struct model_resize r;
    enum rc rc;

    if (c->dtype[n->in[0]] != MODEL_F32) return err_set(reterr, RC_INVAL, "only float32 is served");
    rc = model_resize(c, n, &r, reterr);
    return rc != RC_OK ? rc : model_shape_give(c, n, &r.y, MODEL_F32);
}

/* ---- what follows from shapes ---- */

/* Shape-15: dims from start to end, counted from the end when negative, clamped. */
enum rc shape_shape(struct model_shapes *c, const struct model_node *n, struct err *reterr)
{
    int64_t rank = c->shape[n->in[0]].rank;
    int64_t a = slice_clamp(model_attr_i(n, "start", 0), rank, 0, rank);
    int64_t b = slice_clamp(model_attr_i(n, "end", rank), rank, 0, rank);
    struct model_shape y = {.rank = 1, .dim = {MAX(b - a, 0)}};

    if (c->m->opset < 15 && n->attr_n > 0)
        return err_set(reterr, RC_INVAL, "'start' and 'end' are of opset 15");
    return model_shape_give(c, n, &y, MODEL_I64);
}

enum rc shape_constant_of_shape(struct model_shapes *c, const struct model_node *n,
                                struct err *reterr)
{
    const struct model_attr *a = model_attr_get(n, "value");
    const struct model_host *h = NULL;
    struct model_shape y = {0};
    uint32_t rank;
    enum rc rc = model_ints(c, n, 0, &h, &rank, reterr);

    if (rc != RC_OK) return rc;
    if (rank > MODEL_RANK_MAX) return err_set(reterr, RC_INVAL, "rank %u", rank);
    if (a != NULL && (a->t->bytes != model_dtype_bytes(a->t->dtype) || a->t->dtype == MODEL_F64))
        return err_set(reterr, RC_INVAL, "'value' must be one element, not float64");
    y.rank = (uint8_t)rank;
    for (uint32_t i = 0; i < rank; i++) {
        bool later = (h->unknown >> i & 1) != 0;

        if (!later && (h->v[i] < 0 || h->v[i] > MODEL_DIM_MAX))
            return err_set(reterr, RC_INVAL, "%lld in the shape", (long long)h->v[i]);
        y.dim[i] = later ? MODEL_DIM_ANY : h->v[i];
    }
    return model_shape_give(c, n, &y, a == NULL ? MODEL_F32 : a->t->dtype);
}

enum rc shape_equal(struct model_shapes *c, const struct model_node *n, struct err *reterr)
{
    struct model_shape y = c->shape[n->in[0]];
    enum rc rc;

    if (c->dtype[n->in[0]] != c->dtype[n->in[1]])
        return err_set(reterr, RC_INVAL, "two types are compared");
    rc = model_broadcast(&y, &c->shape[n->in[1]], reterr);
    return rc != RC_OK ? rc : model_shape_give(c, n, &y, MODEL_BOOL);
}

enum rc shape_where(struct model_shapes *c, const struct model_node *n, struct err *reterr)
{
    struct model_shape y = c->shape[n->in[0]];
    enum rc rc;

    if (c->dtype[n->in[0]] != MODEL_BOOL || c->dtype[n->in[1]] != c->dtype[n->in[2]])
        return err_set(reterr, RC_INVAL, "needs a condition and two inputs of one type");
    rc = model_broadcast(&y, &c->shape[n->in[1]], reterr);
    if (rc == RC_OK) rc = model_broadcast(&y, &c->shape[n->in[2]], reterr);
    return rc != RC_OK ? rc : model_shape_give(c, n, &y, c->dtype[n->in[1]]);
}
