/* common/net/net_rc.c - see net_rc.h. */
#include "common/net/net_rc.h"
#include <errno.h>
#include <nghttp2/nghttp2.h>
#include <openssl/err.h>
#include <openssl/x509.h>
#include <string.h>
#include <uv.h>

enum rc rc_from_uv(int status)
{
    if (status == 0) return RC_OK;
    switch (status) {
    case UV_EAI_MEMORY:
        return RC_NOMEM;
    case UV_EAI_NONAME:
    case UV_EAI_NODATA:
        return RC_NOTFOUND;
    case UV_EAI_AGAIN:
    case UV_EAI_FAIL:
        return RC_UNAVAIL;
    case UV_ECANCELED:
    case UV_EAI_CANCELED:
        return RC_CANCELED;
    case UV_EOF:
        return RC_RANGE;
    default:
        return rc_from_errno(-status); /* libuv's codes are negated errno on Linux */
    }
}

enum rc rc_from_nghttp2(int status)
{
    switch (status) {
    case 0:
        return RC_OK;
    case NGHTTP2_ERR_NOMEM:
        return RC_NOMEM;
    case NGHTTP2_ERR_STREAM_ID_NOT_AVAILABLE:
        return RC_UNAVAIL;
    default:
        return RC_IO;
    }
}

/* What the other side said about our certificate, in words; NULL: the alert is no such refusal. */
static const char *alert_refusal(int reason)
{
    switch (reason) {
    case SSL_R_SSLV3_ALERT_CERTIFICATE_EXPIRED:
        return "expired";
    case SSL_R_SSLV3_ALERT_CERTIFICATE_REVOKED:
        return "revoked";
    case SSL_R_TLSV1_ALERT_UNKNOWN_CA:
        return "of another CA";
    case SSL_R_SSLV3_ALERT_BAD_CERTIFICATE:
        return "bad signature or content";
    case SSL_R_SSLV3_ALERT_UNSUPPORTED_CERTIFICATE:
        return "not for this use";
    case SSL_R_SSLV3_ALERT_CERTIFICATE_UNKNOWN:
    case SSL_R_TLSV1_ALERT_ACCESS_DENIED:
    case SSL_R_SSLV3_ALERT_HANDSHAKE_FAILURE:
        return "no identity that it accepts";
    case SSL_R_TLSV13_ALERT_CERTIFICATE_REQUIRED:
        return "none was given";
    default:
        return NULL;
    }
}

enum rc rc_from_ssl(SSL *ssl, int ret, struct err *reterr)
{
    int saved = errno, kind = SSL_get_error(ssl, ret), reason;
    unsigned long e;
    const char *why;

    if (kind == SSL_ERROR_WANT_READ || kind == SSL_ERROR_WANT_WRITE) return RC_BUSY;
    if (kind == SSL_ERROR_ZERO_RETURN) return err_set(reterr, RC_RANGE, "the peer closed");
    e = ERR_get_error();
    ERR_clear_error();
    if (e == 0) {
        if (kind == SSL_ERROR_SYSCALL && saved != 0) {
            return err_set(reterr, RC_IO, "connection lost: %s", strerror(saved));
        }
        return err_set(reterr, RC_IO, "connection lost");
    }
    if (ERR_GET_LIB(e) != ERR_LIB_SSL) {
        const char *text = ERR_reason_error_string(e);

        if (ERR_GET_REASON(e) == ERR_R_MALLOC_FAILURE) return err_set(reterr, RC_NOMEM, "TLS");
        return err_set(reterr, RC_IO, "TLS: %s", text != NULL ? text : "unknown");
    }
    reason = ERR_GET_REASON(e);
    why = alert_refusal(reason);
    if (why != NULL) {
        return err_set(reterr, RC_UNAUTH, "the %s refused our certificate: %s",
                       SSL_is_server(ssl) ? "client" : "server", why);
    }
    if (reason == SSL_R_CERTIFICATE_VERIFY_FAILED) {
        return err_set(reterr, RC_UNAUTH, "certificate of the %s: %s",
                       SSL_is_server(ssl) ? "client" : "server",
                       X509_verify_cert_error_string(SSL_get_verify_result(ssl)));
    }
    if (reason == SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE) {
        return err_set(reterr, RC_UNAUTH, "the client has no certificate");
    }
    if (reason == SSL_R_UNEXPECTED_EOF_WHILE_READING) {
        return err_set(reterr, RC_IO, "connection lost without a TLS close");
    }
    why = ERR_reason_error_string(e);
    return err_set(reterr, reason == ERR_R_MALLOC_FAILURE ? RC_NOMEM : RC_IO, "TLS: %s",
                   why != NULL ? why : "unknown");
}

enum rc rc_from_openssl(struct err *reterr, const char *what)
{
    unsigned long e = ERR_get_error();
    const char *text = e != 0 ? ERR_reason_error_string(e) : NULL;

    ERR_clear_error();
    return err_set(reterr, ERR_GET_REASON(e) == ERR_R_MALLOC_FAILURE ? RC_NOMEM : RC_INVAL,
                   "%s: %s", what, text != NULL ? text : "unknown error of OpenSSL");
}
