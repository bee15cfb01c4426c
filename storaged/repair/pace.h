/* storaged/repair/pace.h - how fast background work may use a disk: a rate, and the foreground
 * first.
 *
 * Called while none of the caller's own requests are under way. It waits until its bytes are due.
 * While requests of others are under way on the disk it waits a little longer, but at most
 * PACE_YIELDS times a call: background work gets slower, never starved. */
#pragma once
#include "storaged/store/store_wait.h"

#define PACE_YIELD_MS 5u
#define PACE_YIELDS   20u /* 0.1 s a call */

struct pace {
    struct store *store;
    uint64_t bytes_per_s; /* 0 = no limit */
    bool *stop;           /* returns at once when set */
    uint64_t due_us;
    uint64_t yields_n; /* out: times the foreground was let go first */
};
void pace_take(struct pace *p, uint64_t bytes); /* fiber */
