/* computed/backend/cpu/cpu_own.c - nodes on kernels of our own (kern.h), views and concatenation.
 *
 * A node keeps the layout it finds where its kernel can: [n][cb][s][l]. Channels beyond the last
 * (cb * l > C) are computed along; what could make them infinite (a division) goes plain. */
#include "computed/backend/cpu/cpu_priv.h"
#include <stdlib.h>
#include <string.h>

/* The layout of t's first form, as the kernels see it. Plain ranks 1 and 2 too. */
static bool first_lay(const struct be_plan *p, uint32_t t, struct kern_lay *lay,
                      dnnl_memory_desc_t *md, uint32_t *buf)
{
    const struct cpu_form *f = cpu_first(p, t);

    if (f == NULL || cpu_tensor(p, t)->dtype != BE_F32 || cpu_tensor(p, t)->rank < 2 ||
        !cpu_lay(&f->md, lay))
        return false;
    *md = f->md;
    *buf = f->buf;
    return true;
}

static void kern_act(struct cpu_kern *k, const struct be_node *n)
{
    if (!kern_has(n->act, n->lo, n->hi)) return;
    k->act = n->act;
    k->lo = n->lo;
    k->hi = n->hi;
}

/* What the kernel leaves to oneDNN. */
static enum rc rest_act(struct be_plan *p, const struct be_node *n, uint32_t buf)
{
    if (kern_has(n->act, n->lo, n->hi)) return RC_OK;
    return cpu_act(p, n, &cpu_first(p, n->out)->md, buf, buf);
}

/* CLIP with lo > hi: neither has it. */
static bool act_ok(const struct be_node *n)
{
    return n->act != BE_ACT_CLIP || n->lo <= n->hi;
}

/* n constants, zeros up to width. */
static const float *padded(struct be_plan *p, uint32_t t, int64_t width)
{
    const struct be_tensor *k = cpu_tensor(p, t);
    float *r = cpu_fixed_alloc(p, (size_t)width * sizeof(float));

    if (r != NULL) memcpy(r, k->konst, (size_t)be_tensor_count(k) * sizeof(float));
    return r;
}

/* ---- per channel ---- */
static void run_affine(const struct cpu_step *s)
{
    const struct cpu_kern *k = s->kern;

    k->ops->affine((const float *)(void *)k->ptr[0], (float *)(void *)k->ptr[1], k->scale, k->shift,
                   &k->lay, k->act, k->lo, k->hi);
}

static void run_inorm(const struct cpu_step *s)
{
    const struct cpu_kern *k = s->kern;

    k->ops->inorm((const float *)(void *)k->ptr[0], (float *)(void *)k->ptr[1], k->scale, k->shift,
                  &k->lay, k->n->u.norm.eps, k->act, k->lo, k->hi);
}

enum rc cpu_affine(struct be_plan *p, const struct be_node *n)
{
    dnnl_memory_desc_t md;
    const float *scale, *shift;
    struct kern_lay lay;
    struct cpu_step *s;
    uint32_t bx, by;
    enum rc rc;

    if (!first_lay(p, n->in[0], &lay, &md, &bx) || cpu_tensor(p, n->in[1])->konst == NULL ||
        cpu_tensor(p, n->in[2])->konst == NULL || !act_ok(n))
        return RC_UNIMPL;
    scale = padded(p, n->in[1], lay.cb * lay.l);
    shift = padded(p, n->in[2], lay.cb * lay.l);
    if (scale == NULL || shift == NULL) return cpu_nomem(p);
    rc = cpu_form_make(p, n->out, &md, &by);
    if (rc != RC_OK) return rc;
    cpu_touch(p, bx);
    cpu_touch(p, by);
    s = cpu_kern_new(p, n->op == BE_AFFINE ? run_affine : run_inorm, n);
    if (s == NULL) return RC_NOMEM;
    s->kern->buf[0] = bx;
    s->kern->buf[1] = by;
    s->kern->lay = lay;
    s->kern->scale = scale;
    s->kern->shift = shift;
    kern_act(s->kern, n);
    return rest_act(p, n, by);
}

static void run_lnorm(const struct cpu_step *s)
{
    const struct cpu_kern *k = s->kern;

    k->ops->lnorm((const float *)(void *)k->ptr[0], (float *)(void *)k->ptr[1],
                  (const float *)(void *)k->ptr[2], (const float *)(void *)k->ptr[3], k->count[0],
                  k->count[1], k->n->u.norm.eps, k->act, k->lo, k->hi);
}

enum rc cpu_lnorm(struct be_plan *p, const struct be_node *n)
{
    const struct be_tensor *t = cpu_tensor(p, n->in[0]);
    uint32_t b[4] = {BE_NONE, BE_NONE, BE_NONE, BE_NONE};
    struct cpu_step *s;
    int64_t len = 1;
    enum rc rc;

    if (!act_ok(n)) return RC_UNIMPL;
    for (uint8_t i = n->u.norm.axis; i < t->rank; i++)
        len *= t->dim[i];
    rc = cpu_form_plain(p, n->in[0], &b[0]);
    if (rc == RC_OK) rc = cpu_form_plain(p, n->in[1], &b[2]);
    if (rc == RC_OK && n->in_n > 2) rc = cpu_form_plain(p, n->in[2], &b[3]);
    if (rc == RC_OK) rc = cpu_form_make_plain(p, n->out, &b[1]);
    if (rc != RC_OK) return rc;
    for (int i = 0; i < 4; i++)
        if (b[i] != BE_NONE) cpu_touch(p, b[i]);
    s = cpu_kern_new(p, run_lnorm, n);
    if (s == NULL) return RC_NOMEM;
    memcpy(s->kern->buf, b, sizeof(b));
    s->kern->count[0] = (int64_t)be_tensor_count(t) / len;
    s->kern->count[1] = len;
    kern_act(s->kern, n);
    return rest_act(p, n, b[1]);
}

static void run_reduce(const struct cpu_step *s)
{
    const struct cpu_kern *k = s->kern;

    k->ops->reduce((const float *)(void *)k->ptr[0], (float *)(void *)k->ptr[1], &k->lay,
                   k->count[0], k->n->u.reduce.kind);
}

/* Over all dims from the second on, in any layout; over the last dims, plain. */
enum rc cpu_reduce(struct be_plan *p, const struct be_node *n)
{
    const struct be_tensor *t = cpu_tensor(p, n->in[0]);
    uint32_t all = (1u << t->rank) - 1, axes = n->u.reduce.axes, bx, by;
    struct kern_lay lay;
    dnnl_memory_desc_t md;
    struct cpu_step *s;
    uint8_t axis = 0;
    int64_t c;
    enum rc rc;

    while (axis < t->rank && (axes >> axis & 1) == 0)
        axis++;
    if (axis == t->rank || axes != all - ((1u << axis) - 1)) return RC_UNIMPL;
    if (axis == 2 && first_lay(p, n->in[0], &lay, &md, &bx)) {
        c = t->dim[1];
    } else {
        lay = (struct kern_lay){.n = 1, .cb = 1, .s = 1, .l = 1};
        for (uint8_t i = 0; i < t->rank; i++)
            *(i < axis ? &lay.cb : &lay.s) *= t->dim[i];
        c = lay.cb;
        rc = cpu_form_plain(p, n->in[0], &bx);
        if (rc != RC_OK) return rc;
    }
    rc = cpu_form_make_plain(p, n->out, &by);
    if (rc != RC_OK) return rc;
    cpu_touch(p, bx);
    cpu_touch(p, by);
    s = cpu_kern_new(p, run_reduce, n);
    if (s == NULL) return RC_NOMEM;
    s->kern->buf[0] = bx;
    s->kern->buf[1] = by;
    s->kern->lay = lay;
    s->kern->count[0] = c;
    return RC_OK;
}

/* ---- elementwise ---- */
enum rc cpu_unary(struct be_plan *p, const struct be_node *n)
{
    const struct cpu_form *f = cpu_first(p, n->in[0]);
    dnnl_memory_desc_t md;
    uint32_t bx, by;
    enum rc rc;

    if (f == NULL || n->u.unary != BE_ACT || n->act == BE_ACT_NONE || !act_ok(n) ||
        f->md.data_type != dnnl_f32)
        return RC_UNIMPL; /* libm's edges (log of 0) are kept */
    md = f->md;
    bx = f->buf;
    rc = cpu_form_make(p, n->out, &md, &by);
    return rc != RC_OK ? rc : cpu_act(p, n, &md, bx, by);
}

static void run_binary(const struct cpu_step *s)
{
    const struct cpu_kern *k = s->kern;

    k->ops->binary((const float *)(void *)k->ptr[0], (const float *)(void *)k->ptr[1],
                   (float *)(void *)k->ptr[2], k->n->u.binary, k->rank, k->dim, k->sa, k->sb,
                   k->act, k->lo, k->hi);
}

/* Strides of a plain operand along y's dims, 0 where it broadcasts. */
static void plain_strides(const struct be_tensor *t, uint8_t rank, int64_t *ret)
{
    int64_t step = 1;

    for (uint8_t i = 0; i < rank; i++) {
        int64_t d = i < t->rank ? t->dim[t->rank - 1 - i] : 1;

        ret[rank - 1 - i] = d == 1 ? 0 : step;
        step *= d;
    }
}

/* The layout for y when an operand of y's own shape has one that is not plain: the other then has
 * the same shape, or one value per n and channel, or is a constant or plain of one value. */
static bool binary_lay(const struct be_plan *p, const struct be_node *n, struct kern_lay *lay,
                       dnnl_memory_desc_t *md)
{
    const struct be_tensor *ty = cpu_tensor(p, n->out);
    uint32_t ignored;

    for (int k = 0; k < 2; k++) {
        const struct be_tensor *t = cpu_tensor(p, n->in[k]), *o = cpu_tensor(p, n->in[1 - k]);
        bool fits = o->rank == ty->rank, same = fits;

        if (t->rank != ty->rank || memcmp(t->dim, ty->dim, ty->rank * sizeof(*t->dim)) != 0 ||
            !first_lay(p, n->in[k], lay, md, &ignored) || lay->l == 1)
            continue;
        for (uint8_t i = 0; fits && i < ty->rank; i++) {
            same = same && o->dim[i] == ty->dim[i];
            fits = o->dim[i] == (i < 2 ? ty->dim[i] : 1);
        }
        if ((lay->cb * lay->l != ty->dim[1] && (n->u.binary == BE_DIV || n->u.binary == BE_POW)))
            continue;
        if (fits || same || be_tensor_count(o) == 1) return true;
    }
    return false;
}

/* The operand in y's layout, and its strides along [n, cb, s, l]. */
static enum rc binary_operand(struct be_plan *p, uint32_t t, const dnnl_memory_desc_t *md,
                              const struct kern_lay *lay, uint32_t *ret_buf, int64_t st[4])
{
    const struct be_tensor *k = cpu_tensor(p, t);
    bool whole = be_tensor_count(k) > 1 && (k->rank < 3 || k->dim[2] == md->dims[2]);
    int64_t s = 1;
    dnnl_memory_desc_t own = *md;

    if (be_tensor_count(k) == 1) {
        memset(st, 0, 4 * sizeof(*st));
        return cpu_form_plain(p, t, ret_buf);
    }
    for (uint8_t i = 2; i < k->rank; i++) {
        whole = whole && k->dim[i] == md->dims[i];
        s *= k->dim[i];
    }
    if (!whole) { /* the same layout of its own dims: [n][cb][1][l] */
        int64_t step = lay->l;

        for (int i = own.ndims; i-- > 2;) {
            own.dims[i] = own.padded_dims[i] = 1;
            own.format_desc.blocking.strides[i] = step;
        }
        own.format_desc.blocking.strides[1] = lay->cb == 1 && lay->l == md->dims[1] ? 1 : step;
        own.format_desc.blocking.strides[0] = lay->cb * lay->l;
        s = 1;
    }
    st[0] = lay->cb * s * lay->l;
    st[1] = s * lay->l;
    st[2] = whole ? lay->l : 0;
    st[3] = 1;
    return cpu_form_get(p, t, &own, ret_buf);
}

enum rc cpu_binary(struct be_plan *p, const struct be_node *n)
{
    const struct be_tensor *ta = cpu_tensor(p, n->in[0]), *tb = cpu_tensor(p, n->in[1]);
    const struct be_tensor *ty = cpu_tensor(p, n->out);
    int64_t dim[BE_RANK_MAX + 1], sa[BE_RANK_MAX + 1], sb[BE_RANK_MAX + 1];
    uint8_t rank = MAX(ty->rank, 1);
    dnnl_memory_desc_t md;
    struct kern_lay lay;
    struct cpu_step *s;
    uint32_t ba, bb, by;
    enum rc rc;

    if (!act_ok(n)) return RC_UNIMPL;
    if (binary_lay(p, n, &lay, &md)) {
        const int64_t d[4] = {lay.n, lay.cb, lay.s, lay.l};

        rank = 4;
        memcpy(dim, d, sizeof(d));
        rc = binary_operand(p, n->in[0], &md, &lay, &ba, sa);
        if (rc == RC_OK) rc = binary_operand(p, n->in[1], &md, &lay, &bb, sb);
        if (rc == RC_OK) rc = cpu_form_make(p, n->out, &md, &by);
    } else {
        dim[0] = 1;
        memcpy(dim, ty->dim, ty->rank * sizeof(*dim));
        plain_strides(ta, rank, sa);
        plain_strides(tb, rank, sb);
        rc = cpu_form_plain(p, n->in[0], &ba);
        if (rc == RC_OK) rc = cpu_form_plain(p, n->in[1], &bb);
        if (rc == RC_OK) rc = cpu_form_make_plain(p, n->out, &by);
    }
    if (rc != RC_OK) return rc;
    cpu_touch(p, ba);
    cpu_touch(p, bb);
    cpu_touch(p, by);
    s = cpu_kern_new(p, run_binary, n);
    if (s == NULL) return RC_NOMEM;
    s->kern->buf[0] = ba;
    s->kern->buf[1] = bb;
    s->kern->buf[2] = by;
    s->kern->rank = rank;
    memcpy(s->kern->dim, dim, rank * sizeof(*dim));
    memcpy(s->kern->sa, sa, rank * sizeof(*sa));
    memcpy(s->kern->sb, sb, rank * sizeof(*sb));
    kern_act(s->kern, n);
    return rest_act(p, n, by);
}

/* ---- moving ---- */
static void run_copy(const struct cpu_step *s)
{
    const struct cpu_kern *k = s->kern;

    k->ops->copy(k->ptr[0] + k->count[0] * (int64_t)k->bytes, k->ptr[1], k->bytes, k->rank, k->dim,
                 k->sa);
}

enum rc cpu_copy(struct be_plan *p, const struct be_node *n)
{
    const struct be_tensor *ty = cpu_tensor(p, n->out);
    struct cpu_step *s;
    uint32_t bx, by;
    enum rc rc = cpu_form_plain(p, n->in[0], &bx);

    if (rc == RC_OK) rc = cpu_form_make_plain(p, n->out, &by);
    if (rc != RC_OK) return rc;
    cpu_touch(p, bx);
    cpu_touch(p, by);
    s = cpu_kern_new(p, run_copy, n);
    if (s == NULL) return RC_NOMEM;
    s->kern->buf[0] = bx;
    s->kern->buf[1] = by;
    s->kern->bytes = be_dtype_bytes(ty->dtype);
    s->kern->count[0] = n->u.copy.off;
    s->kern->rank = MAX(ty->rank, 1);
    s->kern->dim[0] = 1;
    memcpy(s->kern->dim, ty->dim, ty->rank * sizeof(*ty->dim));
    memcpy(s->kern->sa, n->u.copy.stride, ty->rank * sizeof(*ty->dim));
    return RC_OK;
}

/* The same bytes. A blocked layout with one place and whole blocks is plain in all but name. */
enum rc cpu_view(struct be_plan *p, const struct be_node *n)
{
    struct kern_lay lay;
    dnnl_memory_desc_t md;
    uint32_t b;
    enum rc rc = RC_OK;

    if (!first_lay(p, n->in[0], &lay, &md, &b) || lay.s != 1 ||
        lay.cb * lay.l != cpu_tensor(p, n->in[0])->dim[1])
        rc = cpu_form_plain(p, n->in[0], &b);
    if (rc != RC_OK) return rc;
    p->buf[b].shared = true;
    return cpu_form_in(p, n->out, NULL, b);
}

static void run_resize(const struct cpu_step *s)
{
    const struct cpu_kern *k = s->kern;

    k->ops->resize((const float *)(void *)k->ptr[0], (float *)(void *)k->ptr[1], k->count[0],
                   k->lay.l, k->in, k->out, k->place, k->weight, k->n->u.resize_linear);
}

enum rc cpu_resize(struct be_plan *p, const struct be_node *n)
{
    const struct be_tensor *tx = cpu_tensor(p, n->in[0]), *ty = cpu_tensor(p, n->out);
    static const int64_t zeros[2];
    static const float zero[1];
    dnnl_memory_desc_t md, y;
    struct kern_lay lay;
    struct cpu_step *s;
    uint32_t bx, by;
    enum rc rc;

    if (!first_lay(p, n->in[0], &lay, &md, &bx)) return RC_UNIMPL;
    if (lay.l == 1) {
        rc = cpu_form_make_plain(p, n->out, &by);
    } else { /* x's layout with y's dims */
        int64_t step = lay.l;

        y = md;
        for (int i = ty->rank; i-- > 2;) {
            y.dims[i] = y.padded_dims[i] = ty->dim[i];
            y.format_desc.blocking.strides[i] = step;
            step *= ty->dim[i];
        }
        if (lay.cb > 1 || lay.l != tx->dim[1]) y.format_desc.blocking.strides[1] = step;
        y.format_desc.blocking.strides[0] = step * lay.cb;
        rc = cpu_form_make(p, n->out, &y, &by);
    }
    if (rc != RC_OK) return rc;
    cpu_touch(p, bx);
    cpu_touch(p, by);
    s = cpu_kern_new(p, run_resize, n);
    if (s == NULL) return RC_NOMEM;
    s->kern->buf[0] = bx;
    s->kern->buf[1] = by;
    s->kern->lay = lay;
    s->kern->count[0] = lay.n * lay.cb;
    for (int i = 0; i < 3; i++) {
        int k = i - (5 - tx->rank); /* missing dims in front */

        s->kern->in[i] = k < 0 ? 1 : tx->dim[2 + k];
        s->kern->out[i] = k < 0 ? 1 : ty->dim[2 + k];
        s->kern->place[i] = zeros;
        s->kern->weight[i] = zero;
        if (k < 0) continue;
        {
            const struct be_tensor *tp = cpu_tensor(p, n->in[1 + 2 * k]);
            size_t bytes = cpu_tensor_bytes(tp);
            int64_t *place = cpu_fixed_alloc(p, bytes);
            float *weight = cpu_fixed_alloc(p, bytes);

            if (place == NULL || weight == NULL) return cpu_nomem(p);
            memcpy(place, tp->konst, bytes);
            memcpy(weight, cpu_tensor(p, n->in[2 + 2 * k])->konst,
                   cpu_tensor_bytes(cpu_tensor(p, n->in[2 + 2 * k])));
            s->kern->place[i] = place;
            s->kern->weight[i] = weight;
        }
    }
    return RC_OK;
}

/* ---- concatenation ---- */
static void run_concat(const struct cpu_step *s)
{
    const struct cpu_kern *k = s->kern;

    for (int64_t o = 0; o < k->count[0]; o++) {
        uint8_t *row = k->ptr[1] + (size_t)o * k->bytes;

        for (uint32_t i = 0; i < k->part_n; i++) {
            const uint8_t *from = k->part_ptr[i] + (size_t)o * k->part_bytes[i];

            if (from != row + k->part_off[i]) memcpy(row + k->part_off[i], from, k->part_bytes[i]);
        }
    }
}

/* Blocks of channels, when every part is whole blocks of one layout that one of them has. */
static bool concat_lay(const struct be_plan *p, const struct be_node *n, struct kern_lay *lay,
                       dnnl_memory_desc_t *md)
{
    uint32_t ignored;
    bool found = false;

    if (n->u.concat_axis != 1 || cpu_tensor(p, n->out)->rank < 3) return false;
    for (uint32_t i = 0; i < n->in_n && !found; i++)
        found = first_lay(p, n->in[i], lay, md, &ignored) && lay->l > 1 &&
                md->format_desc.blocking.inner_nblks == 1;
    for (uint32_t i = 0; found && i < n->in_n; i++)
        found =
            cpu_tensor(p, n->in[i])->dim[1] % lay->l == 0 && cpu_tensor(p, n->in[i])->konst == NULL;
    return found;
}

/* md of the same layout over t's dims. */
static void lay_md(const struct kern_lay *lay, const dnnl_memory_desc_t *md,
                   const struct be_tensor *t, dnnl_memory_desc_t *ret)
{
    *ret = *md;
    ret->dims[1] = ret->padded_dims[1] = t->dim[1];
    ret->format_desc.blocking.strides[0] = t->dim[1] * lay->s;
}

enum rc cpu_concat(struct be_plan *p, const struct be_node *n)
{
    const struct be_tensor *ty = cpu_tensor(p, n->out);
    uint32_t *parts = cpu_fixed_alloc(p, n->in_n * sizeof(*parts)), by;
    size_t *bytes = cpu_fixed_alloc(p, n->in_n * sizeof(*bytes));
    size_t *off = cpu_fixed_alloc(p, n->in_n * sizeof(*off)), row = 0;
    uint8_t **ptr = cpu_fixed_alloc(p, n->in_n * sizeof(uint8_t *));
    size_t inner = be_dtype_bytes(ty->dtype);
    struct kern_lay lay;
    dnnl_memory_desc_t md, own;
    struct cpu_step *s;
    int64_t outer = 1;
    bool blocked;
    enum rc rc = RC_OK;

    if (parts == NULL || bytes == NULL || off == NULL || ptr == NULL) return cpu_nomem(p);
    blocked = ty->dtype == BE_F32 && concat_lay(p, n, &lay, &md);
    for (uint8_t i = 0; i < ty->rank; i++) {
        if (i < n->u.concat_axis) outer *= ty->dim[i];
        if (i > n->u.concat_axis) inner *= (size_t)ty->dim[i];
    }
    for (uint32_t i = 0; rc == RC_OK && i < n->in_n; i++) {
        const struct be_tensor *t = cpu_tensor(p, n->in[i]);

        if (blocked) {
            lay_md(&lay, &md, t, &own);
            rc = cpu_form_get(p, n->in[i], &own, &parts[i]);
        } else {
            rc = cpu_form_plain(p, n->in[i], &parts[i]);
        }
        bytes[i] = (size_t)t->dim[n->u.concat_axis] * inner;
        off[i] = row;
        row += bytes[i];
    }
    if (rc == RC_OK && blocked) {
        lay_md(&lay, &md, ty, &own);
        rc = cpu_form_make(p, n->out, &own, &by);
    } else if (rc == RC_OK) {
        rc = cpu_form_make_plain(p, n->out, &by);
    }
    if (rc != RC_OK) return rc;
    for (uint32_t i = 0; i < n->in_n; i++)
        cpu_touch(p, parts[i]);
    cpu_touch(p, by);
    s = cpu_kern_new(p, run_concat, n);
    if (s == NULL) return RC_NOMEM;
    s->kern->buf[1] = by;
    s->kern->parts = parts;
    s->kern->part_ptr = ptr;
    s->kern->part_bytes = bytes;
    s->kern->part_off = off;
    s->kern->part_n = n->in_n;
    s->kern->bytes = row;
    s->kern->count[0] = outer;
    return RC_OK;
}

static uint32_t root_of(const struct be_plan *p, uint32_t b, size_t *ret_off)
{
    *ret_off = 0;
    while (p->buf[b].root != b) {
        *ret_off += p->buf[b].root_off;
        b = p->buf[b].root;
    }
    return b;
}

static bool may_share(const struct be_plan *p, uint32_t b)
{
    const struct cpu_buf *u = &p->buf[b];

    for (uint32_t i = 0; i < p->g.input_n; i++)
        if (p->in_buf[i] == b) return false;
    return u->fixed == NULL && !u->rewritten;
}

/* A concatenation of one row (batch 1) is nothing when its parts are made where they belong. From
 * the last one backwards: DenseNet's long ones hold the short ones before them. A part that lies in
 * another place already is copied. Buffers into which a sum was put in place are left alone: others
 * may want the operand. */
void cpu_concat_share(struct be_plan *p)
{
    for (uint32_t i = p->step_n; i-- > 0;) {
        struct cpu_kern *k = p->step[i].kern;
        size_t off, at = 0;
        uint32_t root;
        bool runs;

        if (p->step[i].run != run_concat || k->count[0] != 1 || !may_share(p, k->buf[1])) continue;
        root = root_of(p, k->parts[0], &off); /* do all lie one behind the other already? */
        runs = p->buf[k->buf[1]].root == k->buf[1] && root != k->parts[0];
        at = off;
        for (uint32_t j = 0; runs && j < k->part_n; j++) {
            size_t o;

            runs = root_of(p, k->parts[j], &o) == root && o == at && may_share(p, k->parts[j]);
            at += k->part_bytes[j];
        }
        if (runs && root != k->buf[1]) {
            p->buf[k->buf[1]].root = root;
            p->buf[k->buf[1]].root_off = off;
            continue;
        }
        for (uint32_t j = 0; j < k->part_n; j++) {
            struct cpu_buf *b = &p->buf[k->parts[j]];

            if (b->root != k->parts[j] || !may_share(p, k->parts[j]) ||
                b->bytes != k->part_bytes[j] || k->parts[j] == k->buf[1] ||
                root_of(p, k->buf[1], &off) == k->parts[j])
                continue;
            b->root = k->buf[1];
            b->root_off = k->part_off[j];
        }
    }
}
