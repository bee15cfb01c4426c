/* common/fiber/arena.c - blocks of at least BLOCK_BYTES; a large piece gets a block of its own. */
#include "common/fiber/arena.h"
#include "common/base/bigmem.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK_BYTES 4064u

struct arena_block {
    struct arena_block *next;
    size_t used, cap;
    _Alignas(16) uint8_t p[];
};

static void *pb_alloc(void *data, size_t n)
{
    return arena_raw(data, n); /* protobuf-c writes all that it reads */
}

static void pb_free(void *data, void *p)
{
    (void)data;
    (void)p; /* with the arena */
}

void arena_init(struct arena *a)
{
    a->blocks = NULL;
    a->used_bytes = 0;
    a->pb.alloc = pb_alloc;
    a->pb.free = pb_free;
    a->pb.allocator_data = a;
}

void arena_deinit(struct arena *a)
{
    while (a->blocks != NULL) {
        struct arena_block *b = a->blocks;

        a->blocks = b->next;
        bigmem_free(b, sizeof *b + b->cap);
    }
}

void *arena_raw(struct arena *a, size_t n)
{
    struct arena_block *b = a->blocks;
    void *p;

    if (n > SIZE_MAX / 2) return NULL;
    n = n == 0 ? 16 : ROUND_UP(n, (size_t)16);
    if (b == NULL || b->cap - b->used < n) {
        size_t cap = MAX(n, (size_t)BLOCK_BYTES);

        b = bigmem_alloc(sizeof *b + cap);
        if (b == NULL) return NULL;
        b->used = 0;
        b->cap = cap;
        if (cap > BLOCK_BYTES && a->blocks != NULL) { /* keep the small one in front */
            b->next = a->blocks->next;
            a->blocks->next = b;
        } else {
            b->next = a->blocks;
            a->blocks = b;
        }
    }
    p = b->p + b->used;
    b->used += n;
    a->used_bytes += n;
    return p;
}

void *arena_alloc(struct arena *a, size_t n)
{
    void *p = arena_raw(a, n);

    if (p != NULL) memset(p, 0, n);
    return p;
}

void *arena_copy(struct arena *a, const void *p, size_t n)
{
    uint8_t *to = arena_raw(a, n + 1); /* a zero after it: text can be used as such */

    if (to == NULL) return NULL;
    if (n > 0) memcpy(to, p, n);
    to[n] = 0;
    return to;
}

char *arena_str(struct arena *a, const char *fmt, ...)
{
    va_list ap, again;
    char *to = NULL;
    int n;

    va_start(ap, fmt);
    va_copy(again, ap);
    n = vsnprintf(NULL, 0, fmt, ap);
    if (n >= 0) to = arena_alloc(a, (size_t)n + 1);
    if (to != NULL) (void)vsnprintf(to, (size_t)n + 1, fmt, again); /* measured just now */
    va_end(again);
    va_end(ap);
    return to;
}
