/* tests/unit/common/model/build.h - writes small ONNX files for tests, good and bad ones. */
#pragma once
#include "common/base/macros.h"

struct build; /* one model under construction; every text is copied */

struct build *build_new(int64_t opset);
void build_free(struct build *b);
/* dims end with 0; -1 = dynamic */
void build_input(struct build *b, const char *name, int32_t dtype, const int64_t *dims);
void build_output(struct build *b, const char *name);
void build_init_f(struct build *b, const char *name, const int64_t *dims, const float *v, size_t n);
void build_init_i(struct build *b, const char *name, const int64_t *v, size_t n);
/* A tensor [n] whose data is given twice, raw and as floats; or that lies in another file. */
void build_init_twice(struct build *b, const char *name, const float *v, size_t n);
void build_init_outside(struct build *b, const char *name, const char *file);
/* inputs: comma-separated names, "" in between = left out */
void build_node(struct build *b, const char *op, const char *inputs, const char *output);
/* of the last node */
void build_output_more(struct build *b, const char *name);
void build_attr_i(struct build *b, const char *name, int64_t v);
void build_attr_f(struct build *b, const char *name, float v);
void build_attr_s(struct build *b, const char *name, const char *v);
/* A graph in an attribute, in its node another, `depth` deep. */
void build_attr_nested(struct build *b, const char *name, uint32_t depth);
void build_attr_is(struct build *b, const char *name, const int64_t *v, size_t n);
void build_prop(struct build *b, const char *key, const char *value);
/* The file; the caller's, for free(). */
uint8_t *build_bytes(const struct build *b, size_t *ret_n);
