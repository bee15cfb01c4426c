/* common/base/bigmem.c - one list for each size class, four classes to each power of two, so that
 * at most a fifth of a buffer is beyond what was asked for. */
#include "common/base/bigmem.h"
#include "common/base/macros.h"
#include <pthread.h>
#include <stdlib.h>

#define CLASSES 48u /* 64 KiB .. 256 MiB */

struct kept { /* at the start of a kept buffer */
    struct kept *next;
};
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct kept *lists[CLASSES];
static size_t kept_bytes;

/* The class and its size; CLASSES: none. */
static unsigned class_of(size_t n, size_t *ret_bytes)
{
    size_t base = BIGMEM_MIN_BYTES;
    unsigned c = 0;

    while (c < CLASSES) {
        for (size_t quarter = 0; quarter < 4; quarter++, c++) {
            *ret_bytes = base + base / 4 * quarter;
            if (n <= *ret_bytes) return c;
        }
        base *= 2;
    }
    *ret_bytes = ROUND_UP(n, (size_t)4096);
    return CLASSES;
}

void *bigmem_alloc(size_t n)
{
    size_t bytes;
    unsigned c;
    struct kept *k = NULL;

    if (n < BIGMEM_MIN_BYTES) return malloc(n);
    c = class_of(n, &bytes);
    if (c < CLASSES) {
        CHECK(pthread_mutex_lock(&lock) == 0);
        k = lists[c];
        if (k != NULL) {
            lists[c] = k->next;
            kept_bytes -= bytes;
        }
        CHECK(pthread_mutex_unlock(&lock) == 0);
    }
    return k != NULL ? k : aligned_alloc(4096, bytes);
}

void bigmem_free(void *p, size_t n)
{
    size_t bytes;
    unsigned c;
    struct kept *k = p;

#ifndef __SANITIZE_ADDRESS__ /* there a buffer used after it was freed must be found */
    if (p != NULL && n >= BIGMEM_MIN_BYTES && (c = class_of(n, &bytes)) < CLASSES) {
        CHECK(pthread_mutex_lock(&lock) == 0);
        if (kept_bytes + bytes <= BIGMEM_KEPT_MAX) {
            k->next = lists[c];
            lists[c] = k;
            kept_bytes += bytes;
            p = NULL;
        }
        CHECK(pthread_mutex_unlock(&lock) == 0);
    }
#else
    (void)bytes;
    (void)c;
    (void)k;
    (void)n;
#endif
    free(p);
}

size_t bigmem_kept(void)
{
    size_t n;

    CHECK(pthread_mutex_lock(&lock) == 0);
    n = kept_bytes;
    CHECK(pthread_mutex_unlock(&lock) == 0);
    return n;
}
