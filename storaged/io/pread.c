/* storaged/io/pread.c - requests as blocking calls on libuv's thread pool, DISK_THREADS at a time.
 * The io_uring engine uses it for what changes the folder: a creation is six calls in a row. */
#include "storaged/io/disk_priv.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Under another name until all of it is durable, so that a crash leaves no half-made file. */
static int create(struct disk *d, struct disk_req_priv *p)
{
    struct disk_file *f = calloc(1, sizeof(*f));
    char tmp[DISK_NAME_BYTES + 8];
    int e = 0;

    if (f == NULL) return -ENOMEM;
    (void)snprintf(tmp, sizeof(tmp), "%s.tmp", p->name);
    memcpy(f->name, p->name, sizeof(f->name));
    f->disk = d;
    list_init(&f->link);
    f->fd = openat(d->dir_fd, tmp, O_RDWR | O_CREAT | O_TRUNC | O_DIRECT | O_CLOEXEC, 0600);
    if (f->fd < 0) {
        e = errno;
    } else if (posix_fallocate(f->fd, 0, (off_t)p->file_bytes) != 0) {
        e = ENOSPC; /* whatever it says: the space is not ours */
    } else if (pwrite(f->fd, p->buf, p->n, 0) != (ssize_t)p->n || fsync(f->fd) != 0) {
        e = errno != 0 ? errno : EIO;
    } else if (renameat(d->dir_fd, tmp, d->dir_fd, p->name) != 0 || fsync(d->dir_fd) != 0) {
        e = errno;
    }
    if (e != 0) {
        if (f->fd >= 0) (void)close(f->fd);
        (void)unlinkat(d->dir_fd, tmp, 0);
        free(f);
        return -e;
    }
    *p->ret_file = f;
    return 0;
}

static int open_one(struct disk *d, struct disk_req_priv *p)
{
    struct disk_file *f = calloc(1, sizeof(*f));
    int e;

    if (f == NULL) return -ENOMEM;
    memcpy(f->name, p->name, sizeof(f->name));
    f->disk = d;
    list_init(&f->link);
    f->fd = openat(d->dir_fd, p->name, O_RDWR | O_DIRECT | O_CLOEXEC);
    if (f->fd < 0) {
        e = errno;
        free(f);
        return -e;
    }
    *p->ret_file = f;
    return 0;
}

static void run(uv_work_t *w)
{
    struct disk_slot *s = w->data;
    struct disk_req_priv *p = &s->req->priv;
    ssize_t r = 0;

    errno = 0;
    switch (p->op) {
    case DISK_OP_READ:
        r = pread(p->file->fd, p->buf + p->done, p->n - p->done, (off_t)(p->at + p->done));
        break;
    case DISK_OP_WRITE:
        r = pwrite(p->file->fd, p->buf + p->done, p->n - p->done, (off_t)(p->at + p->done));
        break;
    case DISK_OP_SYNC:
        r = fdatasync(p->file->fd);
        break;
    case DISK_OP_CREATE:
        s->res = create(s->disk, p);
        return;
    case DISK_OP_OPEN:
        s->res = open_one(s->disk, p);
        return;
    case DISK_OP_REMOVE:
        r = unlinkat(s->disk->dir_fd, p->name, 0);
        if (r < 0 && errno == ENOENT) r = 0;
        if (r == 0) r = fsync(s->disk->dir_fd);
        break;
    case DISK_OP_DEFER: /* never reaches an engine */
        break;
    }
    s->res = r < 0 ? -errno : (int)r;
}

static void ran(uv_work_t *w, int status)
{
    struct disk_slot *s = w->data;
    struct disk_req *req = s->req;

    (void)status; /* never cancelled */
    s->req = NULL;
    if ((req->priv.op == DISK_OP_CREATE || req->priv.op == DISK_OP_OPEN) && s->res == 0) {
        list_push_back(&s->disk->files, &(*req->priv.ret_file)->link);
    }
    disk_finished(req, s->res);
    disk_deliver(s->disk);
}

bool disk_slot_start(struct disk *d, struct disk_req *req)
{
    for (unsigned i = 0; i < DISK_THREADS; i++) {
        struct disk_slot *s = &d->slots[i];

        if (s->req != NULL) continue;
        s->req = req;
        s->disk = d;
        s->work.data = s;
        CHECK(uv_queue_work(d->loop, &s->work, run, ran) == 0); /* fails only without a callback */
        return true;
    }
    return false;
}

static void nothing(struct disk *d)
{
    (void)d;
}

const struct disk_engine_ops disk_pread_ops = {disk_slot_start, nothing, nothing, nothing};
