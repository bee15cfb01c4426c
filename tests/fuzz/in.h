/* tests/fuzz/in.h - a fuzz input read from its front: what a target builds, or a stand-in answers.
 * Behind its end come zeros. */
#pragma once
#include <stddef.h>
#include <stdint.h>

struct in {
    const uint8_t *p;
    size_t n;
};

static inline uint32_t take(struct in *in, uint32_t bytes)
{
    uint32_t v = 0;

    for (; bytes > 0 && in->n > 0; bytes--, in->n--)
        v = v << 8 | *in->p++;
    return v;
}
