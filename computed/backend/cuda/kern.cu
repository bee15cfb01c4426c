/* computed/backend/cuda/kern.cu - kern.h's functions as kernels, and their launches. The parameters
 * are grid constants: they are read where they lie, indexed or not. */
#include "computed/backend/cuda/kern.h"
#include "computed/backend/cuda/launch.h"

#define THREADS 256

/* it takes launches for shifts */
/* clang-format off */

#define PLACES(name, type, call)                                                                   \
    __global__ void name(const __grid_constant__ type k)                                           \
    {                                                                                              \
        uint32_t i = blockIdx.x * THREADS + threadIdx.x;                                           \
        if (i < k.h.n) call;                                                                       \
    }
PLACES(map_kern, struct k_map, k_map_at(&k, i))
PLACES(copy_kern, struct k_copy, k_copy_at(&k, i))
PLACES(cast_kern, struct k_cast, k_cast_at(&k, i))
PLACES(pad_kern, struct k_pad, k_pad_at(&k, i))
PLACES(resize_kern, struct k_resize, k_resize_at(&k, i))
PLACES(pool_kern, struct k_pool, k_pool_at(&k, i))
PLACES(moments_kern, struct k_moments, k_moments_at(&k, i))
PLACES(join_kern, struct k_join, k_join_at(&k, i))

template <int T> PLACES(conv_kern, struct k_conv, k_conv_at(&k, T, i))
template <int T> PLACES(mm_kern, struct k_mm, k_mm_at(&k, T, i))

/* A row a block, or a row a thread where rows are short. */
#define ROWS(name, type, fn)                                                                       \
    __global__ void name##_block(const __grid_constant__ type k)                                   \
    {                                                                                              \
        struct k_lane l = {threadIdx.x, blockDim.x};                                               \
        fn(&k, blockIdx.x, l);                                                                     \
    }                                                                                              \
    __global__ void name##_thread(const __grid_constant__ type k)                                  \
    {                                                                                              \
        uint32_t i = blockIdx.x * THREADS + threadIdx.x;                                           \
        struct k_lane l = {0, 1};                                                                  \
        if (i < k.h.n) fn(&k, i, l);                                                               \
    }
ROWS(reduce_kern, struct k_reduce, k_reduce_row)
ROWS(softmax_kern, struct k_softmax, k_softmax_row)
ROWS(lnorm_kern, struct k_lnorm, k_lnorm_row)

static uint32_t blocks(uint32_t n)
{
    return (n - 1) / THREADS + 1;
}

/* Rows of up to 64 values, or so many rows that threads alone fill the machine: 132 processors of
 * 2,048 threads. Else a block of the row's length, whole warps, at most 256. */
#define LAUNCH_ROWS(name, k, len)                                                                  \
    do {                                                                                           \
        uint32_t len_ = (len), warps_ = (len_ + 31) / 32 * 32;                                     \
        if (len_ <= 64 || ((k).h.n >= 262144 && len_ <= 1024))                                     \
            name##_thread<<<blocks((k).h.n), THREADS, 0, s>>>(k);                                  \
        else                                                                                       \
            name##_block<<<(k).h.n, warps_ < THREADS ? warps_ : THREADS, 0, s>>>(k);               \
    } while (0)
#define LAUNCH(name, k) name<<<blocks((k).h.n), THREADS, 0, s>>>(k)
#define LAUNCH_TYPED(name, k)                                                                      \
    do {                                                                                           \
        if ((k).type == K_F16)                                                                     \
            LAUNCH(name<K_F16>, k);                                                                \
        else if ((k).type == K_BF16)                                                               \
            LAUNCH(name<K_BF16>, k);                                                               \
        else                                                                                       \
            LAUNCH(name<K_F32>, k);                                                                \
    } while (0)

extern "C" cudaError_t kern_launch(enum k_id id, const union k_any *k, cudaStream_t s)
{
    switch (id) {
    case K_MAP:
        LAUNCH(map_kern, k->map);
        break;
    case K_COPY:
        LAUNCH(copy_kern, k->copy);
        break;
    case K_CAST:
        LAUNCH(cast_kern, k->cast);
        break;
    case K_PAD:
        LAUNCH(pad_kern, k->pad);
        break;
    case K_RESIZE:
        LAUNCH(resize_kern, k->resize);
        break;
    case K_POOL:
        LAUNCH(pool_kern, k->pool);
        break;
    case K_CONV:
        LAUNCH_TYPED(conv_kern, k->conv);
        break;
    case K_MM:
        LAUNCH_TYPED(mm_kern, k->mm);
        break;
    case K_REDUCE:
        LAUNCH_ROWS(reduce_kern, k->reduce, k->reduce.in_n);
        break;
    case K_SOFTMAX:
        LAUNCH_ROWS(softmax_kern, k->softmax, k->softmax.in_n);
        break;
    case K_LNORM:
        LAUNCH_ROWS(lnorm_kern, k->lnorm, k->lnorm.in_n);
        break;
    case K_MOMENTS:
        LAUNCH(moments_kern, k->moments);
        break;
    case K_JOIN:
        LAUNCH(join_kern, k->join);
        break;
    default:
        return cudaErrorInvalidValue;
    }
    return cudaGetLastError();
}
