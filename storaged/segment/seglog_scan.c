/* storaged/segment/seglog_scan.c - what recovery reads, and all that it need not look at: payloads,
 * padding, pages that only save time. A torn tail that recovery would cut off is no fault. */
#include "storaged/segment/seglog_scan.h"
#include "storaged/segment/seglog_priv.h"
#include <stdlib.h>
#include <string.h>

struct scanner {
    const struct seglog_scan *conf;
    struct seglog log; /* its list of segments, its page; nothing runs */
    struct window w;
    struct record_block *blocks;
};

static void fault(const struct scanner *x, uint64_t from, uint64_t until, const char *what)
{
    if (x->conf->on_fault != NULL) x->conf->on_fault(x->conf->ctx, x->w.seg->id, from, until, what);
}

static bool all_zero(const uint8_t *p, size_t n)
{
    return n == 0 || (p[0] == 0 && memcmp(p, p + 1, n - 1) == 0);
}

/* Blocks against their CRCs, and the zeros behind them. */
static void payload_scan(struct scanner *x, const struct found *f)
{
    uint32_t plain = f->h.plain_bytes;
    uint64_t from = f->at + f->header_bytes;
    struct err err;

    for (uint32_t i = 0; i < record_blocks(plain); i++) {
        uint32_t at = i * RECORD_BLOCK_BYTES, n = record_block_bytes(f->header_bytes, plain, i);
        uint32_t used = MIN(n, plain - at);
        const uint8_t *p;

        if (segment_window(&x->w, from + at, n, &p, &err) != RC_OK) {
            fault(x, from + at, from + at + n, "payload can not be read");
        } else if (record_block_check(plain, i, p, x->blocks[i].crc32c) != RC_OK) {
            fault(x, from + at, from + at + n, "payload block fails its CRC");
        } else if (!all_zero(p + used, n - used)) {
            fault(x, from + at, from + at + n, "padding is not zero");
        }
    }
}

static enum rc records_scan(struct scanner *x, struct segment *s)
{
    uint64_t at = SEGLOG_DATA_AT, seq = 1;
    bool whole = true;
    struct found f;
    enum rc rc;

    while (at < s->end) {
        struct seg_location loc;

        rc = segment_record(&x->w, at, x->blocks, &f, NULL);
        if (rc == RC_OK && (f.h.sequence != seq || f.end > s->end)) rc = RC_CORRUPT;
        if (rc == RC_CORRUPT || rc == RC_IO) {
            enum rc how = rc;

            whole = false;
            rc = segment_resync(&x->w, at, s->end, 0, seq, x->blocks, &f, NULL);
            if (rc == RC_OK && f.end > s->end) rc = RC_NOTFOUND;
            fault(x, at, rc == RC_OK ? f.at : s->end,
                  how == RC_IO ? "record can not be read" : "no valid record");
            if (rc == RC_NOTFOUND || rc == RC_IO) return RC_OK;
        }
        if (rc != RC_OK) return rc;
        at = f.end;
        seq = f.h.sequence + 1;
        s->prior = (struct seg_position){f.h.prior_segment_id, f.h.prior_end};
        if (x->conf->payloads) payload_scan(x, &f);
        loc = (struct seg_location){.segment_id = s->id,
                                    .generation = s->generation,
                                    .offset = f.at,
                                    .header_bytes = f.header_bytes,
                                    .plain_bytes = f.h.plain_bytes};
        if (x->conf->on_record != NULL) rc = x->conf->on_record(x->conf->ctx, &loc, &f.h);
        if (rc != RC_OK) return rc;
    }
    if (whole && s->sealed && s->sequence != seq)
        fault(x, DISK_ALIGN_BYTES, 2 * DISK_ALIGN_BYTES, "the seal counts other records");
    return RC_OK;
}

/* A seal that is not there is no fault: the end is searched. One that is no seal is. */
static void seal_scan(struct scanner *x, struct segment *s)
{
    uint8_t *page = x->log.create_page;

    if (s->sealed) return;
    if (disk_read_now(s->file, DISK_ALIGN_BYTES, page, DISK_ALIGN_BYTES, NULL) != RC_OK) {
        fault(x, DISK_ALIGN_BYTES, 2 * DISK_ALIGN_BYTES, "the seal can not be read");
    } else if (!all_zero(page, DISK_ALIGN_BYTES)) {
        fault(x, DISK_ALIGN_BYTES, 2 * DISK_ALIGN_BYTES,
              "the seal is bad, or the file was cut below it");
    }
}

static enum rc segment_scan(struct scanner *x, struct segment *s, struct seg_position before,
                            bool wanted)
{
    struct seglog_scan_segment info;
    struct err err = {0};
    enum rc rc;

    x->w.seg = s;
    x->w.n = 0;
    rc = segment_load(&x->log, s, &err);
    if (rc != RC_OK && rc != RC_NOMEM) {
        if (wanted) fault(x, 0, DISK_ALIGN_BYTES, err.msg);
        if (s->file == NULL || s->bytes < SEGLOG_DATA_AT) return RC_OK;
        rc = RC_OK;
    }
    if (rc == RC_OK && wanted) seal_scan(x, s);
    if (rc == RC_OK && !s->sealed) {
        rc = segment_find_end(&x->log, &x->w, x->blocks, before, &err);
        if (rc == RC_IO) {
            if (wanted) fault(x, SEGLOG_DATA_AT, s->bytes, "the end can not be found: read error");
            return RC_OK;
        }
    }
    if (rc != RC_OK || !wanted) return rc;
    info = (struct seglog_scan_segment){s->id, s->generation, s->bytes, s->end, s->sealed};
    if (x->conf->on_segment != NULL) rc = x->conf->on_segment(x->conf->ctx, &info);
    if (rc == RC_OK) rc = records_scan(x, s);
    if (s->end > SEGLOG_DATA_AT && s->prior.segment_id != 0 &&
        s->prior.segment_id == before.segment_id && s->prior.offset != before.offset) {
        fault(x, SEGLOG_DATA_AT, s->end, "records at the end of the segment before are missing");
    }
    return rc;
}

enum rc seglog_scan(struct disk *disk, const struct id128 *disk_id, const struct seglog_scan *scan,
                    struct seg_position *ret_end, struct err *reterr)
{
    struct scanner x = {.conf = scan, .log = {.disk = disk, .conf = {.disk_id = *disk_id}}};
    struct seg_position before = {0}, end = {0};
    uint64_t *ids = NULL;
    uint32_t ids_n = 0;
    enum rc rc = RC_NOMEM;

    list_init(&x.log.idle);
    x.log.create_page = disk_buf_alloc(disk, DISK_ALIGN_BYTES);
    x.blocks = calloc(RECORD_BLOCKS_MAX, sizeof(*x.blocks));
    if (x.log.create_page == NULL || x.blocks == NULL) {
        (void)err_set(reterr, RC_NOMEM, "reading the log");
    } else {
        rc = segment_ids(&x.log, &ids, &ids_n, reterr);
    }
    for (uint32_t i = 0; i < ids_n && rc == RC_OK; i++) {
        struct segment *s = segment_add(&x.log, ids[i]);

        if (s == NULL) {
            rc = err_set(reterr, RC_NOMEM, "segments");
            break;
        }
        rc = segment_scan(&x, s, before, scan->segment == 0 || scan->segment == s->id);
        before = (struct seg_position){.segment_id = s->id, .offset = s->end};
        if (s->end > SEGLOG_DATA_AT) end = before; /* the last was made ahead of need */
        disk_file_close(s->file);
        s->file = NULL;
    }
    if (rc == RC_OK) *ret_end = end;
    free(ids);
    segments_free(&x.log);
    disk_buf_free(disk, x.log.create_page);
    free(x.blocks);
    free(x.w.p);
    return rc;
}
