/* tests/unit/storaged/segment/test_seglog.c - what was acknowledged is there and right, on every
 * engine, after every kind of crash; what was not is never taken for damage. */
#include "storaged/segment/seglog.h"
#include "temp_dir.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <uv.h>
#include <cmocka.h>

#define RECORDS 24u
#define SEGMENT (256u << 10)
struct rec {
    struct seglog_append a;
    struct record_block blocks[4];
    uint8_t *payload;
    uint32_t n;
    enum rc rc;
    bool started, done, acked, chunk, replayed;
};
static uv_loop_t loop;
static struct disk *disk;
static struct seglog *slog;
static struct rec recs[RECORDS];
static uint32_t done_n;
static bool closed;
static enum rc read_rc;
static struct record_block read_blocks[4];
static uint64_t read_requests; /* of the disk, that the last read took */

static void on_closed(void *data)
{
    (void)data;
    closed = true;
}
static void wait_closed(void)
{
    while (!closed)
        (void)uv_run(&loop, UV_RUN_ONCE);
    closed = false;
}
static uint8_t byte_of(uint32_t i, uint32_t k)
{
    return (uint8_t)(i * 31 + k * 7 + (k >> 8));
}
static void fill(uint32_t i, uint8_t *p, uint32_t n)
{
    for (uint32_t k = 0; k < n; k++)
        p[k] = byte_of(i, k);
}
static void open_all(enum disk_engine engine, const char *dir, struct disk_mem *mem, enum rc want)
{
    struct disk_conf dc = {
        .loop = &loop, .dir = dir, .engine = engine, .arena_bytes = 8u << 20, .mem = mem};
    struct seglog_conf lc = {.segment_bytes = SEGMENT};
    struct err err = {0};

    assert_int_equal(disk_open(&dc, &disk, &err), RC_OK);
    lc.disk = disk;
    memset(lc.disk_id.b, 7, 16);
    assert_int_equal(seglog_open(&lc, &slog, &err), want);
}
static void close_all(void)
{
    seglog_close(slog, on_closed, NULL);
    wait_closed();
    assert_int_equal(disk_buf_used(disk) > (4u << 20), 0);
    disk_close(disk, on_closed, NULL);
    wait_closed();
}
static void on_append(struct seglog_append *a, enum rc rc)
{
    struct rec *r = a->data;

    assert_false(r->done);
    r->done = true;
    r->rc = rc;
    r->acked = rc == RC_OK;
    done_n++;
}
static void start(uint32_t i)
{
    static uint8_t entry[200000];
    struct rec *r = &recs[i];
    struct record_header h = {.type = RECORD_CHUNK, .cipher_suite = 1, .pool = 1, .log_index = i};
    enum rc rc;

    r->chunk = i % 3 != 0;
    r->n = r->chunk ? 1 + i * 6007u : 1 + i * 301u;
    memset(r->blocks, (int)i, sizeof(r->blocks)); /* tags */
    r->a.data = r;
    h.plain_bytes = r->n;
    if (r->chunk) {
        r->payload = disk_buf_alloc(disk, record_payload_bytes(r->n));
        assert_non_null(r->payload);
        fill(i, r->payload, r->n);
        rc = seglog_append_chunk(slog, &r->a, &h, r->blocks, false, r->payload, on_append);
    } else {
        fill(i, entry, r->n);
        h.type = RECORD_LOG_ENTRY;
        h.cipher_suite = 0;
        rc = seglog_append_entry(slog, &r->a, &h, (struct slice){entry, r->n}, on_append);
        memset(entry, 0, r->n); /* it was copied */
    }
    assert_false(r->done); /* never inside the call */
    r->started = rc == RC_OK;
    if (rc != RC_OK) {
        r->rc = rc;
        done_n++;
    }
}
static void reset(void)
{
    memset(recs, 0, sizeof(recs));
    done_n = 0;
}
static void free_payloads(void)
{
    for (uint32_t i = 0; i < RECORDS; i++) {
        disk_buf_free(disk, recs[i].payload);
        recs[i].payload = NULL;
    }
}
static void on_read(struct seglog_read *r, enum rc rc)
{
    read_rc = rc;
    if (rc == RC_OK)
        memcpy(read_blocks, r->blocks,
               MIN(record_blocks(r->header.plain_bytes), ARRAY_N(read_blocks)) *
                   sizeof(*read_blocks));
    *(bool *)r->data = true;
}
/* Blocks first to first + n - 1 of record i; n = 0: to the end. */
static enum rc read_part(uint32_t i, uint32_t first, uint32_t n)
{
    struct rec *r = &recs[i];
    bool done = false;
    struct seglog_read rd = {.data = &done};
    size_t cap = record_payload_bytes(r->n);
    uint8_t *buf = disk_buf_alloc(disk, cap), *want = malloc(r->n);
    uint32_t begin = first * RECORD_BLOCK_BYTES, bytes = r->n - begin;

    if (n > 0) bytes = MIN(bytes, n * RECORD_BLOCK_BYTES);
    assert_true(buf != NULL && want != NULL);
    read_requests = disk_requests(disk);
    read_rc = seglog_read(slog, &rd, &r->a.loc, first, n, buf, cap, on_read);
    if (read_rc == RC_OK) {
        while (!done)
            (void)uv_run(&loop, UV_RUN_ONCE);
    }
    read_requests = disk_requests(disk) - read_requests;
    fill(i, want, r->n);
    if (read_rc == RC_OK) {
        assert_int_equal(rd.got_bytes, bytes);
        assert_memory_equal(buf, want + begin, bytes);
        assert_int_equal(rd.header.log_index, i);
        if (r->chunk)
            assert_memory_equal(read_blocks, r->blocks, record_blocks(r->n) * sizeof(*r->blocks));
    }
    free(want);
    disk_buf_free(disk, buf);
    return read_rc;
}
static enum rc read_back(uint32_t i)
{
    return read_part(i, 0, 0);
}
static enum rc replayed(void *ctx, const struct seg_location *loc, const struct record_header *h,
                        const struct record_block *blocks, const uint8_t *payload,
                        struct err *reterr)
{
    uint64_t *last = ctx;
    struct rec *r = &recs[h->log_index];

    (void)blocks;
    (void)reterr;
    assert_true(h->log_index < RECORDS && r->started && !r->replayed);
    assert_true(*last == UINT64_MAX || h->log_index > *last);
    *last = h->log_index;
    r->replayed = true;
    assert_int_equal(h->plain_bytes, r->n);
    if (r->acked) assert_int_equal(loc->offset, r->a.loc.offset);
    if (!r->chunk) {
        uint8_t want[8192];

        fill((uint32_t)h->log_index, want, r->n);
        assert_memory_equal(payload, want, r->n);
    }
    return RC_OK;
}
static void replay_and_read(uint64_t damage_want)
{
    uint64_t last = UINT64_MAX;
    struct seglog_replay rp = {.record = replayed, .ctx = &last};
    struct seglog_stats st;
    struct err err;

    assert_int_equal(seglog_replay(slog, (struct seg_position){0, 0}, &rp, &err), RC_OK);
    seglog_stats(slog, &st);
    assert_int_equal(st.damage_n, damage_want);
    for (uint32_t i = 0; damage_want == 0 && i < RECORDS; i++) {
        if (!recs[i].acked) continue;
        assert_true(recs[i].replayed);
        assert_int_equal(read_back(i), RC_OK);
    }
}

static void engine_suite(enum disk_engine engine, struct disk_mem *mem)
{
    char dir[64], cmd[128];

    temp_dir_make(dir, sizeof(dir), "seglog", false);
    reset();
    open_all(engine, dir, mem, RC_OK);
    for (uint32_t i = 0; i < RECORDS; i++)
        start(i);
    while (done_n < RECORDS)
        (void)uv_run(&loop, UV_RUN_ONCE);
    for (uint32_t i = 0; i < RECORDS; i++) {
        assert_int_equal(recs[i].rc, RC_OK);
        assert_int_equal(read_back(i), RC_OK);
    }
    free_payloads();
    close_all();
    open_all(engine, dir, mem, RC_OK);
    replay_and_read(0);
    close_all();
    (void)snprintf(cmd, sizeof(cmd), "rm -rf %s", dir);
    assert_int_equal(system(cmd), 0);
}
static void test_uring(void **state)
{
    (void)state;
    engine_suite(DISK_AUTO, NULL);
}
static void test_pread(void **state)
{
    (void)state;
    engine_suite(DISK_PREAD, NULL);
}
static void test_memory(void **state)
{
    struct disk_mem *mem = disk_mem_new(1, 64u << 20);

    (void)state;
    engine_suite(DISK_MEMORY, mem);
    disk_mem_free(mem);
}
static void test_tmpfs_refused(void **state)
{
    struct disk_conf dc = {.loop = &loop, .dir = "/dev/shm", .engine = DISK_AUTO};
    struct err err;

    (void)state;
    assert_int_equal(disk_open(&dc, &disk, &err), RC_PRECOND);
    assert_non_null(strstr(err.msg, "ext4"));
}

/* A creation that writes zeros at leisure ends at once when the file is wanted. */
static void on_created(struct disk_req *req, enum rc rc)
{
    assert_int_equal(rc, RC_OK);
    *(bool *)req->data = true;
}
static void test_create_hurry(void **state)
{
    char dir[64], cmd[128];
    struct disk_conf dc = {.loop = &loop, .dir = dir, .engine = DISK_AUTO, .arena_bytes = 1u << 20};
    struct disk_file *file;
    struct disk_req req = {0};
    struct err err = {0};
    uint8_t *page, *tail;
    bool done = false;

    (void)state;
    temp_dir_make(dir, sizeof(dir), "seglog", false);
    assert_int_equal(disk_open(&dc, &disk, &err), RC_OK);
    page = disk_buf_alloc(disk, DISK_ALIGN_BYTES);
    tail = disk_buf_alloc(disk, DISK_ALIGN_BYTES);
    assert_true(page != NULL && tail != NULL);
    memset(page, 7, DISK_ALIGN_BYTES);
    req.data = &done;
    assert_int_equal(disk_create(disk, &req, "one", 64u << 20, UINT64_MAX, page, &file, on_created),
                     RC_OK);
    for (int i = 0; i < 5; i++)
        (void)uv_run(&loop, UV_RUN_NOWAIT);
    disk_create_hurry(&req);
    while (!done)
        (void)uv_run(&loop, UV_RUN_ONCE);
    assert_int_equal(disk_read_now(file, 0, tail, DISK_ALIGN_BYTES, &err), RC_OK);
    assert_memory_equal(page, tail, DISK_ALIGN_BYTES);
    memset(page, 0, DISK_ALIGN_BYTES);
    for (uint64_t at = DISK_ALIGN_BYTES; at < 64u << 20; at += 12u << 20) {
        assert_int_equal(disk_read_now(file, at, tail, DISK_ALIGN_BYTES, &err), RC_OK);
        assert_memory_equal(page, tail, DISK_ALIGN_BYTES);
    }
    disk_close(disk, on_closed, NULL);
    wait_closed();
    (void)snprintf(cmd, sizeof(cmd), "rm -rf %s", dir);
    assert_int_equal(system(cmd), 0);
}

/* Power cut after a random number of loop turns; then all that was told durable is there. */
static void test_crash(void **state)
{
    uint64_t acked = 0, unacked = 0;

    (void)state;
    for (uint64_t seed = 1; seed <= 400; seed++) {
        struct disk_mem *mem = disk_mem_new(seed, 64u << 20);
        uint64_t turns = seed * 7 % 60;

        reset();
        open_all(DISK_MEMORY, NULL, mem, RC_OK);
        for (uint32_t i = 0; i < RECORDS; i++) {
            start(i);
            for (uint32_t k = 0; k < seed % 4; k++)
                if (turns > 0 && turns-- > 0) (void)uv_run(&loop, UV_RUN_NOWAIT);
        }
        for (; turns > 0; turns--)
            (void)uv_run(&loop, UV_RUN_NOWAIT);
        disk_mem_cut(mem);
        while (done_n < RECORDS)
            (void)uv_run(&loop, UV_RUN_ONCE);
        free_payloads();
        close_all();
        disk_mem_crash(mem, (enum disk_crash)(seed % 5));
        for (uint32_t i = 0; i < RECORDS; i++)
            recs[i].acked ? acked++ : unacked++;
        for (int again = 0; again < 2; again++) { /* recovery can be repeated */
            open_all(DISK_MEMORY, NULL, mem, RC_OK);
            for (uint32_t i = 0; i < RECORDS; i++)
                recs[i].replayed = false;
            replay_and_read(0);
            close_all();
        }
        disk_mem_free(mem);
    }
    assert_true(acked > 400 && unacked > 400); /* both happened, often */
}

/* The n-th request fails: nothing acknowledged is lost, the log never says yes again. */
static void test_io_failures(void **state)
{
    (void)state;
    for (uint64_t n = 1;; n++) {
        struct disk_mem *mem = disk_mem_new(n, 64u << 20);
        uint32_t bad = 0;

        reset();
        open_all(DISK_MEMORY, NULL, mem, RC_OK);
        disk_inject(disk, n, /* EIO */ 5);
        for (uint32_t i = 0; i < RECORDS; i++)
            start(i);
        while (done_n < RECORDS)
            (void)uv_run(&loop, UV_RUN_ONCE);
        for (uint32_t i = 0; i < RECORDS; i++) {
            if (recs[i].rc == RC_OK) continue;
            bad++;
            assert_int_equal(recs[i].rc, RC_IO);
        }
        if (bad > 0) assert_int_equal(disk_state(disk, NULL), RC_IO);
        free_payloads();
        close_all();
        disk_mem_crash(mem, DISK_CRASH_LOST);
        open_all(DISK_MEMORY, NULL, mem, RC_OK);
        replay_and_read(0);
        close_all();
        disk_mem_free(mem);
        if (bad == 0) break;
        assert_true(n < 500);
    }
}

/* A bad header in the middle is damage and the rest is still found; a bad block is not served. */
static void test_damage(void **state)
{
    struct disk_mem *mem = disk_mem_new(3, 64u << 20);
    char name[32];

    (void)state;
    reset();
    open_all(DISK_MEMORY, NULL, mem, RC_OK);
    for (uint32_t i = 0; i < RECORDS; i++) {
        start(i); /* one by one, so that flushed_upto grows */
        while (done_n <= i)
            (void)uv_run(&loop, UV_RUN_ONCE);
    }
    free_payloads();
    (void)snprintf(name, sizeof(name), "%016llx.seg", (unsigned long long)recs[4].a.loc.segment_id);
    assert_true(disk_mem_damage(mem, name, recs[4].a.loc.offset + 300, 1));
    (void)snprintf(name, sizeof(name), "%016llx.seg", (unsigned long long)recs[7].a.loc.segment_id);
    assert_true(disk_mem_damage(mem, name, recs[7].a.loc.offset + 4096 + 11, 0x40));
    assert_int_equal(read_back(4), RC_CORRUPT);
    assert_int_equal(read_back(7), RC_CORRUPT);
    assert_int_equal(read_back(5), RC_OK);
    close_all();
    open_all(DISK_MEMORY, NULL, mem, RC_OK);
    replay_and_read(1);
    for (uint32_t i = 0; i < RECORDS; i++)
        assert_int_equal(recs[i].replayed, i != 4);
    close_all();
    disk_mem_free(mem);
}

static void live(enum disk_engine engine, const char *dir, struct disk_mem *mem)
{
    reset();
    open_all(engine, dir, mem, RC_OK);
    for (uint32_t i = 0; i < RECORDS; i++)
        start(i);
    while (done_n < RECORDS)
        (void)uv_run(&loop, UV_RUN_ONCE);
    free_payloads();
}

static void expect_mended(uint64_t want)
{
    struct seglog_stats st;

    seglog_stats(slog, &st);
    assert_int_equal(st.heads_mended_n, want);
    for (uint32_t i = 0; i < RECORDS; i++)
        recs[i].replayed = false;
    replay_and_read(0);
    close_all();
}

/* The header page of a segment rots, its seal is there or not: all records are, and the page is
 * written again. */
static void test_bad_head(void **state)
{
    (void)state;
    for (uint32_t turn = 0; turn < 4; turn++) {
        struct disk_mem *mem = disk_mem_new(5 + turn, 64u << 20);
        bool crash = turn % 2 == 1, last = turn / 2 == 1;
        char name[32];

        live(DISK_MEMORY, NULL, mem);
        if (crash) disk_mem_cut(mem);
        close_all();
        if (crash) (void)disk_mem_crash(mem, DISK_CRASH_LOST);
        (void)snprintf(name, sizeof(name), "%016llx.seg",
                       (unsigned long long)recs[last ? RECORDS - 1 : 0].a.loc.segment_id);
        assert_true(disk_mem_damage(mem, name, 3, 1));
        open_all(DISK_MEMORY, NULL, mem, RC_OK);
        expect_mended(1);
        open_all(DISK_MEMORY, NULL, mem, RC_OK);
        expect_mended(0);
        disk_mem_free(mem);
    }
}

static void at_segment(const char *cmd, const char *dir, uint64_t id)
{
    char all[256];

    (void)snprintf(all, sizeof(all), "cd %s && s=%016llx.seg && %s", dir, (unsigned long long)id,
                   cmd);
    assert_int_equal(system(all), 0);
}

static void expect_refused(const char *dir, uint8_t id, const char *says)
{
    struct disk_conf dc = {.loop = &loop, .dir = dir, .engine = DISK_PREAD};
    struct seglog_conf lc = {.segment_bytes = SEGMENT};
    struct err err = {0};

    assert_int_equal(disk_open(&dc, &lc.disk, &err), RC_OK);
    memset(lc.disk_id.b, id, 16);
    assert_int_equal(seglog_open(&lc, &slog, &err), RC_PRECOND);
    if (strstr(err.msg, says) == NULL) fail_msg("'%s' says not '%s'", err.msg, says);
    disk_close(lc.disk, on_closed, NULL);
    wait_closed();
}

/* Files that somebody moved are refused and left alone; one that was cut to nothing is as if it
 * were gone: damage, and the rest is there. */
static void test_strange_files(void **state)
{
    char dir[64], cmd[128];
    uint64_t first;

    (void)state;
    temp_dir_make(dir, sizeof(dir), "seglog", false);
    live(DISK_PREAD, dir, NULL);
    close_all();
    first = recs[0].a.loc.segment_id;
    at_segment("cp $s keep && cp $s 00000000000000f0.seg", dir, first);
    expect_refused(dir, 7, "give it its name back");
    at_segment("cmp $s 00000000000000f0.seg && rm 00000000000000f0.seg", dir, first);
    expect_refused(dir, 8, "put the right disk.id back");
    at_segment("printf '\\010' | dd of=$s bs=1 seek=16 conv=notrunc 2>/dev/null", dir, first);
    open_all(DISK_PREAD, dir, NULL, RC_OK); /* a page that fails its CRC is of nobody */
    expect_mended(1);
    at_segment("cmp $s keep && truncate -s 4096 $s", dir, first);
    open_all(DISK_PREAD, dir, NULL, RC_OK);
    for (uint32_t i = 0; i < RECORDS; i++)
        recs[i].replayed = false;
    replay_and_read(2); /* the file, and what the next one knows of it */
    for (uint32_t i = 0; i < RECORDS; i++)
        assert_int_equal(recs[i].replayed, recs[i].a.loc.segment_id != first);
    close_all();
    at_segment("[ ! -e $s ]", dir, first);
    (void)snprintf(cmd, sizeof(cmd), "rm -rf %s", dir);
    assert_int_equal(system(cmd), 0);
}

/* Records at the end of a segment rot, and its seal: what the next segment knows tells that they
 * were durable, so it is damage, not the end. */
static void test_damage_tail(void **state)
{
    struct disk_mem *mem = disk_mem_new(4, 64u << 20);
    char name[32];
    uint32_t i = 0;

    (void)state;
    reset();
    open_all(DISK_MEMORY, NULL, mem, RC_OK);
    for (uint32_t k = 0; k < RECORDS; k++) {
        start(k);
        while (done_n <= k)
            (void)uv_run(&loop, UV_RUN_ONCE);
    }
    free_payloads();
    close_all();
    while (recs[i + 1].a.loc.segment_id == recs[0].a.loc.segment_id)
        i++; /* the last of the first segment */
    (void)snprintf(name, sizeof(name), "%016llx.seg", (unsigned long long)recs[0].a.loc.segment_id);
    assert_true(disk_mem_damage(mem, name, recs[i].a.loc.offset + 300, 1));
    assert_true(disk_mem_damage(mem, name, 4096 + 20, 1));
    open_all(DISK_MEMORY, NULL, mem, RC_OK);
    replay_and_read(1);
    for (uint32_t k = 0; k < RECORDS; k++)
        assert_int_equal(recs[k].replayed, k != i);
    close_all();
    disk_mem_free(mem);
}

static void on_raw(struct seglog_raw *r, enum rc rc)
{
    read_rc = rc;
    *(bool *)r->data = true;
}

/* Where a small record belongs lies a good header of another, of many more blocks: misdirected. */
static void test_other_header(void **state)
{
    static struct record_block blocks[190];
    struct record_header h = {.type = RECORD_CHUNK,
                              .cipher_suite = 1,
                              .pool = 1,
                              .sequence = 1,
                              .plain_bytes = ARRAY_N(blocks) * RECORD_BLOCK_BYTES};
    struct disk_mem *mem = disk_mem_new(10, 64u << 20);
    const struct seg_location *loc = &recs[3].a.loc;
    struct seglog_raw raw = {0};
    uint8_t other[4096], *p;
    bool done = false;
    struct err err;
    char name[32];

    (void)state;
    live(DISK_MEMORY, NULL, mem);
    assert_int_equal(loc->header_bytes, RECORD_SMALL_HEADER_BYTES);
    assert_int_equal(record_header_bytes(h.plain_bytes), sizeof(other));
    assert_int_equal(record_encode(&h, blocks, other, &err), RC_OK);
    p = disk_buf_alloc(disk, sizeof(other));
    assert_non_null(p);
    raw.data = &done;
    assert_int_equal(
        seglog_read_raw(slog, &raw, loc->segment_id, loc->offset, p, sizeof(other), on_raw), RC_OK);
    while (!done)
        (void)uv_run(&loop, UV_RUN_ONCE);
    (void)snprintf(name, sizeof(name), "%016llx.seg", (unsigned long long)loc->segment_id);
    for (uint32_t i = 0; i < sizeof(other); i++)
        assert_true(disk_mem_damage(mem, name, loc->offset + i, p[i] ^ other[i]));
    disk_buf_free(disk, p);
    assert_int_equal(read_back(3), RC_CORRUPT);
    close_all();
    disk_mem_free(mem);
}

/* A full disk refuses chunks first, entries still fit, and nothing is damaged. */
static void test_full(void **state)
{
    struct disk_mem *mem = disk_mem_new(5, 4 * SEGMENT);
    uint32_t full = 0;

    (void)state;
    reset();
    open_all(DISK_MEMORY, NULL, mem, RC_OK);
    for (uint32_t i = 0; i < RECORDS; i++) {
        start(i);
        while (done_n <= i)
            (void)uv_run(&loop, UV_RUN_ONCE);
        if (recs[i].rc == RC_OK) continue;
        assert_int_equal(recs[i].rc, RC_FULL);
        assert_true(recs[i].chunk);
        full++;
    }
    assert_true(full > 0);
    free_payloads();
    close_all();
    open_all(DISK_MEMORY, NULL, mem, RC_OK);
    replay_and_read(0);
    close_all();
    disk_mem_free(mem);
}

struct dropped {
    struct seglog_drop d;
    bool done;
    enum rc rc;
};
static void on_dropped(struct seglog_drop *d, enum rc rc)
{
    struct dropped *x = d->data;

    x->done = true;
    x->rc = rc;
}
static void drop_wait(struct dropped *x)
{
    while (!x->done)
        (void)uv_run(&loop, UV_RUN_ONCE);
    assert_int_equal(x->rc, RC_OK);
}
/* ---- reads of a part: the second asks the disk for its bytes alone ---- */
static void expect_part(uint32_t i, uint32_t first, uint32_t n, enum rc want, uint64_t requests)
{
    enum rc rc = read_part(i, first, n);

    if (rc != want || read_requests != requests)
        fail_msg("record %u, block %u + %u: %s in %llu requests", i, first, n, rc_name(rc),
                 (unsigned long long)read_requests);
}
static uint64_t headers_kept(void)
{
    struct seglog_stats st;

    seglog_stats(slog, &st);
    return st.header_bytes;
}
/* The byte at `at` of record i, which is `is`, rots on the disk. */
static void rot(struct disk_mem *mem, const char *dir, uint32_t i, uint64_t at, uint8_t is)
{
    const struct seg_location *loc = &recs[i].a.loc;
    char cmd[128];

    if (mem != NULL) {
        (void)snprintf(cmd, sizeof(cmd), "%016llx.seg", (unsigned long long)loc->segment_id);
        assert_true(disk_mem_damage(mem, cmd, loc->offset + at, 1));
        return;
    }
    (void)snprintf(cmd, sizeof(cmd),
                   "printf '\\%03o' | dd of=$s bs=1 seek=%llu conv=notrunc,fsync 2>/dev/null",
                   is ^ 1u, (unsigned long long)(loc->offset + at));
    at_segment(cmd, dir, loc->segment_id);
}
/* Nothing else is under way, and the files of all records are open. */
static void calm(enum disk_engine engine, const char *dir, struct disk_mem *mem)
{
    close_all();
    open_all(engine, dir, mem, RC_OK);
    for (uint32_t i = 0; i < RECORDS; i++)
        (void)read_back(i);
}
/* Records 22 and 23 have three blocks, 16 and 20 two. */
static void part_suite(enum disk_engine engine, struct disk_mem *mem)
{
    char dir[] = "/var/tmp/mikura-seglog-XXXXXX", cmd[64];
    struct dropped x = {.d.data = &x};
    struct seglog_read rd = {0};
    struct seglog_stats st;
    const uint32_t at = RECORD_BLOCK_BYTES + 5;
    bool done = false;
    uint64_t kept;
    uint8_t *p;

    assert_non_null(mkdtemp(dir));
    live(engine, dir, mem);
    calm(engine, dir, mem);
    expect_part(22, 0, 0, RC_OK, 2); /* whole: past the kept ones, and none is kept */
    expect_part(22, 1, 1, RC_OK, 2);
    expect_part(22, 2, 1, RC_OK, 1);
    expect_part(22, 0, 2, RC_OK, 1);
    expect_part(22, 0, 3, RC_OK, 2);
    expect_part(1, 0, 1, RC_OK, 2); /* its only block is all of it */
    expect_part(1, 0, 1, RC_OK, 2);
    seglog_stats(slog, &st);
    assert_int_equal(st.header_hits_n, 2);
    assert_int_equal(st.header_misses_n, 1);

    rot(mem, dir, 22, 0, 'M'); /* the header; who knows it reads on, who looks there sees it */
    expect_part(22, 1, 1, RC_OK, 1);
    expect_part(22, 0, 0, RC_CORRUPT, 2);
    expect_part(22, 1, 1, RC_CORRUPT, 2);
    expect_part(22, 1, 1, RC_CORRUPT, 2);

    expect_part(23, 1, 1, RC_OK, 2);
    rot(mem, dir, 23, recs[23].a.loc.header_bytes + at, byte_of(23, at));
    expect_part(23, 0, 1, RC_OK, 1);
    expect_part(23, 1, 1, RC_CORRUPT, 1); /* and what was kept is gone */
    assert_int_equal(headers_kept(), 0);
    expect_part(23, 0, 1, RC_OK, 2);
    expect_part(23, 0, 1, RC_OK, 1);

    expect_part(20, 1, 0, RC_OK, 2);
    recs[20].a.loc.plain_bytes = --recs[20].n; /* the index is wrong */
    expect_part(20, 0, 1, RC_CORRUPT, 2);
    recs[20].a.loc.plain_bytes = ++recs[20].n;
    expect_part(20, 1, 1, RC_OK, 1);
    rot(mem, dir, 20, 61, 0);
    expect_part(20, 1, 1, RC_OK, 1);
    calm(engine, dir, mem); /* nothing is known any more */
    expect_part(20, 1, 1, RC_CORRUPT, 2);

    /* a segment goes, and what is kept of it: also by the reader that it waits for */
    expect_part(16, 1, 1, RC_OK, 2);
    kept = headers_kept();
    assert_true(kept > 0);
    p = disk_buf_alloc(disk, RECORD_BLOCK_BYTES);
    rd.data = &done;
    assert_int_equal(seglog_read(slog, &rd, &recs[23].a.loc, 0, 1, p, RECORD_BLOCK_BYTES, on_read),
                     RC_OK);
    assert_int_equal(seglog_drop(slog, &x.d, recs[23].a.loc.segment_id, on_dropped), RC_OK);
    drop_wait(&x);
    assert_true(done && read_rc == RC_OK);
    expect_part(23, 0, 1, RC_NOTFOUND, 0);
    assert_int_equal(headers_kept(), kept);
    x.done = false;
    assert_int_equal(seglog_drop(slog, &x.d, recs[16].a.loc.segment_id, on_dropped), RC_OK);
    expect_part(16, 1, 1, RC_NOTFOUND, 0);
    drop_wait(&x);
    assert_int_equal(headers_kept(), 0);
    disk_buf_free(disk, p);
    close_all();
    (void)snprintf(cmd, sizeof(cmd), "rm -rf %s", dir);
    assert_int_equal(system(cmd), 0);
}
static void test_part(void **state)
{
    struct disk_mem *mem = disk_mem_new(11, 64u << 20);

    (void)state;
    part_suite(DISK_MEMORY, mem);
    disk_mem_free(mem);
    part_suite(DISK_AUTO, NULL);
    part_suite(DISK_PREAD, NULL);
}

/* ---- many segments: few files open, none opened at a start that knows them, drops ---- */
static void many_suite(enum disk_engine engine, struct disk_mem *mem, uint32_t segments)
{
    char dir[64], cmd[128];
    struct seglog_append *a = calloc(segments, sizeof(*a));
    struct record_block *blocks = calloc(4, sizeof(*blocks));
    struct record_header h = {
        .type = RECORD_CHUNK, .cipher_suite = 1, .pool = 1, .plain_bytes = 200000};
    struct seglog_segment *segs = calloc(segments, sizeof(*segs));
    struct dropped x = {.d.data = &x}, y = {.d.data = &y};
    struct seglog_conf lc = {.segment_bytes = SEGMENT, .known = segs};
    struct disk_conf dc = {
        .loop = &loop, .dir = dir, .engine = engine, .arena_bytes = 8u << 20, .mem = mem};
    struct seglog_read rd = {0};
    struct seglog_raw raw = {0};
    struct seglog_stats st;
    struct err err;
    bool done = false;
    uint64_t requests;
    uint8_t *p;

    temp_dir_make(dir, sizeof(dir), "seglog", false);
    assert_true(a != NULL && blocks != NULL && segs != NULL);
    reset();
    open_all(engine, dir, mem, RC_OK);
    p = disk_buf_alloc(disk, record_payload_bytes(h.plain_bytes));
    for (uint32_t i = 0; i < segments; i++) { /* one a segment */
        struct rec *r = &recs[0];

        *r = (struct rec){.a.data = r};
        a[i].data = r;
        fill(i, p, h.plain_bytes);
        assert_int_equal(seglog_append_chunk(slog, &a[i], &h, blocks, false, p, on_append), RC_OK);
        while (!r->done)
            (void)uv_run(&loop, UV_RUN_ONCE);
        assert_int_equal(r->rc, RC_OK);
    }
    recs[0].n = h.plain_bytes;
    seglog_stats(slog, &st);
    assert_true(st.files_open_n <= SEGLOG_FILES_MAX && st.segments_n >= segments);
    for (uint32_t i = 0; i < segments; i += 3) { /* the first files are closed by now */
        recs[0].a.loc = a[i].loc;
        done = false;
        rd.data = &done;
        assert_int_equal(seglog_read(slog, &rd, &a[i].loc, 0, 0, p,
                                     record_payload_bytes(h.plain_bytes), on_read),
                         RC_OK);
        while (!done)
            (void)uv_run(&loop, UV_RUN_ONCE);
        assert_int_equal(read_rc, RC_OK);
        assert_int_equal(p[1000], byte_of(i, 1000));
    }
    seglog_stats(slog, &st);
    assert_true(st.files_open_n <= SEGLOG_FILES_MAX);
    lc.known_n = seglog_segments(slog, 0, segs, segments);
    assert_true(lc.known_n >= segments - 1);
    assert_int_equal(seglog_drop(slog, &x.d, a[segments - 1].loc.segment_id, on_dropped),
                     RC_PRECOND);
    close_all();

    assert_int_equal(disk_open(&dc, &disk, &err), RC_OK);
    requests = disk_requests(disk);
    lc.disk = disk;
    memset(lc.disk_id.b, 7, 16);
    assert_int_equal(seglog_open(&lc, &slog, &err), RC_OK);
    assert_int_equal(disk_requests(disk), requests);
    seglog_stats(slog, &st);
    assert_int_equal(st.files_open_n, 0);
    assert_int_equal(st.damage_n, 0);
    /* a reader is waited for, and nobody finds the segment any more */
    p = disk_buf_alloc(disk, record_payload_bytes(h.plain_bytes));
    done = false;
    raw.data = &done;
    assert_int_equal(
        seglog_read_raw(slog, &raw, a[5].loc.segment_id, a[5].loc.offset, p, 8192, on_raw), RC_OK);
    assert_int_equal(seglog_drop(slog, &x.d, a[5].loc.segment_id, on_dropped), RC_OK);
    assert_false(x.done);
    assert_int_equal(seglog_drop(slog, &y.d, a[5].loc.segment_id, on_dropped), RC_NOTFOUND);
    assert_int_equal(
        seglog_read(slog, &rd, &a[5].loc, 0, 0, p, record_payload_bytes(h.plain_bytes), on_read),
        RC_NOTFOUND);
    drop_wait(&x);
    assert_true(done && read_rc == RC_OK); /* the reader first */
    assert_int_equal(seglog_drop(slog, &y.d, a[6].loc.segment_id, on_dropped), RC_OK);
    drop_wait(&y);
    assert_int_equal(seglog_segments(slog, a[5].loc.segment_id, segs, 1), 1);
    assert_int_equal(segs[0].id, a[7].loc.segment_id);
    disk_buf_free(disk, p);
    close_all();
    open_all(engine, dir, mem, RC_OK); /* without what was known; the holes are no damage */
    seglog_stats(slog, &st);
    assert_int_equal(st.segments_n, segments - 2);
    assert_int_equal(st.damage_n, 0);
    close_all();
    free(a);
    free(blocks);
    free(segs);
    (void)snprintf(cmd, sizeof(cmd), "rm -rf %s", dir);
    assert_int_equal(system(cmd), 0);
}
static void test_many(void **state)
{
    struct disk_mem *mem = disk_mem_new(9, 256u << 20);

    (void)state;
    many_suite(DISK_MEMORY, mem, SEGLOG_FILES_MAX + 40);
    disk_mem_free(mem);
    many_suite(DISK_AUTO, NULL, 16);
    many_suite(DISK_PREAD, NULL, 16);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_uring),         cmocka_unit_test(test_pread),
        cmocka_unit_test(test_memory),        cmocka_unit_test(test_tmpfs_refused),
        cmocka_unit_test(test_create_hurry),  cmocka_unit_test(test_crash),
        cmocka_unit_test(test_io_failures),   cmocka_unit_test(test_damage),
        cmocka_unit_test(test_damage_tail),   cmocka_unit_test(test_full),
        cmocka_unit_test(test_many),          cmocka_unit_test(test_bad_head),
        cmocka_unit_test(test_strange_files), cmocka_unit_test(test_other_header),
        cmocka_unit_test(test_part)};
    int bad;

    if (uv_loop_init(&loop) != 0) return 1;
    bad = cmocka_run_group_tests(tests, NULL, NULL);
    return uv_loop_close(&loop) != 0 ? 1 : bad;
}
