/* Calls as straight code over a real loopback connection: unary, streams larger than every window,
 * a handler that outlives its caller, a caller that outlives its server, refusals with their
 * message. */
#include "common/fiber/rpc_fiber.h"
#include "proto/mikura/v1/objects.pb-c.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
/* cmocka needs those before it */
#include <cmocka.h>

#define PIECE  (1u << 20)
#define PIECES 24u /* more than a connection's window holds unread */

static uv_loop_t loop;
static struct fibers *fs;
static struct rpc_server *server;
static struct rpc_channel *channel;
static struct fcalls *calls;
static bool closed;
static uint32_t canceled, handled;
static struct fiber_event gone;

static enum rc h_stat(struct fcall *c, struct err *reterr)
{
    Mikura__V1__StatRequest *req;
    Mikura__V1__ObjectInfo info = MIKURA__V1__OBJECT_INFO__INIT;
    enum rc rc = fcall_request(c, &mikura__v1__stat_request__descriptor, &req, reterr);

    if (rc != RC_OK) return rc;
    if (req->object == NULL) return err_set(reterr, RC_INVAL, "no object: 御蔵 100%%");
    info.media_type = req->object->path;
    return fcall_send(c, &info.base);
}

/* Counts bytes and answers with them. */
static enum rc h_put(struct fcall *c, struct err *reterr)
{
    Mikura__V1__PutChunkResponse answer = MIKURA__V1__PUT_CHUNK_RESPONSE__INIT;
    struct rpc_msg *m;
    uint64_t n = 0;
    enum rc rc;

    while ((rc = fcall_recv(c, &m)) == RC_OK) {
        Mikura__V1__PutChunkRequest *q = mikura__v1__put_chunk_request__unpack(NULL, m->n, m->p);

        fiber_sleep_ms(1); /* slower than the sender */
        fcall_release(c, m);
        if (q == NULL) return err_set(reterr, RC_INVAL, "does not decode");
        for (size_t i = 0; i < q->data.len; i += 4096) {
            if (q->data.data[i] != (uint8_t)(n >> 20))
                return err_set(reterr, RC_CORRUPT, "byte %zu of %llu", i, (unsigned long long)n);
        }
        n += q->data.len;
        mikura__v1__put_chunk_request__free_unpacked(q, NULL);
    }
    if (rc != RC_RANGE) return rc;
    answer.index = (uint32_t)(n >> 20);
    return fcall_send(c, &answer.base);
}

static enum rc h_read(struct fcall *c, struct err *reterr)
{
    Mikura__V1__ReadRequest *req;
    enum rc rc = fcall_request(c, &mikura__v1__read_request__descriptor, &req, reterr);

    for (uint64_t i = 0; i < PIECES && rc == RC_OK; i++) {
        Mikura__V1__ReadResponse m = MIKURA__V1__READ_RESPONSE__INIT;
        uint8_t *p = malloc(PIECE);
        struct rpc_payload payload = {
            .field = 15, .p = p, .n = PIECE, .owner = p, .owner_free = free};

        if (p == NULL) return RC_NOMEM;
        memset(p, (int)i, PIECE);
        rc = fcall_send_payload(c, &m.base, &payload);
    }
    handled++;
    return rc;
}

/* Waits until its caller has gone, and goes on for a while. */
static enum rc h_list(struct fcall *c, struct err *reterr)
{
    struct rpc_msg *m;
    enum rc rc = fcall_recv(c, &m);

    (void)reterr;
    if (rc == RC_OK) fcall_release(c, m);
    while (!fcall_dead(c))
        fiber_sleep_ms(1);
    fiber_sleep_ms(5);
    canceled++;
    fiber_event_set(&gone);
    return RC_OK;
}

static const struct fcall_method METHODS[] = {
    {"/mikura.v1.Objects/Stat", false, 0, h_stat},
    {"/mikura.v1.Objects/PutChunk", true, 0, h_put},
    {"/mikura.v1.Objects/Read", false, 0, h_read},
    {"/mikura.v1.Objects/List", false, 0, h_list},
    {NULL, false, 0, NULL},
};

static void on_closed(void *data)
{
    (void)data;
    closed = true;
}

static void in_fiber(void (*fn)(void *arg))
{
    assert_int_equal(fiber_spawn(fs, fn, NULL), RC_OK);
    while (fibers_running(fs) > 0)
        uv_run(&loop, UV_RUN_ONCE);
}

static int setup(void **state)
{
    struct rpc_server_conf sc = {.loop = &loop, .host = "127.0.0.1"};
    struct rpc_channel_conf cc = {.loop = &loop, .host = "127.0.0.1"};
    struct err err;

    (void)state;
    closed = false;
    canceled = handled = 0;
    if (uv_loop_init(&loop) != 0 || fibers_open(&loop, &fs) != RC_OK) return 1;
    if (rpc_server_open(&sc, &server, &err) != RC_OK) return 1;
    if (fcalls_add(server, fs, METHODS, NULL, &calls) != RC_OK) return 1;
    cc.port = rpc_server_port(server);
    return rpc_channel_new(&cc, &channel, &err) == RC_OK ? 0 : 1;
}

static int teardown(void **state)
{
    (void)state;
    rpc_channel_close(channel, on_closed, NULL);
    while (!closed)
        uv_run(&loop, UV_RUN_ONCE);
    closed = false;
    rpc_server_close(server, 100, on_closed, NULL);
    while (!closed)
        uv_run(&loop, UV_RUN_ONCE);
    fcalls_free(calls);
    fibers_close(fs);
    uv_run(&loop, UV_RUN_DEFAULT);
    return uv_loop_close(&loop);
}

static void unary(void *arg)
{
    struct rpc_request_conf conf = {.path = METHODS[0].path, .timeout_ms = 5000};
    Mikura__V1__StatRequest req = MIKURA__V1__STAT_REQUEST__INIT;
    Mikura__V1__ObjectRef ref = MIKURA__V1__OBJECT_REF__INIT;
    Mikura__V1__ObjectInfo *info;
    struct funary_info fi;
    struct err err = {0};

    (void)arg;
    assert_int_equal(funary(channel, &conf, &req.base, &mikura__v1__object_info__descriptor, NULL,
                            &info, &fi, &err),
                     RC_INVAL);
    assert_string_equal(err.msg, "no object: 御蔵 100%");
    assert_false(fi.never_sent);
    req.object = &ref;
    ref.path = (char *)(uintptr_t) "a/b";
    assert_int_equal(funary(channel, &conf, &req.base, &mikura__v1__object_info__descriptor, NULL,
                            &info, &fi, &err),
                     RC_OK);
    assert_string_equal(info->media_type, "a/b");
    mikura__v1__object_info__free_unpacked(info, NULL);
    conf.path = "/mikura.v1.Objects/Nothing";
    assert_int_equal(funary(channel, &conf, &req.base, &mikura__v1__object_info__descriptor, NULL,
                            &info, &fi, &err),
                     RC_UNIMPL);
}

static void test_unary(void **state)
{
    (void)state;
    in_fiber(unary);
}

static void upload(void *arg)
{
    struct rpc_request_conf conf = {.path = METHODS[1].path};
    Mikura__V1__PutChunkRequest m = MIKURA__V1__PUT_CHUNK_REQUEST__INIT;
    Mikura__V1__PutChunkResponse *answer;
    struct err err = {0};
    struct rpc_msg *msg;
    struct fstream *s;

    (void)arg;
    assert_int_equal(fstream_open(channel, &conf, &s), RC_OK);
    for (uint32_t i = 0; i < PIECES; i++) {
        uint8_t *p = malloc(PIECE);
        struct rpc_payload payload = {
            .field = 15, .p = p, .n = PIECE, .owner = p, .owner_free = free};

        assert_non_null(p);
        memset(p, (int)i, PIECE);
        assert_int_equal(fstream_send_payload(s, &m.base, &payload), RC_OK);
    }
    fstream_half_close(s);
    assert_int_equal(fstream_recv(s, &msg, &err), RC_OK);
    answer = mikura__v1__put_chunk_response__unpack(NULL, msg->n, msg->p);
    fstream_release(s, msg);
    assert_non_null(answer);
    assert_int_equal(answer->index, PIECES);
    mikura__v1__put_chunk_response__free_unpacked(answer, NULL);
    assert_int_equal(fstream_recv(s, &msg, &err), RC_RANGE);
    fstream_close(s);
}

static void test_upload(void **state)
{
    (void)state;
    in_fiber(upload);
}

static void download(void *arg)
{
    struct rpc_request_conf conf = {.path = METHODS[2].path};
    Mikura__V1__ReadRequest req = MIKURA__V1__READ_REQUEST__INIT;
    struct err err = {0};
    struct rpc_msg *msg;
    struct fstream *s;
    uint32_t n = 0;

    assert_int_equal(fstream_open(channel, &conf, &s), RC_OK);
    assert_int_equal(fstream_send(s, &req.base), RC_OK);
    fstream_half_close(s);
    while (n < PIECES) {
        enum rc rc = fstream_recv(s, &msg, &err);

        assert_int_equal(rc, RC_OK);
        assert_true(msg->n > PIECE && msg->p[msg->n - 1] == (uint8_t)n);
        fiber_sleep_ms(1); /* slower than the sender */
        fstream_release(s, msg);
        n++;
        if (arg != NULL && n == 3) { /* walk away in the middle */
            fstream_close(s);
            return;
        }
    }
    assert_int_equal(fstream_recv(s, &msg, &err), RC_RANGE);
    fstream_close(s);
}

static void leave(void *arg)
{
    (void)arg;
    download(fs);
    while (handled < 1)
        fiber_sleep_ms(1); /* the handler's send failed and it returned */
}

static void test_download(void **state)
{
    (void)state;
    in_fiber(download);
    assert_int_equal(handled, 1);
    handled = 0;
    in_fiber(leave);
}

static void timed_out(void *arg)
{
    struct rpc_request_conf conf = {.path = METHODS[3].path, .timeout_ms = 50};
    Mikura__V1__ListRequest req = MIKURA__V1__LIST_REQUEST__INIT;
    Mikura__V1__ListResponse *answer;
    struct err err = {0};

    (void)arg;
    memset(&gone, 0, sizeof gone);
    assert_int_equal(funary(channel, &conf, &req.base, &mikura__v1__list_response__descriptor, NULL,
                            &answer, NULL, &err),
                     RC_DEADLINE);
    fiber_event_wait(&gone); /* the handler saw it, and outlived the call */
}

static void test_timeout(void **state)
{
    (void)state;
    in_fiber(timed_out);
    assert_int_equal(canceled, 1);
}

static void cancels(void *arg)
{
    struct rpc_request_conf conf = {.path = METHODS[3].path};
    Mikura__V1__ListRequest req = MIKURA__V1__LIST_REQUEST__INIT;
    struct err err = {0};
    struct rpc_msg *msg;
    struct fstream *s;

    (void)arg;
    memset(&gone, 0, sizeof gone);
    assert_int_equal(fstream_open(channel, &conf, &s), RC_OK);
    assert_int_equal(fstream_send(s, &req.base), RC_OK);
    fstream_half_close(s); /* a unary call begins when its message is whole */
    fiber_sleep_ms(20);
    fstream_cancel(s);
    assert_int_equal(fstream_recv(s, &msg, &err), RC_CANCELED);
    fstream_close(s);
    fiber_event_wait(&gone);
}

static void test_cancel(void **state)
{
    (void)state;
    in_fiber(cancels);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_unary, setup, teardown),
        cmocka_unit_test_setup_teardown(test_upload, setup, teardown),
        cmocka_unit_test_setup_teardown(test_download, setup, teardown),
        cmocka_unit_test_setup_teardown(test_timeout, setup, teardown),
        cmocka_unit_test_setup_teardown(test_cancel, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
