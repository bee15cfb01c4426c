/* tests/unit/common/image/deid_help.h - runs the rules over bytes and remembers what they said. */
#pragma once
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "common/base/buf.h"
#include "common/base/le.h"
#include "common/image/deid/deid.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FOUND_MAX 300
struct told {
    uint32_t n;
    struct deid_finding f[FOUND_MAX];
};
struct cleaned {
    struct buf b;
    const uint8_t *src;
    size_t src_n;
};

static inline void help_told(void *data, const struct deid_finding *f)
{
    struct told *t = data;

    assert_true(deid_finding_valid(f));
    assert_true(t->n < FOUND_MAX);
    t->f[t->n++] = *f;
}

static inline enum rc help_copy(void *ctx, uint64_t off, uint64_t n, struct err *reterr)
{
    struct cleaned *c = ctx;

    (void)reterr;
    assert_true(off <= c->src_n && n <= c->src_n - off);
    buf_put(&c->b, c->src + off, (size_t)n);
    return RC_OK;
}

static inline enum rc help_data(void *ctx, const void *p, size_t n, struct err *reterr)
{
    struct cleaned *c = ctx;

    (void)reterr;
    buf_put(&c->b, p, n);
    return RC_OK;
}

/* No key, but the same for the same and different for the different. */
static inline enum rc help_pseudonym(void *ctx, enum deid_pseudonym kind, const void *p, size_t n,
                                     uint8_t ret[32], struct err *reterr)
{
    uint64_t h = 0xcbf29ce484222325ull + (uint64_t)kind;

    (void)ctx;
    (void)reterr;
    for (size_t i = 0; i < n; i++)
        h = (h ^ ((const uint8_t *)p)[i]) * 0x100000001b3ull;
    for (int i = 0; i < 4; i++) {
        h = h * 6364136223846793005ull + 1442695040888963407ull;
        be_put64(ret + 8 * i, h);
    }
    return RC_OK;
}

static inline void help_profile(const char *text, struct deid_profile *p)
{
    struct err err = {0};
    enum rc rc = deid_profile_parse(text, strlen(text), p, &err);

    if (rc != RC_OK) print_error("%s\n", err.msg);
    assert_int_equal(rc, RC_OK);
}

static inline enum deid_outcome help_check(const struct deid_profile *p, const void *bytes,
                                           size_t n, struct told *t)
{
    struct image_source src;
    struct image_source_mem mem;
    enum deid_outcome o = DEID_OUTCOME_N;
    struct err err = {0};

    t->n = 0;
    image_source_mem_init(&mem, bytes, n, &src);
    assert_int_equal(deid_check(&src, p, help_told, t, &o, &err), RC_OK);
    return o;
}

/* Cleans into c (deinit it), and checks the result again: it must get the outcome that was told. */
static inline enum deid_outcome help_clean(const struct deid_profile *p, const void *bytes,
                                           size_t n, struct told *t, struct cleaned *c)
{
    struct deid_out out = {c, help_copy, help_data, help_pseudonym};
    struct image_source src;
    struct image_source_mem mem;
    enum deid_outcome o = DEID_OUTCOME_N;
    struct err err = {0};
    struct told again;

    t->n = 0;
    *c = (struct cleaned){.src = bytes, .src_n = n};
    buf_init(&c->b, 64 << 20);
    image_source_mem_init(&mem, bytes, n, &src);
    assert_int_equal(deid_clean(&src, p, &out, help_told, t, &o, &err), RC_OK);
    assert_int_equal(buf_rc(&c->b), RC_OK);
    if (o != DEID_REFUSED) {
        enum deid_outcome o2 = help_check(p, c->b.p, c->b.n, &again);

        for (uint32_t i = 0; o2 != o && i < again.n; i++) {
            char text[DEID_FIELD_BYTES];

            deid_finding_field(&again.f[i], text);
            print_message("again: %s %s\n", deid_rule_name(again.f[i].rule), text);
        }
        assert_int_equal(o2, o);
    }
    return o;
}

static inline const struct deid_finding *help_find(const struct told *t, enum deid_rule rule)
{
    for (uint32_t i = 0; i < t->n; i++) {
        if (t->f[i].rule == rule) return &t->f[i];
    }
    return NULL;
}

static inline bool help_holds(const struct buf *b, const char *text)
{
    return memmem(b->p, b->n, text, strlen(text)) != NULL;
}
