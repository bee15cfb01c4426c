/* computed/onnx/engine.c - devices, sessions and their plans. A plan and its
 * buffers belong to one set of input shapes; the least recently used one goes
 * when a ninth is asked for. */
#include "computed/onnx/engine.h"
#include "computed/onnx/lower.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BYTES_MAX_DEFAULT ((size_t)2 << 30)

struct engine {
    const struct be_ops *ops;
    struct be_dev *dev;
    struct be_plan_conf conf;
    char text[160];
    struct session *sessions;
    uint64_t runs;
    size_t held, held_max; /* bytes of plans */
};

struct io_bufs {
    struct be_buf **in, **out; /* NULL: not made */
};
struct planned {
    struct be_plan *plan;    /* NULL: free slot */
    struct model_shape *in;  /* per input */
    struct session_out *out; /* per output; data is NULL until session_run() gives it */
    struct io_bufs io[2];    /* the second where transfers overlap with runs */
    uint64_t used_at;
};

struct session {
    struct engine *e;
    const struct model *m;
    struct session *next;
    struct planned slot[ENGINE_PLANS_MAX];
    struct planned *last; /* of the last run; NULL */
    uint32_t rows_max;    /* of session_run_rows; 0: not met yet */
    struct session_out *rows;
};

enum rc engine_open(const struct engine_conf *conf, struct engine **ret_engine, struct err *reterr)
{
    static const char *const precision[] = {
        [BE_FP32] = "", [BE_TF32] = ", tf32", [BE_PREC_F16] = ", fp16", [BE_PREC_BF16] = ", bf16"};
    struct engine *e = calloc(1, sizeof(*e));
    enum rc rc;

    if (e == NULL) return err_set(reterr, RC_NOMEM, "engine");
    e->conf =
        (struct be_plan_conf){.precision = conf->precision,
                              .bytes_max = conf->bytes_max ? conf->bytes_max : BYTES_MAX_DEFAULT,
                              .threads = MAX(conf->threads, 1)};
    e->held_max = conf->held_max ? conf->held_max : SIZE_MAX;
    rc = be_load(conf->backend, conf->plugin_dir, &e->ops, reterr);
    if (rc == RC_OK && conf->device_idx != BE_PLAN_ONLY) rc = e->ops->probe(reterr);
    if (rc == RC_OK) rc = e->ops->open(conf->device_idx, &e->dev, reterr);
    if (rc != RC_OK) {
        free(e);
        return rc;
    }
    (void)snprintf(e->text, sizeof(e->text), "%s%s", e->ops->text(e->dev),
                   precision[conf->precision]);
    *ret_engine = e;
    return RC_OK;
}

void engine_close(struct engine *e)
{
    if (e == NULL) return;
    e->ops->close(e->dev);
    free(e);
}

const char *engine_text(const struct engine *e)
{
    return e->text;
}

uint32_t engine_batch(const struct engine *e)
{
    return MAX(e->ops->batch, 1u) * (e->ops->overlaps ? 2 : 1);
}

enum rc session_open(struct engine *e, const struct model *m, struct session **ret_s,
                     struct err *reterr)
{
    struct session *s = calloc(1, sizeof(*s));

    if (s == NULL) return err_set(reterr, RC_NOMEM, "session");
    s->rows = calloc(MAX(m->output_n, 1), sizeof(*s->rows));
    if (s->rows == NULL) {
        free(s);
        return err_set(reterr, RC_NOMEM, "session");
    }
    s->e = e;
    s->m = m;
    s->next = e->sessions;
    e->sessions = s;
    *ret_s = s;
    return RC_OK;
}

static void io_free(struct session *s, struct io_bufs *io)
{
    for (uint32_t i = 0; io->in != NULL && i < s->m->input_n; i++)
        s->e->ops->buf_free(s->e->dev, io->in[i]);
    for (uint32_t i = 0; io->out != NULL && i < s->m->output_n; i++)
        s->e->ops->buf_free(s->e->dev, io->out[i]);
    free(io->in);
    free(io->out);
    *io = (struct io_bufs){0};
}

/* Device memory only: what the last run gave stays the caller's. */
static void planned_evict(struct session *s, struct planned *p)
{
    const struct be_ops *ops = s->e->ops;

    if (s->last == p) s->last = NULL;
    if (p->plan != NULL) {
        s->e->held -= ops->plan_bytes(p->plan);
        ops->plan_free(p->plan);
    }
    for (size_t k = 0; k < ARRAY_N(p->io); k++)
        io_free(s, &p->io[k]);
    p->plan = NULL;
    p->used_at = 0;
}

static void planned_free(struct session *s, struct planned *p)
{
    planned_evict(s, p);
    for (uint32_t i = 0; p->out != NULL && i < s->m->output_n; i++)
        free((void *)(uintptr_t)p->out[i].data);
    free(p->in);
    free(p->out);
    *p = (struct planned){0};
}

/* The plan of any session that was used longest ago goes. False: there is none but `keep`. */
static bool evict_one(struct engine *e, const struct planned *keep)
{
    struct planned *oldest = NULL;
    struct session *of = NULL;

    for (struct session *s = e->sessions; s != NULL; s = s->next) {
        for (uint32_t i = 0; i < ENGINE_PLANS_MAX; i++) {
            struct planned *p = &s->slot[i];

            if (p == keep || p->plan == NULL || (oldest != NULL && p->used_at >= oldest->used_at))
                continue;
            oldest = p;
            of = s;
        }
    }
    if (oldest != NULL) planned_evict(of, oldest);
    return oldest != NULL;
}

static void rows_free(struct session *s)
{
    for (uint32_t i = 0; i < s->m->output_n; i++)
        free((void *)(uintptr_t)s->rows[i].data);
    memset(s->rows, 0, s->m->output_n * sizeof(*s->rows));
}

void session_close(struct session *s)
{
    if (s == NULL) return;
    for (struct session **at = &s->e->sessions; *at != NULL; at = &(*at)->next) {
        if (*at != s) continue;
        *at = s->next;
        break;
    }
    for (uint32_t i = 0; i < ENGINE_PLANS_MAX; i++)
        planned_free(s, &s->slot[i]);
    rows_free(s);
    free(s->rows);
    free(s);
}

static size_t shape_bytes(const struct model_shape *s, enum model_dtype t)
{
    uint64_t n = 0;
    bool fits = model_shape_count(s, &n);

    CHECK(fits); /* model_bind has seen every value */
    return (size_t)n * model_dtype_bytes(t);
}

static enum rc io_new(struct session *s, const struct planned *p, struct io_bufs *io,
                      struct err *reterr)
{
    const struct model *m = s->m;
    struct engine *e = s->e;
    enum rc rc = RC_OK;

    io->in = calloc(m->input_n, sizeof(struct be_buf *));
    io->out = calloc(m->output_n, sizeof(struct be_buf *));
    if (io->in == NULL || io->out == NULL) rc = err_set(reterr, RC_NOMEM, "plan");
    for (uint32_t i = 0; rc == RC_OK && i < m->input_n; i++)
        rc = e->ops->buf_alloc(e->dev, shape_bytes(&p->in[i], m->value[m->input[i]].dtype),
                               &io->in[i], reterr);
    for (uint32_t i = 0; rc == RC_OK && i < m->output_n; i++)
        rc = e->ops->buf_alloc(e->dev, p->out[i].bytes, &io->out[i], reterr);
    if (rc != RC_OK) io_free(s, io);
    return rc;
}

static enum rc planned_buffers(struct session *s, struct planned *p,
                               const struct model_shape *shape, struct err *reterr)
{
    const struct model *m = s->m;

    p->in = calloc(m->input_n, sizeof(*p->in));
    p->out = calloc(m->output_n, sizeof(*p->out));
    if (p->in == NULL || p->out == NULL) return err_set(reterr, RC_NOMEM, "plan");
    for (uint32_t i = 0; i < m->input_n; i++)
        p->in[i] = shape[m->input[i]];
    for (uint32_t i = 0; i < m->output_n; i++) {
        uint32_t v = m->output[i];

        p->out[i] = (struct session_out){.shape = shape[v],
                                         .dtype = m->value[v].dtype,
                                         .bytes = shape_bytes(&shape[v], m->value[v].dtype)};
    }
    return io_new(s, p, &p->io[0], reterr);
}

static enum rc planned_new(struct session *s, struct planned *p, const struct model_shape *in,
                           struct err *reterr)
{
    struct model_shapes shapes = {0};
    struct lowered low = {0};
    enum rc rc = model_bind(s->m, in, &shapes, reterr);

    if (rc == RC_OK) rc = lower(&shapes, &low, reterr);
    if (rc == RC_OK) rc = s->e->ops->plan(s->e->dev, &low.g, &s->e->conf, &p->plan, reterr);
    if (rc == RC_OK) s->e->held += s->e->ops->plan_bytes(p->plan);
    if (rc == RC_OK) rc = planned_buffers(s, p, shapes.shape, reterr);
    lowered_free(&low);
    model_shapes_free(&shapes);
    if (rc != RC_OK) planned_free(s, p);
    return rc;
}

static bool shapes_equal(const struct model_shape *a, const struct model_shape *b, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        if (a[i].rank != b[i].rank) return false;
        for (uint8_t k = 0; k < a[i].rank; k++)
            if (a[i].dim[k] != b[i].dim[k]) return false;
    }
    return true;
}

static enum rc planned_get(struct session *s, const struct model_shape *in, struct planned **ret,
                           struct err *reterr)
{
    struct planned *oldest = &s->slot[0];
    enum rc rc;

    for (uint32_t i = 0; i < ENGINE_PLANS_MAX; i++) {
        struct planned *p = &s->slot[i];

        if (p->plan != NULL && shapes_equal(p->in, in, s->m->input_n)) {
            *ret = p;
            return RC_OK;
        }
        if (p->used_at < oldest->used_at) oldest = p; /* a free slot has 0 */
    }
    planned_free(s, oldest);
    do {
        rc = planned_new(s, oldest, in, reterr);
    } while (rc == RC_NOMEM && evict_one(s->e, oldest));
    if (rc != RC_OK) return rc;
    while (s->e->held > s->e->held_max && evict_one(s->e, oldest)) {
    }
    *ret = oldest;
    return RC_OK;
}

/* Enqueues a run over one set of the plan's buffers. */
static enum rc io_run(struct session *s, struct planned *p, const struct io_bufs *io,
                      const void *const *in, struct err *reterr)
{
    const struct be_ops *ops = s->e->ops;

    p->used_at = ++s->e->runs;
    s->last = p;
    for (uint32_t i = 0; i < s->m->input_n; i++) {
        size_t n = shape_bytes(&p->in[i], s->m->value[s->m->input[i]].dtype);
        enum rc rc = ops->upload(s->e->dev, io->in[i], 0, in[i], n, reterr);

        if (rc != RC_OK) return rc;
    }
    return ops->run(p->plan, io->in, io->out, reterr);
}

enum rc session_run(struct session *s, const struct model_shape *in_shape, const void *const *in,
                    struct session_out *ret_out, struct err *reterr)
{
    struct planned *p;
    enum rc rc = planned_get(s, in_shape, &p, reterr);

    for (uint32_t i = 0; rc == RC_OK && i < s->m->output_n; i++) {
        if (p->out[i].data != NULL) continue;
        p->out[i].data = calloc(1, MAX(p->out[i].bytes, 1));
        if (p->out[i].data == NULL)
            rc = err_set(reterr, RC_NOMEM, "output of %zu bytes", p->out[i].bytes);
    }
    if (rc == RC_OK) rc = io_run(s, p, &p->io[0], in, reterr);
    for (uint32_t i = 0; rc == RC_OK && i < s->m->output_n; i++)
        rc = s->e->ops->download(s->e->dev, p->io[0].out[i], 0, (void *)(uintptr_t)p->out[i].data,
                                 p->out[i].bytes, reterr);
    if (rc == RC_OK) memcpy(ret_out, p->out, s->m->output_n * sizeof(*ret_out));
    return rc;
}

enum rc session_plan(struct session *s, const struct model_shape *in_shape, char *text, size_t cap,
                     struct err *reterr)
{
    struct planned *p;
    enum rc rc = planned_get(s, in_shape, &p, reterr);

    if (rc != RC_OK) return rc;
    (void)snprintf(text, cap, "%zu bytes\n", s->e->ops->plan_bytes(p->plan));
    if (s->e->ops->plan_text != NULL) s->e->ops->plan_text(p->plan, text, cap);
    return RC_OK;
}

enum rc session_repeat(struct session *s, uint32_t n, struct err *reterr)
{
    enum rc rc = s->last == NULL ? err_set(reterr, RC_INVAL, "nothing ran yet") : RC_OK;

    for (uint32_t i = 0; rc == RC_OK && i < n; i++)
        rc = s->e->ops->run(s->last->plan, s->last->io[0].in, s->last->io[0].out, reterr);
    return rc == RC_OK ? s->e->ops->sync(s->e->dev, reterr) : rc;
}

/* ---- rows ---- */
uint32_t session_rows_max(const struct session *s)
{
    return s->rows_max == 0 ? UINT32_MAX : s->rows_max;
}

/* A piece that is being run: rows [from, from + n) in one set of a plan's buffers. */
struct piece {
    struct planned *p;
    const struct io_bufs *io;
    int64_t from, n;
};
struct pieces {
    struct session *s;
    const struct model_shape *in_shape;
    const void *const *in;
    int64_t n, given; /* rows: of all, enqueued */
    struct piece run[2];
    uint32_t run_n;
    struct model_shape *shape; /* of the inputs of a piece */
    const void **at;           /* its bytes */
};

/* Memory for the outputs of all rows, when the first plan tells their size. */
static enum rc rows_make(struct pieces *w, const struct planned *p, int64_t k, struct err *reterr)
{
    struct session *s = w->s;

    for (uint32_t i = 0; i < s->m->output_n; i++) {
        struct session_out *r = &s->rows[i];

        if (p->out[i].shape.rank == 0 || p->out[i].shape.dim[0] != k)
            return err_set(reterr, RC_INVAL, "output '%.64s' has not one row for each of the input",
                           s->m->value[s->m->output[i]].name);
        if (r->data != NULL) continue;
        *r = p->out[i];
        r->shape.dim[0] = w->n;
        r->bytes = p->out[i].bytes / (size_t)k * (size_t)w->n;
        r->data = calloc(1, MAX(r->bytes, 1));
        if (r->data == NULL) return err_set(reterr, RC_NOMEM, "outputs of %zu bytes", r->bytes);
    }
    return RC_OK;
}

/* The next piece, of k rows, by a plan that may have to be made. */
static enum rc piece_start(struct pieces *w, int64_t k, struct err *reterr)
{
    struct session *s = w->s;
    struct planned *p;
    const struct io_bufs *io;
    enum rc rc;

    for (uint32_t i = 0; i < s->m->input_n; i++) {
        size_t all = shape_bytes(&w->in_shape[i], s->m->value[s->m->input[i]].dtype);

        w->shape[i] = w->in_shape[i];
        w->shape[i].dim[0] = k;
        w->at[i] = (const uint8_t *)w->in[i] + all / (size_t)w->n * (size_t)w->given;
    }
    rc = planned_get(s, w->shape, &p, reterr);
    if (rc == RC_OK) rc = rows_make(w, p, k, reterr);
    if (rc != RC_OK) return rc;
    io = &p->io[0];
    if (w->run_n > 0 && w->run[0].io == io) io = &p->io[1];
    if (io->in == NULL) rc = io_new(s, p, &p->io[1], reterr);
    if (rc == RC_OK) rc = io_run(s, p, io, w->at, reterr);
    if (rc != RC_OK) return rc;
    w->run[w->run_n++] = (struct piece){p, io, w->given, k};
    w->given += k;
    return RC_OK;
}

/* Waits for the oldest piece; its outputs go where they belong. */
static enum rc piece_end(struct pieces *w, struct err *reterr)
{
    const struct session *s = w->s;
    struct piece b = w->run[0];
    enum rc rc = RC_OK;

    w->run[0] = w->run[1];
    w->run_n--;
    for (uint32_t i = 0; rc == RC_OK && i < s->m->output_n; i++) {
        size_t bytes = b.p->out[i].bytes, row = bytes / (size_t)b.n;
        uint8_t *to = (uint8_t *)(uintptr_t)s->rows[i].data + (size_t)b.from * row;

        rc = s->e->ops->download(s->e->dev, b.io->out[i], 0, to, bytes, reterr);
    }
    return rc;
}

/* The next piece's rows. Where transfers overlap, a batch a piece, so that there are two. */
static int64_t piece_rows(const struct pieces *w)
{
    const struct be_ops *ops = w->s->e->ops;
    int64_t k = MIN(w->n - w->given, (int64_t)session_rows_max(w->s));

    return ops->overlaps ? MIN(k, (int64_t)MAX(ops->batch, 1u)) : k;
}

static enum rc pieces_run(struct pieces *w, struct err *reterr)
{
    struct session *s = w->s;
    uint32_t depth = s->e->ops->overlaps ? 2 : 1;
    enum rc rc = RC_OK;

    while (rc == RC_OK && (w->given < w->n || w->run_n > 0)) {
        int64_t k = piece_rows(w);

        /* another shape may take the place of a plan that runs: that ends first */
        if (w->run_n == depth || (w->run_n > 0 && w->run[0].n != k)) {
            rc = piece_end(w, reterr);
            continue;
        }
        rc = piece_start(w, k, reterr);
        if (rc != RC_NOMEM || (w->run_n == 0 && k == 1)) continue;
        rc = RC_OK;
        if (w->run_n > 0)
            depth = 1; /* no room for a second set of buffers */
        else
            s->rows_max = (uint32_t)(k / 2);
    }
    return rc;
}

enum rc session_run_rows(struct session *s, const struct model_shape *in_shape,
                         const void *const *in, struct session_out *ret_out, struct err *reterr)
{
    struct pieces w = {.s = s, .in_shape = in_shape, .in = in, .n = in_shape[0].dim[0]};
    struct err ignored;
    enum rc rc = RC_OK;

    w.shape = calloc(s->m->input_n, sizeof(*w.shape));
    w.at = calloc(s->m->input_n, sizeof(*w.at));
    if (w.shape == NULL || w.at == NULL) rc = err_set(reterr, RC_NOMEM, "rows");
    for (uint32_t i = 0; i < s->m->input_n && rc == RC_OK; i++)
        if (in_shape[i].rank == 0 || in_shape[i].dim[0] != w.n || w.n < 1)
            rc = err_set(reterr, RC_INVAL, "inputs with other numbers of rows");
    rows_free(s);
    if (rc == RC_OK) rc = pieces_run(&w, reterr);
    if (rc == RC_OK) memcpy(ret_out, s->rows, s->m->output_n * sizeof(*ret_out));
    if (rc != RC_OK && w.run_n > 0) (void)!s->e->ops->sync(s->e->dev, &ignored);
    free(w.shape);
    free(w.at);
    return rc;
}
