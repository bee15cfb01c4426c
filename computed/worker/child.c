/* computed/worker/child.c - see child.h. Whether a failure is the image's or ours decides what
 * becomes of the item: the reader's CORRUPT, UNIMPL, BUSY and INVAL are its own; a read that failed
 * and a lack of memory are not. Lack of memory under the address limit is the image's too: another
 * try would meet the same limit. */
#include "computed/worker/child.h"
#include "common/base/strutil.h"
#include "common/image/image.h"
#include "common/sandbox/sandbox.h"
#include "computed/analysis/network.h"
#include "computed/analysis/quality.h"
#include "computed/worker/wire.h"
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#define MODEL_BYTES_MAX ((uint64_t)1 << 30)

struct child {
    struct engine *engine;
    struct model *model;
    struct job_params job;
    struct quality *quality; /* one of the two, by the job's kind */
    struct network *network;
    uint8_t up[WIRE_UP_MAX]; /* the frame being sent */
    bool read_failed;        /* the daemon said FAIL for this image */
    bool gpu;
};
struct scene {
    struct image *img;
    uint32_t frame;
};
struct object { /* whose bytes the daemon has */
    struct child *c;
    uint32_t slice;
};
struct series {
    struct child *c;
    const uint8_t *sizes; /* n x u64, as they came */
    struct object open;   /* one at a time */
};

static bool fd_read(int fd, void *p, size_t n)
{
    uint8_t *at = p;

    while (n > 0) {
        ssize_t got = read(fd, at, n);

        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return false;
        at += got;
        n -= (size_t)got;
    }
    return true;
}

static NORETURN void leave(int code)
{
    _exit(code); /* no handlers: they would want calls that are denied */
}

/* c->up + WIRE_HEAD_BYTES holds the body. */
static void up_send(struct child *c, enum wire_type type, uint32_t n)
{
    const uint8_t *p = c->up;
    size_t left = WIRE_HEAD_BYTES + n;

    le_put32(c->up, (uint32_t)type);
    le_put32(c->up + 4, n);
    while (left > 0) {
        ssize_t put = write(WIRE_FD, p, left);

        if (put < 0 && errno == EINTR) continue;
        if (put <= 0) leave(1);
        p += put;
        left -= (size_t)put;
    }
}

static void up_text(struct child *c, enum wire_type type, const char *text)
{
    size_t n = MIN(strlen(text), (size_t)1024);

    memcpy(c->up + WIRE_HEAD_BYTES, text, n);
    up_send(c, type, (uint32_t)n);
}

static void up_error(struct child *c, enum wire_type type, const struct err *e)
{
    size_t n = MIN(strlen(e->msg), (size_t)1024);

    le_put32(c->up + WIRE_HEAD_BYTES, (uint32_t)e->rc);
    memcpy(c->up + WIRE_HEAD_BYTES + 4, e->msg, n);
    up_send(c, type, (uint32_t)n + 4);
}

/* image_source.read: asks the daemon, in pieces. */
static enum rc source_read(void *ctx, uint64_t off, void *buf, size_t n, struct err *reterr)
{
    const struct object *o = ctx;
    struct child *c = o->c;
    uint8_t *at = buf, head[WIRE_HEAD_BYTES], why[4 + 1024];

    while (n > 0) {
        uint32_t want = (uint32_t)MIN(n, (size_t)WIRE_READ_MAX), type, got;

        le_put64(c->up + WIRE_HEAD_BYTES, off);
        le_put32(c->up + WIRE_HEAD_BYTES + 8, want);
        le_put32(c->up + WIRE_HEAD_BYTES + 12, o->slice);
        up_send(c, WIRE_READ, WIRE_READ_BYTES);
        if (!fd_read(WIRE_FD, head, sizeof(head))) leave(0);
        type = le_get32(head);
        got = le_get32(head + 4);
        if (type == WIRE_FAIL && got >= 4 && got <= sizeof(why)) {
            if (!fd_read(WIRE_FD, why, got)) leave(0);
            c->read_failed = true;
            return err_set(reterr, RC_IO, "%.*s", (int)(got - 4), (const char *)why + 4);
        }
        CHECK(type == WIRE_DATA && got == want); /* the daemon is ours */
        if (!fd_read(WIRE_FD, at, want)) leave(0);
        at += want;
        off += want;
        n -= want;
    }
    return RC_OK;
}

static enum rc tile_read(void *data, uint64_t x, uint64_t y, uint32_t width, uint32_t height,
                         uint8_t *rgb, struct err *reterr)
{
    struct scene *s = data;
    struct image_rect r = {.x = x, .y = y, .width = width, .height = height};

    return image_read(s->img, 0, s->frame, r, IMAGE_RGB8, rgb, reterr);
}

static enum rc score(struct child *c, const struct image_source *src, const char *media_type,
                     struct analysis_result *ret, struct err *reterr)
{
    const struct image_limits limits = IMAGE_LIMITS_DEFAULT;
    struct scene s = {0};
    const struct image_info *in;
    enum rc rc =
        image_open(src, media_type[0] == '\0' ? NULL : media_type, &limits, &s.img, reterr);

    if (rc != RC_OK) return rc;
    in = image_info(s.img);
    s.frame = in->frame_n / 2; /* the middle of a series: its ends are often empty */
    if (c->network != NULL)
        rc = network_image(c->network, s.img, ret, reterr);
    else
        rc = quality_image(c->quality, in->level[0].width, in->level[0].height,
                           strcmp(in->kind, "slide") == 0, c->job.tiles_max, tile_read, &s, ret,
                           reterr);
    image_close(s.img);
    return rc;
}

static void mask_send(struct child *c, const struct mask *m)
{
    const uint32_t most = WIRE_UP_MAX - WIRE_HEAD_BYTES - WIRE_MASK_HEAD;

    for (size_t at = 0; at < m->n;) {
        uint32_t n = (uint32_t)MIN(m->n - at, (size_t)most);
        uint8_t *p = c->up + WIRE_HEAD_BYTES;

        le_put32(p, (uint32_t)m->kind);
        le_put32(p + 4, m->rank);
        for (uint32_t i = 0; i < 3; i++)
            le_put32(p + 8 + 4 * (size_t)i, m->shape[i]);
        le_put32(p + 20, (uint32_t)m->n);
        le_put32(p + 24, (uint32_t)at);
        memcpy(p + WIRE_MASK_HEAD, m->p + at, n);
        up_send(c, WIRE_MASK, WIRE_MASK_HEAD + n);
        at += n;
    }
}

/* network_slices.open */
static enum rc slice_open(void *data, uint32_t slice, struct image **ret_img, struct err *reterr)
{
    const struct image_limits limits = IMAGE_LIMITS_DEFAULT;
    struct series *s = data;
    struct image_source src = {
        .ctx = &s->open, .size = le_get64(s->sizes + 8 * (size_t)slice), .read = source_read};

    s->open = (struct object){s->c, slice};
    return image_open(&src, "application/dicom", &limits, ret_img, reterr);
}

static enum rc series(struct child *c, const uint8_t *body, struct analysis_result *ret,
                      struct err *reterr)
{
    struct series s = {.c = c, .sizes = body + 4};
    struct network_slices slices = {.n = le_get32(body), .open = slice_open, .data = &s};

    if (c->network == NULL)
        return err_set(reterr, RC_INVAL, "a series of slices: kind quality takes single pictures");
    return network_series(c->network, &slices, ret, reterr);
}

static enum rc image(struct child *c, const uint8_t *body, uint32_t n, struct analysis_result *ret,
                     struct err *reterr)
{
    struct object o = {c, 0};
    struct image_source src = {.ctx = &o, .size = le_get64(body), .read = source_read};
    char media_type[129];

    (void)snprintf(media_type, sizeof(media_type), "%.*s", (int)(n - 8), (const char *)body + 8);
    if (src.size == 0) return err_set(reterr, RC_INVAL, "empty: not an image");
    return score(c, &src, media_type, ret, reterr);
}

static void item(struct child *c, uint32_t type, const uint8_t *body, uint32_t n)
{
    struct analysis_result r;
    struct err e = {0};
    enum rc rc;

    c->read_failed = false;
    rc = type == WIRE_SERIES ? series(c, body, &r, &e) : image(c, body, n, &r, &e);
    if (rc == RC_OK) {
        if (c->network != NULL && network_mask(c->network) != NULL)
            mask_send(c, network_mask(c->network));
        up_send(c, WIRE_RESULT, wire_result_encode(&r, c->up + WIRE_HEAD_BYTES));
    } else if (c->read_failed || rc == RC_IO || rc == RC_INTERNAL) {
        up_error(c, WIRE_TROUBLE, &e);
        /* a lost CUDA context does not come back in this process: the next item gets another */
        if (rc == RC_IO && !c->read_failed && c->gpu) leave(1);
    } else {
        up_text(c, WIRE_ASIDE, e.msg);
    }
}

static enum rc model_open(struct child *c, struct err *reterr)
{
    struct model_limits limits;
    off_t n = lseek(WIRE_MODEL_FD, 0, SEEK_END); /* fstat() is newfstatat() in libc: denied */
    uint8_t *p;
    enum rc rc;

    if (n <= 0 || (uint64_t)n > MODEL_BYTES_MAX || lseek(WIRE_MODEL_FD, 0, SEEK_SET) != 0)
        return err_set(reterr, RC_INVAL, "the model is empty or larger than %llu bytes",
                       (unsigned long long)MODEL_BYTES_MAX);
    p = malloc((size_t)n);
    if (p == NULL) return err_set(reterr, RC_NOMEM, "model of %lld bytes", (long long)n);
    if (!fd_read(WIRE_MODEL_FD, p, (size_t)n)) {
        rc = err_set(reterr, RC_IO, "the model's file ended early");
    } else {
        limits = model_limits_default((size_t)n);
        rc = model_load(p, (size_t)n, &limits, &c->model, reterr);
    }
    free(p);
    if (rc != RC_OK) return rc;
    return c->job.kind == JOB_QUALITY
               ? quality_open(c->engine, c->model, &c->quality, reterr)
               : network_open(c->engine, c->model, &c->job, &c->network, reterr);
}

/* The first frame: what is wanted. From the daemon, before anything of a stranger's is read. */
static bool job_read(struct child *c)
{
    uint8_t head[WIRE_HEAD_BYTES], body[WIRE_JOB_MAX];

    if (!fd_read(WIRE_FD, head, sizeof(head)) || le_get32(head) != WIRE_JOB ||
        le_get32(head + 4) != sizeof(body) || !fd_read(WIRE_FD, body, sizeof(body)))
        return false;
    wire_job_decode(body, &c->job);
    return true;
}

int child_main(const char *backend, const char *address_bytes_max)
{
    static const enum be_precision precision[] = {[JOB_FP32] = BE_FP32,
                                                  [JOB_TF32] = BE_TF32,
                                                  [JOB_FP16] = BE_PREC_F16,
                                                  [JOB_BF16] = BE_PREC_BF16};
    static struct child c;
    struct engine_conf conf = {.backend = backend, .threads = 1};
    struct sandbox_conf box = {.keep_fd_max = WIRE_MODEL_FD,
                               .device = strcmp(backend, "cuda") == 0};
    static uint8_t body[WIRE_SERIES_MAX];
    uint8_t head[WIRE_HEAD_BYTES];
    struct err e = {0};
    enum rc rc;

    if (!str_to_u64(address_bytes_max, UINT64_MAX, &box.address_bytes_max)) return 1;
    /* a daemon that is killed takes its children along, also those that compute for ever */
    if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) != 0) return 1;
    if (!job_read(&c)) return 1;
    c.gpu = box.device;
    conf.precision = precision[c.job.precision];
    image_init();
    rc = engine_open(&conf, &c.engine, &e);
    if (rc == RC_OK) rc = sandbox_enter(&box, &e);
    if (rc == RC_OK) rc = model_open(&c, &e);
    if (rc != RC_OK) {
        up_error(&c, WIRE_REFUSED, &e);
        leave(1);
    }
    up_text(&c, WIRE_READY, engine_text(c.engine));
    while (fd_read(WIRE_FD, head, sizeof(head))) {
        uint32_t n = le_get32(head + 4);

        uint32_t type = le_get32(head); /* the daemon is ours */

        CHECK((type == WIRE_ITEM && n >= 8 && n <= 8 + 128) ||
              (type == WIRE_SERIES && n >= 4 && n <= sizeof(body)));
        if (!fd_read(WIRE_FD, body, n)) break;
        item(&c, type, body, n);
    }
    leave(0);
}

int child_probe(const char *backend)
{
    struct engine_conf conf = {.backend = backend, .threads = 1};
    struct engine *e;
    struct err err = {0};
    enum rc rc = engine_open(&conf, &e, &err);

    (void)puts(rc == RC_OK ? engine_text(e) : err.msg);
    if (rc == RC_OK) engine_close(e);
    return rc != RC_OK;
}
