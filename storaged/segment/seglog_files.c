/* storaged/segment/seglog_files.c - the segments there are, and which of their files are open.
 *
 * Segments lie in an array by id, found by halving; a 16 TB disk has 65,536 of them, so at most
 * SEGLOG_FILES_MAX files are open: those in use, and the last used of the others. A segment that is
 * dropped is found by nobody from then on; its file goes with its last user. */
#include "storaged/segment/seglog_priv.h"
#include <stdlib.h>
#include <string.h>

static uint32_t place_of(const struct seglog *log, uint64_t id)
{
    uint32_t from = 0, until = log->segs_n;

    while (from < until) {
        uint32_t mid = from + (until - from) / 2;

        if (log->segs[mid]->id < id) {
            from = mid + 1;
        } else {
            until = mid;
        }
    }
    return from;
}

struct segment *segment_find(const struct seglog *log, uint64_t id)
{
    uint32_t i = place_of(log, id);

    return i < log->segs_n && log->segs[i]->id == id && !log->segs[i]->dropping ? log->segs[i]
                                                                                : NULL;
}

const struct seglog_segment *seglog_segment_in(const struct seglog_segment *list, uint32_t n,
                                               uint64_t id)
{
    uint32_t from = 0, until = n;

    while (from < until) {
        uint32_t mid = from + (until - from) / 2;

        if (list[mid].id == id) return &list[mid];
        if (list[mid].id < id) {
            from = mid + 1;
        } else {
            until = mid;
        }
    }
    return NULL;
}

bool segment_finished(const struct segment *s)
{
    return s != s->log->cur && s != s->log->next && s->durable == s->end;
}

struct segment *segment_add(struct seglog *log, uint64_t id)
{
    struct segment *s;

    if (log->segs_n == log->segs_cap) {
        uint32_t cap = MAX(log->segs_cap * 2, 64u);
        struct segment **more = realloc(log->segs, cap * sizeof(struct segment *));

        if (more == NULL) return NULL;
        log->segs = more;
        log->segs_cap = cap;
    }
    CHECK(log->segs_n == 0 || log->segs[log->segs_n - 1]->id < id);
    s = calloc(1, sizeof(*s));
    if (s == NULL) return NULL;
    s->id = id;
    s->log = log;
    list_init(&s->idle);
    list_init(&s->openers);
    log->segs[log->segs_n++] = s;
    return s;
}

static void file_close(struct segment *s)
{
    CHECK(s->file != NULL || list_empty(&s->idle));
    if (s->file == NULL) return;
    list_remove(&s->idle);
    disk_file_close(s->file);
    s->file = NULL;
    s->log->files_n--;
}

void segment_forget(struct segment *s)
{
    struct seglog *log = s->log;
    uint32_t i = place_of(log, s->id);

    CHECK(i < log->segs_n && log->segs[i] == s);
    log->segs_n--;
    memmove(log->segs + i, log->segs + i + 1, (log->segs_n - i) * sizeof(struct segment *));
    file_close(s);
    free(s);
}

void segments_free(struct seglog *log)
{
    while (log->segs_n > 0)
        segment_forget(log->segs[log->segs_n - 1]);
    free(log->segs);
    log->segs = NULL;
    log->segs_cap = 0;
}

/* ---- open files ---- */
static void idle_trim(struct seglog *log)
{
    while (log->files_n > SEGLOG_FILES_MAX && !list_empty(&log->idle))
        file_close(CONTAINER_OF(log->idle.next, struct segment, idle));
}

void segment_use_open(struct segment *s)
{
    CHECK(s->file != NULL);
    s->users++;
    list_remove(&s->idle);
}

static void on_opened(struct disk_req *req, enum rc rc)
{
    struct segment_job *j = req->data;
    struct segment *s = j->seg;
    struct seglog *log = s->log;
    struct err err = req->err;
    struct list now;

    free(j);
    log->jobs_n--;
    s->opening = false;
    if (rc == RC_OK) log->files_n++;
    if (rc == RC_NOTFOUND) { /* gone under our feet: its records are lost here */
        err.rc = rc = RC_CORRUPT;
    }
    if (rc != RC_OK) s->file = NULL;
    list_init(&now);
    while (!list_empty(&s->openers)) { /* start() may bring new ones */
        struct list *it = s->openers.next;

        list_remove(it);
        list_push_back(&now, it);
    }
    s->users++; /* until all were told */
    while (!list_empty(&now)) {
        struct seglog_wait *w = CONTAINER_OF(now.next, struct seglog_wait, link);

        enum rc how = rc;

        list_remove(&w->link);
        if (rc == RC_OK) {
            how = w->start(w);
        } else {
            s->users--;
            *w->err = err;
        }
        if (how != RC_OK) w->failed(w, how);
    }
    segment_unuse(s);
    idle_trim(log);
}

enum rc segment_use(struct segment *s, struct seglog_wait *w)
{
    struct seglog *log = s->log;
    char name[DISK_NAME_BYTES];
    struct segment_job *j;
    enum rc rc;

    if (s->file != NULL && !s->opening) {
        segment_use_open(s);
        return w->start(w);
    }
    if (!s->opening) {
        j = calloc(1, sizeof(*j));
        if (j == NULL) return err_set(w->err, RC_NOMEM, "opening a segment");
        j->seg = s;
        j->req.data = j;
        segment_name(s->id, name);
        rc = disk_open_file(log->disk, &j->req, name, &s->file, on_opened);
        if (rc != RC_OK) {
            *w->err = j->req.err;
            free(j);
            return rc;
        }
        log->jobs_n++;
        s->opening = true;
    }
    s->users++;
    list_push_back(&s->openers, &w->link);
    return RC_OK;
}

/* ---- dropping ---- */
static void on_removed(struct disk_req *req, enum rc rc)
{
    struct seglog_drop *f = req->data;
    struct segment *s = f->priv.seg;
    struct seglog *log = s->log;

    log->drops_n--;
    if (rc == RC_OK) {
        log->stats.segments_n--;
        log->stats.segment_bytes -= s->bytes;
        segment_forget(s);
    } else {
        f->err = req->err; /* a removal that failed took the disk out; the segment stays dropped */
    }
    f->priv.cb(f, rc);
}

static void on_drop(struct disk_req *req, enum rc rc);

static void drop_step(struct segment *s)
{
    struct seglog_drop *f = s->drop;
    char name[DISK_NAME_BYTES];
    enum rc rc;

    if (f == NULL || s->users > 0) return;
    s->drop = NULL;
    header_cache_remove_segment(&s->log->headers, s->id);
    file_close(s);
    segment_name(s->id, name);
    f->priv.req.data = f;
    rc = disk_remove(s->log->disk, &f->priv.req, name, on_removed);
    if (rc == RC_OK) return;
    if (rc == RC_BUSY) {
        s->drop = f;
        disk_defer(s->log->disk, &f->priv.req, on_drop);
        return;
    }
    f->err = f->priv.req.err;
    s->log->drops_n--;
    f->priv.cb(f, rc);
}

void segment_unuse(struct segment *s)
{
    CHECK(s->users > 0);
    if (--s->users > 0) return;
    if (s->dropping) {
        drop_step(s);
    } else if (s->file != NULL) {
        CHECK(list_empty(&s->idle));
        list_push_back(&s->log->idle, &s->idle);
        idle_trim(s->log);
    }
}

static void on_drop(struct disk_req *req, enum rc rc)
{
    struct seglog_drop *f = req->data;

    (void)rc;
    drop_step(f->priv.seg);
}

enum rc seglog_drop(struct seglog *log, struct seglog_drop *f, uint64_t segment_id,
                    seglog_drop_cb cb)
{
    struct segment *s = segment_find(log, segment_id);

    CHECK(!log->closing);
    if (s == NULL) {
        return err_set(&f->err, RC_NOTFOUND, "no segment %llx here",
                       (unsigned long long)segment_id);
    }
    if (!segment_finished(s) || s->sealing) {
        return err_set(&f->err, RC_PRECOND, "segment %llx is being written",
                       (unsigned long long)segment_id);
    }
    f->priv.seg = s;
    f->priv.cb = cb;
    f->priv.req.data = f;
    s->dropping = true;
    s->drop = f;
    log->drops_n++;
    if (s->users == 0) disk_defer(log->disk, &f->priv.req, on_drop); /* never inside the call */
    return RC_OK;
}

uint32_t seglog_segments(const struct seglog *log, uint64_t from, struct seglog_segment *ret,
                         uint32_t max)
{
    uint32_t n = 0;

    for (uint32_t i = place_of(log, from); i < log->segs_n && n < max; i++) {
        const struct segment *s = log->segs[i];

        if (s->dropping || !segment_finished(s)) continue;
        ret[n++] = (struct seglog_segment){s->id, s->generation, s->bytes, s->end};
    }
    return n;
}

enum rc seglog_segment_now(const struct seglog *log, uint64_t id, struct seglog_segment *ret,
                           bool *ret_finished)
{
    const struct segment *s = segment_find(log, id);

    if (s == NULL) return RC_NOTFOUND;
    *ret = (struct seglog_segment){s->id, s->generation, s->bytes, s->durable};
    *ret_finished = segment_finished(s);
    return RC_OK;
}

bool seglog_busy(const struct seglog *log)
{
    return log->appends_n > 0 || log->reads_n > 0;
}
