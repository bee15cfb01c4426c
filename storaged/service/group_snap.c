/* storaged/service/group_snap.c - a group's whole state from a peer, when its log begins too late.
 *
 * Learner: pages into one batch that replaces the state as a whole; the chunks that the state lists
 * and this disk lacks are pulled before it is committed, so a state that is there is complete.
 * Giver: one pager an asked id, given up when no page is asked for. A lost page is asked for again
 * by its cursor; the last one sent is kept for that. */
#include "common/base/clock.h"
#include "common/base/log.h"
#include "storaged/service/service.h"
#include <stdlib.h>
#include <string.h>

#define PAGE_WAIT_MS 2000u
#define PAGE_TRIES   8u

/* ---- giver ---- */
struct giver {
    struct list link;
    struct sd_group *g;
    struct id128 to_disk;
    uint64_t id, index, used_ms;
    struct pager *pager;
    bool busy;
    uint8_t cursor[APPLY_MAPKEY_BYTES_MAX]; /* of the page kept in body */
    uint8_t next[APPLY_MAPKEY_BYTES_MAX];   /* last key of it */
    uint32_t cursor_n, next_n;
    uint8_t *body;
    uint32_t body_n;
    bool done;
};

static void giver_free(struct giver *v)
{
    pager_close(v->pager);
    list_remove(&v->link);
    free(v->body);
    free(v);
}

static void page_send(struct sd_group *g, const struct replica_snap *ask, enum rc rc)
{
    struct replica_snap s = {.type = REPLICA_SNAP_PAGE,
                             .from_disk = g->disk->id,
                             .from_boot = g->sd->boot_id,
                             .to_disk = ask->from_disk,
                             .config = g->core.config,
                             .epoch = g->core.epoch,
                             .id = ask->id,
                             .index = g->applied,
                             .rc = rc,
                             .cursor = ask->cursor};
    uint32_t n = replica_snap_bytes(&s);
    uint8_t *body = n == 0 ? NULL : malloc(n);

    if (body == NULL) return;
    group_send_raw(g, &s.to_disk, (struct slice){body, replica_snap_encode(&s, body)});
    free(body);
}

static enum rc last_key(struct slice rows, uint8_t *key, uint32_t *ret_n)
{
    struct slice k, v;
    size_t at = 0;
    enum rc rc;

    while ((rc = replica_row_next(rows, &at, &k, &v)) == RC_OK) {
        if (k.n > APPLY_MAPKEY_BYTES_MAX) return RC_CORRUPT;
        memcpy(key, k.p, k.n);
        *ret_n = (uint32_t)k.n;
    }
    return rc == RC_NOTFOUND ? RC_OK : rc;
}

static void giver_run(void *arg)
{
    struct giver *v = arg;
    struct sd_group *g = v->g;
    const struct pager_page *page;
    struct replica_snap s = {.type = REPLICA_SNAP_PAGE,
                             .from_disk = g->disk->id,
                             .from_boot = g->sd->boot_id,
                             .to_disk = v->to_disk,
                             .config = g->core.config,
                             .epoch = g->core.epoch,
                             .id = v->id};
    uint32_t n;

    pager_next(v->pager, &page);
    memcpy(v->cursor, v->next, v->next_n);
    v->cursor_n = v->next_n;
    s.rc = page->rc;
    s.done = page->done;
    s.index = page->index;
    s.cursor = (struct slice){v->cursor, v->cursor_n};
    s.rows = (struct slice){page->p, page->rc == RC_OK ? page->n : 0};
    if (s.rc == RC_OK) s.rc = last_key(s.rows, v->next, &v->next_n);
    free(v->body);
    v->body_n = 0;
    n = replica_snap_bytes(&s);
    v->body = n == 0 ? NULL : malloc(n);
    v->done = page->done || v->body == NULL;
    if (v->body != NULL) {
        v->body_n = replica_snap_encode(&s, v->body);
        group_send_raw(g, &v->to_disk, (struct slice){v->body, v->body_n});
    }
    v->used_ms = clock_boot_ms();
    v->busy = false;
}

void snap_givers_expire(struct sd *sd)
{
    LIST_FOREACH_SAFE(it, &sd->givers)
    {
        struct giver *v = CONTAINER_OF(it, struct giver, link);

        if (!v->busy && (sd->stopping || clock_boot_ms() - v->used_ms > SD_PAGER_IDLE_MS))
            giver_free(v);
    }
}

static struct giver *giver_of(struct sd_group *g, const struct replica_snap *s)
{
    LIST_FOREACH(it, &g->sd->givers)
    {
        struct giver *v = CONTAINER_OF(it, struct giver, link);

        if (v->g == g && v->id == s->id && id128_eq(&v->to_disk, &s->from_disk)) return v;
    }
    return NULL;
}

void snap_get_arrived(struct sd_group *g, struct slice body)
{
    struct replica_snap s;
    struct giver *v;
    enum rc rc;

    snap_givers_expire(g->sd);
    if (replica_snap_decode(body, &s, NULL) != RC_OK) return;
    v = giver_of(g, &s);
    if (v == NULL) {
        if (s.cursor.n > 0 || g->applied < s.index) {
            page_send(g, &s, s.cursor.n > 0 ? RC_NOTFOUND : RC_STALE);
            return;
        }
        v = calloc(1, sizeof *v);
        if (v == NULL) return;
        v->g = g;
        v->id = s.id;
        v->to_disk = s.from_disk;
        list_push_back(&g->sd->givers, &v->link);
        rc = pager_open(g, (struct slice){0}, (struct slice){0}, &v->pager);
        if (rc != RC_OK) {
            giver_free(v);
            page_send(g, &s, RC_BUSY);
            return;
        }
        log_info("snapshot_given", "group=%s", g->name);
        sdm_add(SDM_SNAPSHOTS, 1);
    } else if (v->busy) {
        return; /* on its way */
    } else if (v->body != NULL && s.cursor.n == v->cursor_n &&
               memcmp(s.cursor.p, v->cursor, v->cursor_n) == 0) {
        v->used_ms = clock_boot_ms();
        group_send_raw(g, &v->to_disk, (struct slice){v->body, v->body_n}); /* it was lost */
        return;
    } else if (v->done || s.cursor.n != v->next_n || memcmp(s.cursor.p, v->next, v->next_n) != 0) {
        page_send(g, &s, RC_NOTFOUND);
        return;
    }
    v->busy = true;
    v->used_ms = clock_boot_ms();
    if (sd_spawn(g->sd, giver_run, v) != RC_OK) v->busy = false;
}

/* ---- learner ---- */
struct snap_get {
    struct sd_group *g;
    struct id128 peer;
    uint64_t epoch, least, id, index;
    struct fiber_event arrived;
    uint8_t *body; /* the page that came */
    size_t body_n;
    uint8_t cursor[APPLY_MAPKEY_BYTES_MAX];
    uint32_t cursor_n;
    struct index_batch *batch;
    struct apply_chunk *chunks; /* that the state lists */
    size_t chunks_n, chunks_cap;
    /* for work_* */
    struct slice rows;
    enum rc rc;
    struct err err;
};

void snap_page_arrived(struct sd_group *g, struct slice body)
{
    struct snap_get *s = g->snap;

    if (s == NULL || s->body != NULL) return;
    s->body = malloc(body.n);
    if (s->body == NULL) return; /* asked for again */
    memcpy(s->body, body.p, body.n);
    s->body_n = body.n;
    fiber_event_set(&s->arrived);
}

static void begin_work(void *arg)
{
    struct snap_get *s = arg;

    s->rc = index_batch_new(store_index(s->g->disk->store), &s->g->ix, &s->batch);
    if (s->rc == RC_OK) s->rc = index_batch_clear(s->batch, &s->err);
}

static enum rc chunk_note(struct snap_get *s, struct slice key, struct slice value)
{
    struct apply_chunk c;
    uint64_t index;
    bool dropped;
    enum rc rc;

    if (key.n != APPLY_CHUNK_KEY_BYTES || key.p[0] != 'c') return RC_OK;
    rc = apply_chunk_row(value, &c, &dropped, &index);
    if (rc != RC_OK || dropped) return rc;
    if (s->chunks_n == s->chunks_cap) {
        size_t cap = MAX(s->chunks_cap * 2, 256u);
        struct apply_chunk *more = realloc(s->chunks, cap * sizeof *more);

        if (more == NULL) return RC_NOMEM;
        s->chunks = more;
        s->chunks_cap = cap;
    }
    s->chunks[s->chunks_n++] = c;
    return RC_OK;
}

static void rows_work(void *arg)
{
    struct snap_get *s = arg;
    const struct apply_map *m = index_batch_map(s->batch);
    struct slice k, v;
    size_t at = 0;
    enum rc rc;

    while ((rc = replica_row_next(s->rows, &at, &k, &v)) == RC_OK) {
        if (k.n > APPLY_MAPKEY_BYTES_MAX) rc = RC_CORRUPT;
        if (rc == RC_OK) rc = m->put(m->ctx, k, v);
        if (rc == RC_OK) rc = chunk_note(s, k, v);
        if (rc != RC_OK) break;
        memcpy(s->cursor, k.p, k.n);
        s->cursor_n = (uint32_t)k.n;
    }
    s->rc = rc == RC_NOTFOUND ? RC_OK : err_set(&s->err, rc, "a page of a snapshot");
}

static void end_work(void *arg)
{
    struct snap_get *s = arg;
    struct index *ix = store_index(s->g->disk->store);

    s->rc = index_batch_commit(s->batch, (struct index_applied){s->epoch, s->index}, &s->err);
    if (s->rc == RC_OK) s->rc = index_log_trim(ix, &s->g->ix, s->index + 1, false, &s->err);
    if (s->rc == RC_OK) s->rc = index_sync(ix, &s->err);
}

static void free_work(void *arg)
{
    struct snap_get *s = arg;

    index_batch_free(s->batch);
}

static enum rc worked(struct snap_get *s, void (*fn)(void *arg))
{
    enum rc rc = fiber_work(fn, s);

    return rc == RC_OK ? s->rc : err_set(&s->err, rc, "no worker");
}

static bool unwanted(const struct snap_get *s)
{
    return s->g->dead || s->g->forget_epoch > s->epoch;
}

static void get_send(struct snap_get *s)
{
    struct replica_snap m = {.type = REPLICA_SNAP_GET,
                             .from_disk = s->g->disk->id,
                             .from_boot = s->g->sd->boot_id,
                             .to_disk = s->peer,
                             .config = s->g->core.config,
                             .epoch = s->g->core.epoch,
                             .id = s->id,
                             .index = s->least,
                             .cursor = {s->cursor, s->cursor_n}};
    uint32_t n = replica_snap_bytes(&m);
    uint8_t *body = n == 0 ? NULL : malloc(n);

    if (body == NULL) return;
    group_send_raw(s->g, &s->peer, (struct slice){body, replica_snap_encode(&m, body)});
    free(body);
}

/* One page. RC_OK: *ret_done. */
static enum rc page_get(struct snap_get *s, bool *ret_done)
{
    struct replica_snap p;
    enum rc rc;

    for (uint32_t tries = 0; tries < PAGE_TRIES && !unwanted(s); tries++) {
        free(s->body);
        s->body = NULL;
        get_send(s);
        if (fiber_event_wait_ms(&s->arrived, PAGE_WAIT_MS) != RC_OK || s->body == NULL) continue;
        rc = replica_snap_decode((struct slice){s->body, s->body_n}, &p, &s->err);
        if (rc != RC_OK || p.id != s->id || !id128_eq(&p.from_disk, &s->peer) ||
            p.cursor.n != s->cursor_n || memcmp(p.cursor.p, s->cursor, s->cursor_n) != 0)
            continue; /* of another question */
        if (p.rc != RC_OK) return err_set(&s->err, p.rc, "the giver: %s", rc_text(p.rc));
        s->rows = p.rows;
        rc = worked(s, rows_work);
        if (rc != RC_OK) return rc;
        *ret_done = p.done;
        if (p.done) s->index = p.index;
        return RC_OK;
    }
    return err_set(&s->err, RC_UNAVAIL, "no page came");
}

/* Copies that are made anew take what the foreground leaves: all fibers that pull for them onto
 * this disk stand in one line, which moves on at rebuild_rate, and few bytes are under way at once,
 * since the disk's other writes wait for those. What the log brings is not slowed down. Gives what
 * is to be given back to rebuild_room behind the pull; 0: none is needed. */
static uint32_t pace_wait(struct snap_get *s, const struct apply_chunk *c)
{
    uint32_t mib = MIN(c->plain_bytes / (1u << 20) + 1, SD_REBUILD_ROOM);
    struct index_chunk_id id = {c->body, c->index, c->seal_id};
    struct sd_disk *d = s->g->disk;
    struct index_chunk found;

    if (chunk_held(s->g, &id, &found, NULL) != RC_NOTFOUND) return 0;
    fiber_sem_take(&d->rebuild_turn, 1);
    d->rebuild_bytes += MAX(c->plain_bytes, SD_REBUILD_CHUNK);
    if (d->rebuild_bytes >= SD_REBUILD_TURN) {
        d->rebuild.bytes_per_s = s->g->sd->conf.rebuild_rate;
        d->rebuild.store = d->store;
        d->rebuild.stop = &s->g->dead;
        pace_take(&d->rebuild, d->rebuild_bytes);
        d->rebuild_bytes = 0;
    }
    fiber_sem_take(&d->rebuild_room, mib);
    fiber_sem_give(&d->rebuild_turn, 1);
    return mib;
}

static enum rc chunk_take(struct snap_get *s, const struct apply_chunk *c)
{
    uint64_t pause_ms = 20;
    enum rc rc;

    do {
        uint32_t room = pace_wait(s, c);

        rc = unwanted(s) ? RC_CANCELED : chunk_ensure(s->g, c, &s->peer, &s->err);
        if (room > 0) fiber_sem_give(&s->g->disk->rebuild_room, room);
        if (rc == RC_PRECOND) rc = RC_OK; /* dropped since: the log behind says so */
        if (rc == RC_OK || rc == RC_CANCELED || rc == RC_IO) break;
        fiber_sleep_ms(pause_ms);
        pause_ms *= 2;
    } while (pause_ms < 5000);
    return rc;
}

static enum rc snap_fetch(struct snap_get *s)
{
    bool done = false;
    enum rc rc = worked(s, begin_work);

    while (rc == RC_OK && !done)
        rc = page_get(s, &done);
    if (rc == RC_OK && s->index < s->least)
        rc = err_set(&s->err, RC_STALE, "a snapshot of index %llu, %llu is needed",
                     (unsigned long long)s->index, (unsigned long long)s->least);
    for (size_t i = 0; i < s->chunks_n && rc == RC_OK; i++)
        rc = chunk_take(s, &s->chunks[i]);
    if (rc == RC_OK && unwanted(s)) rc = RC_CANCELED;
    return rc;
}

static void snap_run(void *arg)
{
    struct snap_get *s = arg;
    struct sd_group *g = s->g;
    struct replica_event ev = {.type = REPLICA_EV_SNAPSHOT, .epoch = s->epoch};
    enum rc rc = snap_fetch(s);

    if (rc == RC_OK) {
        while (g->state_busy)
            fiber_cond_wait(&g->state_cond);
        g->state_busy = true;
        rc = unwanted(s) ? RC_CANCELED : worked(s, end_work);
        while (rc == RC_FULL && !g->dead) { /* to its end: a part of it may be written */
            fiber_sleep_ms(SD_ROOM_PAUSE_MS);
            rc = worked(s, end_work);
        }
        if (rc == RC_OK) {
            g->applied = s->index;
            g->apply_to = s->index;
            g->log_top = s->index;
        }
        g->state_busy = false;
        fiber_cond_broadcast(&g->state_cond);
        if (rc == RC_IO || rc == RC_CORRUPT) group_fail(g, RC_IO, &s->err);
    }
    log_info("snapshot_taken", "group=%s rc=%s index=%llu chunks=%zu why=%s", g->name, rc_name(rc),
             (unsigned long long)s->index, s->chunks_n, rc == RC_OK ? "" : s->err.msg);
    if (s->batch != NULL && fiber_work(free_work, s) != RC_OK) index_batch_free(s->batch);
    ev.rc = rc;
    ev.index = s->index;
    g->snap = NULL;
    free(s->body);
    free(s->chunks);
    free(s);
    group_event(g, &ev);
}

void group_snapshot(struct sd_group *g, const struct replica_action *a)
{
    struct snap_get *s = calloc(1, sizeof *s);
    struct err err;

    CHECK(g->snap == NULL); /* one at a time, says the core */
    if (s != NULL) {
        s->g = g;
        s->peer = a->peer;
        s->epoch = a->epoch;
        s->least = a->first - 1;
        random_bytes(&s->id, sizeof s->id);
        g->snap = s;
        if (sd_spawn(g->sd, snap_run, s) == RC_OK) return;
        g->snap = NULL;
        free(s);
    }
    (void)err_set(&err, RC_NOMEM, "no fiber for a snapshot");
    group_fail(g, RC_NOMEM, &err);
}
