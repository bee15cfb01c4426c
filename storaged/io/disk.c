/* storaged/io/disk.c - requests, files and memory that all engines share.
 *
 * A request is in exactly one of: queue (accepted), the engine (running), done (its callback is
 * due). Callbacks fire from the loop only: from the idle handle `kick`, which runs once per
 * iteration while there is anything to start or to tell, or from an engine's completion. */
#include "common/base/clock.h"
#include "common/base/fsroom.h"
#include "storaged/io/disk_priv.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>
#include <unistd.h>

static void on_kick(uv_idle_t *h);

/* ---- opening ---- */
static enum rc dir_open(struct disk *d, struct err *reterr)
{
    static const char probe[] = ".o_direct";
    struct statfs fs;
    int fd;

    d->dir_fd = open(d->conf.dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (d->dir_fd < 0 || fstatfs(d->dir_fd, &fs) != 0) {
        return err_set(reterr, rc_from_errno(errno), "folder '%s': %s", d->conf.dir,
                       strerror(errno));
    }
    if (d->conf.read_only) return RC_OK; /* opening a file tells whether there is O_DIRECT */
    /* tmpfs takes O_DIRECT since Linux 6.6 and still forgets everything */
    if (fs.f_type == TMPFS_MAGIC || fs.f_type == RAMFS_MAGIC) {
        return err_set(reterr, RC_PRECOND,
                       "'%s' lies in memory (tmpfs): choose a folder on a disk, ext4 or xfs",
                       d->conf.dir);
    }
    fd = openat(d->dir_fd, probe, O_RDWR | O_CREAT | O_DIRECT | O_CLOEXEC, 0600);
    if (fd < 0) {
        int e = errno;

        return err_set(reterr, e == EINVAL ? RC_PRECOND : rc_from_errno(e),
                       e == EINVAL ? "the file system of '%s' has no O_DIRECT (%s): choose a "
                                     "folder on a disk, ext4 or xfs"
                                   : "cannot write in '%s': %s",
                       d->conf.dir, strerror(e));
    }
    (void)close(fd); /* nothing was written */
    (void)unlinkat(d->dir_fd, probe, 0);
    return RC_OK;
}

static void disk_release(struct disk *d)
{
    if (d->dir_fd >= 0) (void)close(d->dir_fd);
    buffers_deinit(&d->buffers);
    free(d);
}

enum rc disk_open(const struct disk_conf *conf, struct disk **ret_disk, struct err *reterr)
{
    struct disk *d = calloc(1, sizeof(*d));
    size_t bytes = conf->arena_bytes != 0 ? conf->arena_bytes : DISK_ARENA_DEFAULT;
    enum rc rc = RC_OK;

    if (d == NULL) return err_set(reterr, RC_NOMEM, "disk");
    d->conf = *conf;
    d->loop = conf->loop;
    d->dir_fd = d->event_fd = -1;
    list_init(&d->files);
    list_init(&d->queue);
    list_init(&d->done);
    list_init(&d->mem_running);
    if (buffers_init(&d->buffers, bytes) != RC_OK) {
        rc = err_set(reterr, RC_NOMEM, "a disk's arena of %zu bytes", bytes);
        goto out;
    }
    if (conf->engine == DISK_MEMORY) {
        d->ops = &disk_mem_ops;
        d->name = "memory";
        (void)snprintf(d->reason, sizeof(d->reason), "asked for; nothing outlives the process");
    } else {
        rc = dir_open(d, reterr);
        if (rc != RC_OK) goto out;
        d->ops = &disk_pread_ops;
        d->name = "pread";
        (void)snprintf(d->reason, sizeof(d->reason), "asked for");
        if (conf->engine != DISK_PREAD) {
            rc = disk_uring_open(d, d->reason, sizeof(d->reason));
            if (rc == RC_OK) {
                d->ops = &disk_uring_ops;
                d->name = "io_uring";
            } else if (conf->engine == DISK_URING) {
                rc = err_set(reterr, RC_PRECOND, "%s", d->reason);
                goto out;
            }
            rc = RC_OK; /* AUTO: threads do it, the reason is kept */
        }
    }
    CHECK(uv_idle_init(d->loop, &d->kick) == 0);
    CHECK(uv_timer_init(d->loop, &d->later) == 0);
    d->kick.data = d->later.data = d;
    d->handles_n += 2;
    *ret_disk = d;
    return RC_OK;
out:
    disk_release(d);
    return rc;
}

/* ---- closing ---- */
void disk_handle_closed(struct disk *d)
{
    void (*cb)(void *) = d->close_cb;
    void *data = d->close_data;

    if (--d->handles_n > 0) return;
    while (!list_empty(&d->files))
        disk_file_close(CONTAINER_OF(d->files.next, struct disk_file, link));
    d->ops->release(d);
    disk_release(d);
    cb(data);
}

static void on_kick_closed(uv_handle_t *h)
{
    disk_handle_closed(h->data);
}

static void close_step(struct disk *d)
{
    if (!d->closing || d->closed || d->accepted_n > 0) return;
    d->closed = true;
    d->ops->close(d);
    uv_close((uv_handle_t *)&d->kick, on_kick_closed);
    uv_close((uv_handle_t *)&d->later, on_kick_closed);
}

void disk_close(struct disk *d, void (*cb)(void *data), void *data)
{
    CHECK(!d->closing);
    d->closing = true;
    d->close_cb = cb;
    d->close_data = data;
    disk_kick(d);
}

/* ---- requests ---- */
void disk_kick(struct disk *d)
{
    if (!d->closed) (void)uv_idle_start(&d->kick, on_kick);
}

void disk_fail(struct disk *d, const char *why)
{
    if (d->failed.rc == RC_OK) (void)err_set(&d->failed, RC_IO, "%s", why);
}

static const char *op_name(const struct disk_req *req)
{
    static const char *const names[] = {"read", "write",   "flush", "creation",
                                        "open", "removal", "defer"};

    return names[req->priv.op];
}

/* Reading and opening change nothing: they may fail, and are tried on a failed disk. */
static bool takes_out(const struct disk_req *req)
{
    return req->priv.op != DISK_OP_READ && req->priv.op != DISK_OP_OPEN;
}

static void finish(struct disk_req *req, enum rc rc)
{
    req->priv.rc = rc;
    list_push_back(&req->priv.disk->done, &req->priv.link);
}

static void finish_errno(struct disk_req *req, int e)
{
    struct disk *d = req->priv.disk;
    const char *name = req->priv.file != NULL ? req->priv.file->name : req->priv.name;
    enum rc rc = RC_IO;

    if (e == ECANCELED) {
        finish(req, err_set(&req->err, RC_CANCELED, "the disk was closed"));
        return;
    }
    if (req->priv.op == DISK_OP_CREATE && (e == ENOSPC || e == EDQUOT)) rc = RC_FULL;
    if (req->priv.op == DISK_OP_OPEN) rc = rc_from_errno(e);
    if (e == EMFILE || e == ENFILE) rc = RC_NOMEM; /* the process's fault, not the disk's */
    (void)err_set(&req->err, rc, "%s of '%s' at %llu, %zu bytes: %s", op_name(req), name,
                  (unsigned long long)req->priv.at, req->priv.n, strerror(e));
    if (takes_out(req) && rc != RC_FULL && rc != RC_NOMEM) disk_fail(d, req->err.msg);
    finish(req, rc);
}

void disk_finished(struct disk_req *req, int64_t res)
{
    struct disk *d = req->priv.disk;
    struct disk_req_priv *p = &req->priv;

    CHECK(d->running_n > 0);
    d->running_n--;
    /* our own doing is seen at once */
    if (p->op == DISK_OP_CREATE || p->op == DISK_OP_REMOVE || res < 0) d->space_until_us = 0;
    if (res == -EINTR || res == -EAGAIN) {
        list_push_back(&d->queue, &p->link);
        return;
    }
    if (res < 0) {
        finish_errno(req, (int)-res);
        return;
    }
    if (p->op == DISK_OP_READ || p->op == DISK_OP_WRITE) {
        p->done += (size_t)res;
        if (res == 0 && p->op == DISK_OP_READ) {
            finish(req, err_set(&req->err, RC_RANGE, "read of '%s' at %llu: past the end",
                                p->file->name, (unsigned long long)p->at));
            return;
        }
        if (res == 0 || (p->done < p->n && p->done % DISK_ALIGN_BYTES != 0)) {
            finish_errno(req, EIO); /* a part of a page was moved: O_DIRECT can not go on there */
            return;
        }
        if (p->done < p->n) {
            list_push_back(&d->queue, &p->link);
            return;
        }
    }
    finish(req, RC_OK);
}

void disk_deliver(struct disk *d)
{
    struct list now; /* what callbacks add is told in the next iteration */

    if (!list_empty(&d->done)) {
        now = d->done;
        now.next->prev = now.prev->next = &now;
        list_init(&d->done);
        while (!list_empty(&now)) {
            struct disk_req *req = CONTAINER_OF(now.next, struct disk_req, priv.link);

            list_remove(&req->priv.link);
            d->accepted_n--;
            req->priv.cb(req, req->priv.rc);
        }
    }
    if ((!list_empty(&d->queue) && !uv_is_active((uv_handle_t *)&d->later)) ||
        !list_empty(&d->done) || d->closing)
        disk_kick(d);
}

static void on_later(uv_timer_t *h)
{
    disk_kick(h->data);
}

static void on_kick(uv_idle_t *h)
{
    struct disk *d = h->data;

    (void)uv_idle_stop(h);
    while (!list_empty(&d->queue)) {
        struct disk_req *req = CONTAINER_OF(d->queue.next, struct disk_req, priv.link);

        if (!d->closing && req->priv.not_before_ms > uv_now(d->loop)) {
            (void)uv_timer_start(&d->later, on_later, req->priv.not_before_ms - uv_now(d->loop), 0);
            break;
        }
        list_remove(&req->priv.link);
        if (d->closing) {
            finish(req, err_set(&req->err, RC_CANCELED, "the disk was closed"));
        } else if (d->failed.rc != RC_OK && takes_out(req)) {
            req->err = d->failed;
            finish(req, RC_IO);
        } else if (req->priv.injected != 0) {
            finish_errno(req, req->priv.injected);
        } else {
            d->running_n++;
            if (!d->ops->start(d, req)) {
                d->running_n--;
                list_push_front(&d->queue, &req->priv.link);
                break;
            }
        }
    }
    d->ops->submit(d);
    if (!list_empty(&d->done)) disk_deliver(d);
    close_step(d);
}

/* 0, or the errno that this call has to fail with. */
static int injected(struct disk *d)
{
    return d->inject_at != 0 && --d->inject_at == 0 ? d->inject_errno : 0;
}

static enum rc injected_now(struct disk *d, const char *what, struct err *reterr)
{
    int e = injected(d);

    return e == 0 ? RC_OK : err_set(reterr, RC_IO, "%s: %s (injected)", what, strerror(e));
}

static enum rc take(struct disk *d, struct disk_req *req, disk_cb cb)
{
    CHECK(!d->closing);
    if (d->failed.rc != RC_OK && takes_out(req)) {
        req->err = d->failed;
        return RC_IO;
    }
    if (d->accepted_n >= DISK_REQUESTS_MAX) {
        return err_set(&req->err, RC_BUSY, "%u requests wait for the disk", d->accepted_n);
    }
    req->err.rc = RC_OK;
    req->priv.disk = d;
    req->priv.cb = cb;
    req->priv.done = 0;
    req->priv.injected = 0;
    req->priv.not_before_ms = d->slow_ms == 0 ? 0 : uv_now(d->loop) + d->slow_ms;
    d->requests_n++;
    if (!d->inject_writes || takes_out(req)) req->priv.injected = injected(d);
    d->accepted_n++;
    list_push_back(&d->queue, &req->priv.link);
    disk_kick(d);
    return RC_OK;
}

static enum rc transfer(struct disk_file *f, struct disk_req *req, uint64_t at, void *p, size_t n,
                        disk_cb cb)
{
    CHECK(at % DISK_ALIGN_BYTES == 0 && n % DISK_ALIGN_BYTES == 0 && n > 0);
    CHECK((uintptr_t)p % DISK_ALIGN_BYTES == 0);
    req->priv.file = f;
    req->priv.at = at;
    req->priv.buf = p;
    req->priv.n = n;
    return take(f->disk, req, cb);
}

enum rc disk_read(struct disk_file *f, struct disk_req *req, uint64_t at, void *p, size_t n,
                  disk_cb cb)
{
    req->priv.op = DISK_OP_READ;
    return transfer(f, req, at, p, n, cb);
}

enum rc disk_write(struct disk_file *f, struct disk_req *req, uint64_t at, const void *p, size_t n,
                   disk_cb cb)
{
    req->priv.op = DISK_OP_WRITE;
    return transfer(f, req, at, (void *)(uintptr_t)p, n, cb); /* only read from */
}

enum rc disk_sync(struct disk_file *f, struct disk_req *req, disk_cb cb)
{
    req->priv.op = DISK_OP_SYNC;
    req->priv.file = f;
    req->priv.at = req->priv.n = 0;
    return take(f->disk, req, cb);
}

static void named(struct disk_req *req, const char *name)
{
    int n = snprintf(req->priv.name, sizeof(req->priv.name), "%s", name);

    CHECK(n > 0 && (size_t)n + 4 < sizeof(req->priv.name)); /* ".tmp" */
    req->priv.file = NULL;
    req->priv.at = req->priv.n = 0;
}

enum rc disk_open_file(struct disk *d, struct disk_req *req, const char *name,
                       struct disk_file **ret_file, disk_cb cb)
{
    named(req, name);
    req->priv.op = DISK_OP_OPEN;
    req->priv.ret_file = ret_file;
    return take(d, req, cb);
}

enum rc disk_remove(struct disk *d, struct disk_req *req, const char *name, disk_cb cb)
{
    named(req, name);
    req->priv.op = DISK_OP_REMOVE;
    return take(d, req, cb);
}

enum rc disk_create(struct disk *d, struct disk_req *req, const char *name, uint64_t bytes,
                    uint64_t zero_bytes, const void *page, struct disk_file **ret_file, disk_cb cb)
{
    named(req, name);
    req->priv.op = DISK_OP_CREATE;
    req->priv.buf = (void *)(uintptr_t)page; /* only read from */
    req->priv.n = DISK_ALIGN_BYTES;
    req->priv.file_bytes = bytes;
    req->priv.zero_bytes = MIN(zero_bytes, bytes);
    req->priv.hurry = false;
    req->priv.ret_file = ret_file;
    return take(d, req, cb);
}

void disk_create_hurry(struct disk_req *req)
{
    __atomic_store_n(&req->priv.hurry, true, __ATOMIC_RELAXED);
}

void disk_defer(struct disk *d, struct disk_req *req, disk_cb cb)
{
    CHECK(!d->closing);
    req->priv.op = DISK_OP_DEFER;
    req->priv.disk = d;
    req->priv.cb = cb;
    d->accepted_n++;
    finish(req, RC_OK);
    disk_kick(d);
}

void disk_inject_write(struct disk *d, uint64_t n, int err)
{
    disk_inject(d, n, err);
    d->inject_writes = true;
}

void disk_inject(struct disk *d, uint64_t n, int err)
{
    d->inject_at = n;
    d->inject_writes = false;
    d->inject_errno = err;
}

uint64_t disk_inject_left(const struct disk *d)
{
    return d->inject_at;
}

void disk_inject_slow(struct disk *d, uint64_t ms)
{
    d->slow_ms = ms;
}

uint64_t disk_requests(const struct disk *d)
{
    return d->requests_n;
}

/* ---- state ---- */
const char *disk_engine_name(const struct disk *d)
{
    return d->name;
}

const char *disk_engine_reason(const struct disk *d)
{
    return d->reason;
}

enum rc disk_state(const struct disk *d, struct err *reterr)
{
    if (d->failed.rc != RC_OK && reterr != NULL) *reterr = d->failed;
    return d->failed.rc;
}

enum rc disk_space(struct disk *d, uint64_t *ret_total, uint64_t *ret_free)
{
    uint64_t now_us = clock_boot_us();
    struct statvfs s;

    if (d->conf.engine == DISK_MEMORY) {
        disk_mem_space(d->conf.mem, ret_total, ret_free);
        return RC_OK;
    }
    if (now_us < d->space_until_us) {
        *ret_total = d->space_total;
        *ret_free = d->space_left;
        return RC_OK;
    }
    if (fstatvfs(d->dir_fd, &s) != 0) return RC_IO;
    *ret_total = d->space_total = (uint64_t)s.f_blocks * s.f_frsize;
    *ret_free = d->space_left = (uint64_t)s.f_bavail * s.f_frsize;
    d->space_until_us = now_us + fsroom_hold_us(d->space_left);
    return RC_OK;
}

/* ---- memory ---- */
void *disk_buf_alloc(struct disk *d, size_t bytes)
{
    return buffers_alloc(&d->buffers, bytes);
}

void disk_buf_free(struct disk *d, void *p)
{
    buffers_free(&d->buffers, p);
}

size_t disk_buf_used(const struct disk *d)
{
    return (size_t)d->buffers.used_n * DISK_ALIGN_BYTES;
}

void disk_load(const struct disk *d, struct disk_load *ret)
{
    *ret = (struct disk_load){.requests_n = d->accepted_n,
                              .running_n = d->running_n,
                              .arena_used = disk_buf_used(d),
                              .arena_bytes = buffers_bytes(&d->buffers),
                              .merged_n = d->merged_n};
}

/* ---- files, blocking ---- */
enum rc disk_list(struct disk *d, enum rc (*fn)(void *ctx, const char *name), void *ctx,
                  struct err *reterr)
{
    enum rc rc = injected_now(d, "list", reterr);
    struct dirent *e;
    DIR *dir;
    int fd;

    if (rc != RC_OK) return rc;
    if (d->conf.engine == DISK_MEMORY) return disk_mem_list(d->conf.mem, fn, ctx);
    fd = openat(d->dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    dir = fd >= 0 ? fdopendir(fd) : NULL;
    if (dir == NULL) {
        if (fd >= 0) (void)close(fd);
        return err_set(reterr, RC_IO, "list '%s': %s", d->conf.dir, strerror(errno));
    }
    for (errno = 0; rc == RC_OK && (e = readdir(dir)) != NULL; errno = 0) {
        if (e->d_name[0] != '.') rc = fn(ctx, e->d_name);
    }
    if (rc == RC_OK && errno != 0) {
        rc = err_set(reterr, RC_IO, "list '%s': %s", d->conf.dir, strerror(errno));
    }
    (void)closedir(dir);
    return rc;
}

enum rc disk_file_open(struct disk *d, const char *name, struct disk_file **ret_file,
                       uint64_t *ret_bytes, struct err *reterr)
{
    struct disk_file *f = calloc(1, sizeof(*f));
    struct stat st;
    enum rc rc;

    if (f == NULL) return err_set(reterr, RC_NOMEM, "file '%s'", name);
    rc = injected_now(d, name, reterr);
    if (rc != RC_OK) {
        free(f);
        return rc;
    }
    f->disk = d;
    f->fd = -1;
    (void)snprintf(f->name, sizeof(f->name), "%s", name);
    list_init(&f->link);
    if (d->conf.engine == DISK_MEMORY) {
        f->mem = disk_mem_file(d->conf.mem, name);
        if (f->mem == NULL) {
            free(f);
            return err_set(reterr, RC_NOTFOUND, "file '%s'", name);
        }
        *ret_bytes = disk_mem_file_bytes(f->mem);
    } else {
        f->fd =
            openat(d->dir_fd, name, (d->conf.read_only ? O_RDONLY : O_RDWR) | O_DIRECT | O_CLOEXEC);
        if (f->fd < 0 || fstat(f->fd, &st) != 0) {
            rc = err_set(reterr, rc_from_errno(errno), "file '%s': %s", name, strerror(errno));
            disk_file_close(f);
            return rc;
        }
        *ret_bytes = (uint64_t)st.st_size;
    }
    list_push_back(&d->files, &f->link);
    *ret_file = f;
    return RC_OK;
}

enum rc disk_file_bytes(struct disk *d, const char *name, uint64_t *ret_bytes)
{
    struct mem_file *m;
    struct stat st;

    if (d->conf.engine == DISK_MEMORY) {
        m = disk_mem_file(d->conf.mem, name);
        if (m == NULL) return RC_NOTFOUND;
        *ret_bytes = disk_mem_file_bytes(m);
        return RC_OK;
    }
    if (fstatat(d->dir_fd, name, &st, 0) != 0) return rc_from_errno(errno);
    *ret_bytes = (uint64_t)st.st_size;
    return RC_OK;
}

void disk_file_close(struct disk_file *f)
{
    if (f == NULL) return;
    list_remove(&f->link);
    if (f->fd >= 0) (void)close(f->fd); /* all that counts was flushed before */
    free(f);
}

/* Moves all n bytes or fails; one of the two directions. */
static enum rc move_now(struct disk_file *f, uint64_t at, uint8_t *in, const uint8_t *out, size_t n,
                        struct err *reterr)
{
    for (size_t done = 0; done < n;) {
        ssize_t r = in != NULL ? pread(f->fd, in + done, n - done, (off_t)(at + done))
                               : pwrite(f->fd, out + done, n - done, (off_t)(at + done));

        if (r < 0 && errno == EINTR) continue;
        if (r == 0)
            return err_set(reterr, RC_RANGE, "'%s' ends before %llu", f->name,
                           (unsigned long long)(at + n));
        if (r < 0)
            return err_set(reterr, RC_IO, "%s of '%s' at %llu: %s", in != NULL ? "read" : "write",
                           f->name, (unsigned long long)(at + done), strerror(errno));
        done += (size_t)r;
    }
    return RC_OK;
}

enum rc disk_read_now(struct disk_file *f, uint64_t at, void *p, size_t n, struct err *reterr)
{
    enum rc rc = injected_now(f->disk, f->name, reterr);

    if (rc != RC_OK) return rc;
    if (f->mem != NULL) {
        return disk_mem_read(f->mem, at, p, n) < 0
                   ? err_set(reterr, RC_RANGE, "'%s' ends before %llu", f->name,
                             (unsigned long long)(at + n))
                   : RC_OK;
    }
    return move_now(f, at, p, NULL, n, reterr);
}

enum rc disk_write_sync_now(struct disk_file *f, uint64_t at, const void *p, size_t n,
                            struct err *reterr)
{
    enum rc rc = disk_state(f->disk, reterr);

    if (rc != RC_OK) return rc;
    rc = injected_now(f->disk, f->name, reterr);
    if (rc == RC_OK && f->mem != NULL) {
        int r = disk_mem_write_sync(f->disk->conf.mem, f->mem, at, p, n);

        if (r < 0)
            rc = err_set(reterr, rc_from_errno(-r), "write of '%s': %s", f->name, strerror(-r));
    } else if (rc == RC_OK) {
        rc = move_now(f, at, NULL, p, n, reterr);
    }
    if (rc == RC_OK && f->mem == NULL && fdatasync(f->fd) != 0) {
        rc = err_set(reterr, RC_IO, "flush of '%s': %s", f->name, strerror(errno));
    }
    if (rc != RC_OK) disk_fail(f->disk, reterr != NULL ? reterr->msg : "write at start-up");
    return rc;
}

enum rc disk_truncate_now(struct disk_file *f, uint64_t bytes, struct err *reterr)
{
    enum rc rc = injected_now(f->disk, f->name, reterr);

    if (rc != RC_OK) return rc;
    if (f->mem != NULL) {
        int r = disk_mem_truncate(f->disk->conf.mem, f->mem, bytes);

        return r < 0 ? err_set(reterr, rc_from_errno(-r), "truncation of '%s'", f->name) : RC_OK;
    }
    if (ftruncate(f->fd, (off_t)bytes) != 0 || fsync(f->fd) != 0) {
        return err_set(reterr, RC_IO, "truncation of '%s': %s", f->name, strerror(errno));
    }
    return RC_OK;
}

enum rc disk_remove_now(struct disk *d, const char *name, struct err *reterr)
{
    enum rc rc = injected_now(d, name, reterr);

    if (rc != RC_OK) return rc;
    if (d->conf.engine == DISK_MEMORY) {
        int r = disk_mem_remove(d->conf.mem, name);

        return r < 0 ? err_set(reterr, rc_from_errno(-r), "removal of '%s'", name) : RC_OK;
    }
    if (unlinkat(d->dir_fd, name, 0) != 0 || fsync(d->dir_fd) != 0) {
        return err_set(reterr, rc_from_errno(errno), "removal of '%s': %s", name, strerror(errno));
    }
    return RC_OK;
}
