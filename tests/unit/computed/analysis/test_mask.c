/* tests/unit/computed/analysis/test_mask.c - the bytes of label maps, and that they give the labels
 * back. That usual readers take them: tests/cluster/networks/test_series.sh. */
#include "computed/analysis/mask.h"
#include "common/base/le.h"
#include "common/image/image.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <zlib.h>

static uint8_t *labels_make(size_t n)
{
    uint8_t *p = malloc(n);

    assert_non_null(p);
    for (size_t i = 0; i < n; i++)
        p[i] = (uint8_t)((i * i / 7 + i) % 11);
    return p;
}

/* Our own reader takes it: size, and colours that tell labels apart. */
static void test_png(void **state)
{
    const struct image_limits limits = IMAGE_LIMITS_DEFAULT;
    const uint32_t h = 37, w = 53;
    uint8_t *labels = labels_make(h * w), *rgb = malloc(3 * (size_t)h * w);
    uint8_t colour[11][3];
    bool seen[11] = {false};
    struct image_source_mem mem;
    struct image_source src;
    struct image *img;
    struct mask m;
    struct err e;

    (void)state;
    assert_int_equal(mask_png(labels, h, w, "what it is of", &m, &e), RC_OK);
    assert_true(m.kind == MASK_PNG && m.rank == 2 && m.shape[0] == h && m.shape[1] == w);
    image_source_mem_init(&mem, m.p, m.n, &src);
    assert_int_equal(image_open(&src, NULL, &limits, &img, &e), RC_OK);
    assert_string_equal(image_info(img)->media_type, mask_media_type(MASK_PNG));
    assert_int_equal(image_info(img)->level[0].width, w);
    assert_int_equal(image_info(img)->level[0].height, h);
    assert_int_equal(image_read(img, 0, 0, (struct image_rect){0, 0, w, h}, IMAGE_RGB8, rgb, &e),
                     RC_OK);
    for (size_t i = 0; i < (size_t)h * w; i++) {
        uint8_t k = labels[i];

        if (!seen[k]) memcpy(colour[k], rgb + 3 * i, 3);
        seen[k] = true;
        assert_memory_equal(colour[k], rgb + 3 * i, 3);
    }
    for (uint32_t a = 0; a < 11; a++)
        for (uint32_t b = 0; b < a; b++)
            assert_true(memcmp(colour[a], colour[b], 3) != 0);
    image_close(img);
    free(m.p);
    free(labels);
    free(rgb);
}

static double f32(const uint8_t *p)
{
    uint32_t bits = le_get32(p);
    float f;

    memcpy(&f, &bits, 4);
    return (double)f;
}

static void test_nifti(void **state)
{
    const uint32_t d = 5, h = 7, w = 9;
    const double affine[12] = {0.7, 0, 0, 10, 0, 0.5, 0, -20, 0, 0, 2.5, 30};
    uint8_t *labels = labels_make((size_t)d * h * w), out[4096];
    struct mask m;
    struct err e;

    (void)state;
    for (int known = 0; known < 2; known++) {
        z_stream z = {0};

        assert_int_equal(mask_nifti(labels, d, h, w, known ? affine : NULL, &m, &e), RC_OK);
        assert_true(m.kind == MASK_NIFTI && m.rank == 3 && m.shape[0] == d && m.shape[2] == w);
        assert_int_equal(inflateInit2(&z, 31), Z_OK);
        z.next_in = m.p;
        z.avail_in = (uInt)m.n;
        z.next_out = out;
        z.avail_out = sizeof(out);
        assert_int_equal(inflate(&z, Z_FINISH), Z_STREAM_END);
        assert_int_equal(z.total_out, 352 + d * h * w);
        (void)inflateEnd(&z);
        assert_int_equal(le_get32(out), 348);
        assert_memory_equal(out + 344, "n+1", 4);
        assert_int_equal(le_get16(out + 40), 3);
        assert_true(le_get16(out + 42) == w && le_get16(out + 44) == h && le_get16(out + 46) == d);
        assert_true(le_get16(out + 48) == 1 && le_get16(out + 54) == 1);
        assert_true(le_get16(out + 70) == 2 && le_get16(out + 72) == 8);
        assert_true(fabs(f32(out + 108) - 352) < 1e-6);
        assert_int_equal(le_get16(out + 254), known);
        assert_true(fabs(f32(out + 80) - (known ? 0.7 : 1)) < 1e-6);
        if (known) { /* DICOM's first two axes the other way */
            assert_true(fabs(f32(out + 280) + 0.7) < 1e-6 && fabs(f32(out + 292) + 10) < 1e-6);
            assert_true(fabs(f32(out + 300) + 0.5) < 1e-6 && fabs(f32(out + 308) - 20) < 1e-6);
            assert_true(fabs(f32(out + 320) - 2.5) < 1e-6 && fabs(f32(out + 324) - 30) < 1e-6);
        }
        assert_memory_equal(out + 352, labels, d * h * w);
        free(m.p);
    }
    free(labels);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_png), cmocka_unit_test(test_nifti)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
