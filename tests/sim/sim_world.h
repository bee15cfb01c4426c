/* tests/sim/sim_world.h - the world of sim_replica: nodes with disks and clocks, a network, an
 * etcd, clients. One struct, since one seed decides all of it; who changes what stands at each
 * part. sim_replica.c  time, the loop, the end    sim_node.c    service, disk, network of one node
 *   sim_etcd.c     records, wishes, manager   sim_client.c  requests and their outcomes
 *   sim_fault.c    what goes wrong, when      sim_truth.c   what must hold after every step */
#pragma once
#include "storaged/replica/mutant_core.h"
#include "storaged/replica/replica_msg.h"
#include "storaged/replica/stray_core.h"
#include "tests/sim/sim_base.h"

enum {
    NODES_MAX = 5,
    INDEX_MAX = 6144,
    KEYS = 4,
    CLIENTS = 4,
    CHUNKS_MAX = 1024, /* records of chunk bytes: one a ChunkAdd request */
    OPS_MAX = 8192,
    CONFIGS_MAX = 1024,
    HASH = 7 /* placement hash of all chunks */
};
#define MS 1000u /* of virtual microseconds */

enum ev {
    EV_TICK = 1,
    EV_NET,
    EV_SEND_LATE,
    EV_FSYNC,
    EV_PERSISTED,
    EV_APPLY,
    EV_TAIL,
    EV_CHUNK,
    EV_SNAP,
    EV_FLUSH,
    EV_CAS_AT_ETCD,
    EV_CAS_BACK,
    EV_READ_AT_ETCD,
    EV_WATCH,
    EV_RELIST,
    EV_CLIENT,
    EV_PROPOSE,
    EV_READ,
    EV_READ_DONE,
    EV_FAULT,
    EV_STRIKE,
    EV_RESTART,
    EV_MANAGER,
    EV_CHUNK_COPY,
    EV_ODD,
    EV_STRAY,
};

struct rec {
    uint64_t epoch, index;
    struct slice bytes;
};
struct wait {
    uint64_t index;
    uint32_t op;
};
struct node {
    struct id128 disk, boot;
    bool alive;
    uint32_t life;
    uint64_t paused_us; /* until */
    uint64_t clock_ms, clock_us, rate_ppm;
    struct replica_core core;
    enum replica_role told;
    /* on the disk */
    struct replica_durable promise, promise_pending;
    uint64_t promise_id, promise_pending_id;
    struct rec *log;
    size_t log_n, log_cap, synced_n;
    uint64_t log_base; /* trimmed below */
    struct sim_map flushed;
    uint64_t flushed_index;
    uint8_t chunks[CHUNKS_MAX];  /* 1 = these bytes are durable here */
    uint32_t odds_coming;        /* word of it is on its way */
    uint8_t skipped[CHUNKS_MAX]; /* 1 = answered for without them, since nobody needs them */
    uint8_t
        unskipped[CHUNKS_MAX]; /* 1 = the state in memory says so too, not yet the durable one */
    uint32_t skips_n;
    uint8_t gone[CHUNKS_MAX]; /* 1 = dropped by the state in memory, not yet by the durable one */
    uint32_t disk_at[INDEX_MAX]; /* index -> synced record that a restart would take, + 1 */
    uint64_t slow_us;            /* the disk stalls until */
    bool broken;                 /* lost what it had promised, until a snapshot came */
    bool odd;                    /* it was, or is about to be, told that its state is odd */
    /* in memory */
    struct sim_map map;
    uint64_t applied, apply_to;
    uint32_t at[INDEX_MAX]; /* index -> place in log + 1 */
    bool fsync_running, apply_running;
    struct stray_core stray;
    bool stray_written; /* what is being dropped came anew meanwhile */
    uint64_t log_top;
    uint64_t forget, replaced_n;
    struct replica_durable asked; /* the last PERSIST */
    struct wait waits[REPLICA_WINDOW * 4];
    uint32_t waits_n;
    /* what sim_truth.c has checked */
    uint64_t held_ok, commit_ok;
};
enum op_kind {
    OP_PUT,
    OP_READ,
    OP_PUT_IF,
    OP_DELETE,
    OP_CHUNK_ADD,
    OP_CHUNK_DROP,
    OP_CHUNK_TXN, /* a CHUNK_ADD and a PUT_IF in one entry */
    OP_TICK
};
struct op {
    enum op_kind kind;
    uint32_t key, client, tries, body, chunk;
    uint64_t seq, cond;
    uint64_t floor;    /* index of the key's newest change seen before this began */
    uint64_t executed; /* at this index; 0 = not */
    uint32_t losses;   /* w.losses when it began */
    bool done;
    struct slice entry;
    struct slice alone; /* OP_CHUNK_TXN: its transaction under the same key */
    struct slice bare;  /* and its chunk under none */
};
static inline bool op_adds_chunk(const struct op *op)
{
    return op->kind == OP_CHUNK_ADD || op->kind == OP_CHUNK_TXN;
}
struct client {
    struct id128 id;
    uint64_t seq;
    uint32_t op;             /* the current one, + 1 */
    uint32_t op_of[OPS_MAX]; /* sequence -> op + 1 */
};
struct change {
    uint64_t index;
    uint32_t op;
    bool there;
};
struct record {
    struct group_config cfg;
    int64_t mod;
};
struct cas_request {
    struct group_config cfg;
    int64_t mod;
    uint64_t id;
    bool told; /* its outcome */
};

struct sim {
    uint64_t seed, now, end_us;
    struct sim_rng rng, stray_rng; /* another: the worlds without strays stay as they were */
    struct sim_rng both_rng;       /* likewise */
    struct sim_arena arena;
    struct sim_queue q;
    struct node nodes[NODES_MAX];
    uint32_t n, min_in_sync, copies;
    bool mad_clocks; /* beyond the drift that leases allow: reads may be old, nothing else */
    bool odds;       /* replicas are told that they are odd, too */
    bool strays;     /* bytes that no ChunkAdd made exist are collected */
    bool both;       /* half of what adds a chunk has a transaction with it */
    bool ended;      /* no faults, no new requests */
    /* sim_fault.c */
    uint64_t cut[NODES_MAX][NODES_MAX]; /* from, to, until */
    uint64_t cut_etcd[NODES_MAX], etcd_down;
    uint32_t loss, slow, calm, hooked, ticks; /* per 10000; calm in ms */
    uint32_t chunky;                          /* percent of requests that add a chunk */
    uint32_t faults_left, losses;
    /* sim_etcd.c */
    struct record history[CONFIGS_MAX];
    uint32_t history_n, cas_flying;
    int64_t revision;
    struct group_set wish, wish_before;
    /* truth */
    struct slice committed[INDEX_MAX];
    uint64_t state[INDEX_MAX];
    uint64_t committed_n, applied_n, acked_max;
    struct id128 led_disk[CONFIGS_MAX], led_boot[CONFIGS_MAX];
    uint64_t seen[KEYS]; /* newest change that a finished operation has shown */
    struct change *changes[KEYS];
    uint32_t changes_n[KEYS], changes_cap[KEYS];
    /* sim_client.c */
    struct op *ops;
    uint32_t ops_n, chunks_n, bodies_n;
    uint32_t chunk_body[CHUNKS_MAX]; /* of each chunk's bytes */
    bool body_dropped[CHUNKS_MAX];
    uint32_t body_won[CHUNKS_MAX]; /* the chunk that came to exist, + 1 */
    struct client clients[CLIENTS];
    uint64_t acked, reads, steps, faults, strays_dropped;
};
extern struct sim w;
extern bool sim_tracing;
extern uint8_t sim_scratch[APPLY_SCRATCH_BYTES];

/* sim_replica.c */
void trace(const char *fmt, ...) PRINTF_LIKE(1, 2);
void fail(const char *fmt, ...) PRINTF_LIKE(1, 2) NORETURN;
uint64_t rnd(uint64_t n); /* 0 .. n - 1 */
bool chance(uint32_t per_10000);
uint64_t between(uint64_t lo, uint64_t hi);
/* To that node's process of now; node -1: to nobody in particular. */
void later(int type, int node, uint64_t in_us, struct sim_event e);
uint64_t clock_of(const struct node *n);
static inline int node_idx(const struct node *n)
{
    return (int)(n - w.nodes);
}
static inline int node_of(const struct id128 *disk)
{
    return disk->b[0] - 1;
}
static inline bool is_chunk(struct slice e)
{
    return apply_entry_adds_chunk(e);
}
uint32_t chunk_of(struct slice entry); /* a ChunkAdd's bytes: place in node.chunks */
uint32_t body_of(struct slice entry);

/* sim_node.c */
void node_step(struct node *n, struct replica_event ev);
void node_start(struct node *n);
void node_crash(struct node *n);
void node_wipe(struct node *n, bool whole); /* dead; whole: another disk is put in */
void node_event(struct node *n, const struct sim_event *e);
static inline bool node_has(const struct node *n, uint32_t chunk)
{
    return n->chunks[chunk] != 0 && n->gone[chunk] == 0;
}
void node_chunk_put(struct node *n, uint32_t chunk); /* its bytes are durable there */
struct stray_id stray_id_of(uint32_t chunk);

/* sim_etcd.c */
const struct record *etcd_now(void);
bool etcd_reached(int node);
void etcd_cas(struct node *n, const struct replica_action *a);
void etcd_read_config(struct node *n);
void etcd_event(const struct sim_event *e);
void etcd_replay_watch(int to); /* the watch goes back in time */
void manager_last_wish(void);   /* what is there at the end */

/* sim_client.c */
void client_event(const struct sim_event *e);
void client_request(struct node *n, const struct sim_event *e); /* as it arrives at a node */
void client_again(const struct op *op, uint64_t in_us);
void client_acked(struct node *n, struct op *op, uint64_t index, const struct apply_outcome *out);
struct op *op_of_entry(struct slice entry);

/* sim_fault.c */
void fault_event(const struct sim_event *e);
void fault_hook(int node, const struct group_config *target); /* something is at stake there */
void fault_hook_promise(int node); /* a promise of a new epoch is under way to its disk */
void heal(void);

/* sim_truth.c */
void truth_step(struct node *n); /* after each step of its core */
void truth_message(struct node *n, const struct replica_msg *m);
void truth_persist(struct node *n, const struct replica_durable *d);
void truth_synced(struct node *n, size_t upto); /* log records up to there are on the disk */
void truth_disk_changed(struct node *n); /* otherwise: promises, trim, flush, snapshot, damage */
void truth_acked_held(const char *when);
uint32_t truth_copies(uint64_t index); /* whole disks that hold all up to there */
void truth_applied(struct node *n, uint64_t index, struct slice entry,
                   const struct apply_outcome *out);
void truth_acts(const struct node *n, uint64_t epoch, const struct id128 *boot, const char *what);
/* The newest change of a key up to an applied index; NULL: none. */
const struct change *truth_change(uint32_t key, uint64_t upto);
void truth_chunks_read(struct node *n); /* it answers from its state: what that lists is there */
bool rec_dead(const struct rec *r, const struct replica_durable *d);
bool whole_member(const struct group_set *s, const struct node *n);
/* NULL: all healed, equal, serving. */
const char *truth_settled(void);
