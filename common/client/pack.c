/* common/client/pack.c - many small objects of a case in one call.
 *
 * Messages hold the bytes of as many objects as fit; a thread of the pool reads and hashes a whole
 * message, so that the loop only encrypts and sends. Where an earlier try may have arrived, the
 * gateway is asked before any byte goes. */
#include "common/client/client_priv.h"
#include "proto/mikura/v1/objects.pb-c.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SVC        "/mikura.v1.Objects/"
#define DATA_FIELD 15u

struct packing {
    const struct mikura_pack *pack;
    Mikura__V1__PutPackRequest first;
    Mikura__V1__PutPackHeader header;
    Mikura__V1__RequestId id;
    Mikura__V1__PackEntry *entries, **list;
    uint64_t total, sent;
    bool ask;
    /* reading */
    size_t at; /* entry */
    uint64_t off;
    struct tree_stream *tree; /* of entry `at`; NULL at its start */
    uint8_t *p;               /* the message that fills */
    size_t n;
    enum rc rc;
    struct err err;
};

/* Fills p with the next bytes. On the pool. */
static void fill_work(void *arg)
{
    struct packing *k = arg;

    k->n = 0;
    k->rc = RC_OK;
    while (k->rc == RC_OK && k->at < k->pack->n && k->n < MIKURA_PIECE_BYTES) {
        struct mikura_pack_entry *e = &k->pack->entries[k->at];
        size_t want = (size_t)MIN(e->size_bytes - k->off, MIKURA_PIECE_BYTES - k->n);
        ssize_t got = want == 0 ? 0 : pread(e->fd, k->p + k->n, want, (off_t)k->off);

        if (got < 0 && errno == EINTR) continue;
        if (got < 0) {
            k->rc =
                err_set(&k->err, RC_CORRUPT, "reading '%s' failed: %s", e->path, strerror(errno));
        } else if (got == 0 && want > 0) {
            k->rc = err_set(&k->err, RC_ABORTED, "'%s' became shorter while it was read", e->path);
        }
        if (k->rc == RC_OK && k->tree == NULL) k->rc = tree_stream_new(&k->tree);
        if (k->rc == RC_OK && got > 0)
            k->rc = tree_stream_update(k->tree, k->p + k->n, (size_t)got);
        if (k->rc != RC_OK) break;
        k->n += (size_t)got;
        k->off += (uint64_t)got;
        if (k->off < e->size_bytes) continue;
        k->rc = tree_stream_digest(k->tree, e->tree_sha256);
        tree_stream_free(k->tree);
        k->tree = NULL;
        k->at++;
        k->off = 0;
    }
    if (k->rc != RC_OK && k->err.rc == RC_OK) (void)err_set(&k->err, k->rc, "hashing a pack");
}

static enum rc fill(struct packing *k, struct err *reterr)
{
    enum rc rc;

    k->p = malloc(MIKURA_PIECE_BYTES);
    k->err = (struct err){0};
    if (k->p == NULL) return err_set(reterr, RC_NOMEM, "a piece of a pack");
    rc = fiber_work(fill_work, k);
    if (rc == RC_OK && k->rc != RC_OK) {
        rc = k->rc;
        if (reterr != NULL) *reterr = k->err;
    } else if (rc != RC_OK) {
        rc = err_set(reterr, rc, "reading a pack: %s", rc_text(rc));
    }
    if (rc != RC_OK) free(k->p);
    return rc;
}

static void rewind_files(struct packing *k)
{
    tree_stream_free(k->tree);
    k->tree = NULL;
    k->at = 0;
    k->off = k->sent = 0;
}

/* *ret_stopped: the call died underneath, or was answered early; recv tells. */
static enum rc send_all(struct packing *k, struct fstream *s, bool *ret_stopped, struct err *reterr)
{
    Mikura__V1__PutPackRequest plain = MIKURA__V1__PUT_PACK_REQUEST__INIT;
    bool first = true;
    enum rc rc;

    rewind_files(k);
    k->header.ask = k->ask;
    if (k->ask) {
        *ret_stopped = fstream_send(s, &k->first.base) != RC_OK;
        return RC_OK;
    }
    do {
        struct rpc_payload pl;

        rc = fill(k, reterr);
        if (rc != RC_OK) return rc;
        if (k->pack->pace != NULL) rc = k->pack->pace(k->pack->data, (uint32_t)k->n, reterr);
        if (rc != RC_OK) {
            free(k->p);
            return rc;
        }
        if (k->n == 0) { /* only empty files are left; the header may have gone before */
            free(k->p);
            *ret_stopped = first && fstream_send(s, &k->first.base) != RC_OK;
            return RC_OK;
        }
        pl = (struct rpc_payload){DATA_FIELD, k->p, (uint32_t)k->n, k->p, free};
        *ret_stopped = fstream_send_payload(s, first ? &k->first.base : &plain.base, &pl) != RC_OK;
        if (*ret_stopped) return RC_OK;
        first = false;
        k->sent += k->n;
        if (k->pack->progress != NULL) k->pack->progress(k->pack->data, (int64_t)k->n);
    } while (k->at < k->pack->n);
    return RC_OK;
}

/* Bytes were not sent: the digests all the same. */
static enum rc hash_all(struct packing *k, struct err *reterr)
{
    enum rc rc = RC_OK;

    rewind_files(k);
    while (rc == RC_OK && k->at < k->pack->n) {
        rc = fill(k, reterr);
        if (rc != RC_OK) break;
        free(k->p);
        if (k->pack->progress != NULL) k->pack->progress(k->pack->data, (int64_t)k->n);
    }
    return rc;
}

static const Mikura__V1__Digest *tree_digest(const Mikura__V1__StagedObject *o)
{
    for (size_t i = 0; i < o->n_digests; i++) {
        if (o->digests[i]->kind == MIKURA__V1__DIGEST_KIND__TREE_SHA256 &&
            o->digests[i]->value.len == 32)
            return o->digests[i];
    }
    return NULL;
}

static enum rc answer_take(struct packing *k, const Mikura__V1__PutPackResponse *r,
                           struct err *reterr)
{
    enum rc rc = RC_OK;

    if (r == NULL || r->n_objects != k->pack->n)
        return err_set(reterr, RC_INTERNAL, "PutPack: the answer is not of this pack");
    if (r->was_there && k->at < k->pack->n) rc = hash_all(k, reterr);
    for (size_t i = 0; rc == RC_OK && i < r->n_objects; i++) {
        struct mikura_pack_entry *e = &k->pack->entries[i];
        const Mikura__V1__StagedObject *o = r->objects[i];
        const Mikura__V1__Digest *d = tree_digest(o);

        if (d == NULL || o->object == NULL || strcmp(o->object->path, e->path) != 0)
            return err_set(reterr, RC_INTERNAL, "PutPack: an odd answer for '%s'", e->path);
        if (memcmp(d->value.data, e->tree_sha256, 32) != 0) {
            return err_set(reterr, RC_CORRUPT,
                           "the gateway's tree-sha256 of '%s' is not the file's: it changed while "
                           "it was sent, or since a broken-off upload",
                           e->path);
        }
        e->version = o->object->version;
        e->stage = o->staged_generation;
        e->quarantined = o->quarantined;
    }
    return rc;
}

static enum rc pack_try(struct packing *k, struct attempt *a, struct err *reterr)
{
    struct rpc_request_conf conf = {.path = SVC "PutPack", .timeout_ms = MIKURA_STREAM_MS};
    Mikura__V1__PutPackResponse *answer = NULL;
    struct err ended = {0};
    struct rpc_msg *msg;
    struct fstream *s;
    struct gateway *g;
    bool stopped = false;
    enum rc rc = attempt_pick(a, &g, reterr);

    if (rc != RC_OK) return rc;
    rc = fstream_open(g->ch, &conf, &s);
    if (rc != RC_OK) return err_set(reterr, rc, "PutPack: %s", rc_text(rc));
    rc = send_all(k, s, &stopped, reterr);
    if (rc == RC_OK && !stopped) fstream_half_close(s);
    while (rc == RC_OK) { /* one answer, then the status, which decides */
        rc = stream_next(s, &msg, &ended);
        if (rc != RC_OK) break;
        mikura__v1__put_pack_response__free_unpacked(answer, NULL);
        answer = mikura__v1__put_pack_response__unpack(NULL, msg->n, msg->p);
        fstream_release(s, msg);
    }
    fstream_close(s);
    if (rc == STREAM_END) {
        rc = answer_take(k, answer, reterr);
    } else if (ended.rc != RC_OK && reterr != NULL) {
        *reterr = ended;
    }
    mikura__v1__put_pack_response__free_unpacked(answer, NULL);
    if (rc != RC_OK && k->pack->progress != NULL && k->sent > 0)
        k->pack->progress(k->pack->data, -(int64_t)k->sent);
    if (rc == RC_OK && k->pack->answered != NULL) k->pack->answered(k->pack->data, k->sent);
    return rc;
}

static enum rc packing_init(struct packing *k, const struct mikura_pack *pack, struct err *reterr)
{
    k->pack = pack;
    k->entries = calloc(pack->n, sizeof *k->entries);
    k->list = calloc(pack->n, sizeof *k->list);
    if (k->entries == NULL || k->list == NULL) return err_set(reterr, RC_NOMEM, "a pack");
    mikura__v1__put_pack_header__init(&k->header);
    mikura__v1__put_pack_request__init(&k->first);
    mikura__v1__request_id__init(&k->id);
    for (size_t i = 0; i < pack->n; i++) {
        mikura__v1__pack_entry__init(&k->entries[i]);
        k->entries[i].path = text(pack->entries[i].path);
        k->entries[i].media_type = text("");
        k->entries[i].size_bytes = pack->entries[i].size_bytes;
        k->list[i] = &k->entries[i];
        k->total += pack->entries[i].size_bytes;
    }
    k->id.id = bytes(pack->request_id.b, 16);
    k->header.request_id = &k->id;
    k->header.collection = text(pack->collection);
    k->header.case_id = text(pack->case_id);
    k->header.objects = k->list;
    k->header.n_objects = pack->n;
    k->first.header = &k->header;
    k->ask = pack->again;
    return RC_OK;
}

enum rc mikura_pack(struct mikura_client *c, const struct mikura_pack *pack, struct err *reterr)
{
    struct packing *k = calloc(1, sizeof *k);
    struct attempt a;
    enum rc rc;

    if (k == NULL) return err_set(reterr, RC_NOMEM, "a pack");
    rc = packing_init(k, pack, reterr);
    attempt_init(&a, c);
    while (rc == RC_OK) {
        bool asked = k->ask;

        rc = pack_try(k, &a, reterr);
        if (rc == RC_OK) break;
        if (asked && rc == RC_NOTFOUND) {
            k->ask = false;
            rc = RC_OK;
        } else if (attempt_again(&a, rc)) {
            k->ask = asked || k->sent == k->total; /* all had gone: its answer may be lost only */
            rc = RC_OK;
        }
    }
    tree_stream_free(k->tree);
    free(k->entries);
    free(k->list);
    free(k);
    return rc;
}

/* ---- what a case holds ---- */
enum rc mikura_case_check(struct mikura_client *c, const char *collection, const char *case_id,
                          uint64_t generation, const struct mikura_staged *lines, size_t n,
                          Mikura__V1__CheckCaseResponse **ret_answer, struct err *reterr)
{
    Mikura__V1__CheckCaseRequest req = MIKURA__V1__CHECK_CASE_REQUEST__INIT;
    Mikura__V1__CheckLine *all = calloc(MAX(n, 1u), sizeof *all),
                          **list = calloc(MAX(n, 1u), sizeof *list);
    enum rc rc = RC_NOMEM;

    if (all == NULL || list == NULL) {
        rc = err_set(reterr, RC_NOMEM, "a comparison");
        goto out;
    }
    for (size_t i = 0; i < n; i++) {
        mikura__v1__check_line__init(&all[i]);
        all[i].path = text(lines[i].path);
        all[i].version = lines[i].version;
        all[i].size_bytes = lines[i].size_bytes;
        all[i].tree_sha256 = bytes(lines[i].tree_sha256, 32);
        list[i] = &all[i];
    }
    req.collection = text(collection);
    req.case_id = text(case_id);
    req.generation = generation;
    req.lines = list;
    req.n_lines = n;
    rc = mikura_unary(c, SVC "CheckCase", &req.base, &mikura__v1__check_case_response__descriptor,
                      ret_answer, reterr);
out:
    free(all);
    free(list);
    return rc;
}

enum rc mikura_staged_drop(struct mikura_client *c, const char *collection, const char *case_id,
                           const char *path, struct err *reterr)
{
    Mikura__V1__DropStagedRequest req = MIKURA__V1__DROP_STAGED_REQUEST__INIT;
    Mikura__V1__DropStagedResponse *answer;
    enum rc rc;

    req.collection = text(collection);
    req.case_id = text(case_id);
    req.path = text(path);
    rc = mikura_unary(c, SVC "DropStaged", &req.base, &mikura__v1__drop_staged_response__descriptor,
                      &answer, reterr);
    if (rc == RC_OK) mikura__v1__drop_staged_response__free_unpacked(answer, NULL);
    return rc == RC_NOTFOUND ? RC_OK : rc;
}
