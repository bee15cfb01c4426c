/* tests/fuzz/deid/fuzz_text.c - any grey picture: lines lie inside of it, in order, with crops that
 * can be read whole.
 *
 * Two bytes of size, then pixels from the top left; where they end, the picture goes on with what
 * it has, as a pattern. */
#include "common/image/deid/text_find.h"
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

/* From the least that is searched: three letters of the least height have room. Few are so large
 * that they are searched again at half their size, as still larger ones are: work grows with it. */
#define SIDE_MIN  24u
#define SIDE_LESS 4u
#define SIDE_MORE 40u

static uint32_t side(uint8_t of)
{
    return SIDE_MIN + (of < 240 ? of % SIDE_LESS : of * 7u % SIDE_MORE);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    uint32_t width, height;
    struct text_lines lines;
    struct err err = {0};
    uint8_t *grey;
    size_t all;

    if (n < 3) return 0;
    width = side(data[0]);
    height = side(data[1]);
    all = (size_t)width * height;
    grey = malloc(all); /* as long as it is: what reads past it is seen */
    if (grey == NULL) return 0;
    for (size_t at = 0; at < all; at += n - 2)
        memcpy(grey + at, data + 2, MIN(n - 2, all - at));
    CHECK(text_find(grey, width, height, &lines, &err) == RC_OK);
    CHECK(lines.n <= TEXT_LINES_MAX);
    for (uint32_t i = 0; i < lines.n; i++) {
        const struct text_line *l = &lines.line[i];

        CHECK(l->width > 0 && l->x < width && l->width <= width - l->x);
        CHECK(l->height > 0 && l->y < height && l->height <= height - l->y);
        CHECK(i == 0 || l->score <= lines.line[i - 1].score);
        /* is all of it there? the sanitizer looks */
        memmove(l->crop, l->crop, (size_t)l->crop_width * TEXT_CROP_HEIGHT);
    }
    text_lines_free(&lines);
    free(grey);
    return 0;
}
