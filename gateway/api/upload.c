/* gateway/api/upload.c - carries out what upload_core decided; holds no policy of the session.
 *
 * Here are the keys, digests and receipts that a pure core must not know. */
#include "gateway/api/upload.h"
#include "common/base/clock.h"
#include "common/base/le.h"
#include "common/base/log.h"
#include "common/crypto/digest.h"
#include "gateway/api/inspect.h"
#include <stdlib.h>

enum rc upload_session(struct fcall *c, const struct gw_case *cs, const struct id128 *id,
                       struct record_session **ret, uint64_t *ret_version, uint64_t *ret_tick,
                       struct err *reterr)
{
    struct gw *gw = c->service;
    uint8_t *key = arena_raw(&c->arena, RECORD_KEY_BYTES_MAX);
    struct record_session *s = arena_alloc(&c->arena, sizeof *s);
    Mikura__Internal__V1__GetResponse *got;
    struct slice k;
    enum rc rc;

    if (key == NULL || s == NULL) return err_set(reterr, RC_NOMEM, "an upload session");
    k = (struct slice){key, record_key_id(&cs->anchor, RECORD_SESSION, id, key)};
    rc = route_get(gw->route, cs->at, &k, 1, gw_left_ms(c), &c->arena, &got, reterr);
    if (rc != RC_OK) return rc;
    if (got->items[0]->version == 0) {
        return err_set(reterr, RC_NOTFOUND, "no such upload session; begin it with BeginUpload");
    }
    rc = record_session_decode(gw_bytes(got->items[0]->value), s, reterr);
    if (rc != RC_OK) return rc;
    *ret = s;
    *ret_version = got->items[0]->version;
    *ret_tick = got->tick;
    return RC_OK;
}

enum rc upload_body_spec(struct gw *gw, const struct gw_case *cs, const struct id128 *upload_id,
                         const struct record_session *s, struct body_spec *ret, struct err *reterr)
{
    struct record_body body = {.id = s->body, .key = s->body_key};

    (void)gw;
    *ret = (struct body_spec){.body = s->body,
                              .upload_id = *upload_id,
                              .pool = s->data_pool,
                              .chunk_bytes = s->chunk_bytes,
                              .owner_hash = cs->at.hash,
                              .size_bytes = s->size_unknown ? BODY_SIZE_UNKNOWN : s->size_bytes};
    return gw_body_unwrap(cs, &body, &ret->key, reterr);
}

/* ---- actions ---- */
static enum rc do_get(struct upload *u, const struct upload_action *act,
                      struct upload_item items[UPLOAD_KEYS_MAX], struct upload_event *ev,
                      struct err *reterr)
{
    Mikura__Internal__V1__GetResponse *got;
    enum rc rc = route_get(u->gw->route, u->cs->at, act->keys, act->keys_n, gw_left_ms(u->c),
                           &u->c->arena, &got, reterr);

    if (rc != RC_OK) return rc;
    for (uint32_t i = 0; i < act->keys_n; i++) {
        items[i].value = gw_bytes(got->items[i]->value);
        items[i].version = got->items[i]->version;
    }
    ev->items = items;
    ev->tick = got->tick;
    return RC_OK;
}

static enum rc do_newest(struct upload *u, const struct upload_action *act, struct upload_event *ev,
                         struct err *reterr)
{
    Mikura__Internal__V1__GetResponse *got;
    struct slice path;
    enum rc rc = route_get_first(u->gw->route, u->cs->at, NULL, 0, &act->keys[0], 1,
                                 gw_left_ms(u->c), &u->c->arena, &got, reterr);

    if (rc != RC_OK || got->items[0]->version == 0) return rc;
    return record_key_parse_object(gw_bytes(got->items[0]->key), &path, &ev->newest);
}

void upload_txn_of(const struct upload_action *act,
                   struct gw_compare ret_compares[UPLOAD_COMPARES_MAX],
                   struct gw_put ret_puts[UPLOAD_PUTS_MAX])
{
    for (uint32_t i = 0; i < act->compares_n; i++) {
        ret_compares[i] =
            (struct gw_compare){(Mikura__Internal__V1__CompareKind)act->compares[i].kind,
                                act->compares[i].key, act->compares[i].number};
    }
    for (uint32_t i = 0; i < act->puts_n; i++)
        ret_puts[i] = (struct gw_put){act->puts[i].key, act->puts[i].value};
}

static enum rc do_txn(struct upload *u, const struct upload_action *act, struct upload_event *ev,
                      struct err *reterr)
{
    struct gw_compare compares[UPLOAD_COMPARES_MAX];
    struct gw_put puts[UPLOAD_PUTS_MAX];

    upload_txn_of(act, compares, puts);
    if (u->held != NULL && *u->held != NULL) {
        struct body_chunk *k = *u->held;
        enum rc rc;

        *u->held = NULL; /* also when nobody knows the outcome: the sender tries again, anew */
        rc = gw_chunk_txn(u->gw, &k->put, u->cs->at, compares, act->compares_n, puts, act->puts_n,
                          &u->c->arena, gw_left_ms(u->c), &ev->succeeded, &ev->index, &ev->tick,
                          reterr);
        body_chunk_free(k);
        return rc;
    }
    return gw_txn(u->gw, u->cs->at, compares, act->compares_n, puts, act->puts_n, NULL, 0,
                  &u->c->arena, gw_left_ms(u->c), &ev->succeeded, &ev->index, &ev->tick, reterr);
}

/* BEGIN: a new body with a key of its own. */
static enum rc do_make(struct upload *u, struct upload_event *ev, struct err *reterr)
{
    struct record_session *s = &u->session_scratch;
    const Mikura__V1__UploadSpec *spec = u->spec;
    struct key k;
    uint8_t *key = arena_raw(&u->c->arena, RECORD_KEY_BYTES_MAX), *packed, *sealed;
    Mikura__V1__UploadSpec keep = *spec;
    struct slice session_key;
    size_t n;
    enum rc rc;

    memset(s, 0, sizeof *s);
    s->state = RECORD_SESSION_OPEN;
    s->size_unknown = spec->size_unknown ? 1 : 0;
    s->path = gw_text(spec->path);
    s->media_type = gw_text(spec->media_type);
    s->owner = gw_text(fcall_peer(u->c)->uri);
    s->size_bytes = spec->size_unknown ? 0 : spec->size_bytes;
    s->chunk_bytes = u->col->rec.chunk_bytes;
    s->data_pool = u->col->rec.data_pool;
    s->body = id128_random();
    s->ttl_ticks = u->gw->upload_ttl;
    memcpy(s->fingerprint, u->req.fingerprint, sizeof s->fingerprint);
    rc = upload_chunk_count(s->size_bytes, s->chunk_bytes, &s->chunks);
    if (rc != RC_OK)
        return err_set(reterr, rc, "%llu bytes in chunks of %u are too many chunks",
                       (unsigned long long)s->size_bytes, s->chunk_bytes);
    key_random(&k);
    rc = gw_body_wrap(u->cs, &s->body, &k, &u->c->arena, &s->body_key);
    key_wipe(&k);
    if (rc != RC_OK) return err_set(reterr, rc, "a body's key");
    keep.collection = keep.case_id = keep.path = keep.media_type = (char *)(uintptr_t) "";
    n = mikura__v1__upload_spec__get_packed_size(&keep);
    packed = arena_alloc(&u->c->arena, n);
    sealed = arena_alloc(&u->c->arena, n + DOCSEAL_EXTRA_BYTES);
    if (key == NULL || packed == NULL || sealed == NULL)
        return err_set(reterr, RC_NOMEM, "an upload session");
    (void)mikura__v1__upload_spec__pack(&keep, packed);
    session_key =
        (struct slice){key, record_key_id(&u->cs->anchor, RECORD_SESSION, &u->req.id, key)};
    rc = docseal_seal(&u->cs->key, DOCSEAL_ATTRIBUTES, session_key, (struct slice){packed, n},
                      sealed);
    if (rc != RC_OK) return err_set(reterr, rc, "sealing an upload's description");
    s->sealed_spec = (struct slice){sealed, n + DOCSEAL_EXTRA_BYTES};
    ev->session = s;
    return RC_OK;
}

static enum rc spec_open(struct upload *u, const struct record_session *s,
                         Mikura__V1__UploadSpec **ret, struct err *reterr)
{
    uint8_t *key = arena_raw(&u->c->arena, RECORD_KEY_BYTES_MAX);
    uint8_t *plain = arena_alloc(&u->c->arena, s->sealed_spec.n);
    struct slice session_key;
    size_t n;
    enum rc rc;

    if (key == NULL || plain == NULL) return err_set(reterr, RC_NOMEM, "an upload's description");
    session_key =
        (struct slice){key, record_key_id(&u->cs->anchor, RECORD_SESSION, &u->req.id, key)};
    rc = docseal_open(&u->cs->key, DOCSEAL_ATTRIBUTES, session_key, s->sealed_spec, plain, &n);
    if (rc != RC_OK)
        return err_set(reterr, rc, "an upload's description does not open under its case's key");
    *ret = mikura__v1__upload_spec__unpack(&u->c->arena.pb, n, plain);
    return *ret != NULL ? RC_OK
                        : err_set(reterr, RC_CORRUPT, "an upload's description does not decode");
}

static enum rc do_write(struct upload *u, struct upload_event *ev, struct err *reterr)
{
    enum rc rc = body_chunk_put(u->chunk, gw_left_ms(u->c), reterr);

    ev->seal_id = u->chunk->put.won;
    ev->was_there = rc == RC_OK && !id128_eq(&u->chunk->put.won, &u->chunk->put.ident.seal_id);
    return rc;
}

/* ---- gather: the CHUNK rows of a session, in order ---- */
struct gather {
    struct upload *u;
    const struct record_session *s;
    struct tree_join tree;
    uint32_t next;
    uint64_t bytes;
    struct err *err;
};

static enum rc gather_each(void *arg, const Mikura__Internal__V1__Item *item)
{
    struct gather *g = arg;
    struct slice key = gw_bytes(item->key);
    uint8_t leaves[RECORD_LEAVES_MAX * 32 + DOCSEAL_EXTRA_BYTES];
    struct record_chunk ch;
    uint32_t index;
    size_t n;
    enum rc rc = record_chunk_decode(gw_bytes(item->value), &ch, g->err);

    if (rc != RC_OK) return rc;
    if (key.n < 4) return RC_CORRUPT;
    index = be_get32(key.p + key.n - 4);
    if (index != g->next)
        return err_set(g->err, RC_PRECOND, "chunk %u is missing; ListChunks tells what has arrived",
                       g->next);
    if (ch.plain_bytes != upload_chunk_length(g->s, index)) {
        return err_set(g->err, RC_PRECOND, "chunk %u has %u bytes, %u were expected", index,
                       ch.plain_bytes, upload_chunk_length(g->s, index));
    }
    if (ch.sealed_leaves.n > sizeof leaves) return RC_CORRUPT;
    rc = docseal_open(&g->u->cs->key, DOCSEAL_DIGEST, key, ch.sealed_leaves, leaves, &n);
    if (rc != RC_OK || n != tree_leaves(ch.plain_bytes) * 32) {
        return err_set(g->err, RC_CORRUPT, "the digests of chunk %u do not open", index);
    }
    for (size_t i = 0; i < n && rc == RC_OK; i += 32)
        rc = tree_join_add(&g->tree, leaves + i);
    g->bytes += ch.plain_bytes;
    g->next++;
    return rc;
}

static enum rc gather_chunks(struct upload *u, const struct record_session *s,
                             struct upload_content *ret, struct err *reterr)
{
    uint8_t *from = arena_raw(&u->c->arena, RECORD_KEY_BYTES_MAX),
            *until = arena_raw(&u->c->arena, RECORD_KEY_BYTES_MAX);
    struct gather *g = arena_alloc(&u->c->arena, sizeof *g);
    size_t n;
    enum rc rc;

    if (from == NULL || until == NULL || g == NULL)
        return err_set(reterr, RC_NOMEM, "an upload's chunks");
    g->u = u;
    g->s = s;
    g->err = reterr;
    tree_join_init(&g->tree);
    n = record_key_id(&u->cs->anchor, RECORD_CHUNK, &u->req.id, from);
    memcpy(until, from, n);
    rc = route_scan(u->gw->route, u->cs->at, (struct slice){from, n},
                    (struct slice){until, record_key_after(until, n)}, 0, gw_left_ms(u->c),
                    gather_each, g, reterr);
    if (rc != RC_OK) return rc;
    if (g->next != s->chunks) {
        return err_set(reterr, RC_PRECOND, "%u of %u chunks have arrived; ListChunks tells which",
                       g->next, s->chunks);
    }
    ret->size_bytes = g->bytes;
    return tree_join_digest(&g->tree, g->bytes, ret->digests.tree);
}

static enum rc check_digests(struct upload *u, struct upload_content *content,
                             const Mikura__V1__UploadSpec *spec, struct err *reterr)
{
    if (u->expected != NULL) {
        if (u->expected->kind != MIKURA__V1__DIGEST_KIND__TREE_SHA256 ||
            u->expected->value.len != 32) {
            return err_set(reterr, RC_INVAL,
                           "expected digest: a tree-sha256 of 32 bytes (chunks came in any order: "
                           "a plain SHA-256 is checked by PutObject only)");
        }
        if (memcmp(u->expected->value.data, content->digests.tree, 32) != 0) {
            return err_set(
                reterr, RC_PRECOND,
                "tree-sha256 of what arrived differs from the expected one: send it again");
        }
    }
    if (spec != NULL && spec->sha256.len != 0 && !content->digests.has_sha256) { /* claimed */
        if (spec->sha256.len != 32) return err_set(reterr, RC_INVAL, "sha256: 32 bytes");
        memcpy(content->digests.sha256, spec->sha256.data, 32);
        content->digests.has_sha256 = true;
    }
    return RC_OK;
}

/* Attributes that the collection declares as index fields stay in clear; all are sealed in the
 * manifest. */
static void index_attrs(const struct gw_collection *col, const struct gw_facts *f,
                        struct record_index *idx)
{
    for (size_t i = 0; i < f->n_attributes; i++) {
        const Mikura__V1__Attribute *a = f->attributes[i];
        struct record_attr *to = &idx->attrs[idx->attrs_n];
        bool declared = false;

        for (uint32_t k = 0; k < col->rec.fields_n; k++)
            declared = declared || gw_slice_is(col->rec.fields[k], a->name);
        if (!declared || idx->attrs_n == RECORD_ATTRS_MAX) continue;
        memset(to, 0, sizeof *to);
        to->name = gw_text(a->name);
        switch (a->value_case) {
        case MIKURA__V1__ATTRIBUTE__VALUE_TEXT:
            to->type = RECORD_ATTR_TEXT;
            to->text = gw_text(a->text);
            break;
        case MIKURA__V1__ATTRIBUTE__VALUE_INTEGER:
            to->type = RECORD_ATTR_INT;
            to->integer = a->integer;
            break;
        case MIKURA__V1__ATTRIBUTE__VALUE_REAL:
            to->type = RECORD_ATTR_REAL;
            to->real = a->real;
            break;
        default:
            continue;
        }
        idx->attrs_n++;
    }
}

static const struct slice *content_bytes(const struct upload_content *content)
{
    return content->is_inline ? &content->inline_plain : content->at_hand;
}

/* The collection's profile holds an object back: its reasons are kept beside its attributes. */
static enum rc gate(struct upload *u, const struct gw_object *o,
                    const struct upload_content *content, struct gw_facts *f, bool *ret_held,
                    struct err *reterr)
{
    struct arena *a = &u->c->arena;
    struct gw_verdict *v = arena_alloc(a, sizeof *v);
    Mikura__V1__Attribute **all;
    enum rc rc;

    *ret_held = false;
    if (u->col->rec.unchecked) return RC_OK;
    if (v == NULL) return err_set(reterr, RC_NOMEM, "the gate");
    rc = gw_deid(u->gw, u->cs, o, content_bytes(content), gw_dup(a, u->col->rec.deid_profile), a,
                 gw_left_ms(u->c), v, reterr);
    if (rc != RC_OK || v->outcome == DEID_ACCEPTED || v->outcome == DEID_OPAQUE) return rc;
    all = arena_alloc(a, (f->n_attributes + v->n_reasons) * sizeof *all);
    if (all == NULL) return err_set(reterr, RC_NOMEM, "the gate");
    for (size_t i = 0; i < v->n_reasons; i++) {
        Mikura__V1__Attribute *at = arena_alloc(a, sizeof *at);

        if (at == NULL) return err_set(reterr, RC_NOMEM, "the gate");
        mikura__v1__attribute__init(at);
        at->name = (char *)(uintptr_t)GATE_REASON;
        at->value_case = MIKURA__V1__ATTRIBUTE__VALUE_TEXT;
        at->text = v->reasons[i];
        all[i] = at;
    }
    if (f->n_attributes > 0)
        memcpy(all + v->n_reasons, f->attributes, f->n_attributes * sizeof *all);
    f->attributes = all;
    f->n_attributes += v->n_reasons;
    u->reasons = v->reasons;
    u->n_reasons = v->n_reasons;
    *ret_held = true;
    log_info("quarantined", "rid=%s collection=%.*s outcome=%s reasons=%zu", fcall_rid(u->c),
             (int)u->col->rec.name.n, (const char *)u->col->rec.name.p,
             deid_outcome_name(v->outcome), v->n_reasons);
    return RC_OK;
}

static enum rc seal_attrs(struct upload *u, struct slice manifest_key, const struct gw_facts *f,
                          const Mikura__V1__UploadSpec *spec, struct slice *ret, struct err *reterr)
{
    Mikura__V1__ObjectInfo facts = MIKURA__V1__OBJECT_INFO__INIT;
    uint8_t *packed, *sealed;
    size_t n;
    enum rc rc;

    facts.attributes = f->attributes;
    facts.n_attributes = f->n_attributes;
    if (spec != NULL) {
        facts.user_metadata = spec->user_metadata;
        facts.n_user_metadata = spec->n_user_metadata;
    }
    if (facts.n_attributes + facts.n_user_metadata == 0) {
        *ret = (struct slice){NULL, 0};
        return RC_OK;
    }
    n = mikura__v1__object_info__get_packed_size(&facts);
    packed = arena_alloc(&u->c->arena, n);
    sealed = arena_alloc(&u->c->arena, n + DOCSEAL_EXTRA_BYTES);
    if (packed == NULL || sealed == NULL)
        return err_set(reterr, RC_NOMEM, "an object's attributes");
    (void)mikura__v1__object_info__pack(&facts, packed);
    rc = docseal_seal(&u->cs->key, DOCSEAL_ATTRIBUTES, manifest_key, (struct slice){packed, n},
                      sealed);
    *ret = (struct slice){sealed, n + DOCSEAL_EXTRA_BYTES};
    return rc == RC_OK ? RC_OK : err_set(reterr, rc, "sealing an object's attributes");
}

static enum rc seal_inline(struct upload *u, struct slice manifest_key, struct slice plain,
                           struct slice *ret, struct err *reterr)
{
    uint8_t *sealed = arena_alloc(&u->c->arena, plain.n + DOCSEAL_EXTRA_BYTES);
    enum rc rc;

    if (sealed == NULL) return err_set(reterr, RC_NOMEM, "an object's bytes");
    rc = docseal_seal(&u->cs->key, DOCSEAL_INLINE, manifest_key, plain, sealed);
    *ret = (struct slice){sealed, plain.n + DOCSEAL_EXTRA_BYTES};
    return rc == RC_OK ? RC_OK : err_set(reterr, rc, "sealing an object's bytes");
}

/* The manifest with its MAC; rec.mac is filled in. */
static enum rc manifest_encode(struct upload *u, struct slice key, struct record_manifest *m,
                               struct err *reterr)
{
    struct slice covered;
    enum rc rc = GW_ENCODE(&u->c->arena, manifest, m, &u->manifest, reterr);

    if (rc == RC_OK) rc = record_manifest_covered(u->manifest, &covered);
    if (rc == RC_OK) rc = digest_manifest(&u->cs->key, key, covered, m->mac);
    if (rc == RC_OK) memcpy((uint8_t *)(uintptr_t)u->manifest.p + covered.n, m->mac, sizeof m->mac);
    return rc;
}

/* Of a case of one object. */
static enum rc one_line_root(struct upload *u, const struct upload_action *act,
                             const struct upload_content *content, uint8_t ret_root[32])
{
    struct commit_root *root = arena_alloc(&u->c->arena, sizeof *root);
    struct commit_line line = {
        .path = act->session->path, .version = act->version, .size_bytes = content->size_bytes};
    enum rc rc;

    if (root == NULL) return RC_NOMEM;
    memcpy(line.tree_sha256, content->digests.tree, sizeof line.tree_sha256);
    commit_root_init(root);
    rc = commit_root_add(root, &line);
    return rc == RC_OK ? commit_root_final(root, ret_root) : rc;
}

enum rc upload_object_rows(struct upload *u, struct gw_object *o, struct record_manifest *m,
                           const struct upload_content *content, const Mikura__V1__UploadSpec *spec,
                           struct slice media_type, uint64_t stage, struct err *reterr)
{
    struct record_index *idx = arena_alloc(&u->c->arena, sizeof *idx);
    struct gw_facts facts = {0};
    bool held = false;
    enum rc rc;

    if (idx == NULL) return err_set(reterr, RC_NOMEM, "a manifest");
    o->manifest = *m;
    rc = gw_inspect(u->gw, u->cs, o, content_bytes(content), content->head, &u->c->arena,
                    gw_left_ms(u->c), &facts, reterr);
    if (rc == RC_OK) rc = gate(u, o, content, &facts, &held, reterr);
    if (rc == RC_OK && held && u->req.op == UPLOAD_PUBLISH) /* staged, and not committed */
        return err_set(reterr, RC_EXISTS, "it goes to quarantine");
    if (rc == RC_OK) rc = seal_attrs(u, o->manifest_key, &facts, spec, &m->sealed_attrs, reterr);
    if (rc == RC_OK) rc = manifest_encode(u, o->manifest_key, m, reterr);
    if (rc != RC_OK) return rc;
    idx->stage = held ? RECORD_STAGE_QUARANTINE : stage;
    idx->size_bytes = content->size_bytes;
    idx->stored_unix_ms = (int64_t)clock_wall_ms();
    idx->media_type =
        media_type.n > 0 ? media_type : gw_text(arena_str(&u->c->arena, "%s", facts.media_type));
    rc = object_digests_seal(u->cs, o->index_key, &content->digests, &u->c->arena,
                             &idx->sealed_digests);
    if (rc != RC_OK) return err_set(reterr, rc, "sealing an object's digests");
    index_attrs(u->col, &facts, idx);
    u->index = idx;
    u->gathered = content->digests;
    return RC_OK;
}

static enum rc do_gather(struct upload *u, const struct upload_action *act, struct upload_event *ev,
                         struct err *reterr)
{
    const struct record_session *s = act->session;
    uint8_t *keys = arena_raw(&u->c->arena, 2 * RECORD_KEY_BYTES_MAX);
    struct record_manifest *m = arena_alloc(&u->c->arena, sizeof *m);
    struct upload_content gathered = {0}, *content = u->content;
    const Mikura__V1__UploadSpec *spec = u->spec;
    Mikura__V1__UploadSpec *opened;
    struct gw_object o = {0};
    enum rc rc = RC_OK;

    if (keys == NULL || m == NULL) return err_set(reterr, RC_NOMEM, "a manifest");
    if (content == NULL) {
        content = &gathered;
        rc = gather_chunks(u, s, content, reterr);
    }
    if (rc == RC_OK && spec == NULL) {
        rc = spec_open(u, s, &opened, reterr);
        spec = opened;
    }
    if (rc == RC_OK) rc = check_digests(u, content, spec, reterr);
    if (rc != RC_OK) return rc;
    o.path = s->path;
    o.version = act->version;
    o.manifest_key = (struct slice){
        keys, record_key_object(&u->cs->anchor, RECORD_MANIFEST, s->path, act->version, keys)};
    keys += RECORD_KEY_BYTES_MAX;
    o.index_key = (struct slice){
        keys, record_key_object(&u->cs->anchor, RECORD_INDEX, s->path, act->version, keys)};
    m->size_bytes = content->size_bytes;
    if (content->is_inline) {
        rc = seal_inline(u, o.manifest_key, content->inline_plain, &m->sealed_inline, reterr);
    } else if (content->size_bytes > 0) {
        m->bodies_n = m->extents_n = 1;
        m->bodies[0] = (struct record_body){.id = s->body,
                                            .pool = s->data_pool,
                                            .chunk_bytes = s->chunk_bytes,
                                            .size_bytes = content->size_bytes,
                                            .key = s->body_key};
        m->extents[0] = (struct record_extent){.length = content->size_bytes};
    }
    if (rc != RC_OK) return rc;
    if (u->held != NULL && *u->held != NULL) o.held = &(*u->held)->put;
    rc = upload_object_rows(u, &o, m, content, spec, s->media_type, act->stage, reterr);
    if (rc != RC_OK) return rc;
    ev->index_row = u->index;
    ev->manifest = u->manifest;
    return u->req.op == UPLOAD_PUBLISH ? one_line_root(u, act, content, ev->root) : RC_OK;
}

/* ---- sum: what a commit publishes ---- */
static void count_sha256(struct upload *u, const struct object_digests *d)
{
    u->sha256_verified += d->has_sha256 && d->sha256_verified;
    u->sha256_claimed += d->has_sha256 && !d->sha256_verified;
}

struct sum {
    struct upload *u;
    uint64_t after, upto;
    struct commit_root root;
    uint8_t path[RECORD_NAME_BYTES_MAX];
    size_t path_n;
    bool path_set, path_counted;
    uint64_t count, objects, bytes;
    struct err *err;
};

/* Rows come by path, newest version first. */
static enum rc sum_each(void *arg, const Mikura__Internal__V1__Item *item)
{
    struct sum *s = arg;
    struct record_index *idx;
    struct object_digests d;
    struct commit_line line;
    uint64_t version;
    struct slice path;
    enum rc rc = record_key_parse_object(gw_bytes(item->key), &path, &version);

    if (rc != RC_OK) return rc;
    idx = malloc(sizeof *idx);
    if (idx == NULL) return RC_NOMEM;
    rc = record_index_decode(gw_bytes(item->value), idx, s->err);
    if (rc != RC_OK || idx->stage > s->upto) goto out; /* staged for the next commit */
    if (!s->path_set || path.n != s->path_n || memcmp(path.p, s->path, path.n) != 0) {
        memcpy(s->path, path.p, path.n);
        s->path_n = path.n;
        s->path_set = true;
        s->path_counted = false;
    }
    if (s->path_counted) goto out;
    s->path_counted = true; /* the newest one that will be visible */
    if (!idx->delete_marker) {
        s->objects++;
        s->bytes += idx->size_bytes;
    }
    if (idx->stage <= s->after) goto out; /* was visible before */
    rc = object_digests_open(s->u->cs, gw_bytes(item->key), idx->sealed_digests, &d, s->err);
    if (rc != RC_OK) goto out;
    line = (struct commit_line){.path = path, .version = version, .size_bytes = idx->size_bytes};
    memcpy(line.tree_sha256, d.tree, sizeof line.tree_sha256);
    rc = commit_root_add(&s->root, &line);
    count_sha256(s->u, &d);
    s->count++;
out:
    free(idx);
    return rc;
}

static enum rc do_sum(struct upload *u, const struct upload_action *act, struct upload_event *ev,
                      struct err *reterr)
{
    uint8_t *from = arena_raw(&u->c->arena, RECORD_KEY_BYTES_MAX),
            *until = arena_raw(&u->c->arena, RECORD_KEY_BYTES_MAX);
    struct sum *s = arena_alloc(&u->c->arena, sizeof *s);
    size_t n;
    enum rc rc;

    if (from == NULL || until == NULL || s == NULL) return err_set(reterr, RC_NOMEM, "a commit");
    s->u = u;
    s->after = act->stage_after;
    s->upto = act->stage_upto;
    s->err = reterr;
    u->sha256_verified = u->sha256_claimed = 0;
    commit_root_init(&s->root);
    n = record_key_path_prefix(&u->cs->anchor, RECORD_INDEX, (struct slice){NULL, 0}, from);
    memcpy(until, from, n);
    rc = route_scan(u->gw->route, u->cs->at, (struct slice){from, n},
                    (struct slice){until, record_key_after(until, n)}, 0, gw_left_ms(u->c),
                    sum_each, s, reterr);
    if (rc != RC_OK) return rc;
    ev->count = s->count;
    ev->objects = s->objects;
    ev->bytes_stored = s->bytes;
    return commit_root_final(&s->root, ev->root);
}

static enum rc do_sign(struct upload *u, const struct upload_action *act, struct upload_event *ev,
                       struct err *reterr)
{
    Mikura__V1__ReceiptBody body = MIKURA__V1__RECEIPT_BODY__INIT;
    uint8_t *packed, *signature = arena_alloc(&u->c->arena, SIGN_SIGNATURE_BYTES);
    char *key_id = arena_alloc(&u->c->arena, ID128_TEXT_BYTES);
    size_t n;
    enum rc rc;

    if (u->gw->signer == NULL) {
        return err_set(reterr, RC_UNAVAIL, "this gateway has not read the receipt key yet; retry");
    }
    if (signature == NULL || key_id == NULL) return err_set(reterr, RC_NOMEM, "a receipt");
    (void)id128_text(&signer_public(u->gw->signer)->id, key_id);
    body.format = 1;
    body.cluster_id.data = u->gw->cluster_id.b;
    body.cluster_id.len = 16;
    body.collection = gw_dup(&u->c->arena, u->col->rec.name);
    body.case_id = gw_dup(&u->c->arena, u->cs->rec.case_id);
    body.generation = act->generation;
    body.count = act->count;
    body.merkle_root.data = (uint8_t *)(uintptr_t)act->root;
    body.merkle_root.len = 32;
    body.committed_unix_ms = (int64_t)clock_wall_ms();
    if (u->req.op == UPLOAD_PUBLISH) { /* nothing was summed: it is the one that was gathered */
        u->sha256_verified = u->sha256_claimed = 0;
        count_sha256(u, &u->gathered);
    }
    body.sha256_verified = u->sha256_verified;
    body.sha256_claimed = u->sha256_claimed;
    body.key_id = key_id;
    if (body.collection == NULL || body.case_id == NULL)
        return err_set(reterr, RC_NOMEM, "a receipt");
    n = mikura__v1__receipt_body__get_packed_size(&body);
    packed = arena_alloc(&u->c->arena, n);
    if (packed == NULL) return err_set(reterr, RC_NOMEM, "a receipt");
    (void)mikura__v1__receipt_body__pack(&body, packed);
    rc = sign_message(u->gw->signer, SIGN_RECEIPT, (struct slice){packed, n}, signature);
    if (rc != RC_OK) return err_set(reterr, rc, "signing a receipt");
    ev->receipt = (struct slice){packed, n};
    ev->signature = (struct slice){signature, SIGN_SIGNATURE_BYTES};
    ev->key_id = gw_text(key_id);
    ev->committed_unix_ms = body.committed_unix_ms;
    return RC_OK;
}

enum rc upload_run(struct upload *u, struct upload_action *ret, struct err *reterr)
{
    struct upload_core *core = arena_alloc(&u->c->arena, sizeof *core);
    uint8_t *mem = arena_raw(&u->c->arena, UPLOAD_MEM_BYTES);

    u->gw = u->c->service;
    u->req.anchor = u->cs->anchor;
    if (core == NULL || mem == NULL) return err_set(reterr, RC_NOMEM, "an upload");
    upload_start(core, &u->req, mem, UPLOAD_MEM_BYTES, ret);
    while (ret->type != UPLOAD_ACT_ANSWER) {
        struct upload_item items[UPLOAD_KEYS_MAX];
        struct upload_event ev = {.msg = reterr->msg};

        reterr->msg[0] = 0;
        if (fcall_dead(u->c)) return err_set(reterr, RC_CANCELED, "the caller went away");
        switch (ret->type) {
        case UPLOAD_ACT_GET:
            ev.type = UPLOAD_EV_GOT;
            ev.rc = do_get(u, ret, items, &ev, reterr);
            break;
        case UPLOAD_ACT_NEWEST:
            ev.type = UPLOAD_EV_NEWEST;
            ev.rc = do_newest(u, ret, &ev, reterr);
            break;
        case UPLOAD_ACT_TXN:
            ev.type = UPLOAD_EV_TXN;
            u->txn_sent = true;
            ev.rc = do_txn(u, ret, &ev, reterr);
            /* the route has resent it under its key as long as the caller waits: the rows tell the
             * rest */
            if (ev.rc == RC_UNAVAIL || ev.rc == RC_DEADLINE || ev.rc == RC_IO) return ev.rc;
            break;
        case UPLOAD_ACT_MAKE:
            ev.type = UPLOAD_EV_MADE;
            ev.rc = do_make(u, &ev, reterr);
            break;
        case UPLOAD_ACT_WRITE:
            ev.type = UPLOAD_EV_WRITTEN;
            ev.rc = do_write(u, &ev, reterr);
            break;
        case UPLOAD_ACT_GATHER:
            ev.type = UPLOAD_EV_GATHERED;
            ev.rc = do_gather(u, ret, &ev, reterr);
            break;
        case UPLOAD_ACT_SUM:
            ev.type = UPLOAD_EV_SUMMED;
            ev.rc = do_sum(u, ret, &ev, reterr);
            break;
        case UPLOAD_ACT_SIGN:
            ev.type = UPLOAD_EV_SIGNED;
            ev.rc = do_sign(u, ret, &ev, reterr);
            break;
        case UPLOAD_ACT_ANSWER:
            CHECK(false);
        }
        upload_step(core, &ev, ret);
    }
    if (ret->rc == RC_OK) return RC_OK;
    if (ret->msg != NULL && ret->msg != reterr->msg && ret->msg[0] != 0)
        return err_set(reterr, ret->rc, "%s", ret->msg);
    reterr->rc = ret->rc;
    if (reterr->msg[0] == 0) return err_set(reterr, ret->rc, "%s", rc_text(ret->rc));
    return ret->rc;
}
