/* common/base/buf.h - a byte buffer that grows up to a limit. After the first failed append the
 * buffer stays failed (buf_rc), so that a long encoding is checked once at its end. */
#pragma once
#include "common/base/rc.h"

struct buf {
    uint8_t *p;
    size_t n, cap, max;
    enum rc rc;
};

void buf_init(struct buf *b, size_t max_bytes);
void buf_deinit(struct buf *b);
void buf_reset(struct buf *b); /* empties it, keeps the memory, forgets a failure */
/* Room for n more bytes at b->p + b->n, or NULL (RC_NOMEM, RC_BUSY when over the limit). */
uint8_t *buf_reserve(struct buf *b, size_t n);
void buf_put(struct buf *b, const void *p, size_t n);
void buf_put_u8(struct buf *b, uint8_t v);
void buf_put_str(struct buf *b, const char *s);
void buf_printf(struct buf *b, const char *fmt, ...) PRINTF_LIKE(2, 3);
MUST_CHECK enum rc buf_rc(const struct buf *b);
void buf_consume(struct buf *b, size_t n); /* drop n bytes at the front */
/* Zero-terminated view of the content (the terminator is not counted); "" when failed. */
const char *buf_cstr(struct buf *b);
