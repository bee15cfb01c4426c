/* computed/backend/cpu/cpu_nodes.c - one node, one oneDNN primitive.
 *
 * Values stay row-major between nodes; constant weights are packed into the layout that the
 * primitive likes, once, when the plan is made. A shape that oneDNN refuses is no error: the node
 * is ref's. Source: oneDNN 2.6 developer guide (convolution, pooling, matmul, softmax, eltwise,
 * binary). */
#include "computed/backend/cpu/cpu_priv.h"
#include <stdlib.h>
#include <string.h>

#define ARGS_MAX 5

struct node {
    struct ref_special special;
    dnnl_primitive_t prim;
    dnnl_stream_t stream;
    dnnl_exec_arg_t arg[ARGS_MAX];
    uint32_t tensor[ARGS_MAX]; /* whose bytes the argument is; BE_NONE: fixed */
    int arg_n;
    uint32_t copy_from, copy_to; /* a residual is copied to the output first; BE_NONE: none */
    size_t copy_bytes;
    void *packed; /* weights */
};

struct maker {
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    const struct be_graph *g;
    const struct be_node *n;
    struct node *x;
    dnnl_primitive_desc_t pd;
    dnnl_primitive_attr_t attr;
};

static enum rc node_run(struct ref_special *s, const struct be_graph *g, const struct be_node *n,
                        void *const *data, struct err *reterr)
{
    struct node *x = (struct node *)s;
    dnnl_status_t st = dnnl_success;

    (void)g;
    (void)n;
    if (x->copy_to != BE_NONE && data[x->copy_to] != data[x->copy_from])
        memcpy(data[x->copy_to], data[x->copy_from], x->copy_bytes);
    for (int i = 0; st == dnnl_success && i < x->arg_n; i++)
        if (x->tensor[i] != BE_NONE)
            st = dnnl_memory_set_data_handle(x->arg[i].memory, data[x->tensor[i]]);
    if (st == dnnl_success) st = dnnl_primitive_execute(x->prim, x->stream, x->arg_n, x->arg);
    if (st == dnnl_success) st = dnnl_stream_wait(x->stream);
    if (st == dnnl_success) return RC_OK;
    return err_set(reterr, rc_from_dnnl(st), "oneDNN: status %d", (int)st);
}

static void node_free(struct ref_special *s)
{
    struct node *x = (struct node *)s;

    if (x == NULL) return;
    for (int i = 0; i < x->arg_n; i++)
        (void)dnnl_memory_destroy(x->arg[i].memory); /* fails for NULL only */
    if (x->prim != NULL) (void)dnnl_primitive_destroy(x->prim);
    free(x->packed);
    free(x);
}

/* ---- descriptions ---- */
static dnnl_status_t plain(dnnl_memory_desc_t *md, const int64_t *dim, int rank)
{
    dnnl_dims_t d, stride;
    int64_t step = 1;

    for (int i = rank; i-- > 0;) {
        d[i] = dim[i];
        stride[i] = step;
        step *= dim[i];
    }
    return dnnl_memory_desc_init_by_strides(md, rank, d, dnnl_f32, stride);
}

static dnnl_status_t plain_of(dnnl_memory_desc_t *md, const struct be_tensor *t)
{
    return plain(md, t->dim, t->rank);
}

/* One argument in the layout of md; tensor: whose bytes, BE_NONE with fixed = where they are. */
static dnnl_status_t arg_add(struct maker *m, int what, const dnnl_memory_desc_t *md,
                             uint32_t tensor, void *fixed)
{
    struct node *x = m->x;
    dnnl_status_t st;

    CHECK(x->arg_n < ARGS_MAX);
    st = dnnl_memory_create(&x->arg[x->arg_n].memory, md, m->engine,
                            fixed == NULL ? DNNL_MEMORY_NONE : fixed);
    if (st != dnnl_success) return st;
    x->arg[x->arg_n].arg = what;
    x->tensor[x->arg_n++] = tensor;
    return dnnl_success;
}

/* y = act(x) as eltwise operations. */
static dnnl_status_t act_append(dnnl_post_ops_t po, const struct be_node *n)
{
    dnnl_status_t st;

    switch (n->act) {
    case BE_ACT_RELU:
        return dnnl_post_ops_append_eltwise(po, 1.0f, dnnl_eltwise_relu, 0, 0);
    case BE_ACT_LEAKY_RELU:
        return dnnl_post_ops_append_eltwise(po, 1.0f, dnnl_eltwise_relu, n->lo, 0);
    case BE_ACT_CLIP:
        if (!(n->lo <= n->hi)) return dnnl_unimplemented;
        return dnnl_post_ops_append_eltwise(po, 1.0f, dnnl_eltwise_clip, n->lo, n->hi);
    case BE_ACT_SIGMOID:
        return dnnl_post_ops_append_eltwise(po, 1.0f, dnnl_eltwise_logistic, 0, 0);
    case BE_ACT_TANH:
        return dnnl_post_ops_append_eltwise(po, 1.0f, dnnl_eltwise_tanh, 0, 0);
    case BE_ACT_HARD_SIGMOID:
        st = dnnl_post_ops_append_eltwise(po, 1.0f, dnnl_eltwise_linear, n->lo, n->hi);
        if (st != dnnl_success) return st;
        return dnnl_post_ops_append_eltwise(po, 1.0f, dnnl_eltwise_clip, 0, 1);
    case BE_ACT_HARD_SWISH:
        return dnnl_post_ops_append_eltwise(po, 1.0f, dnnl_eltwise_hardswish, 0, 0);
    case BE_ACT_SWISH:
        return dnnl_post_ops_append_eltwise(po, 1.0f, dnnl_eltwise_swish, 1, 0);
    case BE_ACT_GELU:
        return dnnl_post_ops_append_eltwise(po, 1.0f, dnnl_eltwise_gelu_erf, 0, 0);
    case BE_ACT_NONE:
    case BE_ACT_N:
        break;
    }
    return dnnl_unimplemented;
}

/* The node's activation, after a residual if there is one. */
static dnnl_status_t post_ops(struct maker *m)
{
    const struct be_node *n = m->n;
    dnnl_post_ops_t po = NULL;
    dnnl_status_t st = dnnl_primitive_attr_create(&m->attr);

    if (st == dnnl_success) st = dnnl_post_ops_create(&po);
    if (st == dnnl_success && n->residual != BE_NONE) st = dnnl_post_ops_append_sum(po, 1.0f);
    if (st == dnnl_success && n->act != BE_ACT_NONE) st = act_append(po, n);
    if (st == dnnl_success) st = dnnl_primitive_attr_set_post_ops(m->attr, po);
    if (po != NULL) (void)dnnl_post_ops_destroy(po); /* copied into attr */
    return st;
}

static dnnl_status_t prim_make(struct maker *m, const void *op_desc)
{
    dnnl_status_t st =
        dnnl_primitive_desc_create(&m->pd, (const_dnnl_op_desc_t)op_desc, m->attr, m->engine, NULL);

    if (st == dnnl_success) st = dnnl_primitive_create(&m->x->prim, m->pd);
    if (st == dnnl_success) {
        int64_t scratch = 0;

        if (dnnl_primitive_desc_query(m->pd, dnnl_query_memory_consumption_s64, 0, &scratch) ==
            dnnl_success)
            m->x->special.bytes += (size_t)MAX(scratch, 0);
    }
    return st;
}

/* Constant weights in the primitive's own layout. */
static dnnl_status_t weights_pack(struct maker *m, uint32_t tensor,
                                  const dnnl_memory_desc_t *plain_md)
{
    const dnnl_memory_desc_t *want = dnnl_primitive_desc_query_md(m->pd, dnnl_query_weights_md, 0);
    size_t bytes = dnnl_memory_desc_get_size(want);
    dnnl_exec_arg_t arg[2] = {{.arg = DNNL_ARG_FROM}, {.arg = DNNL_ARG_TO}};
    dnnl_primitive_desc_t pd = NULL;
    dnnl_primitive_t reorder = NULL;
    dnnl_status_t st;

    m->x->packed = aligned_alloc(64, ROUND_UP(MAX(bytes, (size_t)64), (size_t)64));
    if (m->x->packed == NULL) return dnnl_out_of_memory;
    st = dnnl_memory_create(&arg[0].memory, plain_md, m->engine,
                            (void *)(uintptr_t)m->g->tensor[tensor].konst);
    if (st == dnnl_success) st = dnnl_memory_create(&arg[1].memory, want, m->engine, m->x->packed);
    if (st == dnnl_success)
        st = dnnl_reorder_primitive_desc_create(&pd, plain_md, m->engine, want, m->engine, NULL);
    if (st == dnnl_success) st = dnnl_primitive_create(&reorder, pd);
    if (st == dnnl_success) st = dnnl_primitive_execute(reorder, m->stream, 2, arg);
    if (st == dnnl_success) st = dnnl_stream_wait(m->stream);
    for (int i = 0; i < 2; i++)
        if (arg[i].memory != NULL) (void)dnnl_memory_destroy(arg[i].memory);
    if (reorder != NULL) (void)dnnl_primitive_destroy(reorder);
    if (pd != NULL) (void)dnnl_primitive_desc_destroy(pd);
    m->x->special.bytes += bytes;
    return st == dnnl_success ? arg_add(m, DNNL_ARG_WEIGHTS, want, BE_NONE, m->x->packed) : st;
}

/* ---- windows ---- */
struct win {
    dnnl_dims_t kernel, stride, dilate, pad_l, pad_r;
};

/* False: a window that oneDNN does not have, or that may lie in the padding altogether. */
static bool win_make(const struct be_window *w, const struct be_tensor *tx,
                     const struct be_tensor *ty, struct win *ret)
{
    for (int i = 0; i < w->dims; i++) {
        int64_t span = (w->kernel[i] - 1) * w->dilation[i] + 1;

        ret->kernel[i] = w->kernel[i];
        ret->stride[i] = w->stride[i];
        ret->dilate[i] = w->dilation[i] - 1;
        ret->pad_l[i] = w->pad_begin[i];
        /* what the output's size says: with ceil_mode the last window may hang over */
        ret->pad_r[i] =
            (ty->dim[2 + i] - 1) * w->stride[i] + span - tx->dim[2 + i] - w->pad_begin[i];
        if (ret->pad_l[i] < 0 || ret->pad_l[i] >= w->kernel[i] || ret->pad_r[i] >= w->kernel[i])
            return false;
    }
    return true;
}

static void residual_copy(struct maker *m, const struct be_tensor *ty)
{
    if (m->n->residual == BE_NONE) return;
    m->x->copy_from = m->n->residual;
    m->x->copy_to = m->n->out;
    m->x->copy_bytes = (size_t)be_tensor_count(ty) * sizeof(float);
}

static dnnl_status_t make_conv(struct maker *m)
{
    const struct be_node *n = m->n;
    const struct be_tensor *tx = &m->g->tensor[n->in[0]], *tw = &m->g->tensor[n->in[1]];
    const struct be_tensor *ty = &m->g->tensor[n->out];
    bool bias = n->in_n > 2, pack = tw->konst != NULL;
    dnnl_memory_desc_t src, wei, wei_any, bia, dst;
    int64_t wd[BE_RANK_MAX + 1];
    dnnl_convolution_desc_t cd;
    int wr = 0;
    struct win w;
    dnnl_status_t st;

    if (!win_make(&n->u.conv.window, tx, ty, &w)) return dnnl_unimplemented;
    if (n->u.conv.groups > 1) { /* [M, C/g, ...] as [g, M/g, C/g, ...]: the same bytes */
        wd[wr++] = n->u.conv.groups;
        wd[wr++] = tw->dim[0] / n->u.conv.groups;
    } else {
        wd[wr++] = tw->dim[0];
    }
    for (uint8_t i = 1; i < tw->rank; i++)
        wd[wr++] = tw->dim[i];
    st = plain_of(&src, tx);
    if (st == dnnl_success) st = plain(&wei, wd, wr);
    if (st == dnnl_success) st = plain_of(&dst, ty);
    if (st == dnnl_success && bias) st = plain(&bia, &tw->dim[0], 1);
    if (st != dnnl_success) return st;
    wei_any = wei;
    if (pack)
        st = dnnl_memory_desc_init_by_tag(&wei_any, wei.ndims, wei.dims, dnnl_f32,
                                          dnnl_format_tag_any);
    if (st == dnnl_success)
        st = dnnl_dilated_convolution_forward_desc_init(
            &cd, dnnl_forward_inference, dnnl_convolution_auto, &src, &wei_any, bias ? &bia : NULL,
            &dst, w.stride, w.dilate, w.pad_l, w.pad_r);
    if (st == dnnl_success) st = post_ops(m);
    if (st == dnnl_success) st = prim_make(m, &cd);
    if (st == dnnl_success) st = arg_add(m, DNNL_ARG_SRC, &src, n->in[0], NULL);
    if (st == dnnl_success)
        st = pack ? weights_pack(m, n->in[1], &wei)
                  : arg_add(m, DNNL_ARG_WEIGHTS, &wei, n->in[1], NULL);
    if (st == dnnl_success && bias) st = arg_add(m, DNNL_ARG_BIAS, &bia, n->in[2], NULL);
    if (st == dnnl_success) st = arg_add(m, DNNL_ARG_DST, &dst, n->out, NULL);
    residual_copy(m, ty);
    return st;
}

static dnnl_status_t make_pool(struct maker *m)
{
    const struct be_node *n = m->n;
    const struct be_tensor *tx = &m->g->tensor[n->in[0]], *ty = &m->g->tensor[n->out];
    static const dnnl_alg_kind_t alg[] = {[BE_POOL_MAX] = dnnl_pooling_max,
                                          [BE_POOL_AVG] = dnnl_pooling_avg_exclude_padding,
                                          [BE_POOL_AVG_PADDED] = dnnl_pooling_avg_include_padding};
    dnnl_memory_desc_t src, dst;
    dnnl_pooling_desc_t pd;
    struct win w;
    dnnl_status_t st;

    if (!win_make(&n->u.pool.window, tx, ty, &w)) return dnnl_unimplemented;
    for (int i = 0; i < n->u.pool.window.dims; i++)
        if (w.dilate[i] != 0 || w.pad_r[i] < 0) return dnnl_unimplemented;
    st = plain_of(&src, tx);
    if (st == dnnl_success) st = plain_of(&dst, ty);
    if (st == dnnl_success)
        st = dnnl_pooling_forward_desc_init(&pd, dnnl_forward_inference, alg[n->u.pool.kind], &src,
                                            &dst, w.stride, w.kernel, w.pad_l, w.pad_r);
    if (st == dnnl_success) st = prim_make(m, &pd);
    if (st == dnnl_success) st = arg_add(m, DNNL_ARG_SRC, &src, n->in[0], NULL);
    if (st == dnnl_success) st = arg_add(m, DNNL_ARG_DST, &dst, n->out, NULL);
    return st;
}

/* Plain products of two matrices with an optional row to add (a dense layer). */
static dnnl_status_t make_matmul(struct maker *m)
{
    const struct be_node *n = m->n;
    const struct be_tensor *ta = &m->g->tensor[n->in[0]], *tb = &m->g->tensor[n->in[1]];
    const struct be_tensor *ty = &m->g->tensor[n->out];
    const struct be_tensor *tc = n->in_n > 2 ? &m->g->tensor[n->in[2]] : NULL;
    bool xa = n->u.matmul.trans_a, xb = n->u.matmul.trans_b;
    dnnl_dims_t da, db, sa, sb, dc, sc = {1, 1};
    dnnl_memory_desc_t src, wei, bia, dst;
    dnnl_matmul_desc_t md;
    dnnl_status_t st;

    if (ta->rank != 2 || tb->rank != 2 || ty->rank != 2) return dnnl_unimplemented;
    if (n->u.matmul.alpha < 1 || n->u.matmul.alpha > 1) return dnnl_unimplemented;
    if (tc != NULL) {
        if (n->u.matmul.beta < 1 || n->u.matmul.beta > 1 ||
            be_tensor_count(tc) != (uint64_t)ty->dim[1] || tc->dim[tc->rank - 1] != ty->dim[1])
            return dnnl_unimplemented;
    }
    da[0] = ty->dim[0];
    da[1] = ta->dim[xa ? 0 : 1];
    db[0] = da[1];
    db[1] = dc[1] = ty->dim[1];
    dc[0] = 1;
    sc[0] = ty->dim[1];
    sa[0] = xa ? 1 : ta->dim[1];
    sa[1] = xa ? ta->dim[1] : 1;
    sb[0] = xb ? 1 : tb->dim[1];
    sb[1] = xb ? tb->dim[1] : 1;
    st = dnnl_memory_desc_init_by_strides(&src, 2, da, dnnl_f32, sa);
    if (st == dnnl_success) st = dnnl_memory_desc_init_by_strides(&wei, 2, db, dnnl_f32, sb);
    if (st == dnnl_success) st = dnnl_memory_desc_init_by_strides(&bia, 2, dc, dnnl_f32, sc);
    if (st == dnnl_success) st = plain_of(&dst, ty);
    if (st == dnnl_success)
        st = dnnl_matmul_desc_init(&md, &src, &wei, tc != NULL ? &bia : NULL, &dst);
    if (st == dnnl_success) st = post_ops(m);
    if (st == dnnl_success) st = prim_make(m, &md);
    if (st == dnnl_success) st = arg_add(m, DNNL_ARG_SRC, &src, n->in[0], NULL);
    if (st == dnnl_success) st = arg_add(m, DNNL_ARG_WEIGHTS, &wei, n->in[1], NULL);
    if (st == dnnl_success && tc != NULL) st = arg_add(m, DNNL_ARG_BIAS, &bia, n->in[2], NULL);
    if (st == dnnl_success) st = arg_add(m, DNNL_ARG_DST, &dst, n->out, NULL);
    residual_copy(m, ty);
    return st;
}

static dnnl_status_t make_unary(struct maker *m)
{
    const struct be_node *n = m->n;
    int64_t count = (int64_t)be_tensor_count(&m->g->tensor[n->out]);
    float alpha = 0, beta = 0;
    dnnl_alg_kind_t alg;
    dnnl_eltwise_desc_t ed;
    dnnl_memory_desc_t md;
    dnnl_status_t st;

    if (n->u.unary != BE_ACT) return dnnl_unimplemented; /* libm's edges (log of 0) are kept */
    switch (n->act) {
    case BE_ACT_RELU:
        alg = dnnl_eltwise_relu;
        break;
    case BE_ACT_LEAKY_RELU:
        alg = dnnl_eltwise_relu;
        alpha = n->lo;
        break;
    case BE_ACT_SIGMOID:
        alg = dnnl_eltwise_logistic;
        break;
    case BE_ACT_TANH:
        alg = dnnl_eltwise_tanh;
        break;
    case BE_ACT_HARD_SWISH:
        alg = dnnl_eltwise_hardswish;
        break;
    case BE_ACT_SWISH:
        alg = dnnl_eltwise_swish;
        alpha = 1;
        break;
    case BE_ACT_GELU:
        alg = dnnl_eltwise_gelu_erf;
        break;
    case BE_ACT_CLIP:
        if (!(n->lo <= n->hi)) return dnnl_unimplemented;
        alg = dnnl_eltwise_clip;
        alpha = n->lo;
        beta = n->hi;
        break;
    default:
        return dnnl_unimplemented;
    }
    st = plain(&md, &count, 1);
    if (st == dnnl_success)
        st = dnnl_eltwise_forward_desc_init(&ed, dnnl_forward_inference, alg, &md, alpha, beta);
    if (st == dnnl_success) st = prim_make(m, &ed);
    if (st == dnnl_success) st = arg_add(m, DNNL_ARG_SRC, &md, n->in[0], NULL);
    if (st == dnnl_success) st = arg_add(m, DNNL_ARG_DST, &md, n->out, NULL);
    return st;
}

static dnnl_status_t make_binary(struct maker *m)
{
    const struct be_node *n = m->n;
    const struct be_tensor *ty = &m->g->tensor[n->out];
    dnnl_memory_desc_t md[2], dst;
    dnnl_binary_desc_t bd;
    dnnl_alg_kind_t alg;
    dnnl_status_t st = plain_of(&dst, ty);

    switch (n->u.binary) {
    case BE_ADD:
        alg = dnnl_binary_add;
        break;
    case BE_SUB:
        alg = dnnl_binary_sub;
        break;
    case BE_MUL:
        alg = dnnl_binary_mul;
        break;
    case BE_DIV:
        alg = dnnl_binary_div;
        break;
    default: /* Pow; Min and Max, whose NaN oneDNN treats otherwise */
        return dnnl_unimplemented;
    }
    if (ty->rank == 0 || n->act != BE_ACT_NONE) return dnnl_unimplemented;
    for (int k = 0; st == dnnl_success && k < 2; k++) {
        const struct be_tensor *t = &m->g->tensor[n->in[k]];
        int64_t d[BE_RANK_MAX];

        for (uint8_t i = 0; i < ty->rank; i++) {
            int at = (int)i - (ty->rank - t->rank);

            d[i] = at < 0 ? 1 : t->dim[at];
            if (k == 0 && d[i] != ty->dim[i]) return dnnl_unimplemented; /* only b broadcasts */
        }
        st = plain(&md[k], d, ty->rank);
    }
    if (st == dnnl_success) st = dnnl_binary_desc_init(&bd, alg, &md[0], &md[1], &dst);
    if (st == dnnl_success) st = prim_make(m, &bd);
    if (st == dnnl_success) st = arg_add(m, DNNL_ARG_SRC_0, &md[0], n->in[0], NULL);
    if (st == dnnl_success) st = arg_add(m, DNNL_ARG_SRC_1, &md[1], n->in[1], NULL);
    if (st == dnnl_success) st = arg_add(m, DNNL_ARG_DST, &dst, n->out, NULL);
    return st;
}

static dnnl_status_t make(struct maker *m)
{
    const struct be_node *n = m->n;

    for (uint32_t i = 0; i <= n->in_n; i++) {
        const struct be_tensor *t = &m->g->tensor[i < n->in_n ? n->in[i] : n->out];

        if (t->dtype != BE_F32 || be_tensor_count(t) == 0) return dnnl_unimplemented;
    }
    switch (n->op) {
    case BE_CONV:
        return make_conv(m);
    case BE_POOL:
        return make_pool(m);
    case BE_MATMUL:
        return make_matmul(m);
    case BE_UNARY:
        return make_unary(m);
    case BE_BINARY:
        return make_binary(m);
    default:
        return dnnl_unimplemented;
    }
}

enum rc cpu_node(dnnl_engine_t engine, dnnl_stream_t stream, const struct be_graph *g,
                 const struct be_node *n, struct ref_special **ret, struct err *reterr)
{
    struct maker m = {.engine = engine, .stream = stream, .g = g, .n = n};
    dnnl_status_t st;

    m.x = calloc(1, sizeof(*m.x));
    if (m.x == NULL) return err_set(reterr, RC_NOMEM, "plan");
    m.x->special.run = node_run;
    m.x->special.free = node_free;
    m.x->stream = stream;
    m.x->copy_from = m.x->copy_to = BE_NONE;
    st = make(&m);
    if (m.pd != NULL) (void)dnnl_primitive_desc_destroy(m.pd); /* the primitive has its own */
    if (m.attr != NULL) (void)dnnl_primitive_attr_destroy(m.attr);
    if (st == dnnl_success) {
        *ret = &m.x->special;
        return RC_OK;
    }
    node_free(&m.x->special);
    if (st == dnnl_out_of_memory) return err_set(reterr, RC_NOMEM, "plan: oneDNN lacks memory");
    return RC_OK; /* ref's */
}
