/* storaged/io/uring.c - requests through one io_uring per disk and loop.
 *
 * SQEs are prepared by start() and handed to the kernel by one io_uring_submit per iteration. An
 * eventfd in the loop tells of completions; with DEFER_TASKRUN they are made by our own
 * io_uring_get_events. At most DISK_RING_DEPTH run, so the completion queue never overflows. */
#include "storaged/io/disk_priv.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

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
        struct disk_req *req = io_uring_cqe_get_data(cqe);
        int res = cqe->res;

        io_uring_cqe_seen(&d->ring, cqe);
        disk_finished(req, res);
    }
    disk_deliver(d);
}

enum rc disk_uring_open(struct disk *d, char *reason, size_t reason_n)
{
    struct iovec arena = {.iov_base = d->arena, .iov_len = (size_t)d->pages_n * DISK_ALIGN_BYTES};
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
    d->event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    e = d->event_fd < 0 ? -errno : io_uring_register_eventfd(&d->ring, d->event_fd);
    if (e < 0) {
        (void)snprintf(reason, reason_n, "io_uring without an eventfd: %s", strerror(-e));
        io_uring_queue_exit(&d->ring);
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
    sqe = io_uring_get_sqe(&d->ring);
    if (sqe == NULL) return false;
    fixed = d->registered && at >= d->arena &&
            at + (p->n - p->done) <= d->arena + (size_t)d->pages_n * DISK_ALIGN_BYTES;
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
    return true;
}

static void submit(struct disk *d)
{
    int r = 0;

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
}

const struct disk_engine_ops disk_uring_ops = {start, submit, close_ring, release};
