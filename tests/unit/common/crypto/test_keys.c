/* tests/unit/common/crypto/test_keys.c - wrapped keys, the master key's file, sealed documents,
 * digests, signatures and capabilities. `test_keys vectors` prints with fixed keys what vectors.py
 * opens or computes a second time (wrapped values are random, so Python unwraps them). */
#include "common/base/buf.h"
#include "common/base/crc32c.h"
#include "common/base/hex.h"
#include "common/base/le.h"
#include "common/crypto/capability.h"
#include "common/crypto/chunk_seal.h"
#include "common/crypto/digest.h"
#include "common/crypto/docseal.h"
#include "common/crypto/keys.h"
#include "common/crypto/sign.h"
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

static struct slice text(const char *s)
{
    return (struct slice){(const uint8_t *)s, strlen(s)};
}

static struct key key_of(uint8_t byte)
{
    struct key k;

    memset(k.b, byte, sizeof(k.b));
    return k;
}

static struct id128 id_of(uint8_t byte)
{
    struct id128 id;

    memset(id.b, byte, sizeof(id.b));
    return id;
}

static struct key_place place_of(void)
{
    return (struct key_place){
        .kind = KEY_BODY, .parent_epoch = 3, .parent = text("col/case-7"), .self = text("body-1")};
}

static void test_wrap_is_bound(void **state)
{
    struct key parent = key_of(1), k = key_of(2), got, other = key_of(3);
    struct key_place p = place_of(), q;
    uint8_t w[KEY_WRAPPED_BYTES], w2[KEY_WRAPPED_BYTES];
    struct slice bytes = {w, sizeof(w)};
    uint32_t epoch = 0;

    (void)state;
    assert_int_equal(key_wrap(&parent, &p, &k, w), RC_OK);
    assert_int_equal(key_wrap(&parent, &p, &k, w2), RC_OK);
    assert_memory_not_equal(w, w2, sizeof(w));
    assert_int_equal(key_wrapped_epoch(bytes, &epoch), RC_OK);
    assert_int_equal(epoch, 3);
    assert_int_equal(key_unwrap(&parent, &p, bytes, &got), RC_OK);
    assert_memory_equal(got.b, k.b, 32);
    for (unsigned bit = 0; bit < KEY_WRAPPED_BYTES * 8; bit++) {
        w[bit / 8] ^= (uint8_t)(1u << bit % 8);
        assert_int_equal(key_unwrap(&parent, &p, bytes, &got), RC_CORRUPT);
        w[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    for (size_t n = 0; n < sizeof(w); n++)
        assert_int_equal(key_unwrap(&parent, &p, (struct slice){w, n}, &got), RC_CORRUPT);
    assert_int_equal(key_unwrap(&other, &p, bytes, &got), RC_CORRUPT);
    q = p;
    q.kind = KEY_CASE;
    assert_int_equal(key_unwrap(&parent, &q, bytes, &got), RC_CORRUPT);
    q = p;
    q.self = text("body-2");
    assert_int_equal(key_unwrap(&parent, &q, bytes, &got), RC_CORRUPT);
    /* the border between the ids is authenticated */
    q = p;
    q.parent = text("col/case-7b");
    q.self = text("ody-1");
    assert_int_equal(key_unwrap(&parent, &q, bytes, &got), RC_CORRUPT);
    assert_int_equal(got.b[0], 0);
    q = p;
    q.parent = text("");
    assert_int_equal(key_wrap(&parent, &q, &k, w), RC_INVAL);
    q.kind = KEY_COLLECTION;
    assert_int_equal(key_wrap(&parent, &q, &k, w), RC_OK);
    q.parent = text("x");
    assert_int_equal(key_wrap(&parent, &q, &k, w), RC_INVAL);
}

static void test_master_file(void **state)
{
    char dir[] = "/tmp/mikura-test-keys-XXXXXX", path[64], other[64];
    struct key_master made, got;
    uint8_t raw[KEY_MASTER_FILE_BYTES];
    struct stat st;
    struct err err;
    int fd;

    (void)state;
    assert_non_null(mkdtemp(dir));
    (void)snprintf(path, sizeof(path), "%s/master.key", dir);
    (void)snprintf(other, sizeof(other), "%s/other.key", dir);
    assert_int_equal(key_master_load(path, &got, &err), RC_NOTFOUND);
    assert_int_equal(key_master_create(path, 1234567, &made, &err), RC_OK);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0400);
    assert_int_equal(st.st_nlink, 1); /* the temporary name is gone */
    assert_int_equal(key_master_load(path, &got, &err), RC_OK);
    assert_memory_equal(got.key.b, made.key.b, 32);
    assert_memory_equal(got.fingerprint, made.fingerprint, 32);
    assert_int_equal(got.created_unix_ms, 1234567);
    /* never overwritten */
    assert_int_equal(key_master_create(path, 9, &made, &err), RC_EXISTS);
    assert_int_equal(key_master_load(path, &made, &err), RC_OK);
    assert_memory_equal(got.key.b, made.key.b, 32);
    assert_int_equal(key_master_create(other, 9, &made, &err), RC_OK);
    assert_memory_not_equal(got.fingerprint, made.fingerprint, 32);
    assert_int_equal(key_master_create("/nonexistent/x/master.key", 9, &made, &err), RC_NOTFOUND);

    /* open to others, no plain file, damaged */
    assert_int_equal(chmod(path, 0440), 0);
    assert_int_equal(key_master_load(path, &made, &err), RC_DENIED);
    assert_non_null(strstr(err.msg, "chmod 0400"));
    assert_int_equal(key_master_load(dir, &made, &err), RC_DENIED);
    assert_int_equal(chmod(path, 0600), 0);
    fd = open(path, O_RDWR);
    assert_true(fd >= 0);
    assert_int_equal(read(fd, raw, sizeof(raw)), sizeof(raw));
    for (unsigned i = 0; i < sizeof(raw); i++) {
        raw[i] ^= 0x10;
        assert_int_equal(key_master_decode((struct slice){raw, sizeof(raw)}, &made, &err),
                         RC_CORRUPT);
        raw[i] ^= 0x10;
    }
    assert_int_equal(ftruncate(fd, 63), 0);
    assert_int_equal(key_master_load(path, &made, &err), RC_CORRUPT);
    assert_int_equal(ftruncate(fd, 65), 0);
    assert_int_equal(key_master_load(path, &made, &err), RC_CORRUPT);
    assert_int_equal(close(fd), 0);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(unlink(other), 0);
    assert_int_equal(rmdir(dir), 0); /* nothing else was left there */
}

static void test_docseal(void **state)
{
    struct key k = key_of(4), other = key_of(5);
    struct slice id = text("m/case/1/path"), plain = text("history: none");
    uint8_t s[100], back[100];
    struct slice sealed = {s, plain.n + DOCSEAL_EXTRA_BYTES};
    size_t n = 0;

    (void)state;
    assert_int_equal(docseal_seal(&k, DOCSEAL_CASE, id, plain, s), RC_OK);
    assert_int_equal(docseal_open(&k, DOCSEAL_CASE, id, sealed, back, &n), RC_OK);
    assert_int_equal(n, plain.n);
    assert_memory_equal(back, plain.p, n);
    assert_int_equal(docseal_open(&k, DOCSEAL_INLINE, id, sealed, back, &n), RC_CORRUPT);
    assert_int_equal(docseal_open(&other, DOCSEAL_CASE, id, sealed, back, &n), RC_CORRUPT);
    assert_int_equal(back[0], 0);
    assert_int_equal(docseal_open(&k, DOCSEAL_CASE, text("m/case/2/path"), sealed, back, &n),
                     RC_CORRUPT);
    for (unsigned bit = 0; bit < sealed.n * 8; bit++) {
        s[bit / 8] ^= (uint8_t)(1u << bit % 8);
        assert_int_equal(docseal_open(&k, DOCSEAL_CASE, id, sealed, back, &n), RC_CORRUPT);
        s[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    for (size_t cut = 0; cut < sealed.n; cut++) {
        assert_int_equal(docseal_open(&k, DOCSEAL_CASE, id, (struct slice){s, cut}, back, &n),
                         RC_CORRUPT);
    }
    /* nothing is a value too */
    assert_int_equal(docseal_seal(&k, DOCSEAL_INLINE, id, text(""), s), RC_OK);
    assert_int_equal(
        docseal_open(&k, DOCSEAL_INLINE, id, (struct slice){s, DOCSEAL_EXTRA_BYTES}, back, &n),
        RC_OK);
    assert_int_equal(n, 0);
}

static enum rc add_line(struct commit_root *r, const char *path, uint64_t version)
{
    struct commit_line l = {.path = text(path), .version = version, .size_bytes = version * 10};

    memset(l.tree_sha256, (int)version, sizeof(l.tree_sha256));
    return commit_root_add(r, &l);
}

static void test_commit_root(void **state)
{
    struct commit_root r;
    uint8_t a[32], b[32];

    (void)state;
    commit_root_init(&r);
    assert_int_equal(add_line(&r, "a", 2), RC_OK);
    assert_int_equal(add_line(&r, "a", 2), RC_INVAL);
    assert_int_equal(add_line(&r, "a", 1), RC_INVAL);
    assert_int_equal(add_line(&r, "a", 3), RC_OK);
    assert_int_equal(add_line(&r, "a/b", 1), RC_OK); /* a prefix comes first */
    assert_int_equal(commit_root_final(&r, a), RC_OK);
    assert_int_equal(add_line(&r, "a", 9), RC_INVAL);
    assert_int_equal(add_line(&r, "", 9), RC_INVAL);
    assert_int_equal(add_line(&r, "\xe7\x97\x87", 1), RC_OK); /* bytes are unsigned */
    assert_int_equal(commit_root_final(&r, b), RC_OK);
    assert_memory_not_equal(a, b, 32);
    commit_root_init(&r);
    assert_int_equal(commit_root_final(&r, b), RC_OK);
    assert_memory_not_equal(a, b, 32);
}

static void test_sign(void **state)
{
    struct key seed = key_of(6), other = key_of(7);
    struct sign_public pub, pub2, loaded;
    uint8_t sig[SIGN_SIGNATURE_BYTES];
    struct slice m = text("receipt bytes"), s = {sig, sizeof(sig)};
    struct signer *signer = NULL;

    (void)state;
    assert_int_equal(sign_public_of(&seed, &pub), RC_OK);
    assert_int_equal(sign_public_of(&other, &pub2), RC_OK);
    assert_int_equal(sign_public_load((struct slice){pub.b, 32}, &loaded), RC_OK);
    assert_true(id128_eq(&pub.id, &loaded.id));
    assert_int_equal(sign_public_load((struct slice){pub.b, 31}, &loaded), RC_INVAL);
    assert_int_equal(signer_new(&seed, &signer), RC_OK);
    assert_memory_equal(signer_public(signer)->b, pub.b, sizeof(pub.b));
    assert_int_equal(sign_message(signer, SIGN_RECEIPT, m, sig), RC_OK);
    signer_free(signer);
    assert_int_equal(sign_verify(&pub, SIGN_RECEIPT, m, s), RC_OK);
    assert_int_equal(sign_verify(&pub, SIGN_CAPABILITY, m, s), RC_DENIED);
    assert_int_equal(sign_verify(&pub2, SIGN_RECEIPT, m, s), RC_DENIED);
    assert_int_equal(sign_verify(&pub, SIGN_RECEIPT, text("receipt bytez"), s), RC_DENIED);
    sig[63] ^= 1;
    assert_int_equal(sign_verify(&pub, SIGN_RECEIPT, m, s), RC_DENIED);
    assert_int_equal(sign_verify(&pub, SIGN_RECEIPT, m, (struct slice){sig, 63}), RC_DENIED);
}

static struct capability cap_of(const struct id128 *bodies, uint32_t n)
{
    return (struct capability){.cluster = id_of(1),
                               .job = id_of(2),
                               .task = 77,
                               .attempt = 2,
                               .key_epoch = 5,
                               .expires_unix_ms = 1000000,
                               .worker_uri = text("mikura://node/computed/c1"),
                               .bodies = bodies[0].b,
                               .bodies_n = n};
}

static enum rc encode(const struct capability *cap, const struct key *seed, struct buf *out)
{
    struct signer *signer = NULL;
    enum rc rc = signer_new(seed, &signer);

    if (rc == RC_OK) rc = capability_encode(cap, signer, out);
    signer_free(signer);
    return rc;
}

static void test_capability(void **state)
{
    struct id128 bodies[5] = {id_of(9), id_of(3), id_of(9), id_of(200), id_of(4)}, no = id_of(5);
    struct key seed = key_of(6), forger = key_of(7), third = key_of(8);
    struct sign_public keys[2];
    struct capability cap, got;
    struct capability_check check, c;
    struct err err;
    struct buf out;
    struct slice bytes;
    uint32_t n;

    (void)state;
    buf_init(&out, CAPABILITY_BYTES_MAX);
    assert_int_equal(sign_public_of(&seed, &keys[1]), RC_OK);
    assert_int_equal(sign_public_of(&third, &keys[0]), RC_OK);
    cap = cap_of(bodies, 5);
    assert_int_equal(encode(&cap, &seed, &out), RC_INVAL); /* unsorted */
    n = capability_sort_bodies(bodies, 5);
    assert_int_equal(n, 4);
    cap = cap_of(bodies, n);
    assert_int_equal(encode(&cap, &seed, &out), RC_OK);
    bytes = (struct slice){out.p, out.n};
    check = (struct capability_check){.cluster = cap.cluster,
                                      .worker_uri = cap.worker_uri,
                                      .now_unix_ms = 999999,
                                      .key_epoch_min = 5,
                                      .keys = keys,
                                      .keys_n = 2};
    assert_int_equal(capability_verify(bytes, &check, &got, &err), RC_OK);
    assert_int_equal(got.task, 77);
    assert_int_equal(got.attempt, 2);
    assert_true(id128_eq(&got.job, &cap.job));
    for (uint32_t i = 0; i < n; i++)
        assert_true(capability_allows(&got, &bodies[i]));
    assert_false(capability_allows(&got, &no));
    for (uint32_t bit = 0; bit < out.n * 8; bit++) {
        enum rc rc;

        out.p[bit / 8] ^= (uint8_t)(1u << bit % 8);
        rc = capability_verify(bytes, &check, &got, &err);
        assert_true(rc == RC_CORRUPT || rc == RC_DENIED);
        out.p[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    for (size_t cut = 0; cut < out.n; cut++) {
        assert_int_equal(capability_verify((struct slice){out.p, cut}, &check, &got, &err),
                         RC_CORRUPT);
    }
    c = check;
    c.now_unix_ms = 1000000; /* at the expiry it has expired */
    assert_int_equal(capability_verify(bytes, &c, &got, &err), RC_DENIED);
    assert_non_null(strstr(err.msg, "expired"));
    c = check;
    c.cluster = id_of(2);
    assert_int_equal(capability_verify(bytes, &c, &got, &err), RC_DENIED);
    c = check;
    c.worker_uri = text("mikura://node/computed/c2");
    assert_int_equal(capability_verify(bytes, &c, &got, &err), RC_DENIED);
    c = check;
    c.key_epoch_min = 6;
    assert_int_equal(capability_verify(bytes, &c, &got, &err), RC_STALE);
    c = check;
    c.keys_n = 1;
    assert_int_equal(capability_verify(bytes, &c, &got, &err), RC_DENIED);
    buf_reset(&out);
    assert_int_equal(encode(&cap, &forger, &out), RC_OK);
    assert_int_equal(capability_verify((struct slice){out.p, out.n}, &check, &got, &err),
                     RC_DENIED);
    cap.bodies_n = CAPABILITY_BODIES_MAX + 1;
    assert_int_equal(encode(&cap, &seed, &out), RC_INVAL);
    buf_deinit(&out);
}

/* Whatever the pieces: the bytes of seal_block, the leaves of tree_leaf, the digest of
 * digest_chunk.
 */
static void check_chunk(uint32_t n, size_t piece)
{
    struct seal_ident id = {
        .suite = 1, .body = id_of(1), .index = 2, .seal_id = id_of(3), .plain_bytes = n};
    struct key body = key_of(9);
    uint8_t *plain = malloc(n), *cipher = malloc(n), *want = malloc(n), tags[64 * 16], tag[16];
    uint8_t digest[32], want_digest[32];
    struct chunk_leaf leaves[8], want_leaves[8];
    uint32_t crcs[64], leaves_n = 0, want_n = 0;
    struct chunk_seal_out out = {cipher, tags, crcs, leaves, 8};
    struct chunk_sealer *s = NULL;
    struct seal *ref = NULL;
    struct err err;

    assert_true(plain != NULL && cipher != NULL && want != NULL);
    for (uint32_t i = 0; i < n; i++)
        plain[i] = (uint8_t)(i * 13 + i / 257);
    assert_int_equal(chunk_sealer_new(&body, &id, &out, &s, &err), RC_OK);
    for (size_t at = 0; at < n; at += piece)
        assert_int_equal(chunk_sealer_update(s, plain + at, MIN(piece, n - at)), RC_OK);
    assert_int_equal(chunk_sealer_update(s, plain, 1), RC_INVAL);
    assert_int_equal(chunk_sealer_finish(s, &leaves_n, digest), RC_OK);
    chunk_sealer_free(s);

    assert_int_equal(seal_new(body.b, &id, &ref, &err), RC_OK);
    for (uint32_t b = 0; b < seal_blocks(n); b++) {
        uint32_t at = b * SEAL_BLOCK_BYTES, len = MIN(SEAL_BLOCK_BYTES, n - at);

        assert_int_equal(seal_block(ref, b, plain + at, want + at, tag), RC_OK);
        assert_memory_equal(tag, tags + 16 * b, 16);
        assert_int_equal(crcs[b], crc32c(0, want + at, len));
    }
    seal_free(ref);
    assert_memory_equal(cipher, want, n);
    for (uint32_t at = 0; at < n; at += TREE_LEAF_BYTES, want_n++) {
        want_leaves[want_n].bytes = MIN(TREE_LEAF_BYTES, n - at);
        assert_int_equal(tree_leaf(plain + at, want_leaves[want_n].bytes, want_leaves[want_n].hash),
                         RC_OK);
    }
    assert_int_equal(leaves_n, want_n);
    for (uint32_t i = 0; i < want_n; i++) {
        assert_int_equal(leaves[i].bytes, want_leaves[i].bytes);
        assert_memory_equal(leaves[i].hash, want_leaves[i].hash, 32);
    }
    assert_int_equal(digest_chunk(&body, want_leaves, want_n, want_digest), RC_OK);
    assert_true(digest_equal(digest, want_digest));
    body.b[0] ^= 1;
    assert_int_equal(digest_chunk(&body, want_leaves, want_n, want_digest), RC_OK);
    assert_false(digest_equal(digest, want_digest));
    free(plain);
    free(cipher);
    free(want);
}

static void test_chunk_seal(void **state)
{
    (void)state;
    check_chunk(1, 1);
    check_chunk(1000, 7);
    check_chunk(65536, 65536);
    check_chunk(65537, 1000);
    check_chunk((1 << 20) + 70000, 1 << 20);
    check_chunk((2 << 20), 65535);
    check_chunk((2 << 20) + 1, (2 << 20) + 1);
}

static void test_chunk_of_several_objects(void **state)
{
    struct seal_ident id = {.suite = 1, .plain_bytes = 100};
    struct key body = key_of(9);
    uint8_t plain[100], cipher[100], tags[16], digest[32], one[32], leaf[32];
    struct chunk_leaf leaves[2];
    struct chunk_seal_out out = {cipher, tags, NULL, leaves, 2};
    struct slice whole = {plain, 100};
    struct chunk_sealer *s = NULL;
    uint32_t n = 0;
    struct err err;

    (void)state;
    memset(plain, 7, sizeof(plain));
    assert_int_equal(chunk_sealer_new(&body, &id, &out, &s, &err), RC_OK);
    assert_int_equal(chunk_sealer_update(s, plain, 30), RC_OK);
    assert_int_equal(chunk_sealer_object_end(s), RC_OK);
    assert_int_equal(chunk_sealer_object_end(s), RC_OK); /* an empty object has no bytes here */
    assert_int_equal(chunk_sealer_finish(s, &n, digest), RC_INVAL); /* 70 missing */
    assert_int_equal(chunk_sealer_update(s, plain + 30, 70), RC_OK);
    assert_int_equal(chunk_sealer_finish(s, &n, digest), RC_OK);
    chunk_sealer_free(s);
    assert_int_equal(n, 2);
    assert_int_equal(leaves[0].bytes, 30);
    assert_int_equal(tree_leaf(plain, 30, leaf), RC_OK);
    assert_memory_equal(leaf, leaves[0].hash, 32);
    /* other pieces, another digest */
    assert_int_equal(chunk_seal(&body, &id, &whole, 1, &out, &n, one, &err), RC_OK);
    assert_false(digest_equal(one, digest));
    /* no room for the second leaf */
    out.leaves_max = 1;
    assert_int_equal(chunk_sealer_new(&body, &id, &out, &s, &err), RC_OK);
    assert_int_equal(chunk_sealer_update(s, plain, 30), RC_OK);
    assert_int_equal(chunk_sealer_object_end(s), RC_OK);
    assert_int_equal(chunk_sealer_update(s, plain, 70), RC_INVAL);
    chunk_sealer_free(s);
}

struct half { /* of a pair */
    uint8_t *plain, *cipher;
    struct chunk_sealer *sealer;
    struct chunk_leaf leaves[3];
    uint8_t tags[64 * 16], digest[32];
    uint32_t n, leaves_n;
};
static void half_begin(struct half *h, uint8_t key, uint32_t n)
{
    struct seal_ident id = {.suite = 1, .body = id_of(key), .plain_bytes = n};
    struct key body = key_of(key);
    struct chunk_seal_out out;
    struct err err;

    memset(h, 0, sizeof(*h));
    h->n = n;
    h->plain = malloc(n);
    h->cipher = malloc(n);
    assert_true(h->plain != NULL && h->cipher != NULL);
    for (uint32_t i = 0; i < n; i++)
        h->plain[i] = (uint8_t)(i * key + i / 251);
    out = (struct chunk_seal_out){h->cipher, h->tags, NULL, h->leaves, 3};
    assert_int_equal(chunk_sealer_new(&body, &id, &out, &h->sealer, &err), RC_OK);
}

static void half_check(struct half *h, uint8_t key)
{
    struct half alone;

    assert_int_equal(chunk_sealer_finish(h->sealer, &h->leaves_n, h->digest), RC_OK);
    half_begin(&alone, key, h->n);
    assert_int_equal(chunk_sealer_update(alone.sealer, alone.plain, alone.n), RC_OK);
    assert_int_equal(chunk_sealer_finish(alone.sealer, &alone.leaves_n, alone.digest), RC_OK);
    assert_memory_equal(h->digest, alone.digest, 32);
    assert_memory_equal(h->cipher, alone.cipher, h->n);
    assert_memory_equal(h->tags, alone.tags, (size_t)seal_blocks(h->n) * 16);
    assert_int_equal(h->leaves_n, alone.leaves_n);
    chunk_sealer_free(alone.sealer);
    free(alone.plain);
    free(alone.cipher);
}

static void half_end(struct half *h)
{
    chunk_sealer_free(h->sealer);
    free(h->plain);
    free(h->cipher);
}

/* a's first `shift` bytes go ahead alone, so that blocks, leaves and ends fall apart. */
static void check_pair(uint32_t a_n, uint32_t b_n, uint32_t shift)
{
    struct chunk_sealer_piece a, b;
    struct half x, y;

    half_begin(&x, 3, a_n);
    half_begin(&y, 5, b_n);
    assert_int_equal(chunk_sealer_update(x.sealer, x.plain, shift), RC_OK);
    a = (struct chunk_sealer_piece){.sealer = x.sealer, .p = x.plain + shift, .n = a_n - shift};
    b = (struct chunk_sealer_piece){.sealer = y.sealer, .p = y.plain, .n = b_n};
    chunk_sealer_update_pair(&a, &b);
    assert_int_equal(a.rc, RC_OK);
    assert_int_equal(b.rc, RC_OK);
    half_check(&x, 3);
    half_check(&y, 5);
    half_end(&x);
    half_end(&y);
}

static void only_one_fails(struct chunk_sealer_piece *a, struct chunk_sealer_piece *b,
                           struct half *x, struct half *y)
{
    chunk_sealer_update_pair(a, b);
    assert_int_equal(a->rc, RC_INVAL);
    assert_int_equal(b->rc, RC_OK);
    half_check(y, 5);
    half_end(x);
    half_end(y);
}

static void test_chunk_pair(void **state)
{
    struct chunk_sealer_piece a, b;
    struct half x, y;

    (void)state;
    check_pair(1, 1, 0);
    check_pair(64, 1000, 0);
    check_pair(1000, 64, 63);
    check_pair(65536, 65536, 0);
    check_pair(512 << 10, 512 << 10, 0);
    check_pair(512 << 10, 70000, 1);
    check_pair((2 << 20) + 77, (1 << 20) + 1, 65535);
    check_pair((1 << 20) + 1, (3 << 20) - 5, 40000);
    /* one fails, and the other does not */
    half_begin(&x, 3, 1000);
    half_begin(&y, 5, 1000);
    a = (struct chunk_sealer_piece){.sealer = x.sealer, .p = x.plain, .n = 1001};
    b = (struct chunk_sealer_piece){.sealer = y.sealer, .p = y.plain, .n = 1000};
    only_one_fails(&a, &b, &x, &y);
    /* no room for a fourth leaf */
    half_begin(&x, 3, 100);
    half_begin(&y, 5, 1000);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(chunk_sealer_update(x.sealer, x.plain, 1), RC_OK);
        assert_int_equal(chunk_sealer_object_end(x.sealer), RC_OK);
    }
    a = (struct chunk_sealer_piece){.sealer = x.sealer, .p = x.plain, .n = 97};
    b = (struct chunk_sealer_piece){.sealer = y.sealer, .p = y.plain, .n = 1000};
    only_one_fails(&a, &b, &x, &y);
}

static void print_hex(const char *name, const uint8_t *p, size_t n)
{
    char *t = malloc(2 * n + 1);

    if (t == NULL) abort();
    hex_encode(p, n, t);
    (void)printf("%s %s\n", name, t);
    free(t);
}

static void must(enum rc rc)
{
    if (rc != RC_OK) abort();
}

static void print_vectors(void)
{
    struct key parent = key_of(1), k = key_of(2), case_key = key_of(4), seed = key_of(6);
    struct key_place p = place_of();
    struct key_master m = {.key = key_of(1), .created_unix_ms = 1234567}, m2;
    uint8_t w[KEY_WRAPPED_BYTES], doc[64 + DOCSEAL_EXTRA_BYTES], d[32], file[KEY_MASTER_FILE_BYTES];
    struct chunk_leaf leaves[2] = {{.bytes = 1048576}, {.bytes = 5}};
    struct id128 bodies[2] = {id_of(3), id_of(9)};
    struct capability cap = cap_of(bodies, 2);
    struct sign_public pub;
    struct commit_root r;
    struct buf out;
    struct err err;
    char name[16];

    must(key_wrap(&parent, &p, &k, w));
    print_hex("wrapped", w, sizeof(w));
    key_master_encode(&m, file);
    print_hex("master", file, sizeof(file));
    must(key_master_decode((struct slice){file, sizeof(file)}, &m2, &err));
    print_hex("fingerprint", m2.fingerprint, 32);
    must(docseal_seal(&case_key, DOCSEAL_CASE, text("identity"), text("a case document"), doc));
    print_hex("doc", doc, 15 + DOCSEAL_EXTRA_BYTES);
    memset(leaves[0].hash, 0xaa, 32);
    memset(leaves[1].hash, 0xbb, 32);
    must(digest_chunk(&k, leaves, 2, d));
    print_hex("chunkdigest", d, 32);
    must(digest_manifest(&case_key, text("identity"), text("manifest"), d));
    print_hex("manifest", d, 32);
    commit_root_init(&r);
    for (unsigned i = 0; i <= 5; i++) {
        must(commit_root_final(&r, d));
        (void)snprintf(name, sizeof(name), "root%u", i);
        print_hex(name, d, 32);
        (void)snprintf(name, sizeof(name), "path%u", i);
        must(add_line(&r, name, i + 1));
    }
    must(sign_public_of(&seed, &pub));
    print_hex("public", pub.b, 32);
    print_hex("keyid", pub.id.b, 16);
    buf_init(&out, CAPABILITY_BYTES_MAX);
    must(encode(&cap, &seed, &out));
    print_hex("capability", out.p, out.n);
    buf_deinit(&out);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_wrap_is_bound), cmocka_unit_test(test_master_file),
        cmocka_unit_test(test_docseal),       cmocka_unit_test(test_commit_root),
        cmocka_unit_test(test_sign),          cmocka_unit_test(test_capability),
        cmocka_unit_test(test_chunk_seal),    cmocka_unit_test(test_chunk_of_several_objects),
        cmocka_unit_test(test_chunk_pair),
    };

    if (argc == 2 && strcmp(argv[1], "vectors") == 0) {
        print_vectors();
        return 0;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
