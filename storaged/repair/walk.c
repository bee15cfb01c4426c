/* storaged/repair/walk.c - reads windows of a segment and parses records in them. */
#include "storaged/repair/walk.h"
#include <stdlib.h>
#include <string.h>

#define LOOK_BYTES (128u << 10) /* of a window when payloads are passed over */

enum rc walk_init(struct walk *w, struct store *store, const struct seglog_segment *seg,
                  struct pace *pace, bool verify)
{
    *w = (struct walk){.store = store,
                       .seg = *seg,
                       .pace = pace,
                       .verify = verify,
                       .at = SEGLOG_DATA_AT,
                       .seq = 1};
    w->buf = aligned_alloc(DISK_ALIGN_BYTES, WALK_WINDOW_BYTES);
    w->blocks = calloc(RECORD_BLOCKS_MAX, sizeof(*w->blocks));
    return w->buf == NULL || w->blocks == NULL ? RC_NOMEM : RC_OK;
}

void walk_deinit(struct walk *w)
{
    free(w->buf);
    free(w->blocks);
}

/* ---- windows ---- */
static void on_raw(struct seglog_raw *r, enum rc rc)
{
    struct walk *w = r->data;

    w->rc = rc;
    fiber_event_set(&w->done);
}

static enum rc read_raw(struct walk *w, uint64_t at, uint8_t *p, size_t n, struct err *reterr)
{
    enum rc rc;

    for (;;) {
        w->raw.data = w;
        rc = seglog_read_raw(store_log(w->store), &w->raw, w->seg.id, at, p, n, on_raw);
        if (rc != RC_BUSY) break;
        fiber_sleep_ms(PACE_YIELD_MS);
    }
    if (rc == RC_OK) {
        fiber_event_wait(&w->done);
        rc = w->rc;
    }
    if (rc != RC_OK) *reterr = w->raw.err;
    return rc;
}

/* n <= WALK_WINDOW_BYTES, within the segment's records; there until the next call. Begins in the
 * middle of a page only where all is in that page. */
static enum rc window(struct walk *w, uint64_t at, size_t n, const uint8_t **ret,
                      struct err *reterr)
{
    uint32_t in_page = (uint32_t)(at % DISK_ALIGN_BYTES);
    size_t want;
    enum rc rc;

    if (at >= w->buf_at && at + n <= w->buf_at + w->buf_n) {
        *ret = w->buf + (at - w->buf_at);
        return RC_OK;
    }
    at -= in_page;
    n = ROUND_UP(n + in_page, (size_t)DISK_ALIGN_BYTES);
    want = (size_t)MIN(w->seg.end - at, w->verify ? WALK_WINDOW_BYTES : LOOK_BYTES);
    want = MAX(want, n);
    w->buf_n = 0;
    if (w->pace != NULL) pace_take(w->pace, want);
    rc = read_raw(w, at, w->buf, want, reterr);
    if (rc == RC_IO || rc == RC_RANGE) { /* page by page: one bad sector hides only itself */
        for (size_t k = 0; k < want; k += DISK_ALIGN_BYTES) {
            rc = read_raw(w, at + k, w->buf + k, DISK_ALIGN_BYTES, reterr);
            if (rc == RC_IO || rc == RC_RANGE) {
                memset(w->buf + k, 0xa5, DISK_ALIGN_BYTES); /* fails every check */
                w->unreadable_n++;
                rc = RC_OK;
            }
            if (rc != RC_OK) return rc;
        }
    }
    if (rc != RC_OK) return rc;
    w->buf_at = at;
    w->buf_n = want;
    w->read_bytes += want;
    *ret = w->buf + in_page;
    return RC_OK;
}

/* ---- records ---- */
/* RC_CORRUPT: no record of this segment begins there. */
static enum rc record_at(struct walk *w, uint64_t at, struct walk_record *ret, struct err *reterr)
{
    const uint8_t *p;
    uint32_t n = 0;
    enum rc rc;

    if (at + RECORD_ALIGN_BYTES > w->seg.end) return RC_CORRUPT;
    rc = window(w, at, RECORD_ALIGN_BYTES, &p, reterr);
    if (rc != RC_OK) return rc;
    if (record_peek(p, &n) != RC_OK || n > w->seg.end - at) return RC_CORRUPT;
    rc = window(w, at, MAX(n, RECORD_ALIGN_BYTES), &p, reterr);
    if (rc != RC_OK) return rc;
    if (record_decode(p, MAX(n, RECORD_ALIGN_BYTES), &ret->h, w->blocks, NULL) != RC_OK)
        return RC_CORRUPT;
    ret->loc = (struct seg_location){.segment_id = w->seg.id,
                                     .generation = w->seg.generation,
                                     .offset = at,
                                     .header_bytes = n,
                                     .plain_bytes = ret->h.plain_bytes};
    ret->end = at + record_bytes(n, ret->h.plain_bytes);
    if (ret->h.segment_id != w->seg.id || ret->h.segment_generation != w->seg.generation ||
        ret->h.flushed_upto > at || ret->end > w->seg.end)
        return RC_CORRUPT;
    return RC_OK;
}

static bool zeros(const uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (p[i] != 0) return false;
    return true;
}

static enum rc payload_check(struct walk *w, struct walk_record *r, struct err *reterr)
{
    uint32_t n = r->h.plain_bytes;

    for (uint32_t i = 0; i < record_blocks(n); i++) {
        uint32_t from = i * RECORD_BLOCK_BYTES, bytes = MIN(RECORD_BLOCK_BYTES, n - from);
        size_t padded = record_block_bytes(r->loc.header_bytes, n, i);
        const uint8_t *p;
        enum rc rc = window(w, r->loc.offset + r->loc.header_bytes + from, padded, &p, reterr);

        if (rc != RC_OK) return rc;
        if (record_block_check(n, i, p, w->blocks[i].crc32c) != RC_OK ||
            !zeros(p + bytes, padded - bytes))
            r->payload_bad = true;
    }
    return RC_OK;
}

enum rc walk_next(struct walk *w, struct walk_record *ret, struct err *reterr)
{
    uint64_t at = w->at;
    enum rc rc;

    if (at >= w->seg.end) return RC_RANGE;
    ret->payload_bad = false;
    rc = record_at(w, at, ret, reterr);
    if (rc == RC_OK && w->seq != 0 && ret->h.sequence != w->seq) rc = RC_CORRUPT;
    if (rc == RC_OK) {
        w->at = ret->end;
        w->seq = ret->h.sequence + 1;
        return w->verify ? payload_check(w, ret, reterr) : RC_OK;
    }
    if (rc != RC_CORRUPT) return rc;
    /* the next record that comes later in the sequence; a copy of an earlier one does not */
    do {
        at += RECORD_ALIGN_BYTES;
        if (at >= w->seg.end) break;
        rc = record_at(w, at, ret, reterr);
        if (rc == RC_OK && ret->h.sequence > w->seq) break;
    } while (rc == RC_OK || rc == RC_CORRUPT);
    if (rc != RC_OK && rc != RC_CORRUPT) return rc;
    ret->loc.offset = w->at;
    ret->end = MIN(at, w->seg.end);
    w->at = ret->end;
    if (rc == RC_OK && at < w->seg.end) w->seq = ret->h.sequence;
    return RC_CORRUPT;
}

enum rc walk_head(struct walk *w, struct err *reterr)
{
    enum rc rc = read_raw(w, 0, w->buf, SEGLOG_DATA_AT, reterr);

    w->buf_n = 0;
    if (rc == RC_IO || rc == RC_RANGE) return err_set(reterr, RC_CORRUPT, "unreadable");
    if (rc != RC_OK) return rc;
    return seglog_head_check(store_log(w->store), &w->seg, w->buf, reterr);
}
