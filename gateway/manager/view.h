/* gateway/manager/view.h - the cluster as the planner sees it: nodes with what operators decided,
 * disks, groups with their wishes; from etcd itself or from this daemon's mirror of it. */
#pragma once
#include "common/control/cluster.h"
#include "common/fiber/arena.h"
#include "gateway/manager/intent.h"
#include "gateway/manager/planner_core.h"

#define VIEW_DISKS_MAX (CLUSTER_NODES_MAX * 4u)
#define VIEW_POOLS_MAX 2u

/* When each disk was last there, in this daemon's own time. */
struct seen {
    struct seen_disk *disks;
    uint32_t n, max;
};
/* Call it about once a second while the mirror is fresh, and forget all when it was not. */
void seen_look(struct seen *s, const struct cluster *c, uint64_t now_ms);
void seen_forget(struct seen *s); /* everybody's patience starts anew */
void seen_free(struct seen *s);

struct view_node {
    char name[64];
    struct id128 id;
    bool alive, used; /* used: a group names one of its disks */
    struct intent intent;
    uint32_t disk_idx[CLUSTER_NODE_DISKS_MAX];
    uint32_t disks_n;
};
struct view {
    struct arena *a;
    struct placement_pool pools[VIEW_POOLS_MAX];
    struct view_node *nodes; /* storage nodes */
    uint32_t nodes_n, nodes_alive_n, disks_alive_n, groups_there_n;
    struct planner_disk *disks;
    struct planner_group *groups;
    int64_t *wish_revision;   /* from etcd: 0 = no wish yet */
    int64_t changes_revision; /* from etcd: of the key node-changes, 0 = never written */
    uint64_t now_ms;          /* when it was made */
    struct planner_in in;     /* of these; limits are the caller's */
    struct planner_scratch scratch;
};
struct view_conf {
    struct etcd *etcd; /* NULL: from the mirror */
    const struct cluster *cluster;
    const char *cluster_name;
    struct seen *seen;
    uint64_t patience_ms;
    uint32_t pool_ids[VIEW_POOLS_MAX];
};
/* Everything lies in the arena. Pools that are not there yet are left out. With etcd: fiber. */
MUST_CHECK enum rc view_make(const struct view_conf *c, struct arena *a, struct view *ret,
                             struct err *reterr);
/* Again from the nodes' intents, after one was changed: what if? */
void view_judge(struct view *v, struct seen *s, uint64_t patience_ms);
struct view_node *view_node_of(struct view *v, const char *name);
char *view_group_key(const char *cluster_name, struct arena *a, const struct placement_group *g);
