/* common/fiber/rpc_fiber.h - gRPC calls (common/net/rpc.h) as straight code in fibers, both sides.
 */
#pragma once
#include "common/fiber/arena.h"
#include "common/fiber/fiber.h"
#include "common/net/rpc.h"

/* ---- server: a method is a function in a fiber of its own; what it returns is the status ---- */
struct fcall {
    struct arena arena; /* for the handler; freed after it returned */
    void *service;
    struct fcall_priv {
        struct rpc_call *call; /* NULL: it has died */
        const struct fcall_method *method;
        struct tls_identity peer; /* copies: the handler may outlive the call */
        char rid[64];
        uv_loop_t *loop;
        uint64_t deadline_ms;
        struct list inbox;
        struct fiber_event changed;
        bool half_closed, dead;
        enum rc dead_rc;
    } priv;
};
typedef enum rc (*fcall_fn)(struct fcall *c, struct err *reterr);
struct fcall_method {
    const char *path;
    bool client_streams;
    uint32_t message_bytes_max; /* 0 = the default */
    fcall_fn fn;
};
struct fcalls; /* the registered methods and the count of running calls */
/* methods: a static array ended by a zero path. RC_NOMEM, RC_EXISTS. */
MUST_CHECK enum rc fcalls_add(struct rpc_server *s, struct fibers *fs,
                              const struct fcall_method *methods, void *service,
                              struct fcalls **ret_calls);
uint32_t fcalls_running(const struct fcalls *cs);
void fcalls_free(struct fcalls *cs); /* after the server was closed and none runs */

/* The one request of a unary method, unpacked into the arena. RC_INVAL: does not decode. */
MUST_CHECK enum rc fcall_request(struct fcall *c, const ProtobufCMessageDescriptor *desc,
                                 void *ret_message, struct err *reterr);
/* Likewise, of a message that may end in a payload (rpc_wire_payload): that stays where it arrived,
 * in *ret_msg, to be given back with fcall_release. *ret_payload empty: look into the message. */
MUST_CHECK enum rc fcall_request_payload(struct fcall *c, const ProtobufCMessageDescriptor *desc,
                                         uint32_t field, void *ret_message,
                                         struct rpc_msg **ret_msg, struct slice *ret_payload,
                                         struct err *reterr);
/* Next message of a stream; give it back with fcall_release (which opens the window again). RC_OK;
 * RC_RANGE: the client has half-closed and there is no more; RC_CANCELED, RC_DEADLINE, RC_UNAVAIL:
 * the call has died. */
MUST_CHECK enum rc fcall_recv(struct fcall *c, struct rpc_msg **ret_msg);
void fcall_release(struct fcall *c, struct rpc_msg *m);
/* Waits until there is room. RC_CANCELED etc.: the call has died. */
MUST_CHECK enum rc fcall_send(struct fcall *c, const ProtobufCMessage *m);
MUST_CHECK enum rc fcall_send_payload(struct fcall *c, const ProtobufCMessage *m,
                                      const struct rpc_payload *payload);
/* Trailing metadata of the answer (copied); without effect after the call died. */
void fcall_trailer(struct fcall *c, const char *name, const char *value);
bool fcall_dead(const struct fcall *c);
const struct tls_identity *fcall_peer(const struct fcall *c);
const char *fcall_rid(const struct fcall *c);
/* Milliseconds left until the caller's deadline, at most cap_ms; 0 = passed. */
uint64_t fcall_left_ms(const struct fcall *c, uint64_t cap_ms);

/* ---- client ---- */
struct funary_info {
    bool never_sent;
    char epoch[24];
};
/* One message there, one back (unpacked with `alloc`, NULL = the heap: free with
 * protobuf_c_message_free_unpacked). info may be NULL. */
MUST_CHECK enum rc funary(struct rpc_channel *ch, const struct rpc_request_conf *conf,
                          const ProtobufCMessage *m, const ProtobufCMessageDescriptor *answer_desc,
                          ProtobufCAllocator *alloc, void *ret_answer, struct funary_info *info,
                          struct err *reterr);

struct fstream; /* a streaming call at the client */
MUST_CHECK enum rc fstream_open(struct rpc_channel *ch, const struct rpc_request_conf *conf,
                                struct fstream **ret_stream);
MUST_CHECK enum rc fstream_send(struct fstream *s, const ProtobufCMessage *m);
MUST_CHECK enum rc fstream_send_payload(struct fstream *s, const ProtobufCMessage *m,
                                        const struct rpc_payload *payload);
void fstream_half_close(struct fstream *s);
/* RC_OK with a message (release it); RC_RANGE: ended well, no more; else the call's failure. */
MUST_CHECK enum rc fstream_recv(struct fstream *s, struct rpc_msg **ret_msg, struct err *reterr);
/* The same, RC_DEADLINE when none came within ms; the call goes on. */
MUST_CHECK enum rc fstream_recv_ms(struct fstream *s, uint64_t ms, struct rpc_msg **ret_msg,
                                   struct err *reterr);
void fstream_release(struct fstream *s, struct rpc_msg *m);
/* From anywhere: its fiber's fstream_recv returns RC_CANCELED. */
void fstream_cancel(struct fstream *s);
/* Cancels what still runs and waits for its end. */
void fstream_close(struct fstream *s);
