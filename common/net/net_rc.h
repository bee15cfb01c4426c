/* common/net/net_rc.h - foreign error codes of this folder's libraries, mapped in one place each.
 */
#pragma once
#include "common/base/rc.h"
#include <openssl/ssl.h>

enum rc rc_from_uv(int status);      /* a negative uv error; 0 is RC_OK */
enum rc rc_from_nghttp2(int status); /* a negative nghttp2 error; 0 is RC_OK */

/* The outcome of SSL_do_handshake, SSL_read or SSL_write that returned `ret` <= 0, with the error
 * queue as that call left it: RC_BUSY (try again when the socket is ready; reterr untouched),
 * RC_RANGE (the peer closed cleanly), RC_UNAUTH (one side refused the other's certificate; says
 * which side and why), RC_IO (socket or protocol), RC_NOMEM. */
enum rc rc_from_ssl(SSL *ssl, int ret, struct err *reterr);
/* The oldest error of OpenSSL's queue, which is emptied: for files and contexts. */
enum rc rc_from_openssl(struct err *reterr, const char *what);
