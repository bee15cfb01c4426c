/* tests/unit/gateway/scheduler/test_scheduler.c - who gets what: fair share, devices, places,
 * backlog; halves after a loss; three failures; cancel; cutting. Faults are tests/sim's. */
#include "gateway/scheduler/scheduler_core.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static const struct sched_limits limits = {.jobs = 4, .tasks = 64, .workers = 8, .lease_ms = 100};
static struct sched *s;
static uint64_t index_n;

static struct id128 job(uint8_t n)
{
    return (struct id128){{n}};
}

static void add_job(uint8_t n, uint64_t owner, enum sched_device device, uint32_t tasks,
                    uint32_t items, uint32_t host)
{
    struct sched_job_in in = {.id = job(n), .owner = owner, .device = device, .order = n};
    static struct record_task row;

    assert_int_equal(sched_job_add(s, &in), RC_OK);
    for (uint32_t t = 0; t < tasks; t++) {
        row = (struct record_task){.state = RECORD_TASK_OPEN, .items_n = items};
        row.host = host == 0 ? 0 : host + t;
        row.rack = host == 0 ? 0 : 1;
        for (uint32_t i = 0; i < items; i++)
            row.items[i].item = t * items + i;
        assert_int_equal(sched_task_add(s, &in.id, t, &row, 1, 0), RC_OK);
    }
}

static struct sched_worker_in worker(const char *name, uint32_t host, uint32_t slots)
{
    return (struct sched_worker_in){.name = {(const uint8_t *)name, strlen(name)},
                                    .host = host,
                                    .rack = 1,
                                    .cpu = true,
                                    .slots = slots};
}

/* A pull whose transaction succeeds. false: there is no task. */
static bool pull(const struct sched_worker_in *w, uint64_t now, struct sched_action *ret)
{
    assert_int_equal(sched_pull(s, w, now, ret), RC_OK);
    if (ret->type == SCHED_ACT_NONE) return false;
    sched_txn_done(s, ret->token, RC_OK, true, ++index_n, now, ret);
    assert_int_equal(ret->type, SCHED_ACT_HAND);
    return true;
}

static uint32_t out_n(const struct sched_action *a)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < a->record->items_n; i++)
        n += a->record->items[i].out;
    return n;
}

static void finish(const struct sched_action *hand, enum sched_outcome outcome,
                   struct sched_action *ret)
{
    struct sched_item_outcome outs[RECORD_TASK_ITEMS_MAX];
    struct id128 id = hand->job;
    uint32_t n = 0;

    for (uint32_t i = 0; i < hand->record->items_n; i++) {
        if (hand->record->items[i].out == 0) continue;
        outs[n++] = (struct sched_item_outcome){hand->record->items[i].item, outcome};
    }
    assert_int_equal(sched_finish(s, &id, hand->task, hand->attempt, outs, n, 0, ret), RC_OK);
    assert_int_equal(ret->type, SCHED_ACT_TXN);
}

static int setup(void **state)
{
    void *mem = aligned_alloc(16, sched_bytes(&limits));

    assert_non_null(mem);
    s = sched_init(mem, &limits);
    *state = mem;
    return 0;
}

static int teardown(void **state)
{
    free(*state);
    return 0;
}

static void test_fair(void **state)
{
    struct sched_worker_in w = worker("w", 1, 16);
    struct sched_action a;
    uint32_t by[3] = {0};

    (void)state;
    add_job(1, 100, SCHED_ANY, 20, 1, 0);
    for (int i = 0; i < 6; i++) /* the first user has had six when the second comes */
        assert_true(pull(&w, 0, &a));
    add_job(2, 200, SCHED_ANY, 20, 1, 0);
    for (int i = 0; i < 8; i++) {
        assert_true(pull(&w, 0, &a));
        by[a.job.b[0]]++;
    }
    assert_int_equal(by[1], 4);
    assert_int_equal(by[2], 4);
}

static void test_device_and_backlog(void **state)
{
    struct sched_worker_in w = worker("w", 1, 2), v = worker("v", 1, 1000);
    struct sched_action a;

    (void)state;
    add_job(1, 100, SCHED_GPU, 1, 1, 0);
    assert_false(pull(&w, 0, &a));
    w.gpu = true;
    assert_true(pull(&w, 0, &a));
    add_job(2, 100, SCHED_CPU, 20, 1, 0);
    assert_true(pull(&w, 0, &a));
    assert_int_equal(sched_pull(s, &w, 0, &a), RC_BUSY); /* two slots */
    for (uint32_t i = 0; i < SCHED_BACKLOG_MAX; i++)
        assert_true(pull(&v, 0, &a));
    assert_int_equal(sched_pull(s, &v, 0, &a), RC_BUSY);
}

static void test_place(void **state)
{
    struct sched_worker_in far = worker("w", 12, 16);
    struct sched_action a;

    (void)state;
    add_job(1, 100, SCHED_ANY, 4, 1, 10); /* on hosts 10, 11, 12, 13 of rack 1 */
    assert_true(pull(&far, 0, &a));
    assert_int_equal(a.task, 2);
    assert_true(pull(&far, 0, &a));
    assert_int_equal(a.task, 0);
}

static void test_loss(void **state)
{
    struct sched_worker_in w = worker("w", 1, 4);
    struct sched_action a, b;
    struct id128 id = job(1);
    static const uint32_t want[] = {8, 4, 2, 1, 1, 1};

    (void)state;
    add_job(1, 100, SCHED_ANY, 1, 8, 0);
    for (size_t i = 0; i < ARRAY_N(want); i++) {
        uint64_t now = 1000 * i;

        assert_true(pull(&w, now, &a));
        assert_int_equal(a.attempt, i + 1);
        assert_int_equal(out_n(&a), want[i]);
        sched_tick(s, now + 99, &b);
        assert_int_equal(b.type, SCHED_ACT_NONE);
        assert_true(sched_renew(s, &id, 0, a.attempt, now + 50));
        sched_tick(s, now + 149, &b);
        assert_int_equal(b.type, SCHED_ACT_NONE);
        sched_tick(s, now + 150, &b);
        assert_int_equal(b.type, SCHED_ACT_TXN);
        assert_int_equal(b.asides_n, i == 5); /* alone for the third time */
        sched_txn_done(s, b.token, RC_OK, true, ++index_n, now, &b);
        assert_false(sched_renew(s, &id, 0, a.attempt, now + 150));
        assert_int_equal(sched_finish(s, &id, 0, a.attempt, NULL, 0, now, &b), RC_PRECOND);
    }
    assert_true(pull(&w, 9000, &a));
    assert_int_equal(a.record->items[0].state, RECORD_ITEM_ASIDE);
    assert_int_equal(a.record->items[1].out, 1);
}

static void test_failures_and_end(void **state)
{
    struct sched_worker_in w = worker("w", 1, 4);
    struct sched_progress p;
    struct sched_action a, b;
    struct id128 id = job(1);

    (void)state;
    add_job(1, 100, SCHED_ANY, 1, 2, 0);
    for (uint32_t i = 1; i <= SCHED_FAILURES_MAX; i++) {
        assert_true(pull(&w, 0, &a));
        finish(&a, SCHED_ITEM_FAILED, &b);
        assert_int_equal(b.asides_n, i == SCHED_FAILURES_MAX ? 2 : 0);
        assert_int_equal(b.commits_n, 0);
        sched_txn_done(s, b.token, RC_UNAVAIL, false, 0, 0, &b); /* unknown: again, the same */
        assert_true(b.type == SCHED_ACT_TXN && b.retry);
        sched_txn_done(s, b.token, RC_OK, true, ++index_n, 0, &b);
        assert_int_equal(b.type, SCHED_ACT_DONE);
        assert_int_equal(b.job_ended, i == SCHED_FAILURES_MAX);
    }
    assert_true(sched_progress(s, &id, &p) && p.ended && p.items_aside == 2);
    assert_false(pull(&w, 0, &a));
}

/* What can't be analysed is final at once, and counted apart. */
static void test_unfit(void **state)
{
    struct sched_worker_in w = worker("w", 1, 4);
    struct sched_progress p;
    struct sched_action a, b;
    struct id128 id = job(1);

    (void)state;
    add_job(1, 100, SCHED_ANY, 1, 2, 0);
    assert_true(pull(&w, 0, &a));
    finish(&a, SCHED_ITEM_UNFIT, &b);
    assert_int_equal(b.commits_n, 2); /* with the reason as reported */
    assert_int_equal(b.asides_n, 0);
    sched_txn_done(s, b.token, RC_OK, true, ++index_n, 0, &b);
    assert_true(sched_progress(s, &id, &p) && p.ended && p.items_aside == 2 && p.items_done == 0);
}

static void test_cancel_and_conflict(void **state)
{
    struct sched_worker_in w = worker("w", 1, 4);
    struct sched_progress p;
    struct sched_action a, b;
    struct id128 id = job(1);

    (void)state;
    add_job(1, 100, SCHED_ANY, 3, 1, 0);
    assert_true(pull(&w, 0, &a));
    sched_cancel(s, &id);
    assert_int_equal(sched_pull(s, &w, 0, &b), RC_OK);
    assert_int_equal(b.type, SCHED_ACT_NONE);
    assert_false(sched_renew(s, &id, a.task, a.attempt, 0));
    assert_true(sched_progress(s, &id, &p) && !p.ended);
    finish(&a, SCHED_ITEM_OK, &b);
    assert_int_equal(b.commits_n, 1);
    sched_txn_done(s, b.token, RC_OK, false, 0, 0, &b); /* somebody else changed the row */
    assert_int_equal(b.type, SCHED_ACT_RESYNC);
}

static void test_cut(void **state)
{
    struct sched_cut_item v[] = {{0, 2, 1, 1, 10}, {1, 1, 1, 1, 10},  {2, 2, 1, 1, 10},
                                 {3, 1, 1, 1, 95}, {4, 1, 1, 1, 500}, {5, 2, 1, 1, 10}};
    uint32_t ends[ARRAY_N(v)];

    (void)state;
    /* host 1: 1 | 3 | 4, by bytes; host 2: 0 2 | 5, by number */
    assert_int_equal(sched_cut(v, ARRAY_N(v), 2, 100, ends), 5);
    assert_true(v[0].item == 1 && v[1].item == 3 && v[2].item == 4 && v[3].item == 0);
    assert_true(ends[0] == 1 && ends[1] == 2 && ends[2] == 3 && ends[3] == 5 && ends[4] == 6);
    assert_int_equal(sched_cut(v, 0, 2, 100, ends), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_fair, setup, teardown),
        cmocka_unit_test_setup_teardown(test_device_and_backlog, setup, teardown),
        cmocka_unit_test_setup_teardown(test_place, setup, teardown),
        cmocka_unit_test_setup_teardown(test_loss, setup, teardown),
        cmocka_unit_test_setup_teardown(test_failures_and_end, setup, teardown),
        cmocka_unit_test_setup_teardown(test_unfit, setup, teardown),
        cmocka_unit_test_setup_teardown(test_cancel_and_conflict, setup, teardown),
        cmocka_unit_test(test_cut),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
