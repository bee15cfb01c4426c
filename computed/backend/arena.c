/* computed/backend/arena.c - first fit by size. Quadratic in the number of
 * buffers: a graph has a few hundred, and the plan is kept. */
#include "computed/backend/arena.h"

static bool meet(const struct be_life *a, const struct be_life *b)
{
    return a->from <= b->to && b->from <= a->to;
}

size_t be_arena_place(struct be_life *life, uint32_t n, uint32_t *order)
{
    size_t total = 0;

    for (uint32_t i = 0; i < n; i++) { /* insertion sort, largest first */
        uint32_t k = i;

        while (k > 0 && life[order[k - 1]].bytes < life[i].bytes) {
            order[k] = order[k - 1];
            k--;
        }
        order[k] = i;
    }
    for (uint32_t i = 0; i < n; i++) {
        struct be_life *l = &life[order[i]];
        size_t bytes = ROUND_UP(l->bytes, (size_t)BE_ARENA_ALIGN);
        bool moved = true;

        l->off = 0;
        while (moved) { /* rises past each buffer in its way until none is */
            moved = false;
            for (uint32_t k = 0; k < i; k++) {
                const struct be_life *o = &life[order[k]];
                size_t end = o->off + ROUND_UP(o->bytes, (size_t)BE_ARENA_ALIGN);

                if (!meet(l, o) || l->off >= end || o->off >= l->off + bytes) continue;
                l->off = end;
                moved = true;
            }
        }
        total = MAX(total, l->off + bytes);
    }
    return total;
}
