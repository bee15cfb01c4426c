/* tests/unit/common/placement/test_placement.c - ranges, separation, weights, movement. */
#include "common/placement/placement.h"
#include "common/base/le.h"
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

#define GROUPS 4096u
static const struct placement_pool POOL = {7, 12, 3, 2, PLACEMENT_HOST};

/* n disks, `per_host` on each host, two hosts a rack, two racks a zone */
static void disks_make(struct placement_disk *d, uint32_t n, uint32_t per_host)
{
    for (uint32_t i = 0; i < n; i++) {
        uint32_t host = i / per_host;

        d[i] = (struct placement_disk){.weight = 100, .domain = {host / 4, host / 2, host}};
        be_put64(d[i].id.b, 0x1111 * (i + 1));
    }
}

static struct placement_group group(uint64_t i)
{
    return placement_group_of(&POOL, i << 52);
}

static void test_groups(void **state)
{
    struct placement_group g = placement_group_of(&POOL, 0xabcdef0123456789ull), half[2];
    struct placement_pool one = POOL;
    uint64_t first, last;

    (void)state;
    assert_true(g.prefix == 0xabc0000000000000ull);
    placement_group_range(&g, &first, &last);
    assert_true(first == g.prefix && last == 0xabcfffffffffffffull);
    assert_int_equal(placement_group_split(&g, half), RC_OK);
    assert_false(placement_group_has(&half[0], 0xabcdef0123456789ull));
    assert_true(placement_group_has(&half[1], 0xabcdef0123456789ull));
    assert_true(placement_group_has(&half[0], first) && placement_group_has(&half[1], last));
    one.prefix_bits = 0;
    g = placement_group_of(&one, ~0ull);
    placement_group_range(&g, &first, &last);
    assert_true(first == 0 && last == ~0ull && placement_group_has(&g, 5));
    g.prefix_bits = PLACEMENT_PREFIX_BITS_MAX;
    assert_int_equal(placement_group_split(&g, half), RC_RANGE);
}

static void test_pool_check(void **state)
{
    struct placement_pool p = POOL;
    struct err err;

    (void)state;
    assert_int_equal(placement_pool_check(&p, &err), RC_OK);
    assert_true(placement_pools_alike(&p, &POOL));
    p.id++; /* no matter */
    p.prefix_bits--;
    assert_true(placement_pools_alike(&p, &POOL));
    p.min_in_sync++;
    assert_false(placement_pools_alike(&p, &POOL));
    p = POOL;
    p.copies++;
    assert_false(placement_pools_alike(&p, &POOL));
    p = POOL;
    p.failure_domain = PLACEMENT_DISK;
    assert_false(placement_pools_alike(&p, &POOL));
    p = POOL;
    p.min_in_sync = 4;
    assert_int_equal(placement_pool_check(&p, &err), RC_INVAL);
    assert_non_null(strstr(err.msg, "min_in_sync 4"));
    p = POOL;
    p.copies = PLACEMENT_COPIES_MAX + 1;
    assert_int_equal(placement_pool_check(&p, &err), RC_INVAL);
    p = POOL;
    p.id = 65536;
    assert_int_equal(placement_pool_check(&p, &err), RC_INVAL);
}

static void test_separation(void **state)
{
    struct placement_disk d[24];
    enum placement_level level;
    uint32_t idx[PLACEMENT_COPIES_MAX];

    (void)state;
    disks_make(d, 24, 4); /* 6 hosts, 3 racks, 2 zones */
    for (uint64_t i = 0; i < GROUPS; i++) {
        struct placement_group g = group(i);

        assert_int_equal(placement_propose(&POOL, &g, d, 24, idx, &level), 3);
        assert_int_equal(level, PLACEMENT_HOST);
        for (int a = 0; a < 3; a++) {
            for (int b = 0; b < a; b++)
                assert_int_not_equal(d[idx[a]].domain[2], d[idx[b]].domain[2]);
        }
    }
}

static void test_too_few_domains(void **state)
{
    struct placement_disk d[4];
    struct placement_pool by_zone = POOL;
    enum placement_level level;
    uint32_t idx[PLACEMENT_COPIES_MAX];
    struct placement_group g = group(1);

    (void)state;
    disks_make(d, 4, 4); /* one host */
    assert_int_equal(placement_propose(&POOL, &g, d, 4, idx, &level), 3);
    assert_int_equal(level, PLACEMENT_DISK);
    assert_true(idx[0] != idx[1] && idx[1] != idx[2] && idx[0] != idx[2]);
    assert_int_equal(placement_propose(&POOL, &g, d, 2, idx, &level), 2);
    assert_int_equal(placement_propose(&POOL, &g, d, 0, idx, &level), 0);
    d[0].weight = d[1].weight = 0;
    assert_int_equal(placement_propose(&POOL, &g, d, 4, idx, &level), 2);
    disks_make(d, 4, 1); /* four hosts in one zone, two racks */
    by_zone.failure_domain = PLACEMENT_ZONE;
    assert_int_equal(placement_propose(&by_zone, &g, d, 4, idx, &level), 3);
    assert_int_equal(level, PLACEMENT_HOST);
    assert_int_not_equal(d[idx[0]].domain[1], d[idx[1]].domain[1]); /* racks as far as they go */
}

static void test_weights(void **state)
{
    struct placement_pool one = POOL;
    struct placement_disk d[10];
    enum placement_level level;
    uint32_t idx[PLACEMENT_COPIES_MAX], count[10] = {0};

    (void)state;
    disks_make(d, 10, 1);
    one.copies = one.min_in_sync = 1;
    d[0].weight = 300; /* 3 of 12 shares: 1024 of 4096 expected, sigma 28 */
    for (uint64_t i = 0; i < GROUPS; i++) {
        struct placement_group g = group(i);

        assert_int_equal(placement_propose(&one, &g, d, 10, idx, &level), 1);
        count[idx[0]]++;
    }
    assert_in_range(count[0], 1024 - 5 * 28, 1024 + 5 * 28);
    for (int i = 1; i < 10; i++)
        assert_in_range(count[i], 341 - 5 * 18, 341 + 5 * 18);
}

static uint32_t moved(const struct placement_disk *a, uint32_t a_n, const struct placement_disk *b,
                      uint32_t b_n)
{
    uint32_t n = 0;

    for (uint64_t i = 0; i < GROUPS; i++) {
        struct placement_group g = group(i);
        uint32_t x[PLACEMENT_COPIES_MAX], y[PLACEMENT_COPIES_MAX];
        enum placement_level level;

        (void)placement_propose(&POOL, &g, a, a_n, x, &level);
        (void)placement_propose(&POOL, &g, b, b_n, y, &level);
        for (int k = 0; k < 3; k++) {
            bool stays = false;

            for (int j = 0; j < 3; j++)
                stays |= id128_eq(&b[y[k]].id, &a[x[j]].id);
            n += !stays;
        }
    }
    return n;
}

static void test_least_movement(void **state)
{
    struct placement_disk d[12], reversed[12];

    (void)state;
    disks_make(d, 12, 1);
    for (int i = 0; i < 12; i++)
        reversed[i] = d[11 - i];
    assert_int_equal(moved(d, 12, reversed, 12), 0);
    /* the twelfth disk takes its share, 1/12 of 3 * 4096 = 1024 (sigma 31), and nothing else moves
     */
    assert_in_range(moved(d, 11, d, 12), 1024 - 155, 1024 + 155);
    assert_in_range(moved(d, 12, d, 11), 1024 - 155, 1024 + 155);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_groups),     cmocka_unit_test(test_pool_check),
        cmocka_unit_test(test_separation), cmocka_unit_test(test_too_few_domains),
        cmocka_unit_test(test_weights),    cmocka_unit_test(test_least_movement),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
