/* storaged/service/bulk_service.c - what comes over the bulk wire: replica messages at once, chunk
 * requests each in a fiber of its own.
 *
 * Rights: writes by gateways and storage nodes (the rest of a chain), reads by gateways, by workers
 * with a capability, pulls by storage nodes only. A request whose connection was lost goes on to a
 * safe end without its answer. */
#include "common/base/clock.h"
#include "common/base/log.h"
#include "storaged/service/service.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define OP_TIMEOUT_MS 30000u /* where the sender does not say */

typedef Mikura__Internal__V1__BulkRequest Request;
typedef Mikura__Internal__V1__BulkResponse Response;

uint64_t bulk_op_left_ms(const struct bulk_op *op, uint64_t cap_ms)
{
    uint64_t now = clock_boot_ms();

    return now >= op->deadline_ms ? 0 : MIN(op->deadline_ms - now, cap_ms);
}

void bulk_op_answer(struct bulk_op *op, const Response *r, struct bulk_buf *payload, uint32_t n)
{
    struct slice header;
    uint8_t *p;

    if (op->in == NULL) return;
    header.n = mikura__internal__v1__bulk_response__get_packed_size(r);
    p = malloc(header.n);
    header.p = p;
    if (p == NULL) { /* the sender's deadline tells it */
        bulk_conn_close(bulk_in_conn(op->in), RC_NOMEM);
        return;
    }
    (void)mikura__internal__v1__bulk_response__pack(r, p);
    bulk_in_set_data(op->in, NULL);
    bulk_in_reply(op->in, header, payload, 0, n);
    op->in = NULL;
    free(p);
}

void bulk_op_refuse(struct bulk_op *op, const struct sd_group *g, enum rc rc, const struct err *e)
{
    Response r = MIKURA__INTERNAL__V1__BULK_RESPONSE__INIT;
    char msg[512];

    (void)snprintf(msg, sizeof msg, "%s", e != NULL && e->msg[0] != 0 ? e->msg : rc_text(rc));
    r.rc = (int32_t)rc;
    r.message = msg;
    if (g != NULL && g->ready) r.epoch = g->core.epoch;
    if (rc == RC_BUSY || rc == RC_NOMEM) sdm_add(SDM_BUSY, 1);
    bulk_op_answer(op, &r, NULL, 0);
}

enum rc chunk_ref_decode(const Mikura__Internal__V1__ChunkRef *r, bool seal_needed,
                         struct index_chunk_id *ret, struct err *reterr)
{
    memset(ret, 0, sizeof *ret);
    if (r == NULL || !id128_from_bytes(r->body.data, r->body.len, &ret->body))
        return err_set(reterr, RC_INVAL, "chunk.body is not 16 bytes");
    ret->index = r->index;
    if (r->seal_id.len == 0 && !seal_needed) return RC_OK;
    if (!id128_from_bytes(r->seal_id.data, r->seal_id.len, &ret->seal_id))
        return err_set(reterr, RC_INVAL, "chunk.seal_id is not 16 bytes");
    return RC_OK;
}

static void op_free(struct bulk_op *op)
{
    if (op->in != NULL) { /* every path answers; this keeps the wire's promise all the same */
        struct err err;

        (void)err_set(&err, RC_INTERNAL, "the request had no answer");
        bulk_op_refuse(op, NULL, RC_INTERNAL, &err);
    }
    mikura__internal__v1__bulk_request__free_unpacked(op->req, NULL);
    free(op);
}

static bool allowed(const struct bulk_op *op)
{
    const char *kind = op->peer.kind;
    bool gateway = strcmp(kind, "gateway") == 0, storaged = strcmp(kind, "storaged") == 0;

    if (op->peer.role != TLS_NODE) return false;
    switch (op->req->kind_case) {
    case MIKURA__INTERNAL__V1__BULK_REQUEST__KIND_WRITE:
        return gateway || storaged;
    case MIKURA__INTERNAL__V1__BULK_REQUEST__KIND_READ:
        return gateway || strcmp(kind, "computed") == 0; /* the latter with a capability */
    case MIKURA__INTERNAL__V1__BULK_REQUEST__KIND_PULL:
        return storaged;
    default:
        return false;
    }
}

static void op_run(void *arg)
{
    struct bulk_op *op = arg;
    struct err err;

    if (!allowed(op)) {
        sdm_add(SDM_DENIED, 1);
        log_warn("bulk_denied", "peer=%s kind=%d", op->peer.uri, (int)op->req->kind_case);
        (void)err_set(&err, RC_DENIED, "not for %s", op->peer.uri);
        bulk_op_refuse(op, NULL, RC_DENIED, &err);
    } else if (op->req->kind_case == MIKURA__INTERNAL__V1__BULK_REQUEST__KIND_WRITE) {
        chunk_write_run(op);
    } else if (op->payload_n > 0) {
        (void)err_set(&err, RC_INVAL, "a read carries no payload");
        bulk_op_refuse(op, NULL, RC_INVAL, &err);
    } else if (op->req->kind_case == MIKURA__INTERNAL__V1__BULK_REQUEST__KIND_READ) {
        chunk_read_run(op);
    } else {
        chunk_pull_run(op);
    }
    op_free(op);
}

static void refuse_now(struct bulk_in *in, enum rc rc, const char *why)
{
    Response r = MIKURA__INTERNAL__V1__BULK_RESPONSE__INIT;
    uint8_t p[128];
    char msg[64];

    (void)snprintf(msg, sizeof msg, "%s", why);
    r.rc = (int32_t)rc;
    r.message = msg;
    CHECK(mikura__internal__v1__bulk_response__get_packed_size(&r) <= sizeof p);
    bulk_in_reply(in, (struct slice){p, mikura__internal__v1__bulk_response__pack(&r, p)}, NULL, 0,
                  0);
}

static void on_request(struct bulk_conn *c, struct bulk_in *in, struct slice header,
                       uint32_t payload_n)
{
    struct sd_conn *k = bulk_conn_data(c);
    struct bulk_op *op;
    uint32_t timeout_ms = bulk_in_timeout_ms(in);

    if (k->sd->stopping) {
        refuse_now(in, RC_UNAVAIL, "this node is stopping");
        return;
    }
    op = calloc(1, sizeof *op);
    if (op != NULL) op->req = mikura__internal__v1__bulk_request__unpack(NULL, header.n, header.p);
    if (op == NULL || op->req == NULL) {
        refuse_now(in, op == NULL ? RC_NOMEM : RC_INVAL, "the header does not decode");
        free(op);
        return;
    }
    op->sd = k->sd;
    op->in = in;
    op->peer = *bulk_conn_peer(c);
    op->payload_n = payload_n;
    op->deadline_ms = clock_boot_ms() + (timeout_ms == 0 ? OP_TIMEOUT_MS : timeout_ms);
    bulk_in_set_data(in, op);
    if (sd_spawn(k->sd, op_run, op) == RC_OK) return;
    bulk_op_refuse(op, NULL, RC_BUSY, NULL);
    op_free(op);
}

static void on_payload(struct bulk_in *in, uint32_t ready)
{
    struct bulk_op *op = bulk_in_data(in);

    if (op == NULL) return; /* answered already; the rest is dropped */
    op->ready = ready;
    if (op->forward != NULL && !op->forward->ended) bulk_out_more(&op->forward->out, ready);
    if (ready == op->payload_n) fiber_event_set(&op->changed);
}

static void on_lost(struct bulk_in *in)
{
    struct bulk_op *op = bulk_in_data(in);

    if (op == NULL) return;
    op->in = NULL;
    if (op->ready < op->payload_n) {
        op->rest_lost = true;
        if (op->forward != NULL && !op->forward->ended) bulk_out_abort(&op->forward->out);
    }
    fiber_event_set(&op->changed);
}

static void on_message(struct bulk_conn *c, struct slice header)
{
    struct sd_conn *k = bulk_conn_data(c);
    const struct tls_identity *id = bulk_conn_peer(c);
    Request *req;

    if (k->sd->stopping) return;
    if (id->role != TLS_NODE || strcmp(id->kind, "storaged") != 0) {
        sdm_add(SDM_DENIED, 1);
        log_warn("bulk_denied", "peer=%s why=replica messages are for storage nodes", id->uri);
        bulk_conn_close(c, RC_DENIED);
        return;
    }
    req = mikura__internal__v1__bulk_request__unpack(NULL, header.n, header.p);
    if (req == NULL) return; /* out of memory or a newer form: as if lost */
    if (req->kind_case == MIKURA__INTERNAL__V1__BULK_REQUEST__KIND_REPLICA)
        group_message(k->sd, c, req->replica);
    mikura__internal__v1__bulk_request__free_unpacked(req, NULL);
}

const struct bulk_ops SD_BULK_OPS = {.on_request = on_request,
                                     .on_payload = on_payload,
                                     .on_message = on_message,
                                     .on_lost = on_lost,
                                     .on_up = peer_up,
                                     .on_down = peer_down};
