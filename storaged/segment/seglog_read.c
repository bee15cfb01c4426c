/* storaged/segment/seglog_read.c - reading records, checked, and stretches as they lie there. */
#include "common/base/crc32c.h"
#include "storaged/segment/seglog_priv.h"
#include <stdlib.h>
#include <string.h>

static bool small(const struct seg_location *l)
{
    return l->header_bytes == RECORD_SMALL_HEADER_BYTES;
}

/* Reads of a whole record go past the kept headers: theirs costs no request (the disk's queue joins
 * what lies side by side), is looked at where it lies, and would wash out those of others. */
static bool in_part(const struct seglog_read_priv *p)
{
    return p->n < record_blocks(p->loc.plain_bytes);
}

static void read_end(struct seglog_read *r, enum rc rc)
{
    struct record_block *blocks = r->blocks;

    disk_buf_free(r->priv.log->disk, r->priv.page);
    r->priv.log->reads_n--;
    r->priv.cb(r, rc); /* r may be gone now */
    free(blocks);
}

static void read_done(struct seglog_read *r)
{
    struct seglog_read_priv *p = &r->priv;
    const struct seg_location *l = &p->loc;
    enum rc rc = p->rc;

    if (rc == RC_RANGE) rc = err_set(&r->err, RC_CORRUPT, "the segment ends before the record");
    if (rc == RC_OK && p->page != NULL)
        rc = record_decode(p->page, ROUND_UP(l->header_bytes, DISK_ALIGN_BYTES), &r->header,
                           r->blocks, &r->err);
    if (rc == RC_OK && small(l)) memcpy(p->buf, p->page + l->header_bytes, l->plain_bytes);
    if (rc == RC_OK &&
        (r->header.segment_id != l->segment_id || r->header.segment_generation != l->generation ||
         r->header.plain_bytes != l->plain_bytes)) {
        rc = err_set(&r->err, RC_CORRUPT, "another record lies there");
    }
    for (uint32_t i = 0; rc == RC_OK && i < p->n; i++) {
        rc = record_block_check(l->plain_bytes, p->first + i,
                                p->buf + (size_t)i * RECORD_BLOCK_BYTES,
                                r->blocks[p->first + i].crc32c);
        if (rc != RC_OK) (void)err_set(&r->err, rc, "block %u fails its CRC", p->first + i);
    }
    if (rc == RC_OK && in_part(p)) header_cache_put(&p->log->headers, l, &r->header, r->blocks);
    if (rc == RC_CORRUPT) {
        header_cache_remove(&p->log->headers, l);
        (void)err_prefix(&r->err, "segment %llx at %llu", (unsigned long long)l->segment_id,
                         (unsigned long long)l->offset);
    }
    segment_unuse(p->seg);
    read_end(r, rc);
}

static void on_read(struct disk_req *req, enum rc rc)
{
    struct seglog_read *r = req->data;

    if (rc != RC_OK && r->priv.rc == RC_OK) {
        r->priv.rc = rc;
        r->err = req->err;
    }
    if (--r->priv.reads_left == 0) read_done(r);
}

static enum rc read_start(struct seglog_wait *w)
{
    struct seglog_read *r = CONTAINER_OF(w, struct seglog_read, priv.wait);
    struct seglog_read_priv *p = &r->priv;
    const struct seg_location *l = &p->loc;
    uint32_t begin = p->first * RECORD_BLOCK_BYTES;
    enum rc rc = RC_OK;

    p->reads_left = 0;
    p->head_req.data = p->body_req.data = r;
    if (p->page != NULL) { /* else its header is there already */
        rc = disk_read(p->seg->file, &p->head_req, l->offset, p->page,
                       ROUND_UP(l->header_bytes, DISK_ALIGN_BYTES), on_read);
        if (rc == RC_OK) {
            p->reads_left++;
        } else {
            r->err = p->head_req.err;
        }
    }
    if (rc == RC_OK && !small(l)) { /* of a small one the payload lies in that page */
        rc = disk_read(p->seg->file, &p->body_req, l->offset + l->header_bytes + begin, p->buf,
                       ROUND_UP((size_t)r->got_bytes, DISK_ALIGN_BYTES), on_read);
        if (rc == RC_OK) {
            p->reads_left++;
        } else {
            r->err = p->body_req.err;
        }
    }
    if (p->reads_left > 0) {
        p->rc = rc; /* told when the first is back */
        return RC_OK;
    }
    segment_unuse(p->seg);
    return rc;
}

static void read_failed(struct seglog_wait *w, enum rc rc)
{
    read_end(CONTAINER_OF(w, struct seglog_read, priv.wait), rc);
}

enum rc seglog_read(struct seglog *log, struct seglog_read *r, const struct seg_location *loc,
                    uint32_t first, uint32_t n, void *buf, size_t cap, seglog_read_cb cb)
{
    struct segment *s = segment_find(log, loc->segment_id);
    uint32_t total = record_blocks(loc->plain_bytes), begin, end;
    size_t bytes;
    enum rc rc;

    CHECK(!log->closing);
    if (s == NULL || s->generation != loc->generation) {
        return err_set(&r->err, RC_NOTFOUND, "no segment %llx here",
                       (unsigned long long)loc->segment_id);
    }
    if (first >= total || n > total - first) {
        return err_set(&r->err, RC_RANGE, "block %u + %u of %u", first, n, total);
    }
    if (n == 0) n = total - first;
    begin = first * RECORD_BLOCK_BYTES;
    end = MIN((first + n) * RECORD_BLOCK_BYTES, loc->plain_bytes);
    bytes = ROUND_UP((size_t)(end - begin), DISK_ALIGN_BYTES);
    /* locations come from the index: bytes from a disk */
    if (cap < bytes || loc->offset % DISK_ALIGN_BYTES != 0 ||
        !record_header_fits(loc->header_bytes, loc->plain_bytes)) {
        return err_set(&r->err, RC_INVAL, "a location or buffer that can not be");
    }
    if (log->reads_n >= SEGLOG_READS_MAX) return err_set(&r->err, RC_BUSY, "too many reads");
    /* of what may lie there: any header that fits into the pages that are read */
    r->blocks = calloc(ROUND_UP(loc->header_bytes, DISK_ALIGN_BYTES) / sizeof(*r->blocks),
                       sizeof(*r->blocks));
    if (r->blocks == NULL) return err_set(&r->err, RC_NOMEM, "read");
    r->got_bytes = end - begin;
    r->priv.log = log;
    r->priv.cb = cb;
    r->priv.loc = *loc;
    r->priv.first = first;
    r->priv.n = n;
    r->priv.buf = buf;
    r->priv.rc = RC_OK;
    r->priv.seg = s;
    r->priv.page = NULL;
    if (!in_part(&r->priv) || !header_cache_get(&log->headers, loc, &r->header, r->blocks)) {
        r->priv.page = disk_buf_alloc(log->disk, loc->header_bytes);
        if (r->priv.page == NULL) {
            free(r->blocks);
            return err_set(&r->err, RC_BUSY, "the disk's buffers are all in use");
        }
    }
    r->priv.wait = (struct seglog_wait){.err = &r->err, .start = read_start, .failed = read_failed};
    rc = segment_use(s, &r->priv.wait);
    if (rc != RC_OK) {
        disk_buf_free(log->disk, r->priv.page);
        free(r->blocks);
        return rc;
    }
    log->reads_n++;
    return RC_OK;
}

/* ---- raw ---- */
static void raw_done(struct seglog_raw *r, enum rc rc)
{
    r->priv.log->reads_n--;
    r->priv.cb(r, rc);
}

static void on_raw(struct disk_req *req, enum rc rc)
{
    struct seglog_raw *r = req->data;

    if (rc != RC_OK) r->err = req->err;
    segment_unuse(r->priv.seg);
    raw_done(r, rc);
}

static enum rc raw_start(struct seglog_wait *w)
{
    struct seglog_raw *r = CONTAINER_OF(w, struct seglog_raw, priv.wait);
    struct seglog_raw_priv *p = &r->priv;
    enum rc rc;

    p->req.data = r;
    rc = disk_read(p->seg->file, &p->req, p->at, p->buf, p->n, on_raw);
    if (rc == RC_OK) return rc;
    r->err = p->req.err;
    segment_unuse(p->seg);
    return rc;
}

static void raw_failed(struct seglog_wait *w, enum rc rc)
{
    raw_done(CONTAINER_OF(w, struct seglog_raw, priv.wait), rc);
}

enum rc seglog_read_raw(struct seglog *log, struct seglog_raw *r, uint64_t segment_id, uint64_t at,
                        void *buf, size_t n, seglog_raw_cb cb)
{
    struct segment *s = segment_find(log, segment_id);
    enum rc rc;

    CHECK(!log->closing);
    if (s == NULL) {
        return err_set(&r->err, RC_NOTFOUND, "no segment %llx here",
                       (unsigned long long)segment_id);
    }
    if (n == 0 || at > s->bytes || n > s->bytes - at) {
        return err_set(&r->err, RC_RANGE, "%zu bytes at %llu of a segment of %llu", n,
                       (unsigned long long)at, (unsigned long long)s->bytes);
    }
    if (log->reads_n >= SEGLOG_READS_MAX) return err_set(&r->err, RC_BUSY, "too many reads");
    r->priv.log = log;
    r->priv.seg = s;
    r->priv.cb = cb;
    r->priv.at = at;
    r->priv.buf = buf;
    r->priv.n = n;
    r->priv.wait = (struct seglog_wait){.err = &r->err, .start = raw_start, .failed = raw_failed};
    rc = segment_use(s, &r->priv.wait);
    if (rc == RC_OK) log->reads_n++;
    return rc;
}
