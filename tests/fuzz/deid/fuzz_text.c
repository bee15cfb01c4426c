/* tests/fuzz/deid/fuzz_text.c - any grey picture: lines lie inside of it, in order, with crops that
 * can be read whole.
 *
 * Two bytes of size, then pixels from the top left; where they end, the picture goes on with what
 * it has, as a pattern. */
#include "common/image/deid/text_find.h"
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

/* From the least that is searched; larger ones are searched like these, at half their size. */
#define SIDE_MIN 24u
#define SIDE_N   40u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    uint32_t width, height;
    struct text_lines lines;
    struct err err = {0};
    uint8_t *grey;
    unsigned sum = 0;
    size_t all;

    if (n < 3) return 0;
    width = SIDE_MIN + data[0] % SIDE_N;
    height = SIDE_MIN + data[1] % SIDE_N;
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
        for (size_t k = 0; k < (size_t)l->crop_width * TEXT_CROP_HEIGHT; k++)
            sum += l->crop[k];
    }
    text_lines_free(&lines);
    free(grey);
    return sum == UINT32_MAX; /* never, but it is read */
}
