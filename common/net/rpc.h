/* common/net/rpc.h - gRPC over HTTP/2: a server and a client on one libuv loop.
 *
 * Everything belongs to the loop's thread; nothing here is called from another one. Callbacks never
 * fire inside the call that starts something. Flow control is by consumption: what a handler has
 * not consumed is not read from the peer, so memory a stream is bounded by RPC_STREAM_WINDOW_BYTES,
 * and what is sent faster than the peer reads is refused (rpc_call_send_room).
 *
 * Messages are protobuf; `struct rpc_msg` is the received bytes, counted, so that a handler may
 * keep a payload without a copy. Wire facts: nghttp2, RFC 9113, gRPC PROTOCOL-HTTP2. */
#pragma once
#include "common/base/buf.h"
#include "common/net/tls.h"
#include <protobuf-c/protobuf-c.h>
#include <uv.h>

#define RPC_MESSAGE_BYTES_MAX    (2u << 20) /* default limit; more: RESOURCE_EXHAUSTED */
#define RPC_STREAM_WINDOW_BYTES  (2u << 20)
#define RPC_CONN_WINDOW_BYTES    (32u << 20)
#define RPC_STREAMS_MAX          256u       /* a connection */
#define RPC_SEND_QUEUE_BYTES_MAX (2u << 20) /* a stream; rpc_call_send_room */
#define RPC_METADATA_MAX         32u

/* One received message. Borrowed by callbacks; rpc_msg_ref keeps it. */
struct rpc_msg {
    const uint8_t *p;
    uint32_t n;
    uint32_t refs;
};
struct rpc_msg *rpc_msg_ref(struct rpc_msg *m);
void rpc_msg_unref(struct rpc_msg *m);

struct rpc_metadata {
    const char *name, *value; /* lower case; *-bin values are decoded by rpc_metadata_bin */
};

/* ---- server ---- */
struct rpc_server;
struct rpc_call; /* one call at the server; lives until on_end returned and rpc_call_finish was
                    called */

/* A method. on_message gets each request message (a unary call: exactly one) in order;
 * on_half_close follows the last. on_end fires exactly once, last: RC_OK after a finish was sent
 * whole, else why the call died (RC_CANCELED, RC_DEADLINE, RC_UNAVAIL). A call may be finished
 * before its half-close.
 *
 * Lifetime. With on_end: the call is there until on_end returned; drop every pointer to it there,
 * no rpc_call_finish is needed any more. Without on_end: it is there until rpc_call_finish or
 * rpc_call_reply, which must come once, also after it died (that is how an answer from a worker
 * thread may come late). on_end comes for calls whose handlers have begun, only.
 *
 * Consumption: a message counts against the window until rpc_call_consume was called for its bytes
 * (m->n); with auto_consume, and for unary calls, that is done on receipt. */
struct rpc_method {
    const char *path;    /* "/mikura.v1.Objects/PutChunk" */
    bool client_streams; /* false: more or fewer than one message is INTERNAL before on_message */
    bool auto_consume;
    uint32_t message_bytes_max;           /* 0 = RPC_MESSAGE_BYTES_MAX */
    void (*on_start)(struct rpc_call *c); /* optional: before the first message; may finish */
    void (*on_message)(struct rpc_call *c, struct rpc_msg *m);
    void (*on_half_close)(struct rpc_call *c);      /* optional */
    void (*on_end)(struct rpc_call *c, enum rc rc); /* optional */
    void *service;                                  /* rpc_call_service() */
};

/* Before any handler: RC_OK, or what the caller is refused with (authorisation belongs here). */
typedef enum rc (*rpc_gate_fn)(void *data, const struct rpc_method *m,
                               const struct tls_identity *peer, struct err *reterr);

void *rpc_call_service(const struct rpc_call *c);
const char *rpc_call_path(const struct rpc_call *c);
void *rpc_call_data(const struct rpc_call *c); /* the handler's own */
void rpc_call_set_data(struct rpc_call *c, void *data);
const struct tls_identity *rpc_call_peer(const struct rpc_call *c);
const char *rpc_call_metadata(const struct rpc_call *c, const char *name); /* or NULL */
const char *rpc_call_rid(
    const struct rpc_call *c); /* request id for logs: the peer's x-request-id or a new one */
uint64_t rpc_call_deadline_ms(const struct rpc_call *c); /* uv_now scale; UINT64_MAX = none */
uv_loop_t *rpc_call_loop(const struct rpc_call *c);
void rpc_call_consume(struct rpc_call *c, uint32_t bytes);
/* Bytes that may be queued now; 0 = wait for the callback set below (fires when there is room
 * again). */
uint32_t rpc_call_send_room(const struct rpc_call *c);
void rpc_call_on_room(struct rpc_call *c, void (*cb)(struct rpc_call *c));
/* Queue one response message. RC_BUSY: the queue was full already (one message may overrun it),
 * RC_CANCELED: the call has died, RC_NOMEM. m is encoded at once; data as the field `field` (bytes,
 * not part of m) is appended without copying when owner != NULL: owner_free(owner) is called when
 * it was sent or dropped. */
MUST_CHECK enum rc rpc_call_send(struct rpc_call *c, const ProtobufCMessage *m);
struct rpc_payload {
    uint32_t field; /* protobuf field number of a bytes field, greater than all fields in m */
    const uint8_t *p;
    uint32_t n;
    void *owner;
    void (*owner_free)(void *owner);
};
MUST_CHECK enum rc rpc_call_send_payload(struct rpc_call *c, const ProtobufCMessage *m,
                                         const struct rpc_payload *payload);
/* Add trailing metadata (copied), before finish. */
MUST_CHECK enum rc rpc_call_trailer(struct rpc_call *c, const char *name, const char *value);
/* Ends the call with rc_grpc(rc) and e's message (e may be NULL). Once. Fine after the call died.
 */
void rpc_call_finish(struct rpc_call *c, enum rc rc, const struct err *e);
/* Unary answer: send m, finish OK. */
void rpc_call_reply(struct rpc_call *c, const ProtobufCMessage *m);

/* The bytes of a *-bin value. False: not base64, or more than cap bytes. */
bool rpc_metadata_bin(const char *value, uint8_t *to, size_t cap, size_t *ret_n);

struct net_stream; /* a connected TLS socket, common/net/net_stream.h */
struct rpc_server_conf {
    uv_loop_t *loop;
    const char *host; /* numeric address, or name */
    uint16_t port;    /* 0 = any; rpc_server_port tells */
    struct tls *tls;  /* NULL: plaintext (tests only) */
    rpc_gate_fn gate; /* NULL: everything is allowed */
    void *gate_data;
    const uint8_t *descriptors; /* serialized FileDescriptorSet for reflection, borrowed; or NULL */
    size_t descriptors_n;
    /* A connection whose ALPN is mikura-bulk/1 is handed over after its handshake (bulk.h); NULL:
     * such a connection is refused. */
    void (*on_bulk)(void *data, struct net_stream *stream);
    void *bulk_data;
    uint32_t connections_max; /* 0 = 1024 */
    uint32_t idle_ping_ms;    /* 0 = 30,000: keepalive; a peer silent for two of them is dropped */
};
/* RC_EXISTS: the port is taken (the message names its owner where /proc tells it), RC_INVAL, RC_IO.
 */
MUST_CHECK enum rc rpc_server_open(const struct rpc_server_conf *conf,
                                   struct rpc_server **ret_server, struct err *reterr);
/* Methods of a service: a static array ended by a zero path. Before the loop runs. RC_EXISTS. */
MUST_CHECK enum rc rpc_server_add(struct rpc_server *s, const struct rpc_method *methods);
uint16_t rpc_server_port(const struct rpc_server *s);
/* grpc.health.v1: service "" is the whole server. */
void rpc_server_set_serving(struct rpc_server *s, const char *service, bool serving);
/* No new connections or streams (GOAWAY), health NOT_SERVING; running calls get grace_ms, then
 * their on_end(RC_UNAVAIL); then cb, and the server is gone. */
void rpc_server_close(struct rpc_server *s, uint32_t grace_ms, void (*cb)(void *data), void *data);

/* Plain HTTP on the same port (HTTP/1.1 and HTTP/2 without grpc content type): /healthz, /metrics
 * and what comes later. Whole small bodies; see http.h. */

/* ---- client ---- */
struct rpc_channel; /* to one address: connects when first used, again after a loss, with back-off
                     */
struct rpc_channel_conf {
    uv_loop_t *loop;
    const char *host;
    uint16_t port;
    struct tls *tls;        /* NULL: plaintext */
    const char *expect_uri; /* the server's identity must be this (prefix ending in '/': any below);
                               NULL: any node of the CA */
    uint32_t connect_ms;    /* 0 = 5,000 */
    bool plain_server_ok; /* etcd: server certificates without a mikura URI are accepted when the CA
                             signed them and they name the host */
};
MUST_CHECK enum rc rpc_channel_new(const struct rpc_channel_conf *conf, struct rpc_channel **ret_ch,
                                   struct err *reterr);
/* Every open request ends RC_CANCELED, then cb. */
void rpc_channel_close(struct rpc_channel *ch, void (*cb)(void *data), void *data);
bool rpc_channel_connected(const struct rpc_channel *ch);

struct rpc_request; /* caller's memory, embedded; free to use again after on_done */
struct rpc_request_ops {
    void (*on_message)(struct rpc_request *r, struct rpc_msg *m); /* window: as for calls */
    void (*on_room)(struct rpc_request *r);                       /* optional */
    /* exactly once, last. r->err: rc (from the gRPC status) and the server's message. */
    void (*on_done)(struct rpc_request *r, enum rc rc);
};
struct rpc_request {
    void *data; /* caller's */
    struct err err;
    int grpc_status;        /* as the server sent it; -1 = none came */
    char trailer_epoch[24]; /* metadata `mikura-epoch`, or "" */
    bool auto_consume;
    bool never_sent; /* out: certainly not executed (not connected, or refused unprocessed) */
    struct rpc_request_priv {
        struct rpc_channel *ch;
        const struct rpc_request_ops *ops;
        struct rpc_stream *stream;
        uint64_t deadline_ms;
    } priv;
};
struct rpc_request_conf {
    const char *path;
    uint32_t timeout_ms; /* 0 = none; sent as grpc-timeout */
    const struct rpc_metadata *metadata;
    uint32_t metadata_n;
    uint32_t message_bytes_max; /* 0 = RPC_MESSAGE_BYTES_MAX */
    const char *rid;            /* x-request-id, or NULL */
    bool fail_fast;             /* RC_UNAVAIL at the first dial that fails, instead of waiting */
};
/* Starts a request; waits for the connection as long as the timeout allows (without one:
 * connect_ms), then RC_UNAVAIL with never_sent and what the last dial said; a refused certificate
 * (RC_UNAUTH) ends it at once. RC_OK: on_done will fire. RC_NOMEM, RC_BUSY (RPC_STREAMS_MAX * 4
 * waiting): it will not. */
MUST_CHECK enum rc rpc_request_start(struct rpc_channel *ch, struct rpc_request *r,
                                     const struct rpc_request_conf *conf,
                                     const struct rpc_request_ops *ops);
MUST_CHECK enum rc rpc_request_send(struct rpc_request *r, const ProtobufCMessage *m);
MUST_CHECK enum rc rpc_request_send_payload(struct rpc_request *r, const ProtobufCMessage *m,
                                            const struct rpc_payload *payload);
uint32_t rpc_request_send_room(const struct rpc_request *r);
void rpc_request_half_close(struct rpc_request *r);
void rpc_request_consume(struct rpc_request *r, uint32_t bytes);
void rpc_request_cancel(struct rpc_request *r); /* on_done(RC_CANCELED) follows, later */

/* One message there, one back, unpacked. cb fires exactly once; answer is NULL unless RC_OK and is
 * freed after cb returned. */
struct rpc_unary {
    struct rpc_request req; /* err, grpc_status, ... */
    void *data;             /* caller's */
    struct rpc_unary_priv {
        const ProtobufCMessageDescriptor *desc;
        ProtobufCMessage *answer;
        void (*cb)(struct rpc_unary *u, enum rc rc, const ProtobufCMessage *answer);
    } priv;
};
MUST_CHECK enum rc
rpc_unary_start(struct rpc_channel *ch, struct rpc_unary *u, const struct rpc_request_conf *conf,
                const ProtobufCMessage *m, const ProtobufCMessageDescriptor *answer_desc,
                void (*cb)(struct rpc_unary *u, enum rc rc, const ProtobufCMessage *answer));
