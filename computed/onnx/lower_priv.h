/* computed/onnx/lower_priv.h - shared by lower*.c and fuse.c. */
#pragma once
#include "computed/onnx/lower.h"

struct owned {
    struct owned *next;
    _Alignas(64) uint8_t data[];
};

struct lowered_priv {
    struct owned *owned;
    struct be_tensor *tensor;
    struct be_node *node;
    uint32_t tensor_cap, node_cap;
};

struct lower {
    const struct model *m;
    const struct model_shapes *s;
    const struct model_shape *shape; /* s->shape */
    struct be_graph *g;
    struct lowered_priv *p;
    uint32_t *map; /* value -> tensor, or BE_NONE */
    bool *needed;  /* per model node */
    struct err *reterr;
};

/* Memory that lives as long as the result; NULL: none. */
void *lower_own(struct lower *l, size_t n);
enum rc lower_nomem(struct lower *l);
enum rc lower_tensor_new(struct lower *l, const struct be_tensor *t, uint32_t *ret);
/* The tensor of a value; made on first sight. */
enum rc lower_tensor_of(struct lower *l, uint32_t v, uint32_t *ret);
/* A constant of our own making: *ret_data is to be filled by the caller. */
enum rc lower_konst(struct lower *l, enum be_dtype t, uint8_t rank, const int64_t *dim,
                    void *ret_data, uint32_t *ret);
/* Appends a node over the given tensors. */
enum rc lower_node(struct lower *l, const struct be_node *proto, const uint32_t *in, uint32_t in_n,
                   uint32_t out, struct be_node **ret);
/* The plain case: the node's first in_n inputs, those that are present, and its output. */
enum rc lower_emit(struct lower *l, const struct model_node *n, struct be_node *proto,
                   uint32_t in_n);

enum rc lower_copy(struct lower *l, const struct model_node *n);
enum rc lower_pad(struct lower *l, const struct model_node *n);
enum rc lower_gather(struct lower *l, const struct model_node *n);
enum rc lower_resize(struct lower *l, const struct model_node *n);
enum rc lower_fill(struct lower *l, const struct model_node *n); /* ConstantOfShape */
enum rc lower_norm(struct lower *l, const struct model_node *n);

enum rc fuse(struct lower *l);
