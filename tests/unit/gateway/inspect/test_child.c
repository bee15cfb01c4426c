/* tests/unit/gateway/inspect/test_child.c - a parser that crashes, hangs, floods or lies costs one
 * file; the real one stays within its memory and answers the next file. */
#include "tests/unit/common/image/deid_help.h"

#include "common/base/clock.h"
#include "gateway/inspect/child.h"
#include "gateway/inspect/wire.h"
#include <poll.h>
#include <unistd.h>
#include <zlib.h>

static const char *real, *fake;
static const char PROFILE[] = "name = t\nformats = dicom slide image vol\n";

static enum deid_outcome run(struct inspect_child *c, const void *p, size_t n, struct told *t,
                             struct err *err)
{
    struct image_source_mem mem;
    struct image_source src;
    enum deid_outcome o = DEID_OUTCOME_N;

    t->n = 0;
    err->msg[0] = 0;
    image_source_mem_init(&mem, p, n, &src);
    assert_int_equal(inspect_child_deid(c, &src, PROFILE, NULL, help_told, t, &o, err), RC_OK);
    return o;
}

static void test_misbehaving(void **state)
{
    static const char *const NAMES[] = {"crash", "hang",    "silent", "noise",  "outside",
                                        "rule",  "verdict", "none",   "writes", "flood"};
    char dir[] = "/tmp/mikura-test-XXXXXX";

    (void)state;
    assert_non_null(mkdtemp(dir));
    for (size_t i = 0; i < sizeof NAMES / sizeof NAMES[0]; i++) {
        struct inspect_child c;
        char program[128];
        struct told t;
        struct err err;

        print_message("%s\n", NAMES[i]);
        (void)snprintf(program, sizeof program, "%s/%s", dir, NAMES[i]);
        assert_int_equal(symlink(fake, program), 0);
        inspect_child_init(&c, program);
        c.limit_ms = 300;
        for (int again = 0; again < 2; again++) { /* replaced, not remembered */
            assert_int_equal(run(&c, "a file", 6, &t, &err), DEID_REFUSED);
            assert_int_equal(t.f[t.n - 1].rule, DEID_MALFORMED);
            assert_int_equal(c.pid, 0);
            assert_string_not_equal(err.msg, "");
        }
        inspect_child_deinit(&c);
        assert_int_equal(unlink(program), 0);
    }
    assert_int_equal(rmdir(dir), 0);
}

/* One that ends between two files, of age, costs neither. */
static void test_ends_between(void **state)
{
    char dir[] = "/tmp/mikura-test-XXXXXX", program[128];
    struct inspect_child c;
    struct told t;
    struct err err;

    (void)state;
    assert_non_null(mkdtemp(dir));
    (void)snprintf(program, sizeof program, "%s/tired", dir);
    assert_int_equal(symlink(fake, program), 0);
    inspect_child_init(&c, program);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(run(&c, "a file", 6, &t, &err), DEID_REFUSED);
        assert_int_equal(t.n, 0);
        assert_string_equal(err.msg, "");
        if (i == 1) (void)poll(NULL, 0, 50); /* gone by then; else it ends while it is asked */
    }
    inspect_child_deinit(&c);
    assert_int_equal(unlink(program), 0);
    assert_int_equal(rmdir(dir), 0);
}

static void test_no_program(void **state)
{
    struct inspect_child c;
    struct image_source_mem mem;
    struct image_source src;
    enum deid_outcome o;
    struct told t = {0};
    struct err err;

    (void)state;
    image_source_mem_init(&mem, "x", 1, &src);
    inspect_child_init(&c, "/nonexistent/mikura-inspect");
    assert_int_equal(inspect_child_deid(&c, &src, PROFILE, NULL, help_told, &t, &o, &err), RC_IO);
    inspect_child_deinit(&c);
}

/* 1 GiB of zeros, deflated in a DICOM file of 5 MiB: too large, within the memory of the child. */
static void test_bomb(void **state)
{
    static uint8_t zeros[1 << 20];
    static const uint8_t PREAMBLE[128];
    static const char META[] = "DICM\2\0\x10\0UI\x16\0"
                               "1.2.840.10008.1.2.1.99";
    struct inspect_child c;
    z_stream z = {0};
    struct buf b;
    struct told t;
    struct err err;
    uint64_t since;

    (void)state;
    buf_init(&b, 64 << 20);
    buf_put(&b, PREAMBLE, sizeof PREAMBLE);
    buf_put(&b, META, sizeof META - 1);
    assert_int_equal(deflateInit2(&z, 1, Z_DEFLATED, -15, 9, Z_DEFAULT_STRATEGY), Z_OK);
    for (int i = 0; i < 1024; i++) {
        uint8_t out[65536];

        z.next_in = zeros;
        z.avail_in = sizeof zeros;
        do {
            z.next_out = out;
            z.avail_out = sizeof out;
            assert_int_equal(deflate(&z, i == 1023 ? Z_FINISH : Z_NO_FLUSH) >= Z_OK, 1);
            buf_put(&b, out, sizeof out - z.avail_out);
        } while (z.avail_out == 0);
    }
    (void)deflateEnd(&z);
    inspect_child_init(&c, real);
    since = clock_boot_ms();
    assert_int_equal(run(&c, b.p, b.n, &t, &err), DEID_REFUSED);
    assert_int_equal(t.f[0].rule, DEID_TOO_LARGE);
    assert_true(clock_boot_ms() - since < INSPECT_MS);
    assert_int_not_equal(c.pid, 0); /* it lives, and reads the next */
    assert_int_equal(run(&c, "plain text", 10, &t, &err), DEID_REFUSED);
    assert_int_equal(t.f[0].rule, DEID_FORMAT);
    inspect_child_deinit(&c);
    buf_deinit(&b);
}

/* Cleaning through the child: bytes and pseudonyms come from here. */
static void test_clean(void **state)
{
    static uint8_t vol[4096];
    struct cleaned out = {.src = vol, .src_n = sizeof vol};
    const struct deid_out sink = {&out, help_copy, help_data, help_pseudonym};
    struct inspect_child c;
    struct image_source_mem mem;
    struct image_source src;
    enum deid_outcome o;
    struct told t = {0};
    struct err err;

    (void)state;
    memcpy(vol, "HSF-OCT-103", 11);
    memcpy(vol + 140, "P-10017", 7);
    memset(vol + 2048, 7, 2048);
    buf_init(&out.b, 1 << 20);
    image_source_mem_init(&mem, vol, sizeof vol, &src);
    inspect_child_init(&c, real);
    assert_int_equal(inspect_child_deid(&c, &src, PROFILE, &sink, help_told, &t, &o, &err), RC_OK);
    assert_int_equal(o, DEID_ACCEPTED);
    assert_int_equal(t.n, 1);
    assert_int_equal(t.f[0].change, DEID_EMPTIED);
    assert_int_equal(out.b.n, sizeof vol);
    assert_false(help_holds(&out.b, "P-10017"));
    assert_memory_equal(out.b.p + 2048, vol + 2048, 2048);
    inspect_child_deinit(&c);
    buf_deinit(&out.b);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_misbehaving),
                                       cmocka_unit_test(test_ends_between),
                                       cmocka_unit_test(test_no_program),
                                       cmocka_unit_test(test_bomb), cmocka_unit_test(test_clean)};

    if (argc != 3) return 1;
    real = argv[1];
    fake = argv[2];
    return cmocka_run_group_tests(tests, NULL, NULL);
}
