/* tests/bench/crypto/bench_crypto.c - CPU-seconds per GB (10^9 bytes) of what a byte of user data
 * goes through, beside raw AES-256-GCM and raw SHA-256 of the same run. One JSON object a row, with
 * the fields of every benchmark here (tests/bench/put_get/README.md).
 *   bench_crypto [MIB-PER-ROW, default 512] */
#include "common/base/clock.h"
#include "common/base/crc32c.h"
#include "common/base/strutil.h"
#include "common/crypto/chunk_seal.h"
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>

#define CHUNK_BYTES (8u << 20)
#define MIB_MAX     (1u << 20)

static double cpu_s(void)
{
    struct timespec t;

    if (clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t) != 0) abort();
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

struct bench {
    uint8_t *plain, *cipher, *tags;
    uint32_t crcs[CHUNK_BYTES / SEAL_BLOCK_BYTES];
    struct chunk_leaf leaves[CHUNK_BYTES / TREE_LEAF_BYTES];
    struct key body;
    struct seal_ident id;
    EVP_CIPHER_CTX *gcm;
    EVP_MD_CTX *md;
};

static void must(bool ok)
{
    if (!ok) abort();
}

static void raw_gcm(struct bench *b)
{
    static const uint8_t nonce[12];
    int n;

    must(EVP_EncryptInit_ex(b->gcm, EVP_aes_256_gcm(), NULL, b->body.b, nonce) == 1);
    must(EVP_EncryptUpdate(b->gcm, b->cipher, &n, b->plain, CHUNK_BYTES) == 1);
    must(EVP_EncryptFinal_ex(b->gcm, b->tags, &n) == 1);
}

static void raw_sha256(struct bench *b)
{
    uint8_t d[32];

    must(EVP_DigestInit_ex(b->md, EVP_sha256(), NULL) == 1);
    must(EVP_DigestUpdate(b->md, b->plain, CHUNK_BYTES) == 1);
    must(EVP_DigestFinal_ex(b->md, d, NULL) == 1);
}

static void raw_crc32c(struct bench *b)
{
    must(crc32c(0, b->plain, CHUNK_BYTES) != 0);
}

/* As the gateway does: pieces of 1 MiB as gRPC messages bring them. */
static void seal_pieces(struct bench *b)
{
    struct chunk_seal_out out = {b->cipher, b->tags, b->crcs, b->leaves, ARRAY_N(b->leaves)};
    struct slice pieces[CHUNK_BYTES >> 20];
    uint8_t digest[32];
    uint32_t n;

    b->id = (struct seal_ident){.suite = SEAL_SUITE_AES256GCM,
                                .body = {{1}},
                                .index = 7,
                                .seal_id = id128_random(),
                                .plain_bytes = CHUNK_BYTES};
    for (uint32_t i = 0; i < ARRAY_N(pieces); i++)
        pieces[i] = (struct slice){b->plain + ((size_t)i << 20), 1u << 20};
    must(chunk_seal(&b->body, &b->id, pieces, ARRAY_N(pieces), &out, &n, digest, NULL) == RC_OK);
}

/* What seal_pieces sealed last (the row before). */
static void open_chunk(struct bench *b)
{
    struct seal *s;

    must(seal_new(b->body.b, &b->id, &s, NULL) == RC_OK);
    for (uint32_t i = 0; i < CHUNK_BYTES / SEAL_BLOCK_BYTES; i++) {
        size_t at = (size_t)i * SEAL_BLOCK_BYTES;

        must(seal_open_block(s, i, b->cipher + at, b->tags + (size_t)i * 16, b->plain + at) ==
             RC_OK);
    }
    seal_free(s);
}

static int by_value(const void *x, const void *y)
{
    double p = *(const double *)x, q = *(const double *)y;

    return (p > q) - (p < q);
}

static void row(struct bench *b, const char *op, void (*run)(struct bench *b), size_t times)
{
    double *ms = calloc(times, sizeof(*ms)), cpu_from, cpu, wall_s = 0;
    double gb = (double)times * CHUNK_BYTES / 1e9;
    struct rusage ru;

    must(ms != NULL);
    run(b); /* warm */
    cpu_from = cpu_s();
    for (size_t i = 0; i < times; i++) {
        uint64_t from_us = clock_boot_us();

        run(b);
        ms[i] = (double)(clock_boot_us() - from_us) / 1e3;
        wall_s += ms[i] / 1e3;
    }
    cpu = cpu_s() - cpu_from;
    qsort(ms, times, sizeof(*ms), by_value);
    must(getrusage(RUSAGE_SELF, &ru) == 0);
    (void)printf(
        "{\"size\":%u,\"op\":\"%s\",\"mb_s\":%.1f,\"ops_s\":%.1f,\"p50_ms\":%.3f,\"p99_ms\":%.3f,"
        "\"cpu_s_per_gb\":%.3f,\"rss_mb\":%.1f}\n",
        CHUNK_BYTES, op, gb * 1e3 / wall_s, (double)times / wall_s, ms[times / 2],
        ms[times - 1 - times / 100], cpu / gb, (double)ru.ru_maxrss / 1024);
    free(ms);
}

int main(int argc, char **argv)
{
    static const struct {
        const char *op;
        void (*run)(struct bench *b);
    } rows[] = {{"raw_aes256gcm", raw_gcm},
                {"raw_sha256", raw_sha256},
                {"raw_crc32c", raw_crc32c},
                {"chunk_seal", seal_pieces},
                {"chunk_open", open_chunk}};
    static struct bench b;
    uint64_t mib = 512;

    if (argc > 1 && !str_to_u64(argv[1], MIB_MAX, &mib)) {
        (void)fprintf(stderr, "usage: bench_crypto [MIB]\n");
        return 2;
    }
    b.plain = aligned_alloc(4096, CHUNK_BYTES);
    b.cipher = aligned_alloc(4096, CHUNK_BYTES);
    b.tags = malloc(CHUNK_BYTES / SEAL_BLOCK_BYTES * SEAL_TAG_BYTES);
    b.gcm = EVP_CIPHER_CTX_new();
    b.md = EVP_MD_CTX_new();
    must(b.plain != NULL && b.cipher != NULL && b.tags != NULL && b.gcm != NULL && b.md != NULL);
    random_bytes(b.plain, CHUNK_BYTES);
    key_random(&b.body);
    for (size_t i = 0; i < ARRAY_N(rows); i++)
        row(&b, rows[i].op, rows[i].run, MAX(mib * (1u << 20) / CHUNK_BYTES, 1));
    EVP_CIPHER_CTX_free(b.gcm);
    EVP_MD_CTX_free(b.md);
    free(b.plain);
    free(b.cipher);
    free(b.tags);
    return 0;
}
