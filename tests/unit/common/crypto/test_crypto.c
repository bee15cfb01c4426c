/* tests/unit/common/crypto/test_crypto.c - sealing and digests. `test_crypto vectors` prints what
 * vectors.py computes a second time. */
#include "common/base/hex.h"
#include "common/base/macros.h"
#include "common/crypto/seal.h"
#include "common/crypto/tree_sha256.h"
#include <openssl/sha.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

static uint8_t *pattern(size_t n)
{
    uint8_t *p = malloc(n + 1);

    if (p == NULL) abort();
    for (size_t i = 0; i < n; i++)
        p[i] = (uint8_t)(i * 7 + i / 251);
    return p;
}

static struct seal_ident ident_of(uint32_t plain_bytes)
{
    struct seal_ident id = {.suite = 1, .index = 5, .plain_bytes = plain_bytes};

    for (unsigned i = 0; i < 16; i++) {
        id.body.b[i] = (uint8_t)i;
        id.seal_id.b[i] = (uint8_t)(16 + i);
    }
    return id;
}

static struct seal *sealer(const struct seal_ident *id, uint8_t key_byte)
{
    uint8_t key[32];
    struct seal *s = NULL;
    struct err err;

    memset(key, key_byte, sizeof(key));
    if (seal_new(key, id, &s, &err) != RC_OK) abort();
    return s;
}

/* One stream in pieces of `piece` bytes. */
static void stream_digest(const uint8_t *p, size_t n, size_t piece, uint8_t out[32])
{
    struct tree_stream *t;
    enum rc rc = tree_stream_new(&t);

    for (size_t at = 0; rc == RC_OK && at < n; at += piece) {
        rc = tree_stream_update(t, p + at, MIN(piece, n - at));
    }
    if (rc == RC_OK) rc = tree_stream_digest(t, out);
    if (rc != RC_OK) abort();
    tree_stream_free(t);
}

static void print_vectors(void)
{
    static const size_t sizes[] = {0, 1, 1048575, 1048576, 1048577, 3145728, 5242897, 8388608};
    static const uint32_t chunks[] = {1, 65536, 65537, 200000};
    char text[65];
    uint8_t d[32];

    for (size_t i = 0; i < ARRAY_N(sizes); i++) {
        uint8_t *p = pattern(sizes[i]);

        stream_digest(p, sizes[i], 1 << 16, d);
        hex_encode(d, 32, text);
        (void)printf("tree %zu %s\n", sizes[i], text);
        free(p);
    }
    for (size_t i = 0; i < ARRAY_N(chunks); i++) {
        uint8_t *p = pattern(chunks[i]), tag[16];
        struct seal_ident id = ident_of(chunks[i]);
        struct seal *s = sealer(&id, 0x42);

        for (uint32_t b = 0; b < seal_blocks(chunks[i]); b++) {
            uint8_t *at = p + (size_t)b * SEAL_BLOCK_BYTES;

            if (seal_block(s, b, at, at, tag) != RC_OK) abort();
        }
        hex_encode(SHA256(p, chunks[i], d), 32, text);
        (void)printf("chunk %u %s\n", chunks[i], text);
        seal_free(s);
        free(p);
    }
}

static void test_seal_and_open(void **state)
{
    const uint32_t n = 65536 + 1000;
    struct seal_ident id = ident_of(n);
    struct seal *s = sealer(&id, 1);
    uint8_t *plain = pattern(n), *cipher = malloc(n), *back = malloc(n), tags[2][16];

    (void)state;
    assert_true(cipher != NULL && back != NULL);
    assert_int_equal(seal_blocks(n), 2);
    assert_int_equal(seal_block(s, 1, plain + 65536, cipher + 65536, tags[1]),
                     RC_OK); /* any order */
    assert_int_equal(seal_block(s, 0, plain, cipher, tags[0]), RC_OK);
    assert_int_equal(seal_block(s, 2, plain, cipher, tags[0]), RC_INVAL);
    assert_memory_not_equal(plain, cipher, 64);
    assert_int_equal(seal_open_block(s, 0, cipher, tags[0], back), RC_OK);
    assert_int_equal(seal_open_block(s, 1, cipher + 65536, tags[1], back + 65536), RC_OK);
    assert_memory_equal(plain, back, n);
    /* a block under another number, another block's tag */
    assert_int_equal(seal_open_block(s, 0, cipher, tags[1], back), RC_CORRUPT);
    for (unsigned i = 0; i < 64; i++)
        assert_int_equal(back[i], 0);
    seal_free(s);
    free(plain);
    free(cipher);
    free(back);
}

static void test_every_flip_is_found(void **state)
{
    struct seal_ident id = ident_of(40), other;
    struct seal *s = sealer(&id, 1), *t;
    uint8_t *plain = pattern(40), cipher[40], tag[16], back[40];

    (void)state;
    assert_int_equal(seal_block(s, 0, plain, cipher, tag), RC_OK);
    for (unsigned bit = 0; bit < 40 * 8; bit++) {
        cipher[bit / 8] ^= (uint8_t)(1u << bit % 8);
        assert_int_equal(seal_open_block(s, 0, cipher, tag, back), RC_CORRUPT);
        cipher[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    for (unsigned bit = 0; bit < 16 * 8; bit++) {
        tag[bit / 8] ^= (uint8_t)(1u << bit % 8);
        assert_int_equal(seal_open_block(s, 0, cipher, tag, back), RC_CORRUPT);
        tag[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    for (int field = 0; field < 5; field++) {
        other = id;
        if (field == 0) other.body.b[15] ^= 1;
        if (field == 1) other.index ^= 1;
        if (field == 2) other.seal_id.b[0] ^= 1;
        if (field == 3)
            other.plain_bytes = 65536 + 40; /* then block 0 would be longer: use block 1 */
        t = sealer(&other, field == 4 ? 2 : 1);
        assert_int_equal(seal_open_block(t, field == 3 ? 1 : 0, cipher, tag, back), RC_CORRUPT);
        seal_free(t);
    }
    assert_int_equal(seal_open_block(s, 0, cipher, tag, back), RC_OK);
    seal_free(s);
    free(plain);
}

static void test_refusals(void **state)
{
    struct seal_ident id = ident_of(1);
    uint8_t key[32] = {0};
    struct seal *s;
    struct err err;

    (void)state;
    id.suite = 2;
    assert_int_equal(seal_new(key, &id, &s, &err), RC_INVAL);
    assert_non_null(strstr(err.msg, "suite 2"));
    id = ident_of(0);
    assert_int_equal(seal_new(key, &id, &s, &err), RC_INVAL);
    id = ident_of(SEAL_CHUNK_BYTES_MAX + 1);
    assert_int_equal(seal_new(key, &id, &s, &err), RC_INVAL);
}

static void test_digest_ignores_pieces(void **state)
{
    static const size_t pieces[] = {1000003, 1 << 20, 65536, 5 << 20};
    size_t n = (5 << 20) + 17;
    uint8_t *p = pattern(n), want[32], got[32], leaf[32];
    struct tree_join join;

    (void)state;
    tree_join_init(&join);
    for (size_t at = 0; at < n; at += TREE_LEAF_BYTES) {
        assert_int_equal(tree_leaf(p + at, MIN(TREE_LEAF_BYTES, n - at), leaf), RC_OK);
        assert_int_equal(tree_join_add(&join, leaf), RC_OK);
    }
    assert_int_equal(tree_join_digest(&join, n, want), RC_OK);
    assert_int_equal(tree_join_digest(&join, n + (1 << 20), got), RC_INVAL);
    for (size_t i = 0; i < ARRAY_N(pieces); i++) {
        stream_digest(p, n, pieces[i], got);
        assert_memory_equal(got, want, 32);
    }
    stream_digest(p, n - 1, 65536, got);
    assert_memory_not_equal(got, want, 32);
    free(p);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_seal_and_open),
        cmocka_unit_test(test_every_flip_is_found),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_digest_ignores_pieces),
    };

    if (argc == 2 && strcmp(argv[1], "vectors") == 0) {
        print_vectors();
        return 0;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
