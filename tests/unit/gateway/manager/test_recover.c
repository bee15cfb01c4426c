/* tests/unit/gateway/manager/test_recover.c - which replica may lead again after etcd was lost, and
 * when nobody may: stale, empty, damaged, missing, copied ones. */
#include "gateway/manager/recover_core.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

#define MIN_IN_SYNC 2u

static struct id128 disk(unsigned i)
{
    return (struct id128){{(uint8_t)i, 9}};
}

static struct group_set set(const char *members) /* "123" */
{
    struct group_set s = {0};

    for (; *members != 0; members++) {
        struct id128 d = disk((unsigned)(*members - '0'));

        group_set_add(&s, &d);
    }
    return s;
}

static struct group_config record(uint64_t config, uint64_t epoch, unsigned primary,
                                  const char *in_sync, const char *learners)
{
    return (struct group_config){.config = config,
                                 .epoch = epoch,
                                 .primary = disk(primary),
                                 .primary_boot = disk(77),
                                 .in_sync = set(in_sync),
                                 .learners = set(learners),
                                 .last_serving = set(in_sync)};
}

static struct recover_report says(unsigned d, struct group_config c, uint64_t log_epoch,
                                  uint64_t log_last, uint64_t commit)
{
    return (struct recover_report){.disk = disk(d),
                                   .has_record = true,
                                   .record = c,
                                   .epoch = c.epoch,
                                   .config = c.config,
                                   .log_epoch = log_epoch,
                                   .log_last = log_last,
                                   .commit = commit};
}

static struct recover_decision decide(const struct recover_report *r, uint32_t n)
{
    struct recover_decision d;

    recover_decide(r, n, MIN_IN_SYNC, &d);
    if (d.verdict == RECOVER_OK) {
        assert_int_equal(group_config_check(&d.record, NULL), RC_OK);
        assert_true(group_set_has(&d.record.in_sync, &d.record.primary));
    }
    assert_true(recover_text(d.verdict)[0] != '?');
    return d;
}

static bool leads(const struct recover_decision *d, unsigned i)
{
    struct id128 x = disk(i);

    return d->verdict == RECOVER_OK && id128_eq(&d->record.primary, &x);
}

static bool in(const struct group_set *s, unsigned i)
{
    struct id128 x = disk(i);

    return group_set_has(s, &x);
}

static void test_all_there(void **state)
{
    struct group_config c = record(7, 3, 2, "123", "");
    struct recover_report r[3] = {says(1, c, 3, 100, 90), says(2, c, 3, 100, 95),
                                  says(3, c, 3, 100, 90)};
    struct recover_decision d = decide(r, 3);

    (void)state;
    assert_true(leads(&d, 2)); /* as before */
    assert_int_equal(d.record.config, 7 + RECOVER_GAP);
    assert_int_equal(d.record.epoch, 3 + RECOVER_GAP);
    assert_true(id128_is_zero(&d.record.primary_boot));
    assert_int_equal(d.record.in_sync.n, 3);
    assert_int_equal(d.wish.n, 3);
    r[1].log_last = 98; /* an entry that was on its way: only 1 and 3 have it */
    d = decide(r, 3);
    assert_true(leads(&d, 1) || leads(&d, 3));
    assert_true(in(&d.record.learners, 2) && d.behind_n == 1 && d.record.in_sync.n == 2);
}

/* Removed at config 8, back with its old record and all others: the old record does not count. */
static void test_stale(void **state)
{
    struct group_config old = record(7, 3, 1, "123", ""), now = record(8, 4, 2, "23", "");
    struct recover_report r[3] = {says(1, old, 3, 120, 90), says(2, now, 4, 110, 100),
                                  says(3, now, 4, 110, 100)};
    struct recover_decision d = decide(r, 3);

    (void)state;
    /* its log is longer, of an older reign: what it has more was never acknowledged */
    assert_true(leads(&d, 2));
    assert_false(in(&d.record.in_sync, 1));
    d = decide(r, 1); /* alone it could be out of date, and is */
    assert_int_equal(d.verdict, RECOVER_MISSING);
    d = decide(r, 2); /* 3 is away: 2 has all */
    assert_true(leads(&d, 2));
}

static void test_missing(void **state)
{
    struct group_config c = record(7, 3, 1, "123", "");
    struct recover_report r[3] = {says(1, c, 3, 100, 90), says(2, c, 3, 100, 95),
                                  says(3, c, 3, 100, 90)};
    struct recover_decision d = decide(r + 1, 2); /* 1 could have acknowledged nothing alone */

    (void)state;
    assert_true(leads(&d, 2) || leads(&d, 3));
    assert_false(in(&d.record.in_sync, 1));
    assert_true(in(&d.wish, 1));
    assert_true(in(&d.missing, 1));
    d = decide(r + 2, 1); /* 1 and 2 could have gone on without 3 */
    assert_int_equal(d.verdict, RECOVER_MISSING);
    d = decide(r, 0);
    assert_int_equal(d.verdict, RECOVER_NOTHING);
    /* a learner that was on its way, known from an older record, and one member are away */
    r[1].record = record(6, 3, 1, "123", "4");
    d = decide(r + 1, 2);
    assert_int_equal(d.verdict, RECOVER_MISSING);
}

static void test_empty(void **state)
{
    struct group_config c = record(7, 3, 1, "123", "");
    struct recover_report r[3] = {says(1, c, 0, 0, 0), says(2, c, 3, 100, 95),
                                  says(3, c, 3, 100, 90)};
    struct recover_decision d = decide(r, 3);

    (void)state;
    assert_true(leads(&d, 2) || leads(&d, 3));
    assert_true(in(&d.record.learners, 1));
    r[1] = says(2, c, 0, 0, 0);
    r[2] = says(3, c, 0, 0, 0);
    d = decide(r, 3); /* all are empty, though the group has had a primary */
    assert_int_equal(d.verdict, RECOVER_NO_GOOD);
    /* a group that nobody ever led is made again as it was */
    c = record(1, 1, 1, "123", "");
    for (unsigned i = 0; i < 3; i++)
        r[i] = says(i + 1, c, 0, 0, 0);
    d = decide(r, 3);
    assert_int_equal(d.verdict, RECOVER_OK);
    assert_int_equal(d.record.config, 1);
    d = decide(r, 2);
    assert_int_equal(d.verdict, RECOVER_MISSING);
}

static void test_damaged(void **state)
{
    struct group_config c = record(7, 3, 1, "123", "");
    struct recover_report r[3] = {says(1, c, 3, 100, 90), says(2, c, 3, 100, 95),
                                  says(3, c, 3, 100, 90)};
    struct recover_decision d;

    (void)state;
    r[0].damaged = true;
    d = decide(r, 3);
    assert_true(leads(&d, 2) || leads(&d, 3));
    assert_true(in(&d.record.learners, 1));
    r[1].damaged = r[2].damaged = true;
    d = decide(r, 3);
    assert_int_equal(d.verdict, RECOVER_NO_GOOD);
    /* what is known committed is nowhere */
    r[0].damaged = r[1].damaged = r[2].damaged = false;
    r[1].commit = 101;
    d = decide(r, 3);
    assert_int_equal(d.verdict, RECOVER_NO_GOOD);
}

static void test_conflict(void **state)
{
    struct group_config a = record(7, 3, 1, "123", ""), b = record(7, 3, 2, "123", "");
    struct recover_report r[3] = {says(1, a, 3, 100, 90), says(2, b, 3, 100, 95),
                                  says(3, a, 3, 100, 90)};
    struct recover_decision d = decide(r, 3);

    (void)state;
    assert_int_equal(d.verdict, RECOVER_CONFLICT); /* two winners of one transaction */
    r[1] = says(1, a, 3, 100, 90);
    d = decide(r, 3);
    assert_int_equal(d.verdict, RECOVER_CONFLICT); /* a disk twice */
    /* who is not in sync has entries of a newer reign than those who are */
    r[1] = says(2, record(6, 3, 1, "123", ""), 5, 130, 90);
    r[0] = says(1, record(8, 4, 1, "13", ""), 4, 100, 90);
    r[2] = says(3, record(8, 4, 1, "13", ""), 4, 100, 90);
    d = decide(r, 3);
    assert_int_equal(d.verdict, RECOVER_CONFLICT);
}

/* A reign that nobody kept the record of: its primary died right after it had won. */
static void test_unseen_reign(void **state)
{
    struct group_config c = record(7, 3, 1, "123", "");
    struct recover_report r[3] = {says(1, c, 3, 100, 90), says(2, c, 3, 100, 95),
                                  says(3, c, 3, 100, 90)};
    struct recover_decision d;

    (void)state;
    r[1].epoch = 5; /* it promised 5 to somebody */
    r[1].config = 9;
    d = decide(r, 3);
    assert_int_equal(d.verdict, RECOVER_OK);
    assert_int_equal(d.record.epoch, 5 + RECOVER_GAP);
    assert_int_equal(d.record.config, 9 + RECOVER_GAP);
    r[1].log_epoch = 5; /* and took an entry: it has all */
    r[1].log_last = 101;
    d = decide(r, 3);
    assert_true(leads(&d, 2));
    assert_int_equal(d.record.in_sync.n, 1);
    assert_int_equal(d.record.learners.n, 2);
}

/* Any histories of removals, additions and take-overs; whoever is chosen has what was acknowledged.
 * Disks go away at random; each has the records up to a point. */
static void test_random(void **state)
{
    uint32_t decided = 0, refused = 0;

    (void)state;
    srand(7);
    for (uint32_t round = 0; round < 20000; round++) {
        struct group_config history[8], *c = history;
        uint64_t acked = 10, log_epoch[8] = {0}, log_last[8] = {0}, kept[8] = {0};
        struct recover_report r[8];
        struct recover_decision d;
        uint32_t n = 0, steps = 1 + (uint32_t)rand() % 6;

        *c = record(3, 2, 1, "123", "");
        for (unsigned i = 1; i <= 3; i++) {
            log_epoch[i] = 2;
            log_last[i] = acked;
            kept[i] = 3;
        }
        for (uint32_t s = 0; s < steps; s++) {
            struct group_config next = *c;
            uint32_t act = (uint32_t)rand() % 4;
            unsigned who = 1 + (unsigned)rand() % 5;
            struct id128 x = disk(who);

            next.config++;
            if (act == 0 && c->in_sync.n > MIN_IN_SYNC && group_set_has(&c->in_sync, &x) &&
                !id128_eq(&x, &c->primary)) {
                group_set_remove(&next.in_sync, &x);
            } else if (act == 1 && !group_set_has(&c->in_sync, &x)) {
                group_set_add(&next.in_sync, &x);
                log_epoch[who] = c->epoch;
                log_last[who] = acked;
            } else if (act == 2 && c->in_sync.n > MIN_IN_SYNC && group_set_has(&c->in_sync, &x) &&
                       !id128_eq(&x, &c->primary)) { /* takes over, drops the old one */
                group_set_remove(&next.in_sync, &c->primary);
                next.primary = x;
                next.epoch++;
            } else {
                next.config--;
            }
            next.last_serving = next.in_sync;
            *++c = next;
            /* the primary keeps it before anything rests on it; others sooner or later */
            for (unsigned i = 1; i <= 5; i++) {
                x = disk(i);
                if (id128_eq(&x, &next.primary) || rand() % 2 == 0) kept[i] = next.config;
            }
            acked += (uint32_t)rand() % 3 + 1;
            for (uint32_t i = 0; i < next.in_sync.n; i++) {
                log_epoch[next.in_sync.disks[i].b[0]] = next.epoch;
                log_last[next.in_sync.disks[i].b[0]] = acked + (uint32_t)rand() % 2;
            }
        }
        for (unsigned i = 1; i <= 5; i++) {
            struct group_config *k = c;

            if (rand() % 4 == 0 || (kept[i] == 0 && log_last[i] == 0)) continue;
            while (k > history && k->config > kept[i])
                k--;
            r[n] = says(i, *k, log_epoch[i], log_last[i], acked - 2);
            r[n].has_record = kept[i] >= 3;
            r[n].commit = MIN(r[n].commit, log_last[i]);
            r[n].epoch = MAX(r[n].epoch, log_epoch[i]);
            n++;
        }
        d = decide(r, n);
        if (d.verdict != RECOVER_OK) {
            refused++;
            continue;
        }
        decided++;
        for (uint32_t i = 0; i < d.record.in_sync.n; i++)
            assert_true(log_last[d.record.in_sync.disks[i].b[0]] >= acked);
        assert_true(d.record.epoch > c->epoch && d.record.config > c->config);
    }
    assert_true(decided > 2000 && refused > 2000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_there),    cmocka_unit_test(test_stale),
        cmocka_unit_test(test_missing),      cmocka_unit_test(test_empty),
        cmocka_unit_test(test_damaged),      cmocka_unit_test(test_conflict),
        cmocka_unit_test(test_unseen_reign), cmocka_unit_test(test_random)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
