/* gateway/api/check.c - CheckCase: an agent holds what it has in its journal against the store.
 *
 * It reads nothing back: a line is compared with what the caller says of it, and a receipt is what
 * the caller was given for its own commit. Who does not know a digest learns nothing by asking. */
#include "common/crypto/digest.h"
#include "gateway/api/objects.h"
#include "gateway/ingest/name.h"

#define LINES_MAX 128u /* keys of one read of a group */

static enum rc lines_check(struct fcall *c, const struct gw_case *cs,
                           const Mikura__V1__CheckCaseRequest *req, Mikura__V1__CheckState *ret,
                           struct err *reterr)
{
    struct gw *gw = c->service;
    struct arena *a = &c->arena;
    struct slice *keys = arena_alloc(a, req->n_lines * sizeof *keys);
    struct record_index *idx = arena_alloc(a, sizeof *idx);
    Mikura__Internal__V1__GetResponse *got;
    struct object_digests d;
    enum rc rc = RC_OK;

    if (keys == NULL || idx == NULL) return err_set(reterr, RC_NOMEM, "a comparison");
    for (size_t i = 0; rc == RC_OK && i < req->n_lines; i++) {
        const Mikura__V1__CheckLine *l = req->lines[i];
        uint8_t *key = arena_raw(a, RECORD_KEY_BYTES_MAX);

        if (key == NULL) return err_set(reterr, RC_NOMEM, "a comparison");
        if (l->version == 0 || l->tree_sha256.len != 32)
            return err_set(reterr, RC_INVAL, "a line needs a version and a tree-sha256 (32 bytes)");
        rc = name_check_path(gw_text(l->path), reterr);
        if (rc != RC_OK) return rc;
        keys[i] = (struct slice){
            key, record_key_object(&cs->anchor, RECORD_INDEX, gw_text(l->path), l->version, key)};
    }
    rc = route_get(gw->route, cs->at, keys, (uint32_t)req->n_lines, gw_left_ms(c), a, &got, reterr);
    for (size_t i = 0; rc == RC_OK && i < req->n_lines; i++) {
        const Mikura__V1__CheckLine *l = req->lines[i];

        ret[i] = MIKURA__V1__CHECK_STATE__CHECK_GONE;
        if (got->items[i]->version == 0) continue;
        rc = record_index_decode(gw_bytes(got->items[i]->value), idx, reterr);
        if (rc == RC_OK) rc = object_digests_open(cs, keys[i], idx->sealed_digests, &d, reterr);
        if (rc != RC_OK) break;
        if (idx->delete_marker) continue;
        if (idx->size_bytes != l->size_bytes || !digest_equal(d.tree, l->tree_sha256.data)) {
            ret[i] = MIKURA__V1__CHECK_STATE__CHECK_DIFFERENT;
        } else if (idx->stage == RECORD_STAGE_QUARANTINE) {
            ret[i] = MIKURA__V1__CHECK_STATE__CHECK_HELD;
        } else {
            ret[i] = idx->stage <= cs->head.visible ? MIKURA__V1__CHECK_STATE__CHECK_PUBLISHED
                                                    : MIKURA__V1__CHECK_STATE__CHECK_STAGED;
        }
    }
    return rc;
}

static enum rc receipt_read(struct fcall *c, const struct gw_case *cs, uint64_t generation,
                            Mikura__V1__Receipt **ret, struct err *reterr)
{
    struct gw *gw = c->service;
    struct arena *a = &c->arena;
    uint8_t *key = arena_raw(a, RECORD_KEY_BYTES_MAX);
    struct record_commit *rec = arena_alloc(a, sizeof *rec);
    Mikura__V1__Receipt *m = arena_alloc(a, sizeof *m);
    Mikura__Internal__V1__GetResponse *got;
    struct slice k;
    enum rc rc;

    if (key == NULL || rec == NULL || m == NULL) return err_set(reterr, RC_NOMEM, "a receipt");
    k = (struct slice){key, record_key_number(&cs->anchor, RECORD_COMMIT, generation, key)};
    rc = route_get(gw->route, cs->at, &k, 1, gw_left_ms(c), a, &got, reterr);
    if (rc != RC_OK || got->items[0]->version == 0) return rc;
    rc = record_commit_decode(gw_bytes(got->items[0]->value), rec, reterr);
    if (rc != RC_OK) return rc;
    mikura__v1__receipt__init(m);
    m->signed_bytes = (ProtobufCBinaryData){rec->receipt.n, (uint8_t *)(uintptr_t)rec->receipt.p};
    m->signature = (ProtobufCBinaryData){rec->signature.n, (uint8_t *)(uintptr_t)rec->signature.p};
    m->key_id = gw_dup(a, rec->key_id);
    *ret = m;
    return m->key_id == NULL ? err_set(reterr, RC_NOMEM, "a receipt") : RC_OK;
}

enum rc objects_check_case(struct fcall *c, struct err *reterr)
{
    Mikura__V1__CheckCaseRequest *req;
    Mikura__V1__CheckCaseResponse answer = MIKURA__V1__CHECK_CASE_RESPONSE__INIT;
    struct writing w;
    enum rc rc = fcall_request(c, &mikura__v1__check_case_request__descriptor, &req, reterr);

    if (rc == RC_OK && req->n_lines > LINES_MAX)
        rc = err_set(reterr, RC_INVAL, "at most %u lines a call", LINES_MAX);
    if (rc != RC_OK) return rc;
    answer.lines = arena_alloc(&c->arena, (req->n_lines + 1) * sizeof *answer.lines);
    if (answer.lines == NULL) return err_set(reterr, RC_NOMEM, "a comparison");
    rc = objects_open_writing(c, req->collection, req->case_id, false, &w, reterr);
    if (rc != RC_OK) return rc;
    answer.generation = w.cs->head.generation;
    answer.n_lines = req->n_lines;
    if (req->n_lines > 0) rc = lines_check(c, w.cs, req, answer.lines, reterr);
    if (rc == RC_OK && req->generation != 0)
        rc = receipt_read(c, w.cs, req->generation, &answer.receipt, reterr);
    gw_case_wipe(w.cs);
    return rc != RC_OK ? rc : fcall_send(c, &answer.base);
}
