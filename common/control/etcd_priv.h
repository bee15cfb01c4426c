/* common/control/etcd_priv.h - what the parts of the client share. */
#pragma once
#include "common/control/etcd.h"
#include "common/fiber/rpc_fiber.h"
#include "proto/etcd/rpc.pb-c.h"

#define ETCD_ENDPOINTS_MAX 8u
#define ETCD_PAUSE_MS      200u /* before another try of something that goes on for ever */

struct etcd {
    struct etcd_conf conf;
    struct fibers *fs;
    struct rpc_channel *channels[ETCD_ENDPOINTS_MAX];
    uint32_t channels_n, current, open_channels;
    uint64_t cluster_id; /* 0 = none seen */
    int64_t revision;    /* highest seen */
    bool closing;
    struct fiber_cond changed; /* closing */
    uint32_t users;            /* leases, mirrors, elections, requests */
    void (*closed)(void *data);
    void *closed_data;
};

/* One unary call in a fiber; the next endpoint is tried only if the call was certainly not
 * executed. */
MUST_CHECK enum rc etcd_call(struct etcd *e, const char *path, const ProtobufCMessage *m,
                             const ProtobufCMessageDescriptor *desc, struct arena *a, void *ret,
                             struct err *reterr);
void etcd_next(struct etcd *e);
/* False: another world (a lower revision, another cluster id); on_world was told. */
bool etcd_header(struct etcd *e, const Etcdserverpb__ResponseHeader *h);
void etcd_user(struct etcd *e, int delta);
/* Waits, or returns at once when the client closes. */
void etcd_pause(struct etcd *e, uint64_t ms);
ProtobufCBinaryData etcd_pb(struct slice s);
struct slice etcd_slice(ProtobufCBinaryData b);
MUST_CHECK enum rc etcd_do_txn(struct etcd *e, const struct etcd_txn *t, struct arena *a,
                               struct etcd_answer *ret, struct err *reterr);
MUST_CHECK enum rc etcd_do_get(struct etcd *e, struct slice key, struct slice range_end,
                               uint32_t limit, struct arena *a, struct etcd_answer *ret,
                               struct err *reterr);
