/* tests/unit/gateway/manager/test_planner.c - new groups, a disk that is gone, a disk that is new;
 * plans are carried out until nothing is left to do. */
#include "gateway/manager/planner_core.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <cmocka.h>

#define GROUPS 64u
#define DISKS  6u
static struct planner_group groups[GROUPS];
static struct planner_disk disks[DISKS];
static struct placement_disk places[DISKS];
static uint32_t load[DISKS];
static struct planner_change changes[GROUPS];
static const struct placement_pool pool = {
    .id = 1, .prefix_bits = 6, .copies = 3, .min_in_sync = 2, .failure_domain = PLACEMENT_HOST};

static struct planner_in setup(uint32_t disks_n)
{
    for (uint32_t i = 0; i < DISKS; i++) {
        disks[i] = (struct planner_disk){
            .place = {.id = {{(uint8_t)(i + 1), 7}}, .weight = 100, .domain = {1, 1, i + 1}}};
    }
    for (uint32_t i = 0; i < GROUPS; i++) {
        groups[i] = (struct planner_group){
            .group = placement_group_of(&pool, (uint64_t)i << (64 - pool.prefix_bits))};
    }
    return (struct planner_in){&pool, disks, disks_n, groups, GROUPS, 8};
}

static void carry_out(const struct planner_change *c)
{
    struct planner_group *g = &groups[c->group_idx];

    g->exists = true;
    g->desired_n = g->in_sync_n = c->desired_n;
    for (uint32_t i = 0; i < c->desired_n; i++)
        g->desired[i] = g->in_sync[i] = c->desired[i];
}

static uint32_t rounds_until_quiet(const struct planner_in *in)
{
    uint32_t rounds = 0, n;

    while ((n = planner_plan(in, places, load, changes, GROUPS)) > 0) {
        for (uint32_t i = 0; i < n; i++) {
            if (changes[i].why != PLANNER_NEW) assert_true(n <= in->moves_max);
            carry_out(&changes[i]);
        }
        assert_true(++rounds < 1000);
    }
    return rounds;
}

static uint32_t count(uint32_t disk, bool primary)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < GROUPS; i++) {
        for (uint32_t k = 0; k < (primary ? 1 : groups[i].desired_n); k++)
            n += id128_eq(&groups[i].desired[k], &disks[disk].place.id);
    }
    return n;
}

static void check_sets(const struct planner_in *in)
{
    for (uint32_t i = 0; i < GROUPS; i++) {
        assert_int_equal(groups[i].desired_n, MIN(in->disks_n, pool.copies));
        for (uint32_t a = 0; a < groups[i].desired_n; a++) {
            for (uint32_t b = 0; b < a; b++)
                assert_false(id128_eq(&groups[i].desired[a], &groups[i].desired[b]));
        }
    }
}

static void test_new(void **state)
{
    struct planner_in in = setup(3);

    (void)state;
    assert_int_equal(rounds_until_quiet(&in), 1);
    check_sets(&in);
    for (uint32_t d = 0; d < 3; d++) {
        assert_int_equal(count(d, false), GROUPS);
        assert_true(count(d, true) >= 21 && count(d, true) <= 22);
    }
    in = setup(0);
    assert_int_equal(planner_plan(&in, places, load, changes, GROUPS), 0);
}

static void test_gone_and_new(void **state)
{
    struct planner_in in = setup(4);

    (void)state;
    (void)rounds_until_quiet(&in);
    disks[1].gone = true;
    assert_true(rounds_until_quiet(&in) > 1); /* bounded parallel */
    check_sets(&in);
    assert_int_equal(count(1, false), 0);
    in.disks_n = 6; /* two new ones */
    (void)rounds_until_quiet(&in);
    check_sets(&in);
    assert_true(count(4, false) > 0 && count(5, false) > 0);
    assert_int_equal(count(1, false), 0);
}

static void test_patience(void **state)
{
    struct planner_in in = setup(4);

    (void)state;
    (void)rounds_until_quiet(&in);
    for (uint32_t i = 0; i < in.moves_max; i++)
        groups[i].in_sync_n = 2; /* on their way */
    in.disks_n = 6;
    assert_int_equal(planner_moving(&in), 8);
    assert_int_equal(planner_plan(&in, places, load, changes, GROUPS), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_new),
                                       cmocka_unit_test(test_gone_and_new),
                                       cmocka_unit_test(test_patience)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
