/* gateway/api/models.c - ONNX models: added once, checked, kept like any other body, found by name,
 * version and digest.
 *
 * A model's row holds a key of its own (wrapped by the master key) and the manifest of its bytes
 * with its MAC, so that reading goes the way objects go: for that code a model is a case with one
 * object. The file is a stranger's: mikura-model-check, a child without keys, parses it
 * (model_check.h), while a worker thread waits. */
#include "gateway/api/models.h"
#include "common/base/clock.h"
#include "common/base/hex.h"
#include "common/base/log.h"
#include "common/base/strutil.h"
#include "common/crypto/digest.h"
#include "gateway/api/body.h"
#include "gateway/api/listing.h"
#include "gateway/api/model_check.h"
#include "gateway/ingest/name.h"
#include "gateway/model_check/wire.h"
#include "proto/mikura/internal/v1/work.pb-c.h"
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>

/* A model is whole in memory while it is checked, here and, 4 times its size at most, in a child.
 */
#define MODEL_BYTES_MAX   (512u << 20) /* ViT-B/16 in fp32 has 330 MiB */
#define MODEL_CHUNK_BYTES (8u << 20)

static enum rc model_anchor_key(const char *name, struct record_anchor *ret, struct err *reterr)
{
    enum rc rc = name_check_collection(gw_text(name), reterr);

    return rc != RC_OK ? rc : anchor_model(gw_text(name), ret);
}

/* What wraps and opens it: its name's anchor and its body. */
static struct key_place model_place(const struct record_anchor *a, const struct id128 *body,
                                    uint8_t self[RECORD_ANCHOR_BYTES + 16])
{
    memcpy(self, a->b, RECORD_ANCHOR_BYTES);
    memcpy(self + RECORD_ANCHOR_BYTES, body->b, 16);
    return (struct key_place){.kind = KEY_COLLECTION, .self = {self, RECORD_ANCHOR_BYTES + 16}};
}

/* ---- finding ---- */
struct newest {
    struct arena *a;
    uint64_t version; /* wanted; 0 = the greatest */
    struct slice value;
    uint64_t found;
};

static enum rc each_version(void *arg, const Mikura__Internal__V1__Item *item)
{
    struct newest *n = arg;
    uint64_t version;
    enum rc rc = record_key_parse_number(gw_bytes(item->key), &version);

    if (rc != RC_OK) return rc;
    if (n->version != 0 && n->version != version) return RC_OK;
    n->found = version;
    n->value.p = arena_copy(n->a, item->value.data, item->value.len);
    n->value.n = item->value.len;
    return n->value.p == NULL ? RC_NOMEM : RC_OK;
}

static enum rc scan_versions(struct gw *gw, const struct record_anchor *anchor, uint64_t left_ms,
                             route_item_fn each, void *arg, struct err *reterr)
{
    uint8_t from[RECORD_KEY_BYTES_MAX], until[RECORD_KEY_BYTES_MAX];
    size_t from_n = record_key(anchor, RECORD_MODEL, from), until_n = from_n;

    memcpy(until, from, from_n);
    until_n = record_key_after(until, until_n);
    return route_scan(gw->route, gw_at(gw, 0, anchor), (struct slice){from, from_n},
                      (struct slice){until, until_n}, 0, left_ms, each, arg, reterr);
}

static enum rc find_version(struct gw *gw, const char *name, uint64_t version, struct arena *a,
                            uint64_t left_ms, struct gw_model *ret, struct err *reterr)
{
    struct newest n = {.a = a, .version = version};
    enum rc rc = model_anchor_key(name, &ret->anchor, reterr);

    if (rc == RC_OK) rc = scan_versions(gw, &ret->anchor, left_ms, each_version, &n, reterr);
    if (rc != RC_OK) return rc;
    if (n.found == 0) {
        if (version != 0)
            return err_set(reterr, RC_NOTFOUND, "no version %llu of the model '%s'",
                           (unsigned long long)version, name);
        return err_set(reterr, RC_NOTFOUND, "no model '%s'; `mikura model ls` lists them", name);
    }
    return record_model_decode(n.value, &ret->rec, reterr);
}

enum rc gw_model_find(struct gw *gw, const char *spec, struct arena *a, uint64_t left_ms,
                      struct gw_model *ret, struct err *reterr)
{
    const char *at = strchr(spec, '@');
    char *name = arena_str(a, "%.*s", at == NULL ? (int)strlen(spec) : (int)(at - spec), spec);
    uint64_t version = 0;

    if (name == NULL) return err_set(reterr, RC_NOMEM, "a model's name");
    if (at != NULL && (!str_to_u64(at + 1, UINT64_MAX, &version) || version == 0))
        return err_set(reterr, RC_INVAL, "model '%s': expected NAME or NAME@VERSION", spec);
    return find_version(gw, name, version, a, left_ms, ret, reterr);
}

enum rc gw_model_message(const struct gw_model *m, struct arena *a, Mikura__V1__Model **ret,
                         struct err *reterr)
{
    *ret = mikura__v1__model__unpack(&a->pb, m->rec.detail.n, m->rec.detail.p);
    return *ret == NULL ? err_set(reterr, RC_CORRUPT, "a model's record") : RC_OK;
}

static enum rc model_get(struct fcall *c, struct err *reterr)
{
    struct gw *gw = c->service;
    Mikura__V1__GetModelRequest *req;
    Mikura__V1__Model *m;
    struct gw_model found;
    enum rc rc = fcall_request(c, &mikura__v1__get_model_request__descriptor, &req, reterr);

    if (rc == RC_OK)
        rc = find_version(gw, req->name, req->version, &c->arena, gw_left_ms(c), &found, reterr);
    if (rc == RC_OK) rc = gw_model_message(&found, &c->arena, &m, reterr);
    return rc != RC_OK ? rc : fcall_send(c, &m->base);
}

/* ---- every version of every name, newest first ---- */
struct all_models {
    struct gw *gw;
    struct arena *a;
    uint64_t left_ms;
    enum rc (*each)(void *arg, const struct gw_model *m);
    void *arg;
    struct record_anchor anchor; /* of the name at hand */
    struct gw_model **versions;
    uint32_t n, max;
    struct err *err;
};

static enum rc keep_version(void *arg, const Mikura__Internal__V1__Item *item)
{
    struct all_models *all = arg;
    struct gw_model *m = arena_alloc(all->a, sizeof *m);
    struct slice value = {arena_copy(all->a, item->value.data, item->value.len), item->value.len};

    if (m == NULL || value.p == NULL) return RC_NOMEM;
    m->anchor = all->anchor;
    if (all->n == all->max) {
        uint32_t max = all->max == 0 ? 16 : all->max * 2;
        struct gw_model **v = arena_alloc(all->a, max * sizeof *v);

        if (v == NULL) return RC_NOMEM;
        if (all->n > 0) memcpy(v, all->versions, all->n * sizeof(struct gw_model *));
        all->versions = v;
        all->max = max;
    }
    all->versions[all->n++] = m;
    return record_model_decode(value, &m->rec, all->err);
}

static enum rc each_name(void *arg, struct slice name, const struct record_list *row)
{
    struct all_models *all = arg;
    enum rc rc;

    (void)name;
    all->anchor = row->anchor;
    all->n = 0;
    rc = scan_versions(all->gw, &all->anchor, all->left_ms, keep_version, all, all->err);
    for (uint32_t i = all->n; i-- > 0 && rc == RC_OK;)
        rc = all->each(all->arg, all->versions[i]);
    return rc;
}

static enum rc models_each(struct gw *gw, struct arena *a, uint64_t left_ms,
                           enum rc (*each)(void *arg, const struct gw_model *m), void *arg,
                           struct err *reterr)
{
    struct all_models all = {
        .gw = gw, .a = a, .left_ms = left_ms, .each = each, .arg = arg, .err = reterr};

    return gw_list_names(gw, gw->meta_pool, &record_scope_models, "", "", a, left_ms, each_name,
                         &all, reterr);
}

struct list_answer {
    struct fcall *c;
    Mikura__V1__Model **out;
    size_t n, max;
    struct err *err;
};
static enum rc list_each(void *arg, const struct gw_model *m)
{
    struct list_answer *l = arg;

    if (l->n == l->max) return RC_RANGE;
    return gw_model_message(m, &l->c->arena, &l->out[l->n++], l->err);
}

static enum rc model_list(struct fcall *c, struct err *reterr)
{
    Mikura__V1__ListModelsRequest *req;
    Mikura__V1__ListModelsResponse answer = MIKURA__V1__LIST_MODELS_RESPONSE__INIT;
    struct list_answer l = {.c = c, .max = 10000, .err = reterr};
    enum rc rc = fcall_request(c, &mikura__v1__list_models_request__descriptor, &req, reterr);

    if (rc != RC_OK) return rc;
    l.out = arena_alloc(&c->arena, l.max * sizeof *l.out);
    if (l.out == NULL) return err_set(reterr, RC_NOMEM, "a list of models");
    rc = models_each(c->service, &c->arena, gw_left_ms(c), list_each, &l, reterr);
    if (rc != RC_OK) return rc;
    answer.models = l.out;
    answer.n_models = l.n;
    return fcall_send(c, &answer.base);
}

/* ---- Add ---- */
struct adding {
    struct fcall *c;
    Mikura__V1__AddModelHeader *header;
    struct record_anchor anchor;
    uint8_t *bytes; /* malloc */
    size_t got;
    /* on a worker thread */
    const char *program;
    uint8_t sha256[32];
    uint8_t *answer; /* malloc; of the child */
    size_t answer_n;
    struct err err;
    enum rc rc;
};

static enum rc add_receive(struct adding *ad, struct err *reterr)
{
    struct rpc_msg *m;
    enum rc rc;

    while ((rc = fcall_recv(ad->c, &m)) == RC_OK) {
        Mikura__V1__AddModelRequest *req = mikura__v1__add_model_request__unpack(NULL, m->n, m->p);

        if (req == NULL) {
            rc = err_set(reterr, RC_INVAL, "a message does not decode");
        } else if (ad->header == NULL && req->header == NULL) {
            rc = err_set(reterr, RC_INVAL, "the first message must carry the header");
        } else if (ad->header == NULL) {
            size_t n = mikura__v1__add_model_header__get_packed_size(req->header);
            uint8_t *packed = arena_alloc(&ad->c->arena, n);

            if (packed != NULL) {
                (void)mikura__v1__add_model_header__pack(req->header, packed);
                ad->header = mikura__v1__add_model_header__unpack(&ad->c->arena.pb, n, packed);
            }
            if (ad->header == NULL) {
                rc = err_set(reterr, RC_NOMEM, "a model's header");
            } else if (ad->header->size_bytes == 0 || ad->header->size_bytes > MODEL_BYTES_MAX) {
                rc = err_set(reterr, RC_BUSY,
                             "a model of %llu bytes: this gateway checks models of 1 to %u bytes",
                             (unsigned long long)ad->header->size_bytes, MODEL_BYTES_MAX);
            } else if (ad->header->sha256.len != 32) {
                rc = err_set(reterr, RC_INVAL, "sha256: expected 32 bytes");
            } else {
                rc = model_anchor_key(ad->header->name, &ad->anchor, reterr);
            }
            if (rc == RC_OK) {
                ad->bytes = malloc(ad->header->size_bytes);
                if (ad->bytes == NULL) rc = err_set(reterr, RC_NOMEM, "a model's bytes");
            }
        }
        if (rc == RC_OK && req->data.len > ad->header->size_bytes - ad->got)
            rc = err_set(reterr, RC_INVAL, "more bytes than the declared %llu",
                         (unsigned long long)ad->header->size_bytes);
        if (rc == RC_OK && req->data.len > 0) {
            memcpy(ad->bytes + ad->got, req->data.data, req->data.len);
            ad->got += req->data.len;
        }
        if (req != NULL) mikura__v1__add_model_request__free_unpacked(req, NULL);
        fcall_release(ad->c, m);
        if (rc != RC_OK) return rc;
    }
    if (rc != RC_RANGE) return rc;
    if (ad->header == NULL) return err_set(reterr, RC_INVAL, "no header came");
    if (ad->got != ad->header->size_bytes)
        return err_set(reterr, RC_INVAL, "the stream ended after %zu of the declared %llu bytes",
                       ad->got, (unsigned long long)ad->header->size_bytes);
    return RC_OK;
}

static void add_check(void *arg)
{
    struct adding *ad = arg;
    unsigned int n = 32;

    if (EVP_Digest(ad->bytes, ad->got, ad->sha256, &n, EVP_sha256(), NULL) != 1) {
        ad->rc = err_set(&ad->err, RC_INTERNAL, "SHA-256 of a model");
    } else if (memcmp(ad->sha256, ad->header->sha256.data, 32) != 0) {
        ad->rc = err_set(&ad->err, RC_INVAL,
                         "the bytes that came have another SHA-256 than the header says; send them "
                         "again");
    } else {
        ad->rc = gw_model_check(ad->program, ad->bytes, ad->got, MODEL_CHECK_MS, &ad->answer,
                                &ad->answer_n, &ad->err);
    }
}

static enum rc describe(struct adding *ad, uint64_t version, struct slice *ret_detail,
                        Mikura__V1__Model **ret, struct err *reterr)
{
    struct arena *a = &ad->c->arena;
    Mikura__V1__Model *m = arena_alloc(a, sizeof *m);
    uint8_t *packed;
    size_t n;
    enum rc rc;

    if (m == NULL) return err_set(reterr, RC_NOMEM, "a model's description");
    mikura__v1__model__init(m);
    m->name = ad->header->name;
    m->version = version;
    m->sha256 = ad->header->sha256;
    m->size_bytes = ad->got;
    m->added_by = arena_str(a, "%s", fcall_peer(ad->c)->uri);
    m->added_unix_ms = (int64_t)clock_wall_ms();
    if (m->added_by == NULL) return err_set(reterr, RC_NOMEM, "a model's description");
    rc = gw_model_answer(ad->answer, ad->answer_n, a, m, reterr);
    if (rc != RC_OK) return rc;
    n = mikura__v1__model__get_packed_size(m);
    packed = arena_alloc(a, n);
    if (packed == NULL) return err_set(reterr, RC_NOMEM, "a model's description");
    (void)mikura__v1__model__pack(m, packed);
    *ret_detail = (struct slice){packed, n};
    *ret = m;
    return RC_OK;
}

static enum rc add_store(struct adding *ad, const struct body_spec *spec, struct err *reterr)
{
    struct body_writer *w = arena_alloc(&ad->c->arena, sizeof *w);
    uint8_t tree[TREE_DIGEST_BYTES];
    enum rc rc = RC_OK;

    if (w == NULL) return err_set(reterr, RC_NOMEM, "a model's body");
    body_begin(w, ad->c->service, NULL, spec);
    for (size_t at = 0; at < ad->got && rc == RC_OK; at += 1u << 20)
        rc = body_write(w, ad->bytes + at, MIN(ad->got - at, (size_t)1 << 20), reterr);
    if (rc == RC_OK) rc = body_finish(w, tree, reterr);
    body_end(w);
    return rc;
}

/* One try to become the next version. *ret_done false: somebody else was faster. */
static enum rc add_commit(struct adding *ad, const struct body_spec *spec,
                          const struct gw_case *as_case, const struct record_wrapped *key,
                          uint64_t version, Mikura__V1__Model **ret, bool *ret_done,
                          struct err *reterr)
{
    struct gw *gw = ad->c->service;
    struct arena *a = &ad->c->arena;
    uint8_t *keys = arena_raw(a, 2 * RECORD_KEY_BYTES_MAX);
    struct record_model rec = {
        .name = gw_text(ad->header->name), .version = version, .size_bytes = ad->got, .key = *key};
    struct record_list row = {.anchor = ad->anchor, .created_unix_ms = (int64_t)clock_wall_ms()};
    struct gw_compare absent = {.kind = MIKURA__INTERNAL__V1__COMPARE_KIND__COMPARE_ABSENT};
    struct gw_put puts[2];
    enum rc rc;

    if (keys == NULL) return err_set(reterr, RC_NOMEM, "a model's record");
    memcpy(rec.sha256, ad->sha256, 32);
    puts[0].key = (struct slice){keys, record_key_number(&ad->anchor, RECORD_MODEL, version, keys)};
    keys += RECORD_KEY_BYTES_MAX;
    puts[1].key = (struct slice){keys, record_list_key(&record_scope_models, rec.name,
                                                       record_anchor_hash(&ad->anchor), keys)};
    rc = body_manifest(as_case, spec, puts[0].key, (struct slice){NULL, 0}, a, &rec.manifest,
                       reterr);
    if (rc == RC_OK) rc = describe(ad, version, &rec.detail, ret, reterr);
    if (rc != RC_OK) return rc;
    rc = GW_ENCODE(a, model, &rec, &puts[0].value, reterr);
    if (rc == RC_OK) rc = GW_ENCODE(a, list, &row, &puts[1].value, reterr);
    if (rc != RC_OK) return rc;
    absent.key = puts[0].key;
    return gw_txn(gw, gw_at(gw, 0, &ad->anchor), &absent, 1, puts, 2, NULL, 0, a, GW_CALL_MS,
                  ret_done, NULL, NULL, reterr);
}

/* The stored model when the newest version has these bytes. */
static enum rc add_same(struct adding *ad, uint64_t *ret_newest, Mikura__V1__Model **ret,
                        struct err *reterr)
{
    struct gw_model m;
    enum rc rc = find_version(ad->c->service, ad->header->name, 0, &ad->c->arena, gw_left_ms(ad->c),
                              &m, reterr);

    *ret = NULL;
    *ret_newest = 0;
    if (rc == RC_NOTFOUND) return RC_OK;
    if (rc != RC_OK) return rc;
    *ret_newest = m.rec.version;
    if (memcmp(m.rec.sha256, ad->sha256, 32) != 0) return RC_OK;
    return gw_model_message(&m, &ad->c->arena, ret, reterr);
}

static enum rc add_new(struct adding *ad, Mikura__V1__Model **ret, struct err *reterr)
{
    struct gw *gw = ad->c->service;
    struct gw_case *as_case = arena_alloc(&ad->c->arena, sizeof *as_case);
    struct body_spec spec = {.body = id128_random(),
                             .upload_id = id128_random(),
                             .pool = gw->data_pool,
                             .chunk_bytes = MODEL_CHUNK_BYTES,
                             .owner_hash = record_anchor_hash(&ad->anchor),
                             .size_bytes = ad->got};
    uint8_t self[RECORD_ANCHOR_BYTES + 16],
        *wrapped = arena_alloc(&ad->c->arena, KEY_WRAPPED_BYTES);
    struct key_place place = model_place(&ad->anchor, &spec.body, self);
    struct record_wrapped key = {.bytes = {wrapped, KEY_WRAPPED_BYTES}};
    uint64_t newest;
    bool done = false;
    enum rc rc;

    if (as_case == NULL || wrapped == NULL) return err_set(reterr, RC_NOMEM, "a model");
    as_case->anchor = ad->anchor;
    key_random(&as_case->key);
    key_random(&spec.key);
    memcpy(key.wrapper.b, gw->master.fingerprint, 16);
    rc = key_wrap(&gw->master.key, &place, &as_case->key, wrapped);
    if (rc != RC_OK) (void)err_set(reterr, rc, "wrapping a model's key");
    if (rc == RC_OK) rc = add_store(ad, &spec, reterr);
    for (int tries = 0; tries < 16 && rc == RC_OK && !done; tries++) {
        rc = add_same(ad, &newest, ret, reterr);
        if (rc != RC_OK || *ret != NULL) break; /* the same bytes came at the same time */
        rc = add_commit(ad, &spec, as_case, &key, newest + 1, ret, &done, reterr);
    }
    if (rc == RC_OK && !done && *ret == NULL)
        rc = err_set(reterr, RC_ABORTED, "model '%s' keeps changing; retry", ad->header->name);
    /* an unknown outcome may have made it: then its bytes stay */
    if (!done && rc != RC_DEADLINE && rc != RC_UNAVAIL && rc != RC_IO) body_drop(gw, &spec);
    key_wipe(&as_case->key);
    key_wipe(&spec.key);
    return rc;
}

static enum rc model_add(struct fcall *c, struct err *reterr)
{
    struct adding *ad = arena_alloc(&c->arena, sizeof *ad);
    Mikura__V1__Model *m = NULL;
    uint64_t newest;
    enum rc rc;

    if (ad == NULL) return err_set(reterr, RC_NOMEM, "a model");
    ad->c = c;
    ad->program = ((struct gw *)c->service)->model_check;
    rc = add_receive(ad, reterr);
    if (rc == RC_OK) rc = fiber_work(add_check, ad);
    if (rc == RC_OK && ad->rc != RC_OK) {
        rc = ad->rc;
        *reterr = ad->err;
    }
    if (rc == RC_OK) rc = add_same(ad, &newest, &m, reterr);
    if (rc == RC_OK && m == NULL) {
        rc = add_new(ad, &m, reterr);
        if (rc == RC_OK)
            log_info("model_added", "rid=%s name=%s version=%llu bytes=%zu by=%s", fcall_rid(c),
                     m->name, (unsigned long long)m->version, ad->got, fcall_peer(c)->uri);
    }
    free(ad->answer);
    free(ad->bytes);
    return rc != RC_OK ? rc : fcall_send(c, &m->base);
}

/* ---- Work.FetchModel ---- */
struct by_digest {
    const uint8_t *sha256;
    struct gw_model *found; /* in the arena */
};
static enum rc digest_each(void *arg, const struct gw_model *m)
{
    struct by_digest *b = arg;

    if (memcmp(m->rec.sha256, b->sha256, 32) != 0) return RC_OK;
    *b->found = *m;
    return RC_RANGE;
}

static enum rc fetch_piece(void *arg, const struct object_piece *piece)
{
    struct fcall *c = arg;
    Mikura__Internal__V1__FetchModelResponse m = MIKURA__INTERNAL__V1__FETCH_MODEL_RESPONSE__INIT;
    struct rpc_payload payload = {.field = 15,
                                  .p = piece->p,
                                  .n = piece->n,
                                  .owner = piece->owner,
                                  .owner_free = piece->owner_free};

    return fcall_send_payload(c, &m.base, &payload);
}

/* Opens the row as a case with one object. */
static enum rc open_bytes(struct gw *gw, const struct gw_model *m, struct arena *a,
                          struct gw_case *cs, struct gw_object *o, struct err *reterr)
{
    uint8_t *key = arena_raw(a, RECORD_KEY_BYTES_MAX), self[RECORD_ANCHOR_BYTES + 16];
    struct key_place place;
    enum rc rc;

    if (key == NULL) return err_set(reterr, RC_NOMEM, "a model");
    o->manifest_key =
        (struct slice){key, record_key_number(&m->anchor, RECORD_MODEL, m->rec.version, key)};
    rc = record_manifest_decode(m->rec.manifest, &o->manifest, reterr);
    if (rc == RC_OK && o->manifest.bodies_n != 1) rc = RC_CORRUPT;
    if (rc != RC_OK) return err_set(reterr, rc, "a model's manifest does not decode");
    place = model_place(&m->anchor, &o->manifest.bodies[0].id, self);
    cs->anchor = m->anchor;
    rc = key_unwrap(&gw->master.key, &place, m->rec.key.bytes, &cs->key);
    if (rc != RC_OK)
        return err_set(reterr, rc, "the model's key does not open under this gateway's master key");
    return object_mac_check(cs, o->manifest_key, m->rec.manifest, &o->manifest, "model", reterr);
}

enum rc gw_model_fetch(struct fcall *c, struct err *reterr)
{
    struct gw *gw = c->service;
    Mikura__Internal__V1__FetchModelRequest *req;
    struct gw_model *m = arena_alloc(&c->arena, sizeof *m);
    struct gw_case *cs = arena_alloc(&c->arena, sizeof *cs);
    struct gw_object *o = arena_alloc(&c->arena, sizeof *o);
    struct by_digest b = {.found = m};
    enum rc rc =
        fcall_request(c, &mikura__internal__v1__fetch_model_request__descriptor, &req, reterr);

    if (rc != RC_OK) return rc;
    if (m == NULL || cs == NULL || o == NULL) return err_set(reterr, RC_NOMEM, "a model");
    if (req->sha256.len != 32) return err_set(reterr, RC_INVAL, "sha256: expected 32 bytes");
    b.sha256 = req->sha256.data;
    rc = models_each(gw, &c->arena, gw_left_ms(c), digest_each, &b, reterr);
    if (rc != RC_OK) return rc;
    if (m->rec.version == 0) {
        char hex[65];

        hex_encode(req->sha256.data, 32, hex);
        return err_set(reterr, RC_NOTFOUND, "no model with the SHA-256 %s", hex);
    }
    rc = open_bytes(gw, m, &c->arena, cs, o, reterr);
    if (rc == RC_OK)
        rc = gw_object_bytes(gw, cs, o, 0, m->rec.size_bytes, GW_CALL_MS, fetch_piece, c, reterr);
    gw_case_wipe(cs);
    return rc;
}

const struct fcall_method gw_model_methods[] = {
    {"/mikura.v1.Models/Add", true, 0, model_add},
    {"/mikura.v1.Models/List", false, 0, model_list},
    {"/mikura.v1.Models/Get", false, 0, model_get},
    {NULL, false, 0, NULL},
};
