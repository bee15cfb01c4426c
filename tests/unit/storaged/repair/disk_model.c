/* tests/unit/storaged/repair/disk_model.c - see disk_model.h. */
#include "disk_model.h"
#include "common/base/log.h"
#include "temp_dir.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

uv_loop_t loop;
struct fibers *fs;
const struct index_group MODEL_GROUP = {.pool = 3, .bits = 4, .prefix = 0xa000000000000000};

void loop_begin(void)
{
    log_setup("test", LOG_WARN);
    assert_int_equal(uv_loop_init(&loop), 0);
    assert_int_equal(fibers_open(&loop, &fs), RC_OK);
}

void loop_end(void)
{
    fibers_close(fs);
    (void)uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&loop), 0);
}

struct run {
    void (*fn)(void *arg);
    void *arg;
    bool done;
};
static void run_it(void *arg)
{
    struct run *r = arg;

    r->fn(r->arg);
    r->done = true;
}
void in_fiber(void (*fn)(void *arg), void *arg)
{
    struct run r = {fn, arg, false};

    assert_int_equal(fiber_spawn(fs, run_it, &r), RC_OK);
    while (!r.done)
        (void)uv_run(&loop, UV_RUN_ONCE);
}

/* ---- the folder ---- */
void model_init(struct model *m, enum disk_engine engine, struct disk_mem *mem)
{
    *m = (struct model){.engine = engine, .mem = mem, .first = 1};
    /* with the memory engine only the index is in files: no need of a disk */
    temp_dir_make(m->base, sizeof(m->base), "repair", engine == DISK_MEMORY);
    (void)snprintf(m->dir, sizeof(m->dir), "%s/disk", m->base);
}
void model_deinit(struct model *m)
{
    char cmd[128];

    (void)snprintf(cmd, sizeof(cmd), "rm -rf '%s'", m->base);
    assert_int_equal(system(cmd), 0);
}
enum rc model_try_open(struct model *m, struct err *err)
{
    struct store_conf c = {.loop = &loop,
                           .dir = m->dir,
                           .engine = m->engine,
                           .mem = m->mem,
                           .segment_bytes =
                               m->segment_bytes != 0 ? m->segment_bytes : MODEL_SEGMENT,
                           .limit_bytes = m->limit_bytes,
                           .arena_bytes = 8u << 20,
                           .cache_bytes = m->cache_bytes != 0 ? m->cache_bytes : 8u << 20};

    return store_open(&c, &m->store, err);
}
void model_open(struct model *m)
{
    struct err err = {0};

    if (model_try_open(m, &err) != RC_OK) fail_msg("%s", err.msg);
}
static void on_closed(void *data)
{
    *(bool *)data = true;
}
void model_close(struct model *m)
{
    bool closed = false;

    store_close(m->store, on_closed, &closed);
    while (!closed)
        (void)uv_run(&loop, UV_RUN_ONCE);
    m->store = NULL;
}

/* ---- records ---- */
uint32_t model_bytes(const struct model *m, uint32_t i)
{
    if (m->chunk_bytes != 0) return m->chunk_bytes;
    return 1 + (i * 40503u) % (i % 5 == 0 ? 150000u : 9000u);
}
struct index_chunk_id model_id(uint32_t i)
{
    struct index_chunk_id id = {.index = i};

    memset(id.body.b, (int)(i & 255), 16);
    id.body.b[0] = 7;
    memset(id.seal_id.b, (int)(i * 3 & 255), 16);
    return id;
}
static void fill(uint32_t i, uint8_t *p, uint32_t n)
{
    for (uint32_t k = 0; k < n; k++)
        p[k] = (uint8_t)(i * 31 + k * 7 + (k >> 8));
}
struct wait {
    enum rc rc;
    bool done;
};
static void on_append(struct store_append *a, enum rc rc)
{
    struct wait *w = a->data;

    w->rc = rc;
    w->done = true;
}
static enum rc wait_for(struct wait *w, enum rc rc)
{
    if (rc != RC_OK) return rc;
    while (!w->done)
        (void)uv_run(&loop, UV_RUN_ONCE);
    return w->rc;
}
enum rc model_write(struct model *m, uint32_t i)
{
    struct store_append *a = calloc(1, sizeof(*a));
    struct record_block blocks[MODEL_CHUNK_MAX / RECORD_BLOCK_BYTES + 1];
    struct wait w = {0};
    struct store_chunk c = {.pool = 3,
                            .placement_hash = 0xa000000000000000 + i,
                            .owner_hash = i * 3ull,
                            .id = model_id(i),
                            .plain_bytes = model_bytes(m, i),
                            .epoch = 1,
                            .blocks = blocks};
    enum rc rc;

    assert_non_null(a);
    memset(c.plain_digest, (int)(i % 251), 32);
    memset(blocks, (int)i, sizeof(blocks));
    c.payload = store_buf_alloc(m->store, record_payload_bytes(c.plain_bytes));
    assert_non_null(c.payload);
    fill(i, c.payload, c.plain_bytes);
    a->data = &w;
    rc = wait_for(&w, store_chunk_write(m->store, a, &c, on_append));
    store_buf_free(m->store, c.payload);
    free(a);
    if (rc == RC_OK) {
        m->chunk[i] = true;
        m->gone[i] = false;
    }
    return rc;
}
static uint32_t entry_bytes(uint64_t index)
{
    return 1 + (uint32_t)(index * 977 % 6000);
}
enum rc model_append(struct model *m, uint64_t index)
{
    struct store_append *a = calloc(1, sizeof(*a));
    uint8_t *p = malloc(6000);
    struct wait w = {0};
    enum rc rc;

    assert_true(a != NULL && p != NULL);
    fill((uint32_t)index, p, entry_bytes(index));
    a->data = &w;
    rc = wait_for(&w, store_log_append(m->store, a, &MODEL_GROUP, 1, 1, index,
                                       (struct slice){p, entry_bytes(index)}, on_append));
    free(p);
    free(a);
    if (rc == RC_OK) m->last = index;
    return rc;
}
void model_fill(struct model *m, uint32_t from, uint32_t until, uint32_t entries)
{
    for (uint32_t i = from; i < until; i++) {
        assert_int_equal(model_write(m, i), RC_OK);
        if (entries > 0 && i % ((until - from) / entries + 1) == 0)
            assert_int_equal(model_append(m, m->last + 1), RC_OK);
    }
}
void model_drop(struct model *m, uint32_t i)
{
    struct index_chunk_id id = model_id(i);
    struct index_batch *b;
    struct err err;

    m->chunk[i] = false;
    m->gone[i] = true;
    assert_int_equal(index_batch_new(store_index(m->store), &MODEL_GROUP, &b), RC_OK);
    assert_int_equal(index_batch_chunk_drop(b, &id.body, id.index, NULL, &err), RC_OK);
    assert_int_equal(index_batch_commit(b, (struct index_applied){1, 1}, &err), RC_OK);
    index_batch_free(b);
}
void model_trim(struct model *m, uint64_t first)
{
    struct err err;

    m->first = first;
    assert_int_equal(index_sync(store_index(m->store), &err), RC_OK);
    assert_int_equal(index_log_trim(store_index(m->store), &MODEL_GROUP, first, false, &err),
                     RC_OK);
}

/* ---- reading back ---- */
static void on_read(struct seglog_read *r, enum rc rc)
{
    struct wait *w = r->data;

    w->rc = rc;
    w->done = true;
}
/* Record i of n bytes, from that block on. */
static enum rc read_at(struct model *m, const struct seg_location *loc, uint32_t i, uint32_t n,
                       uint32_t block)
{
    size_t cap = record_payload_bytes(n);
    struct wait w = {0};
    struct seglog_read rd = {.data = &w};
    uint8_t *p = aligned_alloc(4096, cap), *want = malloc(n);
    uint32_t begin = block * RECORD_BLOCK_BYTES;
    enum rc rc;

    assert_true(p != NULL && want != NULL);
    assert_int_equal(loc->plain_bytes, n);
    rc = wait_for(&w, store_read(m->store, &rd, loc, block, 0, p, cap, on_read));
    fill(i, want, n);
    if (rc == RC_OK) assert_int_equal(rd.got_bytes, n - begin);
    if (rc == RC_OK) assert_memory_equal(p, want + begin, n - begin);
    free(p);
    free(want);
    return rc;
}
enum rc model_read(struct model *m, uint32_t i)
{
    return model_read_from(m, i, 0);
}
enum rc model_read_from(struct model *m, uint32_t i, uint32_t block)
{
    struct index_chunk_id id = model_id(i);
    struct index_chunk c;
    struct err err;
    enum rc rc = index_chunk_get(store_index(m->store), &id, &c, &err);

    if (rc != RC_OK) return rc;
    assert_int_equal(c.owner_hash, i * 3ull);
    return read_at(m, &c.loc, i, model_bytes(m, i), block);
}
enum rc model_read_entry(struct model *m, uint64_t index)
{
    struct index_log_row row;
    uint32_t n = 0;
    struct err err;
    enum rc rc = index_log_get(store_index(m->store), &MODEL_GROUP, index, &row, 1, &n, &err);

    if (rc != RC_OK) return rc;
    if (n == 0) return RC_NOTFOUND;
    return read_at(m, &row.loc, (uint32_t)index, entry_bytes(index), 0);
}

static enum rc sum_ref(void *ctx, const struct index_ref *ref)
{
    uint64_t *sum = ctx;

    assert_true(ref->loc.segment_id < 4096);
    sum[ref->loc.segment_id] += record_bytes(ref->loc.header_bytes, ref->loc.plain_bytes);
    return RC_OK;
}
void model_check(struct model *m, bool rebuilt)
{
    static uint64_t sum[4096];
    struct store_status st;
    struct err err;

    store_status(m->store, &st);
    assert_int_equal(st.damaged, rebuilt);
    assert_int_equal(st.log.damage_n, 0);
    for (uint32_t i = 0; i < MODEL_CHUNKS; i++) {
        enum rc rc = model_read(m, i);

        if (m->chunk[i] && rc != RC_OK) fail_msg("chunk %u: %s", i, rc_name(rc));
        if (m->gone[i] && !rebuilt && rc != RC_NOTFOUND) fail_msg("chunk %u is back", i);
        assert_true(rc == RC_OK || rc == RC_NOTFOUND); /* never a row without its bytes */
    }
    for (uint64_t i = m->first; i <= m->last; i++)
        assert_int_equal(model_read_entry(m, i), RC_OK);
    for (uint64_t i = 1; i < m->first && !rebuilt; i++)
        assert_int_equal(model_read_entry(m, i), RC_NOTFOUND);
    memset(sum, 0, sizeof(sum));
    assert_int_equal(index_refs(store_index(m->store), sum_ref, sum, &err), RC_OK);
    for (uint32_t i = 0; i < 4096; i++)
        assert_int_equal(index_space_live(store_index(m->store), i), sum[i]);
}
