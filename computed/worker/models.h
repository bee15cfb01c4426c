/* computed/worker/models.h - models by their SHA-256, kept in a folder; each file is named by its
 * digest and verified whenever it is opened.
 *
 * Any number of fibers may ask for the same one; it is fetched once. The folder's size is limited:
 * the longest unused files go first. One loop. */
#pragma once
#include "common/fiber/fiber.h"

#define MODELS_FILE_BYTES_MAX ((uint64_t)1 << 30)

struct models;
/* Writes the model's bytes to fd. Called in the asking fiber. */
typedef enum rc (*models_fetch_fn)(void *data, const uint8_t sha256[32], int fd,
                                   struct err *reterr);
/* dir is made when absent (mode 0700). RC_IO, RC_DENIED, ... */
MUST_CHECK enum rc models_open(const char *dir, uint64_t bytes_max, models_fetch_fn fetch,
                               void *data, struct models **ret_models, struct err *reterr);
void models_close(struct models *m); /* no call may be running; NULL: nothing */
/* *ret_fd: open for reading at its beginning; the caller's to close. RC_CORRUPT: what was fetched
 * has another digest; else fetch's errors. Keeps the thread pool busy for the hashing. */
MUST_CHECK enum rc models_get(struct models *m, const uint8_t sha256[32], int *ret_fd,
                              struct err *reterr);
