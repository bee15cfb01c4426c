/* tests/unit/computed/analysis/test_quality.c - a synthetic picture, spoiled in three ways, changes
 * its class; tiles, slides and refusals. */
#include "computed/analysis/quality.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define SIDE 160

struct fixture {
    struct model *m;
    struct engine *e;
    struct quality *q;
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    struct engine_conf conf = {.backend = "ref"};
    uint8_t *bytes = malloc(1 << 20);
    FILE *file = fopen(MIKURA_SOURCE_DIR "/deploy/models/quality.onnx", "rb");
    struct model_limits lim;
    struct err e;
    size_t n;

    assert_non_null(file);
    n = fread(bytes, 1, 1 << 20, file);
    (void)fclose(file);
    lim = model_limits_default(n);
    assert_int_equal(model_load(bytes, n, &lim, &f->m, &e), RC_OK);
    free(bytes);
    assert_int_equal(engine_open(&conf, &f->e, &e), RC_OK);
    assert_int_equal(quality_open(f->e, f->m, &f->q, &e), RC_OK);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    quality_close(f->q);
    engine_close(f->e);
    model_free(f->m);
    free(f);
    return 0;
}

/* Discs with hard edges over a gradient, reddish as tissue: 0.25 to 0.75 of full scale. */
static void paint(double *p)
{
    for (int y = 0; y < SIDE; y++) {
        for (int x = 0; x < SIDE; x++) {
            double v = 0.3 + 0.2 * x / SIDE;

            for (int k = 0; k < 24; k++) {
                int cx = (k * 53 + 17) % SIDE, cy = (k * 31 + 40) % SIDE, r = 4 + k % 7;

                if ((x - cx) * (x - cx) + (y - cy) * (y - cy) < r * r) v = k % 2 ? 0.75 : 0.25;
            }
            p[y * SIDE + x] = v;
        }
    }
}

/* A box of 5, three times each way: close to a Gaussian of 2.4 pixels. */
static void blur(double *p)
{
    double *t = malloc(sizeof(*t) * SIDE * SIDE);

    for (int pass = 0; pass < 6; pass++) {
        int dx = pass % 2, dy = 1 - dx;

        memcpy(t, p, sizeof(*t) * SIDE * SIDE);
        for (int y = 0; y < SIDE; y++) {
            for (int x = 0; x < SIDE; x++) {
                double s = 0;

                for (int k = -2; k <= 2; k++) {
                    int u = MIN(MAX(x + k * dx, 0), SIDE - 1),
                        v = MIN(MAX(y + k * dy, 0), SIDE - 1);

                    s += t[v * SIDE + u];
                }
                p[y * SIDE + x] = s / 5;
            }
        }
    }
    free(t);
}

static void to_rgb(const double *p, double gain, double offset, uint8_t *rgb)
{
    static const double tint[3] = {1.1, 0.95, 0.9};

    for (int i = 0; i < SIDE * SIDE; i++)
        for (int c = 0; c < 3; c++)
            rgb[3 * i + c] =
                (uint8_t)(fmin(fmax((p[i] * tint[c]) * gain + offset, 0), 1) * 255 + 0.5);
}

static void label_is(struct fixture *f, const double *p, double gain, double offset,
                     const char *label)
{
    uint8_t *rgb = malloc(3 * SIDE * SIDE);
    struct analysis_result r;
    struct err e;
    double sum = 0;

    to_rgb(p, gain, offset, rgb);
    quality_begin(f->q, /* slide= */ false);
    assert_int_equal(quality_add(f->q, rgb, SIDE, SIDE, 3 * SIDE, &e), RC_OK);
    assert_int_equal(quality_end(f->q, &r, &e), RC_OK);
    assert_string_equal(r.label, label);
    assert_int_equal(r.score_n, 10);
    assert_int_equal(r.tile_n, 1);
    for (int i = 0; i < 4; i++)
        sum += r.score[i].value;
    assert_true(fabs(sum - 1) < 1e-5);
    free(rgb);
}

static void test_spoiled(void **state)
{
    double *p = malloc(sizeof(*p) * SIDE * SIDE);

    paint(p);
    label_is(*state, p, 1, 0, "usable");
    label_is(*state, p, 0.15, 0, "dark");
    label_is(*state, p, 2.5, 0.2, "overexposed");
    blur(p);
    label_is(*state, p, 1, 0, "blurred");
    free(p);
}

struct slide {
    const uint8_t *tissue;
    uint32_t reads;
    bool broken;
};

/* Blank glass (white, nothing on it) everywhere but in one tile of six. */
static enum rc slide_read(void *data, uint64_t x, uint64_t y, uint32_t width, uint32_t height,
                          uint8_t *rgb, struct err *reterr)
{
    struct slide *s = data;

    s->reads++;
    if (s->broken) return err_set(reterr, RC_CORRUPT, "tile %u", s->reads);
    memset(rgb, 252, (size_t)3 * width * height);
    rgb[0] = 250; /* no glass is perfect; without it there would be no contrast */
    for (uint32_t j = 0; j < height; j++)
        for (uint32_t i = 0; i < width; i++)
            if (x + i >= 500 && x + i < 1000 && y + j >= 300)
                memcpy(rgb + 3 * ((size_t)j * width + i),
                       s->tissue + 3 * ((y + j) % SIDE * SIDE + (x + i) % SIDE), 3);
    return RC_OK;
}

static void test_slide(void **state)
{
    struct fixture *f = *state;
    double *p = malloc(sizeof(*p) * SIDE * SIDE);
    uint8_t *rgb = malloc(3 * SIDE * SIDE);
    struct slide s = {.tissue = rgb};
    struct analysis_result a, b;
    struct err e;

    paint(p);
    to_rgb(p, 1, 0, rgb);
    /* 1500 x 600: 3 x 2 tiles of 500 x 300; at most 2 of them: every second one: 2 x 1 */
    assert_int_equal(quality_image(f->q, 1500, 600, true, 100, slide_read, &s, &a, &e), RC_OK);
    assert_int_equal(s.reads, 6);
    assert_int_equal(a.tile_n, 6);
    assert_string_equal(a.label, "usable"); /* the glass, overexposed by itself, hardly counts */
    assert_int_equal(quality_image(f->q, 1500, 600, true, 100, slide_read, &s, &b, &e), RC_OK);
    assert_memory_equal(&a, &b, sizeof(a));
    s.reads = 0;
    assert_int_equal(quality_image(f->q, 1500, 600, true, 2, slide_read, &s, &b, &e), RC_OK);
    assert_int_equal(s.reads, 2);
    s.broken = true;
    assert_int_equal(quality_image(f->q, 1500, 600, true, 2, slide_read, &s, &b, &e), RC_CORRUPT);
    assert_int_equal(quality_image(f->q, 31, 600, true, 2, slide_read, &s, &b, &e), RC_INVAL);
    quality_begin(f->q, /* slide= */ false);
    assert_int_equal(quality_add(f->q, rgb, 20, 20, 60, &e), RC_OK); /* a rim: skipped */
    assert_int_equal(quality_end(f->q, &b, &e), RC_INVAL);
    assert_true(strlen(quality_limits(f->q)) > 100);
    free(p);
    free(rgb);
}

/* A tile of which two thirds are glass and one is tissue: on a slide that is usable, and
 * overexposed when the tissue is bright as well; elsewhere so much white is clipping. */
static enum rc rim_read(void *data, uint64_t x, uint64_t y, uint32_t width, uint32_t height,
                        uint8_t *rgb, struct err *reterr)
{
    const uint8_t *tissue = data;

    (void)y;
    (void)reterr;
    memset(rgb, 254, (size_t)3 * width * height);
    for (uint32_t j = 0; j < height; j++)
        for (uint32_t i = 0; i < width; i++)
            if (x + i < SIDE)
                memcpy(rgb + 3 * ((size_t)j * width + i), tissue + 3 * (j % SIDE * SIDE + x + i),
                       3);
    return RC_OK;
}

static void test_glass(void **state)
{
    struct fixture *f = *state;
    double *p = malloc(sizeof(*p) * SIDE * SIDE);
    uint8_t *rgb = malloc(3 * SIDE * SIDE);
    struct analysis_result r;
    struct err e;

    paint(p);
    to_rgb(p, 1, 0, rgb);
    assert_int_equal(quality_image(f->q, 3 * SIDE, SIDE, true, 9, rim_read, rgb, &r, &e), RC_OK);
    assert_int_equal(r.tile_n, 1);
    assert_string_equal(r.label, "usable");
    assert_int_equal(quality_image(f->q, 3 * SIDE, SIDE, false, 9, rim_read, rgb, &r, &e), RC_OK);
    assert_string_equal(r.label, "overexposed");
    to_rgb(p, 0.5, 0.68, rgb);
    assert_int_equal(quality_image(f->q, 3 * SIDE, SIDE, true, 9, rim_read, rgb, &r, &e), RC_OK);
    assert_string_equal(r.label, "overexposed");
    free(p);
    free(rgb);
}

/* One colour, be it black, white or red: nothing can be said. One pixel more and it can. */
static void test_no_contrast(void **state)
{
    static const uint8_t colour[3][3] = {{0, 0, 0}, {255, 255, 255}, {200, 20, 30}};
    struct fixture *f = *state;
    uint8_t *rgb = malloc(3 * SIDE * SIDE);
    struct analysis_result r;
    struct err e;

    for (int k = 0; k < 3; k++) {
        for (int i = 0; i < 3 * SIDE * SIDE; i++)
            rgb[i] = colour[k][i % 3];
        quality_begin(f->q, /* slide= */ false);
        assert_int_equal(quality_add(f->q, rgb, SIDE, SIDE, 3 * SIDE, &e), RC_OK);
        assert_int_equal(quality_end(f->q, &r, &e), RC_INVAL);
        assert_non_null(strstr(e.msg, "no contrast"));
        rgb[3 * 1000 + 1] ^= 1;
        quality_begin(f->q, /* slide= */ false);
        assert_int_equal(quality_add(f->q, rgb, SIDE, SIDE, 3 * SIDE, &e), RC_OK);
        assert_int_equal(quality_end(f->q, &r, &e), RC_OK);
    }
    free(rgb);
}

/* Tiles in batches, as a GPU takes them (here its plans on the host), give what single ones give;
 * also where the memory does not hold a batch. */
static void test_batches(void **state)
{
    struct fixture *f = *state;
    static const size_t bytes_max[] = {0, (size_t)8 << 20};
    uint32_t w = 7 * SIDE, h = 3 * SIDE;
    uint8_t *rgb = malloc((size_t)3 * w * h);
    struct analysis_result one, r;
    struct err e = {0};

    for (size_t i = 0; i < (size_t)3 * w * h; i++)
        rgb[i] = (uint8_t)((i * 7 + i / w % 13 * 19) % 251);
    quality_begin(f->q, /* slide= */ true);
    for (uint32_t t = 0; t < 21; t++)
        assert_int_equal(quality_add(f->q, rgb + (size_t)3 * (t / 7 * SIDE * w + t % 7 * SIDE),
                                     SIDE, SIDE, (size_t)3 * w, &e),
                         RC_OK);
    assert_int_equal(quality_end(f->q, &one, &e), RC_OK);
    for (size_t k = 0; k < ARRAY_N(bytes_max); k++) {
        struct engine_conf conf = {
            .backend = "cudahost", .plugin_dir = BACKENDS, .bytes_max = bytes_max[k]};
        struct engine *en;
        struct quality *q;

        if (engine_open(&conf, &en, &e) != RC_OK) fail_msg("%s", e.msg);
        assert_true(engine_batch(en) > 1);
        assert_int_equal(quality_open(en, f->m, &q, &e), RC_OK);
        quality_begin(q, /* slide= */ true);
        for (uint32_t t = 0; t < 21; t++)
            if (quality_add(q, rgb + (size_t)3 * (t / 7 * SIDE * w + t % 7 * SIDE), SIDE, SIDE,
                            (size_t)3 * w, &e) != RC_OK)
                fail_msg("%s", e.msg);
        assert_int_equal(quality_end(q, &r, &e), RC_OK);
        assert_int_equal(r.tile_n, one.tile_n);
        assert_string_equal(r.label, one.label);
        for (uint32_t i = 0; i < r.score_n; i++)
            assert_true(fabs(r.score[i].value - one.score[i].value) < 1e-4);
        quality_close(q);
        engine_close(en);
    }
    free(rgb);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_spoiled), cmocka_unit_test(test_slide), cmocka_unit_test(test_glass),
        cmocka_unit_test(test_no_contrast), cmocka_unit_test(test_batches)};

    return cmocka_run_group_tests(tests, setup, teardown);
}
