/* storaged/store/store_wait.h - the store's requests for fibers: as calls that return when it is
 * done. */
#pragma once
#include "storaged/store/store.h"

/* Return what the call of store.h returns, or what it completes with; r->err and a->err say why
 * not. data of the request is used. */
MUST_CHECK enum rc store_read_wait(struct store *s, struct seglog_read *r,
                                   const struct seg_location *loc, uint32_t first, uint32_t n,
                                   void *buf, size_t cap);
MUST_CHECK enum rc store_chunk_write_wait(struct store *s, struct store_append *a,
                                          const struct store_chunk *c);
MUST_CHECK enum rc store_log_append_wait(struct store *s, struct store_append *a,
                                         const struct index_group *g, uint64_t config,
                                         uint64_t epoch, uint64_t index, struct slice entry);
