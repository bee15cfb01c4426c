/* tests/unit/common/net/bulk/test_bulk.c - two ends of the bulk wire on one loop, over loopback and
 * real TLS handshakes. Certificates are made here. Node b serves: a request's header is one letter
 * (echo, late accept, silent, forward, early answer, refuse); each test runs the loop until its
 * condition holds. */
#include "common/net/bulk_priv.h"
#include <netinet/in.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#define BIG (5u << 20)

static uv_loop_t loop;
static char dir[] = "/tmp/mikura-test-bulk-XXXXXX";
static struct tls *tls_a, *tls_b;
static const char URI_A[] = "mikura://node/gateway/a", URI_B[] = "mikura://node/storaged/b";

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

/* uri NULL: the CA itself. Writes NAME.pem and NAME.key. */
static X509 *cert_make(const char *name, const char *uri, X509 *ca, EVP_PKEY *ca_key,
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
    (void)X509_gmtime_adj(X509_getm_notBefore(x), -60);
    (void)X509_gmtime_adj(X509_getm_notAfter(x), 3600 * 24);
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

static struct tls *tls_of(const char *name)
{
    char ca[128], cert[128], key[128];
    struct tls_conf conf = {.ca_path = ca, .cert_path = cert, .key_path = key};
    struct tls *t = NULL;
    struct err err;

    (void)snprintf(ca, sizeof(ca), "%s/ca.pem", dir);
    (void)snprintf(cert, sizeof(cert), "%s/%s.pem", dir, name);
    (void)snprintf(key, sizeof(key), "%s/%s.key", dir, name);
    if (tls_new(&conf, &t, &err) != RC_OK) {
        (void)fprintf(stderr, "%s\n", err.msg);
        abort();
    }
    return t;
}

static void certs_make(void)
{
    EVP_PKEY *ca_key, *key;
    X509 *ca, *x;

    if (mkdtemp(dir) == NULL) abort();
    ca = cert_make("ca", NULL, NULL, NULL, &ca_key);
    x = cert_make("a", URI_A, ca, ca_key, &key);
    X509_free(x);
    EVP_PKEY_free(key);
    x = cert_make("b", URI_B, ca, ca_key, &key);
    X509_free(x);
    EVP_PKEY_free(key);
    X509_free(ca);
    EVP_PKEY_free(ca_key);
    tls_a = tls_of("a");
    tls_b = tls_of("b");
}

static void certs_remove(void)
{
    static const char *const names[] = {"ca.pem", "ca.key", "a.pem", "a.key", "b.pem", "b.key"};
    char path[128];

    for (size_t i = 0; i < ARRAY_N(names); i++) {
        (void)snprintf(path, sizeof(path), "%s/%s", dir, names[i]);
        (void)unlink(path);
    }
    (void)rmdir(dir);
    tls_unref(tls_a);
    tls_unref(tls_b);
}

/* ---- two ends ---- */

struct end {
    struct bulk_conf conf;
    struct bulk_conn *conn; /* NULL after on_down */
    bool up;
    unsigned downs;
    enum rc down_rc;
};
struct pair {
    struct end a, b;
    int listen_fd;
    uv_poll_t listen;
    uint16_t port;
    /* of b's service */
    struct bulk_in *held;
    struct bulk_buf *held_buf, *forward_buf;
    unsigned messages, message_gaps, requests, lost;
    uint32_t ready_max;
    /* of forward: b sends what it receives on to itself's peer a, as it arrives */
    struct bulk_out forward;
    struct bulk_in *forward_in;
    unsigned forwards;
    bool forward_while_arriving;
};

static struct bulk_buf *pattern(uint32_t n)
{
    struct bulk_buf *b = bulk_buf_new(n);

    if (b == NULL) abort();
    for (uint32_t i = 0; i < n; i++)
        b->p[i] = (uint8_t)(i * 31 + i / 1009);
    return b;
}

static struct slice text(const char *s)
{
    return (struct slice){(const uint8_t *)s, strlen(s)};
}

static struct end *end_of(struct pair *p, struct bulk_conn *c)
{
    return p->a.conn == c ? &p->a : &p->b;
}

static void on_up(struct bulk_conn *c)
{
    end_of(bulk_conn_data(c), c)->up = true;
}

static void on_down(struct bulk_conn *c, enum rc rc, const struct err *e)
{
    struct end *end = end_of(bulk_conn_data(c), c);

    assert_int_equal(e->rc, rc);
    end->downs++;
    end->down_rc = rc;
    end->conn = NULL;
}

static void on_forwarded(struct bulk_out *o, enum rc rc, struct slice header,
                         struct bulk_buf *payload, uint32_t payload_n)
{
    struct pair *p = o->data;

    (void)payload;
    (void)payload_n;
    p->forwards++;
    if (p->forward_in == NULL) return;
    bulk_in_reply(p->forward_in, rc == RC_OK ? header : text("forward failed"), NULL, 0, 0);
    p->forward_in = NULL;
}

static void on_request(struct bulk_conn *c, struct bulk_in *in, struct slice header, uint32_t n)
{
    struct pair *p = bulk_conn_data(c);
    struct bulk_buf *b;

    p->requests++;
    assert_true(header.n >= 1);
    bulk_in_set_data(in, (void *)(uintptr_t)header.p[0]);
    switch (header.p[0]) {
    case 'e': /* echo */
    case 'f': /* forward */
        if (n == 0) {
            bulk_in_reply(in, header, NULL, 0, 0);
            return;
        }
        b = bulk_buf_new(n);
        assert_non_null(b);
        bulk_in_accept(in, b, 0);
        if (header.p[0] == 'e') p->held_buf = b;
        if (header.p[0] == 'f') {
            struct bulk_send s = {.header = text("e"), .payload = b, .n = n, .timeout_ms = 60000};

            p->forward.data = p;
            p->forward_in = in;
            p->forward_buf = b;
            assert_int_equal(bulk_out_start(c, &p->forward, &s, on_forwarded), RC_OK);
        }
        return;
    case 'r': /* refuse before the payload is read */
        bulk_in_reply(in, text("refused"), NULL, 0, 0);
        return;
    default: /* held: accepted later, or never answered */
        p->held = in;
        return;
    }
}

static void on_payload(struct bulk_in *in, uint32_t ready)
{
    struct pair *p = bulk_conn_data(bulk_in_conn(in));
    char what = (char)(uintptr_t)bulk_in_data(in);

    if (what == 'f') {
        p->ready_max = ready;
        if (ready < p->forward_buf->cap) p->forward_while_arriving = true;
        bulk_out_more(&p->forward, ready);
        if (ready == p->forward_buf->cap) bulk_buf_unref(p->forward_buf);
        return;
    }
    if (p->forward_in == NULL) p->ready_max = ready;
    if (ready < p->held_buf->cap) return;
    bulk_in_reply(in, text("echo"), p->held_buf, 0, ready);
    bulk_buf_unref(p->held_buf);
    p->held_buf = NULL;
}

static void on_message(struct bulk_conn *c, struct slice header)
{
    struct pair *p = bulk_conn_data(c);
    char want[32];

    (void)snprintf(want, sizeof(want), "m%u", p->messages++);
    if (header.n != strlen(want) || memcmp(header.p, want, header.n) != 0) p->message_gaps++;
}

static void on_lost(struct bulk_in *in)
{
    struct pair *p = bulk_conn_data(bulk_in_conn(in));

    p->lost++;
    if (p->held == in) p->held = NULL;
    if (p->forward_in == in) p->forward_in = NULL;
}

static const struct bulk_ops OPS = {.on_request = on_request,
                                    .on_payload = on_payload,
                                    .on_message = on_message,
                                    .on_lost = on_lost,
                                    .on_up = on_up,
                                    .on_down = on_down};

static void on_ready(void *data, struct net_stream *st, enum rc rc, const struct err *e)
{
    struct pair *p = data;
    struct err err;

    (void)e;
    if (rc != RC_OK) {
        p->b.downs++;
        p->b.down_rc = rc;
        return;
    }
    assert_int_equal(bulk_adopt(&p->b.conf, st, &p->b.conn, &err), RC_OK);
}

static void on_accept(uv_poll_t *h, int status, int events)
{
    struct pair *p = h->data;
    struct net_stream *st;
    struct err err;
    int fd = accept4(p->listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

    (void)status;
    (void)events;
    if (fd < 0) return;
    assert_int_equal(net_accept(&loop, tls_b, fd, 0, on_ready, p, &st, &err), RC_OK);
}

static struct id128 id_of(uint8_t byte)
{
    struct id128 id;

    memset(id.b, byte, 16);
    return id;
}

static void pair_open(struct pair *p, uint8_t cluster_a, const char *expect_uri, uint32_t life_ms)
{
    struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof(sa);
    struct err err;

    memset(p, 0, sizeof(*p));
    p->listen_fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    assert_true(p->listen_fd >= 0);
    assert_int_equal(bind(p->listen_fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
    assert_int_equal(listen(p->listen_fd, 8), 0);
    assert_int_equal(getsockname(p->listen_fd, (struct sockaddr *)&sa, &n), 0);
    assert_int_equal(uv_poll_init(&loop, &p->listen, p->listen_fd), 0);
    p->listen.data = p;
    assert_int_equal(uv_poll_start(&p->listen, UV_READABLE, on_accept), 0);
    p->a.conf = (struct bulk_conf){.loop = &loop,
                                   .tls = tls_a,
                                   .self = {.wire_version = 1,
                                            .cluster = id_of(cluster_a),
                                            .node = id_of(10),
                                            .boot_id = id_of(11)},
                                   .ops = &OPS,
                                   .data = p,
                                   .life_ms = life_ms};
    p->b.conf = p->a.conf;
    p->b.conf.tls = tls_b;
    p->b.conf.life_ms = 0;
    p->b.conf.self.cluster = id_of(1);
    p->b.conf.self.node = id_of(20);
    assert_int_equal(bulk_dial(&p->a.conf, "127.0.0.1", ntohs(sa.sin_port), expect_uri, BULK_DATA,
                               &p->a.conn, &err),
                     RC_OK);
}

#define RUN_UNTIL(cond)                                                                            \
    while (!(cond))                                                                                \
    (void)uv_run(&loop, UV_RUN_ONCE)

static void pair_up(struct pair *p)
{
    pair_open(p, 1, URI_B, 0);
    RUN_UNTIL(p->a.up && p->b.up);
}

static void pair_close(struct pair *p)
{
    bulk_conn_close(p->a.conn, RC_CANCELED);
    bulk_conn_close(p->b.conn, RC_CANCELED);
    uv_close((uv_handle_t *)&p->listen, NULL);
    (void)uv_run(&loop, UV_RUN_DEFAULT); /* returns when no handle is left: nothing leaks */
    (void)close(p->listen_fd);
    assert_null(p->a.conn);
    assert_null(p->b.conn);
}

struct call {
    struct bulk_out out;
    unsigned done;
    enum rc rc;
    char header[32];
    struct bulk_buf *payload;
    uint32_t payload_n;
};

static void on_answer(struct bulk_out *o, enum rc rc, struct slice header, struct bulk_buf *payload,
                      uint32_t payload_n)
{
    struct call *c = o->data;

    c->done++;
    c->rc = rc;
    if (rc == RC_OK)
        (void)snprintf(c->header, sizeof(c->header), "%.*s", (int)header.n, header.p);
    else
        assert_int_equal(o->err.rc, rc);
    if (payload != NULL) c->payload = bulk_buf_ref(payload);
    c->payload_n = payload_n;
}

static void start(struct pair *p, struct call *c, const char *header, struct bulk_buf *b,
                  uint32_t ready, uint32_t timeout_ms)
{
    struct bulk_send s = {.header = text(header),
                          .payload = b,
                          .n = b != NULL ? b->cap : 0,
                          .ready = ready,
                          .timeout_ms = timeout_ms};

    memset(c, 0, sizeof(*c));
    c->out.data = c;
    assert_int_equal(bulk_out_start(p->a.conn, &c->out, &s, on_answer), RC_OK);
    assert_int_equal(c->done, 0);
}

/* ---- tests ---- */

static void test_echo_many(void **state)
{
    static const uint32_t sizes[] = {1, 100, 16384, 16385, 70000, BIG};
    struct bulk_buf *bufs[ARRAY_N(sizes)];
    struct call calls[ARRAY_N(sizes)], none;
    struct pair p;

    (void)state;
    pair_up(&p);
    assert_string_equal(bulk_conn_peer(p.a.conn)->uri, URI_B);
    assert_string_equal(bulk_conn_peer(p.b.conn)->uri, URI_A);
    assert_true(id128_eq(&bulk_conn_hello(p.a.conn)->node, &p.b.conf.self.node));
    assert_int_equal(bulk_conn_hello(p.b.conn)->cls, BULK_DATA);
    for (size_t i = 0; i < ARRAY_N(sizes); i++) {
        bufs[i] = pattern(sizes[i]);
        start(&p, &calls[i], "e", bufs[i], sizes[i], 60000);
    }
    start(&p, &none, "e", NULL, 0, 60000);
    RUN_UNTIL(none.done == 1);
    assert_string_equal(none.header, "e");
    for (size_t i = 0; i < ARRAY_N(sizes); i++) {
        RUN_UNTIL(calls[i].done == 1);
        assert_int_equal(calls[i].rc, RC_OK);
        assert_string_equal(calls[i].header, "echo");
        assert_int_equal(calls[i].payload_n, sizes[i]);
        assert_int_equal((uintptr_t)calls[i].payload->p % 4096, 0);
        assert_memory_equal(calls[i].payload->p, bufs[i]->p, sizes[i]);
        bulk_buf_unref(calls[i].payload);
        bulk_buf_unref(bufs[i]);
    }
    pair_close(&p);
}

static void test_ten_thousand(void **state)
{
    static struct call calls[BULK_INFLIGHT_MAX];
    struct bulk_send s = {.header = text("e"), .timeout_ms = 60000};
    struct call extra = {0};
    unsigned done = 0, started = 0;
    struct pair p;

    (void)state;
    pair_up(&p);
    while (started < BULK_INFLIGHT_MAX)
        start(&p, &calls[started++], "e", NULL, 0, 60000);
    assert_int_equal(bulk_out_start(p.a.conn, &extra.out, &s, on_answer), RC_BUSY);
    while (done < 10000) {
        (void)uv_run(&loop, UV_RUN_ONCE);
        for (unsigned i = 0; i < BULK_INFLIGHT_MAX; i++) {
            if (calls[i].done == 0) continue;
            assert_int_equal(calls[i].done, 1);
            assert_int_equal(calls[i].rc, RC_OK);
            done++;
            calls[i].done = 0;
            if (started < 10000) {
                started++;
                start(&p, &calls[i], "e", NULL, 0, 60000);
            }
        }
    }
    assert_int_equal(p.requests, 10000);
    pair_close(&p);
}

/* Nothing is read before accept: the sender's payload stays with it, but for the kernel's buffers.
 */
static void test_backpressure(void **state)
{
    struct bulk_buf *b = pattern(32u << 20), *to;
    struct bulk_tx_frame *t;
    struct call call;
    struct pair p;
    size_t before = 0;

    (void)state;
    pair_up(&p);
    start(&p, &call, "h", b, b->cap, 60000);
    RUN_UNTIL(p.held != NULL);
    t = call.out.priv.frame;
    assert_non_null(t);
    do { /* until the kernel's buffers are full */
        before = t->sent;
        for (int i = 0; i < 50; i++)
            (void)uv_run(&loop, UV_RUN_NOWAIT);
    } while (t->sent > before);
    assert_true(t->sent < b->cap);
    assert_int_equal(p.b.conn->rx_cap, 16u << 10); /* b holds no more than this */
    assert_int_equal(p.ready_max, 0);
    to = bulk_buf_new(b->cap);
    p.held_buf = to;
    bulk_in_set_data(p.held, (void *)(uintptr_t)'h');
    bulk_in_accept(p.held, to, 0);
    RUN_UNTIL(call.done == 1);
    assert_int_equal(call.rc, RC_OK);
    assert_memory_equal(call.payload->p, b->p, b->cap);
    bulk_buf_unref(call.payload);
    bulk_buf_unref(b);
    pair_close(&p);
}

static void test_refused_payload_is_dropped(void **state)
{
    struct bulk_buf *b = pattern(BIG);
    struct call call, next;
    struct pair p;

    (void)state;
    pair_up(&p);
    start(&p, &call, "r", b, b->cap, 60000);
    start(&p, &next, "e", NULL, 0, 60000);
    RUN_UNTIL(next.done == 1);
    assert_int_equal(call.done, 1);
    assert_string_equal(call.header, "refused");
    bulk_buf_unref(b);
    pair_close(&p);
}

/* a's payload grows; b forwards it back to a, who is an echo too, from the buffer that it fills. */
static void test_forward_while_it_arrives(void **state)
{
    struct bulk_buf *b = pattern(BIG);
    struct call call;
    struct pair p;

    (void)state;
    pair_up(&p);
    start(&p, &call, "f", b, 100000, 60000);
    RUN_UNTIL(p.ready_max == 100000 && p.requests == 2); /* a has the forwarded header already */
    assert_int_equal(call.done, 0);
    bulk_out_more(&call.out, 200000);
    RUN_UNTIL(p.forward_while_arriving);
    bulk_out_more(&call.out, BIG);
    RUN_UNTIL(call.done == 1);
    assert_int_equal(p.forwards, 1);
    assert_string_equal(call.header, "echo");
    bulk_buf_unref(b);
    pair_close(&p);
}

/* An answer that comes while the payload is still made is told when all of it was given. */
static void test_early_answer(void **state)
{
    struct bulk_buf *b = pattern(BIG);
    struct call call, next;
    struct pair p;

    (void)state;
    pair_up(&p);
    start(&p, &call, "r", b, 1000, 60000);
    RUN_UNTIL(p.a.conn->early_n == 1);
    assert_int_equal(call.done, 0);
    bulk_out_more(&call.out, 70000);
    for (int i = 0; i < 20; i++)
        (void)uv_run(&loop, UV_RUN_NOWAIT);
    assert_int_equal(call.done, 0);
    bulk_out_more(&call.out, BIG);
    RUN_UNTIL(call.done == 1);
    assert_string_equal(call.header, "refused");
    start(&p, &next, "e", NULL, 0, 60000);
    RUN_UNTIL(next.done == 1);
    assert_int_equal(p.a.downs, 0);
    bulk_buf_unref(b);
    pair_close(&p);
}

static void test_deadlines(void **state)
{
    struct bulk_buf *b = pattern(1000);
    struct call call, after, growing;
    struct pair p;

    (void)state;
    pair_up(&p);
    start(&p, &call, "h", NULL, 0, 20);
    RUN_UNTIL(call.done == 1);
    assert_int_equal(call.rc, RC_DEADLINE);
    assert_non_null(p.held);
    bulk_in_reply(p.held, text("late"), b, 0, 1000); /* dropped; the connection goes on */
    start(&p, &after, "e", NULL, 0, 60000);
    RUN_UNTIL(after.done == 1);
    assert_int_equal(after.rc, RC_OK);
    assert_int_equal(p.a.conn->slots_used, 0);
    /* bytes that never come end the connection */
    start(&p, &growing, "e", b, 10, 20);
    RUN_UNTIL(p.a.downs == 1 && p.b.downs == 1);
    assert_int_equal(growing.done, 1);
    assert_int_equal(growing.rc, RC_DEADLINE);
    assert_int_equal(p.lost, 1);
    bulk_buf_unref(p.held_buf);
    bulk_buf_unref(b);
    pair_close(&p);
}

static void test_cut_mid_payload(void **state)
{
    struct bulk_buf *b = pattern(BIG);
    struct call call, waiting;
    struct pair p;

    (void)state;
    pair_up(&p);
    start(&p, &waiting, "h", NULL, 0, 60000);
    start(&p, &call, "e", b, 100000, 60000);
    RUN_UNTIL(p.ready_max == 100000);
    bulk_conn_close(p.b.conn, RC_CANCELED);
    assert_int_equal(p.b.downs, 0); /* later */
    RUN_UNTIL(p.a.downs == 1 && p.b.downs == 1);
    assert_int_equal(call.done, 1);
    assert_int_equal(call.rc, RC_UNAVAIL);
    assert_int_equal(waiting.done, 1);
    assert_int_equal(waiting.rc, RC_UNAVAIL);
    assert_int_equal(p.lost, 2);
    assert_int_equal(b->refs, 1);
    bulk_buf_unref(p.held_buf);
    bulk_buf_unref(b);
    pair_close(&p);
}

/* A peer that is killed while bytes of ours lie unread with it: its last bytes, then a reset. libuv
 * stops polling at a socket's error, so nothing may wait for another event of it. */
static void reset_by(struct bulk_conn *c)
{
    struct sockaddr none = {.sa_family = AF_UNSPEC};

    assert_int_equal(connect(c->fd, &none, sizeof(none)), 0);
}

static void test_reset_behind_bytes(void **state)
{
    struct bulk_buf *b = pattern(BIG);
    struct call call;
    struct pair p;

    (void)state;
    pair_up(&p);
    start(&p, &call, "e", b, 100000, 60000);
    RUN_UNTIL(p.ready_max == 100000);
    assert_int_equal(send(p.a.conn->fd, b->p + 100000, 1000, MSG_NOSIGNAL), 1000);
    reset_by(p.a.conn);
    RUN_UNTIL(p.b.downs == 1);
    assert_int_equal(p.lost, 1);
    bulk_buf_unref(p.held_buf);
    bulk_buf_unref(b);
    pair_close(&p);
}

/* The same while b has no room for the payload yet. */
static void test_reset_while_it_waits(void **state)
{
    struct bulk_buf *b = pattern(BIG);
    struct call call;
    struct pair p;

    (void)state;
    pair_up(&p);
    start(&p, &call, "h", b, b->cap, 60000);
    RUN_UNTIL(p.held != NULL);
    p.b.conn->events = 0; /* as when b had something to send, too: polled, though not to read */
    assert_int_equal(uv_poll_start(&p.b.conn->poll, UV_WRITABLE, p.b.conn->poll.poll_cb), 0);
    reset_by(p.a.conn);
    RUN_UNTIL(p.b.downs == 1);
    assert_int_equal(p.lost, 1);
    bulk_buf_unref(b);
    pair_close(&p);
}

static void test_abort(void **state)
{
    struct bulk_buf *b = pattern(BIG);
    struct call call;
    struct pair p;

    (void)state;
    pair_up(&p);
    start(&p, &call, "e", b, 100000, 60000);
    RUN_UNTIL(p.ready_max == 100000);
    bulk_out_abort(&call.out);
    assert_int_equal(call.done, 0);
    RUN_UNTIL(p.a.downs == 1 && p.b.downs == 1);
    assert_int_equal(call.rc, RC_CANCELED);
    assert_int_equal(call.done, 1);
    bulk_buf_unref(p.held_buf);
    bulk_buf_unref(b);
    pair_close(&p);
}

static void test_messages(void **state)
{
    static const uint8_t big[1u << 20];
    unsigned sent = 0, i = 0;
    char m[32];
    struct pair p;

    (void)state;
    pair_up(&p);
    for (; i < 5000; i++) {
        (void)snprintf(m, sizeof(m), "m%u", i);
        assert_int_equal(bulk_message(p.a.conn, text(m)), RC_OK);
    }
    RUN_UNTIL(p.messages == 5000);
    assert_int_equal(p.message_gaps, 0);
    while (bulk_message(p.a.conn, (struct slice){big, sizeof(big)}) == RC_OK)
        sent++;
    assert_int_equal(sent, 17); /* more than 16 MiB queued: RC_BUSY */
    RUN_UNTIL(p.messages == 5017);
    assert_int_equal(p.a.downs, 0);
    pair_close(&p);
}

/* Bytes that the peer did not seal, put on its bare socket. */
static void test_foreign_bytes(void **state)
{
    struct call call;
    struct pair p;
    uint8_t junk[64] = {20};

    (void)state;
    pair_up(&p);
    start(&p, &call, "h", NULL, 0, 60000);
    RUN_UNTIL(p.held != NULL);
    assert_int_equal(send(p.a.conn->fd, junk, sizeof(junk), 0), sizeof(junk));
    RUN_UNTIL(p.a.downs == 1 && p.b.downs == 1);
    assert_int_equal(p.b.down_rc, RC_CORRUPT);
    assert_int_equal(call.done, 1);
    assert_int_equal(call.rc, RC_UNAVAIL);
    pair_close(&p);
}

static void test_wrong_cluster(void **state)
{
    struct pair p;

    (void)state;
    pair_open(&p, /* cluster_a= */ 2, URI_B, 0);
    RUN_UNTIL(p.a.downs == 1 && p.b.downs == 1);
    assert_int_equal(p.b.down_rc, RC_DENIED);
    assert_false(p.a.up);
    assert_false(p.b.up);
    pair_close(&p);
}

static void test_wrong_identity(void **state)
{
    struct pair p;

    (void)state;
    pair_open(&p, 1, "mikura://node/storaged/other", 0);
    RUN_UNTIL(p.a.downs == 1 && p.b.downs == 1);
    assert_int_equal(p.a.down_rc, RC_UNAUTH);
    assert_false(p.a.up);
    pair_close(&p);
}

/* The hour (here 200 ms) is over: what runs ends well, nothing new starts, both hear CANCELED. */
static void test_life_ends(void **state)
{
    struct call call, no = {0};
    struct bulk_send s = {.header = text("e")};
    struct pair p;

    (void)state;
    pair_open(&p, 1, URI_B, /* life_ms= */ 200);
    RUN_UNTIL(p.a.up && p.b.up);
    assert_true(p.a.conn->timer_due_ms <= p.a.conn->drain_at_ms);
    start(&p, &call, "h", NULL, 0, 60000);
    RUN_UNTIL(p.held != NULL && p.b.conn->drain_got && p.a.conn->drain_got);
    assert_int_equal(bulk_out_start(p.a.conn, &no.out, &s, on_answer), RC_UNAVAIL);
    assert_int_equal(bulk_message(p.b.conn, text("x")), RC_UNAVAIL);
    assert_int_equal(p.a.downs, 0);
    bulk_in_reply(p.held, text("done"), NULL, 0, 0);
    RUN_UNTIL(p.a.downs == 1 && p.b.downs == 1);
    assert_int_equal(call.rc, RC_OK);
    assert_int_equal(p.a.down_rc, RC_CANCELED);
    assert_int_equal(p.b.down_rc, RC_CANCELED);
    pair_close(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_echo_many),
        cmocka_unit_test(test_ten_thousand),
        cmocka_unit_test(test_backpressure),
        cmocka_unit_test(test_refused_payload_is_dropped),
        cmocka_unit_test(test_forward_while_it_arrives),
        cmocka_unit_test(test_early_answer),
        cmocka_unit_test(test_deadlines),
        cmocka_unit_test(test_cut_mid_payload),
        cmocka_unit_test(test_reset_behind_bytes),
        cmocka_unit_test(test_reset_while_it_waits),
        cmocka_unit_test(test_abort),
        cmocka_unit_test(test_messages),
        cmocka_unit_test(test_foreign_bytes),
        cmocka_unit_test(test_wrong_cluster),
        cmocka_unit_test(test_wrong_identity),
        cmocka_unit_test(test_life_ends),
    };
    int bad;

    if (uv_loop_init(&loop) != 0) abort();
    certs_make();
    bad = cmocka_run_group_tests(tests, NULL, NULL);
    certs_remove();
    if (uv_loop_close(&loop) != 0) bad = 1;
    return bad;
}
