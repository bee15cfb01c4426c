/* gateway/agent/backoff_core.h - how long to wait before a failed step is tried again: doubled each
 * time up to a limit, then shortened by up to a half at random, so that many agents do not come
 * back at once. Pure: randomness is passed in. */
#pragma once
#include "common/base/rc.h"

struct backoff {
    uint32_t base_ms, max_ms; /* max >= base > 0 */
    uint32_t tries;
};
static inline uint64_t backoff_next_ms(struct backoff *b, uint32_t random)
{
    uint64_t ms = b->base_ms;

    for (uint32_t i = 0; i < b->tries && ms < b->max_ms; i++)
        ms *= 2;
    if (ms < b->max_ms) b->tries++;
    ms = MIN(ms, (uint64_t)b->max_ms);
    return ms - ms / 2 * random / UINT32_MAX;
}
static inline void backoff_reset(struct backoff *b)
{
    b->tries = 0;
}
