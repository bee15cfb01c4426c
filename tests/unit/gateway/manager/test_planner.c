/* tests/unit/gateway/manager/test_planner.c - new groups, disks that are gone, new, to be emptied;
 * domains; plans are carried out until nothing is left to do, and what was foreseen is what comes.
 */
#include "gateway/manager/planner_core.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <cmocka.h>

#define GROUPS 64u
#define DISKS  12u
static struct planner_group groups[GROUPS];
static struct planner_disk disks[DISKS];
static struct placement_disk places[DISKS];
static uint32_t load[DISKS], busy[DISKS], in_n[DISKS], out_n[DISKS];
static struct planner_change changes[GROUPS];
static const struct planner_scratch scratch = {places, load, busy};
static const struct placement_pool pool = {
    .id = 1, .prefix_bits = 6, .copies = 3, .min_in_sync = 2, .failure_domain = PLACEMENT_ZONE};

/* Each disk is a host; every host stands in zone i % zones. */
static struct planner_in setup(uint32_t disks_n, uint32_t zones)
{
    for (uint32_t i = 0; i < DISKS; i++) {
        disks[i] =
            (struct planner_disk){.place = {.id = {{(uint8_t)(i + 1), 7}},
                                            .weight = 100,
                                            .domain = {1 + i % zones, 100 + i % zones, 200 + i}}};
    }
    for (uint32_t i = 0; i < GROUPS; i++) {
        groups[i] = (struct planner_group){
            .group = placement_group_of(&pool, (uint64_t)i << (64 - pool.prefix_bits))};
    }
    return (struct planner_in){.pools = &pool,
                               .pools_n = 1,
                               .disks = disks,
                               .disks_n = disks_n,
                               .groups = groups,
                               .groups_n = GROUPS,
                               .moves_max = 8,
                               .disk_moves_max = 4};
}

static bool in_set(const struct id128 *set, uint32_t n, const struct id128 *id)
{
    for (uint32_t i = 0; i < n; i++) {
        if (id128_eq(&set[i], id)) return true;
    }
    return false;
}

/* The wish is written; nothing has moved yet. */
static void wish(const struct planner_change *c)
{
    struct planner_group *g = &groups[c->group_idx];

    g->desired_n = c->desired_n;
    for (uint32_t i = 0; i < c->desired_n; i++)
        g->desired[i] = c->desired[i];
    if (c->why != PLANNER_NEW) return;
    g->exists = true;
    g->in_sync_n = c->desired_n;
    for (uint32_t i = 0; i < c->desired_n; i++)
        g->in_sync[i] = c->desired[i];
    g->primary = c->desired[0];
}

/* What the primary does with it: members come, then members go. */
static void carry_out(struct planner_group *g)
{
    g->in_sync_n = g->desired_n;
    for (uint32_t i = 0; i < g->desired_n; i++)
        g->in_sync[i] = g->desired[i];
    if (!in_set(g->in_sync, g->in_sync_n, &g->primary)) g->primary = g->in_sync[0];
}

static bool wished(uint32_t disk, const struct planner_group *g)
{
    return in_set(g->desired, g->desired_n, &disks[disk].place.id);
}

static uint32_t rounds_until_quiet(const struct planner_in *in)
{
    uint32_t rounds = 0, n;

    while ((n = planner_plan(in, &scratch, changes, GROUPS)) > 0) {
        uint32_t takes[DISKS] = {0};

        for (uint32_t i = 0; i < n; i++) {
            const struct planner_group *g = &groups[changes[i].group_idx];

            for (uint32_t d = 0; d < in->disks_n && changes[i].why != PLANNER_NEW; d++) {
                takes[d] += in_set(changes[i].desired, changes[i].desired_n, &disks[d].place.id) &&
                            !wished(d, g);
            }
            if (changes[i].why != PLANNER_NEW) assert_true(n <= in->moves_max);
        }
        for (uint32_t d = 0; d < in->disks_n; d++)
            assert_true(takes[d] <= in->disk_moves_max);
        for (uint32_t i = 0; i < n; i++) {
            wish(&changes[i]);
            carry_out(&groups[changes[i].group_idx]);
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

static void check_sets(const struct planner_in *in, uint32_t copies, enum placement_level level)
{
    for (uint32_t i = 0; i < GROUPS; i++) {
        uint32_t idx[PLACEMENT_COPIES_MAX], n = 0;

        assert_int_equal(groups[i].desired_n, copies);
        for (uint32_t d = 0; d < in->disks_n; d++) {
            if (wished(d, &groups[i])) idx[n++] = d;
            places[d] = disks[d].place;
        }
        assert_int_equal(n, copies);
        assert_true(placement_level_of(places, idx, n) <= level);
    }
}

static void test_new(void **state)
{
    struct planner_in in = setup(3, 1);

    (void)state;
    assert_int_equal(rounds_until_quiet(&in), 1);
    check_sets(&in, 3, PLACEMENT_HOST);
    for (uint32_t d = 0; d < 3; d++) {
        assert_int_equal(count(d, false), GROUPS);
        assert_true(count(d, true) >= 21 && count(d, true) <= 22);
    }
    in = setup(0, 1);
    assert_int_equal(planner_plan(&in, &scratch, changes, GROUPS), 0);
    in = setup(6, 1);
    for (uint32_t d = 0; d < 4; d++)
        disks[d].away = true; /* none of them could lead */
    assert_int_equal(rounds_until_quiet(&in), 1);
    check_sets(&in, 2, PLACEMENT_HOST);
}

static void test_gone_and_new(void **state)
{
    struct planner_in in = setup(5, 1);
    struct planner_forecast f;

    (void)state;
    (void)rounds_until_quiet(&in);
    disks[1].gone = disks[1].away = true;
    assert_false(planner_hold(&in));
    assert_true(rounds_until_quiet(&in) > 1); /* bounded parallel */
    check_sets(&in, 3, PLACEMENT_HOST);
    assert_int_equal(count(1, false), 0);
    in.disks_n = 7; /* two new ones, nobody has let them in */
    disks[5].fresh = disks[6].fresh = true;
    assert_int_equal(planner_plan(&in, &scratch, changes, GROUPS), 0);
    disks[5].fresh = disks[6].fresh = false;
    planner_foresee(&in, &scratch, in_n, out_n, &f);
    assert_true(f.copies > 0 && f.copies < GROUPS * 3 / 2 && f.stuck == 0 && f.short_n == 0);
    assert_int_equal(f.copies, in_n[5] + in_n[6]); /* nothing moves between old ones */
    (void)rounds_until_quiet(&in);
    check_sets(&in, 3, PLACEMENT_HOST);
    assert_int_equal(count(5, false), in_n[5]);
    assert_int_equal(count(6, false), in_n[6]);
    assert_int_equal(count(1, false), 0);
    planner_foresee(&in, &scratch, in_n, out_n, &f);
    assert_int_equal(f.copies + f.groups, 0);
}

/* A disk is lost, and one that waited to be let in is all there is: repairs take it. */
static void test_repair_takes_new(void **state)
{
    struct planner_in in = setup(3, 1);

    (void)state;
    (void)rounds_until_quiet(&in);
    in.disks_n = 4;
    disks[3].fresh = true;
    disks[0].gone = disks[0].away = true;
    (void)rounds_until_quiet(&in);
    assert_int_equal(count(3, false), GROUPS);
    check_sets(&in, 3, PLACEMENT_HOST);
}

/* Groups were made while only two hosts of two disks were there: the third one parts their copies
 * without being asked for. */
static void test_two_on_a_host(void **state)
{
    struct planner_in in = setup(4, 1);

    (void)state;
    for (uint32_t d = 0; d < 6; d++) {
        disks[d].place.domain[0] = 1 + d / 2;
        disks[d].place.domain[1] = 100 + d / 2;
        disks[d].place.domain[2] = 200 + d / 2;
    }
    (void)rounds_until_quiet(&in);
    check_sets(&in, 3, PLACEMENT_DISK);
    in.disks_n = 6;
    disks[4].fresh = disks[5].fresh = true;
    (void)rounds_until_quiet(&in);
    check_sets(&in, 3, PLACEMENT_ZONE);
}

static void test_drain(void **state)
{
    struct planner_in in = setup(5, 1);
    struct planner_forecast f;
    uint32_t held, others = 0;

    (void)state;
    (void)rounds_until_quiet(&in);
    held = count(2, false);
    disks[2].drain = true;
    planner_foresee(&in, &scratch, in_n, out_n, &f);
    assert_int_equal(f.copies, held);
    assert_int_equal(out_n[2], held);
    for (uint32_t d = 0; d < 5; d++)
        others += d == 2 ? 0 : out_n[d];
    assert_int_equal(others, 0); /* least movement */
    assert_true(rounds_until_quiet(&in) > 1);
    assert_int_equal(count(2, false), 0);
    check_sets(&in, 3, PLACEMENT_HOST);
    disks[2].drain = false;
    (void)rounds_until_quiet(&in);
    assert_int_equal(count(2, false), held); /* as before: nothing was shuffled meanwhile */
    /* no copy is given up where nothing can take its place */
    in = setup(3, 1);
    (void)rounds_until_quiet(&in);
    disks[2].drain = true;
    planner_foresee(&in, &scratch, in_n, out_n, &f);
    assert_int_equal(f.stuck, GROUPS);
    assert_int_equal(planner_plan(&in, &scratch, changes, GROUPS), 0);
}

/* Three zones: one copy in each; the last disk of a zone is not emptied without a word. */
static void test_domains(void **state)
{
    struct planner_in in = setup(6, 3);
    struct planner_forecast f;

    (void)state;
    (void)rounds_until_quiet(&in);
    check_sets(&in, 3, PLACEMENT_ZONE);
    disks[0].gone = disks[0].away = true; /* disk 3 is the other one of zone 0 */
    (void)rounds_until_quiet(&in);
    check_sets(&in, 3, PLACEMENT_ZONE);
    assert_int_equal(count(3, false), GROUPS);
    disks[3].drain = true;
    planner_foresee(&in, &scratch, in_n, out_n, &f);
    assert_int_equal(f.stuck, 0);
    assert_int_equal(f.narrower, GROUPS);
    (void)rounds_until_quiet(&in);
    check_sets(&in, 3, PLACEMENT_HOST);
    disks[0].gone = disks[0].away = false;
    (void)rounds_until_quiet(&in); /* and better places as soon as there are some */
    check_sets(&in, 3, PLACEMENT_ZONE);
    /* two zones, then hosts */
    in = setup(6, 2);
    (void)rounds_until_quiet(&in);
    check_sets(&in, 3, PLACEMENT_HOST);
    for (uint32_t i = 0; i < GROUPS; i++) {
        uint32_t zones[2] = {0};

        for (uint32_t d = 0; d < 6; d++)
            zones[d % 2] += wished(d, &groups[i]);
        assert_true(zones[0] > 0 && zones[1] > 0);
    }
}

/* What waits for an absent disk does not hold up the rest; what is under way does. */
static void test_limits(void **state)
{
    struct planner_in in = setup(4, 1);

    (void)state;
    (void)rounds_until_quiet(&in);
    for (uint32_t i = 0; i < in.moves_max; i++)
        groups[i].in_sync_n = 2; /* on their way */
    in.disks_n = 6;
    assert_int_equal(planner_moving(&in), 8);
    assert_int_equal(planner_plan(&in, &scratch, changes, GROUPS), 0);
    for (uint32_t d = 0; d < 4; d++)
        disks[d].away = true;
    assert_int_equal(planner_moving(&in), 0);
    for (uint32_t d = 0; d < 4; d++)
        disks[d].away = false;
    /* a group on its way is left alone, unless what it waits for is gone */
    for (uint32_t i = 0; i < in.moves_max; i++)
        disks[0].gone |= id128_eq(&groups[i].desired[2], &disks[0].place.id);
    disks[0].away = disks[0].gone;
    assert_true(disks[0].gone);
    assert_true(planner_plan(&in, &scratch, changes, GROUPS) > 0);
    assert_int_equal(changes[0].why, PLANNER_DISK_GONE);
}

static void test_fewest_first(void **state)
{
    struct planner_in in = setup(8, 1);
    uint32_t n, live_before = 0;

    (void)state;
    (void)rounds_until_quiet(&in);
    disks[0].gone = disks[0].away = disks[1].gone = disks[1].away = true;
    disks[0].removed = disks[1].removed = true; /* the operator said so: no hold */
    in.moves_max = GROUPS;
    in.disk_moves_max = GROUPS;
    n = planner_plan(&in, &scratch, changes, GROUPS);
    assert_true(n > 10);
    for (uint32_t i = 0; i < n; i++) {
        const struct planner_group *g = &groups[changes[i].group_idx];
        uint32_t live = 0;

        for (uint32_t k = 0; k < g->in_sync_n; k++)
            live += !id128_eq(&g->in_sync[k], &disks[0].place.id) &&
                    !id128_eq(&g->in_sync[k], &disks[1].place.id);
        assert_true(live >= live_before);
        live_before = live;
    }
    assert_int_equal(live_before, 2);
}

static void test_hold(void **state)
{
    struct planner_in in = setup(6, 1);

    (void)state;
    (void)rounds_until_quiet(&in);
    disks[0].gone = disks[0].away = true;
    assert_false(planner_hold(&in));
    disks[1].gone = disks[1].away = true; /* two of six at once */
    assert_true(planner_hold(&in));
    assert_int_equal(planner_plan(&in, &scratch, changes, GROUPS), 0);
    disks[1].removed = true;
    assert_false(planner_hold(&in));
    assert_true(planner_plan(&in, &scratch, changes, GROUPS) > 0);
    /* one of two hosts is one loss, however many disks it has */
    in = setup(4, 1);
    for (uint32_t d = 0; d < 4; d++)
        disks[d].place.domain[2] = 200 + d / 2;
    disks[0].gone = disks[1].gone = true;
    assert_false(planner_hold(&in));
    /* a single machine: its disks count */
    for (uint32_t d = 0; d < 4; d++)
        disks[d].place.domain[2] = 200;
    assert_true(planner_hold(&in));
}

static void test_lost(void **state)
{
    struct planner_in in = setup(5, 1);
    struct planner_forecast f;

    (void)state;
    (void)rounds_until_quiet(&in);
    groups[3].in_sync_n = 1;
    groups[3].primary = groups[3].in_sync[0];
    for (uint32_t d = 0; d < 5; d++) {
        if (id128_eq(&disks[d].place.id, &groups[3].in_sync[0]))
            disks[d].gone = disks[d].away = true;
    }
    planner_foresee(&in, &scratch, in_n, out_n, &f);
    assert_int_equal(f.lost, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_new),
                                       cmocka_unit_test(test_gone_and_new),
                                       cmocka_unit_test(test_repair_takes_new),
                                       cmocka_unit_test(test_two_on_a_host),
                                       cmocka_unit_test(test_drain),
                                       cmocka_unit_test(test_domains),
                                       cmocka_unit_test(test_limits),
                                       cmocka_unit_test(test_fewest_first),
                                       cmocka_unit_test(test_hold),
                                       cmocka_unit_test(test_lost)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
