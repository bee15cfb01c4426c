/* common/base/bigmem.c - one list for each size class, four classes to each power of two, so that
 * at most a fifth of a buffer is beyond what was asked for; over the limit the one that lay longest
 * goes, whatever its class, so that what is kept follows what is used.
 *
 * With AddressSanitizer nothing is kept or mapped: a buffer used after it was freed must be found.
 */
#include "common/base/bigmem.h"
#include "common/base/list.h"
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>

#define CLASSES     48u /* 64 KiB .. 256 MiB */
#define HEADER_ROOM 4096u

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct list classes[CLASSES], age; /* age: the oldest first */
static size_t kept_bytes, used_bytes, kept_max = BIGMEM_KEPT_DEFAULT, all_max = SIZE_MAX;
static bool ready;

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

#ifdef __SANITIZE_ADDRESS__
void *bigmem_alloc(size_t n)
{
    return n < BIGMEM_MIN_BYTES ? malloc(n) : aligned_alloc(4096, ROUND_UP(n, (size_t)4096));
}

void bigmem_free(void *p, size_t n)
{
    (void)n;
    free(p);
}
#else
struct kept { /* at the start of a kept buffer */
    struct list by_class, by_age;
    size_t bytes;
};
/* The class and its size: a power of two and its quarters, with room for somebody's header before
 * them, or a message of 1 MiB would take 1.25. CLASSES: none. */
static unsigned class_of(size_t n, size_t *ret_bytes)
{
    size_t base = BIGMEM_MIN_BYTES;
    unsigned c = 0;

    while (c < CLASSES) {
        for (size_t quarter = 0; quarter < 4; quarter++, c++) {
            *ret_bytes = base + base / 4 * quarter + HEADER_ROOM;
            if (n <= *ret_bytes) return c;
        }
        base *= 2;
    }
    *ret_bytes = ROUND_UP(n, (size_t)4096);
    return CLASSES;
}

static void take(struct kept *k)
{
    list_remove(&k->by_class);
    list_remove(&k->by_age);
    kept_bytes -= k->bytes;
}

/* Locked. The oldest that are too many go to `gone`, which is unmapped without the lock. */
static void trim(struct list *gone)
{
    while (!list_empty(&age) &&
           (kept_bytes > kept_max || used_bytes > all_max || kept_bytes > all_max - used_bytes)) {
        struct kept *old = CONTAINER_OF(age.next, struct kept, by_age);

        take(old);
        list_push_back(gone, &old->by_age);
    }
}

static void unmap(struct list *gone)
{
    while (!list_empty(gone)) {
        struct kept *old = CONTAINER_OF(gone->next, struct kept, by_age);

        list_remove(&old->by_age);
        CHECK(munmap(old, old->bytes) == 0);
    }
}

void *bigmem_alloc(size_t n)
{
    struct kept *k = NULL;
    struct list gone;
    size_t bytes;
    unsigned c;
    void *p;

    if (n < BIGMEM_MIN_BYTES) return malloc(n);
    c = class_of(n, &bytes);
    list_init(&gone);
    locked();
    used_bytes += bytes;
    if (c < CLASSES && !list_empty(&classes[c])) { /* the youngest: its pages are the warmest */
        k = CONTAINER_OF(classes[c].prev, struct kept, by_class);
        take(k);
    }
    trim(&gone);
    unlocked();
    unmap(&gone);
    if (k != NULL) return k;
    p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p != MAP_FAILED) return p;
    locked();
    used_bytes -= bytes;
    unlocked();
    return NULL;
}

void bigmem_free(void *p, size_t n)
{
    struct kept *k = p;
    struct list gone;
    size_t bytes;
    unsigned c;

    if (p == NULL || n < BIGMEM_MIN_BYTES) {
        free(p);
        return;
    }
    c = class_of(n, &bytes);
    list_init(&gone);
    locked();
    used_bytes -= bytes;
    if (c < CLASSES) {
        k->bytes = bytes;
        list_push_back(&classes[c], &k->by_class);
        list_push_back(&age, &k->by_age);
        kept_bytes += bytes;
        trim(&gone);
    }
    unlocked();
    if (c == CLASSES) CHECK(munmap(p, bytes) == 0);
    unmap(&gone);
}
#endif

size_t bigmem_kept(void)
{
    size_t n;

    locked();
    n = kept_bytes;
    unlocked();
    return n;
}

size_t bigmem_used(void)
{
    size_t n;

    locked();
    n = used_bytes;
    unlocked();
    return n;
}

void bigmem_limit(size_t kept, size_t all)
{
    locked();
    kept_max = kept;
    all_max = all;
    unlocked();
}
