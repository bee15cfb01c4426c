/* computed/fetch/fetch.h - bytes of a task's inputs, straight from the storage nodes.
 *
 * A range of an object becomes ranges of sealed blocks of chunks; they come over the bulk wire from
 * the first replica on the gateway's list (nearest first), else from the next, with the task's
 * capability, and are opened with the task's body keys. A block whose tag does not fit is taken
 * from another replica. Nothing goes through a gateway.
 *
 * Everything belongs to one loop; calls that may wait belong to fibers. */
#pragma once
#include "common/fiber/fiber.h"
#include "common/net/bulk.h"
#include "proto/mikura/internal/v1/work.pb-c.h"

/* Plaintext kept per input: FETCH_WINDOWS windows of at most FETCH_WINDOW_BYTES. A reader goes to
 * and fro between headers and pixels, hence more than one; 64 KiB blocks, a window begins with 4 of
 * them and doubles while the reader goes on where it ended. */
#define FETCH_WINDOWS      4u
#define FETCH_WINDOW_BYTES (2u << 20)

struct fetch;
struct fetch_conf {
    struct fibers *fs;
    struct tls *tls;
    struct bulk_hello self;
};
MUST_CHECK enum rc fetch_open(const struct fetch_conf *conf, struct fetch **ret_fetch);
/* From a fiber; no input may be left. Closes the connections and waits for their end. */
void fetch_close(struct fetch *f);

struct fetch_input;
/* in and capability: borrowed until fetch_input_free. RC_INVAL: extents that do not cover the
 * object in order, or a body without its key. */
MUST_CHECK enum rc fetch_input_new(struct fetch *f, const Mikura__Internal__V1__Input *in,
                                   struct slice capability, struct fetch_input **ret_fi,
                                   struct err *reterr);
void fetch_input_free(struct fetch_input *fi); /* zeroes what it kept; NULL: nothing */
/* Exactly n bytes from off into out. RC_RANGE (past the end); RC_UNAVAIL, RC_CORRUPT, RC_DENIED,
 * ...: what the last replica answered, after FETCH_ROUNDS rounds over all of them. */
MUST_CHECK enum rc fetch_input_read(struct fetch_input *fi, uint64_t off, uint8_t *out, uint32_t n,
                                    struct err *reterr);
