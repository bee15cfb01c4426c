/* computed/fetch/fetch.c - ranges of an object from sealed blocks.
 *
 * Invariant: a window holds only bytes whose tags fitted under the task's key. Failure modes: a
 * node that is away, stale, refuses, or answers with another shape or a bad tag is passed over for
 * this round; a seal id may differ from replica to replica of an unfinished repair, so each answer
 * is opened under its own. */
#include "computed/fetch/fetch.h"
#include "common/base/log.h"
#include "common/crypto/seal.h"
#include "computed/fetch/fetch_priv.h"
#include "proto/mikura/internal/v1/bulk.pb-c.h"
#include <stdlib.h>
#include <string.h>

typedef Mikura__Internal__V1__BulkRequest Request;
typedef Mikura__Internal__V1__BulkResponse Response;
typedef Mikura__Internal__V1__Extent Extent;

#define BLOCKS_MIN 4u
#define BLOCKS_MAX (FETCH_WINDOW_BYTES / SEAL_BLOCK_BYTES)

struct window {      /* plaintext of consecutive blocks of one extent's chunk */
    uint64_t off;    /* in the object */
    uint32_t n;      /* 0: empty */
    uint64_t used;   /* for the least recently used */
    uint32_t blocks; /* how many were asked for */
    uint8_t *p;      /* FETCH_WINDOW_BYTES, from its first use */
    uint32_t skip;   /* bytes of the first block before off */
};
struct fetch_input {
    struct fetch *f;
    const Mikura__Internal__V1__Input *in;
    struct slice capability;
    uint64_t clock;
    struct window window[FETCH_WINDOWS];
};

static const uint8_t *key_of(const Mikura__Internal__V1__Input *in, const ProtobufCBinaryData *body)
{
    for (size_t i = 0; i < in->n_keys; i++) {
        const Mikura__Internal__V1__BodyKey *k = in->keys[i];

        if (k->body.len == 16 && k->key.len == 32 && memcmp(k->body.data, body->data, 16) == 0)
            return k->key.data;
    }
    return NULL;
}

enum rc fetch_input_new(struct fetch *f, const Mikura__Internal__V1__Input *in,
                        struct slice capability, struct fetch_input **ret_fi, struct err *reterr)
{
    struct fetch_input *fi;
    uint64_t at = 0;

    if (in->inline_plain.len > 0 || in->size_bytes == 0) {
        if (in->inline_plain.len != in->size_bytes)
            return err_set(reterr, RC_INVAL, "%zu bytes inline of an object of %llu",
                           in->inline_plain.len, (unsigned long long)in->size_bytes);
    } else {
        for (size_t i = 0; i < in->n_extents; i++) {
            const Extent *x = in->extents[i];

            if (x->object_offset != at || x->length == 0 || x->length > SEAL_CHUNK_BYTES_MAX ||
                x->offset_in_chunk > SEAL_CHUNK_BYTES_MAX - x->length || x->body.len != 16)
                return err_set(reterr, RC_INVAL, "extent %zu does not fit", i);
            if (key_of(in, &x->body) == NULL)
                return err_set(reterr, RC_INVAL, "extent %zu has no key", i);
            at += x->length;
        }
        if (at != in->size_bytes)
            return err_set(reterr, RC_INVAL, "extents of %llu bytes, the object has %llu",
                           (unsigned long long)at, (unsigned long long)in->size_bytes);
    }
    fi = calloc(1, sizeof(*fi));
    if (fi == NULL) return err_set(reterr, RC_NOMEM, "input");
    fi->f = f;
    fi->in = in;
    fi->capability = capability;
    *ret_fi = fi;
    return RC_OK;
}

void fetch_input_free(struct fetch_input *fi)
{
    if (fi == NULL) return;
    for (uint32_t i = 0; i < FETCH_WINDOWS; i++) {
        if (fi->window[i].p != NULL) memset(fi->window[i].p, 0, FETCH_WINDOW_BYTES);
        free(fi->window[i].p);
    }
    free(fi);
}

/* ---- one request ---- */
struct asked {
    struct bulk_out out;
    struct fiber_event done;
    enum rc rc;
    Response *answer;
    struct bulk_buf *payload;
    uint32_t payload_n;
};

static void asked_cb(struct bulk_out *o, enum rc rc, struct slice header, struct bulk_buf *payload,
                     uint32_t payload_n)
{
    struct asked *a = o->data;

    a->rc = rc;
    if (rc == RC_OK) {
        a->answer = mikura__internal__v1__bulk_response__unpack(NULL, header.n, header.p);
        if (a->answer == NULL)
            a->rc = err_set(&o->err, RC_CORRUPT, "a bulk answer does not decode");
        if (payload != NULL) a->payload = bulk_buf_ref(payload);
        a->payload_n = payload_n;
    }
    fiber_event_set(&a->done);
}

static enum rc ask(struct bulk_conn *conn, const Request *req, struct asked *a, struct err *reterr)
{
    struct bulk_send send = {.timeout_ms = FETCH_ANSWER_MS};
    uint8_t *header;
    enum rc rc;

    send.header.n = mikura__internal__v1__bulk_request__get_packed_size(req);
    header = malloc(send.header.n);
    if (header == NULL) return err_set(reterr, RC_NOMEM, "bulk header");
    (void)mikura__internal__v1__bulk_request__pack(req, header);
    send.header.p = header;
    a->out.data = a;
    rc = bulk_out_start(conn, &a->out, &send, asked_cb);
    free(header);
    if (rc != RC_OK) return err_set(reterr, rc, "%s", rc_text(rc));
    fiber_event_wait(&a->done);
    if (a->rc != RC_OK) return err_set(reterr, a->rc, "%s", a->out.err.msg);
    if (a->answer->rc == RC_OK) return RC_OK;
    rc = a->answer->rc > 0 && a->answer->rc < RC_N ? (enum rc)a->answer->rc : RC_INTERNAL;
    return err_set(reterr, rc, "%.300s", a->answer->message);
}

/* The answer's blocks, opened, at out; *ret_n plaintext bytes. */
static enum rc unseal(const struct asked *a, const Extent *x, const uint8_t *key, uint32_t first,
                      uint32_t blocks, uint8_t *out, uint32_t *ret_n, struct err *reterr)
{
    const Mikura__Internal__V1__ChunkData *d =
        a->answer->kind_case == MIKURA__INTERNAL__V1__BULK_RESPONSE__KIND_DATA ? a->answer->data
                                                                               : NULL;
    struct seal_ident ident = {.suite = SEAL_SUITE_AES256GCM, .index = x->chunk_index};
    struct seal *s = NULL;
    uint32_t all, want;
    enum rc rc;

    if (d == NULL || d->cipher_suite != SEAL_SUITE_AES256GCM ||
        d->block_bytes != SEAL_BLOCK_BYTES || d->plain_bytes == 0 ||
        d->plain_bytes > SEAL_CHUNK_BYTES_MAX || a->payload == NULL ||
        !id128_from_bytes(d->seal_id.data, d->seal_id.len, &ident.seal_id) ||
        !id128_from_bytes(x->body.data, x->body.len, &ident.body))
        return err_set(reterr, RC_CORRUPT, "an answer of another form");
    ident.plain_bytes = d->plain_bytes;
    all = seal_blocks(d->plain_bytes);
    if (first >= all || blocks > all - first)
        return err_set(reterr, RC_CORRUPT, "the chunk has %u blocks, the manifest knows %u", all,
                       first + blocks);
    want = (uint32_t)MIN((uint64_t)blocks * SEAL_BLOCK_BYTES,
                         (uint64_t)d->plain_bytes - (uint64_t)first * SEAL_BLOCK_BYTES);
    if (d->tags.len != (size_t)blocks * SEAL_TAG_BYTES || a->payload_n != want)
        return err_set(reterr, RC_CORRUPT, "%u blocks asked for, another number came", blocks);
    rc = seal_new(key, &ident, &s, reterr);
    for (uint32_t i = 0; rc == RC_OK && i < blocks; i++) {
        size_t at = (size_t)i * SEAL_BLOCK_BYTES;

        rc = seal_open_block(s, first + i, a->payload->p + at, d->tags.data + i * SEAL_TAG_BYTES,
                             out + at);
        if (rc != RC_OK)
            (void)err_set(reterr, rc, "block %u of chunk %u does not open", first + i,
                          x->chunk_index);
    }
    seal_free(s);
    if (rc == RC_OK) *ret_n = want;
    return rc;
}

static enum rc read_from(struct fetch_input *fi, const char *address, const Extent *x,
                         uint32_t first, uint32_t blocks, uint8_t *out, uint32_t *ret_n,
                         struct err *reterr)
{
    Request req = MIKURA__INTERNAL__V1__BULK_REQUEST__INIT;
    Mikura__Internal__V1__ChunkRead q = MIKURA__INTERNAL__V1__CHUNK_READ__INIT;
    Mikura__Internal__V1__GroupRef group = MIKURA__INTERNAL__V1__GROUP_REF__INIT;
    Mikura__Internal__V1__ChunkRef ref = MIKURA__INTERNAL__V1__CHUNK_REF__INIT;
    struct asked a = {0};
    struct bulk_conn *conn;
    enum rc rc = fetch_node_conn(fi->f, address, &conn, reterr);

    if (rc != RC_OK) return rc;
    group.pool = x->pool;
    group.placement_hash = x->placement_hash;
    ref.body = x->body;
    ref.index = x->chunk_index;
    q.group = &group;
    q.chunk = &ref;
    q.first_block = first;
    q.blocks = blocks;
    q.capability.data = (uint8_t *)(uintptr_t)fi->capability.p;
    q.capability.len = fi->capability.n;
    req.kind_case = MIKURA__INTERNAL__V1__BULK_REQUEST__KIND_READ;
    req.read = &q;
    rc = ask(conn, &req, &a, reterr);
    if (rc == RC_OK)
        rc = unseal(&a, x, key_of(fi->in, &x->body), first, blocks, out, ret_n, reterr);
    if (a.answer != NULL) mikura__internal__v1__bulk_response__free_unpacked(a.answer, NULL);
    if (a.payload != NULL) bulk_buf_unref(a.payload);
    return rc;
}

/* Any replica, nearest first; several rounds, since a node may just be starting again. */
static enum rc read_blocks(struct fetch_input *fi, const Extent *x, uint32_t first, uint32_t blocks,
                           uint8_t *out, uint32_t *ret_n, struct err *reterr)
{
    struct err e = {0};
    enum rc rc = err_set(&e, RC_UNAVAIL, "no replica of chunk %u is known", x->chunk_index);
    uint64_t pause_ms = FETCH_PAUSE_MS;

    for (uint32_t round = 0; round < FETCH_ROUNDS && x->n_replicas > 0; round++) {
        if (round > 0) {
            fiber_sleep_ms(pause_ms);
            pause_ms *= 2;
        }
        for (size_t i = 0; i < x->n_replicas; i++) {
            rc = read_from(fi, x->replicas[i], x, first, blocks, out, ret_n, &e);
            if (rc == RC_OK) return RC_OK;
            (void)err_prefix(&e, "%.128s", x->replicas[i]);
            if (rc == RC_CORRUPT)
                log_error("chunk_bad", "chunk=%u why=%s: reading another replica", x->chunk_index,
                          e.msg);
            else
                log_info("chunk_read_elsewhere", "rc=%s why=%s", rc_name(rc), e.msg);
        }
    }
    *reterr = e;
    return rc;
}

/* ---- windows ---- */
static struct window *window_with(struct fetch_input *fi, uint64_t off)
{
    for (uint32_t i = 0; i < FETCH_WINDOWS; i++) {
        struct window *w = &fi->window[i];

        if (w->n > 0 && off >= w->off && off - w->off < w->n) return w;
    }
    return NULL;
}

static enum rc window_fill(struct fetch_input *fi, uint64_t off, struct window **ret_w,
                           struct err *reterr)
{
    struct window *w = &fi->window[0];
    uint32_t blocks = BLOCKS_MIN, first, last, n = 0, in_chunk, skip;
    const Extent *x = NULL;
    enum rc rc;

    for (size_t i = 0; i < fi->in->n_extents && x == NULL; i++) {
        const Extent *e = fi->in->extents[i];

        if (off >= e->object_offset && off - e->object_offset < e->length) x = e;
    }
    CHECK(x != NULL); /* fetch_input_new: extents cover the object */
    for (uint32_t i = 0; i < FETCH_WINDOWS; i++) {
        const struct window *o = &fi->window[i];

        if (o->n > 0 && o->off + o->n == off) blocks = MIN(o->blocks * 2, BLOCKS_MAX);
        if (o->used < w->used) w = &fi->window[i];
    }
    if (w->p == NULL) w->p = malloc(FETCH_WINDOW_BYTES);
    if (w->p == NULL) return err_set(reterr, RC_NOMEM, "a window of %u bytes", FETCH_WINDOW_BYTES);
    in_chunk = x->offset_in_chunk + (uint32_t)(off - x->object_offset);
    first = in_chunk / SEAL_BLOCK_BYTES;
    last = (uint32_t)((x->offset_in_chunk + x->length - 1) / SEAL_BLOCK_BYTES);
    blocks = MIN(blocks, last - first + 1);
    w->n = 0;
    rc = read_blocks(fi, x, first, blocks, w->p, &n, reterr);
    if (rc != RC_OK) return rc;
    skip = 0;
    if (first * SEAL_BLOCK_BYTES < x->offset_in_chunk)
        skip = x->offset_in_chunk - first * SEAL_BLOCK_BYTES; /* another object's bytes */
    w->skip = skip;
    w->off = x->object_offset + (first * SEAL_BLOCK_BYTES + skip - x->offset_in_chunk);
    if (n <= skip || off - w->off >= n - skip)
        return err_set(reterr, RC_CORRUPT, "chunk %u is shorter than the manifest says",
                       x->chunk_index);
    w->n = (uint32_t)MIN((uint64_t)(n - skip), x->object_offset + x->length - w->off);
    w->blocks = blocks;
    *ret_w = w;
    return RC_OK;
}

enum rc fetch_input_read(struct fetch_input *fi, uint64_t off, uint8_t *out, uint32_t n,
                         struct err *reterr)
{
    const uint64_t size = fi->in->size_bytes;

    if (off > size || n > size - off)
        return err_set(reterr, RC_RANGE, "%u bytes at %llu of an object of %llu", n,
                       (unsigned long long)off, (unsigned long long)size);
    if (fi->in->inline_plain.len > 0) {
        memcpy(out, fi->in->inline_plain.data + off, n);
        return RC_OK;
    }
    while (n > 0) {
        struct window *w = window_with(fi, off);
        uint32_t k;

        if (w == NULL) {
            enum rc rc = window_fill(fi, off, &w, reterr);

            if (rc != RC_OK) return rc;
        }
        w->used = ++fi->clock;
        k = (uint32_t)MIN((uint64_t)n, w->off + w->n - off);
        memcpy(out, w->p + w->skip + (off - w->off), k);
        out += k;
        off += k;
        n -= k;
    }
    return RC_OK;
}
