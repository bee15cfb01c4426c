/* The client library against a gateway in memory, over real loopback connections: what arrives,
 * what is tried again and what is not, and that damaged bytes never pass for good ones. Two servers
 * stand for two gateways of one cluster. */
#include "common/client/client_priv.h"
#include "common/crypto/digest.h"
#include "proto/mikura/v1/catalog.pb-c.h"
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#define CHUNK (8u << 20)
#define LARGE (66ull << 20) /* a session: nine chunks, the last one short */

static uv_loop_t loop;
static struct fibers *fs;
static struct mikura_client *client;
static struct rpc_server *servers[2];
static struct fcalls *calls[2];
static uint32_t closed_n;

/* ---- the gateway in memory ---- */
static struct {
    uint8_t *p; /* one object */
    uint64_t n;
    uint8_t have[8];
    uint32_t begun, tries, chunks_put, completes, lists;
    uint8_t request_id[16];
    bool size_unknown;
    /* what goes wrong */
    uint32_t fail_next; /* so many calls end UNAVAILABLE, after half of their bytes */
    enum rc refuse;     /* all calls end so */
    bool wrong_digest;  /* answers another tree-sha256 */
    uint64_t break_at;  /* Read ends UNAVAILABLE there, once */
    uint64_t flip_at;   /* Read damages this byte */
    uint8_t root[32];
    uint64_t count, expected;
    uint64_t asked_version[4], asked_offset[4];
    uint32_t reads, asks;
    uint64_t pack_bytes;
    bool packed, forget; /* forget: a pack whose answer is lost was not stored either */
} gw;

static void object_reset(void)
{
    free(gw.p);
    memset(&gw, 0, sizeof gw);
    gw.p = malloc(LARGE);
    gw.break_at = gw.flip_at = UINT64_MAX;
    assert_non_null(gw.p);
}

static enum rc trouble(struct err *reterr)
{
    if (gw.refuse != RC_OK) return err_set(reterr, gw.refuse, "refused for the test");
    if (gw.fail_next == 0) return RC_OK;
    gw.fail_next--;
    return err_set(reterr, RC_UNAVAIL, "down for the test");
}

static void tree_of(uint8_t tree[32])
{
    struct tree_stream *t;

    assert_int_equal(tree_stream_new(&t), RC_OK);
    assert_int_equal(tree_stream_update(t, gw.p, gw.n), RC_OK);
    assert_int_equal(tree_stream_digest(t, tree), RC_OK);
    tree_stream_free(t);
}

struct staged {
    Mikura__V1__StagedObject m;
    Mikura__V1__ObjectRef ref;
    Mikura__V1__Digest digest, *digests[1];
    uint8_t tree[32];
};
static Mikura__V1__StagedObject *staged(struct staged *s)
{
    mikura__v1__staged_object__init(&s->m);
    mikura__v1__object_ref__init(&s->ref);
    mikura__v1__digest__init(&s->digest);
    tree_of(s->tree);
    if (gw.wrong_digest) s->tree[0] ^= 1;
    s->ref.version = 3;
    s->m.object = &s->ref;
    s->m.size_bytes = gw.n;
    s->digest.kind = MIKURA__V1__DIGEST_KIND__TREE_SHA256;
    s->digest.value = (ProtobufCBinaryData){32, s->tree};
    s->digests[0] = &s->digest;
    s->m.digests = s->digests;
    s->m.n_digests = 1;
    return &s->m;
}

static enum rc h_put_object(struct fcall *c, struct err *reterr)
{
    Mikura__V1__PutObjectResponse answer = MIKURA__V1__PUT_OBJECT_RESPONSE__INIT;
    struct staged s;
    struct rpc_msg *m;
    bool first = true;
    enum rc rc;

    gw.tries++;
    gw.n = 0;
    if (gw.refuse != RC_OK) return trouble(reterr);
    while ((rc = fcall_recv(c, &m)) == RC_OK) {
        Mikura__V1__PutObjectRequest *q = mikura__v1__put_object_request__unpack(NULL, m->n, m->p);

        fcall_release(c, m);
        assert_non_null(q);
        assert_int_equal(q->header != NULL, first);
        assert_true(q->data.len <= MIKURA_PIECE_BYTES);
        if (first) {
            assert_string_equal(q->header->spec->path, "a/b.jpg");
            assert_int_equal(q->header->request_id->id.len, 16);
            memcpy(gw.request_id, q->header->request_id->id.data, 16);
            gw.size_unknown = q->header->spec->size_unknown;
        }
        first = false;
        if (q->data.len > 0) memcpy(gw.p + gw.n, q->data.data, q->data.len);
        gw.n += q->data.len;
        mikura__v1__put_object_request__free_unpacked(q, NULL);
        if (gw.fail_next > 0 && gw.n >= 2u << 20) return trouble(reterr);
    }
    if (rc != RC_RANGE) return rc;
    answer.object = staged(&s);
    return fcall_send(c, &answer.base);
}

static enum rc h_begin(struct fcall *c, struct err *reterr)
{
    Mikura__V1__BeginUploadRequest *req;
    Mikura__V1__UploadSession answer = MIKURA__V1__UPLOAD_SESSION__INIT;
    uint8_t id[16] = {7};
    enum rc rc = fcall_request(c, &mikura__v1__begin_upload_request__descriptor, &req, reterr);

    if (rc == RC_OK) rc = trouble(reterr);
    if (rc != RC_OK) return rc;
    gw.begun++;
    gw.n = req->spec->size_bytes;
    answer.upload_id = (ProtobufCBinaryData){16, id};
    answer.chunk_bytes = CHUNK;
    answer.chunks = (uint32_t)((gw.n + CHUNK - 1) / CHUNK);
    return fcall_send(c, &answer.base);
}

static enum rc h_list_chunks(struct fcall *c, struct err *reterr)
{
    Mikura__V1__ListChunksRequest *req;
    Mikura__V1__ListChunksResponse answer = MIKURA__V1__LIST_CHUNKS_RESPONSE__INIT;
    enum rc rc = fcall_request(c, &mikura__v1__list_chunks_request__descriptor, &req, reterr);

    if (rc != RC_OK) return rc;
    answer.have_bitmap = (ProtobufCBinaryData){2, gw.have};
    return fcall_send(c, &answer.base);
}

static enum rc h_put_chunk(struct fcall *c, struct err *reterr)
{
    Mikura__V1__PutChunkResponse answer = MIKURA__V1__PUT_CHUNK_RESPONSE__INIT;
    uint64_t at = 0, end = 0;
    struct rpc_msg *m;
    enum rc rc;

    while ((rc = fcall_recv(c, &m)) == RC_OK) {
        Mikura__V1__PutChunkRequest *q = mikura__v1__put_chunk_request__unpack(NULL, m->n, m->p);

        fcall_release(c, m);
        assert_non_null(q);
        if (q->header != NULL) {
            assert_int_equal(q->header->upload_id.data[0], 7);
            answer.index = q->header->index;
            at = (uint64_t)q->header->index * CHUNK;
            end = at + q->header->length_bytes;
        }
        assert_true(at + q->data.len <= end);
        memcpy(gw.p + at, q->data.data, q->data.len);
        at += q->data.len;
        mikura__v1__put_chunk_request__free_unpacked(q, NULL);
        if (gw.fail_next > 0) return trouble(reterr);
    }
    if (rc != RC_RANGE) return rc;
    assert_int_equal(at, end);
    gw.have[answer.index / 8] |= (uint8_t)(1u << (answer.index % 8));
    gw.chunks_put++;
    return fcall_send(c, &answer.base);
}

static enum rc h_complete(struct fcall *c, struct err *reterr)
{
    Mikura__V1__CompleteRequest *req;
    struct staged s;
    Mikura__V1__StagedObject *answer;
    enum rc rc = fcall_request(c, &mikura__v1__complete_request__descriptor, &req, reterr);

    if (rc != RC_OK) return rc;
    gw.completes++;
    answer = staged(&s);
    if (memcmp(req->expected->value.data, s.tree, 32) != 0) {
        return err_set(reterr, RC_PRECOND, "the digest differs");
    }
    return fcall_send(c, &answer->base);
}

static enum rc h_commit(struct fcall *c, struct err *reterr)
{
    Mikura__V1__CommitCaseRequest *req;
    Mikura__V1__CommitCaseResponse answer = MIKURA__V1__COMMIT_CASE_RESPONSE__INIT;
    enum rc rc = fcall_request(c, &mikura__v1__commit_case_request__descriptor, &req, reterr);

    if (rc == RC_OK) rc = trouble(reterr);
    if (rc != RC_OK) return rc;
    memcpy(gw.root, req->merkle_root.data, 32);
    gw.count = req->count;
    gw.expected = req->expected_generation;
    answer.generation = req->expected_generation + 1;
    return fcall_send(c, &answer.base);
}

static enum rc h_get_case(struct fcall *c, struct err *reterr)
{
    Mikura__V1__GetCaseRequest *req;
    Mikura__V1__Case answer = MIKURA__V1__CASE__INIT;
    enum rc rc = fcall_request(c, &mikura__v1__get_case_request__descriptor, &req, reterr);

    gw.tries++;
    if (rc == RC_OK) rc = trouble(reterr);
    if (rc != RC_OK) return rc;
    if (strcmp(req->case_id, "new") == 0) return err_set(reterr, RC_NOTFOUND, "no such case");
    answer.generation = 41;
    return fcall_send(c, &answer.base);
}

static enum rc h_read(struct fcall *c, struct err *reterr)
{
    Mikura__V1__ReadRequest *req;
    Mikura__V1__ObjectInfo info = MIKURA__V1__OBJECT_INFO__INIT;
    struct staged s;
    uint64_t at, end;
    enum rc rc = fcall_request(c, &mikura__v1__read_request__descriptor, &req, reterr);

    if (rc != RC_OK) return rc;
    if (gw.reads < 4) {
        gw.asked_version[gw.reads] = req->object->version;
        gw.asked_offset[gw.reads] = req->offset_bytes;
    }
    gw.reads++;
    at = req->offset_bytes;
    if (at > gw.n) return err_set(reterr, RC_RANGE, "offset past the end");
    end = req->length_bytes == 0 ? gw.n : MIN(gw.n, at + req->length_bytes);
    (void)staged(&s);
    info.object = &s.ref;
    info.size_bytes = gw.n;
    info.digests = s.digests;
    info.n_digests = 1;
    for (bool first = true; rc == RC_OK && (first || at < end); first = false) {
        Mikura__V1__ReadResponse m = MIKURA__V1__READ_RESPONSE__INIT;
        uint64_t n = MIN(end - at, 300000u);

        if (at <= gw.break_at && gw.break_at < at + n) {
            gw.break_at = UINT64_MAX;
            return err_set(reterr, RC_UNAVAIL, "broken off for the test");
        }
        m.info = first ? &info : NULL;
        m.data = (ProtobufCBinaryData){n, gw.p + at};
        if (at <= gw.flip_at && gw.flip_at < at + n) gw.p[gw.flip_at] ^= 1;
        rc = fcall_send(c, &m.base);
        if (at <= gw.flip_at && gw.flip_at < at + n) gw.p[gw.flip_at] ^= 1;
        at += n;
    }
    return rc;
}

/* Ten objects, three a message; breaks off once after the second. */
static enum rc h_list(struct fcall *c, struct err *reterr)
{
    Mikura__V1__ListRequest *req;
    enum rc rc = fcall_request(c, &mikura__v1__list_request__descriptor, &req, reterr);
    unsigned at;

    if (rc != RC_OK) return rc;
    gw.lists++;
    at = req->page_token[0] == 0 ? 0 : (unsigned)(req->page_token[0] - '0');
    for (unsigned sent = 0; rc == RC_OK && at < 10; sent++) {
        Mikura__V1__ListResponse m = MIKURA__V1__LIST_RESPONSE__INIT;
        Mikura__V1__ObjectInfo infos[3], *list[3];
        char token[2] = {0};

        if (sent == 2 && gw.lists == 1) return err_set(reterr, RC_UNAVAIL, "broken off");
        for (; m.n_objects < 3 && at < 10; at++) {
            mikura__v1__object_info__init(&infos[m.n_objects]);
            infos[m.n_objects].size_bytes = at;
            list[m.n_objects] = &infos[m.n_objects];
            m.n_objects++;
        }
        m.objects = list;
        token[0] = (char)('0' + at);
        m.page_token = at < 10 ? token : m.page_token;
        rc = fcall_send(c, &m.base);
    }
    return rc;
}

/* Bytes of all objects one after the other; the digest of each as its range says. */
static enum rc h_put_pack(struct fcall *c, struct err *reterr)
{
    Mikura__V1__PutPackResponse answer = MIKURA__V1__PUT_PACK_RESPONSE__INIT;
    Mikura__V1__StagedObject *list[8];
    Mikura__V1__PutPackRequest *first = NULL;
    struct staged s[8];
    uint64_t n = 0, at = 0;
    struct rpc_msg *m;
    enum rc rc;

    gw.tries++;
    while ((rc = fcall_recv(c, &m)) == RC_OK) {
        Mikura__V1__PutPackRequest *q = mikura__v1__put_pack_request__unpack(NULL, m->n, m->p);

        fcall_release(c, m);
        assert_non_null(q);
        assert_true(q->data.len <= MIKURA_PIECE_BYTES);
        if (q->data.len > 0) memcpy(gw.p + n, q->data.data, q->data.len);
        n += q->data.len;
        if (first == NULL) {
            first = q;
        } else {
            assert_null(q->header);
            mikura__v1__put_pack_request__free_unpacked(q, NULL);
        }
    }
    if (rc != RC_RANGE) { /* the client gave up */
        mikura__v1__put_pack_request__free_unpacked(first, NULL);
        return rc;
    }
    gw.asks += first->header->ask ? 1 : 0;
    if (first->header->ask) {
        assert_int_equal(n, 0);
        rc = gw.packed ? RC_OK : err_set(reterr, RC_NOTFOUND, "nothing was stored");
    } else {
        gw.pack_bytes += n;
        gw.packed = !gw.forget;
        rc = trouble(reterr);
    }
    for (size_t i = 0; rc == RC_OK && i < first->header->n_objects; i++) {
        uint8_t *all = gw.p;

        gw.p += at;
        gw.n = first->header->objects[i]->size_bytes;
        list[i] = staged(&s[i]);
        list[i]->object->path = first->header->objects[i]->path;
        at += gw.n;
        gw.p = all;
    }
    answer.objects = list;
    answer.n_objects = first->header->n_objects;
    answer.was_there = first->header->ask;
    if (rc == RC_OK) rc = fcall_send(c, &answer.base);
    mikura__v1__put_pack_request__free_unpacked(first, NULL);
    return rc;
}

static const struct fcall_method METHODS[] = {
    {"/mikura.v1.Objects/PutPack", true, 0, h_put_pack},
    {"/mikura.v1.Objects/PutObject", true, 0, h_put_object},
    {"/mikura.v1.Objects/BeginUpload", false, 0, h_begin},
    {"/mikura.v1.Objects/ListChunks", false, 0, h_list_chunks},
    {"/mikura.v1.Objects/PutChunk", true, 0, h_put_chunk},
    {"/mikura.v1.Objects/Complete", false, 0, h_complete},
    {"/mikura.v1.Objects/CommitCase", false, 0, h_commit},
    {"/mikura.v1.Catalog/GetCase", false, 0, h_get_case},
    {"/mikura.v1.Objects/Read", false, 0, h_read},
    {"/mikura.v1.Objects/List", false, 0, h_list},
    {NULL, false, 0, NULL},
};

/* ---- set-up ---- */
static void on_closed(void *data)
{
    (void)data;
    closed_n++;
}

static void in_fiber(void (*fn)(void *arg))
{
    assert_int_equal(fiber_spawn(fs, fn, NULL), RC_OK);
    while (fibers_running(fs) > 0)
        uv_run(&loop, UV_RUN_ONCE);
}

static int setup(void **state)
{
    struct err e;

    (void)state;
    assert_int_equal(uv_loop_init(&loop), 0);
    assert_int_equal(fibers_open(&loop, &fs), RC_OK);
    /* without TLS: mikura_client_open does nothing else than this */
    client = calloc(1, sizeof *client);
    assert_non_null(client);
    client->fs = fs;
    client->patience_ms = 20000;
    for (unsigned i = 0; i < 2; i++) {
        struct rpc_server_conf conf = {.loop = &loop, .host = "127.0.0.1"};
        struct rpc_channel_conf ch = {.loop = &loop, .host = "127.0.0.1", .connect_ms = 3000};

        assert_int_equal(rpc_server_open(&conf, &servers[i], &e), RC_OK);
        assert_int_equal(fcalls_add(servers[i], fs, METHODS, NULL, &calls[i]), RC_OK);
        rpc_server_set_serving(servers[i], "", true);
        ch.port = rpc_server_port(servers[i]);
        assert_int_equal(rpc_channel_new(&ch, &client->gw[i].ch, &e), RC_OK);
        (void)snprintf(client->gw[i].address, sizeof client->gw[i].address, "gw%u", i);
        client->gw_n++;
    }
    return 0;
}

static void close_client(void *arg)
{
    (void)arg;
    mikura_client_close(client);
}

static int teardown(void **state)
{
    (void)state;
    in_fiber(close_client);
    for (unsigned i = 0; i < 2; i++)
        rpc_server_close(servers[i], 0, on_closed, NULL);
    while (closed_n < 2)
        uv_run(&loop, UV_RUN_ONCE);
    for (unsigned i = 0; i < 2; i++)
        fcalls_free(calls[i]);
    fibers_close(fs);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&loop), 0);
    free(gw.p);
    return 0;
}

/* A file of n bytes that repeat nowhere near a leaf's length. */
static int file_of(uint64_t n)
{
    char path[] = "/tmp/mikura-client-XXXXXX";
    int fd = mkstemp(path);
    uint8_t *p = malloc(n + 8);

    assert_true(fd >= 0);
    assert_non_null(p);
    (void)unlink(path);
    for (uint64_t i = 0; i < n; i += 8) {
        uint64_t v = (i + 1) * 0x9e3779b97f4a7c15ull;

        memcpy(p + i, &v, 8);
    }
    for (uint64_t at = 0; at < n;) {
        ssize_t w = write(fd, p + at, n - at);

        assert_true(w > 0);
        at += (uint64_t)w;
    }
    free(p);
    return fd;
}

static void assert_stored(int fd, uint64_t n)
{
    uint8_t *p = malloc(1u << 20);

    assert_non_null(p);
    assert_int_equal(gw.n, n);
    for (uint64_t at = 0; at < n;) {
        ssize_t r = pread(fd, p, 1u << 20, (off_t)at);

        assert_true(r > 0);
        assert_memory_equal(p, gw.p + at, (size_t)r);
        at += (uint64_t)r;
    }
    free(p);
}

static int64_t progressed;
static void on_progress(void *data, int64_t bytes)
{
    (void)data;
    progressed += bytes;
}

static struct mikura_put put_of(int fd, uint64_t n)
{
    progressed = 0;
    return (struct mikura_put){.collection = "c",
                               .case_id = "k",
                               .path = "a/b.jpg",
                               .fd = fd,
                               .size_bytes = n,
                               .request_id = {{1, 2, 3}},
                               .progress = on_progress};
}

/* ---- tests ---- */
static void small_run(void *arg)
{
    static const uint64_t SIZES[] = {0, 1, 1u << 20, (3u << 20) + 17};
    struct mikura_put_result r;
    struct err e;

    (void)arg;
    for (unsigned i = 0; i < ARRAY_N(SIZES); i++) {
        int fd = file_of(SIZES[i]);
        struct mikura_put put = put_of(fd, SIZES[i]);
        uint8_t tree[32];

        object_reset();
        assert_int_equal(mikura_put(client, &put, &r, &e), RC_OK);
        assert_stored(fd, SIZES[i]);
        tree_of(tree);
        assert_memory_equal(r.tree_sha256, tree, 32);
        assert_int_equal(r.version, 3);
        assert_int_equal(gw.tries, 1);
        assert_int_equal(progressed, SIZES[i]);
        (void)close(fd);
    }
}
static void small(void **state)
{
    (void)state;
    in_fiber(small_run);
}

static void again_run(void *arg)
{
    uint64_t n = (5u << 20) + 1;
    int fd = file_of(n);
    struct mikura_put put = put_of(fd, n);
    struct mikura_put_result r;
    struct err e = {0};

    (void)arg;
    object_reset();
    gw.fail_next = 3; /* each after 2 MiB; then it must go whole */
    assert_int_equal(mikura_put(client, &put, &r, &e), RC_OK);
    assert_int_equal(gw.tries, 4);
    assert_stored(fd, n);
    assert_memory_equal(gw.request_id, put.request_id.b, 16); /* the same one for every try */
    assert_int_equal(progressed, n);                          /* what failed was taken back */
    /* what trying again cannot mend is told at once, with the gateway's words */
    object_reset();
    gw.refuse = RC_DENIED;
    assert_int_equal(mikura_put(client, &put, &r, &e), RC_DENIED);
    assert_string_equal(e.msg, "refused for the test");
    assert_int_equal(gw.tries, 1);
    assert_int_equal(progressed, n); /* and again taken back */
    /* another digest than ours is never taken for success */
    object_reset();
    gw.wrong_digest = true;
    assert_int_equal(mikura_put(client, &put, &r, &e), RC_CORRUPT);
    /* the file is shorter than it was said to be */
    object_reset();
    put.size_bytes = n + 1;
    assert_int_equal(mikura_put(client, &put, &r, &e), RC_ABORTED);
    (void)close(fd);
}
static void again(void **state)
{
    (void)state;
    in_fiber(again_run);
}

/* Objects of all lengths in one call; an answer that is lost costs no byte, bytes that are lost go
 * once more. */
static void pack_run(void *arg)
{
    static const uint64_t SIZES[] = {0, 1, (1u << 20) + 3, 0, 700000, 1u << 20};
    struct mikura_pack_entry e[ARRAY_N(SIZES)] = {0};
    struct mikura_pack pack = {.collection = "c",
                               .case_id = "k",
                               .entries = e,
                               .n = ARRAY_N(SIZES),
                               .request_id = {{1, 2, 3}},
                               .progress = on_progress};
    char names[ARRAY_N(SIZES)][8];
    uint64_t total = 0;
    struct err err;

    (void)arg;
    for (unsigned i = 0; i < ARRAY_N(SIZES); i++) {
        (void)snprintf(names[i], sizeof names[i], "f%u", i);
        e[i].path = names[i];
        e[i].fd = file_of(SIZES[i]);
        e[i].size_bytes = SIZES[i];
        total += SIZES[i];
    }
    for (int way = 0; way < 4; way++) {
        object_reset();
        progressed = 0;
        gw.fail_next = way == 1 || way == 2;
        gw.forget = way == 2;
        gw.packed = pack.again = way == 3;
        gw.wrong_digest = false;
        assert_int_equal(mikura_pack(client, &pack, &err), way == 3 ? RC_CORRUPT : RC_OK);
        assert_int_equal(gw.pack_bytes, way == 2 ? 2 * total : way == 3 ? 0 : total);
        assert_int_equal(gw.asks, way == 0 ? 0 : 1);
        if (way == 3) break; /* asked for first: what is there has other bytes (none) */
        assert_int_equal(progressed, total);
        for (unsigned i = 0, at = 0; i < ARRAY_N(SIZES); at += (unsigned)SIZES[i++]) {
            uint8_t tree[32], *all = gw.p;

            gw.p += at;
            gw.n = SIZES[i];
            tree_of(tree);
            gw.p = all;
            assert_memory_equal(e[i].tree_sha256, tree, 32);
            assert_int_equal(e[i].version, 3);
        }
    }
    object_reset();
    gw.refuse = RC_DENIED;
    pack.again = false;
    assert_int_equal(mikura_pack(client, &pack, &err), RC_DENIED);
    object_reset();
    assert_int_equal(ftruncate(e[4].fd, 5), 0);
    assert_int_equal(mikura_pack(client, &pack, &err), RC_ABORTED);
    assert_non_null(strstr(err.msg, "f4"));
    for (unsigned i = 0; i < ARRAY_N(SIZES); i++)
        (void)close(e[i].fd);
}
static void packs(void **state)
{
    (void)state;
    in_fiber(pack_run);
}

static void pipe_run(void *arg)
{
    struct mikura_put put = put_of(-1, 0);
    struct mikura_put_result r;
    struct err e;
    int ends[2];

    (void)arg;
    object_reset();
    assert_int_equal(pipe(ends), 0);
    assert_int_equal(write(ends[1], "from a pipe", 11), 11);
    (void)close(ends[1]);
    put.fd = ends[0];
    put.pipe = true;
    assert_int_equal(mikura_put(client, &put, &r, &e), RC_OK);
    assert_true(gw.size_unknown);
    assert_int_equal(gw.n, 11);
    assert_memory_equal(gw.p, "from a pipe", 11);
    (void)close(ends[0]);
}
static void pipes(void **state)
{
    (void)state;
    in_fiber(pipe_run);
}

static void session_run(void *arg)
{
    int fd = file_of(LARGE);
    struct mikura_put put = put_of(fd, LARGE);
    struct mikura_put_result r;
    uint8_t tree[32];
    struct err e = {0};

    (void)arg;
    object_reset();
    gw.fail_next = 2; /* BeginUpload once, one chunk once */
    if (mikura_put(client, &put, &r, &e) != RC_OK) fail_msg("%s", e.msg);
    assert_int_equal(gw.begun, 1);
    assert_int_equal(gw.chunks_put, 9);
    assert_stored(fd, LARGE);
    tree_of(tree);
    assert_memory_equal(r.tree_sha256, tree, 32);
    assert_int_equal(progressed, LARGE);
    /* resumed: only what is missing travels */
    progressed = 0;
    gw.have[0] = 0xdb; /* 2 and 5 of the first eight */
    gw.have[1] = 0;    /* and the ninth */
    gw.chunks_put = 0;
    memset(gw.p + 2 * (size_t)CHUNK, 0, CHUNK);
    assert_int_equal(mikura_put(client, &put, &r, &e), RC_OK);
    assert_int_equal(gw.chunks_put, 3);
    assert_stored(fd, LARGE);
    assert_int_equal(progressed, LARGE);
    (void)close(fd);
}
static void session(void **state)
{
    (void)state;
    in_fiber(session_run);
}

static void commit_run(void *arg)
{
    struct mikura_staged lines[2] = {{.path = "b", .version = 1, .size_bytes = 5},
                                     {.path = "a", .version = 2, .size_bytes = 6}};
    struct mikura_commit commit = {.collection = "c",
                                   .case_id = "k",
                                   .staged = lines,
                                   .staged_n = 2,
                                   .expected_generation = 41,
                                   .request_id = {{9}}};
    Mikura__V1__CommitCaseResponse *answer;
    struct commit_root *root = calloc(1, sizeof *root);
    uint8_t want[32];
    uint64_t generation = 7;
    struct err e;

    (void)arg;
    object_reset();
    lines[0].tree_sha256[0] = 0xb;
    lines[1].tree_sha256[0] = 0xa;
    gw.fail_next = 1;
    assert_int_equal(mikura_commit(client, &commit, &answer, &e), RC_OK);
    assert_int_equal(answer->generation, 42);
    mikura__v1__commit_case_response__free_unpacked(answer, NULL);
    assert_int_equal(gw.count, 2);
    assert_non_null(root);
    commit_root_init(root);
    for (unsigned i = 0; i < 2; i++) { /* sorted by now: a before b */
        struct commit_line line = {.path = {(const uint8_t *)(i == 0 ? "a" : "b"), 1},
                                   .version = i == 0 ? 2 : 1,
                                   .size_bytes = i == 0 ? 6 : 5,
                                   .tree_sha256 = {i == 0 ? 0xa : 0xb}};

        assert_int_equal(commit_root_add(root, &line), RC_OK);
    }
    assert_int_equal(commit_root_final(root, want), RC_OK);
    assert_memory_equal(gw.root, want, 32);
    free(root);
    assert_int_equal(mikura_case_generation(client, "c", "k", &generation, &e), RC_OK);
    assert_int_equal(generation, 41);
    assert_int_equal(mikura_case_generation(client, "c", "new", &generation, &e), RC_OK);
    assert_int_equal(generation, 0);
    gw.refuse = RC_DENIED;
    assert_int_equal(mikura_case_generation(client, "c", "k", &generation, &e), RC_DENIED);
    /* a limit may pass: tried a few times, then told */
    gw.refuse = RC_BUSY;
    gw.tries = 0;
    assert_int_equal(rc_grpc(mikura_case_generation(client, "c", "k", &generation, &e)), 8);
    assert_int_equal(gw.tries, 5);
}
static void commits(void **state)
{
    (void)state;
    in_fiber(commit_run);
}

struct sink {
    uint8_t *p;
    uint64_t n;
    enum rc fail;
};
static enum rc sink_write(void *data, const uint8_t *p, size_t n, struct err *reterr)
{
    struct sink *s = data;

    if (s->fail != RC_OK) return err_set(reterr, s->fail, "no room here");
    memcpy(s->p + s->n, p, n);
    s->n += n;
    return RC_OK;
}

static void get_run(void *arg)
{
    struct sink sink = {.p = malloc(4u << 20)};
    struct mikura_get get = {
        .collection = "c", .case_id = "k", .path = "p", .write = sink_write, .data = &sink};
    Mikura__V1__ObjectInfo *info;
    struct err e = {0};

    (void)arg;
    object_reset();
    assert_non_null(sink.p);
    gw.n = 2500000;
    for (uint64_t i = 0; i < gw.n; i++)
        gw.p[i] = (uint8_t)(i * 131 >> 7);
    assert_int_equal(mikura_get(client, &get, &info, &e), RC_OK);
    assert_int_equal(info->size_bytes, gw.n);
    mikura__v1__object_info__free_unpacked(info, NULL);
    assert_int_equal(sink.n, gw.n);
    assert_memory_equal(sink.p, gw.p, gw.n);
    /* broken off: goes on where it was, at the version that it began with */
    sink.n = 0;
    gw.reads = 0;
    gw.break_at = 1500000;
    assert_int_equal(mikura_get(client, &get, NULL, &e), RC_OK);
    assert_int_equal(gw.reads, 2);
    assert_int_equal(gw.asked_version[0], 0);
    assert_int_equal(gw.asked_version[1], 3);
    assert_int_equal(gw.asked_offset[1], 1500000);
    assert_int_equal(sink.n, gw.n);
    assert_memory_equal(sink.p, gw.p, gw.n);
    /* a range, broken off too */
    sink.n = 0;
    gw.break_at = 1300000;
    get.offset_bytes = 1000001;
    get.length_bytes = 700000;
    assert_int_equal(mikura_get(client, &get, NULL, &e), RC_OK);
    assert_int_equal(sink.n, 700000);
    assert_memory_equal(sink.p, gw.p + 1000001, 700000);
    /* OUT_OF_RANGE is an error, not the end of a stream */
    memset(&e, 0, sizeof e);
    get.offset_bytes = gw.n + 1;
    assert_int_equal(mikura_get(client, &get, NULL, &e), RC_RANGE);
    assert_string_equal(e.msg, "offset past the end");
    /* one flipped bit */
    sink.n = 0;
    get.offset_bytes = get.length_bytes = 0;
    gw.flip_at = 2000000;
    assert_int_equal(mikura_get(client, &get, NULL, &e), RC_CORRUPT);
    /* our own failure ends it, once */
    sink.n = 0;
    gw.flip_at = UINT64_MAX;
    gw.reads = 0;
    sink.fail = RC_UNAVAIL;
    assert_int_equal(mikura_get(client, &get, NULL, &e), RC_UNAVAIL);
    assert_string_equal(e.msg, "no room here");
    assert_int_equal(gw.reads, 1);
    /* nothing in it */
    sink.fail = RC_OK;
    gw.n = 0;
    assert_int_equal(mikura_get(client, &get, NULL, &e), RC_OK);
    assert_int_equal(sink.n, 0);
    free(sink.p);
}
static void gets(void **state)
{
    (void)state;
    in_fiber(get_run);
}

static enum rc list_each(void *data, const Mikura__V1__ObjectInfo *info, struct err *reterr)
{
    uint64_t *next = data;

    (void)reterr;
    assert_int_equal(info->size_bytes, *next); /* each once, in order */
    (*next)++;
    return RC_OK;
}

static void list_run(void *arg)
{
    uint64_t next = 0;
    struct err e;

    (void)arg;
    object_reset();
    assert_int_equal(mikura_list(client, "c", "", "", list_each, &next, &e), RC_OK);
    assert_int_equal(next, 10);
    assert_int_equal(gw.lists, 2); /* broken off once */
}
static void lists(void **state)
{
    (void)state;
    in_fiber(list_run);
}

static void nobody_run(void *arg)
{
    struct rpc_channel_conf ch = {
        .loop = &loop, .host = "127.0.0.1", .port = 1, .connect_ms = 1000};
    struct mikura_client *none = calloc(1, sizeof *none);
    uint64_t generation;
    struct err e;

    (void)arg;
    assert_non_null(none);
    none->fs = fs;
    none->patience_ms = 50;
    assert_int_equal(rpc_channel_new(&ch, &none->gw[0].ch, &e), RC_OK);
    none->gw_n = 1;
    assert_int_equal(mikura_case_generation(none, "c", "k", &generation, &e), RC_UNAVAIL);
    assert_non_null(strstr(e.msg, "no gateway answers"));
    assert_non_null(strstr(e.msg, "MIKURA_ADDRESS"));
    mikura_client_close(none);
    /* the first gateway is dead, the second one serves */
    object_reset();
    none = calloc(1, sizeof *none);
    assert_non_null(none);
    none->fs = fs;
    none->patience_ms = 20000;
    assert_int_equal(rpc_channel_new(&ch, &none->gw[0].ch, &e), RC_OK);
    ch.port = rpc_server_port(servers[1]);
    assert_int_equal(rpc_channel_new(&ch, &none->gw[1].ch, &e), RC_OK);
    none->gw_n = 2;
    assert_int_equal(mikura_case_generation(none, "c", "k", &generation, &e), RC_OK);
    assert_int_equal(generation, 41);
    mikura_client_close(none);
}
static void nobody(void **state)
{
    (void)state;
    in_fiber(nobody_run);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(small), cmocka_unit_test(packs),   cmocka_unit_test(again),
        cmocka_unit_test(pipes), cmocka_unit_test(session), cmocka_unit_test(commits),
        cmocka_unit_test(gets),  cmocka_unit_test(lists),   cmocka_unit_test(nobody),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
