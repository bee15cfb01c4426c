/* common/base/bigmem.c - one list for each size class, four classes to each power of two, so that
 * at most a fifth of a buffer is beyond what was asked for; over the limit the one that lay longest
 * goes, whatever its class, so that what is kept follows what is used. */
#include "common/base/bigmem.h"
#include "common/base/list.h"
#include <pthread.h>
#include <stdlib.h>

#define CLASSES 48u /* 64 KiB .. 256 MiB */

struct kept { /* at the start of a kept buffer */
    struct list by_class, by_age;
    size_t bytes;
};
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct list classes[CLASSES], age; /* age: the oldest first */
static size_t kept_bytes, kept_max = BIGMEM_KEPT_DEFAULT;
static bool ready;

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

static void locked(void)
{
    CHECK(pthread_mutex_lock(&lock) == 0);
    if (ready) return;
    for (unsigned c = 0; c < CLASSES; c++)
        list_init(&classes[c]);
    list_init(&age);
    ready = true;
}

static void unlocked(void)
{
    CHECK(pthread_mutex_unlock(&lock) == 0);
}

static void take(struct kept *k)
{
    list_remove(&k->by_class);
    list_remove(&k->by_age);
    kept_bytes -= k->bytes;
}

void *bigmem_alloc(size_t n)
{
    struct kept *k = NULL;
    size_t bytes;
    unsigned c;

    if (n < BIGMEM_MIN_BYTES) return malloc(n);
    c = class_of(n, &bytes);
    if (c < CLASSES) {
        locked();
        if (!list_empty(&classes[c])) { /* the youngest: its pages are the warmest */
            k = CONTAINER_OF(classes[c].prev, struct kept, by_class);
            take(k);
        }
        unlocked();
    }
    return k != NULL ? k : aligned_alloc(4096, bytes);
}

void bigmem_free(void *p, size_t n)
{
#ifndef __SANITIZE_ADDRESS__ /* there a buffer used after it was freed must be found */
    struct kept *k = p, *old = NULL;
    size_t bytes;
    unsigned c;

    if (p != NULL && n >= BIGMEM_MIN_BYTES && (c = class_of(n, &bytes)) < CLASSES) {
        struct list gone;

        list_init(&gone);
        locked();
        k->bytes = bytes;
        list_push_back(&classes[c], &k->by_class);
        list_push_back(&age, &k->by_age);
        kept_bytes += bytes;
        while (kept_bytes > kept_max) {
            old = CONTAINER_OF(age.next, struct kept, by_age);
            take(old);
            list_push_back(&gone, &old->by_age);
        }
        unlocked();
        while (!list_empty(&gone)) {
            old = CONTAINER_OF(gone.next, struct kept, by_age);
            list_remove(&old->by_age);
            free(old);
        }
        return;
    }
#else
    (void)n;
#endif
    free(p);
}

size_t bigmem_kept(void)
{
    size_t n;

    locked();
    n = kept_bytes;
    unlocked();
    return n;
}

void bigmem_limit(size_t bytes)
{
    locked();
    kept_max = bytes;
    unlocked();
}
