/* common/fiber/rpc_fiber.c - inboxes between rpc.h's callbacks and a fiber.
 *
 * A callback only stores and wakes. A dead call's handler sees it at its next wait and ends;
 * rpc_call_finish is always called, once, when the handler has returned. */
#include "common/fiber/rpc_fiber.h"
#include "common/net/rpc_wire.h"
#include "common/base/log.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct item {
    struct list link;
    struct rpc_msg *m;
};

static bool inbox_push(struct list *inbox, struct rpc_msg *m)
{
    struct item *it = malloc(sizeof *it);

    if (it == NULL) return false;
    it->m = rpc_msg_ref(m);
    list_push_back(inbox, &it->link);
    return true;
}

static struct rpc_msg *inbox_pop(struct list *inbox)
{
    struct item *it = CONTAINER_OF(inbox->next, struct item, link);
    struct rpc_msg *m = it->m;

    list_remove(&it->link);
    free(it);
    return m;
}

static void inbox_clear(struct list *inbox)
{
    while (!list_empty(inbox))
        rpc_msg_unref(inbox_pop(inbox));
}

/* ---- server ---- */
struct fcalls {
    struct fibers *fs;
    const struct fcall_method *methods;
    struct rpc_method *rpc;
    void *service;
    uint32_t running;
};

static void run(void *arg)
{
    struct fcall *c = arg;
    struct fcalls *cs = c->service;
    struct err err = {0};
    enum rc rc;

    c->service = cs->service;
    rc = c->priv.method->fn(c, &err);
    if (rc != RC_OK && err.rc == RC_OK) (void)err_set(&err, rc, "%s", rc_text(rc));
    if (c->priv.call != NULL) {
        rpc_call_set_data(c->priv.call, NULL);
        rpc_call_finish(c->priv.call, rc, rc == RC_OK ? NULL : &err);
    }
    inbox_clear(&c->priv.inbox);
    arena_deinit(&c->arena);
    free(c);
    cs->running--;
}

static struct fcall *call_begin(struct rpc_call *rc_call)
{
    struct fcalls *cs = rpc_call_service(rc_call);
    struct fcall *c = calloc(1, sizeof *c);
    const char *path = NULL;

    if (c == NULL) return NULL;
    arena_init(&c->arena);
    c->service = cs; /* until run() */
    c->priv.call = rc_call;
    list_init(&c->priv.inbox);
    path = rpc_call_path(rc_call);
    if (rpc_call_peer(rc_call) != NULL) c->priv.peer = *rpc_call_peer(rc_call);
    (void)snprintf(c->priv.rid, sizeof c->priv.rid, "%s", rpc_call_rid(rc_call));
    c->priv.loop = rpc_call_loop(rc_call);
    c->priv.deadline_ms = rpc_call_deadline_ms(rc_call);
    for (const struct fcall_method *m = cs->methods; m->path != NULL; m++) {
        if (strcmp(m->path, path) == 0) c->priv.method = m;
    }
    CHECK(c->priv.method != NULL);
    if (fiber_spawn(cs->fs, run, c) != RC_OK) {
        free(c);
        return NULL;
    }
    cs->running++;
    rpc_call_set_data(rc_call, c);
    return c;
}

static void on_start(struct rpc_call *call)
{
    struct err err;

    if (call_begin(call) != NULL) return;
    (void)err_set(&err, RC_BUSY, "too many calls at once; retry later");
    rpc_call_finish(call, RC_BUSY, &err);
}

static void on_message(struct rpc_call *call, struct rpc_msg *m)
{
    struct fcall *c = rpc_call_data(call);

    if (c == NULL) { /* the handler has returned */
        rpc_call_consume(call, m->n);
        return;
    }
    if (!inbox_push(&c->priv.inbox, m)) {
        c->priv.dead = true;
        c->priv.dead_rc = RC_NOMEM;
    }
    fiber_event_set(&c->priv.changed);
}

static void on_half_close(struct rpc_call *call)
{
    struct fcall *c = rpc_call_data(call);

    if (c == NULL) return;
    c->priv.half_closed = true;
    fiber_event_set(&c->priv.changed);
}

static void on_end(struct rpc_call *call, enum rc rc)
{
    struct fcall *c = rpc_call_data(call);

    if (c == NULL) return;
    c->priv.call = NULL; /* it is gone when we return */
    c->priv.dead = true;
    c->priv.dead_rc = rc == RC_OK ? RC_CANCELED : rc;
    fiber_event_set(&c->priv.changed);
}

static void on_room(struct rpc_call *call)
{
    struct fcall *c = rpc_call_data(call);

    if (c != NULL) fiber_event_set(&c->priv.changed);
}

enum rc fcalls_add(struct rpc_server *s, struct fibers *fs, const struct fcall_method *methods,
                   void *service, struct fcalls **ret_calls)
{
    struct fcalls *cs = calloc(1, sizeof *cs);
    size_t n = 0;
    enum rc rc;

    if (cs == NULL) return RC_NOMEM;
    while (methods[n].path != NULL)
        n++;
    cs->fs = fs;
    cs->methods = methods;
    cs->service = service;
    cs->rpc = calloc(n + 1, sizeof *cs->rpc);
    if (cs->rpc == NULL) {
        free(cs);
        return RC_NOMEM;
    }
    for (size_t i = 0; i < n; i++) {
        cs->rpc[i] = (struct rpc_method){.path = methods[i].path,
                                         .client_streams = methods[i].client_streams,
                                         .message_bytes_max = methods[i].message_bytes_max,
                                         .on_start = on_start,
                                         .on_message = on_message,
                                         .on_half_close = on_half_close,
                                         .on_end = on_end,
                                         .service = cs};
    }
    rc = rpc_server_add(s, cs->rpc);
    if (rc != RC_OK) {
        fcalls_free(cs);
        return rc;
    }
    *ret_calls = cs;
    return RC_OK;
}

uint32_t fcalls_running(const struct fcalls *cs)
{
    return cs->running;
}

void fcalls_free(struct fcalls *cs)
{
    if (cs == NULL) return;
    CHECK(cs->running == 0);
    free(cs->rpc);
    free(cs);
}

enum rc fcall_recv(struct fcall *c, struct rpc_msg **ret_msg)
{
    for (;;) {
        if (c->priv.dead) return c->priv.dead_rc;
        if (!list_empty(&c->priv.inbox)) {
            *ret_msg = inbox_pop(&c->priv.inbox);
            return RC_OK;
        }
        if (c->priv.half_closed) return RC_RANGE;
        fiber_event_wait(&c->priv.changed);
    }
}

void fcall_release(struct fcall *c, struct rpc_msg *m)
{
    if (c->priv.call != NULL) rpc_call_consume(c->priv.call, m->n);
    rpc_msg_unref(m);
}

enum rc fcall_request_payload(struct fcall *c, const ProtobufCMessageDescriptor *desc,
                              uint32_t field, void *ret_message, struct rpc_msg **ret_msg,
                              struct slice *ret_payload, struct err *reterr)
{
    struct slice rest, payload;
    struct rpc_msg *m;
    ProtobufCMessage *msg;
    enum rc rc = fcall_recv(c, &m);

    if (rc == RC_RANGE) return err_set(reterr, RC_INVAL, "no request message");
    if (rc != RC_OK) return err_set(reterr, rc, "%s", rc_text(rc));
    if (field == 0 || !rpc_wire_payload((struct slice){m->p, m->n}, field, &rest, &payload)) {
        rest = (struct slice){m->p, m->n};
        payload = (struct slice){NULL, 0};
    }
    msg = protobuf_c_message_unpack(desc, &c->arena.pb, rest.n, rest.p);
    if (msg == NULL) {
        fcall_release(c, m);
        return err_set(reterr, RC_INVAL, "the request is no %s", desc->name);
    }
    *(ProtobufCMessage **)ret_message = msg;
    *ret_msg = m;
    *ret_payload = payload;
    return RC_OK;
}

enum rc fcall_request(struct fcall *c, const ProtobufCMessageDescriptor *desc, void *ret_message,
                      struct err *reterr)
{
    struct slice none;
    struct rpc_msg *m;
    enum rc rc = fcall_request_payload(c, desc, /* field= */ 0, ret_message, &m, &none, reterr);

    if (rc == RC_OK) fcall_release(c, m);
    return rc;
}

static enum rc wait_room(struct fcall *c)
{
    while (!c->priv.dead && rpc_call_send_room(c->priv.call) == 0) {
        rpc_call_on_room(c->priv.call, on_room);
        fiber_event_wait(&c->priv.changed);
    }
    return c->priv.dead ? c->priv.dead_rc : RC_OK;
}

enum rc fcall_send(struct fcall *c, const ProtobufCMessage *m)
{
    enum rc rc = wait_room(c);

    return rc != RC_OK ? rc : rpc_call_send(c->priv.call, m);
}

enum rc fcall_send_payload(struct fcall *c, const ProtobufCMessage *m,
                           const struct rpc_payload *payload)
{
    enum rc rc = wait_room(c);

    if (rc == RC_OK) return rpc_call_send_payload(c->priv.call, m, payload);
    if (payload->owner_free != NULL) payload->owner_free(payload->owner);
    return rc;
}

void fcall_trailer(struct fcall *c, const char *name, const char *value)
{
    if (c->priv.dead) return;
    if (rpc_call_trailer(c->priv.call, name, value) != RC_OK)
        log_debug("trailer_lost", "name=%s", name); /* the caller then takes it for its own fault */
}

bool fcall_dead(const struct fcall *c)
{
    return c->priv.dead;
}

const struct tls_identity *fcall_peer(const struct fcall *c)
{
    return &c->priv.peer;
}

const char *fcall_rid(const struct fcall *c)
{
    return c->priv.rid;
}

uint64_t fcall_left_ms(const struct fcall *c, uint64_t cap_ms)
{
    uint64_t at = c->priv.deadline_ms, now = uv_now(c->priv.loop);

    if (c->priv.dead) return 0;
    return at <= now ? 0 : MIN(at - now, cap_ms);
}

/* ---- client ---- */
struct fstream {
    struct rpc_request req;
    struct list inbox;
    struct fiber_event changed;
    bool done, nomem;
    enum rc rc;
};

static void c_message(struct rpc_request *r, struct rpc_msg *m)
{
    struct fstream *s = r->data;

    if (!inbox_push(&s->inbox, m)) s->nomem = true;
    fiber_event_set(&s->changed);
}

static void c_room(struct rpc_request *r)
{
    struct fstream *s = r->data;

    fiber_event_set(&s->changed);
}

static void c_done(struct rpc_request *r, enum rc rc)
{
    struct fstream *s = r->data;

    s->done = true;
    s->rc = rc;
    fiber_event_set(&s->changed);
}
static const struct rpc_request_ops STREAM_OPS = {c_message, c_room, c_done};

static enum rc stream_begin(struct fstream *s, struct rpc_channel *ch,
                            const struct rpc_request_conf *conf)
{
    memset(s, 0, sizeof *s);
    s->req.data = s;
    list_init(&s->inbox);
    return rpc_request_start(ch, &s->req, conf, &STREAM_OPS);
}

enum rc funary(struct rpc_channel *ch, const struct rpc_request_conf *conf,
               const ProtobufCMessage *m, const ProtobufCMessageDescriptor *answer_desc,
               ProtobufCAllocator *alloc, void *ret_answer, struct funary_info *info,
               struct err *reterr)
{
    struct fstream s;
    ProtobufCMessage *answer;
    struct rpc_msg *msg;
    enum rc rc;

    rc = stream_begin(&s, ch, conf);
    if (rc != RC_OK) {
        if (info != NULL) *info = (struct funary_info){.never_sent = true};
        return err_set(reterr, rc, "%s: %s", conf->path, rc_text(rc));
    }
    s.req.auto_consume = true;
    rc = rpc_request_send(&s.req, m);
    if (rc == RC_OK) {
        rpc_request_half_close(&s.req);
    } else {
        rpc_request_cancel(&s.req);
    }
    while (!s.done)
        fiber_event_wait(&s.changed);
    if (info != NULL) {
        info->never_sent = s.req.never_sent;
        memcpy(info->epoch, s.req.trailer_epoch, sizeof info->epoch);
    }
    if (s.rc != RC_OK) {
        inbox_clear(&s.inbox);
        return err_set(reterr, s.rc, "%s", s.req.err.msg);
    }
    if (list_empty(&s.inbox)) {
        return err_set(reterr, s.nomem ? RC_NOMEM : RC_INTERNAL, "%s: no answer message",
                       conf->path);
    }
    msg = inbox_pop(&s.inbox);
    answer = protobuf_c_message_unpack(answer_desc, alloc, msg->n, msg->p);
    rpc_msg_unref(msg);
    inbox_clear(&s.inbox);
    if (answer == NULL) {
        return err_set(reterr, RC_INTERNAL, "%s: the answer is no %s", conf->path,
                       answer_desc->name);
    }
    *(ProtobufCMessage **)ret_answer = answer;
    return RC_OK;
}

enum rc fstream_open(struct rpc_channel *ch, const struct rpc_request_conf *conf,
                     struct fstream **ret_stream)
{
    struct fstream *s = malloc(sizeof *s);
    enum rc rc;

    if (s == NULL) return RC_NOMEM;
    rc = stream_begin(s, ch, conf);
    if (rc != RC_OK) {
        free(s);
        return rc;
    }
    *ret_stream = s;
    return RC_OK;
}

static enum rc stream_room(struct fstream *s)
{
    while (!s->done && rpc_request_send_room(&s->req) == 0)
        fiber_event_wait(&s->changed);
    return s->done ? RC_CANCELED : RC_OK; /* why is told by fstream_recv */
}

enum rc fstream_send(struct fstream *s, const ProtobufCMessage *m)
{
    enum rc rc = stream_room(s);

    return rc != RC_OK ? rc : rpc_request_send(&s->req, m);
}

enum rc fstream_send_payload(struct fstream *s, const ProtobufCMessage *m,
                             const struct rpc_payload *payload)
{
    enum rc rc = stream_room(s);

    if (rc == RC_OK) return rpc_request_send_payload(&s->req, m, payload);
    if (payload->owner_free != NULL) payload->owner_free(payload->owner);
    return rc;
}

void fstream_half_close(struct fstream *s)
{
    if (!s->done) rpc_request_half_close(&s->req);
}

enum rc fstream_recv_ms(struct fstream *s, uint64_t ms, struct rpc_msg **ret_msg,
                        struct err *reterr)
{
    for (;;) {
        if (s->nomem) return err_set(reterr, RC_NOMEM, "an answer was lost for want of memory");
        if (!list_empty(&s->inbox)) {
            *ret_msg = inbox_pop(&s->inbox);
            return RC_OK;
        }
        if (s->done) {
            return s->rc == RC_OK ? RC_RANGE : err_set(reterr, s->rc, "%s", s->req.err.msg);
        }
        if (fiber_event_wait_ms(&s->changed, ms) != RC_OK) {
            return err_set(reterr, RC_DEADLINE, "no message in time");
        }
    }
}

enum rc fstream_recv(struct fstream *s, struct rpc_msg **ret_msg, struct err *reterr)
{
    return fstream_recv_ms(s, UINT64_MAX, ret_msg, reterr);
}

void fstream_release(struct fstream *s, struct rpc_msg *m)
{
    if (!s->done) rpc_request_consume(&s->req, m->n);
    rpc_msg_unref(m);
}

void fstream_cancel(struct fstream *s)
{
    if (!s->done) rpc_request_cancel(&s->req);
}

void fstream_close(struct fstream *s)
{
    if (s == NULL) return;
    if (!s->done) rpc_request_cancel(&s->req);
    while (!s->done)
        fiber_event_wait(&s->changed);
    inbox_clear(&s->inbox);
    free(s);
}
