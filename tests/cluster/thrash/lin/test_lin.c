/* The checker on histories whose verdict is known (histories.txt), and beside a search without any
 * of its rules over random small histories, true ones and spoilt ones. */
#include "tests/cluster/thrash/lin/lin_file.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
/* behind the headers that it needs */
#include <cmocka.h>

#define STATES_MAX 5000000u

static enum lin_verdict verdict(struct lin_op *ops, uint32_t n, bool naive)
{
    struct lin_result r;

    lin_check(ops, n, naive, STATES_MAX, &r);
    free(r.stuck);
    return r.verdict;
}

/* "== NAME good|bad" and the operations of one key. */
static void test_known(void **unused)
{
    FILE *in = fopen(MIKURA_SOURCE_DIR "/tests/cluster/thrash/lin/histories.txt", "re");
    char line[256], name[96] = "", want[8] = "", next_name[96], next_want[8];
    struct lin_file f = {0};
    uint32_t n = 0, good = 0, bad = 0;
    bool more;

    (void)unused;
    assert_non_null(in);
    do {
        more = fgets(line, sizeof line, in) != NULL;
        n++;
        if (more && strncmp(line, "== ", 3) != 0) {
            if (!lin_file_line(&f, line, n)) fail_msg("line %u is no operation", n);
            continue;
        }
        if (more) assert_int_equal(sscanf(line, "== %95s %7s", next_name, next_want), 2);
        if (name[0] != 0) {
            bool is_good = strcmp(want, "good") == 0;

            if (!is_good) assert_string_equal(want, "bad");
            if (f.keys_n != 1) fail_msg("%s: %u keys", name, f.keys_n);
            for (int naive = 0; naive < 2; naive++) {
                if (naive && f.keys[0].ops_n > 9) continue; /* too many orders */
                if (verdict(f.keys[0].ops, f.keys[0].ops_n, naive) !=
                    (is_good ? LIN_GOOD : LIN_BAD))
                    fail_msg("%s is %s%s", name, want, naive ? " (naive)" : "");
            }
            good += is_good;
            bad += !is_good;
        }
        lin_file_free(&f);
        f = (struct lin_file){0};
        memcpy(name, next_name, sizeof name);
        memcpy(want, next_want, sizeof want);
    } while (more);
    (void)fclose(in);
    assert_true(good >= 20 && bad >= 20);
}

/* ---- random ones ---- */
static uint64_t dice;
static uint32_t roll(uint32_t n)
{
    dice ^= dice << 13;
    dice ^= dice >> 7;
    dice ^= dice << 17;
    return (uint32_t)(dice >> 33) % n;
}

/* A true history: each operation takes effect at one moment, `at`; what it answers is what it saw
 * there; then its interval is widened, and of those that change something `forget` in a hundred
 * outcomes are forgotten. */
static uint32_t history_make(struct lin_op *ops, uint32_t n_max, uint32_t forget)
{
    uint64_t generation = 0, visible = 0, staged = 0, at = 1000;
    uint32_t n = 0;

    while (n < n_max) {
        struct lin_op *o = &ops[n++];

        at += 10;
        *o = (struct lin_op){
            .generation = LIN_ANY, .value = n, .start = at - roll(25), .end = at + roll(25)};
        switch (roll(7)) {
        case 0:
        case 1:
            o->kind = LIN_PUT;
            visible = o->value;
            staged = 0;
            o->generation = ++generation;
            break;
        case 2:
            o->kind = LIN_STAGE;
            staged = o->value;
            break;
        case 3:
            o->expected = generation;
            o->kind = staged == 0 ? LIN_REFUSED : LIN_COMMIT;
            if (staged == 0) {
                o->expected += 1 + roll(2);
                break;
            }
            visible = staged;
            staged = 0;
            o->generation = ++generation;
            break;
        case 4:
            o->kind = visible == 0 ? LIN_NONE : LIN_DELETE;
            if (visible == 0) break;
            visible = 0;
            o->generation = ++generation;
            break;
        default:
            o->kind = visible == 0 ? LIN_NONE : LIN_GET;
            o->value = visible;
            if (visible != 0 && roll(2) == 0) o->generation = generation;
            break;
        }
        if (roll(100) >= forget) continue;
        if (o->kind == LIN_GET || o->kind == LIN_NONE || o->kind == LIN_REFUSED) continue;
        o->end = LIN_UNKNOWN;
        o->generation = LIN_ANY;
    }
    return n;
}

static void spoil(struct lin_op *ops, uint32_t n)
{
    struct lin_op *o = &ops[roll(n)];

    if (roll(3) == 0) {
        o->value = 1 + roll(n);
    } else if (roll(2) == 0 && o->generation != LIN_ANY) {
        o->generation += roll(2) == 0 ? 1 : UINT64_MAX;
    } else {
        o->end = o->end == LIN_UNKNOWN ? o->start + 1 : o->end;
        o->start += 40;
        o->end += 40;
    }
}

static void test_beside_naive(void **unused)
{
    uint32_t bad = 0, good = 0;

    (void)unused;
    for (uint32_t seed = 1; seed <= 6000; seed++) {
        struct lin_op ops[8];
        enum lin_verdict v, w;
        uint32_t n;

        dice = seed * 2654435769u + 1;
        n = history_make(ops, 3 + roll(5), 25);
        if (seed % 3 == 0) assert_int_equal(verdict(ops, n, false), LIN_GOOD);
        for (uint32_t k = seed % 3 * 2; k > 0; k--)
            spoil(ops, n);
        v = verdict(ops, n, false);
        w = verdict(ops, n, true);
        if (w == LIN_GAVE_UP) continue;
        if (v != w) fail_msg("seed %u: %d, without rules %d", seed, v, w);
        good += v == LIN_GOOD;
        bad += v == LIN_BAD;
    }
    print_message("%u linearizable, %u not\n", good, bad);
    assert_true(good > 1000 && bad > 1000);
}

/* Thousands of operations, a quarter of the changes without an outcome: more than the thrasher
 * gives. To show that there is no order takes longer than to find one: hundreds. */
static void test_long(void **unused)
{
    struct lin_op *ops = calloc(4000, sizeof *ops);

    (void)unused;
    assert_non_null(ops);
    dice = 77;
    (void)history_make(ops, 4000, 25);
    assert_int_equal(verdict(ops, 4000, false), LIN_GOOD);
    for (uint32_t seed = 1; seed <= 20; seed++) {
        uint32_t i = 250, old = 100;

        dice = seed * 2654435769u + 1;
        (void)history_make(ops, 300, 10);
        assert_int_equal(verdict(ops, 300, false), LIN_GOOD);
        while (ops[i].kind != LIN_GET)
            i++;
        while (ops[old].kind != LIN_PUT || ops[old].end == LIN_UNKNOWN)
            old++;
        ops[i].value = ops[old].value; /* one read of what was long gone */
        ops[i].generation = LIN_ANY;
        assert_int_equal(verdict(ops, 300, false), LIN_BAD);
    }
    free(ops);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_known),
        cmocka_unit_test(test_beside_naive),
        cmocka_unit_test(test_long),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
