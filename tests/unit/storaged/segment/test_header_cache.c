/* storaged/segment/header_cache: what is there comes back as it was put, under its whole key alone;
 * the bound holds and the one unused longest goes; a segment's go with it. */
#include "storaged/segment/header_cache.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#define BLOCKS_MAX 128u
static struct header_cache c;

static struct seg_location place(uint64_t segment, uint64_t page, uint32_t blocks)
{
    return (struct seg_location){.segment_id = segment,
                                 .generation = 1,
                                 .offset = page * RECORD_ALIGN_BYTES,
                                 .plain_bytes = blocks * RECORD_BLOCK_BYTES};
}
static void put(struct seg_location loc, uint8_t mark)
{
    struct record_block blocks[BLOCKS_MAX];
    struct record_header h = {.segment_id = loc.segment_id,
                              .segment_generation = loc.generation,
                              .plain_bytes = loc.plain_bytes,
                              .index = mark};

    memset(blocks, mark, sizeof(blocks));
    header_cache_put(&c, &loc, &h, blocks);
}
/* Its mark; -1: not there. Blocks behind the record's are left alone. */
static int get(struct seg_location loc)
{
    struct record_block blocks[BLOCKS_MAX + 1], want[BLOCKS_MAX + 1];
    uint32_t n = record_blocks(loc.plain_bytes);
    struct record_header h;

    memset(blocks, 0xee, sizeof(blocks));
    memset(want, 0xee, sizeof(want));
    if (!header_cache_get(&c, &loc, &h, blocks)) return -1;
    memset(want, (int)h.index, n * sizeof(*want));
    assert_memory_equal(blocks, want, sizeof(want));
    return (int)h.index;
}

static void whole_key(void **state)
{
    struct seg_location loc = place(7, 2, 3), other;

    (void)state;
    header_cache_init(&c, HEADER_CACHE_BYTES);
    assert_int_equal(get(loc), -1);
    put(loc, 5);
    put(loc, 6); /* two reads were under way; a record never changes */
    assert_int_equal(get(loc), 5);
    other = loc;
    other.generation++;
    assert_int_equal(get(other), -1);
    other = loc;
    other.segment_id++;
    assert_int_equal(get(other), -1);
    other = loc;
    other.offset += RECORD_ALIGN_BYTES;
    assert_int_equal(get(other), -1);
    other = loc;
    other.plain_bytes--;
    assert_int_equal(get(other), -1);
    header_cache_remove(&c, &other); /* not it */
    assert_int_equal(get(loc), 5);
    assert_int_equal(c.hits_n, 2);
    assert_int_equal(c.misses_n, 5);
    header_cache_remove(&c, &loc);
    header_cache_remove(&c, &loc);
    assert_int_equal(get(loc), -1);
    assert_int_equal(c.bytes, 0);
    header_cache_deinit(&c);
}

static void bound_holds(void **state)
{
    uint64_t kept = 0;

    (void)state;
    header_cache_init(&c, 20000);
    for (uint32_t i = 0; i < 300; i++) {
        put(place(1 + i % 3, i, 1 + i % BLOCKS_MAX), (uint8_t)i);
        assert_true(c.bytes <= c.bytes_max && c.bytes > 0);
        /* this one is asked for again and again */
        assert_int_equal(get(place(1, 0, 1)), 0);
    }
    for (uint32_t i = 0; i < 300; i++) {
        int mark = get(place(1 + i % 3, i, 1 + i % BLOCKS_MAX));

        assert_true(mark == -1 || mark == (uint8_t)i);
        if (i == 299) assert_int_equal(mark, (uint8_t)i);
        if (mark != -1) kept++;
    }
    assert_true(kept > 5 && kept < 60);
    put(place(9, 9, BLOCKS_MAX), 1);
    c.bytes_max = 2000; /* less than that one takes */
    put(place(9, 10, BLOCKS_MAX), 2);
    assert_int_equal(get(place(9, 10, BLOCKS_MAX)), -1);
    header_cache_deinit(&c);
    assert_int_equal(c.bytes, 0);
}

/* 740 of 8 MiB, as its header says, and as many of one segment as of the other. */
static void segment_goes(void **state)
{
    uint32_t kept = 0;

    (void)state;
    header_cache_init(&c, HEADER_CACHE_BYTES);
    for (uint32_t i = 0; i < 740; i++)
        put(place(1 + i % 2, 2049ull * i, BLOCKS_MAX), (uint8_t)i);
    for (uint32_t i = 0; i < 740; i++)
        assert_int_equal(get(place(1 + i % 2, 2049ull * i, BLOCKS_MAX)), (uint8_t)i);
    header_cache_remove_segment(&c, 2);
    for (uint32_t i = 0; i < 740; i++) {
        int mark = get(place(1 + i % 2, 2049ull * i, BLOCKS_MAX));

        assert_int_equal(mark, i % 2 == 0 ? (uint8_t)i : -1);
        if (mark != -1) kept++;
    }
    assert_int_equal(kept, 370);
    header_cache_remove_segment(&c, 1);
    assert_int_equal(c.bytes, 0);
    header_cache_deinit(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(whole_key), cmocka_unit_test(bound_holds),
                                       cmocka_unit_test(segment_goes)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
