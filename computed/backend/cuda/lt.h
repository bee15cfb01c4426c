/* computed/backend/cuda/lt.h - products by cuBLASLt. */
#pragma once
#include "computed/backend/cuda/dev.h"
#include <cublasLt.h>

struct lt_mm;
/* RC_UNIMPL: this activation, or no algorithm within workspace_max. */
MUST_CHECK enum rc lt_mm_new(cublasLtHandle_t h, const struct cu_mm *m, size_t workspace_max,
                             struct lt_mm **ret, size_t *ret_workspace, struct err *reterr);
/* p: y, a, b, bias, residual */
MUST_CHECK enum rc lt_mm_run(cublasLtHandle_t h, struct lt_mm *k, void *const p[K_PTRS],
                             void *workspace, cudaStream_t s, struct err *reterr);
const char *lt_mm_text(const struct lt_mm *k);
void lt_mm_free(struct lt_mm *k); /* NULL: nothing */
