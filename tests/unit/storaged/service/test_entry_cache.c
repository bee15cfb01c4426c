/* storaged/service/entry_cache: what is pinned stays, the newest of an index counts, the bound
 * holds. */
#include "storaged/service/entry_cache.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

static struct slice bytes_of(uint8_t *p, size_t n, uint8_t v)
{
    memset(p, v, n);
    return (struct slice){p, n};
}

static void newest_counts(void **state)
{
    struct entry_cache c;
    struct entry_ring r;
    struct entry *old, *e;
    uint8_t p[16];

    (void)state;
    entry_cache_init(&c, 1 << 20);
    entry_ring_init(&r, &c);
    assert_null(entry_get(&r, 7));
    old = entry_put(&r, 1, 7, bytes_of(p, 16, 1));
    entry_unpin(entry_put(&r, 2, 7, bytes_of(p, 16, 2)));
    assert_int_equal(old->p[0], 1); /* still pinned: readable, not findable */
    entry_unpin(old);
    e = entry_get(&r, 7);
    assert_int_equal(e->epoch, 2);
    assert_int_equal(e->p[15], 2);
    entry_unpin(e);
    /* another index in the same slot takes its place */
    entry_unpin(entry_put(&r, 2, 7 + ENTRY_RING, bytes_of(p, 16, 3)));
    assert_null(entry_get(&r, 7));
    e = entry_get(&r, 7 + ENTRY_RING);
    assert_non_null(e);
    entry_ring_deinit(&r);
    assert_int_equal(e->p[0], 3); /* the pin outlives the ring */
    entry_unpin(e);
    assert_int_equal(c.bytes, 0);
    assert_int_equal(c.entries_n, 0);
}

static void bound_holds(void **state)
{
    struct entry_cache c;
    struct entry_ring r[2];
    struct entry *pinned[4];
    uint8_t p[1000];

    (void)state;
    entry_cache_init(&c, 20000);
    for (int i = 0; i < 2; i++)
        entry_ring_init(&r[i], &c);
    for (uint64_t i = 0; i < 4; i++)
        pinned[i] = entry_put(&r[0], 1, i, bytes_of(p, sizeof p, (uint8_t)i));
    for (uint64_t i = 0; i < 200; i++) {
        entry_unpin(entry_put(&r[1], 1, i, bytes_of(p, sizeof p, (uint8_t)i)));
        assert_true(c.bytes <= 20000 + sizeof p + sizeof(struct entry));
        if (i >= 1) { /* used again: stays longer than its neighbours */
            struct entry *e = entry_get(&r[1], 1);

            assert_non_null(e);
            assert_int_equal(e->p[0], 1);
            entry_unpin(e);
        }
    }
    assert_null(entry_get(&r[1], 2));
    for (uint64_t i = 0; i < 4; i++) {
        struct entry *e = entry_get(&r[0], i);

        assert_ptr_equal(e, pinned[i]);
        entry_unpin(e);
        entry_unpin(e);
    }
    for (int i = 0; i < 2; i++)
        entry_ring_deinit(&r[i]);
    assert_int_equal(c.bytes, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(newest_counts),
                                       cmocka_unit_test(bound_holds)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
