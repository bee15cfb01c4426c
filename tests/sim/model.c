/* tests/sim/model.c - every order of events of a small group of the real replica cores, within
 * budgets; each state once.
 *   sim_model [--writes N] [--crashes N] [--cuts N] [--changes N] [--timeouts N] [--beacons N]
 *             [--slots N] [--learner 1] [--hurry 0] [--states-max N]
 * Exit 0: exhausted, nothing broke. 1: an invariant broke, the path is printed. 2: usage. 3:
 * stopped at states-max.
 *
 * Beginning: three replicas, the first one leads, its first entry is committed (--learner 1: the
 * third one is a learner that has nothing yet). Then any of: a write is proposed; a message arrives
 * (each way between two replicas holds `slots` messages, of which any may come next; a further one
 * pushes the oldest out, so losses and, from 2, reordering are covered); a transaction reaches etcd
 * and its outcome is told or not, or it is unknown before it arrives; the newest record is told; a
 * backup's patience ends, the primary's with one backup does, or it sends beacons; a kill; a start;
 * one replica is cut off from the others, or that ends. changes: of the record, of any kind.
 *
 * Time is not counted: a timeout may come at any moment, whatever was heard, so what holds here
 * holds for any clocks; leases and reads are sim_replica's, as are chunks and snapshots. Disks are
 * in a hurry unless told otherwise: what a step writes is durable before the next one, or its
 * process is killed between the two, with the log kept or not, the promise kept or not. With
 * --hurry 0 both become durable at any later time (many more states); when no kill is left, at
 * once.
 *
 * A state is known again by a hash of what decides its future, whatever replicas 2 and 3 are
 * called. */
#include "storaged/replica/apply_core.h"
#include "storaged/replica/replica_core_priv.h"
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifdef REPLICA_MUTANTS
int replica_mutant;
#endif

enum { N = 3, LOG = 12, SLOTS = 3, RECORDS = 10, LATES = 2, EPOCHS = 16, DEPTH = 4096 };
#define REMOVE_MS 1000u
#define GRACE_MS  1300u
#define RETRY_MS  200u

typedef unsigned long long ull;

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
    bool there, told;
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
enum { OPTIONS = 128 };
struct frame {
    struct state s;
    struct option o[OPTIONS];
    uint32_t n, next;
};

static struct frame *stack;
static int depth;
static uint32_t slots = 1;
static bool hurry;
static struct replica_actions acts;
static ull states, transitions, states_max = UINT64_MAX, deepest;
static uint64_t *seen;
static size_t seen_cap;

static void broken(const char *why) NORETURN;
static void broken(const char *why)
{
    (void)printf("broken after %d steps: %s\n", depth, why);
    for (int i = 0; i < depth; i++) {
        static const char *const words[] = {
            "tell",  "deliver", "sync",   "persist", "land",  "unknown", "late", "write",
            "grace", "remove",  "beacon", "retry",   "crash", "start",   "cut",  "heal"};
        const struct option *o = &stack[i].o[stack[i].next - 1];

        (void)printf("%3d %s %d %d %d%s\n", i + 1, words[o->kind], o->a, o->b, o->c,
                     o->killed != 0 ? ", killed" : "");
    }
    (void)fflush(stdout);
    _exit(1);
}

static void on_abort(int sig)
{
    (void)sig;
    broken("a CHECK");
}

static int node_of(const struct id128 *disk)
{
    return disk->b[0] - 1;
}

static struct id128 boot_of(int i, uint8_t starts)
{
    struct id128 b = {{0}};

    b.b[0] = (uint8_t)(i + 1);
    b.b[1] = starts;
    return b;
}

/* ---- what a restart would find ---- */

static struct rec on_disk(const struct mnode *n, uint64_t index)
{
    struct rec r = n->disk[index];

    if (index > n->promise.cut_index && r.epoch < n->promise.cut_epoch) r = (struct rec){0};
    return r;
}

static void check_acked(const struct state *s)
{
    const struct group_set *in = &s->record[s->records_n - 1].in_sync;

    for (uint32_t i = 0; i < in->n; i++) {
        for (uint64_t k = 1; k <= s->acked; k++) {
            if (on_disk(&s->n[node_of(&in->disks[i])], k).id != s->committed[k].id)
                broken("one in sync does not hold what is acknowledged");
        }
    }
}

/* ---- actions of a step ---- */

static void step(struct state *s, int i, struct replica_event ev);

static void log_add(struct mnode *n, uint64_t epoch, uint64_t index, uint8_t id)
{
    if (index >= LOG || n->fresh_n == 2 * LOG) broken("the log is longer than the model's");
    n->mem[index] = n->fresh[n->fresh_n] = (struct rec){(uint8_t)epoch, id};
    n->fresh_at[n->fresh_n++] = (uint8_t)index;
}

static uint8_t id_of(const struct replica_entry *e, uint64_t epoch)
{
    if (e->bytes.p[1] == APPLY_NOOP && e->bytes.n > 3) return (uint8_t)(100 + epoch);
    return e->bytes.p[2];
}

static void send(struct state *s, int i, const struct replica_msg *m)
{
    struct mnode *n = &s->n[i];
    int to = node_of(&m->to_disk);
    struct mmsg *slot = NULL, *oldest = NULL;

    if (m->epoch > n->promise.epoch || m->config > n->promise.config)
        broken("it speaks of what it has not promised yet");
    if (m->type == REPLICA_PREPARE) {
        if (id128_is_zero(&s->led[m->epoch])) s->led[m->epoch] = m->from_boot;
        if (!id128_eq(&s->led[m->epoch], &m->from_boot)) broken("two leaders act in one epoch");
    }
    for (uint64_t k = n->core.commit + 1; m->type == REPLICA_ANSWER && k <= m->durable; k++) {
        if (on_disk(n, k).id != n->mem[k].id) broken("it answers for what is not on its disk");
    }
    if (s->cut == i + 1 || s->cut == to + 1) return;
    for (uint32_t k = 0; k < slots; k++) {
        struct mmsg *x = &s->net[i][to][k];

        if (!x->there) slot = x;
        if (x->there && (oldest == NULL || x->order < oldest->order)) oldest = x;
    }
    if (slot == NULL) slot = oldest;
    *slot = (struct mmsg){.m = *m, .order = ++s->order, .there = true};
    slot->m.n = MIN(m->n, ARRAY_N(slot->e));
    slot->m.entries = NULL;
    for (uint32_t k = 0; k < slot->m.n; k++)
        slot->e[k] = n->mem[m->first + k];
}

static void commit_seen(struct state *s, int i)
{
    struct mnode *n = &s->n[i];

    for (uint64_t k = 1; k <= n->core.commit; k++) {
        if (s->committed[k].id == 0) s->committed[k] = n->mem[k];
        if (s->committed[k].id != n->mem[k].id) broken("committed logs differ");
    }
    for (uint64_t k = 1; k <= n->core.commit; k++) {
        if (n->waits[k] == 0) continue;
        if (n->waits[k] != n->mem[k].id) broken("another entry took the place of one that waits");
        n->waits[k] = 0;
        s->acked = MAX(s->acked, (uint8_t)k);
        check_acked(s);
    }
    if (n->core.epoch < n->promise.epoch || n->core.config < n->promise.config)
        broken("it forgot what it promised");
}

static void act(struct state *s, int i, const struct replica_action *a)
{
    struct mnode *n = &s->n[i];

    switch (a->type) {
    case REPLICA_PERSIST:
        if (a->durable.epoch < n->promise.epoch || a->durable.config < n->promise.config ||
            a->durable.commit < n->promise.commit)
            broken("promises go back");
        n->wanted = a->durable;
        n->wanted_id = a->id;
        break;
    case REPLICA_APPEND:
        for (uint32_t k = 0; k < a->n; k++)
            log_add(n, a->epoch, a->first + k, id_of(&a->entries[k], a->epoch));
        break;
    case REPLICA_REAPPEND:
        for (uint64_t k = a->first; k <= a->last; k++)
            log_add(n, a->epoch, k, n->mem[k].id);
        break;
    case REPLICA_SEND:
        send(s, i, &a->msg);
        break;
    case REPLICA_APPLY:
        n->applying = true;
        break;
    case REPLICA_PROPOSED:
        if (a->rc == RC_OK) n->waits[a->first] = (uint8_t)a->token;
        break;
    case REPLICA_ABANDON:
        for (uint64_t k = a->first; k < LOG; k++)
            n->waits[k] = 0;
        break;
    case REPLICA_CAS:
        s->cas[i] = (struct mcas){.cfg = a->config,
                                  .mod = a->mod_revision,
                                  .id = a->id,
                                  .starts = n->starts,
                                  .there = true};
        break;
    case REPLICA_READ_CONFIG: /* a record may be told at any time */
    case REPLICA_CHECK_TAIL:
    case REPLICA_FORGET:
    case REPLICA_ROLE:
        break;
    case REPLICA_CHUNK:
    case REPLICA_SNAPSHOT:
        broken("no chunks and no snapshots are in the model");
    }
}

/* What needs no other's leave is done at once: the state is applied, the tail has no chunks. */
static void step(struct state *s, int i, struct replica_event ev)
{
    struct mnode *n = &s->n[i];
    uint64_t tail_epoch = 0, tail = 0;

    ev.now_ms = n->now_ms;
    replica_step(&n->core, &ev, &acts);
    for (uint32_t k = 0; k < acts.n; k++) {
        act(s, i, &acts.a[k]);
        if (acts.a[k].type != REPLICA_CHECK_TAIL) continue;
        tail_epoch = acts.a[k].epoch;
        tail = acts.a[k].last;
    }
    commit_seen(s, i);
    if (tail != 0)
        step(s, i,
             (struct replica_event){.type = REPLICA_EV_TAIL, .epoch = tail_epoch, .index = tail});
    while (n->applying) {
        n->applying = false;
        step(s, i,
             (struct replica_event){.type = REPLICA_EV_APPLIED, .index = n->core.apply_asked});
    }
}

/* ---- events ---- */

static void start(struct state *s, int i)
{
    struct mnode *n = &s->n[i];
    struct replica_conf conf = {.min_in_sync = 2,
                                .beacon_ms = 1,
                                .grace_ms = GRACE_MS,
                                .remove_ms = REMOVE_MS,
                                .lone_ms = 1u << 30,
                                .patience_ms = 1u << 30};
    struct replica_start st = {.now_ms = n->now_ms, .durable = n->promise, .log_first = 1};

    n->alive = true;
    n->starts++;
    conf.disk.b[0] = (uint8_t)(i + 1);
    conf.boot = boot_of(i, n->starts);
    memset(n->mem, 0, sizeof(n->mem));
    while (st.log_last + 1 < LOG && on_disk(n, st.log_last + 1).id != 0) {
        st.log_last++;
        n->mem[st.log_last] = on_disk(n, st.log_last);
        if (n->mem[st.log_last].epoch < st.log_epoch) continue;
        st.log_epoch = n->mem[st.log_last].epoch;
        st.epoch_last = st.log_last;
    }
    replica_core_init(&n->core, &conf, &st);
    commit_seen(s, i);
}

static void durable(struct state *s, int i, bool tell)
{
    struct mnode *n = &s->n[i];
    struct rec last = {0};
    uint8_t at = 0;

    for (uint8_t k = 0; k < n->fresh_n; k++) {
        last = n->fresh[k];
        at = n->fresh_at[k];
        if (n->disk[at].epoch <= last.epoch) n->disk[at] = last;
    }
    n->fresh_n = 0;
    check_acked(s);
    if (tell && at != 0)
        step(s, i,
             (struct replica_event){.type = REPLICA_EV_DURABLE, .epoch = last.epoch, .index = at});
}

static void persisted(struct state *s, int i)
{
    struct mnode *n = &s->n[i];
    uint64_t id = n->wanted_id;

    n->promise = n->wanted;
    n->wanted_id = 0;
    check_acked(s);
    step(s, i, (struct replica_event){.type = REPLICA_EV_PERSISTED, .id = id});
}

/* Nobody waits for it any more; it may land yet. */
static void cas_adrift(struct state *s, int i)
{
    for (uint32_t k = 0; k < LATES && s->cas[i].there; k++) {
        if (s->late[k].there) continue;
        s->late[k] = s->cas[i];
        s->cas[i].there = false;
    }
    s->cas[i] = (struct mcas){0};
}

static void crash(struct state *s, int i, bool log_kept, bool promise_kept)
{
    struct mnode *n = &s->n[i];

    if (log_kept) durable(s, i, false);
    n->fresh_n = 0;
    if (promise_kept && n->wanted_id != 0) n->promise = n->wanted;
    n->wanted_id = 0;
    cas_adrift(s, i);
    n->alive = n->applying = false;
    memset(n->waits, 0, sizeof(n->waits));
    memset(&n->core, 0, sizeof(n->core));
    check_acked(s);
}

static void deliver(struct state *s, int from, int to, uint32_t k)
{
    static const uint8_t kinds[] = {APPLY_TXN, APPLY_NOOP};
    struct mmsg x = s->net[from][to][k];
    struct replica_entry e[ARRAY_N(x.e)];
    uint8_t bytes[ARRAY_N(x.e)][4];

    s->net[from][to][k] = (struct mmsg){0};
    for (uint32_t j = 0; j < x.m.n; j++) {
        bytes[j][0] = 1;
        bytes[j][1] = kinds[x.e[j].id >= 100];
        bytes[j][2] = x.e[j].id;
        e[j] = (struct replica_entry){x.e[j].epoch, {bytes[j], 3}};
    }
    x.m.entries = x.m.n > 0 ? e : NULL;
    step(s, to, (struct replica_event){.type = REPLICA_EV_MESSAGE, .msg = &x.m});
}

/* At etcd: the newest record's place is its mod revision. */
static bool cas_land(struct state *s, const struct mcas *c)
{
    const struct group_config *have = &s->record[s->records_n - 1];

    if (c->mod != s->records_n) return false;
    if (group_config_check(&c->cfg, NULL) != RC_OK || c->cfg.config != have->config + 1)
        broken("a record that breaks the rules");
    if (!group_set_has(&have->in_sync, &c->cfg.primary)) broken("one leads that was not in sync");
    s->record[s->records_n++] = c->cfg;
    s->changes--;
    check_acked(s);
    return true;
}

static void cas_tell(struct state *s, int i, enum replica_cas cas)
{
    struct mcas c = s->cas[i];

    s->cas[i] = (struct mcas){0};
    if (!s->n[i].alive || c.starts != s->n[i].starts) return;
    step(s, i,
         (struct replica_event){
             .type = REPLICA_EV_CAS, .id = c.id, .cas = cas, .mod_revision = s->records_n});
}

/* ---- what may come next ---- */

static void may(struct option out[OPTIONS], uint32_t *n, bool can, enum kind kind, int a, int b,
                int c)
{
    CHECK(*n < OPTIONS);
    if (can) out[(*n)++] = (struct option){(uint8_t)kind, (uint8_t)a, (uint8_t)b, (uint8_t)c, 0};
}

static uint32_t options(const struct state *s, struct option out[OPTIONS])
{
    uint32_t n = 0;

    for (uint8_t i = 0; i < N; i++) {
        const struct mnode *x = &s->n[i];

        may(out, &n, !x->alive, START, i, 0, 0);
        if (!x->alive) continue;
        may(out, &n, x->core.cfg.config < s->records_n, TELL, i, s->records_n - 1, 0);
        if (s->crashes == 0 && (x->fresh_n > 0 || x->wanted_id != 0)) { /* first of all */
            n = 0;
            may(out, &n, x->fresh_n > 0, SYNC, i, 0, 0);
            may(out, &n, x->fresh_n == 0, PERSIST, i, 0, 0);
            return n;
        }
        may(out, &n, x->fresh_n > 0, SYNC, i, 0, 0);
        may(out, &n, x->wanted_id != 0, PERSIST, i, 0, 0);
        may(out, &n, s->cas[i].there && s->changes > 0, LAND, i, 0, 1);
        may(out, &n, s->cas[i].there && s->changes > 0, LAND, i, 0, 0);
        may(out, &n, s->cas[i].there, UNKNOWN, i, 0, 0);
        may(out, &n, s->writes > 0 && replica_may_write(&x->core) == RC_OK, WRITE, i, 0, 0);
        may(out, &n, s->timeouts > 0 && x->core.role == REPLICA_BACKUP, GRACE, i, 0, 0);
        for (uint32_t k = 0; k < x->core.peers_n && replica_leads(&x->core); k++) {
            may(out, &n, s->timeouts > 0 && x->core.cas_state == REPLICA_CAS_NONE, REMOVE, i,
                (int)k, 0);
        }
        may(out, &n, s->beacons > 0 && replica_leads(&x->core), BEACON, i, 0, 0);
        may(out, &n,
            x->core.cas_state == REPLICA_CAS_DOUBT && !x->core.cas_lost && !s->cas[i].there &&
                s->timeouts > 0,
            RETRY, i, 0, 0);
        for (uint8_t k = 0; k < 4 && s->crashes > 0; k++) {
            if ((k & 1) != 0 && x->fresh_n == 0) continue;
            may(out, &n, (k & 2) == 0 || x->wanted_id != 0, CRASH, i, k & 1, k >> 1);
        }
        may(out, &n, s->cuts > 0 && s->cut == 0, CUT, i, 0, 0);
        for (uint8_t j = 0; j < N && s->cut != i + 1; j++) {
            for (uint8_t k = 0; k < slots && s->cut != j + 1; k++)
                may(out, &n, s->net[j][i][k].there, DELIVER, j, i, k);
        }
    }
    for (uint8_t k = 0; k < LATES; k++)
        may(out, &n, s->late[k].there && s->changes > 0, LATE, k, 0, 0);
    may(out, &n, s->cut != 0, HEAL, 0, 0, 0);
    for (uint32_t k = 0, all = n; k < all && hurry && s->crashes > 0; k++) {
        if (out[k].kind == UNKNOWN || out[k].kind >= CRASH || out[k].kind == LATE) continue;
        for (uint8_t kept = 1; kept <= 4; kept++) {
            CHECK(n < OPTIONS);
            out[n] = out[k];
            out[n++].killed = kept;
        }
    }
    return n;
}

/* A node's time passes, in which all its peers but one answered. */
static void pass(struct state *s, int i, uint64_t ms, uint32_t silent)
{
    struct mnode *n = &s->n[i];

    n->now_ms += ms;
    for (uint32_t k = 0; k < n->core.peers_n; k++) {
        struct replica_peer *p = &n->core.peers[k];

        if (k == silent) continue;
        p->heard_ms = p->moved_ms = n->now_ms;
        if (p->stamp_ms != 0) p->stamp_ms = n->now_ms;
    }
    step(s, i, (struct replica_event){.type = REPLICA_EV_TICK});
}

static void take(struct state *s, const struct option *o)
{
    struct mnode *n = &s->n[o->a < N ? o->a : 0];
    uint8_t bytes[3] = {1, APPLY_TXN, s->writes};
    struct mcas late;
    bool won;

    switch ((enum kind)o->kind) {
    case TELL:
        step(s, o->a,
             (struct replica_event){
                 .type = REPLICA_EV_CONFIG, .config = &s->record[o->b], .mod_revision = o->b + 1});
        break;
    case DELIVER:
        deliver(s, o->a, o->b, o->c);
        break;
    case SYNC:
        durable(s, o->a, true);
        break;
    case PERSIST:
        persisted(s, o->a);
        break;
    case LAND:
        won = cas_land(s, &s->cas[o->a]);
        cas_tell(s, o->a,
                 o->c == 0 ? REPLICA_CAS_UNKNOWN
                 : won     ? REPLICA_CAS_WON
                           : REPLICA_CAS_LOST);
        break;
    case UNKNOWN:
        late = s->cas[o->a];
        cas_adrift(s, o->a);
        s->cas[o->a] = late;
        cas_tell(s, o->a, REPLICA_CAS_UNKNOWN);
        break;
    case LATE:
        late = s->late[o->a];
        s->late[o->a] = (struct mcas){0};
        (void)cas_land(s, &late);
        break;
    case WRITE:
        s->writes--;
        step(s, o->a,
             (struct replica_event){
                 .type = REPLICA_EV_PROPOSE, .entry = {bytes, sizeof(bytes)}, .token = bytes[2]});
        break;
    case GRACE:
        s->timeouts--;
        pass(s, o->a, GRACE_MS, n->core.peers_n);
        break;
    case REMOVE:
        s->timeouts--;
        pass(s, o->a, REMOVE_MS, o->b);
        break;
    case BEACON:
        s->beacons--;
        pass(s, o->a, n->core.serve_ms > n->now_ms ? n->core.serve_ms - n->now_ms : 1,
             n->core.peers_n);
        break;
    case RETRY:
        s->timeouts--;
        pass(s, o->a, RETRY_MS, n->core.peers_n);
        break;
    case CRASH:
        s->crashes--;
        crash(s, o->a, o->b != 0, o->c != 0);
        break;
    case START:
        start(s, o->a);
        break;
    case CUT:
        s->cuts--;
        s->cut = o->a + 1;
        break;
    case HEAL:
        s->cut = 0;
        break;
    }
}

/* In a hurry what a step asks of the disk is there when the next one begins, or its process dies
 * first. false: nothing was asked, so that this is no other death. */
static bool take_whole(struct state *s, const struct option *o)
{
    int i = o->kind == DELIVER ? o->b : o->a;
    bool log = o->killed == 2 || o->killed == 4, promise = o->killed >= 3;

    take(s, o);
    if (!hurry) return true;
    if (o->killed != 0) {
        struct mnode *n = &s->n[i];

        if ((n->fresh_n == 0 && n->wanted_id == 0) || (log && n->fresh_n == 0) ||
            (promise && n->wanted_id == 0))
            return false;
        s->crashes--;
        crash(s, i, log, promise);
    }
    for (i = 0; i < N; i++) {
        while (s->n[i].fresh_n > 0 || s->n[i].wanted_id != 0) {
            if (s->n[i].fresh_n > 0) durable(s, i, true);
            if (s->n[i].wanted_id != 0) persisted(s, i);
        }
    }
    return true;
}

/* Nothing would come of it. */
static bool idle(const struct state *s, int from, int to, const struct replica_msg *m)
{
    const struct mnode *r = &s->n[to], *f = &s->n[from];
    const struct replica_core *c = &r->core;
    bool news = m->epoch > c->epoch || m->config > c->config;

    if (!r->alive || news) return false;
    if (m->type == REPLICA_PREPARE)
        return (m->epoch < c->epoch || m->config < c->config) &&
               (!f->alive || (f->core.epoch >= c->epoch && f->core.config >= c->config));
    return m->type != REPLICA_ANSWER || !replica_leads(c) || m->epoch != c->epoch;
}

static void forget_idle(struct state *s)
{
    for (int i = 0; i < N; i++) {
        for (int j = 0; j < N; j++) {
            for (uint32_t k = 0; k < slots; k++) {
                struct mmsg *x = &s->net[i][j][k];

                if (x->there && idle(s, i, j, &x->m)) x->there = false;
            }
        }
    }
    for (uint32_t k = 0; k < LATES; k++) {
        if (s->late[k].mod != s->records_n) s->late[k].there = false;
    }
}

/* ---- states that were seen ---- */

struct bytes {
    uint8_t p[8192];
    uint32_t n;
};

static void put(struct bytes *b, uint64_t v)
{
    CHECK(b->n + 2 <= sizeof(b->p) && v < 65536);
    b->p[b->n++] = (uint8_t)v;
    b->p[b->n++] = (uint8_t)(v >> 8);
}

/* Replicas 2 and 3 begin alike and their places in sets and lists decide nothing here, so a state
 * and the one with their names exchanged are one. */
static const uint8_t names[2][N + 1] = {{0, 1, 2, 3}, {0, 1, 3, 2}};
static const uint8_t *name; /* of disk.b[0]; its own inverse */

static uint64_t who(const struct id128 *disk, const struct id128 *boot)
{
    return (uint64_t)(name[disk->b[0]] << 8 | boot->b[1]);
}

static void put_set(struct bytes *b, const struct group_set *g)
{
    uint64_t bits = 0;

    for (uint32_t i = 0; i < g->n; i++)
        bits |= 1u << name[g->disks[i].b[0]];
    put(b, bits);
}

static void put_config(struct bytes *b, const struct group_config *g)
{
    put(b, g->config);
    put(b, g->epoch);
    put(b, who(&g->primary, &g->primary_boot));
    put_set(b, &g->in_sync);
    put_set(b, &g->learners);
    put_set(b, &g->last_serving);
}

/* Of the counts of messages only this decides anything: is it of the last entries sent to node i,
 * or later? */
static bool late_seq(const struct state *s, uint64_t epoch, int i, uint64_t seq)
{
    for (int k = 0; k < N; k++) {
        const struct replica_core *c = &s->n[k].core;

        if (!s->n[k].alive || !replica_leads(c) || c->epoch != epoch) continue;
        for (uint32_t j = 0; j < c->peers_n; j++) {
            if (node_of(&c->peers[j].disk) == i) return seq >= c->peers[j].sent_seq;
        }
    }
    return false;
}

static void put_core(struct bytes *b, const struct state *s, const struct mnode *n)
{
    const struct replica_core *c = &n->core;
    uint64_t now = n->now_ms;

    put(b, c->role);
    put(b, c->cfg.config);
    put(b, (uint64_t)c->mod_revision);
    put(b, c->epoch);
    put(b, c->config);
    put(b, who(&c->leader, &c->leader_boot));
    put(b, c->durable.epoch);
    put(b, c->durable.config);
    put(b, c->durable.commit);
    put(b, c->durable.cut_index << 8 | c->durable.cut_epoch);
    put(b, c->persist_id - c->persisted_id);
    put(b, c->gate_id > c->persisted_id ? c->gate_id - c->persisted_id : 0);
    put(b, c->cas_state);
    if (c->cas_state != REPLICA_CAS_NONE) {
        put_config(b, &c->cas_cfg);
        put(b, (uint64_t)c->cas_mod_revision);
        put(b, c->cas_lost);
    }
    put(b, c->fresh);
    put(b, c->log_last);
    put(b, c->commit);
    put(b, c->apply_asked << 8 | c->applied);
    put(b, c->verified << 8 | c->epoch_last);
    put(b, c->log_durable << 8 | c->tail);
    put(b,
        (uint64_t)late_seq(s, c->epoch, node_of(&c->conf.disk), c->seq) << 1 | (c->stamp_ms != 0));
    put(b, c->leader_commit << 8 | c->answered);
    if (!replica_leads(c)) return;
    put(b, c->serve_ms <= now);
    for (uint32_t i = 0; i < N * c->peers_n; i++) {
        const struct replica_peer *p = &c->peers[i % c->peers_n];

        if (name[p->disk.b[0]] != 1 + i / c->peers_n) continue;
        put(b, who(&p->disk, &p->boot));
        put(b, p->match << 8 | p->next);
        put(b, p->since_config << 8 | (p->damaged ? 1 : 0));
        put(b, p->stamp_ms != 0 && now < p->stamp_ms + c->conf.lease_ms);
    }
}

static void put_msg(struct bytes *b, const struct state *s, const struct mmsg *x)
{
    const struct replica_msg *m = &x->m;

    put(b, m->type);
    put(b, m->from_boot.b[1]);
    put(b, m->config << 8 | m->epoch);
    put(b, late_seq(s, m->epoch, node_of(m->type == REPLICA_PREPARE ? &m->to_disk : &m->from_disk),
                    m->seq));
    put(b, m->commit << 8 | m->tail);
    put(b, m->last << 8 | m->first);
    put(b, m->durable << 8 | m->want);
    put(b, m->n);
    for (uint32_t k = 0; k < m->n; k++)
        put(b, (uint64_t)(x->e[k].epoch << 8 | x->e[k].id));
}

static uint64_t hash_as(const struct state *s, const uint8_t *as)
{
    struct bytes b = {.n = 0};
    uint64_t h = 0x9e3779b97f4a7c15u;

    name = as;
    put(&b, (uint64_t)(s->writes << 8 | s->crashes));
    put(&b, (uint64_t)(s->cuts << 8 | name[s->cut]));
    put(&b, (uint64_t)(s->timeouts << 8 | s->beacons));
    put(&b, s->changes);
    put(&b, s->acked);
    for (uint8_t i = 0; i < s->records_n; i++)
        put_config(&b, &s->record[i]);
    for (int q = 1; q <= N; q++) {
        int i = name[q] - 1;
        const struct mnode *n = &s->n[i];

        put(&b, (uint64_t)(n->starts << 8 | n->alive));
        for (uint32_t k = 1; k < LOG; k++) {
            put(&b, (uint64_t)(n->disk[k].epoch << 8 | n->disk[k].id));
            if (n->alive) put(&b, (uint64_t)(n->mem[k].epoch << 8 | n->mem[k].id));
            put(&b, n->waits[k]);
        }
        put(&b, n->promise.epoch << 8 | n->promise.config);
        put(&b, n->promise.commit);
        put(&b, n->promise.cut_index << 8 | n->promise.cut_epoch);
        put(&b, n->fresh_n);
        for (uint8_t k = 0; k < n->fresh_n; k++) {
            put(&b, n->fresh_at[k]);
            put(&b, (uint64_t)(n->fresh[k].epoch << 8 | n->fresh[k].id));
        }
        put(&b, n->wanted_id != 0);
        if (n->alive) put_core(&b, s, n);
        put(&b, s->cas[i].there);
        if (s->cas[i].there) {
            put(&b, s->cas[i].id == n->core.cas_id);
            put(&b, (uint64_t)s->cas[i].mod);
            put_config(&b, &s->cas[i].cfg);
        }
        for (int r = 1; r <= N; r++) {
            int j = name[r] - 1;

            for (uint32_t k = 0; k < slots; k++) { /* in the order in which they are pushed out */
                const struct mmsg *x = NULL;
                uint32_t older = 0;

                for (uint32_t u = 0; u < slots; u++) {
                    older = 0;
                    for (uint32_t v = 0; v < slots; v++)
                        older +=
                            s->net[i][j][v].there && s->net[i][j][v].order < s->net[i][j][u].order;
                    if (s->net[i][j][u].there && older == k) x = &s->net[i][j][u];
                }
                put(&b, x != NULL);
                if (x != NULL) put_msg(&b, s, x);
            }
        }
    }
    for (uint32_t k = 0; k < LATES; k++) {
        put(&b, s->late[k].there);
        if (s->late[k].there) put(&b, (uint64_t)s->late[k].mod);
        if (s->late[k].there) put_config(&b, &s->late[k].cfg);
    }
    for (uint32_t i = 0; i < b.n; i += 2) {
        h ^= (uint64_t)(b.p[i] | b.p[i + 1] << 8);
        h *= 0xff51afd7ed558ccdu;
        h ^= h >> 32;
    }
    return h == 0 ? 1 : h;
}

static uint64_t hash(const struct state *s)
{
    uint64_t a = hash_as(s, names[0]), b = hash_as(s, names[1]);

    return MIN(a, b);
}

/* false: it was there. */
static bool seen_add(uint64_t h)
{
    if (2 * (states + 1) > seen_cap) {
        size_t cap = seen_cap == 0 ? 1u << 20 : 2 * seen_cap;
        uint64_t *old = seen;

        seen = calloc(cap, sizeof(*seen));
        CHECK(seen != NULL);
        for (size_t i = 0; i < seen_cap; i++) {
            size_t at = old[i] & (cap - 1);

            while (old[i] != 0 && seen[at] != 0)
                at = (at + 1) & (cap - 1);
            if (old[i] != 0) seen[at] = old[i];
        }
        free(old);
        seen_cap = cap;
    }
    for (size_t at = h & (seen_cap - 1);; at = (at + 1) & (seen_cap - 1)) {
        if (seen[at] == h) return false;
        if (seen[at] != 0) continue;
        seen[at] = h;
        states++;
        return true;
    }
}

/* ---- the search ---- */

/* The first of the options of one kind, until there is none. */
static bool first_of(struct state *s, enum kind kind)
{
    struct option o[OPTIONS];
    uint32_t n = options(s, o);

    for (uint32_t i = 0; i < n; i++) {
        if (o[i].kind != kind || (kind == LAND && o[i].c == 0)) continue;
        take(s, &o[i]);
        return true;
    }
    return false;
}

static void settle(struct state *s)
{
    while (first_of(s, TELL) || first_of(s, LAND) || first_of(s, PERSIST) || first_of(s, SYNC) ||
           first_of(s, DELIVER)) {
    }
}

/* The first one leads and its first entry is committed everywhere. */
static void begin(struct state *s, bool learner)
{
    struct group_config *c = &s->record[0];
    struct group_set set = {0};

    for (int i = 0; i < N; i++) {
        s->n[i].now_ms = 10000;
        set.disks[set.n++] = (struct id128){{(uint8_t)(i + 1)}};
    }
    group_config_first(&set, c);
    if (learner) {
        group_set_add(&c->learners, &set.disks[2]);
        group_set_remove(&c->in_sync, &set.disks[2]);
        c->last_serving = c->in_sync;
    }
    s->records_n = 1;
    s->changes = 1;
    s->crashes = 1; /* so that nothing is hurried */
    for (int i = 0; i < N; i++)
        start(s, i);
    s->cut = learner ? 3 : 0;
    settle(s);
    for (int i = 0; i < 2; i++) {
        pass(s, 0, 1, N);
        settle(s);
    }
    s->cut = 0;
    if (s->n[0].core.role != REPLICA_PRIMARY || s->n[1].core.commit != 1)
        broken("the beginning is not as it should be");
}

static void search(void)
{
    while (depth >= 0) {
        struct frame *f = &stack[depth], *to = &stack[depth + 1];

        if (f->next == f->n) {
            depth--;
            continue;
        }
        CHECK(depth + 2 < DEPTH);
        to->s = f->s;
        f->next++;
        depth++;
        transitions++;
        if (!take_whole(&to->s, &f->o[f->next - 1])) {
            depth--;
            continue;
        }
        forget_idle(&to->s);
        if (!seen_add(hash(&to->s))) {
            depth--;
            continue;
        }
        if (states >= states_max) return;
        deepest = MAX(deepest, (ull)depth);
        to->n = options(&to->s, to->o);
        to->next = 0;
    }
}

int main(int argc, char **argv)
{
    ull writes = 1, crashes = 1, cuts = 0, changes = 1, timeouts = 1, beacons = 0, many = 1,
        learner = 0, whole = 1;
    const struct {
        const char *name;
        ull *value;
    } args[] = {{"--writes", &writes},        {"--crashes", &crashes},   {"--cuts", &cuts},
                {"--changes", &changes},      {"--timeouts", &timeouts}, {"--beacons", &beacons},
                {"--slots", &many},           {"--learner", &learner},   {"--hurry", &whole},
                {"--states-max", &states_max}};
    struct state *s;

    for (int i = 1; i + 1 < argc; i += 2) {
        uint32_t k = 0;

#ifdef REPLICA_MUTANTS
        if (strcmp(argv[i], "--mutant") == 0) {
            replica_mutant = (int)strtol(argv[i + 1], NULL, 10);
            continue;
        }
#endif
        while (k < ARRAY_N(args) && strcmp(argv[i], args[k].name) != 0)
            k++;
        if (k == ARRAY_N(args)) argc = 0;
        if (k < ARRAY_N(args)) *args[k].value = strtoull(argv[i + 1], NULL, 10);
    }
    if (argc % 2 == 0 || many == 0 || many > SLOTS || writes > 4 || changes > RECORDS - 3) {
        (void)fprintf(
            stderr,
            "usage: %s [--writes N] [--crashes N] [--cuts N] [--changes N] "
            "[--timeouts N] [--beacons N] [--slots N] [--learner 1] [--hurry 0] [--states-max N]\n",
            argv[0]);
        return 2;
    }
    (void)signal(SIGABRT, on_abort);
    slots = (uint32_t)many;
    stack = calloc(DEPTH, sizeof(*stack));
    CHECK(stack != NULL);
    s = &stack[0].s;
    begin(s, learner != 0);
    hurry = whole != 0;
    s->writes = (uint8_t)writes;
    s->crashes = (uint8_t)crashes;
    s->cuts = (uint8_t)cuts;
    s->changes = (uint8_t)changes;
    s->timeouts = (uint8_t)timeouts;
    s->beacons = (uint8_t)beacons;
    (void)seen_add(hash(s));
    stack[0].n = options(s, stack[0].o);
    search();
    (void)printf(
        "%s: %llu states, %llu transitions, %llu steps deep; %llu writes, %llu crashes, "
        "%llu cuts, %llu changes, %llu timeouts, %llu beacons, %llu slots%s%s; nothing broke\n",
        states >= states_max ? "stopped" : "exhausted", states, transitions, deepest, writes,
        crashes, cuts, changes, timeouts, beacons, many, learner != 0 ? ", one a learner" : "",
        hurry ? ", hurried disks" : "");
    return states >= states_max ? 3 : 0;
}
