/* storaged/io/pread.c - requests as blocking calls on libuv's thread pool, DISK_THREADS at a time.
 * The io_uring engine uses it for what changes the folder: a creation is six calls in a row. */
#include "common/base/clock.h"
#include "storaged/io/disk_priv.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#ifndef FALLOC_FL_WRITE_ZEROES
#define FALLOC_FL_WRITE_ZEROES 0x80 /* linux/falloc.h of 6.17 */
#endif
#define ZEROS_BYTES (256u << 10) /* a write; others get the disk between two */

/* 0 or -errno. Whatever is not written stays preallocated, which is right too, only slower. */
static int write_zeros(int fd, struct disk_req_priv *p)
{
    static const uint8_t zeros[ZEROS_BYTES] __attribute__((aligned(DISK_ALIGN_BYTES)));

    /* NVMe writes zeros by itself; Linux knows how to ask since 6.17 */
    if (p->zero_bytes > 0 && fallocate(fd, FALLOC_FL_WRITE_ZEROES, 0, (off_t)p->file_bytes) == 0)
        return 0;
    errno = 0;
    for (uint64_t at = 0; at < p->zero_bytes; at += ZEROS_BYTES) {
        size_t n = (size_t)MIN(p->zero_bytes - at, (uint64_t)ZEROS_BYTES);
        uint64_t began_us = clock_boot_us(), rest_us;
        struct timespec rest;

        if (__atomic_load_n(&p->hurry, __ATOMIC_RELAXED)) return 0;
        if (pwrite(fd, zeros, n, (off_t)at) != (ssize_t)n) return errno != 0 ? -errno : -EIO;
        rest_us = MIN(3 * (clock_boot_us() - began_us), (uint64_t)20000);
        rest = (struct timespec){.tv_nsec = (long)rest_us * 1000};
        (void)nanosleep(&rest, NULL);
    }
    return 0;
}

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
    } else if (write_zeros(f->fd, p) != 0) {
        e = errno != 0 ? errno : EIO;
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
