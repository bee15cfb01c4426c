/* tests/fuzz/query/fuzz_query.c - any text parses or is refused with a column inside it; what
 * parses can be evaluated. */
#include "gateway/query/query.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static struct query_value get(void *ctx, struct slice name)
{
    struct query_value v = {.type = (enum query_type)(name.n % 4), .text = name, .integer = 512};

    (void)ctx;
    return v;
}

static void count(void *ctx, struct slice name)
{
    *(size_t *)ctx += name.n;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct query *q = NULL;
    uint32_t column = 0;
    struct err err;
    size_t names = 0;

    if (query_parse((struct slice){data, n}, &q, &column, &err) != RC_OK) {
        CHECK(column >= 1 && (column <= n + 1 || n > QUERY_BYTES_MAX));
        return 0;
    }
    if (query_match(q, get, NULL)) names++;
    if (query_collections(q, count, &names)) CHECK(names > 0 || n > 0);
    query_free(q);
    return 0;
}
