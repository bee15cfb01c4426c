/* tests/sim/sim_gateway/sim_group.h - one placement group as a gateway sees it: the real
 * apply_core over a map in memory, behind a network that loses, delays and repeats. */
#pragma once
#include "storaged/replica/apply_core.h"

struct sim_row {
    uint8_t *key, *value;
    size_t key_n, value_n;
};
struct sim_late { /* an entry still on its way */
    uint8_t *bytes;
    size_t n;
};
struct sim_group {
    uint64_t rand;
    struct sim_row *rows;
    size_t n, cap;
    uint64_t index, tick;
    struct sim_late late[32];
    uint32_t late_n;
    bool calm; /* no faults any more */
    /* called after each entry that took effect for the first time */
    void (*on_applied)(void *ctx, struct slice entry);
    void *ctx;
};
uint64_t sim_rand(struct sim_group *g, uint64_t n); /* 0 .. n - 1 */
void sim_group_init(struct sim_group *g, uint64_t seed);
void sim_group_deinit(struct sim_group *g);
/* A transaction over the network. RC_DEADLINE: unknown outcome, it may run now, later, twice, or
 * never; else the outcome of apply_core. */
enum rc sim_txn(struct sim_group *g, const struct apply_entry *e, struct apply_outcome *ret);
void sim_tick(struct sim_group *g);
void sim_deliver_late(struct sim_group *g);
/* Value and version (0 = absent) of a user's key; borrowed until the next change. */
struct slice sim_get(struct sim_group *g, struct slice key, uint64_t *ret_version);
/* The first user's key >= from; false at the end. */
bool sim_next(struct sim_group *g, struct slice from, struct slice *ret_key,
              struct slice *ret_value);
