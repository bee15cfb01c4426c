/* common/net/http.h - plain HTTP on the listener of rpc.h: HTTP/1.1 (llhttp) and HTTP/2 requests
 * that are not gRPC. Requests with bodies up to a limit, answers whole or streamed. */
#pragma once
#include "common/net/rpc.h"

struct http_request; /* lives until http_reply, which must come once, also when the peer is gone */
struct http_route {
    const char *method; /* "GET" */
    const char *path;   /* exact, or a prefix ending in '/' */
    uint32_t body_bytes_max;
    void (*on_request)(struct http_request *r, struct slice body);
    void *service;
    bool anonymous; /* false: the gate's `allowed` roles of a TLS peer; see rpc_server_conf.gate
                       with m = NULL */
};
MUST_CHECK enum rc http_route_add(struct rpc_server *s, const struct http_route *routes);
const char *http_request_path(const struct http_request *r);
const char *http_request_query(const struct http_request *r);
const char *http_request_header(const struct http_request *r, const char *name);
const struct tls_identity *http_request_peer(const struct http_request *r);
void *http_request_service(const struct http_request *r);
void http_reply(struct http_request *r, int status, const char *content_type, struct slice body);
