/* gateway/manager/planner_core.h - which disks the groups should lie on: the wish, as a pure
 * function of what is there.
 *
 * It never decides who is a member: the group's primary carries a wish out (DESIGN.md section 5).
 * Same input, same output. Memory is passed in. */
#pragma once
#include "common/placement/placement.h"

struct planner_disk {
    struct placement_disk place;
    bool away;    /* its node is not there now: nothing new is planned for it */
    bool gone;    /* given up: away for longer than the operator's patience, or removed by him */
    bool removed; /* by the operator: no sign of a network that is cut */
    bool drain;   /* to be emptied */
    /* not let in yet: it may take what lacks a copy, or has two on one host; else nothing moves
     * there */
    bool fresh;
};
struct planner_group { /* what etcd's record says */
    struct placement_group group;
    bool exists;
    struct id128 primary;
    struct id128 desired[PLACEMENT_COPIES_MAX];
    struct id128 in_sync[PLACEMENT_COPIES_MAX];
    uint32_t desired_n, in_sync_n;
};
enum planner_why {
    PLANNER_NEW = 1,
    PLANNER_DISK_GONE, /* fewest copies first, these two */
    PLANNER_TOO_FEW,
    PLANNER_DRAIN,
    PLANNER_BALANCE
};
struct planner_change {
    uint32_t group_idx;
    enum planner_why why;
    struct id128 desired[PLACEMENT_COPIES_MAX]; /* NEW: the first is to be primary */
    uint32_t desired_n;
};
struct planner_in {
    const struct placement_pool *pools;
    uint32_t pools_n;
    const struct planner_disk *disks;
    uint32_t disks_n;
    const struct planner_group *groups; /* of all pools */
    uint32_t groups_n;
    uint32_t moves_max;      /* groups that may be on their way at once: repairs and others */
    uint32_t disk_moves_max; /* of these, that one disk gives (as primary) or takes */
};
struct planner_scratch { /* the caller's, disks_n each */
    struct placement_disk *places;
    uint32_t *load; /* groups that wish for the disk as their primary */
    uint32_t *busy; /* groups on their way that it gives or takes */
};

/* Groups on their way: a disk that is there is wished and not yet in sync, or in sync and not
 * wished any more. What waits for an absent disk is not on its way. */
uint32_t planner_moving(const struct planner_in *in);
/* More than a quarter of the hosts (of the disks, on a single host) are gone at once, and at least
 * two: rather the network than the machines. Nothing is planned then but new groups; an operator
 * who knows better removes the nodes. */
bool planner_hold(const struct planner_in *in);
/* Writes at most cap changes, the pressing ones first: new groups (not limited by moves_max),
 * groups that wish for a gone disk or for too few (fewest live copies first), then disks to be
 * emptied, then better places. A group on its way is changed only if a disk it wishes for is gone.
 * A change keeps every disk of the old wish that still may serve; a drain and a balance take one
 * disk away, and only for another one. Returns how many. New groups without a single usable disk
 * get none. */
uint32_t planner_plan(const struct planner_in *in, const struct planner_scratch *s,
                      struct planner_change *ret, uint32_t cap);

/* Where all this ends, if nothing else happens. */
struct planner_forecast {
    uint32_t groups;   /* that get another set of disks, or are on their way */
    uint32_t copies;   /* to be made */
    uint32_t stuck;    /* groups that keep a disk to be emptied: nothing could take its place */
    uint32_t short_n;  /* groups that stay below the pool's copies */
    uint32_t narrower; /* groups whose copies will be separated by less than now */
    uint32_t lost;     /* groups without a live copy in sync */
};
/* in_n, out_n: disks_n each: copies of groups that the disk will get and give up. */
void planner_foresee(const struct planner_in *in, const struct planner_scratch *s, uint32_t *in_n,
                     uint32_t *out_n, struct planner_forecast *ret);
