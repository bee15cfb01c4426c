/* gateway/route/route_chunk.c - chunk bytes over the bulk wire: written along the replicas, read
 * from one.
 *
 * A write's chain is the in-sync set, the primary first. A lost connection leaves an unknown
 * outcome; the whole write is sent again, which is harmless: the same seal id is the same bytes. */
#include "common/base/le.h"
#include "common/base/log.h"
#include "gateway/route/route_priv.h"
#include "proto/mikura/internal/v1/bulk.pb-c.h"
#include <stdlib.h>
#include <string.h>

typedef Mikura__Internal__V1__BulkRequest Request;
typedef Mikura__Internal__V1__BulkResponse Response;

/* A bulk request in a fiber. */
struct asked {
    struct bulk_out out;
    struct fiber_event done;
    enum rc rc;
    Response *answer; /* unpacked on the heap */
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
            a->rc = err_set(&o->err, RC_INTERNAL, "a bulk answer does not decode");
        if (payload != NULL) a->payload = bulk_buf_ref(payload);
        a->payload_n = payload_n;
    }
    fiber_event_set(&a->done);
}

static void asked_clear(struct asked *a)
{
    if (a->answer != NULL) mikura__internal__v1__bulk_response__free_unpacked(a->answer, NULL);
    if (a->payload != NULL) bulk_buf_unref(a->payload);
    a->answer = NULL;
    a->payload = NULL;
}

/* The answer's own rc, or the wire's. stale: another epoch or no member: look at the map again. */
static enum rc ask(struct route_node *n, uint64_t left_ms, const Request *req,
                   struct bulk_buf *payload, uint32_t payload_n, struct asked *a,
                   struct funary_info *info, struct err *reterr)
{
    struct bulk_conn *conn;
    struct bulk_send send = {.payload = payload, .n = payload_n, .ready = payload_n};
    uint8_t *header;
    enum rc rc;

    memset(a, 0, sizeof *a);
    memset(info, 0, sizeof *info);
    rc = route_bulk(n, left_ms, &conn, reterr);
    if (rc != RC_OK) return rc;
    send.header.n = mikura__internal__v1__bulk_request__get_packed_size(req);
    header = malloc(send.header.n);
    if (header == NULL) return err_set(reterr, RC_NOMEM, "a bulk header");
    (void)mikura__internal__v1__bulk_request__pack(req, header);
    send.header.p = header;
    send.timeout_ms = (uint32_t)MIN(left_ms, 60000);
    a->out.data = a;
    rc = bulk_out_start(conn, &a->out, &send, asked_cb);
    free(header);
    if (rc != RC_OK)
        return err_set(reterr, rc == RC_BUSY ? RC_UNAVAIL : rc, "storaged '%s': %s", n->name,
                       rc_text(rc));
    fiber_event_wait(&a->done);
    if (a->rc != RC_OK) {
        rc = err_set(reterr, a->rc, "storaged '%s': %s", n->name, a->out.err.msg);
    } else if (a->answer->rc != RC_OK) {
        rc = a->answer->rc > 0 && a->answer->rc < RC_N ? (enum rc)a->answer->rc : RC_INTERNAL;
        if (rc == RC_STALE) info->epoch[0] = '?';
        (void)err_set(reterr, rc, "storaged '%s': %s", n->name, a->answer->message);
    }
    return rc;
}

static void chunk_ref(Mikura__Internal__V1__ChunkRef *ref, struct id128 *body, uint32_t index,
                      struct id128 *seal_id)
{
    mikura__internal__v1__chunk_ref__init(ref);
    ref->body.data = body->b;
    ref->body.len = 16;
    ref->index = index;
    if (seal_id != NULL) {
        ref->seal_id.data = seal_id->b;
        ref->seal_id.len = 16;
    }
}

/* The answer, into the arena; out of memory: it is asked for again, and is the same. */
static void take_txn(const Mikura__Internal__V1__TxnResponse *answer, struct route_with *with)
{
    size_t n = mikura__internal__v1__txn_response__get_packed_size(answer);
    uint8_t *packed = arena_alloc(with->arena, n);

    if (packed == NULL) return;
    (void)mikura__internal__v1__txn_response__pack(answer, packed);
    with->answer = mikura__internal__v1__txn_response__unpack(&with->arena->pb, n, packed);
}

static enum rc take_added(const struct asked *a, struct route_chunk *c, bool *ret_added,
                          struct err *reterr)
{
    const Mikura__Internal__V1__ChunkWritten *w =
        a->answer->kind_case == MIKURA__INTERNAL__V1__BULK_RESPONSE__KIND_WRITTEN
            ? a->answer->written
            : NULL;
    enum rc rc;

    if (w == NULL || !w->added) return RC_OK;
    rc = w->add_rc >= 0 && w->add_rc < RC_N ? (enum rc)w->add_rc : RC_INTERNAL;
    if (rc == RC_OK && !id128_from_bytes(w->seal_id.data, w->seal_id.len, &c->won)) return RC_OK;
    *ret_added = true;
    if (rc == RC_OK && w->txn != NULL && c->with != NULL) take_txn(w->txn, c->with);
    return rc == RC_OK ? RC_OK : err_set(reterr, rc, "%s", a->answer->message);
}

/* *ret_added: the chunk exists too (or *ret_add_rc says why it doesn't); else ChunkAdd is to come.
 */
static enum rc write_bytes(struct route *r, struct route_chunk *c,
                           Mikura__Internal__V1__TxnRequest *txn, uint8_t mac_key[32],
                           uint8_t mac[16], struct route_try *t, bool *ret_added,
                           enum rc *ret_add_rc, struct err *reterr)
{
    Request req = MIKURA__INTERNAL__V1__BULK_REQUEST__INIT;
    Mikura__Internal__V1__ChunkWrite w = MIKURA__INTERNAL__V1__CHUNK_WRITE__INIT;
    Mikura__Internal__V1__GroupRef group;
    Mikura__Internal__V1__ChunkRef ref;
    struct funary_info info;
    struct asked a;
    struct err err = {0};
    enum rc rc;

    chunk_ref(&ref, &c->ident.body, c->ident.index, &c->ident.seal_id);
    w.group = &group;
    w.chunk = &ref;
    w.plain_bytes = c->ident.plain_bytes;
    w.block_bytes = SEAL_BLOCK_BYTES;
    w.cipher_suite = c->ident.suite;
    w.tags.data = (uint8_t *)(uintptr_t)c->tags;
    w.tags.len = (size_t)seal_blocks(c->ident.plain_bytes) * SEAL_TAG_BYTES;
    w.plain_digest.data = c->plain_digest;
    w.plain_digest.len = 32;
    w.owner_hash = c->owner_hash;
    w.upload_id.data = c->upload_id.b;
    w.upload_id.len = 16;
    w.mac_key.data = mac_key;
    w.mac_key.len = 32;
    w.mac.data = mac;
    w.mac.len = 16;
    w.add = !c->bytes_only;
    w.txn = txn;
    *ret_added = false;
    req.kind_case = MIKURA__INTERNAL__V1__BULK_REQUEST__KIND_WRITE;
    req.write = &w;
    for (;;) {
        const struct cluster_group *g;
        struct route_node *n;
        char *chain[ROUTE_REPLICAS_MAX];

        rc = route_primary(t, &n, &g, &err);
        if (rc != RC_OK) break;
        route_group_ref(g, t->at.hash, &group);
        if (txn != NULL) route_group_ref(g, c->with->at.hash, txn->group);
        w.n_chain = 0;
        w.chain = chain;
        for (uint32_t i = 0; i < g->in_sync_n; i++) {
            const struct cluster_node *cn = cluster_node_of_disk(r->conf.cluster, &g->in_sync[i]);

            if (id128_eq(&g->in_sync[i], &g->primary)) continue;
            /* a member that is away is left to the group: it will be removed, or pull the bytes */
            if (cn == NULL || !cn->alive) continue;
            chain[w.n_chain++] = (char *)(uintptr_t)cn->host_address;
        }
        rc = ask(n, MAX(route_left_ms(t), 1), &req, c->cipher, c->ident.plain_bytes, &a, &info,
                 &err);
        if (rc == RC_OK) *ret_add_rc = take_added(&a, c, ret_added, reterr);
        asked_clear(&a);
        if (rc == RC_OK || !route_again(t, rc, &info)) break;
    }
    if (rc != RC_OK && reterr != NULL) *reterr = err;
    return rc;
}

static enum rc add_alone(struct route *r, struct route_chunk *c, uint64_t left_ms,
                         struct err *reterr)
{
    Mikura__Internal__V1__ChunkAddRequest add = MIKURA__INTERNAL__V1__CHUNK_ADD_REQUEST__INIT;
    Mikura__Internal__V1__ChunkRef ref;

    chunk_ref(&ref, &c->ident.body, c->ident.index, &c->ident.seal_id);
    add.chunk = &ref;
    add.plain_bytes = c->ident.plain_bytes;
    add.plain_digest.data = c->plain_digest;
    add.plain_digest.len = 32;
    add.owner_hash = c->owner_hash;
    add.upload_id.data = c->upload_id.b;
    add.upload_id.len = 16;
    return route_chunk_add(r, c->at, &add, left_ms, &c->won, reterr);
}

bool route_one_group(const struct route *r, struct route_at a, struct route_at b)
{
    const struct cluster_group *g = cluster_group_of(r->conf.cluster, a.pool, a.hash);

    return g != NULL && g == cluster_group_of(r->conf.cluster, b.pool, b.hash);
}

/* What write_bytes sent along is kept under its key until the transaction has its outcome. */
static enum rc put_with(struct route *r, struct route_chunk *c, struct route_try *t,
                        uint8_t mac_key[32], uint8_t mac[16], struct err *reterr)
{
    Mikura__Internal__V1__GroupRef group = MIKURA__INTERNAL__V1__GROUP_REF__INIT;
    Mikura__Internal__V1__RequestKey key;
    struct route_with *with = c->with;
    const struct cluster_group *g = cluster_group_of(r->conf.cluster, c->at.pool, c->at.hash);
    struct route_group *rg = NULL;
    bool one = route_one_group(r, c->at, with->at), added = false;
    enum rc rc = RC_OK, add_rc = RC_OK;

    with->answer = NULL;
    route_key_init(r, &key);
    with->req->request = &key;
    with->req->group = &group;
    if (one) rc = route_key_take(r, g, &key, &rg, reterr);
    if (rc == RC_OK)
        rc = write_bytes(r, c, one ? with->req : NULL, mac_key, mac, t, &added, &add_rc, reterr);
    if (rc == RC_OK) rc = added ? add_rc : add_alone(r, c, MAX(route_left_ms(t), 1), reterr);
    if (rc == RC_OK && with->answer == NULL) {
        rc = route_txn_keyed(r, with->at, with->req, MAX(route_left_ms(t), 1), with->arena,
                             &with->answer, reterr);
    }
    route_key_give(rg);
    return rc;
}

enum rc route_chunk_put(struct route *r, struct route_chunk *c, uint64_t left_ms,
                        struct err *reterr)
{
    uint8_t mac_key[32], mac[16];
    struct route_try t;
    bool added;
    enum rc rc, add_rc = RC_OK;

    random_bytes(mac_key, sizeof mac_key);
    rc = bulk_gmac(mac_key, c->cipher->p, c->ident.plain_bytes, mac);
    if (rc != RC_OK) return err_set(reterr, rc, "GMAC of a chunk");
    route_try_init(&t, r, c->at, left_ms);
    if (c->with != NULL) return put_with(r, c, &t, mac_key, mac, reterr);
    rc = write_bytes(r, c, NULL, mac_key, mac, &t, &added, &add_rc, reterr);
    if (rc != RC_OK || added || c->bytes_only) return rc != RC_OK ? rc : add_rc;
    return add_alone(r, c, MAX(route_left_ms(&t), 1), reterr);
}

/* ---- reads ---- */
static enum rc read_from(struct route_node *n, struct route_read *rd, const struct cluster_group *g,
                         struct route_try *t, struct arena *arena, struct funary_info *info,
                         struct err *reterr)
{
    Request req = MIKURA__INTERNAL__V1__BULK_REQUEST__INIT;
    Mikura__Internal__V1__ChunkRead q = MIKURA__INTERNAL__V1__CHUNK_READ__INIT;
    Mikura__Internal__V1__GroupRef group;
    Mikura__Internal__V1__ChunkRef ref;
    const Mikura__Internal__V1__ChunkData *d;
    struct asked a;
    uint32_t all, blocks;
    enum rc rc;

    route_group_ref(g, rd->at.hash, &group);
    chunk_ref(&ref, &rd->body, rd->index, NULL);
    q.group = &group;
    q.chunk = &ref;
    q.first_block = rd->first_block;
    q.blocks = rd->blocks;
    req.kind_case = MIKURA__INTERNAL__V1__BULK_REQUEST__KIND_READ;
    req.read = &q;
    rc = ask(n, MAX(MIN(route_left_ms(t), ROUTE_ATTEMPT_MS * 2), 1), &req, NULL, 0, &a, info,
             reterr);
    if (rc != RC_OK) goto out;
    d = a.answer->kind_case == MIKURA__INTERNAL__V1__BULK_RESPONSE__KIND_DATA ? a.answer->data
                                                                              : NULL;
    all = d == NULL ? 0 : seal_blocks(d->plain_bytes);
    blocks = d == NULL ? 0 : (uint32_t)(d->tags.len / SEAL_TAG_BYTES);
    if (d == NULL || d->block_bytes != SEAL_BLOCK_BYTES ||
        d->cipher_suite != SEAL_SUITE_AES256GCM || d->plain_bytes == 0 ||
        d->plain_bytes > SEAL_CHUNK_BYTES_MAX || d->tags.len % SEAL_TAG_BYTES != 0 || blocks == 0 ||
        rd->first_block >= all || blocks > all - rd->first_block ||
        (rd->blocks != 0 && blocks > rd->blocks) || a.payload == NULL ||
        a.payload_n !=
            MIN((uint64_t)blocks * SEAL_BLOCK_BYTES,
                (uint64_t)d->plain_bytes - (uint64_t)rd->first_block * SEAL_BLOCK_BYTES) ||
        !id128_from_bytes(d->seal_id.data, d->seal_id.len, &rd->seal_id)) {
        rc = err_set(reterr, RC_CORRUPT, "storaged '%s' answered a read with an impossible shape",
                     n->name);
        goto out;
    }
    rd->plain_bytes = d->plain_bytes;
    rd->tags_n = blocks;
    rd->tags = arena_copy(arena, d->tags.data, d->tags.len);
    if (rd->tags == NULL) {
        rc = err_set(reterr, RC_NOMEM, "tags of a chunk");
        goto out;
    }
    rd->cipher = bulk_buf_ref(a.payload);
    rd->cipher_n = a.payload_n;
out:
    asked_clear(&a);
    return rc;
}

enum rc route_chunk_read(struct route *r, struct route_read *rd, uint64_t left_ms,
                         struct arena *arena, struct err *reterr)
{
    struct route_try t;
    struct err err = {0};
    enum rc rc = RC_UNAVAIL;

    rd->cipher = NULL;
    route_try_init(&t, r, rd->at, left_ms);
    do {
        const struct cluster_group *g = cluster_group_of(r->conf.cluster, rd->at.pool, rd->at.hash);
        struct id128 members[PLACEMENT_COPIES_MAX];
        uint32_t n = 0, start = r->rotor++;

        if (g == NULL) {
            rc = err_set(&err, RC_UNAVAIL, "pool %u has no placement group for this", rd->at.pool);
            continue;
        }
        n = g->in_sync_n;
        t.tried_revision = g->mod_revision;
        memcpy(members, g->in_sync, n * sizeof members[0]); /* the map may change while we wait */
        /* nodes that are alive first, then those whose lease is in doubt */
        for (uint32_t pass = 0; pass < 2; pass++) {
            for (uint32_t i = 0; i < n; i++) {
                uint32_t k = (start + i) % n;
                const struct cluster_node *cn = cluster_node_of_disk(r->conf.cluster, &members[k]);
                struct funary_info info;
                struct route_node *node;

                g = cluster_group_of(r->conf.cluster, rd->at.pool, rd->at.hash);
                if (g == NULL || cn == NULL || cn->alive != (pass == 0) ||
                    (rd->tried & (1u << k)) != 0)
                    continue;
                rc = route_node_of(r, cn, &node, &err);
                if (rc == RC_OK) rc = read_from(node, rd, g, &t, arena, &info, &err);
                rd->replica = k;
                if (rc == RC_OK || rc == RC_RANGE || rc == RC_NOMEM) goto out;
                log_debug("chunk_read_elsewhere", "rc=%s why=%s", rc_name(rc), err.msg);
            }
        }
        if (rc == RC_OK)
            rc = err_set(&err, RC_CORRUPT, "no replica holds a good copy of this chunk");
    } while ((rc == RC_UNAVAIL || rc == RC_STALE || rc == RC_IO || rc == RC_DEADLINE ||
              rc == RC_CANCELED || rc == RC_NOTFOUND) &&
             route_again(&t, RC_UNAVAIL, &(struct funary_info){0}));
out:
    if (rc != RC_OK && reterr != NULL) *reterr = err;
    return rc;
}

void route_chunk_bad(struct route *r, struct route_read *rd)
{
    char body[ID128_TEXT_BYTES];

    (void)r;
    log_error("chunk_bad", "body=%s index=%u replica=%u: tag does not fit; reading another",
              id128_text(&rd->body, body), rd->index, rd->replica);
    rd->tried |= 1u << rd->replica;
    if (rd->cipher != NULL) bulk_buf_unref(rd->cipher);
    rd->cipher = NULL;
}
