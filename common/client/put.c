/* common/client/put.c - objects and models on their way up.
 *
 * File bytes are read and hashed on the thread pool, a leaf (1 MiB) at a time, so that the loop
 * only encrypts and sends. Up to MIKURA_ONE_CALL_BYTES_MAX an object is one PutObject, tried again
 * as a whole; above, it is a session whose chunks go in parallel and are asked for (ListChunks)
 * after a break. A retry sends the same request id, so a try that did arrive is found, not
 * repeated. */
#include "common/client/client_priv.h"
#include "common/crypto/digest.h"
#include "proto/mikura/v1/catalog.pb-c.h"
#include "proto/mikura/v1/models.pb-c.h"
#include <errno.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SVC          "/mikura.v1.Objects/"
#define PARALLEL     4u
#define PARALLEL_MAX 32u
#define DATA_FIELD   15u
#define CHUNK_MIN    (1u << 20)

/* ---- reading ---- */
struct piece {
    int fd;
    bool pipe;
    uint64_t off;
    uint8_t *p, *leaf;
    size_t n; /* in: wanted; out: read */
    int err;
    enum rc hash_rc;
};
static void piece_work(void *arg)
{
    struct piece *w = arg;
    size_t got = 0;

    while (got < w->n) {
        ssize_t r = w->pipe ? read(w->fd, w->p + got, w->n - got)
                            : pread(w->fd, w->p + got, w->n - got, (off_t)(w->off + got));

        if (r < 0 && errno == EINTR) continue;
        if (r < 0) {
            w->err = errno;
            return;
        }
        if (r == 0) break;
        got += (size_t)r;
    }
    w->n = got;
    if (w->leaf != NULL) w->hash_rc = tree_leaf(w->p, got, w->leaf);
}

static enum rc piece_run(struct piece *w, struct err *reterr)
{
    enum rc rc = fiber_work(piece_work, w);

    if (rc != RC_OK) return err_set(reterr, rc, "reading a file: %s", rc_text(rc));
    if (w->err != 0) {
        return err_set(reterr, RC_CORRUPT, "reading the file failed: %s", strerror(w->err));
    }
    return w->hash_rc == RC_OK ? RC_OK : err_set(reterr, w->hash_rc, "SHA-256 failed");
}

enum rc piece_read(int fd, uint64_t off, uint8_t *p, size_t n, uint8_t *leaf, struct err *reterr)
{
    struct piece w = {.fd = fd, .off = off, .p = p, .n = n, .leaf = leaf};
    enum rc rc = piece_run(&w, reterr);

    if (rc != RC_OK || w.n == n) return rc;
    return err_set(reterr, RC_ABORTED, "the file became shorter while it was read: put it again");
}

/* A piece's memory, handed to the connection; freed when it was sent. */
static enum rc send_piece(struct fstream *s, const ProtobufCMessage *m, uint8_t *p, size_t n)
{
    struct rpc_payload pl = {DATA_FIELD, p, (uint32_t)n, p, free};

    if (n == 0) {
        free(p);
        return fstream_send(s, m);
    }
    return fstream_send_payload(s, m, &pl);
}

/* ---- the end of an upload ---- */
static enum rc staged_take(const Mikura__V1__StagedObject *o, const uint8_t tree[32],
                           struct mikura_put_result *ret, struct err *reterr)
{
    if (o == NULL || o->object == NULL) {
        return err_set(reterr, RC_INTERNAL, "the gateway's answer names no object");
    }
    for (size_t i = 0; i < o->n_digests; i++) {
        const Mikura__V1__Digest *d = o->digests[i];

        if (d->kind != MIKURA__V1__DIGEST_KIND__TREE_SHA256 || d->value.len != 32) continue;
        if (memcmp(d->value.data, tree, 32) != 0) {
            return err_set(reterr, RC_CORRUPT,
                           "the gateway's tree-sha256 is not the file's: it changed while it was "
                           "sent, or since a broken-off upload; put it again");
        }
        ret->version = o->object->version;
        ret->size_bytes = o->size_bytes;
        ret->stage = o->staged_generation;
        ret->quarantined = o->quarantined;
        memcpy(ret->tree_sha256, tree, 32);
        return RC_OK;
    }
    return err_set(reterr, RC_INTERNAL, "the gateway's answer has no tree-sha256");
}

static enum rc receipt_take(const struct mikura_put *put, Mikura__V1__PutObjectResponse *answer,
                            struct mikura_put_result *ret, struct err *reterr)
{
    ret->generation = answer->generation;
    ret->receipt = answer->receipt;
    answer->receipt = NULL; /* moved */
    if (put->commit && !ret->quarantined && ret->receipt == NULL) {
        return err_set(reterr, RC_INTERNAL, "the gateway's answer has no receipt");
    }
    return RC_OK;
}

/* ---- PutObject ---- */
struct one {
    const struct mikura_put *put;
    Mikura__V1__PutObjectRequest first;
    Mikura__V1__PutObjectHeader header;
    Mikura__V1__UploadSpec spec;
    Mikura__V1__RequestId id;
    uint64_t sent;
    struct tree_join join;
    uint8_t tree[32];
    bool consumed; /* a pipe's bytes have gone: no second try */
};

/* Sends all bytes. *ret_stopped: the call died underneath; its reason comes from recv. */
static enum rc one_send(struct one *o, struct fstream *s, bool *ret_stopped, struct err *reterr)
{
    const struct mikura_put *put = o->put;
    Mikura__V1__PutObjectRequest plain = MIKURA__V1__PUT_OBJECT_REQUEST__INIT;
    bool first = true, end = false;
    enum rc rc;

    while (!end) {
        uint8_t leaf[32], *p = malloc(MIKURA_PIECE_BYTES);
        struct piece w = {.fd = put->fd, .pipe = put->pipe, .off = o->sent, .p = p, .leaf = leaf};

        if (p == NULL) return err_set(reterr, RC_NOMEM, "a piece of a file");
        w.n = put->pipe ? MIKURA_PIECE_BYTES
                        : (size_t)MIN((uint64_t)MIKURA_PIECE_BYTES, put->size_bytes - o->sent);
        if (put->pipe) {
            rc = piece_run(&w, reterr);
            o->consumed = true;
            end = w.n < MIKURA_PIECE_BYTES;
        } else {
            rc = piece_read(put->fd, o->sent, p, w.n, leaf, reterr);
            end = o->sent + w.n >= put->size_bytes;
        }
        /* an object of whole leaves that came through a pipe ends with an empty piece: no leaf */
        if (rc == RC_OK && (w.n > 0 || o->sent == 0)) rc = tree_join_add(&o->join, leaf);
        if (rc == RC_OK && put->pace != NULL) rc = put->pace(put->data, (uint32_t)w.n, reterr);
        if (rc != RC_OK) {
            free(p);
            return rc;
        }
        if (send_piece(s, first ? &o->first.base : &plain.base, p, w.n) != RC_OK) {
            *ret_stopped = true;
            return RC_OK;
        }
        first = false;
        o->sent += w.n;
        if (put->progress != NULL) put->progress(put->data, (int64_t)w.n);
    }
    return tree_join_digest(&o->join, o->sent, o->tree);
}

static enum rc one_try(struct mikura_client *c, struct one *o, struct attempt *a,
                       struct mikura_put_result *ret, struct err *reterr)
{
    struct rpc_request_conf conf = {.path = SVC "PutObject", .timeout_ms = MIKURA_STREAM_MS};
    Mikura__V1__PutObjectResponse *answer = NULL;
    struct err ended = {0};
    struct rpc_msg *msg;
    struct fstream *s;
    struct gateway *g;
    bool stopped = false;
    enum rc rc;

    (void)c;
    rc = attempt_pick(a, &g, reterr);
    if (rc != RC_OK) return rc;
    if (o->put->pipe) conf.timeout_ms = 0;
    rc = fstream_open(g->ch, &conf, &s);
    if (rc != RC_OK) return err_set(reterr, rc, "PutObject: %s", rc_text(rc));
    o->sent = 0;
    tree_join_init(&o->join);
    rc = one_send(o, s, &stopped, reterr);
    if (rc == RC_OK && !stopped) fstream_half_close(s);
    if (rc == RC_OK) {
        rc = stream_next(s, &msg, &ended);
        if (rc == STREAM_END) {
            rc = err_set(reterr, RC_INTERNAL, "PutObject: the call ended without an answer");
        } else if (rc != RC_OK) {
            if (reterr != NULL) *reterr = ended;
        } else {
            answer = mikura__v1__put_object_response__unpack(NULL, msg->n, msg->p);
            fstream_release(s, msg);
            /* the status decides, not the message */
            rc = stream_next(s, &msg, &ended);
            if (rc == RC_OK) {
                fstream_release(s, msg);
                rc = err_set(reterr, RC_INTERNAL, "PutObject: two answers");
            } else if (rc == STREAM_END) {
                rc = answer == NULL || stopped
                         ? err_set(reterr, RC_INTERNAL, "PutObject: an early or odd answer")
                         : staged_take(answer->object, o->tree, ret, reterr);
                if (rc == RC_OK) rc = receipt_take(o->put, answer, ret, reterr);
            } else if (reterr != NULL) {
                *reterr = ended;
            }
        }
    }
    mikura__v1__put_object_response__free_unpacked(answer, NULL);
    fstream_close(s);
    if (rc != RC_OK && o->put->progress != NULL) o->put->progress(o->put->data, -(int64_t)o->sent);
    return rc;
}

static void spec_fill(const struct mikura_put *put, Mikura__V1__UploadSpec *spec,
                      Mikura__V1__RequestId *id)
{
    mikura__v1__upload_spec__init(spec);
    spec->collection = text(put->collection);
    spec->case_id = text(put->case_id);
    spec->path = text(put->path);
    spec->media_type = text(put->media_type == NULL ? "" : put->media_type);
    spec->size_bytes = put->pipe ? 0 : put->size_bytes;
    spec->size_unknown = put->pipe;
    mikura__v1__request_id__init(id);
    id->id = bytes(put->request_id.b, 16);
}

static enum rc put_one(struct mikura_client *c, const struct mikura_put *put,
                       struct mikura_put_result *ret, struct err *reterr)
{
    struct one *o = calloc(1, sizeof *o);
    struct attempt a;
    enum rc rc;

    if (o == NULL) return err_set(reterr, RC_NOMEM, "an upload");
    o->put = put;
    spec_fill(put, &o->spec, &o->id);
    mikura__v1__put_object_header__init(&o->header);
    o->header.spec = &o->spec;
    o->header.request_id = &o->id;
    o->header.commit = put->commit;
    mikura__v1__put_object_request__init(&o->first);
    o->first.header = &o->header;
    attempt_init(&a, c);
    do {
        rc = one_try(c, o, &a, ret, reterr);
    } while (rc != RC_OK && !o->consumed && attempt_again(&a, rc));
    free(o);
    return rc;
}

/* ---- a session of chunks ---- */
struct session {
    struct mikura_client *c;
    const struct mikura_put *put;
    struct id128 upload_id;
    uint32_t chunk_bytes, chunks, next;
    uint8_t (*leaves)[32]; /* tree_leaves(size) */
    uint8_t *have;         /* bitmap of chunks that are durable */
    enum rc rc;            /* the first failure stops all */
    struct err err;
};

static bool have_chunk(const struct session *s, uint32_t i)
{
    return ((unsigned)s->have[i / 8] >> (i % 8) & 1u) != 0;
}

static enum rc chunk_try(struct session *s, struct attempt *a, uint32_t index, struct err *reterr)
{
    const struct mikura_put *put = s->put;
    struct rpc_request_conf conf = {.path = SVC "PutChunk", .timeout_ms = MIKURA_STREAM_MS};
    Mikura__V1__PutChunkRequest m = MIKURA__V1__PUT_CHUNK_REQUEST__INIT;
    Mikura__V1__ChunkHeader h = MIKURA__V1__CHUNK_HEADER__INIT;
    uint64_t off = (uint64_t)index * s->chunk_bytes, sent = 0,
             length = MIN((uint64_t)s->chunk_bytes, put->size_bytes - off);
    struct err ended = {0};
    struct rpc_msg *msg;
    struct fstream *st;
    struct gateway *g;
    enum rc rc = attempt_pick(a, &g, reterr);

    if (rc != RC_OK) return rc;
    rc = fstream_open(g->ch, &conf, &st);
    if (rc != RC_OK) return err_set(reterr, rc, "PutChunk: %s", rc_text(rc));
    h.collection = text(put->collection);
    h.case_id = text(put->case_id);
    h.upload_id = bytes(s->upload_id.b, 16);
    h.index = index;
    h.length_bytes = (uint32_t)length;
    while (rc == RC_OK && sent < length) {
        size_t n = (size_t)MIN((uint64_t)MIKURA_PIECE_BYTES, length - sent);
        uint8_t *p = malloc(n);

        if (p == NULL) {
            rc = err_set(reterr, RC_NOMEM, "a piece of a file");
            break;
        }
        rc = piece_read(put->fd, off + sent, p, n, s->leaves[(off + sent) / TREE_LEAF_BYTES],
                        reterr);
        if (rc == RC_OK && put->pace != NULL) rc = put->pace(put->data, (uint32_t)n, reterr);
        if (rc != RC_OK) {
            free(p);
            break;
        }
        m.header = sent == 0 ? &h : NULL;
        if (send_piece(st, &m.base, p, n) != RC_OK) break; /* why: from the stream's end */
        sent += n;
        if (put->progress != NULL) put->progress(put->data, (int64_t)n);
    }
    if (rc == RC_OK) {
        if (sent == length) fstream_half_close(st);
        do { /* one answer, then the status; the answer tells nothing that is needed */
            rc = stream_next(st, &msg, &ended);
            if (rc == RC_OK) fstream_release(st, msg);
        } while (rc == RC_OK);
        if (rc == STREAM_END) {
            rc = sent == length ? RC_OK
                                : err_set(reterr, RC_INTERNAL, "PutChunk: an answer too early");
        } else if (reterr != NULL) {
            *reterr = ended;
        }
    }
    fstream_close(st);
    if (rc != RC_OK && put->progress != NULL) put->progress(put->data, -(int64_t)sent);
    if (rc == RC_OK && put->answered != NULL) put->answered(put->data, sent);
    return rc;
}

/* A chunk that is there already is read all the same: the object's digest needs its leaves. */
static enum rc chunk_hash(struct session *s, uint32_t index, struct err *reterr)
{
    uint64_t off = (uint64_t)index * s->chunk_bytes,
             end = MIN(off + s->chunk_bytes, s->put->size_bytes);
    uint8_t *p = malloc(MIKURA_PIECE_BYTES);
    enum rc rc = RC_OK;

    if (p == NULL) return err_set(reterr, RC_NOMEM, "a piece of a file");
    while (rc == RC_OK && off < end) {
        size_t n = (size_t)MIN((uint64_t)MIKURA_PIECE_BYTES, end - off);

        rc = piece_read(s->put->fd, off, p, n, s->leaves[off / TREE_LEAF_BYTES], reterr);
        off += n;
        if (s->put->progress != NULL) s->put->progress(s->put->data, (int64_t)n);
    }
    free(p);
    return rc;
}

static void chunk_fiber(void *arg)
{
    struct session *s = arg;

    while (s->rc == RC_OK && s->next < s->chunks) {
        uint32_t index = s->next++;
        struct attempt a;
        struct err e = {0};
        enum rc rc;

        if (have_chunk(s, index)) {
            rc = chunk_hash(s, index, &e);
        } else {
            attempt_init(&a, s->c);
            do {
                rc = chunk_try(s, &a, index, &e);
            } while (rc != RC_OK && attempt_again(&a, rc));
        }
        if (rc != RC_OK && s->rc == RC_OK) {
            s->rc = rc;
            s->err = e;
        }
    }
}

static enum rc session_begin(struct session *s, struct err *reterr)
{
    const struct mikura_put *put = s->put;
    Mikura__V1__BeginUploadRequest req = MIKURA__V1__BEGIN_UPLOAD_REQUEST__INIT;
    Mikura__V1__ListChunksRequest list = MIKURA__V1__LIST_CHUNKS_REQUEST__INIT;
    Mikura__V1__ListChunksResponse *there;
    Mikura__V1__UploadSession *session;
    Mikura__V1__UploadSpec spec;
    Mikura__V1__RequestId id;
    enum rc rc;

    spec_fill(put, &spec, &id);
    req.spec = &spec;
    req.request_id = &id;
    rc = mikura_unary(s->c, SVC "BeginUpload", &req.base, &mikura__v1__upload_session__descriptor,
                      &session, reterr);
    if (rc != RC_OK) return rc;
    s->chunk_bytes = session->chunk_bytes;
    s->chunks = session->chunks;
    if (!id128_from_bytes(session->upload_id.data, session->upload_id.len, &s->upload_id) ||
        s->chunk_bytes < CHUNK_MIN || s->chunk_bytes % TREE_LEAF_BYTES != 0 ||
        s->chunks != (put->size_bytes + s->chunk_bytes - 1) / s->chunk_bytes) {
        rc = err_set(reterr, RC_INTERNAL, "the gateway's session is odd: %u chunks of %u bytes",
                     s->chunks, s->chunk_bytes);
    }
    mikura__v1__upload_session__free_unpacked(session, NULL);
    if (rc != RC_OK) return rc;
    s->have = calloc(1, (size_t)(s->chunks + 7u) / 8u);
    s->leaves = calloc((size_t)tree_leaves(put->size_bytes), 32);
    if (s->have == NULL || s->leaves == NULL) return err_set(reterr, RC_NOMEM, "an upload");
    list.collection = spec.collection;
    list.case_id = spec.case_id;
    list.upload_id = bytes(s->upload_id.b, 16);
    rc = mikura_unary(s->c, SVC "ListChunks", &list.base,
                      &mikura__v1__list_chunks_response__descriptor, &there, reterr);
    if (rc != RC_OK) return rc;
    memcpy(s->have, there->have_bitmap.data,
           MIN(there->have_bitmap.len, (size_t)(s->chunks + 7u) / 8u));
    mikura__v1__list_chunks_response__free_unpacked(there, NULL);
    return RC_OK;
}

static enum rc session_complete(struct session *s, struct mikura_put_result *ret,
                                struct err *reterr)
{
    const struct mikura_put *put = s->put;
    Mikura__V1__CompleteRequest req = MIKURA__V1__COMPLETE_REQUEST__INIT;
    Mikura__V1__RequestId id = MIKURA__V1__REQUEST_ID__INIT;
    Mikura__V1__Digest digest = MIKURA__V1__DIGEST__INIT;
    Mikura__V1__StagedObject *staged;
    struct tree_join *join = calloc(1, sizeof *join);
    uint8_t tree[32];
    enum rc rc = RC_OK;

    if (join == NULL) return err_set(reterr, RC_NOMEM, "an upload");
    tree_join_init(join);
    for (uint64_t i = 0; rc == RC_OK && i < tree_leaves(put->size_bytes); i++)
        rc = tree_join_add(join, s->leaves[i]);
    if (rc == RC_OK) rc = tree_join_digest(join, put->size_bytes, tree);
    free(join);
    if (rc != RC_OK) return err_set(reterr, rc, "tree-sha256 failed");
    digest.kind = MIKURA__V1__DIGEST_KIND__TREE_SHA256;
    digest.value = bytes(tree, 32);
    id.id = bytes(put->request_id.b, 16);
    req.collection = text(put->collection);
    req.case_id = text(put->case_id);
    req.upload_id = bytes(s->upload_id.b, 16);
    req.expected = &digest;
    req.request_id = &id;
    rc = mikura_unary(s->c, SVC "Complete", &req.base, &mikura__v1__staged_object__descriptor,
                      &staged, reterr);
    if (rc != RC_OK) return rc;
    rc = staged_take(staged, tree, ret, reterr);
    mikura__v1__staged_object__free_unpacked(staged, NULL);
    return rc;
}

static enum rc put_session(struct mikura_client *c, const struct mikura_put *put,
                           struct mikura_put_result *ret, struct err *reterr)
{
    uint32_t n = put->parallel == 0 ? PARALLEL : MIN(put->parallel, PARALLEL_MAX);
    struct session *s = calloc(1, sizeof *s);
    struct fiber_group group = {0};
    enum rc rc;

    if (s == NULL) return err_set(reterr, RC_NOMEM, "an upload");
    s->c = c;
    s->put = put;
    rc = session_begin(s, reterr);
    if (rc != RC_OK) goto out;
    for (uint32_t i = 0; i < n && s->rc == RC_OK; i++) {
        rc = fiber_group_spawn(&group, chunk_fiber, s);
        if (rc != RC_OK) break; /* fewer do as well, but one there must be */
    }
    if (group.running == 0 && s->next < s->chunks) chunk_fiber(s);
    fiber_group_wait(&group);
    rc = s->rc;
    if (rc != RC_OK && reterr != NULL) *reterr = s->err;
    if (rc == RC_OK) rc = session_complete(s, ret, reterr);
out:
    free(s->have);
    free(s->leaves);
    free(s);
    return rc;
}

static enum rc commit_one(struct mikura_client *c, const struct mikura_put *put,
                          struct mikura_put_result *ret, struct err *reterr)
{
    struct mikura_staged staged = {
        .path = put->path, .version = ret->version, .size_bytes = ret->size_bytes};
    struct mikura_commit commit = {.collection = put->collection,
                                   .case_id = put->case_id,
                                   .staged = &staged,
                                   .staged_n = 1,
                                   .request_id = put->request_id};
    Mikura__V1__CommitCaseResponse *answer;
    enum rc rc;

    memcpy(staged.tree_sha256, ret->tree_sha256, sizeof staged.tree_sha256);
    rc = mikura_case_generation(c, put->collection, put->case_id, &commit.expected_generation,
                                reterr);
    if (rc == RC_OK) rc = mikura_commit(c, &commit, &answer, reterr);
    if (rc != RC_OK) return rc;
    ret->generation = answer->generation;
    ret->receipt = answer->receipt;
    answer->receipt = NULL; /* moved */
    mikura__v1__commit_case_response__free_unpacked(answer, NULL);
    return RC_OK;
}

enum rc mikura_put(struct mikura_client *c, const struct mikura_put *put,
                   struct mikura_put_result *ret, struct err *reterr)
{
    enum rc rc;

    ret->receipt = NULL;
    ret->generation = 0;
    if (put->pipe || (put->size_bytes <= MIKURA_ONE_CALL_BYTES_MAX && !put->chunked)) {
        return put_one(c, put, ret, reterr);
    }
    rc = put_session(c, put, ret, reterr);
    return rc == RC_OK && put->commit && !ret->quarantined ? commit_one(c, put, ret, reterr) : rc;
}

/* ---- commits ---- */
enum rc mikura_case_generation(struct mikura_client *c, const char *collection, const char *case_id,
                               uint64_t *ret_generation, struct err *reterr)
{
    Mikura__V1__GetCaseRequest req = MIKURA__V1__GET_CASE_REQUEST__INIT;
    Mikura__V1__Case *cs;
    struct err e = {0};
    enum rc rc;

    req.collection = text(collection);
    req.case_id = text(case_id);
    rc = mikura_unary(c, "/mikura.v1.Catalog/GetCase", &req.base, &mikura__v1__case__descriptor,
                      &cs, &e);
    if (rc == RC_NOTFOUND) {
        /* of the case, or of the collection? The upload that follows tells. */
        *ret_generation = 0;
        return RC_OK;
    }
    if (rc != RC_OK) {
        if (reterr != NULL) *reterr = e;
        return rc;
    }
    *ret_generation = cs->generation;
    mikura__v1__case__free_unpacked(cs, NULL);
    return RC_OK;
}

static int staged_cmp(const void *a, const void *b)
{
    const struct mikura_staged *x = a, *y = b;
    int d = strcmp(x->path, y->path);

    return d != 0 ? d : x->version < y->version ? -1 : x->version > y->version;
}

enum rc mikura_commit(struct mikura_client *c, const struct mikura_commit *commit,
                      Mikura__V1__CommitCaseResponse **ret_answer, struct err *reterr)
{
    Mikura__V1__CommitCaseRequest req = MIKURA__V1__COMMIT_CASE_REQUEST__INIT;
    Mikura__V1__RequestId id = MIKURA__V1__REQUEST_ID__INIT;
    struct commit_root *root = calloc(1, sizeof *root);
    uint8_t digest[32];
    enum rc rc = RC_OK;

    if (root == NULL) return err_set(reterr, RC_NOMEM, "a commit");
    commit_root_init(root);
    qsort(commit->staged, commit->staged_n, sizeof *commit->staged, staged_cmp);
    for (size_t i = 0; rc == RC_OK && i < commit->staged_n; i++) {
        const struct mikura_staged *s = &commit->staged[i];
        struct commit_line line = {
            .path = {(const uint8_t *)s->path, strlen(s->path)},
            .version = s->version,
            .size_bytes = s->size_bytes,
        };

        memcpy(line.tree_sha256, s->tree_sha256, 32);
        rc = commit_root_add(root, &line);
    }
    if (rc == RC_OK) rc = commit_root_final(root, digest);
    free(root);
    if (rc != RC_OK) return err_set(reterr, rc, "the case's Merkle root: %s", rc_text(rc));
    id.id = bytes(commit->request_id.b, 16);
    req.collection = text(commit->collection);
    req.case_id = text(commit->case_id);
    req.expected_generation = commit->expected_generation;
    req.count = commit->staged_n;
    req.merkle_root = bytes(digest, 32);
    req.request_id = &id;
    return mikura_unary(c, SVC "CommitCase", &req.base,
                        &mikura__v1__commit_case_response__descriptor, ret_answer, reterr);
}

/* ---- models ---- */
struct file_hash {
    int fd;
    int err;
    bool ok;
    uint64_t size;
    uint8_t digest[32];
};
static void file_hash_work(void *arg)
{
    struct file_hash *h = arg;
    EVP_MD_CTX *md = EVP_MD_CTX_new();
    uint8_t *p = malloc(MIKURA_PIECE_BYTES);

    if (md != NULL && p != NULL && EVP_DigestInit_ex(md, EVP_sha256(), NULL) == 1) {
        ssize_t r;

        h->ok = true;
        while (h->ok && (r = pread(h->fd, p, MIKURA_PIECE_BYTES, (off_t)h->size)) != 0) {
            if (r < 0 && errno == EINTR) continue;
            if (r < 0) h->err = errno;
            h->ok = r > 0 && EVP_DigestUpdate(md, p, (size_t)r) == 1;
            h->size += r > 0 ? (uint64_t)r : 0;
        }
        h->ok = h->ok && EVP_DigestFinal_ex(md, h->digest, NULL) == 1;
    }
    EVP_MD_CTX_free(md);
    free(p);
}

static enum rc model_try(struct attempt *a, const Mikura__V1__AddModelHeader *header, int fd,
                         Mikura__V1__Model **ret, struct err *reterr)
{
    struct rpc_request_conf conf = {.path = "/mikura.v1.Models/Add",
                                    .timeout_ms = MIKURA_STREAM_MS};
    Mikura__V1__AddModelRequest first = MIKURA__V1__ADD_MODEL_REQUEST__INIT,
                                plain = MIKURA__V1__ADD_MODEL_REQUEST__INIT;
    Mikura__V1__Model *model = NULL;
    struct err ended = {0};
    struct rpc_msg *msg;
    struct fstream *s;
    struct gateway *g;
    uint64_t sent = 0;
    enum rc rc = attempt_pick(a, &g, reterr);

    if (rc != RC_OK) return rc;
    rc = fstream_open(g->ch, &conf, &s);
    if (rc != RC_OK) return err_set(reterr, rc, "Add: %s", rc_text(rc));
    first.header = (Mikura__V1__AddModelHeader *)(uintptr_t)header;
    do {
        size_t n = (size_t)MIN((uint64_t)MIKURA_PIECE_BYTES, header->size_bytes - sent);
        uint8_t *p = malloc(MAX(n, 1u));

        if (p == NULL) {
            rc = err_set(reterr, RC_NOMEM, "a piece of a model");
            break;
        }
        rc = piece_read(fd, sent, p, n, NULL, reterr);
        if (rc != RC_OK) {
            free(p);
            break;
        }
        if (send_piece(s, sent == 0 ? &first.base : &plain.base, p, n) != RC_OK) break;
        sent += n;
    } while (sent < header->size_bytes);
    if (rc == RC_OK) {
        if (sent == header->size_bytes) fstream_half_close(s);
        while ((rc = stream_next(s, &msg, &ended)) == RC_OK) {
            mikura__v1__model__free_unpacked(model, NULL);
            model = mikura__v1__model__unpack(NULL, msg->n, msg->p);
            fstream_release(s, msg);
        }
        if (rc == STREAM_END) {
            rc = model != NULL ? RC_OK : err_set(reterr, RC_INTERNAL, "Add: no answer");
        } else if (reterr != NULL) {
            *reterr = ended;
        }
    }
    fstream_close(s);
    if (rc == RC_OK) {
        *ret = model;
    } else {
        mikura__v1__model__free_unpacked(model, NULL);
    }
    return rc;
}

enum rc mikura_model_add(struct mikura_client *c, const char *name, int fd, void *ret_model,
                         struct err *reterr)
{
    Mikura__V1__AddModelHeader header = MIKURA__V1__ADD_MODEL_HEADER__INIT;
    Mikura__V1__RequestId id = MIKURA__V1__REQUEST_ID__INIT;
    struct id128 request = id128_random();
    struct file_hash hash = {.fd = fd};
    struct attempt a;
    enum rc rc = fiber_work(file_hash_work, &hash);

    if (rc != RC_OK) return err_set(reterr, rc, "reading the model: %s", rc_text(rc));
    if (!hash.ok) {
        return err_set(reterr, RC_CORRUPT, "reading the model failed: %s",
                       hash.err != 0 ? strerror(hash.err) : "out of memory");
    }
    id.id = bytes(request.b, 16);
    header.name = text(name);
    header.size_bytes = hash.size;
    header.sha256 = bytes(hash.digest, 32);
    header.request_id = &id;
    attempt_init(&a, c);
    do {
        rc = model_try(&a, &header, fd, ret_model, reterr);
    } while (rc != RC_OK && attempt_again(&a, rc));
    return rc;
}
