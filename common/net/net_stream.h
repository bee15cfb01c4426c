/* common/net/net_stream.h - one connected TCP socket with TLS 1.3 (or plain, in tests and to an
 * etcd without TLS): dialled or accepted, handshaken, then read and written, or taken apart.
 *
 * Private to common/net. A stream belongs to one loop; callbacks never fire inside the call that
 * starts something. Written bytes are collected (512 KiB) and leave in one send(); what is written
 * is never refused for lack of room: the writer asks net_stream_room first, so the buffer holds at
 * most NET_STREAM_OUT_BYTES plus one frame.
 *
 * A TLS 1.3 client learns of a refused certificate only at its first read. So with ALPN
 * mikura-bulk/1 the accepting side sends one TLS record with one byte (0x01) after its handshake
 * and net_dial's callback waits for it; a dialled h2 connection is "connected" when the peer's
 * SETTINGS came. There are no tickets and, with mikura-bulk/1, no read-ahead: after the callback
 * the socket holds nothing of TLS, so net_stream_release may hand it over to be used bare. */
#pragma once
#include "common/net/tls.h"
#include <openssl/ssl.h>
#include <uv.h>

#define NET_STREAM_OUT_BYTES (512u << 10)

enum net_alpn { NET_ALPN_NONE, NET_ALPN_H2, NET_ALPN_HTTP1, NET_ALPN_BULK };

struct net_stream;
/* RC_OK: st is handshaken and the callee's, to net_stream_start, _release or _close. Otherwise st
 * is NULL and e says why: RC_UNAVAIL (no connection), RC_DEADLINE, RC_UNAUTH (one side refused the
 * other's certificate), RC_NOTFOUND (name), RC_IO, RC_NOMEM. Fires exactly once, unless
 * net_stream_close came first. */
typedef void (*net_ready_cb)(void *data, struct net_stream *st, enum rc rc, const struct err *e);

struct net_dial_conf {
    uv_loop_t *loop;
    struct tls *tls; /* NULL: plain */
    const char *host;
    uint16_t port;
    enum net_alpn alpn;
    const char *expect_uri; /* exact, or a prefix ending in '/'; NULL: any node of the CA */
    bool plain_server_ok;   /* rpc_channel_conf */
    uint32_t timeout_ms;    /* name, connect and handshake together; 0 = 5,000 */
};
/* All of conf is copied. ret_st may be closed at any time before cb. RC_NOMEM, RC_INVAL. */
MUST_CHECK enum rc net_dial(const struct net_dial_conf *conf, net_ready_cb cb, void *data,
                            struct net_stream **ret_st, struct err *reterr);
/* Takes fd (an accepted, non-blocking socket) on success; handshakes as the server. */
MUST_CHECK enum rc net_accept(uv_loop_t *loop, struct tls *tls, int fd, uint32_t timeout_ms,
                              net_ready_cb cb, void *data, struct net_stream **ret_st,
                              struct err *reterr);

int net_stream_fd(const struct net_stream *st);
SSL *net_stream_ssl(const struct net_stream *st); /* NULL: plain; for exported keys */
uv_loop_t *net_stream_loop(const struct net_stream *st);
enum net_alpn net_stream_alpn(const struct net_stream *st);
/* NULL: plain. */
const struct tls_identity *net_stream_peer(const struct net_stream *st);
const char *net_stream_peer_addr(const struct net_stream *st); /* "127.0.0.1:4711", for logs */
/* ms until the earlier of the two certificates' ends; a connection ends then. UINT64_MAX: plain. */
uint64_t net_stream_life_ms(const struct net_stream *st);
/* Whose certificate that is, and what to do; static. */
const char *net_stream_life_why(const struct net_stream *st);

/* Use as a byte stream. on_readable: bytes, an end or an error may be read; read until RC_BUSY.
 * on_drained: all written bytes went to the socket. Callbacks may close the stream. */
void net_stream_start(struct net_stream *st, void (*on_readable)(void *data),
                      void (*on_drained)(void *data), void *data);
/* RC_OK: *ret_n > 0 bytes; RC_BUSY: nothing there now; RC_RANGE: the peer closed; else failed. */
MUST_CHECK enum rc net_stream_read(struct net_stream *st, uint8_t *p, size_t n, size_t *ret_n,
                                   struct err *reterr);
void net_stream_pause(struct net_stream *st, bool paused); /* no on_readable while paused */
size_t net_stream_room(const struct net_stream *st);       /* 0: wait for on_drained */
size_t net_stream_queued(const struct net_stream *st);
/* Encrypts into the out buffer. RC_NOMEM, RC_IO: the stream is of no more use. */
MUST_CHECK enum rc net_stream_write(struct net_stream *st, const void *p, size_t n);
/* Give what was written to the socket; the rest follows by itself. A dead socket shows at the next
 * read, since it may hold the peer's alert, which says more. */
void net_stream_flush(struct net_stream *st);
void net_stream_trim(struct net_stream *st); /* give back buffers of an idle stream */
/* Sends TLS close_notify if it can, closes the socket; no callback any more. st is gone. */
void net_stream_close(struct net_stream *st);

/* Take the parts; st is gone, without a close_notify. fd is non-blocking, in no poll handle. */
struct net_parts {
    int fd;
    SSL *ssl; /* SSL_free it; SSL_get_fd(ssl) == fd */
    struct tls_identity peer;
    uint64_t life_ms;
    char addr[64];
};
void net_stream_release(struct net_stream *st, struct net_parts *ret_parts);
