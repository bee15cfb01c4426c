/* storaged/service/chunk_write.c - a chunk's bytes from the wire to this disk and on along the
 * chain, one buffer for all three.
 *
 * The last of the chain verifies the payload's GMAC, which covers every hop before it. When the
 * rest of the chain fails, this node verifies its own copy and answers for itself: the group's log
 * then makes the missing ones pull the bytes, or removes them. */
#include "common/base/clock.h"
#include "common/base/log.h"
#include "storaged/service/service.h"
#include <stdlib.h>
#include <string.h>

typedef Mikura__Internal__V1__BulkResponse Response;
typedef Mikura__Internal__V1__ChunkWrite Write;

/* At 20 GB/s the way to another thread and back takes longer. */
#define MAC_HERE_MAX (1u << 20)

struct writing {
    struct bulk_op *op;
    const Write *w;
    struct sd_group *g;
    struct bulk_buf *buf;
    struct index_chunk_id id;
    struct record_block *blocks;
    struct store_append append;
    struct fiber_event written;
    enum rc written_rc;
    struct ask forward;
    bool forwarding;
    uint8_t mac[16];
    enum rc mac_rc;
    bool added;
    enum rc add_rc;
    struct apply_outcome added_as;
    struct err add_err;
    uint64_t stray_mark;
    struct arena arena; /* of the transaction */
    Mikura__Internal__V1__TxnResponse txn;
    bool txn_done;
};

static enum rc check(struct writing *x, struct err *reterr)
{
    const Write *w = x->w;
    uint32_t blocks = record_blocks(w->plain_bytes);

    if (w->group == NULL) return err_set(reterr, RC_INVAL, "no group");
    if (w->plain_bytes == 0 || w->plain_bytes > RECORD_PAYLOAD_BYTES_MAX ||
        w->plain_bytes != x->op->payload_n)
        return err_set(reterr, RC_INVAL, "plain_bytes %u, payload %u", w->plain_bytes,
                       x->op->payload_n);
    if (w->block_bytes != RECORD_BLOCK_BYTES || w->cipher_suite != 1)
        return err_set(reterr, RC_UNIMPL, "block_bytes %u, cipher_suite %u", w->block_bytes,
                       w->cipher_suite);
    if (w->tags.len != (size_t)blocks * RECORD_TAG_BYTES || w->plain_digest.len != 32 ||
        w->mac_key.len != 32 || w->mac.len != 16 || w->upload_id.len != 16)
        return err_set(reterr, RC_INVAL, "tags, digest, mac or upload_id of a wrong length");
    if (w->n_chain >= CHUNK_POOL_CHAIN)
        return err_set(reterr, RC_INVAL, "a chain of %zu", w->n_chain);
    return chunk_ref_decode(w->chunk, true, &x->id, reterr);
}

static enum rc find_group(struct writing *x, struct err *reterr)
{
    const Mikura__Internal__V1__GroupRef *ref = x->w->group;
    struct sd_group *g = group_of_hash(x->op->sd, ref->pool, ref->placement_hash);

    if (g == NULL || !g->ready || g->dead || replica_may_read_chunk(&g->core) != RC_OK)
        return err_set(reterr, RC_STALE, "no member of that group here");
    x->g = g;
    return RC_OK;
}

static void on_written(struct store_append *a, enum rc rc)
{
    struct writing *x = a->data;

    x->written_rc = rc;
    fiber_event_set(&x->written);
}

/* Starts the next hop; its bytes follow as they arrive here. A failure is no failure of the write
 * here. */
static void forward_start(struct writing *x)
{
    Mikura__Internal__V1__BulkRequest req = MIKURA__INTERNAL__V1__BULK_REQUEST__INIT;
    Write next = *x->w;
    struct sd_peer *p = peer_of_address(x->op->sd, x->w->chain[0]);
    uint64_t left = bulk_op_left_ms(x->op, SD_FORWARD_MS);
    struct bulk_conn *conn;
    struct err err = {0};
    enum rc rc;

    if (p == NULL || left == 0) {
        (void)err_set(&err, RC_UNAVAIL, "no storage node at %s", x->w->chain[0]);
        goto failed;
    }
    rc = peer_data(p, MIN(left, 1000), &conn, &err);
    if (rc != RC_OK) goto failed;
    if (x->op->rest_lost) return;
    next.add = false;
    next.txn = NULL; /* the primary's business */
    next.chain = x->w->chain + 1;
    next.n_chain = x->w->n_chain - 1;
    req.kind_case = MIKURA__INTERNAL__V1__BULK_REQUEST__KIND_WRITE;
    req.write = &next;
    rc = ask_start(&x->forward, conn, &req, x->buf, x->op->payload_n, x->op->ready,
                   (uint32_t)MAX(bulk_op_left_ms(x->op, SD_FORWARD_MS), 1), &err);
    if (rc != RC_OK) goto failed;
    x->forwarding = true;
    x->op->forward = &x->forward;
    return;
failed:
    sdm_add(SDM_FORWARD_FAILED, 1);
    log_info("chunk_forward_failed", "to=%s why=%s", x->w->chain[0], err.msg);
}

static void mac_work(void *arg)
{
    struct writing *x = arg;

    x->mac_rc = bulk_gmac(x->w->mac_key.data, x->buf->p, x->w->plain_bytes, x->mac);
}

static enum rc verify(struct writing *x, struct err *reterr)
{
    enum rc rc = RC_OK;

    if (x->w->plain_bytes <= MAC_HERE_MAX) {
        mac_work(x);
    } else {
        rc = fiber_work(mac_work, x);
    }
    if (rc == RC_OK) rc = x->mac_rc;
    if (rc != RC_OK) return err_set(reterr, rc, "GMAC of a chunk");
    if (bulk_gmac_equal(x->mac, x->w->mac.data)) return RC_OK;
    sdm_add(SDM_CORRUPT, 1);
    return err_set(reterr, RC_CORRUPT, "the chunk was changed on its way");
}

static enum rc write_start(struct writing *x, struct err *reterr)
{
    const Write *w = x->w;
    uint32_t blocks = record_blocks(w->plain_bytes);
    struct store_chunk c = {.pool = w->group->pool,
                            .placement_hash = w->group->placement_hash,
                            .owner_hash = w->owner_hash,
                            .id = x->id,
                            .plain_bytes = w->plain_bytes,
                            .config = x->g->core.config,
                            .epoch = x->g->core.epoch,
                            .payload = x->buf->p};
    enum rc rc;

    x->blocks = calloc(blocks, sizeof *x->blocks);
    if (x->blocks == NULL) return err_set(reterr, RC_NOMEM, "a chunk's blocks");
    for (uint32_t i = 0; i < blocks; i++)
        memcpy(x->blocks[i].tag, w->tags.data + (size_t)i * RECORD_TAG_BYTES, RECORD_TAG_BYTES);
    memcpy(c.upload_id.b, w->upload_id.data, 16);
    memcpy(c.plain_digest, w->plain_digest.data, 32);
    c.blocks = x->blocks;
    x->append.data = x;
    x->stray_mark = stray_mark(&x->g->disk->stray);
    for (;;) {
        rc = x->g->dead ? RC_UNAVAIL
                        : store_chunk_write(x->g->disk->store, &x->append, &c, on_written);
        if (rc != RC_BUSY || bulk_op_left_ms(x->op, 1) == 0) break;
        fiber_sleep_ms(5);
    }
    return rc == RC_OK ? RC_OK : err_set(reterr, rc, "chunk write: %s", rc_text(rc));
}

/* All bytes are here: the disk, the GMAC and the rest of the chain at the same time. */
static enum rc finish(struct writing *x, struct err *reterr)
{
    bool last = x->w->n_chain == 0, rest_ok = false;
    struct err err = {0};
    enum rc write_rc, mac_rc = RC_OK;

    write_rc = write_start(x, reterr);
    if (last || !x->forwarding) mac_rc = verify(x, &err);
    if (write_rc == RC_OK) {
        fiber_event_wait(&x->written);
        write_rc = x->written_rc;
        if (write_rc != RC_OK) {
            (void)err_set(reterr, write_rc, "chunk write: %s", x->append.err.msg);
            if (write_rc == RC_IO) disk_out(x->g->disk, RC_IO, &x->append.err);
        }
    }
    if (x->forwarding) {
        enum rc rc = ask_wait(&x->forward, &err);

        rest_ok = rc == RC_OK;
        if (!rest_ok) {
            sdm_add(SDM_FORWARD_FAILED, 1);
            log_info("chunk_forward_failed", "to=%s rc=%s why=%s", x->w->chain[0], rc_name(rc),
                     err.msg);
            mac_rc = verify(x, &err);
        }
    }
    if (write_rc != RC_OK) return write_rc;
    if (mac_rc != RC_OK) *reterr = err;
    return mac_rc;
}

/* The transaction that came with the bytes, into their entry. false: it is not for this entry; the
 * sender asks for it by its key, and hears why. */
static bool txn_take(struct writing *x, struct apply_entry *e)
{
    const Mikura__Internal__V1__TxnRequest *q = x->w->txn;
    struct err err = {0};

    if (q->group == NULL ||
        group_of_hash(x->op->sd, q->group->pool, q->group->placement_hash) != x->g ||
        q->group->epoch > x->g->core.epoch)
        return false;
    e->kind = APPLY_CHUNK_TXN;
    return txn_entry(&x->arena, q, e, &err) == RC_OK &&
           txn_room(x->g, e->puts_n == 0, &err) == RC_OK;
}

/* The log entry that makes the chunk exist, where this is the primary. By itself it needs no
 * request key: the same sealing again is the same chunk, and one that was dropped stays so. */
static void add(struct writing *x)
{
    struct apply_entry e = {.kind = APPLY_CHUNK_ADD,
                            .chunk = {.placement_hash = x->w->group->placement_hash,
                                      .body = x->id.body,
                                      .index = x->id.index,
                                      .seal_id = x->id.seal_id,
                                      .plain_bytes = x->w->plain_bytes,
                                      .owner_hash = x->w->owner_hash}};
    struct stray_id stray = {x->id.body, x->id.seal_id, x->id.index};
    enum rc rc;

    memcpy(e.chunk.plain_digest, x->w->plain_digest.data, sizeof e.chunk.plain_digest);
    memcpy(e.chunk.upload_id.b, x->w->upload_id.data, sizeof e.chunk.upload_id.b);
    if (x->g->dead || replica_may_write(&x->g->core) != RC_OK) return;
    if (!stray_still(&x->g->disk->stray, &stray, x->stray_mark)) return; /* asked again */
    if (x->w->txn != NULL && !txn_take(x, &e)) return;
    rc = group_run(x->g, &e, bulk_op_left_ms(x->op, UINT64_MAX), &x->added_as, &x->add_err);
    if (rc != RC_OK) return; /* unknown, or not executed: the sender asks again */
    x->added = true;
    x->add_rc = chunk_add_rc(&x->added_as, &x->add_err);
    if (x->w->txn == NULL || x->add_rc != RC_OK) return;
    mikura__internal__v1__txn_response__init(&x->txn);
    x->txn_done =
        txn_answer(x->g, &x->arena, x->w->txn, &x->added_as, &x->txn, &x->add_err) == RC_OK;
}

static void answer(struct writing *x)
{
    Response r = MIKURA__INTERNAL__V1__BULK_RESPONSE__INIT;
    Mikura__Internal__V1__ChunkWritten done = MIKURA__INTERNAL__V1__CHUNK_WRITTEN__INIT;
    ProtobufCBinaryData disks[CHUNK_POOL_CHAIN + 1];
    const Response *rest = x->forward.answer;

    disks[done.n_durable_disks++] = (ProtobufCBinaryData){16, x->g->disk->id.b};
    if (x->forwarding && x->forward.rc == RC_OK && rest != NULL && rest->rc == RC_OK &&
        rest->kind_case == MIKURA__INTERNAL__V1__BULK_RESPONSE__KIND_WRITTEN) {
        for (size_t i = 0;
             i < rest->written->n_durable_disks && done.n_durable_disks < ARRAY_N(disks); i++)
            disks[done.n_durable_disks++] = rest->written->durable_disks[i];
    }
    done.durable_disks = disks;
    done.added = x->added;
    done.add_rc = (int32_t)x->add_rc;
    if (x->added && x->add_rc == RC_OK)
        done.seal_id = (ProtobufCBinaryData){16, x->added_as.seal_id.b};
    if (x->txn_done) done.txn = &x->txn;
    if (x->add_rc != RC_OK) r.message = x->add_err.msg;
    r.epoch = x->g->core.epoch;
    r.kind_case = MIKURA__INTERNAL__V1__BULK_RESPONSE__KIND_WRITTEN;
    r.written = &done;
    sdm_add(SDM_WRITES, 1);
    sdm_add(SDM_WRITE_BYTES, x->w->plain_bytes);
    bulk_op_answer(x->op, &r, NULL, 0);
}

static enum rc write_all(struct writing *x, struct err *reterr)
{
    struct bulk_op *op = x->op;
    enum rc rc = check(x, reterr);

    if (rc == RC_OK) rc = find_group(x, reterr);
    if (rc != RC_OK) return rc;
    rc = disk_payload(x->g->disk, (uint32_t)x->w->n_chain, x->w->plain_bytes,
                      bulk_op_left_ms(op, UINT64_MAX), &x->buf);
    if (rc != RC_OK) return err_set(reterr, rc, "no room for a chunk in memory");
    if (op->in == NULL) return err_set(reterr, RC_CANCELED, "the sender went away");
    bulk_in_accept(op->in, x->buf, 0);
    if (x->w->n_chain > 0) forward_start(x);
    while (op->ready < op->payload_n && !op->rest_lost)
        fiber_event_wait(&op->changed);
    if (op->rest_lost) return err_set(reterr, RC_CANCELED, "the sender went away");
    return finish(x, reterr);
}

void chunk_write_run(struct bulk_op *op)
{
    struct writing *x = calloc(1, sizeof *x);
    struct err err = {0};
    enum rc rc;

    if (x == NULL) {
        bulk_op_refuse(op, NULL, RC_NOMEM, NULL);
        return;
    }
    x->op = op;
    x->w = op->req->write;
    arena_init(&x->arena);
    rc = write_all(x, &err);
    if (rc == RC_OK) {
        if (x->w->add) add(x);
        answer(x);
    } else {
        bulk_op_refuse(op, x->g, rc, &err);
    }
    if (x->forwarding) { /* its memory is ours until it ended */
        if (!x->forward.ended && op->ready < op->payload_n) bulk_out_abort(&x->forward.out);
        (void)!ask_wait(&x->forward, &err); /* only its end counts here */
    }
    op->forward = NULL;
    ask_clear(&x->forward);
    bulk_buf_unref(x->buf);
    free(x->blocks);
    arena_deinit(&x->arena);
    free(x);
}
