/* computed/onnx/fuse.c - shortens a lowered graph. Two walks over the nodes in order, each after a
 * count of who reads what:
 *
 *   fold_one   nodes over constants are computed with the reference; what exporters write out in
 *              small steps becomes the one node it means
 *   merge_one  a node whose only reader's work the maker can do as well takes that work over
 *
 * The maker then runs where it ran before and gives the reader's output: order stays valid. A
 * residual must therefore be made before the maker runs. A value that somebody else reads, or that
 * is an output, is never merged away. */
#include "computed/backend/ref/ref.h"
#include "computed/onnx/lower_priv.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define FOLD_ELEMENTS_MAX (UINT64_C(1) << 22)
#define NEW_PER_NODE      4u /* constants that one node's merging makes at most */

struct fuse {
    struct lower *l;
    struct be_node *node;
    uint32_t *maker; /* tensor -> node, or BE_NONE */
    uint32_t *uses;  /* readers, plus one per graph output */
    void **data;     /* for ref_run: of constants */
};

static const struct be_tensor *tensor(const struct fuse *f, uint32_t t)
{
    return &f->l->p->tensor[t];
}

static bool is_dead(const struct be_node *n)
{
    return n->op == BE_OP_N;
}

/* Who reads what; a node whose output nobody reads is dead. From the end, since nodes are in
 * order. */
static void count_uses(struct fuse *f)
{
    struct be_graph *g = f->l->g;

    memset(f->uses, 0, g->tensor_n * sizeof(*f->uses));
    for (uint32_t t = 0; t < g->tensor_n; t++)
        f->maker[t] = BE_NONE;
    for (uint32_t i = 0; i < g->output_n; i++)
        f->uses[g->output[i]]++;
    for (uint32_t i = g->node_n; i-- > 0;) {
        struct be_node *n = &f->node[i];

        if (is_dead(n)) continue;
        if (f->uses[n->out] == 0) {
            n->op = BE_OP_N;
            continue;
        }
        f->maker[n->out] = i;
        for (uint32_t k = 0; k < n->in_n; k++)
            f->uses[n->in[k]]++;
        if (n->residual != BE_NONE) f->uses[n->residual]++;
    }
}

static struct be_node *maker_of(struct fuse *f, uint32_t t)
{
    return f->maker[t] == BE_NONE ? NULL : &f->node[f->maker[t]];
}

/* The node that made t, when it is op and nobody else reads t. */
static struct be_node *only(struct fuse *f, uint32_t t, enum be_op op)
{
    struct be_node *n = maker_of(f, t);

    return n != NULL && n->op == op && f->uses[t] == 1 ? n : NULL;
}

static struct be_node *only_binary(struct fuse *f, uint32_t t, enum be_binary op)
{
    struct be_node *n = only(f, t, BE_BINARY);

    return n != NULL && n->u.binary == op && n->act == BE_ACT_NONE ? n : NULL;
}

static bool scalar_get(const struct fuse *f, uint32_t t, float *ret)
{
    const struct be_tensor *k = tensor(f, t);

    if (k->konst == NULL || k->dtype != BE_F32 || be_tensor_count(k) != 1) return false;
    memcpy(ret, k->konst, sizeof(*ret));
    return true;
}

static bool scalar_is(const struct fuse *f, uint32_t t, double v)
{
    float k;

    return scalar_get(f, t, &k) && fabs((double)k - v) <= 1e-6 * fabs(v);
}

static bool same_shape(const struct be_tensor *a, const struct be_tensor *b)
{
    return a->rank == b->rank && memcmp(a->dim, b->dim, a->rank * sizeof(*a->dim)) == 0;
}

static enum rc inputs_set(struct fuse *f, struct be_node *n, const uint32_t *in, uint32_t in_n)
{
    uint32_t *list = lower_own(f->l, in_n * sizeof(*list));

    if (list == NULL) return lower_nomem(f->l);
    memcpy(list, in, in_n * sizeof(*list));
    n->in = list;
    n->in_n = in_n;
    return RC_OK;
}

static enum rc konst_new(struct fuse *f, uint8_t rank, const int64_t *dim, float **ret_data,
                         uint32_t *ret)
{
    enum rc rc = lower_konst(f->l, BE_F32, rank, dim, ret_data, ret);

    if (rc != RC_OK) return rc;
    f->maker[*ret] = BE_NONE;
    f->uses[*ret] = 1;
    return RC_OK;
}

/* ---- constants ---- */
static enum rc fold_konst(struct fuse *f, struct be_node *n)
{
    struct be_tensor *ty = &f->l->p->tensor[n->out];
    uint64_t count = be_tensor_count(ty);
    struct be_graph g = *f->l->g;
    struct err ignored;
    void *p;

    if (n->in_n == 0 || n->residual != BE_NONE || count > FOLD_ELEMENTS_MAX || n->op == BE_CONV ||
        n->op == BE_CONV_T || n->op == BE_MATMUL)
        return RC_OK;
    for (uint32_t k = 0; k < n->in_n; k++)
        if (tensor(f, n->in[k])->konst == NULL) return RC_OK;
    if (n->op == BE_VIEW) {
        ty->konst = tensor(f, n->in[0])->konst;
        n->op = BE_OP_N;
        return RC_OK;
    }
    g.tensor = f->l->p->tensor;
    g.node = f->node;
    if (ref_check(&g, n, &ignored) != RC_OK) return RC_OK;
    p = lower_own(f->l, (size_t)count * be_dtype_bytes(ty->dtype));
    if (p == NULL) return lower_nomem(f->l);
    for (uint32_t k = 0; k < n->in_n; k++)
        f->data[n->in[k]] = (void *)(uintptr_t)tensor(f, n->in[k])->konst;
    f->data[n->out] = p;
    ref_run(&g, n, f->data);
    ty->konst = p;
    n->op = BE_OP_N;
    return RC_OK;
}

/* ---- patterns ---- */
static enum rc become_act(struct fuse *f, struct be_node *n, uint32_t x, enum be_act act)
{
    n->op = BE_UNARY;
    n->u.unary = BE_ACT;
    n->act = act;
    return inputs_set(f, n, &x, 1);
}

/* x * sigmoid(x); x * hard_sigmoid(x) with 1/6 and 1/2 */
static bool is_swish(struct fuse *f, const struct be_node *n, int k, enum be_act *ret)
{
    uint32_t x = n->in[k];
    struct be_node *s = only(f, n->in[1 - k], BE_UNARY);

    if (s == NULL || s->in[0] != x || s->u.unary != BE_ACT) return false;
    *ret = BE_ACT_SWISH;
    if (s->act == BE_ACT_SIGMOID) return true;
    *ret = BE_ACT_HARD_SWISH;
    return s->act == BE_ACT_HARD_SIGMOID && fabsf(s->lo - 1.0f / 6) < 1e-6f &&
           fabsf(s->hi - 0.5f) < 1e-6f;
}

/* 1 + erf(x / sqrt 2), or 1 + erf(x * (1 / sqrt 2)): *ret_x */
static bool is_erf_part(struct fuse *f, uint32_t t, uint32_t *ret_x)
{
    struct be_node *add = only_binary(f, t, BE_ADD), *erf = NULL, *div;

    for (int k = 0; add != NULL && erf == NULL && k < 2; k++)
        if (scalar_is(f, add->in[k], 1)) erf = only(f, add->in[1 - k], BE_UNARY);
    if (erf == NULL || erf->u.unary != BE_ERF || erf->act != BE_ACT_NONE) return false;
    div = only_binary(f, erf->in[0], BE_DIV);
    if (div != NULL && scalar_is(f, div->in[1], 1.41421356237309504880)) {
        *ret_x = div->in[0];
        return true;
    }
    div = only_binary(f, erf->in[0], BE_MUL);
    for (int k = 0; div != NULL && k < 2; k++) {
        if (!scalar_is(f, div->in[k], 0.70710678118654752440)) continue;
        *ret_x = div->in[1 - k];
        return true;
    }
    return false;
}

/* (x * e) * 0.5, (x * 0.5) * e, with e from above */
static bool is_gelu(struct fuse *f, const struct be_node *n, int k, uint32_t *ret_x)
{
    struct be_node *mul;

    if (scalar_is(f, n->in[k], 0.5)) {
        mul = only_binary(f, n->in[1 - k], BE_MUL);
        for (int i = 0; mul != NULL && i < 2; i++)
            if (is_erf_part(f, mul->in[i], ret_x) && mul->in[1 - i] == *ret_x) return true;
        return false;
    }
    mul = only_binary(f, n->in[1 - k], BE_MUL);
    for (int i = 0; mul != NULL && i < 2; i++)
        if (scalar_is(f, mul->in[i], 0.5) && is_erf_part(f, n->in[k], ret_x) &&
            mul->in[1 - i] == *ret_x)
            return true;
    return false;
}

/* The mean over the last dims, kept as 1; *ret_axis: the first of them. */
static bool is_mean(struct fuse *f, const struct be_node *n, uint32_t x, uint8_t *ret_axis)
{
    uint8_t rank = tensor(f, x)->rank;
    uint32_t axes = n->u.reduce.axes;
    uint8_t axis = 0;

    if (n->op != BE_REDUCE || n->u.reduce.kind != BE_REDUCE_MEAN || n->in[0] != x ||
        tensor(f, n->out)->rank != rank)
        return false;
    while (axis < rank && (axes >> axis & 1) == 0)
        axis++;
    *ret_axis = axis;
    return axis < rank && axes == ((1u << rank) - 1) - ((1u << axis) - 1);
}

/* d / sqrt(mean(d ^ 2) + eps), d = x - mean(x): what exporters before opset 17 write for
 * LayerNormalization without its scale and shift. */
static enum rc fold_layernorm(struct fuse *f, struct be_node *n, bool *ret_done)
{
    struct be_node *sub = maker_of(f, n->in[0]), *root = only(f, n->in[1], BE_UNARY);
    struct be_node *add, *mean, *pow, *of = NULL;
    uint32_t in[2], eps_at = 0;
    uint8_t axis, again;
    uint64_t len = 1;
    float eps, *ones;
    enum rc rc;

    if (sub == NULL || sub->op != BE_BINARY || sub->u.binary != BE_SUB || root == NULL ||
        root->u.unary != BE_SQRT || root->act != BE_ACT_NONE || f->uses[n->in[0]] != 2)
        return RC_OK;
    add = only_binary(f, root->in[0], BE_ADD);
    if (add == NULL) return RC_OK;
    if (!scalar_get(f, add->in[1], &eps)) eps_at = 1;
    if (eps_at == 1 && !scalar_get(f, add->in[0], &eps)) return RC_OK;
    mean = only(f, add->in[eps_at], BE_REDUCE);
    pow = mean == NULL ? NULL : only(f, mean->in[0], BE_BINARY);
    of = only(f, sub->in[1], BE_REDUCE);
    if (pow == NULL || of == NULL || pow->in[0] != n->in[0] || pow->act != BE_ACT_NONE ||
        !((pow->u.binary == BE_POW && scalar_is(f, pow->in[1], 2)) ||
          (pow->u.binary == BE_MUL && pow->in[1] == n->in[0])) ||
        !is_mean(f, of, sub->in[0], &axis) || !is_mean(f, mean, pow->out, &again) || again != axis)
        return RC_OK;
    for (uint8_t i = axis; i < tensor(f, n->out)->rank; i++)
        len *= (uint64_t)tensor(f, n->out)->dim[i];
    in[0] = sub->in[0];
    rc = konst_new(f, (uint8_t)(tensor(f, n->out)->rank - axis), tensor(f, n->out)->dim + axis,
                   &ones, &in[1]);
    if (rc != RC_OK) return rc;
    for (uint64_t i = 0; i < len; i++)
        ones[i] = 1;
    n->op = BE_LNORM;
    n->u.norm.eps = eps;
    n->u.norm.axis = axis;
    *ret_done = true;
    return inputs_set(f, n, in, 2);
}

static enum rc fold_one(struct fuse *f, struct be_node *n)
{
    enum rc rc = fold_konst(f, n);
    bool done = false;

    if (rc != RC_OK || n->op != BE_BINARY) return rc;
    if (n->u.binary == BE_DIV) return fold_layernorm(f, n, &done);
    for (int k = 0; n->u.binary == BE_MUL && k < 2; k++) {
        enum be_act act;
        uint32_t x;

        if (is_swish(f, n, k, &act)) return become_act(f, n, n->in[k], act);
        if (is_gelu(f, n, k, &x)) return become_act(f, n, x, BE_ACT_GELU);
    }
    return RC_OK;
}

/* ---- merging ---- */

/* Channel of y for element i of the weights. */
static uint64_t weight_channel(const struct be_node *c, const struct be_tensor *w, uint64_t i)
{
    uint64_t per = be_tensor_count(w) / (uint64_t)w->dim[0];

    if (c->op == BE_CONV) return i / per;
    {
        uint64_t mg = (uint64_t)w->dim[1], kernel = per / mg;
        uint64_t in_group = (uint64_t)w->dim[0] / (uint64_t)c->u.conv.groups;

        return i / per / in_group * mg + i / kernel % mg;
    }
}

/* Weights and bias times scale, plus shift: new constants in the node's place. */
static enum rc conv_scale(struct fuse *f, struct be_node *c, const float *scale, const float *shift,
                          int64_t channels)
{
    struct be_tensor w = *tensor(f, c->in[1]);
    const float *old = w.konst, *bias = c->in_n > 2 ? tensor(f, c->in[2])->konst : NULL;
    uint64_t total = be_tensor_count(&w);
    uint32_t in[3] = {c->in[0]};
    float *neww, *newb;
    enum rc rc = konst_new(f, w.rank, w.dim, &neww, &in[1]);

    if (rc == RC_OK) rc = konst_new(f, 1, &channels, &newb, &in[2]);
    if (rc != RC_OK) return rc;
    for (uint64_t i = 0; i < total; i++)
        neww[i] = old[i] * scale[weight_channel(c, &w, i)];
    for (int64_t m = 0; m < channels; m++)
        newb[m] = (bias == NULL ? 0 : bias[m]) * scale[m] + shift[m];
    return inputs_set(f, c, in, 3);
}

static bool bare(const struct be_node *n)
{
    return n != NULL && n->act == BE_ACT_NONE && n->residual == BE_NONE;
}

/* n's work is done by maker m. */
static enum rc taken(struct fuse *f, struct be_node *m, struct be_node *n)
{
    m->out = n->out;
    f->maker[n->out] = (uint32_t)(m - f->node);
    n->op = BE_OP_N;
    return RC_OK;
}

static enum rc merge_affine(struct fuse *f, struct be_node *n)
{
    struct be_node *c = only(f, n->in[0], BE_CONV);
    enum rc rc;

    if (c == NULL) c = only(f, n->in[0], BE_CONV_T);
    if (!bare(c) || tensor(f, c->in[1])->konst == NULL ||
        (c->in_n > 2 && tensor(f, c->in[2])->konst == NULL))
        return RC_OK;
    rc = conv_scale(f, c, tensor(f, n->in[1])->konst, tensor(f, n->in[2])->konst,
                    tensor(f, n->in[1])->dim[0]);
    return rc != RC_OK ? rc : taken(f, c, n);
}

/* Scale or shift of a LayerNormalization that was written out. */
static enum rc merge_into_lnorm(struct fuse *f, struct be_node *n, struct be_node *m, uint32_t k,
                                bool *ret_done)
{
    const struct be_tensor *ks = tensor(f, m->in[1]), *kt = tensor(f, k);
    uint32_t in[3] = {m->in[0], m->in[1], k};
    bool mul = n->u.binary == BE_MUL, add = n->u.binary == BE_ADD;
    float *scale;
    enum rc rc;

    if (!bare(m) || m->in_n != 2 || (!mul && !add) || ks->konst == NULL || kt->konst == NULL ||
        !same_shape(ks, kt))
        return RC_OK;
    if (mul) {
        uint64_t len = be_tensor_count(kt);

        rc = konst_new(f, kt->rank, kt->dim, &scale, &in[1]);
        if (rc != RC_OK) return rc;
        for (uint64_t i = 0; i < len; i++)
            scale[i] = ((const float *)tensor(f, m->in[1])->konst)[i] *
                       ((const float *)tensor(f, k)->konst)[i];
    }
    rc = inputs_set(f, m, in, add ? 3 : 2);
    *ret_done = true;
    return rc != RC_OK ? rc : taken(f, m, n);
}

/* A row to add, or a number to multiply with, of a product. */
static enum rc merge_into_matmul(struct fuse *f, struct be_node *n, struct be_node *m, int at,
                                 bool *ret_done)
{
    uint32_t k = n->in[1 - at], in[3] = {m->in[0], m->in[1], k};
    const struct be_tensor *kt = tensor(f, k), *ty = tensor(f, m->out);
    bool div = n->u.binary == BE_DIV && at == 0;
    float v;
    enum rc rc = RC_OK;

    if (!bare(m) || !same_shape(ty, tensor(f, n->out))) return RC_OK;
    if ((n->u.binary == BE_MUL || div) && scalar_get(f, k, &v) && kt->rank <= ty->rank) {
        m->u.matmul.alpha = div ? m->u.matmul.alpha / v : m->u.matmul.alpha * v;
        if (m->in_n > 2) m->u.matmul.beta = div ? m->u.matmul.beta / v : m->u.matmul.beta * v;
    } else if (n->u.binary == BE_ADD && kt->konst != NULL && m->in_n == 2 && kt->rank > 0 &&
               kt->rank <= ty->rank && kt->dim[kt->rank - 1] == ty->dim[ty->rank - 1] &&
               be_tensor_count(kt) == (uint64_t)ty->dim[ty->rank - 1]) {
        m->u.matmul.beta = 1;
        rc = inputs_set(f, m, in, 3);
    } else {
        return RC_OK;
    }
    *ret_done = true;
    return rc != RC_OK ? rc : taken(f, m, n);
}

/* The later of the two makers takes the sum over, since only then the other operand is there. */
static enum rc merge_residual(struct fuse *f, struct be_node *n)
{
    struct be_node *best = NULL;
    uint32_t other = BE_NONE;

    for (int k = 0; k < 2; k++) {
        struct be_node *m = only(f, n->in[k], BE_CONV);
        uint32_t o = n->in[1 - k];

        if (m == NULL) m = only(f, n->in[k], BE_MATMUL);
        if (!bare(m) || tensor(f, o)->konst != NULL || o == n->in[k] ||
            !same_shape(tensor(f, o), tensor(f, m->out)) ||
            (f->maker[o] != BE_NONE && &f->node[f->maker[o]] >= m))
            continue;
        best = m;
        other = o;
    }
    if (best == NULL) return RC_OK;
    best->residual = other;
    return taken(f, best, n);
}

static enum rc merge_binary(struct fuse *f, struct be_node *n)
{
    bool done = false;
    enum rc rc = RC_OK;

    if (n->act != BE_ACT_NONE) return RC_OK;
    for (int k = 0; k < 2 && !done && rc == RC_OK; k++) {
        struct be_node *m = only(f, n->in[k], BE_LNORM);

        if (m != NULL) {
            rc = merge_into_lnorm(f, n, m, n->in[1 - k], &done);
        } else {
            m = only(f, n->in[k], BE_MATMUL);
            if (m != NULL) rc = merge_into_matmul(f, n, m, k, &done);
        }
    }
    return rc != RC_OK || done || n->u.binary != BE_ADD ? rc : merge_residual(f, n);
}

static enum rc merge_one(struct fuse *f, struct be_node *n)
{
    struct be_node *m;

    if (n->op == BE_AFFINE) return merge_affine(f, n);
    if (n->op == BE_BINARY) return merge_binary(f, n);
    if (n->op != BE_UNARY || n->u.unary != BE_ACT) return RC_OK;
    m = maker_of(f, n->in[0]);
    if (m == NULL || f->uses[n->in[0]] != 1 || m->act != BE_ACT_NONE ||
        (m->op != BE_CONV && m->op != BE_CONV_T && m->op != BE_MATMUL && m->op != BE_UNARY &&
         m->op != BE_BINARY && m->op != BE_AFFINE && m->op != BE_INORM && m->op != BE_LNORM))
        return RC_OK;
    m->act = n->act;
    m->lo = n->lo;
    m->hi = n->hi;
    return taken(f, m, n);
}

/* Drops dead nodes, and the constants that nobody reads any more. */
static void tidy(struct fuse *f)
{
    struct be_graph *g = f->l->g;
    uint32_t k = 0;

    count_uses(f);
    for (uint32_t i = 0; i < g->node_n; i++)
        if (!is_dead(&f->node[i])) f->node[k++] = f->node[i];
    g->node_n = k;
    for (uint32_t t = 0; t < g->tensor_n; t++)
        if (f->uses[t] == 0) f->l->p->tensor[t].konst = NULL;
}

enum rc fuse(struct lower *l)
{
    uint32_t cap = l->g->tensor_n + NEW_PER_NODE * l->g->node_n + 1;
    struct fuse f = {.l = l, .node = l->p->node};
    enum rc rc = RC_OK;

    f.maker = malloc(cap * sizeof(*f.maker));
    f.uses = malloc(cap * sizeof(*f.uses));
    f.data = calloc(cap, sizeof(*f.data));
    if (f.maker == NULL || f.uses == NULL || f.data == NULL) rc = lower_nomem(l);
    if (rc == RC_OK) count_uses(&f);
    for (uint32_t i = 0; rc == RC_OK && i < l->g->node_n; i++)
        if (!is_dead(&f.node[i])) rc = fold_one(&f, &f.node[i]);
    if (rc == RC_OK) count_uses(&f);
    for (uint32_t i = 0; rc == RC_OK && i < l->g->node_n; i++)
        if (!is_dead(&f.node[i])) rc = merge_one(&f, &f.node[i]);
    if (rc == RC_OK) tidy(&f);
    free(f.maker);
    free(f.uses);
    free(f.data);
    return rc;
}
