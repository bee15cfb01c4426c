/* computed/backend/cuda/cudnn.c - see cudnn.h. One convolution is a graph of up to four operations:
 * convolution (or its backward-data, for the transposed one), + residual, + bias, activation, with
 * virtual float32 tensors between. Of the engines that the heuristics name, those are taken first
 * that are compiled already; in fp32 none that rounds its inputs to TF32. */
#include "computed/backend/cuda/cudnn.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ND_MAX      5
#define DESCS_MAX   32
#define CONFIGS_MAX 16

enum { UID_X = 1, UID_W, UID_Y, UID_BIAS, UID_RESIDUAL, UID_VIRTUAL };

struct cudnn_conv {
    cudnnBackendDescriptor_t desc[DESCS_MAX]; /* all, in the order of making */
    uint32_t desc_n;
    cudnnBackendDescriptor_t plan, pack;
    void *packed[K_PTRS + 1]; /* pointers that pack holds; the last: workspace */
    bool packed_once, bias, residual;
    char text[48];
};

enum rc rc_from_cudnn(cudnnStatus_t s, const char *what, struct err *reterr)
{
    if (s == CUDNN_STATUS_SUCCESS) return RC_OK;
    if (s == CUDNN_STATUS_ALLOC_FAILED || s == CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED)
        return err_set(reterr, RC_NOMEM, "cuDNN: %s: %s", what, cudnnGetErrorString(s));
    if (s / 1000 == CUDNN_STATUS_NOT_SUPPORTED / 1000 || s / 1000 == CUDNN_STATUS_BAD_PARAM / 1000)
        return err_set(reterr, RC_UNIMPL, "cuDNN: %s: %s", what, cudnnGetErrorString(s));
    return err_set(reterr, RC_IO, "cuDNN: %s: %s", what, cudnnGetErrorString(s));
}

/* ---- descriptors: a status that sticks, so that a row of calls reads as one ---- */
struct making {
    struct cudnn_conv *k;
    const struct cudnn_ctx *c;
    cudnnStatus_t s;
    const char *what;
};

static void keep(struct making *m, cudnnStatus_t s, const char *what)
{
    if (m->s != CUDNN_STATUS_SUCCESS) return;
    m->s = s;
    m->what = what;
}

static cudnnBackendDescriptor_t desc(struct making *m, cudnnBackendDescriptorType_t type)
{
    cudnnBackendDescriptor_t d = NULL;

    if (m->s != CUDNN_STATUS_SUCCESS) return NULL;
    if (m->k->desc_n == DESCS_MAX) {
        keep(m, CUDNN_STATUS_NOT_SUPPORTED, "descriptors");
        return NULL;
    }
    keep(m, cudnnBackendCreateDescriptor(type, &d), "create");
    if (d != NULL) m->k->desc[m->k->desc_n++] = d;
    return d;
}

static void set(struct making *m, cudnnBackendDescriptor_t d, cudnnBackendAttributeName_t name,
                cudnnBackendAttributeType_t type, int64_t n, const void *v)
{
    if (m->s != CUDNN_STATUS_SUCCESS) return;
    keep(m, cudnnBackendSetAttribute(d, name, type, n, v), "attribute");
}

static void set_desc(struct making *m, cudnnBackendDescriptor_t d, cudnnBackendAttributeName_t name,
                     cudnnBackendDescriptor_t v)
{
    set(m, d, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &v);
}

static void done(struct making *m, cudnnBackendDescriptor_t d, const char *what)
{
    if (m->s == CUDNN_STATUS_SUCCESS) keep(m, cudnnBackendFinalize(d), what);
}

static cudnnDataType_t data_type(int type)
{
    return type == K_F16    ? CUDNN_DATA_HALF
           : type == K_BF16 ? CUDNN_DATA_BFLOAT16
                            : CUDNN_DATA_FLOAT;
}

/* dim: [N, C, places]; it lies channels last. */
static cudnnBackendDescriptor_t tensor(struct making *m, int64_t uid, cudnnDataType_t type, int nd,
                                       const int64_t dim[ND_MAX], bool virtual_)
{
    cudnnBackendDescriptor_t d = desc(m, CUDNN_BACKEND_TENSOR_DESCRIPTOR);
    int64_t stride[ND_MAX], align = 16, step = dim[1];

    stride[1] = 1;
    for (int i = nd; i-- > 2;) {
        stride[i] = step;
        step *= dim[i];
    }
    stride[0] = step;
    set(m, d, CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, 1, &uid);
    set(m, d, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type);
    set(m, d, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, nd, dim);
    set(m, d, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, nd, stride);
    set(m, d, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, 1, &align);
    set(m, d, CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, 1, &virtual_);
    done(m, d, "tensor");
    return d;
}

static cudnnBackendDescriptor_t conv_op(struct making *m, const struct cu_conv *c, int spatial,
                                        cudnnBackendDescriptor_t x, cudnnBackendDescriptor_t w,
                                        cudnnBackendDescriptor_t y)
{
    cudnnBackendDescriptor_t d = desc(m, CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR), op;
    cudnnDataType_t compute = CUDNN_DATA_FLOAT;
    cudnnConvolutionMode_t mode = CUDNN_CROSS_CORRELATION;
    int64_t dims = spatial, pre[3], post[3], stride[3], dil[3];
    float alpha = 1, beta = 0;
    bool t = c->k.transposed;

    for (int i = 0; i < spatial; i++) {
        int k = 3 - spatial + i;

        pre[i] = c->k.s.pad[k];
        post[i] = c->pad_end[k];
        stride[i] = c->k.s.stride[k];
        dil[i] = c->k.s.dil[k];
    }
    set(m, d, CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, CUDNN_TYPE_INT64, 1, &dims);
    set(m, d, CUDNN_ATTR_CONVOLUTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &compute);
    set(m, d, CUDNN_ATTR_CONVOLUTION_CONV_MODE, CUDNN_TYPE_CONVOLUTION_MODE, 1, &mode);
    set(m, d, CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, CUDNN_TYPE_INT64, dims, pre);
    set(m, d, CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, CUDNN_TYPE_INT64, dims, post);
    set(m, d, CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, CUDNN_TYPE_INT64, dims, stride);
    set(m, d, CUDNN_ATTR_CONVOLUTION_DILATIONS, CUDNN_TYPE_INT64, dims, dil);
    done(m, d, "convolution");
    op = desc(m, t ? CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR
                   : CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR);
    set_desc(m, op,
             t ? CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC
               : CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC,
             d);
    set_desc(m, op,
             t ? CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY
               : CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X,
             x);
    set_desc(m, op,
             t ? CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W
               : CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W,
             w);
    set_desc(m, op,
             t ? CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX
               : CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y,
             y);
    set(m, op,
        t ? CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_ALPHA
          : CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA,
        CUDNN_TYPE_FLOAT, 1, &alpha);
    set(m, op,
        t ? CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_BETA
          : CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA,
        CUDNN_TYPE_FLOAT, 1, &beta);
    done(m, op, "operation");
    return op;
}

/* act NULL: y = x + b; else y = act(x). */
static cudnnBackendDescriptor_t point_op(struct making *m, const struct k_actor *act,
                                         cudnnBackendDescriptor_t x, cudnnBackendDescriptor_t b,
                                         cudnnBackendDescriptor_t y)
{
    cudnnBackendDescriptor_t d = desc(m, CUDNN_BACKEND_POINTWISE_DESCRIPTOR), op;
    cudnnPointwiseMode_t mode = act == NULL ? CUDNN_POINTWISE_ADD : CUDNN_POINTWISE_RELU_FWD;
    cudnnDataType_t compute = CUDNN_DATA_FLOAT;

    set(m, d, CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, &mode);
    set(m, d, CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_TYPE_DATA_TYPE, 1, &compute);
    if (act != NULL && act->act == BE_ACT_CLIP) {
        double hi = (double)act->hi;

        set(m, d, CUDNN_ATTR_POINTWISE_RELU_UPPER_CLIP, CUDNN_TYPE_DOUBLE, 1, &hi);
    }
    done(m, d, "pointwise");
    op = desc(m, CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
    set_desc(m, op, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, d);
    set_desc(m, op, CUDNN_ATTR_OPERATION_POINTWISE_XDESC, x);
    if (act == NULL) set_desc(m, op, CUDNN_ATTR_OPERATION_POINTWISE_BDESC, b);
    set_desc(m, op, CUDNN_ATTR_OPERATION_POINTWISE_YDESC, y);
    done(m, op, "pointwise operation");
    return op;
}

/* ---- the graph ---- */
static cudnnBackendDescriptor_t graph_make(struct making *m, const struct cu_conv *c)
{
    int spatial = MAX(c->dims, 2), nd = spatial + 2, n = 0;
    int64_t x[ND_MAX] = {c->batch, c->k.in_c}, y[ND_MAX] = {c->batch, c->k.out_c};
    int64_t w[ND_MAX] = {c->k.out_c, c->k.in_c / c->k.groups},
            one[ND_MAX] = {1, c->k.out_c, 1, 1, 1};
    bool act = c->k.act.act != BE_ACT_NONE;
    int rest = c->residual + c->bias + act;
    cudnnDataType_t type = data_type(c->k.type);
    cudnnBackendDescriptor_t tx, tw, at, next, ops[4], graph;

    if (c->k.transposed) {
        w[0] = c->k.in_c;
        w[1] = c->k.out_c / c->k.groups;
    }
    for (int i = 0; i < spatial; i++) {
        int k = 3 - spatial + i;

        x[2 + i] = c->k.s.in[k];
        y[2 + i] = c->k.s.out[k];
        w[2 + i] = c->k.s.kernel[k];
    }
    tx = tensor(m, UID_X, type, nd, x, false);
    tw = tensor(m, UID_W, type, nd, w, false);
#define AFTER(uid)                                                                                 \
    (rest > 0 ? tensor(m, uid, CUDNN_DATA_FLOAT, nd, y, true)                                      \
              : tensor(m, UID_Y, type, nd, y, false))
    at = AFTER(UID_VIRTUAL);
    ops[n++] = conv_op(m, c, spatial, tx, tw, at);
    if (c->residual) {
        rest--;
        next = AFTER(UID_VIRTUAL + 1);
        ops[n++] = point_op(m, NULL, at, tensor(m, UID_RESIDUAL, type, nd, y, false), next);
        at = next;
    }
    if (c->bias) {
        rest--;
        next = AFTER(UID_VIRTUAL + 2);
        ops[n++] = point_op(m, NULL, at, tensor(m, UID_BIAS, type, nd, one, false), next);
        at = next;
    }
    if (act) {
        rest--;
        next = AFTER(UID_VIRTUAL + 3);
        ops[n++] = point_op(m, &c->k.act, at, NULL, next);
    }
#undef AFTER
    graph = desc(m, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
    if (m->c->handle != NULL)
        set(m, graph, CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1, &m->c->handle);
    set(m, graph, CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, n, ops);
    done(m, graph, "operation graph");
    return graph;
}

/* ---- engines ---- */
/* Of a configuration's engine: its number, is it compiled at run time, does it round fp32 inputs.
 */
static bool engine_notes(cudnnBackendDescriptor_t config, int64_t *ret_idx, bool *ret_compiles,
                         bool *ret_rounds)
{
    cudnnBackendNumericalNote_t num[CUDNN_NUMERICAL_NOTE_TYPE_COUNT];
    cudnnBackendBehaviorNote_t how[CUDNN_BEHAVIOR_NOTE_TYPE_COUNT];
    cudnnBackendDescriptor_t e = NULL;
    int64_t n = 0, num_n = 0, how_n = 0;
    bool ok =
        cudnnBackendCreateDescriptor(CUDNN_BACKEND_ENGINE_DESCRIPTOR, &e) == CUDNN_STATUS_SUCCESS;

    *ret_compiles = *ret_rounds = false;
    *ret_idx = -1;
    ok = ok && cudnnBackendGetAttribute(config, CUDNN_ATTR_ENGINECFG_ENGINE,
                                        CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &n,
                                        (void *)&e) == CUDNN_STATUS_SUCCESS;
    ok = ok && cudnnBackendGetAttribute(e, CUDNN_ATTR_ENGINE_GLOBAL_INDEX, CUDNN_TYPE_INT64, 1, &n,
                                        ret_idx) == CUDNN_STATUS_SUCCESS;
    ok = ok && cudnnBackendGetAttribute(e, CUDNN_ATTR_ENGINE_NUMERICAL_NOTE,
                                        CUDNN_TYPE_NUMERICAL_NOTE, CUDNN_NUMERICAL_NOTE_TYPE_COUNT,
                                        &num_n, num) == CUDNN_STATUS_SUCCESS;
    ok = ok && cudnnBackendGetAttribute(e, CUDNN_ATTR_ENGINE_BEHAVIOR_NOTE,
                                        CUDNN_TYPE_BEHAVIOR_NOTE, CUDNN_BEHAVIOR_NOTE_TYPE_COUNT,
                                        &how_n, how) == CUDNN_STATUS_SUCCESS;
    for (int64_t i = 0; ok && i < num_n; i++)
        if (num[i] == CUDNN_NUMERICAL_NOTE_TENSOR_CORE ||
            num[i] == CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS)
            *ret_rounds = true;
    for (int64_t i = 0; ok && i < how_n; i++)
        if (how[i] == CUDNN_BEHAVIOR_NOTE_RUNTIME_COMPILATION) *ret_compiles = true;
    if (e != NULL) (void)cudnnBackendDestroyDescriptor(e); /* a copy of the configuration's */
    return ok;
}

static cudnnStatus_t plan_try(const struct cudnn_ctx *c, cudnnBackendDescriptor_t config,
                              size_t workspace_max, cudnnBackendDescriptor_t *ret,
                              size_t *ret_workspace)
{
    cudnnBackendDescriptor_t p = NULL;
    int64_t n = 0, bytes = 0;
    cudnnStatus_t s = cudnnBackendCreateDescriptor(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR, &p);

    if (s == CUDNN_STATUS_SUCCESS && c->handle != NULL)
        s = cudnnBackendSetAttribute(p, CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, 1,
                                     &c->handle);
    if (s == CUDNN_STATUS_SUCCESS && c->device != NULL)
        s = cudnnBackendSetAttribute(p, CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP,
                                     CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &c->device);
    if (s == CUDNN_STATUS_SUCCESS)
        s = cudnnBackendSetAttribute(p, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG,
                                     CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &config);
    if (s == CUDNN_STATUS_SUCCESS) s = cudnnBackendFinalize(p);
    if (s == CUDNN_STATUS_SUCCESS)
        s = cudnnBackendGetAttribute(p, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64,
                                     1, &n, &bytes);
    if (s == CUDNN_STATUS_SUCCESS && (bytes < 0 || (uint64_t)bytes > workspace_max))
        s = CUDNN_STATUS_NOT_SUPPORTED;
    if (s != CUDNN_STATUS_SUCCESS) {
        if (p != NULL) (void)cudnnBackendDestroyDescriptor(p);
        return s;
    }
    *ret = p;
    *ret_workspace = (size_t)bytes;
    return s;
}

/* The first configuration of this mode that can be built. */
static bool pick(const struct cudnn_ctx *c, struct cudnn_conv *k, cudnnBackendDescriptor_t graph,
                 cudnnBackendHeurMode_t mode, bool compiled, bool strict, size_t workspace_max,
                 size_t *ret_workspace)
{
    cudnnBackendDescriptor_t heur = NULL, config[CONFIGS_MAX] = {0};
    int64_t n = 0, made = 0, idx = -1;
    cudnnStatus_t s = cudnnBackendCreateDescriptor(CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR, &heur);
    bool found = false;

    if (s == CUDNN_STATUS_SUCCESS)
        s = cudnnBackendSetAttribute(heur, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH,
                                     CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &graph);
    if (s == CUDNN_STATUS_SUCCESS)
        s = cudnnBackendSetAttribute(heur, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1,
                                     &mode);
    if (s == CUDNN_STATUS_SUCCESS && c->device != NULL)
        s = cudnnBackendSetAttribute(heur, CUDNN_ATTR_ENGINEHEUR_DEVICEPROP,
                                     CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &c->device);
    if (s == CUDNN_STATUS_SUCCESS) s = cudnnBackendFinalize(heur);
    for (int i = 0; s == CUDNN_STATUS_SUCCESS && i < CONFIGS_MAX; i++, made++)
        s = cudnnBackendCreateDescriptor(CUDNN_BACKEND_ENGINECFG_DESCRIPTOR, &config[i]);
    if (s == CUDNN_STATUS_SUCCESS)
        s = cudnnBackendGetAttribute(heur, CUDNN_ATTR_ENGINEHEUR_RESULTS,
                                     CUDNN_TYPE_BACKEND_DESCRIPTOR, CONFIGS_MAX, &n,
                                     (void *)config);
    for (int64_t i = 0; s == CUDNN_STATUS_SUCCESS && i < n && i < CONFIGS_MAX && !found; i++) {
        bool compiles, rounds;

        if (!engine_notes(config[i], &idx, &compiles, &rounds) || compiles == compiled ||
            (strict && rounds))
            continue;
        found =
            plan_try(c, config[i], workspace_max, &k->plan, ret_workspace) == CUDNN_STATUS_SUCCESS;
    }
    if (found)
        (void)snprintf(k->text, sizeof(k->text), "cudnn engine %lld%s", (long long)idx,
                       compiled ? "" : ", compiled now");
    for (int64_t i = 0; i < made; i++)
        if (config[i] != NULL) (void)cudnnBackendDestroyDescriptor(config[i]);
    if (heur != NULL) (void)cudnnBackendDestroyDescriptor(heur);
    return found;
}

enum rc cudnn_conv_new(const struct cudnn_ctx *c, const struct cu_conv *conv, size_t workspace_max,
                       struct cudnn_conv **ret, size_t *ret_workspace, struct err *reterr)
{
    static const cudnnBackendHeurMode_t modes[] = {CUDNN_HEUR_MODE_A, CUDNN_HEUR_MODE_FALLBACK};
    struct cudnn_conv *k;
    struct making m = {.c = c};
    cudnnBackendDescriptor_t graph;
    bool found = false;
    enum rc rc;

    if (conv->k.act.act > BE_ACT_CLIP ||
        (conv->k.act.act == BE_ACT_CLIP && !(conv->k.act.lo >= 0 && conv->k.act.lo <= 0 &&
                                             conv->k.act.hi > 0 && conv->k.act.hi < 1e30f)))
        return err_set(reterr, RC_UNIMPL, "cuDNN: activation %d", conv->k.act.act);
    m.k = k = calloc(1, sizeof(*k));
    if (k == NULL) return err_set(reterr, RC_NOMEM, "convolution");
    k->bias = conv->bias;
    k->residual = conv->residual;
    graph = graph_make(&m, conv);
    rc = rc_from_cudnn(m.s, m.what, reterr);
    for (int compiled = 1; rc == RC_OK && !found && compiled >= 0; compiled--)
        for (size_t i = 0; !found && i < ARRAY_N(modes); i++)
            found = pick(c, k, graph, modes[i], compiled != 0, conv->k.type == K_F32 && !conv->tf32,
                         workspace_max, ret_workspace);
    if (rc == RC_OK && !found)
        rc = err_set(reterr, RC_UNIMPL, "cuDNN: no engine for this convolution");
    if (rc != RC_OK) {
        cudnn_conv_free(k);
        return rc;
    }
    *ret = k;
    return RC_OK;
}

void cudnn_conv_free(struct cudnn_conv *k)
{
    if (k == NULL) return;
    if (k->pack != NULL) (void)cudnnBackendDestroyDescriptor(k->pack); /* nothing more to do */
    if (k->plan != NULL) (void)cudnnBackendDestroyDescriptor(k->plan);
    while (k->desc_n > 0)
        (void)cudnnBackendDestroyDescriptor(k->desc[--k->desc_n]);
    free(k);
}

const char *cudnn_conv_text(const struct cudnn_conv *k)
{
    return k->text;
}

/* ---- running ---- */
static cudnnStatus_t pack_make(struct cudnn_conv *k, void *const p[K_PTRS], void *workspace)
{
    int64_t uid[5] = {UID_Y, UID_X, UID_W}, n = 3;
    void *at[5] = {p[0], p[1], p[2]};
    cudnnBackendDescriptor_t v = NULL;
    cudnnStatus_t s;

    if (k->bias) {
        uid[n] = UID_BIAS;
        at[n++] = p[3];
    }
    if (k->residual) {
        uid[n] = UID_RESIDUAL;
        at[n++] = p[4];
    }
    if (k->pack != NULL) (void)cudnnBackendDestroyDescriptor(k->pack);
    k->pack = NULL;
    s = cudnnBackendCreateDescriptor(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR, &v);
    if (s == CUDNN_STATUS_SUCCESS)
        s = cudnnBackendSetAttribute(v, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, n,
                                     uid);
    if (s == CUDNN_STATUS_SUCCESS)
        s = cudnnBackendSetAttribute(v, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR,
                                     n, (const void *)at);
    if (s == CUDNN_STATUS_SUCCESS)
        s = cudnnBackendSetAttribute(v, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1,
                                     (const void *)&workspace);
    if (s == CUDNN_STATUS_SUCCESS) s = cudnnBackendFinalize(v);
    if (s != CUDNN_STATUS_SUCCESS) {
        if (v != NULL) (void)cudnnBackendDestroyDescriptor(v);
        return s;
    }
    k->pack = v;
    memcpy(k->packed, p, K_PTRS * sizeof(*p));
    k->packed[K_PTRS] = workspace;
    return s;
}

enum rc cudnn_conv_run(const struct cudnn_ctx *c, struct cudnn_conv *k, void *const p[K_PTRS],
                       void *workspace, struct err *reterr)
{
    cudnnStatus_t s = CUDNN_STATUS_SUCCESS;

    if (k->pack == NULL || memcmp(k->packed, p, K_PTRS * sizeof(*p)) != 0 ||
        k->packed[K_PTRS] != workspace)
        s = pack_make(k, p, workspace);
    if (s == CUDNN_STATUS_SUCCESS) s = cudnnBackendExecute(c->handle, k->plan, k->pack);
    return s == CUDNN_STATUS_SUCCESS
               ? RC_OK
               : err_set(reterr, RC_IO, "cuDNN: execute: %s", cudnnGetErrorString(s));
}

/* ---- a device in words ---- */
enum rc cudnn_describe(struct cudnn_ctx *c, const char *json, struct err *reterr)
{
    cudnnBackendDescriptor_t d = NULL;
    cudnnStatus_t s = cudnnBackendCreateDescriptor(CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR, &d);
    char why[300] = "";

    if (s == CUDNN_STATUS_SUCCESS)
        s = cudnnBackendSetAttribute(d, CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, CUDNN_TYPE_CHAR,
                                     (int64_t)strlen(json), json);
    if (s == CUDNN_STATUS_SUCCESS) s = cudnnBackendFinalize(d);
    if (s != CUDNN_STATUS_SUCCESS) {
        cudnnGetLastErrorString(why, sizeof(why));
        if (d != NULL) (void)cudnnBackendDestroyDescriptor(d);
        return err_set(reterr, RC_UNIMPL, "cuDNN takes no such description of a device: %s: %.120s",
                       cudnnGetErrorString(s), why);
    }
    c->device = d;
    return RC_OK;
}

void cudnn_undescribe(struct cudnn_ctx *c)
{
    if (c->device != NULL) (void)cudnnBackendDestroyDescriptor(c->device);
    c->device = NULL;
}
