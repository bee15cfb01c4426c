/* common/net/net_stream.c - see net_stream.h.
 *
 * Three ways out for written bytes: plain (the out buffer holds them, send()), TLS in the process
 * (a BIO of ours collects finished records in the out buffer, send()), kernel TLS (the out buffer
 * holds plaintext, SSL_write()). Small writes are first joined in `stage`, so that a frame header
 * does not become a TLS record of its own. The memory lives until libuv has closed both handles. */
#include "common/net/net_stream.h"
#include "common/base/buf.h"
#include "common/base/log.h"
#include "common/net/net_rc.h"
#include "common/net/tls_priv.h"
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define STAGE_BYTES      (16u << 10) /* one TLS record */
#define DIRECT_BYTES     (4u << 10)  /* from here on a record of its own costs less than the copy */
#define READ_AHEAD_BYTES (256u << 10)
#define OUT_BYTES_HARD   (8u << 20) /* a frame over NET_STREAM_OUT_BYTES; never reached */
#define HANDSHAKE_MS     5000u

enum phase { PH_RESOLVE, PH_CONNECT, PH_HANDSHAKE, PH_CONFIRM, PH_READY, PH_FAILED };

struct net_stream {
    uv_loop_t *loop;
    uv_poll_t poll;
    uv_timer_t timer; /* until ready: the whole timeout, or 0 to report a failure later */
    uv_getaddrinfo_t resolve;
    bool resolving, poll_open, closing;
    int handles_n;
    int fd;
    enum phase phase;
    bool server;
    enum net_alpn alpn, alpn_want;
    SSL *ssl;
    struct tls *tls;
    struct tls_policy policy;
    struct tls_identity peer;
    char *host, *expect_uri;
    uint16_t port;
    char addr[64];
    net_ready_cb cb;
    void *cb_data;
    struct err err;
    /* as a byte stream */
    void (*on_readable)(void *data);
    void (*on_drained)(void *data);
    void *data;
    bool paused, ktls, broken, want_drained;
    int events;
    struct buf out;
    size_t out_at; /* bytes of out that are sent */
    uint8_t *stage;
    size_t stage_n;
};

static void poll_update(struct net_stream *st);
static void on_poll(uv_poll_t *h, int status, int events);

/* ---- the BIO that collects records ---- */

static int bio_write(BIO *bio, const char *p, size_t n, size_t *ret_n)
{
    struct net_stream *st = BIO_get_data(bio);

    buf_put(&st->out, p, n);
    if (buf_rc(&st->out) != RC_OK) return 0;
    *ret_n = n;
    return 1;
}

static long bio_ctrl(BIO *bio, int cmd, long num, void *ptr)
{
    (void)bio;
    (void)num;
    (void)ptr;
    return cmd == BIO_CTRL_FLUSH || cmd == BIO_CTRL_DUP ? 1 : 0;
}

static BIO_METHOD *out_method; /* one for the process, made once, never freed */

static void out_method_make(void)
{
    out_method = BIO_meth_new(BIO_TYPE_SOURCE_SINK | BIO_get_new_index(), "mikura out");
    if (out_method == NULL) return;
    (void)BIO_meth_set_write_ex(out_method, bio_write);
    (void)BIO_meth_set_ctrl(out_method, bio_ctrl);
}

static BIO_METHOD *bio_method(void)
{
    static uv_once_t once = UV_ONCE_INIT;

    uv_once(&once, out_method_make);
    return out_method;
}

/* ---- life ---- */

static void on_handle_closed(uv_handle_t *h)
{
    struct net_stream *st = h->data;

    if (--st->handles_n > 0) return;
    SSL_free(st->ssl);
    if (st->fd >= 0) (void)close(st->fd); /* nothing is lost by a failed close of a socket */
    tls_unref(st->tls);
    buf_deinit(&st->out);
    free(st->stage);
    free(st->host);
    free(st->expect_uri);
    free(st);
}

static void stream_destroy(struct net_stream *st)
{
    if (st->closing) return;
    st->closing = true;
    st->cb = NULL;
    st->on_readable = st->on_drained = NULL;
    if (st->resolving)
        (void)uv_cancel((uv_req_t *)&st->resolve); /* else on_resolved finds closing */
    if (st->poll_open) {
        (void)uv_poll_stop(&st->poll);
        uv_close((uv_handle_t *)&st->poll, on_handle_closed);
    }
    uv_close((uv_handle_t *)&st->timer, on_handle_closed);
}

static void report(struct net_stream *st, enum rc rc)
{
    net_ready_cb cb = st->cb;
    struct err e = st->err;

    st->cb = NULL;
    (void)uv_timer_stop(&st->timer);
    if (rc == RC_OK) {
        (void)uv_poll_stop(&st->poll); /* until net_stream_start */
        st->events = 0;
        st->phase = PH_READY;
        if (cb != NULL) cb(st->cb_data, st, RC_OK, NULL);
        return;
    }
    st->phase = PH_FAILED;
    if (cb != NULL) cb(st->cb_data, NULL, rc, &e);
    stream_destroy(st);
}

/* Keeps the first reason. */
static void fail(struct net_stream *st, enum rc rc)
{
    if (st->phase == PH_FAILED) return;
    if (st->err.rc == RC_OK) (void)err_set(&st->err, rc, "%s", rc_text(rc));
    st->err.rc = rc;
    if (st->err.msg[0] != 0 && !st->server) {
        (void)err_prefix(&st->err, "%s port %u", st->host, st->port);
    }
    report(st, rc);
}

static void on_timer(uv_timer_t *t)
{
    struct net_stream *st = t->data;

    if (st->err.rc == RC_OK) {
        static const char *const doing[] = {[PH_RESOLVE] = "name look-up",
                                            [PH_CONNECT] = "connect",
                                            [PH_HANDSHAKE] = "TLS handshake",
                                            [PH_CONFIRM] = "TLS confirmation"};

        (void)err_set(&st->err, RC_DEADLINE, "%s timed out", doing[st->phase]);
    }
    fail(st, st->err.rc);
}

static struct net_stream *stream_new(uv_loop_t *loop, struct tls *tls, net_ready_cb cb, void *data)
{
    struct net_stream *st = calloc(1, sizeof(*st));

    if (st == NULL) return NULL;
    st->loop = loop;
    st->fd = -1;
    st->cb = cb;
    st->cb_data = data;
    st->tls = tls != NULL ? tls_ref(tls) : NULL;
    buf_init(&st->out, OUT_BYTES_HARD);
    st->policy.id = &st->peer;
    st->policy.err = &st->err;
    (void)uv_timer_init(loop, &st->timer); /* can't fail */
    st->timer.data = st;
    st->handles_n = 1;
    return st;
}

static enum rc poll_open(struct net_stream *st)
{
    int status = uv_poll_init(st->loop, &st->poll, st->fd);

    if (status != 0) return rc_from_uv(status);
    st->poll.data = st;
    st->poll_open = true;
    st->handles_n++;
    return RC_OK;
}

/* ---- handshake ---- */

static const uint8_t *alpn_wire(enum net_alpn a, unsigned *ret_n)
{
    static const uint8_t h2[] = "\x02h2", h1[] = "\x08http/1.1", bulk[] = "\x0dmikura-bulk/1";

    *ret_n = a == NET_ALPN_BULK    ? sizeof(bulk) - 1
             : a == NET_ALPN_HTTP1 ? sizeof(h1) - 1
                                   : sizeof(h2) - 1;
    return a == NET_ALPN_BULK ? bulk : a == NET_ALPN_HTTP1 ? h1 : h2;
}

static enum net_alpn alpn_chosen(SSL *ssl)
{
    const uint8_t *p;
    unsigned n;

    SSL_get0_alpn_selected(ssl, &p, &n);
    if (n == 2 && memcmp(p, "h2", 2) == 0) return NET_ALPN_H2;
    if (n == 8 && memcmp(p, "http/1.1", 8) == 0) return NET_ALPN_HTTP1;
    if (n == 13 && memcmp(p, "mikura-bulk/1", 13) == 0) return NET_ALPN_BULK;
    return NET_ALPN_NONE;
}

static enum rc handshake_done(struct net_stream *st)
{
    st->alpn = alpn_chosen(st->ssl);
    if (!st->server && st->alpn != st->alpn_want) {
        return err_set(&st->err, RC_UNAVAIL, "the server does not speak the wanted protocol there");
    }
    SSL_set_app_data(st->ssl, NULL); /* the policy has done its work */
    return RC_OK;
}

/* From here on the socket is used through our buffers. Not for bulk, which is to be taken apart. */
static enum rc buffers_setup(struct net_stream *st)
{
    BIO *bio;

    if (st->alpn == NET_ALPN_BULK) return RC_OK;
    st->stage = malloc(STAGE_BYTES);
    if (st->stage == NULL) return err_set(&st->err, RC_NOMEM, "connection buffer");
    if (st->ssl == NULL) return RC_OK;
    SSL_set_read_ahead(st->ssl, 1);
    st->ktls = BIO_get_ktls_send(SSL_get_wbio(st->ssl)); /* UNTESTED true: no such kernel here */
    if (st->ktls) return RC_OK;
    bio = bio_method() != NULL ? BIO_new(bio_method()) : NULL;
    if (bio == NULL) return err_set(&st->err, RC_NOMEM, "connection buffer");
    BIO_set_data(bio, st);
    BIO_set_init(bio, 1);
    SSL_set0_wbio(st->ssl, bio);
    return RC_OK;
}

static void handshake_step(struct net_stream *st)
{
    uint8_t byte = 1;
    enum rc rc;
    int n = -1;

    ERR_clear_error();
    errno = 0;
    if (st->phase == PH_HANDSHAKE) {
        n = SSL_do_handshake(st->ssl);
        if (n == 1) {
            rc = handshake_done(st);
            if (rc == RC_OK) rc = buffers_setup(st);
            if (rc != RC_OK) {
                fail(st, rc);
                return;
            }
            if (st->alpn != NET_ALPN_BULK) {
                report(st, RC_OK);
                return;
            }
            st->phase = PH_CONFIRM;
        }
    }
    if (st->phase == PH_CONFIRM) {
        n = st->server ? SSL_write(st->ssl, &byte, 1) : SSL_read(st->ssl, &byte, 1);
        if (n == 1) {
            if (byte != 1) {
                (void)err_set(&st->err, RC_IO, "the server's confirmation is no such byte");
                fail(st, RC_IO);
                return;
            }
            report(st, RC_OK);
            return;
        }
    }
    if (st->err.rc != RC_OK) { /* our own verdict on the peer's certificate says more */
        ERR_clear_error();
        fail(st, st->err.rc);
        return;
    }
    rc = rc_from_ssl(st->ssl, n, &st->err);
    if (rc == RC_RANGE) rc = RC_UNAVAIL;
    if (rc != RC_BUSY) {
        fail(st, rc);
        return;
    }
    poll_update(st);
}

static void handshake_start(struct net_stream *st)
{
    unsigned alpn_n;
    const uint8_t *alpn = alpn_wire(st->alpn_want, &alpn_n);
    enum rc rc;

    if (st->tls == NULL) {
        st->alpn = st->alpn_want;
        rc = buffers_setup(st);
        if (rc != RC_OK)
            fail(st, rc);
        else
            report(st, RC_OK);
        return;
    }
    st->policy.server = st->server;
    st->policy.host = st->host;
    st->policy.expect_uri = st->expect_uri;
    st->ssl = tls_ssl_new(st->tls, &st->policy, alpn, alpn_n);
    if (st->ssl == NULL || SSL_set_fd(st->ssl, st->fd) != 1) {
        ERR_clear_error();
        (void)err_set(&st->err, RC_NOMEM, "TLS connection");
        fail(st, RC_NOMEM);
        return;
    }
    /* before the handshake makes the buffer: later it would change nothing */
    if (st->alpn_want != NET_ALPN_BULK) SSL_set_default_read_buffer_len(st->ssl, READ_AHEAD_BYTES);
    if (st->server)
        SSL_set_accept_state(st->ssl);
    else
        SSL_set_connect_state(st->ssl);
    st->phase = PH_HANDSHAKE;
    handshake_step(st);
}

/* ---- dial ---- */

static void addr_text(struct net_stream *st, const struct sockaddr *sa)
{
    char ip[INET6_ADDRSTRLEN] = "?";
    unsigned port = 0;

    if (sa->sa_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)(const void *)sa;

        (void)uv_ip4_name(in, ip, sizeof(ip));
        port = ntohs(in->sin_port);
    } else if (sa->sa_family == AF_INET6) {
        const struct sockaddr_in6 *in = (const struct sockaddr_in6 *)(const void *)sa;

        (void)uv_ip6_name(in, ip, sizeof(ip));
        port = ntohs(in->sin6_port);
    }
    (void)snprintf(st->addr, sizeof(st->addr), sa->sa_family == AF_INET6 ? "[%s]:%u" : "%s:%u", ip,
                   port);
}

/* A failure found inside net_dial is reported by the timer, so that cb does not fire in there. */
static void fail_later(struct net_stream *st)
{
    (void)uv_timer_start(&st->timer, on_timer, 0, 0);
}

static void connect_start(struct net_stream *st, const struct sockaddr *sa, socklen_t n)
{
    int one = 1;
    enum rc rc;

    addr_text(st, sa);
    st->phase = PH_CONNECT;
    st->fd = socket(sa->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (st->fd < 0) {
        (void)err_set(&st->err, rc_from_errno(errno), "socket: %s", strerror(errno));
        fail_later(st);
        return;
    }
    (void)setsockopt(st->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)); /* only slower without */
    if (connect(st->fd, sa, n) != 0 && errno != EINPROGRESS) {
        (void)err_set(&st->err, RC_UNAVAIL, "connect: %s", strerror(errno));
        fail_later(st);
        return;
    }
    rc = poll_open(st);
    if (rc != RC_OK) {
        (void)err_set(&st->err, rc, "poll of a socket");
        fail_later(st);
        return;
    }
    poll_update(st);
}

static void on_resolved(uv_getaddrinfo_t *req, int status, struct addrinfo *res)
{
    struct net_stream *st = req->data;

    st->resolving = false;
    if (st->closing) {
        uv_freeaddrinfo(res);
        on_handle_closed((uv_handle_t *)&st->timer); /* the look-up's count */
        return;
    }
    st->handles_n--;
    if (status != 0) {
        enum rc rc = rc_from_uv(status);

        (void)err_set(&st->err, rc, "name look-up: %s", uv_strerror(status));
        fail(st, rc);
        return;
    }
    connect_start(st, res->ai_addr, res->ai_addrlen);
    uv_freeaddrinfo(res);
}

static enum rc resolve(struct net_stream *st)
{
    union {
        struct sockaddr sa;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    } a;
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
    char port[8];
    int status;

    if (uv_ip4_addr(st->host, st->port, &a.v4) == 0) {
        connect_start(st, &a.sa, sizeof(a.v4));
        return RC_OK;
    }
    if (uv_ip6_addr(st->host, st->port, &a.v6) == 0) {
        connect_start(st, &a.sa, sizeof(a.v6));
        return RC_OK;
    }
    st->phase = PH_RESOLVE;
    (void)snprintf(port, sizeof(port), "%u", st->port);
    st->resolve.data = st;
    status = uv_getaddrinfo(st->loop, &st->resolve, on_resolved, st->host, port, &hints);
    if (status != 0) return rc_from_uv(status);
    st->resolving = true;
    st->handles_n++;
    return RC_OK;
}

enum rc net_dial(const struct net_dial_conf *conf, net_ready_cb cb, void *data,
                 struct net_stream **ret_st, struct err *reterr)
{
    struct net_stream *st = stream_new(conf->loop, conf->tls, cb, data);
    uint32_t timeout_ms = conf->timeout_ms != 0 ? conf->timeout_ms : HANDSHAKE_MS;
    enum rc rc = RC_NOMEM;

    if (st == NULL) return err_set(reterr, RC_NOMEM, "connection to '%s'", conf->host);
    st->host = strdup(conf->host);
    st->port = conf->port;
    st->alpn_want = conf->alpn;
    st->policy.plain_server_ok = conf->plain_server_ok;
    if (conf->expect_uri != NULL) st->expect_uri = strdup(conf->expect_uri);
    if (st->host == NULL || (conf->expect_uri != NULL && st->expect_uri == NULL)) goto out;
    (void)uv_timer_start(&st->timer, on_timer, timeout_ms, 0);
    rc = resolve(st);
    if (rc != RC_OK) goto out;
    *ret_st = st;
    return RC_OK;
out:
    stream_destroy(st);
    return err_set(reterr, rc, "connection to '%s'", conf->host);
}

enum rc net_accept(uv_loop_t *loop, struct tls *tls, int fd, uint32_t timeout_ms, net_ready_cb cb,
                   void *data, struct net_stream **ret_st, struct err *reterr)
{
    struct net_stream *st = stream_new(loop, tls, cb, data);
    struct sockaddr_storage ss = {0};
    socklen_t n = sizeof(ss);
    int one = 1;
    enum rc rc;

    if (st == NULL) return err_set(reterr, RC_NOMEM, "accepted connection");
    st->server = true;
    st->fd = fd;
    rc = poll_open(st);
    if (rc != RC_OK) {
        st->fd = -1;
        stream_destroy(st);
        return err_set(reterr, rc, "accepted connection");
    }
    if (getpeername(fd, (struct sockaddr *)&ss, &n) == 0) addr_text(st, (struct sockaddr *)&ss);
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)); /* only slower without */
    st->phase = PH_CONNECT; /* the handshake begins with the first event: never inside this call */
    (void)uv_timer_start(&st->timer, on_timer, timeout_ms != 0 ? timeout_ms : HANDSHAKE_MS, 0);
    poll_update(st);
    *ret_st = st;
    return RC_OK;
}

/* ---- as a byte stream ---- */

static void poll_update(struct net_stream *st)
{
    int want = 0;

    if (st->closing || st->phase == PH_FAILED || !st->poll_open) return;
    switch (st->phase) {
    case PH_CONNECT:
        want = UV_WRITABLE;
        break;
    case PH_HANDSHAKE:
    case PH_CONFIRM:
        want = SSL_want_write(st->ssl) ? UV_WRITABLE : UV_READABLE;
        break;
    default:
        if (!st->paused) want |= UV_READABLE;
        if (st->out.n > st->out_at && !st->broken) want |= UV_WRITABLE;
        break;
    }
    if (want == st->events) return;
    st->events = want;
    if (want == 0)
        (void)uv_poll_stop(&st->poll);
    else
        (void)uv_poll_start(&st->poll, want, on_poll); /* EPOLL_CTL on an open fd */
}

static void on_poll(uv_poll_t *h, int status, int events)
{
    struct net_stream *st = h->data;
    int soerr = 0;
    socklen_t n = sizeof(soerr);

    if (status < 0) { /* the calls below find the reason */
        events = UV_READABLE | UV_WRITABLE;
        /* libuv has stopped polling; what is left to be read may take more than one turn. Paused,
         * nothing reads: then poll_update starts again when that ends. */
        if (!st->paused) st->events = 0;
    }
    switch (st->phase) {
    case PH_CONNECT:
        if (getsockopt(st->fd, SOL_SOCKET, SO_ERROR, &soerr, &n) != 0) soerr = errno;
        if (soerr != 0) {
            (void)err_set(&st->err, RC_UNAVAIL, "connect: %s", strerror(soerr));
            fail(st, RC_UNAVAIL);
            return;
        }
        handshake_start(st);
        return;
    case PH_HANDSHAKE:
    case PH_CONFIRM:
        handshake_step(st);
        return;
    case PH_READY:
        break;
    default:
        return;
    }
    if ((events & UV_WRITABLE) != 0) net_stream_flush(st); /* a failure shows at the read */
    if (st->want_drained && st->out.n == st->out_at) {
        st->want_drained = false;
        if (st->on_drained != NULL) st->on_drained(st->data);
    }
    if (!st->closing && (events & UV_READABLE) != 0 && st->on_readable != NULL && !st->paused) {
        st->on_readable(st->data);
    }
    poll_update(st);
}

void net_stream_start(struct net_stream *st, void (*on_readable)(void *data),
                      void (*on_drained)(void *data), void *data)
{
    CHECK(st->phase == PH_READY && st->alpn != NET_ALPN_BULK);
    st->on_readable = on_readable;
    st->on_drained = on_drained;
    st->data = data;
    poll_update(st);
}

enum rc net_stream_read(struct net_stream *st, uint8_t *p, size_t n, size_t *ret_n,
                        struct err *reterr)
{
    size_t got = 0;
    ssize_t r;
    int ok;

    if (st->ssl != NULL) {
        ERR_clear_error();
        errno = 0;
        ok = SSL_read_ex(st->ssl, p, n, &got);
        if (ok == 1) {
            *ret_n = got;
            return RC_OK;
        }
        return rc_from_ssl(st->ssl, ok, reterr);
    }
    do {
        r = recv(st->fd, p, n, 0);
    } while (r < 0 && errno == EINTR);
    if (r > 0) {
        *ret_n = (size_t)r;
        return RC_OK;
    }
    if (r == 0) return err_set(reterr, RC_RANGE, "the peer closed");
    if (errno == EAGAIN || errno == EWOULDBLOCK) return RC_BUSY;
    return err_set(reterr, RC_IO, "connection lost: %s", strerror(errno));
}

void net_stream_pause(struct net_stream *st, bool paused)
{
    st->paused = paused;
    poll_update(st);
}

size_t net_stream_queued(const struct net_stream *st)
{
    return st->out.n - st->out_at + st->stage_n;
}

size_t net_stream_room(const struct net_stream *st)
{
    size_t n = net_stream_queued(st);

    return n >= NET_STREAM_OUT_BYTES || st->broken ? 0 : NET_STREAM_OUT_BYTES - n;
}

/* Into the out buffer, as records or as they are. */
static enum rc write_out(struct net_stream *st, const uint8_t *p, size_t n)
{
    size_t done;

    if (st->ssl == NULL || st->ktls) {
        buf_put(&st->out, p, n);
        return buf_rc(&st->out);
    }
    while (n > 0) {
        int ok;

        ERR_clear_error();
        errno = 0;
        ok = SSL_write_ex(st->ssl, p, n, &done);
        if (ok != 1) {
            enum rc rc = rc_from_ssl(st->ssl, ok, NULL);

            return rc == RC_BUSY || buf_rc(&st->out) != RC_OK ? RC_NOMEM : rc;
        }
        p += done;
        n -= done;
    }
    return RC_OK;
}

static enum rc stage_flush(struct net_stream *st)
{
    size_t n = st->stage_n;

    st->stage_n = 0;
    return n > 0 ? write_out(st, st->stage, n) : RC_OK;
}

enum rc net_stream_write(struct net_stream *st, const void *p, size_t n)
{
    enum rc rc;

    if (st->broken) return RC_OK; /* nobody will read it; the next read tells */
    if (n < DIRECT_BYTES && st->stage_n + n <= STAGE_BYTES) {
        if (n > 0) memcpy(st->stage + st->stage_n, p, n);
        st->stage_n += n;
        return RC_OK;
    }
    rc = stage_flush(st);
    if (rc == RC_OK && n < DIRECT_BYTES) {
        memcpy(st->stage, p, n);
        st->stage_n = n;
        return RC_OK;
    }
    return rc == RC_OK ? write_out(st, p, n) : rc;
}

static ssize_t socket_send(struct net_stream *st, const uint8_t *p, size_t n)
{
    ssize_t r;

    if (!st->ktls) {
        do {
            r = send(st->fd, p, n, MSG_NOSIGNAL);
        } while (r < 0 && errno == EINTR);
        return r;
    }
    ERR_clear_error();
    r = SSL_write(st->ssl, p, n > INT32_MAX ? INT32_MAX : (int)n);
    if (r > 0) return r;
    errno = rc_from_ssl(st->ssl, (int)r, NULL) == RC_BUSY ? EAGAIN : EIO;
    return -1;
}

void net_stream_flush(struct net_stream *st)
{
    if (!st->broken && stage_flush(st) != RC_OK) {
        st->broken = true; /* out of memory between records: the stream can't go on */
        (void)shutdown(st->fd, SHUT_RDWR);
    }
    while (st->out_at < st->out.n && !st->broken) {
        ssize_t r = socket_send(st, st->out.p + st->out_at, st->out.n - st->out_at);

        if (r >= 0) {
            st->out_at += (size_t)r;
        } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
            break;
        } else {
            st->broken = true;
            (void)shutdown(st->fd, SHUT_WR); /* wakes the reader if nothing else does */
        }
    }
    if (st->out_at == st->out.n || st->broken) {
        buf_reset(&st->out);
        st->out_at = 0;
    } else {
        st->want_drained = true;
    }
    poll_update(st);
}

void net_stream_trim(struct net_stream *st)
{
    if (st->out.n == 0) {
        size_t max = st->out.max;

        buf_deinit(&st->out);
        buf_init(&st->out, max);
    }
}

void net_stream_close(struct net_stream *st)
{
    if (st == NULL || st->closing) return;
    if (st->phase == PH_READY && st->ssl != NULL && !st->broken) {
        ERR_clear_error();
        if (stage_flush(st) == RC_OK) (void)SSL_shutdown(st->ssl); /* best effort: one try */
        if (st->stage != NULL) net_stream_flush(st);
        ERR_clear_error();
    }
    stream_destroy(st);
}

void net_stream_release(struct net_stream *st, struct net_parts *ret_parts)
{
    CHECK(st->phase == PH_READY && st->ssl != NULL && st->alpn == NET_ALPN_BULK);
    *ret_parts = (struct net_parts){
        .fd = st->fd, .ssl = st->ssl, .peer = st->peer, .life_ms = net_stream_life_ms(st)};
    memcpy(ret_parts->addr, st->addr, sizeof(st->addr));
    st->fd = -1;
    st->ssl = NULL;
    stream_destroy(st);
}

int net_stream_fd(const struct net_stream *st)
{
    return st->fd;
}

SSL *net_stream_ssl(const struct net_stream *st)
{
    return st->ssl;
}

uv_loop_t *net_stream_loop(const struct net_stream *st)
{
    return st->loop;
}

enum net_alpn net_stream_alpn(const struct net_stream *st)
{
    return st->alpn;
}

const struct tls_identity *net_stream_peer(const struct net_stream *st)
{
    return st->ssl != NULL ? &st->peer : NULL;
}

const char *net_stream_peer_addr(const struct net_stream *st)
{
    return st->addr;
}

uint64_t net_stream_life_ms(const struct net_stream *st)
{
    int64_t now_s = (int64_t)time(NULL), end_s;

    if (st->ssl == NULL) return UINT64_MAX;
    end_s = MIN(st->peer.not_after_s, tls_self(st->tls)->not_after_s);
    return end_s > now_s ? (uint64_t)(end_s - now_s) * 1000u : 0;
}

const char *net_stream_life_why(const struct net_stream *st)
{
    return tls_self(st->tls)->not_after_s <= st->peer.not_after_s
               ? "this process's own certificate has expired: renew it with deploy/pki, start again"
               : "the peer's certificate has expired: it has to be renewed with deploy/pki";
}
