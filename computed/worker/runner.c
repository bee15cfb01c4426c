/* computed/worker/runner.c - see runner.h. What the child sends is checked field by field: after
 * its first image it may say anything. */
#include "computed/worker/runner.h"
#include "common/base/log.h"
#include "computed/worker/child.h"
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define START_MS 60000u

struct runner {
    struct fibers *fs;
    uv_process_t process;
    uv_pipe_t pipe;
    uint32_t handles; /* of the loop: process and pipe */
    bool exited, ended, canceled, sending, reading;
    int64_t exit_status;
    int term_signal;
    struct fiber_cond changed;
    uint8_t up[WIRE_HEAD_BYTES + WIRE_UP_MAX]; /* what came and was not taken yet */
    uint32_t up_n, frame_n;                    /* frame_n: of the frame last handed out */
    uint8_t *down;                             /* a frame being sent */
    uv_write_t write;
    char device[128];
    struct mask mask; /* p NULL: none */
    size_t mask_got;
};

static void on_closed(uv_handle_t *h)
{
    struct runner *r = h->data;

    r->handles--;
    fiber_cond_broadcast(&r->changed);
}

static void on_end(uv_process_t *p, int64_t status, int signal)
{
    struct runner *r = p->data;

    r->exited = true;
    r->exit_status = status;
    r->term_signal = signal;
    fiber_cond_broadcast(&r->changed);
}

static void on_alloc(uv_handle_t *h, size_t suggested, uv_buf_t *buf)
{
    struct runner *r = h->data;

    (void)suggested;
    *buf = uv_buf_init((char *)r->up + r->up_n, (unsigned)(sizeof(r->up) - r->up_n));
}

static void on_read(uv_stream_t *s, ssize_t n, const uv_buf_t *buf)
{
    struct runner *r = s->data;

    (void)buf;
    if (n > 0) r->up_n += (uint32_t)n;
    if (n < 0) r->ended = true; /* also UV_ENOBUFS: it talks without being asked */
    if (r->up_n == sizeof(r->up) || r->ended) {
        (void)uv_read_stop(s);
        r->reading = false;
    }
    fiber_cond_broadcast(&r->changed);
}

static void on_written(uv_write_t *w, int status)
{
    struct runner *r = w->data;

    r->sending = false;
    if (status != 0) r->ended = true;
    fiber_cond_broadcast(&r->changed);
}

static void reading_start(struct runner *r)
{
    if (r->reading || r->ended) return;
    r->reading = uv_read_start((uv_stream_t *)&r->pipe, on_alloc, on_read) == 0;
    if (!r->reading) r->ended = true;
}

/* ---- frames ---- */
static enum rc lost(struct runner *r, struct err *reterr)
{
    if (r->canceled) return err_set(reterr, RC_CANCELED, "the task was cancelled");
    /* its socket is closed: it has ended, is about to, or is made to; its own signal tells more */
    if (!r->exited) (void)!fiber_cond_wait_ms(&r->changed, 2000);
    if (!r->exited) (void)uv_process_kill(&r->process, SIGKILL);
    while (!r->exited)
        fiber_cond_wait(&r->changed);
    if (r->term_signal != 0)
        return err_set(reterr, RC_IO, "the reader process ended by signal %d (%s)", r->term_signal,
                       strsignal(r->term_signal));
    return err_set(reterr, RC_IO, "the reader process ended with exit code %lld",
                   (long long)r->exit_status);
}

/* The next frame: its body lies at r->up + WIRE_HEAD_BYTES until the next call. */
static enum rc frame_recv(struct runner *r, uint64_t timeout_ms, uint32_t *ret_type,
                          uint32_t *ret_n, struct err *reterr)
{
    uint64_t until = uv_now(fibers_loop(r->fs)) + timeout_ms;

    if (r->frame_n > 0) {
        memmove(r->up, r->up + r->frame_n, r->up_n - r->frame_n);
        r->up_n -= r->frame_n;
        r->frame_n = 0;
        reading_start(r);
    }
    for (;;) {
        uint64_t now = uv_now(fibers_loop(r->fs));

        if (r->canceled) return err_set(reterr, RC_CANCELED, "the task was cancelled");
        if (r->up_n >= WIRE_HEAD_BYTES) {
            uint32_t n = le_get32(r->up + 4);

            if (n > WIRE_UP_MAX) return err_set(reterr, RC_IO, "the reader process talks nonsense");
            if (r->up_n >= WIRE_HEAD_BYTES + n) {
                *ret_type = le_get32(r->up);
                *ret_n = n;
                r->frame_n = WIRE_HEAD_BYTES + n;
                return RC_OK;
            }
        }
        if (r->ended) return lost(r, reterr);
        if (now >= until)
            return err_set(reterr, RC_IO, "the reader process took longer than %llu s",
                           (unsigned long long)timeout_ms / 1000);
        (void)!fiber_cond_wait_ms(&r->changed, until - now); /* looked at again either way */
    }
}

/* Waits until there is none on its way, then sends. body may be NULL: it is in r->down already. */
static enum rc frame_send(struct runner *r, enum wire_type type, const void *body, uint32_t n,
                          struct err *reterr)
{
    uv_buf_t buf = uv_buf_init((char *)r->down, WIRE_HEAD_BYTES + n);

    CHECK(!r->sending && n <= WIRE_READ_MAX);
    if (r->ended || r->canceled) return lost(r, reterr);
    le_put32(r->down, (uint32_t)type);
    le_put32(r->down + 4, n);
    if (body != NULL && n > 0) memcpy(r->down + WIRE_HEAD_BYTES, body, n);
    r->write.data = r;
    if (uv_write(&r->write, (uv_stream_t *)&r->pipe, &buf, 1, on_written) != 0) {
        r->ended = true;
        return lost(r, reterr);
    }
    r->sending = true;
    while (r->sending && !r->canceled && !r->exited)
        fiber_cond_wait(&r->changed);
    return RC_OK; /* a failure shows at the next frame_recv */
}

/* ---- life ---- */
static enum rc spawn(struct runner *r, const struct runner_conf *conf, int fd, int model_fd,
                     struct err *reterr)
{
    char bytes[24], backends[4200], self[4096], name[] = "computed", flag[] = CHILD_FLAG;
    /* one thread a child: parallel are the children; the library's own would only fight */
    char omp[] = "OMP_NUM_THREADS=1", lang[] = "LC_ALL=C";
    char asan[] = "ASAN_OPTIONS=detect_leaks=0:handle_segv=0:handle_abort=0";
    char *env[5] = {omp, lang, asan},
         *args[5] = {name, flag, (char *)(uintptr_t)conf->backend, bytes};
    uv_stdio_container_t stdio[5] = {
        {.flags = UV_IGNORE}, {.flags = UV_IGNORE}, {.flags = UV_IGNORE}};
    uv_process_options_t o = {.exit_cb = on_end,
                              .file = self,
                              .args = args,
                              .env = env,
                              .stdio = stdio,
                              .stdio_count = 5};
    size_t self_n = sizeof(self);
    int bad;

#ifdef __SANITIZE_ADDRESS__
    stdio[2] = (uv_stdio_container_t){.flags = UV_INHERIT_FD, .data.fd = 2}; /* its reports */
#endif
    stdio[WIRE_FD] = (uv_stdio_container_t){.flags = UV_INHERIT_FD, .data.fd = fd};
    stdio[WIRE_MODEL_FD] = (uv_stdio_container_t){.flags = UV_INHERIT_FD, .data.fd = model_fd};
    (void)snprintf(bytes, sizeof(bytes), "%llu", (unsigned long long)conf->address_bytes_max);
    if (conf->backends_dir != NULL) {
        (void)snprintf(backends, sizeof(backends), "MIKURA_BACKENDS=%s", conf->backends_dir);
        env[3] = backends;
    }
    bad = uv_exepath(self, &self_n);
    if (bad == 0) bad = uv_spawn(fibers_loop(r->fs), &r->process, &o);
    r->handles++; /* uv_spawn makes a handle also when it fails */
    if (bad != 0) {
        r->exited = true;
        return err_set(reterr, RC_IO, "the reader process can't be started: %s", uv_strerror(bad));
    }
    return RC_OK;
}

static enum rc start(struct runner *r, const struct runner_conf *conf, int model_fd,
                     struct err *reterr)
{
    uint8_t job[WIRE_JOB_MAX];
    int pair[2];
    uint32_t type, n;
    enum rc rc;

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0)
        return err_set(reterr, RC_IO, "socketpair: %s", strerror(errno));
    if (uv_pipe_open(&r->pipe, pair[0]) != 0) {
        (void)close(pair[0]);
        (void)close(pair[1]);
        return err_set(reterr, RC_IO, "uv_pipe_open");
    }
    rc = spawn(r, conf, pair[1], model_fd, reterr);
    (void)close(pair[1]);
    if (rc != RC_OK) return rc;
    reading_start(r);
    rc = frame_send(r, WIRE_JOB, job, wire_job_encode(&conf->job, job), reterr);
    if (rc == RC_OK) rc = frame_recv(r, START_MS, &type, &n, reterr);
    if (rc != RC_OK) return rc;
    if (type == WIRE_READY) {
        wire_text(r->up + WIRE_HEAD_BYTES, n, r->device, sizeof(r->device));
        return RC_OK;
    }
    if (type == WIRE_REFUSED && n >= 4) {
        char text[300];
        uint32_t code = le_get32(r->up + WIRE_HEAD_BYTES);

        wire_text(r->up + WIRE_HEAD_BYTES + 4, n - 4, text, sizeof(text));
        return err_set(reterr, code > 0 && code < RC_N ? (enum rc)code : RC_IO, "%s", text);
    }
    return err_set(reterr, RC_IO, "the reader process talks nonsense");
}

enum rc runner_open(const struct runner_conf *conf, int model_fd, struct runner **ret_runner,
                    struct err *reterr)
{
    struct runner *r = calloc(1, sizeof(*r));
    enum rc rc;

    if (r == NULL) return err_set(reterr, RC_NOMEM, "runner");
    r->fs = conf->fs;
    fiber_cond_init(&r->changed);
    r->process.data = r->pipe.data = r;
    r->down = malloc(WIRE_HEAD_BYTES + WIRE_READ_MAX);
    if (r->down == NULL || uv_pipe_init(fibers_loop(r->fs), &r->pipe, 0) != 0) {
        free(r->down);
        free(r);
        return err_set(reterr, RC_NOMEM, "runner");
    }
    r->handles++;
    rc = start(r, conf, model_fd, reterr);
    if (rc != RC_OK) {
        runner_close(r);
        return rc;
    }
    *ret_runner = r;
    return RC_OK;
}

static void mask_drop(struct runner *r)
{
    if (r->mask.p != NULL) memset(r->mask.p, 0, r->mask.n);
    free(r->mask.p);
    r->mask = (struct mask){.p = NULL};
    r->mask_got = 0;
}

void runner_close(struct runner *r)
{
    bool spawned;

    if (r == NULL) return;
    r->canceled = true;
    spawned = r->process.exit_cb != NULL;
    if (!r->exited && spawned) (void)uv_process_kill(&r->process, SIGKILL);
    while (!r->exited && spawned)
        fiber_cond_wait(&r->changed);
    uv_close((uv_handle_t *)&r->pipe, on_closed); /* ends a write that is on its way */
    if (r->handles > 1) uv_close((uv_handle_t *)&r->process, on_closed);
    while (r->handles > 0 || r->sending)
        fiber_cond_wait(&r->changed);
    memset(r->down, 0, WIRE_HEAD_BYTES + WIRE_READ_MAX); /* image bytes */
    free(r->down);
    mask_drop(r);
    free(r);
}

void runner_cancel(struct runner *r)
{
    r->canceled = true;
    fiber_cond_broadcast(&r->changed);
}

const char *runner_device(const struct runner *r)
{
    return r->device;
}

int runner_pid(const struct runner *r)
{
    return r->process.pid;
}

/* ---- items ---- */
static enum rc read_serve(struct runner *r, const struct runner_item *item, uint32_t body_n,
                          struct err *reterr)
{
    const uint8_t *p = r->up + WIRE_HEAD_BYTES;
    bool fits = body_n == WIRE_READ_BYTES;
    uint64_t off = fits ? le_get64(p) : UINT64_MAX, size = item->size;
    uint32_t n = fits ? le_get32(p + 8) : 0, slice = fits ? le_get32(p + 12) : 0;
    struct err e = {0};
    uint8_t fail[4 + 600];

    if (slice >= MAX(item->slice_n, 1u))
        return err_set(reterr, RC_IO, "the reader process asks for a slice that is not there");
    if (item->slice_n > 0) size = item->slice_size[slice];
    if (n == 0 || n > WIRE_READ_MAX || off > size || n > size - off)
        return err_set(reterr, RC_IO, "the reader process asks for bytes that are not there");
    if (item->read(item->data, slice, off, r->down + WIRE_HEAD_BYTES, n, &e) == RC_OK)
        return frame_send(r, WIRE_DATA, NULL, n, reterr);
    le_put32(fail, (uint32_t)e.rc);
    n = (uint32_t)MIN(strlen(e.msg), sizeof(fail) - 4);
    memcpy(fail + 4, e.msg, n);
    return frame_send(r, WIRE_FAIL, fail, n + 4, reterr);
}

/* A piece of the mask: they come in order. */
static bool mask_take(struct runner *r, const uint8_t *p, uint32_t n)
{
    struct mask *m = &r->mask;
    uint32_t all;

    if (n <= WIRE_MASK_HEAD) return false;
    all = le_get32(p + 20);
    if (m->p == NULL) {
        m->kind = (enum mask_kind)le_get32(p);
        m->rank = le_get32(p + 4);
        for (uint32_t i = 0; i < 3; i++)
            m->shape[i] = le_get32(p + 8 + 4 * (size_t)i);
        m->n = all;
        if (mask_media_type(m->kind) == NULL || (m->rank != 2 && m->rank != 3) || all == 0 ||
            all > JOB_MASK_BYTES_MAX)
            return false;
        m->p = malloc(all);
        if (m->p == NULL) return false;
    }
    n -= WIRE_MASK_HEAD;
    if (all != m->n || le_get32(p + 24) != r->mask_got || n > m->n - r->mask_got) return false;
    memcpy(m->p + r->mask_got, p + WIRE_MASK_HEAD, n);
    r->mask_got += n;
    return true;
}

const struct mask *runner_mask(const struct runner *r)
{
    return r->mask.p == NULL ? NULL : &r->mask;
}

static enum rc item_send(struct runner *r, const struct runner_item *item, struct err *reterr)
{
    uint8_t *body = r->down + WIRE_HEAD_BYTES;
    size_t name_n = MIN(strlen(item->media_type), (size_t)128);

    CHECK(!r->sending && item->slice_n <= ANALYSIS_SLICES_MAX);
    if (item->slice_n == 0) {
        le_put64(body, item->size);
        memcpy(body + 8, item->media_type, name_n);
        return frame_send(r, WIRE_ITEM, NULL, 8 + (uint32_t)name_n, reterr);
    }
    le_put32(body, item->slice_n);
    for (uint32_t i = 0; i < item->slice_n; i++)
        le_put64(body + 4 + 8 * (size_t)i, item->slice_size[i]);
    return frame_send(r, WIRE_SERIES, NULL, 4 + 8 * item->slice_n, reterr);
}

enum runner_end runner_item_run(struct runner *r, const struct runner_item *item,
                                struct analysis_result *ret, struct err *reterr)
{
    uint64_t until = uv_now(fibers_loop(r->fs)) + RUNNER_ITEM_MS;
    uint32_t type, n;
    char text[400];
    enum rc rc;

    mask_drop(r);
    rc = item_send(r, item, reterr);
    while (rc == RC_OK) {
        uint64_t now = uv_now(fibers_loop(r->fs));
        const uint8_t *body = r->up + WIRE_HEAD_BYTES;

        if (now >= until) {
            (void)err_set(reterr, RC_IO, "took longer than %u s", RUNNER_ITEM_MS / 1000);
            break;
        }
        rc = frame_recv(r, MIN((uint64_t)RUNNER_SILENT_MS, until - now), &type, &n, reterr);
        if (rc != RC_OK) break;
        switch (type) {
        case WIRE_READ:
            rc = read_serve(r, item, n, reterr);
            break;
        case WIRE_MASK:
            if (mask_take(r, body, n)) break;
            (void)err_set(reterr, RC_IO, "the reader process gave no proper mask");
            return RUNNER_LOST;
        case WIRE_RESULT:
            if (wire_result_decode(body, n, item->slice_n, ret) == RC_OK &&
                (r->mask.p == NULL || r->mask_got == r->mask.n))
                return RUNNER_RESULT;
            (void)err_set(reterr, RC_IO, "the reader process gave no proper result");
            return RUNNER_LOST;
        case WIRE_ASIDE:
            wire_text(body, n, text, sizeof(text));
            (void)err_set(reterr, RC_INVAL, "%s", text[0] == '\0' ? "not analysable" : text);
            return RUNNER_ASIDE;
        case WIRE_TROUBLE:
            wire_text(body + MIN(n, 4u), n - MIN(n, 4u), text, sizeof(text));
            (void)err_set(reterr, RC_IO, "%s", text);
            return RUNNER_TROUBLE;
        default:
            (void)err_set(reterr, RC_IO, "the reader process talks nonsense");
            return RUNNER_LOST;
        }
    }
    return RUNNER_LOST;
}
