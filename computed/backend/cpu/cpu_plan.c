/* computed/backend/cpu/cpu_plan.c - forms, buffers, steps of a plan; its making
 * and its run.
 *
 * Buffers that are touched only by steps a..b share the arena with others
 * (arena.h). A buffer that lies within another counts as that one. Everything
 * that allocates does so here, before the first run; a run only computes. */
#include "computed/backend/arena.h"
#include "computed/backend/cpu/cpu.h"
#include "computed/backend/cpu/cpu_priv.h"
#include "computed/backend/ref/ref.h"
#include <stdlib.h>
#include <string.h>

enum rc cpu_nomem(struct be_plan *p)
{
    return err_set(p->reterr, RC_NOMEM, "plan");
}

enum rc rc_from_dnnl(dnnl_status_t s)
{
    return s == dnnl_success ? RC_OK : s == dnnl_out_of_memory ? RC_NOMEM : RC_INTERNAL;
}

enum rc cpu_dnnl(struct be_plan *p, dnnl_status_t s)
{
    if (s == dnnl_success) return RC_OK;
    return s == dnnl_out_of_memory ? cpu_nomem(p) : RC_UNIMPL; /* the caller turns to ref */
}

void *cpu_fixed_alloc(struct be_plan *p, size_t bytes)
{
    size_t n = ROUND_UP(MAX(bytes, (size_t)64), (size_t)64);
    struct cpu_fixed *f = malloc(sizeof(*f));

    if (f == NULL) return NULL;
    f->p = n < bytes ? NULL : aligned_alloc(64, n);
    if (f->p == NULL) {
        free(f);
        return NULL;
    }
    memset(f->p, 0, n);
    f->bytes = n;
    f->next = p->fixed;
    p->fixed = f;
    p->bytes += n;
    return f->p;
}

const struct be_tensor *cpu_tensor(const struct be_plan *p, uint32_t t)
{
    return &p->g.tensor[t];
}

size_t cpu_tensor_bytes(const struct be_tensor *t)
{
    return (size_t)be_tensor_count(t) * be_dtype_bytes(t->dtype);
}

/* Room for one more in an array of `size`d elements. */
static bool grow(void *array, uint32_t n, uint32_t *cap, size_t size)
{
    void **a = array, *p;

    if (n < *cap) return true;
    p = realloc(*a, MAX(64u, 2 * *cap) * size);
    if (p == NULL) return false;
    *a = p;
    *cap = MAX(64u, 2 * *cap);
    return true;
}

enum rc cpu_buf_new(struct be_plan *p, size_t bytes, uint32_t *ret)
{
    if (!grow(&p->buf, p->buf_n, &p->buf_cap, sizeof(*p->buf))) return cpu_nomem(p);
    p->buf[p->buf_n] =
        (struct cpu_buf){.bytes = MAX(bytes, (size_t)1), .from = UINT32_MAX, .root = p->buf_n};
    *ret = p->buf_n++;
    return RC_OK;
}

void cpu_touch(struct be_plan *p, uint32_t buf)
{
    struct cpu_buf *b = &p->buf[buf];

    b->from = MIN(b->from, p->step_n);
    b->to = MAX(b->to, p->step_n);
}

struct cpu_step *cpu_step_new(struct be_plan *p)
{
    struct cpu_step *s;

    if (!grow(&p->step, p->step_n, &p->step_cap, sizeof(*p->step))) {
        (void)cpu_nomem(p);
        return NULL;
    }
    s = &p->step[p->step_n++];
    *s = (struct cpu_step){.node = BE_NONE};
    return s;
}

struct cpu_step *cpu_kern_new(struct be_plan *p, cpu_run_fn run, const struct be_node *n)
{
    struct cpu_kern *k = cpu_fixed_alloc(p, sizeof(*k));
    struct cpu_step *s = k == NULL ? NULL : cpu_step_new(p);

    if (s == NULL) {
        (void)cpu_nomem(p);
        return NULL;
    }
    k->ops = p->kern;
    k->n = n;
    for (int i = 0; i < 4; i++)
        k->buf[i] = BE_NONE;
    s->run = run;
    s->kern = k;
    return s;
}

/* ---- layouts ---- */
void cpu_md_plain(dnnl_memory_desc_t *md, const struct be_tensor *t)
{
    dnnl_dims_t d = {1}, stride = {1};
    int64_t step = 1;

    for (int i = t->rank; i-- > 0;) {
        d[i] = t->dim[i];
        stride[i] = step;
        step *= t->dim[i];
    }
    /* cannot fail: ranks and dims are checked */
    (void)dnnl_memory_desc_init_by_strides(md, MAX(t->rank, 1), d, dnnl_f32, stride);
}

bool cpu_lay(const dnnl_memory_desc_t *md, struct kern_lay *ret)
{
    const dnnl_blocking_desc_t *b = &md->format_desc.blocking;
    int64_t s = 1, expect;
    int r = md->ndims;

    if (md->format_kind != dnnl_blocked || md->data_type != dnnl_f32 || md->offset0 != 0 || r < 2)
        return false;
    for (int i = 2; i < r; i++)
        s *= md->dims[i];
    *ret = (struct kern_lay){.n = md->dims[0], .cb = md->dims[1], .s = s, .l = 1};
    if (b->inner_nblks == 1 && b->inner_idxs[0] == 1) {
        ret->l = b->inner_blks[0];
        ret->cb = md->padded_dims[1] / ret->l;
    } else if (b->inner_nblks != 0) {
        return false;
    } else if (s > 1 && md->dims[1] > 1 && b->strides[1] == 1) {
        ret->l = md->dims[1];
        ret->cb = 1;
    }
    if (md->padded_dims[1] != ret->cb * ret->l) return false;
    expect = ret->l; /* spatial dims dense and in order, then cb, then n */
    for (int i = r; i-- > 2;) {
        if (md->dims[i] > 1 && b->strides[i] != expect) return false;
        expect *= md->dims[i];
    }
    if (ret->cb > 1 && b->strides[1] != expect) return false;
    expect *= ret->cb;
    return ret->n == 1 || b->strides[0] == expect;
}

/* ---- forms ---- */
static enum rc form_add(struct be_plan *p, uint32_t t, bool plain, const dnnl_memory_desc_t *md,
                        uint32_t buf)
{
    struct cpu_form *f;
    uint32_t *at = &p->first[t];

    if (!grow(&p->form, p->form_n, &p->form_cap, sizeof(*p->form))) return cpu_nomem(p);
    f = &p->form[p->form_n];
    *f = (struct cpu_form){.next = BE_NONE, .plain = plain, .buf = buf};
    if (md != NULL) {
        dnnl_memory_desc_t own;

        f->md = *md;
        cpu_md_plain(&own, cpu_tensor(p, t));
        f->plain = f->plain || dnnl_memory_desc_equal(&own, md);
    } else if (cpu_tensor(p, t)->dtype == BE_F32) {
        cpu_md_plain(&f->md, cpu_tensor(p, t));
    }
    while (*at != BE_NONE)
        at = &p->form[*at].next;
    *at = p->form_n++;
    return RC_OK;
}

const struct cpu_form *cpu_first(const struct be_plan *p, uint32_t t)
{
    return p->first[t] == BE_NONE ? NULL : &p->form[p->first[t]];
}

enum rc cpu_form_in(struct be_plan *p, uint32_t t, const dnnl_memory_desc_t *md, uint32_t buf)
{
    return form_add(p, t, md == NULL, md, buf);
}

enum rc cpu_form_make(struct be_plan *p, uint32_t t, const dnnl_memory_desc_t *md, uint32_t *ret)
{
    enum rc rc = cpu_buf_new(p, dnnl_memory_desc_get_size(md), ret);

    return rc != RC_OK ? rc : form_add(p, t, false, md, *ret);
}

enum rc cpu_form_make_plain(struct be_plan *p, uint32_t t, uint32_t *ret)
{
    enum rc rc = cpu_buf_new(p, cpu_tensor_bytes(cpu_tensor(p, t)), ret);

    return rc != RC_OK ? rc : form_add(p, t, true, NULL, *ret);
}

static dnnl_status_t reorder_make(struct be_plan *p, const dnnl_memory_desc_t *from,
                                  const dnnl_memory_desc_t *to, dnnl_primitive_t *ret)
{
    dnnl_primitive_desc_t pd = NULL;
    dnnl_status_t st =
        dnnl_reorder_primitive_desc_create(&pd, from, p->engine, to, p->engine, NULL);

    if (st == dnnl_success) st = dnnl_primitive_create(ret, pd);
    if (pd != NULL) (void)dnnl_primitive_desc_destroy(pd);
    return st;
}

/* A constant in another layout, here and now. */
static dnnl_status_t reorder_now(struct be_plan *p, const void *src, const dnnl_memory_desc_t *from,
                                 void *dst, const dnnl_memory_desc_t *to)
{
    dnnl_exec_arg_t arg[2] = {{.arg = DNNL_ARG_FROM}, {.arg = DNNL_ARG_TO}};
    dnnl_primitive_t prim = NULL;
    dnnl_status_t st = reorder_make(p, from, to, &prim);

    if (st == dnnl_success)
        st = dnnl_memory_create(&arg[0].memory, from, p->engine, (void *)(uintptr_t)src);
    if (st == dnnl_success) st = dnnl_memory_create(&arg[1].memory, to, p->engine, dst);
    if (st == dnnl_success) st = dnnl_primitive_execute(prim, p->stream, 2, arg);
    if (st == dnnl_success) st = dnnl_stream_wait(p->stream);
    for (int i = 0; i < 2; i++)
        if (arg[i].memory != NULL) (void)dnnl_memory_destroy(arg[i].memory);
    if (prim != NULL) (void)dnnl_primitive_destroy(prim);
    return st;
}

static enum rc konst_form(struct be_plan *p, uint32_t t, const dnnl_memory_desc_t *md,
                          uint32_t *ret)
{
    const struct be_tensor *k = cpu_tensor(p, t);
    size_t bytes = md == NULL ? cpu_tensor_bytes(k) : dnnl_memory_desc_get_size(md);
    uint8_t *fixed = cpu_fixed_alloc(p, bytes);
    dnnl_memory_desc_t own;
    enum rc rc;

    if (fixed == NULL) return cpu_nomem(p);
    if (md == NULL) {
        memcpy(fixed, k->konst, bytes);
    } else {
        cpu_md_plain(&own, k);
        rc = cpu_dnnl(p, reorder_now(p, k->konst, &own, fixed, md));
        if (rc != RC_OK) return rc;
    }
    rc = cpu_buf_new(p, bytes, ret);
    if (rc != RC_OK) return rc;
    p->buf[*ret].fixed = fixed;
    return form_add(p, t, md == NULL, md, *ret);
}

static enum rc reorder_step(struct be_plan *p, uint32_t from, const dnnl_memory_desc_t *from_md,
                            uint32_t to, const dnnl_memory_desc_t *to_md)
{
    dnnl_primitive_t prim = NULL;
    enum rc rc = cpu_dnnl(p, reorder_make(p, from_md, to_md, &prim));
    struct cpu_step *s;

    if (rc != RC_OK) return rc;
    cpu_touch(p, from);
    cpu_touch(p, to);
    s = cpu_step_new(p);
    if (s == NULL || (s->arg = cpu_fixed_alloc(p, 2 * sizeof(*s->arg))) == NULL) {
        (void)dnnl_primitive_destroy(prim);
        return cpu_nomem(p);
    }
    s->prim = prim;
    s->arg[0] = (struct cpu_arg){.what = DNNL_ARG_FROM, .buf = from, .md = *from_md};
    s->arg[1] = (struct cpu_arg){.what = DNNL_ARG_TO, .buf = to, .md = *to_md};
    s->arg_n = 2;
    return RC_OK;
}

enum rc cpu_convert(struct be_plan *p, const dnnl_memory_desc_t *from, const dnnl_memory_desc_t *to,
                    uint32_t *buf)
{
    uint32_t b = *buf;
    enum rc rc;

    if (dnnl_memory_desc_equal(from, to)) return RC_OK;
    rc = cpu_buf_new(p, dnnl_memory_desc_get_size(to), buf);
    return rc != RC_OK ? rc : reorder_step(p, b, from, *buf, to);
}

enum rc cpu_weights(struct be_plan *p, uint32_t t, const dnnl_memory_desc_t *md,
                    const dnnl_memory_desc_t *want, float scale, uint32_t *ret)
{
    const struct be_tensor *k = cpu_tensor(p, t);
    uint64_t count = be_tensor_count(k);
    float *scaled = NULL;
    uint8_t *fixed;
    enum rc rc;

    if (k->konst == NULL) {
        CHECK(scale >= 1 && scale <= 1);
        rc = cpu_form_plain(p, t, ret);
        return rc != RC_OK ? rc : cpu_convert(p, md, want, ret);
    }
    rc = cpu_buf_new(p, dnnl_memory_desc_get_size(want), ret);
    if (rc != RC_OK) return rc;
    fixed = cpu_fixed_alloc(p, dnnl_memory_desc_get_size(want));
    if (fixed == NULL) return cpu_nomem(p);
    p->buf[*ret].fixed = fixed;
    if (scale < 1 || scale > 1) {
        scaled = malloc((size_t)count * sizeof(float));
        if (scaled == NULL) return cpu_nomem(p);
        for (uint64_t i = 0; i < count; i++)
            scaled[i] = ((const float *)k->konst)[i] * scale;
    }
    rc = cpu_dnnl(p, reorder_now(p, scaled != NULL ? scaled : k->konst, md, fixed, want));
    free(scaled);
    return rc;
}

enum rc cpu_form_get(struct be_plan *p, uint32_t t, const dnnl_memory_desc_t *md, uint32_t *ret)
{
    struct cpu_form f;
    enum rc rc;

    for (uint32_t i = p->first[t]; i != BE_NONE; i = p->form[i].next) {
        if (!dnnl_memory_desc_equal(&p->form[i].md, md)) continue;
        *ret = p->form[i].buf;
        return RC_OK;
    }
    if (cpu_tensor(p, t)->konst != NULL) return konst_form(p, t, md, ret);
    CHECK(p->first[t] != BE_NONE && cpu_tensor(p, t)->dtype == BE_F32);
    f = p->form[p->first[t]];
    rc = cpu_form_make(p, t, md, ret);
    return rc != RC_OK ? rc : reorder_step(p, f.buf, &f.md, *ret, md);
}

enum rc cpu_form_plain(struct be_plan *p, uint32_t t, uint32_t *ret)
{
    dnnl_memory_desc_t md;

    for (uint32_t i = p->first[t]; i != BE_NONE; i = p->form[i].next) {
        if (!p->form[i].plain) continue;
        *ret = p->form[i].buf;
        return RC_OK;
    }
    if (cpu_tensor(p, t)->konst != NULL) return konst_form(p, t, NULL, ret);
    cpu_md_plain(&md, cpu_tensor(p, t));
    return cpu_form_get(p, t, &md, ret);
}

static void run_bytes(const struct cpu_step *s)
{
    if (s->kern->ptr[0] != s->kern->ptr[1])
        memcpy(s->kern->ptr[1], s->kern->ptr[0], s->kern->bytes);
}

enum rc cpu_copy_step(struct be_plan *p, uint32_t from, uint32_t to, size_t bytes)
{
    struct cpu_step *s;

    cpu_touch(p, from);
    cpu_touch(p, to);
    s = cpu_kern_new(p, run_bytes, NULL);
    if (s == NULL) return RC_NOMEM;
    s->kern->buf[0] = from;
    s->kern->buf[1] = to;
    s->kern->bytes = bytes;
    return RC_OK;
}

/* ---- making ---- */
static enum rc by_ref(struct be_plan *p, uint32_t node_idx)
{
    const struct be_node *n = &p->g.node[node_idx];
    struct cpu_step *s;
    uint32_t b;
    enum rc rc = ref_check(&p->g, n, p->reterr);

    for (uint32_t k = 0; rc == RC_OK && k < n->in_n; k++)
        rc = cpu_form_plain(p, n->in[k], &b);
    if (rc == RC_OK && n->residual != BE_NONE) rc = cpu_form_plain(p, n->residual, &b);
    if (rc == RC_OK) rc = cpu_form_make_plain(p, n->out, &b);
    if (rc != RC_OK) return rc;
    for (uint32_t k = 0; k <= n->in_n + 1; k++) { /* forms exist: this finds them */
        uint32_t t = k < n->in_n ? n->in[k] : k == n->in_n ? n->out : n->residual;

        if (t == BE_NONE) continue;
        rc = cpu_form_plain(p, t, &b);
        if (rc != RC_OK) return rc;
        cpu_touch(p, b);
    }
    s = cpu_step_new(p);
    if (s == NULL) return RC_NOMEM;
    s->node = node_idx;
    return RC_OK;
}

static enum rc node_plan(struct be_plan *p, const struct be_node *n)
{
    switch (n->op) {
    case BE_CONV:
    case BE_CONV_T:
        return cpu_conv(p, n);
    case BE_POOL:
        return cpu_pool(p, n);
    case BE_MATMUL:
        return cpu_matmul(p, n);
    case BE_UNARY:
        return cpu_unary(p, n);
    case BE_BINARY:
        return cpu_binary(p, n);
    case BE_AFFINE:
    case BE_INORM:
        return cpu_affine(p, n);
    case BE_LNORM:
        return cpu_lnorm(p, n);
    case BE_REDUCE:
        return cpu_reduce(p, n);
    case BE_SOFTMAX:
        return cpu_softmax(p, n);
    case BE_CONCAT:
        return cpu_concat(p, n);
    case BE_VIEW:
        return cpu_view(p, n);
    case BE_COPY:
        return cpu_copy(p, n);
    case BE_RESIZE:
        return cpu_resize(p, n);
    default:
        return RC_UNIMPL;
    }
}

static enum rc graph_copy(struct be_plan *p, const struct be_graph *g)
{
    struct be_node *node;
    struct be_tensor *tensor;
    uint32_t *io;

    p->g = *g;
    p->g.tensor = tensor = cpu_fixed_alloc(p, g->tensor_n * sizeof(*tensor));
    p->g.node = node = cpu_fixed_alloc(p, g->node_n * sizeof(*node));
    p->g.input = io = cpu_fixed_alloc(p, (g->input_n + g->output_n) * sizeof(*io));
    p->first = cpu_fixed_alloc(p, g->tensor_n * sizeof(*p->first));
    p->readers = cpu_fixed_alloc(p, g->tensor_n * sizeof(*p->readers));
    p->data = cpu_fixed_alloc(p, g->tensor_n * sizeof(*p->data));
    p->in_buf = cpu_fixed_alloc(p, (g->input_n + g->output_n) * sizeof(*p->in_buf));
    if (tensor == NULL || node == NULL || io == NULL || p->first == NULL || p->readers == NULL ||
        p->data == NULL || p->in_buf == NULL)
        return cpu_nomem(p);
    p->out_buf = p->in_buf + g->input_n;
    p->g.output = io + g->input_n;
    memcpy(tensor, g->tensor, g->tensor_n * sizeof(*tensor));
    memcpy(io, g->input, g->input_n * sizeof(*io));
    memcpy(io + g->input_n, g->output, g->output_n * sizeof(*io));
    for (uint32_t i = 0; i < g->tensor_n; i++)
        p->first[i] = BE_NONE;
    for (uint32_t i = 0; i < g->output_n; i++)
        p->readers[g->output[i]]++;
    for (uint32_t i = 0; i < g->node_n; i++) {
        uint32_t *in = cpu_fixed_alloc(p, g->node[i].in_n * sizeof(*in));

        if (in == NULL) return cpu_nomem(p);
        memcpy(in, g->node[i].in, g->node[i].in_n * sizeof(*in));
        node[i] = g->node[i];
        node[i].in = in;
        for (uint32_t k = 0; k < node[i].in_n; k++)
            p->readers[in[k]]++;
        if (node[i].residual != BE_NONE) p->readers[node[i].residual]++;
        p->blocked = p->blocked || (node[i].op == BE_CONCAT && node[i].u.concat_axis == 1 &&
                                    g->tensor[node[i].out].rank > 3);
    }
    return RC_OK;
}

static enum rc nodes_plan(struct be_plan *p)
{
    enum rc rc = RC_OK;

    for (uint32_t i = 0; rc == RC_OK && i < p->g.input_n; i++) {
        rc = cpu_form_make_plain(p, p->g.input[i], &p->in_buf[i]);
        if (rc == RC_OK) cpu_touch(p, p->in_buf[i]);
    }
    for (uint32_t i = 0; rc == RC_OK && i < p->g.node_n; i++) {
        const struct be_node *n = &p->g.node[i];
        bool empty = be_tensor_count(cpu_tensor(p, n->out)) == 0;

        for (uint32_t k = 0; k < n->in_n; k++) {
            p->readers[n->in[k]]--;
            empty = empty || be_tensor_count(cpu_tensor(p, n->in[k])) == 0;
        }
        if (n->residual != BE_NONE) p->readers[n->residual]--;
        rc = empty ? RC_UNIMPL : node_plan(p, n);
        if (rc == RC_UNIMPL) {
            CHECK(p->first[n->out] == BE_NONE); /* nothing half done */
            rc = by_ref(p, i);
        }
    }
    for (uint32_t i = 0; rc == RC_OK && i < p->g.output_n; i++) {
        rc = cpu_form_plain(p, p->g.output[i], &p->out_buf[i]);
    }
    for (uint32_t i = 0; rc == RC_OK && i < p->g.output_n; i++)
        cpu_touch(p, p->out_buf[i]); /* after the last step */
    return rc;
}

/* ---- places ---- */
static uint8_t *buf_ptr(const struct be_plan *p, uint32_t b)
{
    size_t off = 0;

    while (p->buf[b].root != b) {
        off += p->buf[b].root_off;
        b = p->buf[b].root;
    }
    return p->buf[b].fixed != NULL ? p->buf[b].fixed + off : p->arena + p->buf[b].off + off;
}

static enum rc place(struct be_plan *p, size_t bytes_max)
{
    struct be_life *life = calloc(MAX(p->buf_n, 1), sizeof(*life));
    uint32_t *order = calloc(MAX(p->buf_n, 1), sizeof(*order)), n = 0;
    size_t arena;
    enum rc rc = life == NULL || order == NULL ? cpu_nomem(p) : RC_OK;

    for (uint32_t i = 0; rc == RC_OK && i < p->buf_n;
         i++) { /* what lies within counts as the whole */
        uint32_t r = i;

        while (p->buf[r].root != r)
            r = p->buf[r].root;
        p->buf[r].from = MIN(p->buf[r].from, p->buf[i].from);
        p->buf[r].to = MAX(p->buf[r].to, p->buf[i].to);
    }
    for (uint32_t i = 0; rc == RC_OK && i < p->buf_n; i++) {
        struct cpu_buf *b = &p->buf[i];

        if (b->fixed != NULL || b->root != i || b->from == UINT32_MAX) continue;
        if (b->bytes > bytes_max)
            rc = err_set(p->reterr, RC_NOMEM,
                         "a value of %zu bytes; at most %zu: take a smaller batch", b->bytes,
                         bytes_max);
        life[n++] = (struct be_life){.bytes = b->bytes, .from = b->from, .to = b->to};
    }
    if (rc == RC_OK) {
        arena = be_arena_place(life, n, order);
        p->bytes += arena + p->scratch_bytes;
        if (p->bytes > bytes_max)
            rc = err_set(p->reterr, RC_NOMEM, "needs %zu bytes; at most %zu: take a smaller batch",
                         p->bytes, bytes_max);
    }
    if (rc == RC_OK) {
        p->arena = aligned_alloc(64, ROUND_UP(MAX(arena, (size_t)64), (size_t)64));
        p->scratch = aligned_alloc(64, ROUND_UP(MAX(p->scratch_bytes, (size_t)64), (size_t)64));
        if (p->arena == NULL || p->scratch == NULL)
            rc = err_set(p->reterr, RC_NOMEM, "needs %zu bytes", p->bytes);
        else
            memset(p->arena, 0, MAX(arena, (size_t)64)); /* padded channels hold finite values */
    }
    n = 0;
    for (uint32_t i = 0; rc == RC_OK && i < p->buf_n; i++) {
        struct cpu_buf *b = &p->buf[i];

        if (b->fixed != NULL || b->root != i || b->from == UINT32_MAX) continue;
        b->off = life[n++].off;
    }
    free(life);
    free(order);
    return rc;
}

/* Addresses are known: memory objects and pointers. */
static enum rc steps_bind(struct be_plan *p)
{
    for (uint32_t i = 0; i < p->step_n; i++) {
        struct cpu_step *s = &p->step[i];

        for (int k = 0; s->kern != NULL && k < 4; k++)
            if (s->kern->buf[k] != BE_NONE) s->kern->ptr[k] = buf_ptr(p, s->kern->buf[k]);
        for (uint32_t k = 0; s->kern != NULL && k < s->kern->part_n; k++)
            s->kern->part_ptr[k] = buf_ptr(p, s->kern->parts[k]);
        if (s->prim == NULL) continue;
        s->exec = cpu_fixed_alloc(p, (size_t)s->arg_n * sizeof(*s->exec));
        if (s->exec == NULL) return cpu_nomem(p);
        for (int k = 0; k < s->arg_n; k++) {
            void *at = s->arg[k].buf == BE_NONE ? p->scratch : buf_ptr(p, s->arg[k].buf);
            dnnl_status_t st = dnnl_memory_create(&s->exec[k].memory, &s->arg[k].md, p->engine, at);

            if (st != dnnl_success)
                return err_set(p->reterr, rc_from_dnnl(st), "oneDNN: status %d", (int)st);
            s->exec[k].arg = s->arg[k].what;
        }
    }
    for (uint32_t t = 0; t < p->g.tensor_n; t++)
        for (uint32_t f = p->first[t]; f != BE_NONE; f = p->form[f].next)
            if (p->form[f].plain) p->data[t] = buf_ptr(p, p->form[f].buf);
    return RC_OK;
}

void cpu_plan_free(struct be_plan *p)
{
    struct cpu_fixed *f, *next;

    if (p == NULL) return;
    for (uint32_t i = 0; i < p->step_n; i++) {
        for (int k = 0; p->step[i].exec != NULL && k < p->step[i].arg_n; k++)
            if (p->step[i].exec[k].memory != NULL)
                (void)dnnl_memory_destroy(p->step[i].exec[k].memory);
        if (p->step[i].prim != NULL) (void)dnnl_primitive_destroy(p->step[i].prim);
    }
    for (f = p->fixed; f != NULL; f = next) {
        next = f->next;
        free(f->p);
        free(f);
    }
    free(p->form);
    free(p->buf);
    free(p->step);
    free(p->arena);
    free(p->scratch);
    free(p);
}

enum rc cpu_plan_new(const struct cpu_plan_conf *c, const struct be_graph *g,
                     const struct be_plan_conf *conf, struct be_plan **ret, struct err *reterr)
{
    struct be_plan *p = calloc(1, sizeof(*p));
    enum rc rc;

    if (p == NULL) return err_set(reterr, RC_NOMEM, "plan");
    p->engine = c->engine;
    p->stream = c->stream;
    p->kern = c->kern;
    p->precision = conf->precision;
    p->reterr = reterr;
    rc = graph_copy(p, g);
    if (rc == RC_OK) rc = nodes_plan(p);
    if (rc == RC_OK) cpu_concat_share(p);
    if (rc == RC_OK) rc = place(p, conf->bytes_max);
    if (rc == RC_OK) rc = steps_bind(p);
    p->reterr = NULL;
    if (rc != RC_OK) {
        cpu_plan_free(p);
        return rc;
    }
    for (uint32_t i = 0; i < p->g.tensor_n; i++) /* borrowed until now */
        ((struct be_tensor *)(uintptr_t)p->g.tensor)[i].konst = NULL;
    *ret = p;
    return RC_OK;
}

size_t cpu_plan_bytes(const struct be_plan *p)
{
    return p->bytes;
}

void cpu_plan_io(const struct be_plan *p, uint32_t *ret_in_n, uint32_t *ret_out_n)
{
    *ret_in_n = p->g.input_n;
    *ret_out_n = p->g.output_n;
}

enum rc cpu_plan_run(struct be_plan *p, const void *const *in, void *const *out, struct err *reterr)
{
    for (uint32_t i = 0; i < p->g.input_n; i++)
        memcpy(buf_ptr(p, p->in_buf[i]), in[i], cpu_tensor_bytes(cpu_tensor(p, p->g.input[i])));
    for (uint32_t i = 0; i < p->step_n; i++) {
        const struct cpu_step *s = &p->step[i];
        dnnl_status_t st;

        if (s->run != NULL) {
            s->run(s);
        } else if (s->prim != NULL) {
            st = dnnl_primitive_execute(s->prim, p->stream, s->arg_n, s->exec);
            if (st == dnnl_success) st = dnnl_stream_wait(p->stream);
            if (st != dnnl_success)
                return err_set(reterr, rc_from_dnnl(st), "oneDNN: status %d", (int)st);
        } else {
            ref_run(&p->g, &p->g.node[s->node], p->data);
        }
    }
    for (uint32_t i = 0; i < p->g.output_n; i++)
        memcpy(out[i], buf_ptr(p, p->out_buf[i]), cpu_tensor_bytes(cpu_tensor(p, p->g.output[i])));
    return RC_OK;
}
