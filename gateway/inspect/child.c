/* gateway/inspect/child.c - see child.h. The child's time is what we wait for it; our own reading,
 * copying and hashing does not count. */
#include "gateway/inspect/child.h"
#include "common/base/clock.h"
#include "common/base/le.h"
#include "gateway/inspect/spawn.h"
#include "gateway/inspect/wire.h"
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

struct job {
    struct inspect_child *c;
    const struct image_source *src;
    const struct deid_out *out;
    deid_finding_cb cb;
    void *data;
    uint64_t waited_ms, read_bytes;
    uint32_t findings_n;
    bool verdict, heard; /* heard: it said anything */
    enum deid_outcome outcome;
    enum rc own; /* a fault of ours (source, output): not the child's */
    uint8_t *buf;
};

void inspect_child_init(struct inspect_child *c, const char *program)
{
    *c = (struct inspect_child){.limit_ms = INSPECT_MS};
    inspect_program(program, c->program);
}

void inspect_child_deinit(struct inspect_child *c)
{
    c->served = false;
    if (c->pid == 0) return;
    (void)kill(c->pid, SIGKILL); /* it may be dead already */
    (void)waitpid(c->pid, NULL, 0);
    (void)close(c->fd);
    c->pid = 0;
}

/* All n bytes, or the child's time is over. */
static enum rc transfer(struct job *j, void *buf, size_t n, bool out, struct err *reterr)
{
    uint8_t *p = buf;

    while (n > 0) {
        ssize_t done = out ? send(j->c->fd, p, n, MSG_NOSIGNAL | MSG_DONTWAIT)
                           : recv(j->c->fd, p, n, MSG_DONTWAIT);
        struct pollfd pfd = {.fd = j->c->fd, .events = out ? POLLOUT : POLLIN};
        uint64_t since;

        if (done > 0) {
            j->heard = j->heard || !out;
            p += done;
            n -= (size_t)done;
            continue;
        }
        if (done == 0) return err_set(reterr, RC_CORRUPT, "the parser ended");
        if (errno == EINTR) continue;
        if (errno != EAGAIN) return err_set(reterr, RC_CORRUPT, "the parser: %s", strerror(errno));
        if (j->waited_ms >= j->c->limit_ms)
            return err_set(reterr, RC_CORRUPT, "the parser took over %u ms", j->c->limit_ms);
        since = clock_boot_ms();
        (void)poll(&pfd, 1, (int)(j->c->limit_ms - j->waited_ms)); /* the next try tells */
        j->waited_ms += clock_boot_ms() - since;
    }
    return RC_OK;
}

static enum rc nonsense(struct err *reterr)
{
    return err_set(reterr, RC_CORRUPT, "the parser said something impossible");
}

static enum rc serve_read(struct job *j, struct err *reterr)
{
    uint8_t ask[12], len[4];
    uint64_t off;
    uint32_t n;
    enum rc rc = transfer(j, ask, sizeof ask, false, reterr);

    if (rc != RC_OK) return rc;
    off = le_get64(ask);
    n = le_get32(ask + 8);
    if (n == 0 || n > INSPECT_READ_MAX || off > j->src->size || n > j->src->size - off)
        return nonsense(reterr);
    j->read_bytes += n;
    if (j->read_bytes > INSPECT_DEID_BYTES_MAX)
        return err_set(reterr, RC_CORRUPT, "the parser read over %llu GiB",
                       (unsigned long long)(INSPECT_DEID_BYTES_MAX >> 30));
    rc = j->own = j->src->read(j->src->ctx, off, j->buf, n, reterr);
    if (rc != RC_OK) return rc;
    le_put32(len, n);
    rc = transfer(j, len, sizeof len, true, reterr);
    return rc != RC_OK ? rc : transfer(j, j->buf, n, true, reterr);
}

static enum rc serve_finding(struct job *j, struct err *reterr)
{
    uint8_t m[INSPECT_FINDING_BYTES];
    struct deid_finding f;
    enum rc rc = transfer(j, m, sizeof m, false, reterr);

    if (rc != RC_OK) return rc;
    f = (struct deid_finding){.rule = m[0], .place = m[1], .change = m[2], .path_n = m[3]};
    for (int i = 0; i < DEID_PATH_MAX; i++)
        f.path[i] = le_get32(m + 4 + 4 * i);
    if (!deid_finding_valid(&f) || ++j->findings_n > INSPECT_FINDINGS_MAX) return nonsense(reterr);
    j->cb(j->data, &f);
    return RC_OK;
}

static enum rc serve_out(struct job *j, uint8_t kind, struct err *reterr)
{
    uint8_t m[16];
    uint64_t off, n;
    enum rc rc;

    if (j->out == NULL) return nonsense(reterr);
    if (kind == 'W') {
        rc = transfer(j, m, 4, false, reterr);
        if (rc != RC_OK) return rc;
        n = le_get32(m);
        if (n == 0 || n > INSPECT_READ_MAX) return nonsense(reterr);
        rc = transfer(j, j->buf, (size_t)n, false, reterr);
        if (rc == RC_OK) rc = j->own = j->out->data(j->out->ctx, j->buf, (size_t)n, reterr);
        return rc;
    }
    if (kind == 'Y') {
        rc = transfer(j, m, 16, false, reterr);
        if (rc != RC_OK) return rc;
        off = le_get64(m);
        n = le_get64(m + 8);
        if (off > j->src->size || n > j->src->size - off) return nonsense(reterr);
        return j->own = j->out->copy(j->out->ctx, off, n, reterr);
    }
    rc = transfer(j, m, 3, false, reterr);
    if (rc != RC_OK) return rc;
    n = le_get16(m + 1);
    if (n > INSPECT_VALUE_MAX || m[0] > DEID_PS_DAYS) return nonsense(reterr);
    rc = transfer(j, j->buf, (size_t)n, false, reterr);
    if (rc == RC_OK)
        rc = j->own = j->out->pseudonym(j->out->ctx, (enum deid_pseudonym)m[0], j->buf, (size_t)n,
                                        j->buf + INSPECT_VALUE_MAX, reterr);
    return rc == RC_OK ? transfer(j, j->buf + INSPECT_VALUE_MAX, 32, true, reterr) : rc;
}

static enum rc serve(struct job *j, bool *ret_end, struct err *reterr)
{
    uint8_t kind, b[2];
    enum rc rc = transfer(j, &kind, 1, false, reterr);

    if (rc != RC_OK) return rc;
    switch (kind) {
    case 'R':
        return serve_read(j, reterr);
    case 'F':
        return serve_finding(j, reterr);
    case 'W':
    case 'Y':
    case 'P':
        return serve_out(j, kind, reterr);
    case 'V':
        rc = transfer(j, b, 1, false, reterr);
        if (rc == RC_OK && b[0] >= DEID_OUTCOME_N) return nonsense(reterr);
        j->verdict = true;
        j->outcome = (enum deid_outcome)b[0];
        return rc;
    case 'E':
        rc = transfer(j, b, 2, false, reterr);
        if (rc != RC_OK || le_get16(b) > INSPECT_REASON_MAX) return nonsense(reterr);
        rc = transfer(j, j->buf, le_get16(b), false, reterr); /* its words are not repeated */
        *ret_end = true;
        if (rc == RC_OK && !j->verdict)
            return err_set(reterr, RC_CORRUPT, "the parser came to no verdict");
        return rc;
    default:
        return nonsense(reterr);
    }
}

static enum rc run(struct job *j, const char *profile, struct err *reterr)
{
    uint8_t head[11] = {j->out == NULL ? 'D' : 'C'};
    size_t n = strlen(profile);
    bool end = false;
    enum rc rc;

    if (n > DEID_PROFILE_BYTES_MAX)
        return j->own = err_set(reterr, RC_INVAL, "the profile is too long");
    le_put64(head + 1, j->src->size);
    le_put16(head + 9, (uint16_t)n);
    rc = transfer(j, head, sizeof head, true, reterr);
    if (rc == RC_OK) {
        memcpy(j->buf, profile, n);
        rc = transfer(j, j->buf, n, true, reterr);
    }
    while (rc == RC_OK && !end)
        rc = serve(j, &end, reterr);
    return rc;
}

enum rc inspect_child_deid(struct inspect_child *c, const struct image_source *src,
                           const char *profile, const struct deid_out *out, deid_finding_cb cb,
                           void *data, enum deid_outcome *ret, struct err *reterr)
{
    static const struct deid_finding broken = {.rule = DEID_MALFORMED};
    struct job j = {.c = c, .src = src, .out = out, .cb = cb, .data = data};
    enum rc rc = RC_OK;

    j.buf = malloc(INSPECT_READ_MAX);
    if (j.buf == NULL) return err_set(reterr, RC_NOMEM, "an inspection");
    for (int tries = 0; tries < 2; tries++) {
        bool served = c->served;

        if (c->pid == 0) rc = inspect_spawn(c->program, &c->pid, &c->fd, reterr);
        if (rc != RC_OK) goto out;
        rc = run(&j, profile, reterr);
        if (rc == RC_OK || !served || j.heard || j.own != RC_OK) break;
        inspect_child_deinit(c); /* it ended after an earlier file: not this one's fault */
    }
    *ret = j.outcome;
    c->served = true;
    if (rc == RC_OK) {
        if (reterr != NULL) reterr->msg[0] = 0;
        goto out;
    }
    inspect_child_deinit(c); /* it may be in any state */
    if (j.own != RC_OK) goto out;
    cb(data, &broken);
    *ret = DEID_REFUSED;
    rc = RC_OK;
out:
    free(j.buf);
    return rc;
}
