/* common/base/le.h - fixed-width integers in bytes: le_ little-endian (disk, wire), be_ big-endian
 * (keys that sort). No alignment needed. */
#pragma once
#include "common/base/macros.h"
#include <string.h>

static inline uint64_t le_get(const uint8_t *p, unsigned n)
{
    uint64_t v = 0;

    for (unsigned i = n; i-- > 0;)
        v = (v << 8) | p[i];
    return v;
}

static inline void le_put(uint8_t *p, unsigned n, uint64_t v)
{
    for (unsigned i = 0; i < n; i++)
        p[i] = (uint8_t)(v >> (8 * i));
}

static inline uint16_t le_get16(const uint8_t *p)
{
    return (uint16_t)le_get(p, 2);
}
static inline uint32_t le_get32(const uint8_t *p)
{
    return (uint32_t)le_get(p, 4);
}
static inline uint64_t le_get64(const uint8_t *p)
{
    return le_get(p, 8);
}
static inline void le_put16(uint8_t *p, uint16_t v)
{
    le_put(p, 2, v);
}
static inline void le_put32(uint8_t *p, uint32_t v)
{
    le_put(p, 4, v);
}
static inline void le_put64(uint8_t *p, uint64_t v)
{
    le_put(p, 8, v);
}

static inline uint64_t be_get(const uint8_t *p, unsigned n)
{
    uint64_t v = 0;

    for (unsigned i = 0; i < n; i++)
        v = (v << 8) | p[i];
    return v;
}

static inline void be_put(uint8_t *p, unsigned n, uint64_t v)
{
    for (unsigned i = 0; i < n; i++)
        p[i] = (uint8_t)(v >> (8 * (n - 1 - i)));
}

static inline uint32_t be_get32(const uint8_t *p)
{
    return (uint32_t)be_get(p, 4);
}
static inline uint64_t be_get64(const uint8_t *p)
{
    return be_get(p, 8);
}
static inline void be_put16(uint8_t *p, uint16_t v)
{
    be_put(p, 2, v);
}
static inline void be_put32(uint8_t *p, uint32_t v)
{
    be_put(p, 4, v);
}
static inline void be_put64(uint8_t *p, uint64_t v)
{
    be_put(p, 8, v);
}
