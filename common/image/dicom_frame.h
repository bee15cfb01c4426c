/* common/image/dicom_frame.h - one DICOM frame: from its stored samples to 8-bit pixels. Pure: no
 * file, no codec. */
#pragma once
#include "common/image/image_priv.h"

struct dicom_raw {
    uint8_t *p; /* free() */
    size_t n;
    uint32_t width, height, samples;
    uint32_t bits_allocated; /* 1, 8, 16, 32 */
    uint32_t bits_stored, high_bit, planar;
    bool is_signed, big_endian, subsampled_422; /* Y Y Cb Cr per two pixels */
    uint64_t bit_off;                           /* of the first pixel when bits_allocated is 1 */
    char photometric[20];
};

struct dicom_lut { /* PALETTE COLOR, scaled to 8 bits */
    int64_t first;
    uint32_t n;
    uint8_t *rgb; /* 3 * n */
};

struct dicom_grey {
    bool window, padding;
    double center, width, slope, intercept;
    int64_t padding_value;
    double seen_lo, seen_hi; /* out: samples that became 0 and 255 */
};

/* Writes width * height * channel_n bytes; channel_n is 1 for MONOCHROME1/2, else 3. RC_UNIMPL for
 * photometric interpretations that are not known, RC_CORRUPT when p is too short. */
enum rc dicom_frame_to8(const struct dicom_raw *raw, const struct dicom_lut *lut,
                        struct dicom_grey *grey, uint8_t *out, struct err *reterr);
/* RLE (PS3.5 annex G) into planar samples, little-endian. RC_CORRUPT. */
enum rc dicom_rle_decode(const uint8_t *p, size_t n, struct dicom_raw *raw, struct err *reterr);
