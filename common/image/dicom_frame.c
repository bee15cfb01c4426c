/* common/image/dicom_frame.c - samples to pixels (PS3.3 C.7.6.3, C.11.2), and RLE (PS3.5 annex G).
 */
#include "common/image/dicom_frame.h"
#include "common/base/le.h"
#include <stdlib.h>

/* Sample number i of the buffer, sign-extended from bits_stored. */
static int64_t sample(const struct dicom_raw *r, size_t i)
{
    uint32_t stored = r->bits_stored, shift = r->high_bit + 1 - stored;
    uint64_t v;

    if (r->bits_allocated == 1) {
        uint64_t bit = r->bit_off + i;

        return (r->p[bit / 8] >> (bit % 8)) & 1;
    }
    if (r->bits_allocated == 8) {
        v = r->p[i];
    } else {
        unsigned n = r->bits_allocated / 8;

        v = r->big_endian ? be_get(r->p + i * n, n) : le_get(r->p + i * n, n);
    }
    v = (v >> shift) & ((1ull << stored) - 1);
    if (r->is_signed && (v >> (stored - 1)) != 0) return (int64_t)v - ((int64_t)1 << stored);
    return (int64_t)v;
}

static uint8_t clamp8(double v)
{
    return v <= 0 ? 0 : v >= 255 ? 255 : (uint8_t)(v + 0.5);
}

/* Least and greatest, without the padding value; false when nothing is left. */
static bool extent(const struct dicom_raw *r, const struct dicom_grey *g, size_t n, double *ret_lo,
                   double *ret_hi)
{
    int64_t lo = INT64_MAX, hi = INT64_MIN;

    for (size_t i = 0; i < n; i++) {
        int64_t v = sample(r, i);

        if (g->padding && v == g->padding_value) continue;
        lo = MIN(lo, v);
        hi = MAX(hi, v);
    }
    *ret_lo = (double)lo;
    *ret_hi = (double)hi;
    return lo <= hi;
}

static void grey_to8(const struct dicom_raw *r, struct dicom_grey *g, uint8_t *out, size_t n)
{
    bool invert = strcmp(r->photometric, "MONOCHROME1") == 0;
    double lo = 0, hi = 255, scale;

    if (g->window) {
        /* PS3.3 C.11.2.1.2.1, turned round: which stored values the window's ends are */
        lo = (g->center - 0.5 - (g->width - 1) / 2 - g->intercept) / g->slope;
        hi = (g->center - 0.5 + (g->width - 1) / 2 - g->intercept) / g->slope;
    } else if (r->bits_allocated == 1) {
        hi = 1;
    } else if (r->bits_stored != 8 || r->is_signed) {
        if (!extent(r, g, n, &lo, &hi)) lo = hi = 0;
    }
    g->seen_lo = lo;
    g->seen_hi = hi;
    scale = hi > lo ? 255.0 / (hi - lo) : hi < lo ? -255.0 / (lo - hi) : 0;
    for (size_t i = 0; i < n; i++) {
        double v = (double)sample(r, i);
        uint8_t px = clamp8((v - lo) * scale);

        /* an empty range: below black, above white */
        if (hi <= lo && hi >= lo) px = v > hi ? 255 : 0;
        if (g->padding && (int64_t)v == g->padding_value) px = invert ? 255 : 0;
        out[i] = invert ? (uint8_t)(255 - px) : px;
    }
}

static void palette_to8(const struct dicom_raw *r, const struct dicom_lut *lut, uint8_t *out,
                        size_t n)
{
    for (size_t i = 0; i < n; i++) {
        int64_t at = sample(r, i) - lut->first;

        at = at < 0 ? 0 : at >= (int64_t)lut->n ? (int64_t)lut->n - 1 : at;
        memcpy(out + 3 * i, lut->rgb + 3 * at, 3);
    }
}

/* YCbCr full range (PS3.3 C.7.6.3.1.2) */
static void ybr(uint8_t *px)
{
    double y = px[0], cb = px[1] - 128.0, cr = px[2] - 128.0;

    px[0] = clamp8(y + 1.402 * cr);
    px[1] = clamp8(y - 0.344136 * cb - 0.714136 * cr);
    px[2] = clamp8(y + 1.772 * cb);
}

static void colour_to8(const struct dicom_raw *r, uint8_t *out, size_t n)
{
    bool is_ybr = strncmp(r->photometric, "YBR_FULL", 8) == 0;
    double scale = 255.0 / (double)((1ull << r->bits_stored) - 1);

    for (size_t i = 0; i < n; i++) {
        for (size_t c = 0; c < 3; c++) {
            size_t at = r->planar != 0 ? c * n + i : 3 * i + c;
            int64_t v;

            if (r->subsampled_422) at = 4 * (i / 2) + (c == 0 ? i % 2 : c + 1);
            v = sample(r, at);
            out[3 * i + c] = r->bits_stored == 8 ? (uint8_t)v : clamp8((double)v * scale);
        }
        if (is_ybr) ybr(out + 3 * i);
    }
}

static bool is_colour(const char *p)
{
    return strcmp(p, "RGB") == 0 || strcmp(p, "YBR_FULL") == 0 || strcmp(p, "YBR_FULL_422") == 0 ||
           strcmp(p, "YBR_RCT") == 0 || strcmp(p, "YBR_ICT") == 0;
}

enum rc dicom_frame_to8(const struct dicom_raw *r, const struct dicom_lut *lut,
                        struct dicom_grey *grey, uint8_t *out, struct err *reterr)
{
    size_t n = (size_t)r->width * r->height;
    uint64_t bits = (uint64_t)n * r->samples * r->bits_allocated + r->bit_off;

    if (r->subsampled_422) bits = (uint64_t)n * 2 * 8;
    if (r->bits_stored < 1 || r->bits_stored > r->bits_allocated ||
        r->high_bit >= r->bits_allocated || r->high_bit + 1 < r->bits_stored) {
        return err_set(reterr, RC_CORRUPT, "DICOM: %u bits stored up to bit %u of %u",
                       r->bits_stored, r->high_bit, r->bits_allocated);
    }
    if ((bits + 7) / 8 > r->n) {
        return err_set(reterr, RC_CORRUPT, "DICOM: a frame of %zu bytes, %llu are needed", r->n,
                       (unsigned long long)((bits + 7) / 8));
    }
    if (strncmp(r->photometric, "MONOCHROME", 10) == 0 && r->samples == 1) {
        grey_to8(r, grey, out, n);
    } else if (strcmp(r->photometric, "PALETTE COLOR") == 0 && r->samples == 1 && lut->n > 0) {
        palette_to8(r, lut, out, n);
    } else if (is_colour(r->photometric) && r->samples == 3 && !r->is_signed &&
               r->bits_allocated >= 8) {
        colour_to8(r, out, n);
    } else {
        return err_set(reterr, RC_UNIMPL,
                       "DICOM: photometric interpretation with %u samples of %u bits", r->samples,
                       r->bits_allocated);
    }
    return RC_OK;
}

/* One segment of PackBits into every step-th byte of out. */
static enum rc rle_segment(const uint8_t *p, size_t n, uint8_t *out, size_t out_n, size_t step,
                           struct err *reterr)
{
    size_t at = 0, to = 0;

    while (to < out_n) {
        size_t run;
        uint8_t c;

        if (at >= n) return err_set(reterr, RC_CORRUPT, "RLE: a segment ends early");
        c = p[at++];
        if (c == 128) continue;
        run = c < 128 ? (size_t)c + 1 : 257 - (size_t)c;
        if (c < 128 ? run > n - at : at >= n) {
            return err_set(reterr, RC_CORRUPT, "RLE: a segment ends early");
        }
        /* some encoders run a little over the end: what is too much is dropped */
        for (size_t i = 0; i < run && to < out_n; i++, to++)
            out[to * step] = c < 128 ? p[at + i] : p[at];
        at += c < 128 ? run : 1;
    }
    return RC_OK;
}

enum rc dicom_rle_decode(const uint8_t *p, size_t n, struct dicom_raw *raw, struct err *reterr)
{
    size_t px = (size_t)raw->width * raw->height, bytes = raw->bits_allocated / 8;
    uint32_t segment_n;
    enum rc rc;

    if (n < 64) return err_set(reterr, RC_CORRUPT, "RLE: no header");
    if (bytes == 0) return err_set(reterr, RC_UNIMPL, "RLE with single-bit samples");
    segment_n = le_get32(p);
    if (segment_n != raw->samples * bytes || segment_n > 15) {
        return err_set(reterr, RC_CORRUPT, "RLE: %u segments, %u samples of %zu bytes", segment_n,
                       raw->samples, bytes);
    }
    raw->n = px * raw->samples * bytes;
    raw->p = malloc(raw->n);
    if (raw->p == NULL) return err_set(reterr, RC_NOMEM, "RLE frame");
    raw->planar = 1;
    raw->big_endian = false;
    for (uint32_t s = 0; s < segment_n; s++) {
        uint32_t from = le_get32(p + 4 + 4 * s);
        uint32_t to = s + 1 < segment_n ? le_get32(p + 8 + 4 * s) : (uint32_t)MIN(n, UINT32_MAX);
        /* segments: sample by sample, in each the most significant byte first */
        size_t off = (s / bytes) * px * bytes + (bytes - 1 - s % bytes);

        if (from < 64 || from > to || to > n) {
            return err_set(reterr, RC_CORRUPT, "RLE: segment %u lies outside the frame", s);
        }
        rc = rle_segment(p + from, to - from, raw->p + off, px, bytes, reterr);
        if (rc != RC_OK) return rc;
    }
    return RC_OK;
}
