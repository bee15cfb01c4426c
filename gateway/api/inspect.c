/* gateway/api/inspect.c - see inspect.h. The media type is found here, from a table of magic
 * numbers; parsing is mikura-inspect's, whose every word is held against a limit. */
#include "gateway/api/inspect.h"
#include "common/base/le.h"
#include "common/base/log.h"
#include "common/image/image.h"
#include "gateway/inspect/spawn.h"
#include "gateway/inspect/wire.h"
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHILDREN 2u

struct child {
    pid_t pid; /* 0: none */
    int fd;
    uv_poll_t *poll; /* heap: libuv closes later */
    struct fiber_event ready;
    bool busy;
};
struct gw_inspector {
    struct gw *gw;
    char program[512];
    struct child children[CHILDREN];
    struct fiber_cond free;
};

enum rc gw_inspector_open(struct gw *gw, const char *program, struct gw_inspector **ret,
                          struct err *reterr)
{
    struct gw_inspector *in = calloc(1, sizeof *in);

    if (in == NULL) return err_set(reterr, RC_NOMEM, "the inspector");
    in->gw = gw;
    fiber_cond_init(&in->free);
    inspect_program(program, in->program);
    *ret = in;
    return RC_OK;
}

static void poll_closed(uv_handle_t *h)
{
    free(h);
}

static void child_kill(struct child *c)
{
    if (c->pid == 0) return;
    (void)kill(c->pid, SIGKILL); /* it may be dead already */
    (void)waitpid(c->pid, NULL, 0);
    (void)uv_poll_stop(c->poll);
    uv_close((uv_handle_t *)c->poll, poll_closed);
    (void)close(c->fd);
    c->pid = 0;
    c->poll = NULL;
}

void gw_inspector_close(struct gw_inspector *in)
{
    if (in == NULL) return;
    for (uint32_t i = 0; i < CHILDREN; i++)
        child_kill(&in->children[i]);
    free(in);
}

static void on_poll(uv_poll_t *h, int status, int events)
{
    struct child *c = h->data;

    (void)status; /* the next read or write tells */
    (void)events;
    (void)uv_poll_stop(h);
    fiber_event_set(&c->ready);
}

static enum rc child_start(struct gw_inspector *in, struct child *c, struct err *reterr)
{
    enum rc rc = inspect_spawn(in->program, &c->pid, &c->fd, reterr);

    if (rc != RC_OK) {
        c->pid = 0;
        return rc;
    }
    c->poll = calloc(1, sizeof *c->poll);
    if (c->poll == NULL || fcntl(c->fd, F_SETFL, O_NONBLOCK) != 0 ||
        uv_poll_init(in->gw->loop, c->poll, c->fd) != 0) {
        free(c->poll);
        c->poll = NULL;
        (void)kill(c->pid, SIGKILL);
        (void)waitpid(c->pid, NULL, 0);
        (void)close(c->fd);
        c->pid = 0;
        return err_set(reterr, RC_IO, "a child's socket");
    }
    c->poll->data = c;
    return RC_OK;
}

/* Until all n bytes went, or the time is over. */
static enum rc transfer(struct child *c, uint8_t *p, size_t n, bool out, uint64_t until_ms,
                        struct err *reterr)
{
    while (n > 0) {
        ssize_t done = out ? send(c->fd, p, n, MSG_NOSIGNAL) : recv(c->fd, p, n, 0);
        uint64_t now;

        if (done > 0) {
            p += done;
            n -= (size_t)done;
            continue;
        }
        if (done == 0) return err_set(reterr, RC_IO, "it ended");
        if (errno == EINTR) continue;
        if (errno != EAGAIN) return err_set(reterr, RC_IO, "its socket: %s", strerror(errno));
        now = uv_now(c->poll->loop);
        c->ready.set = false;
        if (now >= until_ms ||
            uv_poll_start(c->poll, out ? UV_WRITABLE : UV_READABLE | UV_DISCONNECT, on_poll) != 0 ||
            fiber_event_wait_ms(&c->ready, until_ms - now) != RC_OK) {
            return err_set(reterr, RC_DEADLINE, "it did not answer within %u s", INSPECT_MS / 1000);
        }
    }
    return RC_OK;
}

/* ---- an object's bytes ---- */
struct range {
    uint8_t *p;
    size_t n;
};
static enum rc take(void *arg, const struct object_piece *piece)
{
    struct range *r = arg;

    memcpy(r->p + r->n, piece->p, piece->n);
    r->n += piece->n;
    piece->owner_free(piece->owner);
    return RC_OK;
}

#define WINDOW_BYTES (1u << 20)
struct content {
    struct gw *gw;
    const struct gw_case *cs;
    const struct gw_object *o;
    const struct slice *plain;
    uint64_t size, left_ms;
    uint8_t *window; /* WINDOW_BYTES; a file that is read through costs few reads of replicas */
    uint64_t window_off;
    uint32_t window_n;
};
static enum rc content_read(struct content *k, uint64_t off, uint32_t n, uint8_t *to,
                            struct err *reterr)
{
    struct range r = {.p = to};
    enum rc rc;

    if (k->plain != NULL) {
        memcpy(to, k->plain->p + off, n);
        return RC_OK;
    }
    if (k->window == NULL)
        return gw_object_bytes(k->gw, k->cs, k->o, off, n, k->left_ms, take, &r, reterr);
    if (off < k->window_off || off + n > k->window_off + k->window_n) {
        uint32_t fill = (uint32_t)MIN((uint64_t)WINDOW_BYTES, k->size - off);

        /* what follows was read before, or is far from it: then only what was asked */
        if (off != k->window_off + k->window_n) fill = n;
        r.p = k->window;
        k->window_n = 0;
        rc = gw_object_bytes(k->gw, k->cs, k->o, off, fill, k->left_ms, take, &r, reterr);
        if (rc != RC_OK) return rc;
        k->window_off = off;
        k->window_n = fill;
    }
    memcpy(to, k->window + (off - k->window_off), n);
    return RC_OK;
}

/* ---- one job ---- */
static enum rc add_fact(struct gw_facts *f, struct arena *a, const char *name, const char *value)
{
    Mikura__V1__Attribute *at = arena_alloc(a, sizeof *at);
    size_t name_n = strlen(name), digits = strspn(value, "0123456789"), n = strlen(value);
    bool uid = name_n >= 3 && strcmp(name + name_n - 3, "UID") == 0;
    char *end;

    if (at == NULL) return RC_NOMEM;
    mikura__v1__attribute__init(at);
    at->name = arena_str(a, "%s", name);
    if (!uid && n > 0 && digits == n && n <= 18) {
        at->value_case = MIKURA__V1__ATTRIBUTE__VALUE_INTEGER;
        at->integer = (int64_t)strtoll(value, NULL, 10);
    } else if (!uid && n > 0 && strspn(value, "0123456789.-") == n &&
               (at->real = strtod(value, &end), *end == 0 && isfinite(at->real))) {
        at->value_case = MIKURA__V1__ATTRIBUTE__VALUE_REAL;
    } else {
        at->value_case = MIKURA__V1__ATTRIBUTE__VALUE_TEXT;
        at->text = arena_str(a, "%s", value);
        if (at->text == NULL) return RC_NOMEM;
    }
    f->attributes[f->n_attributes++] = at;
    return at->name == NULL ? RC_NOMEM : RC_OK;
}

/* Codes, UIDs and numbers are ASCII; a child's word goes into messages that must be UTF-8. */
static bool plain_text(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if ((uint8_t)s[i] < 0x20 || (uint8_t)s[i] > 0x7e) return false;
    }
    return true;
}

static enum rc serve_fact(struct child *c, struct gw_facts *f, struct arena *a, uint64_t until,
                          struct err *reterr)
{
    char name[INSPECT_NAME_MAX + 1], value[INSPECT_VALUE_MAX + 1];
    uint8_t head[4];
    uint16_t name_n, value_n;
    enum rc rc = transfer(c, head, sizeof head, false, until, reterr);

    if (rc != RC_OK) return rc;
    name_n = le_get16(head);
    value_n = le_get16(head + 2);
    if (name_n == 0 || name_n > INSPECT_NAME_MAX || value_n > INSPECT_VALUE_MAX ||
        f->n_attributes == INSPECT_FACTS_MAX) {
        return err_set(reterr, RC_CORRUPT, "it told an impossible attribute");
    }
    rc = transfer(c, (uint8_t *)name, name_n, false, until, reterr);
    if (rc == RC_OK) rc = transfer(c, (uint8_t *)value, value_n, false, until, reterr);
    if (rc != RC_OK) return rc;
    name[name_n] = value[value_n] = 0;
    if (!plain_text(name, name_n) || !plain_text(value, value_n))
        return RC_OK; /* not fit for an index */
    return add_fact(f, a, name, value);
}

/* Reading the object is our time, not the child's: until moves with it. */
static enum rc serve_read(struct child *c, struct content *k, uint8_t *buf, uint64_t *total,
                          uint64_t max, uint64_t *until, struct err *reterr)
{
    uint64_t since;
    uint8_t ask[12], len[4] = {0};
    uint64_t off;
    uint32_t n;
    enum rc rc = transfer(c, ask, sizeof ask, false, *until, reterr);

    if (rc != RC_OK) return rc;
    off = le_get64(ask);
    n = le_get32(ask + 8);
    if (n == 0 || n > INSPECT_READ_MAX || off > k->size || n > k->size - off) {
        return err_set(reterr, RC_CORRUPT, "it asked for bytes outside of the object");
    }
    *total += n;
    if (*total > max)
        return err_set(reterr, RC_BUSY, "it read more than %llu MiB",
                       (unsigned long long)(max >> 20));
    since = uv_now(c->poll->loop);
    if (content_read(k, off, n, buf, reterr) != RC_OK) n = 0;
    *until += uv_now(c->poll->loop) - since;
    le_put32(len, n);
    rc = transfer(c, len, sizeof len, true, *until, reterr);
    return rc != RC_OK ? rc : transfer(c, buf, n, true, *until, reterr);
}

static enum rc serve_end(struct child *c, const struct content *k, uint8_t *buf, uint64_t until,
                         struct err *reterr)
{
    uint8_t len[2];
    uint16_t n;
    enum rc rc = transfer(c, len, sizeof len, false, until, reterr);

    if (rc != RC_OK) return rc;
    n = le_get16(len);
    if (n > INSPECT_REASON_MAX) return err_set(reterr, RC_CORRUPT, "it gave an impossible reason");
    rc = transfer(c, buf, n, false, until, reterr);
    if (rc == RC_OK && n > 0)
        log_debug("inspect", "object of %llu bytes: %.*s", (unsigned long long)k->size, (int)n,
                  (const char *)buf);
    return rc;
}

static enum rc job(struct child *c, struct content *k, struct gw_facts *f, struct arena *a,
                   struct err *reterr)
{
    uint64_t until = uv_now(c->poll->loop) + INSPECT_MS, total = 0;
    uint8_t *buf = arena_alloc(a, INSPECT_READ_MAX), head[9] = {'A'}, kind;
    enum rc rc;

    f->attributes = arena_alloc(a, INSPECT_FACTS_MAX * sizeof(Mikura__V1__Attribute *));
    if (buf == NULL || f->attributes == NULL) return err_set(reterr, RC_NOMEM, "an inspection");
    le_put64(head + 1, k->size);
    rc = transfer(c, head, sizeof head, true, until, reterr);
    while (rc == RC_OK) {
        rc = transfer(c, &kind, 1, false, until, reterr);
        if (rc != RC_OK) break;
        if (kind == 'R') {
            rc = serve_read(c, k, buf, &total, INSPECT_BYTES_MAX, &until, reterr);
        } else if (kind == 'A') {
            rc = serve_fact(c, f, a, until, reterr);
        } else if (kind == 'E') {
            return serve_end(c, k, buf, until, reterr);
        } else {
            rc = err_set(reterr, RC_CORRUPT, "it said something unknown");
        }
    }
    return rc;
}

/* ---- the gate ---- */

static void reason_add(void *data, const struct deid_finding *fi)
{
    struct gw_verdict *v = data;
    char field[DEID_FIELD_BYTES];

    if (v->n_reasons == GW_REASONS_MAX) return;
    deid_finding_field(fi, field);
    v->reasons[v->n_reasons] =
        arena_str(v->a, "%s%s%s", deid_rule_name(fi->rule), field[0] == 0 ? "" : " ", field);
    if (v->reasons[v->n_reasons] != NULL) v->n_reasons++;
}

static enum rc serve_finding(struct child *c, struct gw_verdict *v, uint64_t until,
                             struct err *reterr)
{
    uint8_t m[INSPECT_FINDING_BYTES];
    struct deid_finding fi;
    enum rc rc = transfer(c, m, sizeof m, false, until, reterr);

    if (rc != RC_OK) return rc;
    fi = (struct deid_finding){.rule = m[0], .place = m[1], .change = m[2], .path_n = m[3]};
    for (int i = 0; i < DEID_PATH_MAX; i++)
        fi.path[i] = le_get32(m + 4 + 4 * i);
    if (!deid_finding_valid(&fi))
        return err_set(reterr, RC_CORRUPT, "it told an impossible finding");
    reason_add(v, &fi);
    return RC_OK;
}

static enum rc deid_job(struct child *c, struct content *k, const char *profile,
                        struct gw_verdict *v, struct arena *a, struct err *reterr)
{
    uint64_t until = uv_now(c->poll->loop) + INSPECT_MS, total = 0;
    uint8_t *buf = arena_alloc(a, INSPECT_READ_MAX), head[11] = {'D'}, kind;
    size_t n = strlen(profile);
    uint32_t found = 0;
    bool verdict = false;
    enum rc rc;

    if (buf == NULL) return err_set(reterr, RC_NOMEM, "an inspection");
    le_put64(head + 1, k->size);
    le_put16(head + 9, (uint16_t)n);
    memcpy(buf, profile, n);
    rc = transfer(c, head, sizeof head, true, until, reterr);
    if (rc == RC_OK) rc = transfer(c, buf, n, true, until, reterr);
    while (rc == RC_OK) {
        rc = transfer(c, &kind, 1, false, until, reterr);
        if (rc != RC_OK) break;
        if (kind == 'R') {
            rc = serve_read(c, k, buf, &total, INSPECT_DEID_BYTES_MAX, &until, reterr);
        } else if (kind == 'F' && ++found <= INSPECT_FINDINGS_MAX) {
            rc = serve_finding(c, v, until, reterr);
        } else if (kind == 'V') {
            rc = transfer(c, buf, 1, false, until, reterr);
            if (rc == RC_OK && buf[0] >= DEID_OUTCOME_N)
                return err_set(reterr, RC_CORRUPT, "it gave an impossible verdict");
            v->outcome = (enum deid_outcome)buf[0];
            verdict = true;
        } else if (kind == 'E') {
            rc = serve_end(c, k, buf, until, reterr);
            if (rc == RC_OK && !verdict)
                return err_set(reterr, RC_CORRUPT, "it came to no verdict");
            return rc;
        } else {
            rc = err_set(reterr, RC_CORRUPT, "it said something unknown");
        }
    }
    return rc;
}

static struct child *child_take(struct gw_inspector *in)
{
    for (;;) {
        for (uint32_t i = 0; i < CHILDREN; i++) {
            if (in->children[i].busy) continue;
            in->children[i].busy = true;
            return &in->children[i];
        }
        fiber_cond_wait(&in->free);
    }
}

/* Only what common/image reads is worth a look. */
static bool parsed(const char *type)
{
    return strncmp(type, "image/", 6) == 0 || strcmp(type, "application/dicom") == 0;
}

static struct content content_of(struct gw *gw, const struct gw_case *cs, const struct gw_object *o,
                                 const struct slice *plain, uint64_t left_ms)
{
    return (struct content){.gw = gw,
                            .cs = cs,
                            .o = o,
                            .plain = plain,
                            .size = plain != NULL ? plain->n : o->manifest.size_bytes,
                            .left_ms = left_ms};
}

/* One question about one object: its facts, or (profile not NULL) the gate's verdict. */
struct question {
    struct content *k;
    struct arena *a;
    struct gw_facts *facts;
    const char *profile;
    struct gw_verdict *verdict;
};

/* Asks a child, and another one when that died. What a dead one told is forgotten. */
static enum rc child_ask(struct gw_inspector *in, const struct question *q, struct err *reterr)
{
    struct child *c = child_take(in);
    enum rc rc = RC_OK;

    for (int tries = 0; tries < 2; tries++) { /* one that died while idle costs nothing */
        if (q->profile != NULL) q->verdict->n_reasons = 0;
        if (c->pid == 0) rc = child_start(in, c, reterr);
        if (rc == RC_OK)
            rc = q->profile == NULL ? job(c, q->k, q->facts, q->a, reterr)
                                    : deid_job(c, q->k, q->profile, q->verdict, q->a, reterr);
        if (rc == RC_OK) break;
        child_kill(c); /* it may be in any state */
        if (q->profile == NULL) q->facts->n_attributes = 0;
        if (rc != RC_IO || tries == 1) break;
        rc = RC_OK;
    }
    c->busy = false;
    fiber_cond_broadcast(&in->free);
    return rc;
}

enum rc gw_inspect(struct gw *gw, const struct gw_case *cs, const struct gw_object *o,
                   const struct slice *plain, struct slice head, struct arena *a, uint64_t left_ms,
                   struct gw_facts *ret, struct err *reterr)
{
    struct content k = content_of(gw, cs, o, plain, left_ms);
    uint32_t head_n = (uint32_t)MIN(k.size, (uint64_t)IMAGE_SNIFF_BYTES);
    struct question q = {.k = &k, .a = a, .facts = ret};
    struct err err = {0};
    enum rc rc;

    if (head.n < head_n) {
        uint8_t *p = arena_alloc(a, IMAGE_SNIFF_BYTES);

        if (p == NULL) return err_set(reterr, RC_NOMEM, "an inspection");
        rc = content_read(&k, 0, head_n, p, reterr);
        if (rc != RC_OK) return rc;
        head = (struct slice){p, head_n};
    }
    (void)snprintf(ret->media_type, sizeof ret->media_type, "%s", image_sniff(head.p, head_n));
    if (gw->inspector == NULL || !parsed(ret->media_type)) return RC_OK;
    rc = child_ask(gw->inspector, &q, &err);
    if (rc != RC_OK) {
        if (rc == RC_NOMEM) *reterr = err;
        log_warn("inspect_failed",
                 "an object of %llu bytes (%s) has no attributes: mikura-inspect: %s",
                 (unsigned long long)k.size, ret->media_type, err.msg);
    }
    return rc == RC_NOMEM ? RC_NOMEM : RC_OK;
}

enum rc gw_deid(struct gw *gw, const struct gw_case *cs, const struct gw_object *o,
                const struct slice *plain, const char *profile, struct arena *a, uint64_t left_ms,
                struct gw_verdict *ret, struct err *reterr)
{
    static const struct deid_finding broken = {.rule = DEID_MALFORMED};
    struct content k = content_of(gw, cs, o, plain, left_ms);
    struct deid_profile *p = arena_alloc(a, sizeof *p);
    const char *text = deid_profile_shipped(profile);
    struct gw_verdict name = {.a = a};
    struct question q = {.k = &k, .a = a, .profile = text, .verdict = ret};
    struct err err = {0};
    char *path;
    enum rc rc = RC_OK;

    *ret = (struct gw_verdict){.a = a, .outcome = DEID_REFUSED};
    if (p == NULL) return err_set(reterr, RC_NOMEM, "an inspection");
    if (text == NULL || gw->inspector == NULL) { /* never stored as if it had been looked at */
        return err_set(reterr, RC_UNAVAIL,
                       "this gateway cannot check de-identification by profile '%s': %s", profile,
                       text == NULL ? "it does not know it" : "it has no mikura-inspect");
    }
    rc = deid_profile_parse(text, strlen(text), p, reterr);
    if (rc != RC_OK) return rc;
    if (plain == NULL) {
        k.window = arena_alloc(a, WINDOW_BYTES);
        if (k.window == NULL) return err_set(reterr, RC_NOMEM, "an inspection");
    }
    rc = child_ask(gw->inspector, &q, &err);
    if (rc == RC_NOMEM) return err_set(reterr, rc, "%s", err.msg);
    if (rc != RC_OK) {
        log_warn("gate_failed", "an object of %llu bytes goes to quarantine: mikura-inspect: %s",
                 (unsigned long long)k.size, err.msg);
        ret->outcome = DEID_REFUSED;
        reason_add(ret, &broken);
    }
    path = gw_dup(a, o->path);
    if (path == NULL) return err_set(reterr, RC_NOMEM, "an inspection");
    deid_check_name(path, p, reason_add, &name);
    if (name.n_reasons > 0) {
        ret->outcome = DEID_REFUSED;
        if (ret->n_reasons < GW_REASONS_MAX) ret->reasons[ret->n_reasons++] = name.reasons[0];
    }
    return RC_OK;
}
