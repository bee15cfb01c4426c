/* tests/unit/common/net/rpc/test_rpc.c - server and channel over real loopback sockets, plain and
 * with mutual TLS; certificates are made here. Waiting is running the loop until a condition holds.
 */
#include "common/net/http.h"
#include "common/net/net_stream.h"
#include "common/net/net_rc.h"
#include "common/net/rpc.h"
#include "common/net/rpc_wire.h"
#include "proto/grpc/health/v1/health.pb-c.h"
#include "proto/mikura/v1/objects.pb-c.h"
#include <arpa/inet.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

typedef Mikura__V1__ReadRequest ask_t;
typedef Mikura__V1__ReadResponse answer_t;

static uv_loop_t loop;
static char dir[] = "/tmp/mikura-test-rpc-XXXXXX";
static struct tls *tls_server, *tls_client,
    *tls_other; /* other: of a CA that the server knows not */
static const char URI_S[] = "mikura://node/gateway/s", URI_C[] = "mikura://node/storaged/c";

/* ---- certificates ---- */

static void extension(X509 *x, X509 *ca, int nid, const char *value)
{
    X509V3_CTX ctx;
    X509_EXTENSION *e;

    X509V3_set_ctx(&ctx, ca, x, NULL, NULL, 0);
    e = X509V3_EXT_conf_nid(NULL, &ctx, nid, value);
    if (e == NULL || X509_add_ext(x, e, -1) != 1) abort();
    X509_EXTENSION_free(e);
}

static X509 *ca_cert; /* signs what a test makes later */
static EVP_PKEY *ca_cert_key;

/* uri NULL: the CA itself. Writes NAME.pem and NAME.key. */
static X509 *cert_make(const char *name, const char *uri, X509 *ca, EVP_PKEY *ca_key, int life_s,
                       EVP_PKEY **ret_key)
{
    EVP_PKEY *key = EVP_PKEY_Q_keygen(NULL, NULL, "ED25519");
    X509 *x = X509_new();
    X509_NAME *n;
    char path[128], san[300];
    FILE *f;

    if (key == NULL || x == NULL) abort();
    n = X509_get_subject_name(x);
    (void)X509_set_version(x, 2);
    (void)ASN1_INTEGER_set(X509_get_serialNumber(x), uri == NULL ? 1 : 2 + name[0]);
    (void)X509_gmtime_adj(X509_getm_notBefore(x), -3600 * 48);
    (void)X509_gmtime_adj(X509_getm_notAfter(x), life_s);
    (void)X509_NAME_add_entry_by_txt(n, "CN", MBSTRING_ASC, (const uint8_t *)name, -1, -1, 0);
    (void)X509_set_issuer_name(x, uri == NULL ? n : X509_get_subject_name(ca));
    (void)X509_set_pubkey(x, key);
    if (uri == NULL) {
        extension(x, x, NID_basic_constraints, "critical,CA:TRUE");
        extension(x, x, NID_key_usage, "critical,keyCertSign,cRLSign");
    } else {
        (void)snprintf(san, sizeof(san), "URI:%s,IP:127.0.0.1", uri);
        extension(x, ca, NID_subject_alt_name, san);
        extension(x, ca, NID_ext_key_usage, "serverAuth,clientAuth");
        extension(x, ca, NID_key_usage, "critical,digitalSignature");
    }
    if (X509_sign(x, uri == NULL ? key : ca_key, NULL) == 0) abort();
    (void)snprintf(path, sizeof(path), "%s/%s.pem", dir, name);
    f = fopen(path, "w");
    if (f == NULL || PEM_write_X509(f, x) != 1 || fclose(f) != 0) abort();
    (void)snprintf(path, sizeof(path), "%s/%s.key", dir, name);
    f = fopen(path, "w");
    if (f == NULL || PEM_write_PrivateKey(f, key, NULL, NULL, 0, NULL, NULL) != 1 ||
        fclose(f) != 0 || chmod(path, 0400) != 0) {
        abort();
    }
    *ret_key = key;
    return x;
}

static void cert_free(const char *name, const char *uri, X509 *ca, EVP_PKEY *ca_key, int days)
{
    EVP_PKEY *key;

    X509_free(cert_make(name, uri, ca, ca_key, 3600 * 24 * days, &key));
    EVP_PKEY_free(key);
}

static struct tls *tls_of(const char *ca_name, const char *name)
{
    char ca[128], cert[128], key[128];
    struct tls_conf conf = {.ca_path = ca, .cert_path = cert, .key_path = key};
    struct tls *t = NULL;
    struct err err;

    (void)snprintf(ca, sizeof(ca), "%s/%s.pem", dir, ca_name);
    (void)snprintf(cert, sizeof(cert), "%s/%s.pem", dir, name);
    (void)snprintf(key, sizeof(key), "%s/%s.key", dir, name);
    if (tls_new(&conf, &t, &err) != RC_OK) {
        (void)fprintf(stderr, "%s\n", err.msg);
        abort();
    }
    return t;
}

/* days: of life; negative: expired. */
static void certs_make(void)
{
    EVP_PKEY *ca_key, *ca2_key;
    X509 *ca, *ca2;
    char text[512];

    if (mkdtemp(dir) == NULL) abort();
    ca = cert_make("ca", NULL, NULL, NULL, 3600 * 24, &ca_key);
    ca2 = cert_make("ca2", NULL, NULL, NULL, 3600 * 24, &ca2_key);
    cert_free("s", URI_S, ca, ca_key, 1);
    cert_free("c", URI_C, ca, ca_key, 1);
    cert_free("old", URI_C, ca, ca_key, -1);
    cert_free("foreign", URI_C, ca2, ca2_key, 1);
    cert_free("odd", "https://example.org/", ca, ca_key, 1);
    ca_cert = ca;
    ca_cert_key = ca_key;
    X509_free(ca2);
    EVP_PKEY_free(ca2_key);
    (void)snprintf(text, sizeof(text), "cat %s/ca.pem %s/ca2.pem >%s/both.pem", dir, dir, dir);
    if (system(text) != 0) abort();
    tls_server = tls_of("ca", "s");
    tls_client = tls_of("ca", "c");
    tls_other = tls_of("both", "foreign");
}

static void certs_remove(void)
{
    char text[128];

    X509_free(ca_cert);
    EVP_PKEY_free(ca_cert_key);
    tls_unref(tls_server);
    tls_unref(tls_client);
    tls_unref(tls_other);
    (void)snprintf(text, sizeof(text), "rm -r %s", dir);
    if (system(text) != 0) abort();
}

/* ---- the server's methods ---- */

static struct {
    enum rc end_rc;
    int ends, starts;
    struct rpc_call *held;
    uint64_t got_bytes;
    unsigned messages;
    uint64_t down_left;
    unsigned payloads_freed, payloads_sent;
    bool deny;
} sv;
static uint8_t pattern[2u << 20];

static void on_end(struct rpc_call *c, enum rc rc)
{
    sv.ends++;
    sv.end_rc = rc;
    if (sv.held == c) sv.held = NULL;
}

static ask_t *ask_of(struct rpc_msg *m)
{
    ask_t *q = mikura__v1__read_request__unpack(NULL, m->n, m->p);

    assert_non_null(q);
    return q;
}

static void payload_freed(void *owner)
{
    unsigned *n = owner;

    (*n)++;
}

static void echo(struct rpc_call *c, struct rpc_msg *m)
{
    ask_t *q = ask_of(m);
    answer_t a = MIKURA__V1__READ_RESPONSE__INIT;
    struct rpc_payload p = {.field = 15,
                            .p = pattern,
                            .n = (uint32_t)q->length_bytes,
                            .owner = &sv.payloads_freed,
                            .owner_free = payload_freed};

    assert_int_equal(rpc_call_send_payload(c, (ProtobufCMessage *)&a, &p), RC_OK);
    rpc_call_finish(c, RC_OK, NULL);
    mikura__v1__read_request__free_unpacked(q, NULL);
}

static void hold(struct rpc_call *c, struct rpc_msg *m)
{
    (void)m;
    sv.held = c;
}

static void fail_call(struct rpc_call *c, struct rpc_msg *m)
{
    struct err e = {0};

    (void)m;
    (void)err_set(&e, RC_STALE, "世代 7 は古い: 100%%");
    assert_int_equal(rpc_call_trailer(c, "mikura-epoch", "42"), RC_OK);
    rpc_call_finish(c, RC_STALE, &e);
}

static void up_message(struct rpc_call *c, struct rpc_msg *m)
{
    (void)c;
    sv.got_bytes += m->n;
    sv.messages++;
}

static void up_end(struct rpc_call *c)
{
    answer_t a = MIKURA__V1__READ_RESPONSE__INIT;

    rpc_call_reply(c, (ProtobufCMessage *)&a);
}

static void down_more(struct rpc_call *c)
{
    answer_t a = MIKURA__V1__READ_RESPONSE__INIT;
    struct rpc_payload p = {.field = 15,
                            .p = pattern,
                            .n = 1u << 20,
                            .owner = &sv.payloads_freed,
                            .owner_free = payload_freed};

    while (sv.down_left > 0 && rpc_call_send_room(c) > 0) {
        assert_int_equal(rpc_call_send_payload(c, (ProtobufCMessage *)&a, &p), RC_OK);
        sv.payloads_sent++;
        sv.down_left--;
    }
    if (sv.down_left == 0)
        rpc_call_finish(c, RC_OK, NULL);
    else
        rpc_call_on_room(c, down_more);
}

static void down(struct rpc_call *c, struct rpc_msg *m)
{
    ask_t *q = ask_of(m);

    sv.down_left = q->length_bytes;
    mikura__v1__read_request__free_unpacked(q, NULL);
    sv.held = c;
    down_more(c);
}

static void bidi(struct rpc_call *c, struct rpc_msg *m)
{
    answer_t a = MIKURA__V1__READ_RESPONSE__INIT;

    (void)m;
    sv.messages++;
    assert_int_equal(rpc_call_send(c, (ProtobufCMessage *)&a), RC_OK);
}

static void bidi_end(struct rpc_call *c)
{
    rpc_call_finish(c, RC_OK, NULL);
}

static const struct rpc_method methods[] = {
    {.path = "/t.T/Echo", .on_message = echo, .on_end = on_end},
    {.path = "/t.T/Hold", .on_message = hold, .on_end = on_end},
    {.path = "/t.T/Late", .on_message = hold}, /* no on_end: lives until its finish */
    {.path = "/t.T/Fail", .on_message = fail_call},
    {.path = "/t.T/Up",
     .client_streams = true,
     .auto_consume = true,
     .on_message = up_message,
     .on_half_close = up_end,
     .on_end = on_end},
    {.path = "/t.T/Slow",
     .client_streams = true,
     .on_start = NULL,
     .on_message = up_message,
     .on_half_close = up_end,
     .on_end = on_end},
    {.path = "/t.T/Down", .on_message = down, .on_end = on_end},
    {.path = "/t.T/Bidi",
     .client_streams = true,
     .auto_consume = true,
     .on_message = bidi,
     .on_half_close = bidi_end,
     .on_end = on_end},
    {0},
};

static enum rc gate(void *data, const struct rpc_method *m, const struct tls_identity *peer,
                    struct err *reterr)
{
    (void)data;
    (void)m;
    if (peer != NULL) assert_string_equal(peer->uri, URI_C);
    return sv.deny ? err_set(reterr, RC_DENIED, "not for you") : RC_OK;
}

static void on_page(struct http_request *r, struct slice body)
{
    char text[64];

    (void)snprintf(text, sizeof(text), "%s %zu", http_request_query(r), body.n);
    http_reply(r, 200, "text/plain", (struct slice){(const uint8_t *)text, strlen(text)});
}

static const struct http_route routes[] = {
    {.method = "GET", .path = "/page", .on_request = on_page, .anonymous = true},
    {.method = "POST",
     .path = "/page",
     .body_bytes_max = 64,
     .on_request = on_page,
     .anonymous = true},
    {0},
};

/* ---- both ends ---- */

static struct rpc_server *server;
static struct rpc_channel *ch;
static bool with_tls;
static int closed_n;

static void on_closed(void *data)
{
    (void)data;
    closed_n++;
}

static void run_until(const bool *flag)
{
    while (!*flag)
        assert_true(uv_run(&loop, UV_RUN_ONCE) != 0 || *flag);
}

static uint32_t idle_ping_ms; /* 0 = the default */

static void server_start(uint16_t port)
{
    struct rpc_server_conf conf = {.loop = &loop,
                                   .host = "127.0.0.1",
                                   .port = port,
                                   .gate = gate,
                                   .idle_ping_ms = idle_ping_ms,
                                   .tls = with_tls ? tls_server : NULL};
    struct err e;

    if (rpc_server_open(&conf, &server, &e) != RC_OK) fail_msg("%s", e.msg);
    assert_int_equal(rpc_server_add(server, methods), RC_OK);
    assert_int_equal(rpc_server_add(server, methods), RC_EXISTS);
    assert_int_equal(http_route_add(server, routes), RC_OK);
}

static void channel_start(struct tls *tls, const char *expect, uint16_t port)
{
    struct rpc_channel_conf conf = {.loop = &loop,
                                    .host = "127.0.0.1",
                                    .port = port,
                                    .tls = with_tls ? tls : NULL,
                                    .expect_uri = expect};

    assert_int_equal(rpc_channel_new(&conf, &ch, NULL), RC_OK);
}

static int setup_any(bool tls)
{
    memset(&sv, 0, sizeof(sv));
    with_tls = tls;
    server_start(0);
    channel_start(tls_client, URI_S, rpc_server_port(server));
    return 0;
}

static int setup_plain(void **state)
{
    (void)state;
    return setup_any(false);
}

static int setup_tls(void **state)
{
    (void)state;
    return setup_any(true);
}

static int teardown(void **state)
{
    int want = 0;

    (void)state;
    closed_n = 0;
    if (ch != NULL) rpc_channel_close(ch, on_closed, NULL), want++;
    if (server != NULL) rpc_server_close(server, 1000, on_closed, NULL), want++;
    ch = NULL;
    server = NULL;
    while (closed_n < want)
        (void)uv_run(&loop, UV_RUN_ONCE);
    assert_int_equal(uv_run(&loop, UV_RUN_NOWAIT), 0); /* nothing is left alive */
    return 0;
}

struct one {
    struct rpc_unary u;
    bool done;
    enum rc rc;
    size_t n;
    bool same;
};

static void on_answer(struct rpc_unary *u, enum rc rc, const ProtobufCMessage *answer)
{
    struct one *o = CONTAINER_OF(u, struct one, u);
    const answer_t *a = (const answer_t *)answer;

    o->done = true;
    o->rc = rc;
    assert_int_equal(answer != NULL, rc == RC_OK);
    if (a != NULL) {
        o->n = a->data.len;
        o->same = a->data.len == 0 || memcmp(a->data.data, pattern, a->data.len) == 0;
    }
}

static void one_start(struct one *o, const char *path, uint64_t n, uint32_t timeout_ms)
{
    struct rpc_request_conf conf = {.path = path, .timeout_ms = timeout_ms, .rid = "rid-1"};
    ask_t q = MIKURA__V1__READ_REQUEST__INIT;

    memset(o, 0, sizeof(*o));
    q.length_bytes = n;
    assert_int_equal(rpc_unary_start(ch, &o->u, &conf, (ProtobufCMessage *)&q,
                                     &mikura__v1__read_response__descriptor, on_answer),
                     RC_OK);
    assert_false(o->done);
}

static void one_run(struct one *o, const char *path, uint64_t n, uint32_t timeout_ms)
{
    one_start(o, path, n, timeout_ms);
    run_until(&o->done);
}

static void test_unary(void **state)
{
    static const uint64_t sizes[] = {0, 1, 4000, 70000, (1u << 20), (2u << 20) - 16};
    struct one o;

    (void)state;
    for (size_t i = 0; i < ARRAY_N(sizes); i++) {
        one_run(&o, "/t.T/Echo", sizes[i], 0);
        if (o.rc != RC_OK) fail_msg("%s", o.u.req.err.msg);
        assert_int_equal(o.n, sizes[i]);
        assert_true(o.same);
        assert_int_equal(o.u.req.grpc_status, 0);
    }
    assert_true(rpc_channel_connected(ch));
    assert_int_equal(sv.payloads_freed, ARRAY_N(sizes));
}

static void test_many(void **state)
{
    static struct one o[600];
    unsigned ok = 0;

    (void)state;
    for (size_t i = 0; i < ARRAY_N(o); i++)
        one_start(&o[i], "/t.T/Echo", i, 0); /* more than the peer's stream limit */
    for (size_t i = 0; i < ARRAY_N(o); i++) {
        run_until(&o[i].done);
        ok += o[i].rc == RC_OK && o[i].n == i && o[i].same;
    }
    assert_int_equal(ok, ARRAY_N(o));
}

static void test_errors(void **state)
{
    struct one o;

    (void)state;
    one_run(&o, "/t.T/Fail", 0, 0);
    assert_int_equal(o.rc, rc_from_grpc(9));
    assert_string_equal(o.u.req.err.msg, "世代 7 は古い: 100%");
    assert_string_equal(o.u.req.trailer_epoch, "42");
    one_run(&o, "/t.T/None", 0, 0);
    assert_int_equal(o.rc, RC_UNIMPL);
    assert_false(o.u.req.never_sent);
    one_run(&o, "/t.T/Echo", 2u << 20, 0); /* over our own limit for answers */
    assert_int_equal(o.u.req.err.rc, RC_BUSY);
    sv.deny = true;
    one_run(&o, "/t.T/Echo", 1, 0);
    assert_int_equal(o.rc, RC_DENIED);
    assert_string_equal(o.u.req.err.msg, "not for you");
    assert_int_equal(sv.starts, 0);
}

static void test_deadline_cancel(void **state)
{
    struct one o;
    bool ended;

    (void)state;
    one_run(&o, "/t.T/Echo", 1, 0); /* connected: a handshake on a busy machine takes longer */
    sv.ends = 0;
    one_run(&o, "/t.T/Hold", 0, 50);
    assert_int_equal(o.rc, RC_DEADLINE);
    while (sv.ends == 0)
        (void)uv_run(&loop, UV_RUN_ONCE);
    assert_true(sv.end_rc == RC_DEADLINE || sv.end_rc == RC_CANCELED);
    assert_null(sv.held);
    one_start(&o, "/t.T/Hold", 0, 0);
    while (sv.held == NULL)
        (void)uv_run(&loop, UV_RUN_ONCE);
    rpc_request_cancel(&o.u.req);
    assert_false(o.done);
    run_until(&o.done);
    assert_int_equal(o.rc, RC_CANCELED);
    ended = sv.ends == 2;
    while (!ended) {
        (void)uv_run(&loop, UV_RUN_ONCE);
        ended = sv.ends == 2;
    }
    assert_int_equal(sv.end_rc, RC_CANCELED);
    /* no on_end: a late answer to a call that died is fine, and frees it */
    one_start(&o, "/t.T/Late", 0, 0);
    while (sv.held == NULL)
        (void)uv_run(&loop, UV_RUN_ONCE);
    rpc_request_cancel(&o.u.req);
    run_until(&o.done);
    one_run(&o, "/t.T/Echo", 1, 0); /* its RST has arrived before this */
    rpc_call_finish(sv.held, RC_OK, NULL);
    sv.held = NULL;
}

/* ---- streams ---- */

struct flow {
    struct rpc_request r;
    bool done, auto_send;
    enum rc rc;
    unsigned messages, to_send, sent;
    uint64_t bytes;
    struct rpc_msg *kept[64];
    bool keep;
};

static void flow_send(struct rpc_request *r)
{
    struct flow *f = r->data;
    Mikura__V1__PutChunkRequest m = MIKURA__V1__PUT_CHUNK_REQUEST__INIT;
    struct rpc_payload p = {.field = 15,
                            .p = pattern,
                            .n = 1u << 20,
                            .owner = &sv.payloads_freed,
                            .owner_free = payload_freed};

    while (f->sent < f->to_send) {
        enum rc rc = rpc_request_send_payload(r, (ProtobufCMessage *)&m, &p);

        if (rc == RC_BUSY) return;
        assert_int_equal(rc, RC_OK);
        f->sent++;
    }
    rpc_request_half_close(r);
}

static void flow_message(struct rpc_request *r, struct rpc_msg *m)
{
    struct flow *f = r->data;

    f->bytes += m->n;
    if (f->keep) f->kept[f->messages] = rpc_msg_ref(m);
    f->messages++;
}

static void flow_done(struct rpc_request *r, enum rc rc)
{
    struct flow *f = r->data;

    f->rc = rc;
    f->done = true;
}

static const struct rpc_request_ops flow_ops = {
    .on_message = flow_message, .on_room = flow_send, .on_done = flow_done};

static void flow_start(struct flow *f, const char *path)
{
    struct rpc_request_conf conf = {.path = path};

    f->r.data = f;
    assert_int_equal(rpc_request_start(ch, &f->r, &conf, &flow_ops), RC_OK);
}

static void test_up(void **state)
{
    struct flow f = {.to_send = 40, .r.auto_consume = true};

    (void)state;
    flow_start(&f, "/t.T/Up");
    flow_send(&f.r);
    assert_true(f.sent <= 3); /* the queue's limit */
    run_until(&f.done);
    if (f.rc != RC_OK) fail_msg("%s", f.r.err.msg);
    assert_int_equal(sv.messages, 40);
    assert_int_equal(f.messages, 1);
    assert_int_equal(sv.payloads_freed, 40);
}

static void ask_flow(struct flow *f, const char *path, uint64_t n)
{
    ask_t q = MIKURA__V1__READ_REQUEST__INIT;

    q.length_bytes = n;
    flow_start(f, path);
    assert_int_equal(rpc_request_send(&f->r, (ProtobufCMessage *)&q), RC_OK);
    rpc_request_half_close(&f->r);
}

static void test_down(void **state)
{
    struct flow f = {.r.auto_consume = true};

    (void)state;
    ask_flow(&f, "/t.T/Down", 40);
    run_until(&f.done);
    assert_int_equal(f.rc, RC_OK);
    assert_int_equal(f.messages, 40);
    assert_true(f.bytes > (40u << 20));
    assert_int_equal(sv.payloads_freed, 40);
}

/* A reader that does not consume stops the sender; another stream goes on meanwhile. */
static void test_slow_reader(void **state)
{
    struct flow f = {.keep = true};
    struct one o;
    unsigned sent;

    (void)state;
    ask_flow(&f, "/t.T/Down", 30);
    for (int i = 0; i < 50; i++) { /* each a round trip: all that may flow has flowed */
        one_run(&o, "/t.T/Echo", 1000, 0);
        assert_int_equal(o.rc, RC_OK);
    }
    sent = f.messages;
    assert_true(sent >= 1 && sent <= 4); /* RPC_STREAM_WINDOW_BYTES */
    assert_true(sv.down_left >= 30 - 4 - 3);
    for (unsigned i = 0; !f.done; i++) {
        if (i < f.messages) {
            rpc_request_consume(&f.r, f.kept[i]->n);
            rpc_msg_unref(f.kept[i]);
        } else {
            i--;
            (void)uv_run(&loop, UV_RUN_ONCE);
        }
        if (f.done) {
            for (unsigned k = i + 1; k < f.messages; k++)
                rpc_msg_unref(f.kept[k]);
        }
    }
    assert_int_equal(f.rc, RC_OK);
    assert_int_equal(f.messages, 30);
}

static void test_bidi(void **state)
{
    struct flow f = {.to_send = 5, .r.auto_consume = true};

    (void)state;
    flow_start(&f, "/t.T/Bidi");
    flow_send(&f.r);
    run_until(&f.done);
    assert_int_equal(f.rc, RC_OK);
    assert_int_equal(f.messages, 5);
}

static void test_oversize_to_server(void **state)
{
    struct flow f = {.r.auto_consume = true};
    Mikura__V1__PutChunkRequest m = MIKURA__V1__PUT_CHUNK_REQUEST__INIT;
    struct rpc_payload p = {.field = 15, .p = pattern, .n = sizeof(pattern)};

    (void)state;
    flow_start(&f, "/t.T/Up");
    assert_int_equal(rpc_request_send_payload(&f.r, (ProtobufCMessage *)&m, &p), RC_OK);
    run_until(&f.done);
    assert_int_equal(f.r.grpc_status, 8);
    assert_non_null(strstr(f.r.err.msg, "over the limit"));
    while (sv.ends == 0)
        (void)uv_run(&loop, UV_RUN_ONCE);
}

/* ---- losses ---- */

static void test_server_gone(void **state)
{
    uint16_t port = rpc_server_port(server);
    struct one o, p;

    (void)state;
    one_start(&o, "/t.T/Hold", 0, 0);
    while (sv.held == NULL)
        (void)uv_run(&loop, UV_RUN_ONCE);
    closed_n = 0;
    rpc_server_close(server, 20, on_closed, NULL);
    server = NULL;
    run_until(&o.done);
    assert_int_equal(o.rc, RC_UNAVAIL);
    assert_false(o.u.req.never_sent);
    while (closed_n == 0)
        (void)uv_run(&loop, UV_RUN_ONCE);
    assert_int_equal(sv.ends, 1);
    assert_int_equal(sv.end_rc, RC_UNAVAIL);
    one_run(&o, "/t.T/Echo", 1, 100); /* nobody listens */
    assert_int_equal(o.rc, RC_UNAVAIL);
    assert_true(o.u.req.never_sent);
    one_start(&p, "/t.T/Echo", 1, 20000); /* waits for the server to come back */
    (void)uv_run(&loop, UV_RUN_NOWAIT);
    server_start(port);
    run_until(&p.done);
    assert_int_equal(p.rc, RC_OK);
}

/* A peer whose kernel accepts while its process stands still: no SETTINGS come. */
static void test_silent_server(void **state)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct rpc_channel_conf conf = {.loop = &loop, .host = "127.0.0.1", .connect_ms = 50};
    struct rpc_channel *whole = ch;
    socklen_t n = sizeof(a);
    int s = socket(AF_INET, SOCK_STREAM, 0);
    struct one o;
    struct err e;

    (void)state;
    assert_true(s >= 0 && bind(s, (struct sockaddr *)&a, n) == 0 && listen(s, 8) == 0);
    assert_int_equal(getsockname(s, (struct sockaddr *)&a, &n), 0);
    conf.port = ntohs(a.sin_port);
    assert_int_equal(rpc_channel_new(&conf, &ch, &e), RC_OK);
    one_run(&o, "/t.T/Echo", 1, 400);
    assert_int_equal(o.rc, RC_UNAVAIL);
    assert_true(o.u.req.never_sent);
    closed_n = 0;
    rpc_channel_close(ch, on_closed, NULL);
    ch = whole;
    while (closed_n == 0)
        (void)uv_run(&loop, UV_RUN_ONCE);
    (void)close(s);
}

static void test_graceful(void **state)
{
    struct one o;
    answer_t a = MIKURA__V1__READ_RESPONSE__INIT;

    (void)state;
    one_start(&o, "/t.T/Hold", 0, 0);
    while (sv.held == NULL)
        (void)uv_run(&loop, UV_RUN_ONCE);
    closed_n = 0;
    rpc_server_close(server, 60000, on_closed, NULL);
    server = NULL;
    for (int i = 0; i < 10; i++)
        (void)uv_run(&loop, UV_RUN_NOWAIT);
    assert_false(o.done);
    rpc_call_reply(sv.held, (ProtobufCMessage *)&a); /* within the grace */
    run_until(&o.done);
    assert_int_equal(o.rc, RC_OK);
    while (closed_n == 0)
        (void)uv_run(&loop, UV_RUN_ONCE);
}

static void test_channel_close_under_way(void **state)
{
    struct one o;

    (void)state;
    one_start(&o, "/t.T/Hold", 0, 0);
    while (sv.held == NULL)
        (void)uv_run(&loop, UV_RUN_ONCE);
    closed_n = 0;
    rpc_channel_close(ch, on_closed, NULL);
    ch = NULL;
    assert_false(o.done);
    while (closed_n == 0)
        (void)uv_run(&loop, UV_RUN_ONCE);
    assert_true(o.done);
    assert_int_equal(o.rc, RC_CANCELED);
}

static void test_taken_port(void **state)
{
    struct rpc_server_conf conf = {
        .loop = &loop, .host = "127.0.0.1", .port = rpc_server_port(server)};
    struct rpc_server *second;
    struct err e;

    (void)state;
    assert_int_equal(rpc_server_open(&conf, &second, &e), RC_EXISTS);
    assert_non_null(strstr(e.msg, "test_rpc"));
}

static void on_health(struct rpc_unary *u, enum rc rc, const ProtobufCMessage *answer)
{
    struct one *o = CONTAINER_OF(u, struct one, u);

    o->done = true;
    o->rc = rc;
    if (answer != NULL) o->n = ((const Grpc__Health__V1__HealthCheckResponse *)answer)->status;
}

static void test_health(void **state)
{
    static const char *const names[] = {"", "a.B", "no.C"};
    static const enum rc want[] = {RC_OK, RC_OK, RC_NOTFOUND};

    (void)state;
    rpc_server_set_serving(server, "a.B", false);
    for (size_t i = 0; i < ARRAY_N(names); i++) {
        Grpc__Health__V1__HealthCheckRequest q = GRPC__HEALTH__V1__HEALTH_CHECK_REQUEST__INIT;
        struct rpc_request_conf conf = {.path = "/grpc.health.v1.Health/Check"};
        struct one o = {0};

        q.service = (char *)(uintptr_t)names[i];
        assert_int_equal(rpc_unary_start(ch, &o.u, &conf, (ProtobufCMessage *)&q,
                                         &grpc__health__v1__health_check_response__descriptor,
                                         on_health),
                         RC_OK);
        run_until(&o.done);
        assert_int_equal(o.rc, want[i]);
        if (i < 2) assert_int_equal(o.n, i + 1);
    }
}

/* ---- who may connect ---- */

static void refused_with(struct tls *tls, const char *expect, const char *text)
{
    struct one o;

    closed_n = 0;
    rpc_channel_close(ch, on_closed, NULL);
    while (closed_n == 0)
        (void)uv_run(&loop, UV_RUN_ONCE);
    channel_start(tls, expect, rpc_server_port(server));
    one_run(&o, "/t.T/Echo", 1, 0);
    assert_int_equal(o.rc, RC_UNAUTH);
    assert_true(o.u.req.never_sent);
    if (strstr(o.u.req.err.msg, text) == NULL) fail_msg("'%s' not in '%s'", text, o.u.req.err.msg);
}

static void test_identities(void **state)
{
    (void)state;
    refused_with(tls_other, URI_S, "the server refused our certificate: of another CA");
    refused_with(tls_client, "mikura://node/storaged/",
                 "the server is mikura://node/gateway/s, not");
    refused_with(tls_client, "mikura://node/gateway/t", "the server is");
}

struct raw { /* a client of OpenSSL alone, in its own thread */
    const char *name;
    uint16_t port;
    int reason;
    _Atomic bool done;
};

static void *raw_client(void *data)
{
    struct raw *r = data;
    SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
    SSL *ssl = SSL_new(ctx);
    struct sockaddr_in sa = {.sin_family = AF_INET,
                             .sin_port = htons(r->port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    char path[128], byte;

    if (r->name != NULL) {
        (void)snprintf(path, sizeof(path), "%s/%s.pem", dir, r->name);
        (void)SSL_use_certificate_file(ssl, path, SSL_FILETYPE_PEM);
        (void)snprintf(path, sizeof(path), "%s/%s.key", dir, r->name);
        (void)SSL_use_PrivateKey_file(ssl, path, SSL_FILETYPE_PEM);
    }
    ERR_clear_error();
    (void)SSL_set_alpn_protos(ssl, (const uint8_t *)"\x02h2", 3);
    if (connect(fd, (struct sockaddr *)&sa, sizeof(sa)) == 0 && SSL_set_fd(ssl, fd) == 1) {
        if (SSL_connect(ssl) == 1 && SSL_read(ssl, &byte, 1) == 1)
            r->reason = 0;
        else
            r->reason = ERR_GET_REASON(ERR_peek_error());
    }
    (void)close(fd);
    SSL_free(ssl);
    SSL_CTX_free(ctx);
    r->done = true;
    return NULL;
}

static void test_alerts(void **state)
{
    static const struct {
        const char *name;
        int reason;
    } rows[] = {
        {"c", 0},
        {"old", SSL_R_SSLV3_ALERT_CERTIFICATE_EXPIRED},
        {"foreign", SSL_R_TLSV1_ALERT_UNKNOWN_CA},
        {NULL, SSL_R_TLSV13_ALERT_CERTIFICATE_REQUIRED},
        {"odd", SSL_R_SSLV3_ALERT_HANDSHAKE_FAILURE},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_N(rows); i++) {
        struct raw r = {.name = rows[i].name, .port = rpc_server_port(server), .reason = -1};
        pthread_t t;

        assert_int_equal(pthread_create(&t, NULL, raw_client, &r), 0);
        while (!r.done)
            (void)uv_run(&loop, UV_RUN_NOWAIT);
        assert_int_equal(pthread_join(t, NULL), 0);
        assert_int_equal(r.reason, rows[i].reason);
    }
}

static void test_identity_parse(void **state)
{
    static const char *const good[] = {"mikura://node/gateway/g1", "mikura://society/s/agent/a",
                                       "mikura://researcher/r.x", "mikura://operator/o"};
    static const char *const bad[] = {"",
                                      "mikura://",
                                      "mikura://node/gateway",
                                      "mikura://node//g",
                                      "mikura://node/g/../x",
                                      "mikura://node/g/..",
                                      "mikura://society/s/a/b",
                                      "mikura://researcher/",
                                      "mikura://operator/o/",
                                      "http://node/g/x",
                                      "mikura://operator/o p",
                                      "mikura://node/g/x%2f"};
    struct tls_identity id;
    struct err e;

    (void)state;
    for (unsigned i = 0; i < ARRAY_N(good); i++) {
        assert_int_equal(tls_identity_parse(good[i], &id, &e), RC_OK);
        assert_int_equal(id.role, i);
    }
    for (unsigned i = 0; i < ARRAY_N(bad); i++)
        assert_int_equal(tls_identity_parse(bad[i], &id, &e), RC_UNAUTH);
}

/* ---- plain HTTP ---- */

struct curl { /* bytes in, bytes out, by a blocking thread */
    const char *send;
    uint16_t port;
    char got[4096];
    _Atomic bool done;
};

static void *raw_http(void *data)
{
    struct curl *c = data;
    struct sockaddr_in sa = {.sin_family = AF_INET,
                             .sin_port = htons(c->port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    size_t n = 0;
    ssize_t r;

    if (connect(fd, (struct sockaddr *)&sa, sizeof(sa)) == 0 &&
        send(fd, c->send, strlen(c->send), MSG_NOSIGNAL) > 0) {
        while (n + 1 < sizeof(c->got) && (r = recv(fd, c->got + n, sizeof(c->got) - 1 - n, 0)) > 0)
            n += (size_t)r;
    }
    (void)close(fd);
    c->done = true;
    return NULL;
}

static void http_try(const char *send, const char *want)
{
    struct curl c = {.send = send, .port = rpc_server_port(server)};
    pthread_t t;

    assert_int_equal(pthread_create(&t, NULL, raw_http, &c), 0);
    while (!c.done)
        (void)uv_run(&loop, UV_RUN_NOWAIT);
    assert_int_equal(pthread_join(t, NULL), 0);
    if (strstr(c.got, want) == NULL) fail_msg("'%s' not in '%s'", want, c.got);
}

static void test_http1(void **state)
{
    (void)state;
    http_try("GET /page?x=1 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", "x=1 0");
    http_try(
        "POST /page HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello",
        " 5");
    http_try("GET /page?first HTTP/1.1\r\nHost: a\r\n\r\nGET /page?second HTTP/1.1\r\nHost: "
             "a\r\nConnection: close\r\n\r\n",
             "second 0");
    http_try("POST /page HTTP/1.1\r\nHost: a\r\nContent-Length: 65\r\n\r\n", "HTTP/1.1 413 ");
    http_try("PUT /page HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", "HTTP/1.1 405 ");
    http_try("GET /no HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", "HTTP/1.1 404 ");
    http_try("GET /page HTTP/1.1\r\nHost : a\r\n\r\n", "HTTP/1.1 400 ");
    http_try("nonsense\r\n\r\n", "HTTP/1.1 400 ");
    http_try("HEAD /page HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", "content-length: 2");
}

/* Asks again and again over one connection, until that is ended from the other side. */
static void *raw_busy(void *data)
{
    static const char ask[] = "GET /page?x HTTP/1.1\r\nHost: a\r\n\r\n";
    struct raw *r = data;
    SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
    SSL *ssl = SSL_new(ctx);
    struct sockaddr_in sa = {.sin_family = AF_INET,
                             .sin_port = htons(r->port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    char path[128], answer[1024];

    (void)snprintf(path, sizeof(path), "%s/%s.pem", dir, r->name);
    (void)SSL_use_certificate_file(ssl, path, SSL_FILETYPE_PEM);
    (void)snprintf(path, sizeof(path), "%s/%s.key", dir, r->name);
    (void)SSL_use_PrivateKey_file(ssl, path, SSL_FILETYPE_PEM);
    (void)SSL_set_alpn_protos(ssl, (const uint8_t *)"\x08http/1.1", 9);
    r->reason = 0;
    if (connect(fd, (struct sockaddr *)&sa, sizeof(sa)) == 0 && SSL_set_fd(ssl, fd) == 1 &&
        SSL_connect(ssl) == 1) {
        while (SSL_write(ssl, ask, sizeof(ask) - 1) > 0 &&
               SSL_read(ssl, answer, sizeof(answer)) > 0)
            r->reason++;
    }
    (void)close(fd);
    SSL_free(ssl);
    SSL_CTX_free(ctx);
    r->done = true;
    return NULL;
}

/* A connection that is never idle ends with its certificate all the same; else this hangs. */
static void test_http1_life(void **state)
{
    struct raw r = {.name = "brief", .port = rpc_server_port(server)};
    EVP_PKEY *key;
    pthread_t t;

    (void)state;
    X509_free(cert_make("brief", URI_C, ca_cert, ca_cert_key, /* life_s= */ 3, &key));
    EVP_PKEY_free(key);
    assert_int_equal(pthread_create(&t, NULL, raw_busy, &r), 0);
    while (!r.done)
        (void)uv_run(&loop, UV_RUN_NOWAIT);
    assert_int_equal(pthread_join(t, NULL), 0);
    assert_true(r.reason > 0); /* it was served before */
}

/* Speaks HTTP/2 once, then never again: no answer to a ping. */
static void *raw_silent(void *data)
{
    static const char hello[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0";
    struct curl *c = data;
    struct sockaddr_in sa = {.sin_family = AF_INET,
                             .sin_port = htons(c->port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    char got[256];

    /* the last zero of a SETTINGS frame's header is the string's own */
    if (connect(fd, (struct sockaddr *)&sa, sizeof(sa)) == 0 &&
        send(fd, hello, sizeof(hello), MSG_NOSIGNAL) == (ssize_t)sizeof(hello)) {
        while (recv(fd, got, sizeof(got), 0) > 0) {
        }
    }
    (void)close(fd);
    c->done = true;
    return NULL;
}

/* A peer that answers no ping is dropped, else this hangs; one that is only idle is not. */
static void test_keepalive(void **state)
{
    struct curl c = {.port = 0};
    struct one o;
    pthread_t t;

    (void)state;
    assert_int_equal(teardown(state), 0);
    idle_ping_ms = 30;
    assert_int_equal(setup_plain(state), 0);
    idle_ping_ms = 0;
    one_run(&o, "/t.T/Echo", 1, 0);
    assert_int_equal(o.rc, RC_OK);
    c.port = rpc_server_port(server);
    assert_int_equal(pthread_create(&t, NULL, raw_silent, &c), 0);
    while (!c.done)
        (void)uv_run(&loop, UV_RUN_ONCE);
    assert_int_equal(pthread_join(t, NULL), 0);
    assert_true(rpc_channel_connected(ch)); /* idle as long, and it answered */
    one_run(&o, "/t.T/Echo", 1, 0);
    assert_int_equal(o.rc, RC_OK);
}

/* ---- kernel TLS: never for a connection that leaves TLS ---- */

struct dialled {
    uint64_t options;
    bool done;
};

static void on_dialled(void *data, struct net_stream *st, enum rc rc, const struct err *e)
{
    struct dialled *d = data;

    if (rc != RC_OK) fail_msg("%s", e->msg);
    d->options = SSL_get_options(net_stream_ssl(st));
    d->done = true;
    net_stream_close(st);
}

static void on_bulk_taken(void *data, struct net_stream *st)
{
    on_dialled(data, st, RC_OK, NULL);
}

static void test_ktls(void **state)
{
    struct dialled here = {0}, there = {0};
    struct rpc_server_conf conf = {.loop = &loop,
                                   .host = "127.0.0.1",
                                   .tls = tls_server,
                                   .on_bulk = on_bulk_taken,
                                   .bulk_data = &there};
    struct net_dial_conf dial = {.loop = &loop, .tls = tls_client, .host = "127.0.0.1"};
    struct rpc_server *s;
    struct net_stream *st;

    (void)state;
    assert_int_equal(rpc_server_open(&conf, &s, NULL), RC_OK);
    dial.port = rpc_server_port(s);
    dial.alpn = NET_ALPN_BULK;
    assert_int_equal(net_dial(&dial, on_dialled, &here, &st, NULL), RC_OK);
    run_until(&here.done);
    run_until(&there.done);
    assert_false(here.options & SSL_OP_ENABLE_KTLS);
    assert_false(there.options & SSL_OP_ENABLE_KTLS);
    here.done = false;
    dial.alpn = NET_ALPN_H2; /* and others keep it */
    assert_int_equal(net_dial(&dial, on_dialled, &here, &st, NULL), RC_OK);
    run_until(&here.done);
    assert_true(here.options & SSL_OP_ENABLE_KTLS);
    closed_n = 0;
    rpc_server_close(s, 0, on_closed, NULL);
    while (closed_n < 1)
        (void)uv_run(&loop, UV_RUN_ONCE);
}

static void test_payload_split(void **state)
{
    /* 1: "ab", 15: "xyz" */
    static const uint8_t good[] = {0x0a, 2, 'a', 'b', 0x7a, 3, 'x', 'y', 'z'};
    static const uint8_t only[] = {0x7a, 1, 'q'};
    static const uint8_t first[] = {0x7a, 1, 'q', 0x0a, 0};     /* not the last field */
    static const uint8_t number[] = {0x08, 1, 0x7a, 1, 'q'};    /* a varint field before it */
    static const uint8_t longer[] = {0x7a, 0xff, 0xff, 3, 'q'}; /* length past the end */
    static const uint8_t endless[] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
    struct slice rest, p;

    (void)state;
    assert_true(rpc_wire_payload((struct slice){good, sizeof(good)}, 15, &rest, &p));
    assert_true(rest.p == good && rest.n == 4 && p.p == good + 6 && p.n == 3);
    assert_true(rpc_wire_payload((struct slice){only, sizeof(only)}, 15, &rest, &p));
    assert_true(rest.n == 0 && p.n == 1 && p.p[0] == 'q');
    for (size_t n = 0; n < sizeof(good); n++)
        assert_false(rpc_wire_payload((struct slice){good, n}, 15, &rest, &p));
    assert_false(rpc_wire_payload((struct slice){good, sizeof(good)}, 2, &rest, &p));
    assert_false(rpc_wire_payload((struct slice){first, sizeof(first)}, 15, &rest, &p));
    assert_false(rpc_wire_payload((struct slice){number, sizeof(number)}, 15, &rest, &p));
    assert_false(rpc_wire_payload((struct slice){longer, sizeof(longer)}, 15, &rest, &p));
    assert_false(rpc_wire_payload((struct slice){endless, sizeof(endless)}, 15, &rest, &p));
}

#define BOTH(f)                                                                                    \
    cmocka_unit_test_setup_teardown(f, setup_plain, teardown),                                     \
        cmocka_unit_test_setup_teardown(f, setup_tls, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        BOTH(test_unary),
        BOTH(test_many),
        BOTH(test_errors),
        BOTH(test_deadline_cancel),
        BOTH(test_up),
        BOTH(test_down),
        BOTH(test_slow_reader),
        BOTH(test_bidi),
        BOTH(test_oversize_to_server),
        BOTH(test_server_gone),
        cmocka_unit_test_setup_teardown(test_silent_server, setup_plain, teardown),
        BOTH(test_graceful),
        BOTH(test_channel_close_under_way),
        BOTH(test_health),
        cmocka_unit_test_setup_teardown(test_taken_port, setup_plain, teardown),
        cmocka_unit_test_setup_teardown(test_identities, setup_tls, teardown),
        cmocka_unit_test_setup_teardown(test_alerts, setup_tls, teardown),
        cmocka_unit_test_setup_teardown(test_http1, setup_plain, teardown),
        cmocka_unit_test_setup_teardown(test_http1_life, setup_tls, teardown),
        cmocka_unit_test_setup_teardown(test_keepalive, setup_plain, teardown),
        cmocka_unit_test_setup_teardown(test_ktls, setup_tls, teardown),
        cmocka_unit_test(test_identity_parse),
        cmocka_unit_test(test_payload_split),
    };
    int failed;

    for (size_t i = 0; i < sizeof(pattern); i++)
        pattern[i] = (uint8_t)(i * 31 + (i >> 8) * 7 + (i >> 16));
    certs_make();
    if (uv_loop_init(&loop) != 0) abort();
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (failed == 0 && uv_loop_close(&loop) != 0) failed = 1;
    certs_remove();
    return failed;
}
