/* gateway/api/keyring.c - records that carry keys: collections, cases, bodies, the signing key.
 *
 * A key is used only as it was read back from its group: whoever lost the race to create one gets
 * the winner's. Keys in memory are wiped with the struct that holds them; cached collections live
 * GW_COLLECTION_TTL_MS. */
#include "common/base/clock.h"
#include "gateway/api/gw.h"
#include "gateway/ingest/name.h"
#include <stdlib.h>

struct gw_cached {
    struct list link;
    uint64_t until_ms, version;
    char name[64];
    uint8_t *value;
    size_t value_n;
};

struct route_at gw_at(const struct gw *gw, uint32_t pool, const struct record_anchor *a)
{
    return (struct route_at){pool == 0 ? gw->meta_pool : pool, record_anchor_hash(a)};
}

uint64_t gw_left_ms(const struct fcall *c)
{
    uint64_t left = fcall_left_ms(c, GW_CALL_MS);

    /* a little is kept to say why it failed; at the deadline itself nobody listens any more */
    return left - MIN(left / 10, 250);
}

struct slice gw_text(const char *s)
{
    return (struct slice){(const uint8_t *)s, strlen(s)};
}

struct slice gw_bytes(ProtobufCBinaryData b)
{
    return (struct slice){b.data, b.len};
}

char *gw_dup(struct arena *a, struct slice s)
{
    return arena_copy(a, s.p, s.n); /* ends with a zero */
}

bool gw_slice_is(struct slice s, const char *text)
{
    return s.n == strlen(text) && memcmp(s.p, text, s.n) == 0;
}

static struct record_out scratch_out;
static uint8_t scratch[RECORD_VALUE_MAX]; /* the loop's thread alone encodes */

struct record_out *gw_scratch(void)
{
    scratch_out = (struct record_out){.p = scratch, .cap = sizeof scratch};
    return &scratch_out;
}

enum rc gw_keep(struct arena *a, enum rc rc, struct slice *ret)
{
    if (rc != RC_OK) return rc;
    ret->p = arena_copy(a, scratch_out.p, scratch_out.n);
    ret->n = scratch_out.n;
    return ret->p == NULL ? RC_NOMEM : RC_OK;
}

/* Lists in the arena; keys and values are borrowed. */
static enum rc txn_request(const struct gw_compare *compares, uint32_t compares_n,
                           const struct gw_put *puts, uint32_t puts_n, const struct slice *deletes,
                           uint32_t deletes_n, struct arena *a,
                           Mikura__Internal__V1__TxnRequest *ret, struct err *reterr)
{
    Mikura__Internal__V1__Compare *c = arena_alloc(a, compares_n * sizeof *c);
    Mikura__Internal__V1__Compare **cp = arena_alloc(a, compares_n * sizeof *cp);
    Mikura__Internal__V1__Put *p = arena_alloc(a, puts_n * sizeof *p);
    Mikura__Internal__V1__Put **pp = arena_alloc(a, puts_n * sizeof *pp);
    ProtobufCBinaryData *d = arena_alloc(a, deletes_n * sizeof *d);

    if (c == NULL || cp == NULL || p == NULL || pp == NULL || d == NULL) {
        return err_set(reterr, RC_NOMEM, "a transaction");
    }
    for (uint32_t i = 0; i < compares_n; i++) {
        mikura__internal__v1__compare__init(&c[i]);
        c[i].kind = compares[i].kind;
        c[i].key.data = (uint8_t *)(uintptr_t)compares[i].key.p;
        c[i].key.len = compares[i].key.n;
        c[i].number = compares[i].number;
        cp[i] = &c[i];
    }
    for (uint32_t i = 0; i < puts_n; i++) {
        mikura__internal__v1__put__init(&p[i]);
        p[i].key.data = (uint8_t *)(uintptr_t)puts[i].key.p;
        p[i].key.len = puts[i].key.n;
        p[i].value.data = (uint8_t *)(uintptr_t)puts[i].value.p;
        p[i].value.len = puts[i].value.n;
        pp[i] = &p[i];
    }
    for (uint32_t i = 0; i < deletes_n; i++) {
        d[i].data = (uint8_t *)(uintptr_t)deletes[i].p;
        d[i].len = deletes[i].n;
    }
    mikura__internal__v1__txn_request__init(ret);
    ret->compares = cp;
    ret->n_compares = compares_n;
    ret->puts = pp;
    ret->n_puts = puts_n;
    ret->deletes = d;
    ret->n_deletes = deletes_n;
    return RC_OK;
}

enum rc gw_txn(struct gw *gw, struct route_at at, const struct gw_compare *compares,
               uint32_t compares_n, const struct gw_put *puts, uint32_t puts_n,
               const struct slice *deletes, uint32_t deletes_n, struct arena *a, uint64_t left_ms,
               bool *ret_succeeded, uint64_t *ret_version, uint64_t *ret_tick, struct err *reterr)
{
    Mikura__Internal__V1__TxnRequest req;
    Mikura__Internal__V1__TxnResponse *answer;
    enum rc rc =
        txn_request(compares, compares_n, puts, puts_n, deletes, deletes_n, a, &req, reterr);

    if (rc == RC_OK) rc = route_txn(gw->route, at, &req, left_ms, a, &answer, reterr);
    if (rc != RC_OK) return rc;
    *ret_succeeded = answer->succeeded;
    if (ret_version != NULL) *ret_version = answer->index;
    if (ret_tick != NULL) *ret_tick = answer->tick;
    return RC_OK;
}

enum rc gw_chunk_txn(struct gw *gw, struct route_chunk *chunk, struct route_at at,
                     const struct gw_compare *compares, uint32_t compares_n,
                     const struct gw_put *puts, uint32_t puts_n, struct arena *a, uint64_t left_ms,
                     bool *ret_succeeded, uint64_t *ret_version, uint64_t *ret_tick,
                     struct err *reterr)
{
    Mikura__Internal__V1__TxnRequest req;
    struct route_with with = {.at = at, .req = &req, .arena = a};
    enum rc rc = txn_request(compares, compares_n, puts, puts_n, NULL, 0, a, &req, reterr);

    if (rc != RC_OK) return rc;
    chunk->with = &with;
    rc = route_chunk_put(gw->route, chunk, left_ms, reterr);
    chunk->with = NULL;
    if (rc != RC_OK) return rc;
    *ret_succeeded = with.answer->succeeded;
    *ret_version = with.answer->index;
    *ret_tick = with.answer->tick;
    return RC_OK;
}

/* ---- collections ---- */
static void cached_free(struct gw *gw, struct gw_cached *e)
{
    list_remove(&e->link);
    gw->cached_n--;
    free(e->value);
    free(e);
}

void gw_collection_forget(struct gw *gw, const char *name)
{
    LIST_FOREACH_SAFE(it, &gw->cached)
    {
        struct gw_cached *e = CONTAINER_OF(it, struct gw_cached, link);

        if (strcmp(e->name, name) == 0) cached_free(gw, e);
    }
}

void gw_collections_forget_all(struct gw *gw)
{
    LIST_FOREACH_SAFE(it, &gw->cached) cached_free(gw, CONTAINER_OF(it, struct gw_cached, link));
}

/* Sealed bytes only are kept; the key is unwrapped for each call. */
static void cache_put(struct gw *gw, const char *name, uint64_t version, struct slice value)
{
    struct gw_cached *e;

    gw_collection_forget(gw, name);
    if (gw->cached_n >= GW_COLLECTIONS_CACHED_MAX) {
        cached_free(gw, CONTAINER_OF(gw->cached.next, struct gw_cached, link));
    }
    e = calloc(1, sizeof *e);
    if (e == NULL) return; /* only a cache */
    e->value = malloc(value.n);
    if (e->value == NULL || strlen(name) >= sizeof e->name) {
        free(e->value);
        free(e);
        return;
    }
    memcpy(e->name, name, strlen(name) + 1);
    memcpy(e->value, value.p, value.n);
    e->value_n = value.n;
    e->version = version;
    e->until_ms = uv_now(gw->loop) + GW_COLLECTION_TTL_MS;
    list_push_back(&gw->cached, &e->link);
    gw->cached_n++;
}

static enum rc collection_open(struct gw *gw, struct slice value, struct gw_collection *ret,
                               struct err *reterr)
{
    struct key_place place = {.kind = KEY_COLLECTION};
    enum rc rc = record_collection_decode(value, &ret->rec, reterr);

    if (rc != RC_OK) return rc;
    place.self = (struct slice){ret->rec.id.b, 16};
    rc = key_unwrap(&gw->master.key, &place, ret->rec.key.bytes, &ret->key);
    return rc == RC_OK
               ? RC_OK
               : err_set(reterr, rc,
                         "the collection's key does not open under this gateway's master key");
}

enum rc gw_collection(struct gw *gw, const char *name, struct arena *a, uint64_t left_ms,
                      struct gw_collection *ret, struct err *reterr)
{
    uint8_t key[RECORD_KEY_BYTES_MAX];
    Mikura__Internal__V1__GetResponse *got;
    struct slice k, value;
    enum rc rc;

    rc = name_check_collection(gw_text(name), reterr);
    if (rc == RC_OK) rc = anchor_collection(gw_text(name), &ret->anchor);
    if (rc != RC_OK) return rc;
    LIST_FOREACH(it, &gw->cached)
    {
        struct gw_cached *e = CONTAINER_OF(it, struct gw_cached, link);

        if (strcmp(e->name, name) != 0 || e->until_ms < uv_now(gw->loop)) continue;
        value.p = arena_copy(a, e->value, e->value_n);
        value.n = e->value_n;
        if (value.p == NULL) return err_set(reterr, RC_NOMEM, "a collection's record");
        ret->version = e->version;
        return collection_open(gw, value, ret, reterr);
    }
    k = (struct slice){key, record_key(&ret->anchor, RECORD_COLLECTION, key)};
    rc = route_get(gw->route, gw_at(gw, 0, &ret->anchor), &k, 1, left_ms, a, &got, reterr);
    if (rc != RC_OK) return rc;
    if (got->items[0]->version == 0) {
        return err_set(reterr, RC_NOTFOUND, "no collection '%s'; `mikura collection ls` lists them",
                       name);
    }
    value = gw_bytes(got->items[0]->value);
    ret->version = got->items[0]->version;
    rc = collection_open(gw, value, ret, reterr);
    if (rc == RC_OK) cache_put(gw, name, ret->version, value);
    return rc;
}

void gw_collection_wipe(struct gw_collection *col)
{
    key_wipe(&col->key);
}

/* ---- cases ---- */
/* claim NULL: not asked for. */
static enum rc case_read(struct gw *gw, const struct gw_collection *col, const char *case_id,
                         const struct id128 *claim, struct arena *a, uint64_t left_ms,
                         struct gw_case *ret, struct gw_row *ret_claim, struct err *reterr)
{
    uint8_t *keys = arena_raw(a, 3 * RECORD_KEY_BYTES_MAX);
    Mikura__Internal__V1__GetResponse *got;
    struct slice k[3];
    enum rc rc;

    if (keys == NULL) return err_set(reterr, RC_NOMEM, "a case's keys");
    k[0] = (struct slice){keys, record_key(&ret->anchor, RECORD_HEAD, keys)};
    keys += RECORD_KEY_BYTES_MAX;
    k[1] = (struct slice){keys, record_key(&ret->anchor, RECORD_CASE, keys)};
    keys += RECORD_KEY_BYTES_MAX;
    if (claim != NULL) k[2] = (struct slice){keys, record_key_claim(ret->at.hash, claim, keys)};
    rc = route_get(gw->route, ret->at, k, claim != NULL ? 3 : 2, left_ms, a, &got, reterr);
    if (rc != RC_OK) return rc;
    if (claim != NULL) {
        *ret_claim = (struct gw_row){gw_bytes(got->items[2]->value), got->items[2]->version};
    }
    return gw_case_decode(col, case_id, got->items[0], got->items[1], ret, reterr);
}

enum rc gw_case_decode(const struct gw_collection *col, const char *case_id,
                       const Mikura__Internal__V1__Item *head,
                       const Mikura__Internal__V1__Item *rec, struct gw_case *ret,
                       struct err *reterr)
{
    struct key_place place = {.kind = KEY_CASE};
    enum rc rc;

    if (head->version == 0 || rec->version == 0) {
        return err_set(reterr, RC_NOTFOUND, "no case '%s' in this collection", case_id);
    }
    ret->head_version = head->version;
    ret->rec_version = rec->version;
    rc = record_head_decode(gw_bytes(head->value), &ret->head, reterr);
    if (rc == RC_OK) rc = record_case_decode(gw_bytes(rec->value), &ret->rec, reterr);
    if (rc != RC_OK) return rc;
    if (ret->head.state == RECORD_CASE_WITHDRAWN) {
        return err_set(reterr, RC_PRECOND, "case '%s' was withdrawn; its images are gone for good",
                       case_id);
    }
    place.parent = (struct slice){col->rec.id.b, 16};
    place.self = (struct slice){ret->anchor.b, sizeof ret->anchor.b};
    rc = key_unwrap(&col->key, &place, ret->rec.key.bytes, &ret->key);
    return rc == RC_OK ? RC_OK : err_set(reterr, rc, "the key of case '%s' does not open", case_id);
}

/* A case with a key of its own, in memory only. */
static enum rc case_new(const struct gw_collection *col, const char *case_id, struct arena *a,
                        struct gw_case *ret, struct err *reterr)
{
    uint8_t *wrapped = arena_alloc(a, KEY_WRAPPED_BYTES);
    struct key_place place = {.kind = KEY_CASE};
    char *name = gw_dup(a, gw_text(case_id));
    enum rc rc;

    if (wrapped == NULL || name == NULL) return err_set(reterr, RC_NOMEM, "a case's keys");
    place.parent = (struct slice){col->rec.id.b, 16};
    place.self = (struct slice){ret->anchor.b, sizeof ret->anchor.b};
    key_random(&ret->key);
    rc = key_wrap(&col->key, &place, &ret->key, wrapped);
    if (rc != RC_OK) return err_set(reterr, rc, "wrapping a new case key");
    ret->head = (struct record_head){.state = RECORD_CASE_OPEN, .stage = 1};
    ret->rec = (struct record_case){.collection = col->rec.id,
                                    .case_id = gw_text(name),
                                    .key = {col->rec.id, {wrapped, KEY_WRAPPED_BYTES}},
                                    .created_unix_ms = (int64_t)clock_wall_ms()};
    ret->head_version = ret->rec_version = 0;
    return RC_OK;
}

static enum rc case_store(struct gw *gw, const struct gw_collection *col, struct arena *a,
                          uint64_t left_ms, const struct gw_case *cs, struct err *reterr)
{
    uint8_t *keys = arena_raw(a, 3 * RECORD_KEY_BYTES_MAX);
    struct record_list row = {.anchor = cs->anchor, .created_unix_ms = cs->rec.created_unix_ms};
    struct gw_put puts[3];
    struct gw_compare absent = {.kind = MIKURA__INTERNAL__V1__COMPARE_KIND__COMPARE_ABSENT};
    bool won;
    enum rc rc;

    if (keys == NULL) return err_set(reterr, RC_NOMEM, "a case's keys");
    puts[0].key = (struct slice){keys, record_key(&cs->anchor, RECORD_HEAD, keys)};
    keys += RECORD_KEY_BYTES_MAX;
    puts[1].key = (struct slice){keys, record_key(&cs->anchor, RECORD_CASE, keys)};
    keys += RECORD_KEY_BYTES_MAX;
    puts[2].key =
        (struct slice){keys, record_list_key(&col->rec.id, cs->rec.case_id, cs->at.hash, keys)};
    rc = GW_ENCODE(a, head, &cs->head, &puts[0].value, reterr);
    if (rc == RC_OK) rc = GW_ENCODE(a, case, &cs->rec, &puts[1].value, reterr);
    if (rc == RC_OK) rc = GW_ENCODE(a, list, &row, &puts[2].value, reterr);
    if (rc != RC_OK) return rc;
    absent.key = puts[0].key;
    /* lost = somebody else made it: what is read back counts */
    return gw_txn(gw, cs->at, &absent, 1, puts, 3, NULL, 0, a, left_ms, &won, NULL, NULL, reterr);
}

enum rc gw_case_place(struct gw *gw, const struct gw_collection *col, const char *case_id,
                      struct gw_case *ret, struct err *reterr)
{
    enum rc rc = name_check_case(gw_text(case_id), reterr);

    if (rc == RC_OK) rc = anchor_case(&col->rec.id, gw_text(case_id), &ret->anchor);
    if (rc == RC_OK) ret->at = gw_at(gw, col->rec.meta_pool, &ret->anchor);
    return rc;
}

enum rc gw_case(struct gw *gw, const struct gw_collection *col, const char *case_id, bool create,
                struct arena *a, uint64_t left_ms, struct gw_case *ret, struct err *reterr)
{
    enum rc rc = gw_case_place(gw, col, case_id, ret, reterr);

    if (rc != RC_OK) return rc;
    rc = case_read(gw, col, case_id, NULL, a, left_ms, ret, NULL, reterr);
    if (rc != RC_NOTFOUND || !create) return rc;
    rc = case_new(col, case_id, a, ret, reterr);
    if (rc == RC_OK) rc = case_store(gw, col, a, left_ms, ret, reterr);
    gw_case_wipe(ret);
    return rc != RC_OK ? rc : case_read(gw, col, case_id, NULL, a, left_ms, ret, NULL, reterr);
}

enum rc gw_case_or_new(struct gw *gw, const struct gw_collection *col, const char *case_id,
                       const struct id128 *claim, struct arena *a, uint64_t left_ms,
                       struct gw_case *ret, struct gw_row *ret_claim, struct err *reterr)
{
    enum rc rc = gw_case_place(gw, col, case_id, ret, reterr);

    if (rc != RC_OK) return rc;
    rc = case_read(gw, col, case_id, claim, a, left_ms, ret, ret_claim, reterr);
    return rc != RC_NOTFOUND ? rc : case_new(col, case_id, a, ret, reterr);
}

void gw_case_wipe(struct gw_case *cs)
{
    key_wipe(&cs->key);
}

static struct key_place body_place(const struct gw_case *cs, const struct id128 *body)
{
    return (struct key_place){.kind = KEY_BODY,
                              .parent = {cs->anchor.b, sizeof cs->anchor.b},
                              .self = {body->b, sizeof body->b}};
}

enum rc gw_body_wrap(const struct gw_case *cs, const struct id128 *body, const struct key *k,
                     struct arena *a, struct record_wrapped *ret)
{
    struct key_place place = body_place(cs, body);
    uint8_t *w = arena_alloc(a, KEY_WRAPPED_BYTES);

    if (w == NULL) return RC_NOMEM;
    memcpy(ret->wrapper.b, cs->anchor.b, sizeof ret->wrapper.b);
    ret->bytes = (struct slice){w, KEY_WRAPPED_BYTES};
    return key_wrap(&cs->key, &place, k, w);
}

enum rc gw_body_unwrap(const struct gw_case *cs, const struct record_body *body,
                       struct key *ret_key, struct err *reterr)
{
    struct key_place place = body_place(cs, &body->id);
    enum rc rc = key_unwrap(&cs->key, &place, body->key.bytes, ret_key);

    return rc == RC_OK ? RC_OK
                       : err_set(reterr, rc, "a body's key does not open under its case's key");
}

/* ---- the signing key ----
 * Row 's' "signing", value: format u8 = 1, key id 16, public key 32, wrapped seed. The public key
 * is told to storage nodes through etcd (signing/<key id>), which check capabilities with it. */
#define SIGNING_BYTES (1 + 16 + SIGN_PUBLIC_BYTES + KEY_WRAPPED_BYTES)
static const char SIGNING_ROW[] = "ssigning";

static enum rc signing_make(struct gw *gw, struct route_at at, struct slice row, struct arena *a,
                            struct err *reterr)
{
    struct gw_compare absent = {.kind = MIKURA__INTERNAL__V1__COMPARE_KIND__COMPARE_ABSENT,
                                .key = row};
    struct key_place place = {.kind = KEY_SIGNING};
    uint8_t value[SIGNING_BYTES] = {1};
    struct gw_put put = {row, {value, sizeof value}};
    struct sign_public pub;
    struct key seed;
    bool won;
    enum rc rc;

    key_random(&seed);
    rc = sign_public_of(&seed, &pub);
    place.self = (struct slice){pub.id.b, sizeof pub.id.b};
    memcpy(value + 1, pub.id.b, 16);
    memcpy(value + 17, pub.b, SIGN_PUBLIC_BYTES);
    if (rc == RC_OK) rc = key_wrap(&gw->master.key, &place, &seed, value + 17 + SIGN_PUBLIC_BYTES);
    key_wipe(&seed);
    if (rc != RC_OK) return err_set(reterr, rc, "making the signing key");
    return gw_txn(gw, at, &absent, 1, &put, 1, NULL, 0, a, GW_CALL_MS, &won, NULL, NULL, reterr);
}

enum rc gw_signing_open(struct gw *gw, struct err *reterr)
{
    struct slice row = {(const uint8_t *)SIGNING_ROW, sizeof SIGNING_ROW - 1};
    struct route_at at = {gw->meta_pool, 0};
    struct key_place place = {.kind = KEY_SIGNING};
    Mikura__Internal__V1__GetResponse *got;
    struct sign_public pub;
    struct key seed = {0};
    struct arena a;
    struct slice v;
    enum rc rc;

    arena_init(&a);
    for (int i = 0; i < 2; i++) {
        rc = route_get(gw->route, at, &row, 1, GW_CALL_MS, &a, &got, reterr);
        if (rc != RC_OK) goto out;
        if (got->items[0]->version != 0) break;
        rc = signing_make(gw, at, row, &a, reterr);
        if (rc != RC_OK) goto out;
    }
    v = gw_bytes(got->items[0]->value);
    if (v.n != SIGNING_BYTES || v.p[0] != 1) {
        rc = err_set(reterr, RC_CORRUPT, "the record of the signing key");
        goto out;
    }
    rc = sign_public_load((struct slice){v.p + 17, SIGN_PUBLIC_BYTES}, &pub);
    if (rc != RC_OK) goto out;
    place.self = (struct slice){pub.id.b, 16};
    rc = key_unwrap(&gw->master.key, &place,
                    (struct slice){v.p + 17 + SIGN_PUBLIC_BYTES, KEY_WRAPPED_BYTES}, &seed);
    if (rc == RC_OK) rc = signer_new(&seed, &gw->signer);
    key_wipe(&seed);
    if (rc != RC_OK) {
        (void)err_set(reterr, rc, "the signing key does not open under this gateway's master key");
    }
out:
    arena_deinit(&a);
    return rc;
}
