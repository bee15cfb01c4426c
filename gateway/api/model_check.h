/* gateway/api/model_check.h - lets mikura-model-check (gateway/model_check) look at a model, and
 * reads its answer. The child is not trusted, and neither is the model. */
#pragma once
#include "common/fiber/arena.h"
#include "common/base/rc.h"
#include "proto/mikura/v1/models.pb-c.h"

/* The raw answer about one model: blocking, for a worker thread.
 *   program     path of mikura-model-check
 *   bytes       borrowed until return
 *   timeout_ms  MODEL_CHECK_MS of wire.h
 *   ret_answer  malloc'd; the caller's
 * RC_INVAL: the model is refused, with the child's words. RC_INTERNAL: the child did not start,
 * died, hung or said nonsense: the model may be fine. RC_NOMEM. */
MUST_CHECK enum rc gw_model_check(const char *program, const uint8_t *bytes, size_t n,
                                  uint32_t timeout_ms, uint8_t **ret_answer, size_t *ret_n,
                                  struct err *reterr);
/* Opset, inputs, outputs, classes and limits into m; everything in a. RC_INTERNAL: nonsense. */
MUST_CHECK enum rc gw_model_answer(const uint8_t *answer, size_t n, struct arena *a,
                                   Mikura__V1__Model *m, struct err *reterr);
/* The program beside the running one, or `set` when it is not empty. */
void gw_model_check_program(const char *set, char *path, size_t cap);
