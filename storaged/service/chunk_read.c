/* storaged/service/chunk_read.c - chunk bytes from the disk to the wire: for gateways, for workers
 * with a capability, for other replicas.
 *
 * Without a seal id the committed sealing is read: the one that the group's state lists. Each block
 * is checked against its CRC on the way; a bad one is RC_CORRUPT and the reader goes elsewhere. */
#include "common/base/clock.h"
#include "common/base/log.h"
#include "storaged/service/service.h"
#include <stdlib.h>
#include <string.h>

typedef Mikura__Internal__V1__BulkResponse Response;

struct reading {
    struct bulk_op *op;
    struct sd_group *g;
    const Mikura__Internal__V1__GroupRef *ref;
    struct index_chunk_id id;
    bool committed; /* seal id from the group's state */
    uint32_t first, n;
    struct index_chunk chunk;
    struct bulk_buf *buf;
    struct seglog_read read;
    struct record_block *blocks; /* of the record */
    struct fiber_event done;
    enum rc rc;
    struct err err;
    const uint8_t *mac_key; /* pull */
    uint8_t mac[16];
};

static enum rc listed(struct reading *x, struct index *ix, struct apply_chunk *ret_row,
                      bool *ret_dropped)
{
    return index_chunk_state(ix, &x->g->ix, x->ref->placement_hash, &x->id.body, x->id.index,
                             ret_row, ret_dropped, &x->err);
}

static enum rc look(void *arg, struct index *ix)
{
    struct reading *x = arg;
    struct index_chunk_id id = x->id;
    struct apply_chunk row;
    bool dropped = false;
    enum rc rc;

    if (x->committed) {
        rc = listed(x, ix, &row, &dropped);
        if (rc == RC_OK && dropped) rc = RC_NOTFOUND;
        if (rc != RC_OK) return rc;
        id.seal_id = row.seal_id;
    }
    rc = index_chunk_get(ix, &id, &x->chunk, &x->err);
    x->id = id;
    /* listed, but the bytes are not here: this copy is bad, others are good */
    if (rc == RC_NOTFOUND && x->committed) return RC_CORRUPT;
    if (rc != RC_NOTFOUND || x->mac_key == NULL) return rc;
    /* the replica that pulls it follows a log in which it still comes, and waits for nothing */
    rc = listed(x, ix, &row, &dropped);
    if (rc != RC_OK && rc != RC_NOTFOUND) return rc;
    if (rc == RC_OK && (dropped || !id128_eq(&row.seal_id, &id.seal_id))) return RC_PRECOND;
    rc = chunk_skipped(ix, &id, &x->err); /* this one was behind, too */
    return rc == RC_OK ? RC_PRECOND : rc;
}

/* Only a primary under its lease knows that there is none; others may be behind. */
static enum rc absent(struct reading *x, struct err *reterr)
{
    if (replica_may_read(&x->g->core, clock_boot_ms()) == RC_OK)
        return err_set(reterr, RC_NOTFOUND, "no such chunk");
    return err_set(reterr, x->committed ? RC_UNAVAIL : RC_NOTFOUND, "no such chunk here yet");
}

static void on_read(struct seglog_read *r, enum rc rc)
{
    struct reading *x = r->data;
    uint32_t n = record_blocks(x->chunk.loc.plain_bytes);

    x->rc = rc;
    if (rc == RC_OK) {
        x->blocks = calloc(n, sizeof *x->blocks);
        if (x->blocks != NULL) memcpy(x->blocks, r->blocks, n * sizeof *x->blocks);
        if (x->blocks == NULL) x->rc = RC_NOMEM;
    }
    fiber_event_set(&x->done);
}

static enum rc read_bytes(struct reading *x, uint32_t share, struct err *reterr)
{
    uint32_t plain = x->chunk.loc.plain_bytes, all = record_blocks(plain), bytes;
    char body[ID128_TEXT_BYTES];
    enum rc rc;

    if (x->first >= all) return err_set(reterr, RC_RANGE, "block %u of %u", x->first, all);
    if (x->n == 0 || x->n > all - x->first) x->n = all - x->first;
    bytes = MIN(x->n * RECORD_BLOCK_BYTES, plain - x->first * RECORD_BLOCK_BYTES);
    rc = disk_payload(x->g->disk, share, bytes, bulk_op_left_ms(x->op, UINT64_MAX), &x->buf);
    if (rc != RC_OK) return err_set(reterr, rc, "no room for a chunk in memory");
    x->read.data = x;
    x->read.err.rc = RC_OK;
    for (;;) {
        rc = x->g->dead && x->g->disk->closed
                 ? RC_UNAVAIL
                 : store_read(x->g->disk->store, &x->read, &x->chunk.loc, x->first, x->n, x->buf->p,
                              x->buf->cap, on_read);
        if (rc != RC_BUSY || bulk_op_left_ms(x->op, 1) == 0) break;
        fiber_sleep_ms(2);
    }
    if (rc == RC_NOTFOUND) return rc; /* reclaim moved it between the look-up and here */
    if (rc != RC_OK) return err_set(reterr, rc, "chunk read: %s", rc_text(rc));
    fiber_event_wait(&x->done);
    if (x->rc == RC_OK &&
        (!id128_eq(&x->read.header.body, &x->id.body) || x->read.header.index != x->id.index ||
         !id128_eq(&x->read.header.seal_id, &x->id.seal_id)))
        x->rc = err_set(&x->read.err, RC_CORRUPT, "another record lies there");
    if (x->rc == RC_OK) return RC_OK;
    if (x->rc == RC_CORRUPT) {
        sdm_add(SDM_CORRUPT, 1);
        log_error("chunk_corrupt", "disk=%s body=%s index=%u why=%s", x->g->disk->dir,
                  id128_text(&x->id.body, body), x->id.index, x->read.err.msg);
    }
    if (x->rc == RC_CORRUPT || x->rc == RC_IO) disk_suspect(x->g->disk, &x->id, &x->chunk.loc);
    return err_set(reterr, x->rc, "chunk read: %s", x->read.err.msg);
}

static void mac_work(void *arg)
{
    struct reading *x = arg;

    x->rc = bulk_gmac(x->mac_key, x->buf->p, x->read.got_bytes, x->mac);
}

static enum rc data_answer(struct reading *x, struct err *reterr)
{
    Response r = MIKURA__INTERNAL__V1__BULK_RESPONSE__INIT;
    Mikura__Internal__V1__ChunkData d = MIKURA__INTERNAL__V1__CHUNK_DATA__INIT;
    uint8_t *tags = malloc((size_t)x->n * RECORD_TAG_BYTES);
    uint32_t *crcs = calloc(x->n, sizeof *crcs);
    enum rc rc = RC_OK;

    if (tags == NULL || crcs == NULL) {
        rc = err_set(reterr, RC_NOMEM, "a read's tags");
        goto out;
    }
    for (uint32_t i = 0; i < x->n; i++) {
        memcpy(tags + (size_t)i * RECORD_TAG_BYTES, x->blocks[x->first + i].tag, RECORD_TAG_BYTES);
        crcs[i] = x->blocks[x->first + i].crc32c;
    }
    d.seal_id = (ProtobufCBinaryData){16, x->id.seal_id.b};
    d.plain_bytes = x->chunk.loc.plain_bytes;
    d.block_bytes = RECORD_BLOCK_BYTES;
    d.tags = (ProtobufCBinaryData){(size_t)x->n * RECORD_TAG_BYTES, tags};
    d.block_crc32c = crcs;
    d.n_block_crc32c = x->n;
    d.cipher_suite = x->read.header.cipher_suite;
    if (x->mac_key != NULL) {
        rc = fiber_work(mac_work, x);
        if (rc == RC_OK) rc = x->rc;
        if (rc != RC_OK) {
            (void)err_set(reterr, rc, "GMAC of a chunk");
            goto out;
        }
        d.mac = (ProtobufCBinaryData){sizeof x->mac, x->mac};
        d.plain_digest = (ProtobufCBinaryData){32, x->read.header.plain_digest};
        d.owner_hash = x->read.header.owner_hash;
        d.upload_id = (ProtobufCBinaryData){16, x->read.header.upload_id.b};
    }
    r.epoch = x->g->core.epoch;
    r.kind_case = MIKURA__INTERNAL__V1__BULK_RESPONSE__KIND_DATA;
    r.data = &d;
    sdm_add(x->mac_key != NULL ? SDM_PULLS_SERVED : SDM_READS, 1);
    sdm_add(SDM_READ_BYTES, x->read.got_bytes);
    bulk_op_answer(x->op, &r, x->buf, x->read.got_bytes);
out:
    free(tags);
    free(crcs);
    return rc;
}

/* Any replica of ours that may be read and has it. */
static enum rc read_all(struct reading *x, uint32_t share, struct err *reterr)
{
    enum rc rc;

    if (x->ref == NULL) return err_set(reterr, RC_INVAL, "no group");
    x->g = group_of_hash(x->op->sd, x->ref->pool, x->ref->placement_hash);
    if (x->g == NULL || !x->g->ready || x->g->dead || replica_may_read_chunk(&x->g->core) != RC_OK)
        return err_set(reterr, RC_STALE, "no member of that group here");
    for (uint32_t tries = 0; tries < SD_MOVED_TRIES; tries++) {
        rc = disk_look(x->g->disk, look, x);
        if (rc == RC_NOTFOUND) return absent(x, reterr);
        if (rc == RC_PRECOND) return err_set(reterr, rc, "dropped, or another sealing won");
        if (rc != RC_OK) return err_set(reterr, rc, "a look-up: %s", x->err.msg);
        rc = read_bytes(x, share, reterr);
        if (rc != RC_NOTFOUND) break;
        bulk_buf_unref(x->buf);
        x->buf = NULL;
    }
    if (rc == RC_NOTFOUND) /* its segment is gone, and not by reclaim */
        return err_set(reterr, RC_CORRUPT, "the bytes of this chunk are gone here");
    if (rc == RC_OK) rc = data_answer(x, reterr);
    return rc;
}

static void run(struct reading *x, uint32_t share, enum rc rc)
{
    struct err err = x->err;

    if (rc == RC_OK) rc = read_all(x, share, &err);
    if (rc != RC_OK) bulk_op_refuse(x->op, x->g, rc, &err);
    if (x->buf != NULL) bulk_buf_unref(x->buf);
    free(x->blocks);
    free(x);
}

static enum rc capability_ok(struct bulk_op *op, const struct id128 *body, struct err *reterr)
{
    struct sd *sd = op->sd;
    const Mikura__Internal__V1__ChunkRead *q = op->req->read;
    const struct id128 *cluster = cluster_id(sd->cluster);
    struct capability_check check = {
        .worker_uri = {(const uint8_t *)op->peer.uri, strlen(op->peer.uri)},
        .now_unix_ms = clock_wall_ms(),
        .keys = sd->keys,
        .keys_n = sd->keys_n};
    struct capability cap;
    enum rc rc;

    if (cluster == NULL) return err_set(reterr, RC_UNAVAIL, "not joined yet");
    check.cluster = *cluster;
    rc = capability_verify((struct slice){q->capability.data, q->capability.len}, &check, &cap,
                           reterr);
    if (rc == RC_OK && !capability_allows(&cap, body))
        rc = err_set(reterr, RC_DENIED, "the capability does not name this body");
    if (rc == RC_OK) return RC_OK;
    sdm_add(SDM_DENIED, 1);
    log_warn("chunk_read_denied", "peer=%s rc=%s why=%s", op->peer.uri, rc_name(rc), reterr->msg);
    return rc;
}

void chunk_read_run(struct bulk_op *op)
{
    const Mikura__Internal__V1__ChunkRead *q = op->req->read;
    struct reading *x = calloc(1, sizeof *x);
    enum rc rc;

    if (x == NULL) {
        bulk_op_refuse(op, NULL, RC_NOMEM, NULL);
        return;
    }
    x->op = op;
    x->ref = q->group;
    x->first = q->first_block;
    x->n = q->blocks;
    rc = chunk_ref_decode(q->chunk, false, &x->id, &x->err);
    x->committed = rc == RC_OK && q->chunk->seal_id.len == 0;
    if (rc == RC_OK && strcmp(op->peer.kind, "computed") == 0)
        rc = capability_ok(op, &x->id.body, &x->err);
    run(x, CHUNK_POOL_READ, rc);
}

void chunk_pull_run(struct bulk_op *op)
{
    const Mikura__Internal__V1__ChunkPull *q = op->req->pull;
    struct reading *x = calloc(1, sizeof *x);
    enum rc rc;

    if (x == NULL) {
        bulk_op_refuse(op, NULL, RC_NOMEM, NULL);
        return;
    }
    x->op = op;
    x->ref = q->group;
    rc = chunk_ref_decode(q->chunk, true, &x->id, &x->err);
    if (rc == RC_OK && q->mac_key.len != 32)
        rc = err_set(&x->err, RC_INVAL, "mac_key is not 32 bytes");
    x->mac_key = q->mac_key.data;
    run(x, CHUNK_POOL_READ, rc);
}
