/* computed/backend/cuda/cudnn.h - convolutions by cuDNN's graph API.
 *
 * A context is of a device's handle; or, without a device, of a description of one (JSON, as cuDNN
 * writes it): then algorithms are chosen and built but cannot run, which is what tests without a
 * GPU look at. */
#pragma once
#include "computed/backend/cuda/dev.h"
#include <cudnn.h>

struct cudnn_ctx {
    cudnnHandle_t handle;            /* NULL: described */
    cudnnBackendDescriptor_t device; /* NULL: by handle */
};
struct cudnn_conv;

MUST_CHECK enum rc cudnn_describe(struct cudnn_ctx *c, const char *json, struct err *reterr);
void cudnn_undescribe(struct cudnn_ctx *c);
/* RC_UNIMPL: no engine serves it within workspace_max. */
MUST_CHECK enum rc cudnn_conv_new(const struct cudnn_ctx *c, const struct cu_conv *conv,
                                  size_t workspace_max, struct cudnn_conv **ret,
                                  size_t *ret_workspace, struct err *reterr);
MUST_CHECK enum rc cudnn_conv_run(const struct cudnn_ctx *c, struct cudnn_conv *k,
                                  void *const p[K_PTRS], void *workspace, struct err *reterr);
const char *cudnn_conv_text(const struct cudnn_conv *k);
void cudnn_conv_free(struct cudnn_conv *k); /* NULL: nothing */
/* ALLOC_FAILED: RC_NOMEM; NOT_SUPPORTED of any kind: RC_UNIMPL; else RC_IO. */
enum rc rc_from_cudnn(cudnnStatus_t s, const char *what, struct err *reterr);
