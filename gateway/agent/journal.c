/* gateway/agent/journal.c - see journal.h. */
#include "gateway/agent/journal.h"
#include "common/base/buf.h"
#include "common/base/log.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILE_BYTES_MAX (1ull << 32)
#define COMPACT_MIN    (4u << 20)
#define FULL_WAIT_MS   5000u
#define PENDING_MAX    (64u << 20)

struct journal {
    struct journal_conf conf;
    char *path, *fresh;
    int fd, lock_fd, dir_fd;
    uint64_t bytes, seq, synced, compact_at;
    struct names by_id;
    struct jcase **cases;
    size_t cases_n, cases_cap;
    /* group commit */
    struct buf pending, flushing;
    bool busy, compacting;
    uint32_t adding; /* records on their way to the state */
    struct fiber_cond cond;
    enum rc rc; /* for good */
    int flush_errno;
    uint8_t *scratch; /* one record */
};

/* ---- what records mean ---- */
static char *text_of(struct slice s)
{
    return strndup((const char *)s.p, s.n);
}

static void file_clear(struct jfile *f)
{
    free(f->path);
    free(f->why);
    free(f);
}

static void files_forget(struct jcase *k)
{
    for (size_t i = 0; i < k->files_n; i++)
        file_clear(k->files[i]);
    free(k->files);
    k->files = NULL;
    k->files_n = k->files_cap = 0;
    names_deinit(&k->by_path);
}

struct jcase *journal_case(struct journal *j, const char *case_id)
{
    return names_get(&j->by_id, case_id);
}

struct jcase *journal_at(struct journal *j, size_t idx)
{
    return idx < j->cases_n ? j->cases[idx] : NULL;
}

struct jfile *jcase_file(const struct jcase *k, const char *path)
{
    return names_get(&k->by_path, path);
}

static enum rc grow(void ***list, size_t n, size_t *cap)
{
    size_t more = MAX(*cap * 2, 16u);
    void **p;

    if (n < *cap) return RC_OK;
    p = realloc(*list, more * sizeof *p);
    if (p == NULL) return RC_NOMEM;
    *list = p;
    *cap = more;
    return RC_OK;
}

static enum rc case_new(struct journal *j, char *case_id, struct jcase **ret)
{
    struct jcase *k = calloc(1, sizeof *k);
    void **list = (void **)j->cases;
    enum rc rc = k == NULL ? RC_NOMEM : grow(&list, j->cases_n, &j->cases_cap);

    j->cases = (struct jcase **)list;
    if (rc == RC_OK) {
        k->case_id = case_id;
        rc = names_add(&j->by_id, case_id, k);
    }
    if (rc != RC_OK) {
        free(k);
        return rc;
    }
    names_init(&k->by_path);
    *ret = j->cases[j->cases_n++] = k;
    return RC_OK;
}

static enum rc file_of(struct jcase *k, const struct journal_file *f, struct jfile **ret)
{
    char *path = text_of(f->path);
    struct jfile *to;
    void **list = (void **)k->files;
    enum rc rc = RC_OK;

    if (path == NULL) return RC_NOMEM;
    to = jcase_file(k, path);
    if (to == NULL) {
        to = calloc(1, sizeof *to);
        rc = to == NULL ? RC_NOMEM : grow(&list, k->files_n, &k->files_cap);
        k->files = (struct jfile **)list;
        if (rc == RC_OK) rc = names_add(&k->by_path, path, to);
        if (rc != RC_OK) {
            free(path);
            free(to);
            return rc;
        }
        to->path = path;
        k->files[k->files_n++] = to;
    } else {
        free(path);
    }
    if (to->size_bytes != f->size_bytes || to->mtime_ns != f->mtime_ns ||
        to->ctime_ns != f->ctime_ns || to->ino != f->ino)
        to->looked = false; /* at other bytes */
    to->size_bytes = f->size_bytes;
    to->mtime_ns = f->mtime_ns;
    to->ctime_ns = f->ctime_ns;
    to->ino = f->ino;
    *ret = to;
    return RC_OK;
}

static enum rc set_text(char **to, struct slice s)
{
    char *t = text_of(s);

    if (t == NULL) return RC_NOMEM;
    free(*to);
    *to = t;
    return RC_OK;
}

static enum rc apply_files(struct jcase *k, const struct journal_rec *r)
{
    uint32_t n = r->kind == JOURNAL_UPLOAD ? r->files_n : 1;
    struct jfile *f;
    enum rc rc = RC_OK;

    for (uint32_t i = 0; rc == RC_OK && i < n; i++) {
        rc = file_of(k, &r->files[i], &f);
        if (rc != RC_OK) break;
        switch (r->kind) {
        case JOURNAL_UPLOAD:
            f->state = JFILE_SENDING;
            f->upload = r->id;
            f->upload_at = i;
            break;
        case JOURNAL_HELD:
            f->state = JFILE_HELD;
            f->outcome = r->outcome;
            rc = set_text(&f->why, r->text);
            break;
        default: /* LOOKED */
            f->looked = true;
            break;
        }
    }
    return rc;
}

static enum rc apply_staged(struct jcase *k, const struct journal_rec *r)
{
    uint32_t n = 0;

    for (size_t i = 0; i < k->files_n && n < r->files_n; i++) {
        struct jfile *f = k->files[i];

        if (!id128_eq(&f->upload, &r->id) || f->state != JFILE_SENDING) continue;
        if (f->upload_at >= r->files_n) return RC_CORRUPT;
        f->state = JFILE_STAGED;
        f->result = r->results[f->upload_at];
        n++;
    }
    return n == r->files_n ? RC_OK : RC_CORRUPT;
}

/* The next round judges anew; a look stays one. */
static void held_forget(struct jcase *k)
{
    for (size_t i = 0; i < k->files_n; i++) {
        if (k->files[i]->state == JFILE_HELD) k->files[i]->state = JFILE_NONE;
    }
}

static enum rc apply(struct journal *j, const struct journal_rec *r)
{
    char *id = text_of(r->case_id);
    enum journal_state to;
    struct jcase *k;
    enum rc rc;

    if (id == NULL) return RC_NOMEM;
    k = journal_case(j, id);
    rc = journal_step(k == NULL ? JCASE_NONE : k->state, r->kind, &to);
    if (rc == RC_OK && k == NULL) {
        rc = case_new(j, id, &k);
        if (rc == RC_OK) id = NULL;
    }
    free(id);
    if (rc != RC_OK) return rc;
    k->state = to;
    switch (r->kind) {
    case JOURNAL_CASE:
        memcpy(k->print, r->print, sizeof k->print);
        held_forget(k);
        return set_text(&k->root, r->root);
    case JOURNAL_UPLOAD:
    case JOURNAL_HELD:
    case JOURNAL_LOOKED:
        return apply_files(k, r);
    case JOURNAL_STAGED:
        return apply_staged(k, r);
    case JOURNAL_COMMIT:
        k->commit_id = r->id;
        k->expected = r->generation;
        return RC_OK;
    case JOURNAL_DONE:
        memcpy(k->print, r->print, sizeof k->print);
        k->generation = r->generation;
        k->count = r->count;
        k->bytes = r->bytes;
        files_forget(k);
        return set_text(&k->root, r->root);
    case JOURNAL_ASIDE:
        return set_text(&k->why, r->text);
    case JOURNAL_RETRY:
        held_forget(k);
        return RC_OK;
    case JOURNAL_DROPPED:
        for (size_t i = 0; i < k->files_n; i++) {
            struct jfile *f = k->files[i];

            if (r->text.n != 0 &&
                (strlen(f->path) != r->text.n || memcmp(f->path, r->text.p, r->text.n) != 0))
                continue;
            if (f->state != JFILE_HELD) f->state = JFILE_NONE;
        }
        return RC_OK;
    default:
        return RC_OK;
    }
}

/* ---- reading ---- */
static enum rc failed(struct err *reterr, const char *what, const char *path)
{
    return err_set(reterr, rc_from_errno(errno), "%s '%s': %s", what, path, strerror(errno));
}

static enum rc file_read(struct journal *j, uint8_t **ret, size_t *ret_n, struct err *reterr)
{
    struct stat st;
    uint8_t *p;
    size_t n = 0;

    if (fstat(j->fd, &st) != 0) return failed(reterr, "journal", j->path);
    if ((uint64_t)st.st_size > FILE_BYTES_MAX)
        return err_set(reterr, RC_CORRUPT, "journal '%s' has over 4 GiB", j->path);
    p = malloc((size_t)st.st_size + 1);
    if (p == NULL) return err_set(reterr, RC_NOMEM, "the journal");
    while (n < (size_t)st.st_size) {
        ssize_t got = pread(j->fd, p + n, (size_t)st.st_size - n, (off_t)n);

        if (got < 0 && errno == EINTR) continue;
        if (got < 0) {
            free(p);
            return failed(reterr, "reading the journal", j->path);
        }
        if (got == 0) break;
        n += (size_t)got;
    }
    *ret = p;
    *ret_n = n;
    return RC_OK;
}

static enum rc damaged(const struct journal *j, uint64_t at, const char *why, struct err *reterr)
{
    return err_set(reterr, RC_CORRUPT,
                   "journal '%s' is damaged at byte %llu: %s. Nothing was changed. Restore it, or "
                   "move it away: the agent then looks at all cases again and finds by their "
                   "receipts and in the store what was sent",
                   j->path, (unsigned long long)at, why);
}

static enum rc replay(struct journal *j, const uint8_t *p, size_t n, uint64_t *ret_cut,
                      struct err *reterr)
{
    struct journal_rec *rec = calloc(1, sizeof *rec);
    uint64_t seq;
    size_t at = JOURNAL_MAGIC_BYTES, len;
    enum rc rc = rec == NULL ? RC_NOMEM : RC_OK;

    while (rc == RC_OK) {
        rc = journal_next(p + at, n - at, j->seq == 0 ? 0 : j->seq + 1, rec, &seq, &len);
        if (rc != RC_OK) break;
        if ((j->seq == 0) != (rec->kind == JOURNAL_OPEN)) {
            rc = damaged(j, at, "it does not begin as it must", reterr);
        } else if (rec->kind == JOURNAL_OPEN) {
            if (j->conf.collection[0] != 0 &&
                (rec->text.n != strlen(j->conf.collection) ||
                 memcmp(rec->text.p, j->conf.collection, rec->text.n) != 0)) {
                rc = err_set(reterr, RC_PRECOND,
                             "'%s' is the journal for collection '%.*s', not '%s': give another "
                             "state folder",
                             j->path, (int)rec->text.n, (const char *)rec->text.p,
                             j->conf.collection);
            }
        } else {
            rc = apply(j, rec);
            if (rc == RC_CORRUPT)
                rc = damaged(j, at, "a record that cannot follow the one before", reterr);
        }
        if (rc != RC_OK) goto out;
        j->seq = seq;
        at += len;
    }
    if (rc == RC_CORRUPT) {
        rc = damaged(j, at, "whole records follow broken ones", reterr);
        goto out;
    }
    if (rc == RC_NOMEM) {
        rc = err_set(reterr, rc, "the journal");
        goto out;
    }
    *ret_cut = n - at;
    j->bytes = at;
    j->synced = j->seq;
    rc = RC_OK;
out:
    free(rec);
    return rc;
}

/* ---- writing ---- */
static int write_all(int fd, const uint8_t *p, size_t n, uint64_t off)
{
    while (n > 0) {
        ssize_t put = pwrite(fd, p, n, (off_t)off);

        if (put < 0 && errno == EINTR) continue;
        if (put <= 0) return put == 0 ? EIO : errno;
        p += put;
        n -= (size_t)put;
        off += (uint64_t)put;
    }
    return 0;
}

static void flush_work(void *arg)
{
    struct journal *j = arg;

    j->flush_errno = write_all(j->fd, j->flushing.p, j->flushing.n, j->bytes);
    if (j->flush_errno == ENOSPC || j->flush_errno == EDQUOT) {
        /* what was written of it must not stay: it would be a cut-off tail in front of the rest */
        if (ftruncate(j->fd, (off_t)j->bytes) != 0) j->flush_errno = EIO;
    } else if (j->flush_errno == 0 && fdatasync(j->fd) != 0) {
        j->flush_errno = errno == ENOSPC || errno == EDQUOT ? EIO : errno;
    }
}

/* One flush of all that waits; again while the disk is full. */
static void flush(struct journal *j, struct err *reterr)
{
    uint64_t upto = j->seq;
    struct buf b = j->pending;
    enum rc rc;

    j->busy = true;
    j->pending = j->flushing;
    j->flushing = b;
    for (;;) {
        rc = fiber_work(flush_work, j);
        if (rc == RC_NOMEM) {
            fiber_sleep_ms(100);
            continue;
        }
        if (j->flush_errno != ENOSPC && j->flush_errno != EDQUOT) break;
        if (j->conf.full != NULL && j->conf.full(j->conf.data)) {
            j->rc = err_set(reterr, RC_CANCELED, "stopped while the journal's disk is full");
            break;
        }
        fiber_sleep_ms(FULL_WAIT_MS);
    }
    if (j->rc == RC_OK && j->flush_errno != 0) {
        j->rc = err_set(reterr, RC_IO,
                        "journal '%s': %s: what it holds now is unknown until it is read again; "
                        "mend the disk and start the agent again",
                        j->path, strerror(j->flush_errno));
    }
    if (j->rc == RC_OK) {
        j->bytes += j->flushing.n;
        j->synced = upto;
    }
    buf_reset(&j->flushing);
    j->busy = false;
    fiber_cond_broadcast(&j->cond);
}

enum rc journal_add(struct journal *j, const struct journal_rec *rec, struct err *reterr)
{
    size_t cap = JOURNAL_FRAME_BYTES + JOURNAL_BODY_MAX, n;
    uint64_t mine;
    enum rc rc;

    while (j->compacting)
        fiber_cond_wait(&j->cond);
    rc = j->rc;
    if (rc != RC_OK) return err_set(reterr, rc, "the journal cannot be written any more");
    rc = journal_encode(rec, j->seq + 1, j->synced, j->scratch, cap, &n);
    if (rc != RC_OK) return err_set(reterr, rc, "a journal record of a case is over its limit");
    buf_put(&j->pending, j->scratch, n);
    rc = buf_rc(&j->pending);
    if (rc != RC_OK) return err_set(reterr, RC_NOMEM, "the journal");
    mine = ++j->seq;
    j->adding++;
    while (j->rc == RC_OK && j->synced < mine) {
        if (j->busy) {
            fiber_cond_wait(&j->cond);
        } else {
            flush(j, reterr);
        }
    }
    j->adding--;
    if (j->rc != RC_OK) return err_set(reterr, j->rc, "the journal could not be written");
    rc = apply(j, rec);
    return rc == RC_OK ? rc : err_set(reterr, rc, "a journal record that cannot come here");
}

uint64_t journal_bytes(const struct journal *j)
{
    return j->bytes;
}

/* ---- compaction ---- */
struct compacting {
    struct journal *j;
    int fd;
    uint64_t seq, off;
    struct buf b;
    uint8_t *scratch;
    enum rc rc;
    struct err err;
};

static void emit(struct compacting *c, const struct journal_rec *rec)
{
    size_t n;
    int e;

    if (c->rc != RC_OK) return;
    c->rc =
        journal_encode(rec, ++c->seq, 0, c->scratch, JOURNAL_FRAME_BYTES + JOURNAL_BODY_MAX, &n);
    if (c->rc == RC_OK) buf_put(&c->b, c->scratch, n);
    if (c->rc == RC_OK) c->rc = buf_rc(&c->b);
    if (c->rc != RC_OK || c->b.n < (1u << 20)) return;
    e = write_all(c->fd, c->b.p, c->b.n, c->off);
    if (e != 0) c->rc = err_set(&c->err, rc_from_errno(e), "%s", strerror(e));
    c->off += c->b.n;
    buf_reset(&c->b);
}

static struct slice slice_of(const char *s)
{
    return (struct slice){(const uint8_t *)s, s == NULL ? 0 : strlen(s)};
}

static struct journal_file file_rec(const struct jfile *f)
{
    return (struct journal_file){slice_of(f->path), f->size_bytes, f->ino, f->mtime_ns,
                                 f->ctime_ns};
}

/* Files of one upload stand together as they were added; one that was sent anew since is alone. */
static void emit_files(struct compacting *c, const struct jcase *k, struct journal_rec *r)
{
    for (size_t i = 0; i < k->files_n;) {
        const struct jfile *f = k->files[i];
        size_t n = 1;

        r->case_id = slice_of(k->case_id);
        r->files[0] = file_rec(f);
        if (f->looked) {
            r->kind = JOURNAL_LOOKED;
            emit(c, r);
        }
        if (f->state == JFILE_HELD) {
            r->kind = JOURNAL_HELD;
            r->outcome = f->outcome;
            r->text = slice_of(f->why);
            emit(c, r);
        } else if (f->state != JFILE_NONE) {
            r->kind = JOURNAL_UPLOAD;
            r->id = f->upload;
            r->results[0] = f->result;
            while (i + n < k->files_n && n < JOURNAL_FILES_MAX &&
                   k->files[i + n]->state == f->state && !k->files[i + n]->looked &&
                   id128_eq(&k->files[i + n]->upload, &f->upload)) {
                r->files[n] = file_rec(k->files[i + n]);
                r->results[n] = k->files[i + n]->result;
                n++;
            }
            r->files_n = (uint32_t)n;
            emit(c, r);
            r->kind = JOURNAL_STAGED;
            if (f->state == JFILE_STAGED) emit(c, r);
        }
        i += n;
    }
}

static void emit_case(struct compacting *c, const struct jcase *k, struct journal_rec *r)
{
    *r = (struct journal_rec){.kind = JOURNAL_DONE,
                              .case_id = slice_of(k->case_id),
                              .root = slice_of(k->root),
                              .generation = k->generation,
                              .count = k->count,
                              .bytes = k->bytes};
    memcpy(r->print, k->print, sizeof r->print);
    if (k->generation > 0 || k->state == JCASE_DONE) emit(c, r);
    if (k->state == JCASE_DONE) return;
    r->kind = JOURNAL_CASE;
    emit(c, r);
    emit_files(c, k, r);
    if (k->state == JCASE_COMMITTING) {
        r->kind = JOURNAL_COMMIT;
        r->id = k->commit_id;
        r->generation = k->expected;
        emit(c, r);
    } else if (k->state == JCASE_ASIDE) {
        r->kind = JOURNAL_ASIDE;
        r->text = slice_of(k->why);
        emit(c, r);
    }
}

static void compact_work(void *arg)
{
    struct compacting *c = arg;
    struct journal *j = c->j;
    struct journal_rec *r = calloc(1, sizeof *r);
    int e = 0;

    c->scratch = malloc(JOURNAL_FRAME_BYTES + JOURNAL_BODY_MAX);
    if (r == NULL || c->scratch == NULL) c->rc = RC_NOMEM;
    buf_put(&c->b, JOURNAL_MAGIC, JOURNAL_MAGIC_BYTES);
    if (c->rc == RC_OK) {
        *r = (struct journal_rec){
            .kind = JOURNAL_OPEN, .id = id128_random(), .text = slice_of(j->conf.collection)};
        emit(c, r);
    }
    for (size_t i = 0; c->rc == RC_OK && i < j->cases_n; i++)
        emit_case(c, j->cases[i], r);
    if (c->rc == RC_OK) e = write_all(c->fd, c->b.p, c->b.n, c->off);
    c->off += c->b.n;
    if (c->rc == RC_OK && e == 0 && (fsync(c->fd) != 0 || rename(j->fresh, j->path) != 0))
        e = errno;
    if (c->rc == RC_OK && e == 0 && fsync(j->dir_fd) != 0) e = errno;
    if (c->rc == RC_OK && e != 0) c->rc = err_set(&c->err, rc_from_errno(e), "%s", strerror(e));
    free(c->scratch);
    free(r);
}

/* Writes the state beside the journal and takes it. The old one stays when that fails. */
static enum rc compact(struct journal *j, bool in_fiber, struct err *reterr)
{
    struct compacting c = {.j = j};
    enum rc rc;

    c.fd = open(j->fresh, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (c.fd < 0) return failed(reterr, "journal", j->fresh);
    buf_init(&c.b, PENDING_MAX);
    rc = RC_OK;
    if (!in_fiber) {
        compact_work(&c);
    } else {
        rc = fiber_work(compact_work, &c);
    }
    if (rc == RC_OK) rc = c.rc;
    buf_deinit(&c.b);
    if (rc != RC_OK) {
        (void)close(c.fd);
        (void)unlink(j->fresh);
        return err_set(reterr, rc, "compacting journal '%s': %s", j->path,
                       c.err.msg[0] != 0 ? c.err.msg : rc_text(rc));
    }
    if (j->fd >= 0) (void)close(j->fd); /* nothing is pending in it */
    j->fd = c.fd;
    j->bytes = c.off;
    j->seq = j->synced = c.seq;
    j->compact_at = MAX(2 * c.off, (uint64_t)COMPACT_MIN);
    return RC_OK;
}

enum rc journal_compact(struct journal *j, bool always, struct err *reterr)
{
    enum rc rc;

    if (j->rc != RC_OK || j->compacting || j->adding > 0) return RC_OK; /* the next time */
    if (!always && j->bytes < j->compact_at) return RC_OK;
    j->compacting = true;
    rc = compact(j, true, reterr);
    j->compacting = false;
    j->compact_at = MAX(j->compact_at, j->bytes + COMPACT_MIN);
    fiber_cond_broadcast(&j->cond);
    return rc;
}

/* ---- opening ---- */
static enum rc lock(struct journal *j, struct err *reterr)
{
    char *path = NULL, pid[32] = "";
    ssize_t n;
    enum rc rc = RC_OK;

    if (asprintf(&path, "%s/lock", j->conf.dir) < 0) return err_set(reterr, RC_NOMEM, "a lock");
    j->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (j->lock_fd < 0) {
        rc = failed(reterr, "lock", path);
    } else if (flock(j->lock_fd, LOCK_EX | LOCK_NB) != 0) {
        n = read(j->lock_fd, pid, sizeof pid - 1);
        pid[n > 0 ? n : 0] = 0;
        pid[strcspn(pid, "\n")] = 0;
        rc = err_set(reterr, RC_BUSY,
                     "another agent (process %s) works with '%s': one agent a state folder",
                     pid[0] == 0 ? "?" : pid, j->conf.dir);
    } else {
        int len = snprintf(pid, sizeof pid, "%ld\n", (long)getpid());

        /* for people only */
        if (ftruncate(j->lock_fd, 0) != 0 || pwrite(j->lock_fd, pid, (size_t)len, 0) != len)
            log_debug("agent_lock", "no pid in the lock: %s", strerror(errno));
    }
    free(path);
    return rc;
}

static enum rc load(struct journal *j, uint64_t *ret_cut, struct err *reterr)
{
    uint8_t *p = NULL;
    size_t n = 0;
    enum rc rc = file_read(j, &p, &n, reterr);

    if (rc == RC_OK && n > 0 &&
        (n < JOURNAL_MAGIC_BYTES || memcmp(p, JOURNAL_MAGIC, JOURNAL_MAGIC_BYTES) != 0)) {
        rc = damaged(j, 0, "it is no agent's journal", reterr);
    }
    if (rc == RC_OK && n > 0) rc = replay(j, p, n, ret_cut, reterr);
    if (rc == RC_OK && n > 0 && j->seq == 0)
        rc = damaged(j, JOURNAL_MAGIC_BYTES, "its first record is missing", reterr);
    free(p);
    return rc;
}

enum rc journal_open(const struct journal_conf *conf, struct journal **ret, uint64_t *ret_cut,
                     struct err *reterr)
{
    struct journal *j = calloc(1, sizeof *j);
    enum rc rc = RC_OK;

    *ret_cut = 0;
    if (j == NULL) return err_set(reterr, RC_NOMEM, "a journal");
    j->conf = *conf;
    j->fd = j->lock_fd = j->dir_fd = -1;
    names_init(&j->by_id);
    buf_init(&j->pending, PENDING_MAX);
    buf_init(&j->flushing, PENDING_MAX);
    fiber_cond_init(&j->cond);
    j->scratch = malloc(JOURNAL_FRAME_BYTES + JOURNAL_BODY_MAX);
    if (j->scratch == NULL || asprintf(&j->path, "%s/journal", conf->dir) < 0 ||
        asprintf(&j->fresh, "%s/journal.new", conf->dir) < 0) {
        rc = err_set(reterr, RC_NOMEM, "a journal");
        goto out;
    }
    if (!conf->read_only) rc = lock(j, reterr);
    if (rc != RC_OK) goto out;
    j->dir_fd = open(conf->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    j->fd = open(j->path, (conf->read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC);
    if (j->dir_fd < 0 || (j->fd < 0 && (errno != ENOENT || conf->read_only))) {
        rc = failed(reterr, "journal", j->path);
        goto out;
    }
    if (j->fd >= 0) rc = load(j, ret_cut, reterr);
    if (rc != RC_OK || conf->read_only) goto out;
    if (j->fd < 0 || j->bytes == 0) {
        rc = compact(j, false, reterr);
    } else if (*ret_cut > 0 && (ftruncate(j->fd, (off_t)j->bytes) != 0 || fsync(j->fd) != 0)) {
        rc = failed(reterr, "cutting the journal", j->path);
    }
    if (rc == RC_OK) j->compact_at = MAX(2 * j->bytes, (uint64_t)COMPACT_MIN);
out:
    if (rc != RC_OK) {
        journal_close(j);
    } else {
        *ret = j;
    }
    return rc;
}

void journal_close(struct journal *j)
{
    if (j == NULL) return;
    for (size_t i = 0; i < j->cases_n; i++) {
        struct jcase *k = j->cases[i];

        files_forget(k);
        free(k->case_id);
        free(k->root);
        free(k->why);
        free(k);
    }
    free(j->cases);
    names_deinit(&j->by_id);
    buf_deinit(&j->pending);
    buf_deinit(&j->flushing);
    if (j->fd >= 0) (void)close(j->fd); /* every record was flushed */
    if (j->dir_fd >= 0) (void)close(j->dir_fd);
    if (j->lock_fd >= 0) (void)close(j->lock_fd);
    free(j->path);
    free(j->fresh);
    free(j->scratch);
    free(j);
}
