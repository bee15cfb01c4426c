/* gateway/manager/planner_core.h - which disks a pool's groups should lie on: the wish, as a pure
 * function of what is there.
 *
 * It never decides who is a member: the group's primary carries a wish out (DESIGN.md section 5).
 * Same input, same output. Memory is passed in. */
#pragma once
#include "common/placement/placement.h"

struct planner_disk {
    struct placement_disk place; /* weight 0: draining */
    bool gone;                   /* silent for longer than the operator's patience */
};
struct planner_group { /* what etcd's record says */
    struct placement_group group;
    bool exists;
    struct id128 desired[PLACEMENT_COPIES_MAX];
    struct id128 in_sync[PLACEMENT_COPIES_MAX];
    uint32_t desired_n, in_sync_n;
};
enum planner_why { PLANNER_NEW = 1, PLANNER_DISK_GONE, PLANNER_TOO_FEW, PLANNER_BALANCE };
struct planner_change {
    uint32_t group_idx;
    enum planner_why why;
    struct id128 desired[PLACEMENT_COPIES_MAX]; /* NEW: the first is to be primary */
    uint32_t desired_n;
    enum placement_level level; /* at which the copies differ; the operator sees a narrower one */
};
struct planner_in {
    const struct placement_pool *pool;
    const struct planner_disk *disks;
    uint32_t disks_n;
    const struct planner_group *groups; /* all groups of the pool */
    uint32_t groups_n;
    uint32_t moves_max; /* groups that may be on their way at once: repairs and balance together */
};

/* Groups whose in-sync set is not yet the desired one. */
uint32_t planner_moving(const struct planner_in *in);
/* Writes at most cap changes, the pressing ones first: new groups (not limited by moves_max),
 * groups that wish for a gone disk, groups with too few copies, then better places. A group on its
 * way is changed only if a disk it wishes for is gone. A change keeps every disk of the old wish
 * that still may serve, and balance changes one disk at a time.
 *   places       scratch of disks_n
 *   load         scratch of disks_n: primaries proposed per disk
 * Returns how many. New groups without a single usable disk get none. */
uint32_t planner_plan(const struct planner_in *in, struct placement_disk *places, uint32_t *load,
                      struct planner_change *ret, uint32_t cap);
