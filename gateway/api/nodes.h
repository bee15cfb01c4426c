/* gateway/api/nodes.h - storage nodes and others as operators see and change them. */
#pragma once
#include "gateway/api/gw.h"
#include "gateway/manager/view.h"
#include "proto/mikura/internal/v1/store.pb-c.h"

struct node_look { /* one node, asked in a fiber of its own */
    struct gw *gw;
    struct cluster_node *node; /* copy in the arena */
    struct arena a;
    Mikura__Internal__V1__NodeStatusResponse *status; /* NULL: no answer */
    struct err err;
};
/* Copies of all nodes; storage nodes that are alive are asked, at the same time. The arenas of the
 * answers are freed with nodes_look_end. Fiber. */
MUST_CHECK enum rc nodes_look(struct gw *gw, struct arena *a, struct node_look **ret,
                              uint32_t *ret_n, struct err *reterr);
void nodes_look_end(struct node_look *l, uint32_t n);
ProtobufCBinaryData nodes_id(struct arena *a, const struct id128 *id);

/* What will move, and about how much: bytes of a disk are spread evenly over the groups on it. */
struct moves {
    struct view v;
    struct planner_forecast all;
    uint32_t *in_n, *out_n, *copies_n; /* a disk: copies to come, to go, there now */
    uint64_t *live_bytes;              /* a disk; UINT64_MAX: it did not tell */
    uint64_t copy_bytes;               /* of one copy, on average */
};
MUST_CHECK enum rc nodes_moves(struct gw *gw, bool etcd, const struct node_look *l, uint32_t n,
                               struct arena *a, struct moves *ret, struct err *reterr);

enum rc nodes_list(struct fcall *c, struct err *reterr);
enum rc nodes_change(struct fcall *c, struct err *reterr);
enum rc recover_config(struct fcall *c, struct err *reterr); /* recover.c */
