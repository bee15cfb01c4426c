/* storaged/service/group_log.c - a group's entries between its core, memory, the segment log and
 * its peers.
 *
 * Appends of a group are handed to the store in order; one whose bytes are still to be read (after
 * a take-over) holds those behind it, so DURABLE of an index always covers what is below. An entry
 * is pinned in memory until it is durable: after that the log has it. */
#include "common/base/log.h"
#include "storaged/service/service.h"
#include <stdlib.h>
#include <string.h>

void entries_unpin(struct entry **e, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        entry_unpin(e[i]);
}

/* ---- appends ---- */
static void append_free(struct append *a)
{
    list_remove(&a->link);
    a->g->appends_n--;
    entry_unpin(a->e);
    free(a);
}

/* Nothing is damaged: entries wait, others go on without this replica, and when space comes it
 * takes part again. */
static void full_told(struct sd_disk *d, const struct err *e)
{
    d->starved = true; /* tried again with each tick */
    if (!d->full) log_error("disk_full", "dir=%s why=%s", d->dir, e->msg);
    d->full = true;
}

static void starved_again(struct sd_disk *d)
{
    if (d->full) log_info("disk_has_room", "dir=%s", d->dir);
    d->full = false;
    if (!d->starved) return;
    d->starved = false;
    LIST_FOREACH(it, &d->sd->groups)
    {
        struct sd_group *g = CONTAINER_OF(it, struct sd_group, link);

        if (g->disk == d && g->appends_n > 0) group_dirty(g);
    }
}

static void on_appended(struct store_append *s, enum rc rc)
{
    struct append *a = s->data;
    struct sd_group *g = a->g;
    struct sd *sd = g->sd;
    struct err err = s->err;

    if (rc == RC_OK) {
        g->durable_epoch = a->epoch;
        g->durable_index = a->index;
        g->durable_news = true;
    }
    /* not written: again, in order, when there is room (or memory, or a descriptor) */
    if ((rc == RC_FULL || rc == RC_NOMEM) && !g->dead) {
        a->issued = false;
        full_told(g->disk, &err);
        sd_work_end(sd);
        return;
    }
    append_free(a);
    if (rc == RC_OK) {
        group_dirty(g);
        starved_again(g->disk);
    } else if (rc != RC_CANCELED && rc != RC_FULL && rc != RC_NOMEM) {
        disk_out(g->disk, rc, &err);
    }
    sd_work_end(sd);
}

static void load_run(void *arg);

void group_appends_issue(struct sd_group *g)
{
    LIST_FOREACH_SAFE(it, &g->appends)
    {
        struct append *a = CONTAINER_OF(it, struct append, link);
        struct err err = {0};
        enum rc rc;

        if (a->issued) continue;
        if (g->dead) {
            append_free(a);
            continue;
        }
        if (a->e == NULL) {
            if (g->loading) return;
            g->loading = true;
            rc = sd_spawn(g->sd, load_run, g);
            if (rc != RC_OK) {
                g->loading = false;
                g->disk->starved = true; /* again with the next tick */
            }
            return;
        }
        a->store.data = a;
        rc = store_log_append(g->disk->store, &a->store, &g->ix, a->config, a->epoch, a->index,
                              (struct slice){a->e->p, a->e->n}, on_appended);
        if (rc == RC_FULL) {
            full_told(g->disk, &a->store.err);
            return;
        }
        if (rc == RC_BUSY || rc == RC_NOMEM) {
            g->disk->starved = true;
            return;
        }
        if (rc != RC_OK) {
            (void)err_set(&err, rc, "a log entry: %s", rc_text(rc));
            disk_out(g->disk, rc, &err);
            return;
        }
        a->issued = true;
        g->sd->work_n++;
    }
}

static struct append *append_new(struct sd_group *g, uint64_t epoch, uint64_t index)
{
    struct append *a = calloc(1, sizeof *a);
    struct err err;

    if (a == NULL) {
        (void)err_set(&err, RC_NOMEM, "a log entry could not be kept");
        group_fail(g, RC_NOMEM, &err);
        return NULL;
    }
    a->g = g;
    a->epoch = epoch;
    a->index = index;
    a->config = g->core.config;
    list_push_back(&g->appends, &a->link);
    g->appends_n++;
    return a;
}

void group_append(struct sd_group *g, const struct replica_action *act)
{
    for (uint32_t i = 0; i < act->n; i++) {
        uint64_t index = act->first + i;
        struct append *a = append_new(g, act->epoch, index);
        struct err err;

        if (a == NULL) return;
        if (index <= g->log_top) g->replaced_n++;
        g->log_top = MAX(g->log_top, index);
        a->e = entry_put(&g->ring, act->epoch, index, act->entries[i].bytes);
        if (a->e == NULL) {
            (void)err_set(&err, RC_NOMEM, "a log entry could not be kept");
            group_fail(g, RC_NOMEM, &err);
            return;
        }
    }
    group_dirty(g); /* issued right after this step, with those of other groups */
}

/* The same bytes under the new epoch. */
void group_reappend(struct sd_group *g, const struct replica_action *act)
{
    for (uint64_t i = act->first; i <= act->last; i++) {
        struct append *a = append_new(g, act->epoch, i);
        struct entry *old;

        if (a == NULL) return;
        g->replaced_n++;
        old = entry_get(&g->ring, i);
        if (old != NULL) {
            a->e = entry_put(&g->ring, act->epoch, i, (struct slice){old->p, old->n});
            entry_unpin(old);
        }
    }
    group_dirty(g);
}

/* ---- reads from the log ---- */
struct rows {
    struct sd_group *g;
    uint64_t first;
    uint32_t n, got;
    struct index_log_row *rows;
    enum rc rc;
    struct err err;
};

static void rows_work(void *arg)
{
    struct rows *r = arg;

    r->rc = index_log_get(store_index(r->g->disk->store), &r->g->ix, r->first, r->rows, r->n,
                          &r->got, &r->err);
}

/* One entry from its place, into memory. */
static enum rc row_load(struct sd_group *g, const struct index_log_row *row, struct entry **ret,
                        struct err *reterr)
{
    size_t cap = ROUND_UP((size_t)row->loc.plain_bytes, 4096u);
    struct seglog_read *r = calloc(1, sizeof *r);
    uint8_t *p = aligned_alloc(4096, MAX(cap, 4096u));
    struct entry *there;
    enum rc rc;

    if (r == NULL || p == NULL) {
        rc = err_set(reterr, RC_NOMEM, "a log entry of %u bytes", row->loc.plain_bytes);
        goto out;
    }
    rc = store_read_wait(g->disk->store, r, &row->loc, 0, 0, p, MAX(cap, 4096u));
    if (rc == RC_OK && (r->header.type != RECORD_LOG_ENTRY || r->header.log_index != row->index))
        rc = err_set(&r->err, RC_CORRUPT, "another record lies there");
    if (rc != RC_OK) {
        (void)err_set(reterr, rc, "log entry %llu of group %s: %s", (unsigned long long)row->index,
                      g->name, r->err.msg);
        if (rc == RC_CORRUPT) sdm_add(SDM_CORRUPT, 1);
        goto out;
    }
    there = entry_get(&g->ring, row->index);
    if (there != NULL && there->epoch >= row->epoch) { /* it came meanwhile, maybe replaced */
        *ret = there;
        goto out;
    }
    entry_unpin(there);
    *ret = entry_put(&g->ring, row->epoch, row->index, (struct slice){p, r->got_bytes});
    if (*ret == NULL) rc = err_set(reterr, RC_NOMEM, "a log entry");
out:
    free(p);
    free(r);
    return rc;
}

enum rc group_entries(struct sd_group *g, uint64_t first, uint32_t n, uint64_t bytes_max,
                      struct entry **ret_entries, uint32_t *ret_n)
{
    struct rows r = {.g = g, .first = first, .n = n};
    uint64_t bytes = 0;
    uint32_t got = 0, row_at = 0, moved = 0;
    enum rc rc = RC_OK;

    while (got < n && bytes < bytes_max) {
        struct entry *e = entry_get(&g->ring, first + got);

        if (e == NULL) {
            if (r.rows == NULL) {
                r.rows = calloc(n, sizeof *r.rows);
                if (r.rows == NULL) return RC_NOMEM;
                r.first = first + got;
                r.n = n - got;
                row_at = got;
                rc = fiber_work(rows_work, &r);
                if (rc == RC_OK) rc = r.rc;
                if (rc != RC_OK) break;
            }
            if (got - row_at >= r.got) {
                if (got == 0) rc = RC_NOTFOUND;
                break;
            }
            rc = row_load(g, &r.rows[got - row_at], &e, &r.err);
            if (rc == RC_NOTFOUND &&
                moved++ < SD_MOVED_TRIES) { /* reclaim moved it: its row knows */
                free(r.rows);
                r.rows = NULL;
                r.got = 0;
                rc = RC_OK;
                continue;
            }
            if (rc == RC_NOTFOUND) rc = err_set(&r.err, RC_CORRUPT, "the entry's bytes are gone");
            if (rc != RC_OK) break;
        }
        if (got > 0 && bytes + e->n > bytes_max) {
            entry_unpin(e);
            break;
        }
        bytes += e->n;
        ret_entries[got++] = e;
    }
    free(r.rows);
    if (got > 0) rc = RC_OK; /* what could be had */
    if (rc != RC_OK && rc != RC_NOTFOUND)
        log_error("log_read_failed", "group=%s index=%llu rc=%s why=%s", g->name,
                  (unsigned long long)first, rc_name(rc), r.err.msg);
    *ret_n = got;
    return rc;
}

/* Bytes for the first append that lacks them. */
static void load_run(void *arg)
{
    struct sd_group *g = arg;
    struct append *a = NULL;
    struct entry *e;
    uint64_t index;
    uint32_t n;
    enum rc rc;

    LIST_FOREACH(it, &g->appends)
    {
        a = CONTAINER_OF(it, struct append, link);
        if (a->e == NULL) break;
        a = NULL;
    }
    if (a == NULL || g->dead) {
        g->loading = false;
        return;
    }
    index = a->index;
    rc = group_entries(g, index, 1, SD_BATCH_BYTES, &e, &n);
    g->loading = false;
    if (rc != RC_OK) {
        struct err err;

        (void)err_set(&err, rc == RC_NOTFOUND ? RC_CORRUPT : rc,
                      "log entry %llu is to be written again but can't be read",
                      (unsigned long long)index);
        group_fail(g, err.rc, &err);
        return;
    }
    LIST_FOREACH(it, &g->appends)
    {
        a = CONTAINER_OF(it, struct append, link);
        if (a->e == NULL && a->index == index) {
            a->e = entry_put(&g->ring, a->epoch, index, (struct slice){e->p, e->n});
            break;
        }
    }
    entry_unpin(e);
    group_dirty(g);
}

/* ---- messages out ---- */
void group_send_raw(struct sd_group *g, const struct id128 *to_disk, struct slice body)
{
    Mikura__Internal__V1__BulkRequest req = MIKURA__INTERNAL__V1__BULK_REQUEST__INIT;
    Mikura__Internal__V1__ReplicaMessage rm = MIKURA__INTERNAL__V1__REPLICA_MESSAGE__INIT;
    struct sd_peer *p = peer_of_disk(g->sd, to_disk);
    struct slice out;
    uint8_t *bytes;

    if (p == NULL) {
        sdm_add(SDM_MESSAGES_DROPPED, 1);
        return;
    }
    rm.pool = g->id.pool;
    rm.prefix = g->id.prefix;
    rm.prefix_bits = g->id.prefix_bits;
    rm.body.data = (uint8_t *)(uintptr_t)body.p; /* protobuf-c knows no const; it only reads */
    rm.body.len = body.n;
    req.kind_case = MIKURA__INTERNAL__V1__BULK_REQUEST__KIND_REPLICA;
    req.replica = &rm;
    out.n = mikura__internal__v1__bulk_request__get_packed_size(&req);
    bytes = malloc(out.n);
    if (bytes == NULL) return; /* a lost message; ticks repeat it */
    (void)mikura__internal__v1__bulk_request__pack(&req, bytes);
    out.p = bytes;
    peer_message(p, out);
    free(bytes);
}

void group_send_msg(struct sd_group *g, const struct replica_msg *m)
{
    uint32_t n = replica_msg_bytes(m);
    uint8_t *body;

    if (n == 0) return;
    body = malloc(n);
    if (body == NULL) return;
    group_send_raw(g, &m->to_disk, (struct slice){body, replica_msg_encode(m, body)});
    free(body);
}

/* Entries of a message, as many as fit. */
static void send_entries(struct sd_group *g, struct replica_msg *m, struct entry **e, uint32_t n)
{
    struct replica_entry entries[REPLICA_BATCH];
    uint64_t bytes = REPLICA_MSG_HEAD_BYTES;
    uint32_t fit = 0;

    for (; fit < n; fit++) {
        entries[fit] = (struct replica_entry){e[fit]->epoch, {e[fit]->p, e[fit]->n}};
        bytes += replica_entry_bytes(&entries[fit]);
        if (fit > 0 && bytes > REPLICA_MESSAGE_BYTES_MAX) break;
    }
    m->entries = entries;
    m->n = fit;
    group_send_msg(g, m);
}

struct catchup {
    struct list link;
    struct sd_group *g;
    struct replica_msg m;
    uint64_t replaced_n;
};

static void catchup_run(void *arg)
{
    struct catchup *c = arg;
    struct sd_group *g = c->g;
    struct entry *e[REPLICA_BATCH];
    uint32_t n = 0;

    if (!g->dead &&
        group_entries(g, c->m.first, c->m.n, REPLICA_MESSAGE_BYTES_MAX / 2, e, &n) == RC_OK) {
        /* (4): if an entry was replaced meanwhile the message is dropped */
        if (c->replaced_n == g->replaced_n && !g->dead) send_entries(g, &c->m, e, n);
        entries_unpin(e, n);
    }
    list_remove(&c->link);
    g->catchups_n--;
    free(c);
}

void group_send(struct sd_group *g, const struct replica_action *a)
{
    struct replica_msg m = a->msg;
    struct entry *e[REPLICA_BATCH];
    struct catchup *c;
    uint32_t n = 0;

    if (m.type != REPLICA_PREPARE || m.n == 0) {
        m.entries = NULL;
        group_send_msg(g, &m);
        return;
    }
    while (n < m.n) {
        e[n] = entry_get(&g->ring, m.first + n);
        if (e[n] == NULL) break;
        n++;
    }
    if (n > 0) {
        send_entries(g, &m, e, n);
        entries_unpin(e, n);
        return;
    }
    /* not in memory: from the log, one read a laggard; while that runs, beacons only */
    LIST_FOREACH(it, &g->catchups)
    {
        c = CONTAINER_OF(it, struct catchup, link);
        if (id128_eq(&c->m.to_disk, &m.to_disk)) goto beacon;
    }
    LIST_FOREACH(it, &g->appends)
    {
        if (CONTAINER_OF(it, struct append, link)->e == NULL) goto beacon; /* epochs change now */
    }
    if (g->catchups_n >= SD_CATCHUPS_MAX) goto beacon;
    c = calloc(1, sizeof *c);
    if (c == NULL) return;
    c->g = g;
    c->m = m;
    c->replaced_n = g->replaced_n;
    list_push_back(&g->catchups, &c->link);
    g->catchups_n++;
    if (sd_spawn(g->sd, catchup_run, c) == RC_OK) return;
    list_remove(&c->link);
    g->catchups_n--;
    free(c);
beacon:
    m.n = 0;
    m.entries = NULL;
    group_send_msg(g, &m);
}

/* ---- trimming ---- */
struct trim {
    struct sd_group *g;
    uint64_t first;
    enum rc rc;
    struct err err;
};

static void trim_work(void *arg)
{
    struct trim *t = arg;
    struct index *ix = store_index(t->g->disk->store);

    t->rc = index_sync(ix, &t->err); /* P6: nothing above the durable state goes */
    if (t->rc == RC_OK) t->rc = index_log_trim(ix, &t->g->ix, t->first, false, &t->err);
}

static void trim_run(void *arg)
{
    struct sd_group *g = arg;
    struct trim t = {.g = g, .first = g->trimmed_at};
    struct replica_event ev = {.type = REPLICA_EV_TRIMMED, .index = t.first};
    enum rc rc = fiber_work(trim_work, &t);

    g->trimming = false;
    if (rc == RC_OK) rc = t.rc;
    if (rc == RC_OK) {
        log_info("log_trimmed", "group=%s first=%llu", g->name, (unsigned long long)t.first);
        group_event(g, &ev);
    } else if (rc != RC_NOMEM && rc != RC_FULL) { /* those: the next one takes it along */
        group_fail(g, rc, &t.err);
    }
}

/* The log is bounded: who lags further behind than log_keep takes a snapshot; a quarter of it stays
 * for those who lag a little. */
void group_trim(struct sd_group *g)
{
    uint64_t keep = g->sd->conf.log_keep, first;

    if (!g->ready || g->dead || g->trimming || g->applied <= keep) return;
    first = MAX(MIN(replica_log_needed(&g->core), g->applied + 1), g->applied - keep);
    first = MIN(first, g->applied - keep / 4);
    if (first < g->trimmed_at + MAX(keep / 4, 1)) return;
    g->trimmed_at = first;
    g->trimming = sd_spawn(g->sd, trim_run, g) == RC_OK;
}

/* ---- an entry whose record is bad ---- */
struct rewrite {
    struct store_append a;
    struct sd_group *g;
    struct entry *e;
};

/* The same bytes under the same epoch and index: its row goes to the new record. */
static void rewrite_run(void *arg)
{
    struct rewrite *w = arg;
    struct sd_group *g = w->g;
    enum rc rc;

    for (;;) {
        rc = g->dead
                 ? RC_CANCELED
                 : store_log_append_wait(g->disk->store, &w->a, &g->ix, g->core.config, w->e->epoch,
                                         w->e->index, (struct slice){w->e->p, w->e->n});
        if (rc != RC_BUSY && rc != RC_NOMEM && rc != RC_FULL) break;
        fiber_sleep_ms(rc == RC_FULL ? SD_ROOM_PAUSE_MS : 10);
    }
    log_info("log_entry_rewritten", "group=%s index=%llu rc=%s", g->name,
             (unsigned long long)w->e->index, rc_name(rc));
    if (rc == RC_IO) disk_out(g->disk, rc, &w->a.err);
    entry_unpin(w->e);
    free(w);
}

void group_entry_bad(struct sd_disk *d, const struct index_group *ix, uint64_t index)
{
    struct placement_group id = {.pool = ix->pool, .prefix_bits = ix->bits, .prefix = ix->prefix};
    struct sd_group *g = group_find(d->sd, &id, &d->id);
    struct rewrite *w;
    struct err err;

    sdm_add(SDM_CORRUPT, 1);
    if (g == NULL || !g->ready || g->dead) return; /* nobody reads it; the next pass looks again */
    w = calloc(1, sizeof *w);
    if (w != NULL) {
        w->g = g;
        w->e = entry_get(&g->ring, index);
        if (w->e != NULL && sd_spawn(g->sd, rewrite_run, w) == RC_OK) return;
        entry_unpin(w->e);
        free(w);
    }
    if (index <= g->applied) { /* not needed here: who lacks it takes a snapshot */
        if (!g->trimming && index + 1 > g->trimmed_at) {
            g->trimmed_at = index + 1;
            g->trimming = sd_spawn(g->sd, trim_run, g) == RC_OK;
        }
        return;
    }
    (void)err_set(&err, RC_CORRUPT, "log entry %llu is bad and not applied yet",
                  (unsigned long long)index);
    group_fail(g, RC_CORRUPT, &err);
}
