/* storaged/service/chunk_pool.c - see chunk_pool.h. Invariant: a share is over its maximum only
 * while a single buffer is out. */
#include "storaged/service/chunk_pool.h"
#include <string.h>

/* Sixteenths of the whole: three copies use positions 2, 1 and 0; longer chains are rare and live
 * from "always one". */
static const uint32_t PARTS[CHUNK_POOL_N] = {4, 3, 2, 0, 0, 0, 0, 0, 4, 3};

void chunk_pool_init(struct chunk_pool *p, uint64_t total_bytes)
{
    memset(p, 0, sizeof *p);
    for (uint32_t i = 0; i < CHUNK_POOL_N; i++) {
        p->shares[i].max_bytes = total_bytes * PARTS[i] / 16;
        fiber_cond_init(&p->shares[i].cond);
    }
}

static bool fits(const struct chunk_share *s, uint64_t bytes)
{
    return s->users_n == 0 || s->used_bytes + bytes <= s->max_bytes;
}

enum rc chunk_pool_take(struct chunk_pool *p, uint32_t share, uint64_t bytes, uint32_t waiting_max,
                        uint64_t timeout_ms)
{
    struct chunk_share *s = &p->shares[share];
    uint64_t until = uv_now(fibers_loop(fiber_fibers())) + timeout_ms;
    bool late = false;

    CHECK(share < CHUNK_POOL_N);
    if (s->waiting_n > 0 || !fits(s, bytes)) {
        if (s->waiting_n >= waiting_max) return RC_BUSY;
        s->waiting_n++;
        for (;;) {
            uint64_t now = uv_now(fibers_loop(fiber_fibers()));

            if (fits(s, bytes)) break;
            late = now >= until;
            if (late) break;
            (void)!fiber_cond_wait_ms(&s->cond, until - now); /* either way looked at again */
        }
        s->waiting_n--;
        if (late) return RC_DEADLINE;
    }
    s->users_n++;
    s->used_bytes += bytes;
    return RC_OK;
}

void chunk_pool_give(struct chunk_pool *p, uint32_t share, uint64_t bytes)
{
    struct chunk_share *s = &p->shares[share];

    CHECK(share < CHUNK_POOL_N && s->users_n > 0 && s->used_bytes >= bytes);
    s->users_n--;
    s->used_bytes -= bytes;
    fiber_cond_broadcast(&s->cond);
}

uint64_t chunk_pool_used(const struct chunk_pool *p)
{
    uint64_t n = 0;

    for (uint32_t i = 0; i < CHUNK_POOL_N; i++)
        n += p->shares[i].used_bytes;
    return n;
}
