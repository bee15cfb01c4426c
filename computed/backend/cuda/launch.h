/* computed/backend/cuda/launch.h - between kern.cu (C++) and dev_cuda.c (C). */
#pragma once
#include "computed/backend/cuda/kern.h"
#include <cuda_runtime_api.h>

#ifdef __cplusplus
extern "C"
#endif
    /* k->h.n > 0. Enqueues; the kernel's own errors show at a later call. */
    cudaError_t
    kern_launch(enum k_id id, const union k_any *k, cudaStream_t s);
