/* Fibers: order, events before and after the wait, timeouts, groups, semaphores, work, reuse. */
#include "common/fiber/fiber.h"
#include "common/fiber/worker.h"
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
/* cmocka needs those before it */
#include <cmocka.h>

static uv_loop_t loop;
static struct fibers *fs;
static char trace[256];
static size_t trace_n;

static void note(char c)
{
    if (trace_n + 1 < sizeof trace) trace[trace_n++] = c;
    trace[trace_n] = 0;
}

static int setup(void **state)
{
    (void)state;
    trace_n = 0;
    trace[0] = 0;
    if (uv_loop_init(&loop) != 0) return 1;
    return fibers_open(&loop, &fs) == RC_OK ? 0 : 1;
}

static int teardown(void **state)
{
    (void)state;
    if (fibers_running(fs) != 0) return 1;
    fibers_close(fs);
    uv_run(&loop, UV_RUN_DEFAULT);
    return uv_loop_close(&loop);
}

static struct fiber_event ev;
static void waits(void *arg)
{
    (void)arg;
    note('a');
    fiber_event_wait(&ev);
    note('c');
}
static void sets(void *arg)
{
    (void)arg;
    fiber_event_set(&ev);
    note('b'); /* before the woken one: waking never runs it */
}

static void test_event(void **state)
{
    (void)state;
    memset(&ev, 0, sizeof ev);
    assert_int_equal(fiber_spawn(fs, waits, NULL), RC_OK);
    assert_int_equal(fiber_spawn(fs, sets, NULL), RC_OK);
    assert_string_equal(trace, "");
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_string_equal(trace, "abc");
    /* set before the wait */
    trace_n = 0;
    assert_int_equal(fiber_spawn(fs, sets, NULL), RC_OK);
    assert_int_equal(fiber_spawn(fs, waits, NULL), RC_OK);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_string_equal(trace, "bac");
}

static void times_out(void *arg)
{
    struct fiber_event never = {0};

    (void)arg;
    if (fiber_event_wait_ms(&never, 3) == RC_DEADLINE) note('t');
    never.set = true;
    if (fiber_event_wait_ms(&never, 3) == RC_OK) note('o');
    fiber_sleep_ms(1);
    note('s');
}

static void yields(void *arg)
{
    const char *c = arg;

    note(*c);
    fiber_yield();
    note((char)(*c + 1));
}

static void test_yield(void **state)
{
    (void)state;
    assert_int_equal(fiber_spawn(fs, yields, "a"), RC_OK);
    assert_int_equal(fiber_spawn(fs, yields, "x"), RC_OK);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_string_equal(trace, "axby");
}

static void test_timeout(void **state)
{
    (void)state;
    assert_int_equal(fiber_spawn(fs, times_out, NULL), RC_OK);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_string_equal(trace, "tos");
}

static struct fiber_cond cond;
static uint32_t woken, late;
static void cond_waiter(void *arg)
{
    if (arg == NULL) {
        fiber_cond_wait(&cond);
        woken++;
    } else if (fiber_cond_wait_ms(&cond, 1) == RC_DEADLINE) {
        late++;
    }
}
static void cond_waker(void *arg)
{
    (void)arg;
    fiber_sleep_ms(20);
    fiber_cond_broadcast(&cond);
}

static void test_cond(void **state)
{
    (void)state;
    fiber_cond_init(&cond);
    woken = late = 0;
    for (int i = 0; i < 10; i++) {
        assert_int_equal(fiber_spawn(fs, cond_waiter, i % 2 == 0 ? NULL : &cond), RC_OK);
    }
    assert_int_equal(fiber_spawn(fs, cond_waker, NULL), RC_OK);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(woken, 5);
    assert_int_equal(late, 5);
}

static uint32_t children, peak, inside;
static struct fiber_sem sem;
static void child(void *arg)
{
    (void)arg;
    fiber_sem_take(&sem, 2);
    inside++;
    peak = MAX(peak, inside);
    fiber_sleep_ms(1);
    inside--;
    fiber_sem_give(&sem, 2);
    children++;
}
static void parent(void *arg)
{
    struct fiber_group g = {0};

    (void)arg;
    for (int i = 0; i < 200; i++)
        assert_int_equal(fiber_group_spawn(&g, child, NULL), RC_OK);
    fiber_group_wait(&g);
    note((char)(children == 200 ? 'y' : 'n'));
    fiber_group_wait(&g); /* an empty group does not wait */
    note('z');
}

static void test_group_sem(void **state)
{
    (void)state;
    children = peak = inside = 0;
    fiber_sem_init(&sem, 5);
    assert_int_equal(fiber_spawn(fs, parent, NULL), RC_OK);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_string_equal(trace, "yz");
    assert_int_equal(peak, 2); /* 5 units, 2 each */
    assert_int_equal(sem.free, 5);
}

static void on_thread(void *arg)
{
    *(uint32_t *)arg += 1;
}
static void worker(void *arg)
{
    (void)arg;
    for (int i = 0; i < 50; i++) {
        uint32_t n = 41;

        assert_int_equal(fiber_work(on_thread, &n), RC_OK);
        assert_int_equal(n, 42);
    }
    note('w');
}

static void test_work(void **state)
{
    (void)state;
    for (int i = 0; i < 8; i++)
        assert_int_equal(fiber_spawn(fs, worker, NULL), RC_OK);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_string_equal(trace, "wwwwwwww");
}

struct counted {
    struct worker_job job;
    uint32_t *ran, *ended;
    uint32_t nth;
    struct counted *next; /* queued from done */
    struct worker *w;
};

static void counted_run(struct worker_job *job)
{
    struct counted *c = CONTAINER_OF(job, struct counted, job);

    c->nth = (*c->ran)++; /* one thread: no lock */
}

static void counted_done(struct worker_job *job)
{
    struct counted *c = CONTAINER_OF(job, struct counted, job);

    assert_int_equal(c->nth, *c->ended); /* in the order of the calls */
    (*c->ended)++;
    if (c->next != NULL) worker_queue(c->w, &c->next->job);
}

static void worker_fiber(void *arg)
{
    uint32_t n = 41;

    worker_run(arg, on_thread, &n);
    assert_int_equal(n, 42);
    note('r');
}

static void test_worker(void **state)
{
    static struct counted jobs[1000];
    uint32_t ran = 0, ended = 0;
    struct worker *w;

    (void)state;
    assert_int_equal(worker_open(&loop, &w), RC_OK);
    for (uint32_t i = 0; i < ARRAY_N(jobs); i++) {
        jobs[i] = (struct counted){
            .job = {.fn = counted_run, .done = counted_done}, .ran = &ran, .ended = &ended, .w = w};
        if (i >= ARRAY_N(jobs) / 2) jobs[i - ARRAY_N(jobs) / 2].next = &jobs[i];
    }
    for (uint32_t i = 0; i < ARRAY_N(jobs) / 2; i++)
        worker_queue(w, &jobs[i].job);
    assert_int_equal(ended, 0); /* never inside the call */
    while (ended < ARRAY_N(jobs))
        uv_run(&loop, UV_RUN_ONCE);
    assert_int_equal(ran, ARRAY_N(jobs));
    for (int i = 0; i < 3; i++)
        assert_int_equal(fiber_spawn(fs, worker_fiber, w), RC_OK);
    while (fibers_running(fs) > 0)
        uv_run(&loop, UV_RUN_ONCE);
    assert_string_equal(trace, "rrr");
    worker_close(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_event, setup, teardown),
        cmocka_unit_test_setup_teardown(test_yield, setup, teardown),
        cmocka_unit_test_setup_teardown(test_timeout, setup, teardown),
        cmocka_unit_test_setup_teardown(test_cond, setup, teardown),
        cmocka_unit_test_setup_teardown(test_group_sem, setup, teardown),
        cmocka_unit_test_setup_teardown(test_work, setup, teardown),
        cmocka_unit_test_setup_teardown(test_worker, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
