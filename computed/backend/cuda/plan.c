/* computed/backend/cuda/plan.c - see plan.h. Knows no GPU: the same plan runs on the host. */
#define K_HOST /* kern.h: the functions too */
#include "computed/backend/cuda/plan.h"
#include "computed/backend/arena.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ELEMENTS_MAX INT32_MAX /* indices in kernels are 32 bits */

/* ---- lists ---- */
enum rc cu_nomem(struct be_plan *p)
{
    return err_set(p->reterr, RC_NOMEM, "plan");
}

static void *grown(void *list, uint32_t n, uint32_t *cap, size_t width)
{
    void *bigger;

    if (n < *cap) return list;
    bigger = realloc(list, (size_t)MAX(*cap * 2, 64u) * width);
    if (bigger != NULL) *cap = MAX(*cap * 2, 64u);
    return bigger;
}

static enum rc buf_add(struct be_plan *p, const struct cu_buf *b, uint32_t *ret)
{
    struct cu_buf *list = grown(p->buf, p->buf_n, &p->buf_cap, sizeof(*list));

    if (list == NULL) return cu_nomem(p);
    p->buf = list;
    list[p->buf_n] = *b;
    list[p->buf_n].from = UINT32_MAX;
    *ret = p->buf_n++;
    return RC_OK;
}

enum rc cu_buf_new(struct be_plan *p, size_t bytes, uint32_t *ret)
{
    return buf_add(p, &(struct cu_buf){.place = CU_ARENA, .bytes = bytes}, ret);
}

enum rc cu_const_new(struct be_plan *p, size_t bytes, uint32_t *ret, uint8_t **ret_host)
{
    struct cu_buf b = {.place = CU_CONST, .bytes = bytes, .host = calloc(1, MAX(bytes, 1))};
    enum rc rc = b.host == NULL ? cu_nomem(p) : buf_add(p, &b, ret);

    if (rc != RC_OK) {
        free(b.host);
        return rc;
    }
    *ret_host = b.host;
    return RC_OK;
}

struct cu_step *cu_step_new(struct be_plan *p, enum k_id id, const struct be_node *n)
{
    struct cu_step *list = grown(p->step, p->step_n, &p->step_cap, sizeof(*list)), *s;

    if (list == NULL) {
        (void)cu_nomem(p);
        return NULL;
    }
    p->step = list;
    s = &list[p->step_n++];
    memset(s, 0, sizeof(*s));
    s->id = id;
    s->op = n == NULL ? BE_OP_N : n->op;
    for (int i = 0; i < K_PTRS; i++)
        s->buf[i] = BE_NONE;
    return s;
}

/* ---- shapes ---- */
const struct be_tensor *cu_tensor(const struct be_plan *p, uint32_t t)
{
    return &p->g->tensor[t];
}

bool cu_is_float(const struct be_tensor *t)
{
    return t->dtype == BE_F32;
}

size_t cu_type_bytes(int type)
{
    return be_dtype_bytes((enum be_dtype)type);
}

int cu_type(const struct be_plan *p, const struct be_tensor *t)
{
    return cu_is_float(t) ? p->type : (int)t->dtype;
}

bool cu_same_memory(const struct be_tensor *t)
{
    uint64_t places = 1;

    for (uint8_t i = 2; i < t->rank; i++)
        places *= (uint64_t)t->dim[i];
    return t->rank < 3 || t->dim[1] == 1 || places == 1;
}

void cu_order(uint8_t rank, bool last, uint8_t order[K_RANK])
{
    for (uint8_t i = 0; i < rank; i++)
        order[i] = i;
    if (!last || rank < 3) return;
    for (uint8_t i = 1; i + 1 < rank; i++)
        order[i] = (uint8_t)(i + 1);
    order[rank - 1] = 1;
}

void cu_strides(const struct be_tensor *t, bool last, int32_t s[K_RANK])
{
    uint8_t order[K_RANK];
    int64_t step = 1;

    cu_order(t->rank, last, order);
    for (uint8_t i = t->rank; i-- > 0;) {
        s[order[i]] = (int32_t)step;
        step *= t->dim[order[i]];
    }
}

void cu_operand(const struct be_tensor *t, bool last, const struct be_tensor *y, int32_t s[K_RANK])
{
    int32_t own[K_RANK];

    cu_strides(t, last, own);
    for (uint8_t i = 0; i < y->rank; i++) {
        int k = i - (y->rank - t->rank);

        s[i] = k < 0 || t->dim[k] == 1 ? 0 : own[k];
    }
}

uint32_t cu_loop(const struct be_tensor *y, const uint8_t *order, uint32_t mask,
                 int32_t s[3][K_RANK], int n, struct k_shape *ret)
{
    uint32_t places = 1, r = 0;

    memset(ret, 0, sizeof(*ret));
    for (uint8_t i = 0; i < y->rank; i++) {
        uint8_t d = order[i];
        uint32_t size = (uint32_t)y->dim[d];
        bool joins = r > 0;

        if ((mask >> d & 1) == 0) continue;
        places *= size;
        if (size == 1) continue;
        for (int k = 0; k < n; k++)
            joins = joins && (int64_t)ret->s[k][r - 1] == (int64_t)s[k][d] * size;
        if (!joins) r++;
        ret->dim[r - 1] = joins ? ret->dim[r - 1] * size : size;
        for (int k = 0; k < n; k++)
            ret->s[k][r - 1] = s[k][d];
    }
    ret->rank = r;
    return places;
}

/* ---- forms ---- */
enum rc cu_alias(struct be_plan *p, uint32_t t, bool last, int type, uint32_t buf)
{
    struct cu_form *list = grown(p->form, p->form_n, &p->form_cap, sizeof(*list));
    uint32_t *at = &p->first[t];

    if (list == NULL) return cu_nomem(p);
    p->form = list;
    while (*at != BE_NONE)
        at = &list[*at].next;
    *at = p->form_n;
    list[p->form_n++] = (struct cu_form){.next = BE_NONE, .last = last, .type = type, .buf = buf};
    return RC_OK;
}

enum rc cu_make(struct be_plan *p, uint32_t t, bool last, uint32_t *ret_buf)
{
    const struct be_tensor *y = cu_tensor(p, t);
    int type = cu_type(p, y);
    enum rc rc = cu_buf_new(p, (size_t)be_tensor_count(y) * cu_type_bytes(type), ret_buf);

    return rc == RC_OK ? cu_alias(p, t, last, type, *ret_buf) : rc;
}

/* A constant in a form, made here and now by the kernel itself. */
static enum rc konst_make(struct be_plan *p, uint32_t t, bool last, int type, uint32_t *ret_buf)
{
    const struct be_tensor *k = cu_tensor(p, t);
    struct k_map m = {.operands = 1, .type = {type, (int)k->dtype}};
    uint64_t n = be_tensor_count(k);
    int32_t s[3][K_RANK];
    uint8_t *host, order[K_RANK];
    enum rc rc = cu_const_new(p, (size_t)n * cu_type_bytes(type), ret_buf, &host);

    if (rc == RC_OK) rc = cu_alias(p, t, last, type, *ret_buf);
    if (rc != RC_OK) return rc;
    if (!cu_is_float(k)) {
        if (n > 0) memcpy(host, k->konst, (size_t)n * cu_type_bytes(type));
        return RC_OK;
    }
    cu_strides(k, false, s[0]);
    cu_order(k->rank, last, order);
    m.h.n = cu_loop(k, order, UINT32_MAX, s, 1, &m.at);
    m.h.p[0] = host;
    m.h.p[1] = (void *)(uintptr_t)k->konst;
    for (uint32_t i = 0; i < m.h.n; i++)
        k_map_at(&m, i);
    return RC_OK;
}

enum rc cu_first(struct be_plan *p, uint32_t t, struct cu_form *ret)
{
    const struct be_tensor *k = cu_tensor(p, t);
    uint32_t ignored;

    if (p->first[t] == BE_NONE) {
        enum rc rc;

        CHECK(k->konst != NULL); /* nodes stand in order */
        rc = konst_make(p, t, false, cu_type(p, k), &ignored);
        if (rc != RC_OK) return rc;
    }
    *ret = p->form[p->first[t]];
    return RC_OK;
}

/* A step that lays a float value out in buf, as `last` and `type` say. */
static enum rc lay(struct be_plan *p, const struct be_tensor *x, const struct cu_form *from,
                   bool last, int type, uint32_t buf, const char *why)
{
    struct cu_step *st = cu_step_new(p, K_MAP, NULL);
    int32_t s[3][K_RANK];
    uint8_t order[K_RANK];

    if (st == NULL) return RC_NOMEM;
    st->why = why;
    st->buf[0] = buf;
    st->buf[1] = from->buf;
    st->k.map.operands = 1;
    st->k.map.type[0] = type;
    st->k.map.type[1] = from->type;
    cu_strides(x, from->last, s[0]);
    cu_order(x->rank, last, order);
    st->k.h.n = cu_loop(x, order, UINT32_MAX, s, 1, &st->k.map.at);
    return RC_OK;
}

enum rc cu_want(struct be_plan *p, uint32_t t, bool last, int type, uint32_t *ret_buf)
{
    const struct be_tensor *x = cu_tensor(p, t);
    bool either = cu_same_memory(x);
    struct cu_form from;
    enum rc rc;

    for (uint32_t i = p->first[t]; i != BE_NONE; i = p->form[i].next) {
        if (p->form[i].type != type || (p->form[i].last != last && !either)) continue;
        *ret_buf = p->form[i].buf;
        return RC_OK;
    }
    if (x->konst != NULL) return konst_make(p, t, last, type, ret_buf);
    rc = cu_first(p, t, &from);
    if (rc != RC_OK) return rc;
    CHECK(cu_is_float(x)); /* others have one form */
    rc = cu_buf_new(p, (size_t)be_tensor_count(x) * cu_type_bytes(type), ret_buf);
    if (rc == RC_OK) rc = cu_alias(p, t, last, type, *ret_buf);
    if (rc == RC_OK) rc = lay(p, x, &from, last, type, *ret_buf, "another form");
    return rc;
}

/* ---- making ---- */
static enum rc inputs_make(struct be_plan *p)
{
    for (uint32_t i = 0; i < p->g->input_n; i++) {
        uint32_t t = p->g->input[i], b;
        enum rc rc = buf_add(p, &(struct cu_buf){.place = CU_IN, .io = i}, &b);

        if (rc == RC_OK) rc = cu_alias(p, t, false, (int)cu_tensor(p, t)->dtype, b);
        if (rc != RC_OK) return rc;
    }
    return RC_OK;
}

/* Row-major, in the declared type, into the caller's buffer. */
static enum rc output_make(struct be_plan *p, uint32_t i)
{
    uint32_t t = p->g->output[i], b;
    const struct be_tensor *y = cu_tensor(p, t);
    struct cu_form f;
    struct cu_step *st;
    enum rc rc = buf_add(p, &(struct cu_buf){.place = CU_OUT, .io = i}, &b);

    if (rc == RC_OK) rc = cu_first(p, t, &f);
    if (rc != RC_OK) return rc;
    if (cu_is_float(y)) return lay(p, y, &f, /* last= */ false, K_F32, b, "output");
    st = cu_step_new(p, K_CAST, NULL);
    if (st == NULL) return RC_NOMEM;
    st->why = "output";
    st->buf[0] = b;
    st->buf[1] = f.buf;
    st->k.cast.from = st->k.cast.to = f.type;
    st->k.h.n = (uint32_t)be_tensor_count(y);
    return RC_OK;
}

static enum rc sizes_check(const struct be_graph *g, struct err *reterr)
{
    for (uint32_t i = 0; i < g->tensor_n; i++)
        if (be_tensor_count(&g->tensor[i]) > ELEMENTS_MAX)
            return err_set(reterr, RC_NOMEM,
                           "a value of %llu elements; at most 2^31: take a smaller batch",
                           (unsigned long long)be_tensor_count(&g->tensor[i]));
    return RC_OK;
}

static enum rc place(struct be_plan *p)
{
    struct be_life *life = calloc(MAX(p->buf_n, 1), sizeof(*life));
    uint32_t *order = calloc(MAX(p->buf_n, 1), sizeof(*order));
    enum rc rc = RC_OK;

    if (life == NULL || order == NULL) {
        rc = cu_nomem(p);
        goto out;
    }
    for (uint32_t i = 0; i < p->step_n; i++) {
        for (int k = 0; k < K_PTRS; k++) {
            uint32_t b = p->step[i].buf[k];

            if (b == BE_NONE) continue;
            p->buf[b].from = MIN(p->buf[b].from, i);
            p->buf[b].to = MAX(p->buf[b].to, i);
        }
    }
    for (uint32_t i = 0; i < p->buf_n; i++) {
        struct cu_buf *b = &p->buf[i];

        life[i].from = b->from;
        life[i].to = b->to;
        if (b->place == CU_ARENA && b->from != UINT32_MAX) life[i].bytes = MAX(b->bytes, 1);
        if (b->place != CU_CONST) continue;
        b->off = p->const_bytes;
        p->const_bytes += ROUND_UP(MAX(b->bytes, (size_t)1), (size_t)BE_ARENA_ALIGN * 4);
    }
    p->arena_bytes = be_arena_place(life, p->buf_n, order);
    for (uint32_t i = 0; i < p->buf_n; i++)
        if (p->buf[i].place == CU_ARENA) p->buf[i].off = life[i].off;
    if (cu_plan_bytes(p) > p->bytes_max)
        rc = err_set(p->reterr, RC_NOMEM, "needs %zu bytes; at most %zu: take a smaller batch",
                     cu_plan_bytes(p), p->bytes_max);
out:
    free(life);
    free(order);
    return rc;
}

static enum rc memory(struct be_plan *p, struct cu_ring *up)
{
    enum rc rc = place(p);
    void *m = NULL;

    if (rc == RC_OK) rc = p->ops->alloc(p->dev, MAX(p->const_bytes, 1), &m, p->reterr);
    if (rc != RC_OK) return rc;
    p->consts = m;
    rc = p->ops->alloc(p->dev, MAX(p->arena_bytes, 1), &m, p->reterr);
    if (rc != RC_OK) return rc;
    p->arena = m;
    if (p->workspace_bytes > 0) {
        rc = p->ops->alloc(p->dev, p->workspace_bytes, &m, p->reterr);
        if (rc != RC_OK) return rc;
        p->workspace = m;
    }
    for (uint32_t i = 0; rc == RC_OK && i < p->buf_n; i++) {
        struct cu_buf *b = &p->buf[i];

        if (b->place != CU_CONST) continue;
        rc = cu_ring_up(up, p->consts + b->off, b->host, b->bytes, p->reterr);
        free(b->host);
        b->host = NULL;
    }
    return rc == RC_OK ? p->ops->sync(p->dev, p->reterr) : rc;
}

enum rc cu_plan_new(const struct cu_dev_ops *ops, struct cu_dev *dev, struct cu_ring *up,
                    const struct be_graph *g, const struct be_plan_conf *conf, struct be_plan **ret,
                    struct err *reterr)
{
    static const int types[] = {
        [BE_FP32] = K_F32, [BE_TF32] = K_F32, [BE_PREC_F16] = K_F16, [BE_PREC_BF16] = K_BF16};
    struct be_plan *p = calloc(1, sizeof(*p));
    enum rc rc;

    if (p == NULL) return err_set(reterr, RC_NOMEM, "plan");
    p->ops = ops;
    p->dev = dev;
    p->g = g;
    p->reterr = reterr;
    p->precision = conf->precision;
    p->type = types[conf->precision];
    p->bytes_max = conf->bytes_max;
    p->in_n = g->input_n;
    p->out_n = g->output_n;
    p->first = malloc(MAX(g->tensor_n, 1) * sizeof(*p->first));
    rc = p->first == NULL ? cu_nomem(p) : sizes_check(g, reterr);
    for (uint32_t i = 0; rc == RC_OK && i < CU_RECORDS; i++) {
        p->record[i].io = calloc(MAX(g->input_n + g->output_n, 1), sizeof(void *));
        if (p->record[i].io == NULL) rc = cu_nomem(p);
    }
    for (uint32_t i = 0; rc == RC_OK && i < g->tensor_n; i++)
        p->first[i] = BE_NONE;
    if (rc == RC_OK) rc = inputs_make(p);
    for (uint32_t i = 0; rc == RC_OK && i < g->node_n; i++)
        rc = cu_node(p, &g->node[i]);
    for (uint32_t i = 0; rc == RC_OK && i < g->output_n; i++)
        rc = output_make(p, i);
    if (rc == RC_OK) rc = memory(p, up);
    if (rc != RC_OK) {
        cu_plan_free(p);
        return rc;
    }
    free(p->first);
    free(p->form);
    p->first = NULL;
    p->form = NULL;
    p->g = NULL;
    p->reterr = NULL;
    *ret = p;
    return RC_OK;
}

void cu_plan_free(struct be_plan *p)
{
    struct err ignored;

    if (p == NULL) return;
    (void)!p->ops->sync(p->dev, &ignored); /* lost: nothing runs any more */
    for (uint32_t i = 0; i < CU_RECORDS; i++) {
        p->ops->graph_free(p->record[i].graph);
        free(p->record[i].io);
    }
    for (uint32_t i = 0; i < p->step_n; i++)
        if (p->step[i].exec != NULL) p->ops->exec_free(p->step[i].exec);
    for (uint32_t i = 0; i < p->buf_n; i++)
        free(p->buf[i].host);
    p->ops->free(p->dev, p->consts, p->const_bytes);
    p->ops->free(p->dev, p->arena, p->arena_bytes);
    p->ops->free(p->dev, p->workspace, p->workspace_bytes);
    free(p->first);
    free(p->form);
    free(p->buf);
    free(p->step);
    free(p);
}

size_t cu_plan_bytes(const struct be_plan *p)
{
    return p->const_bytes + p->arena_bytes + p->workspace_bytes;
}

/* ---- running ---- */
static void *buf_at(const struct be_plan *p, uint32_t i, void *const *io)
{
    const struct cu_buf *b = &p->buf[i];

    switch (b->place) {
    case CU_ARENA:
        return p->arena + b->off;
    case CU_CONST:
        return p->consts + b->off;
    case CU_IN:
        return io[b->io];
    case CU_OUT:
        break;
    }
    return io[p->in_n + b->io];
}

static enum rc enqueue(struct be_plan *p, void *const *io, struct err *reterr)
{
    enum rc rc = RC_OK;

    for (uint32_t i = 0; rc == RC_OK && i < p->step_n; i++) {
        struct cu_step *s = &p->step[i];

        for (int k = 0; k < K_PTRS; k++)
            s->k.h.p[k] = s->buf[k] == BE_NONE ? NULL : buf_at(p, s->buf[k], io);
        if (s->id == K_N)
            rc = p->ops->exec_run(p->dev, s->exec, s->k.h.p, p->workspace, reterr);
        else if (s->k.h.n > 0)
            rc = p->ops->kern_run(p->dev, s->id, &s->k, reterr);
    }
    return rc;
}

/* The first run over a set of buffers is plain (libraries load what they need), the second is
 * recorded, later ones are one call. */
enum rc cu_plan_run(struct be_plan *p, void *const *io, struct err *reterr)
{
    size_t bytes = (p->in_n + p->out_n) * sizeof(*io);
    struct cu_record *r = &p->record[0];
    void *graph = NULL;
    enum rc rc, ended;

    for (uint32_t i = 0; i < CU_RECORDS; i++) {
        struct cu_record *k = &p->record[i];

        if (k->used_at > 0 && memcmp(k->io, io, bytes) == 0) {
            r = k;
            break;
        }
        if (k->used_at < r->used_at) r = k; /* the one that was used longest ago */
    }
    if (r->used_at == 0 || memcmp(r->io, io, bytes) != 0) {
        rc = r->graph != NULL ? p->ops->sync(p->dev, reterr) : RC_OK; /* it may run still */
        if (rc != RC_OK) return rc;
        p->ops->graph_free(r->graph);
        r->graph = NULL;
        memcpy(r->io, io, bytes);
        r->used_at = ++p->runs;
        return enqueue(p, io, reterr);
    }
    r->used_at = ++p->runs;
    if (r->graph == NULL) {
        rc = p->ops->graph_begin(p->dev, reterr);
        if (rc != RC_OK) return rc;
        rc = enqueue(p, io, reterr);
        ended = p->ops->graph_end(p->dev, &graph, reterr);
        if (rc == RC_OK) rc = ended;
        if (rc != RC_OK) {
            p->ops->graph_free(graph); /* of a part */
            return rc;
        }
        r->graph = graph;
    }
    return p->ops->graph_run(p->dev, r->graph, reterr);
}

/* ---- words ---- */
void cu_plan_text(const struct be_plan *p, char *buf, size_t cap)
{
    static const char *const kern[] = {"map",   "copy",    "cast", "pad",    "resize",
                                       "pool",  "conv",    "mm",   "reduce", "softmax",
                                       "lnorm", "moments", "join"};
    static const char *const ops[] = {"Conv",    "ConvT",  "Pool",   "MatMul", "Unary",
                                      "Binary",  "Affine", "INorm",  "LNorm",  "Reduce",
                                      "Softmax", "Concat", "Cast",   "View",   "Copy",
                                      "Pad",     "Gather", "Resize", ""};
    size_t at = 0;
    int n =
        snprintf(buf, cap, "%u steps, %zu bytes of constants, %zu of values, %zu of workspace\n",
                 p->step_n, p->const_bytes, p->arena_bytes, p->workspace_bytes);

    for (uint32_t i = 0; n > 0 && i < p->step_n; i++) {
        const struct cu_step *s = &p->step[i];

        at += (size_t)n;
        if (at >= cap) return;
        n = snprintf(buf + at, cap - at, "%s%s%s: %s\n", ops[s->op], s->why != NULL ? " " : "",
                     s->why != NULL ? s->why : "",
                     s->id == K_N ? p->ops->exec_text(s->exec) : kern[s->id]);
    }
}
