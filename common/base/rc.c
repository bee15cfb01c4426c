/* common/base/rc.c - see rc.h. */
#include "common/base/rc.h"
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const struct {
    const char *name;
    int grpc;
    const char *text;
} RCS[RC_N] = {{"RC_OK", 0, "ok"},
#define RC_ROW(name, grpc, text) {#name, grpc, text},
               RC_MAP(RC_ROW)
#undef RC_ROW
};

enum rc err_set(struct err *e, enum rc rc, const char *fmt, ...)
{
    va_list ap;

    if (e == NULL) return rc;
    e->rc = rc;
    va_start(ap, fmt);
    (void)vsnprintf(e->msg, sizeof(e->msg), fmt, ap); /* cut when too long */
    va_end(ap);
    return rc;
}

enum rc err_prefix(struct err *e, const char *fmt, ...)
{
    struct err old;
    va_list ap;
    size_t n;

    if (e == NULL) return RC_INTERNAL;
    old = *e;
    va_start(ap, fmt);
    (void)vsnprintf(e->msg, sizeof(e->msg), fmt, ap);
    va_end(ap);
    n = strlen(e->msg);
    (void)snprintf(e->msg + n, sizeof(e->msg) - n, ": %s", old.msg);
    return e->rc;
}

const char *rc_name(enum rc rc)
{
    return (unsigned)rc < RC_N ? RCS[rc].name : "RC_?";
}

const char *rc_text(enum rc rc)
{
    return (unsigned)rc < RC_N ? RCS[rc].text : "unknown result code";
}

int rc_grpc(enum rc rc)
{
    return (unsigned)rc < RC_N ? RCS[rc].grpc : 13;
}

enum rc rc_from_grpc(int status)
{
    switch (status) {
    case 0:
        return RC_OK;
    case 8:
        return RC_BUSY; /* the retryable one of three */
    case 9:
        return RC_PRECOND;
    case 14:
        return RC_UNAVAIL;
    default:
        break;
    }
    for (int i = 1; i < RC_N; i++) {
        if (RCS[i].grpc == status) return (enum rc)i;
    }
    return RC_INTERNAL;
}

enum rc rc_from_errno(int err)
{
    switch (err) {
    case 0:
        return RC_OK;
    case ENOENT:
        return RC_NOTFOUND;
    case ENOMEM:
        return RC_NOMEM;
    case ENOSPC:
    case EDQUOT:
        return RC_FULL;
    case EEXIST:
        return RC_EXISTS;
    case EACCES:
    case EPERM:
        return RC_DENIED;
    case EINVAL:
    case ENAMETOOLONG:
        return RC_INVAL;
    case EAGAIN:
    case EMFILE:
    case ENFILE:
        return RC_BUSY;
    case ECANCELED:
        return RC_CANCELED;
    case ETIMEDOUT:
        return RC_DEADLINE;
    case ECONNREFUSED:
    case ECONNRESET:
    case EPIPE:
    case EHOSTUNREACH:
    case ENETUNREACH:
        return RC_UNAVAIL;
    default:
        return RC_IO;
    }
}
