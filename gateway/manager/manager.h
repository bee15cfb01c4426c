/* gateway/manager/manager.h - the shell of planner_core: makes pools and groups, and writes wishes,
 * in the one gateway that is elected.
 *
 * Every write compares the election key (truth_fence), so a manager that lost its lease writes
 * nothing. It decides no membership: a group's first record and the wishes are all it writes. */
#pragma once
#include "common/control/cluster.h"
#include "common/fiber/fiber.h"
#include "gateway/manager/view.h"

#define MANAGER_POOL_META 1u
#define MANAGER_POOL_DATA 2u

struct manager;
struct manager_conf {
    struct fibers *fs;
    struct etcd *etcd;
    struct cluster *cluster;
    struct id128 cluster_id;
    const char *cluster_name, *address; /* address: what the election key says of the holder */
    uint32_t prefix_bits, copies, min_in_sync;
    enum placement_level failure_domain; /* no two copies in one, while that can be had */
    uint64_t patience_ms; /* a disk away for longer is given up: its copies are made elsewhere */
    uint64_t admit_ms;    /* nodes that come so soon after new groups belong to the start */
};
MUST_CHECK enum rc manager_open(const struct manager_conf *conf, struct manager **ret_manager,
                                struct err *reterr);
void manager_changed(struct manager *m); /* the cluster's map has changed; NULL: nothing */
bool manager_leads(const struct manager *m);
bool manager_foreign(const struct manager *m); /* storage nodes belong to another cluster */
/* The cluster as this gateway sees it, elected or not. etcd: read there and not from the mirror;
 * fiber. */
MUST_CHECK enum rc manager_view(struct manager *m, bool etcd, struct arena *a, struct view *ret,
                                struct err *reterr);
void manager_judge(struct manager *m, struct view *v); /* again, after an intent was changed */
void manager_run(void *m);                             /* a fiber; ends after manager_stop */
void manager_stop(struct manager *m);
void manager_free(struct manager *m); /* after manager_run has ended */
