/* storaged/io/uring.c - requests through one io_uring per disk and loop.
 *
 * SQEs are prepared by start() and handed to the kernel by one io_uring_submit per iteration. An
 * eventfd in the loop tells of completions; with DEFER_TASKRUN they are made by our own
 * io_uring_get_events. At most DISK_RING_DEPTH run, so the completion queue never overflows.
 *
 * Small writes of one iteration that follow each other in a file (a log's do) go as one WRITEV: the
 * file system ends each request by itself, in a transaction of its own where the place was never
 * written before. An SQE's data is the request, or a merge with bit 0 set. */
#include "storaged/io/disk_priv.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/uio.h>
#include <unistd.h>

/* ---- merges ---- */
static void merge_finished(struct disk *d, struct disk_merge *m, int res)
{
    uint64_t left = res > 0 ? (uint64_t)res : 0;

    for (uint32_t i = 0; i < m->n; i++) {
        uint64_t got = MIN(left, (uint64_t)m->iov[i].iov_len);

        left -= got;
        /* what was not reached of a short one goes once more, alone */
        disk_finished(m->parts[i], res <= 0 ? res : got > 0 ? (int64_t)got : -EAGAIN);
    }
    list_push_back(&d->merges_free, &m->link);
}

static void merge_add(struct disk_merge *m, struct disk_req *req)
{
    const struct disk_req_priv *p = &req->priv;

    m->parts[m->n] = req;
    m->iov[m->n++] = (struct iovec){.iov_base = p->buf + p->done, .iov_len = p->n - p->done};
}

/* Behind the write before it, if that is not submitted yet and ends where this one begins. */
static bool merge(struct disk *d, struct disk_req *req)
{
    const struct disk_req_priv *p = &req->priv, *q;
    struct disk_merge *m = d->tail.merge;
    size_t n = p->n - p->done;

    if (d->tail.sqe == NULL || n > DISK_MERGE_PART_BYTES) return false;
    q = &d->tail.req->priv;
    if (q->file != p->file || d->tail.end != p->at + p->done ||
        d->tail.bytes + n > DISK_MERGE_BYTES || (m != NULL && m->n == DISK_MERGE_PARTS))
        return false;
    if (m == NULL) {
        if (list_empty(&d->merges_free)) return false;
        m = CONTAINER_OF(d->merges_free.next, struct disk_merge, link);
        list_remove(&m->link);
        m->n = 0;
        merge_add(m, d->tail.req);
        d->tail.merge = m;
    }
    merge_add(m, req);
    io_uring_prep_writev(d->tail.sqe, p->file->fd, m->iov, m->n, q->at + q->done);
    io_uring_sqe_set_data64(d->tail.sqe, (uintptr_t)m | 1);
    d->tail.end += n;
    d->tail.bytes += n;
    d->merged_n++;
    return true;
}

static void tail_set(struct disk *d, struct io_uring_sqe *sqe, struct disk_req *req)
{
    const struct disk_req_priv *p = &req->priv;

    if (p->n - p->done > DISK_MERGE_PART_BYTES) sqe = NULL;
    d->tail.sqe = sqe;
    d->tail.merge = NULL;
    d->tail.req = req;
    d->tail.end = p->at + p->n;
    d->tail.bytes = p->n - p->done;
}

static enum rc merges_new(struct disk *d)
{
    d->merges = calloc(DISK_MERGES, sizeof(*d->merges));
    if (d->merges == NULL) return RC_NOMEM;
    list_init(&d->merges_free);
    for (uint32_t i = 0; i < DISK_MERGES; i++)
        list_push_back(&d->merges_free, &d->merges[i].link);
    return RC_OK;
}

static void on_event(uv_poll_t *h, int status, int events)
{
    struct disk *d = h->data;
    struct io_uring_cqe *cqe;
    eventfd_t v;

    (void)status;
    (void)events;
    (void)eventfd_read(d->event_fd, &v); /* EAGAIN: another turn took it */
    (void)io_uring_get_events(&d->ring); /* what it can not make now it makes with the next event */
    while (io_uring_peek_cqe(&d->ring, &cqe) == 0) {
        uintptr_t data = (uintptr_t)io_uring_cqe_get_data64(cqe);
        int res = cqe->res;

        io_uring_cqe_seen(&d->ring, cqe);
        if (data & 1) {
            merge_finished(d, (struct disk_merge *)(data - 1), res);
        } else {
            disk_finished((struct disk_req *)data, res);
        }
    }
    disk_deliver(d);
}

enum rc disk_uring_open(struct disk *d, char *reason, size_t reason_n)
{
    struct iovec arena = {.iov_base = d->buffers.base, .iov_len = buffers_bytes(&d->buffers)};
    const char *flags = "SINGLE_ISSUER, DEFER_TASKRUN";
    int e;

    e = io_uring_queue_init(DISK_RING_DEPTH, &d->ring,
                            IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN);
    if (e == -EINVAL) {
        flags = "a kernel before 6.1: no DEFER_TASKRUN";
        e = io_uring_queue_init(DISK_RING_DEPTH, &d->ring, 0);
    }
    if (e < 0) {
        (void)snprintf(reason, reason_n, "io_uring is refused here: %s%s", strerror(-e),
                       e == -EPERM ? " (container profile or kernel.io_uring_disabled)" : "");
        return RC_PRECOND;
    }
    if (merges_new(d) != RC_OK) {
        (void)snprintf(reason, reason_n, "out of memory");
        io_uring_queue_exit(&d->ring);
        return RC_NOMEM;
    }
    d->event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    e = d->event_fd < 0 ? -errno : io_uring_register_eventfd(&d->ring, d->event_fd);
    if (e < 0) {
        (void)snprintf(reason, reason_n, "io_uring without an eventfd: %s", strerror(-e));
        io_uring_queue_exit(&d->ring);
        free(d->merges);
        if (d->event_fd >= 0) (void)close(d->event_fd);
        d->event_fd = -1;
        return RC_PRECOND;
    }
    e = io_uring_register_buffers(&d->ring, &arena, 1);
    d->registered = e == 0;
    if (d->registered) {
        (void)snprintf(reason, reason_n, "%s; %zu MiB of buffers registered", flags,
                       arena.iov_len >> 20);
    } else {
        (void)snprintf(reason, reason_n, "%s; buffers not registered: %s%s", flags, strerror(-e),
                       e == -ENOMEM ? " (RLIMIT_MEMLOCK is below the arena)" : "");
    }
    CHECK(uv_poll_init(d->loop, &d->poll, d->event_fd) == 0);
    d->poll.data = d;
    d->handles_n++;
    CHECK(uv_poll_start(&d->poll, UV_READABLE, on_event) == 0);
    d->ring_open = true;
    return RC_OK;
}

static bool start(struct disk *d, struct disk_req *req)
{
    struct disk_req_priv *p = &req->priv;
    uint8_t *at = p->buf + p->done;
    bool fixed;
    struct io_uring_sqe *sqe;

    if (p->op == DISK_OP_CREATE || p->op == DISK_OP_OPEN || p->op == DISK_OP_REMOVE) {
        return disk_slot_start(d, req);
    }
    if (d->running_n > DISK_RING_DEPTH) return false; /* this one is counted already */
    if (p->op == DISK_OP_WRITE && merge(d, req)) return true;
    sqe = io_uring_get_sqe(&d->ring);
    if (sqe == NULL) return false;
    fixed = d->registered && at >= d->buffers.base &&
            at + (p->n - p->done) <= d->buffers.base + buffers_bytes(&d->buffers);
    if (p->op == DISK_OP_SYNC) {
        io_uring_prep_fsync(sqe, p->file->fd, IORING_FSYNC_DATASYNC);
    } else if (p->op == DISK_OP_READ && fixed) {
        io_uring_prep_read_fixed(sqe, p->file->fd, at, (unsigned)(p->n - p->done), p->at + p->done,
                                 0);
    } else if (p->op == DISK_OP_READ) {
        io_uring_prep_read(sqe, p->file->fd, at, (unsigned)(p->n - p->done), p->at + p->done);
    } else if (fixed) {
        io_uring_prep_write_fixed(sqe, p->file->fd, at, (unsigned)(p->n - p->done), p->at + p->done,
                                  0);
    } else {
        io_uring_prep_write(sqe, p->file->fd, at, (unsigned)(p->n - p->done), p->at + p->done);
    }
    io_uring_sqe_set_data(sqe, req);
    if (p->op == DISK_OP_WRITE) tail_set(d, sqe, req);
    return true;
}

static void submit(struct disk *d)
{
    int r = 0;

    d->tail.sqe = NULL;
    if (io_uring_sq_ready(&d->ring) == 0) return;
    r = io_uring_submit(&d->ring);
    /* EAGAIN, EBUSY, EINTR: the SQEs stay in the ring and go with the next iteration */
    if (r < 0 || io_uring_sq_ready(&d->ring) > 0) disk_kick(d);
}

static void on_poll_closed(uv_handle_t *h)
{
    disk_handle_closed(h->data);
}

static void close_ring(struct disk *d)
{
    (void)uv_poll_stop(&d->poll);
    uv_close((uv_handle_t *)&d->poll, on_poll_closed);
}

static void release(struct disk *d)
{
    io_uring_queue_exit(&d->ring);
    (void)close(d->event_fd);
    free(d->merges);
}

const struct disk_engine_ops disk_uring_ops = {start, submit, close_ring, release};
