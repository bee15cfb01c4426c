/* tests/unit/computed/analysis/test_network.c - classify and segment: the resampling, the
 * pre-processing to the digit, answers, and which models and images are refused. Networks are
 * written here, pictures are TIFFs made here. */
#include "computed/analysis/network.h"
#include "common/base/le.h"
#include "tests/unit/common/model/build.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

/* ---- resampling ---- */
static void test_resample(void **state)
{
    static const struct resample rows[] = {{0, 7, 7, 7},       {0, 100, 100, 9}, {0, 5, 5, 64},
                                           {3.5, 9.5, 20, 3},  {0, 1, 1, 8},     {40, 60, 100, 1},
                                           {0, 3000, 3000, 1}, {0.1, 0.9, 1, 2}, {0, 2, 2, 3}};
    double w[8192];

    (void)state;
    for (size_t i = 0; i < ARRAY_N(rows); i++) {
        const struct resample *r = &rows[i];

        assert_true(resample_taps_max(r) <= ARRAY_N(w));
        for (uint32_t o = 0; o < r->out_n; o++) {
            double sum = 0, at = 0, want = r->from + (o + 0.5) * (r->to - r->from) / r->out_n;
            double half = fmax((r->to - r->from) / r->out_n, 1);
            uint32_t lo, n;

            resample_taps(r, o, w, &lo, &n);
            assert_true(n > 0 && n <= resample_taps_max(r) && lo + n <= r->in_n);
            for (uint32_t k = 0; k < n; k++) {
                assert_true(w[k] >= 0);
                sum += w[k];
                at += w[k] * (lo + k + 0.5);
            }
            assert_true(fabs(sum - 1) < 1e-12);
            /* away from the edges a triangle's centre of mass is its middle */
            if (want - half >= 0 && want + half <= r->in_n) assert_true(fabs(at - want) < 0.02);
        }
    }
    for (uint32_t o = 0; o < 7; o++) { /* the same size: nothing changes */
        uint32_t lo, n;
        double v = 0;

        resample_taps(&rows[0], o, w, &lo, &n);
        for (uint32_t k = 0; k < n; k++)
            v += w[k] * (lo + k);
        assert_true(fabs(v - o) < 1e-12);
    }
}

/* ---- pictures ---- */
struct picture {
    uint8_t *p;
    size_t n;
    struct image_source_mem mem;
    struct image_source src;
    struct image *img;
};

/* Uncompressed grey or RGB pages, one strip each; v(page, x, y, channel). */
static void picture_open(struct picture *t, uint32_t pages, uint32_t width, uint32_t height,
                         uint32_t channels, uint8_t (*v)(uint32_t, uint32_t, uint32_t, uint32_t))
{
    uint32_t data_n = width * height * channels, page_n = 2 + 9 * 12 + 4 + 8 + data_n;
    struct image_limits lim = IMAGE_LIMITS_DEFAULT;
    struct err e;
    enum rc rc;

    t->n = 8 + (size_t)pages * page_n;
    t->p = calloc(1, t->n);
    assert_non_null(t->p);
    memcpy(t->p, "II*\0", 4);
    le_put32(t->p + 4, 8);
    for (uint32_t k = 0; k < pages; k++) {
        uint32_t at = 8 + k * page_n, bits = at + 2 + 9 * 12 + 4, data = bits + 8;
        const uint32_t tags[9][4] = {{256, 4, 1, width},
                                     {257, 4, 1, height},
                                     {258, 3, channels, channels == 1 ? 8 : bits},
                                     {259, 3, 1, 1},
                                     {262, 3, 1, channels == 1 ? 1 : 2},
                                     {273, 4, 1, data},
                                     {277, 3, 1, channels},
                                     {278, 4, 1, height},
                                     {279, 4, 1, data_n}};

        le_put16(t->p + at, 9);
        for (uint32_t i = 0; i < 9; i++) {
            uint8_t *p = t->p + at + 2 + 12 * i;

            le_put16(p, (uint16_t)tags[i][0]);
            le_put16(p + 2, (uint16_t)tags[i][1]);
            le_put32(p + 4, tags[i][2]);
            le_put32(p + 8, tags[i][3]);
        }
        le_put32(t->p + at + 2 + 9 * 12, k + 1 < pages ? at + page_n : 0);
        for (uint32_t i = 0; i < 3; i++)
            le_put16(t->p + bits + 2 * i, 8);
        for (uint32_t i = 0; i < data_n; i++)
            t->p[data + i] = v(k, i / channels % width, i / channels / width, i % channels);
    }
    image_source_mem_init(&t->mem, t->p, t->n, &t->src);
    rc = image_open(&t->src, "image/tiff", &lim, &t->img, &e);
    if (rc != RC_OK) fail_msg("%s", e.msg);
}

static void picture_close(struct picture *t)
{
    image_close(t->img);
    free(t->p);
}

static uint8_t ramp(uint32_t page, uint32_t x, uint32_t y, uint32_t c)
{
    return (uint8_t)(10 * page + 20 * c + x + 2 * y);
}

static uint8_t left_white(uint32_t page, uint32_t x, uint32_t y, uint32_t c)
{
    (void)page;
    (void)y;
    (void)c;
    return x < 5 ? 255 : 0;
}

/* ---- networks ---- */
struct net {
    struct model *m;
    struct engine *e;
};

static void net_load(struct net *t, struct build *b)
{
    struct engine_conf conf = {.backend = "ref"};
    struct model_limits lim;
    struct err e = {0};
    size_t n;
    uint8_t *p = build_bytes(b, &n);

    build_free(b);
    lim = model_limits_default(n);
    if (model_load(p, n, &lim, &t->m, &e) != RC_OK) fail_msg("%s", e.msg);
    free(p);
    assert_int_equal(engine_open(&conf, &t->e, &e), RC_OK);
}

static void net_close(struct net *t)
{
    engine_close(t->e);
    model_free(t->m);
}

/* The mean of each channel: what the pre-processing made, seen from outside. */
static struct build *means(const int64_t *dims, const char *classes)
{
    struct build *b = build_new(13);

    build_input(b, "x", MODEL_F32, dims);
    build_node(b, "GlobalAveragePool", "x", "p");
    build_node(b, "Flatten", "p", "y");
    build_output(b, "y");
    if (classes != NULL) build_prop(b, "classes", classes);
    return b;
}

static const char *why(struct net *t, const struct job_params *p)
{
    static struct err e;
    struct network *n;

    if (network_open(t->e, t->m, p, &n, &e) != RC_INVAL) fail_msg("not refused");
    return e.msg;
}

static struct job_params params(const char *kind, const char *list[][2], size_t n)
{
    struct job_params p;
    struct err e;

    assert_int_equal(job_params_init(&p, kind, &e), RC_OK);
    for (size_t i = 0; i < n; i++)
        assert_int_equal(job_params_set(&p, list[i][0], list[i][1], &e), RC_OK);
    return p;
}

#define PARAMS(kind, ...)                                                                          \
    params(kind, (const char *[][2]){__VA_ARGS__},                                                 \
           sizeof((const char *[][2]){__VA_ARGS__}) / sizeof(const char *[2]))

static void image_score(struct net *t, const struct job_params *p, struct picture *pic,
                        struct analysis_result *ret)
{
    struct network *n;
    struct err e = {0};
    enum rc rc = network_open(t->e, t->m, p, &n, &e);

    if (rc == RC_OK) rc = network_image(n, pic->img, ret, &e);
    if (rc != RC_OK) fail_msg("%s", e.msg);
    network_close(n);
}

static double score_of(const struct analysis_result *r, const char *name)
{
    for (uint32_t i = 0; i < r->score_n; i++)
        if (strcmp(r->score[i].name, name) == 0) return r->score[i].value;
    fail_msg("no score '%s'", name);
    return 0;
}

static void near(double got, double want, double by)
{
    if (!(fabs(got - want) <= by)) fail_msg("%.9g, not %.9g", got, want);
}

static void test_prepare(void **state)
{
    static const int64_t dims[] = {-1, 3, -1, -1, 0};
    struct picture pic;
    struct analysis_result r;
    struct net t;
    struct job_params p;

    (void)state;
    net_load(&t, means(dims, "red,green,blue"));
    picture_open(&pic, 1, 16, 8, 3, ramp);
    /* a ramp's mean does not change with its size: (7.5 + 2 * 3.5 + 20 c) */
    p = PARAMS("classify", {"size", "8x16"}, {"apply", "none"}, {"mean", "0.1,0.2,0.3"},
               {"std", "0.5,1,2"});
    image_score(&t, &p, &pic, &r);
    assert_string_equal(r.label, r.score[0].name);
    near(score_of(&r, "red"), (14.5 / 255 - 0.1) / 0.5, 1e-6);
    near(score_of(&r, "green"), (34.5 / 255 - 0.2) / 1, 1e-6);
    near(score_of(&r, "blue"), (54.5 / 255 - 0.3) / 2, 1e-6);
    p = PARAMS("classify", {"size", "4x4"}, {"apply", "none"});
    image_score(&t, &p, &pic, &r);
    near(score_of(&r, "red"), 14.5 / 255, 2e-3); /* the triangle is cut at the edges */
    assert_string_equal(r.label, "blue");
    /* the middle square: 8 of 16 columns, the same mean; half of it likewise */
    p = PARAMS("classify", {"size", "8x8"}, {"apply", "none"}, {"resize", "crop"});
    image_score(&t, &p, &pic, &r);
    near(score_of(&r, "green"), 34.5 / 255, 1e-6);
    p = PARAMS("classify", {"size", "4x4"}, {"apply", "none"}, {"resize", "crop:0.5"});
    image_score(&t, &p, &pic, &r);
    near(score_of(&r, "green"), 34.5 / 255, 1e-6);
    /* softmax and sigmoid over the same numbers; `top` cuts the list */
    p = PARAMS("classify", {"size", "8x16"}, {"top", "2"});
    image_score(&t, &p, &pic, &r);
    assert_int_equal(r.score_n, 2);
    near(r.score[0].value, exp(54.5 / 255) / (exp(14.5 / 255) + exp(34.5 / 255) + exp(54.5 / 255)),
         1e-6);
    p = PARAMS("classify", {"size", "8x16"}, {"apply", "sigmoid"});
    image_score(&t, &p, &pic, &r);
    near(score_of(&r, "blue"), 1 / (1 + exp(-54.5 / 255)), 1e-6);
    picture_close(&pic);
    /* what does not fit */
    p = PARAMS("classify", {"top", "1"});
    assert_non_null(strstr(why(&t, &p), "give parameter size"));
    p = PARAMS("classify", {"size", "4x4x4"});
    assert_non_null(strstr(why(&t, &p), "takes 2"));
    p = PARAMS("segment", {"size", "4x4"});
    assert_non_null(strstr(why(&t, &p), "segment needs float32 [N, classes, rows, columns]"));
    net_close(&t);
    net_load(&t, means(dims, "red,green"));
    p = PARAMS("classify", {"size", "4x4"});
    assert_non_null(strstr(why(&t, &p), "names 2 classes"));
    net_close(&t);
}

static void test_grey(void **state)
{
    static const int64_t fixed[] = {1, 1, 6, 10, 0};
    struct picture pic;
    struct analysis_result r;
    struct net t;
    struct job_params p;

    (void)state;
    net_load(&t, means(fixed, NULL));
    p = PARAMS("classify", {"top", "1"});
    assert_non_null(strstr(why(&t, &p), "softmax is always 1"));
    p = PARAMS("classify", {"size", "6x11"}, {"apply", "none"});
    assert_non_null(strstr(why(&t, &p), "has 10 in place of 11"));
    p = PARAMS("classify", {"mean", "1,2,3"}, {"apply", "none"});
    assert_non_null(strstr(why(&t, &p), "one a channel"));
    p = PARAMS("classify", {"apply", "none"});
    picture_open(&pic, 3, 10, 6, 1, ramp); /* the middle page */
    image_score(&t, &p, &pic, &r);
    near(score_of(&r, "class_0"), (10 + 4.5 + 5) / 255, 1e-6);
    picture_close(&pic);
    net_close(&t);
}

static void test_volume(void **state)
{
    static const int64_t dims[] = {-1, 1, -1, -1, -1, 0};
    struct picture pic, flat;
    struct analysis_result r;
    struct network *n;
    struct net t;
    struct err e;
    struct job_params p = PARAMS("classify", {"size", "3x6x10"}, {"apply", "none"});

    (void)state;
    net_load(&t, means(dims, NULL));
    picture_open(&pic, 9, 10, 6, 1, ramp); /* slices 1, 4 and 7 of 0 to 8 */
    image_score(&t, &p, &pic, &r);
    near(score_of(&r, "class_0"), (40 + 4.5 + 5) / 255, 1e-6);
    picture_close(&pic);
    picture_open(&flat, 1, 10, 6, 1, ramp);
    assert_int_equal(network_open(t.e, t.m, &p, &n, &e), RC_OK);
    assert_int_equal(network_image(n, flat.img, &r, &e), RC_INVAL);
    assert_non_null(strstr(e.msg, "takes volumes"));
    network_close(n);
    picture_close(&flat);
    net_close(&t);
}

/* Foreground where the value is above a half: one channel, or two that fight. */
static struct build *masks(uint32_t classes)
{
    static const int64_t x[] = {-1, 1, -1, -1, 0}, w1[] = {1, 1, 1, 1, 0}, w2[] = {2, 1, 1, 1, 0},
                         b1[] = {1, 0}, b2[] = {2, 0};
    static const float w[] = {2, -1}, bias1[] = {-1}, w_two[] = {-1, 1}, bias2[] = {1, 0};
    struct build *b = build_new(13);

    build_input(b, "x", MODEL_F32, x);
    build_init_f(b, "w", classes == 1 ? w1 : w2, classes == 1 ? w : w_two, classes);
    build_init_f(b, "b", classes == 1 ? b1 : b2, classes == 1 ? bias1 : bias2, classes);
    build_node(b, "Conv", "x,w,b", "y");
    build_output(b, "y");
    if (classes == 2) build_prop(b, "classes", "ground,polyp");
    return b;
}

static void test_segment(void **state)
{
    struct picture pic;
    struct analysis_result r;
    struct net t;
    struct job_params p = PARAMS("segment", {"size", "4x10"});

    (void)state;
    picture_open(&pic, 1, 10, 4, 1, left_white);
    for (uint32_t classes = 1; classes <= 2; classes++) {
        net_load(&t, masks(classes));
        image_score(&t, &p, &pic, &r);
        assert_string_equal(r.label, classes == 1 ? "foreground" : "polyp");
        near(score_of(&r, classes == 1 ? "foreground" : "polyp"), 0.5, 1e-9);
        near(score_of(&r, classes == 1 ? "background" : "ground"), 0.5, 1e-9);
        net_close(&t);
    }
    net_load(&t, masks(2));
    p = PARAMS("segment", {"size", "4x10"}, {"mean", "1"}); /* 0 at most: all ground */
    image_score(&t, &p, &pic, &r);
    assert_string_equal(r.label, "ground");
    near(score_of(&r, "polyp"), 0, 0);
    net_close(&t);
    picture_close(&pic);
}

/* A division by zero: no answer rather than a wrong one. */
static void test_not_finite(void **state)
{
    static const int64_t dims[] = {-1, 3, -1, -1, 0};
    struct build *b = means(dims, NULL);
    struct job_params p = PARAMS("classify", {"size", "4x4"});
    struct analysis_result r;
    struct network *n;
    struct picture pic;
    struct net t;
    struct err e;

    (void)state;
    build_free(b);
    b = build_new(13);
    build_input(b, "x", MODEL_F32, dims);
    build_node(b, "Sub", "x,x", "z");
    build_node(b, "Div", "x,z", "d");
    build_node(b, "GlobalAveragePool", "d", "p");
    build_node(b, "Flatten", "p", "y");
    build_output(b, "y");
    net_load(&t, b);
    picture_open(&pic, 1, 10, 6, 3, ramp);
    assert_int_equal(network_open(t.e, t.m, &p, &n, &e), RC_OK);
    assert_int_equal(network_image(n, pic.img, &r, &e), RC_INVAL);
    assert_non_null(strstr(e.msg, "no finite number"));
    network_close(n);
    picture_close(&pic);
    net_close(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_resample), cmocka_unit_test(test_prepare),
        cmocka_unit_test(test_grey),     cmocka_unit_test(test_volume),
        cmocka_unit_test(test_segment),  cmocka_unit_test(test_not_finite)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
