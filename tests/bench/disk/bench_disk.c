/* tests/bench/disk/bench_disk.c - one row of the disk's benchmark: chunks written to a store, or
 * read from it, as storaged/service does it (index rows and look-ups included).
 *
 *   bench_disk write DIR BYTES COUNT DEPTH [ENGINE]   chunks 0..COUNT-1 of a new store in DIR
 *   bench_disk read DIR BYTES COUNT DEPTH [ENGINE]    each of them, whole, in order
 *   bench_disk random DIR BYTES COUNT DEPTH [ENGINE]  8 * COUNT reads of 512 KiB of random ones
 *   bench_disk grow DIR BYTES COUNT DEPTH [ENGINE [HAVE]]  to COUNT by powers of ten: memory a
 *                                                     chunk, time to open, get latencies at each;
 *                                                     DIR has HAVE of them from an earlier run
 *                                                     (all: they are measured only)
 *
 * DEPTH requests are under way. Prints a JSON object a row: rates, CPU seconds (user + system, all
 * threads, the kernel's io workers too) per 10^9 bytes, flushes. ENGINE: io_uring or pread. */
#include "common/base/clock.h"
#include "common/base/strutil.h"
#include "storaged/store/store.h"
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <uv.h>

#define DEPTH_MAX    1000u
#define RANDOM_BYTES (512u << 10)
#define RANDOM_READS 8u    /* for each chunk */
#define GETS         2000u /* at each step of `grow` */

struct slot {
    struct store_append a;
    struct seglog_read r;
    struct index_chunk row;
    struct record_block *blocks;
    uint8_t *buf;  /* of writes: all of the slot's */
    uint8_t *into; /* of a read: taken for it alone, as storaged/service/chunk_read does */
    uv_work_t work;
    uint64_t i, began_us;
    enum rc rc;
};
static struct {
    const char *op, *dir;
    uint32_t bytes, depth;
    uint64_t count, next, done, until, have;
    enum disk_engine engine;
    uv_loop_t loop;
    struct store *store;
    struct slot *slots;
    uint64_t *took_us; /* of reads; NULL: not wanted */
    uint64_t rng;
} b;

static void die(const char *what, const struct err *e)
{
    (void)fprintf(stderr, "bench_disk: %s: %s\n", what, e->msg);
    exit(1);
}

static uint64_t draw(uint64_t below)
{
    uint64_t z = (b.rng += 0x9e3779b97f4a7c15ull); /* splitmix64 */

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return (z ^ (z >> 31)) % below;
}

static struct index_chunk_id id_of(uint64_t i)
{
    struct index_chunk_id id = {.index = 0};
    uint64_t h = i * 0x9e3779b97f4a7c15ull; /* bodies are random: keys arrive in no order */

    h = (h ^ (h >> 30)) * 0xbf58476d1ce4e5b9ull;
    memcpy(id.body.b, &h, 8);
    memcpy(id.body.b + 8, &i, 8);
    memcpy(id.seal_id.b, &i, 8);
    return id;
}

static double cpu_s(void)
{
    struct rusage u;

    (void)getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
           (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

static double rss_mb(void)
{
    char line[256];
    uint64_t kb = 0;
    FILE *f = fopen("/proc/self/status", "r");

    while (f != NULL && fgets(line, sizeof(line), f) != NULL)
        (void)sscanf(line, "VmRSS: %" SCNu64, &kb);
    if (f != NULL) (void)fclose(f);
    return (double)kb / 1024;
}

/* ---- writes ---- */
static void write_next(struct slot *s);

static void on_written(struct store_append *a, enum rc rc)
{
    if (rc != RC_OK) die("write", &a->err);
    b.done++;
    write_next(a->data);
}

static void write_next(struct slot *s)
{
    struct store_chunk c = {.pool = 1,
                            .id = id_of(b.next),
                            .placement_hash = b.next,
                            .owner_hash = b.next,
                            .plain_bytes = b.bytes,
                            .epoch = 1,
                            .blocks = s->blocks,
                            .payload = s->buf};

    if (b.next >= b.until) return;
    b.next++;
    memcpy(s->buf, &c.id.body, 16); /* no two alike */
    if (store_chunk_write(b.store, &s->a, &c, on_written) != RC_OK) die("write", &s->a.err);
}

/* ---- reads: a look-up, on a worker if it has to read the disk (as disk_look), then the bytes ----
 */
static void read_next(struct slot *s);

static bool is_random(void)
{
    return strcmp(b.op, "random") == 0 && b.bytes > RANDOM_BYTES;
}

static uint32_t request_bytes(void)
{
    return is_random() ? RANDOM_BYTES : record_payload_bytes(b.bytes);
}

static void on_read(struct seglog_read *r, enum rc rc)
{
    struct slot *s = r->data;

    if (rc != RC_OK) die("read", &r->err);
    if (memcmp(r->header.body.b, s->row.id.body.b, 16) != 0) die("read: another chunk", &r->err);
    if (b.took_us != NULL) b.took_us[b.done] = clock_boot_us() - s->began_us;
    store_buf_free(b.store, s->into);
    b.done++;
    read_next(s);
}

static void look(uv_work_t *w)
{
    struct slot *s = w->data;
    struct index_chunk_id id = id_of(s->i);

    s->rc = index_chunk_get(store_index(b.store), &id, &s->row, &s->a.err);
}

static void bytes_read(struct slot *s)
{
    uint32_t n = 0, first = 0, range = RANDOM_BYTES / RECORD_BLOCK_BYTES;

    if (s->rc != RC_OK) die("look-up", &s->a.err);
    if (is_random()) {
        n = range;
        first = (uint32_t)draw(b.bytes / RANDOM_BYTES) * range;
    }
    s->into = store_buf_alloc(b.store, request_bytes());
    CHECK(s->into != NULL);
    if (store_read(b.store, &s->r, &s->row.loc, first, n, s->into, request_bytes(), on_read) !=
        RC_OK)
        die("read", &s->r.err);
}

static void looked(uv_work_t *w, int status)
{
    (void)status;
    bytes_read(w->data);
}

static void read_next(struct slot *s)
{
    struct index_chunk_id id;

    if (b.next >= b.until) return;
    s->i = strcmp(b.op, "read") == 0 ? b.next : draw(b.count);
    b.next++;
    s->began_us = clock_boot_us();
    id = id_of(s->i);
    s->rc = index_chunk_get(index_cached(store_index(b.store)), &id, &s->row, &s->a.err);
    if (s->rc != RC_BUSY) {
        bytes_read(s);
        return;
    }
    s->work.data = s;
    CHECK(uv_queue_work(&b.loop, &s->work, look, looked) == 0);
}

/* ---- a store, and requests until all are done ---- */
static void store_up(void)
{
    size_t arena = (size_t)b.depth * (request_bytes() + 3u * RECORD_HEADER_BYTES_MAX);
    struct store_conf conf = {.loop = &b.loop,
                              .dir = b.dir,
                              .engine = b.engine,
                              .arena_bytes = MAX(arena + (4u << 20), (size_t)64 << 20)};
    struct err e = {0};

    if (store_open(&conf, &b.store, &e) != RC_OK) die(b.dir, &e);
    for (uint32_t k = 0; k < b.depth; k++) {
        struct slot *s = &b.slots[k];

        s->a.data = s->r.data = s;
        if (strcmp(b.op, "read") == 0 || strcmp(b.op, "random") == 0) continue;
        s->buf = store_buf_alloc(b.store, record_payload_bytes(b.bytes));
        CHECK(s->buf != NULL);
        for (uint32_t i = 0; i + 8 <= b.bytes; i += 8) {
            uint64_t v = draw(UINT64_MAX);

            memcpy(s->buf + i, &v, 8);
        }
    }
}

static void on_closed(void *data)
{
    *(bool *)data = true;
}

static void store_down(void)
{
    bool closed = false;

    for (uint32_t k = 0; k < b.depth; k++)
        store_buf_free(b.store, b.slots[k].buf);
    store_close(b.store, on_closed, &closed);
    while (!closed)
        (void)uv_run(&b.loop, UV_RUN_ONCE);
}

static void run(void (*next)(struct slot *s), uint64_t from, uint64_t until)
{
    b.next = b.done = from;
    b.until = until;
    for (uint32_t k = 0; k < b.depth; k++)
        next(&b.slots[k]);
    while (b.done < b.until)
        (void)uv_run(&b.loop, UV_RUN_ONCE);
}

static void row_run(void)
{
    bool random = strcmp(b.op, "random") == 0;
    uint64_t n = random ? RANDOM_READS * b.count : b.count, from_us;
    double bytes = (double)n * (random ? MIN(b.bytes, RANDOM_BYTES) : b.bytes);
    double cpu, seconds;
    struct store_status st;

    store_up();
    cpu = cpu_s();
    from_us = clock_boot_us();
    run(strcmp(b.op, "write") == 0 ? write_next : read_next, 0, n);
    seconds = (double)(clock_boot_us() - from_us) / 1e6;
    cpu = cpu_s() - cpu;
    store_status(b.store, &st);
    (void)printf("{\"op\":\"%s\",\"bytes\":%u,\"n\":%" PRIu64 ",\"depth\":%u,\"engine\":\"%s\","
                 "\"mb_s\":%.1f,\"ops_s\":%.1f,\"cpu_s_per_gb\":%.3f,\"flushes\":%" PRIu64 "}\n",
                 b.op, b.bytes, n, b.depth, st.engine, bytes / 1e6 / seconds, (double)n / seconds,
                 cpu / (bytes / 1e9), st.log.flushes_n);
    store_down();
}

/* ---- grow ---- */
static int by_value(const void *x, const void *y)
{
    uint64_t p = *(const uint64_t *)x, q = *(const uint64_t *)y;

    return (p > q) - (p < q);
}

static void gets(uint64_t have, double write_s, double open_s, double empty_mb)
{
    uint32_t depth = b.depth;

    b.count = have;
    b.depth = 1; /* one at a time: a latency, no queue */
    run(read_next, 0, GETS);
    b.depth = depth;
    qsort(b.took_us, GETS, sizeof(*b.took_us), by_value);
    (void)printf("{\"op\":\"grow\",\"bytes\":%u,\"chunks\":%" PRIu64 ",\"writes_s\":%.0f,"
                 "\"open_ms\":%.1f,\"get_p50_us\":%" PRIu64 ",\"get_p99_us\":%" PRIu64
                 ",\"rss_mb\":%.1f,\"memory_bytes_per_chunk\":%.1f}\n",
                 b.bytes, have, write_s, open_s * 1e3, b.took_us[GETS / 2],
                 b.took_us[GETS * 99 / 100], rss_mb(),
                 (rss_mb() - empty_mb) * 1048576 / (double)have);
    (void)fflush(stdout);
}

static void grow(void)
{
    uint64_t most = b.count, have = b.have;
    double empty_mb;

    b.took_us = calloc(GETS, sizeof(*b.took_us));
    CHECK(b.took_us != NULL);
    store_up();
    empty_mb = rss_mb();
    for (uint64_t step = 10000; have < most; step *= 10) {
        uint64_t from_us = clock_boot_us(), to = MIN(step, most);
        double write_s, open_s;

        if (to <= have) continue;
        run(write_next, have, to);
        write_s = (double)(to - have) / ((double)(clock_boot_us() - from_us) / 1e6);
        have = to;
        store_down();
        from_us = clock_boot_us();
        store_up();
        open_s = (double)(clock_boot_us() - from_us) / 1e6;
        gets(have, write_s, open_s, empty_mb);
    }
    if (b.have == most) gets(have, /* write_s= */ 0, /* open_s= */ 0, empty_mb);
    store_down();
}

int main(int argc, char **argv)
{
    uint64_t bytes = 0, depth = 0;
    const char *engine = argc > 6 ? argv[6] : "io_uring";

    (void)setenv("UV_THREADPOOL_SIZE", "8", /* overwrite= */ 0); /* as storaged */
    b.rng = 1;
    if (argc < 6 || argc > 8 || (argc == 8 && !str_to_u64(argv[7], UINT64_C(1) << 40, &b.have)) ||
        !str_to_u64(argv[3], 64u << 20, &bytes) ||
        !str_to_u64(argv[4], UINT64_C(1) << 40, &b.count) ||
        !str_to_u64(argv[5], DEPTH_MAX, &depth) || bytes == 0 || b.count == 0 || depth == 0) {
        (void)fprintf(stderr, "usage: bench_disk write|read|random|grow DIR BYTES COUNT DEPTH "
                              "[io_uring|pread [HAVE]]\n");
        return 2;
    }
    b.op = argv[1];
    b.dir = argv[2];
    b.bytes = (uint32_t)bytes;
    b.depth = (uint32_t)depth;
    b.engine = strcmp(engine, "pread") == 0 ? DISK_PREAD : DISK_URING;
    b.slots = calloc(b.depth, sizeof(*b.slots));
    CHECK(b.slots != NULL && uv_loop_init(&b.loop) == 0);
    for (uint32_t k = 0; k < b.depth; k++) {
        b.slots[k].blocks = calloc(record_blocks(b.bytes), sizeof(struct record_block));
        CHECK(b.slots[k].blocks != NULL);
    }
    if (strcmp(b.op, "grow") == 0) {
        grow();
    } else {
        row_run();
    }
    CHECK(uv_loop_close(&b.loop) == 0);
    return 0;
}
