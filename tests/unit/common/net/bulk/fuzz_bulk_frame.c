/* tests/unit/common/net/bulk/fuzz_bulk_frame.c - frames and Hellos from arbitrary bytes: as they
 * are (nothing may open), and with the input as a header that was sealed (all must open). */
#include "common/net/bulk_frame.h"
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static const uint8_t secret[32] = {1};
    struct bulk_frame f = {.type = BULK_REQUEST, .id = 7}, got;
    struct bulk_key *tx = NULL, *rx = NULL;
    struct slice header;
    struct bulk_hello hello;
    uint32_t n32 = (uint32_t)MIN(n, 4096u);
    uint8_t *p = malloc(n + BULK_FRAME_EXTRA_BYTES);

    CHECK(p != NULL);
    if (n > 0) memcpy(p, data, n);
    CHECK(bulk_key_new(secret, &rx) == RC_OK);
    CHECK(bulk_frame_open(rx, p, n, &got, &header) == RC_CORRUPT);
    bulk_key_free(rx);
    if (bulk_hello_decode((struct slice){data, n}, &hello) == RC_OK) CHECK(n >= BULK_HELLO_BYTES);
    CHECK(bulk_key_new(secret, &rx) == RC_OK && bulk_key_new(secret, &tx) == RC_OK);
    if (n32 > 0) memcpy(p + BULK_FRAME_HEAD_BYTES, data, n32);
    CHECK(bulk_frame_seal(tx, &f, p, n32) == RC_OK);
    CHECK(bulk_frame_open(rx, p, BULK_FRAME_EXTRA_BYTES + n32, &got, &header) == RC_OK);
    CHECK(got.id == 7 && header.n == n32 && (n32 == 0 || memcmp(header.p, data, n32) == 0));
    bulk_key_free(tx);
    bulk_key_free(rx);
    free(p);
    return 0;
}
