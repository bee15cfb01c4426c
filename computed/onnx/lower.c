/* computed/onnx/lower.c - see lower.h: the frame, and the operators that compute. */
#include "computed/onnx/lower_priv.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

void *lower_own(struct lower *l, size_t n)
{
    struct owned *o = NULL;

    if (n < SIZE_MAX / 2) o = aligned_alloc(64, ROUND_UP(sizeof(*o) + n, (size_t)64));
    if (o == NULL) return NULL;
    o->next = l->p->owned;
    l->p->owned = o;
    return o->data;
}

enum rc lower_nomem(struct lower *l)
{
    return err_set(l->reterr, RC_NOMEM, "lowering the model");
}

enum rc lower_tensor_new(struct lower *l, const struct be_tensor *t, uint32_t *ret)
{
    if (l->g->tensor_n == l->p->tensor_cap) {
        uint32_t cap = MAX(64, 2 * l->p->tensor_cap);
        void *p = realloc(l->p->tensor, cap * sizeof(*t));

        if (p == NULL) return lower_nomem(l);
        l->p->tensor = p;
        l->p->tensor_cap = cap;
    }
    l->p->tensor[l->g->tensor_n] = *t;
    *ret = l->g->tensor_n++;
    return RC_OK;
}

enum rc lower_tensor_of(struct lower *l, uint32_t v, uint32_t *ret)
{
    const struct model_value *val = &l->m->value[v];
    struct be_tensor t = {.name = val->name, .rank = l->shape[v].rank};
    enum rc rc;

    if (l->map[v] != BE_NONE) {
        *ret = l->map[v];
        return RC_OK;
    }
    switch (val->dtype) {
    case MODEL_F32:
        t.dtype = BE_F32;
        break;
    case MODEL_U8:
        t.dtype = BE_U8;
        break;
    case MODEL_I32:
        t.dtype = BE_I32;
        break;
    case MODEL_I64:
        t.dtype = BE_I64;
        break;
    case MODEL_BOOL:
        t.dtype = BE_BOOL;
        break;
    default:
        return err_set(l->reterr, RC_UNIMPL, "value '%.100s' has type %s", val->name,
                       model_dtype_name(val->dtype));
    }
    memcpy(t.dim, l->shape[v].dim, sizeof(t.dim));
    if (val->konst != NULL) {
        t.konst = val->konst->data;
    } else if (l->s->host[v] != NULL) { /* follows from shapes */
        void *p = lower_own(l, MODEL_HOST_MAX * 8);

        if (p == NULL) return lower_nomem(l);
        if (!model_shapes_known(l->s, v, p))
            return err_set(l->reterr, RC_INTERNAL, "value '%.100s' is not known", val->name);
        t.konst = p;
    }
    rc = lower_tensor_new(l, &t, &l->map[v]);
    if (rc == RC_OK) *ret = l->map[v];
    return rc;
}

enum rc lower_konst(struct lower *l, enum be_dtype t, uint8_t rank, const int64_t *dim,
                    void *ret_data, uint32_t *ret)
{
    struct be_tensor k = {.dtype = t, .rank = rank, .name = "made here"};
    void *p;

    if (rank > 0) memcpy(k.dim, dim, rank * sizeof(*dim));
    p = lower_own(l, (size_t)be_tensor_count(&k) * be_dtype_bytes(t));
    if (p == NULL) return lower_nomem(l);
    k.konst = p;
    memcpy(ret_data, &p, sizeof(p));
    return lower_tensor_new(l, &k, ret);
}

enum rc lower_node(struct lower *l, const struct be_node *proto, const uint32_t *in, uint32_t in_n,
                   uint32_t out, struct be_node **ret)
{
    uint32_t *list = lower_own(l, MAX(in_n, 1) * sizeof(*in));
    struct be_node *n;

    if (list == NULL) return lower_nomem(l);
    if (l->g->node_n == l->p->node_cap) {
        uint32_t cap = MAX(64, 2 * l->p->node_cap);
        void *p = realloc(l->p->node, cap * sizeof(*n));

        if (p == NULL) return lower_nomem(l);
        l->p->node = p;
        l->p->node_cap = cap;
    }
    memcpy(list, in, in_n * sizeof(*in));
    n = &l->p->node[l->g->node_n++];
    *n = *proto;
    n->in = list;
    n->in_n = in_n;
    n->out = out;
    n->residual = BE_NONE;
    if (ret != NULL) *ret = n;
    return RC_OK;
}

enum rc lower_emit(struct lower *l, const struct model_node *n, struct be_node *proto,
                   uint32_t in_n)
{
    uint32_t in[4], out, k = 0;
    enum rc rc;

    CHECK(in_n <= ARRAY_N(in));
    for (uint32_t i = 0; i < in_n; i++) {
        if (n->in[i] == MODEL_NONE) continue;
        rc = lower_tensor_of(l, n->in[i], &in[k++]);
        if (rc != RC_OK) return rc;
    }
    rc = lower_tensor_of(l, n->out[0], &out);
    if (rc != RC_OK) return rc;
    proto->name = n->name;
    return lower_node(l, proto, in, k, out, NULL);
}

static void window_copy(struct be_window *d, const struct model_window *s)
{
    d->dims = s->dims;
    for (uint8_t i = 0; i < s->dims; i++) {
        d->kernel[i] = s->kernel[i];
        d->stride[i] = s->stride[i];
        d->dilation[i] = s->dilation[i];
        d->pad_begin[i] = s->pad_begin[i];
        d->pad_end[i] = s->pad_end[i];
    }
}

static enum rc lower_conv(struct lower *l, const struct model_node *n)
{
    bool back = n->op == MODEL_OP_ConvTranspose;
    struct be_node b = {.op = back ? BE_CONV_T : BE_CONV};
    const struct model_shape *x = &l->shape[n->in[0]], *wt = &l->shape[n->in[1]];
    struct model_window w;
    enum rc rc = back ? model_window_transposed(n, x, wt, &w, l->reterr)
                      : model_window(n, x, wt, &w, l->reterr);

    if (rc != RC_OK) return rc;
    window_copy(&b.u.conv.window, &w);
    b.u.conv.groups = model_attr_i(n, "group", 1);
    return lower_emit(l, n, &b, n->in_n);
}

static enum rc lower_pool(struct lower *l, const struct model_node *n)
{
    const struct model_shape *x = &l->shape[n->in[0]];
    bool global = n->op == MODEL_OP_GlobalAveragePool || n->op == MODEL_OP_GlobalMaxPool;
    bool top = n->op == MODEL_OP_MaxPool || n->op == MODEL_OP_GlobalMaxPool;
    bool padded = model_attr_i(n, "count_include_pad", 0) != 0;
    struct be_node b = {.op = BE_POOL};
    struct model_window w;
    enum rc rc;

    if (global) { /* the mean or maximum over all spatial dims, of any number */
        b.op = BE_REDUCE;
        b.u.reduce.kind = top ? BE_REDUCE_MAX : BE_REDUCE_MEAN;
        b.u.reduce.axes = (1u << x->rank) - 4u;
        return lower_emit(l, n, &b, 1);
    }
    rc = model_window(n, x, NULL, &w, l->reterr);
    if (rc != RC_OK) return rc;
    window_copy(&b.u.pool.window, &w);
    b.u.pool.kind = top ? BE_POOL_MAX : padded ? BE_POOL_AVG_PADDED : BE_POOL_AVG;
    return lower_emit(l, n, &b, 1);
}

/* Source: BatchNormalization-15, inference: y = (x - mean) / sqrt(var +
 * epsilon) * gamma + beta */
static enum rc lower_batchnorm(struct lower *l, const struct model_node *n)
{
    const float *gamma = l->m->value[n->in[1]].konst->data,
                *beta = l->m->value[n->in[2]].konst->data;
    const float *mean = l->m->value[n->in[3]].konst->data, *var = l->m->value[n->in[4]].konst->data;
    double eps = (double)model_attr_f(n, "epsilon", 1e-5f);
    int64_t c = l->shape[n->in[1]].dim[0];
    struct be_node b = {.op = BE_AFFINE, .name = n->name};
    float *scale, *shift;
    uint32_t in[3], out;
    enum rc rc = lower_konst(l, BE_F32, 1, &c, &scale, &in[1]);

    if (rc == RC_OK) rc = lower_konst(l, BE_F32, 1, &c, &shift, &in[2]);
    if (rc == RC_OK) rc = lower_tensor_of(l, n->in[0], &in[0]);
    if (rc == RC_OK) rc = lower_tensor_of(l, n->out[0], &out);
    if (rc != RC_OK) return rc;
    for (int64_t i = 0; i < c; i++) {
        double k = (double)gamma[i] / sqrt((double)var[i] + eps);

        scale[i] = (float)k;
        shift[i] = (float)((double)beta[i] - (double)mean[i] * k);
    }
    return lower_node(l, &b, in, 3, out, NULL);
}

static enum rc lower_act(struct lower *l, const struct model_node *n, enum be_act act)
{
    struct be_node b = {.op = BE_UNARY, .act = act, .lo = -INFINITY, .hi = INFINITY};

    b.u.unary = BE_ACT;
    if (act == BE_ACT_LEAKY_RELU) b.lo = model_attr_f(n, "alpha", 0.01f);
    if (act == BE_ACT_HARD_SIGMOID) {
        b.lo = model_attr_f(n, "alpha", 0.2f);
        b.hi = model_attr_f(n, "beta", 0.5f);
    }
    if (n->op == MODEL_OP_Clip) {
        if (n->in_n > 1 && n->in[1] != MODEL_NONE)
            memcpy(&b.lo, l->m->value[n->in[1]].konst->data, sizeof(float));
        if (n->in_n > 2 && n->in[2] != MODEL_NONE)
            memcpy(&b.hi, l->m->value[n->in[2]].konst->data, sizeof(float));
    }
    return lower_emit(l, n, &b, 1);
}

static enum rc lower_unary(struct lower *l, const struct model_node *n, enum be_unary op)
{
    struct be_node b = {.op = BE_UNARY};

    b.u.unary = op;
    return lower_emit(l, n, &b, 1);
}

/* Max and Min take any number of inputs: a chain of pairs. */
static enum rc lower_binary(struct lower *l, const struct model_node *n, enum be_binary op)
{
    struct be_node b = {.op = BE_BINARY, .name = n->name};
    uint32_t in[2], out, y;
    enum rc rc = lower_tensor_of(l, n->in[0], &in[0]);

    if (rc == RC_OK) rc = lower_tensor_of(l, n->out[0], &y);
    if (rc != RC_OK) return rc;
    b.u.binary = op;
    if (n->in_n == 1) {
        b.op = BE_VIEW;
        return lower_node(l, &b, in, 1, y, NULL);
    }
    for (uint32_t i = 1; i < n->in_n; i++) {
        struct be_tensor t = l->p->tensor[in[0]];

        rc = lower_tensor_of(l, n->in[i], &in[1]);
        if (rc != RC_OK) return rc;
        out = y;
        if (i + 1 < n->in_n) { /* the shape of the pair: broadcast, which model_bind
                                  has checked */
            const struct be_tensor *o = &l->p->tensor[in[1]];
            uint8_t rank = MAX(t.rank, o->rank);
            struct be_tensor r = {.dtype = BE_F32, .rank = rank, .name = n->name};

            for (uint8_t k = 0; k < rank; k++) {
                int64_t p = k < t.rank ? t.dim[t.rank - 1 - k] : 1;
                int64_t q = k < o->rank ? o->dim[o->rank - 1 - k] : 1;

                r.dim[rank - 1 - k] = p == 1 ? q : p;
            }
            rc = lower_tensor_new(l, &r, &out);
            if (rc != RC_OK) return rc;
        }
        rc = lower_node(l, &b, in, 2, out, NULL);
        if (rc != RC_OK) return rc;
        in[0] = out;
    }
    return RC_OK;
}

/* One-dimensional operands become a row or a column and the result loses that
 * dim again. */
static enum rc lower_matmul(struct lower *l, const struct model_node *n)
{
    struct be_node b = {.op = BE_MATMUL, .name = n->name}, view = {.op = BE_VIEW, .name = n->name};
    bool gemm = n->op == MODEL_OP_Gemm, flat = false;
    uint32_t in[3], out, in_n = 2, at;
    enum rc rc;

    b.u.matmul.alpha = gemm ? model_attr_f(n, "alpha", 1) : 1;
    b.u.matmul.beta = gemm ? model_attr_f(n, "beta", 1) : 1;
    b.u.matmul.trans_a = gemm && model_attr_i(n, "transA", 0) != 0;
    b.u.matmul.trans_b = gemm && model_attr_i(n, "transB", 0) != 0;
    for (uint32_t i = 0; i < 2; i++) {
        struct be_tensor t;

        rc = lower_tensor_of(l, n->in[i], &in[i]);
        if (rc != RC_OK) return rc;
        t = l->p->tensor[in[i]];
        if (t.rank != 1) continue;
        flat = true;
        t.rank = 2;
        t.dim[1] = i == 0 ? t.dim[0] : 1;
        if (i == 0) t.dim[0] = 1;
        at = in[i];
        rc = lower_tensor_new(l, &t, &in[i]); /* a constant is a constant under any shape */
        if (rc == RC_OK && t.konst == NULL) rc = lower_node(l, &view, &at, 1, in[i], NULL);
        if (rc != RC_OK) return rc;
    }
    if (gemm && n->in_n == 3 && n->in[2] != MODEL_NONE) {
        rc = lower_tensor_of(l, n->in[2], &in[in_n++]);
        if (rc != RC_OK) return rc;
    }
    rc = lower_tensor_of(l, n->out[0], &out);
    if (rc != RC_OK) return rc;
    if (!flat) return lower_node(l, &b, in, in_n, out, NULL);
    {
        const struct be_tensor *ta = &l->p->tensor[in[0]], *tb = &l->p->tensor[in[1]];
        const struct be_tensor *big = ta->rank > tb->rank ? ta : tb;
        struct be_tensor t = {.dtype = BE_F32, .rank = big->rank, .name = n->name};

        memcpy(t.dim, big->dim, sizeof(t.dim)); /* the other has two dims: no batch to broadcast */
        t.dim[t.rank - 2] = ta->dim[ta->rank - 2];
        t.dim[t.rank - 1] = tb->dim[tb->rank - 1];
        rc = lower_tensor_new(l, &t, &at);
    }
    if (rc == RC_OK) rc = lower_node(l, &b, in, in_n, at, NULL);
    if (rc == RC_OK) rc = lower_node(l, &view, &at, 1, out, NULL);
    return rc;
}

static enum rc lower_reduce(struct lower *l, const struct model_node *n, enum be_reduce kind)
{
    uint8_t rank = l->shape[n->in[0]].rank, axis[MODEL_RANK_MAX], axis_n;
    struct be_node b = {.op = BE_REDUCE};
    enum rc rc = model_axes(l->s, n, rank, axis, &axis_n, l->reterr);

    if (rc != RC_OK) return rc;
    b.u.reduce.kind = kind;
    b.u.reduce.axes = axis_n == 0 ? (1u << rank) - 1 : 0;
    for (uint8_t i = 0; i < axis_n; i++)
        b.u.reduce.axes |= 1u << axis[i];
    return lower_emit(l, n, &b, 1);
}

static enum rc lower_softmax(struct lower *l, const struct model_node *n)
{
    uint8_t rank = l->shape[n->in[0]].rank;
    bool old = l->m->opset < 13;
    int64_t axis = model_attr_i(n, "axis", old ? 1 : -1);
    struct be_node b = {.op = BE_SOFTMAX};

    b.u.softmax.axis = (uint8_t)(axis < 0 ? axis + rank : axis);
    /* up to opset 12 everything from the axis on is one row; since 13 the axis
     * alone */
    b.u.softmax.axis_end = old ? rank : (uint8_t)(b.u.softmax.axis + 1);
    return lower_emit(l, n, &b, 1);
}

static enum rc lower_concat(struct lower *l, const struct model_node *n)
{
    int64_t axis = model_attr_i(n, "axis", 0);
    struct be_node b = {.op = BE_CONCAT, .name = n->name};
    uint32_t *in = lower_own(l, n->in_n * sizeof(*in)), out;
    enum rc rc = in == NULL ? lower_nomem(l) : RC_OK;

    for (uint32_t i = 0; rc == RC_OK && i < n->in_n; i++)
        rc = lower_tensor_of(l, n->in[i], &in[i]);
    if (rc == RC_OK) rc = lower_tensor_of(l, n->out[0], &out);
    if (rc != RC_OK) return rc;
    b.u.concat_axis = (uint8_t)(axis < 0 ? axis + l->shape[n->in[0]].rank : axis);
    return lower_node(l, &b, in, n->in_n, out, NULL);
}

static enum rc lower_one(struct lower *l, const struct model_node *n)
{
    struct be_node view = {.op = BE_VIEW}, cast = {.op = BE_CAST};

    switch (n->op) {
    case MODEL_OP_Identity:
    case MODEL_OP_Dropout: /* inference: the input itself */
        return lower_tensor_of(l, n->in[0], &l->map[n->out[0]]);
    case MODEL_OP_Conv:
    case MODEL_OP_ConvTranspose:
        return lower_conv(l, n);
    case MODEL_OP_MaxPool:
    case MODEL_OP_AveragePool:
    case MODEL_OP_GlobalAveragePool:
    case MODEL_OP_GlobalMaxPool:
        return lower_pool(l, n);
    case MODEL_OP_BatchNormalization:
        return lower_batchnorm(l, n);
    case MODEL_OP_InstanceNormalization:
    case MODEL_OP_LayerNormalization:
        return lower_norm(l, n);
    case MODEL_OP_Relu:
        return lower_act(l, n, BE_ACT_RELU);
    case MODEL_OP_Clip:
        return lower_act(l, n, BE_ACT_CLIP);
    case MODEL_OP_Sigmoid:
        return lower_act(l, n, BE_ACT_SIGMOID);
    case MODEL_OP_Tanh:
        return lower_act(l, n, BE_ACT_TANH);
    case MODEL_OP_LeakyRelu:
        return lower_act(l, n, BE_ACT_LEAKY_RELU);
    case MODEL_OP_HardSigmoid:
        return lower_act(l, n, BE_ACT_HARD_SIGMOID);
    case MODEL_OP_HardSwish:
        return lower_act(l, n, BE_ACT_HARD_SWISH);
    case MODEL_OP_Sqrt:
        return lower_unary(l, n, BE_SQRT);
    case MODEL_OP_Abs:
        return lower_unary(l, n, BE_ABS);
    case MODEL_OP_Exp:
        return lower_unary(l, n, BE_EXP);
    case MODEL_OP_Log:
        return lower_unary(l, n, BE_LOG);
    case MODEL_OP_Neg:
        return lower_unary(l, n, BE_NEG);
    case MODEL_OP_Erf:
        return lower_unary(l, n, BE_ERF);
    case MODEL_OP_Add:
        return lower_binary(l, n, BE_ADD);
    case MODEL_OP_Sub:
        return lower_binary(l, n, BE_SUB);
    case MODEL_OP_Mul:
        return lower_binary(l, n, BE_MUL);
    case MODEL_OP_Div:
        return lower_binary(l, n, BE_DIV);
    case MODEL_OP_Pow:
        return lower_binary(l, n, BE_POW);
    case MODEL_OP_Min:
        return lower_binary(l, n, BE_MIN);
    case MODEL_OP_Max:
        return lower_binary(l, n, BE_MAX);
    case MODEL_OP_ReduceMean:
        return lower_reduce(l, n, BE_REDUCE_MEAN);
    case MODEL_OP_ReduceSum:
        return lower_reduce(l, n, BE_REDUCE_SUM);
    case MODEL_OP_ReduceMax:
        return lower_reduce(l, n, BE_REDUCE_MAX);
    case MODEL_OP_ReduceMin:
        return lower_reduce(l, n, BE_REDUCE_MIN);
    case MODEL_OP_Gemm:
    case MODEL_OP_MatMul:
        return lower_matmul(l, n);
    case MODEL_OP_Softmax:
        return lower_softmax(l, n);
    case MODEL_OP_Concat:
        return lower_concat(l, n);
    case MODEL_OP_Cast:
        return lower_emit(l, n, &cast, 1);
    case MODEL_OP_Flatten:
    case MODEL_OP_Reshape:
    case MODEL_OP_Squeeze:
    case MODEL_OP_Unsqueeze:
        return lower_emit(l, n, &view, 1);
    case MODEL_OP_Transpose:
    case MODEL_OP_Slice:
    case MODEL_OP_Split:
    case MODEL_OP_Expand:
        return lower_copy(l, n);
    case MODEL_OP_Pad:
        return lower_pad(l, n);
    case MODEL_OP_Gather:
        return lower_gather(l, n);
    case MODEL_OP_Resize:
        return lower_resize(l, n);
    case MODEL_OP_ConstantOfShape:
        return lower_fill(l, n);
    case MODEL_OP_Constant: /* constants, or known from shapes: lower() passes over these */
    case MODEL_OP_Equal:
    case MODEL_OP_Shape:
    case MODEL_OP_Where:
    case MODEL_OP_N:
        break;
    }
    return err_set(l->reterr, RC_INTERNAL, "node '%.100s': no lowering", n->name);
}

/* Values that a constant or the shapes give are no node's work. */
static bool known(const struct lower *l, uint32_t v)
{
    return l->m->value[v].konst != NULL || l->s->host[v] != NULL;
}

/* Which nodes an output needs: one walk from the end, since nodes are in order. */
static enum rc find_needed(struct lower *l)
{
    bool *used = calloc(l->m->value_n, sizeof(*used));

    if (used == NULL) return lower_nomem(l);
    for (uint32_t i = 0; i < l->m->output_n; i++)
        used[l->m->output[i]] = true;
    for (uint32_t i = l->m->node_n; i-- > 0;) {
        const struct model_node *n = &l->m->node[i];

        for (uint32_t k = 0; k < n->out_n; k++)
            l->needed[i] = l->needed[i] || (used[n->out[k]] && !known(l, n->out[k]));
        for (uint32_t k = 0; l->needed[i] && k < n->in_n; k++)
            if (n->in[k] != MODEL_NONE) used[n->in[k]] = true;
    }
    free(used);
    return RC_OK;
}

static enum rc io_lower(struct lower *l, const uint32_t *value, uint32_t n, const uint32_t **ret,
                        uint32_t *ret_n)
{
    uint32_t *list = lower_own(l, MAX(n, 1) * sizeof(*list));

    if (list == NULL) return lower_nomem(l);
    for (uint32_t i = 0; i < n; i++) {
        enum rc rc = lower_tensor_of(l, value[i], &list[i]);

        if (rc != RC_OK) return rc;
    }
    *ret = list;
    *ret_n = n;
    return RC_OK;
}

enum rc lower(const struct model_shapes *shapes, struct lowered *ret, struct err *reterr)
{
    const struct model *m = shapes->m;
    struct lowered r = {.priv = calloc(1, sizeof(*r.priv))};
    struct lower l = {
        .m = m, .s = shapes, .shape = shapes->shape, .g = &r.g, .p = r.priv, .reterr = reterr};
    enum rc rc = RC_OK;

    l.map = malloc(m->value_n * sizeof(*l.map));
    l.needed = calloc(MAX(m->node_n, 1), sizeof(*l.needed));
    if (r.priv == NULL || l.map == NULL || l.needed == NULL) {
        rc = lower_nomem(&l);
        goto out;
    }
    for (uint32_t i = 0; i < m->value_n; i++)
        l.map[i] = BE_NONE;
    rc = find_needed(&l);
    if (rc == RC_OK) rc = io_lower(&l, m->input, m->input_n, &r.g.input, &r.g.input_n);
    for (uint32_t i = 0; rc == RC_OK && i < m->node_n; i++)
        if (l.needed[i]) rc = lower_one(&l, &m->node[i]);
    if (rc == RC_OK) rc = io_lower(&l, m->output, m->output_n, &r.g.output, &r.g.output_n);
    if (rc == RC_OK) rc = fuse(&l);
    if (rc != RC_OK) goto out;
    r.g.tensor = r.priv->tensor;
    r.g.node = r.priv->node;
    *ret = r;
    r.priv = NULL;
out:
    free(l.map);
    free(l.needed);
    lowered_free(&r);
    return rc;
}

void lowered_free(struct lowered *l)
{
    struct owned *o, *next;

    if (l->priv == NULL) return;
    for (o = l->priv->owned; o != NULL; o = next) {
        next = o->next;
        free(o);
    }
    free(l->priv->tensor);
    free(l->priv->node);
    free(l->priv);
    *l = (struct lowered){0};
}
