/* common/net/http.c - routes and requests of plain HTTP, and HTTP/1.1 connections; see http.h.
 *
 * A connection serves one request at a time: while it runs, the parser and the socket are paused,
 * so pipelined bytes wait in the socket. A request outlives its connection when that is lost:
 * http_reply then only frees it. The connection ends from its idle handle, never under its own
 * callbacks. */
#include "common/net/http.h"
#include "common/net/rpc_server_priv.h"
#include <llhttp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define REPLY_BYTES_MAX (64u << 20)
#define IDLE_MS         60000u

struct http_request {
    struct rpc_server *server;
    const struct http_route *route;
    struct buf headers; /* "name\0value\0"..., lower case */
    struct buf body;
    char *path;        /* its query cut off */
    const char *query; /* in path's memory */
    char method[16];
    struct tls_identity peer;
    bool has_peer, running;
    const struct http_transport *transport;
    void *conn; /* NULL: lost */
};

/* ---- routes ---- */

static bool route_matches(const struct http_route *r, const char *method, const char *path)
{
    size_t n = strlen(r->path);
    bool hit = n > 0 && r->path[n - 1] == '/' ? strncmp(path, r->path, n) == 0
                                              : strcmp(path, r->path) == 0;

    if (!hit) return false;
    return method == NULL || strcmp(r->method, method) == 0 ||
           (strcmp(method, "HEAD") == 0 && strcmp(r->method, "GET") == 0);
}

enum rc http_route_add(struct rpc_server *s, const struct http_route *routes)
{
    for (const struct http_route *r = routes; r->path != NULL; r++) {
        for (size_t i = 0; i < s->routes_n; i++) {
            if (strcmp(s->routes[i]->path, r->path) == 0 &&
                strcmp(s->routes[i]->method, r->method) == 0) {
                return RC_EXISTS;
            }
        }
        if (s->routes_n == HTTP_ROUTES_MAX) return RC_BUSY;
        s->routes[s->routes_n++] = r;
    }
    return RC_OK;
}

static const struct http_route *route_find(const struct rpc_server *s, const char *method,
                                           const char *path)
{
    const struct http_route *best = NULL;

    for (size_t i = 0; i < s->routes_n; i++) { /* the longest path wins */
        if (!route_matches(s->routes[i], method, path)) continue;
        if (best == NULL || strlen(s->routes[i]->path) > strlen(best->path)) best = s->routes[i];
    }
    return best;
}

/* ---- requests ---- */

static void request_free(struct http_request *r)
{
    buf_deinit(&r->headers);
    buf_deinit(&r->body);
    free(r->path);
    free(r);
}

enum rc http_request_new(struct rpc_server *s, const struct tls_identity *peer, const char *method,
                         const char *target, const struct buf *headers,
                         const struct http_transport *t, void *conn, struct http_request **ret_r)
{
    struct http_request *r = calloc(1, sizeof(*r));
    char *cut;

    if (r == NULL) return RC_NOMEM;
    r->server = s;
    r->transport = t;
    r->conn = conn;
    buf_init(&r->headers, 4 * RPC_HEADERS_BYTES_MAX);
    buf_put(&r->headers, headers->p, headers->n);
    buf_init(&r->body, HTTP_BODY_BYTES_MAX);
    r->path = strdup(target);
    if (r->path == NULL || buf_rc(&r->headers) != RC_OK) {
        request_free(r);
        return RC_NOMEM;
    }
    (void)snprintf(r->method, sizeof(r->method), "%s", method);
    cut = strchr(r->path, '?');
    if (cut != NULL) *cut++ = 0;
    r->query = cut != NULL ? cut : "";
    if (peer != NULL) {
        r->peer = *peer;
        r->has_peer = true;
    }
    *ret_r = r;
    return RC_OK;
}

int http_request_begin(struct http_request *r, struct err *reterr)
{
    struct rpc_server *s = r->server;
    const struct http_route *route = route_find(s, r->method, r->path);
    enum rc rc;

    if (route == NULL) {
        bool other = route_find(s, NULL, r->path) != NULL;

        (void)err_set(reterr, RC_NOTFOUND,
                      other ? "method not served here\n" : "nothing is here\n");
        return other ? 405 : 404;
    }
    r->route = route;
    r->body.max = MIN(route->body_bytes_max, HTTP_BODY_BYTES_MAX);
    if (route->anonymous || s->conf.gate == NULL) return 0;
    rc = s->conf.gate(s->conf.gate_data, NULL, r->has_peer ? &r->peer : NULL, reterr);
    return rc == RC_OK ? 0 : rc == RC_UNAUTH ? 401 : 403;
}

int http_request_body(struct http_request *r, const uint8_t *p, size_t n)
{
    if (r->running) return 0;
    buf_put(&r->body, p, n);
    return buf_rc(&r->body) == RC_OK ? 0 : buf_rc(&r->body) == RC_NOMEM ? 503 : 413;
}

void http_request_run(struct http_request *r)
{
    if (r->running) return;
    r->running = true;
    r->route->on_request(r, (struct slice){r->body.p, r->body.n});
}

void http_request_lost(struct http_request *r)
{
    r->conn = NULL;
    if (!r->running) request_free(r); /* no handler knows it */
}

const char *http_request_path(const struct http_request *r)
{
    return r->path;
}

const char *http_request_query(const struct http_request *r)
{
    return r->query;
}

const char *http_request_header(const struct http_request *r, const char *name)
{
    for (size_t at = 0; at < r->headers.n;) {
        const char *k = (const char *)r->headers.p + at, *v = k + strlen(k) + 1;

        if (strcasecmp(k, name) == 0) return v;
        at += strlen(k) + strlen(v) + 2;
    }
    return NULL;
}

const struct tls_identity *http_request_peer(const struct http_request *r)
{
    return r->has_peer ? &r->peer : NULL;
}

void *http_request_service(const struct http_request *r)
{
    return r->route->service;
}

void http_reply(struct http_request *r, int status, const char *content_type, struct slice body)
{
    bool head = strcmp(r->method, "HEAD") == 0;

    if (r->conn != NULL) r->transport->reply(r->conn, status, content_type, body, head);
    request_free(r);
}

/* ---- HTTP/1.1 ---- */

struct http_conn {
    struct server_conn *sc;
    struct net_stream *net;
    llhttp_t parser;
    llhttp_settings_t settings;
    uv_idle_t idle;
    uv_timer_t timer, life; /* idle; until the earlier certificate's end */
    int handles_n;
    struct buf url, headers; /* headers: "name\0value\0"... */
    bool value_open;
    struct http_request *req; /* arriving or running */
    bool refused, running, keep, draining, ending, dead, head_done;
    struct buf out; /* what did not fit into the stream */
    uint8_t in[16u << 10];
    size_t in_n;
};

static void conn_step_later(struct http_conn *c);

static void conn_end(struct http_conn *c)
{
    c->ending = true;
    conn_step_later(c);
}

static void out_pump(struct http_conn *c)
{
    size_t at = 0;

    while (at < c->out.n && net_stream_room(c->net) > 0) {
        size_t n = MIN(c->out.n - at, net_stream_room(c->net));

        if (net_stream_write(c->net, c->out.p + at, n) != RC_OK) {
            conn_end(c);
            return;
        }
        at += n;
        if (net_stream_room(c->net) == 0) net_stream_flush(c->net);
    }
    if (at > 0) buf_consume(&c->out, at);
    net_stream_flush(c->net);
    if (c->out.n == 0 && !c->running && !c->keep) conn_end(c);
}

static const char *status_text(int status)
{
    switch (status) {
    case 200:
        return "OK";
    case 204:
        return "No Content";
    case 206:
        return "Partial Content";
    case 304:
        return "Not Modified";
    case 400:
        return "Bad Request";
    case 401:
        return "Unauthorized";
    case 403:
        return "Forbidden";
    case 404:
        return "Not Found";
    case 405:
        return "Method Not Allowed";
    case 413:
        return "Content Too Large";
    case 431:
        return "Request Header Fields Too Large";
    case 500:
        return "Internal Server Error";
    case 503:
        return "Service Unavailable";
    default:
        return "Status";
    }
}

static void h1_reply(void *conn, int status, const char *content_type, struct slice body, bool head)
{
    struct http_conn *c = conn;

    c->req = NULL;
    c->running = false;
    if (c->dead || c->ending) return;
    if (c->draining) c->keep = false;
    buf_printf(&c->out, "HTTP/1.1 %d %s\r\ncontent-type: %s\r\ncontent-length: %zu\r\n%s\r\n",
               status, status_text(status), content_type != NULL ? content_type : "text/plain",
               body.n, c->keep ? "" : "connection: close\r\n");
    if (!head) buf_put(&c->out, body.p, body.n);
    if (buf_rc(&c->out) != RC_OK) {
        conn_end(c);
        return;
    }
    out_pump(c);
    conn_step_later(c); /* the next request, if its bytes are there */
}

static const struct http_transport h1_transport = {h1_reply};

static struct http_conn *conn_of(llhttp_t *p)
{
    return p->data;
}

static int on_url(llhttp_t *p, const char *at, size_t n)
{
    buf_put(&conn_of(p)->url, at, n);
    return buf_rc(&conn_of(p)->url) == RC_OK ? 0 : -1;
}

static int on_field(llhttp_t *p, const char *at, size_t n)
{
    struct http_conn *c = conn_of(p);

    if (c->head_done) return 0; /* trailers of a chunked body mean nothing here */
    if (c->value_open) buf_put_u8(&c->headers, 0);
    c->value_open = false;
    for (size_t i = 0; i < n; i++) {
        if (at[i] <= ' ') return -1; /* llhttp lets "Host : a" through */
        buf_put_u8(&c->headers, (uint8_t)(at[i] >= 'A' && at[i] <= 'Z' ? at[i] + 32 : at[i]));
    }
    return buf_rc(&c->headers) == RC_OK ? 0 : -1;
}

static int on_value(llhttp_t *p, const char *at, size_t n)
{
    struct http_conn *c = conn_of(p);

    if (c->head_done) return 0;
    if (!c->value_open) buf_put_u8(&c->headers, 0);
    c->value_open = true;
    if (memchr(at, 0, n) != NULL) return -1;
    buf_put(&c->headers, at, n);
    return buf_rc(&c->headers) == RC_OK ? 0 : -1;
}

static int on_value_complete(llhttp_t *p)
{
    struct http_conn *c = conn_of(p);

    if (c->head_done) return 0;
    if (!c->value_open) buf_put_u8(&c->headers, 0); /* an empty value */
    c->value_open = true;
    return 0;
}

static void refuse(struct http_conn *c, int status, const char *text)
{
    c->refused = true;
    c->keep = false; /* what follows is not read */
    c->running = true;
    http_reply(c->req, status, "text/plain", (struct slice){(const uint8_t *)text, strlen(text)});
}

static int on_head_complete(llhttp_t *p)
{
    struct http_conn *c = conn_of(p);
    struct err e = {0};
    const char *expect;
    int status;

    c->head_done = true;
    if (c->value_open) buf_put_u8(&c->headers, 0);
    c->keep = llhttp_should_keep_alive(p) != 0;
    if (http_request_new(c->sc->server, net_stream_peer(c->net),
                         llhttp_method_name((llhttp_method_t)p->method), buf_cstr(&c->url),
                         &c->headers, &h1_transport, c, &c->req) != RC_OK) {
        return -1;
    }
    status = http_request_begin(c->req, &e);
    if (status == 0 && (p->flags & F_CONTENT_LENGTH) != 0 &&
        p->content_length > c->req->route->body_bytes_max) {
        status = 413;
        (void)err_set(&e, RC_BUSY, "the body is over this address's limit\n");
    }
    if (status != 0) {
        refuse(c, status, e.msg);
        return 0;
    }
    expect = http_request_header(c->req, "expect");
    if (expect != NULL && strcasecmp(expect, "100-continue") == 0) {
        buf_put_str(&c->out, "HTTP/1.1 100 Continue\r\n\r\n");
        c->running = true; /* out_pump must not end a connection that is not kept */
        out_pump(c);
        c->running = false;
    }
    return 0;
}

static int on_body(llhttp_t *p, const char *at, size_t n)
{
    struct http_conn *c = conn_of(p);
    int status = c->req != NULL ? http_request_body(c->req, (const uint8_t *)at, n) : 0;

    if (status != 0) refuse(c, status, "the body is over this address's limit\n");
    return 0;
}

static int on_complete(llhttp_t *p)
{
    struct http_conn *c = conn_of(p);

    buf_reset(&c->url);
    buf_reset(&c->headers);
    c->value_open = c->head_done = false;
    if (c->refused) return HPE_PAUSED; /* answered; the connection ends */
    c->running = true;
    return HPE_PAUSED; /* conn_parse runs the handler: not under llhttp */
}

/* The bytes at hand, until a request is whole. */
static void conn_parse(struct http_conn *c)
{
    while (c->in_n > 0 && !c->running && !c->ending && !c->refused) {
        llhttp_errno_t e = llhttp_execute(&c->parser, (const char *)c->in, c->in_n);
        size_t used = c->in_n;

        if (e == HPE_PAUSED || e == HPE_PAUSED_UPGRADE) {
            used = (size_t)(llhttp_get_error_pos(&c->parser) - (const char *)c->in);
            if (e == HPE_PAUSED)
                llhttp_resume(&c->parser);
            else
                llhttp_resume_after_upgrade(&c->parser); /* "Upgrade: h2c" is ignored */
        } else if (e != HPE_OK) {
            static const char bad[] = "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n"
                                      "connection: close\r\n\r\n";

            if (!c->refused) buf_put_str(&c->out, bad);
            c->keep = false;
            c->refused = true;
            out_pump(c);
            return;
        }
        memmove(c->in, c->in + used, c->in_n - used);
        c->in_n -= used;
        if (c->running && c->req != NULL) http_request_run(c->req);
    }
}

static void on_readable(void *data)
{
    struct http_conn *c = data;
    size_t got;
    enum rc rc;

    while (!c->ending && !c->running && !c->refused) {
        conn_parse(c);
        if (c->running || c->refused || c->ending) break;
        rc = net_stream_read(c->net, c->in + c->in_n, sizeof(c->in) - c->in_n, &got, NULL);
        if (rc == RC_BUSY) break;
        if (rc != RC_OK) {
            conn_end(c);
            return;
        }
        c->in_n += got;
        (void)uv_timer_again(&c->timer); /* runs since http_conn_new */
    }
    net_stream_pause(c->net, c->running || c->refused);
}

static void on_drained(void *data)
{
    out_pump(data);
}

static void on_closed(uv_handle_t *h)
{
    struct http_conn *c = h->data;

    if (--c->handles_n > 0) return;
    buf_deinit(&c->url);
    buf_deinit(&c->headers);
    buf_deinit(&c->out);
    free(c);
}

static void on_step(uv_idle_t *h)
{
    struct http_conn *c = h->data;

    (void)uv_idle_stop(h);
    if (c->dead) return;
    if (!c->ending && c->draining && !c->running && c->out.n == 0 && !c->head_done)
        c->ending = true;
    if (!c->ending) {
        net_stream_pause(c->net, false);
        on_readable(c);
        return;
    }
    c->dead = true;
    if (c->req != NULL) http_request_lost(c->req);
    server_conn_gone(c->sc);
    net_stream_close(c->net);
    uv_close((uv_handle_t *)&c->idle, on_closed);
    uv_close((uv_handle_t *)&c->timer, on_closed);
    uv_close((uv_handle_t *)&c->life, on_closed);
}

static void conn_step_later(struct http_conn *c)
{
    if (!c->dead) (void)uv_idle_start(&c->idle, on_step);
}

static void on_idle_timeout(uv_timer_t *t)
{
    struct http_conn *c = t->data;

    if (!c->running) conn_end(c);
}

/* However busy: as a gRPC connection's end, with what still runs. */
static void on_life_end(uv_timer_t *t)
{
    conn_end(t->data);
}

enum rc http_conn_new(struct server_conn *sc, struct net_stream *net, struct slice first)
{
    struct http_conn *c = calloc(1, sizeof(*c));
    uint64_t life_ms = net_stream_life_ms(net);

    if (c == NULL) return RC_NOMEM;
    c->sc = sc;
    c->net = net;
    llhttp_settings_init(&c->settings);
    c->settings.on_url = on_url;
    c->settings.on_header_field = on_field;
    c->settings.on_header_value = on_value;
    c->settings.on_header_value_complete = on_value_complete;
    c->settings.on_headers_complete = on_head_complete;
    c->settings.on_body = on_body;
    c->settings.on_message_complete = on_complete;
    llhttp_init(&c->parser, HTTP_REQUEST, &c->settings);
    c->parser.data = c;
    buf_init(&c->url, 8192);
    buf_init(&c->headers, RPC_HEADERS_BYTES_MAX);
    buf_init(&c->out, REPLY_BYTES_MAX);
    (void)uv_idle_init(sc->server->conf.loop, &c->idle); /* neither can fail */
    (void)uv_timer_init(sc->server->conf.loop, &c->timer);
    (void)uv_timer_init(sc->server->conf.loop, &c->life);
    c->idle.data = c->timer.data = c->life.data = c;
    c->handles_n = 3;
    (void)uv_timer_start(&c->timer, on_idle_timeout, IDLE_MS, IDLE_MS);
    if (life_ms != UINT64_MAX) (void)uv_timer_start(&c->life, on_life_end, life_ms, 0);
    if (first.n > 0) memcpy(c->in, first.p, first.n); /* at most a sniffed preface */
    c->in_n = first.n;
    sc->h1 = c;
    net_stream_start(net, on_readable, on_drained, c);
    conn_step_later(c); /* the handshake may have brought bytes along */
    return RC_OK;
}

void http_conn_drain(struct http_conn *c)
{
    c->draining = true;
    conn_step_later(c);
}

void http_conn_kill(struct http_conn *c)
{
    conn_end(c);
}
