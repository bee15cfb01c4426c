/* storaged/replica/replica_core.h - when is an entry of one group's log committed, and who leads?
 *
 * One struct replica_core per (group, disk): primary-backup after PacificA, etcd as the arbiter
 * (DESIGN.md section 5). Pure: an event goes in, a list of actions comes out; no clock, no memory
 * but the struct. The core never holds entry bytes: it counts indices, the service keeps bytes (its
 * cache, and the log on disk), so an idle group costs sizeof(struct replica_core) and nothing else.
 *
 * ---- How the service must carry it out ----
 *  1. Events of a group are handed in singly (by its reactor). The actions of a step are
 * carried out in order before the next step; pointers in them are borrowed until then.
 *  2. Nothing may be lost silently except messages (SEND is best effort; all is repeated by ticks)
 *     and READ_CONFIG (asked again). Every APPEND, REAPPEND, PERSIST, CHECK_TAIL, SNAPSHOT, CAS and
 *     APPLY gets its event, or the disk is out and the core is dropped.
 *  3. APPEND/REAPPEND take effect in the service's index at once (later reads of that index see the
 *     new entry), in order; DURABLE is told when on disk. An append at an index that exists
 * replaces the entry there; the log on disk is append-only and may hold both: at start the record
 * with the highest epoch of an index counts (of equal epochs either, they are the same), and of
 * those above durable.cut_index every one with an epoch below durable.cut_epoch is dead.
 *  4. A SEND of REPLICA_PREPARE names entries by first and n; the service fills in their bytes and
 *     epochs from cache or log. It may read them from the disk first, may send fewer (a message is
 * at most REPLICA_MESSAGE_BYTES_MAX, but at least one entry), or drop the message; it must take all
 *     other fields as they were when the action came, `stamp_ms` above all (the lease counts from
 *     it). If an entry was replaced meanwhile, drop the message.
 *  5. Tick every core at least each REPLICA_TICK_MS; now_ms is CLOCK_BOOTTIME and never goes back.
 *     A read asks replica_may_read() *before* it looks at the state and again *after* the answer
 * was built, right before it is sent, with the time of then, and core.epoch must be the same at
 * both: an answer built before a take-over ended is old though the lease holds by now.
 *  6. A chunk's bytes are durable on the proposer before its ChunkAdd is proposed.
 *  7. One process per disk: a second one on the same disk is refused (a lock on the disk) before
 *     anything starts.
 *  8. Quiet groups: beacons are PREPAREs without entries; all that leave in one loop turn for one
 *     peer may travel in one frame (bulk_message), answers likewise. Lease traffic goes on the
 *     BULK_CONTROL connection.
 *
 * Time: lease_ms is counted by the primary from the *sending* of the beacon that was answered,
 * grace_ms by backups from the receipt; lease_ms * (1 + drift) < grace_ms * (1 - drift).
 * What is refused, and why each rule is there: README.md. */
#pragma once
#include "common/base/id128.h"
#include "common/base/rc.h"
#include "common/placement/group_config.h"

#define REPLICA_TICK_MS           50u
#define REPLICA_WINDOW            256u /* uncommitted entries of a group; more: RC_BUSY */
#define REPLICA_BATCH             64u  /* entries in one PREPARE */
#define REPLICA_MESSAGE_BYTES_MAX ((4u << 20) - 4096u) /* fits a bulk header with its wrapping */
#define REPLICA_PEERS_MAX         (2u * GROUP_MEMBERS_MAX)
#define REPLICA_PERSIST_EVERY     256u /* commits between two unforced PERSISTs */
/* A step: BATCH chunks, a send to each peer twice, and a dozen others. */
#define REPLICA_ACTIONS_MAX (REPLICA_BATCH + 2u * REPLICA_PEERS_MAX + 32u)

struct replica_conf {
    struct id128 disk, boot; /* boot: drawn at each start of the process */
    uint32_t min_in_sync;    /* of the pool */
    /* 0 = the default in parentheses */
    uint32_t beacon_ms;   /* (200) */
    uint32_t lease_ms;    /* (1000) */
    uint32_t grace_ms;    /* (1300) */
    uint32_t remove_ms;   /* (1000) a silent in-sync backup is removed after this */
    uint32_t lone_ms;     /* (5000) the same, where fewer than min_in_sync would be left */
    uint32_t patience_ms; /* (15000) a backup that answers but does not get on is removed */
};

/* What a replica has promised; kept by the service on the disk, CRC'd, replaced as a whole. */
#define REPLICA_DURABLE_BYTES 56u
struct replica_durable {
    uint64_t epoch, config;        /* highest seen: lower is refused for ever */
    uint64_t commit;               /* known committed: may be behind, never ahead */
    uint64_t cut_index, cut_epoch; /* see rule 3 */
    bool damaged; /* the log lost something it had promised: only a snapshot heals */
};
void replica_durable_encode(const struct replica_durable *d, uint8_t out[REPLICA_DURABLE_BYTES]);
MUST_CHECK enum rc replica_durable_decode(struct slice bytes, struct replica_durable *ret,
                                          struct err *reterr);

/* What the service found on its disk when it started (all zero: a new, empty replica). */
struct replica_start {
    uint64_t now_ms;
    struct replica_durable durable;
    uint64_t applied; /* index that the state in RocksDB stands for */
    uint64_t
        log_first; /* lowest index in the log; applied + 1 or lower, or log_last + 1 if empty */
    uint64_t
        log_last; /* all of [log_first, log_last] is there, by rule 3; 0 if there never was one */
    uint64_t log_epoch;  /* highest epoch of a record there; 0 = none */
    uint64_t epoch_last; /* highest index there whose record is of that epoch */
    bool damaged;        /* the engine or the log is behind what it promised (a hole, a bad record
                            below flushed_upto, applied above log_last with nothing above it is fine) */
};

/* ---- messages; bytes: replica_msg.h ---- */
enum replica_msg_type {
    REPLICA_PREPARE = 1,     /* primary -> all others: entries, commit index; empty = beacon */
    REPLICA_ANSWER = 2,      /* back */
    REPLICA_REFUSE = 3,      /* "a higher epoch or config exists": the receiver re-reads etcd */
    REPLICA_JOIN = 4,        /* a disk that is no member -> primary: I am here */
    REPLICA_NO_LOG = 5,      /* primary -> learner: my log begins above what you want: snapshot */
    REPLICA_SNAP_GET = 6,    /* 6 and 7 pass between services, the core never sees them: */
    REPLICA_SNAP_PAGE = 7,   /*   see replica_msg.h */
    REPLICA_COMPARE_GET = 8, /* 8 to 10 as well */
    REPLICA_COMPARE_SUM = 9,
    REPLICA_COMPARE_ODD = 10,
};
struct replica_entry {
    uint64_t epoch;
    struct slice bytes; /* as apply_core encodes it */
};
struct replica_msg {
    enum replica_msg_type type;
    struct id128 from_disk, from_boot, to_disk;
    uint64_t config, epoch; /* the sender's highest */
    uint64_t stamp_ms; /* PREPARE: the primary's clock; ANSWER: the highest one received, echoed */
    uint64_t seq;      /* PREPARE: the primary's count of messages; ANSWER: the highest, echoed */
    uint64_t commit;   /* PREPARE: committed up to here. NO_LOG: first index of the log */
    uint64_t tail;     /* PREPARE: index of this epoch's first own entry, 0 = not yet appended */
    uint64_t last;     /* PREPARE, ANSWER: last index of the sender's log */
    uint64_t first;    /* PREPARE: index of entries[0] (n > 0) */
    uint32_t n;
    const struct replica_entry *entries; /* PREPARE; NULL inside a SEND action (rule 4) */
    uint64_t
        durable; /* ANSWER: all up to here is durable here, chunks too, and equals the primary's */
    uint64_t want; /* ANSWER, JOIN: next index to send */
    bool damaged;  /* ANSWER, JOIN */
};

/* ---- events ---- */
enum replica_ev_type {
    REPLICA_EV_TICK = 1,
    REPLICA_EV_CONFIG,  /* config, mod_revision: the group's record was seen (watch, range or
                           READ_CONFIG); may be old, repeated, late */
    REPLICA_EV_WISH,    /* wish: the manager's desired members (the key beside the record) */
    REPLICA_EV_CAS,     /* id, cas (, mod_revision if won) */
    REPLICA_EV_MESSAGE, /* msg: from an authenticated peer of this cluster; borrowed */
    REPLICA_EV_DURABLE, /* epoch, index: every APPEND/REAPPEND made in that epoch up to index is
                           durable. epoch = the action's epoch */
    REPLICA_EV_CHUNK,   /* epoch, index: the chunk of that entry is held durably now (answers CHUNK)
                         */
    REPLICA_EV_TAIL,    /* epoch, index: answers CHECK_TAIL */
    REPLICA_EV_PROPOSE, /* entry, token: a request; the same step answers PROPOSED */
    REPLICA_EV_APPLIED, /* index: the state stands for it (need not be durable) */
    REPLICA_EV_PERSISTED, /* id */
    REPLICA_EV_SNAPSHOT, /* epoch, rc (, index): the state was replaced by that of `index`, durably,
                            and every chunk that it lists is held. rc != OK: gave up, try again */
    REPLICA_EV_TRIMMED,  /* index: the log begins there now */
    REPLICA_EV_ODD, /* epoch, id (config): the state here is another than that of most others in
                       sync, who were compared under this record: it counts for nothing from now on,
                       only a snapshot heals; a leader lays down its reign */
};
enum replica_cas { REPLICA_CAS_WON = 1, REPLICA_CAS_LOST, REPLICA_CAS_UNKNOWN };
struct replica_event {
    enum replica_ev_type type;
    uint64_t now_ms; /* in every event */
    uint64_t epoch, index, id, token;
    int64_t mod_revision;
    enum replica_cas cas;
    enum rc rc;
    const struct group_config *config;
    const struct group_set *wish;
    const struct replica_msg *msg;
    struct slice entry;
};

/* ---- actions ---- */
enum replica_act_type {
    REPLICA_PERSIST = 1, /* durable, id: write it durably, then EV_PERSISTED. Until then the core
                            sends nothing that rests on it. A later PERSIST replaces an earlier */
    REPLICA_APPEND,      /* epoch, first, n, entries: write to the log under `epoch` (an entry's own
                            epoch field is ignored). EV_DURABLE follows */
    REPLICA_REAPPEND,    /* epoch, first, last: write the entries that the log holds there again,
                            under the new epoch. EV_DURABLE follows */
    REPLICA_SEND,        /* msg (rule 4), to msg.to_disk */
    REPLICA_APPLY,       /* last: apply all up to it, in order; EV_APPLIED when done (one for
                            several is fine). Once applied, requests proposed here at an index <=
                            last are answered with their outcome */
    REPLICA_PROPOSED,    /* token, rc (, first): RC_OK: it became entry `first`, an APPLY or ABANDON
                            settles it. RC_STALE: not primary. RC_UNAVAIL: too few in-sync, not yet
                            serving, or an unknown outcome in etcd. RC_BUSY: the window is full.
                            Other than RC_OK: never executed */
    REPLICA_ABANDON,     /* first: requests waiting at an index >= first: answer RC_UNAVAIL; their
                            outcome is unknown (they may still be committed, and applied later) */
    REPLICA_CAS,         /* id, config, mod_revision: transaction "if the key's mod_revision is
                            this, put the record"; EV_CAS tells. Deadline, no connection or any
                            doubt: UNKNOWN */
    REPLICA_READ_CONFIG, /* read the record by a transaction (never a bare range), then EV_CONFIG */
    REPLICA_CHUNK,       /* epoch, first, peer, entries[0]: a ChunkAdd that was appended: when
                            exactly that record (body, index, seal id) is durable here, EV_CHUNK;
                            if it is missing pull it from peer first, until a CHUNK of the same
                            index with a higher epoch comes, or REPLICA_FORGET */
    REPLICA_CHECK_TAIL,  /* epoch, first, last: EV_TAIL with the highest index so that no ChunkAdd
                            in first..index lacks its chunk on this disk (first - 1 if the first
                            does). Local look-up, nothing is pulled */
    REPLICA_SNAPSHOT,    /* epoch, peer, first: fetch the group's state from peer, at an index >=
                            first - 1, and every chunk it lists and this disk lacks; EV_SNAPSHOT.
                            What was here before is replaced, never merged. One at a time */
    REPLICA_FORGET,      /* epoch: pulls and snapshots begun for an epoch below are no longer
                            wanted */
    REPLICA_ROLE,        /* role changed: ask replica_role(). For logs, metrics and routing */
};
struct replica_action {
    enum replica_act_type type;
    uint64_t epoch, first, last, id, token;
    uint32_t n;
    int64_t mod_revision;
    enum rc rc;
    struct id128 peer;
    const struct replica_entry *entries;
    struct replica_msg msg;
    struct replica_durable durable;
    struct group_config config;
};
struct replica_actions {
    struct replica_action a[REPLICA_ACTIONS_MAX];
    uint32_t n;
};

/* ---- state: read it through the functions below ---- */
enum replica_role {
    REPLICA_NONE,      /* no record seen, or no member */
    REPLICA_LEARNER,   /* receives all, counts for nothing */
    REPLICA_BACKUP,    /* in sync, as far as is known */
    REPLICA_CANDIDATE, /* its transaction to become primary is under way */
    REPLICA_TAKEOVER,  /* primary by the record: checks its tail, re-proposes it */
    REPLICA_PRIMARY,   /* its own first entry is committed and applied */
};
struct replica_peer {
    struct id128 disk, boot;
    uint64_t match;        /* durable there, equal to ours */
    uint64_t next;         /* next index to send */
    uint64_t last_seen;    /* highest log end it ever told */
    uint64_t since_config; /* answers under a lower config are of an earlier membership */
    uint64_t stamp_ms;     /* newest beacon answered in this epoch; 0 = none */
    uint64_t heard_ms;     /* last answer, or when it became a member or we primary */
    uint64_t sent_seq;     /* of the last entries sent */
    uint64_t moved_ms;     /* match grew, or nothing was outstanding */
    bool damaged;
    bool in_sync; /* by the record */
};
struct replica_core {
    struct replica_conf conf;
    enum replica_role role;
    uint64_t now_ms, start_ms;
    /* configuration: cfg is the newest record seen (config 0 = none); epoch, config the highest
     * seen anywhere */
    struct group_config cfg;
    int64_t mod_revision;
    struct group_set wish;
    uint64_t epoch, config;
    struct id128 leader, leader_boot;           /* whom messages of `epoch` came from */
    struct replica_durable durable;             /* as last asked to persist */
    uint64_t persist_id, persisted_id, gate_id; /* nothing is sent while persisted_id < gate_id */
    /* the transaction under way */
    enum { REPLICA_CAS_NONE, REPLICA_CAS_SENT, REPLICA_CAS_DOUBT } cas_state;
    uint64_t cas_id, cas_ms;
    bool cas_lost; /* in doubt whether an earlier try or somebody else won: read */
    bool fresh;    /* nobody led before */
    struct group_config cas_cfg;
    int64_t cas_mod_revision;
    uint64_t read_ms; /* last READ_CONFIG */
    /* log */
    uint64_t log_first, log_last;
    uint64_t commit, apply_asked, applied;
    uint64_t verified;    /* backup: equal to the primary's up to here, in this epoch */
    uint64_t epoch_last;  /* backup: highest index ever appended here under this epoch */
    uint64_t log_durable; /* of what was appended in this epoch */
    uint64_t tail;        /* primary: index of its own first entry; backup: as told */
    uint64_t chunk_wait[REPLICA_WINDOW / 64 *
                        4]; /* bit of index % (4 * REPLICA_WINDOW): its chunk is awaited */
    bool chunks_awaited;    /* any bit of chunk_wait may be set */
    bool damaged;
    /* follower */
    uint64_t word_ms;   /* last word of the primary; at first start_ms */
    uint64_t stamp_ms;  /* its newest stamp */
    uint64_t answer_ms; /* when a primary was last answered; at first start_ms */
    uint64_t seq;       /* of messages: highest received, or as primary sent */
    uint64_t leader_commit, answered;
    uint64_t join_ms;
    bool snapshot_running;
    /* primary */
    struct replica_peer peers[REPLICA_PEERS_MAX];
    uint32_t peers_n;
    uint64_t beacon_ms;
    uint64_t serve_ms; /* not before: the old leases are over */
    struct id128 joiner;
    uint64_t joiner_ms;
    struct replica_entry proposed;
    bool tail_checking;
    uint8_t noop[32];
    struct replica_entry noop_entry;
};

void replica_core_init(struct replica_core *c, const struct replica_conf *conf,
                       const struct replica_start *start);
/* ret: overwritten. */
void replica_step(struct replica_core *c, const struct replica_event *ev,
                  struct replica_actions *ret);

enum replica_role replica_role(const struct replica_core *c);
const char *replica_role_name(enum replica_role role);
/* Linearizable reads of the applied state are allowed at this moment. RC_STALE: not primary.
 * RC_UNAVAIL: no lease, not yet serving, or etcd's answer is unknown. */
MUST_CHECK enum rc replica_may_read(const struct replica_core *c, uint64_t now_ms);
/* A proposal would be accepted; as PROPOSED's rc. */
MUST_CHECK enum rc replica_may_write(const struct replica_core *c);
/* Chunk bytes may be read here (immutable, never reused ids): in sync or learner, any epoch. A node
 * that is no member answers RC_STALE. */
MUST_CHECK enum rc replica_may_read_chunk(const struct replica_core *c);
/* The log may be trimmed below this: nobody known needs it. (To bound a log, the service may trim
 * more; a peer then takes a snapshot.) Also never above the durable applied index + 1 (P6). */
uint64_t replica_log_needed(const struct replica_core *c);
/* Whom to ask instead: the primary as far as is known; zero id: unknown. */
struct id128 replica_leader(const struct replica_core *c);
