/* common/image/deid/jpeg_meta.c - a JPEG's segments (ITU-T T.81 Annex B), from SOI to EOI.
 *
 * What decoding needs stays (tables, frames, scans, JFIF, an ICC profile, Adobe's colour mark);
 * every other segment goes. Nothing is decoded: entropy-coded data is only searched for its end. */
#include "common/image/deid/deid_priv.h"

#define PIXELS_MAX 400000000ull

struct jpeg {
    struct deid_run *r;
    struct reader in;
    uint64_t kept; /* everything before is written */
    uint32_t orientation;
    bool exif_gone;
};

static void told(struct jpeg *j, enum deid_rule rule, uint8_t marker)
{
    const uint32_t m = marker;

    run_find(j->r, rule, DEID_REMOVED, DEID_AT_JPEG, &m, 1);
}

static bool begins(const uint8_t *p, size_t n, const char *text, size_t text_n)
{
    return n >= text_n && memcmp(p, text, text_n) == 0;
}
#define BEGINS(p, n, text) begins(p, n, text, sizeof(text) - 1)

static bool blank(const uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (p[i] != 0 && p[i] != ' ' && p[i] != '\r' && p[i] != '\n') return false;
    }
    return true;
}

/* The rule that an application segment or comment breaks; DEID_RULE_N: none. */
static enum rc judge(struct jpeg *j, uint8_t marker, const uint8_t *p, size_t n,
                     enum deid_rule *ret, struct err *reterr)
{
    *ret = DEID_METADATA;
    switch (marker) {
    case 0xe0:
        if (BEGINS(p, n, "JFIF\0") && n == 14 && p[12] == 0 && p[13] == 0) *ret = DEID_RULE_N;
        if (BEGINS(p, n, "JFXX\0") || (BEGINS(p, n, "JFIF\0") && n != 14)) *ret = DEID_THUMBNAIL;
        break;
    case 0xe1:
        if (BEGINS(p, n, "http://ns.adobe.com/x")) *ret = DEID_XMP;
        if (BEGINS(p, n, "Exif\0")) { /* tells itself what is wrong inside */
            uint64_t told_n = j->r->told_n;
            uint32_t orientation = 1;
            enum rc rc = deid_exif(j->r, p + 6, n < 6 ? 0 : n - 6, &orientation);

            if (rc == RC_CORRUPT) return RC_OK; /* DEID_METADATA */
            if (rc != RC_OK) return err_set(reterr, rc, "EXIF");
            j->orientation = orientation;
            *ret = DEID_RULE_N;
            j->exif_gone = j->r->told_n > told_n;
        }
        break;
    case 0xe2:
        if (BEGINS(p, n, "ICC_PROFILE\0") && n > 14) *ret = DEID_RULE_N;
        if (BEGINS(p, n, "MPF\0")) *ret = DEID_THUMBNAIL;
        break;
    case 0xed:
        *ret = DEID_IPTC;
        break;
    case 0xee:
        if (BEGINS(p, n, "Adobe") && n == 12) *ret = DEID_RULE_N;
        break;
    case 0xfe:
        *ret = blank(p, n) ? DEID_RULE_N : deid_by_endoscope(p, n) ? DEID_ENDOSCOPE : DEID_COMMENT;
        break;
    default:
        break;
    }
    return RC_OK;
}

/* An EXIF block that only says which way is up. */
static enum rc write_orientation(struct jpeg *j, struct err *reterr)
{
    uint8_t b[36] = {0xff, 0xe1, 0,    34,   'E', 'x', 'i', 'f', 0, 0, 'M', 'M', 0, 42, 0, 0, 0, 8,
                     0,    1,    0x01, 0x12, 0,   3,   0,   0,   0, 1, 0,   0,   0, 0,  0, 0, 0, 0};

    if (j->orientation <= 1 || j->orientation > 8) return RC_OK;
    b[29] = (uint8_t)j->orientation;
    return run_data(j->r, b, sizeof(b), reterr);
}

static enum rc segment(struct jpeg *j, uint8_t marker, uint64_t start, struct err *reterr)
{
    static uint8_t empty[1];
    uint8_t len_b[2], *p = empty;
    enum deid_rule rule = DEID_RULE_N;
    size_t n;
    enum rc rc = reader_take(&j->in, len_b, 2, reterr);

    if (rc != RC_OK) return rc;
    n = (size_t)be_get(len_b, 2);
    if (n < 2) return err_set(reterr, RC_CORRUPT, "JPEG: a segment's length");
    n -= 2;
    if (n > 0) p = malloc(n);
    if (p == NULL) return err_set(reterr, RC_NOMEM, "JPEG");
    for (size_t at = 0; rc == RC_OK && at < n; at += 4096)
        rc = reader_take(&j->in, p + at, MIN((size_t)4096, n - at), reterr);
    j->exif_gone = false;
    if (rc == RC_OK && ((marker >= 0xe0 && marker <= 0xef) || marker == 0xfe)) {
        rc = judge(j, marker, p, n, &rule, reterr);
    } else if (rc == RC_OK && marker >= 0xc0 && marker <= 0xcf && marker != 0xc4 &&
               marker != 0xcc && n >= 5 && be_get(p + 1, 2) * be_get(p + 3, 2) > PIXELS_MAX) {
        rc = err_set(reterr, RC_BUSY, "JPEG: too many pixels");
    } else if (marker < 0xc0 || marker > 0xdf) {
        rule = DEID_UNKNOWN;
    }
    if (rc == RC_OK && rule != DEID_RULE_N) told(j, rule, marker);
    if (rc == RC_OK && (rule != DEID_RULE_N || j->exif_gone)) {
        rc = run_copy(j->r, j->kept, start - j->kept, reterr);
        j->kept = j->in.at;
        if (rc == RC_OK && j->exif_gone) rc = write_orientation(j, reterr);
    }
    if (p != empty) free(p);
    return rc;
}

/* The next marker; in entropy-coded data (scan) stuffed zeros and restart marks are passed over. */
static enum rc next_marker(struct jpeg *j, bool scan, uint8_t *ret_marker, uint64_t *ret_start,
                           struct err *reterr)
{
    uint8_t b = 0;
    enum rc rc;

    for (;;) {
        do {
            rc = reader_take(&j->in, &b, 1, reterr);
            if (rc != RC_OK) return rc;
            if (b != 0xff && !scan)
                return err_set(reterr, RC_CORRUPT, "JPEG: bytes between segments");
        } while (b != 0xff);
        *ret_start = j->in.at - 1;
        while (b == 0xff) {
            rc = reader_take(&j->in, &b, 1, reterr);
            if (rc != RC_OK) return rc;
        }
        if (scan && (b == 0 || (b >= 0xd0 && b <= 0xd7))) continue;
        if (b == 0) return err_set(reterr, RC_CORRUPT, "JPEG: a marker");
        *ret_marker = b;
        return RC_OK;
    }
}

/* Zeros behind the end are padding; anything else was hidden there. */
static enum rc trailer(struct jpeg *j, struct err *reterr)
{
    while (j->in.at < j->in.src->size) {
        uint8_t b[4096];
        size_t n = (size_t)MIN((uint64_t)sizeof(b), j->in.src->size - j->in.at);
        enum rc rc = reader_take(&j->in, b, n, reterr);

        if (rc != RC_OK) return rc;
        for (size_t i = 0; i < n; i++) {
            if (b[i] == 0) continue;
            run_find(j->r, DEID_TRAILER, DEID_REMOVED, DEID_AT_FILE, NULL, 0);
            return RC_OK;
        }
    }
    return RC_OK;
}

enum rc deid_jpeg(struct deid_run *r, struct err *reterr)
{
    struct jpeg j = {.r = r, .in = {.src = r->src, .buf = r->buf}};
    bool scan = false;
    uint64_t start, end;
    uint8_t marker, soi[2];
    enum rc rc;

    if (r->src->size > DEID_READ_BYTES_MAX) return err_set(reterr, RC_BUSY, "JPEG: too long");
    rc = reader_take(&j.in, soi, 2, reterr);
    while (rc == RC_OK) {
        rc = next_marker(&j, scan, &marker, &start, reterr);
        if (rc != RC_OK || marker == 0xd9) break;
        if (marker == 0xd8 || marker == 0x01 || (marker >= 0xd0 && marker <= 0xd7))
            return err_set(reterr, RC_CORRUPT, "JPEG: a marker in the wrong place");
        rc = segment(&j, marker, start, reterr);
        scan = marker == 0xda;
    }
    if (rc != RC_OK) return rc;
    end = j.in.at;
    if (r->p->plain == DEID_PIXELS_QUARANTINE) run_find_file(r, DEID_PIXELS);
    rc = trailer(&j, reterr);
    return rc == RC_OK ? run_copy(r, j.kept, end - j.kept, reterr) : rc;
}
