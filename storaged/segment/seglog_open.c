/* storaged/segment/seglog_open.c - what a start finds in the segments. Blocking.
 *
 * The rule (DESIGN.md section 6): a bad record below the largest valid flushed_upto, or below a
 * seal, is damage; above, it is the end. Records between that flushed_upto and the end count only
 * as far as their payloads are whole, one after the other.
 *
 * Across segments too: records of a segment are flushed after all of the segment before it. When
 * that one ends early, they were never acknowledged and are dropped with it (a hole in a group's
 * log would pass for a loss); when they were flushed, it is damage. */
#include "common/base/crc32c.h"
#include "common/base/le.h"
#include "storaged/segment/seglog_priv.h"
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define READ_BYTES (256u << 10)

static const uint8_t HEADER_MAGIC[8] = {'M', 'I', 'K', 'U', 'R', 'A', 'S', 0x1a};
static const uint8_t SEAL_MAGIC[8] = {'M', 'I', 'K', 'U', 'R', 'A', 'E', 0x1a};

void segment_name(uint64_t id, char name[DISK_NAME_BYTES])
{
    (void)snprintf(name, DISK_NAME_BYTES, "%016" PRIx64 ".seg", id);
}

/* ---- pages ---- */
static uint32_t page_crc(const uint8_t *p)
{
    static const uint8_t zero[4];
    uint32_t crc = crc32c(0, p, 12);

    crc = crc32c(crc, zero, 4);
    return crc32c(crc, p + 16, DISK_ALIGN_BYTES - 16);
}

static void page_encode(const struct seglog *log, const struct segment *s, const uint8_t *magic,
                        uint64_t a, uint64_t b, uint8_t *page)
{
    memset(page, 0, DISK_ALIGN_BYTES);
    memcpy(page, magic, 8);
    le_put32(page + 8, SEGLOG_FORMAT);
    memcpy(page + 16, log->conf.disk_id.b, 16);
    le_put64(page + 32, s->id);
    le_put64(page + 40, s->generation);
    le_put64(page + 48, a);
    le_put64(page + 56, b);
    le_put32(page + 12, page_crc(page));
}

void segment_header_encode(const struct seglog *log, const struct segment *s, uint8_t *page)
{
    page_encode(log, s, HEADER_MAGIC, s->bytes, 0, page);
}

void segment_seal_encode(const struct seglog *log, const struct segment *s, uint8_t *page)
{
    page_encode(log, s, SEAL_MAGIC, s->end, s->sequence, page);
}

/* What of the page is not as it was written. Behind PAGE_CRC it is: just as somebody else wrote. */
enum page_fault {
    PAGE_GOOD,
    PAGE_MAGIC,
    PAGE_CRC,
    PAGE_FORMAT,
    PAGE_DISK_ID,
    PAGE_SEGMENT_ID,
    PAGE_GENERATION,
    PAGE_END
};
static const char *const PAGE_FAULTS[] = {"",        "magic",      "CRC",        "format",
                                          "disk id", "segment id", "generation", "end"};

static enum page_fault page_fault(const struct seglog *log, uint64_t segment_id,
                                  const uint8_t *magic, const uint8_t *p)
{
    if (memcmp(p, magic, 8) != 0) return PAGE_MAGIC;
    if (le_get32(p + 12) != page_crc(p)) return PAGE_CRC;
    if (le_get32(p + 8) == 0 || le_get32(p + 8) > SEGLOG_FORMAT) return PAGE_FORMAT;
    if (memcmp(p + 16, log->conf.disk_id.b, 16) != 0) return PAGE_DISK_ID;
    return le_get64(p + 32) == segment_id ? PAGE_GOOD : PAGE_SEGMENT_ID;
}

enum rc seglog_head_check(const struct seglog *log, const struct seglog_segment *s,
                          const uint8_t *p, struct err *reterr)
{
    const uint8_t *seal = p + DISK_ALIGN_BYTES;
    enum page_fault bad = page_fault(log, s->id, HEADER_MAGIC, p);
    bool sealed = false;

    if (bad == PAGE_GOOD && le_get64(p + 40) != s->generation) bad = PAGE_GENERATION;
    if (bad != PAGE_GOOD) return err_set(reterr, RC_CORRUPT, "header page: %s", PAGE_FAULTS[bad]);
    for (size_t i = 0; i < DISK_ALIGN_BYTES && !sealed; i++)
        sealed = seal[i] != 0;
    if (!sealed)
        return RC_OK; /* not yet, or the page for it could not be had: the end is searched */
    bad = page_fault(log, s->id, SEAL_MAGIC, seal);
    if (bad == PAGE_GOOD && le_get64(seal + 40) != s->generation) bad = PAGE_GENERATION;
    if (bad == PAGE_GOOD && le_get64(seal + 48) != s->end) bad = PAGE_END;
    return bad == PAGE_GOOD ? RC_OK
                            : err_set(reterr, RC_CORRUPT, "seal page: %s", PAGE_FAULTS[bad]);
}

/* ---- reading along a segment ---- */
enum rc segment_window(struct window *w, uint64_t at, size_t n, const uint8_t **ret,
                       struct err *reterr)
{
    if (at < w->at || at + n > w->at + w->n) {
        uint64_t from = at - at % DISK_ALIGN_BYTES, left = w->seg->bytes - from;
        size_t least = ROUND_UP((size_t)(at - from) + n, DISK_ALIGN_BYTES);
        size_t want = (size_t)MIN(left, (uint64_t)MAX(least, READ_BYTES));
        enum rc rc;

        CHECK(least <= want && want <= WINDOW_BYTES);
        w->n = 0;
        if (want > w->cap) { /* most segments need no more than what is read ahead */
            free(w->p);
            w->p = aligned_alloc(DISK_ALIGN_BYTES, ROUND_UP(want, (size_t)DISK_ALIGN_BYTES));
            w->cap = w->p != NULL ? want : 0;
            if (w->p == NULL) return err_set(reterr, RC_NOMEM, "reading a segment");
        }
        rc = disk_read_now(w->seg->file, from, w->p, want, reterr);
        if (rc == RC_IO && want > least) { /* what is read ahead may lie on a bad sector */
            want = least;
            rc = disk_read_now(w->seg->file, from, w->p, want, reterr);
        }
        if (rc != RC_OK) return rc;
        w->at = from;
        w->n = want;
    }
    *ret = w->p + (at - w->at);
    return RC_OK;
}

enum rc segment_record(struct window *w, uint64_t at, struct record_block *blocks,
                       struct found *ret, struct err *reterr)
{
    const struct segment *s = w->seg;
    const uint8_t *p;
    uint32_t n = 0;
    enum rc rc;

    if (at + RECORD_ALIGN_BYTES > s->bytes) return RC_CORRUPT;
    rc = segment_window(w, at, RECORD_ALIGN_BYTES, &p, reterr);
    if (rc != RC_OK) return rc;
    if (record_peek(p, &n) != RC_OK || n > s->bytes - at) return RC_CORRUPT;
    rc = segment_window(w, at, MAX(n, RECORD_ALIGN_BYTES), &p, reterr);
    if (rc != RC_OK) return rc;
    if (record_decode(p, MAX(n, RECORD_ALIGN_BYTES), &ret->h, blocks, NULL) != RC_OK)
        return RC_CORRUPT;
    ret->at = at;
    ret->header_bytes = n;
    ret->end = at + record_bytes(n, ret->h.plain_bytes);
    if (ret->h.segment_id != s->id || ret->h.segment_generation != s->generation ||
        ret->h.flushed_upto > at || ret->end > s->bytes) {
        return RC_CORRUPT;
    }
    return RC_OK;
}

static enum rc payload_check(struct window *w, const struct found *f,
                             const struct record_block *blocks, struct err *reterr)
{
    for (uint32_t i = 0; i < record_blocks(f->h.plain_bytes); i++) {
        uint64_t at = f->at + f->header_bytes + (uint64_t)i * RECORD_BLOCK_BYTES;
        const uint8_t *p;
        enum rc rc = segment_window(w, at, record_block_bytes(f->header_bytes, f->h.plain_bytes, i),
                                    &p, reterr);

        if (rc == RC_OK) rc = record_block_check(f->h.plain_bytes, i, p, blocks[i].crc32c);
        if (rc != RC_OK) return rc;
    }
    return RC_OK;
}

enum rc segment_resync(struct window *w, uint64_t at, uint64_t until, uint64_t floor, uint64_t seq,
                       struct record_block *blocks, struct found *ret, struct err *reterr)
{
    for (at += RECORD_ALIGN_BYTES; at < until; at += RECORD_ALIGN_BYTES) {
        enum rc rc = segment_record(w, at, blocks, ret, reterr);

        if (rc == RC_OK && ret->h.flushed_upto > floor && ret->h.sequence >= seq) return RC_OK;
        if (rc != RC_OK && rc != RC_CORRUPT) return rc;
    }
    return RC_NOTFOUND;
}

/* ---- the end of a segment without a seal ---- */
/* Did the segment before it (it ends at `before`, as searched for) lose records? */
static void judge_prior(struct seglog *log, struct segment *s, struct seg_position before,
                        bool was_flushed)
{
    if (s->prior.segment_id != before.segment_id || s->prior.offset <= before.offset) return;
    if (was_flushed) {
        log->stats.damage_n++;
    } else {
        s->end = SEGLOG_DATA_AT;
    }
}

/* The same of a sealed one, whose first record tells. */
static enum rc ask_first(struct seglog *log, struct window *w, struct record_block *blocks,
                         struct seg_position before, struct err *reterr)
{
    struct found f;
    enum rc rc = segment_record(w, SEGLOG_DATA_AT, blocks, &f, reterr);

    if (rc != RC_OK) return rc == RC_CORRUPT ? RC_OK : rc;
    w->seg->prior = (struct seg_position){f.h.prior_segment_id, f.h.prior_end};
    judge_prior(log, w->seg, before, /* was_flushed= */ true);
    return RC_OK;
}

enum rc segment_find_end(struct seglog *log, struct window *w, struct record_block *blocks,
                         struct seg_position before, struct err *reterr)
{
    struct segment *s = w->seg;
    uint64_t at = SEGLOG_DATA_AT, seq = 1, flushed = SEGLOG_DATA_AT;
    struct found f;
    enum rc rc;

    for (;;) {
        rc = segment_record(w, at, blocks, &f, reterr);
        if (rc == RC_OK && f.h.sequence != seq) rc = RC_CORRUPT;
        if (rc == RC_CORRUPT) {
            rc = segment_resync(w, at, s->bytes, at, seq, blocks, &f, reterr);
            if (rc == RC_NOTFOUND) break;
            if (rc == RC_OK) log->stats.damage_n++;
        }
        if (rc != RC_OK) return rc;
        flushed = MAX(flushed, f.h.flushed_upto);
        s->prior = (struct seg_position){f.h.prior_segment_id, f.h.prior_end};
        at = f.end;
        seq = f.h.sequence + 1;
    }
    s->end = at;
    s->sequence = seq;
    /* of what lies behind flushed, the whole part; walks headers again only from there */
    for (at = MIN(flushed, s->end); at < s->end; at = f.end) {
        rc = segment_record(w, at, blocks, &f, reterr);
        if (rc == RC_OK) rc = payload_check(w, &f, blocks, reterr);
        if (rc == RC_OK) continue;
        if (rc != RC_CORRUPT) return rc;
        s->end = at;
        s->sequence = f.h.sequence;
        break;
    }
    judge_prior(log, s, before, /* was_flushed= */ flushed > SEGLOG_DATA_AT);
    s->durable = s->end;
    return RC_OK;
}

static void file_close(struct segment *s)
{
    disk_file_close(s->file);
    s->file = NULL;
}

/* Seals it, so that no later start and no later record sees what was torn; or removes it, when
 * nothing is in it. Can be repeated. */
static enum rc settle(struct seglog *log, struct segment *s, struct err *reterr)
{
    char name[DISK_NAME_BYTES];
    enum rc rc;

    if (s->bytes < SEGLOG_DATA_AT || (s->end == SEGLOG_DATA_AT && !s->damaged)) {
        segment_name(s->id, name);
        file_close(s);
        return disk_remove_now(log->disk, name, reterr);
    }
    segment_seal_encode(log, s, log->create_page);
    rc = disk_write_sync_now(s->file, DISK_ALIGN_BYTES, log->create_page, DISK_ALIGN_BYTES, reterr);
    if (rc == RC_OK) rc = disk_truncate_now(s->file, s->end, reterr);
    if (rc != RC_OK) return rc;
    s->sealed = true;
    s->bytes = s->end;
    return RC_OK;
}

/* ---- opening ---- */
struct names {
    uint64_t *ids;
    uint32_t n, cap;
};

static enum rc add_name(void *ctx, const char *name)
{
    struct names *l = ctx;
    size_t n = strlen(name);
    char *end;

    if (n != 20 || strcmp(name + 16, ".seg") != 0) return RC_OK; /* .tmp: open removes it */
    if (l->n == l->cap) {
        uint32_t cap = MAX(l->cap * 2, 64u);
        uint64_t *more = realloc(l->ids, cap * sizeof(*more));

        if (more == NULL) return RC_NOMEM;
        l->ids = more;
        l->cap = cap;
    }
    l->ids[l->n++] = strtoull(name, &end, 16);
    return RC_OK;
}

static int by_number(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return (x > y) - (x < y);
}

enum rc segment_ids(struct seglog *log, uint64_t **ret, uint32_t *ret_n, struct err *reterr)
{
    struct names l = {0};
    enum rc rc = disk_list(log->disk, add_name, &l, reterr);

    if (rc == RC_NOMEM) (void)err_set(reterr, rc, "segments");
    if (rc != RC_OK) {
        free(l.ids);
        return rc;
    }
    if (l.n > 0) qsort(l.ids, l.n, sizeof(l.ids[0]), by_number);
    *ret = l.ids;
    *ret_n = l.n;
    return RC_OK;
}

/* An unfinished creation's. */
static enum rc drop_tmp(void *ctx, const char *name)
{
    struct seglog *log = ctx;
    size_t n = strlen(name);

    if (n == 24 && strcmp(name + 16, ".seg.tmp") == 0) {
        return disk_remove_now(log->disk, name, NULL);
    }
    return RC_OK;
}

/* The first record lies there too, as the header says: the file has another one's name. */
static enum rc renamed(struct seglog *log, struct segment *s, uint64_t id, bool *ret,
                       struct err *reterr)
{
    uint8_t *page = log->create_page;
    uint32_t n;
    enum rc rc = RC_OK;

    *ret = false;
    if (s->bytes < SEGLOG_DATA_AT + RECORD_ALIGN_BYTES) return RC_OK;
    rc = disk_read_now(s->file, SEGLOG_DATA_AT, page, RECORD_ALIGN_BYTES, reterr);
    if (rc == RC_OK) *ret = record_peek(page, &n) == RC_OK && record_segment(page) == id;
    return rc;
}

enum rc segment_load(struct seglog *log, struct segment *s, struct err *reterr)
{
    uint8_t *page = log->create_page;
    char name[DISK_NAME_BYTES], text[ID128_TEXT_BYTES];
    struct id128 disk_id;
    enum page_fault bad;
    uint64_t bytes = 0, id;
    bool other = false;
    enum rc rc;

    segment_name(s->id, name);
    rc = disk_file_open(log->disk, name, &s->file, &bytes, reterr);
    if (rc != RC_OK) return rc;
    s->bytes = bytes;
    s->generation = 1; /* the only one there is */
    if (bytes < SEGLOG_DATA_AT) {
        return err_set(reterr, RC_RANGE, "segment '%s' was cut to %" PRIu64 " bytes", name, bytes);
    }
    rc = disk_read_now(s->file, DISK_ALIGN_BYTES, page, DISK_ALIGN_BYTES, reterr);
    if (rc != RC_OK) return rc;
    if (page_fault(log, s->id, SEAL_MAGIC, page) == PAGE_GOOD &&
        le_get64(page + 40) == s->generation && le_get64(page + 48) >= SEGLOG_DATA_AT &&
        le_get64(page + 48) <= bytes) {
        s->end = s->durable = le_get64(page + 48);
        s->sequence = le_get64(page + 56);
        s->sealed = true;
    }
    rc = disk_read_now(s->file, 0, page, DISK_ALIGN_BYTES, reterr);
    if (rc != RC_OK) return rc;
    bad = page_fault(log, s->id, HEADER_MAGIC, page);
    if (bad == PAGE_GOOD && le_get64(page + 40) != s->generation) bad = PAGE_GENERATION;
    switch (bad) {
    case PAGE_GOOD:
        return RC_OK;
    case PAGE_FORMAT:
        return err_set(reterr, RC_PRECOND,
                       "segment '%s' has format %" PRIu32 ", this storaged knows up to %u: run the "
                       "version that wrote it, or a newer one",
                       name, le_get32(page + 8), SEGLOG_FORMAT);
    case PAGE_DISK_ID:
        memcpy(disk_id.b, page + 16, sizeof(disk_id.b));
        return err_set(reterr, RC_PRECOND,
                       "segment '%s' has disk id %s, not that of disk.id: put the right disk.id "
                       "back, or move the file out of the folder",
                       name, id128_text(&disk_id, text));
    case PAGE_SEGMENT_ID:
        id = le_get64(page + 32);
        rc = renamed(log, s, id, &other, reterr);
        if (rc != RC_OK) return rc;
        if (other)
            return err_set(reterr, RC_PRECOND,
                           "the file '%s' is segment %016" PRIx64 ": give it its name back", name,
                           id);
        break;
    default:
        break;
    }
    return err_set(reterr, RC_CORRUPT, "header of segment '%s': %s", name, PAGE_FAULTS[bad]);
}

/* A header page that rotted says nothing that its records do not: it is written again. It was
 * durable before the first record; without any record, what was there can't be known. */
static enum rc head_mend(struct seglog *log, struct segment *s, struct err *reterr)
{
    if (!s->sealed && s->end == SEGLOG_DATA_AT) log->stats.damage_n++;
    log->stats.heads_mended_n++;
    segment_header_encode(log, s, log->create_page);
    return disk_write_sync_now(s->file, 0, log->create_page, DISK_ALIGN_BYTES, reterr);
}

/* From the last to the first: when power fails here too, none is left whose predecessor went. */
static enum rc settle_all(struct seglog *log, struct err *reterr)
{
    for (uint32_t i = log->segs_n; i > 0; i--) {
        struct segment *s = log->segs[i - 1];
        enum rc rc = s->sealed ? RC_OK : settle(log, s, reterr);

        if (rc != RC_OK) return rc;
        file_close(s);
        if (!s->sealed) segment_forget(s);
    }
    log->id_next = 1;
    for (uint32_t i = 0; i < log->segs_n; i++) {
        struct segment *s = log->segs[i];

        log->id_next = s->id + 1;
        log->durable = (struct seg_position){.segment_id = s->id, .offset = s->end};
        log->stats.segments_n++;
        log->stats.segment_bytes += s->bytes;
    }
    return RC_OK;
}

/* Finished, says the index: then its end is known, and its file is opened when it is read. */
static bool known(struct seglog *log, struct segment *s)
{
    const struct seglog_segment *k = seglog_segment_in(log->conf.known, log->conf.known_n, s->id);
    char name[DISK_NAME_BYTES];
    uint64_t bytes = 0;

    if (k == NULL) return false;
    segment_name(s->id, name);
    if (disk_file_bytes(log->disk, name, &bytes) != RC_OK || bytes != k->bytes) {
        log->stats.damage_n++; /* cut, or not this one: it is searched */
        return false;
    }
    s->generation = k->generation;
    s->bytes = k->bytes;
    s->end = s->durable = k->end;
    s->sealed = true;
    return true;
}

/* Finds out where one ends. *ret_searched: by a search, it has no seal. */
static enum rc find_out(struct seglog *log, struct segment *s, struct window *w,
                        struct record_block *blocks, struct seg_position before, bool *ret_searched,
                        struct err *reterr)
{
    bool bad_head;
    enum rc rc;

    if (known(log, s)) {
        *ret_searched = false;
        return RC_OK;
    }
    rc = segment_load(log, s, reterr);
    if (rc == RC_RANGE) { /* no record fits there: as if the file were gone */
        log->stats.damage_n++;
        s->end = s->durable = SEGLOG_DATA_AT;
        *ret_searched = true;
        return RC_OK;
    }
    bad_head = rc == RC_CORRUPT;
    if (bad_head) rc = RC_OK;
    w->seg = s;
    w->n = 0;
    if (rc == RC_OK && s->sealed && s->end == SEGLOG_DATA_AT) {
        s->sealed = false; /* made ahead, never used: settle removes it */
        *ret_searched = false;
        return RC_OK;
    }
    if (rc == RC_OK && !s->sealed) {
        rc = segment_find_end(log, w, blocks, before, reterr);
    } else if (rc == RC_OK && *ret_searched) {
        rc = ask_first(log, w, blocks, before, reterr);
    }
    if (rc == RC_OK && bad_head) rc = head_mend(log, s, reterr);
    *ret_searched = !s->sealed;
    if (s->sealed) file_close(s); /* the others are sealed when all are known */
    return rc;
}

static void open_failed(struct seglog *log)
{
    for (uint32_t i = 0; i < log->segs_n; i++)
        file_close(log->segs[i]);
    segments_free(log);
    disk_buf_free(log->disk, log->create_page);
    free(log);
}

enum rc seglog_open(const struct seglog_conf *conf, struct seglog **ret_log, struct err *reterr)
{
    struct seglog *log = calloc(1, sizeof(*log));
    struct record_block *blocks = calloc(RECORD_BLOCKS_MAX, sizeof(*blocks));
    struct window w = {0};
    struct seg_position before = {0};
    bool searched = false; /* its end; not read from a seal */
    uint64_t *ids = NULL;
    uint32_t ids_n = 0;
    enum rc rc = RC_NOMEM;

    if (log == NULL || blocks == NULL) {
        free(log);
        (void)err_set(reterr, RC_NOMEM, "segment log");
        goto out;
    }
    log->conf = *conf;
    log->disk = conf->disk;
    log->slow = true; /* until it shows */
    if (log->conf.segment_bytes == 0) log->conf.segment_bytes = SEGLOG_SEGMENT_DEFAULT;
    if (log->conf.reserve_bytes == 0)
        log->conf.reserve_bytes = SEGLOG_RESERVE * log->conf.segment_bytes;
    header_cache_init(&log->headers, HEADER_CACHE_BYTES);
    list_init(&log->idle);
    list_init(&log->waiting);
    list_init(&log->placed);
    log->create_page = disk_buf_alloc(log->disk, DISK_ALIGN_BYTES);
    if (log->create_page == NULL) {
        rc = err_set(reterr, RC_NOMEM, "segment log: the disk's arena");
        goto fail;
    }
    if (log->conf.segment_bytes % DISK_ALIGN_BYTES != 0 ||
        log->conf.segment_bytes < SEGLOG_SEGMENT_BYTES_MIN) {
        rc = err_set(reterr, RC_INVAL, "a segment of %" PRIu64 " bytes", log->conf.segment_bytes);
        goto fail;
    }
    rc = disk_list(log->disk, drop_tmp, log, reterr);
    if (rc == RC_OK) rc = segment_ids(log, &ids, &ids_n, reterr);
    if (rc != RC_OK) goto fail;
    for (uint32_t i = 0; i < ids_n; i++) {
        struct segment *s = segment_add(log, ids[i]);
        uint64_t damage = log->stats.damage_n;

        rc = s == NULL ? err_set(reterr, RC_NOMEM, "segments")
                       : find_out(log, s, &w, blocks, before, &searched, reterr);
        if (rc != RC_OK) goto fail;
        s->damaged = log->stats.damage_n > damage;
        before = (struct seg_position){.segment_id = s->id, .offset = s->end};
    }
    rc = settle_all(log, reterr);
    if (rc != RC_OK) goto fail;
    log->conf.known = NULL; /* was borrowed */
    *ret_log = log;
    goto out;
fail:
    open_failed(log);
out:
    free(ids);
    free(blocks);
    free(w.p);
    return rc;
}

/* ---- replay ---- */
static enum rc replay_segment(struct seglog *log, struct window *w, uint64_t at,
                              struct record_block *blocks, const struct seglog_replay *r,
                              struct err *reterr)
{
    uint64_t end = w->seg->end, seq = at == SEGLOG_DATA_AT ? 1 : 0; /* 0: any */
    struct found f;
    enum rc rc;

    while (at < end) {
        const uint8_t *payload = NULL;
        struct seg_location loc;

        rc = segment_record(w, at, blocks, &f, reterr);
        if (rc == RC_OK && seq != 0 && f.h.sequence != seq) rc = RC_CORRUPT;
        if (rc == RC_CORRUPT) {
            rc = segment_resync(w, at, end, 0, seq, blocks, &f, reterr);
            log->stats.damage_n++;
            if (r->damage != NULL) r->damage(r->ctx, w->seg->id, at, rc == RC_OK ? f.at : end);
            if (rc == RC_NOTFOUND) return RC_OK;
        }
        if (rc != RC_OK) return rc;
        at = f.end;
        seq = f.h.sequence + 1;
        loc = (struct seg_location){.segment_id = w->seg->id,
                                    .generation = w->seg->generation,
                                    .offset = f.at,
                                    .header_bytes = f.header_bytes,
                                    .plain_bytes = f.h.plain_bytes};
        if (f.h.type == RECORD_LOG_ENTRY) {
            rc = f.h.plain_bytes <= SEGLOG_ENTRY_BYTES_MAX ? payload_check(w, &f, blocks, reterr)
                                                           : RC_CORRUPT;
            if (rc == RC_CORRUPT) {
                log->stats.damage_n++;
                if (r->damage != NULL) r->damage(r->ctx, w->seg->id, f.at, f.end);
                continue;
            }
            if (rc == RC_OK) {
                rc = segment_window(w, f.at + f.header_bytes, f.h.plain_bytes, &payload, reterr);
            }
            if (rc != RC_OK) return rc;
        }
        rc = r->record(r->ctx, &loc, &f.h, blocks, payload, reterr);
        if (rc != RC_OK) return rc;
    }
    return RC_OK;
}

enum rc seglog_replay(struct seglog *log, struct seg_position from, const struct seglog_replay *r,
                      struct err *reterr)
{
    struct record_block *blocks = calloc(RECORD_BLOCKS_MAX, sizeof(*blocks));
    struct window w = {0};
    enum rc rc = RC_OK;

    if (blocks == NULL) rc = err_set(reterr, RC_NOMEM, "replay");
    for (uint32_t i = 0; i < log->segs_n && rc == RC_OK; i++) {
        struct segment *s = log->segs[i];
        char name[DISK_NAME_BYTES];
        uint64_t bytes = 0;
        bool opened;

        if (s->id < from.segment_id || !s->sealed) continue;
        opened = s->file == NULL;
        segment_name(s->id, name);
        if (opened) rc = disk_file_open(log->disk, name, &s->file, &bytes, reterr);
        if (rc != RC_OK) break;
        w.seg = s;
        w.n = 0;
        rc = replay_segment(
            log, &w, s->id == from.segment_id ? MAX(from.offset, SEGLOG_DATA_AT) : SEGLOG_DATA_AT,
            blocks, r, reterr);
        if (opened) file_close(s);
    }
    free(blocks);
    free(w.p);
    return rc;
}
