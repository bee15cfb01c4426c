/* common/client/client_priv.h - what the library's files share. */
#pragma once
#include "common/client/client.h"
#include "common/fiber/rpc_fiber.h"

/* No bytes for that long: the try is given up. Streams of an upload have no deadline of their own
 * beyond it: 64 MiB over 1 MB/s take a minute. */
#define MIKURA_STREAM_MS (10u * 60u * 1000u)

struct gateway {
    struct rpc_channel *ch;
    char address[280];
};
struct mikura_client {
    struct fibers *fs;
    struct tls *tls;
    struct gateway gw[MIKURA_GATEWAYS_MAX];
    uint32_t gw_n, cur; /* cur: where the next call goes */
    uint32_t patience_ms;
    bool ever_connected, canceled;
    uint32_t closing_n;
    struct fiber_event closed;
};

/* protobuf-c's fields are not const; packing only reads. */
static inline char *text(const char *s)
{
    return (char *)(uintptr_t)s;
}
static inline ProtobufCBinaryData bytes(const void *p, size_t n)
{
    return (ProtobufCBinaryData){n, (uint8_t *)(uintptr_t)p};
}

/* One call with its retries. */
struct attempt {
    struct mikura_client *c;
    uint64_t until_ms; /* clock_boot_ms */
    uint32_t tries;
    uint32_t gw_idx;
};
void attempt_init(struct attempt *a, struct mikura_client *c);
/* A gateway that has a connection; waits for one. RC_UNAVAIL, RC_UNAUTH. */
MUST_CHECK enum rc attempt_pick(struct attempt *a, struct gateway **ret_gw, struct err *reterr);
/* After a failure: true = wait was made, try again. */
bool attempt_again(struct attempt *a, enum rc rc);
uint32_t attempt_left_ms(const struct attempt *a);

/* The next message; STREAM_END after the last; else the call's failure in *ret_ended. */
#define STREAM_END RC_N
MUST_CHECK enum rc stream_next(struct fstream *s, struct rpc_msg **ret_msg, struct err *ret_ended);

/* Reads [off, off + n) of a file on the thread pool and hashes it as one leaf (n <= 1 MiB) where
 * leaf != NULL. RC_ABORTED: the file ended early. */
MUST_CHECK enum rc piece_read(int fd, uint64_t off, uint8_t *p, size_t n, uint8_t *leaf,
                              struct err *reterr);
