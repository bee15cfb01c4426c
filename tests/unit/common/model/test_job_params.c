/* tests/unit/common/model/test_job_params.c - a job's parameters in words. */
#include "common/model/job_params.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

static struct job_params made(const char *kind)
{
    struct job_params p;
    struct err e;

    assert_int_equal(job_params_init(&p, kind, &e), RC_OK);
    return p;
}

static void test_taken(void **state)
{
    struct job_params p = made("segment");
    struct err e;

    (void)state;
    assert_int_equal(p.size_n, 0);
    assert_int_equal(job_params_set(&p, "size", "64x128x96", &e), RC_OK);
    assert_true(p.size_n == 3 && p.size[0] == 64 && p.size[1] == 128 && p.size[2] == 96);
    assert_int_equal(job_params_set(&p, "mean", "0.485,0.456,0.406", &e), RC_OK);
    assert_true(p.mean_n == 3 && p.mean[1] > 0.455 && p.mean[1] < 0.457);
    assert_int_equal(job_params_set(&p, "std", "2e-1", &e), RC_OK);
    assert_true(p.std_n == 1 && p.std[0] > 0.19 && p.std[0] < 0.21);
    assert_int_equal(job_params_set(&p, "resize", "crop:0.5", &e), RC_OK);
    assert_true(p.crop && p.crop_part > 0.49 && p.crop_part < 0.51);
    assert_int_equal(job_params_set(&p, "resize", "stretch", &e), RC_OK);
    assert_false(p.crop);
    assert_int_equal(job_params_set(&p, "precision", "fp16", &e), RC_OK);
    assert_int_equal(p.precision, JOB_FP16);
    assert_true(p.masks);
    assert_int_equal(job_params_set(&p, "masks", "no", &e), RC_OK);
    assert_false(p.masks);
    assert_int_equal(job_params_set(&p, "masks", "yes", &e), RC_OK);
    assert_true(p.masks);
    assert_false(p.window);
    assert_int_equal(job_params_set(&p, "window", "-600,1500", &e), RC_OK);
    assert_true(p.window && p.window_center < -599 && p.window_width > 1499);
    p = made("quality");
    assert_int_equal(p.tiles_max, 64);
    assert_int_equal(job_params_set(&p, "tiles_max", "4096", &e), RC_OK);
    assert_int_equal(p.tiles_max, 4096);
}

static void test_refused(void **state)
{
    static const struct {
        const char *kind, *name, *value, *words;
    } rows[] = {
        {"quality", "tiles_max", "0", "from 1 to 4096"},
        {"quality", "tiles_max", "4097", "from 1 to 4096"},
        {"quality", "size", "8x8", "has no parameter"},
        {"classify", "tiles_max", "4", "has no parameter"},
        {"segment", "top", "4", "has no parameter 'top'; it has: precision, size"},
        {"classify", "size", "224", "rows x columns"},
        {"classify", "size", "224x", "rows x columns"},
        {"classify", "size", "0x8", "rows x columns"},
        {"classify", "size", "8193x1", "rows x columns"},
        {"classify", "size", "8192x8192", "rows x columns"},
        {"classify", "size", "1x2x3x4", "rows x columns"},
        {"classify", "size", "99999999999x1", "rows x columns"},
        {"classify", "mean", "1,2", "one number or three"},
        {"segment", "masks", "2", "yes or no"},
        {"classify", "masks", "yes", "has no parameter"},
        {"segment", "window", "40", "CENTER,WIDTH"},
        {"segment", "window", "40,0.5", "CENTER,WIDTH"},
        {"segment", "window", "40,400,1", "CENTER,WIDTH"},
        {"quality", "window", "40,400", "has no parameter"},
        {"classify", "mean", "nan", "one number or three"},
        {"classify", "mean", "0x10", "one number or three"},
        {"classify", "mean", "1e300", "one number or three"},
        {"classify", "mean", "", "one number or three"},
        {"classify", "mean", "1,2,3,4", "one number or three"},
        {"classify", "std", "0", "above 0"},
        {"classify", "std", "1,1,-1", "above 0"},
        {"classify", "resize", "fit", "crop:PART"},
        {"classify", "resize", "crop:1.5", "crop:PART"},
        {"classify", "resize", "crop:0.5x", "crop:PART"},
        {"classify", "apply", "relu", "softmax, sigmoid or none"},
        {"classify", "top", "17", "from 1 to 16"},
        {"classify", "precision", "fp64", "fp32, tf32, fp16 or bf16"},
    };
    struct job_params p;
    struct err e;

    (void)state;
    assert_int_equal(job_params_init(&p, "diagnose", &e), RC_INVAL);
    assert_non_null(strstr(e.msg, "quality, classify, segment"));
    for (size_t i = 0; i < ARRAY_N(rows); i++) {
        p = made(rows[i].kind);
        assert_int_equal(job_params_set(&p, rows[i].name, rows[i].value, &e), RC_INVAL);
        if (strstr(e.msg, rows[i].words) == NULL)
            fail_msg("%s=%s: %s", rows[i].name, rows[i].value, e.msg);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_taken),
                                       cmocka_unit_test(test_refused)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
