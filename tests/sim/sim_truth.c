/* tests/sim/sim_truth.c - what must hold, looked at from outside of all nodes, after every step:
 *   no acknowledged write is lost     every whole disk that etcd's record counts as in sync holds
 * all that was ever acknowledged, durably, chunk bytes too one leader acts in an epoch prepares,
 * reads committed logs agree              entry by entry as commit indices move, and states as
 * applied reads are linearizable            each shows the newest change that anybody had seen
 * before it began, or a newer one; two nodes never may read at a time requests run once whatever is
 * repeated, and a dropped chunk stays dropped promises never go back            nor is anything
 * sent, or answered as held, that is not on the disk yet */
#include "tests/sim/sim_world.h"
#include "common/base/le.h"
#include <stdio.h>
#include <stdlib.h>

typedef unsigned long long ull;

static bool same(struct slice a, struct slice b)
{
    return a.n == b.n && memcmp(a.p, b.p, a.n) == 0;
}

bool rec_dead(const struct rec *r, const struct replica_durable *d)
{
    return r->index > d->cut_index && r->epoch < d->cut_epoch;
}

bool whole_member(const struct group_set *s, const struct node *n)
{
    return !n->broken && group_set_has(s, &n->disk);
}

/* ---- durability ---- */

/* What a restart would find at that index. */
static const struct rec *on_disk(const struct node *n, uint64_t index)
{
    const struct rec *r = n->disk_at[index] == 0 ? NULL : &n->log[n->disk_at[index] - 1];

    return r == NULL || index < n->log_base || rec_dead(r, &n->promise) ? NULL : r;
}

/* Or nobody needs it any more: the committed log dropped it, or another sealing won. */
static bool chunk_there(const struct node *n, struct slice entry)
{
    uint32_t k, body;

    if (!is_chunk(entry)) return true;
    k = chunk_of(entry);
    body = body_of(entry);
    return n->chunks[k] != 0 || w.body_dropped[body] ||
           (w.body_won[body] != 0 && w.body_won[body] != k + 1);
}

static uint64_t held_upto(struct node *n, uint64_t upto)
{
    uint64_t k = MAX(n->held_ok, n->flushed_index);

    while (k < upto) {
        const struct rec *r = on_disk(n, k + 1);

        if (r == NULL || w.committed[k + 1].p == NULL || !same(r->bytes, w.committed[k + 1]) ||
            !chunk_there(n, r->bytes))
            break;
        k++;
    }
    n->held_ok = k;
    return k;
}

void truth_acked_held(const char *when)
{
    const struct group_set *s = &etcd_now()->cfg.in_sync;

    for (uint32_t i = 0; i < w.n; i++) {
        struct node *n = &w.nodes[i];
        uint64_t held;

        if (!whole_member(s, n)) continue;
        held = held_upto(n, w.acked_max);
        if (held < w.acked_max)
            fail("%s: n%u is in sync and holds up to %llu, %llu is acknowledged", when, i,
                 (ull)held, (ull)w.acked_max);
    }
}

uint32_t truth_copies(uint64_t index)
{
    uint32_t copies = 0;

    for (uint32_t i = 0; i < w.n; i++)
        copies += !w.nodes[i].broken && held_upto(&w.nodes[i], index) >= index;
    return copies;
}

void truth_synced(struct node *n, size_t upto)
{
    bool changed = false;

    for (; n->synced_n < upto; n->synced_n++) {
        const struct rec *r = &n->log[n->synced_n];
        uint32_t *at = &n->disk_at[r->index];

        if (*at != 0 && n->log[*at - 1].epoch > r->epoch) continue;
        changed = changed || r->index <= n->held_ok;
        *at = (uint32_t)n->synced_n + 1;
    }
    if (!changed) return;
    n->held_ok = 0;
    truth_acked_held("written again");
}

void truth_disk_changed(struct node *n)
{
    n->held_ok = 0;
    if (n->flushed_index > 0 && n->flushed.hash != w.state[n->flushed_index])
        fail("n%d: its durable state is not that of index %llu", node_idx(n),
             (ull)n->flushed_index);
    truth_acked_held("a disk changed");
}

void truth_persist(struct node *n, const struct replica_durable *d)
{
    const struct replica_durable *was = &n->asked;

    if (d->epoch < was->epoch || d->config < was->config || d->cut_epoch < was->cut_epoch)
        fail("n%d: its promises go back", node_idx(n));
    if (!d->damaged && !was->damaged && d->commit < was->commit)
        fail("n%d: its commit index goes back from %llu to %llu", node_idx(n), (ull)was->commit,
             (ull)d->commit);
    if (d->commit > n->core.commit)
        fail("n%d: promises %llu as committed, which nothing is", node_idx(n), (ull)d->commit);
    n->asked = *d;
}

/* ---- who acts ---- */

void truth_acts(const struct node *n, uint64_t epoch, const struct id128 *boot, const char *what)
{
    if (epoch >= CONFIGS_MAX) fail("too many epochs");
    if (id128_is_zero(&w.led_disk[epoch])) {
        w.led_disk[epoch] = n->disk;
        w.led_boot[epoch] = *boot;
    }
    if (!id128_eq(&w.led_disk[epoch], &n->disk) || !id128_eq(&w.led_boot[epoch], boot))
        fail("two leaders act in epoch %llu: n%d %s", (ull)epoch, node_idx(n), what);
}

void truth_message(struct node *n, const struct replica_msg *m)
{
    int i = node_idx(n);

    if (m->epoch > n->promise.epoch || m->config > n->promise.config)
        fail("n%d speaks of epoch %llu, config %llu before they are on its disk", i, (ull)m->epoch,
             (ull)m->config);
    if (m->type == REPLICA_PREPARE) truth_acts(n, m->epoch, &m->from_boot, "prepares");
    if (m->type != REPLICA_ANSWER || m->damaged || n->broken) return;
    for (uint64_t k = MAX(n->core.commit, n->flushed_index) + 1; k <= m->durable; k++) {
        const struct rec *r = on_disk(n, k);

        if (n->at[k] == 0 || r == NULL || !same(r->bytes, n->log[n->at[k] - 1].bytes) ||
            !chunk_there(n, r->bytes))
            fail("n%d answers for %llu, but %llu is not on its disk", i, (ull)m->durable, (ull)k);
    }
}

/* ---- logs ---- */

void truth_step(struct node *n)
{
    const struct replica_core *c = &n->core;

    for (; n->commit_ok < c->commit; n->commit_ok++) {
        uint64_t k = n->commit_ok + 1;
        struct slice *have = &w.committed[k], s;

        if (n->at[k] == 0) {
            if (k <= n->applied) continue; /* a snapshot's */
            fail("n%d commits %llu, which it has not", node_idx(n), (ull)k);
        }
        s = n->log[n->at[k] - 1].bytes;
        if (have->p == NULL) {
            *have = s;
            w.committed_n = MAX(w.committed_n, k);
        }
        if (!same(*have, s)) fail("committed logs differ at %llu on n%d", (ull)k, node_idx(n));
    }
    if (c->epoch < n->promise.epoch || c->config < n->promise.config)
        fail("n%d forgot what it promised", node_idx(n));
    if (c->role != REPLICA_PRIMARY || w.mad_clocks) return;
    for (uint32_t i = 0; i < w.n; i++) {
        const struct node *o = &w.nodes[i];

        if (o == n || !o->alive || o->core.role != REPLICA_PRIMARY) continue;
        if (replica_may_read(c, clock_of(n)) == RC_OK &&
            replica_may_read(&o->core, clock_of(o)) == RC_OK)
            fail("n%d and n%u may read at the same time", node_idx(n), i);
    }
}

const struct change *truth_change(uint32_t key, uint64_t upto)
{
    for (uint32_t i = w.changes_n[key]; i > 0; i--) {
        if (w.changes[key][i - 1].index <= upto) return &w.changes[key][i - 1];
    }
    return NULL;
}

static void change_add(const struct op *op, uint64_t index, bool there)
{
    uint32_t k = op->key;

    if (w.changes_n[k] == w.changes_cap[k]) {
        w.changes_cap[k] = w.changes_cap[k] == 0 ? 64 : 2 * w.changes_cap[k];
        w.changes[k] = realloc(w.changes[k], w.changes_cap[k] * sizeof(*w.changes[k]));
        CHECK(w.changes[k] != NULL);
    }
    w.changes[k][w.changes_n[k]++] =
        (struct change){.index = index, .op = (uint32_t)(op - w.ops), .there = there};
}

/* An entry is applied for the first time anywhere. */
static void first_applied(uint64_t index, struct slice entry, const struct apply_outcome *out)
{
    struct op *op = op_of_entry(entry);
    const struct change *c;
    uint64_t version;

    if (is_chunk(entry) && out->rc == RC_OK && !out->repeated) {
        if (w.body_dropped[body_of(entry)])
            fail("entry %llu: a dropped chunk is there again", (ull)index);
        w.body_won[body_of(entry)] = le_get32(out->seal_id.b) + 1;
    }
    if (op == NULL || out->rc == RC_ABORTED) return;
    if (out->repeated) {
        if (op->executed == 0) fail("entry %llu repeats what never ran", (ull)index);
        return;
    }
    if (op->executed != 0)
        fail("a request ran twice, at %llu and %llu", (ull)op->executed, (ull)index);
    op->executed = index;
    c = op->kind == OP_CHUNK_ADD || op->kind == OP_CHUNK_DROP ? NULL : truth_change(op->key, index);
    version = c == NULL || !c->there ? 0 : c->index;
    switch (op->kind) {
    case OP_CHUNK_TXN:
        if (out->rc != RC_OK && out->succeeded)
            fail("entry %llu: its chunk was refused, its transaction was not", (ull)index);
        if (out->rc != RC_OK) break;
        /* fall through */
    case OP_PUT_IF:
        if (out->succeeded != (version == op->cond))
            fail("entry %llu: its condition was not kept", (ull)index);
        if (out->succeeded) change_add(op, index, true);
        break;
    case OP_PUT:
        change_add(op, index, true);
        break;
    case OP_DELETE:
        if (version != 0) change_add(op, index, false);
        break;
    case OP_CHUNK_ADD:
        break;
    case OP_CHUNK_DROP:
        w.body_dropped[op->body] = true;
        break;
    case OP_READ:
    case OP_TICK:
        break;
    }
}

void truth_applied(struct node *n, uint64_t index, struct slice entry,
                   const struct apply_outcome *out)
{
    if (w.committed[index].p == NULL || !same(w.committed[index], entry))
        fail("n%d applies at %llu what is not committed", node_idx(n), (ull)index);
    if (!chunk_there(n, entry))
        fail("n%d applies %llu and lacks its chunk", node_idx(n), (ull)index);
    if (index == w.applied_n + 1) {
        w.applied_n = index;
        w.state[index] = n->map.hash;
        first_applied(index, entry, out);
    }
    if (w.state[index] != n->map.hash)
        fail("states differ after %llu on n%d", (ull)index, node_idx(n));
}

static bool chunks_whole(struct node *n)
{
    for (size_t i = 0; i < n->map.n; i++) {
        struct sim_row *r = &n->map.rows[i];
        struct apply_chunk c;
        uint64_t index;
        bool dropped;

        if (r->key.p[0] != 'c') continue;
        if (apply_chunk_row(r->value, &c, &dropped, &index) != RC_OK) fail("a broken row");
        if (!dropped && !node_has(n, le_get32(c.seal_id.b))) return false;
    }
    return true;
}

void truth_chunks_read(struct node *n)
{
    if (!chunks_whole(n)) fail("n%d serves a state that lists a chunk it has not", node_idx(n));
}

/* ---- the end ---- */

const char *truth_settled(void)
{
    static char why[96];
    const struct group_config *c = &etcd_now()->cfg;
    struct node *p = &w.nodes[node_of(&c->primary)];

    for (uint32_t i = 0; i < w.n; i++) {
        bool wished = group_set_has(&w.wish, &w.nodes[i].disk);
        bool in = group_set_has(&c->in_sync, &w.nodes[i].disk);

        (void)snprintf(why, sizeof(why), "n%u is %s at the end", i,
                       wished ? "not in sync" : "still a member");
        if (wished != in) return why;
    }
    if (c->in_sync.n != w.wish.n) return "a disk that is gone is a member at the end";
    if (!p->alive || p->core.role != REPLICA_PRIMARY) return "nobody leads at the end";
    if (replica_may_read(&p->core, clock_of(p)) != RC_OK) return "no reads at the end";
    if (replica_may_write(&p->core) != RC_OK) return "no writes at the end";
    for (uint32_t i = 0; i < c->in_sync.n; i++) {
        struct node *n = &w.nodes[node_of(&c->in_sync.disks[i])];

        (void)snprintf(why, sizeof(why), "n%d stands at %llu, n%d at %llu", node_idx(n),
                       (ull)n->applied, node_idx(p), (ull)p->applied);
        if (n->applied != p->applied || n->map.hash != p->map.hash || n->applied < w.acked_max)
            return why;
        if (!chunks_whole(n)) return "a chunk is missing at the end";
    }
    truth_acked_held("the end");
    return NULL;
}
