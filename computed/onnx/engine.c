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

struct planned {
    struct be_plan *plan;    /* NULL: free slot */
    struct model_shape *in;  /* per input */
    struct session_out *out; /* per output */
    struct be_buf **in_buf, **out_buf;
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
    return MAX(e->ops->batch, 1u);
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

/* Device memory only: what the last run gave stays the caller's. */
static void planned_evict(struct session *s, struct planned *p)
{
    const struct be_ops *ops = s->e->ops;

    if (s->last == p) s->last = NULL;
    if (p->plan != NULL) {
        s->e->held -= ops->plan_bytes(p->plan);
        ops->plan_free(p->plan);
    }
    for (uint32_t i = 0; p->in_buf != NULL && i < s->m->input_n; i++)
        ops->buf_free(s->e->dev, p->in_buf[i]);
    for (uint32_t i = 0; p->out_buf != NULL && i < s->m->output_n; i++)
        ops->buf_free(s->e->dev, p->out_buf[i]);
    free(p->in_buf);
    free(p->out_buf);
    p->plan = NULL;
    p->in_buf = p->out_buf = NULL;
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

static enum rc planned_buffers(struct session *s, struct planned *p,
                               const struct model_shape *shape, struct err *reterr)
{
    const struct model *m = s->m;
    enum rc rc;

    p->in = calloc(m->input_n, sizeof(*p->in));
    p->out = calloc(m->output_n, sizeof(*p->out));
    p->in_buf = calloc(m->input_n, sizeof(struct be_buf *));
    p->out_buf = calloc(m->output_n, sizeof(struct be_buf *));
    if (p->in == NULL || p->out == NULL || p->in_buf == NULL || p->out_buf == NULL)
        return err_set(reterr, RC_NOMEM, "plan");
    for (uint32_t i = 0; i < m->input_n; i++) {
        uint32_t v = m->input[i];

        p->in[i] = shape[v];
        rc = s->e->ops->buf_alloc(s->e->dev, shape_bytes(&shape[v], m->value[v].dtype),
                                  &p->in_buf[i], reterr);
        if (rc != RC_OK) return rc;
    }
    for (uint32_t i = 0; i < m->output_n; i++) {
        uint32_t v = m->output[i];
        size_t n = shape_bytes(&shape[v], m->value[v].dtype);

        p->out[i] = (struct session_out){.shape = shape[v],
                                         .dtype = m->value[v].dtype,
                                         .data = calloc(1, MAX(n, 1)),
                                         .bytes = n};
        if (p->out[i].data == NULL) return err_set(reterr, RC_NOMEM, "output of %zu bytes", n);
        rc = s->e->ops->buf_alloc(s->e->dev, n, &p->out_buf[i], reterr);
        if (rc != RC_OK) return rc;
    }
    return RC_OK;
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

enum rc session_run(struct session *s, const struct model_shape *in_shape, const void *const *in,
                    struct session_out *ret_out, struct err *reterr)
{
    const struct be_ops *ops = s->e->ops;
    struct planned *p;
    enum rc rc = planned_get(s, in_shape, &p, reterr);

    if (rc != RC_OK) return rc;
    p->used_at = ++s->e->runs;
    s->last = p;
    for (uint32_t i = 0; i < s->m->input_n; i++) {
        size_t n = shape_bytes(&p->in[i], s->m->value[s->m->input[i]].dtype);

        rc = ops->upload(s->e->dev, p->in_buf[i], 0, in[i], n, reterr);
        if (rc != RC_OK) return rc;
    }
    rc = ops->run(p->plan, p->in_buf, p->out_buf, reterr);
    for (uint32_t i = 0; rc == RC_OK && i < s->m->output_n; i++)
        rc = ops->download(s->e->dev, p->out_buf[i], 0, (void *)(uintptr_t)p->out[i].data,
                           p->out[i].bytes, reterr);
    if (rc != RC_OK) return rc;
    memcpy(ret_out, p->out, s->m->output_n * sizeof(*ret_out));
    return RC_OK;
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
        rc = s->e->ops->run(s->last->plan, s->last->in_buf, s->last->out_buf, reterr);
    return rc == RC_OK ? s->e->ops->sync(s->e->dev, reterr) : rc;
}

/* ---- rows ---- */
uint32_t session_rows_max(const struct session *s)
{
    return s->rows_max == 0 ? UINT32_MAX : s->rows_max;
}

/* Outputs of rows [from, from + k) of n go where they belong. */
static enum rc rows_take(struct session *s, const struct session_out *out, int64_t from, int64_t k,
                         int64_t n, struct err *reterr)
{
    for (uint32_t i = 0; i < s->m->output_n; i++) {
        struct session_out *r = &s->rows[i];
        size_t row;

        if (out[i].shape.rank == 0 || out[i].shape.dim[0] != k)
            return err_set(reterr, RC_INVAL, "output '%.64s' has not one row for each of the input",
                           s->m->value[s->m->output[i]].name);
        row = out[i].bytes / (size_t)k;
        if (r->data == NULL) {
            *r = out[i];
            r->shape.dim[0] = n;
            r->bytes = row * (size_t)n;
            r->data = calloc(1, MAX(r->bytes, 1));
            if (r->data == NULL) return err_set(reterr, RC_NOMEM, "outputs of %zu bytes", r->bytes);
        }
        memcpy((uint8_t *)(uintptr_t)r->data + (size_t)from * row, out[i].data, out[i].bytes);
    }
    return RC_OK;
}

enum rc session_run_rows(struct session *s, const struct model_shape *in_shape,
                         const void *const *in, struct session_out *ret_out, struct err *reterr)
{
    int64_t n = in_shape[0].dim[0], from = 0;
    struct session_out *out = calloc(MAX(s->m->output_n, 1), sizeof(*out));
    struct model_shape *shape = calloc(s->m->input_n, sizeof(*shape));
    const void **at = calloc(s->m->input_n, sizeof(*at));
    enum rc rc = RC_OK;

    if (out == NULL || shape == NULL || at == NULL) rc = err_set(reterr, RC_NOMEM, "rows");
    for (uint32_t i = 0; i < s->m->input_n && rc == RC_OK; i++)
        if (in_shape[i].rank == 0 || in_shape[i].dim[0] != n || n < 1)
            rc = err_set(reterr, RC_INVAL, "inputs with other numbers of rows");
    rows_free(s);
    while (rc == RC_OK && from < n) {
        int64_t k = MIN(n - from, (int64_t)session_rows_max(s));

        for (uint32_t i = 0; i < s->m->input_n; i++) {
            size_t all = shape_bytes(&in_shape[i], s->m->value[s->m->input[i]].dtype);

            shape[i] = in_shape[i];
            shape[i].dim[0] = k;
            at[i] = (const uint8_t *)in[i] + all / (size_t)n * (size_t)from;
        }
        rc = session_run(s, shape, at, out, reterr);
        if (rc == RC_NOMEM && k > 1) {
            s->rows_max = (uint32_t)(k / 2);
            rc = RC_OK;
            continue;
        }
        if (rc == RC_OK) rc = rows_take(s, out, from, k, n, reterr);
        from += k;
    }
    if (rc == RC_OK) memcpy(ret_out, s->rows, s->m->output_n * sizeof(*ret_out));
    free(out);
    free(shape);
    free(at);
    return rc;
}
