/* gateway/api/body.c - see body.h.
 *
 * Invariant: a chunk holds its plain_bytes (and beside_bytes) of gw->upload_bytes from
 * body_chunk_new to body_chunk_free. A writer asks for a chunk's share only while it holds none
 * that waits for more input but this one, so two uploads can't wait for each other's memory: chunks
 * under way need no more input to finish. */
#include "gateway/api/body.h"
#include "common/base/log.h"
#include "common/crypto/digest.h"
#include "gateway/ingest/upload_core.h"
#include <stdlib.h>

enum rc body_chunk_new(struct gw *gw, const struct body_spec *spec, uint32_t index,
                       uint32_t plain_bytes, struct body_chunk **ret, struct err *reterr)
{
    struct body_chunk *k = calloc(1, sizeof *k);
    uint32_t leaves = (plain_bytes + TREE_LEAF_BYTES - 1) / TREE_LEAF_BYTES + spec->packed_n;
    struct chunk_seal_out out = {0};
    enum rc rc;

    CHECK(plain_bytes > 0 && plain_bytes <= SEAL_CHUNK_BYTES_MAX);
    if (k == NULL) return err_set(reterr, RC_NOMEM, "a chunk");
    k->held_bytes = plain_bytes + spec->beside_bytes;
    fiber_sem_take(&gw->upload_bytes, k->held_bytes);
    k->gw = gw;
    k->put.ident = (struct seal_ident){.suite = SEAL_SUITE_AES256GCM,
                                       .body = spec->body,
                                       .index = index,
                                       .seal_id = id128_random(),
                                       .plain_bytes = plain_bytes};
    k->put.at.pool = spec->pool;
    k->put.owner_hash = spec->owner_hash;
    k->put.upload_id = spec->upload_id;
    k->buf = bulk_buf_new(ROUND_UP(plain_bytes, 4096u));
    k->tags = malloc((size_t)seal_blocks(plain_bytes) * SEAL_TAG_BYTES);
    k->leaves = calloc(leaves, sizeof *k->leaves);
    rc = anchor_chunk_hash(&spec->body, index, &k->put.at.hash);
    if (k->buf == NULL || k->tags == NULL || k->leaves == NULL) rc = RC_NOMEM;
    if (rc == RC_OK) {
        out.cipher = k->buf->p;
        out.tags = k->tags;
        out.leaves = k->leaves;
        out.leaves_max = leaves;
        rc = chunk_sealer_new(&spec->key, &k->put.ident, &out, &k->sealer, reterr);
    }
    if (rc != RC_OK) {
        body_chunk_free(k);
        return err_set(reterr, rc, "a chunk of %u bytes", plain_bytes);
    }
    k->put.cipher = k->buf;
    k->put.tags = (const uint8_t(*)[SEAL_TAG_BYTES])(const void *)k->tags;
    *ret = k;
    return RC_OK;
}

/* Pieces of two uploads are sealed together (chunk_seal.h): one that is alone lets the fibers that
 * are ready run first, and is sealed by the next that has one. */
struct gw_sealing {
    struct chunk_sealer_piece piece;
    bool done;
};

static enum rc seal(struct gw *gw, struct chunk_sealer *sealer, const uint8_t *p, size_t n)
{
    struct gw_sealing me = {.piece = {.sealer = sealer, .p = p, .n = n}}, *other = gw->sealing;

    if (n < SEAL_BLOCK_BYTES) return chunk_sealer_update(sealer, p, n);
    if (other != NULL) {
        gw->sealing = NULL;
        chunk_sealer_update_pair(&other->piece, &me.piece);
        other->done = true;
        return me.piece.rc;
    }
    gw->sealing = &me;
    fiber_yield();
    if (me.done) return me.piece.rc;
    gw->sealing = NULL;
    return chunk_sealer_update(sealer, p, n);
}

enum rc body_chunk_fill(struct body_chunk *k, const void *p, size_t n, struct err *reterr)
{
    enum rc rc = seal(k->gw, k->sealer, p, n);

    if (rc != RC_OK) return err_set(reterr, rc, "sealing a chunk");
    k->filled += (uint32_t)n;
    return RC_OK;
}

enum rc body_chunk_sealed(struct body_chunk *k, struct err *reterr)
{
    enum rc rc = chunk_sealer_finish(k->sealer, &k->leaves_n, k->put.plain_digest);

    return rc == RC_OK ? RC_OK : err_set(reterr, rc, "sealing a chunk");
}

enum rc body_chunk_put(struct body_chunk *k, uint64_t left_ms, struct err *reterr)
{
    return route_chunk_put(k->gw->route, &k->put, left_ms, reterr);
}

void body_chunk_free(struct body_chunk *k)
{
    if (k == NULL) return;
    fiber_sem_give(&k->gw->upload_bytes, k->held_bytes);
    chunk_sealer_free(k->sealer);
    if (k->buf != NULL) bulk_buf_unref(k->buf);
    free(k->tags);
    free(k->leaves);
    free(k);
}

/* ---- writer ---- */
void body_begin(struct body_writer *w, struct gw *gw, struct fcall *c, const struct body_spec *spec)
{
    memset(w, 0, sizeof *w);
    w->gw = gw;
    w->c = c;
    w->spec = *spec;
    tree_join_init(&w->tree);
    fiber_cond_init(&w->room);
}

static void write_chunk(void *arg)
{
    struct body_chunk *k = arg;
    struct body_writer *w = k->w;
    struct err err = {0};
    enum rc rc = body_chunk_put(k, k->left_ms, &err);

    if (rc != RC_OK && w->rc == RC_OK) {
        w->rc = rc;
        w->err = err;
    }
    body_chunk_free(k);
    w->inflight--;
    fiber_cond_broadcast(&w->room);
}

/* The filled chunk goes on its way. */
static enum rc dispatch(struct body_writer *w, struct err *reterr)
{
    struct body_chunk *k = w->filling;
    enum rc rc = body_chunk_sealed(k, reterr);

    for (uint32_t i = 0; i < k->leaves_n && rc == RC_OK; i++)
        rc = tree_join_add(&w->tree, k->leaves[i].hash);
    while (rc == RC_OK && w->inflight >= BODY_INFLIGHT_MAX)
        fiber_cond_wait(&w->room);
    if (rc == RC_OK && w->rc != RC_OK) {
        rc = w->rc;
        *reterr = w->err;
    }
    if (rc != RC_OK) return rc;
    w->filling = NULL;
    w->chunks++;
    if (w->keep && k->put.ident.plain_bytes == w->spec.size_bytes) {
        w->kept = k;
        return RC_OK;
    }
    k->w = w;
    k->left_ms = w->c == NULL ? GW_CALL_MS : gw_left_ms(w->c);
    w->inflight++;
    rc = fiber_group_spawn(&w->writing, write_chunk, k);
    if (rc != RC_OK) {
        w->inflight--;
        body_chunk_free(k);
        return err_set(reterr, rc, "too many chunks under way");
    }
    return RC_OK;
}

/* The length of chunk `chunks`, size known. */
static uint32_t next_length(const struct body_writer *w)
{
    uint64_t before = (uint64_t)w->chunks * w->spec.chunk_bytes;

    return (uint32_t)MIN(w->spec.size_bytes - before, (uint64_t)w->spec.chunk_bytes);
}

static enum rc write_known(struct body_writer *w, const uint8_t *p, size_t n, struct err *reterr)
{
    enum rc rc = RC_OK;

    if (n > w->spec.size_bytes - w->received) {
        return err_set(reterr, RC_RANGE, "more bytes than the declared %llu",
                       (unsigned long long)w->spec.size_bytes);
    }
    while (n > 0 && rc == RC_OK) {
        uint32_t take;

        if (w->filling == NULL) {
            rc = body_chunk_new(w->gw, &w->spec, w->chunks, next_length(w), &w->filling, reterr);
            if (rc != RC_OK) break;
        }
        take = (uint32_t)MIN((uint64_t)(w->filling->put.ident.plain_bytes - w->filling->filled),
                             (uint64_t)n);
        rc = body_chunk_fill(w->filling, p, take, reterr);
        p += take;
        n -= take;
        w->received += take;
        if (rc == RC_OK && w->filling->filled == w->filling->put.ident.plain_bytes)
            rc = dispatch(w, reterr);
    }
    return rc;
}

static enum rc seal_plain(struct body_writer *w, struct err *reterr)
{
    enum rc rc = body_chunk_new(w->gw, &w->spec, w->chunks, w->plain_n, &w->filling, reterr);

    if (rc == RC_OK) rc = body_chunk_fill(w->filling, w->plain, w->plain_n, reterr);
    w->plain_n = 0;
    return rc != RC_OK ? rc : dispatch(w, reterr);
}

/* A chunk's length is part of its sealing, so it is known only when the chunk is full or the end
 * came. */
static enum rc write_unknown(struct body_writer *w, const uint8_t *p, size_t n, struct err *reterr)
{
    enum rc rc = RC_OK;

    if (w->plain == NULL) {
        w->plain = malloc(w->spec.chunk_bytes);
        if (w->plain == NULL) return err_set(reterr, RC_NOMEM, "a chunk");
    }
    while (n > 0 && rc == RC_OK) {
        uint32_t take;

        if (w->plain_n == w->spec.chunk_bytes) {
            rc = seal_plain(w, reterr);
            if (rc != RC_OK) break;
        }
        take = (uint32_t)MIN((uint64_t)(w->spec.chunk_bytes - w->plain_n), (uint64_t)n);
        memcpy(w->plain + w->plain_n, p, take);
        w->plain_n += take;
        p += take;
        n -= take;
        w->received += take;
    }
    return rc;
}

enum rc body_write(struct body_writer *w, const void *p, size_t n, struct err *reterr)
{
    if (w->rc != RC_OK) {
        *reterr = w->err;
        return w->rc;
    }
    return w->spec.size_bytes == BODY_SIZE_UNKNOWN ? write_unknown(w, p, n, reterr)
                                                   : write_known(w, p, n, reterr);
}

enum rc body_finish(struct body_writer *w, uint8_t ret_tree[TREE_DIGEST_BYTES], struct err *reterr)
{
    enum rc rc = RC_OK;

    if (w->spec.size_bytes == BODY_SIZE_UNKNOWN) {
        if (w->plain_n > 0) rc = seal_plain(w, reterr);
    } else if (w->received < w->spec.size_bytes) {
        return err_set(reterr, RC_INVAL, "the stream ended after %llu of the declared %llu bytes",
                       (unsigned long long)w->received, (unsigned long long)w->spec.size_bytes);
    }
    fiber_group_wait(&w->writing);
    if (rc == RC_OK && w->rc != RC_OK) {
        rc = w->rc;
        *reterr = w->err;
    }
    return rc != RC_OK ? rc : tree_join_digest(&w->tree, w->received, ret_tree);
}

void body_end(struct body_writer *w)
{
    fiber_group_wait(&w->writing);
    body_chunk_free(w->filling);
    body_chunk_free(w->kept);
    if (w->kept != NULL) w->chunks = 0; /* it never left this process */
    w->filling = w->kept = NULL;
    if (w->plain != NULL) {
        volatile uint8_t *v = w->plain; /* plaintext does not stay in freed memory */

        for (uint32_t i = 0; i < w->spec.chunk_bytes; i++)
            v[i] = 0;
    }
    free(w->plain);
    w->plain = NULL;
    key_wipe(&w->spec.key);
}

/* ---- owners that are no objects ---- */
enum rc body_manifest(const struct gw_case *cs, const struct body_spec *spec, struct slice key,
                      struct slice sealed_inline, struct arena *a, struct slice *ret,
                      struct err *reterr)
{
    struct record_manifest *m = arena_alloc(a, sizeof *m);
    struct slice covered;
    enum rc rc = RC_OK;

    if (m == NULL) return err_set(reterr, RC_NOMEM, "a manifest");
    m->size_bytes = spec->size_bytes;
    m->sealed_inline = sealed_inline;
    if (sealed_inline.n == 0) {
        m->bodies_n = m->extents_n = 1;
        m->bodies[0] = (struct record_body){.id = spec->body,
                                            .pool = spec->pool,
                                            .chunk_bytes = spec->chunk_bytes,
                                            .size_bytes = spec->size_bytes};
        m->extents[0] = (struct record_extent){.length = spec->size_bytes};
        rc = gw_body_wrap(cs, &spec->body, &spec->key, a, &m->bodies[0].key);
    }
    if (rc == RC_OK) rc = GW_ENCODE(a, manifest, m, ret, reterr);
    if (rc == RC_OK) rc = record_manifest_covered(*ret, &covered);
    if (rc == RC_OK) rc = digest_manifest(&cs->key, key, covered, m->mac);
    if (rc != RC_OK) return err_set(reterr, rc, "a manifest: %s", rc_text(rc));
    memcpy((uint8_t *)(uintptr_t)ret->p + covered.n, m->mac, sizeof m->mac);
    return RC_OK;
}

void body_drop(struct gw *gw, const struct body_spec *spec)
{
    struct err err = {0};
    uint32_t chunks = 0;
    enum rc rc = spec->size_bytes == 0
                     ? RC_OK
                     : upload_chunk_count(spec->size_bytes, spec->chunk_bytes, &chunks);

    for (uint32_t i = 0; i < chunks && rc == RC_OK; i++) {
        struct route_at at = {.pool = spec->pool};

        rc = anchor_chunk_hash(&spec->body, i, &at.hash);
        if (rc == RC_OK) rc = route_chunk_drop(gw->route, at, &spec->body, i, GW_CALL_MS, &err);
        if (rc == RC_NOTFOUND) rc = RC_OK;
    }
    if (rc != RC_OK) {
        char id[ID128_TEXT_BYTES];

        log_warn("body_left", "body=%s chunks=%u why=%s", id128_text(&spec->body, id), chunks,
                 err.msg);
    }
}
