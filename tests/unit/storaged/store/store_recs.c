/* tests/unit/storaged/store/store_recs.c - see store_recs.h. */
#include "store_recs.h"
#include "temp_dir.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

const struct index_group GROUP = {.pool = 3, .bits = 4, .prefix = 0xa000000000000000};
uv_loop_t loop;
struct store *store;
bool closed;

void on_closed(void *data)
{
    (void)data;
    closed = true;
}
/* Record i is a chunk, or for i % 4 == 0 the group's log entry i / 4 + 1. */
bool is_chunk(uint32_t i)
{
    return i % 4 != 0;
}
uint32_t bytes_of(uint32_t i)
{
    return 1 + (i * 40503u) % (is_chunk(i) ? CHUNK_MAX : 9000u);
}
void fill(uint32_t i, uint8_t *p, uint32_t n)
{
    for (uint32_t k = 0; k < n; k++)
        p[k] = (uint8_t)(i * 31 + k * 7 + (k >> 8));
}
struct store_chunk chunk_of(uint32_t i)
{
    struct store_chunk c = {.pool = 3,
                            .placement_hash = 0xa000000000000000 + i,
                            .owner_hash = i * 3ull,
                            .plain_bytes = bytes_of(i),
                            .epoch = 1};

    memset(c.id.body.b, (int)(i >> 8), 16);
    c.id.index = i;
    memset(c.id.seal_id.b, (int)(i & 255), 16);
    memset(c.upload_id.b, 9, 16);
    memset(c.plain_digest, (int)(i % 251), 32);
    return c;
}
enum rc open_store(const char *dir, enum disk_engine engine, struct err *err)
{
    struct store_conf c = {.loop = &loop,
                           .dir = dir,
                           .engine = engine,
                           .segment_bytes = SEGMENT,
                           .arena_bytes = 8u << 20,
                           .cache_bytes = 8u << 20};

    return store_open(&c, &store, err);
}
void must_open(const char *dir, enum disk_engine engine)
{
    struct err err = {0};

    if (open_store(dir, engine, &err) != RC_OK) fail_msg("%s", err.msg);
}
void must_close(void)
{
    closed = false;
    store_close(store, on_closed, NULL);
    while (!closed)
        (void)uv_run(&loop, UV_RUN_ONCE);
    store = NULL;
}
static void on_append(struct store_append *a, enum rc rc)
{
    struct rec *r = a->data;

    CHECK(r->busy && !r->done);
    r->rc = rc;
    r->done = true;
    r->busy = false;
    store_buf_free(store, r->payload);
    r->payload = NULL;
}
enum rc start(struct rec *r, uint32_t i)
{
    static uint8_t entry[9000];
    enum rc rc;

    r->i = i;
    r->a.data = r;
    r->busy = true;
    r->done = false;
    if (is_chunk(i)) {
        struct store_chunk c = chunk_of(i);

        r->payload = store_buf_alloc(store, record_payload_bytes(c.plain_bytes));
        if (r->payload == NULL) return RC_BUSY;
        fill(i, r->payload, c.plain_bytes);
        memset(r->blocks, (int)i, sizeof(r->blocks));
        c.blocks = r->blocks;
        c.payload = r->payload;
        rc = store_chunk_write(store, &r->a, &c, on_append);
    } else {
        uint32_t n = bytes_of(i);

        fill(i, entry, n);
        rc = store_log_append(store, &r->a, &GROUP, 1, 1, i / 4 + 1, (struct slice){entry, n},
                              on_append);
        memset(entry, 0, n); /* it was copied */
    }
    if (rc != RC_OK) {
        r->busy = false;
        store_buf_free(store, r->payload);
        r->payload = NULL;
    }
    return rc;
}
static enum rc read_rc;
static void on_read(struct seglog_read *r, enum rc rc)
{
    read_rc = rc;
    *(bool *)r->data = true;
}
enum rc locate(uint32_t i, struct seg_location *ret)
{
    struct err err;
    enum rc rc;

    if (is_chunk(i)) {
        struct store_chunk c = chunk_of(i);
        struct index_chunk row = {0};

        rc = index_chunk_get(store_index(store), &c.id, &row, &err);
        if (rc != RC_OK) return rc;
        assert_int_equal(row.pool, c.pool);
        assert_int_equal(row.placement_hash, c.placement_hash);
        assert_int_equal(row.owner_hash, c.owner_hash);
        assert_true(id128_eq(&row.upload_id, &c.upload_id));
        assert_memory_equal(row.plain_digest, c.plain_digest, 32);
        *ret = row.loc;
    } else {
        struct index_log_row row;
        uint32_t n = 0;

        rc = index_log_get(store_index(store), &GROUP, i / 4 + 1, &row, 1, &n, &err);
        if (rc != RC_OK) return rc;
        if (n == 0) return RC_NOTFOUND;
        assert_int_equal(row.epoch, 1);
        *ret = row.loc;
    }
    return RC_OK;
}
enum rc read_back(uint32_t i)
{
    bool done = false;
    struct seglog_read rd = {.data = &done};
    struct seg_location loc;
    uint32_t n = bytes_of(i);
    size_t cap = record_payload_bytes(n);
    uint8_t *buf, *want;
    enum rc rc = locate(i, &loc);

    if (rc != RC_OK) return rc;
    buf = store_buf_alloc(store, cap);
    want = malloc(n);
    assert_true(buf != NULL && want != NULL);
    rc = store_read(store, &rd, &loc, 0, 0, buf, cap, on_read);
    if (rc == RC_OK) {
        while (!done)
            (void)uv_run(&loop, UV_RUN_ONCE);
        rc = read_rc;
    }
    if (rc == RC_OK) {
        fill(i, want, n);
        assert_int_equal(rd.got_bytes, n);
        assert_memory_equal(buf, want, n);
        assert_int_equal(rd.header.index, is_chunk(i) ? i : GROUP.bits);
    }
    free(want);
    store_buf_free(store, buf);
    return rc;
}
void write_range(uint32_t from, uint32_t until)
{
    uint32_t n = until - from;
    struct rec *recs = calloc(n, sizeof(*recs));

    assert_non_null(recs);
    for (uint32_t k = 0; k < n; k++) {
        assert_int_equal(start(&recs[k], from + k), RC_OK);
        assert_false(recs[k].done); /* never inside the call */
    }
    for (uint32_t k = 0; k < n; k++) {
        while (!recs[k].done)
            (void)uv_run(&loop, UV_RUN_ONCE);
        assert_int_equal(recs[k].rc, RC_OK);
    }
    free(recs);
}
void temp_dir(char *dir, size_t n)
{
    char base[64];

    temp_dir_make(base, sizeof(base), "store", false);
    (void)snprintf(dir, n, "%s/disk", base);
}
void remove_dir(const char *dir)
{
    char cmd[128];

    (void)snprintf(cmd, sizeof(cmd), "rm -rf '%.*s'", (int)(strlen(dir) - 5), dir);
    assert_int_equal(system(cmd), 0);
}
