/* tests/unit/common/base/test_base.c - the small things that everything rests on. */
#include "common/base/bigmem.h"
#include "common/base/buf.h"
#include "common/base/conf.h"
#include "common/base/crc32c.h"
#include "common/base/hex.h"
#include "common/base/id128.h"
#include "common/base/le.h"
#include "common/base/list.h"
#include "common/base/metrics.h"
#include "common/base/strutil.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <cmocka.h>

static void test_rc(void **state)
{
    struct err e;

    (void)state;
    assert_int_equal(rc_grpc(RC_STALE), 9);
    assert_int_equal(rc_from_grpc(14), RC_UNAVAIL);
    assert_int_equal(rc_from_grpc(99), RC_INTERNAL);
    assert_int_equal(err_set(&e, RC_INVAL, "x %d", 3), RC_INVAL);
    assert_int_equal(err_prefix(&e, "y"), RC_INVAL);
    assert_string_equal(e.msg, "y: x 3");
}

static void test_crc32c(void **state)
{
    (void)state;
    assert_int_equal(crc32c(0, "123456789", 9), 0xe3069283u); /* RFC 3720 check value */
    assert_int_equal(crc32c(crc32c(0, "1234", 4), "56789", 5), 0xe3069283u);
    assert_int_equal(crc32c(0, "", 0), 0);
}

static void test_buf_limit(void **state)
{
    struct buf b;

    (void)state;
    buf_init(&b, 8);
    buf_put(&b, "12345", 5);
    assert_int_equal(buf_rc(&b), RC_OK);
    buf_put(&b, "6789", 4);
    assert_int_equal(buf_rc(&b), RC_BUSY);
    assert_int_equal(b.n, 5);
    buf_reset(&b);
    buf_put(&b, "12", 2);
    assert_string_equal(buf_cstr(&b), "12");
    buf_deinit(&b);
}

static void test_ids_hex_le(void **state)
{
    struct id128 a = id128_random(), b;
    char text[ID128_TEXT_BYTES];
    uint8_t x[8];

    (void)state;
    assert_true(id128_parse(id128_text(&a, text), &b));
    assert_true(id128_eq(&a, &b));
    assert_false(id128_parse("12", &b));
    assert_false(hex_decode("0g", 2, x));
    le_put64(x, 0x0102030405060708ull);
    assert_int_equal(x[0], 8);
    assert_true(le_get64(x) == 0x0102030405060708ull);
    be_put64(x, 0x0102030405060708ull);
    assert_int_equal(x[0], 1);
    assert_true(be_get64(x) == 0x0102030405060708ull);
}

static void test_strutil(void **state)
{
    uint64_t v;

    (void)state;
    assert_true(str_to_bytes("8MiB", &v) && v == 8 << 20);
    assert_false(str_to_bytes("8 MiB", &v));
    assert_false(str_to_bytes("99999999999TiB", &v));
    assert_true(str_to_ms("14d", &v) && v == 14ull * 86400000);
    assert_false(str_to_ms("14", &v));
    assert_false(str_to_u64("-1", 10, &v));
    assert_false(str_to_u64("11", 10, &v));
}

static void test_list(void **state)
{
    struct list head, a, b;
    int n = 0;

    (void)state;
    list_init(&head);
    list_push_back(&head, &a);
    list_push_front(&head, &b);
    LIST_FOREACH_SAFE(it, &head)
    {
        list_remove(it);
        n++;
    }
    assert_int_equal(n, 2);
    assert_true(list_empty(&head));
}

struct settings {
    const char *listen;
    uint64_t bytes, ms;
    bool flag;
};

static void test_conf(void **state)
{
    static const struct conf_opt opts[] = {
        {"listen", CONF_STR, offsetof(struct settings, listen), NULL, "HOST:PORT", "where"},
        {"bytes", CONF_BYTES, offsetof(struct settings, bytes), "1MiB", "BYTES", "how much"},
        {"ms", CONF_MS, offsetof(struct settings, ms), "5s", "DURATION", "how long"},
        {"flag", CONF_BOOL, offsetof(struct settings, flag), "false", "BOOL", "whether"},
        {0}};
    char path[] = "/tmp/mikura_conf_XXXXXX";
    char *argv[] = {"x", "--config", path, "--bytes=2KiB"};
    char *missing[] = {"x"};
    char *bad[] = {"x", "--listen", "a", "--ms", "5"};
    struct settings s;
    struct err e;
    int fd = mkstemp(path);

    (void)state;
    assert_true(fd >= 0);
    assert_true(write(fd, "# c\nlisten = here \nbytes=9KiB\nflag=true\n", 40) == 40);
    (void)close(fd);
    assert_int_equal(conf_load(opts, 4, argv, &s, &e), RC_OK);
    assert_string_equal(s.listen, "here");
    assert_true(s.bytes == 2048 && s.ms == 5000 && s.flag);
    assert_int_equal(conf_load(opts, 1, missing, &s, &e), RC_INVAL);
    assert_non_null(strstr(e.msg, "--listen"));
    assert_int_equal(conf_load(opts, 5, bad, &s, &e), RC_INVAL);
    assert_non_null(strstr(e.msg, "--ms"));
    (void)unlink(path);
}

static void test_metrics(void **state)
{
    static struct metric a = METRIC_COUNTER_INIT("t_total", "k=\"1\"", "help");
    static struct metric b = METRIC_COUNTER_INIT("t_total", "k=\"2\"", "help");
    static struct hist h = HIST_INIT("t_seconds", NULL, "help");
    struct buf out;

    (void)state;
    buf_init(&out, 1 << 16);
    metric_add(&a, 2);
    metric_add(&b, 3);
    hist_add_us(&h, 3);
    metrics_print(&out);
    assert_non_null(strstr(buf_cstr(&out), "t_total{k=\"1\"} 2\n"));
    assert_non_null(strstr(buf_cstr(&out), "t_total{k=\"2\"} 3\n"));
    assert_non_null(strstr(buf_cstr(&out), "t_seconds_bucket{le=\"4e-06\"} 1\n"));
    assert_non_null(strstr(buf_cstr(&out), "t_seconds_count 1\n"));
    buf_deinit(&out);
}

static void test_bigmem(void **state)
{
    uint8_t *p[64];
    size_t kept = bigmem_kept();

    (void)state;
    for (size_t n = 1; n <= (96u << 20); n = n * 3 + 1) {
        uint8_t *q = bigmem_alloc(n);

        assert_non_null(q);
        if (n >= BIGMEM_MIN_BYTES) assert_int_equal((uintptr_t)q % 4096, 0);
        q[0] = q[n - 1] = 7; /* all of it is there */
        bigmem_free(q, n);
    }
    for (size_t i = 0; i < ARRAY_N(p); i++) { /* more than is kept */
        p[i] = bigmem_alloc(3u << 20);
        assert_non_null(p[i]);
        for (size_t k = 0; k < i; k++)
            assert_ptr_not_equal(p[i], p[k]);
    }
    for (size_t i = 0; i < ARRAY_N(p); i++)
        bigmem_free(p[i], 3u << 20);
    assert_true(bigmem_kept() <= BIGMEM_KEPT_DEFAULT && bigmem_kept() >= kept);
    bigmem_limit(2u << 20, SIZE_MAX);
    bigmem_free(bigmem_alloc(1u << 20), 1u << 20);
    assert_true(bigmem_kept() <= 2u << 20); /* the older ones went */
    bigmem_free(NULL, 1u << 20);
    bigmem_limit(16u << 20, 20u << 20);
    for (size_t i = 0; i < 8; i++)
        p[i] = bigmem_alloc(2u << 20);
    bigmem_free(p[7], 2u << 20);
    bigmem_free(p[6], 2u << 20);
    assert_true(bigmem_kept() + bigmem_used() <= 20u << 20);
    p[6] = bigmem_alloc(5u << 20); /* of another size: it takes the place of what is kept */
    assert_non_null(p[6]);
    assert_true(bigmem_kept() + bigmem_used() <= 20u << 20);
    p[7] = bigmem_alloc(30u << 20); /* more than all: given all the same */
    assert_non_null(p[7]);
    assert_int_equal(bigmem_kept(), 0);
    bigmem_free(p[7], 30u << 20);
    bigmem_free(p[6], 5u << 20);
    for (size_t i = 0; i < 6; i++)
        bigmem_free(p[i], 2u << 20);
    assert_int_equal(bigmem_used(), 0);
    assert_true(bigmem_kept() <= 16u << 20);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rc),        cmocka_unit_test(test_crc32c),
        cmocka_unit_test(test_buf_limit), cmocka_unit_test(test_ids_hex_le),
        cmocka_unit_test(test_strutil),   cmocka_unit_test(test_list),
        cmocka_unit_test(test_conf),      cmocka_unit_test(test_metrics),
        cmocka_unit_test(test_bigmem),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
