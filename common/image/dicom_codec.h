/* common/image/dicom_codec.h - the compressions that only dcmtk has here: JPEG with 12 bits or
 * lossless, JPEG-LS. One frame at a time, so that memory is bounded by a frame. C interface of a
 * thin C++ file: no exception and no dcmtk type passes it. */
#pragma once
#include "common/base/rc.h"
#ifdef __cplusplus
extern "C" {
#endif

struct dicom_frame_desc {
    const char *syntax;      /* transfer syntax UID */
    const char *photometric; /* as in the header */
    uint32_t rows, columns, samples;
    uint32_t bits_allocated, bits_stored, high_bit, pixel_rep, planar;
};

struct dicom_frame_out {
    char photometric[20]; /* after decoding: YBR may have become RGB */
    uint32_t planar;
    uint32_t bits_allocated, bits_stored, high_bit;
};

/* Loads the dictionary, registers codecs, silences dcmtk's log. Thread-safe, idempotent. */
void dicom_codec_init(void);
/* Decode one frame's compressed bytes (n even or odd, at most 4 GiB) into out, which holds exactly
 * out_n bytes, samples of 8 or 16 bits little-endian. RC_UNIMPL, RC_CORRUPT, RC_NOMEM. */
enum rc dicom_codec_decode(const struct dicom_frame_desc *d, const uint8_t *p, size_t n,
                           uint8_t *out, size_t out_n, struct dicom_frame_out *ret_out,
                           struct err *reterr);

#ifdef __cplusplus
}
#endif
