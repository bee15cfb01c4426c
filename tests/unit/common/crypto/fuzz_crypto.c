/* tests/unit/common/crypto/fuzz_crypto.c - capabilities, wrapped keys, sealed documents and master
 * key files from arbitrary bytes. Nothing random can verify; what decodes must lie in the input. */
#include "common/crypto/capability.h"
#include "common/crypto/docseal.h"
#include "common/crypto/keys.h"
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static const struct key zero;
    struct capability_check check = {.worker_uri = {(const uint8_t *)"u", 1}};
    struct key_place place = {.kind = KEY_COLLECTION, .self = {(const uint8_t *)"x", 1}};
    struct slice in = {data, n};
    struct key_master master;
    struct sign_public pub;
    struct capability cap;
    struct key k;
    struct err err;
    size_t plain_n;
    uint8_t *out;

    if (capability_decode(in, &cap) == RC_OK) {
        struct id128 body = {{1}};

        CHECK(cap.worker_uri.p >= data && cap.worker_uri.p + cap.worker_uri.n <= data + n);
        CHECK(cap.bodies + 16 * (size_t)cap.bodies_n + SIGN_SIGNATURE_BYTES == data + n);
        (void)capability_allows(&cap, &body);
        /* past the look-up of the key, to the signature */
        CHECK(sign_public_of(&zero, &pub) == RC_OK);
        pub.id = cap.key_id;
        check.cluster = cap.cluster;
        check.keys = &pub;
        check.keys_n = 1;
        CHECK(capability_verify(in, &check, &cap, &err) == RC_DENIED);
    }
    CHECK(key_unwrap(&zero, &place, in, &k) == RC_CORRUPT);
    out = malloc(n + 1);
    CHECK(out != NULL);
    CHECK(docseal_open(&zero, DOCSEAL_INLINE, in, in, out, &plain_n) == RC_CORRUPT);
    free(out);
    if (key_master_decode(in, &master, &err) == RC_OK) CHECK(n == KEY_MASTER_FILE_BYTES);
    return 0;
}
