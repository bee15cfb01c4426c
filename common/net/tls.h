/* common/net/tls.h - TLS 1.3 with certificates on both sides, and who a peer is.
 *
 * Identity is the certificate's URI SAN, nothing else:
 *   mikura://node/KIND/NAME  mikura://society/SOCIETY/agent/NAME
 *   mikura://researcher/NAME mikura://operator/NAME
 * A certificate without exactly one such URI is refused. */
#pragma once
#include "common/base/rc.h"

#define TLS_URI_BYTES_MAX 256u

enum tls_role { TLS_NODE, TLS_AGENT, TLS_RESEARCHER, TLS_OPERATOR };
struct tls_identity {
    enum tls_role role;
    char uri[TLS_URI_BYTES_MAX];
    char kind[64];       /* node: gateway, storaged or computed; agent: the society */
    char name[128];      /* the last segment */
    int64_t not_after_s; /* unix time; a connection ends then */
};
/* RC_UNAUTH: no such form; says which part. */
MUST_CHECK enum rc tls_identity_parse(const char *uri, struct tls_identity *ret_id,
                                      struct err *reterr);

struct tls_conf {
    const char *ca_path, *cert_path, *key_path; /* PEM */
};
struct tls; /* the context of both directions; counted, so that open connections keep the old one */
/* RC_NOTFOUND, RC_UNAUTH (certificate expired, or key and certificate differ, or not of this CA),
 * RC_INVAL: says which file and what to do. */
MUST_CHECK enum rc tls_new(const struct tls_conf *conf, struct tls **ret_tls, struct err *reterr);
struct tls *tls_ref(struct tls *t);
void tls_unref(struct tls *t);
const struct tls_identity *tls_self(const struct tls *t);
