/* tests/unit/storaged/segment/test_record.c - a header comes back whole, or not at all. */
#include "storaged/segment/record.h"
#include "common/base/crc32c.h"
#include "common/base/le.h"
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

static struct record_block blocks[RECORD_BLOCKS_MAX], back_blocks[RECORD_BLOCKS_MAX];
static uint8_t page[RECORD_HEADER_BYTES_MAX];

static struct record_header header(uint32_t plain_bytes)
{
    struct record_header h = {.type = RECORD_CHUNK,
                              .cipher_suite = 1,
                              .segment_id = 3,
                              .segment_generation = 4,
                              .sequence = 5,
                              .flushed_upto = 8192,
                              .pool = 2,
                              .placement_hash = 0x0123456789abcdefull,
                              .owner_hash = 9,
                              .index = 7,
                              .plain_bytes = plain_bytes,
                              .config = 11,
                              .epoch = 12,
                              .log_index = 13};

    memset(h.upload_id.b, 1, 16);
    memset(h.body.b, 2, 16);
    memset(h.seal_id.b, 3, 16);
    memset(h.plain_digest, 4, 32);
    for (uint32_t i = 0; i < record_blocks(plain_bytes); i++) {
        blocks[i].crc32c = 100 + i;
        memset(blocks[i].tag, (int)i, sizeof(blocks[i].tag));
    }
    return h;
}

static void test_roundtrip(void **state)
{
    static const uint32_t sizes[] = {1,     3820,  3821,     4096,
                                     65536, 65537, 8u << 20, RECORD_PAYLOAD_BYTES_MAX};
    static const uint32_t lengths[] = {276,  276,  4096, 4096,
                                       4096, 4096, 4096, RECORD_HEADER_BYTES_MAX};
    static const uint32_t wholes[] = {4096,
                                      4096,
                                      8192,
                                      8192,
                                      4096 + 65536,
                                      4096 + 69632,
                                      4096 + (8u << 20),
                                      RECORD_HEADER_BYTES_MAX + RECORD_PAYLOAD_BYTES_MAX};
    struct err err;

    (void)state;
    for (size_t i = 0; i < ARRAY_N(sizes); i++) {
        struct record_header h = header(sizes[i]), b;
        uint32_t n = 0;

        assert_int_equal(record_header_bytes(sizes[i]), lengths[i]);
        assert_int_equal(record_bytes(lengths[i], sizes[i]), wholes[i]);
        assert_int_equal(record_encode(&h, blocks, page, &err), RC_OK);
        assert_int_equal(record_peek(page, &n), RC_OK);
        assert_int_equal(n, lengths[i]);
        assert_int_equal(record_decode(page, MAX(n, RECORD_ALIGN_BYTES), &b, back_blocks, &err),
                         RC_OK);
        assert_true(b.type == h.type && b.cipher_suite == h.cipher_suite &&
                    b.segment_id == h.segment_id && b.segment_generation == h.segment_generation &&
                    b.sequence == h.sequence && b.flushed_upto == h.flushed_upto &&
                    b.pool == h.pool && b.index == h.index);
        assert_true(b.placement_hash == h.placement_hash && b.owner_hash == h.owner_hash &&
                    b.plain_bytes == h.plain_bytes && b.config == h.config && b.epoch == h.epoch &&
                    b.log_index == h.log_index);
        assert_true(id128_eq(&b.upload_id, &h.upload_id) && id128_eq(&b.body, &h.body) &&
                    id128_eq(&b.seal_id, &h.seal_id));
        assert_memory_equal(b.plain_digest, h.plain_digest, 32);
        assert_memory_equal(back_blocks, blocks, record_blocks(sizes[i]) * sizeof(blocks[0]));
        assert_int_equal(page[64], 0x01); /* sorts as its number */
    }
}

static void test_every_flip_is_found(void **state)
{
    struct record_header h = header(65537), b;
    struct err err;

    (void)state;
    assert_int_equal(record_encode(&h, blocks, page, &err), RC_OK);
    for (uint32_t bit = 0; bit < RECORD_ALIGN_BYTES * 8; bit++) {
        page[bit / 8] ^= (uint8_t)(1u << bit % 8);
        assert_int_equal(record_decode(page, RECORD_ALIGN_BYTES, &b, back_blocks, &err),
                         RC_CORRUPT);
        page[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    assert_int_equal(record_decode(page, RECORD_ALIGN_BYTES, &b, back_blocks, &err), RC_OK);
    assert_int_equal(record_decode(page, RECORD_ALIGN_BYTES - 1, &b, back_blocks, &err),
                     RC_CORRUPT);
    h = header(RECORD_PAYLOAD_BYTES_MAX);
    assert_int_equal(record_encode(&h, blocks, page, &err), RC_OK);
    assert_int_equal(record_decode(page, RECORD_HEADER_BYTES_MAX - 4096, &b, back_blocks, &err),
                     RC_CORRUPT);
}

/* Of a small record each bit of its header; the payload behind it has its own CRC. What earlier
 * versions wrote, a page of header however small the payload, is read as well. */
static void test_small(void **state)
{
    struct record_header h = header(10), b;
    struct err err;
    uint32_t n = 0;

    (void)state;
    for (int moved = 0; moved < 2; moved++) {
        if (moved) h.moved_from = (struct record_source){2, 1, 8192};
        memset(page, 0, RECORD_ALIGN_BYTES);
        assert_int_equal(record_encode(&h, blocks, page, &err), RC_OK);
        for (uint32_t bit = 0; bit < RECORD_SMALL_HEADER_BYTES * 8; bit++) {
            page[bit / 8] ^= (uint8_t)(1u << bit % 8);
            assert_int_equal(record_decode(page, RECORD_ALIGN_BYTES, &b, back_blocks, &err),
                             RC_CORRUPT);
            page[bit / 8] ^= (uint8_t)(1u << bit % 8);
        }
        memset(page + RECORD_SMALL_HEADER_BYTES, 0xff, 10);
        assert_int_equal(record_decode(page, RECORD_ALIGN_BYTES, &b, back_blocks, &err), RC_OK);
        assert_int_equal(b.moved_from.offset, h.moved_from.offset);
        /* the earlier formats: 1, 2 */
        memset(page + RECORD_SMALL_HEADER_BYTES, 0, 10);
        le_put32(page + 8, moved ? RECORD_FORMAT_MOVED : RECORD_FORMAT);
        le_put32(page + 12, RECORD_ALIGN_BYTES);
        le_put32(page + 252, 0);
        le_put32(page + 252, crc32c(0, page, RECORD_ALIGN_BYTES));
        assert_int_equal(record_peek(page, &n), RC_OK);
        assert_int_equal(n, RECORD_ALIGN_BYTES);
        assert_int_equal(record_decode(page, n, &b, back_blocks, &err), RC_OK);
        assert_int_equal(b.plain_bytes, 10);
        assert_int_equal(b.moved_from.segment_id, h.moved_from.segment_id);
    }
    assert_true(record_header_fits(276, 10) && record_header_fits(4096, 10));
    assert_true(!record_header_fits(276, 3821) && !record_header_fits(8192, 10));
    assert_true(!record_header_fits(276, 0) && !record_header_fits(4096, UINT32_MAX));
    assert_int_equal(record_block_bytes(276, 10, 0), 3820);
    assert_int_equal(record_block_bytes(4096, 10, 0), 4096);
    assert_int_equal(record_block_bytes(4096, 65537, 0), 65536);
    assert_int_equal(record_block_bytes(4096, 65537, 1), 4096);
}

static void test_refusals(void **state)
{
    struct record_header h = header(1);
    struct err err;

    (void)state;
    h.plain_bytes = 0;
    assert_int_equal(record_encode(&h, blocks, page, &err), RC_INVAL);
    h = header(1);
    h.type = RECORD_LOG_ENTRY; /* a sealed log entry: no such thing */
    assert_int_equal(record_encode(&h, blocks, page, &err), RC_INVAL);
    assert_non_null(strstr(err.msg, "cipher suite"));
    h = header(1);
    h.flushed_upto = 5;
    assert_int_equal(record_encode(&h, blocks, page, &err), RC_INVAL);
}

static void test_block_check(void **state)
{
    static uint8_t p[65536];
    uint32_t crc;

    (void)state;
    memset(p, 7, sizeof(p));
    crc = crc32c(0, p, 10);
    assert_int_equal(record_block_check(65546, 1, p, crc), RC_OK);
    p[9] ^= 1;
    assert_int_equal(record_block_check(65546, 1, p, crc), RC_CORRUPT);
    assert_int_equal(record_block_check(65546, 0, p, crc32c(0, p, 65536)), RC_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_roundtrip), cmocka_unit_test(test_every_flip_is_found),
        cmocka_unit_test(test_small), cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_block_check)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
