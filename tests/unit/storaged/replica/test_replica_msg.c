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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(config_bytes),
        cmocka_unit_test(wish_and_promise_bytes),
        cmocka_unit_test(message_bytes),
        cmocka_unit_test(snapshot_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
