/* computed/backend/cuda/dev_host.c - the host in a GPU's place: the plugin `cudahost`. Runs the
 * CUDA backend's plans with the same kernels (kern.h), place by place, and in place of cuDNN and
 * cuBLASLt the direct convolution and product. For tests, not for speed. What it cannot show:
 * launches, the libraries' calls, and lanes working together (a row is one lane's here). */
#define K_HOST
#include "computed/backend/cuda/dev.h"
#include <stdlib.h>
#include <string.h>

struct cu_dev {
    uint32_t unused;
};
struct cu_exec {
    bool conv;
    struct k_conv c;
    struct k_mm m;
};

static enum rc host_probe(struct err *reterr)
{
    (void)reterr;
    return RC_OK;
}

static enum rc host_open(uint32_t idx, struct cu_dev **ret, struct err *reterr)
{
    if (idx != 0) return err_set(reterr, RC_NOTFOUND, "cudahost has one device, number 0");
    *ret = calloc(1, sizeof(**ret));
    return *ret != NULL ? RC_OK : err_set(reterr, RC_NOMEM, "cudahost device");
}

static void host_close(struct cu_dev *d)
{
    free(d);
}

static const char *host_text(const struct cu_dev *d)
{
    (void)d;
    return "cudahost (CUDA plans on the host)";
}

static enum rc host_precision(const struct cu_dev *d, enum be_precision p, struct err *reterr)
{
    (void)d;
    (void)p;
    (void)reterr;
    return RC_OK;
}

static enum rc host_alloc(struct cu_dev *d, size_t bytes, void **ret, struct err *reterr)
{
    (void)d;
    *ret = aligned_alloc(256, ROUND_UP(bytes, (size_t)256));
    if (*ret == NULL) return err_set(reterr, RC_NOMEM, "%zu bytes", bytes);
    memset(*ret, 0xcd, bytes); /* what nobody wrote is NaN or nonsense */
    return RC_OK;
}

static void host_free(struct cu_dev *d, void *p, size_t bytes)
{
    (void)d;
    if (p != NULL) memset(p, 0, bytes);
    free(p);
}

static enum rc host_copy(struct cu_dev *d, void *to, const void *from, size_t n, struct err *reterr)
{
    (void)d;
    (void)reterr;
    if (n > 0) memcpy(to, from, n);
    return RC_OK;
}

static enum rc host_sync(struct cu_dev *d, struct err *reterr)
{
    (void)d;
    (void)reterr;
    return RC_OK;
}

/* What the libraries do not serve either (dev_cuda.c's limits), so that the plan's other ways are
 * walked: activations beyond the simple ones, dilated transposed convolutions. */
static enum rc host_conv_new(struct cu_dev *d, const struct cu_conv *c, size_t workspace_max,
                             struct cu_exec **ret, size_t *ret_workspace, struct err *reterr)
{
    bool dilated = c->k.s.dil[0] != 1 || c->k.s.dil[1] != 1 || c->k.s.dil[2] != 1;
    struct cu_exec *e;

    (void)d;
    (void)workspace_max;
    if (c->k.act.act > BE_ACT_RELU || (c->k.transposed && dilated) ||
        (c->k.transposed && (c->bias || c->residual || c->k.act.act != BE_ACT_NONE)))
        return err_set(reterr, RC_UNIMPL, "not by the library");
    e = calloc(1, sizeof(*e));
    if (e == NULL) return err_set(reterr, RC_NOMEM, "convolution");
    e->conv = true;
    e->c = c->k;
    *ret = e;
    *ret_workspace = 0;
    return RC_OK;
}

static enum rc host_mm_new(struct cu_dev *d, const struct cu_mm *m, size_t workspace_max,
                           struct cu_exec **ret, size_t *ret_workspace, struct err *reterr)
{
    struct cu_exec *e;

    (void)d;
    (void)workspace_max;
    if (m->act.act > BE_ACT_RELU) return err_set(reterr, RC_UNIMPL, "not by the library");
    e = calloc(1, sizeof(*e));
    if (e == NULL) return err_set(reterr, RC_NOMEM, "product");
    e->m = (struct k_mm){.act = m->act,
                         .rows = m->rows,
                         .cols = m->cols,
                         .inner = m->inner,
                         .a_row = m->trans_a ? 1 : m->inner,
                         .a_k = m->trans_a ? m->rows : 1,
                         .b_k = m->trans_b ? 1 : m->cols,
                         .b_col = m->trans_b ? m->inner : 1,
                         .alpha = m->alpha,
                         .type = m->type,
                         .at = {.rank = 1,
                                .dim = {(uint32_t)m->batch},
                                .s = {{(int32_t)m->stride_a}, {(int32_t)m->stride_b}}}};
    e->m.h.n = (uint32_t)m->batch * (uint32_t)m->rows * (uint32_t)m->cols;
    *ret = e;
    *ret_workspace = 0;
    return RC_OK;
}

#define EACH(fn)                                                                                   \
    for (uint32_t i = 0; i < n; i++)                                                               \
    fn
/* The type is a constant within each, so that the loops over channels are vectorised. */
#define TYPED(type, fn, k)                                                                         \
    switch (type) {                                                                                \
    case K_F16:                                                                                    \
        EACH(fn(k, K_F16, i));                                                                     \
        break;                                                                                     \
    case K_BF16:                                                                                   \
        EACH(fn(k, K_BF16, i));                                                                    \
        break;                                                                                     \
    default:                                                                                       \
        EACH(fn(k, K_F32, i));                                                                     \
    }

static enum rc host_exec_run(struct cu_dev *d, struct cu_exec *e, void *const p[K_PTRS],
                             void *workspace, struct err *reterr)
{
    uint32_t n = e->conv ? e->c.h.n : e->m.h.n;

    (void)d;
    (void)workspace;
    (void)reterr;
    memcpy(e->conv ? e->c.h.p : e->m.h.p, p, K_PTRS * sizeof(*p));
    if (e->conv) {
        TYPED(e->c.type, k_conv_at, &e->c)
    } else {
        TYPED(e->m.type, k_mm_at, &e->m)
    }
    return RC_OK;
}

static const char *host_exec_text(const struct cu_exec *e)
{
    return e->conv ? "library convolution" : "library product";
}

static void host_exec_free(struct cu_exec *e)
{
    free(e);
}

static enum rc host_kern_run(struct cu_dev *d, enum k_id id, const union k_any *k,
                             struct err *reterr)
{
    const struct k_lane alone = {0, 1};
    uint32_t n = k->h.n;

    (void)d;
    switch (id) {
    case K_MAP:
        EACH(k_map_at(&k->map, i));
        return RC_OK;
    case K_COPY:
        EACH(k_copy_at(&k->copy, i));
        return RC_OK;
    case K_CAST:
        EACH(k_cast_at(&k->cast, i));
        return RC_OK;
    case K_PAD:
        EACH(k_pad_at(&k->pad, i));
        return RC_OK;
    case K_RESIZE:
        EACH(k_resize_at(&k->resize, i));
        return RC_OK;
    case K_POOL:
        EACH(k_pool_at(&k->pool, i));
        return RC_OK;
    case K_CONV:
        TYPED(k->conv.type, k_conv_at, &k->conv)
        return RC_OK;
    case K_MM:
        TYPED(k->mm.type, k_mm_at, &k->mm)
        return RC_OK;
    case K_REDUCE:
        EACH(k_reduce_row(&k->reduce, i, alone));
        return RC_OK;
    case K_SOFTMAX:
        EACH(k_softmax_row(&k->softmax, i, alone));
        return RC_OK;
    case K_LNORM:
        EACH(k_lnorm_row(&k->lnorm, i, alone));
        return RC_OK;
    case K_MOMENTS:
        EACH(k_moments_at(&k->moments, i));
        return RC_OK;
    case K_JOIN:
        EACH(k_join_at(&k->join, i));
        return RC_OK;
    case K_N:
        break;
    }
    return err_set(reterr, RC_INTERNAL, "no kernel %d", (int)id);
}

const struct cu_dev_ops *cu_dev(void)
{
    static const struct cu_dev_ops ops = {.name = "cudahost",
                                          .probe = host_probe,
                                          .open = host_open,
                                          .close = host_close,
                                          .text = host_text,
                                          .precision = host_precision,
                                          .alloc = host_alloc,
                                          .free = host_free,
                                          .upload = host_copy,
                                          .download = host_copy,
                                          .sync = host_sync,
                                          .conv_new = host_conv_new,
                                          .mm_new = host_mm_new,
                                          .exec_run = host_exec_run,
                                          .exec_text = host_exec_text,
                                          .exec_free = host_exec_free,
                                          .kern_run = host_kern_run};

    return &ops;
}
