/* computed/backend/ref/ref_backend.c - the plain-C operators as a backend.
 * Buffers are host memory; a plan is the graph with its constants copied and
 * its intermediate values placed in one arena. */
#include "computed/backend/arena.h"
#include "computed/backend/host_buf.h"
#include "computed/backend/ref/ref.h"
#include <stdlib.h>
#include <string.h>

struct be_dev {
    uint32_t unused;
};

struct be_plan {
    struct be_graph g;
    void **data;                  /* per tensor */
    struct ref_special **special; /* per node; NULL: ref_run */
    uint8_t *konst;               /* all constants, one block */
    uint8_t *arena;               /* all intermediate values */
    size_t bytes;
};

static enum rc ref_probe(struct err *reterr)
{
    (void)reterr;
    return RC_OK;
}

static enum rc ref_open(uint32_t idx, struct be_dev **ret, struct err *reterr)
{
    struct be_dev *d;

    if (idx != 0) return err_set(reterr, RC_NOTFOUND, "ref has one device, number 0");
    d = calloc(1, sizeof(*d));
    if (d == NULL) return err_set(reterr, RC_NOMEM, "ref device");
    *ret = d;
    return RC_OK;
}

static void ref_close(struct be_dev *d)
{
    free(d);
}

static const char *ref_text(const struct be_dev *d)
{
    (void)d;
    return "ref (plain C)";
}

static void ref_plan_free(struct be_plan *p)
{
    if (p == NULL) return;
    for (uint32_t i = 0; p->g.node != NULL && i < p->g.node_n; i++)
        free((uint32_t *)(uintptr_t)p->g.node[i].in);
    for (uint32_t i = 0; p->special != NULL && i < p->g.node_n; i++)
        if (p->special[i] != NULL) p->special[i]->free(p->special[i]);
    free(p->special);
    free((void *)(uintptr_t)p->g.tensor);
    free((void *)(uintptr_t)p->g.node);
    free((void *)(uintptr_t)p->g.input);
    free((void *)(uintptr_t)p->g.output);
    free(p->data);
    free(p->konst);
    free(p->arena);
    free(p);
}

static void *copy(const void *p, size_t n)
{
    void *r = malloc(MAX(n, 1));

    if (r != NULL && n > 0) memcpy(r, p, n);
    return r;
}

static size_t tensor_bytes(const struct be_tensor *t)
{
    return ROUND_UP(MAX((size_t)be_tensor_count(t) * be_dtype_bytes(t->dtype), 1), (size_t)64);
}

static enum rc graph_copy(struct be_plan *p, const struct be_graph *g, struct err *reterr)
{
    struct be_node *node;

    p->g = *g;
    p->g.tensor = copy(g->tensor, g->tensor_n * sizeof(*g->tensor));
    p->g.input = copy(g->input, g->input_n * sizeof(*g->input));
    p->g.output = copy(g->output, g->output_n * sizeof(*g->output));
    p->g.node = node = calloc(MAX(g->node_n, 1), sizeof(*node));
    p->data = calloc(MAX(g->tensor_n, 1), sizeof(*p->data));
    p->special = calloc(MAX(g->node_n, 1), sizeof(struct ref_special *));
    if (p->special == NULL || p->g.tensor == NULL || p->g.input == NULL || p->g.output == NULL ||
        node == NULL || p->data == NULL)
        return err_set(reterr, RC_NOMEM, "plan");
    for (uint32_t i = 0; i < g->node_n; i++) {
        enum rc rc = ref_check(g, &g->node[i], reterr);

        if (rc != RC_OK) return rc;
        node[i] = g->node[i];
        node[i].name = NULL; /* the caller's, not needed after this */
        node[i].in = copy(g->node[i].in, g->node[i].in_n * sizeof(uint32_t));
        if (node[i].in == NULL) return err_set(reterr, RC_NOMEM, "plan");
    }
    return RC_OK;
}

static void touch(struct be_life *life, uint32_t t, uint32_t step)
{
    if (t == BE_NONE) return;
    life[t].from = MIN(life[t].from, step);
    life[t].to = MAX(life[t].to, step);
}

static enum rc place(struct be_plan *p, size_t bytes_max, struct err *reterr)
{
    const struct be_graph *g = &p->g;
    struct be_life *life = calloc(MAX(g->tensor_n, 1), sizeof(*life));
    uint32_t *order = calloc(MAX(g->tensor_n, 1), sizeof(*order));
    size_t konst = 0, arena = 0, off = 0;
    enum rc rc = RC_OK;

    if (life == NULL || order == NULL) {
        rc = err_set(reterr, RC_NOMEM, "plan");
        goto out;
    }
    for (uint32_t i = 0; i < g->tensor_n; i++) {
        life[i].from = UINT32_MAX;
        if (g->tensor[i].konst != NULL) konst += tensor_bytes(&g->tensor[i]);
    }
    for (uint32_t i = 0; i < g->node_n; i++) {
        for (uint32_t k = 0; k < g->node[i].in_n; k++)
            touch(life, g->node[i].in[k], i);
        touch(life, g->node[i].residual, i);
        touch(life, g->node[i].out, i);
    }
    for (uint32_t i = 0; i < g->output_n; i++) /* copied out after the last node */
        touch(life, g->output[i], g->node_n);
    for (uint32_t i = 0; i < g->tensor_n; i++) {
        bool outside = g->tensor[i].konst != NULL || life[i].from == UINT32_MAX;

        for (uint32_t k = 0; k < g->input_n; k++)
            outside = outside || g->input[k] == i;
        life[i].bytes = outside ? 0 : tensor_bytes(&g->tensor[i]);
        if (life[i].bytes > bytes_max) {
            rc =
                err_set(reterr, RC_NOMEM, "a value of %zu bytes; at most %zu: take a smaller batch",
                        life[i].bytes, bytes_max);
            goto out;
        }
    }
    arena = be_arena_place(life, g->tensor_n, order);
    p->bytes = arena + konst;
    if (p->bytes > bytes_max) {
        rc = err_set(reterr, RC_NOMEM, "needs %zu bytes; at most %zu: take a smaller batch",
                     p->bytes, bytes_max);
        goto out;
    }
    p->konst = aligned_alloc(64, MAX(konst, 64));
    p->arena = aligned_alloc(64, MAX(arena, 64));
    if (p->konst == NULL || p->arena == NULL) {
        rc = err_set(reterr, RC_NOMEM, "needs %zu bytes", p->bytes);
        goto out;
    }
    for (uint32_t i = 0; i < g->tensor_n; i++) {
        const struct be_tensor *t = &g->tensor[i];

        if (t->konst != NULL) {
            memcpy(p->konst + off, t->konst, (size_t)be_tensor_count(t) * be_dtype_bytes(t->dtype));
            p->data[i] = p->konst + off;
            off += tensor_bytes(t);
        } else if (life[i].bytes > 0) {
            p->data[i] = p->arena + life[i].off;
        }
    }
out:
    free(life);
    free(order);
    return rc;
}

static enum rc ref_plan(struct be_dev *d, const struct be_graph *g, const struct be_plan_conf *conf,
                        struct be_plan **ret, struct err *reterr)
{
    struct be_plan *p;
    enum rc rc;

    (void)d;
    if (conf->precision != BE_FP32) return err_set(reterr, RC_UNIMPL, "ref computes in fp32 only");
    p = calloc(1, sizeof(*p));
    if (p == NULL) return err_set(reterr, RC_NOMEM, "plan");
    rc = graph_copy(p, g, reterr);
    if (rc == RC_OK) rc = place(p, conf->bytes_max, reterr);
    if (rc != RC_OK) {
        ref_plan_free(p);
        return rc;
    }
    *ret = p;
    return RC_OK;
}

static size_t ref_plan_bytes(const struct be_plan *p)
{
    return p->bytes;
}

static enum rc ref_run_plan(struct be_plan *p, struct be_buf *const *in, struct be_buf *const *out,
                            struct err *reterr)
{
    const struct be_graph *g = &p->g;

    for (uint32_t i = 0; i < g->input_n; i++)
        p->data[g->input[i]] = in[i]->data;
    for (uint32_t i = 0; i < g->node_n; i++) {
        struct ref_special *s = p->special[i];
        enum rc rc = RC_OK;

        if (s == NULL)
            ref_run(g, &g->node[i], p->data);
        else
            rc = s->run(s, g, &g->node[i], p->data, reterr);
        if (rc != RC_OK) return rc;
    }
    for (uint32_t i = 0; i < g->output_n; i++) {
        const struct be_tensor *t = &g->tensor[g->output[i]];
        size_t n = (size_t)be_tensor_count(t) * be_dtype_bytes(t->dtype);

        CHECK(out[i]->bytes >= n);
        if (n > 0) memcpy(out[i]->data, p->data[g->output[i]], n);
    }
    return RC_OK;
}

enum rc ref_plan_special(struct be_plan *p, uint32_t node_idx, struct ref_special *s,
                         size_t bytes_max, struct err *reterr)
{
    CHECK(node_idx < p->g.node_n && p->special[node_idx] == NULL);
    if (s->bytes > bytes_max || p->bytes > bytes_max - s->bytes)
        return err_set(reterr, RC_NOMEM,
                       "needs more than %zu bytes; at most %zu: take a smaller batch", p->bytes,
                       bytes_max);
    p->special[node_idx] = s;
    p->bytes += s->bytes;
    return RC_OK;
}

static enum rc ref_sync(struct be_dev *d, struct err *reterr)
{
    (void)d;
    (void)reterr;
    return RC_OK;
}

const struct be_ops *ref_backend(void)
{
    static const struct be_ops ops = {
        .abi = BE_ABI,
        .name = "ref",
        .probe = ref_probe,
        .open = ref_open,
        .close = ref_close,
        .text = ref_text,
        .buf_alloc = host_buf_alloc,
        .buf_free = host_buf_free,
        .upload = host_buf_upload,
        .download = host_buf_download,
        .plan = ref_plan,
        .plan_free = ref_plan_free,
        .plan_bytes = ref_plan_bytes,
        .run = ref_run_plan,
        .sync = ref_sync,
    };

    return &ops;
}
