/* computed/backend/host_buf.h - buffers of backends whose device memory is the host's: entries of
 * struct be_ops. */
#pragma once
#include "computed/backend/backend.h"

struct be_buf {
    size_t bytes;
    _Alignas(64) uint8_t data[];
};

MUST_CHECK enum rc host_buf_alloc(struct be_dev *d, size_t bytes, struct be_buf **ret,
                                  struct err *reterr);
void host_buf_free(struct be_dev *d, struct be_buf *b); /* zeroed first; NULL: nothing */
MUST_CHECK enum rc host_buf_upload(struct be_dev *d, struct be_buf *b, size_t off, const void *src,
                                   size_t n, struct err *reterr);
MUST_CHECK enum rc host_buf_download(struct be_dev *d, const struct be_buf *b, size_t off,
                                     void *dst, size_t n, struct err *reterr);
