/* tests/unit/storaged/repair/test_alloc.c - the n-th allocation of ours fails, n = 1, 2, 3, ...
 * until none does any more: over the start of a store (with records to replay), a write, a read,
 * and a reclaim. Whatever fails is told; what was acknowledged is there and right, and the next try
 * goes.
 */
#include "alloc_fail.h"
#include "disk_model.h"
#include "storaged/repair/reclaim.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BYTES 70000u

static struct model m;
static uint64_t armed;
static void arm(uint64_t n)
{
    armed = n;
    alloc_fail_at(n);
}
static void told(enum rc rc, const char *what)
{
    if (rc != RC_NOMEM && rc != RC_IO && rc != RC_BUSY)
        fail_msg("%s: %s at allocation %llu", what, rc_name(rc), (unsigned long long)armed);
}
/* A store whose index failed is out: the next start has all. */
static void again(void)
{
    struct store_status st;

    store_status(m.store, &st);
    if (st.rc == RC_OK) return;
    model_close(&m);
    model_open(&m);
}

static void test_start(void **state)
{
    uint64_t n = 1;
    bool more = true;

    (void)state;
    for (; more; n++) {
        struct err err = {0};
        enum rc rc;

        arm(n);
        rc = model_try_open(&m, &err);
        more = alloc_fail_off();
        if (rc != RC_OK) told(rc, "start");
        if (rc == RC_OK) {
            if (n % 8 == 0 || !more) model_check(&m, false);
            model_close(&m);
        }
    }
    print_message("start: %llu places\n", (unsigned long long)n - 2);
    assert_true(n > 10);
}

static bool done;
static enum rc done_rc;
static void on_append(struct store_append *a, enum rc rc)
{
    (void)a;
    done_rc = rc;
    done = true;
}
static void on_read(struct seglog_read *r, enum rc rc)
{
    (void)r;
    done_rc = rc;
    done = true;
}
static void wait_done(enum rc rc)
{
    done_rc = rc;
    while (rc == RC_OK && !done)
        (void)uv_run(&loop, UV_RUN_ONCE);
}
/* The same chunk again and again: the later record's row counts. */
static enum rc write_once(struct store_append *a, struct record_block *blocks, uint8_t *p)
{
    struct store_chunk c = {.pool = 3,
                            .placement_hash = 0xa000000000000000,
                            .id = model_id(MODEL_CHUNKS + 1),
                            .plain_bytes = BYTES,
                            .epoch = 1,
                            .blocks = blocks,
                            .payload = p};

    memset(p, 5, BYTES);
    done = false;
    wait_done(store_chunk_write(m.store, a, &c, on_append));
    return done_rc;
}
static enum rc read_once(struct seglog_read *r, uint8_t *p)
{
    struct index_chunk_id id = model_id(MODEL_CHUNKS + 1);
    struct index_chunk row;
    struct err err;
    enum rc rc = index_chunk_get(store_index(m.store), &id, &row, &err);

    if (rc != RC_OK) return rc;
    memset(p, 0, BYTES);
    done = false;
    wait_done(store_read(m.store, r, &row.loc, 0, 0, p, ROUND_UP(BYTES, 4096u), on_read));
    for (uint32_t i = 0; done_rc == RC_OK && i < BYTES; i++)
        assert_int_equal(p[i], 5);
    return done_rc;
}
static void test_write_read(void **state)
{
    static struct record_block blocks[BYTES / RECORD_BLOCK_BYTES + 1];
    static uint8_t p[ROUND_UP(BYTES, 4096u)] __attribute__((aligned(4096)));
    static struct store_append a;
    static struct seglog_read r;
    uint64_t n[2] = {1, 1};

    (void)state;
    model_open(&m);
    assert_int_equal(write_once(&a, blocks, p), RC_OK);
    for (int reads = 0; reads < 2; reads++) {
        bool more = true;

        for (; more; n[reads]++) {
            enum rc rc;

            arm(n[reads]);
            rc = reads ? read_once(&r, p) : write_once(&a, blocks, p);
            more = alloc_fail_off();
            if (rc != RC_OK) told(rc, reads ? "read" : "write");
            again();
            assert_int_equal(read_once(&r, p), RC_OK);
        }
    }
    print_message("write: %llu places, read: %llu\n", (unsigned long long)n[0] - 2,
                  (unsigned long long)n[1] - 2);
    model_close(&m);
}

struct once {
    struct reclaim *r;
    uint64_t n, id;
    bool more;
    enum rc rc;
    struct err err;
};
static void reclaim_armed(void *arg)
{
    struct once *o = arg;

    arm(o->n);
    o->rc = reclaim_once(o->r, &o->id, &o->err);
    o->more = alloc_fail_off();
}
static void test_reclaim(void **state)
{
    struct once o = {.more = true};
    uint64_t given_back = 0;

    (void)state;
    model_open(&m);
    for (uint32_t i = 0; i < MODEL_CHUNKS; i++)
        if (m.chunk[i] && i % 3 != 1) model_drop(&m, i);
    for (o.n = 1; o.more; o.n++) {
        struct reclaim_conf conf = {.store = m.store, .dead_percent = 20, .pause_ms = 10};

        assert_int_equal(reclaim_new(&conf, &o.r), RC_OK);
        in_fiber(reclaim_armed, &o);
        reclaim_free(o.r);
        if (o.rc != RC_OK) {
            told(o.rc, "reclaim");
        } else if (o.id != 0) {
            given_back++;
        }
        again();
        if (o.n % 8 == 0 || !o.more) model_check(&m, false);
    }
    print_message("reclaim: %llu places, %llu segments given back\n", (unsigned long long)o.n - 2,
                  (unsigned long long)given_back);
    assert_true(given_back > 0);
    model_close(&m);
    model_open(&m);
    model_check(&m, false);
    model_close(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_start),
                                       cmocka_unit_test(test_write_read),
                                       cmocka_unit_test(test_reclaim)};
    struct disk_mem *mem;
    int bad;

    loop_begin();
    mem = disk_mem_new(1, 256u << 20);
    model_init(&m, DISK_MEMORY, mem);
    model_open(&m);
    model_fill(&m, 0, MODEL_CHUNKS, MODEL_ENTRIES);
    model_close(&m);
    bad = cmocka_run_group_tests(tests, NULL, NULL);
    model_deinit(&m);
    disk_mem_free(mem);
    loop_end();
    return bad;
}
