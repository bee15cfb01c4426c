/* tests/fuzz/deid/fuzz_profile.c - any text is a profile or is refused with its line. */
#include "common/image/deid/deid.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct deid_profile p;
    struct err err;

    if (deid_profile_parse((const char *)data, n, &p, &err) != RC_OK) {
        CHECK(err.msg[0] != 0);
        return 0;
    }
    CHECK(p.name[0] != 0 && p.opaque_n <= DEID_LIST_MAX && p.private_n <= DEID_LIST_MAX);
    return 0;
}
