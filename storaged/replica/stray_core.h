/* storaged/replica/stray_core.h - may bytes that no ChunkAdd made exist be dropped from this disk?
 *
 *   IDLE --begin--> WAITS --look: applied has reached the fence--> DROPS --end--> IDLE
 *                     '--- needed, or this replica may not any more --> IDLE
 *
 * Strays are bytes that came along the chain and whose ChunkAdd never did: the gateway or the node
 * died between the two. A ChunkAdd may come arbitrarily late (a process that slept), so no clock
 * decides: who collects drops its own copy only, and in a way that no entry of the log can rest on.
 *
 * Why that is safe. An entry rests on the bytes here from the moment that they were looked up and
 * found until the entry is applied here (its row in the state then says what is to be kept). Let T0
 * be begin. Who looked the bytes up
 *   before T0, for an entry that was appended here before: its index is at most the fence, the
 *     highest ever appended at T0. It is applied before anything is dropped, and then the chunk
 *     is listed, so not dropped; or another entry was committed in its place, and it is dead.
 *   before T0, for an entry that is proposed here after it: the proposer took stray_mark before it
 *     looked, and stray_still says no when a drop began since, or ends this one.
 *   after T0: stray_needed ends it, and the bytes stay; or the drop has begun and it says no: wait
 *     for its end, then look again. The bytes are not there then: they are pulled, or sent again.
 * The state is looked at once more when the drop has begun: a snapshot may have come between. Who
 * takes one looks up what it lists, as everybody does. A crash may take the drop back, never the
 * state that it was based on: both are batches of one WAL.
 *
 * What remains is courtesy: begin only when the bytes are old, or a ChunkAdd under way would have
 * to pull them or ask its gateway for them once more. One at a time and disk; pure. */
#pragma once
#include "common/base/id128.h"

struct stray_id {
    struct id128 body, seal_id;
    uint32_t index;
};
enum stray_state { STRAY_IDLE = 0, STRAY_WAITS, STRAY_DROPS };
struct stray_core { /* all zero: idle */
    enum stray_state state;
    struct stray_id id;
    uint64_t fence;
    uint64_t drops_n; /* begun since the process started */
};
enum stray_verdict {
    STRAY_AGAIN = 1, /* look again later */
    STRAY_DROP,      /* look at the state; if it lists nothing drop them; then stray_end */
    STRAY_OVER,      /* they stay */
};
/* log_top: highest index ever appended to this replica's log here, or found there at the start. */
void stray_begin(struct stray_core *s, const struct stray_id *id, uint64_t log_top);
/* may: this replica is in sync, as far as is known, and takes no snapshot. */
enum stray_verdict stray_look(struct stray_core *s, uint64_t applied, bool may);
void stray_end(struct stray_core *s);
/* Somebody is about to look whether these bytes are here, and will rest on the answer. False: they
 * are being dropped: ask again after stray_end. */
bool stray_needed(struct stray_core *s, const struct stray_id *id);
/* A proposer: before it looks (or writes the bytes itself); and in the step that proposes. False
 * there: look once more. */
uint64_t stray_mark(const struct stray_core *s);
bool stray_still(struct stray_core *s, const struct stray_id *id, uint64_t mark);
