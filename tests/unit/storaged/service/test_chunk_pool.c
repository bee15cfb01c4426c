/* storaged/service/chunk_pool: shares are apart, one always fits, and two nodes that write through
 * each other never wait for ever. */
#include "storaged/service/chunk_pool.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#define CHUNK (8u << 20)

static uv_loop_t loop;
static struct fibers *fs;

static void in_fiber(void (*fn)(void *arg), void *arg)
{
    assert_int_equal(uv_loop_init(&loop), 0);
    assert_int_equal(fibers_open(&loop, &fs), RC_OK);
    assert_int_equal(fiber_spawn(fs, fn, arg), RC_OK);
    while (fibers_running(fs) > 0)
        (void)uv_run(&loop, UV_RUN_ONCE);
    fibers_close(fs);
    (void)uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&loop), 0);
}

static void shares_run(void *arg)
{
    struct chunk_pool p;

    (void)arg;
    chunk_pool_init(&p, 64u << 20); /* position 0: 16 MiB, 2: 8 MiB, 7: none */
    assert_int_equal(chunk_pool_take(&p, 0, CHUNK, 4, 0), RC_OK);
    assert_int_equal(chunk_pool_take(&p, 0, CHUNK, 4, 0), RC_OK);
    assert_int_equal(chunk_pool_take(&p, 0, CHUNK, 4, 1), RC_DEADLINE);
    assert_int_equal(chunk_pool_take(&p, 0, CHUNK, 0, 1), RC_BUSY);
    assert_int_equal(chunk_pool_take(&p, 2, CHUNK, 4, 0), RC_OK);     /* a share of its own */
    assert_int_equal(chunk_pool_take(&p, 7, 64u << 20, 4, 0), RC_OK); /* always one */
    assert_int_equal(chunk_pool_take(&p, 7, 1, 4, 1), RC_DEADLINE);
    chunk_pool_give(&p, 7, 64u << 20);
    assert_int_equal(chunk_pool_take(&p, 7, 1, 4, 0), RC_OK);
    chunk_pool_give(&p, 7, 1);
    chunk_pool_give(&p, 2, CHUNK);
    chunk_pool_give(&p, 0, CHUNK);
    chunk_pool_give(&p, 0, CHUNK);
    assert_int_equal(chunk_pool_used(&p), 0);
}

static void shares_are_apart(void **state)
{
    (void)state;
    in_fiber(shares_run, NULL);
}

/* Three nodes, every write goes through all of them, each begins elsewhere: with one pool for all
 * positions the nodes fill up with writes that wait for each other. */
struct cluster {
    struct chunk_pool nodes[3];
    uint32_t done;
    struct fiber_group g;
};
struct wr {
    struct cluster *c;
    uint32_t first;
};

static void write_hop(struct cluster *c, uint32_t node, uint32_t following)
{
    struct chunk_pool *p = &c->nodes[node % 3];

    assert_int_equal(chunk_pool_take(p, following, CHUNK, 1000, 60000), RC_OK);
    fiber_sleep_ms(0); /* the others get their turn while the memory is held */
    if (following > 0) write_hop(c, node + 1, following - 1);
    chunk_pool_give(p, following, CHUNK);
}

static void writer(void *arg)
{
    struct wr *w = arg;

    write_hop(w->c, w->first, 2);
    w->c->done++;
}

static void circle_run(void *arg)
{
    static struct wr writers[90];
    struct cluster *c = arg;

    for (uint32_t i = 0; i < ARRAY_N(writers); i++) {
        writers[i] = (struct wr){c, i};
        assert_int_equal(fiber_group_spawn(&c->g, writer, &writers[i]), RC_OK);
    }
    fiber_group_wait(&c->g);
    assert_int_equal(c->done, ARRAY_N(writers));
}

static void circles_end(void **state)
{
    static struct cluster c;

    (void)state;
    for (int i = 0; i < 3; i++)
        chunk_pool_init(&c.nodes[i], 32u << 20);
    in_fiber(circle_run, &c);
    for (int i = 0; i < 3; i++)
        assert_int_equal(chunk_pool_used(&c.nodes[i]), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(shares_are_apart),
                                       cmocka_unit_test(circles_end)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
