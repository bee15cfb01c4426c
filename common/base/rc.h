/* common/base/rc.h - result codes, each with the gRPC status clients see, and error details. */
#pragma once
#include "common/base/macros.h"

/*  name, gRPC status, text, mikura's exit code is in gateway/cli */
#define RC_MAP(X)                                                                                  \
    X(RC_CANCELED, 1, "closed by its owner")                                                       \
    X(RC_INTERNAL, 13, "a bug or an unexpected answer")                                            \
    X(RC_INVAL, 3, "malformed or out-of-range request")                                            \
    X(RC_DEADLINE, 4, "no answer in time; the outcome may be unknown")                             \
    X(RC_NOTFOUND, 5, "no such object or chunk")                                                   \
    X(RC_EXISTS, 6, "exists already with other content")                                           \
    X(RC_DENIED, 7, "the certificate's role or grants do not allow this")                          \
    X(RC_NOMEM, 8, "out of memory")                                                                \
    X(RC_BUSY, 8, "a limit was reached, retry later")                                              \
    X(RC_FULL, 8, "a disk or quota is full")                                                       \
    X(RC_STALE, 9, "older epoch, lease or version")                                                \
    X(RC_PRECOND, 9, "the state does not allow this")                                              \
    X(RC_ABORTED, 10, "lost against a concurrent change, read again")                              \
    X(RC_RANGE, 11, "past the end")                                                                \
    X(RC_UNIMPL, 12, "not served here")                                                            \
    X(RC_UNAVAIL, 14, "too few replicas or no connection, retry")                                  \
    X(RC_IO, 14, "disk, network or device failed")                                                 \
    X(RC_CORRUPT, 15, "checksum or format mismatch")                                               \
    X(RC_UNAUTH, 16, "no valid certificate")
#define RC_ENUM(name, grpc, text) name,
enum rc { RC_OK = 0, RC_MAP(RC_ENUM) RC_N };

/* Filled once, by the code that detects the fault; says what to do where a user can do it. */
struct err {
    enum rc rc;
    char msg[512];
};

/* Sets *e (if not NULL) and returns rc. */
enum rc err_set(struct err *e, enum rc rc, const char *fmt, ...) PRINTF_LIKE(3, 4);
/* Puts "text: " before the message that is there. Returns e's rc. */
enum rc err_prefix(struct err *e, const char *fmt, ...) PRINTF_LIKE(2, 3);

const char *rc_name(enum rc rc);  /* "RC_STALE" */
const char *rc_text(enum rc rc);  /* static text of RC_MAP */
int rc_grpc(enum rc rc);          /* gRPC status code */
enum rc rc_from_grpc(int status); /* the first rc with that status; 2 and unknown: RC_INTERNAL */
enum rc rc_from_errno(int err);   /* ENOENT: NOTFOUND, ENOMEM: NOMEM, ENOSPC: FULL, ... else IO */
