/* storaged/service/entry_cache.h - recent log entries of all groups in memory, within one bound.
 *
 * A group's entries are found by index in a ring; the newest put at an index counts. What is pinned
 * (not yet durable, or in use) is never evicted; the rest goes, oldest use first. Belongs to the
 * loop; a pinned entry's bytes may be read by any thread. */
#pragma once
#include "common/base/list.h"
#include "common/base/rc.h"

#define ENTRY_RING 1024u /* indices a group may have here: four windows of uncommitted ones */

struct entry_ring;
struct entry {
    struct list lru;
    struct entry_ring *ring; /* NULL: not findable any more */
    uint64_t epoch, index;
    uint32_t pins, n;
    uint8_t p[];
};
struct entry_cache {
    struct list lru; /* unpinned ones, oldest first */
    uint64_t bytes, bytes_max;
    uint64_t entries_n;
};
struct entry_ring { /* zero-initialised; of one group */
    struct entry_cache *cache;
    struct entry **slots; /* ENTRY_RING, made at first use */
};
void entry_cache_init(struct entry_cache *c, uint64_t bytes_max);
void entry_ring_init(struct entry_ring *r, struct entry_cache *c);
void entry_ring_deinit(struct entry_ring *r);
/* Copies; replaces what is at that index. Pinned once for the caller. NULL: out of memory. */
struct entry *entry_put(struct entry_ring *r, uint64_t epoch, uint64_t index, struct slice bytes);
/* Pinned, or NULL. */
struct entry *entry_get(struct entry_ring *r, uint64_t index);
void entry_unpin(struct entry *e); /* NULL is fine */
