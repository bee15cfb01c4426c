/* storaged/segment/seglog.c - appending, and the log's end.
 *
 * An append waits until a segment has room (waiting), is written at its place (placed), and is told
 * durable when a flush that began after its writes, and after all writes before it, has ended.
 * There is at most one flush: what becomes ready meanwhile shares the next one. */
#include "common/base/clock.h"
#include "common/base/crc32c.h"
#include "storaged/segment/seglog_priv.h"
#include <stdlib.h>
#include <string.h>

static void place_all(struct seglog *log);
static void flush(struct seglog *log);

/* ---- ends ---- */
static void tell(struct seglog *log, struct seglog_append *a, enum rc rc)
{
    disk_buf_free(log->disk, a->priv.own);
    if (a->priv.seg != NULL) segment_unuse(a->priv.seg);
    log->appends_n--;
    a->priv.cb(a, rc);
}

static void waiting_take(struct seglog *log, struct list *gone)
{
    LIST_FOREACH_SAFE(it, &log->waiting)
    {
        list_remove(it);
        list_push_back(gone, it);
        log->stats.waiting_n--;
    }
}

static void tell_all(struct seglog *log, struct list *gone, enum rc rc, const struct err *why)
{
    while (!list_empty(gone)) {
        struct seglog_append *a = CONTAINER_OF(gone->next, struct seglog_append, priv.link);

        list_remove(&a->priv.link);
        if (rc != RC_OK) a->err = *why;
        tell(log, a, rc);
    }
}

static void seal(struct seglog *log, struct segment *s);

/* An orderly end: the next start has nothing to search. The one that was made ahead is sealed
 * empty, and removed then. */
static void seal_rest(struct seglog *log)
{
    struct segment *rest[2] = {log->cur, log->next};

    if (log->appends_n > 0 || log->flushing || log->creating || log->failed.rc != RC_OK) return;
    log->cur = log->next = NULL;
    for (uint32_t i = 0; i < ARRAY_N(rest); i++) {
        if (rest[i] == NULL) continue;
        seal(log, rest[i]);
        segment_unuse(rest[i]);
    }
}

static void close_check(struct seglog *log)
{
    if (log->closing) seal_rest(log);
    if (!log->closing || log->close_due || log->appends_n > 0 || log->reads_n > 0 ||
        log->jobs_n > 0 || log->drops_n > 0 || log->flushing || log->creating) {
        return;
    }
    log->close_due = true; /* the deferred call may still be out: it ends in on_close */
}

static void close_now(struct seglog *log)
{
    void (*cb)(void *) = log->close_cb;
    void *data = log->close_data;

    header_cache_deinit(&log->headers);
    segments_free(log);
    disk_buf_free(log->disk, log->create_page);
    free(log);
    cb(data);
}

/* Asked again each turn until nothing is under way. */
static void on_close(struct disk_req *req, enum rc rc)
{
    struct seglog *log = req->data;

    (void)rc;
    close_check(log);
    if (log->close_due) {
        close_now(log);
    } else {
        disk_defer(log->disk, req, on_close);
    }
}

/* The rest ends with rc; what has writes out ends when they are back. */
static void give_up(struct seglog *log, enum rc rc, const struct err *why)
{
    struct list gone;

    if (log->failed.rc == RC_OK) {
        if (why != NULL && why->rc != RC_OK) {
            log->failed = *why;
        } else {
            (void)err_set(&log->failed, rc, "the log ended: %s", rc_text(rc));
        }
    }
    list_init(&gone);
    log->flush_n = 0;
    LIST_FOREACH_SAFE(it, &log->placed)
    {
        struct seglog_append *a = CONTAINER_OF(it, struct seglog_append, priv.link);

        if (a->priv.writes_left > 0) continue;
        list_remove(it);
        list_push_back(&gone, it);
    }
    waiting_take(log, &gone);
    tell_all(log, &gone, log->failed.rc, &log->failed);
}

void seglog_close(struct seglog *log, void (*cb)(void *data), void *data)
{
    CHECK(!log->closing);
    log->closing = true;
    if (log->creating) disk_create_hurry(&log->create_req);
    log->close_cb = cb;
    log->close_data = data;
    log->close_req.data = log;
    disk_defer(log->disk, &log->close_req, on_close);
}

/* ---- segments ---- */
static void seal_done(struct segment_job *j, enum rc rc)
{
    struct segment *s = j->seg;

    s->sealing = false;
    s->sealed = rc == RC_OK; /* a failure took the disk out already */
    s->log->jobs_n--;
    disk_buf_free(s->log->disk, j->page);
    free(j);
    segment_unuse(s);
}

static void on_sealed(struct disk_req *req, enum rc rc)
{
    seal_done(req->data, rc);
}

static void on_seal_written(struct disk_req *req, enum rc rc)
{
    struct segment_job *j = req->data;

    if (rc == RC_OK) rc = disk_sync(j->seg->file, req, on_sealed);
    if (rc != RC_OK) seal_done(j, rc);
}

/* Nobody waits for a seal: without one the next start scans. */
static void seal(struct seglog *log, struct segment *s)
{
    struct segment_job *j;

    if (s == log->cur || s->sealed || s->sealing || s->durable != s->end) return;
    j = calloc(1, sizeof(*j));
    if (j == NULL) return;
    j->page = disk_buf_alloc(log->disk, DISK_ALIGN_BYTES);
    if (j->page == NULL) {
        free(j);
        return;
    }
    j->seg = s;
    j->req.data = j;
    segment_use_open(s);
    s->sealing = true;
    log->jobs_n++;
    segment_seal_encode(log, s, j->page);
    if (disk_write(s->file, &j->req, DISK_ALIGN_BYTES, j->page, DISK_ALIGN_BYTES,
                   on_seal_written) != RC_OK)
        seal_done(j, RC_IO);
}

static uint64_t fs_free(const struct seglog *log)
{
    uint64_t total = 0, left = 0;

    return disk_space(log->disk, &total, &left) == RC_OK ? left : 0;
}

static uint64_t others_free(const struct seglog *log)
{
    uint64_t all = log->conf.others_bytes;

    return MAX(all - MIN(all, log->stats.others_used), all / 4);
}

void seglog_others_used(struct seglog *log, uint64_t bytes)
{
    log->stats.others_used = bytes;
}

static bool within_limit(const struct seglog *log)
{
    if (log->conf.others_bytes > 0 && fs_free(log) < log->conf.segment_bytes + others_free(log))
        return false;
    return log->conf.limit_bytes == 0 ||
           log->stats.segment_bytes + log->conf.segment_bytes <= log->conf.limit_bytes;
}

/* All of it: a later one that is smaller must not come in before an earlier one. */
static void refuse_waiting(struct seglog *log, enum rc rc, const struct err *why)
{
    struct list gone;

    list_init(&gone);
    waiting_take(log, &gone);
    tell_all(log, &gone, rc, why);
}

static void on_created(struct disk_req *req, enum rc rc)
{
    struct seglog *log = req->data;
    struct segment *s;

    log->creating = false;
    if (rc == RC_OK) {
        s = segment_add(log, log->id_next - 1);
        if (s == NULL) {
            disk_file_close(log->create_file); /* empty; the next start removes it */
            rc = err_set(&req->err, RC_NOMEM, "segment");
        } else {
            s->generation = s->sequence = 1;
            s->bytes = log->conf.segment_bytes;
            s->end = s->durable = SEGLOG_DATA_AT;
            s->file = log->create_file;
            log->files_n++;
            segment_use_open(s); /* until it is full */
            log->stats.segments_n++;
            log->stats.segment_bytes += s->bytes;
            log->next = s;
        }
    }
    if (rc == RC_OK) {
        place_all(log);
    } else if (rc == RC_FULL || rc == RC_NOMEM) { /* what waits is refused, the log goes on */
        refuse_waiting(log, rc, &req->err);
    } else {
        give_up(log, rc, &req->err);
    }
}

/* Writing zeros first makes each later flush of a segment cheaper and writes everything twice:
 * worth it where flushes are many and bytes few. So not for a log that fills segments fast; of the
 * very first one, which appends wait for, a little. */
static uint64_t zero_bytes(const struct seglog *log)
{
    if (log->cur == NULL) return SEGLOG_ZERO_FIRST_BYTES;
    return log->slow ? log->conf.segment_bytes : 0;
}

static enum rc create(struct seglog *log)
{
    struct segment s = {.id = log->id_next, .generation = 1, .bytes = log->conf.segment_bytes};
    char name[DISK_NAME_BYTES];
    enum rc rc;

    if (log->creating || log->next != NULL) return RC_OK;
    if (!within_limit(log)) return RC_FULL;
    segment_header_encode(log, &s, log->create_page);
    segment_name(s.id, name);
    log->create_req.data = log;
    rc = disk_create(log->disk, &log->create_req, name, s.bytes, zero_bytes(log), log->create_page,
                     &log->create_file, on_created);
    if (rc != RC_OK) return rc;
    log->creating = true;
    log->id_next++;
    return RC_OK;
}

static void refuse_soon(struct seglog *log);

/* Room went between an append's acceptance and its turn. Told from the loop, never inside a call.
 */
static void on_refuse(struct disk_req *req, enum rc rc)
{
    struct seglog *log = req->data;
    struct err err;

    log->refusing = false;
    log->jobs_n--;
    rc = log->creating || log->next != NULL ? RC_OK : create(log);
    if (rc == RC_OK) {
        place_all(log);
    } else if (rc == RC_BUSY) { /* too many requests of the disk: there is room all the same */
        refuse_soon(log);
    } else if (rc != RC_FULL) {
        give_up(log, rc, &log->create_req.err);
    } else {
        refuse_waiting(log, err_set(&err, RC_FULL, "no room for another segment"), &err);
    }
}

static void refuse_soon(struct seglog *log)
{
    if (log->refusing) return;
    log->refusing = true;
    log->jobs_n++;
    log->refuse_req.data = log;
    disk_defer(log->disk, &log->refuse_req, on_refuse);
}

/* ---- appending ---- */
static void on_written(struct disk_req *req, enum rc rc)
{
    struct seglog_append *a = req->data;
    struct seglog *log = a->priv.log;

    a->priv.writes_left--;
    if (log->failed.rc != RC_OK) {
        if (a->priv.writes_left > 0) return;
        list_remove(&a->priv.link);
        a->err = log->failed;
        tell(log, a, log->failed.rc);
    } else if (rc != RC_OK) {
        give_up(log, rc, &req->err);
    } else if (a->priv.writes_left == 0) {
        flush(log);
    }
}

static void on_flushed(struct disk_req *req, enum rc rc)
{
    struct seglog *log = req->data;
    struct segment *s = log->flush_seg;
    uint64_t took_us;
    struct list durable;

    log->flushing = false;
    if (rc != RC_OK) {
        give_up(log, rc, &req->err);
        segment_unuse(s);
        return;
    }
    took_us = clock_boot_us() - log->flush_at_us;
    log->stats.flush_us += took_us;
    log->stats.flush_us_max = MAX(log->stats.flush_us_max, took_us);
    log->stats.flushes_n++;
    log->stats.flushed_records_max = MAX(log->stats.flushed_records_max, log->flush_n);
    list_init(&durable);
    for (; log->flush_n > 0; log->flush_n--) {
        struct seglog_append *a = CONTAINER_OF(log->placed.next, struct seglog_append, priv.link);

        list_remove(&a->priv.link);
        list_push_back(&durable, &a->priv.link);
        s->durable = a->priv.header.segment_id == s->id ? a->end.offset : s->durable;
        log->durable = a->end;
        log->stats.appends_n++;
    }
    seal(log, s);
    flush(log);
    tell_all(log, &durable, RC_OK, NULL);
    segment_unuse(s);
}

static void flush(struct seglog *log)
{
    struct segment *s = NULL;
    uint32_t n = 0;
    enum rc rc;

    if (log->flushing || log->failed.rc != RC_OK) return;
    LIST_FOREACH(it, &log->placed)
    {
        struct seglog_append *a = CONTAINER_OF(it, struct seglog_append, priv.link);

        if (a->priv.writes_left > 0 || (s != NULL && a->priv.seg != s)) break;
        s = a->priv.seg;
        n++;
    }
    if (n == 0) return;
    log->flush_seg = s;
    log->flush_n = n;
    log->flush_req.data = log;
    log->flush_at_us = clock_boot_us();
    segment_use_open(s);
    rc = disk_sync(s->file, &log->flush_req, on_flushed);
    if (rc != RC_OK) {
        give_up(log, rc, &log->flush_req.err);
        segment_unuse(s);
    } else {
        log->flushing = true;
    }
}

/* The disk works, or this is a callback and the log may end here. */
static void place(struct seglog *log, struct seglog_append *a)
{
    struct seglog_append_priv *p = &a->priv;
    struct segment *s = log->cur;
    bool apart = p->payload != p->own + p->header_bytes;
    enum rc rc;

    p->seg = s;
    segment_use_open(s);
    p->header.segment_id = s->id;
    p->header.segment_generation = s->generation;
    p->header.sequence = s->sequence++;
    p->header.flushed_upto = s->durable;
    p->header.prior_segment_id = s->prior.segment_id;
    p->header.prior_end = s->prior.offset;
    a->loc = (struct seg_location){.segment_id = s->id,
                                   .generation = s->generation,
                                   .offset = s->end,
                                   .header_bytes = p->header_bytes,
                                   .plain_bytes = p->header.plain_bytes};
    s->end += p->bytes;
    a->end = (struct seg_position){.segment_id = s->id, .offset = s->end};
    /* fields were checked when it was accepted */
    CHECK(record_encode(&p->header, p->blocks, p->own, NULL) == RC_OK);
    list_push_back(&log->placed, &p->link);
    p->head_req.data = p->body_req.data = a;
    rc = disk_write(s->file, &p->head_req, a->loc.offset, p->own,
                    apart ? p->header_bytes : p->bytes, on_written);
    if (rc == RC_OK) {
        p->writes_left++;
        if (apart) {
            rc = disk_write(s->file, &p->body_req, a->loc.offset + p->header_bytes, p->payload,
                            p->bytes - p->header_bytes, on_written);
            if (rc == RC_OK) p->writes_left++;
        }
    }
    if (log->creating && s->end > s->bytes / 2) disk_create_hurry(&log->create_req);
    if (rc != RC_OK) give_up(log, rc, NULL);
}

static void begin(struct seglog *log, struct segment *s)
{
    struct segment *old = log->cur;
    uint64_t now_ms = clock_boot_ms();

    log->cur = s;
    if (old != NULL) {
        log->slow =
            old->bytes / MAX(now_ms - log->rolled_ms, (uint64_t)1) < SEGLOG_SLOW_BYTES_PER_MS;
        s->prior = (struct seg_position){.segment_id = old->id, .offset = old->end};
        seal(log, old);
        segment_unuse(old);
    }
    log->rolled_ms = now_ms;
}

static void place_all(struct seglog *log)
{
    while (!list_empty(&log->waiting) && log->failed.rc == RC_OK) {
        struct seglog_append *a = CONTAINER_OF(log->waiting.next, struct seglog_append, priv.link);
        struct segment *next = log->next;

        if (log->cur == NULL || a->priv.bytes > log->cur->bytes - log->cur->end) {
            if (next == NULL) {
                if (create(log) != RC_OK) {
                    refuse_soon(log);
                } else if (log->cur != NULL) {
                    disk_create_hurry(&log->create_req);
                }
                return;
            }
            log->next = NULL;
            begin(log, next);
            (void)create(log); /* ahead of need; when it fails, the next roll asks again */
        }
        list_remove(&a->priv.link);
        log->stats.waiting_n--;
        place(log, a);
    }
}

static bool fits_now(const struct seglog *log, const struct seglog_append *a)
{
    return (log->cur != NULL && a->priv.bytes <= log->cur->bytes - log->cur->end) ||
           log->next != NULL || log->creating || within_limit(log);
}

/* Of the reserve (SEGLOG_RESERVE parts), what this record may not use. */
static uint64_t kept_from(const struct seglog *log, const struct seglog_append *a)
{
    uint64_t part = log->conf.reserve_bytes / SEGLOG_RESERVE;

    if (a->priv.header.moved_from.segment_id != 0) return 0;
    if (a->priv.header.type == RECORD_LOG_ENTRY) return part;
    return a->urgent ? 2 * part : log->conf.reserve_bytes;
}

static enum rc append(struct seglog *log, struct seglog_append *a, const struct record_header *h,
                      bool apart, seglog_append_cb cb)
{
    struct seglog_stats st;
    enum rc rc = disk_state(log->disk, &a->err);

    CHECK(!log->closing);
    if (rc == RC_OK && log->failed.rc != RC_OK) {
        a->err = log->failed;
        rc = log->failed.rc;
    }
    if (rc != RC_OK) return rc;
    if (log->conf.others_bytes > 0 && fs_free(log) < others_free(log) / 2) {
        return err_set(&a->err, RC_FULL, "the file system of the disk is full");
    }
    if (log->appends_n >= SEGLOG_APPENDS_MAX) {
        return err_set(&a->err, RC_BUSY, "%u records wait for the disk", log->appends_n);
    }
    a->err.rc = RC_OK;
    a->priv.log = log;
    a->priv.cb = cb;
    a->priv.header = *h;
    a->priv.header.segment_id = a->priv.header.segment_generation = 0;
    a->priv.header.sequence = 1;
    a->priv.header.flushed_upto = 0;
    a->priv.header_bytes = record_header_bytes(h->plain_bytes);
    a->priv.bytes = record_bytes(a->priv.header_bytes, h->plain_bytes);
    a->priv.writes_left = 0;
    a->priv.own = NULL;
    a->priv.seg = NULL;
    if (a->priv.bytes > log->conf.segment_bytes - SEGLOG_DATA_AT) {
        return err_set(&a->err, RC_INVAL, "a record of %u bytes is larger than a segment",
                       h->plain_bytes);
    }
    seglog_stats(log, &st);
    if (st.free_bytes < kept_from(log, a) + a->priv.bytes) {
        return err_set(&a->err, RC_FULL, "the disk is nearly full: %llu bytes left",
                       (unsigned long long)st.free_bytes);
    }
    if (!fits_now(log, a)) return err_set(&a->err, RC_FULL, "no room for another segment");
    a->priv.own = disk_buf_alloc(log->disk, apart ? a->priv.header_bytes : a->priv.bytes);
    if (a->priv.own == NULL) return err_set(&a->err, RC_BUSY, "the disk's buffers are all in use");
    return RC_OK;
}

static enum rc queue(struct seglog *log, struct seglog_append *a)
{
    enum rc rc = record_encode(&a->priv.header, a->priv.blocks, a->priv.own, &a->err);

    if (rc != RC_OK) {
        disk_buf_free(log->disk, a->priv.own);
        return rc;
    }
    log->appends_n++;
    log->stats.waiting_n++;
    list_push_back(&log->waiting, &a->priv.link);
    place_all(log);
    return RC_OK;
}

static void crcs_set(struct record_block *blocks, const uint8_t *p, uint32_t n)
{
    for (uint32_t i = 0; i < record_blocks(n); i++) {
        uint32_t at = i * RECORD_BLOCK_BYTES;

        blocks[i].crc32c = crc32c(0, p + at, MIN(RECORD_BLOCK_BYTES, n - at));
    }
}

/* Into the memory that is written, behind the header: one write for all of it. */
static void payload_copy(struct seglog_append *a, struct slice payload)
{
    uint8_t *to = a->priv.own + a->priv.header_bytes;

    memcpy(to, payload.p, payload.n);
    memset(to + payload.n, 0, a->priv.bytes - a->priv.header_bytes - payload.n);
    a->priv.payload = to;
}

enum rc seglog_append_chunk(struct seglog *log, struct seglog_append *a,
                            const struct record_header *h, struct record_block *blocks,
                            bool crc_known, uint8_t *payload, seglog_append_cb cb)
{
    uint32_t n = h->plain_bytes;
    bool apart = n > RECORD_SMALL_BYTES_MAX;
    enum rc rc;

    if (n == 0 || n > RECORD_PAYLOAD_BYTES_MAX || h->type != RECORD_CHUNK) {
        return err_set(&a->err, RC_INVAL, "a chunk record of %u bytes", n);
    }
    rc = append(log, a, h, apart, cb);
    if (rc != RC_OK) return rc;
    if (!crc_known) crcs_set(blocks, payload, n);
    a->priv.blocks = blocks;
    if (apart) {
        memset(payload + n, 0, record_payload_bytes(n) - n);
        a->priv.payload = payload;
    } else {
        payload_copy(a, (struct slice){payload, n});
    }
    return queue(log, a);
}

enum rc seglog_append_entry(struct seglog *log, struct seglog_append *a,
                            const struct record_header *h, struct slice entry, seglog_append_cb cb)
{
    struct record_block *blocks = a->priv.entry_blocks;
    struct record_header head = *h;
    enum rc rc;

    if (entry.n == 0 || entry.n > SEGLOG_ENTRY_BYTES_MAX || h->type != RECORD_LOG_ENTRY) {
        return err_set(&a->err, RC_INVAL, "a log entry of %zu bytes", entry.n);
    }
    head.plain_bytes = (uint32_t)entry.n;
    memset(blocks, 0, sizeof(a->priv.entry_blocks));
    rc = append(log, a, &head, /* apart= */ false, cb);
    if (rc != RC_OK) return rc;
    crcs_set(blocks, entry.p, head.plain_bytes);
    a->priv.blocks = blocks;
    payload_copy(a, entry);
    return queue(log, a);
}

/* ---- state ---- */
void seglog_stats(struct seglog *log, struct seglog_stats *ret)
{
    uint64_t total = 0, left = 0;

    *ret = log->stats;
    ret->appending_n = log->appends_n;
    ret->reads_n = log->reads_n;
    ret->files_open_n = log->files_n;
    ret->header_hits_n = log->headers.hits_n;
    ret->header_misses_n = log->headers.misses_n;
    ret->header_bytes = log->headers.bytes;
    if (disk_space(log->disk, &total, &left) != RC_OK) left = 0; /* then chunks are refused */
    left -= MIN(left, others_free(log));
    if (log->conf.limit_bytes != 0) {
        uint64_t limit = log->conf.limit_bytes, used = log->stats.segment_bytes;

        total = MIN(total, limit);
        left = MIN(left, limit > used ? limit - used : 0);
    }
    left -= left % log->conf.segment_bytes; /* only whole segments are made */
    if (log->cur != NULL) left += log->cur->bytes - log->cur->end;
    if (log->next != NULL) left += log->next->bytes - log->next->end;
    ret->total_bytes = total;
    ret->free_bytes = left;
    ret->entry_free_bytes = left - MIN(left, log->conf.reserve_bytes / SEGLOG_RESERVE);
    ret->chunk_free_bytes =
        ret->free_bytes > log->conf.reserve_bytes ? ret->free_bytes - log->conf.reserve_bytes : 0;
}

struct seg_position seglog_durable(const struct seglog *log)
{
    return log->durable;
}
