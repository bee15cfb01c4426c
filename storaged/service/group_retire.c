/* storaged/service/group_retire.c - a replica that nobody wants any more gives its room back.
 *
 * It goes only when the group's record, read by a transaction just now and not older than anything
 * this replica has promised, has no part for it, and all that are wished are in sync: then its copy
 * is one too many. First it promises that it is damaged: from then on, whatever crash, only a
 * snapshot makes it count again. Then chunks with their rows in the state, the rest of the state,
 * the log, last the promises. The struct stays (fibers may look at it) and can be born anew. */
#include "common/base/clock.h"
#include "common/base/log.h"
#include "storaged/service/service.h"
#include <stdlib.h>
#include <string.h>

#define PART_CHUNKS 512u

/* As far as is known here. */
static bool unwanted(const struct sd_group *g)
{
    const struct group_config *c = &g->config;
    const struct id128 *me = &g->disk->id;

    if (!g->ready || g->dead || replica_role(&g->core) != REPLICA_NONE || !g->has_wish)
        return false;
    if (c->config == 0 || c->config < g->core.config || c->epoch < g->core.epoch) return false;
    if (group_set_has(&c->in_sync, me) || group_set_has(&c->learners, me) ||
        group_set_has(&c->last_serving, me) || group_set_has(&g->wish, me))
        return false;
    for (uint32_t i = 0; i < g->wish.n; i++) {
        if (!group_set_has(&c->in_sync, &g->wish.disks[i])) return false;
    }
    return c->in_sync.n >= g->core.conf.min_in_sync;
}

/* Nothing of it is under way. */
static bool quiet(const struct sd_group *g)
{
    return g->appends_n == 0 && g->catchups_n == 0 && list_empty(&g->pulls) && g->snap == NULL &&
           !g->compare.running && g->compare.ask == NULL && !g->applying && !g->persisting &&
           !g->reading && !g->opening && !g->state_busy && !g->loading && !g->trimming;
}

struct erase {
    struct sd_group *g;
    uint8_t keys[PART_CHUNKS][APPLY_CHUNK_KEY_BYTES];
    struct apply_chunk chunks[PART_CHUNKS];
    uint32_t n;
    uint64_t dropped_n;
    enum rc rc;
    struct err err;
};

static void damage_work(void *arg)
{
    struct erase *e = arg;
    struct replica_durable d = e->g->core.durable;
    uint8_t blob[REPLICA_DURABLE_BYTES];

    d.epoch = MAX(d.epoch, e->g->core.epoch);
    d.config = MAX(d.config, e->g->core.config);
    d.damaged = true;
    replica_durable_encode(&d, blob);
    e->rc = index_persist(store_index(e->g->disk->store), &e->g->ix,
                          (struct slice){blob, sizeof blob}, &e->err);
}

static enum rc note_chunk(void *ctx, struct slice key, struct slice value)
{
    struct erase *e = ctx;
    bool dropped;
    uint64_t index;

    if (key.n != APPLY_CHUNK_KEY_BYTES || key.p[0] != 'c') return RC_OK;
    if (e->n == PART_CHUNKS) return RC_RANGE;
    if (apply_chunk_row(value, &e->chunks[e->n], &dropped, &index) != RC_OK) return RC_OK;
    memcpy(e->keys[e->n++], key.p, key.n);
    return RC_OK;
}

/* Some chunks, with their rows. */
static void chunks_work(void *arg)
{
    struct erase *e = arg;
    struct index *ix = store_index(e->g->disk->store);
    const uint8_t from = 'c', until = 'd';
    struct index_applied at;
    struct index_batch *b = NULL;

    e->n = 0;
    e->rc = index_state_scan(ix, &e->g->ix, (struct slice){&from, 1}, (struct slice){&until, 1},
                             note_chunk, e, &at, &e->err);
    if (e->rc != RC_OK || e->n == 0) return;
    e->rc = index_batch_new(ix, &e->g->ix, &b);
    for (uint32_t i = 0; i < e->n && e->rc == RC_OK; i++) {
        const struct apply_map *m = index_batch_map(b);

        e->rc = index_batch_chunk_drop(b, &e->chunks[i].body, e->chunks[i].index, NULL, &e->err);
        if (e->rc == RC_OK)
            e->rc = m->del(m->ctx, (struct slice){e->keys[i], APPLY_CHUNK_KEY_BYTES});
    }
    if (e->rc == RC_OK) e->rc = index_batch_commit(b, at, &e->err);
    if (e->rc == RC_OK) e->dropped_n += e->n;
    index_batch_free(b);
}

static void rest_work(void *arg)
{
    struct erase *e = arg;
    struct index *ix = store_index(e->g->disk->store);
    struct index_batch *b = NULL;

    e->rc = index_batch_new(ix, &e->g->ix, &b);
    if (e->rc == RC_OK) e->rc = index_batch_clear(b, &e->err);
    if (e->rc == RC_OK) e->rc = index_batch_commit(b, (struct index_applied){0}, &e->err);
    index_batch_free(b);
    if (e->rc == RC_OK) e->rc = index_log_trim(ix, &e->g->ix, UINT64_MAX, false, &e->err);
    if (e->rc == RC_OK) e->rc = index_group_forget(ix, &e->g->ix, &e->err);
}

static enum rc step(struct erase *e, void (*fn)(void *arg))
{
    enum rc rc = fiber_work(fn, e);

    return rc == RC_OK ? e->rc : err_set(&e->err, rc, "no worker");
}

static void erase_run(void *arg)
{
    struct erase *e = arg;
    struct sd_group *g = e->g;
    enum rc rc;

    group_leave(g);
    while (!quiet(g) && !g->sd->stopping)
        fiber_sleep_ms(20);
    rc = g->sd->stopping || g->disk->out ? RC_CANCELED : step(e, damage_work);
    do {
        if (rc == RC_OK) rc = g->sd->stopping || g->disk->out ? RC_CANCELED : step(e, chunks_work);
    } while (rc == RC_OK && e->n > 0);
    if (rc == RC_OK) rc = step(e, rest_work);
    if (rc == RC_OK) {
        log_info("replica_erased", "group=%s chunks=%llu", g->name,
                 (unsigned long long)e->dropped_n);
        g->erased = true;
        g->sd->groups_n--;
        g->disk->groups_n--;
    } else if (rc != RC_CANCELED) { /* it stays stopped: the next start tries again */
        log_error("replica_erase", "group=%s rc=%s why=%s", g->name, rc_name(rc), e->err.msg);
    }
    if (rc == RC_IO || rc == RC_CORRUPT) disk_out(g->disk, rc, &e->err);
    g->retiring = false;
    free(e);
}

void group_retire_look(struct sd_group *g)
{
    uint64_t now_ms = clock_boot_ms();
    struct erase *e;

    if (g->retiring || g->erased || g->sd->stopping) return;
    if (!unwanted(g)) {
        g->unwanted_ms = 0;
        g->record_read = 0;
        return;
    }
    if (g->unwanted_ms == 0) g->unwanted_ms = now_ms;
    if (now_ms - g->unwanted_ms < g->sd->conf.retire_ms) return;
    if (g->record_read != g->config.config) { /* not what a mirror says: it may be old */
        group_read_config(g);
        return;
    }
    e = calloc(1, sizeof *e);
    if (e == NULL) return;
    e->g = g;
    g->retiring = true;
    if (sd_spawn(g->sd, erase_run, e) == RC_OK) return;
    g->retiring = false;
    free(e);
}
