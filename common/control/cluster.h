/* common/control/cluster.h - cluster truth as one daemon sees it: who is alive, which groups live
 * where.
 *
 * A mirror of /mikura/<cluster>/ in etcd; may be late, never trusted for safety (epochs are). The
 * group record's bytes belong to common/placement/group_config.h; here only what routing needs is
 * decoded. */
#pragma once
#include "common/base/id128.h"
#include "common/control/etcd.h"
#include "common/placement/placement.h"

#define CLUSTER_NODES_MAX      1024u
#define CLUSTER_NODE_DISKS_MAX 64u

struct cluster_disk {
    struct id128 id;
    uint64_t total_bytes;
};
struct cluster_node { /* what a daemon publishes of itself under nodes/<kind>/<name>, JSON, with its
                         lease */
    char kind[16], name[64];
    struct id128 id, boot_id;
    char host_address[128]; /* "127.0.0.1:27010": the one listener */
    char zone[64], rack[64], host[64];
    char version[32];
    struct cluster_disk disks[CLUSTER_NODE_DISKS_MAX];
    uint32_t disks_n;
    char devices[8][32]; /* computed */
    uint32_t devices_n;
    struct id128 cluster; /* storaged: whose its disks are; zero: nobody's yet */
    bool alive;           /* has its lease */
};
struct cluster_group { /* routing view of pg/<pool>/<bits>/<prefix> */
    struct placement_group group;
    uint64_t config, epoch;
    struct id128 primary;
    struct id128 in_sync[PLACEMENT_COPIES_MAX], learners[PLACEMENT_COPIES_MAX];
    uint32_t in_sync_n, learners_n;
    int64_t mod_revision;
    struct slice raw; /* the record */
};
struct cluster;
struct cluster_conf {
    struct etcd *etcd;
    const char *name;                /* of the cluster: /mikura/NAME/ */
    const struct cluster_node *self; /* published with a lease, copied; NULL: only look */
    uint32_t lease_ttl_s;            /* 0 = 10 */
    void (*on_ready)(void *data);    /* first whole view */
    void (*on_node)(void *data, const struct cluster_node *n);
    void (*on_group)(void *data, const struct cluster_group *g);
    void (*on_pool)(void *data, const struct placement_pool *p);
    /* Keys without a meaning here, by their name after /mikura/NAME/ (signing/..., .../desired); an
     * empty value: gone. */
    void (*on_other)(void *data, const char *rest, struct slice value);
    void (*on_lease_lost)(void *data);
    void *data;
};
MUST_CHECK enum rc cluster_open(const struct cluster_conf *conf, struct cluster **ret_cluster,
                                struct err *reterr);
void cluster_close(struct cluster *c, void (*cb)(void *data), void *data);
MUST_CHECK enum rc cluster_publish(struct cluster *c,
                                   const struct cluster_node *self); /* changed facts */
const struct id128 *cluster_id(const struct cluster *c); /* from the key id; NULL: not known yet */
const struct placement_pool *cluster_pool(const struct cluster *c, uint32_t pool);
const struct cluster_group *cluster_group_of(const struct cluster *c, uint32_t pool, uint64_t hash);
const struct cluster_group *cluster_group_next(const struct cluster *c,
                                               const struct cluster_group *prev);
const struct cluster_node *cluster_node_of_disk(const struct cluster *c, const struct id128 *disk);
const struct cluster_node *cluster_node_next(const struct cluster *c,
                                             const struct cluster_node *prev);
/* The value of a key that has no meaning here; borrowed until the next event. */
bool cluster_other(const struct cluster *c, const char *rest, struct slice *ret_value);
void cluster_other_each(const struct cluster *c, const char *prefix,
                        void (*each)(void *arg, const char *rest, struct slice value), void *arg);
/* The value of pools/<id>; free() it. NULL: out of memory. */
char *cluster_pool_json(const struct placement_pool *p);
bool cluster_fresh(const struct cluster *c); /* the mirror is connected and synced */
