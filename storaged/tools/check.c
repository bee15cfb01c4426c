/* storaged/tools/check.c - is a disk's folder as it was written? Segments from the first to the
 * last byte, RocksDB's files block by block, and each row of the index against the record it points
 * at.
 *
 * A record without a row is no fault: it was superseded, dropped, or lies behind the place from
 * which the next start replays. A row without its record is. */
#include "storaged/index/index.h"
#include "storaged/segment/seglog_scan.h"
#include "storaged/store/store_dir.h"
#include "storaged/tools/tools.h"
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

struct check {
    const struct tool_args *args;
    uint64_t faults_n, segments_n, chunks_n, entries_n, payload_bytes, rows_n, pending_n;
    struct seg_position replay_from;
    uint64_t *marks; /* of each record: where it lies and which it is; sorted before rows are met */
    size_t marks_n, marks_cap;
};

static void fault(struct check *c, const char *place, const char *what)
{
    c->faults_n++;
    if (c->args->json) {
        (void)printf("{\"fault\":");
        tool_json_text(what);
        (void)printf(",\"place\":");
        tool_json_text(place);
        (void)printf("}\n");
    } else {
        (void)printf("FAULT %s: %s\n", place, what);
    }
}

static void on_fault(void *ctx, uint64_t segment_id, uint64_t from, uint64_t until,
                     const char *what)
{
    char place[96];

    (void)snprintf(place, sizeof(place),
                   "segments/%016" PRIx64 ".seg from %" PRIu64 " until %" PRIu64, segment_id, from,
                   until);
    fault(ctx, place, what);
}

/* ---- marks: 64 bits of hash a record; equal for a row that points at it and for nothing else ----
 */
static uint64_t mix(uint64_t h, const void *p, size_t n)
{
    const uint8_t *b = p;

    for (size_t i = 0; i < n; i++)
        h = (h ^ b[i]) * 0x100000001b3ull; /* FNV-1a */
    return h;
}

static uint64_t mark_place(const struct seg_location *l)
{
    uint64_t v[4] = {l->segment_id, l->generation, l->offset,
                     (uint64_t)l->header_bytes << 32 | l->plain_bytes};

    return mix(0xcbf29ce484222325ull, v, sizeof(v));
}

static uint64_t mark_chunk(const struct seg_location *l, const struct index_chunk_id *id)
{
    uint64_t h = mix(mark_place(l), id->body.b, 16);

    return mix(mix(h, &id->index, sizeof(id->index)), id->seal_id.b, 16);
}

static uint64_t mark_entry(const struct seg_location *l, const struct index_group *g,
                           uint64_t epoch, uint64_t index)
{
    uint64_t v[5] = {g->pool, g->bits, g->prefix, epoch, index};

    return mix(mark_place(l), v, sizeof(v));
}

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return (x > y) - (x < y);
}

static bool marked(const struct check *c, uint64_t mark)
{
    return c->marks_n > 0 &&
           bsearch(&mark, c->marks, c->marks_n, sizeof(*c->marks), by_value) != NULL;
}

/* ---- segments ---- */
static enum rc on_segment(void *ctx, const struct seglog_scan_segment *s)
{
    struct check *c = ctx;

    (void)s;
    c->segments_n++;
    return RC_OK;
}

static enum rc on_record(void *ctx, const struct seg_location *loc, const struct record_header *h)
{
    struct check *c = ctx;
    bool chunk = h->type == RECORD_CHUNK;

    if (c->marks_n == c->marks_cap) {
        size_t cap = MAX(c->marks_cap * 2, (size_t)4096);
        uint64_t *more = realloc(c->marks, cap * sizeof(*more));

        if (more == NULL) return RC_NOMEM;
        c->marks = more;
        c->marks_cap = cap;
    }
    if (chunk) {
        struct index_chunk_id id = {h->body, h->index, h->seal_id};

        c->marks[c->marks_n++] = mark_chunk(loc, &id);
    } else {
        struct index_group g = {
            .pool = h->pool, .bits = (uint8_t)h->index, .prefix = h->placement_hash};

        c->marks[c->marks_n++] = mark_entry(loc, &g, h->epoch, h->log_index);
    }
    *(chunk ? &c->chunks_n : &c->entries_n) += 1;
    c->payload_bytes += h->plain_bytes;
    if (loc->segment_id > c->replay_from.segment_id ||
        (loc->segment_id == c->replay_from.segment_id && loc->offset >= c->replay_from.offset))
        c->pending_n++;
    return RC_OK;
}

/* ---- rows ---- */
static enum rc on_chunk_row(void *ctx, const struct index_chunk *row)
{
    struct check *c = ctx;
    char place[160], body[ID128_TEXT_BYTES];

    c->rows_n++;
    if (marked(c, mark_chunk(&row->loc, &row->id))) return RC_OK;
    (void)snprintf(
        place, sizeof(place), "index: chunk %s/%" PRIu32 ", segment %016" PRIx64 " at %" PRIu64,
        id128_text(&row->id.body, body), row->id.index, row->loc.segment_id, row->loc.offset);
    fault(c, place, "no such record lies there");
    return RC_OK;
}

static enum rc on_log_row(void *ctx, const struct index_group *g, const struct index_log_row *row)
{
    struct check *c = ctx;
    char place[160];

    c->rows_n++;
    if (marked(c, mark_entry(&row->loc, g, row->epoch, row->index))) return RC_OK;
    (void)snprintf(place, sizeof(place),
                   "index: entry %" PRIu64 " of group %016" PRIx64 "/%u, segment %016" PRIx64
                   " at %" PRIu64,
                   row->index, g->prefix, g->bits, row->loc.segment_id, row->loc.offset);
    fault(c, place, "no such record lies there");
    return RC_OK;
}

/* NULL: it does not open; that was told. */
static struct index *index_look(struct check *c, const char *path)
{
    struct index_conf conf = {.dir = path, .read_only = true};
    struct index *ix = NULL;
    struct err err = {0};
    char text[sizeof(err.msg) + 64];
    struct stat st;
    enum rc rc;

    if (stat(path, &st) != 0) {
        fault(c, "index", "there is none: the next start makes it again from the segments");
        return NULL;
    }
    rc = index_open(&conf, &ix, &err);
    if (rc == RC_CORRUPT) {
        conf.torn_wal = true;
        if (index_open(&conf, &ix, &(struct err){0}) == RC_OK) {
            fault(c, "index, its WAL (a power cut may leave that; rows behind are replayed)",
                  err.msg);
            return ix;
        }
    }
    if (rc == RC_OK) return ix;
    (void)snprintf(text, sizeof(text), "%s; 'storaged rebuild-index' makes its rows again",
                   err.msg);
    fault(c, "index", rc == RC_CORRUPT || rc == RC_IO ? text : err.msg);
    return NULL;
}

static void rows_check(struct check *c, struct index *ix)
{
    uint64_t rest_n = 0;
    struct err err = {0};

    if (c->marks_n > 0) qsort(c->marks, c->marks_n, sizeof(*c->marks), by_value);
    if (index_chunks_each(ix, on_chunk_row, c, &err) != RC_OK) fault(c, "index: chunks", err.msg);
    if (index_logs_each(ix, on_log_row, c, &err) != RC_OK) fault(c, "index: logs", err.msg);
    if (index_rest_check(ix, &rest_n, &err) != RC_OK) fault(c, "index: states", err.msg);
    c->rows_n += rest_n;
}

/* The iterators above read what holds rows; this, every block of every table. */
static void tables_check(struct check *c, struct index *ix)
{
    struct index_file *files = NULL;
    struct err err = {0};
    uint32_t n = 0;

    if (index_files(ix, &files, &n, &err) != RC_OK) fault(c, "index: tables", err.msg);
    for (uint32_t i = 0; i < n; i++) {
        if (index_file_check(ix, files[i].name, &err) != RC_OK) fault(c, files[i].name, err.msg);
    }
    free(files);
}

static void report(const struct check *c)
{
    (void)printf(c->args->json
                     ? "{\"faults\":%" PRIu64 ",\"segments\":%" PRIu64 ",\"chunks\":%" PRIu64
                       ",\"entries\":%" PRIu64 ",\"payload_bytes\":%" PRIu64
                       ",\"index_rows\":%" PRIu64 ",\"to_replay\":%" PRIu64 "}\n"
                     : "%" PRIu64 " faults; %" PRIu64 " segments, %" PRIu64 " chunks, %" PRIu64
                       " log entries, %" PRIu64 " bytes of payload, %" PRIu64
                       " rows of the index, %" PRIu64 " records to be replayed\n",
                 c->faults_n, c->segments_n, c->chunks_n, c->entries_n, c->payload_bytes, c->rows_n,
                 c->pending_n);
}

static enum rc look(struct check *c, struct tool_disk *d, struct err *reterr)
{
    struct seglog_scan scan = {.payloads = true,
                               .on_segment = on_segment,
                               .on_record = on_record,
                               .on_fault = on_fault,
                               .ctx = c};
    struct seg_position end = {0};
    char path[1024];
    struct index *ix;
    bool damaged = false;
    enum rc rc;

    (void)snprintf(path, sizeof(path), "%s/index", c->args->dir);
    ix = index_look(c, path);
    if (ix != NULL && index_lost(ix)) fault(c, "index", "it lost what was synced");
    if (ix != NULL && index_replay_from(ix, &c->replay_from, reterr) != RC_OK)
        fault(c, "index: replay position", reterr->msg);
    rc = seglog_scan(d->disk, &d->id, &scan, &end, reterr);
    if (rc == RC_OK) rc = store_dir_damaged(c->args->dir, &damaged, reterr);
    if (rc == RC_OK && damaged) fault(c, "damaged", "a start noted losses; the file names them");
    if (rc == RC_OK &&
        (end.segment_id < c->replay_from.segment_id ||
         (end.segment_id == c->replay_from.segment_id && end.offset < c->replay_from.offset)))
        fault(c, "segments", "they end before a place whose rows the index has");
    if (rc == RC_OK && ix != NULL) {
        rows_check(c, ix);
        tables_check(c, ix);
    }
    index_close(ix);
    return rc;
}

int tool_check(const struct tool_args *args)
{
    struct check c = {.args = args};
    struct tool_disk d;
    struct err err = {0};
    enum rc rc = tool_disk_open(args->dir, &d, &err);

    if (rc == RC_CORRUPT) {
        fault(&c, "disk.id", err.msg);
        rc = RC_OK;
    } else if (rc == RC_OK) {
        rc = look(&c, &d, &err);
    }
    if (rc == RC_OK) report(&c);
    if (rc == RC_OK || d.lock_fd >= 0) tool_disk_close(&d);
    free(c.marks);
    if (rc == RC_OK) return c.faults_n == 0 ? TOOL_OK : TOOL_FAULTS;
    (void)fprintf(stderr, "storaged check: %s\n", err.msg);
    return TOOL_REFUSED;
}
