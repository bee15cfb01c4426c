/* common/fiber/arena.h - memory that lives as long as one request: allocated piecemeal, freed at
 * once. */
#pragma once
#include "common/base/macros.h"
#include <protobuf-c/protobuf-c.h>

struct arena_block;
struct arena {
    struct arena_block *blocks;
    ProtobufCAllocator pb; /* for <message>__unpack: nothing need be freed */
    size_t used_bytes;     /* of all blocks */
};

void arena_init(struct arena *a);
void arena_deinit(struct arena *a);
/* Zeroed, 16-aligned. NULL: out of memory. */
void *arena_alloc(struct arena *a, size_t n);
/* Likewise, not zeroed: for what is written before it is read. */
void *arena_raw(struct arena *a, size_t n);
void *arena_copy(struct arena *a, const void *p, size_t n);
char *arena_str(struct arena *a, const char *fmt, ...) PRINTF_LIKE(2, 3);
