/* common/net/rpc_client.c - channel and requests; see rpc.h.
 *
 *   IDLE --first request--> DIALING --SETTINGS came--> UP --lost, GOAWAY--> IDLE
 *                              '--failed--> BACKOFF --timer--> DIALING (while requests wait)
 * A request waits with its messages queued until the channel is UP. `open` holds every request of
 * the channel, waiting or sent; on_done is called from the loop only, and the request is freed
 * then: what nghttp2 still holds of it is looked up by stream id and found gone. */
#include "common/base/log.h"
#include "common/net/net_rc.h"
#include "common/net/rpc_conn.h"
#include "common/net/rpc_wire.h"
#include <openssl/rand.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CONNECT_MS     5000u
#define BACKOFF_MS_MIN 50u
#define BACKOFF_MS_MAX 2000u
#define OPEN_MAX       (RPC_STREAMS_MAX * 4u)

enum ch_state { CH_IDLE, CH_DIALING, CH_UP, CH_BACKOFF };

struct rpc_channel {
    struct rpc_channel_conf conf;
    char *host, *expect_uri;
    char authority[300];
    enum ch_state state;
    struct net_stream *dial; /* shaking hands */
    struct rpc_conn *conn;   /* the current one; older ones end by themselves */
    unsigned conns_n;        /* living, old ones too */
    struct list open;        /* struct req */
    struct list conns;       /* struct ch_conn */
    unsigned open_n;
    uint32_t backoff_ms;
    uint64_t retry_at_ms, dialed_at_ms;
    uv_timer_t timer;
    uv_idle_t idle;
    int handles_n;
    bool closing, closed;
    struct err last_err; /* why there is no connection */
    void (*close_cb)(void *data);
    void *close_data;
};

struct ch_conn { /* owner of an rpc_conn */
    struct list link;
    struct rpc_channel *ch;
    struct rpc_conn *conn;
};

struct req {
    struct rpc_stream s; /* first */
    struct list link;    /* in ch->open */
    struct rpc_channel *ch;
    struct rpc_request *r;
    char *path;
    struct buf metadata; /* "name\0value\0"... */
    uint32_t timeout_ms;
    uint64_t deadline_ms; /* UINT64_MAX: none */
    uint64_t wait_ms;     /* for the connection, at most until */
    bool fail_fast, sent, half_closed, done, cancel;
    int http_status, grpc_status;
    bool grpc_type, headers_seen;
    char *message;
};

static void channel_kick(struct rpc_channel *ch);

static struct req *req_of(struct rpc_stream *s)
{
    return CONTAINER_OF(s, struct req, s);
}

static struct req *req_at(struct list *it)
{
    return CONTAINER_OF(it, struct req, link);
}

/* ---- the end of a request ---- */

static void req_free(struct req *q)
{
    rpc_stream_deinit(&q->s);
    buf_deinit(&q->metadata);
    free(q->message);
    free(q->path);
    free(q);
}

/* r->err is set by the caller unless rc is RC_OK. */
static void req_done(struct req *q, enum rc rc, bool never_sent)
{
    struct rpc_request *r = q->r;
    struct rpc_channel *ch = q->ch;

    if (q->done) return;
    q->done = true;
    rpc_stream_detach(&q->s, NGHTTP2_CANCEL); /* no-op when it has closed */
    list_remove(&q->link);
    ch->open_n--;
    r->never_sent = never_sent;
    r->priv.stream = NULL;
    if (rc != RC_OK && r->err.rc == RC_OK) (void)err_set(&r->err, rc, "%s", rc_text(rc));
    r->priv.ops->on_done(r, rc);
    req_free(q);
    if (ch->closing) channel_kick(ch);
}

/* By what the server said: its status, or else HTTP's. */
static void req_answered(struct req *q)
{
    struct rpc_request *r = q->r;
    int status = q->grpc_status;
    enum rc rc;

    if (status < 0 && q->http_status != 200) {
        status = rpc_wire_status_of_http(q->http_status);
        (void)err_set(&r->err, rc_from_grpc(status), "the server answered HTTP %d", q->http_status);
    } else if (status < 0) {
        status = 13;
        (void)err_set(&r->err, RC_INTERNAL, "the answer has no grpc-status");
    } else if (status != 0) {
        (void)err_set(&r->err, rc_from_grpc(status), "%s",
                      q->message != NULL ? q->message : "no message");
    }
    rc = status == 0 ? RC_OK : rc_from_grpc(status);
    r->grpc_status = q->grpc_status;
    req_done(q, rc, false);
}

/* ---- from the connection ---- */

static bool slice_is(struct slice s, const char *text)
{
    return s.n == strlen(text) && memcmp(s.p, text, s.n) == 0;
}

static bool on_header(struct rpc_stream *s, struct slice name, struct slice value)
{
    struct req *q = req_of(s);
    char text[64];
    uint64_t v = 0;

    (void)snprintf(text, sizeof(text), "%.*s", (int)MIN(value.n, sizeof(text) - 1),
                   (const char *)value.p);
    if (slice_is(name, ":status") || slice_is(name, "grpc-status")) {
        for (size_t i = 0; i < value.n; i++) {
            if (value.p[i] < '0' || value.p[i] > '9' || i == 4) return false;
            v = v * 10 + (uint64_t)(value.p[i] - '0');
        }
        if (value.n == 0) return false;
        if (name.p[0] == ':')
            q->http_status = (int)v;
        else
            q->grpc_status = (int)v;
    } else if (slice_is(name, "content-type")) {
        q->grpc_type = rpc_wire_is_grpc(text);
    } else if (slice_is(name, "grpc-message")) {
        free(q->message);
        q->message = strndup((const char *)value.p, value.n);
        if (q->message != NULL) rpc_wire_percent_decode(q->message);
    } else if (slice_is(name, "mikura-epoch") && value.n < sizeof(q->r->trailer_epoch)) {
        memcpy(q->r->trailer_epoch, value.p, value.n);
        q->r->trailer_epoch[value.n] = 0;
    }
    return true;
}

static void on_headers(struct rpc_stream *s)
{
    struct req *q = req_of(s);

    if (s->remote_ended || q->headers_seen || q->http_status < 200) return;
    q->headers_seen = true;
    if (q->http_status != 200 || !q->grpc_type) {
        (void)err_set(&q->r->err, rc_from_grpc(rpc_wire_status_of_http(q->http_status)),
                      "the server answered HTTP %d and no gRPC", q->http_status);
        req_done(q, q->r->err.rc, false);
    }
}

static void on_message(struct rpc_stream *s, struct rpc_msg *m)
{
    struct req *q = req_of(s);

    q->r->priv.ops->on_message(q->r, m);
}

static void on_bad_message(struct rpc_stream *s, const struct err *e)
{
    struct req *q = req_of(s);

    q->r->err = *e;
    req_done(q, e->rc, false);
}

static void on_remote_end(struct rpc_stream *s)
{
    struct req *q = req_of(s);

    if (s->prefix_n > 0 && q->grpc_status <= 0) {
        (void)err_set(&q->r->err, RC_INTERNAL, "the answer ends inside a message");
        req_done(q, RC_INTERNAL, false);
        return;
    }
    req_answered(q);
}

static void on_room(struct rpc_stream *s)
{
    struct req *q = req_of(s);

    if (!q->half_closed && q->r->priv.ops->on_room != NULL) q->r->priv.ops->on_room(q->r);
}

static void on_closed(struct rpc_stream *s, uint32_t h2_code, enum rc rc, const struct err *e)
{
    struct req *q = req_of(s);
    bool unsent = !s->headers_sent || h2_code == NGHTTP2_REFUSED_STREAM;

    if (rc != RC_OK) { /* the connection was lost */
        /* a certificate that ended too: the next connection's handshake says whose it was */
        if (rc != RC_CANCELED) rc = RC_UNAVAIL;
        (void)err_set(&q->r->err, rc, "%s: %s", q->ch->authority, e->msg);
        req_done(q, rc, unsent);
        return;
    }
    if (q->grpc_status >= 0) {
        req_answered(q);
        return;
    }
    rc = unsent ? RC_UNAVAIL : rc_from_grpc(rpc_wire_status_of_h2(h2_code));
    (void)err_set(&q->r->err, rc, unsent ? "%s: refused unprocessed" : "%s: reset, HTTP/2 code %u",
                  q->ch->authority, h2_code);
    req_done(q, rc, unsent);
}

static void requests_submit(struct rpc_channel *ch);

static void on_settings(struct rpc_conn *c)
{
    struct ch_conn *cc = rpc_conn_owner(c);
    struct rpc_channel *ch = cc->ch;

    if (ch->conn != c || ch->state != CH_DIALING) return;
    ch->state = CH_UP;
    ch->backoff_ms = 0;
    ch->last_err = (struct err){0};
    requests_submit(ch);
}

static void conn_drop(struct rpc_channel *ch, struct rpc_conn *c)
{
    if (ch->conn != c) return;
    ch->conn = NULL;
    ch->state = CH_IDLE;
}

static void on_goaway(struct rpc_conn *c)
{
    struct ch_conn *cc = rpc_conn_owner(c);

    conn_drop(cc->ch, c); /* what it still serves, it serves; new requests dial */
    rpc_conn_drain(c);
    channel_kick(cc->ch);
}

static void dial_failed(struct rpc_channel *ch, enum rc rc, const struct err *e);

static void on_down(struct rpc_conn *c, enum rc rc, const struct err *e)
{
    struct ch_conn *cc = rpc_conn_owner(c);
    struct rpc_channel *ch = cc->ch;
    bool before_settings = ch->conn == c && ch->state == CH_DIALING;

    list_remove(&cc->link);
    free(cc);
    ch->conns_n--;
    conn_drop(ch, c);
    if (ch->closing) {
        channel_kick(ch);
    } else if (before_settings) {
        struct err named = *e;

        (void)err_prefix(&named, "%s", ch->authority);
        dial_failed(ch, rc, &named);
    } else {
        channel_kick(ch);
    }
}

static const struct rpc_conn_ops client_ops = {
    .on_header = on_header,
    .on_headers = on_headers,
    .on_message = on_message,
    .on_bad_message = on_bad_message,
    .on_remote_end = on_remote_end,
    .on_room = on_room,
    .on_closed = on_closed,
    .on_settings = on_settings,
    .on_goaway = on_goaway,
    .on_down = on_down,
};

/* ---- the channel ---- */

static void timer_set(struct rpc_channel *ch);

static void fail_waiting(struct rpc_channel *ch, bool all, enum rc rc)
{
    LIST_FOREACH_SAFE(it, &ch->open)
    {
        struct req *q = req_at(it);

        if (q->sent || (!all && !q->fail_fast)) continue;
        q->r->err = ch->last_err;
        q->r->err.rc = rc;
        req_done(q, rc, true);
    }
}

static void dial_failed(struct rpc_channel *ch, enum rc rc, const struct err *e)
{
    uint8_t r = 0;

    ch->last_err = *e;
    ch->state = CH_BACKOFF;
    ch->backoff_ms = ch->backoff_ms == 0 ? BACKOFF_MS_MIN : MIN(ch->backoff_ms * 2, BACKOFF_MS_MAX);
    if (RAND_bytes(&r, 1) != 1) r = 0; /* jitter: any value will do */
    ch->retry_at_ms = uv_now(ch->conf.loop) + ch->backoff_ms / 2 + ch->backoff_ms * r / 256;
    log_debug("net_dial_failed", "to=%s rc=%s reason=\"%s\"", ch->authority, rc_name(rc), e->msg);
    /* a refused certificate is refused again: nobody shall wait for it */
    if (rc == RC_UNAUTH)
        fail_waiting(ch, true, RC_UNAUTH);
    else
        fail_waiting(ch, false, RC_UNAVAIL);
    timer_set(ch);
}

static void on_ready(void *data, struct net_stream *net, enum rc rc, const struct err *e)
{
    struct rpc_channel *ch = data;
    struct rpc_conn_conf conf = {.loop = ch->conf.loop, .net = net, .ops = &client_ops};
    struct ch_conn *cc;
    struct err own = {0};

    ch->dial = NULL;
    if (rc != RC_OK) {
        dial_failed(ch, rc, e);
        return;
    }
    cc = calloc(1, sizeof(*cc));
    conf.owner = cc;
    if (cc == NULL || rpc_conn_new(&conf, &cc->conn, &own) != RC_OK) {
        free(cc);
        net_stream_close(net);
        (void)err_set(&own, RC_NOMEM, "%s: out of memory", ch->authority);
        dial_failed(ch, RC_NOMEM, &own);
        return;
    }
    cc->ch = ch;
    list_push_back(&ch->conns, &cc->link);
    ch->conns_n++;
    ch->conn = cc->conn; /* UP when its SETTINGS come; until then the dial's time counts */
    timer_set(ch);
}

static bool any_waiting(const struct rpc_channel *ch)
{
    LIST_FOREACH(it, &ch->open)
    {
        if (!req_at(it)->sent) return true;
    }
    return false;
}

static void dial_start(struct rpc_channel *ch)
{
    struct net_dial_conf conf = {.loop = ch->conf.loop,
                                 .tls = ch->conf.tls,
                                 .host = ch->host,
                                 .port = ch->conf.port,
                                 .alpn = NET_ALPN_H2,
                                 .expect_uri = ch->expect_uri,
                                 .plain_server_ok = ch->conf.plain_server_ok,
                                 .timeout_ms = ch->conf.connect_ms};
    struct err e = {0};
    enum rc rc;

    ch->state = CH_DIALING;
    ch->dialed_at_ms = uv_now(ch->conf.loop);
    rc = net_dial(&conf, on_ready, ch, &ch->dial, &e);
    if (rc != RC_OK) dial_failed(ch, rc, &e);
}

/* Called from the loop only: it may end requests. */
static void channel_step(struct rpc_channel *ch)
{
    if (ch->closing) return;
    if (ch->state == CH_BACKOFF && uv_now(ch->conf.loop) >= ch->retry_at_ms) ch->state = CH_IDLE;
    if (ch->state == CH_IDLE && any_waiting(ch))
        dial_start(ch);
    else if (ch->state == CH_UP)
        requests_submit(ch);
    timer_set(ch);
}

static void requests_submit(struct rpc_channel *ch)
{
    LIST_FOREACH_SAFE(it, &ch->open)
    {
        struct req *q = req_at(it);
        nghttp2_nv nva[RPC_METADATA_MAX + 12];
        uint64_t now = uv_now(ch->conf.loop);
        char timeout[16];
        size_t n = 0;
        enum rc rc;

        if (q->sent || q->cancel) continue;
        nva[n++] = rpc_nv(":method", "POST");
        nva[n++] = rpc_nv(":scheme", ch->conf.tls != NULL ? "https" : "http");
        nva[n++] = rpc_nv(":path", q->path);
        nva[n++] = rpc_nv(":authority", ch->authority);
        nva[n++] = rpc_nv("te", "trailers");
        nva[n++] = rpc_nv("content-type", "application/grpc");
        nva[n++] = rpc_nv("user-agent", "mikura/" MIKURA_VERSION);
        nva[n++] = rpc_nv("grpc-accept-encoding", "identity");
        if (q->deadline_ms != UINT64_MAX) {
            rpc_wire_timeout_print(q->deadline_ms > now ? q->deadline_ms - now : 1, timeout);
            nva[n++] = rpc_nv("grpc-timeout", timeout);
        }
        for (size_t at = 0; at < q->metadata.n && n < ARRAY_N(nva);) {
            const char *k = (const char *)q->metadata.p + at, *v = k + strlen(k) + 1;

            nva[n++] = rpc_nv(k, v);
            at += strlen(k) + strlen(v) + 2;
        }
        q->sent = true;
        rc = rpc_stream_request(ch->conn, &q->s, nva, n);
        if (rc != RC_OK) {
            (void)err_set(&q->r->err, rc, "%s: the request could not be queued", ch->authority);
            req_done(q, rc, true);
        } else if (rpc_stream_room(&q->s) < RPC_SEND_QUEUE_BYTES_MAX) {
            rpc_stream_want_room(&q->s); /* it may have been told "full" before the connection */
        }
    }
}

static void on_ch_timer(uv_timer_t *t)
{
    struct rpc_channel *ch = t->data;
    uint64_t now = uv_now(ch->conf.loop);

    if (ch->closing) return;
    LIST_FOREACH_SAFE(it, &ch->open)
    {
        struct req *q = req_at(it);

        if (!q->sent && now >= MIN(q->wait_ms, q->deadline_ms)) {
            (void)err_set(&q->r->err, RC_UNAVAIL, "no connection to %s in time: %s", ch->authority,
                          ch->last_err.msg[0] != 0 ? ch->last_err.msg : "no answer");
            req_done(q, RC_UNAVAIL, true);
        } else if (now >= q->deadline_ms) {
            (void)err_set(&q->r->err, RC_DEADLINE, "%s: no answer in time", ch->authority);
            req_done(q, RC_DEADLINE, false);
        }
    }
    if (ch->state == CH_DIALING && ch->conn != NULL &&
        now >= ch->dialed_at_ms + ch->conf.connect_ms) {
        rpc_conn_fail(ch->conn, RC_UNAVAIL, "no HTTP/2 SETTINGS in time");
    }
    channel_step(ch);
}

static void timer_set(struct rpc_channel *ch)
{
    uint64_t now = uv_now(ch->conf.loop), at = UINT64_MAX;

    if (ch->closing) return;
    LIST_FOREACH(it, &ch->open)
    {
        struct req *q = req_at(it);

        at = MIN(at, q->sent ? q->deadline_ms : MIN(q->wait_ms, q->deadline_ms));
    }
    if (ch->state == CH_BACKOFF && any_waiting(ch)) at = MIN(at, ch->retry_at_ms);
    if (ch->state == CH_DIALING && ch->conn != NULL) {
        at = MIN(at, ch->dialed_at_ms + ch->conf.connect_ms);
    }
    if (at == UINT64_MAX)
        (void)uv_timer_stop(&ch->timer);
    else
        /* never 0: what has come may need a turn of the loop to take effect (a connection without
         * SETTINGS is ended by its idle handle), and libuv runs a timer of 0 again in this turn */
        (void)uv_timer_start(&ch->timer, on_ch_timer, at > now ? at - now : 1, 0);
}

static void on_handle_closed(uv_handle_t *h)
{
    struct rpc_channel *ch = h->data;
    void (*cb)(void *data) = ch->close_cb;
    void *data = ch->close_data;

    if (--ch->handles_n > 0) return;
    tls_unref(ch->conf.tls);
    free(ch->host);
    free(ch->expect_uri);
    free(ch);
    if (cb != NULL) cb(data);
}

static void close_step(struct rpc_channel *ch)
{
    LIST_FOREACH_SAFE(it, &ch->open)
    {
        struct req *q = req_at(it);

        (void)err_set(&q->r->err, RC_CANCELED, "the channel was closed");
        req_done(q, RC_CANCELED, !q->s.headers_sent);
    }
    LIST_FOREACH_SAFE(it, &ch->conns)
    {
        rpc_conn_fail(CONTAINER_OF(it, struct ch_conn, link)->conn, RC_CANCELED, "closed");
    }
    if (ch->conns_n > 0 || ch->open_n > 0 || ch->closed) return;
    ch->closed = true;
    uv_close((uv_handle_t *)&ch->timer, on_handle_closed);
    uv_close((uv_handle_t *)&ch->idle, on_handle_closed);
}

static void on_idle(uv_idle_t *h)
{
    struct rpc_channel *ch = h->data;

    (void)uv_idle_stop(h);
    if (ch->closing) {
        close_step(ch);
        return;
    }
    LIST_FOREACH_SAFE(it, &ch->open)
    {
        struct req *q = req_at(it);

        if (!q->cancel) continue;
        (void)err_set(&q->r->err, RC_CANCELED, "canceled by the caller");
        req_done(q, RC_CANCELED, !q->s.headers_sent);
    }
    channel_step(ch);
}

static void channel_kick(struct rpc_channel *ch)
{
    if (!ch->closed) (void)uv_idle_start(&ch->idle, on_idle);
}

enum rc rpc_channel_new(const struct rpc_channel_conf *conf, struct rpc_channel **ret_ch,
                        struct err *reterr)
{
    struct rpc_channel *ch = calloc(1, sizeof(*ch));

    if (ch == NULL) return err_set(reterr, RC_NOMEM, "channel to '%s'", conf->host);
    ch->conf = *conf;
    if (ch->conf.connect_ms == 0) ch->conf.connect_ms = CONNECT_MS;
    ch->host = strdup(conf->host);
    if (conf->expect_uri != NULL) ch->expect_uri = strdup(conf->expect_uri);
    if (ch->host == NULL || (conf->expect_uri != NULL && ch->expect_uri == NULL)) {
        free(ch->host);
        free(ch->expect_uri);
        free(ch);
        return err_set(reterr, RC_NOMEM, "channel to '%s'", conf->host);
    }
    if (conf->tls != NULL) (void)tls_ref(conf->tls);
    (void)snprintf(ch->authority, sizeof(ch->authority),
                   strchr(conf->host, ':') != NULL ? "[%s]:%u" : "%s:%u", conf->host, conf->port);
    list_init(&ch->open);
    list_init(&ch->conns);
    (void)uv_timer_init(conf->loop, &ch->timer); /* neither can fail */
    (void)uv_idle_init(conf->loop, &ch->idle);
    ch->timer.data = ch->idle.data = ch;
    ch->handles_n = 2;
    *ret_ch = ch;
    return RC_OK;
}

void rpc_channel_close(struct rpc_channel *ch, void (*cb)(void *data), void *data)
{
    CHECK(!ch->closing);
    ch->closing = true;
    ch->close_cb = cb;
    ch->close_data = data;
    if (ch->dial != NULL) net_stream_close(ch->dial);
    ch->dial = NULL;
    channel_kick(ch);
}

bool rpc_channel_connected(const struct rpc_channel *ch)
{
    return ch->state == CH_UP;
}

/* ---- requests ---- */

static void metadata_put(struct buf *b, const char *name, const char *value)
{
    buf_put(b, name, strlen(name) + 1);
    buf_put(b, value, strlen(value) + 1);
}

enum rc rpc_request_start(struct rpc_channel *ch, struct rpc_request *r,
                          const struct rpc_request_conf *conf, const struct rpc_request_ops *ops)
{
    uint64_t now = uv_now(ch->conf.loop);
    struct req *q;

    if (ch->closing) return RC_CANCELED;
    if (ch->open_n >= OPEN_MAX) return RC_BUSY;
    if (conf->metadata_n > RPC_METADATA_MAX) return RC_INVAL;
    q = calloc(1, sizeof(*q));
    if (q == NULL) return RC_NOMEM;
    rpc_stream_init(&q->s);
    list_init(&q->link);
    buf_init(&q->metadata, RPC_HEADERS_BYTES_MAX);
    q->path = strdup(conf->path);
    for (uint32_t i = 0; i < conf->metadata_n; i++)
        metadata_put(&q->metadata, conf->metadata[i].name, conf->metadata[i].value);
    if (conf->rid != NULL) metadata_put(&q->metadata, "x-request-id", conf->rid);
    if (q->path == NULL || buf_rc(&q->metadata) != RC_OK) {
        req_free(q);
        return RC_NOMEM;
    }
    q->ch = ch;
    q->r = r;
    q->s.auto_consume = r->auto_consume;
    if (conf->message_bytes_max != 0) q->s.message_bytes_max = conf->message_bytes_max;
    q->grpc_status = -1;
    q->fail_fast = conf->fail_fast;
    q->deadline_ms = conf->timeout_ms != 0 ? now + conf->timeout_ms : UINT64_MAX;
    q->wait_ms = conf->timeout_ms != 0 ? q->deadline_ms : now + ch->conf.connect_ms;
    r->err = (struct err){0};
    r->grpc_status = -1;
    r->trailer_epoch[0] = 0;
    r->never_sent = false;
    r->priv.ch = ch;
    r->priv.ops = ops;
    r->priv.stream = &q->s;
    r->priv.deadline_ms = q->deadline_ms;
    list_push_back(&ch->open, &q->link);
    ch->open_n++;
    channel_kick(ch);
    return RC_OK;
}

enum rc rpc_request_send_payload(struct rpc_request *r, const ProtobufCMessage *m,
                                 const struct rpc_payload *payload)
{
    struct req *q;

    if (r->priv.stream == NULL) return RC_CANCELED;
    q = req_of(r->priv.stream);
    if (q->half_closed || q->cancel) return RC_CANCELED;
    return rpc_stream_send(&q->s, m, payload);
}

enum rc rpc_request_send(struct rpc_request *r, const ProtobufCMessage *m)
{
    return rpc_request_send_payload(r, m, NULL);
}

uint32_t rpc_request_send_room(const struct rpc_request *r)
{
    uint32_t room = r->priv.stream != NULL ? rpc_stream_room(r->priv.stream) : 0;

    if (room == 0 && r->priv.stream != NULL)
        rpc_stream_want_room(r->priv.stream); /* on_room tells */
    return room;
}

void rpc_request_half_close(struct rpc_request *r)
{
    if (r->priv.stream == NULL) return;
    req_of(r->priv.stream)->half_closed = true;
    rpc_stream_end(r->priv.stream);
}

void rpc_request_consume(struct rpc_request *r, uint32_t bytes)
{
    if (r->priv.stream != NULL) rpc_stream_consume(r->priv.stream, bytes);
}

void rpc_request_cancel(struct rpc_request *r)
{
    struct req *q;

    if (r->priv.stream == NULL) return;
    q = req_of(r->priv.stream);
    q->cancel = true;
    q->s.mute = true;
    channel_kick(q->ch);
}

/* ---- unary ---- */

static void unary_message(struct rpc_request *r, struct rpc_msg *m)
{
    struct rpc_unary *u = CONTAINER_OF(r, struct rpc_unary, req);

    if (u->priv.answer != NULL) {
        (void)err_set(&r->err, RC_INTERNAL, "more than one answer to a unary call");
        return;
    }
    u->priv.answer = protobuf_c_message_unpack(u->priv.desc, NULL, m->n, m->p);
    if (u->priv.answer == NULL) {
        (void)err_set(&r->err, RC_INTERNAL, "the answer is no %s", u->priv.desc->name);
    }
}

static void unary_done(struct rpc_request *r, enum rc rc)
{
    struct rpc_unary *u = CONTAINER_OF(r, struct rpc_unary, req);
    ProtobufCMessage *answer = u->priv.answer;

    if (rc == RC_OK && r->err.rc != RC_OK) rc = r->err.rc;
    if (rc == RC_OK && answer == NULL) rc = err_set(&r->err, RC_INTERNAL, "OK without an answer");
    u->priv.answer = NULL;
    u->priv.cb(u, rc, rc == RC_OK ? answer : NULL);
    if (answer != NULL) protobuf_c_message_free_unpacked(answer, NULL);
}

enum rc rpc_unary_start(struct rpc_channel *ch, struct rpc_unary *u,
                        const struct rpc_request_conf *conf, const ProtobufCMessage *m,
                        const ProtobufCMessageDescriptor *answer_desc,
                        void (*cb)(struct rpc_unary *u, enum rc rc, const ProtobufCMessage *answer))
{
    static const struct rpc_request_ops ops = {.on_message = unary_message, .on_done = unary_done};
    enum rc rc;

    u->req.auto_consume = true;
    u->priv.desc = answer_desc;
    u->priv.answer = NULL;
    u->priv.cb = cb;
    rc = rpc_request_start(ch, &u->req, conf, &ops);
    if (rc != RC_OK) return rc;
    rc = rpc_request_send(&u->req, m);
    if (rc != RC_OK) { /* nothing was queued: take it back as if it had never been */
        struct req *q = req_of(u->req.priv.stream);

        list_remove(&q->link);
        ch->open_n--;
        u->req.priv.stream = NULL;
        req_free(q);
        return rc;
    }
    rpc_request_half_close(&u->req);
    return RC_OK;
}
