/* tests/unit/storaged/repair/test_reclaim.c - dead space comes back, what lives stays right, on
 * every engine; after a power cut at any request of a reclaim, in all five modes of the memory
 * disk. */
#include "disk_model.h"
#include "common/base/clock.h"
#include "common/base/le.h"
#include "storaged/index/index_priv.h"
#include "storaged/repair/reclaim.h"
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct once {
    struct reclaim *r;
    uint64_t id, n;
    enum rc rc;
    struct err err;
};
static void run_all(void *arg)
{
    struct once *o = arg;

    do {
        o->rc = reclaim_once(o->r, &o->id, &o->err);
        if (o->rc == RC_OK && o->id != 0) o->n++;
    } while (o->rc == RC_OK && o->id != 0);
}
static struct reclaim *new_reclaim(struct model *m, uint32_t dead_percent)
{
    struct reclaim_conf conf = {.store = m->store, .dead_percent = dead_percent, .pause_ms = 10};
    struct reclaim *r = NULL;

    assert_int_equal(reclaim_new(&conf, &r), RC_OK);
    return r;
}
/* Until nothing is worth it. Returns the segments given back. */
static uint64_t reclaim_all(struct model *m, uint32_t dead_percent)
{
    struct once o = {.r = new_reclaim(m, dead_percent)};

    in_fiber(run_all, &o);
    if (o.rc != RC_OK) fail_msg("%s", o.err.msg);
    reclaim_free(o.r);
    return o.n;
}
static uint64_t used(struct model *m)
{
    struct store_status st;

    store_status(m->store, &st);
    return st.log.segment_bytes;
}

static void suite(enum disk_engine engine, struct disk_mem *mem, uint32_t chunks)
{
    struct store_status st;
    struct model m;
    uint64_t before;
    char cmd[160];

    model_init(&m, engine, mem);
    model_open(&m);
    model_fill(&m, 0, chunks, chunks / 3);
    assert_int_equal(reclaim_all(&m, 20), 0); /* nothing is dead */
    for (uint32_t i = 0; i < chunks; i++)
        if (i % 4 != 1) model_drop(&m, i);
    model_trim(&m, m.last - 10);
    before = used(&m);
    store_status(m.store, &st);
    assert_true(reclaim_all(&m, 20) >= 3);
    assert_true(used(&m) < before / 2);
    model_check(&m, false);
    model_close(&m);
    model_open(&m); /* the sums came with the restart */
    model_check(&m, false);
    model_fill(&m, 0, 40, 10); /* dropped ids again: only here, as late writes */
    for (uint32_t i = 0; i < 40; i += 2)
        model_drop(&m, i);
    (void)reclaim_all(&m, 20);
    model_check(&m, false);
    model_close(&m);
    model_open(&m);
    assert_int_equal(reclaim_all(&m, 100), 0); /* whole segments only: all went */
    model_check(&m, false);
    model_close(&m);
    /* an index made again from the log: copies count like any record */
    (void)snprintf(cmd, sizeof(cmd), "rm -r '%s/index'", m.dir);
    assert_int_equal(system(cmd), 0);
    model_open(&m);
    model_check(&m, true);
    model_close(&m);
    model_deinit(&m);
}
static void test_memory(void **state)
{
    struct disk_mem *mem = disk_mem_new(1, 256u << 20);

    (void)state;
    suite(DISK_MEMORY, mem, MODEL_CHUNKS);
    disk_mem_free(mem);
}
static void test_pread(void **state)
{
    (void)state;
    suite(DISK_PREAD, NULL, 80);
}
static void test_uring(void **state)
{
    (void)state;
    suite(DISK_AUTO, NULL, 80);
}

/* The rate is kept: of what is read to find the live records, and again of what is copied. */
static void test_rate(void **state)
{
    struct disk_mem *mem = disk_mem_new(5, 64u << 20);
    struct reclaim_conf conf = {.dead_percent = 1, .bytes_per_s = 4u << 20, .pause_ms = 10};
    struct reclaim_stats st;
    struct once o = {0};
    struct model m;
    uint64_t begun, took;

    (void)state;
    model_init(&m, DISK_MEMORY, mem);
    model_open(&m);
    model_fill(&m, 0, MODEL_CHUNKS, 0);
    for (uint32_t i = 0; i < MODEL_CHUNKS; i++)
        if (i % 3 == 0) model_drop(&m, i);
    conf.store = m.store;
    assert_int_equal(reclaim_new(&conf, &o.r), RC_OK);
    begun = clock_boot_ms();
    in_fiber(run_all, &o);
    assert_int_equal(o.rc, RC_OK);
    reclaim_stats(o.r, &st);
    if (st.copied_bytes < 4 * MODEL_SEGMENT)
        fail_msg("%llu bytes copied", (unsigned long long)st.copied_bytes);
    took = clock_boot_ms() - begun;
    if (took < (st.copied_bytes * 3 / 2 - MODEL_SEGMENT) * 1000 / conf.bytes_per_s)
        fail_msg("%llu bytes copied in %llu ms", (unsigned long long)st.copied_bytes,
                 (unsigned long long)took);
    reclaim_free(o.r);
    model_check(&m, false);
    model_close(&m);
    model_deinit(&m);
    disk_mem_free(mem);
}

/* A disk that is full of dead chunks: new ones are refused, reclaim works in the reserve, and then
 * there is room, without a restart. */
static void test_full(void **state)
{
    struct disk_mem *mem = disk_mem_new(2, 8 * MODEL_SEGMENT);
    uint32_t i = 0;
    struct model m;

    (void)state;
    model_init(&m, DISK_MEMORY, mem);
    model_open(&m);
    for (int round = 0; round < 6; round++) {
        enum rc rc = RC_OK;

        for (i = 0; i < MODEL_CHUNKS && rc == RC_OK; i++)
            rc = model_write(&m, i);
        assert_int_equal(rc, RC_FULL);
        for (uint32_t k = 0; k < MODEL_CHUNKS; k++)
            if (k % 5 != 0 && m.chunk[k]) model_drop(&m, k);   /* the small ones: spread */
        assert_int_equal(model_append(&m, m.last + 1), RC_OK); /* what drops are */
        model_check(&m, false);
        assert_true(reclaim_all(&m, 20) >= 1);
        assert_int_equal(model_write(&m, 1), RC_OK);
        for (uint32_t k = 0; k < MODEL_CHUNKS; k++)
            if (m.chunk[k]) model_drop(&m, k);
        (void)reclaim_all(&m, 20);
    }
    model_check(&m, false);
    model_close(&m);
    model_deinit(&m);
    disk_mem_free(mem);
}

/* A bad live record keeps its segment, is told, and nothing else is lost. */
static uint32_t bad_n;
static void on_bad(void *data, const struct record_header *h, const struct seg_location *loc)
{
    struct model *m = data;
    struct err err;
    struct index_chunk_id id = {h->body, h->index, h->seal_id};

    bad_n++;
    assert_int_equal(h->index, 3);
    m->chunk[3] = false;
    assert_int_equal(index_bad_add(store_index(m->store), &id, loc, 1, 1, &err), RC_OK);
}
static void test_bad(void **state)
{
    struct disk_mem *mem = disk_mem_new(4, 256u << 20);
    struct index_chunk_id id = model_id(3);
    struct index_chunk c;
    struct store_status st;
    struct once o = {0};
    struct model m;
    struct err err;
    char name[32];

    (void)state;
    bad_n = 0;
    model_init(&m, DISK_MEMORY, mem);
    model_open(&m);
    model_fill(&m, 0, MODEL_CHUNKS, 5);
    assert_int_equal(index_chunk_get(store_index(m.store), &id, &c, &err), RC_OK);
    (void)snprintf(name, sizeof(name), "%016llx.seg", (unsigned long long)c.loc.segment_id);
    assert_true(disk_mem_damage(mem, name, c.loc.offset + c.loc.header_bytes + 5, 1));
    for (uint32_t i = 0; i < MODEL_CHUNKS; i++)
        if (i % 20 != 3) model_drop(&m, i);
    {
        struct reclaim_conf conf = {
            .store = m.store, .dead_percent = 20, .pause_ms = 10, .bad = on_bad, .data = &m};

        assert_int_equal(reclaim_new(&conf, &o.r), RC_OK);
    }
    for (int i = 0; i < 3; i++)
        in_fiber(run_all, &o);
    reclaim_free(o.r);
    assert_int_equal(o.rc, RC_OK);
    assert_int_equal(bad_n, 1);
    assert_true(o.n >= 2);
    assert_true(index_space_live(store_index(m.store), c.loc.segment_id) > 0);
    model_check(&m, false);
    assert_int_equal(index_bad_clear(store_index(m.store), &id, &err), RC_OK); /* repaired */
    (void)reclaim_all(&m, 20);
    store_status(m.store, &st);
    assert_int_equal(index_space_live(store_index(m.store), c.loc.segment_id), 0);
    model_check(&m, false);
    model_close(&m);
    model_deinit(&m);
    disk_mem_free(mem);
}

/* The n-th request of the disk fails: nothing is lost, and a later start goes on. */
static void test_io_failures(void **state)
{
    (void)state;
    for (uint64_t n = 1;; n += 13) {
        struct disk_mem *mem = disk_mem_new(n, 256u << 20);
        struct once o = {0};
        struct model m;

        model_init(&m, DISK_MEMORY, mem);
        model_open(&m);
        model_fill(&m, 0, 60, 10);
        for (uint32_t i = 0; i < 60; i++)
            if (i % 4 != 1) model_drop(&m, i);
        o.r = new_reclaim(&m, 20);
        disk_inject(store_disk(m.store), n, /* EIO */ 5);
        in_fiber(run_all, &o);
        reclaim_free(o.r);
        model_close(&m);
        disk_mem_crash(mem, DISK_CRASH_LOST);
        model_open(&m);
        model_check(&m, false);
        (void)reclaim_all(&m, 20);
        model_check(&m, false);
        model_close(&m);
        model_deinit(&m);
        disk_mem_free(mem);
        if (o.rc == RC_OK && o.n > 0 && n > 60) break;
        assert_true(n < 600);
    }
}

/* ---- power cuts ----
 * One run of reclaim, with drops and new records in between. Before each request of the disk the
 * whole state is kept: the disk with what is not synced, and RocksDB's files. Each is then taken
 * through a crash: the disk loses, tears or reorders what was not synced, the WAL ends anywhere
 * behind the last sync. What must be true of every outcome is in check_crashed. */
#define KEPT_MAX 400u
struct kept {
    struct disk_mem *mem;
    char dir[96]; /* holds index/ and disk.id */
    uint64_t wal_floor;
    struct model m;           /* as acknowledged then */
    bool maybe[MODEL_CHUNKS]; /* dropped and not synced: there or not */
};
static struct kept kept[KEPT_MAX];
static uint32_t kept_n, boundary, stride = 7, modes = 5;
static struct model crash_model;
static uint64_t drop_seq[MODEL_CHUNKS]; /* RocksDB's number of the last drop; 0: none in this run */
static uint64_t wal_floor;
static uint8_t mark_seen[2 * 4096];

/* What is in the database up to this number is durable (index_mark.c). */
static uint64_t marked_seq(const uint8_t *mark)
{
    return MAX(le_get64(mark + 24), le_get64(mark + 4096 + 24));
}

static void copy_file(const char *from, const char *to)
{
    static uint8_t buf[1 << 20];
    int a = open(from, O_RDONLY | O_CLOEXEC), b = open(to, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    ssize_t n;

    if (a >= 0 && b >= 0) {
        while ((n = read(a, buf, sizeof(buf))) > 0)
            assert_int_equal(write(b, buf, (size_t)n), n);
    }
    if (a >= 0) (void)close(a); /* gone meanwhile: so it is in the copy */
    if (b >= 0) (void)close(b);
}
static void copy_dir(const char *from, const char *to)
{
    char a[400], b[400];
    struct dirent *e;
    DIR *d = opendir(from);

    assert_non_null(d);
    assert_int_equal(mkdir(to, 0700), 0);
    while ((e = readdir(d)) != NULL) {
        if (e->d_type != DT_REG) continue;
        (void)snprintf(a, sizeof(a), "%s/%s", from, e->d_name);
        (void)snprintf(b, sizeof(b), "%s/%s", to, e->d_name);
        copy_file(a, b);
    }
    (void)closedir(d);
}
static void wal_of(const char *index_dir, char *out, size_t n)
{
    unsigned long newest = 0;
    struct dirent *e;
    DIR *d = opendir(index_dir);

    assert_non_null(d);
    while ((e = readdir(d)) != NULL) {
        char *end;
        unsigned long k = strtoul(e->d_name, &end, 10);

        if (end != e->d_name && strcmp(end, ".log") == 0 && k > newest) newest = k;
    }
    (void)closedir(d);
    (void)snprintf(out, n, "%s/%06lu.log", index_dir, newest);
}
static uint64_t wal_bytes(const char *index_dir)
{
    char path[400];
    struct stat st;

    wal_of(index_dir, path, sizeof(path));
    return stat(path, &st) == 0 ? (uint64_t)st.st_size : 0;
}
static void on_boundary(void *ctx)
{
    struct kept *k = &kept[kept_n];
    char from[160], to[160];
    uint8_t mark[sizeof(mark_seen)] = {0};
    FILE *f;

    (void)ctx;
    /* Read first: threads go on writing the index, and a mark covers less than a WAL copied later.
     * At least what it covers is durable; more is taken. */
    (void)snprintf(from, sizeof(from), "%s/index/mikura.synced", crash_model.dir);
    f = fopen(from, "re");
    assert_true(f != NULL && fread(mark, 1, sizeof(mark), f) > 0 && fclose(f) == 0);
    (void)snprintf(from, sizeof(from), "%s/index", crash_model.dir);
    if (memcmp(mark, mark_seen, sizeof(mark)) != 0) {
        memcpy(mark_seen, mark, sizeof(mark));
        wal_floor = wal_bytes(from);
    }
    if (boundary++ % stride != 0 || kept_n == KEPT_MAX) return;
    k->mem = disk_mem_clone(crash_model.mem, boundary);
    assert_non_null(k->mem);
    k->wal_floor = wal_floor;
    k->m = crash_model;
    for (uint32_t i = 0; i < MODEL_CHUNKS; i++)
        k->maybe[i] = drop_seq[i] > marked_seq(mark);
    (void)snprintf(k->dir, sizeof(k->dir), "%s/at-%u", crash_model.base, boundary);
    assert_int_equal(mkdir(k->dir, 0700), 0);
    (void)snprintf(to, sizeof(to), "%s/index", k->dir);
    copy_dir(from, to);
    (void)snprintf(to, sizeof(to), "%s/index/mikura.synced", k->dir);
    f = fopen(to, "we");
    assert_true(f != NULL && fwrite(mark, sizeof(mark), 1, f) == 1 && fclose(f) == 0);
    (void)snprintf(from, sizeof(from), "%s/disk.id", crash_model.dir);
    (void)snprintf(to, sizeof(to), "%s/disk.id", k->dir);
    copy_file(from, to);
    kept_n++;
}

static void check_crashed(const struct kept *k, uint32_t mode)
{
    char from[200], to[200], wal[400];
    struct model m = k->m;
    uint64_t size;

    (void)snprintf(m.dir, sizeof(m.dir), "%s/crashed", crash_model.base);
    (void)snprintf(to, sizeof(to), "rm -rf %s", m.dir);
    assert_int_equal(system(to), 0);
    assert_int_equal(mkdir(m.dir, 0700), 0);
    (void)snprintf(from, sizeof(from), "%s/index", k->dir);
    (void)snprintf(to, sizeof(to), "%s/index", m.dir);
    copy_dir(from, to);
    (void)snprintf(from, sizeof(from), "%s/disk.id", k->dir);
    (void)snprintf(to, sizeof(to), "%s/disk.id", m.dir);
    copy_file(from, to);
    (void)snprintf(to, sizeof(to), "%s/index", m.dir);
    wal_of(to, wal, sizeof(wal));
    size = wal_bytes(to);
    if (size > k->wal_floor) { /* anywhere: three parts of eight, the floor and all included */
        uint64_t cut = k->wal_floor + (size - k->wal_floor) * (mode * 7 % 9) / 8;

        assert_int_equal(truncate(wal, (off_t)cut), 0);
    }
    m.mem = disk_mem_clone(k->mem, mode + 1);
    assert_non_null(m.mem);
    (void)disk_mem_crash(m.mem, (enum disk_crash)(mode % 5));
    for (uint32_t i = 0; i < MODEL_CHUNKS; i++) {
        if (!k->maybe[i]) continue;
        m.chunk[i] = m.gone[i] = false; /* there and right, or not there */
    }
    model_open(&m);
    model_check(&m, false);
    (void)reclaim_all(&m, 20);
    model_check(&m, false);
    model_close(&m);
    disk_mem_free(m.mem);
}

struct telling {
    struct once *o;
    bool *done;
};
static void run_and_tell(void *arg)
{
    struct telling *t = arg;

    run_all(t->o);
    *t->done = true;
}

static void test_crash(void **state)
{
    struct disk_mem *mem = disk_mem_new(11, 256u << 20);
    struct once o = {0};
    struct err err;
    uint32_t drop = 0, states = 0, turn = 0, next = 60;
    bool done = false;

    (void)state;
    model_init(&crash_model, DISK_MEMORY, mem);
    model_open(&crash_model);
    model_fill(&crash_model, 0, 60, 20);
    for (uint32_t i = 0; i < 60; i++)
        if (i % 3 != 1) model_drop(&crash_model, i);
    model_trim(&crash_model, 8);
    assert_int_equal(index_sync(store_index(crash_model.store), &err), RC_OK);
    kept_n = boundary = 0;
    memset(drop_seq, 0, sizeof(drop_seq));
    memset(mark_seen, 0, sizeof(mark_seen));
    o.r = new_reclaim(&crash_model, 20);
    disk_mem_watch(mem, on_boundary, NULL);
    assert_int_equal(fiber_spawn(fs, run_and_tell, &(struct telling){&o, &done}), RC_OK);
    while (!done) {
        (void)uv_run(&loop, UV_RUN_NOWAIT);
        turn++;
        if (turn % 40 == 0 && drop < 60) { /* one that reclaim may be copying */
            if (crash_model.chunk[drop]) {
                model_drop(&crash_model, drop);
                drop_seq[drop] =
                    rocksdb_get_latest_sequence_number(store_index(crash_model.store)->db);
            }
            drop++;
        }
        if (turn % 400 == 0 && next < 70) { /* new records between its copies */
            assert_int_equal(model_write(&crash_model, next), RC_OK);
            next++;
        }
    }
    disk_mem_watch(mem, NULL, NULL);
    reclaim_free(o.r);
    assert_int_equal(o.rc, RC_OK);
    assert_true(o.n >= 2);
    model_check(&crash_model, false);
    model_close(&crash_model);
    for (uint32_t i = 0; i < kept_n; i++) {
        for (uint32_t mode = 0; mode < modes; mode++, states++)
            check_crashed(&kept[i], mode + i);
        disk_mem_free(kept[i].mem);
    }
    print_message("%u states at %u of %u requests, %llu segments given back\n", states, kept_n,
                  boundary, (unsigned long long)o.n);
    assert_true(states >= 30);
    model_deinit(&crash_model);
    disk_mem_free(mem);
}

/* test_reclaim [STRIDE MODES]: power cuts before every STRIDE-th request, MODES outcomes of each.
 */
int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_memory),      cmocka_unit_test(test_pread),
        cmocka_unit_test(test_uring),       cmocka_unit_test(test_rate),
        cmocka_unit_test(test_full),        cmocka_unit_test(test_bad),
        cmocka_unit_test(test_io_failures), cmocka_unit_test(test_crash)};
    int bad;

    if (argc == 3) {
        stride = (uint32_t)strtoul(argv[1], NULL, 10);
        modes = (uint32_t)strtoul(argv[2], NULL, 10);
    }
    loop_begin();
    bad = cmocka_run_group_tests(tests, NULL, NULL);
    if (bad == 0) loop_end(); /* else something is still open, and would be waited for */
    return bad;
}
