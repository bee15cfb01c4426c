/* storaged/segment/header_cache.c - see header_cache.h. Invariant: an entry is in one slot and in
 * the LRU list, and counted, until it is freed. */
#include "storaged/segment/header_cache.h"
#include <stdlib.h>
#include <string.h>

struct entry {
    struct list slot, lru;
    uint64_t offset;
    struct record_header h;
    struct record_block blocks[];
};

static struct list *slot_of(struct header_cache *c, const struct seg_location *loc)
{
    uint64_t place = loc->segment_id << 32 ^ loc->offset / RECORD_ALIGN_BYTES;

    return &c->slots[(place * 0x9e3779b97f4a7c15ull >> 32) % HEADER_CACHE_SLOTS];
}

static uint64_t entry_bytes(uint32_t plain_bytes)
{
    return sizeof(struct entry) + record_blocks(plain_bytes) * sizeof(struct record_block);
}

static void entry_free(struct header_cache *c, struct entry *e)
{
    c->bytes -= entry_bytes(e->h.plain_bytes);
    list_remove(&e->slot);
    list_remove(&e->lru);
    free(e);
}

/* plain_bytes is compared too: a location comes from the index, and may not be the record's. */
static struct entry *entry_find(struct header_cache *c, const struct seg_location *loc)
{
    LIST_FOREACH(it, slot_of(c, loc))
    {
        struct entry *e = CONTAINER_OF(it, struct entry, slot);

        if (e->h.segment_id == loc->segment_id && e->h.segment_generation == loc->generation &&
            e->offset == loc->offset && e->h.plain_bytes == loc->plain_bytes)
            return e;
    }
    return NULL;
}

void header_cache_init(struct header_cache *c, uint64_t bytes_max)
{
    *c = (struct header_cache){.bytes_max = bytes_max};
    list_init(&c->lru);
    for (uint32_t i = 0; i < HEADER_CACHE_SLOTS; i++)
        list_init(&c->slots[i]);
}

void header_cache_deinit(struct header_cache *c)
{
    while (!list_empty(&c->lru))
        entry_free(c, CONTAINER_OF(c->lru.next, struct entry, lru));
}

bool header_cache_get(struct header_cache *c, const struct seg_location *loc,
                      struct record_header *ret, struct record_block *blocks)
{
    struct entry *e = entry_find(c, loc);

    if (e == NULL) {
        c->misses_n++;
        return false;
    }
    c->hits_n++;
    list_remove(&e->lru);
    list_push_back(&c->lru, &e->lru);
    *ret = e->h;
    memcpy(blocks, e->blocks, record_blocks(loc->plain_bytes) * sizeof(*blocks));
    return true;
}

void header_cache_put(struct header_cache *c, const struct seg_location *loc,
                      const struct record_header *h, const struct record_block *blocks)
{
    uint64_t bytes = entry_bytes(h->plain_bytes);
    struct entry *e;

    if (bytes > c->bytes_max || entry_find(c, loc) != NULL) return; /* two may have read it */
    e = malloc(bytes);
    if (e == NULL) return;
    while (c->bytes > c->bytes_max - bytes)
        entry_free(c, CONTAINER_OF(c->lru.next, struct entry, lru));
    e->offset = loc->offset;
    e->h = *h;
    memcpy(e->blocks, blocks, record_blocks(h->plain_bytes) * sizeof(*blocks));
    c->bytes += bytes;
    list_push_back(slot_of(c, loc), &e->slot);
    list_push_back(&c->lru, &e->lru);
}

void header_cache_remove(struct header_cache *c, const struct seg_location *loc)
{
    struct entry *e = entry_find(c, loc);

    if (e != NULL) entry_free(c, e);
}

void header_cache_remove_segment(struct header_cache *c, uint64_t segment_id)
{
    LIST_FOREACH_SAFE(it, &c->lru)
    {
        struct entry *e = CONTAINER_OF(it, struct entry, lru);

        if (e->h.segment_id == segment_id) entry_free(c, e);
    }
}
