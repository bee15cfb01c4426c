/* tests/unit/gateway/ingest/test_records.c - records come back as they went in; every cut and every
 * longer value is refused; random damage never crashes and never changes when re-encoded; keys
 * sort as they must. With a folder as argument it writes one value of each kind there (the seeds
 * of tests/fuzz/records). */
#include "gateway/ingest/anchor.h"
#include "gateway/ingest/records_core.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);
#include "tests/fuzz/records/fuzz_records.c" /* the property to check */

static uint8_t bytes[RECORD_VALUE_MAX], scratch[RECORD_VALUE_MAX];
static const char *seeds_dir;

static struct slice text(const char *s)
{
    return (struct slice){(const uint8_t *)s, strlen(s)};
}

static void examine(const char *name, struct record_out out)
{
    uint8_t *copy = malloc(out.n + 1);
    uint32_t x = 12345;

    assert_non_null(copy);
    for (size_t cut = 0; cut < out.n; cut++) { /* exact-size copies, so that ASan sees an overrun */
        uint8_t *c = malloc(cut + 1);

        assert_non_null(c);
        memcpy(c, out.p, cut);
        (void)LLVMFuzzerTestOneInput(c, cut);
        free(c);
    }
    for (int i = 0; i < 2000; i++) {
        memcpy(copy, out.p, out.n);
        for (int k = 0; k < 2; k++) {
            x = x * 1664525u + 1013904223u;
            copy[(x >> 8) % out.n] = (uint8_t)(x >> 24);
        }
        (void)LLVMFuzzerTestOneInput(copy, out.n);
    }
    free(copy);
    if (seeds_dir != NULL) {
        char path[512];
        FILE *f;

        (void)snprintf(path, sizeof(path), "%s/%s", seeds_dir, name);
        f = fopen(path, "wb");
        assert_non_null(f);
        assert_true(fwrite(out.p, 1, out.n, f) == out.n);
        assert_int_equal(fclose(f), 0);
    }
}

/* Encode, decode, hand over the decoded for the caller's comparison; cut; damage; no room. */
#define ROUND(name, rec, back)                                                                     \
    do {                                                                                           \
        struct record_out o = {.p = bytes, .cap = sizeof(bytes)}, small;                           \
        struct err e1;                                                                             \
                                                                                                   \
        assert_int_equal(record_##name##_encode(rec, &o, &e1), RC_OK);                             \
        assert_int_equal(record_##name##_decode(record_out_slice(&o), back, &e1), RC_OK);          \
        for (size_t cut = 0; cut < o.n; cut++) {                                                   \
            struct record_##name again;                                                            \
            struct slice part = {o.p, cut};                                                        \
                                                                                                   \
            assert_int_equal(record_##name##_decode(part, &again, &e1), RC_CORRUPT);               \
            small = (struct record_out){.p = scratch, .cap = cut};                                 \
            assert_int_equal(record_##name##_encode(rec, &small, &e1), RC_NOMEM);                  \
        }                                                                                          \
        bytes[o.n] = 0;                                                                            \
        {                                                                                          \
            struct record_##name again;                                                            \
            struct slice part = {o.p, o.n + 1};                                                    \
                                                                                                   \
            assert_int_equal(record_##name##_decode(part, &again, &e1), RC_CORRUPT);               \
        }                                                                                          \
        examine(#name, o);                                                                         \
    } while (0)

static bool same(struct slice a, const char *b)
{
    return a.n == strlen(b) && memcmp(a.p, b, a.n) == 0;
}

static void test_case_records(void **state)
{
    struct record_head h = {.state = RECORD_CASE_PUBLISHED,
                            .generation = 3,
                            .stage = 5,
                            .visible = 3,
                            .closing = 4,
                            .objects = 7,
                            .bytes_stored = 1ull << 40,
                            .committed_unix_ms = -5};
    struct record_case c = {.case_id = text("c1"),
                            .facility = text("f"),
                            .key = {{{1}}, text("wrapped")},
                            .created_unix_ms = 9};
    struct record_document d = {.version = 2, .sealed = text("sealed")};
    struct record_session s = {.state = RECORD_SESSION_OPEN,
                               .path = text("a/b"),
                               .media_type = text("image/png"),
                               .owner = text("mikura://x"),
                               .size_bytes = 77,
                               .chunk_bytes = 8 << 20,
                               .chunks = 1,
                               .body_key = {{{2}}, text("k")},
                               .expire_tick = 336,
                               .sealed_spec = text("spec")};
    struct record_chunk k = {.plain_bytes = 77, .seal_id = {{5}}, .sealed_leaves = text("leaves")};
    struct record_commit m = {.generation = 4,
                              .stage_upto = 5,
                              .count = 2,
                              .receipt = text("receipt"),
                              .signature = text("sig"),
                              .key_id = text("key")};
    struct record_tomb t = {.chunks = 5, .confirmed = 5};
    struct record_pack p = {
        .upload = {{6}}, .objects_n = 2, .objects = {{text("a"), 1}, {text("b"), UINT64_MAX}}};
    struct record_list l = {.created_unix_ms = 4};
    struct record_deletion x = {.path = text("a/b"), .versions_deleted = 3, .generation = 9}, x2;
    struct record_head h2;
    struct record_case c2;
    struct record_document d2;
    struct record_session s2;
    struct record_chunk k2;
    struct record_commit m2;
    struct record_tomb t2;
    struct record_pack p2;
    struct record_list l2;
    struct record_out out = {.p = bytes, .cap = sizeof(bytes)};
    struct err err;

    (void)state;
    ROUND(head, &h, &h2);
    assert_true(h2.stage == 5 && h2.closing == 4 && h2.committed_unix_ms == -5);
    h.version_floor = 7; /* written only when it is not 0: older heads end before it */
    assert_int_equal(record_head_encode(&h, &out, &err), RC_OK);
    assert_int_equal(record_head_decode(record_out_slice(&out), &h2, &err), RC_OK);
    assert_int_equal(h2.version_floor, 7);
    for (size_t cut = 1; cut < out.n; cut++)
        assert_int_equal(record_head_decode((struct slice){bytes, cut}, &h2, &err),
                         cut == out.n - 8 ? RC_OK : RC_CORRUPT);
    memset(bytes + out.n - 8, 0, 8);
    assert_int_equal(record_head_decode(record_out_slice(&out), &h2, &err), RC_CORRUPT);
    out.n = 0;
    ROUND(case, &c, &c2);
    assert_true(same(c2.case_id, "c1") && same(c2.key.bytes, "wrapped"));
    ROUND(document, &d, &d2);
    ROUND(session, &s, &s2);
    assert_true(same(s2.path, "a/b") && s2.expire_tick == 336 && same(s2.sealed_spec, "spec"));
    ROUND(chunk, &k, &k2);
    assert_true(same(k2.sealed_leaves, "leaves") && k2.seal_id.b[0] == 5);
    ROUND(commit, &m, &m2);
    assert_true(same(m2.receipt, "receipt") && same(m2.signature, "sig"));
    ROUND(tomb, &t, &t2);
    ROUND(pack, &p, &p2);
    assert_true(p2.objects_n == 2 && same(p2.objects[1].path, "b") && p2.upload.b[0] == 6);
    ROUND(list, &l, &l2);
    ROUND(deletion, &x, &x2);
    assert_true(same(x2.path, "a/b") && x2.versions_deleted == 3 && x2.generation == 9);
    t.confirmed = 6;
    assert_int_equal(record_tomb_encode(&t, &out, &err), RC_INVAL);
    assert_non_null(strstr(err.msg, "confirmed"));
}

static void test_objects(void **state)
{
    struct record_index *x = calloc(1, sizeof(*x)), *x2 = calloc(1, sizeof(*x2));
    struct record_manifest *m = calloc(1, sizeof(*m)), *m2 = calloc(1, sizeof(*m2));
    struct record_out out = {.p = scratch, .cap = sizeof(scratch)};
    struct record_place at;
    struct slice covered;
    struct err err;

    (void)state;
    assert_true(x != NULL && x2 != NULL && m != NULL && m2 != NULL);
    x->stage = 3;
    x->media_type = text("application/dicom");
    x->attrs_n = 3;
    x->attrs[0] = (struct record_attr){
        .name = text("dicom.Modality"), .type = RECORD_ATTR_TEXT, .text = text("CT")};
    x->attrs[1] =
        (struct record_attr){.name = text("image.width"), .type = RECORD_ATTR_INT, .integer = -256};
    x->attrs[2] = (struct record_attr){.name = text("r"), .type = RECORD_ATTR_REAL, .real = 0.5};
    ROUND(index, x, x2);
    assert_true(x2->attrs[1].integer == -256 && x2->attrs[2].real > 0.49 &&
                same(x2->attrs[0].text, "CT"));
    m->size_bytes = 250;
    m->bodies_n = 2;
    m->bodies[0] = (struct record_body){
        .id = {{1}}, .pool = 2, .chunk_bytes = 100, .size_bytes = 230, .key = {{{1}}, text("k")}};
    m->bodies[1] = (struct record_body){
        .id = {{2}}, .pool = 2, .chunk_bytes = 64, .size_bytes = 64, .key = {{{1}}, text("k")}};
    m->extents_n = 2;
    m->extents[0] = (struct record_extent){0, 200, 0, 0, 20};
    m->extents[1] = (struct record_extent){200, 50, 1, 0, 14};
    ROUND(manifest, m, m2);
    assert_int_equal(record_manifest_find(m2, 0, &at), RC_OK);
    assert_true(at.chunk_index == 0 && at.offset_in_chunk == 20 && at.run_bytes == 80);
    assert_int_equal(record_manifest_find(m2, 81, &at), RC_OK);
    assert_true(at.chunk_index == 1 && at.offset_in_chunk == 1 && at.run_bytes == 99);
    assert_int_equal(record_manifest_find(m2, 199, &at), RC_OK);
    assert_true(at.chunk_index == 2 && at.offset_in_chunk == 19 && at.run_bytes == 1);
    assert_int_equal(record_manifest_find(m2, 249, &at), RC_OK);
    assert_true(at.body_idx == 1 && at.offset_in_chunk == 63 && at.run_bytes == 1);
    assert_int_equal(record_manifest_find(m2, 250, &at), RC_RANGE);
    assert_int_equal(record_manifest_encode(m, &out, &err), RC_OK);
    assert_int_equal(record_manifest_covered(record_out_slice(&out), &covered), RC_OK);
    assert_int_equal(covered.n, out.n - 32);
    m->extents[1].offset_in_chunk = 15; /* one byte past its body */
    out.n = 0;
    assert_int_equal(record_manifest_encode(m, &out, &err), RC_INVAL);
    m->extents[1].offset_in_chunk = 14;
    m->extents[1].object_offset = 201; /* a gap */
    out.n = 0;
    out.rc = RC_OK;
    assert_int_equal(record_manifest_encode(m, &out, &err), RC_INVAL);
    free(x);
    free(x2);
    free(m);
    free(m2);
}

static void test_others(void **state)
{
    static struct record_collection c, c2;
    static struct record_job j, j2;
    static struct record_task t, t2;
    struct record_item i = {.case_id = text("c"), .path = text("p"), .version = 1}, i2;
    struct record_result r = {.attempt = 2, .label = text("usable"), .detail = text("pb")}, r2;
    struct record_model m = {.name = text("q"), .version = 1, .manifest = text("m")}, m2;
    struct record_series s = {.uid = text("1.2.840"), .slices_n = 2}, s2;
    struct record_mask k = {.attempt = 2, .media_type = text("image/png")}, k2;
    struct record_series_slice slice;
    uint8_t list[72];
    struct record_out out = {.p = list, .cap = sizeof(list)};

    (void)state;
    c.name = text("radiology");
    c.fields_n = 1;
    c.fields[0] = text("dicom.Modality");
    c.grants_n = 2;
    c.grants[1] = (struct record_grant){text("mikura://researcher/sato"), 1};
    ROUND(collection, &c, &c2);
    assert_true(same(c2.grants[1].subject, "mikura://researcher/sato") && c2.grants[1].role == 1);
    j.kind = text("quality");
    j.params_n = 1;
    j.params[0] = (struct record_param){text("a"), text("b")};
    ROUND(job, &j, &j2);
    assert_true(same(j2.params[0].value, "b"));
    t.state = RECORD_TASK_OUT;
    t.items_n = 2;
    t.items[1] = (struct record_task_item){7, RECORD_ITEM_ASIDE, 3, 0};
    ROUND(task, &t, &t2);
    assert_true(t2.items[1].item == 7 && t2.items[1].failures == 3);
    ROUND(item, &i, &i2);
    ROUND(result, &r, &r2);
    assert_true(same(r2.label, "usable"));
    ROUND(model, &m, &m2);
    slice = (struct record_series_slice){text("a.dcm"), 3, 500};
    assert_int_equal(record_series_put(&out, &slice), RC_OK);
    slice = (struct record_series_slice){text("b.dcm"), 4, 501};
    assert_int_equal(record_series_put(&out, &slice), RC_OK);
    s.list = record_out_slice(&out);
    ROUND(series, &s, &s2);
    assert_int_equal(record_series_next(&s2.list, &slice), RC_OK);
    assert_true(same(slice.path, "a.dcm") && slice.version == 3 && slice.size_bytes == 500);
    for (s.list = s2.list; s.list.n > 0; s.list.n--) { /* cut short */
        struct slice rest = s.list;

        assert_int_equal(record_series_next(&rest, &slice),
                         s.list.n == s2.list.n ? RC_OK : RC_CORRUPT);
    }
    assert_int_equal(record_series_next(&s2.list, &slice), RC_OK);
    assert_true(same(slice.path, "b.dcm") && slice.version == 4);
    assert_int_equal(record_series_next(&s2.list, &slice), RC_RANGE);
    assert_int_equal(record_series_put(&out, &slice), RC_OK);
    assert_int_equal(record_series_put(&out, &slice), RC_NOMEM); /* no room */
    k.manifest = text("m");
    ROUND(mask, &k, &k2);
    assert_true(same(k2.media_type, "image/png"));
}

static void test_keys(void **state)
{
    uint8_t a[RECORD_KEY_BYTES_MAX], b[RECORD_KEY_BYTES_MAX];
    struct record_anchor an = {{1, 2, 3}};
    struct id128 scope = {{9}}, id = {{4}};
    struct slice path;
    uint64_t v;
    size_t n, k;

    (void)state;
    n = record_key_object(&an, RECORD_INDEX, text("a/b"), 2, a);
    k = record_key_object(&an, RECORD_INDEX, text("a/b"), 1, b);
    assert_true(n == k && memcmp(a, b, n) < 0); /* the newest first */
    k = record_key_object(&an, RECORD_INDEX, text("a/b"), 0, b);
    assert_true(k < n && memcmp(a, b, k) == 0);
    k = record_key_object(&an, RECORD_INDEX, text("a/b!"), 9, b);
    assert_true(memcmp(a, b, MIN(n, k)) < 0); /* all versions of a/b before a/b! */
    assert_int_equal(record_key_parse_object((struct slice){a, n}, &path, &v), RC_OK);
    assert_true(same(path, "a/b") && v == 2);
    assert_int_equal(record_key_parse_object((struct slice){a, n - 1}, &path, &v), RC_CORRUPT);
    n = record_key_path_prefix(&an, RECORD_INDEX, text("\xff"), a);
    k = record_key_after(a, n);
    assert_true(k == n - 1 && a[k - 1] == RECORD_INDEX + 1);
    memset(a, 0xff, 4);
    assert_int_equal(record_key_after(a, 4), 0);
    n = record_key_chunk(&an, &id, 258, a);
    assert_int_equal(record_key_parse_number((struct slice){a, n}, &v), RC_OK);
    assert_int_equal(v, 258);
    n = record_key_number(&an, RECORD_ITEM, 7, a);
    assert_int_equal(record_key_parse_number((struct slice){a, n}, &v), RC_OK);
    assert_int_equal(v, 7);
    n = record_list_key(&scope, text("case"), 0x0102030405060708ull, a);
    assert_int_equal(record_list_parse((struct slice){a, n}, &path, &v), RC_OK);
    assert_true(same(path, "case") && v == 0x0102030405060708ull);
    assert_int_equal(record_list_parse((struct slice){a, n - 1}, &path, &v), RC_CORRUPT);
    assert_true(record_anchor_hash(&an) == 0x0102030000000000ull);
}

/* A body beside a hash: its first chunk in that group, by the same function as everywhere; ids are
 * new each time. */
static void test_body_near(void **state)
{
    struct id128 last = {{0}}, id;
    uint32_t missed = 0;

    (void)state;
    for (uint64_t i = 0; i < 300; i++) {
        uint64_t hash = i * 0x9e3779b97f4a7c15ull, chunk;
        uint32_t bits = (uint32_t)(i % (ANCHOR_NEAR_BITS_MAX + 1));
        bool near;

        assert_int_equal(anchor_body_near(hash, bits, &id, &near), RC_OK);
        assert_int_equal(anchor_chunk_hash(&id, 0, &chunk), RC_OK);
        assert_true(!near || bits == 0 || (hash ^ chunk) >> (64 - bits) == 0);
        assert_memory_not_equal(id.b, last.b, 14);
        last = id;
        missed += !near;
    }
    assert_true(missed < 5);
    {
        bool near = true;

        assert_int_equal(anchor_body_near(1, ANCHOR_NEAR_BITS_MAX + 1, &id, &near), RC_OK);
        assert_false(near || id128_is_zero(&id));
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_case_records), cmocka_unit_test(test_objects),
        cmocka_unit_test(test_others),       cmocka_unit_test(test_keys),
        cmocka_unit_test(test_body_near),
    };

    seeds_dir = argc > 1 ? argv[1] : NULL;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
