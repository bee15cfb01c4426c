/* tests/unit/storaged/segment/alloc_fail.c - see alloc_fail.h. */
#include "alloc_fail.h"
#include <stdlib.h>

void *__real_malloc(size_t n);
void *__real_calloc(size_t k, size_t n);
void *__real_realloc(void *p, size_t n);
void *__real_aligned_alloc(size_t a, size_t n);
char *__real_strdup(const char *s);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t k, size_t n);
void *__wrap_realloc(void *p, size_t n);
void *__wrap_aligned_alloc(size_t a, size_t n);
char *__wrap_strdup(const char *s);

static int64_t left; /* atomic; fails when it reaches 0; 0 and below: none does */

static bool fails(void)
{
    return __atomic_load_n(&left, __ATOMIC_RELAXED) > 0 &&
           __atomic_sub_fetch(&left, 1, __ATOMIC_RELAXED) == 0;
}

void *__wrap_malloc(size_t n)
{
    return fails() ? NULL : __real_malloc(n);
}
void *__wrap_calloc(size_t k, size_t n)
{
    return fails() ? NULL : __real_calloc(k, n);
}
void *__wrap_realloc(void *p, size_t n)
{
    return fails() ? NULL : __real_realloc(p, n);
}
void *__wrap_aligned_alloc(size_t a, size_t n)
{
    return fails() ? NULL : __real_aligned_alloc(a, n);
}
char *__wrap_strdup(const char *s)
{
    return fails() ? NULL : __real_strdup(s);
}

void alloc_fail_at(uint64_t n)
{
    __atomic_store_n(&left, (int64_t)n, __ATOMIC_RELAXED);
}

bool alloc_fail_off(void)
{
    return __atomic_exchange_n(&left, 0, __ATOMIC_RELAXED) == 0;
}
