/* computed/backend/cuda/nodes.c - each node of backend.h as steps of a plan: which library call or
 * kernel, over which forms. */
#include "computed/backend/cuda/plan.h"
#include <string.h>

_Static_assert((int)K_F32 == BE_F32 && (int)K_F16 == BE_F16 && (int)K_BF16 == BE_BF16 &&
                   (int)K_U8 == BE_U8 && (int)K_I32 == BE_I32 && (int)K_I64 == BE_I64 &&
                   (int)K_BOOL == BE_BOOL,
               "kern.h's types are backend.h's");
_Static_assert((int)K_SQRT == BE_SQRT && (int)K_ERF == BE_ERF && (int)K_ADD == BE_ADD + K_ADD &&
                   (int)K_MAX == BE_MAX + K_ADD,
               "kern.h's operators are backend.h's");
_Static_assert(BE_ACT_RELU == 1 && BE_ACT_CLIP == 2 && BE_ACT_SIGMOID == 3 && BE_ACT_TANH == 4 &&
                   BE_ACT_LEAKY_RELU == 5 && BE_ACT_HARD_SIGMOID == 6 && BE_ACT_HARD_SWISH == 7 &&
                   BE_ACT_SWISH == 8 && BE_ACT_GELU == 9,
               "kern.h's k_act()");
_Static_assert(BE_POOL_MAX == 0 && BE_POOL_AVG == 1 && BE_POOL_AVG_PADDED == 2 &&
                   BE_REDUCE_MEAN == 0 && BE_REDUCE_SUM == 1 && BE_REDUCE_MAX == 2 &&
                   BE_REDUCE_MIN == 3 && BE_PAD_CONSTANT == 0 && BE_PAD_REFLECT == 1 &&
                   BE_PAD_EDGE == 2,
               "kern.h's kinds");

#define WORKSPACE_MAX ((size_t)256 << 20) /* of one library call */
#define ALL_DIMS      UINT32_MAX

static struct k_actor actor(const struct be_node *n)
{
    return (struct k_actor){(int)n->act, n->lo, n->hi};
}

static bool same_shape(const struct be_tensor *a, const struct be_tensor *b)
{
    return a->rank == b->rank && memcmp(a->dim, b->dim, a->rank * sizeof(*a->dim)) == 0;
}

/* ---- y = act(op(...)), place by place ---- */
struct operand {
    uint32_t buf;
    int type;
    int32_t s[K_RANK]; /* per dim of y */
};

static enum rc map_step(struct be_plan *p, const struct be_node *n, int op,
                        const struct be_tensor *y, bool last, uint32_t y_buf, int y_type,
                        const struct operand *x, int operands, struct cu_step **ret)
{
    struct cu_step *s = cu_step_new(p, K_MAP, n);
    int32_t st[3][K_RANK] = {{0}};
    uint8_t order[K_RANK];

    if (s == NULL) return RC_NOMEM;
    s->buf[0] = y_buf;
    s->k.map.op = op;
    s->k.map.operands = operands;
    s->k.map.type[0] = y_type;
    for (int i = 0; i < operands; i++) {
        s->buf[1 + i] = x[i].buf;
        s->k.map.type[1 + i] = x[i].type;
        memcpy(st[i], x[i].s, sizeof(st[i]));
    }
    cu_order(y->rank, last, order);
    s->k.h.n = cu_loop(y, order, ALL_DIMS, st, operands, &s->k.map.at);
    *ret = s;
    return RC_OK;
}

static enum rc operand_first(struct be_plan *p, uint32_t t, const struct be_tensor *y,
                             struct operand *ret)
{
    struct cu_form f;
    enum rc rc = cu_first(p, t, &f);

    if (rc != RC_OK) return rc;
    ret->buf = f.buf;
    ret->type = f.type;
    cu_operand(cu_tensor(p, t), f.last, y, ret->s);
    return RC_OK;
}

static enum rc unary(struct be_plan *p, const struct be_node *n)
{
    const struct be_tensor *y = cu_tensor(p, n->out);
    struct operand x;
    struct cu_step *s;
    struct cu_form f;
    uint32_t by;
    enum rc rc = cu_first(p, n->in[0], &f);

    if (rc == RC_OK) rc = operand_first(p, n->in[0], y, &x);
    if (rc == RC_OK) rc = cu_make(p, n->out, f.last, &by);
    if (rc == RC_OK) rc = map_step(p, n, (int)n->u.unary, y, f.last, by, p->type, &x, 1, &s);
    if (rc == RC_OK) s->k.map.act = actor(n);
    return rc;
}

static enum rc binary(struct be_plan *p, const struct be_node *n)
{
    const struct be_tensor *y = cu_tensor(p, n->out);
    struct operand x[2];
    struct cu_step *s;
    bool last = false;
    uint32_t by;
    enum rc rc = RC_OK;

    for (int i = 0; rc == RC_OK && i < 2; i++) { /* y lies as an operand of its shape does */
        struct cu_form f;

        rc = cu_first(p, n->in[i], &f);
        if (rc == RC_OK) rc = operand_first(p, n->in[i], y, &x[i]);
        if (rc == RC_OK && same_shape(cu_tensor(p, n->in[i]), y)) last = last || f.last;
    }
    if (rc == RC_OK) rc = cu_make(p, n->out, last, &by);
    if (rc == RC_OK) rc = map_step(p, n, K_ADD + (int)n->u.binary, y, last, by, p->type, x, 2, &s);
    if (rc == RC_OK) s->k.map.act = actor(n);
    return rc;
}

/* An operand [C] along dim 1. */
static enum rc along_channels(struct be_plan *p, uint32_t t, struct operand *ret)
{
    memset(ret, 0, sizeof(*ret));
    ret->type = K_F32;
    ret->s[1] = 1;
    return cu_want(p, t, false, K_F32, &ret->buf);
}

static enum rc affine(struct be_plan *p, const struct be_node *n)
{
    const struct be_tensor *y = cu_tensor(p, n->out);
    struct operand x[3];
    struct cu_step *s;
    struct cu_form f;
    uint32_t by;
    enum rc rc = cu_first(p, n->in[0], &f);

    if (rc == RC_OK) rc = operand_first(p, n->in[0], y, &x[0]);
    if (rc == RC_OK) rc = along_channels(p, n->in[1], &x[1]);
    if (rc == RC_OK) rc = along_channels(p, n->in[2], &x[2]);
    if (rc == RC_OK) rc = cu_make(p, n->out, f.last, &by);
    if (rc == RC_OK) rc = map_step(p, n, K_MULADD, y, f.last, by, p->type, x, 3, &s);
    if (rc == RC_OK) s->k.map.act = actor(n);
    return rc;
}

/* ---- windows ---- */
static void space_make(struct k_space *s, const struct be_window *w, const struct be_tensor *x,
                       const struct be_tensor *y)
{
    for (int i = 0; i < 3; i++) {
        int k = i - (3 - w->dims);

        s->in[i] = k < 0 ? 1 : (int32_t)x->dim[2 + k];
        s->out[i] = k < 0 ? 1 : (int32_t)y->dim[2 + k];
        s->kernel[i] = k < 0 ? 1 : (int32_t)w->kernel[k];
        s->stride[i] = k < 0 ? 1 : (int32_t)w->stride[k];
        s->dil[i] = k < 0 ? 1 : (int32_t)w->dilation[k];
        s->pad[i] = k < 0 ? 0 : (int32_t)w->pad_begin[k];
    }
}

static enum rc exec_step(struct be_plan *p, const struct be_node *n, struct cu_exec *e,
                         size_t workspace, const uint32_t buf[K_PTRS])
{
    struct cu_step *s = cu_step_new(p, K_N, n);

    if (s == NULL) {
        p->ops->exec_free(e);
        return RC_NOMEM;
    }
    s->exec = e;
    memcpy(s->buf, buf, sizeof(s->buf));
    p->workspace_bytes = MAX(p->workspace_bytes, workspace);
    return RC_OK;
}

/* y = act(y + bias along `dim` + residual), in place, after a library call that could not. */
static enum rc finish(struct be_plan *p, const struct be_node *n, bool last, uint8_t dim,
                      uint32_t by, uint32_t bias, uint32_t residual)
{
    const struct be_tensor *y = cu_tensor(p, n->out);
    struct operand x[3] = {{by, p->type, {0}}, {bias, p->type, {0}}, {residual, p->type, {0}}};
    struct cu_step *s;
    enum rc rc;

    cu_operand(y, last, y, x[0].s);
    x[1].s[dim] = 1;
    memcpy(x[2].s, x[0].s, sizeof(x[2].s));
    rc = map_step(p, n, K_SUM, y, last, by, p->type, x, 3, &s);
    if (rc != RC_OK) return rc;
    s->why = "rest";
    s->k.map.beta = 1;
    s->k.map.act = actor(n);
    return RC_OK;
}

static enum rc conv(struct be_plan *p, const struct be_node *n)
{
    const struct be_tensor *x = cu_tensor(p, n->in[0]), *y = cu_tensor(p, n->out);
    const struct be_window *w = &n->u.conv.window;
    struct cu_conv c = {.batch = (int32_t)x->dim[0],
                        .dims = w->dims,
                        .bias = n->in_n > 2,
                        .residual = n->residual != BE_NONE,
                        .tf32 = p->precision == BE_TF32,
                        .k = {.act = actor(n),
                              .in_c = (int32_t)x->dim[1],
                              .out_c = (int32_t)y->dim[1],
                              .groups = (int32_t)n->u.conv.groups,
                              .transposed = n->op == BE_CONV_T,
                              .type = p->type}};
    uint32_t buf[K_PTRS] = {BE_NONE, BE_NONE, BE_NONE, BE_NONE, BE_NONE};
    struct cu_exec *e = NULL;
    struct cu_step *s;
    size_t workspace = 0;
    enum rc rc;

    space_make(&c.k.s, w, x, y);
    for (uint8_t i = 0; i < w->dims; i++)
        c.pad_end[3 - w->dims + i] = (int32_t)w->pad_end[i];
    c.k.h.n = (uint32_t)be_tensor_count(y);
    rc = cu_want(p, n->in[0], true, p->type, &buf[1]);
    if (rc == RC_OK) rc = cu_want(p, n->in[1], true, p->type, &buf[2]);
    if (rc == RC_OK && c.bias) rc = cu_want(p, n->in[2], false, p->type, &buf[3]);
    if (rc == RC_OK && c.residual) rc = cu_want(p, n->residual, true, p->type, &buf[4]);
    if (rc == RC_OK) rc = cu_make(p, n->out, true, &buf[0]);
    if (rc != RC_OK) return rc;
    if (c.k.h.n == 0) return RC_OK;
    rc = p->ops->conv_new(p->dev, &c, WORKSPACE_MAX, &e, &workspace, p->reterr);
    if (rc == RC_OK) return exec_step(p, n, e, workspace, buf);
    if (rc == RC_UNIMPL && (c.bias || c.residual || n->act != BE_ACT_NONE)) {
        uint32_t bias = buf[3], residual = buf[4];
        struct cu_conv bare = c;

        bare.bias = bare.residual = false;
        bare.k.act.act = BE_ACT_NONE;
        rc = p->ops->conv_new(p->dev, &bare, WORKSPACE_MAX, &e, &workspace, p->reterr);
        if (rc == RC_OK) {
            buf[3] = buf[4] = BE_NONE;
            rc = exec_step(p, n, e, workspace, buf);
            return rc == RC_OK ? finish(p, n, true, 1, buf[0], bias, residual) : rc;
        }
    }
    if (rc != RC_UNIMPL) return rc;
    s = cu_step_new(p, K_CONV, n);
    if (s == NULL) return RC_NOMEM;
    s->k.conv = c.k;
    memcpy(s->buf, buf, sizeof(buf));
    return RC_OK;
}

static enum rc pool(struct be_plan *p, const struct be_node *n)
{
    const struct be_tensor *x = cu_tensor(p, n->in[0]), *y = cu_tensor(p, n->out);
    uint32_t bx, by;
    struct cu_step *s;
    enum rc rc = cu_want(p, n->in[0], true, p->type, &bx);

    if (rc == RC_OK) rc = cu_make(p, n->out, true, &by);
    if (rc != RC_OK) return rc;
    s = cu_step_new(p, K_POOL, n);
    if (s == NULL) return RC_NOMEM;
    s->buf[0] = by;
    s->buf[1] = bx;
    space_make(&s->k.pool.s, &n->u.pool.window, x, y);
    s->k.pool.channels = (int32_t)y->dim[1];
    s->k.pool.kind = (int)n->u.pool.kind;
    s->k.pool.type = p->type;
    s->k.h.n = (uint32_t)be_tensor_count(y);
    return RC_OK;
}

/* ---- products ---- */
struct product {
    struct cu_mm m;
    struct k_mm k;
    uint32_t buf[K_PTRS];
    bool library; /* the batch walks with one stride each */
};

static enum rc product_make(struct be_plan *p, const struct be_node *n, struct product *r)
{
    const struct be_tensor *a = cu_tensor(p, n->in[0]), *b = cu_tensor(p, n->in[1]);
    const struct be_tensor *y = cu_tensor(p, n->out);
    bool ta = n->u.matmul.trans_a, tb = n->u.matmul.trans_b;
    int32_t s[3][K_RANK], rows = (int32_t)y->dim[y->rank - 2], cols = (int32_t)y->dim[y->rank - 1];
    int32_t inner = (int32_t)a->dim[a->rank - (ta ? 2 : 1)];
    uint8_t order[K_RANK];
    uint32_t batch;

    cu_operand(a, false, y, s[0]);
    cu_operand(b, false, y, s[1]);
    cu_order(y->rank, false, order);
    batch = cu_loop(y, order, (1u << (y->rank - 2)) - 1, s, 2, &r->k.at);
    r->k.rows = rows;
    r->k.cols = cols;
    r->k.inner = inner;
    r->k.a_row = ta ? 1 : inner;
    r->k.a_k = ta ? rows : 1;
    r->k.b_k = tb ? 1 : cols;
    r->k.b_col = tb ? inner : 1;
    r->k.alpha = n->u.matmul.alpha;
    r->k.type = p->type;
    r->k.h.n = (uint32_t)be_tensor_count(y);
    r->library = r->k.at.rank <= 1 && inner > 0 && r->k.h.n > 0;
    r->m = (struct cu_mm){.batch = (int32_t)batch,
                          .rows = rows,
                          .cols = cols,
                          .inner = inner,
                          .stride_a = r->k.at.s[0][0],
                          .stride_b = r->k.at.s[1][0],
                          .trans_a = ta,
                          .trans_b = tb,
                          .tf32 = p->precision == BE_TF32,
                          .alpha = n->u.matmul.alpha,
                          .type = p->type};
    /* one matrix b for all of a's rows: one product */
    if (r->k.at.rank == 1 && !ta && r->m.stride_b == 0 && r->m.stride_a == (int64_t)rows * inner &&
        (int64_t)rows * (int32_t)batch < INT32_MAX) {
        r->m.rows = rows * (int32_t)batch;
        r->m.batch = 1;
    }
    return RC_OK;
}

/* c is one row to add to all. */
static bool is_row(const struct be_tensor *c, const struct be_tensor *y)
{
    return c->rank > 0 && c->dim[c->rank - 1] == y->dim[y->rank - 1] &&
           be_tensor_count(c) == (uint64_t)y->dim[y->rank - 1];
}

/* y = act(y + beta * c + residual), in place; c broadcasts. */
static enum rc add_c(struct be_plan *p, const struct be_node *n, uint32_t by, uint32_t residual)
{
    const struct be_tensor *y = cu_tensor(p, n->out);
    struct operand x[3] = {{by, p->type, {0}}, {BE_NONE, p->type, {0}}, {residual, p->type, {0}}};
    struct cu_step *s;
    enum rc rc = operand_first(p, n->in[2], y, &x[1]);

    if (rc != RC_OK) return rc;
    cu_operand(y, false, y, x[0].s);
    memcpy(x[2].s, x[0].s, sizeof(x[2].s));
    rc = map_step(p, n, K_SUM, y, false, by, p->type, x, 3, &s);
    if (rc != RC_OK) return rc;
    s->why = "rest";
    s->k.map.beta = n->u.matmul.beta;
    s->k.map.act = actor(n);
    return RC_OK;
}

static enum rc matmul(struct be_plan *p, const struct be_node *n)
{
    const struct be_tensor *y = cu_tensor(p, n->out);
    struct product r = {.buf = {BE_NONE, BE_NONE, BE_NONE, BE_NONE, BE_NONE}};
    bool c = n->in_n > 2, one = n->u.matmul.beta >= 1 && n->u.matmul.beta <= 1;
    bool row = c && one && is_row(cu_tensor(p, n->in[2]), y), later = c && !row;
    struct cu_exec *e = NULL;
    struct cu_step *s;
    size_t workspace = 0;
    uint32_t residual = BE_NONE;
    enum rc rc = product_make(p, n, &r);

    if (rc == RC_OK) rc = cu_want(p, n->in[0], false, p->type, &r.buf[1]);
    if (rc == RC_OK) rc = cu_want(p, n->in[1], false, p->type, &r.buf[2]);
    if (rc == RC_OK && row) rc = cu_want(p, n->in[2], false, p->type, &r.buf[3]);
    if (rc == RC_OK && n->residual != BE_NONE)
        rc = cu_want(p, n->residual, false, p->type, &residual);
    if (rc == RC_OK) rc = cu_make(p, n->out, false, &r.buf[0]);
    if (rc != RC_OK) return rc;
    if (!later) {
        r.buf[4] = residual;
        r.m.act = r.k.act = actor(n);
    }
    r.m.bias = row;
    r.m.residual = r.buf[4] != BE_NONE;
    rc = RC_UNIMPL;
    if (r.library) rc = p->ops->mm_new(p->dev, &r.m, WORKSPACE_MAX, &e, &workspace, p->reterr);
    if (rc == RC_UNIMPL && r.library && r.m.act.act != BE_ACT_NONE) {
        r.m.act.act = BE_ACT_NONE;
        rc = p->ops->mm_new(p->dev, &r.m, WORKSPACE_MAX, &e, &workspace, p->reterr);
        if (rc == RC_OK) {
            rc = exec_step(p, n, e, workspace, r.buf);
            return rc == RC_OK ? finish(p, n, false, 0, r.buf[0], BE_NONE, BE_NONE) : rc;
        }
    } else if (rc == RC_OK) {
        rc = exec_step(p, n, e, workspace, r.buf);
        return rc == RC_OK && later ? add_c(p, n, r.buf[0], residual) : rc;
    }
    if (rc != RC_UNIMPL) return rc;
    s = cu_step_new(p, K_MM, n);
    if (s == NULL) return RC_NOMEM;
    s->k.mm = r.k;
    memcpy(s->buf, r.buf, sizeof(r.buf));
    return later ? add_c(p, n, r.buf[0], residual) : RC_OK;
}

/* ---- normalisation, reduction ---- */
static enum rc inorm(struct be_plan *p, const struct be_node *n)
{
    const struct be_tensor *x = cu_tensor(p, n->in[0]);
    uint32_t places = 1, bx, by, moments, joined, bs, bt, c = (uint32_t)x->dim[1];
    uint32_t rows = (uint32_t)(x->dim[0] * x->dim[1]);
    struct k_moments m;
    struct cu_step *s;
    enum rc rc;

    for (uint8_t i = 2; i < x->rank; i++)
        places *= (uint32_t)x->dim[i];
    m = (struct k_moments){.channels = c, .places = places, .type = p->type};
    /* 256 places a thread, unless that gives the joining thread more than 1,024 chunks */
    m.chunk = MAX(256u, (places + 1023) / 1024);
    m.chunks = MAX((places + m.chunk - 1) / m.chunk, 1u);
    m.h.n = (uint32_t)x->dim[0] * m.chunks * c;
    rc = cu_want(p, n->in[0], true, p->type, &bx);
    if (rc == RC_OK) rc = cu_want(p, n->in[1], false, K_F32, &bs);
    if (rc == RC_OK) rc = cu_want(p, n->in[2], false, K_F32, &bt);
    if (rc == RC_OK) rc = cu_buf_new(p, (size_t)m.h.n * 8, &moments);
    if (rc == RC_OK) rc = cu_buf_new(p, (size_t)rows * 8, &joined);
    if (rc == RC_OK) rc = cu_make(p, n->out, true, &by);
    if (rc != RC_OK) return rc;
    s = cu_step_new(p, K_MOMENTS, n);
    if (s == NULL) return RC_NOMEM;
    s->k.moments = m;
    s->buf[0] = moments;
    s->buf[1] = bx;
    s = cu_step_new(p, K_JOIN, n);
    if (s == NULL) return RC_NOMEM;
    s->k.join = (struct k_join){.channels = c,
                                .places = places,
                                .chunks = m.chunks,
                                .chunk = m.chunk,
                                .eps = n->u.norm.eps,
                                .h.n = rows};
    s->buf[0] = joined;
    s->buf[1] = moments;
    s->buf[2] = bs;
    s->buf[3] = bt;
    s = cu_step_new(p, K_MAP, n);
    if (s == NULL) return RC_NOMEM;
    { /* x seen as [n, places, c]; a and b as [2, n, c], both through one buffer */
        struct k_map *k = &s->k.map;

        *k = (struct k_map){.op = K_MULADD, .operands = 3, .act = actor(n)};
        k->type[0] = k->type[1] = p->type;
        k->type[2] = k->type[3] = K_F32;
        k->at.rank = 3;
        k->at.dim[0] = (uint32_t)x->dim[0];
        k->at.dim[1] = places;
        k->at.dim[2] = c;
        k->at.s[0][0] = (int32_t)(places * c);
        k->at.s[0][1] = (int32_t)c;
        k->at.s[1][0] = k->at.s[2][0] = (int32_t)c;
        k->at.s[0][2] = k->at.s[1][2] = k->at.s[2][2] = 1;
        k->first3 = (int32_t)rows;
        k->h.n = (uint32_t)x->dim[0] * places * c;
    }
    s->buf[0] = by;
    s->buf[1] = bx;
    s->buf[2] = s->buf[3] = joined;
    return RC_OK;
}

static enum rc lnorm(struct be_plan *p, const struct be_node *n)
{
    const struct be_tensor *x = cu_tensor(p, n->in[0]);
    uint32_t bx, by, bs, bt = BE_NONE, len = 1;
    struct cu_step *s;
    enum rc rc = cu_want(p, n->in[0], false, p->type, &bx);

    for (uint8_t i = n->u.norm.axis; i < x->rank; i++)
        len *= (uint32_t)x->dim[i];
    if (rc == RC_OK) rc = cu_want(p, n->in[1], false, K_F32, &bs);
    if (rc == RC_OK && n->in_n > 2) rc = cu_want(p, n->in[2], false, K_F32, &bt);
    if (rc == RC_OK) rc = cu_make(p, n->out, false, &by);
    if (rc != RC_OK) return rc;
    s = cu_step_new(p, K_LNORM, n);
    if (s == NULL) return RC_NOMEM;
    s->k.lnorm =
        (struct k_lnorm){.act = actor(n), .in_n = len, .eps = n->u.norm.eps, .type = p->type};
    s->k.h.n = len == 0 ? 0 : (uint32_t)(be_tensor_count(x) / len);
    s->buf[0] = by;
    s->buf[1] = bx;
    s->buf[2] = bs;
    s->buf[3] = bt;
    return RC_OK;
}

static enum rc reduce(struct be_plan *p, const struct be_node *n)
{
    const struct be_tensor *x = cu_tensor(p, n->in[0]);
    uint32_t gone = n->u.reduce.axes, by;
    int32_t s[3][K_RANK];
    uint8_t plain[K_RANK], lies[K_RANK];
    struct cu_form f;
    struct cu_step *st;
    int32_t step = 1;
    enum rc rc = cu_first(p, n->in[0], &f);

    if (rc == RC_OK) rc = cu_make(p, n->out, false, &by);
    if (rc != RC_OK) return rc;
    st = cu_step_new(p, K_REDUCE, n);
    if (st == NULL) return RC_NOMEM;
    st->buf[0] = by;
    st->buf[1] = f.buf;
    cu_strides(x, f.last, s[0]);
    for (uint8_t i = x->rank; i-- > 0;) { /* of y, over x's dims */
        s[1][i] = step;
        if ((gone >> i & 1) == 0) step *= (int32_t)x->dim[i];
    }
    cu_order(x->rank, false, plain);
    cu_order(x->rank, f.last, lies);
    st->k.reduce.kind = (int)n->u.reduce.kind;
    st->k.reduce.type = f.type;
    st->k.reduce.type_y = p->type;
    st->k.h.n = cu_loop(x, plain, ~gone, s, 2, &st->k.reduce.outer);
    st->k.reduce.in_n = cu_loop(x, lies, gone, s, 1, &st->k.reduce.inner);
    return RC_OK;
}

static enum rc softmax(struct be_plan *p, const struct be_node *n)
{
    const struct be_tensor *x = cu_tensor(p, n->in[0]);
    uint32_t inner = 0, bx, by;
    int32_t s[3][K_RANK];
    uint8_t lies[K_RANK];
    struct cu_form f;
    struct cu_step *st;
    enum rc rc = cu_first(p, n->in[0], &f);

    for (uint8_t i = n->u.softmax.axis; i < n->u.softmax.axis_end; i++)
        inner |= 1u << i;
    if (rc == RC_OK) rc = cu_want(p, n->in[0], f.last, p->type, &bx);
    if (rc == RC_OK) rc = cu_make(p, n->out, f.last, &by);
    if (rc != RC_OK) return rc;
    st = cu_step_new(p, K_SOFTMAX, n);
    if (st == NULL) return RC_NOMEM;
    st->buf[0] = by;
    st->buf[1] = bx;
    cu_strides(x, f.last, s[0]);
    cu_order(x->rank, f.last, lies);
    st->k.softmax.type = p->type;
    st->k.h.n = cu_loop(x, lies, ~inner, s, 1, &st->k.softmax.outer);
    st->k.softmax.in_n = cu_loop(x, lies, inner, s, 1, &st->k.softmax.inner);
    return RC_OK;
}

/* ---- moving ---- */
static enum rc concat(struct be_plan *p, const struct be_node *n)
{
    const struct be_tensor *y = cu_tensor(p, n->out);
    int type = cu_type(p, y);
    int32_t s[3][K_RANK], off = 0;
    uint8_t order[K_RANK];
    struct cu_form f;
    bool last = false;
    uint32_t by;
    enum rc rc = RC_OK;

    for (uint32_t i = 0; rc == RC_OK && i < n->in_n; i++) {
        rc = cu_first(p, n->in[i], &f);
        last = last || f.last;
    }
    if (rc == RC_OK) rc = cu_make(p, n->out, last, &by);
    cu_order(y->rank, last, order);
    for (uint32_t i = 0; rc == RC_OK && i < n->in_n; i++) {
        const struct be_tensor *x = cu_tensor(p, n->in[i]);
        struct cu_step *st;
        uint32_t bx;
        bool lies;

        rc = cu_first(p, n->in[i], &f);
        if (rc != RC_OK) return rc;
        lies = f.last; /* a form that is made is lent in the layout that there is */
        rc = cu_want(p, n->in[i], lies, type, &bx);
        if (rc != RC_OK) return rc;
        st = cu_step_new(p, K_COPY, n);
        if (st == NULL) return RC_NOMEM;
        st->buf[0] = by;
        st->buf[1] = bx;
        cu_strides(y, last, s[0]);
        cu_strides(x, lies, s[1]);
        st->k.copy.y_off = off;
        off += s[0][n->u.concat_axis] * (int32_t)x->dim[n->u.concat_axis];
        st->k.copy.bytes = (int)cu_type_bytes(type);
        st->k.copy.table_dim = -1;
        st->k.h.n = cu_loop(x, order, ALL_DIMS, s, 2, &st->k.copy.at);
    }
    return rc;
}

static enum rc cast(struct be_plan *p, const struct be_node *n)
{
    const struct be_tensor *x = cu_tensor(p, n->in[0]), *y = cu_tensor(p, n->out);
    uint32_t bx = BE_NONE, by;
    struct cu_form f;
    struct cu_step *s;
    enum rc rc = cu_first(p, n->in[0], &f); /* an input is read in its own type: no bit is lost */

    if (rc == RC_OK) bx = f.buf;
    if (rc == RC_OK && f.last && !cu_same_memory(x)) rc = cu_want(p, n->in[0], false, f.type, &bx);
    if (rc == RC_OK) rc = cu_make(p, n->out, false, &by);
    if (rc != RC_OK) return rc;
    s = cu_step_new(p, K_CAST, n);
    if (s == NULL) return RC_NOMEM;
    s->buf[0] = by;
    s->buf[1] = bx;
    s->k.cast.from = f.type;
    s->k.cast.to = cu_type(p, y);
    s->k.h.n = (uint32_t)be_tensor_count(y);
    return RC_OK;
}

static enum rc view(struct be_plan *p, const struct be_node *n)
{
    const struct be_tensor *x = cu_tensor(p, n->in[0]);
    struct cu_form f;
    uint32_t b;
    enum rc rc = cu_first(p, n->in[0], &f);

    if (rc != RC_OK) return rc;
    b = f.buf;
    if (f.last && !cu_same_memory(x)) rc = cu_want(p, n->in[0], false, f.type, &b);
    return rc == RC_OK ? cu_alias(p, n->out, false, f.type, b) : rc;
}

static enum rc copy(struct be_plan *p, const struct be_node *n)
{
    const struct be_tensor *y = cu_tensor(p, n->out);
    int type = cu_type(p, y);
    int32_t s[3][K_RANK];
    uint8_t order[K_RANK];
    struct cu_step *st;
    uint32_t bx, by;
    enum rc rc = cu_want(p, n->in[0], false, type, &bx);

    if (rc == RC_OK) rc = cu_make(p, n->out, false, &by);
    if (rc != RC_OK) return rc;
    st = cu_step_new(p, K_COPY, n);
    if (st == NULL) return RC_NOMEM;
    st->buf[0] = by;
    st->buf[1] = bx;
    cu_strides(y, false, s[0]);
    for (uint8_t i = 0; i < y->rank; i++)
        s[1][i] = (int32_t)n->u.copy.stride[i];
    cu_order(y->rank, false, order);
    st->k.copy.x_off = (int32_t)n->u.copy.off;
    st->k.copy.bytes = (int)cu_type_bytes(type);
    st->k.copy.table_dim = -1;
    st->k.h.n = cu_loop(y, order, ALL_DIMS, s, 2, &st->k.copy.at);
    return RC_OK;
}

static enum rc pad(struct be_plan *p, const struct be_node *n)
{
    const struct be_tensor *x = cu_tensor(p, n->in[0]), *y = cu_tensor(p, n->out);
    int32_t s[K_RANK];
    uint8_t order[K_RANK];
    struct cu_form f;
    struct cu_step *st;
    uint32_t bx, by;
    enum rc rc = cu_first(p, n->in[0], &f);

    if (rc == RC_OK) rc = cu_want(p, n->in[0], f.last, p->type, &bx);
    if (rc == RC_OK) rc = cu_make(p, n->out, f.last, &by);
    if (rc != RC_OK) return rc;
    st = cu_step_new(p, K_PAD, n);
    if (st == NULL) return RC_NOMEM;
    st->buf[0] = by;
    st->buf[1] = bx;
    cu_strides(x, f.last, s);
    cu_order(y->rank, f.last, order);
    st->k.pad.at.rank = y->rank;
    for (uint8_t i = 0; i < y->rank; i++) {
        st->k.pad.at.dim[i] = (uint32_t)y->dim[order[i]];
        st->k.pad.at.s[0][i] = s[order[i]];
        st->k.pad.begin[i] = (int32_t)n->u.pad.begin[order[i]];
        st->k.pad.size[i] = (int32_t)x->dim[order[i]];
    }
    st->k.pad.kind = (int)n->u.pad.kind;
    st->k.pad.value = n->u.pad.value;
    st->k.pad.type = p->type;
    st->k.h.n = (uint32_t)be_tensor_count(y);
    return RC_OK;
}

static enum rc gather(struct be_plan *p, const struct be_node *n)
{
    const struct be_tensor *x = cu_tensor(p, n->in[0]), *k = cu_tensor(p, n->in[1]);
    const struct be_tensor *y = cu_tensor(p, n->out);
    uint64_t picks = be_tensor_count(k), outer = 1, inner = 1,
             d = (uint64_t)x->dim[n->u.gather_axis];
    int type = cu_type(p, y);
    uint32_t bx, by, table;
    uint8_t *host;
    struct cu_step *s;
    enum rc rc = cu_want(p, n->in[0], false, type, &bx);

    for (uint8_t i = 0; i < x->rank; i++) {
        if (i < n->u.gather_axis) outer *= (uint64_t)x->dim[i];
        if (i > n->u.gather_axis) inner *= (uint64_t)x->dim[i];
    }
    if (rc == RC_OK) rc = cu_const_new(p, (size_t)picks * 4, &table, &host);
    if (rc == RC_OK) rc = cu_make(p, n->out, false, &by);
    if (rc != RC_OK) return rc;
    for (uint64_t i = 0; i < picks; i++)
        ((int32_t *)(void *)host)[i] = (int32_t)((const int64_t *)k->konst)[i];
    s = cu_step_new(p, K_COPY, n);
    if (s == NULL) return RC_NOMEM;
    s->buf[0] = by;
    s->buf[1] = bx;
    s->buf[2] = table;
    s->k.copy = (struct k_copy){.bytes = (int)cu_type_bytes(type),
                                .table_dim = 1,
                                .h.n = (uint32_t)be_tensor_count(y),
                                .at = {.rank = 3,
                                       .dim = {(uint32_t)outer, (uint32_t)picks, (uint32_t)inner},
                                       .s = {{(int32_t)(picks * inner), (int32_t)inner, 1},
                                             {(int32_t)(d * inner), (int32_t)inner, 1}}}};
    return RC_OK;
}

static enum rc resize(struct be_plan *p, const struct be_node *n)
{
    const struct be_tensor *x = cu_tensor(p, n->in[0]), *y = cu_tensor(p, n->out);
    uint8_t dims = (uint8_t)(y->rank - 2), *places, *weights;
    uint32_t bx, by, bp, bw, total = 0, at = 0;
    struct k_resize *r;
    struct cu_step *s;
    enum rc rc = cu_want(p, n->in[0], true, p->type, &bx);

    if (dims > 3)
        return err_set(p->reterr, RC_UNIMPL, "node '%.100s': resizing of %u dimensions", n->name,
                       dims);
    for (uint8_t i = 0; i < dims; i++)
        total += (uint32_t)y->dim[2 + i];
    if (rc == RC_OK) rc = cu_const_new(p, (size_t)total * 8, &bp, &places);
    if (rc == RC_OK) rc = cu_const_new(p, (size_t)total * 4, &bw, &weights);
    if (rc == RC_OK) rc = cu_make(p, n->out, true, &by);
    if (rc != RC_OK) return rc;
    s = cu_step_new(p, K_RESIZE, n);
    if (s == NULL) return RC_NOMEM;
    s->buf[0] = by;
    s->buf[1] = bx;
    s->buf[2] = bp;
    s->buf[3] = bw;
    r = &s->k.resize;
    r->channels = (int32_t)y->dim[1];
    r->linear = n->u.resize_linear;
    r->dims = dims;
    r->type = p->type;
    s->k.h.n = (uint32_t)be_tensor_count(y);
    for (int d = 0; d < 3; d++) {
        int i = d - (3 - dims);

        r->in[d] = r->out[d] = 1;
        if (i < 0) continue;
        r->in[d] = (int32_t)x->dim[2 + i];
        r->out[d] = (int32_t)y->dim[2 + i];
        r->place[d] = (int32_t)(2 * at);
        r->weight[d] = (int32_t)at;
        for (int32_t k = 0; k < 2 * r->out[d]; k++)
            ((int32_t *)(void *)places)[2 * at + (uint32_t)k] =
                (int32_t)((const int64_t *)cu_tensor(p, n->in[1 + 2 * i])->konst)[k];
        memcpy(weights + 4 * (size_t)at, cu_tensor(p, n->in[2 + 2 * i])->konst,
               (size_t)r->out[d] * 4);
        at += (uint32_t)r->out[d];
    }
    return RC_OK;
}

enum rc cu_node(struct be_plan *p, const struct be_node *n)
{
    switch (n->op) {
    case BE_CONV:
    case BE_CONV_T:
        return conv(p, n);
    case BE_POOL:
        return pool(p, n);
    case BE_MATMUL:
        return matmul(p, n);
    case BE_UNARY:
        return unary(p, n);
    case BE_BINARY:
        return binary(p, n);
    case BE_AFFINE:
        return affine(p, n);
    case BE_INORM:
        return inorm(p, n);
    case BE_LNORM:
        return lnorm(p, n);
    case BE_REDUCE:
        return reduce(p, n);
    case BE_SOFTMAX:
        return softmax(p, n);
    case BE_CONCAT:
        return concat(p, n);
    case BE_CAST:
        return cast(p, n);
    case BE_VIEW:
        return view(p, n);
    case BE_COPY:
        return copy(p, n);
    case BE_PAD:
        return pad(p, n);
    case BE_GATHER:
        return gather(p, n);
    case BE_RESIZE:
        return resize(p, n);
    case BE_OP_N:
        break;
    }
    return err_set(p->reterr, RC_UNIMPL, "node '%.100s': no such operator", n->name);
}
