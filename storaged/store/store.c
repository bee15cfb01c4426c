/* storaged/store/store.c - from "durable in the log" to "found in the index".
 *
 * What the log tells durable waits in `logged`, in the log's order. One batch at a time goes to a
 * worker thread, which writes its rows and, in the same RocksDB batch, the place behind its last
 * record. So the replay position never passes a record without a row; a crash between log and index
 * loses rows only, and the next open replays them. Failures pass through the same queue, so that
 * callbacks keep the order of the calls.
 *
 * An index that finds no room writes the same batch again, until somebody makes room; meanwhile
 * nothing is appended. One that fails to write takes the disk out: its log goes on being readable.
 */
#include "storaged/store/store.h"
#include "storaged/store/store_priv.h"
#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/fiber/worker.h"
#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <uv.h>

#define ROOM_PAUSE_MS 100u
/* Of the log: their rows fit into a WAL of STORE_SPARE_BYTES (a record is at least a page, its row
 * some 250 bytes). */
#define REPLAY_SMALL_BYTES (8 * STORE_SPARE_BYTES)
/* The records that one flush made durable get their rows in several batches, not in one: the first
 * of them are told, and the next bytes are written, while rows of the others are made (64 KiB
 * chunks, 128 under way: 20 % more a second). Of many that wait an eighth, so that small ones
 * share the cost of a batch. */
#define BATCH_ROWS_MIN 16u
#define BATCH_PART     8u
#define FACTS_MAX      16u /* segments that one batch finishes; more are found out at the next start */

struct store {
    uv_loop_t *loop;
    char *dir;
    struct id128 disk_id;
    int lock_fd;
    struct disk *disk;
    struct seglog *log;
    struct index *index;
    struct list logged; /* appends that the log is done with */
    uint32_t logged_n;
    struct list writing;                 /* the worker's, while working */
    struct seg_position upto, work_upto; /* behind the last record with a row; the worker's */
    struct seglog_segment facts[FACTS_MAX];
    uint32_t facts_n;
    uint32_t appends_n; /* accepted, callback not fired yet */
    uint64_t batch_at_us, batch_rows, batches_n, rows_n, batch_rows_max, batches_us;
    bool working;
    struct worker *worker;
    struct worker_job batch;
    uv_timer_t again;    /* active: the batch found no room for its rows */
    uv_work_t work;      /* closing the index */
    struct err work_err; /* the worker's answer; RC_OK = written */
    struct err failed;   /* the index's: nothing is appended any more */
    uint64_t replayed_n;
    struct seglog_segment *known; /* while it opens: what the index knows of segments */
    uint32_t known_n;
    char *index_dir;
    uint64_t measured_ms;
    uint64_t others_bytes, ballast_bytes; /* 0: in memory */
    bool ballast, spares;                 /* they are there */
    bool tight;                           /* it opens on a full file system */
    uint64_t ballast_ms;                  /* when it was last tried to make it */
    bool damaged;
    bool hasty; /* waits for room no more */
    bool closing, log_closed;
    void (*close_cb)(void *data);
    void *close_data;
};

/* ---- room ---- */
/* Without a ballast the index takes no rows: the next start might have no room to write them to
 * tables. */
static void room_keep(struct store *s)
{
    bool lacks = s->ballast_bytes > 0 && !s->ballast;

    index_room_keep(s->index, lacks ? UINT64_MAX : s->others_bytes / STORE_INDEX_ROOM);
}

/* A ballast that a start gave back, as soon as what it leaves is enough to write. What makes them
 * fail although there is room (a file system that knows no fallocate) is no reason to refuse. */
static void ballast_keep(struct store *s)
{
    uint64_t now = clock_boot_ms(), total = 0, left = 0;

    if (s->ballast_bytes == 0 || (s->ballast && s->spares)) return;
    if (s->ballast_ms != 0 && now < s->ballast_ms + ROOM_PAUSE_MS) return;
    s->ballast_ms = now;
    if (!s->spares) s->spares = store_spares_make(s->dir, STORE_MANIFEST_BYTES(s->others_bytes));
    if (s->ballast || disk_space(s->disk, &total, &left) != RC_OK ||
        left < s->ballast_bytes + s->others_bytes / STORE_INDEX_ROOM)
        return;
    s->ballast = true;
    if (!store_ballast_make(s->dir, s->ballast_bytes)) log_warn("no_ballast", "dir=%s", s->dir);
    room_keep(s);
}

/* ---- rows ---- */
/* Of a log entry `index` holds the group's prefix bits and the placement hash its prefix: so that
 * the record alone gives the row. */
static enum rc row_add(struct index_rows *rows, const struct seg_location *loc,
                       const struct record_header *h, bool rebuilding, struct err *reterr)
{
    /* a rebuilt index has no row for a source that is gone: there a copy is as good as any */
    const struct record_source *from =
        h->moved_from.segment_id == 0 || rebuilding ? NULL : &h->moved_from;

    if (h->type == RECORD_CHUNK) {
        struct index_chunk c = {.id = {.body = h->body, .index = h->index, .seal_id = h->seal_id},
                                .loc = *loc,
                                .pool = h->pool,
                                .placement_hash = h->placement_hash,
                                .owner_hash = h->owner_hash,
                                .upload_id = h->upload_id};

        memcpy(c.plain_digest, h->plain_digest, sizeof(c.plain_digest));
        return index_rows_chunk(rows, &c, from, reterr);
    } else {
        struct index_group g = {
            .pool = h->pool, .bits = (uint8_t)h->index, .prefix = h->placement_hash};
        struct index_log_row row = {.epoch = h->epoch, .index = h->log_index, .loc = *loc};

        return index_rows_log(rows, &g, &row, from, reterr);
    }
}

static void batch_work(struct worker_job *job)
{
    struct store *s = CONTAINER_OF(job, struct store, batch);
    struct seg_position end = {0};
    struct index_rows *rows = NULL;
    uint32_t n = 0;
    enum rc rc = index_rows_new(s->index, &rows);

    s->work_err.rc = RC_OK;
    if (rc != RC_OK) (void)err_set(&s->work_err, rc, "rows: %s", rc_text(rc));
    LIST_FOREACH(it, &s->writing)
    {
        struct store_append *a = CONTAINER_OF(it, struct store_append, priv.link);

        if (rc != RC_OK || a->priv.rc != RC_OK) continue;
        rc = row_add(rows, &a->loc, &a->priv.header, /* rebuilding= */ false, &s->work_err);
        end = a->priv.log.end;
        n++;
    }
    for (uint32_t i = 0; rows != NULL && i < s->facts_n; i++)
        index_rows_segment(rows, &s->facts[i]);
    s->work_upto = end;
    if (rc == RC_OK && n > 0) {
        rc = index_rows_commit(rows, end, &s->work_err);
    } else {
        index_rows_free(rows);
    }
    s->work_err.rc = rc;
}

static void batch_next(struct store *s);
static void close_step(struct store *s);

static void batch_again(uv_timer_t *t)
{
    struct store *s = t->data;

    ballast_keep(s);
    worker_queue(s->worker, &s->batch);
}

static void batch_after(struct worker_job *job)
{
    struct store *s = CONTAINER_OF(job, struct store, batch);
    struct list done;

    if (s->work_err.rc == RC_FULL && !s->hasty) { /* nothing was written */
        CHECK(uv_timer_start(&s->again, batch_again, ROOM_PAUSE_MS, 0) == 0);
        return;
    }
    s->working = false;
    if (s->work_err.rc == RC_FULL && s->failed.rc == RC_OK) { /* the next start replays them */
        (void)err_set(&s->failed, RC_CANCELED, "%s", s->work_err.msg);
    } else if (s->work_err.rc != RC_OK && s->failed.rc == RC_OK) {
        (void)err_set(&s->failed, RC_IO, "%s", s->work_err.msg);
        disk_fail(s->disk, s->work_err.msg);
    }
    if (s->work_err.rc == RC_OK && s->work_upto.segment_id != 0) s->upto = s->work_upto;
    s->batches_n++;
    s->rows_n += s->batch_rows;
    s->batch_rows_max = MAX(s->batch_rows_max, s->batch_rows);
    s->batches_us += clock_boot_us() - s->batch_at_us;
    list_init(&done);
    LIST_FOREACH_SAFE(it, &s->writing)
    {
        struct store_append *a = CONTAINER_OF(it, struct store_append, priv.link);

        list_remove(it);
        list_push_back(&done, it);
        if (a->priv.rc == RC_OK && s->failed.rc != RC_OK) {
            a->priv.rc = s->failed.rc;
            a->err = s->failed;
        }
    }
    batch_next(s); /* the worker writes while callbacks run */
    while (!list_empty(&done)) {
        struct store_append *a = CONTAINER_OF(done.next, struct store_append, priv.link);

        list_remove(&a->priv.link);
        s->appends_n--;
        a->priv.cb(a, a->priv.rc);
    }
    close_step(s);
}

/* The segments that this batch leaves behind: all their records have rows with it. Of the last
 * batches of a store that closes, behind the log's end, the next start adds them (facts_all). */
static void facts_find(struct store *s)
{
    uint64_t last = 0;
    uint32_t n;

    LIST_FOREACH(it, &s->writing)
    {
        const struct store_append *a = CONTAINER_OF(it, struct store_append, priv.link);

        if (a->priv.rc == RC_OK) last = a->priv.log.end.segment_id;
    }
    s->facts_n = 0;
    if (s->log == NULL || last <= s->upto.segment_id) return;
    n = seglog_segments(s->log, s->upto.segment_id, s->facts, FACTS_MAX);
    while (s->facts_n < n && s->facts[s->facts_n].id < last)
        s->facts_n++;
}

static void batch_next(struct store *s)
{
    uint32_t max = MAX(BATCH_ROWS_MIN, s->logged_n / BATCH_PART), n = 0;

    if (s->working || list_empty(&s->logged)) return;
    for (; n < max && !list_empty(&s->logged); n++) {
        struct list *it = s->logged.next;
        struct store_append *a = CONTAINER_OF(it, struct store_append, priv.link);

        list_remove(it);
        list_push_back(&s->writing, it);
        if (s->failed.rc != RC_OK && a->priv.rc == RC_OK) { /* a row may be missing before it */
            a->priv.rc = s->failed.rc;
            a->err = s->failed;
        }
    }
    s->logged_n -= n;
    facts_find(s);
    s->batch_rows = n;
    s->batch_at_us = clock_boot_us();
    s->working = true;
    s->batch = (struct worker_job){.fn = batch_work, .done = batch_after};
    worker_queue(s->worker, &s->batch);
}

/* ---- appending ---- */
static void on_logged(struct seglog_append *l, enum rc rc)
{
    struct store_append *a = l->data;
    struct store *s = a->priv.store;

    a->priv.rc = rc;
    if (rc == RC_OK) {
        a->loc = l->loc;
    } else {
        a->err = l->err;
    }
    list_push_back(&s->logged, &a->priv.link);
    s->logged_n++;
    batch_next(s);
}

static enum rc append_begin(struct store *s, struct store_append *a, store_append_cb cb)
{
    if (s->closing) return err_set(&a->err, RC_CANCELED, "the disk is being closed");
    if (s->failed.rc != RC_OK) {
        a->err = s->failed;
        return s->failed.rc;
    }
    ballast_keep(s);
    if (uv_is_active((uv_handle_t *)&s->again)) {
        return err_set(&a->err, RC_FULL, "the file system of the disk is full");
    }
    if (s->appends_n >= STORE_APPENDS_MAX) {
        return err_set(&a->err, RC_BUSY, "%u records wait for the disk", s->appends_n);
    }
    a->err.rc = RC_OK;
    a->priv.store = s;
    a->priv.cb = cb;
    a->priv.log.data = a;
    return RC_OK;
}

static enum rc append_end(struct store *s, struct store_append *a, enum rc rc)
{
    if (rc == RC_OK) {
        s->appends_n++;
    } else {
        a->err = a->priv.log.err;
    }
    return rc;
}

enum rc store_chunk_write(struct store *s, struct store_append *a, const struct store_chunk *c,
                          store_append_cb cb)
{
    struct record_header *h = &a->priv.header;
    enum rc rc = append_begin(s, a, cb);

    if (rc != RC_OK) return rc;
    *h = (struct record_header){.type = RECORD_CHUNK,
                                .cipher_suite = 1,
                                .pool = c->pool,
                                .placement_hash = c->placement_hash,
                                .owner_hash = c->owner_hash,
                                .upload_id = c->upload_id,
                                .body = c->id.body,
                                .index = c->id.index,
                                .seal_id = c->id.seal_id,
                                .plain_bytes = c->plain_bytes,
                                .config = c->config,
                                .epoch = c->epoch};
    memcpy(h->plain_digest, c->plain_digest, sizeof(h->plain_digest));
    a->priv.log.urgent = c->urgent;
    rc = seglog_append_chunk(s->log, &a->priv.log, h, c->blocks, c->crc_known, c->payload,
                             on_logged);
    return append_end(s, a, rc);
}

enum rc store_move(struct store *s, struct store_append *a, const struct record_header *h,
                   struct record_block *blocks, uint8_t *payload, store_append_cb cb)
{
    enum rc rc = append_begin(s, a, cb);

    CHECK(h->moved_from.segment_id != 0);
    if (rc != RC_OK) return rc;
    a->priv.header = *h;
    a->priv.log.urgent = true;
    if (h->type == RECORD_CHUNK) {
        rc = seglog_append_chunk(s->log, &a->priv.log, h, blocks, /* crc_known= */ true, payload,
                                 on_logged);
    } else {
        rc = seglog_append_entry(s->log, &a->priv.log, h, (struct slice){payload, h->plain_bytes},
                                 on_logged);
    }
    return append_end(s, a, rc);
}

enum rc store_log_append(struct store *s, struct store_append *a, const struct index_group *g,
                         uint64_t config, uint64_t epoch, uint64_t index, struct slice entry,
                         store_append_cb cb)
{
    struct record_header *h = &a->priv.header;
    enum rc rc = append_begin(s, a, cb);

    if (rc != RC_OK) return rc;
    *h = (struct record_header){.type = RECORD_LOG_ENTRY,
                                .pool = g->pool,
                                .placement_hash = g->prefix,
                                .index = g->bits,
                                .config = config,
                                .epoch = epoch,
                                .log_index = index};
    rc = seglog_append_entry(s->log, &a->priv.log, h, entry, on_logged);
    return append_end(s, a, rc);
}

enum rc store_read(struct store *s, struct seglog_read *r, const struct seg_location *loc,
                   uint32_t first, uint32_t n, void *buf, size_t cap, seglog_read_cb cb)
{
    if (s->closing) return err_set(&r->err, RC_CANCELED, "the disk is being closed");
    return seglog_read(s->log, r, loc, first, n, buf, cap, cb);
}

void *store_buf_alloc(struct store *s, size_t bytes)
{
    return disk_buf_alloc(s->disk, bytes);
}

void store_buf_free(struct store *s, void *p)
{
    disk_buf_free(s->disk, p);
}

/* ---- closing: log, then rows, then the disk, then the index on a worker ---- */
static void store_free(struct store *s)
{
    worker_close(s->worker);
    if (s->lock_fd >= 0) (void)close(s->lock_fd); /* nothing was written through it */
    free(s->dir);
    free(s->index_dir);
    free(s);
}

static void index_close_work(uv_work_t *w)
{
    struct store *s = w->data;

    index_close(s->index);
}

static void index_close_after(uv_work_t *w, int status)
{
    struct store *s = w->data;
    void (*cb)(void *) = s->close_cb;
    void *data = s->close_data;

    CHECK(status == 0);
    store_free(s);
    cb(data);
}

static void on_again_closed(uv_handle_t *h)
{
    struct store *s = h->data;

    s->work.data = s;
    CHECK(uv_queue_work(s->loop, &s->work, index_close_work, index_close_after) == 0);
}

static void on_disk_closed(void *data)
{
    struct store *s = data;

    uv_close((uv_handle_t *)&s->again, on_again_closed);
}

static void close_step(struct store *s)
{
    if (!s->log_closed || s->working || s->appends_n > 0) return;
    s->log_closed = false; /* once */
    disk_close(s->disk, on_disk_closed, s);
}

static void on_log_closed(void *data)
{
    struct store *s = data;

    s->log = NULL; /* rows of what it had flushed may still be to be written */
    s->log_closed = true;
    close_step(s);
}

void store_closing(struct store *s)
{
    s->hasty = true;
    if (!uv_is_active((uv_handle_t *)&s->again)) return;
    CHECK(uv_timer_stop(&s->again) == 0);
    batch_again(&s->again); /* a last time */
}

void store_close(struct store *s, void (*cb)(void *data), void *data)
{
    CHECK(!s->closing);
    s->closing = true;
    s->close_cb = cb;
    s->close_data = data;
    store_closing(s);
    seglog_close(s->log, on_log_closed, s);
}

/* Of the index's WAL. */
static uint64_t wal_bytes(const char *index_dir)
{
    DIR *d = opendir(index_dir);
    uint64_t bytes = 0;
    struct dirent *e;
    struct stat st;

    if (d == NULL) return 0;
    while ((e = readdir(d)) != NULL) {
        size_t n = strlen(e->d_name);

        if (n > 4 && strcmp(e->d_name + n - 4, ".log") == 0 &&
            fstatat(dirfd(d), e->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0)
            bytes += (uint64_t)st.st_size;
    }
    (void)closedir(d);
    return bytes;
}

/* It gives room to write rows, once: only a start that has some to write takes it. */
static void ballast_give(struct store *s)
{
    if (!s->tight) return;
    store_ballast_drop(s->dir);
    s->ballast = false;
}

/* Before the index is opened, which writes. */
static void ballast_begin(struct store *s, const struct store_conf *conf, const char *index_dir,
                          const char *spare_dir, struct index_conf *ic)
{
    uint64_t cache = conf->cache_bytes != 0 ? conf->cache_bytes : INDEX_CACHE_DEFAULT;
    uint64_t total = 0, left = 0;

    if (conf->engine == DISK_MEMORY || disk_space(s->disk, &total, &left) != RC_OK) return;
    s->others_bytes = STORE_OTHERS_BYTES(cache, total);
    s->ballast_bytes = STORE_BALLAST_BYTES(cache, s->others_bytes);
    s->ballast = store_ballast_there(s->dir, s->ballast_bytes);
    s->tight = left < s->ballast_bytes;
    if (!s->tight) return;
    ic->spares = spare_dir;
    if (wal_bytes(index_dir) > STORE_SPARE_BYTES || !store_spares_enough(s->dir)) ballast_give(s);
}

/* What the index takes of the file system, at most once a second: a few hundred files at most,
 * their inodes are in memory. */
static void index_measure(struct store *s)
{
    uint64_t now = clock_boot_ms(), used = 0;
    struct dirent *e;
    struct stat st;
    DIR *d;

    if (s->measured_ms != 0 && now < s->measured_ms + 1000) return;
    s->measured_ms = now;
    d = opendir(s->index_dir);
    if (d == NULL) return;
    while ((e = readdir(d)) != NULL) {
        if (fstatat(dirfd(d), e->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode))
            used += (uint64_t)st.st_blocks * 512;
    }
    (void)closedir(d);
    seglog_others_used(s->log, used);
}

/* ---- opening ---- */
/* What the index knows of segments is believed: it must be this disk's. */
static enum rc index_owner(struct store *s, struct err *reterr)
{
    struct id128 id;
    size_t n = 0;
    enum rc rc = index_note_get(s->index, "disk", id.b, sizeof(id.b), &n, reterr);

    if (rc == RC_NOTFOUND)
        return index_note_put(s->index, "disk", (struct slice){s->disk_id.b, 16}, reterr);
    if (rc == RC_OK && (n != sizeof(id.b) || !id128_eq(&id, &s->disk_id)))
        rc = err_set(reterr, RC_CORRUPT,
                     "'%s/index' has another disk id than disk.id: put the right one back", s->dir);
    return rc;
}

static enum rc known_load(struct store *s, struct err *reterr)
{
    struct index_space *all = NULL;
    uint32_t n = 0;
    enum rc rc = index_space_list(s->index, &all, &n, reterr);

    if (rc != RC_OK) return rc;
    s->known = calloc(MAX(n, 1u), sizeof(*s->known));
    if (s->known == NULL) rc = err_set(reterr, RC_NOMEM, "segments");
    for (uint32_t i = 0; i < n && rc == RC_OK; i++)
        if (all[i].seg.bytes > 0) s->known[s->known_n++] = all[i].seg;
    free(all);
    return rc;
}

static bool known(const struct store *s, const struct seglog_segment *f)
{
    const struct seglog_segment *k = seglog_segment_in(s->known, s->known_n, f->id);

    return k != NULL && k->bytes == f->bytes && k->end == f->end;
}

struct replay {
    struct store *s;
    struct index_rows *rows;
    uint32_t rows_n;
    bool rebuilding;
    struct err *reterr;
    enum rc rc;
};

static bool position_before(struct seg_position a, struct seg_position b)
{
    return a.segment_id != b.segment_id ? a.segment_id < b.segment_id : a.offset < b.offset;
}

/* Before a replay position passes it: a crash must not forget it. */
static enum rc damage_note(struct store *s, uint64_t segment, uint64_t from, uint64_t until,
                           struct err *reterr)
{
    char line[128];

    s->damaged = true;
    (void)snprintf(line, sizeof(line),
                   "segment %016" PRIx64 " from %" PRIu64 " until %" PRIu64 "\n", segment, from,
                   until);
    return store_dir_damage_note(s->dir, line, reterr);
}

static void on_damage(void *ctx, uint64_t segment_id, uint64_t from, uint64_t until)
{
    struct replay *r = ctx;

    if (r->rc == RC_OK) r->rc = damage_note(r->s, segment_id, from, until, r->reterr);
}

static enum rc on_record(void *ctx, const struct seg_location *loc, const struct record_header *h,
                         const struct record_block *blocks, const uint8_t *payload,
                         struct err *reterr)
{
    struct replay *r = ctx;
    enum rc rc = r->rc;

    (void)blocks;
    (void)payload;
    if (rc != RC_OK) return rc; /* the damage before it could not be noted */
    if (r->rows == NULL) {
        rc = index_rows_new(r->s->index, &r->rows);
        if (rc != RC_OK) return err_set(reterr, rc, "replay: %s", rc_text(rc));
    }
    rc = row_add(r->rows, loc, h, r->rebuilding, reterr);
    if (rc != RC_OK) return rc;
    r->s->replayed_n++;
    if (++r->rows_n == STORE_ROWS_MAX) {
        struct seg_position end = {.segment_id = loc->segment_id,
                                   .offset = loc->offset +
                                             record_bytes(loc->header_bytes, loc->plain_bytes)};
        struct index_rows *rows = r->rows;

        r->rows = NULL;
        r->rows_n = 0;
        rc = index_rows_commit(rows, end, reterr);
    }
    return rc;
}

/* After a start all segments are finished. How many of them the index does not know as such yet;
 * rows: NULL to count only. */
static uint32_t facts_all(struct store *s, struct index_rows *rows)
{
    struct seglog_segment f[64];
    uint64_t from = 0;
    uint32_t n, new_n = 0;

    while ((n = seglog_segments(s->log, from, f, ARRAY_N(f))) > 0) {
        for (uint32_t i = 0; i < n; i++) {
            if (known(s, &f[i])) continue;
            if (rows != NULL) index_rows_segment(rows, &f[i]);
            new_n++;
        }
        from = f[n - 1].id + 1;
    }
    return new_n;
}

static const char REBUILD_NOTE[] = "rebuild";

static enum rc rebuild_mark(struct store *s, bool on, struct err *reterr)
{
    const uint8_t v = on;

    return index_note_put(s->index, REBUILD_NOTE, (struct slice){&v, 1}, reterr);
}

static enum rc rebuild_marked(struct store *s, bool *ret, struct err *reterr)
{
    uint8_t v = 0;
    size_t n = 0;
    enum rc rc = index_note_get(s->index, REBUILD_NOTE, &v, 1, &n, reterr);

    *ret = rc == RC_OK && v != 0;
    return rc == RC_NOTFOUND ? RC_OK : rc;
}

/* ---- segments that rows point to and that are not there ---- */
struct missing {
    struct store *s;
    struct err *reterr;
};

static bool there(const struct store *s, uint64_t segment_id)
{
    struct seglog_segment f;

    return seglog_segments(s->log, segment_id, &f, 1) == 1 && f.id == segment_id;
}

/* A row without bytes would pass for a held chunk. */
static enum rc missing_drop(void *ctx, const struct index_ref *ref)
{
    struct missing *m = ctx;

    if (there(m->s, ref->loc.segment_id)) return RC_OK;
    if (ref->quarantined) return index_bad_clear(m->s->index, &ref->chunk.id, m->reterr);
    if (ref->chunk_row) return index_chunk_drop(m->s->index, &ref->chunk.id, &ref->loc, m->reterr);
    return index_log_drop(m->s->index, &ref->group, &ref->log, m->reterr);
}

static enum rc missing_find(struct store *s, struct err *reterr)
{
    struct missing m = {s, reterr};
    struct index_space *all = NULL;
    uint32_t n = 0;
    bool lost = false;
    enum rc rc = index_space_list(s->index, &all, &n, reterr);

    for (uint32_t i = 0; i < n && rc == RC_OK; i++) {
        if (there(s, all[i].seg.id)) continue;
        if (all[i].live_bytes > 0) {
            rc = damage_note(s, all[i].seg.id, 0, all[i].seg.end, reterr);
            lost = true;
        } else { /* given back; that was told last */
            rc = index_space_forget(s->index, all[i].seg.id, reterr);
        }
    }
    free(all);
    return rc == RC_OK && lost ? index_refs(s->index, missing_drop, &m, reterr) : rc;
}

static enum rc replay(struct store *s, struct err *reterr)
{
    struct seg_position from, end = seglog_durable(s->log);
    struct replay r = {.s = s, .reterr = reterr};
    struct seglog_replay rp = {.record = on_record, .damage = on_damage, .ctx = &r};
    struct seglog_stats st;
    enum rc rc = index_replay_from(s->index, &from, reterr);

    if (rc != RC_OK) return rc;
    seglog_stats(s->log, &st);
    if (st.damage_n > 0) rc = damage_note(s, 0, 0, 0, reterr); /* found in search of an end */
    if (rc == RC_OK && index_lost(s->index)) { /* rows are replayed, promises are not */
        rc = store_dir_damage_note(s->dir, "the index lost what was synced\n", reterr);
        s->damaged = true;
    }
    /* Rows are written for durable records only: the log lost what it had flushed. */
    if (rc == RC_OK && from.segment_id != 0 && position_before(end, from)) {
        rc = damage_note(s, from.segment_id, end.segment_id == from.segment_id ? end.offset : 0,
                         from.offset, reterr);
    }
    if (rc == RC_OK) rc = missing_find(s, reterr);
    /* A new index beside a log that is not: what the replicas had promised went with the old one.
     */
    if (rc == RC_OK && from.segment_id == 0 && from.offset == 0 && end.segment_id != 0) {
        rc = store_dir_damage_note(s->dir, "the index was lost and made again\n", reterr);
        s->damaged = true;
        if (rc == RC_OK) rc = rebuild_mark(s, true, reterr);
        r.rebuilding = true;
    } else if (rc == RC_OK) { /* a rebuild that did not come to its end goes on as one */
        rc = rebuild_marked(s, &r.rebuilding, reterr);
    }
    if (end.segment_id != from.segment_id || end.offset > from.offset + REPLAY_SMALL_BYTES)
        ballast_give(s);
    if (rc == RC_OK) rc = seglog_replay(s->log, from, &rp, reterr);
    if (rc == RC_OK) rc = r.rc;
    if (end.segment_id == 0) end.offset = SEGLOG_DATA_AT; /* never zero: that is a lost index */
    s->upto = end;
    /* a start that has nothing to say writes nothing: a full disk may see many */
    if (rc == RC_OK && s->replayed_n == 0 && !r.rebuilding && !index_lost(s->index) &&
        end.segment_id == from.segment_id && end.offset == from.offset && facts_all(s, NULL) == 0)
        return RC_OK;
    if (rc == RC_OK && r.rows == NULL) {
        rc = index_rows_new(s->index, &r.rows);
        if (rc != RC_OK) (void)err_set(reterr, rc, "replay: %s", rc_text(rc));
    }
    if (rc != RC_OK) {
        index_rows_free(r.rows);
        return rc;
    }
    /* Also when nothing was replayed: from may lie behind a log that was cut. */
    (void)facts_all(s, r.rows);
    rc = index_rows_commit(r.rows, end, reterr);
    if (rc == RC_OK && r.rebuilding) rc = rebuild_mark(s, false, reterr);
    return rc == RC_OK ? index_sync(s->index, reterr) : rc;
}

static void on_open_failed(void *data)
{
    *(bool *)data = true;
}

/* Start-up is blocking: so is its end. The loop runs only what the two closes need. */
static void open_undo(struct store *s)
{
    bool closed = s->log == NULL;

    if (s->log != NULL) seglog_close(s->log, on_open_failed, &closed);
    while (!closed)
        (void)uv_run(s->loop, UV_RUN_ONCE);
    closed = s->disk == NULL;
    if (s->disk != NULL) disk_close(s->disk, on_open_failed, &closed);
    while (!closed)
        (void)uv_run(s->loop, UV_RUN_ONCE);
    index_close(s->index);
    store_free(s);
}

static enum rc sub_dir(const char *dir, const char *name, char *out, size_t cap, struct err *reterr)
{
    int n = snprintf(out, cap, "%s/%s", dir, name);

    if (n < 0 || (size_t)n >= cap) return err_set(reterr, RC_INVAL, "path '%s' is too long", dir);
    return RC_OK;
}

enum rc store_open(const struct store_conf *conf, struct store **ret_store, struct err *reterr)
{
    struct store *s = calloc(1, sizeof(*s));
    char path[1024], spares[1024];
    struct disk_conf dc = {.loop = conf->loop,
                           .dir = path,
                           .engine = conf->engine,
                           .arena_bytes = conf->arena_bytes,
                           .mem = conf->mem};
    struct seglog_conf lc = {.segment_bytes = conf->segment_bytes,
                             .reserve_bytes = conf->reserve_bytes,
                             .limit_bytes = conf->limit_bytes};
    struct index_conf ic = {.dir = path, .cache_bytes = conf->cache_bytes};
    enum rc rc;

    if (s == NULL) return err_set(reterr, RC_NOMEM, "store");
    s->lock_fd = -1;
    s->loop = conf->loop;
    list_init(&s->logged);
    list_init(&s->writing);
    s->dir = strdup(conf->dir);
    rc = s->dir == NULL ? err_set(reterr, RC_NOMEM, "store")
                        : store_dir_open(s->dir, &s->lock_fd, &s->disk_id, reterr);
    if (rc == RC_OK) rc = store_dir_damaged(s->dir, &s->damaged, reterr);
    if (rc == RC_OK) rc = sub_dir(s->dir, "segments", path, sizeof(path), reterr);
    if (rc == RC_OK) rc = disk_open(&dc, &s->disk, reterr);
    if (rc == RC_OK) rc = sub_dir(s->dir, "spare", spares, sizeof(spares), reterr);
    if (rc == RC_OK) rc = sub_dir(s->dir, "index", path, sizeof(path), reterr);
    if (rc == RC_OK) ballast_begin(s, conf, path, spares, &ic);
    if (rc == RC_OK) rc = index_open(&ic, &s->index, reterr);
    if (rc == RC_CORRUPT && s->disk != NULL && reterr != NULL) {
        (void)err_prefix(reterr,
                         "'storaged rebuild-index --dir %s' makes it again from the log, its "
                         "replicas rejoin as damaged",
                         s->dir);
    }
    if (rc == RC_OK) rc = index_owner(s, reterr);
    if (rc == RC_OK) rc = known_load(s, reterr);
    if (rc == RC_OK) {
        lc.disk = s->disk;
        lc.disk_id = s->disk_id;
        lc.known = s->known;
        lc.others_bytes = s->others_bytes;
        lc.known_n = s->known_n;
        rc = seglog_open(&lc, &s->log, reterr);
    }
    if (rc == RC_OK) {
        s->index_dir = strdup(path); /* of the index, here */
        if (s->index_dir == NULL) rc = err_set(reterr, RC_NOMEM, "store");
    }
    if (rc == RC_OK) {
        index_measure(s);
        rc = replay(s, reterr);
    }
    free(s->known);
    s->known = NULL;
    if (rc == RC_OK && worker_open(s->loop, &s->worker) != RC_OK)
        rc = err_set(reterr, RC_NOMEM, "the index's thread");
    if (rc != RC_OK) {
        open_undo(s);
        return rc;
    }
    CHECK(uv_timer_init(s->loop, &s->again) == 0); /* never fails */
    s->again.data = s;
    ballast_keep(s);
    room_keep(s);
    *ret_store = s;
    return RC_OK;
}

/* ---- state ---- */
struct id128 store_disk_id(const struct store *s)
{
    return s->disk_id;
}

struct index *store_index(struct store *s)
{
    return s->index;
}

struct worker *store_worker(struct store *s)
{
    return s->worker;
}

void store_status(struct store *s, struct store_status *ret)
{
    if (s->log != NULL) {
        index_measure(s);
        ballast_keep(s);
    }
    *ret = (struct store_status){.disk_id = s->disk_id,
                                 .dir = s->dir,
                                 .engine = disk_engine_name(s->disk),
                                 .engine_reason = disk_engine_reason(s->disk),
                                 .replayed_n = s->replayed_n,
                                 .damaged = s->damaged};
    ret->rc = disk_state(s->disk, &ret->err);
    if (s->log != NULL) seglog_stats(s->log, &ret->log);
    disk_load(s->disk, &ret->load);
    ret->rows_waiting_n = s->appends_n - MIN(s->appends_n, ret->log.appending_n);
    ret->row_batches_n = s->batches_n;
    ret->rows_n = s->rows_n;
    ret->rows_batch_max = s->batch_rows_max;
    ret->row_batches_us = s->batches_us;
    ret->rows_full = uv_is_active((uv_handle_t *)&s->again);
    index_stats(s->index, &ret->index);
}

struct seglog *store_log(struct store *s)
{
    return s->log;
}

struct disk *store_disk(struct store *s)
{
    return s->disk;
}

struct seg_position store_rows_upto(const struct store *s)
{
    return s->upto;
}

enum rc store_damage_note(struct store *s, const char *line, struct err *reterr)
{
    s->damaged = true;
    return store_dir_damage_note(s->dir, line, reterr);
}

void store_fail(struct store *s, const char *why)
{
    if (s->failed.rc == RC_OK) (void)err_set(&s->failed, RC_IO, "%s", why);
    disk_fail(s->disk, why);
}

enum rc store_damage_clear(struct store *s, struct err *reterr)
{
    enum rc rc = store_dir_damage_clear(s->dir, reterr);

    if (rc == RC_OK) s->damaged = false;
    return rc;
}
