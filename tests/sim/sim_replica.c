/* tests/sim/sim_replica.c - whole groups of the real replica core and apply core in one process,
 * from one seed: virtual time, a bad network, crashing and pausing nodes, wrong clocks, an etcd
 * that shows the defects of 3.4, and clients whose view is checked after every step. sim_replica
 * --seeds N --first-seed S [--trace] [--mutant M] Exit 0: all held. 1: an invariant broke (the seed
 * is printed, and replays exactly). 2: usage. */
#include "common/base/le.h"
#include "storaged/replica/replica_msg.h"
#include "tests/sim/sim_base.h"
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#ifdef REPLICA_MUTANTS
int replica_mutant;
#endif

enum { NODES_MAX = 5, INDEX_MAX = 16384, KEYS = 4, CLIENTS = 4, CHUNKS_MAX = 4096 };
#define MS 1000u /* of virtual microseconds */

enum ev {
    EV_TICK = 1,
    EV_NET,
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
    EV_RESTART,
    EV_MANAGER,
    EV_CHUNK_COPY,
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
    uint8_t chunks[CHUNKS_MAX]; /* 1 = durable */
    bool lost_data;
    /* in memory */
    struct sim_map map;
    uint64_t applied, apply_to;
    uint32_t at[INDEX_MAX]; /* index -> place in log + 1 */
    bool fsync_running, apply_running;
    uint64_t cas_open, forget;
    struct wait waits[REPLICA_WINDOW * 4];
    uint32_t waits_n;
};
struct op {
    int kind; /* 0 write, 1 read, 2 chunk */
    uint32_t key, client, tries;
    uint64_t seq, floor;
    bool done;
    struct slice entry;
    uint32_t body;
};
struct client {
    struct id128 id;
    uint64_t seq;
    uint32_t op; /* the current one, + 1 */
};
struct record {
    struct group_config cfg;
    int64_t mod;
};
struct cas_request {
    struct group_config cfg;
    int64_t mod;
    uint64_t id;
};

static struct sim {
    uint64_t seed, now, end_us;
    struct sim_rng rng;
    struct sim_arena arena;
    struct sim_queue q;
    struct node nodes[NODES_MAX];
    uint32_t n, min_in_sync, copies;
    bool cut[NODES_MAX][NODES_MAX]; /* from, to */
    bool cut_etcd[NODES_MAX];
    uint32_t loss, slow, calm; /* per 10000 */
    struct record history[4096];
    uint32_t history_n;
    int64_t revision;
    struct group_set wish;
    /* truth */
    struct slice committed[INDEX_MAX];
    uint64_t state[INDEX_MAX];
    uint64_t committed_n;
    struct id128 led_disk[4096], led_boot[4096];
    uint64_t finished[KEYS]; /* highest version that a finished operation has shown */
    struct op *ops;
    uint32_t ops_n, ops_cap, chunks_n;
    struct client clients[CLIENTS];
    uint64_t acked, reads, steps, faults;
} w;
static bool tracing;
static uint8_t scratch[APPLY_SCRATCH_BYTES];
static struct replica_actions acts;
static uint64_t total_steps, total_acked, total_reads, total_faults, total_epochs;

static void trace(const char *fmt, ...) PRINTF_LIKE(1, 2);
static void trace(const char *fmt, ...)
{
    va_list ap;

    if (!tracing) return;
    (void)printf("%10.3f ", (double)w.now / 1e6);
    va_start(ap, fmt);
    (void)vprintf(fmt, ap);
    va_end(ap);
    (void)putchar('\n');
}

static void fail(const char *fmt, ...) PRINTF_LIKE(1, 2) NORETURN;
static void fail(const char *fmt, ...)
{
    va_list ap;

    (void)printf("seed %llu FAILED at %.3f s: ", (unsigned long long)w.seed, (double)w.now / 1e6);
    va_start(ap, fmt);
    (void)vprintf(fmt, ap);
    va_end(ap);
    (void)printf("\nreplay: tests/sim/run --seeds 1 --first-seed %llu --trace\n",
                 (unsigned long long)w.seed);
    (void)fflush(stdout);
    _exit(1);
}

static void on_abort(int sig)
{
    (void)sig;
    (void)printf("seed %llu FAILED at %.3f s: a CHECK\n", (unsigned long long)w.seed,
                 (double)w.now / 1e6);
    (void)fflush(stdout);
    _exit(1);
}

static uint64_t rnd(uint64_t n)
{
    return sim_rand(&w.rng, n);
}
static bool chance(uint32_t per_10000)
{
    return sim_chance(&w.rng, per_10000);
}
static uint64_t between(uint64_t lo, uint64_t hi)
{
    return lo + rnd(hi - lo + 1);
}

static void later(int type, int node, uint64_t in_us, struct sim_event e)
{
    e.type = type;
    e.node = node;
    e.at_us = w.now + in_us;
    if (node >= 0) e.life = w.nodes[node].life;
    sim_push(&w.q, e);
}

static uint64_t clock_of(const struct node *n)
{
    return n->clock_ms + (w.now - n->clock_us) * n->rate_ppm / 1000000u / MS;
}

static uint64_t disk_delay(void)
{
    return chance(w.slow) ? between(20 * MS, 900 * MS) : between(100, 5 * MS);
}

static int node_of(const struct id128 *disk)
{
    return disk->b[0] - 1;
}

static void step(struct node *n, struct replica_event ev);

/* ---- network ---- */

static void net_send(int from, int to, struct slice bytes)
{
    uint32_t copies = chance(w.loss) ? 0 : chance(w.loss / 2) ? 2 : 1;

    for (uint32_t i = 0; i < copies; i++) {
        uint64_t d = chance(w.slow) ? between(5 * MS, 1500 * MS) : between(50, 3 * MS);
        struct sim_event e = {.at_us = w.now + d,
                              .type = EV_NET,
                              .node = to,
                              .a = (uint64_t)from,
                              .b = bytes.n,
                              .p = bytes.p};

        sim_push(&w.q, e); /* life 0: whatever process is there */
    }
}

static void do_net(struct node *n, const struct sim_event *e)
{
    struct replica_entry entries[REPLICA_BATCH];
    struct replica_msg m;
    struct err err;

    if (w.cut[e->a][e->node]) return;
    if (replica_msg_decode((struct slice){e->p, e->b}, &m, entries, &err) != RC_OK)
        fail("a message does not decode: %s", err.msg);
    step(n, (struct replica_event){.type = REPLICA_EV_MESSAGE, .msg = &m});
}

static void do_send(struct node *n, const struct replica_action *a)
{
    struct replica_entry entries[REPLICA_BATCH];
    struct replica_msg m = a->msg;
    uint32_t bytes;
    uint8_t *p;

    m.entries = entries;
    if (m.n > 1 && chance(300)) m.n = (uint32_t)between(1, m.n);
    for (uint32_t i = 0; i < m.n; i++) {
        uint32_t at = n->at[m.first + i];

        if (at == 0) return;
        entries[i] = (struct replica_entry){n->log[at - 1].epoch, n->log[at - 1].bytes};
    }
    if (m.type == REPLICA_PREPARE) {
        /* No two leaders act in one epoch. */
        if (m.epoch >= ARRAY_N(w.led_disk)) fail("too many epochs");
        if (id128_is_zero(&w.led_disk[m.epoch])) {
            w.led_disk[m.epoch] = m.from_disk;
            w.led_boot[m.epoch] = m.from_boot;
        }
        if (!id128_eq(&w.led_disk[m.epoch], &m.from_disk) ||
            !id128_eq(&w.led_boot[m.epoch], &m.from_boot))
            fail("two leaders act in epoch %llu", (unsigned long long)m.epoch);
    }
    bytes = replica_msg_bytes(&m);
    CHECK(bytes > 0);
    p = sim_alloc(&w.arena, bytes);
    (void)replica_msg_encode(&m, p);
    net_send((int)(n - w.nodes), node_of(&m.to_disk), (struct slice){p, bytes});
}

/* ---- etcd ---- */

static const struct record *etcd_now(void)
{
    return &w.history[w.history_n - 1];
}

static void watch_tell(int to, const struct record *r)
{
    uint32_t copies = chance(1000) ? 0 : chance(500) ? 2 : 1;

    for (uint32_t i = 0; i < copies; i++)
        later(EV_WATCH, to, chance(500) ? between(0, 4000 * MS) : between(200, 30 * MS),
              (struct sim_event){.p = r});
}

static void do_cas_at_etcd(const struct sim_event *e)
{
    const struct cas_request *r = e->p;
    const struct record *have = etcd_now();
    bool won = have->mod == r->mod;
    struct sim_event back = {
        .type = EV_CAS_BACK, .node = e->node, .life = e->life, .a = r->id, .b = won};

    if (won) {
        struct record *next = &w.history[w.history_n++];
        const struct group_config *o = &have->cfg, *c = &r->cfg;

        if (w.history_n == ARRAY_N(w.history)) fail("too many configurations");
        if (group_config_check(c, NULL) != RC_OK || c->config != o->config + 1 ||
            (c->epoch != o->epoch && c->epoch != o->epoch + 1))
            fail("a record that breaks the rules");
        if ((c->epoch == o->epoch) !=
            (id128_eq(&c->primary, &o->primary) && id128_eq(&c->primary_boot, &o->primary_boot)))
            fail("epoch and primary do not change together");
        if (!group_set_has(&o->in_sync, &c->primary) ||
            !group_set_has(&o->last_serving, &c->primary))
            fail("one leads that was not in sync and serving");
        *next = (struct record){.cfg = *c, .mod = w.revision += (int64_t)between(1, 3)};
        back.c = (uint64_t)next->mod;
        trace("etcd: config %llu epoch %llu primary %d in_sync %u learners %u serving %u",
              (unsigned long long)c->config, (unsigned long long)c->epoch, node_of(&c->primary),
              c->in_sync.n, c->learners.n, c->last_serving.n);
        for (uint32_t i = 0; i < w.n; i++)
            watch_tell((int)i, next);
    }
    if (w.cut_etcd[e->node] || chance(w.loss)) return; /* the answer is lost, the change is not */
    back.at_us = w.now + (chance(w.slow) ? between(5 * MS, 800 * MS) : between(200, 8 * MS));
    sim_push(&w.q, back);
}

static void do_cas(struct node *n, const struct replica_action *a)
{
    struct cas_request *r = sim_alloc(&w.arena, sizeof(*r));
    uint8_t bytes[GROUP_CONFIG_BYTES_MAX];
    int i = (int)(n - w.nodes);
    uint32_t len = group_config_encode(&a->config, bytes);

    r->mod = a->mod_revision;
    r->id = a->id;
    if (group_config_decode((struct slice){bytes, len}, &r->cfg, NULL) != RC_OK)
        fail("a record does not decode");
    n->cas_open = a->id;
    trace("n%d: cas %llu config %llu epoch %llu in_sync %u", i, (unsigned long long)a->id,
          (unsigned long long)r->cfg.config, (unsigned long long)r->cfg.epoch, r->cfg.in_sync.n);
    later(EV_CAS_BACK, i, 600 * MS, (struct sim_event){.a = a->id, .b = 2});
    if (w.cut_etcd[i] || chance(w.loss)) return;
    later(EV_CAS_AT_ETCD, i, chance(400) ? between(100 * MS, 5000 * MS) : between(200, 8 * MS),
          (struct sim_event){.p = r});
}

/* Whom a read reaches may lag (3.4's stale reads). */
static const struct record *etcd_read(uint32_t stale)
{
    uint32_t back = chance(stale) ? (uint32_t)rnd(4) : 0;

    return &w.history[w.history_n - 1 - MIN(back, w.history_n - 1)];
}

static void tell_record(struct node *n, const struct record *r)
{
    step(n, (struct replica_event){
                .type = REPLICA_EV_CONFIG, .config = &r->cfg, .mod_revision = r->mod});
}

/* ---- disk ---- */

static void fsync_begin(struct node *n)
{
    if (n->fsync_running || n->synced_n == n->log_n) return;
    n->fsync_running = true;
    later(EV_FSYNC, (int)(n - w.nodes), disk_delay(), (struct sim_event){.a = n->log_n});
}

static void log_add(struct node *n, uint64_t epoch, uint64_t index, struct slice bytes)
{
    if (index >= INDEX_MAX) fail("too many entries");
    if (n->log_n == n->log_cap) {
        n->log_cap = n->log_cap == 0 ? 256 : 2 * n->log_cap;
        n->log = realloc(n->log, n->log_cap * sizeof(*n->log));
        CHECK(n->log != NULL);
    }
    n->log[n->log_n++] = (struct rec){epoch, index, bytes};
    n->at[index] = (uint32_t)n->log_n;
}

static bool dead(const struct rec *r, const struct replica_durable *d)
{
    return r->index > d->cut_index && r->epoch < d->cut_epoch;
}

/* Is this entry durably on n's disk, so that a restart finds it? */
static bool entry_on_disk(const struct node *n, uint64_t index, struct slice bytes)
{
    const struct rec *best = NULL;

    if (n->flushed_index >= index) return true;
    for (size_t i = 0; i < n->synced_n; i++) {
        const struct rec *r = &n->log[i];

        if (r->index != index || r->index < n->log_base || dead(r, &n->promise)) continue;
        if (best == NULL || r->epoch >= best->epoch) best = r;
    }
    return best != NULL && best->bytes.n == bytes.n && memcmp(best->bytes.p, bytes.p, bytes.n) == 0;
}

static uint32_t body_of(struct slice entry)
{
    return le_get32(entry.p + 28 + 8); /* first bytes of the chunk's body id */
}

static bool is_chunk(struct slice e)
{
    return e.n >= 2 && e.p[1] == APPLY_CHUNK_ADD;
}

/* ---- truth ---- */

static void op_finish(struct op *op, uint64_t version, const char *what)
{
    if (version < op->floor)
        fail("%s of key %u shows version %llu, but %llu was seen before it began", what, op->key,
             (unsigned long long)version, (unsigned long long)op->floor);
    w.finished[op->key] = MAX(w.finished[op->key], version);
    op->done = true;
}

static void client_again(struct op *op, uint64_t in_us)
{
    later(EV_CLIENT, -1, in_us, (struct sim_event){.a = op->client});
}

static void acked(struct node *n, struct op *op, uint64_t index, const struct apply_outcome *out)
{
    uint32_t copies = 0;

    if (op->done) return; /* a second try already told */
    if (out->rc != RC_OK) {
        op->done = true; /* a duplicate beyond the window, or a chunk that lost: told, not done */
        client_again(op, between(1 * MS, 50 * MS));
        return;
    }
    for (uint32_t i = 0; i < w.n; i++) {
        if (!entry_on_disk(&w.nodes[i], index, w.committed[index])) continue;
        if (op->kind == 2 && w.nodes[i].chunks[op->body] == 0) continue;
        copies++;
    }
    if (copies < w.min_in_sync)
        fail("entry %llu acknowledged by n%d with %u durable copies", (unsigned long long)index,
             (int)(n - w.nodes), copies);
    w.acked++;
    trace("n%d: ack of entry %llu, %u copies", (int)(n - w.nodes), (unsigned long long)index,
          copies);
    if (op->kind == 0 && out->succeeded) {
        op_finish(op, out->index, "write");
    } else {
        op->done = true;
    }
    client_again(op, between(0, 60 * MS));
}

static void apply_one(struct node *n, uint64_t index)
{
    struct apply_map ops = sim_map_ops(&n->map);
    uint32_t at = n->at[index];
    struct apply_outcome out;
    struct slice e;
    struct err err;

    if (at == 0)
        fail("n%d applies %llu, which it has not", (int)(n - w.nodes), (unsigned long long)index);
    e = n->log[at - 1].bytes;
    if (w.committed[index].p == NULL) {
        w.committed[index] = e;
        w.committed_n = MAX(w.committed_n, index);
    }
    if (w.committed[index].n != e.n || memcmp(w.committed[index].p, e.p, e.n) != 0)
        fail("committed logs differ at %llu on n%d", (unsigned long long)index, (int)(n - w.nodes));
    if (apply_step(&ops, index, e, &out, &err) != RC_OK) fail("apply: %s", err.msg);
    if (w.state[index] == 0) w.state[index] = n->map.hash;
    if (w.state[index] != n->map.hash)
        fail("states differ after %llu on n%d", (unsigned long long)index, (int)(n - w.nodes));
    n->applied = index;
    for (uint32_t i = 0; i < n->waits_n; i++) {
        if (n->waits[i].index != index) continue;
        at = n->waits[i].op;
        n->waits[i] = n->waits[--n->waits_n];
        acked(n, &w.ops[at], index, &out);
        break;
    }
}

/* ---- the service: carries out a step's actions ---- */

static void chunk_try(struct node *n, uint64_t index, uint64_t epoch, int peer)
{
    uint32_t at = n->at[index], body;

    if (epoch < n->forget || at == 0 || !is_chunk(n->log[at - 1].bytes)) return;
    body = body_of(n->log[at - 1].bytes);
    if (n->chunks[body] == 0) {
        if (peer == (int)(n - w.nodes) || !w.nodes[peer].alive || w.cut[peer][n - w.nodes] ||
            w.cut[n - w.nodes][peer] || w.nodes[peer].chunks[body] == 0) {
            later(EV_CHUNK, (int)(n - w.nodes), 100 * MS,
                  (struct sim_event){.a = index, .b = epoch, .c = (uint64_t)peer});
            return;
        }
        n->chunks[body] = 1;
    }
    step(n, (struct replica_event){.type = REPLICA_EV_CHUNK, .epoch = epoch, .index = index});
}

static void waits_fail(struct node *n, uint64_t first)
{
    for (uint32_t i = 0; i < n->waits_n;) {
        if (n->waits[i].index < first) {
            i++;
            continue;
        }
        client_again(&w.ops[n->waits[i].op], between(1 * MS, 300 * MS));
        n->waits[i] = n->waits[--n->waits_n];
    }
}

static void do_tail(struct node *n, const struct sim_event *e)
{
    uint64_t upto = e->b - 1;

    while (upto < e->c) {
        struct slice s = n->log[n->at[upto + 1] - 1].bytes;

        if (is_chunk(s) && n->chunks[body_of(s)] == 0) break;
        upto++;
    }
    step(n, (struct replica_event){.type = REPLICA_EV_TAIL, .epoch = e->a, .index = upto});
}

static void act(struct node *n, const struct replica_action *a)
{
    int i = (int)(n - w.nodes);

    switch (a->type) {
    case REPLICA_PERSIST:
        n->promise_pending = a->durable;
        n->promise_pending_id = a->id;
        {
            struct replica_durable *d = sim_alloc(&w.arena, sizeof(*d));
            uint8_t b[REPLICA_DURABLE_BYTES];

            replica_durable_encode(&a->durable, b);
            if (replica_durable_decode((struct slice){b, sizeof(b)}, d, NULL) != RC_OK)
                fail("a promise does not decode");
            later(EV_PERSISTED, i, disk_delay(), (struct sim_event){.a = a->id, .p = d});
        }
        break;
    case REPLICA_APPEND:
        for (uint32_t k = 0; k < a->n; k++)
            log_add(n, a->epoch, a->first + k, sim_copy(&w.arena, a->entries[k].bytes));
        fsync_begin(n);
        break;
    case REPLICA_REAPPEND:
        for (uint64_t k = a->first; k <= a->last; k++) {
            if (n->at[k] == 0) fail("n%d re-proposes what it has not", i);
            log_add(n, a->epoch, k, n->log[n->at[k] - 1].bytes);
        }
        fsync_begin(n);
        break;
    case REPLICA_SEND:
        do_send(n, a);
        break;
    case REPLICA_APPLY:
        n->apply_to = MAX(n->apply_to, a->last);
        if (!n->apply_running)
            later(EV_APPLY, i, chance(w.slow) ? between(0, 300 * MS) : rnd(1 * MS),
                  (struct sim_event){0});
        n->apply_running = true;
        break;
    case REPLICA_PROPOSED:
        if (a->rc != RC_OK) {
            client_again(&w.ops[a->token], between(1 * MS, 100 * MS));
        } else {
            CHECK(n->waits_n < ARRAY_N(n->waits));
            n->waits[n->waits_n++] = (struct wait){a->first, (uint32_t)a->token};
        }
        break;
    case REPLICA_ABANDON:
        waits_fail(n, a->first);
        break;
    case REPLICA_CAS:
        do_cas(n, a);
        break;
    case REPLICA_READ_CONFIG:
        if (w.cut_etcd[i] || chance(w.loss)) break;
        later(EV_READ_AT_ETCD, i, between(200, 20 * MS), (struct sim_event){0});
        break;
    case REPLICA_CHUNK:
        later(EV_CHUNK, i, between(100, 4 * MS),
              (struct sim_event){.a = a->first, .b = a->epoch, .c = (uint64_t)node_of(&a->peer)});
        break;
    case REPLICA_CHECK_TAIL:
        later(EV_TAIL, i, between(100, 3 * MS),
              (struct sim_event){.a = a->epoch, .b = a->first, .c = a->last});
        break;
    case REPLICA_SNAPSHOT:
        trace("n%d: snapshot from n%d, at least %llu", i, node_of(&a->peer),
              (unsigned long long)a->first);
        later(EV_SNAP, i, between(5 * MS, 700 * MS),
              (struct sim_event){.a = a->epoch, .b = a->first, .c = (uint64_t)node_of(&a->peer)});
        break;
    case REPLICA_FORGET:
        n->forget = a->epoch;
        break;
    case REPLICA_ROLE:
        if (n->told != n->core.role)
            trace("n%d: %s, epoch %llu", i, replica_role_name(n->core.role),
                  (unsigned long long)n->core.epoch);
        n->told = n->core.role;
        break;
    }
}

static void step(struct node *n, struct replica_event ev)
{
    static bool inside;
    uint32_t acts_n;

    CHECK(!inside); /* actions are done before the next step */
    ev.now_ms = clock_of(n);
    replica_step(&n->core, &ev, &acts);
    w.steps++;
    inside = true;
    acts_n = acts.n;
    for (uint32_t i = 0; i < acts_n; i++)
        act(n, &acts.a[i]);
    inside = false;
}

static void do_apply(struct node *n)
{
    n->apply_running = false;
    while (n->applied < n->apply_to)
        apply_one(n, n->applied + 1);
    step(n, (struct replica_event){.type = REPLICA_EV_APPLIED, .index = n->applied});
}

static void do_snapshot(struct node *n, const struct sim_event *e)
{
    struct node *p = &w.nodes[e->c];
    struct replica_event ev = {.type = REPLICA_EV_SNAPSHOT, .epoch = e->a, .rc = RC_UNAVAIL};
    int i = (int)(n - w.nodes);

    if (p->alive && !w.cut[i][e->c] && !w.cut[e->c][i] && p->applied + 1 >= e->b &&
        p->applied >= n->applied) {
        bool whole = true;

        for (uint32_t k = 0; k < w.chunks_n; k++) {
            uint8_t key[APPLY_CHUNK_KEY_BYTES];
            struct apply_map ops = sim_map_ops(&p->map);
            struct id128 body = {{0}};
            struct slice v;

            le_put32(body.b, k);
            apply_chunk_key(7, &body, 0, key);
            if (ops.get(ops.ctx, (struct slice){key, sizeof(key)}, &v) != RC_OK) continue;
            if (p->chunks[k] == 0) whole = false;
            n->chunks[k] |= p->chunks[k];
        }
        if (whole) {
            sim_map_copy(&n->map, &p->map);
            sim_map_copy(&n->flushed, &p->map);
            n->applied = n->flushed_index = n->apply_to = p->applied;
            memset(n->at, 0, sizeof(n->at));
            n->log_base = p->applied + 1;
            n->lost_data = false;
            ev.rc = RC_OK;
            ev.index = p->applied;
        }
    }
    step(n, ev);
}

/* ---- nodes come and go ---- */

static void start(struct node *n)
{
    struct replica_conf conf = {.disk = n->disk, .min_in_sync = w.min_in_sync};
    struct replica_start s = {.durable = n->promise, .applied = n->flushed_index};
    uint64_t last = n->flushed_index, first;

    n->alive = true;
    n->life++;
    n->paused_us = 0;
    n->clock_ms = between(1000, 1u << 30);
    n->clock_us = w.now;
    n->rate_ppm = 950000 + rnd(100001);
    for (uint32_t i = 0; i < 16; i++)
        n->boot.b[i] = (uint8_t)rnd(256);
    conf.boot = n->boot;
    memset(n->at, 0, sizeof(n->at));
    for (size_t i = 0; i < n->log_n; i++) {
        const struct rec *r = &n->log[i];

        if (r->index < n->log_base || dead(r, &n->promise)) continue;
        if (n->at[r->index] == 0 || n->log[n->at[r->index] - 1].epoch <= r->epoch)
            n->at[r->index] = (uint32_t)i + 1;
    }
    while (last + 1 < INDEX_MAX && n->at[last + 1] != 0)
        last++;
    for (uint64_t i = last + 1; i < INDEX_MAX; i++)
        n->at[i] = 0;
    first = n->flushed_index + 1;
    while (first > 1 && n->at[first - 1] != 0)
        first--;
    s.now_ms = clock_of(n);
    s.log_first = first;
    s.log_last = last;
    s.damaged = n->lost_data;
    sim_map_copy(&n->map, &n->flushed);
    n->applied = n->apply_to = n->flushed_index;
    n->synced_n = n->log_n;
    n->fsync_running = n->apply_running = false;
    n->cas_open = n->forget = 0;
    n->promise_id = n->promise_pending_id = 0;
    n->waits_n = 0;
    n->told = REPLICA_NONE;
    replica_core_init(&n->core, &conf, &s);
    trace("n%d: starts, applied %llu, log %llu..%llu%s", (int)(n - w.nodes),
          (unsigned long long)s.applied, (unsigned long long)first, (unsigned long long)last,
          n->core.damaged ? ", damaged" : "");
    later(EV_TICK, (int)(n - w.nodes), between(0, 50 * MS), (struct sim_event){0});
    later(EV_RELIST, (int)(n - w.nodes), between(0, 50 * MS), (struct sim_event){0});
    later(EV_FLUSH, (int)(n - w.nodes), between(50 * MS, 4000 * MS), (struct sim_event){0});
}

static void crash(struct node *n)
{
    size_t kept = n->synced_n + rnd(n->log_n - n->synced_n + 1); /* a torn record ends the log */

    trace("n%d: killed, %zu unsynced entries of %zu lost", (int)(n - w.nodes), n->log_n - kept,
          n->log_n - n->synced_n);
    n->alive = false;
    n->life++;
    n->log_n = n->synced_n = kept;
    if (n->promise_pending_id > n->promise_id && chance(5000)) n->promise = n->promise_pending;
    waits_fail(n, 0);
}

static void heal(void)
{
    memset(w.cut, 0, sizeof(w.cut));
    memset(w.cut_etcd, 0, sizeof(w.cut_etcd));
}

static void crash_for(uint32_t i, uint64_t us)
{
    if (!w.nodes[i].alive) return;
    crash(&w.nodes[i]);
    later(EV_RESTART, (int)i, us, (struct sim_event){0});
}

static void do_fault(void)
{
    uint32_t a = (uint32_t)rnd(w.n), b = (uint32_t)rnd(w.n);
    const struct record *r = etcd_now();
    uint64_t down = chance(5000) ? between(1 * MS, 400 * MS) : between(400 * MS, 8000 * MS);

    if (w.now >= w.end_us) return;
    later(EV_FAULT, -1, between(1 * MS, w.calm * MS), (struct sim_event){0});
    if (chance(5000)) a = (uint32_t)node_of(&r->cfg.primary); /* where it hurts */
    w.faults++;
    switch (rnd(12)) {
    case 0:
    case 1:
    case 2:
        crash_for(a, down);
        break;
    case 3:
        if (chance(3000)) {
            for (uint32_t i = 0; i < w.n; i++)
                crash_for(i, between(1 * MS, 3000 * MS));
        }
        break;
    case 4:
        w.nodes[a].paused_us = w.now + between(5 * MS, 4000 * MS);
        trace("n%u: paused until %.3f", a, (double)w.nodes[a].paused_us / 1e6);
        break;
    case 5:
        w.cut[a][b] = true;
        trace("cut n%u -> n%u", a, b);
        break;
    case 6:
        for (uint32_t i = 0; i < w.n; i++)
            w.cut[a][i] = w.cut[i][a] = i != a;
        trace("n%u cut from its peers", a);
        break;
    case 7:
        w.cut_etcd[a] = true;
        trace("n%u cut from etcd", a);
        break;
    case 8:
        w.loss = (uint32_t)(chance(5000) ? 0 : rnd(1500));
        w.slow = (uint32_t)(chance(5000) ? 0 : rnd(800));
        break;
    default:
        heal();
        trace("healed");
        break;
    }
}

/* ---- clients ---- */

static uint32_t pick_node(void)
{
    if (chance(7000)) {
        for (uint32_t i = 0; i < w.n; i++) {
            if (w.nodes[i].alive && w.nodes[i].core.role == REPLICA_PRIMARY && chance(7000))
                return i;
        }
    }
    return (uint32_t)rnd(w.n);
}

static struct slice entry_make(struct op *op, const struct client *c)
{
    uint8_t key = (uint8_t)('a' + op->key), value[12];
    struct apply_put put = {.key = {&key, 1}, .value = {value, sizeof(value)}};
    struct apply_entry e = {.client = c->id, .sequence = op->seq};
    uint32_t n;
    uint8_t *p;

    le_put32(value, op->client);
    le_put64(value + 4, op->seq);
    if (op->kind == 0) {
        e.kind = APPLY_TXN;
        e.puts = &put;
        e.puts_n = 1;
    } else {
        e.kind = APPLY_CHUNK_ADD;
        e.chunk.placement_hash = 7;
        e.chunk.plain_bytes = 4096;
        le_put32(e.chunk.body.b, op->body);
    }
    n = apply_entry_bytes(&e, NULL);
    p = sim_alloc(&w.arena, n);
    (void)apply_entry_encode(&e, p);
    return (struct slice){p, n};
}

static void do_client(uint32_t client)
{
    struct client *c = &w.clients[client];
    struct op *op = c->op == 0 ? NULL : &w.ops[c->op - 1];
    uint32_t i;

    if (w.now > w.end_us + 20000u * MS) return;
    if (op != NULL && !op->done && ++op->tries > 6) op = NULL; /* its outcome stays unknown */
    if (op == NULL || op->done) {
        if (w.committed_n + 512 > INDEX_MAX / 2) return;
        if (w.ops_n == w.ops_cap) {
            w.ops_cap = w.ops_cap == 0 ? 256 : 2 * w.ops_cap;
            w.ops = realloc(w.ops, w.ops_cap * sizeof(*w.ops));
            CHECK(w.ops != NULL);
        }
        op = &w.ops[w.ops_n++];
        *op = (struct op){.client = client, .key = (uint32_t)rnd(KEYS), .seq = ++c->seq};
        op->kind = chance(3500) ? 1 : chance(1500) && w.chunks_n + 1 < CHUNKS_MAX ? 2 : 0;
        op->floor = w.finished[op->key];
        if (op->kind == 2) op->body = w.chunks_n++;
        if (op->kind != 1) op->entry = entry_make(op, c);
        c->op = w.ops_n;
    }
    i = pick_node();
    later(op->kind == 1 ? EV_READ : EV_PROPOSE, (int)i, between(50, 3 * MS),
          (struct sim_event){.a = (uint64_t)(op - w.ops)});
    /* If the node dies on the way nobody answers. */
    later(EV_CLIENT, -1, between(300 * MS, 3000 * MS),
          (struct sim_event){.a = client, .b = (uint64_t)(op - w.ops) + 1, .c = op->tries});
}

static void do_propose(struct node *n, const struct sim_event *e)
{
    struct op *op = &w.ops[e->a];

    if (op->done) return;
    if (op->kind == 2) { /* bytes first: on the proposer, and mostly on the others */
        n->chunks[op->body] = 1;
        for (uint32_t i = 0; i < w.n; i++) {
            if (chance(7000) && w.nodes[i].alive)
                later(EV_CHUNK_COPY, (int)i, between(0, 20 * MS),
                      (struct sim_event){.a = op->body});
        }
    }
    step(n, (struct replica_event){.type = REPLICA_EV_PROPOSE, .entry = op->entry, .token = e->a});
}

/* The lease is asked before the answer is built and when it is sent, in the same epoch. */
static void do_read(struct node *n, const struct sim_event *e)
{
    struct op *op = &w.ops[e->a];
    uint8_t key[APPLY_MAPKEY_BYTES_MAX], k = (uint8_t)('a' + op->key);
    struct apply_map ops = sim_map_ops(&n->map);
    uint64_t version = 0;
    struct slice v, value;

    if (op->done) return;
    if (replica_may_read(&n->core, clock_of(n)) != RC_OK) {
        client_again(op, between(1 * MS, 80 * MS));
        return;
    }
    if (ops.get(ops.ctx, (struct slice){key, apply_user_key((struct slice){&k, 1}, key)}, &v) ==
        RC_OK) {
        if (apply_user_value(v, &version, &value) != RC_OK) fail("a stored value is broken");
    }
    later(EV_READ_DONE, (int)(n - w.nodes), chance(w.slow) ? between(0, 900 * MS) : rnd(2 * MS),
          (struct sim_event){.a = e->a, .b = version, .c = n->core.epoch});
}

static void do_read_done(struct node *n, const struct sim_event *e)
{
    struct op *op = &w.ops[e->a];

    if (op->done || op->kind != 1) return;
    if (e->c != n->core.epoch || replica_may_read(&n->core, clock_of(n)) != RC_OK) {
        client_again(op, between(1 * MS, 80 * MS));
        return;
    }
    w.reads++;
    op_finish(op, e->b, "read");
    client_again(op, between(0, 40 * MS));
}

/* ---- the manager's wish ---- */

static void do_manager(void)
{
    struct group_set s = {0};

    later(EV_MANAGER, -1, between(2000 * MS, 15000 * MS), (struct sim_event){0});
    if (w.now >= w.end_us) return;
    while (s.n < w.copies)
        group_set_add(&s, &w.nodes[rnd(w.n)].disk);
    w.wish = s;
}

static void do_relist(struct node *n)
{
    int i = (int)(n - w.nodes);

    later(EV_RELIST, i, between(500 * MS, 3000 * MS), (struct sim_event){0});
    if (w.cut_etcd[i]) return;
    step(n, (struct replica_event){.type = REPLICA_EV_WISH, .wish = &w.wish});
    tell_record(n, etcd_read(2000));
}

static void do_flush(struct node *n)
{
    int i = (int)(n - w.nodes);

    later(EV_FLUSH, i, between(50 * MS, 4000 * MS), (struct sim_event){0});
    sim_map_copy(&n->flushed, &n->map);
    n->flushed_index = n->applied;
    if (!chance(3000)) return;
    n->log_base = MAX(n->log_base, n->flushed_index + 1 - rnd(MIN(n->flushed_index, 40u) + 1));
    for (uint64_t k = 1; k < n->log_base; k++)
        n->at[k] = 0;
    step(n, (struct replica_event){.type = REPLICA_EV_TRIMMED, .index = n->log_base});
}

/* ---- the loop ---- */

static void dispatch(const struct sim_event *e)
{
    struct node *n = e->node >= 0 ? &w.nodes[e->node] : NULL;

    switch ((enum ev)e->type) {
    case EV_TICK:
        later(EV_TICK, e->node, between(30 * MS, 60 * MS), (struct sim_event){0});
        step(n, (struct replica_event){.type = REPLICA_EV_TICK});
        break;
    case EV_NET:
        do_net(n, e);
        break;
    case EV_FSYNC:
        n->fsync_running = false;
        n->synced_n = MAX(n->synced_n, e->a);
        fsync_begin(n);
        step(n, (struct replica_event){.type = REPLICA_EV_DURABLE,
                                       .epoch = n->log[e->a - 1].epoch,
                                       .index = n->log[e->a - 1].index});
        break;
    case EV_PERSISTED:
        if (e->a > n->promise_id) {
            n->promise = *(const struct replica_durable *)e->p;
            n->promise_id = e->a;
        }
        step(n, (struct replica_event){.type = REPLICA_EV_PERSISTED, .id = n->promise_id});
        break;
    case EV_APPLY:
        do_apply(n);
        break;
    case EV_TAIL:
        do_tail(n, e);
        break;
    case EV_CHUNK:
        chunk_try(n, e->a, e->b, (int)e->c);
        break;
    case EV_CHUNK_COPY:
        n->chunks[e->a] = 1;
        break;
    case EV_SNAP:
        do_snapshot(n, e);
        break;
    case EV_FLUSH:
        do_flush(n);
        break;
    case EV_CAS_AT_ETCD:
        do_cas_at_etcd(e);
        break;
    case EV_CAS_BACK:
        if (e->a != n->cas_open) break;
        n->cas_open = 0;
        step(n, (struct replica_event){.type = REPLICA_EV_CAS,
                                       .id = e->a,
                                       .cas = e->b == 2   ? REPLICA_CAS_UNKNOWN
                                              : e->b == 1 ? REPLICA_CAS_WON
                                                          : REPLICA_CAS_LOST,
                                       .mod_revision = (int64_t)e->c});
        break;
    case EV_READ_AT_ETCD:
        tell_record(n, etcd_read(500));
        break;
    case EV_WATCH:
        if (!w.cut_etcd[e->node]) tell_record(n, e->p);
        break;
    case EV_RELIST:
        do_relist(n);
        break;
    case EV_CLIENT:
        /* b: a timeout of that operation's try c */
        if (e->b != 0 &&
            (w.clients[e->a].op != e->b || w.ops[e->b - 1].done || w.ops[e->b - 1].tries != e->c))
            break;
        do_client((uint32_t)e->a);
        break;
    case EV_PROPOSE:
        do_propose(n, e);
        break;
    case EV_READ:
        do_read(n, e);
        break;
    case EV_READ_DONE:
        do_read_done(n, e);
        break;
    case EV_FAULT:
        do_fault();
        break;
    case EV_RESTART:
        start(n);
        break;
    case EV_MANAGER:
        do_manager();
        break;
    }
}

static void run_until(uint64_t until)
{
    struct sim_event e;

    while (w.q.n > 0 && w.q.e[0].at_us <= until && sim_pop(&w.q, &e)) {
        w.now = e.at_us;
        if (e.node >= 0 && e.type != EV_RESTART && e.type != EV_CAS_AT_ETCD) {
            struct node *n = &w.nodes[e.node];

            if (!n->alive || (e.life != 0 && e.life != n->life)) {
                if (e.type == EV_PROPOSE || e.type == EV_READ) continue; /* the client times out */
                continue;
            }
            if (n->paused_us > w.now) { /* it all waits, only its clock goes on */
                e.at_us = n->paused_us;
                sim_push(&w.q, e);
                continue;
            }
        } else if (e.type == EV_RESTART && w.nodes[e.node].alive) {
            continue;
        }
        dispatch(&e);
    }
    w.now = MAX(w.now, until);
}

/* After all is healed: everyone wished for is in sync, equal, and the group serves. */
static void check_end(void)
{
    const struct record *r = etcd_now();
    struct node *p = &w.nodes[node_of(&r->cfg.primary)];

    for (uint32_t i = 0; i < w.wish.n; i++) {
        if (!group_set_has(&r->cfg.in_sync, &w.wish.disks[i]))
            fail("n%d is not in sync at the end", node_of(&w.wish.disks[i]));
    }
    if (p->core.role != REPLICA_PRIMARY) fail("n%d does not lead at the end", (int)(p - w.nodes));
    if (replica_may_read(&p->core, clock_of(p)) != RC_OK) fail("no reads at the end");
    if (replica_may_write(&p->core) != RC_OK) fail("no writes at the end");
    for (uint32_t i = 0; i < r->cfg.in_sync.n; i++) {
        struct node *n = &w.nodes[node_of(&r->cfg.in_sync.disks[i])];
        struct apply_map ops = sim_map_ops(&n->map);

        if (n->applied != p->applied || n->map.hash != p->map.hash)
            fail("n%d stands at %llu, the primary at %llu", (int)(n - w.nodes),
                 (unsigned long long)n->applied, (unsigned long long)p->applied);
        for (uint32_t k = 0; k < w.chunks_n; k++) {
            uint8_t key[APPLY_CHUNK_KEY_BYTES];
            struct id128 body = {{0}};
            struct slice v;

            le_put32(body.b, k);
            apply_chunk_key(7, &body, 0, key);
            if (ops.get(ops.ctx, (struct slice){key, sizeof(key)}, &v) == RC_OK &&
                n->chunks[k] == 0)
                fail("n%d lacks chunk %u", (int)(n - w.nodes), k);
        }
    }
    for (uint32_t k = 0; k < KEYS; k++) { /* what was seen is still there */
        uint8_t key[APPLY_MAPKEY_BYTES_MAX], name = (uint8_t)('a' + k);
        struct apply_map ops = sim_map_ops(&p->map);
        uint64_t version = 0;
        struct slice v, value;

        if (ops.get(ops.ctx, (struct slice){key, apply_user_key((struct slice){&name, 1}, key)},
                    &v) == RC_OK)
            (void)!apply_user_value(v, &version, &value);
        if (version < w.finished[k]) fail("key %u went back", k);
    }
}

static void world(uint64_t seed)
{
    struct group_set first = {0};

    memset(&w, 0, sizeof(w));
    w.seed = seed;
    w.rng.s = seed * 0x2545f4914f6cdd1du + 1;
    w.n = (uint32_t)between(3, NODES_MAX);
    w.copies = (uint32_t)(w.n > 3 && chance(3000) ? 4 : 3);
    if (chance(1000)) w.copies = 2;
    w.min_in_sync = 2;
    w.loss = (uint32_t)(chance(4000) ? 0 : rnd(1000));
    w.slow = (uint32_t)(chance(4000) ? 0 : rnd(500));
    w.calm = (uint32_t)between(200, 4000);
    w.end_us = between(8000, 25000) * MS;
    w.revision = (int64_t)between(1, 1000);
    for (uint32_t i = 0; i < w.n; i++) {
        w.nodes[i].disk.b[0] = (uint8_t)(i + 1);
        w.nodes[i].map.arena = w.nodes[i].flushed.arena = &w.arena;
        w.nodes[i].map.scratch = w.nodes[i].flushed.scratch = scratch;
        w.nodes[i].log_base = 1;
    }
    for (uint32_t i = 0; i < w.copies; i++)
        group_set_add(&first, &w.nodes[i].disk);
    w.wish = first;
    group_config_first(&first, &w.history[0].cfg);
    w.history[0].mod = w.revision;
    w.history_n = 1;
    for (uint32_t i = 0; i < w.n; i++)
        start(&w.nodes[i]);
    for (uint32_t i = 0; i < CLIENTS; i++) {
        w.clients[i].id.b[0] = (uint8_t)(i + 1);
        later(EV_CLIENT, -1, between(0, 500 * MS), (struct sim_event){.a = i});
    }
    later(EV_FAULT, -1, between(100 * MS, 4000 * MS), (struct sim_event){0});
    if (chance(5000)) later(EV_MANAGER, -1, between(2000 * MS, 9000 * MS), (struct sim_event){0});
    run_until(w.end_us);
    heal();
    w.loss = w.slow = 0;
    trace("all healed for good");
    run_until(w.end_us + 60000u * MS);
    check_end();
    total_steps += w.steps;
    total_acked += w.acked;
    total_reads += w.reads;
    total_faults += w.faults;
    total_epochs += etcd_now()->cfg.epoch;
    for (uint32_t i = 0; i < w.n; i++) {
        free(w.nodes[i].log);
        sim_map_free(&w.nodes[i].map);
        sim_map_free(&w.nodes[i].flushed);
    }
    free(w.ops);
    sim_queue_free(&w.q);
    sim_arena_free(&w.arena);
}

int main(int argc, char **argv)
{
    uint64_t seeds = 1, first = 1;

    for (int i = 1; i < argc; i++) {
        bool more = i + 1 < argc;

        if (strcmp(argv[i], "--trace") == 0) {
            tracing = true;
        } else if (more && strcmp(argv[i], "--seeds") == 0) {
            seeds = strtoull(argv[++i], NULL, 10);
        } else if (more && strcmp(argv[i], "--first-seed") == 0) {
            first = strtoull(argv[++i], NULL, 10);
#ifdef REPLICA_MUTANTS
        } else if (more && strcmp(argv[i], "--mutant") == 0) {
            replica_mutant = (int)strtol(argv[++i], NULL, 10);
#endif
        } else {
            (void)fprintf(stderr, "usage: %s [--seeds N] [--first-seed S] [--trace]\n", argv[0]);
            return 2;
        }
    }
    (void)signal(SIGABRT, on_abort);
    for (uint64_t s = first; s < first + seeds; s++)
        world(s);
    (void)printf("%llu seeds from %llu held: %llu steps, %llu faults, %llu epochs, %llu "
                 "acknowledged writes, %llu reads\n",
                 (unsigned long long)seeds, (unsigned long long)first,
                 (unsigned long long)total_steps, (unsigned long long)total_faults,
                 (unsigned long long)total_epochs, (unsigned long long)total_acked,
                 (unsigned long long)total_reads);
    return 0;
}
