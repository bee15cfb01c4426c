/* common/net/tls.c - see tls.h. Identities are checked inside OpenSSL's verify callback, so that a
 * certificate which is genuine but names nobody is refused by an alert like any other. */
#include "common/base/macros.h"
#include "common/net/net_rc.h"
#include "common/net/tls_priv.h"
#include <errno.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

struct tls {
    SSL_CTX *server, *client;
    struct tls_identity self;
    unsigned refs;
};

/* One path segment: letters, digits and . _ - @ +; so a name can stand in logs, keys and paths. */
static bool segment_take(const char **at, char *to, size_t to_n)
{
    size_t n = 0;

    for (; (*at)[n] != 0 && (*at)[n] != '/'; n++) {
        char c = (*at)[n];
        bool ok = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                  strchr("._-@+", c) != NULL;

        if (!ok || n + 1 >= to_n) return false;
    }
    if (n == 0) return false;
    if (n <= 2 && strspn(*at, ".") >= n) return false; /* "." and ".." */
    memcpy(to, *at, n);
    to[n] = 0;
    *at += n;
    return true;
}

static bool literal_take(const char **at, const char *lit)
{
    size_t n = strlen(lit);

    if (strncmp(*at, lit, n) != 0) return false;
    *at += n;
    return true;
}

enum rc tls_identity_parse(const char *uri, struct tls_identity *ret_id, struct err *reterr)
{
    struct tls_identity id = {0};
    const char *at = uri;
    bool ok;

    if (strlen(uri) >= sizeof(id.uri)) {
        return err_set(reterr, RC_UNAUTH, "identity is longer than %u bytes",
                       TLS_URI_BYTES_MAX - 1);
    }
    memcpy(id.uri, uri, strlen(uri) + 1);
    if (literal_take(&at, "mikura://node/")) {
        id.role = TLS_NODE;
        ok = segment_take(&at, id.kind, sizeof(id.kind)) && literal_take(&at, "/") &&
             segment_take(&at, id.name, sizeof(id.name)) && *at == 0;
    } else if (literal_take(&at, "mikura://society/")) {
        id.role = TLS_AGENT;
        ok = segment_take(&at, id.kind, sizeof(id.kind)) && literal_take(&at, "/agent/") &&
             segment_take(&at, id.name, sizeof(id.name)) && *at == 0;
    } else if (literal_take(&at, "mikura://researcher/")) {
        id.role = TLS_RESEARCHER;
        ok = segment_take(&at, id.name, sizeof(id.name)) && *at == 0;
    } else if (literal_take(&at, "mikura://operator/")) {
        id.role = TLS_OPERATOR;
        ok = segment_take(&at, id.name, sizeof(id.name)) && *at == 0;
    } else {
        return err_set(reterr, RC_UNAUTH,
                       "identity '%s' does not begin with mikura:// and node/, society/, "
                       "researcher/ or operator/",
                       uri);
    }
    if (!ok) {
        return err_set(reterr, RC_UNAUTH,
                       "identity '%s': bad segment at byte %zu (want letters, digits, . _ - @ +)",
                       uri, (size_t)(at - uri));
    }
    *ret_id = id;
    return RC_OK;
}

static int64_t time_unix_s(const ASN1_TIME *t)
{
    struct tm tm;

    if (ASN1_TIME_to_tm(t, &tm) != 1) return 0; /* unreadable counts as expired */
    return (int64_t)timegm(&tm);
}

/* The only mikura URI of a certificate. RC_NOTFOUND: it has no mikura URI at all. */
static enum rc cert_identity(X509 *x, struct tls_identity *ret_id, struct err *reterr)
{
    GENERAL_NAMES *names = X509_get_ext_d2i(x, NID_subject_alt_name, NULL, NULL);
    char uri[TLS_URI_BYTES_MAX];
    int found = 0;
    enum rc rc = RC_OK;

    for (int i = 0; names != NULL && i < sk_GENERAL_NAME_num(names); i++) {
        const GENERAL_NAME *gn = sk_GENERAL_NAME_value(names, i);
        const uint8_t *p;
        int n;

        if (gn->type != GEN_URI) continue;
        p = ASN1_STRING_get0_data(gn->d.uniformResourceIdentifier);
        n = ASN1_STRING_length(gn->d.uniformResourceIdentifier);
        if (n < 9 || memcmp(p, "mikura://", 9) != 0) continue;
        if (n >= (int)sizeof(uri) || memchr(p, 0, (size_t)n) != NULL) {
            rc = err_set(reterr, RC_UNAUTH, "the certificate's URI is too long or holds a zero");
            goto out;
        }
        memcpy(uri, p, (size_t)n);
        uri[n] = 0;
        found++;
    }
    if (found == 0) {
        rc =
            err_set(reterr, RC_NOTFOUND, "the certificate names no mikura:// URI (subjectAltName)");
    } else if (found > 1) {
        rc = err_set(reterr, RC_UNAUTH, "the certificate names %d mikura:// URIs, want one", found);
    } else {
        rc = tls_identity_parse(uri, ret_id, reterr);
    }
    if (rc == RC_OK) ret_id->not_after_s = time_unix_s(X509_get0_notAfter(x));
out:
    GENERAL_NAMES_free(names);
    return rc;
}

static bool uri_matches(const char *uri, const char *expect)
{
    size_t n = strlen(expect);

    if (n > 0 && expect[n - 1] == '/') return strncmp(uri, expect, n) == 0;
    return strcmp(uri, expect) == 0;
}

static enum rc policy_check(const struct tls_policy *p, X509 *x, struct err *reterr)
{
    enum rc rc = cert_identity(x, p->id, reterr);

    if (rc == RC_NOTFOUND && p->plain_server_ok) {
        if (X509_check_ip_asc(x, p->host, 0) != 1 &&
            X509_check_host(x, p->host, strlen(p->host), 0, NULL) != 1) {
            return err_set(reterr, RC_UNAUTH, "the server's certificate does not name '%s'",
                           p->host);
        }
        *p->id = (struct tls_identity){.role = TLS_NODE,
                                       .not_after_s = time_unix_s(X509_get0_notAfter(x))};
        return RC_OK;
    }
    if (rc != RC_OK) return reterr->rc = RC_UNAUTH;
    if (p->server) return RC_OK;
    if (p->expect_uri != NULL && !uri_matches(p->id->uri, p->expect_uri)) {
        return err_set(reterr, RC_UNAUTH, "the server is %s, not %s", p->id->uri, p->expect_uri);
    }
    if (p->expect_uri == NULL && p->id->role != TLS_NODE) {
        return err_set(reterr, RC_UNAUTH, "the server is %s, which is no node", p->id->uri);
    }
    return RC_OK;
}

static int on_verify(int preverify_ok, X509_STORE_CTX *store)
{
    SSL *ssl = X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx());
    const struct tls_policy *p = SSL_get_app_data(ssl);

    if (preverify_ok != 1 || p == NULL) return preverify_ok;
    if (X509_STORE_CTX_get_error_depth(store) != 0) return 1;
    if (policy_check(p, X509_STORE_CTX_get_current_cert(store), p->err) == RC_OK) return 1;
    X509_STORE_CTX_set_error(store, X509_V_ERR_APPLICATION_VERIFICATION);
    return 0;
}

/* Our order wins: h2, http/1.1, mikura-bulk/1. A client that offers none of them is refused; one
 * that offers no ALPN at all is taken as HTTP/1.1 by the listener. */
static const uint8_t alpn_server[] = "\x02h2\x08http/1.1\x0dmikura-bulk/1";

/* A bulk connection leaves TLS after its handshake: a kernel that had taken the keys would go on
 * sealing its bare blocks. The keys are installed after the ALPN callback, so this is in time. */
static void bulk_without_ktls(SSL *ssl, const uint8_t *alpn, unsigned alpn_n)
{
    static const char bulk[] = "mikura-bulk/1";

    if (alpn_n == sizeof(bulk) - 1 && memcmp(alpn, bulk, alpn_n) == 0)
        SSL_clear_options(ssl, SSL_OP_ENABLE_KTLS);
}

static int on_alpn(SSL *ssl, const uint8_t **out, uint8_t *outlen, const uint8_t *in,
                   unsigned inlen, void *arg)
{
    (void)arg;
    if (SSL_select_next_proto((uint8_t **)(uintptr_t)out, outlen, alpn_server,
                              sizeof(alpn_server) - 1, in, inlen) != OPENSSL_NPN_NEGOTIATED) {
        return SSL_TLSEXT_ERR_ALERT_FATAL;
    }
    bulk_without_ktls(ssl, *out, *outlen);
    return SSL_TLSEXT_ERR_OK;
}

static enum rc file_readable(const char *path, const char *what, struct err *reterr)
{
    if (path == NULL) return err_set(reterr, RC_INVAL, "no path of the %s is given", what);
    if (access(path, R_OK) == 0) return RC_OK;
    if (errno == ENOENT) {
        return err_set(reterr, RC_NOTFOUND, "%s '%s' is not there: make it with deploy/pki", what,
                       path);
    }
    return err_set(reterr, RC_INVAL, "%s '%s' can't be read: %s", what, path, strerror(errno));
}

static enum rc ctx_load(SSL_CTX *ctx, const struct tls_conf *conf, struct err *reterr)
{
    if (SSL_CTX_load_verify_file(ctx, conf->ca_path) != 1) {
        (void)rc_from_openssl(reterr, conf->ca_path); /* the file is the cause: RC_INVAL */
        return err_prefix(reterr, "CA certificate");
    }
    if (SSL_CTX_use_certificate_chain_file(ctx, conf->cert_path) != 1) {
        (void)rc_from_openssl(reterr, conf->cert_path);
        return err_prefix(reterr, "certificate");
    }
    if (SSL_CTX_use_PrivateKey_file(ctx, conf->key_path, SSL_FILETYPE_PEM) != 1) {
        unsigned long e = ERR_peek_error();

        if (ERR_GET_LIB(e) == ERR_LIB_X509 && (ERR_GET_REASON(e) == X509_R_KEY_VALUES_MISMATCH ||
                                               ERR_GET_REASON(e) == X509_R_KEY_TYPE_MISMATCH)) {
            ERR_clear_error();
            return err_set(reterr, RC_UNAUTH, "key '%s' does not belong to certificate '%s'",
                           conf->key_path, conf->cert_path);
        }
        (void)rc_from_openssl(reterr, conf->key_path);
        return err_prefix(reterr, "private key");
    }
    return RC_OK;
}

/* Would our own certificate be accepted by a peer with the same CA? */
static enum rc self_check(SSL_CTX *ctx, const struct tls_conf *conf, struct tls_identity *ret_self,
                          struct err *reterr)
{
    X509_STORE_CTX *store = X509_STORE_CTX_new();
    X509 *x = SSL_CTX_get0_certificate(ctx);
    STACK_OF(X509) *chain = NULL;
    enum rc rc;

    SSL_CTX_get0_chain_certs(ctx, &chain);
    if (store == NULL || X509_STORE_CTX_init(store, SSL_CTX_get_cert_store(ctx), x, chain) != 1) {
        rc = err_set(reterr, RC_NOMEM, "TLS certificate check");
        goto out;
    }
    if (X509_verify_cert(store) != 1) {
        int why = X509_STORE_CTX_get_error(store);

        rc = err_set(reterr, RC_UNAUTH, "certificate '%s' against CA '%s': %s%s", conf->cert_path,
                     conf->ca_path, X509_verify_cert_error_string(why),
                     why == X509_V_ERR_CERT_HAS_EXPIRED ? "; renew it with deploy/pki" : "");
        goto out;
    }
    rc = cert_identity(x, ret_self, reterr);
    if (rc != RC_OK) {
        (void)err_prefix(reterr, "certificate '%s'", conf->cert_path); /* returns the old rc */
        rc = reterr->rc = RC_UNAUTH;
    }
out:
    X509_STORE_CTX_free(store);
    ERR_clear_error();
    return rc;
}

static void ctx_setup(SSL_CTX *ctx, bool server)
{
    CHECK(SSL_CTX_set_min_proto_version(ctx, TLS1_3_VERSION) == 1);
    SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER | (server ? SSL_VERIFY_FAIL_IF_NO_PEER_CERT : 0),
                       on_verify);
    SSL_CTX_set_mode(ctx, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    /* No resumption: every connection shows its certificate anew, and a bulk connection must have
     * no ticket records after the handshake. */
    SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_options(ctx, SSL_OP_NO_TICKET | SSL_OP_NO_RENEGOTIATION | SSL_OP_ENABLE_KTLS);
    SSL_CTX_set_num_tickets(ctx, 0);
    if (server) SSL_CTX_set_alpn_select_cb(ctx, on_alpn, NULL);
}

enum rc tls_new(const struct tls_conf *conf, struct tls **ret_tls, struct err *reterr)
{
    struct err own;
    struct tls *t = NULL;
    enum rc rc;

    if (reterr == NULL) reterr = &own; /* messages are built in two steps */
    rc = file_readable(conf->ca_path, "CA certificate", reterr);
    if (rc == RC_OK) rc = file_readable(conf->cert_path, "certificate", reterr);
    if (rc == RC_OK) rc = file_readable(conf->key_path, "private key", reterr);
    if (rc != RC_OK) return rc;
    t = calloc(1, sizeof(*t));
    if (t == NULL) return err_set(reterr, RC_NOMEM, "TLS context");
    t->refs = 1;
    t->server = SSL_CTX_new(TLS_server_method());
    t->client = SSL_CTX_new(TLS_client_method());
    if (t->server == NULL || t->client == NULL) {
        rc = err_set(reterr, RC_NOMEM, "TLS context");
        goto out;
    }
    ctx_setup(t->server, true);
    ctx_setup(t->client, false);
    rc = ctx_load(t->server, conf, reterr);
    if (rc == RC_OK) rc = ctx_load(t->client, conf, reterr);
    if (rc == RC_OK) rc = self_check(t->client, conf, &t->self, reterr);
    if (rc != RC_OK) goto out;
    *ret_tls = t;
    t = NULL;
out:
    tls_unref(t);
    return rc;
}

struct tls *tls_ref(struct tls *t)
{
    t->refs++;
    return t;
}

void tls_unref(struct tls *t)
{
    if (t == NULL || --t->refs > 0) return;
    SSL_CTX_free(t->server);
    SSL_CTX_free(t->client);
    free(t);
}

const struct tls_identity *tls_self(const struct tls *t)
{
    return &t->self;
}

SSL *tls_ssl_new(struct tls *t, const struct tls_policy *policy, const uint8_t *alpn,
                 unsigned alpn_n)
{
    SSL *ssl = SSL_new(policy->server ? t->server : t->client);

    if (ssl == NULL) return NULL;
    if (SSL_set_app_data(ssl, (void *)(uintptr_t)policy) != 1) {
        SSL_free(ssl);
        return NULL;
    }
    if (!policy->server) {
        bool name = strspn(policy->host, "0123456789.:abcdefABCDEF") != strlen(policy->host);

        /* SSL_set_alpn_protos returns 0 on success. A literal address is no server name. */
        if (SSL_set_alpn_protos(ssl, alpn, alpn_n) != 0 ||
            (name && SSL_set_tlsext_host_name(ssl, policy->host) != 1)) {
            SSL_free(ssl);
            return NULL;
        }
        if (alpn_n > 0) bulk_without_ktls(ssl, alpn + 1, alpn[0]); /* one protocol is offered */
    }
    return ssl;
}
