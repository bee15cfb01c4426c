/* tests/unit/gateway/model_check/test_model_check.c - what mikura-model-check tells of good and
 * hostile models, and what the gateway makes of a child that lies, hangs, floods or dies. The
 * program is its own hostile child: the "model's" size says which. */
#include "gateway/api/model_check.h"
#include "common/base/clock.h"
#include "gateway/model_check/wire.h"
#include "tests/unit/common/model/build.h"
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>

#define DIMS(...) ((const int64_t[]){__VA_ARGS__, 0})

enum hostile { SILENT = 1, NONSENSE, HANG, FLOOD, CRASH, LONG_REASON, CONTROL_REASON, HALF };

static void say(const void *p, size_t n)
{
    if (write(MODEL_CHECK_FD, p, n) != (ssize_t)n) _exit(0);
}

static int hostile(enum hostile mode)
{
    static uint8_t junk[65536];

    switch (mode) {
    case SILENT:
        return 0;
    case NONSENSE:
        memset(junk, 0xee, sizeof(junk));
        say(junk, 1000);
        return 0;
    case HANG:
        say("S", 1);
        (void)pause();
        return 0;
    case FLOOD:
        for (;;)
            say(junk, sizeof(junk));
    case CRASH:
        (void)signal(SIGSEGV, SIG_DFL);
        (void)raise(SIGSEGV);
        return 0;
    case LONG_REASON:
        say("R\x03\xff\xff"
            "abc",
            7);
        return 0;
    case CONTROL_REASON:
        say("R\x03\x05\x00"
            "a\n\x1b[2",
            9);
        return 0;
    case HALF:
        say("S\x0d\x00", 3);
        return 0;
    }
    return 1;
}

static enum rc check(const char *program, size_t n, const uint8_t *bytes, uint8_t **answer,
                     size_t *answer_n, struct err *e)
{
    return gw_model_check(program, bytes, n, 3000, answer, answer_n, e);
}

static void test_hostile_child(void **state)
{
    static const struct {
        enum hostile mode;
        enum rc rc;
        const char *words;
    } row[] = {
        {SILENT, RC_INTERNAL, "said nothing"},  {HANG, RC_INTERNAL, "longer than 3000 ms"},
        {FLOOD, RC_INTERNAL, "talks too much"}, {CRASH, RC_INTERNAL, "signal 11"},
        {CONTROL_REASON, RC_INVAL, "a??[2"},
    };
    static const uint8_t zeros[64];
    struct arena a;

    (void)state;
    for (size_t i = 0; i < ARRAY_N(row); i++) {
        uint64_t from = clock_boot_ms();
        uint8_t *answer = NULL;
        struct err e = {0};
        size_t n = 0;

        assert_int_equal(check("/proc/self/exe", (size_t)row[i].mode, zeros, &answer, &n, &e),
                         row[i].rc);
        if (strstr(e.msg, row[i].words) == NULL) fail_msg("no '%s' in: %s", row[i].words, e.msg);
        assert_true(clock_boot_ms() - from < 20000);
    }
    for (enum hostile mode = NONSENSE; mode <= HALF; mode++) { /* what passes as an answer */
        Mikura__V1__Model m = MIKURA__V1__MODEL__INIT;
        uint8_t *answer = NULL;
        struct err e = {0};
        size_t n = 0;

        if (mode != NONSENSE && mode != LONG_REASON && mode != HALF) continue;
        arena_init(&a);
        assert_int_equal(check("/proc/self/exe", (size_t)mode, zeros, &answer, &n, &e), RC_OK);
        assert_int_equal(gw_model_answer(answer, n, &a, &m, &e), RC_INTERNAL);
        free(answer);
        arena_deinit(&a);
    }
    {
        uint8_t *answer = NULL;
        struct err e = {0};
        size_t n = 0;

        assert_int_equal(check("/nowhere/none", 1, zeros, &answer, &n, &e), RC_INTERNAL);
        assert_non_null(strstr(e.msg, "/nowhere/none"));
    }
}

static struct build *good(void)
{
    static const float w[27] = {1};
    struct build *b = build_new(13);

    build_input(b, "x", 1, DIMS(-1, 3, -1, -1));
    build_init_f(b, "w", DIMS(1, 3, 3, 3), w, ARRAY_N(w));
    build_node(b, "Conv", "x,w", "y");
    build_output(b, "y");
    build_prop(b, "classes", "good, bad");
    build_prop(b, "limits", "Not for children.\nNor for \xe8\x83\xb8.");
    return b;
}

static void test_answer(void **state)
{
    struct build *b = good();
    Mikura__V1__Model m = MIKURA__V1__MODEL__INIT;
    uint8_t *bytes, *answer, *bad;
    struct arena a;
    struct err e;
    size_t n, answer_n, wrong = 0;

    (void)state;
    bytes = build_bytes(b, &n);
    build_free(b);
    assert_int_equal(check(MODEL_CHECK, n, bytes, &answer, &answer_n, &e), RC_OK);
    arena_init(&a);
    assert_int_equal(gw_model_answer(answer, answer_n, &a, &m, &e), RC_OK);
    assert_int_equal(m.opset, 13);
    assert_int_equal(m.n_inputs, 1);
    assert_string_equal(m.inputs[0]->name, "x");
    assert_string_equal(m.inputs[0]->type, "float32");
    assert_int_equal(m.inputs[0]->n_shape, 4);
    assert_int_equal(m.inputs[0]->shape[0], -1);
    assert_int_equal(m.inputs[0]->shape[1], 3);
    assert_int_equal(m.n_outputs, 1);
    assert_int_equal(m.outputs[0]->shape[1], 1);
    assert_int_equal(m.n_classes, 2);
    assert_string_equal(m.classes[1], "bad");
    assert_string_equal(m.limits, "Not for children.\nNor for \xe8\x83\xb8.");
    arena_deinit(&a);
    /* any cut, and any changed byte: told as nonsense, or another description; never a crash, and
     * never a text that is not UTF-8 */
    bad = malloc(answer_n);
    for (size_t i = 0; i < answer_n; i++) {
        for (int k = 0; k < 9; k++) {
            Mikura__V1__Model x = MIKURA__V1__MODEL__INIT;
            size_t len = k == 8 ? i : answer_n;

            memcpy(bad, answer, answer_n);
            if (k < 8) bad[i] ^= (uint8_t)(1u << k);
            arena_init(&a);
            if (gw_model_answer(bad, len, &a, &x, &e) != RC_OK) {
                wrong++;
            } else {
                assert_true(k < 8); /* a cut one never passes */
                assert_true(x.n_inputs == 1 && x.inputs[0]->n_shape == 4);
            }
            arena_deinit(&a);
        }
    }
    assert_true(wrong > answer_n * 3); /* most of the bits matter */
    free(bad);
    free(answer);
    free(bytes);
}

/* 3000 attributes nested in one another: a recursive parser would overflow its stack. */
static uint8_t *nested(size_t *ret_n)
{
    size_t cap = 65536, n = 0;
    uint8_t *p = malloc(cap), *q = malloc(cap);

    CHECK(p != NULL && q != NULL);
    for (int depth = 0; depth < 3000;
         depth++) { /* field 6 (g) of AttributeProto, around the rest */
        size_t head = 0;
        uint8_t tag = depth % 3 == 0 ? 6 << 3 | 2 : depth % 3 == 1 ? 5 << 3 | 2 : 1 << 3 | 2;

        q[head++] = tag;
        for (size_t v = n;;) {
            q[head++] = (uint8_t)(v >= 0x80 ? v | 0x80 : v);
            if (v < 0x80) break;
            v >>= 7;
        }
        memcpy(q + head, p, n);
        memcpy(p, q, head + n);
        n += head;
    }
    memmove(p + 5, p, n);
    p[0] = 7 << 3 | 2;
    for (int i = 1; i < 5; i++) /* the graph's length, padded to four bytes */
        p[i] = (uint8_t)(((n >> (7 * (i - 1))) & 0x7f) | (i < 4 ? 0x80 : 0));
    free(q);
    *ret_n = n + 5;
    return p;
}

/* What must be refused with a reason, inside two seconds and within the child's memory. */
static void test_hostile_model(void **state)
{
    static const float f[4];
    const char *words[8];
    uint8_t *model[8], *answer = NULL;
    size_t n[8], k = 0, answer_n;
    struct build *b;

    (void)state;
    model[k] = nested(&n[k]);
    words[k++] = "";
    b = good(); /* declares 2^62 elements */
    build_init_f(b, "huge", DIMS(INT32_MAX, INT32_MAX), f, 4);
    model[k] = build_bytes(b, &n[k]);
    words[k++] = "impossible shape";
    build_free(b);
    b = good(); /* 400 GB of zeros, in a small file */
    build_init_f(b, "large", DIMS(1 << 20, 1 << 17), f, 4);
    model[k] = build_bytes(b, &n[k]);
    words[k++] = "more memory";
    build_free(b);
    b = good();
    build_init_f(b, "short", DIMS(9), f, 4);
    model[k] = build_bytes(b, &n[k]);
    words[k++] = "16 raw bytes for a shape of 36";
    build_free(b);
    b = good();
    build_node(b, "Relu", "q", "p");
    build_node(b, "Relu", "p", "q");
    model[k] = build_bytes(b, &n[k]);
    words[k++] = "a cycle";
    build_free(b);
    b = good();
    build_node(b, "Relu", "nowhere", "z");
    model[k] = build_bytes(b, &n[k]);
    words[k++] = "nothing makes its input 'nowhere'";
    build_free(b);
    n[k] = 2000005; /* a million empty nodes */
    model[k] = calloc(1, n[k]);
    model[k][0] = 7 << 3 | 2;
    for (int i = 1; i < 5; i++)
        model[k][i] = (uint8_t)((((n[k] - 5) >> (7 * (i - 1))) & 0x7f) | (i < 4 ? 0x80 : 0));
    for (size_t i = 5; i < n[k]; i += 2)
        model[k][i] = 1 << 3 | 2;
    words[k++] = "";
    for (size_t i = 0; i < k; i++) {
        uint64_t from = clock_boot_ms();
        struct err e = {0};

        assert_int_equal(check(MODEL_CHECK, n[i], model[i], &answer, &answer_n, &e), RC_INVAL);
        if (e.msg[0] == '\0' || strstr(e.msg, words[i]) == NULL)
            fail_msg("no '%s' in: %s", words[i], e.msg);
        assert_true(clock_boot_ms() - from < 2000);
        free(model[i]);
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_answer),
        cmocka_unit_test(test_hostile_child),
        cmocka_unit_test(test_hostile_model),
    };

    if (argc == 2 && strcmp(argv[0], "mikura-model-check") == 0)
        return hostile((enum hostile)strtoul(argv[1], NULL, 10));
    return cmocka_run_group_tests(tests, NULL, NULL);
}
