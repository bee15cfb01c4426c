/* tests/sim/sim_disk/sim_disk.c - power cuts of the segment log on the memory disk.
 *
 *   sim_disk [--states N] [--first-seed S]
 *
 * A seed is the life of a log: chunks and log entries in bursts, over segments so small that it
 * rolls all the time, in the disk's random order. Before each request that the disk carries out,
 * and before each blocking write of a recovery, power may fail: there the disk is copied and what
 * was not synced is kept, lost, torn at 512 B or 4 KiB, or whole writes survive in any combination.
 * Each outcome is one state (equal ones of one moment count once) and is recovered and checked:
 *
 *   - every record that was acknowledged is replayed at its place and reads right;
 *   - every other record is whole or not there at all, and what is there is a prefix of what was
 *     appended: no hole (a hole in a group's log would pass for a loss);
 *   - what one recovery did not find never comes back in a later one;
 *   - nothing is taken for damage;
 *   - a replay from the place behind any acknowledged record yields just what follows it.
 *
 * At a random state the life goes on with what that recovery left, LIVES times. */
#include "storaged/segment/seglog.h"
#include <inttypes.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <uv.h>

#define LIVES       3u
#define BURST_MAX   16u
#define RECORDS     (LIVES * BURST_MAX)
#define BYTES_MAX   20000u
#define SEGMENT     SEGLOG_SEGMENT_BYTES_MIN
#define CAPACITY    (64u << 20)
#define DRAWS       2u /* of each of the random outcomes at one boundary */
#define OUTCOMES    (2 + 3 * DRAWS)
#define READS_AHEAD 4u

#define MUST(x, ...)                                                                               \
    do {                                                                                           \
        if (!(x)) fail(#x, __LINE__, __VA_ARGS__);                                                 \
    } while (0)

/* What is known of a record: ABSENT ones never come back, FOUND ones never go. */
enum fate { UNBORN, STARTED, ACKED, FOUND, ABSENT };
struct rec {
    struct seglog_append a;
    struct record_block blocks[BYTES_MAX / RECORD_BLOCK_BYTES + 1];
    uint8_t *payload; /* while the disk has it */
    uint8_t want[BYTES_MAX];
    uint32_t n;
    bool chunk, here; /* here: replayed in the state that is checked */
    enum fate fate;
    struct seg_location loc;
    struct seg_position end;
};
struct log {
    struct disk *disk;
    struct seglog *log;
};

static uv_loop_t life_loop, check_loop; /* checks run within callbacks of the first */
static struct rec recs[RECORDS];
static uint32_t recs_n, told_n;
static struct log life; /* the one that writes */
static struct disk_mem *life_mem, *next_mem;
static uint64_t seed, rng, boundary, next_at;
static uint32_t next_outcome;
static uint64_t states, in_recovery, boundaries, records_n, segments_n, reads_n;
static uint64_t by_mode[DISK_CRASH_REORDERED + 1];
static const char *now_doing = "";

static void fail(const char *what, int line, const char *why)
{
    (void)printf("FAILED: %s (line %d) %s\n  seed %" PRIu64 ", boundary %" PRIu64 ", %s; again: "
                 "sim_disk --states 1 --first-seed %" PRIu64 "\n",
                 what, line, why, seed, boundary, now_doing, seed);
    exit(1);
}

static uint64_t draw(uint64_t below)
{
    uint64_t z = (rng += 0x9e3779b97f4a7c15ull); /* splitmix64 */

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return (z ^ (z >> 31)) % below;
}

/* ---- a log on a memory disk ---- */
static void on_closed(void *data)
{
    *(bool *)data = true;
}

static enum rc log_open(struct log *l, uv_loop_t *loop, struct disk_mem *mem, struct err *err)
{
    struct disk_conf dc = {
        .loop = loop, .engine = DISK_MEMORY, .arena_bytes = 1u << 20, .mem = mem};
    struct seglog_conf lc = {.segment_bytes = SEGMENT, .reserve_bytes = SEGMENT};

    MUST(disk_open(&dc, &l->disk, err) == RC_OK, err->msg);
    lc.disk = l->disk;
    memset(lc.disk_id.b, 7, sizeof(lc.disk_id.b));
    l->log = NULL;
    return seglog_open(&lc, &l->log, err);
}

static void log_close(struct log *l, uv_loop_t *loop)
{
    bool done = l->log == NULL;

    if (l->log != NULL) seglog_close(l->log, on_closed, &done);
    while (!done)
        (void)uv_run(loop, UV_RUN_NOWAIT);
    done = false;
    disk_close(l->disk, on_closed, &done);
    while (!done)
        (void)uv_run(loop, UV_RUN_NOWAIT);
    *l = (struct log){0};
}

/* ---- checks of one recovered state ---- */
struct replaying {
    uint32_t next; /* the record that must come, if any comes */
    bool marks;
};

static enum rc on_record(void *ctx, const struct seg_location *loc, const struct record_header *h,
                         const struct record_block *blocks, const uint8_t *payload,
                         struct err *reterr)
{
    struct replaying *rp = ctx;
    struct rec *r;

    (void)blocks;
    (void)reterr;
    while (rp->next < recs_n && recs[rp->next].fate == ABSENT)
        rp->next++;
    MUST(h->log_index == rp->next && rp->next < recs_n,
         h->log_index < recs_n && recs[h->log_index].fate == ABSENT ? "it came back"
                                                                    : "a hole or a wrong order");
    r = &recs[rp->next++];
    MUST(h->plain_bytes == r->n && (h->type == RECORD_CHUNK) == r->chunk, "another record");
    if (r->fate == ACKED || r->fate == FOUND) {
        MUST(loc->segment_id == r->loc.segment_id && loc->offset == r->loc.offset, "moved");
    }
    if (!r->chunk) MUST(memcmp(payload, r->want, r->n) == 0, "bytes of an entry");
    if (!rp->marks) return RC_OK;
    r->here = true;
    if (r->fate == STARTED) {
        r->loc = *loc;
        r->end = (struct seg_position){loc->segment_id,
                                       loc->offset + record_bytes(loc->header_bytes, r->n)};
    }
    return RC_OK;
}

struct reading {
    struct seglog_read r;
    struct rec *rec;
    void *buf;
    bool busy;
};

static void on_read(struct seglog_read *r, enum rc rc)
{
    struct reading *x = r->data;

    MUST(rc == RC_OK, r->err.msg);
    MUST(r->got_bytes == x->rec->n && memcmp(x->buf, x->rec->want, x->rec->n) == 0, "wrong bytes");
    x->busy = false;
    reads_n++;
}

static void read_all(struct log *l)
{
    struct reading x[READS_AHEAD] = {0};
    uint32_t next = 0, busy = 1;

    while (next < recs_n || busy > 0) {
        busy = 0;
        for (uint32_t k = 0; k < READS_AHEAD; k++) {
            size_t cap;

            if (!x[k].busy && x[k].buf != NULL) {
                disk_buf_free(l->disk, x[k].buf);
                x[k].buf = NULL;
            }
            while (next < recs_n && !recs[next].here)
                next++;
            if (!x[k].busy && next < recs_n) {
                x[k] = (struct reading){.r.data = &x[k], .rec = &recs[next++], .busy = true};
                cap = record_payload_bytes(x[k].rec->n);
                x[k].buf = disk_buf_alloc(l->disk, cap);
                MUST(x[k].buf != NULL, "arena");
                MUST(seglog_read(l->log, &x[k].r, &x[k].rec->loc, 0, 0, x[k].buf, cap, on_read) ==
                         RC_OK,
                     x[k].r.err.msg);
            }
            busy += x[k].busy;
        }
        if (busy > 0) (void)uv_run(&check_loop, UV_RUN_NOWAIT);
    }
}

/* Leaves marked in recs[].here what is there. */
static void check(struct log *l)
{
    struct replaying all = {.marks = true}, part = {0};
    struct seglog_replay rp = {.record = on_record, .ctx = &all};
    struct seg_position from = {0}, durable = seglog_durable(l->log);
    struct seglog_stats st;
    struct err err = {0};
    uint32_t pick = recs_n == 0 ? 0 : (uint32_t)draw(recs_n), first = 0;

    for (uint32_t i = 0; i < recs_n; i++)
        recs[i].here = false;
    MUST(seglog_replay(l->log, (struct seg_position){0, 0}, &rp, &err) == RC_OK, err.msg);
    seglog_stats(l->log, &st);
    MUST(st.damage_n == 0, "a crash was taken for damage");
    for (uint32_t i = 0; i < recs_n; i++) {
        if (recs[i].fate != ACKED && recs[i].fate != FOUND) continue;
        MUST(recs[i].here, recs[i].fate == ACKED ? "acknowledged and lost" : "found once and lost");
        if (i <= pick) {
            from = recs[i].end;
            first = i + 1;
        }
        MUST(durable.segment_id > recs[i].end.segment_id ||
                 (durable.segment_id == recs[i].end.segment_id &&
                  durable.offset >= recs[i].end.offset),
             "the log ends before an acknowledged record");
    }
    read_all(l);
    part.next = first;
    rp.ctx = &part;
    MUST(seglog_replay(l->log, from, &rp, &err) == RC_OK, err.msg);
    MUST(part.next >= all.next || all.next <= first, "a replay from the middle ended early");
}

/* ---- one state: recover it, power failing in the recovery too or not, and check ---- */
static void count_state(void)
{
    states++;
    if (states % 1000000 == 0) {
        (void)printf("%" PRIu64 " states, seed %" PRIu64 "\n", states, seed);
        (void)fflush(stdout);
    }
}

static void recover(struct disk_mem *mem)
{
    struct log l = {0};

    now_doing = "recovery";
    count_state();
    for (uint32_t tries = 0;; tries++) {
        struct err err = {0};
        bool cut = tries < 4 && draw(2) == 0;
        enum rc rc;

        disk_mem_cut_at(mem, cut ? 1 + draw(3) : 0);
        rc = log_open(&l, &check_loop, mem, &err);
        disk_mem_cut_at(mem, 0);
        if (rc == RC_OK) break;
        MUST(cut && rc == RC_IO, err.msg);
        log_close(&l, &check_loop);
        (void)disk_mem_crash(mem, (enum disk_crash)draw(DISK_CRASH_REORDERED + 1));
        now_doing = "recovery after a crash in a recovery";
        count_state();
        in_recovery++;
    }
    check(&l);
    log_close(&l, &check_loop);
    if (draw(8) > 0) return;
    now_doing = "a second start";
    MUST(log_open(&l, &check_loop, mem, &(struct err){0}) == RC_OK, "no second start");
    check(&l);
    log_close(&l, &check_loop);
}

/* Each outcome of a power failure right now. */
static void explore(void)
{
    uint64_t seen[OUTCOMES], digest;
    uint32_t seen_n = 0;

    boundary++;
    boundaries++;
    for (uint32_t k = 0; k < OUTCOMES; k++) {
        enum disk_crash how =
            k < 2 ? (enum disk_crash)k : (enum disk_crash)(DISK_CRASH_TORN512 + (k - 2) / DRAWS);
        struct disk_mem *mem = disk_mem_clone(life_mem, draw(UINT64_MAX));
        bool twice = false;

        MUST(mem != NULL, "out of memory");
        digest = disk_mem_crash(mem, how);
        for (uint32_t i = 0; i < seen_n; i++)
            twice |= seen[i] == digest;
        if (!twice) {
            seen[seen_n++] = digest;
            by_mode[how]++;
            recover(mem);
        }
        if (boundary == next_at && k == next_outcome && !twice) {
            next_mem = mem;
        } else {
            disk_mem_free(mem);
        }
        if (next_mem != NULL) return;
    }
}

static void on_boundary(void *ctx)
{
    (void)ctx;
    if (next_mem != NULL) return;
    explore();
    if (next_mem != NULL) disk_mem_cut(life_mem); /* this life ends here */
}

/* ---- a life ---- */
static void fill(struct rec *r)
{
    for (uint32_t i = 0; i < r->n; i += 8) {
        uint64_t word = draw(UINT64_MAX);

        memcpy(r->want + i, &word, MIN(8u, r->n - i));
    }
}

static void on_append(struct seglog_append *a, enum rc rc)
{
    struct rec *r = a->data;

    told_n++;
    if (rc != RC_OK) {
        MUST(rc == RC_CANCELED && next_mem != NULL, a->err.msg);
        return;
    }
    MUST(r->fate == STARTED, "told twice");
    r->fate = ACKED;
    r->loc = a->loc;
    r->end = a->end;
}

static void start(void)
{
    static const uint32_t most[] = {64, 8192, 8192, BYTES_MAX};
    struct rec *r = &recs[recs_n];
    struct record_header h = {.cipher_suite = 1, .pool = 1, .log_index = recs_n};
    enum rc rc;

    *r = (struct rec){.a.data = r, .chunk = draw(2) == 0};
    r->n = 1 + (uint32_t)draw(most[draw(ARRAY_N(most))]);
    fill(r);
    h.plain_bytes = r->n;
    r->fate = STARTED;
    recs_n++;
    records_n++;
    if (r->chunk) {
        h.type = RECORD_CHUNK;
        r->payload = disk_buf_alloc(life.disk, record_payload_bytes(r->n));
        MUST(r->payload != NULL, "arena");
        memcpy(r->payload, r->want, r->n);
        rc = seglog_append_chunk(life.log, &r->a, &h, r->blocks, false, r->payload, on_append);
    } else {
        h.type = RECORD_LOG_ENTRY;
        h.cipher_suite = 0;
        rc = seglog_append_entry(life.log, &r->a, &h, (struct slice){r->want, r->n}, on_append);
    }
    if (rc != RC_OK) { /* the power failed already */
        MUST(next_mem != NULL, r->a.err.msg);
        r->fate = ABSENT;
        told_n++;
    }
}

static void live(void)
{
    uint32_t from = recs_n, n = 4 + (uint32_t)draw(BURST_MAX - 3), pace = (uint32_t)draw(4);
    struct seglog_stats st;
    struct err err = {0};

    boundary = 0;
    told_n = 0;
    next_mem = NULL;
    next_at = 1 + draw(60);
    next_outcome = (uint32_t)draw(3); /* kept, lost: always there; the third mostly */
    MUST(log_open(&life, &life_loop, life_mem, &err) == RC_OK, err.msg);
    disk_mem_watch(life_mem, on_boundary, NULL);
    while (recs_n < from + n && next_mem == NULL) {
        start();
        for (uint64_t turns = draw(pace + 1); turns > 0; turns--)
            (void)uv_run(&life_loop, UV_RUN_NOWAIT);
    }
    while (told_n < recs_n - from)
        (void)uv_run(&life_loop, UV_RUN_NOWAIT);
    if (next_mem == NULL) { /* it came to its end: all told, perhaps a seal not synced */
        next_at = boundary + 1;
        explore();
        MUST(next_mem != NULL || next_outcome > 0, "an outcome is missing");
    }
    disk_mem_watch(life_mem, NULL, NULL);
    seglog_stats(life.log, &st);
    segments_n += st.segments_n;
    for (uint32_t i = from; i < recs_n; i++) {
        disk_buf_free(life.disk, recs[i].payload);
        recs[i].payload = NULL;
    }
    disk_mem_cut(life_mem);
    log_close(&life, &life_loop);
}

static void run_seed(void)
{
    rng = seed * 0x2545f4914f6cdd1dull;
    recs_n = 0;
    life_mem = disk_mem_new(draw(UINT64_MAX), CAPACITY);
    MUST(life_mem != NULL, "out of memory");
    for (uint32_t k = 0; k < LIVES; k++) {
        live();
        if (next_mem == NULL) break; /* the chosen outcome was equal to another one */
        disk_mem_free(life_mem);
        life_mem = next_mem;
        /* next_mem was recovered and checked last: here says what it holds */
        for (uint32_t i = 0; i < recs_n; i++) {
            if (recs[i].fate == STARTED) recs[i].fate = recs[i].here ? FOUND : ABSENT;
        }
    }
    disk_mem_free(life_mem);
}

int main(int argc, char **argv)
{
    uint64_t first = 1, want = 20000;
    struct timespec from, now;

    for (int i = 1; i + 1 < argc; i += 2) {
        uint64_t v = strtoull(argv[i + 1], NULL, 10);

        if (strcmp(argv[i], "--states") == 0) {
            want = v;
        } else if (strcmp(argv[i], "--first-seed") == 0) {
            first = v;
        } else {
            argc = 0;
        }
    }
    if (argc % 2 == 0 || want == 0) {
        (void)fprintf(stderr, "usage: sim_disk [--states N] [--first-seed S]\n");
        return 2;
    }
    /* windows of 4 MiB come and go with each recovery: keep them */
    (void)mallopt(M_MMAP_THRESHOLD, 32 << 20);
    (void)mallopt(M_TRIM_THRESHOLD, 256 << 20);
    (void)clock_gettime(CLOCK_MONOTONIC, &from);
    CHECK(uv_loop_init(&life_loop) == 0 && uv_loop_init(&check_loop) == 0);
    for (seed = first; states < want; seed++)
        run_seed();
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    (void)printf("%" PRIu64 " crash states, all recovered right: seeds %" PRIu64 "-%" PRIu64
                 ", %" PRIu64 " boundaries; kept %" PRIu64 ", lost %" PRIu64
                 ", torn at 512 B %" PRIu64 ", at 4 KiB %" PRIu64 ", reordered %" PRIu64
                 ", in a recovery %" PRIu64 "; %" PRIu64 " records in %" PRIu64
                 " segments, %" PRIu64 " reads; %.1f s\n",
                 states, first, seed - 1, boundaries, by_mode[DISK_CRASH_KEPT],
                 by_mode[DISK_CRASH_LOST], by_mode[DISK_CRASH_TORN512], by_mode[DISK_CRASH_TORN4K],
                 by_mode[DISK_CRASH_REORDERED], in_recovery, records_n, segments_n, reads_n,
                 (double)(now.tv_sec - from.tv_sec) + (double)(now.tv_nsec - from.tv_nsec) / 1e9);
    CHECK(uv_loop_close(&life_loop) == 0 && uv_loop_close(&check_loop) == 0);
    return 0;
}
