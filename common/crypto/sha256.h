/* common/crypto/sha256.h - SHA-256 of two messages at a time.
 *
 * One message's rounds wait for each other: a CPU with SHA instructions (x86: SHA-NI) does those of
 * two messages side by side in little more than the time of one (3.4 instead of 1.8 GB/s). All
 * else, and both messages elsewhere, is OpenSSL's; both must answer alike at the first use. Any
 * thread, one thread at a time for each struct. FIPS 180-4. */
#pragma once
#include "common/base/rc.h"
#include <openssl/sha.h>

#define SHA256_BYTES 32u

struct sha256 {
    SHA256_CTX ctx;
};
void sha256_begin(struct sha256 *s);
void sha256_part(struct sha256 *s, const void *p, size_t n);
/* The next n bytes of two messages; a != b. */
void sha256_part_pair(struct sha256 *a, const void *pa, struct sha256 *b, const void *pb, size_t n);
void sha256_end(struct sha256 *s, uint8_t ret[SHA256_BYTES]);
bool sha256_pairs(void); /* does this CPU do two at a time? */
