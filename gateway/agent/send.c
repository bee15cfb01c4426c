/* gateway/agent/send.c - a case's files on their way: small ones packed, large ones in chunks.
 *
 * The id of an upload is a digest of what it holds (names, sizes, times, inodes, the case's
 * generation), journalled before its first byte: the same files after a kill or a reboot are the
 * same upload, which the gateway knows. What a file was when the case was looked at is compared
 * when it is opened and again when it was sent; another size, time or inode ends the case's round,
 * and it is looked at anew. */
#include "common/base/buf.h"
#include "common/base/clock.h"
#include "gateway/agent/agent_priv.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define PACK_BYTES_MAX (16u << 20) /* what a gateway takes */
#define SALTS_MAX      4u
#define PAUSE_MS       60000u /* so long nothing may go: the call is given up */

struct batch {
    struct work *w;
    size_t n;
    struct source *list[MIKURA_PACK_MAX];
    bool alone;
    uint64_t bytes;
    char id[ID128_TEXT_BYTES];
};

/* ---- bandwidth ---- */
static uint64_t rate_now(const struct agent *a)
{
    time_t t = (time_t)(clock_wall_ms() / 1000);
    struct tm tm;

    if (a->pace.n == 0 || localtime_r(&t, &tm) == NULL) return PACE_NO_LIMIT;
    return pace_rate(&a->pace, (uint32_t)(tm.tm_wday + 6) % 7,
                     (uint32_t)(tm.tm_hour * 60 + tm.tm_min));
}

static enum rc pace(void *data, uint32_t n, struct err *reterr)
{
    struct agent *a = ((struct batch *)data)->w->a;
    uint64_t waited_ms = 0, wait_ms;

    for (;;) {
        uint64_t rate = rate_now(a);

        if (a->stop) return err_set(reterr, RC_CANCELED, "stopped");
        if (pace_take(&a->bucket, rate, clock_boot_ms(), n, &wait_ms)) break;
        if (rate == 0 && waited_ms >= PAUSE_MS)
            return err_set(reterr, RC_CANCELED, "nothing may be sent now");
        fiber_sleep_ms(wait_ms);
        waited_ms += wait_ms;
    }
    a->counts.bytes_sent += n;
    return RC_OK;
}

/* Before a call begins, not in the middle of one. */
static void wait_for_rate(struct agent *a)
{
    while (!a->stop && rate_now(a) == 0)
        fiber_sleep_ms(1000);
}

static void progress(void *data, int64_t bytes)
{
    struct batch *b = data;
    struct work *w = b->w;

    w->a->counts.bytes_done += (uint64_t)bytes; /* negative ones take back what was added */
    w->counted_bytes += (uint64_t)bytes;
    if (bytes < 0) agent_tell(w->a, "cut", "{s:s, s:I}", "id", b->id, "bytes", (json_int_t)-bytes);
}

static void answered(void *data, uint64_t bytes)
{
    struct batch *b = data;

    agent_tell(b->w->a, "answered", "{s:s, s:I}", "id", b->id, "bytes", (json_int_t)bytes);
}

/* ---- one upload ---- */
static bool as_seen(const struct source *s, const struct stat *st)
{
    const struct scan_file *f = s->f;

    return (uint64_t)st->st_size == f->size_bytes && st->st_ino == f->ino &&
           (int64_t)st->st_mtim.tv_sec * 1000000000 + st->st_mtim.tv_nsec == f->mtime_ns &&
           (int64_t)st->st_ctim.tv_sec * 1000000000 + st->st_ctim.tv_nsec == f->ctime_ns;
}

bool stage_unchanged(const struct work *w, const struct source *s)
{
    char *name = scan_file_name(w->c, s->f);
    struct stat st;
    bool ok = name != NULL && stat(name, &st) == 0 && as_seen(s, &st);

    free(name);
    return ok;
}

static enum rc upload_id(const struct batch *b, uint32_t salt, struct id128 *ret,
                         struct err *reterr)
{
    const struct work *w = b->w;
    uint8_t digest[32];
    struct tree_stream *t = NULL;
    struct buf text;
    enum rc rc = tree_stream_new(&t);

    buf_init(&text, 1u << 20);
    buf_printf(&text, "mikura agent 1|%s|%zu:%s|%llu|%u|", w->a->set.collection, strlen(w->case_id),
               w->case_id, (unsigned long long)w->k->generation, salt);
    for (size_t i = 0; i < b->n; i++) {
        const struct source *s = b->list[i];

        buf_printf(&text, "%zu:%s|%llu|%llu|%lld|%llu|", strlen(s->path), s->path,
                   (unsigned long long)s->size_bytes, (unsigned long long)s->f->size_bytes,
                   (long long)s->f->mtime_ns, (unsigned long long)s->f->ino);
    }
    if (rc == RC_OK) rc = buf_rc(&text);
    if (rc == RC_OK) rc = tree_stream_update(t, text.p, text.n);
    if (rc == RC_OK) rc = tree_stream_digest(t, digest);
    if (rc == RC_OK) memcpy(ret->b, digest, sizeof ret->b);
    tree_stream_free(t);
    buf_deinit(&text);
    return rc == RC_OK ? RC_OK : err_set(reterr, rc, "an upload's id");
}

/* Journalled under this id by an earlier run, or try? */
static bool begun(const struct batch *b, const struct id128 *id)
{
    for (size_t i = 0; i < b->n; i++) {
        const struct jfile *f = jcase_file(b->w->k, b->list[i]->path);

        if (f == NULL || f->state != JFILE_SENDING || !id128_eq(&f->upload, id)) return false;
    }
    return true;
}

static enum rc begin(const struct batch *b, const struct id128 *id, struct journal_rec *r,
                     struct err *reterr)
{
    r->kind = JOURNAL_UPLOAD;
    r->case_id = agent_slice(b->w->case_id);
    r->id = *id;
    r->files_n = (uint32_t)b->n;
    for (size_t i = 0; i < b->n; i++) {
        const struct scan_file *f = b->list[i]->f;

        r->files[i] = (struct journal_file){agent_slice(b->list[i]->path), f->size_bytes, f->ino,
                                            f->mtime_ns, f->ctime_ns};
    }
    return journal_add(b->w->a->journal, r, reterr);
}

static enum rc call(struct batch *b, const struct id128 *id, bool again,
                    struct mikura_pack_entry *entries, struct err *reterr)
{
    struct work *w = b->w;
    struct mikura_put_result one = {0};
    enum rc rc;

    if (!b->alone) {
        const struct mikura_pack pack = {.collection = w->a->set.collection,
                                         .case_id = w->case_id,
                                         .entries = entries,
                                         .n = b->n,
                                         .request_id = *id,
                                         .again = again,
                                         .progress = progress,
                                         .pace = pace,
                                         .answered = answered,
                                         .data = b};

        return mikura_pack(w->a->client, &pack, reterr);
    }
    {
        const struct mikura_put put = {.collection = w->a->set.collection,
                                       .case_id = w->case_id,
                                       .path = entries[0].path,
                                       .fd = entries[0].fd,
                                       .size_bytes = entries[0].size_bytes,
                                       .request_id = *id,
                                       .parallel = (uint32_t)w->a->set.parallel,
                                       .chunked = true,
                                       .progress = progress,
                                       .pace = pace,
                                       .answered = answered,
                                       .data = b};

        rc = mikura_put(w->a->client, &put, &one, reterr);
    }
    if (rc != RC_OK) return rc;
    entries[0].version = one.version;
    entries[0].stage = one.stage;
    entries[0].quarantined = one.quarantined;
    memcpy(entries[0].tree_sha256, one.tree_sha256, 32);
    return RC_OK;
}

static enum rc staged(struct batch *b, const struct mikura_pack_entry *entries,
                      struct journal_rec *r, struct err *reterr)
{
    enum rc rc;

    for (size_t i = 0; i < b->n; i++) {
        struct journal_result *o = &r->results[i];

        if (!stage_unchanged(b->w, b->list[i])) b->w->changed = true;
        o->version = entries[i].version;
        o->size_bytes = entries[i].size_bytes;
        o->quarantined = entries[i].quarantined;
        memcpy(o->tree_sha256, entries[i].tree_sha256, 32);
    }
    if (b->w->changed) return RC_OK; /* what was stored is superseded by the next version */
    r->kind = JOURNAL_STAGED;
    rc = journal_add(b->w->a->journal, r, reterr);
    if (rc == RC_OK)
        agent_tell(b->w->a, "sent", "{s:s, s:I, s:I, s:s}", "id", b->id, "bytes",
                   (json_int_t)b->bytes, "files", (json_int_t)b->n, "case_id", b->w->case_id);
    for (size_t i = 0; rc == RC_OK && i < b->n; i++) {
        b->list[i]->done = true;
        b->w->a->counts.files_done++;
        b->w->counted_files++;
    }
    return rc;
}

/* Opens what will be sent. *ret_ok false: a file is not what it was. */
static enum rc open_all(struct batch *b, struct mikura_pack_entry *entries, bool *ret_ok,
                        struct err *reterr)
{
    *ret_ok = true;
    for (size_t i = 0; i < b->n; i++)
        entries[i].fd = -1;
    for (size_t i = 0; i < b->n && *ret_ok; i++) {
        struct source *s = b->list[i];
        struct stat st;

        entries[i].path = s->path;
        entries[i].size_bytes = s->size_bytes;
        entries[i].fd = open(s->name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
        if (entries[i].fd < 0 && errno != ENOENT && errno != ELOOP) {
            return err_set(reterr, errno == EACCES ? RC_INVAL : rc_from_errno(errno), "'%s': %s",
                           s->f->path, strerror(errno));
        }
        if (entries[i].fd < 0 || fstat(entries[i].fd, &st) != 0 ||
            (s->cleaned ? !stage_unchanged(b->w, s) : !as_seen(s, &st)))
            *ret_ok = false;
    }
    return RC_OK;
}

static enum rc send_batch(struct batch *b, struct err *reterr)
{
    struct agent *a = b->w->a;
    struct mikura_pack_entry *entries = calloc(b->n, sizeof *entries);
    struct journal_rec *r = calloc(1, sizeof *r);
    struct backoff wait = {AGENT_TRY_MS, AGENT_TRY_MAX_MS, 0};
    bool ok = false, again;
    uint32_t salt = 0;
    struct id128 id;
    enum rc rc = entries == NULL || r == NULL ? err_set(reterr, RC_NOMEM, "an upload") : RC_OK;

    if (rc == RC_OK) rc = open_all(b, entries, &ok, reterr);
    if (rc == RC_OK && !ok) b->w->changed = true;
    while (rc == RC_OK && ok) {
        rc = upload_id(b, salt, &id, reterr);
        again = rc == RC_OK && begun(b, &id);
        if (rc == RC_OK && !again) rc = begin(b, &id, r, reterr);
        r->id = id;
        r->case_id = agent_slice(b->w->case_id);
        r->files_n = (uint32_t)b->n;
        if (rc != RC_OK) break;
        wait_for_rate(a);
        agent_tell(a, "try", "{s:s, s:I, s:b}", "id", id128_text(&id, b->id), "bytes",
                   (json_int_t)b->bytes, "again", again);
        rc = call(b, &id, again, entries, reterr);
        if (rc == RC_OK) {
            rc = staged(b, entries, r, reterr);
            break;
        }
        if (a->stop) {
            rc = err_set(reterr, RC_CANCELED, "stopped");
        } else if (agent_transient(a, rc)) {
            agent_tell(a, "waiting", "{s:s, s:s, s:s}", "case_id", b->w->case_id, "code",
                       rc_name(rc), "why", reterr->msg);
            if (agent_wait(a, &wait)) rc = RC_OK;
        } else if ((rc == RC_CORRUPT || rc == RC_EXISTS || rc == RC_PRECOND || rc == RC_NOTFOUND ||
                    rc == RC_ABORTED) &&
                   salt < SALTS_MAX) {
            /* what an earlier run left under this id is of other bytes, or gone, or the file
             * changes while it is read: once more, as an upload of its own */
            for (size_t i = 0; i < b->n; i++) {
                if (!stage_unchanged(b->w, b->list[i])) b->w->changed = true;
            }
            salt++;
            rc = RC_OK;
            ok = !b->w->changed;
        }
    }
    for (size_t i = 0; entries != NULL && i < b->n; i++) {
        if (entries[i].fd >= 0) (void)close(entries[i].fd); /* was only read */
    }
    free(entries);
    free(r);
    return rc;
}

static void batch_fiber(void *arg)
{
    struct batch *b = arg;
    struct work *w = b->w;
    struct err e = {0};
    enum rc rc = send_batch(b, &e);

    if (rc != RC_OK && w->rc == RC_OK) {
        w->rc = rc;
        w->err = e;
    }
    w->a->sending -= b->alone ? (uint32_t)w->a->set.parallel : 1;
    fiber_cond_broadcast(&w->a->send_free);
    free(b);
}

/* The next files that go together; NULL: no memory, or none is left (*ret_end). */
static struct batch *batch_next(struct work *w, size_t *at, bool *ret_end)
{
    uint64_t sizes[MIKURA_PACK_MAX], limit = MIN(w->a->chunk_bytes, PACK_BYTES_MAX);
    struct batch *b = calloc(1, sizeof *b);
    size_t n = 0, i = *at;

    *ret_end = false;
    if (b == NULL) return NULL;
    b->w = w;
    for (; i < w->n && n < MIKURA_PACK_MAX; i++) {
        struct source *s = &w->sources[i];

        if (s->same || s->done || s->held) continue;
        sizes[n] = s->size_bytes;
        b->list[n++] = s;
    }
    if (n == 0) {
        *at = w->n;
        *ret_end = true;
        free(b);
        return NULL;
    }
    b->n = recog_pack(sizes, n, limit, MIKURA_PACK_MAX, &b->alone);
    *at = (size_t)(b->list[b->n - 1] - w->sources) + 1;
    for (i = 0; i < b->n; i++)
        b->bytes += sizes[i];
    return b;
}

enum rc stage_send(struct work *w, struct err *reterr)
{
    struct agent *a = w->a;
    size_t at = 0;
    bool end = false;

    w->rc = RC_OK;
    while (!end && w->rc == RC_OK && !w->changed && !a->stop) {
        struct batch *b = batch_next(w, &at, &end);
        uint32_t units;
        enum rc rc;

        if (end) break;
        if (b == NULL) {
            w->rc = err_set(&w->err, RC_NOMEM, "an upload");
            break;
        }
        /* a large file sends `parallel` chunks at a time itself */
        units = b->alone ? (uint32_t)a->set.parallel : 1;
        while (a->sending > 0 && a->sending + units > a->set.parallel)
            fiber_cond_wait(&a->send_free);
        a->sending += units;
        rc = fiber_group_spawn(&w->group, batch_fiber, b);
        if (rc != RC_OK) batch_fiber(b);
    }
    fiber_group_wait(&w->group);
    if (w->rc != RC_OK) {
        *reterr = w->err;
        return w->rc;
    }
    return agent_stopped(a, reterr);
}
