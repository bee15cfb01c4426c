/* common/net/bulk.h - the bulk wire between daemons: sealed headers, bare ciphertext payloads
 * (DESIGN.md section 7).
 *
 * A connection begins with mutual TLS 1.3 (ALPN mikura-bulk/1); each direction's exported key then
 * seals frame headers (AES-256-GCM, nonce = implicit 64-bit frame counter, key ratchet every 2^24
 * frames), and the socket is used bare: header bytes, then payload bytes as they are. First frame
 * both ways: Hello. Requests of both sides multiplex by a 32-bit id; a payload is not interleaved
 * with other frames, so two connections a peer are used: BULK_DATA and BULK_CONTROL (replica
 * messages, leases), the latter never behind a payload.
 *
 * A payload is received straight into the buffer that the receiver gives (4 KiB aligned, so that
 * O_DIRECT writes from it), and may be forwarded from there while it still arrives (bulk_out_more).
 * A deadline that passes while a request's bytes are still missing (bulk_out_more) or half sent and
 * missing ends the connection; else the late answer is dropped. Frames: bulk_frame.h, BULK.md.
 *
 * Everything belongs to one loop. Callbacks never fire inside the call that starts something. */
#pragma once
#include "common/base/buf.h"
#include "common/base/id128.h"
#include "common/net/tls.h"
#include <uv.h>

#define BULK_HEADER_BYTES_MAX  (4u << 20) /* a replica message with log entries */
#define BULK_PAYLOAD_BYTES_MAX (64u << 20)
#define BULK_INFLIGHT_MAX      256u /* requests a connection */

enum bulk_class { BULK_DATA = 1, BULK_CONTROL = 2 };
struct bulk_hello {
    uint32_t wire_version; /* 1 */
    struct id128 cluster, node, boot_id;
    uint64_t features; /* 0 */
    enum bulk_class cls;
};
struct bulk_conn;
struct bulk_in; /* a request that arrived; lives until it was replied to or its connection was lost
                 */

/* Payload memory that several sends and a disk write may share. */
struct bulk_buf {
    uint8_t *p; /* 4 KiB aligned */
    uint32_t cap;
    uint32_t refs;
    void (*release)(struct bulk_buf *b); /* at refs 0 */
    void *data;
};
static inline struct bulk_buf *bulk_buf_ref(struct bulk_buf *b)
{
    b->refs++;
    return b;
}
void bulk_buf_unref(struct bulk_buf *b);
/* A plain one from the heap. NULL: out of memory. */
struct bulk_buf *bulk_buf_new(uint32_t cap);

/* Receiving side. The answer to on_request is exactly one bulk_in_reply, later or at once, unless
 * on_lost came. */
struct bulk_ops {
    /* A request's header (borrowed). payload_n > 0: nothing more is read from this connection until
     * bulk_in_accept; that is the backpressure. */
    void (*on_request)(struct bulk_conn *c, struct bulk_in *in, struct slice header,
                       uint32_t payload_n);
    /* ready bytes of the payload are in the buffer; the last call has ready = payload_n. */
    void (*on_payload)(struct bulk_in *in, uint32_t ready);
    /* One-way message (BULK_CONTROL); no answer. */
    void (*on_message)(struct bulk_conn *c, struct slice header);
    /* The connection ended under a request: drop every pointer to it. */
    void (*on_lost)(struct bulk_in *in);
    /* After the Hellos. And once at the end, whatever the reason; the conn is gone after it
     * returned. */
    void (*on_up)(struct bulk_conn *c);
    void (*on_down)(struct bulk_conn *c, enum rc rc, const struct err *e);
};
void *bulk_in_data(const struct bulk_in *in);
void bulk_in_set_data(struct bulk_in *in, void *data);
struct bulk_conn *bulk_in_conn(const struct bulk_in *in);
uint32_t bulk_in_timeout_ms(const struct bulk_in *in); /* what the sender waits; 0 = unknown */
/* The connection takes a reference until the payload is whole. Payload goes to b->p + at. */
void bulk_in_accept(struct bulk_in *in, struct bulk_buf *b, uint32_t at);
/* Drop the payload as it comes; an error answer follows. (bulk_in_reply before the payload is whole
 * drops the rest by itself.) */
void bulk_in_discard(struct bulk_in *in);
/* header is copied; payload (may be NULL) referenced until sent. Frees in. RC_NOMEM closes the
 * connection. */
void bulk_in_reply(struct bulk_in *in, struct slice header, struct bulk_buf *payload, uint32_t at,
                   uint32_t n);

/* Sending side. */
struct bulk_out; /* caller's memory, embedded */
typedef void (*bulk_out_cb)(struct bulk_out *o, enum rc rc, struct slice header,
                            struct bulk_buf *payload, uint32_t payload_n);
struct bulk_out {
    void *data;
    struct err err;
    /* Optional: where the answer's payload shall go (at offset 0; a reference is given); NULL or
     * none: a bulk_buf_new. */
    struct bulk_buf *(*answer_buf)(struct bulk_out *o, uint32_t payload_n);
    struct bulk_out_priv {
        struct bulk_conn *conn;
        bulk_out_cb cb;
        uint32_t id;
        uint64_t deadline_ms;
        struct bulk_out *prev, *next;
        void *frame;
    } priv;
};
struct bulk_send {
    struct slice header;      /* copied */
    struct bulk_buf *payload; /* referenced until sent; or NULL */
    uint32_t at, n;           /* payload bytes b->p + at .. + n */
    uint32_t ready;           /* of n that are there already; bulk_out_more tells of more */
    uint32_t timeout_ms;
};
/* cb exactly once: RC_OK with the answer (borrowed), RC_DEADLINE, RC_UNAVAIL (connection lost;
 * outcome unknown), RC_CANCELED. Returns RC_BUSY (BULK_INFLIGHT_MAX), RC_UNAVAIL (not up): cb will
 * not fire. */
MUST_CHECK enum rc bulk_out_start(struct bulk_conn *c, struct bulk_out *o,
                                  const struct bulk_send *s, bulk_out_cb cb);
/* An answer that comes before all is ready (an error) is held until it is, since the bytes after a
 * header cannot be left out: go on to call this, or abort. */
void bulk_out_more(struct bulk_out *o, uint32_t ready);
/* The payload can't be completed any more (its source was lost): the connection is closed, since
 * bytes can't be taken back; cb(RC_CANCELED) follows. */
void bulk_out_abort(struct bulk_out *o);
/* One-way. RC_BUSY: more than 16 MiB queued. header copied. */
MUST_CHECK enum rc bulk_message(struct bulk_conn *c, struct slice header);

struct bulk_conf {
    uv_loop_t *loop;
    struct tls *tls;
    struct bulk_hello self;
    const struct bulk_ops *ops;
    void *data; /* bulk_conn_data of each connection at first */
    /* 0 = an hour. Then both sides start nothing more, what runs gets 30 s, and
     * on_down(RC_CANCELED) comes: dial again. The certificates' ends come first where they are
     * earlier. */
    uint32_t life_ms;
};
/* Dial. on_up or on_down follows; no retry here. */
MUST_CHECK enum rc bulk_dial(const struct bulk_conf *conf, const char *host, uint16_t port,
                             const char *expect_uri, enum bulk_class cls,
                             struct bulk_conn **ret_conn, struct err *reterr);
/* For rpc_server_conf.on_bulk: takes the stream. */
struct net_stream;
MUST_CHECK enum rc bulk_adopt(const struct bulk_conf *conf, struct net_stream *stream,
                              struct bulk_conn **ret_conn, struct err *reterr);
void bulk_conn_close(struct bulk_conn *c, enum rc rc); /* on_down follows, later */
void *bulk_conn_data(const struct bulk_conn *c);
void bulk_conn_set_data(struct bulk_conn *c, void *data);
const struct tls_identity *bulk_conn_peer(const struct bulk_conn *c);
const struct bulk_hello *bulk_conn_hello(const struct bulk_conn *c); /* the peer's */
bool bulk_conn_up(const struct bulk_conn *c);

/* GMAC of a payload under a fresh key (ChunkWrite.mac): AES-256-GCM with empty plaintext, nonce
 * zero, the payload as AAD. RC_INTERNAL, RC_NOMEM. */
MUST_CHECK enum rc bulk_gmac(const uint8_t key[32], const uint8_t *p, size_t n,
                             uint8_t ret_mac[16]);
bool bulk_gmac_equal(const uint8_t a[16], const uint8_t b[16]); /* constant time */
