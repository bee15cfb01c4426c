/* common/base/macros.h - attributes, checks and small helpers that every file uses. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MUST_CHECK              __attribute__((warn_unused_result))
#define PRINTF_LIKE(fmt, first) __attribute__((format(printf, fmt, first)))
#define NORETURN                __attribute__((noreturn))
#define UNUSED                  __attribute__((unused))

#define ARRAY_N(a) (sizeof(a) / sizeof((a)[0]))
#define CONTAINER_OF(ptr, type, member)                                                            \
    ((type *)(void *)((char *)(uintptr_t)(ptr)-offsetof(type, member)))
#define MIN(a, b)       ((a) < (b) ? (a) : (b))
#define MAX(a, b)       ((a) > (b) ? (a) : (b))
#define ROUND_UP(x, to) ((((x) + (to)-1) / (to)) * (to))

/* CHECK(x): a condition that only our own bug can break; stays in release builds. It logs the
 * condition with its place, prints the trace ring and aborts. Never for bytes from a disk, the
 * network or a user. */
#define CHECK(x)                                                                                   \
    do {                                                                                           \
        if (__builtin_expect(!(x), 0)) {                                                           \
            check_failed(#x, __FILE__, __LINE__, __func__);                                        \
        }                                                                                          \
    } while (0)
/* DCHECK(x): as CHECK, for costly conditions; compiled only with MIKURA_DCHECK. */
#ifdef MIKURA_DCHECK
#define DCHECK(x) CHECK(x)
#else
#define DCHECK(x)                                                                                  \
    do {                                                                                           \
    } while (0)
#endif

void check_failed(const char *expr, const char *file, int line, const char *func) NORETURN;
/* Keep a line for the ring that a failed CHECK prints (the last 1,024); thread-safe. */
void trace_note(const char *fmt, ...) PRINTF_LIKE(1, 2);

/* Bytes that somebody else owns. */
struct slice {
    const uint8_t *p;
    size_t n;
};
