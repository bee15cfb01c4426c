/* computed/backend/cuda/cuda.c - the table of the plugin, over the device that it is linked with: a
 * GPU (`cuda`) or the host (`cudahost`). */
#include "computed/backend/cuda/plan.h"
#include <stdlib.h>
#include <string.h>

struct be_dev {
    struct cu_dev *d;
};
struct be_buf {
    void *p;
    size_t bytes;
};

#define IO_MAX 128 /* models have at most 64 of each */

static enum rc cuda_probe(struct err *reterr)
{
    return cu_dev()->probe(reterr);
}

static enum rc cuda_open(uint32_t idx, struct be_dev **ret, struct err *reterr)
{
    struct be_dev *d = calloc(1, sizeof(*d));
    enum rc rc;

    if (d == NULL) return err_set(reterr, RC_NOMEM, "device");
    rc = cu_dev()->open(idx, &d->d, reterr);
    if (rc != RC_OK) {
        free(d);
        return rc;
    }
    *ret = d;
    return RC_OK;
}

static void cuda_close(struct be_dev *d)
{
    if (d == NULL) return;
    cu_dev()->close(d->d);
    free(d);
}

static const char *cuda_text(const struct be_dev *d)
{
    return cu_dev()->text(d->d);
}

static enum rc cuda_buf_alloc(struct be_dev *d, size_t bytes, struct be_buf **ret,
                              struct err *reterr)
{
    struct be_buf *b = calloc(1, sizeof(*b));
    enum rc rc = b == NULL ? err_set(reterr, RC_NOMEM, "buffer of %zu bytes", bytes)
                           : cu_dev()->alloc(d->d, MAX(bytes, 1), &b->p, reterr);

    if (rc != RC_OK) {
        free(b);
        return rc;
    }
    b->bytes = bytes;
    *ret = b;
    return RC_OK;
}

static void cuda_buf_free(struct be_dev *d, struct be_buf *b)
{
    if (b == NULL) return;
    cu_dev()->free(d->d, b->p, b->bytes);
    free(b);
}

static enum rc cuda_upload(struct be_dev *d, struct be_buf *b, size_t off, const void *src,
                           size_t n, struct err *reterr)
{
    if (off > b->bytes || n > b->bytes - off) return err_set(reterr, RC_RANGE, "upload");
    return n == 0 ? RC_OK : cu_dev()->upload(d->d, (uint8_t *)b->p + off, src, n, reterr);
}

static enum rc cuda_download(struct be_dev *d, const struct be_buf *b, size_t off, void *dst,
                             size_t n, struct err *reterr)
{
    if (off > b->bytes || n > b->bytes - off) return err_set(reterr, RC_RANGE, "download");
    return n == 0 ? RC_OK : cu_dev()->download(d->d, dst, (const uint8_t *)b->p + off, n, reterr);
}

static enum rc cuda_plan(struct be_dev *d, const struct be_graph *g,
                         const struct be_plan_conf *conf, struct be_plan **ret, struct err *reterr)
{
    enum rc rc = cu_dev()->precision(d->d, conf->precision, reterr);

    return rc == RC_OK ? cu_plan_new(cu_dev(), d->d, g, conf, ret, reterr) : rc;
}

static enum rc cuda_run(struct be_plan *p, struct be_buf *const *in, struct be_buf *const *out,
                        struct err *reterr)
{
    void *io[IO_MAX];

    CHECK(p->in_n + p->out_n <= IO_MAX);
    for (uint32_t i = 0; i < p->in_n; i++)
        io[i] = in[i]->p;
    for (uint32_t i = 0; i < p->out_n; i++)
        io[p->in_n + i] = out[i]->p;
    return cu_plan_run(p, io, reterr);
}

static enum rc cuda_sync(struct be_dev *d, struct err *reterr)
{
    return cu_dev()->sync(d->d, reterr);
}

__attribute__((visibility("default"))) const struct be_ops *mikura_backend(void);
const struct be_ops *mikura_backend(void)
{
    static struct be_ops ops = {
        .abi = BE_ABI,
        .batch = 16,
        .probe = cuda_probe,
        .open = cuda_open,
        .close = cuda_close,
        .text = cuda_text,
        .buf_alloc = cuda_buf_alloc,
        .buf_free = cuda_buf_free,
        .upload = cuda_upload,
        .download = cuda_download,
        .plan = cuda_plan,
        .plan_free = cu_plan_free,
        .plan_bytes = cu_plan_bytes,
        .plan_text = cu_plan_text,
        .run = cuda_run,
        .sync = cuda_sync,
    };

    ops.name = cu_dev()->name;
    return &ops;
}
