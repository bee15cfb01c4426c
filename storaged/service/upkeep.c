/* storaged/service/upkeep.c - what a disk does besides serving: reclaim, scrub, and repair of what
 * is quarantined from the other replicas of its group.
 *
 * A record found bad (by a scrub, by reclaim, by a read) is first quarantined, durably: from then
 * on this copy is not held, nobody is served from it, and the ordinary pull of a missing chunk
 * brings a good one. The note goes when that is durable. One repair at a time a disk. A log entry
 * that is bad is written again if it is in memory, else its log is cut behind it if it is applied,
 * else its replica stops. */
#include "common/base/clock.h"
#include "common/base/log.h"
#include "storaged/service/service.h"
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define REPAIR_BATCH    16u
#define REPAIR_PAUSE_MS 1000u /* between tries of what could not be repaired */

/* ---- repair ---- */
struct bads {
    struct sd_disk *d;
    struct index_chunk_id from;
    bool first;
    struct index_bad bad[REPAIR_BATCH];
    uint32_t n;
    enum rc rc;
    struct err err;
};

static void bads_work(void *arg)
{
    struct bads *b = arg;

    b->rc = index_bad_list(store_index(b->d->store), b->first ? NULL : &b->from, b->bad,
                           REPAIR_BATCH, &b->n, &b->err);
}

struct clear {
    struct sd_disk *d;
    const struct index_chunk_id *id;
    enum rc rc;
    struct err err;
};

static void clear_work(void *arg)
{
    struct clear *c = arg;

    c->rc = index_bad_clear(store_index(c->d->store), c->id, &c->err);
}

static bool clear(struct sd_disk *d, const struct index_chunk_id *id)
{
    struct clear c = {.d = d, .id = id};
    enum rc rc = fiber_work(clear_work, &c);

    if (rc == RC_OK) rc = c.rc;
    if (rc != RC_OK) log_warn("repair_note", "dir=%s rc=%s why=%s", d->dir, rc_name(rc), c.err.msg);
    return rc == RC_OK;
}

/* The group's replica on this disk, if it is one that holds chunks. */
static struct sd_group *holder(struct sd_disk *d, uint32_t pool, uint64_t hash)
{
    const struct placement_pool *p =
        d->sd->cluster == NULL ? NULL : cluster_pool(d->sd->cluster, pool);
    struct placement_group id;
    struct sd_group *g;

    if (p == NULL) return NULL;
    id = placement_group_of(p, hash);
    g = group_find(d->sd, &id, &d->id);
    return g != NULL && g->ready && !g->dead ? g : NULL;
}

/* RC_OK: a good copy is here, or none is wanted. */
static enum rc repair_one(struct sd_disk *d, const struct index_chunk *c, struct err *reterr)
{
    struct apply_chunk want = {.placement_hash = c->placement_hash,
                               .body = c->id.body,
                               .index = c->id.index,
                               .seal_id = c->id.seal_id,
                               .plain_bytes = c->loc.plain_bytes,
                               .owner_hash = c->owner_hash,
                               .upload_id = c->upload_id};
    struct sd_group *g = holder(d, c->pool, c->placement_hash);
    struct index_chunk found;
    enum rc rc;

    if (g == NULL) return err_set(reterr, RC_UNAVAIL, "its replica is not ready");
    memcpy(want.plain_digest, c->plain_digest, sizeof want.plain_digest);
    if (chunk_decided(g, &want)) return RC_OK;
    rc = chunk_held(g, &c->id, &found, reterr);
    if (rc != RC_NOTFOUND) return rc; /* it came by itself; or the index fails */
    return chunk_fetch(g, &want, reterr);
}

static void repair_all(struct sd_disk *d, struct bads *b)
{
    char body[ID128_TEXT_BYTES];

    b->d = d;
    b->first = true;
    do {
        if (fiber_work(bads_work, b) != RC_OK || b->rc != RC_OK) return; /* looked again */
        for (uint32_t i = 0; i < b->n && !d->out && !d->sd->stopping; i++) {
            const struct index_chunk *c = &b->bad[i].chunk;
            struct err err = {0};
            enum rc rc = repair_one(d, c, &err);

            if (rc == RC_OK && clear(d, &c->id)) {
                sdm_add(SDM_REPAIRED, 1);
                log_info("chunk_repaired", "dir=%s body=%s index=%u", d->dir,
                         id128_text(&c->id.body, body), c->id.index);
            } else {
                sdm_add(SDM_REPAIR_FAILED, 1);
                log_debug("chunk_repair_again", "dir=%s body=%s index=%u rc=%s why=%s", d->dir,
                          id128_text(&c->id.body, body), c->id.index, rc_name(rc), err.msg);
            }
            b->from = c->id;
        }
        b->first = false;
    } while (b->n == REPAIR_BATCH && !d->out && !d->sd->stopping);
}

static void repair_run(void *arg)
{
    struct sd_disk *d = arg;
    struct bads *b = calloc(1, sizeof *b);
    struct store_status st;

    while (!d->out && !d->sd->stopping) {
        store_status(d->store, &st);
        if (b == NULL) b = calloc(1, sizeof *b);
        if (st.index.quarantined_n > 0 && b != NULL) repair_all(d, b);
        disk_leftovers(d);
        (void)!fiber_event_wait_ms(&d->repair_wake, REPAIR_PAUSE_MS); /* either way: look */
    }
    free(b);
}

/* ---- what was found ---- */
static void on_bad_chunk(void *data, const struct index_chunk_id *id)
{
    struct sd_disk *d = data;

    (void)id;
    sdm_add(SDM_QUARANTINED, 1);
    fiber_event_set(&d->repair_wake);
}

struct suspect {
    struct sd_disk *d;
    struct index_chunk_id id;
    struct seg_location loc;
};

static void suspect_run(void *arg)
{
    struct suspect *x = arg;
    struct sd_disk *d = x->d;
    struct err err = {0};
    enum rc rc = RC_OK;

    if (!d->out) rc = scrub_suspect(d->store, &x->id, &x->loc, SCRUB_FOREGROUND, &err);
    if (rc == RC_OK) on_bad_chunk(d, &x->id);
    d->suspects_n--;
    free(x);
}

void disk_suspect(struct sd_disk *d, const struct index_chunk_id *id,
                  const struct seg_location *loc)
{
    struct suspect *x;

    if (d->out || d->suspects_n >= SD_SUSPECTS_MAX) return; /* the next read of it, or the scrub */
    x = malloc(sizeof *x);
    if (x == NULL) return;
    *x = (struct suspect){d, *id, *loc};
    if (sd_spawn(d->sd, suspect_run, x) != RC_OK) {
        free(x);
        return;
    }
    d->suspects_n++;
}

static void on_bad_copy(void *data, const struct record_header *h, const struct seg_location *loc)
{
    struct sd_disk *d = data;

    if (h->type == RECORD_CHUNK) {
        struct index_chunk_id id = {h->body, h->index, h->seal_id};

        disk_suspect(d, &id, loc);
    } else {
        struct index_group g = {
            .pool = h->pool, .bits = (uint8_t)h->index, .prefix = h->placement_hash};

        group_entry_bad(d, &g, h->log_index);
    }
}

static void on_bad_entry(void *data, const struct index_group *g, const struct index_log_row *row)
{
    group_entry_bad(data, g, row->index);
}

static void on_stray(void *data, const struct record_header *h, const struct seg_location *loc)
{
    disk_stray(data, h, loc);
}

/* Rows can't be trusted any more: this disk ends, the next start makes the index again. */
static void on_bad_file(void *data, const struct err *e)
{
    struct sd_disk *d = data;
    struct err err;

    if (store_damage_note(d->store, "a file of the index is bad\n", &err) != RC_OK)
        log_error("damage_note", "dir=%s why=%s", d->dir, err.msg);
    store_fail(d->store, e->msg);
    disk_out(d, RC_CORRUPT, e);
}

/* ---- life ---- */
static void reclaim_fiber(void *arg)
{
    struct sd_disk *d = arg;

    reclaim_run(d->reclaim);
}

static void scrub_fiber(void *arg)
{
    struct sd_disk *d = arg;

    scrub_run(d->scrub);
}

static enum rc upkeep_start(struct sd_disk *d, struct err *reterr)
{
    const struct sd_settings *s = &d->sd->conf;
    struct reclaim_conf rc_conf = {.store = d->store,
                                   .bytes_per_s = s->reclaim_rate,
                                   .dead_percent = (uint32_t)s->reclaim_dead,
                                   .pause_ms = SD_UPKEEP_MS,
                                   .bad = on_bad_copy,
                                   .data = d};
    struct scrub_conf sc_conf = {.store = d->store,
                                 .period_ms = s->scrub_period_ms,
                                 .bytes_per_s = s->scrub_rate,
                                 .pause_ms = SD_UPKEEP_MS,
                                 .chunk = on_bad_chunk,
                                 .stray = on_stray,
                                 .entry = on_bad_entry,
                                 .index = on_bad_file,
                                 .data = d};
    enum rc rc = reclaim_new(&rc_conf, &d->reclaim);

    if (rc != RC_OK) return err_set(reterr, rc, "reclaim");
    rc = scrub_new(&sc_conf, &d->scrub, reterr);
    if (rc != RC_OK) return rc;
    rc = sd_spawn(d->sd, repair_run, d);
    if (rc == RC_OK) rc = sd_spawn(d->sd, reclaim_fiber, d);
    if (rc == RC_OK && s->scrub_period_ms > 0) rc = sd_spawn(d->sd, scrub_fiber, d);
    return rc == RC_OK ? RC_OK : err_set(reterr, rc, "a disk's background work");
}

enum rc disks_upkeep(struct sd *sd, struct err *reterr)
{
    if (sd->conf.reclaim_dead < 1 || sd->conf.reclaim_dead > 100)
        return err_set(reterr, RC_INVAL, "--reclaim_dead: %llu; 1 to 100 (percent)",
                       (unsigned long long)sd->conf.reclaim_dead);
    for (uint32_t i = 0; i < sd->disks_n; i++) {
        enum rc rc = upkeep_start(&sd->disks[i], reterr);

        if (rc != RC_OK) return err_prefix(reterr, "disk %s", sd->disks[i].dir);
    }
    return RC_OK;
}

void disk_upkeep_stop(struct sd_disk *d)
{
    if (d->reclaim != NULL) reclaim_stop(d->reclaim);
    if (d->scrub != NULL) scrub_stop(d->scrub);
    fiber_event_set(&d->repair_wake);
}

void disk_upkeep_free(struct sd_disk *d)
{
    reclaim_free(d->reclaim);
    scrub_free(d->scrub);
    d->reclaim = NULL;
    d->scrub = NULL;
}
