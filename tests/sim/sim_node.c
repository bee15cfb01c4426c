/* tests/sim/sim_node.c - one node's service, disk and network ends: carries out the core's actions
 * as replica_core.h demands, late, slowly and with all that a crash may take away. SERVICE rules
 * that a mutant breaks here are numbered like the core's. */
#include "tests/sim/sim_world.h"
#include "common/base/le.h"
#include <stdlib.h>

static struct replica_actions acts;

static uint64_t disk_delay(const struct node *n)
{
    uint64_t d = chance(w.slow) ? between(20 * MS, 900 * MS) : between(100, 5 * MS);

    return n->slow_us > w.now ? d + n->slow_us - w.now : d;
}

static struct node *node_of_disk(const struct id128 *disk)
{
    struct node *n = &w.nodes[node_of(disk)];

    return id128_eq(&n->disk, disk) ? n : NULL;
}

/* ---- network ---- */

static void net_send(int from, int to, uint8_t *p, uint32_t n)
{
    uint32_t copies = chance(w.loss) ? 0 : chance(w.loss / 2) ? 2 : 1;

    for (uint32_t i = 0; i < copies; i++) {
        uint64_t d = chance(w.slow) ? between(5 * MS, chance(500) ? 9000 * MS : 1500 * MS)
                                    : between(50, 3 * MS);
        struct sim_event e = {
            .at_us = w.now + d, .type = EV_NET, .node = to, .a = (uint64_t)from, .b = n, .p = p};

        sim_push(&w.q, e); /* life 0: whatever process is there */
    }
}

static void do_net(struct node *n, const struct sim_event *e)
{
    struct replica_entry entries[REPLICA_BATCH];
    struct replica_msg m;
    struct err err;

    if (w.cut[e->a][e->node] > w.now) return;
    if (replica_msg_decode((struct slice){e->p, e->b}, &m, entries, &err) != RC_OK)
        fail("a message does not decode: %s", err.msg);
    node_step(n, (struct replica_event){.type = REPLICA_EV_MESSAGE, .msg = &m});
}

static void send_now(struct node *n, const struct replica_msg *msg)
{
    struct replica_entry entries[REPLICA_BATCH];
    struct replica_msg m = *msg;
    uint32_t bytes;
    uint8_t *p;

    m.entries = entries;
    if (m.n > 1 && chance(300)) m.n = (uint32_t)between(1, m.n);
    for (uint32_t i = 0; i < m.n; i++) {
        uint32_t at = n->at[m.first + i];

        if (at == 0) return;
        entries[i] = (struct replica_entry){n->log[at - 1].epoch, n->log[at - 1].bytes};
    }
    truth_message(n, &m);
    bytes = replica_msg_bytes(&m);
    CHECK(bytes > 0);
    p = sim_alloc(&w.arena, bytes);
    (void)replica_msg_encode(&m, p);
    net_send(node_idx(n), node_of(&m.to_disk), p, bytes);
}

/* Rule 4: entries may be read from the disk first. */
static void do_send(struct node *n, const struct replica_msg *m)
{
    struct replica_msg *kept;

    if (m->n == 0 || !chance(400)) {
        send_now(n, m);
        return;
    }
    kept = sim_alloc(&w.arena, sizeof(*kept));
    *kept = *m;
    later(EV_SEND_LATE, node_idx(n), between(1 * MS, 400 * MS),
          (struct sim_event){.p = kept, .a = n->replaced_n});
}

/* ---- disk ---- */

static void fsync_begin(struct node *n)
{
    if (n->fsync_running || n->synced_n == n->log_n) return;
    n->fsync_running = true;
    later(EV_FSYNC, node_idx(n), disk_delay(n), (struct sim_event){.a = n->log_n});
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
    if (n->at[index] != 0) n->replaced_n++;
    n->log_top = MAX(n->log_top, index);
    n->at[index] = (uint32_t)n->log_n;
}

static void do_fsync(struct node *n, const struct sim_event *e)
{
    const struct rec *last = &n->log[e->a - 1];

    n->fsync_running = false;
    truth_synced(n, e->a);
    fsync_begin(n);
    node_step(n, (struct replica_event){
                     .type = REPLICA_EV_DURABLE, .epoch = last->epoch, .index = last->index});
}

static void do_persist(struct node *n, const struct replica_action *a)
{
    struct replica_durable *d = sim_alloc(&w.arena, sizeof(*d));
    uint8_t b[REPLICA_DURABLE_BYTES];

    truth_persist(n, &a->durable);
    n->promise_pending = a->durable;
    n->promise_pending_id = a->id;
    replica_durable_encode(&a->durable, b);
    if (replica_durable_decode((struct slice){b, sizeof(b)}, d, NULL) != RC_OK)
        fail("a promise does not decode");
    later(EV_PERSISTED, node_idx(n), disk_delay(n), (struct sim_event){.a = a->id, .p = d});
    if (a->durable.epoch > n->promise.epoch) fault_hook_promise(node_idx(n));
}

static void do_persisted(struct node *n, const struct sim_event *e)
{
    if (e->a > n->promise_id) {
        n->promise = *(const struct replica_durable *)e->p;
        n->promise_id = e->a;
        truth_disk_changed(n);
    }
    node_step(n, (struct replica_event){.type = REPLICA_EV_PERSISTED, .id = n->promise_id});
}

/* The group's hour strikes: more often than in earnest, so that clients become idle. */
static void hour(struct node *n)
{
    struct apply_entry tick = {.kind = APPLY_TICK};
    uint8_t b[64];
    struct slice s = {b, apply_entry_encode(&tick, b)};

    if (w.committed_n + 1024 > INDEX_MAX) return;
    node_step(n, (struct replica_event){.type = REPLICA_EV_PROPOSE, .entry = s, .token = OPS_MAX});
}

void node_chunk_put(struct node *n, uint32_t chunk)
{
    n->chunks[chunk] = 1;
    n->gone[chunk] = 0;
    if (n->stray.state == STRAY_DROPS && le_get32(n->stray.id.seal_id.b) == chunk)
        n->stray_written = true; /* another record: the drop is of the old one */
}

/* What an entry makes superfluous goes in the batch that applies it (group_apply.c): from then on
 * nobody here is served from it, and it is gone for good when that state is durable. */
static void chunks_drop(struct node *n, struct slice e, const struct apply_outcome *out)
{
    struct apply_chunk c;
    uint32_t body, keep;
    bool drop;

    if (!apply_entry_drops(e, out, &c, &drop)) return;
    body = body_of(e);
    keep = MUTANT(74) ? chunk_of(e) : le_get32(out->seal_id.b);
    for (uint32_t k = 0; k < w.chunks_n; k++) {
        if (w.chunk_body[k] == body && (drop || k != keep) && n->chunks[k] != 0) n->gone[k] = 1;
    }
}

static void chunks_flush(struct node *n)
{
    for (uint32_t k = 0; k < w.chunks_n; k++) {
        if (n->gone[k] != 0) n->chunks[k] = n->gone[k] = 0;
        if (n->unskipped[k] != 0) n->skipped[k] = n->unskipped[k] = 0;
    }
}

/* What the state says of a chunk's body; false: nothing. */
static bool chunk_row(struct node *n, uint32_t chunk, struct apply_chunk *ret, bool *ret_dropped)
{
    struct apply_map ops = sim_map_ops(&n->map);
    uint8_t key[APPLY_CHUNK_KEY_BYTES];
    struct id128 body = {{0}};
    struct slice row;
    uint64_t index;

    le_put32(body.b, w.chunk_body[chunk] + 1);
    apply_chunk_key(HASH, &body, 0, key);
    if (ops.get(ops.ctx, (struct slice){key, sizeof(key)}, &row) != RC_OK) return false;
    if (apply_chunk_row(row, ret, ret_dropped, &index) != RC_OK) fail("a chunk's row is broken");
    return true;
}

static bool state_decided(struct node *n, uint32_t chunk)
{
    struct apply_chunk c;
    bool dropped;

    return chunk_row(n, chunk, &c, &dropped) && (dropped || le_get32(c.seal_id.b) != chunk);
}

/* n's state has a tombstone or another sealing, or it was so when the disk left the bytes out: as
 * chunk_decided and chunk_skipped of the service. */
static bool chunk_decided(struct node *n, uint32_t chunk)
{
    if (n->skipped[chunk] != 0 && n->unskipped[chunk] == 0 && !MUTANT(75)) return true;
    return !MUTANT(73) && state_decided(n, chunk);
}

/* The state here says by itself what a note says: the note goes, in a batch behind that state's. */
static void skips_look(struct node *n)
{
    if (n->skips_n == 0) return;
    n->skips_n = 0;
    for (uint32_t k = 0; k < w.chunks_n; k++) {
        if (n->skipped[k] == 0 || n->unskipped[k] != 0) continue;
        if (state_decided(n, k)) {
            n->unskipped[k] = 1;
            if (MUTANT(81)) n->skipped[k] = n->unskipped[k] = 0;
        } else {
            n->skips_n++;
        }
    }
}

/* The engine's state becomes durable now and then; the log is trimmed below it at times (P6). */
static void do_flush(struct node *n)
{
    uint64_t keep;

    later(EV_FLUSH, node_idx(n), between(50 * MS, 4000 * MS), (struct sim_event){0});
    if (replica_role(&n->core) == REPLICA_PRIMARY && chance(2000)) {
        struct apply_entry tick = {.kind = APPLY_TICK};
        uint8_t b[64];
        struct slice s = {b, apply_entry_encode(&tick, b)};

        node_step(n,
                  (struct replica_event){.type = REPLICA_EV_PROPOSE, .entry = s, .token = OPS_MAX});
    }
    if (!MUTANT(41) || chance(3000)) {
        sim_map_copy(&n->flushed, &n->map);
        n->flushed_index = n->applied;
        chunks_flush(n);
    }
    if (chance(3000)) {
        keep = MUTANT(41) ? n->applied : n->flushed_index;
        keep = keep + 1 - rnd(MIN(keep, 40u) + 1);
        n->log_base = MAX(n->log_base, keep);
        for (uint64_t k = 1; k < n->log_base; k++)
            n->at[k] = 0;
        truth_disk_changed(n);
        node_step(n, (struct replica_event){.type = REPLICA_EV_TRIMMED, .index = n->log_base});
    } else {
        truth_disk_changed(n);
    }
}

/* ---- state ---- */

static void apply_one(struct node *n, uint64_t index)
{
    struct apply_map ops = sim_map_ops(&n->map);
    struct apply_outcome out;
    uint32_t at = n->at[index];
    struct slice e;
    struct err err;

    if (at == 0) fail("n%d applies %llu, which it has not", node_idx(n), (unsigned long long)index);
    e = n->log[at - 1].bytes;
    if (apply_step(&ops, index, e, &out, &err) != RC_OK) fail("apply: %s", err.msg);
    n->applied = index;
    truth_applied(n, index, e, &out);
    chunks_drop(n, e, &out);
    skips_look(n);
    for (uint32_t i = 0; i < n->waits_n; i++) {
        struct op *op;

        if (n->waits[i].index != index) continue;
        op = &w.ops[n->waits[i].op];
        n->waits[i] = n->waits[--n->waits_n];
        client_acked(n, op, index, &out);
        break;
    }
}

static void do_apply(struct node *n)
{
    n->apply_running = false;
    while (n->applied < n->apply_to)
        apply_one(n, n->applied + 1);
    node_step(n, (struct replica_event){.type = REPLICA_EV_APPLIED, .index = n->applied});
}

/* Every chunk that p's state lists, onto n's disk; false: p lacks one. */
static bool chunks_fetch(struct node *n, struct node *p)
{
    struct apply_map ops = sim_map_ops(&p->map);
    uint8_t from[1] = {'c'};
    struct slice key, value, at = {from, 1};
    bool whole = true;

    while (ops.next(ops.ctx, at, &key, &value) == RC_OK && key.p[0] == 'c') {
        uint8_t after[APPLY_CHUNK_KEY_BYTES + 1] = {0};
        struct apply_chunk c;
        uint64_t index;
        bool dropped;
        uint32_t k;

        if (apply_chunk_row(value, &c, &dropped, &index) != RC_OK) fail("a chunk's row is broken");
        k = le_get32(c.seal_id.b);
        if (!dropped) {
            whole = whole && node_has(p, k);
            if (node_has(p, k) && !(w.strays && node_has(n, k))) node_chunk_put(n, k);
        }
        memcpy(after, key.p, MIN(key.n, sizeof(after) - 1));
        at = sim_copy(&w.arena, (struct slice){after, key.n + 1});
    }
    return whole;
}

static void do_snapshot(struct node *n, const struct sim_event *e)
{
    struct node *p = node_of_disk(e->p);
    struct replica_event ev = {.type = REPLICA_EV_SNAPSHOT, .epoch = e->a, .rc = RC_UNAVAIL};
    int i = node_idx(n), j = p == NULL ? 0 : node_idx(p);

    if (n->stray.state == STRAY_DROPS) { /* it may be one of those listed: its end is waited for */
        later(EV_SNAP, i, 1 * MS, *e);
        return;
    }
    if (p != NULL && p->alive && w.cut[i][j] <= w.now && w.cut[j][i] <= w.now &&
        p->applied + 1 >= e->b && (MUTANT(42) || chunks_fetch(n, p))) {
        if (MUTANT(43)) { /* merged, never replaced */
            struct apply_map ops = sim_map_ops(&n->map);

            for (size_t k = 0; k < p->map.n; k++)
                (void)!ops.put(ops.ctx, p->map.rows[k].key, p->map.rows[k].value);
        } else {
            sim_map_copy(&n->map, &p->map);
        }
        sim_map_copy(&n->flushed, &n->map);
        chunks_flush(n);
        n->applied = n->flushed_index = n->apply_to = n->log_top = p->applied;
        skips_look(n);
        memset(n->at, 0, sizeof(n->at));
        n->log_base = MAX(n->log_base, p->applied + 1);
        n->broken = false;
        n->odd = n->odds_coming > 0;
        n->commit_ok = MAX(n->commit_ok, p->applied);
        n->replaced_n++;
        truth_disk_changed(n);
        ev.rc = RC_OK;
        ev.index = p->applied;
        trace("n%d: has the snapshot of %llu", i, (unsigned long long)p->applied);
    }
    node_step(n, ev);
}

/* ---- chunks ---- */

struct pull {
    struct id128 peer;
    uint64_t index, epoch;
    uint32_t chunk;
};

/* Until it is there or no longer wanted; a success of before FORGET may still be told after. */
static void chunk_try(struct node *n, const struct sim_event *e)
{
    const struct pull *g = e->p;
    struct node *p = node_of_disk(&g->peer);
    struct stray_id id = stray_id_of(g->chunk);
    int i = node_idx(n);

    if (!stray_needed(&n->stray, &id)) {
        later(EV_CHUNK, i, 1 * MS, *e);
        return;
    }
    if (g->epoch < n->forget && chance(7000)) return;
    if (!node_has(n, g->chunk)) {
        bool there = p != NULL && p != n && p->alive && w.cut[node_idx(p)][i] <= w.now &&
                     w.cut[i][node_idx(p)] <= w.now;

        if (g->epoch < n->forget) return;
        if (there && node_has(p, g->chunk)) {
            node_chunk_put(n, g->chunk);
        } else if (!chunk_decided(n, g->chunk) && !(there && chunk_decided(p, g->chunk))) {
            later(EV_CHUNK, i, 100 * MS, *e);
            return;
        } else {
            n->skipped[g->chunk] = 1;
            n->unskipped[g->chunk] = 0;
            n->skips_n++;
        }
    }
    node_step(
        n, (struct replica_event){.type = REPLICA_EV_CHUNK, .epoch = g->epoch, .index = g->index});
}

static void do_chunk(struct node *n, const struct replica_action *a)
{
    struct pull *g = sim_alloc(&w.arena, sizeof(*g));

    *g = (struct pull){a->peer, a->first, a->epoch, chunk_of(a->entries[0].bytes)};
    later(EV_CHUNK, node_idx(n), chance(w.slow) ? between(20 * MS, 900 * MS) : between(100, 4 * MS),
          (struct sim_event){.p = g});
}

static void do_tail(struct node *n, const struct sim_event *e)
{
    uint64_t upto = e->b - 1;

    while (upto < e->c && n->at[upto + 1] != 0) { /* one that changed meanwhile: of a past epoch */
        struct slice s = n->log[n->at[upto + 1] - 1].bytes;
        struct stray_id id;

        if (is_chunk(s)) {
            id = stray_id_of(chunk_of(s));
            if (!stray_needed(&n->stray, &id)) {
                later(EV_TAIL, node_idx(n), 1 * MS, *e);
                return;
            }
        }
        if (is_chunk(s) && !node_has(n, chunk_of(s)) && !chunk_decided(n, chunk_of(s))) break;
        upto++;
    }
    node_step(n, (struct replica_event){.type = REPLICA_EV_TAIL, .epoch = e->a, .index = upto});
}

/* ---- strays: bytes that no ChunkAdd made exist ---- */

struct stray_id stray_id_of(uint32_t chunk)
{
    struct stray_id id = {.index = 0};

    le_put32(id.body.b, w.chunk_body[chunk] + 1);
    le_put32(id.seal_id.b, chunk);
    return id;
}

static bool is_stray(struct node *n, uint32_t chunk)
{
    struct apply_chunk c;
    bool dropped;

    return node_has(n, chunk) && !chunk_row(n, chunk, &c, &dropped);
}

static void stray_pick(struct node *n)
{
    for (uint32_t tries = 0; tries < 8 && w.chunks_n > 0; tries++) {
        uint32_t k = w.chunks_n - 1 - (uint32_t)sim_rand(&w.stray_rng, MIN(w.chunks_n, 16u));
        struct stray_id id = stray_id_of(k);

        if (!is_stray(n, k)) continue;
        stray_begin(&n->stray, &id, n->log_top);
        return;
    }
}

/* Its drop takes as long as a look into the state and a batch; a crash may take it back. */
static void do_stray(struct node *n)
{
    enum replica_role role = replica_role(&n->core);
    bool may = (role == REPLICA_BACKUP || role == REPLICA_PRIMARY) && !n->core.damaged &&
               !n->core.snapshot_running;
    uint32_t k = le_get32(n->stray.id.seal_id.b);

    later(EV_STRAY, node_idx(n), 1 * MS + sim_rand(&w.stray_rng, 40 * MS), (struct sim_event){0});
    switch (n->stray.state) {
    case STRAY_IDLE:
        if (may) stray_pick(n);
        break;
    case STRAY_WAITS:
        if (stray_look(&n->stray, n->applied, may) != STRAY_DROP) break;
        n->stray_written = false;
        if (!is_stray(n, k)) stray_end(&n->stray);
        break;
    case STRAY_DROPS:
        stray_end(&n->stray);
        if (n->stray_written || !node_has(n, k)) break;
        trace("n%d: drops the stray %u", node_idx(n), k);
        n->gone[k] = 1;
        w.strays_dropped++;
        break;
    }
}

/* ---- actions ---- */

static void waits_fail(struct node *n, uint64_t first)
{
    for (uint32_t i = 0; i < n->waits_n;) {
        struct op *op = &w.ops[n->waits[i].op];

        if (n->waits[i].index < first) {
            i++;
            continue;
        }
        if (MUTANT(44) && n->alive && first > 0) {
            struct apply_outcome out = {.rc = RC_OK, .index = n->waits[i].index, .succeeded = true};

            client_acked(n, op, n->waits[i].index, &out);
        } else {
            client_again(op, between(1 * MS, 300 * MS));
        }
        n->waits[i] = n->waits[--n->waits_n];
    }
}

static void act(struct node *n, const struct replica_action *a)
{
    int i = node_idx(n);
    struct id128 *peer;

    switch (a->type) {
    case REPLICA_PERSIST:
        do_persist(n, a);
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
        do_send(n, &a->msg);
        break;
    case REPLICA_APPLY:
        n->apply_to = MAX(n->apply_to, a->last);
        if (!n->apply_running)
            later(EV_APPLY, i, chance(w.slow) ? between(0, 300 * MS) : rnd(1 * MS),
                  (struct sim_event){0});
        n->apply_running = true;
        break;
    case REPLICA_PROPOSED:
        if (a->token >= OPS_MAX) break; /* a tick, a late duplicate: nobody waits */
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
        etcd_cas(n, a);
        break;
    case REPLICA_READ_CONFIG:
        etcd_read_config(n);
        break;
    case REPLICA_CHUNK:
        do_chunk(n, a);
        break;
    case REPLICA_SNAPSHOT:
        peer = sim_alloc(&w.arena, sizeof(*peer));
        *peer = a->peer;
        trace("n%d: snapshot from n%d, at least %llu", i, node_of(peer),
              (unsigned long long)a->first);
        later(EV_SNAP, i, between(5 * MS, 700 * MS),
              (struct sim_event){.a = a->epoch, .b = a->first, .p = peer});
        fault_hook(i, NULL);
        break;
    case REPLICA_CHECK_TAIL:
        later(EV_TAIL, i, between(100, 3 * MS),
              (struct sim_event){.a = a->epoch, .b = a->first, .c = a->last});
        break;
    case REPLICA_FORGET:
        n->forget = a->epoch;
        break;
    case REPLICA_ROLE:
        if (n->told != n->core.role) {
            trace("n%d: %s, epoch %llu", i, replica_role_name(n->core.role),
                  (unsigned long long)n->core.epoch);
            if (n->core.role == REPLICA_TAKEOVER || n->core.role == REPLICA_PRIMARY)
                fault_hook(i, NULL);
        }
        n->told = n->core.role;
        break;
    }
}

void node_step(struct node *n, struct replica_event ev)
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
    truth_step(n);
}

/* ---- nodes come and go ---- */

/* What a start finds in the log: of each index the record with the highest epoch. */
static void log_load(struct node *n)
{
    memset(n->at, 0, sizeof(n->at));
    for (size_t i = 0; i < n->log_n; i++) {
        const struct rec *r = &n->log[i];

        if (r->index < n->log_base || rec_dead(r, &n->promise)) continue;
        if (n->at[r->index] == 0 || n->log[n->at[r->index] - 1].epoch <= r->epoch)
            n->at[r->index] = (uint32_t)i + 1;
    }
}

void node_start(struct node *n)
{
    struct replica_conf conf = {.disk = n->disk, .min_in_sync = w.min_in_sync};
    struct replica_start s = {.durable = n->promise, .applied = n->flushed_index};
    uint64_t last = n->flushed_index, first;
    int i = node_idx(n);

    n->alive = true;
    n->life++;
    n->paused_us = 0;
    n->clock_ms = between(1000, 1u << 30);
    n->clock_us = w.now;
    n->rate_ppm = w.mad_clocks && !w.ended ? between(300000, 3000000) : between(880000, 1120000);
    for (uint32_t k = 0; k < 16; k++)
        n->boot.b[k] = (uint8_t)rnd(256);
    conf.boot = n->boot;
    log_load(n);
    while (last + 1 < INDEX_MAX && n->at[last + 1] != 0)
        last++;
    for (uint64_t k = last + 1; k < INDEX_MAX; k++)
        n->at[k] = 0;
    for (uint64_t k = last; k > 0 && n->at[k] != 0; k--) {
        if (n->log[n->at[k] - 1].epoch <= s.log_epoch) continue;
        s.log_epoch = n->log[n->at[k] - 1].epoch;
        s.epoch_last = k;
    }
    first = n->flushed_index + 1;
    while (first > 1 && n->at[first - 1] != 0)
        first--;
    s.now_ms = clock_of(n);
    s.log_first = first;
    s.log_last = last;
    s.damaged = n->broken;
    n->odd = n->promise.damaged;
    n->odds_coming = 0;
    sim_map_copy(&n->map, &n->flushed);
    n->applied = n->apply_to = n->flushed_index;
    n->synced_n = n->log_n;
    n->fsync_running = n->apply_running = false;
    n->forget = 0;
    memset(n->gone, 0, sizeof(n->gone));
    memset(n->unskipped, 0, sizeof(n->unskipped));
    n->skips_n = 1; /* maybe */
    n->stray = (struct stray_core){0};
    n->log_top = last;
    n->promise_id = n->promise_pending_id = 0;
    n->asked = n->promise;
    n->waits_n = 0;
    n->told = REPLICA_NONE;
    n->commit_ok = n->flushed_index;
    replica_core_init(&n->core, &conf, &s);
    trace("n%d: starts, applied %llu, log %llu..%llu, commit %llu, epoch %llu%s", i,
          (unsigned long long)s.applied, (unsigned long long)first, (unsigned long long)last,
          (unsigned long long)n->promise.commit, (unsigned long long)n->promise.epoch,
          n->core.damaged ? ", damaged" : "");
    truth_step(n);
    later(EV_TICK, i, between(0, 50 * MS), (struct sim_event){0});
    later(EV_RELIST, i, chance(3000) ? between(0, 2500 * MS) : between(0, 50 * MS),
          (struct sim_event){0});
    later(EV_FLUSH, i, between(50 * MS, 4000 * MS), (struct sim_event){0});
    if (w.strays) later(EV_STRAY, i, 1 * MS, (struct sim_event){0});
}

void node_crash(struct node *n)
{
    size_t kept = n->synced_n + rnd(n->log_n - n->synced_n + 1); /* a torn record ends the log */

    trace("n%d: killed, %zu unsynced entries of %zu lost", node_idx(n), n->log_n - kept,
          n->log_n - n->synced_n);
    n->alive = false;
    n->life++;
    n->log_n = kept;
    truth_synced(n, kept);
    if (n->promise_pending_id > n->promise_id && chance(5000)) n->promise = n->promise_pending;
    truth_disk_changed(n);
    waits_fail(n, 0);
}

void node_wipe(struct node *n, bool whole)
{
    CHECK(!n->alive);
    if (whole) {
        n->disk.b[1]++;
        n->promise = (struct replica_durable){0};
        n->log_n = n->synced_n = 0;
        n->log_base = 1;
        n->flushed.n = 0;
        n->flushed.hash = 0;
        n->flushed_index = 0;
        n->broken = n->odd = false;
        memset(n->chunks, 0, sizeof(n->chunks));
        memset(n->skipped, 0, sizeof(n->skipped));
    } else { /* a hole: the service sees records missing below what is marked as flushed */
        n->log_n -= rnd(MIN(n->log_n, 64u) + 1);
        n->synced_n = n->log_n;
        n->broken = true;
        for (uint32_t k = 0; k < w.chunks_n; k++) {
            if (chance(500)) n->chunks[k] = 0;
        }
    }
    memset(n->disk_at, 0, sizeof(n->disk_at));
    n->synced_n = 0;
    truth_synced(n, n->log_n);
    truth_disk_changed(n);
    w.losses++;
}

void node_event(struct node *n, const struct sim_event *e)
{
    switch ((enum ev)e->type) {
    case EV_TICK:
        later(EV_TICK, e->node, between(30 * MS, 60 * MS), (struct sim_event){0});
        node_step(n, (struct replica_event){.type = REPLICA_EV_TICK});
        if (replica_role(&n->core) == REPLICA_PRIMARY && chance(w.ticks)) hour(n);
        break;
    case EV_NET:
        do_net(n, e);
        break;
    case EV_SEND_LATE:
        if (e->a == n->replaced_n) send_now(n, e->p);
        break;
    case EV_FSYNC:
        do_fsync(n, e);
        break;
    case EV_PERSISTED:
        do_persisted(n, e);
        break;
    case EV_APPLY:
        do_apply(n);
        break;
    case EV_TAIL:
        do_tail(n, e);
        break;
    case EV_CHUNK:
        chunk_try(n, e);
        break;
    case EV_CHUNK_COPY:
        node_chunk_put(n, (uint32_t)e->a);
        break;
    case EV_ODD:
        node_step(n, (struct replica_event){.type = REPLICA_EV_ODD, .epoch = e->a, .id = e->b});
        n->odds_coming = 0;
        n->odd = n->core.damaged;
        break;
    case EV_SNAP:
        do_snapshot(n, e);
        break;
    case EV_STRAY:
        do_stray(n);
        break;
    case EV_FLUSH:
        do_flush(n);
        break;
    case EV_RESTART:
        node_start(n);
        break;
    default:
        fail("event %d is no node's", e->type);
    }
}
