/* common/net/tls_priv.h - what net_stream needs of tls.c. */
#pragma once
#include "common/net/tls.h"
#include <openssl/ssl.h>

/* What a connection accepts as the peer's certificate, beyond its chain. */
struct tls_policy {
    const char *expect_uri; /* exact, or a prefix ending in '/'; NULL: any node (at a client) */
    const char *host;       /* for plain_server_ok: the name or address that was dialled */
    bool plain_server_ok;
    bool server;             /* we are the server: any identity, the gate decides */
    struct tls_identity *id; /* out: whom the certificate names (role node, uri "" when plain) */
    struct err *err;         /* out: why it was refused */
};
/* A TLS object for one connection. policy is borrowed as long as the handshake lasts. alpn: wire
 * format, borrowed for the call; at a server the context's list counts. NULL: out of memory. */
SSL *tls_ssl_new(struct tls *t, const struct tls_policy *policy, const uint8_t *alpn,
                 unsigned alpn_n);
