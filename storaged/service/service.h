/* storaged/service/service.h - the storage node's daemon: what its files share.
 *
 * One libuv loop; requests are fibers on it; RocksDB and digests run on libuv's threads. A group's
 * core is stepped by group_event alone, its actions are carried out before the next step
 * (replica_core.h, "How the service must carry it out"; numbers below are of that list). */
#pragma once
#include "common/base/conf.h"
#include "common/base/metrics.h"
#include "common/control/cluster.h"
#include "common/crypto/capability.h"
#include "common/fiber/rpc_fiber.h"
#include "common/fiber/worker.h"
#include "common/net/bulk.h"
#include "common/net/net_stream.h"
#include "proto/mikura/internal/v1/bulk.pb-c.h"
#include "proto/mikura/internal/v1/store.pb-c.h"
#include "storaged/repair/pace.h"
#include "storaged/repair/reclaim.h"
#include "storaged/repair/scrub.h"
#include "storaged/replica/replica_msg.h"
#include "storaged/replica/stray_core.h"
#include "storaged/service/chunk_pool.h"
#include "storaged/service/entry_cache.h"
#include "storaged/service/limits.h"
#include "storaged/store/store_wait.h"

struct sd_settings {
    const char *name, *listen, *advertise, *ca, *cert, *key, *etcd, *cluster, *zone, *rack, *host;
    const char *disks, *data, *log_level, *engine, *faults;
    uint64_t segment_bytes, reserve_bytes, limit_bytes, chunk_bytes, index_bytes, entry_bytes;
    uint64_t tick_ms, retire_ms, log_keep, reclaim_rate, reclaim_dead, scrub_period_ms, scrub_rate;
    uint64_t compare_period_ms, compare_rate, stray_grace_ms, rebuild_rate;
};
struct sd;

/* ---- disks: disk_unit.c ---- */
struct sd_disk {
    struct sd *sd;
    struct store *store;
    struct id128 id;
    char dir[512];
    uint32_t no; /* place in --disks, from 0 */
    bool out, closed;
    bool starved;           /* log appends wait for room (RC_BUSY, RC_FULL) */
    bool full;              /* not even log entries fit */
    uint64_t room_until_ms; /* there was room for entries; asked again then */
    bool damaged;           /* found at open */
    struct fiber_sem pulls; /* SD_PULLS_MAX */
    struct pace rebuild;    /* of chunks that snapshots lack: group_snap.c */
    struct fiber_sem rebuild_turn, rebuild_room;
    uint64_t rebuild_bytes; /* pulled since its last turn */
    uint32_t groups_n;
    struct reclaim *reclaim; /* upkeep.c */
    struct scrub *scrub;
    struct fiber_event repair_wake;
    uint32_t suspects_n;     /* records being read once more */
    struct stray_core stray; /* group_stray.c */
    struct fiber_cond stray_cond;
    struct seg_position stray_old, stray_new; /* marks, stray_grace apart */
    uint64_t stray_ms, skips_ms;
};
/* One that did not open at the start: the node goes on with the others. */
struct sd_dark {
    char dir[512];
    uint32_t no;
    struct err err;
};
/* Blocking. What can't be opened is told and becomes dark; RC_BUSY (another process has it),
 * RC_INVAL, RC_NOMEM, and when none opens its error. */
MUST_CHECK enum rc disks_open(struct sd *sd, struct err *reterr);
/* The disk is out: its replicas leave, the node goes on. */
void disk_out(struct sd_disk *d, enum rc rc, const struct err *e);
void disks_faults(struct sd *sd); /* tests: --faults */
/* upkeep.c: reclaim, scrub and repair of every disk begin; RC_INVAL (settings), RC_NOMEM, RC_IO. */
MUST_CHECK enum rc disks_upkeep(struct sd *sd, struct err *reterr);
void disk_upkeep_stop(struct sd_disk *d);
void disk_upkeep_free(struct sd_disk *d); /* all of it ended */
/* A read found that record bad. */
void disk_suspect(struct sd_disk *d, const struct index_chunk_id *id,
                  const struct seg_location *loc);
/* group_stray.c: the scrub found bytes that no state lists; and once a second, from a fiber. */
void disk_stray(struct sd_disk *d, const struct record_header *h, const struct seg_location *loc);
void disk_leftovers(struct sd_disk *d);
/* fn looks something up in ix and tells: RC_BUSY, it lies on the disk. It is called at once with
 * the view that never blocks, and where that is not enough again, on a thread. Fiber. */
enum rc disk_look(struct sd_disk *d, enum rc (*fn)(void *arg, struct index *ix), void *arg);
/* Payload memory with its share of the pool; fiber. RC_BUSY, RC_DEADLINE, RC_NOMEM. */
MUST_CHECK enum rc disk_payload(struct sd_disk *d, uint32_t share, uint32_t bytes,
                                uint64_t timeout_ms, struct bulk_buf **ret_buf);

/* ---- groups: group.c (events and actions), group_log.c, group_apply.c, group_chunk.c,
 * group_snap.c, group_map.c (birth, etcd), group_retire.c (end) ---- */
struct comparison;
struct waiter { /* a proposal that waits for its outcome; caller's memory */
    struct list link;
    struct fiber_event done;
    uint64_t token, index;
    enum rc rc; /* RC_OK: outcome is valid; RC_UNAVAIL: unknown */
    bool settled;
    struct apply_outcome outcome;
};
struct append {
    struct store_append store;
    struct list link;
    struct sd_group *g;
    struct entry *e; /* NULL: still to be read from the log (REAPPEND) */
    uint64_t epoch, index, config;
    bool issued;
};
struct sd_group {
    struct list link, bucket, dirty_link;
    struct sd *sd;
    struct sd_disk *disk;
    struct placement_group id;
    struct index_group ix;
    char name[48]; /* "1/6/0400000000000000@disk" for logs */
    bool opening, ready, dead, dirty;
    bool retiring, erased; /* group_retire.c */
    uint64_t unwanted_ms;  /* since when nobody wants it; 0 */
    uint64_t record_kept;  /* config of the record that lies on the disk with the promises */
    uint64_t record_read;  /* config of the record as a transaction read it; 0 = none lately */
    struct replica_core core;
    /* the record and the wish as last seen */
    struct group_config config;
    int64_t config_revision;
    struct group_set wish;
    bool has_wish;
    /* log */
    struct entry_ring ring;
    struct list appends; /* in order; the issued ones first */
    uint32_t appends_n;
    uint64_t replaced_n; /* grows when an index gets another entry (4) */
    bool loading;
    bool durable_news;
    uint64_t durable_epoch, durable_index;
    struct list catchups;
    uint32_t catchups_n;
    uint64_t log_top; /* highest index appended in this process or found at start */
    uint64_t trimmed_at;
    bool trimming;
    /* state */
    uint64_t applied, apply_to;
    bool applying, state_busy; /* state_busy: a snapshot is being put in */
    struct fiber_cond state_cond;
    struct list waiters; /* by index */
    struct list fresh;   /* proposed in the running step */
    uint64_t tick_ms;    /* of the last TICK entry applied, or when it began to lead */
    /* persist */
    struct replica_durable persist;
    uint64_t persist_id;
    bool persisting, persist_news;
    /* etcd */
    bool reading;
    /* chunks and snapshot */
    uint64_t forget_epoch;
    struct list pulls;
    struct snap_get *snap;
    struct {           /* compare.c */
        uint64_t hold; /* nothing above is applied; 0 = no limit */
        bool running;  /* this replica's part, then told in sum */
        struct replica_compare sum;
        struct comparison *ask; /* primary: under way */
        uint64_t epoch, slot, begun_ms, again_ms, unix_ms;
        char difference[96]; /* what the last one found; "" = nothing */
    } compare;
};
MUST_CHECK enum rc groups_open(struct sd *sd, struct err *reterr);
void groups_close(struct sd *sd); /* frees; nothing of theirs runs any more */
void groups_tick(struct sd *sd);
void group_tick(struct sd_group *g);
void group_event(struct sd_group *g, struct replica_event *ev);
void group_dirty(struct sd_group *g); /* news flags were set: events come soon */
void groups_dirty_run(struct sd *sd);
void group_fail(struct sd_group *g, enum rc rc, const struct err *e); /* stops this replica */
void group_leave(struct sd_group *g);                                 /* the disk is out, or stop */
/* The replica of that group on that disk (NULL: on any; the leading one first). */
struct sd_group *group_find(struct sd *sd, const struct placement_group *id,
                            const struct id128 *disk);
struct sd_group *group_of_hash(struct sd *sd, uint32_t pool, uint64_t hash);
void group_message(struct sd *sd, struct bulk_conn *c,
                   const Mikura__Internal__V1__ReplicaMessage *m);
/* entry is copied. RC_OK: w will be settled (wait on w->done). Else not executed. */
MUST_CHECK enum rc group_propose(struct sd_group *g, struct slice entry, struct waiter *w);
void waiter_drop(struct waiter *w); /* stop waiting */
/* Likewise, to the entry's outcome; fiber. RC_BUSY, RC_INVAL, RC_NOMEM, and RC_STALE before it was
 * proposed: not executed. RC_DEADLINE, RC_UNAVAIL: the outcome is unknown. */
MUST_CHECK enum rc group_run(struct sd_group *g, const struct apply_entry *e, uint64_t left_ms,
                             struct apply_outcome *ret, struct err *reterr);
/* group_log.c */
void group_append(struct sd_group *g, const struct replica_action *a);
void group_reappend(struct sd_group *g, const struct replica_action *a);
void group_send(struct sd_group *g, const struct replica_action *a);
void group_send_msg(struct sd_group *g, const struct replica_msg *m);
void group_send_raw(struct sd_group *g, const struct id128 *to_disk, struct slice body);
void group_appends_issue(struct sd_group *g);
/* Entries first .. first + n - 1 from memory or disk, pinned; as many as can be had, at least one.
 * Fiber. RC_NOTFOUND: the log does not hold first. */
MUST_CHECK enum rc group_entries(struct sd_group *g, uint64_t first, uint32_t n, uint64_t bytes_max,
                                 struct entry **ret_entries, uint32_t *ret_n);
void entries_unpin(struct entry **e, uint32_t n);
void group_trim(struct sd_group *g);
/* The record of that entry is bad on the disk. */
void group_entry_bad(struct sd_disk *d, const struct index_group *ix, uint64_t index);
/* group_apply.c */
void group_apply(struct sd_group *g, uint64_t upto);
void group_abandon(struct sd_group *g, uint64_t first);
void waiters_settle(struct sd_group *g, uint64_t from, enum rc rc);
/* group_chunk.c */
void group_chunk(struct sd_group *g, const struct replica_action *a);
void group_check_tail(struct sd_group *g, const struct replica_action *a);
/* Hold that chunk durably, pulling it from from_disk if it is missing; one try. Fiber. */
MUST_CHECK enum rc chunk_ensure(struct sd_group *g, const struct apply_chunk *c,
                                const struct id128 *from_disk, struct err *reterr);
/* Likewise, from any other replica in sync. RC_UNAVAIL: there is none. */
MUST_CHECK enum rc chunk_fetch(struct sd_group *g, const struct apply_chunk *c, struct err *reterr);
/* Whoever rests on the answer: for an entry that is in the log here by now, else between stray_mark
 * and stray_still. Fiber. */
MUST_CHECK enum rc chunk_held(struct sd_group *g, const struct index_chunk_id *id,
                              struct index_chunk *ret, struct err *reterr);
bool chunk_decided(struct sd_group *g, const struct apply_chunk *c);
/* This disk answered for the chunk without its bytes, since it was decided. RC_NOTFOUND: no. */
MUST_CHECK enum rc chunk_skipped(struct index *ix, const struct index_chunk_id *id,
                                 struct err *reterr);
#define CHUNK_SKIP_PREFIX     "skip/"
#define CHUNK_SKIP_NAME_BYTES 38u /* and 32 digits */
/* What a note says. False: one of format 1, which says nothing. */
bool chunk_skip_decode(struct slice value, struct index_group *ret_group, uint64_t *ret_hash,
                       struct index_chunk_id *ret_id);
/* group_snap.c */
void group_snapshot(struct sd_group *g, const struct replica_action *a);
void snap_page_arrived(struct sd_group *g, struct slice body);
void snap_get_arrived(struct sd_group *g, struct slice body);
void snap_givers_expire(struct sd *sd);
/* group_map.c */
void group_persist(struct sd_group *g, const struct replica_action *a);
void group_record_keep(struct sd_group *g); /* after each event */
void group_cas(struct sd_group *g, const struct replica_action *a);
void group_read_config(struct sd_group *g);
void group_appends_drop(struct sd_group *g);
void groups_map_changed(struct sd *sd); /* pools came: groups that waited are opened */
void group_record(struct sd *sd, const struct cluster_group *cg);
void group_wish(struct sd *sd, const char *rest, struct slice value);

/* ---- what the disks keep of the cluster: persisted.c ---- */
MUST_CHECK enum rc persisted_open(struct sd *sd, struct err *reterr); /* blocking, at start */
bool persisted_foreign(const struct sd *sd); /* etcd speaks of another cluster than the disks' */
void persisted_joined(struct sd *sd, const struct id128 *id);
void persisted_pool(struct sd *sd, const struct placement_pool *p);
enum rc persisted_tell(struct fcall *c, struct err *reterr);            /* Store/Persisted */
void record_note_name(const struct placement_group *id, char name[48]); /* group_map.c */
/* What the disk holds of a replica that is not born yet; blocking. group_map.c */
MUST_CHECK enum rc group_found(struct sd_group *g, struct replica_start *ret, struct err *reterr);

/* compare.c: once a second: is it time to compare the replicas of a group? */
void compare_look(struct sd *sd);
void compare_arrived(struct sd_group *g, const struct replica_compare *m);

/* group_retire.c: once a second. A copy that is one too many goes. */
void group_retire_look(struct sd_group *g);

/* ---- state in pages of one snapshot: pager.c ---- */
struct pager;
struct pager_page {
    uint8_t *p; /* replica_row_* */
    uint32_t n;
    bool done;
    uint64_t index; /* applied index of the snapshot */
    enum rc rc;
    struct err err;
};
MUST_CHECK enum rc pager_open(struct sd_group *g, struct slice from, struct slice until,
                              struct pager **ret_pager);
/* Next page, valid until the next call; fiber. */
void pager_next(struct pager *p, const struct pager_page **ret_page);
void pager_close(struct pager *p); /* returns at once; the thread ends by itself */

/* ---- other nodes: peers.c ---- */
struct sd_peer;
struct sd_conn { /* a bulk connection, dialled or accepted */
    struct list link;
    struct sd *sd;
    struct sd_peer *peer; /* dialled */
    struct bulk_conn *c;
    enum bulk_class cls;
};
struct sd_peer {
    struct list link;
    struct sd *sd;
    char name[64], address[128];
    struct id128 node;
    struct {
        struct sd_conn *conn;
        bool up;
        uint64_t next_ms, pause_ms;
    } by[3]; /* BULK_DATA, BULK_CONTROL */
    struct fiber_cond changed;
};
struct sd_peer *peer_of_disk(struct sd *sd, const struct id128 *disk);
struct sd_peer *peer_of_address(struct sd *sd, const char *address);
void peer_message(struct sd_peer *p, struct slice header); /* best effort */
/* An open data connection; fiber. */
MUST_CHECK enum rc peer_data(struct sd_peer *p, uint64_t timeout_ms, struct bulk_conn **ret_conn,
                             struct err *reterr);
void peer_up(struct bulk_conn *c);
void peer_down(struct bulk_conn *c, enum rc rc, const struct err *e);
void peers_adopt(void *sd, struct net_stream *stream);
void peers_close(struct sd *sd);
void peers_free(struct sd *sd);
struct bulk_hello sd_hello(const struct sd *sd);

/* A bulk request as a fiber sees it. */
struct ask {
    struct bulk_out out;
    struct fiber_event done;
    bool ended;
    enum rc rc;
    struct err err;
    Mikura__Internal__V1__BulkResponse *answer;
    struct bulk_buf *payload;
    uint32_t payload_n;
    struct bulk_buf *into; /* where the answer's payload goes; or NULL */
};
MUST_CHECK enum rc ask_start(struct ask *a, struct bulk_conn *c,
                             const Mikura__Internal__V1__BulkRequest *req, struct bulk_buf *payload,
                             uint32_t n, uint32_t ready, uint32_t timeout_ms, struct err *reterr);
MUST_CHECK enum rc ask_wait(struct ask *a, struct err *reterr); /* the answer's rc */
void ask_clear(struct ask *a);

/* ---- bulk service: bulk_service.c, chunk_write.c, chunk_read.c ---- */
struct bulk_op {
    struct sd *sd;
    struct bulk_in *in; /* NULL: lost */
    struct tls_identity peer;
    Mikura__Internal__V1__BulkRequest *req;
    uint32_t payload_n, ready;
    bool whole_told;
    uint64_t deadline_ms;
    struct fiber_event changed;
    struct ask *forward; /* chunk_write: fed as bytes arrive */
    bool rest_lost;
};
extern const struct bulk_ops SD_BULK_OPS;
void bulk_op_answer(struct bulk_op *op, const Mikura__Internal__V1__BulkResponse *r,
                    struct bulk_buf *payload, uint32_t n);
void bulk_op_refuse(struct bulk_op *op, const struct sd_group *g, enum rc rc, const struct err *e);
uint64_t bulk_op_left_ms(const struct bulk_op *op, uint64_t cap_ms);
/* What a ChunkAdd's outcome means to who asked. */
enum rc chunk_add_rc(const struct apply_outcome *out, struct err *reterr);
void chunk_write_run(struct bulk_op *op);
void chunk_read_run(struct bulk_op *op);
void chunk_pull_run(struct bulk_op *op);
MUST_CHECK enum rc chunk_ref_decode(const Mikura__Internal__V1__ChunkRef *r, bool seal_needed,
                                    struct index_chunk_id *ret, struct err *reterr);

/* ---- gRPC: store_rpc.c ---- */
/* A request's conditions, puts and deletes, borrowed from it, lists in the arena. RC_INVAL. */
MUST_CHECK enum rc txn_entry(struct arena *a, const Mikura__Internal__V1__TxnRequest *q,
                             struct apply_entry *e, struct err *reterr);
/* Is there room on the disk for what it puts? RC_FULL. */
MUST_CHECK enum rc txn_room(struct sd_group *g, bool deletes_only, struct err *reterr);
/* What a TxnRequest is answered whose entry had that outcome; items in the arena. May wait. */
MUST_CHECK enum rc txn_answer(struct sd_group *g, struct arena *a,
                              const Mikura__Internal__V1__TxnRequest *q,
                              const struct apply_outcome *out,
                              Mikura__Internal__V1__TxnResponse *ret, struct err *reterr);
extern const struct fcall_method SD_STORE_METHODS[];

/* ---- the daemon: daemon.c ---- */
struct sd {
    struct sd_settings conf;
    uv_loop_t *loop;
    struct fibers *fs;
    struct tls *tls;
    struct rpc_server *server;
    struct fcalls *calls;
    struct etcd *etcd;
    struct cluster *cluster;
    struct id128 node_id, boot_id;
    struct id128 own; /* the cluster that the disks belong to; zero: none yet */
    struct sd_disk disks[SD_DISKS_MAX];
    uint32_t disks_n;
    struct sd_dark dark[SD_DISKS_MAX];
    uint32_t dark_n;
    struct list groups, dirty, buckets[SD_GROUP_BUCKETS];
    uint32_t groups_n, pagers_n, compare_parts_n;
    bool comparing; /* one at a time asks */
    struct list peers, conns, givers;
    uint32_t conns_n;
    struct entry_cache cache;
    struct chunk_pool pool;
    struct replica_actions actions;
    struct replica_entry entries[REPLICA_BATCH]; /* of the message being handled */
    bool stepping, stopping, serving, foreign_told;
    uint64_t next_token;
    uint32_t work_n;             /* fibers and callbacks that hold something of ours */
    struct fiber_cond work_cond; /* work_n fell */
    uv_timer_t timer;
    uv_idle_t idle;
    bool idle_on;
    struct sign_public keys[SD_SIGNING_MAX];
    uint32_t keys_n;
    uint64_t slow_ms; /* next slow tick */
};
/* Blocking up to the listener; then events. main.c runs the loop. */
MUST_CHECK enum rc sd_open(struct sd *sd, const struct sd_settings *conf, uv_loop_t *loop,
                           struct err *reterr);
void sd_stop(struct sd *sd); /* the loop ends when all is closed */
void sd_publish(struct sd *sd);
/* Counts what must end before the disks close. */
MUST_CHECK enum rc sd_spawn(struct sd *sd, void (*fn)(void *arg), void *arg);
void sd_work_end(struct sd *sd);

/* metrics.c */
enum sd_metric {
    SDM_WRITES,
    SDM_WRITE_BYTES,
    SDM_READS,
    SDM_READ_BYTES,
    SDM_PULLS,
    SDM_PULLS_SERVED,
    SDM_CORRUPT,
    SDM_BUSY,
    SDM_PROPOSED,
    SDM_APPLIED,
    SDM_MESSAGES_SENT,
    SDM_MESSAGES_DROPPED,
    SDM_MESSAGES_RECEIVED,
    SDM_DENIED,
    SDM_FORWARD_FAILED,
    SDM_SNAPSHOTS,
    SDM_QUARANTINED,
    SDM_REPAIRED,
    SDM_REPAIR_FAILED,
    SDM_DISKS_OUT,
    SDM_LOOKS_DISK,
    SDM_COMPARES,
    SDM_COMPARES_FAILED,
    SDM_COMPARE_ODD,
    SDM_COMPARE_UNDECIDED,
    SDM_COMPARE_LACKED,
    SDM_COMPARE_MENDED,
    SDM_STRAYS,
    SDM_N
};
void sdm_add(enum sd_metric m, int64_t v);
void sd_metrics_print(struct sd *sd, struct buf *out);
