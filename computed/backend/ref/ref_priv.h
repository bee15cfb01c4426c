/* computed/backend/ref/ref_priv.h - shared by ref*.c. */
#pragma once
#include "computed/backend/ref/ref.h"

/* Element strides of t seen as a tensor of `rank` dims: 0 where it broadcasts.
 */
void ref_strides(const struct be_tensor *t, uint8_t rank, int64_t ret[BE_RANK_MAX]);
/* The next index in row-major order. */
void ref_next(const struct be_tensor *t, int64_t idx[BE_RANK_MAX]);

void ref_conv(const struct be_graph *g, const struct be_node *n, void *const *data);
void ref_pool(const struct be_graph *g, const struct be_node *n, void *const *data);
void ref_matmul(const struct be_graph *g, const struct be_node *n, void *const *data);
void ref_conv_t(const struct be_graph *g, const struct be_node *n, void *const *data);
void ref_norm(const struct be_graph *g, const struct be_node *n, void *const *data);
void ref_copy(const struct be_graph *g, const struct be_node *n, void *const *data);
void ref_pad(const struct be_graph *g, const struct be_node *n, void *const *data);
void ref_gather(const struct be_graph *g, const struct be_node *n, void *const *data);
void ref_resize(const struct be_graph *g, const struct be_node *n, void *const *data);
