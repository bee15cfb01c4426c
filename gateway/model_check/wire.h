/* gateway/model_check/wire.h - what mikura-model-check tells the gateway of one model. Integers
 * little-endian; one answer, then the child ends.
 *
 *   descriptors of the child: 3 = the answer goes here, 4 = the model's file, to be read from 0
 *   served    'S', opset u32, inputs u32, outputs u32, inputs and outputs as tensors, then the
 *             metadata `classes` and `limits` as long texts (length 0: none)
 *   tensor    name length u16, name, type u8 (ONNX's number), rank u8, each dim i64 (-1: any)
 *   long text length u32, bytes
 *   refused   'R', rc u8, length u16, why
 *
 * The child is not trusted: the gateway holds each length against the answer, each number against
 * its range, and texts that are not UTF-8 or hold control characters are refused. */
#pragma once
#include "common/base/macros.h"

#define MODEL_CHECK_FD         3
#define MODEL_CHECK_FILE_FD    4
#define MODEL_CHECK_ANSWER_MAX (1u << 20)
#define MODEL_CHECK_TENSORS    64u
#define MODEL_CHECK_MS         60000u /* for one model, by the gateway's clock */
#define MODEL_CHECK_CPU_S      60u    /* and by the kernel's */
/* The file, the parsed form within model_limits_default() (3 times the file and 64 MiB), the
 * program itself. */
#define MODEL_CHECK_MEMORY(file_bytes) (4 * (uint64_t)(file_bytes) + (UINT64_C(192) << 20))
