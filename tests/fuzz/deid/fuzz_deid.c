/* tests/fuzz/deid/fuzz_deid.c - any bytes get a verdict from a check and from a cleaning, under a
 * strict profile and a loose one; findings name places only; and what a cleaning says is clean gets
 * the same verdict when it is checked again (a TIFF's: no better one).
 *
 * Under libFuzzer an input's last byte says which profile and which of the two, so that an
 * execution is one run and not six; a seed is the content alone and is replayed under all. */
#include "common/base/buf.h"
#include "common/base/le.h"
#include "common/image/deid/deid.h"
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

#ifndef FUZZ_FORMATS
#define FUZZ_FORMATS "dicom slide image vol"
#endif
#define OUT_MAX (64u << 20)

struct cleaned {
    struct slice src;
    struct buf b;
};

static bool read_aloud = true; /* findings as text: in every eighth run, it takes half of one */

static void on_finding(void *data, const struct deid_finding *f)
{
    char text[DEID_FIELD_BYTES];

    (void)data;
    CHECK(deid_finding_valid(f));
    if (!read_aloud) return;
    deid_finding_field(f, text);
    for (const char *at = text; *at != 0; at++)
        CHECK(*at >= 0x20 && *at < 0x7f);
}

static enum rc on_copy(void *ctx, uint64_t off, uint64_t n, struct err *reterr)
{
    struct cleaned *c = ctx;

    CHECK(off <= c->src.n && n <= c->src.n - off);
    buf_put(&c->b, c->src.p + off, (size_t)n);
    return buf_rc(&c->b) == RC_OK ? RC_OK : err_set(reterr, RC_IO, "full");
}

static enum rc on_data(void *ctx, const void *p, size_t n, struct err *reterr)
{
    struct cleaned *c = ctx;

    buf_put(&c->b, p, n);
    return buf_rc(&c->b) == RC_OK ? RC_OK : err_set(reterr, RC_IO, "full");
}

static enum rc on_pseudonym(void *ctx, enum deid_pseudonym kind, const void *p, size_t n,
                            uint8_t ret[32], struct err *reterr)
{
    uint64_t h = 0xcbf29ce484222325ull + (uint64_t)kind;

    (void)ctx;
    (void)reterr;
    for (size_t i = 0; i < n; i++)
        h = (h ^ ((const uint8_t *)p)[i]) * 0x100000001b3ull;
    for (int i = 0; i < 4; i++)
        be_put64(ret + 8 * i, h *= 6364136223846793005ull);
    return RC_OK;
}

static void check(const struct deid_profile *p, const uint8_t *data, size_t n)
{
    enum deid_outcome checked = DEID_OUTCOME_N;
    struct image_source_mem mem;
    struct image_source src;
    struct err err;

    image_source_mem_init(&mem, data, n, &src);
    CHECK(deid_check(&src, p, on_finding, NULL, &checked, &err) == RC_OK);
    CHECK(checked < DEID_OUTCOME_N);
}

static void clean(const struct deid_profile *p, const uint8_t *data, size_t n)
{
    struct cleaned c = {.src = {data, n}};
    const struct deid_out out = {&c, on_copy, on_data, on_pseudonym};
    enum deid_outcome cleaned = DEID_OUTCOME_N, again = DEID_OUTCOME_N;
    bool stricter = n > 2 && (memcmp(data, "II", 2) == 0 || memcmp(data, "MM", 2) == 0);
    struct image_source_mem mem;
    struct image_source src;
    struct err err;

    buf_init(&c.b, OUT_MAX);
    image_source_mem_init(&mem, data, n, &src);
    if (deid_clean(&src, p, &out, on_finding, NULL, &cleaned, &err) == RC_OK &&
        cleaned != DEID_REFUSED) {
        image_source_mem_init(&mem, c.b.p, c.b.n, &src);
        CHECK(deid_check(&src, p, on_finding, NULL, &again, &err) == RC_OK);
        /* a TIFF's values may share bytes: blanking one breaks another, to the strict side; so does
         * a DICOM prefix that has moved to where it counts */
        if (c.b.n > 132 && memcmp(c.b.p + 128, "DICM", 4) == 0) stricter = true;
        CHECK(again == cleaned ||
              (stricter && (again == DEID_REFUSED || again == DEID_QUARANTINED)));
    }
    buf_deinit(&c.b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static const char *const TEXTS[] = {
        "name = strict\nformats = " FUZZ_FORMATS "\n",
        "name = loose\nformats = " FUZZ_FORMATS "\ndates = shift\ndevice = keep\npatient = keep\n"
        "structured-content = clean\npixels.plain-image = accept\npixels.no-statement = accept\n"
        "private = 0019,xx0C SIEMENS MR HEADER\n"};
    static struct deid_profile profiles[ARRAY_N(TEXTS)];
    struct err err;

    for (size_t i = 0; i < ARRAY_N(TEXTS); i++) {
        if (profiles[i].name[0] == 0)
            CHECK(deid_profile_parse(TEXTS[i], strlen(TEXTS[i]), &profiles[i], &err) == RC_OK);
    }
#ifdef MIKURA_FUZZER
    if (n == 0) return 0;
    n--;
    read_aloud = data[n] % 32 < 4;
    (data[n] % 4 < 2 ? check : clean)(&profiles[data[n] % 2], data, n);
#else
    for (size_t i = 0; i < ARRAY_N(TEXTS); i++) {
        check(&profiles[i], data, n);
        clean(&profiles[i], data, n);
    }
#endif
    return 0;
}
