/* common/image/dicom.c - DICOM frames: finds a frame's bytes, has them decompressed, keeps the last
 * decoded frame.
 *
 * Native frames are read by offset. Encapsulated ones are found by walking the fragments once
 * (8 bytes each): by the basic offset table when it has an entry a frame, else one fragment a
 * frame, else by the first bytes of a codestream. */
#include "common/base/le.h"
#include "common/image/dicom_codec.h"
#include "common/image/dicom_frame.h"
#include "common/image/dicom_parse.h"
#include "common/image/j2k.h"
#include "common/image/jpeg.h"
#include <stdlib.h>

enum { FRAGMENTS_MAX = 1 << 20 }; /* 16 bytes each */

enum codec { CODEC_NATIVE, CODEC_RLE, CODEC_JPEG, CODEC_DCMTK, CODEC_J2K };

static const struct {
    const char *uid;
    enum codec codec;
} syntaxes[] = {
    {"1.2.840.10008.1.2", CODEC_NATIVE},      {"1.2.840.10008.1.2.1", CODEC_NATIVE},
    {"1.2.840.10008.1.2.1.99", CODEC_NATIVE}, {"1.2.840.10008.1.2.2", CODEC_NATIVE},
    {"1.2.840.10008.1.2.5", CODEC_RLE},       {"1.2.840.10008.1.2.4.50", CODEC_JPEG},
    {"1.2.840.10008.1.2.4.51", CODEC_DCMTK},  {"1.2.840.10008.1.2.4.53", CODEC_DCMTK},
    {"1.2.840.10008.1.2.4.55", CODEC_DCMTK},  {"1.2.840.10008.1.2.4.57", CODEC_DCMTK},
    {"1.2.840.10008.1.2.4.70", CODEC_DCMTK},  {"1.2.840.10008.1.2.4.80", CODEC_DCMTK},
    {"1.2.840.10008.1.2.4.81", CODEC_DCMTK},  {"1.2.840.10008.1.2.4.90", CODEC_J2K},
    {"1.2.840.10008.1.2.4.91", CODEC_J2K},    {"1.2.840.10008.1.2.4.201", CODEC_J2K},
    {"1.2.840.10008.1.2.4.202", CODEC_J2K},   {"1.2.840.10008.1.2.4.203", CODEC_J2K},
};

struct fragment {
    uint64_t off; /* of the item's value */
    uint32_t len;
    uint32_t start; /* of the item, from the first fragment's item */
};

struct dicom {
    struct dcm d;
    struct image_limits limits;
    enum codec codec;
    struct dcm_elem pixels;
    uint32_t frame_n, channel_n;
    uint64_t frame_bits;   /* native */
    struct dicom_raw like; /* what a frame's samples are; p is NULL */
    struct dicom_lut lut;
    struct dicom_grey grey;
    bool indexed;
    struct fragment *frag;
    uint32_t frag_n, frag_cap;
    uint32_t *first; /* frame_n + 1 indexes into frag */
    bool cached;
    uint32_t cached_idx;
    uint8_t *pixels8;
};

static void dicom_close(void *impl)
{
    struct dicom *m = impl;

    if (m == NULL) return;
    dcm_deinit(&m->d);
    free(m->lut.rgb);
    free(m->frag);
    free(m->first);
    free(m->pixels8);
    free(m);
}

/* ---- opening ---- */

static enum rc load_lut(struct dicom *m, struct err *reterr)
{
    uint32_t n = dcm_u16(&m->d, DCM_TAG(0x0028, 0x1101), 0, 0);
    uint32_t first = dcm_u16(&m->d, DCM_TAG(0x0028, 0x1101), 1, 0);
    uint32_t bits = dcm_u16(&m->d, DCM_TAG(0x0028, 0x1101), 2, 16);
    uint8_t *data = NULL;
    enum rc rc = RC_OK;

    if (dcm_find(&m->d, DCM_TAG(0x0028, 0x1221)) != NULL) {
        return err_set(reterr, RC_UNIMPL, "DICOM: a segmented palette");
    }
    if (n == 0) n = 65536;
    m->lut = (struct dicom_lut){
        .first = m->like.is_signed ? (int16_t)first : (int32_t)first, .n = n, .rgb = calloc(n, 3)};
    data = malloc(2 * (size_t)n);
    if (m->lut.rgb == NULL || data == NULL) {
        rc = err_set(reterr, RC_NOMEM, "palette");
        goto out;
    }
    for (uint32_t c = 0; c < 3; c++) {
        const struct dcm_elem *e = dcm_find(&m->d, DCM_TAG(0x0028, 0x1201 + c));
        bool words = e != NULL && e->len >= 2 * n;

        if (e == NULL || e->len == DCM_LEN_UNDEFINED || e->len < n) {
            rc = err_set(reterr, RC_CORRUPT, "DICOM: the palette is missing or too short");
            goto out;
        }
        rc = dcm_bytes(&m->d, e->off, data, words ? 2 * (size_t)n : n, reterr);
        if (rc != RC_OK) goto out;
        for (uint32_t i = 0; i < n; i++) {
            uint32_t v = data[i];

            if (words) {
                v = m->d.big_endian ? (uint32_t)be_get(data + 2 * (size_t)i, 2)
                                    : le_get16(data + 2 * (size_t)i);
                if (bits > 8) v >>= 8;
            }
            m->lut.rgb[3 * (size_t)i + c] = (uint8_t)v;
        }
    }
out:
    free(data);
    return rc;
}

static void load_grey(struct dicom *m)
{
    struct dicom_grey *g = &m->grey;
    const struct dcm_elem *pad = dcm_find(&m->d, DCM_TAG(0x0028, 0x0120));

    g->slope = 1;
    if (!dcm_number(&m->d, DCM_TAG(0x0028, 0x1052), 0, &g->intercept)) g->intercept = 0;
    if (!dcm_number(&m->d, DCM_TAG(0x0028, 0x1053), 0, &g->slope)) g->slope = 1;
    if (g->slope > -1e-12 && g->slope < 1e-12) g->slope = 1;
    g->window = dcm_number(&m->d, DCM_TAG(0x0028, 0x1050), 0, &g->center) &&
                dcm_number(&m->d, DCM_TAG(0x0028, 0x1051), 0, &g->width) && g->width >= 1;
    if (pad != NULL && pad->len == 2) {
        uint32_t v = dcm_u16(&m->d, DCM_TAG(0x0028, 0x0120), 0, 0);

        g->padding = true;
        g->padding_value = m->like.is_signed ? (int16_t)v : (int32_t)v;
    }
}

static enum rc load_header(struct dicom *m, struct err *reterr)
{
    struct dicom_raw *r = &m->like;
    struct dcm *d = &m->d;
    double frames = 1;

    r->height = dcm_u16(d, DCM_TAG(0x0028, 0x0010), 0, 0);
    r->width = dcm_u16(d, DCM_TAG(0x0028, 0x0011), 0, 0);
    r->samples = dcm_u16(d, DCM_TAG(0x0028, 0x0002), 0, 1);
    r->planar = dcm_u16(d, DCM_TAG(0x0028, 0x0006), 0, 0);
    r->bits_allocated = dcm_u16(d, DCM_TAG(0x0028, 0x0100), 0, 0);
    r->bits_stored = dcm_u16(d, DCM_TAG(0x0028, 0x0101), 0, r->bits_allocated);
    r->high_bit = dcm_u16(d, DCM_TAG(0x0028, 0x0102), 0, r->bits_stored - 1);
    r->is_signed = dcm_u16(d, DCM_TAG(0x0028, 0x0103), 0, 0) == 1;
    r->big_endian = d->big_endian;
    dcm_text(d, DCM_TAG(0x0028, 0x0004), r->photometric, sizeof(r->photometric));
    (void)dcm_number(d, DCM_TAG(0x0028, 0x0008), 0, &frames); /* absent: 1 */
    if (r->width == 0 || r->height == 0) {
        return err_set(reterr, RC_CORRUPT, "DICOM: pixel data without Rows and Columns");
    }
    if (frames < 1 || frames > 1e7) return err_set(reterr, RC_CORRUPT, "DICOM: NumberOfFrames");
    m->frame_n = (uint32_t)frames;
    if (r->samples != 1 && r->samples != 3) {
        return err_set(reterr, RC_UNIMPL, "DICOM: %u samples per pixel", r->samples);
    }
    if (r->bits_allocated != 1 && r->bits_allocated != 8 && r->bits_allocated != 16 &&
        r->bits_allocated != 32) {
        return err_set(reterr, RC_UNIMPL, "DICOM: %u bits allocated", r->bits_allocated);
    }
    if (r->bits_stored < 1 || r->bits_stored > r->bits_allocated ||
        r->high_bit >= r->bits_allocated || r->high_bit + 1 < r->bits_stored) {
        return err_set(reterr, RC_CORRUPT, "DICOM: %u bits stored up to bit %u of %u",
                       r->bits_stored, r->high_bit, r->bits_allocated);
    }
    m->channel_n = strncmp(r->photometric, "MONOCHROME", 10) == 0 ? 1 : 3;
    return RC_OK;
}

/* Native pixels must all be there; a length that says otherwise is told at opening. */
static enum rc check_pixels(struct dicom *m, struct err *reterr)
{
    const struct dcm_elem *e = &m->pixels;
    struct dicom_raw *r = &m->like;
    uint64_t need;

    if (m->codec != CODEC_NATIVE) {
        if (e->len != DCM_LEN_UNDEFINED) {
            return err_set(reterr, RC_CORRUPT,
                           "DICOM: transfer syntax %s but pixel data of a fixed length",
                           m->d.syntax);
        }
        return RC_OK;
    }
    if (e->len == DCM_LEN_UNDEFINED) {
        return err_set(reterr, RC_CORRUPT, "DICOM: transfer syntax %s but fragmented pixel data",
                       m->d.syntax);
    }
    r->subsampled_422 = strcmp(r->photometric, "YBR_FULL_422") == 0 && r->samples == 3;
    m->frame_bits = (uint64_t)r->width * r->height *
                    (r->subsampled_422 ? 16 : (uint64_t)r->samples * r->bits_allocated);
    need = (mul_sat(m->frame_bits, m->frame_n) + 7) / 8;
    if (r->subsampled_422 && (r->width % 2 != 0 || r->bits_allocated != 8)) {
        return err_set(reterr, RC_UNIMPL, "DICOM: YBR_FULL_422 with odd columns or 16 bits");
    }
    if (need > e->len) {
        return err_set(reterr, RC_CORRUPT, "DICOM: pixel data of %u bytes, %llu are needed", e->len,
                       (unsigned long long)need);
    }
    if (e->off > m->d.src.size || need > m->d.src.size - e->off) {
        return err_set(reterr, RC_CORRUPT, "DICOM: ends inside the pixel data");
    }
    return RC_OK;
}

static enum rc find_codec(struct dicom *m, struct err *reterr)
{
    for (size_t i = 0; i < ARRAY_N(syntaxes); i++) {
        if (strcmp(syntaxes[i].uid, m->d.syntax) == 0) {
            m->codec = syntaxes[i].codec;
            return RC_OK;
        }
    }
    return err_set(reterr, RC_UNIMPL, "DICOM: transfer syntax %s", m->d.syntax);
}

static enum rc open_parsed(struct dicom *m, struct err *reterr)
{
    const struct dcm_elem *e = dcm_find(&m->d, DCM_TAG(0x7fe0, 0x0010));
    char sop[65];
    uint64_t per_pixel;
    enum rc rc;

    dcm_text(&m->d, DCM_TAG(0x0008, 0x0016), sop, sizeof(sop));
    if (strspn(sop, "0123456789.") != strlen(sop)) sop[0] = '\0'; /* not into a message */
    if (e == NULL) {
        bool floats = dcm_find(&m->d, DCM_TAG(0x7fe0, 0x0008)) != NULL ||
                      dcm_find(&m->d, DCM_TAG(0x7fe0, 0x0009)) != NULL;

        return err_set(reterr, RC_UNIMPL, "DICOM: %s, SOP class %s",
                       floats ? "floating-point pixels" : "no pixel data (no image)",
                       sop[0] != '\0' ? sop : "unknown");
    }
    m->pixels = *e;
    rc = load_header(m, reterr);
    if (rc == RC_OK) rc = find_codec(m, reterr);
    if (rc == RC_OK) rc = check_pixels(m, reterr);
    if (rc != RC_OK) return rc;
    per_pixel = m->channel_n + (uint64_t)m->like.samples * MAX(m->like.bits_allocated / 8, 1u);
    /* a codec's own copies: openjp2 3 x 4 bytes a sample, dcmtk one of the frame */
    per_pixel += m->like.samples * (m->codec == CODEC_J2K ? 14u : m->codec == CODEC_DCMTK ? 4u : 0);
    rc = image_limits_check(&m->limits, m->like.width, m->like.height, per_pixel, reterr);
    if (rc == RC_OK && strcmp(m->like.photometric, "PALETTE COLOR") == 0) rc = load_lut(m, reterr);
    load_grey(m);
    return rc;
}

/* ---- a frame's bytes ---- */

static enum rc add_fragment(struct dicom *m, struct fragment f, struct err *reterr)
{
    if (m->frag_n == m->frag_cap) {
        uint32_t cap = MAX(16u, 2 * m->frag_cap);
        struct fragment *p;

        if (cap > FRAGMENTS_MAX) {
            return err_set(reterr, RC_BUSY, "DICOM: more than %d fragments", FRAGMENTS_MAX);
        }
        p = realloc(m->frag, cap * sizeof(*p));
        if (p == NULL) return err_set(reterr, RC_NOMEM, "fragments");
        m->frag = p;
        m->frag_cap = cap;
    }
    m->frag[m->frag_n++] = f;
    return RC_OK;
}

static enum rc list_fragments(struct dicom *m, struct dcm_elem *ret_table, struct err *reterr)
{
    uint64_t at = m->pixels.off, base = 0;
    uint8_t b[8];
    enum rc rc;

    m->frag_n = 0;
    for (bool table = true; at < m->d.src.size; table = false) {
        uint32_t group, elem, len;

        rc = image_source_read(&m->d.src, at, b, 8, reterr);
        if (rc != RC_OK) return rc;
        group = (uint32_t)le_get16(b);
        elem = (uint32_t)le_get16(b + 2);
        len = le_get32(b + 4);
        if (group == 0xfffe && elem == 0xe0dd) return RC_OK;
        if (group != 0xfffe || elem != 0xe000 || len > m->d.src.size - at - 8) {
            return err_set(reterr, RC_CORRUPT, "DICOM: fragment %u of the pixel data is broken",
                           m->frag_n);
        }
        if (table) {
            *ret_table = (struct dcm_elem){.off = at + 8, .len = len};
            base = at + 8 + len;
        } else {
            rc = add_fragment(
                m, (struct fragment){.off = at + 8, .len = len, .start = (uint32_t)(at - base)},
                reterr);
            if (rc != RC_OK) return rc;
        }
        at += 8 + (uint64_t)len;
    }
    return RC_OK; /* no delimiter: all that is there was read */
}

/* first[] from the basic offset table; false when it does not fit the fragments. */
static bool index_by_table(struct dicom *m, const struct dcm_elem *table)
{
    uint32_t at = 0;
    struct err ignored;
    uint8_t b[4];

    if (table->len != 4 * (uint64_t)m->frame_n) return false;
    for (uint32_t f = 0; f < m->frame_n; f++) {
        if (dcm_bytes(&m->d, table->off + 4 * (uint64_t)f, b, 4, &ignored) != RC_OK) return false;
        while (at < m->frag_n && m->frag[at].start < le_get32(b))
            at++;
        if (at >= m->frag_n || m->frag[at].start != le_get32(b)) return false;
        m->first[f] = at;
    }
    return m->first[0] == 0;
}

/* A codestream begins with SOI (JPEG, JPEG-LS) or SOC (JPEG 2000). */
static bool index_by_start(struct dicom *m)
{
    uint32_t f = 0;
    struct err ignored;
    uint8_t b[2];

    for (uint32_t i = 0; i < m->frag_n; i++) {
        if (m->frag[i].len < 2) continue;
        if (image_source_read(&m->d.src, m->frag[i].off, b, 2, &ignored) != RC_OK) return false;
        if (b[0] != 0xff || (b[1] != 0xd8 && b[1] != 0x4f)) continue;
        if (f == m->frame_n) return false;
        m->first[f++] = i;
    }
    return f == m->frame_n && m->first[0] == 0;
}

static enum rc index_frames(struct dicom *m, struct err *reterr)
{
    struct dcm_elem table = {0};
    enum rc rc = list_fragments(m, &table, reterr);

    if (rc != RC_OK) return rc;
    if (m->frag_n < m->frame_n) {
        return err_set(reterr, RC_CORRUPT, "DICOM: %u frames, %u fragments", m->frame_n, m->frag_n);
    }
    if (m->first == NULL) m->first = calloc((size_t)m->frame_n + 1, sizeof(*m->first));
    if (m->first == NULL) return err_set(reterr, RC_NOMEM, "frames");
    if (m->frame_n == 1) {
        m->first[0] = 0;
    } else if (m->frag_n == m->frame_n) {
        for (uint32_t f = 0; f < m->frame_n; f++)
            m->first[f] = f;
    } else if (!index_by_table(m, &table) && !index_by_start(m)) {
        return err_set(reterr, RC_CORRUPT, "DICOM: %u fragments fit no way to %u frames", m->frag_n,
                       m->frame_n);
    }
    m->first[m->frame_n] = m->frag_n;
    m->indexed = true;
    return RC_OK;
}

/* The frame's compressed bytes in one piece; free(). */
static enum rc gather(struct dicom *m, uint32_t frame, uint8_t **ret_p, size_t *ret_n,
                      struct err *reterr)
{
    uint64_t n = 0, at = 0;
    uint8_t *p;
    enum rc rc = RC_OK;

    if (!m->indexed) rc = index_frames(m, reterr);
    if (rc != RC_OK) return rc;
    for (uint32_t i = m->first[frame]; i < m->first[frame + 1]; i++)
        n += m->frag[i].len;
    if (n == 0) return err_set(reterr, RC_CORRUPT, "DICOM: frame %u is empty", frame);
    if (n > m->limits.memory_bytes_max / 4) {
        return err_set(reterr, RC_BUSY,
                       "DICOM: a compressed frame of %llu bytes, the limit is %llu",
                       (unsigned long long)n, (unsigned long long)m->limits.memory_bytes_max / 4);
    }
    p = malloc((size_t)n);
    if (p == NULL) return err_set(reterr, RC_NOMEM, "compressed frame");
    for (uint32_t i = m->first[frame]; rc == RC_OK && i < m->first[frame + 1]; i++) {
        rc = image_source_read(&m->d.src, m->frag[i].off, p + at, m->frag[i].len, reterr);
        at += m->frag[i].len;
    }
    if (rc != RC_OK) {
        free(p);
        return rc;
    }
    *ret_p = p;
    *ret_n = (size_t)n;
    return RC_OK;
}

/* ---- decompression ---- */

static enum rc raw_alloc(struct dicom_raw *r, size_t n, struct err *reterr)
{
    r->n = n;
    r->p = malloc(n);
    return r->p != NULL ? RC_OK : err_set(reterr, RC_NOMEM, "frame of %zu bytes", n);
}

static enum rc decode_j2k(const struct dicom *m, const uint8_t *p, size_t n, struct dicom_raw *r,
                          struct err *reterr)
{
    struct j2k_image j;
    enum rc rc = j2k_decode(p, n, &m->limits, &j, reterr);

    if (rc != RC_OK) return rc;
    if (j.width != r->width || j.height != r->height || j.channel_n != r->samples) {
        rc =
            err_set(reterr, RC_CORRUPT,
                    "the JPEG 2000 stream is %u x %u with %u components, its frame %u x %u with %u",
                    j.width, j.height, j.channel_n, r->width, r->height, r->samples);
        goto out;
    }
    rc = raw_alloc(r, (size_t)j.width * j.height * j.channel_n * 2, reterr);
    if (rc != RC_OK) goto out;
    for (size_t i = 0; i < r->n / 2; i++)
        le_put16(r->p + 2 * i, (uint16_t)j.p[i]);
    /* the codestream knows its precision; the sign is the header's (writers differ) */
    r->bits_allocated = 16;
    r->bits_stored = j.bits;
    r->high_bit = j.bits - 1;
    r->planar = 0;
    r->big_endian = false;
    if (strcmp(r->photometric, "YBR_FULL_422") == 0) memcpy(r->photometric, "RGB", 4);
out:
    free(j.p);
    return rc;
}

static enum rc decode_jpeg(const struct dicom *m, const uint8_t *p, size_t n, struct dicom_raw *r,
                           struct err *reterr)
{
    struct image_source_mem mem;
    struct image_source src;
    struct jpeg_expect e = {.width = r->width,
                            .height = r->height,
                            .channel_n = r->samples,
                            .may_be_smaller = m->frame_n > 1,
                            .rgb = strcmp(r->photometric, "RGB") == 0};
    enum rc rc = raw_alloc(r, (size_t)r->width * r->height * r->samples, reterr);

    if (rc != RC_OK) return rc;
    image_source_mem_init(&mem, p, n, &src);
    r->bits_allocated = r->bits_stored = 8;
    r->high_bit = 7;
    r->planar = 0;
    r->big_endian = false;
    if (r->samples == 3) memcpy(r->photometric, "RGB", 4);
    return jpeg_decode(&src, &m->limits, &e, r->p, reterr);
}

/* Size, components and precision of the JPEG or JPEG-LS frame header, against the DICOM header:
 * dcmtk trusts the latter for its buffers. */
static enum rc check_sof(const uint8_t *p, size_t n, const struct dicom_raw *r, uint32_t *ret_bits,
                         struct err *reterr)
{
    size_t at = 2;

    while (at + 10 <= n && p[at] == 0xff) {
        uint8_t m = p[at + 1];

        if (m == 0xff) {
            at++;
            continue;
        }
        if (m == 0xf7 || (m >= 0xc0 && m <= 0xcf && m != 0xc4 && m != 0xc8 && m != 0xcc)) {
            if (be_get(p + at + 5, 2) != r->height || be_get(p + at + 7, 2) != r->width ||
                p[at + 9] != r->samples) {
                return err_set(
                    reterr, RC_CORRUPT,
                    "the JPEG stream is %u x %u with %u components, its frame %u x %u with %u",
                    (unsigned)be_get(p + at + 7, 2), (unsigned)be_get(p + at + 5, 2), p[at + 9],
                    r->width, r->height, r->samples);
            }
            *ret_bits = p[at + 4];
            return RC_OK;
        }
        at += 2 + (size_t)be_get(p + at + 2, 2);
    }
    return err_set(reterr, RC_CORRUPT, "the JPEG stream has no frame header");
}

static enum rc decode_dcmtk(const struct dicom *m, const uint8_t *p, size_t n, struct dicom_raw *r,
                            struct err *reterr)
{
    struct dicom_frame_desc d = {.syntax = m->d.syntax,
                                 .photometric = r->photometric,
                                 .rows = r->height,
                                 .columns = r->width,
                                 .samples = r->samples,
                                 .bits_allocated = r->bits_allocated,
                                 .bits_stored = r->bits_stored,
                                 .high_bit = r->high_bit,
                                 .pixel_rep = r->is_signed,
                                 .planar = r->planar};
    struct dicom_frame_out o;
    uint32_t bits = 0;
    enum rc rc = check_sof(p, n, r, &bits, reterr);

    if (rc != RC_OK) return rc;
    if ((r->bits_allocated != 8 && r->bits_allocated != 16) || bits > r->bits_allocated) {
        return err_set(reterr, RC_CORRUPT, "a %u-bit JPEG stream in samples of %u bits", bits,
                       r->bits_allocated);
    }
    rc = raw_alloc(r, (size_t)r->width * r->height * r->samples * (r->bits_allocated / 8), reterr);
    if (rc != RC_OK) return rc;
    rc = dicom_codec_decode(&d, p, n, r->p, r->n, &o, reterr);
    if (rc != RC_OK) return rc;
    memcpy(r->photometric, o.photometric, sizeof(r->photometric));
    r->bits_stored = o.bits_stored;
    r->high_bit = o.high_bit;
    r->planar = o.planar;
    r->big_endian = false;
    return RC_OK;
}

static enum rc read_native(struct dicom *m, uint32_t frame, struct dicom_raw *r, struct err *reterr)
{
    uint64_t bit = m->frame_bits * frame, off = bit / 8;
    uint64_t n = (bit % 8 + m->frame_bits + 7) / 8;
    enum rc rc;

    r->bit_off = bit % 8;
    rc = raw_alloc(r, (size_t)n, reterr);
    if (rc == RC_OK) rc = image_source_read(&m->d.src, m->pixels.off + off, r->p, r->n, reterr);
    if (rc == RC_OK && r->big_endian && r->bits_allocated == 8 && strcmp(m->pixels.vr, "OW") == 0) {
        for (size_t i = 0; i + 1 < r->n; i += 2) { /* bytes came as 16-bit words */
            uint8_t t = r->p[i];

            r->p[i] = r->p[i + 1];
            r->p[i + 1] = t;
        }
    }
    return rc;
}

static enum rc decode_frame(struct dicom *m, uint32_t frame, struct err *reterr)
{
    struct dicom_raw r = m->like;
    uint8_t *p = NULL;
    size_t n = 0;
    enum rc rc;

    m->cached = false;
    if (m->pixels8 == NULL) m->pixels8 = malloc((size_t)r.width * r.height * m->channel_n);
    if (m->pixels8 == NULL) return err_set(reterr, RC_NOMEM, "frame");
    rc = m->codec == CODEC_NATIVE ? read_native(m, frame, &r, reterr)
                                  : gather(m, frame, &p, &n, reterr);
    if (rc == RC_OK && m->codec == CODEC_RLE) rc = dicom_rle_decode(p, n, &r, reterr);
    if (rc == RC_OK && m->codec == CODEC_JPEG) rc = decode_jpeg(m, p, n, &r, reterr);
    if (rc == RC_OK && m->codec == CODEC_DCMTK) rc = decode_dcmtk(m, p, n, &r, reterr);
    if (rc == RC_OK && m->codec == CODEC_J2K) rc = decode_j2k(m, p, n, &r, reterr);
    free(p);
    /* a decoder may only turn colour into colour: pixels8 was sized for channel_n */
    if (rc == RC_OK && (strncmp(r.photometric, "MONOCHROME", 10) == 0) != (m->channel_n == 1)) {
        rc = err_set(reterr, RC_CORRUPT, "DICOM: the frame is grey, its header in colour");
    }
    if (rc == RC_OK) rc = dicom_frame_to8(&r, &m->lut, &m->grey, m->pixels8, reterr);
    free(r.p);
    m->cached = rc == RC_OK;
    m->cached_idx = frame;
    return rc;
}

static enum rc dicom_read(void *impl, uint32_t level, uint32_t frame, struct image_rect rect,
                          uint8_t *out, struct err *reterr)
{
    struct dicom *m = impl;
    size_t n = (size_t)rect.width * m->channel_n, row = (size_t)m->like.width * m->channel_n;
    enum rc rc = RC_OK;

    (void)level;
    if (!m->cached || m->cached_idx != frame) rc = decode_frame(m, frame, reterr);
    for (uint32_t y = 0; rc == RC_OK && y < rect.height; y++) {
        memcpy(out + (size_t)y * n,
               m->pixels8 + (size_t)(rect.y + y) * row + (size_t)rect.x * m->channel_n, n);
    }
    return rc;
}

static const struct image_ops dicom_ops = {dicom_read, dicom_close};

enum rc image_dicom_open(struct image *img, struct err *reterr)
{
    struct dicom *m = calloc(1, sizeof(*m));
    char modality[17];
    enum rc rc;

    if (m == NULL) return err_set(reterr, RC_NOMEM, "DICOM reader");
    m->limits = img->limits;
    rc = dcm_parse(&m->d, &img->src, img->limits.memory_bytes_max, reterr);
    if (rc == RC_OK) rc = open_parsed(m, reterr);
    if (rc != RC_OK) {
        dicom_close(m);
        return rc;
    }
    dcm_text(&m->d, DCM_TAG(0x0008, 0x0060), modality, sizeof(modality));
    img->info.kind = strcmp(modality, "SM") == 0 ? "slide"
                     : m->frame_n > 1            ? "multiframe"
                                                 : "image";
    img->info.channel_n = m->channel_n;
    img->info.frame_n = m->frame_n;
    img->info.level[0] = (struct image_level){.width = m->like.width,
                                              .height = m->like.height,
                                              .tile_width = m->like.width,
                                              .tile_height = m->like.height};
    img->ops = &dicom_ops;
    img->impl = m;
    return RC_OK;
}

/* ---- a slice of a series ---- */

static struct dicom *dicom_of(const struct image *img)
{
    return img->ops == &dicom_ops ? img->impl : NULL;
}

static bool numbers(struct dcm *d, uint32_t tag, uint32_t n, double *ret)
{
    for (uint32_t i = 0; i < n; i++)
        if (!dcm_number(d, tag, i, &ret[i])) return false;
    return true;
}

enum rc image_slice_get(struct image *img, struct image_slice *ret, struct err *reterr)
{
    struct dicom *m = dicom_of(img);
    struct image_slice s = {0};
    double number;

    if (m == NULL || m->frame_n != 1)
        return err_set(reterr, RC_UNIMPL, "%s of %u frames is no slice of a series",
                       img->info.media_type, img->info.frame_n);
    dcm_text(&m->d, DCM_TAG(0x0020, 0x000e), s.series, sizeof(s.series));
    s.width = m->like.width;
    s.height = m->like.height;
    s.channel_n = m->channel_n;
    s.has_position = numbers(&m->d, DCM_TAG(0x0020, 0x0032), 3, s.position);
    s.has_orientation = numbers(&m->d, DCM_TAG(0x0020, 0x0037), 6, s.orientation);
    s.has_spacing = numbers(&m->d, DCM_TAG(0x0028, 0x0030), 2, s.spacing);
    s.has_number = dcm_number(&m->d, DCM_TAG(0x0020, 0x0013), 0, &number);
    if (s.has_number) s.number = (int64_t)number; /* dcm_number: less than 1e12 */
    *ret = s;
    return RC_OK;
}

enum image_window_from image_window_get(const struct image *img, struct image_window *ret)
{
    const struct dicom *m = dicom_of(img);

    if (m == NULL || m->channel_n != 1) return IMAGE_WINDOW_NONE;
    if (m->grey.window) {
        *ret = (struct image_window){m->grey.center, m->grey.width};
        return IMAGE_WINDOW_OWN;
    }
    return m->like.bits_allocated == 1 || (m->like.bits_stored == 8 && !m->like.is_signed)
               ? IMAGE_WINDOW_NONE
               : IMAGE_WINDOW_FRAME;
}

void image_window_set(struct image *img, const struct image_window *w)
{
    struct dicom *m = dicom_of(img);

    if (m == NULL || m->channel_n != 1) return;
    m->grey.window = true;
    m->grey.center = w->center;
    m->grey.width = MAX(w->width, 1.0);
    m->cached = false;
}

enum rc image_window_frame(struct image *img, uint32_t frame_idx, struct image_window *ret,
                           struct err *reterr)
{
    struct dicom *m = dicom_of(img);
    double a, b;
    enum rc rc;

    if (m == NULL || frame_idx >= m->frame_n)
        return err_set(reterr, RC_RANGE, "frame %u of %u", frame_idx, img->info.frame_n);
    rc = decode_frame(m, frame_idx, reterr);
    if (rc != RC_OK) return rc;
    a = m->grey.seen_lo * m->grey.slope + m->grey.intercept;
    b = m->grey.seen_hi * m->grey.slope + m->grey.intercept;
    *ret = (struct image_window){(a + b) / 2 + 0.5, (a > b ? a - b : b - a) + 1};
    return RC_OK;
}
