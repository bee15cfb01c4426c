/* common/model/model_priv.h - shared by the files of common/model and its test.
 */
#pragma once
#include "common/model/model.h"

/* All memory of one model: blocks freed together, counted against a limit. */
struct model_block;
struct model_priv {
    struct model_block *blocks;
    uint8_t *room; /* free part of the newest block */
    size_t room_n;
    size_t live_bytes, live_bytes_max;
    enum model_dtype *dtype;  /* per value, as in model.value */
    struct model_host **host; /* per value, with what is known before binding */
    uint32_t host_n;
};
/* 64-byte aligned, zeroed; NULL when the limit or the memory is reached. */
void *model_alloc(struct model_priv *p, size_t bytes);
/* Zero-terminated copy in at most max bytes, without control characters; NULL:
 * refused or no memory. */
char *model_text(struct model_priv *p, const void *s, size_t n, size_t max);

/* Elements of a small integer tensor, in row-major order; their number is in the shape. */
struct model_host {
    uint64_t unknown; /* bit i: element i is not known before shapes are bound */
    int64_t v[MODEL_HOST_MAX];
};
_Static_assert(MODEL_HOST_MAX == 64, "one bit each");

typedef enum rc (*model_shape_rule)(struct model_shapes *c, const struct model_node *n,
                                    struct err *reterr);

struct model_attr_rule {
    const char *name;
    enum model_attr_type type;
};
#define MODEL_ATTRS_MAX 8
#define MODEL_IN_ANY    UINT8_MAX
struct model_op_rule {
    const char *name;
    uint8_t in_min, in_max;
    uint32_t const_in;          /* bit i: input i, when present, must be a constant */
    uint32_t known_in;          /* bit i: ... a constant, or follow from shapes */
    uint8_t opset_min, out_max; /* 0: MODEL_OPSET_MIN, 1 */
    model_shape_rule shape;
    struct model_attr_rule attr[MODEL_ATTRS_MAX]; /* up to the first without a name */
};
extern const struct model_op_rule model_op_rules[MODEL_OP_N];

/* MODEL_OP_N: not served. */
enum model_op model_op_find(const char *name);
/* Attributes, inputs and constants of one node against its rule. */
enum rc model_node_check(const struct model *m, const struct model_node *n, struct err *reterr);
/* Carries a node's rule out; the message names the node. */
enum rc model_node_shape(struct model_shapes *c, const struct model_node *n, struct err *reterr);

/* host.c: the output's elements, when they follow from shapes. After the node's shape rule. */
enum rc model_host_node(struct model_shapes *c, const struct model_node *n, struct err *reterr);
/* While loading: a constant of a few integers is such a tensor too. */
enum rc model_host_const(struct model_shapes *c, uint32_t v, const struct model_tensor *t,
                         struct err *reterr);
/* "axis" for rank dims; end: rank itself is allowed too. */
enum rc model_axis(int64_t axis, uint8_t rank, bool end, uint8_t *ret, struct err *reterr);
/* An input that is a list of known or yet unknown integers (rank 1, or a scalar as one). */
enum rc model_ints(const struct model_shapes *c, const struct model_node *n, uint32_t in_idx,
                   const struct model_host **ret, uint32_t *ret_n, struct err *reterr);
/* y: broadcast with b. */
enum rc model_broadcast(struct model_shape *y, const struct model_shape *b, struct err *reterr);

/* A rule's answer: the shape and type of the node's output. RC_OK. */
enum rc model_shape_give(struct model_shapes *c, const struct model_node *n,
                         const struct model_shape *y, enum model_dtype t);

/* The rules; one per family, in shape*.c. */
enum rc shape_same(struct model_shapes *c, const struct model_node *n, struct err *reterr);
enum rc shape_any_type(struct model_shapes *c, const struct model_node *n, struct err *reterr);
enum rc shape_broadcast(struct model_shapes *c, const struct model_node *n, struct err *reterr);
enum rc shape_batchnorm(struct model_shapes *c, const struct model_node *n, struct err *reterr);
enum rc shape_cast(struct model_shapes *c, const struct model_node *n, struct err *reterr);
enum rc shape_clip(struct model_shapes *c, const struct model_node *n, struct err *reterr);
enum rc shape_concat(struct model_shapes *c, const struct model_node *n, struct err *reterr);
enum rc shape_constant(struct model_shapes *c, const struct model_node *n, struct err *reterr);
enum rc shape_constant_of_shape(struct model_shapes *c, const struct model_node *n,
                                struct err *reterr);
enum rc shape_conv(struct model_shapes *c, const struct model_node *n, struct err *reterr);
enum rc shape_conv_transpose(struct model_shapes *c, const struct model_node *n,
                             struct err *reterr);
enum rc shape_copy(struct model_shapes *c, const struct model_node *n, struct err *reterr);
enum rc shape_equal(struct model_shapes *c, const struct model_node *n, struct err *reterr);
enum rc shape_flatten(struct model_shapes *c, const struct model_node *n, struct err *reterr);
enum rc shape_gather(struct model_shapes *c, const struct model_node *n, struct err *reterr);
enum rc shape_gemm(struct model_shapes *c, const struct model_node *n, struct err *reterr);
enum rc shape_global_pool(struct model_shapes *c, const struct model_node *n, struct err *reterr);
enum rc shape_instancenorm(struct model_shapes *c, const struct model_node *n, struct err *reterr);
enum rc shape_layernorm(struct model_shapes *c, const struct model_node *n, struct err *reterr);
enum rc shape_matmul(struct model_shapes *c, const struct model_node *n, struct err *reterr);
enum rc shape_pad(struct model_shapes *c, const struct model_node *n, struct err *reterr);
enum rc shape_pool(struct model_shapes *c, const struct model_node *n, struct err *reterr);
enum rc shape_reduce(struct model_shapes *c, const struct model_node *n, struct err *reterr);
enum rc shape_reshape(struct model_shapes *c, const struct model_node *n, struct err *reterr);
enum rc shape_resize(struct model_shapes *c, const struct model_node *n, struct err *reterr);
enum rc shape_shape(struct model_shapes *c, const struct model_node *n, struct err *reterr);
enum rc shape_softmax(struct model_shapes *c, const struct model_node *n, struct err *reterr);
enum rc shape_split(struct model_shapes *c, const struct model_node *n, struct err *reterr);
enum rc shape_squeeze(struct model_shapes *c, const struct model_node *n, struct err *reterr);
enum rc shape_unsqueeze(struct model_shapes *c, const struct model_node *n, struct err *reterr);
enum rc shape_where(struct model_shapes *c, const struct model_node *n, struct err *reterr);
