/* stray_core: bytes that no ChunkAdd made exist are dropped only when nothing can rest on them.
 * Whole groups of it: tests/sim. */
#include "storaged/replica/stray_core.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <cmocka.h>

static const struct stray_id ONE = {{{1}}, {{2}}, 3}, OTHER_SEAL = {{{1}}, {{9}}, 3},
                             OTHER_INDEX = {{{1}}, {{2}}, 4};

static void test_fence(void **state)
{
    struct stray_core s = {0};

    (void)state;
    stray_begin(&s, &ONE, 10);
    assert_int_equal(stray_look(&s, 9, true), STRAY_AGAIN); /* entry 10 may rest on it */
    assert_int_equal(stray_look(&s, 10, true), STRAY_DROP);
    stray_end(&s);
    stray_begin(&s, &ONE, 0); /* an empty log: nothing to wait for */
    assert_int_equal(stray_look(&s, 0, true), STRAY_DROP);
    stray_end(&s);
    stray_begin(&s, &ONE, 10);
    assert_int_equal(stray_look(&s, 10, false), STRAY_OVER); /* not in sync any more */
    assert_int_equal(stray_look(&s, 10, true), STRAY_OVER);
    assert_int_equal(s.state, STRAY_IDLE);
}

static void test_needed(void **state)
{
    struct stray_core s = {0};

    (void)state;
    assert_true(stray_needed(&s, &ONE));
    stray_begin(&s, &ONE, 10);
    assert_true(stray_needed(&s, &OTHER_SEAL));
    assert_true(stray_needed(&s, &OTHER_INDEX));
    assert_int_equal(stray_look(&s, 5, true), STRAY_AGAIN); /* those were others */
    assert_true(stray_needed(&s, &ONE));
    assert_int_equal(stray_look(&s, 10, true), STRAY_OVER);
    stray_begin(&s, &ONE, 10);
    assert_int_equal(stray_look(&s, 10, true), STRAY_DROP);
    assert_true(stray_needed(&s, &OTHER_SEAL));
    assert_false(stray_needed(&s, &ONE)); /* wait for the end, then look */
    stray_end(&s);
    assert_true(stray_needed(&s, &ONE));
}

static void test_proposer(void **state)
{
    struct stray_core s = {0};
    uint64_t mark = stray_mark(&s);

    (void)state;
    assert_true(stray_still(&s, &ONE, mark));
    stray_begin(&s, &ONE, 10);
    assert_true(stray_still(&s, &ONE, mark)); /* and it is over with that */
    assert_int_equal(stray_look(&s, 10, true), STRAY_OVER);
    stray_begin(&s, &ONE, 10);
    assert_int_equal(stray_look(&s, 10, true), STRAY_DROP);
    assert_false(stray_still(&s, &ONE, mark));
    stray_end(&s);
    assert_false(stray_still(&s, &ONE, mark)); /* what was looked up before is gone */
    assert_true(stray_still(&s, &ONE, stray_mark(&s)));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_fence), cmocka_unit_test(test_needed),
                                       cmocka_unit_test(test_proposer)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
