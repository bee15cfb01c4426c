/* common/net/bulk.c - a connection's life: dial or adopt, exported keys, Hellos, requests and their
 * deadlines, the end. bulk_priv.h has the states.
 *
 * Every callback is made from conn_run or on_timer, hence from the loop. A failure is only noted
 * (bulk_conn_fail); conn_end tells all requests, then on_down, and frees. */
#include "common/net/bulk.h"
#include "common/base/bigmem.h"
#include "common/net/bulk_priv.h"
#include "common/net/net_rc.h"
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define HELLO_MS          5000u
#define LIFE_MS           3600000u
#define DRAIN_MS          30000u
#define GIVEN_UP_MAX      (BULK_INFLIGHT_MAX / 2) /* then the peer is taken for dead */
#define MESSAGE_BYTES_MAX (16u << 20)
#define TCP_USER_MS       20000u /* unacknowledged bytes for so long: the peer is gone */

static const char EXPORT_LABEL[] = "EXPORTER-mikura-bulk-1";
static const struct slice NOTHING = {NULL, 0};

void bulk_buf_unref(struct bulk_buf *b)
{
    if (b == NULL) return;
    CHECK(b->refs > 0);
    if (--b->refs == 0) b->release(b);
}

static size_t heap_bytes(uint32_t cap)
{
    return ROUND_UP((size_t)MAX(cap, 1u), 4096);
}

static void heap_release(struct bulk_buf *b)
{
    bigmem_free(b->p, heap_bytes(b->cap));
    free(b);
}

struct bulk_buf *bulk_buf_new(uint32_t cap)
{
    struct bulk_buf *b = calloc(1, sizeof(*b));

    if (b == NULL) return NULL;
    b->p = heap_bytes(cap) < BIGMEM_MIN_BYTES ? aligned_alloc(4096, heap_bytes(cap))
                                              : bigmem_alloc(heap_bytes(cap));
    if (b->p == NULL) {
        free(b);
        return NULL;
    }
    b->cap = cap;
    b->refs = 1;
    b->release = heap_release;
    return b;
}

/* ---- the end ---- */

void bulk_conn_fail(struct bulk_conn *c, enum rc rc, const char *fmt, ...)
{
    char text[400];
    va_list ap;

    if (c->state == BULK_ST_DEAD) return;
    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    (void)err_set(&c->err, rc, "%s%s%s", c->peer.uri, c->peer.uri[0] != 0 ? ": " : "", text);
    c->state = BULK_ST_DEAD;
    bulk_conn_kick(c);
}

static void on_handle_closed(uv_handle_t *h)
{
    struct bulk_conn *c = h->data;

    if (--c->handles_n > 0) return;
    if (c->fd >= 0) (void)close(c->fd); /* nothing is lost by a failed close of a socket */
    bulk_key_free(c->tx_key);
    bulk_key_free(c->rx_key);
    tls_unref(c->conf.tls);
    free(c->rx_buf);
    free(c);
}

void bulk_out_end(struct bulk_conn *c, struct bulk_out *o, enum rc rc, struct slice header,
                  struct bulk_buf *payload, uint32_t payload_n, bool slot_free)
{
    struct bulk_slot *s = &c->slots[o->priv.id % BULK_INFLIGHT_MAX];
    struct bulk_tx_frame *t = o->priv.frame;

    CHECK(s->out == o);
    s->out = NULL;
    if (slot_free) {
        s->used = false;
        c->slots_used--;
    } else {
        c->slots_given_up++;
    }
    if (t != NULL) {
        t->out = NULL;
        if (list_empty(&t->link)) bulk_tx_drop(c, t);
    }
    o->priv.frame = NULL;
    o->priv.conn = NULL;
    o->priv.cb(o, rc, header, payload, payload_n);
}

static void conn_end(struct bulk_conn *c)
{
    enum rc rc = c->err.rc, out_rc = rc == RC_CANCELED ? RC_CANCELED : RC_UNAVAIL;

    for (uint32_t i = 0; i < BULK_INFLIGHT_MAX; i++) {
        struct bulk_out *o = c->slots[i].out;

        if (o == NULL) continue;
        if (o->err.rc == RC_OK) {
            (void)err_set(&o->err, out_rc, "%s", c->err.msg);
            o->err.rc = out_rc;
        }
        bulk_out_end(c, o, o->err.rc, NOTHING, NULL, 0, /* slot_free= */ true);
    }
    while (!list_empty(&c->ins)) {
        struct bulk_in *in = CONTAINER_OF(c->ins.next, struct bulk_in, link);

        list_remove(&in->link);
        c->ins_n--;
        if (c->conf.ops->on_lost != NULL) c->conf.ops->on_lost(in);
        free(in);
    }
    while (!list_empty(&c->tx))
        bulk_tx_drop(c, CONTAINER_OF(c->tx.next, struct bulk_tx_frame, link));
    bulk_buf_unref(c->rx_payload);
    c->rx_payload = NULL;
    net_stream_close(c->dialing);
    c->dialing = NULL;
    if (c->conf.ops->on_down != NULL) c->conf.ops->on_down(c, rc, &c->err);
    uv_close((uv_handle_t *)&c->kick, on_handle_closed);
    uv_close((uv_handle_t *)&c->timer, on_handle_closed);
    if (c->poll_open) uv_close((uv_handle_t *)&c->poll, on_handle_closed);
}

/* ---- the run of a connection ---- */

/* Answers that came before their request's payload was there, and may be told now. */
static void early_deliver(struct bulk_conn *c)
{
    for (uint32_t i = 0; c->early_n > 0 && i < BULK_INFLIGHT_MAX; i++) {
        struct bulk_out *o = c->slots[i].out;
        struct bulk_tx_frame *t = o != NULL ? o->priv.frame : NULL;
        struct bulk_buf *payload;
        uint8_t *header;

        if (t == NULL || !t->early || t->ready < t->f.payload_n) continue;
        header = t->early_header;
        payload = t->early_payload;
        t->early = false;
        t->early_header = NULL;
        t->early_payload = NULL;
        c->early_n--;
        bulk_out_end(c, o, RC_OK, (struct slice){header, t->early_header_n}, payload,
                     t->early_payload_n, /* slot_free= */ true);
        bulk_buf_unref(payload);
        free(header);
    }
}

static void drain_check(struct bulk_conn *c)
{
    if (c->state != BULK_ST_UP || !c->drain_sent || !c->drain_got) return;
    if (c->slots_used > 0 || c->ins_n > 0 || !list_empty(&c->tx) || c->rx_mode != RX_FRAME) return;
    bulk_conn_fail(c, RC_CANCELED, "the connection's time is over");
}

static void conn_run(struct bulk_conn *c)
{
    if (c->early_n > 0) early_deliver(c);
    if (c->fd >= 0) {
        bulk_rx_run(c);
        bulk_tx_flush(c);
    }
    if (c->rx_last && c->rx_mode == RX_WAIT) /* its sender hears no answer any more */
        bulk_conn_fail(c, RC_UNAVAIL, "connection lost while a payload waited for room");
    drain_check(c);
    if (c->state != BULK_ST_DEAD) bulk_poll_update(c);
}

static void on_kick(uv_idle_t *h)
{
    struct bulk_conn *c = h->data;

    (void)uv_idle_stop(h);
    if (c->state != BULK_ST_DEAD) conn_run(c);
    if (c->state == BULK_ST_DEAD) {
        (void)uv_idle_stop(h);
        conn_end(c);
    }
}

void bulk_conn_kick(struct bulk_conn *c)
{
    if (!uv_is_closing((uv_handle_t *)&c->kick)) (void)uv_idle_start(&c->kick, on_kick);
}

static void on_poll(uv_poll_t *h, int status, int events)
{
    struct bulk_conn *c = h->data;

    /* a kick reads no socket that was empty: when there is more, this is called */
    if (status != 0 || (events & UV_READABLE) != 0) c->rx_dry = false;
    if (status != 0) { /* an error of the socket: libuv has stopped polling */
        c->rx_last = true;
        c->events = 0;
    }
    if (c->state == BULK_ST_DEAD) {
        (void)uv_poll_stop(h); /* the kick ends it */
        return;
    }
    conn_run(c);
}

void bulk_poll_update(struct bulk_conn *c)
{
    int want = 0;

    if (c->rx_mode != RX_WAIT) want |= UV_READABLE;
    if (bulk_tx_wants(c)) want |= UV_WRITABLE;
    if (want == c->events || !c->poll_open) return;
    c->events = want;
    if (want == 0)
        (void)uv_poll_stop(&c->poll);
    else
        (void)uv_poll_start(&c->poll, want, on_poll); /* EPOLL_CTL on an open fd */
}

/* ---- time ---- */

static void on_timer(uv_timer_t *t);

static void timer_at(struct bulk_conn *c, uint64_t due_ms)
{
    uint64_t now = uv_now(c->conf.loop);

    if (due_ms >= c->timer_due_ms) return;
    c->timer_due_ms = due_ms;
    (void)uv_timer_start(&c->timer, on_timer, due_ms > now ? due_ms - now : 0, 0);
}

/* The request's time is over. What of it is on the way must stay whole. */
static void out_expire(struct bulk_conn *c, struct bulk_out *o)
{
    struct bulk_tx_frame *t = o->priv.frame;
    bool answered = false;

    (void)err_set(&o->err, RC_DEADLINE, "%s: no answer in time", c->peer.uri);
    if (c->rx_out == o) { /* its answer is half here */
        bulk_buf_unref(c->rx_payload);
        c->rx_payload = NULL;
        c->rx_out = NULL;
        c->rx_mode = RX_DISCARD;
        answered = true;
    }
    if (t != NULL && !t->sealed) {
        bulk_tx_drop(c, t);
        answered = true; /* none will come */
    } else if (t != NULL && t->ready < t->f.payload_n) {
        bulk_conn_fail(c, RC_DEADLINE, "a request's payload was not there in time");
        return; /* conn_end tells it, with its own error */
    }
    bulk_out_end(c, o, RC_DEADLINE, NOTHING, NULL, 0, answered);
    if (c->slots_given_up > GIVEN_UP_MAX) {
        bulk_conn_fail(c, RC_UNAVAIL, "%u requests without an answer", c->slots_given_up);
    }
}

static void on_timer(uv_timer_t *timer)
{
    struct bulk_conn *c = timer->data;
    uint64_t now = uv_now(c->conf.loop), next = c->end_at_ms;

    c->timer_due_ms = UINT64_MAX;
    if (c->state == BULK_ST_HELLO && now >= c->hello_by_ms) {
        bulk_conn_fail(c, RC_DEADLINE, "no Hello within %u ms", HELLO_MS);
    }
    if (now >= c->end_at_ms) bulk_conn_fail(c, RC_CANCELED, "the connection's time is over");
    for (uint32_t i = 0; c->state == BULK_ST_UP && i < BULK_INFLIGHT_MAX; i++) {
        struct bulk_out *o = c->slots[i].out;

        if (o == NULL) continue;
        if (o->priv.deadline_ms <= now)
            out_expire(c, o);
        else
            next = MIN(next, o->priv.deadline_ms);
    }
    if (c->state == BULK_ST_UP && now >= c->drain_at_ms) bulk_on_drain(c);
    if (c->state == BULK_ST_DEAD) return;
    if (c->state == BULK_ST_HELLO) next = MIN(next, c->hello_by_ms);
    if (c->state == BULK_ST_UP && !c->drain_sent) next = MIN(next, c->drain_at_ms);
    timer_at(c, next);
}

/* Our time is over, or the peer's: both say so once, and start nothing more. */
static void drain_send(struct bulk_conn *c)
{
    struct bulk_frame f = {.type = BULK_DRAIN};

    if (c->drain_sent) return;
    c->drain_sent = true;
    c->end_at_ms = MIN(c->end_at_ms, uv_now(c->conf.loop) + DRAIN_MS);
    timer_at(c, c->end_at_ms);
    if (bulk_tx_push(c, &f, NOTHING, NULL, 0, 0) == NULL) bulk_conn_fail(c, RC_NOMEM, "drain");
}

void bulk_on_drain(struct bulk_conn *c)
{
    drain_send(c);
    bulk_conn_kick(c);
}

/* ---- handshake done: exported keys, Hello ---- */

static enum rc hello_send(struct bulk_conn *c, enum bulk_class cls)
{
    struct bulk_hello h = c->conf.self;
    struct bulk_frame f = {.type = BULK_HELLO};
    uint8_t bytes[BULK_HELLO_BYTES];

    h.wire_version = 1;
    h.cls = cls;
    bulk_hello_encode(&h, bytes);
    return bulk_tx_push(c, &f, (struct slice){bytes, sizeof(bytes)}, NULL, 0, 0) != NULL ? RC_OK
                                                                                         : RC_NOMEM;
}

void bulk_on_hello(struct bulk_conn *c, struct slice header)
{
    struct bulk_hello h;

    if (bulk_hello_decode(header, &h) != RC_OK) {
        bulk_conn_fail(c, RC_CORRUPT, "malformed Hello");
        return;
    }
    if (h.wire_version != 1) {
        bulk_conn_fail(c, RC_UNIMPL, "the peer speaks bulk wire %u, we 1", h.wire_version);
        return;
    }
    if (!id128_eq(&h.cluster, &c->conf.self.cluster)) {
        char text[ID128_TEXT_BYTES];

        bulk_conn_fail(c, RC_DENIED, "the peer belongs to another cluster, %s",
                       id128_text(&h.cluster, text));
        return;
    }
    if (c->client && h.cls != c->conf.self.cls) {
        bulk_conn_fail(c, RC_CORRUPT, "the peer's Hello is of another class");
        return;
    }
    c->hello = h;
    if (!c->client && hello_send(c, h.cls) != RC_OK) {
        bulk_conn_fail(c, RC_NOMEM, "Hello");
        return;
    }
    c->state = BULK_ST_UP;
    timer_at(c, MIN(c->drain_at_ms, c->end_at_ms)); /* it stood at the Hello's time */
    if (c->conf.ops->on_up != NULL) c->conf.ops->on_up(c);
}

/* context: which direction. */
static enum rc export_key(SSL *ssl, const char *context, struct bulk_key **ret_key)
{
    uint8_t secret[32];
    enum rc rc;

    if (SSL_export_keying_material(ssl, secret, sizeof(secret), EXPORT_LABEL,
                                   sizeof(EXPORT_LABEL) - 1, (const uint8_t *)context,
                                   strlen(context), /* use_context= */ 1) != 1) {
        return RC_INTERNAL;
    }
    rc = bulk_key_new(secret, ret_key);
    OPENSSL_cleanse(secret, sizeof(secret));
    return rc;
}

static void socket_options(int fd)
{
    int one = 1, idle_s = 10, interval_s = 5, probes = 3;
    unsigned user_ms = TCP_USER_MS;

    /* only later or slower without them */
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    (void)setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &user_ms, sizeof(user_ms));
    (void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one));
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof(idle_s));
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval_s, sizeof(interval_s));
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof(probes));
}

/* Takes the socket out of the stream; from here on it is bare. */
static enum rc parts_take(struct bulk_conn *c, struct net_stream *stream, struct err *reterr)
{
    uint64_t now = uv_now(c->conf.loop), life = c->conf.life_ms != 0 ? c->conf.life_ms : LIFE_MS;
    struct net_parts parts;
    enum rc rc;
    int status;

    net_stream_release(stream, &parts);
    c->fd = parts.fd;
    c->peer = parts.peer;
    c->client = !SSL_is_server(parts.ssl);
    rc = RC_OK;
    if (c->peer.role != TLS_NODE) {
        rc = err_set(reterr, RC_DENIED, "%s is no node; the bulk wire is for nodes", c->peer.uri);
    } else if (BIO_get_ktls_send(SSL_get_wbio(parts.ssl)) ||
               BIO_get_ktls_recv(SSL_get_rbio(parts.ssl)) || SSL_has_pending(parts.ssl)) {
        rc = err_set(reterr, RC_INTERNAL, "TLS still has its hands on the socket");
    }
    if (rc == RC_OK) {
        rc = export_key(parts.ssl, "client to server", c->client ? &c->tx_key : &c->rx_key);
        if (rc == RC_OK) {
            rc = export_key(parts.ssl, "server to client", c->client ? &c->rx_key : &c->tx_key);
        }
        if (rc != RC_OK) (void)err_set(reterr, rc, "exported keys");
    }
    SSL_free(parts.ssl); /* sends nothing; its BIO does not own the fd */
    if (rc != RC_OK) return rc;
    socket_options(c->fd);
    status = uv_poll_init(c->conf.loop, &c->poll, c->fd);
    if (status != 0) return err_set(reterr, rc_from_uv(status), "poll of a socket");
    c->poll.data = c;
    c->poll_open = true;
    c->handles_n++;
    c->state = BULK_ST_HELLO;
    c->hello_by_ms = now + HELLO_MS;
    c->end_at_ms = now + MIN(parts.life_ms, life + DRAIN_MS);
    /* a certificate's last half minute is used too, or a node that has one would only dial */
    c->drain_at_ms = now + MIN(life, parts.life_ms - MIN(DRAIN_MS, parts.life_ms / 2));
    timer_at(c, MIN(c->hello_by_ms, c->end_at_ms));
    if (c->client && hello_send(c, c->conf.self.cls) != RC_OK) {
        return err_set(reterr, RC_NOMEM, "Hello");
    }
    bulk_conn_kick(c);
    return RC_OK;
}

static struct bulk_conn *conn_new(const struct bulk_conf *conf)
{
    struct bulk_conn *c = calloc(1, sizeof(*c));

    if (c == NULL) return NULL;
    c->fd = -1;
    c->conf = *conf;
    c->conf.tls = conf->tls != NULL ? tls_ref(conf->tls) : NULL;
    c->data = conf->data;
    c->timer_due_ms = c->end_at_ms = c->drain_at_ms = UINT64_MAX;
    list_init(&c->tx);
    list_init(&c->ins);
    (void)uv_timer_init(conf->loop, &c->timer); /* these can't fail */
    (void)uv_idle_init(conf->loop, &c->kick);
    c->timer.data = c->kick.data = c;
    c->handles_n = 2;
    return c;
}

/* A connection that nobody was told of. */
static void conn_destroy(struct bulk_conn *c)
{
    static const struct bulk_ops none;

    c->conf.ops = &none;
    c->state = BULK_ST_DEAD;
    conn_end(c);
}

static void on_dialed(void *data, struct net_stream *st, enum rc rc, const struct err *e)
{
    struct bulk_conn *c = data;
    struct err err;

    c->dialing = NULL;
    if (c->state == BULK_ST_DEAD) {
        net_stream_close(st);
        return;
    }
    if (rc != RC_OK) {
        bulk_conn_fail(c, rc, "%s", e->msg);
        return;
    }
    rc = parts_take(c, st, &err);
    if (rc != RC_OK) bulk_conn_fail(c, rc, "%s", err.msg);
}

enum rc bulk_dial(const struct bulk_conf *conf, const char *host, uint16_t port,
                  const char *expect_uri, enum bulk_class cls, struct bulk_conn **ret_conn,
                  struct err *reterr)
{
    struct net_dial_conf dial = {.loop = conf->loop,
                                 .tls = conf->tls,
                                 .host = host,
                                 .port = port,
                                 .alpn = NET_ALPN_BULK,
                                 .expect_uri = expect_uri};
    struct bulk_conn *c = conn_new(conf);
    enum rc rc;

    CHECK(conf->tls != NULL);
    if (c == NULL) return err_set(reterr, RC_NOMEM, "connection to '%s'", host);
    c->conf.self.cls = cls;
    rc = net_dial(&dial, on_dialed, c, &c->dialing, reterr);
    if (rc != RC_OK) {
        conn_destroy(c);
        return rc;
    }
    *ret_conn = c;
    return RC_OK;
}

enum rc bulk_adopt(const struct bulk_conf *conf, struct net_stream *stream,
                   struct bulk_conn **ret_conn, struct err *reterr)
{
    struct bulk_conn *c = conn_new(conf);
    enum rc rc;

    if (c == NULL) return err_set(reterr, RC_NOMEM, "accepted connection");
    rc = parts_take(c, stream, reterr);
    if (rc != RC_OK) {
        conn_destroy(c);
        return rc;
    }
    *ret_conn = c;
    return RC_OK;
}

void bulk_conn_close(struct bulk_conn *c, enum rc rc)
{
    if (c != NULL) bulk_conn_fail(c, rc == RC_OK ? RC_CANCELED : rc, "closed by its owner");
}

void *bulk_conn_data(const struct bulk_conn *c)
{
    return c->data;
}

void bulk_conn_set_data(struct bulk_conn *c, void *data)
{
    c->data = data;
}

const struct tls_identity *bulk_conn_peer(const struct bulk_conn *c)
{
    return &c->peer;
}

const struct bulk_hello *bulk_conn_hello(const struct bulk_conn *c)
{
    return &c->hello;
}

bool bulk_conn_up(const struct bulk_conn *c)
{
    return c->state == BULK_ST_UP && !c->drain_sent && !c->drain_got;
}

/* ---- requests ---- */

enum rc bulk_out_start(struct bulk_conn *c, struct bulk_out *o, const struct bulk_send *s,
                       bulk_out_cb cb)
{
    struct bulk_frame f = {.type = BULK_REQUEST, .payload_n = s->n, .timeout_ms = s->timeout_ms};
    struct bulk_tx_frame *t;
    uint32_t i = 0;

    CHECK(s->header.n <= BULK_HEADER_BYTES_MAX && s->n <= BULK_PAYLOAD_BYTES_MAX);
    CHECK(s->ready <= s->n);
    if (s->n > 0) CHECK(s->at <= s->payload->cap && s->payload->cap - s->at >= s->n);
    if (!bulk_conn_up(c)) return RC_UNAVAIL;
    if (c->slots_used == BULK_INFLIGHT_MAX) return RC_BUSY;
    while (c->slots[i].used)
        i++;
    f.id = (c->slots[i].generation + 1) % (UINT32_MAX / BULK_INFLIGHT_MAX);
    c->slots[i].generation = f.id;
    f.id = f.id * BULK_INFLIGHT_MAX + i;
    t = bulk_tx_push(c, &f, s->header, s->payload, s->at, s->ready);
    if (t == NULL) return RC_NOMEM;
    c->slots[i].used = true;
    c->slots[i].out = o;
    c->slots_used++;
    t->out = o;
    o->err.rc = RC_OK;
    o->priv = (struct bulk_out_priv){
        .conn = c,
        .cb = cb,
        .id = f.id,
        .deadline_ms = s->timeout_ms != 0 ? uv_now(c->conf.loop) + s->timeout_ms : UINT64_MAX,
        .frame = t};
    timer_at(c, o->priv.deadline_ms);
    return RC_OK;
}

void bulk_out_more(struct bulk_out *o, uint32_t ready)
{
    struct bulk_tx_frame *t = o->priv.frame;

    if (t == NULL) return; /* all was sent; ready can only be the same again */
    CHECK(ready >= t->ready && ready <= t->f.payload_n);
    t->ready = ready;
    bulk_conn_kick(o->priv.conn);
}

void bulk_out_abort(struct bulk_out *o)
{
    struct bulk_conn *c = o->priv.conn;

    CHECK(c != NULL);
    (void)err_set(&o->err, RC_CANCELED, "its payload's source was lost");
    bulk_conn_fail(c, RC_UNAVAIL, "a payload's source was lost");
}

enum rc bulk_message(struct bulk_conn *c, struct slice header)
{
    struct bulk_frame f = {.type = BULK_MESSAGE};

    CHECK(header.n <= BULK_HEADER_BYTES_MAX);
    if (!bulk_conn_up(c)) return RC_UNAVAIL;
    if (c->message_bytes > MESSAGE_BYTES_MAX) return RC_BUSY;
    return bulk_tx_push(c, &f, header, NULL, 0, 0) != NULL ? RC_OK : RC_NOMEM;
}
