/* tests/sim/sim_base.h - what a simulated world is made of: one seeded source of chance, memory
 * that is freed at the world's end, a queue of events in virtual time, a sorted map for apply_core.
 */
#pragma once
#include "common/base/id128.h"
#include "storaged/replica/apply_core.h"

struct sim_rng {
    uint64_t s;
};
uint64_t sim_rand(struct sim_rng *r, uint64_t n); /* 0 .. n - 1 */
bool sim_chance(struct sim_rng *r, uint32_t per_10000);

struct sim_arena {
    struct sim_block *blocks;
};
void *sim_alloc(struct sim_arena *a, size_t n); /* zeroed */
void sim_arena_free(struct sim_arena *a);
struct slice sim_copy(struct sim_arena *a, struct slice s);

struct sim_event {
    uint64_t at_us, order; /* order: equal times stay in the order of scheduling */
    int type, node;
    uint32_t life; /* of the node's process; another one never sees it */
    uint64_t a, b, c;
    void *p;
};
struct sim_queue {
    struct sim_event *e;
    size_t n, cap;
    uint64_t order;
};
void sim_push(struct sim_queue *q, struct sim_event e);
bool sim_pop(struct sim_queue *q, struct sim_event *ret);
void sim_queue_free(struct sim_queue *q);

/* Rows are immutable, so a copy of a map is a copy of the array. */
struct sim_row {
    struct slice key, value;
    uint64_t hash;
};
struct sim_map {
    struct sim_row *rows;
    size_t n, cap;
    uint64_t hash; /* xor of the rows' hashes: equal maps, equal hashes */
    struct sim_arena *arena;
    uint8_t *scratch;
};
struct apply_map sim_map_ops(struct sim_map *m);
void sim_map_copy(struct sim_map *to, const struct sim_map *from);
void sim_map_free(struct sim_map *m);
