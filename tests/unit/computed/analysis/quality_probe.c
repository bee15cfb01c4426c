/* tests/unit/computed/analysis/quality_probe.c - what the quality analysis says of image files, one
 * row each; for people and tests. quality_probe BACKEND MODEL FILE...
 * $QUALITY_GAIN and $QUALITY_OFFSET spoil the pixels first: v * gain + offset.
 *   label|aside  scores and measures | reason  file
 * The same calls as computed/worker/child.c, in this process: for trusted files only. */
#include "common/image/image.h"
#include "computed/analysis/quality.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct scene {
    struct image *img;
    uint32_t frame;
    double gain, offset; /* of the values, 0 to 255: to spoil an image on purpose */
};

static enum rc tile_read(void *data, uint64_t x, uint64_t y, uint32_t width, uint32_t height,
                         uint8_t *rgb, struct err *reterr)
{
    struct scene *s = data;
    struct image_rect r = {.x = x, .y = y, .width = width, .height = height};
    enum rc rc = image_read(s->img, 0, s->frame, r, IMAGE_RGB8, rgb, reterr);

    for (size_t i = 0; rc == RC_OK && i < (size_t)3 * width * height; i++) {
        double v = rgb[i] * s->gain + s->offset;

        rgb[i] = (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v);
    }
    return rc;
}

static void probe(struct quality *q, const char *path)
{
    const struct image_limits limits = IMAGE_LIMITS_DEFAULT;
    struct image_source src = {0};
    const char *gain = getenv("QUALITY_GAIN"), *offset = getenv("QUALITY_OFFSET");
    struct scene s = {.gain = gain == NULL ? 1 : strtod(gain, NULL),
                      .offset = offset == NULL ? 0 : strtod(offset, NULL)};
    struct analysis_result r;
    struct err e = {0};
    enum rc rc = image_source_file_open(path, &src, &e);

    if (rc == RC_OK) rc = image_open(&src, NULL, &limits, &s.img, &e);
    if (rc == RC_OK) {
        const struct image_info *in = image_info(s.img);

        s.frame = in->frame_n / 2;
        rc = quality_image(q, in->level[0].width, in->level[0].height,
                           strcmp(in->kind, "slide") == 0, /* tiles_max= */ 64, tile_read, &s, &r,
                           &e);
    }
    if (rc == RC_OK) {
        (void)printf("%-11s", r.label);
        for (uint32_t i = 0; i < r.score_n; i++)
            (void)printf(" %.9s=%.2f", r.score[i].name, r.score[i].value);
        (void)printf("  %s\n", path);
    } else {
        (void)printf("%-11s %s  %s\n", "aside", e.msg, path);
    }
    image_close(s.img);
    image_source_file_close(&src);
}

int main(int argc, char **argv)
{
    struct engine_conf conf = {.plugin_dir = BACKEND_DIR};
    static uint8_t bytes[1 << 20];
    struct model_limits lim;
    struct quality *q;
    struct engine *en;
    struct model *m;
    struct err e;
    FILE *f;
    size_t n;

    if (argc < 3) return 2;
    f = fopen(argv[2], "rb");
    n = f == NULL ? 0 : fread(bytes, 1, sizeof(bytes), f);
    if (f != NULL) (void)fclose(f);
    lim = model_limits_default(n);
    conf.backend = argv[1];
    if (model_load(bytes, n, &lim, &m, &e) != RC_OK || engine_open(&conf, &en, &e) != RC_OK ||
        quality_open(en, m, &q, &e) != RC_OK) {
        (void)fprintf(stderr, "%s\n", e.msg);
        return 1;
    }
    for (int i = 3; i < argc; i++)
        probe(q, argv[i]);
    quality_close(q);
    engine_close(en);
    model_free(m);
    return 0;
}
