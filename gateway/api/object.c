/* gateway/api/object.c - finding, authenticating and reading object versions.
 *
 * What storage answers is believed only after its MAC (manifests) or tags (blocks) fitted under
 * keys of the case. A block that does not open is read again from another replica. */
#include "gateway/api/object.h"
#include "common/base/log.h"
#include "common/crypto/digest.h"
#include "gateway/ingest/name.h"
#include <stdlib.h>

/* ---- digests ---- */
enum rc object_digests_seal(const struct gw_case *cs, struct slice index_key,
                            const struct object_digests *d, struct arena *a,
                            struct slice *ret_sealed)
{
    uint8_t plain[OBJECT_DIGESTS_BYTES] = {1};
    uint8_t *out = arena_alloc(a, OBJECT_DIGESTS_BYTES + DOCSEAL_EXTRA_BYTES);

    if (out == NULL) return RC_NOMEM;
    plain[1] = (uint8_t)((d->has_sha256 ? 1 : 0) | (d->sha256_verified ? 2 : 0));
    memcpy(plain + 2, d->tree, 32);
    memcpy(plain + 34, d->sha256, 32);
    *ret_sealed = (struct slice){out, OBJECT_DIGESTS_BYTES + DOCSEAL_EXTRA_BYTES};
    return docseal_seal(&cs->key, DOCSEAL_DIGEST, index_key, (struct slice){plain, sizeof plain},
                        out);
}

enum rc object_digests_open(const struct gw_case *cs, struct slice index_key, struct slice sealed,
                            struct object_digests *ret, struct err *reterr)
{
    uint8_t plain[OBJECT_DIGESTS_BYTES];
    size_t n;
    enum rc rc;

    if (sealed.n != OBJECT_DIGESTS_BYTES + DOCSEAL_EXTRA_BYTES)
        return err_set(reterr, RC_CORRUPT, "sealed digests' length");
    rc = docseal_open(&cs->key, DOCSEAL_DIGEST, index_key, sealed, plain, &n);
    if (rc != RC_OK || n != sizeof plain || plain[0] != 1) {
        return err_set(reterr, RC_CORRUPT,
                       "an object's sealed digests do not open under its case's key");
    }
    ret->has_sha256 = (plain[1] & 1) != 0;
    ret->sha256_verified = (plain[1] & 2) != 0;
    memcpy(ret->tree, plain + 2, 32);
    memcpy(ret->sha256, plain + 34, 32);
    return RC_OK;
}

/* ---- finding ---- */
struct find {
    struct arena *a;
    const struct gw_case *cs;
    uint64_t version, found_version;
    struct slice key, value;
    struct err err;
};

static enum rc find_each(void *arg, const Mikura__Internal__V1__Item *item)
{
    struct find *f = arg;
    struct record_index *idx;
    struct slice path;
    uint64_t version;
    enum rc rc = record_key_parse_object(gw_bytes(item->key), &path, &version);

    if (rc != RC_OK) return rc;
    if (f->version != 0 && version != f->version) return RC_OK;
    idx = arena_alloc(f->a, sizeof *idx);
    if (idx == NULL) return RC_NOMEM;
    rc = record_index_decode(gw_bytes(item->value), idx, &f->err);
    if (rc != RC_OK) return rc;
    if (idx->stage > f->cs->head.visible) return RC_OK; /* not published */
    if (!idx->delete_marker) {
        f->found_version = version;
        f->key = (struct slice){arena_copy(f->a, item->key.data, item->key.len), item->key.len};
        f->value =
            (struct slice){arena_copy(f->a, item->value.data, item->value.len), item->value.len};
        if (f->key.p == NULL || f->value.p == NULL) return RC_NOMEM;
    }
    return RC_RANGE; /* the newest visible one decides */
}

enum rc object_mac_check(const struct gw_case *cs, struct slice key, struct slice value,
                         const struct record_manifest *m, const char *what, struct err *reterr)
{
    uint8_t mac[DIGEST_BYTES];
    struct slice covered;
    enum rc rc = record_manifest_covered(value, &covered);

    if (rc == RC_OK) rc = digest_manifest(&cs->key, key, covered, mac);
    if (rc == RC_OK && !digest_equal(mac, m->mac)) rc = RC_CORRUPT;
    return rc == RC_OK ? RC_OK
                       : err_set(reterr, rc,
                                 "the %s's MAC does not fit: it was changed in storage; call the "
                                 "operator",
                                 what);
}

static enum rc manifest_decode(const struct gw_case *cs, struct gw_object *o, struct slice value,
                               struct err *reterr)
{
    enum rc rc = record_manifest_decode(value, &o->manifest, reterr);

    return rc != RC_OK
               ? rc
               : object_mac_check(cs, o->manifest_key, value, &o->manifest, "manifest", reterr);
}

static enum rc manifest_read(struct gw *gw, const struct gw_case *cs, struct gw_object *o,
                             struct arena *a, uint64_t left_ms, struct err *reterr)
{
    uint8_t *key = arena_raw(a, RECORD_KEY_BYTES_MAX);
    Mikura__Internal__V1__GetResponse *got;
    enum rc rc;

    if (key == NULL) return err_set(reterr, RC_NOMEM, "a manifest's key");
    o->manifest_key = (struct slice){
        key, record_key_object(&cs->anchor, RECORD_MANIFEST, o->path, o->version, key)};
    rc = route_get(gw->route, cs->at, &o->manifest_key, 1, left_ms, a, &got, reterr);
    if (rc != RC_OK) return rc;
    if (got->items[0]->version == 0)
        return err_set(reterr, RC_NOTFOUND, "this version was deleted");
    return manifest_decode(cs, o, gw_bytes(got->items[0]->value), reterr);
}

enum rc gw_object_find(struct gw *gw, const struct gw_case *cs, const char *path, uint64_t version,
                       struct arena *a, uint64_t left_ms, struct gw_object **ret,
                       struct err *reterr)
{
    uint8_t *from = arena_raw(a, RECORD_KEY_BYTES_MAX), *until = arena_raw(a, RECORD_KEY_BYTES_MAX);
    struct find f = {.a = a, .cs = cs, .version = version};
    struct gw_object *o = arena_alloc(a, sizeof *o);
    size_t from_n, until_n;
    enum rc rc;

    if (from == NULL || until == NULL || o == NULL) return err_set(reterr, RC_NOMEM, "an object");
    rc = name_check_path(gw_text(path), reterr);
    if (rc != RC_OK) return rc;
    from_n = record_key_object(&cs->anchor, RECORD_INDEX, gw_text(path), 0, from);
    memcpy(until, from, from_n);
    until_n = record_key_after(until, from_n);
    rc = route_scan(gw->route, cs->at, (struct slice){from, from_n}, (struct slice){until, until_n},
                    0, left_ms, find_each, &f, reterr);
    if (rc != RC_OK) {
        if (f.err.rc != RC_OK) *reterr = f.err;
        return rc;
    }
    if (f.found_version == 0) {
        if (version != 0) {
            return err_set(reterr, RC_NOTFOUND, "no visible version %llu of '%s'",
                           (unsigned long long)version, path);
        }
        return err_set(reterr, RC_NOTFOUND,
                       "no object '%s' in this case (it may be uploaded, not published)", path);
    }
    o->path = gw_text(path);
    o->version = f.found_version;
    o->index_key = f.key;
    rc = record_index_decode(f.value, &o->index, reterr);
    if (rc == RC_OK)
        rc = object_digests_open(cs, o->index_key, o->index.sealed_digests, &o->digests, reterr);
    if (rc == RC_OK) rc = manifest_read(gw, cs, o, a, left_ms, reterr);
    if (rc == RC_OK) *ret = o;
    return rc;
}

/* Do these two rows decide? Newest INDEX row visible and no delete marker, MANIFEST of the same
 * version. */
static bool rows_decide(const struct gw_case *cs, struct slice path,
                        const Mikura__Internal__V1__Item *index,
                        const Mikura__Internal__V1__Item *manifest, struct gw_object *o)
{
    struct slice p;
    uint64_t version;

    if (index->version == 0 || manifest->version == 0 ||
        record_key_parse_object(gw_bytes(index->key), &p, &o->version) != RC_OK || p.n != path.n ||
        memcmp(p.p, path.p, p.n) != 0 ||
        record_key_parse_object(gw_bytes(manifest->key), &p, &version) != RC_OK || p.n != path.n ||
        memcmp(p.p, path.p, p.n) != 0 || version != o->version ||
        record_index_decode(gw_bytes(index->value), &o->index, NULL) != RC_OK)
        return false;
    return o->index.stage <= cs->head.visible && !o->index.delete_marker;
}

enum rc gw_object_open(struct gw *gw, const struct gw_collection *col, const char *case_id,
                       const char *path, uint64_t version, struct arena *a, uint64_t left_ms,
                       struct gw_case *ret_cs, struct gw_object **ret, struct err *reterr)
{
    uint8_t *keys = arena_raw(a, 4 * RECORD_KEY_BYTES_MAX);
    struct gw_object *o = arena_alloc(a, sizeof *o);
    struct slice k[4], name = gw_text(path);
    uint32_t keys_n =
        version != 0 ? 4 : 2; /* a version's rows by their keys, else the first ones */
    Mikura__Internal__V1__GetResponse *got;
    enum rc rc = name_check_path(name, reterr);

    if (rc == RC_OK) rc = gw_case_place(gw, col, case_id, ret_cs, reterr);
    if (rc != RC_OK) return rc;
    if (keys == NULL || o == NULL) return err_set(reterr, RC_NOMEM, "an object");
    for (uint32_t i = 0; i < 4; i++, keys += RECORD_KEY_BYTES_MAX) {
        static const enum record_kind kinds[] = {RECORD_HEAD, RECORD_CASE, RECORD_INDEX,
                                                 RECORD_MANIFEST};

        k[i].p = keys;
        k[i].n = i < 2 ? record_key(&ret_cs->anchor, kinds[i], keys)
                       : record_key_object(&ret_cs->anchor, kinds[i], name, version, keys);
    }
    rc = route_get_first(gw->route, ret_cs->at, k, keys_n, k + keys_n, 4 - keys_n, left_ms, a, &got,
                         reterr);
    if (rc == RC_OK)
        rc = gw_case_decode(col, case_id, got->items[0], got->items[1], ret_cs, reterr);
    if (rc != RC_OK) return rc;
    if (rows_decide(ret_cs, name, got->items[2], got->items[3], o)) {
        o->path = name;
        o->index_key = gw_bytes(got->items[2]->key);
        o->manifest_key = gw_bytes(got->items[3]->key);
        rc =
            object_digests_open(ret_cs, o->index_key, o->index.sealed_digests, &o->digests, reterr);
        if (rc == RC_OK) rc = manifest_decode(ret_cs, o, gw_bytes(got->items[3]->value), reterr);
        if (rc == RC_OK) *ret = o;
    } else {
        rc = gw_object_find(gw, ret_cs, path, version, a, left_ms, ret, reterr);
    }
    if (rc != RC_OK) gw_case_wipe(ret_cs);
    return rc;
}

static Mikura__V1__Digest *digest_message(struct arena *a, Mikura__V1__DigestKind kind,
                                          const uint8_t v[32], bool verified)
{
    Mikura__V1__Digest *d = arena_alloc(a, sizeof *d);

    if (d == NULL) return NULL;
    mikura__v1__digest__init(d);
    d->kind = kind;
    d->value.data = arena_copy(a, v, 32);
    d->value.len = 32;
    d->verified = verified;
    return d->value.data == NULL ? NULL : d;
}

bool object_digest_messages(struct arena *a, const struct object_digests *d,
                            Mikura__V1__Digest ***ret, size_t *ret_n)
{
    Mikura__V1__Digest **to = arena_alloc(a, 2 * sizeof(Mikura__V1__Digest *));
    size_t n = 0;

    if (to == NULL) return false;
    to[n++] = digest_message(a, MIKURA__V1__DIGEST_KIND__TREE_SHA256, d->tree, true);
    if (d->has_sha256) {
        to[n++] = digest_message(a, MIKURA__V1__DIGEST_KIND__SHA256, d->sha256, d->sha256_verified);
    }
    *ret = to;
    *ret_n = n;
    return to[0] != NULL && to[n - 1] != NULL;
}

enum rc object_attributes_open(const struct gw_case *cs, struct slice key, struct slice sealed,
                               struct arena *a, Mikura__V1__ObjectInfo **ret, struct err *reterr)
{
    uint8_t *plain = arena_alloc(a, sealed.n);
    size_t n;
    enum rc rc;

    if (plain == NULL) return err_set(reterr, RC_NOMEM, "an object's attributes");
    rc = docseal_open(&cs->key, DOCSEAL_ATTRIBUTES, key, sealed, plain, &n);
    if (rc != RC_OK)
        return err_set(reterr, rc, "an object's attributes do not open under its case's key");
    *ret = mikura__v1__object_info__unpack(&a->pb, n, plain);
    return *ret != NULL ? RC_OK
                        : err_set(reterr, RC_CORRUPT, "an object's attributes do not decode");
}

enum rc gw_object_info(const struct gw_case *cs, const struct gw_object *o, const char *collection,
                       const char *case_id, bool detail, struct arena *a,
                       Mikura__V1__ObjectInfo **ret, struct err *reterr)
{
    Mikura__V1__ObjectInfo *m = arena_alloc(a, sizeof *m), *facts;
    Mikura__V1__ObjectRef *ref = arena_alloc(a, sizeof *ref);
    enum rc rc;

    if (m == NULL || ref == NULL) return err_set(reterr, RC_NOMEM, "an object's description");
    mikura__v1__object_info__init(m);
    mikura__v1__object_ref__init(ref);
    ref->collection = (char *)(uintptr_t)collection;
    ref->case_id = (char *)(uintptr_t)case_id;
    ref->path = gw_dup(a, o->path);
    ref->version = o->version;
    m->object = ref;
    m->size_bytes = o->index.size_bytes;
    m->media_type = gw_dup(a, o->index.media_type);
    m->case_generation = cs->head.generation;
    m->stored_unix_ms = o->index.stored_unix_ms;
    m->retain_until_unix_ms = o->index.retain_until_unix_ms;
    m->hold = o->index.hold != 0;
    if (ref->path == NULL || m->media_type == NULL ||
        !object_digest_messages(a, &o->digests, &m->digests, &m->n_digests)) {
        return err_set(reterr, RC_NOMEM, "an object's description");
    }
    *ret = m;
    if (!detail || o->manifest.sealed_attrs.n == 0) return RC_OK;
    rc = object_attributes_open(cs, o->manifest_key, o->manifest.sealed_attrs, a, &facts, reterr);
    if (rc != RC_OK) return rc;
    m->attributes = facts->attributes;
    m->n_attributes = facts->n_attributes;
    m->user_metadata = facts->user_metadata;
    m->n_user_metadata = facts->n_user_metadata;
    return RC_OK;
}

/* ---- bytes ---- */
struct piece_read { /* one read of a replica, in a fiber of its own */
    struct gw *gw;
    const struct record_body *body;
    const struct key *key;
    uint32_t chunk_index, offset, length; /* in the chunk */
    uint64_t left_ms;
    const struct route_chunk *held; /* of gw_object */
    /* out */
    struct bulk_buf *buf;
    uint32_t skip; /* plaintext begins here in buf */
    enum rc rc;
    struct err err;
};

/* Opens the blocks at `from` (in place, or elsewhere) into rd->cipher. RC_CORRUPT: a tag did not
 * fit. */
static enum rc open_blocks(const struct piece_read *pr, const struct route_read *rd,
                           const uint8_t *from, struct err *reterr)
{
    struct seal_ident ident = {.suite = SEAL_SUITE_AES256GCM,
                               .body = rd->body,
                               .index = rd->index,
                               .seal_id = rd->seal_id,
                               .plain_bytes = rd->plain_bytes};
    struct seal *s = NULL;
    enum rc rc = seal_new(pr->key->b, &ident, &s, reterr);

    for (uint32_t i = 0; i < rd->tags_n && rc == RC_OK; i++) {
        size_t at = (size_t)i * SEAL_BLOCK_BYTES;

        rc = seal_open_block(s, rd->first_block + i, from + at, rd->tags[i], rd->cipher->p + at);
    }
    seal_free(s);
    return rc;
}

/* From the chunk that is still here. */
static enum rc held_open(const struct piece_read *pr, struct route_read *rd, struct err *reterr)
{
    const struct route_chunk *k = pr->held;
    uint32_t from = rd->first_block * SEAL_BLOCK_BYTES;

    rd->index = k->ident.index;
    rd->seal_id = k->ident.seal_id;
    rd->plain_bytes = k->ident.plain_bytes;
    rd->tags_n = rd->blocks;
    rd->tags = (uint8_t(*)[SEAL_TAG_BYTES])(uintptr_t)k->tags[rd->first_block];
    rd->cipher_n = MIN(rd->blocks * SEAL_BLOCK_BYTES, k->ident.plain_bytes - from);
    rd->cipher = bulk_buf_new(rd->blocks * SEAL_BLOCK_BYTES);
    if (rd->cipher == NULL) return err_set(reterr, RC_NOMEM, "an object's bytes");
    return open_blocks(pr, rd, k->cipher->p + from, reterr);
}

static void piece_fetch(void *arg)
{
    struct piece_read *pr = arg;
    struct route_read rd = {.body = pr->body->id,
                            .index = pr->chunk_index,
                            .first_block = pr->offset / SEAL_BLOCK_BYTES};
    uint32_t last = (pr->offset + pr->length - 1) / SEAL_BLOCK_BYTES;
    struct arena a;
    enum rc rc;

    arena_init(&a);
    rd.at.pool = pr->body->pool;
    rd.blocks = last - rd.first_block + 1;
    rc = pr->held != NULL ? held_open(pr, &rd, &pr->err)
                          : anchor_chunk_hash(&pr->body->id, pr->chunk_index, &rd.at.hash);
    while (rc == RC_OK && pr->held == NULL) {
        rc = route_chunk_read(pr->gw->route, &rd, pr->left_ms, &a, &pr->err);
        if (rc != RC_OK) break;
        rc = open_blocks(pr, &rd, rd.cipher->p, &pr->err);
        if (rc != RC_CORRUPT) break;
        route_chunk_bad(pr->gw->route, &rd); /* and again, elsewhere */
        rc = RC_OK;
    }
    pr->skip = pr->offset % SEAL_BLOCK_BYTES;
    if (rc == RC_OK && rd.cipher_n < pr->skip + pr->length) {
        rc = err_set(&pr->err, RC_CORRUPT, "a chunk is shorter than its manifest says");
    }
    if (rc == RC_OK) {
        pr->buf = rd.cipher;
    } else if (rd.cipher != NULL) {
        bulk_buf_unref(rd.cipher);
    }
    pr->rc = rc;
    arena_deinit(&a);
}

static void buf_free(void *owner)
{
    bulk_buf_unref(owner);
}

static enum rc emit_buf(struct piece_read *pr,
                        enum rc (*emit)(void *arg, const struct object_piece *piece), void *arg)
{
    enum rc rc = RC_OK;

    for (uint32_t done = 0; done < pr->length && rc == RC_OK;) {
        uint32_t n = MIN(pr->length - done, OBJECT_PIECE_BYTES);
        struct object_piece piece = {pr->buf->p + pr->skip + done, n, bulk_buf_ref(pr->buf),
                                     buf_free};

        rc = emit(arg, &piece);
        done += n;
    }
    return rc;
}

static enum rc emit_inline(const struct gw_case *cs, const struct gw_object *o, uint64_t offset,
                           uint64_t length,
                           enum rc (*emit)(void *arg, const struct object_piece *piece), void *arg,
                           struct err *reterr)
{
    struct slice sealed = o->manifest.sealed_inline;
    struct object_piece piece = {.owner_free = free};
    uint8_t *plain = malloc(sealed.n);
    size_t n;
    enum rc rc;

    if (plain == NULL) return err_set(reterr, RC_NOMEM, "an object's bytes");
    rc = docseal_open(&cs->key, DOCSEAL_INLINE, o->manifest_key, sealed, plain, &n);
    if (rc != RC_OK || n != o->manifest.size_bytes) {
        free(plain);
        return err_set(reterr, RC_CORRUPT, "the object's bytes do not open under its case's key");
    }
    piece.p = plain + offset;
    piece.n = (uint32_t)length;
    piece.owner = plain;
    return emit(arg, &piece);
}

/* Fills in the next read at *at; false at the end. keys: one per body. */
static enum rc next_read(const struct gw_object *o, const struct key *keys, uint64_t at,
                         uint64_t until, struct piece_read *pr, struct err *reterr)
{
    struct record_place pl;
    enum rc rc = record_manifest_find(&o->manifest, at, &pl);
    uint64_t n;

    if (rc != RC_OK)
        return err_set(reterr, RC_CORRUPT, "the manifest does not cover byte %llu",
                       (unsigned long long)at);
    n = MIN(MIN(pl.run_bytes, until - at), (uint64_t)OBJECT_READ_BYTES);
    pr->body = &o->manifest.bodies[pl.body_idx];
    pr->key = &keys[pl.body_idx];
    pr->chunk_index = pl.chunk_index;
    pr->offset = pl.offset_in_chunk;
    pr->length = (uint32_t)n;
    return RC_OK;
}

enum rc gw_object_bytes(struct gw *gw, const struct gw_case *cs, const struct gw_object *o,
                        uint64_t offset, uint64_t length, uint64_t left_ms,
                        enum rc (*emit)(void *arg, const struct object_piece *piece), void *arg,
                        struct err *reterr)
{
    struct key keys[RECORD_BODIES_MAX];
    struct piece_read reads[2];
    struct fiber_group groups[2] = {0};
    uint64_t at = offset, until = offset + length;
    uint32_t asked = 0, told = 0;
    enum rc rc = RC_OK;

    if (length == 0) return RC_OK;
    if (o->manifest.sealed_inline.n > 0)
        return emit_inline(cs, o, offset, length, emit, arg, reterr);
    for (uint32_t i = 0; i < o->manifest.bodies_n && rc == RC_OK; i++) {
        rc = gw_body_unwrap(cs, &o->manifest.bodies[i], &keys[i], reterr);
    }
    while (rc == RC_OK && (at < until || told < asked)) {
        struct piece_read *pr;

        while (at < until && asked - told < 2 && rc == RC_OK) {
            pr = &reads[asked % 2];
            *pr = (struct piece_read){.gw = gw, .left_ms = left_ms, .held = o->held};
            rc = next_read(o, keys, at, until, pr, reterr);
            if (rc != RC_OK) break;
            rc = fiber_group_spawn(&groups[asked % 2], piece_fetch, pr);
            if (rc != RC_OK) break;
            at += pr->length;
            asked++;
        }
        if (rc != RC_OK) break;
        pr = &reads[told % 2];
        fiber_group_wait(&groups[told % 2]);
        told++;
        if (pr->rc != RC_OK) {
            rc = pr->rc;
            *reterr = pr->err;
            break;
        }
        rc = emit_buf(pr, emit, arg);
        bulk_buf_unref(pr->buf);
    }
    while (told < asked) { /* after a failure: what is still under way */
        fiber_group_wait(&groups[told % 2]);
        if (reads[told % 2].rc == RC_OK) bulk_buf_unref(reads[told % 2].buf);
        told++;
    }
    for (uint32_t i = 0; i < o->manifest.bodies_n; i++)
        key_wipe(&keys[i]);
    return rc;
}

/* ---- listing ---- */
struct walk_objects {
    const struct gw_case *cs;
    enum rc (*each)(void *arg, const struct gw_object_line *line);
    void *arg;
    uint8_t last[RECORD_NAME_BYTES_MAX]; /* path that was decided */
    size_t last_n;
    bool last_set;
    struct gw_object_line line;
    struct err err;
};

static enum rc walk_each(void *arg, const Mikura__Internal__V1__Item *item)
{
    struct walk_objects *w = arg;
    struct slice path;
    enum rc rc = record_key_parse_object(gw_bytes(item->key), &path, &w->line.version);

    if (rc != RC_OK) return rc;
    if (w->last_set && path.n == w->last_n && memcmp(path.p, w->last, path.n) == 0)
        return RC_OK; /* older */
    rc = record_index_decode(gw_bytes(item->value), &w->line.index, &w->err);
    if (rc != RC_OK) return rc;
    if (w->line.index.stage > w->cs->head.visible) return RC_OK;
    memcpy(w->last, path.p, path.n);
    w->last_n = path.n;
    w->last_set = true;
    if (w->line.index.delete_marker) return RC_OK;
    w->line.path = path;
    w->line.key = gw_bytes(item->key);
    return w->each(w->arg, &w->line);
}

enum rc gw_object_each(struct gw *gw, const struct gw_case *cs, struct slice prefix,
                       struct slice after, uint64_t left_ms,
                       enum rc (*each)(void *arg, const struct gw_object_line *line), void *arg,
                       struct err *reterr)
{
    uint8_t from[RECORD_KEY_BYTES_MAX], until[RECORD_KEY_BYTES_MAX];
    struct walk_objects *w = calloc(1, sizeof *w);
    size_t from_n, until_n;
    enum rc rc;

    if (w == NULL) return err_set(reterr, RC_NOMEM, "a listing");
    w->cs = cs;
    w->each = each;
    w->arg = arg;
    until_n = record_key_path_prefix(&cs->anchor, RECORD_INDEX, prefix, until);
    memcpy(from, until, until_n);
    from_n = until_n;
    until_n = record_key_after(until, until_n);
    if (after.n > 0) {
        from_n = record_key_object(&cs->anchor, RECORD_INDEX, after, 0, from);
        from_n = record_key_after(from, from_n);
    }
    rc = route_scan(gw->route, cs->at, (struct slice){from, from_n}, (struct slice){until, until_n},
                    0, left_ms, walk_each, w, reterr);
    if (rc != RC_OK && w->err.rc != RC_OK) *reterr = w->err;
    free(w);
    return rc;
}

/* ---- quarantine ---- */
enum rc gw_object_held(struct gw *gw, const struct gw_case *cs, const char *path, uint64_t version,
                       struct arena *a, uint64_t left_ms, struct gw_object **ret,
                       uint64_t *ret_row_version, struct err *reterr)
{
    uint8_t *key = arena_alloc(a, RECORD_KEY_BYTES_MAX);
    struct gw_object *o = arena_alloc(a, sizeof *o);
    Mikura__Internal__V1__GetResponse *got;
    enum rc rc;

    if (key == NULL || o == NULL) return err_set(reterr, RC_NOMEM, "an object");
    o->path = gw_text(path);
    o->version = version;
    o->index_key =
        (struct slice){key, record_key_object(&cs->anchor, RECORD_INDEX, o->path, version, key)};
    rc = route_get(gw->route, cs->at, &o->index_key, 1, left_ms, a, &got, reterr);
    if (rc == RC_OK && got->items[0]->version != 0)
        rc = record_index_decode(gw_bytes(got->items[0]->value), &o->index, reterr);
    if (rc != RC_OK) return rc;
    if (got->items[0]->version == 0 || o->index.stage != RECORD_STAGE_QUARANTINE)
        return err_set(reterr, RC_NOTFOUND, "no such object and version is in quarantine");
    rc = object_digests_open(cs, o->index_key, o->index.sealed_digests, &o->digests, reterr);
    if (rc == RC_OK) rc = manifest_read(gw, cs, o, a, left_ms, reterr);
    *ret_row_version = got->items[0]->version;
    *ret = o;
    return rc;
}
