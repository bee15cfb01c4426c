/* tests/fuzz/disk/fuzz_index.c - values of the index as bytes that came back from RocksDB: rows of
 * chunks, of log entries, of a group's list of chunks. Input: one byte which, then the key's and
 * the value's bytes. What decodes encodes to the same bytes; sizes that follow from it are in
 * bounds. */
#include "storaged/index/index_priv.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void location_look(const struct seg_location *l)
{
    uint8_t p[LOC_BYTES];
    struct seg_location again;

    loc_put(l, p);
    again = loc_get(p);
    CHECK(loc_eq(l, &again) && again.header_bytes == l->header_bytes &&
          again.plain_bytes == l->plain_bytes);
    if (!record_header_fits(l->header_bytes, l->plain_bytes)) return;
    CHECK(record_header_bytes(l->plain_bytes) <= RECORD_HEADER_BYTES_MAX);
    CHECK(record_payload_bytes(l->plain_bytes) <= RECORD_PAYLOAD_BYTES_MAX);
    CHECK(record_bytes(l->header_bytes, l->plain_bytes) <=
          RECORD_HEADER_BYTES_MAX + RECORD_PAYLOAD_BYTES_MAX);
}

static void chunk_look(const uint8_t *k, const uint8_t *v, size_t n)
{
    uint8_t same[CHUNK_BYTES], key[CHUNK_KEY];
    struct index_chunk c;
    struct err err;

    if (chunk_decode(k, v, n, &c, &err) != RC_OK) return;
    chunk_encode(&c, same);
    chunk_key(&c.id, key);
    CHECK(memcmp(v, same, sizeof(same)) == 0 && memcmp(k, key, sizeof(key)) == 0);
    location_look(&c.loc);
}

static void log_look(const uint8_t *k, const uint8_t *v, size_t n)
{
    struct index_log_row row;
    struct err err;

    if (log_decode(k, v, n, &row, &err) != RC_OK) return;
    CHECK(row.index == be_get64(k + GROUP_BYTES) && row.epoch == le_get64(v + 1));
    location_look(&row.loc);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct apply_chunk chunk;
    uint64_t index = 0;
    bool dropped = false;

    if (n < 1 + CHUNK_KEY) return 0;
    n--;
    switch (*data++ % 3) {
    case 0:
        chunk_look(data, data + CHUNK_KEY, n - CHUNK_KEY);
        break;
    case 1:
        log_look(data, data + LOG_KEY, n - LOG_KEY);
        break;
    case 2:
        if (apply_chunk_row((struct slice){data, n}, &chunk, &dropped, &index) == RC_OK)
            CHECK(n > 1);
        break;
    }
    return 0;
}
