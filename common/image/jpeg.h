/* common/image/jpeg.h - JPEG with 8-bit samples (baseline, extended, progressive) for the readers
 * of this folder. */
#pragma once
#include "common/image/image_priv.h"

struct jpeg_expect { /* what the container (DICOM) says the frame is */
    uint32_t width, height, channel_n;
    bool rgb;            /* colours are RGB unless the stream's own markers say otherwise */
    bool may_be_smaller; /* the rest of the frame is then white */
};
/* Decode a whole frame of e->width * e->height * e->channel_n bytes into out. RC_CORRUPT also when
 * the stream is not what the container says. */
enum rc jpeg_decode(const struct image_source *src, const struct image_limits *limits,
                    const struct jpeg_expect *e, uint8_t *out, struct err *reterr);
