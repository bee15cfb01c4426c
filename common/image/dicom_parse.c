/* common/image/dicom_parse.c - the walk over a DICOM data set (PS3.5 section 7, PS3.10 section 7).
 *
 * Bounds: each step reads at least 8 bytes further, so a walk ends; DCM_STEPS_MAX ends it earlier
 * for a file that is millions of empty elements. */
#include "common/image/dicom_parse.h"
#include "common/base/le.h"
#include <stdlib.h>
#include <zlib.h>

enum { DCM_STEPS_MAX = 4 * 1000 * 1000 };

static const uint32_t wanted[] = {
    DCM_TAG(0x0002, 0x0010), DCM_TAG(0x0008, 0x0008), DCM_TAG(0x0008, 0x0016),
    DCM_TAG(0x0008, 0x0018), DCM_TAG(0x0008, 0x0060), DCM_TAG(0x0018, 0x0015),
    DCM_TAG(0x0018, 0x0050), DCM_TAG(0x0020, 0x000d), DCM_TAG(0x0020, 0x000e),
    DCM_TAG(0x0020, 0x0013), DCM_TAG(0x0020, 0x0032), DCM_TAG(0x0020, 0x0037),
    DCM_TAG(0x0020, 0x0060), DCM_TAG(0x0028, 0x0002), DCM_TAG(0x0028, 0x0004),
    DCM_TAG(0x0028, 0x0006), DCM_TAG(0x0028, 0x0008), DCM_TAG(0x0028, 0x0010),
    DCM_TAG(0x0028, 0x0011), DCM_TAG(0x0028, 0x0030), DCM_TAG(0x0028, 0x0100),
    DCM_TAG(0x0028, 0x0101), DCM_TAG(0x0028, 0x0102), DCM_TAG(0x0028, 0x0103),
    DCM_TAG(0x0028, 0x0120), DCM_TAG(0x0028, 0x1050), DCM_TAG(0x0028, 0x1051),
    DCM_TAG(0x0028, 0x1052), DCM_TAG(0x0028, 0x1053), DCM_TAG(0x0028, 0x1101),
    DCM_TAG(0x0028, 0x1102), DCM_TAG(0x0028, 0x1103), DCM_TAG(0x0028, 0x1201),
    DCM_TAG(0x0028, 0x1202), DCM_TAG(0x0028, 0x1203), DCM_TAG(0x0028, 0x1221),
    DCM_TAG(0x0048, 0x0006), DCM_TAG(0x0048, 0x0007), DCM_TAG(0x7fe0, 0x0008),
    DCM_TAG(0x7fe0, 0x0009), DCM_TAG(0x7fe0, 0x0010),
};
_Static_assert(ARRAY_N(wanted) <= DCM_ELEMS_MAX, "one slot each");

enum rc dcm_bytes(struct dcm *d, uint64_t off, void *buf, size_t n, struct err *reterr)
{
    enum rc rc;

    if (n > sizeof(d->peek)) return image_source_read(&d->src, off, buf, n, reterr);
    if (off < d->peek_off || off + n > d->peek_off + d->peek_n) {
        size_t fill =
            off >= d->src.size ? 0 : (size_t)MIN((uint64_t)sizeof(d->peek), d->src.size - off);

        if (fill < n) {
            return err_set(reterr, RC_CORRUPT,
                           "DICOM: ends early: an element at offset %llu, the object has %llu",
                           (unsigned long long)off, (unsigned long long)d->src.size);
        }
        d->peek_n = 0;
        rc = image_source_read(&d->src, off, d->peek, fill, reterr);
        if (rc != RC_OK) return rc;
        d->peek_off = off;
        d->peek_n = fill;
    }
    memcpy(buf, d->peek + (off - d->peek_off), n);
    return RC_OK;
}

static uint64_t uint_of(const uint8_t *p, unsigned n, bool big_endian)
{
    return big_endian ? be_get(p, n) : le_get(p, n);
}

/* VRs with a 4-byte length after two reserved bytes */
static bool vr_is_long(const char vr[3])
{
    static const char longs[] = "OB OW OD OF OL OV SQ UC UN UR UT SV UV ";

    return vr[0] != '\0' && strstr(longs, vr) != NULL;
}

enum rc dcm_header(struct dcm *d, uint64_t *at, bool explicit_vr, struct dcm_elem *ret_e,
                   struct err *reterr)
{
    struct dcm_elem e = {0};
    uint8_t b[12];
    enum rc rc = dcm_bytes(d, *at, b, 8, reterr);

    if (rc != RC_OK) return rc;
    e.tag =
        DCM_TAG((uint32_t)uint_of(b, 2, d->big_endian), (uint32_t)uint_of(b + 2, 2, d->big_endian));
    if (!explicit_vr || e.tag >> 16 == 0xfffe) {
        e.len = (uint32_t)uint_of(b + 4, 4, d->big_endian);
        *at += 8;
    } else {
        e.vr[0] = (char)b[4];
        e.vr[1] = (char)b[5];
        if (b[4] < 'A' || b[4] > 'Z' || b[5] < 'A' || b[5] > 'Z') {
            return err_set(reterr, RC_CORRUPT, "DICOM: element (%04x,%04x) has no value type",
                           e.tag >> 16, e.tag & 0xffff);
        }
        if (vr_is_long(e.vr)) {
            rc = dcm_bytes(d, *at, b, 12, reterr);
            if (rc != RC_OK) return rc;
            e.len = (uint32_t)uint_of(b + 8, 4, d->big_endian);
            *at += 12;
        } else {
            e.len = (uint32_t)uint_of(b + 6, 2, d->big_endian);
            *at += 8;
        }
    }
    e.off = *at;
    *ret_e = e;
    return RC_OK;
}

static void keep(struct dcm *d, const struct dcm_elem *e)
{
    if (dcm_find(d, e->tag) != NULL) return;
    for (size_t i = 0; i < ARRAY_N(wanted); i++) {
        if (wanted[i] == e->tag) d->elem[d->elem_n++] = *e;
    }
}

static enum rc skip_value(const struct dcm *d, const struct dcm_elem *e, uint64_t *at,
                          struct err *reterr)
{
    if (e->len > d->src.size - *at) {
        return err_set(reterr, RC_CORRUPT,
                       "DICOM: element (%04x,%04x) says %u bytes, %llu are left", e->tag >> 16,
                       e->tag & 0xffff, e->len, (unsigned long long)(d->src.size - *at));
    }
    *at += e->len;
    return RC_OK;
}

/* The data set from `at` to the pixel data or the end. depth counts open undefined lengths;
 * un_depth is where an UN of undefined length began: inside it all is implicit VR (PS3.5 6.2.2). */
static enum rc walk(struct dcm *d, uint64_t at, struct err *reterr)
{
    uint32_t depth = 0, un_depth = 0;
    struct dcm_elem e;
    enum rc rc;

    for (uint32_t step = 0; at < d->src.size; step++) {
        uint32_t group;

        if (step >= DCM_STEPS_MAX) {
            return err_set(reterr, RC_BUSY, "DICOM: more than %d elements", DCM_STEPS_MAX);
        }
        if (depth == 0 && d->src.size - at < 8) return RC_OK; /* padding */
        rc = dcm_header(d, &at, d->explicit_vr && un_depth == 0, &e, reterr);
        if (rc != RC_OK) return rc;
        group = e.tag >> 16;
        if (group == 0xfffe) {
            uint32_t kind = e.tag & 0xffff;

            if (kind == 0xe000 && e.len == DCM_LEN_UNDEFINED) {
                depth++;
            } else if (kind == 0xe00d || kind == 0xe0dd) {
                if (depth == 0) {
                    return err_set(reterr, RC_CORRUPT, "DICOM: a delimiter outside a sequence");
                }
                depth--;
                if (depth < un_depth) un_depth = 0;
            } else if ((rc = skip_value(d, &e, &at, reterr)) != RC_OK) {
                return rc;
            }
            continue;
        }
        if (depth == 0) keep(d, &e);
        if (depth == 0 && group == 0x7fe0 && (e.tag & 0xffff) >= 8 && (e.tag & 0xffff) <= 0x10) {
            return RC_OK;
        }
        if (e.len == DCM_LEN_UNDEFINED) {
            depth++;
            if (un_depth == 0 && strcmp(e.vr, "UN") == 0) un_depth = depth;
            continue;
        }
        rc = skip_value(d, &e, &at, reterr);
        if (rc != RC_OK) return rc;
    }
    if (depth > 0) return err_set(reterr, RC_CORRUPT, "DICOM: ends inside a sequence");
    return RC_OK;
}

/* Group 2 is always explicit little-endian; *at moves behind it. */
static enum rc walk_meta(struct dcm *d, uint64_t *at, struct err *reterr)
{
    uint8_t b[4];
    struct dcm_elem e;
    enum rc rc = RC_OK;

    d->explicit_vr = true;
    d->big_endian = false;
    while (d->src.size - *at >= 8) {
        uint64_t next = *at;

        rc = dcm_bytes(d, *at, b, 4, reterr);
        if (rc != RC_OK || le_get16(b) != 0x0002) return rc;
        rc = dcm_header(d, &next, true, &e, reterr);
        if (rc == RC_OK) rc = skip_value(d, &e, &next, reterr);
        if (rc != RC_OK) return rc;
        keep(d, &e);
        *at = next;
    }
    return rc;
}

static enum rc inflate_from(struct dcm *d, uint64_t at, uint64_t memory_bytes_max,
                            struct err *reterr)
{
    z_stream z = {0};
    uint8_t in[16384];
    uint64_t cap = 1u << 20;
    uint8_t *p = malloc((size_t)cap), *q;
    int zr = Z_OK;
    enum rc rc = RC_OK;

    if (p == NULL || inflateInit2(&z, -15) != Z_OK) {
        free(p);
        return err_set(reterr, RC_NOMEM, "deflated DICOM");
    }
    while (zr == Z_OK && at < d->src.size) {
        size_t n = (size_t)MIN((uint64_t)sizeof(in), d->src.size - at);

        rc = image_source_read(&d->src, at, in, n, reterr);
        if (rc != RC_OK) goto out;
        at += n;
        z.next_in = in;
        z.avail_in = (uInt)n;
        while (zr == Z_OK && z.avail_in > 0) {
            if (z.total_out == cap) {
                cap *= 2;
                if (cap > memory_bytes_max / 4) {
                    rc = err_set(reterr, RC_BUSY, "deflated DICOM: over %llu bytes",
                                 (unsigned long long)(memory_bytes_max / 4));
                    goto out;
                }
                q = realloc(p, (size_t)cap);
                if (q == NULL) {
                    rc = err_set(reterr, RC_NOMEM, "deflated DICOM");
                    goto out;
                }
                p = q;
            }
            z.next_out = p + z.total_out;
            z.avail_out = (uInt)MIN(cap - z.total_out, (uint64_t)1 << 30);
            zr = inflate(&z, Z_NO_FLUSH);
        }
    }
    if (zr != Z_STREAM_END) {
        rc = err_set(reterr, RC_CORRUPT, "deflated DICOM: the stream breaks off");
        goto out;
    }
    d->inflated_p = p;
    p = NULL;
    image_source_mem_init(&d->inflated, d->inflated_p, (size_t)z.total_out, &d->src);
    d->peek_n = 0;
out:
    (void)inflateEnd(&z); /* has no outcome that matters here */
    free(p);
    return rc;
}

/* No transfer syntax: letters after the first tag mean explicit VR; group 0008 read as 0800 means
 * big-endian. */
static void guess_syntax(struct dcm *d, uint64_t at)
{
    uint8_t b[8] = {0};
    struct err ignored;

    if (dcm_bytes(d, at, b, sizeof(b), &ignored) != RC_OK) return; /* walk() says what is wrong */
    d->big_endian = b[0] == 0 && b[1] != 0;
    d->explicit_vr = b[4] >= 'A' && b[4] <= 'Z' && b[5] >= 'A' && b[5] <= 'Z';
    memcpy(d->syntax, "1.2.840.10008.1.2", 18);
    if (d->explicit_vr) memcpy(d->syntax, "1.2.840.10008.1.2.1", 20);
    if (d->big_endian) memcpy(d->syntax, "1.2.840.10008.1.2.2", 20);
}

enum rc dcm_open(struct dcm *d, const struct image_source *src, uint64_t memory_bytes_max,
                 uint64_t *ret_at, struct err *reterr)
{
    uint8_t b[132];
    uint64_t at = 0;
    enum rc rc;

    memset(d, 0, sizeof(*d));
    d->src = *src;
    if (src->size >= sizeof(b)) {
        rc = dcm_bytes(d, 0, b, sizeof(b), reterr);
        if (rc != RC_OK) return rc;
        if (memcmp(b + 128, "DICM", 4) == 0) at = sizeof(b);
    }
    rc = walk_meta(d, &at, reterr);
    if (rc != RC_OK) return rc;
    if (at >= d->src.size) return err_set(reterr, RC_CORRUPT, "DICOM: no data set");
    dcm_text(d, DCM_TAG(0x0002, 0x0010), d->syntax, sizeof(d->syntax));
    d->explicit_vr = strcmp(d->syntax, "1.2.840.10008.1.2") != 0;
    d->big_endian = strcmp(d->syntax, "1.2.840.10008.1.2.2") == 0;
    if (d->syntax[0] == '\0') guess_syntax(d, at);
    if (strcmp(d->syntax, "1.2.840.10008.1.2.1.99") == 0) {
        rc = inflate_from(d, at, memory_bytes_max, reterr);
        if (rc != RC_OK) return rc;
        at = 0;
        /* what was kept of the meta header points into the file: the syntax was read already */
        d->elem_n = 0;
    }
    *ret_at = at;
    return RC_OK;
}

enum rc dcm_parse(struct dcm *d, const struct image_source *src, uint64_t memory_bytes_max,
                  struct err *reterr)
{
    uint64_t at;
    enum rc rc = dcm_open(d, src, memory_bytes_max, &at, reterr);

    return rc == RC_OK ? walk(d, at, reterr) : rc;
}

void dcm_deinit(struct dcm *d)
{
    free(d->inflated_p);
    d->inflated_p = NULL;
}

const struct dcm_elem *dcm_find(const struct dcm *d, uint32_t tag)
{
    for (uint32_t i = 0; i < d->elem_n; i++) {
        if (d->elem[i].tag == tag) return &d->elem[i];
    }
    return NULL;
}

void dcm_text(struct dcm *d, uint32_t tag, char *text, size_t cap)
{
    const struct dcm_elem *e = dcm_find(d, tag);
    struct err ignored;
    size_t n;

    text[0] = '\0';
    if (e == NULL || e->len == DCM_LEN_UNDEFINED) return;
    n = MIN((size_t)e->len, cap - 1);
    if (dcm_bytes(d, e->off, text, n, &ignored) != RC_OK) n = 0;
    while (n > 0 && (text[n - 1] == ' ' || text[n - 1] == '\0'))
        n--;
    text[n] = '\0';
}

uint32_t dcm_u16(struct dcm *d, uint32_t tag, uint32_t idx, uint32_t fallback)
{
    const struct dcm_elem *e = dcm_find(d, tag);
    struct err ignored;
    uint8_t b[2];

    if (e == NULL || e->len == DCM_LEN_UNDEFINED || e->len < 2 * (idx + 1)) return fallback;
    if (dcm_bytes(d, e->off + 2 * (uint64_t)idx, b, 2, &ignored) != RC_OK) return fallback;
    return (uint32_t)uint_of(b, 2, d->big_endian);
}

/* strtod depends on the locale; a daemon never sets one, and a decimal string is short. */
bool dcm_number(struct dcm *d, uint32_t tag, uint32_t idx, double *ret_v)
{
    char text[256], *at = text, *end;
    double v;

    dcm_text(d, tag, text, sizeof(text));
    while (idx > 0 && at != NULL) {
        at = strchr(at, '\\');
        if (at != NULL) at++;
        idx--;
    }
    if (at == NULL || *at == '\0') return false;
    v = strtod(at, &end);
    while (*end == ' ')
        end++;
    if (end == at || (*end != '\0' && *end != '\\') || !(v > -1e12 && v < 1e12)) return false;
    *ret_v = v;
    return true;
}
