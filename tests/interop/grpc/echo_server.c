/* tests/interop/grpc/echo_server.c - the server that stock gRPC clients and curl are tried against.
 *
 * usage: echo_server DESCRIPTORS [CA CERT KEY]; prints "port N", serves until SIGTERM. What a call
 * does is asked for in header.collection; messages are PutChunkRequest in both directions, since a
 * client that reads them with its own code proves our encoding of a payload without a copy too. */
#include "common/base/macros.h"
#include "common/fiber/rpc_fiber.h"
#include "common/net/http.h"
#include "proto/mikura/v1/objects.pb-c.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef Mikura__V1__PutChunkRequest piece;
typedef Mikura__V1__ChunkHeader header;

static struct {
    uv_loop_t loop;
    uv_signal_t term;
    struct rpc_server *server;
    struct fibers *fs;
    struct fcalls *calls;
    uint32_t held_ended; /* calls of "hang" that ended */
} sv;

static piece *unpack(const struct rpc_msg *m)
{
    return mikura__v1__put_chunk_request__unpack(NULL, m->n, m->p);
}

static const char *asked(const piece *p)
{
    return p->header != NULL ? p->header->collection : "";
}

/* ---- unary, by callbacks ---- */

static void reply_numbers(struct rpc_call *c, uint32_t index)
{
    header h = MIKURA__V1__CHUNK_HEADER__INIT;
    piece a = MIKURA__V1__PUT_CHUNK_REQUEST__INIT;

    h.index = index;
    a.header = &h;
    rpc_call_reply(c, &a.base);
}

/* The bytes of x-blob-bin come back decoded in `data`, and as they came in a trailer. */
static void reply_metadata(struct rpc_call *c)
{
    const char *value = rpc_call_metadata(c, "x-blob-bin");
    piece a = MIKURA__V1__PUT_CHUNK_REQUEST__INIT;
    struct err e = {0};
    uint8_t blob[512];
    size_t n;

    if (value == NULL || !rpc_metadata_bin(value, blob, sizeof(blob), &n)) {
        (void)err_set(&e, RC_INVAL, "x-blob-bin is absent or no base64");
        rpc_call_finish(c, RC_INVAL, &e);
        return;
    }
    if (rpc_call_trailer(c, "x-blob-bin", value) != RC_OK) {
        rpc_call_finish(c, RC_NOMEM, NULL);
        return;
    }
    a.data = (ProtobufCBinaryData){.len = n, .data = blob};
    rpc_call_reply(c, &a.base);
}

static void on_unary(struct rpc_call *c, struct rpc_msg *m)
{
    piece *p = unpack(m);
    const char *what;
    struct err e = {0};

    if (p == NULL) {
        rpc_call_finish(c, RC_INVAL, NULL);
        return;
    }
    what = asked(p);
    if (strcmp(what, "hang") == 0) {
        rpc_call_set_data(c, &sv); /* until its caller gives up */
    } else if (strcmp(what, "held") == 0) {
        reply_numbers(c, sv.held_ended);
    } else if (strcmp(what, "metadata") == 0) {
        reply_metadata(c);
    } else if (strcmp(what, "fail") == 0) {
        (void)err_set(&e, RC_NOTFOUND, "御蔵: 100%% weg\nZeile zwei, é");
        rpc_call_finish(c, RC_NOTFOUND, &e);
    } else if (strcmp(what, "up") == 0 || strcmp(what, "down") == 0) {
        rpc_server_set_serving(sv.server, "mikura.test.Echo", strcmp(what, "up") == 0);
        reply_numbers(c, 0);
    } else {
        rpc_call_reply(c, &p->base);
    }
    mikura__v1__put_chunk_request__free_unpacked(p, NULL);
}

static void on_unary_end(struct rpc_call *c, enum rc rc)
{
    (void)rc;
    if (rpc_call_data(c) == &sv) sv.held_ended++;
}

static const struct rpc_method METHODS[] = {
    {.path = "/mikura.test.Echo/Unary", .on_message = on_unary, .on_end = on_unary_end},
    {0},
};

/* ---- streams, in fibers ---- */

/* How many messages came, and how many bytes of data. */
static enum rc h_up(struct fcall *c, struct err *reterr)
{
    header h = MIKURA__V1__CHUNK_HEADER__INIT;
    piece a = MIKURA__V1__PUT_CHUNK_REQUEST__INIT;
    struct rpc_msg *m;
    enum rc rc;

    while ((rc = fcall_recv(c, &m)) == RC_OK) {
        piece *p = unpack(m);

        fcall_release(c, m);
        if (p == NULL) return err_set(reterr, RC_INVAL, "message %u does not decode", h.index);
        h.index++;
        h.length_bytes += (uint32_t)p->data.len;
        mikura__v1__put_chunk_request__free_unpacked(p, NULL);
    }
    if (rc != RC_RANGE) return rc;
    a.header = &h;
    return fcall_send(c, &a.base);
}

/* header.index messages of header.length_bytes each; message i is filled with the byte i. */
static enum rc h_down(struct fcall *c, struct err *reterr)
{
    piece *q;
    enum rc rc = fcall_request(c, &mikura__v1__put_chunk_request__descriptor, &q, reterr);

    if (rc != RC_OK) return rc;
    if (q->header == NULL || q->header->length_bytes > RPC_MESSAGE_BYTES_MAX)
        return err_set(reterr, RC_INVAL, "no header, or over 2 MiB a message");
    for (uint32_t i = 0; i < q->header->index && rc == RC_OK; i++) {
        header h = MIKURA__V1__CHUNK_HEADER__INIT;
        piece a = MIKURA__V1__PUT_CHUNK_REQUEST__INIT;
        struct rpc_payload payload = {
            .field = 15, .n = q->header->length_bytes, .owner_free = free};
        uint8_t *bytes = malloc(payload.n + 1u);

        if (bytes == NULL) return err_set(reterr, RC_NOMEM, "message %u", i);
        memset(bytes, (int)(i & 0xff), payload.n);
        payload.p = payload.owner = bytes;
        h.index = i;
        a.header = &h;
        rc = fcall_send_payload(c, &a.base, &payload);
    }
    return rc;
}

static enum rc h_both(struct fcall *c, struct err *reterr)
{
    struct rpc_msg *m;
    enum rc rc;

    while ((rc = fcall_recv(c, &m)) == RC_OK) {
        piece *p = unpack(m);

        fcall_release(c, m);
        if (p == NULL) return err_set(reterr, RC_INVAL, "a message does not decode");
        rc = fcall_send(c, &p->base);
        mikura__v1__put_chunk_request__free_unpacked(p, NULL);
        if (rc != RC_OK) return rc;
    }
    return rc == RC_RANGE ? RC_OK : rc;
}

/* A real method, so that a client that knows it by reflection only can call it. */
static enum rc h_stat(struct fcall *c, struct err *reterr)
{
    Mikura__V1__ObjectInfo a = MIKURA__V1__OBJECT_INFO__INIT;
    Mikura__V1__StatRequest *q;
    enum rc rc = fcall_request(c, &mikura__v1__stat_request__descriptor, &q, reterr);

    if (rc != RC_OK) return rc;
    a.object = q->object;
    a.size_bytes = UINT64_MAX - 1;
    return fcall_send(c, &a.base);
}

static const struct fcall_method STREAMS[] = {
    {"/mikura.test.Echo/Up", true, 0, h_up},
    {"/mikura.test.Echo/Down", false, 0, h_down},
    {"/mikura.test.Echo/Both", true, 0, h_both},
    {"/mikura.v1.Objects/Stat", false, 0, h_stat},
    {NULL, false, 0, NULL},
};

/* ---- plain HTTP ---- */

static void on_page(struct http_request *r, struct slice body)
{
    if (body.n > 0) {
        http_reply(r, 200, "application/octet-stream", body);
    } else {
        const char *q = http_request_query(r);

        http_reply(r, 200, "text/plain", (struct slice){(const uint8_t *)q, strlen(q)});
    }
}

static const struct http_route ROUTES[] = {
    {.method = "GET", .path = "/page", .on_request = on_page, .anonymous = true},
    {.method = "POST",
     .path = "/page",
     .body_bytes_max = 8u << 20,
     .on_request = on_page,
     .anonymous = true},
    {0},
};

/* ---- main ---- */

static void on_closed(void *data)
{
    (void)data;
    fcalls_free(sv.calls);
    fibers_close(sv.fs);
    uv_close((uv_handle_t *)&sv.term, NULL);
}

static void on_term(uv_signal_t *s, int signo)
{
    (void)signo;
    (void)uv_signal_stop(s);
    rpc_server_close(sv.server, /* grace_ms= */ 200, on_closed, NULL);
}

static uint8_t *file_load(const char *path, size_t *ret_n)
{
    FILE *f = fopen(path, "rb");
    uint8_t *p = malloc(1u << 20);

    if (f == NULL || p == NULL) {
        (void)fprintf(stderr, "echo_server: cannot read '%s'\n", path);
        exit(1);
    }
    *ret_n = fread(p, 1, 1u << 20, f);
    (void)fclose(f);
    return p;
}

int main(int argc, char **argv)
{
    struct rpc_server_conf conf = {.loop = &sv.loop, .host = "127.0.0.1"};
    struct err e = {0};
    uint8_t *fds;

    if (argc != 2 && argc != 5) {
        (void)fprintf(stderr, "usage: echo_server DESCRIPTORS [CA CERT KEY]\n");
        return 2;
    }
    fds = file_load(argv[1], &conf.descriptors_n);
    conf.descriptors = fds;
    if (argc == 5) {
        struct tls_conf tc = {.ca_path = argv[2], .cert_path = argv[3], .key_path = argv[4]};

        if (tls_new(&tc, &conf.tls, &e) != RC_OK) goto fail;
    }
    if (uv_loop_init(&sv.loop) != 0 || fibers_open(&sv.loop, &sv.fs) != RC_OK) goto fail;
    if (rpc_server_open(&conf, &sv.server, &e) != RC_OK) goto fail;
    if (rpc_server_add(sv.server, METHODS) != RC_OK || http_route_add(sv.server, ROUTES) != RC_OK ||
        fcalls_add(sv.server, sv.fs, STREAMS, NULL, &sv.calls) != RC_OK) {
        goto fail;
    }
    rpc_server_set_serving(sv.server, "mikura.test.Echo", true);
    CHECK(uv_signal_init(&sv.loop, &sv.term) == 0);
    CHECK(uv_signal_start(&sv.term, on_term, SIGTERM) == 0);
    (void)printf("port %u\n", rpc_server_port(sv.server));
    (void)fflush(stdout);
    (void)uv_run(&sv.loop, UV_RUN_DEFAULT);
    CHECK(uv_loop_close(&sv.loop) == 0); /* every call, stream and connection is gone */
    tls_unref(conf.tls);
    free(fds);
    return 0;
fail:
    (void)fprintf(stderr, "echo_server: %s\n", e.msg);
    return 1;
}
