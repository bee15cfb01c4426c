/* tests/unit/storaged/replica/test_replica_msg.c - records, wishes, promises, messages, snapshot
 * pages: round trip; every cut and every changed byte is refused or decodes to what encodes back.
 */
#include "storaged/replica/replica_msg.h"
#include "common/placement/group_config.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

static struct id128 id(uint8_t n)
{
    struct id128 x = {{n, 1}};
    return x;
}

/* A copy of exactly n bytes, so that ASan sees a read past the end. */
static uint8_t *exact(const uint8_t *p, size_t n)
{
    uint8_t *q = malloc(n == 0 ? 1 : n);

    assert_non_null(q);
    memcpy(q, p, n);
    return q;
}

static void config_bytes(void **state)
{
    struct group_set desired = {.n = 3, .disks = {id(1), id(2), id(3)}};
    uint8_t b[GROUP_CONFIG_BYTES_MAX];
    struct group_config c, d;
    struct err err = {0};
    uint32_t n;

    (void)state;
    group_config_first(&desired, &c);
    assert_int_equal(group_config_check(&c, &err), RC_OK);
    assert_true(id128_is_zero(&c.primary_boot));
    c.config = 7;
    c.epoch = 3;
    c.primary_boot = id(9);
    group_set_remove(&c.in_sync, &desired.disks[1]);
    group_set_add(&c.learners, &desired.disks[1]);
    n = group_config_encode(&c, b);
    assert_int_equal(n, 56 + 6 * 16 + 4);
    assert_int_equal(group_config_decode((struct slice){b, n}, &d, &err), RC_OK);
    assert_true(group_config_eq(&c, &d));
    for (uint32_t cut = 0; cut < n; cut++) {
        uint8_t *q = exact(b, cut);

        assert_int_equal(group_config_decode((struct slice){q, cut}, &d, &err), RC_CORRUPT);
        free(q);
    }
    for (uint32_t i = 0; i < n; i++) {
        b[i] ^= 0x10;
        assert_int_not_equal(group_config_decode((struct slice){b, n}, &d, &err), RC_OK);
        b[i] ^= 0x10;
    }
    group_set_add(&c.learners, &desired.disks[0]);
    assert_int_equal(group_config_check(&c, &err), RC_INVAL); /* in sync and learner */
    group_config_first(&desired, &c);
    c.primary = id(8);
    assert_int_equal(group_config_check(&c, &err), RC_INVAL);
}

static void wish_and_promise_bytes(void **state)
{
    struct group_set w = {.n = 2, .disks = {id(4), id(5)}}, v;
    struct replica_durable p = {.epoch = 5,
                                .config = 6,
                                .commit = 7,
                                .cut_index = 8,
                                .cut_epoch = 4,
                                .damaged = true},
                           q;
    uint8_t b[GROUP_WISH_BYTES_MAX], c[REPLICA_DURABLE_BYTES];
    struct err err = {0};
    uint32_t n = group_wish_encode(&w, b);

    (void)state;
    assert_int_equal(group_wish_decode((struct slice){b, n}, &v, &err), RC_OK);
    assert_true(group_set_eq(&w, &v));
    for (uint32_t i = 0; i < n; i++) {
        b[i] ^= 1;
        assert_int_not_equal(group_wish_decode((struct slice){b, n}, &v, &err), RC_OK);
        b[i] ^= 1;
        assert_int_not_equal(group_wish_decode((struct slice){b, i}, &v, &err), RC_OK);
    }
    replica_durable_encode(&p, c);
    assert_int_equal(replica_durable_decode((struct slice){c, sizeof(c)}, &q, &err), RC_OK);
    assert_int_equal(q.epoch, 5);
    assert_int_equal(q.config, 6);
    assert_int_equal(q.commit, 7);
    assert_int_equal(q.cut_index, 8);
    assert_int_equal(q.cut_epoch, 4);
    assert_true(q.damaged);
    for (uint32_t i = 0; i < sizeof(c); i++) {
        c[i] ^= 1;
        assert_int_not_equal(replica_durable_decode((struct slice){c, sizeof(c)}, &q, &err), RC_OK);
        c[i] ^= 1;
    }
}

static void message_bytes(void **state)
{
    struct replica_entry e[2] = {{.epoch = 3, .bytes = {(const uint8_t *)"abc", 3}},
                                 {.epoch = 4, .bytes = {(const uint8_t *)"", 0}}},
                         got[REPLICA_BATCH];
    struct replica_msg m = {.type = REPLICA_PREPARE,
                            .from_disk = id(1),
                            .from_boot = id(2),
                            .to_disk = id(3),
                            .config = 1,
                            .epoch = 2,
                            .stamp_ms = 3,
                            .commit = 4,
                            .tail = 5,
                            .last = 6,
                            .first = 7,
                            .n = 2,
                            .entries = e,
                            .durable = 8,
                            .want = 9,
                            .damaged = true},
                       d;
    uint32_t n = replica_msg_bytes(&m);
    struct err err = {0};
    uint8_t *b = malloc(n), *again = malloc(n);

    (void)state;
    assert_non_null(b);
    assert_non_null(again);
    assert_int_equal(replica_msg_encode(&m, b), n);
    assert_int_equal(replica_msg_type_of((struct slice){b, n}), REPLICA_PREPARE);
    assert_int_equal(replica_msg_decode((struct slice){b, n}, &d, got, &err), RC_OK);
    assert_int_equal(d.n, 2);
    assert_int_equal(d.first, 7);
    assert_int_equal(d.want, 9);
    assert_true(d.damaged);
    assert_int_equal(got[0].epoch, 3);
    assert_memory_equal(got[0].bytes.p, "abc", 3);
    for (uint32_t cut = 0; cut < n; cut++) {
        uint8_t *q = exact(b, cut);

        assert_int_equal(replica_msg_decode((struct slice){q, cut}, &d, got, &err), RC_CORRUPT);
        free(q);
    }
    for (uint32_t i = 0; i < n; i++) {
        for (uint32_t bit = 0; bit < 8; bit++) {
            b[i] ^= (uint8_t)(1u << bit);
            if (replica_msg_decode((struct slice){b, n}, &d, got, &err) == RC_OK) {
                assert_int_equal(replica_msg_bytes(&d), n);
                assert_int_equal(replica_msg_encode(&d, again), n);
                assert_memory_equal(again, b, n);
            }
            b[i] ^= (uint8_t)(1u << bit);
        }
    }
    free(b);
    free(again);
}

static void snapshot_bytes(void **state)
{
    uint8_t rows[64], b[256];
    uint32_t rows_n = 0, n;
    struct slice k, v;
    struct replica_snap s = {.type = REPLICA_SNAP_PAGE,
                             .from_disk = id(1),
                             .to_disk = id(2),
                             .id = 77,
                             .index = 12,
                             .done = true,
                             .cursor = {(const uint8_t *)"k0", 2}},
                        d;
    struct err err = {0};
    size_t at = 0;

    (void)state;
    assert_true(replica_row_put(rows, sizeof(rows), &rows_n,
                                (struct slice){(const uint8_t *)"k1", 2},
                                (struct slice){(const uint8_t *)"value", 5}));
    assert_true(replica_row_put(rows, sizeof(rows), &rows_n,
                                (struct slice){(const uint8_t *)"k2", 2}, (struct slice){0}));
    assert_false(replica_row_put(rows, rows_n + 6, &rows_n, (struct slice){(const uint8_t *)"k", 1},
                                 (struct slice){0}));
    s.rows = (struct slice){rows, rows_n};
    n = replica_snap_bytes(&s);
    assert_true(n > 0 && n <= sizeof(b));
    assert_int_equal(replica_snap_encode(&s, b), n);
    assert_int_equal(replica_snap_decode((struct slice){b, n}, &d, &err), RC_OK);
    assert_true(d.done);
    assert_int_equal(d.index, 12);
    assert_int_equal(d.cursor.n, 2);
    assert_int_equal(replica_row_next(d.rows, &at, &k, &v), RC_OK);
    assert_memory_equal(v.p, "value", 5);
    assert_int_equal(replica_row_next(d.rows, &at, &k, &v), RC_OK);
    assert_int_equal(v.n, 0);
    assert_int_equal(replica_row_next(d.rows, &at, &k, &v), RC_NOTFOUND);
    for (size_t cut = 1; cut < rows_n; cut++) { /* a cut page ends in RC_CORRUPT or on a row */
        uint8_t *q = exact(rows, cut);
        enum rc rc = RC_OK;

        for (at = 0; rc == RC_OK;)
            rc = replica_row_next((struct slice){q, cut}, &at, &k, &v);
        assert_int_equal(rc, cut == 13 ? RC_NOTFOUND : RC_CORRUPT);
        free(q);
    }
    s.rc = RC_BUSY;
    s.rows.n = 0;
    n = replica_snap_encode(&s, b);
    assert_int_equal(replica_snap_decode((struct slice){b, n}, &d, &err), RC_OK);
    assert_int_not_equal(d.rc, RC_OK);
    for (uint32_t cut = 0; cut < REPLICA_MSG_HEAD_BYTES + 2; cut++) {
        uint8_t *q = exact(b, cut);

        assert_int_equal(replica_snap_decode((struct slice){q, cut}, &d, &err), RC_CORRUPT);
        free(q);
    }
}

static void comparison_bytes(void **state)
{
    struct replica_compare m = {.type = REPLICA_COMPARE_SUM,
                                .from_disk = id(1),
                                .from_boot = id(2),
                                .to_disk = id(3),
                                .config = 4,
                                .epoch = 5,
                                .id = 6,
                                .index = 7,
                                .rc = RC_STALE,
                                .rows_n = 8,
                                .lacked_n = 9,
                                .mended_n = 10,
                                .digest = {11, 12}},
                           d;
    uint8_t b[REPLICA_COMPARE_BYTES], again[REPLICA_COMPARE_BYTES];
    struct replica_entry got[REPLICA_BATCH];
    struct replica_snap snap;
    struct replica_msg msg;
    struct err err = {0};

    (void)state;
    replica_compare_encode(&m, b);
    assert_int_equal(replica_msg_type_of((struct slice){b, sizeof(b)}), REPLICA_COMPARE_SUM);
    assert_int_equal(replica_compare_decode((struct slice){b, sizeof(b)}, &d, &err), RC_OK);
    assert_int_not_equal(d.rc, RC_OK);
    assert_int_equal(d.id, 6);
    assert_int_equal(d.mended_n, 10);
    assert_memory_equal(d.digest, m.digest, sizeof(d.digest));
    assert_int_equal(replica_msg_decode((struct slice){b, sizeof(b)}, &msg, got, &err), RC_CORRUPT);
    assert_int_equal(replica_snap_decode((struct slice){b, sizeof(b)}, &snap, &err), RC_CORRUPT);
    for (uint32_t cut = 0; cut < sizeof(b); cut++) {
        uint8_t *q = exact(b, cut);

        assert_int_equal(replica_compare_decode((struct slice){q, cut}, &d, &err), RC_CORRUPT);
        free(q);
    }
    for (uint32_t i = 8; i < sizeof(b); i++) { /* every field is where it is looked for */
        b[i] ^= 0x55;
        if (replica_compare_decode((struct slice){b, sizeof(b)}, &d, &err) == RC_OK) {
            d.rc = m.rc;
            replica_compare_encode(&d, again);
            if (i < 56 + 7 * 8 || i >= REPLICA_MSG_HEAD_BYTES)
                assert_memory_equal(again, b, sizeof(b));
        }
        b[i] ^= 0x55;
    }
}

/* Who is odd: only what more than half of all members, and at least min_in_sync, agree on counts.
 */
static void comparison_judged(void **state)
{
    static const struct {
        const char *states; /* a letter a member; '-' = it could not tell */
        uint32_t min_in_sync;
        enum compare_verdict want;
        uint32_t odd;
    } rows[] = {
        {"a", 1, COMPARE_EQUAL, 0},         {"aa", 2, COMPARE_EQUAL, 0},
        {"aaa", 2, COMPARE_EQUAL, 0},       {"ab", 1, COMPARE_UNDECIDED, 0},
        {"ab", 2, COMPARE_UNDECIDED, 0},    {"aab", 2, COMPARE_ODD, 4},
        {"aba", 2, COMPARE_ODD, 2},         {"baa", 2, COMPARE_ODD, 1},
        {"abc", 2, COMPARE_UNDECIDED, 0},   {"aab", 3, COMPARE_UNDECIDED, 0},
        {"aabb", 2, COMPARE_UNDECIDED, 0},  {"aaab", 2, COMPARE_ODD, 8},
        {"abaca", 2, COMPARE_ODD, 2 | 8},   {"abacd", 2, COMPARE_UNDECIDED, 0},
        {"aa-", 2, COMPARE_UNKNOWN, 0},     {"ab-", 2, COMPARE_UNKNOWN, 0},
        {"-", 1, COMPARE_UNKNOWN, 0},       {"aabaa", 4, COMPARE_ODD, 4},
        {"abbaa", 4, COMPARE_UNDECIDED, 0},
    };

    (void)state;
    for (size_t r = 0; r < ARRAY_N(rows); r++) {
        struct replica_compare sums[GROUP_MEMBERS_MAX] = {0};
        uint32_t n = (uint32_t)strlen(rows[r].states), got = 99;

        for (uint32_t i = 0; i < n; i++) {
            sums[i].digest[31] = (uint8_t)rows[r].states[i];
            if (rows[r].states[i] == '-') sums[i].rc = RC_UNAVAIL;
        }
        assert_int_equal(replica_compare_judge(sums, n, rows[r].min_in_sync, &got), rows[r].want);
        assert_int_equal(got, rows[r].odd);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(config_bytes),     cmocka_unit_test(wish_and_promise_bytes),
        cmocka_unit_test(message_bytes),    cmocka_unit_test(snapshot_bytes),
        cmocka_unit_test(comparison_bytes), cmocka_unit_test(comparison_judged),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
