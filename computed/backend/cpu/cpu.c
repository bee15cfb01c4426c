/* computed/backend/cpu/cpu.c - the plugin `cpu`: its device, its buffers, its table. Plans are in
 * cpu_plan.c. */
#include "computed/backend/cpu/cpu.h"
#include "computed/backend/host_buf.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Of the OpenMP library that oneDNN brings along; absent with another threading of it. */
void omp_set_num_threads(int n) __attribute__((weak));

struct be_dev {
    struct cpu_plan_conf conf;
    char text[64];
};

static enum rc cpu_probe(struct err *reterr)
{
    if (dnnl_engine_get_count(dnnl_cpu) > 0) return RC_OK;
    return err_set(reterr, RC_UNAVAIL, "oneDNN was built without a CPU engine");
}

static void cpu_close(struct be_dev *d)
{
    if (d == NULL) return;
    if (d->conf.stream != NULL) (void)dnnl_stream_destroy(d->conf.stream); /* nothing more to do */
    if (d->conf.engine != NULL) (void)dnnl_engine_destroy(d->conf.engine);
    free(d);
}

static enum rc cpu_open(uint32_t idx, struct be_dev **ret, struct err *reterr)
{
    const dnnl_version_t *v = dnnl_version();
    struct be_dev *d;
    dnnl_status_t s;

    if (idx != 0) return err_set(reterr, RC_NOTFOUND, "cpu has one device, number 0");
    d = calloc(1, sizeof(*d));
    if (d == NULL) return err_set(reterr, RC_NOMEM, "cpu device");
    d->conf.kern = kern_pick();
    s = dnnl_engine_create(&d->conf.engine, dnnl_cpu, 0);
    if (s == dnnl_success)
        s = dnnl_stream_create(&d->conf.stream, d->conf.engine, dnnl_stream_default_flags);
    if (s != dnnl_success) {
        cpu_close(d);
        return err_set(reterr, rc_from_dnnl(s), "oneDNN gives no CPU engine: status %d", (int)s);
    }
    (void)snprintf(d->text, sizeof(d->text), "cpu (oneDNN %d.%d.%d)", v->major, v->minor, v->patch);
    *ret = d;
    return RC_OK;
}

static const char *cpu_text(const struct be_dev *d)
{
    return d->text;
}

static enum rc cpu_plan(struct be_dev *d, const struct be_graph *g, const struct be_plan_conf *conf,
                        struct be_plan **ret, struct err *reterr)
{
    if (conf->precision != BE_FP32 && conf->precision != BE_PREC_BF16)
        return err_set(reterr, RC_UNIMPL, "cpu computes in fp32 and bf16");
    if (conf->precision == BE_PREC_BF16 && !kern_has_bf16())
        return err_set(reterr, RC_UNIMPL, "this CPU has no bf16 instructions; ask for fp32");
    if (omp_set_num_threads != NULL) omp_set_num_threads((int)MIN(MAX(conf->threads, 1u), 1024u));
    return cpu_plan_new(&d->conf, g, conf, ret, reterr);
}

#define IO_MAX 128

static enum rc cpu_run(struct be_plan *p, struct be_buf *const *in, struct be_buf *const *out,
                       struct err *reterr)
{
    const void *from[IO_MAX];
    void *to[IO_MAX];
    uint32_t in_n, out_n;

    cpu_plan_io(p, &in_n, &out_n);
    CHECK(in_n <= IO_MAX && out_n <= IO_MAX); /* models have at most 64 of each */
    for (uint32_t i = 0; i < in_n; i++)
        from[i] = in[i]->data;
    for (uint32_t i = 0; i < out_n; i++)
        to[i] = out[i]->data;
    return cpu_plan_run(p, from, to, reterr);
}

static enum rc cpu_sync(struct be_dev *d, struct err *reterr)
{
    (void)d;
    (void)reterr;
    return RC_OK;
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
        .buf_alloc = host_buf_alloc,
        .buf_free = host_buf_free,
        .upload = host_buf_upload,
        .download = host_buf_download,
        .plan = cpu_plan,
        .plan_free = cpu_plan_free,
        .plan_bytes = cpu_plan_bytes,
        .run = cpu_run,
        .sync = cpu_sync,
    };

    return &ops;
}
