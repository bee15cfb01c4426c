/* common/crypto/sha256.c - see sha256.h.
 *
 * OpenSSL's own struct holds the state (openssl/sha.h), since its newer interface shows none; only
 * whole blocks of a pair are done here. */
#define OPENSSL_SUPPRESS_DEPRECATED
#include "common/crypto/sha256.h"
#include <pthread.h>
#include <string.h>

#define BLOCK SHA256_CBLOCK

void sha256_begin(struct sha256 *s)
{
    CHECK(SHA256_Init(&s->ctx) == 1);
}

void sha256_part(struct sha256 *s, const void *p, size_t n)
{
    if (n > 0) CHECK(SHA256_Update(&s->ctx, p, n) == 1);
}

void sha256_end(struct sha256 *s, uint8_t ret[SHA256_BYTES])
{
    CHECK(SHA256_Final(ret, &s->ctx) == 1);
}

#ifdef __x86_64__
#include <cpuid.h>
#include <immintrin.h>

#define SHA_NI __attribute__((target("sha,sse4.1,ssse3")))

static const uint32_t K[64] __attribute__((aligned(16))) = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

/* The instructions want the state as (a b e f) and (c d g h). */
SHA_NI static void state_load(const SHA_LONG h[8], __m128i *abef, __m128i *cdgh)
{
    __m128i badc = _mm_shuffle_epi32(_mm_loadu_si128((const __m128i *)(const void *)h), 0xb1);
    __m128i hgfe = _mm_shuffle_epi32(_mm_loadu_si128((const __m128i *)(const void *)(h + 4)), 0x1b);

    *abef = _mm_alignr_epi8(badc, hgfe, 8);
    *cdgh = _mm_blend_epi16(hgfe, badc, 0xf0);
}

SHA_NI static void state_store(__m128i abef, __m128i cdgh, SHA_LONG h[8])
{
    __m128i feba = _mm_shuffle_epi32(abef, 0x1b), dchg = _mm_shuffle_epi32(cdgh, 0xb1);

    _mm_storeu_si128((__m128i *)(void *)h, _mm_blend_epi16(feba, dchg, 0xf0));
    _mm_storeu_si128((__m128i *)(void *)(h + 4), _mm_alignr_epi8(dchg, feba, 8));
}

/* FIPS 180-4 section 6.2.2, four rounds a step, of both messages in turn. */
SHA_NI static void blocks_pair(SHA_LONG *h0, const uint8_t *p0, SHA_LONG *h1, const uint8_t *p1,
                               size_t blocks)
{
    const __m128i big_endian = _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203);
    __m128i abef[2], cdgh[2];

    state_load(h0, &abef[0], &cdgh[0]);
    state_load(h1, &abef[1], &cdgh[1]);
    for (; blocks > 0; blocks--, p0 += BLOCK, p1 += BLOCK) {
        const uint8_t *p[2] = {p0, p1};
        __m128i m[2][4], abef_was[2] = {abef[0], abef[1]}, cdgh_was[2] = {cdgh[0], cdgh[1]};

#pragma GCC unroll 16
        for (int r = 0; r < 16; r++) {
#pragma GCC unroll 2
            for (int i = 0; i < 2; i++) {
                __m128i *w = &m[i][r & 3], last = m[i][(r + 3) & 3], k;

                if (r < 4) {
                    const uint8_t *from = p[i] + 16 * r;

                    *w = _mm_loadu_si128((const __m128i *)(const void *)from);
                    *w = _mm_shuffle_epi8(*w, big_endian);
                } else {
                    __m128i seven_before = _mm_alignr_epi8(last, m[i][(r + 2) & 3], 4);

                    *w = _mm_sha256msg1_epu32(*w, m[i][(r + 1) & 3]);
                    *w = _mm_sha256msg2_epu32(_mm_add_epi32(*w, seven_before), last);
                }
                k = _mm_load_si128((const __m128i *)(const void *)(K + 4 * r));
                k = _mm_add_epi32(*w, k);
                cdgh[i] = _mm_sha256rnds2_epu32(cdgh[i], abef[i], k);
                k = _mm_shuffle_epi32(k, 0x0e);
                abef[i] = _mm_sha256rnds2_epu32(abef[i], cdgh[i], k);
            }
        }
        for (int i = 0; i < 2; i++) {
            abef[i] = _mm_add_epi32(abef[i], abef_was[i]);
            cdgh[i] = _mm_add_epi32(cdgh[i], cdgh_was[i]);
        }
    }
    state_store(abef[0], cdgh[0], h0);
    state_store(abef[1], cdgh[1], h1);
}

static void count(SHA256_CTX *c, uint64_t bytes)
{
    uint64_t bits = ((uint64_t)c->Nh << 32 | c->Nl) + bytes * 8;

    c->Nl = (SHA_LONG)bits;
    c->Nh = (SHA_LONG)(bits >> 32);
}

/* Both begin at a block's start here, wherever they are in their pieces. */
static void pair(struct sha256 *a, const uint8_t *pa, struct sha256 *b, const uint8_t *pb, size_t n)
{
    size_t head_a = (BLOCK - a->ctx.num) % BLOCK, head_b = (BLOCK - b->ctx.num) % BLOCK, blocks;

    if (n < head_a || n < head_b) {
        sha256_part(a, pa, n);
        sha256_part(b, pb, n);
        return;
    }
    sha256_part(a, pa, head_a);
    sha256_part(b, pb, head_b);
    blocks = (n - MAX(head_a, head_b)) / BLOCK;
    blocks_pair(a->ctx.h, pa + head_a, b->ctx.h, pb + head_b, blocks);
    count(&a->ctx, blocks * BLOCK);
    count(&b->ctx, blocks * BLOCK);
    head_a += blocks * BLOCK;
    head_b += blocks * BLOCK;
    sha256_part(a, pa + head_a, n - head_a);
    sha256_part(b, pb + head_b, n - head_b);
}

static pthread_once_t once = PTHREAD_ONCE_INIT;
static bool pairs;

/* A CPU, or a virtual one, that is wrong is found here, not in somebody's digests. */
static bool same_answer(void)
{
    uint8_t text[2][1000], got[SHA256_BYTES], want[SHA256_BYTES];
    struct sha256 s[2];
    bool ok = true;

    for (int i = 0; i < 2; i++) {
        for (size_t j = 0; j < sizeof text[i]; j++)
            text[i][j] = (uint8_t)(j * 167 + j / 256 + (size_t)i);
        sha256_begin(&s[i]);
        sha256_part(&s[i], text[i], (size_t)i * 7);
    }
    pair(&s[0], text[0], &s[1], text[1] + 7, sizeof text[1] - 7);
    for (int i = 0; i < 2; i++) {
        sha256_end(&s[i], got);
        ok = SHA256(text[i], sizeof text[i] - (i == 0 ? 7 : 0), want) != NULL && ok &&
             memcmp(got, want, sizeof want) == 0;
    }
    return ok;
}

static void look(void)
{
    unsigned a = 0, b = 0, c = 0, d = 0;
    bool sse = __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_SSSE3) != 0 && (c & bit_SSE4_1) != 0;

    pairs =
        sse && __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (b & bit_SHA) != 0 && same_answer();
}

bool sha256_pairs(void)
{
    CHECK(pthread_once(&once, look) == 0);
    return pairs;
}
#else
static void pair(struct sha256 *a, const uint8_t *pa, struct sha256 *b, const uint8_t *pb, size_t n)
{
    sha256_part(a, pa, n);
    sha256_part(b, pb, n);
}

bool sha256_pairs(void)
{
    return false;
}
#endif

void sha256_part_pair(struct sha256 *a, const void *pa, struct sha256 *b, const void *pb, size_t n)
{
    if (sha256_pairs()) {
        pair(a, pa, b, pb, n);
    } else {
        sha256_part(a, pa, n);
        sha256_part(b, pb, n);
    }
}
