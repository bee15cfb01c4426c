/* computed/backend/cuda/plan.h - a plan of the CUDA backend: a list of steps over buffers.
 *
 * A value has one or more forms: row-major or channels last, in a type; readers ask for the form
 * that they want, and a step makes it once. Our own kernels see layouts as strides only, so most
 * take what there is; convolutions, pooling, resizing and instance normalisation work channels
 * last, products row-major. Float values are stored in the plan's type (float32, float16,
 * bfloat16).
 *
 * Buffers lie in one block of constants and one arena, whose places are shared by what never lives
 * at the same time; or they are the caller's inputs and outputs. */
#pragma once
#include "computed/backend/cuda/ring.h"

enum cu_place { CU_ARENA, CU_CONST, CU_IN, CU_OUT };
struct cu_buf {
    enum cu_place place;
    size_t bytes, off; /* off: in the arena or the block of constants */
    uint32_t from, to; /* first and last step */
    uint32_t io;       /* CU_IN, CU_OUT: which */
    uint8_t *host;     /* CU_CONST, while planning */
};
struct cu_form {
    uint32_t next; /* of the same value; BE_NONE */
    bool last;     /* channels last: [N, places, C] */
    int type;      /* enum k_type */
    uint32_t buf;
};
struct cu_step {
    enum k_id id; /* K_N: exec */
    struct cu_exec *exec;
    union k_any k;
    uint32_t buf[K_PTRS]; /* BE_NONE: absent */
    enum be_op op;        /* of the node, for plan_text */
    const char *why;      /* static text; NULL: the node itself */
};

/* A run over these buffers, recorded: two, since the engine fills one set of them while it runs
 * over the other. */
#define CU_RECORDS 2
struct cu_record {
    void **io;        /* inputs then outputs */
    void *graph;      /* NULL: not yet */
    uint64_t used_at; /* 0: never */
};

struct be_plan {
    const struct cu_dev_ops *ops;
    struct cu_dev *dev;
    const struct be_graph *g; /* while planning */
    enum be_precision precision;
    int type; /* of float values */
    size_t bytes_max, workspace_bytes, const_bytes, arena_bytes;
    uint32_t *first; /* per tensor: its first form; BE_NONE */
    struct cu_form *form;
    struct cu_buf *buf;
    struct cu_step *step;
    uint32_t form_n, form_cap, buf_n, buf_cap, step_n, step_cap, in_n, out_n;
    uint8_t *consts, *arena, *workspace; /* device */
    struct cu_record record[CU_RECORDS];
    uint64_t runs;
    struct err *reterr; /* while planning */
};

/* up: for the constants; borrowed until return. */
MUST_CHECK enum rc cu_plan_new(const struct cu_dev_ops *ops, struct cu_dev *dev, struct cu_ring *up,
                               const struct be_graph *g, const struct be_plan_conf *conf,
                               struct be_plan **ret, struct err *reterr);
void cu_plan_free(struct be_plan *p); /* NULL: nothing */
size_t cu_plan_bytes(const struct be_plan *p);
/* io: device memory, inputs then outputs. */
MUST_CHECK enum rc cu_plan_run(struct be_plan *p, void *const *io, struct err *reterr);
void cu_plan_text(const struct be_plan *p, char *buf, size_t cap);

/* ---- for nodes.c, while planning ---- */
enum rc cu_nomem(struct be_plan *p);
const struct be_tensor *cu_tensor(const struct be_plan *p, uint32_t t);
bool cu_is_float(const struct be_tensor *t);
size_t cu_type_bytes(int type);
int cu_type(const struct be_plan *p, const struct be_tensor *t); /* as stored in the plan */
enum rc cu_buf_new(struct be_plan *p, size_t bytes, uint32_t *ret);
/* Constants of our own making: *ret_host is the caller's to fill, until planning ends. */
enum rc cu_const_new(struct be_plan *p, size_t bytes, uint32_t *ret, uint8_t **ret_host);
/* Appends a step; NULL: no memory. */
struct cu_step *cu_step_new(struct be_plan *p, enum k_id id, const struct be_node *n);
/* The first form of a value; of a constant: row-major, in the plan's type. */
enum rc cu_first(struct be_plan *p, uint32_t t, struct cu_form *ret);
/* The form of a value that is wanted; made by a step where there is none. */
enum rc cu_want(struct be_plan *p, uint32_t t, bool last, int type, uint32_t *ret_buf);
/* The form that a node makes. */
enum rc cu_make(struct be_plan *p, uint32_t t, bool last, uint32_t *ret_buf);
/* A form that lies in an existing buffer. */
enum rc cu_alias(struct be_plan *p, uint32_t t, bool last, int type, uint32_t buf);
/* Both layouts are the same bytes. */
bool cu_same_memory(const struct be_tensor *t);
/* Element strides of t's dims, as it lies. */
void cu_strides(const struct be_tensor *t, bool last, int32_t s[K_RANK]);
/* Likewise, per dim of y (numpy's broadcasting): 0 where t repeats. */
void cu_operand(const struct be_tensor *t, bool last, const struct be_tensor *y, int32_t s[K_RANK]);
/* The order in which the dims of a tensor lie. */
void cu_order(uint8_t rank, bool last, uint8_t order[K_RANK]);
/* A loop over the dims of y in `order` with the strides of n operands; dims that walk as one are
 * joined. mask: bit i: dim i belongs to it. Returns the number of places. */
uint32_t cu_loop(const struct be_tensor *y, const uint8_t *order, uint32_t mask,
                 int32_t s[3][K_RANK], int n, struct k_shape *ret);
enum rc cu_node(struct be_plan *p, const struct be_node *n); /* nodes.c */
