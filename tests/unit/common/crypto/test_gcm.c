/* tests/unit/common/crypto/test_gcm.c - AES-256-GCM and GMAC: published vectors with both engines,
 * and both against each other over random lengths, in random pieces, in place and not. Where the
 * processor has only one, it is compared with itself, and the test says so. */
#include "common/base/macros.h"
#include "common/crypto/gcm.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define TEXT_MAX (200u << 10)

static uint64_t seed = 1;

static uint32_t below(uint32_t n)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return n == 0 ? 0 : (uint32_t)(seed >> 33) % n;
}

static void fill(uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        p[i] = (uint8_t)below(256);
}

static struct gcm *gcm_of(const uint8_t key[32], bool openssl)
{
    struct gcm *g = NULL;

    gcm_use_openssl(openssl);
    assert_int_equal(gcm_new(key, &g), RC_OK);
    gcm_use_openssl(false);
    return g;
}

/* McGrew and Viega, The Galois/Counter Mode of Operation, test cases 13, 14 and 16. */
static void test_vectors(void **state)
{
    static const uint8_t zero[32];
    static const uint8_t tag13[16] = {0x53, 0x0f, 0x8a, 0xfb, 0xc7, 0x45, 0x36, 0xb9,
                                      0xa9, 0x63, 0xb4, 0xf1, 0xc4, 0xcb, 0x73, 0x8b};
    static const uint8_t text14[16] = {0xce, 0xa7, 0x40, 0x3d, 0x4d, 0x60, 0x6b, 0x6e,
                                       0x07, 0x4e, 0xc5, 0xd3, 0xba, 0xf3, 0x9d, 0x18};
    static const uint8_t tag14[16] = {0xd0, 0xd1, 0xc8, 0xa7, 0x99, 0x99, 0x6b, 0xf0,
                                      0x26, 0x5b, 0x98, 0xb5, 0xd4, 0x8a, 0xb9, 0x19};
    static const uint8_t key16[32] = {0xfe, 0xff, 0xe9, 0x92, 0x86, 0x65, 0x73, 0x1c,
                                      0x6d, 0x6a, 0x8f, 0x94, 0x67, 0x30, 0x83, 0x08,
                                      0xfe, 0xff, 0xe9, 0x92, 0x86, 0x65, 0x73, 0x1c,
                                      0x6d, 0x6a, 0x8f, 0x94, 0x67, 0x30, 0x83, 0x08};
    static const uint8_t nonce16[12] = {0xca, 0xfe, 0xba, 0xbe, 0xfa, 0xce,
                                        0xdb, 0xad, 0xde, 0xca, 0xf8, 0x88};
    static const uint8_t aad16[20] = {0xfe, 0xed, 0xfa, 0xce, 0xde, 0xad, 0xbe, 0xef, 0xfe, 0xed,
                                      0xfa, 0xce, 0xde, 0xad, 0xbe, 0xef, 0xab, 0xad, 0xda, 0xd2};
    static const uint8_t plain16[60] = {
        0xd9, 0x31, 0x32, 0x25, 0xf8, 0x84, 0x06, 0xe5, 0xa5, 0x59, 0x09, 0xc5, 0xaf, 0xf5, 0x26,
        0x9a, 0x86, 0xa7, 0xa9, 0x53, 0x15, 0x34, 0xf7, 0xda, 0x2e, 0x4c, 0x30, 0x3d, 0x8a, 0x31,
        0x8a, 0x72, 0x1c, 0x3c, 0x0c, 0x95, 0x95, 0x68, 0x09, 0x53, 0x2f, 0xcf, 0x0e, 0x24, 0x49,
        0xa6, 0xb5, 0x25, 0xb1, 0x6a, 0xed, 0xf5, 0xaa, 0x0d, 0xe6, 0x57, 0xba, 0x63, 0x7b, 0x39};
    static const uint8_t tag16[16] = {0x76, 0xfc, 0x6e, 0xce, 0x0f, 0x4e, 0x17, 0x68,
                                      0xcd, 0xdf, 0x88, 0x53, 0xbb, 0x2d, 0x55, 0x1b};

    (void)state;
    for (int i = 0; i < 2; i++) {
        struct gcm *g = gcm_of(zero, i == 1), *h = gcm_of(key16, i == 1);
        uint8_t out[60], tag[16];

        assert_int_equal(gcm_seal_begin(g, zero, NULL, 0), RC_OK);
        assert_int_equal(gcm_seal_end(g, tag), RC_OK);
        assert_memory_equal(tag, tag13, 16);
        assert_int_equal(gcm_mac_begin(g, zero), RC_OK);
        assert_int_equal(gcm_mac_end(g, tag), RC_OK);
        assert_memory_equal(tag, tag13, 16);
        assert_int_equal(gcm_seal_begin(g, zero, NULL, 0), RC_OK);
        assert_int_equal(gcm_seal_part(g, zero, out, 16), RC_OK);
        assert_int_equal(gcm_seal_end(g, tag), RC_OK);
        assert_memory_equal(out, text14, 16);
        assert_memory_equal(tag, tag14, 16);
        assert_int_equal(gcm_seal_begin(h, nonce16, aad16, sizeof aad16), RC_OK);
        assert_int_equal(gcm_seal_part(h, plain16, out, sizeof plain16), RC_OK);
        assert_int_equal(gcm_seal_end(h, tag), RC_OK);
        assert_memory_equal(tag, tag16, 16);
        gcm_free(g);
        gcm_free(h);
    }
}

struct one {
    uint8_t nonce[12], aad[96], tag[16], mac[16];
    size_t aad_n, n;
};

/* MIN would draw twice. */
static size_t piece(size_t left)
{
    size_t n = (size_t)below(1u << below(18)) + 1;

    return MIN(left, n);
}

static void seal_pieces(struct gcm *g, struct one *o, const uint8_t *in, uint8_t *out)
{
    size_t at = 0;

    assert_int_equal(gcm_seal_begin(g, o->nonce, o->aad, o->aad_n), RC_OK);
    while (at < o->n) {
        size_t part = piece(o->n - at);

        assert_int_equal(gcm_seal_part(g, in + at, out + at, part), RC_OK);
        at += part;
    }
    assert_int_equal(gcm_seal_end(g, o->tag), RC_OK);
}

static void mac_pieces(struct gcm *g, struct one *o, const uint8_t *p)
{
    size_t at = 0;

    assert_int_equal(gcm_mac_begin(g, o->nonce), RC_OK);
    while (at < o->n) {
        size_t part = piece(o->n - at);

        assert_int_equal(gcm_mac_part(g, p + at, part), RC_OK);
        at += part;
    }
    assert_int_equal(gcm_mac_end(g, o->mac), RC_OK);
}

static enum rc open_whole(struct gcm *g, const struct one *o, const uint8_t *in, uint8_t *out)
{
    assert_int_equal(gcm_open_begin(g, o->nonce, o->aad, o->aad_n), RC_OK);
    assert_int_equal(gcm_open_part(g, in, out, o->n), RC_OK);
    return gcm_open_end(g, o->tag);
}

static void test_engines_agree(void **state)
{
    uint8_t *plain = malloc(TEXT_MAX), *a = malloc(TEXT_MAX), *b = malloc(TEXT_MAX), key[32];

    (void)state;
    assert_true(plain != NULL && a != NULL && b != NULL);
    print_message("engine: %s\n", gcm_engine());
    for (int round = 0; round < 400; round++) {
        struct gcm *g, *h;
        struct one x = {.aad_n = below(97), .n = below(1u << below(18))}, y;

        fill(key, sizeof key);
        fill(x.nonce, sizeof x.nonce);
        fill(x.aad, sizeof x.aad);
        fill(plain, x.n);
        y = x;
        g = gcm_of(key, false);
        h = gcm_of(key, true);
        memcpy(b, plain, x.n);
        seal_pieces(g, &x, plain, a);
        seal_pieces(h, &y, b, b); /* in place */
        assert_memory_equal(a, b, x.n);
        assert_memory_equal(x.tag, y.tag, 16);
        mac_pieces(g, &x, a);
        mac_pieces(h, &y, a);
        assert_memory_equal(x.mac, y.mac, 16);
        assert_int_equal(open_whole(g, &x, b, b), RC_OK);
        assert_memory_equal(b, plain, x.n);
        assert_int_equal(open_whole(h, &x, a, b), RC_OK);
        assert_memory_equal(b, plain, x.n);
        if (x.n > 0) { /* one bit of the text, of the tag, of the AAD */
            a[below((uint32_t)x.n)] ^= (uint8_t)(1u << below(8));
            assert_int_equal(open_whole(g, &x, a, b), RC_CORRUPT);
            assert_int_equal(open_whole(h, &x, a, b), RC_CORRUPT);
        }
        gcm_free(g);
        gcm_free(h);
    }
    free(plain);
    free(a);
    free(b);
}

static void test_flips(void **state)
{
    uint8_t text[70], out[70], key[32] = {9};
    struct one x = {.aad_n = 20, .n = sizeof text};

    (void)state;
    fill(text, sizeof text);
    for (int i = 0; i < 2; i++) {
        struct gcm *g = gcm_of(key, i == 1);

        seal_pieces(g, &x, text, text);
        for (uint32_t bit = 0; bit < 8 * 16; bit++) {
            x.tag[bit / 8] ^= (uint8_t)(1u << bit % 8);
            assert_int_equal(open_whole(g, &x, text, out), RC_CORRUPT);
            x.tag[bit / 8] ^= (uint8_t)(1u << bit % 8);
        }
        for (uint32_t bit = 0; bit < 8 * 20; bit++) {
            x.aad[bit / 8] ^= (uint8_t)(1u << bit % 8);
            assert_int_equal(open_whole(g, &x, text, out), RC_CORRUPT);
            x.aad[bit / 8] ^= (uint8_t)(1u << bit % 8);
        }
        assert_int_equal(open_whole(g, &x, text, out), RC_OK);
        gcm_free(g);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_vectors),
        cmocka_unit_test(test_engines_agree),
        cmocka_unit_test(test_flips),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
