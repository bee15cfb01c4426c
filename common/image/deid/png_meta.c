/* common/image/deid/png_meta.c - a PNG's chunks (W3C PNG, third edition), each with its CRC.
 *
 * Chunks that describe pixels and colours stay; texts, times, EXIF and unknown ancillary chunks go.
 * An unknown critical chunk means that the picture is not what we think: malformed. */
#include "common/image/deid/deid_priv.h"
#include <zlib.h>

#define PIXELS_MAX 400000000ull
#define CHUNK_TYPE(s)                                                                              \
    ((uint32_t)(s)[0] << 24 | (uint32_t)(s)[1] << 16 | (uint32_t)(s)[2] << 8 | (uint32_t)(s)[3])

static bool is_type(uint32_t type, const char *s)
{
    return type == CHUNK_TYPE(s);
}

static bool in_list(uint32_t type, const char *const *list, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (is_type(type, list[i])) return true;
    }
    return false;
}

static enum rc crc_of(struct reader *in, uint32_t type, uint64_t len, uint8_t *keep, size_t keep_n,
                      struct err *reterr)
{
    uint8_t b[4096];
    uLong crc;
    size_t at = 0;

    be_put32(b, type);
    crc = crc32(0, b, 4);
    while (len > 0) {
        size_t n = (size_t)MIN((uint64_t)sizeof(b), len);
        enum rc rc = reader_take(in, b, n, reterr);

        if (rc != RC_OK) return rc;
        crc = crc32(crc, b, (uInt)n);
        if (at < keep_n) memcpy(keep + at, b, MIN(n, keep_n - at));
        at += n;
        len -= n;
    }
    if (reader_take(in, b, 4, reterr) != RC_OK || be_get32(b) != (uint32_t)crc)
        return err_set(reterr, RC_CORRUPT, "PNG: a chunk's checksum");
    return RC_OK;
}

static enum rc judge(struct deid_run *r, uint32_t type, const uint8_t *p, size_t n, uint64_t len,
                     bool *ret_drop, struct err *reterr)
{
    static const char *const KEEP[] = {"IHDR", "PLTE", "IDAT", "IEND", "tRNS", "gAMA", "cHRM",
                                       "sRGB", "iCCP", "sBIT", "bKGD", "hIST", "pHYs", "cICP",
                                       "mDCV", "cLLI", "acTL", "fcTL", "fdAT"};
    static const char *const TEXT[] = {"tEXt", "zTXt", "iTXt"};
    enum deid_rule rule = DEID_UNKNOWN;

    if (is_type(type, "IHDR") && be_get(p, 4) * be_get(p + 4, 4) > PIXELS_MAX)
        return err_set(reterr, RC_BUSY, "PNG: too many pixels");
    if (in_list(type, KEEP, ARRAY_N(KEEP))) return RC_OK;
    if ((type >> 24 & 0x20) == 0)
        return err_set(reterr, RC_CORRUPT, "PNG: an unknown critical chunk");
    *ret_drop = true;
    if (in_list(type, TEXT, ARRAY_N(TEXT))) {
        rule = n >= 17 && memcmp(p, "XML:com.adobe.xmp", 17) == 0 ? DEID_XMP : DEID_COMMENT;
    } else if (is_type(type, "tIME")) {
        rule = DEID_DATE;
    } else if (is_type(type, "eXIf")) {
        uint64_t told_n = r->told_n;
        uint32_t ignored;

        rule = DEID_METADATA;
        if (n == len && deid_exif(r, p, n, &ignored) == RC_OK) {
            *ret_drop = r->told_n > told_n;
            return RC_OK;
        }
    }
    run_find(r, rule, DEID_REMOVED, DEID_AT_PNG, &type, 1);
    return RC_OK;
}

enum rc deid_png(struct deid_run *r, struct err *reterr)
{
    struct reader in = {.src = r->src, .buf = r->buf, .at = 8};
    uint8_t head[8], *keep;
    uint64_t kept = 0;
    uint32_t type = 0;
    enum rc rc = RC_OK;

    if (r->src->size > DEID_READ_BYTES_MAX) return err_set(reterr, RC_BUSY, "PNG: too long");
    keep = calloc(1, DEID_COPY_BYTES);
    if (keep == NULL) return err_set(reterr, RC_NOMEM, "PNG");
    for (bool first = true; rc == RC_OK && !is_type(type, "IEND"); first = false) {
        uint64_t start = in.at, len;
        bool drop = false;

        rc = reader_take(&in, head, 8, reterr);
        if (rc != RC_OK) break;
        len = be_get32(head);
        type = be_get32(head + 4);
        if (first && (!is_type(type, "IHDR") || len != 13)) {
            rc = err_set(reterr, RC_CORRUPT, "PNG: no header");
            break;
        }
        rc = crc_of(&in, type, len, keep, DEID_COPY_BYTES, reterr);
        if (rc == RC_OK)
            rc = judge(r, type, keep, (size_t)MIN(len, (uint64_t)DEID_COPY_BYTES), len, &drop,
                       reterr);
        if (rc == RC_OK && drop) {
            rc = run_copy(r, kept, start - kept, reterr);
            kept = in.at;
        }
    }
    free(keep);
    if (rc != RC_OK) return rc;
    if (in.at < r->src->size) run_find(r, DEID_TRAILER, DEID_REMOVED, DEID_AT_FILE, NULL, 0);
    if (r->p->plain == DEID_PIXELS_QUARANTINE) run_find_file(r, DEID_PIXELS);
    return run_copy(r, kept, in.at - kept, reterr);
}
