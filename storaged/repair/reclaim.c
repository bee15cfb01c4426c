/* storaged/repair/reclaim.c - pick a segment, copy what lives in it, give it back. */
#include "storaged/repair/reclaim.h"
#include "common/base/clock.h"
#include "common/base/log.h"
#include "storaged/repair/walk.h"
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

struct item {
    struct reclaim *r;
    struct walk_record rec;
    bool live;
    uint8_t *payload;
    struct record_block *blocks;
    struct seglog_read read;
    struct store_append append;
    enum rc rc;
    struct fiber_event done;
};
struct stuck {
    uint64_t id, until_ms;
};
struct reclaim {
    struct reclaim_conf conf;
    struct pace pace;
    bool stop;
    struct fiber_event wake;
    struct stuck stuck[RECLAIM_STUCK_MAX];
    uint32_t stuck_at;
    struct reclaim_stats stats;
    struct item items[RECLAIM_BATCH_RECORDS];
    uint32_t items_n;
    uint64_t items_bytes;
};

enum rc reclaim_new(const struct reclaim_conf *conf, struct reclaim **ret)
{
    struct reclaim *r = calloc(1, sizeof(*r));

    if (r == NULL) return RC_NOMEM;
    r->conf = *conf;
    r->pace =
        (struct pace){.store = conf->store, .bytes_per_s = conf->bytes_per_s, .stop = &r->stop};
    *ret = r;
    return RC_OK;
}

void reclaim_free(struct reclaim *r)
{
    free(r);
}

void reclaim_wake(struct reclaim *r)
{
    fiber_event_set(&r->wake);
}

void reclaim_stop(struct reclaim *r)
{
    r->stop = true;
    fiber_event_set(&r->wake);
}

void reclaim_stats(const struct reclaim *r, struct reclaim_stats *ret)
{
    *ret = r->stats;
    ret->yields_n = r->pace.yields_n;
}

/* ---- which ---- */
struct pick {
    struct reclaim *r;
    struct seglog_segment *segs; /* finished, all rows written */
    uint32_t segs_n;
    bool tight;
    struct seglog_segment best;
    bool found;
    enum rc rc;
    struct err err;
};

static bool is_stuck(const struct reclaim *r, uint64_t id)
{
    for (uint32_t i = 0; i < RECLAIM_STUCK_MAX; i++) {
        if (r->stuck[i].id == id && r->stuck[i].until_ms > clock_boot_ms()) return true;
    }
    return false;
}

static void stuck_note(struct reclaim *r, uint64_t id)
{
    r->stuck[r->stuck_at++ % RECLAIM_STUCK_MAX] =
        (struct stuck){id, clock_boot_ms() + RECLAIM_STUCK_MS};
    r->stats.stuck_n++;
}

/* Both lists are by id. The emptiest, in parts of a thousand. */
static void pick_work(void *arg)
{
    struct pick *p = arg;
    struct index_space *all = NULL;
    uint64_t best = 1001;
    uint32_t n = 0, k = 0;

    p->rc = index_space_list(store_index(p->r->conf.store), &all, &n, &p->err);
    for (uint32_t i = 0; i < p->segs_n && p->rc == RC_OK; i++) {
        const struct seglog_segment *s = &p->segs[i];
        uint32_t enough = p->tight ? MIN(RECLAIM_TIGHT_PERCENT, p->r->conf.dead_percent)
                                   : p->r->conf.dead_percent;
        uint64_t live = 0, all_bytes = s->end - SEGLOG_DATA_AT, part;

        while (k < n && all[k].seg.id < s->id)
            k++;
        if (k < n && all[k].seg.id == s->id) live = all[k].live_bytes;
        /* of the records, not of the file: a tail too short for the next record would be as short
         * in a copy */
        part = all_bytes == 0 ? 0 : live * 1000 / all_bytes;
        if (part >= best || part > 1000 - MIN(enough, 100u) * 10) continue;
        if (is_stuck(p->r, s->id)) continue;
        best = part;
        p->best = *s;
        p->found = true;
    }
    free(all);
}

static enum rc pick(struct reclaim *r, struct pick *p, struct err *reterr)
{
    struct seg_position upto = store_rows_upto(r->conf.store);
    struct store_status st;
    uint32_t cap;
    enum rc rc;

    store_status(r->conf.store, &st);
    if (st.rc != RC_OK) {
        *reterr = st.err;
        return st.rc;
    }
    *p = (struct pick){.r = r};
    /* short: less than as much again as is kept back */
    p->tight = st.log.chunk_free_bytes < st.log.free_bytes - st.log.chunk_free_bytes;
    cap = (uint32_t)st.log.segments_n + 1;
    p->segs = calloc(cap, sizeof(*p->segs));
    if (p->segs == NULL) return err_set(reterr, RC_NOMEM, "reclaim");
    p->segs_n = seglog_segments(store_log(r->conf.store), 0, p->segs, cap);
    while (p->segs_n > 0 && p->segs[p->segs_n - 1].id >= upto.segment_id)
        p->segs_n--;
    rc = fiber_work(pick_work, p);
    free(p->segs);
    if (rc == RC_OK) rc = p->rc;
    return rc == RC_OK ? RC_OK : err_set(reterr, rc, "reclaim: %s", p->err.msg);
}

/* ---- what lives ---- */
static enum rc live_look(struct index *ix, struct item *it, struct err *reterr)
{
    enum index_place place;
    enum rc rc = index_place_of(ix, &it->rec.h, &it->rec.loc, &place, reterr);

    it->live = rc == RC_OK && place == INDEX_LIVE;
    return rc;
}

struct look {
    struct reclaim *r;
    enum rc rc;
    struct err err;
};

static void look_work(void *arg)
{
    struct look *l = arg;

    for (uint32_t i = 0; i < l->r->items_n && l->rc == RC_OK; i++)
        l->rc = live_look(store_index(l->r->conf.store), &l->r->items[i], &l->err);
}

/* ---- copying ---- */
static void on_read(struct seglog_read *q, enum rc rc)
{
    struct item *it = q->data;
    uint32_t n = record_blocks(it->rec.loc.plain_bytes);

    it->rc = rc;
    if (rc == RC_OK) {
        it->blocks = calloc(n, sizeof(*it->blocks));
        if (it->blocks != NULL) memcpy(it->blocks, q->blocks, n * sizeof(*it->blocks));
        if (it->blocks == NULL) it->rc = err_set(&q->err, RC_NOMEM, "reclaim");
    }
    fiber_event_set(&it->done);
}

static void on_moved(struct store_append *a, enum rc rc)
{
    struct item *it = a->data;

    it->rc = rc;
    fiber_event_set(&it->done);
}

/* RC_OK also when the record is bad: it stays, and so does its segment. */
static enum rc copy_begin(struct reclaim *r, struct item *it, bool *ret_begun, struct err *reterr)
{
    struct record_header h = it->rec.h;
    size_t cap = record_payload_bytes(h.plain_bytes);
    enum rc rc;

    *ret_begun = false;
    it->r = r;
    it->payload = aligned_alloc(DISK_ALIGN_BYTES, cap);
    if (it->payload == NULL) return err_set(reterr, RC_NOMEM, "reclaim");
    it->read.data = it->append.data = it;
    do {
        rc = store_read(r->conf.store, &it->read, &it->rec.loc, 0, 0, it->payload, cap, on_read);
        if (rc == RC_BUSY) fiber_sleep_ms(PACE_YIELD_MS);
    } while (rc == RC_BUSY && !r->stop);
    if (rc == RC_OK) {
        fiber_event_wait(&it->done);
        rc = it->rc;
    }
    if (rc == RC_CORRUPT || rc == RC_IO) {
        if (r->conf.bad != NULL) r->conf.bad(r->conf.data, &h, &it->rec.loc);
        return RC_OK;
    }
    if (rc != RC_OK) return err_set(reterr, rc, "reclaim: %s", it->read.err.msg);
    h.moved_from =
        (struct record_source){it->rec.loc.segment_id, it->rec.loc.generation, it->rec.loc.offset};
    do {
        rc = r->stop
                 ? RC_CANCELED
                 : store_move(r->conf.store, &it->append, &h, it->blocks, it->payload, on_moved);
        if (rc == RC_BUSY) fiber_sleep_ms(PACE_YIELD_MS);
    } while (rc == RC_BUSY);
    if (rc != RC_OK) return err_set(reterr, rc, "reclaim: %s", rc_text(rc));
    *ret_begun = true;
    return RC_OK;
}

static enum rc copy_items(struct reclaim *r, struct err *reterr)
{
    struct look l = {.r = r};
    bool begun[RECLAIM_BATCH_RECORDS] = {0};
    uint64_t bytes = 0;
    enum rc rc;

    if (r->items_n == 0) return RC_OK;
    rc = fiber_work(look_work, &l);
    if (rc == RC_OK) rc = l.rc;
    if (rc != RC_OK) (void)err_set(reterr, rc, "reclaim: %s", l.err.msg);
    for (uint32_t i = 0; i < r->items_n && rc == RC_OK; i++)
        if (r->items[i].live) bytes += r->items[i].rec.end - r->items[i].rec.loc.offset;
    if (bytes > 0) pace_take(&r->pace, bytes); /* once: its own requests are no foreground */
    for (uint32_t i = 0; i < r->items_n && rc == RC_OK; i++) {
        struct item *it = &r->items[i];

        if (!it->live) continue;
        rc = copy_begin(r, it, &begun[i], reterr);
    }
    for (uint32_t i = 0; i < r->items_n; i++) {
        struct item *it = &r->items[i];

        if (begun[i]) {
            fiber_event_wait(&it->done);
            if (it->rc == RC_OK) {
                r->stats.copied_n++;
                r->stats.copied_bytes += it->rec.end - it->rec.loc.offset;
            } else if (rc == RC_OK) {
                rc = err_set(reterr, it->rc, "reclaim: %s", it->append.err.msg);
            }
        }
        free(it->payload);
        free(it->blocks);
        *it = (struct item){0};
    }
    r->items_n = 0;
    r->items_bytes = 0;
    return rc;
}

static enum rc copy_segment(struct reclaim *r, const struct seglog_segment *s, struct err *reterr)
{
    struct walk w;
    enum rc rc = walk_init(&w, r->conf.store, s, &r->pace, /* verify= */ false);

    if (rc != RC_OK) (void)err_set(reterr, rc, "reclaim");
    while (rc == RC_OK && !r->stop) {
        struct walk_record rec;

        rc = walk_next(&w, &rec, reterr);
        if (rc == RC_CORRUPT) { /* if something lives there the sum tells */
            rc = RC_OK;
            continue;
        }
        if (rc != RC_OK) break;
        r->items[r->items_n++].rec = rec;
        r->items_bytes += rec.end - rec.loc.offset;
        if (r->items_n == RECLAIM_BATCH_RECORDS || r->items_bytes >= RECLAIM_BATCH_BYTES)
            rc = copy_items(r, reterr);
    }
    if (rc == RC_RANGE) rc = copy_items(r, reterr);
    if (rc == RC_OK && r->stop) rc = err_set(reterr, RC_CANCELED, "reclaim was stopped");
    r->items_n = 0;
    r->items_bytes = 0;
    walk_deinit(&w);
    return rc;
}

/* ---- giving back ---- */
struct ending {
    struct reclaim *r;
    uint64_t id, live;
    struct seglog_drop drop;
    struct fiber_event done;
    enum rc rc;
    struct err err;
};

/* After the sync no crash takes back what made the segment dead. */
static void empty_work(void *arg)
{
    struct ending *e = arg;
    struct index *ix = store_index(e->r->conf.store);

    e->live = index_space_live(ix, e->id);
    e->rc = e->live == 0 ? index_sync(ix, &e->err) : RC_OK;
}

static void forget_work(void *arg)
{
    struct ending *e = arg;

    e->rc = index_space_forget(store_index(e->r->conf.store), e->id, &e->err);
}

static void on_dropped(struct seglog_drop *d, enum rc rc)
{
    struct ending *e = d->data;

    e->rc = rc;
    if (rc != RC_OK) e->err = d->err;
    fiber_event_set(&e->done);
}

static enum rc give_back(struct reclaim *r, const struct seglog_segment *s, bool *ret_gone,
                         struct err *reterr)
{
    struct ending e = {.r = r, .id = s->id, .drop.data = &e};
    enum rc rc = fiber_work(empty_work, &e);

    if (rc == RC_OK) rc = e.rc;
    if (rc == RC_OK && e.live > 0) {
        stuck_note(r, s->id);
        log_warn("reclaim_stuck", "segment=%016" PRIx64 " live_bytes=%" PRIu64, s->id, e.live);
        return RC_OK;
    }
    if (rc == RC_OK && r->stop) rc = RC_CANCELED;
    if (rc == RC_OK) {
        rc = seglog_drop(store_log(r->conf.store), &e.drop, s->id, on_dropped);
        if (rc == RC_PRECOND) { /* its seal is being written: the next look */
            return RC_OK;
        }
        if (rc == RC_OK) {
            fiber_event_wait(&e.done);
            rc = e.rc;
        } else {
            e.err = e.drop.err;
        }
    }
    if (rc == RC_OK) {
        *ret_gone = true;
        r->stats.segments_n++;
        r->stats.bytes += s->bytes;
        rc = fiber_work(forget_work, &e);
        if (rc == RC_OK) rc = e.rc;
    }
    return rc == RC_OK ? RC_OK : err_set(reterr, rc, "reclaim: %s", e.err.msg);
}

enum rc reclaim_once(struct reclaim *r, uint64_t *ret_id, struct err *reterr)
{
    struct pick p;
    bool gone = false;
    enum rc rc = pick(r, &p, reterr);

    *ret_id = 0;
    if (rc != RC_OK || !p.found) return rc;
    r->stats.segment_id = p.best.id;
    if (p.best.end > SEGLOG_DATA_AT) rc = copy_segment(r, &p.best, reterr);
    if (rc == RC_OK) rc = give_back(r, &p.best, &gone, reterr);
    r->stats.segment_id = 0;
    if (rc == RC_OK && gone) {
        *ret_id = p.best.id;
        log_info("segment_reclaimed", "segment=%016" PRIx64 " bytes=%" PRIu64, p.best.id,
                 p.best.bytes);
    }
    return rc;
}

void reclaim_run(struct reclaim *r)
{
    while (!r->stop) {
        struct err err = {0};
        uint64_t id = 0;
        enum rc rc = reclaim_once(r, &id, &err);

        if (rc == RC_IO || rc == RC_CANCELED) {
            if (rc == RC_IO) log_error("reclaim_ended", "rc=%s why=%s", rc_name(rc), err.msg);
            return;
        }
        if (rc != RC_OK) log_warn("reclaim_waits", "rc=%s why=%s", rc_name(rc), err.msg);
        if ((rc != RC_OK || id == 0) && !r->stop)
            (void)!fiber_event_wait_ms(&r->wake, r->conf.pause_ms); /* either way: look */
    }
}
