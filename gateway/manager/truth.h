/* gateway/manager/truth.h - etcd from fibers: reads and transactions as straight code. */
#pragma once
#include "common/control/etcd.h"
#include "common/fiber/arena.h"
#include "common/fiber/fiber.h"

/* One transaction. *ret_succeeded: whether the compares held. RC_UNAVAIL, RC_DEADLINE: its outcome
 * is unknown. */
MUST_CHECK enum rc truth_txn(struct etcd *e, const struct etcd_txn *t, bool *ret_succeeded,
                             struct err *reterr);
/* Keys of [key, range_end) (range_end empty: the key alone), copied into the arena. */
MUST_CHECK enum rc truth_get(struct etcd *e, struct slice key, struct slice range_end,
                             struct arena *a, struct etcd_kv **ret_kvs, uint32_t *ret_kvs_n,
                             struct err *reterr);
/* Every key that starts with prefix. */
MUST_CHECK enum rc truth_prefix(struct etcd *e, const char *prefix, struct arena *a,
                                struct etcd_kv **ret_kvs, uint32_t *ret_kvs_n, struct err *reterr);
/* Creates the key unless it is there; the value that is there now, and whether it is ours. Safe to
 * repeat. */
MUST_CHECK enum rc truth_create(struct etcd *e, const char *key, struct slice value,
                                struct arena *a, struct slice *ret_value, struct err *reterr);

/* What a leader's every write compares: its election key as it was won. */
struct truth_fence {
    uint8_t key[256];
    size_t key_n;
    int64_t create_revision;
};
struct etcd_compare truth_fence_compare(const struct truth_fence *f);
