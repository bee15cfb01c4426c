/* storaged/repair/scrub.c - a pass, step by step; its place is kept between steps. */
#include "storaged/repair/scrub.h"
#include "common/base/clock.h"
#include "common/base/le.h"
#include "common/base/log.h"
#include "storaged/repair/walk.h"
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NOTE_FORMAT 1u
#define NOTE_BYTES  58u
static const char NOTE[] = "scrub";

enum phase { PHASE_REST, PHASE_SEGMENTS, PHASE_FILES };
struct seen { /* a record of the batch */
    struct walk_record rec;
    enum index_place place;
    enum index_listing listing;
};
struct suspect {
    struct index_ref ref;
    enum scrub_reason reason;
};
struct scrub {
    struct scrub_conf conf;
    struct pace pace;
    bool stop, at_once;
    struct fiber_event wake;
    /* the note */
    enum phase phase;
    uint64_t pass, started_ms, until_id, next_id, done_bytes, total_bytes, ended_ms;
    struct scrub_stats stats;
    struct index_group kinds[SCRUB_KINDS_MAX]; /* pool and bits of the groups here */
    uint32_t kinds_n;
    struct index_file *files; /* PHASE_FILES */
    uint32_t files_n, file_at;
    /* the segment under way */
    struct seen batch[SCRUB_BATCH];
    uint32_t batch_n;
    uint64_t live_bytes, bad_bytes; /* seen: rows' and quarantined */
    uint8_t *seen;                  /* a bit for each page at which a good header lies */
    struct suspect *suspects;
    uint32_t suspects_n;
};

/* ---- the note ---- */
static void note_encode(const struct scrub *s, uint8_t p[NOTE_BYTES])
{
    p[0] = NOTE_FORMAT;
    p[1] = (uint8_t)s->phase;
    le_put64(p + 2, s->pass);
    le_put64(p + 10, s->started_ms);
    le_put64(p + 18, s->until_id);
    le_put64(p + 26, s->next_id);
    le_put64(p + 34, s->done_bytes);
    le_put64(p + 42, s->total_bytes);
    le_put64(p + 50, s->ended_ms);
}

static enum rc note_load(struct scrub *s, struct err *reterr)
{
    uint8_t p[NOTE_BYTES];
    size_t n = 0;
    enum rc rc = index_note_get(store_index(s->conf.store), NOTE, p, sizeof(p), &n, reterr);

    if (rc == RC_NOTFOUND) return RC_OK;
    if (rc != RC_OK) return rc;
    if (n != NOTE_BYTES || p[0] != NOTE_FORMAT || p[1] > PHASE_FILES) return RC_OK; /* from anew */
    s->phase = (enum phase)p[1];
    s->pass = le_get64(p + 2);
    s->started_ms = le_get64(p + 10);
    s->until_id = le_get64(p + 18);
    s->next_id = le_get64(p + 26);
    s->done_bytes = le_get64(p + 34);
    s->total_bytes = le_get64(p + 42);
    s->ended_ms = le_get64(p + 50);
    return RC_OK;
}

struct note_job {
    struct scrub *s;
    uint8_t p[NOTE_BYTES];
    enum rc rc;
    struct err err;
};

static void note_work(void *arg)
{
    struct note_job *j = arg;

    j->rc = index_note_put(store_index(j->s->conf.store), NOTE, (struct slice){j->p, NOTE_BYTES},
                           &j->err);
}

static enum rc note_save(struct scrub *s, struct err *reterr)
{
    struct note_job j = {.s = s};
    enum rc rc;

    note_encode(s, j.p);
    rc = fiber_work(note_work, &j);
    if (rc == RC_OK) rc = j.rc;
    return rc == RC_OK ? RC_OK : err_set(reterr, rc, "scrub: %s", j.err.msg);
}

/* ---- life ---- */
enum rc scrub_new(const struct scrub_conf *conf, struct scrub **ret, struct err *reterr)
{
    struct scrub *s = calloc(1, sizeof(*s));
    enum rc rc;

    if (s == NULL) return err_set(reterr, RC_NOMEM, "scrub");
    s->conf = *conf;
    s->pace = (struct pace){.store = conf->store, .stop = &s->stop};
    s->suspects = calloc(SCRUB_SUSPECTS_MAX, sizeof(*s->suspects));
    rc = s->suspects == NULL ? err_set(reterr, RC_NOMEM, "scrub") : note_load(s, reterr);
    if (rc != RC_OK) {
        scrub_free(s);
        return rc;
    }
    *ret = s;
    return RC_OK;
}

void scrub_free(struct scrub *s)
{
    if (s == NULL) return;
    free(s->files);
    free(s->suspects);
    free(s);
}

void scrub_stop(struct scrub *s)
{
    s->stop = true;
    fiber_event_set(&s->wake);
}

void scrub_now(struct scrub *s)
{
    s->at_once = true;
    fiber_event_set(&s->wake);
}

/* What the rest of the period needs and a fifth more. */
static uint64_t rate_wanted(const struct scrub *s)
{
    uint64_t now = clock_wall_ms(), end = s->started_ms + s->conf.period_ms, need = UINT64_MAX;
    uint64_t left = s->total_bytes - MIN(s->done_bytes, s->total_bytes);

    if (end > now) need = left / (end - now) * 1200 + left % (end - now) * 1200 / (end - now);
    need = MAX(need, SCRUB_RATE_MIN);
    return s->conf.bytes_per_s == 0 ? need : MIN(need, s->conf.bytes_per_s);
}

void scrub_stats(const struct scrub *s, struct scrub_stats *ret)
{
    uint64_t left = s->total_bytes - MIN(s->done_bytes, s->total_bytes);

    *ret = s->stats;
    ret->pass = s->pass;
    ret->running = s->phase != PHASE_REST;
    ret->done_bytes = s->done_bytes;
    ret->total_bytes = s->total_bytes;
    ret->started_unix_ms = s->started_ms;
    ret->yields_n = s->pace.yields_n;
    if (ret->running) {
        ret->end_unix_ms = clock_wall_ms() + left * 1000 / rate_wanted(s);
    } else {
        ret->end_unix_ms = s->ended_ms;
        ret->next_unix_ms = s->started_ms + s->conf.period_ms;
    }
}

/* ---- one suspicious record, by itself ---- */
/* RC_OK: good, and h is its header; RC_CORRUPT; RC_NOTFOUND: the segment is gone; others. */
static enum rc record_check(struct store *store, const struct seg_location *loc,
                            struct record_header *h, struct err *reterr)
{
    size_t cap = record_payload_bytes(loc->plain_bytes);
    struct seglog_read *r = calloc(1, sizeof(*r));
    uint8_t *p = aligned_alloc(DISK_ALIGN_BYTES, cap);
    enum rc rc = RC_NOMEM;

    if (r == NULL || p == NULL) goto out;
    do {
        rc = store_read_wait(store, r, loc, 0, 0, p, cap);
        if (rc == RC_BUSY) fiber_sleep_ms(PACE_YIELD_MS);
    } while (rc == RC_BUSY);
    if (rc == RC_OK) *h = r->header;
    if (rc == RC_IO) rc = RC_CORRUPT;    /* a sector that can't be read is lost */
    if (rc == RC_INVAL) rc = RC_CORRUPT; /* a place that can't be */
    if (rc == RC_OK && (cap > loc->plain_bytes)) {
        for (size_t i = loc->plain_bytes; i < cap && rc == RC_OK; i++)
            if (p[i] != 0) rc = err_set(&r->err, RC_CORRUPT, "padding is not zero");
    }
out:
    if (rc != RC_OK)
        (void)err_set(reterr, rc, "%s", r != NULL && r->err.rc != RC_OK ? r->err.msg : rc_text(rc));
    free(p);
    free(r);
    return rc;
}

struct bad_job {
    struct index *ix;
    const struct index_chunk_id *id;
    const struct seg_location *loc;
    enum scrub_reason reason;
    enum rc rc;
    struct err err;
};

static void bad_work(void *arg)
{
    struct bad_job *j = arg;

    j->rc = index_bad_add(j->ix, j->id, j->loc, (uint8_t)j->reason, clock_wall_ms(), &j->err);
}

enum rc scrub_suspect(struct store *store, const struct index_chunk_id *id,
                      const struct seg_location *loc, enum scrub_reason reason, struct err *reterr)
{
    struct bad_job j = {.ix = store_index(store), .id = id, .loc = loc, .reason = reason};
    char body[ID128_TEXT_BYTES];
    struct record_header h;
    enum rc rc = record_check(store, loc, &h, reterr);

    if (rc == RC_OK && (!id128_eq(&h.body, &id->body) || h.index != id->index ||
                        !id128_eq(&h.seal_id, &id->seal_id)))
        rc = err_set(reterr, RC_CORRUPT, "another record lies there");
    if (rc == RC_OK) return RC_NOTFOUND;
    if (rc != RC_CORRUPT) return rc;
    rc = fiber_work(bad_work, &j);
    if (rc == RC_OK) rc = j.rc;
    if (rc != RC_OK) return err_set(reterr, rc, "quarantine: %s", j.err.msg);
    log_error("chunk_quarantined", "segment=%016" PRIx64 " at=%" PRIu64 " body=%s index=%u why=%s",
              loc->segment_id, loc->offset, id128_text(&id->body, body), id->index, reterr->msg);
    return RC_OK;
}

/* ---- one segment ---- */
static enum rc kind_add(void *ctx, const struct index_group *g)
{
    struct scrub *s = ctx;

    for (uint32_t i = 0; i < s->kinds_n; i++)
        if (s->kinds[i].pool == g->pool && s->kinds[i].bits == g->bits) return RC_OK;
    if (s->kinds_n < SCRUB_KINDS_MAX) s->kinds[s->kinds_n++] = *g;
    return RC_OK;
}

struct look {
    struct scrub *s;
    enum rc rc;
    struct err err;
};

static void look_work(void *arg)
{
    struct look *l = arg;
    struct scrub *s = l->s;
    struct index *ix = store_index(s->conf.store);

    if (s->kinds_n == 0) l->rc = index_groups(ix, kind_add, s, &l->err);
    for (uint32_t i = 0; i < s->batch_n && l->rc == RC_OK; i++) {
        struct seen *b = &s->batch[i];

        l->rc = index_place_of(ix, &b->rec.h, &b->rec.loc, &b->place, &l->err);
        if (l->rc == RC_OK && b->place == INDEX_LIVE && b->rec.h.type == RECORD_CHUNK)
            l->rc = index_orphan_drop(ix, s->kinds, s->kinds_n, &b->rec.h, &b->rec.loc, &b->listing,
                                      &l->err);
    }
}

static void suspect_add(struct scrub *s, const struct index_ref *ref, enum scrub_reason reason)
{
    if (s->suspects_n == SCRUB_SUSPECTS_MAX) return;
    s->suspects[s->suspects_n++] = (struct suspect){*ref, reason};
}

static struct index_ref ref_of(const struct walk_record *r)
{
    struct index_ref ref = {.chunk_row = r->h.type == RECORD_CHUNK, .loc = r->loc};

    if (ref.chunk_row) {
        ref.chunk =
            (struct index_chunk){.id = {r->h.body, r->h.index, r->h.seal_id}, .loc = r->loc};
    } else {
        ref.group = (struct index_group){
            .pool = r->h.pool, .bits = (uint8_t)r->h.index, .prefix = r->h.placement_hash};
        ref.log = (struct index_log_row){r->h.epoch, r->h.log_index, r->loc};
    }
    return ref;
}

static enum rc batch_end(struct scrub *s, struct err *reterr)
{
    struct look l = {.s = s};
    enum rc rc;

    if (s->batch_n == 0) return RC_OK;
    rc = fiber_work(look_work, &l);
    if (rc == RC_OK) rc = l.rc;
    for (uint32_t i = 0; i < s->batch_n && rc == RC_OK; i++) {
        const struct seen *b = &s->batch[i];
        uint64_t bytes = b->rec.end - b->rec.loc.offset;
        struct index_ref ref = ref_of(&b->rec);

        s->stats.records_n++;
        s->stats.orphans_n += b->listing == INDEX_DECIDED;
        if (b->place == INDEX_LIVE) s->live_bytes += bytes;
        if (b->place == INDEX_QUARANTINED) s->bad_bytes += bytes;
        if (b->listing == INDEX_UNLISTED && s->conf.stray != NULL)
            s->conf.stray(s->conf.data, &b->rec.h, &b->rec.loc);
        if (!b->rec.payload_bad) continue;
        if (b->place == INDEX_LIVE && b->listing != INDEX_DECIDED) {
            suspect_add(s, &ref, SCRUB_PAYLOAD);
        } else if (b->place == INDEX_DEAD) {
            s->stats.bad_dead_n++;
        }
    }
    s->batch_n = 0;
    return rc == RC_OK ? RC_OK : err_set(reterr, rc, "scrub: %s", l.err.msg);
}

static bool seen_at(const struct scrub *s, uint64_t offset)
{
    uint64_t page = offset / RECORD_ALIGN_BYTES;

    return (s->seen[page / 8] & (1u << page % 8)) != 0;
}

/* Rows that point into the segment and whose record the walk did not see. */
struct hidden {
    struct scrub *s;
    uint64_t id, end, live;
    enum rc rc;
    struct err err;
};

static enum rc hidden_one(void *ctx, const struct index_ref *ref)
{
    struct hidden *h = ctx;

    if (ref->loc.segment_id != h->id || ref->quarantined) return RC_OK;
    if (ref->loc.offset < h->end && seen_at(h->s, ref->loc.offset)) return RC_OK;
    suspect_add(h->s, ref, SCRUB_HEADER);
    return RC_OK;
}

static void hidden_work(void *arg)
{
    struct hidden *h = arg;
    struct index *ix = store_index(h->s->conf.store);

    h->live = index_space_live(ix, h->id);
    h->rc = RC_OK;
    if (h->live > h->s->live_bytes + h->s->bad_bytes)
        h->rc = index_refs(ix, hidden_one, h, &h->err);
}

/* Each suspect read once more by itself. */
static enum rc suspects_end(struct scrub *s, struct err *reterr)
{
    enum rc rc = RC_OK;

    for (uint32_t i = 0; i < s->suspects_n && rc == RC_OK && !s->stop; i++) {
        const struct suspect *x = &s->suspects[i];
        struct record_header h;

        if (x->ref.chunk_row) {
            rc = scrub_suspect(s->conf.store, &x->ref.chunk.id, &x->ref.loc, x->reason, reterr);
            if (rc == RC_OK) {
                s->stats.bad_chunks_n++;
                if (s->conf.chunk != NULL) s->conf.chunk(s->conf.data, &x->ref.chunk.id);
            }
            if (rc == RC_NOTFOUND) rc = RC_OK;
            continue;
        }
        rc = record_check(s->conf.store, &x->ref.loc, &h, reterr);
        if (rc == RC_OK && (h.type != RECORD_LOG_ENTRY || h.log_index != x->ref.log.index))
            rc = err_set(reterr, RC_CORRUPT, "another record lies there");
        if (rc == RC_CORRUPT) {
            s->stats.bad_entries_n++;
            log_error("log_entry_bad",
                      "segment=%016" PRIx64 " at=%" PRIu64 " group=%u/%u/%016" PRIx64
                      " index=%" PRIu64 " why=%s",
                      x->ref.loc.segment_id, x->ref.loc.offset, x->ref.group.pool,
                      x->ref.group.bits, x->ref.group.prefix, x->ref.log.index, reterr->msg);
            if (s->conf.entry != NULL) s->conf.entry(s->conf.data, &x->ref.group, &x->ref.log);
            rc = RC_OK;
        }
        if (rc == RC_NOTFOUND) rc = RC_OK;
    }
    s->suspects_n = 0;
    return rc;
}

static enum rc segment_walk(struct scrub *s, struct walk *w, bool *ret_bad, struct err *reterr)
{
    enum rc rc = walk_head(w, reterr);

    if (rc == RC_CORRUPT) {
        s->stats.bad_heads_n++;
        log_error("segment_head_bad", "segment=%016" PRIx64 " why=%s", w->seg.id, reterr->msg);
        rc = RC_OK;
    }
    while (rc == RC_OK && !s->stop) {
        struct walk_record rec;

        rc = walk_next(w, &rec, reterr);
        if (rc == RC_CORRUPT) {
            *ret_bad = true;
            log_warn("segment_stretch_bad",
                     "segment=%016" PRIx64 " from=%" PRIu64 " until=%" PRIu64, w->seg.id,
                     rec.loc.offset, rec.end);
            rc = RC_OK;
            continue;
        }
        if (rc != RC_OK) break;
        s->seen[rec.loc.offset / RECORD_ALIGN_BYTES / 8] |=
            (uint8_t)(1u << rec.loc.offset / RECORD_ALIGN_BYTES % 8);
        s->batch[s->batch_n++] = (struct seen){.rec = rec, .listing = INDEX_LISTED};
        if (s->batch_n == SCRUB_BATCH) rc = batch_end(s, reterr);
    }
    return rc == RC_RANGE ? batch_end(s, reterr) : rc;
}

/* finished: all records of it are seen, so that the index's sum can be compared. */
static enum rc segment_scrub(struct scrub *s, const struct seglog_segment *seg, bool finished,
                             struct err *reterr)
{
    struct hidden h = {.s = s, .id = seg->id, .end = seg->end};
    uint64_t before = s->stats.bad_chunks_n + s->stats.bad_entries_n;
    bool bad = false;
    struct walk w;
    enum rc rc = walk_init(&w, s->conf.store, seg, &s->pace, /* verify= */ true);

    s->batch_n = s->suspects_n = s->kinds_n = 0;
    s->live_bytes = s->bad_bytes = 0;
    s->pace.bytes_per_s = rate_wanted(s);
    s->seen = calloc(1, seg->end / RECORD_ALIGN_BYTES / 8 + 1);
    if (s->seen == NULL) rc = RC_NOMEM;
    if (rc != RC_OK) (void)err_set(reterr, rc, "scrub");
    if (rc == RC_OK) rc = segment_walk(s, &w, &bad, reterr);
    if (rc == RC_OK && !s->stop && (finished || bad)) {
        rc = fiber_work(hidden_work, &h);
        if (rc == RC_OK) rc = h.rc;
        if (rc != RC_OK) (void)err_set(reterr, rc, "scrub: %s", h.err.msg);
    }
    if (rc == RC_OK) rc = suspects_end(s, reterr);
    if (rc == RC_OK && bad && before == s->stats.bad_chunks_n + s->stats.bad_entries_n)
        s->stats.bad_dead_n++;
    s->stats.bytes += w.read_bytes;
    s->stats.unreadable_n += w.unreadable_n;
    walk_deinit(&w);
    free(s->seen);
    s->seen = NULL;
    return rc == RC_NOTFOUND ? RC_OK : rc; /* reclaimed meanwhile */
}

/* ---- RocksDB's files ---- */
struct files_job {
    struct scrub *s;
    struct index_file *files;
    uint32_t n;
    const char *name;
    enum rc rc;
    struct err err;
};

static void files_work(void *arg)
{
    struct files_job *j = arg;

    j->rc = index_files(store_index(j->s->conf.store), &j->files, &j->n, &j->err);
}

static void file_work(void *arg)
{
    struct files_job *j = arg;

    j->rc = index_file_check(store_index(j->s->conf.store), j->name, &j->err);
}

static enum rc file_scrub(struct scrub *s, const struct index_file *f, struct err *reterr)
{
    struct files_job j = {.s = s, .name = f->name};
    enum rc rc;

    s->pace.bytes_per_s = rate_wanted(s);
    pace_take(&s->pace, f->bytes);
    rc = fiber_work(file_work, &j);
    if (rc == RC_OK) rc = j.rc;
    s->stats.bytes += f->bytes;
    if (rc == RC_CORRUPT || rc == RC_IO) {
        s->stats.bad_files_n++;
        log_error("index_file_bad", "file=%s why=%s", f->name, j.err.msg);
        if (s->conf.index != NULL) s->conf.index(s->conf.data, &j.err);
        return RC_OK;
    }
    if (rc == RC_NOTFOUND) return RC_OK; /* compacted away meanwhile */
    return rc == RC_OK ? RC_OK : err_set(reterr, rc, "scrub: %s", j.err.msg);
}

static enum rc files_list(struct scrub *s, struct err *reterr)
{
    struct files_job j = {.s = s};
    enum rc rc = fiber_work(files_work, &j);

    if (rc == RC_OK) rc = j.rc;
    if (rc != RC_OK) return err_set(reterr, rc, "scrub: %s", j.err.msg);
    free(s->files);
    s->files = j.files;
    s->files_n = j.n;
    s->file_at = 0;
    return RC_OK;
}

/* ---- a pass ---- */
static enum rc pass_begin(struct scrub *s, struct err *reterr)
{
    struct seg_position upto = store_rows_upto(s->conf.store);
    struct seglog_segment f[64];
    uint64_t from = 0;
    uint32_t n;
    enum rc rc = files_list(s, reterr);

    if (rc != RC_OK) return rc;
    s->at_once = false;
    s->pass++;
    s->phase = PHASE_SEGMENTS;
    s->started_ms = clock_wall_ms();
    s->next_id = s->until_id = s->done_bytes = s->total_bytes = 0;
    while ((n = seglog_segments(store_log(s->conf.store), from, f, ARRAY_N(f))) > 0) {
        for (uint32_t i = 0; i < n && f[i].id < upto.segment_id; i++)
            s->total_bytes += f[i].end;
        from = f[n - 1].id + 1;
    }
    s->until_id = upto.segment_id; /* that one as far as its rows are written */
    s->total_bytes += upto.offset;
    for (uint32_t i = 0; i < s->files_n; i++)
        s->total_bytes += s->files[i].bytes;
    log_info("scrub_begins", "pass=%" PRIu64 " bytes=%" PRIu64, s->pass, s->total_bytes);
    return note_save(s, reterr);
}

static enum rc pass_end(struct scrub *s, struct err *reterr)
{
    s->phase = PHASE_REST;
    s->ended_ms = clock_wall_ms();
    s->done_bytes = s->total_bytes;
    log_info("scrub_ends",
             "pass=%" PRIu64 " bytes=%" PRIu64 " seconds=%" PRIu64 " bad_chunks=%" PRIu64
             " bad_entries=%" PRIu64 " since=start",
             s->pass, s->total_bytes, (s->ended_ms - s->started_ms) / 1000, s->stats.bad_chunks_n,
             s->stats.bad_entries_n);
    return note_save(s, reterr);
}

/* Also the one that is being written, as far as its rows are. */
static bool next_segment(const struct scrub *s, struct seglog_segment *ret, bool *ret_finished)
{
    struct seg_position upto = store_rows_upto(s->conf.store);
    const struct seglog *log = store_log(s->conf.store);

    *ret_finished = true;
    if (seglog_segments(log, s->next_id, ret, 1) == 1 && ret->id < upto.segment_id)
        return ret->id <= s->until_id;
    if (upto.segment_id < s->next_id || upto.segment_id > s->until_id ||
        seglog_segment_now(log, upto.segment_id, ret, ret_finished) != RC_OK)
        return false;
    if (ret->end != upto.offset) *ret_finished = false;
    ret->end = MIN(ret->end, upto.offset);
    return true;
}

enum rc scrub_step(struct scrub *s, bool *ret_idle, struct err *reterr)
{
    struct seglog_segment seg;
    struct store_status st;
    bool finished;
    enum rc rc;

    *ret_idle = false;
    store_status(s->conf.store, &st);
    if (st.rc != RC_OK) {
        *reterr = st.err;
        return st.rc;
    }
    switch (s->phase) {
    case PHASE_REST:
        if (!s->at_once && s->pass > 0 && clock_wall_ms() < s->started_ms + s->conf.period_ms) {
            *ret_idle = true;
            return RC_OK;
        }
        return pass_begin(s, reterr);
    case PHASE_SEGMENTS:
        if (!next_segment(s, &seg, &finished)) {
            rc = files_list(s, reterr);
            if (rc != RC_OK) return rc;
            s->phase = PHASE_FILES;
            return note_save(s, reterr);
        }
        rc = segment_scrub(s, &seg, finished, reterr);
        if (rc != RC_OK || s->stop) return rc; /* this one again */
        s->next_id = seg.id + 1;
        s->done_bytes += seg.end;
        return note_save(s, reterr);
    case PHASE_FILES:
        if (s->files == NULL) { /* a restart came between */
            rc = files_list(s, reterr);
            if (rc != RC_OK) return rc;
        }
        if (s->file_at == s->files_n) return pass_end(s, reterr);
        rc = file_scrub(s, &s->files[s->file_at], reterr);
        if (rc != RC_OK) return rc;
        s->done_bytes += s->files[s->file_at++].bytes;
        return RC_OK;
    }
    return RC_OK;
}

void scrub_run(struct scrub *s)
{
    while (!s->stop) {
        struct err err = {0};
        bool idle = false;
        enum rc rc = scrub_step(s, &idle, &err);

        if (rc == RC_IO || rc == RC_CANCELED) {
            if (rc == RC_IO) log_error("scrub_ended", "rc=%s why=%s", rc_name(rc), err.msg);
            return;
        }
        if (rc != RC_OK) log_warn("scrub_waits", "rc=%s why=%s", rc_name(rc), err.msg);
        if ((rc != RC_OK || idle) && !s->stop)
            (void)!fiber_event_wait_ms(&s->wake, s->conf.pause_ms); /* either way: look */
    }
}
