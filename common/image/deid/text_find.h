/* common/image/deid/text_find.h - where in a grey picture may a line of letters stand?
 *
 * Cheap, and generous: strokes thinner than their surroundings, in components of one height on one
 * line. It takes rulers and trabeculae for letters too, so a reader has the last word. */
#pragma once
#include "common/base/rc.h"

enum {
    TEXT_LINES_MAX = 8,   /* the likeliest of a picture */
    TEXT_CROP_HEIGHT = 48 /* of which letters take 32, the size that LSTM models were trained on */
};
struct text_line {
    uint32_t x, y, width, height; /* pixels of the picture, around the letters */
    bool dark;                    /* darker than their ground */
    uint32_t score;               /* higher is likelier; comparable within one picture */
    uint32_t crop_width;
    uint8_t *crop; /* crop_width x TEXT_CROP_HEIGHT, grey: dark letters, flat white ground */
};
struct text_lines {
    uint32_t n; /* likeliest first */
    struct text_line line[TEXT_LINES_MAX];
};
/* Letters of about 7 to 110 pixels height, upright, lighter or darker than what is around them.
 * Memory: about 4 bytes a pixel. RC_NOMEM. Free ret with text_lines_free, after errors too. */
MUST_CHECK enum rc text_find(const uint8_t *grey, uint32_t width, uint32_t height,
                             struct text_lines *ret, struct err *reterr);
void text_lines_free(struct text_lines *t);
