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
#include "tests/sim/model.h"
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifdef REPLICA_MUTANTS
int replica_mutant;
#endif

enum { OPTIONS = 128, DEPTH = 4096 };

typedef unsigned long long ull;

struct frame {
    struct state s;
    struct option o[OPTIONS];
    uint32_t n, next;
};

static struct frame *stack;
static int depth;
uint32_t model_slots = 1;
static bool hurry;
static ull states, transitions, states_max = UINT64_MAX, deepest;
static uint64_t *seen;
static size_t seen_cap;

void broken(const char *why)
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
            for (uint8_t k = 0; k < model_slots && s->cut != j + 1; k++)
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

/* In a hurry what a step asks of the disk is there when the next one begins, or its process dies
 * first. false: nothing was asked, so that this is no other death. */
static bool take_whole(struct state *s, const struct option *o)
{
    int i = o->kind == DELIVER ? o->b : o->a;
    bool log = o->killed == 2 || o->killed == 4, promise = o->killed >= 3;

    model_take(s, o);
    if (!hurry) return true;
    if (o->killed != 0) {
        struct mnode *n = &s->n[i];

        if ((n->fresh_n == 0 && n->wanted_id == 0) || (log && n->fresh_n == 0) ||
            (promise && n->wanted_id == 0))
            return false;
        s->crashes--;
        model_crash(s, i, log, promise);
    }
    for (i = 0; i < N; i++) {
        while (s->n[i].fresh_n > 0 || s->n[i].wanted_id != 0) {
            if (s->n[i].fresh_n > 0) model_durable(s, i, true);
            if (s->n[i].wanted_id != 0) model_persisted(s, i);
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
            for (uint32_t k = 0; k < model_slots; k++) {
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
        model_take(s, &o[i]);
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
        model_start(s, i);
    s->cut = learner ? 3 : 0;
    settle(s);
    for (int i = 0; i < 2; i++) {
        model_pass(s, 0, 1, N);
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
        if (!seen_add(model_hash(&to->s))) {
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
    model_slots = (uint32_t)many;
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
    (void)seen_add(model_hash(s));
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
