/* common/base/buf.c - see buf.h. */
#include "common/base/buf.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void buf_init(struct buf *b, size_t max_bytes)
{
    *b = (struct buf){.max = max_bytes};
}

void buf_deinit(struct buf *b)
{
    free(b->p);
    *b = (struct buf){0};
}

void buf_reset(struct buf *b)
{
    b->n = 0;
    b->rc = RC_OK;
}

uint8_t *buf_reserve(struct buf *b, size_t n)
{
    size_t cap = b->cap;
    uint8_t *p;

    if (b->rc != RC_OK) return NULL;
    if (n > b->max || b->n > b->max - n) {
        b->rc = RC_BUSY;
        return NULL;
    }
    if (b->n + n <= cap && b->p != NULL) return b->p + b->n;
    while (cap < b->n + n || cap == 0)
        cap = cap == 0 ? 256 : cap * 2;
    p = realloc(b->p, cap);
    if (p == NULL) {
        b->rc = RC_NOMEM;
        return NULL;
    }
    b->p = p;
    b->cap = cap;
    return b->p + b->n;
}

void buf_put(struct buf *b, const void *p, size_t n)
{
    uint8_t *to;

    if (n == 0) return;
    to = buf_reserve(b, n);
    if (to == NULL) return;
    memcpy(to, p, n);
    b->n += n;
}

void buf_put_u8(struct buf *b, uint8_t v)
{
    buf_put(b, &v, 1);
}

void buf_put_str(struct buf *b, const char *s)
{
    buf_put(b, s, strlen(s));
}

void buf_printf(struct buf *b, const char *fmt, ...)
{
    va_list ap;
    uint8_t *to;
    int n;

    va_start(ap, fmt);
    n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    if (n < 0) {
        b->rc = RC_INVAL;
        return;
    }
    to = buf_reserve(b, (size_t)n + 1);
    if (to == NULL) return;
    va_start(ap, fmt);
    (void)vsnprintf((char *)to, (size_t)n + 1, fmt, ap);
    va_end(ap);
    b->n += (size_t)n;
}

enum rc buf_rc(const struct buf *b)
{
    return b->rc;
}

void buf_consume(struct buf *b, size_t n)
{
    CHECK(n <= b->n);
    memmove(b->p, b->p + n, b->n - n);
    b->n -= n;
}

const char *buf_cstr(struct buf *b)
{
    uint8_t *to = buf_reserve(b, 1);

    if (to == NULL) return "";
    *to = 0;
    return (const char *)b->p;
}
