/* computed/fetch/fetch_priv.h - connections to storage nodes. */
#pragma once
#include "computed/fetch/fetch.h"

#define FETCH_NODES_MAX 1024u /* as CLUSTER_NODES_MAX */
#define FETCH_DIAL_MS   3000u
#define FETCH_ANSWER_MS 10000u
#define FETCH_ROUNDS    3u
#define FETCH_PAUSE_MS  200u /* before the second round; doubles */

struct fetch_node {
    struct list link;
    char address[128];
    struct fetch *fetch;
    struct bulk_conn *conn; /* NULL: not dialled */
    bool up;
    struct err down; /* why it ended */
    struct fiber_cond changed;
};
struct fetch {
    struct fetch_conf conf;
    struct list nodes;
    uint32_t nodes_n;
    bool closing;
};
/* An open connection to address, dialled if need be. The node stays until fetch_close. */
MUST_CHECK enum rc fetch_node_conn(struct fetch *f, const char *address,
                                   struct bulk_conn **ret_conn, struct err *reterr);
