/* common/net/rpc_server.c - the listener: accepts, shakes hands, and gives each connection to what
 * its ALPN chose; see rpc.h. */
#include "common/net/rpc_server_priv.h"
#include "common/base/log.h"
#include "common/base/metrics.h"
#include "common/net/net_rc.h"
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define CONNECTIONS_MAX 1024u
#define BACKLOG         512
#define ACCEPT_PAUSE_MS 100u
#define HANDSHAKE_MS    10000u

static struct metric conns_total = METRIC_COUNTER_INIT(
    "mikura_net_connections_total", NULL, "connections that were accepted and shook hands");
static struct metric conns_refused =
    METRIC_COUNTER_INIT("mikura_net_connections_refused_total", NULL,
                        "connections over the limit or failed handshakes");

static const char h2_preface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

struct sniff { /* plaintext only */
    uint8_t p[24];
    size_t n;
};

/* ---- methods ---- */

static int method_compare(const void *a, const void *b)
{
    const struct rpc_method *const *x = a, *const *y = b;

    return strcmp((*x)->path, (*y)->path);
}

const struct rpc_method *rpc_server_find(const struct rpc_server *s, const char *path)
{
    struct rpc_method key = {.path = path}, *k = &key, **hit;

    if (path == NULL) return NULL;
    hit = bsearch(&k, s->methods, s->methods_n, sizeof(k), method_compare);
    return hit != NULL ? *hit : NULL;
}

enum rc rpc_server_add(struct rpc_server *s, const struct rpc_method *methods)
{
    for (const struct rpc_method *m = methods; m->path != NULL; m++) {
        CHECK(m->on_message != NULL);
        if (rpc_server_find(s, m->path) != NULL) return RC_EXISTS;
        if (s->methods_n == RPC_METHODS_MAX) return RC_BUSY;
        s->methods[s->methods_n++] = (struct rpc_method *)(uintptr_t)m;
        qsort(s->methods, s->methods_n, sizeof(s->methods[0]), method_compare);
    }
    return RC_OK;
}

/* ---- connections ---- */

static void close_step(struct rpc_server *s);

void server_conn_gone(struct server_conn *sc)
{
    struct rpc_server *s = sc->server;

    list_remove(&sc->link);
    s->conns_n--;
    free(sc->sniff);
    free(sc);
    close_step(s);
}

static void on_h2_down(struct rpc_conn *c, enum rc rc, const struct err *e)
{
    struct server_conn *sc = rpc_conn_owner(c);

    log_debug("net_conn_end", "peer=%s rc=%s reason=\"%s\"",
              rpc_conn_net(c) != NULL ? net_stream_peer_addr(rpc_conn_net(c)) : "-", rc_name(rc),
              e->msg);
    server_conn_gone(sc);
}

static struct rpc_conn_ops server_ops(void)
{
    struct rpc_conn_ops ops = rpc_call_ops;

    ops.on_down = on_h2_down;
    return ops;
}

static enum rc h2_start(struct server_conn *sc, struct net_stream *net, struct slice first)
{
    static struct rpc_conn_ops ops;
    struct rpc_server *s = sc->server;
    struct rpc_conn_conf conf = {.loop = s->conf.loop,
                                 .server = true,
                                 .net = net,
                                 .ops = &ops,
                                 .owner = sc,
                                 .idle_ping_ms = s->conf.idle_ping_ms};
    enum rc rc;

    ops = server_ops();
    rc = rpc_conn_new(&conf, &sc->h2, NULL);
    if (rc == RC_OK && first.n > 0) rpc_conn_feed(sc->h2, first.p, first.n);
    return rc;
}

static void sniff_end(struct server_conn *sc, struct net_stream *net)
{
    net_stream_close(net);
    server_conn_gone(sc);
}

static void on_sniff(void *data)
{
    struct server_conn *sc = data;
    struct sniff *sn = sc->sniff;
    struct net_stream *net = sc->net;
    size_t got = 0, n;
    enum rc rc;

    rc = net_stream_read(net, sn->p + sn->n, sizeof(sn->p) - sn->n, &got, NULL);
    if (rc == RC_BUSY) return;
    if (rc != RC_OK) {
        sniff_end(sc, net);
        return;
    }
    sn->n += got;
    n = MIN(sn->n, sizeof(h2_preface) - 1);
    if (memcmp(sn->p, h2_preface, n) == 0) {
        if (sn->n < 4) return; /* "PRI " is no method of HTTP/1.1 */
        sc->net = NULL;
        rc = h2_start(sc, net, (struct slice){sn->p, sn->n});
    } else {
        sc->net = NULL;
        rc = http_conn_new(sc, net, (struct slice){sn->p, sn->n});
    }
    if (rc != RC_OK) sniff_end(sc, net);
}

static void on_ready(void *data, struct net_stream *net, enum rc rc, const struct err *e)
{
    struct server_conn *sc = data;
    struct rpc_server *s = sc->server;
    enum net_alpn alpn;

    sc->net = NULL;
    if (rc != RC_OK) {
        metric_add(&conns_refused, 1);
        log_info("net_handshake_failed", "rc=%s reason=\"%s\"", rc_name(rc), e->msg);
        server_conn_gone(sc);
        return;
    }
    metric_add(&conns_total, 1);
    alpn = net_stream_alpn(net);
    if (s->conf.tls == NULL) {
        sc->sniff = calloc(1, sizeof(*sc->sniff));
        if (sc->sniff == NULL) {
            sniff_end(sc, net);
            return;
        }
        sc->net = net;
        net_stream_start(net, on_sniff, NULL, sc);
        return;
    }
    if (alpn == NET_ALPN_BULK && s->conf.on_bulk != NULL && !s->closing) {
        s->conf.on_bulk(s->conf.bulk_data, net);
        server_conn_gone(sc);
        return;
    }
    if (alpn == NET_ALPN_H2)
        rc = h2_start(sc, net, (struct slice){0});
    else if (alpn == NET_ALPN_BULK)
        rc = RC_UNIMPL;
    else
        rc = http_conn_new(sc, net, (struct slice){0});
    if (rc != RC_OK) sniff_end(sc, net);
}

static void accept_pause_end(uv_timer_t *t);
static void on_acceptable(uv_poll_t *h, int status, int events);

static void accept_one(struct rpc_server *s, int fd)
{
    unsigned max = s->conf.connections_max != 0 ? s->conf.connections_max : CONNECTIONS_MAX;
    struct server_conn *sc = s->conns_n < max ? calloc(1, sizeof(*sc)) : NULL;

    if (sc == NULL) {
        metric_add(&conns_refused, 1);
        (void)close(fd); /* nothing was written */
        return;
    }
    sc->server = s;
    if (net_accept(s->conf.loop, s->conf.tls, fd, HANDSHAKE_MS, on_ready, sc, &sc->net, NULL) !=
        RC_OK) {
        (void)close(fd); /* nothing was written */
        free(sc);
        return;
    }
    list_push_back(&s->conns, &sc->link);
    s->conns_n++;
}

static void on_acceptable(uv_poll_t *h, int status, int events)
{
    struct rpc_server *s = h->data;

    (void)status;
    (void)events;
    for (int i = 0; i < 64; i++) {
        int fd = accept4(s->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

        if (fd >= 0) {
            accept_one(s, fd);
            continue;
        }
        if (errno == EINTR || errno == ECONNABORTED) continue;
        if (errno != EAGAIN && errno != EWOULDBLOCK) {
            log_warn("net_accept_failed", "errno=%d pause_ms=%u", errno, ACCEPT_PAUSE_MS);
            (void)uv_poll_stop(h);
            (void)uv_timer_start(&s->timer, accept_pause_end, ACCEPT_PAUSE_MS, 0);
        }
        return;
    }
}

static void accept_pause_end(uv_timer_t *t)
{
    struct rpc_server *s = t->data;

    if (!s->closing) (void)uv_poll_start(&s->poll, UV_READABLE, on_acceptable); /* open fd */
}

/* ---- open ---- */

/* The inode of the socket that listens on a port, by /proc/net/tcp and tcp6; 0: not told. */
static uint64_t listener_inode(uint16_t port)
{
    static const char *const files[] = {"/proc/net/tcp", "/proc/net/tcp6"};
    uint64_t found = 0;

    for (size_t i = 0; i < ARRAY_N(files) && found == 0; i++) {
        FILE *f = fopen(files[i], "re");
        char line[512];

        if (f == NULL) continue;
        while (found == 0 && fgets(line, sizeof(line), f) != NULL) {
            unsigned p, state;
            uint64_t inode;

            if (sscanf(line,
                       " %*d: %*[0-9A-Fa-f]:%x %*[0-9A-Fa-f]:%*x %x %*x:%*x %*x:%*x %*x %*d %*d "
                       "%" SCNu64,
                       &p, &state, &inode) == 3 &&
                p == port && state == 10) {
                found = inode;
            }
        }
        (void)fclose(f); /* read only */
    }
    return found;
}

static bool process_has(const char *pid, uint64_t inode)
{
    char path[600], want[40], link[64];
    struct dirent *de;
    bool hit = false;
    DIR *d;

    (void)snprintf(path, sizeof(path), "/proc/%s/fd", pid);
    (void)snprintf(want, sizeof(want), "socket:[%" PRIu64 "]", inode);
    d = opendir(path);
    while (d != NULL && !hit && (de = readdir(d)) != NULL) {
        ssize_t n;

        (void)snprintf(path, sizeof(path), "/proc/%s/fd/%s", pid, de->d_name);
        n = readlink(path, link, sizeof(link) - 1);
        if (n <= 0) continue;
        link[n] = 0;
        hit = strcmp(link, want) == 0;
    }
    if (d != NULL) (void)closedir(d); /* read only */
    return hit;
}

static void port_owner(uint16_t port, char *text, size_t text_n)
{
    uint64_t inode = listener_inode(port);
    DIR *d = inode != 0 ? opendir("/proc") : NULL;
    struct dirent *de;

    (void)snprintf(text, text_n, "another program");
    while (d != NULL && (de = readdir(d)) != NULL) {
        char path[300], comm[64] = "?";
        FILE *f;

        if (de->d_name[0] < '1' || de->d_name[0] > '9' || !process_has(de->d_name, inode)) continue;
        (void)snprintf(path, sizeof(path), "/proc/%s/comm", de->d_name);
        f = fopen(path, "re");
        if (f != NULL && fgets(comm, sizeof(comm), f) != NULL) comm[strcspn(comm, "\n")] = 0;
        if (f != NULL) (void)fclose(f); /* read only */
        (void)snprintf(text, text_n, "'%s' (pid %.20s)", comm, de->d_name);
        break;
    }
    if (d != NULL) (void)closedir(d); /* read only */
}

static enum rc listen_open(struct rpc_server *s, struct err *reterr)
{
    struct addrinfo hints = {
        .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE};
    struct addrinfo *ai = NULL;
    struct sockaddr_storage ss;
    socklen_t n = sizeof(ss);
    char port[8], owner[128];
    int e, one = 1;

    (void)snprintf(port, sizeof(port), "%u", s->conf.port);
    e = getaddrinfo(s->host, port, &hints, &ai);
    if (e != 0) {
        return err_set(reterr, RC_INVAL, "listen address '%s': %s", s->host, gai_strerror(e));
    }
    s->fd = socket(ai->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (s->fd >= 0) (void)setsockopt(s->fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (s->fd < 0 || bind(s->fd, ai->ai_addr, ai->ai_addrlen) != 0 || listen(s->fd, BACKLOG) != 0) {
        e = errno;
        freeaddrinfo(ai);
        if (e == EADDRINUSE) {
            port_owner(s->conf.port, owner, sizeof(owner));
            return err_set(reterr, RC_EXISTS, "port %u on %s is taken by %s", s->conf.port, s->host,
                           owner);
        }
        return err_set(reterr, e == EACCES || e == EADDRNOTAVAIL ? RC_INVAL : RC_IO,
                       "listen on %s port %u: %s", s->host, s->conf.port, strerror(e));
    }
    freeaddrinfo(ai);
    if (getsockname(s->fd, (struct sockaddr *)&ss, &n) != 0) {
        return err_set(reterr, RC_IO, "listen on %s: %s", s->host, strerror(errno));
    }
    s->port = ntohs(ss.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)(void *)&ss)->sin6_port
                                             : ((struct sockaddr_in *)(void *)&ss)->sin_port);
    return RC_OK;
}

static void server_free(struct rpc_server *s)
{
    if (s->fd >= 0) (void)close(s->fd); /* nothing is written to it */
    tls_unref(s->conf.tls);
    reflect_free(s->reflect);
    free(s->host);
    free(s);
}

enum rc rpc_server_open(const struct rpc_server_conf *conf, struct rpc_server **ret_server,
                        struct err *reterr)
{
    struct rpc_server *s = calloc(1, sizeof(*s));
    enum rc rc;

    if (s == NULL) return err_set(reterr, RC_NOMEM, "server");
    s->conf = *conf;
    s->fd = -1;
    if (conf->tls != NULL) s->conf.tls = tls_ref(conf->tls);
    list_init(&s->conns);
    list_init(&s->watches);
    s->host = strdup(conf->host);
    rc = s->host != NULL ? listen_open(s, reterr) : err_set(reterr, RC_NOMEM, "server");
    if (rc == RC_OK) {
        rc = health_add(s);
        if (rc == RC_OK) rc = reflect_add(s);
        if (rc != RC_OK) (void)err_set(reterr, rc, "health and reflection services");
    }
    if (rc == RC_OK && uv_poll_init(conf->loop, &s->poll, s->fd) != 0) {
        rc = err_set(reterr, RC_IO, "poll of the listener");
    }
    if (rc != RC_OK) {
        server_free(s);
        return rc;
    }
    (void)uv_timer_init(conf->loop, &s->timer); /* neither can fail */
    (void)uv_idle_init(conf->loop, &s->idle);
    s->poll.data = s->timer.data = s->idle.data = s;
    s->handles_n = 3;
    (void)uv_poll_start(&s->poll, UV_READABLE, on_acceptable); /* open fd */
    *ret_server = s;
    return RC_OK;
}

uint16_t rpc_server_port(const struct rpc_server *s)
{
    return s->port;
}

/* ---- close ---- */

static void on_handle_closed(uv_handle_t *h)
{
    struct rpc_server *s = h->data;
    void (*cb)(void *data) = s->close_cb;
    void *data = s->close_data;

    if (--s->handles_n > 0) return;
    server_free(s);
    if (cb != NULL) cb(data);
}

static void on_close_idle(uv_idle_t *h)
{
    struct rpc_server *s = h->data;

    (void)uv_idle_stop(h);
    if (s->closed || s->conns_n > 0) return;
    s->closed = true;
    uv_close((uv_handle_t *)&s->timer, on_handle_closed);
    uv_close((uv_handle_t *)&s->idle, on_handle_closed);
    uv_close((uv_handle_t *)&s->poll, on_handle_closed);
}

static void close_step(struct rpc_server *s)
{
    if (s->closing && !s->closed && s->conns_n == 0) (void)uv_idle_start(&s->idle, on_close_idle);
}

static void on_grace_over(uv_timer_t *t)
{
    struct rpc_server *s = t->data;

    LIST_FOREACH_SAFE(it, &s->conns)
    {
        struct server_conn *sc = CONTAINER_OF(it, struct server_conn, link);

        if (sc->h2 != NULL)
            rpc_conn_fail(sc->h2, RC_UNAVAIL, "the server is closing");
        else if (sc->h1 != NULL)
            http_conn_kill(sc->h1);
    }
}

void rpc_server_close(struct rpc_server *s, uint32_t grace_ms, void (*cb)(void *data), void *data)
{
    CHECK(!s->closing);
    s->closing = true;
    s->close_cb = cb;
    s->close_data = data;
    (void)uv_poll_stop(&s->poll);
    for (size_t i = 0; i < s->services_n; i++)
        s->services[i].serving = false;
    health_changed(s);
    LIST_FOREACH_SAFE(it, &s->conns)
    {
        struct server_conn *sc = CONTAINER_OF(it, struct server_conn, link);

        if (sc->h2 != NULL) {
            rpc_conn_drain(sc->h2);
        } else if (sc->h1 != NULL) {
            http_conn_drain(sc->h1);
        } else { /* shakes hands or has not said a word */
            net_stream_close(sc->net);
            server_conn_gone(sc);
        }
    }
    (void)uv_timer_start(&s->timer, on_grace_over, grace_ms, 0);
    close_step(s);
}
