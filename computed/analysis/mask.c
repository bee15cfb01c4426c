/* computed/analysis/mask.c - see mask.h. Sources: PNG 1.2 (W3C), NIfTI-1.1 (nifti1.h). */
#include "computed/analysis/mask.h"
#include "common/base/le.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#define NIFTI_HEAD_BYTES 348u
#define NIFTI_DATA_OFF   352u

const char *mask_media_type(enum mask_kind kind)
{
    return kind == MASK_PNG ? "image/png" : kind == MASK_NIFTI ? "application/x-nifti" : NULL;
}

/* head and labels, deflated in one stream; window_bits: 15 zlib, 31 gzip. At *ret_p + lead. */
static enum rc deflate_all(const uint8_t *head, size_t head_n, const uint8_t *p, size_t n,
                           int window_bits, size_t lead, size_t tail, uint8_t **ret_p,
                           size_t *ret_n, struct err *reterr)
{
    z_stream z = {0};
    uint8_t *out;
    uLong cap;
    int bad;

    if (deflateInit2(&z, 6, Z_DEFLATED, window_bits, 8, Z_DEFAULT_STRATEGY) != Z_OK)
        return err_set(reterr, RC_NOMEM, "compressing a mask");
    cap = deflateBound(&z, head_n + n) + 64;
    out = malloc(lead + cap + tail);
    if (out == NULL) {
        (void)deflateEnd(&z);
        return err_set(reterr, RC_NOMEM, "a mask of %zu bytes", n);
    }
    z.next_out = out + lead;
    z.avail_out = (uInt)cap;
    z.next_in = (Bytef *)(uintptr_t)head;
    z.avail_in = (uInt)head_n;
    bad = head_n > 0 ? deflate(&z, Z_NO_FLUSH) : Z_OK;
    z.next_in = (Bytef *)(uintptr_t)p;
    z.avail_in = (uInt)n;
    if (bad == Z_OK) bad = deflate(&z, Z_FINISH);
    *ret_n = z.total_out;
    (void)deflateEnd(&z);
    if (bad != Z_STREAM_END) {
        free(out);
        return err_set(reterr, RC_INTERNAL, "compressing a mask: zlib says %d", bad);
    }
    *ret_p = out;
    return RC_OK;
}

/* ---- PNG ---- */
static uint8_t *chunk(uint8_t *at, const char type[5], const uint8_t *p, uint32_t n)
{
    be_put32(at, n);
    memcpy(at + 4, type, 4);
    if (n > 0 && p != at + 8) memcpy(at + 8, p, n);
    be_put32(at + 8 + n, (uint32_t)crc32(0, at + 4, n + 4));
    return at + 12 + n;
}

/* Black, then colours far from their neighbours: steps of the golden angle round the hue circle. */
static void palette(uint8_t rgb[3 * 256])
{
    memset(rgb, 0, 3);
    for (uint32_t i = 1; i < 256; i++) {
        double hue = fmod((i - 1) * 0.381966, 1) * 6, x = 1 - fabs(fmod(hue, 2) - 1);
        double low = i % 3 == 0 ? 0.45 : i % 3 == 1 ? 0 : 0.2;
        double c[3] = {hue < 1 || hue >= 5   ? 1
                       : hue < 2 || hue >= 4 ? x
                                             : 0,
                       hue >= 1 && hue < 3 ? 1
                       : hue < 4           ? x
                                           : 0,
                       hue >= 3 && hue < 5 ? 1
                       : hue >= 2          ? x
                                           : 0};

        for (uint32_t k = 0; k < 3; k++)
            rgb[3 * i + k] = (uint8_t)(255 * (low + (1 - low) * c[k]));
    }
}

enum rc mask_png(const uint8_t *labels, uint32_t height, uint32_t width, const char *text,
                 struct mask *ret, struct err *reterr)
{
    static const uint8_t SIGNATURE[8] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'};
    size_t stride = (size_t)width + 1, text_n = strlen(text), packed_n;
    size_t lead = 8 + 25 + 12 + 768 + 12 + 8 + text_n + 8; /* to IDAT's data */
    uint8_t *rows = calloc(height, stride), ihdr[13] = {0}, rgb[768], *out, *at;
    uint8_t comment[8 + 512] = "Comment";
    enum rc rc;

    if (rows == NULL) return err_set(reterr, RC_NOMEM, "a mask");
    CHECK(text_n <= 512);
    for (uint32_t y = 0; y < height; y++) /* filter 0 */
        memcpy(rows + y * stride + 1, labels + (size_t)y * width, width);
    rc = deflate_all(NULL, 0, rows, height * stride, 15, lead, 16, &out, &packed_n, reterr);
    free(rows);
    if (rc != RC_OK) return rc;
    be_put32(ihdr, width);
    be_put32(ihdr + 4, height);
    ihdr[8] = 8; /* bits */
    ihdr[9] = 3; /* palette */
    palette(rgb);
    memcpy(comment + 8, text, text_n);
    memcpy(out, SIGNATURE, 8);
    at = chunk(out + 8, "IHDR", ihdr, 13);
    at = chunk(at, "PLTE", rgb, 768);
    at = chunk(at, "tEXt", comment, (uint32_t)(8 + text_n));
    CHECK(at + 8 == out + lead);
    at = chunk(at, "IDAT", at + 8, (uint32_t)packed_n);
    at = chunk(at, "IEND", NULL, 0);
    *ret = (struct mask){MASK_PNG, out, (size_t)(at - out), {height, width, 0}, 2};
    return RC_OK;
}

/* ---- NIfTI-1 ---- */
static void put_f32(uint8_t *p, double v)
{
    float f = (float)v;
    uint32_t bits;

    memcpy(&bits, &f, 4);
    le_put32(p, bits);
}

enum rc mask_nifti(const uint8_t *labels, uint32_t depth, uint32_t height, uint32_t width,
                   const double affine[12], struct mask *ret, struct err *reterr)
{
    static const uint16_t ONES[] = {5, 6, 7};
    const uint32_t size[3] = {width, height, depth};
    uint8_t h[NIFTI_DATA_OFF] = {0}, *out;
    size_t n;
    enum rc rc;

    if (width > INT16_MAX || height > INT16_MAX || depth > INT16_MAX)
        return err_set(reterr, RC_INTERNAL, "a mask of %u x %u x %u", depth, height, width);
    le_put32(h, NIFTI_HEAD_BYTES);
    le_put16(h + 40, 3); /* dim[0] */
    put_f32(h + 76, 1);  /* pixdim[0] */
    for (uint32_t i = 0; i < 3; i++) {
        double mm = 0;

        le_put16(h + 42 + 2 * i, (uint16_t)size[i]);
        for (uint32_t k = 0; affine != NULL && k < 3; k++)
            mm += affine[4 * k + i] * affine[4 * k + i];
        put_f32(h + 80 + 4 * (size_t)i, affine == NULL ? 1 : sqrt(mm));
        le_put16(h + 40 + 2 * (size_t)ONES[i] - 2, 1);
    }
    le_put16(h + 40 + 14, 1);                  /* dim[7] */
    le_put16(h + 70, 2);                       /* datatype: unsigned char */
    le_put16(h + 72, 8);                       /* bitpix */
    put_f32(h + 108, NIFTI_DATA_OFF);          /* vox_offset */
    put_f32(h + 112, 1);                       /* scl_slope */
    h[123] = affine == NULL ? 0 : 2;           /* xyzt_units: mm */
    le_put16(h + 68, 1002);                    /* intent: labels */
    le_put16(h + 254, affine == NULL ? 0 : 1); /* sform_code: scanner */
    for (uint32_t k = 0; affine != NULL && k < 3; k++)
        for (uint32_t i = 0; i < 4; i++) /* DICOM's first two axes run the other way */
            put_f32(h + 280 + 16 * (size_t)k + 4 * (size_t)i,
                    k < 2 ? -affine[4 * k + i] : affine[4 * k + i]);
    memcpy(h + 344, "n+1", 4);
    rc = deflate_all(h, sizeof(h), labels, (size_t)depth * height * width, 31, 0, 0, &out, &n,
                     reterr);
    if (rc == RC_OK) *ret = (struct mask){MASK_NIFTI, out, n, {depth, height, width}, 3};
    return rc;
}
