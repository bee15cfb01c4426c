/* computed/backend/cpu/cpu.h - plans of the CPU backend (cpu_plan.c), for its table (cpu.c). */
#pragma once
#include "computed/backend/cpu/kern.h"
#include <oneapi/dnnl/dnnl.h>

struct cpu_plan_conf {
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    const struct kern_ops *kern;
};
MUST_CHECK enum rc cpu_plan_new(const struct cpu_plan_conf *c, const struct be_graph *g,
                                const struct be_plan_conf *conf, struct be_plan **ret,
                                struct err *reterr);
void cpu_plan_free(struct be_plan *p); /* NULL: nothing */
size_t cpu_plan_bytes(const struct be_plan *p);
void cpu_plan_io(const struct be_plan *p, uint32_t *ret_in_n, uint32_t *ret_out_n);
/* in, out: one per graph input and output. */
MUST_CHECK enum rc cpu_plan_run(struct be_plan *p, const void *const *in, void *const *out,
                                struct err *reterr);
/* OUT_OF_MEMORY: RC_NOMEM, else RC_INTERNAL. */
enum rc rc_from_dnnl(dnnl_status_t s);
