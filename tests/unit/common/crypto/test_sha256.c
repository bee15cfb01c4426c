/* tests/unit/common/crypto/test_sha256.c - two messages at a time are what one at a time is,
 * whatever the lengths, the pieces and where they begin. */
#include "common/crypto/sha256.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define BYTES_MAX 5000u

static uint64_t seed = 1;

static size_t below(size_t n)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (size_t)(seed >> 33) % n;
}

struct message {
    uint8_t *p; /* malloc'ed to its length: a byte read behind it is found */
    size_t n, at;
    struct sha256 s;
};

static void message_new(struct message *m)
{
    m->n = below(BYTES_MAX);
    m->at = 0;
    m->p = malloc(MAX(m->n, (size_t)1));
    assert_non_null(m->p);
    for (size_t i = 0; i < m->n; i++)
        m->p[i] = (uint8_t)below(256);
    sha256_begin(&m->s);
}

static void message_end(struct message *m)
{
    uint8_t got[SHA256_BYTES], want[SHA256_BYTES];

    sha256_part(&m->s, m->p + m->at, m->n - m->at);
    sha256_end(&m->s, got);
    assert_non_null(SHA256(m->p, m->n, want));
    assert_memory_equal(got, want, sizeof got);
    free(m->p);
}

static void test_pairs(void **state)
{
    (void)state;
    print_message("two at a time on this CPU: %s\n", sha256_pairs() ? "yes" : "no");
    for (int round = 0; round < 2000; round++) {
        struct message a, b;

        message_new(&a);
        message_new(&b);
        while (below(6) != 0) {
            size_t most = MIN(a.n - a.at, b.n - b.at), n = below(most + 1);
            size_t alone = below(70);

            sha256_part_pair(&a.s, a.p + a.at, &b.s, b.p + b.at, n);
            a.at += n;
            b.at += n;
            alone = MIN(alone, a.n - a.at); /* from here on their blocks begin apart */
            sha256_part(&a.s, a.p + a.at, alone);
            a.at += alone;
        }
        message_end(&a);
        message_end(&b);
    }
}

/* FIPS 180-4's count of bits is one of 64: it must pass from the low word to the high one. */
static void test_long(void **state)
{
    static uint8_t piece[1 << 20];
    uint8_t got[2][SHA256_BYTES];
    struct sha256 s[3];

    (void)state;
    for (int i = 0; i < 3; i++)
        sha256_begin(&s[i]);
    for (int i = 0; i < 3; i++) /* 512 MiB of bits behind them, as if they had been hashed */
        s[i].ctx.Nl = 0xffffffff - (1u << 20) * 8 / 2 + 1;
    sha256_part_pair(&s[0], piece, &s[1], piece, sizeof piece);
    sha256_part(&s[2], piece, sizeof piece);
    assert_int_equal(s[2].ctx.Nh, 1);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(s[i].ctx.Nl, s[2].ctx.Nl);
        assert_int_equal(s[i].ctx.Nh, s[2].ctx.Nh);
    }
    sha256_end(&s[0], got[0]);
    sha256_end(&s[2], got[1]);
    assert_memory_equal(got[0], got[1], SHA256_BYTES);
    sha256_end(&s[1], got[0]);
    assert_memory_equal(got[0], got[1], SHA256_BYTES);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_pairs), cmocka_unit_test(test_long)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
