/* computed/backend/cpu/cpu.c - the plugin `cpu`: a plan of "ref" in which the nodes that cost time
 * are oneDNN primitives. Buffers, constants and the placing of values are ref's; fp32. */
#include "computed/backend/cpu/cpu_priv.h"
#include <stdio.h>
#include <stdlib.h>

/* Of the OpenMP library that oneDNN brings along; absent with another threading of it. */
void omp_set_num_threads(int n) __attribute__((weak));

struct be_dev {
    const struct be_ops *ref;
    struct be_dev *host; /* ref's device */
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    char text[48];
};

enum rc rc_from_dnnl(dnnl_status_t s)
{
    return s == dnnl_success ? RC_OK : s == dnnl_out_of_memory ? RC_NOMEM : RC_INTERNAL;
}

static enum rc cpu_probe(struct err *reterr)
{
    if (dnnl_engine_get_count(dnnl_cpu) > 0) return RC_OK;
    return err_set(reterr, RC_UNAVAIL, "oneDNN was built without a CPU engine");
}

static void cpu_close(struct be_dev *d)
{
    if (d == NULL) return;
    if (d->stream != NULL) (void)dnnl_stream_destroy(d->stream); /* nothing more can be done */
    if (d->engine != NULL) (void)dnnl_engine_destroy(d->engine);
    if (d->host != NULL) d->ref->close(d->host);
    free(d);
}

static enum rc cpu_open(uint32_t idx, struct be_dev **ret, struct err *reterr)
{
    const dnnl_version_t *v = dnnl_version();
    struct be_dev *d;
    dnnl_status_t s;
    enum rc rc;

    if (idx != 0) return err_set(reterr, RC_NOTFOUND, "cpu has one device, number 0");
    d = calloc(1, sizeof(*d));
    if (d == NULL) return err_set(reterr, RC_NOMEM, "cpu device");
    d->ref = ref_backend();
    rc = d->ref->open(0, &d->host, reterr);
    if (rc != RC_OK) goto out;
    s = dnnl_engine_create(&d->engine, dnnl_cpu, 0);
    if (s == dnnl_success) s = dnnl_stream_create(&d->stream, d->engine, dnnl_stream_default_flags);
    if (s != dnnl_success) {
        rc = err_set(reterr, rc_from_dnnl(s), "oneDNN gives no CPU engine: status %d", (int)s);
        goto out;
    }
    (void)snprintf(d->text, sizeof(d->text), "cpu (oneDNN %d.%d.%d)", v->major, v->minor, v->patch);
    *ret = d;
    return RC_OK;
out:
    cpu_close(d);
    return rc;
}

static const char *cpu_text(const struct be_dev *d)
{
    return d->text;
}

static enum rc cpu_buf_alloc(struct be_dev *d, size_t bytes, struct be_buf **ret,
                             struct err *reterr)
{
    return d->ref->buf_alloc(d->host, bytes, ret, reterr);
}

static void cpu_buf_free(struct be_dev *d, struct be_buf *b)
{
    d->ref->buf_free(d->host, b);
}

static enum rc cpu_upload(struct be_dev *d, struct be_buf *b, size_t off, const void *src, size_t n,
                          struct err *reterr)
{
    return d->ref->upload(d->host, b, off, src, n, reterr);
}

static enum rc cpu_download(struct be_dev *d, const struct be_buf *b, size_t off, void *dst,
                            size_t n, struct err *reterr)
{
    return d->ref->download(d->host, b, off, dst, n, reterr);
}

static enum rc cpu_plan(struct be_dev *d, const struct be_graph *g, const struct be_plan_conf *conf,
                        struct be_plan **ret, struct err *reterr)
{
    struct be_plan *p = NULL;
    enum rc rc;

    if (conf->precision != BE_FP32) return err_set(reterr, RC_UNIMPL, "cpu computes in fp32 only");
    if (omp_set_num_threads != NULL) omp_set_num_threads((int)MIN(MAX(conf->threads, 1u), 1024u));
    rc = d->ref->plan(d->host, g, conf, &p, reterr);
    for (uint32_t i = 0; rc == RC_OK && i < g->node_n; i++) {
        struct ref_special *s = NULL;

        rc = cpu_node(d->engine, d->stream, g, &g->node[i], &s, reterr);
        if (rc != RC_OK || s == NULL) continue;
        rc = ref_plan_special(p, i, s, conf->bytes_max, reterr);
        if (rc != RC_OK) s->free(s);
    }
    if (rc != RC_OK) {
        d->ref->plan_free(p);
        return rc;
    }
    *ret = p;
    return RC_OK;
}

static void cpu_plan_free(struct be_plan *p)
{
    ref_backend()->plan_free(p);
}

static size_t cpu_plan_bytes(const struct be_plan *p)
{
    return ref_backend()->plan_bytes(p);
}

static enum rc cpu_run(struct be_plan *p, struct be_buf *const *in, struct be_buf *const *out,
                       struct err *reterr)
{
    return ref_backend()->run(p, in, out, reterr);
}

static enum rc cpu_sync(struct be_dev *d, struct err *reterr)
{
    return d->ref->sync(d->host, reterr);
}

__attribute__((visibility("default"))) const struct be_ops *mikura_backend(void);
const struct be_ops *mikura_backend(void)
{
    static const struct be_ops ops = {
        .abi = BE_ABI,
        .name = "cpu",
        .probe = cpu_probe,
        .open = cpu_open,
        .close = cpu_close,
        .text = cpu_text,
        .buf_alloc = cpu_buf_alloc,
        .buf_free = cpu_buf_free,
        .upload = cpu_upload,
        .download = cpu_download,
        .plan = cpu_plan,
        .plan_free = cpu_plan_free,
        .plan_bytes = cpu_plan_bytes,
        .run = cpu_run,
        .sync = cpu_sync,
    };

    return &ops;
}
