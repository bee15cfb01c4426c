/* common/net/rpc_conn.h - one HTTP/2 connection of either side: nghttp2 between a net_stream and
 * the streams of a server (calls) or of a channel (requests). Private to common/net.
 *
 * Bytes come in by rpc_conn_feed (the net_stream's reader calls it; a test may, without any socket)
 * and leave when the loop comes round (rpc_conn_wake). Connection-level flow control is given back
 * on receipt, so that one slow stream never stops the others; a stream's is given back as its owner
 * consumes. So a connection holds at most RPC_STREAMS_MAX * RPC_STREAM_WINDOW_BYTES, of streams
 * that their owners let grow, and each stream at most its window. */
#pragma once
#include "common/base/list.h"
#include "common/net/net_stream.h"
#include "common/net/rpc.h"
#include <nghttp2/nghttp2.h>

#define RPC_HEADERS_BYTES_MAX (16u << 10) /* of one request or response */
#define RPC_FRAME_BYTES_MAX   (64u << 10)

struct rpc_conn;

/* Embedded first in a call or request. */
struct rpc_stream {
    struct list link; /* in conn->streams */
    struct rpc_conn *conn;
    int32_t id;
    bool raw;  /* plain HTTP: no message framing */
    bool mute; /* what comes in is dropped */
    bool auto_consume;
    bool remote_ended, local_ended, headers_sent;
    /* receiving */
    uint32_t message_bytes_max, unconsumed, headers_n;
    size_t headers_bytes;
    uint8_t prefix[5];
    uint8_t prefix_n;
    struct rpc_msg *msg;
    uint32_t msg_at;
    /* sending */
    struct list out; /* struct rpc_out */
    uint32_t out_n;  /* bytes in it */
    bool out_end, deferred, want_room;
    struct buf *trailers; /* "name\0value\0"..., sent after the last byte; NULL: none */
    uint64_t deadline_ms; /* server only; the channel has its own timer */
};

struct rpc_conn_ops {
    /* server: a request's HEADERS begin. NULL: refused */
    struct rpc_stream *(*on_begin)(struct rpc_conn *c);
    /* false: too many or bad; the stream is reset */
    bool (*on_header)(struct rpc_stream *s, struct slice name, struct slice value);
    void (*on_headers)(struct rpc_stream *s); /* a block is complete; remote_ended tells the last */
    void (*on_message)(struct rpc_stream *s, struct rpc_msg *m);
    void (*on_raw)(struct rpc_stream *s, const uint8_t *p, size_t n);
    /* the message that arrives can't be taken (size, compression, memory) */
    void (*on_bad_message)(struct rpc_stream *s, const struct err *e);
    void (*on_remote_end)(struct rpc_stream *s);
    void (*on_room)(struct rpc_stream *s);
    void (*on_deadline)(struct rpc_stream *s);
    /* the stream is gone: by its HTTP/2 error code (rc RC_OK), or with its connection (rc) */
    void (*on_closed)(struct rpc_stream *s, uint32_t h2_code, enum rc rc, const struct err *e);
    void (*on_settings)(struct rpc_conn *c); /* the peer's first */
    void (*on_goaway)(struct rpc_conn *c);
    void (*on_down)(struct rpc_conn *c, enum rc rc, const struct err *e); /* c is gone after it */
};

struct rpc_conn_conf {
    uv_loop_t *loop;
    bool server;
    struct net_stream *net; /* taken on success; NULL: what would be sent is dropped (tests) */
    const struct rpc_conn_ops *ops;
    void *owner;
    uint32_t idle_ping_ms;
};
MUST_CHECK enum rc rpc_conn_new(const struct rpc_conn_conf *conf, struct rpc_conn **ret_c,
                                struct err *reterr);
void *rpc_conn_owner(const struct rpc_conn *c);
struct net_stream *rpc_conn_net(const struct rpc_conn *c);
uv_loop_t *rpc_conn_loop(const struct rpc_conn *c);
unsigned rpc_conn_streams_n(const struct rpc_conn *c);
/* Bytes from the peer. */
void rpc_conn_feed(struct rpc_conn *c, const uint8_t *p, size_t n);
void rpc_conn_wake(struct rpc_conn *c); /* something is to be sent */
/* Later: every stream's on_closed(rc), then on_down. */
void rpc_conn_fail(struct rpc_conn *c, enum rc rc, const char *text);
/* No new streams: GOAWAY, at a server first as a notice, and for good after a ping's round trip (so
 * that requests on their way are served). The connection ends when its streams did. */
void rpc_conn_drain(struct rpc_conn *c);
void rpc_conn_deadline(struct rpc_conn *c, uint64_t at_ms);

/* Streams. init before begin. */
void rpc_stream_init(struct rpc_stream *s);
void rpc_stream_deinit(struct rpc_stream *s);
MUST_CHECK enum rc rpc_stream_request(struct rpc_conn *c, struct rpc_stream *s,
                                      const nghttp2_nv *nva, size_t n);
/* end: HEADERS alone, nothing follows. */
MUST_CHECK enum rc rpc_stream_respond(struct rpc_stream *s, const nghttp2_nv *nva, size_t n,
                                      bool end);
MUST_CHECK enum rc rpc_stream_send(struct rpc_stream *s, const ProtobufCMessage *m,
                                   const struct rpc_payload *payload);
MUST_CHECK enum rc rpc_stream_send_raw(struct rpc_stream *s, const uint8_t *p, size_t n);
uint32_t rpc_stream_room(const struct rpc_stream *s);
void rpc_stream_want_room(struct rpc_stream *s); /* on_room follows when there is */
void rpc_stream_end(struct rpc_stream *s);       /* after what is queued */
void rpc_stream_drop_out(struct rpc_stream *s);
void rpc_stream_consume(struct rpc_stream *s, uint32_t bytes);
void rpc_stream_reset(struct rpc_stream *s, uint32_t h2_code); /* on_closed follows */
/* Forget it now: reset, no callback any more, s may be freed. */
void rpc_stream_detach(struct rpc_stream *s, uint32_t h2_code);
nghttp2_nv rpc_nv(const char *name, const char *value);
