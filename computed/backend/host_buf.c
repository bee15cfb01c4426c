/* computed/backend/host_buf.c - see host_buf.h. */
#include "computed/backend/host_buf.h"
#include <stdlib.h>
#include <string.h>

enum rc host_buf_alloc(struct be_dev *d, size_t bytes, struct be_buf **ret, struct err *reterr)
{
    struct be_buf *b = NULL;

    (void)d;
    if (bytes < SIZE_MAX / 2) b = aligned_alloc(64, ROUND_UP(sizeof(*b) + bytes, (size_t)64));
    if (b == NULL) return err_set(reterr, RC_NOMEM, "buffer of %zu bytes", bytes);
    b->bytes = bytes;
    *ret = b;
    return RC_OK;
}

void host_buf_free(struct be_dev *d, struct be_buf *b)
{
    (void)d;
    if (b != NULL) memset(b->data, 0, b->bytes); /* image memory is zeroed before it goes */
    free(b);
}

enum rc host_buf_upload(struct be_dev *d, struct be_buf *b, size_t off, const void *src, size_t n,
                        struct err *reterr)
{
    (void)d;
    if (off > b->bytes || n > b->bytes - off) return err_set(reterr, RC_RANGE, "upload");
    if (n > 0) memcpy(b->data + off, src, n);
    return RC_OK;
}

enum rc host_buf_download(struct be_dev *d, const struct be_buf *b, size_t off, void *dst, size_t n,
                          struct err *reterr)
{
    (void)d;
    if (off > b->bytes || n > b->bytes - off) return err_set(reterr, RC_RANGE, "download");
    if (n > 0) memcpy(dst, b->data + off, n);
    return RC_OK;
}
