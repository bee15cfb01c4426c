/* tests/sim/model_hash.c - what decides a state's future, as bytes, and their hash: times only as
 * far as anything waits for them, counters of messages only as far as they are compared. */
#include "tests/sim/model.h"

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

            for (uint32_t k = 0; k < model_slots;
                 k++) { /* in the order in which they are pushed out */
                const struct mmsg *x = NULL;
                uint32_t older = 0;

                for (uint32_t u = 0; u < model_slots; u++) {
                    older = 0;
                    for (uint32_t v = 0; v < model_slots; v++)
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

uint64_t model_hash(const struct state *s)
{
    uint64_t a = hash_as(s, names[0]), b = hash_as(s, names[1]);

    return MIN(a, b);
}
