/* computed/backend/cuda/dev.h - what the plan (plan.c) needs of a device: a GPU (dev_cuda.c), or
 * the host in its place (dev_host.c), which runs the same plan with the same kernels, so that
 * layouts, fusions, memory, indices and the order between streams are tested without a GPU.
 *
 * Three streams, so that transfers overlap with runs: what is enqueued on one happens in order;
 * what must wait for another stream says so by an event.
 *
 * Convolutions and products are made (`*_new`) when a plan is made: the device chooses its
 * library's algorithm for the shape then. RC_UNIMPL: it has none, and the plan takes our own
 * kernel. */
#pragma once
#include "computed/backend/backend.h"
#include "computed/backend/cuda/kern.h"

enum cu_stream { CU_RUN, CU_UP, CU_DOWN, CU_STREAM_N };

struct cu_dev;
struct cu_exec;  /* an algorithm that was chosen */
struct cu_event; /* a place in a stream */

/* x [n, in, in_c], w [out_c, kernel, in_c / groups], y [n, out, out_c], all of `type`, channels
 * last. transposed: y and x change places, w [in_c, kernel, out_c / groups]. y = act(conv + bias +
 * residual). */
struct cu_conv {
    struct k_conv k; /* geometry, type, act */
    int32_t batch, pad_end[3];
    uint8_t dims; /* 1 to 3 that count; the others have size 1, in front */
    bool bias, residual, tf32;
};
/* y = act(alpha * op(a) op(b) + bias + residual), `batch` times, at these strides. */
struct cu_mm {
    int32_t batch, rows, cols, inner;
    int64_t stride_a, stride_b; /* elements; 0: the same one */
    bool trans_a, trans_b, bias, residual, tf32;
    float alpha;
    struct k_actor act;
    int type;
};

struct cu_dev_ops {
    const char *name;  /* of the backend */
    size_t slot_bytes; /* of pinned memory that a transfer takes at a time */
    enum rc (*probe)(struct err *reterr);
    enum rc (*open)(uint32_t device_idx, struct cu_dev **ret, struct err *reterr);
    void (*close)(struct cu_dev *d);
    const char *(*text)(const struct cu_dev *d);
    /* RC_UNIMPL: this precision is not this device's */
    enum rc (*precision)(const struct cu_dev *d, enum be_precision p, struct err *reterr);

    enum rc (*alloc)(struct cu_dev *d, size_t bytes, void **ret, struct err *reterr);
    void (*free)(struct cu_dev *d, void *p, size_t bytes); /* zeroes it first; NULL: nothing */
    /* Host memory that transfers go through. free: zeroes it first; NULL: nothing; nothing of it
     * may be on its way. */
    enum rc (*pinned_alloc)(struct cu_dev *d, size_t bytes, void **ret, struct err *reterr);
    void (*pinned_free)(struct cu_dev *d, void *p, size_t bytes);
    /* Between device and pinned memory; only enqueues. */
    enum rc (*copy)(struct cu_dev *d, enum cu_stream at, void *to, const void *from, size_t n,
                    struct err *reterr);
    /* record: the place that `at` has come to in being enqueued. wait: what `at` is given from now
     * on begins after that place; sync: the caller waits for it. Of an event never recorded:
     * nothing to wait for. Not while a run is recorded. */
    enum rc (*event_new)(struct cu_dev *d, struct cu_event **ret, struct err *reterr);
    void (*event_free)(struct cu_dev *d, struct cu_event *e); /* NULL: nothing */
    enum rc (*event_record)(struct cu_dev *d, struct cu_event *e, enum cu_stream at,
                            struct err *reterr);
    enum rc (*event_wait)(struct cu_dev *d, struct cu_event *e, enum cu_stream at,
                          struct err *reterr);
    enum rc (*event_sync)(struct cu_dev *d, struct cu_event *e, struct err *reterr);
    enum rc (*sync)(struct cu_dev *d, struct err *reterr); /* all streams */

    /* workspace_max: bytes that it may ask for. RC_UNIMPL: not with this bias, residual, act: the
     * plan asks for less and does the rest by a kernel. All of these run on CU_RUN. */
    enum rc (*conv_new)(struct cu_dev *d, const struct cu_conv *c, size_t workspace_max,
                        struct cu_exec **ret, size_t *ret_workspace, struct err *reterr);
    enum rc (*mm_new)(struct cu_dev *d, const struct cu_mm *m, size_t workspace_max,
                      struct cu_exec **ret, size_t *ret_workspace, struct err *reterr);
    /* p: y, x or a, w or b, bias, residual (NULL where there is none) */
    enum rc (*exec_run)(struct cu_dev *d, struct cu_exec *e, void *const p[K_PTRS], void *workspace,
                        struct err *reterr);
    const char *(*exec_text)(const struct cu_exec *e); /* "cudnn engine 43", for plan_text */
    void (*exec_free)(struct cu_exec *e);              /* NULL: nothing; after a sync */
    enum rc (*kern_run)(struct cu_dev *d, enum k_id id, const union k_any *k, struct err *reterr);

    /* Records what is enqueued on CU_RUN between begin and end, to be replayed by one call. free:
     * after a sync. */
    enum rc (*graph_begin)(struct cu_dev *d, struct err *reterr);
    enum rc (*graph_end)(struct cu_dev *d, void **ret_graph, struct err *reterr);
    enum rc (*graph_run)(struct cu_dev *d, void *graph, struct err *reterr);
    void (*graph_free)(void *graph); /* NULL: nothing */
};

const struct cu_dev_ops *cu_dev(void); /* the one of this plugin */
