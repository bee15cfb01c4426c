/* storaged/service/group_apply.c - committed entries, in order, into the group's state.
 *
 * One batch at a time, on a worker thread: the effects of its entries and the position they stand
 * for are one write. An entry that does not decode stops the replica: skipping it would make this
 * state another than its peers'. */
#include "common/base/clock.h"
#include "common/base/log.h"
#include "storaged/service/service.h"
#include <stdlib.h>

struct batch {
    struct sd_group *g;
    struct entry *e[SD_BATCH_ENTRIES];
    struct apply_outcome out[SD_BATCH_ENTRIES];
    uint32_t n;
    enum rc rc;
    struct err err;
};

/* What an entry makes superfluous goes with the batch that applies it, so that no crash leaves
 * bytes that nobody drops: with a tombstone every sealing of the chunk, with a chunk that came to
 * exist every other one (they can't win any more; chunk_decided knows). */
static enum rc drop_bytes(struct index_batch *ib, const struct entry *e,
                          const struct apply_outcome *out, struct err *reterr)
{
    struct apply_chunk c;
    bool all;

    if (!apply_entry_drops((struct slice){e->p, e->n}, out, &c, &all)) return RC_OK;
    return index_batch_chunk_drop(ib, &c.body, c.index, all ? NULL : &out->seal_id, reterr);
}

static void batch_work(void *arg)
{
    struct batch *b = arg;
    struct index *ix = store_index(b->g->disk->store);
    struct index_batch *ib = NULL;
    struct index_applied at = {0};

    b->rc = index_batch_new(ix, &b->g->ix, &ib);
    if (b->rc != RC_OK) {
        (void)err_set(&b->err, b->rc, "a batch");
        return;
    }
    for (uint32_t i = 0; i < b->n && b->rc == RC_OK; i++) {
        struct entry *e = b->e[i];

        b->rc = apply_step(index_batch_map(ib), e->index, (struct slice){e->p, e->n}, &b->out[i],
                           &b->err);
        if (b->rc == RC_OK) b->rc = drop_bytes(ib, e, &b->out[i], &b->err);
        at = (struct index_applied){e->epoch, e->index};
    }
    if (b->rc == RC_OK) b->rc = index_batch_commit(ib, at, &b->err);
    index_batch_free(ib);
}

static void answer(struct sd_group *g, const struct batch *b)
{
    for (uint32_t i = 0; i < b->n; i++) {
        const struct entry *e = b->e[i];
        struct waiter *w = NULL;

        if (e->n >= 2 && e->p[1] == APPLY_TICK) g->tick_ms = clock_boot_ms();
        if (list_empty(&g->waiters)) continue;
        w = CONTAINER_OF(g->waiters.next, struct waiter, link);
        if (w->index != e->index) continue;
        list_remove(&w->link);
        w->outcome = b->out[i];
        w->settled = true;
        fiber_event_set(&w->done);
    }
}

static enum rc one_batch(struct sd_group *g, struct batch *b)
{
    struct replica_event ev = {.type = REPLICA_EV_APPLIED};
    uint64_t first = g->applied + 1;
    uint32_t n = (uint32_t)MIN(g->apply_to - g->applied, SD_BATCH_ENTRIES);
    enum rc rc;

    if (g->compare.hold > g->applied) n = (uint32_t)MIN(n, g->compare.hold - g->applied);
    b->g = g;
    b->n = 0;
    b->err = (struct err){0};
    rc = group_entries(g, first, n, SD_BATCH_BYTES, b->e, &b->n);
    if (rc != RC_OK) {
        return err_set(&b->err, rc == RC_NOTFOUND ? RC_CORRUPT : rc,
                       "committed entry %llu can't be read", (unsigned long long)first);
    }
    g->state_busy = true;
    worker_run(store_worker(g->disk->store), batch_work, b);
    rc = b->rc;
    g->state_busy = false;
    fiber_cond_broadcast(&g->state_cond);
    if (rc == RC_OK) {
        g->applied = first + b->n - 1;
        sdm_add(SDM_APPLIED, b->n);
        answer(g, b);
    }
    entries_unpin(b->e, b->n);
    if (rc != RC_OK) return rc;
    ev.index = g->applied;
    group_event(g, &ev);
    return RC_OK;
}

static void apply_run(void *arg)
{
    struct sd_group *g = arg;
    struct batch *b = calloc(1, sizeof *b);
    uint64_t pause_ms = 1;

    while (g->applied < g->apply_to && !g->dead) {
        enum rc rc = RC_NOMEM;

        while (g->state_busy || (g->applied == g->compare.hold && g->applied > 0 && !g->dead))
            fiber_cond_wait(&g->state_cond);
        if (g->applied >= g->apply_to || g->dead) break;
        if (b == NULL) b = calloc(1, sizeof *b);
        if (b != NULL) rc = one_batch(g, b);
        if (rc == RC_NOMEM || rc == RC_BUSY || rc == RC_FULL) { /* nothing was changed: again */
            fiber_sleep_ms(pause_ms);
            pause_ms = MIN(pause_ms * 2, 1000);
        } else if (rc != RC_OK) {
            group_fail(g, rc, &b->err);
        } else {
            pause_ms = 1;
        }
    }
    free(b);
    g->applying = false;
}

void group_apply(struct sd_group *g, uint64_t upto)
{
    g->apply_to = MAX(g->apply_to, upto);
    if (g->applying || g->applied >= g->apply_to) return;
    g->applying = sd_spawn(g->sd, apply_run, g) == RC_OK;
    /* no memory for a fiber: the next APPLY, or the slow tick, starts it */
}
