/* tests/unit/common/net/bulk/test_bulk_frame.c - frames without a socket, and the GMAC. */
#include "common/net/bulk_frame.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define N           5u /* header bytes */
#define FRAME_BYTES (BULK_FRAME_EXTRA_BYTES + N)

static struct bulk_key *key_new(void)
{
    static const uint8_t secret[32] = {9};
    struct bulk_key *k = NULL;

    if (bulk_key_new(secret, &k) != RC_OK) abort();
    return k;
}

static void seal(struct bulk_key *k, uint32_t id, uint8_t p[FRAME_BYTES])
{
    struct bulk_frame f = {.type = BULK_REQUEST, .id = id, .payload_n = 1000, .timeout_ms = 77};

    memcpy(p + BULK_FRAME_HEAD_BYTES, "hello", N);
    if (bulk_frame_seal(k, &f, p, N) != RC_OK) abort();
}

static enum rc open_copy(struct bulk_key *k, const uint8_t *p, size_t n, struct bulk_frame *ret_f)
{
    uint8_t copy[FRAME_BYTES];
    struct slice header;
    enum rc rc;

    memcpy(copy, p, n);
    rc = bulk_frame_open(k, copy, n, ret_f, &header);
    if (rc == RC_OK) {
        assert_int_equal(header.n, N);
        assert_memory_equal(header.p, "hello", N);
    }
    return rc;
}

static void test_order(void **state)
{
    struct bulk_key *tx = key_new(), *rx = key_new();
    uint8_t a[FRAME_BYTES], b[FRAME_BYTES];
    struct bulk_frame f;

    (void)state;
    seal(tx, 1, a);
    seal(tx, 2, b);
    assert_int_equal(open_copy(rx, b, sizeof(b), &f), RC_CORRUPT); /* a gap */
    assert_int_equal(open_copy(rx, a, sizeof(a), &f), RC_OK);
    assert_int_equal(f.id, 1);
    assert_int_equal(f.payload_n, 1000);
    assert_int_equal(f.timeout_ms, 77);
    assert_int_equal(open_copy(rx, a, sizeof(a), &f), RC_CORRUPT); /* a replay */
    assert_int_equal(open_copy(rx, b, sizeof(b), &f), RC_OK);
    bulk_key_free(tx);
    bulk_key_free(rx);
}

static void test_every_flip_and_cut(void **state)
{
    struct bulk_key *tx = key_new(), *rx = key_new();
    uint8_t a[FRAME_BYTES];
    struct bulk_frame f;

    (void)state;
    seal(tx, 1, a);
    for (unsigned bit = 0; bit < sizeof(a) * 8; bit++) {
        a[bit / 8] ^= (uint8_t)(1u << bit % 8);
        assert_int_equal(open_copy(rx, a, sizeof(a), &f), RC_CORRUPT);
        a[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    for (size_t n = 0; n < sizeof(a); n++)
        assert_int_equal(open_copy(rx, a, n, &f), RC_CORRUPT);
    assert_int_equal(open_copy(rx, a, sizeof(a), &f), RC_OK);
    bulk_key_free(tx);
    bulk_key_free(rx);
}

static void test_ratchet(void **state)
{
    struct bulk_key *tx = key_new(), *rx = key_new(), *late = key_new();
    uint8_t a[FRAME_BYTES];
    struct bulk_frame f;

    (void)state;
    assert_int_equal(bulk_key_skip(tx, BULK_RATCHET_FRAMES - 1), RC_OK);
    assert_int_equal(bulk_key_skip(rx, BULK_RATCHET_FRAMES - 1), RC_OK);
    assert_int_equal(bulk_key_skip(late, BULK_RATCHET_FRAMES), RC_OK);
    seal(tx, 1, a); /* the last under the first key */
    assert_int_equal(open_copy(rx, a, sizeof(a), &f), RC_OK);
    seal(tx, 2, a); /* the first under the second */
    assert_int_equal(open_copy(late, a, sizeof(a), &f), RC_OK);
    assert_int_equal(open_copy(rx, a, sizeof(a), &f), RC_OK);
    bulk_key_free(tx);
    bulk_key_free(rx);
    bulk_key_free(late);
}

static void test_gmac(void **state)
{
    /* AES-256-GCM, zero key and nonce, no text: tag of empty AAD (McGrew and Viega, test case 13)
     */
    static const uint8_t empty[16] = {0x53, 0x0f, 0x8a, 0xfb, 0xc7, 0x45, 0x36, 0xb9,
                                      0xa9, 0x63, 0xb4, 0xf1, 0xc4, 0xcb, 0x73, 0x8b};
    static const uint8_t key[32];
    uint8_t text[1000], whole[16], other[16];

    (void)state;
    memset(text, 5, sizeof(text));
    assert_int_equal(bulk_gmac(key, text, 0, whole), RC_OK);
    assert_memory_equal(whole, empty, 16);
    assert_int_equal(bulk_gmac(key, text, sizeof(text), whole), RC_OK);
    assert_int_equal(bulk_gmac(key, text, sizeof(text), other), RC_OK);
    assert_true(bulk_gmac_equal(whole, other));
    text[999] ^= 1;
    assert_int_equal(bulk_gmac(key, text, sizeof(text), other), RC_OK);
    assert_false(bulk_gmac_equal(whole, other));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_order),
        cmocka_unit_test(test_every_flip_and_cut),
        cmocka_unit_test(test_ratchet),
        cmocka_unit_test(test_gmac),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
