/* common/image/j2k.h - JPEG 2000 (and HTJ2K) codestreams in memory, through openjp2. */
#pragma once
#include "common/image/image_priv.h"

struct j2k_image {
    uint32_t width, height, channel_n;
    uint32_t bits; /* of each sample */
    bool is_signed;
    int32_t *p; /* interleaved; free() */
};
/* Decode n bytes, a bare codestream or a JP2 file. RC_BUSY before pixel memory is taken when the
 * image is over the limits. All components must have the first one's size. */
enum rc j2k_decode(const uint8_t *p, size_t n, const struct image_limits *limits,
                   struct j2k_image *ret_img, struct err *reterr);
