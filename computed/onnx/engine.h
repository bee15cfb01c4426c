/* computed/onnx/engine.h - runs checked ONNX models on one device of one backend.
 *
 * A session is one model on one device. It plans anew for input shapes that it has not seen and
 * keeps the last ENGINE_PLANS_MAX plans. Several models may be open: where the device's memory does
 * not hold all their plans, the one that was used longest ago goes, whosever it is. An engine and
 * its sessions belong to one thread at a time; several workers open several engines. Nothing here
 * touches the network, or libuv. */
#pragma once
#include "common/model/model.h"
#include "computed/backend/backend.h"

#define ENGINE_PLANS_MAX 8

struct engine;  /* one device */
struct session; /* one model on it */

struct engine_conf {
    const char *backend;    /* "cpu", "cuda", "ref" */
    const char *plugin_dir; /* NULL: as be_load() says */
    uint32_t device_idx;    /* BE_PLAN_ONLY: session_plan() only */
    uint32_t threads;       /* for one run; 0 = 1 */
    size_t bytes_max;       /* device memory of one plan; 0 = 2 GiB */
    size_t held_max;        /* of all plans of all sessions together; 0: what the device has */
    enum be_precision precision;
};

MUST_CHECK enum rc engine_open(const struct engine_conf *conf, struct engine **ret_engine,
                               struct err *reterr);
void engine_close(struct engine *e); /* after its sessions; NULL: nothing */
const char *
engine_text(const struct engine *e); /* for ItemResult.device: "cpu (oneDNN 2.6.3), bf16" */

uint32_t engine_batch(const struct engine *e); /* rows worth giving at a time */

/* m: borrowed until session_close. RC_NOMEM. */
MUST_CHECK enum rc session_open(struct engine *e, const struct model *m, struct session **ret_s,
                                struct err *reterr);
void session_close(struct session *s);

struct session_out {
    struct model_shape shape;
    enum model_dtype dtype;
    const void *data; /* the session's, until its next run or close */
    size_t bytes;
};

/* One synchronous run. in_shape, in: one per model input, in its declared type, row-major.
 *   ret_out  caller's, one per model output
 * Returns RC_OK, RC_INVAL (shapes do not fit: names the node), RC_UNIMPL (the backend lacks
 * something), RC_NOMEM (smaller batch), RC_IO (device lost) */
MUST_CHECK enum rc session_run(struct session *s, const struct model_shape *in_shape,
                               const void *const *in, struct session_out *ret_out,
                               struct err *reterr);

/* Rows that have nothing to do with each other (images of a batch): in_shape[i].dim[0] is their
 * number in every input, and so it must be in every output. As many at a time as the memory allows:
 * on RC_NOMEM half as many are tried, and remembered. A device whose transfers overlap with runs
 * takes a batch at a time: the next is on its way while one runs. Results as session_run's. */
MUST_CHECK enum rc session_run_rows(struct session *s, const struct model_shape *in_shape,
                                    const void *const *in, struct session_out *ret_out,
                                    struct err *reterr);
uint32_t session_rows_max(const struct session *s); /* what it found; UINT32_MAX: no limit met */

/* Makes the plan for these shapes and tells what it decided, a line a step; cut at cap. Returns as
 * session_run. */
MUST_CHECK enum rc session_plan(struct session *s, const struct model_shape *in_shape, char *text,
                                size_t cap, struct err *reterr);

/* The last run n times more, its inputs where they lie, and waits for all: for measuring a device
 * without the way to it. RC_INVAL: there was none. */
MUST_CHECK enum rc session_repeat(struct session *s, uint32_t n, struct err *reterr);
