/* storaged/service/chunk_pool.h - who may hold how much payload memory.
 *
 * A node that holds a buffer while it waits for the next node of a chain must never wait for memory
 * that such a wait on another node holds. So each position in the chain (how many nodes follow) has
 * a share of its own: position p waits only for position p - 1 elsewhere, and position 0 for
 * nothing but its disk. A share always admits one buffer, whatever its size. Belongs to
 * the loop; take is for fibers. */
#pragma once
#include "common/fiber/fiber.h"

#define CHUNK_POOL_CHAIN 8u /* positions 0 .. 7 */
#define CHUNK_POOL_READ  8u
#define CHUNK_POOL_PULL  9u
#define CHUNK_POOL_N     10u

struct chunk_pool {
    struct chunk_share {
        uint64_t max_bytes, used_bytes;
        uint32_t users_n, waiting_n;
        struct fiber_cond cond;
    } shares[CHUNK_POOL_N];
};
void chunk_pool_init(struct chunk_pool *p, uint64_t total_bytes);
/* RC_OK, RC_DEADLINE, RC_BUSY (waiting_max wait already). */
MUST_CHECK enum rc chunk_pool_take(struct chunk_pool *p, uint32_t share, uint64_t bytes,
                                   uint32_t waiting_max, uint64_t timeout_ms);
void chunk_pool_give(struct chunk_pool *p, uint32_t share, uint64_t bytes);
uint64_t chunk_pool_used(const struct chunk_pool *p);
