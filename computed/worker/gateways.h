/* computed/worker/gateways.h - asks whichever gateway runs the scheduler.
 *
 * Gateways come from the cluster's map. Only the elected one answers Work; another says UNAVAILABLE
 * or FAILED_PRECONDITION, so a request goes round until one takes it, beginning with the one that
 * answered last. Two channels a gateway: long polls on one, so that they can be cut off at the end
 * while results still go out on the other. One loop; calls belong to fibers. */
#pragma once
#include "common/control/cluster.h"
#include "common/fiber/rpc_fiber.h"
#include "computed/analysis/analysis.h"
#include "proto/mikura/internal/v1/work.pb-c.h"

struct gateways;
struct gateways_conf {
    struct fibers *fs;
    struct cluster *cluster;
    struct tls *tls;
};
enum gateways_lane { GATEWAYS_POLL, GATEWAYS_WORK, GATEWAYS_LANES };

MUST_CHECK enum rc gateways_open(const struct gateways_conf *conf, struct gateways **ret_gw);
/* From a fiber; every call ends RC_CANCELED. NULL: nothing. */
void gateways_close(struct gateways *g);
/* Ends what runs on the lane, and refuses what would come. */
void gateways_cut(struct gateways *g, enum gateways_lane lane);

/* One round over all gateways at most. The answer is unpacked on the heap
 * (protobuf_c_message_free_unpacked). RC_UNAVAIL: none is there or none is elected; RC_PRECOND:
 * some said so and none took it (also: another attempt owns the task); else the first other error.
 */
MUST_CHECK enum rc gateways_ask(struct gateways *g, enum gateways_lane lane, const char *path,
                                uint32_t timeout_ms, const ProtobufCMessage *m,
                                const ProtobufCMessageDescriptor *answer_desc, void *ret_answer,
                                struct err *reterr);
/* A model's bytes into fd. */
MUST_CHECK enum rc gateways_fetch_model(struct gateways *g, const uint8_t sha256[32], int fd,
                                        struct err *reterr);
/* The objects of a series, by path: at most ANALYSIS_SLICES_MAX, so at most 128 MiB, where all lie
 * inline. RC_NOTFOUND, RC_PRECOND, RC_CORRUPT, RC_INVAL: one cannot be had any more, and which;
 * RC_ABORTED: the attempt is over. */
struct gateways_slices {
    Mikura__Internal__V1__SlicesResponse **parts;
    uint32_t parts_n, n;
};
MUST_CHECK enum rc gateways_slices_get(struct gateways *g,
                                       const Mikura__Internal__V1__SlicesRequest *req,
                                       struct gateways_slices *ret, struct err *reterr);
/* An item's mask. RC_ABORTED: the attempt is over. */
MUST_CHECK enum rc gateways_mask_put(struct gateways *g,
                                     const Mikura__Internal__V1__PutMaskHeader *header,
                                     const uint8_t *p, struct err *reterr);
void gateways_slices_free(struct gateways_slices *s); /* keys and inline bytes are zeroed */
