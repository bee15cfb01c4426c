/* common/net/rpc_call.c - one gRPC call at the server; see rpc.h.
 *
 * A call has three ends: its stream closes (`closed`), its handler has been told (`told`), its
 * handler lets go (`finished`, or told by on_end before it finished). It is freed after all three.
 */
#include "common/base/log.h"
#include "common/net/rpc_server_priv.h"
#include "common/net/rpc_wire.h"
#include <inttypes.h>
#include <openssl/rand.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct rpc_call {
    struct rpc_stream s; /* first */
    struct rpc_server *server;
    const struct rpc_method *method;
    struct tls_identity peer;
    bool has_peer;
    struct buf headers; /* "name\0value\0"... */
    size_t headers_whole;
    struct buf trailers;
    char rid[68];
    uint64_t deadline_ms;
    void *data;
    void (*on_room)(struct rpc_call *c);
    struct rpc_msg *unary; /* held until the half-close */
    uint32_t messages_n;
    bool begun, responded, finished, dead, told, closed, deciding;
    struct http_request *http;
};

static struct rpc_call *call_of(struct rpc_stream *s)
{
    return CONTAINER_OF(s, struct rpc_call, s);
}

static void call_try_free(struct rpc_call *c)
{
    bool released = c->finished || (c->told && c->method != NULL && c->method->on_end != NULL);

    if (!c->closed || !released || c->deciding) return;
    rpc_msg_unref(c->unary);
    rpc_stream_deinit(&c->s);
    buf_deinit(&c->headers);
    buf_deinit(&c->trailers);
    free(c);
}

/* The handler hears of the end once. c may be gone after call_try_free only. */
static void call_tell(struct rpc_call *c, enum rc rc)
{
    c->dead = true;
    if (c->told) return;
    c->told = true;
    if (c->begun && c->method->on_end != NULL) {
        bool was = c->deciding;

        c->deciding = true; /* a finish in there must not free it under us */
        c->method->on_end(c, rc);
        c->deciding = was;
    }
}

static const char *find(const struct buf *b, const char *name)
{
    for (size_t at = 0; at < b->n;) {
        const char *k = (const char *)b->p + at, *v = k + strlen(k) + 1;

        if (strcmp(k, name) == 0) return v;
        at += strlen(k) + strlen(v) + 2;
    }
    return NULL;
}

/* ---- the answer ---- */

static enum rc headers_respond(struct rpc_call *c)
{
    const nghttp2_nv nva[] = {rpc_nv(":status", "200"), rpc_nv("content-type", "application/grpc"),
                              rpc_nv("grpc-accept-encoding", "identity")};

    if (c->responded) return RC_OK;
    c->responded = true;
    return rpc_stream_respond(&c->s, nva, ARRAY_N(nva), false);
}

static void pair_put(struct buf *b, const char *name, const char *value)
{
    buf_put(b, name, strlen(name) + 1);
    buf_put(b, value, strlen(value) + 1);
}

static enum rc trailers_only(struct rpc_call *c)
{
    nghttp2_nv nva[RPC_METADATA_MAX + 8];
    size_t n = 0;

    nva[n++] = rpc_nv(":status", "200");
    nva[n++] = rpc_nv("content-type", "application/grpc");
    nva[n++] = rpc_nv("grpc-accept-encoding", "identity");
    for (size_t at = 0; at < c->trailers.n && n < ARRAY_N(nva);) {
        const char *k = (const char *)c->trailers.p + at, *v = k + strlen(k) + 1;

        nva[n++] = rpc_nv(k, v);
        at += strlen(k) + strlen(v) + 2;
    }
    c->responded = true;
    return rpc_stream_respond(&c->s, nva, n, true);
}

static void status_send(struct rpc_call *c, int status, const char *message)
{
    struct buf text;
    char number[12];
    enum rc rc;

    if (c->s.conn == NULL) return;
    (void)snprintf(number, sizeof(number), "%d", status);
    pair_put(&c->trailers, "grpc-status", number);
    if (message != NULL && message[0] != 0) {
        buf_init(&text, 4096);
        rpc_wire_percent_encode(message, &text);
        pair_put(&c->trailers, "grpc-message", buf_cstr(&text));
        buf_deinit(&text);
    }
    rc = buf_rc(&c->trailers);
    if (rc == RC_OK && !c->responded) {
        rc = trailers_only(c);
    } else if (rc == RC_OK) {
        c->s.trailers = &c->trailers;
        rpc_stream_end(&c->s);
    }
    if (rc != RC_OK) rpc_stream_reset(&c->s, NGHTTP2_INTERNAL_ERROR);
}

/* The server itself answers; the handler, if it began, is told the same. */
static void refuse(struct rpc_call *c, enum rc rc, const char *message)
{
    if (c->finished || c->dead) return;
    c->s.mute = true;
    rpc_stream_drop_out(&c->s);
    status_send(c, rc_grpc(rc), message);
    if (!c->begun) c->finished = true; /* nobody else will */
    call_tell(c, rc);
}

/* ---- the request ---- */

static struct rpc_stream *on_begin(struct rpc_conn *conn)
{
    struct server_conn *sc = rpc_conn_owner(conn);
    struct rpc_call *c = calloc(1, sizeof(*c));
    const struct tls_identity *peer;

    if (c == NULL) return NULL;
    rpc_stream_init(&c->s);
    c->server = sc->server;
    c->deadline_ms = UINT64_MAX;
    buf_init(&c->headers, 2 * RPC_HEADERS_BYTES_MAX);
    buf_init(&c->trailers, RPC_HEADERS_BYTES_MAX);
    peer = rpc_conn_net(conn) != NULL ? net_stream_peer(rpc_conn_net(conn)) : NULL;
    if (peer != NULL) {
        c->peer = *peer;
        c->has_peer = true;
    }
    return &c->s;
}

static bool on_header(struct rpc_stream *s, struct slice name, struct slice value)
{
    struct rpc_call *c = call_of(s);

    if (c->headers_whole > 0) return true; /* request trailers mean nothing in gRPC */
    if (memchr(name.p, 0, name.n) != NULL || memchr(value.p, 0, value.n) != NULL) return false;
    buf_put(&c->headers, name.p, name.n);
    buf_put_u8(&c->headers, 0);
    buf_put(&c->headers, value.p, value.n);
    buf_put_u8(&c->headers, 0);
    return buf_rc(&c->headers) == RC_OK;
}

static void rid_make(struct rpc_call *c)
{
    const char *given = find(&c->headers, "x-request-id");
    size_t n = given != NULL ? strlen(given) : 0;
    uint8_t r[8];

    if (n > 0 && n <= 64 &&
        strspn(given, "0123456789abcdefghijklmnopqrstuvwxyz"
                      "ABCDEFGHIJKLMNOPQRSTUVWXYZ._-:") == n) {
        memcpy(c->rid, given, n + 1);
        return;
    }
    if (RAND_bytes(r, sizeof(r)) != 1) memset(r, 0, sizeof(r)); /* an id for logs, no secret */
    (void)snprintf(c->rid, sizeof(c->rid), "%02x%02x%02x%02x%02x%02x%02x%02x", r[0], r[1], r[2],
                   r[3], r[4], r[5], r[6], r[7]);
}

static void grpc_begin(struct rpc_call *c)
{
    const char *path = find(&c->headers, ":path"), *timeout = find(&c->headers, "grpc-timeout");
    const char *encoding = find(&c->headers, "grpc-encoding");
    struct err e = {0};
    uint64_t ms;
    enum rc rc;

    rid_make(c);
    c->method = rpc_server_find(c->server, path);
    if (c->method == NULL) {
        (void)err_set(&e, RC_UNIMPL, "method '%.200s' is not served here", path);
        refuse(c, RC_UNIMPL, e.msg);
        return;
    }
    if (encoding != NULL && strcmp(encoding, "identity") != 0) {
        refuse(c, RC_UNIMPL, "compressed messages are not served: send grpc-encoding identity");
        return;
    }
    if (timeout != NULL) {
        if (!rpc_wire_timeout_parse(timeout, &ms)) {
            refuse(c, RC_INVAL, "bad grpc-timeout");
            return;
        }
        c->deadline_ms = c->s.deadline_ms = uv_now(c->server->conf.loop) + ms;
        rpc_conn_deadline(c->s.conn, c->deadline_ms);
    }
    if (c->server->conf.gate != NULL) {
        rc = c->server->conf.gate(c->server->conf.gate_data, c->method, rpc_call_peer(c), &e);
        if (rc != RC_OK) {
            refuse(c, rc, e.msg[0] != 0 ? e.msg : rc_text(rc));
            return;
        }
    }
    c->s.auto_consume = c->method->auto_consume || !c->method->client_streams;
    if (c->method->message_bytes_max != 0) c->s.message_bytes_max = c->method->message_bytes_max;
    if (!c->method->client_streams) return; /* begins when its one message is whole */
    c->begun = true;
    if (c->method->on_start != NULL) c->method->on_start(c);
}

static void http_begin(struct rpc_call *c);

static void on_headers(struct rpc_stream *s)
{
    struct rpc_call *c = call_of(s);
    const char *type, *verb;

    if (c->headers_whole > 0) return;
    c->headers_whole = c->headers.n;
    type = find(&c->headers, "content-type");
    verb = find(&c->headers, ":method");
    c->deciding = true;
    if (verb != NULL && strcmp(verb, "POST") == 0 && type != NULL && rpc_wire_is_grpc(type)) {
        grpc_begin(c);
    } else {
        http_begin(c);
    }
    c->deciding = false;
    call_try_free(c);
}

static void on_message(struct rpc_stream *s, struct rpc_msg *m)
{
    struct rpc_call *c = call_of(s);

    if (c->dead || c->method == NULL) return;
    c->messages_n++;
    if (c->method->client_streams) {
        c->deciding = true;
        c->method->on_message(c, m);
        c->deciding = false;
        call_try_free(c);
        return;
    }
    if (c->messages_n == 1)
        c->unary = rpc_msg_ref(m);
    else
        refuse(c, RC_INTERNAL, "more than one message for a unary method");
}

static void on_bad_message(struct rpc_stream *s, const struct err *e)
{
    refuse(call_of(s), e->rc, e->msg);
}

static void on_remote_end(struct rpc_stream *s)
{
    struct rpc_call *c = call_of(s);

    if (c->http != NULL) {
        http_request_run(c->http);
        return;
    }
    if (c->dead || c->finished || c->method == NULL) return;
    if (s->prefix_n > 0) {
        refuse(c, RC_INTERNAL, "the request ends inside a message");
        return;
    }
    c->deciding = true;
    if (!c->method->client_streams) {
        struct rpc_msg *m = c->unary;

        if (m == NULL) {
            refuse(c, RC_INTERNAL, "no message for a unary method");
            c->deciding = false;
            return;
        }
        c->unary = NULL;
        c->begun = true;
        if (c->method->on_start != NULL) c->method->on_start(c);
        if (!c->dead) c->method->on_message(c, m);
        rpc_msg_unref(m);
    }
    if (!c->dead && !c->finished && c->method->on_half_close != NULL) c->method->on_half_close(c);
    c->deciding = false;
    call_try_free(c);
}

static void on_raw(struct rpc_stream *s, const uint8_t *p, size_t n)
{
    struct rpc_call *c = call_of(s);
    static const char text[] = "the body is over this address's limit\n";
    int status = c->http != NULL ? http_request_body(c->http, p, n) : 0;

    if (status == 0) return;
    http_reply(c->http, status, "text/plain",
               (struct slice){(const uint8_t *)text, sizeof(text) - 1});
}

static void on_room(struct rpc_stream *s)
{
    struct rpc_call *c = call_of(s);

    if (!c->dead && !c->finished && c->on_room != NULL) c->on_room(c);
}

static void on_deadline(struct rpc_stream *s)
{
    struct rpc_call *c = call_of(s);

    if (c->finished && c->s.out_end) {
        rpc_stream_reset(s, NGHTTP2_CANCEL); /* answered, but the client does not take it */
        return;
    }
    refuse(c, RC_DEADLINE, "the deadline passed at the server");
}

static void on_closed(struct rpc_stream *s, uint32_t h2_code, enum rc rc, const struct err *e)
{
    struct rpc_call *c = call_of(s);

    (void)h2_code;
    (void)e;
    c->closed = true;
    if (c->http != NULL) {
        http_request_lost(c->http);
        c->http = NULL;
    }
    if (!c->begun) c->finished = true;
    if (rc != RC_OK)
        rc = RC_UNAVAIL;
    else
        rc = c->finished && s->local_ended ? RC_OK : RC_CANCELED;
    call_tell(c, rc);
    call_try_free(c);
}

const struct rpc_conn_ops rpc_call_ops = {
    .on_begin = on_begin,
    .on_header = on_header,
    .on_headers = on_headers,
    .on_message = on_message,
    .on_raw = on_raw,
    .on_bad_message = on_bad_message,
    .on_remote_end = on_remote_end,
    .on_room = on_room,
    .on_deadline = on_deadline,
    .on_closed = on_closed,
};

/* ---- for handlers ---- */

const char *rpc_call_path(const struct rpc_call *c)
{
    return c->method->path;
}

void *rpc_call_service(const struct rpc_call *c)
{
    return c->method->service;
}

void *rpc_call_data(const struct rpc_call *c)
{
    return c->data;
}

void rpc_call_set_data(struct rpc_call *c, void *data)
{
    c->data = data;
}

const struct tls_identity *rpc_call_peer(const struct rpc_call *c)
{
    return c->has_peer ? &c->peer : NULL;
}

const char *rpc_call_metadata(const struct rpc_call *c, const char *name)
{
    return name[0] != ':' ? find(&c->headers, name) : NULL;
}

const char *rpc_call_rid(const struct rpc_call *c)
{
    return c->rid;
}

uint64_t rpc_call_deadline_ms(const struct rpc_call *c)
{
    return c->deadline_ms;
}

uv_loop_t *rpc_call_loop(const struct rpc_call *c)
{
    return c->server->conf.loop;
}

void rpc_call_consume(struct rpc_call *c, uint32_t bytes)
{
    rpc_stream_consume(&c->s, bytes);
}

uint32_t rpc_call_send_room(const struct rpc_call *c)
{
    return c->dead ? 0 : rpc_stream_room(&c->s);
}

void rpc_call_on_room(struct rpc_call *c, void (*cb)(struct rpc_call *c))
{
    c->on_room = cb;
    if (cb != NULL) rpc_stream_want_room(&c->s);
}

enum rc rpc_call_send_payload(struct rpc_call *c, const ProtobufCMessage *m,
                              const struct rpc_payload *payload)
{
    enum rc rc;

    if (c->dead || c->finished || c->s.conn == NULL) return RC_CANCELED;
    rc = headers_respond(c);
    return rc == RC_OK ? rpc_stream_send(&c->s, m, payload) : rc;
}

enum rc rpc_call_send(struct rpc_call *c, const ProtobufCMessage *m)
{
    return rpc_call_send_payload(c, m, NULL);
}

enum rc rpc_call_trailer(struct rpc_call *c, const char *name, const char *value)
{
    if (c->dead || c->finished) return RC_CANCELED;
    if (c->trailers.n + strlen(name) + strlen(value) > RPC_HEADERS_BYTES_MAX / 2) return RC_BUSY;
    for (const char *v = value; *v != 0; v++) {
        if ((uint8_t)*v < 0x20 || (uint8_t)*v > 0x7e) return RC_INVAL; /* -bin values are base64 */
    }
    pair_put(&c->trailers, name, value);
    return buf_rc(&c->trailers);
}

void rpc_call_finish(struct rpc_call *c, enum rc rc, const struct err *e)
{
    if (c->finished) return;
    c->finished = true;
    c->s.mute = true; /* what still comes is of no use; it is dropped as it comes */
    if (!c->dead) {
        status_send(c, rc == RC_OK ? 0 : rc_grpc(rc),
                    rc == RC_OK                   ? NULL
                    : e != NULL && e->msg[0] != 0 ? e->msg
                                                  : rc_text(rc));
    }
    call_try_free(c);
}

void rpc_call_reply(struct rpc_call *c, const ProtobufCMessage *m)
{
    enum rc rc = rpc_call_send(c, m);
    struct err e = {0};

    if (rc != RC_OK) (void)err_set(&e, rc, "the answer could not be sent");
    rpc_call_finish(c, rc, &e);
}

bool rpc_metadata_bin(const char *value, uint8_t *to, size_t cap, size_t *ret_n)
{
    return rpc_wire_base64_decode(value, to, cap, ret_n);
}

/* ---- plain HTTP over HTTP/2 ---- */

static void h2_reply(void *conn, int status, const char *content_type, struct slice body, bool head)
{
    struct rpc_call *c = conn;
    char number[12], length[24];
    nghttp2_nv nva[3];
    enum rc rc;

    c->http = NULL;
    if (c->s.conn == NULL) return;
    (void)snprintf(number, sizeof(number), "%d", status);
    (void)snprintf(length, sizeof(length), "%zu", body.n);
    nva[0] = rpc_nv(":status", number);
    nva[1] = rpc_nv("content-length", length);
    nva[2] = rpc_nv("content-type", content_type != NULL ? content_type : "text/plain");
    if (head) body.n = 0; /* content-length tells what a GET would bring */
    c->s.mute = true;
    rc = rpc_stream_send_raw(&c->s, body.p, body.n);
    if (rc == RC_OK) rc = rpc_stream_respond(&c->s, nva, 3, body.n == 0);
    if (rc == RC_OK && body.n > 0) rpc_stream_end(&c->s);
    if (rc != RC_OK) rpc_stream_reset(&c->s, NGHTTP2_INTERNAL_ERROR);
}

static const struct http_transport h2_transport = {h2_reply};

static void http_begin(struct rpc_call *c)
{
    const char *verb = find(&c->headers, ":method"), *path = find(&c->headers, ":path");
    struct err e = {0};
    int status;

    c->s.raw = true;
    c->finished = true; /* no handler of ours will let go of it */
    if (path == NULL || http_request_new(c->server, rpc_call_peer(c), verb, path, &c->headers,
                                         &h2_transport, c, &c->http) != RC_OK) {
        rpc_stream_reset(&c->s, NGHTTP2_INTERNAL_ERROR);
        return;
    }
    status = http_request_begin(c->http, &e);
    if (status == 0) return;
    http_reply(c->http, status, "text/plain",
               (struct slice){(const uint8_t *)e.msg, strlen(e.msg)});
}
