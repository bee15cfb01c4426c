/* computed/backend/cpu/kern_pick.c - which of the compiled instruction sets this machine has. */
#include "computed/backend/cpu/kern.h"

extern const struct kern_ops kern_base;
#if defined(__x86_64__)
extern const struct kern_ops kern_avx2, kern_avx512;
#endif

const struct kern_ops *kern_pick(void)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        return &kern_avx512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return &kern_avx2;
#endif
    return &kern_base;
}

bool kern_has_bf16(void)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512bf16");
#else
    return false;
#endif
}
