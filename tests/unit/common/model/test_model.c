/* tests/unit/common/model/test_model.c - what loads, what is refused and with which words, shapes.
 */
#include "common/model/model.h"
#include "tests/unit/common/model/build.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define DIMS(...) ((const int64_t[]){__VA_ARGS__, 0})
#define INTS(...) ((const int64_t[]){__VA_ARGS__}), ARRAY_N(((const int64_t[]){__VA_ARGS__}))

static enum rc load(const struct build *b, struct model **m, struct err *e)
{
    size_t n;
    uint8_t *p = build_bytes(b, &n);
    struct model_limits lim = model_limits_default(n);
    enum rc rc = model_load(p, n, &lim, m, e);

    free(p);
    return rc;
}

/* x [?, 3, ?, ?] -> Conv 5x3x3x3, stride 2 -> y */
static struct build *small(void)
{
    static const float w[5 * 27] = {1};
    struct build *b = build_new(13);

    build_input(b, "x", MODEL_F32, DIMS(-1, 3, -1, -1));
    build_init_f(b, "w", DIMS(5, 3, 3, 3), w, ARRAY_N(w));
    build_node(b, "Conv", "x,w", "y");
    build_attr_is(b, "strides", INTS(2, 2));
    return b;
}

static void refused(struct build *b, const char *words)
{
    struct model *m;
    struct err e;

    assert_int_not_equal(load(b, &m, &e), RC_OK);
    if (strstr(e.msg, words) == NULL) fail_msg("'%s' is not in: %s", words, e.msg);
    build_free(b);
}

static void test_shapes(void **state)
{
    struct build *b = small();
    struct model_shape in = {4, {2, 3, 33, 20}};
    struct model_shapes all;
    struct model *m;
    struct err e;
    char text[128];

    (void)state;
    build_node(b, "Relu", "y", "r");
    build_node(b, "GlobalAveragePool", "r", "g");
    build_node(b, "Flatten", "g", "f");
    build_node(b, "Softmax", "f", "s");
    build_output(b, "s");
    build_output(b, "r");
    build_prop(b, "classes", "a,b");
    assert_int_equal(load(b, &m, &e), RC_OK);
    build_free(b);
    assert_int_equal(m->input_n, 1);
    assert_string_equal(m->value[m->input[0]].name, "x");
    assert_string_equal(model_shape_text(&m->value[m->output[0]].shape, text), "[?, 5]");
    assert_string_equal(model_shape_text(&m->value[m->output[1]].shape, text), "[?, 5, ?, ?]");
    assert_string_equal(model_prop_get(m, "classes"), "a,b");
    assert_null(model_prop_get(m, "none"));

    assert_int_equal(model_bind(m, &in, &all, &e), RC_OK);
    assert_string_equal(model_shape_text(&all.shape[m->output[1]], text), "[2, 5, 16, 9]");
    assert_string_equal(model_shape_text(&all.shape[m->output[0]], text), "[2, 5]");
    model_shapes_free(&all);
    in.dim[2] = 2; /* smaller than the kernel */
    assert_int_equal(model_bind(m, &in, &all, &e), RC_INVAL);
    assert_non_null(strstr(e.msg, "'y' (Conv)"));
    in.dim[2] = 33;
    in.dim[1] = 4;
    assert_int_equal(model_bind(m, &in, &all, &e), RC_INVAL);
    in.dim[1] = 3;
    in.dim[0] = in.dim[2] = in.dim[3] = INT32_MAX; /* a huge shape */
    assert_int_equal(model_bind(m, &in, &all, &e), RC_INVAL);
    model_free(m);
}

static void test_refused(void **state)
{
    struct build *b;
    static const float f[4];

    (void)state;
    b = small();
    build_node(b, "Einsum", "y", "z");
    refused(b, "node 'z': operator 'Einsum' is not served");

    b = small();
    build_attr_i(b, "bogus", 1);
    refused(b, "'y' (Conv): attribute 'bogus'");

    b = small();
    build_attr_i(b, "pads", 1);
    refused(b, "attribute 'pads' has type 2, not 7");

    b = small();
    build_attr_is(b, "strides", INTS(1, 1));
    refused(b, "attribute 'strides' twice");

    b = small();
    build_node(b, "Relu", "nowhere", "z");
    refused(b, "nothing makes its input 'nowhere'");

    b = small(); /* p needs q, q needs p */
    build_node(b, "Relu", "q", "p");
    build_node(b, "Relu", "p", "q");
    refused(b, "a cycle");

    b = small();
    build_node(b, "Relu", "z", "z");
    refused(b, "made by itself");

    b = small();
    build_node(b, "Relu", "x", "y");
    refused(b, "'y' is made twice");

    b = small();
    build_init_f(b, "short", DIMS(9), f, 4);
    refused(b, "16 raw bytes for a shape of 36");

    b = small();
    build_init_f(b, "huge", DIMS(INT32_MAX, INT32_MAX, INT32_MAX), f, 4);
    refused(b, "impossible shape");

    b = small();
    build_init_f(b, "large", DIMS(1 << 20, 1 << 19), f, 4);
    refused(b, "more memory");

    b = small(); /* a parser that recurses has no stack left */
    build_attr_nested(b, "then_branch", 3000);
    refused(b, "attribute 'then_branch'");

    b = small();
    build_init_twice(b, "two", f, 4);
    refused(b, "its data is given twice");

    b = small();
    build_init_outside(b, "far", "../../etc/passwd");
    refused(b, "tensor 'far'");

    b = small();
    build_node(b, "Add", "y,w", "z");
    refused(b, "do not broadcast");

    b = small();
    refused(b, "0 outputs");

    b = small();
    build_output(b, "z");
    refused(b, "nothing makes the output 'z'");

    b = build_new(18);
    build_input(b, "x", MODEL_F32, DIMS(1));
    refused(b, "opset 18; 11 to 17");

    b = build_new(13);
    build_input(b, "x", 10, DIMS(1));
    refused(b, "element type 10");

    b = small();
    build_node(b, "Relu\n", "y", "z");
    refused(b, "control characters");

    b = small();
    build_input(b, "s", MODEL_I64, DIMS(2));
    build_node(b, "Reshape", "y,s", "z");
    refused(b, "input 1 ('s') must be a constant");

    b = small();
    build_node(b, "Where", "y,y,y", "z");
    refused(b, "input 0 ('y') must be a constant or follow from shapes");

    b = small();
    build_init_i(b, "k", INTS(0, 5));
    build_node(b, "Gather", "w,k", "z");
    refused(b, "index 5 into 5");

    b = small();
    build_init_i(b, "k", INTS(0));
    build_node(b, "Slice", "w,k,k,k,k", "z");
    refused(b, "a step of 0");

    b = small();
    build_node(b, "Split", "w", "z");
    build_output_more(b, "z2");
    refused(b, "'z' (Split): 5 does not divide by 2");

    b = small();
    build_node(b, "Relu", "w", "z");
    build_output_more(b, "z2");
    refused(b, "'z' (Relu): 2 outputs are not served");

    b = small();
    build_init_f(b, "sc", DIMS(4), f, 4);
    build_node(b, "Resize", "y,,sc", "z");
    refused(b, "a scale of 0");

    b = small();
    build_node(b, "HardSwish", "y", "z");
    refused(b, "operator 'HardSwish' is of opset 14, not 13");

    b = small();
    build_node(b, "Shape", "y", "s");
    build_init_i(b, "none", INTS(0));
    build_node(b, "Div", "none,none", "z");
    refused(b, "division by zero");
}

/* Reshape to [batch, channels * 2, -1], worked out from Shape; unknown until x is. */
static void test_from_shapes(void **state)
{
    struct build *b = small();
    struct model_shape in = {4, {2, 3, 33, 20}};
    struct model_shapes all;
    struct model *m;
    struct err e;
    char text[128];
    uint8_t bytes[MODEL_HOST_MAX * 8];
    int64_t v[3];

    (void)state;
    build_init_i(b, "zero", INTS(0));
    build_init_i(b, "one", INTS(1));
    build_init_i(b, "two", INTS(2));
    build_init_i(b, "rest", INTS(-1));
    build_node(b, "Shape", "y", "s");
    build_node(b, "Gather", "s,zero", "n");
    build_node(b, "Slice", "s,one,two", "c");
    build_node(b, "Mul", "c,two", "c2");
    build_node(b, "Concat", "n,c2,rest", "t");
    build_attr_i(b, "axis", 0);
    build_node(b, "Reshape", "y,t", "r");
    build_output(b, "r");
    assert_int_equal(load(b, &m, &e), RC_OK);
    build_free(b);
    assert_string_equal(model_shape_text(&m->value[m->output[0]].shape, text), "[?, 10, ?]");
    assert_int_equal(model_bind(m, &in, &all, &e), RC_OK);
    assert_string_equal(model_shape_text(&all.shape[m->output[0]], text), "[2, 10, 72]");
    for (uint32_t i = 0; i < m->value_n; i++) {
        if (strcmp(m->value[i].name, "t") != 0) continue;
        assert_true(model_shapes_known(&all, i, bytes));
        memcpy(v, bytes, sizeof(v));
        assert_true(v[0] == 2 && v[1] == 10 && v[2] == -1);
    }
    model_shapes_free(&all);
    model_free(m);
}

/* Any cut of a good file is refused or is a model, never a crash; and so is any changed byte. */
static void test_damaged(void **state)
{
    struct build *b = small();
    uint8_t *p, *q;
    struct model *m;
    struct err e;
    size_t n;

    (void)state;
    build_output(b, "y");
    p = build_bytes(b, &n);
    build_free(b);
    q = malloc(n);
    for (size_t i = 0; i < n; i++) {
        struct model_limits lim = model_limits_default(i);

        memcpy(q, p, i);
        if (model_load(q, i, &lim, &m, &e) == RC_OK) model_free(m);
        memcpy(q, p, n);
        q[i] ^= (uint8_t)(1u << i % 8);
        lim = model_limits_default(n);
        if (model_load(q, n, &lim, &m, &e) == RC_OK) model_free(m);
    }
    free(p);
    free(q);
}

/* A million empty nodes in 2 MB, and a graph that is given again and again: memory and work end at
 * the limits, not at the machine's. */
static void test_budget(void **state)
{
    size_t n = 2000000;
    uint8_t *p = malloc(n + 16);
    struct model_limits lim = model_limits_default(0);
    struct model *m;
    struct err e;

    (void)state;
    p[0] = 7 << 3 | 2; /* graph, length n as four bytes */
    p[1] = (uint8_t)((n & 0x7f) | 0x80);
    p[2] = (uint8_t)((n >> 7 & 0x7f) | 0x80);
    p[3] = (uint8_t)((n >> 14 & 0x7f) | 0x80);
    p[4] = (uint8_t)(n >> 21 & 0x7f);
    for (size_t i = 0; i < n; i += 2) {
        p[5 + i] = 1 << 3 | 2; /* node, length 0 */
        p[6 + i] = 0;
    }
    assert_int_equal(model_load(p, n + 5, &lim, &m, &e), RC_RANGE);
    for (size_t i = 0; i < n; i += 4) { /* graph of 2 bytes: one node */
        p[i] = 7 << 3 | 2;
        p[i + 1] = 2;
        p[i + 2] = 1 << 3 | 2;
        p[i + 3] = 0;
    }
    assert_int_equal(model_load(p, n, &lim, &m, &e), RC_RANGE);
    free(p);
}

static void test_reshape_squeeze(void **state)
{
    struct build *b = build_new(13);
    struct model *m;
    struct err e;
    char text[128];

    (void)state;
    build_input(b, "x", MODEL_F32, DIMS(-1, 6, 1, 4));
    build_init_i(b, "s", INTS(0, -1, 2));
    build_init_i(b, "ax", INTS(-2));
    build_node(b, "Reshape", "x,s", "r");
    build_node(b, "Squeeze", "x,ax", "q");
    build_node(b, "Unsqueeze", "q,ax", "u");
    build_node(b, "ReduceMean", "x", "m");
    build_attr_is(b, "axes", INTS(-1, 1));
    build_attr_i(b, "keepdims", 0);
    build_output(b, "r");
    build_output(b, "q");
    build_output(b, "u");
    build_output(b, "m");
    assert_int_equal(load(b, &m, &e), RC_OK);
    build_free(b);
    assert_string_equal(model_shape_text(&m->value[m->output[0]].shape, text), "[?, 12, 2]");
    assert_string_equal(model_shape_text(&m->value[m->output[1]].shape, text), "[?, 6, 4]");
    assert_string_equal(model_shape_text(&m->value[m->output[2]].shape, text), "[?, 6, 1, 4]");
    assert_string_equal(model_shape_text(&m->value[m->output[3]].shape, text), "[?, 1]");
    model_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shapes),          cmocka_unit_test(test_refused),
        cmocka_unit_test(test_damaged),         cmocka_unit_test(test_budget),
        cmocka_unit_test(test_reshape_squeeze), cmocka_unit_test(test_from_shapes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
