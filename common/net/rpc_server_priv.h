/* common/net/rpc_server_priv.h - the listener's inside, shared by gRPC calls (rpc_server.c,
 * rpc_call.c), plain HTTP (http.c), health and reflection. */
#pragma once
#include "common/net/http.h"
#include "common/net/rpc_conn.h"

#define RPC_METHODS_MAX     512u
#define HTTP_ROUTES_MAX     128u
#define SERVICES_MAX        64u
#define HTTP_BODY_BYTES_MAX (16u << 20)

struct http_conn; /* one HTTP/1.1 connection: http.c */
struct health_watch;

struct server_conn {
    struct list link;
    struct rpc_server *server;
    struct net_stream *net; /* while it shakes hands */
    struct rpc_conn *h2;
    struct http_conn *h1;
    struct sniff *sniff; /* plaintext: the first bytes decide */
};

struct rpc_server {
    struct rpc_server_conf conf;
    char *host;
    int fd;
    uint16_t port;
    uv_poll_t poll;
    uv_timer_t timer; /* accepting again after EMFILE; the grace of a close */
    uv_idle_t idle;   /* ends a close */
    int handles_n;
    bool closing, closed;
    void (*close_cb)(void *data);
    void *close_data;
    struct list conns;
    unsigned conns_n;
    struct rpc_method *methods[RPC_METHODS_MAX]; /* sorted by path; borrowed */
    size_t methods_n;
    const struct http_route *routes[HTTP_ROUTES_MAX];
    size_t routes_n;
    struct {
        char name[128];
        bool serving;
    } services[SERVICES_MAX];
    size_t services_n;
    struct list watches;                        /* health.c */
    struct rpc_method health[3], reflection[3]; /* their services, ended by zero paths */
    struct reflect *reflect;
};

extern const struct rpc_conn_ops rpc_call_ops; /* rpc_call.c */

const struct rpc_method *rpc_server_find(const struct rpc_server *s, const char *path);
void server_conn_gone(struct server_conn *sc); /* its protocol ended: frees it */

/* http.c: a request that arrived whole or begins to, from either version of HTTP. */
struct http_request;
struct http_transport {
    void (*reply)(void *conn, int status, const char *content_type, struct slice body, bool head);
};
/* Headers are "name\0value\0"..., lower case. RC_OK: a request whose body may come (body_max
 * bytes). */
MUST_CHECK enum rc http_request_new(struct rpc_server *s, const struct tls_identity *peer,
                                    const char *method, const char *target,
                                    const struct buf *headers, const struct http_transport *t,
                                    void *conn, struct http_request **ret_r);
/* 0, or the status to refuse with (413, 404, 403, ...). */
int http_request_begin(struct http_request *r, struct err *reterr);
int http_request_body(struct http_request *r, const uint8_t *p, size_t n);
void http_request_run(struct http_request *r); /* the body is whole: the handler */
void http_request_lost(
    struct http_request *r); /* the connection is gone; r lives until http_reply */

MUST_CHECK enum rc http_conn_new(struct server_conn *sc, struct net_stream *net,
                                 struct slice first);
void http_conn_drain(struct http_conn *c); /* no request after the running one */
void http_conn_kill(struct http_conn *c);  /* later: gone */

MUST_CHECK enum rc health_add(struct rpc_server *s);
void health_changed(struct rpc_server *s);
MUST_CHECK enum rc reflect_add(struct rpc_server *s);
void reflect_free(struct reflect *r); /* NULL is fine */
