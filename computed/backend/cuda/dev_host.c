/* computed/backend/cuda/dev_host.c - the host in a GPU's place: the plugin `cudahost`. Runs the
 * CUDA backend's plans with the same kernels (kern.h), place by place, and in place of cuDNN and
 * cuBLASLt the direct convolution and product. For tests, not for speed. What it cannot show:
 * launches, the libraries' calls, and lanes working together (a row is one lane's here).
 *
 * Streams are lists of what is to be done. Each time something is added, a stream chosen by lot
 * does some of its own, as far as events let it; the rest is done when somebody waits for it. So
 * whatever order a GPU might take can come about, and a wait that is missing shows as a wrong
 * result. */
#define K_HOST
#include "computed/backend/cuda/dev.h"
#include <stdlib.h>
#include <string.h>

#ifdef CU_STANDS_IN /* takes the name of the real one, for tests of what jobs say about devices */
#define HOST_NAME "cuda"
#define HOST_TEXT "stand-in (CUDA plans on the host)"
#else
#define HOST_NAME "cudahost"
#define HOST_TEXT "cudahost (CUDA plans on the host)"
#endif

struct cu_exec {
    bool conv;
    struct k_conv c;
    struct k_mm m;
};
struct cu_event {
    enum cu_stream at;
    uint64_t upto; /* of what that stream was ever given; 0: not recorded */
};
struct op {
    enum { OP_KERN, OP_EXEC, OP_COPY, OP_WAIT, OP_GRAPH } kind;
    union {
        struct {
            enum k_id id;
            union k_any k;
        } kern;
        struct {
            struct cu_exec *e;
            void *p[K_PTRS];
        } exec;
        struct {
            void *to;
            const void *from;
            size_t n;
        } copy;
        struct cu_event wait;
        const struct ops *graph;
    } u;
};
struct ops {
    struct op *op;
    uint32_t n, cap;
};
struct stream {
    struct ops todo;
    uint32_t at;   /* the next of them */
    uint64_t base; /* done before the first of them */
};
struct cu_dev {
    struct stream stream[CU_STREAM_N];
    struct ops *recording; /* what is given to CU_RUN goes there; NULL: it is done */
    uint32_t lot;
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
    if (*ret == NULL) return err_set(reterr, RC_NOMEM, "cudahost device");
    (*ret)->lot = 2463534242u;
    return RC_OK;
}

static void host_close(struct cu_dev *d)
{
    if (d == NULL) return;
    for (int i = 0; i < CU_STREAM_N; i++)
        free(d->stream[i].todo.op);
    free(d);
}

static const char *host_text(const struct cu_dev *d)
{
    (void)d;
    return HOST_TEXT;
}

static enum rc host_precision(const struct cu_dev *d, enum be_precision p, struct err *reterr)
{
    (void)d;
    (void)p;
    (void)reterr;
    return RC_OK;
}

/* ---- streams ---- */
static void op_do(const struct op *o);

static uint64_t done(const struct stream *s)
{
    return s->base + s->at;
}

/* Until the stream has done `upto`. */
static void advance(struct cu_dev *d, enum cu_stream at, uint64_t upto)
{
    struct stream *s = &d->stream[at];

    while (done(s) < upto) {
        const struct op *o = &s->todo.op[s->at];

        if (o->kind == OP_WAIT)
            advance(d, o->u.wait.at, o->u.wait.upto);
        else
            op_do(o);
        s->at++;
    }
    if (s->at < s->todo.n) return;
    s->base += s->at;
    s->at = s->todo.n = 0;
}

/* Marsaglia's xorshift (2003): the same each time. */
static uint32_t lot(struct cu_dev *d)
{
    d->lot ^= d->lot << 13;
    d->lot ^= d->lot >> 17;
    d->lot ^= d->lot << 5;
    return d->lot;
}

static void some_go_on(struct cu_dev *d)
{
    enum cu_stream at = (enum cu_stream)(lot(d) % CU_STREAM_N);
    struct stream *s = &d->stream[at];

    for (uint32_t k = lot(d) % 5; k > 0 && s->at < s->todo.n; k--) {
        const struct op *o = &s->todo.op[s->at];

        if (o->kind == OP_WAIT && done(&d->stream[o->u.wait.at]) < o->u.wait.upto) return;
        advance(d, at, done(s) + 1);
    }
}

static enum rc op_add(struct cu_dev *d, enum cu_stream at, const struct op *o, struct err *reterr)
{
    struct ops *to = at == CU_RUN && d->recording != NULL ? d->recording : &d->stream[at].todo;

    if (to->n == to->cap) {
        uint32_t cap = MAX(to->cap * 2, 64u);
        struct op *bigger = realloc(to->op, cap * sizeof(*bigger));

        if (bigger == NULL) return err_set(reterr, RC_NOMEM, "stream");
        to->op = bigger;
        to->cap = cap;
    }
    to->op[to->n++] = *o;
    if (d->recording == NULL) some_go_on(d);
    return RC_OK;
}

static enum rc host_sync(struct cu_dev *d, struct err *reterr)
{
    (void)reterr;
    for (int i = 0; i < CU_STREAM_N; i++)
        advance(d, (enum cu_stream)i, d->stream[i].base + d->stream[i].todo.n);
    return RC_OK;
}

static enum rc host_event_new(struct cu_dev *d, struct cu_event **ret, struct err *reterr)
{
    (void)d;
    *ret = calloc(1, sizeof(**ret));
    return *ret != NULL ? RC_OK : err_set(reterr, RC_NOMEM, "event");
}

static void host_event_free(struct cu_dev *d, struct cu_event *e)
{
    (void)d;
    free(e);
}

static enum rc host_event_record(struct cu_dev *d, struct cu_event *e, enum cu_stream at,
                                 struct err *reterr)
{
    (void)reterr;
    CHECK(d->recording == NULL);
    *e = (struct cu_event){.at = at, .upto = d->stream[at].base + d->stream[at].todo.n};
    return RC_OK;
}

static enum rc host_event_wait(struct cu_dev *d, struct cu_event *e, enum cu_stream at,
                               struct err *reterr)
{
    CHECK(d->recording == NULL);
    return op_add(d, at, &(struct op){.kind = OP_WAIT, .u.wait = *e}, reterr);
}

static enum rc host_event_sync(struct cu_dev *d, struct cu_event *e, struct err *reterr)
{
    (void)reterr;
    advance(d, e->at, e->upto);
    return RC_OK;
}

/* ---- memory ---- */
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
    struct err ignored;

    if (p == NULL) return;
    (void)!host_sync(d, &ignored); /* never fails */
    memset(p, 0, bytes);
    free(p);
}

static enum rc host_copy(struct cu_dev *d, enum cu_stream at, void *to, const void *from, size_t n,
                         struct err *reterr)
{
    return op_add(d, at, &(struct op){.kind = OP_COPY, .u.copy = {to, from, n}}, reterr);
}

/* ---- libraries and kernels ---- */
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
    struct op o = {.kind = OP_EXEC, .u.exec.e = e};

    (void)workspace;
    memcpy(o.u.exec.p, p, sizeof(o.u.exec.p));
    return op_add(d, CU_RUN, &o, reterr);
}

static void exec_do(struct cu_exec *e, void *const p[K_PTRS])
{
    uint32_t n = e->conv ? e->c.h.n : e->m.h.n;

    memcpy(e->conv ? e->c.h.p : e->m.h.p, p, K_PTRS * sizeof(*p));
    if (e->conv) {
        TYPED(e->c.type, k_conv_at, &e->c)
    } else {
        TYPED(e->m.type, k_mm_at, &e->m)
    }
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
    CHECK(id < K_N);
    return op_add(d, CU_RUN, &(struct op){.kind = OP_KERN, .u.kern = {id, *k}}, reterr);
}

static void kern_do(enum k_id id, const union k_any *k)
{
    const struct k_lane alone = {0, 1};
    uint32_t n = k->h.n;

    switch (id) {
    case K_MAP:
        EACH(k_map_at(&k->map, i));
        return;
    case K_COPY:
        EACH(k_copy_at(&k->copy, i));
        return;
    case K_CAST:
        EACH(k_cast_at(&k->cast, i));
        return;
    case K_PAD:
        EACH(k_pad_at(&k->pad, i));
        return;
    case K_RESIZE:
        EACH(k_resize_at(&k->resize, i));
        return;
    case K_POOL:
        EACH(k_pool_at(&k->pool, i));
        return;
    case K_CONV:
        TYPED(k->conv.type, k_conv_at, &k->conv)
        return;
    case K_MM:
        TYPED(k->mm.type, k_mm_at, &k->mm)
        return;
    case K_REDUCE:
        EACH(k_reduce_row(&k->reduce, i, alone));
        return;
    case K_SOFTMAX:
        EACH(k_softmax_row(&k->softmax, i, alone));
        return;
    case K_LNORM:
        EACH(k_lnorm_row(&k->lnorm, i, alone));
        return;
    case K_MOMENTS:
        EACH(k_moments_at(&k->moments, i));
        return;
    case K_JOIN:
        EACH(k_join_at(&k->join, i));
        return;
    case K_N:
        return;
    }
}

static void op_do(const struct op *o)
{
    switch (o->kind) {
    case OP_KERN:
        kern_do(o->u.kern.id, &o->u.kern.k);
        return;
    case OP_EXEC:
        exec_do(o->u.exec.e, o->u.exec.p);
        return;
    case OP_COPY:
        memcpy(o->u.copy.to, o->u.copy.from, o->u.copy.n);
        return;
    case OP_GRAPH:
        for (uint32_t i = 0; i < o->u.graph->n; i++)
            op_do(&o->u.graph->op[i]);
        return;
    case OP_WAIT: /* advance() */
        return;
    }
}

/* ---- recorded runs ---- */
static enum rc host_graph_begin(struct cu_dev *d, struct err *reterr)
{
    d->recording = calloc(1, sizeof(*d->recording));
    return d->recording != NULL ? RC_OK : err_set(reterr, RC_NOMEM, "recording");
}

static enum rc host_graph_end(struct cu_dev *d, void **ret, struct err *reterr)
{
    (void)reterr;
    *ret = d->recording;
    d->recording = NULL;
    return RC_OK;
}

static enum rc host_graph_run(struct cu_dev *d, void *graph, struct err *reterr)
{
    return op_add(d, CU_RUN, &(struct op){.kind = OP_GRAPH, .u.graph = graph}, reterr);
}

static void host_graph_free(void *graph)
{
    struct ops *g = graph;

    if (g != NULL) free(g->op);
    free(g);
}

const struct cu_dev_ops *cu_dev(void)
{
    static const struct cu_dev_ops ops = {.name = HOST_NAME,
                                          .probe = host_probe,
                                          .open = host_open,
                                          .close = host_close,
                                          .text = host_text,
                                          .precision = host_precision,
                                          .alloc = host_alloc,
                                          .free = host_free,
                                          .slot_bytes = 512, /* small: that rings go round */
                                          .pinned_alloc = host_alloc,
                                          .pinned_free = host_free,
                                          .copy = host_copy,
                                          .event_new = host_event_new,
                                          .event_free = host_event_free,
                                          .event_record = host_event_record,
                                          .event_wait = host_event_wait,
                                          .event_sync = host_event_sync,
                                          .sync = host_sync,
                                          .conv_new = host_conv_new,
                                          .mm_new = host_mm_new,
                                          .exec_run = host_exec_run,
                                          .exec_text = host_exec_text,
                                          .exec_free = host_exec_free,
                                          .kern_run = host_kern_run,
                                          .graph_begin = host_graph_begin,
                                          .graph_end = host_graph_end,
                                          .graph_run = host_graph_run,
                                          .graph_free = host_graph_free};

    return &ops;
}
