/* gateway/inspect/main.c - mikura-inspect: reads an object's attributes for queries, checks and
 * cleans it by a de-identification profile, locked in.
 *
 * Started with a socketpair as descriptor 3 and nothing else open. It holds
 * no key; bytes of the one object under inspection come over the socketpair when asked for. */
#include "common/base/le.h"
#include "common/base/log.h"
#include "common/image/deid/deid.h"
#include "common/image/deid/text_reader.h"
#include "common/sandbox/sandbox.h"
#include "gateway/inspect/wire.h"
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

static void full_read(void *p, size_t n)
{
    uint8_t *to = p;

    while (n > 0) {
        ssize_t got = read(INSPECT_FD, to, n);

        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) _exit(0); /* the parent is gone */
        to += got;
        n -= (size_t)got;
    }
}

static void full_write(const void *p, size_t n)
{
    const uint8_t *from = p;

    while (n > 0) {
        ssize_t put = write(INSPECT_FD, from, n);

        if (put < 0 && errno == EINTR) continue;
        if (put <= 0) _exit(0);
        from += put;
        n -= (size_t)put;
    }
}

static enum rc source_read(void *ctx, uint64_t off, void *buf, size_t n, struct err *reterr)
{
    uint8_t *to = buf;

    (void)ctx;
    while (n > 0) {
        uint32_t part = (uint32_t)MIN(n, (size_t)INSPECT_READ_MAX);
        uint8_t ask[13] = {'R'}, len[4];

        le_put64(ask + 1, off);
        le_put32(ask + 9, part);
        full_write(ask, sizeof ask);
        full_read(len, sizeof len);
        if (le_get32(len) != part) return err_set(reterr, RC_IO, "the object could not be read");
        full_read(to, part);
        to += part;
        off += part;
        n -= part;
    }
    return RC_OK;
}

/* ---- attributes ---- */

static enum rc fact(void *data, const char *name, const char *value)
{
    size_t name_n = strlen(name), value_n = strlen(value);
    uint8_t head[5] = {'A'};

    (void)data;
    if (name_n == 0 || name_n > INSPECT_NAME_MAX || value_n > INSPECT_VALUE_MAX) return RC_OK;
    le_put16(head + 1, (uint16_t)name_n);
    le_put16(head + 3, (uint16_t)value_n);
    full_write(head, sizeof head);
    full_write(name, name_n);
    full_write(value, value_n);
    return RC_OK;
}

/* ---- de-identification ---- */

static void finding(void *data, const struct deid_finding *f)
{
    uint8_t m[1 + INSPECT_FINDING_BYTES] = {'F', f->rule, f->place, f->change, f->path_n};

    (void)data;
    for (int i = 0; i < DEID_PATH_MAX; i++)
        le_put32(m + 5 + 4 * i, f->path[i]);
    full_write(m, sizeof m);
}

static enum rc out_copy(void *ctx, uint64_t off, uint64_t n, struct err *reterr)
{
    uint8_t m[17] = {'Y'};

    (void)ctx;
    (void)reterr; /* a parent that cannot write ends this process */
    le_put64(m + 1, off);
    le_put64(m + 9, n);
    full_write(m, sizeof m);
    return RC_OK;
}

static enum rc out_data(void *ctx, const void *p, size_t n, struct err *reterr)
{
    const uint8_t *from = p;

    (void)ctx;
    (void)reterr;
    while (n > 0) {
        uint32_t part = (uint32_t)MIN(n, (size_t)INSPECT_READ_MAX);
        uint8_t m[5] = {'W'};

        le_put32(m + 1, part);
        full_write(m, sizeof m);
        full_write(from, part);
        from += part;
        n -= part;
    }
    return RC_OK;
}

static enum rc out_pseudonym(void *ctx, enum deid_pseudonym kind, const void *p, size_t n,
                             uint8_t ret[32], struct err *reterr)
{
    uint16_t len = (uint16_t)MIN(n, (size_t)INSPECT_VALUE_MAX);
    uint8_t m[4] = {'P', (uint8_t)kind};

    (void)ctx;
    (void)reterr;
    le_put16(m + 2, len);
    full_write(m, sizeof m);
    full_write(p, len);
    full_read(ret, 32);
    return RC_OK;
}

static enum rc line_read(void *ctx, const uint8_t *grey, uint32_t width, uint32_t height,
                         bool *ret_text, struct err *reterr)
{
    return text_reader_read(ctx, grey, width, height, ret_text, reterr);
}

/* reader NULL: none, and no text is cleared. What was cleaned is checked again by a job of its own.
 */
static enum rc deid(uint8_t kind, const struct image_source *src, struct text_reader *reader,
                    struct err *reterr)
{
    const struct deid_reader lines = {reader, line_read};
    static const struct deid_out out = {NULL, out_copy, out_data, out_pseudonym};
    static char text[DEID_PROFILE_BYTES_MAX];
    static struct deid_profile profile;
    enum deid_outcome outcome = DEID_REFUSED;
    uint8_t len[2], verdict[2] = {'V'};
    enum rc rc;

    full_read(len, sizeof len);
    if (le_get16(len) > sizeof text) _exit(1); /* this parent does not speak our wire */
    full_read(text, le_get16(len));
    rc = deid_profile_parse(text, le_get16(len), &profile, reterr);
    if (rc == RC_OK && kind == 'D') rc = deid_check(src, &profile, finding, NULL, &outcome, reterr);
    if (rc == RC_OK && kind == 'D')
        rc = deid_text(src, &profile, reader == NULL ? NULL : &lines, finding, NULL, &outcome,
                       reterr);
    if (rc == RC_OK && kind == 'C')
        rc = deid_clean(src, &profile, &out, finding, NULL, &outcome, reterr);
    if (rc != RC_OK) return rc;
    verdict[1] = (uint8_t)outcome;
    full_write(verdict, sizeof verdict);
    return RC_OK;
}

static uint64_t cpu_seconds(void)
{
    struct rusage u = {0};

    (void)getrusage(RUSAGE_SELF, &u); /* fails for other arguments only */
    return (uint64_t)(u.ru_utime.tv_sec + u.ru_stime.tv_sec);
}

int main(void)
{
    const struct sandbox_conf conf = {.address_bytes_max = INSPECT_MEMORY_MAX,
                                      .keep_fd_max = INSPECT_FD,
                                      .cpu_s_max = INSPECT_CPU_S_MAX};
    struct text_reader *reader = NULL;
    struct err err = {0};

    log_setup("mikura-inspect", LOG_WARN);
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* it ends with its parent; the socket tells too */
    image_init();                           /* opens the DICOM dictionary: not possible later */
    if (text_reader_open(NULL, &reader, &err) != RC_OK) /* reads its files: likewise */
        log_warn("inspect_no_reader", "pictures with lines in them go to quarantine: %s", err.msg);
    if (sandbox_enter(&conf, &err) != RC_OK) {
        log_error("inspect_sandbox", "%s", err.msg);
        return 1;
    }
    for (;;) {
        struct image_source src = {.read = source_read};
        uint8_t job[9], end[3] = {'E'};
        uint16_t n = 0;
        enum rc rc;

        full_read(job, sizeof job);
        src.size = le_get64(job + 1);
        err.msg[0] = 0;
        rc = job[0] == 'A' ? image_attributes(&src, fact, NULL, &err)
                           : deid(job[0], &src, reader, &err);
        if (rc != RC_OK) n = (uint16_t)MIN(strlen(err.msg), (size_t)INSPECT_REASON_MAX);
        le_put16(end + 1, n);
        full_write(end, sizeof end);
        full_write(err.msg, n);
        if (cpu_seconds() >= INSPECT_CPU_S) return 0; /* a fresh one takes over */
    }
}
