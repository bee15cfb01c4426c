/* computed/backend/cpu/cpu_nodes.c - nodes as oneDNN primitives.
 *
 * Convolutions choose the layout of their input and output themselves; pooling
 * and activations keep what they find. Constant weights are packed into the
 * layout that the primitive likes, once, when the plan is made. A shape that
 * oneDNN refuses is no error: the node is the reference's. Source: oneDNN 2.6
 * developer guide (convolution, deconvolution, pooling, matmul, softmax,
 * eltwise). */
#include "computed/backend/cpu/cpu.h"
#include "computed/backend/cpu/cpu_priv.h"
#include <string.h>

/* ---- activations ---- */

/* y = act(x) as eltwise operations: one, or two. */
struct elt {
    dnnl_alg_kind_t alg;
    float alpha, beta;
};

static int act_elts(const struct be_node *n, struct elt e[2])
{
    switch (n->act) {
    case BE_ACT_NONE:
        return 0;
    case BE_ACT_RELU:
        e[0] = (struct elt){dnnl_eltwise_relu, 0, 0};
        return 1;
    case BE_ACT_LEAKY_RELU:
        e[0] = (struct elt){dnnl_eltwise_relu, n->lo, 0};
        return 1;
    case BE_ACT_CLIP:
        if (!(n->lo <= n->hi)) return -1;
        e[0] = (struct elt){dnnl_eltwise_clip, n->lo, n->hi};
        return 1;
    case BE_ACT_SIGMOID:
        e[0] = (struct elt){dnnl_eltwise_logistic, 0, 0};
        return 1;
    case BE_ACT_TANH:
        e[0] = (struct elt){dnnl_eltwise_tanh, 0, 0};
        return 1;
    case BE_ACT_HARD_SIGMOID:
        e[0] = (struct elt){dnnl_eltwise_linear, n->lo, n->hi};
        e[1] = (struct elt){dnnl_eltwise_clip, 0, 1};
        return 2;
    case BE_ACT_HARD_SWISH:
        e[0] = (struct elt){dnnl_eltwise_hardswish, 0, 0};
        return 1;
    case BE_ACT_SWISH:
        e[0] = (struct elt){dnnl_eltwise_swish, 1, 0};
        return 1;
    case BE_ACT_GELU:
        e[0] = (struct elt){dnnl_eltwise_gelu_erf, 0, 0};
        return 1;
    case BE_ACT_N:
        break;
    }
    return -1;
}

struct maker {
    struct be_plan *p;
    const struct be_node *n;
    dnnl_primitive_desc_t pd;
    dnnl_primitive_attr_t attr;
    dnnl_primitive_t prim;
    struct cpu_arg arg[CPU_ARGS_MAX];
    int arg_n;
};

static void maker_end(struct maker *m)
{
    if (m->pd != NULL) (void)dnnl_primitive_desc_destroy(m->pd); /* the primitive has its own */
    if (m->attr != NULL) (void)dnnl_primitive_attr_destroy(m->attr);
    if (m->prim != NULL) (void)dnnl_primitive_destroy(m->prim);
}

/* Scratch memory of the plan's; after a residual, if there is one, the node's
 * activation. */
static dnnl_status_t attr_make(struct maker *m, bool residual, float scale)
{
    struct elt e[2];
    int n = act_elts(m->n, e);
    dnnl_post_ops_t po = NULL;
    dnnl_status_t st = n < 0 ? dnnl_unimplemented : dnnl_primitive_attr_create(&m->attr);

    if (st == dnnl_success)
        st = dnnl_primitive_attr_set_scratchpad_mode(m->attr, dnnl_scratchpad_mode_user);
    if (st == dnnl_success && (scale < 1 || scale > 1))
        st = dnnl_primitive_attr_set_output_scales(m->attr, 1, 0, &scale);
    if (st == dnnl_success) st = dnnl_post_ops_create(&po);
    if (st == dnnl_success && residual) st = dnnl_post_ops_append_sum(po, 1.0f);
    for (int i = 0; st == dnnl_success && i < n; i++)
        st = dnnl_post_ops_append_eltwise(po, 1.0f, e[i].alg, e[i].alpha, e[i].beta);
    if (st == dnnl_success) st = dnnl_primitive_attr_set_post_ops(m->attr, po);
    if (po != NULL) (void)dnnl_post_ops_destroy(po); /* copied into attr */
    return st;
}

static dnnl_status_t pd_make(struct maker *m, const void *op_desc)
{
    return dnnl_primitive_desc_create(&m->pd, (const_dnnl_op_desc_t)op_desc, m->attr, m->p->engine,
                                      NULL);
}

static void arg_add(struct maker *m, int what, const dnnl_memory_desc_t *md, uint32_t buf)
{
    CHECK(m->arg_n < CPU_ARGS_MAX);
    m->arg[m->arg_n++] = (struct cpu_arg){.what = what, .buf = buf, .md = *md};
}

static const dnnl_memory_desc_t *md_of(const struct maker *m, dnnl_query_t what)
{
    return dnnl_primitive_desc_query_md(m->pd, what, 0);
}

/* Appends the step; the maker's primitive is the plan's from here on. */
static enum rc step_add(struct maker *m)
{
    const dnnl_memory_desc_t *scratch = md_of(m, dnnl_query_scratchpad_md);
    struct be_plan *p = m->p;
    struct cpu_step *s;
    enum rc rc = cpu_dnnl(p, dnnl_primitive_create(&m->prim, m->pd));

    if (rc != RC_OK) return rc;
    if (scratch != NULL && dnnl_memory_desc_get_size(scratch) > 0) {
        p->scratch_bytes = MAX(p->scratch_bytes, dnnl_memory_desc_get_size(scratch));
        arg_add(m, DNNL_ARG_SCRATCHPAD, scratch, BE_NONE);
    }
    for (int i = 0; i < m->arg_n; i++)
        if (m->arg[i].buf != BE_NONE) cpu_touch(p, m->arg[i].buf);
    s = cpu_step_new(p);
    if (s == NULL) return RC_NOMEM;
    s->arg = cpu_fixed_alloc(p, (size_t)m->arg_n * sizeof(*s->arg));
    if (s->arg == NULL) return cpu_nomem(p);
    memcpy(s->arg, m->arg, (size_t)m->arg_n * sizeof(*s->arg));
    s->arg_n = m->arg_n;
    s->prim = m->prim;
    m->prim = NULL;
    return RC_OK;
}

/* The output's form; with a residual, one that holds it already. When nobody
 * reads the residual any more, that is its own memory. */
static enum rc dst_make(struct maker *m, const dnnl_memory_desc_t *md, uint32_t *ret)
{
    struct be_plan *p = m->p;
    uint32_t r = m->n->residual, b;
    bool mine = r != BE_NONE && cpu_tensor(p, r)->konst == NULL && p->readers[r] == 0 &&
                m->n->in[0] != r && m->n->in[1] != r;
    enum rc rc;

    if (r == BE_NONE) return cpu_form_make(p, m->n->out, md, ret);
    rc = cpu_form_get(p, r, md, &b);
    for (uint32_t i = 0; rc == RC_OK && mine && i < p->g.input_n; i++)
        mine = p->in_buf[i] != b;
    if (rc != RC_OK) return rc;
    if (mine && !p->buf[b].shared) {
        p->buf[b].rewritten = true;
        *ret = b;
        return cpu_form_in(p, m->n->out, md, b);
    }
    rc = cpu_form_make(p, m->n->out, md, ret);
    return rc != RC_OK ? rc : cpu_copy_step(p, b, *ret, dnnl_memory_desc_get_size(md));
}

enum rc cpu_act(struct be_plan *p, const struct be_node *n, const dnnl_memory_desc_t *md,
                uint32_t from, uint32_t to)
{
    struct elt e[2];
    int elts = act_elts(n, e);
    enum rc rc = elts < 0 ? RC_UNIMPL : RC_OK;

    for (int i = 0; rc == RC_OK && i < elts; i++) {
        struct be_node plain = {.act = BE_ACT_NONE};
        struct maker m = {.p = p, .n = &plain};
        dnnl_eltwise_desc_t ed;
        dnnl_status_t st = dnnl_eltwise_forward_desc_init(&ed, dnnl_forward_inference, e[i].alg, md,
                                                          e[i].alpha, e[i].beta);

        if (st == dnnl_success) st = attr_make(&m, false, 1);
        if (st == dnnl_success) st = pd_make(&m, &ed);
        rc = cpu_dnnl(p, st);
        if (rc == RC_OK) {
            arg_add(&m, DNNL_ARG_SRC, md, i == 0 ? from : to);
            arg_add(&m, DNNL_ARG_DST, md, to);
            rc = step_add(&m);
        }
        maker_end(&m);
    }
    return rc;
}

/* ---- windows ---- */
struct win {
    dnnl_dims_t kernel, stride, dilate, pad_l, pad_r;
};

/* `in` and `out` as Conv has them (of CONV_T: exchanged). False: a window that
 * oneDNN does not have, or that may lie in the padding altogether. */
static bool win_make(const struct be_window *w, const struct be_tensor *in,
                     const struct be_tensor *out, struct win *ret)
{
    for (int i = 0; i < w->dims; i++) {
        int64_t span = (w->kernel[i] - 1) * w->dilation[i] + 1;

        ret->kernel[i] = w->kernel[i];
        ret->stride[i] = w->stride[i];
        ret->dilate[i] = w->dilation[i] - 1;
        ret->pad_l[i] = w->pad_begin[i];
        /* what the output's size says: with ceil_mode the last window may hang over
         */
        ret->pad_r[i] =
            (out->dim[2 + i] - 1) * w->stride[i] + span - in->dim[2 + i] - w->pad_begin[i];
        if (ret->pad_l[i] < 0 || ret->pad_l[i] >= w->kernel[i] || ret->pad_r[i] >= w->kernel[i])
            return false;
    }
    return true;
}

/* Does every reader take bf16 as it is? Then a value is kept so. */
static bool readers_take_bf16(const struct be_plan *p, uint32_t t)
{
    for (uint32_t i = 0; i < p->g.output_n; i++)
        if (p->g.output[i] == t) return false;
    for (uint32_t i = 0; i < p->g.node_n; i++) {
        const struct be_node *n = &p->g.node[i];
        bool reads = n->residual == t;

        for (uint32_t k = 0; k < n->in_n; k++)
            reads = reads || n->in[k] == t;
        if (reads && n->op != BE_CONV && n->op != BE_CONV_T && n->op != BE_MATMUL) return false;
    }
    return true;
}

static dnnl_data_type_t in_type(const struct be_plan *p)
{
    return p->precision == BE_PREC_BF16 ? dnnl_bf16 : dnnl_f32;
}

static dnnl_data_type_t out_type(const struct be_plan *p, uint32_t t)
{
    return p->precision == BE_PREC_BF16 && readers_take_bf16(p, t) ? dnnl_bf16 : dnnl_f32;
}

/* The weights as oneDNN sees them: [groups,] M / groups, C / groups, kernel. Of
 * CONV_T they lie as C, M / groups, kernel. */
static dnnl_status_t weights_md(const struct be_node *n, const struct be_tensor *tw,
                                dnnl_memory_desc_t *md)
{
    int64_t g = n->u.conv.groups, kernel = 1;
    dnnl_dims_t d, s;
    int k = 0;

    for (uint8_t i = 2; i < tw->rank; i++)
        kernel *= tw->dim[i];
    if (n->op == BE_CONV) {
        int64_t cg = tw->dim[1], mg = tw->dim[0] / g;

        if (g > 1) {
            d[k] = g;
            s[k++] = mg * cg * kernel;
        }
        d[k] = mg;
        s[k++] = cg * kernel;
        d[k] = cg;
        s[k++] = kernel;
    } else {
        int64_t cg = tw->dim[0] / g, mg = tw->dim[1];

        if (g > 1) {
            d[k] = g;
            s[k++] = cg * mg * kernel;
        }
        d[k] = mg;
        s[k++] = kernel;
        d[k] = cg;
        s[k++] = mg * kernel;
    }
    for (uint8_t i = 2; i < tw->rank; i++) {
        kernel /= tw->dim[i];
        d[k] = tw->dim[i];
        s[k++] = kernel;
    }
    return dnnl_memory_desc_init_by_strides(md, k, d, dnnl_f32, s);
}

static dnnl_status_t any(dnnl_memory_desc_t *md, const dnnl_memory_desc_t *like, dnnl_data_type_t t)
{
    return dnnl_memory_desc_init_by_tag(md, like->ndims, like->dims, t, dnnl_format_tag_any);
}

/* Channels in blocks of 16; few channels (an image) as oneDNN likes. */
static dnnl_status_t blocked(dnnl_memory_desc_t *md, const dnnl_memory_desc_t *like)
{
    static const dnnl_format_tag_t tags[] = {dnnl_nCw16c, dnnl_nChw16c, dnnl_nCdhw16c};

    if (like->dims[1] < 16) return dnnl_success;
    return dnnl_memory_desc_init_by_tag(md, like->ndims, like->dims, md->data_type,
                                        tags[like->ndims - 3]);
}

static dnnl_status_t conv_pd(struct maker *m, const struct win *w, const dnnl_memory_desc_t *src,
                             const dnnl_memory_desc_t *wei, const dnnl_memory_desc_t *bias,
                             const dnnl_memory_desc_t *dst)
{
    dnnl_status_t st;

    if (m->n->op == BE_CONV) {
        dnnl_convolution_desc_t cd;

        st = dnnl_dilated_convolution_forward_desc_init(&cd, dnnl_forward_inference,
                                                        dnnl_convolution_auto, src, wei, bias, dst,
                                                        w->stride, w->dilate, w->pad_l, w->pad_r);
        return st == dnnl_success ? pd_make(m, &cd) : st;
    } else {
        dnnl_deconvolution_desc_t dd;

        st = dnnl_dilated_deconvolution_forward_desc_init(
            &dd, dnnl_forward_inference, dnnl_deconvolution_direct, src, wei, bias, dst, w->stride,
            w->dilate, w->pad_l, w->pad_r);
        return st == dnnl_success ? pd_make(m, &dd) : st;
    }
}

enum rc cpu_conv(struct be_plan *p, const struct be_node *n)
{
    struct maker m = {.p = p, .n = n};
    const struct be_tensor *tx = cpu_tensor(p, n->in[0]), *tw = cpu_tensor(p, n->in[1]);
    const struct be_tensor *ty = cpu_tensor(p, n->out);
    dnnl_memory_desc_t x, w, y, ax, aw, ay, bias, *pb = n->in_n > 2 ? &bias : NULL;
    bool back = n->op == BE_CONV_T;
    uint32_t bx, bw, bb = BE_NONE, by;
    dnnl_status_t st;
    struct win win;
    enum rc rc;

    if (!win_make(&n->u.conv.window, back ? ty : tx, back ? tx : ty, &win)) return RC_UNIMPL;
    cpu_md_plain(&x, tx);
    cpu_md_plain(&y, ty);
    if (pb != NULL) cpu_md_plain(&bias, cpu_tensor(p, n->in[2]));
    st = weights_md(n, tw, &w);
    if (st == dnnl_success) st = any(&ax, &x, in_type(p));
    if (st == dnnl_success) st = any(&aw, &w, in_type(p));
    if (st == dnnl_success) st = any(&ay, &y, out_type(p, n->out));
    if (st == dnnl_success && p->blocked) st = blocked(&ax, &x);
    if (st == dnnl_success && p->blocked) st = blocked(&ay, &y);
    if (st == dnnl_success) st = attr_make(&m, n->residual != BE_NONE, 1);
    if (st == dnnl_success) st = conv_pd(&m, &win, &ax, &aw, pb, &ay);
    rc = cpu_dnnl(p, st);
    if (rc == RC_OK) rc = cpu_form_get(p, n->in[0], md_of(&m, dnnl_query_src_md), &bx);
    if (rc == RC_OK) rc = cpu_weights(p, n->in[1], &w, md_of(&m, dnnl_query_weights_md), 1, &bw);
    if (rc == RC_OK && pb != NULL) rc = cpu_form_plain(p, n->in[2], &bb);
    if (rc == RC_OK) rc = dst_make(&m, md_of(&m, dnnl_query_dst_md), &by);
    if (rc == RC_OK) {
        arg_add(&m, DNNL_ARG_SRC, md_of(&m, dnnl_query_src_md), bx);
        arg_add(&m, DNNL_ARG_WEIGHTS, md_of(&m, dnnl_query_weights_md), bw);
        if (pb != NULL) arg_add(&m, DNNL_ARG_BIAS, pb, bb);
        arg_add(&m, DNNL_ARG_DST, md_of(&m, dnnl_query_dst_md), by);
        rc = step_add(&m);
        CHECK(rc != RC_UNIMPL);
    }
    maker_end(&m);
    return rc;
}

enum rc cpu_pool(struct be_plan *p, const struct be_node *n)
{
    static const dnnl_alg_kind_t alg[] = {[BE_POOL_MAX] = dnnl_pooling_max,
                                          [BE_POOL_AVG] = dnnl_pooling_avg_exclude_padding,
                                          [BE_POOL_AVG_PADDED] = dnnl_pooling_avg_include_padding};
    struct maker m = {.p = p, .n = n};
    const struct be_tensor *tx = cpu_tensor(p, n->in[0]), *ty = cpu_tensor(p, n->out);
    const struct cpu_form *f = cpu_first(p, n->in[0]);
    dnnl_memory_desc_t x, y, ay;
    dnnl_pooling_desc_t pd;
    uint32_t bx, by;
    dnnl_status_t st;
    struct win w;
    enum rc rc;

    if (f == NULL || !win_make(&n->u.pool.window, tx, ty, &w)) return RC_UNIMPL;
    for (int i = 0; i < n->u.pool.window.dims; i++)
        if (w.dilate[i] != 0 || w.pad_r[i] < 0) return RC_UNIMPL;
    x = f->md;
    bx = f->buf;
    cpu_md_plain(&y, ty);
    st = any(&ay, &y, x.data_type);
    if (st == dnnl_success) st = attr_make(&m, false, 1);
    if (st == dnnl_success)
        st = dnnl_pooling_forward_desc_init(&pd, dnnl_forward_inference, alg[n->u.pool.kind], &x,
                                            &ay, w.stride, w.kernel, w.pad_l, w.pad_r);
    if (st == dnnl_success) st = pd_make(&m, &pd);
    rc = cpu_dnnl(p, st);
    if (rc == RC_OK) rc = cpu_form_make(p, n->out, md_of(&m, dnnl_query_dst_md), &by);
    if (rc == RC_OK) {
        arg_add(&m, DNNL_ARG_SRC, &x, bx);
        arg_add(&m, DNNL_ARG_DST, md_of(&m, dnnl_query_dst_md), by);
        rc = step_add(&m);
        CHECK(rc != RC_UNIMPL);
    }
    maker_end(&m);
    return rc;
}

/* Products as [batch] x rows x inner by [batch or 1] x inner x cols. */
struct product {
    int64_t batch_a, batch_b, rows, inner, cols;
    bool xa, xb;
};

static bool product_make(const struct be_plan *p, const struct be_node *n, struct product *r)
{
    const struct be_tensor *ta = cpu_tensor(p, n->in[0]), *tb = cpu_tensor(p, n->in[1]);
    const struct be_tensor *ty = cpu_tensor(p, n->out);
    uint64_t ba, bb, by;

    *r = (struct product){.xa = n->u.matmul.trans_a,
                          .xb = n->u.matmul.trans_b,
                          .rows = ty->dim[ty->rank - 2],
                          .cols = ty->dim[ty->rank - 1]};
    r->inner = ta->dim[ta->rank - (r->xa ? 2 : 1)];
    ba = be_tensor_count(ta) / (uint64_t)(r->rows * r->inner);
    bb = be_tensor_count(tb) / (uint64_t)(r->inner * r->cols);
    by = be_tensor_count(ty) / (uint64_t)(r->rows * r->cols);
    if (bb == 1 && ba == by && !r->xa) { /* all rows by one matrix */
        r->rows *= (int64_t)ba;
        r->batch_a = r->batch_b = 1;
        return true;
    }
    r->batch_a = (int64_t)ba;
    r->batch_b = (int64_t)bb;
    return ba == by && (bb == 1 || (bb == ba && ta->rank == tb->rank));
}

static dnnl_status_t product_md(dnnl_memory_desc_t *md, int nd, int64_t batch, int64_t rows,
                                int64_t cols, bool transposed)
{
    dnnl_dims_t d = {batch, rows, cols}, s = {rows * cols, cols, 1};

    if (transposed) {
        s[1] = 1;
        s[2] = rows;
    }
    return dnnl_memory_desc_init_by_strides(md, nd, nd == 3 ? d : d + 1, dnnl_f32,
                                            nd == 3 ? s : s + 1);
}

/* c is a row of y, as a bias with the same factor as the product's, or it can
 * be made so. */
static bool bias_fits(const struct be_plan *p, const struct be_node *n)
{
    const struct be_tensor *tc = cpu_tensor(p, n->in[2]), *ty = cpu_tensor(p, n->out);

    return tc->rank > 0 && tc->dim[tc->rank - 1] == ty->dim[ty->rank - 1] &&
           be_tensor_count(tc) == (uint64_t)ty->dim[ty->rank - 1] &&
           (tc->konst != NULL || (n->u.matmul.beta >= 1 && n->u.matmul.beta <= 1));
}

enum rc cpu_matmul(struct be_plan *p, const struct be_node *n)
{
    struct maker m = {.p = p, .n = n};
    bool konst = cpu_tensor(p, n->in[1])->konst != NULL, bias = n->in_n > 2;
    float alpha = n->u.matmul.alpha;
    dnnl_memory_desc_t a = {0}, b = {0}, y = {0}, aa, ab, ay, md_bias, own;
    uint32_t ba, bb, bc = BE_NONE, by;
    dnnl_matmul_desc_t mm;
    struct product d;
    dnnl_status_t st;
    dnnl_dims_t one = {1, 1, 1};
    int nd;
    enum rc rc;

    if (!product_make(p, n, &d) || (bias && !bias_fits(p, n))) return RC_UNIMPL;
    if (bias && !konst && (alpha < 1 || alpha > 1)) return RC_UNIMPL;
    nd = d.batch_a == 1 && d.batch_b == 1 ? 2 : 3;
    one[nd - 1] = d.cols;
    st = product_md(&a, nd, d.batch_a, d.rows, d.inner, d.xa);
    if (st == dnnl_success) st = product_md(&b, nd, d.batch_b, d.inner, d.cols, d.xb);
    if (st == dnnl_success) st = product_md(&y, nd, d.batch_a, d.rows, d.cols, false);
    aa = a;
    ab = b;
    ay = y;
    aa.data_type = ab.data_type = in_type(p); /* as they lie; bf16 by a reorder before */
    if (st == dnnl_success && konst) st = any(&ab, &b, in_type(p));
    if (st == dnnl_success)
        st =
            dnnl_memory_desc_init_by_tag(&md_bias, nd, one, dnnl_f32, nd == 2 ? dnnl_ab : dnnl_abc);
    if (st == dnnl_success) st = attr_make(&m, n->residual != BE_NONE, konst ? 1 : alpha);
    if (st == dnnl_success) st = dnnl_matmul_desc_init(&mm, &aa, &ab, bias ? &md_bias : NULL, &ay);
    if (st == dnnl_success) st = pd_make(&m, &mm);
    rc = cpu_dnnl(p, st);
    if (rc == RC_OK) rc = cpu_form_plain(p, n->in[0], &ba);
    if (rc == RC_OK) {
        if (konst)
            rc = cpu_weights(p, n->in[1], &b, md_of(&m, dnnl_query_weights_md), alpha, &bb);
        else
            rc = cpu_form_plain(p, n->in[1], &bb);
    }
    if (rc == RC_OK && in_type(p) != dnnl_f32) rc = cpu_convert(p, &a, &aa, &ba);
    if (rc == RC_OK && in_type(p) != dnnl_f32 && !konst) rc = cpu_convert(p, &b, &ab, &bb);
    if (rc == RC_OK && bias) {
        cpu_md_plain(&own, cpu_tensor(p, n->in[2]));
        rc = n->u.matmul.beta < 1 || n->u.matmul.beta > 1
                 ? cpu_weights(p, n->in[2], &own, &own, n->u.matmul.beta, &bc)
                 : cpu_form_plain(p, n->in[2], &bc);
    }
    cpu_md_plain(&own, cpu_tensor(p, n->out));
    if (rc == RC_OK) rc = dst_make(&m, &own, &by);
    if (rc == RC_OK) {
        arg_add(&m, DNNL_ARG_SRC, &aa, ba);
        arg_add(&m, DNNL_ARG_WEIGHTS, md_of(&m, dnnl_query_weights_md), bb);
        if (bias) arg_add(&m, DNNL_ARG_BIAS, &md_bias, bc);
        arg_add(&m, DNNL_ARG_DST, &ay, by);
        rc = step_add(&m);
        CHECK(rc != RC_UNIMPL);
    }
    maker_end(&m);
    return rc;
}

enum rc cpu_softmax(struct be_plan *p, const struct be_node *n)
{
    struct be_node none = {.act = BE_ACT_NONE};
    struct maker m = {.p = p, .n = &none};
    const struct be_tensor *t = cpu_tensor(p, n->out);
    dnnl_dims_t d = {1, 1, 1}, s;
    dnnl_softmax_desc_t sd;
    dnnl_memory_desc_t md;
    dnnl_status_t st;
    uint32_t bx, by;
    enum rc rc;

    for (uint8_t i = 0; i < t->rank; i++)
        d[i < n->u.softmax.axis ? 0 : i < n->u.softmax.axis_end ? 1 : 2] *= t->dim[i];
    s[2] = 1;
    s[1] = d[2];
    s[0] = d[1] * d[2];
    st = dnnl_memory_desc_init_by_strides(&md, 3, d, dnnl_f32, s);
    if (st == dnnl_success && d[2] == 1)
        st = dnnl_memory_desc_init_by_strides(&md, 2, d, dnnl_f32, s);
    if (st == dnnl_success)
        st = dnnl_softmax_forward_desc_init(&sd, dnnl_forward_inference, &md, 1);
    if (st == dnnl_success) st = attr_make(&m, false, 1);
    if (st == dnnl_success) st = pd_make(&m, &sd);
    rc = cpu_dnnl(p, st);
    if (rc == RC_OK) rc = cpu_form_plain(p, n->in[0], &bx);
    if (rc == RC_OK) rc = cpu_form_make_plain(p, n->out, &by);
    if (rc == RC_OK) {
        arg_add(&m, DNNL_ARG_SRC, &md, bx);
        arg_add(&m, DNNL_ARG_DST, &md, by);
        rc = step_add(&m);
        CHECK(rc != RC_UNIMPL);
    }
    maker_end(&m);
    return rc;
}
