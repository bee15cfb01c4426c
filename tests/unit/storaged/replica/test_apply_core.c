/* tests/unit/storaged/replica/test_apply_core.c - effects, conditions, idempotence; a model beside
 * the core over random entries; every cut of an entry; every call of the map failing once. */
#include "storaged/replica/apply_core.h"
#include "common/base/le.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

/* A sorted array; the n-th call may fail. */
struct row {
    uint8_t *key, *value;
    size_t key_n, value_n;
};
struct mem_map {
    struct row *rows;
    size_t n, cap;
    int fail_at; /* 0 = never */
    int calls;
};

static bool mem_fails(struct mem_map *m)
{
    return ++m->calls == m->fail_at;
}

static int cmp(struct slice a, const struct row *r)
{
    size_t n = MIN(a.n, r->key_n);
    int c = n == 0 ? 0 : memcmp(a.p, r->key, n);

    return c != 0 ? c : (a.n > r->key_n) - (a.n < r->key_n);
}

static size_t lower(const struct mem_map *m, struct slice key)
{
    size_t lo = 0, hi = m->n;

    while (lo < hi) {
        size_t mid = (lo + hi) / 2;

        if (cmp(key, &m->rows[mid]) > 0) {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    return lo;
}

static enum rc mem_next(void *ctx, struct slice from, struct slice *ret_key,
                        struct slice *ret_value)
{
    struct mem_map *m = ctx;
    size_t i = lower(m, from);

    if (mem_fails(m)) return RC_IO;
    if (i == m->n) return RC_NOTFOUND;
    *ret_key = (struct slice){m->rows[i].key, m->rows[i].key_n};
    *ret_value = (struct slice){m->rows[i].value, m->rows[i].value_n};
    return RC_OK;
}

static enum rc mem_get(void *ctx, struct slice key, struct slice *ret_value)
{
    struct mem_map *m = ctx;
    size_t i = lower(m, key);

    if (mem_fails(m)) return RC_IO;
    if (i == m->n || cmp(key, &m->rows[i]) != 0) return RC_NOTFOUND;
    *ret_value = (struct slice){m->rows[i].value, m->rows[i].value_n};
    return RC_OK;
}

static uint8_t *dup_bytes(struct slice s)
{
    uint8_t *p = malloc(s.n + 1);

    assert_non_null(p);
    if (s.n > 0) memcpy(p, s.p, s.n);
    return p;
}

static enum rc mem_put(void *ctx, struct slice key, struct slice value)
{
    struct mem_map *m = ctx;
    size_t i = lower(m, key);

    if (mem_fails(m)) return RC_IO;
    if (i < m->n && cmp(key, &m->rows[i]) == 0) {
        uint8_t *v = dup_bytes(value); /* the value may be a view of the old one */

        free(m->rows[i].value);
        m->rows[i].value = v;
        m->rows[i].value_n = value.n;
        return RC_OK;
    }
    if (m->n == m->cap) {
        m->cap = m->cap == 0 ? 64 : m->cap * 2;
        m->rows = realloc(m->rows, m->cap * sizeof(*m->rows));
        assert_non_null(m->rows);
    }
    memmove(&m->rows[i + 1], &m->rows[i], (m->n - i) * sizeof(*m->rows));
    m->rows[i] = (struct row){dup_bytes(key), dup_bytes(value), key.n, value.n};
    m->n++;
    return RC_OK;
}

static enum rc mem_del(void *ctx, struct slice key)
{
    struct mem_map *m = ctx;
    size_t i = lower(m, key);

    if (mem_fails(m)) return RC_IO;
    if (i == m->n || cmp(key, &m->rows[i]) != 0) return RC_OK;
    free(m->rows[i].key);
    free(m->rows[i].value);
    memmove(&m->rows[i], &m->rows[i + 1], (m->n - i - 1) * sizeof(*m->rows));
    m->n--;
    return RC_OK;
}

static void mem_deinit(struct mem_map *m)
{
    while (m->n > 0) {
        m->n--;
        free(m->rows[m->n].key);
        free(m->rows[m->n].value);
    }
    free(m->rows);
    *m = (struct mem_map){0};
}

static uint8_t scratch[APPLY_SCRATCH_BYTES], entry_bytes[APPLY_ENTRY_BYTES_MAX];

static struct apply_map map_of(struct mem_map *m)
{
    return (struct apply_map){mem_get, mem_next, mem_put, mem_del, m, scratch};
}

static struct slice text(const char *s)
{
    return (struct slice){(const uint8_t *)s, strlen(s)};
}

static struct id128 id(uint8_t n)
{
    struct id128 x = {{n, 1}};

    return x;
}

static struct slice encoded(const struct apply_entry *e)
{
    struct err err;
    uint32_t n = apply_entry_bytes(e, &err);

    assert_true(n > 0);
    assert_int_equal(apply_entry_encode(e, entry_bytes), n);
    return (struct slice){entry_bytes, n};
}

static struct apply_outcome run(struct mem_map *m, uint64_t index, const struct apply_entry *e)
{
    struct apply_map map = map_of(m);
    struct apply_outcome o;
    struct err err = {0};

    assert_int_equal(apply_step(&map, index, encoded(e), &o, &err), RC_OK);
    return o;
}

static struct apply_outcome put_if(struct mem_map *m, uint64_t index, uint64_t seq,
                                   enum apply_compare_kind kind, uint64_t number, const char *value)
{
    struct apply_compare c = {kind, kind == APPLY_TICK_AT_MOST ? text("") : text("key"),
                              text("one"), number};
    struct apply_put p = {text("key"), text(value)};
    struct apply_entry e = {
        .kind = APPLY_TXN, .compares = &c, .puts = &p, .compares_n = 1, .puts_n = 1};

    if (seq > 0) {
        e.client = id(1);
        e.sequence = seq;
    }
    return run(m, index, &e);
}

static void test_conditions(void **state)
{
    struct mem_map m = {0};
    uint8_t key[APPLY_MAPKEY_BYTES_MAX];
    struct slice stored, value;
    uint64_t version;

    (void)state;
    assert_false(put_if(&m, 1, 0, APPLY_PRESENT, 0, "x").succeeded);
    assert_int_equal(m.n, 0);
    assert_true(put_if(&m, 2, 0, APPLY_ABSENT, 0, "one").succeeded);
    assert_false(put_if(&m, 3, 0, APPLY_ABSENT, 0, "two").succeeded);
    assert_false(put_if(&m, 4, 0, APPLY_VERSION, 3, "two").succeeded);
    assert_true(put_if(&m, 5, 0, APPLY_VERSION, 2, "one").succeeded);
    assert_true(put_if(&m, 6, 0, APPLY_VALUE, 0, "two").succeeded);
    assert_false(put_if(&m, 7, 0, APPLY_VALUE, 0, "three").succeeded);
    assert_true(put_if(&m, 8, 0, APPLY_TICK_AT_MOST, 0, "three").succeeded);
    assert_int_equal(mem_get(&m, (struct slice){key, apply_user_key(text("key"), key)}, &stored),
                     RC_OK);
    assert_int_equal(apply_user_value(stored, &version, &value), RC_OK);
    assert_int_equal(version, 8);
    assert_memory_equal(value.p, "three", 5);
    assert_int_equal(run(&m, 9, &(struct apply_entry){.kind = APPLY_TICK}).tick, 1);
    assert_false(put_if(&m, 10, 0, APPLY_TICK_AT_MOST, 0, "four").succeeded);
    mem_deinit(&m);
}

static void test_same_request_once(void **state)
{
    struct mem_map m = {0};
    struct apply_outcome a, b;

    (void)state;
    a = put_if(&m, 1, 1, APPLY_ABSENT, 0, "one");
    b = put_if(&m, 2, 1, APPLY_ABSENT, 0, "one");
    assert_true(a.succeeded && !a.repeated && b.succeeded && b.repeated);
    assert_int_equal(b.index, 1);
    /* Out of order inside the window: 1024 runs, then 2 still may, 0 steps below the floor do not.
     */
    assert_false(put_if(&m, 3, 1024, APPLY_ABSENT, 0, "one").repeated);
    assert_false(put_if(&m, 4, 2, APPLY_PRESENT, 0, "two").repeated);
    (void)put_if(&m, 5, 1026, APPLY_PRESENT, 0, "three"); /* floor is 2 now */
    assert_int_equal(put_if(&m, 6, 2, APPLY_PRESENT, 0, "late").rc, RC_ABORTED);
    assert_int_equal(put_if(&m, 7, 3, APPLY_PRESENT, 0, "in time").rc, RC_OK);
    mem_deinit(&m);
}

/* Rejected design, README: a client that is dropped whole would run its late request again. */
static void test_idle_client_never_runs_twice(void **state)
{
    struct mem_map m = {0};
    uint64_t index = 1;
    size_t before;

    (void)state;
    for (uint64_t s = 1; s <= 20; s++)
        (void)put_if(&m, index++, s, APPLY_TICK_AT_MOST, 1000, "x");
    before = m.n;
    for (unsigned t = 0; t < APPLY_CLIENT_IDLE_TICKS; t++) {
        (void)run(&m, index++, &(struct apply_entry){.kind = APPLY_TICK});
    }
    assert_int_equal(m.n, before + 1); /* the tick's row; all outcomes still there */
    (void)run(&m, index++, &(struct apply_entry){.kind = APPLY_TICK});
    assert_int_equal(m.n, before + 1 - 20);
    assert_int_equal(put_if(&m, index++, 20, APPLY_TICK_AT_MOST, 1000, "again").rc, RC_ABORTED);
    assert_true(put_if(&m, index++, 21, APPLY_TICK_AT_MOST, 1000, "next").succeeded);
    mem_deinit(&m);
}

static struct apply_entry chunk_entry(enum apply_kind kind, uint8_t seal, uint8_t digest)
{
    struct apply_entry e = {.kind = kind};

    e.chunk = (struct apply_chunk){.placement_hash = 0x0102030405060708ull,
                                   .body = id(9),
                                   .index = 3,
                                   .seal_id = id(seal),
                                   .plain_bytes = 65536,
                                   .owner_hash = 7};
    memset(e.chunk.plain_digest, digest, 32);
    return e;
}

static void test_chunks(void **state)
{
    struct mem_map m = {0};
    struct apply_entry first = chunk_entry(APPLY_CHUNK_ADD, 1, 5),
                       same = chunk_entry(APPLY_CHUNK_ADD, 2, 5);
    struct apply_entry other = chunk_entry(APPLY_CHUNK_ADD, 3, 6),
                       drop = chunk_entry(APPLY_CHUNK_DROP, 4, 9);
    struct apply_outcome o;
    struct id128 one = id(1);
    struct apply_chunk c;
    uint64_t index;
    bool dropped;

    (void)state;
    assert_int_equal(run(&m, 1, &first).rc, RC_OK);
    o = run(&m, 2, &same); /* same plaintext sealed again: the winner's seal id */
    assert_true(o.rc == RC_OK && id128_eq(&o.seal_id, &one) && o.index == 1);
    assert_int_equal(run(&m, 3, &other).rc, RC_EXISTS);
    assert_true(run(&m, 4, &drop).succeeded);
    assert_true(run(&m, 5, &drop).succeeded);
    assert_int_equal(run(&m, 6, &first).rc, RC_PRECOND); /* nothing dropped comes back */
    assert_int_equal(m.n, 1);
    assert_int_equal(
        apply_chunk_row((struct slice){m.rows[0].value, m.rows[0].value_n}, &c, &dropped, &index),
        RC_OK);
    assert_true(dropped && index == 4 && id128_eq(&c.seal_id, &one) && c.plain_digest[0] == 5);
    mem_deinit(&m);
}

/* A ChunkAdd and a transaction of one entry: each as by itself, the second only after the first. */
static void test_chunk_with_transaction(void **state)
{
    struct mem_map m = {0};
    struct apply_compare absent = {APPLY_ABSENT, text("case"), {0}, 0};
    struct apply_put p = {text("case"), text("v")};
    struct apply_entry e = chunk_entry(APPLY_CHUNK_TXN, 1, 5), other, alone;
    struct id128 one = id(1), none = {{0}};
    struct apply_outcome o;
    struct apply_chunk c;
    struct err err;
    bool all = true;

    (void)state;
    e.client = id(7);
    e.sequence = 1;
    e.compares = &absent;
    e.puts = &p;
    e.compares_n = e.puts_n = 1;
    o = run(&m, 1, &e);
    assert_true(o.rc == RC_OK && o.succeeded && o.index == 1 && id128_eq(&o.seal_id, &one));
    assert_true(apply_entry_drops(encoded(&e), &o, &c, &all) && !all && c.index == 3);
    o = run(&m, 2, &e); /* a retry: nothing is done again, and no bytes go by it */
    assert_true(o.repeated && o.succeeded && o.index == 1 && id128_eq(&o.seal_id, &one));
    assert_false(apply_entry_drops(encoded(&e), &o, &c, &all));
    /* the chunk is there before, its condition does not hold: that is the transaction's alone */
    e.sequence = 2;
    o = run(&m, 3, &e);
    assert_true(o.rc == RC_OK && !o.succeeded && o.failed_compare == 0 && o.index == 0);
    /* other content: no transaction, though its condition holds */
    other = chunk_entry(APPLY_CHUNK_TXN, 3, 6);
    other.client = id(7);
    other.sequence = 3;
    p.key = text("another");
    other.puts = &p;
    other.puts_n = 1;
    o = run(&m, 4, &other);
    assert_true(o.rc == RC_EXISTS && !o.succeeded && id128_eq(&o.seal_id, &one));
    assert_false(apply_entry_drops(encoded(&other), &o, &c, &all));
    assert_int_equal(m.n, 1 + 1 + 1 + 3); /* chunk, value, client, outcomes */
    /* its transaction alone, under the same key, first: the entry then has that outcome */
    e.sequence = 4;
    e.puts_n = 1;
    e.compares_n = 0;
    p.key = text("third");
    alone = e;
    alone.kind = APPLY_TXN;
    assert_true(run(&m, 5, &alone).succeeded);
    o = run(&m, 6, &e);
    assert_true(o.repeated && o.succeeded && o.index == 5 && id128_eq(&o.seal_id, &none));
    assert_false(apply_entry_drops(encoded(&e), &o, &c, &all));
    /* never without a key */
    e.client = none;
    e.sequence = 0;
    assert_int_equal(apply_entry_check(encoded(&e), &err), RC_CORRUPT);
    mem_deinit(&m);
}

static void test_limits(void **state)
{
    static uint8_t big[APPLY_VALUE_BYTES_MAX + 1];
    struct apply_put puts[4] = {{text("a"), {big, APPLY_VALUE_BYTES_MAX}},
                                {text("b"), {big, APPLY_VALUE_BYTES_MAX}},
                                {text("c"), {big, APPLY_VALUE_BYTES_MAX}},
                                {{big, 2049}, text("")}};
    struct apply_entry e = {.kind = APPLY_TXN, .puts = puts, .puts_n = 2};
    struct err err;

    (void)state;
    assert_true(apply_entry_bytes(&e, &err) > 2 * APPLY_VALUE_BYTES_MAX);
    e.puts_n = 3;
    assert_int_equal(apply_entry_bytes(&e, &err), 0);
    e.puts = puts + 3;
    e.puts_n = 1;
    assert_int_equal(apply_entry_bytes(&e, &err), 0);
    assert_non_null(strstr(err.msg, "2049"));
}

static struct apply_entry big_entry(struct apply_compare *c, struct apply_put *p, struct slice *del)
{
    *c = (struct apply_compare){APPLY_ABSENT, text("nobody"), {0}, 0};
    p[0] = (struct apply_put){text("k1"), text("v1")};
    p[1] = (struct apply_put){text("k2"), text("v2")};
    *del = text("gone");
    return (struct apply_entry){.kind = APPLY_TXN,
                                .client = id(2),
                                .sequence = 1030,
                                .compares = c,
                                .puts = p,
                                .deletes = del,
                                .compares_n = 1,
                                .puts_n = 2,
                                .deletes_n = 1};
}

static void cuts_are_refused(const struct apply_entry *e)
{
    struct slice whole = encoded(e);
    struct err err;

    assert_int_equal(apply_entry_check(whole, &err), RC_OK);
    for (size_t n = 0; n < whole.n; n++) {
        uint8_t *cut = dup_bytes((struct slice){whole.p, n}); /* own memory: ASan sees an overrun */
        uint8_t *exact = realloc(cut, n == 0 ? 1 : n);

        assert_non_null(exact);
        assert_int_equal(apply_entry_check((struct slice){exact, n}, &err), RC_CORRUPT);
        free(exact);
    }
    entry_bytes[whole.n] = 0;
    assert_int_equal(apply_entry_check((struct slice){whole.p, whole.n + 1}, &err), RC_CORRUPT);
    entry_bytes[0] = 2;
    assert_int_equal(apply_entry_check(whole, &err), RC_CORRUPT);
}

static void test_every_cut_is_refused(void **state)
{
    struct apply_compare c;
    struct apply_put p[2];
    struct slice del;
    struct apply_entry e = big_entry(&c, p, &del);

    (void)state;
    cuts_are_refused(&e);
    e.kind = APPLY_CHUNK_TXN;
    cuts_are_refused(&e);
}

static void test_every_map_call_may_fail(void **state)
{
    struct apply_compare c;
    struct apply_put p[2];
    struct slice del;
    struct apply_entry e = big_entry(&c, p, &del);
    struct err err;
    int failed = 0;

    (void)state;
    for (int n = 1;; n++) {
        struct mem_map m = {0};
        struct apply_map map = map_of(&m);
        struct apply_outcome o;
        struct slice entry;
        enum rc rc;

        (void)put_if(&m, 1, 1, APPLY_ABSENT, 0, "one");
        m.calls = 0;
        m.fail_at = n;
        entry = encoded(&e);
        rc = apply_step(&map, 2, entry, &o, &err);
        mem_deinit(&m);
        if (rc == RC_OK) break;
        assert_int_equal(rc, RC_IO);
        assert_non_null(strstr(err.msg, "entry 2"));
        failed++;
    }
    assert_true(failed >= 7);
}

static uint64_t rng_state;
static uint32_t rnd(uint32_t n)
{
    rng_state = rng_state * 6364136223846793005ull + 1442695040888963407ull;
    return (uint32_t)(rng_state >> 33) % n;
}

/* Model: eight keys with value and version; conditional puts and deletes, some sent twice. */
static void test_against_model(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 200; seed++) {
        struct mem_map a = {0}, b = {0};
        uint64_t model_version[8] = {0}, index = 0, seq = 0;
        char model_value[8][8] = {{0}};

        rng_state = seed;
        for (int step = 0; step < 100; step++) {
            unsigned k = rnd(8), ck = rnd(8);
            char key[2] = {(char)('a' + k), 0}, ckey[2] = {(char)('a' + ck), 0}, value[8];
            uint64_t want = rnd(3) == 0 ? rnd(50) : model_version[ck];
            struct apply_compare c = {APPLY_VERSION, text(ckey), {0}, want};
            struct apply_put p = {text(key), {0}};
            struct slice del = text(key);
            struct apply_entry e = {.kind = APPLY_TXN,
                                    .client = id(3),
                                    .sequence = ++seq,
                                    .compares = &c,
                                    .compares_n = 1};
            bool is_del = rnd(4) == 0, twice = rnd(3) == 0;
            struct apply_outcome o, o2;

            (void)snprintf(value, sizeof(value), "v%u", rnd(1000));
            p.value = text(value);
            e.puts = &p;
            e.puts_n = is_del ? 0 : 1;
            e.deletes = &del;
            e.deletes_n = is_del ? 1 : 0;
            index++;
            o = run(&a, index, &e);
            o2 = run(&b, index, &e); /* another replica */
            assert_int_equal(o.succeeded, want == model_version[ck]);
            assert_int_equal(o.succeeded, o2.succeeded);
            if (o.succeeded) {
                model_version[k] = is_del ? 0 : index;
                memcpy(model_value[k], value, sizeof(value));
            }
            if (!twice) continue;
            index++;
            o2 = run(&a, index, &e);
            (void)run(&b, index, &e);
            assert_true(o2.repeated && o2.succeeded == o.succeeded && o2.index == o.index);
        }
        for (unsigned k = 0; k < 8; k++) {
            char key[2] = {(char)('a' + k), 0};
            uint8_t mk[APPLY_MAPKEY_BYTES_MAX];
            struct slice stored, value;
            uint64_t version;
            enum rc rc = mem_get(&a, (struct slice){mk, apply_user_key(text(key), mk)}, &stored);

            assert_int_equal(rc, model_version[k] == 0 ? RC_NOTFOUND : RC_OK);
            if (rc != RC_OK) continue;
            assert_int_equal(apply_user_value(stored, &version, &value), RC_OK);
            assert_int_equal(version, model_version[k]);
            assert_int_equal(value.n, strlen(model_value[k]));
            assert_memory_equal(value.p, model_value[k], value.n);
        }
        assert_int_equal(a.n, b.n);
        for (size_t i = 0; i < a.n; i++) {
            assert_int_equal(a.rows[i].value_n, b.rows[i].value_n);
            assert_memory_equal(a.rows[i].value, b.rows[i].value, a.rows[i].value_n);
        }
        mem_deinit(&a);
        mem_deinit(&b);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_conditions),
        cmocka_unit_test(test_same_request_once),
        cmocka_unit_test(test_idle_client_never_runs_twice),
        cmocka_unit_test(test_chunks),
        cmocka_unit_test(test_chunk_with_transaction),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_every_cut_is_refused),
        cmocka_unit_test(test_every_map_call_may_fail),
        cmocka_unit_test(test_against_model),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
