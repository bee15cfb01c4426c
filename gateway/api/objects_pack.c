/* gateway/api/objects_pack.c - PutPack: many small objects of a case as one chunk.
 *
 * As PutObject: bytes first, under a body key that only this call knows; then one entry brings the
 * claim and the rows of all objects, so that all are staged or none. The manifests share the body;
 * its PACK row names who does, so that the bytes go with the last of them (objects_delete.c). An
 * object never shares a leaf with another: its tree-sha256 is that of the object alone.
 *
 * The plaintext is kept beside the sealed chunk until the rows are made (PACK_BYTES_MAX a call,
 * counted): the inspector reads it from there, while the chunk is on its way to the replicas. */
#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/image/image.h"
#include "common/net/rpc_wire.h"
#include "gateway/api/objects.h"
#include "gateway/api/upload.h"
#include "gateway/ingest/name.h"
#include <openssl/crypto.h>
#include <stdlib.h>

#define DATA_FIELD     15u         /* of PutPackRequest */
#define PACK_BYTES_MAX (16u << 20) /* twice that is held: less than upload_bytes */
#define PACK_TRIES_MAX 16u         /* lost races */

struct pack {
    struct fcall *c;
    struct writing w;
    const Mikura__V1__PutPackHeader *h;
    struct id128 id;
    struct record_session claim;
    uint64_t claim_version; /* when this try began: 0, or of an ABORTED one (collect.c) */
    bool looked;
    struct body_spec spec; /* key: wipe it */
    struct body_chunk *chunk;
    uint8_t *plain;
    uint32_t total, at;     /* bytes: of all; received */
    uint32_t entry, in;     /* the object that fills, and how far */
    struct fiber_group put; /* the chunk on its way */
    enum rc put_rc;
    struct err put_err;
    uint8_t (*trees)[32];
    bool others; /* another try's bytes came first */
    bool sent;   /* an entry that refers to the bytes went out: its outcome may be unknown */
};

static enum rc nomem(struct err *reterr)
{
    return err_set(reterr, RC_NOMEM, "a pack");
}

static enum rc header_check(struct pack *p, struct err *reterr)
{
    uint64_t total = 0;
    enum rc rc;

    if (p->h == NULL) return err_set(reterr, RC_INVAL, "the first message needs a header");
    if (p->h->n_objects == 0 || p->h->n_objects > RECORD_PACK_MAX)
        return err_set(reterr, RC_INVAL, "a pack has 1 to %u objects", RECORD_PACK_MAX);
    for (size_t i = 0; i < p->h->n_objects; i++) {
        const Mikura__V1__PackEntry *e = p->h->objects[i];

        rc = name_check_path(gw_text(e->path), reterr);
        if (rc != RC_OK) return rc;
        if (strlen(e->media_type) > 127)
            return err_set(reterr, RC_INVAL, "media_type: at most 127 bytes");
        for (size_t k = 0; k < i; k++) {
            if (strcmp(e->path, p->h->objects[k]->path) == 0)
                return err_set(reterr, RC_INVAL, "'%s' is twice in the pack", e->path);
        }
        if (e->size_bytes > PACK_BYTES_MAX || (total += e->size_bytes) > PACK_BYTES_MAX) {
            return err_set(reterr, RC_RANGE, "a pack has at most %u bytes: upload '%s' alone",
                           PACK_BYTES_MAX, e->path);
        }
    }
    p->total = (uint32_t)total;
    return objects_request_id(p->h->request_id, &p->id, reterr);
}

/* The request as one spec: what tells apart two requests of one id. Keyed, since it lies in clear.
 */
static enum rc fingerprint(struct pack *p, struct err *reterr)
{
    Mikura__V1__PutPackHeader h = *p->h;
    uint8_t *packed;
    size_t n;
    enum rc rc;

    h.ask = false;
    n = mikura__v1__put_pack_header__get_packed_size(&h);
    packed = arena_alloc(&p->c->arena, n);
    if (packed == NULL) return nomem(reterr);
    (void)mikura__v1__put_pack_header__pack(&h, packed);
    rc = digest_manifest(&p->w.cs->key, gw_text("upload"), (struct slice){packed, n},
                         p->claim.fingerprint);
    return rc == RC_OK ? RC_OK : err_set(reterr, rc, "digest of a request");
}

/* ---- an earlier try ---- */
static struct slice index_key(struct pack *p, struct slice path, uint64_t version)
{
    uint8_t *key = arena_raw(&p->c->arena, RECORD_KEY_BYTES_MAX);

    if (key == NULL) return (struct slice){NULL, 0};
    return (struct slice){key,
                          record_key_object(&p->w.cs->anchor, RECORD_INDEX, path, version, key)};
}

static enum rc answer_old(struct pack *p, const struct id128 *body,
                          Mikura__V1__PutPackResponse *ret, struct err *reterr)
{
    struct gw *gw = p->c->service;
    struct arena *a = &p->c->arena;
    uint8_t *key = arena_raw(a, RECORD_KEY_BYTES_MAX);
    struct record_pack *pack = arena_alloc(a, sizeof *pack);
    struct slice *keys = arena_alloc(a, p->h->n_objects * sizeof *keys), k;
    Mikura__Internal__V1__GetResponse *got;
    struct object_digests d;
    enum rc rc;

    ret->objects = arena_alloc(a, p->h->n_objects * sizeof *ret->objects);
    if (key == NULL || pack == NULL || keys == NULL || ret->objects == NULL) return nomem(reterr);
    k = (struct slice){key, record_key_id(&p->w.cs->anchor, RECORD_PACK, body, key)};
    rc = route_get(gw->route, p->w.cs->at, &k, 1, gw_left_ms(p->c), a, &got, reterr);
    if (rc != RC_OK) return rc;
    if (got->items[0]->version == 0)
        return err_set(reterr, RC_PRECOND, "all of the pack was deleted since; use a new id");
    rc = record_pack_decode(gw_bytes(got->items[0]->value), pack, reterr);
    if (rc != RC_OK) return rc;
    if (pack->objects_n != p->h->n_objects)
        return err_set(reterr, RC_PRECOND, "some of the pack was deleted since; use a new id");
    for (uint32_t i = 0; i < pack->objects_n; i++) {
        keys[i] = index_key(p, pack->objects[i].path, pack->objects[i].version);
        if (keys[i].p == NULL) return nomem(reterr);
    }
    rc =
        route_get(gw->route, p->w.cs->at, keys, pack->objects_n, gw_left_ms(p->c), a, &got, reterr);
    for (uint32_t i = 0; rc == RC_OK && i < pack->objects_n; i++) {
        struct record_index *idx = arena_alloc(a, sizeof *idx);

        if (idx == NULL) return nomem(reterr);
        if (got->items[i]->version == 0)
            return err_set(reterr, RC_PRECOND, "some of the pack was deleted since; use a new id");
        rc = record_index_decode(gw_bytes(got->items[i]->value), idx, reterr);
        if (rc == RC_OK)
            rc = object_digests_open(p->w.cs, keys[i], idx->sealed_digests, &d, reterr);
        if (rc != RC_OK) return rc;
        ret->objects[i] =
            objects_staged(p->c, p->h->collection, p->h->case_id, pack->objects[i].path,
                           pack->objects[i].version, idx->stage, idx, &d);
        if (ret->objects[i] == NULL) return nomem(reterr);
    }
    ret->n_objects = pack->objects_n;
    ret->was_there = true;
    return rc;
}

/* *ret_there: an earlier try stored it; *ret is the answer then. */
static enum rc look_back(struct pack *p, Mikura__V1__PutPackResponse *ret, bool *ret_there,
                         struct err *reterr)
{
    struct gw *gw = p->c->service;
    uint8_t *key = arena_raw(&p->c->arena, RECORD_KEY_BYTES_MAX);
    struct record_session *s = arena_alloc(&p->c->arena, sizeof *s);
    Mikura__Internal__V1__GetResponse *got;
    struct slice k;
    enum rc rc;

    *ret_there = false;
    if (key == NULL || s == NULL) return nomem(reterr);
    k = (struct slice){key, record_key_claim(p->w.cs->at.hash, &p->id, key)};
    rc = route_get(gw->route, p->w.cs->at, &k, 1, gw_left_ms(p->c), &p->c->arena, &got, reterr);
    if (rc != RC_OK) return rc;
    if (!p->looked) p->claim_version = got->items[0]->version;
    p->looked = true;
    if (got->items[0]->version == 0) return RC_OK;
    rc = record_session_decode(gw_bytes(got->items[0]->value), s, reterr);
    if (rc != RC_OK) return rc;
    if (s->state != RECORD_SESSION_COMPLETED && got->items[0]->version == p->claim_version)
        return RC_OK; /* given up before this try began, which has bytes of its own */
    if (s->state != RECORD_SESSION_COMPLETED)
        return err_set(reterr, RC_ABORTED,
                       "the upload took too long and was given up; send it again");
    if (memcmp(s->fingerprint, p->claim.fingerprint, 32) != 0)
        return err_set(reterr, RC_EXISTS, "this request id belongs to another request");
    *ret_there = true;
    p->others = !id128_eq(&s->body, &p->claim.body);
    return answer_old(p, &s->body, ret, reterr);
}

/* ---- bytes ---- */
static enum rc body_start(struct pack *p, struct err *reterr)
{
    struct gw *gw = p->c->service;
    struct record_session *s = &p->claim;
    enum rc rc;

    s->body = id128_random();
    s->chunk_bytes = p->w.col->rec.chunk_bytes;
    s->data_pool = p->w.col->rec.data_pool;
    if (p->total > s->chunk_bytes) {
        return err_set(reterr, RC_RANGE, "a pack of this collection has at most %u bytes",
                       s->chunk_bytes);
    }
    p->spec = (struct body_spec){.body = s->body,
                                 .upload_id = p->id,
                                 .pool = s->data_pool,
                                 .chunk_bytes = s->chunk_bytes,
                                 .owner_hash = p->w.cs->at.hash,
                                 .size_bytes = p->total,
                                 .packed_n = (uint32_t)p->h->n_objects,
                                 .beside_bytes = p->total};
    key_random(&p->spec.key);
    rc = gw_body_wrap(p->w.cs, &s->body, &p->spec.key, &p->c->arena, &s->body_key);
    if (rc != RC_OK) return err_set(reterr, rc, "a body's key");
    if (p->total == 0) return RC_OK;
    rc = body_chunk_new(gw, &p->spec, 0, p->total, &p->chunk, reterr);
    if (rc != RC_OK) return rc;
    p->plain = malloc(p->total);
    return p->plain == NULL ? nomem(reterr) : RC_OK;
}

static enum rc take(struct pack *p, struct slice d, struct err *reterr)
{
    enum rc rc = RC_OK;

    if (d.n > p->total - p->at)
        return err_set(reterr, RC_RANGE, "more bytes than the pack's declared %u", p->total);
    while (rc == RC_OK && d.n > 0) {
        uint64_t size = p->h->objects[p->entry]->size_bytes;
        size_t n = (size_t)MIN(size - p->in, (uint64_t)d.n);

        memcpy(p->plain + p->at, d.p, n);
        if (n > 0) rc = body_chunk_fill(p->chunk, d.p, n, reterr);
        p->at += (uint32_t)n;
        p->in += (uint32_t)n;
        d.p += n;
        d.n -= n;
        if (rc == RC_OK && p->in == size) {
            if (size > 0) rc = chunk_sealer_object_end(p->chunk->sealer);
            if (rc != RC_OK) return err_set(reterr, rc, "sealing a pack");
            p->entry++;
            p->in = 0;
        }
    }
    return rc;
}

static enum rc receive(struct pack *p, struct err *reterr)
{
    enum rc rc = RC_OK;

    for (;;) {
        Mikura__V1__PutPackRequest *m = NULL;
        struct slice rest, d;
        struct rpc_msg *msg;

        rc = fcall_recv(p->c, &msg);
        if (rc == RC_RANGE) break;
        if (rc != RC_OK) return err_set(reterr, rc, "%s", rc_text(rc));
        if (!rpc_wire_payload((struct slice){msg->p, msg->n}, DATA_FIELD, &rest, &d) ||
            rest.n > 0) {
            m = mikura__v1__put_pack_request__unpack(NULL, msg->n, msg->p);
            if (m == NULL) {
                rc = err_set(reterr, RC_INVAL, "a message is no PutPackRequest");
            } else if (m->header != NULL) {
                rc = err_set(reterr, RC_INVAL, "a header in a later message");
            } else {
                d = gw_bytes(m->data);
            }
        }
        if (rc == RC_OK) rc = take(p, d, reterr);
        if (m != NULL) mikura__v1__put_pack_request__free_unpacked(m, NULL);
        fcall_release(p->c, msg);
        if (rc != RC_OK) return rc;
    }
    if (p->at != p->total) {
        return err_set(reterr, RC_INVAL, "the stream ended after %u of the pack's %u bytes", p->at,
                       p->total);
    }
    return RC_OK;
}

/* Each object's own digest, from the leaves that sealing has made. */
static enum rc digests(struct pack *p, struct err *reterr)
{
    struct tree_join *join = arena_alloc(&p->c->arena, sizeof *join);
    uint32_t leaf = 0;
    enum rc rc = RC_OK;

    p->trees = arena_alloc(&p->c->arena, p->h->n_objects * sizeof *p->trees);
    if (join == NULL || p->trees == NULL) return nomem(reterr);
    for (size_t i = 0; rc == RC_OK && i < p->h->n_objects; i++) {
        uint64_t size = p->h->objects[i]->size_bytes, n = tree_leaves(size);
        uint8_t none[32];

        tree_join_init(join);
        if (size == 0) {
            rc = tree_leaf(NULL, 0, none);
            if (rc == RC_OK) rc = tree_join_add(join, none);
        }
        for (uint64_t k = 0; rc == RC_OK && size > 0 && k < n; k++) {
            CHECK(leaf < p->chunk->leaves_n);
            rc = tree_join_add(join, p->chunk->leaves[leaf++].hash);
        }
        if (rc == RC_OK) rc = tree_join_digest(join, size, p->trees[i]);
    }
    return rc == RC_OK ? RC_OK : err_set(reterr, rc, "SHA-256 of an object");
}

static void put_chunk(void *arg)
{
    struct pack *p = arg;

    p->put_rc = body_chunk_put(p->chunk, gw_left_ms(p->c), &p->put_err);
}

/* ---- rows ---- */
/* The newest versions there are of the pack's paths, staged ones too, or that ever were. */
static enum rc newest(struct pack *p, uint64_t *ret, struct err *reterr)
{
    struct gw *gw = p->c->service;
    struct slice *prefixes = arena_alloc(&p->c->arena, p->h->n_objects * sizeof *prefixes), path;
    Mikura__Internal__V1__GetResponse *got;
    enum rc rc;

    if (prefixes == NULL) return nomem(reterr);
    for (size_t i = 0; i < p->h->n_objects; i++) {
        prefixes[i] = index_key(p, gw_text(p->h->objects[i]->path), 0);
        if (prefixes[i].p == NULL) return nomem(reterr);
    }
    rc = route_get_first(gw->route, p->w.cs->at, NULL, 0, prefixes, (uint32_t)p->h->n_objects,
                         gw_left_ms(p->c), &p->c->arena, &got, reterr);
    for (size_t i = 0; rc == RC_OK && i < p->h->n_objects; i++) {
        ret[i] = 0;
        if (got->items[i]->version != 0)
            rc = record_key_parse_object(gw_bytes(got->items[i]->key), &path, &ret[i]);
        ret[i] = MAX(ret[i], p->w.cs->head.version_floor);
    }
    return rc;
}

struct pack_txn {
    struct gw_compare compares[RECORD_PACK_MAX + 2];
    struct gw_put puts[2 * RECORD_PACK_MAX + 2];
    uint32_t compares_n, puts_n;
};

static enum rc object_rows(struct pack *p, struct upload *u, uint32_t i, uint32_t offset,
                           uint64_t version, struct pack_txn *t, struct record_manifest *m,
                           struct err *reterr)
{
    const Mikura__V1__PackEntry *e = p->h->objects[i];
    struct arena *a = &p->c->arena;
    uint8_t *key = arena_raw(a, RECORD_KEY_BYTES_MAX);
    struct gw_object *o = arena_alloc(a, sizeof *o);
    struct slice bytes = {p->plain == NULL ? (const uint8_t *)"" : p->plain + offset,
                          (size_t)e->size_bytes};
    struct upload_content content = {.size_bytes = e->size_bytes, .at_hand = &bytes};
    enum rc rc;

    if (key == NULL || o == NULL) return nomem(reterr);
    memcpy(content.digests.tree, p->trees[i], 32);
    content.head = (struct slice){bytes.p, MIN(bytes.n, (size_t)IMAGE_SNIFF_BYTES)};
    o->path = gw_text(e->path);
    o->version = version;
    o->manifest_key = (struct slice){
        key, record_key_object(&p->w.cs->anchor, RECORD_MANIFEST, o->path, version, key)};
    o->index_key = index_key(p, o->path, version);
    if (o->index_key.p == NULL) return nomem(reterr);
    memset(m, 0, sizeof *m);
    m->size_bytes = e->size_bytes;
    if (e->size_bytes > 0) {
        m->bodies_n = m->extents_n = 1;
        m->bodies[0] = (struct record_body){.id = p->claim.body,
                                            .pool = p->claim.data_pool,
                                            .chunk_bytes = p->claim.chunk_bytes,
                                            .size_bytes = p->total,
                                            .key = p->claim.body_key};
        m->extents[0] = (struct record_extent){.length = e->size_bytes, .offset_in_chunk = offset};
    }
    rc = upload_object_rows(u, o, m, &content, NULL, gw_text(e->media_type), p->w.cs->head.stage,
                            reterr);
    if (rc != RC_OK) return rc;
    t->compares[t->compares_n++] =
        (struct gw_compare){MIKURA__INTERNAL__V1__COMPARE_KIND__COMPARE_ABSENT, o->index_key, 0};
    t->puts[t->puts_n].key = o->index_key;
    rc = GW_ENCODE(a, index, u->index, &t->puts[t->puts_n++].value, reterr);
    t->puts[t->puts_n++] = (struct gw_put){o->manifest_key, u->manifest};
    return rc;
}

static enum rc claim_rows(struct pack *p, const uint64_t *versions, struct pack_txn *t,
                          struct err *reterr)
{
    struct arena *a = &p->c->arena;
    uint8_t *keys = arena_raw(a, 3 * RECORD_KEY_BYTES_MAX);
    struct record_pack *pack = arena_alloc(a, sizeof *pack);
    struct record_session *s = &p->claim;
    enum rc rc;

    if (keys == NULL || pack == NULL) return nomem(reterr);
    s->state = RECORD_SESSION_COMPLETED;
    s->version = versions[0] + 1;
    s->stage = p->w.cs->head.stage;
    s->chunks = p->total > 0 ? 1 : 0;
    s->size_bytes = p->total;
    t->compares[t->compares_n++] =
        (struct gw_compare){MIKURA__INTERNAL__V1__COMPARE_KIND__COMPARE_VERSION,
                            {keys, record_key(&p->w.cs->anchor, RECORD_HEAD, keys)},
                            p->w.cs->head_version};
    keys += RECORD_KEY_BYTES_MAX;
    t->puts[t->puts_n].key = (struct slice){keys, record_key_claim(p->w.cs->at.hash, &p->id, keys)};
    t->compares[t->compares_n++] =
        (struct gw_compare){MIKURA__INTERNAL__V1__COMPARE_KIND__COMPARE_VERSION,
                            t->puts[t->puts_n].key, p->claim_version};
    rc = GW_ENCODE(a, session, s, &t->puts[t->puts_n++].value, reterr);
    if (rc != RC_OK) return rc;
    pack->upload = p->id;
    pack->objects_n = (uint32_t)p->h->n_objects;
    for (uint32_t i = 0; i < pack->objects_n; i++) {
        pack->objects[i] =
            (struct record_pack_object){gw_text(p->h->objects[i]->path), versions[i] + 1};
    }
    keys += RECORD_KEY_BYTES_MAX;
    t->puts[t->puts_n].key =
        (struct slice){keys, record_key_id(&p->w.cs->anchor, RECORD_PACK, &s->body, keys)};
    return GW_ENCODE(a, pack, pack, &t->puts[t->puts_n++].value, reterr);
}

/* One try; *ret_done false: lost a race, nothing was changed. */
static enum rc stage_once(struct pack *p, Mikura__V1__PutPackResponse *ret, bool *ret_done,
                          struct err *reterr)
{
    struct gw *gw = p->c->service;
    struct arena *a = &p->c->arena;
    struct pack_txn *t = arena_alloc(a, sizeof *t);
    struct record_manifest *m = arena_alloc(a, sizeof *m);
    struct upload *u = arena_alloc(a, sizeof *u);
    uint64_t *versions = arena_alloc(a, p->h->n_objects * sizeof *versions);
    uint32_t offset = 0;
    enum rc rc;

    ret->objects = arena_alloc(a, p->h->n_objects * sizeof *ret->objects);
    ret->n_objects = 0;
    if (t == NULL || m == NULL || u == NULL || versions == NULL || ret->objects == NULL)
        return nomem(reterr);
    u->c = p->c;
    u->gw = gw;
    u->col = p->w.col;
    u->cs = p->w.cs;
    rc = newest(p, versions, reterr);
    for (uint32_t i = 0; rc == RC_OK && i < p->h->n_objects; i++) {
        u->reasons = NULL;
        u->n_reasons = 0;
        rc = object_rows(p, u, i, offset, versions[i] + 1, t, m, reterr);
        if (rc != RC_OK) return rc;
        offset += (uint32_t)p->h->objects[i]->size_bytes;
        ret->objects[i] =
            objects_staged(p->c, p->h->collection, p->h->case_id, gw_text(p->h->objects[i]->path),
                           versions[i] + 1, u->index->stage, u->index, &u->gathered);
        if (ret->objects[i] == NULL) return nomem(reterr);
        ret->objects[i]->reasons = u->reasons;
        ret->objects[i]->n_reasons = u->n_reasons;
        ret->n_objects++;
    }
    if (rc == RC_OK) rc = claim_rows(p, versions, t, reterr);
    fiber_group_wait(&p->put); /* the bytes before what refers to them */
    if (rc == RC_OK && p->put_rc != RC_OK) {
        *reterr = p->put_err;
        rc = p->put_rc;
    }
    if (rc != RC_OK) return rc;
    p->sent = true;
    rc = gw_txn(gw, p->w.cs->at, t->compares, t->compares_n, t->puts, t->puts_n, NULL, 0, a,
                gw_left_ms(p->c), ret_done, NULL, NULL, reterr);
    /* RC_ABORTED: it ran, or never will; the rows tell */
    if (rc == RC_ABORTED) *ret_done = false;
    return rc == RC_ABORTED ? RC_OK : rc;
}

static void give_up(struct pack *p)
{
    struct err err = {0};

    if (p->chunk == NULL) return;
    if (objects_body_tomb(p->c, p->w.cs, &p->claim.body, p->claim.data_pool, 1, &err) == RC_OK)
        return;
    log_warn("pack_left_chunk", "rid=%s why=%s", fcall_rid(p->c), err.msg);
}

static enum rc stage(struct pack *p, Mikura__V1__PutPackResponse *ret, struct err *reterr)
{
    bool done = false, there = false;
    struct writing w;
    enum rc rc;

    for (uint32_t tries = 0; tries < PACK_TRIES_MAX; tries++) {
        if (fcall_dead(p->c)) return err_set(reterr, RC_CANCELED, "the caller went away");
        rc = stage_once(p, ret, &done, reterr);
        if (rc != RC_OK || done) return rc;
        rc = look_back(p, ret, &there, reterr);
        if (rc != RC_OK || there) return rc; /* another try came first, or an answer was lost */
        p->sent = false;
        rc = objects_open_writing(p->c, p->h->collection, p->h->case_id, false, &w, reterr);
        if (rc != RC_OK) return rc;
        gw_case_wipe(p->w.cs);
        p->w = w;
    }
    return err_set(reterr, RC_ABORTED, "lost against concurrent changes of the case; try again");
}

static enum rc run(struct pack *p, struct slice first, struct rpc_msg **msg,
                   Mikura__V1__PutPackResponse *ret, struct err *reterr)
{
    bool there = false;
    enum rc rc = fingerprint(p, reterr);

    if (rc == RC_OK) rc = look_back(p, ret, &there, reterr);
    if (rc != RC_OK || there) return rc;
    if (p->h->ask) return err_set(reterr, RC_NOTFOUND, "nothing was stored under this id");
    rc = body_start(p, reterr);
    if (rc == RC_OK) rc = take(p, first, reterr);
    fcall_release(p->c, *msg); /* held, it would keep a half of the stream's window shut */
    *msg = NULL;
    if (rc == RC_OK) rc = receive(p, reterr);
    if (rc == RC_OK && p->chunk != NULL) {
        rc = body_chunk_sealed(p->chunk, reterr);
        if (rc == RC_OK && fiber_group_spawn(&p->put, put_chunk, p) != RC_OK) put_chunk(p);
    }
    if (rc == RC_OK) rc = digests(p, reterr);
    if (rc == RC_OK) rc = stage(p, ret, reterr);
    fiber_group_wait(&p->put);
    if ((rc != RC_OK && !p->sent) || p->others) give_up(p);
    return rc;
}

enum rc objects_put_pack(struct fcall *c, struct err *reterr)
{
    Mikura__V1__PutPackRequest *first;
    Mikura__V1__PutPackResponse answer = MIKURA__V1__PUT_PACK_RESPONSE__INIT;
    struct pack *p = arena_alloc(&c->arena, sizeof *p);
    struct rpc_msg *msg;
    struct slice data;
    enum rc rc = fcall_request_payload(c, &mikura__v1__put_pack_request__descriptor, DATA_FIELD,
                                       &first, &msg, &data, reterr);

    if (rc != RC_OK) return rc;
    if (data.n == 0) data = gw_bytes(first->data);
    if (p == NULL) {
        fcall_release(c, msg);
        return nomem(reterr);
    }
    p->c = c;
    p->h = first->header;
    rc = header_check(p, reterr);
    if (rc == RC_OK)
        rc = objects_open_writing(c, p->h->collection, p->h->case_id, !p->h->ask, &p->w, reterr);
    if (rc == RC_OK) {
        p->claim.path = gw_text(p->h->objects[0]->path);
        p->claim.owner = gw_text(fcall_peer(c)->uri);
        p->claim.ttl_ticks = ((struct gw *)c->service)->upload_ttl;
        rc = run(p, data, &msg, &answer, reterr);
        gw_case_wipe(p->w.cs);
    }
    if (msg != NULL) fcall_release(c, msg);
    body_chunk_free(p->chunk);
    if (p->plain != NULL) OPENSSL_cleanse(p->plain, p->total);
    free(p->plain);
    key_wipe(&p->spec.key);
    return rc != RC_OK ? rc : fcall_send(c, &answer.base);
}
