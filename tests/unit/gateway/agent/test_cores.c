/* tests/unit/gateway/agent/test_cores.c - timetable, back-off, recognition, packing, journal to the
 * byte. */
#include "gateway/agent/backoff_core.h"
#include "gateway/agent/journal_core.h"
#include "gateway/agent/pace_core.h"
#include "gateway/agent/recog_core.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

enum { MON, TUE, WED, THU, FRI, SAT, SUN };
#define AT(h, m) ((h)*60 + (m))

static void timetable(void **state)
{
    struct pace_table t;
    struct err e;

    (void)state;
    assert_int_equal(
        pace_parse("mon-fri 08:00-18:00 2MiB/s; sat,sun off; fri-mon 22:00-06:00 50MB/s;"
                   " unlimited",
                   &t, &e),
        RC_OK);
    assert_int_equal(t.n, 4);
    assert_int_equal(pace_rate(&t, MON, AT(8, 0)), 2u << 20);
    assert_int_equal(pace_rate(&t, MON, AT(17, 59)), 2u << 20);
    assert_int_equal(pace_rate(&t, MON, AT(18, 0)), PACE_NO_LIMIT);
    assert_int_equal(pace_rate(&t, SAT, AT(12, 0)), 0);
    assert_int_equal(pace_rate(&t, FRI, AT(23, 0)), 50000000);
    assert_int_equal(pace_rate(&t, TUE, AT(1, 0)),
                     50000000); /* of the night that began on Monday */
    assert_int_equal(pace_rate(&t, WED, AT(1, 0)), PACE_NO_LIMIT);
    assert_int_equal(pace_parse("", &t, &e), RC_OK);
    assert_int_equal(pace_rate(&t, WED, 0), PACE_NO_LIMIT);
    assert_int_equal(pace_parse("1KiB/s", &t, &e), RC_OK);
    assert_int_equal(pace_rate(&t, SUN, AT(23, 59)), 1024);
}

static void timetable_refused(void **state)
{
    static const char *const BAD[] = {
        "fast",
        "mon",
        "5MiB",
        "0MiB/s",
        "08:00 2MiB/s",
        "25:00-26:00 off",
        "08:00-08:00 off",
        "mon-xyz off",
        "2MiB/s mon",
        "mon,, off",
        "08:61-09:00 off",
        "off off",
        "99999999999B/s",
        "-1MiB/s",
    };
    struct pace_table t;

    (void)state;
    for (size_t i = 0; i < ARRAY_N(BAD); i++) {
        struct err e = {0};

        if (pace_parse(BAD[i], &t, &e) == RC_OK) fail_msg("'%s' was taken", BAD[i]);
        assert_non_null(strstr(e.msg, "bandwidth rule"));
    }
}

/* Over any time the bytes that went are the rate's and one burst at most; and not much less. */
static void bucket(void **state)
{
    static const uint64_t RATES[] = {1000, 1u << 20, 100000000};

    (void)state;
    for (size_t r = 0; r < ARRAY_N(RATES); r++) {
        struct pace_bucket b = {.at_ms = 1000};
        uint64_t now = 1000, sent = 0, wait, piece = MAX(RATES[r] / 50, 1u);

        for (int i = 0; i < 20000; i++) {
            if (pace_take(&b, RATES[r], now, (uint32_t)piece, &wait)) {
                sent += piece;
                assert_true(sent <= RATES[r] * (now - 1000) / 1000 + RATES[r] / 4 + piece + 1);
            } else {
                assert_true(wait > 0 && wait <= 1000);
                now += wait;
            }
        }
        assert_true(sent >= RATES[r] * (now - 1000) / 1000 * 95 / 100);
    }
}

static void bucket_changes(void **state)
{
    struct pace_bucket b = {.at_ms = 0};
    uint64_t wait;

    (void)state;
    assert_false(pace_take(&b, 0, 5000, 1, &wait)); /* off */
    assert_false(pace_take(&b, 0, 50000, 1, &wait));
    assert_true(pace_take(&b, PACE_NO_LIMIT, 50001, 1u << 30, &wait));
    assert_false(pace_take(&b, 1000, 50001, 1000000, &wait));
    assert_true(pace_take(&b, 1000, 50101, 1000000, &wait)); /* now it owes 1000 s */
    assert_false(pace_take(&b, 1000, 51000, 1, &wait));
    assert_true(pace_take(&b, PACE_NO_LIMIT, 51000, 1, &wait)); /* which a new rate forgets */
}

static void back_off(void **state)
{
    struct backoff b = {100, 5000, 0};
    uint64_t top = 100;

    (void)state;
    for (int i = 0; i < 12; i++) {
        struct backoff low = b;
        uint64_t most = backoff_next_ms(&b, 0), least = backoff_next_ms(&low, UINT32_MAX);

        assert_int_equal(most, top);
        assert_true(least >= top / 2 && least <= top);
        top = MIN(top * 2, 5000u);
    }
    backoff_reset(&b);
    assert_int_equal(backoff_next_ms(&b, 0), 100);
}

static void recognition(void **state)
{
    struct recog r = {0};
    uint8_t a[32] = {1}, b[32] = {2};

    (void)state;
    assert_false(recog_see(&r, RECOG_QUIET, 60000, false, a, 1000));
    assert_false(recog_see(&r, RECOG_QUIET, 60000, false, a, 60999));
    assert_true(recog_see(&r, RECOG_QUIET, 60000, false, a, 61000));
    assert_false(recog_see(&r, RECOG_QUIET, 60000, false, b, 61001)); /* it changed */
    assert_false(recog_see(&r, RECOG_QUIET, 60000, false, a, 61002)); /* and back */
    assert_true(recog_see(&r, RECOG_QUIET, 60000, true, a, 200000));
    assert_false(recog_see(&r, RECOG_MARKER, 0, false, a, 300000));
    assert_true(recog_see(&r, RECOG_MARKER, 60000, true, b, 300000));
    assert_true(recog_see(&r, RECOG_LIST, 60000, false, a, 300001));
}

static void packing(void **state)
{
    uint64_t same[100], big[] = {9, 1, 1}, fits[] = {8, 1}, none[] = {0, 0, 8, 0};
    bool alone;

    (void)state;
    for (size_t i = 0; i < 100; i++)
        same[i] = 3;
    assert_int_equal(recog_pack(same, 100, 8, 64, &alone), 2);
    assert_false(alone);
    assert_int_equal(recog_pack(same, 100, 1000, 64, &alone), 64);
    assert_int_equal(recog_pack(same, 1, 1000, 64, &alone), 1);
    assert_int_equal(recog_pack(big, 3, 8, 64, &alone), 1);
    assert_true(alone);
    assert_int_equal(recog_pack(fits, 2, 8, 64, &alone), 1);
    assert_false(alone);
    assert_int_equal(recog_pack(none, 4, 8, 64, &alone), 4);
    assert_int_equal(recog_pack(none, 0, 8, 64, &alone), 0);
}

/* ---- journal ---- */
static struct slice text(const char *s)
{
    return (struct slice){(const uint8_t *)s, strlen(s)};
}

static struct journal_rec *rec_of(enum journal_kind kind)
{
    struct journal_rec *r = calloc(1, sizeof *r);

    assert_non_null(r);
    r->kind = kind;
    r->case_id = text("case-1");
    r->root = text("/data/in/case-1");
    r->text = text("why");
    r->id.b[3] = 7;
    r->print[31] = 9;
    r->generation = 4;
    r->count = 5;
    r->bytes = 6;
    r->outcome = 2;
    r->files_n = 2;
    r->files[0] = (struct journal_file){text("a/b.dcm"), 100, 11, -12, 13};
    r->files[1] = (struct journal_file){text("c"), 0, 0, INT64_MAX, 0};
    r->results[1] = (struct journal_result){UINT64_MAX, 77, {1, 2}, 1};
    return r;
}

static void journal_round(void **state)
{
    static uint8_t out[JOURNAL_FRAME_BYTES + JOURNAL_BODY_MAX], again[sizeof out];

    (void)state;
    for (int kind = JOURNAL_OPEN; kind < JOURNAL_KIND_N; kind++) {
        struct journal_rec *r = rec_of((enum journal_kind)kind), *got = calloc(1, sizeof *got);
        uint64_t seq;
        size_t n, len, n2;

        assert_int_equal(journal_encode(r, 42, 41, out, sizeof out, &n), RC_OK);
        assert_int_equal(journal_next(out, n, 42, got, &seq, &len), RC_OK);
        assert_true(seq == 42 && len == n && got->kind == r->kind);
        assert_int_equal(journal_encode(got, 42, 41, again, sizeof again, &n2), RC_OK);
        assert_true(n == n2 && memcmp(out, again, n) == 0);
        assert_int_equal(journal_next(out, n, 0, got, &seq, &len), RC_OK);
        assert_int_equal(journal_next(out, n, 43, got, &seq, &len), RC_ABORTED);
        /* every bit and every length matter */
        for (size_t i = 0; i < n; i++) {
            assert_int_equal(journal_next(out, i, 42, got, &seq, &len),
                             i == 0 ? RC_RANGE : RC_ABORTED);
            out[i] ^= 0x10;
            assert_int_not_equal(journal_next(out, n, 42, got, &seq, &len), RC_OK);
            out[i] ^= 0x10;
        }
        free(r);
        free(got);
    }
}

/* A broken record: the end, unless one behind it knew it durable. */
static void journal_tail(void **state)
{
    static uint8_t out[4096];
    struct journal_rec *r = rec_of(JOURNAL_CASE), *got = calloc(1, sizeof *got);
    size_t first, second, len;
    uint64_t seq;

    (void)state;
    for (uint64_t synced = 0; synced <= 8; synced += 4) {
        assert_int_equal(journal_encode(r, 8, 4, out, sizeof out, &first), RC_OK);
        assert_int_equal(journal_encode(r, 9, synced, out + first, sizeof out - first, &second),
                         RC_OK);
        out[JOURNAL_FRAME_BYTES] ^= 1;
        /* 9 was written with 8 in one go: 8 was never acknowledged */
        assert_int_equal(journal_next(out, first + second, 8, got, &seq, &len),
                         synced >= 8 ? RC_CORRUPT : RC_ABORTED);
    }
    free(r);
    free(got);
}

static void journal_limits(void **state)
{
    static uint8_t out[JOURNAL_FRAME_BYTES + JOURNAL_BODY_MAX];
    struct journal_rec *r = rec_of(JOURNAL_ASIDE);
    char *longest = calloc(1, JOURNAL_TEXT_MAX + 2);
    size_t n;

    (void)state;
    memset(longest, 'x', JOURNAL_TEXT_MAX);
    r->text = text(longest);
    assert_int_equal(journal_encode(r, 1, 0, out, sizeof out, &n), RC_OK);
    longest[JOURNAL_TEXT_MAX] = 'x';
    r->text = text(longest);
    assert_int_equal(journal_encode(r, 1, 0, out, sizeof out, &n), RC_INVAL);
    r->kind = JOURNAL_UPLOAD;
    r->files_n = 0;
    assert_int_equal(journal_encode(r, 1, 0, out, sizeof out, &n), RC_INVAL);
    r->files_n = JOURNAL_FILES_MAX + 1;
    assert_int_equal(journal_encode(r, 1, 0, out, sizeof out, &n), RC_INVAL);
    assert_int_equal(journal_encode(r, 1, 0, out, 10, &n), RC_NOMEM);
    free(longest);
    free(r);
}

static void journal_order(void **state)
{
    static const struct {
        enum journal_state from;
        enum journal_kind kind;
        int to; /* -1: cannot be */
    } STEPS[] = {
        {JCASE_NONE, JOURNAL_CASE, JCASE_OPEN},
        {JCASE_NONE, JOURNAL_UPLOAD, -1},
        {JCASE_NONE, JOURNAL_DONE, JCASE_DONE}, /* a compacted journal */
        {JCASE_OPEN, JOURNAL_UPLOAD, JCASE_OPEN},
        {JCASE_OPEN, JOURNAL_COMMIT, JCASE_COMMITTING},
        {JCASE_COMMITTING, JOURNAL_UPLOAD, -1},
        {JCASE_COMMITTING, JOURNAL_COMMIT, JCASE_COMMITTING},
        {JCASE_COMMITTING, JOURNAL_DONE, JCASE_DONE},
        {JCASE_COMMITTING, JOURNAL_DROPPED, JCASE_OPEN},
        {JCASE_DONE, JOURNAL_STAGED, -1},
        {JCASE_DONE, JOURNAL_CASE, JCASE_OPEN},
        {JCASE_DONE, JOURNAL_COMMIT, -1},
        {JCASE_OPEN, JOURNAL_ASIDE, JCASE_ASIDE},
        {JCASE_ASIDE, JOURNAL_RETRY, JCASE_OPEN},
        {JCASE_ASIDE, JOURNAL_LOOKED, JCASE_ASIDE},
        {JCASE_ASIDE, JOURNAL_STAGED, -1},
        {JCASE_NONE, JOURNAL_RETRY, -1},
        {JCASE_OPEN, JOURNAL_OPEN, -1},
    };
    enum journal_state to;

    (void)state;
    for (size_t i = 0; i < ARRAY_N(STEPS); i++) {
        enum rc rc = journal_step(STEPS[i].from, STEPS[i].kind, &to);

        if ((rc == RC_OK) != (STEPS[i].to >= 0) || (rc == RC_OK && (int)to != STEPS[i].to))
            fail_msg("step %zu: %s, to %d", i, rc_name(rc), (int)to);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(timetable),     cmocka_unit_test(timetable_refused),
        cmocka_unit_test(bucket),        cmocka_unit_test(bucket_changes),
        cmocka_unit_test(back_off),      cmocka_unit_test(recognition),
        cmocka_unit_test(packing),       cmocka_unit_test(journal_round),
        cmocka_unit_test(journal_tail),  cmocka_unit_test(journal_limits),
        cmocka_unit_test(journal_order),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
