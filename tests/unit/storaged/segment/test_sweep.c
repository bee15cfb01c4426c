/* tests/unit/storaged/segment/test_sweep.c - the n-th allocation, or the n-th request or blocking
 * call of the disk, fails: n = 1, 2, 3, ... until all passes. Over the start, appends, reads, a
 * segment's drop, the recovery after a crash and replay. Whatever fails is told; nothing that was
 * acknowledged is lost, nothing is taken for damage, and the next start without a failure has all.
 */
#include "alloc_fail.h"
#include "storaged/segment/seglog.h"
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>
#include <cmocka.h>

#define RECORDS 14u
#define SEGMENT (2 * SEGLOG_SEGMENT_BYTES_MIN)
#define BYTES   9000u
#define LONG    4u /* this one has two blocks, and is read in parts too */
#define LONG_N  70000u

/* ---- a log ---- */
struct rec {
    struct seglog_append a;
    struct record_block blocks[LONG_N / RECORD_BLOCK_BYTES + 1];
    uint8_t *payload;
    uint32_t n;
    bool acked, started, done, seen, dropped;
};
static uv_loop_t loop;
static struct disk *disk;
static struct seglog *slog;
static struct rec recs[RECORDS];
static bool closed;
static uint64_t io_at; /* the disk's call that fails; 0: none */
static uint8_t want[LONG_N];

static void fill(uint32_t i, uint8_t *p, uint32_t n)
{
    for (uint32_t k = 0; k < n; k++)
        p[k] = (uint8_t)(i * 31 + k * 7 + (k >> 8));
}
static void on_closed(void *data)
{
    (void)data;
    closed = true;
}
static void wait_closed(void)
{
    while (!closed)
        (void)uv_run(&loop, UV_RUN_NOWAIT);
    closed = false;
}
/* False: told so, and nothing stays open. */
static bool open_all(struct disk_mem *mem)
{
    struct disk_conf dc = {
        .loop = &loop, .engine = DISK_MEMORY, .arena_bytes = 1u << 20, .mem = mem};
    struct seglog_conf lc = {.segment_bytes = SEGMENT, .reserve_bytes = SEGMENT};
    struct err err = {0};
    enum rc rc = disk_open(&dc, &disk, &err);

    if (rc != RC_OK) {
        assert_int_equal(rc, RC_NOMEM);
        return false;
    }
    disk_inject(disk, io_at, EIO);
    lc.disk = disk;
    memset(lc.disk_id.b, 7, 16);
    rc = seglog_open(&lc, &slog, &err);
    if (rc == RC_OK) return true;
    assert_true(rc == RC_NOMEM || rc == RC_IO);
    assert_int_equal(disk_buf_used(disk), 0);
    disk_close(disk, on_closed, NULL);
    wait_closed();
    return false;
}
static void close_all(void)
{
    for (uint32_t i = 0; i < RECORDS; i++) {
        disk_buf_free(disk, recs[i].payload);
        recs[i].payload = NULL;
    }
    seglog_close(slog, on_closed, NULL);
    wait_closed();
    assert_int_equal(disk_buf_used(disk), 0);
    disk_close(disk, on_closed, NULL);
    wait_closed();
}
static void on_append(struct seglog_append *a, enum rc rc)
{
    struct rec *r = a->data;

    assert_false(r->done);
    assert_true(rc == RC_OK || rc == RC_NOMEM || rc == RC_IO);
    r->done = true;
    r->acked = rc == RC_OK;
}
static void append(uint32_t i)
{
    struct rec *r = &recs[i];
    struct record_header h = {.type = RECORD_CHUNK, .cipher_suite = 1, .pool = 1, .log_index = i};
    enum rc rc;

    r->a.data = r;
    r->n = h.plain_bytes = i == LONG ? LONG_N : 1 + i * 2003u % BYTES;
    if (i % 2 == 0) {
        r->payload = disk_buf_alloc(disk, record_payload_bytes(r->n));
        assert_non_null(r->payload);
        fill(i, r->payload, r->n);
        rc = seglog_append_chunk(slog, &r->a, &h, r->blocks, false, r->payload, on_append);
    } else {
        fill(i, want, r->n);
        h.type = RECORD_LOG_ENTRY;
        h.cipher_suite = 0;
        rc = seglog_append_entry(slog, &r->a, &h, (struct slice){want, r->n}, on_append);
    }
    assert_true(rc == RC_OK || rc == RC_NOMEM || rc == RC_IO);
    r->started = rc == RC_OK;
    while (r->started && !r->done)
        (void)uv_run(&loop, UV_RUN_NOWAIT);
}
static enum rc read_rc;
static void on_read(struct seglog_read *r, enum rc rc)
{
    read_rc = rc;
    *(bool *)r->data = true;
}
static bool on_dropped_done;
static void on_dropped(struct seglog_drop *f, enum rc rc)
{
    (void)f;
    read_rc = rc;
    on_dropped_done = true;
}
/* From block `first` to the end. */
static enum rc read_back(uint32_t i, uint32_t first)
{
    struct rec *r = &recs[i];
    bool done = false;
    struct seglog_read rd = {.data = &done};
    size_t cap = record_payload_bytes(r->n);
    uint8_t *buf = disk_buf_alloc(disk, cap);
    uint32_t begin = first * RECORD_BLOCK_BYTES;

    assert_non_null(buf);
    read_rc = seglog_read(slog, &rd, &r->a.loc, first, 0, buf, cap, on_read);
    if (read_rc == RC_OK) {
        while (!done)
            (void)uv_run(&loop, UV_RUN_NOWAIT);
    }
    if (read_rc == RC_OK) {
        fill(i, want, r->n);
        assert_int_equal(rd.got_bytes, r->n - begin);
        assert_memory_equal(buf, want + begin, r->n - begin);
    }
    disk_buf_free(disk, buf);
    return read_rc;
}
static enum rc on_record(void *ctx, const struct seg_location *loc, const struct record_header *h,
                         const struct record_block *blocks, const uint8_t *payload,
                         struct err *reterr)
{
    (void)ctx;
    (void)loc;
    (void)blocks;
    (void)payload;
    (void)reterr;
    assert_true(h->log_index < RECORDS && recs[h->log_index].started);
    recs[h->log_index].seen = true;
    return RC_OK;
}
static void read_all(bool sure)
{
    for (uint32_t i = 0; i < RECORDS; i++) {
        enum rc rc;

        if (!recs[i].acked || recs[i].dropped) continue;
        /* whole; of the long one then a part twice: it reads the header, and it knows it */
        for (uint32_t k = 0; k < (i == LONG ? 3 : 1); k++) {
            rc = read_back(i, k > 0 ? 1 : 0);
            assert_true(rc == RC_OK || (!sure && (rc == RC_NOMEM || rc == RC_IO)));
        }
    }
}
/* Right after a start: all is replayed, and reads right. */
static void replay_and_read(bool sure)
{
    struct seglog_replay rp = {.record = on_record};
    struct err err = {0};
    struct seglog_stats st;
    enum rc rc;

    for (uint32_t i = 0; i < RECORDS; i++)
        recs[i].seen = false;
    rc = seglog_replay(slog, (struct seg_position){0, 0}, &rp, &err);
    assert_true(rc == RC_OK || (!sure && (rc == RC_NOMEM || rc == RC_IO)));
    seglog_stats(slog, &st);
    assert_int_equal(st.damage_n, 0);
    for (uint32_t i = 0; rc == RC_OK && i < RECORDS; i++)
        assert_true(!recs[i].acked || recs[i].dropped || recs[i].seen);
    read_all(sure);
}

/* The first segment is given back, as reclaim does with a dead one. */
static void drop_first(void)
{
    struct seglog_segment seg;
    struct seglog_drop f = {0};

    if (!recs[0].acked || seglog_segments(slog, 0, &seg, 1) != 1) return;
    on_dropped_done = false;
    read_rc = seglog_drop(slog, &f, seg.id, on_dropped);
    if (read_rc != RC_OK) return;
    for (uint32_t i = 0; i < RECORDS; i++) /* gone, or not: the disk failed */
        recs[i].dropped = recs[i].dropped || (recs[i].acked && recs[i].a.loc.segment_id == seg.id);
    while (!on_dropped_done)
        (void)uv_run(&loop, UV_RUN_NOWAIT);
    assert_true(read_rc == RC_OK || read_rc == RC_IO || read_rc == RC_NOMEM);
}

static void arm(uint64_t n, bool io)
{
    io_at = io ? n : 0;
    if (!io) alloc_fail_at(n);
}
/* Did it fail? While the log is open. */
static bool hit(bool io)
{
    bool alloc = alloc_fail_off();

    return io ? disk_inject_left(disk) == 0 : alloc;
}
/* After a power cut, a start without failures has it all. */
static void verify(struct disk_mem *mem)
{
    (void)alloc_fail_off();
    io_at = 0;
    (void)disk_mem_crash(mem, DISK_CRASH_LOST);
    assert_true(open_all(mem));
    replay_and_read(true);
    close_all();
    disk_mem_free(mem);
}

/* One life with a failure at n. False: n is beyond the last. */
static bool sweep_life(uint64_t n, bool io)
{
    struct disk_mem *mem = disk_mem_new(n, 16u << 20);
    bool more = true;

    assert_non_null(mem);
    memset(recs, 0, sizeof(recs));
    arm(n, io);
    if (open_all(mem)) {
        for (uint32_t i = 0; i < RECORDS; i++)
            append(i);
        read_all(false);
        drop_first();
        more = hit(io);
        close_all();
    }
    verify(mem);
    return more;
}

/* The start after a crash meets a failure at n. */
static bool sweep_recovery(const struct disk_mem *crashed, uint64_t n, bool io)
{
    struct disk_mem *mem = disk_mem_clone(crashed, n);
    bool more = true;

    assert_non_null(mem);
    arm(n, io);
    if (open_all(mem)) {
        replay_and_read(false);
        more = hit(io);
        close_all();
    }
    verify(mem);
    return more;
}

static void test_life(void **state)
{
    (void)state;
    for (int io = 0; io < 2; io++) {
        uint64_t n = 1;

        while (sweep_life(n, io == 1))
            n++;
        print_message("%s: %llu places\n", io == 1 ? "requests" : "allocations",
                      (unsigned long long)n - 1);
        assert_true(n > 40 && n < 2000);
    }
}

static void test_recovery(void **state)
{
    struct disk_mem *mem = disk_mem_new(1, 16u << 20);

    (void)state;
    memset(recs, 0, sizeof(recs));
    assert_true(open_all(mem));
    for (uint32_t i = 0; i < RECORDS; i++)
        append(i);
    close_all();
    (void)disk_mem_crash(mem, DISK_CRASH_TORN512);
    for (int io = 0; io < 2; io++) {
        uint64_t n = 1;

        while (sweep_recovery(mem, n, io == 1))
            n++;
        print_message("%s: %llu places\n", io == 1 ? "requests" : "allocations",
                      (unsigned long long)n - 1);
        assert_true(n > 20 && n < 2000);
    }
    disk_mem_free(mem);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_life),
                                       cmocka_unit_test(test_recovery)};
    int bad;

    if (uv_loop_init(&loop) != 0) return 1;
    bad = cmocka_run_group_tests(tests, NULL, NULL);
    return uv_loop_close(&loop) != 0 ? 1 : bad;
}
