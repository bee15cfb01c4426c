/* gateway/api/masks.c - see masks.h.
 *
 * Bytes first, then one transaction: the TASK row still says that the caller's attempt holds the
 * item, no collector has fenced the upload (its CLAIM is absent), MASK and CLAIM appear. The RESULT
 * that follows names the mask by its SHA-256: one of an attempt that was lost is never shown. */
#include "gateway/api/masks.h"
#include "common/base/log.h"
#include "common/model/job_params.h"
#include "gateway/api/body.h"
#include "gateway/api/object.h"
#include "gateway/api/series.h"
#include <openssl/evp.h>
#include <stdlib.h>

#define MASK_CHUNK_BYTES (8u << 20)

struct putting {
    struct fcall *c;
    Mikura__Internal__V1__PutMaskHeader *header;
    struct gw_job job;
    struct gw_compare task; /* its row as it was */
    struct gw_case cs;
    struct body_spec spec;
    struct body_writer *w; /* NULL: it stays in its row */
    uint8_t *plain;        /* then here */
    uint64_t got;
    EVP_MD_CTX *sha256;
};

/* ---- reading rows ---- */
/* Of one number; *ret_version 0: there is none. */
static enum rc row_read(struct gw *gw, const struct gw_job *job, enum record_kind kind,
                        uint32_t item, struct arena *a, uint64_t left_ms, struct slice *ret_key,
                        struct slice *ret_value, uint64_t *ret_version, struct err *reterr)
{
    uint8_t *key = arena_raw(a, RECORD_KEY_BYTES_MAX);
    Mikura__Internal__V1__GetResponse *got;
    enum rc rc;

    if (key == NULL) return err_set(reterr, RC_NOMEM, "a job's row");
    *ret_key = (struct slice){key, record_key_number(&job->anchor, kind, item, key)};
    rc = route_get(gw->route, job->at, ret_key, 1, left_ms, a, &got, reterr);
    if (rc != RC_OK) return rc;
    *ret_version = got->items[0]->version;
    *ret_value = gw_bytes(got->items[0]->value);
    return RC_OK;
}

static enum rc item_row(struct gw *gw, const struct gw_job *job, uint32_t item, struct arena *a,
                        uint64_t left_ms, struct record_item *ret, struct err *reterr)
{
    struct slice key, value;
    uint64_t version;
    enum rc rc = row_read(gw, job, RECORD_ITEM, item, a, left_ms, &key, &value, &version, reterr);

    if (rc != RC_OK) return rc;
    if (version == 0) return err_set(reterr, RC_NOTFOUND, "the job has no item %u", item);
    return record_item_decode(value, ret, reterr);
}

static enum rc mask_row(struct gw *gw, const struct gw_job *job, uint32_t item, struct arena *a,
                        uint64_t left_ms, struct slice *ret_key, struct record_mask *ret,
                        uint64_t *ret_version, struct err *reterr)
{
    struct slice value;
    enum rc rc =
        row_read(gw, job, RECORD_MASK, item, a, left_ms, ret_key, &value, ret_version, reterr);

    return rc != RC_OK || *ret_version == 0 ? rc : record_mask_decode(value, ret, reterr);
}

/* What a mask's manifest says of its chunks. */
static enum rc mask_body(const struct record_mask *rec, struct arena *a, struct body_spec *ret,
                         struct err *reterr)
{
    struct record_manifest *m = arena_alloc(a, sizeof *m);
    enum rc rc;

    *ret = (struct body_spec){.size_bytes = 0};
    if (m == NULL) return err_set(reterr, RC_NOMEM, "a mask");
    rc = record_manifest_decode(rec->manifest, m, reterr);
    if (rc == RC_OK && m->bodies_n == 1)
        *ret = (struct body_spec){.body = m->bodies[0].id,
                                  .pool = m->bodies[0].pool,
                                  .chunk_bytes = m->bodies[0].chunk_bytes,
                                  .size_bytes = m->bodies[0].size_bytes};
    return rc;
}

/* ---- PutMask ---- */
static enum rc put_begin(struct putting *p, const Mikura__Internal__V1__PutMaskHeader *header,
                         struct err *reterr)
{
    struct gw *gw = p->c->service;
    struct arena *a = &p->c->arena;
    size_t n = mikura__internal__v1__put_mask_header__get_packed_size(header);
    uint8_t *packed = arena_alloc(a, n);
    struct record_item it;
    struct id128 id;
    enum rc rc;

    if (packed == NULL) return err_set(reterr, RC_NOMEM, "a mask");
    (void)mikura__internal__v1__put_mask_header__pack(header, packed);
    p->header = mikura__internal__v1__put_mask_header__unpack(&a->pb, n, packed);
    if (p->header == NULL) return err_set(reterr, RC_NOMEM, "a mask");
    if (!id128_from_bytes(header->job.data, header->job.len, &id))
        return err_set(reterr, RC_INVAL, "job: expected 16 bytes");
    if (header->size_bytes == 0 || header->size_bytes > JOB_MASK_BYTES_MAX)
        return err_set(reterr, RC_INVAL, "a mask of %llu bytes; 1 to %u are kept",
                       (unsigned long long)header->size_bytes, JOB_MASK_BYTES_MAX);
    rc = gw_job_read(gw, &id, a, gw_left_ms(p->c), &p->job, reterr);
    if (rc == RC_OK)
        rc = gw_task_held(p->c, &p->job, header->task, header->attempt, header->item, a, &p->task,
                          reterr);
    if (rc == RC_OK) rc = item_row(gw, &p->job, header->item, a, gw_left_ms(p->c), &it, reterr);
    if (rc == RC_OK) rc = gw_item_case(gw, &it, a, gw_left_ms(p->c), &p->cs, reterr);
    if (rc != RC_OK) return rc;
    p->sha256 = EVP_MD_CTX_new();
    if (p->sha256 == NULL || EVP_DigestInit_ex(p->sha256, EVP_sha256(), NULL) != 1)
        return err_set(reterr, RC_NOMEM, "a mask's digest");
    p->spec = (struct body_spec){.body = id128_random(),
                                 .upload_id = id128_random(),
                                 .pool = gw->data_pool,
                                 .chunk_bytes = MASK_CHUNK_BYTES,
                                 .owner_hash = record_anchor_hash(&p->job.anchor),
                                 .size_bytes = header->size_bytes};
    if (header->size_bytes <= RECORD_INLINE_MAX) {
        p->plain = arena_alloc(a, (size_t)header->size_bytes);
        return p->plain == NULL ? err_set(reterr, RC_NOMEM, "a mask") : RC_OK;
    }
    key_random(&p->spec.key);
    p->w = arena_alloc(a, sizeof *p->w);
    if (p->w == NULL) return err_set(reterr, RC_NOMEM, "a mask");
    body_begin(p->w, gw, p->c, &p->spec);
    return RC_OK;
}

static enum rc put_piece(struct putting *p, const uint8_t *at, size_t n, struct err *reterr)
{
    if (n > p->header->size_bytes - p->got)
        return err_set(reterr, RC_INVAL, "more bytes than the declared %llu",
                       (unsigned long long)p->header->size_bytes);
    if (EVP_DigestUpdate(p->sha256, at, n) != 1)
        return err_set(reterr, RC_INTERNAL, "SHA-256 of a mask");
    if (p->w == NULL && n > 0) memcpy(p->plain + p->got, at, n);
    p->got += n;
    return p->w == NULL ? RC_OK : body_write(p->w, at, n, reterr);
}

static enum rc put_receive(struct putting *p, struct err *reterr)
{
    struct rpc_msg *m;
    enum rc rc;

    while ((rc = fcall_recv(p->c, &m)) == RC_OK) {
        Mikura__Internal__V1__PutMaskRequest *req =
            mikura__internal__v1__put_mask_request__unpack(NULL, m->n, m->p);

        if (req == NULL)
            rc = err_set(reterr, RC_INVAL, "a message does not decode");
        else if (p->header == NULL && req->header == NULL)
            rc = err_set(reterr, RC_INVAL, "the first message must carry the header");
        else if (p->header == NULL)
            rc = put_begin(p, req->header, reterr);
        if (rc == RC_OK) rc = put_piece(p, req->data.data, req->data.len, reterr);
        if (req != NULL) mikura__internal__v1__put_mask_request__free_unpacked(req, NULL);
        fcall_release(p->c, m);
        if (rc != RC_OK) return rc;
    }
    if (rc != RC_RANGE) return rc;
    if (p->header == NULL || p->got != p->header->size_bytes)
        return err_set(reterr, RC_INVAL, "the stream ended early");
    return RC_OK;
}

/* The row's manifest, with its MAC. */
static enum rc put_manifest(struct putting *p, struct slice key, struct slice *ret,
                            struct err *reterr)
{
    struct arena *a = &p->c->arena;
    struct slice sealed = {NULL, 0};
    enum rc rc;

    if (p->w == NULL) {
        uint8_t *to = arena_alloc(a, (size_t)p->got + DOCSEAL_EXTRA_BYTES);

        if (to == NULL) return err_set(reterr, RC_NOMEM, "a mask");
        sealed = (struct slice){to, (size_t)p->got + DOCSEAL_EXTRA_BYTES};
        rc = docseal_seal(&p->cs.key, DOCSEAL_INLINE, key, (struct slice){p->plain, (size_t)p->got},
                          to);
        if (rc != RC_OK) return err_set(reterr, rc, "sealing a mask");
    }
    return body_manifest(&p->cs, &p->spec, key, sealed, a, ret, reterr);
}

static enum rc put_commit(struct putting *p, struct err *reterr)
{
    struct gw *gw = p->c->service;
    struct arena *a = &p->c->arena;
    uint8_t *key = arena_raw(a, RECORD_KEY_BYTES_MAX);
    struct record_session *claim = arena_alloc(a, sizeof *claim);
    struct record_mask old = {.attempt = 0}, rec = {.attempt = p->header->attempt,
                                                    .upload = p->spec.upload_id,
                                                    .media_type = gw_text(p->header->media_type)};
    struct gw_compare same[3] = {p->task,
                                 {.kind = MIKURA__INTERNAL__V1__COMPARE_KIND__COMPARE_ABSENT},
                                 {.kind = MIKURA__INTERNAL__V1__COMPARE_KIND__COMPARE_VERSION}};
    struct gw_put puts[2];
    unsigned n = 32;
    bool done = false;
    enum rc rc;

    if (key == NULL || claim == NULL) return err_set(reterr, RC_NOMEM, "a mask");
    if (EVP_DigestFinal_ex(p->sha256, rec.sha256, &n) != 1)
        return err_set(reterr, RC_INTERNAL, "SHA-256 of a mask");
    rc = mask_row(gw, &p->job, p->header->item, a, gw_left_ms(p->c), &puts[0].key, &old,
                  &same[2].number, reterr);
    if (rc == RC_OK) rc = put_manifest(p, puts[0].key, &rec.manifest, reterr);
    if (rc == RC_OK) rc = GW_ENCODE(a, mask, &rec, &puts[0].value, reterr);
    puts[1].key = same[1].key =
        (struct slice){key, record_key_claim(p->spec.owner_hash, &rec.upload, key)};
    same[2].key = puts[0].key;
    if (same[2].number == 0) same[2].kind = MIKURA__INTERNAL__V1__COMPARE_KIND__COMPARE_ABSENT;
    claim->state = RECORD_SESSION_COMPLETED; /* for the collector: these chunks are somebody's */
    claim->body = p->spec.body;
    if (rc == RC_OK) rc = GW_ENCODE(a, session, claim, &puts[1].value, reterr);
    if (rc == RC_OK)
        rc = gw_txn(gw, p->job.at, same, 3, puts, p->w == NULL ? 1 : 2, NULL, 0, a,
                    gw_left_ms(p->c), &done, NULL, NULL, reterr);
    if (rc == RC_OK && !done)
        rc = err_set(reterr, RC_ABORTED, "another attempt owns the task, or its job has ended");
    if (rc == RC_OK && old.manifest.n > 0) { /* of an attempt that was lost */
        struct body_spec gone;

        rc = mask_body(&old, a, &gone, reterr);
        if (rc == RC_OK) body_drop(gw, &gone);
    }
    return rc;
}

enum rc gw_mask_put(struct fcall *c, struct err *reterr)
{
    Mikura__Internal__V1__PutMaskResponse answer = MIKURA__INTERNAL__V1__PUT_MASK_RESPONSE__INIT;
    struct putting *p = arena_alloc(&c->arena, sizeof *p);
    uint8_t tree[TREE_DIGEST_BYTES];
    enum rc rc;

    if (p == NULL) return err_set(reterr, RC_NOMEM, "a mask");
    p->c = c;
    rc = put_receive(p, reterr);
    if (rc == RC_OK && p->w != NULL) rc = body_finish(p->w, tree, reterr);
    if (rc == RC_OK) rc = put_commit(p, reterr);
    if (p->w != NULL) body_end(p->w);
    /* an unknown outcome may have made it: then its chunks stay */
    if (p->w != NULL && rc != RC_OK && rc != RC_DEADLINE && rc != RC_UNAVAIL && rc != RC_IO)
        body_drop(c->service, &p->spec);
    if (p->plain != NULL) memset(p->plain, 0, (size_t)p->header->size_bytes);
    EVP_MD_CTX_free(p->sha256);
    key_wipe(&p->spec.key);
    gw_case_wipe(&p->cs);
    return rc != RC_OK ? rc : fcall_send(c, &answer.base);
}

/* ---- Mask ---- */
static enum rc send_piece(void *arg, const struct object_piece *piece)
{
    Mikura__V1__MaskResponse m = MIKURA__V1__MASK_RESPONSE__INIT;
    struct rpc_payload payload = {.field = 15,
                                  .p = piece->p,
                                  .n = piece->n,
                                  .owner = piece->owner,
                                  .owner_free = piece->owner_free};

    return fcall_send_payload(arg, &m.base, &payload);
}

/* Is it the one that the item's result names? */
static enum rc result_names(struct gw *gw, const struct gw_job *job, uint32_t item,
                            const struct record_mask *rec, struct arena *a, uint64_t left_ms,
                            bool *ret, struct err *reterr)
{
    Mikura__V1__ItemResult *m;
    struct record_result res;
    struct slice key, value;
    uint64_t version;
    enum rc rc = row_read(gw, job, RECORD_RESULT, item, a, left_ms, &key, &value, &version, reterr);

    *ret = false;
    if (rc != RC_OK || version == 0) return rc;
    rc = record_result_decode(value, &res, reterr);
    if (rc != RC_OK) return rc;
    m = mikura__v1__item_result__unpack(&a->pb, res.detail.n, res.detail.p);
    if (m == NULL) return err_set(reterr, RC_CORRUPT, "a result does not decode");
    *ret = m->mask != NULL && m->mask->sha256.len == 32 &&
           memcmp(m->mask->sha256.data, rec->sha256, 32) == 0;
    return RC_OK;
}

/* The row as an object of the case. */
static enum rc mask_object(const struct gw_case *cs, struct slice key,
                           const struct record_mask *rec, struct gw_object *o, struct err *reterr)
{
    enum rc rc = record_manifest_decode(rec->manifest, &o->manifest, reterr);

    o->manifest_key = key;
    return rc != RC_OK ? rc
                       : object_mac_check(cs, key, rec->manifest, &o->manifest, "mask", reterr);
}

enum rc gw_mask_get(struct fcall *c, struct err *reterr)
{
    struct gw *gw = c->service;
    struct arena *a = &c->arena;
    Mikura__V1__MaskRequest *req;
    struct gw_job *job = arena_alloc(a, sizeof *job);
    struct gw_case *cs = arena_alloc(a, sizeof *cs);
    struct gw_object *o = arena_alloc(a, sizeof *o);
    struct record_mask rec;
    struct record_item it;
    struct slice key;
    uint64_t version = 0;
    bool named = false;
    enum rc rc = fcall_request(c, &mikura__v1__mask_request__descriptor, &req, reterr);

    if (rc != RC_OK) return rc;
    if (job == NULL || cs == NULL || o == NULL) return err_set(reterr, RC_NOMEM, "a mask");
    rc = gw_job_own(c, req->job, a, job, reterr);
    if (rc == RC_OK) rc = item_row(gw, job, req->item, a, gw_left_ms(c), &it, reterr);
    /* a grant that was taken away since takes the masks along */
    if (rc == RC_OK) rc = gw_item_allowed(c, &it, reterr);
    if (rc == RC_OK)
        rc = mask_row(gw, job, req->item, a, gw_left_ms(c), &key, &rec, &version, reterr);
    if (rc == RC_OK && version != 0)
        rc = result_names(gw, job, req->item, &rec, a, gw_left_ms(c), &named, reterr);
    if (rc == RC_OK && !named)
        rc = err_set(reterr, RC_NOTFOUND, "item %u of the job has no mask", req->item);
    if (rc == RC_OK) rc = gw_item_case(gw, &it, a, gw_left_ms(c), cs, reterr);
    if (rc == RC_OK) rc = mask_object(cs, key, &rec, o, reterr);
    if (rc == RC_OK)
        rc = gw_object_bytes(gw, cs, o, 0, o->manifest.size_bytes, GW_CALL_MS, send_piece, c,
                             reterr);
    gw_case_wipe(cs);
    return rc;
}

enum rc gw_masks_drop(struct gw *gw, const struct gw_job *job, uint32_t from, uint32_t n,
                      struct arena *a, struct slice *claims, uint32_t *ret_claims_n,
                      struct err *reterr)
{
    uint32_t claims_n = 0;
    enum rc rc = RC_OK;

    for (uint32_t i = from; i < from + n && rc == RC_OK; i++) {
        uint8_t *key = arena_raw(a, RECORD_KEY_BYTES_MAX);
        struct record_mask rec;
        struct body_spec spec;
        struct slice row;
        uint64_t version;

        if (key == NULL) return err_set(reterr, RC_NOMEM, "a mask");
        rc = mask_row(gw, job, i, a, GW_CALL_MS, &row, &rec, &version, reterr);
        if (rc != RC_OK || version == 0) continue;
        rc = mask_body(&rec, a, &spec, reterr);
        if (rc != RC_OK || spec.size_bytes == 0) continue;
        body_drop(gw, &spec);
        claims[claims_n++] = (struct slice){
            key, record_key_claim(record_anchor_hash(&job->anchor), &rec.upload, key)};
    }
    *ret_claims_n = claims_n;
    return rc;
}
