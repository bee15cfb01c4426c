/* tests/unit/computed/onnx/test_engine.c - several models in too little memory, and batches that do
 * not fit: the least recently used plan goes, rows run in smaller batches, results stay the same.
 * The same over the CUDA backend's plans on the host, whose streams go on in an order by lot: there
 * a batch is on its way up while another runs (computed/backend/cuda/dev_host.c). */
#include "computed/onnx/engine.h"
#include "tests/unit/common/model/build.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define SIDE 8

/* y = relu(conv1x1(x, w = scale)), z = the mean of each channel. */
static struct model *network(float scale)
{
    static const int64_t x[] = {-1, 1, SIDE, SIDE, 0}, w[] = {1, 1, 1, 1, 0};
    struct build *b = build_new(13);
    struct model_limits lim;
    struct model *m;
    struct err e = {0};
    uint8_t *p;
    size_t n;

    build_input(b, "x", MODEL_F32, x);
    build_init_f(b, "w", w, &scale, 1);
    build_node(b, "Conv", "x,w", "c");
    build_node(b, "Relu", "c", "y");
    build_node(b, "GlobalAveragePool", "y", "z");
    build_output(b, "y");
    build_output(b, "z");
    p = build_bytes(b, &n);
    build_free(b);
    lim = model_limits_default(n);
    if (model_load(p, n, &lim, &m, &e) != RC_OK) fail_msg("%s", e.msg);
    free(p);
    return m;
}

static struct engine *engine_of(const char *backend, size_t bytes_max, size_t held_max)
{
    struct engine_conf conf = {
        .backend = backend, .plugin_dir = BACKENDS, .bytes_max = bytes_max, .held_max = held_max};
    struct engine *e;
    struct err err;

    if (engine_open(&conf, &e, &err) != RC_OK) fail_msg("%s", err.msg);
    return e;
}

static struct engine *engine(size_t bytes_max, size_t held_max)
{
    return engine_of("ref", bytes_max, held_max);
}

static void check(const struct session_out *out, const float *x, int64_t n, float scale)
{
    assert_int_equal(out[0].shape.dim[0], n);
    assert_int_equal(out[1].shape.dim[0], n);
    assert_int_equal(out[0].bytes, (size_t)n * SIDE * SIDE * 4);
    for (int64_t r = 0; r < n; r++) {
        double sum = 0;

        for (int i = 0; i < SIDE * SIDE; i++) {
            float v = x[r * SIDE * SIDE + i] * scale, y;

            v = v < 0 ? 0 : v;
            memcpy(&y, (const float *)out[0].data + r * SIDE * SIDE + i, 4);
            assert_true(y >= v - 1e-6f && y <= v + 1e-6f);
            sum += (double)v;
        }
        sum = sum / (SIDE * SIDE) - (double)((const float *)out[1].data)[r];
        assert_true(sum < 1e-6 && sum > -1e-6);
    }
}

static void test_several(void **state)
{
    float *x = calloc(4 * SIDE * SIDE, sizeof(*x));
    struct model_shape shape = {.rank = 4, .dim = {4, 1, SIDE, SIDE}};
    struct session *s[5];
    struct model *m[5];
    struct session_out out[2], kept[2];
    struct engine *e = engine(0, 0);
    const void *in = x;
    char text[64];
    struct err err;

    (void)state;
    for (int i = 0; i < 4 * SIDE * SIDE; i++)
        x[i] = (float)(i % 23) - 11;
    m[0] = network(1);
    assert_int_equal(session_open(e, m[0], &s[0], &err), RC_OK);
    assert_int_equal(session_plan(s[0], &shape, text, sizeof(text), &err), RC_OK);
    session_close(s[0]);
    model_free(m[0]);
    engine_close(e);
    e = engine(0, /* held_max= */ (size_t)atoi(text) * 5 / 2); /* room for two */
    for (int i = 0; i < 5; i++) {
        m[i] = network((float)i + 1);
        assert_int_equal(session_open(e, m[i], &s[i], &err), RC_OK);
    }
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < 5; i++) {
            assert_int_equal(session_run(s[i], &shape, &in, out, &err), RC_OK);
            check(out, x, 4, (float)i + 1);
            if (i == 0) memcpy(kept, out, sizeof(kept));
        }
        check(kept, x, 4, 1); /* its plan went; what it gave stays until it runs again */
    }
    assert_int_equal(session_repeat(s[4], 2, &err), RC_OK);
    assert_int_equal(session_repeat(s[0], 1, &err), RC_INVAL); /* its plan is not there any more */
    for (int i = 0; i < 5; i++) {
        session_close(s[i]);
        model_free(m[i]);
    }
    engine_close(e);
    free(x);
}

static void test_rows(void **state)
{
    enum { N = 21 };
    float *x = calloc(N * SIDE * SIDE, sizeof(*x));
    struct model_shape shape = {.rank = 4, .dim = {N, 1, SIDE, SIDE}};
    struct model *m = network(3);
    struct session_out out[2];
    struct session *s;
    struct engine *e = engine(/* bytes_max= */ 3000, 0); /* a row takes 256 bytes */
    const void *in = x;
    struct err err;

    (void)state;
    for (int i = 0; i < N * SIDE * SIDE; i++)
        x[i] = (float)(i % 31) - 13;
    assert_int_equal(session_open(e, m, &s, &err), RC_OK);
    assert_int_equal(session_run(s, &shape, &in, out, &err), RC_NOMEM);
    assert_non_null(strstr(err.msg, "smaller batch"));
    assert_int_equal(session_rows_max(s), UINT32_MAX);
    for (int k = 0; k < 2; k++) {
        assert_int_equal(session_run_rows(s, &shape, &in, out, &err), RC_OK);
        check(out, x, N, 3);
        assert_int_equal(session_rows_max(s), N / 2);
    }
    shape.dim[0] = 1;
    assert_int_equal(session_run_rows(s, &shape, &in, out, &err), RC_OK);
    check(out, x, 1, 3);
    session_close(s);
    engine_close(e);
    e = engine(/* bytes_max= */ 300, 0); /* not even one */
    assert_int_equal(session_open(e, m, &s, &err), RC_OK);
    shape.dim[0] = N;
    assert_int_equal(session_run_rows(s, &shape, &in, out, &err), RC_NOMEM);
    session_close(s);
    engine_close(e);
    model_free(m);
    free(x);
}

/* Rows of three models in turn, more than two batches each time and a rest, from one place that is
 * written anew for each call; recorded runs, both sets of buffers, rings that go round. */
static void test_streams(void **state)
{
    enum { N = 53, MODELS = 3 };
    float *x = calloc(N * SIDE * SIDE, sizeof(*x));
    struct model_shape shape = {.rank = 4, .dim = {N, 1, SIDE, SIDE}};
    struct engine *e = engine_of("cudahost", 0, 0);
    struct session *s[MODELS];
    struct model *m[MODELS];
    struct session_out out[2];
    const void *in = x;
    struct err err;

    (void)state;
    assert_true(N > 3 * engine_batch(e) / 2); /* else nothing would overlap */
    for (int i = 0; i < MODELS; i++) {
        m[i] = network((float)i + 1);
        assert_int_equal(session_open(e, m[i], &s[i], &err), RC_OK);
    }
    for (int round = 0; round < 40; round++) {
        int i = round % MODELS;

        shape.dim[0] = round % 7 == 6 ? 5 : N;
        for (int k = 0; k < N * SIDE * SIDE; k++)
            x[k] = (float)((k + 17 * round) % 31) - 13;
        assert_int_equal(session_run_rows(s[i], &shape, &in, out, &err), RC_OK);
        check(out, x, shape.dim[0], (float)i + 1);
        if (round % 5 != 4) continue; /* a plain run beside it, of one row */
        shape.dim[0] = 1;
        assert_int_equal(session_run(s[i], &shape, &in, out, &err), RC_OK);
        check(out, x, 1, (float)i + 1);
        assert_int_equal(session_repeat(s[i], 3, &err), RC_OK);
    }
    for (int i = 0; i < MODELS; i++) {
        session_close(s[i]);
        model_free(m[i]);
    }
    engine_close(e);
    free(x);
}

/* A device that has room for one set of buffers, or for small batches only. */
static void test_streams_full(void **state)
{
    enum { N = 40 };
    float *x = calloc(N * SIDE * SIDE, sizeof(*x));
    struct model_shape shape = {.rank = 4, .dim = {N, 1, SIDE, SIDE}};
    struct model *m = network(2);
    struct session_out out[2];
    struct session *s;
    struct engine *e = engine_of("cudahost", /* bytes_max= */ 3000, 0);
    const void *in = x;
    struct err err;

    (void)state;
    for (int i = 0; i < N * SIDE * SIDE; i++)
        x[i] = (float)(i % 29) - 13;
    assert_int_equal(session_open(e, m, &s, &err), RC_OK);
    assert_int_equal(session_run(s, &shape, &in, out, &err), RC_NOMEM);
    for (int k = 0; k < 3; k++) {
        assert_int_equal(session_run_rows(s, &shape, &in, out, &err), RC_OK);
        check(out, x, N, 2);
        assert_in_range(session_rows_max(s), 1, engine_batch(e) / 2 - 1);
    }
    session_close(s);
    engine_close(e);
    model_free(m);
    free(x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_several), cmocka_unit_test(test_rows),
                                       cmocka_unit_test(test_streams),
                                       cmocka_unit_test(test_streams_full)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
