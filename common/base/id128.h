/* common/base/id128.h - 128-bit random ids (cluster, node, boot, disk, body, seal, request, ...).
 * Text form: 32 lower-case hex digits. */
#pragma once
#include "common/base/rc.h"
#include <string.h>

#define ID128_TEXT_BYTES 33
struct id128 {
    uint8_t b[16];
};

/* From the kernel's generator. A kernel without randomness is not survivable: CHECKs. */
struct id128 id128_random(void);
void random_bytes(void *p, size_t n);
const char *id128_text(const struct id128 *id, char text[ID128_TEXT_BYTES]);
bool id128_parse(const char *text, struct id128 *ret_id);
/* false unless n == 16 */
bool id128_from_bytes(const void *p, size_t n, struct id128 *ret_id);

static inline bool id128_eq(const struct id128 *a, const struct id128 *b)
{
    return memcmp(a->b, b->b, 16) == 0;
}

static inline int id128_cmp(const struct id128 *a, const struct id128 *b)
{
    return memcmp(a->b, b->b, 16);
}

static inline bool id128_is_zero(const struct id128 *a)
{
    static const struct id128 zero;
    return id128_eq(a, &zero);
}
