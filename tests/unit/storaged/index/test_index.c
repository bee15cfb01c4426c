/* tests/unit/storaged/index/test_index.c - rows, batches over the database against a plain model,
 * protocol state; neighbours of a group are never touched. */
#include "common/base/buf.h"
#include "storaged/index/index.h"
#include "temp_dir.h"
#include <dirent.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#define KEYS 48u
static char base[64], dir[96];
static struct index *ix;
static struct err err;
/* the three differ in one part each from the first */
static const struct index_group G = {.pool = 2, .bits = 4, .prefix = 0x5000000000000000};
static const struct index_group NEAR[] = {{.pool = 2, .bits = 5, .prefix = 0x5000000000000000},
                                          {.pool = 2, .bits = 4, .prefix = 0x4000000000000000},
                                          {.pool = 2, .bits = 4, .prefix = 0x6000000000000000},
                                          {.pool = 1, .bits = 4, .prefix = 0x5000000000000000},
                                          {.pool = 3, .bits = 4, .prefix = 0x5000000000000000}};
#define NEAR_N (sizeof(NEAR) / sizeof(NEAR[0]))

static void open_index(void)
{
    struct index_conf c = {.dir = dir, .cache_bytes = 4u << 20};

    if (index_open(&c, &ix, &err) != RC_OK) fail_msg("%s", err.msg);
}
static int setup(void **state)
{
    (void)state;
    temp_dir_make(base, sizeof(base), "index", false);
    (void)snprintf(dir, sizeof(dir), "%s/index", base);
    open_index();
    return 0;
}
static int teardown(void **state)
{
    char cmd[128];

    (void)state;
    index_close(ix);
    (void)snprintf(cmd, sizeof(cmd), "rm -rf '%s'", base);
    return system(cmd);
}
static void reopen(void)
{
    index_close(ix);
    open_index();
}
static struct seg_location loc_of(uint64_t i)
{
    return (struct seg_location){i + 1, i + 2, i * 4096, 4096, (uint32_t)i + 3};
}
static struct index_chunk chunk_of(uint8_t body, uint32_t index, uint8_t seal)
{
    struct index_chunk c = {.loc = loc_of(seal), .pool = 2, .placement_hash = 77, .owner_hash = 5};

    memset(c.id.body.b, body, 16);
    memset(c.id.seal_id.b, seal, 16);
    memset(c.upload_id.b, 4, 16);
    memset(c.plain_digest, seal, 32);
    c.id.index = index;
    return c;
}
static void commit(struct index_rows *r, uint64_t segment, uint64_t offset)
{
    assert_int_equal(index_rows_commit(r, (struct seg_position){segment, offset}, &err), RC_OK);
}

static void test_chunks(void **state)
{
    struct index_chunk all[] = {chunk_of(1, 7, 9),  chunk_of(1, 7, 200), chunk_of(1, 7, 30),
                                chunk_of(1, 8, 1),  chunk_of(1, 6, 1),   chunk_of(2, 7, 1),
                                chunk_of(1, 263, 1)};
    struct index_chunk got[4], moved = chunk_of(1, 7, 30);
    struct index_rows *r;
    struct seg_position at;
    uint32_t n = 0;

    (void)state;
    assert_int_equal(index_replay_from(ix, &at, &err), RC_OK);
    assert_true(at.segment_id == 0 && at.offset == 0);
    assert_int_equal(index_rows_new(ix, &r), RC_OK);
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
        assert_int_equal(index_rows_chunk(r, &all[i], NULL, &err), RC_OK);
    assert_int_equal(index_chunk_get(ix, &all[0].id, &got[0], &err), RC_NOTFOUND); /* not yet */
    commit(r, 3, 8192);
    assert_int_equal(index_rows_new(ix, &r), RC_OK);
    assert_int_equal(index_rows_chunk(r, &moved, NULL, &err), RC_OK);
    index_rows_free(r); /* thrown away */
    reopen();
    assert_int_equal(index_replay_from(ix, &at, &err), RC_OK);
    assert_true(at.segment_id == 3 && at.offset == 8192);
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        memset(&got[0], 0, sizeof(got[0]));
        assert_int_equal(index_chunk_get(ix, &all[i].id, &got[0], &err), RC_OK);
        assert_memory_equal(&got[0], &all[i], sizeof(got[0]));
    }
    assert_int_equal(index_chunk_find(ix, &all[0].id.body, 7, got, 4, &n, &err), RC_OK);
    assert_int_equal(n, 3);
    assert_int_equal(got[0].id.seal_id.b[0], 9);
    assert_int_equal(got[1].id.seal_id.b[0], 30);
    assert_int_equal(got[2].id.seal_id.b[0], 200);
    assert_int_equal(got[2].loc.segment_id, 201);
    assert_int_equal(index_chunk_find(ix, &all[0].id.body, 7, got, 2, &n, &err), RC_OK);
    assert_int_equal(n, 2);
    assert_int_equal(index_chunk_find(ix, &all[0].id.body, 9, got, 2, &n, &err), RC_OK);
    assert_int_equal(n, 0);
    assert_int_equal(index_chunk_drop(ix, &all[0].id, NULL, &err), RC_OK);
    assert_int_equal(index_chunk_drop(ix, &all[0].id, NULL, &err), RC_OK); /* absent */
    assert_int_equal(index_chunk_get(ix, &all[0].id, got, &err), RC_NOTFOUND);
    assert_int_equal(index_chunk_get(ix, &all[1].id, got, &err), RC_OK);
    moved.loc.segment_id = 99; /* the later row counts */
    assert_int_equal(index_rows_new(ix, &r), RC_OK);
    assert_int_equal(index_rows_chunk(r, &moved, NULL, &err), RC_OK);
    commit(r, 4, 8192);
    assert_int_equal(index_chunk_get(ix, &moved.id, got, &err), RC_OK);
    assert_int_equal(got[0].loc.segment_id, 99);
}

/* The sums against what all rows say, before and after a reopen. */
static enum rc sum_ref(void *ctx, const struct index_ref *ref)
{
    uint64_t *sum = ctx;

    if (ref->loc.segment_id < 512)
        sum[ref->loc.segment_id] += record_bytes(ref->loc.header_bytes, ref->loc.plain_bytes);
    return RC_OK;
}
static void expect_sums(void)
{
    for (int again = 0; again < 2; again++) {
        static uint64_t want[512];

        memset(want, 0, sizeof(want));
        assert_int_equal(index_refs(ix, sum_ref, want, &err), RC_OK);
        for (uint32_t i = 0; i < 512; i++)
            assert_int_equal(index_space_live(ix, i), want[i]);
        reopen();
    }
}
static void batch_drop(const struct id128 *body, uint32_t index, const struct id128 *keep)
{
    struct index_batch *b;

    assert_int_equal(index_batch_new(ix, &G, &b), RC_OK);
    assert_int_equal(index_batch_chunk_drop(b, body, index, keep, &err), RC_OK);
    assert_int_equal(index_batch_chunk_drop(b, body, index, keep, &err), RC_OK); /* none is left */
    assert_int_equal(index_batch_commit(b, (struct index_applied){1, 1}, &err), RC_OK);
    assert_int_equal(index_batch_chunk_drop(b, body, 77, NULL, &err), RC_OK);
    index_batch_free(b); /* gives the lock back */
}
static void test_space(void **state)
{
    struct index_chunk all[40], got;
    struct seg_location old;
    struct record_source from;
    struct index_bad bad[4] = {0};
    struct index_rows *r;
    struct index_stats st;
    uint32_t n = 0;

    (void)state;
    assert_int_equal(index_rows_new(ix, &r), RC_OK);
    for (uint32_t i = 0; i < 40; i++) { /* 5 bodies of 8 sealings */
        all[i] = chunk_of((uint8_t)(50 + i / 8), 7, (uint8_t)(100 + i));
        assert_int_equal(index_rows_chunk(r, &all[i], NULL, &err), RC_OK);
        assert_int_equal(index_rows_chunk(r, &all[i], NULL, &err), RC_OK); /* the same again */
    }
    index_rows_segment(r, &(struct seglog_segment){101, 1, 65536, 40960});
    commit(r, 300, 8192);
    expect_sums();
    old = all[0].loc;
    from = (struct record_source){old.segment_id, old.generation, old.offset};
    all[0].loc.segment_id = 310; /* a copy, its source and then another as source */
    for (int i = 0; i < 2; i++) {
        assert_int_equal(index_rows_new(ix, &r), RC_OK);
        assert_int_equal(index_rows_chunk(r, &all[0], &from, &err), RC_OK);
        commit(r, 310, 8192);
        assert_int_equal(index_chunk_get(ix, &all[0].id, &got, &err), RC_OK);
        assert_int_equal(got.loc.segment_id, 310);
        expect_sums();
        all[0].loc.segment_id = 311;
    }
    batch_drop(&all[8].id.body, 7, &all[9].id.seal_id);
    assert_int_equal(index_chunk_get(ix, &all[8].id, &got, &err), RC_NOTFOUND);
    assert_int_equal(index_chunk_get(ix, &all[9].id, &got, &err), RC_OK);
    batch_drop(&all[16].id.body, 7, NULL);
    for (uint32_t i = 16; i < 24; i++)
        assert_int_equal(index_chunk_get(ix, &all[i].id, &got, &err), RC_NOTFOUND);
    assert_int_equal(index_chunk_get(ix, &all[24].id, &got, &err), RC_OK);
    expect_sums();
    assert_int_equal(index_chunk_drop(ix, &all[24].id, &old, &err), RC_OK); /* it lies elsewhere */
    assert_int_equal(index_chunk_get(ix, &all[24].id, &got, &err), RC_OK);
    /* quarantined: no row, its bytes stay live until it is cleared */
    assert_int_equal(index_bad_add(ix, &all[24].id, &old, 3, 5, &err), RC_NOTFOUND);
    assert_int_equal(index_bad_add(ix, &all[24].id, &all[24].loc, 3, 5, &err), RC_OK);
    assert_int_equal(index_bad_add(ix, &all[25].id, &all[25].loc, 4, 6, &err), RC_OK);
    assert_int_equal(index_chunk_get(ix, &all[24].id, &got, &err), RC_NOTFOUND);
    expect_sums();
    index_stats(ix, &st);
    assert_int_equal(st.quarantined_n, 2);
    assert_int_equal(index_bad_list(ix, NULL, bad, 4, &n, &err), RC_OK);
    assert_int_equal(n, 2);
    assert_int_equal(bad[0].reason, 3);
    assert_memory_equal(&bad[0].chunk, &all[24], sizeof(all[24]));
    assert_int_equal(index_bad_list(ix, &all[24].id, bad, 4, &n, &err), RC_OK);
    assert_int_equal(n, 1);
    assert_int_equal(bad[0].found_unix_ms, 6);
    assert_int_equal(index_space_live(ix, all[24].loc.segment_id), 8192);
    assert_int_equal(index_bad_clear(ix, &all[24].id, &err), RC_OK);
    assert_int_equal(index_space_live(ix, all[24].loc.segment_id), 0);
    batch_drop(&all[25].id.body, 7, NULL); /* and a note goes with its chunk */
    index_stats(ix, &st);
    assert_int_equal(st.quarantined_n, 0);
    expect_sums();
    assert_int_equal(index_space_forget(ix, 101, &err), RC_OK);
    assert_int_equal(index_space_live(ix, 101), 0);
}

static void add_log(const struct index_group *g, uint64_t epoch, uint64_t from, uint64_t until)
{
    struct index_rows *r;

    assert_int_equal(index_rows_new(ix, &r), RC_OK);
    for (uint64_t i = from; i < until; i++) {
        struct index_log_row row = {.epoch = epoch, .index = i, .loc = loc_of(i + epoch * 1000)};

        assert_int_equal(index_rows_log(r, g, &row, NULL, &err), RC_OK);
    }
    commit(r, 1, 4096 * until);
}
static void expect_bounds(const struct index_group *g, uint64_t first, uint64_t last)
{
    uint64_t a = 0, b = 0;

    assert_int_equal(index_log_bounds(ix, g, &a, &b, &err), RC_OK);
    assert_int_equal(a, first);
    assert_int_equal(b, last);
}
static void test_log(void **state)
{
    struct index_log_row got[40];
    struct index_rows *r;
    uint64_t a, b;
    uint32_t n = 0;

    (void)state;
    assert_int_equal(index_log_bounds(ix, &G, &a, &b, &err), RC_NOTFOUND);
    for (size_t i = 0; i < NEAR_N; i++)
        add_log(&NEAR[i], 1, 1, 400);
    assert_int_equal(index_log_bounds(ix, &G, &a, &b, &err), RC_NOTFOUND);
    assert_int_equal(index_log_get(ix, &G, 1, got, 40, &n, &err), RC_OK);
    assert_int_equal(n, 0);
    add_log(&G, 2, 5, 15);
    add_log(&G, 2, 300, 310);
    expect_bounds(&G, 5, 309);
    assert_int_equal(index_log_get(ix, &G, 1, got, 40, &n, &err), RC_OK);
    assert_int_equal(n, 0); /* none at first */
    assert_int_equal(index_log_get(ix, &G, 6, got, 40, &n, &err), RC_OK);
    assert_int_equal(n, 9); /* up to the gap */
    assert_int_equal(got[8].index, 14);
    assert_int_equal(index_log_get(ix, &G, 6, got, 3, &n, &err), RC_OK);
    assert_int_equal(n, 3);
    assert_int_equal(index_log_get(ix, &G, 305, got, 40, &n, &err), RC_OK);
    assert_int_equal(n, 5); /* up to the end, not into a neighbour */
    add_log(&G, 1, 7, 8);   /* older: stays away */
    add_log(&G, 3, 8, 9);
    assert_int_equal(index_rows_new(ix, &r), RC_OK); /* the same inside one batch */
    for (uint64_t e = 5; e >= 4; e--) {
        struct index_log_row row = {.epoch = e, .index = 9, .loc = loc_of(e)};

        assert_int_equal(index_rows_log(r, &G, &row, NULL, &err), RC_OK);
    }
    commit(r, 1, 1);
    assert_int_equal(index_log_get(ix, &G, 7, got, 3, &n, &err), RC_OK);
    assert_int_equal(n, 3);
    assert_int_equal(got[0].epoch, 2);
    assert_int_equal(got[0].loc.segment_id, loc_of(2007).segment_id);
    assert_int_equal(got[1].epoch, 3);
    assert_int_equal(got[1].loc.segment_id, loc_of(3008).segment_id);
    assert_int_equal(got[2].epoch, 5);
    expect_sums();
    assert_int_equal(index_log_trim(ix, &G, 305, /* from_back= */ true, &err), RC_OK);
    expect_bounds(&G, 5, 304);
    expect_sums();
    assert_int_equal(index_log_trim(ix, &G, 7, /* from_back= */ false, &err), RC_OK);
    expect_bounds(&G, 7, 304);
    reopen();
    expect_bounds(&G, 7, 304);
    add_log(&G, 1, 305, 306); /* free again, for any epoch */
    expect_bounds(&G, 7, 305);
    assert_int_equal(index_log_trim(ix, &G, 0, /* from_back= */ true, &err), RC_OK);
    assert_int_equal(index_log_bounds(ix, &G, &a, &b, &err), RC_NOTFOUND);
    for (size_t i = 0; i < NEAR_N; i++)
        expect_bounds(&NEAR[i], 1, 399);
}

struct seen {
    struct index_group g[16];
    uint32_t n;
};
static enum rc on_group(void *ctx, const struct index_group *g)
{
    struct seen *s = ctx;

    assert_true(s->n < 16);
    s->g[s->n++] = *g;
    return RC_OK;
}
static void apply_nothing(const struct index_group *g, uint64_t epoch, uint64_t index)
{
    struct index_batch *b;

    assert_int_equal(index_batch_new(ix, g, &b), RC_OK);
    assert_int_equal(index_batch_commit(b, (struct index_applied){epoch, index}, &err), RC_OK);
    index_batch_free(b);
}
static void test_protocol(void **state)
{
    uint8_t big[4097] = {1, 2, 3}, got[4096];
    struct index_applied ap;
    struct seen s = {0};
    size_t n = 0;

    (void)state;
    assert_int_equal(index_groups(ix, on_group, &s, &err), RC_OK);
    assert_int_equal(s.n, 0);
    assert_int_equal(index_persisted(ix, &G, got, sizeof(got), &n, &err), RC_NOTFOUND);
    assert_int_equal(index_persist(ix, &G, (struct slice){big, 0}, &err), RC_INVAL);
    assert_int_equal(index_persist(ix, &G, (struct slice){big, 4097}, &err), RC_INVAL);
    assert_int_equal(index_persist(ix, &G, (struct slice){big, 4096}, &err), RC_OK);
    assert_int_equal(index_persisted(ix, &G, got, 4095, &n, &err), RC_RANGE);
    assert_int_equal(index_persisted(ix, &G, got, 4096, &n, &err), RC_OK);
    assert_int_equal(n, 4096);
    assert_int_equal(index_persist(ix, &G, (struct slice){(const uint8_t *)"abc", 3}, &err), RC_OK);
    apply_nothing(&NEAR[0], 4, 11); /* only applied */
    apply_nothing(&G, 5, 12);       /* both */
    assert_int_equal(index_persist(ix, &NEAR[4], (struct slice){big, 9}, &err), RC_OK);
    assert_int_equal(index_sync(ix, &err), RC_OK);
    reopen();
    assert_int_equal(index_persisted(ix, &G, got, sizeof(got), &n, &err), RC_OK);
    assert_int_equal(n, 3);
    assert_memory_equal(got, "abc", 3);
    assert_int_equal(index_groups(ix, on_group, &s, &err), RC_OK);
    assert_int_equal(s.n, 3);
    assert_true(s.g[0].pool == G.pool && s.g[0].prefix == G.prefix && s.g[0].bits == 4);
    assert_true(s.g[1].pool == 2 && s.g[1].prefix == G.prefix && s.g[1].bits == 5);
    assert_int_equal(s.g[2].pool, 3);
    assert_int_equal(index_applied_get(ix, &G, &ap, &err), RC_OK);
    assert_true(ap.epoch == 5 && ap.index == 12);
    assert_int_equal(index_applied_get(ix, &NEAR[1], &ap, &err), RC_OK);
    assert_true(ap.epoch == 0 && ap.index == 0);
}

/* ---- a batch over the database, and a model of 48 keys ---- */
struct model {
    uint32_t value[KEYS]; /* 0: absent */
};
static uint32_t rng = 12345;
static uint32_t roll(uint32_t n)
{
    rng = rng * 1664525u + 1013904223u;
    return (rng >> 8) % n;
}
/* Key 0 is empty; lengths differ, so that one key is another's prefix; the order is that of k. */
static struct slice key_of(uint32_t k, uint8_t p[8])
{
    uint32_t n = k == 0 ? 0 : 1 + (k - 1) % 3;

    p[0] = (uint8_t)((k + 2) / 3 * 5);
    p[1] = p[2] = 0;
    return (struct slice){p, n};
}
static void same_value(struct slice got, uint32_t value)
{
    uint32_t v = 0;

    assert_int_equal(got.n, 4 + value % 5000);
    memcpy(&v, got.p, 4);
    assert_int_equal(v, value);
}
static void check_map(const struct apply_map *m, const struct model *want)
{
    uint8_t kb[8], next_b[8];
    struct slice key, value;

    for (uint32_t k = 0; k < KEYS; k++) {
        struct slice at = key_of(k, kb);
        enum rc rc = m->get(m->ctx, at, &value);
        uint32_t j = k;

        assert_int_equal(rc, want->value[k] != 0 ? RC_OK : RC_NOTFOUND);
        if (rc == RC_OK) same_value(value, want->value[k]);
        rc = m->next(m->ctx, at, &key, &value);
        while (j < KEYS && want->value[j] == 0)
            j++;
        assert_int_equal(rc, j < KEYS ? RC_OK : RC_NOTFOUND);
        if (rc != RC_OK) continue;
        at = key_of(j, next_b);
        assert_int_equal(key.n, at.n);
        assert_memory_equal(key.p, at.p, at.n);
        same_value(value, want->value[j]);
    }
}
static void put(const struct apply_map *m, struct model *want, uint32_t k, uint32_t value)
{
    static uint8_t bytes[5004];
    uint8_t kb[8];

    memcpy(bytes, &value, 4);
    assert_int_equal(m->put(m->ctx, key_of(k, kb), (struct slice){bytes, 4 + value % 5000}), RC_OK);
    want->value[k] = value;
}
static void test_batch_model(void **state)
{
    struct model now = {0}, durable = {0}, other = {0};
    struct index_batch *b;
    uint64_t index = 0;
    uint8_t kb[8];

    (void)state;
    for (size_t i = 0; i < NEAR_N; i++) {
        memset(&other, 0, sizeof(other));
        assert_int_equal(index_batch_new(ix, &NEAR[i], &b), RC_OK);
        for (uint32_t k = 0; k < KEYS; k++)
            put(index_batch_map(b), &other, k, 900000 + k);
        assert_int_equal(index_batch_commit(b, (struct index_applied){1, 1}, &err), RC_OK);
        index_batch_free(b);
    }
    assert_int_equal(index_batch_new(ix, &G, &b), RC_OK);
    for (uint32_t step = 1; step <= 1200; step++) {
        const struct apply_map *m = index_batch_map(b);
        uint32_t what = roll(100), k = roll(KEYS);

        if (what < 50) {
            put(m, &now, k, step);
        } else if (what < 85) {
            assert_int_equal(m->del(m->ctx, key_of(k, kb)), RC_OK);
            now.value[k] = 0;
        } else if (what < 93) {
            index++;
            assert_int_equal(index_batch_commit(b, (struct index_applied){2, index}, &err), RC_OK);
            durable = now;
        } else if (what < 97) { /* thrown away */
            index_batch_free(b);
            assert_int_equal(index_batch_new(ix, &G, &b), RC_OK);
            now = durable;
        } else if (what < 98) {
            assert_int_equal(index_batch_clear(b, &err), RC_OK);
            memset(&now, 0, sizeof(now));
        } else if (what < 99) {
            index_batch_free(b);
            reopen();
            assert_int_equal(index_batch_new(ix, &G, &b), RC_OK);
            now = durable;
        }
        if (step % 8 == 0) check_map(index_batch_map(b), &now);
    }
    index_batch_free(b);
    assert_true(index > 50);
    for (size_t i = 0; i < NEAR_N; i++) {
        assert_int_equal(index_batch_new(ix, &NEAR[i], &b), RC_OK);
        check_map(index_batch_map(b), &other);
        index_batch_free(b);
    }
}

struct scan {
    struct model seen;
    uint32_t n, stop_at;
    enum rc stop_with;
    struct index_batch *change; /* committed in the middle of the scan */
};
static enum rc on_row(void *ctx, struct slice key, struct slice value)
{
    struct scan *s = ctx;

    if (s->change != NULL) {
        assert_int_equal(index_batch_commit(s->change, (struct index_applied){9, 9}, &err), RC_OK);
        s->change = NULL;
    }
    for (uint32_t k = 0; k < KEYS; k++) {
        uint8_t kb[8];
        struct slice want = key_of(k, kb);

        if (want.n != key.n || (key.n > 0 && memcmp(want.p, key.p, key.n) != 0)) continue;
        memcpy(&s->seen.value[k], value.p, 4);
        s->n++;
        return s->n == s->stop_at ? s->stop_with : RC_OK;
    }
    fail_msg("an unknown key");
    return RC_INTERNAL;
}
static void test_scan(void **state)
{
    struct model want = {0}, later = {0};
    struct scan s = {0};
    struct index_batch *b;
    struct index_applied ap;
    struct slice none = {NULL, 0}, from, until;
    uint8_t fb[8], ub[8];
    struct buf out;

    (void)state;
    assert_int_equal(index_batch_new(ix, &NEAR[0], &b), RC_OK);
    put(index_batch_map(b), &later, 3, 1);
    assert_int_equal(index_batch_commit(b, (struct index_applied){1, 1}, &err), RC_OK);
    index_batch_free(b);
    assert_int_equal(index_state_scan(ix, &G, none, none, on_row, &s, &ap, &err), RC_OK);
    assert_true(s.n == 0 && ap.index == 0);
    assert_int_equal(index_batch_new(ix, &G, &b), RC_OK);
    for (uint32_t k = 0; k < KEYS; k++)
        put(index_batch_map(b), &want, k, k + 1);
    assert_int_equal(index_batch_commit(b, (struct index_applied){3, 8}, &err), RC_OK);
    later = want;
    for (uint32_t k = 0; k < KEYS; k++)
        put(index_batch_map(b), &later, k, k + 1000);
    s.change = b;
    assert_int_equal(index_state_scan(ix, &G, none, none, on_row, &s, &ap, &err), RC_OK);
    assert_true(ap.epoch == 3 && ap.index == 8); /* one moment, though it changed */
    assert_memory_equal(&s.seen, &want, sizeof(want));
    memset(&s, 0, sizeof(s));
    from = key_of(4, fb);
    until = key_of(10, ub);
    assert_int_equal(index_state_scan(ix, &G, from, until, on_row, &s, &ap, &err), RC_OK);
    assert_true(ap.epoch == 9 && s.n == 6);
    for (uint32_t k = 4; k < 10; k++)
        assert_int_equal(s.seen.value[k], k + 1000);
    s = (struct scan){.stop_at = 2, .stop_with = RC_RANGE};
    assert_int_equal(index_state_scan(ix, &G, none, none, on_row, &s, &ap, &err), RC_OK);
    assert_int_equal(s.n, 2);
    s = (struct scan){.stop_at = 2, .stop_with = RC_NOMEM};
    assert_int_equal(index_state_scan(ix, &G, none, none, on_row, &s, &ap, &err), RC_NOMEM);
    buf_init(&out, 4);
    assert_int_equal(index_state_get(ix, &G, from, &out, &err), RC_BUSY); /* over out's limit */
    buf_deinit(&out);
    buf_init(&out, 8192);
    assert_int_equal(index_state_get(ix, &G, from, &out, &err), RC_OK);
    same_value((struct slice){out.p, out.n}, 1004);
    assert_int_equal(index_state_get(ix, &NEAR[1], from, &out, &err), RC_NOTFOUND);
    buf_deinit(&out);
    index_batch_free(b);
}

/* The first row of a prefix, in this group only; the same through the view that does not block,
 * which answers from memory or says that it can't, and never something else. */
static void test_first_cached(void **state)
{
    struct model want = {0};
    struct index_batch *b;
    struct slice from, none = {NULL, 0};
    struct buf key, value;
    uint8_t fb[8];
    uint32_t told = 0;

    (void)state;
    assert_int_equal(index_batch_new(ix, &G, &b), RC_OK);
    for (uint32_t k = 3; k < KEYS; k++)
        put(index_batch_map(b), &want, k, k + 1);
    assert_int_equal(index_batch_commit(b, (struct index_applied){1, 1}, &err), RC_OK);
    index_batch_free(b);
    for (int i = 0; i < 2; i++) {
        struct index *view = i == 0 ? ix : index_cached(ix);

        from = key_of(3, fb);
        buf_init(&key, 64);
        buf_init(&value, 8192);
        assert_int_equal(index_state_first(view, &G, none, &key, &value, &err), RC_OK);
        assert_int_equal(key.n, from.n);
        assert_memory_equal(key.p, from.p, from.n);
        same_value((struct slice){value.p, value.n}, 4);
        buf_deinit(&key);
        buf_deinit(&value);
        buf_init(&key, 64);
        buf_init(&value, 8192);
        from = key_of(5, fb);
        assert_int_equal(index_state_first(view, &G, from, &key, &value, &err), RC_OK);
        same_value((struct slice){value.p, value.n}, 6);
        fb[0] = 6; /* keys come before and after it, none begins so */
        from = (struct slice){fb, 1};
        assert_int_equal(index_state_first(view, &G, from, &key, &value, &err), RC_NOTFOUND);
        assert_int_equal(index_state_first(view, &NEAR[1], none, &key, &value, &err), RC_NOTFOUND);
        buf_deinit(&key);
        buf_deinit(&value);
    }
    reopen(); /* what memory knew is gone: rows are in files, or replayed from the WAL */
    for (uint32_t k = 0; k < KEYS; k++) {
        enum rc rc;

        from = key_of(k, fb);
        buf_init(&value, 8192);
        rc = index_state_get(index_cached(ix), &G, from, &value, &err);
        if (k < 3) assert_true(rc == RC_NOTFOUND || rc == RC_BUSY);
        if (k >= 3) assert_true(rc == RC_OK || rc == RC_BUSY);
        if (rc == RC_OK) same_value((struct slice){value.p, value.n}, k + 1);
        told += rc != RC_BUSY;
        buf_deinit(&value);
        buf_init(&value, 8192);
        rc = index_state_get(ix, &G, from, &value, &err); /* brings it into memory */
        assert_int_equal(rc, k < 3 ? RC_NOTFOUND : RC_OK);
        buf_deinit(&value);
        buf_init(&value, 8192);
        assert_int_equal(index_state_get(index_cached(ix), &G, from, &value, &err), rc);
        buf_deinit(&value);
    }
    print_message("%u of %u known without the disk after opening\n", told, KEYS);
}

/* Small batches over all kinds of rows fit into the memtables' budget for long: RocksDB numbers
 * each file that it makes, so the highest number tells how often it flushed. */
static void test_memtables(void **state)
{
    struct index_chunk c;
    unsigned long highest = 0;
    struct dirent *e;
    DIR *d;

    (void)state;
    for (uint64_t i = 1; i <= 400; i++) {
        struct index_rows *r;

        c = chunk_of((uint8_t)i, (uint32_t)i, 9);
        assert_int_equal(index_rows_new(ix, &r), RC_OK);
        assert_int_equal(index_rows_chunk(r, &c, NULL, &err), RC_OK);
        commit(r, 1, 4096 * i);
        assert_int_equal(index_bad_add(ix, &c.id, &c.loc, 1, 7, &err), RC_OK);
        add_log(&G, 1, i, i + 1);
        apply_nothing(&G, 1, i);
    }
    d = opendir(dir);
    assert_non_null(d);
    while ((e = readdir(d)) != NULL)
        highest = MAX(highest, strtoul(e->d_name, NULL, 10));
    (void)closedir(d);
    assert_in_range(highest, 1, 40); /* 7 column families, a few at the open */
}

/* A kill keeps a prefix of the batches, and at most so many are missing. */
static void test_kill(void **state)
{
    struct index_applied ap;
    uint64_t first, last;
    int status;
    pid_t pid;

    (void)state;
    index_close(ix);
    ix = NULL;
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        open_index();
        for (uint64_t i = 1; i <= 1000; i++) {
            add_log(&G, 1, i, i + 1);
            apply_nothing(&G, 1, i);
        }
        (void)kill(getpid(), SIGKILL);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    open_index();
    assert_int_equal(index_log_bounds(ix, &G, &first, &last, &err), RC_OK);
    assert_int_equal(index_applied_get(ix, &G, &ap, &err), RC_OK);
    assert_true(ap.index == last || ap.index + 1 == last);
    assert_in_range(last, 984, 1000); /* two batches each of at most 32 */
    assert_false(index_lost(ix));
}

static void test_open(void **state)
{
    struct index_conf c = {.dir = dir};
    struct index *again = NULL;
    char path[128];
    uint64_t a, b;
    int fd;

    (void)state;
    assert_int_equal(index_open(&c, &again, &err), RC_BUSY);
    add_log(&G, 1, 1, 2);
    index_close(ix);
    ix = NULL;
    (void)snprintf(path, sizeof(path), "%s/CURRENT", dir);
    fd = open(path, O_WRONLY | O_TRUNC);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, "nonsense", 8), 8);
    (void)close(fd);
    assert_int_equal(index_open(&c, &again, &err), RC_CORRUPT);
    c.rebuild = true;
    assert_int_equal(index_open(&c, &ix, &err), RC_OK);
    assert_int_equal(index_log_bounds(ix, &G, &a, &b, &err), RC_NOTFOUND);
    c.dir = "/proc/mikura/index";
    c.rebuild = false;
    assert_int_equal(index_open(&c, &again, &err), RC_IO);
}

struct notes {
    char names[8][64];
    uint32_t n, until;
};

static enum rc on_note(void *ctx, const char *name, struct slice value)
{
    struct notes *s = ctx;

    assert_int_equal(value.n, 1);
    (void)snprintf(s->names[s->n++], sizeof s->names[0], "%s%c", name, value.p[0]);
    return s->n == s->until ? RC_RANGE : RC_OK;
}

static void test_notes(void **state)
{
    static const char *const names[] = {"a", "skip/1", "skip/2", "skip/3", "skiq", "z"};
    struct notes s = {.until = 8};
    uint8_t got[8];
    size_t n;

    (void)state;
    for (size_t i = 0; i < ARRAY_N(names); i++) {
        uint8_t v = (uint8_t)('0' + i);

        assert_int_equal(index_note_put(ix, names[i], (struct slice){&v, 1}, &err), RC_OK);
    }
    assert_int_equal(index_notes_each(ix, "skip/", on_note, &s, &err), RC_OK);
    assert_int_equal(s.n, 3);
    assert_string_equal(s.names[0], "skip/11");
    assert_string_equal(s.names[2], "skip/33");
    s = (struct notes){.until = 1};
    assert_int_equal(index_notes_each(ix, "skip/", on_note, &s, &err), RC_OK);
    assert_int_equal(s.n, 1);
    assert_int_equal(index_note_drop(ix, "skip/2", &err), RC_OK);
    assert_int_equal(index_note_drop(ix, "skip/2", &err), RC_OK);
    assert_int_equal(index_note_get(ix, "skip/2", got, sizeof got, &n, &err), RC_NOTFOUND);
    assert_int_equal(index_note_get(ix, "skip/3", got, sizeof got, &n, &err), RC_OK);
    assert_int_equal(index_sync(ix, &err), RC_OK);
    reopen();
    s = (struct notes){.until = 8};
    assert_int_equal(index_notes_each(ix, "skip/", on_note, &s, &err), RC_OK);
    assert_int_equal(s.n, 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_chunks, setup, teardown),
        cmocka_unit_test_setup_teardown(test_space, setup, teardown),
        cmocka_unit_test_setup_teardown(test_log, setup, teardown),
        cmocka_unit_test_setup_teardown(test_protocol, setup, teardown),
        cmocka_unit_test_setup_teardown(test_notes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_batch_model, setup, teardown),
        cmocka_unit_test_setup_teardown(test_scan, setup, teardown),
        cmocka_unit_test_setup_teardown(test_first_cached, setup, teardown),
        cmocka_unit_test_setup_teardown(test_memtables, setup, teardown),
        cmocka_unit_test_setup_teardown(test_kill, setup, teardown),
        cmocka_unit_test_setup_teardown(test_open, setup, teardown)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
