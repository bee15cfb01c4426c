/* tests/unit/storaged/repair/test_scrub.c - what rots is found by a pass, nothing else is called
 * bad, a pass goes on after a restart, late writes of dropped chunks go. */
#include "disk_model.h"
#include "common/base/clock.h"
#include "storaged/repair/pace.h"
#include "storaged/repair/scrub.h"
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct told {
    struct model *m;
    uint32_t chunks_n, entries_n, files_n, strays_n;
    uint32_t chunk[MODEL_CHUNKS];
    uint64_t entry[MODEL_ENTRIES + 1];
};
static void on_chunk(void *data, const struct index_chunk_id *id)
{
    struct told *t = data;

    assert_true(id->index < MODEL_CHUNKS);
    t->chunks_n++;
    t->chunk[id->index]++;
}
static void on_entry(void *data, const struct index_group *g, const struct index_log_row *row)
{
    struct told *t = data;

    assert_memory_equal(&g->prefix, &MODEL_GROUP.prefix, sizeof(g->prefix));
    assert_true(row->index <= MODEL_ENTRIES);
    t->entries_n++;
    t->entry[row->index]++;
}
static void on_file(void *data, const struct err *e)
{
    struct told *t = data;

    (void)e;
    t->files_n++;
}
static void on_stray(void *data, const struct record_header *h, const struct seg_location *loc)
{
    struct told *t = data;

    assert_int_equal(h->type, RECORD_CHUNK);
    assert_int_equal(h->plain_bytes, loc->plain_bytes);
    t->strays_n++;
}
struct pass {
    struct scrub *s;
    uint32_t steps; /* at most; fewer when the pass ends */
    bool ended;
};
static void run_pass(void *arg)
{
    struct pass *p = arg;
    struct err err = {0};

    for (uint32_t i = 0; i < p->steps && !p->ended; i++) {
        struct scrub_stats st;
        bool idle = false;
        enum rc rc = scrub_step(p->s, &idle, &err);

        if (rc != RC_OK) fail_msg("%s", err.msg);
        scrub_stats(p->s, &st);
        p->ended = !st.running;
    }
}
#define SLOW_RATE (1u << 20)
static uint64_t pass_rate = 1u << 30; /* of new ones */

static struct scrub *new_scrub(struct model *m, struct told *t)
{
    struct scrub_conf conf = {.store = m->store,
                              /* always late: as fast as allowed */
                              .period_ms = 1,
                              .bytes_per_s = pass_rate,
                              .pause_ms = 10,
                              .chunk = on_chunk,
                              .entry = on_entry,
                              .index = on_file,
                              .stray = on_stray,
                              .data = t};
    struct scrub *s = NULL;
    struct err err;

    assert_int_equal(scrub_new(&conf, &s, &err), RC_OK);
    return s;
}
/* One whole pass from now. */
static struct scrub_stats pass(struct model *m, struct told *t)
{
    struct pass p = {.s = new_scrub(m, t), .steps = 10000};
    struct scrub_stats st;

    scrub_now(p.s);
    in_fiber(run_pass, &p);
    assert_true(p.ended);
    scrub_stats(p.s, &st);
    assert_false(st.running);
    assert_int_equal(st.done_bytes, st.total_bytes);
    scrub_free(p.s);
    return st;
}

/* ---- faults under everybody's feet ---- */
static void file_of(struct model *m, const struct seg_location *loc, char *name, size_t n)
{
    (void)m;
    (void)snprintf(name, n, "%016llx.seg", (unsigned long long)loc->segment_id);
}
static void put_bytes(struct model *m, const struct seg_location *loc, uint64_t at,
                      const uint8_t *p, size_t n)
{
    char name[32], path[200];
    int fd;

    file_of(m, loc, name, sizeof(name));
    (void)snprintf(path, sizeof(path), "%s/segments/%s", m->dir, name);
    fd = open(path, O_WRONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, p, n, (off_t)at), (ssize_t)n);
    assert_int_equal(fsync(fd), 0);
    (void)close(fd);
}
static void get_bytes(struct model *m, const struct seg_location *loc, uint64_t at, uint8_t *p,
                      size_t n)
{
    char name[32], path[200];
    int fd;

    file_of(m, loc, name, sizeof(name));
    (void)snprintf(path, sizeof(path), "%s/segments/%s", m->dir, name);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(pread(fd, p, n, (off_t)at), (ssize_t)n);
    (void)close(fd);
}
static struct seg_location chunk_at(struct model *m, uint32_t i)
{
    struct index_chunk_id id = model_id(i);
    struct index_chunk c;
    struct err err;

    assert_int_equal(index_chunk_get(store_index(m->store), &id, &c, &err), RC_OK);
    return c.loc;
}
static void flip(struct model *m, const struct seg_location *loc, uint64_t at, uint8_t mask)
{
    uint8_t b;

    get_bytes(m, loc, at, &b, 1);
    b ^= mask;
    put_bytes(m, loc, at, &b, 1);
}

static void test_faults(void **state)
{
    static uint8_t page[4096], zero[4096];
    struct told t = {0};
    struct scrub_stats st;
    struct seg_location a, b;
    struct index_log_row row;
    struct model m;
    struct err err;
    uint32_t n = 0;

    (void)state;
    model_init(&m, DISK_AUTO, NULL);
    model_open(&m);
    model_fill(&m, 0, MODEL_CHUNKS, MODEL_ENTRIES - 2);
    for (uint32_t i = 100; i < 110; i++)
        model_drop(&m, i);
    t.m = &m;
    st = pass(&m, &t);
    assert_int_equal(st.pass, 1);
    assert_true(st.records_n >= MODEL_CHUNKS);
    assert_int_equal(t.chunks_n + t.entries_n + t.files_n, 0);
    assert_int_equal(st.bad_dead_n + st.bad_heads_n + st.orphans_n, 0);

    a = chunk_at(&m, 5); /* a flipped bit of the payload */
    flip(&m, &a, a.offset + a.header_bytes + 700, 0x10);
    a = chunk_at(&m, 6); /* of the header */
    flip(&m, &a, a.offset + 61, 1);
    a = chunk_at(&m, 10); /* a zeroed sector of a payload of many blocks */
    put_bytes(&m, &a, a.offset + a.header_bytes + 65536, zero, 512);
    a = chunk_at(&m, 12); /* a zeroed header */
    put_bytes(&m, &a, a.offset, zero, 4096);
    a = chunk_at(&m, 21); /* another record's header and payload: misdirected */
    b = chunk_at(&m, 22);
    get_bytes(&m, &b, b.offset, page, 4096);
    put_bytes(&m, &a, a.offset, page, 4096);
    a = chunk_at(&m, 41); /* a payload sector of another: misdirected */
    get_bytes(&m, &a, a.offset + a.header_bytes, page, 512);
    b = chunk_at(&m, 42);
    put_bytes(&m, &b, b.offset + b.header_bytes, page, 512);
    a = chunk_at(&m, 45); /* the whole record is as it was before: its write was lost */
    for (uint64_t at = 0; at < record_bytes(a.header_bytes, a.plain_bytes); at += 4096)
        put_bytes(&m, &a, a.offset + at, zero, 4096);
    a = chunk_at(&m, 51); /* padding */
    flip(&m, &a, a.offset + a.header_bytes + record_payload_bytes(a.plain_bytes) - 1, 0x80);
    assert_int_equal(index_log_get(store_index(m.store), &MODEL_GROUP, 7, &row, 1, &n, &err),
                     RC_OK);
    flip(&m, &row.loc, row.loc.offset + row.loc.header_bytes, 2);
    a = chunk_at(&m, 70);
    put_bytes(&m, &a, 4096, page, 512); /* a seal */
    st = pass(&m, &t);
    assert_int_equal(st.pass, 2);
    for (uint32_t i = 0; i < MODEL_CHUNKS; i++) {
        bool bad =
            i == 5 || i == 6 || i == 10 || i == 12 || i == 21 || i == 42 || i == 45 || i == 51;

        if (t.chunk[i] != (bad ? 1u : 0u)) fail_msg("chunk %u: told %u times", i, t.chunk[i]);
        if (bad) assert_int_equal(model_read(&m, i), RC_NOTFOUND); /* never served */
        if (bad) m.chunk[i] = false;
    }
    assert_int_equal(t.chunks_n, 8);
    assert_int_equal(t.entries_n, 1);
    assert_int_equal(t.entry[7], 1);
    assert_int_equal(st.bad_heads_n, 1);
    model_close(&m);
    model_open(&m); /* the notes came with the restart */
    {
        struct store_status ss;

        store_status(m.store, &ss);
        assert_int_equal(ss.index.quarantined_n, 8);
    }
    m.first = 8; /* as its replica trims past it */
    model_trim(&m, 8);
    for (uint32_t i = 0; i < MODEL_CHUNKS; i++) {
        struct index_chunk_id id = model_id(i);

        if (t.chunk[i] == 0) continue;
        assert_int_equal(model_write(&m, i), RC_OK); /* repaired */
        assert_int_equal(index_bad_clear(store_index(m.store), &id, &err), RC_OK);
    }
    model_check(&m, false);
    t = (struct told){.m = &m};
    st = pass(&m, &t); /* the dead ones are counted, nothing is told */
    assert_int_equal(t.chunks_n + t.entries_n, 0);
    assert_true(st.bad_dead_n > 0);
    model_check(&m, false);
    model_close(&m);
    model_deinit(&m);
}

/* A header rots whose good copy is in memory: reads of a part go on and are right, a pass looks at
 * the disk and finds it, and then nobody reads that chunk any more. */
static void test_header_in_memory(void **state)
{
    struct seg_location a;
    struct store_status ss;
    struct told t = {0};
    struct model m;

    (void)state;
    model_init(&m, DISK_AUTO, NULL);
    model_open(&m);
    model_fill(&m, 0, 20, 5);
    a = chunk_at(&m, 10);
    assert_int_equal(model_read_from(&m, 10, 1), RC_OK);
    flip(&m, &a, a.offset + 61, 1);
    assert_int_equal(model_read_from(&m, 10, 1), RC_OK);
    store_status(m.store, &ss);
    assert_int_equal(ss.log.header_hits_n, 1);
    t.m = &m;
    (void)pass(&m, &t);
    assert_int_equal(t.chunks_n, 1);
    assert_int_equal(t.chunk[10], 1);
    assert_int_equal(model_read_from(&m, 10, 1), RC_NOTFOUND);
    store_status(m.store, &ss);
    assert_int_equal(ss.log.header_bytes, 0);
    model_close(&m);
    model_deinit(&m);
}

/* A dead row below all rows: the record is gone from a segment that nobody reads (a stale sector in
 * a header page, seen with the memory disk too) - and a pass that a restart cuts in two. */
static void test_resume(void **state)
{
    struct disk_mem *mem = disk_mem_new(6, 256u << 20);
    struct told t = {0};
    struct pass p = {.steps = 6};
    struct scrub_stats before, after;
    struct seg_location a, b;
    struct model m;
    char name[32];

    (void)state;
    model_init(&m, DISK_MEMORY, mem);
    model_open(&m);
    model_fill(&m, 0, MODEL_CHUNKS, 10);
    t.m = &m;
    p.s = new_scrub(&m, &t);
    in_fiber(run_pass, &p);
    scrub_stats(p.s, &before);
    assert_true(before.running && before.done_bytes > 0 && before.done_bytes < before.total_bytes);
    assert_true(before.end_unix_ms >= before.started_unix_ms);
    scrub_free(p.s);
    model_close(&m);
    model_open(&m);
    a = chunk_at(&m, 0); /* behind the place: the next pass's */
    b = chunk_at(&m, MODEL_CHUNKS - 2);
    file_of(&m, &a, name, sizeof(name));
    assert_true(disk_mem_damage(mem, name, a.offset + a.header_bytes, 1));
    file_of(&m, &b, name, sizeof(name));
    assert_true(disk_mem_damage(mem, name, b.offset + b.header_bytes, 1));
    p = (struct pass){.s = new_scrub(&m, &t), .steps = 10000};
    scrub_stats(p.s, &after);
    assert_true(after.running);
    assert_int_equal(after.done_bytes, before.done_bytes);
    assert_int_equal(after.pass, before.pass);
    in_fiber(run_pass, &p);
    scrub_stats(p.s, &after);
    assert_int_equal(after.pass, 1);
    assert_true(!after.running && after.next_unix_ms > after.started_unix_ms);
    assert_int_equal(t.chunk[0], 0);
    assert_int_equal(t.chunk[MODEL_CHUNKS - 2], 1);
    p.ended = false;
    scrub_now(p.s);
    in_fiber(run_pass, &p);
    assert_int_equal(t.chunk[0], 1);
    scrub_free(p.s);
    model_close(&m);
    model_deinit(&m);
    disk_mem_free(mem);
}

/* Rows of a state: chunk i is there with its sealing, or has a tombstone, or another sealing won.
 */
static void state_put(struct model *m, uint32_t i, uint8_t kind, uint8_t seal_xor)
{
    struct apply_entry e = {.kind = (enum apply_kind)kind};
    struct apply_outcome out;
    struct index_batch *b;
    struct err err;
    uint8_t bytes[256];
    uint32_t n;

    e.chunk.placement_hash = 0xa000000000000000 + i;
    e.chunk.body = model_id(i).body;
    e.chunk.index = i;
    e.chunk.seal_id = model_id(i).seal_id;
    e.chunk.seal_id.b[3] ^= seal_xor;
    e.chunk.plain_bytes = model_bytes(m, i);
    n = apply_entry_bytes(&e, &err);
    assert_true(n > 0 && n <= sizeof(bytes));
    (void)apply_entry_encode(&e, bytes);
    assert_int_equal(index_batch_new(store_index(m->store), &MODEL_GROUP, &b), RC_OK);
    assert_int_equal(apply_step(index_batch_map(b), i + 1, (struct slice){bytes, n}, &out, &err),
                     RC_OK);
    assert_int_equal(out.rc, RC_OK);
    assert_int_equal(index_batch_commit(b, (struct index_applied){1, i + 1}, &err), RC_OK);
    index_batch_free(b);
}
static void test_orphans(void **state)
{
    struct disk_mem *mem = disk_mem_new(8, 256u << 20);
    struct told t = {0};
    struct scrub_stats st;
    struct model m;

    (void)state;
    model_init(&m, DISK_MEMORY, mem);
    model_open(&m);
    model_fill(&m, 0, 30, 3);
    state_put(&m, 3, APPLY_CHUNK_ADD, 0);  /* as it should be */
    state_put(&m, 4, APPLY_CHUNK_DROP, 0); /* its bytes came behind its tombstone */
    state_put(&m, 5, APPLY_CHUNK_ADD, 1);  /* another sealing won */
    st = pass(&m, &t);
    assert_int_equal(st.orphans_n, 2);
    assert_int_equal(t.strays_n, 27); /* no state lists them */
    assert_int_equal(t.chunks_n, 0);
    for (uint32_t i = 0; i < 30; i++)
        assert_int_equal(model_read(&m, i), i == 4 || i == 5 ? RC_NOTFOUND : RC_OK);
    m.chunk[4] = m.chunk[5] = false;
    model_check(&m, false);
    model_close(&m);
    model_deinit(&m);
    disk_mem_free(mem);
}

/* A bad block of a table file of RocksDB. */
static void test_table(void **state)
{
    struct told t = {0};
    struct scrub_stats st;
    struct index_file *f = NULL;
    struct model m;
    struct err err;
    uint32_t n = 0;
    char path[256];
    uint8_t b = 0;
    int fd;

    (void)state;
    model_init(&m, DISK_AUTO, NULL);
    model_open(&m);
    model_fill(&m, 0, 60, 20);
    model_close(&m); /* the WAL's rows go to table files with the next open */
    model_open(&m);
    st = pass(&m, &t);
    assert_int_equal(t.files_n, 0);
    assert_int_equal(index_files(store_index(m.store), &f, &n, &err), RC_OK);
    assert_true(n > 0);
    (void)snprintf(path, sizeof(path), "%s/index/%s", m.dir, f[0].name);
    free(f);
    fd = open(path, O_RDWR | O_CLOEXEC);
    assert_true(fd >= 0 && pread(fd, &b, 1, 40) == 1);
    b ^= 4;
    assert_int_equal(pwrite(fd, &b, 1, 40), 1);
    assert_int_equal(fsync(fd), 0);
    (void)close(fd);
    st = pass(&m, &t);
    assert_int_equal(t.files_n, 1);
    assert_int_equal(st.bad_files_n, 1);
    model_close(&m);
    model_deinit(&m);
}

/* A rate is kept; the foreground goes first, but not for ever. */
struct pacing {
    struct pace p;
    uint64_t bytes, took_ms;
};
static void run_pace(void *arg)
{
    struct pacing *x = arg;
    uint64_t begun = clock_boot_ms();

    pace_take(&x->p, x->bytes);
    pace_take(&x->p, x->bytes);
    pace_take(&x->p, x->bytes);
    x->took_ms = clock_boot_ms() - begun;
}
static void on_slow(struct store_append *a, enum rc rc)
{
    *(enum rc *)a->data = rc;
}
static void test_pace(void **state)
{
    struct disk_mem *mem = disk_mem_new(13, 256u << 20);
    struct store_append *a = calloc(1, sizeof(*a));
    const uint8_t entry[16] = {0};
    enum rc rc = RC_BUSY;
    bool stop = false;
    struct pacing x = {.bytes = 100000};
    struct model m;

    (void)state;
    assert_non_null(a);
    model_init(&m, DISK_MEMORY, mem);
    model_open(&m);
    x.p = (struct pace){.store = m.store, .bytes_per_s = 1000000, .stop = &stop};
    in_fiber(run_pace, &x); /* the first at once, the others 0.1 s each */
    assert_true(x.took_ms >= 195);
    assert_int_equal(x.p.yields_n, 0);
    x.p.bytes_per_s = 0;
    disk_inject_slow(store_disk(m.store), 1200);
    a->data = &rc;
    assert_int_equal(store_log_append(m.store, a, &MODEL_GROUP, 1, 1, 1,
                                      (struct slice){entry, sizeof(entry)}, on_slow),
                     RC_OK);
    in_fiber(run_pace, &x); /* it waits for the append, which does not come, and goes on */
    assert_int_equal(x.p.yields_n, 3 * PACE_YIELDS);
    assert_true(x.took_ms < 1200 && rc == RC_BUSY);
    disk_inject_slow(store_disk(m.store), 0);
    while (rc == RC_BUSY)
        (void)uv_run(&loop, UV_RUN_ONCE);
    assert_int_equal(rc, RC_OK);
    free(a);
    model_close(&m);
    model_deinit(&m);
    disk_mem_free(mem);
}

/* A foreground that always has an append under way. */
struct load {
    struct model *m;
    struct store_append *a;
    bool stop, ended;
};
static void load_next(struct load *l);
static void on_load(struct store_append *a, enum rc rc)
{
    assert_int_equal(rc, RC_OK);
    load_next(a->data);
}
static void load_next(struct load *l)
{
    const uint8_t entry[16] = {0};

    l->ended = l->stop;
    if (l->stop) return;
    l->a->data = l;
    assert_int_equal(store_log_append(l->m->store, l->a, &MODEL_GROUP, 1, 1, ++l->m->last,
                                      (struct slice){entry, sizeof(entry)}, on_load),
                     RC_OK);
}

/* A pass keeps its rate, and waits for the foreground at each of its segments and RocksDB's files.
 */
static void test_pass_pace(void **state)
{
    struct disk_mem *mem = disk_mem_new(17, 256u << 20);
    struct store_append *a = calloc(1, sizeof(*a));
    struct load l;
    struct told t = {0};
    struct scrub_stats st;
    struct index_file *files = NULL;
    uint32_t files_n = 0;
    struct model m;
    struct err err;
    uint64_t begun;

    (void)state;
    assert_non_null(a);
    model_init(&m, DISK_MEMORY, mem);
    model_open(&m);
    model_fill(&m, 0, 60, 10);
    model_close(&m);
    model_open(&m); /* its rows are in tables */
    t.m = &m;
    assert_int_equal(index_files(store_index(m.store), &files, &files_n, &err), RC_OK);
    free(files);
    assert_true(files_n > 0);
    pass_rate = SLOW_RATE;
    begun = clock_boot_ms();
    st = pass(&m, &t);
    pass_rate = 1u << 30;
    assert_true(st.total_bytes > SLOW_RATE / 4); /* what is read first is free: up to 256 KiB */
    assert_true(clock_boot_ms() - begun >= (st.total_bytes - SLOW_RATE / 4) * 1000 / SLOW_RATE);
    assert_int_equal(st.yields_n, 0);

    disk_inject_slow(store_disk(m.store), 20);
    l = (struct load){.m = &m, .a = a};
    load_next(&l);
    st = pass(&m, &t);
    if (st.yields_n < PACE_YIELDS * (files_n + 1))
        fail_msg("%llu yields, %u files", (unsigned long long)st.yields_n, files_n);
    disk_inject_slow(store_disk(m.store), 0);
    l.stop = true;
    while (!l.ended)
        (void)uv_run(&loop, UV_RUN_ONCE);
    free(a);
    model_close(&m);
    model_deinit(&m);
    disk_mem_free(mem);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_faults),
                                       cmocka_unit_test(test_resume),
                                       cmocka_unit_test(test_orphans),
                                       cmocka_unit_test(test_table),
                                       cmocka_unit_test(test_pace),
                                       cmocka_unit_test(test_pass_pace),
                                       cmocka_unit_test(test_header_in_memory)};
    int bad;

    loop_begin();
    bad = cmocka_run_group_tests(tests, NULL, NULL);
    if (bad == 0) loop_end(); /* else something is still open, and would be waited for */
    return bad;
}
