/* tests/sim/model.h - a state of sim_model, and what its parts do: model.c searches, model_steps.c
 * takes one option in a state, model_hash.c knows a state again. */
#pragma once
#include "storaged/replica/apply_core.h"
#include "storaged/replica/replica_core_priv.h"

enum { N = 3, LOG = 12, SLOTS = 3, RECORDS = 10, LATES = 2, EPOCHS = 16 };
#define REMOVE_MS 1000u
#define GRACE_MS  1300u
#define RETRY_MS  200u

struct rec {
    uint8_t epoch, id; /* id: a write's, 100 + epoch: that primary's own first entry; 0: none */
};
struct mnode {
    struct replica_core core;
    bool alive, applying;
    uint8_t starts;
    uint64_t now_ms;
    struct rec mem[LOG], disk[LOG]; /* by index */
    struct rec fresh[2 * LOG];      /* appended, not durable, in order */
    uint8_t fresh_at[2 * LOG], fresh_n;
    struct replica_durable promise, wanted;
    uint64_t wanted_id; /* 0: none under way */
    uint8_t waits[LOG]; /* index -> write proposed here whose outcome is awaited */
};
struct mmsg {
    struct replica_msg m;
    struct rec e[4];
    uint64_t order;
    bool there;
};
struct mcas {
    struct group_config cfg;
    int64_t mod;
    uint64_t id;
    uint8_t starts;
    bool there;
};
struct state {
    struct mnode n[N];
    struct mmsg net[N][N][SLOTS];
    struct mcas cas[N], late[LATES];
    struct group_config record[RECORDS];
    uint8_t records_n, writes, crashes, cuts, changes, timeouts, beacons, cut; /* cut: node + 1 */
    uint64_t order;
    struct rec committed[LOG];
    uint8_t acked; /* highest index */
    struct id128 led[EPOCHS];
};
enum kind {
    TELL,    /* a: node, b: record */
    DELIVER, /* a: from, b: to, c: slot */
    SYNC,    /* a: node */
    PERSIST, /* a: node */
    LAND,    /* a: node, c: its outcome is told */
    UNKNOWN, /* a: node; the transaction stays on its way */
    LATE,    /* a: which */
    WRITE,   /* a: node */
    GRACE,   /* a: node: a backup's */
    REMOVE,  /* a: node, b: place of the peer of which it heard nothing */
    BEACON,  /* a: node */
    RETRY,   /* a: node: of its transaction */
    CRASH,   /* a: node, b: the log is kept, c: the promise is */
    START,   /* a: node */
    CUT,     /* a: node */
    HEAL,
};
struct option {
    uint8_t kind, a, b, c;
    uint8_t killed; /* before the disk had it: 1 + what is kept: 1 the log, 2 the promise */
};

extern uint32_t model_slots; /* messages that one way between two replicas holds */
void broken(const char *why) NORETURN;
static inline int node_of(const struct id128 *disk)
{
    return disk->b[0] - 1;
}

/* model_steps.c */
void model_start(struct state *s, int i);
void model_take(struct state *s, const struct option *o);
/* What is under way to the disk is there; tell: the process lives to hear of it. */
void model_durable(struct state *s, int i, bool tell);
void model_persisted(struct state *s, int i);
void model_crash(struct state *s, int i, bool log_kept, bool promise_kept);
/* A node's time passes, in which all its peers but one answered. */
void model_pass(struct state *s, int i, uint64_t ms, uint32_t silent);

/* model_hash.c */
uint64_t model_hash(const struct state *s); /* never 0 */
