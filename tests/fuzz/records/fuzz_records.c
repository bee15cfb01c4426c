/* tests/fuzz/records/fuzz_records.c - no value of a group's row may crash the gateway, and whatever
 * decodes must encode to the same bytes again. The second byte chooses the record. */
#include "gateway/ingest/records_core.h"
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

#define TRY(name)                                                                                  \
    do {                                                                                           \
        struct record_##name *rec = malloc(sizeof(*rec));                                          \
                                                                                                   \
        CHECK(rec != NULL);                                                                        \
        if (record_##name##_decode(in, rec, &err) == RC_OK) {                                      \
            CHECK(record_##name##_encode(rec, &out, &err) == RC_OK);                               \
            CHECK(out.n == n && memcmp(out.p, data, n) == 0);                                      \
            out.n = 0;                                                                             \
        }                                                                                          \
        free(rec);                                                                                 \
    } while (0);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static uint8_t bytes[2 * RECORD_VALUE_MAX];
    struct record_out out = {.p = bytes, .cap = sizeof(bytes)};
    struct slice in = {data, n}, path;
    struct err err;
    uint64_t v;

    if (n > RECORD_VALUE_MAX) return 0;
    if (record_key_parse_object(in, &path, &v) == RC_OK) CHECK(path.n < n && v != 0);
    if (record_key_parse_number(in, &v) == RC_OK) CHECK(n > RECORD_ANCHOR_BYTES);
    if (record_list_parse(in, &path, &v) == RC_OK) CHECK(path.n < n);
    if (n >= 2) {
        RECORD_TYPES(TRY)
    }
    return 0;
}
