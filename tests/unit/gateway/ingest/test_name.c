/* tests/unit/gateway/ingest/test_name.c - each rule of names, by its message; anchors. */
#include "gateway/ingest/anchor.h"
#include "gateway/ingest/name.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

static struct slice text(const char *s)
{
    return (struct slice){(const uint8_t *)s, strlen(s)};
}

static void test_rules(void **state)
{
    static const struct {
        const char *path, *says; /* says NULL: allowed */
    } t[] = {
        {"a", NULL},
        {"a/b/c.dcm", NULL},
        {"\xe5\xbe\xa1\xe8\x94\xb5/\xe7\x97\x87\xe4\xbe\x8b.png", NULL},
        {"a b/...", NULL},
        {"", "empty"},
        {"/a", "empty segment"},
        {"a/", "empty segment"},
        {"a//b", "empty segment"},
        {"a/./b", "'.'"},
        {"..", "'..'"},
        {"a\x01", "U+0001"},
        {"a\x7f", "U+007F"},
        {"a\xc2\x85", "U+0085"},
        {"a\xff", "not UTF-8 at byte 1"},
        {"\xed\xa0\x80", "not UTF-8"}, /* a surrogate */
        {"\xc0\xaf", "not UTF-8"},     /* overlong '/' */
        {"e\xcc\x81", "NFC"},          /* e + combining acute */
    };
    char longest[NAME_BYTES_MAX + 2];
    struct err err;

    (void)state;
    for (size_t i = 0; i < ARRAY_N(t); i++) {
        enum rc rc = name_check_path(text(t[i].path), &err);

        assert_int_equal(rc, t[i].says == NULL ? RC_OK : RC_INVAL);
        if (t[i].says != NULL) assert_non_null(strstr(err.msg, t[i].says));
    }
    memset(longest, 'x', sizeof(longest));
    assert_int_equal(name_check_path((struct slice){(uint8_t *)longest, 1024}, &err), RC_OK);
    assert_int_equal(name_check_path((struct slice){(uint8_t *)longest, 1025}, &err), RC_INVAL);
    assert_int_equal(name_check_path((struct slice){(const uint8_t *)"a\0b", 3}, &err), RC_INVAL);
    assert_int_equal(name_check_case(text("1.2.840"), &err), RC_OK);
    assert_int_equal(name_check_case(text("a/b"), &err), RC_INVAL);
    assert_int_equal(name_check_case(text(".."), &err), RC_INVAL);
    assert_int_equal(name_check_collection(text("jsp-2026"), &err), RC_OK);
    assert_int_equal(name_check_collection(text("2jsp"), &err), RC_INVAL);
    assert_int_equal(name_check_collection(text("Jsp"), &err), RC_INVAL);
    assert_int_equal(name_check_collection(text("a_b"), &err), RC_INVAL);
}

static void test_anchor(void **state)
{
    /* python3: hashlib.sha256(b'mikura case 1\0' + bytes(range(16)) + b'case-1') */
    static const uint8_t want[8] = {0x0a, 0xf6, 0xae, 0x6b, 0x58, 0x42, 0xee, 0xab};
    struct id128 c;
    struct record_anchor a, b;

    (void)state;
    for (uint8_t i = 0; i < 16; i++)
        c.b[i] = i;
    assert_int_equal(anchor_case(&c, text("case-1"), &a), RC_OK);
    assert_memory_equal(a.b, want, 8);
    assert_true(record_anchor_hash(&a) >> 56 == want[0]);
    assert_int_equal(anchor_case(&c, text("case-2"), &b), RC_OK);
    assert_memory_not_equal(a.b, b.b, 32);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_rules), cmocka_unit_test(test_anchor)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
