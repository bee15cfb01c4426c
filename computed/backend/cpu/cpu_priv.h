/* computed/backend/cpu/cpu_priv.h - a plan of the CPU backend while it is made.
 *
 * A value (tensor of the graph) has one or more forms: the layout that the node
 * that made it chose, and others that readers asked for; a reorder step makes
 * those. A form lies in a buffer; buffers that never live at the same time
 * share memory. A node is one or more steps: oneDNN primitives, kernels of our
 * own (kern.h), or the reference on plain forms. */
#pragma once
#include "computed/backend/cpu/kern.h"
#include <oneapi/dnnl/dnnl.h>

#define CPU_ARGS_MAX 8

struct cpu_buf {
    size_t bytes;
    uint32_t from, to; /* first and last step that touches it */
    size_t off;
    uint32_t root; /* lies within that buffer, at root_off; itself: it is placed
                      on its own */
    size_t root_off;
    uint8_t *fixed; /* constants: memory of its own */
    bool shared;    /* holds several values at a time: views */
    bool rewritten; /* a node put its sum in place of an operand */
};

struct cpu_form {
    uint32_t next; /* of the same value; BE_NONE: the last */
    bool plain;    /* row-major; md is set for float32 only */
    dnnl_memory_desc_t md;
    uint32_t buf;
};

struct cpu_arg {
    int what; /* DNNL_ARG_... */
    uint32_t buf;
    dnnl_memory_desc_t md;
};

struct cpu_step;
typedef void (*cpu_run_fn)(const struct cpu_step *s);
/* What kernels take; memory is the plan's. */
struct cpu_kern {
    uint32_t buf[4]; /* operands; BE_NONE: none. Filled into ptr when places are
                        known. */
    uint8_t *ptr[4];
    const struct kern_ops *ops;
    const struct be_node *n; /* the plan's copy */
    struct kern_lay lay;
    int64_t count[3];
    uint8_t rank;
    size_t bytes;
    int64_t dim[BE_RANK_MAX + 1], sa[BE_RANK_MAX + 1], sb[BE_RANK_MAX + 1];
    enum be_act act;
    float lo, hi;
    const float *scale, *shift;
    int64_t in[3], out[3];
    const int64_t *place[3];
    const float *weight[3];
    uint32_t *parts; /* Concat: buffers, then pointers */
    uint8_t **part_ptr;
    size_t *part_bytes, *part_off; /* per outer row; off: within a row of the output */
    uint32_t part_n;
};

struct cpu_step {
    dnnl_primitive_t prim;
    struct cpu_arg *arg;
    dnnl_exec_arg_t *exec;
    int arg_n;
    cpu_run_fn run;
    struct cpu_kern *kern;
    uint32_t node; /* the reference on this node; BE_NONE: one of the above */
};

struct cpu_fixed {
    struct cpu_fixed *next;
    void *p;
    size_t bytes;
};

struct be_plan {
    struct be_dev *dev;
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    const struct kern_ops *kern;
    struct be_graph g; /* a copy, constants' pointers valid while planning only */
    enum be_precision precision;
    bool blocked;      /* convolutions keep to blocks of 16 channels, so that parts of
                          a concatenation lie one behind the other; else oneDNN chooses
                          (channels last, mostly) */
    uint32_t *first;   /* per tensor: its first form; BE_NONE */
    uint32_t *readers; /* per tensor: nodes yet to come that read it, plus one if
                          it is an output */
    struct cpu_form *form;
    struct cpu_buf *buf;
    struct cpu_step *step;
    uint32_t form_n, form_cap, buf_n, buf_cap, step_n, step_cap;
    struct cpu_fixed *fixed;
    uint32_t *in_buf, *out_buf;
    void **data; /* per tensor, for the reference: its plain form's bytes */
    size_t scratch_bytes, bytes;
    uint8_t *arena, *scratch;
    struct err *reterr; /* while planning */
};

/* ---- cpu_plan.c ---- */
enum rc cpu_nomem(struct be_plan *p);
/* Memory of the plan, zeroed; for constants and small tables. */
void *cpu_fixed_alloc(struct be_plan *p, size_t bytes);
const struct be_tensor *cpu_tensor(const struct be_plan *p, uint32_t t);
size_t cpu_tensor_bytes(const struct be_tensor *t);
enum rc cpu_buf_new(struct be_plan *p, size_t bytes, uint32_t *ret);
void cpu_touch(struct be_plan *p, uint32_t buf); /* by the step that is appended next */
/* The form of t with this layout, or plain; made by a reorder when there is
 * none. */
enum rc cpu_form_get(struct be_plan *p, uint32_t t, const dnnl_memory_desc_t *md,
                     uint32_t *ret_buf);
enum rc cpu_form_plain(struct be_plan *p, uint32_t t, uint32_t *ret_buf);
/* The first form of a value that a node makes, in a new buffer. */
enum rc cpu_form_make(struct be_plan *p, uint32_t t, const dnnl_memory_desc_t *md,
                      uint32_t *ret_buf);
enum rc cpu_form_make_plain(struct be_plan *p, uint32_t t, uint32_t *ret_buf);
/* A first form that lies in an existing buffer; md NULL: plain. */
enum rc cpu_form_in(struct be_plan *p, uint32_t t, const dnnl_memory_desc_t *md, uint32_t buf);
/* Weights that lie as `md` says, times scale, in the layout `want`: a constant
 * is packed now, into memory of its own; what is computed (scale 1) goes
 * through a step. */
enum rc cpu_weights(struct be_plan *p, uint32_t t, const dnnl_memory_desc_t *md,
                    const dnnl_memory_desc_t *want, float scale, uint32_t *ret_buf);
/* A buffer's bytes in another layout or type; *buf becomes the new one. */
enum rc cpu_convert(struct be_plan *p, const dnnl_memory_desc_t *from, const dnnl_memory_desc_t *to,
                    uint32_t *buf);
const struct cpu_form *cpu_first(const struct be_plan *p, uint32_t t); /* NULL: a constant */
struct cpu_step *cpu_step_new(struct be_plan *p);                      /* NULL: no memory */
struct cpu_step *cpu_kern_new(struct be_plan *p, cpu_run_fn run, const struct be_node *n);
/* Copies the bytes of one buffer to another. */
enum rc cpu_copy_step(struct be_plan *p, uint32_t from, uint32_t to, size_t bytes);
enum rc cpu_dnnl(struct be_plan *p, dnnl_status_t s); /* RC_OK, RC_NOMEM, RC_UNIMPL */

void cpu_md_plain(dnnl_memory_desc_t *md, const struct be_tensor *t);
/* As kern.h sees it; false: another layout, or not float32. */
bool cpu_lay(const dnnl_memory_desc_t *md, struct kern_lay *ret);

/* ---- nodes; RC_UNIMPL: the reference does it ---- */
enum rc cpu_conv(struct be_plan *p, const struct be_node *n); /* and CONV_T */
enum rc cpu_pool(struct be_plan *p, const struct be_node *n);
enum rc cpu_matmul(struct be_plan *p, const struct be_node *n);
enum rc cpu_softmax(struct be_plan *p, const struct be_node *n);
/* An activation over a whole value, in its first form; to, from: buffers, may
 * be the same. */
enum rc cpu_act(struct be_plan *p, const struct be_node *n, const dnnl_memory_desc_t *md,
                uint32_t from, uint32_t to);
enum rc cpu_unary(struct be_plan *p, const struct be_node *n);
enum rc cpu_binary(struct be_plan *p, const struct be_node *n);
enum rc cpu_affine(struct be_plan *p, const struct be_node *n); /* and INORM */
enum rc cpu_lnorm(struct be_plan *p, const struct be_node *n);
enum rc cpu_reduce(struct be_plan *p, const struct be_node *n);
enum rc cpu_concat(struct be_plan *p, const struct be_node *n);
enum rc cpu_copy(struct be_plan *p, const struct be_node *n);
enum rc cpu_view(struct be_plan *p, const struct be_node *n);
enum rc cpu_resize(struct be_plan *p, const struct be_node *n);
void cpu_concat_share(struct be_plan *p); /* parts are made in place where that can be */
