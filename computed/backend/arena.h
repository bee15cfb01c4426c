/* computed/backend/arena.h - places buffers that live for a span of steps into
 * one block. Pure. */
#pragma once
#include "common/base/macros.h"

#define BE_ARENA_ALIGN 64

struct be_life {
    size_t bytes;
    uint32_t from, to; /* first and last step that touches it, both included */
    size_t off;        /* out */
};
/* Greedy first fit in order of size (largest first), ties in order of index.
 * order: scratch of n. Returns the block's size. */
size_t be_arena_place(struct be_life *life, uint32_t n, uint32_t *order);
