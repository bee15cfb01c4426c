/* common/placement/placement.h - pure functions: placement hash -> placement group -> disks.
 *
 * A placement hash is the first 64 bits (big-endian) of SHA-256 over immutable ids; callers make
 * it. A group is a pool and a prefix of that hash, so it splits in two by key range. Weighted
 * rendezvous hashing proposes a group's disks; etcd holds the decision, so a change of this file
 * moves nothing by itself. Integers only: every machine proposes the same. */
#pragma once
#include "common/base/id128.h"
#include "common/base/rc.h"

#define PLACEMENT_COPIES_MAX      8u
#define PLACEMENT_PREFIX_BITS_MAX 20u /* a million groups */

/* Levels from wide to narrow; each names what may fail as one. */
enum placement_level { PLACEMENT_ZONE, PLACEMENT_RACK, PLACEMENT_HOST, PLACEMENT_DISK };
struct placement_pool {
    uint32_t id; /* 1 .. 65535 */
    uint32_t prefix_bits;
    uint32_t copies;
    uint32_t min_in_sync;
    enum placement_level failure_domain; /* no two copies in one, while that can be had */
};
struct placement_group {
    uint32_t pool, prefix_bits;
    uint64_t prefix; /* the first prefix_bits count, the others are zero */
};
struct placement_disk {
    struct id128 id;
    uint32_t weight;    /* 0 = takes nothing new (draining); else in proportion, e.g. GiB */
    uint32_t domain[3]; /* by zone, rack, host: numbers unique in the cluster, same = same domain */
};

/* RC_INVAL names the bad setting. */
MUST_CHECK enum rc placement_pool_check(const struct placement_pool *p, struct err *reterr);
/* Bytes are kept alike in both: as many copies, as far apart. */
bool placement_pools_alike(const struct placement_pool *a, const struct placement_pool *b);
struct placement_group placement_group_of(const struct placement_pool *p, uint64_t hash);
bool placement_group_has(const struct placement_group *g, uint64_t hash);
/* First and last hash of its range. */
void placement_group_range(const struct placement_group *g, uint64_t *ret_first,
                           uint64_t *ret_last);
/* The two halves. RC_RANGE: at PLACEMENT_PREFIX_BITS_MAX already. */
MUST_CHECK enum rc placement_group_split(const struct placement_group *g,
                                         struct placement_group ret[2]);

/* Proposes up to pool->copies of disks[0..n) in order of preference (ret_idx holds
 * PLACEMENT_COPIES_MAX); returns how many. *ret_level is the widest level at which all of them
 * differ, pool->failure_domain or narrower: narrower means that the cluster has too few domains,
 * which the operator should see. */
uint32_t placement_propose(const struct placement_pool *pool, const struct placement_group *g,
                           const struct placement_disk *disks, uint32_t n,
                           uint32_t ret_idx[PLACEMENT_COPIES_MAX], enum placement_level *ret_level);
/* The same, beside disks that stay: idx[0 .. kept_n) are given, the rest is filled up. */
uint32_t placement_extend(const struct placement_pool *pool, const struct placement_group *g,
                          const struct placement_disk *disks, uint32_t n, uint32_t kept_n,
                          uint32_t idx[PLACEMENT_COPIES_MAX], enum placement_level *ret_level);
/* The widest level at which disks[idx[0 .. n)] all differ. */
enum placement_level placement_level_of(const struct placement_disk *disks, const uint32_t *idx,
                                        uint32_t n);
