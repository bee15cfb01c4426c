/* common/net/rpc_conn.c - see rpc_conn.h.
 *
 * nghttp2 forbids its send, receive and delete functions inside its callbacks, and our callbacks
 * run inside its: so sending waits for the idle handle, and a connection that fails while `busy` is
 * ended by it too. A stream's struct is looked up by id in the sending callbacks, never kept there:
 * an owner may detach and free it while a frame of it waits. */
#include "common/net/rpc_conn.h"
#include "common/base/bigmem.h"
#include "common/net/net_rc.h"
#include <stdlib.h>
#include <string.h>

#define IN_BYTES     (64u << 10)
#define READ_BUDGET  (2u << 20) /* a turn of one connection */
#define IDLE_PING_MS 30000u

struct rpc_out { /* one message or piece on its way out */
    struct list link;
    struct rpc_payload payload;
    uint32_t head_n, at; /* at: bytes of head, then payload, that are sent */
    uint8_t head[];
};

struct rpc_conn {
    struct rpc_conn_conf conf;
    nghttp2_session *h2;
    uv_idle_t idle;
    uv_timer_t timer;
    int handles_n;
    struct list streams;
    unsigned streams_n;
    bool busy, doomed, down, settings_seen, heard, more, draining, drain_pinged;
    unsigned quiet_n;
    unsigned room_wanted_n;
    struct err err; /* why it is doomed */
    uint64_t due_ms, ping_at_ms, end_ms;
    /* the DATA frame that is being received */
    int32_t frame_id;
    size_t frame_left;
    uint8_t in[IN_BYTES];
};

static const uint8_t drain_ping[8] = {'d', 'r', 'a', 'i', 'n'};

static void conn_pump(struct rpc_conn *c);
static void goaway_final(struct rpc_conn *c);

nghttp2_nv rpc_nv(const char *name, const char *value)
{
    return (nghttp2_nv){.name = (uint8_t *)(uintptr_t)name,
                        .value = (uint8_t *)(uintptr_t)value,
                        .namelen = strlen(name),
                        .valuelen = strlen(value),
                        .flags = NGHTTP2_NV_FLAG_NONE};
}

/* ---- messages ---- */

struct rpc_msg *rpc_msg_ref(struct rpc_msg *m)
{
    m->refs++;
    return m;
}

void rpc_msg_unref(struct rpc_msg *m)
{
    if (m != NULL && --m->refs == 0) bigmem_free(m, sizeof(*m) + m->n);
}

static uint8_t *msg_bytes(struct rpc_msg *m)
{
    return (uint8_t *)(m + 1);
}

static struct rpc_msg *msg_new(uint32_t n)
{
    struct rpc_msg *m = bigmem_alloc(sizeof(*m) + n);

    if (m != NULL) *m = (struct rpc_msg){.p = (uint8_t *)(m + 1), .n = n, .refs = 1};
    return m;
}

/* ---- receiving ---- */

static struct rpc_stream *stream_of(struct rpc_conn *c, int32_t id)
{
    return nghttp2_session_get_stream_user_data(c->h2, id);
}

static void give_back(struct rpc_stream *s, size_t n)
{
    if (n > 0) (void)nghttp2_session_consume_stream(s->conn->h2, s->id, n); /* NOMEM: stays small */
}

/* False: refused; the owner may have freed s. */
static bool message_begin(struct rpc_stream *s)
{
    uint32_t n = (uint32_t)s->prefix[1] << 24 | (uint32_t)s->prefix[2] << 16 |
                 (uint32_t)s->prefix[3] << 8 | s->prefix[4];
    struct err e = {0};

    if (s->prefix[0] == 1) {
        (void)err_set(&e, RC_UNIMPL,
                      "compressed messages are not served: send grpc-encoding identity");
    } else if (s->prefix[0] != 0) {
        (void)err_set(&e, RC_INTERNAL, "bad message prefix");
    } else if (n > s->message_bytes_max) {
        (void)err_set(&e, RC_BUSY, "a message of %u bytes is over the limit of %u", n,
                      s->message_bytes_max);
    } else {
        s->msg = msg_new(n);
        s->msg_at = 0;
        if (s->msg == NULL) (void)err_set(&e, RC_NOMEM, "a message of %u bytes", n);
    }
    if (e.rc == RC_OK) return true;
    s->mute = true;
    s->conn->conf.ops->on_bad_message(s, &e);
    return false;
}

static void message_deliver(struct rpc_stream *s)
{
    struct rpc_msg *m = s->msg;

    s->msg = NULL;
    s->prefix_n = 0;
    s->conn->conf.ops->on_message(s, m);
    rpc_msg_unref(m);
}

/* What the owner has not consumed stays out of the window; but the tail of a message longer than
 * half of it is let through, since nobody can consume a message before it is whole. */
static void account(struct rpc_stream *s, uint32_t n)
{
    if (s->auto_consume || s->msg_at > RPC_STREAM_WINDOW_BYTES / 2)
        give_back(s, n);
    else
        s->unconsumed += n;
}

static void receive(struct rpc_stream *s, const uint8_t *p, size_t n)
{
    struct rpc_conn *c = s->conn;
    int32_t id = s->id;

    while (n > 0 && !s->mute) {
        size_t k;

        if (s->msg == NULL) {
            k = MIN(n, sizeof(s->prefix) - s->prefix_n);
            memcpy(s->prefix + s->prefix_n, p, k);
            s->prefix_n = (uint8_t)(s->prefix_n + k);
            give_back(s, k);
            if (s->prefix_n == sizeof(s->prefix) && !message_begin(s)) {
                (void)nghttp2_session_consume_stream(c->h2, id, n - k); /* the dropped rest */
                return;
            }
        } else {
            uint8_t *to = msg_bytes(s->msg) + s->msg_at;

            k = MIN(n, s->msg->n - s->msg_at);
            if (to != p) memmove(to, p, k); /* equal when read in place */
            s->msg_at += (uint32_t)k;
            account(s, (uint32_t)k);
        }
        p += k;
        n -= k;
        if (s->msg != NULL && s->msg_at == s->msg->n) message_deliver(s);
    }
    give_back(s, n);
}

static int cb_begin_frame(nghttp2_session *h2, const nghttp2_frame_hd *hd, void *data)
{
    struct rpc_conn *c = data;

    (void)h2;
    c->frame_id = -1;
    if (hd->type == NGHTTP2_DATA && (hd->flags & NGHTTP2_FLAG_PADDED) == 0) {
        c->frame_id = hd->stream_id;
        c->frame_left = hd->length;
    }
    return 0;
}

static int cb_data_chunk(nghttp2_session *h2, uint8_t flags, int32_t id, const uint8_t *p, size_t n,
                         void *data)
{
    struct rpc_conn *c = data;
    struct rpc_stream *s = stream_of(c, id);

    (void)flags;
    if (c->frame_id == id) c->frame_left -= MIN(n, c->frame_left);
    if (nghttp2_session_consume_connection(h2, n) != 0) return NGHTTP2_ERR_CALLBACK_FAILURE;
    if (s == NULL) {
        (void)nghttp2_session_consume_stream(h2, id, n); /* a detached stream's rest */
    } else if (s->raw && !s->mute) {
        c->conf.ops->on_raw(s, p, n);
        give_back(s, n);
    } else {
        receive(s, p, n);
    }
    return 0;
}

static void stream_begin(struct rpc_conn *c, struct rpc_stream *s)
{
    s->conn = c;
    list_push_back(&c->streams, &s->link);
    c->streams_n++;
}

static int cb_begin_headers(nghttp2_session *h2, const nghttp2_frame *frame, void *data)
{
    struct rpc_conn *c = data;
    struct rpc_stream *s;

    if (!c->conf.server || frame->headers.cat != NGHTTP2_HCAT_REQUEST) return 0;
    s = c->conf.ops->on_begin(c);
    if (s == NULL) return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    s->id = frame->hd.stream_id;
    stream_begin(c, s);
    (void)nghttp2_session_set_stream_user_data(h2, s->id, s); /* the stream is there */
    return 0;
}

static int cb_header(nghttp2_session *h2, const nghttp2_frame *frame, const uint8_t *name,
                     size_t name_n, const uint8_t *value, size_t value_n, uint8_t flags, void *data)
{
    struct rpc_conn *c = data;
    struct rpc_stream *s = stream_of(c, frame->hd.stream_id);

    (void)h2;
    (void)flags;
    if (s == NULL || s->mute) return 0;
    s->headers_n++;
    s->headers_bytes += name_n + value_n + 32;
    if (s->headers_n > RPC_METADATA_MAX + 16u || s->headers_bytes > RPC_HEADERS_BYTES_MAX ||
        !c->conf.ops->on_header(s, (struct slice){name, name_n}, (struct slice){value, value_n})) {
        return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    }
    return 0;
}

static int cb_frame_recv(nghttp2_session *h2, const nghttp2_frame *frame, void *data)
{
    struct rpc_conn *c = data;
    struct rpc_stream *s;
    bool end = (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0;

    (void)h2;
    switch (frame->hd.type) {
    case NGHTTP2_SETTINGS:
        if ((frame->hd.flags & NGHTTP2_FLAG_ACK) != 0 || c->settings_seen) return 0;
        c->settings_seen = true;
        if (c->conf.ops->on_settings != NULL) c->conf.ops->on_settings(c);
        return 0;
    case NGHTTP2_GOAWAY:
        if (c->conf.ops->on_goaway != NULL) c->conf.ops->on_goaway(c);
        return 0;
    case NGHTTP2_PING:
        if ((frame->hd.flags & NGHTTP2_FLAG_ACK) != 0 && c->drain_pinged &&
            memcmp(frame->ping.opaque_data, drain_ping, sizeof(drain_ping)) == 0) {
            c->drain_pinged = false;
            goaway_final(c);
        }
        return 0;
    case NGHTTP2_HEADERS:
    case NGHTTP2_DATA:
        break;
    default:
        return 0;
    }
    s = stream_of(c, frame->hd.stream_id);
    if (s == NULL) return 0;
    if (end) s->remote_ended = true;
    if (frame->hd.type == NGHTTP2_HEADERS) {
        c->conf.ops->on_headers(s);
        s = stream_of(c, frame->hd.stream_id);
    }
    if (s != NULL && end) c->conf.ops->on_remote_end(s);
    return 0;
}

static void stream_gone(struct rpc_stream *s)
{
    struct rpc_conn *c = s->conn;

    list_remove(&s->link);
    c->streams_n--;
    if (s->want_room) c->room_wanted_n--;
    s->want_room = false;
    s->conn = NULL;
}

static int cb_stream_close(nghttp2_session *h2, int32_t id, uint32_t code, void *data)
{
    struct rpc_conn *c = data;
    struct rpc_stream *s = stream_of(c, id);

    if (s == NULL) return 0;
    (void)nghttp2_session_set_stream_user_data(h2, id, NULL); /* it is there still */
    stream_gone(s);
    c->conf.ops->on_closed(s, code, RC_OK, NULL);
    return 0;
}

/* ---- sending ---- */

static int cb_frame_send(nghttp2_session *h2, const nghttp2_frame *frame, void *data)
{
    struct rpc_conn *c = data;
    struct rpc_stream *s;

    if (frame->hd.type != NGHTTP2_HEADERS && frame->hd.type != NGHTTP2_DATA) return 0;
    s = stream_of(c, frame->hd.stream_id);
    if (s == NULL) return 0;
    s->headers_sent = true;
    if ((frame->hd.flags & NGHTTP2_FLAG_END_STREAM) == 0) return 0;
    s->local_ended = true;
    /* RFC 9113 section 8.1: a server that answered whole may ask the client to stop sending */
    if (c->conf.server && !s->remote_ended) {
        return nghttp2_submit_rst_stream(h2, NGHTTP2_FLAG_NONE, s->id, NGHTTP2_NO_ERROR) == 0
                   ? 0
                   : NGHTTP2_ERR_CALLBACK_FAILURE;
    }
    return 0;
}

/* A request that nghttp2 will not send any more: after GOAWAY, or out of stream ids. */
static int cb_frame_not_send(nghttp2_session *h2, const nghttp2_frame *frame, int error, void *data)
{
    struct rpc_conn *c = data;

    (void)error;
    if (c->conf.server || frame->hd.type != NGHTTP2_HEADERS) return 0;
    LIST_FOREACH_SAFE(it, &c->streams)
    {
        struct rpc_stream *s = CONTAINER_OF(it, struct rpc_stream, link);

        if (s->id != frame->hd.stream_id || s->headers_sent) continue;
        /* nghttp2 may have opened it already, and then tells of its close, too */
        (void)nghttp2_session_set_stream_user_data(h2, s->id, NULL);
        stream_gone(s);
        c->conf.ops->on_closed(s, NGHTTP2_REFUSED_STREAM, RC_OK, NULL);
        break;
    }
    return 0;
}

static int trailers_submit(struct rpc_stream *s)
{
    nghttp2_nv nva[RPC_METADATA_MAX + 2];
    size_t n = 0;

    for (size_t at = 0; at < s->trailers->n && n < ARRAY_N(nva);) {
        const char *name = (const char *)s->trailers->p + at;
        const char *value = name + strlen(name) + 1;

        nva[n++] = rpc_nv(name, value);
        at += strlen(name) + strlen(value) + 2;
    }
    return nghttp2_submit_trailer(s->conn->h2, s->id, nva, n);
}

static ssize_t cb_data_read(nghttp2_session *h2, int32_t id, uint8_t *buf, size_t cap,
                            uint32_t *flags, nghttp2_data_source *source, void *data)
{
    struct rpc_stream *s = stream_of(data, id);
    size_t n;

    (void)h2;
    (void)buf;
    (void)source;
    if (s == NULL) return NGHTTP2_ERR_DEFERRED; /* detached: its RST is on the way */
    n = MIN(cap, s->out_n);
    if (n == 0 && !s->out_end) {
        s->deferred = true;
        return NGHTTP2_ERR_DEFERRED;
    }
    *flags |= NGHTTP2_DATA_FLAG_NO_COPY;
    if (n == s->out_n && s->out_end) {
        *flags |= NGHTTP2_DATA_FLAG_EOF;
        if (s->trailers != NULL) {
            *flags |= NGHTTP2_DATA_FLAG_NO_END_STREAM;
            if (trailers_submit(s) != 0) return NGHTTP2_ERR_CALLBACK_FAILURE;
        }
    }
    return (ssize_t)n;
}

static void out_free(struct rpc_out *o)
{
    if (o->payload.owner_free != NULL) o->payload.owner_free(o->payload.owner);
    free(o);
}

/* Write n bytes from the queue's front. */
static enum rc out_write(struct rpc_stream *s, struct net_stream *net, size_t n)
{
    enum rc rc = RC_OK;

    while (n > 0 && rc == RC_OK) {
        struct rpc_out *o = CONTAINER_OF(s->out.next, struct rpc_out, link);
        const uint8_t *p;
        uint32_t k;

        CHECK(!list_empty(&s->out));
        if (o->at < o->head_n) {
            p = o->head + o->at;
            k = o->head_n - o->at;
        } else {
            p = o->payload.p + (o->at - o->head_n);
            k = o->head_n + o->payload.n - o->at;
        }
        if (k > n) k = (uint32_t)n;
        if (net != NULL) rc = net_stream_write(net, p, k);
        o->at += k;
        s->out_n -= k;
        n -= k;
        if (o->at == o->head_n + o->payload.n) {
            list_remove(&o->link);
            out_free(o);
        }
    }
    return rc;
}

static int cb_send_data(nghttp2_session *h2, nghttp2_frame *frame, const uint8_t *framehd, size_t n,
                        nghttp2_data_source *source, void *data)
{
    struct rpc_conn *c = data;
    struct rpc_stream *s = stream_of(c, frame->hd.stream_id);

    (void)h2;
    (void)source;
    if (s == NULL || s->out_n < n) return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    if (c->conf.net != NULL) {
        if (net_stream_room(c->conf.net) == 0) return NGHTTP2_ERR_WOULDBLOCK;
        if (net_stream_write(c->conf.net, framehd, 9) != RC_OK) return NGHTTP2_ERR_CALLBACK_FAILURE;
    }
    if (out_write(s, c->conf.net, n) != RC_OK) return NGHTTP2_ERR_CALLBACK_FAILURE;
    return 0;
}

static ssize_t cb_read_length(nghttp2_session *h2, uint8_t type, int32_t id, int32_t conn_window,
                              int32_t stream_window, uint32_t frame_max, void *data)
{
    int32_t n = MIN(conn_window, stream_window);

    (void)h2;
    (void)type;
    (void)id;
    (void)data;
    return MIN(n, (int32_t)MIN(frame_max, RPC_FRAME_BYTES_MAX));
}

/* ---- the connection ---- */

static void conn_end(struct rpc_conn *c);

static void room_report(struct rpc_conn *c)
{
    if (c->room_wanted_n == 0) return;
    LIST_FOREACH_SAFE(it, &c->streams)
    {
        struct rpc_stream *s = CONTAINER_OF(it, struct rpc_stream, link);

        if (!s->want_room || s->out_n > RPC_SEND_QUEUE_BYTES_MAX / 2) continue;
        s->want_room = false;
        c->room_wanted_n--;
        c->conf.ops->on_room(s);
    }
}

static void conn_pump(struct rpc_conn *c)
{
    const uint8_t *p;
    ssize_t n = 0;

    if (c->down) return;
    c->busy = true;
    while (!c->doomed) {
        n = nghttp2_session_mem_send(c->h2, &p);
        if (n < 0) break;
        if (n == 0) { /* nothing to send, or no room for the next DATA frame */
            if (c->conf.net == NULL || net_stream_room(c->conf.net) > 0) break;
            net_stream_flush(c->conf.net);
            if (net_stream_room(c->conf.net) == 0) break; /* on_drained goes on */
            continue;
        }
        if (c->conf.net != NULL && net_stream_write(c->conf.net, p, (size_t)n) != RC_OK) {
            n = NGHTTP2_ERR_NOMEM;
            break;
        }
    }
    if (n < 0) rpc_conn_fail(c, rc_from_nghttp2((int)n), nghttp2_strerror((int)n));
    if (c->conf.net != NULL) net_stream_flush(c->conf.net);
    room_report(c);
    c->busy = false;
    if (!c->doomed && !nghttp2_session_want_read(c->h2) && !nghttp2_session_want_write(c->h2) &&
        (c->conf.net == NULL || net_stream_queued(c->conf.net) == 0)) {
        rpc_conn_fail(c, RC_UNAVAIL, "the connection was ended by GOAWAY");
    }
    if (c->doomed) conn_end(c);
}

void rpc_conn_feed(struct rpc_conn *c, const uint8_t *p, size_t n)
{
    ssize_t done;

    if (c->down || c->doomed) return;
    c->heard = true;
    c->busy = true;
    done = nghttp2_session_mem_recv(c->h2, p, n);
    c->busy = false;
    if (done < 0 || (size_t)done != n) {
        int e = done < 0 ? (int)done : NGHTTP2_ERR_PROTO;

        rpc_conn_fail(c, rc_from_nghttp2(e), nghttp2_strerror(e));
    }
    rpc_conn_wake(c);
}

/* Where the coming bytes may go at once: the message of the DATA frame that has begun. */
static struct rpc_msg *direct_target(struct rpc_conn *c, uint8_t **ret_p, size_t *ret_n)
{
    struct rpc_stream *s = c->frame_id >= 0 && c->frame_left > 0 ? stream_of(c, c->frame_id) : NULL;

    if (s == NULL || s->raw || s->mute || s->msg == NULL) return NULL;
    *ret_p = msg_bytes(s->msg) + s->msg_at;
    *ret_n = MIN(c->frame_left, s->msg->n - s->msg_at);
    return *ret_n >= 4096 ? s->msg : NULL;
}

static void on_readable(void *data)
{
    struct rpc_conn *c = data;
    size_t budget = READ_BUDGET, got;
    struct err e = {0};
    enum rc rc;

    c->more = false;
    while (!c->doomed && !c->down) {
        uint8_t *p = c->in;
        size_t n = sizeof(c->in);
        struct rpc_msg *m = direct_target(c, &p, &n);

        if (budget == 0) {
            c->more = true; /* OpenSSL may hold bytes that no poll tells of */
            rpc_conn_wake(c);
            return;
        }
        rc = net_stream_read(c->conf.net, p, n, &got, &e);
        if (rc == RC_BUSY) return;
        if (rc != RC_OK) {
            rpc_conn_fail(c, rc == RC_RANGE ? RC_UNAVAIL : rc, e.msg);
            return;
        }
        if (m != NULL) (void)rpc_msg_ref(m); /* nghttp2 reads from its bytes */
        rpc_conn_feed(c, p, got);
        rpc_msg_unref(m);
        budget -= MIN(budget, got);
    }
}

static void on_drained(void *data)
{
    conn_pump(data);
}

static void on_idle(uv_idle_t *h)
{
    struct rpc_conn *c = h->data;

    (void)uv_idle_stop(h);
    if (c->down) return;
    if (c->doomed) {
        conn_end(c);
        return;
    }
    if (c->more) on_readable(c);
    conn_pump(c);
}

void rpc_conn_wake(struct rpc_conn *c)
{
    if (!c->down) (void)uv_idle_start(&c->idle, on_idle);
}

void rpc_conn_fail(struct rpc_conn *c, enum rc rc, const char *text)
{
    if (c->down || c->doomed) return;
    c->doomed = true;
    (void)err_set(&c->err, rc, "%s", text);
    rpc_conn_wake(c);
}

static void on_handle_closed(uv_handle_t *h)
{
    struct rpc_conn *c = h->data;

    if (--c->handles_n > 0) return;
    nghttp2_session_del(c->h2);
    free(c);
}

static void conn_end(struct rpc_conn *c)
{
    if (c->down) return;
    c->down = true;
    /* what nghttp2 still wants to say: a GOAWAY with the reason */
    if (c->conf.net != NULL && c->err.rc != RC_IO) {
        const uint8_t *p;
        ssize_t n;

        (void)nghttp2_session_terminate_session(c->h2, NGHTTP2_NO_ERROR); /* best effort */
        while (net_stream_room(c->conf.net) > 0 && (n = nghttp2_session_mem_send(c->h2, &p)) > 0) {
            if (net_stream_write(c->conf.net, p, (size_t)n) != RC_OK) break;
        }
    }
    while (!list_empty(&c->streams)) {
        struct rpc_stream *s = CONTAINER_OF(c->streams.next, struct rpc_stream, link);

        (void)nghttp2_session_set_stream_user_data(c->h2, s->id, NULL); /* it may be unsent */
        stream_gone(s);
        c->conf.ops->on_closed(s, NGHTTP2_NO_ERROR, c->err.rc, &c->err);
    }
    c->conf.ops->on_down(c, c->err.rc, &c->err);
    net_stream_close(c->conf.net);
    (void)uv_idle_stop(&c->idle);
    uv_close((uv_handle_t *)&c->idle, on_handle_closed);
    uv_close((uv_handle_t *)&c->timer, on_handle_closed);
}

static void on_timer(uv_timer_t *t)
{
    struct rpc_conn *c = t->data;
    uint64_t now = uv_now(c->conf.loop), due;

    c->due_ms = UINT64_MAX;
    if (now >= c->end_ms) {
        rpc_conn_fail(c, RC_UNAUTH, net_stream_life_why(c->conf.net));
        return;
    }
    if (now >= c->ping_at_ms) {
        if (c->heard)
            c->quiet_n = 0;
        else if (c->conf.server || c->streams_n > 0)
            c->quiet_n++;
        c->heard = false;
        if (c->quiet_n >= 2) {
            rpc_conn_fail(c, RC_UNAVAIL, "the peer is silent");
            return;
        }
        if (c->quiet_n == 1) (void)nghttp2_submit_ping(c->h2, 0, NULL); /* else the next one */
        if (c->conf.net != NULL && c->quiet_n > 0) net_stream_trim(c->conf.net);
        c->ping_at_ms = now + c->conf.idle_ping_ms;
        rpc_conn_wake(c);
    }
    due = MIN(c->ping_at_ms, c->end_ms);
    LIST_FOREACH_SAFE(it, &c->streams)
    {
        struct rpc_stream *s = CONTAINER_OF(it, struct rpc_stream, link);

        if (s->deadline_ms > now) {
            due = MIN(due, s->deadline_ms);
            continue;
        }
        s->deadline_ms = UINT64_MAX;
        c->conf.ops->on_deadline(s);
    }
    rpc_conn_deadline(c, due);
}

void rpc_conn_deadline(struct rpc_conn *c, uint64_t at_ms)
{
    uint64_t now = uv_now(c->conf.loop);

    if (c->down || at_ms >= c->due_ms) return;
    c->due_ms = at_ms;
    (void)uv_timer_start(&c->timer, on_timer, at_ms > now ? at_ms - now : 0, 0);
}

static enum rc session_new(struct rpc_conn *c)
{
    static const nghttp2_settings_entry settings[] = {
        {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, RPC_STREAMS_MAX},
        {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, RPC_STREAM_WINDOW_BYTES},
        {NGHTTP2_SETTINGS_MAX_FRAME_SIZE, RPC_FRAME_BYTES_MAX},
        {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, RPC_HEADERS_BYTES_MAX},
        {NGHTTP2_SETTINGS_ENABLE_PUSH, 0}, /* last: a server does not send it */
    };
    nghttp2_session_callbacks *cbs = NULL;
    nghttp2_option *opt = NULL;
    int e;

    e = nghttp2_session_callbacks_new(&cbs);
    if (e == 0) e = nghttp2_option_new(&opt);
    if (e != 0) goto out;
    nghttp2_option_set_no_auto_window_update(opt, 1);
    nghttp2_option_set_max_send_header_block_length(opt, 64u << 10);
    nghttp2_session_callbacks_set_on_begin_frame_callback(cbs, cb_begin_frame);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(cbs, cb_data_chunk);
    nghttp2_session_callbacks_set_on_begin_headers_callback(cbs, cb_begin_headers);
    nghttp2_session_callbacks_set_on_header_callback(cbs, cb_header);
    nghttp2_session_callbacks_set_on_frame_recv_callback(cbs, cb_frame_recv);
    nghttp2_session_callbacks_set_on_stream_close_callback(cbs, cb_stream_close);
    nghttp2_session_callbacks_set_on_frame_send_callback(cbs, cb_frame_send);
    nghttp2_session_callbacks_set_on_frame_not_send_callback(cbs, cb_frame_not_send);
    nghttp2_session_callbacks_set_send_data_callback(cbs, cb_send_data);
    nghttp2_session_callbacks_set_data_source_read_length_callback(cbs, cb_read_length);
    if (c->conf.server)
        e = nghttp2_session_server_new2(&c->h2, cbs, c, opt);
    else
        e = nghttp2_session_client_new2(&c->h2, cbs, c, opt);
    if (e != 0) goto out;
    e = nghttp2_submit_settings(c->h2, NGHTTP2_FLAG_NONE, settings,
                                ARRAY_N(settings) - (c->conf.server ? 1 : 0));
    if (e != 0) goto out;
    e = nghttp2_session_set_local_window_size(c->h2, NGHTTP2_FLAG_NONE, 0, RPC_CONN_WINDOW_BYTES);
out:
    nghttp2_option_del(opt);
    nghttp2_session_callbacks_del(cbs);
    return rc_from_nghttp2(e);
}

enum rc rpc_conn_new(const struct rpc_conn_conf *conf, struct rpc_conn **ret_c, struct err *reterr)
{
    struct rpc_conn *c = calloc(1, sizeof(*c));
    uint64_t life_ms = conf->net != NULL ? net_stream_life_ms(conf->net) : UINT64_MAX;
    uint64_t now = uv_now(conf->loop);

    if (c == NULL) return err_set(reterr, RC_NOMEM, "HTTP/2 connection");
    c->conf = *conf;
    if (c->conf.idle_ping_ms == 0) c->conf.idle_ping_ms = IDLE_PING_MS;
    c->frame_id = -1;
    list_init(&c->streams);
    if (session_new(c) != RC_OK) {
        nghttp2_session_del(c->h2);
        free(c);
        return err_set(reterr, RC_NOMEM, "HTTP/2 connection");
    }
    (void)uv_idle_init(conf->loop, &c->idle); /* neither can fail */
    (void)uv_timer_init(conf->loop, &c->timer);
    c->idle.data = c->timer.data = c;
    c->handles_n = 2;
    c->due_ms = UINT64_MAX;
    c->ping_at_ms = now + c->conf.idle_ping_ms;
    c->end_ms = life_ms < UINT64_MAX - now ? now + life_ms : UINT64_MAX;
    rpc_conn_deadline(c, MIN(c->ping_at_ms, c->end_ms));
    if (conf->net != NULL) net_stream_start(conf->net, on_readable, on_drained, c);
    c->more = conf->net != NULL; /* the handshake may have brought the first bytes along */
    rpc_conn_wake(c);
    *ret_c = c;
    return RC_OK;
}

void *rpc_conn_owner(const struct rpc_conn *c)
{
    return c->conf.owner;
}

struct net_stream *rpc_conn_net(const struct rpc_conn *c)
{
    return c->conf.net;
}

uv_loop_t *rpc_conn_loop(const struct rpc_conn *c)
{
    return c->conf.loop;
}

unsigned rpc_conn_streams_n(const struct rpc_conn *c)
{
    return c->streams_n;
}

static void goaway_final(struct rpc_conn *c)
{
    int32_t last = nghttp2_session_get_last_proc_stream_id(c->h2);

    if (nghttp2_submit_goaway(c->h2, NGHTTP2_FLAG_NONE, last, NGHTTP2_NO_ERROR, NULL, 0) != 0) {
        rpc_conn_fail(c, RC_NOMEM, "out of memory");
    }
}

void rpc_conn_drain(struct rpc_conn *c)
{
    if (c->down || c->doomed || c->draining) return;
    c->draining = true;
    if (c->conf.server && nghttp2_submit_shutdown_notice(c->h2) == 0 &&
        nghttp2_submit_ping(c->h2, NGHTTP2_FLAG_NONE, drain_ping) == 0) {
        c->drain_pinged = true; /* cb_frame_recv goes on */
    } else {
        goaway_final(c);
    }
    rpc_conn_wake(c);
}

/* ---- streams ---- */

void rpc_stream_init(struct rpc_stream *s)
{
    *s = (struct rpc_stream){
        .id = -1, .message_bytes_max = RPC_MESSAGE_BYTES_MAX, .deadline_ms = UINT64_MAX};
    list_init(&s->link);
    list_init(&s->out);
}

void rpc_stream_drop_out(struct rpc_stream *s)
{
    while (!list_empty(&s->out)) {
        struct rpc_out *o = CONTAINER_OF(s->out.next, struct rpc_out, link);

        list_remove(&o->link);
        out_free(o);
    }
    s->out_n = 0;
}

void rpc_stream_deinit(struct rpc_stream *s)
{
    rpc_stream_drop_out(s);
    rpc_msg_unref(s->msg);
    s->msg = NULL;
}

static nghttp2_data_provider provider(void)
{
    return (nghttp2_data_provider){.read_callback = cb_data_read};
}

enum rc rpc_stream_request(struct rpc_conn *c, struct rpc_stream *s, const nghttp2_nv *nva,
                           size_t n)
{
    nghttp2_data_provider prov = provider();
    int32_t id = nghttp2_submit_request(c->h2, NULL, nva, n, &prov, s);

    if (id < 0) return rc_from_nghttp2(id);
    s->id = id;
    stream_begin(c, s);
    rpc_conn_wake(c);
    return RC_OK;
}

enum rc rpc_stream_respond(struct rpc_stream *s, const nghttp2_nv *nva, size_t n, bool end)
{
    nghttp2_data_provider prov = provider();
    int e;

    if (s->conn == NULL) return RC_CANCELED;
    e = nghttp2_submit_response(s->conn->h2, s->id, nva, n, end ? NULL : &prov);
    if (e != 0) return rc_from_nghttp2(e);
    rpc_conn_wake(s->conn);
    return RC_OK;
}

static void out_queued(struct rpc_stream *s, struct rpc_out *o)
{
    list_push_back(&s->out, &o->link);
    s->out_n += o->head_n + o->payload.n;
    if (s->conn == NULL) return;
    if (s->deferred) {
        s->deferred = false;
        (void)nghttp2_session_resume_data(s->conn->h2, s->id); /* deferred: it can't fail */
    }
    rpc_conn_wake(s->conn);
}

static uint8_t *varint_put(uint8_t *p, uint64_t v)
{
    for (; v >= 0x80; v >>= 7)
        *p++ = (uint8_t)(v | 0x80);
    *p++ = (uint8_t)v;
    return p;
}

enum rc rpc_stream_send(struct rpc_stream *s, const ProtobufCMessage *m,
                        const struct rpc_payload *payload)
{
    size_t packed = protobuf_c_message_get_packed_size(m), n = packed;
    uint8_t tag[20], *tag_end = tag;
    struct rpc_out *o;

    if (s->out_n >= RPC_SEND_QUEUE_BYTES_MAX) {
        rpc_stream_want_room(s);
        return RC_BUSY;
    }
    if (payload != NULL) {
        tag_end = varint_put(tag, (uint64_t)payload->field << 3 | 2);
        tag_end = varint_put(tag_end, payload->n);
        n += (size_t)(tag_end - tag) + payload->n;
    }
    if (n > INT32_MAX) return RC_INVAL;
    o = malloc(sizeof(*o) + 5 + packed + sizeof(tag));
    if (o == NULL) return RC_NOMEM;
    *o = (struct rpc_out){.head_n = (uint32_t)(5 + packed) + (uint32_t)(tag_end - tag)};
    o->head[0] = 0;
    o->head[1] = (uint8_t)(n >> 24);
    o->head[2] = (uint8_t)(n >> 16);
    o->head[3] = (uint8_t)(n >> 8);
    o->head[4] = (uint8_t)n;
    (void)protobuf_c_message_pack(m, o->head + 5); /* writes `packed` bytes */
    memcpy(o->head + 5 + packed, tag, (size_t)(tag_end - tag));
    if (payload != NULL) o->payload = *payload;
    out_queued(s, o);
    return RC_OK;
}

enum rc rpc_stream_send_raw(struct rpc_stream *s, const uint8_t *p, size_t n)
{
    struct rpc_out *o;

    if (n > INT32_MAX) return RC_INVAL;
    if (n == 0) return RC_OK;
    o = malloc(sizeof(*o) + n);
    if (o == NULL) return RC_NOMEM;
    *o = (struct rpc_out){.head_n = (uint32_t)n};
    memcpy(o->head, p, n);
    out_queued(s, o);
    return RC_OK;
}

uint32_t rpc_stream_room(const struct rpc_stream *s)
{
    return s->out_n >= RPC_SEND_QUEUE_BYTES_MAX ? 0 : RPC_SEND_QUEUE_BYTES_MAX - s->out_n;
}

void rpc_stream_want_room(struct rpc_stream *s)
{
    if (s->conn == NULL || s->want_room) return;
    s->want_room = true;
    s->conn->room_wanted_n++;
}

void rpc_stream_end(struct rpc_stream *s)
{
    s->out_end = true;
    if (s->conn == NULL) return;
    if (s->deferred) {
        s->deferred = false;
        (void)nghttp2_session_resume_data(s->conn->h2, s->id); /* deferred: it can't fail */
    }
    rpc_conn_wake(s->conn);
}

void rpc_stream_consume(struct rpc_stream *s, uint32_t bytes)
{
    bytes = MIN(bytes, s->unconsumed);
    s->unconsumed -= bytes;
    if (s->conn == NULL || bytes == 0) return;
    give_back(s, bytes);
    rpc_conn_wake(s->conn);
}

void rpc_stream_reset(struct rpc_stream *s, uint32_t h2_code)
{
    if (s->conn == NULL) return;
    s->mute = true;
    if (nghttp2_submit_rst_stream(s->conn->h2, NGHTTP2_FLAG_NONE, s->id, h2_code) != 0) {
        rpc_conn_fail(s->conn, RC_NOMEM, "out of memory");
    }
    rpc_conn_wake(s->conn);
}

void rpc_stream_detach(struct rpc_stream *s, uint32_t h2_code)
{
    struct rpc_conn *c = s->conn;

    if (c == NULL) return;
    rpc_stream_reset(s, h2_code);
    (void)nghttp2_session_set_stream_user_data(c->h2, s->id, NULL); /* also before it is sent */
    stream_gone(s);
}
