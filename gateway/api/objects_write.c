/* gateway/api/objects_write.c - uploads and commits: BeginUpload, PutChunk, ListChunks, Complete,
 * Abort, PutObject, CommitCase. The order of entries is upload_core's; here bytes, keys and
 * messages. */
#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/crypto/digest.h"
#include "common/image/image.h"
#include "common/net/rpc_wire.h"
#include "gateway/api/objects.h"
#include "gateway/api/upload.h"
#include "gateway/ingest/name.h"
#include <openssl/evp.h>

#define DATA_FIELD        15u         /* of PutChunkRequest and PutObjectRequest */
#define PUT_HASH_HERE_MAX (64u << 10) /* larger pieces are hashed on the thread pool */

enum rc objects_open_writing(struct fcall *c, const char *collection, const char *case_id,
                             bool create, struct writing *ret, struct err *reterr)
{
    struct gw *gw = c->service;
    enum rc rc;

    ret->col = arena_alloc(&c->arena, sizeof *ret->col);
    ret->cs = arena_alloc(&c->arena, sizeof *ret->cs);
    if (ret->col == NULL || ret->cs == NULL) return err_set(reterr, RC_NOMEM, "an upload");
    rc = gw_collection(gw, collection, &c->arena, gw_left_ms(c), ret->col, reterr);
    if (rc != RC_OK) return rc;
    rc = gw_allowed(c, ret->col, GW_WRITE, reterr);
    if (rc == RC_OK)
        rc = gw_case(gw, ret->col, case_id, create, &c->arena, gw_left_ms(c), ret->cs, reterr);
    gw_collection_wipe(ret->col);
    return rc;
}

enum rc objects_request_id(const Mikura__V1__RequestId *id, struct id128 *ret, struct err *reterr)
{
    if (id == NULL || !id128_from_bytes(id->id.data, id->id.len, ret) || id128_is_zero(ret)) {
        return err_set(reterr, RC_INVAL,
                       "request_id: expected 16 random bytes, the same for every retry");
    }
    return RC_OK;
}

static enum rc spec_check(const Mikura__V1__UploadSpec *spec, struct err *reterr)
{
    if (spec == NULL)
        return err_set(reterr, RC_INVAL, "no spec: collection, case and path are needed");
    if (spec->sha256.len != 0 && spec->sha256.len != 32)
        return err_set(reterr, RC_INVAL, "sha256: 32 bytes, or none");
    if (spec->n_user_metadata > 64) return err_set(reterr, RC_INVAL, "user_metadata: at most 64");
    if (spec->size_bytes > 1ull << 44)
        return err_set(reterr, RC_INVAL, "an object has at most 16 TiB");
    if (strlen(spec->media_type) > 127)
        return err_set(reterr, RC_INVAL, "media_type: at most 127 bytes");
    return name_check_path(gw_text(spec->path), reterr);
}

/* Tells apart two requests that use one id: keyed, since it lies in clear. */
static enum rc fingerprint(struct fcall *c, const struct gw_case *cs,
                           const Mikura__V1__UploadSpec *spec, uint8_t ret[32], struct err *reterr)
{
    size_t n = mikura__v1__upload_spec__get_packed_size(spec);
    uint8_t *packed = arena_alloc(&c->arena, n);
    enum rc rc;

    if (packed == NULL) return err_set(reterr, RC_NOMEM, "an upload");
    (void)mikura__v1__upload_spec__pack(spec, packed);
    rc = digest_manifest(&cs->key, gw_text("upload"), (struct slice){packed, n}, ret);
    return rc == RC_OK ? RC_OK : err_set(reterr, rc, "digest of a request");
}

static struct upload *upload_of(struct fcall *c, const struct writing *w, enum upload_op op)
{
    struct upload *u = arena_alloc(&c->arena, sizeof *u);

    if (u == NULL) return NULL;
    u->c = c;
    u->col = w->col;
    u->cs = w->cs;
    u->req.op = op;
    return u;
}

static enum rc begin(struct fcall *c, const struct writing *w, const struct id128 *id,
                     const Mikura__V1__UploadSpec *spec, struct record_session *ret,
                     struct err *reterr)
{
    struct upload *u = upload_of(c, w, UPLOAD_BEGIN);
    struct upload_action act;
    enum rc rc;

    if (u == NULL) return err_set(reterr, RC_NOMEM, "an upload");
    u->spec = spec;
    u->req.id = *id;
    rc = fingerprint(c, w->cs, spec, u->req.fingerprint, reterr);
    if (rc == RC_OK) rc = upload_run(u, &act, reterr);
    if (rc != RC_OK) return rc;
    CHECK(act.session != NULL);
    *ret = *act.session;
    return RC_OK;
}

enum rc objects_begin_upload(struct fcall *c, struct err *reterr)
{
    Mikura__V1__BeginUploadRequest *req;
    Mikura__V1__UploadSession answer = MIKURA__V1__UPLOAD_SESSION__INIT;
    struct record_session *s = arena_alloc(&c->arena, sizeof *s);
    struct writing w;
    struct id128 id;
    enum rc rc = fcall_request(c, &mikura__v1__begin_upload_request__descriptor, &req, reterr);

    if (rc == RC_OK)
        rc = s == NULL ? err_set(reterr, RC_NOMEM, "an upload") : spec_check(req->spec, reterr);
    if (rc == RC_OK) rc = objects_request_id(req->request_id, &id, reterr);
    if (rc == RC_OK)
        rc = objects_open_writing(c, req->spec->collection, req->spec->case_id, true, &w, reterr);
    if (rc != RC_OK) return rc;
    rc = begin(c, &w, &id, req->spec, s, reterr);
    gw_case_wipe(w.cs);
    if (rc != RC_OK) return rc;
    answer.upload_id.data = id.b;
    answer.upload_id.len = 16;
    answer.chunk_bytes = s->chunk_bytes;
    answer.chunks = s->chunks;
    answer.session_ttl_ms = (uint64_t)s->ttl_ticks * 3600000u;
    return fcall_send(c, &answer.base);
}

/* ---- PutChunk ---- */
/* md: NULL when the sender gave no SHA-256 of the chunk. */
static enum rc chunk_bytes(struct body_chunk *k, EVP_MD_CTX *md, struct slice d, struct err *reterr)
{
    if (d.n == 0) return RC_OK;
    if (md != NULL && EVP_DigestUpdate(md, d.p, d.n) != 1)
        return err_set(reterr, RC_INTERNAL, "SHA-256 of a chunk");
    return body_chunk_fill(k, d.p, d.n, reterr);
}

static enum rc chunk_sha256_check(EVP_MD_CTX *md, ProtobufCBinaryData want, struct err *reterr)
{
    uint8_t got[EVP_MAX_MD_SIZE];

    if (EVP_DigestFinal_ex(md, got, NULL) != 1)
        return err_set(reterr, RC_INTERNAL, "SHA-256 of a chunk");
    if (memcmp(got, want.data, 32) == 0) return RC_OK;
    return err_set(reterr, RC_CORRUPT,
                   "the chunk's bytes have another sha256 than its header says: send it again");
}

/* Appends data messages until the chunk is whole; `first` is what the first one brought. It goes
 * back at once: held, it would keep a half of the stream's window shut, and a message as long as
 * the other half could never come whole. */
static enum rc receive_chunk(struct fcall *c, struct body_chunk *k, EVP_MD_CTX *md,
                             struct slice first, struct rpc_msg **first_msg, struct err *reterr)
{
    uint32_t want = k->put.ident.plain_bytes;
    enum rc rc = RC_OK;

    if (first.n > want)
        return err_set(reterr, RC_RANGE, "more bytes than the chunk's declared %u", want);
    rc = chunk_bytes(k, md, first, reterr);
    fcall_release(c, *first_msg);
    *first_msg = NULL;
    while (rc == RC_OK) {
        Mikura__V1__PutChunkRequest *m = NULL;
        struct slice rest, d;
        struct rpc_msg *msg;

        rc = fcall_recv(c, &msg);
        if (rc == RC_RANGE) { /* the end; an RC_RANGE of our own below is too many bytes */
            rc = RC_OK;
            break;
        }
        if (rc != RC_OK) return err_set(reterr, rc, "%s", rc_text(rc));
        if (!rpc_wire_payload((struct slice){msg->p, msg->n}, DATA_FIELD, &rest, &d) ||
            rest.n > 0) {
            m = mikura__v1__put_chunk_request__unpack(NULL, msg->n, msg->p);
            if (m == NULL) {
                rc = err_set(reterr, RC_INVAL, "a message is no PutChunkRequest");
            } else if (m->header != NULL) {
                rc = err_set(reterr, RC_INVAL, "a header in a later message");
            } else {
                d = gw_bytes(m->data);
            }
        }
        if (rc == RC_OK && d.n > want - k->filled)
            rc = err_set(reterr, RC_RANGE, "more bytes than the chunk's declared %u", want);
        if (rc == RC_OK) rc = chunk_bytes(k, md, d, reterr);
        if (m != NULL) mikura__v1__put_chunk_request__free_unpacked(m, NULL);
        fcall_release(c, msg);
    }
    if (rc != RC_OK) return rc;
    if (k->filled != want) {
        return err_set(reterr, RC_INVAL, "the stream ended after %u of the chunk's %u bytes",
                       k->filled, want);
    }
    return RC_OK;
}

static enum rc put_chunk_row(struct fcall *c, const struct writing *w, const struct id128 *id,
                             struct body_chunk *k, bool *ret_was_there, struct err *reterr)
{
    struct upload *u = upload_of(c, w, UPLOAD_CHUNK);
    uint8_t *key = arena_raw(&c->arena, RECORD_KEY_BYTES_MAX), *plain, *sealed;
    struct upload_action act;
    struct slice row;
    size_t n = (size_t)k->leaves_n * 32;
    enum rc rc;

    plain = arena_alloc(&c->arena, n);
    sealed = arena_alloc(&c->arena, n + DOCSEAL_EXTRA_BYTES);
    if (u == NULL || key == NULL || plain == NULL || sealed == NULL)
        return err_set(reterr, RC_NOMEM, "a chunk");
    for (uint32_t i = 0; i < k->leaves_n; i++)
        memcpy(plain + (size_t)i * 32, k->leaves[i].hash, 32);
    row = (struct slice){key, record_key_chunk(&w->cs->anchor, id, k->put.ident.index, key)};
    rc = docseal_seal(&w->cs->key, DOCSEAL_DIGEST, row, (struct slice){plain, n}, sealed);
    if (rc != RC_OK) return err_set(reterr, rc, "sealing a chunk's digests");
    u->chunk = k;
    u->req.id = *id;
    u->req.index = k->put.ident.index;
    u->req.plain_bytes = k->put.ident.plain_bytes;
    memcpy(u->req.plain_digest, k->put.plain_digest, 32);
    u->req.sealed_leaves = (struct slice){sealed, n + DOCSEAL_EXTRA_BYTES};
    rc = upload_run(u, &act, reterr);
    *ret_was_there = act.was_there;
    return rc;
}

enum rc objects_put_chunk(struct fcall *c, struct err *reterr)
{
    struct gw *gw = c->service;
    Mikura__V1__PutChunkRequest *first;
    Mikura__V1__PutChunkResponse answer = MIKURA__V1__PUT_CHUNK_RESPONSE__INIT;
    const Mikura__V1__ChunkHeader *h;
    struct record_session *s;
    struct body_spec spec;
    struct body_chunk *k = NULL;
    EVP_MD_CTX *md = NULL;
    struct writing w;
    struct id128 id;
    uint64_t version, tick;
    bool was_there;
    struct rpc_msg *msg;
    struct slice data;
    enum rc rc = fcall_request_payload(c, &mikura__v1__put_chunk_request__descriptor, DATA_FIELD,
                                       &first, &msg, &data, reterr);

    if (rc != RC_OK) return rc;
    if (data.n == 0) data = gw_bytes(first->data);
    h = first->header;
    if (h == NULL || !id128_from_bytes(h->upload_id.data, h->upload_id.len, &id)) {
        rc = err_set(reterr, RC_INVAL,
                     "the first message needs a header with the upload id (16 bytes)");
    } else if (h->sha256.len != 0 && h->sha256.len != 32) {
        rc = err_set(reterr, RC_INVAL, "sha256: 32 bytes, or none");
    } else {
        rc = objects_open_writing(c, h->collection, h->case_id, false, &w, reterr);
    }
    if (rc != RC_OK) {
        fcall_release(c, msg);
        return rc;
    }
    rc = upload_session(c, w.cs, &id, &s, &version, &tick, reterr);
    if (rc != RC_OK) goto out;
    if (s->state != RECORD_SESSION_OPEN) {
        rc = err_set(reterr, RC_PRECOND, "the upload was %s; begin a new one",
                     s->state == RECORD_SESSION_COMPLETED ? "completed"
                     : s->expired                         ? "expired"
                                                          : "aborted");
        goto out;
    }
    if (h->index >= s->chunks || h->length_bytes == 0 ||
        (!s->size_unknown && h->length_bytes != upload_chunk_length(s, h->index)) ||
        h->length_bytes > s->chunk_bytes) {
        rc = err_set(
            reterr, RC_RANGE,
            "chunk %u of %u bytes: the upload has %u chunks of %u bytes, the last one the rest",
            h->index, h->length_bytes, s->chunks, s->chunk_bytes);
        goto out;
    }
    rc = upload_body_spec(gw, w.cs, &id, s, &spec, reterr);
    if (rc == RC_OK) rc = body_chunk_new(gw, &spec, h->index, h->length_bytes, &k, reterr);
    key_wipe(&spec.key);
    if (rc == RC_OK && h->sha256.len != 0) {
        md = EVP_MD_CTX_new();
        if (md == NULL || EVP_DigestInit_ex(md, EVP_sha256(), NULL) != 1)
            rc = err_set(reterr, RC_NOMEM, "SHA-256 of a chunk");
    }
    if (rc == RC_OK) rc = receive_chunk(c, k, md, data, &msg, reterr);
    if (rc == RC_OK && md != NULL) rc = chunk_sha256_check(md, h->sha256, reterr);
    if (rc == RC_OK) rc = body_chunk_sealed(k, reterr);
    if (rc == RC_OK) rc = put_chunk_row(c, &w, &id, k, &was_there, reterr);
    if (rc == RC_OK) {
        answer.index = h->index;
        answer.was_there = was_there;
        rc = fcall_send(c, &answer.base);
    }
out:
    if (msg != NULL) fcall_release(c, msg);
    EVP_MD_CTX_free(md);
    body_chunk_free(k);
    gw_case_wipe(w.cs);
    return rc;
}

/* ---- ListChunks ---- */
struct bitmap {
    uint8_t *bits;
    uint32_t chunks;
};
static enum rc bitmap_each(void *arg, const Mikura__Internal__V1__Item *item)
{
    struct bitmap *b = arg;

    return upload_bitmap_add(gw_bytes(item->key), b->chunks, b->bits);
}

enum rc objects_list_chunks(struct fcall *c, struct err *reterr)
{
    struct gw *gw = c->service;
    Mikura__V1__ListChunksRequest *req;
    Mikura__V1__ListChunksResponse answer = MIKURA__V1__LIST_CHUNKS_RESPONSE__INIT;
    Mikura__V1__UploadSession session = MIKURA__V1__UPLOAD_SESSION__INIT;
    uint8_t *from = arena_raw(&c->arena, RECORD_KEY_BYTES_MAX),
            *until = arena_raw(&c->arena, RECORD_KEY_BYTES_MAX);
    struct record_session *s;
    struct bitmap b;
    struct writing w;
    struct id128 id;
    uint64_t version, tick;
    size_t n;
    enum rc rc = fcall_request(c, &mikura__v1__list_chunks_request__descriptor, &req, reterr);

    if (rc != RC_OK) return rc;
    if (from == NULL || until == NULL) return err_set(reterr, RC_NOMEM, "a list of chunks");
    if (!id128_from_bytes(req->upload_id.data, req->upload_id.len, &id)) {
        return err_set(reterr, RC_INVAL, "upload_id: 16 bytes");
    }
    rc = objects_open_writing(c, req->collection, req->case_id, false, &w, reterr);
    if (rc != RC_OK) return rc;
    gw_case_wipe(w.cs);
    rc = upload_session(c, w.cs, &id, &s, &version, &tick, reterr);
    if (rc != RC_OK) return rc;
    b.chunks = s->chunks;
    answer.have_bitmap.len = (s->chunks + 7u) / 8;
    answer.have_bitmap.data = b.bits = arena_alloc(&c->arena, answer.have_bitmap.len);
    if (b.bits == NULL) return err_set(reterr, RC_NOMEM, "a list of chunks");
    n = record_key_id(&w.cs->anchor, RECORD_CHUNK, &id, from);
    memcpy(until, from, n);
    rc = route_scan(gw->route, w.cs->at, (struct slice){from, n},
                    (struct slice){until, record_key_after(until, n)}, 0, gw_left_ms(c),
                    bitmap_each, &b, reterr);
    if (rc != RC_OK) return rc;
    session.upload_id.data = id.b;
    session.upload_id.len = 16;
    session.chunk_bytes = s->chunk_bytes;
    session.chunks = s->chunks;
    session.session_ttl_ms = (uint64_t)s->ttl_ticks * 3600000u;
    answer.session = &session;
    answer.expires_in_ms = s->expire_tick >= tick ? (s->expire_tick - tick + 1) * 3600000u : 0;
    return fcall_send(c, &answer.base);
}

/* ---- Complete, Abort ---- */
Mikura__V1__StagedObject *objects_staged(struct fcall *c, const char *collection,
                                         const char *case_id, struct slice path, uint64_t version,
                                         uint64_t stage, const struct record_index *idx,
                                         const struct object_digests *d)
{
    struct arena *a = &c->arena;
    Mikura__V1__StagedObject *m = arena_alloc(a, sizeof *m);
    Mikura__V1__ObjectRef *ref = arena_alloc(a, sizeof *ref);

    if (m == NULL || ref == NULL) return NULL;
    mikura__v1__staged_object__init(m);
    mikura__v1__object_ref__init(ref);
    ref->collection = (char *)(uintptr_t)collection;
    ref->case_id = (char *)(uintptr_t)case_id;
    ref->path = gw_dup(a, path);
    ref->version = version;
    m->object = ref;
    m->staged_generation = stage == RECORD_STAGE_QUARANTINE ? 0 : stage;
    m->media_type = ref->path;
    if (idx != NULL) {
        m->quarantined = idx->stage == RECORD_STAGE_QUARANTINE;
        m->size_bytes = idx->size_bytes;
        m->media_type = gw_dup(a, idx->media_type);
        if (!object_digest_messages(a, d, &m->digests, &m->n_digests)) return NULL;
    }
    return ref->path == NULL || m->media_type == NULL ? NULL : m;
}

/* A retry finds the object staged before: its row tells size and digests. */
static enum rc staged_row(struct fcall *c, const struct gw_case *cs, struct slice path,
                          uint64_t version, struct record_index **ret, struct object_digests *ret_d,
                          struct err *reterr)
{
    struct gw *gw = c->service;
    uint8_t *key = arena_raw(&c->arena, RECORD_KEY_BYTES_MAX);
    Mikura__Internal__V1__GetResponse *got;
    struct slice k;
    enum rc rc;

    *ret = arena_alloc(&c->arena, sizeof **ret);
    if (key == NULL || *ret == NULL) return err_set(reterr, RC_NOMEM, "a staged object");
    k = (struct slice){key, record_key_object(&cs->anchor, RECORD_INDEX, path, version, key)};
    rc = route_get(gw->route, cs->at, &k, 1, gw_left_ms(c), &c->arena, &got, reterr);
    if (rc != RC_OK) return rc;
    if (got->items[0]->version == 0)
        return err_set(reterr, RC_NOTFOUND, "the object was deleted since");
    rc = record_index_decode(gw_bytes(got->items[0]->value), *ret, reterr);
    return rc != RC_OK ? rc : object_digests_open(cs, k, (*ret)->sealed_digests, ret_d, reterr);
}

static enum rc complete(struct fcall *c, const struct writing *w, struct upload *u,
                        const char *collection, const char *case_id, Mikura__V1__StagedObject **ret,
                        struct err *reterr)
{
    struct upload_action act;
    enum rc rc = upload_run(u, &act, reterr);

    if (rc != RC_OK) return rc;
    CHECK(act.session != NULL);
    u->body = act.session->body;
    if (u->index == NULL)
        rc = staged_row(c, w->cs, act.session->path, act.version, &u->index, &u->gathered, reterr);
    if (rc != RC_OK) return rc;
    *ret = objects_staged(c, collection, case_id, act.session->path, act.version, act.stage,
                          u->index, &u->gathered);
    if (*ret == NULL) return err_set(reterr, RC_NOMEM, "a staged object");
    (*ret)->reasons = u->reasons;
    (*ret)->n_reasons = u->n_reasons;
    return RC_OK;
}

enum rc objects_complete(struct fcall *c, struct err *reterr)
{
    Mikura__V1__CompleteRequest *req;
    Mikura__V1__StagedObject *answer;
    struct upload *u;
    struct writing w;
    enum rc rc = fcall_request(c, &mikura__v1__complete_request__descriptor, &req, reterr);

    if (rc == RC_OK) rc = objects_open_writing(c, req->collection, req->case_id, false, &w, reterr);
    if (rc != RC_OK) return rc;
    u = upload_of(c, &w, UPLOAD_COMPLETE);
    if (u == NULL || !id128_from_bytes(req->upload_id.data, req->upload_id.len, &u->req.id)) {
        rc = err_set(reterr, u == NULL ? RC_NOMEM : RC_INVAL, "upload_id: 16 bytes");
    }
    if (rc == RC_OK) {
        u->expected = req->expected;
        rc = complete(c, &w, u, req->collection, req->case_id, &answer, reterr);
    }
    gw_case_wipe(w.cs);
    return rc != RC_OK ? rc : fcall_send(c, &answer->base);
}

enum rc objects_abort(struct fcall *c, struct err *reterr)
{
    Mikura__V1__AbortRequest *req;
    Mikura__V1__AbortResponse answer = MIKURA__V1__ABORT_RESPONSE__INIT;
    struct upload_action act;
    struct upload *u;
    struct writing w;
    enum rc rc = fcall_request(c, &mikura__v1__abort_request__descriptor, &req, reterr);

    if (rc == RC_OK) rc = objects_open_writing(c, req->collection, req->case_id, false, &w, reterr);
    if (rc != RC_OK) return rc;
    u = upload_of(c, &w, UPLOAD_ABORT);
    if (u == NULL || !id128_from_bytes(req->upload_id.data, req->upload_id.len, &u->req.id)) {
        rc = err_set(reterr, u == NULL ? RC_NOMEM : RC_INVAL, "upload_id: 16 bytes");
    }
    if (rc == RC_OK) rc = upload_run(u, &act, reterr);
    if (rc == RC_NOTFOUND) rc = RC_OK; /* gone already */
    gw_case_wipe(w.cs);
    if (rc != RC_OK) return rc;
    gw_sweep_wake(c->service);
    return fcall_send(c, &answer.base);
}

/* ---- CommitCase ---- */
static enum rc receipt(struct fcall *c, const struct upload_action *act, Mikura__V1__Receipt **ret,
                       uint64_t *ret_generation, struct err *reterr)
{
    Mikura__V1__Receipt *r = arena_alloc(&c->arena, sizeof *r);

    CHECK(act->commit != NULL);
    if (r == NULL) return err_set(reterr, RC_NOMEM, "a receipt");
    mikura__v1__receipt__init(r);
    r->signed_bytes.data = arena_copy(&c->arena, act->commit->receipt.p, act->commit->receipt.n);
    r->signed_bytes.len = act->commit->receipt.n;
    r->signature.data = arena_copy(&c->arena, act->commit->signature.p, act->commit->signature.n);
    r->signature.len = act->commit->signature.n;
    r->key_id = gw_dup(&c->arena, act->commit->key_id);
    if (r->signed_bytes.data == NULL || r->signature.data == NULL || r->key_id == NULL) {
        return err_set(reterr, RC_NOMEM, "a receipt");
    }
    *ret = r;
    *ret_generation = act->commit->generation;
    return RC_OK;
}

static enum rc commit(struct fcall *c, const struct writing *w, const struct id128 *id,
                      uint64_t expected, uint64_t count, const ProtobufCBinaryData *root,
                      Mikura__V1__Receipt **ret, uint64_t *ret_generation, struct err *reterr)
{
    struct upload *u = upload_of(c, w, UPLOAD_COMMIT);
    struct upload_action act;
    enum rc rc;

    if (u == NULL) return err_set(reterr, RC_NOMEM, "a commit");
    u->req.id = *id;
    u->req.expected_generation = expected;
    u->req.count = count;
    u->req.now_unix_ms = (int64_t)clock_wall_ms();
    if (root != NULL && root->len != 0) {
        if (root->len != 32) return err_set(reterr, RC_INVAL, "merkle_root: 32 bytes, or none");
        u->req.have_root = true;
        memcpy(u->req.root, root->data, 32);
    }
    rc = upload_run(u, &act, reterr);
    return rc == RC_OK ? receipt(c, &act, ret, ret_generation, reterr) : rc;
}

enum rc objects_commit_case(struct fcall *c, struct err *reterr)
{
    Mikura__V1__CommitCaseRequest *req;
    Mikura__V1__CommitCaseResponse answer = MIKURA__V1__COMMIT_CASE_RESPONSE__INIT;
    struct writing w;
    struct id128 id;
    enum rc rc = fcall_request(c, &mikura__v1__commit_case_request__descriptor, &req, reterr);

    if (rc == RC_OK) rc = objects_request_id(req->request_id, &id, reterr);
    if (rc == RC_OK) rc = objects_open_writing(c, req->collection, req->case_id, false, &w, reterr);
    if (rc != RC_OK) return rc;
    rc = commit(c, &w, &id, req->expected_generation, req->count, &req->merkle_root,
                &answer.receipt, &answer.generation, reterr);
    gw_case_wipe(w.cs);
    if (rc != RC_OK) return rc;
    log_info("case_committed", "rid=%s collection=%s generation=%llu objects=%llu by=%s",
             fcall_rid(c), req->collection, (unsigned long long)answer.generation,
             (unsigned long long)req->count, fcall_peer(c)->uri);
    return fcall_send(c, &answer.base);
}

/* ---- PutObject ----
 * Bytes first, under a body key that only this call knows; then one entry brings the claim, the
 * object's rows and, for a new case of one object, the case and its receipt. Until that entry
 * nothing refers to the bytes: a call that fails leaves a tombstone for them, one whose gateway
 * dies leaves chunks whose claim is absent. */
struct put {
    struct fcall *c;
    struct writing w;
    const Mikura__V1__PutObjectHeader *h;
    struct id128 id;
    struct record_session claim; /* as it will be written */
    uint64_t claim_version;      /* of an ABORTED one that was there */
    struct body_spec spec;       /* key: wipe it */
    struct body_writer *writer;  /* NULL: inline so far */
    uint8_t *small; /* the first RECORD_INLINE_MAX bytes; with a writer: IMAGE_SNIFF_BYTES */
    uint32_t small_n;
    EVP_MD_CTX *sha256; /* of what came; NULL: the sender claimed none */
    bool there;         /* completed by an earlier try: bytes are dropped */
    bool sent;          /* an entry that refers to the bytes went out: its outcome may be unknown */
};

/* The body's key under the case's: again when it turns out that the case has another key. */
static enum rc put_wrap(struct put *p, struct err *reterr)
{
    enum rc rc;

    rc = gw_body_wrap(p->w.cs, &p->claim.body, &p->spec.key, &p->c->arena, &p->claim.body_key);
    return rc == RC_OK ? RC_OK : err_set(reterr, rc, "a body's key");
}

/* A new case of one object in one chunk: that lies in the case's group, so that one entry of its
 * log brings the chunk and the case. In the pool for metadata, then; only while the cluster keeps
 * both alike. Of other cases each object lies where its own hash says: a case of many on three
 * disks alone would be slow to write and to read. */
static enum rc put_body_id(struct put *p, bool *ret_near, struct err *reterr)
{
    struct gw *gw = p->c->service;
    struct record_session *s = &p->claim;
    struct route_at at = p->w.cs->at;
    const struct placement_pool *data = cluster_pool(gw->cluster, s->data_pool);
    const struct placement_pool *meta = cluster_pool(gw->cluster, at.pool);
    enum rc rc;

    *ret_near = false;
    s->body = id128_random();
    if (p->w.cs->rec_version != 0 || !p->h->commit || s->size_unknown || data == NULL ||
        meta == NULL || s->size_bytes > s->chunk_bytes || !placement_pools_alike(data, meta) ||
        meta->prefix_bits > ANCHOR_NEAR_BITS_MAX)
        return RC_OK;
    rc = anchor_body_near(at.hash, meta->prefix_bits, &s->body, ret_near);
    if (rc != RC_OK) return err_set(reterr, rc, "a body's id");
    if (*ret_near) s->data_pool = at.pool;
    return RC_OK;
}

/* Too large for the manifest: chunks. */
static enum rc put_body(struct put *p, struct err *reterr)
{
    struct body_writer *writer = arena_alloc(&p->c->arena, sizeof *writer);
    struct record_session *s = &p->claim;
    bool near;
    enum rc rc;

    if (writer == NULL) return err_set(reterr, RC_NOMEM, "an upload");
    s->chunk_bytes = p->w.col->rec.chunk_bytes;
    s->data_pool = p->w.col->rec.data_pool;
    rc = put_body_id(p, &near, reterr);
    if (rc != RC_OK) return rc;
    p->spec = (struct body_spec){.body = s->body,
                                 .upload_id = p->id,
                                 .pool = s->data_pool,
                                 .chunk_bytes = s->chunk_bytes,
                                 .owner_hash = p->w.cs->at.hash,
                                 .size_bytes = s->size_unknown ? BODY_SIZE_UNKNOWN : s->size_bytes};
    key_random(&p->spec.key);
    rc = put_wrap(p, reterr);
    if (rc != RC_OK) return rc;
    p->writer = writer;
    body_begin(writer, p->c->service, p->c, &p->spec);
    writer->keep = near;
    return body_write(writer, p->small, p->small_n, reterr);
}

/* What tells the media type stays here. */
static void put_head(struct put *p, const uint8_t *d, size_t n)
{
    if (p->small_n >= IMAGE_SNIFF_BYTES) return;
    n = MIN(n, (size_t)IMAGE_SNIFF_BYTES - p->small_n);
    memcpy(p->small + p->small_n, d, n);
    p->small_n += (uint32_t)n;
}

/* The sender's own SHA-256, over the one stream; off the loop, and only where one was claimed: it
 * is a second pass over the bytes, 0.56 CPU-s/GB. */
struct put_hash {
    EVP_MD_CTX *md;
    const uint8_t *d;
    size_t n;
    bool ok;
};
static void put_hash_work(void *arg)
{
    struct put_hash *h = arg;

    h->ok = EVP_DigestUpdate(h->md, h->d, h->n) == 1;
}

static enum rc put_hash(struct put *p, const uint8_t *d, size_t n, struct err *reterr)
{
    struct put_hash h = {p->sha256, d, n, false};
    enum rc rc = RC_OK;

    if (n < PUT_HASH_HERE_MAX) {
        put_hash_work(&h);
    } else {
        rc = fiber_work(put_hash_work, &h);
    }
    return rc == RC_OK && h.ok ? RC_OK : err_set(reterr, RC_NOMEM, "SHA-256 of an object");
}

static enum rc put_sha256_check(struct put *p, struct object_digests *ret, struct err *reterr)
{
    uint8_t got[EVP_MAX_MD_SIZE];

    if (EVP_DigestFinal_ex(p->sha256, got, NULL) != 1)
        return err_set(reterr, RC_INTERNAL, "SHA-256 of an object");
    if (memcmp(got, p->h->spec->sha256.data, 32) != 0) {
        return err_set(reterr, RC_CORRUPT,
                       "the bytes have another sha256 than claimed: damaged on the way or at the "
                       "sender; nothing was stored, compare the file with its checksum and send it "
                       "again");
    }
    memcpy(ret->sha256, got, 32);
    ret->has_sha256 = ret->sha256_verified = true;
    return RC_OK;
}

static enum rc put_bytes(struct put *p, const uint8_t *d, size_t n, struct err *reterr)
{
    enum rc rc;

    if (p->there || n == 0) return RC_OK;
    if (p->sha256 != NULL) {
        rc = put_hash(p, d, n, reterr);
        if (rc != RC_OK) return rc;
    }
    if (p->writer == NULL) {
        if (n <= RECORD_INLINE_MAX - p->small_n) {
            memcpy(p->small + p->small_n, d, n);
            p->small_n += (uint32_t)n;
            return RC_OK;
        }
        rc = put_body(p, reterr);
        if (rc != RC_OK) return rc;
    }
    put_head(p, d, n);
    return body_write(p->writer, d, n, reterr);
}

static enum rc put_stream(struct put *p, struct err *reterr)
{
    enum rc rc;

    for (;;) {
        Mikura__V1__PutObjectRequest *m = NULL;
        struct slice rest, d;
        struct rpc_msg *msg;

        rc = fcall_recv(p->c, &msg);
        if (rc == RC_RANGE) return RC_OK;
        if (rc != RC_OK) return err_set(reterr, rc, "%s", rc_text(rc));
        if (!rpc_wire_payload((struct slice){msg->p, msg->n}, DATA_FIELD, &rest, &d) ||
            rest.n > 0) {
            m = mikura__v1__put_object_request__unpack(NULL, msg->n, msg->p);
            if (m == NULL) {
                rc = err_set(reterr, RC_INVAL, "a message is no PutObjectRequest");
            } else if (m->header != NULL) {
                rc = err_set(reterr, RC_INVAL, "a header in a later message");
            } else {
                d = gw_bytes(m->data);
            }
        }
        if (rc == RC_OK) rc = put_bytes(p, d.p, d.n, reterr);
        if (m != NULL) mikura__v1__put_object_request__free_unpacked(m, NULL);
        fcall_release(p->c, msg);
        if (rc != RC_OK) return rc;
    }
}

/* Size, digest and bytes of what came. */
static enum rc put_content(struct put *p, struct upload_content *ret, struct err *reterr)
{
    struct record_session *s = &p->claim;
    struct tree_stream *t = NULL;
    enum rc rc;

    if (p->writer != NULL) {
        rc = body_finish(p->writer, ret->digests.tree, reterr);
        if (rc != RC_OK) return rc;
        ret->size_bytes = p->writer->received;
        s->chunks = p->writer->chunks;
    } else {
        if (!s->size_unknown && s->size_bytes != p->small_n) {
            return err_set(reterr, RC_INVAL, "the stream ended after %u of the declared %llu bytes",
                           p->small_n, (unsigned long long)s->size_bytes);
        }
        ret->is_inline = true;
        ret->inline_plain = (struct slice){p->small, p->small_n};
        ret->size_bytes = p->small_n;
        rc = tree_stream_new(&t);
        if (rc == RC_OK) rc = tree_stream_update(t, p->small, p->small_n);
        if (rc == RC_OK) rc = tree_stream_digest(t, ret->digests.tree);
        tree_stream_free(t);
        if (rc != RC_OK) return err_set(reterr, rc, "SHA-256 of an object");
    }
    ret->head = (struct slice){p->small, p->small_n};
    s->size_bytes = ret->size_bytes;
    return p->sha256 == NULL ? RC_OK : put_sha256_check(p, &ret->digests, reterr);
}

/* A tombstone for bytes that nothing refers to, now or later. */
static void put_give_up(struct put *p)
{
    struct err err = {0};
    enum rc rc;

    if (p->writer == NULL || p->writer->chunks == 0 || p->writer->kept != NULL) return;
    rc = objects_body_tomb(p->c, p->w.cs, &p->claim.body, p->claim.data_pool, p->writer->chunks,
                           &err);
    if (rc == RC_OK) return;
    log_warn("put_left_chunks", "rid=%s chunks=%u why=%s", fcall_rid(p->c), p->writer->chunks,
             err.msg);
}

static struct upload *put_upload(struct put *p, enum upload_op op, struct upload_content *content)
{
    struct upload *u = upload_of(p->c, &p->w, op);

    if (u == NULL) return NULL;
    u->req.id = p->id;
    u->req.one_shot = &p->claim;
    u->req.claim_version = p->claim_version;
    u->req.new_case = &p->w.cs->rec;
    u->req.now_unix_ms = (int64_t)clock_wall_ms();
    u->spec = p->h->spec;
    u->content = content;
    if (p->writer != NULL) u->held = &p->writer->kept;
    return u;
}

/* A new case of one object. *ret_done false: there is such a case by now; nothing was changed. */
static enum rc put_publish(struct put *p, struct upload_content *content,
                           Mikura__V1__PutObjectResponse *ret, bool *ret_done, struct err *reterr)
{
    const Mikura__V1__UploadSpec *spec = p->h->spec;
    struct upload *u = put_upload(p, UPLOAD_PUBLISH, content);
    struct upload_action act;
    enum rc rc;

    *ret_done = true;
    if (u == NULL) return err_set(reterr, RC_NOMEM, "an upload");
    rc = fingerprint(p->c, p->w.cs, spec, p->claim.fingerprint, reterr);
    if (rc == RC_OK) rc = upload_run(u, &act, reterr);
    p->sent = u->txn_sent;
    if (rc == RC_EXISTS) {
        *ret_done = false;
        reterr->msg[0] = 0;
        return RC_OK;
    }
    if (rc == RC_OK) rc = receipt(p->c, &act, &ret->receipt, &ret->generation, reterr);
    if (rc != RC_OK) return rc;
    ret->object = objects_staged(p->c, spec->collection, spec->case_id, act.session->path,
                                 act.version, act.stage, u->index, &u->gathered);
    return ret->object != NULL ? RC_OK : err_set(reterr, RC_NOMEM, "a staged object");
}

static enum rc put_complete(struct put *p, struct upload_content *content,
                            Mikura__V1__PutObjectResponse *ret, struct err *reterr)
{
    const Mikura__V1__UploadSpec *spec = p->h->spec;
    struct upload *u = put_upload(p, UPLOAD_COMPLETE, content);
    enum rc rc;

    if (u == NULL) return err_set(reterr, RC_NOMEM, "an upload");
    rc = fingerprint(p->c, p->w.cs, spec, p->claim.fingerprint, reterr);
    if (rc == RC_OK)
        rc = complete(p->c, &p->w, u, spec->collection, spec->case_id, &ret->object, reterr);
    p->sent = p->sent || u->txn_sent;
    if (rc != RC_OK) return rc;
    if (!id128_eq(&u->body, &p->claim.body)) put_give_up(p); /* another try's bytes came first */
    if (!p->h->commit || ret->object->quarantined) return RC_OK;
    return commit(p->c, &p->w, &p->id, p->w.cs->head.generation, 1, NULL, &ret->receipt,
                  &ret->generation, reterr);
}

/* Did an earlier try of this request complete it? Then its bytes are not needed again. */
static enum rc put_claimed(struct put *p, const struct gw_row *row, struct err *reterr)
{
    struct record_session *s = arena_alloc(&p->c->arena, sizeof *s);
    enum rc rc;

    if (row->version == 0) return RC_OK;
    if (s == NULL) return err_set(reterr, RC_NOMEM, "an upload");
    rc = record_session_decode(row->value, s, reterr);
    /* given up: this try has bytes of its own, and completes if nobody gives it up, too */
    if (rc == RC_OK && s->state == RECORD_SESSION_ABORTED) p->claim_version = row->version;
    if (rc == RC_OK) p->there = s->state == RECORD_SESSION_COMPLETED;
    return rc;
}

static enum rc put_open(struct put *p, struct err *reterr)
{
    struct fcall *c = p->c;
    struct gw *gw = c->service;
    const Mikura__V1__UploadSpec *spec = p->h->spec;
    struct gw_row claim;
    enum rc rc;

    p->w.col = arena_alloc(&c->arena, sizeof *p->w.col);
    p->w.cs = arena_alloc(&c->arena, sizeof *p->w.cs);
    p->small = arena_raw(&c->arena, RECORD_INLINE_MAX);
    if (p->w.col == NULL || p->w.cs == NULL || p->small == NULL)
        return err_set(reterr, RC_NOMEM, "an upload");
    rc = gw_collection(gw, spec->collection, &c->arena, gw_left_ms(c), p->w.col, reterr);
    if (rc != RC_OK) return rc;
    rc = gw_allowed(c, p->w.col, GW_WRITE, reterr);
    if (rc == RC_OK) {
        rc = gw_case_or_new(gw, p->w.col, spec->case_id, &p->id, &c->arena, gw_left_ms(c), p->w.cs,
                            &claim, reterr);
    }
    gw_collection_wipe(p->w.col);
    if (rc != RC_OK) return rc;
    p->claim = (struct record_session){.size_unknown = spec->size_unknown ? 1 : 0,
                                       .path = gw_text(spec->path),
                                       .media_type = gw_text(spec->media_type),
                                       .owner = gw_text(fcall_peer(c)->uri),
                                       .size_bytes = spec->size_unknown ? 0 : spec->size_bytes,
                                       .chunk_bytes = p->w.col->rec.chunk_bytes,
                                       .data_pool = p->w.col->rec.data_pool,
                                       .ttl_ticks = gw->upload_ttl};
    return put_claimed(p, &claim, reterr);
}

/* The case as it is stored, made now if need be: from here on its key is the one read back. */
static enum rc put_case_stored(struct put *p, struct err *reterr)
{
    struct fcall *c = p->c;
    const Mikura__V1__UploadSpec *spec = p->h->spec;
    struct writing w;
    enum rc rc = objects_open_writing(c, spec->collection, spec->case_id, true, &w, reterr);

    if (rc != RC_OK) return rc;
    gw_case_wipe(p->w.cs);
    p->w = w;
    return p->writer == NULL ? RC_OK : put_wrap(p, reterr);
}

/* All bytes came: the rows. */
static enum rc put_rows(struct put *p, Mikura__V1__PutObjectResponse *ret, struct err *reterr)
{
    struct upload_content *content = arena_alloc(&p->c->arena, sizeof *content);
    bool done = false;
    enum rc rc = content == NULL ? err_set(reterr, RC_NOMEM, "an upload") : RC_OK;

    if (rc == RC_OK && !p->there) rc = put_content(p, content, reterr);
    if (rc != RC_OK) return rc;
    if (p->w.cs->rec_version == 0 && p->h->commit) rc = put_publish(p, content, ret, &done, reterr);
    if (rc != RC_OK || done) return rc;
    if (p->w.cs->rec_version == 0) rc = put_case_stored(p, reterr);
    return rc == RC_OK ? put_complete(p, p->there ? NULL : content, ret, reterr) : rc;
}

enum rc objects_put_object(struct fcall *c, struct err *reterr)
{
    Mikura__V1__PutObjectRequest *first;
    Mikura__V1__PutObjectResponse answer = MIKURA__V1__PUT_OBJECT_RESPONSE__INIT;
    struct put *p = arena_alloc(&c->arena, sizeof *p);
    struct rpc_msg *msg;
    struct slice data;
    enum rc rc = fcall_request_payload(c, &mikura__v1__put_object_request__descriptor, DATA_FIELD,
                                       &first, &msg, &data, reterr);

    if (rc != RC_OK) return rc;
    if (data.n == 0) data = gw_bytes(first->data);
    if (p == NULL) {
        fcall_release(c, msg);
        return err_set(reterr, RC_NOMEM, "an upload");
    }
    p->c = c;
    p->h = first->header;
    rc = p->h == NULL ? err_set(reterr, RC_INVAL, "the first message needs a header")
                      : spec_check(p->h->spec, reterr);
    if (rc == RC_OK) rc = objects_request_id(p->h->request_id, &p->id, reterr);
    if (rc == RC_OK) rc = put_open(p, reterr);
    if (rc != RC_OK) {
        fcall_release(c, msg);
        return rc;
    }
    if (!p->there && p->h->spec->sha256.len != 0) {
        p->sha256 = EVP_MD_CTX_new();
        if (p->sha256 == NULL || EVP_DigestInit_ex(p->sha256, EVP_sha256(), NULL) != 1)
            rc = err_set(reterr, RC_NOMEM, "SHA-256 of an object");
    }
    /* known to be large: seal as bytes come, without the first 64 KiB being copied */
    if (rc == RC_OK && !p->there && !p->h->spec->size_unknown &&
        p->h->spec->size_bytes > RECORD_INLINE_MAX) {
        rc = put_body(p, reterr);
    }
    if (rc == RC_OK) rc = put_bytes(p, data.p, data.n, reterr);
    fcall_release(c, msg);
    if (rc == RC_OK) rc = put_stream(p, reterr);
    if (rc == RC_OK) rc = put_rows(p, &answer, reterr);
    if (p->writer != NULL) body_end(p->writer);
    if (rc != RC_OK && !p->sent) put_give_up(p);
    EVP_MD_CTX_free(p->sha256);
    key_wipe(&p->spec.key);
    gw_case_wipe(p->w.cs);
    return rc != RC_OK ? rc : fcall_send(c, &answer.base);
}

/* ---- ReceiptKeys ---- */
static enum rc objects_receipt_keys(struct fcall *c, struct err *reterr)
{
    const struct gw *gw = c->service;
    const struct sign_public *pub;
    Mikura__V1__ReceiptKeysRequest *req;
    Mikura__V1__ReceiptKeysResponse answer = MIKURA__V1__RECEIPT_KEYS_RESPONSE__INIT;
    Mikura__V1__ReceiptKey key = MIKURA__V1__RECEIPT_KEY__INIT, *keys = &key;
    char id[ID128_TEXT_BYTES];
    enum rc rc = fcall_request(c, &mikura__v1__receipt_keys_request__descriptor, &req, reterr);

    if (rc != RC_OK) return rc;
    if (gw->signer == NULL) {
        return err_set(reterr, RC_UNAVAIL, "this gateway has not read the receipt key yet; retry");
    }
    pub = signer_public(gw->signer);
    key.key_id = (char *)(uintptr_t)id128_text(&pub->id, id);
    key.public_key.data = (uint8_t *)(uintptr_t)pub->b;
    key.public_key.len = SIGN_PUBLIC_BYTES;
    answer.cluster_id.data = (uint8_t *)(uintptr_t)gw->cluster_id.b;
    answer.cluster_id.len = 16;
    answer.keys = &keys; /* the first and, so far, only one */
    answer.n_keys = 1;
    return fcall_send(c, &answer.base);
}

const struct fcall_method gw_object_methods[] = {
    {"/mikura.v1.Objects/BeginUpload", false, 0, objects_begin_upload},
    {"/mikura.v1.Objects/PutChunk", true, 0, objects_put_chunk},
    {"/mikura.v1.Objects/ListChunks", false, 0, objects_list_chunks},
    {"/mikura.v1.Objects/Complete", false, 0, objects_complete},
    {"/mikura.v1.Objects/Abort", false, 0, objects_abort},
    {"/mikura.v1.Objects/PutObject", true, 0, objects_put_object},
    {"/mikura.v1.Objects/PutPack", true, 0, objects_put_pack},
    {"/mikura.v1.Objects/CheckCase", false, 0, objects_check_case},
    {"/mikura.v1.Objects/DropStaged", false, 0, objects_drop_staged},
    {"/mikura.v1.Objects/CommitCase", false, 0, objects_commit_case},
    {"/mikura.v1.Objects/ReceiptKeys", false, 0, objects_receipt_keys},
    {"/mikura.v1.Objects/Read", false, 0, objects_read},
    {"/mikura.v1.Objects/Stat", false, 0, objects_stat},
    {"/mikura.v1.Objects/List", false, 0, objects_list},
    {"/mikura.v1.Objects/Delete", false, 0, objects_delete},
    {"/mikura.v1.Objects/ListQuarantine", false, 0, objects_list_quarantine},
    {"/mikura.v1.Objects/ReleaseQuarantine", false, 0, objects_release_quarantine},
    {NULL, false, 0, NULL},
};
