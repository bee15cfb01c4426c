/* storaged/service/entry_cache.c - see entry_cache.h. Invariant: an entry is freed when it is
 * unpinned and no longer in a ring. */
#include "storaged/service/entry_cache.h"
#include <stdlib.h>
#include <string.h>

void entry_cache_init(struct entry_cache *c, uint64_t bytes_max)
{
    *c = (struct entry_cache){.bytes_max = bytes_max};
    list_init(&c->lru);
}

void entry_ring_init(struct entry_ring *r, struct entry_cache *c)
{
    *r = (struct entry_ring){.cache = c};
}

static void entry_free(struct entry_cache *c, struct entry *e)
{
    list_remove(&e->lru);
    c->bytes -= sizeof *e + e->n;
    c->entries_n--;
    free(e);
}

/* Out of its ring; whoever pins it still may read it. */
static void detach(struct entry *e)
{
    struct entry_ring *r = e->ring;

    r->slots[e->index % ENTRY_RING] = NULL;
    if (e->pins == 0) {
        entry_free(r->cache, e);
        return;
    }
    e->ring = NULL;
    /* no longer counted: its pinner frees it, soon */
    r->cache->bytes -= sizeof *e + e->n;
    r->cache->entries_n--;
}

void entry_ring_deinit(struct entry_ring *r)
{
    if (r->slots == NULL) return;
    for (uint32_t i = 0; i < ENTRY_RING; i++) {
        if (r->slots[i] != NULL) detach(r->slots[i]);
    }
    free(r->slots);
    r->slots = NULL;
}

struct entry *entry_put(struct entry_ring *r, uint64_t epoch, uint64_t index, struct slice bytes)
{
    struct entry_cache *c = r->cache;
    struct entry *e = malloc(sizeof *e + bytes.n);

    if (e == NULL) return NULL;
    if (r->slots == NULL) r->slots = calloc(ENTRY_RING, sizeof(struct entry *));
    if (r->slots == NULL) {
        free(e);
        return NULL;
    }
    if (r->slots[index % ENTRY_RING] != NULL) detach(r->slots[index % ENTRY_RING]);
    *e = (struct entry){
        .ring = r, .epoch = epoch, .index = index, .pins = 1, .n = (uint32_t)bytes.n};
    list_init(&e->lru);
    if (bytes.n > 0) memcpy(e->p, bytes.p, bytes.n);
    r->slots[index % ENTRY_RING] = e;
    c->bytes += sizeof *e + e->n;
    c->entries_n++;
    while (c->bytes > c->bytes_max && !list_empty(&c->lru))
        detach(CONTAINER_OF(c->lru.next, struct entry, lru));
    return e;
}

struct entry *entry_get(struct entry_ring *r, uint64_t index)
{
    struct entry *e = r->slots == NULL ? NULL : r->slots[index % ENTRY_RING];

    if (e == NULL || e->index != index) return NULL;
    e->pins++;
    list_remove(&e->lru);
    return e;
}

void entry_unpin(struct entry *e)
{
    if (e == NULL) return;
    CHECK(e->pins > 0);
    if (--e->pins > 0) return;
    if (e->ring == NULL) {
        free(e);
    } else if (e->ring->cache->bytes > e->ring->cache->bytes_max) {
        detach(e);
    } else {
        list_push_back(&e->ring->cache->lru, &e->lru);
    }
}
