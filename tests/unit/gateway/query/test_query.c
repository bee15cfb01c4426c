/* tests/unit/gateway/query/test_query.c - what fits, what is refused and at which column, which
 * collections are named. */
#include "gateway/query/query.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

static struct slice text(const char *s)
{
    return (struct slice){(const uint8_t *)s, strlen(s)};
}

/* One object: collection radiology, case 0012, Modality CT, width 512, ratio 0.5. */
static struct query_value get(void *ctx, struct slice name)
{
    static const struct {
        const char *name;
        struct query_value v;
    } t[] = {
        {"image.width", {.type = QUERY_INT, .integer = 512}},
        {"ratio", {.type = QUERY_REAL, .real = 0.5}},
    };
    static const char *texts[][2] = {{"collection", "radiology"},
                                     {"case", "0012"},
                                     {"dicom.Modality", "CT"},
                                     {"quote", "a\"b\\"}};

    (void)ctx;
    for (size_t i = 0; i < ARRAY_N(t); i++) {
        if (name.n == strlen(t[i].name) && memcmp(name.p, t[i].name, name.n) == 0) return t[i].v;
    }
    for (size_t i = 0; i < ARRAY_N(texts); i++) {
        if (name.n == strlen(texts[i][0]) && memcmp(name.p, texts[i][0], name.n) == 0) {
            return (struct query_value){.type = QUERY_TEXT, .text = text(texts[i][1])};
        }
    }
    return (struct query_value){0};
}

static void test_matches(void **state)
{
    static const struct {
        const char *q;
        bool fits;
    } t[] = {
        {"collection = radiology and dicom.Modality = \"CT\" and image.width >= 256", true},
        {"image.width >= 513", false},
        {"image.width > 511 and image.width < 513 and image.width <= 512", true},
        {"image.width = 512.0", true},
        {"image.width != 512", false},
        {"image.width = wide", false},
        {"image.width != wide", false},
        {"ratio < 1", true},
        {"ratio = 5e-1", true},
        {"case = 0012", true},
        {"case = 12", false},
        {"dicom.Modality in (MR, \"CT\")", true},
        {"dicom.Modality in (MR, US)", false},
        {"image.width in (1, 2, 512)", true},
        {"dicom.Modality = MR or not dicom.Modality = MR", true},
        {"dicom.Modality = CT or dicom.Modality = MR and image.width = 1", true},
        {"(dicom.Modality = CT or dicom.Modality = MR) and image.width = 1", false},
        {"not not image.width = 512", true},
        {"nothing != 1", false},
        {"not (nothing = 1)", true},
        {"nothing exists", false},
        {"ratio exists", true},
        {"collection prefix radio", true},
        {"collection prefix iology", false},
        {"collection contains iol", true},
        {"case prefix 00", true},
        {"image.width contains 5", false},
        {"quote = \"a\\\"b\\\\\"", true},
        {" \t\nratio\n=\n0.5 ", true},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_N(t); i++) {
        struct query *q = NULL;
        struct err err;

        if (query_parse(text(t[i].q), &q, NULL, &err) != RC_OK) fail_msg("%s: %s", t[i].q, err.msg);
        if (query_match(q, get, NULL) != t[i].fits) fail_msg("%s", t[i].q);
        query_free(q);
    }
}

static void test_errors(void **state)
{
    static const struct {
        const char *q;
        uint32_t column;
    } t[] = {
        {"", 1},           {"a", 2},      {"a = ", 5},       {"a = 1 b", 7},
        {"a ~ 1", 3},      {"(a = 1", 7}, {"a = \"x", 5},    {"a in 1", 6},
        {"a in (1 2)", 9}, {"= 1", 1},    {"a = 1 and", 10}, {"a = \"\\n\"", 6},
        {"a = 1)", 6},     {"not", 4},    {"a in ()", 7},    {"a == 1", 4},
    };
    char deep[QUERY_DEPTH_MAX + 2];
    struct query *q;
    struct err err;
    uint32_t column;

    (void)state;
    for (size_t i = 0; i < ARRAY_N(t); i++) {
        assert_int_equal(query_parse(text(t[i].q), &q, &column, &err), RC_INVAL);
        if (column != t[i].column) fail_msg("%s: %s, not %u", t[i].q, err.msg, t[i].column);
    }
    memset(deep, '(', sizeof(deep));
    assert_int_equal(query_parse((struct slice){(uint8_t *)deep, sizeof(deep)}, &q, &column, &err),
                     RC_INVAL);
    assert_int_equal(column, QUERY_DEPTH_MAX + 1);
}

static void collect(void *ctx, struct slice name)
{
    char *to = ctx;

    (void)strncat(to, (const char *)name.p, name.n);
    (void)strncat(to, ",", 2);
}

static void test_collections(void **state)
{
    static const struct {
        const char *q, *names;
        bool bound;
    } t[] = {
        {"collection = a", "a,", true},
        {"collection in (a, b) and x = 1", "a,b,", true},
        {"collection = a and x = 1 or collection = b", "a,b,", true},
        {"collection = a or x = 1", "a,", false},
        {"not collection = a", "a,", false},
        {"collection != a", "", false},
        {"x = 1", "", false},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_N(t); i++) {
        char names[64] = "";
        struct query *q = NULL;
        struct err err;

        assert_int_equal(query_parse(text(t[i].q), &q, NULL, &err), RC_OK);
        assert_int_equal(query_collections(q, collect, names), t[i].bound);
        assert_string_equal(names, t[i].names);
        query_free(q);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_matches),
                                       cmocka_unit_test(test_errors),
                                       cmocka_unit_test(test_collections)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
