/* gateway/ingest/name.c - see name.h. Normalisation by utf8proc; all other rules here. */
#include "gateway/ingest/name.h"
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

static enum rc check_text(const char *what, struct slice s, struct err *reterr)
{
    utf8proc_uint8_t *nfc = NULL;
    utf8proc_ssize_t n;
    enum rc rc = RC_OK;

    if (s.n == 0) return err_set(reterr, RC_INVAL, "%s: empty", what);
    if (s.n > NAME_BYTES_MAX) {
        return err_set(reterr, RC_INVAL, "%s: %zu bytes, at most %u", what, s.n, NAME_BYTES_MAX);
    }
    for (size_t at = 0; at < s.n;) {
        utf8proc_int32_t c;

        n = utf8proc_iterate(s.p + at, (utf8proc_ssize_t)(s.n - at), &c);
        if (n <= 0) return err_set(reterr, RC_INVAL, "%s: not UTF-8 at byte %zu", what, at);
        if (c < 0x20 || (c >= 0x7f && c < 0xa0) || c == 0x2028 || c == 0x2029) {
            return err_set(reterr, RC_INVAL, "%s: control character U+%04X at byte %zu", what,
                           (unsigned)c, at);
        }
        at += (size_t)n;
    }
    n = utf8proc_map(s.p, (utf8proc_ssize_t)s.n, &nfc,
                     (utf8proc_option_t)(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
    if (n == UTF8PROC_ERROR_NOMEM) return err_set(reterr, RC_NOMEM, "%s", what);
    if (n < 0) {
        rc = err_set(reterr, RC_INVAL, "%s: not UTF-8", what);
    } else if ((size_t)n != s.n || memcmp(nfc, s.p, s.n) != 0) {
        rc = err_set(reterr, RC_INVAL, "%s: not in Unicode normalisation form NFC", what);
    }
    free(nfc);
    return rc;
}

static enum rc check_segment(const char *what, const uint8_t *p, size_t n, struct err *reterr)
{
    if (n == 0)
        return err_set(reterr, RC_INVAL, "%s: an empty segment ('//' or '/' at an end)", what);
    if (n == 1 && p[0] == '.') return err_set(reterr, RC_INVAL, "%s: a segment '.'", what);
    if (n == 2 && p[0] == '.' && p[1] == '.') {
        return err_set(reterr, RC_INVAL, "%s: a segment '..'", what);
    }
    return RC_OK;
}

enum rc name_check_case(struct slice name, struct err *reterr)
{
    enum rc rc = check_text("case id", name, reterr);

    if (rc != RC_OK) return rc;
    if (memchr(name.p, '/', name.n) != NULL) {
        return err_set(reterr, RC_INVAL, "case id: '/' is not allowed");
    }
    return check_segment("case id", name.p, name.n, reterr);
}

enum rc name_check_path(struct slice path, struct err *reterr)
{
    enum rc rc = check_text("object path", path, reterr);
    size_t from = 0;

    for (size_t i = 0; rc == RC_OK && i <= path.n; i++) {
        if (i < path.n && path.p[i] != '/') continue;
        rc = check_segment("object path", path.p + from, i - from, reterr);
        from = i + 1;
    }
    return rc;
}

enum rc name_check_collection(struct slice name, struct err *reterr)
{
    if (name.n == 0 || name.n > 63) {
        return err_set(reterr, RC_INVAL, "name: %zu bytes, 1 to 63 are allowed", name.n);
    }
    if (name.p[0] < 'a' || name.p[0] > 'z') {
        return err_set(reterr, RC_INVAL, "name: must start with a letter a-z");
    }
    for (size_t i = 0; i < name.n; i++) {
        uint8_t c = name.p[i];

        if ((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-') continue;
        return err_set(reterr, RC_INVAL, "name: byte %zu is none of a-z, 0-9 and '-'", i);
    }
    return RC_OK;
}
