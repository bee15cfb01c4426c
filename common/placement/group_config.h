/* common/placement/group_config.h - one placement group's record in etcd, and the manager's wish
 * beside it: encode, decode, compare. Bytes: README.md.
 *
 * It lies here, not in storaged, because three parts read it: storaged's replica core (which writes
 * it), the routing mirror (common/control) and the manager (gateway), which writes a group's first
 * record. Who may change what: DESIGN.md section 5; every change is a transaction that compares the
 * key's mod_revision. */
#pragma once
#include "common/placement/placement.h"

#define GROUP_CONFIG_FORMAT    1u
#define GROUP_MEMBERS_MAX      PLACEMENT_COPIES_MAX
#define GROUP_CONFIG_BYTES_MAX (8u + 16u + 32u + 3u * GROUP_MEMBERS_MAX * 16u + 4u)
#define GROUP_WISH_BYTES_MAX   (4u + GROUP_MEMBERS_MAX * 16u + 4u)

struct group_set {
    struct id128 disks[GROUP_MEMBERS_MAX];
    uint32_t n;
};
struct group_config {
    uint64_t config; /* +1 with every change, from 1 */
    uint64_t epoch;  /* +1 when primary or primary_boot changes, from 1 */
    struct id128 primary;
    struct id128 primary_boot;     /* boot id of the process that leads; zero: nobody has led yet */
    struct group_set in_sync;      /* the primary is one of them */
    struct group_set learners;     /* disjoint from in_sync */
    struct group_set last_serving; /* latest in-sync set of at least min_in_sync */
};

bool group_set_has(const struct group_set *s, const struct id128 *disk);
void group_set_add(struct group_set *s, const struct id128 *disk); /* no effect: there, or full */
void group_set_remove(struct group_set *s, const struct id128 *disk);
bool group_set_eq(const struct group_set *a, const struct group_set *b); /* order counts */
bool group_config_eq(const struct group_config *a, const struct group_config *b);

/* A group's first record: config 1, epoch 1, primary = first of desired, no boot id (so that the
 * primary's first act is to win epoch 2), in_sync = last_serving = desired. Written by the manager
 * with a transaction that compares create_revision = 0. desired holds 1 .. GROUP_MEMBERS_MAX. */
void group_config_first(const struct group_set *desired, struct group_config *ret);

/* RC_INVAL names the rule broken (sizes, duplicates, primary not in sync, ...). */
MUST_CHECK enum rc group_config_check(const struct group_config *c, struct err *reterr);
/* c has passed group_config_check. Returns the bytes written. */
uint32_t group_config_encode(const struct group_config *c, uint8_t out[GROUP_CONFIG_BYTES_MAX]);
/* RC_CORRUPT: not such a record. RC_UNIMPL: a newer format. The result passes the check. */
MUST_CHECK enum rc group_config_decode(struct slice bytes, struct group_config *ret,
                                       struct err *reterr);

/* The wish: key `<group's key>/desired`, written by the manager alone, carried out by the primary.
 */
uint32_t group_wish_encode(const struct group_set *desired, uint8_t out[GROUP_WISH_BYTES_MAX]);
MUST_CHECK enum rc group_wish_decode(struct slice bytes, struct group_set *ret, struct err *reterr);
