/* storaged/segment/header_cache.h - headers, decoded, of records that were lately read in part, so
 * that the next part of one costs the disk one request: its bytes.
 *
 * A record never changes while its segment is there, and no segment's id comes twice in a process:
 * what was good stays right, whatever happens to the header on the disk. So who wants to know what
 * lies there (scrub, reclaim, repair, start) must not ask here. Belongs to the disk's loop. */
#pragma once
#include "common/base/list.h"
#include "storaged/segment/seglog.h"

/* Of a disk. An entry for a chunk of 8 MiB takes 2.8 KB: 740 of them, 6.2 GB that are read in
 * parts at a time. One for a record of two blocks takes 296 bytes: 7,000 of them. */
#define HEADER_CACHE_BYTES (2u << 20)
#define HEADER_CACHE_SLOTS 1024u /* so that few share one; 16 KiB of their own */

struct header_cache {
    struct list slots[HEADER_CACHE_SLOTS];
    struct list lru; /* the one unused longest first */
    uint64_t bytes, bytes_max;
    uint64_t hits_n, misses_n; /* of header_cache_get */
};
void header_cache_init(struct header_cache *c, uint64_t bytes_max);
void header_cache_deinit(struct header_cache *c);
/* Of the record at loc. True: *ret and blocks (room for all of loc->plain_bytes) are set. */
bool header_cache_get(struct header_cache *c, const struct seg_location *loc,
                      struct record_header *ret, struct record_block *blocks);
/* Of a record that was just read at loc and is good, h->plain_bytes is loc's too; copied. Others
 * may go for it. When memory is out, or it alone is above the bound, it is not kept. */
void header_cache_put(struct header_cache *c, const struct seg_location *loc,
                      const struct record_header *h, const struct record_block *blocks);
/* Something is wrong at loc: let the disk be asked again. */
void header_cache_remove(struct header_cache *c, const struct seg_location *loc);
/* The segment goes. */
void header_cache_remove_segment(struct header_cache *c, uint64_t segment_id);
