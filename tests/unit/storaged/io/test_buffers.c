/* storaged/io/buffers: beside a map of pages, what is refused has no room in one piece; each size
 * lies where the header says, and a middle one that came back is the last to go out again. */
#include "storaged/io/buffers.h"
#include "common/base/macros.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define PAGE      ((size_t)DISK_ALIGN_BYTES)
#define MIB       ((size_t)1 << 20)
#define PAGES_MAX 16384u
#define LIVE_MAX  4096u
#define STEPS     60000u

static struct buffers b;
static bool taken[PAGES_MAX];
static struct {
    uint8_t *p;
    uint32_t at, n;
} live[LIVE_MAX];
static uint32_t live_n;
static uint64_t rng;

static uint32_t draw(uint32_t below)
{
    rng = rng * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(rng >> 33) % below;
}

/* The lowest (highest) page at which want fit; pages_n: nowhere. */
static uint32_t fit(uint32_t want, bool top)
{
    uint32_t found = b.pages_n, free_n = 0;

    for (uint32_t i = 0; i < b.pages_n; i++) {
        free_n = taken[i] ? 0 : free_n + 1;
        if (free_n < want) continue;
        found = i + 1 - want;
        if (!top) break;
    }
    return found;
}

/* 4 KiB to 64 MiB, each power of two as likely. */
static size_t size_drawn(void)
{
    size_t most = PAGE << draw(15);

    return most / 2 + 1 + draw((uint32_t)(most / 2));
}

static void give(uint32_t i)
{
    for (uint32_t k = 0; k < live[i].n; k++)
        taken[live[i].at + k] = false;
    buffers_free(&b, live[i].p);
    live[i] = live[--live_n];
}

static bool take(size_t bytes)
{
    uint32_t want = (uint32_t)(ROUND_UP(bytes, PAGE) / PAGE), at;
    bool top = bytes >= BUFFERS_LARGE_BYTES;
    uint32_t expect = fit(want, top);
    uint8_t *p = buffers_alloc(&b, bytes);

    if (p == NULL) {
        assert_int_equal(expect, b.pages_n);
        return false;
    }
    assert_true(expect < b.pages_n);
    assert_int_equal((size_t)(p - b.base) % PAGE, 0);
    at = (uint32_t)((size_t)(p - b.base) / PAGE);
    assert_true(at + want <= b.pages_n);
    if (top || bytes <= BUFFERS_SMALL_BYTES) assert_int_equal(at, expect);
    /* outside the circle only where that has no room */
    if (at + want > b.pages_n - b.pages_n / 4 && !top) assert_int_equal(at, expect);
    for (uint32_t k = 0; k < want; k++) {
        assert_false(taken[at + k]);
        taken[at + k] = true;
    }
    live[live_n].p = p;
    live[live_n].at = at;
    live[live_n++].n = want;
    return true;
}

/* Nearly full and nearly empty by turns. */
static void beside_model(uint64_t seed, size_t bytes)
{
    uint32_t refused = 0, given = 0, out = 0;

    rng = seed;
    assert_int_equal(buffers_init(&b, bytes), RC_OK);
    for (uint32_t step = 0; step < STEPS; step++) {
        bool fill = step / 500 % 2 == 0;

        if (live_n > 0 && (live_n == LIVE_MAX || draw(10) < (fill ? 3u : 7u))) {
            give(draw(live_n));
            given++;
        } else if (take(size_drawn())) {
            out++;
        } else {
            refused++;
        }
        if (step % 512 == 0) {
            uint32_t n = 0;

            for (uint32_t i = 0; i < b.pages_n; i++)
                n += taken[i];
            assert_int_equal(b.used_n, n);
        }
    }
    assert_true(refused > 1000 && given > 1000 && out > 1000); /* each happened */
    while (live_n > 0)
        give(draw(live_n));
    assert_int_equal(b.used_n, 0);
    assert_true(take(bytes)); /* all of it is one piece again */
    give(0);
    buffers_deinit(&b);
}

static void random_sizes(void **state)
{
    (void)state;
    beside_model(1, 64 * MIB);
    beside_model(2, 48 * MIB);
    beside_model(3, MIB + PAGE);
    beside_model(4, 3 * PAGE);
}

static void none_for_nothing(void **state)
{
    (void)state;
    assert_int_equal(buffers_init(&b, 1), RC_OK);
    assert_int_equal(buffers_bytes(&b), PAGE);
    assert_null(buffers_alloc(&b, 0));
    assert_null(buffers_alloc(&b, PAGE + 1));
    assert_null(buffers_alloc(&b, SIZE_MAX));
    assert_ptr_equal(buffers_alloc(&b, PAGE), b.base);
    assert_null(buffers_alloc(&b, 1));
    buffers_free(&b, NULL);
    buffers_free(&b, b.base);
    assert_int_equal(b.used_n, 0);
    buffers_deinit(&b);
}

static void *one(size_t bytes)
{
    void *p = buffers_alloc(&b, bytes);

    assert_non_null(p);
    buffers_free(&b, p);
    return p;
}

/* One at a time: 512 KiB go through 48 of 64 MiB, the others stay where they were. */
static void circle(void **state)
{
    (void)state;
    assert_int_equal(buffers_init(&b, 64 * MIB), RC_OK);
    for (uint32_t round = 0; round < 3; round++) {
        for (uint32_t i = 0; i < 96; i++) {
            assert_ptr_equal(one(MIB / 2), b.base + i * (MIB / 2));
            assert_ptr_equal(one(BUFFERS_SMALL_BYTES), b.base);
            assert_ptr_equal(one(BUFFERS_LARGE_BYTES), b.base + 62 * MIB);
        }
    }
    buffers_deinit(&b);
}

/* Sixteen middle ones under way at all times leave their neighbours' room in one piece: four whole
 * chunks beside them. */
static void large_beside_circle(void **state)
{
    uint8_t *under_way[16] = {0};

    (void)state;
    assert_int_equal(buffers_init(&b, 64 * MIB), RC_OK);
    for (uint32_t i = 0; i < 1000; i++) {
        void *large[4];

        buffers_free(&b, under_way[i % 16]);
        under_way[i % 16] = buffers_alloc(&b, MIB / 2);
        assert_non_null(under_way[i % 16]);
        for (uint32_t k = 0; k < 4; k++) {
            large[k] = buffers_alloc(&b, 8 * MIB);
            assert_non_null(large[k]);
        }
        for (uint32_t k = 0; k < 4; k++)
            buffers_free(&b, large[k]);
    }
    for (uint32_t i = 0; i < 16; i++)
        buffers_free(&b, under_way[i]);
    assert_int_equal(b.used_n, 0);
    buffers_deinit(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(random_sizes),
                                       cmocka_unit_test(none_for_nothing), cmocka_unit_test(circle),
                                       cmocka_unit_test(large_beside_circle)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
