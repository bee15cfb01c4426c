/* computed/backend/cuda/cuda.c - the table of the plugin, over the device that it is linked with: a
 * GPU (`cuda`) or the host (`cudahost`). */
#include "computed/backend/cuda/plan.h"
#include <stdlib.h>
#include <string.h>

struct be_dev {
    struct cu_dev *d;
    struct cu_ring *up, *down;
};
/* Transfers have streams of their own: a run waits for what was uploaded into its buffers, an
 * upload and a download wait for the last run over theirs. */
struct be_buf {
    void *p;
    size_t bytes;
    struct cu_event *filled, *used; /* by an upload; by a run */
};

#define IO_MAX 128 /* models have at most 64 of each */

static enum rc cuda_probe(struct err *reterr)
{
    return cu_dev()->probe(reterr);
}

static void cuda_close(struct be_dev *d)
{
    struct err ignored;

    if (d == NULL) return;
    if (d->d != NULL) {
        (void)!cu_dev()->sync(d->d, &ignored); /* lost: there is nothing to wait for */
        cu_ring_free(d->up);
        cu_ring_free(d->down);
        cu_dev()->close(d->d);
    }
    free(d);
}

static enum rc cuda_open(uint32_t idx, struct be_dev **ret, struct err *reterr)
{
    struct be_dev *d = calloc(1, sizeof(*d));
    enum rc rc;

    if (d == NULL) return err_set(reterr, RC_NOMEM, "device");
    rc = cu_dev()->open(idx, &d->d, reterr);
    if (rc == RC_OK) rc = cu_ring_new(cu_dev(), d->d, CU_UP, &d->up, reterr);
    if (rc == RC_OK) rc = cu_ring_new(cu_dev(), d->d, CU_DOWN, &d->down, reterr);
    if (rc != RC_OK) {
        cuda_close(d);
        return rc;
    }
    *ret = d;
    return RC_OK;
}

static const char *cuda_text(const struct be_dev *d)
{
    return cu_dev()->text(d->d);
}

static void cuda_buf_free(struct be_dev *d, struct be_buf *b)
{
    if (b == NULL) return;
    cu_dev()->free(d->d, b->p, b->bytes);
    cu_dev()->event_free(d->d, b->filled);
    cu_dev()->event_free(d->d, b->used);
    free(b);
}

static enum rc cuda_buf_alloc(struct be_dev *d, size_t bytes, struct be_buf **ret,
                              struct err *reterr)
{
    struct be_buf *b = calloc(1, sizeof(*b));
    enum rc rc = b == NULL ? err_set(reterr, RC_NOMEM, "buffer of %zu bytes", bytes)
                           : cu_dev()->alloc(d->d, MAX(bytes, 1), &b->p, reterr);

    if (rc == RC_OK) rc = cu_dev()->event_new(d->d, &b->filled, reterr);
    if (rc == RC_OK) rc = cu_dev()->event_new(d->d, &b->used, reterr);
    if (rc != RC_OK) {
        cuda_buf_free(d, b);
        return rc;
    }
    b->bytes = bytes;
    *ret = b;
    return RC_OK;
}

static enum rc cuda_upload(struct be_dev *d, struct be_buf *b, size_t off, const void *src,
                           size_t n, struct err *reterr)
{
    enum rc rc;

    if (off > b->bytes || n > b->bytes - off) return err_set(reterr, RC_RANGE, "upload");
    rc = cu_dev()->event_wait(d->d, b->used, CU_UP, reterr);
    if (rc == RC_OK) rc = cu_ring_up(d->up, (uint8_t *)b->p + off, src, n, reterr);
    return rc == RC_OK ? cu_dev()->event_record(d->d, b->filled, CU_UP, reterr) : rc;
}

static enum rc cuda_download(struct be_dev *d, const struct be_buf *b, size_t off, void *dst,
                             size_t n, struct err *reterr)
{
    enum rc rc;

    if (off > b->bytes || n > b->bytes - off) return err_set(reterr, RC_RANGE, "download");
    rc = cu_dev()->event_wait(d->d, b->used, CU_DOWN, reterr);
    if (rc == RC_OK) rc = cu_dev()->event_wait(d->d, b->filled, CU_DOWN, reterr);
    return rc == RC_OK ? cu_ring_down(d->down, dst, (const uint8_t *)b->p + off, n, reterr) : rc;
}

static enum rc cuda_plan(struct be_dev *d, const struct be_graph *g,
                         const struct be_plan_conf *conf, struct be_plan **ret, struct err *reterr)
{
    enum rc rc = cu_dev()->precision(d->d, conf->precision, reterr);

    return rc == RC_OK ? cu_plan_new(cu_dev(), d->d, d->up, g, conf, ret, reterr) : rc;
}

static enum rc cuda_run(struct be_plan *p, struct be_buf *const *in, struct be_buf *const *out,
                        struct err *reterr)
{
    struct be_buf *b[IO_MAX];
    void *io[IO_MAX];
    uint32_t n = p->in_n + p->out_n;
    enum rc rc = RC_OK;

    CHECK(n <= IO_MAX);
    for (uint32_t i = 0; rc == RC_OK && i < n; i++) {
        b[i] = i < p->in_n ? in[i] : out[i - p->in_n];
        io[i] = b[i]->p;
        rc = cu_dev()->event_wait(p->dev, b[i]->filled, CU_RUN, reterr);
    }
    if (rc == RC_OK) rc = cu_plan_run(p, io, reterr);
    for (uint32_t i = 0; rc == RC_OK && i < n; i++)
        rc = cu_dev()->event_record(p->dev, b[i]->used, CU_RUN, reterr);
    return rc;
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
        .overlaps = true,
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
